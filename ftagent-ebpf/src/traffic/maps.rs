//! The traffic programs' maps and packets: everything that dereferences a pointer.
#![expect(unsafe_code, reason = "this file is the only one that dereferences maps and packets")]

use aya_ebpf::{
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head, bpf_xdp_get_buff_len, bpf_xdp_store_bytes},
    macros::btf_map,
    programs::XdpContext,
};

use crate::spec::{FRAME_MAX, Received, Spec, State, Vlan};

#[btf_map(name = "spec")]
static SPEC: Array<Spec, 1> = Array::new();
#[btf_map(name = "state")]
static STATE: PerCpuArray<State, 1> = PerCpuArray::new();
#[btf_map(name = "received")]
static RECEIVED: PerCpuArray<Received, 1> = PerCpuArray::new();
#[btf_map(name = "vlan")]
static VLAN: Array<Vlan, 1> = Array::new();

/// Returns what to generate.
#[inline(always)]
pub fn spec() -> Option<&'static Spec> {
    SPEC.get(0)
}

/// Returns what to do with VLAN tags.
#[inline(always)]
pub fn vlan() -> Option<&'static Vlan> {
    VLAN.get(0)
}

/// Counts a packet that arrived.
#[inline(always)]
pub fn count_received(ctx: &XdpContext) {
    let Some(received) = RECEIVED.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value; XDP runs with bottom halves off. The helper takes the
    // context the kernel called the program with.
    unsafe {
        (*received).packets += 1;
        (*received).bytes += bpf_xdp_get_buff_len(ctx.ctx);
    }
}

/// What this CPU keeps while it generates.
#[derive(Clone, Copy)]
pub struct Generating {
    at: *mut State,
}

impl Generating {
    /// Returns this CPU's state.
    #[inline(always)]
    pub fn of_this_cpu() -> Option<Self> {
        STATE.get_ptr_mut(0).map(|at| Self { at })
    }

    /// Returns the number of packets before this one and counts it.
    #[inline(always)]
    pub fn count(self, length: u32) -> u64 {
        // SAFETY: this CPU's own value; a live frame's program runs with bottom halves off.
        unsafe {
            let number = (*self.at).packets;
            (*self.at).packets = number + 1;
            (*self.at).bytes += length as u64;
            number
        }
    }

    /// Returns the state of the dice.
    #[inline(always)]
    pub fn dice(self) -> u64 {
        // SAFETY: as in `count`.
        unsafe { (*self.at).dice }
    }

    /// Keeps the state of the dice for the next packet.
    #[inline(always)]
    pub fn set_dice(self, dice: u64) {
        // SAFETY: as in `count`.
        unsafe { (*self.at).dice = dice }
    }
}

/// Writes the template over the whole frame: live frames are recycled with whatever their last
/// user left in them.
#[inline(always)]
pub fn write_template(ctx: &XdpContext, spec: &'static Spec) -> bool {
    let length = spec.length;
    if length < 14 || length as usize > FRAME_MAX {
        return false;
    }
    // SAFETY: `length` bytes of `frame` exist by the check above; the helper checks the packet.
    unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, spec.frame.as_ptr().cast_mut().cast(), length) == 0 }
}

/// Returns a pointer to a `T` in the packet, where it lies in the linear part; `offset` is even and
/// below 4096.
// The comparison is done on pointers: see `packet.rs` of the datapath.
#[inline(always)]
fn at<T: Words>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() as *mut u8;
    let end = ctx.data_end() as *mut u8;
    let here = start.wrapping_add(offset & 0xffe);
    if here.wrapping_add(size_of::<T>()) > end { None } else { Some(here.cast()) }
}

/// 16-bit words in memory order. Packets start at even addresses: drivers leave headroom of
/// `XDP_PACKET_HEADROOM`, some with `NET_IP_ALIGN`, both even.
pub trait Words: Copy {}
impl Words for u16 {}
impl<const N: usize> Words for [u16; N] {}

/// Stores words, if the packet is long enough; `offset` is even and below 4096.
#[inline(always)]
pub fn store<T: Words>(ctx: &XdpContext, offset: usize, words: T) -> bool {
    let Some(here) = at::<T>(ctx, offset) else { return false };
    // SAFETY: in bounds by the check in `at`, which the verifier repeats, and aligned: see `Words`.
    unsafe { here.write(words) };
    true
}

/// Loads words, if the packet is long enough; `offset` is even and below 4096.
#[inline(always)]
pub fn load<T: Words>(ctx: &XdpContext, offset: usize) -> Option<T> {
    // SAFETY: as in `store`; every bit pattern is a value.
    at::<T>(ctx, offset).map(|here| unsafe { here.read() })
}

/// Moves the start of the packet: positive cuts bytes off, negative makes room.
#[inline(always)]
pub fn adjust_head(ctx: &XdpContext, bytes: i32) -> bool {
    // SAFETY: the helper checks headroom and length; packet pointers are taken anew after it.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, bytes) == 0 }
}

/// Sends the packet out of another interface.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    // SAFETY: takes two integers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
