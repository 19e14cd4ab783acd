//! The maps, and typed access to them. Names and values are `ftagent_common::abi`'s.
#![expect(unsafe_code, reason = "this file is the only one that dereferences map values")]

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, PerCpuArray, RingBuf},
    helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
};
use ftagent_common::{
    abi::{
        ALLOW_ENTRIES, BLOCK_ENTRIES, CAPTURE_RING_BYTES, Clock, Control, IFACE_SLOTS, SAMPLE_RING_BYTES, Sampling,
        SlotInfo, features,
    },
    class::CLASS_SLOTS,
    counters::{ClassCounter, IfaceCounters},
    guard::{Guard, OWN_ADDRESSES, OwnAddress},
    lists::{FILTER4_WORDS, FILTER6_WORDS, Key4, Key6, ListEntry},
    parse::Facts,
    reason::REASON_SLOTS,
    rules,
    sample::{CAPTURE_BYTES, CaptureRecord, SampleRecord},
    tripwire::{CEILINGS as CEILING_SLOTS, Ceiling},
};

use crate::guard::Scratch;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[unsafe(no_mangle)]
static SLOT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static REPLAY: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(features::ALL);

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<IfaceCounters, { IFACE_SLOTS as usize }> = PerCpuArray::new();
#[btf_map(name = "control")]
static CONTROL: Array<Control, 1, MMAPABLE> = Array::new();
#[btf_map(name = "sampling")]
static SAMPLING: Array<Sampling, 1> = Array::new();
#[btf_map(name = "service_ports")]
static SERVICE_PORTS: Array<u64, 1024> = Array::new();
#[btf_map(name = "filter4")]
static FILTER4: Array<u64, { 2 * FILTER4_WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "filter6")]
static FILTER6: Array<u64, { 2 * FILTER6_WORDS as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "block4")]
pub static BLOCK4: HashMap<Key4, ListEntry, { BLOCK_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "block6")]
pub static BLOCK6: HashMap<Key6, ListEntry, { BLOCK_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();
// The inner maps are made by the daemon, preallocated and as large as a generation needs: the
// kernel compares key, value and flags of inner maps, and of hashes not the number of entries.
#[btf_map(name = "feed4")]
pub static FEED4: ArrayOfMaps<HashMap<Key4, ListEntry, 1>, 2> = ArrayOfMaps::new();
#[btf_map(name = "feed6")]
pub static FEED6: ArrayOfMaps<HashMap<Key6, ListEntry, 1>, 2> = ArrayOfMaps::new();
#[btf_map(name = "allow4")]
pub static ALLOW4: HashMap<Key4, ListEntry, { ALLOW_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "allow6")]
pub static ALLOW6: HashMap<Key6, ListEntry, { ALLOW_ENTRIES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "rules")]
pub static RULES: Array<rules::Table, 2, MMAPABLE> = Array::new();
#[btf_map(name = "rule_states")]
pub static RULE_STATES: Array<rules::State, { rules::RULES }, MMAPABLE> = Array::new();
#[btf_map(name = "rule_counters")]
pub static RULE_COUNTERS: PerCpuArray<rules::Counters, 1> = PerCpuArray::new();
#[btf_map(name = "samples")]
pub static SAMPLES: RingBuf<SampleRecord, { SAMPLE_RING_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "captures")]
pub static CAPTURES: RingBuf<CaptureRecord<{ CAPTURE_BYTES[0] }>, { CAPTURE_RING_BYTES as usize }> = RingBuf::new();
#[btf_map(name = "guard")]
static GUARD: Array<Guard, 1, MMAPABLE> = Array::new();
#[btf_map(name = "guard_ports")]
static GUARD_PORTS: Array<u32, 65_536, MMAPABLE> = Array::new();
#[btf_map(name = "own_addresses")]
static OWN: HashMap<OwnAddress, u32, { OWN_ADDRESSES as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "guard_scratch")]
static GUARD_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
#[btf_map(name = "ceilings")]
static CEILINGS: Array<Ceiling, { CEILING_SLOTS }, MMAPABLE> = Array::new();
#[btf_map(name = "slots")]
static SLOTS: Array<SlotInfo, { IFACE_SLOTS as usize }> = Array::new();
#[btf_map(name = "clock")]
static CLOCK: Array<Clock, 1, MMAPABLE> = Array::new();

