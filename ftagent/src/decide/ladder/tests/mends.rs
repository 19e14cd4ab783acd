//! What changes while steps wait, are there, or are probed; and attacks on many addresses.

use std::net::IpAddr;

use super::*;
use crate::decide::{
    ladder::safety::{permits, wishes},
    mitigate::Exempt,
};

fn planes(flowspec: Plane, rtbh: Plane) -> [(&'static str, Plane); 2] {
    [("flowspec", flowspec), ("rtbh", rtbh)]
}

/// Half of it can be filtered, and the black hole waits for a word.
fn asking() -> Run {
    let planes = planes(Plane::Obeys(300), Plane::Obeys(300));
    let mut run = Run::new(policy(&[FLOWSPEC, RTBH], &[]), &planes, vec![rule(0.5)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.state("rtbh").as_str()), ("present", "asking"), "{}", run.told());
    run
}

/// Somebody logs in at the victim's address.
fn log_in(run: &mut Run) {
    let kept = vec![Kept { net: "192.0.2.7/32".parse().unwrap(), why: "an SSH session".to_owned() }];
    run.ladder.set(Upstream { kept, ..run.ladder.upstream().clone() });
}

fn exempt_ntp() -> Exempt {
    let flow = crate::rule::parse("udp src 203.0.113.123 sport 123 then drop").unwrap().0;
    Exempt { flows: vec![flow], own: Vec::new() }
}

#[test]
fn an_approval_does_not_black_hole_what_carries_a_session_by_now() {
    let mut run = asking();
    let id = run.id("rtbh");
    log_in(&mut run);
    let why = run.ladder.approve(id, run.world.now).unwrap_err();
    assert!(why.contains("192.0.2.7/32 is never black-holed: it carries an SSH session"), "{why}");
    assert_eq!(run.wanted("rtbh"), 0);
    // Nor is it asked for any more.
    run.go(2_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("rtbh").as_str(), run.wanted("rtbh")), ("idle", 0), "{}", run.told());
}

#[test]
fn what_may_not_be_there_any_more_is_taken_back() {
    let mut run = asking();
    run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.wanted("flowspec"), run.wanted("rtbh")), (1, 1), "{}", run.told());
    log_in(&mut run);
    let peers = crate::rule::parse("udp sport 123 dport 123 then drop").unwrap().0;
    run.world.exempt = Exempt { flows: vec![peers], own: Vec::new() };
    run.go(5_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 0, "{}", run.told());
    // The filter goes around what is exempt now.
    let upstream = run.ladder.upstream().clone();
    let filters: Vec<What> = run.ladder.ascent().0.iter().map(|step| step.what.clone()).collect();
    assert!(!filters.is_empty(), "{}", run.told());
    for what in filters {
        assert_eq!(permits(&what, &upstream, &run.world.exempt), Ok(()), "{what}");
    }
}

#[test]
fn a_probe_puts_nothing_back_that_may_not_be_there() {
    let planes = planes(Plane::Obeys(300), Plane::Obeys(300));
    let mut run = Run::new(policy(&[RTBH], &["rtbh"]), &planes, Vec::new());
    run.go(20_000, |_| 3.0 * CAPACITY);
    // Nothing comes from shortly before the first probe on.
    run.go(48_000, |ms| if ms > 60_000 { 0.0 } else { 3.0 * CAPACITY });
    assert_eq!(run.state("rtbh"), "watching", "{}", run.told());
    log_in(&mut run);
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 0, "{}", run.told());
}

