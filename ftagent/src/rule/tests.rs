//! Tests of rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ftagent_common::rules::{Key, fragment, has};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{
    Action, Family, Flags, FlowMatch, Fragment, Origin, Payload, Ranges, Rate, Rule, Subject, parse, set::Number,
};

/// Numbers up to `most`: narrow ones often, so that two matches have something in common.
fn ranges<T: Number + Arbitrary + TryFrom<u32>>(most: u32) -> impl Strategy<Value = Ranges<T>> {
    let number = prop_oneof![3 => 0..8u32, 1 => 0..=most].prop_map(move |value| value.min(most));
    let range = (number.clone(), number).prop_filter_map("a number of the type", |(a, b)| {
        Some((T::try_from(a.min(b)).ok()?, T::try_from(a.max(b)).ok()?))
    });
    prop_oneof![2 => Just(Ranges::default()), 1 => vec(range, 1..4).prop_map(|all| Ranges::new(all).unwrap())]
}

fn protocols() -> impl Strategy<Value = Ranges<u8>> {
    let known = select(vec![1u8, 2, 6, 17, 47, 58, 200]).prop_map(Ranges::one);
    prop_oneof![2 => Just(Ranges::default()), 3 => known, 1 => ranges(255)]
}

fn net(family: Option<Family>) -> impl Strategy<Value = Option<IpNet>> {
    let v4 = (0..4u32, select(vec![0u8, 8, 24, 30, 31, 32])).prop_map(|(low, length)| {
        IpNet::from(Ipv4Net::new(Ipv4Addr::from(0xc000_0200 | low), length).unwrap()).trunc()
    });
    let v6 = (0..4u128, select(vec![0u8, 16, 32, 64, 127, 128])).prop_map(|(low, length)| {
        IpNet::from(Ipv6Net::new(Ipv6Addr::from(0x2001_0db8_u128 << 96 | low), length).unwrap()).trunc()
    });
    match family {
        Some(Family::Ip4) => option::of(v4).boxed(),
        _ => option::of(v6).boxed(),
    }
}

fn flags() -> impl Strategy<Value = Vec<Flags>> {
    let test = (1..=255u8, any::<u8>()).prop_map(|(mask, value)| Flags { value: value & mask, mask });
    let usual = select(vec![(2, 2), (2, 18), (16, 16), (0, 255), (18, 18)]);
    let usual = usual.prop_map(|(value, mask)| Flags { value, mask });
    prop_oneof![3 => Just(Vec::new()), 1 => vec(prop_oneof![usual, test], 1..3)]
}

fn payloads() -> impl Strategy<Value = Vec<Payload>> {
    let half = || prop_oneof![Just(0u8), Just(15)];
    let byte = (0..3u8, half(), half()).prop_map(|(value, high, low)| (value, high << 4 | low));
    let pattern = (prop_oneof![3 => 0..4u16, 1 => 0..32u16], vec(byte, 1..5)).prop_filter_map(
        "looks at something",
        |(offset, bytes)| {
            bytes.iter().any(|(_, mask)| *mask != 0).then(|| Payload {
                offset,
                value: bytes.iter().map(|(value, mask)| value & mask).collect(),
                mask: bytes.iter().map(|(_, mask)| *mask).collect(),
            })
        },
    );
    prop_oneof![3 => Just(Vec::new()), 1 => vec(pattern, 1..3)]
}

fn fragments() -> impl Strategy<Value = Vec<Fragment>> {
    let kind = select(vec![Fragment::Dont, Fragment::Is, Fragment::First, Fragment::Last, Fragment::Not]);
    prop_oneof![3 => Just(Vec::new()), 1 => vec(kind, 1..3)]
}

