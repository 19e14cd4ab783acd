//! What rules cost where the socket table answers, as it does in the daemon. With `--nocapture`, the time until a
//! bad rule is withdrawn is printed.

use super::*;
use crate::decide::mitigate::{collateral::Basis, tests::backgrounds::busy};

fn choice(matches: &str) -> Choice {
    Choice {
        matches: matches.parse().unwrap(),
        action: Action::Drop,
        predicted: Default::default(),
        runners_up: Vec::new(),
    }
}

/// A busy server that is attacked, with a rule in force that somebody thought of.
fn with_rule(calm: &World, attack: Make, matches: &str, seed: u64) -> World {
    let mut world = calm.clone();
    world.dice = Dice(seed);
    world.attack(attack, 6 + seed % 3);
    assert!(world.incidents().last().is_some_and(|incident| incident.is_open()), "{}", world.ticks);
    let at = world.ticks * 100_000_000;
    let keeper = world.decider.keeper();
    let place = keeper.begin(choice(matches), at);
    keeper.enforce(place);
    world.attack(attack, 1);
    world
}

fn state(world: &World, matches: &str) -> (Phase, crate::decide::mitigate::Measured) {
    let incident = world.incidents().last().copied().expect("there is one");
    let rule = incident.rules.iter().find(|rule| rule.matches == matches).expect("it is told");
    (rule.state, rule.measured)
}

/// Attacks in which each bad rule is tried.
const SEEDS: u64 = 20;

#[test]
fn a_bad_rule_is_withdrawn_at_once() {
    let ntp = shape(Vector::NtpAmplification);
    let calm = World::calm_daemon(busy);
    for (matches, most) in [("tcp dport 443", 10), ("src 60.0.0.0/8", 30)] {
        let mut took = Vec::new();
        for seed in 0..SEEDS {
            let mut world = with_rule(&calm, ntp, matches, seed);
            let mut ticks = 1;
            // The kernel has it from the next tick on.
            while ticks <= most && state(&world, matches).0 != Phase::Withdrawn {
                world.attack(ntp, 1);
                ticks += 1;
            }
            assert!(ticks <= most, "{matches}, {seed}: {:#?}", told(&world));
            let (_, measured) = state(&world, matches);
            assert!(measured.benign_flows >= 3 && measured.collateral.basis == Basis::Sockets, "{measured:?}");
            assert!(measured.collateral.ratio > 0.01 && measured.collateral.low > 0.001, "{measured:?}");
            assert!(world.decider.wanted().0.iter().all(|rule| rule.rule.matches.to_string() != matches));
            took.push(100 * ticks);
        }
        took.sort_unstable();
        let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        println!(
            "`{matches}` then drop, {SEEDS} attacks: withdrawn after {} ms (median), {} ms (p99); {} ms are asked",
            at(50),
            at(99),
            100 * most
        );
    }
}

#[test]
fn a_rule_that_is_withdrawn_leaves_a_narrower_one_in_its_place() {
    let ntp = shape(Vector::NtpAmplification);
    let mut world = World::calm_daemon(busy);
    world.attack(ntp, 6);
    let at = world.ticks * 100_000_000;
    let keeper = world.decider.keeper();
    keeper.forget_rules();
    let place = keeper.begin(choice("ip4"), at);
    keeper.enforce(place);
    world.attack(ntp, 5);
    assert_eq!(state(&world, "ip4").0, Phase::Withdrawn, "{:#?}", told(&world));
    let line = told(&world).into_iter().find(|line| line.contains("narrower")).expect("it is told");
    assert!(line.contains("enforced in place of rule") && line.contains(": ip4 sport 123 len 468"), "{line}");
    // It never stopped: what was there first dropped the attack, too.
    let before = world.lost;
    world.attack(ntp, 10);
    let [benign, attack] = [0, 1].map(|at| (world.lost[at].0 - before[at].0, world.lost[at].1 - before[at].1));
    assert!(attack.0 * 100 >= attack.1 * 95 && benign.0 == 0, "{benign:?} {attack:?}: {:#?}", told(&world));
}

#[test]
fn what_is_forged_takes_no_correct_rule_back() {
    let cases: [(&str, Make, Background); 2] = [
        ("segments forged on one live tuple", floods::on_a_live_tuple, busy),
        ("datagrams to a server's socket", floods::signature, game),
    ];
    for (name, make, background) in cases {
        let mut world = World::calm_daemon(background);
        world.attack(make, 100);
        let (dropped, all) = world.lost[1];
        assert!(dropped * 100 >= all * 95, "{name}: {dropped} of {all}: {:#?}", told(&world));
        assert!(world.lost[0].0 * 1000 <= world.lost[0].1, "{name}: {:?}", world.lost);
        for rule in &world.incidents().last().unwrap().rules {
            assert_ne!(rule.state, Phase::Withdrawn, "{name}: {rule:?}");
            assert!(rule.measured.benign_flows <= 1, "{name}: {rule:?}");
        }
    }
}

#[test]
fn a_rule_of_an_operator_is_measured_and_stays() {
    let mut world = World::calm_daemon(busy);
    let matches: FlowMatch = "src 60.0.0.0/8 tcp dport 443".parse().unwrap();
    world.decider.watch([(7, matches.clone(), false)]);
    world.given = vec![matches];
    for _ in 0..30 {
        world.tick(Frames::new());
    }
    let (id, cost) = world.decider.watched().next().unwrap();
    assert_eq!((id, cost.basis), (7, Basis::Sockets));
    // A hundred of three hundred conversations.
    assert!(cost.low <= 1.0 / 3.0 && 1.0 / 3.0 <= cost.high && (cost.ratio - 1.0 / 3.0).abs() < 0.03, "{cost:?}");
    assert!(cost.benign_pps > 500.0 && cost.unknown_share == 0.0, "{cost:?}");
}

#[test]
fn without_a_socket_table_flows_tell() {
    let mut world = World::calm(game);
    world.attack(floods::signature, 20);
    let measured = world.incidents()[0].rules[0].measured;
    assert_eq!((measured.collateral.basis, measured.collateral.ratio), (Basis::Flows, 0.0));
    assert!(measured.collateral.samples > 500 && measured.collateral.high < 0.01, "{measured:?}");
}
