//! The way in, and the threads behind it.

mod late;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use self::late::Late;
use super::{
    Alert, News,
    book::Book,
    courier::{Courier, Orders},
    desk::{Desk, node_name},
    log::{Delivery, How, Log},
    message::{self, Context},
    sinks::{self, Failure, Receipt, worded},
};
use crate::{
    config::alerts::{AlertSink, Alerts},
    decide::{Incident, Severity},
    record::audit::AuditLog,
    sense::clock,
};

/// What was handed in and no message was made of yet, at most.
const PENDING: usize = 1024;
/// Time between two tries to write.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an end waits for what is being sent: whether it arrived would not be known.
const BUSY: Duration = Duration::from_secs(2);
/// How long an end waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something wrong with the agent itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// What it is called, the same while it lasts: `wan0`.
    pub key: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in words.
    pub text: String,
}

/// What is handed in.
#[derive(Debug)]
pub(super) enum Offer {
    /// How an incident is, and what is new about it.
    Seen(Arc<Incident>, Option<News>),
    /// How all are, and where the guard is armed, in words.
    Look(Vec<Arc<Incident>>, Option<String>),
    /// What is wrong at a source: all of it.
    Health(&'static str, Vec<Trouble>),
    /// What is done about an incident upstream: all of it, a line each.
    Beyond(String, Vec<String>),
    /// What became of that when the incident was over.
    After(Arc<Incident>, String),
    /// The configuration is another.
    Settings(Arc<Alerts>),
    /// End.
    Stop(SyncSender<()>),
}

/// The way in. It never waits.
#[derive(Clone, Debug)]
pub struct Post {
    offers: SyncSender<Offer>,
    shared: Arc<Shared>,
    health: Arc<Mutex<BTreeMap<&'static str, Vec<Trouble>>>>,
    late: Late,
}

/// What the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    inner: Mutex<Inner>,
    bell: Condvar,
    /// What was handed in and found no room.
    lost: AtomicU64,
}

/// What is behind the lock; nobody who holds it waits for anything.
#[derive(Debug)]
pub(super) struct Inner {
    pub book: Book,
    pub seats: BTreeMap<String, Seat>,
    pub settings: Arc<Alerts>,
    /// Why the outbox is not on disk, if it is not.
    pub disk: Option<String>,
    pub log_bytes: u64,
    /// Nothing more is begun.
    pub stop: bool,
    /// Nothing more is written.
    over: bool,
    /// The disk is written to.
    writing: bool,
    next_test: u64,
    generation: u64,
}

/// How a sink is doing.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// The courier that may sit here.
    pub generation: u64,
    /// It is sending.
    pub busy: bool,
    pub kind: &'static str,
    pub tests: VecDeque<(u64, Arc<Alert>)>,
    pub tested: Option<(u64, Result<Receipt, Failure>)>,
    pub failures: u64,
    /// Why nothing arrives, and since when.
    pub trouble: Option<String>,
    pub since: Option<Instant>,
    pub next_try: Option<Instant>,
    pub last_ms: Option<i64>,
    pub answer: String,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, most: Duration) -> MutexGuard<'a, Inner> {
        self.bell.wait_timeout(inner, most).map_or_else(|poisoned| poisoned.into_inner().0, |(inner, _)| inner)
    }

    pub fn ring(&self) {
        self.bell.notify_all();
    }

    /// Lets the threads end, and waits a while for what is being sent and for the disk.
    fn end(&self) {
        let began = Instant::now();
        let mut inner = self.lock();
        inner.stop = true;
        self.ring();
        loop {
            let busy = inner.is_busy() && began.elapsed() < BUSY;
            let unwritten = inner.writing || inner.book.has_unwritten() && inner.disk.is_none();
            let unwritten = unwritten && began.elapsed() < PATIENCE;
            if !busy && !unwritten {
                break;
            }
            inner = self.wait(inner, Duration::from_millis(20));
        }
        inner.over = true;
        drop(inner);
        self.ring();
    }
}

