//! What goes wrong: planes that lie, refuse or are away, loads that flap, clocks that step, and restarts.

use super::{super::engine::State, *};

const ALL: [(&str, Kind); 2] = [FLOWSPEC, RTBH];

fn planes(flowspec: Plane) -> [(&'static str, Plane); 2] {
    [("flowspec", flowspec), ("rtbh", Plane::Obeys(500))]
}

#[test]
fn a_plane_that_does_nothing_is_found_out_and_the_next_rung_is_climbed() {
    let cases = [
        ("says yes and does nothing", Plane::Lies(500), "nothing changed"),
        ("is away", Plane::Down, "cannot be reached"),
        ("refuses", Plane::Refuses, "refuses"),
        ("never says anything", Plane::Obeys(3_600_000), "is not there yet"),
    ];
    for (what, plane, said) in cases {
        let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(plane), vec![rule(1.0)]);
        run.go(30_000, |_| 3.0 * CAPACITY);
        let failed = run.moves.iter().find(|(_, made)| made.rung == "flowspec" && made.turn == Turn::Failed);
        assert!(failed.is_some_and(|(_, made)| made.what.contains(said)), "{what}\n{}", run.told());
        assert_eq!(run.wanted("rtbh"), 1, "{what}\n{}", run.told());
        assert!(run.world.full_ms < 20_000, "{what}: full for {} ms\n{}", run.world.full_ms, run.told());
        // All of it comes back.
        run.go(40 * MINUTE, |_| 0.0);
        assert_eq!(run.ladder.ascent().0.len(), 0, "{what}\n{}", run.told());
        assert!(!run.ladder.is_awake(), "{what}\n{}", run.told());
    }
}

#[test]
fn a_filter_that_is_not_enough_is_not_blamed_and_the_next_rung_is_climbed() {
    let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(Plane::Obeys(300)), vec![rule(0.5)]);
    run.go(30_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.state("rtbh").as_str()), ("present", "present"), "{}", run.told());
}

#[test]
fn flapping_load_is_announced_three_times_at_most() {
    let shapes: [(&str, Vec<Filter>); 2] = [("filters", vec![rule(1.0)]), ("black holes", Vec::new())];
    for (what, filters) in shapes {
        for (on_s, off_s) in [(1, 1), (5, 5), (20, 10), (30, 30), (45, 90), (61, 59), (120, 120), (20, 300)] {
            let policy = policy(&ALL, &["rtbh"]);
            let mut run = Run::new(policy, &planes(Plane::Obeys(300)), filters.clone());
            let wave = |ms: u64| if ms / 1000 % (on_s + off_s) < on_s { 0.92 * CAPACITY } else { 0.55 * CAPACITY };
            run.go(13 * MINUTE, wave);
            let announced = run.world.announced;
            assert!((1..=3).contains(&announced), "{what} {on_s}/{off_s}: {announced}\n{}", run.told());
            // Of an attack that goes on for hours, one each time that a hold may last at most.
            run.go(120 * MINUTE, wave);
            let announced = run.world.announced;
            assert!(announced <= 3 + 12, "{what} {on_s}/{off_s}: {announced}\n{}", run.told());
        }
    }
}

#[test]
fn the_wall_clock_may_step() {
    let told = |step: fn(&mut World, u64)| {
        let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(Plane::Obeys(300)), vec![rule(0.6)]);
        for second in 0..30 * 60 {
            step(&mut run.world, second);
            run.go(1_000, |ms| if ms < 4 * MINUTE { 3.0 * CAPACITY } else { 0.0 });
        }
        assert!(!run.ladder.is_awake(), "{}", run.told());
        run.told()
    };
    let calm = told(|_, _| ());
    let steps: [fn(&mut World, u64); 2] = [
        |world, second| world.now.unix_ms += if second == 20 { 86_400_000 } else { 0 },
        |world, second| world.now.unix_ms -= if second % 60 == 30 { 3_600_000 } else { 0 },
    ];
    for step in steps {
        assert_eq!(told(step), calm);
    }
}

