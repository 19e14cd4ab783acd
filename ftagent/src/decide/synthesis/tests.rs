#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
//! Rules from packets that are made for one property each.

use proptest::prelude::*;

use super::{
    exempt::{around, overlap},
    *,
};
use crate::decide::frames::{Dice, decoded, member, udp};

/// Junk of a flood: source port, length of payload and its first bytes by number.
fn flood(count: u64, one: impl Fn(u64, &mut Dice) -> (u16, u16, Vec<u8>)) -> Vec<Sample> {
    let mut dice = Dice(7);
    let make = |number| {
        let (sport, dport, payload) = one(number, &mut dice);
        let frame = udp(dice.anyone(), (sport, dport), &payload);
        let packet = decoded(number, &frame);
        Sample { seen: Glimpse::of(&packet).unwrap(), pps: 10.0, wire: packet.wire, known: false }
    };
    (0..count).map(make).collect()
}

/// Players, who say all kinds of things to port 27016.
fn players(verified: bool) -> Vec<Clean> {
    let mut dice = Dice(1);
    let make = |number| {
        let length = 20 + dice.below(80) as usize;
        let port = 20_000 + dice.below(40_000) as u16;
        let frame = udp(member(number % 300), (port, 27_016), &dice.bytes(length));
        Clean { seen: Glimpse::of(&decoded(number, &frame)).unwrap(), verified, at_s: 0 }
    };
    (0..2000).map(make).collect()
}

fn solved(attack: &[Sample], clean: &[Clean], exempt: &[&str]) -> Plan {
    let clean: Vec<&Clean> = clean.iter().collect();
    let exempt: Vec<FlowMatch> = exempt.iter().map(|text| text.parse().unwrap()).collect();
    let ordinary = vec![500.0; TrafficClass::COUNT];
    let exit = vec![(100.0, 1e6); TrafficClass::COUNT];
    let problem = Problem {
        attack,
        clean: &clean,
        exempt: &exempt,
        own: &[],
        refused: &[],
        most: 8,
        ordinary: &ordinary,
        exit: &exit,
        part: 1.0,
        taken: &[],
        seconds: 1.0,
        calm: &Passed::default(),
    };

    plan(&problem)
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.rules.iter().map(|rule| format!("{} {}", rule.action, rule.matches)).collect()
}

#[test]
fn the_rule_is_what_the_attack_has_and_clean_traffic_has_not() {
    let cases: [(&str, Vec<Sample>, &[&str]); 5] = [
        ("a length", flood(400, |_, d| (d.port(), 27_016, d.bytes(400))), &["drop ip4 udp dport 27016 len 428"]),
        (
            "lengths in a range, with a margin",
            flood(400, |n, d| (d.port(), 27_016, vec![9; 300 + n as usize % 80])),
            &["drop ip4 udp dport 27016 len 318-417"],
        ),
        (
            "a few source ports",
            flood(400, |n, d| ([53, 123, 1900][n as usize % 3], d.port(), vec![9; 80])),
            &["drop ip4 udp sport 53,123,1900 len 108"],
        ),
        (
            "bytes of payload, where nothing else is constant",
            flood(400, |n, d| {
                (d.port(), 27_016, [&b"\xde\xad\xbe\xefxx"[..], &d.bytes(20 + n as usize % 60)].concat())
            }),
            &["drop ip4 udp dport 27016 len 46-121 payload 0:deadbeef7878"],
        ),
        (
            "two kinds at once",
            flood(400, |n, d| match n % 2 {
                0 => (123, d.port(), vec![9; 440]),
                _ => (d.port(), 27_016, [&b"\xde\xad\xbe\xefxx"[..], &d.bytes(20 + n as usize % 60)].concat()),
            }),
            &["drop ip4 udp sport 123 len 468", "drop ip4 udp dport 27016 len 47-121 payload 0:deadbeef7878"],
        ),
    ];
    for (name, attack, expected) in cases {
        let plan = solved(&attack, &players(true), &[]);
        let mut found = texts(&plan);
        found.sort_by_key(|text| !text.contains("sport"));
        assert_eq!(found, expected, "{name}: {plan:#?}");
        assert_eq!(plan.none_because, None, "{name}");
        for rule in &plan.rules {
            assert!(rule.predicted.attack_share >= 0.2 && rule.predicted.clean_share == 0.0, "{name}: {rule:?}");
            assert_eq!(rule.predicted.clean_flows, 2000);
        }
    }
}

#[test]
fn values_that_are_rare_or_random_make_no_rule() {
    // Fifty lengths, each of few packets, all within those of players.
    let attack = flood(400, |n, d| (d.port(), 27_016, d.bytes(25 + n as usize % 50)));
    let plan = solved(&attack, &players(true), &[]);
    assert_eq!(texts(&plan), [""; 0], "{plan:#?}");
    let why = plan.none_because.expect("it says why");
    assert!(why.starts_with("no safe rule for UDP: `") && why.contains("of 2000 clean flows"), "{why}");
}

