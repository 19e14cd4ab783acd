//! Packets as long as they are, into a ring of their own: those that a capturing rule matches, and TLS
//! ClientHellos among the samples, which are recognised by more than the first bytes.
#![expect(unsafe_code, reason = "fills the ring buffer's memory in place")]

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, xdp_md},
    helpers::generated::bpf_get_smp_processor_id,
    programs::XdpContext,
};
use ftagent_common::sample::{CAPTURE_BYTES, CaptureRecord, SampleHeader};

use crate::{
    maps::{self, CAPTURES, Counters},
    packet::XdpPacket,
    sample::Decided,
};

const SMALL: usize = CAPTURE_BYTES[0];
const MIDDLE: usize = CAPTURE_BYTES[1];
const LARGE: usize = CAPTURE_BYTES[2];
const LARGEST: usize = CAPTURE_BYTES[3];

/// Writes a packet. `decided`: see [`Decided`]; `rule`: slot + 1 of the rule that decided, and in the
/// upper half why it is captured ([`ftagent_common::sample::flags`]).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_capture(ctx: *mut xdp_md, wire: u32, decided: u32, rule: u32) -> u32 {
    // The daemon looks into the ring every few milliseconds: nobody is woken for it.
    let wire_bytes = wire as usize;
    if wire_bytes <= SMALL {
        write::<SMALL>(ctx, wire, decided, rule);
    } else if wire_bytes <= MIDDLE {
        write::<MIDDLE>(ctx, wire, decided, rule);
    } else if wire_bytes <= LARGE {
        write::<LARGE>(ctx, wire, decided, rule);
    } else {
        write::<LARGEST>(ctx, wire, decided, rule);
    }
    0
}

/// Has a packet written; see [`ftagent_capture`].
#[inline(always)]
pub fn take(ctx: *mut xdp_md, wire: u32, decided: u32, rule: u32, why: u16) {
    ftagent_capture(ctx, wire, decided, rule & 0xffff | (why as u32) << 16);
}

/// What finds no room is counted as a sample that was lost.
#[inline(always)]
fn write<const N: usize>(ctx: *mut xdp_md, wire: u32, decided: u32, rule: u32) {
    let context = XdpContext::new(ctx);
    let packet = XdpPacket::new(&context, None);
    let Some(mut entry) = CAPTURES.reserve_untyped::<CaptureRecord<N>>(0) else {
        if let Some(counters) = Counters::of_this_cpu() {
            counters.count_sample(false);
        }
        return;
    };
    let record: *mut CaptureRecord<N> = entry.as_mut_ptr();
    let captured = wire.min(N as u32);
    let Decided { class, verdict, reason, socket } = Decided::from_bits(decided);
    // SAFETY: `record` is reserved memory of the record's size, written field by field; the copy is at
    // most `N` long, a power of two.
    let copied = unsafe {
        (&raw mut (*record).header).write(SampleHeader {
            time_ns: maps::now_ns(),
            wire_bytes: wire,
            stride: 1,
            captured: captured as u16,
            slot: maps::slot() as u16,
            class,
            verdict,
            reason,
            socket,
            rule: rule & 0xffff,
            cpu: bpf_get_smp_processor_id() as u16,
            flags: (rule >> 16) as u16,
        });
        // As in `sample.rs`.
        let bytes = ((captured.wrapping_sub(1)) & (N as u32 - 1)) + 1;
        packet.copy_to((&raw mut (*record).data).cast(), bytes)
    };
    if copied {
        entry.submit(BPF_RB_NO_WAKEUP as u64);
    } else {
        entry.discard(BPF_RB_NO_WAKEUP as u64);
    }
}
