//! Transport and application: from the protocol number and the first payload bytes to a class.

use super::{
    Family, Inner, Packet,
    headers::{Bytes4, Bytes8, Header as _, Icmp, Tcp, Udp},
    proto,
};
use crate::{
    TrafficClass::{self, *},
    ports,
};

/// Returns the class of an unfragmented IP packet.
#[inline(always)]
pub(super) fn classify<P: Packet>(
    packet: &P,
    family: Family,
    inner: Inner,
    is_service: impl Fn(u16) -> bool,
) -> TrafficClass {
    // The unspecified source is for DHCP and IGMP in IPv4 (RFC 2131, RFC 4541), and in IPv6 for
    // duplicate address detection, router solicitation and MLD (RFC 4862, RFC 4861, RFC 3590).
    let unspecified = inner.unspecified;
    match (inner.proto, family) {
        (proto::TCP, _) if !unspecified => tcp(packet, inner),
        (proto::UDP, _) => udp(packet, family, inner, is_service),
        (proto::ICMP, Family::V4) if !unspecified => icmp(packet, inner),
        (proto::ICMPV6, Family::V6) => icmp6(packet, inner),
        (proto::IGMP, Family::V4) => at_least(inner, 8, Igmp),
        _ if unspecified => Malformed,
        (proto::IGMP, _) => at_least(inner, 8, Igmp),
        (proto::GRE, _) => at_least(inner, 4, Gre),
        (proto::ESP, _) => at_least(inner, 8, EspAh),
        (proto::AH, _) => at_least(inner, 12, EspAh),
        (proto::IPIP, _) => at_least(inner, 20, Ipip),
        (proto::IPV6, _) => at_least(inner, 40, Ipip),
        (proto::SCTP, _) => at_least(inner, 12, Sctp),
        _ => OtherProto,
    }
}

#[inline(always)]
fn at_least(inner: Inner, bytes: usize, class: TrafficClass) -> TrafficClass {
    if inner.bytes < bytes { Malformed } else { class }
}

/// Classes by the six classic flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32).
static BY_FLAGS: [TrafficClass; 64] = {
    let mut table = [TcpBadFlags; 64];
    let mut flags = 0;
    while flags < 64 {
        table[flags] = by_flags(flags as u8);
        flags += 1;
    }
    table
};

const fn by_flags(flags: u8) -> TrafficClass {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const PSH: u8 = 8;
    const ACK: u8 = 16;
    const URG: u8 = 32;
    const SYN_ACK: u8 = SYN | ACK;
    const XMAS: u8 = FIN | PSH | URG;
    match flags {
        0 => TcpNull,
        SYN => TcpSyn,
        SYN_ACK => TcpSynAck,
        XMAS => TcpXmas,
        _ if flags & SYN != 0 => TcpBadFlags,
        _ if flags & RST != 0 => {
            if flags & (FIN | URG) == 0 {
                TcpRst
            } else {
                TcpBadFlags
            }
        }
        _ if flags & FIN != 0 => {
            if flags & ACK != 0 && flags & URG == 0 {
                TcpFin
            } else {
                TcpBadFlags
            }
        }
        _ if flags & URG != 0 => TcpUrg,
        _ if flags & ACK != 0 => TcpAck,
        _ => TcpBadFlags, // PSH alone
    }
}

/// RFC 9293. ECE and CWR do not count as flags here: an ECN-setup SYN is a SYN (RFC 3168).
#[inline(always)]
fn tcp<P: Packet>(packet: &P, inner: Inner) -> TrafficClass {
    if inner.bytes < Tcp::BYTES {
        return Malformed;
    }
    let Some(tcp) = packet.load::<Tcp>(inner.offset) else { return Malformed };
    let header = (tcp.offset >> 4) as usize * 4;
    let land = is_land(inner, tcp.src, tcp.dst);
    if header < Tcp::BYTES || header > inner.bytes || land {
        return Malformed;
    }
    let class = BY_FLAGS[(tcp.flags & 63) as usize];
    let payload = inner.bytes - header;
    if !matches!(class, TcpAck) || payload == 0 {
        return class;
    }
    l7_start(packet, inner.offset + header, payload)
}

/// Tells the packets that open a request or a handshake from other data.
#[inline(always)]
fn l7_start<P: Packet>(packet: &P, offset: usize, payload: usize) -> TrafficClass {
    if payload < 8 {
        return TcpData;
    }
    let Some(head) = packet.load::<Bytes8>(offset) else { return TcpData };
    let head = u64::from_be(head.value);
    // RFC 8446, 5.1 and 4: handshake record, version 3.x, ClientHello.
    if head & 0xffff_0000_00ff_0000 == 0x1603_0000_0001_0000 {
        return TlsClientHello;
    }
    if is_http_request(head) { HttpRequest } else { TcpData }
}

