//! The recorder: a thread that keeps the last seconds of what reaches the decisions in memory and, when an
//! incident opens, writes them and everything until it is over to a directory of its own.
//!
//! ```text
//! <paths.state>/captures/<id>/    0700, files 0600
//!   meta.json                     what is in it and what is not, see [`meta::Meta`]
//!   capture.pcapng.zst            zstd frames, each of whole pcapng blocks
//!   hold.json                     while it is on legal hold
//!   life-1/                       what went along with it before a restart, see [`lives`]
//! ```
//!
//! It takes what lies on the [tape](crate::record::tape); nothing waits for it. Whatever it cannot keep it
//! counts, and declares in the file.

mod follow;
pub mod frame;
pub mod frames;
mod late;
pub mod lives;
pub mod meta;
pub mod pcapng;
mod quota;
mod recording;
pub mod retention;
mod ring;
pub mod status;
pub mod store;
mod tell;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use self::{
    meta::{Lost, Meta, Status},
    recording::{Plan, Recording},
    ring::Ring,
    status::{CaptureStatus, RecordingStatus},
};
use super::{
    audit::AuditLog,
    tape::{Fact, TapeReader},
};
use crate::{
    bpf::captures::{CaptureRing, Captured},
    config::{Capture, Payload},
    decide::Incident,
    rule::FlowMatch,
    sense::clock,
};

/// How long an incident is followed after it has closed, nanoseconds.
const AFTER_NS: u64 = 3_000_000_000;
/// Time between two writes.
const BEAT: Duration = Duration::from_secs(1);
/// How long is waited for a fact: as long as a tick.
const WAIT: Duration = Duration::from_millis(100);
/// The same while packets come whole: 8 MiB of them find room until then.
const WAIT_FULL: Duration = Duration::from_millis(5);
/// Beats between two tries of what does not work …
const RETRY: u64 = 5;
/// … and until a capture that has ended and cannot be written is given up.
const GIVE_UP: u64 = 60;
/// Beats between two descriptions of what is open.
const DESCRIBE: u64 = 10;
/// Beats between two looks at what may be removed.
const SWEEP: u64 = 3600;
/// Beats for which it is said that a capture was removed for want of room: a day.
const SAID: u64 = 86_400;
/// Captures of operators at once, at most.
const MANUAL: usize = 4;
/// Commands that wait, at most.
const COMMANDS: usize = 8;
/// How long an end waits for the last of it to be written.
const PATIENCE: Duration = Duration::from_secs(5);

/// Goes along with the capture of an incident, on the same thread, with the same facts: whatever else is
/// kept of it.
pub trait Companion: Send {
    /// The incident opened; `dir` is its directory. `pre_roll` are the facts before, oldest first: from the
    /// last image of the core on that precedes what the capture begins with, where there is one.
    fn begin(&mut self, dir: &Path, incident: &Incident, pre_roll: &[Arc<Fact>]);

    /// Takes what comes then, up to a few seconds after the incident closed.
    fn take(&mut self, fact: &Fact);

    /// Takes a sampled TLS ClientHello, as long as it is. It is not kept in the capture.
    fn hello(&mut self, _captured: &Captured) {}

    /// Returns how many samples matched which pattern so far, by what it is called in metrics.
    fn hits(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    /// It is over, or the daemon ends; `incident` is as it was last.
    ///
    /// # Errors
    /// What could not be kept; the description says so.
    fn finish(&mut self, incident: &Incident) -> io::Result<()>;
}

/// Makes those that go along with one capture.
pub type Companions = Box<dyn Fn() -> Vec<Box<dyn Companion>> + Send>;

/// What an operator wants to have captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manual {
    /// Its name.
    pub id: String,
    /// What packets have to match.
    pub matches: FlowMatch,
    /// Who wants it.
    pub by: String,
    /// For how long.
    pub lasts: Duration,
    /// Bytes of the file at most.
    pub most_bytes: u64,
    /// Every packet, as long as it is: the kernel has to be told to capture what matches.
    pub full: bool,
}

