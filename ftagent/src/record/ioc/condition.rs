//! Conditions on header fields, as text: `ip.id == (ip.dst ^ dport ^ tcp.seq) & 0xffff`.

use super::field::{FIELDS, Field, Look, OPTIONS, layout};

/// A condition: it holds where one of its comparisons does.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    any: Vec<Compare>,
    /// As it is written.
    pub text: String,
}

/// A comparison.
#[derive(Clone, Debug, PartialEq)]
struct Compare {
    left: Number,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Equal(Number),
    Unequal(Number),
    Less(Number),
    AtMost(Number),
    More(Number),
    AtLeast(Number),
    In(Vec<(u64, u64)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Number {
    Constant(u64),
    Field(Field),
    /// Bytes of payload: offset and width.
    Payload(usize, usize),
    Swap16(Box<Self>),
    Swap32(Box<Self>),
    Both(Operator, Box<Self>, Box<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Or,
    Xor,
    And,
    Left,
    Right,
    Add,
    Subtract,
}

/// What is wrong with a condition, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Offset in the text, bytes.
    pub at: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl Condition {
    /// Returns whether a packet satisfies it.
    pub fn holds(&self, look: &Look<'_>) -> bool {
        self.any.iter().any(|compare| compare.holds(look) == Some(true))
    }

    /// Reads a condition.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len(), depth: 0 };
        let mut any = vec![parser.compare()?];
        while parser.accept("or") {
            any.push(parser.compare()?);
        }
        match parser.peek() {
            None => Ok(Self { any, text: text.to_owned() }),
            Some(token) => Err(fault(
                token.at,
                format!("`{}` is not expected here", token.text),
                "conditions are `value == value`, joined by `or`; write a second one as a string of its own",
            )),
        }
    }
}

impl Compare {
    fn holds(&self, look: &Look<'_>) -> Option<bool> {
        let left = self.left.value(look)?;
        Some(match &self.test {
            Test::Equal(right) => left == right.value(look)?,
            Test::Unequal(right) => left != right.value(look)?,
            Test::Less(right) => left < right.value(look)?,
            Test::AtMost(right) => left <= right.value(look)?,
            Test::More(right) => left > right.value(look)?,
            Test::AtLeast(right) => left >= right.value(look)?,
            Test::In(ranges) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&left)),
        })
    }
}

impl Number {
    fn value(&self, look: &Look<'_>) -> Option<u64> {
        Some(match self {
            Self::Constant(value) => *value,
            Self::Field(field) => look.field(*field)?,
            Self::Payload(at, width) => look.number(*at, *width)?,
            Self::Swap16(inner) => u64::from((inner.value(look)? as u16).swap_bytes()),
            Self::Swap32(inner) => u64::from((inner.value(look)? as u32).swap_bytes()),
            Self::Both(operator, left, right) => operator.apply(left.value(look)?, right.value(look)?),
        })
    }
}

impl Operator {
    const fn apply(self, left: u64, right: u64) -> u64 {
        match self {
            Self::Or => left | right,
            Self::Xor => left ^ right,
            Self::And => left & right,
            Self::Left => left.wrapping_shl(right as u32),
            Self::Right => left.wrapping_shr(right as u32),
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
        }
    }

    /// The operator of a token, and how tightly it binds: as in Rust.
    fn of(token: &str) -> Option<(Self, u8)> {
        Some(match token {
            "|" => (Self::Or, 1),
            "^" => (Self::Xor, 2),
            "&" => (Self::And, 3),
            "<<" => (Self::Left, 4),
            ">>" => (Self::Right, 4),
            "+" => (Self::Add, 5),
            "-" => (Self::Subtract, 5),
            _ => return None,
        })
    }
}

/// Names that stand for numbers: flags of TCP.
const NAMES: [(&str, u64); 6] = [("fin", 1), ("syn", 2), ("rst", 4), ("psh", 8), ("ack", 16), ("urg", 32)];

/// Tokens in a condition, and parentheses in each other, at most.
const MOST_TOKENS: usize = 96;
const MOST_DEPTH: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    at: usize,
}

