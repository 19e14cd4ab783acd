//! Block lists from files: read when they change, compared with what was accepted last, held
//! where they change too much.
//!
//! Entries are not kept in memory, unless the disk does not take them. The accepted version of each feed is a copy in
//! the state directory, from which [`Feeds::build`] makes the set for the kernel, and against which the next version is
//! compared, also after a restart.

mod parse;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use parse::{Entries, KEPT_PROBLEMS, Line, LineProblem, MAX_ENTRIES, Report, line, read};

use crate::{
    bpf::lists::FeedSet,
    config::{Config, FeedFile},
    sense::host::Guard,
};
use store::Store;

/// The `origin` of the first feed's entries in the kernel; the next feed's is one more. Lower
/// numbers are left to other origins.
pub const FIRST_ORIGIN: u32 = 16;

/// Feeds with fewer entries change as they like.
const HOLD_FROM: usize = 10;

/// The feeds of a configuration.
#[derive(Debug)]
pub struct Feeds {
    store: Store,
    feeds: Vec<Feed>,
}

#[derive(Debug)]
struct Feed {
    file: FeedFile,
    stamp: Option<Stamp>,
    status: FeedStatus,
}

/// What tells a file from its next version. The change time is there because the modification
/// time is as coarse as a jiffy, and can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// How a feed stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedState {
    /// Not looked at yet.
    New,
    /// What is in force is what the file says.
    Accepted,
    /// The file changed by more than half; what is in force is the version before.
    Held,
    /// The file is gone; what is in force is its last accepted version.
    Missing,
    /// The file cannot be read or has no valid line; as above.
    Failed,
}

/// A feed, for `ftagent status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedStatus {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// How it stands.
    pub state: FeedState,
    /// Prefixes in force.
    pub entries: usize,
    /// The version that waits for confirmation.
    pub held: Option<Change>,
    /// Why it failed.
    pub error: Option<String>,
    /// How the last reading went.
    pub report: Report,
}

impl FeedStatus {
    /// Returns how it stands in words, with why.
    pub fn state_text(&self) -> String {
        match (self.state, &self.held, &self.error) {
            (FeedState::New, ..) => "not looked at yet".to_owned(),
            (FeedState::Accepted, ..) => {
                self.report.note().map_or("in force".to_owned(), |note| format!("in force; {note}"))
            }
            (FeedState::Held, Some(change), _) => format!(
                "HELD: the file has {} entries, {} added and {} removed; the version before is in force",
                change.entries, change.added, change.removed
            ),
            (FeedState::Held, None, _) => "HELD".to_owned(),
            (FeedState::Missing, ..) => "the file is gone; its last version is in force".to_owned(),
            (FeedState::Failed, _, Some(error)) => format!("failed: {error}; its last version is in force"),
            (FeedState::Failed, _, None) => "failed; its last version is in force".to_owned(),
        }
    }
}

/// How a version differs from the accepted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Prefixes of the new version.
    pub entries: usize,
    /// Prefixes that the accepted version does not have.
    pub added: usize,
    /// Prefixes that the new version does not have.
    pub removed: usize,
}

/// What a look at the files found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FeedEvent {
    /// The feed.
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: FeedEventKind,
}

/// What happened to a feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FeedEventKind {
    /// A version was read and accepted. Where nothing was added or removed, the kernel's lists
    /// stand.
    Accepted {
        /// How it differs from the version before.
        change: Change,
        /// Which lines gave no entry.
        report: Report,
    },
    /// A version waits for [`Feeds::confirm`]; the one before stays in force.
    Held {
        /// How it differs from the accepted version.
        change: Change,
        /// Which lines gave no entry.
        report: Report,
    },
    /// The file is gone; the last accepted version stays in force.
    Missing,
    /// The file cannot be used; the last accepted version stays in force.
    Failed {
        /// Why, and what to do.
        error: String,
    },
}

impl FeedEvent {
    /// Returns whether the set has to be built and published again.
    pub fn changes_set(&self) -> bool {
        matches!(&self.kind, FeedEventKind::Accepted { change, .. } if change.added + change.removed > 0)
    }
}

