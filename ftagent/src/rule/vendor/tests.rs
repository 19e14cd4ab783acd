//! Texts as they are wanted, and that nothing of a rule is lost without a word.

mod traces;

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    super::{Flags, Fragment, Payload, Ranges},
    *,
};

use traces::{has_words, traces};

fn options() -> Options {
    Options::new("tools", None).unwrap()
}

fn platform(name: &str) -> &'static Platform {
    PLATFORMS.into_iter().find(|platform| platform.name == name).unwrap()
}

fn text(name: &str, rule: &str) -> Result<Text, CannotSay> {
    let (matches, action) = super::super::parse(rule).unwrap();
    (platform(name).rule)(&matches, action, &options())
}

/// Platform, rule, and lines that the text has.
const GOLDEN: [(&str, &str, &[&str]); 35] = [
    (
        "nftables",
        "udp sport 123 len 400-1500 dst 198.51.100.10/32 then drop",
        &[
            "        meta protocol ip ip daddr 198.51.100.10/32 ip frag-off & 0x1fff == 0 meta l4proto 17 th sport 123 ip length 400-1500 counter drop",
        ],
    ),
    (
        "nftables",
        "ip6 udp sport 123 len 400-1500 ttl 3-5 dscp 8 then drop",
        &[
            "        meta protocol ip6 exthdr frag missing meta l4proto 17 th sport 123 ip6 dscp 8 ip6 hoplimit 3-5 ip6 length 360-1460 counter drop",
        ],
    ),
    (
        "nftables",
        "ip4 tcp dport 80,443 flags syn/syn+ack then rate-limit 10 Mbps",
        &[
            "        limit rate over 1250000 bytes/second burst 125000 bytes counter drop",
            "        meta protocol ip ip frag-off & 0x1fff == 0 meta l4proto 6 th dport { 80, 443 } tcp flags & 0x12 == 0x02 goto verdict",
        ],
    ),
    (
        "nftables",
        "ip4 udp payload 0:17..0326 then drop",
        &[
            "        meta protocol ip ip frag-off & 0x1fff == 0 meta l4proto 17 @ih,0,32 & 0xff00ffff == 0x17000326 counter drop",
        ],
    ),
    (
        "nftables",
        "ip4 icmp frag is,last then drop",
        &["        meta protocol ip meta l4proto 1 ip frag-off & 0x1fff != 0 counter drop"],
    ),
    (
        "iptables",
        "udp sport 123 len 400-1500 dst 198.51.100.10/32 then drop",
        &[
            "*raw",
            "-A tools-rules -d 198.51.100.10/32 -p 17 -m multiport --sports 123 -m length --length 400:1500 -j DROP",
            "-I PREROUTING -j tools-rules",
            "COMMIT",
        ],
    ),
    (
        "iptables",
        "ip4 tcp flags syn/syn+ack+cwr then rate-limit 300 pps",
        &[
            "-A tools-limit -m hashlimit --hashlimit-above 300/sec --hashlimit-burst 30 --hashlimit-name tools-4 -j DROP",
            "-A tools-rules -p 6 -m tcp --tcp-flags SYN,ACK SYN -m ecn ! --ecn-tcp-cwr -g tools-limit",
        ],
    ),
    (
        "iptables",
        "ip4 icmp icmp-type 8,255 then rate-limit 10 Mbps",
        &[
            "-A tools-limit -m hashlimit --hashlimit-above 1250000b/s --hashlimit-burst 1293158b --hashlimit-name tools-4 -j DROP",
            "-A tools-rules -p 1 -m u32 --u32 \"4&0x1FFF=0&&0>>22&0x3C@0>>24=8,255\" -g tools-limit",
        ],
    ),
    (
        "iptables",
        "ip4 proto 0 dst 198.51.100.10 then drop",
        &["-A tools-rules -d 198.51.100.10/32 -m u32 --u32 \"6&0xFF=0\" -j DROP"],
    ),
    (
        "iptables",
        "ip4 tcp payload 0:474554 then drop",
        &["-A tools-rules -p 6 -m u32 --u32 \"4&0x1FFF=0&&0>>22&0x3C@12>>26&0x3C@0&0xffffff00=0x47455400\" -j DROP"],
    ),
    (
        "ip6tables",
        "ip6 icmp6 icmp-type 128 dscp 3 then drop",
        &["-A tools-rules -p 58 -m icmp6 --icmpv6-type 128 -m u32 --u32 \"0>>22&0x3F=3\" -j DROP"],
    ),
    ("ip6tables", "ip6 udp frag first then drop", &["-A tools-rules -p 17 -m frag --fragfirst --fragmore -j DROP"]),
    (
        "exabgp",
        "udp sport 123 len 400-1500 dst 203.0.113.5/32 then drop",
        &[
            "    route tools-4 { match { destination 203.0.113.5/32; protocol [ =17 ]; source-port [ =123 ]; packet-length [ >=400&<=1500 ]; } then { discard; } }",
        ],
    ),
    (
        "exabgp",
        "udp dst 2001:db8::5/128 dscp 10 then rate-limit 1 kpps",
        &[
            "    route tools-6 { match { destination 2001:db8::5/128; next-header [ =17 ]; traffic-class [ =10 ]; } then { extended-community [ 0x800c0000447a0000 ]; } }",
        ],
    ),
    (
        "exabgp",
        "tcp dst 203.0.113.5/32 flags syn/syn+ack,rst frag not then rate-limit 10 Mbps",
        &[
            "    route tools-4 { match { destination 203.0.113.5/32; protocol [ =6 ]; tcp-flags [ =syn&!ack =rst ]; fragment [ !is-fragment&!first-fragment ]; } then { rate-limit 1250000; } }",
        ],
    ),
    (
        "gobgp",
        "udp sport 123,11211 len 400-1500 dst 203.0.113.5/32 then drop",
        &[
            "gobgp global rib add -a ipv4-flowspec match destination 203.0.113.5/32 protocol '==17' source-port '==123' '==11211' packet-length '>=400&<=1500' then discard",
        ],
    ),
    (
        "gobgp",
        "tcp dst 2001:db8::5 flags syn/syn+ack then rate-limit 10 Mbps",
        &[
            "gobgp global rib add -a ipv6-flowspec match destination 2001:db8::5/128 protocol '==6' tcp-flags '=S&!A' then rate-limit 1250000",
        ],
    ),
    (
        "gobgp",
        "dst 203.0.113.5 proto 47 frag not then drop",
        &[
            "gobgp global rib add -a ipv4-flowspec match destination 203.0.113.5/32 protocol '==47' fragment '!is-fragment&!first-fragment' then discard",
        ],
    ),
    (
        "bird",
        "udp sport 123,11211 len 400-1500 dst 203.0.113.5/32 then drop",
        &[
            "    route flow4 { dst 203.0.113.5/32; proto = 17; sport = 123 || = 11211; length >= 400 && <= 1500; } {",
            "        bgp_ext_community.add((generic, 0x80060000, 0x00000000));",
        ],
    ),
    (
        "bird",
        "udp dst 2001:db8::5 frag is,first then rate-limit 1 kpps",
        &[
            "    route flow6 { dst 2001:db8::5/128; next header = 17; fragment is_fragment || first_fragment; } {",
            "        bgp_ext_community.add((generic, 0x800c0000, 0x447a0000));",
        ],
    ),
    (
        "bird",
        "tcp dst 203.0.113.5 flags syn/syn+ack then rate-limit 10 Mbps",
        &[
            "    route flow4 { dst 203.0.113.5/32; proto = 6; tcp flags 0x02/0x02 && !0x10/0x10; } {",
            "        bgp_ext_community.add((generic, 0x80060000, 0x49989680));",
        ],
    ),
    (
        "junos",
        "udp sport 123 len 400-1500 dst 203.0.113.5/32 then drop",
        &[
            "set routing-options flow route tools-4 match destination 203.0.113.5/32",
            "set routing-options flow route tools-4 match protocol 17",
            "set routing-options flow route tools-4 match source-port 123",
            "set routing-options flow route tools-4 match packet-length 400-1500",
            "set routing-options flow route tools-4 then discard",
        ],
    ),
    (
        "junos",
        "tcp dst 2001:db8::5 flags syn/syn+ack,rst then rate-limit 10 Mbps",
        &[
            "set routing-options rib inet6.0 flow route tools-6 match tcp-flags \"(syn & !ack) | (rst)\"",
            "set routing-options rib inet6.0 flow route tools-6 then rate-limit 10000000",
        ],
    ),
    (
        "junos",
        "udp dst 203.0.113.5 frag is,first then drop",
        &["set routing-options flow route tools-4 match fragment [ is-fragment first-fragment ]"],
    ),
    (
        "iosxr",
        "udp sport 123 len 400-1500 dst 203.0.113.5/32 then drop",
        &[
            "class-map type traffic match-all tools-4-1",
            " match destination-address ipv4 203.0.113.5 255.255.255.255",
            " match protocol 17",
            " match source-port 123",
            " match packet length 400-1500",
            " end-class-map",
            "policy-map type pbr tools-4",
            " class type traffic tools-4-1",
            "  drop",
            " class type traffic class-default",
            " end-policy-map",
            "  service-policy type pbr tools-4",
        ],
    ),
    (
        "iosxr",
        "tcp dst 2001:db8::/64 flags syn/syn+ack then rate-limit 10 Mbps",
        &[
            " match destination-address ipv6 2001:db8::/64",
            " match tcp-flag 2 bit-mask 18",
            "  police rate 10000000 bps",
        ],
    ),
    (
        "iosxr",
        "icmp dst 203.0.113.5 icmp-type 3,8 then drop",
        &[" match ipv4 icmp-type 3", "class-map type traffic match-all tools-4-2", " match ipv4 icmp-type 8"],
    ),
    ("iosxr", "udp dst 203.0.113.5 frag is then drop", &[" match fragment-type is-fragment"]),
    ("exabgp", "udp dst 203.0.113.5 then drop", &["flow {", "}"]),
    (
        "nftables",
        "ip4 udp port 53 then drop",
        &[
            "        meta protocol ip ip frag-off & 0x1fff == 0 meta l4proto 17 th sport 53 counter drop",
            "        meta protocol ip ip frag-off & 0x1fff == 0 meta l4proto 17 th dport 53 counter drop",
        ],
    ),
    (
        "nftables",
        "ip6 udp frag not then drop",
        &[
            "        meta protocol ip6 meta l4proto 17 exthdr frag missing counter drop",
            "        meta protocol ip6 meta l4proto 17 frag frag-off 0 frag more-fragments 0 counter drop",
        ],
    ),
    (
        "nftables",
        "ip4 udp sport 9 then count",
        &["        meta protocol ip ip frag-off & 0x1fff == 0 meta l4proto 17 th sport 9 goto verdict"],
    ),
    ("iptables", "ip4 udp port 53 then drop", &["-A tools-rules -p 17 -m multiport --ports 53 -j DROP"]),
    ("iptables", "ip4 udp frag is then drop", &["-A tools-rules -p 17 -m u32 --u32 \"4&0x1FFF=1:0x1FFF\" -j DROP"]),
    ("iptables", "ip4 udp ttl 3-5,9 then drop", &["-A tools-rules -p 17 -m u32 --u32 \"8>>24=3:5,9\" -j DROP"]),
];