fn fault(at: usize, what: impl Into<String>, remedy: impl Into<String>) -> Fault {
    Fault { at, what: what.into(), remedy: remedy.into() }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, Fault> {
    const SIGNS: [&str; 15] = ["==", "!=", "<=", ">=", "<<", ">>", "<", ">", "&", "^", "|", "+", "-", "(", ")"];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
        let length = if rest.starts_with(char::is_whitespace) {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        } else if let Some(quoted) = rest.strip_prefix('\'') {
            match quoted.find('\'') {
                Some(end) => end + 2,
                None => return Err(fault(at, "a text that does not end", "close it with '")),
            }
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            sign.len()
        } else if rest.starts_with(',') {
            1
        } else {
            rest.find(|c| !word(c)).unwrap_or(rest.len())
        };
        if length == 0 {
            let odd = rest.chars().next().unwrap_or(' ');
            let remedy = "conditions consist of fields, numbers, == != < <= > >= in, & ^ | + - << >>, ( ) and or";
            return Err(fault(at, format!("`{odd}` has no meaning here"), remedy));
        }
        tokens.push(Token { text: rest.get(..length).unwrap_or_default(), at });
        at += length;
    }
    match tokens.get(MOST_TOKENS) {
        Some(token) => {
            Err(fault(token.at, "too long", format!("a condition has at most {MOST_TOKENS} words and signs")))
        }
        None => Ok(tokens),
    }
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.next).copied()
    }

    fn take(&mut self, wanted: &str) -> Result<Token<'a>, Fault> {
        let token = self.peek().ok_or_else(|| fault(self.end, format!("{wanted} is missing"), "write it"))?;
        self.next += 1;
        Ok(token)
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.text == text);
        self.next += usize::from(found);
        found
    }

    fn compare(&mut self) -> Result<Compare, Fault> {
        let left = self.number(0)?;
        let sign = self.take("a comparison")?;
        if left == Number::Field(Field::TcpLayout) {
            return self.layout(left, sign);
        }
        let test = match sign.text {
            "==" => Test::Equal(self.number(0)?),
            "!=" => Test::Unequal(self.number(0)?),
            "<" => Test::Less(self.number(0)?),
            "<=" => Test::AtMost(self.number(0)?),
            ">" => Test::More(self.number(0)?),
            ">=" => Test::AtLeast(self.number(0)?),
            "in" => Test::In(self.ranges()?),
            other => {
                let what = format!("`{other}` is no comparison");
                return Err(fault(sign.at, what, "write one of == != < <= > >= in"));
            }
        };
        Ok(Compare { left, test })
    }

    fn layout(&mut self, left: Number, sign: Token<'a>) -> Result<Compare, Fault> {
        let value = self.take("a text of options")?;
        let names = value.text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).ok_or_else(|| {
            fault(value.at, format!("`{}` is no text", value.text), "compare `tcp.layout` with 'mss,sackok,ts,nop,ws'")
        })?;
        let mut kinds = Vec::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
            let kind = known.or_else(|| name.parse().ok()).ok_or_else(|| {
                let all: Vec<&str> = OPTIONS.iter().map(|(name, _)| *name).collect();
                fault(
                    value.at,
                    format!("`{name}` is no option of TCP"),
                    format!("write a number, or {}", all.join(", ")),
                )
            })?;
            kinds.push(kind);
        }
        let wanted = Number::Constant(layout(kinds.into_iter()));
        let test = match sign.text {
            "==" => Test::Equal(wanted),
            "!=" => Test::Unequal(wanted),
            other => return Err(fault(sign.at, format!("`{other}` does not fit `tcp.layout`"), "write == or !=")),
        };
        Ok(Compare { left, test })
    }

    fn ranges(&mut self) -> Result<Vec<(u64, u64)>, Fault> {
        let mut ranges = Vec::new();
        loop {
            let low = self.take("a number")?;
            let first = constant(low)?;
            let last = if self.accept("-") { constant(self.take("the end of a range")?)? } else { first };
            if last < first {
                let what = format!("{first}-{last} is empty");
                return Err(fault(low.at, what, format!("write {last}-{first}")));
            }
            ranges.push((first, last));
            if !self.accept(",") {
                return Ok(ranges);
            }
        }
    }

    /// Reads what binds more tightly than `least` (precedence climbing).
    fn number(&mut self, least: u8) -> Result<Number, Fault> {
        let mut left = self.atom()?;
        while let Some((operator, binds)) = self.peek().and_then(|token| Operator::of(token.text)) {
            if binds <= least {
                break;
            }
            self.next += 1;
            let right = self.number(binds)?;
            left = Number::Both(operator, Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn atom(&mut self) -> Result<Number, Fault> {
        let token = self.take("a value")?;
        let bytes = |width| move |at: u64| Number::Payload(at as usize, width);
        match token.text {
            "(" => self.inside(token),
            "swap16" | "swap32" => {
                let open = self.take("(")?;
                if open.text != "(" {
                    return Err(fault(open.at, "( is missing", format!("write {}(value)", token.text)));
                }
                let inner = Box::new(self.inside(open)?);
                Ok(if token.text == "swap16" { Number::Swap16(inner) } else { Number::Swap32(inner) })
            }
            "u8" => self.offset(token).map(bytes(1)),
            "u16" => self.offset(token).map(bytes(2)),
            "u32" => self.offset(token).map(bytes(4)),
            "u64" => self.offset(token).map(bytes(8)),
            text if text.starts_with(|c: char| c.is_ascii_digit()) => constant(token).map(Number::Constant),
            text => named(text).ok_or_else(|| unknown(token)),
        }
    }

    fn inside(&mut self, open: Token<'a>) -> Result<Number, Fault> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(fault(open.at, "too many parentheses in each other", format!("use at most {MOST_DEPTH}")));
        }
        let number = self.number(0)?;
        let close = self.take(")")?;
        self.depth -= 1;
        if close.text != ")" {
            return Err(fault(close.at, format!("`{}` where ) was expected", close.text), "close the parenthesis"));
        }
        Ok(number)
    }

    /// Reads the offset of `u16(2)`.
    fn offset(&mut self, name: Token<'a>) -> Result<u64, Fault> {
        let remedy = || format!("write {}(offset in the payload), as {0}(2)", name.text);
        let wanting = || fault(name.at, format!("`{}` wants an offset", name.text), remedy());
        if !self.accept("(") {
            return Err(wanting());
        }
        let value = self.take("an offset")?;
        if !self.accept(")") {
            return Err(wanting());
        }
        match constant(value)? {
            at @ 0..=1500 => Ok(at),
            at => Err(fault(value.at, format!("{at} is no offset in a packet"), "write 0 to 1500")),
        }
    }
}

fn named(text: &str) -> Option<Number> {
    let constant = NAMES.iter().find(|(name, _)| *name == text).map(|(_, value)| Number::Constant(*value));
    constant.or_else(|| FIELDS.iter().find(|(name, ..)| *name == text).map(|(_, field, _)| Number::Field(*field)))
}

fn unknown(token: Token<'_>) -> Fault {
    let near = |(name, ..): &&(&str, Field, &str)| strsim::damerau_levenshtein(name, token.text);
    let remedy = match FIELDS.iter().min_by_key(near) {
        Some(best) if near(&best) <= 3 => format!("did you mean `{}`?", best.0),
        _ => "docs/INDICATORS.md lists the fields".to_owned(),
    };
    fault(token.at, format!("there is no field `{}`", token.text), remedy)
}

fn constant(token: Token<'_>) -> Result<u64, Fault> {
    let text = token.text.replace('_', "");
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.map_err(|_| fault(token.at, format!("`{}` is no number", token.text), "write it as 512 or 0x200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let cases = [
            ("", 0, "a value is missing"),
            ("tcp.seq", 7, "a comparison is missing"),
            ("tcp.sek == 1", 0, "there is no field `tcp.sek`"),
            ("tcp.seq = 1", 8, "`=` has no meaning here"),
            ("tcp.seq == 0xzz", 11, "`0xzz` is no number"),
            ("tcp.seq == (1 + 2", 17, ") is missing"),
            ("tcp.seq == 1 2", 13, "`2` is not expected here"),
            ("payload.len in 9-2", 15, "9-2 is empty"),
            ("tcp.layout == 3", 14, "`3` is no text"),
            ("tcp.layout == 'mss,sok'", 14, "`sok` is no option of TCP"),
            ("tcp.layout < 'mss'", 11, "`<` does not fit `tcp.layout`"),
            ("u16 == 2", 0, "`u16` wants an offset"),
            ("u16(9999) == 2", 4, "9999 is no offset in a packet"),
            ("((((((((( 1 ))))))))) == 1", 8, "too many parentheses in each other"),
            ("ip.id == 'x", 9, "a text that does not end"),
        ];
        for (text, at, what) in cases {
            let fault = Condition::parse(text).expect_err(text);
            assert_eq!((fault.at, fault.what.as_str()), (at, what), "{text}");
            assert!(!fault.remedy.is_empty());
        }
        let long = vec!["1"; 200].join("+") + " == 1";
        assert_eq!(Condition::parse(&long).expect_err("long").what, "too long");
    }

    #[test]
    fn operators_bind_as_in_rust() {
        let cases = [
            ("1 + 2 & 2 == 2", true),
            ("1 | 6 ^ 2 & 3 == 5", true),
            ("1 << 4 - 1 == 8", true),
            ("10 - 3 - 2 == 5", true),
            ("swap16(0x1234) == 0x3412", true),
            ("swap32(0x12345678) == 0x78563412", true),
            ("7 in 1-3,7", true),
            ("4 in 1-3,7", false),
            ("1 == 2 or 3 == 3", true),
            ("tcp.seq == 0 or 1 == 1", true),
            ("tcp.seq != 0", false),
        ];
        let packet = crate::decide::Packet::decode(0, &[0; 60], 60, None, false);
        for (text, wanted) in cases {
            let condition = Condition::parse(text).unwrap();
            assert_eq!(condition.holds(&Look::of(&packet, &[0; 60])), wanted, "{text}");
        }
    }
}
