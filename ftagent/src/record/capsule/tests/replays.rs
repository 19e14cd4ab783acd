//! What is written down decides as before.

use super::*;
use crate::{
    decide::incident::Named,
    record::{
        capsule::{
            journal::Journal,
            reader::{Ended, Journey},
            rerun::{Outcome, rerun},
            state,
        },
        tape::Decided,
    },
};

fn decided(fact: &Fact) -> Option<String> {
    let Fact::Tick(tick) = fact else { return None };
    let TickRecord { events, incidents, wanted, .. } = (**tick).clone();
    Some(serde_json::to_string(&Decided { events, incidents, wanted }).unwrap())
}

/// An incident with all that people do in its middle.
fn eventful(world: &mut World) -> Vec<Fact> {
    let mut facts = Vec::new();
    for number in 0..160 {
        let attack = (20..110).contains(&number).then_some(if number < 70 {
            Vector::NtpAmplification
        } else {
            Vector::SynFlood
        });
        let input = match number {
            40 => world.core().incidents().next_back().map(|incident| Input::Tool {
                incident: incident.id.clone(),
                named: Some(Named {
                    tool: "a tool".to_owned(),
                    pattern: "its_pattern".to_owned(),
                    share: 2.0 / 3.0,
                    samples: 31,
                    confidence: 0.1,
                }),
            }),
            45 => Some(Input::Bounds { exempt: Exempt::default(), mode: Mode::Observe }),
            52 => Some(Input::Bounds {
                exempt: Exempt {
                    flows: vec!["udp sport 123 src 80.0.0.0/8".parse().unwrap()],
                    own: vec![crate::decide::frames::HOST.into()],
                },
                mode: Mode::Enforce,
            }),
            60 => Some(Input::Reset(Some("udp_src_ntp".to_owned()))),
            90 => Some(Input::Accept(world.core().now())),
            _ => None,
        };
        facts.extend(input.map(|input| world.put(input)));
        facts.push(world.tick(attack));
    }
    facts
}

fn journal(core: &Decider, facts: &[Fact], most: u64) -> (std::path::PathBuf, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::begin(dir.path(), core, most).unwrap();
    facts.iter().for_each(|fact| journal.take(fact).unwrap());
    journal.finish().unwrap();
    (dir.path().join(super::super::member::TICKS), dir)
}

fn replayed(core: Decider, bytes: &[u8]) -> (Outcome, Ended) {
    let mut journey = Journey::new(bytes).unwrap();
    let outcome = rerun(core, &mut journey).unwrap();
    (outcome, journey.ended())
}

#[test]
fn a_core_that_was_written_down_goes_on_as_if_nothing_had_happened() {
    let mut world = World::warmed();
    let halves = [eventful(&mut world), eventful(&mut world)];
    assert!(world.core().incidents().count() > 1, "there was something to decide");
    for at in [0, 30, 65, 100, 159] {
        let mut first = World::warmed();
        let mut second = None;
        for (number, fact) in halves.iter().flatten().enumerate() {
            if number == at {
                let bytes = state::encode(&first.rerun.core).unwrap();
                let core = state::decode(bytes.as_slice()).unwrap();
                assert_eq!(state::encode(&core).unwrap(), bytes, "nothing is lost");
                second = Some(Rerun::new(*core));
            }
            match fact {
                Fact::Tick(tick) => {
                    let then = decided(fact);
                    let one = serde_json::to_string(&first.rerun.tick(tick)).unwrap();
                    assert_eq!(Some(&one), then.as_ref(), "tick {number}");
                    if let Some(second) = &mut second {
                        let other = serde_json::to_string(&second.tick(tick)).unwrap();
                        assert_eq!(Some(other), then, "tick {number}, written down at {at}");
                    }
                }
                Fact::Input(input) => {
                    first.rerun.core.put((**input).clone());
                    second.as_mut().map(|second| second.core.put((**input).clone()));
                }
                Fact::State(_) => {}
            }
        }
        let all = |core: &Decider| serde_json::to_string(&core.incidents().collect::<Vec<_>>()).unwrap();
        assert_eq!(all(&second.unwrap().core), all(world.core()));
    }
}

