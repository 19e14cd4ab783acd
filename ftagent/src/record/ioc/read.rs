//! From TOML to patterns. One reading finds every problem, each with line, column and remedy.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    condition::Condition,
    pattern::{Kind, Needle, Origin, Pattern},
};
use crate::rule::FlowMatch;

/// Bytes of a file at most.
pub const MOST_BYTES: u64 = 1 << 20;
/// Conditions and needles of a pattern at most, each.
const MOST_PARTS: usize = 16;
/// Bytes of a needle at most: samples have no more.
const MOST_NEEDLE: usize = 128;
/// Bytes of a text such as `about` at most.
const MOST_TEXT: usize = 500;
/// How far into the payload a needle may begin.
const MOST_OFFSET: i64 = 1500;

/// A problem in a file of patterns.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, what, remedy } = self;
        write!(f, "{file}:{line}:{column}: {what}; {remedy}")
    }
}

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct PatternFile {
    /// Its patterns.
    pub patterns: Vec<Pattern>,
    /// Names of patterns that are not wanted, each with its place.
    pub disabled: Vec<(String, usize)>,
}

/// Reads a file of patterns.
///
/// # Errors
/// Every problem, in the order of the file.
pub fn read(text: &str, file: &str, origin: &Origin) -> Result<PatternFile, Vec<Problem>> {
    let mut reader = Reader { text, file, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.problem(at, error.message().replace('\n', ", "), "see https://toml.io for how TOML is written");
    }
    let mut found = PatternFile::default();
    if errors.is_empty() {
        for (key, value) in table.get_ref() {
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("pattern", DeValue::Array(all)) => {
                    found.patterns.extend(all.iter().filter_map(|item| reader.pattern(item, origin)));
                }
                ("pattern", _) => reader.problem(key.span().start, "`pattern` is no table", "write [[pattern]]"),
                ("disable", DeValue::Array(all)) => {
                    found.disabled.extend(all.iter().filter_map(|item| reader.name_of_disabled(item)));
                }
                ("disable", _) => {
                    reader.problem(key.span().start, "`disable` is no list", "write disable = [\"name\"]")
                }
                (other, _) => {
                    let remedy = "a file has [[pattern]] tables and `disable`";
                    reader.problem(key.span().start, format!("`{other}` is not known here"), remedy);
                }
            }
        }
    }
    reader.problems.sort_by_key(|problem| (problem.line, problem.column));
    if reader.problems.is_empty() { Ok(found) } else { Err(reader.problems) }
}

/// Returns line and column, from 1, of a byte of a text.
pub fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (1 + before.matches('\n').count(), 1 + before.get(line_start..).unwrap_or_default().chars().count())
}

/// The keys of a pattern.
const KEYS: [&str; 9] = ["name", "kind", "tool", "about", "source", "confidence", "match", "where", "payload"];
/// The keys of a needle.
const NEEDLE_KEYS: [&str; 6] = ["at", "within", "hex", "text", "mask", "nocase"];

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    problems: Vec<Problem>,
}

