//! The text form of matches: `udp sport 123 len 400-1500 dst 198.51.100.10/32`. A word for a
//! dimension, then its values with commas between them; dimensions in any order, each once.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    Family, Flags, FlowMatch, Fragment, Payload,
    set::{Number, Ranges},
    words::{FLAGS, FRAGMENTS, PROTOCOLS, ParseRuleError, WORDS, unknown, unknown_name, wrong},
};
use ftagent_common::rules::PATTERN_REACH;

/// Bytes of payload in one pattern at most.
const PATTERN_BYTES: usize = 32;
/// The largest DSCP: six bits.
const MOST_DSCP: u8 = 63;

impl FromStr for FlowMatch {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let text = text.to_lowercase();
        let mut matches = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        let mut words = text.split_whitespace();
        if text.trim() == "any" {
            return Ok(matches);
        }
        while let Some(word) = words.next() {
            // A protocol's name alone says what `proto` would.
            let protocol = PROTOCOLS.iter().find(|(name, _)| *name == word);
            let dimension = match word {
                _ if protocol.is_some() => "proto",
                "ip6" => "ip4",
                _ => word,
            };
            if word != "payload" && seen.contains(&dimension) {
                return Err(twice(word, dimension));
            }
            seen.push(dimension);
            match (protocol, word) {
                (Some((_, number)), _) => matches.proto = Ranges::one(*number),
                (_, "ip4") => matches.family = Some(Family::Ip4),
                (_, "ip6") => matches.family = Some(Family::Ip6),
                (_, "any") => return Err(wrong(word, "stands alone: leave it out where there is a dimension")),
                (_, "then") => return Err(wrong(word, "begins an action, and only a match is wanted here")),
                _ => matches.dimension(word, words.next())?,
            }
        }
        if seen.is_empty() {
            return Err(wrong("", "is empty: write what is matched, as in `udp sport 123`, or `any`"));
        }
        matches.checked()
    }
}

fn twice(word: &str, dimension: &str) -> ParseRuleError {
    match dimension {
        "proto" => wrong(word, "is a second protocol, and no packet has two: write `proto tcp,udp` for any of several"),
        "ip4" => wrong(word, "is a second family: leave both out where any will do"),
        "src" | "dst" => wrong(word, "stands twice: a rule has one prefix on each side, make a rule for each"),
        _ => wrong(word, "stands twice: put commas between the values of a dimension, as in `dport 53,80-90`"),
    }
}

impl FlowMatch {
    fn dimension(&mut self, word: &str, value: Option<&str>) -> Result<(), ParseRuleError> {
        if !WORDS.contains(&word) {
            return Err(unknown(word));
        }
        let Some(value) = value else {
            return Err(wrong(word, "is not followed by a value"));
        };
        if WORDS.contains(&value) {
            return Err(wrong(word, format!("is not followed by a value but by `{value}`")));
        }
        match word {
            "src" => self.src = Some(prefix(value)?),
            "dst" => self.dst = Some(prefix(value)?),
            "proto" => self.proto = numbers(value, 255, &PROTOCOLS)?,
            "port" => self.port = numbers(value, 65_535, &[])?,
            "sport" => self.sport = numbers(value, 65_535, &[])?,
            "dport" => self.dport = numbers(value, 65_535, &[])?,
            "icmp-type" => self.icmp_type = numbers(value, 255, &[])?,
            "icmp-code" => self.icmp_code = numbers(value, 255, &[])?,
            "len" => self.len = numbers(value, 65_535, &[])?,
            "dscp" => self.dscp = numbers(value, MOST_DSCP.into(), &[])?,
            "ttl" => self.ttl = numbers(value, 255, &[])?,
            "flags" => self.flags = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "payload" => self.payload.push(value.parse()?),
            _ => {
                let kind = |name: &str| {
                    let found = FRAGMENTS.iter().find(|(known, _)| *known == name);
                    let names = FRAGMENTS.iter().map(|(known, _)| *known);
                    found.map(|(_, kind)| *kind).ok_or_else(|| unknown_name(name, "kind of fragment", names))
                };
                self.frag = value.split(',').map(kind).collect::<Result<_, _>>()?;
            }
        }
        Ok(())
    }