#[test]
fn texts_are_as_their_platforms_want_them() {
    for (name, rule, lines) in GOLDEN {
        let found = text(name, rule).unwrap_or_else(|cannot| panic!("{name}: {rule}: {cannot}"));
        for line in lines {
            assert!(found.text.lines().any(|own| own == *line), "{name}: {rule}: wanted\n{line}\nin\n{}", found.text);
        }
        let lossy = found.losses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(lossy.is_empty() || rule.contains("payload 0:474554"), "{name}: {rule}: {lossy:?}");
        assert!(!found.traps.is_empty() && !found.undo.is_empty(), "{name}: {rule}");
    }
}

#[test]
fn what_cannot_be_said_is_said_to_be_so() {
    let lossy = [
        ("exabgp", "udp dport 9 ttl 3 dst 203.0.113.5 then drop", "ttl", Direction::Wider),
        ("bird", "udp dport 9 payload 0:17 dst 203.0.113.5 then drop", "payload", Direction::Wider),
        ("junos", "tcp dst 203.0.113.5 flags syn/syn+cwr then drop", "flags", Direction::Wider),
        ("junos", "tcp dst 203.0.113.5 port 53 dport 80 then drop", "port", Direction::Wider),
        ("iosxr", "udp dst 203.0.113.5 frag not then drop", "frag", Direction::Wider),
        ("iosxr", "udp dst 203.0.113.5 port 53 then rate-limit 1 Mbps", "action", Direction::Narrower),
        ("ip6tables", "ip6 udp frag is then drop", "frag", Direction::Wider),
        ("ip6tables", "ip6 udp payload 0:17000326 then drop", "payload", Direction::Narrower),
        ("iptables", "ip4 tcp payload 0:17 then drop", "payload", Direction::Narrower),
    ];
    for (name, rule, dimension, direction) in lossy {
        let losses = text(name, rule).unwrap().losses;
        assert!(losses.iter().any(|loss| loss.dimension == dimension && loss.direction == direction), "{name}: {rule}");
    }
    let cannot = [
        ("exabgp", "ttl 3 dst 203.0.113.5 then drop", "black hole is meant"),
        ("gobgp", "udp dst 203.0.113.5 then rate-limit 300 pps", "limits bits"),
        ("junos", "udp dst 203.0.113.5 frag is,first port 53,123 then drop", "fragment"),
        ("junos", "udp dst 203.0.113.5 then rate-limit 300 pps", "rate-limit 2400000 bps"),
        ("iosxr", "udp dst 203.0.113.5 then rate-limit 300 pps", "limits bits"),
        ("iosxr", "dst 203.0.113.5 frag not then drop", "black hole is meant"),
        ("frr", "udp dst 203.0.113.5 then rate-limit 1 Mbps", "enforce NOTHING"),
        ("frr", "udp sport 5 dport 7 dst 203.0.113.5 then drop", "cannot match source and destination ports"),
        ("nokia", "udp dst 203.0.113.5 then drop", "embed flowspec"),
        ("arista", "udp dst 203.0.113.5 then drop", "TCAM profile"),
        ("nftables", "udp sport 9 then rate-limit 1000 Gbps", "bytes a second"),
        ("iptables", "ip4 udp sport 9 then rate-limit 2 Mpps", "packets a second"),
        ("iptables", "ip4 udp sport 9 then rate-limit 100 bps", "bytes a second"),
        ("ip6tables", "ip6 icmp6 icmp-type 0-200 then drop", "or more"),
        ("ip6tables", "ip6 proto 0 dst 2001:db8::1 then drop", "no packet"),
        ("iptables", "ip4 dst 198.51.100.9 payload 0:17 then drop", "name the protocol"),
        ("exabgp", "udp dst 203.0.113.5 then count", "only drop, and limit"),
    ];
    for (name, rule, wanted) in cannot {
        let said = text(name, rule).unwrap_err().to_string();
        assert!(said.contains(wanted), "{name}: {rule}: {said}");
    }
}