#[test]
fn a_machine_that_slept_looks_before_it_takes_back() {
    let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(Plane::Obeys(300)), vec![rule(1.0)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    run.world.now.mono_ns += 3_600_000_000_000;
    run.go(30_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 1, "{}", run.told());
    assert!(run.world.full_ms < 5_000 && run.world.announced == 1, "{}", run.told());
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    for at_ms in [1_000, 2_000, 20_000, 70_000] {
        let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(Plane::Obeys(300)), vec![rule(0.6)]);
        run.go(at_ms, |_| 3.0 * CAPACITY);
        let before: Vec<What> = run.ladder.ascent().0.iter().map(|step| step.what.clone()).collect();
        // Killed: what was saved last is that of the last move.
        run.restart();
        let after: Vec<What> = run.ladder.ascent().0.iter().map(|step| step.what.clone()).collect();
        assert_eq!(after, before, "{at_ms}");
        let announced = run.world.announced;
        run.go(10_000, |_| 3.0 * CAPACITY);
        if at_ms == 20_000 {
            assert_eq!((run.world.announced, run.wanted("rtbh")), (announced, 1), "{}", run.told());
        }
        run.go(40 * MINUTE, |_| 0.0);
        assert!(run.ladder.ascent().0.is_empty() && !run.ladder.is_awake(), "{at_ms}\n{}", run.told());
    }
}

#[test]
fn another_boot_counts_from_nothing() {
    let mut run = Run::new(policy(&ALL, &["rtbh"]), &planes(Plane::Obeys(300)), Vec::new());
    run.go(20_000, |_| 3.0 * CAPACITY);
    run.world.now.mono_ns = 5_000_000_000;
    run.restart();
    assert_eq!(run.wanted("rtbh"), 1);
    run.go(20 * MINUTE, |_| 0.0);
    assert!(run.ladder.ascent().0.is_empty() && !run.ladder.is_awake(), "{}", run.told());
}

#[test]
fn daily_caps_hold_over_attacks_and_restarts() {
    let mut policy = policy(&[RTBH], &["rtbh"]);
    policy.rungs[1].per_day = 1;
    let mut run = Run::new(policy, &planes(Plane::Obeys(300)), Vec::new());
    let attack = |ms: u64| if ms % (30 * MINUTE) < MINUTE { 3.0 * CAPACITY } else { 0.0 };
    run.go(30 * MINUTE, attack);
    assert_eq!((run.count("rtbh", Turn::Escalated), run.ladder.is_awake()), (1, false), "{}", run.told());
    run.restart();
    run.go(30 * MINUTE, attack);
    assert_eq!((run.count("rtbh", Turn::Escalated), run.count("rtbh", Turn::Asked)), (1, 1), "{}", run.told());
    run.go(24 * 60 * MINUTE - 5 * MINUTE, |_| 0.0);
    run.go(10 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.count("rtbh", Turn::Escalated), 2, "{}", run.told());
}

#[test]
fn a_life_that_only_observes_announces_nothing_of_the_one_before() {
    let mut run = Run::new(policy(&[RTBH], &["rtbh"]), &[("rtbh", Plane::Obeys(300))], Vec::new());
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 1, "{}", run.told());
    run.world.acts = false;
    run.restart();
    assert_eq!(run.wanted("rtbh"), 0);
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 0, "{}", run.told());
}

