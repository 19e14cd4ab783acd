//! The sampler: packet prefixes into the ring buffer, with what was decided about them.
#![expect(unsafe_code, reason = "fills the ring buffer's memory in place")]

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, xdp_md},
    helpers::generated::bpf_get_smp_processor_id,
    programs::XdpContext,
};
use ftagent_common::{
    TrafficClass,
    abi::features,
    guard::socket,
    parse::Facts,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord, flags},
};

use crate::{
    capture, guard,
    maps::{self, Counters, Draw, SAMPLES},
    packet::XdpPacket,
    rules::{CAPTURED, CHALLENGED},
    tripwire,
};

/// In the upper bits of a rule's number: the packet is due to be sampled.
pub const DUE: u16 = 1 << 14;

/// Returns whether a packet is to be sampled or captured. `rule`: see [`take`].
#[inline(always)]
pub const fn is_wanted(rule: u16) -> bool {
    rule & (DUE | CAPTURED) != 0
}

/// Takes a sample where one is due, and hands the packet to whoever captures it. `rule`: slot + 1 of the
/// signature rule that matched, 0 for none, and [`DUE`] and [`CAPTURED`].
#[inline(always)]
pub fn take(packet: &XdpPacket, facts: &Facts, action: u32, reason: u8, rule: u16) {
    let socket = if maps::has(features::GUARD) { guard::ask(packet.context(), facts) } else { socket::UNKNOWN };
    // What is challenged is not dropped.
    let reason = if reason == CHALLENGED { SampleHeader::NO_REASON } else { reason };
    let decided = Decided { class: facts.class as u8, verdict: action as u8, reason, socket };
    ftagent_sample(packet.context(), facts.wire, decided.to_bits(), rule as u32);
}

/// What was decided about a packet, as it crosses calls.
#[derive(Clone, Copy)]
pub struct Decided {
    pub class: u8,
    pub verdict: u8,
    pub reason: u8,
    pub socket: u8,
}

impl Decided {
    #[inline(always)]
    fn to_bits(self) -> u32 {
        u32::from_le_bytes([self.class, self.verdict, self.reason, self.socket])
    }

    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        let [class, verdict, reason, socket] = bits.to_le_bytes();
        Self { class, verdict, reason, socket }
    }
}

/// Writes a sample; a global function, because few packets come here and the datapath is
/// compiled once for each family. The daemon drains the ring at every tick; it is woken by the sample
/// that says that there is too much of its class, which no cap forbids.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_sample(ctx: *mut xdp_md, wire: u32, decided: u32, rule: u32) -> u32 {
    let (marks, bits, rule) = (rule, decided, rule & !(CAPTURED | DUE) as u32);
    if marks & CAPTURED as u32 != 0 {
        capture::take(ctx, wire, bits, rule, flags::CAPTURED);
    }
    if marks & DUE as u32 == 0 {
        return 0;
    }
    let Some(counters) = Counters::of_this_cpu() else { return 0 };
    let context = XdpContext::new(ctx);
    let (packet, decided) = (XdpPacket::new(&context, None), Decided::from_bits(decided));
    let Some(Draw { stride, gap, allowed }) = counters.draw(decided.class as u32) else { return 0 };
    // Charged with the packets until the next sample, not with the mean: what is charged is then what
    // is counted, but for one gap.
    let wakes = maps::has(features::TRIPWIRE) && tripwire::is_too_much(decided.class as u32, gap, wire);
    if !allowed && !wakes {
        counters.count_capped();
        return 0;
    }
    let wakeup = if wakes { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP } as u64;
    let Some(mut entry) = SAMPLES.reserve(0) else {
        counters.count_sample(false);
        return 0;
    };
    let record: *mut SampleRecord = entry.as_mut_ptr();
    // The copy crosses into multi-buffer parts, so the length on the wire is the bound.
    let captured = wire.min(SAMPLE_BYTES as u32);
    // SAFETY: `record` is reserved memory of the record's size, written field by field; the copy
    // is at most `SAMPLE_BYTES` long.
    let copied = unsafe {
        (&raw mut (*record).header).write(SampleHeader {
            time_ns: maps::now_ns(),
            wire_bytes: wire,
            stride,
            captured: captured as u16,
            slot: maps::slot() as u16,
            class: decided.class,
            verdict: decided.verdict,
            reason: decided.reason,
            socket: decided.socket,
            rule,
            cpu: bpf_get_smp_processor_id() as u16,
            flags: if wakes { flags::WOKE } else { 0 },
        });
        // 1 to 128 by arithmetic: comparisons would be proven on another register than the one
        // that the helper gets.
        let bytes = ((captured.wrapping_sub(1)) & (SAMPLE_BYTES as u32 - 1)) + 1;
        packet.copy_to((&raw mut (*record).data).cast(), bytes)
    };
    // What names a client is behind the first bytes.
    if decided.class == TrafficClass::TlsClientHello as u8 && wire > SAMPLE_BYTES as u32 {
        capture::take(ctx, wire, bits, rule, flags::HELLO);
    }
    if copied {
        entry.submit(wakeup);
    } else {
        entry.discard(wakeup);
    }
    counters.count_sample(copied);
    0
}
