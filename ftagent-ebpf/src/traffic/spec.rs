//! The layouts that the traffic programs and the code that drives them share. The `tests` crate
//! includes this file by path.

/// Longest frame that is generated, bytes, without FCS. The kernel's limit for live frames is a
/// page less headroom, the page's own header and `skb_shared_info`, about 3.4 KiB
/// (`bpf_prog_test_run_xdp`, net/bpf/test_run.c).
pub const FRAME_MAX: usize = 3072;
/// Most words of a frame that can vary.
pub const PATCHES: usize = 24;

/// One 16- or 32-bit word of the frame that differs from packet to packet.
///
/// Its value is `base + (draw & mask) % modulo` (no remainder where `modulo` is 0), `draw` being
/// random, or the number of packets this CPU has generated before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Where it is, bytes from the start of the frame; even, as checksums add 16-bit words.
    pub offset: u32,
    /// 2 or 4 bytes.
    pub width: u32,
    /// Smallest value, host order.
    pub base: u32,
    /// Which bits of the draw count.
    pub mask: u32,
    /// How many values there are; 0: as many as `mask` allows.
    pub modulo: u32,
    /// Draw: 0 for random, all ones for the packet's number.
    pub counted: u32,
    /// All ones where the IPv4 header's checksum covers the word, else 0.
    pub in_ip: u32,
    /// All ones where the transport's checksum covers the word, else 0.
    pub in_l4: u32,
}

/// What to generate.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Length of the frame, bytes.
    pub length: u32,
    /// How many of `patch` count.
    pub patches: u32,
    /// Offset of the IPv4 header's checksum; 0: none.
    pub ip_at: u32,
    /// Offset of the transport's checksum; 0: none.
    pub l4_at: u32,
    /// Sum of what the IPv4 checksum covers and never varies: 16-bit words as they lie in memory,
    /// not folded, not complemented (RFC 1071 §2 (B): the sum works in either byte order).
    pub ip_sum: u32,
    /// The same for the transport, with its pseudo-header.
    pub l4_sum: u32,
    /// What the transport writes for a checksum of 0: `0xffff` for UDP (RFC 768), else 0.
    pub l4_zero: u32,
    /// Alignment.
    pub _pad: u32,
    /// The words that vary.
    pub patch: [Patch; PATCHES],
    /// The frame, with zeros in the words that vary and in the checksums.
    pub frame: [u8; FRAME_MAX],
}

/// What a CPU keeps while it generates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// Packets generated.
    pub packets: u64,
    /// Bytes generated, without FCS.
    pub bytes: u64,
    /// xorshift64's state; never 0.
    pub dice: u64,
}

/// What a CPU received.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets.
    pub packets: u64,
    /// Bytes, without FCS.
    pub bytes: u64,
}

/// How the programs that add and strip VLAN tags treat a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Vlan {
    /// Tags to push, outermost first: EtherType in the upper half, TCI in the lower.
    pub tags: [u32; 2],
    /// How many of them: 0 to 2.
    pub count: u32,
    /// Interface to send the packet out of; 0: `push_vlan` sends it back where it came from,
    /// `pop_vlan` hands it to the stack.
    pub redirect: u32,
}

const _: () = assert!(size_of::<Patch>() == 32);
const _: () = assert!(size_of::<Spec>() == 32 + 32 * PATCHES + FRAME_MAX);
const _: () = assert!(size_of::<State>() == 24 && size_of::<Received>() == 16 && size_of::<Vlan>() == 16);