#[test]
fn a_journal_replays_to_the_same_decisions() {
    let mut world = World::warmed();
    let core = world.core().clone();
    let facts = eventful(&mut world);
    let (path, _dir) = journal(&core, &facts, u64::MAX);
    let bytes = std::fs::read(path).unwrap();
    let (outcome, ended) = replayed(core, &bytes);
    assert_eq!((outcome.ticks, outcome.inputs, outcome.gaps, ended), (160, 5, 0, Ended::Whole));
    assert!(outcome.decisions > 10, "{outcome:?}");
    assert_eq!(outcome.differences.len(), 0, "{:?}", outcome.differences);
    assert!(world.core().incidents().any(|incident| incident.named.is_some()), "a tool was named");
}

#[test]
fn who_decides_differently_is_shown_where() {
    let mut world = World::warmed();
    let mut core = world.core().clone();
    let facts = eventful(&mut world);
    let (path, _dir) = journal(&core, &facts, u64::MAX);
    core.set_mode(Mode::Observe);
    let (outcome, _) = replayed(core, &std::fs::read(path).unwrap());
    assert!(!outcome.is_identical());
    let first = &outcome.differences[0];
    assert!(first.tick > 20 && first.at_ms == (first.tick - 1) * 100, "{first:?}");
    assert!(first.recorded.iter().any(|line| line.contains("enforced")), "{first:?}");
}

#[test]
fn what_was_lost_is_bridged_by_the_core_after_it() {
    let mut world = World::warmed();
    let core = world.core().clone();
    let mut facts: Vec<Fact> = (0..20).map(|_| world.tick(None)).collect();
    (0..7).for_each(|_| drop(world.tick(Some(Vector::NtpAmplification))));
    facts.push(world.image(true));
    facts.extend((0..30).map(|_| world.tick(Some(Vector::NtpAmplification))));
    // One that follows from what came before is not needed.
    facts.push(world.image(false));
    facts.extend((0..5).map(|_| world.tick(None)));
    let (path, _dir) = journal(&core, &facts, u64::MAX);
    let (outcome, ended) = replayed(core, &std::fs::read(path).unwrap());
    assert_eq!((outcome.ticks, outcome.gaps, outcome.differing, ended), (55, 1, 0, Ended::Whole));
    assert!(outcome.notes[0].contains("lost"), "{:?}", outcome.notes);
}

#[test]
fn a_journal_stops_at_its_limit_and_says_so() {
    let mut world = World::warmed();
    let core = world.core().clone();
    let facts: Vec<Fact> = (0..300).map(|_| world.tick(Some(Vector::SynFlood))).collect();
    let (path, _dir) = journal(&core, &facts, 200_000);
    let bytes = std::fs::read(path).unwrap();
    assert!(bytes.len() <= 200_000, "{}", bytes.len());
    let (outcome, ended) = replayed(core, &bytes);
    assert!((10..300).contains(&outcome.ticks) && outcome.is_identical(), "{outcome:?}");
    assert!(matches!(&ended, Ended::Early(why) if why.contains("capture.journal_bytes")), "{ended:?}");
}

#[test]
fn a_journal_that_is_cut_anywhere_is_read_up_to_its_last_whole_frame() {
    let mut world = World::warmed();
    let core = world.core().clone();
    let facts: Vec<Fact> = (0..35).map(|_| world.tick(None)).collect();
    let (path, _dir) = journal(&core, &facts, u64::MAX);
    let bytes = std::fs::read(path).unwrap();
    let (mut before, mut refused) = (0, 0);
    let mut lengths = std::collections::BTreeSet::new();
    for length in 0..bytes.len() {
        let mut journey = match Journey::new(&bytes[..length]) {
            Ok(journey) => journey,
            Err(what) => {
                assert!(what.contains("cut short") || what.contains("ends without"), "{length}: {what}");
                refused += 1;
                continue;
            }
        };
        let mut ticks = 0;
        while journey.step().unwrap().is_some() {
            ticks += 1;
        }
        assert!(ticks >= before, "{length}");
        assert!(matches!(journey.ended(), Ended::Broken(_)), "{length}: {:?}", journey.ended());
        before = ticks;
        lengths.insert(ticks);
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [10, 20, 30, 35]);
    assert!(refused > 0 && refused < bytes.len());
}