#[derive(Debug)]
enum Command {
    Start(Box<Manual>, SyncSender<()>),
    Stop(String),
    End(SyncSender<()>),
}

/// The running recorder, for everybody else.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: SyncSender<Command>,
    status: Arc<Mutex<CaptureStatus>>,
}

/// Starts the recorder on a thread of its own. Without the capture ring there are samples only.
///
/// # Errors
/// Where that cannot be started.
pub fn spawn(
    state: &Path,
    settings: Capture,
    (tape, mut ring): (TapeReader, Option<CaptureRing>),
    companions: Companions,
    log: AuditLog,
) -> io::Result<Handle> {
    let (commands, orders) = sync_channel(COMMANDS);
    let handle = Handle { commands, status: Arc::default() };
    let mut recorder = Recorder::new(store::root(state), settings, companions, Arc::clone(&handle.status));
    recorder.log = log;
    thread::Builder::new().name("capture".into()).spawn(move || run(recorder, (&tape, ring.as_mut()), &orders))?;
    Ok(handle)
}

impl Handle {
    /// Returns what it does, as of a second ago.
    pub fn status(&self) -> CaptureStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a capture of an operator.
    ///
    /// # Errors
    /// In words, where there are too many.
    pub fn start(&self, manual: Manual) -> Result<(), String> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let running: Vec<&str> = manual_ones(&status).collect();
        if running.len() >= MANUAL {
            let running = running.join(", ");
            return Err(format!("{MANUAL} captures run already ({running}): `ftagent capture stop NAME` ends one"));
        }
        let entry = RecordingStatus {
            id: manual.id.clone(),
            matches: Some(manual.matches.to_string()),
            since_ms: clock::unix_ms(),
            ..RecordingStatus::default()
        };
        let (done, wait) = sync_channel(1);
        self.send(Command::Start(Box::new(manual), done))?;
        status.recordings.push(entry);
        drop(status);
        // What comes from now on is in it, and what the kernel is told next gives nothing too early.
        if wait.recv_timeout(PATIENCE).is_err() {
            warn!("The recorder is slow to begin a capture; its first packets may be missing.");
        }
        Ok(())
    }

    /// Returns the name of a capture of an operator, of the only one where none is given.
    ///
    /// # Errors
    /// In words, where there is no such capture or more than one.
    pub fn manual(&self, name: Option<&str>) -> Result<String, String> {
        let status = self.status();
        let running: Vec<&str> = manual_ones(&status).collect();
        let id = match (name, running.as_slice()) {
            (_, []) => return Err("no capture of an operator runs: those of incidents end with them".to_owned()),
            (Some(name), running) if running.contains(&name) => name,
            (None, [only]) => only,
            (_, several) => return Err(format!("name one of those that run: {}", several.join(", "))),
        };
        Ok(id.to_owned())
    }

    /// Ends a capture of an operator; what the ring has of it is written.
    ///
    /// # Errors
    /// In words, where the recorder cannot be told.
    pub fn stop(&self, id: &str) -> Result<(), String> {
        self.send(Command::Stop(id.to_owned()))
    }

    fn send(&self, command: Command) -> Result<(), String> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => "the recorder is busy, perhaps with a slow disk: try again".to_owned(),
            TrySendError::Disconnected(_) => "the recorder has ended, the log says why: restart the daemon".to_owned(),
        })
    }

    /// Writes what is left and ends the thread; gives up on a disk that hangs.
    pub fn end(self) {
        let (done, wait) = sync_channel(1);
        if self.send(Command::End(done)).is_err() || wait.recv_timeout(PATIENCE).is_err() {
            warn!("What was captured last could not be written in time.");
        }
    }
}

