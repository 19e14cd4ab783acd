//! Rules at random, and packets drawn from them: values at both ends of each range, and one beside them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ftagent::rule::{Family, Flags, FlowMatch, Fragment, Payload, Ranges, set::Number};
use ftagent_tests::packet::{
    ETHERNET, Extension, Icmp, Ipv4, Ipv6, TAGGINGS, Tcp, Transport, Udp, ethertype, proto, tagged,
};
use ipnet::IpNet;
use rand::{Rng, RngExt as _};

/// Bytes of a frame at most: what `BPF_PROG_TEST_RUN` takes in one buffer.
const LONGEST: usize = 2000;
const PROTOCOLS: [u8; 12] = [
    proto::TCP,
    proto::TCP,
    proto::UDP,
    proto::UDP,
    proto::ICMP,
    proto::ICMPV6,
    proto::GRE,
    proto::SCTP,
    proto::AH,
    proto::DESTINATION,
    proto::NONE,
    253,
];
const PORTS: [u16; 10] = [0, 1, 53, 80, 123, 443, 1900, 11211, 40000, 65535];
const BYTES: [u8; 4] = [0x00, 0x17, 0xa5, 0xff];

/// Picks one.
pub fn pick<T: Copy>(rng: &mut impl Rng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn number(rng: &mut impl Rng, known: &[u16], most: u16) -> u16 {
    if rng.random_bool(0.6) { pick(rng, known) } else { rng.random_range(0..=most) }
}

/// One to three ranges.
fn ranges<T: Number + TryFrom<u16>>(rng: &mut impl Rng, known: &[u16], most: u16) -> Ranges<T> {
    let mut one = || {
        let first = number(rng, known, most);
        let last = match rng.random_range(0..3) {
            0 => first,
            1 => first.saturating_add(rng.random_range(0..10)).min(most),
            _ => number(rng, known, most),
        };
        let of = |value: u16| T::try_from(value).ok().unwrap();
        (of(first.min(last)), of(first.max(last)))
    };
    let several = [one(), one(), one()];
    let count = pick(rng, &[1, 1, 1, 2, 3]);
    Ranges::new(several[..count].to_vec()).unwrap()
}

fn address(rng: &mut impl Rng, is4: bool) -> IpAddr {
    let (net, low) = (rng.random_range(0..4u8), rng.random_range(0..16u8));
    if is4 {
        let pool = [Ipv4Addr::new(10, net, 0, low), Ipv4Addr::new(192, 0, 2, low), Ipv4Addr::new(198, 51, net, low)];
        return IpAddr::V4(if rng.random_bool(0.9) { pick(rng, &pool) } else { Ipv4Addr::from(rng.random::<u32>()) });
    }
    let pool = [
        Ipv6Addr::new(0x2001, 0xdb8, 0, net.into(), 0, 0, 0, low.into()),
        Ipv6Addr::new(0xfd00, 0, 0, 0, u16::from(net) << 8, 0, 0, low.into()),
    ];
    IpAddr::V6(if rng.random_bool(0.9) { pick(rng, &pool) } else { Ipv6Addr::from(rng.random::<u128>()) })
}

fn prefix(rng: &mut impl Rng, is4: bool) -> IpNet {
    let length = if is4 {
        pick(rng, &[0u8, 1, 8, 13, 16, 24, 29, 31, 32, 32])
    } else {
        pick(rng, &[0u8, 1, 16, 29, 47, 64, 65, 120, 127, 128])
    };
    IpNet::new(address(rng, is4), length).unwrap().trunc()
}

/// Patterns of a rule come from few, so that sets of rules fit the kernel's table.
fn pattern(rng: &mut impl Rng) -> Payload {
    let texts = [
        "0:17",
        "0:1700a5ff",
        "4:a5a5",
        "0:ff..17",
        "1:.700.5",
        "11:0017a5ff0017a5ff",
        "30:ff",
        "63:00",
        "0:0000000000000000000000a5",
        "2:a5ffa5ffa5",
    ];
    pick(rng, &texts).parse().unwrap()
}

/// A match with a few dimensions.
pub fn flow_match(rng: &mut impl Rng) -> FlowMatch {
    let is4 = rng.random_bool(0.5);
    let mut matches = FlowMatch::default();
    let maybe = |chance: f64| rng.random_bool(chance);
    let [family, src, dst, proto, ports, len, dscp, frag, ttl, payload, flags, icmp] =
        [0.3, 0.35, 0.35, 0.5, 0.45, 0.25, 0.15, 0.15, 0.2, 0.12, 0.12, 0.1].map(maybe);
    matches.family = family.then_some(if is4 { Family::Ip4 } else { Family::Ip6 });
    matches.src = src.then(|| prefix(rng, is4));
    matches.dst = dst.then(|| prefix(rng, is4));
    if proto {
        matches.proto = match rng.random_range(0..6) {
            0 => ranges(rng, &[1, 6, 17, 58, 51, 60], 255),
            _ => Ranges::one(pick(rng, &PROTOCOLS)),
        };
    }
    match rng.random_range(0..4) {
        _ if !ports => {}
        0 => matches.port = ranges(rng, &PORTS, u16::MAX),
        1 => matches.sport = ranges(rng, &PORTS, u16::MAX),
        2 => matches.dport = ranges(rng, &PORTS, u16::MAX),
        _ => (matches.sport, matches.dport) = (ranges(rng, &PORTS, u16::MAX), ranges(rng, &PORTS, u16::MAX)),
    }
    if len {
        matches.len = ranges(rng, &[20, 28, 40, 41, 48, 60, 76, 100, 576, 1500], 1600);
    }
    if dscp {
        matches.dscp = ranges(rng, &[0, 1, 10, 46, 63], 63);
    }
    if frag {
        let kinds = [Fragment::Dont, Fragment::Is, Fragment::First, Fragment::Last, Fragment::Not];
        matches.frag = kinds.into_iter().filter(|_| rng.random_bool(0.4)).collect();
    }
    if ttl {
        matches.ttl = ranges(rng, &[0, 1, 63, 64, 128, 255], 255);
    }
    if payload {
        matches.payload = (0..rng.random_range(1..3)).map(|_| pattern(rng)).collect();
    }
    if flags && !ports {
        let mut test = || {
            let mask = pick(rng, &[0x02u8, 0x12, 0x17, 0x3f, 0xff]);
            Flags { value: rng.random::<u8>() & mask, mask }
        };
        matches.flags = vec![test(), test()];
    }
    if icmp && !ports && !flags {
        matches.icmp_type = ranges(rng, &[0, 3, 8, 128, 135], 255);
        if rng.random_bool(0.5) {
            matches.icmp_code = ranges(rng, &[0, 1, 3], 16);
        }
    }
    matches
}

/// A value of a range, at one of its ends, between them, or one beside; any where there is no range.
fn of<T: Number>(rng: &mut impl Rng, ranges: &Ranges<T>, most: u32, other: u32) -> u32 {
    let count = ranges.iter().len();
    if count == 0 {
        return other;
    }
    let (first, last) = ranges.iter().nth(rng.random_range(0..count)).unwrap();
    let (first, last): (u32, u32) = (first.into(), last.into());
    match rng.random_range(0..10) {
        0 => first.saturating_sub(1),
        1 => (last + 1).min(most),
        2..=5 => first,
        6 | 7 => last,
        _ => rng.random_range(first..=last),
    }
}

/// An address of a prefix: its first, its last, one between, or one beside it.
fn within(rng: &mut impl Rng, net: Option<IpNet>, is4: bool) -> IpAddr {
    let Some(net) = net.filter(|net| net.addr().is_ipv4() == is4) else { return address(rng, is4) };
    match (net, rng.random_range(0..8)) {
        (IpNet::V4(net), 0) => Ipv4Addr::from(u32::from(net.network()).wrapping_sub(1)).into(),
        (IpNet::V4(net), 1) => Ipv4Addr::from(u32::from(net.broadcast()).wrapping_add(1)).into(),
        (IpNet::V6(net), 0) => Ipv6Addr::from(u128::from(net.network()).wrapping_sub(1)).into(),
        (IpNet::V6(net), 1) => Ipv6Addr::from(u128::from(net.broadcast()).wrapping_add(1)).into(),
        (_, 2 | 3) => net.broadcast(),
        _ => net.network(),
    }
}

/// What a packet is made of beside its addresses.
struct Plan<'a> {
    matches: &'a FlowMatch,
    is4: bool,
}

