//! The core behind its lock.

use std::time::Duration;

use ftagent_common::{
    reason::verdict,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};

use ftagent_common::TrafficClass;

use super::*;
use crate::{
    record::{
        capsule::{journal::Journal, member, reader::Journey, rerun::rerun},
        tape,
    },
    sense::meter::{Classes, Counted},
};

const MS: u64 = 1_000_000;

fn syn() -> SampleRecord {
    let mut data = [0; SAMPLE_BYTES];
    // An Ethernet header, IPv4 from 192.0.2.1 to 198.51.100.1, and a SYN to port 443.
    data[12..14].copy_from_slice(&[8, 0]);
    data[14..34].copy_from_slice(&[69, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    data[34..54].copy_from_slice(&[156, 64, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 80, 2, 250, 240, 0, 0, 0, 0]);
    let header = SampleHeader {
        time_ns: 0,
        wire_bytes: 60,
        stride: 1,
        captured: 60,
        slot: 0,
        class: TrafficClass::TcpSyn.index() as u8,
        verdict: verdict::DROP as u8,
        reason: 0,
        socket: 0,
        rule: 0,
        cpu: 0,
        flags: 0,
    };
    SampleRecord { header, data }
}

/// Lets a brain see ticks of 100 ms with so many SYNs each.
fn see(brain: &Brain, ticks: std::ops::Range<u64>, packets: u64) {
    let mut classes: Classes = [Counted::default(); TrafficClass::COUNT];
    classes[TrafficClass::TcpSyn.index()] = Counted { packets, bytes: packets * 60, dropped: 0 };
    for tick in ticks {
        brain.observe(Observed {
            at_ns: (tick + 1) * 100 * MS,
            unix_ms: 1_700_000_000_000 + tick as i64 * 100,
            elapsed_ns: 100 * MS,
            classes: &classes,
            samples: &[syn(); 3],
            host: None,
            ifaces: &[],
        });
    }
}

#[test]
fn samples_are_decoded_as_the_kernel_counted_them() {
    let packet = Packet::of_sample(&syn());
    assert_eq!((packet.class, packet.wire, packet.dropped), (TrafficClass::TcpSyn, 60, true));
    let ends = packet.ends.map(|(src, dst)| (src.to_string(), dst.to_string()));
    assert_eq!(ends, Some(("192.0.2.1".into(), "198.51.100.1".into())));
    assert_eq!((packet.dport, packet.ttl), (443, 64));
    let mut odd = syn();
    (odd.header.captured, odd.header.class) = (u16::MAX, u8::MAX);
    assert_eq!(Packet::of_sample(&odd).dport, 443, "a record that makes no sense is no reason to fall");
}

#[test]
fn ticks_become_baselines_and_commands_show_at_once() {
    let (brain, events) = Brain::new(decider(3, Mode::Enforce).unwrap());
    let rate = |brain: &Brain| brain.baselines().iter().find(|v| v.class == "tcp_syn").map(|view| view.baseline);
    assert_eq!(rate(&brain), None);
    see(&brain, 0..100, 40);
    let learned = rate(&brain).unwrap();
    assert!((300.0..500.0).contains(&learned), "{learned}");
    assert_eq!(brain.learning().trust_after_s, 3);
    let checkpoint = brain.export();
    brain.reset(None);
    assert_ne!(rate(&brain), Some(learned), "forgotten");
    brain.import(checkpoint.clone()).unwrap();
    assert_eq!(rate(&brain), Some(learned));
    assert!(brain.import(Checkpoint { version: Checkpoint::VERSION + 1, ..checkpoint }).is_err());
    assert_eq!(rate(&brain), Some(learned), "what cannot be used changes nothing");
    let told = brain.accept();
    assert_eq!(brain.notices().iter().rev().take(told.len()).count(), told.len());
    assert_eq!(brain.metrics().notices_total, brain.notices().len() as u64);
    let heard = events.try_iter().filter(|happened| matches!(happened, Happened::Event(..))).count();
    assert_eq!(heard as u64, brain.metrics().notices_total, "and whoever records hears of all");
}

#[test]
fn nobody_who_listens_holds_up_no_tick() {
    let (brain, events) = Brain::new(decider(1, Mode::Enforce).unwrap());
    for _ in 0..2 * PENDING {
        brain.accept();
    }
    see(&brain, 0..10, 1);
    assert_eq!(events.try_iter().count(), PENDING);
    drop(events);
    brain.accept();
    assert!(!brain.tell(Happened::Event(Event::Notice { what: String::new() }, None)));
}

#[test]
fn what_is_taped_decides_the_same_again() {
    let (brain, _events) = Brain::new(decider(3, Mode::Enforce).unwrap());
    see(&brain, 0..20, 40);
    let (writer, reader) = tape::tape(200_000);
    brain.set_tape(writer);
    let mut facts: Vec<Fact> = Vec::new();
    let mut drain = || facts.extend(std::iter::from_fn(|| reader.next(Duration::ZERO).unwrap()));
    see(&brain, 20..60, 40);
    drain();
    see(&brain, 60..100, 40);
    drain();
    see(&brain, 100..130, 4000);
    brain.set_bounds(Exempt::default(), Mode::Observe);
    see(&brain, 130..140, 4000);
    drain();
    brain.set_bounds(Exempt::default(), Mode::Enforce);
    let checkpoint = brain.export();
    brain.accept();
    see(&brain, 140..160, 9000);
    brain.reset(Some(TrafficClass::TcpSyn));
    brain.import(checkpoint).unwrap();
    see(&brain, 160..180, 9000);
    drain();
    // Nobody reads for a while, and there is no room for all of it.
    see(&brain, 180..400, 40);
    drain();
    see(&brain, 400..430, 20_000);
    drain();

    let dir = tempfile::tempdir().unwrap();
    let [Fact::State(first), rest @ ..] = facts.as_slice() else { panic!("it begins with the core") };
    let mut journal = Journal::begin(dir.path(), &first.core, u64::MAX).unwrap();
    rest.iter().for_each(|fact| journal.take(fact).unwrap());
    journal.finish().unwrap();
    let bytes = std::fs::read(dir.path().join(member::TICKS)).unwrap();
    let outcome = rerun(first.core.clone(), &mut Journey::new(bytes.as_slice()).unwrap()).unwrap();
    assert!(outcome.is_identical(), "{:?}", outcome.differences);
    assert!((190..370).contains(&outcome.ticks) && outcome.decisions > 0, "{outcome:?}");
    assert_eq!((outcome.inputs, outcome.gaps), (4, 2), "{outcome:?}");
}