prop_compose! {
    pub(super) fn matches()(of in select(vec![Family::Ip4, Family::Ip6]))(
        family in option::of(Just(of)),
        src in net(Some(of)),
        dst in net(Some(of)),
        proto in protocols(),
        ports in (ranges(65_535), ranges(65_535), ranges(65_535)),
        icmp in (ranges(255), ranges(255)),
        flags in flags(),
        len in ranges(65_535),
        dscp in ranges(63),
        frag in fragments(),
        ttl in ranges(255),
        payload in payloads(),
    ) -> FlowMatch {
        let (port, sport, dport) = ports;
        FlowMatch {
            family, src, dst, proto, port, sport, dport, icmp_type: icmp.0, icmp_code: icmp.1, flags, len, dscp, frag,
            ttl, payload,
        }
    }
}

/// A match of few dimensions: those of all are satisfied by hardly any packet.
pub(super) fn simple() -> impl Strategy<Value = FlowMatch> {
    (matches(), any::<u16>(), any::<u16>()).prop_map(|(all, keep, more)| {
        let keeps = |bit: u16| keep & more & 1 << bit != 0;
        let none = FlowMatch::default();
        FlowMatch {
            family: all.family.filter(|_| keeps(0)),
            src: all.src.filter(|_| keeps(1)),
            dst: all.dst.filter(|_| keeps(2)),
            proto: if keeps(3) { all.proto } else { none.proto },
            port: if keeps(4) { all.port } else { none.port },
            sport: if keeps(5) { all.sport } else { none.sport },
            dport: if keeps(6) { all.dport } else { none.dport },
            icmp_type: if keeps(7) { all.icmp_type } else { none.icmp_type },
            icmp_code: if keeps(8) { all.icmp_code } else { none.icmp_code },
            flags: if keeps(9) { all.flags } else { none.flags },
            len: if keeps(10) { all.len } else { none.len },
            dscp: if keeps(11) { all.dscp } else { none.dscp },
            frag: if keeps(12) { all.frag } else { none.frag },
            ttl: if keeps(13) { all.ttl } else { none.ttl },
            payload: if keeps(14) { all.payload } else { none.payload },
        }
    })
}

/// A packet as the parser would give it, of values that the matches above ask for.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    ends: (IpAddr, IpAddr),
    key: Key,
    payload: Vec<u8>,
}

impl Sample {
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { ends: Some(self.ends), key: self.key, payload: &self.payload }
    }
}

pub(super) fn samples() -> impl Strategy<Value = Sample> {
    let low = || prop_oneof![4 => 0..8u16, 1 => any::<u16>()];
    let fields = (low(), low(), low(), 0..64u8, prop_oneof![4 => 0..8u8, 1 => any::<u8>()]);
    let kinds = (select(vec![1u8, 2, 6, 17, 47, 58, 200]), any::<bool>(), 0..4u128, 0..4u128);
    let small = (select(vec![2u8, 16, 18, 24, 0, 255]), 0..8u8, 0..8u8);
    let pieces = select(vec![0u8, fragment::DONT, fragment::FIRST, fragment::IS, fragment::IS | fragment::LAST]);
    (fields, kinds, small, pieces, vec(0..3u8, 0..12)).prop_map(|(fields, kinds, small, piece, payload)| {
        let ((sport, dport, len, dscp, ttl), (proto, six, src, dst)) = (fields, kinds);
        let address = |low: u128| match six {
            false => IpAddr::from(Ipv4Addr::from(0xc000_0200 | low as u32)),
            true => IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96 | low)),
        };
        let mut key = Key { len, dscp, ttl, proto, fragment: piece, has: has::IP, ..Key::default() };
        if piece & (fragment::IS | fragment::FIRST) == 0 {
            key.has |= has::PAYLOAD;
            if matches!(proto, 6 | 17) {
                (key.sport, key.dport) = (sport, dport);
                key.has |= has::PORTS;
            }
            if proto == 6 {
                key.flags = small.0;
                key.has |= has::FLAGS;
            }
            if matches!(proto, 1 | 58) {
                (key.icmp_type, key.icmp_code) = (small.1, small.2);
                key.has |= has::ICMP;
            }
        }
        Sample { ends: (address(src), address(dst)), key, payload }
    })
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Drop),
        Just(Action::Count),
        Just(Action::Challenge),
        (1..=super::MOST_RATE).prop_map(|rate| Action::RateLimit(Rate::Pps(rate))),
        (1..=super::MOST_RATE).prop_map(|rate| Action::RateLimit(Rate::Bps(rate))),
    ]
}