/// A bit for each letter that a method begins with; A is 1.
const METHOD_INITIALS: u32 = {
    let mut bits = 0;
    let mut i = 0;
    while i < b"CDGHOPT".len() {
        bits |= 1 << (b"CDGHOPT"[i] & 31);
        i += 1;
    }
    bits
};

/// RFC 9110 methods and PATCH, each with the space behind it, and the HTTP/2 preface (RFC 9113).
#[inline(always)]
const fn is_http_request(head: u64) -> bool {
    const fn word(text: &[u8; 8]) -> u64 {
        u64::from_be_bytes(*text)
    }
    // Most payloads end here: an upper-case letter is 010 and its number in five bits.
    if head >> 61 != 0b010 || (METHOD_INITIALS >> ((head >> 56) & 31)) & 1 == 0 {
        return false;
    }
    let (first4, first5, first6, first7) = (head >> 32, head >> 24, head >> 16, head >> 8);
    first4 == word(b"\0\0\0\0GET ")
        || first5 == word(b"\0\0\0POST ")
        || first5 == word(b"\0\0\0HEAD ")
        || first4 == word(b"\0\0\0\0PUT ")
        || first7 == word(b"\0DELETE ")
        || head == word(b"OPTIONS ")
        || first6 == word(b"\0\0PATCH ")
        || head == word(b"CONNECT ")
        || first6 == word(b"\0\0TRACE ")
        || head == word(b"PRI * HT")
}

#[inline(always)]
fn udp<P: Packet>(packet: &P, family: Family, inner: Inner, is_service: impl Fn(u16) -> bool) -> TrafficClass {
    if inner.bytes < Udp::BYTES {
        return Malformed;
    }
    let Some(udp) = packet.load::<Udp>(inner.offset) else { return Malformed };
    let (src, dst, length) = (u16::from_be(udp.src), u16::from_be(udp.dst), u16::from_be(udp.length) as usize);
    let land = is_land(inner, src, dst);
    let not_dhcp = inner.unspecified && !(src == 68 && dst == 67 && matches!(family, Family::V4));
    if length < Udp::BYTES || length > inner.bytes || land || not_dhcp {
        return Malformed;
    }
    let payload = length - Udp::BYTES;
    let offset = inner.offset + Udp::BYTES;
    let head = payload_head(packet, offset, payload);
    let out_of_band = head >> 32 == 0xffff_ffff;
    // One branch for nearly every packet; `|`, because each `||` would be another.
    if !ports::are_plain(src, dst) | out_of_band | (head == HTTP_ANSWER) {
        let found = told_by_ports(packet, offset, payload, (src, dst), head, is_service);
        if let Some(class) = found {
            return class;
        }
    }
    match payload {
        0 => UdpEmpty,
        1..=100 => UdpSmall,
        101..=999 => UdpMedium,
        _ => UdpLarge,
    }
}

/// Source and destination are the same: the "land" attack.
#[inline(always)]
fn is_land(inner: Inner, src: u16, dst: u16) -> bool {
    inner.address_difference | (src ^ dst) as u64 == 0
}

/// Returns what ports and the first bytes of payload tell together.
#[inline(always)]
fn told_by_ports<P: Packet>(
    packet: &P,
    offset: usize,
    payload: usize,
    (src, dst): (u16, u16),
    head: u64,
    is_service: impl Fn(u16) -> bool,
) -> Option<TrafficClass> {
    if let Some(class) = opening(packet, offset, payload, dst, head) {
        return Some(class);
    }
    let suggested = ports::by_source(src);
    let out_of_band = head >> 32 == 0xffff_ffff;
    let answer = is_http_ok(packet, offset, payload, head);
    if suggested.is_some() || out_of_band || answer {
        let service = is_service(dst);
        // A game server's answer begins like a query; it comes from a game server's port.
        if out_of_band && (service || (src != STEAM && src != QUAKE)) {
            return Some(UdpGameQuery);
        }
        if answer && !service {
            return Some(UdpSrcSsdp);
        }
        if !service {
            return suggested;
        }
    }
    None
}

const STEAM: u16 = 27015;
const QUAKE: u16 = 27960;

/// Returns the first 8 bytes of payload as a big-endian number, zero where there are fewer.
#[inline(always)]
fn payload_head<P: Packet>(packet: &P, offset: usize, payload: usize) -> u64 {
    if payload >= 8 {
        packet.load::<Bytes8>(offset).map_or(0, |b| u64::from_be(b.value))
    } else if payload >= 4 {
        packet.load::<Bytes4>(offset).map_or(0, |b| (u32::from_be(b.value) as u64) << 32)
    } else {
        0
    }
}

