//! Rules and packets at random, from so few values that they often meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ftagent::{
    bpf::rules::Placed,
    rule::{Action, Family, Flags, FlowMatch, Fragment, Origin, Payload, Ranges, Rate, Rule},
};
use ftagent_tests::packet::{
    ETHERNET, Extension, Icmp, Ipv4, Ipv6, TAGGINGS, Tcp, Transport, Udp, ethertype, proto, tagged,
};
use ipnet::IpNet;
use proptest::{
    collection::vec,
    option::weighted,
    prelude::*,
    sample::{Index, select, subsequence},
};

/// The virtual jiffy in which packets come.
pub const NOW: u64 = 1000;

const PORTS: [u16; 8] = [0, 1, 53, 80, 123, 443, 40000, 65535];
const BYTES: [u8; 4] = [0x00, 0x17, 0xa5, 0xff];
const PROTOCOLS: [u8; 7] = [proto::ICMP, proto::TCP, proto::UDP, proto::ICMPV6, proto::GRE, proto::SCTP, 253];

fn ranges<T: ftagent::rule::set::Number + 'static>(values: &'static [T]) -> impl Strategy<Value = Ranges<T>> {
    let range = (select(values), select(values)).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let one = select(values).prop_map(|value| (value, value));
    vec(prop_oneof![3 => one, 1 => range], 1..4).prop_map(|ranges| Ranges::new(ranges).unwrap())
}

/// Any value in three cases of four.
fn maybe<T: ftagent::rule::set::Number + 'static>(values: &'static [T]) -> impl Strategy<Value = Ranges<T>> {
    weighted(0.25, ranges(values)).prop_map(Option::unwrap_or_default)
}

fn address(is4: bool) -> impl Strategy<Value = IpAddr> {
    // Neighbours in the last bits, and the ends of the address space.
    (0u8..8, select(vec![0u8, 1, 2, 3])).prop_map(move |(low, net)| {
        let v4 = [Ipv4Addr::new(10, net, 0, low), Ipv4Addr::new(192, 0, 2, low), Ipv4Addr::from(u32::from(low))];
        let v6 = [
            Ipv6Addr::new(0x2001, 0xdb8, 0, net.into(), 0, 0, 0, low.into()),
            Ipv6Addr::new(0xfd00, 0, 0, 0, u16::from(net) << 8, 0, 0, low.into()),
            Ipv6Addr::from(u128::MAX - u128::from(low)),
        ];
        let pick = usize::from(net) % 3;
        if is4 { v4[pick].into() } else { v6[pick].into() }
    })
}

fn destination(is4: bool) -> impl Strategy<Value = IpAddr> {
    let end = if is4 { IpAddr::from(Ipv4Addr::BROADCAST) } else { Ipv6Addr::from(u128::MAX).into() };
    prop_oneof![9 => address(is4), 1 => Just(end)]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (any::<bool>().prop_flat_map(destination), select(vec![0u8, 1, 8, 14, 24, 29, 31, 32, 47, 64, 120, 127, 128]))
        .prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length.min(most)).unwrap().trunc()
        })
}

fn pattern() -> impl Strategy<Value = Payload> {
    let byte = (select(&BYTES[..]), select(vec![0xffu8, 0xff, 0xf0, 0x00]));
    (select(vec![0u16, 1, 4, 11, 30]), vec(byte, 1..13)).prop_map(|(offset, bytes)| Payload {
        offset,
        value: bytes.iter().map(|(value, mask)| value & mask).collect(),
        mask: bytes.iter().map(|(_, mask)| *mask).collect(),
    })
}

/// Few enough that those of a set fit the table.
fn patterns() -> impl Strategy<Value = Vec<Payload>> {
    vec(pattern(), 1..3)
}

fn flow_match(payloads: Vec<Payload>) -> impl Strategy<Value = FlowMatch> {
    static LENGTHS: [u16; 9] = [20, 28, 40, 48, 60, 68, 76, 90, 120];
    static SMALL: [u8; 6] = [0, 1, 3, 8, 46, 63];
    static TTLS: [u8; 4] = [1, 63, 64, 255];
    static TYPES: [u8; 5] = [0, 3, 8, 128, 135];
    let addresses =
        (weighted(0.2, select(vec![Family::Ip4, Family::Ip6])), weighted(0.3, prefix()), weighted(0.3, prefix()));
    let ports = (maybe(&PORTS), maybe(&PORTS), maybe(&PORTS));
    let test = (any::<u8>(), select(vec![0x02u8, 0x12, 0x3f, 0xff]))
        .prop_map(|(value, mask)| Flags { value: value & mask, mask });
    let flags = weighted(0.1, vec(test, 1..4)).prop_map(Option::unwrap_or_default);
    let kinds = vec![Fragment::Dont, Fragment::Is, Fragment::First, Fragment::Last, Fragment::Not];
    let frag = weighted(0.15, subsequence(kinds, 1..3)).prop_map(Option::unwrap_or_default);
    let payload = weighted(0.2, subsequence(payloads.clone(), 1..=payloads.len())).prop_map(Option::unwrap_or_default);
    let rest = (maybe(&LENGTHS), maybe(&SMALL), maybe(&TTLS), maybe(&TYPES), maybe(&SMALL));
    (addresses, maybe(&PROTOCOLS), ports, rest, flags, frag, payload).prop_map(
        |(
            (family, src, dst),
            proto,
            (port, sport, dport),
            (len, dscp, ttl, icmp_type, icmp_code),
            flags,
            frag,
            payload,
        )| {
            // One of them at most, or little would ever match.
            let ports =
                if proto.is_any() { [port, sport, dport] } else { [Ranges::default(), sport, Ranges::default()] };
            let [port, sport, dport] = ports;
            FlowMatch {
                family,
                src,
                dst,
                proto,
                port,
                sport,
                dport,
                icmp_type,
                icmp_code,
                flags,
                len,
                dscp,
                frag,
                ttl,
                payload,
            }
        },
    )
}