proptest! {
    #[test]
    fn text_json_and_toml_say_the_same(matches in matches(), action in actions(), reason in ".*") {
        let text = matches.to_string();
        prop_assert_eq!(text.parse::<FlowMatch>().map_err(|error| format!("{text}: {error}")), Ok(matches.clone()));
        let whole = format!("{matches} then {action}");
        prop_assert_eq!(parse(&whole).map_err(|error| format!("{whole}: {error}")), Ok((matches.clone(), action)));
        let rule = Rule { matches, action, origin: Origin::Operator("root(0)".to_owned()), reason };
        let json = serde_json::to_string(&rule).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rule>(&json).map_err(|e| format!("{json}: {e}")), Ok(rule.clone()));
        let toml = toml::to_string(&rule).unwrap();
        prop_assert_eq!(toml::from_str::<Rule>(&toml).map_err(|e| format!("{toml}: {e}")), Ok(rule));
    }

    #[test]
    fn no_text_makes_it_panic(
        text in ".{0,60}",
        words in vec(select(vec![
            "udp", "tcp", "proto", "src", "dst", "port", "sport", "payload", "flags", "frag", "len", "then", "drop",
            "rate-limit", "any", "ip4", "0", "65535:00", "63:..", "0:0102", "-", ",", "1-", "syn/", "/", "+", "é", "ip6",
            "::/0", "0.0.0.0/0", "18446744073709551616", "9-1", "gbps", "1pps",
        ]), 0..8),
    ) {
        for text in [text, words.join(" ")] {
            let read = text.parse::<FlowMatch>();
            if let Ok(matches) = &read {
                prop_assert_eq!(matches.to_string().parse::<FlowMatch>(), Ok(matches.clone()), "{}", text);
            }
            let _ = (parse(&text), text.parse::<Action>(), text.parse::<Flags>(), text.parse::<Payload>());
        }
    }

    #[test]
    fn what_does_not_match_is_named(matches in simple(), sample in samples()) {
        let subject = sample.subject();
        prop_assert_eq!(matches.matches(&subject), matches.mismatches(&subject).is_empty());
        if matches.matches(&subject) {
            prop_assert_eq!(matches.impossible(), None, "{}", matches);
        }
    }

    #[test]
    fn how_matches_relate_is_never_claimed_wrongly(a in simple(), b in simple(), all in vec(samples(), 16)) {
        prop_assert!(a.covers(&a), "{a}");
        prop_assert!(FlowMatch::default().covers(&a));
        prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
        for sample in &all {
            let (in_a, in_b) = (a.matches(&sample.subject()), b.matches(&sample.subject()));
            prop_assert!(!(in_b && !in_a && a.covers(&b)), "{a} does not cover {b}: {sample:?}");
            prop_assert!(!(in_a && in_b && !a.overlaps(&b)), "{a} overlaps {b}: {sample:?}");
        }
    }
}

