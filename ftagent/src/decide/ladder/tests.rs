//! The ladder against a network that is imagined: what it asks for, when, and how it comes back.

mod figures;
mod mends;
mod people;
mod safety;
mod trouble;
mod turns;

use std::collections::BTreeMap;

use super::{
    model::{Load, Plane, World},
    *,
};
use crate::rule::{Action, Ranges};

const CAPACITY: f64 = 1e9;
const TICK_MS: u64 = 200;
const MINUTE: u64 = 60_000;

fn victim() -> std::net::IpAddr {
    "192.0.2.7".parse().unwrap()
}

/// A rule such as this host finds against answers of time servers.
fn rule(share: f64) -> Filter {
    let matches = FlowMatch {
        proto: Ranges::one(17),
        sport: Ranges::one(123),
        len: Ranges::range(200, 1500),
        ..FlowMatch::default()
    };
    Filter { matches, action: Action::Drop, share, rule: 1 }
}

/// The built-in policy for the planes of a world; these climb by themselves.
fn policy(planes: &[(&str, Kind)], auto: &[&str]) -> Policy {
    let planes: Vec<(String, Kind)> = planes.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    let mut policy = Policy::built_in(LadderMode::On, &planes);
    for rung in policy.rungs.iter_mut().filter(|rung| auto.contains(&rung.name.as_str())) {
        (rung.approve, rung.per_day) = (Approve::Auto, 10);
    }
    policy
}

/// A ladder, a network and what happened in it.
struct Run {
    ladder: Ladder,
    world: World,
    moves: Vec<(u64, Move)>,
    ms: u64,
}

impl Run {
    fn new(policy: Policy, planes: &[(&str, Plane)], filters: Vec<Filter>) -> Self {
        let planes: BTreeMap<String, Plane> = planes.iter().map(|(name, plane)| ((*name).to_owned(), *plane)).collect();
        let mut world = World::new(CAPACITY, Load { attack_bps: 0.0, clean_bps: 0.1 * CAPACITY }, planes);
        (world.filters, world.victims) = (filters, vec![(victim(), 1.0)]);
        let mut ladder = Ladder::default();
        let space = vec!["192.0.2.0/24".parse().unwrap()];
        ladder.set(Upstream { policy, space, ..Upstream::default() });
        let mut run = Self { ladder, world, moves: Vec::new(), ms: 0 };
        run.go(5_000, |_| 0.0);
        run.ms = 0;
        run
    }

    /// Goes on, with so much attack at each millisecond of the time since the first call.
    fn go(&mut self, ms: u64, attack: impl Fn(u64) -> f64) {
        let until = self.ms + ms;
        while self.ms < until {
            self.world.load.attack_bps = attack(self.ms);
            let made = self.world.tick(&mut self.ladder, TICK_MS);
            self.moves.extend(made.into_iter().map(|made| (self.ms, made)));
            self.ms += TICK_MS;
        }
    }

    /// The daemon dies and comes back: all that goes on is what was saved.
    fn restart(&mut self) {
        let (saved, upstream) = (self.ladder.saved(), self.ladder.upstream().clone());
        self.ladder = Ladder::default();
        self.ladder.set(upstream);
        self.ladder.restore(saved, self.world.acts, self.world.now);
    }

    fn turns(&self, rung: &str) -> Vec<Turn> {
        self.moves.iter().filter(|(_, made)| made.rung == rung).map(|(_, made)| made.turn).collect()
    }

    fn count(&self, rung: &str, turn: Turn) -> usize {
        self.turns(rung).into_iter().filter(|found| *found == turn).count()
    }

    fn state(&self, rung: &str) -> String {
        self.ladder.view().rungs.into_iter().find(|view| view.rung == rung).map(|view| view.state).unwrap()
    }

    fn id(&self, rung: &str) -> u32 {
        self.ladder.view().rungs.into_iter().find(|view| view.rung == rung).and_then(|view| view.id).unwrap()
    }

    fn wanted(&self, plane: &str) -> usize {
        self.ladder.ascent().0.iter().filter(|step| step.plane == plane).count()
    }