/// A set of rules in any slots.
pub fn rules() -> impl Strategy<Value = Vec<Placed>> {
    let action = prop_oneof![
        4 => Just(Action::Count),
        1 => Just(Action::Capture),
        3 => Just(Action::Drop),
        1 => Just(Action::RateLimit(Rate::Pps(0))),
        1 => Just(Action::RateLimit(Rate::Bps(1 << 40))),
    ];
    let expires = prop_oneof![8 => Just(u64::MAX), 1 => Just(NOW), 1 => Just(NOW + 2)];
    (patterns(), Just(action.boxed()), Just(expires.boxed())).prop_flat_map(|(payloads, action, expires)| {
        let rule = (flow_match(payloads), action, expires, any::<Index>()).boxed();
        let rules = prop_oneof![6 => vec(rule.clone(), 1..40), 1 => vec(rule, 150..250)];
        rules.prop_map(|rules| {
            let mut free: Vec<u8> = (0..=255).collect();
            let place = |(matches, action, expires, at): (FlowMatch, Action, u64, Index)| {
                let slot = free.remove(at.index(free.len()));
                let rule = Rule { matches, action, origin: Origin::Config, reason: String::new() };
                Placed { slot, rule, expires }
            };
            rules.into_iter().map(place).collect()
        })
    })
}

fn transport(is4: bool) -> impl Strategy<Value = Transport> {
    let payload = prop_oneof![
        2 => vec(select(&BYTES[..]), 0..12),
        2 => vec(select(&BYTES[..]), 12..48),
        1 => (select(&BYTES[..]), 0usize..48).prop_map(|(byte, count)| vec![byte; count]),
    ];
    let port = || select(&PORTS[..]);
    (0u8..5, payload, port(), port(), any::<u8>(), select(vec![0usize, 4, 12, 40]), select(vec![0u8, 3, 8, 128, 135]))
        .prop_map(move |(kind, payload, src, dst, flags, options, icmp)| match kind {
            0 | 1 => Udp::new(src, dst, &payload).build(),
            2 => Tcp { src, options: vec![1; options], payload, ..Tcp::to(dst, flags) }.build(),
            3 => {
                let icmp = Icmp { code: flags & 3, rest: [vec![0; 4], payload].concat(), ..Icmp::new(icmp) };
                if is4 { icmp.v4() } else { icmp.v6() }
            }
            _ => Transport::raw(PROTOCOLS[usize::from(flags) % PROTOCOLS.len()], &payload),
        })
}

fn v4() -> impl Strategy<Value = Vec<u8>> {
    let fragment =
        prop_oneof![6 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => Just(0x2001), 1 => Just(0x0002)];
    (
        address(true),
        destination(true),
        transport(true),
        fragment,
        select(vec![0usize, 4, 40]),
        any::<u8>(),
        select(vec![1u8, 63, 64, 255]),
    )
        .prop_map(|(src, dst, inner, fragment, options, tos, ttl)| {
            let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else { return Vec::new() };
            let mut packet = Ipv4 { src, dst, fragment, options: vec![1; options], ..Ipv4::new() }.build(&inner);
            packet.splice(1..2, [tos]);
            packet.splice(8..9, [ttl]);
            ftagent_tests::packet::frame(ethertype::IPV4, &packet)
        })
}

fn v6() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        Just(Extension::options(proto::HOP_BY_HOP, 8)),
        Just(Extension::options(proto::DESTINATION, 16)),
        Just(Extension::options(proto::ROUTING, 24)),
        Just(Extension::fragment(0, false)),
        Just(Extension::fragment(0, true)),
        Just(Extension::fragment(8, false)),
        Just(Extension::authentication()),
    ];
    let extensions = prop_oneof![2 => Just(Vec::new()), 1 => vec(extension, 1..4)];
    (address(false), destination(false), transport(false), extensions, any::<u8>(), select(vec![1u8, 63, 64, 255]))
        .prop_map(|(src, dst, inner, extensions, class, hops)| {
            let (IpAddr::V6(src), IpAddr::V6(dst)) = (src, dst) else { return Vec::new() };
            let mut packet = Ipv6 { src, dst, extensions, ..Ipv6::new() }.build(&inner);
            packet.splice(0..2, [0x60 | class >> 4, class << 4]);
            packet.splice(7..8, [hops]);
            ftagent_tests::packet::frame(ethertype::IPV6, &packet)
        })
}

/// A frame: IPv4 or IPv6, sometimes tagged, padded, cut short or no IP at all.
pub fn frame() -> impl Strategy<Value = Vec<u8>> {
    let other = vec(any::<u8>(), 0..64).prop_map(|body| ftagent_tests::packet::frame(ethertype::ARP, &body));
    let whole = prop_oneof![10 => v4(), 10 => v6(), 1 => other];
    let padding = prop_oneof![3 => Just(None), 1 => select(&BYTES[..]).prop_map(Some)];
    let cut = prop_oneof![20 => Just(0usize), 1 => 1usize..60];
    (whole, select(&TAGGINGS[..]), padding, cut).prop_map(|(frame, tags, padding, cut)| {
        let mut frame = tagged(&frame, tags);
        if let Some(byte) = padding {
            frame.resize(frame.len().max(60) + 3, byte);
        }
        frame.truncate((frame.len() - cut.min(frame.len())).max(ETHERNET));
        frame
    })
}
