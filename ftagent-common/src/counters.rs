//! The per-CPU counters of one interface: one array entry, so that one system call reads all.

use crate::{TrafficClass, class::CLASS_SLOTS, reason::REASON_SLOTS};

/// Counters of one traffic class on one CPU and interface.
///
/// Bytes are counted as on the wire without the frame check sequence: from the Ethernet header
/// to the last byte that XDP sees, padding included. A VLAN tag that the card strips before XDP
/// (rxvlan offload) is not seen and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClassCounter {
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Bytes of the packets that were dropped; their number is in [`IfaceCounters::drops`].
    pub dropped_bytes: u64,
    /// Packets still to pass before the next sample of this class; the sampler's own.
    pub sample_gap: u32,
    /// Low 16 bits of the jiffy of the last sample, and the samples taken in it; the sampler's own.
    pub sample_burst: u32,
}

/// Everything the kernel program counts on one CPU and interface.
///
/// Invariant, per CPU and quiesced: the sum of `classes[..].packets` equals the sum of
/// `verdicts`, and the sum of `drops` equals `verdicts[DROP]`. Every field only grows, except
/// the sampler's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IfaceCounters {
    /// Packets by verdict, indexed by [`crate::reason::verdict`].
    pub verdicts: [u64; 4],
    /// Drop decisions that the allow list overruled.
    pub overruled: u64,
    /// Samples written to the ring.
    pub samples: u64,
    /// Samples lost because the ring was full.
    pub samples_lost: u64,
    /// Samples skipped by the cap per class and jiffy.
    pub samples_capped: u64,
    /// State of the sampler's xorshift generator; 0 means not seeded.
    pub dice: u64,
    /// Scratch of the program; not a counter.
    pub scratch: u64,
    /// By traffic class.
    pub classes: [ClassCounter; CLASS_SLOTS],
    /// Packets dropped, by class and reason.
    pub drops: [[u64; REASON_SLOTS]; CLASS_SLOTS],
}

const _: () = assert!(size_of::<ClassCounter>() == 32);
const _: () = assert!(size_of::<IfaceCounters>() == 80 + CLASS_SLOTS * 32 + CLASS_SLOTS * REASON_SLOTS * 8);
// PCPU_MIN_UNIT_SIZE bounds a per-CPU map value (kernel/bpf/arraymap.c, array_map_alloc_check).
const _: () = assert!(size_of::<IfaceCounters>() < 32 * 1024);

impl IfaceCounters {
    /// Counters at zero.
    pub const ZERO: Self = Self {
        verdicts: [0; 4],
        overruled: 0,
        samples: 0,
        samples_lost: 0,
        samples_capped: 0,
        dice: 0,
        scratch: 0,
        classes: [ClassCounter { packets: 0, bytes: 0, dropped_bytes: 0, sample_gap: 0, sample_burst: 0 }; CLASS_SLOTS],
        drops: [[0; REASON_SLOTS]; CLASS_SLOTS],
    };

    /// Adds another CPU's counters to these. The sampler's own fields are left alone.
    pub fn add(&mut self, other: &Self) {
        let pairs = self.verdicts.iter_mut().zip(&other.verdicts);
        pairs.for_each(|(a, b)| *a = a.wrapping_add(*b));
        self.overruled = self.overruled.wrapping_add(other.overruled);
        self.samples = self.samples.wrapping_add(other.samples);
        self.samples_lost = self.samples_lost.wrapping_add(other.samples_lost);
        self.samples_capped = self.samples_capped.wrapping_add(other.samples_capped);
        for (a, b) in self.classes.iter_mut().zip(&other.classes) {
            a.packets = a.packets.wrapping_add(b.packets);
            a.bytes = a.bytes.wrapping_add(b.bytes);
            a.dropped_bytes = a.dropped_bytes.wrapping_add(b.dropped_bytes);
        }
        for (row, other) in self.drops.iter_mut().zip(&other.drops) {
            row.iter_mut().zip(other).for_each(|(a, b)| *a = a.wrapping_add(*b));
        }
    }

    /// Returns the counters of a class.
    pub fn class(&self, class: TrafficClass) -> ClassCounter {
        self.classes.get(class.index()).copied().unwrap_or_default()
    }

    /// Returns the packets of a class that were dropped, over all reasons.
    pub fn dropped_packets(&self, class: TrafficClass) -> u64 {
        self.drops.get(class.index()).map_or(0, |row| row.iter().sum())
    }

    /// Returns the packets seen: the sum over the classes.
    pub fn seen(&self) -> u64 {
        self.classes.iter().map(|c| c.packets).sum()
    }
}
