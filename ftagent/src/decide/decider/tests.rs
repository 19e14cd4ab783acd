#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
//! The core as a whole: what it does while it knows nothing, and for one address among many.

use std::net::Ipv4Addr;

use super::*;
use crate::decide::{
    Counts, Packet, Vector,
    classify::tests::shapes,
    frames::{Dice, HOST, decoded, ip_at, udp_bytes},
};

const TICK_NS: u64 = 100_000_000;

struct World {
    decider: Decider,
    dice: Dice,
    ticks: u64,
}

impl World {
    fn new(trust_after_s: u64) -> Self {
        Self {
            decider: Decider::new(Settings { trust_after_s, seed: 5, mode: crate::decide::mitigate::Mode::Enforce }),
            dice: Dice(5),
            ticks: 0,
        }
    }

    /// Lets a tick pass; each inbound frame stands for `each` packets.
    fn tick(&mut self, frames: &[(bool, Vec<u8>)], each: u64) -> Vec<Event> {
        let begin = self.ticks * TICK_NS;
        self.ticks += 1;
        let gap = TICK_NS / (frames.len() as u64 + 1);
        let (mut counts, mut samples, mut outbound) = (Counts::default(), Vec::<Packet>::new(), Vec::new());
        for (number, (inbound, frame)) in frames.iter().enumerate() {
            let packet = decoded(begin + gap * (number as u64 + 1), frame);
            if *inbound {
                let count = &mut counts.classes[packet.class.index()];
                (count.packets, count.bytes) = (count.packets + each, count.bytes + each * frame.len() as u64);
                samples.push(packet);
            } else {
                outbound.push(packet);
            }
        }
        let mono_ns = self.ticks * TICK_NS;
        let now = Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 };
        let outbound = Some(outbound.as_slice());
        self.decider.on_tick(&Tick {
            now,
            elapsed_ns: TICK_NS,
            counts: &counts,
            samples: &samples,
            outbound,
            host: None,
            rules: &[],
        })
    }

    /// A flood of handshakes that go no further: suspicious at once, sure only against a baseline.
    fn tls_flood(&mut self, ticks: u64) {
        let found = shapes::attacks().into_iter().find(|(vector, _)| *vector == Vector::TlsFlood);
        let (_, make) = found.expect("there is a shape of it");
        for _ in 0..ticks {
            let frames = make(&mut self.dice, self.ticks);
            self.tick(&frames, 1);
        }
    }

    fn silence(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick(&[], 1);
        }
    }

    fn incidents(&self) -> Vec<&Incident> {
        self.decider.incidents().collect()
    }
}

#[test]
fn what_is_suspicious_from_the_start_is_acted_on_once_the_node_is_known() {
    let mut world = World::new(10);
    world.tls_flood(90);
    assert_eq!(world.incidents().len(), 0, "nothing is known yet");
    assert_eq!(world.decider.learning().state, "new");
    world.tls_flood(40);
    assert_eq!(world.decider.learning().state, "learning", "suspicion does not keep it from being known");
    let incidents = world.incidents();
    assert_eq!(incidents.len(), 1);
    assert_eq!(incidents[0].vectors, [Vector::TlsFlood], "{:?}", incidents[0].findings);
    let learned = world.decider.baselines().into_iter().find(|view| view.class == "tls_client_hello");
    assert!(learned.is_some_and(|view| view.baseline == 0.0), "it is not taken for normal");
}

#[test]
fn what_is_suspicious_and_ends_before_the_node_is_known_is_named_then() {
    let mut world = World::new(600);
    world.tls_flood(60);
    assert_eq!(world.incidents().len(), 0);
    world.silence(40);
    let incidents = world.incidents();
    assert_eq!(incidents.len(), 1);
    assert_eq!((incidents[0].vector, incidents[0].is_open()), (Vector::TlsFlood, false));
    assert!(incidents[0].began.mono_ns <= 2_000_000_000, "{:?}", incidents[0]);
    assert_eq!(incidents[0].timeline[0].at, incidents[0].began);
    assert!(incidents[0].peak_pps > 100.0);
}

