//! The thread that writes, and the handle by which others reach it.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{error, info, warn};

use super::{
    AuditError,
    chain::Chain,
    dir,
    entry::{Entry, Stamped},
};
use crate::config::{Audit, OnAuditFailure};

/// Entries on their way to the thread, at most.
const QUEUE: usize = 8192;
/// Entries that wait for a disk that does not take them, at most.
const BACKLOG: usize = 16_384;
/// Entries that are brought to the disk together, at most.
const BATCH: usize = 4096;
/// How long an operator's act waits for the disk.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an end waits for it.
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// Time to the next try after one that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Looks at the clock happen this often although nothing does.
const IDLE: Duration = Duration::from_secs(600);

/// The way into the log. Copies of it lead to the same log.
#[derive(Clone, Debug, Default)]
pub struct AuditLog(Option<Arc<Handle>>);

#[derive(Debug)]
struct Handle {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    on_failure: OnAuditFailure,
    dir: PathBuf,
}

/// How the log is.
#[derive(Debug, Default)]
struct Shared {
    entries: AtomicU64,
    lost: AtomicU64,
    /// Those of the lost that the log does not know of yet.
    undeclared: AtomicU64,
    failures: AtomicU64,
    /// Times that the disk was done with what it was given.
    answers: AtomicU64,
    /// What that was, plus one, when somebody last waited for it in vain: nobody else does until it goes on.
    awaited: AtomicU64,
    unsigned: AtomicU64,
    seq: AtomicU64,
    words: Mutex<Words>,
}

#[derive(Clone, Debug, Default)]
struct Words {
    trouble: Option<String>,
    /// What was found at the start.
    found: Option<String>,
    key: String,
    not_append_only: Option<String>,
}

/// What `ftagent status` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// The number of the last line.
    pub seq: u64,
    /// Lines at the end that no checkpoint covers yet.
    pub unsigned: u64,
    /// Entries that were lost since the start, because the disk did not take them.
    pub lost: u64,
    /// The name of the key.
    pub key: String,
    /// Why its files are not append-only, where they are meant to be and are not.
    pub not_append_only: Option<String>,
    /// What does not work.
    pub trouble: Option<String>,
    /// What an earlier life left that was not in order.
    pub found: Option<String>,
}

/// What metrics show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditMetrics {
    /// Entries written since the start.
    pub entries: u64,
    /// Entries lost since the start.
    pub lost: u64,
    /// Lines that no checkpoint covers yet.
    pub unsigned: u64,
    /// Times that the log could not be written.
    pub failures: u64,
}

/// What the thread is told.
#[derive(Debug)]
enum Message {
    Entry(Box<Stamped>, Option<SyncSender<Result<(), String>>>),
    Stop(SyncSender<()>),
}

impl AuditLog {
    /// Starts the thread that writes `<state>/audit`. `prepare` runs on it first, to give up what the thread
    /// does not need. Where nothing is to be logged there is no thread.
    ///
    /// # Errors
    /// Where the thread cannot be started. A disk that is no use is no error: see [`Self::status`].
    pub fn start(state: &Path, rules: &Audit, prepare: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        if !rules.enabled {
            return Ok(Self::default());
        }
        let (queue, messages) = sync_channel(QUEUE);
        let (shared, dir, on_failure) = (Arc::new(Shared::default()), dir(state), rules.on_failure);
        let writer = Writer {
            dir: dir.clone(),
            rules: rules.clone(),
            chain: None,
            messages,
            backlog: VecDeque::new(),
            shared: Arc::clone(&shared),
            trouble: None,
            retry: None,
        };
        thread::Builder::new().name("audit".into()).spawn(move || {
            prepare();
            writer.run();
        })?;
        Ok(Self(Some(Arc::new(Handle { queue, shared, on_failure, dir }))))
    }

    /// Returns where the log is; `None` where nothing is logged.
    pub fn dir(&self) -> Option<&Path> {
        self.0.as_deref().map(|handle| handle.dir.as_path())
    }

    /// Logs what is about to be done, and waits until it is on disk: three seconds at most, and not at all while the
    /// disk owes an answer for which somebody has waited so long.
    ///
    /// # Errors
    /// Where it is not on disk and `audit.on_failure` is `refuse`: it must not be done then. With `act` it
    /// may, and `status` warns.
    pub fn before(&self, entry: Entry) -> Result<(), String> {
        let Some(handle) = &self.0 else { return Ok(()) };
        let Err(why) = handle.before(entry) else { return Ok(()) };
        match handle.on_failure {
            OnAuditFailure::Act => Ok(()),
            OnAuditFailure::Refuse => Err(format!(
                "this cannot be written to the audit log ({why}), and `audit.on_failure` is \"refuse\": look at the disk of \
                 `paths.state`"
            )),
        }
    }

