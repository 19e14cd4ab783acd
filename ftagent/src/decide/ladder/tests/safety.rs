//! What is never asked for.

use std::net::IpAddr;

use super::*;
use crate::{
    decide::{
        ladder::safety::wishes,
        mitigate::Exempt,
        synthesis::exempt::{all, overlap},
    },
    rule::{Family, Payload, flowspec::FlowSpec},
};

fn text(matches: &str) -> FlowMatch {
    crate::rule::parse(&format!("{matches} then drop")).unwrap().0
}

fn attack(matches: &[&str]) -> Attack {
    let filter =
        |(rule, matches): (u32, &&str)| Filter { matches: text(matches), action: Action::Drop, share: 0.5, rule };
    Attack {
        id: "i".to_owned(),
        filters: (1..).zip(matches).map(filter).collect(),
        victims: vec![(victim(), 0.9), ("198.51.100.9".parse().unwrap(), 0.1)],
        ..Attack::default()
    }
}

fn upstream() -> Upstream {
    Upstream { space: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()], ..Upstream::default() }
}

/// What a resolver and an operator's login need.
fn exempt() -> Exempt {
    Exempt {
        flows: vec![text("udp src 203.0.113.53 sport 53"), text("tcp dport 22 src 203.0.113.80")],
        own: [victim()].into(),
    }
}

#[test]
fn filters_name_a_destination_of_ours_and_go_around_what_is_exempt() {
    // The rule here, and how many announcements; none: why not.
    let cases: [(&str, Result<usize, &str>); 8] = [
        ("udp sport 123 len 200-1500", Ok(1)),
        ("udp", Ok(0)),
        ("udp sport 53 src 203.0.113.0/24", Ok(0)),
        ("udp sport 53 src 203.0.113.53", Err("cannot go around")),
        ("tcp dport 22", Err("cannot go around")),
        ("dst 198.51.100.9 udp sport 123", Err("uplink.prefixes")),
        ("dst 0.0.0.0/0 udp sport 123", Ok(1)),
        ("ip6 udp sport 123", Err("uplink.prefixes")),
    ];
    let exempt = exempt();
    for (matches, expected) in cases {
        let found = wishes(Kind::Filter, &attack(&[matches]), &upstream(), &exempt, 64);
        let wishes = match (found, expected) {
            (Ok(wishes), Ok(count)) => {
                assert!(!wishes.is_empty() && (count == 0 || wishes.len() == count), "{matches}: {wishes:?}");
                wishes
            }
            (Err(why), Err(part)) => {
                assert!(why.contains(part), "{matches}: {why}");
                continue;
            }
            (found, _) => panic!("{matches}: {found:?}"),
        };
        for (what, _) in wishes {
            let What::Filter { matches: asked, .. } = what else { panic!("{what}") };
            assert!(asked.dst.is_some_and(|dst| upstream().space.iter().any(|net| net.contains(&dst))), "{asked}");
            let says = FlowSpec::compile(&asked, Family::Ip4).unwrap().says;
            for flow in all(&exempt) {
                assert!(!overlap(&says, &flow), "`{matches}` became `{asked}`, which meets `{flow}`");
            }
        }
    }
}

#[test]
fn what_routers_cannot_see_is_left_out_before_exemptions_are_looked_at() {
    // Narrow here, for its payload; without it, it would match the resolver's answers too.
    let mut matches = text("udp sport 53 src 203.0.113.53");
    matches.payload = vec![Payload { offset: 0, value: vec![1, 2, 3, 4], mask: vec![255; 4] }];
    let mut attack = attack(&[]);
    attack.filters = vec![Filter { matches, action: Action::Drop, share: 1.0, rule: 1 }];
    let why = wishes(Kind::Filter, &attack, &upstream(), &exempt(), 64).unwrap_err();
    assert!(why.contains("cannot go around"), "{why}");
}

