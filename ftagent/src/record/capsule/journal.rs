//! Writes what reaches the core while it reaches it.
//!
//! A journal is frames of Zstandard, one after the other, each with its checksum: whoever reads it after a
//! crash reads it up to the last whole one. In a frame stand messages, each behind its length.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    member,
    row::{Bytes, End, Head, Message, TickRow},
    start::Start,
    state,
};
use crate::{
    decide::{Decider, Incident},
    record::{recorder::Companion, replace, tape::Fact},
};

/// A frame ends when it has so many bytes …
const FRAME_BYTES: usize = 256 << 10;
/// … or so many ticks: what a crash may cost.
const FRAME_TICKS: usize = 10;
/// Room that is kept for the words with which a journal ends.
const END_BYTES: u64 = 4096;

/// A journal that is being written.
pub struct Journal {
    file: File,
    compressor: Compressor<'static>,
    raw: Vec<u8>,
    ticks: usize,
    written: u64,
    most: u64,
    /// Nothing is added any more.
    full: bool,
}

impl Journal {
    /// Begins a journal of at most so many bytes in an incident's directory, from a core; writes what the core is,
    /// too.
    ///
    /// # Errors
    /// What the file system says.
    pub fn begin(dir: &Path, core: &Decider, most: u64) -> io::Result<Self> {
        write_core(dir, core)?;
        Self::open(dir, most)
    }

    /// Begins a journal in an incident's directory; what the core is is written by somebody else.
    fn open(dir: &Path, most: u64) -> io::Result<Self> {
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(true).mode(0o600).open(dir.join(member::TICKS))?;
        Self::new(file, most)
    }

    /// Begins a journal in a file.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(file: File, most: u64) -> io::Result<Self> {
        let mut compressor = Compressor::new(state::LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        let mut journal = Self { file, compressor, raw: Vec::new(), ticks: 0, written: 0, most, full: false };
        journal.add(&Message::Head(Head::present()))?;
        Ok(journal)
    }

    /// Adds a fact.
    ///
    /// # Errors
    /// What the file system says.
    pub fn take(&mut self, fact: &Fact) -> io::Result<()> {
        if self.full {
            return Ok(());
        }
        match fact {
            Fact::Tick(tick) => {
                self.ticks += 1;
                self.add(&Message::Tick(Box::new(TickRow::of(tick))))?;
            }
            Fact::Input(input) => self.add(&Message::Input(input.clone()))?,
            Fact::State(image) if image.breaks => self.add(&Message::Missed(Bytes(state::encode(&image.core)?)))?,
            // Whoever begins at the beginning knows it.
            Fact::State(_) => {}
        }
        if self.raw.len() >= FRAME_BYTES || self.ticks >= FRAME_TICKS { self.end_frame() } else { Ok(()) }
    }

    /// Adds a message to the present frame.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn add(&mut self, message: &Message) -> io::Result<()> {
        let bytes = state::pack(message)?;
        self.raw.extend((bytes.len() as u32).to_le_bytes());
        self.raw.extend(bytes);
        Ok(())
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let frame = self.compressor.compress(&self.raw)?;
        self.raw.clear();
        self.ticks = 0;
        if self.written + frame.len() as u64 + END_BYTES > self.most {
            let why = format!("it had grown to {} bytes (capture.journal_bytes)", self.most);
            return self.stop(Some(why));
        }
        self.put(&frame)
    }

    fn put(&mut self, frame: &[u8]) -> io::Result<()> {
        self.written += frame.len() as u64;
        self.file.write_all(frame)
    }

    fn stop(&mut self, why: Option<String>) -> io::Result<()> {
        self.full = true;
        self.raw.clear();
        self.add(&Message::End(End { why }))?;
        let frame = self.compressor.compress(&self.raw)?;
        self.put(&frame)
    }

    /// Ends it; it is on the disk when this returns.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(mut self) -> io::Result<()> {
        if !self.full {
            self.end_frame()?;
        }
        if !self.full {
            self.stop(None)?;
        }
        self.file.sync_all()
    }
}

/// Writes what a core is.
fn write_core(dir: &Path, core: &Decider) -> io::Result<()> {
    replace(&dir.join(member::STATE), &state::encode(core)?)?;
    replace(&dir.join(member::BASELINE), &serde_json::to_vec_pretty(&Start::of(core))?)
}

/// Keeps a journal of each incident.
pub struct Chronicler {
    most: u64,
    config: String,
    /// The incident's directory.
    dir: Option<PathBuf>,
    journal: Option<Journal>,
    /// Writes what the core was: that takes tenths of a second, in which nobody would read the tape.
    core: Option<JoinHandle<io::Result<()>>>,
    trouble: Option<io::Error>,
}

impl Chronicler {
    /// Writes journals of at most so many bytes; `config` is the configuration without its secrets, as TOML.
    pub fn new(journal_bytes: u64, config: String) -> Self {
        Self { most: journal_bytes, config, dir: None, journal: None, core: None, trouble: None }
    }

    fn try_begin(&mut self, dir: &Path, incident: &Incident, preroll: &[Arc<Fact>]) -> io::Result<()> {
        replace(&dir.join(member::CONFIG), self.config.as_bytes())?;
        replace(&dir.join(member::INCIDENT), &serde_json::to_vec_pretty(incident)?)?;
        let mut facts = preroll.iter().map(Arc::as_ref);
        let image = facts.find_map(|fact| if let Fact::State(image) = fact { Some(image) } else { None });
        let image = image.ok_or_else(|| io::Error::other("there is no image of the core to begin from"))?;
        let (image, place) = (Arc::clone(image), dir.to_owned());
        let write = move || write_core(&place, &image.core);
        self.core = Some(thread::Builder::new().name("capsule".into()).spawn(write)?);
        let mut journal = Journal::open(dir, self.most)?;
        for fact in facts {
            journal.take(fact)?;
        }
        // What was before the incident is on the disk, whatever comes.
        journal.end_frame()?;
        self.journal = Some(journal);
        Ok(())
    }
}

impl Companion for Chronicler {
    fn begin(&mut self, dir: &Path, incident: &Incident, preroll: &[Arc<Fact>]) {
        self.journal = None;
        self.trouble = self.try_begin(dir, incident, preroll).err();
        self.dir = Some(dir.to_owned());
    }

    fn take(&mut self, fact: &Fact) {
        let Some(journal) = &mut self.journal else { return };
        if let Err(error) = journal.take(fact) {
            // What is on the disk stays; half a frame more would be of no use.
            self.journal = None;
            self.trouble.get_or_insert(error);
        }
    }

    fn finish(&mut self, incident: &Incident) -> io::Result<()> {
        let dir = self.dir.take();
        let ended = self.journal.take().map_or(Ok(()), Journal::finish);
        if let Some(Err(error)) = self.core.take().and_then(|core| core.join().ok()) {
            self.trouble.get_or_insert(error);
        }
        if let Some(dir) = dir {
            replace(&dir.join(member::INCIDENT), &serde_json::to_vec_pretty(incident)?)?;
        }
        self.trouble.take().map_or(ended, Err)
    }
}
