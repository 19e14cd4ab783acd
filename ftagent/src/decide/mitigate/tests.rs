#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
//! Whole attacks against whole deciders: which rules come, what they remove and what they cost.

mod armed;
mod backgrounds;
mod connected;
mod cost;
mod floods;
mod held;
mod world;

use std::net::IpAddr;

use proptest::prelude::*;

use self::{
    backgrounds::{Background, Frames, game, web},
    world::World,
};
use crate::{
    decide::{
        Event, Vector,
        classify::tests::shapes,
        frames::{Dice, decoded},
        input::Input,
        mitigate::{Exempt, Mode, Phase},
        synthesis::{Choice, exempt},
    },
    rule::{Action, FlowMatch},
};

type Make = fn(&mut Dice, u64) -> Frames;

const NODES: [(&str, Background); 2] = [("web", web), ("game", game)];

fn shape(vector: Vector) -> Make {
    shapes::attacks().into_iter().find(|(found, _)| *found == vector).expect("every vector has a shape").1
}

/// What the last incident says of its rules, for a test that fails.
fn told(world: &World) -> Vec<String> {
    let Some(incident) = world.incidents().last().copied() else { return vec!["no incident".to_owned()] };
    let rules =
        incident.rules.iter().map(|rule| format!("{:?} {} {}: {}", rule.state, rule.action, rule.matches, rule.reason));
    rules.chain(incident.timeline.iter().map(|entry| entry.what.clone())).collect()
}

fn is_none(world: &World) -> bool {
    told(world).iter().any(|line| line.starts_with("no safe rule"))
}

#[test]
fn what_has_a_constant_field_is_removed_and_clean_traffic_is_not_touched() {
    let more: [(&str, Make); 3] = [
        ("one signature", floods::signature),
        ("four reflectors", floods::mixed_reflectors),
        ("answers in fragments", floods::fragmented_answers),
    ];
    for (name, background) in NODES {
        let calm = World::calm(background);
        let named = shapes::attacks().into_iter().map(|(vector, make)| (vector.as_str(), make));
        for (attack, make) in named.chain(more) {
            let mut world = calm.clone();
            world.attack(make, 15);
            let (removed, touched) = world.judged(make);
            // No rule looks at malformed packets.
            let possible = attack != Vector::MalformedFlood.as_str();
            assert!(removed >= 0.95 || !possible, "{attack} on {name}: {removed}: {:#?}", told(&world));
            assert!(touched <= 0.001, "{attack} on {name}: {touched}: {:#?}", told(&world));
            assert!(is_none(&world) || possible, "{attack}: {:#?}", told(&world));
            let rules = world.dropping();
            assert!(rules.len() <= 8, "{attack}: {rules:?}");
            for rule in rules.iter().map(|rule| &rule.rule) {
                assert_eq!(rule.matches.src, None, "{attack}: sources are spread: {}", rule.matches);
                assert_eq!(rule.matches.to_string().parse(), Ok(rule.matches.clone()));
            }
        }
    }
}

#[test]
fn a_rule_is_in_force_two_ticks_after_the_incident_opens_and_says_what_it_does() {
    let mut world = World::calm(web);
    world.attack(shape(Vector::NtpAmplification), 6);
    let incident = world.incidents()[0].clone();
    let mitigated = incident.mitigated.expect("it dropped").mono_ns;
    assert!(mitigated - incident.began.mono_ns <= 400_000_000, "{incident:?}");
    let line = incident.timeline.iter().find(|entry| entry.what.contains("enforced")).expect("it is told");
    assert!(line.what.starts_with("rule 1 enforced: ip4 udp sport 123"), "{}", line.what);
    assert!(line.what.contains("removes 100.0 % of the attack, touches 0.00 % of"), "{}", line.what);
    let told = |event: &Event| matches!(event, Event::Changed { what, .. } if *what == line.what);
    assert!(world.events.iter().any(told));
    let report = &incident.rules[0];
    assert_eq!((report.id, report.state, report.action.as_str()), (1, Phase::Enforcing, "drop"));
    assert!(report.predicted.clean_flows > 1000 && report.predicted.clean_share == 0.0, "{report:?}");
    assert!(report.measured.dropped > 100 && report.measured.attack_share > 0.9, "{report:?}");
}

