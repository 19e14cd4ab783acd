//! What signature rules look at, read from a packet that was parsed.

use super::{
    Facts, Family, Packet,
    headers::{Header as _, Icmp, Ipv4, Ipv6, Tcp, Udp},
    proto,
};
use crate::{
    TrafficClass,
    rules::{Key, fragment as bits, has},
};

/// Returns the key of a packet. Malformed packets and what is not IP have none of the fields:
/// no rule applies to them.
#[inline(always)]
pub fn key<P: Packet>(packet: &P, facts: &Facts) -> Key {
    let mut key = Key { proto: facts.proto, ..Key::default() };
    if facts.class == TrafficClass::Malformed as u32 || matches!(facts.family, Family::None) {
        return key;
    }
    let (Some(len), Some(ttl), Some(dscp), Some(fragment)) =
        (len(packet, facts), ttl(packet, facts), dscp(packet, facts), fragment(packet, facts))
    else {
        return key;
    };
    (key.len, key.ttl, key.dscp, key.fragment, key.has) = (len, ttl, dscp, fragment, has::IP);
    if let Some((sport, dport)) = ports(packet, facts) {
        (key.sport, key.dport) = (sport, dport);
        key.has |= has::PORTS;
    }
    if let Some(flags) = flags(packet, facts) {
        key.flags = flags;
        key.has |= has::FLAGS;
    }
    if let Some((kind, code)) = icmp(packet, facts) {
        (key.icmp_type, key.icmp_code) = (kind, code);
        key.has |= has::ICMP;
    }
    if let Some(payload) = payload(packet, facts) {
        key.payload = payload;
        key.has |= has::PAYLOAD;
    }
    key
}

// One function for each field: the kernel program reads those that rules ask for.

#[inline(always)]
fn ip4<P: Packet>(packet: &P, facts: &Facts) -> Option<Ipv4> {
    packet.load::<Ipv4>(packet.opaque(facts.l3 as usize))
}

#[inline(always)]
fn ip6<P: Packet>(packet: &P, facts: &Facts) -> Option<Ipv6> {
    packet.load::<Ipv6>(packet.opaque(facts.l3 as usize))
}

/// Returns the total length of an IP packet.
#[inline(always)]
pub fn len<P: Packet>(packet: &P, facts: &Facts) -> Option<u16> {
    match facts.family {
        Family::V6 => {
            let payload = u16::from_be(ip6(packet, facts)?.payload_length);
            Some(payload.saturating_add(Ipv6::BYTES as u16))
        }
        _ => Some(u16::from_be(ip4(packet, facts)?.total_length)),
    }
}

/// Returns the TTL or hop limit of an IP packet.
#[inline(always)]
pub fn ttl<P: Packet>(packet: &P, facts: &Facts) -> Option<u8> {
    match facts.family {
        Family::V6 => Some(ip6(packet, facts)?.hop_limit),
        _ => Some(ip4(packet, facts)?.ttl),
    }
}

/// Returns the DSCP of an IP packet.
#[inline(always)]
pub fn dscp<P: Packet>(packet: &P, facts: &Facts) -> Option<u8> {
    match facts.family {
        Family::V6 => Some((u32::from_be(ip6(packet, facts)?.version_class_flow) >> 22) as u8 & 63),
        _ => Some(ip4(packet, facts)?.tos >> 2),
    }
}

/// Returns the bits of [`fragment`](crate::rules::fragment) of an IP packet.
#[inline(always)]
pub fn fragment<P: Packet>(packet: &P, facts: &Facts) -> Option<u8> {
    match facts.family {
        // Which of the later fragments is the last is not noted: the header is behind others.
        Family::V6 => Some(match facts.class {
            class if class == TrafficClass::FragFirst as u32 => bits::FIRST,
            class if class == TrafficClass::FragNext as u32 => bits::IS,
            _ => 0,
        }),
        _ => Some(fragment4(u16::from_be(ip4(packet, facts)?.fragment))),
    }
}