    /// Whether a move of a rung said so.
    fn says(&self, rung: &str, turn: Turn, part: &str) -> bool {
        self.moves.iter().any(|(_, made)| made.rung == rung && made.turn == turn && made.what.contains(part))
    }

    /// What happened, for a test that fails.
    fn told(&self) -> String {
        let line = |(ms, made): &(u64, Move)| {
            format!("{:>8.1} s {} {:?}: {}\n", *ms as f64 / 1e3, made.rung, made.turn, made.what)
        };
        self.moves.iter().map(line).collect()
    }
}

const FLOWSPEC: (&str, Kind) = ("flowspec", Kind::Filter);
const RTBH: (&str, Kind) = ("rtbh", Kind::BlackHole);
const CLOUD: (&str, Kind) = ("cloud", Kind::Scrub);

#[test]
fn a_filter_is_asked_for_probed_and_taken_back() {
    let mut run = Run::new(policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(1.0)]);
    run.go(10_000, |_| 3.0 * CAPACITY);
    assert_eq!((run.state("flowspec").as_str(), run.wanted("flowspec")), ("present", 1), "{}", run.told());
    assert!(run.world.full_ms <= 2_000, "{}", run.world.full_ms);
    // Still there at the first probe: nothing is announced anew, and the hold doubles.
    run.go(3 * MINUTE, |_| 3.0 * CAPACITY);
    assert!(run.ladder.view().failed_probes >= 1 && run.world.full_ms <= 2_000, "{}", run.told());
    run.go(10 * MINUTE, |_| 0.0);
    assert_eq!(run.turns("flowspec").last(), Some(&Turn::CameBack), "{}", run.told());
    assert!(!run.ladder.is_awake() && run.ladder.ascent().0.is_empty());
    assert_eq!(run.world.announced, 1, "{}", run.told());
}

#[test]
fn what_does_not_fill_the_uplink_is_not_told_to_anybody() {
    for (load, asked) in [(0.1, false), (0.5, false), (0.75, true)] {
        let mut run =
            Run::new(policy(&[FLOWSPEC, RTBH], &["rtbh"]), &[("flowspec", Plane::Obeys(300))], vec![rule(1.0)]);
        run.go(MINUTE, |_| load * CAPACITY);
        assert_eq!(run.world.announced > 0, asked, "{load}\n{}", run.told());
        assert_eq!(run.count("rtbh", Turn::Escalated), 0, "{load}\n{}", run.told());
    }
}

#[test]
fn scrubbing_comes_before_the_victim_is_black_holed() {
    let planes = [FLOWSPEC, CLOUD, RTBH];
    // No rule that routers could match: only those above help.
    let all = [("flowspec", Plane::Obeys(300)), ("cloud", Plane::Obeys(60_000)), ("rtbh", Plane::Obeys(500))];
    let mut run = Run::new(policy(&planes, &["cloud", "rtbh"]), &all, Vec::new());
    run.go(5 * MINUTE, |_| 2.0 * CAPACITY);
    assert_eq!(run.state("cloud"), "present", "{}", run.told());
    assert_eq!(run.count("rtbh", Turn::Escalated), 0, "{}", run.told());
    // It waits for an operator's answer about scrubbing, but not for ever.
    let mut run = Run::new(policy(&planes, &["rtbh"]), &all, Vec::new());
    run.go(MINUTE, |_| 2.0 * CAPACITY);
    assert_eq!((run.state("cloud").as_str(), run.wanted("rtbh")), ("asking", 0), "{}", run.told());
    run.go(2 * MINUTE, |_| 2.0 * CAPACITY);
    assert_eq!(run.wanted("rtbh"), 1, "{}", run.told());
}

