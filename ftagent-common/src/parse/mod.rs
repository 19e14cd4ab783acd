//! The parser and classifier: one packet in, one traffic class and the facts around it out.
//!
//! The kernel program and the host run this same code; what differs is the [`Packet`] behind it.
//! Every byte is read through a bounds check, and a packet that cannot be parsed is `malformed`,
//! never an abort.
//!
//! A packet has a *linear* part, which can be read, and a length on the wire, which may be
//! larger: in XDP the rest of a multi-buffer packet, on the host the part that a capture cut off.

mod headers;
pub mod key;
mod l4;

pub use headers::{Header, SlicePacket};
pub use key::key;

use self::headers::{Ethernet, Extension, Ipv4, Ipv6, VlanTag};
use crate::{TrafficClass, abi::MAX_EXTENSION_HEADERS};

/// Where the parser reads from.
pub trait Packet {
    /// Returns how many bytes can be read.
    fn linear(&self) -> usize;
    /// Returns how many bytes the frame has on the wire, without FCS. May be slow.
    fn wire(&self) -> usize;
    /// Returns the header at `offset`, or `None` where it leaves the linear part.
    fn load<T: Header>(&self, offset: usize) -> Option<T>;
    /// Follows IPv6 extension headers: [`walk_extensions`], which the kernel program calls as a
    /// function that the verifier checks once instead of once for every packet behind it.
    fn extensions(&self, start: Walk) -> Walk {
        walk_extensions(self, start)
    }
    /// Returns its argument, an offset below 32 KiB. The kernel program hides the value from the
    /// compiler and the verifier, which would follow every one to the program's end separately.
    fn opaque(&self, value: usize) -> usize {
        value
    }
}

/// A position in a chain of IPv6 extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Offset of the header that `proto` names.
    pub offset: u16,
    /// Bytes from there to the end of the IP packet.
    pub bytes: u16,
    /// Number of the next header.
    pub proto: u8,
    /// How the walk ended.
    pub end: WalkEnd,
}

/// How a walk along extension headers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WalkEnd {
    /// At a header that is not an extension header.
    Protocol = 0,
    /// At a fragment, the first of its datagram.
    FragFirst = 1,
    /// At a later fragment.
    FragNext = 2,
    /// At a header that is cut off or contradicts itself, or after too many.
    Broken = 3,
}

impl Walk {
    /// Packs the walk into a register.
    pub const fn to_bits(self) -> u64 {
        (self.offset as u64) << 32 | (self.bytes as u64) << 16 | (self.proto as u64) << 8 | self.end as u64
    }

    /// Unpacks what [`Self::to_bits`] packed.
    pub const fn from_bits(bits: u64) -> Self {
        let end = match bits & 3 {
            0 => WalkEnd::Protocol,
            1 => WalkEnd::FragFirst,
            2 => WalkEnd::FragNext,
            _ => WalkEnd::Broken,
        };
        Self { offset: (bits >> 32) as u16 & MAX_OFFSET, bytes: (bits >> 16) as u16, proto: (bits >> 8) as u8, end }
    }
}

const fn is_extension(number: u8) -> bool {
    matches!(number, proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION | proto::FRAGMENT)
}