#[test]
fn what_the_kernel_does_not_take_is_replaced() {
    let mut world = World::calm_shared(web);
    let mut other = world.clone();
    world.attack(shape(Vector::NtpAmplification), 6);
    let first = world.decider.wanted().0[0].rule.matches.clone();
    other.refuses = Some(first.clone());
    other.attack(shape(Vector::NtpAmplification), 40);
    let incident = other.incidents()[0];
    let told = |part: &str| incident.timeline.iter().any(|entry| entry.what.contains(part));
    assert!(told("rule 1 taken back: the kernel does not take it"), "{:#?}", incident.timeline);
    let wanted: Vec<&FlowMatch> = other.decider.wanted().0.iter().map(|wanted| &wanted.rule.matches).collect();
    assert!(!wanted.contains(&&first) && !wanted.is_empty(), "{wanted:?}");
    let before = other.lost[1];
    other.attack(shape(Vector::NtpAmplification), 10);
    let (dropped, sent) = (other.lost[1].0 - before.0, other.lost[1].1 - before.1);
    assert!(dropped as f64 >= 0.95 * sent as f64, "{dropped} of {sent}");
}

#[test]
fn what_an_operator_takes_back_is_not_made_again() {
    let mut world = World::calm(web);
    world.attack(shape(Vector::NtpAmplification), 6);
    let taken: Vec<(u32, FlowMatch)> =
        world.decider.wanted().0.iter().map(|wanted| (wanted.id, wanted.rule.matches.clone())).collect();
    let (id, first) = taken[0].clone();
    let withdraw = |id| Input::WithdrawRule { id, by: "alice".to_owned() };
    world.decider.put(withdraw(id + 1000));
    world.attack(shape(Vector::NtpAmplification), 2);
    assert!(world.decider.wanted().0.iter().any(|wanted| wanted.id == id), "another number concerns no rule");
    world.decider.put(withdraw(id));
    world.attack(shape(Vector::NtpAmplification), 30);
    let incident = world.incidents()[0];
    let line = format!("rule {id} withdrawn by alice, and nothing else drops what it matched: {first}");
    assert!(incident.timeline.iter().any(|entry| entry.what == line), "{:#?}", incident.timeline);
    assert!(incident.rules.iter().any(|rule| rule.id == id && rule.state == Phase::Withdrawn), "{:#?}", incident.rules);
    assert!(
        world.decider.wanted().0.iter().all(|wanted| !exempt::overlap(&first, &wanted.rule.matches)),
        "{:#?}",
        told(&world)
    );
    // Nor is it armed when the attack is over.
    (0..400).for_each(|_| drop(world.tick(Frames::new())));
    assert!(!world.incidents()[0].is_open());
    let armed = world.decider.armed();
    assert!(armed.iter().all(|armed| armed.matches != first.to_string()), "{armed:?}");
    // One that is armed can be taken back too.
    if let Some(armed) = armed.first() {
        world.decider.put(withdraw(armed.id));
        assert!(world.decider.armed().iter().all(|left| left.id != armed.id));
    }
}

#[test]
fn what_looks_like_customers_gets_no_rule_that_costs_them() {
    let cases: [(&str, Make, Background); 3] = [
        ("datagrams", floods::random_udp, game),
        ("segments", floods::random_ack, web),
        ("SYNs", floods::random_syn, web),
    ];
    for (name, make, background) in cases {
        let mut world = World::calm(background);
        world.attack(make, 15);
        let (_, touched) = world.judged(make);
        assert!(!world.incidents().is_empty(), "{name}");
        assert!(touched <= 0.01, "{name}: {touched}: {:#?}", told(&world));
        assert!(is_none(&world), "{name}: {:#?}", told(&world));
    }
}

#[test]
fn what_no_rule_is_safe_for_is_thinned_to_what_is_ordinary() {
    let mut calm = World::calm(game);
    let mut world = calm.clone();
    world.attack(floods::random_udp, 30);
    assert!(world.decider.thinned().is_empty(), "a host that bears it serves its customers better so");
    calm.is_strained = true;
    let mut world = calm.clone();
    world.attack(floods::random_udp, 30);
    let thinned = world.decider.thinned().clone();
    let ordinary = calm.decider.baselines().into_iter().find(|view| view.class == "udp_small").unwrap().threshold;
    assert_eq!(thinned.keys().map(|class| class.as_str()).collect::<Vec<_>>(), ["udp_small"], "{:#?}", told(&world));
    assert!(thinned.values().all(|pps| *pps >= ordinary && *pps < 2.0 * ordinary), "{thinned:?} {ordinary}");
    assert_eq!(world.incidents()[0].thinned.len(), 1);
    for _ in 0..150 {
        world.tick(Frames::new());
    }
    assert!(world.decider.thinned().is_empty() && world.incidents()[0].thinned.is_empty());
    let lines: Vec<String> = told(&world).into_iter().filter(|line| line.contains("thinned")).collect();
    assert!(lines.len() == 2 && lines[0].starts_with("udp_small is thinned to"), "{lines:?}");
    assert_eq!(lines[1], "udp_small is thinned no more");
    // Where a rule removes it, or nothing is acted on, nothing is thinned.
    for (make, mode) in [(floods::signature as Make, Mode::Enforce), (floods::random_udp, Mode::Observe)] {
        let mut world = calm.clone();
        world.decider.set_mode(mode);
        world.attack(make, 30);
        assert!(world.decider.thinned().is_empty(), "{:#?}", told(&world));
    }
}

