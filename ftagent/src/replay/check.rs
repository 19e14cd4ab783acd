//! Reads TOML tables key by key and collects everything that is wrong with them, each with its
//! line and the path of its key.

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Something wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The key, for example `source[0].pps`.
    pub path: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.path, self.what)
    }
}

/// The problems found so far.
#[derive(Debug)]
pub struct Problems<'a> {
    text: &'a str,
    found: Vec<Problem>,
}

impl<'a> Problems<'a> {
    /// Finds nothing yet in `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, found: Vec::new() }
    }

    /// Adds a problem.
    pub fn add(&mut self, span: Range<usize>, path: impl Into<String>, what: impl Into<String>) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        self.found.push(Problem { line, path: path.into(), what: what.into() });
    }

    /// Returns the problems in the order of their lines.
    pub fn into_sorted(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found
    }
}

/// A table that is being read.
pub struct Fields<'t, 'i> {
    table: &'t DeTable<'i>,
    span: Range<usize>,
    path: String,
}

/// What a reader of a value says: the value, or what is wrong with it.
pub type Read<T> = Result<T, String>;

impl<'t, 'i> Fields<'t, 'i> {
    /// Begins to read a table, and reports the keys that are not in `known`.
    pub fn new(
        table: &'t DeTable<'i>,
        span: Range<usize>,
        path: &str,
        known: &[&str],
        problems: &mut Problems<'_>,
    ) -> Self {
        let fields = Self { table, span, path: path.to_owned() };
        for (key, _) in table {
            if !known.contains(&key.get_ref().as_ref()) {
                problems.add(key.span(), fields.path_of(key.get_ref()), unknown("key", key.get_ref(), known));
            }
        }
        fields
    }

    /// Returns the path of a key of this table.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Returns the value of a key, as written.
    pub fn raw(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table.get(key)
    }

    /// Returns where a key's value stands, or the table where there is none.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.raw(key).map_or(self.span.clone(), Spanned::span)
    }

    /// Reads a value that may be absent.
    pub fn optional<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&DeValue<'i>) -> Read<T>,
    ) -> Option<T> {
        let value = self.raw(key)?;
        match read(value.get_ref()) {
            Ok(value) => Some(value),
            Err(what) => {
                problems.add(value.span(), self.path_of(key), what);
                None
            }
        }
    }

    /// Reads a value that must be there.
    pub fn required<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        read: impl FnOnce(&DeValue<'i>) -> Read<T>,
    ) -> Option<T> {
        if self.raw(key).is_none() {
            problems.add(self.span.clone(), self.path_of(key), "is missing");
        }
        self.optional(key, problems, read)
    }

    /// Begins to read a table inside this one.
    pub fn table(&self, key: &str, known: &[&str], problems: &mut Problems<'_>) -> Option<Fields<'t, 'i>> {
        let value = self.raw(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            problems.add(value.span(), self.path_of(key), expected("a table", value.get_ref()));
            return None;
        };
        Some(Fields::new(table, value.span(), &self.path_of(key), known, problems))
    }
}

/// Says that a name is not known, and which one is nearest.
pub fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    match nearest {
        Some(nearest) => format!("unknown {kind}; the nearest known one is `{nearest}`"),
        None => format!("unknown {kind}"),
    }
}

/// Says that a value has the wrong type.
pub fn expected(what: &str, value: &DeValue<'_>) -> String {
    format!("expected {what}, found {}", value.type_str())
}

/// Reads a string.
pub fn string(value: &DeValue<'_>) -> Read<String> {
    match value.as_str() {
        Some("") => Err("is empty".to_owned()),
        Some(text) => Ok(text.to_owned()),
        None => Err(expected("a string", value)),
    }
}

/// Reads a boolean.
pub fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

/// Reads a whole number from 0 to 2^64 − 1.
pub fn whole(value: &DeValue<'_>) -> Read<u64> {
    let number = value.as_integer().ok_or_else(|| expected("a whole number", value))?;
    u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| "must be from 0 to 2^64 - 1".to_owned())
}

/// Reads a duration such as `"1m 30s"`, nanoseconds.
pub fn duration(value: &DeValue<'_>) -> Read<u64> {
    let text = value.as_str().ok_or_else(|| expected("a duration such as \"90s\"", value))?;
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("not a duration such as \"90s\" or \"500ms\": {error}"))?;
    u64::try_from(duration.as_nanos()).map_err(|_| "longer than 584 years".to_owned())
}

/// Reads a duration that is longer than 0, nanoseconds.
pub fn positive_duration(value: &DeValue<'_>) -> Read<u64> {
    match duration(value)? {
        0 => Err("must be longer than 0".to_owned()),
        ns => Ok(ns),
    }
}

/// Reads a rate, packets per second.
pub fn rate(value: &DeValue<'_>) -> Read<f64> {
    const MOST: f64 = 1e8;
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return Err(expected("packets per second", value)),
    };
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MOST => Ok(rate),
        _ => Err(format!("must be above 0 and at most {MOST} packets per second")),
    }
}