fn manual_ones(status: &CaptureStatus) -> impl Iterator<Item = &str> {
    status.recordings.iter().filter(|recording| recording.matches.is_some()).map(|recording| recording.id.as_str())
}

fn run(mut recorder: Recorder, (tape, mut ring): (&TapeReader, Option<&mut CaptureRing>), orders: &Receiver<Command>) {
    recorder.begin();
    let mut due = Instant::now() + BEAT;
    loop {
        let wait = if recorder.is_full() { WAIT_FULL } else { WAIT };
        let mut end = tape.next(wait).map_or(true, |fact| {
            recorder.lose(tape.load.lost_ticks.load(Ordering::Relaxed), tape.load.lost_samples.load(Ordering::Relaxed));
            fact.into_iter().for_each(|fact| recorder.take(fact));
            false
        });
        let mut done = None;
        for order in orders.try_iter() {
            match order {
                Command::Start(manual, reply) => recorder.asked.push((*manual, reply)),
                Command::Stop(id) => {
                    recorder.drain(ring.as_deref_mut());
                    recorder.stop(&id, clock::monotonic_ns());
                }
                Command::End(reply) => done = Some(reply),
            }
        }
        recorder.start_asked();
        recorder.drain(ring.as_deref_mut());
        if done.is_some() {
            while let Ok(Some(fact)) = tape.next(Duration::ZERO) {
                recorder.take(fact);
            }
            end = true;
        }
        if end {
            recorder.end();
            // Nobody may be waiting any more.
            if let Some(reply) = done {
                let _gone = reply.send(());
            }
            return;
        }
        if Instant::now() >= due {
            recorder.beat();
            due = Instant::now() + BEAT;
        }
    }
}

/// What the thread owns. Time is that of ticks and of beats, so tests need not wait.
struct Recorder {
    root: PathBuf,
    settings: Capture,
    companions: Companions,
    status: Arc<Mutex<CaptureStatus>>,
    ring: Ring,
    open: Vec<Recording>,
    /// Captures that operators asked for and that are not begun yet.
    asked: Vec<(Manual, SyncSender<()>)>,
    /// Captures that have ended and could not be written, with the beat at which that was.
    unfinished: Vec<(Recording, u64)>,
    /// Those of which that was given up, as long as it is not written down, and whether anything of them was.
    given_up: Vec<(Meta, bool)>,
    beats: u64,
    now_ns: u64,
    /// What finished captures add to the totals.
    written: u64,
    lost: Lost,
    hits: BTreeMap<String, u64>,
    tape_lost: (u64, u64),
    disk_bytes: u64,
    sweep_trouble: Option<String>,
    /// At which beat a capture was last removed for want of room, and what is to be said of that.
    made_room: Option<(u64, String)>,
    told: bool,
    /// Where every removal is written down.
    log: AuditLog,
}

impl Recorder {
    fn new(root: PathBuf, settings: Capture, companions: Companions, status: Arc<Mutex<CaptureStatus>>) -> Self {
        let memory = usize::try_from(settings.memory).unwrap_or(usize::MAX);
        let keep_ns = u64::try_from(settings.pre_roll.as_nanos()).unwrap_or(u64::MAX);
        Self {
            root,
            settings,
            companions,
            status,
            ring: Ring::new(memory, keep_ns),
            open: Vec::new(),
            asked: Vec::new(),
            unfinished: Vec::new(),
            given_up: Vec::new(),
            beats: 0,
            now_ns: 0,
            written: 0,
            lost: Lost::default(),
            hits: BTreeMap::new(),
            tape_lost: (0, 0),
            disk_bytes: 0,
            sweep_trouble: None,
            made_room: None,
            told: false,
            log: AuditLog::default(),
        }
    }

    /// Finishes what an earlier life left, and removes what is too old.
    fn begin(&mut self) {
        self.sweep();
        self.publish();
    }

