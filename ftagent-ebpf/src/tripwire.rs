//! The tripwire: what is too much of a class wakes the daemon at once, and what is policed is dropped.
//! See `ftagent_common::tripwire` for what the daemon tells it.
//!
//! Waking costs packets nothing: it is samples that are charged. Only packets of
//! policed classes are looked at one by one.
#![expect(unsafe_code, reason = "pools are written in place")]

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_load_bytes};
use ftagent_common::{
    TrafficClass,
    abi::ceilings,
    guard::socket,
    parse::{Facts, Family},
    rules::TOKEN,
    tripwire::{BFD_PORTS, Ceiling, Pool, flags},
};

use crate::{
    guard, maps,
    rules::rate::{Rate, is_within},
};

/// Where the bits of `Control::ceilings` are in the word that they share with those of the rules.
pub const SHIFT: u32 = 8;

/// Takes tokens from a pool; returns whether there were any. What passes is little, so no CPU keeps any.
///
/// # Safety
/// `pool` is in a map value.
#[inline(always)]
unsafe fn takes(pool: *mut Pool, cost: u64, now: u64) -> bool {
    // SAFETY: by the caller; the daemon stores whole fields.
    unsafe {
        let rate = Rate { per_jiffy: (*pool).per_jiffy, burst: (*pool).burst, chunk: cost };
        is_within(&raw mut (*pool).spent, rate, &mut 0, cost, now)
    }
}

/// Charges a class with packets of the length of a sample; returns whether the daemon is to be woken:
/// once a jiffy at most.
#[inline(always)]
pub fn is_too_much(class: u32, packets: u32, wire: u32) -> bool {
    let Some(ceiling) = maps::ceiling(class) else { return false };
    let now = maps::jiffies();
    // SAFETY: from a lookup; `woken` is for hints, and races are harmless.
    unsafe {
        let armed = (*ceiling).flags;
        if armed & (flags::WAKE_PACKETS | flags::WAKE_BYTES) == 0 || now >= (*ceiling).expires {
            return false;
        }
        let tokens = packets as u64 * TOKEN;
        let packets = armed & flags::WAKE_PACKETS != 0 && !takes(&raw mut (*ceiling).packets, tokens, now);
        let bytes =
            armed & flags::WAKE_BYTES != 0 && !takes(&raw mut (*ceiling).bytes, tokens.wrapping_mul(wire as u64), now);
        if !(packets | bytes) || (*ceiling).woken == now as u32 {
            return false;
        }
        (*ceiling).woken = now as u32;
    }
    true
}

/// Returns whether packets of a class are looked at. `switches`: see [`SHIFT`].
#[inline(always)]
pub fn is_policed(class: u32, switches: u32) -> bool {
    let all = switches & ceilings::OTHERS << SHIFT != 0;
    let some = switches & ceilings::NO_BUSINESS << SHIFT != 0;
    all || some && TrafficClass::is_no_business_at(class)
}

/// Returns whether a packet of a policed class is to be dropped.
#[inline(always)]
pub fn drops(ctx: *mut xdp_md, facts: &Facts) -> bool {
    let l4 = facts.l4 as u64 * (!matches!(facts.family, Family::None)) as u64;
    let place = facts.l3 as u64
        | l4 << 16
        | (facts.proto as u64) << 32
        | (matches!(facts.family, Family::V6) as u64) << 40
        | (facts.class as u64 & 0xff) << 48;
    ftagent_ceiling(ctx, place) != 0
}

/// A global function, because few packets come here. `place` are the facts that matter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_ceiling(ctx: *mut xdp_md, place: u64) -> u32 {
    let place = maps::opaque64(place);
    let Some(ceiling) = maps::ceiling((place >> 48) as u32 & 0xff) else { return 0 };
    let now = maps::jiffies();
    // SAFETY: from a lookup.
    unsafe {
        if (*ceiling).flags & flags::POLICE == 0 || now >= (*ceiling).expires {
            return 0;
        }
        if takes(&raw mut (*ceiling).police, TOKEN, now) {
            return 0;
        }
    }
    let facts = Facts {
        class: 0,
        family: if place >> 40 & 1 != 0 { Family::V6 } else { Family::V4 },
        src: (0, 0),
        dst: (0, 0),
        proto: (place >> 32) as u8,
        l3: place as u16,
        l4: (place >> 16) as u16,
        wire: 0,
    };
    let answer = guard::ask(ctx, &facts);
    // A connection is never thinned, nor what completes one; whether it talks is for rules to judge.
    if answer == socket::CONNECTED || answer == socket::HALF_OPEN {
        return 0;
    }
    // SAFETY: as above.
    unsafe {
        if is_spared(ctx, ceiling, &facts, answer) && takes(&raw mut (*ceiling).spared, TOKEN, now) {
            return 0;
        }
    }
    1
}

/// Returns whether a packet is of what a class is to be spared of.
///
/// # Safety
/// `ceiling` is from a lookup.
#[inline(always)]
unsafe fn is_spared(ctx: *mut xdp_md, ceiling: *mut Ceiling, facts: &Facts, answer: u8) -> bool {
    // SAFETY: by the caller.
    let (armed, spared) = unsafe { ((*ceiling).flags, (*ceiling).ports) };
    if armed & flags::SPARE_OPEN != 0 && answer == socket::UNCONNECTED {
        return true;
    }
    if facts.l4 == 0 || !matches!(facts.proto, 6 | 17) {
        return false;
    }
    let mut port = [0u8; 2];
    // SAFETY: two bytes on the stack; the helper checks the packet's length.
    if unsafe { bpf_xdp_load_bytes(ctx, facts.l4 as u32 + 2, (&raw mut port).cast(), 2) } != 0 {
        return false;
    }
    let port = u16::from_be_bytes(port);
    let [a, b, c, d] = spared;
    let [one_hop, echo, hops, member, seamless] = BFD_PORTS;
    let bfd = port == one_hop || port == echo || port == hops || port == member || port == seamless;
    port != 0 && (port == a || port == b || port == c || port == d) || armed & flags::SPARE_BFD != 0 && bfd
}