    /// Logs what has been done. It never waits: where there is no room the entry is lost, and the log says
    /// so later.
    pub fn after(&self, entry: Entry) {
        let Some(handle) = &self.0 else { return };
        let message = Message::Entry(Box::new(Stamped::new(entry, true)), None);
        if handle.queue.try_send(message).is_err() {
            handle.shared.lose(1);
        }
    }

    /// Says that so many entries could not even be made.
    pub fn lose(&self, entries: u64) {
        if let Some(handle) = self.0.as_ref().filter(|_| entries > 0) {
            handle.shared.lose(entries);
        }
    }

    /// Returns how the log is; `None` where nothing is logged.
    pub fn status(&self) -> Option<AuditStatus> {
        let shared = &self.0.as_ref()?.shared;
        let Words { trouble, found, key, not_append_only } =
            shared.words.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(AuditStatus {
            seq: shared.seq.load(Ordering::Relaxed),
            unsigned: shared.unsigned.load(Ordering::Relaxed),
            lost: shared.lost.load(Ordering::Relaxed),
            key,
            not_append_only,
            trouble,
            found,
        })
    }

    /// Returns what metrics show; `None` where nothing is logged.
    pub fn metrics(&self) -> Option<AuditMetrics> {
        let shared = &self.0.as_ref()?.shared;
        Some(AuditMetrics {
            entries: shared.entries.load(Ordering::Relaxed),
            lost: shared.lost.load(Ordering::Relaxed),
            unsigned: shared.unsigned.load(Ordering::Relaxed),
            failures: shared.failures.load(Ordering::Relaxed),
        })
    }

    /// Signs what is there and ends the thread; gives up on a disk that hangs. What is logged afterwards
    /// is lost.
    pub fn stop(&self) {
        let Some(handle) = &self.0 else { return };
        let (done, wait) = sync_channel(1);
        if !handle.send(Message::Stop(done), LAST_PATIENCE) || wait.recv_timeout(LAST_PATIENCE).is_err() {
            warn!("The audit log could not be finished in time; what it lacks is lost.");
        }
    }
}

impl Handle {
    fn before(&self, entry: Entry) -> Result<(), String> {
        let (ack, wait) = sync_channel(1);
        let awaited = self.shared.answers.load(Ordering::Relaxed) + 1;
        let hangs = self.shared.awaited.load(Ordering::Relaxed) == awaited;
        let patience = if hangs { Duration::ZERO } else { PATIENCE };
        if !self.send(Message::Entry(Box::new(Stamped::new(entry, false)), Some(ack)), patience) {
            self.shared.lose(1);
            return Err("too much waits for the disk already".to_owned());
        }
        wait.recv_timeout(patience).unwrap_or_else(|_| {
            self.shared.awaited.store(awaited, Ordering::Relaxed);
            Err(format!("the disk has not answered for {} s", PATIENCE.as_secs()))
        })
    }