    fn take(&mut self, fact: Fact) {
        let fact = Arc::new(fact);
        if let Fact::Tick(tick) = fact.as_ref() {
            self.now_ns = tick.now.mono_ns;
            self.follow(tick);
        }
        self.open.iter_mut().for_each(|recording| recording.take(&fact));
        self.ring.push(Arc::clone(&fact));
        if let Fact::State(image) = fact.as_ref()
            && image.breaks
        {
            self.catch_up(&image.core);
        }
        let now_ns = self.now_ns;
        if self.open.iter().any(|recording| recording.until_ns.is_some_and(|until| until <= now_ns)) {
            self.finish(|recording| recording.until_ns.is_some_and(|until| until <= now_ns));
        }
    }

    /// Takes the packets of the capture ring.
    fn drain(&mut self, ring: Option<&mut CaptureRing>) {
        let Some(ring) = ring else { return };
        while let Some(captured) = ring.take() {
            self.open.iter_mut().for_each(|recording| recording.take_whole(&captured));
        }
    }

    /// Returns whether packets come whole.
    fn is_full(&self) -> bool {
        self.open.iter().any(|recording| recording.plan.full)
    }

    /// Begins what operators asked for, once a tick has said from where on to count: until then nothing is
    /// known of the interfaces and their packets.
    fn start_asked(&mut self) {
        if self.now_ns == 0 {
            return;
        }
        for (manual, reply) in std::mem::take(&mut self.asked) {
            self.start(manual);
            // Nobody may be waiting any more.
            let _gone = reply.send(());
        }
    }

    fn start(&mut self, manual: Manual) {
        let Manual { id, matches, by, lasts, most_bytes, full } = manual;
        let lasts_ns = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = clock::monotonic_ns().saturating_add(lasts_ns);
        info!(capture = %id, matches = %matches, %by, seconds = lasts.as_secs(), "Capturing what an operator asked for.");
        let plan = Plan {
            id,
            incident: None,
            matches: Some(matches),
            by: Some(by),
            most_bytes,
            lasts_ns: Some(lasts_ns),
            payload: if full { Payload::Full } else { self.settings.payload },
            full,
            late: false,
        };
        self.begin_recording(plan, Some(until_ns));
        self.publish();
    }

    /// It ends with the first tick from `now_ns` on, which has all that was counted until now: one that was read
    /// before may still be on its way.
    fn stop(&mut self, id: &str, now_ns: u64) {
        self.asked.retain(|(manual, _)| manual.id != id);
        let is_it = |recording: &&mut Recording| recording.plan.id == id && recording.plan.incident.is_none();
        let ends = |until: Option<u64>| Some(until.map_or(now_ns, |until| until.min(now_ns)));
        self.open.iter_mut().filter(is_it).for_each(|recording| recording.until_ns = ends(recording.until_ns));
    }

    /// An incident's capture begins in the past, an operator's now.
    fn begin_recording(&mut self, plan: Plan, until_ns: Option<u64>) {
        let pre_roll = plan.incident.is_some().then(|| self.ring.pre_roll());
        let before = pre_roll.as_ref().map_or_else(|| self.ring.now(), |pre_roll| &pre_roll.before);
        let mut recording = match Recording::new(&self.root, plan, before) {
            Ok(recording) => recording,
            Err(error) => {
                error!(%error, "A capture could not be begun.");
                return;
            }
        };
        recording.until_ns = until_ns;
        let facts = pre_roll.as_ref().map_or(&[][..], |pre_roll| &pre_roll.facts);
        recording.trouble = recording.open(&self.companions, facts).err().map(|error| recording.words(&error));
        if let Some(pre_roll) = &pre_roll {
            recording.take_pre_roll(pre_roll);
            if recording.trouble.is_none() {
                recording.trouble = recording.write().err().map(|error| recording.words(&error));
            }
        }
        self.open.push(recording);
        self.publish();
    }

