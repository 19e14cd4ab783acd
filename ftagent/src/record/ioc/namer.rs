//! Says which tool an incident's packets are of, while it goes on.

use super::Extraction;
use crate::decide::{incident::Named, input::Input};

/// Fewer samples say nothing yet: of thirty, three fifths are a good part of all by no accident.
const LEAST_SAMPLES: u64 = 30;
/// What was said stands while the pattern matches at least this part of the packets: less than what it takes to be
/// said, so that a share between the two does not change it to and fro.
const STANDS: f64 = 0.5;
/// It is said again, with what is known by then, when there are so many times the samples.
const GROWN: u64 = 10;
/// Time between two looks, nanoseconds.
const PAUSE_NS: u64 = 1_000_000_000;

/// What was said last of one incident.
#[derive(Debug, Default)]
pub struct Namer {
    said: Option<Named>,
    due_ns: u64,
}

impl Namer {
    /// Returns what there is to say of an incident, where that is new. `now_ns` is the end of a tick.
    pub fn look(&mut self, extraction: &Extraction, incident: &str, now_ns: u64) -> Option<Input> {
        let samples = extraction.samples();
        if now_ns < self.due_ns || samples < LEAST_SAMPLES {
            return None;
        }
        self.due_ns = now_ns.saturating_add(PAUSE_NS);
        let found = extraction.tool().map(|tool| Named {
            tool: tool.name,
            pattern: tool.pattern,
            share: tool.share,
            samples,
            confidence: tool.confidence,
        });
        let is_new = match (&self.said, &found) {
            (Some(said), Some(found)) => said.pattern != found.pattern || samples >= said.samples.saturating_mul(GROWN),
            (Some(said), None) => extraction.share_of(&said.pattern) < STANDS,
            (None, found) => found.is_some(),
        };
        if !is_new {
            return None;
        }
        self.said.clone_from(&found);
        Some(Input::Tool { incident: incident.to_owned(), named: found })
    }
}
