//! A copy elsewhere: what was recorded of an incident that is over goes to S3-compatible storage, file by
//! file, large ones in parts. What is copied is written down, so that neither a restart nor a line that
//! breaks begins anew.

mod s3;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use tracing::{info, warn};

pub use self::s3::{LEAST_PART, Progress, RemoteError, Store};
use super::{
    audit::{AuditLog, Entry},
    recorder::lives,
    replace,
};
use crate::config::Remote as Settings;

/// The file in an incident's directory that says what is copied.
pub const STATE: &str = "remote.json";
/// The file that is copied last: where it is, all is.
pub const LAST: &str = "meta.json";
/// Time between two looks at what there is to copy.
const EVERY: Duration = Duration::from_secs(60);
/// After a failure, twice as long each time, up to this.
const LONGEST: Duration = Duration::from_secs(3600);

/// How copying goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Directories that wait to be copied.
    pub waiting: usize,
    /// Directories copied since the start.
    pub copied: u64,
    /// Why copying does not work at present.
    pub trouble: Option<String>,
}

/// The thread that copies.
#[derive(Clone, Debug)]
pub struct Remote {
    status: Arc<Mutex<Status>>,
    bell: SyncSender<()>,
}

/// What is ready to be copied; decided by whoever knows the files.
pub type Ready = Box<dyn Fn(&Path) -> bool + Send>;

impl Remote {
    /// Copies what is in the directories below `captures` from now on, those for which `ready` says so, and has each
    /// copy in the audit log.
    /// The thread ends with the process; what it was doing goes on with the next.
    ///
    /// # Errors
    /// Where the thread cannot be started.
    pub fn spawn(settings: Settings, captures: PathBuf, ready: Ready, log: AuditLog) -> io::Result<Self> {
        let (bell, rung) = sync_channel(1);
        let remote = Self { status: Arc::default(), bell };
        let status = Arc::clone(&remote.status);
        thread::Builder::new()
            .name("remote".into())
            .spawn(move || Copier { settings, captures, ready, log, status, rung }.run())?;
        Ok(remote)
    }

    /// Says that there may be something to copy.
    pub fn look(&self) {
        // A bell that has been rung is enough.
        let _rung = self.bell.try_send(());
    }

    /// Returns how copying goes.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Copier {
    settings: Settings,
    captures: PathBuf,
    ready: Ready,
    log: AuditLog,
    status: Arc<Mutex<Status>>,
    rung: Receiver<()>,
}

impl Copier {
    fn run(self) {
        let mut wait = EVERY;
        loop {
            let result = self.round();
            let trouble = result.as_ref().err().map(|error| crate::chain(error));
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(trouble) = trouble.as_ref().filter(|_| status.trouble.is_none()) {
                warn!(%trouble, "What was recorded cannot be copied; it stays here, and is tried again.");
            } else if trouble.is_none() && status.trouble.is_some() {
                info!("What was recorded is copied again.");
            }
            wait = if trouble.is_some() { (wait * 2).min(LONGEST) } else { EVERY };
            status.trouble = trouble;
            drop(status);
            // Who asks in trouble has to wait as well: a store that is down is not to be hammered.
            if result.is_err() {
                thread::sleep(wait);
            } else if let Err(std::sync::mpsc::RecvTimeoutError::Disconnected) = self.rung.recv_timeout(wait) {
                return;
            }
        }
    }

    /// Copies everything that is ready, oldest first.
    fn round(&self) -> Result<(), RemoteError> {
        let mut waiting = waiting(&self.captures, &self.ready);
        waiting.sort();
        self.set_waiting(waiting.len());
        if waiting.is_empty() {
            return Ok(());
        }
        let store = Store::open(&self.settings)?;
        for (done, dir) in waiting.iter().enumerate() {
            copy_dir(&store, dir)?;
            info!(directory = %dir.display(), bucket = %self.settings.bucket, "What was recorded was copied.");
            let Settings { bucket, prefix, .. } = &self.settings;
            let id = dir.file_name().unwrap_or_default().to_string_lossy();
            self.log.after(Entry::new("capture.copy", id).now(json!({ "bucket": bucket, "prefix": prefix })));
            self.status.lock().unwrap_or_else(PoisonError::into_inner).copied += 1;
            self.set_waiting(waiting.len() - done - 1);
        }
        Ok(())
    }