#[test]
fn ordinary_load_gets_no_rule() {
    let calm = World::calm(web);
    for (name, make) in shapes::ordinary() {
        let mut world = calm.clone();
        world.attack(make, 20);
        assert_eq!(world.decider.wanted().0, [], "{name}: {:#?}", told(&world));
    }
}

#[test]
fn a_forerunner_does_not_make_a_signature_untouchable() {
    let mut world = World::new(game, Mode::Enforce);
    let mut dice = Dice(3);
    for _ in 0..400 {
        let few = (0..2).map(|_| (true, floods::signed(&mut dice))).collect();
        world.tick(few);
    }
    let (_, unverified) = world.decider.clean_flows();
    assert!(unverified > 300, "the forerunner is known: {unverified}");
    world.attack(floods::signature, 10);
    let (removed, touched) = world.judged(floods::signature);
    assert!(removed > 0.99 && touched == 0.0, "{removed} {touched}: {:#?}", told(&world));
    let predicted = world.incidents()[0].rules[0].predicted;
    assert!(predicted.clean_share == 0.0 && predicted.uncertain_share > 0.0, "{predicted:?}");
}

#[test]
fn whose_address_is_forged_is_not_banned() {
    let mut world = World::calm(game);
    world.attack(floods::as_a_player, 15);
    let (removed, touched) = world.judged(floods::as_a_player);
    assert!(removed > 0.95 && touched == 0.0, "{removed} {touched}: {:#?}", told(&world));
    for rule in world.dropping() {
        assert_eq!(rule.rule.matches.src, None, "{}", rule.rule.matches);
    }
}

#[test]
fn where_sources_are_few_a_rule_names_them_and_something_else() {
    let mut world = World::calm(game);
    world.attack(floods::from_one_net, 15);
    let (removed, touched) = world.judged(floods::from_one_net);
    assert!(removed > 0.95 && touched == 0.0, "{removed} {touched}: {:#?}", told(&world));
    let rules = world.dropping();
    assert_eq!(rules.len(), 1);
    let matches = &rules[0].rule.matches;
    assert_eq!(matches.src.map(|net| net.to_string()).as_deref(), Some("203.0.113.0/24"));
    assert!(!matches.proto.is_any() && !matches.dport.is_any(), "{matches}");
}

#[test]
fn observing_drops_nothing() {
    let mut world = World::new(web, Mode::Observe);
    for _ in 0..400 {
        world.tick(Frames::new());
    }
    for tick in 0..30 {
        world.attack(shape(Vector::SynFlood), 1);
        assert!(world.dropping().is_empty(), "tick {tick}");
    }
    let report = &world.incidents()[0].rules[0];
    assert_eq!(report.state, Phase::Shadow);
    assert!(report.measured.packets > 1000 && report.measured.dropped == 0, "it counts: {report:?}");
    assert_eq!(world.incidents()[0].mitigated, None);
}

#[test]
fn before_the_node_is_known_auto_acts_only_on_what_nobody_has_business_with() {
    for (vector, acts) in [(Vector::MemcachedAmplification, true), (Vector::UdpFlood, false)] {
        let mut world = World::new(web, Mode::Auto);
        for _ in 0..50 {
            world.tick(Frames::new());
        }
        world.attack(shape(vector), 20);
        assert_eq!(!world.dropping().is_empty(), acts, "{}: {:#?}", vector.as_str(), told(&world));
    }
}

#[test]
fn rules_end_with_the_attack_and_are_remembered() {
    let mut world = World::calm(web);
    let make = shape(Vector::NtpAmplification);
    world.attack(make, 20);
    let generation = world.decider.wanted().1;
    for _ in 0..150 {
        world.tick(Frames::new());
    }
    assert!(!world.incidents()[0].is_open());
    assert_eq!(world.incidents()[0].rules[0].state, Phase::Ended);
    assert!(world.dropping().iter().all(|rule| matches!(rule.rule.action, Action::RateLimit(_))));
    assert!(world.decider.wanted().1 > generation);
    // The next attack of the kind meets the rule at the tick in which it is recognised.
    for _ in 0..5 {
        world.attack(make, 1);
        if world.incidents().len() == 2 {
            break;
        }
    }
    assert_eq!(world.incidents().len(), 2);
    assert_eq!(world.dropping().len(), 1, "{:#?}", told(&world));
    assert!(told(&world).iter().any(|line| line.contains("as it is remembered")), "{:#?}", told(&world));
}