#[test]
fn texts_are_read_as_people_write_them() {
    let cases = [
        ("udp sport 123 len 400-1500 dst 198.51.100.10/32", "udp dst 198.51.100.10/32 sport 123 len 400-1500"),
        ("TCP  DPORT 443,80 flags SYN/syn+ack", "tcp dport 80,443 flags syn/syn+ack"),
        ("src 192.0.2.7 proto udp,tcp", "proto tcp,udp src 192.0.2.7/32"),
        ("proto 6-7,17 ip4", "ip4 proto 6-7,udp"),
        ("payload 0:17000326 payload 8:.A", "payload 0:17000326 payload 8:.a"),
        ("len 1-5,6,3-9", "len 1-9"),
        ("flags none/all,all", "flags none/all,all"),
        ("any", "any"),
        ("frag is,first ttl 0-255", "frag is,first ttl 0-255"),
    ];
    for (text, wanted) in cases {
        let read: FlowMatch = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(read.to_string(), wanted, "{text}");
    }
    let actions = [
        ("drop", Action::Drop),
        ("Rate-Limit 300 pps", Action::RateLimit(Rate::Pps(300))),
        ("rate-limit 20kpps", Action::RateLimit(Rate::Pps(20_000))),
        ("rate-limit 10 Mbit/s", Action::RateLimit(Rate::Bps(10_000_000))),
        ("count", Action::Count),
    ];
    for (text, wanted) in actions {
        assert_eq!(text.parse(), Ok(wanted), "{text}");
    }
}