/// Returns whether a feature is compiled in; the verifier removes the branch otherwise.
#[inline(always)]
pub fn has(feature: u32) -> bool {
    FEATURES.load() & feature != 0
}

/// Returns what the daemon wants done.
#[inline(always)]
pub fn control() -> Option<&'static Control> {
    CONTROL.get(0)
}

/// Returns what is held against a class.
#[inline(always)]
pub fn ceiling(class: u32) -> Option<*mut Ceiling> {
    CEILINGS.get_ptr_mut(class)
}

/// Returns what the guard is to do.
#[inline(always)]
pub fn guard() -> Option<&'static Guard> {
    GUARD.get(0)
}

/// Returns the pool of tokens for the guard's answers. No reference of [`guard`] may be held with it.
#[inline(always)]
pub fn guard_answers() -> Option<&'static mut rules::State> {
    let guard = GUARD.get_ptr_mut(0)?;
    // SAFETY: a field of the map's value; what CPUs share of it they change by atomic instructions.
    Some(unsafe { &mut (*guard).answers })
}

/// Returns this CPU's memory for the guard.
#[inline(always)]
pub fn guard_scratch() -> Option<&'static mut Scratch> {
    let scratch = GUARD_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value, which only one packet uses at a time.
    Some(unsafe { &mut *scratch })
}

/// Returns what the guard does for a local port.
#[inline(always)]
pub fn guard_port(port: u32) -> u32 {
    GUARD_PORTS.get(port).copied().unwrap_or(0)
}

/// Returns whether an address is this host's own.
#[inline(always)]
pub fn is_own(address: &OwnAddress) -> bool {
    // SAFETY: the value is not read.
    unsafe { OWN.get(address).is_some() }
}

/// Returns whether clock and dice are those of a replay.
#[inline(always)]
pub fn is_replay() -> bool {
    REPLAY.load() != 0
}

/// Returns what the socket table would say of the packet, in replay.
#[inline(always)]
pub fn told_socket() -> u8 {
    CLOCK.get(0).map_or(0, |clock| clock.socket as u8)
}

/// Returns whether a listener would have room for the SYN, in replay.
#[inline(always)]
pub fn told_room() -> bool {
    CLOCK.get(0).is_some_and(|clock| clock.socket & Clock::ROOM != 0)
}

/// Returns its argument, which neither the compiler nor the verifier knows any more.
#[inline(always)]
pub fn opaque(value: u32) -> u32 {
    match Counters::of_this_cpu() {
        Some(counters) => counters.forget(value),
        None => 0,
    }
}

/// As [`opaque`], for all bits.
#[inline(always)]
pub fn opaque64(value: u64) -> u64 {
    match Counters::of_this_cpu() {
        Some(counters) => counters.forget64(value),
        None => 0,
    }
}

/// Returns `jiffies64`, or the virtual clock's in replay.
#[inline(always)]
pub fn jiffies() -> u64 {
    if REPLAY.load() != 0 {
        return CLOCK.get(0).map_or(0, |clock| clock.jiffies);
    }
    // SAFETY: takes no arguments.
    unsafe { bpf_jiffies64() }
}