/// Follows IPv6 extension headers up to the bound. AH ends the walk, because what it protects is
/// counted by it; so does a fragment, because what follows is not a header.
#[inline(always)]
pub fn walk_extensions<P: Packet + ?Sized>(packet: &P, start: Walk) -> Walk {
    let mut walk = start;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if !is_extension(walk.proto) {
            return Walk { end: WalkEnd::Protocol, ..walk };
        }
        // Both kinds are at least 8 bytes long and begin with the next header's number.
        let Some(head) = packet.load::<Extension>(walk.offset as usize) else { break };
        let is_fragment = walk.proto == proto::FRAGMENT;
        let bytes = if is_fragment { 8 } else { (head.length as u16 + 1) * 8 };
        if bytes > walk.bytes {
            break;
        }
        // Eight headers of 2048 bytes at most: the mask changes nothing, but bounds the offset for
        // the verifier, which allows none near 64 KiB (MAX_PACKET_OFF, kernel/bpf/verifier.c).
        walk.offset = (walk.offset + bytes) & MAX_OFFSET;
        walk.bytes -= bytes;
        walk.proto = head.next_header;
        let fragment = u16::from_be(head.fragment);
        // An atomic fragment (RFC 6946) is a whole packet: go on behind the header.
        if is_fragment && fragment & 0xfff9 != 0 {
            let offset = fragment & 0xfff8;
            let end = match offset {
                _ if offset as u32 + walk.bytes as u32 > LARGEST_DATAGRAM => WalkEnd::Broken,
                0 => WalkEnd::FragFirst,
                _ => WalkEnd::FragNext,
            };
            return Walk { end, ..walk };
        }
    }
    let end = if is_extension(walk.proto) { WalkEnd::Broken } else { WalkEnd::Protocol };
    Walk { end, ..walk }
}

const MAX_OFFSET: u16 = 0x7fff;
const LARGEST_DATAGRAM: u32 = 0xffff;

/// Which IP family a packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Family {
    /// Not IP, or the IP header is cut off.
    None = 0,
    /// IPv4: the addresses are in the low 32 bits of `src.1` and `dst.1`.
    V4 = 4,
    /// IPv6: upper and lower 64 bits.
    V6 = 6,
}

/// What the parser found. Addresses are numbers in host byte order, the upper half first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// [`TrafficClass`] by number.
    pub class: u32,
    /// Set as soon as the addresses could be read, for malformed packets as well, so that
    /// breaking a header is no way around a block list.
    pub family: Family,
    /// Source address.
    pub src: (u64, u64),
    /// Destination address.
    pub dst: (u64, u64),
    /// IP protocol of the last header that was reached.
    pub proto: u8,
    /// Offset of the IP header.
    pub l3: u16,
    /// Offset of the header behind IP and its extensions; 0 where none was reached.
    pub l4: u16,
    /// Bytes of the frame on the wire.
    pub wire: u32,
}

/// What IP says of the packet, handed to the layer above.
#[derive(Clone, Copy)]
struct Inner {
    /// Offset of the transport header.
    offset: usize,
    /// Bytes from there to the end of the IP packet.
    bytes: usize,
    /// Protocol number.
    proto: u8,
    /// The source is the unspecified address, which only a few protocols may use.
    unspecified: bool,
    /// 0 where source and destination address are the same.
    address_difference: u64,
}

const ETH_ARP: u16 = 0x0806;
const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
/// A first buffer of this many bytes or fewer is the whole frame, unless the packet in it goes on
/// behind it: drivers start the next buffer when one is full, at 1.5 KiB or more, or behind the
/// headers (header split), and then the packet does go on. Asking costs 9 ns.
const WHOLE_FRAME: usize = 256;
/// The upper four bits of a multicast address (RFC 5771).
const MULTICAST_V4: u32 = 0xe0;

mod proto {
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const IPV6: u8 = 41;
    pub const GRE: u8 = 47;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION: u8 = 60;
}

/// Parses and classifies a packet. `is_service` answers whether a UDP port is one this node
/// serves; it is asked only where a source port suggests a reflector.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, is_service: impl Fn(u16) -> bool) -> Facts {
    parse_then(packet, is_service, Return)
}

/// What is to be done with a packet that was parsed.
///
/// A trait and no closure: closures cannot be told to be inlined.
pub trait Then {
    /// What comes out of it.
    type Output;
    /// Goes on with the facts.
    fn then(self, facts: Facts) -> Self::Output;
}

/// Returns the facts.
struct Return;

impl Then for Return {
    type Output = Facts;

    #[inline(always)]
    fn then(self, facts: Facts) -> Facts {
        facts
    }
}

