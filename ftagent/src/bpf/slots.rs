//! Which interface owns which slot of the counters; kept in a pinned map, so that an interface
//! finds its counters again after a restart, and after it vanished and came back.

use std::{collections::BTreeMap, io};

use aya::{
    Ebpf,
    maps::{Array, Map},
};
use ftagent_common::abi::{SlotInfo, maps};

use super::{
    attach,
    load::{LoadError, map, open_map},
};

/// Gives every interface the slot it had, or a free one.
///
/// # Errors
/// Where the map refuses, or more interfaces were ever protected than there are slots.
pub fn assign(ebpf: &Ebpf, names: &[String]) -> Result<Vec<u32>, LoadError> {
    let mut slots: Array<_, SlotInfo> =
        Array::try_from(Map::Array(open_map(ebpf, maps::SLOTS)?)).map_err(map(maps::SLOTS))?;
    let mut known = BTreeMap::new();
    let mut free = Vec::new();
    for slot in 0..slots.len() {
        let info = slots.get(&slot, 0).map_err(map(maps::SLOTS))?;
        match slot_name(&info) {
            "" => free.push(slot),
            name => drop(known.insert(name.to_owned(), slot)),
        }
    }
    let mut free = free.into_iter();
    let mut assigned = Vec::new();
    for name in names {
        let slot = match known.get(name) {
            Some(slot) => *slot,
            None => free.next().ok_or_else(|| LoadError::Io {
                what: format!(
                    "no counter slot is free for `{name}`: `ftagent detach` frees those of former interfaces"
                ),
                source: io::ErrorKind::StorageFull.into(),
            })?,
        };
        let ifindex = attach::ifindex(name).unwrap_or(0);
        slots.set(slot, slot_info(name, ifindex), 0).map_err(map(maps::SLOTS))?;
        assigned.push(slot);
    }
    Ok(assigned)
}

/// Returns the name in a slot; empty where the slot is free.
pub fn slot_name(info: &SlotInfo) -> &str {
    let end = info.name.iter().position(|byte| *byte == 0).unwrap_or(info.name.len());
    std::str::from_utf8(&info.name[..end]).unwrap_or("")
}

fn slot_info(name: &str, ifindex: u32) -> SlotInfo {
    let mut info = SlotInfo { ifindex, ..SlotInfo::default() };
    for (to, from) in info.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    info
}
