#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use ftagent_common::TrafficClass;

use super::*;
use crate::decide::{ClassCount, Counts, classify::Evidence};

const TICK_NS: u64 = 100_000_000;

#[test]
fn a_stamp_is_the_date_in_utc() {
    assert_eq!(stamp(0), "19700101T000000Z");
    assert_eq!(stamp(951_782_399_000), "20000228T235959Z");
    assert_eq!(stamp(951_782_400_000), "20000229T000000Z");
    assert_eq!(stamp(1_795_305_901_000), "20261122T000501Z");
}

fn finding(vector: Vector, class: TrafficClass, pps: f64, confidence: f64) -> Finding {
    let evidence = Evidence {
        classes: vec![class.as_str().to_owned()],
        metric: Some(Metric::Pps),
        pps,
        line: format!("{} {pps} pps", class.as_str()),
        ..Evidence::default()
    };
    Finding { vector, confidence, tool: None, evidence }
}

/// A node that knows that nothing is normal, and what happens to it tick by tick.
struct Node {
    machine: Machine,
    detector: Detector,
    baselines: Baselines,
    destinations: Destinations,
    tick: u64,
}

impl Node {
    fn new() -> Self {
        let mut baselines = Baselines::default();
        let seconds =
            vec![super::super::baseline::Second { ordinary: true, ..Default::default() }; TrafficClass::COUNT];
        for second in 0..60 {
            baselines.second(Now { mono_ns: second * 1_000_000_000, unix_ms: 0 }, &seconds);
        }
        Self {
            machine: Machine::default(),
            detector: Detector::default(),
            baselines,
            destinations: Destinations::default(),
            tick: 600,
        }
    }

    /// Lets a tick pass in which packets of some classes arrive, each with what it is taken for.
    fn tick(&mut self, traffic: &[(Vector, TrafficClass, u64)]) -> Vec<Event> {
        self.tick += 1;
        let mono_ns = self.tick * TICK_NS;
        let now = Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 };
        let mut counts = Counts::default();
        for (_, class, packets) in traffic {
            counts.classes[class.index()] = ClassCount { packets: *packets, bytes: packets * 100, dropped: 0 };
        }
        let tick =
            Tick { now, elapsed_ns: TICK_NS, counts: &counts, samples: &[], outbound: None, host: None, rules: &[] };
        let excess = self.detector.on_tick(&tick, &self.baselines, true);
        let found: Vec<Finding> = traffic
            .iter()
            .filter(|(_, class, packets)| *packets > 0 && excess.iter().any(|excess| excess.class == *class))
            .map(|(vector, class, packets)| finding(*vector, *class, *packets as f64 * 10.0, 0.9))
            .collect();
        let mut events = self.machine.confirm(now, &found, &excess, true, None);
        events.extend(self.follow(&tick));
        events
    }

    fn follow(&mut self, tick: &Tick<'_>) -> Vec<Event> {
        let Self { machine, detector, baselines, destinations, .. } = self;
        machine.on_tick(tick, &Known { detector, baselines, destinations })
    }

    fn run(&mut self, ticks: u64, traffic: &[(Vector, TrafficClass, u64)]) {
        for _ in 0..ticks {
            self.tick(traffic);
        }
    }

    fn incidents(&self) -> Vec<&Incident> {
        self.machine.incidents().collect()
    }
}

const SYN: (Vector, TrafficClass, u64) = (Vector::SynFlood, TrafficClass::TcpSyn, 4500);
const UDP: (Vector, TrafficClass, u64) = (Vector::UdpFlood, TrafficClass::UdpSmall, 3000);

#[test]
fn pulses_of_any_width_are_one_incident() {
    for (on, off) in [(40, 10), (5, 50), (1, 9), (20, 90)] {
        let mut node = Node::new();
        for _ in 0..6 {
            node.run(on, &[SYN]);
            node.run(off, &[]);
        }
        let incidents = node.incidents();
        assert_eq!(incidents.len(), 1, "{on} on, {off} off");
        assert!(incidents[0].is_open(), "{on} on, {off} off");
        assert_eq!(incidents[0].vectors, [Vector::SynFlood]);
    }
}