/// Parses and classifies a packet, then goes on with what was found.
///
/// What comes then is compiled once for each IP family and once for everything else. The family
/// and the unused half of the addresses are constants there, where one place for all families
/// would have to keep every fact in memory: BPF has nine registers.
#[inline(always)]
pub fn parse_then<P: Packet, T: Then>(packet: &P, is_service: impl Fn(u16) -> bool, next: T) -> T::Output {
    let mut facts = Facts {
        class: TrafficClass::Malformed as u32,
        family: Family::None,
        src: (0, 0),
        dst: (0, 0),
        proto: 0,
        l3: 0,
        l4: 0,
        wire: packet.linear() as u32,
    };
    if let Some((ethertype, l3)) = link_layer(packet) {
        facts.l3 = l3 as u16;
        match ethertype {
            ETH_IPV4 => {
                if let Some(ip) = packet.load::<Ipv4>(l3) {
                    let inner = ipv4(packet, &mut facts, l3, ip);
                    return next.then(transport(packet, Family::V4, facts, inner, is_service));
                }
            }
            ETH_IPV6 => {
                if let Some(ip) = packet.load::<Ipv6>(l3) {
                    let inner = ipv6(packet, &mut facts, l3, ip);
                    return next.then(transport(packet, Family::V6, facts, inner, is_service));
                }
            }
            ETH_ARP => facts.class = TrafficClass::Arp as u32,
            _ => facts.class = TrafficClass::OtherL2 as u32,
        }
    }
    // Nothing in such a packet tells its length.
    facts.wire = wire_bytes(packet);
    next.then(facts)
}

/// Fills in the class, and what is known of the header behind IP.
#[inline(always)]
fn transport<P: Packet>(
    packet: &P,
    family: Family,
    mut facts: Facts,
    inner: Result<Inner, TrafficClass>,
    is_service: impl Fn(u16) -> bool,
) -> Facts {
    facts.family = family;
    let class = match inner {
        Ok(inner) => {
            facts.proto = inner.proto;
            facts.l4 = inner.offset as u16;
            l4::classify(packet, family, inner, is_service)
        }
        Err(class) => class,
    };
    Facts { class: class as u32, ..facts }
}

/// Returns the EtherType behind up to two VLAN tags, and the offset of what it announces.
#[inline(always)]
fn link_layer<P: Packet>(packet: &P) -> Option<(u16, usize)> {
    let ethertype = u16::from_be(packet.load::<Ethernet>(0)?.ethertype);
    if !is_vlan(ethertype) {
        return Some((ethertype, Ethernet::BYTES));
    }
    let ethertype = u16::from_be(packet.load::<VlanTag>(Ethernet::BYTES)?.ethertype);
    if !is_vlan(ethertype) {
        return Some((ethertype, packet.opaque(Ethernet::BYTES + VlanTag::BYTES)));
    }
    let ethertype = u16::from_be(packet.load::<VlanTag>(Ethernet::BYTES + VlanTag::BYTES)?.ethertype);
    Some((ethertype, packet.opaque(Ethernet::BYTES + 2 * VlanTag::BYTES)))
}

#[inline(always)]
const fn is_vlan(ethertype: u16) -> bool {
    ethertype == ETH_VLAN || ethertype == ETH_QINQ
}

/// Returns the length on the wire of a frame that does not tell it itself.
#[inline(always)]
fn wire_bytes<P: Packet>(packet: &P) -> u32 {
    let linear = packet.linear();
    (if linear <= WHOLE_FRAME { linear } else { packet.wire() }) as u32
}

/// Returns whether `end` bytes of frame are more than the wire carried.
///
/// Asks for the length on the wire unless the packet ends where the first buffer does, or in the
/// padding of a small one: whatever else lies behind a packet may go on in other buffers.
#[inline(always)]
fn beyond_wire<P: Packet>(packet: &P, facts: &mut Facts, end: usize) -> bool {
    let linear = packet.linear();
    if end == linear || (end < linear && linear <= WHOLE_FRAME) {
        return false;
    }
    let wire = packet.wire();
    facts.wire = wire as u32;
    end > wire
}

