//! The packet: bounds-checked reads from XDP's linear part.
#![expect(unsafe_code, reason = "this file is the only one that dereferences packet pointers")]

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use ftagent_common::parse::{Header, Packet, Walk, walk_extensions};

use crate::maps::Counters;

/// A packet as the driver hands it over.
#[derive(Clone, Copy)]
pub struct XdpPacket {
    ctx: *mut xdp_md,
    // Read from the context once: the compiler cannot know that nothing else writes it.
    start: *const u8,
    end: *const u8,
    /// For [`Packet::opaque`], where offsets are to be hidden.
    counters: Option<Counters>,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(ctx: &XdpContext, counters: Option<Counters>) -> Self {
        Self { ctx: ctx.ctx, start: ctx.data() as *const u8, end: ctx.data_end() as *const u8, counters }
    }

    /// Returns the same packet, of which offsets are not hidden.
    #[inline(always)]
    pub fn plain(self) -> Self {
        Self { counters: None, ..self }
    }

    /// Returns the context that the kernel called the program with.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx
    }

    /// Copies the first `bytes` bytes, multi-buffer parts included.
    ///
    /// # Safety
    /// `to` points to at least `bytes` writable bytes that the verifier knows of.
    #[inline(always)]
    pub unsafe fn copy_to(&self, to: *mut u8, bytes: u32) -> bool {
        // SAFETY: the caller vouches for `to`; the helper checks the packet's length.
        unsafe { bpf_xdp_load_bytes(self.ctx, 0, to.cast(), bytes) == 0 }
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn linear(&self) -> usize {
        self.end as usize - self.start as usize
    }

    #[inline(always)]
    fn wire(&self) -> usize {
        // SAFETY: the context is the one the kernel called the program with.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    // The comparison is done on pointers, not on `usize`: LLVM re-associates integer arithmetic,
    // and the verifier then finds the proven range on another register than the one read from.
    #[inline(always)]
    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        let header = self.start.wrapping_add(offset);
        if header.wrapping_add(T::BYTES) > self.end {
            return None;
        }
        // SAFETY: in bounds by the check above, which the verifier repeats; `Header` accepts any
        // bit pattern and needs alignment 2 at most, which every header offset has.
        Some(unsafe { header.cast::<T>().read() })
    }

    #[inline(always)]
    fn extensions(&self, start: Walk) -> Walk {
        Walk::from_bits(ftagent_extensions(self.ctx, start.to_bits()))
    }

    #[inline(always)]
    fn opaque(&self, value: usize) -> usize {
        self.counters.map_or(value, |counters| counters.forget(value as u32) as usize) & 0x7fff
    }
}

/// Follows IPv6 extension headers; a global function, which the verifier checks on its own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ftagent_extensions(ctx: *mut xdp_md, start: u64) -> u64 {
    let ctx = XdpContext::new(ctx);
    walk_extensions(&XdpPacket::new(&ctx, None), Walk::from_bits(start)).to_bits()
}