    /// Ends captures.
    fn finish(&mut self, which: impl Fn(&Recording) -> bool) {
        let (ended, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open).into_iter().partition(which);
        self.open = open;
        for mut recording in ended {
            match recording.finish(Status::Closed) {
                Ok(()) => self.finished(&recording),
                Err(error) => {
                    recording.trouble = Some(recording.words(&error));
                    self.unfinished.push((recording, self.beats));
                }
            }
        }
        self.sweep();
        self.publish();
    }

    fn finished(&mut self, recording: &Recording) {
        let facts = recording.facts();
        info!(
            capture = %facts.id, packets = facts.written, bytes = recording.bytes(), lost = facts.lost_total(),
            "A capture is complete."
        );
        self.add(recording);
    }

    /// Takes in what was lost on the way here: totals since the start.
    fn lose(&mut self, ticks: u64, samples: u64) {
        let more = samples.saturating_sub(self.tape_lost.1);
        self.tape_lost = (ticks, samples);
        if more > 0 {
            self.open.iter_mut().for_each(|recording| recording.lose(more));
        }
    }

    /// What happens every second.
    fn beat(&mut self) {
        self.beats += 1;
        let (describe, retry) = (self.beats.is_multiple_of(DESCRIBE), self.beats.is_multiple_of(RETRY));
        let mut gone = Vec::new();
        for (number, recording) in self.open.iter_mut().enumerate() {
            if recording.trouble.is_some() && !retry {
                continue;
            }
            let written = match (recording.is_open(), describe) {
                (false, _) => recording.open(&self.companions, &self.ring.pre_roll().facts),
                (true, false) => recording.write(),
                (true, true) => recording.checkpoint(),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::NotFound && recording.is_open() => gone.push(number),
                written => recording.trouble = written.err().map(|error| recording.words(&error)),
            }
        }
        for number in gone.into_iter().rev() {
            self.begin_again(number);
        }
        if retry {
            self.finish_late();
        }
        if self.beats.is_multiple_of(GIVE_UP) {
            self.describe_given_up();
        }
        if self.beats.is_multiple_of(SWEEP) {
            self.sweep();
        }
        self.publish();
    }

    /// Somebody removed what a capture was written to: it begins anew.
    fn begin_again(&mut self, number: usize) {
        let old = self.open.swap_remove(number);
        warn!(capture = %old.plan.id, "The directory of a capture was removed while it was written; it begins anew.");
        self.add(&old);
        self.begin_recording(old.plan, old.until_ns);
    }

    /// The daemon ends: incidents may go on in its next life.
    fn end(&mut self) {
        for mut recording in std::mem::take(&mut self.open) {
            let manual = recording.plan.incident.is_none();
            let ended = recording.until_ns.is_some() && !manual;
            let status = if ended || manual { Status::Closed } else { Status::Interrupted };
            if let Err(error) = recording.finish(status) {
                warn!(capture = %recording.plan.id, %error, "The end of a capture could not be written.");
            }
        }
        self.describe_given_up();
    }

    fn sweep(&mut self) {
        self.describe_given_up();
        let late = self.unfinished.iter().map(|(recording, _)| recording);
        let busy: Vec<&str> = self.open.iter().chain(late).map(|recording| recording.plan.id.as_str()).collect();
        // Of those the daemon knows better why they have no end.
        let known: Vec<&str> =
            busy.iter().copied().chain(self.given_up.iter().map(|(meta, _)| meta.id.as_str())).collect();
        // At the start the disk may have been full.
        for id in store::finish_interrupted(&self.root, &known) {
            info!(capture = %id, "A capture that an earlier life of the daemon left open was finished.");
        }
        let swept = retention::sweep(&self.root, &self.settings, clock::unix_ms(), &busy);
        swept.removed.iter().for_each(|removed| self.removed(removed));
        self.disk_bytes = swept.bytes;
        self.sweep_trouble = swept.trouble;
    }
}
