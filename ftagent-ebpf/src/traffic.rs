//! Programs for tests, demo and benchmarks: the traffic generator, and what receives its packets.
//!
//! Not part of the product: the daemon embeds none of this. Kernel 5.18 or newer (live frames,
//! commit b530e9e1063e; `bpf_xdp_store_bytes`, commit 3f364222d032).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

#[path = "traffic/maps.rs"]
mod maps;
#[path = "traffic/spec.rs"]
mod spec;

use aya_ebpf::{
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};

use crate::{
    maps::{Generating, adjust_head, count_received, load, redirect, store},
    spec::{PATCHES, Spec},
};

/// Passes every packet: the harness cost in benchmarks, and what the peer of a veth needs for
/// `XDP_TX` to arrive.
#[xdp(frags)]
pub fn pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Counts every packet and passes it.
#[xdp(frags)]
pub fn count(ctx: XdpContext) -> u32 {
    count_received(&ctx);
    XDP_PASS
}

/// Counts every packet and drops it.
#[xdp(frags)]
pub fn drop(ctx: XdpContext) -> u32 {
    count_received(&ctx);
    XDP_DROP
}

/// Writes one packet of the flood over a live frame and sends it out of the interface that the
/// frame claims to come from. Run by `BPF_PROG_TEST_RUN`, never attached.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    let (Some(spec), Some(state)) = (maps::spec(), Generating::of_this_cpu()) else { return XDP_ABORTED };
    if !maps::write_template(&ctx, spec) || !vary(&ctx, spec, state) {
        return XDP_ABORTED;
    }
    XDP_TX
}

/// Writes the words that vary and the checksums.
#[inline(always)]
fn vary(ctx: &XdpContext, spec: &'static Spec, state: Generating) -> bool {
    let number = state.count(spec.length) as u32;
    let mut dice = state.dice();
    let (mut ip, mut l4) = (spec.ip_sum as u64, spec.l4_sum as u64);
    for i in 0..PATCHES {
        if i >= spec.patches as usize {
            break;
        }
        let Some(patch) = spec.patch.get(i) else { break };
        // xorshift64 (Marsaglia 2003); the upper half is the better one.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let random = (dice >> 32) as u32;
        let draw = ((number & patch.counted) | (random & !patch.counted)) & patch.mask;
        let value = patch.base.wrapping_add(draw.checked_rem(patch.modulo).unwrap_or(draw));
        let (high, low) = ((value >> 16) as u16, value as u16);
        let (high, low) = (high.to_be(), low.to_be());
        let mut sum = low as u64;
        let mut offset = patch.offset as usize;
        if patch.width == 4 {
            sum += high as u64;
            if !store(ctx, offset, high) {
                return false;
            }
            offset += 2;
        }
        if !store(ctx, offset, low) {
            return false;
        }
        ip += sum & patch.in_ip as u64;
        l4 += sum & patch.in_l4 as u64;
    }
    state.set_dice(dice);
    if spec.ip_at != 0 && !store(ctx, spec.ip_at as usize, checksum(ip)) {
        return false;
    }
    if spec.l4_at == 0 {
        return true;
    }
    let l4 = checksum(l4);
    store(ctx, spec.l4_at as usize, if l4 == 0 { spec.l4_zero as u16 } else { l4 })
}

/// Folds a sum of 16-bit words and complements it (RFC 1071). Sums here stay far below 2^33.
#[inline(always)]
fn checksum(sum: u64) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

/// Pushes the tags of the `vlan` map.
#[xdp]
pub fn push_vlan(ctx: XdpContext) -> u32 {
    count_received(&ctx);
    let Some(vlan) = maps::vlan() else { return XDP_ABORTED };
    // Innermost first: each push goes before what is there.
    let [outer, inner] = vlan.tags;
    if vlan.count >= 2 && !push(&ctx, inner) || vlan.count >= 1 && !push(&ctx, outer) {
        return XDP_ABORTED;
    }
    if vlan.redirect != 0 { redirect(vlan.redirect) } else { XDP_TX }
}

/// Strips up to two tags.
#[xdp]
pub fn pop_vlan(ctx: XdpContext) -> u32 {
    count_received(&ctx);
    let Some(vlan) = maps::vlan() else { return XDP_ABORTED };
    // Twice, written out: a loop around `adjust_head` gains nothing.
    if is_tagged(&ctx) && !pop(&ctx) || is_tagged(&ctx) && !pop(&ctx) {
        return XDP_ABORTED;
    }
    if vlan.redirect != 0 { redirect(vlan.redirect) } else { XDP_PASS }
}

/// Moves the 12 bytes of addresses from one offset to another. The ranges may overlap.
#[inline(always)]
fn move_addresses(ctx: &XdpContext, from: usize, to: usize) -> bool {
    load::<[u16; 6]>(ctx, from).is_some_and(|addresses| store(ctx, to, addresses))
}

#[inline(always)]
fn push(ctx: &XdpContext, tag: u32) -> bool {
    adjust_head(ctx, -4)
        && move_addresses(ctx, 4, 0)
        && store(ctx, 12, ((tag >> 16) as u16).to_be())
        && store(ctx, 14, (tag as u16).to_be())
}

/// 802.1Q and 802.1ad, and the EtherType that was used for QinQ before 802.1ad.
#[inline(always)]
fn is_tagged(ctx: &XdpContext) -> bool {
    matches!(load(ctx, 12).map(u16::from_be), Some(0x8100 | 0x88a8 | 0x9100))
}

#[inline(always)]
fn pop(ctx: &XdpContext) -> bool {
    move_addresses(ctx, 0, 4) && adjust_head(ctx, 4)
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[expect(unsafe_code, reason = "a section name is how the loader finds the licence")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
