//! The outbox on disk: `log` in `<state>/outbox`, one record a line, added to and now and then written anew.
//!
//! A line is the first eight digits of its SHA-256, a space, and JSON. The last line may be cut short, where
//! the machine stopped in the middle of it; a line in between that is damaged costs itself, and a copy of the
//! file is kept for people to look at.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::Alert;
use crate::record::{audit::hex, replace, set_aside};

/// A file is not written anew before it is this long, bytes.
const LEAST: u64 = 256 << 10;

/// Something that is written down. `A` is a message, or a reference to one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record<A> {
    /// How everything was when the file was written anew; it is the first record.
    State(State),
    /// A message that waits for sinks.
    Put {
        /// Its number, counting up.
        n: u64,
        /// The message.
        alert: A,
        /// The sinks that it waits for.
        sinks: Vec<String>,
    },
    /// A message waits for a sink no more.
    Done {
        /// The message's number.
        n: u64,
        /// What came of it.
        result: Delivery,
    },
    /// Nobody is told for a while.
    Silence {
        /// The sink; empty: all.
        sink: String,
        /// From when, milliseconds since 1970.
        from_ms: i64,
        /// Until when, milliseconds since 1970; 0: no more.
        until_ms: i64,
    },
}

/// What outlives the messages that are done with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The number of the next message.
    pub next: u64,
    /// What each sink was told of that is not over.
    pub told: BTreeMap<String, BTreeSet<String>>,
    /// The latest message of each topic that is not over.
    pub open: Vec<Alert>,
    /// What became of the last messages, oldest first.
    pub history: Vec<Delivery>,
    /// From when until when nobody is told, by sink; empty: all of them.
    pub silences: BTreeMap<String, (i64, i64)>,
}

/// What came of a message at a sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The message's id.
    pub id: String,
    /// Its first line.
    pub title: String,
    /// The sink.
    pub sink: String,
    /// What came of it.
    pub how: How,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// How long it waited, milliseconds.
    pub waited_ms: i64,
    /// What the other side said.
    pub answer: String,
}

/// How a message was done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The other side has it.
    Delivered,
    /// It has it, in one with others.
    Digested,
    /// It does not take it, and never will.
    Refused,
    /// It was tried for too long.
    GivenUp,
    /// There were too many others.
    Crowded,
    /// The sink is not in the configuration any more.
    Dropped,
}

impl How {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Delivered, Self::Digested, Self::Refused, Self::GivenUp, Self::Crowded, Self::Dropped];

    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Digested => "digested",
            Self::Refused => "refused",
            Self::GivenUp => "given_up",
            Self::Crowded => "crowded",
            Self::Dropped => "dropped",
        }
    }

    /// Returns whether the other side has it.
    pub const fn arrived(self) -> bool {
        matches!(self, Self::Delivered | Self::Digested)
    }
}

/// Writes a record as a line.
///
/// # Errors
/// None in practice: records are plain data.
pub fn line<A: Serialize>(record: &Record<A>) -> io::Result<String> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{} {json}\n", sum(json.as_bytes())))
}

fn sum(json: &[u8]) -> String {
    let mut sum = hex(&Sha256::digest(json));
    sum.truncate(8);
    sum
}

fn read_line<A: DeserializeOwned>(line: &str) -> Option<Record<A>> {
    let (found, json) = line.strip_suffix('\n')?.split_once(' ')?;
    if found != sum(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// The file.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    bytes: u64,
    /// How long it was when it was last written anew.
    anew: u64,
    /// What is in it is not what ought to be.
    behind: bool,
    /// There is one.
    there: bool,
}

impl Log {
    /// Reads the file below a state directory: its records, and what is wrong with it, in words.
    pub fn open(state: &Path) -> (Self, Vec<Record<Alert>>, Option<String>) {
        let path = state.join("outbox").join("log");
        let log = Self { path, bytes: 0, anew: 0, behind: true, there: true };
        let shown = log.path.display().to_string();
        let text = match fs::read(&log.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return (Self { there: false, ..log }, Vec::new(), None);
            }
            Err(error) => {
                let told = format!("{shown} cannot be read ({error}): alerts of an earlier life are not sent");
                return (log, Vec::new(), Some(told));
            }
        };
        let (mut records, mut bad) = (Vec::new(), 0);
        let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
        while let Some(line) = lines.next() {
            match std::str::from_utf8(line).ok().and_then(read_line) {
                Some(record) => records.push(record),
                None if lines.peek().is_none() && !line.ends_with(b"\n") => {}
                None => bad += 1,
            }
        }
        let told = (bad > 0).then(|| {
            let kept = set_aside(&log.path).map_or_else(
                |error| format!("could not be set aside ({error})"),
                |aside| format!("is kept as {}", aside.display()),
            );
            format!("{shown} has {bad} lines that make no sense; it {kept}, and alerts go on with what could be read")
        });
        (log, records, told)
    }

    /// Returns whether it is to be written anew although nothing happened.
    pub const fn is_due(&self) -> bool {
        self.there && self.is_behind()
    }

    /// Returns whether it is to be written anew.
    pub const fn is_behind(&self) -> bool {
        self.behind || self.bytes > LEAST && self.bytes > 4 * self.anew
    }

    /// Returns how long it is, bytes.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds lines; they are on disk when this returns.
    ///
    /// # Errors
    /// What the file system says; the file has to be written anew then.
    pub fn append(&mut self, lines: &str) -> io::Result<()> {
        self.behind = true;
        let mut file = File::options().append(true).open(&self.path)?;
        file.write_all(lines.as_bytes())?;
        file.sync_data()?;
        self.bytes += lines.len() as u64;
        self.behind = false;
        Ok(())
    }

    /// Replaces what is in it; it is on disk when this returns.
    ///
    /// # Errors
    /// What the file system says; the old file is in place then.
    pub fn rewrite(&mut self, lines: &str) -> io::Result<()> {
        (self.behind, self.there) = (true, true);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if !dir.is_dir() {
            // Messages say what is attacked: they are for this machine's owner.
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        replace(&self.path, lines.as_bytes())?;
        self.bytes = lines.len() as u64;
        self.anew = self.bytes;
        (self.behind, self.there) = (false, true);
        Ok(())
    }
}