#[test]
fn black_holes_are_as_their_platforms_want_them() {
    let cases: [(&str, &str, &[&str]); 14] = [
        (
            "exabgp",
            "198.51.100.7/32",
            &["    route 198.51.100.7/32 next-hop 192.0.2.1 community [ 65535:666 65535:65281 ];"],
        ),
        (
            "exabgp",
            "2001:db8::7/128",
            &["    route 2001:db8::7/128 next-hop 100::1 community [ 65535:666 65535:65281 ];"],
        ),
        (
            "gobgp",
            "198.51.100.7/32",
            &[
                "gobgp global rib add -a ipv4 198.51.100.7/32 nexthop 192.0.2.1 community 65535:666,65535:65281 origin igp",
            ],
        ),
        (
            "gobgp",
            "2001:db8::7/128",
            &["gobgp global rib add -a ipv6 2001:db8::7/128 nexthop 100::1 community 65535:666,65535:65281 origin igp"],
        ),
        (
            "bird",
            "198.51.100.7/32",
            &[
                "    route 198.51.100.7/32 blackhole {",
                "        bgp_community.add((65535, 666));",
                "        bgp_next_hop = 192.0.2.1;",
            ],
        ),
        ("bird", "2001:db8::7/128", &["    ipv6;", "        bgp_next_hop = 100::1;"]),
        (
            "frr",
            "198.51.100.7/32",
            &[
                "ip route 198.51.100.7/32 blackhole tag 666",
                " match tag 666",
                " set community 65535:666 no-export",
                " set ip next-hop 192.0.2.1",
            ],
        ),
        (
            "frr",
            "2001:db8::7/128",
            &["ipv6 route 2001:db8::7/128 blackhole tag 666", " set ipv6 next-hop global 100::1"],
        ),
        (
            "junos",
            "198.51.100.7/32",
            &[
                "set routing-options static route 198.51.100.7/32 discard",
                "set policy-options community tools-hole members [ 65535:666 no-export ]",
            ],
        ),
        ("junos", "2001:db8::7/128", &["set routing-options rib inet6.0 static route 2001:db8::7/128 discard"]),
        (
            "iosxr",
            "198.51.100.7/32",
            &[
                "  198.51.100.7/32 Null0 tag 666",
                "    set community (65535:666, no-export)",
                "    set next-hop 192.0.2.1",
            ],
        ),
        (
            "nokia",
            "198.51.100.7/32",
            &[
                "configure router \"Base\" static-routes route 198.51.100.7/32 route-type unicast blackhole admin-state enable",
            ],
        ),
        ("arista", "198.51.100.7/32", &["ip route 198.51.100.7/32 Null0 tag 666"]),
        ("arista", "2001:db8::7/128", &["ipv6 route 2001:db8::7/128 Null0 tag 666"]),
    ];
    for (name, net, lines) in cases {
        let hole = BlackHole::new(net.parse().unwrap(), End::Destination, Vec::new(), None, false).unwrap();
        let found = platform(name).black_hole.unwrap()(&hole, &options()).unwrap();
        for line in lines {
            assert!(found.text.lines().any(|own| own == *line), "{name}: wanted\n{line}\nin\n{}", found.text);
        }
        assert!(found.undo.contains(net) || name == "bird", "{name}: {}", found.undo);
    }
    let own = ["64500:666", "4200000000:666:0"].map(|text| text.parse().unwrap()).to_vec();
    let hole = BlackHole::new("203.0.113.9/32".parse().unwrap(), End::Source, own, None, false).unwrap();
    for platform in PLATFORMS {
        let Some(write) = platform.black_hole else { continue };
        let found = write(&hole.clone().exported(), &options()).unwrap();
        let (plain, parts) = (found.text.contains("64500:666"), found.text.contains("64500, 666"));
        assert!(plain || parts, "{}", found.text);
        assert!(found.text.contains("4200000000"), "{}: {}", platform.name, found.text);
        assert!(!found.text.contains("65281") && !found.text.contains("no-export"), "{}", found.text);
        assert!(found.traps.iter().any(|trap| trap.contains("loose uRPF")), "{}", platform.name);
        assert!(found.traps.iter().any(|trap| trap.contains("whole Internet")), "{}", platform.name);
    }
}

