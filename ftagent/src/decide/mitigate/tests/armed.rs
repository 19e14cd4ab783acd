//! What worked stays armed between attacks.

use super::*;
use crate::decide::{
    Now,
    mitigate::{memory::Remembered, tests::backgrounds::web},
};
use crate::rule::{Action, Rate};

const TICK_MS: u64 = 100;

fn ntp() -> Make {
    shape(Vector::NtpAmplification)
}

/// A node that has been through an attack, which is over.
fn after_attack(background: Background) -> World {
    let mut world = World::calm(background);
    world.attack(ntp(), 20);
    // Ten seconds until it is over, and as many to see what calm traffic has of it.
    quiet(&mut world, 150);
    assert!(!world.incidents()[0].is_open() && world.decider.armed().is_empty());
    quiet(&mut world, 110);
    world
}

fn quiet(world: &mut World, ticks: u64) {
    for _ in 0..ticks {
        world.tick(Frames::new());
    }
}

fn now(world: &World) -> Now {
    Now { mono_ns: world.ticks * TICK_MS * 1_000_000, unix_ms: (world.ticks * TICK_MS) as i64 }
}

fn remembered(matches: &str) -> Remembered {
    Remembered {
        matches: matches.parse().unwrap(),
        action: Action::Drop,
        predicted: Default::default(),
        incident: "19700101T000000Z-1".to_owned(),
        vectors: vec![Vector::UdpFlood],
        classes: ["udp_small".to_owned()].into(),
        worked_unix_ms: 0,
        calm_pps: 0.0,
    }
}

#[test]
fn the_next_wave_is_dropped_from_its_first_packets_on() {
    let mut world = after_attack(web);
    let armed = world.decider.armed();
    assert_eq!((armed.len(), armed[0].action.as_str()), (1, "rate-limit 100 pps"));
    assert_eq!((armed[0].vectors.as_slice(), armed[0].dropped), (&[Vector::NtpAmplification][..], 0));
    let before = world.lost;
    world.attack(ntp(), 1);
    let (dropped, all) = (world.lost[1].0 - before[1].0, world.lost[1].1 - before[1].1);
    assert!(dropped * 100 >= all * 95, "{dropped} of {all}");
    assert_eq!(world.lost[0].0, before[0].0, "nobody else's");
    while world.incidents().len() < 2 {
        world.attack(ntp(), 1);
    }
    let drops: Vec<Action> = world.dropping().iter().map(|rule| rule.rule.action).collect();
    assert_eq!(drops, [Action::Drop], "promoted in the tick in which the incident opens: {:#?}", told(&world));
    let line = told(&world).into_iter().find(|line| line.contains("it was armed")).expect("it is told");
    assert!(line.starts_with("rule 2 enforced, as it is remembered: ip4 udp sport 123"), "{line}");
    let incident = world.incidents()[1];
    assert_eq!(incident.mitigated.unwrap().mono_ns, incident.began.mono_ns, "from the beginning");
    quiet(&mut world, 150);
    assert_eq!(world.decider.armed().len(), 1, "and again");
}

#[test]
fn it_stays_armed_in_attacks_of_other_kinds_and_ends_after_six_hours() {
    let mut world = after_attack(web);
    world.attack(shape(Vector::SynFlood), 10);
    let limits =
        |world: &World| world.dropping().iter().filter(|rule| matches!(rule.rule.action, Action::RateLimit(_))).count();
    assert_eq!((world.incidents().len(), limits(&world)), (2, 1), "{:#?}", told(&world));
    quiet(&mut world, 150);
    let left = world.decider.armed().iter().map(|armed| armed.ends_s).min().unwrap();
    assert!((6 * 3600 - 60..6 * 3600).contains(&left), "{left}");
    world.ticks += (left + 1) * 10;
    quiet(&mut world, 1);
    assert!(world.decider.armed().iter().all(|armed| !armed.matches.contains("sport 123")));
}

#[test]
fn it_is_disarmed_where_nothing_may_be_dropped() {
    type Change = fn(&mut World);
    let cases: [(&str, Change); 4] = [
        ("an operator who looks on", |world| world.decider.set_mode(Mode::Observe)),
        ("exempt flows", |world| {
            let flows = vec!["udp sport 123 src 192.0.2.0/24".parse().unwrap()];
            world.decider.set_exempt(Exempt { flows, own: Vec::new() });
        }),
        ("a baseline that is learned anew", |world| {
            world.decider.set_mode(Mode::Auto);
            world.decider.reset(None);
        }),
        ("a clock that is watched for six hours", |world| world.ticks += 7 * 36_000),
    ];
    for (name, change) in cases {
        let mut world = after_attack(web);
        assert_eq!(world.decider.wanted().0.len(), 1);
        change(&mut world);
        quiet(&mut world, 1);
        assert_eq!((world.decider.wanted().0, world.decider.armed().len()), (&[][..], 0), "{name}");
    }
}