#[test]
fn what_nobody_hears_is_not_judged() {
    // Seconds without a session from the announcement on, and later.
    for (first, later) in [(8_000, 0), (0, 8_000), (30_000, 30_000)] {
        let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Unheard)], vec![rule(0.9)]);
        run.go(2_000 + first, |_| 3.0 * CAPACITY);
        run.world.planes.insert("flowspec".to_owned(), Plane::Obeys(0));
        run.go(10_000, |_| 3.0 * CAPACITY);
        // Its daemon is started anew: first it is away, then it has the route and no session.
        run.world.planes.insert("flowspec".to_owned(), Plane::Down);
        run.go(2_000, |_| 3.0 * CAPACITY);
        run.world.planes.insert("flowspec".to_owned(), Plane::Unheard);
        run.go(later, |_| 3.0 * CAPACITY);
        run.world.planes.insert("flowspec".to_owned(), Plane::Obeys(0));
        run.go(8_000, |_| 3.0 * CAPACITY);
        assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("present", 1), "{}", run.told());
        assert!(!run.says("flowspec", Turn::Failed, "nothing changed"), "{}", run.told());
        assert_eq!(run.says("flowspec", Turn::Failed, "none of its sessions"), first + later >= 8_000);
    }
    // One that does nothing is found out all the same, once it is heard.
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Unheard)], vec![rule(0.9)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    run.world.planes.insert("flowspec".to_owned(), Plane::Lies(0));
    run.go(8_000, |_| 3.0 * CAPACITY);
    assert!(run.says("flowspec", Turn::Failed, "nothing changed"), "{}", run.told());
}

#[test]
fn the_next_rung_is_climbed_while_nobody_hears_of_the_first() {
    let planes = [("flowspec", Plane::Unheard), ("rtbh", Plane::Obeys(300))];
    let mut run = Run::new(policy(&[FLOWSPEC, RTBH], &["rtbh"]), &planes, vec![rule(1.0)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.wanted("flowspec"), run.state("rtbh").as_str()), (1, "present"), "{}", run.told());
    run.world.planes.insert("flowspec".to_owned(), Plane::Obeys(300));
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert!(run.says("flowspec", Turn::Changed, "after it was asked for"), "{}", run.told());
}

#[test]
fn what_was_there_is_not_given_up_unseen_when_its_daemon_hangs() {
    for (kind, plane) in [(FLOWSPEC, "flowspec"), (RTBH, "rtbh")] {
        let filters = if kind == FLOWSPEC { vec![rule(1.0)] } else { Vec::new() };
        for restarted in [false, true] {
            let mut run = Run::new(policy(&[kind], &["rtbh"]), &[(plane, Plane::Obeys(300))], filters.clone());
            run.go(20_000, |_| 3.0 * CAPACITY);
            run.world.planes.insert(plane.to_owned(), Plane::Down);
            if restarted {
                run.restart();
            }
            // Its sessions hold: what is sent is still dropped upstream.
            run.go(40_000, |_| 0.0);
            assert_eq!(run.wanted(plane), 1, "{}", run.told());
            // It is probed when it is time, and waited for.
            run.go(5 * MINUTE, |_| 0.0);
            assert_eq!(
                (run.count(plane, Turn::CameBack), run.state(plane).as_str()),
                (0, "watching"),
                "{}",
                run.told()
            );
            run.world.planes.insert(plane.to_owned(), Plane::Obeys(300));
            run.go(5_000, |_| 3.0 * CAPACITY);
            assert!(run.ladder.view().failed_probes == 1 && run.wanted(plane) == 1, "{}", run.told());
            run.go(30 * MINUTE, |_| 0.0);
            assert!(!run.ladder.is_awake(), "{}", run.told());
        }
    }
}

#[test]
fn what_a_plane_does_not_take_keeps_nothing_else_away() {
    let filter = |text: &str| What::Filter { matches: Box::new(text.parse().unwrap()), action: Action::Drop };
    let narrow = filter("udp sport 123 len 400-500 dst 192.0.2.1/32");
    let (wide, other) = (filter("udp sport 123 dst 192.0.2.1/32"), filter("udp sport 53 dst 192.0.2.1/32"));
    let refused = State { refused: vec![narrow.clone()], ..State::default() };
    assert!(refused.is_spared(&narrow) && !refused.is_spared(&wide) && !refused.is_spared(&other));
    // What people took back is not to come back as part of something else.
    let spared = State { spared: vec![narrow.clone()], ..State::default() };
    assert!(spared.is_spared(&narrow) && spared.is_spared(&wide) && !spared.is_spared(&other));
}