fn ranges<T: crate::rule::set::Number + Arbitrary + 'static>() -> impl Strategy<Value = Ranges<T>> {
    let one = (any::<T>(), any::<T>()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let near = any::<T>().prop_map(|a| (a, a));
    let some = proptest::collection::vec(prop_oneof![2 => near, 1 => one], 1..5);
    prop_oneof![3 => Just(Ranges::default()), 1 => some.prop_map(|all| Ranges::new(all).unwrap())]
}

prop_compose! {
    fn net(six: bool)(bits in any::<u128>(), length in 8u8..=32) -> IpNet {
        let net = if six {
            IpNet::new(std::net::Ipv6Addr::from(bits).into(), length * 4)
        } else {
            IpNet::new(std::net::Ipv4Addr::from(bits as u32).into(), length)
        };
        net.unwrap().trunc()
    }
}

prop_compose! {
    fn packet_fields()(
        proto in prop_oneof![
            Just(Ranges::default()),
            Just(Ranges::one(6)),
            Just(Ranges::one(17)),
            Just(Ranges::one(1)),
            Just(Ranges::one(58)),
            ranges::<u8>()
        ],
        ports in (ranges::<u16>(), ranges::<u16>(), ranges::<u16>()),
        icmp in (ranges::<u8>(), ranges::<u8>()),
        flags in proptest::collection::vec((any::<u8>(), 1u8..), 0..3),
        others in (ranges::<u16>(), ranges::<u8>(), ranges::<u8>()),
        frag in proptest::collection::vec(
            prop_oneof![
                Just(Fragment::Dont),
                Just(Fragment::Is),
                Just(Fragment::First),
                Just(Fragment::Last),
                Just(Fragment::Not)
            ],
            0..3
        ),
        payload in proptest::collection::vec((0u16..32, proptest::collection::vec((any::<u8>(), any::<u8>()), 1..9)), 0..2),
        keep in any::<[bool; 6]>(),
    ) -> FlowMatch {
        let pattern = |(offset, bytes): (u16, Vec<(u8, u8)>)| {
            let half = |bits: u8| (if bits & 1 == 0 { 0 } else { 0x0f }) | (if bits & 2 == 0 { 0 } else { 0xf0 });
            let mask: Vec<u8> = bytes.iter().map(|(_, bits)| half(*bits)).collect();
            let value = bytes.iter().zip(&mask).map(|((value, _), mask)| value & mask).collect();
            Payload { offset, value, mask }
        };
        let payload: Vec<Payload> = payload.into_iter().map(pattern).collect();
        let dscp = others.1.iter().map(|(first, last): (u8, u8)| (first & 63, (last & 63).max(first & 63))).collect();
        FlowMatch {
            proto,
            port: if keep[0] { ports.0 } else { Ranges::default() },
            sport: ports.1,
            dport: ports.2,
            icmp_type: if keep[1] { icmp.0 } else { Ranges::default() },
            icmp_code: if keep[1] { icmp.1 } else { Ranges::default() },
            flags: if keep[2] { flags.into_iter().map(|(value, mask)| Flags { value: value & mask, mask }).collect() } else { Vec::new() },
            len: others.0,
            dscp: Ranges::new(dscp).unwrap(),
            ttl: if keep[3] { others.2 } else { Ranges::default() },
            frag: if keep[4] { frag } else { Vec::new() },
            payload: if keep[5] && payload.iter().all(|one| one.mask.iter().any(|mask| *mask != 0)) { payload } else { Vec::new() },
            ..FlowMatch::default()
        }
    }
}