/// Why a version was not confirmed.
#[derive(Debug, Error)]
pub enum ConfirmError {
    /// There is no such feed.
    #[error("there is no feed named `{name}`; the feeds are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// No version waits.
    #[error("feed `{0}` has no version that waits for confirmation")]
    NotHeld(String),
    /// What was held cannot be read any more.
    #[error("feed `{name}`: {source}; look at the disk of `paths.state`")]
    Io {
        /// The feed.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl Feeds {
    /// Takes the feeds of a configuration. Copies of feeds that are not in it are removed.
    pub fn new(config: &Config, state_dir: &Path) -> Self {
        let mut feeds = Self { store: Store::new(state_dir), feeds: Vec::new() };
        feeds.reload(config);
        feeds
    }

    /// Takes those of another configuration.
    pub fn reload(&mut self, config: &Config) {
        let names: Vec<&str> = config.feeds.iter().map(|feed| feed.name.as_str()).collect();
        self.store.keep_only(&names);
        self.feeds = config.feeds.iter().map(|file| Feed::new(file.clone())).collect();
    }

    /// Tries again to write what the disk has not taken yet.
    pub fn save(&mut self) {
        self.store.save();
    }

    /// Returns which feeds are in memory alone, in words.
    pub fn unsaved(&self) -> Option<String> {
        self.store.unsaved()
    }

    /// Looks at every file and reads those that changed. What is accepted is on disk when this returns, or
    /// [`Self::unsaved`] says why not; [`Self::build`] makes a set of it.
    pub fn poll(&mut self, guard: &Guard) -> Vec<FeedEvent> {
        let event = |feed: &mut Feed| {
            let kind = feed.look(&mut self.store, guard)?;
            feed.note(&kind);
            Some(FeedEvent { name: feed.file.name.clone(), kind })
        };
        self.feeds.iter_mut().filter_map(event).collect()
    }

    /// Returns whether [`Self::poll`] would find something to do. Only asks the file system.
    pub fn any_file_changed(&self) -> bool {
        self.feeds.iter().any(|feed| match std::fs::metadata(&feed.file.path) {
            Ok(metadata) => feed.stamp != Some(Stamp::of(&metadata)),
            Err(_) => !matches!(feed.status.state, FeedState::Missing | FeedState::Failed),
        })
    }

    /// Accepts the version of a feed that is held: exactly the one that was reported.
    ///
    /// # Errors
    /// See [`ConfirmError`].
    pub fn confirm(&mut self, name: &str) -> Result<Change, ConfirmError> {
        let known = self.feeds.iter().map(|feed| feed.file.name.as_str()).collect::<Vec<_>>().join(", ");
        let Some(feed) = self.feeds.iter_mut().find(|feed| feed.file.name == name) else {
            return Err(ConfirmError::Unknown { name: name.to_owned(), known });
        };
        let change = feed.status.held.ok_or_else(|| ConfirmError::NotHeld(name.to_owned()))?;
        self.store.accept_held(name).map_err(|source| ConfirmError::Io { name: name.to_owned(), source })?;
        feed.status.held = None;
        feed.status.entries = change.entries;
        if feed.status.state == FeedState::Held {
            feed.status.state = FeedState::Accepted;
        }
        Ok(change)
    }

    /// Returns how every feed stands, in the order of the configuration.
    pub fn status(&self) -> impl Iterator<Item = &FeedStatus> {
        self.feeds.iter().map(|feed| &feed.status)
    }

    /// Reads the accepted versions into a set for the kernel; feed `i` has the origin
    /// [`FIRST_ORIGIN`]` + i`. The guard is asked again: this host may have a new address since.
    ///
    /// # Errors
    /// Where a copy that exists cannot be read.
    pub fn build(&self, guard: &Guard) -> io::Result<FeedSet> {
        let mut set = FeedSet::default();
        for (feed, origin) in self.feeds.iter().zip(FIRST_ORIGIN..) {
            let Some((entries, _)) = self.store.accepted(&feed.file.name, Some(guard))? else { continue };
            set.v4.reserve(entries.v4.len());
            set.v6.reserve(entries.v6.len());
            set.v4.extend(entries.v4.into_iter().map(|key| (key, origin)));
            set.v6.extend(entries.v6.into_iter().map(|key| (key, origin)));
        }
        Ok(set)
    }

    /// Returns the name of the feed that entries with this origin came from.
    pub fn name_of(&self, origin: u32) -> Option<&str> {
        let index = origin.checked_sub(FIRST_ORIGIN)? as usize;
        Some(self.feeds.get(index)?.file.name.as_str())
    }
}

impl Feed {
    fn new(file: FeedFile) -> Self {
        let status = FeedStatus {
            name: file.name.clone(),
            path: file.path.clone(),
            state: FeedState::New,
            entries: 0,
            held: None,
            error: None,
            report: Report::default(),
        };
        Self { file, stamp: None, status }
    }