#[test]
fn steps_are_permitted_or_not() {
    let upstream = Upstream {
        space: vec!["192.0.2.0/24".parse().unwrap()],
        kept: vec![Kept { net: "192.0.2.9/32".parse().unwrap(), why: "an SSH session".to_owned() }],
        allowed: vec!["198.51.100.0/24".parse().unwrap()],
        ..Upstream::default()
    };
    let exempt = Exempt { own: vec![victim()], ..exempt_ntp() };
    let filter = |text: &str| What::Filter {
        matches: Box::new(crate::rule::parse(&format!("{text} then drop")).unwrap().0),
        action: Action::Drop,
    };
    let hole = |net: &str| What::BlackHole { victim: net.parse().unwrap() };
    let source = |net: &str| What::SourceBlackHole { source: net.parse().unwrap() };
    let divert = |net: &str| What::Divert { prefix: net.parse().unwrap() };
    let cases = [
        (filter("dst 192.0.2.7 src 203.0.113.5 udp sport 123"), Ok(())),
        (filter("udp sport 123"), Err("no destination")),
        (filter("dst 192.0.3.7 src 203.0.113.5 udp sport 123"), Err("not in `uplink.prefixes`")),
        (filter("dst 192.0.2.7 udp sport 123"), Err("which is exempt")),
        (filter("dst 192.0.2.7 src 198.51.100.7 udp sport 1900"), Err("which is exempt")),
        (hole("192.0.2.7/32"), Ok(())),
        (hole("192.0.2.9/32"), Err("carries an SSH session")),
        (hole("192.0.3.7/32"), Err("not in `uplink.prefixes`")),
        (hole("192.0.2.0/28"), Err("more than one address")),
        (source("203.0.113.5/32"), Ok(())),
        (source("203.0.113.123/32"), Err("exempt")),
        (source("198.51.100.5/32"), Err("allowed")),
        (source("192.0.2.7/32"), Err("own")),
        (divert("192.0.2.0/24"), Ok(())),
        (divert("192.0.0.0/16"), Err("not in `uplink.prefixes`")),
    ];
    for (what, expected) in cases {
        match (permits(&what, &upstream, &exempt), expected) {
            (Ok(()), Ok(())) => {}
            (Err(why), Err(part)) if why.contains(part) => {}
            (found, _) => panic!("{what}: {found:?} is not {expected:?}"),
        }
    }
}

#[test]
fn a_probe_waits_until_the_plane_has_taken_it_back() {
    let planes = planes(Plane::Obeys(300), Plane::Clings(300, 40_000));
    let mut run = Run::new(policy(&[RTBH], &["rtbh"]), &planes, Vec::new());
    // For as long as it is there after all, nothing can be seen of the attack.
    run.go(100_000, |_| 3.0 * CAPACITY);
    let view = run.ladder.view();
    let rung = view.rungs.iter().find(|rung| rung.rung == "rtbh").unwrap();
    assert_eq!((rung.state.as_str(), rung.leaving), ("watching", 1), "{}", run.told());
    run.go(30_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.count("rtbh", Turn::CameBack), run.ladder.view().failed_probes), (0, 1), "{}", run.told());
    // It is over: watched from when it is gone.
    run.go(20 * MINUTE, |_| 0.0);
    assert!(!run.ladder.is_awake(), "{}", run.told());
}

#[test]
fn what_was_asked_for_and_may_come_is_looked_at_and_not_forgotten() {
    let cloud = [("cloud", Plane::Obeys(30 * MINUTE))];
    let mut run = Run::new(policy(&[CLOUD], &["cloud"]), &cloud, Vec::new());
    run.go(2 * MINUTE, |_| 3.0 * CAPACITY);
    run.go(7 * MINUTE, |_| 0.0);
    assert_eq!(run.state("cloud"), "watching", "{}", run.told());
    run.go(20 * MINUTE, |_| 0.0);
    assert!(!run.ladder.is_awake(), "{}", run.told());
}

/// An attack on so many addresses of 192.0.2.0/24, each with the same share.
fn carpet(count: u32) -> Vec<(IpAddr, f64)> {
    (0..count).map(|i| (IpAddr::from([192, 0, 2, i as u8]), 1.0 / f64::from(count))).collect()
}