#[test]
fn a_journal_with_any_byte_flipped_is_noticed() {
    let mut world = World::warmed();
    let core = world.core().clone();
    let facts: Vec<Fact> = (0..12).map(|_| world.tick(None)).collect();
    let (path, _dir) = journal(&core, &facts, u64::MAX);
    let bytes = std::fs::read(path).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut broken = bytes.clone();
        broken[at] ^= 0x41;
        let Ok(mut journey) = Journey::new(broken.as_slice()) else { continue };
        while let Ok(Some(_)) = journey.step() {}
        assert!(matches!(journey.ended(), Ended::Broken(_)), "byte {at}");
    }
}

#[test]
fn a_state_that_is_none_is_refused() {
    let core = World::new().core().clone();
    let bytes = state::encode(&core).unwrap();
    for length in (0..bytes.len()).step_by(bytes.len() / 300 + 1) {
        assert!(state::decode(&bytes[..length]).is_err(), "{length}");
    }
    let other = state::pack(&serde_json::json!({"format": "ftagent.state", "version": 99, "core": 5})).unwrap();
    let packed = zstd::encode_all(other.as_slice(), 1).unwrap();
    let error = state::decode(packed.as_slice()).unwrap_err();
    assert!(matches!(error, state::StateError::Version { found: 99 }), "{error}");
}

/// What an image costs, for who works on it: printed, never judged.
#[test]
fn an_image_is_measured() {
    let mut world = World::warmed();
    // Everything that is bounded is full: flows, the ring, clean traffic of a day.
    for round in 0..24 {
        let samples: Vec<SampleRecord> = (0..12_288u32)
            .map(|number| {
                let source = stranger(round * 12_288 + number);
                let frame = crate::decide::frames::udp(source, (40_000, 443), &number.to_be_bytes());
                let time_ns = world.ticks * TICK_NS + u64::from(number);
                sample(&Packet::decode(time_ns, &frame, frame.len(), None, false), &frame, false)
            })
            .collect();
        let tick = TickRecord { samples, ..blank(&world) };
        world.rerun.tick(&tick);
        world.ticks += if round < 12 { 40 } else { 1 };
    }
    println!("clean flows: {:?}", world.core().clean_flows());
    let core = world.core();
    let clock = std::time::Instant::now;
    let timed = |what: &str, act: &mut dyn FnMut()| {
        let best = (0..7)
            .map(|_| {
                let begun = clock();
                act();
                begun.elapsed()
            })
            .collect::<Vec<_>>();
        println!("{what}: {best:?}");
    };
    timed("clone", &mut || drop(std::hint::black_box(core.clone())));
    let mut kept: Vec<Decider> = Vec::new();
    timed("clone that is kept", &mut || kept.push(core.clone()));
    let mut other = core.clone();
    timed("clone_from", &mut || other.clone_from(core));
    let mut images = crate::record::tape::Images::default();
    timed("image in used memory", &mut || drop(images.take(core, false)));
    timed("encode", &mut || drop(state::encode(core)));
    let bytes = state::encode(core).unwrap();
    timed("decode", &mut || drop(state::decode(bytes.as_slice())));
    println!("written down: {} bytes", bytes.len());
}

fn blank(world: &World) -> TickRecord {
    TickRecord {
        now: Now { mono_ns: world.ticks * TICK_NS, unix_ms: 0 },
        elapsed_ns: TICK_NS,
        counts: Box::default(),
        samples: Vec::new(),
        outbound: None,
        host: None,
        rules: Vec::new(),
        ifaces: Vec::new(),
        events: Vec::new(),
        incidents: Vec::new(),
        wanted: None,
        slots: None,
    }
}
