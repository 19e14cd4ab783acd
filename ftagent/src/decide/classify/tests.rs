//! Every vector, and what must not be taken for one, from packets made by the definitions.

pub(crate) mod shapes;
mod tools;

use std::collections::BTreeMap;

use ftagent_common::TrafficClass;
use proptest::prelude::*;

use super::{Finding, Judgement};
use crate::decide::{
    Counts, Excess, Metric, Now, Packet, Tick, Vector,
    analyst::{Analyst, Question},
    baseline::no_business,
    frames::{Dice, HOST, decoded, ip, ip_at, member, udp, udp_bytes},
};

const TICK_NS: u64 = 100_000_000;
/// What is normal of every class, packets a second.
const NORMAL: f64 = 20.0;

/// A direction and a frame: true is inbound.
type Frames = Vec<(bool, Vec<u8>)>;

struct World {
    analyst: Analyst,
    now_ns: u64,
    trusted: bool,
    /// Packets and bytes by class since the excess began, and when it did.
    seen: BTreeMap<TrafficClass, (u64, u64, u64)>,
}

impl World {
    /// A host that has been up for a while.
    fn new(trusted: bool) -> Self {
        let mut world = Self { analyst: Analyst::new(3), now_ns: 0, trusted, seen: BTreeMap::new() };
        if trusted {
            world.now_ns = 60_000_000_000;
            world.tick(&Frames::new());
        }
        world
    }

    fn tick(&mut self, frames: &Frames) -> Judgement {
        let (begin, mut counts) = (self.now_ns, Box::<Counts>::default());
        self.now_ns += TICK_NS;
        let gap = TICK_NS / (frames.len() as u64 + 1);
        let (mut samples, mut outbound) = (Vec::new(), Vec::new());
        for (number, (inbound, frame)) in frames.iter().enumerate() {
            let packet = decoded(begin + gap * (number as u64 + 1), frame);
            if !inbound {
                outbound.push(packet);
                continue;
            }
            let count = &mut counts.classes[packet.class.index()];
            (count.packets, count.bytes) = (count.packets + 1, count.bytes + frame.len() as u64);
            let seen = self.seen.entry(packet.class).or_insert((0, 0, begin));
            (seen.0, seen.1) = (seen.0 + 1, seen.1 + frame.len() as u64);
            samples.push(packet);
        }
        self.observe(&counts, &samples, &outbound);
        let excess = self.excess();
        self.analyst.judge(&Question { now_ns: self.now_ns, excess: &excess, trusted: self.trusted, only: None })
    }

    fn observe(&mut self, counts: &Counts, samples: &[Packet], outbound: &[Packet]) {
        let now = Now { mono_ns: self.now_ns, unix_ms: 0 };
        let outbound = Some(outbound);
        self.analyst.observe(&Tick { now, elapsed_ns: TICK_NS, counts, samples, outbound, host: None, rules: &[] });
    }

    fn excess(&self) -> Vec<Excess> {
        let above = |(class, (packets, bytes, since_ns)): (&TrafficClass, &(u64, u64, u64))| {
            let seconds = (self.now_ns - since_ns) as f64 / 1e9;
            let pps = *packets as f64 / seconds;
            let floor = if no_business(*class) { 100.0 } else { 200.0 };
            (pps >= floor).then_some(Excess {
                class: *class,
                metric: Metric::Pps,
                since_ns: *since_ns,
                packets: *packets,
                bytes: *bytes,
                pps,
                bps: *bytes as f64 * 8.0 / seconds,
                baseline: NORMAL,
                spread: 5.0,
                threshold: floor,
                baseline_pps: NORMAL,
                trusted: self.trusted,
            })
        };
        self.seen.iter().filter_map(above).collect()
    }
}

/// Sends a shape for some ticks; returns the findings of the last judgement that has any, or the last.
fn judged(make: fn(&mut Dice, u64) -> Frames, trusted: bool) -> Judgement {
    let (mut world, mut dice) = (World::new(trusted), Dice(11));
    let mut last = Judgement::default();
    for number in 0..20 {
        last = world.tick(&make(&mut dice, number));
    }
    last
}

fn sure(judgement: &Judgement, bar: f64) -> Vec<&Finding> {
    judgement.findings.iter().filter(|finding| finding.confidence >= bar).collect()
}

#[test]
fn every_vector_is_named_and_nothing_else() {
    for (vector, make) in shapes::attacks() {
        let judgement = judged(make, true);
        let names: Vec<_> = sure(&judgement, 0.5).iter().map(|finding| finding.vector).collect();
        assert_eq!(names, [vector], "{}: {judgement:?}", vector.as_str());
        let evidence = &sure(&judgement, 0.5)[0].evidence;
        assert!(evidence.line.contains("pps") && evidence.samples > 0 && !evidence.classes.is_empty(), "{evidence:?}");
    }
}

#[test]
fn every_vector_has_a_shape() {
    let shown: Vec<_> = shapes::attacks().into_iter().map(|(vector, _)| vector).collect();
    // Named by what other findings have in common; see the tests below.
    let composed = [Vector::CarpetBombing, Vector::MultiVector];
    for vector in Vector::ALL.iter().filter(|vector| !composed.contains(vector)) {
        assert!(shown.contains(vector), "{} has no shape", vector.as_str());
    }
}

#[test]
fn ordinary_load_is_ordinary_learned_and_cold() {
    for (name, make) in shapes::ordinary() {
        for (trusted, bar) in [(true, 0.5), (false, 0.9)] {
            let judgement = judged(make, trusted);
            let found = sure(&judgement, bar);
            assert!(found.is_empty(), "{name}, trusted {trusted}: {found:?}");
        }
    }
}