    fn set_waiting(&self, waiting: usize) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).waiting = waiting;
    }
}

/// Returns the directories that are to be copied and are not yet.
fn waiting(captures: &Path, ready: &Ready) -> Vec<PathBuf> {
    let dirs = fs::read_dir(captures).into_iter().flatten().flatten().map(|entry| entry.path());
    dirs.filter(|dir| dir.is_dir() && ready(dir) && !is_copied(dir)).collect()
}

/// Returns whether all of a directory is copied, as it is now: an incident that a restart interrupted goes on in the
/// same files.
pub fn is_copied(dir: &Path) -> bool {
    let (all, Ok(names)) = (read(dir), files(dir)) else { return false };
    let is = |name: &String| all.get(name).is_some_and(|progress| progress.done && is_of(progress, &dir.join(name)));
    names.iter().any(|name| name == LAST) && names.iter().all(is)
}

/// Copies the files of a directory, those of earlier lives of the daemon too; [`LAST`] last.
///
/// # Errors
/// See [`RemoteError`]; what is copied is written down.
pub fn copy_dir(store: &Store, dir: &Path) -> Result<(), RemoteError> {
    let names = files(dir).map_err(|source| RemoteError::File { path: dir.to_owned(), source })?;
    let id = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = read(dir);
    for name in names {
        let path = dir.join(&name);
        let mut progress = all.get(&name).cloned().unwrap_or_default();
        if !is_of(&progress, &path) {
            // No file is so long: what there is of another content is given up.
            progress.bytes = u64::MAX;
        }
        // As it is before it is read: what changes meanwhile is copied again.
        let changed_ns = stamp(&path).map_or(0, |(_, changed_ns)| changed_ns);
        let mut save = |progress: &Progress| {
            all.insert(name.clone(), Progress { changed_ns, ..progress.clone() });
            replace(&dir.join(STATE), &serde_json::to_vec(&all)?)
        };
        store.copy(&format!("{id}/{name}"), &path, &mut progress, &mut save)?;
    }
    Ok(())
}

/// Returns the names of the files that are copied, [`LAST`] last. Names that are not UTF-8, links, and directories but
/// those of earlier lives are not ours.
fn files(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = plain(dir)?;
    for life in lives::list(dir).into_iter().map(lives::name) {
        names.extend(plain(&dir.join(&life))?.into_iter().map(|name| format!("{life}/{name}")));
    }
    names.retain(|name| name != STATE);
    names.sort_by_key(|name| (name == LAST, name.clone()));
    Ok(names)
}

fn plain(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        let name = entry.file_name().into_string().ok();
        names.extend(name.filter(|name| is_file && !name.starts_with('.')));
    }
    Ok(names)
}

/// Returns whether progress is that of a file as it is now. A mark of an older version says nothing of the time.
fn is_of(progress: &Progress, path: &Path) -> bool {
    let same_time = |changed_ns| progress.changed_ns == 0 || progress.changed_ns == changed_ns;
    stamp(path).is_some_and(|(bytes, changed_ns)| progress.bytes == bytes && same_time(changed_ns))
}

/// Returns a file's length, and when it was changed last: nanoseconds since 1970.
fn stamp(path: &Path) -> Option<(u64, i64)> {
    let facts = fs::symlink_metadata(path).ok()?;
    Some((facts.len(), facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec())))
}

/// Reads what is copied; what cannot be read is copied anew.
fn read(dir: &Path) -> BTreeMap<String, Progress> {
    fs::read(dir.join(STATE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}