#[test]
fn an_attack_on_many_addresses_is_filtered_and_diverted_by_prefix_and_never_black_holed_so() {
    let space = vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
    let upstream = Upstream { space, ..Upstream::default() };
    let net = "192.0.2.0/24".parse().unwrap();
    for count in [20, 21, 100, 256] {
        let attack = Attack { filters: vec![rule(1.0)], victims: carpet(count), ..Attack::default() };
        let found = wishes(Kind::Filter, &attack, &upstream, &Exempt::default(), 64).unwrap();
        let named: Vec<_> = found
            .iter()
            .map(|(what, _)| match what {
                What::Filter { matches, .. } => matches.dst,
                _ => None,
            })
            .collect();
        assert_eq!(named, [Some(net)], "{count}");
        let found = wishes(Kind::Scrub, &attack, &upstream, &Exempt::default(), 4).unwrap();
        assert_eq!(found, [(What::Divert { prefix: net }, 0)], "{count}");
        let why = wishes(Kind::BlackHole, &attack, &upstream, &Exempt::default(), 2).unwrap_err();
        assert!(why.contains("spread over many addresses") && why.contains("no prefix is ever"), "{why}");
    }
    // So many addresses that none is remembered: the sum is.
    let attack = Attack { filters: vec![rule(1.0)], prefixes: vec![(net, 0.97)], ..Attack::default() };
    assert!(wishes(Kind::Filter, &attack, &upstream, &Exempt::default(), 64).is_ok());
    assert!(wishes(Kind::Scrub, &attack, &upstream, &Exempt::default(), 4).is_ok());
    // One that stands out is named alone, with a few strays beside it.
    let mut victims = vec![(victim(), 0.9)];
    victims.extend(carpet(10).into_iter().filter(|(a, _)| *a != victim()).map(|(a, share)| (a, share / 10.0)));
    let attack = Attack { filters: vec![rule(1.0)], victims, ..Attack::default() };
    let found = wishes(Kind::Filter, &attack, &upstream, &Exempt::default(), 64).unwrap();
    assert!(found[0].0.to_string().contains("192.0.2.7/32"), "{found:?}");
    // Elsewhere it is nobody's business.
    let attack = Attack { prefixes: vec![("203.0.113.0/24".parse().unwrap(), 1.0)], ..attack };
    let attack = Attack { victims: Vec::new(), ..attack };
    assert!(wishes(Kind::Filter, &attack, &upstream, &Exempt::default(), 64).unwrap_err().contains("uplink.prefixes"));
}

#[test]
fn carpet_bombing_climbs() {
    for count in [20, 256] {
        let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(1.0)]);
        run.world.victims = carpet(count);
        run.go(10_000, |_| 3.0 * CAPACITY);
        assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("present", 1), "{}", run.told());
    }
}

#[test]
fn a_plane_that_cannot_limit_puts_back_what_it_dropped() {
    let planes = planes(Plane::DropsOnly(300), Plane::Obeys(300));
    let mut run = Run::new(policy(&[FLOWSPEC, RTBH], &["rtbh"]), &planes, vec![rule(1.0)]);
    run.go(3 * MINUTE, |_| 3.0 * CAPACITY);
    assert!(run.ladder.view().failed_probes >= 1, "{}", run.told());
    assert_eq!((run.wanted("flowspec"), run.count("rtbh", Turn::Escalated)), (1, 0), "{}", run.told());
    assert!(run.ladder.ascent().0.iter().all(|step| !step.what.limits()));
}

#[test]
fn a_filter_that_limited_does_so_again_after_a_probe_and_goes_with_its_rule() {
    let limit = Action::RateLimit(crate::rule::Rate::Bps(5_000_000));
    let filters = vec![Filter { action: limit, ..rule(1.0) }];
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], filters);
    let asked = |run: &Run| -> Vec<Action> {
        let action = |step: &Step| match step.what {
            What::Filter { action, .. } => Some(action),
            _ => None,
        };
        run.ladder.ascent().0.iter().filter_map(action).collect()
    };
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert_eq!(asked(&run), [limit]);
    run.go(2 * MINUTE, |_| 3.0 * CAPACITY);
    assert!(run.ladder.view().failed_probes >= 1, "{}", run.told());
    assert_eq!(asked(&run), [limit], "{}", run.told());
    // The rule here costs too much, long after the probe.
    run.world.withdrawn = vec![1];
    run.world.filters.clear();
    run.go(1_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 0, "{}", run.told());
}

