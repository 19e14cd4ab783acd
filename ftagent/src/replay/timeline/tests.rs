#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;
use crate::replay::schedule::{Arrivals, Pace, Pulse, SECOND};

const A: [u8; 4] = [192, 0, 2, 1];
const B: [u8; 4] = [192, 0, 2, 2];
const SERVER: [u8; 4] = [10, 0, 0, 1];

/// Makes a capture of UDP packets: time, source, destination.
fn capture(packets: &[(u64, [u8; 4], [u8; 4])]) -> Capture {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (time, source, destination) in packets {
        let at = 1000 * SECOND + time;
        for word in [(at / SECOND) as u32, (at % SECOND) as u32, 42, 42] {
            file.extend(word.to_le_bytes());
        }
        file.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        file.extend([*source, *destination].concat());
        file.extend([0, 9, 0, 10, 0, 8, 0, 0]);
    }
    Capture::parse(file).unwrap()
}

fn spec(name: &str) -> SourceSpec {
    SourceSpec { stop: 100 * SECOND, ..SourceSpec::plain(name.into(), "x".into()) }
}

fn even(pps: f64) -> Option<Pace> {
    Some(Pace { pps, arrivals: Arrivals::Even, ramp: None, pulse: None })
}

/// Returns time in milliseconds, source, and the last bytes of source and destination address;
/// replies have a negative source.
fn play(sources: Vec<(SourceSpec, Capture)>) -> Vec<(u64, i32, u8, u8)> {
    let mut timeline = Timeline::new(1);
    for (spec, capture) in sources {
        timeline.add(spec, capture).unwrap();
    }
    let mut events = Vec::new();
    while let Some(Event { time_ns, source, direction, frame }) = timeline.next() {
        let source = source as i32;
        let source = if direction == Direction::Inbound { source } else { -1 - source };
        events.push((time_ns / 1_000_000, source, frame[29], frame[33]));
    }
    events
}

fn two() -> Capture {
    capture(&[(0, A, SERVER), (SECOND, B, SERVER)])
}

#[test]
fn own_timing_begins_at_the_start_and_sources_merge() {
    let late = SourceSpec { start: SECOND, ..spec("late") };
    let events = play(vec![(spec("a"), two()), (late, two())]);
    assert_eq!(events, [(0, 0, 1, 1), (1000, 0, 2, 1), (1000, 1, 1, 1), (2000, 1, 2, 1)]);
}

#[test]
fn stop_is_exclusive() {
    assert_eq!(play(vec![(SourceSpec { stop: SECOND, ..spec("a") }, two())]).len(), 1);
}

#[test]
fn a_loop_goes_on_one_mean_gap_later() {
    let looped = SourceSpec { repeats: true, stop: 5 * SECOND, ..spec("a") };
    let times: Vec<u64> = play(vec![(looped, two())]).into_iter().map(|event| event.0).collect();
    assert_eq!(times, [0, 1000, 2000, 3000, 4000]);
}

#[test]
fn a_pulse_halts_the_captures_own_time() {
    let pulse = Some(Pulse { on: SECOND / 2, off: SECOND });
    let pulsed = SourceSpec { pulse, repeats: true, stop: 4 * SECOND, ..spec("a") };
    let times: Vec<u64> = play(vec![(pulsed, two())]).into_iter().map(|event| event.0).collect();
    assert_eq!(times, [0, 3000]);
}

#[test]
fn a_pace_replaces_the_captures_timing() {
    let paced = SourceSpec { pace: even(10.0), repeats: true, start: SECOND, stop: 2 * SECOND, ..spec("a") };
    let events = play(vec![(paced.clone(), two())]);
    assert_eq!(events.len(), 10);
    assert_eq!(events[..3], [(1000, 0, 1, 1), (1100, 0, 2, 1), (1200, 0, 1, 1)]);
    assert_eq!(play(vec![(SourceSpec { repeats: false, ..paced }, two())]).len(), 2);
}

#[test]
fn only_packets_to_the_victim_are_inbound_and_replies_go_with_them() {
    let packets =
        [(0, SERVER, A), (1, A, SERVER), (2, SERVER, A), (3, B, SERVER), (4, SERVER, B), (5, A, B), (6, A, SERVER)];
    let rewrite = Rewrite { dst: "198.51.100.10/32".parse().ok(), ..Rewrite::default() };
    let paced = SourceSpec { pace: even(10.0), rewrite, ..spec("a") };
    let events = play(vec![(paced, capture(&packets))]);
    let wanted = [(0, -1, 10, 1), (0, 0, 1, 10), (0, -1, 10, 1), (100, 0, 2, 10), (100, -1, 10, 2), (200, 0, 1, 10)];
    assert_eq!(events, wanted);
}

#[test]
fn a_victim_can_be_named() {
    let packets = [(0, A, SERVER), (1, B, SERVER), (2, SERVER, A)];
    let named = SourceSpec { victim: Some(A.into()), ..spec("a") };
    assert_eq!(play(vec![(named.clone(), capture(&packets))]), [(0, -1, 1, 1), (0, 0, 1, 1)]);
    let error = Timeline::new(1).add(named, capture(&[(0, A, B)])).unwrap_err();
    assert_eq!(error, "the capture has no packet to the victim 192.0.2.1");
}

#[test]
fn a_victim_of_the_other_family_keeps_its_address_and_it_is_said() {
    let rewrite = Rewrite { dst6: "2001:db8::1/128".parse().ok(), ..Rewrite::default() };
    let notes = Timeline::new(1).add(SourceSpec { rewrite, ..spec("a") }, two()).unwrap();
    assert_eq!(notes, ["a: packets keep their destination 10.0.0.1: `rewrite` has no `dst`"]);
}

#[test]
fn a_file_without_length_cannot_repeat_by_itself() {
    let error = Timeline::new(1).add(SourceSpec { repeats: true, ..spec("a") }, capture(&[(0, A, B)])).unwrap_err();
    assert_eq!(error, "`loop` needs `pps` here: all packets of the file have the same time");
}

#[test]
fn an_empty_capture_is_noted() {
    let notes = Timeline::new(1).add(SourceSpec { pace: even(5.0), ..spec("a") }, capture(&[])).unwrap();
    assert_eq!(notes, ["a: the capture holds no packet"]);
}

#[test]
fn another_source_changes_nothing_for_the_first() {
    let poisson = |name: &str| {
        let pace = Some(Pace { pps: 50.0, arrivals: Arrivals::Poisson, ramp: None, pulse: None });
        (SourceSpec { pace, repeats: true, ..spec(name) }, two())
    };
    let alone = play(vec![poisson("a")]);
    let both = play(vec![poisson("a"), poisson("b")]);
    assert_eq!(both.into_iter().filter(|event| event.1 == 0).collect::<Vec<_>>(), alone);
}
