//! The headers as they lie in the packet, and a packet on the host.
//!
//! All integers are big-endian as received. The types have alignment 2: every header offset is
//! even (Ethernet is 14 bytes, everything behind it a multiple of 4), and BPF targets without
//! unaligned access would otherwise need a load for every byte.

use super::Packet;

/// A header that can be read from any bytes.
///
/// # Safety
/// The type must be `repr(C)` with alignment 2 or less, without padding, and valid for every
/// bit pattern.
#[expect(unsafe_code, reason = "the guarantee that lets a packet hand out headers")]
pub unsafe trait Header: Copy {
    /// Bytes of the header.
    const BYTES: usize = size_of::<Self>();
}

macro_rules! headers {
    ($($(#[doc = $doc:literal])* struct $name:ident($bytes:literal) { $($field:ident: $t:ty,)* })*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, Copy)]
        #[repr(C, packed(2))]
        pub(super) struct $name { $(pub(super) $field: $t,)* }
        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() <= 2);
        #[expect(unsafe_code, reason = "see the trait")]
        // SAFETY: plain integers in `repr(C, packed(2))`; the size assertion excludes padding.
        unsafe impl Header for $name {}
    )* };
}

headers! {
    /// Ethernet II.
    struct Ethernet(14) { _addresses: [u16; 6], ethertype: u16, }
    /// What follows a VLAN EtherType.
    struct VlanTag(4) { _tci: u16, ethertype: u16, }
    /// RFC 791.
    struct Ipv4(20) {
        version_ihl: u8, tos: u8, total_length: u16, _id: u16, fragment: u16,
        ttl: u8, proto: u8, _checksum: u16, src: u32, dst: u32,
    }
    /// RFC 8200.
    struct Ipv6(40) {
        version_class_flow: u32, payload_length: u16, next_header: u8, hop_limit: u8,
        src_high: u64, src_low: u64, dst_high: u64, dst_low: u64,
    }
    /// The first 8 bytes of an IPv6 extension header. `length` is in units of 8 bytes and does not
    /// count the first; a fragment header has no length but a `fragment` offset.
    struct Extension(8) { next_header: u8, length: u8, fragment: u16, _id: u32, }
    /// RFC 9293.
    struct Tcp(20) {
        src: u16, dst: u16, _seq: u32, _ack: u32, offset: u8, flags: u8, _window: u16,
        _checksum: u16, _urgent: u16,
    }
    /// RFC 768.
    struct Udp(8) { src: u16, dst: u16, length: u16, _checksum: u16, }
    /// The first 8 bytes of ICMP and ICMPv6.
    struct Icmp(8) { kind: u8, code: u8, _checksum: u16, _rest: u32, }
    /// 8 bytes of payload.
    struct Bytes8(8) { value: u64, }
    /// 4 bytes of payload.
    struct Bytes4(4) { value: u32, }
}

/// 8 bytes at any offset.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub(super) struct Unaligned8 {
    pub(super) value: u64,
}

#[expect(unsafe_code, reason = "see the trait")]
// SAFETY: a plain integer in `repr(C, packed)`.
unsafe impl Header for Unaligned8 {}

/// A packet in memory, for the host: what was captured of a frame, and its length on the wire.
#[derive(Clone, Copy, Debug)]
pub struct SlicePacket<'a> {
    /// The bytes at hand, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Bytes of the frame on the wire; at least `bytes.len()`.
    pub wire: usize,
}

impl<'a> SlicePacket<'a> {
    /// A frame that is complete.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self { bytes, wire: bytes.len() }
    }
}

impl Packet for SlicePacket<'_> {
    fn linear(&self) -> usize {
        self.bytes.len()
    }

    fn wire(&self) -> usize {
        self.wire
    }

    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..offset.checked_add(T::BYTES)?)?;
        #[expect(unsafe_code, reason = "reads a header from bytes of any alignment")]
        // SAFETY: `bytes` is exactly `size_of::<T>()` long and `Header` accepts any bit pattern.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}
