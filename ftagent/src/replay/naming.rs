//! Compares the samples of incidents with patterns, as the daemon's recorder does: the same ones each time, so that a
//! replay is the same on every machine.

use std::sync::Arc;

use ftagent_common::sample::SampleRecord;

use crate::{
    decide::{Decider, Incident, Now, input::Input},
    record::ioc::{Extraction, Library, Namer},
};

/// What is known of the open incident's packets.
pub(super) struct Naming {
    library: Arc<Library>,
    current: Option<Current>,
}

struct Current {
    incident: String,
    extraction: Extraction,
    namer: Namer,
    /// The generation of rules that it knows.
    rules: Option<u64>,
}

impl Naming {
    /// Compares with the patterns that are part of the program.
    pub(super) fn new() -> Self {
        Self { library: Arc::new(Library::shipped()), current: None }
    }

    /// Takes in a tick that was decided; returns what there is to say to the core.
    pub(super) fn tick(&mut self, decider: &Decider, samples: &[SampleRecord], now: Now) -> Option<Input> {
        let incident = decider.incidents().next_back().filter(|incident| incident.is_open());
        let Some(incident) = incident else {
            self.current = None;
            return None;
        };
        if self.current.as_ref().is_none_or(|current| current.incident != incident.id) {
            self.current = Some(Current::new(&self.library, incident));
        }
        let Current { extraction, namer, rules, .. } = self.current.as_mut()?;
        let (wanted, generation) = decider.wanted();
        if *rules != Some(generation) {
            extraction.follow(wanted);
            *rules = Some(generation);
        }
        extraction.take_samples(samples, now.unix_ms);
        namer.look(extraction, &incident.id, now.mono_ns)
    }
}

impl Current {
    fn new(library: &Arc<Library>, incident: &Incident) -> Self {
        let mut extraction = Extraction::new(Arc::clone(library));
        extraction.begin(incident);
        Self { incident: incident.id.clone(), extraction, namer: Namer::default(), rules: None }
    }
}
