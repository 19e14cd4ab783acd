//! What `nft -j list` says of the table.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::words::LISTS;

/// Counters by name: packets and bytes.
pub(super) fn counters(listing: &[Value]) -> BTreeMap<String, (u64, u64)> {
    let counter = |object: &Value| {
        let counter = object.get("counter")?;
        let number = |key: &str| counter.get(key).and_then(Value::as_u64);
        Some((counter.get("name")?.as_str()?.to_owned(), (number("packets")?, number("bytes")?)))
    };
    listing.iter().filter_map(counter).collect()
}

/// The table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Everything that changes only where somebody changes it.
    pub shape: Vec<Value>,
    /// Rules that have an entry, by id.
    pub entries: BTreeSet<u32>,
    /// Rules whose lease holds; nothing in a listing without what sets hold.
    pub leased: BTreeSet<u32>,
    /// How many elements each list has; likewise.
    pub listed: BTreeMap<String, usize>,
}

/// Reads the listing of the table.
pub(super) fn found(listing: Vec<Value>) -> Found {
    let mut found = Found::default();
    for mut object in listing {
        let Some((kind, body)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else { continue };
        let (kind, Some(body)) = (kind.clone(), body.as_object_mut()) else { continue };
        if kind == "metainfo" {
            continue;
        }
        // Numbers that are given anew, and what counts or ends by itself.
        ["handle", "packets", "bytes"].into_iter().for_each(|key| drop(body.remove(key)));
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "set" {
            let elements = body.remove("elem").as_ref().and_then(Value::as_array).map_or(0, Vec::len);
            if let Some(id) = name.strip_prefix("lease").and_then(|id| id.parse::<u32>().ok()) {
                found.leased.extend((elements > 0).then_some(id));
            } else if LISTS.iter().any(|(list, ..)| *list == name) {
                found.listed.insert(name, elements);
            }
        } else if kind == "rule" {
            let comment = body.get("comment").and_then(Value::as_str);
            found.entries.extend(comment.and_then(|text| text.split_once(':')?.0.parse::<u32>().ok()));
        }
        found.shape.push(object);
    }
    found
}