impl Inner {
    /// Returns whether anything is being sent.
    fn is_busy(&self) -> bool {
        self.seats.values().any(|seat| seat.busy)
    }
}

/// How alerts are doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What this machine is called in messages.
    pub node: String,
    /// The sinks, by name.
    pub sinks: Vec<SinkStatus>,
    /// Messages that wait for anybody.
    pub waiting: usize,
    /// Bytes of the file of the outbox.
    pub log_bytes: u64,
    /// Until when nobody is told, milliseconds since 1970.
    pub silent_until_ms: Option<i64>,
    /// Why the outbox is not on disk.
    pub disk: Option<String>,
    /// What was handed in and found no room; it is made up for.
    pub overflowed: u64,
}

/// How a sink is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// Its name.
    pub name: String,
    /// The service.
    pub kind: String,
    /// Messages that wait for it.
    pub waiting: usize,
    /// How long the oldest does, seconds.
    pub oldest_s: u64,
    /// Messages since the start, by what became of them.
    pub results: BTreeMap<String, u64>,
    /// Tries that failed since the start.
    pub failures: u64,
    /// Why nothing arrives; absent: nothing is known against it.
    pub trouble: Option<String>,
    /// Seconds until the next try, while there is trouble.
    pub next_try_s: Option<u64>,
    /// When it took something last, milliseconds since 1970.
    pub last_ms: Option<i64>,
    /// What it answered then.
    pub answer: String,
    /// Until when it is silent, milliseconds since 1970.
    pub silent_until_ms: Option<i64>,
    /// It is silent because of a maintenance window.
    pub maintenance: bool,
}

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Whether it arrived.
    pub arrived: bool,
    /// What the other side said, or why it did not.
    pub answer: String,
    /// What becomes of alerts that meet the same.
    pub meaning: String,
}

impl Answers {
    fn of(result: Result<Receipt, Failure>) -> Self {
        let meaning = match &result {
            Ok(_) => "",
            Err(Failure::Later { .. }) => "alerts wait, and are tried again",
            Err(Failure::Never(_)) => "such an alert is not tried again",
            Err(Failure::Shut(_)) => "alerts wait until this is mended: no alert gets through so",
        };
        let arrived = result.is_ok();
        let answer = result.map_or_else(|failure| failure.why().to_owned(), |receipt| receipt.answer);
        Self { arrived, answer, meaning: meaning.to_owned() }
    }
}

