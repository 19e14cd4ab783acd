//! Both ends of a packet, as the kernel's lookups of sockets want them.
#![expect(unsafe_code, reason = "a helper fills the tuple where the packet is in pieces")]

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_load_bytes, programs::XdpContext};
use ftagent_common::{guard::OwnAddress, parse::key};

use super::Place;
use crate::{maps, packet::XdpPacket};

/// Both ends of a packet as the lookups want them: `struct bpf_sock_tuple`, the IPv6 arm of which
/// is the longer. Words are read in pairs, which the verifier wants aligned.
#[derive(Default)]
#[repr(C, align(8))]
pub struct Tuple {
    words: [u32; 9],
}

impl Tuple {
    /// Returns how much of it is meant.
    #[inline(always)]
    pub fn bytes(place: Place) -> u32 {
        if place.v6 { 36 } else { 12 }
    }
}

/// Reads the ends. The ports stand behind the addresses, where the family's arm has them.
#[inline(always)]
pub fn ends(ctx: *mut xdp_md, place: Place, tuple: &mut Tuple) -> bool {
    let at = place.l3 + if place.v6 { 8 } else { 12 };
    if linear_ends(&XdpPacket::new(&XdpContext::new(ctx), None), place, at as usize, tuple).is_some() {
        return true;
    }
    // They are not all in the linear part.
    let words = (&raw mut tuple.words).cast::<u8>();
    // SAFETY: the tuple holds 36 bytes; the helper checks the packet's length.
    unsafe {
        if place.v6 {
            bpf_xdp_load_bytes(ctx, at, words.cast(), 32) == 0
                && bpf_xdp_load_bytes(ctx, place.l4, words.add(32).cast(), 4) == 0
        } else {
            bpf_xdp_load_bytes(ctx, at, words.cast(), 8) == 0
                && bpf_xdp_load_bytes(ctx, place.l4, words.add(8).cast(), 4) == 0
        }
    }
}

/// Reads them without a helper, which costs as much as all of this.
#[inline(always)]
fn linear_ends(packet: &XdpPacket, place: Place, at: usize, tuple: &mut Tuple) -> Option<()> {
    let halves = |word: u64| [((word >> 32) as u32).to_be(), (word as u32).to_be()];
    let words = &mut tuple.words;
    // Ports and four bytes more: every header of TCP and UDP has them.
    let [ports, _] = halves(key::word_at(packet, place.l4 as usize)?);
    [words[0], words[1]] = halves(key::word_at(packet, at)?);
    if !place.v6 {
        words[2] = ports;
        return Some(());
    }
    [words[2], words[3]] = halves(key::word_at(packet, at + 8)?);
    [words[4], words[5]] = halves(key::word_at(packet, at + 16)?);
    [words[6], words[7]] = halves(key::word_at(packet, at + 24)?);
    words[8] = ports;
    Some(())
}

/// Returns whether the destination is one of this host's own addresses.
#[inline(always)]
pub fn is_own(place: Place, tuple: &Tuple) -> bool {
    let Some(scratch) = maps::guard_scratch() else { return false };
    let words = &tuple.words;
    let word = |at: usize| u32::from_be(words[at]) as u64;
    scratch.own = if place.v6 {
        OwnAddress { high: word(4) << 32 | word(5), low: word(6) << 32 | word(7) }
    } else {
        OwnAddress::v4(u32::from_be(words[1]))
    };
    maps::is_own(&scratch.own)
}

/// Returns the destination port of a tuple.
#[inline(always)]
pub fn dport(place: Place, tuple: &Tuple) -> u32 {
    let ports = tuple.words[if place.v6 { 8 } else { 2 }];
    let [_, _, high, low] = ports.to_ne_bytes();
    (high as u32) << 8 | low as u32
}