#[test]
fn what_nobody_vouches_for_does_not_stop_a_signature_but_stops_a_guess() {
    let mut clean = players(true);
    let signed = flood(400, |_, d| (d.port(), 27_016, b"the same words each time".to_vec()));
    let forerunners = signed.iter().map(|sample| Clean { seen: sample.seen, verified: false, at_s: 0 });
    clean.extend(forerunners);
    let plan = solved(&signed, &clean, &[]);
    assert_eq!(plan.rules.len(), 1, "{plan:#?}");
    assert!(plan.rules[0].predicted.uncertain_share > 0.01, "it is told: {plan:#?}");
    // Of a flood that looks like anybody's datagrams only the port is known.
    let guess = flood(400, |n, d| (d.port(), 27_016, d.bytes(25 + n as usize % 50)));
    let plan = solved(&guess, &[players(false), players(true)[..100].to_vec()].concat(), &[]);
    assert_eq!(plan.rules.iter().filter(|rule| rule.action == Action::Drop).count(), 0, "{plan:#?}");
}

#[test]
fn with_little_clean_traffic_only_what_nobody_has_business_with_is_dropped() {
    let few = players(true)[..30].to_vec();
    let memcached = flood(400, |_, d| (11_211, d.port(), vec![9; 1300]));
    assert_eq!(texts(&solved(&memcached, &few, &[])), ["drop ip4 udp sport 11211 len 1328"]);
    let unknown = flood(400, |_, d| (d.port(), 27_016, d.bytes(400)));
    let plan = solved(&unknown, &few, &[]);
    assert_eq!(texts(&plan), [""; 0]);
    assert!(plan.none_because.is_some_and(|why| why.contains("only 30 clean flows are known yet")));
}

