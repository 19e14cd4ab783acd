//! Counters that older versions left: a map of another layout stays pinned, and what it reached
//! is added to this version's counters, so that totals never go back.

use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};
use ftagent_common::{
    abi::{ABI_VERSION, Layout, SlotInfo, maps},
    class::CLASS_SLOTS,
    counters::IfaceCounters,
    reason::REASON_SLOTS,
};

use super::{load::LoadError, pins::Pins, slots::slot_name};
use crate::sys;

/// Name of the pin that holds the layout.
pub const LAYOUT: &str = "layout";

/// The layout of this version.
pub const OWN: Layout = Layout {
    abi: ABI_VERSION,
    class_slots: CLASS_SLOTS as u32,
    reason_slots: REASON_SLOTS as u32,
    header_bytes: std::mem::offset_of!(IfaceCounters, classes) as u32,
};

/// Decodes a value of another layout into today's. Numbers of classes and reasons are stable, so
/// a smaller table is the beginning of a larger one; `None` where the length is not that layout's
/// or its header is not today's.
pub fn decode(layout: Layout, value: &[u8]) -> Option<IfaceCounters> {
    let Layout { abi: _, class_slots, reason_slots, header_bytes } = layout;
    let (classes, reasons, header) = (class_slots as usize, reason_slots as usize, header_bytes as usize / 8);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    let words: Vec<u64> = value.chunks_exact(8).map(word).collect();
    if header_bytes != OWN.header_bytes || reasons == 0 || words.len() != header + classes * (4 + reasons) {
        return None;
    }
    let mut counters = IfaceCounters::ZERO;
    counters.verdicts.copy_from_slice(words.get(..4)?);
    [counters.overruled, counters.samples, counters.samples_lost, counters.samples_capped] =
        *words.get(4..8)?.as_array()?;
    for (counter, row) in counters.classes.iter_mut().zip(words[header..].chunks_exact(4).take(classes)) {
        (counter.packets, counter.bytes, counter.dropped_bytes) = (row[0], row[1], row[2]);
    }
    for (drops, row) in counters.drops.iter_mut().zip(words[header + 4 * classes..].chunks_exact(reasons)) {
        drops.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
    }
    Some(counters)
}

/// Pins this version's layout beside its maps, where it is not yet.
///
/// # Errors
/// Where the map cannot be made or pinned.
pub fn pin_layout(pins: &Pins) -> Result<(), LoadError> {
    let path = pins.maps().join(LAYOUT);
    if path.exists() {
        return Ok(());
    }
    let failed = |source| LoadError::Map { name: LAYOUT, source: Box::new(source) };
    let mut map: Array<MapData, Layout> = Array::create(1, 0).map_err(failed)?;
    map.set(0, OWN, 0).map_err(failed)?;
    map.pin(&path).map_err(|error| failed(MapError::PinError { name: Some(LAYOUT.into()), error }))
}

/// Returns what counters of other layouts had reached for an interface.
pub fn of_interface(pins: &Pins, name: &str) -> IfaceCounters {
    let mut sum = IfaceCounters::ZERO;
    for dir in pins.foreign_maps() {
        match read(&dir, name) {
            Ok(Some(counters)) => sum.add(&counters),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(path = %dir.display(), %error, "Counters of another version could not be read; totals start without them.");
            }
        }
    }
    sum
}

fn read(dir: &Path, name: &str) -> Result<Option<IfaceCounters>, Box<dyn std::error::Error>> {
    if !dir.join(maps::COUNTERS).exists() {
        return Ok(None);
    }
    let layout: Array<_, Layout> = Array::try_from(Map::Array(MapData::from_pin(dir.join(LAYOUT))?))?;
    let layout = layout.get(&0, 0)?;
    let slots: Array<_, SlotInfo> = Array::try_from(Map::Array(MapData::from_pin(dir.join(maps::SLOTS))?))?;
    let Some(slot) = slots.iter().flatten().position(|info| slot_name(&info) == name) else { return Ok(None) };
    let counters = MapData::from_pin(dir.join(maps::COUNTERS))?;
    let bytes = counters.info()?.value_size() as usize;
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    let mut values = vec![0u8; bytes.next_multiple_of(8) * cpus];
    let fd = std::os::fd::AsFd::as_fd(counters.fd());
    sys::bpf::lookup_per_cpu(fd, &(slot as u32), &mut values)?;
    let mut sum = IfaceCounters::ZERO;
    for cpu in values.chunks_exact(bytes) {
        sum.add(&decode(layout, cpu).ok_or("their layout is not one that this version can read")?);
    }
    Ok(Some(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_layout_is_the_beginning_of_a_larger_one() {
        let old = Layout { abi: 0, class_slots: 3, reason_slots: 2, header_bytes: OWN.header_bytes };
        let header = OWN.header_bytes as usize / 8;
        let words: Vec<u64> = (0..(header + 3 * 4 + 3 * 2) as u64).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let counters = decode(old, &bytes).expect("the length fits");
        assert_eq!(counters.verdicts, [0, 1, 2, 3]);
        let first = header as u64;
        assert_eq!((counters.classes[1].packets, counters.classes[1].bytes), (first + 4, first + 5));
        assert_eq!(counters.drops[2][..3], [first + 12 + 4, first + 12 + 5, 0]);
        assert!(decode(old, &bytes[8..]).is_none(), "a length that does not fit is not guessed at");
    }
}