#[test]
fn residual_and_strain_climb_too() {
    // What holds, what is met: residual share of the attack, packets lost, softirq.
    let cases: [(When, f64, (f64, f64), bool); 6] = [
        (When { residual: Some(0.3), ..When::default() }, 0.5, (0.0, 0.0), true),
        (When { residual: Some(0.3), ..When::default() }, 0.2, (0.0, 0.0), false),
        (When { lost_pps: Some(50.0), ..When::default() }, 0.0, (900.0, 0.0), true),
        (When { lost_pps: Some(50.0), ..When::default() }, 0.0, (10.0, 0.0), false),
        (When { softirq: Some(0.9), ..When::default() }, 0.0, (0.0, 0.99), true),
        (When { softirq: Some(0.9), ..When::default() }, 0.0, (0.0, 0.5), false),
    ];
    for (when, residual, strain, climbs) in cases {
        let mut policy = policy(&[FLOWSPEC], &[]);
        policy.rungs[0].when = when;
        let mut ladder = Ladder::default();
        ladder.set(Upstream { policy, space: vec!["192.0.2.0/24".parse().unwrap()], ..Upstream::default() });
        struct Nothing;
        impl Traffic for Nothing {
            fn arriving(&self, _: &What) -> f64 {
                1e6
            }
        }
        for tick in 1..=40_u64 {
            let now = crate::decide::Now { mono_ns: tick * 200_000_000, unix_ms: 0 };
            let attack = Attack {
                id: "i".to_owned(),
                opened_ns: 1,
                bps: 1e6,
                residual,
                filters: vec![rule(1.0)],
                victims: vec![(victim(), 1.0)],
                ..Attack::default()
            };
            let exempt = crate::decide::mitigate::Exempt::default();
            ladder.on_tick(&Scene {
                now,
                elapsed_ns: 200_000_000,
                attack: Some(&attack),
                strain: Some(strain),
                acts: true,
                keeps: true,
                exempt: &exempt,
                traffic: &Nothing,
            });
        }
        assert_eq!(ladder.ascent().0.len(), usize::from(climbs), "{when:?}");
    }
}

#[test]
fn a_dry_run_says_and_asks_nobody() {
    let mut policy = policy(&[FLOWSPEC, RTBH], &["rtbh"]);
    policy.mode = LadderMode::DryRun;
    let mut run = Run::new(policy, &[("flowspec", Plane::Obeys(300)), ("rtbh", Plane::Obeys(300))], vec![rule(1.0)]);
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!((run.world.announced, run.ladder.view().black_hole_s), (0, 0));
    let [(_, first), ..] = &run.moves[..] else { panic!("nothing was said") };
    assert!(first.what.starts_with("would announce") && first.what.ends_with("(dry run)"), "{}", first.what);
    // The daemon only observes: the same.
    let mut run = Run::new(super::tests::policy(&[FLOWSPEC], &[]), &[("flowspec", Plane::Obeys(300))], vec![rule(1.0)]);
    run.world.acts = false;
    run.go(MINUTE, |_| 3.0 * CAPACITY);
    assert_eq!(run.world.announced, 0);
    assert!(run.ladder.view().held_back.is_some());
}

#[test]
fn a_plan_says_what_would_happen() {
    let upstream = Upstream {
        policy: policy(&[FLOWSPEC, RTBH], &[]),
        space: vec!["192.0.2.0/24".parse().unwrap()],
        ..Upstream::default()
    };
    let present = plan::Present {
        used_bps: 0.1 * CAPACITY,
        capacity_bps: CAPACITY,
        attack: None,
        busiest: Some(victim()),
        exempt: crate::decide::mitigate::Exempt::default(),
    };
    let (plans, assumed) = plan::plans(&upstream, &present, &[2, 10, 100]);
    assert!(assumed.len() >= 3, "{assumed:?}");
    let [calm, full, over] = &plans[..] else { panic!("three") };
    assert_eq!((calm.moves.len(), calm.full_s), (0, 0.0), "{calm:?}");
    for plan in [full, over] {
        let turns: Vec<Turn> = plan.moves.iter().map(|would| would.turn).collect();
        assert_eq!(turns.first(), Some(&Turn::Escalated), "{plan:?}");
        assert!(turns.contains(&Turn::Probed) && turns.contains(&Turn::CameBack), "{plan:?}");
        assert!(plan.full_s < 5.0 && plan.black_hole_s == 0.0, "{plan:?}");
    }
}
