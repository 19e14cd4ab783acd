//! Block lists and the allow list. See `ftagent_common::lists` for how they are laid out.
#![expect(unsafe_code, reason = "entries are looked up and noted as matched in place")]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use ftagent_common::{
    DropReason,
    abi::flags,
    lists::{
        EXACT, Key4, Key6, LENGTH_SLOTS, LONG, Lengths, ListEntry, PREFIX, SHORT, filter4, filter4_host, filter4_wide,
        filter6_long, filter6_short,
    },
    parse::{Facts, Family},
};

use crate::maps::{self, ALLOW4, ALLOW6, BLOCK4, BLOCK6, FEED4, FEED6};

/// Returns why the packet is to be dropped, if a list says so.
#[inline(always)]
pub fn decide(facts: &Facts, state: u32) -> Option<DropReason> {
    let half = state >> 31;
    match facts.family {
        Family::V4 => {
            if state & (flags::BLOCK4 | flags::FEED4) == 0 {
                return None;
            }
            let (word, shift) = filter4_wide(facts.src.1 as u32);
            if (maps::filter4(half, word) >> shift) & 1 == 0 {
                return None;
            }
            let (word, shift) = filter4(facts.src.1 as u32);
            let mut bits = (maps::filter4(half, word) >> shift) as u32 & (EXACT | PREFIX);
            if bits & EXACT != 0 {
                let (word, shift) = filter4_host(facts.src.1 as u32);
                bits &= !EXACT | (maps::filter4(half, word) >> shift) as u32 & 1;
            }
            if bits == 0 {
                return None;
            }
            blocked4(facts.src.1 as u32, state, bits)
        }
        Family::V6 => {
            if state & (flags::BLOCK6 | flags::FEED6) == 0 {
                return None;
            }
            let (long, long_shift) = filter6_long(facts.src.0);
            let (short, short_shift) = filter6_short(facts.src.0);
            let mut bits = if state & flags::SHORT6 != 0 { SHORT } else { 0 };
            bits |= (maps::filter6(half, long) >> long_shift) as u32 & LONG;
            bits |= ((maps::filter6(half, short) >> short_shift) as u32 & 1) << 1;
            if bits == 0 {
                return None;
            }
            reason(ftagent_blocked6(facts.src.0, facts.src.1, state, bits))
        }
        Family::None => None,
    }
}

/// Probes the first length of the first list in place and leaves the rest to a function. With
/// addresses only, that is all there is; and calls are dear on CPUs whose returns the kernel has
/// to make safe (`spec_rstack_overflow`).
#[inline(always)]
fn blocked4(src: u32, state: u32, bits: u32) -> Option<DropReason> {
    let control = maps::control()?;
    let half = state >> 31;
    let is_block = state & flags::BLOCK4 != 0;
    let (lengths, hit) = match (is_block, half) {
        (true, _) => (&control.block4, (DropReason::BlockAddress, DropReason::BlockPrefix)),
        (_, 0) => (&control.feed4[0], (DropReason::FeedAddress, DropReason::FeedPrefix)),
        _ => (&control.feed4[1], (DropReason::FeedAddress, DropReason::FeedPrefix)),
    };
    let first = lengths.lengths[0] as u32;
    if bits & kind4(first) != 0 && lengths.count != 0 {
        let key = WholeKey4::of(Key4::around(src, first));
        let entry =
            if is_block { BLOCK4.get_ptr_mut(key.as_key()) } else { FEED4.get_value_ptr_mut(half, key.as_key()) };
        let shared_expiry = if is_block { 0 } else { control.feed_expires };
        // SAFETY: the entry comes from a lookup.
        if entry.is_some_and(|entry| unsafe { maps::matches(entry, maps::jiffies(), shared_expiry) }) {
            return Some(if first == 32 { hit.0 } else { hit.1 });
        }
    }
    if lengths.count <= 1 && !(is_block && state & flags::FEED4 != 0) {
        return None;
    }
    reason(ftagent_blocked4(src, state, bits))
}

/// Returns the prefilter's bit for prefixes of a length.
#[inline(always)]
const fn kind4(length: u32) -> u32 {
    if length == 32 { EXACT } else { PREFIX }
}