prop_compose! {
    fn matches()(six in any::<bool>())(
        src in prop_oneof![Just(None), net(six).prop_map(Some)],
        dst in prop_oneof![Just(None), net(six).prop_map(Some)],
        fields in packet_fields(),
    ) -> FlowMatch {
        FlowMatch { src, dst, ..fields }
    }
}

/// The dimensions that a match of one family asks for.
fn dimensions(own: &FlowMatch) -> Vec<&'static str> {
    let all = [
        ("src", own.src.is_none_or(|net| net.prefix_len() == 0)),
        ("dst", own.dst.is_none_or(|net| net.prefix_len() == 0)),
        ("proto", own.proto.is_any()),
        ("port", own.port.is_any()),
        ("sport", own.sport.is_any()),
        ("dport", own.dport.is_any()),
        ("icmp-type", own.icmp_type.is_any()),
        ("icmp-code", own.icmp_code.is_any()),
        ("flags", own.flags.is_empty()),
        ("len", own.len.is_any()),
        ("dscp", own.dscp.is_any()),
        ("ttl", own.ttl.is_any()),
        ("frag", own.frag.is_empty()),
        ("payload", own.payload.is_empty()),
    ];
    all.into_iter().filter(|(_, any)| !any).map(|(name, _)| name).collect()
}

