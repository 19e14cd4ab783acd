//! Tests of flow specifications: the RFCs' own bytes, and the compiler against an independent matcher.

use ftagent_common::rules::has;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::rule::{Action, FlowMatch, Rate, tests as rules};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn compiled(text: &str) -> Compiled {
    let matches: FlowMatch = text.parse().unwrap();
    let family = *families(&matches).first().unwrap();
    FlowSpec::compile(&matches, family).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A match, its bytes, and its text.
const VECTORS: &[(&str, &str, &str)] = &[
    // RFC 8955, 4.3.1 to 4.3.3.
    ("dst 192.0.2.0/24 tcp port 25", "0b 0118c00002 038106 048119", "flow4 dst 192.0.2.0/24 proto =6 port =25"),
    (
        "dst 192.0.2.0/24 src 203.0.113.0/24 port 137-139,8080",
        "12 0118c00002 0218cb0071 040389458b911f90",
        "flow4 dst 192.0.2.0/24 src 203.0.113.0/24 port >=137&<=139,=8080",
    ),
    ("dst 192.0.2.1/32 frag dont,first", "0b 0120c0000201 0c00018004", "flow4 dst 192.0.2.1/32 frag 0x01,0x04"),
    // What the ladder asks for.
    (
        "dst 203.0.113.5 udp sport 123 len 400-1500",
        "13 0120cb007105 038111 06817b 0a130190d505dc",
        "flow4 dst 203.0.113.5/32 proto =17 sport =123 len >=400&<=1500",
    ),
    (
        "dst 203.0.113.5 tcp flags syn/syn+ack",
        "0e 0120cb007105 038106 090102c210",
        "flow4 dst 203.0.113.5/32 proto =6 flags =0x02&!0x10",
    ),
    ("dst 203.0.113.5 icmp icmp-type 8 icmp-code 0", "0f 0120cb007105 038101 078108 088100", ""),
    ("dst 203.0.113.5 frag is,last", "0b 0120cb007105 0c00028008", ""),
    ("dst 203.0.113.5 frag not", "0b 0120cb007105 0c0202c204", "flow4 dst 203.0.113.5/32 frag !0x02&!0x04"),
    ("dst 203.0.113.5 dscp 10-12,46", "0d 0120cb007105 0b030a450c812e", ""),
    ("dst 203.0.113.5 udp sport 0-1023 len 1000-65535", "11 0120cb007105 038111 069503ff 0a9303e8", ""),
    // RFC 8956: an offset of 0.
    (
        "dst 2001:db8::5 udp sport 53",
        "19 01800020010db8000000000000000000000005 038111 068135",
        "flow6 dst 2001:db8::5/128 proto =17 sport =53",
    ),
    ("dst 2001:db8::/32 icmp6 icmp-type 128", "0d 01200020010db8 03813a 078180", ""),
    ("dst 2001:db8::/33 frag dont,is", "0b 0121 00 20010db800 0c8002", ""),
];

#[test]
fn matches_become_the_bytes_of_the_rfc() {
    for (text, bytes, shown) in VECTORS {
        let Compiled { spec, widened, .. } = compiled(text);
        assert_eq!(widened, [], "{text}");
        assert_eq!(spec.encode(), hex(bytes), "{text}: {:02x?}", spec.encode());
        assert_eq!(FlowSpec::decode(spec.family(), &hex(bytes)), Ok((spec.clone(), [].as_slice())), "{text}");
        assert!(shown.is_empty() || spec.to_string() == *shown, "{text}: {spec}");
    }
    // None set: every flag for itself.
    let spec = compiled("dst 203.0.113.5 tcp flags none/all").spec;
    assert!(spec.to_string().ends_with("flags !0x01&!0x02&!0x04&!0x08&!0x10&!0x20&!0x40&!0x80"), "{spec}");
}

/// Bytes that others send, and what they say.
#[test]
fn bytes_of_others_are_read() {
    use Family::{Ip4, Ip6};
    const CUT: Result<&str, &str> = Err("ends in the middle");
    let cases = [
        // RFC 8955, 4.3.3: both bits in one comparison.
        (Ip4, "09 0120c0000201 0c8005", Ok("flow4 dst 192.0.2.1/32 frag 0x05")),
        // RFC 8956, 3.8: offsets, and a pattern that does not begin at a byte.
        (Ip6, "08 0268401234567 89a", Ok("flow6 src ::1234:5678:9a00:0/104 offset 64")),
        (Ip6, "08 0268412468acf134", Ok("flow6 src ::1234:5678:9a00:0/104 offset 65")),
        (
            Ip6,
            "12 01200020010db8 02684012345678 9a 03810 6",
            Ok("flow6 dst 2001:db8::/32 src ::1234:5678:9a00:0/104 offset 64 proto =6"),
        ),
        (Ip6, "06 01 00 00 03 81 11", Ok("flow6 dst ::/0 proto =17")),
        // Values in more bytes than they need, and bits that are to be ignored.
        (Ip4, "0a 0118c00002 04 f1 0019", CUT),
        (Ip4, "09 0118c00002 04 91 0019", Ok("flow4 dst 192.0.2.0/24 port =25")),
        (Ip4, "08 0118c00002 04 c9 19", Ok("flow4 dst 192.0.2.0/24 port =25")),
        (Ip4, "08 0119c00002ff 03 81 06", CUT),
        (Ip4, "09 0119c00002ff 03 81 06", Ok("flow4 dst 192.0.2.128/25 proto =6")),
        (Ip4, "08 0118c00002 0b 81 ca", Ok("flow4 dst 192.0.2.0/24 dscp =10")),
        (Ip4, "09 0118c00002 09 91 0102", Ok("flow4 dst 192.0.2.0/24 flags =0x102")),
        (Ip4, "0a 0118c00002 04 07 00 80 00", Ok("flow4 dst 192.0.2.0/24 port true,false")),
        (Ip6, "0b 01200020010db8 0d a1 000f4240", CUT),
        (Ip6, "0c 01200020010db8 0d a1 000f4240", CUT),
        (Ip6, "0d 01200020010db8 0d a1 000f4240", Ok("flow6 dst 2001:db8::/32 label =1000000")),
    ];
    for (family, bytes, wanted) in cases {
        let wire = hex(bytes);
        match (FlowSpec::decode(family, &wire), wanted) {
            (Ok((spec, rest)), Ok(shown)) => {
                assert_eq!((spec.to_string().as_str(), rest), (shown, [].as_slice()), "{bytes}");
            }
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{bytes}: {error}"),
            (found, _) => panic!("{bytes}: {found:?} instead of {wanted:?}"),
        }
    }
}

#[test]
fn what_is_no_flow_specification() {
    use Family::{Ip4, Ip6};
    let cases = [
        (Ip4, "00", "is empty"),
        (Ip4, "", "ends in the middle"),
        (Ip4, "05 0118c000", "ends in the middle"),
        (Ip4, "f0", "ends in the middle"),
        (Ip4, "04 0118c000", "ends in the middle"),
        (Ip4, "02 0381", "ends in the middle"),
        (Ip4, "03 030106", "ends in the middle"),
        (Ip4, "06 038106 038111", "type 3 does not belong behind type 3"),
        (Ip4, "08 038111 0118c00002", "type 1 does not belong behind type 3"),
        (Ip4, "03 0e8106", "type 14 is not known"),
        (Ip4, "03 008106", "type 0 is not known"),
        (Ip4, "06 0da1000f4240", "type 13 is not known"),
        (Ip4, "07 0121c000020100", "32 bits at most"),
        (Ip6, "04 0181 00 00", "128 bits at most"),
        (Ip6, "03 01 20 20", "the offset"),
        (Ip6, "03 01 00 01", "the offset"),
        (Ip4, "04 03 91 0106", "too large"),
        (Ip4, "06 04 a1 00010000", "too large"),
        (Ip4, "04 0b 91 000a", "takes one byte"),
        (Ip4, "04 0c 90 0001", "too many bytes"),
        (Ip4, "06 09 a0 00000001", "too many bytes"),
    ];
    for (family, bytes, wanted) in cases {
        let error = FlowSpec::decode(family, &hex(bytes)).expect_err(bytes).to_string();
        assert!(error.contains(wanted), "{bytes}: {error}");
    }
    let host_bits = Component::Prefix { side: Side::Destination, net: "192.0.2.1/24".parse().unwrap(), offset: 0 };
    assert!(FlowSpec::new(Ip4, vec![host_bits]).unwrap_err().to_string().contains("host bits"));
    let long: Vec<(u16, u16)> = (0..2000).map(|i| (i * 3 + 256, i * 3 + 256)).collect();
    let long = FlowMatch { dport: crate::rule::Ranges::new(long).unwrap(), ..FlowMatch::default() };
    let error = FlowSpec::compile(&long, Ip4).unwrap_err();
    assert!(error.to_string().contains("bytes long"), "{error}");
}

#[test]
fn lengths_of_240_bytes_and_more_take_two() {
    let ports = |count: u16| {
        let ports = (0..count).map(|i| (1000 + i * 2, 1000 + i * 2)).collect();
        let matches = FlowMatch { dport: crate::rule::Ranges::new(ports).unwrap(), ..FlowMatch::default() };
        FlowSpec::compile(&matches, Family::Ip4).unwrap().spec.encode()
    };
    // A type, and three bytes for each port.
    for (count, head) in [(79, vec![0xee]), (80, vec![0xf0, 0xf1]), (1000, vec![0xfb, 0xb9])] {
        let bytes = ports(count);
        assert_eq!(&bytes[..head.len()], head, "{count}");
        assert_eq!(FlowSpec::decode(Family::Ip4, &bytes).unwrap().0.encode(), bytes);
    }
}

#[test]
fn what_cannot_be_said_is_left_out_and_told() {
    // The match, what is left out, and what is said.
    let cases = [
        ("dst 203.0.113.5 udp sport 53 ttl 240-255", vec!["ttl 240-255"], "ip4 udp dst 203.0.113.5/32 sport 53"),
        ("dst 203.0.113.5 udp payload 0:17000326", vec!["payload 0:17000326"], "ip4 udp dst 203.0.113.5/32"),
        (
            "dst 2001:db8::5 tcp flags syn ttl 1 payload 4:ff",
            vec!["ttl 1", "payload 4:ff"],
            "ip6 tcp dst 2001:db8::5/128 flags syn",
        ),
        ("dst 203.0.113.5 udp ttl 0-255", vec![], "ip4 udp dst 203.0.113.5/32"),
    ];
    for (text, left_out, says) in cases {
        let compiled = compiled(text);
        let told: Vec<String> = compiled.widened.iter().map(|w| format!("{} {}", w.dimension, w.asked)).collect();
        assert_eq!(
            (told, compiled.says.to_string()),
            (left_out.into_iter().map(String::from).collect(), says.to_owned())
        );
    }
    assert!(compiled("dst 203.0.113.5 udp sport 123").first_fragments);
    assert!(!compiled("dst 203.0.113.5 frag is").first_fragments);
    let cannot = [
        ("ttl 64", Family::Ip4, "every packet"),
        ("ip4 payload 0:ff", Family::Ip4, "every packet"),
        ("src 0.0.0.0/0", Family::Ip4, "every packet"),
        ("any", Family::Ip6, "every packet"),
        ("dst 203.0.113.5", Family::Ip6, "the other IP family"),
        ("udp flags syn", Family::Ip4, "no packet can match"),
        ("dst 2001:db8::5 frag dont", Family::Ip6, "don't-fragment"),
        ("icmp6 icmp-type 128", Family::Ip4, "none of the other"),
    ];
    for (text, family, wanted) in cannot {
        let error = FlowSpec::compile(&text.parse().unwrap(), family).expect_err(text).to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn rates_are_in_the_units_of_the_rfc() {
    // RFC 8955, 7.1 and 7.2: bytes a second, not bits; packets a second in a community of their own.
    let cases = [
        (Action::Drop, 0, "8006 0000 00000000"),
        (Action::RateLimit(Rate::Bps(8_000_000)), 64_500, "8006 fbf4 49742400"),
        (Action::RateLimit(Rate::Bps(9)), 0, "8006 0000 3f800000"),
        (Action::RateLimit(Rate::Pps(1000)), 0, "800c 0000 447a0000"),
        (Action::RateLimit(Rate::Pps(1000)), 4_200_000_000, "800c 0000 447a0000"),
    ];
    for (action, asn, bytes) in cases {
        let limit = Limit::of(action).unwrap();
        assert_eq!(limit.community(asn).to_vec(), hex(bytes), "{action}");
        assert_eq!(Limit::from_community(limit.community(asn)), Some(limit), "{action}");
    }
    let refused = [Action::Challenge, Action::Count, Action::Capture];
    let rates = [Rate::Bps(0), Rate::Bps(7), Rate::Pps(0), Rate::Bps(u64::MAX), Rate::Pps(u64::MAX)];
    for action in refused.into_iter().chain(rates.map(Action::RateLimit)) {
        assert!(Limit::of(action).is_err(), "{action}");
    }
    for bytes in ["8006 0000 7fc00000", "8006 0000 bf800000", "8006 0000 7f800000", "8007 0000 00000000"] {
        assert_eq!(Limit::from_community(hex(bytes).try_into().unwrap()), None, "{bytes}");
    }
}

/// Whether a subject is one that the RFC and the parser here see alike: ICMP of the other family is none to a
/// router.
fn alike(subject: &crate::rule::Subject<'_>) -> bool {
    let v4 = subject.ends.is_some_and(|(source, _)| source.is_ipv4());
    let key = &subject.key;
    let foreign = key.proto == if v4 { 58 } else { 1 };
    // No IPv6 packet has the bit.
    let dont = !v4 && key.fragment & ftagent_common::rules::fragment::DONT != 0;
    !(dont || foreign && key.has & has::ICMP != 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_compiler_agrees_with_the_rfc(
        // On the heap: unoptimised, together they are more than a thread's stack.
        matches in prop_oneof![3 => rules::simple().boxed(), 1 => rules::matches().boxed()],
        samples in vec(rules::samples().boxed(), 1..24),
    ) {
        for family in [Family::Ip4, Family::Ip6] {
            let Ok(compiled) = FlowSpec::compile(&matches, family) else { continue };
            let Compiled { spec, widened, says, .. } = compiled;
            for sample in &samples {
                let subject = sample.subject();
                let of_family = subject.ends.is_some_and(|(source, _)| source.is_ipv4() == (family == Family::Ip4));
                if !of_family || !alike(&subject) {
                    continue;
                }
                let (asked, said) = (matches.matches(&subject), spec.matches(&subject));
                prop_assert!(!asked || said, "{} is narrower than {}", spec, matches);
                prop_assert_eq!(says.matches(&subject), said, "{} of {}", &spec, &matches);
                prop_assert!(!widened.is_empty() || asked == said, "{} is not {}", &spec, &matches);
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(matches in rules::matches(), more in vec(any::<u8>(), 0..4)) {
        for family in families(&matches) {
            let Ok(Compiled { spec, .. }) = FlowSpec::compile(&matches, family) else { continue };
            let mut bytes = spec.encode();
            bytes.extend(&more);
            prop_assert_eq!(FlowSpec::decode(family, &bytes), Ok((spec, more.as_slice())));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in vec(any::<u8>(), 0..64), six in any::<bool>(), kind in 0..16u8) {
        let family = if six { Family::Ip6 } else { Family::Ip4 };
        let length = bytes.len();
        for round in 0..2 {
            if let Ok((spec, _)) = FlowSpec::decode(family, &bytes) {
                // What was read is written in another way at most, and means the same.
                let again = FlowSpec::decode(family, &spec.encode()).map(|(spec, _)| spec);
                prop_assert_eq!(again, Ok(spec));
            }
            // Once more with a length and a type that lead further.
            if let ([first, second, ..], 0) = (bytes.as_mut_slice(), round) {
                (*first, *second) = ((length - 1) as u8, kind);
            }
        }
    }
}