/// A reason by number from a function that the verifier checks on its own.
#[inline(always)]
fn reason(number: u32) -> Option<DropReason> {
    match number {
        BLOCK_ADDRESS => Some(DropReason::BlockAddress),
        BLOCK_PREFIX => Some(DropReason::BlockPrefix),
        FEED_ADDRESS => Some(DropReason::FeedAddress),
        FEED_PREFIX => Some(DropReason::FeedPrefix),
        _ => None,
    }
}

const NOTHING: u32 = 0;
const BLOCK_ADDRESS: u32 = 1;
const BLOCK_PREFIX: u32 = 2;
const FEED_ADDRESS: u32 = 3;
const FEED_PREFIX: u32 = 4;

// The functions that probe are global ones (exported symbols): the verifier checks each once,
// for any arguments, instead of once for every path that leads to the call. The prefilter keeps
// nearly every packet away from them.

/// Looks an IPv4 source up in blocks and feeds; returns one of the numbers above. The first
/// length of the first list was probed by [`blocked4`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_blocked4(src: u32, state: u32, bits: u32) -> u32 {
    let Some(control) = maps::control() else { return NOTHING };
    if state & flags::BLOCK4 != 0
        && let Some(length) = probe4(|key| BLOCK4.get_ptr_mut(key), &control.block4, src, bits, 0, 1)
    {
        return if length == 32 { BLOCK_ADDRESS } else { BLOCK_PREFIX };
    }
    if state & flags::FEED4 == 0 {
        return NOTHING;
    }
    let half = state >> 31;
    let lengths = if half == 0 { &control.feed4[0] } else { &control.feed4[1] };
    let from = if state & flags::BLOCK4 == 0 { 1 } else { 0 };
    match probe4(|key| FEED4.get_value_ptr_mut(half, key), lengths, src, bits, control.feed_expires, from) {
        Some(32) => FEED_ADDRESS,
        Some(_) => FEED_PREFIX,
        None => NOTHING,
    }
}

/// Looks an IPv6 source up in blocks and feeds; returns one of the numbers above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_blocked6(high: u64, low: u64, state: u32, bits: u32) -> u32 {
    if state & flags::BLOCK6 != 0
        && let Some(length) = probe6(LIST_BLOCK, (high, low), state, bits)
    {
        return if length == 128 { BLOCK_ADDRESS } else { BLOCK_PREFIX };
    }
    if state & flags::FEED6 == 0 {
        return NOTHING;
    }
    match probe6(LIST_FEED, (high, low), state, bits) {
        Some(128) => FEED_ADDRESS,
        Some(_) => FEED_PREFIX,
        None => NOTHING,
    }
}

/// Returns 1 where the allow list names an IPv4 source.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_allowed4(src: u32) -> u32 {
    let Some(control) = maps::control() else { return 0 };
    probe4(|key| ALLOW4.get_ptr_mut(key), &control.allow4, src, EXACT | PREFIX, 0, 0).is_some() as u32
}

/// Returns 1 where the allow list names an IPv6 source.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_allowed6(high: u64, low: u64) -> u32 {
    probe6(LIST_ALLOW, (high, low), 0, LONG | SHORT).is_some() as u32
}

/// Returns whether the allow list names the source. Asked only before a drop.
#[inline(always)]
pub fn allowed(facts: &Facts, state: u32) -> bool {
    match facts.family {
        Family::V4 => state & flags::ALLOW4 != 0 && ftagent_allowed4(facts.src.1 as u32) != 0,
        Family::V6 => state & flags::ALLOW6 != 0 && ftagent_allowed6(facts.src.0, facts.src.1) != 0,
        Family::None => false,
    }
}

/// Probes every length in use from the position `from` on that the filter bits allow; returns the
/// length that matched.
#[inline(always)]
fn probe4(
    lookup: impl Fn(&Key4) -> Option<*mut ListEntry>,
    lengths: &Lengths,
    src: u32,
    bits: u32,
    shared_expiry: u64,
    from: usize,
) -> Option<u32> {
    for i in from..33 {
        let length = length_at(lengths, i)?;
        if bits & kind4(length) == 0 {
            continue;
        }
        let key = WholeKey4::of(Key4::around(src, length));
        if let Some(entry) = lookup(key.as_key()) {
            // SAFETY: the entry comes from a lookup.
            if unsafe { maps::matches(entry, maps::jiffies(), shared_expiry) } {
                return Some(length);
            }
        }
    }
    None
}