/// RFC 791. The checksum is not verified: the stack does, and an offloaded one is not there yet.
#[inline(always)]
fn ipv4<P: Packet>(packet: &P, facts: &mut Facts, l3: usize, ip: Ipv4) -> Result<Inner, TrafficClass> {
    let (src, dst) = (u32::from_be(ip.src), u32::from_be(ip.dst));
    facts.src = (0, src as u64);
    facts.dst = (0, dst as u64);
    facts.proto = ip.proto;

    let header = (ip.version_ihl & 15) as usize * 4;
    let total = u16::from_be(ip.total_length) as usize;
    let broken = ip.version_ihl >> 4 != 4 || header < Ipv4::BYTES || total < header;
    // First, because it notes the length on the wire.
    let beyond = beyond_wire(packet, facts, l3 + total);
    if beyond || broken || martian4(src) {
        return Err(TrafficClass::Malformed);
    }
    let inner = Inner {
        offset: l3 + header,
        bytes: total - header,
        proto: ip.proto,
        unspecified: src == 0,
        address_difference: (src ^ dst) as u64,
    };
    let fragment = u16::from_be(ip.fragment);
    if fragment & 0x3fff != 0 {
        return Err(fragment_class(inner, (fragment & 0x1fff) as usize * 8, header));
    }
    Ok(inner)
}

/// RFC 8200.
#[inline(always)]
fn ipv6<P: Packet>(packet: &P, facts: &mut Facts, l3: usize, ip: Ipv6) -> Result<Inner, TrafficClass> {
    facts.src = (u64::from_be(ip.src_high), u64::from_be(ip.src_low));
    facts.dst = (u64::from_be(ip.dst_high), u64::from_be(ip.dst_low));
    facts.proto = ip.next_header;

    let payload = u16::from_be(ip.payload_length) as usize;
    let broken = u32::from_be(ip.version_class_flow) >> 28 != 6;
    // First, because it notes the length on the wire.
    let beyond = beyond_wire(packet, facts, l3 + Ipv6::BYTES + payload);
    if beyond || broken || martian6(facts.src) {
        return Err(TrafficClass::Malformed);
    }
    let unspecified = facts.src == (0, 0);
    let mut inner = Inner {
        offset: l3 + Ipv6::BYTES,
        bytes: payload,
        proto: ip.next_header,
        unspecified,
        address_difference: (facts.src.0 ^ facts.dst.0) | (facts.src.1 ^ facts.dst.1),
    };
    if is_extension(ip.next_header) {
        let (offset, bytes) = (inner.offset as u16, inner.bytes as u16);
        let walk = packet.extensions(Walk { offset, bytes, proto: ip.next_header, end: WalkEnd::Protocol });
        facts.proto = walk.proto;
        match walk.end {
            WalkEnd::Protocol => {}
            WalkEnd::FragFirst if !unspecified => return Err(TrafficClass::FragFirst),
            WalkEnd::FragNext if !unspecified => return Err(TrafficClass::FragNext),
            _ => return Err(TrafficClass::Malformed),
        }
        inner.offset = packet.opaque(walk.offset as usize);
        inner.bytes = walk.bytes as usize;
        inner.proto = walk.proto;
    }
    Ok(inner)
}

/// A fragment that would end past the largest datagram contradicts itself ("ping of death"). The
/// header counts too (RFC 791, 3.1: the total length is that of header and data).
#[inline(always)]
fn fragment_class(inner: Inner, offset: usize, header: usize) -> TrafficClass {
    if inner.unspecified || (header + offset + inner.bytes) as u32 > LARGEST_DATAGRAM {
        TrafficClass::Malformed
    } else if offset == 0 {
        TrafficClass::FragFirst
    } else {
        TrafficClass::FragNext
    }
}

/// Sources that no packet from outside can have: loopback, multicast, limited broadcast. The
/// unspecified address is judged later; private ranges are not martian.
#[inline(always)]
const fn martian4(src: u32) -> bool {
    let top = src >> 24;
    top == 127 || top & 0xf0 == MULTICAST_V4 || src == u32::MAX
}

#[inline(always)]
const fn martian6(src: (u64, u64)) -> bool {
    src.0 >> 56 == 0xff || (src.0 == 0 && src.1 == 1)
}

#[cfg(test)]
mod tests;