#[test]
fn allowed_sources_are_gone_around_or_the_filter_is_not_asked_for() {
    let near = "203.0.113.0/24".parse().unwrap();
    let one = Upstream { allowed: vec![near], ..upstream() };
    let found = wishes(Kind::Filter, &attack(&["udp sport 123"]), &one, &exempt(), 64).unwrap();
    assert!(found.len() > 1, "{found:?}");
    let allowed: IpAddr = "203.0.113.9".parse().unwrap();
    for (what, _) in found {
        let What::Filter { matches, .. } = what else { panic!("{what}") };
        assert!(matches.src.is_some_and(|src| !src.contains(&allowed)), "{matches}");
    }
    // From elsewhere: nothing has to be gone around.
    let found = wishes(Kind::Filter, &attack(&["udp src 198.18.0.0/16 sport 123"]), &one, &exempt(), 64).unwrap();
    assert_eq!(found.len(), 1);
    let many = Upstream { allowed: (0..9).map(|i| format!("203.0.{i}.7/32").parse().unwrap()).collect(), ..upstream() };
    assert!(wishes(Kind::Filter, &attack(&["udp sport 123"]), &many, &exempt(), 64).is_err());
}

#[test]
fn limits_hold_for_each_rung() {
    let rules: Vec<String> = (1..=20).map(|port| format!("udp sport {port} len 200-1500")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let found = wishes(Kind::Filter, &attack(&rules), &upstream(), &Exempt::default(), 5).unwrap();
    assert_eq!(found.len(), 5);
}

#[test]
fn no_black_hole_for_what_keeps_this_host_reachable() {
    let kept = |net: &str| Kept { net: net.parse().unwrap(), why: "a BGP session".to_owned() };
    let cases = [
        (vec![], true),
        (vec![kept("192.0.2.7/32")], false),
        (vec![kept("192.0.2.0/28")], false),
        (vec![kept("192.0.2.8/32")], true),
    ];
    for (kept, may) in cases {
        let upstream = Upstream { kept: kept.clone(), ..upstream() };
        let found = wishes(Kind::BlackHole, &attack(&[]), &upstream, &Exempt::default(), 2);
        match may {
            true => assert_eq!(found.unwrap(), [(What::BlackHole { victim: "192.0.2.7/32".parse().unwrap() }, 0)]),
            false => assert!(found.as_ref().is_err_and(|why| why.contains("carries a BGP session")), "{found:?}"),
        }
    }
    let elsewhere = Attack { victims: vec![("198.51.100.9".parse().unwrap(), 1.0)], ..Attack::default() };
    assert!(wishes(Kind::BlackHole, &elsewhere, &upstream(), &Exempt::default(), 2).is_err());
    // With no prefixes of its own stated, this host speaks for its own addresses alone.
    let bare = Upstream::default();
    assert!(wishes(Kind::BlackHole, &elsewhere, &bare, &exempt(), 2).is_err());
    assert!(wishes(Kind::BlackHole, &attack(&[]), &bare, &exempt(), 2).is_ok());
}

#[test]
fn sources_are_black_holed_only_where_they_proved_who_they_are() {
    let sources = ["198.18.0.1", "203.0.113.53", "203.0.113.9", "192.0.2.7"].map(|source| source.parse().unwrap());
    let attack = Attack { sources: sources.to_vec(), ..attack(&[]) };
    let upstream = Upstream { allowed: vec!["203.0.113.9/32".parse().unwrap()], ..upstream() };
    let found = wishes(Kind::SourceBlackHole, &attack, &upstream, &exempt(), 8).unwrap();
    assert_eq!(found, [(What::SourceBlackHole { source: "198.18.0.1/32".parse().unwrap() }, 0)]);
    let unproved = Attack { sources: Vec::new(), ..attack };
    assert!(wishes(Kind::SourceBlackHole, &unproved, &upstream, &exempt(), 8).unwrap_err().contains("handshake"));
    // Never without an operator, by the built-in policy.
    let built_in = Policy::built_in(LadderMode::On, &[("rtbh".to_owned(), Kind::BlackHole)]);
    assert!(built_in.rungs.iter().all(|rung| rung.approve == Approve::Ask));
}