    /// Looks at the file; `None` where nothing happened.
    fn look(&mut self, store: &mut Store, guard: &Guard) -> Option<FeedEventKind> {
        if self.status.state == FeedState::New {
            self.status.entries = store.count(&self.file.name).unwrap_or(0);
        }
        let stamp = match std::fs::metadata(&self.file.path) {
            Ok(metadata) => Stamp::of(&metadata),
            Err(error) => {
                self.stamp = None;
                return self.unreadable(&error);
            }
        };
        if self.stamp == Some(stamp) {
            return None;
        }
        match self.load(store, guard, stamp) {
            Ok(kind) => {
                // Where it changed while it was read, the next look reads it again.
                self.stamp = kind.is_some().then_some(stamp);
                kind
            }
            Err(error) => {
                self.stamp = None;
                self.unreadable(&error)
            }
        }
    }

    /// Tells of an error once, not at every look.
    fn unreadable(&self, error: &io::Error) -> Option<FeedEventKind> {
        if error.kind() == io::ErrorKind::NotFound {
            return (self.status.state != FeedState::Missing).then_some(FeedEventKind::Missing);
        }
        let error = format!("{}: {error}", self.file.path.display());
        (self.status.error.as_ref() != Some(&error)).then_some(FeedEventKind::Failed { error })
    }

    /// Reads the file and decides; `None` where it changed meanwhile.
    fn load(&self, store: &mut Store, guard: &Guard, stamp: Stamp) -> io::Result<Option<FeedEventKind>> {
        let file = File::open(&self.file.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        let mut input = BufReader::with_capacity(1 << 16, file);
        let (entries, report) = parse::read(&mut input, Some(guard))?;
        if Stamp::of(&input.get_ref().metadata()?) != stamp {
            return Ok(None);
        }
        if entries.is_empty() && report.broken > 0 {
            let first = report.problems.first().map(|problem| format!("line {} {}", problem.line, problem.reason));
            let error = format!(
                "{}: no line is an address or prefix ({}); mend the file, or empty it to empty the feed",
                self.file.path.display(),
                first.unwrap_or_default()
            );
            return Ok(Some(FeedEventKind::Failed { error }));
        }
        let old = store.accepted(&self.file.name, None).map_err(in_store)?.map(|(old, _)| old);
        let (added, removed) = old.as_ref().map_or((entries.len(), 0), |old| entries.changes_since(old));
        let change = Change { entries: entries.len(), added, removed };
        if old.is_some_and(|old| must_hold(old.len(), change)) {
            store.hold(&self.file.name, &entries);
            return Ok(Some(FeedEventKind::Held { change, report }));
        }
        store.accept(&self.file.name, (added + removed > 0).then_some(&entries));
        Ok(Some(FeedEventKind::Accepted { change, report }))
    }

    /// Brings the status up to what happened.
    fn note(&mut self, kind: &FeedEventKind) {
        let status = &mut self.status;
        status.error = None;
        match kind {
            FeedEventKind::Accepted { change, report } => {
                status.state = FeedState::Accepted;
                status.entries = change.entries;
                status.held = None;
                status.report = report.clone();
            }
            FeedEventKind::Held { change, report } => {
                status.state = FeedState::Held;
                status.held = Some(*change);
                status.report = report.clone();
            }
            FeedEventKind::Missing => status.state = FeedState::Missing,
            FeedEventKind::Failed { error } => {
                status.state = FeedState::Failed;
                status.error = Some(error.clone());
            }
        }
    }
}

/// Tells an error of the state directory from one of the file.
fn in_store(error: io::Error) -> io::Error {
    io::Error::other(format!("the accepted copy in the state directory: {error}; mend `paths.state` or make room"))
}

/// Returns whether a version changes so much that somebody has to confirm it: a list that halves
/// was probably cut short, one that doubles may drop customers.
fn must_hold(old: usize, change: Change) -> bool {
    old >= HOLD_FROM && 2 * (change.added + change.removed) > old
}
