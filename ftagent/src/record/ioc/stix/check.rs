//! Whether a bundle is one: what the standard demands of the objects that we write, checked without any help.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use uuid::Uuid;

/// What an object of a type must have beside type, identifier and version.
const REQUIRED: [(&str, &[&str]); 12] = [
    ("identity", &["name"]),
    ("attack-pattern", &["name"]),
    ("indicator", &["pattern", "pattern_type", "valid_from"]),
    ("infrastructure", &["name"]),
    ("malware", &["is_family"]),
    ("tool", &["name"]),
    ("observed-data", &["first_observed", "last_observed", "number_observed", "object_refs"]),
    ("relationship", &["relationship_type", "source_ref", "target_ref"]),
    ("ipv4-addr", &["value"]),
    ("ipv6-addr", &["value"]),
    ("network-traffic", &["protocols"]),
    ("bundle", &["objects"]),
];

/// Types of cyber observables: they have no times.
const OBSERVABLES: [&str; 3] = ["ipv4-addr", "ipv6-addr", "network-traffic"];

/// Properties that are times.
const TIMES: [&str; 8] =
    ["created", "modified", "valid_from", "valid_until", "first_observed", "last_observed", "first_seen", "last_seen"];

/// Pairs of times of which the first may not be after the second; where the third is true, not equal either.
const ORDERED: [(&str, &str, bool); 4] = [
    ("created", "modified", false),
    ("valid_from", "valid_until", true),
    ("first_observed", "last_observed", false),
    ("first_seen", "last_seen", false),
];

/// Returns what is wrong with a bundle: nothing, if it is right.
pub fn problems(bundle: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if bundle.get("type").and_then(Value::as_str) != Some("bundle") {
        found.push("it is no bundle".to_owned());
    }
    identifier(bundle, &mut found);
    let objects = bundle.get("objects").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if objects.is_empty() {
        found.push("the bundle is empty".to_owned());
    }
    let mut ids = BTreeMap::new();
    for object in objects {
        let id = identifier(object, &mut found);
        if ids.insert(id.clone(), object).is_some() {
            found.push(format!("{id} stands twice"));
        }
    }
    let known: BTreeSet<&str> = ids.keys().map(String::as_str).collect();
    for (id, object) in &ids {
        one(id, object, &known, &mut found);
    }
    found
}

/// Checks the identifier and returns it.
fn identifier(object: &Value, found: &mut Vec<String>) -> String {
    let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
    let id = object.get("id").and_then(Value::as_str).unwrap_or_default();
    let uuid =
        id.strip_prefix(kind).and_then(|rest| rest.strip_prefix("--")).and_then(|rest| Uuid::parse_str(rest).ok());
    if uuid.is_none_or(|uuid| uuid.get_version_num() != 5) {
        found.push(format!("`{id}` is no identifier of a {kind}"));
    }
    id.to_owned()
}

fn one(id: &str, object: &Value, known: &BTreeSet<&str>, found: &mut Vec<String>) {
    let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut say = |what: String| found.push(format!("{id}: {what}"));
    match REQUIRED.iter().find(|(name, _)| *name == kind) {
        None => say(format!("the type {kind} is not known")),
        Some((_, needed)) => {
            let dated: &[&str] = if OBSERVABLES.contains(&kind) { &[] } else { &["created", "modified"] };
            for key in needed.iter().chain(dated).chain(&["spec_version"]) {
                if object.get(key).is_none_or(|value| value.is_null() || value.as_str() == Some("")) {
                    say(format!("`{key}` is missing"));
                }
            }
        }
    }
    if object.get("spec_version").and_then(Value::as_str) != Some("2.1") {
        say("the version is not 2.1".to_owned());
    }
    for key in TIMES {
        if object.get(key).is_some_and(|time| !time.as_str().is_some_and(is_time)) {
            say(format!("`{key}` is no time"));
        }
    }
    for (first, second, strictly) in ORDERED {
        let text = |key| object.get(key).and_then(Value::as_str);
        // All are written alike, so that texts are in order as their times are.
        if let (Some(a), Some(b)) = (text(first), text(second))
            && (a > b || strictly && a == b)
        {
            say(format!("`{first}` is not before `{second}`"));
        }
    }
    for reference in references(object) {
        if !known.contains(reference) {
            say(format!("refers to {reference}, which is not there"));
        }
    }
    let number = |key: &str| object.get(key).map(|value| value.as_u64().unwrap_or(u64::MAX));
    if number("confidence").is_some_and(|confidence| confidence > 100) {
        say("`confidence` is no number from 0 to 100".to_owned());
    }
    if number("number_observed").is_some_and(|count| !(1..=999_999_999).contains(&count)) {
        say("`number_observed` is out of range".to_owned());
    }
    let pattern = object.get("pattern").and_then(Value::as_str);
    if pattern.is_some_and(|pattern| {
        !pattern.starts_with('[') || !pattern.ends_with(']') || pattern.matches('\'').count() % 2 != 0
    }) {
        say("`pattern` is no STIX pattern".to_owned());
    }
    if kind == "network-traffic" && object.get("src_ref").or(object.get("dst_ref")).is_none() {
        say("traffic with neither end".to_owned());
    }
}

/// RFC 3339 in UTC with milliseconds: the one form that we write.
fn is_time(text: &str) -> bool {
    let shape = |(at, c): (usize, char)| match at {
        4 | 7 => c == '-',
        10 => c == 'T',
        13 | 16 => c == ':',
        19 => c == '.',
        23 => c == 'Z',
        _ => c.is_ascii_digit(),
    };
    text.len() == 24 && text.char_indices().all(shape)
}

/// Every identifier that an object refers to.
fn references(object: &Value) -> Vec<&str> {
    let Some(map) = object.as_object() else { return Vec::new() };
    let mut all = Vec::new();
    for (key, value) in map {
        if key.ends_with("_ref") {
            all.extend(value.as_str());
        } else if key.ends_with("_refs") {
            all.extend(value.as_array().into_iter().flatten().filter_map(Value::as_str));
        }
    }
    all
}
