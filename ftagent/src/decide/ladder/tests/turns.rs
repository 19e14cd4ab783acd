//! Attacks that turn elsewhere, while their steps are there, wait or are probed.

use std::net::IpAddr;

use super::*;

const HOUR: u64 = 60 * MINUTE;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What is asked of a plane, in words.
fn asked(run: &Run, plane: &str) -> Vec<String> {
    run.ladder.ascent().0.iter().filter(|step| step.plane == plane).map(|step| step.what.to_string()).collect()
}

/// The ladder's `rung` alone, with `most` steps, of which there is one for the victim; then all turns to another.
fn turned(kind: (&str, Kind), most: usize, to: &str) -> Run {
    let name = kind.0;
    let mut policy = policy(&[kind], &[name]);
    policy.rungs.retain(|rung| rung.name == name);
    (policy.rungs[0].most, policy.rungs[0].activation_ms, policy.rungs[0].hold_ms) = (most, 500, MINUTE);
    let mut run = Run::new(policy, &[(name, Plane::Obeys(300))], vec![rule(1.0)]);
    let space = vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
    run.ladder.set(Upstream { space, ..run.ladder.upstream().clone() });
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.wanted(name), run.state(name).as_str()), (1, "present"), "{}", run.told());
    run.world.victims = vec![(address(to), 1.0)];
    run
}

#[test]
fn what_is_upstream_follows_the_attack_and_lets_the_old_victim_go() {
    let cases = [
        (RTBH, "black hole for 192.0.2.7/32", "198.51.100.9", "black hole for 198.51.100.9/32"),
        (CLOUD, "divert 192.0.2.0/24", "198.51.100.9", "divert 198.51.100.0/24"),
    ];
    for (kind, old, to, new) in cases {
        let mut run = turned(kind, 4, to);
        run.go(5_000, |_| 3.0 * CAPACITY);
        let now = asked(&run, kind.0);
        assert!(now.contains(&new.to_owned()), "{now:?}\n{}", run.told());
        // By the next probe at the latest.
        run.go(3 * MINUTE, |_| 3.0 * CAPACITY);
        assert_eq!(asked(&run, kind.0), [new], "{old}\n{}", run.told());
        assert!(run.world.announced <= 4 && run.world.full_ms < 15_000, "{}\n{}", run.world.full_ms, run.told());
        // Each of them counts towards the cap.
        assert!(run.ladder.view().rungs[0].today >= 2, "{}", run.told());
    }
}

#[test]
fn where_there_is_room_for_no_more_what_is_not_named_makes_room_after_its_hold() {
    for kind in [FLOWSPEC, RTBH, CLOUD] {
        let mut run = turned(kind, 1, "198.51.100.9");
        run.go(30_000, |_| 3.0 * CAPACITY);
        assert!(asked(&run, kind.0)[0].contains("192.0.2."), "{}", run.told());
        run.go(40_000, |_| 3.0 * CAPACITY);
        let now = asked(&run, kind.0);
        assert!(now.len() == 1 && now[0].contains("198.51.100."), "{now:?}\n{}", run.told());
    }
}

#[test]
fn an_old_victim_is_let_go_though_the_new_one_is_never_black_holed() {
    let mut run = turned(RTBH, 2, "198.51.100.9");
    let kept = vec![Kept { net: "198.51.100.9/32".parse().unwrap(), why: "an SSH session".to_owned() }];
    run.ladder.set(Upstream { kept, ..run.ladder.upstream().clone() });
    run.go(65_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 0, "{}", run.told());
    assert!(run.says("rtbh", Turn::CameBack, "turned away from black hole for 192.0.2.7/32"), "{}", run.told());
    // It comes again: it is there for longer.
    run.world.victims = vec![(victim(), 1.0)];
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!(asked(&run, "rtbh"), ["black hole for 192.0.2.7/32"], "{}", run.told());
    assert!(run.ladder.view().rungs[0].next_probe_s.is_some_and(|seconds| seconds > 60), "{:?}", run.ladder.view());
}