type Item<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn problem(&mut self, at: usize, what: impl Into<String>, remedy: impl Into<String>) {
        let (line, column) = place(self.text, at);
        let (what, remedy) = (what.into(), remedy.into());
        self.problems.push(Problem { file: self.file.to_owned(), line, column, what, remedy });
    }

    /// Where a byte of a string's value stands in the file: exact where nothing in it is escaped.
    fn inside(&self, span: &Range<usize>, value: &str, at: usize) -> usize {
        let raw = self.text.get(span.clone()).unwrap_or_default();
        raw.find(value).filter(|_| !value.is_empty()).map_or(span.start, |quote| span.start + quote + at)
    }

    fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str]) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let near = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let remedy = match near {
                Some(near) if strsim::damerau_levenshtein(near, name) <= 3 => format!("did you mean `{near}`?"),
                _ => format!("the keys are {}", known.join(", ")),
            };
            self.problem(key.span().start, format!("there is no key `{name}`"), remedy);
        }
    }

    fn string<'t>(&mut self, table: &'t DeTable<'_>, key: &str) -> Option<(&'t str, Range<usize>)> {
        let value = table.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some((text.as_ref(), value.span())),
            _ => {
                self.problem(value.span().start, format!("`{key}` is no string"), format!("write {key} = \"...\""));
                None
            }
        }
    }

    fn words(&mut self, table: &DeTable<'_>, key: &str, needed: bool, at: usize) -> Option<String> {
        let Some((text, span)) = self.string(table, key) else {
            if needed && !table.contains_key(key) {
                self.problem(at, format!("the pattern has no `{key}`"), format!("write {key} = \"...\""));
            }
            return (!needed).then(String::new);
        };
        let odd = text.chars().any(char::is_control) || text.len() > MOST_TEXT || needed && text.trim().is_empty();
        if odd {
            self.problem(
                span.start,
                format!("`{key}` is empty, too long or has control characters"),
                format!("write one line of 1 to {MOST_TEXT} bytes"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    fn name(&mut self, text: &str, at: usize) -> Option<String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
            self.problem(at, format!("`{text}` is no name"), "use 1 to 64 of the characters a-z, 0-9 and _");
            return None;
        }
        Some(text.to_owned())
    }

    fn name_of_disabled(&mut self, item: &Item<'_>) -> Option<(String, usize)> {
        let at = item.span().start;
        match item.get_ref() {
            DeValue::String(text) => self.name(text, at).map(|name| (name, at)),
            _ => {
                self.problem(at, "this is no name", "write names in quotes: disable = [\"name\"]");
                None
            }
        }
    }

    /// Every part is read, so that every problem in it is found.
    fn pattern(&mut self, item: &Item<'_>, origin: &Origin) -> Option<Pattern> {
        let at = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            self.problem(at, "this is no table", "write [[pattern]]");
            return None;
        };
        self.unknown_keys(table, &KEYS);
        let name = self.words(table, "name", true, at).and_then(|name| {
            let at = table.get("name").map_or(at, |value| value.span().start);
            self.name(&name, at)
        });
        let kind = self.kind(table, at);
        let tool = self.words(table, "tool", false, at);
        let about = self.words(table, "about", true, at);
        let source = self.words(table, "source", true, at);
        let confidence = self.confidence(table, at);
        let matches = self.matches(table);
        let conditions = self.conditions(table);
        let payload = self.needles(table);
        let says_nothing = ["match", "where", "payload"].iter().all(|key| !table.contains_key(*key));
        if says_nothing {
            self.problem(at, "the pattern matches every packet", "write at least one of match, where and payload");
            return None;
        }
        Some(Pattern {
            name: name?,
            kind: kind?,
            tool: tool?,
            about: about?,
            source: source?,
            confidence: confidence?,
            matches: matches?,
            conditions: conditions?,
            payload: payload?,
            origin: origin.clone(),
        })
    }

    fn kind(&mut self, table: &DeTable<'_>, at: usize) -> Option<Kind> {
        let text = self.words(table, "kind", true, at)?;
        let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        if found.is_none() {
            let at = table.get("kind").map_or(at, |value| value.span().start);
            let remedy = format!("write one of {}", Kind::ALL.map(Kind::as_str).join(", "));
            self.problem(at, format!("there is no kind `{text}`"), remedy);
        }
        found
    }

    fn confidence(&mut self, table: &DeTable<'_>, at: usize) -> Option<f64> {
        let remedy = "write a number from 0 to 1, as confidence = 0.9";
        let Some(value) = table.get("confidence") else {
            self.problem(at, "the pattern has no `confidence`", remedy);
            return None;
        };
        let number: Option<f64> = match value.get_ref() {
            DeValue::Float(text) => text.as_str().parse().ok(),
            DeValue::Integer(text) => text.as_str().parse().ok(),
            _ => None,
        };
        let found = number.filter(|number| (0.0..=1.0).contains(number));
        if found.is_none() {
            self.problem(value.span().start, "`confidence` is no number from 0 to 1", remedy);
        }
        found
    }

    fn matches(&mut self, table: &DeTable<'_>) -> Option<Option<FlowMatch>> {
        if !table.contains_key("match") {
            return Some(None);
        }
        let (text, span) = self.string(table, "match")?;
        match text.parse() {
            Ok(matches) => Some(Some(matches)),
            Err(error) => {
                let error: crate::rule::ParseRuleError = error;
                // The word that is wrong, where it is a word of the text.
                let word = error.at.as_str();
                let inner = text.find(word).filter(|_| !word.is_empty()).unwrap_or(0);
                let at = self.inside(&span, text, inner);
                self.problem(at, error.to_string(), "write it as in `ftagent rules add`: \"udp dport 27015 len 53\"");
                None
            }
        }
    }

    fn list<'t>(&mut self, table: &'t DeTable<'_>, key: &str) -> Option<&'t [Item<'t>]> {
        let Some(value) = table.get(key) else { return Some(&[]) };
        match value.get_ref() {
            DeValue::Array(items) if items.len() <= MOST_PARTS => Some(items),
            DeValue::Array(_) => {
                self.problem(value.span().start, format!("`{key}` is too long"), format!("at most {MOST_PARTS} parts"));
                None
            }
            _ => {
                self.problem(value.span().start, format!("`{key}` is no list"), format!("write {key} = [ ... ]"));
                None
            }
        }
    }

    fn conditions(&mut self, table: &DeTable<'_>) -> Option<Vec<Condition>> {
        let items = self.list(table, "where")?;
        let all: Vec<Option<Condition>> = items.iter().map(|item| self.condition(item)).collect();
        all.into_iter().collect()
    }

    fn condition(&mut self, item: &Item<'_>) -> Option<Condition> {
        let DeValue::String(text) = item.get_ref() else {
            self.problem(item.span().start, "this is no condition", "write \"tcp.seq == ip.dst\", in quotes");
            return None;
        };
        match Condition::parse(text) {
            Ok(condition) => Some(condition),
            Err(fault) => {
                let at = self.inside(&item.span(), text, fault.at);
                self.problem(at, fault.what, fault.remedy);
                None
            }
        }
    }

    fn needles(&mut self, table: &DeTable<'_>) -> Option<Vec<Needle>> {
        let items = self.list(table, "payload")?;
        let all: Vec<Option<Needle>> = items.iter().map(|item| self.needle(item)).collect();
        all.into_iter().collect()
    }

    fn needle(&mut self, item: &Item<'_>) -> Option<Needle> {
        let at = item.span().start;
        let DeValue::Table(table) = item.get_ref() else {
            self.problem(at, "this is no table", "write { at = 0, hex = \"ff ff\" } or { text = \"...\" }");
            return None;
        };
        self.unknown_keys(table, &NEEDLE_KEYS);
        let nocase = match table.get("nocase").map(|value| (value.get_ref(), value.span())) {
            None => Some(false),
            Some((DeValue::Boolean(nocase), _)) => Some(*nocase),
            Some((_, span)) => {
                self.problem(span.start, "`nocase` is neither true nor false", "write nocase = true");
                None
            }
        };
        let (offsets, bytes, mask) = (self.offsets(table), self.bytes(table, at), self.mask(table));
        let ((from, to), mut bytes, mask, nocase) = (offsets?, bytes?, mask?, nocase?);
        if let Some(mask) = &mask {
            if mask.len() != bytes.len() || from != to || nocase {
                let remedy = "a mask is as long as the bytes, which stand `at` one place, and knows no `nocase`";
                self.problem(at, "the mask does not fit", remedy);
                return None;
            }
            bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        }
        Some(Needle { bytes, mask, nocase, from, to })
    }

    fn offsets(&mut self, table: &DeTable<'_>) -> Option<(usize, usize)> {
        match (table.get("at"), table.get("within")) {
            (None, None) => Some((0, usize::MAX)),
            (Some(at), None) => {
                let number: Option<i64> = match at.get_ref() {
                    DeValue::Integer(text) => i64::from_str_radix(text.as_str(), text.radix()).ok(),
                    _ => None,
                };
                let found = number.filter(|at| (0..=MOST_OFFSET).contains(at)).map(|at| at as usize);
                if found.is_none() {
                    let remedy = format!("write a number from 0 to {MOST_OFFSET}");
                    self.problem(at.span().start, "`at` is no offset", remedy);
                }
                found.map(|at| (at, at))
            }
            (None, Some(_)) => {
                let (text, span) = self.string(table, "within")?;
                let range = text
                    .split_once('-')
                    .and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse().ok()?)));
                let found = range.filter(|(from, to)| from <= to && *to <= MOST_OFFSET as usize);
                if found.is_none() {
                    self.problem(span.start, format!("`{text}` is no range of offsets"), "write it as \"4-40\"");
                }
                found
            }
            (Some(at), Some(_)) => {
                self.problem(at.span().start, "`at` and `within` exclude each other", "remove one of them");
                None
            }
        }
    }

    fn bytes(&mut self, table: &DeTable<'_>, at: usize) -> Option<Vec<u8>> {
        let bytes = match (table.contains_key("hex"), table.contains_key("text")) {
            (true, false) => self.hex(table, "hex")?,
            (false, true) => self.string(table, "text")?.0.as_bytes().to_vec(),
            _ => {
                self.problem(at, "there is not one of `hex` and `text`", "write one of them");
                return None;
            }
        };
        if bytes.is_empty() || bytes.len() > MOST_NEEDLE {
            self.problem(at, format!("{} bytes to look for", bytes.len()), format!("write 1 to {MOST_NEEDLE}"));
            return None;
        }
        Some(bytes)
    }

    fn mask(&mut self, table: &DeTable<'_>) -> Option<Option<Vec<u8>>> {
        if table.contains_key("mask") { self.hex(table, "mask").map(Some) } else { Some(None) }
    }

    fn hex(&mut self, table: &DeTable<'_>, key: &str) -> Option<Vec<u8>> {
        let (text, span) = self.string(table, key)?;
        match parse_hex(text) {
            Ok(bytes) => Some(bytes),
            Err(odd) => {
                let at = self.inside(&span, text, odd);
                self.problem(at, format!("`{key}` is not hexadecimal here"), "write pairs of digits, as \"ff 0a 1b\"");
                None
            }
        }
    }
}

/// Reads pairs of hexadecimal digits with any blanks between them.
///
/// # Errors
/// Where it is something else: the offset.
fn parse_hex(text: &str) -> Result<Vec<u8>, usize> {
    let mut bytes = Vec::new();
    let mut high: Option<(usize, u8)> = None;
    for (at, c) in text.char_indices() {
        match (c.to_digit(16), high) {
            (None, None) if c.is_whitespace() => {}
            (None, _) => return Err(at),
            (Some(digit), None) => high = Some((at, digit as u8)),
            (Some(digit), Some((_, first))) => {
                bytes.push(first << 4 | digit as u8);
                high = None;
            }
        }
    }
    match high {
        Some((at, _)) => Err(at),
        None => Ok(bytes),
    }
}