    /// Returns it if it could be written as text: one family, no host bits, values that fields
    /// have. What is read as a table has to pass this as well.
    ///
    /// # Errors
    /// What is wrong.
    pub fn checked(self) -> Result<Self, ParseRuleError> {
        for net in [self.src, self.dst].into_iter().flatten() {
            without_host_bits(net)?;
        }
        let of = |net: IpNet| if net.addr().is_ipv4() { Family::Ip4 } else { Family::Ip6 };
        let mut families = self.family.into_iter().chain([self.src, self.dst].into_iter().flatten().map(of));
        let first = families.next();
        if families.any(|family| Some(family) != first) {
            return Err(wrong(
                &self.to_string(),
                "asks for IPv4 and IPv6, and no packet is both: make a rule for each",
            ));
        }
        if self.dscp.iter().any(|(_, last)| last > MOST_DSCP) {
            return Err(wrong(&self.dscp.to_string(), "is no DSCP: they are numbers from 0 to 63"));
        }
        Ok(self)
    }
}

// The derived forms are the inherent functions; what is read is checked.
impl Serialize for FlowMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for FlowMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)?.checked().map_err(D::Error::custom)
    }
}

fn prefix(text: &str) -> Result<IpNet, ParseRuleError> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let net = net.ok_or_else(|| {
        let several =
            if text.contains(',') { ": a rule has one prefix on each side, make a rule for each" } else { "" };
        wrong(text, format!("is no address or prefix such as 192.0.2.0/24 or 2001:db8::/32{several}"))
    })?;
    without_host_bits(net)
}

/// Host bits are a slip of the pen that would match more than was meant.
fn without_host_bits(net: IpNet) -> Result<IpNet, ParseRuleError> {
    if net.trunc() == net {
        return Ok(net);
    }
    let (whole, one) = (net.trunc(), IpNet::from(net.addr()));
    Err(wrong(&net.to_string(), format!("has host bits set: did you mean {whole} or {one}?")))
}

fn numbers<T: Number + TryFrom<u32>>(text: &str, most: u32, names: &[(&str, u8)]) -> Result<Ranges<T>, ParseRuleError> {
    let number = |word: &str| -> Result<T, ParseRuleError> {
        let named = names.iter().find(|(name, _)| *name == word).map(|(_, number)| u32::from(*number));
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let value = named.or_else(|| word.parse().ok().filter(|_| digits)).filter(|value| *value <= most);
        let value = value.and_then(|value| T::try_from(value).ok());
        value.ok_or_else(|| {
            if !names.is_empty() && word.starts_with(|first: char| first.is_ascii_alphabetic()) {
                return unknown_name(word, "protocol", names.iter().map(|(name, _)| *name));
            }
            let shown = if word.is_empty() { text } else { word };
            wrong(shown, format!("is no number from 0 to {most}; lists are written 53,123 and ranges 400-1500"))
        })
    };
    let range = |item: &str| match item.split_once('-') {
        Some((first, last)) => Ok((number(first)?, number(last)?)),
        None => number(item).map(|value| (value, value)),
    };
    let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
    Ranges::new(ranges)
        .map_err(|(first, last)| wrong(text, format!("ends before it begins: did you mean {last}-{first}?")))
}

/// Returns a protocol's name, or its number.
pub fn protocol_name(number: u8) -> String {
    protocols(&Ranges::one(number))
}

