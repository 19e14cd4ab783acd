//! Writes a replay down as a capsule, which replays without the captures.

use std::{
    io,
    path::{Path, PathBuf},
};

use ftagent_common::{counters::IfaceCounters, reason::verdict, sample::SampleRecord};
use tempfile::TempDir;

use super::ReplayError;
use crate::{
    decide::{Counts, Decider, Event, Now, Packet, input::Input, mitigate::RuleCount},
    record::{
        capsule::{
            export::{self, export},
            journal::Journal,
            member,
        },
        tape::{Decided, Fact, IfaceSeen, TickRecord},
    },
};

/// What a tick was given, its packets aside.
pub(super) struct Given<'a> {
    pub(super) now: Now,
    pub(super) elapsed_ns: u64,
    pub(super) counts: &'a Counts,
    pub(super) rules: &'a [RuleCount],
}

/// A capsule in the making.
pub(super) struct Scribe {
    desk: TempDir,
    out: PathBuf,
    journal: Journal,
    generation: u64,
}

impl Scribe {
    /// Begins with a core; `config` is what the replay runs on.
    pub(super) fn begin(out: &Path, core: &Decider, config: &toml::Table) -> Result<Self, ReplayError> {
        let begin = || {
            let desk = tempfile::tempdir()?;
            std::fs::write(desk.path().join(member::CONFIG), config.to_string())?;
            let journal = Journal::begin(desk.path(), core, u64::MAX)?;
            Ok((desk, journal))
        };
        let (desk, journal) = begin().map_err(|source| unwritten(out, source))?;
        let (_, generation) = core.wanted();
        Ok(Self { desk, out: out.to_owned(), journal, generation })
    }

    /// Takes in a tick with its samples, what the victim sent in it and what the program had counted at its end; and
    /// the core, with what has just happened.
    pub(super) fn tick(
        &mut self,
        given: Given<'_>,
        samples: Vec<SampleRecord>,
        outbound: Option<&[Packet]>,
        total: &IfaceCounters,
        (core, events): (&Decider, Vec<Event>),
    ) -> Result<(), ReplayError> {
        let Decided { events, incidents, wanted } = Decided::of(core, events, &mut self.generation);
        let iface = IfaceSeen {
            slot: 0,
            name: "replay".to_owned(),
            seen: total.seen(),
            dropped: total.verdicts.get(verdict::DROP as usize).copied().unwrap_or(0),
            samples_lost: 0,
            samples_capped: 0,
        };
        let tick = TickRecord {
            now: given.now,
            elapsed_ns: given.elapsed_ns,
            counts: Box::new(given.counts.clone()),
            samples,
            outbound: outbound.map(<[Packet]>::to_vec),
            host: None,
            rules: given.rules.to_vec(),
            ifaces: vec![iface],
            events,
            incidents,
            wanted,
            slots: None,
        };
        self.journal.take(&Fact::Tick(Box::new(tick))).map_err(|source| unwritten(&self.out, source))
    }

    /// Takes in what is done to the core before the next tick.
    pub(super) fn input(&mut self, input: &Input) -> Result<(), ReplayError> {
        let fact = Fact::Input(Box::new(input.clone()));
        self.journal.take(&fact).map_err(|source| unwritten(&self.out, source))
    }

    /// Writes the capsule. The incident in it is the first one; the others are among its decisions.
    pub(super) fn finish(self, core: &Decider) -> Result<(), ReplayError> {
        let Self { desk, out, journal, .. } = self;
        journal.finish().map_err(|source| unwritten(&out, source))?;
        if let Some(incident) = core.incidents().next() {
            let text = serde_json::to_vec_pretty(incident).map_err(|error| unwritten(&out, error.into()))?;
            std::fs::write(desk.path().join(member::INCIDENT), text).map_err(|source| unwritten(&out, source))?;
        }
        // Virtual time has no date: the same replay makes the same capsule.
        let options = export::Options::default();
        export(desk.path(), &out, &options).map_err(|error| unwritten(&out, io::Error::other(error)))?;
        Ok(())
    }
}

fn unwritten(path: &Path, source: io::Error) -> ReplayError {
    ReplayError::Write { path: path.to_owned(), source }
}