/// Returns `CLOCK_MONOTONIC` in nanoseconds, or the virtual clock's in replay.
#[inline(always)]
pub fn now_ns() -> u64 {
    if REPLAY.load() != 0 {
        return CLOCK.get(0).map_or(0, |clock| clock.now_ns);
    }
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// Returns the interface slot that the loader set.
#[inline(always)]
pub fn slot() -> u32 {
    SLOT.load()
}

/// Writes the kernel's clocks to the `clock` map.
#[inline(always)]
pub fn read_clocks() {
    let Some(clock) = CLOCK.get_ptr_mut(0) else { return };
    // SAFETY: the map holds one `Clock`, which only this test-run program writes; the helpers
    // take no arguments.
    unsafe {
        (*clock).jiffies = bpf_jiffies64();
        (*clock).now_ns = bpf_ktime_get_ns();
    }
    let _keeps_the_map_in_the_object = SLOTS.get(0).is_some();
}

/// Returns whether a UDP port is one that this node serves.
#[inline(always)]
pub fn is_service_port(port: u16) -> bool {
    SERVICE_PORTS.get(port as u32 >> 6).is_some_and(|word| word >> (port & 63) & 1 != 0)
}

/// Returns a word of the IPv4 prefilter.
#[inline(always)]
pub fn filter4(half: u32, word: u32) -> u64 {
    FILTER4.get(half * FILTER4_WORDS + word).copied().unwrap_or(0)
}

/// Returns a word of the IPv6 prefilter.
#[inline(always)]
pub fn filter6(half: u32, word: u32) -> u64 {
    FILTER6.get(half * FILTER6_WORDS + word).copied().unwrap_or(0)
}

/// Returns whether an entry counts at jiffy `now`, and notes that it matched.
///
/// # Safety
/// `entry` must come from a lookup in one of the list maps.
#[inline(always)]
pub unsafe fn matches(entry: *mut ListEntry, now: u64, shared_expiry: u64) -> bool {
    // SAFETY: by the caller; a racing store of `last_match` by another CPU is of the same kind.
    unsafe {
        let own = (*entry).expires;
        if now >= if own == 0 { shared_expiry } else { own } {
            return false;
        }
        // Once a jiffy, not once a packet: the line stays shared between CPUs.
        if (*entry).last_match != now as u32 {
            (*entry).last_match = now as u32;
        }
    }
    true
}

/// What was drawn for a sample.
#[derive(Clone, Copy)]
pub struct Draw {
    /// The mean gap, which is what the sample stands for.
    pub stride: u32,
    /// Packets until the next sample of the class.
    pub gap: u32,
    /// Whether the cap per class and jiffy lets it be taken.
    pub allowed: bool,
}

/// This CPU's counters of this interface.
#[derive(Clone, Copy)]
pub struct Counters {
    at: *mut IfaceCounters,
}

// SAFETY of the blocks below: `at` is this CPU's own value, and XDP on one CPU is not re-entered
// for the same map value (the program runs with bottom halves off). Indices are compared with
// the slots before use.
impl Counters {
    /// Returns the counters, or `None` where the slot does not exist.
    #[inline(always)]
    pub fn of_this_cpu() -> Option<Self> {
        COUNTERS.get_ptr_mut(slot()).map(|at| Self { at })
    }

    /// Returns its argument, which the verifier no longer knows: it would follow every class to
    /// the end of the program separately.
    #[inline(always)]
    pub fn forget(self, class: u32) -> u32 {
        // SAFETY: see above.
        unsafe {
            // Half of it: a 64-bit read would have to be cut to 32 bits again.
            let scratch = (&raw mut (*self.at).scratch).cast::<u32>();
            scratch.write_volatile(class);
            scratch.read_volatile()
        }
    }

    /// As [`Self::forget`], for all bits.
    #[inline(always)]
    pub fn forget64(self, value: u64) -> u64 {
        // SAFETY: see above.
        unsafe {
            (&raw mut (*self.at).scratch).write_volatile(value);
            (*self.at).scratch
        }
    }

    /// Returns the counter of a class, or `None` past the last slot, which no packet has.
    #[inline(always)]
    pub fn class(self, class: u32) -> Option<ClassCell> {
        if class as usize >= CLASS_SLOTS {
            return None;
        }
        // SAFETY: see above; the index was compared.
        Some(ClassCell { at: unsafe { (&raw mut (*self.at).classes).cast::<ClassCounter>().add(class as usize) } })
    }

    /// Counts the verdict.
    #[inline(always)]
    pub fn count_verdict(self, action: u32) {
        // SAFETY: see above; the index is masked.
        unsafe { *(&raw mut (*self.at).verdicts).cast::<u64>().add(action as usize & 3) += 1 }
    }

    /// Counts a drop decision that the allow list overruled.
    #[inline(always)]
    pub fn count_overruled(self) {
        // SAFETY: see above.
        unsafe { (*self.at).overruled += 1 }
    }

    /// Counts a drop by class and reason.
    #[inline(always)]
    pub fn count_drop(self, class: u32, reason: u8) {
        if class as usize >= CLASS_SLOTS {
            return;
        }
        // SAFETY: see above; the index was compared.
        unsafe {
            let row = (&raw mut (*self.at).drops).cast::<[u64; REASON_SLOTS]>().add(class as usize);
            *row.cast::<u64>().add(reason as usize & (REASON_SLOTS - 1)) += 1;
        }
    }

    /// Draws the gap to the next sample.
    ///
    /// The gap is uniform in [1, 2·stride − 1]: its mean is the stride, and a tool that cycles
    /// through templates cannot stay in step with it.
    #[inline(always)]
    pub fn draw(self, class: u32) -> Option<Draw> {
        let (ClassCell { at: counter }, sampling) = (self.class(class)?, SAMPLING.get(0)?);
        let stride = sampling.stride.get(class as usize).copied().unwrap_or(1).clamp(1, 1 << 24);
        let now = jiffies() as u32 & 0xffff;
        // SAFETY: see above.
        let (gap, allowed) = unsafe {
            let gap = 1 + self.roll() % (2 * stride - 1);
            (*counter).sample_gap = gap - 1;
            if (*counter).sample_burst >> 16 != now {
                (*counter).sample_burst = now << 16;
            }
            let allowed = (*counter).sample_burst & 0xffff < sampling.burst;
            (*counter).sample_burst += allowed as u32;
            (gap, allowed)
        };
        Some(Draw { stride, gap, allowed })
    }

    /// Counts a sample that the cap forbade.
    #[inline(always)]
    pub fn count_capped(self) {
        // SAFETY: see above.
        unsafe { (*self.at).samples_capped += 1 }
    }

    /// xorshift64 (Marsaglia 2003), seeded on first use.
    #[inline(always)]
    fn roll(self) -> u32 {
        // SAFETY: see above; the helper takes no arguments.
        unsafe {
            let mut x = (*self.at).dice;
            if x == 0 {
                x = if REPLAY.load() != 0 {
                    CLOCK.get(0).map_or(1, |clock| clock.dice)
                } else {
                    bpf_get_prandom_u32() as u64
                } | 1;
            }
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (*self.at).dice = x;
            (x >> 32) as u32
        }
    }

    /// Counts a sample that was written, or lost to a full ring.
    #[inline(always)]
    pub fn count_sample(self, written: bool) {
        // SAFETY: see above.
        unsafe {
            if written {
                (*self.at).samples += 1;
            } else {
                (*self.at).samples_lost += 1;
            }
        }
    }
}

/// The counter of one class on this CPU.
#[derive(Clone, Copy)]
pub struct ClassCell {
    at: *mut ClassCounter,
}

// SAFETY of the blocks below: as for `Counters`, which makes these.
impl ClassCell {
    /// Counts a packet.
    #[inline(always)]
    pub fn count(self, facts: &Facts) {
        // SAFETY: see above.
        unsafe {
            (*self.at).packets += 1;
            (*self.at).bytes += facts.wire as u64;
        }
    }

    /// Counts the bytes of a packet that is dropped.
    #[inline(always)]
    pub fn count_dropped(self, facts: &Facts) {
        // SAFETY: see above.
        unsafe { (*self.at).dropped_bytes += facts.wire as u64 }
    }

    /// Counts down to the next sample of the class; returns whether it is this packet.
    #[inline(always)]
    pub fn sample_is_due(self) -> bool {
        // SAFETY: see above.
        unsafe {
            if (*self.at).sample_gap != 0 {
                (*self.at).sample_gap -= 1;
                return false;
            }
        }
        true
    }
}
