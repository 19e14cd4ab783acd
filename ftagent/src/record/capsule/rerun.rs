//! Goes through a journal again, and compares what is decided now with what was decided then.

use std::io::BufRead;

use serde::Serialize;

use super::reader::{Ended, Journey, Step};
use crate::{
    decide::{Decider, Event, Packet, Tick, mitigate::Wanted},
    record::tape::{Decided, TickRecord},
};

/// Differences that are kept.
const KEPT: usize = 16;

/// What came of going through it again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Ticks.
    pub ticks: u64,
    /// What was decided in them: events, and sets of rules.
    pub decisions: u64,
    /// What somebody did to the core between them.
    pub inputs: u64,
    /// Places where facts were missing, and the core was taken as it was found after them.
    pub gaps: u64,
    /// Ticks in which something else is decided now.
    pub differing: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// What is to be known of the journal.
    pub notes: Vec<String>,
}

/// A tick in which something else is decided now.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The number of the tick, from 1.
    pub tick: u64,
    /// When it ended, milliseconds after the first one.
    pub at_ms: u64,
    /// The same, milliseconds since 1970.
    pub unix_ms: i64,
    /// What was decided then and is not now.
    pub recorded: Vec<String>,
    /// What is decided now and was not then.
    pub decided: Vec<String>,
}

/// A core that goes through ticks again.
#[derive(Debug)]
pub struct Rerun {
    /// The core.
    pub core: Decider,
    generation: u64,
    packets: Vec<Packet>,
}

impl Rerun {
    /// Begins with a core.
    pub fn new(core: Decider) -> Self {
        let (_, generation) = core.wanted();
        Self { core, generation, packets: Vec::new() }
    }

    /// Goes through a tick, and returns what is decided now.
    pub fn tick(&mut self, tick: &TickRecord) -> Decided {
        Packet::of_samples(&tick.samples, &mut self.packets);
        let events = self.core.on_tick(&Tick {
            now: tick.now,
            elapsed_ns: tick.elapsed_ns,
            counts: &tick.counts,
            samples: &self.packets,
            outbound: tick.outbound.as_deref(),
            host: tick.host.as_ref(),
            rules: &tick.rules,
        });
        Decided::of(&self.core, events, &mut self.generation)
    }
}

/// Goes through a journal from a core.
///
/// # Errors
/// Where what is written in it makes no sense, in words.
pub fn rerun<R: BufRead>(core: Decider, journey: &mut Journey<R>) -> Result<Outcome, String> {
    let mut rerun = Rerun::new(core);
    let mut outcome = Outcome::default();
    let mut first_ns = None;
    while let Some(step) = journey.step()? {
        match step {
            Step::Input(input) => {
                outcome.inputs += 1;
                rerun.core.put(*input);
            }
            Step::Missed(Ok(core)) => {
                outcome.gaps += 1;
                rerun = Rerun::new(*core);
            }
            Step::Missed(Err(error)) => {
                outcome.gaps += 1;
                outcome.notes.push(format!("it goes on over facts that had been lost: {error}"));
            }
            Step::Tick(tick) => {
                outcome.ticks += 1;
                let first_ns = *first_ns.get_or_insert(tick.now.mono_ns);
                let now = rerun.tick(&tick);
                let (wanted, _) = rerun.core.wanted();
                outcome.compare(&tick, &now, wanted, first_ns);
            }
        }
    }
    match journey.ended() {
        Ended::Whole => {}
        Ended::Early(why) => outcome.notes.push(format!("the journal ended before its incident: {why}")),
        Ended::Broken(what) => outcome.notes.push(format!("the journal is read up to its last whole frame: {what}")),
    }
    if outcome.gaps > 0 {
        outcome.notes.push(format!(
            "{} times facts had been lost when it was written; it goes on from the core as it was after them",
            outcome.gaps
        ));
    }
    Ok(outcome)
}

impl Outcome {
    /// Returns whether the same was decided.
    pub fn is_identical(&self) -> bool {
        self.differing == 0
    }

    fn compare(&mut self, tick: &TickRecord, now: &Decided, wanted: &[Wanted], first_ns: u64) {
        let then = Decided {
            events: tick.events.clone(),
            incidents: tick.incidents.clone(),
            // A record may tell again what is wanted, where nothing has changed.
            wanted: tick.wanted.clone().filter(|then| now.wanted.is_some() || then != wanted),
        };
        self.decisions += (then.events.len() + usize::from(then.wanted.is_some())) as u64;
        let (recorded, decided) = (lines(&then), lines(now));
        if recorded == decided {
            return;
        }
        self.differing += 1;
        if self.differences.len() < KEPT {
            let without = |list: &[String], other: &[String]| {
                list.iter().filter(|line| !other.contains(line)).cloned().collect::<Vec<_>>()
            };
            self.differences.push(Difference {
                tick: self.ticks,
                at_ms: tick.now.mono_ns.saturating_sub(first_ns) / 1_000_000,
                unix_ms: tick.now.unix_ms,
                recorded: without(&recorded, &decided),
                decided: without(&decided, &recorded),
            });
        }
    }
}

/// What was decided, as canonical JSON, a line for each thing.
fn lines(decided: &Decided) -> Vec<String> {
    let Decided { events, incidents, wanted } = decided;
    let mut lines: Vec<String> = events.iter().map(|event: &Event| json("event", event)).collect();
    lines.extend(incidents.iter().map(|incident| json("incident", incident)));
    if let Some(wanted) = wanted {
        lines.push(format!("wanted: {} rules", wanted.len()));
        lines.extend(wanted.iter().map(|wanted| json("wanted", wanted)));
    }
    lines
}

fn json<T: Serialize>(what: &str, value: &T) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| format!("({error})"));
    format!("{what}: {text}")
}
