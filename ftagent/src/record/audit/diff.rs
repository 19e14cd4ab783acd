//! What differs between two configurations, by key, without what is secret.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::line::{Hex, hex};
use crate::record::replace;

/// Parts of the names of keys whose values are secrets.
const SECRET: [&str; 6] = ["secret", "token", "password", "passwd", "credential", "key"];
/// What stands for a secret.
const MASK: &str = "***";

/// Values by their keys' paths.
pub type Flat = BTreeMap<String, Value>;

/// Returns every value by its path; lists of plain values are one value each.
pub fn flat(value: &Value) -> Flat {
    let mut found = Flat::new();
    let mut pending = vec![(String::new(), value.clone())];
    while let Some((path, value)) = pending.pop() {
        match value {
            Value::Object(object) => {
                let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
                pending.extend(object.into_iter().map(|(key, value)| (below(&key), value)));
            }
            Value::Array(array) if array.iter().any(Value::is_object) => {
                pending.extend(array.into_iter().enumerate().map(|(at, value)| (format!("{path}[{at}]"), value)));
            }
            value => drop(found.insert(path, value)),
        }
    }
    found
}

/// What changed: how it was and how it is, by path, secrets masked. Both are empty where nothing did.
pub fn changes(before: &Flat, after: &Flat) -> (Map<String, Value>, Map<String, Value>) {
    let differs = |(path, value): &(&String, &Value), other: &Flat| other.get(*path) != Some(value);
    let masked = |(path, value): (&String, &Value)| (path.clone(), mask(path, value));
    let old = before.iter().filter(|pair| differs(pair, after)).map(masked).collect();
    let new = after.iter().filter(|pair| differs(pair, before)).map(masked).collect();
    (old, new)
}

/// Returns a tree of values without what is secret.
pub fn masked(value: &Value) -> Value {
    fn below(path: &str, value: &Value) -> Value {
        match value {
            Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), below(key, value))).collect(),
            Value::Array(values) if values.iter().any(Value::is_object) => {
                values.iter().map(|value| below(path, value)).collect()
            }
            value => mask(path, value),
        }
    }
    below("", value)
}

/// Returns a value as it may be shown.
fn mask(path: &str, value: &Value) -> Value {
    let name = path.rsplit('.').next().unwrap_or(path).to_lowercase();
    let empty = value.as_str().is_some_and(str::is_empty);
    if SECRET.iter().any(|part| name.contains(part)) && !empty && !value.is_boolean() {
        return Value::String(MASK.to_owned());
    }
    match value {
        Value::String(text) => Value::String(without_userinfo(text)),
        Value::Array(values) => Value::Array(values.iter().map(|value| mask(path, value)).collect()),
        other => other.clone(),
    }
}

/// Masks name and password in a URL (RFC 3986, 3.2.1).
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{MASK}@{host}{path}"),
        None => text.to_owned(),
    }
}

/// The configuration of the daemon's last life, as far as one has to know in order to tell what changed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    salt: String,
    values: Flat,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("config.json")
}

impl Remembered {
    /// Reads it; `None` where there is none that can be used.
    pub fn load(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path(dir)).ok()?).ok()
    }

    /// Writes a configuration down; of secrets only a salted hash.
    ///
    /// # Errors
    /// What the file system says, and where there is no randomness.
    pub fn save(dir: &Path, values: &Flat) -> io::Result<()> {
        super::segments::make_dir(dir).map_err(io::Error::other)?;
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let salt = hex(&salt);
        let remembered = Self { values: hidden(values, &salt), salt };
        replace(&path(dir), &serde_json::to_vec(&remembered)?)
    }

    /// As [`changes`], since it was written down.
    pub fn changes(&self, now: &Flat) -> (Map<String, Value>, Map<String, Value>) {
        let hidden = hidden(now, &self.salt);
        let differs = |path: &String| self.values.get(path) != hidden.get(path);
        let masked = |path: &String, value: &Value| (path.clone(), mask(path, value));
        let of = |values: &Flat| values.iter().filter(|(path, _)| differs(path)).map(|(p, v)| masked(p, v)).collect();
        (of(&self.values), of(now))
    }
}

/// Replaces what may not be shown by a hash of it.
fn hidden(values: &Flat, salt: &str) -> Flat {
    let hide = |(path, value): (&String, &Value)| {
        let shown = mask(path, value);
        let hidden = if shown == *value {
            shown
        } else {
            let hash = Hex::of(&[salt.as_bytes(), value.to_string().as_bytes()]);
            // A URL stays one, so that it is masked as one when it is shown.
            Value::String(shown.as_str().unwrap_or(MASK).replace(MASK, hash.as_str()))
        };
        (path.clone(), hidden)
    };
    values.iter().map(hide).collect()
}
