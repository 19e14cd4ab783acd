#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
use super::*;
use crate::decide::{Counts, Now, baseline::Second};

const TICK_NS: u64 = 100_000_000;
const CLASS: TrafficClass = TrafficClass::TcpData;

/// A node on which a class is normally 1 600 packets a second.
fn learned() -> Baselines {
    let mut baselines = Baselines::default();
    let mut seconds = vec![Second { ordinary: true, ..Second::default() }; TrafficClass::COUNT];
    seconds[CLASS.index()].pps = 1600.0;
    for second in 0..60 {
        baselines.second(Now { mono_ns: second * 1_000_000_000, unix_ms: 0 }, &seconds);
    }
    baselines
}

/// Lets ticks pass; returns in which of them the class exceeds normal.
fn run(packets: &[u64]) -> Vec<usize> {
    let (baselines, mut detector) = (learned(), Detector::default());
    let mut found = Vec::new();
    for (number, packets) in packets.iter().enumerate() {
        let mut counts = Counts::default();
        counts.classes[CLASS.index()] = ClassCount { packets: *packets, bytes: packets * 100, dropped: 0 };
        let now = Now { mono_ns: 100_000_000_000 + number as u64 * TICK_NS, unix_ms: 0 };
        let tick =
            Tick { now, elapsed_ns: TICK_NS, counts: &counts, samples: &[], outbound: None, host: None, rules: &[] };
        if !detector.on_tick(&tick, &baselines, true).is_empty() {
            found.push(number);
        }
    }
    found
}

#[test]
fn a_burst_is_no_evidence_any_more_once_it_is_over() {
    let mut packets = vec![160; 10];
    packets.extend([20_000; 5]);
    packets.extend([1; 40]);
    let found = run(&packets);
    assert_eq!(found.first(), Some(&10), "in its first tick");
    assert!(found.last().is_some_and(|last| *last < 10 + 5 + 10), "a second later at most: {found:?}");
}

#[test]
fn evidence_adds_up_over_pulses_and_over_little() {
    // Twice the threshold in every second tick, and a fifth more than it all the time.
    let pulses: Vec<u64> = (0..60).map(|tick| if tick % 2 == 0 { 960 } else { 0 }).collect();
    assert!(!run(&pulses).is_empty());
    assert!(!run(&[290; 60]).is_empty());
    assert!(run(&[200; 200]).is_empty(), "a quarter above normal is normal");
}
