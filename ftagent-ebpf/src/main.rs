//! ftagent's datapath: one XDP program that parses, counts, decides and samples every packet.
//!
//! Files that contain `unsafe` say so at their top. There is no panic path: a reachable panic
//! links the handler below, whose endless loop the verifier refuses.
//!
//! Kernel 5.18 or newer (multi-buffer XDP, commit f45d5b6ce2e8; ring buffer 5.8).
#![no_std]
#![no_main]
#![deny(unsafe_code)]
// Atomic additions to what all CPUs share: see `rules.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod capture;
mod guard;
mod lists;
mod maps;
mod packet;
mod rules;
mod sample;
mod tripwire;

use aya_ebpf::{macros::xdp, programs::XdpContext};
use ftagent_common::{
    DropReason, TrafficClass,
    abi::features,
    parse::{Facts, Then, parse_then},
    reason::verdict,
    sample::SampleHeader,
};

use crate::{
    guard::Decision,
    maps::{ClassCell, Counters},
    packet::XdpPacket,
};

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

        let (state, rules) = switches();
        let (action, reason, rule) = match lists::decide(&facts, state) {
            Some(_) if lists::allowed(&facts, state) => {
                counters.count_overruled();
                (verdict::PASS, SampleHeader::NO_REASON, 0)
            }
            Some(reason) => {
                class.count_dropped(&facts);
                counters.count_drop(facts.class, reason as u8);
                (verdict::DROP, reason as u8, 0)
            }
            None if maps::has(features::RULES) => self.by_rules(&facts, class, state, rules),
            None => (verdict::PASS, SampleHeader::NO_REASON, 0),
        };
        // One number tells what is still to be told of the packet: the stack has no room for more.
        let mut told = if maps::has(features::SAMPLER) && class.sample_is_due() { rule | sample::DUE } else { rule };
        // The guard turns a SYN into its answer: where it may, a SYN is sampled before, as passed.
        if sample::is_wanted(told)
            && facts.class == TrafficClass::TcpSyn as u32
            && guard::may_answer(reason == rules::CHALLENGED)
        {
            sample::take(packet, &facts, action, reason, told);
            told = 0;
        }
        let (action, reason) = if maps::has(features::GUARD) && action == verdict::PASS {
            self.by_guard(&facts, class, state, reason)
        } else {
            (action, reason)
        };
        let (action, reason) = if maps::has(features::TRIPWIRE) && action == verdict::PASS {
            self.by_ceiling(&facts, class, state, rules, reason)
        } else {
            (action, reason)
        };
        counters.count_verdict(action);
        if sample::is_wanted(told) {
            sample::take(packet, &facts, action, reason, told);
        }
        action
    }
}

/// Returns the flags of the lists and of the rules, read once for a packet: each tells a half and
/// what is in it, which belong together.
#[inline(always)]
fn switches() -> (u32, u32) {
    if !maps::has(features::LISTS | features::RULES | features::TRIPWIRE) {
        return (0, 0);
    }
    // The rules' word has room for the ceilings' bits, and the stack has none for another.
    maps::control().map_or((0, 0), |control| (control.flags, control.rules | control.ceilings << tripwire::SHIFT))
}

impl Account<'_> {
    /// Asks the signature rules; returns verdict, reason and rule.
    #[inline(always)]
    fn by_rules(&self, facts: &Facts, class: ClassCell, lists: u32, rules: u32) -> (u32, u8, u16) {
        let outcome = rules::decide(self.packet, facts, rules);
        if matches!(outcome.reason, SampleHeader::NO_REASON | rules::CHALLENGED) {
            return (verdict::PASS, outcome.reason, outcome.rule);
        }
        if lists::allowed(facts, lists) {
            self.counters.count_overruled();
            return (verdict::PASS, SampleHeader::NO_REASON, outcome.rule & rules::CAPTURED);
        }
        rules::count_dropped(outcome.rule, facts.wire);
        class.count_dropped(facts);
        self.counters.count_drop(facts.class, outcome.reason);
        (verdict::DROP, outcome.reason, outcome.rule)
    }
}

impl Account<'_> {
    /// Asks the guard about a packet that passes so far; returns verdict and reason.
    #[inline(always)]
    fn by_guard(&self, facts: &Facts, class: ClassCell, lists: u32, reason: u8) -> (u32, u8) {
        let decision = guard::decide(self.packet.context(), facts, reason == rules::CHALLENGED);
        if decision == Decision::Answer {
            return (verdict::TX, reason);
        }
        let Some(why) = decision.reason() else { return (verdict::PASS, reason) };
        if lists::allowed(facts, lists) {
            self.counters.count_overruled();
            return (verdict::PASS, SampleHeader::NO_REASON);
        }
        class.count_dropped(facts);
        self.counters.count_drop(facts.class, why as u8);
        (verdict::DROP, why as u8)
    }
}

impl Account<'_> {
    /// Asks whether a packet that passes so far is too much of its class; returns verdict and reason.
    #[inline(always)]
    fn by_ceiling(&self, facts: &Facts, class: ClassCell, lists: u32, switches: u32, reason: u8) -> (u32, u8) {
        if !tripwire::is_policed(facts.class, switches) || !tripwire::drops(self.packet.context(), facts) {
            return (verdict::PASS, reason);
        }
        if lists::allowed(facts, lists) {
            self.counters.count_overruled();
            return (verdict::PASS, reason);
        }
        class.count_dropped(facts);
        self.counters.count_drop(facts.class, DropReason::Ceiling as u8);
        (verdict::DROP, DropReason::Ceiling as u8)
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