#[test]
fn only_what_says_more_than_a_class_is_armed_and_only_where_nobody_is_like_it() {
    let cases = [
        ("ip4 udp sport 123 len 468", true),
        ("udp dport 27016 payload 0:ffffffff54", true),
        ("tcp dport 443 flags syn/syn+ack ttl 99", true),
        ("udp sport 123", false),
        ("udp dport 27015", false),
        ("tcp dport 443 flags syn/syn+ack", false),
        ("icmp icmp-type 8", false),
        ("udp sport 123 len 400-1500", false),
        ("src 203.0.113.0/24 udp sport 123 len 468", false),
        // Players.
        ("udp dport 27016 len 56-63", false),
        // Path MTU discovery.
        ("icmp len 56", false),
    ];
    let calm = World::calm(game);
    for (matches, armed) in cases {
        let mut world = calm.clone();
        world.decider.restore_remembered(vec![remembered(matches)], now(&world));
        quiet(&mut world, 1);
        assert_eq!(world.decider.armed().len(), usize::from(armed), "{matches}");
    }
}

#[test]
fn a_restart_goes_on_with_it_as_soon_as_it_knows_what_is_clean() {
    let known = after_attack(web).decider.remembered();
    assert_eq!(known.len(), 1);
    let text = serde_json::to_string(&known).unwrap();
    let mut world = World::new(web, Mode::Auto);
    world.decider.restore_remembered(serde_json::from_str(&text).unwrap(), now(&world));
    quiet(&mut world, 1);
    assert!(world.decider.armed().is_empty(), "nothing is trusted yet");
    quiet(&mut world, 360);
    assert_eq!(world.decider.armed().len(), 1);
    let old = Remembered { worked_unix_ms: -7 * 3_600_000, ..known[0].clone() };
    let mut world = World::calm(web);
    world.decider.restore_remembered(vec![old], Now { unix_ms: 0, ..now(&world) });
    assert!(world.decider.remembered().is_empty(), "that was seven hours ago");
}

#[test]
fn what_an_operator_calls_normal_is_not_remembered() {
    let mut world = World::calm(web);
    world.attack(ntp(), 20);
    world.decider.accept(now(&world));
    quiet(&mut world, 1);
    assert!(!world.incidents()[0].is_open());
    assert_eq!((world.decider.remembered(), world.decider.wanted().0), (Vec::new(), &[][..]));
    // Nor what is dropped before anything is open.
    let mut world = after_attack(web);
    world.attack(ntp(), 1);
    world.decider.accept(now(&world));
    assert!(world.decider.remembered().is_empty());
}

#[test]
fn what_calm_traffic_needs_is_let_through() {
    let mut world = World::calm(game);
    let rare = |dice: &mut Dice, tick: u64| {
        let mut frames = game(dice, tick);
        // One client that looks like the attack, thirty times a second.
        frames.extend((0..3).map(|_| (true, floods::signed(dice))));
        frames
    };
    world.attack(floods::signature, 10);
    quiet(&mut world, 260);
    let before = world.decider.armed();
    assert_eq!(before.len(), 1, "{:#?}", told(&world));
    assert_eq!(before[0].action, "rate-limit 100 pps");
    let lost = world.lost[0].0;
    world.background = rare;
    quiet(&mut world, 700);
    assert_eq!(world.lost[0].0, lost);
    for armed in world.decider.armed() {
        let (_, action) = crate::rule::parse(&format!("{} then {}", armed.matches, armed.action)).unwrap();
        let Action::RateLimit(Rate::Pps(pps)) = action else { panic!("{action}") };
        assert!(
            (200..=320).contains(&pps),
            "ten times what it had, and no more than is too much: {pps} {:?}",
            world.decider.remembered()
        );
    }
}

#[test]
fn one_that_drops_conversations_from_before_is_forgotten() {
    let marked = |dice: &mut Dice, tick: u64| {
        let mark = |(inbound, mut frame): (bool, Vec<u8>)| {
            frame[15] = if inbound && frame[23] == 17 { 46 << 2 } else { 0 };
            (inbound, frame)
        };
        game(dice, tick).into_iter().map(mark).collect()
    };
    let mut world = World::calm(game);
    world.decider.restore_remembered(vec![remembered("udp dport 27016 dscp 46")], now(&world));
    quiet(&mut world, 1);
    assert_eq!(world.decider.armed().len(), 1);
    world.background = marked;
    quiet(&mut world, 3);
    assert!(world.decider.armed().is_empty() && world.decider.remembered().is_empty());
    let told = |event: &Event| matches!(event, Event::Notice { what } if what.contains("is armed no more: it dropped"));
    assert!(world.events.iter().any(told), "{:#?}", world.events);
}