impl Post {
    /// Reads what an earlier life left, and starts the threads. The second value is what the operator should
    /// know about it.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn start(state: &Path, settings: &Alerts, audit: AuditLog) -> io::Result<(Self, Option<String>)> {
        let (log, records, told) = Log::open(state);
        let settings = Arc::new(settings.clone());
        let inner = Inner {
            book: Book::of(records),
            seats: BTreeMap::new(),
            settings: Arc::clone(&settings),
            disk: None,
            log_bytes: 0,
            stop: false,
            over: false,
            writing: false,
            next_test: 0,
            generation: 0,
        };
        let shared = Arc::new(Shared { inner: Mutex::new(inner), bell: Condvar::new(), lost: AtomicU64::new(0) });
        let (offers, queue) = sync_channel(PENDING);
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("outbox".into()).spawn(move || write(&writer, log))?;
        seat(&shared, &settings, &audit)?;
        let desk = Desk::new(Arc::clone(&shared), audit.clone());
        let seats = Arc::clone(&shared);
        thread::Builder::new().name("alerts".into()).spawn(move || serve(&queue, desk, &seats, &audit))?;
        Ok((Self { offers, shared, health: Arc::default(), late: Late::default() }, told))
    }

    /// Says how an incident is, and what is new about it.
    pub fn seen(&self, incident: Arc<Incident>, news: Option<News>) {
        self.offer(Offer::Seen(incident, news));
    }

    /// Says how all incidents are: makes up for what was not told. `guard` says where it is armed.
    pub fn look(&self, incidents: Vec<Arc<Incident>>, guard: Option<String>) {
        self.late.hand_over(|offer| self.offers.try_send(offer).is_ok());
        self.offer(Offer::Look(incidents, guard));
    }

    /// Says what is wrong with the agent itself: everything that `source` knows of, each time. What is not
    /// named any more is right again.
    pub fn health(&self, source: &'static str, troubles: Vec<Trouble>) {
        let mut known = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        // The first word of a source is passed on even if all is well: an earlier life may have told otherwise.
        if known.get(source) != Some(&troubles) && self.offer(Offer::Health(source, troubles.clone())) {
            known.insert(source, troubles);
        }
    }

    /// Says what is done about an incident beyond this host, for the messages about it: everything, a line each,
    /// `what: more`. It sends nothing by itself: what is new is said with [`Self::seen`]. Returns whether there was
    /// room for it.
    pub fn upstream(&self, incident: &str, lines: Vec<String>) -> bool {
        self.offer(Offer::Beyond(incident.to_owned(), lines))
    }

    /// Says what became of what is upstream for an incident that is over. What finds no room is kept, and handed in
    /// with [`Self::look`].
    pub fn after(&self, incident: Arc<Incident>, what: String) {
        self.late.push(incident, what);
        self.late.hand_over(|offer| self.offer(offer));
    }

    /// Takes another configuration.
    pub fn reload(&self, settings: &Alerts) {
        self.offer(Offer::Settings(Arc::new(settings.clone())));
    }

    fn offer(&self, offer: Offer) -> bool {
        let taken = self.offers.try_send(offer).is_ok();
        if !taken {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Lets nobody be told for a while, or one sink not; a duration of zero ends that.
    ///
    /// # Errors
    /// Where there is no such sink.
    pub fn silence(&self, sink: Option<&str>, lasts: Duration) -> Result<i64> {
        let mut inner = self.shared.lock();
        if let Some(sink) = sink {
            known(&inner, sink)?;
        }
        let ms = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
        let now_ms = clock::unix_ms();
        let until_ms = if lasts.is_zero() { 0 } else { now_ms.saturating_add(ms) };
        inner.book.silence(sink.unwrap_or_default(), now_ms, until_ms);
        drop(inner);
        self.shared.ring();
        Ok(until_ms)
    }

    /// Sends a test message to a sink, before what waits for it; [`Self::tested`] has what came of it.
    ///
    /// # Errors
    /// Where there is no such sink.
    pub fn test(&self, sink: &str) -> Result<u64> {
        let mut inner = self.shared.lock();
        known(&inner, sink)?;
        let number = inner.next_test;
        inner.next_test += 1;
        let alert = test_alert(&inner.settings, sink);
        if let Some(seat) = inner.seats.get_mut(sink) {
            seat.tests.push_back((number, Arc::new(alert)));
            if seat.tests.len() > 8 {
                seat.tests.pop_front();
            }
        }
        drop(inner);
        self.shared.ring();
        Ok(number)
    }

    /// Returns what came of a test; `None` while nothing did.
    pub fn tested(&self, sink: &str, number: u64) -> Option<Answers> {
        let inner = self.shared.lock();
        let (done, result) = inner.seats.get(sink)?.tested.as_ref()?;
        (*done == number).then(|| Answers::of(result.clone()))
    }

    /// Returns how alerts are doing.
    pub fn status(&self) -> Status {
        let inner = self.shared.lock();
        let now_ms = clock::unix_ms();
        let sinks = inner.settings.sinks.iter().map(|sink| sink_status(&inner, &sink.name, now_ms)).collect();
        Status {
            node: node_name(&inner.settings),
            sinks,
            waiting: inner.book.load().0,
            log_bytes: inner.log_bytes,
            silent_until_ms: inner.book.silent_until("", now_ms),
            disk: inner.disk.clone(),
            overflowed: self.shared.lost.load(Ordering::Relaxed),
        }
    }

    /// Returns what became of the last messages, oldest first.
    pub fn history(&self) -> Vec<Delivery> {
        self.shared.lock().book.history().cloned().collect()
    }

    /// Ends the threads, once what was handed in is on disk; gives up on a disk that hangs.
    pub fn stop(&self) {
        self.late.hand_over(|offer| self.offers.send(offer).is_ok());
        let (done, wait) = sync_channel(1);
        if self.offers.send(Offer::Stop(done)).is_err() || wait.recv_timeout(PATIENCE).is_err() {
            warn!("The last alerts could not be saved in time.");
        }
    }
}

fn known(inner: &Inner, sink: &str) -> Result<()> {
    if !inner.seats.contains_key(sink) {
        let names: Vec<&str> = inner.seats.keys().map(String::as_str).collect();
        match names.as_slice() {
            [] => bail!("no sink is configured: write one into the configuration (`[[alerts.sinks]]`)"),
            _ => bail!("there is no sink `{sink}`: there are {}", names.join(", ")),
        }
    }
    Ok(())
}

fn test_alert(settings: &Alerts, sink: &str) -> Alert {
    let node = node_name(settings);
    let context = Context { node: &node, link: &settings.link, now_ms: clock::unix_ms(), ..Context::default() };
    message::test(sink, &context)
}

/// Sends a test message from here, without a daemon.
///
/// # Errors
/// Where there is no such sink.
pub fn try_once(settings: &Alerts, sink: &str) -> Result<Answers> {
    let Some(found) = settings.sinks.iter().find(|known| known.name == sink) else {
        bail!("the configuration has no sink `{sink}`");
    };
    let alert = worded(found, &test_alert(settings, sink));
    Ok(Answers::of(sinks::open(found).map_err(Failure::Shut).and_then(|mut sink| sink.send(&alert))))
}

fn sink_status(inner: &Inner, name: &str, now_ms: i64) -> SinkStatus {
    let Some(seat) = inner.seats.get(name) else { return SinkStatus::default() };
    let oldest = inner.book.waiting(name).next();
    let result = |how: How| {
        let times = inner.book.counts().get(&(name.to_owned(), how)).copied().unwrap_or(0);
        (how.as_str().to_owned(), times)
    };
    let windows = inner.settings.maintenance.iter();
    SinkStatus {
        name: name.to_owned(),
        kind: seat.kind.to_owned(),
        waiting: inner.book.count(name),
        oldest_s: oldest.map_or(0, |(_, entry)| entry.age().as_secs()),
        results: How::ALL.into_iter().map(result).collect(),
        failures: seat.failures,
        trouble: seat.trouble.clone(),
        next_try_s: seat.next_try.map(|at| at.saturating_duration_since(Instant::now()).as_secs()),
        last_ms: seat.last_ms,
        answer: seat.answer.clone(),
        silent_until_ms: inner.book.silent_until(name, now_ms),
        maintenance: windows.filter(|window| window.concerns(name)).any(|window| window.when.holds(now_ms)),
    }
}

/// Gives every sink of the configuration a courier; those that stay as they are keep theirs.
fn seat(shared: &Arc<Shared>, settings: &Arc<Alerts>, audit: &AuditLog) -> io::Result<()> {
    let mut inner = shared.lock();
    let old = std::mem::replace(&mut inner.settings, Arc::clone(settings));
    let rules = |alerts: &Alerts| (alerts.storm, alerts.give_up_after, alerts.retry_first, alerts.retry_longest);
    let same = rules(&old) == rules(settings);
    inner.seats.retain(|name, _| settings.sinks.iter().any(|sink| sink.name == *name));
    let mut fresh = Vec::new();
    for sink in &settings.sinks {
        let kept = inner.seats.contains_key(&sink.name) && same && old.sinks.contains(sink);
        if !kept {
            inner.generation += 1;
            let generation = inner.generation;
            let seat = inner.seats.entry(sink.name.clone()).or_default();
            (seat.generation, seat.kind) = (generation, sink.target.kind());
            (seat.trouble, seat.since, seat.next_try) = (None, None, None);
            fresh.push(orders(settings, sink, generation));
        }
    }
    drop_others(&mut inner, audit);
    drop(inner);
    shared.ring();
    fresh.into_iter().try_for_each(|orders| Courier::spawn(Arc::clone(shared), orders, audit.clone()))
}

fn orders(settings: &Alerts, sink: &AlertSink, generation: u64) -> Orders {
    Orders {
        settings: sink.clone(),
        generation,
        storm: settings.storm,
        give_up_after: settings.give_up_after,
        retry_first: settings.retry_first,
        retry_longest: settings.retry_longest,
    }
}

/// What waits for a sink that is not in the configuration any more waits for nobody.
fn drop_others(inner: &mut Inner, audit: &AuditLog) {
    for name in inner.book.awaited().into_iter().filter(|name| !inner.seats.contains_key(name)).collect::<Vec<_>>() {
        let waiting: Vec<(u64, Arc<Alert>)> =
            inner.book.waiting(&name).map(|(n, entry)| (n, Arc::clone(&entry.alert))).collect();
        warn!(sink = %name, alerts = waiting.len(), "Alerts waited for a sink that is not configured any more.");
        for (n, alert) in waiting {
            let why = "the sink is not configured any more";
            inner.book.done(n, super::courier::delivery(&alert, &name, How::Dropped, why));
            audit.after(super::courier::not_arrived(&alert, &name, How::Dropped, why));
        }
    }
}

/// Makes messages of what is handed in, until told to stop.
fn serve(queue: &Receiver<Offer>, mut desk: Desk, shared: &Arc<Shared>, audit: &AuditLog) {
    loop {
        match queue.recv_timeout(desk.pause()) {
            Ok(Offer::Stop(done)) => {
                desk.flush_after();
                shared.end();
                // Nobody may be waiting any more.
                let _gone = done.send(());
                return;
            }
            Ok(Offer::Settings(settings)) => {
                if let Err(error) = seat(shared, &settings, audit) {
                    error!(%error, "The thread of a sink could not be started.");
                }
                desk.reload();
            }
            Ok(offer) => desk.take(offer),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                desk.flush_after();
                shared.end();
                return;
            }
        }
        desk.tick();
    }
}