/// Conversations of many addresses behind a router, and a flood at one that is otherwise quiet.
fn behind_a_router(dice: &mut Dice, tick: u64, flooded: bool) -> Vec<(bool, Vec<u8>)> {
    let [a, b, c, _] = HOST.octets();
    let mut frames = Vec::new();
    for host in 100..140u8 {
        let (inside, outside) = (Ipv4Addr::new(a, b, c, host), Ipv4Addr::new(203, 0, 113, host));
        for number in 0..4u64 {
            let payload = [&(tick * 4 + number).to_be_bytes()[..], &[7; 60]].concat();
            frames.push((true, ip_at(outside, inside, 17, [0; 4], &udp_bytes((30_000, 20_000), &payload))));
        }
        frames.push((false, ip_at(inside, outside, 17, [0; 4], &udp_bytes((20_000, 30_000), &[7; 68]))));
    }
    if flooded {
        let victim = Ipv4Addr::new(a, b, c, 77);
        for _ in 0..16 {
            let ports = (dice.port(), dice.port());
            frames.push((true, ip_at(dice.anyone(), victim, 17, [0; 4], &udp_bytes(ports, &[b'x'; 68]))));
        }
    }
    frames
}

#[test]
fn a_flood_at_one_of_many_addresses_is_an_incident_until_it_ends_there() {
    let mut world = World::new(30);
    // 160 samples a tick that stand for 160 000 packets a second; the flood is 16 000 on top.
    let run = |world: &mut World, ticks: u64, flooded: bool| {
        for _ in 0..ticks {
            let frames = behind_a_router(&mut world.dice, world.ticks, flooded);
            world.tick(&frames, 100);
        }
    };
    run(&mut world, 900, false);
    assert_eq!(world.incidents().len(), 0, "normal load of many addresses");
    run(&mut world, 250, true);
    let incidents = world.incidents();
    assert_eq!(incidents.len(), 1);
    let incident = incidents[0];
    assert!(incident.is_open(), "it lasts as long as the flood: {:?}", incident.timeline);
    assert_eq!(incident.vectors, [Vector::UdpFlood]);
    let shown = &incident.findings[0].evidence.top_destinations;
    assert_eq!(shown.len(), 1);
    assert_eq!((shown[0].value.as_str(), shown[0].share), ("198.51.100.77/32", 1.0));
    assert!((8_000.0..32_000.0).contains(&incident.pps), "the rate at that address: {}", incident.pps);
    run(&mut world, 150, false);
    let incidents = world.incidents();
    assert_eq!(incidents.len(), 1);
    assert!(!incidents[0].is_open());
}

#[test]
fn what_goes_on_is_told_a_few_times_a_day_and_when_it_has_grown() {
    // Judged every second for three days; packets a second by the hour; notices, at most and at least.
    type Row = (&'static str, fn(u64) -> f64, std::ops::RangeInclusive<usize>);
    let rows: [Row; 4] = [
        ("steady", |_| 1000.0, 9..=10),
        ("up and down every hour", |hour| if hour % 2 == 0 { 500.0 } else { 4000.0 }, 9..=16),
        ("twice as much every day", |hour| 1000.0 * f64::powf(2.0, hour as f64 / 24.0), 9..=12),
        ("a thousand times as much within hours", |hour| 100.0 * f64::powi(2.0, hour.min(10) as i32), 15..=20),
    ];
    for (name, pps, wanted) in rows {
        let mut told = Told::default();
        let lines: Vec<String> =
            (0..3 * 86_400).filter_map(|second| told.due(second * 1_000_000_000, pps(second / 3600))).collect();
        assert!(wanted.contains(&lines.len()), "{name}: {lines:?}");
        assert!(lines[0].is_empty() && lines[1..].iter().all(|line| line.contains("when this was last told")));
    }
}
