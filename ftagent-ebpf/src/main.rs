//! ftagent's datapath: one XDP program that parses, counts, decides and samples every packet.
//!
//! Only `packet.rs` and `maps.rs` contain `unsafe`. There is no panic path: a reachable panic
//! links the handler below, whose endless loop the verifier refuses.
//!
//! Kernel 5.18 or newer (multi-buffer XDP, commit f45d5b6ce2e8; ring buffer 5.8).
#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod lists;
mod maps;
mod packet;
mod sample;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use ftagent_common::{
    abi::features,
    parse::{Facts, Then, parse_then},
    reason::verdict,
    sample::SampleHeader,
};

use crate::{maps::Counters, packet::XdpPacket};

/// The datapath. Its name is `abi::programs::DATAPATH`.
#[xdp(frags)]
pub fn ftagent(ctx: XdpContext) -> u32 {
    let Some(counters) = Counters::of_this_cpu() else {
        // The slot is set by the loader and always exists; passing is the safe answer.
        return verdict::PASS;
    };
    let packet = XdpPacket::new(&ctx, Some(counters));
    parse_then(&packet, maps::is_service_port, Account { packet: &packet, counters })
}

/// Counts, decides and samples; returns the verdict.
struct Account<'a> {
    packet: &'a XdpPacket,
    counters: Counters,
}

impl Then for Account<'_> {
    type Output = u32;

    #[inline(always)]
    fn then(self, mut facts: Facts) -> u32 {
        let Self { packet, counters } = self;
        facts.class = counters.forget(facts.class);
        // Every class has a slot; the verifier does not know that.
        let Some(class) = counters.class(facts.class) else { return verdict::PASS };
        class.count(&facts);

        let state = if maps::has(features::LISTS) { lists::state() } else { 0 };
        let (action, reason) = match lists::decide(&facts, state) {
            Some(_) if lists::allowed(&facts, state) => {
                counters.count_overruled();
                (verdict::PASS, SampleHeader::NO_REASON)
            }
            Some(reason) => {
                class.count_dropped(&facts);
                counters.count_drop(facts.class, reason);
                (verdict::DROP, reason as u8)
            }
            None => (verdict::PASS, SampleHeader::NO_REASON),
        };
        counters.count_verdict(action);
        if maps::has(features::SAMPLER) && class.sample_is_due() {
            sample::take(packet, &facts, action, reason);
        }
        action
    }
}

/// Writes the kernel's clocks to the `clock` map. The daemon test-runs it to learn how jiffies
/// and `CLOCK_MONOTONIC` relate: user space has no jiffies clock. Never attached.
#[xdp]
pub fn ftagent_clock(_ctx: XdpContext) -> u32 {
    maps::read_clocks();
    verdict::PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The helpers for time and ring buffers are for GPL-compatible programs; this project's own
// licence for everything else is MIT or Apache-2.0.
#[expect(unsafe_code, reason = "a section name is how the loader finds the licence")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