/// Writes what happens to the disk, as much at once as waits.
fn write(shared: &Shared, mut log: Log) {
    let mut inner = shared.lock();
    loop {
        if !inner.book.has_unwritten() && !log.is_due() {
            if inner.over {
                return;
            }
            inner = shared.wait(inner, Duration::from_secs(60));
            continue;
        }
        if inner.over {
            return;
        }
        inner.writing = true;
        let (written, result);
        if log.is_behind() {
            let (all, text) = inner.book.snapshot();
            drop(inner);
            (written, result) = (all, log.rewrite(&text));
        } else {
            let lines = inner.book.unwritten();
            drop(inner);
            let text: String = lines.iter().map(|(_, line)| line.as_str()).collect();
            (written, result) = (lines.iter().filter_map(|(n, _)| *n).collect(), log.append(&text));
        }
        inner = shared.lock();
        inner.writing = false;
        match result {
            Ok(()) => {
                written.into_iter().for_each(|n| inner.book.mark_written(n));
                if inner.disk.take().is_some() {
                    info!("Alerts that wait are saved again.");
                }
                inner.log_bytes = log.bytes();
            }
            Err(error) => {
                let why = format!(
                    "alerts that wait cannot be saved ({error}): they are sent all the same, a restart would lose those \
                     that are not; look at the disk of `paths.state`, it is tried again every second"
                );
                if inner.disk.replace(why.clone()).is_none() {
                    error!("{why}");
                }
                shared.ring();
                inner = shared.wait(inner, AGAIN);
                continue;
            }
        }
        shared.ring();
    }
}

#[cfg(test)]
#[path = "post/tests.rs"]
mod tests;