/// A frame that is meant for a match, or nearly so; sometimes tagged, padded or cut short.
pub fn frame(rng: &mut impl Rng, matches: &FlowMatch) -> Vec<u8> {
    let is4 = match (matches.family, matches.src.or(matches.dst)) {
        (Some(family), _) => family == Family::Ip4,
        (None, Some(net)) => net.addr().is_ipv4(),
        (None, None) => rng.random_bool(0.5),
    };
    let plan = Plan { matches, is4 };
    let packet = if is4 { plan.v4(rng) } else { plan.v6(rng) };
    let kind = if is4 { ethertype::IPV4 } else { ethertype::IPV6 };
    let mut frame = ftagent_tests::packet::frame(kind, &packet);
    if rng.random_bool(0.2) {
        frame = tagged(&frame, pick(rng, &TAGGINGS));
    }
    if rng.random_bool(0.15) {
        let byte = pick(rng, &BYTES);
        frame.resize(frame.len().max(60) + 3, byte);
    }
    if rng.random_bool(0.03) {
        let cut = rng.random_range(1..60).min(frame.len());
        frame.truncate((frame.len() - cut).max(ETHERNET));
    }
    frame
}

impl Plan<'_> {
    fn transport(&self, rng: &mut impl Rng, room: usize) -> Transport {
        let matches = self.matches;
        let wants_ports = [&matches.port, &matches.sport, &matches.dport].iter().any(|ports| !ports.is_any());
        let wants_icmp = !matches.icmp_type.is_any() || !matches.icmp_code.is_any();
        let any = match () {
            () if !matches.flags.is_empty() => proto::TCP,
            () if wants_icmp => {
                if self.is4 {
                    proto::ICMP
                } else {
                    proto::ICMPV6
                }
            }
            () if wants_ports => pick(rng, &[proto::TCP, proto::UDP]),
            () => pick(rng, &PROTOCOLS),
        };
        let number = of(rng, &matches.proto, 255, any.into()) as u8;
        let payload = self.payload(rng);
        let (mut src, mut dst) = (u32::from(pick(rng, &PORTS)), u32::from(pick(rng, &PORTS)));
        src = of(rng, &matches.sport, 65535, src);
        dst = of(rng, &matches.dport, 65535, dst);
        if !matches.port.is_any() {
            let end = if rng.random_bool(0.5) { &mut src } else { &mut dst };
            *end = of(rng, &matches.port, 65535, 0);
        }
        let pad = |payload: Vec<u8>, header: usize| {
            let mut payload = payload;
            if room > header + payload.len() && room <= LONGEST {
                payload.resize(room - header, 0x17);
            }
            payload
        };
        match number {
            proto::TCP => {
                let options = pick(rng, &[0usize, 0, 4, 12, 20, 40]);
                let flags = match matches.flags.first() {
                    Some(test) if rng.random_bool(0.7) => test.value | rng.random::<u8>() & !test.mask,
                    _ => rng.random(),
                };
                let payload = pad(payload, 20 + options);
                Tcp { src: src as u16, options: vec![1; options], payload, ..Tcp::to(dst as u16, flags) }.build()
            }
            proto::UDP => Udp::new(src as u16, dst as u16, &pad(payload, 8)).build(),
            proto::ICMP | proto::ICMPV6 => {
                let kind = pick(rng, &[0u32, 3, 8, 128, 135]);
                let kind = of(rng, &matches.icmp_type, 255, kind) as u8;
                let code = of(rng, &matches.icmp_code, 255, 0) as u8;
                let icmp = Icmp { code, rest: [vec![0; 4], pad(payload, 8)].concat(), ..Icmp::new(kind) };
                let built = if self.is4 { icmp.v4() } else { icmp.v6() };
                // Either number occurs in either family.
                Transport { proto: number, ..built }
            }
            _ => Transport::raw(number, &pad(payload, 0)),
        }
    }

    /// Bytes of payload: those that are asked for, one of them wrong, or cut off in the last.
    fn payload(&self, rng: &mut impl Rng) -> Vec<u8> {
        let length = rng.random_range(0..80usize);
        let mut payload: Vec<u8> = (0..length).map(|_| pick(rng, &BYTES)).collect();
        for pattern in &self.matches.payload {
            let from = usize::from(pattern.offset);
            let end = from + pattern.value.len();
            payload.resize(payload.len().max(end), 0);
            payload[from..end].copy_from_slice(&pattern.value);
            match rng.random_range(0..10) {
                0 => payload[from] ^= 0x11,
                1 => payload.truncate(end - 1),
                2 => payload.truncate(end),
                _ => {}
            }
        }
        payload
    }

    /// The byte of DSCP and ECN, and TTL.
    fn marks(&self, rng: &mut impl Rng) -> (u8, u8) {
        let (dscp, ecn, ttl) = (rng.random_range(0..64), rng.random_range(0..4u8), pick(rng, &[1, 63, 64, 255]));
        let dscp = of(rng, &self.matches.dscp, 63, dscp) as u8;
        (dscp << 2 | ecn, of(rng, &self.matches.ttl, 255, ttl) as u8)
    }

    fn v4(&self, rng: &mut impl Rng) -> Vec<u8> {
        let matches = self.matches;
        let (src, dst) = (within(rng, matches.src, true), within(rng, matches.dst, true));
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { return Vec::new() };
        let options = pick(rng, &[0usize, 0, 0, 0, 4, 8, 40]);
        let length = of(rng, &matches.len, 65535, 0) as usize;
        let inner = self.transport(rng, length.saturating_sub(20 + options));
        let flags = pick(rng, &[0u16, 0, 0x4000, 0x4000, 0x8000]);
        let fragment = match (matches.frag.is_empty(), rng.random_range(0..12)) {
            (_, 0) | (false, 1..=3) => 0x2000,
            (_, 1) | (false, 4..=6) => 0x2000 | pick(rng, &[1u16, 8, 100]),
            (_, 2) | (false, 7..=9) => pick(rng, &[1u16, 8, 100]),
            _ => 0,
        };
        let mut packet =
            Ipv4 { src, dst, fragment: flags | fragment, options: vec![1; options], ..Ipv4::new() }.build(&inner);
        (packet[1], packet[8]) = self.marks(rng);
        packet
    }

    fn v6(&self, rng: &mut impl Rng) -> Vec<u8> {
        let matches = self.matches;
        let (src, dst) = (within(rng, matches.src, false), within(rng, matches.dst, false));
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { return Vec::new() };
        let extension = |rng: &mut _, frag: bool| match pick(rng, &[0, 1, 2, 3, 4, 4, 5, 5, 6]) {
            0 => Extension::options(proto::HOP_BY_HOP, 8),
            1 => Extension::options(proto::DESTINATION, 16),
            2 => Extension::options(proto::ROUTING, 24),
            3 if !frag => Extension::authentication(),
            3 | 6 => Extension::fragment(0, false),
            4 => Extension::fragment(0, true),
            _ => Extension::fragment(8, pick(rng, &[false, true])),
        };
        let count =
            if matches.frag.is_empty() { pick(rng, &[0, 0, 0, 0, 1, 1, 2, 3]) } else { pick(rng, &[0, 1, 1, 2]) };
        let extensions: Vec<_> = (0..count).map(|_| extension(rng, !matches.frag.is_empty())).collect();
        let before: usize = extensions.iter().map(|extension| extension.bytes.len()).sum();
        let length = of(rng, &matches.len, 65535, 0) as usize;
        let inner = self.transport(rng, length.saturating_sub(40 + before));
        let mut packet = Ipv6 { src, dst, extensions, ..Ipv6::new() }.build(&inner);
        let (class, ttl) = self.marks(rng);
        packet[0] = 0x60 | class >> 4;
        packet[1] = class << 4 | rng.random_range(0..16u8);
        packet[7] = ttl;
        packet
    }
}