#[test]
fn an_incident_closes_when_the_rate_has_fallen_for_good_and_the_next_opens_at_once() {
    let mut node = Node::new();
    node.run(30, &[SYN]);
    node.run(150, &[]);
    let first = node.incidents()[0].clone();
    let closed = first.closed.unwrap();
    assert!(closed.mono_ns - first.opened.mono_ns < 16_000_000_000, "{first:?}");
    let begun = node.tick;
    node.run(3, &[SYN]);
    let incidents = node.incidents();
    assert_eq!(incidents.len(), 2);
    assert!(incidents[1].opened.mono_ns <= (begun + 2) * TICK_NS);
    assert_ne!(incidents[0].id, incidents[1].id);
}

#[test]
fn two_vectors_are_one_incident_that_lists_both() {
    let mut node = Node::new();
    node.run(30, &[SYN, UDP]);
    let incident = node.incidents()[0].clone();
    assert_eq!(incident.vector, Vector::MultiVector);
    assert_eq!(incident.vectors, [Vector::SynFlood, Vector::UdpFlood]);
    assert_eq!(incident.findings.len(), 2);
}

#[test]
fn a_vector_that_changes_is_listed_each_time() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.run(20, &[SYN]);
        node.run(20, &[UDP]);
    }
    let incident = node.incidents()[0].clone();
    assert_eq!(incident.vectors.len(), 2, "{:?}", incident.vectors);
    assert!(incident.timeline.iter().any(|entry| entry.what.contains("udp_flood")));
}

#[test]
fn a_first_guess_that_is_not_confirmed_goes() {
    let mut node = Node::new();
    node.run(2, &[(Vector::UdpFlood, TrafficClass::UdpSrcNtp, 900)]);
    node.run(40, &[(Vector::NtpAmplification, TrafficClass::UdpSrcNtp, 900)]);
    assert_eq!(node.incidents()[0].vectors, [Vector::NtpAmplification]);
}

#[test]
fn an_incident_that_nothing_confirms_any_more_closes_though_the_rate_stays() {
    let mut node = Node::new();
    node.run(10, &[SYN]);
    let mut counts = Counts::default();
    counts.classes[TrafficClass::TcpSyn.index()].packets = 4500;
    for _ in 0..310 {
        node.tick += 1;
        let now = Now { mono_ns: node.tick * TICK_NS, unix_ms: 0 };
        let tick =
            Tick { now, elapsed_ns: TICK_NS, counts: &counts, samples: &[], outbound: None, host: None, rules: &[] };
        node.detector.on_tick(&tick, &node.baselines, true);
        node.follow(&tick);
    }
    let incident = node.incidents()[0].clone();
    assert!(!incident.is_open());
    assert!(incident.timeline.last().unwrap().what.contains("ordinary"), "{:?}", incident.timeline);
}

#[test]
fn the_numbers_are_those_of_the_traffic() {
    let mut node = Node::new();
    node.run(20, &[SYN]);
    node.run(120, &[]);
    let incident = node.incidents()[0].clone();
    assert_eq!(incident.peak_pps, 45_000.0);
    assert_eq!(incident.peak_bps, 45_000.0 * 800.0);
    assert_eq!(incident.severity, Severity::Medium);
    let began = incident.opened.mono_ns - incident.began.mono_ns;
    assert!(began <= 2 * TICK_NS, "{began}");
}

/// Restarts in the middle of an incident, some time after which `vector` is found; returns the
/// incidents.
fn restarted(away_ms: i64, vector: Vector) -> Vec<Incident> {
    restarted_after(20, away_ms, vector)
}

/// As [`restarted`], in an incident of so many ticks.
fn restarted_after(ticks: u64, away_ms: i64, vector: Vector) -> Vec<Incident> {
    let mut node = Node::new();
    node.run(ticks, &[SYN]);
    let kept: Vec<Incident> = node.machine.incidents().cloned().collect();
    let mono_ns = node.tick * TICK_NS;
    let now = Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 + away_ms };
    node.machine = Machine::default();
    node.machine.remember(kept, now);
    node.run(20, &[(vector, SYN.1, SYN.2)]);
    node.machine.incidents().cloned().collect()
}