#[test]
fn errors_name_the_word_and_the_remedy() {
    let cases = [
        ("udp sprot 123", "`sprot` is no dimension: did you mean `sport`?"),
        ("upd sport 123", "`upd` is no dimension: did you mean `udp`?"),
        ("source 192.0.2.1", "`source` is written `src` here"),
        ("192.0.2.1", "`192.0.2.1` stands behind no dimension: write `src 192.0.2.1` or `dst 192.0.2.1`"),
        ("udp dport 53 80", "`80` stands behind no dimension: lists and ranges have no spaces"),
        ("tcp syn", "`syn` is a TCP flag: write `flags syn`"),
        ("xyzzy", "`xyzzy` is no dimension; they are ip4, ip6, src"),
        ("udp tcp", "`tcp` is a second protocol, and no packet has two: write `proto tcp,udp`"),
        ("ip4 ip6", "`ip6` is a second family"),
        ("src 192.0.2.1 src 192.0.2.2", "`src` stands twice: a rule has one prefix on each side"),
        ("udp len 1 len 2", "`len` stands twice: put commas"),
        ("udp sport", "`sport` is not followed by a value"),
        ("udp sport dport 53", "`sport` is not followed by a value but by `dport`"),
        ("udp sport 70000", "`70000` is no number from 0 to 65535"),
        ("udp sport -5", "is no number from 0 to 65535"),
        ("udp sport 500-400", "`500-400` ends before it begins: did you mean 400-500?"),
        ("src 192.0.2.7/24", "`192.0.2.7/24` has host bits set: did you mean 192.0.2.0/24 or 192.0.2.7/32?"),
        ("src example.org", "`example.org` is no address or prefix such as 192.0.2.0/24"),
        ("src 192.0.2.1 dst 2001:db8::1", "asks for IPv4 and IPv6, and no packet is both"),
        ("dscp 64", "`64` is no number from 0 to 63"),
        ("proto tpc", "`tpc` is no protocol: did you mean `tcp`?"),
        ("tcp flags sny", "`sny` is no TCP flag: did you mean `syn`?"),
        ("tcp flags syn/ack", "`syn/ack` sets a flag that it does not look at"),
        ("tcp flags none", "`none` looks at no flag: for packets without any write `none/all`"),
        ("frag frist", "`frist` is no kind of fragment: did you mean `first`?"),
        ("payload 17000326", "`17000326` is no pattern: write OFFSET:HEX"),
        ("payload 0:123", "needs two digits for each of 1 to 32 bytes"),
        ("payload 0:zz", "is not hexadecimal"),
        ("payload 60:0102030405", "reaches behind the first 64 bytes"),
        ("payload 65535:01", "reaches behind the first 64 bytes"),
        ("payload 0:....", "looks at no digit"),
        ("any udp", "`any` stands alone"),
        ("udp then drop", "`then` begins an action"),
        ("", "is empty"),
    ];
    for (text, wanted) in cases {
        let error = text.parse::<FlowMatch>().expect_err(text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
    let cases = [
        ("udp sport 123", "`123` is where the rule ends, and it does not say what to do: write `… then drop`"),
        ("then drop", "write what is matched before it"),
        ("udp then", "`then` is not followed by an action"),
        ("udp then dorp", "`dorp` is no action: did you mean `drop`?"),
        ("udp then limit 5 pps", "`limit` is written `rate-limit 300 pps` here"),
        ("udp then accept", "`ftagent allow ADDRESS` lets everything"),
        ("udp then drop 5", "`5` is too much: nothing stands behind `drop`"),
        ("udp then rate-limit", "`rate-limit` names no rate"),
        ("udp then rate-limit 5", "`5` has no unit that is known"),
        ("udp then rate-limit 5 apples", "`5apples` has no unit that is known"),
        ("udp then rate-limit 0 pps", "`0pps` lets nothing pass: write `drop`"),
        ("udp then rate-limit 18446744073709551 gbps", "is more than any link carries"),
    ];
    for (text, wanted) in cases {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn tables_are_checked_as_texts_are() {
    let cases = [
        (r#"{"src":"192.0.2.7/24"}"#, "host bits"),
        (r#"{"src":"192.0.2.7/32","family":"ip6"}"#, "no packet is both"),
        (r#"{"dscp":[64]}"#, "no DSCP"),
        (r#"{"sport":[[9,1]]}"#, "ends before it begins"),
        (r#"{"payload":["70:00"]}"#, "reaches behind"),
        (r#"{"sprot":[1]}"#, "unknown field"),
    ];
    for (text, wanted) in cases {
        let error = serde_json::from_str::<FlowMatch>(text).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn covers_and_impossible() {
    let of = |text: &str| text.parse::<FlowMatch>().unwrap();
    let cases = [
        ("udp", "udp sport 123", true),
        ("proto tcp,udp", "sport 123", true),
        ("tcp", "sport 123", false),
        ("tcp", "flags syn", true),
        ("port 53", "udp sport 53", true),
        ("port 53,80", "udp sport 53 dport 9", true),
        ("sport 0-65535", "udp dport 53", true),
        ("sport 0-65535", "udp", false),
        ("0.0.0.0/0", "ip4", true),
        ("flags syn", "flags syn/syn+ack", true),
        ("flags syn/syn+ack", "flags syn", false),
        ("flags syn,ack", "flags syn+ack", true),
        ("len 0-65535", "udp", true),
        ("len 400-1500", "len 400-500,900", true),
        ("frag is", "frag last", true),
        ("frag last", "frag is", false),
        ("payload 0:17", "payload 0:1700", true),
        ("payload 0:17..", "payload 0:17", false),
        ("payload 0:1700", "payload 0:17 payload 1:00", true),
        ("src 198.51.100.0/24", "src 198.51.100.7", true),
        ("src 198.51.100.0/24", "dst 198.51.100.7", false),
    ];
    for (a, b, wanted) in cases {
        let a = a.replace("0.0.0.0/0", "src 0.0.0.0/0");
        assert_eq!(of(&a).covers(&of(b)), wanted, "{a} covers {b}");
    }
    let cases = [
        ("udp flags syn", Some("flags, which TCP has")),
        ("icmp sport 5", Some("ports, which TCP and UDP have")),
        ("tcp icmp-type 8", Some("ICMP has")),
        ("icmp-type 8 sport 5", Some("ports, which TCP and UDP have, and for a type")),
        ("udp sport 53 frag is", Some("fragments count as having no ports")),
        ("payload 0:01 payload 0:02", Some("contradict")),
        ("udp sport 53 frag not,is", None),
        ("frag is,last", None),
    ];
    for (text, wanted) in cases {
        let why = of(text).impossible();
        assert_eq!(why.is_some(), wanted.is_some(), "{text}: {why:?}");
        assert!(why.unwrap_or_default().contains(wanted.unwrap_or_default()), "{text}");
    }
}