    /// Puts a message in the queue, and waits for a place where there is none.
    fn send(&self, mut message: Message, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            message = match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(same)) => same,
            };
            if begun.elapsed() >= patience {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Shared {
    fn lose(&self, entries: u64) {
        self.lost.fetch_add(entries, Ordering::Relaxed);
        self.undeclared.fetch_add(entries, Ordering::Relaxed);
    }

    fn say(&self, change: impl FnOnce(&mut Words)) {
        change(&mut self.words.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// An entry that is not on disk, and who waits for it.
#[derive(Debug)]
struct Pending {
    stamped: Box<Stamped>,
    ack: Option<SyncSender<Result<(), String>>>,
}

impl Pending {
    fn tell(&mut self, result: Result<(), String>) {
        if let Some(ack) = self.ack.take() {
            // Who waited may have given up.
            let _gone = ack.try_send(result);
        }
    }
}

#[derive(Debug)]
struct Writer {
    dir: PathBuf,
    rules: Audit,
    /// Absent until the directory can be used.
    chain: Option<Chain>,
    messages: Receiver<Message>,
    backlog: VecDeque<Pending>,
    shared: Arc<Shared>,
    /// What does not work, and since when.
    trouble: Option<(String, Instant)>,
    retry: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        let mut stop = None;
        self.turn();
        loop {
            let wait = match (self.retry, self.chain.as_ref().and_then(Chain::due_in)) {
                (Some(retry), _) => retry.saturating_duration_since(Instant::now()),
                (None, Some(due)) => due.min(IDLE),
                (None, None) => IDLE,
            };
            match self.messages.recv_timeout(wait) {
                Ok(message) => stop = self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
            while stop.is_none() && self.backlog.len() < BATCH {
                let Ok(message) = self.messages.try_recv() else { break };
                stop = self.take(message);
            }
            if let Some(done) = stop {
                self.finish();
                // Nobody may be waiting any more.
                let _gone = done.try_send(());
                return;
            }
            self.turn();
        }
    }

    fn take(&mut self, message: Message) -> Option<SyncSender<()>> {
        let (stamped, ack) = match message {
            Message::Entry(stamped, ack) => (stamped, ack),
            Message::Stop(done) => return Some(done),
        };
        let mut pending = Pending { stamped, ack };
        if self.backlog.len() >= BACKLOG {
            self.shared.lose(1);
            pending.tell(Err("too much waits for the disk already".to_owned()));
        } else {
            self.backlog.push_back(pending);
        }
        None
    }

    /// Does what there is to do, or fails those who wait where it is too early for another try.
    fn turn(&mut self) {
        if self.retry.is_none_or(|retry| Instant::now() >= retry) {
            let result = self.work();
            self.shared.answers.fetch_add(1, Ordering::Relaxed);
            match result {
                Ok(()) => self.worked(),
                Err(error) => self.failed(&error),
            }
        }
        if let Some((trouble, _)) = &self.trouble {
            self.backlog.iter_mut().for_each(|pending| pending.tell(Err(trouble.clone())));
        }
        if let Some(chain) = &self.chain {
            self.shared.unsigned.store(chain.unsigned(), Ordering::Relaxed);
            self.shared.seq.store(chain.at().0, Ordering::Relaxed);
        }
    }

    fn work(&mut self) -> Result<(), AuditError> {
        if self.chain.is_none() {
            self.open()?;
        }
        let Some(chain) = &mut self.chain else { return Ok(()) };
        chain.flush()?;
        chain.rotate()?;
        let lost = self.shared.undeclared.swap(0, Ordering::Relaxed);
        if lost > 0 || self.trouble.is_some() {
            let gap = Stamped::new(gap(lost, self.trouble.as_ref()), true);
            self.backlog.push_back(Pending { stamped: Box::new(gap), ack: None });
        }
        while !self.backlog.is_empty() {
            let count = self.backlog.len().min(BATCH);
            let mut batch: Vec<Pending> = self.backlog.drain(..count).collect();
            batch.iter().for_each(|pending| chain.append(&pending.stamped));
            self.shared.entries.fetch_add(count as u64, Ordering::Relaxed);
            if chain.is_due() {
                chain.checkpoint();
            }
            let result = chain.flush();
            let failed = result.as_ref().err().map(|error| crate::chain(error));
            batch.iter_mut().for_each(|pending| pending.tell(failed.clone().map_or(Ok(()), Err)));
            result?;
            chain.rotate()?;
        }
        if chain.is_due() {
            chain.checkpoint();
            chain.flush()?;
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), AuditError> {
        let (mut chain, notes) = Chain::open(&self.dir, self.rules.clone())?;
        for note in notes.into_iter().rev() {
            let found = format!("audit log, {}: {}", note.subject, note.reason);
            warn!("{found}");
            self.shared.say(|words| words.found = Some(found));
            self.backlog.push_front(Pending { stamped: Box::new(Stamped::new(note, true)), ack: None });
        }
        let (key, not_append_only) = (chain.at().1.to_owned(), chain.not_append_only.clone());
        if let Some(why) = &not_append_only {
            info!(%why, "The audit log's files are not append-only here.");
        }
        self.shared.say(|words| (words.key, words.not_append_only) = (key, not_append_only));
        let retained = chain.retain();
        self.chain = Some(chain);
        retained
    }

    fn worked(&mut self) {
        self.retry = None;
        if self.trouble.take().is_some() {
            info!("The audit log is written again.");
            self.shared.say(|words| words.trouble = None);
        }
    }

    fn failed(&mut self, error: &AuditError) {
        let trouble = crate::chain(error);
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.retry = Some(Instant::now() + RETRY);
        if self.trouble.is_none() {
            error!(%trouble, "The audit log cannot be written; entries are kept in memory, and it is tried again every second.");
        }
        let since = self.trouble.take().map_or_else(Instant::now, |(_, since)| since);
        self.shared.say(|words| words.trouble = Some(trouble.clone()));
        self.trouble = Some((trouble, since));
    }

    /// Writes and signs what is left.
    fn finish(&mut self) {
        self.retry = None;
        self.turn();
        if let Some(chain) = &mut self.chain {
            chain.checkpoint();
            if let Err(error) = chain.flush() {
                error!(error = crate::chain(&error), "The end of the audit log could not be written.");
            }
        }
    }
}

/// Says that the log could not be written, or that entries are missing, and how many.
fn gap(lost: u64, trouble: Option<&(String, Instant)>) -> Entry {
    let for_s = trouble.map_or(0, |(_, since)| since.elapsed().as_secs());
    let why = trouble.map_or("entries came faster than they could be written", |(why, _)| why.as_str());
    Entry::new("audit.gap", "").because(why).now(json!({ "lost": lost, "for_s": for_s }))
}
