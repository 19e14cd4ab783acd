//! From text to [`Raw`], with the place of every problem.

use std::ops::Range;

use serde::Deserialize as _;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Deserializer},
};

use super::{Problem, raw::Raw, reference};

/// Reads the text; `None` where it is no TOML. Keys that are not known or not of the right type
/// are reported and left at their defaults.
pub(super) fn raw(text: &str, problems: &mut Vec<Problem>) -> Option<Raw> {
    let (mut table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        problems.extend(errors.iter().map(|error| syntax(text, error)));
        return None;
    }
    unknown(table.get_mut(), "", text, problems);
    // One wrong value ends a pass: take it out and go on without it.
    loop {
        let error = match Raw::deserialize(Deserializer::from(table.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        let evicted = error.span().and_then(|span| evict(table.get_mut(), &span, ""));
        let Some(path) = evicted else {
            problems.push(syntax(text, &error));
            return None;
        };
        problems.push(wrong_type(path, text, &error));
    }
}

/// Finds `paths.socket`, whatever else is in the text; `None` where it is not written.
pub(super) fn socket(text: &str) -> Option<String> {
    let (table, _) = DeTable::parse_recoverable(text);
    let DeValue::Table(paths) = table.get_ref().get("paths")?.get_ref() else { return None };
    let DeValue::String(socket) = paths.get("socket")?.get_ref() else { return None };
    Some(socket.to_string())
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let what = error.message().replace('\n', ", ");
    let line = error.span().map(|span| line(text, span.start));
    Problem { line, ..Problem::new("", what, "see https://toml.io for how TOML is written") }
}

fn wrong_type(path: String, text: &str, error: &toml::de::Error) -> Problem {
    let remedy = match reference::key(&path) {
        Some(key) => format!("write {}, as {} = {}", key.kind, key.name(), key.example()),
        None => format!("`{path}` is a section: write [{path}] and its keys below"),
    };
    let line = error.span().map(|span| line(text, span.start));
    Problem { line, ..Problem::new(path, error.message().replace('\n', ", "), remedy) }
}

/// Reports the keys that no version of the reference knows, and takes them out.
fn unknown(table: &mut DeTable<'_>, prefix: &str, text: &str, problems: &mut Vec<Problem>) {
    let mut found = Vec::new();
    for (key, value) in table.iter_mut() {
        let path = join(prefix, key.get_ref());
        if !reference::knows(&path) {
            let line = Some(line(text, key.span().start));
            let what = "is not a key of this version";
            problems.push(Problem { line, ..Problem::new(path.as_str(), what, nearest(&path)) });
            found.push(key.clone());
            continue;
        }
        match value.get_mut() {
            DeValue::Table(table) => unknown(table, &path, text, problems),
            DeValue::Array(array) => {
                for (i, item) in array.iter_mut().enumerate() {
                    if let DeValue::Table(table) = item.get_mut() {
                        unknown(table, &format!("{path}[{i}]"), text, problems);
                    }
                }
            }
            _ => {}
        }
    }
    found.iter().for_each(|key| drop(table.remove(key)));
}

/// Names the known key that was probably meant.
fn nearest(path: &str) -> String {
    let plain = reference::plain(path);
    let (section, name) = plain.rsplit_once('.').unwrap_or(("", &plain));
    let mut candidates: Vec<(f64, &str)> = Vec::new();
    for known in reference::paths() {
        let (home, leaf) = known.rsplit_once('.').unwrap_or(("", known));
        let near = strsim::normalized_damerau_levenshtein(leaf, name);
        let whole = strsim::normalized_damerau_levenshtein(known, &plain);
        // A neighbour in the same section is a likelier slip than the same word elsewhere.
        let score = if home == section { near + 0.1 } else { near.min(0.99).max(whole) };
        candidates.push((score, known));
    }
    let best = candidates.into_iter().max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, known)) if score >= 0.55 => format!("did you mean `{known}`?"),
        _ => "remove it; `ftagent config default` prints every key".to_owned(),
    }
}

/// Takes the value at `span` out of the table and returns its path. An element takes its whole
/// array with it.
fn evict(table: &mut DeTable<'_>, span: &Range<usize>, prefix: &str) -> Option<String> {
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let path = join(prefix, key.get_ref());
        let inside = within(&value.span(), span);
        match value.get_mut() {
            DeValue::Table(table) => match evict(table, span, &path) {
                Some(path) => return Some(path),
                None if inside => found = Some((key.clone(), path)),
                None => {}
            },
            DeValue::Array(array) => {
                for (i, item) in array.iter_mut().enumerate() {
                    let path = format!("{path}[{i}]");
                    let here = within(&item.span(), span);
                    if let DeValue::Table(table) = item.get_mut()
                        && let Some(path) = evict(table, span, &path)
                    {
                        return Some(path);
                    }
                    if here {
                        found = Some((key.clone(), path));
                    }
                }
                if inside && found.is_none() {
                    found = Some((key.clone(), path));
                }
            }
            _ if inside => found = Some((key.clone(), path)),
            _ => {}
        }
    }
    let (key, path) = found?;
    table.remove(&key);
    Some(path)
}

fn within(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// Adds the line to every problem whose key is written, and sorts them by line.
pub(super) fn locate(text: &str, problems: &mut [Problem]) {
    let (table, _) = DeTable::parse_recoverable(text);
    for problem in problems.iter_mut().filter(|problem| problem.line.is_none()) {
        problem.line = find(&table, &problem.path).map(|start| line(text, start));
    }
    problems.sort_by_key(|problem| problem.line);
}

/// Returns where the deepest part of the path that is written starts.
fn find(table: &Spanned<DeTable<'_>>, path: &str) -> Option<usize> {
    let mut table = table.get_ref();
    let mut start = None;
    for part in path.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, mut value)) = table.get_key_value(name) else { break };
        start = Some(key.span().start);
        if let Some(item) = index.and_then(|i| value.get_ref().as_array()?.get(i)) {
            value = item;
            start = Some(item.span().start);
        }
        match value.get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    start
}

/// Returns the line, from 1, of a byte of the text.
fn line(text: &str, start: usize) -> usize {
    1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count()
}