#[inline(always)]
const fn fragment4(field: u16) -> u8 {
    let (more, offset) = (field & 0x2000 != 0, field & 0x1fff);
    let mut fragment = if field & 0x4000 != 0 { bits::DONT } else { 0 };
    if offset != 0 {
        fragment |= bits::IS;
        if !more {
            fragment |= bits::LAST;
        }
    } else if more {
        fragment |= bits::FIRST;
    }
    fragment
}

/// Returns source and destination port of TCP and UDP. They are in the same place.
#[inline(always)]
pub fn ports<P: Packet>(packet: &P, facts: &Facts) -> Option<(u16, u16)> {
    if facts.l4 == 0 || !matches!(facts.proto, proto::TCP | proto::UDP) {
        return None;
    }
    let head = packet.load::<Udp>(packet.opaque(facts.l4 as usize))?;
    Some((u16::from_be(head.src), u16::from_be(head.dst)))
}

/// Returns the flags of TCP.
#[inline(always)]
pub fn flags<P: Packet>(packet: &P, facts: &Facts) -> Option<u8> {
    if facts.l4 == 0 || facts.proto != proto::TCP {
        return None;
    }
    Some(packet.load::<Tcp>(packet.opaque(facts.l4 as usize))?.flags)
}

/// Returns type and code of ICMP and ICMPv6.
#[inline(always)]
pub fn icmp<P: Packet>(packet: &P, facts: &Facts) -> Option<(u8, u8)> {
    if facts.l4 == 0 || !matches!(facts.proto, proto::ICMP | proto::ICMPV6) {
        return None;
    }
    let head = packet.load::<Icmp>(packet.opaque(facts.l4 as usize))?;
    Some((head.kind, head.code))
}

/// Returns the offset in the frame of the payload: behind TCP, UDP, ICMP's eight bytes, or IP.
#[inline(always)]
pub fn payload<P: Packet>(packet: &P, facts: &Facts) -> Option<u16> {
    if facts.l4 == 0 {
        return None;
    }
    let header = match facts.proto {
        proto::TCP => (packet.load::<Tcp>(packet.opaque(facts.l4 as usize))?.offset >> 4) as u16 * 4,
        proto::UDP => Udp::BYTES as u16,
        proto::ICMP | proto::ICMPV6 => {
            packet.load::<Icmp>(packet.opaque(facts.l4 as usize))?;
            Icmp::BYTES as u16
        }
        _ => 0,
    };
    Some(facts.l4.saturating_add(header))
}

/// Returns the offset in the frame behind the last byte of an IP packet of a total length.
#[inline(always)]
pub const fn end_of_ip(facts: &Facts, len: u16) -> u32 {
    facts.l3 as u32 + len as u32
}

/// Reads source and destination address of an IP header at an offset, as [`Facts`] has them.
#[inline(always)]
pub fn addresses<P: Packet>(packet: &P, family: Family, l3: usize) -> Option<Ends> {
    match family {
        Family::V6 => {
            let ip = packet.load::<Ipv6>(l3)?;
            let src = (u64::from_be(ip.src_high), u64::from_be(ip.src_low));
            Some((src, (u64::from_be(ip.dst_high), u64::from_be(ip.dst_low))))
        }
        _ => {
            let ip = packet.load::<Ipv4>(l3)?;
            Some(((0, u32::from_be(ip.src) as u64), (0, u32::from_be(ip.dst) as u64)))
        }
    }
}

/// Source and destination, each in two halves.
pub type Ends = ((u64, u64), (u64, u64));

/// Returns eight bytes at an offset in the frame, the first in the highest bits, or `None` where
/// they leave the linear part.
#[inline(always)]
pub fn word_at<P: Packet>(packet: &P, offset: usize) -> Option<u64> {
    packet.load::<super::headers::Unaligned8>(offset).map(|bytes| u64::from_be(bytes.value))
}
