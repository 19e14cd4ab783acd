//! The prologue of the benchmarks: before every run it writes another frame, then tail-calls the
//! program under test. `BPF_PROG_TEST_RUN` repeats one packet; with this in front of it, sources,
//! ports and kinds of packets come in an order that caches and branch predictors cannot learn.
//!
//! What the prologue costs is measured in front of a bare pass and subtracted.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple, xdp_md},
    btf_maps::{Array, ProgramArray},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    macros::{btf_map, xdp},
    programs::XdpContext,
};

/// Bytes at the front of a frame that the prologue writes. Every frame must have them.
const HEAD: usize = 128;
/// Entries of `steps`; a power of two.
const STEPS: u32 = 1 << 16;
/// Entries of `templates`.
const TEMPLATES: u32 = 64;

/// The front of a frame, and what is to be varied in it.
#[repr(C)]
struct Template {
    head: [u64; HEAD / 8],
    /// 0: nothing; 4 or 6: the source address of that IP version behind an untagged Ethernet header.
    family: u32,
    /// 1: the 16-bit source port behind a header without options.
    ports: u32,
}

// A step: bits 0 to 31 are the source (IPv4, or bits 32 to 63 of an IPv6 source), bits 32 to 47
// the source port, bits 58 to 63 the template.
#[btf_map(name = "steps")]
static STEP: Array<u64, { STEPS as usize }> = Array::new();
#[btf_map(name = "templates")]
static TEMPLATE: Array<Template, { TEMPLATES as usize }> = Array::new();
#[btf_map(name = "position")]
static POSITION: Array<u64, 1> = Array::new();
// All programs of an array agree on `frags`, and xdp-filter's were built before it.
#[btf_map(name = "target")]
static TARGET: ProgramArray<1> = ProgramArray::new();
#[btf_map(name = "target_plain")]
static TARGET_PLAIN: ProgramArray<1> = ProgramArray::new();

/// Writes the next frame and runs `target`.
#[xdp(frags)]
pub fn cycle(ctx: XdpContext) -> u32 {
    if vary(&ctx).is_some() {
        run(&TARGET, &ctx);
    }
    0
}

/// Writes the next frame and runs `target_plain`, programs without `frags`.
#[xdp]
pub fn cycle_plain(ctx: XdpContext) -> u32 {
    if vary(&ctx).is_some() {
        run(&TARGET_PLAIN, &ctx);
    }
    0
}

/// The pass that the plain programs are compared with.
#[xdp]
pub fn pass_plain(_ctx: XdpContext) -> u32 {
    2
}

/// The kernel's lookup of a TCP socket and nothing else: what the guard cannot be cheaper than.
#[xdp(frags)]
pub fn lookup_tcp(ctx: XdpContext) -> u32 {
    lookup(&ctx, bpf_skc_lookup_tcp)
}

/// That of a UDP socket.
#[xdp(frags)]
pub fn lookup_udp(ctx: XdpContext) -> u32 {
    lookup(&ctx, bpf_sk_lookup_udp)
}

type Lookup = unsafe fn(*mut c_void, *mut bpf_sock_tuple, u32, u64, u64) -> *mut bpf_sock;

/// Addresses and ports, the IPv4 arm of `struct bpf_sock_tuple`. Words are written in pairs, which the verifier wants
/// aligned.
#[repr(C, align(8))]
struct Tuple([u32; 3]);

/// Looks up who a frame is for: IPv4 without options behind an untagged Ethernet header.
#[inline(always)]
#[expect(unsafe_code, reason = "asks the kernel for a socket")]
fn lookup(ctx: &XdpContext, lookup: Lookup) -> u32 {
    let start = ctx.data() as *const u8;
    if start.wrapping_add(38) > ctx.data_end() as *const u8 {
        return 0;
    }
    // SAFETY: inside the 38 bytes that were compared with the end.
    let mut tuple = Tuple(unsafe { [26, 30, 34].map(|at| start.add(at).cast::<u32>().read_unaligned()) });
    let context: *mut xdp_md = ctx.ctx;
    // SAFETY: the tuple has the 12 bytes of the IPv4 arm; the namespace is the device's
    // (`BPF_F_CURRENT_NETNS`). What was found is released once.
    unsafe {
        let found = lookup(context.cast(), (&raw mut tuple).cast(), 12, u64::MAX, 0);
        if !found.is_null() {
            bpf_sk_release(found.cast());
        }
    }
    2
}

#[inline(always)]
#[expect(unsafe_code, reason = "a tail call")]
fn run(target: &ProgramArray<1>, ctx: &XdpContext) {
    // SAFETY: nothing of this program is needed again; it returns only where there is no target,
    // and the program then aborts, which the benchmark notices by the verdict.
    unsafe { target.tail_call(ctx, 0) }
}

#[inline(always)]
#[expect(unsafe_code, reason = "the packet is written in place")]
fn vary(ctx: &XdpContext) -> Option<()> {
    let position = POSITION.get_ptr_mut(0)?;
    // SAFETY: the map holds one number, and one CPU runs this.
    let index = unsafe {
        let index = *position;
        *position = index + 1;
        index
    };
    let step = *STEP.get(index as u32 & (STEPS - 1))?;
    let template = TEMPLATE.get((step >> 58) as u32)?;
    let start = ctx.data() as *mut u8;
    let end = ctx.data_end() as *mut u8;
    if start.wrapping_add(HEAD) > end {
        return None;
    }
    // SAFETY: the offsets below are inside the `HEAD` bytes that were compared with the end, and
    // the writes are unaligned ones.
    unsafe {
        for (i, word) in template.head.iter().enumerate() {
            start.add(i * 8).cast::<u64>().write_unaligned(*word);
        }
        match template.family {
            4 => {
                start.add(26).cast::<u32>().write_unaligned((step as u32).to_be());
                if template.ports != 0 {
                    start.add(34).cast::<u16>().write_unaligned((step >> 32) as u16);
                }
            }
            6 => {
                start.add(26).cast::<u32>().write_unaligned((step as u32).to_be());
                if template.ports != 0 {
                    start.add(54).cast::<u16>().write_unaligned((step >> 32) as u16);
                }
            }
            _ => {}
        }
    }
    Some(())
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[expect(unsafe_code, reason = "a section name is how the loader finds the licence")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