#[test]
fn what_was_a_dry_run_is_asked_for_when_it_may_be() {
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(1.0)]);
    run.world.acts = false;
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("dry-run", 0), "{}", run.told());
    run.world.acts = true;
    run.go(5_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("present", 1), "{}", run.told());
}

#[test]
fn an_approval_does_not_outlive_what_an_operator_takes_back() {
    let mut run = asking();
    run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    run.go(10_000, |_| 3.0 * CAPACITY);
    run.ladder.withdraw(Some(run.id("flowspec")), run.world.now).unwrap();
    // It stays, and is probed; from then on it is announced anew.
    assert_eq!(run.wanted("rtbh"), 1);
    run.go(3 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("rtbh").as_str(), run.wanted("rtbh")), ("asking", 0), "{}", run.told());
}

#[test]
fn what_is_put_back_counts_towards_the_cap() {
    let mut policy = policy(&[RTBH], &["rtbh"]);
    policy.rungs[1].per_day = 2;
    let mut run = Run::new(policy, &[("rtbh", Plane::Obeys(300))], Vec::new());
    run.go(40 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.world.announced, run.state("rtbh").as_str()), (2, "asking"), "{}", run.told());
    assert_eq!(run.ladder.view().rungs[1].today, 2);
    run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    assert_eq!(run.wanted("rtbh"), 1);
}

#[test]
fn a_restart_lifts_no_bar_before_its_time() {
    let planes = planes(Plane::Refuses, Plane::Obeys(300));
    for mono_ns in [0, 3_000_000_000, 500_000_000_000_000] {
        let mut run = Run::new(policy(&[FLOWSPEC], &[]), &planes, vec![rule(1.0)]);
        run.go(20_000, |_| 3.0 * CAPACITY);
        assert_eq!(run.count("flowspec", Turn::Failed), 1, "{}", run.told());
        let saved = run.ladder.saved();
        if mono_ns > 0 {
            run.world.now.mono_ns = mono_ns;
        }
        run.ladder.restore(saved, true, run.world.now);
        run.go(MINUTE, |_| 3.0 * CAPACITY);
        assert_eq!((run.state("flowspec").as_str(), run.count("flowspec", Turn::Failed)), ("failed", 1));
        run.go(5 * MINUTE, |_| 3.0 * CAPACITY);
        assert!(run.count("flowspec", Turn::Failed) > 1, "{}", run.told());
    }
}

#[test]
fn filters_are_made_anew_only_where_what_they_are_made_of_changed() {
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(0.3)]);
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 1, "{}", run.told());
    let matches = FlowMatch { sport: Ranges::one(1900), ..rule(0.3).matches };
    run.world.filters.push(Filter { matches, rule: 2, ..rule(0.3) });
    run.go(5_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 2, "{}", run.told());
    run.world.victims = vec![(victim(), 0.5), ("192.0.2.8".parse().unwrap(), 0.5)];
    run.go(5_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 4, "{}", run.told());
}

#[test]
fn a_daemon_that_dies_while_its_step_is_judged_costs_the_step_nothing() {
    let planes = planes(Plane::Obeys(300), Plane::Obeys(300));
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &planes, vec![rule(0.9)]);
    for _ in 0..200 {
        if run.state("flowspec") == "present" {
            break;
        }
        run.go(100, |_| 3.0 * CAPACITY);
    }
    assert_eq!(run.state("flowspec"), "present", "{}", run.told());
    run.world.planes.insert("flowspec".to_owned(), Plane::Down);
    run.go(8_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 1, "it stays asked for: {}", run.told());
    run.world.planes.insert("flowspec".to_owned(), Plane::Obeys(300));
    run.go(8_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("present", 1), "{}", run.told());
}