/// Cases that are drawn.
const CASES: u32 = 2000;

fn action() -> impl Strategy<Value = Action> {
    (1u64..2_000_000_000, 0u8..4).prop_map(|(rate, kind)| match kind {
        0 => Action::Drop,
        1 => Action::RateLimit(Rate::Bps(rate)),
        2 => Action::RateLimit(Rate::Pps(rate)),
        _ => Action::Count,
    })
}

/// Checks the text of a platform; returns false where it cannot say the rule.
fn keeps_all(platform: &Platform, matches: &FlowMatch, action: Action) -> Result<bool, TestCaseError> {
    let Ok(text) = (platform.rule)(matches, action, &options()) else { return Ok(false) };
    prop_assert!(matches.impossible().is_none() || matches.needs_header() || !matches.frag.is_empty(), "{matches}");
    for own in terms::families(matches).into_iter().filter(|own| platform.concerns(own.family)) {
        let family = own.family.unwrap_or(Family::Ip4);
        for dimension in dimensions(&own) {
            // What packets of this family always or never have is implied by others.
            let implied = dimension == "proto" && matches.proto.is_any();
            let lost = text.losses.iter().any(|loss| loss.dimension == dimension);
            let there = traces(platform.name, dimension, family).iter().any(|words| has_words(&text.text, words));
            prop_assert!(
                there || lost || implied,
                "{}: {dimension} of `{matches}` is gone from\n{}",
                platform.name,
                text.text
            );
        }
    }
    Ok(true)
}

#[test]
fn nothing_is_lost_without_a_word() {
    let said = PLATFORMS.map(|_| std::cell::Cell::new(0));
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(CASES) });
    let result = runner.run(&(matches(), action()), |(matches, action)| {
        for (platform, said) in PLATFORMS.iter().zip(&said).filter(|(one, _)| one.concerns(matches.family())) {
            said.set(said.get() + u32::from(keeps_all(platform, &matches, action)?));
        }
        Ok(())
    });
    if let Err(wrong) = result {
        panic!("{wrong}");
    }
    let said: Vec<(&str, u32)> = PLATFORMS.iter().zip(&said).map(|(one, said)| (one.name, said.get())).collect();
    for (name, count) in &said {
        // These take rules and have no text for one.
        let least = if matches!(*name, "frr" | "nokia" | "arista") { 0 } else { CASES / 20 };
        assert!(*count >= least, "{name} says hardly anything: {said:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_admitted_upstream_has_a_destination(matches in matches()) {
        if admit(&matches, Action::Drop, Place::Network, false).is_ok() {
            prop_assert!(matches.dst.is_some_and(|net| net.prefix_len() > 0));
            prop_assert!(check::matches_in_effect(&matches).is_none());
        }
    }
}