#[test]
fn rules_are_split_around_what_is_exempt_or_refused() {
    type Split<'a> = (&'a str, &'a [&'a str], Option<&'a [&'a str]>);
    let cases: [Split<'_>; 9] = [
        ("udp dport 1000-2000 len 100", &["udp dport 1500"], Some(&["udp dport 1000-1499,1501-2000 len 100"])),
        ("udp dport 1000-2000", &["tcp dport 1500", "icmp", "udp sport 5 dport 3000"], Some(&["udp dport 1000-2000"])),
        ("icmp icmp-type 3", &["icmp icmp-type 3 icmp-code 4"], Some(&["icmp icmp-type 3 icmp-code 0-3,5-255"])),
        ("udp dport 53", &["udp dport 53"], None),
        ("udp sport 53", &["udp sport 53 src 9.9.9.9/32"], None),
        (
            "udp sport 53 src 9.9.9.0/30",
            &["udp sport 53 src 9.9.9.1/32"],
            Some(&["udp src 9.9.9.2/31 sport 53", "udp src 9.9.9.0/32 sport 53"]),
        ),
        ("udp frag is", &["udp dport 53", "tcp flags syn"], Some(&["udp frag is"])),
        ("tcp flags syn/syn+ack", &["tcp flags ack"], Some(&["tcp flags syn/syn+ack"])),
        ("ip4 udp len 5", &["ip6 udp", "dst 2001:db8::/32"], Some(&["ip4 udp len 5"])),
    ];
    for (text, flows, expected) in cases {
        let flows: Vec<FlowMatch> = flows.iter().map(|text| text.parse().unwrap()).collect();
        let found = around(&text.parse().unwrap(), &flows, 8).ok();
        let found: Option<Vec<String>> = found.map(|parts| parts.iter().map(ToString::to_string).collect());
        assert_eq!(
            found.as_deref(),
            expected.map(|parts| parts.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>()).as_deref(),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn what_two_matches_share_is_never_missed(at in 0..12usize, with in 0..12usize, seed: u64) {
        let texts = [
            "udp", "udp dport 53", "udp sport 53", "tcp flags syn/syn+ack", "tcp port 80", "frag is", "frag not",
            "ip6", "src 64.0.0.0/2", "len 0-60", "icmp icmp-type 3 icmp-code 4", "ttl 57 udp len 40-80",
        ];
        let (a, b): (FlowMatch, FlowMatch) = (texts[at].parse().unwrap(), texts[with].parse().unwrap());
        let mut dice = Dice(seed);
        for _ in 0..200 {
            let ports = [53, 80, dice.port()][dice.below(3) as usize];
            let (length, sport) = (dice.below(60) as usize, [53, dice.port()][dice.below(2) as usize]);
            let mut frame = udp(dice.anyone(), (sport, ports), &dice.bytes(length));
            frame[23] = [17, 6, 1][dice.below(3) as usize];
            frame[20] = [0, 0x40, 0x20, 1][dice.below(4) as usize];
            let packet = decoded(0, &frame);
            let both = a.matches(&packet.subject()) && b.matches(&packet.subject());
            prop_assert!(!both || overlap(&a, &b), "{a} and {b}");
        }
        if let Ok(parts) = around(&a, std::slice::from_ref(&b), 64) {
            prop_assert!(parts.iter().all(|part| !overlap(part, &b)), "{a} without {b}: {parts:?}");
        }
    }

    #[test]
    fn conditions_mean_what_matches_mean(seed: u64) {
        let mut dice = Dice(seed);
        let attack = flood(120, |n, _| {
            let payload = vec![n as u8 & 3; 30 + dice_of(seed, n) as usize % 5];
            (53 + (dice_of(seed, n) % 2) as u16, (1024 + dice_of(seed, n) % 60_000) as u16, payload)
        });
        let clean = players(true);
        let problem = Problem {
            attack: &attack, clean: &[], exempt: &[], own: &[], refused: &[], most: 8, ordinary: &[], exit: &[], part: 1.0, taken: &[], seconds: 1.0, calm: &Passed::default(),
        };
        let ground = Ground { attack: attack.iter().collect(), clean: clean.iter().collect(), all: 120, problem: &problem };
        for atom in fields::atoms(&ground).iter().chain(&fields::clusters(&ground)) {
            let matches = matching([atom]);
            for seen in attack.iter().map(|sample| &sample.seen).chain(clean.iter().map(|clean| &clean.seen)) {
                prop_assert_eq!(atom.holds(seen), matches.matches(&seen.subject()), "{:?}", atom);
            }
        }
        dice.next();
    }
}

fn dice_of(seed: u64, number: u64) -> u64 {
    Dice(seed ^ number).next()
}

#[test]
fn a_rule_that_costs_too_much_is_made_narrower() {
    let attack = flood(400, |_, d| (d.port(), 27_016, d.bytes(400)));
    let clean = players(true);
    let clean: Vec<&Clean> = clean.iter().collect();
    let (ordinary, exit) = (vec![500.0; TrafficClass::COUNT], vec![(100.0, 1e6); TrafficClass::COUNT]);
    let calm = Passed::default();
    let problem = |refused| Problem {
        attack: &attack,
        clean: &clean,
        exempt: &[],
        own: &[],
        refused,
        most: 8,
        ordinary: &ordinary,
        exit: &exit,
        part: 1.0,
        taken: &[],
        seconds: 1.0,
        calm: &calm,
    };
    let wide: FlowMatch = "udp dport 27016".parse().unwrap();
    let choice = narrow(&wide, &problem(&[])).expect("the length tells");
    assert_eq!(choice.matches.to_string(), "ip4 udp dport 27016 len 428");
    assert_eq!((choice.predicted.attack_share, choice.predicted.clean_share), (1.0, 0.0));
    // Where the like of it was refused, and where nothing tells, there is none.
    let same = flood(400, |n, d| (d.port(), 27_016, d.bytes(20 + n as usize % 80)));
    assert_eq!(narrow(&wide, &Problem { attack: &same, ..problem(&[]) }), None);
    let refused = [choice.matches.clone()];
    assert_ne!(narrow(&wide, &problem(&refused)).map(|choice| choice.matches), Some(choice.matches));
}

#[test]
fn what_there_was_as_much_of_before_is_none_of_the_attack() {
    // A station that reports all the time, and a flood in which it is a fifth.
    let station = |n: u64| {
        let frame = udp(member(3), (5140, 514), &[b"<134>report".as_slice(), &[7; 60]].concat());
        let packet = decoded(n, &frame);
        Sample { seen: Glimpse::of(&packet).unwrap(), pps: 10.0, wire: packet.wire, known: false }
    };
    let rules = |calm_pps: u64| {
        let mut attack = flood(400, |n, d| (d.port(), d.port(), d.bytes(20 + n as usize % 80)));
        attack.extend((0..100).map(station));
        let clean = players(true);
        let clean: Vec<&Clean> = clean.iter().collect();
        let calm = crate::decide::reservoir::tests::passed(calm_pps, &station(0).seen);
        let (ordinary, exit) = (vec![500.0; TrafficClass::COUNT], vec![(100.0, 1e6); TrafficClass::COUNT]);
        let problem = Problem {
            attack: &attack,
            clean: &clean,
            exempt: &[],
            own: &[],
            refused: &[],
            most: 8,
            ordinary: &ordinary,
            exit: &exit,
            part: 0.5,
            taken: &[],
            seconds: 1.0,
            calm: &calm,
        };
        plan(&problem).rules.iter().any(|rule| rule.matches.matches(&station(0).seen.subject()))
    };
    assert!(rules(0), "without it nobody would know");
    assert!(!rules(1000), "it sent as much before");
}