/// Writes protocols, those that have a name by their name.
fn protocols(proto: &Ranges<u8>) -> String {
    let item = |(first, last): (u8, u8)| match PROTOCOLS.iter().find(|(_, known)| *known == first) {
        Some((name, _)) if first == last => (*name).to_owned(),
        _ if first == last => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    proto.iter().map(item).collect::<Vec<_>>().join(",")
}

impl fmt::Display for FlowMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match self.family {
            Some(Family::Ip4) => parts.push("ip4".into()),
            Some(Family::Ip6) => parts.push("ip6".into()),
            None => {}
        }
        let named = |number: u8| PROTOCOLS.iter().any(|(_, known)| *known == number);
        let lone = self.proto.iter().len() == 1 && self.proto.iter().all(|(first, last)| first == last && named(first));
        match lone {
            _ if self.proto.is_any() => {}
            true => parts.push(protocols(&self.proto)),
            false => parts.push(format!("proto {}", protocols(&self.proto))),
        }
        parts.extend(self.src.map(|net| format!("src {}", net.trunc())));
        parts.extend(self.dst.map(|net| format!("dst {}", net.trunc())));
        let mut ranges = |word: &str, any: bool, text: &dyn fmt::Display| {
            if !any {
                parts.push(format!("{word} {text}"));
            }
        };
        ranges("port", self.port.is_any(), &self.port);
        ranges("sport", self.sport.is_any(), &self.sport);
        ranges("dport", self.dport.is_any(), &self.dport);
        ranges("icmp-type", self.icmp_type.is_any(), &self.icmp_type);
        ranges("icmp-code", self.icmp_code.is_any(), &self.icmp_code);
        ranges("flags", self.flags.is_empty(), &list(&self.flags));
        ranges("len", self.len.is_any(), &self.len);
        ranges("dscp", self.dscp.is_any(), &self.dscp);
        ranges("frag", self.frag.is_empty(), &list(&self.frag));
        ranges("ttl", self.ttl.is_any(), &self.ttl);
        parts.extend(self.payload.iter().map(|payload| format!("payload {payload}")));
        f.write_str(if parts.is_empty() { "any" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl FromStr for Flags {
    type Err = ParseRuleError;

    /// `syn/syn+ack`: of SYN and ACK, SYN alone is set. `syn`: it is set, whatever else is.
    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let bits = |names: &str| -> Result<u8, ParseRuleError> {
            let bit = |name: &str| {
                let found = FLAGS.iter().find(|(known, _)| *known == name);
                let known = FLAGS.iter().map(|(known, _)| *known);
                found.map(|(_, bit)| *bit).ok_or_else(|| unknown_name(name, "TCP flag", known))
            };
            match names {
                "none" => Ok(0),
                "all" => Ok(255),
                _ => names.split('+').try_fold(0, |bits, name| Ok(bits | bit(name)?)),
            }
        };
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (bits(value)?, bits(mask)?),
            None => (bits(text)?, bits(text)?),
        };
        if mask == 0 {
            return Err(wrong(text, "looks at no flag: for packets without any write `none/all`"));
        }
        if value & !mask != 0 {
            return Err(wrong(
                text,
                "sets a flag that it does not look at: flags before the slash stand behind it too",
            ));
        }
        Ok(Self { value, mask })
    }
}

impl Flags {
    /// Names the flags that are set: `syn+ack`, `none`.
    pub(super) fn names(self) -> String {
        names(self.value)
    }
}

fn names(bits: u8) -> String {
    match bits {
        0 => "none".to_owned(),
        255 => "all".to_owned(),
        _ => FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect::<Vec<_>>().join("+"),
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == self.mask {
            return f.write_str(&names(self.mask));
        }
        write!(f, "{}/{}", names(self.value), names(self.mask))
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FRAGMENTS.iter().find(|(_, known)| known == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Payload {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let no = |what| wrong(text, what);
        let (offset, digits) =
            text.split_once(':').ok_or_else(|| no("is no pattern: write OFFSET:HEX, as in 0:17000326"))?;
        let offset: u16 =
            offset.parse().map_err(|_| no("begins with no offset: write OFFSET:HEX, as in 0:17000326"))?;
        let (mut value, mut mask) = (Vec::new(), Vec::new());
        let digits: Vec<char> = digits.chars().collect();
        if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() > 2 * PATTERN_BYTES {
            return Err(no("needs two digits for each of 1 to 32 bytes; a dot stands for a digit that may be any"));
        }
        for pair in digits.chunks(2) {
            let mut byte = (0u8, 0u8);
            for digit in pair {
                let (bits, looked_at) = match digit {
                    '.' => (0, 0),
                    _ => (
                        digit
                            .to_digit(16)
                            .ok_or_else(|| no("is not hexadecimal: write OFFSET:HEX, as in 0:17000326"))?
                            as u8,
                        15,
                    ),
                };
                byte = (byte.0 << 4 | bits, byte.1 << 4 | looked_at);
            }
            value.push(byte.0);
            mask.push(byte.1);
        }
        if usize::from(offset) + value.len() > usize::from(PATTERN_REACH) {
            return Err(no("reaches behind the first 64 bytes of payload, which is all that is looked at"));
        }
        if mask.iter().all(|mask| *mask == 0) {
            return Err(no("looks at no digit: leave it out"));
        }
        Ok(Self { offset, value, mask })
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.offset)?;
        for (value, mask) in self.value.iter().zip(&self.mask) {
            for shift in [4, 0] {
                match (mask >> shift) & 15 {
                    0 => f.write_str(".")?,
                    _ => write!(f, "{:x}", (value >> shift) & 15)?,
                }
            }
        }
        Ok(())
    }
}

macro_rules! as_text {
    ($($t:ty),*) => { $(
        impl TryFrom<String> for $t {
            type Error = ParseRuleError;
            fn try_from(text: String) -> Result<Self, ParseRuleError> {
                text.parse()
            }
        }

        impl From<$t> for String {
            fn from(value: $t) -> Self {
                value.to_string()
            }
        }
    )* };
}
as_text!(Flags, Payload);