#[test]
fn an_incident_goes_on_after_a_restart_if_the_attack_does() {
    let same = restarted(5000, Vector::SynFlood);
    assert_eq!(same.len(), 1, "{same:#?}");
    assert!(same[0].is_open() && same[0].timeline.iter().any(|entry| entry.what.contains("goes on after a restart")));

    let other = restarted(5000, Vector::RstFlood);
    assert_eq!(other.len(), 2);
    assert!(!other[0].is_open() && other[1].is_open());

    // Nothing new was to be said of it for longer than a daemon may be away.
    let steady = restarted_after(7000, 2000, Vector::SynFlood);
    assert!(steady.len() == 1 && steady[0].is_open(), "{steady:#?}");
    let left = restarted_after(7000, 3_600_000, Vector::SynFlood);
    let closed = left[0].closed.unwrap().mono_ns.saturating_sub(left[0].opened.mono_ns);
    assert!(closed > 6990 * TICK_NS, "it ended when it was seen last: {closed}");

    let long_ago = restarted(3_600_000, Vector::SynFlood);
    assert_eq!(long_ago.len(), 2, "an hour later it is another attack");
    assert!(!long_ago[0].is_open() && long_ago[0].timeline.last().unwrap().what.contains("stopped"));
}

#[test]
fn an_attack_that_ended_while_the_daemon_was_away_is_closed() {
    let mut node = Node::new();
    node.run(20, &[SYN]);
    let kept: Vec<Incident> = node.machine.incidents().cloned().collect();
    let mono_ns = node.tick * TICK_NS;
    let now = Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 + 5000 };
    node.machine = Machine::default();
    node.machine.remember(kept, now);
    assert!(node.incidents()[0].is_open());
    node.run(310, &[]);
    let incident = node.incidents()[0].clone();
    assert!(!incident.is_open() && incident.timeline.last().unwrap().what.contains("had ended"), "{incident:#?}");
}

#[test]
fn patterns_name_the_tool_of_the_open_incident_alone() {
    let named = |tool: &str, share| Named {
        tool: tool.to_owned(),
        pattern: format!("{}_scan", tool.to_lowercase()),
        share,
        samples: 100,
        confidence: 0.95 * share,
    };
    let mut node = Node::new();
    node.run(30, &[SYN]);
    let id = node.incidents()[0].id.clone();
    let now = Now { mono_ns: node.tick * TICK_NS, unix_ms: 0 };
    assert_eq!(node.machine.name_tool(now, "another", Some(named("Mirai", 0.9))), []);
    assert_eq!(node.incidents()[0].tool, None);
    let what =
        "looks like Mirai: the pattern mirai_scan matches 97 % of what 100 samples stand for, 92 % sure".to_owned();
    let told = node.machine.name_tool(now, &id, Some(named("Mirai", 0.97)));
    assert_eq!(told, [Event::Changed { id: id.clone(), what: what.clone() }]);
    assert_eq!(node.incidents()[0].timeline.last().map(|entry| &entry.what), Some(&what));
    // More of the same is no news, and what is found out of vectors does not undo it.
    assert_eq!(node.machine.name_tool(now, &id, Some(named("Mirai", 0.99))), []);
    node.run(30, &[SYN, UDP]);
    let incident = node.incidents()[0].clone();
    assert_eq!((incident.tool.as_deref(), incident.named), (Some("Mirai"), Some(named("Mirai", 0.99))));
    let told = node.machine.name_tool(now, &id, None);
    assert!(
        matches!(&told[..], [Event::Changed { what, .. }] if what.contains("does not look like one tool's any more"))
    );
    assert_eq!(node.incidents()[0].tool, None);
    node.machine.name_tool(now, &id, Some(named("Mirai", 0.97)));
    node.run(150, &[]);
    assert!(!node.incidents()[0].is_open());
    assert_eq!(node.machine.name_tool(now, &id, None), [], "it is over");
    assert_eq!(node.incidents()[0].tool.as_deref(), Some("Mirai"));
}