#[test]
fn a_rule_that_hits_conversations_from_before_is_taken_back() {
    let mut world = World::calm(game);
    world.attack(floods::signature, 5);
    let bad = Choice {
        matches: "udp dport 27016".parse().unwrap(),
        action: Action::Drop,
        predicted: Default::default(),
        runners_up: Vec::new(),
    };
    world.decider.keeper().begin(bad.clone(), world.ticks * 100_000_000);
    let before = world.lost[0].0;
    world.attack(floods::signature, 10);
    let incident = world.incidents()[0];
    let report = incident.rules.iter().find(|rule| rule.matches == "udp dport 27016").expect("it is told");
    assert_eq!(report.state, Phase::Withdrawn, "{:#?}", told(&world));
    assert!(report.measured.benign_flows >= 3, "{report:?}");
    assert_eq!(world.lost[0].0, before, "it never dropped: its shadow showed what it costs");
    assert!(world.decider.wanted().0.iter().all(|rule| rule.rule.matches != bad.matches));
    assert_eq!(world.dropping().len(), 1, "the good one stays");
}

#[test]
fn an_attack_that_changes_gets_new_rules() {
    let mut world = World::calm(web);
    world.attack(shape(Vector::NtpAmplification), 20);
    world.attack(shape(Vector::SynFlood), 20);
    let (removed, touched) = world.judged(shape(Vector::SynFlood));
    assert!(removed > 0.95 && touched == 0.0, "{:#?}", told(&world));
    assert_eq!(world.incidents().len(), 1);
}

#[test]
fn a_wall_clock_that_steps_changes_nothing_about_an_attack() {
    const HOUR: i64 = 3_600_000;
    let wanted = |world: &World| -> Vec<(FlowMatch, Action)> {
        world.decider.wanted().0.iter().map(|wanted| (wanted.rule.matches.clone(), wanted.rule.action)).collect()
    };
    let make = shape(Vector::NtpAmplification);
    // Half an hour back is what a machine without a battery does, a week what an operator mistypes.
    for step in [-HOUR / 2, 26 * HOUR, -7 * 24 * HOUR] {
        let mut steady = World::calm(web);
        let mut world = steady.clone();
        for (ticks, offset) in [(10, 0), (30, step), (20, 0), (150, -step)] {
            world.clock_ms = offset;
            for _ in 0..ticks {
                let attack = |world: &mut World| {
                    let frames =
                        if world.ticks < 450 { make(&mut Dice(world.ticks * 77), world.ticks) } else { Frames::new() };
                    world.tick(frames)
                };
                assert_eq!(attack(&mut world).len(), attack(&mut steady).len(), "{step} at tick {}", world.ticks);
                assert_eq!(wanted(&world), wanted(&steady), "{step} at tick {}", world.ticks);
            }
        }
        let [incident] = world.incidents()[..] else { panic!("{:?}", world.incidents()) };
        assert!(!incident.is_open() && !incident.rules.is_empty(), "{step}: {incident:?}");
        assert_eq!(world.lost[0], steady.lost[0], "{step}: customers");
    }
}

/// What operators exempt, and packets of it.
fn exemption() -> impl Strategy<Value = FlowMatch> {
    prop_oneof![
        Just("udp sport 53 src 9.9.9.9/32"),
        Just("udp sport 53"),
        Just("udp sport 123 src 192.0.2.0/24"),
        Just("tcp dport 80 src 60.0.0.0/8"),
        Just("tcp port 179 ttl 255"),
        Just("tcp dport 80 flags syn/syn+ack"),
        Just("icmp icmp-type 8"),
        Just("udp dport 20000-40000"),
        Just("dst 198.51.100.10/32 proto 47"),
        Just("udp len 0-100"),
    ]
    .prop_map(|text| text.parse().expect("it is a match"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_rule_of_the_daemon_drops_what_is_exempt(flows in prop::collection::vec(exemption(), 1..4), at in 0..62usize) {
        let mut world = World::calm_shared(web);
        let own: Vec<IpAddr> = vec!["198.51.100.10".parse().unwrap()];
        world.decider.set_exempt(Exempt { flows: flows.clone(), own });
        let attacks = shapes::attacks();
        let make = attacks[at % attacks.len()].1;
        world.attack(make, 8);
        let rules: Vec<FlowMatch> = world.dropping().iter().map(|rule| rule.rule.matches.clone()).collect();
        let packets: Frames = (0..10).flat_map(|seed| make(&mut Dice(seed), seed)).collect();
        for packet in packets.iter().map(|(_, frame)| decoded(0, frame)) {
            let subject = packet.subject();
            let is_exempt = flows.iter().chain(&exempt::always()).any(|flow| flow.matches(&subject));
            let dropped = rules.iter().find(|rule| rule.matches(&subject));
            prop_assert!(!is_exempt || dropped.is_none(), "{dropped:?} drops {:?}", packet.key);
        }
    }
}