#[test]
fn another_victim_waits_for_a_word_where_the_first_would() {
    // The cap is used up by the first.
    let mut run = turned(RTBH, 2, "198.51.100.9");
    let mut upstream = run.ladder.upstream().clone();
    upstream.policy.rungs[0].per_day = 1;
    run.ladder.set(upstream);
    run.go(30_000, |_| 3.0 * CAPACITY);
    assert_eq!(asked(&run, "rtbh"), ["black hole for 192.0.2.7/32"], "{}", run.told());
    run.go(40_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.wanted("rtbh"), run.state("rtbh").as_str()), (0, "asking"), "{}", run.told());
    assert!(run.says("rtbh", Turn::Asked, "asks for black hole for 198.51.100.9/32"), "{}", run.told());
    run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    assert_eq!(asked(&run, "rtbh"), ["black hole for 198.51.100.9/32"]);
}

#[test]
fn an_attack_that_hops_is_not_followed_at_every_hop() {
    for (kind, most) in [(RTBH, 2), (FLOWSPEC, 2), (RTBH, 1)] {
        let mut run = turned(kind, most, "198.51.100.9");
        let start = run.world.announced;
        for hop in 0..30_usize {
            run.world.victims = vec![(address(["192.0.2.7", "198.51.100.9", "192.0.2.8"][hop % 3]), 1.0)];
            run.go(30_000, |_| 3.0 * CAPACITY);
        }
        // A quarter of an hour, three victims, and holds that grow.
        let announced = run.world.announced - start;
        assert!(announced <= 9, "{kind:?} {announced}\n{}", run.told());
    }
}

/// A black hole whose daemon dies as it is probed; for hours nobody sees what it left.
fn unanswered(approve: bool) -> Run {
    let auto: &[&str] = if approve { &[] } else { &["rtbh"] };
    let mut run = Run::new(policy(&[RTBH], auto), &[("rtbh", Plane::Obeys(300))], Vec::new());
    run.go(10_000, |_| 3.0 * CAPACITY);
    if approve {
        run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    }
    run.go(48_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.state("rtbh"), "present", "{}", run.told());
    run.go(14_000, |_| 0.0);
    assert_eq!(run.state("rtbh"), "watching", "{}", run.told());
    run.world.planes.insert("rtbh".to_owned(), Plane::Down);
    run.go(8 * HOUR, |_| 0.0);
    assert_eq!(run.state("rtbh"), "watching", "{}", run.told());
    run
}

#[test]
fn a_probe_that_a_plane_keeps_waiting_puts_nobody_back_who_is_not_attacked() {
    for approve in [true, false] {
        let mut run = unanswered(approve);
        run.world.planes.insert("rtbh".to_owned(), Plane::Lies(300));
        run.world.victims = vec![(address("192.0.2.99"), 1.0)];
        for _ in 0..50 {
            run.go(TICK_MS, |_| 3.0 * CAPACITY);
            assert!(!asked(&run, "rtbh").contains(&"black hole for 192.0.2.7/32".to_owned()), "{}", run.told());
        }
        if approve {
            // The word was about another attack.
            assert_eq!((run.state("rtbh").as_str(), run.wanted("rtbh")), ("asking", 0), "{}", run.told());
        } else {
            assert!(run.says("rtbh", Turn::Failed, "nothing changed"), "{}", run.told());
        }
    }
}

#[test]
fn an_attack_does_not_last_as_long_as_its_plane_was_away() {
    let mut run = unanswered(false);
    run.world.planes.insert("rtbh".to_owned(), Plane::Obeys(300));
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(asked(&run, "rtbh"), ["black hole for 192.0.2.7/32"], "{}", run.told());
    run.go(15 * MINUTE, |_| 0.0);
    assert!(!run.ladder.is_awake(), "{}", run.told());
}
