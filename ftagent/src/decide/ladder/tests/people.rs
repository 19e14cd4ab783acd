//! Operators' words, and their hands.

use super::*;

fn attacked() -> Run {
    let planes = [("flowspec", Plane::Obeys(300)), ("rtbh", Plane::Obeys(300))];
    let mut run = Run::new(policy(&[FLOWSPEC, RTBH], &[]), &planes, vec![rule(0.5)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.state("rtbh").as_str()), ("present", "asking"), "{}", run.told());
    run
}

#[test]
fn a_black_hole_waits_for_a_word() {
    let mut run = attacked();
    assert_eq!(run.wanted("rtbh"), 0);
    let id = run.id("rtbh");
    let moves = run.ladder.approve(id, run.world.now).unwrap();
    assert!(moves[0].what.contains("approved by an operator"), "{moves:?}");
    assert_eq!(run.wanted("rtbh"), 1);
    run.go(20_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.state("rtbh"), "present", "{}", run.told());
    assert!(run.ladder.view().black_hole_s >= 19, "{:?}", run.ladder.view());
    // It is not counted as one that it climbed by itself.
    assert_eq!(run.ladder.view().rungs.iter().map(|rung| rung.today).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn a_denied_one_is_not_asked_again() {
    let mut run = attacked();
    let id = run.id("rtbh");
    run.ladder.deny(id, run.world.now).unwrap();
    run.go(5 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("rtbh").as_str(), run.count("rtbh", Turn::Asked)), ("denied", 1), "{}", run.told());
    // Until it is thought over.
    run.ladder.approve(id, run.world.now).unwrap();
    assert_eq!(run.wanted("rtbh"), 1);
}

#[test]
fn what_was_withdrawn_stays_away_for_the_rest_of_the_attack() {
    let mut run = attacked();
    run.ladder.approve(run.id("rtbh"), run.world.now).unwrap();
    run.go(10_000, |_| 3.0 * CAPACITY);
    run.ladder.withdraw(None, run.world.now).unwrap();
    assert_eq!(run.ladder.ascent().0.len(), 0);
    let announced = run.world.announced;
    run.go(10 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.world.announced, run.state("flowspec").as_str()), (announced, "withdrawn"), "{}", run.told());
    // Flapping does not end the attack, nor does a short pause.
    run.go(MINUTE, |_| 0.0);
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.world.announced, announced, "{}", run.told());
    // The next one is another attack.
    run.go(15 * MINUTE, |_| 0.0);
    assert!(!run.ladder.is_awake(), "{}", run.told());
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 1, "{}", run.told());
}

#[test]
fn what_was_taken_back_by_hand_where_it_was_stays_away_and_the_next_is_asked_for() {
    let planes = [("flowspec", Plane::Obeys(300)), ("rtbh", Plane::Obeys(300))];
    let mut run = Run::new(policy(&[FLOWSPEC, RTBH], &["rtbh"]), &planes, vec![rule(1.0)]);
    run.go(20_000, |_| 3.0 * CAPACITY);
    run.world.taken_back = run.ladder.ascent().0.iter().map(|step| step.what.clone()).collect();
    run.go(5 * MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.world.announced), ("taken-back", 1), "{}", run.told());
    // An operator is at work: nothing heavier is done without a word.
    assert_eq!(run.state("rtbh"), "asking", "{}", run.told());
}

#[test]
fn no_filter_is_added_without_a_word_after_one_was_taken_back_by_hand() {
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(0.4)]);
    let other = FlowMatch { sport: Ranges::one(1900), ..rule(0.3).matches };
    run.world.filters.push(Filter { matches: other, rule: 2, ..rule(0.3) });
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 2, "{}", run.told());
    let spared = run.ladder.ascent().0.iter().find(|step| step.what.to_string().contains("sport 123")).unwrap().clone();
    run.ladder.withdraw(Some(spared.id), run.world.now).unwrap();
    // The attack is spread: the same rule would be about the whole prefix, and there is another rule.
    run.world.victims = (0..100).map(|i| (std::net::IpAddr::from([192, 0, 2, i]), 0.01)).collect();
    let third = FlowMatch { sport: Ranges::one(53), ..rule(0.3).matches };
    run.world.filters.push(Filter { matches: third, rule: 3, ..rule(0.3) });
    run.go(30_000, |_| 3.0 * CAPACITY);
    assert_eq!(run.wanted("flowspec"), 1, "{}", run.told());
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    // What takes its place waits for a word, and is not about what was taken back.
    assert_eq!((run.wanted("flowspec"), run.state("flowspec").as_str()), (0, "asking"), "{}", run.told());
    let view = run.ladder.view();
    let waits: Vec<&str> = view.rungs[0].steps.iter().map(|step| step.what.as_str()).collect();
    assert!(waits.len() == 2 && waits.iter().all(|what| !what.contains("sport 123")), "{waits:?}");
}

#[test]
fn numbers_that_name_nothing_are_told() {
    let mut calm = Ladder::default();
    let now = crate::decide::Now::default();
    for result in [calm.approve(1, now), calm.deny(1, now), calm.withdraw(Some(1), now), calm.withdraw(None, now)] {
        assert!(result.unwrap_err().contains("ftagent ladder status"));
    }
    let mut run = attacked();
    let now = run.world.now;
    let (flowspec, rtbh) = (run.id("flowspec"), run.id("rtbh"));
    let cases = [
        (run.ladder.approve(999, now), "nothing of the ladder has the number 999: `ftagent ladder status`"),
        (run.ladder.approve(flowspec, now), "flowspec does not wait for approval"),
        (run.ladder.deny(flowspec, now), &*format!("`ftagent ladder withdraw {flowspec}` takes it back")),
        (run.ladder.withdraw(Some(999), now), "nothing of the ladder has the number 999: `ftagent ladder status`"),
    ];
    for (result, part) in cases {
        let said = result.unwrap_err();
        assert!(said.contains(part), "{part}: {said}");
    }
    // Taking back what only waits is to deny it.
    run.ladder.withdraw(Some(rtbh), now).unwrap();
    assert_eq!(run.state("rtbh"), "denied");
}
