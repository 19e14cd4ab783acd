//! `meta.json`: what is in a capture's directory, and what is not.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{config::Payload, decide::Incident, record::replace};

/// The version of the directory's format.
pub const FORMAT: u32 = 1;
/// The file's name.
pub const META: &str = "meta.json";
/// The capture's.
pub const CAPTURE: &str = "capture.pcapng.zst";
/// What keeps a capture from being removed.
pub const HOLD: &str = "hold.json";

/// What a capture is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An incident.
    #[default]
    Incident,
    /// What an operator asked for.
    Manual,
}

/// Whether it is finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It is being written.
    #[default]
    Open,
    /// It is complete.
    Closed,
    /// The daemon ended before it did.
    Interrupted,
}

impl Status {
    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What is known of a capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// See [`FORMAT`].
    pub format: u32,
    /// The incident's id, or the capture's name.
    pub id: String,
    /// What it is of.
    pub kind: Kind,
    /// Whether it is finished.
    pub status: Status,
    /// The vector of an incident.
    pub vector: Option<String>,
    /// What packets had to match, of an operator's capture.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// Who asked for it.
    pub by: Option<String>,
    /// When it was begun, milliseconds since 1970.
    pub begun_ms: i64,
    /// When it was finished.
    pub ended_ms: Option<i64>,
    /// The first and the last packet, nanoseconds since 1970, UTC.
    pub first_ns: Option<u64>,
    /// See [`Self::first_ns`].
    pub last_ns: Option<u64>,
    /// What of a packet was kept.
    pub payload: Payload,
    /// Packets that the kernel counted from the first recorded tick to the last.
    pub seen: u64,
    /// Samples that came of them, and of these those that matched.
    pub sampled: u64,
    /// Packets in the file.
    pub written: u64,
    /// What is not, and why.
    pub lost: Lost,
    /// Packets that were cut to their headers because there was little room.
    pub cut: u64,
    /// By class. `unknown` has what ticks counted that are not here: those that were lost on the way, and those in which
    /// the machine was suspended. The sum is that of [`Self::seen`].
    pub classes: BTreeMap<String, ClassCounts>,
    /// Packets in the file by verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// Packets in the file by the reason of their drop.
    pub reasons: BTreeMap<String, u64>,
    /// By interface.
    pub interfaces: Vec<InterfaceCounts>,
    /// The files of the directory but this one.
    pub files: Vec<FileFacts>,
    /// It is not to be removed.
    pub held: bool,
    /// What the operator should know.
    pub notes: Vec<String>,
    /// The incident, as it was last.
    pub incident: Option<Incident>,
}

/// Why packets that were counted are not in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// The sampler did not draw them.
    pub not_sampled: u64,
    /// Samples that the kernel had no room for, or that the cap forbade.
    pub kernel: u64,
    /// Samples that the recorder was too slow for.
    pub tape: u64,
    /// Samples that were left out because the file was nearly full.
    pub quota: u64,
    /// Samples that the disk did not take.
    pub disk: u64,
    /// Samples that did not match what an operator asked for.
    pub unmatched: u64,
}

impl Lost {
    /// Adds another one.
    pub const fn add(&mut self, other: &Self) {
        self.not_sampled += other.not_sampled;
        self.kernel += other.kernel;
        self.tape += other.tape;
        self.quota += other.quota;
        self.disk += other.disk;
        self.unmatched += other.unmatched;
    }

    /// Says it in words.
    pub fn words(&self) -> String {
        let Self { not_sampled, kernel, tape, quota, disk, unmatched } = self;
        format!("not_sampled={not_sampled} kernel={kernel} tape={tape} quota={quota} disk={disk} unmatched={unmatched}")
    }
}

/// What was counted of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassCounts {
    /// Packets that the kernel counted.
    pub seen: u64,
    /// Of these, dropped.
    pub dropped: u64,
    /// Samples.
    pub sampled: u64,
    /// In the file.
    pub written: u64,
    /// Samples that are not, for want of room.
    pub left_out: u64,
}

/// What was counted of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceCounts {
    /// Its name.
    pub name: String,
    /// Packets that came in.
    pub seen: u64,
    /// In the file.
    pub written: u64,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

impl Meta {
    /// Returns the packets that are not in the file.
    pub fn lost_total(&self) -> u64 {
        self.seen.saturating_sub(self.written)
    }

    /// Adds what an earlier life of the daemon counted of the same incident.
    pub fn add(&mut self, earlier: &Self) {
        self.begun_ms = earlier.begun_ms;
        self.first_ns = earlier.first_ns.or(self.first_ns);
        self.last_ns = self.last_ns.or(earlier.last_ns);
        self.seen += earlier.seen;
        self.sampled += earlier.sampled;
        self.written += earlier.written;
        self.cut += earlier.cut;
        self.lost.add(&earlier.lost);
        for (class, counts) in &earlier.classes {
            let ours = self.classes.entry(class.clone()).or_default();
            ours.seen += counts.seen;
            ours.dropped += counts.dropped;
            ours.sampled += counts.sampled;
            ours.written += counts.written;
            ours.left_out += counts.left_out;
        }
        for (ours, theirs) in [(&mut self.verdicts, &earlier.verdicts), (&mut self.reasons, &earlier.reasons)] {
            theirs.iter().for_each(|(name, count)| *ours.entry(name.clone()).or_default() += count);
        }
        for theirs in &earlier.interfaces {
            match self.interfaces.iter_mut().find(|ours| ours.name == theirs.name) {
                Some(ours) => {
                    ours.seen += theirs.seen;
                    ours.written += theirs.written;
                }
                None => self.interfaces.push(theirs.clone()),
            }
        }
        self.notes.splice(0..0, earlier.notes.iter().cloned());
    }

    /// Writes it, or leaves the last one.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        replace(&dir.join(META), &text)
    }
}