/// Recognises the opening packet of a service by destination port and payload.
#[inline(always)]
fn opening<P: Packet>(packet: &P, offset: usize, payload: usize, dst: u16, head: u64) -> Option<TrafficClass> {
    let first = (head >> 56) as u8;
    let matches = match dst {
        // RFC 1035, 4.1.1: a header of 12 bytes, QR = 0.
        53 if payload >= 12 && head & DNS_QR == 0 => UdpDnsQuery,
        443 if payload >= 8 && is_quic_initial(head) => UdpQuicInitial,
        // RFC 3261, 7.1: a request line begins with a method, an answer with `SIP/`.
        5060 if payload >= 8 && first.is_ascii_uppercase() && head >> 32 != SIP_ANSWER => UdpSip,
        // OpenVPN: opcode in the upper five bits; hard reset by a client, V1, V2 or V3.
        1194 if payload >= 8 && matches!(first >> 3, 1 | 7 | 10) => UdpVpn,
        // WireGuard: a handshake initiation is 148 bytes long and begins 01 00 00 00.
        51820 if payload == 148 && head >> 32 == 0x0100_0000 => UdpVpn,
        500 if payload >= 28 && is_ike_opening(packet, offset) => UdpVpn,
        // RFC 3948: four zero bytes tell IKE from ESP.
        4500 if payload >= 32 && head >> 32 == 0 && is_ike_opening(packet, offset + 4) => UdpVpn,
        _ => return None,
    };
    Some(matches)
}

/// The QR bit: the top bit of byte 2.
const DNS_QR: u64 = 0x80 << 40;
const SIP_ANSWER: u64 = u32::from_be_bytes(*b"SIP/") as u64;

/// RFC 9000, 17.2.2, and RFC 9369 for version 2: long header, fixed bit, type Initial.
#[inline(always)]
const fn is_quic_initial(head: u64) -> bool {
    let first = (head >> 56) as u8;
    let version = (head >> 24) as u32;
    let initial = if version == 0x6b33_43cf { 0x10 } else { 0x00 };
    first & 0xc0 == 0xc0 && version != 0 && first & 0x30 == initial
}

/// RFC 7296, 3.1: the responder's SPI is zero in the first message, the initiator's never is.
#[inline(always)]
fn is_ike_opening<P: Packet>(packet: &P, offset: usize) -> bool {
    let initiator = packet.load::<Bytes8>(offset).map_or(0, |b| b.value);
    initiator != 0 && packet.load::<Bytes8>(offset + 8).is_some_and(|responder| responder.value == 0)
}

const HTTP_ANSWER: u64 = u64::from_be_bytes(*b"HTTP/1.1");

/// The answer of an SSDP device: `HTTP/1.1 200`.
#[inline(always)]
fn is_http_ok<P: Packet>(packet: &P, offset: usize, payload: usize, head: u64) -> bool {
    head == HTTP_ANSWER
        && payload >= 12
        && packet.load::<Bytes4>(offset + 8).is_some_and(|b| u32::from_be(b.value) == u32::from_be_bytes(*b" 200"))
}

/// RFC 792.
#[inline(always)]
fn icmp<P: Packet>(packet: &P, inner: Inner) -> TrafficClass {
    match icmp_type(packet, inner) {
        Some(8) => IcmpEcho,
        Some(0) => IcmpEchoReply,
        Some(3) => IcmpUnreachable,
        Some(_) => IcmpOther,
        None => Malformed,
    }
}

/// RFC 4443 and RFC 4861.
#[inline(always)]
fn icmp6<P: Packet>(packet: &P, inner: Inner) -> TrafficClass {
    let Some(kind) = icmp_type(packet, inner) else { return Malformed };
    // MLD reports and dones (131, 132, 143), router and neighbour solicitation may come from `::`;
    // MLD queries may not (RFC 3590, 4).
    if inner.unspecified && !matches!(kind, 131 | 132 | 133 | 135 | 143) {
        return Malformed;
    }
    match kind {
        128 | 129 => Icmp6Echo,
        133..=137 => Icmp6Nd,
        _ => Icmp6Other,
    }
}

#[inline(always)]
fn icmp_type<P: Packet>(packet: &P, inner: Inner) -> Option<u8> {
    if inner.bytes < Icmp::BYTES {
        return None;
    }
    packet.load::<Icmp>(inner.offset).map(|icmp| icmp.kind)
}