#[test]
fn a_flood_over_a_prefix_is_carpet_bombing_of_its_kind() {
    let judgement = judged(shapes::carpet, true);
    let names: Vec<_> = sure(&judgement, 0.5).iter().map(|finding| finding.vector).collect();
    assert_eq!(names, [Vector::CarpetBombing, Vector::UdpFlood]);
}

#[test]
fn two_floods_at_once_are_two_findings() {
    let judgement = judged(
        |dice, number| {
            let attack = |wanted| {
                let found = shapes::attacks().into_iter().find(|(vector, _)| *vector == wanted);
                found.map(|(_, make)| make).expect("every vector has a shape")
            };
            let mut frames = attack(Vector::SynFlood)(dice, number);
            frames.extend(attack(Vector::NtpAmplification)(dice, number));
            frames
        },
        true,
    );
    let mut names: Vec<_> = sure(&judgement, 0.5).iter().map(|finding| finding.vector).collect();
    names.sort();
    assert_eq!(names, [Vector::SynFlood, Vector::NtpAmplification]);
}

/// An answer to a closed port, of one host.
fn unreachables(count: u64) -> Frames {
    let message = [&[3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17][..], &[7; 18]].concat();
    (0..count).map(|_| (true, ip(member(1), 1, &message))).collect()
}

#[test]
fn unreachables_of_those_who_send_far_more_are_no_vector() {
    let named = |with_its_cause: bool| {
        let mut world = World::new(true);
        let mut last = Judgement::default();
        for _ in 0..20 {
            let mut frames = unreachables(60);
            for port in (20_000..20_200).filter(|_| with_its_cause) {
                // A conversation by its looks: what else it is does not matter here.
                frames.push((true, udp(member(1), (port, 9955), b"")));
                frames.push((false, ip_at(HOST, member(1), 17, [0; 4], &udp_bytes((9955, port), b"answer"))));
            }
            last = world.tick(&frames);
        }
        sure(&last, 0.5).iter().any(|finding| finding.vector == Vector::IcmpUnreachableFlood)
    };
    assert!(named(false), "by themselves they are");
    assert!(!named(true));
}

#[test]
fn a_crowd_is_waited_for_longer_than_a_stranger_who_begins_hundreds_of_connections() {
    // As stacks send them, with options, and not completed.
    let ticks_until_sure = |sources: u64| {
        let (mut world, mut dice) = (World::new(true), Dice(7));
        (1..20).find(|_| {
            let syn = |dice: &mut Dice| {
                let mut segment = [&dice.port().to_be_bytes()[..], &[0, 80]].concat();
                segment.extend((dice.next() as u32).to_be_bytes());
                segment.extend([0, 0, 0, 0, 0x80, 2, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2]);
                (true, ip(member(dice.below(sources)), 6, &segment))
            };
            let frames: Frames = (0..200).map(|_| syn(&mut dice)).collect();
            !sure(&world.tick(&frames), 0.5).is_empty()
        })
    };
    assert_eq!((ticks_until_sure(1), ticks_until_sure(150)), (Some(2), Some(4)));
}

#[test]
fn slow_requests_need_no_rate() {
    let (mut world, mut dice) = (World::new(true), Dice(5));
    let clients: Vec<_> = (0..120).map(|number| shapes::slow_client(&mut dice, number)).collect();
    for number in 0..80 {
        let frames: Frames = clients.iter().filter_map(|pieces| pieces.get(number)).flatten().cloned().collect();
        world.tick(&frames);
    }
    let judgement = world.analyst.standing(world.now_ns);
    let names: Vec<_> = judgement.findings.iter().map(|finding| finding.vector).collect();
    assert_eq!(names, [Vector::SlowHttp]);
    assert!(judgement.findings[0].evidence.line.contains("port 80"), "{judgement:?}");
}

#[test]
fn what_cannot_be_known_is_absent() {
    let (mut world, mut dice) = (World::new(true), Dice(1));
    let make = shapes::attacks()[0].1;
    let judgement = (0..5).map(|number| world.tick(&make(&mut dice, number))).last().expect("five ticks");
    let evidence = &judgement.findings[0].evidence;
    assert_eq!(evidence.seen_before, None, "nobody could become known");
    assert!(evidence.line.contains("unavailable"), "{}", evidence.line);
    assert!(evidence.handshakes_completed.is_some_and(|share| share < 0.05));
    assert_eq!(evidence.handshakes_normal, None, "no handshake was ever seen");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_packets_are_judged_within_bounds(seed: u64, kinds in prop::collection::vec(0..40usize, 1..6), trusted: bool) {
        let (mut world, mut dice) = (World::new(trusted), Dice(seed));
        let attacks = shapes::attacks();
        for number in 0..6 {
            let mut frames = Frames::new();
            for kind in &kinds {
                frames.extend((attacks[kind % attacks.len()].1)(&mut dice, number));
            }
            // Bytes turned over at random: broken headers of all kinds.
            for (_, frame) in &mut frames {
                let at = dice.below(frame.len() as u64) as usize;
                frame[at] ^= dice.next() as u8;
            }
            let judgement = world.tick(&frames);
            for finding in &judgement.findings {
                prop_assert!((0.0..=1.0).contains(&finding.confidence), "{finding:?}");
                let evidence = &finding.evidence;
                let shares = evidence.top_sources.iter().chain(&evidence.source_ports).chain(&evidence.lengths);
                prop_assert!(shares.map(|share| share.share).all(|share| (0.0..=1.0001).contains(&share)));
                prop_assert!((0.0..=1.0).contains(&evidence.source_entropy));
            }
        }
        world.analyst.standing(world.now_ns);
    }
}