/// A [`Key4`] that is stored by one instruction. The kernel compares keys eight bytes at a time;
/// a load that covers two stores waits until both have reached the cache.
#[repr(transparent)]
struct WholeKey4(u64);

const _: () = assert!(size_of::<Key4>() == size_of::<WholeKey4>());

impl WholeKey4 {
    #[inline(always)]
    fn of(key: Key4) -> Self {
        let (first, second) = (key.network as u64, key.length as u64);
        Self(if cfg!(target_endian = "little") { second << 32 | first } else { first << 32 | second })
    }

    #[inline(always)]
    fn as_key(&self) -> &Key4 {
        // SAFETY: two `u32` in the order of `Key4`'s, of its size, and more strictly aligned.
        unsafe { &*(&raw const self.0).cast::<Key4>() }
    }
}

/// Which IPv6 list is probed.
const LIST_BLOCK: u32 = 0;
const LIST_FEED: u32 = 1;
const LIST_ALLOW: u32 = 2;

/// What the callback of the IPv6 loop works on.
#[repr(C)]
struct Probe6 {
    src: (u64, u64),
    shared_expiry: u64,
    list: u32,
    half: u32,
    bits: u32,
    /// The length that matched, plus one; 0 for none.
    found: u32,
}

/// See [`probe4`]. Up to 129 lengths: `bpf_loop` (kernel 5.17), whose body the verifier checks
/// once, where a plain loop would cost it 100 000 instructions.
#[inline(always)]
fn probe6(list: u32, src: (u64, u64), state: u32, bits: u32) -> Option<u32> {
    let shared_expiry = maps::control()?.feed_expires;
    let mut probe = Probe6 { src, shared_expiry, list, half: state >> 31, bits, found: 0 };
    // SAFETY: the callback has the signature that the helper calls, and the context outlives it.
    unsafe { bpf_loop(129, probe_one6 as *mut c_void, (&raw mut probe).cast(), 0) };
    probe.found.checked_sub(1)
}

/// One step of [`probe6`]; returns 1 to end the loop.
unsafe extern "C" fn probe_one6(i: u32, probe: *mut c_void) -> i64 {
    let probe = probe.cast::<Probe6>();
    // SAFETY: `probe6` passes its own `Probe6`.
    let Probe6 { src, shared_expiry, list, half, bits, found: _ } = unsafe { probe.read() };
    let Some(control) = maps::control() else { return 1 };
    let lengths = match (list, half) {
        (LIST_BLOCK, _) => &control.block6,
        (LIST_ALLOW, _) => &control.allow6,
        (_, 0) => &control.feed6[0],
        _ => &control.feed6[1],
    };
    let Some(length) = length_at(lengths, i as usize) else { return 1 };
    let kind = if length >= 48 { LONG } else { SHORT };
    if bits & kind == 0 {
        return 0;
    }
    let key = Key6::around(src.0, src.1, length);
    let (entry, shared_expiry) = match list {
        LIST_BLOCK => (BLOCK6.get_ptr_mut(&key), 0),
        LIST_ALLOW => (ALLOW6.get_ptr_mut(&key), 0),
        _ => (FEED6.get_value_ptr_mut(half, &key), shared_expiry),
    };
    let Some(entry) = entry else { return 0 };
    // SAFETY: the entry comes from a lookup, `probe` from `probe6`.
    unsafe {
        if !maps::matches(entry, maps::jiffies(), shared_expiry) {
            return 0;
        }
        (*probe).found = length + 1;
    }
    1
}

/// Returns the length at a position, or `None` behind the last.
#[inline(always)]
fn length_at(lengths: &Lengths, i: usize) -> Option<u32> {
    if i as u32 >= lengths.count || i >= LENGTH_SLOTS {
        return None;
    }
    lengths.lengths.get(i).map(|&length| length as u32)
}
