//! Collects indicators beside the capture of an incident.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};

use super::{Extraction, Library, Looked, Namer, Watched, save};
use crate::{
    bpf::captures::Captured,
    decide::{Incident, input::Input},
    record::{recorder::Companion, tape::Fact},
};

/// The library, for whoever begins to collect: the files are looked at whenever that is.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Mutex<Watched>>);

impl Shelf {
    /// Reads the files; what is broken is logged, and the rest is in force.
    pub fn open(paths: &[PathBuf]) -> Self {
        let (watched, problems) = Watched::open(paths);
        for problem in problems {
            warn!(%problem, "A pattern cannot be used; `ftagent ioc check` shows all problems of a file.");
        }
        Self(Arc::new(Mutex::new(watched)))
    }

    /// Returns the latest library that can be used.
    pub fn library(&self) -> Arc<Library> {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match watched.look() {
            Looked::Same => {}
            Looked::New(library) => info!(patterns = library.patterns().len(), "Patterns were read again."),
            Looked::Broken(problems) => {
                for problem in problems {
                    warn!(%problem, "Patterns changed and cannot be used; those before stay in force.");
                }
            }
        }
        Arc::clone(watched.library())
    }
}

/// Takes to the core what patterns say of its incident.
pub type Teller = Arc<dyn Fn(Input) + Send + Sync>;

/// Collects, and writes `indicators.json` at the end; says on the way which tool is at work.
pub struct Collector {
    extraction: Extraction,
    dir: PathBuf,
    incident: String,
    namer: Namer,
    teller: Teller,
}

impl Collector {
    /// Compares with this library.
    pub fn new(library: Arc<Library>, teller: Teller) -> Self {
        let extraction = Extraction::new(library);
        Self { extraction, dir: PathBuf::new(), incident: String::new(), namer: Namer::default(), teller }
    }
}

impl Companion for Collector {
    fn begin(&mut self, dir: &Path, incident: &Incident, pre_roll: &[Arc<Fact>]) {
        dir.clone_into(&mut self.dir);
        incident.id.clone_into(&mut self.incident);
        self.extraction.begin(incident);
        let began_ns = incident.began.mono_ns;
        // What was before the attack began is not of it.
        for fact in pre_roll {
            if let Fact::Tick(tick) = fact.as_ref()
                && tick.now.mono_ns >= began_ns
            {
                self.extraction.take(tick);
            }
        }
    }

    fn take(&mut self, fact: &Fact) {
        let Fact::Tick(tick) = fact else { return };
        self.extraction.take(tick);
        if let Some(input) = self.namer.look(&self.extraction, &self.incident, tick.now.mono_ns) {
            (self.teller)(input);
        }
    }

    fn hello(&mut self, captured: &Captured) {
        self.extraction.hello(captured);
    }

    fn hits(&self) -> Vec<(String, u64)> {
        // Names of operators' own patterns are one.
        self.extraction.hits().map(|(name, samples)| (name.to_owned(), samples)).collect()
    }

    fn finish(&mut self, incident: &Incident) -> io::Result<()> {
        save(&self.dir, &self.extraction.report(incident))
    }
}
