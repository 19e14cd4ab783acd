//! The functional core behind a lock: the poll loop feeds it, the surfaces ask it.
//!
//! What surfaces show is published once a second and at every event, so that they never hold the
//! lock that a tick needs; only commands that change something do, for moments.

mod ladder;
mod metrics;
mod operator;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use super::mitigator::{Beat, Failure, Mitigator, Owner, View as RulesView};
use super::{gate::Gate, planes::Planes, trap::Trap};
use crate::{
    act::operator::OperatorRule,
    decide::{
        ClassCount, Counts, Decider, Event, Incident, Now, Packet, Settings, Tick, Vector,
        baseline::{Checkpoint, Learning, View},
        destinations::DestinationView,
        incident::Entry,
        input::{Input, WatchedRule},
        ladder::View as LadderView,
        mitigate::{
            Exempt, Mode, RuleCount, Wanted,
            collateral::Collateral,
            memory::{self, Armed, Remembered},
        },
    },
    record::tape::{Decided, Fact, IfaceSeen, Images, Tape, TickRecord},
    rule::FlowMatch,
    sense::{clock, meter::Observed, uplink::UplinkMeter},
    serve::protocol::{GuardStatus, TripwireStatus},
};

pub use metrics::BrainMetrics;

/// Ticks between two publications.
const PUBLISH_TICKS: u64 = 10;
/// Ticks between two images of the whole core on the tape, while nothing is the matter.
const STATE_TICKS: u64 = 150;
/// What happened and was not recorded yet, at most.
const PENDING: usize = 1024;
/// Times to detect that are kept since the start.
const TIMES: usize = 16_384;

/// The core, shared.
#[derive(Clone, Debug)]
pub struct Brain(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    published: Mutex<Arc<Published>>,
    /// Apart from the rest, because it is true at every tick.
    rules: Mutex<Arc<RulesView>>,
    happened: SyncSender<Happened>,
    trouble: Mutex<Option<String>>,
    /// Why nothing at all can be written, if so.
    unwritable: Mutex<Option<String>>,
    /// Since when whoever records waits for the disk, monotonic nanoseconds; 0: it does not.
    writing_ns: AtomicU64,
    /// What happened and found no room on its way to whoever records.
    untold: AtomicU64,
}

/// The core, and what a tick needs beside it.
#[derive(Debug)]
struct Core {
    decider: Decider,
    /// Absent until the kernel's rules are at hand.
    mitigator: Option<Mitigator>,
    /// Absent until the kernel's guard is at hand.
    gate: Option<Gate>,
    /// Absent until the kernel's tripwire is at hand.
    trap: Option<Trap>,
    /// What is beyond this host.
    planes: Planes,
    uplink: UplinkMeter,
    /// Absent where nothing is recorded.
    tape: Option<Tape>,
    /// The tick at which the whole core was put on it, and the generation of rules that was.
    taped: u64,
    wanted: u64,
    images: Images,
    counts: Box<Counts>,
    packets: Vec<Packet>,
    ticks: u64,
    opened: BTreeMap<Vector, u64>,
    detect_seconds: Vec<f64>,
    /// Incidents whose time to mitigate was taken.
    mitigated: BTreeSet<String>,
    mitigate_seconds: Vec<f64>,
    notices_total: u64,
}

/// What came of a tick.
#[derive(Debug)]
struct Outcome {
    events: Vec<Event>,
    /// What does not work about rules, once.
    trouble: Option<String>,
    /// The rules in the kernel are others.
    changed: bool,
}

/// What the decisions look like at one instant.
#[derive(Debug)]
struct Published {
    learning: Learning,
    baselines: Vec<View>,
    destinations: Vec<DestinationView>,
    incidents: Vec<Arc<Incident>>,
    notices: Vec<Entry>,
    opened: BTreeMap<Vector, u64>,
    detect_seconds: Vec<f64>,
    mitigate_seconds: Vec<f64>,
    notices_total: u64,
    guard: Option<GuardStatus>,
    tripwire: Option<TripwireStatus>,
    armed: Vec<Armed>,
    remembered: Vec<Remembered>,
    watched: BTreeMap<u32, Collateral>,
    ladder: LadderView,
}

/// What is to be logged and recorded, away from the thread on which it happened.
#[derive(Debug)]
pub(super) enum Happened {
    /// An event, and the incident that it is about, as it was then.
    Event(Event, Option<Arc<Incident>>),
    /// The rules in the kernel are others.
    View(Arc<RulesView>),
    /// What does not work about rules, in words.
    Rules(String),
    /// Save everything and end.
    Stop(SyncSender<()>),
}

impl Brain {
    /// Knows nothing yet, or what an earlier life of the daemon knew. The second value is what
    /// happens from now on: somebody has to listen.
    pub(super) fn new(decider: Decider) -> (Self, Receiver<Happened>) {
        let (happened, events) = sync_channel(PENDING);
        let mitigated = decider.incidents().map(|incident| incident.id.clone()).collect();
        let core = Core {
            decider,
            mitigator: None,
            gate: None,
            trap: None,
            planes: Planes::default(),
            uplink: UplinkMeter::default(),
            tape: None,
            taped: 0,
            wanted: 0,
            images: Images::default(),
            counts: Box::default(),
            packets: Vec::new(),
            ticks: 0,
            opened: BTreeMap::new(),
            detect_seconds: Vec::new(),
            mitigated,
            mitigate_seconds: Vec::new(),
            notices_total: 0,
        };
        let published = Mutex::new(Arc::new(core.published(&[])));
        let inner = Inner {
            core: Mutex::new(core),
            published,
            rules: Mutex::default(),
            happened,
            trouble: Mutex::default(),
            unwritable: Mutex::default(),
            writing_ns: AtomicU64::new(0),
            untold: AtomicU64::new(0),
        };
        (Self(Arc::new(inner)), events)
    }

    /// Takes in a tick; returns whether a decision waits for the next. It is called on the poll thread.
    pub fn observe(&self, observed: Observed<'_>) -> bool {
        let mut core = self.core();
        let at_ns = observed.at_ns;
        let Outcome { events, trouble, changed } = core.on_tick(observed);
        if let Some(trouble) = trouble {
            self.tell(Happened::Rules(trouble));
        }
        if changed {
            // Before the events that say why.
            let view = self.publish_rules(&core);
            self.tell(Happened::View(view));
        }
        let hasty = core.decider.is_hasty(at_ns);
        if !events.is_empty() || core.ticks.is_multiple_of(PUBLISH_TICKS) {
            self.publish(&mut core, events);
        }
        hasty
    }

    /// Publishes how things are after some events, and passes these on.
    fn publish(&self, core: &mut Core, events: Vec<Event>) {
        core.count(&events);
        self.publish_rules(core);
        let published = Arc::new(core.published(&self.published().incidents));
        *self.0.published.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&published);
        for event in events {
            let about = match &event {
                Event::Opened { id } | Event::Changed { id, .. } | Event::Closed { id } | Event::Ladder { id, .. } => {
                    published.incidents.iter().rev().find(|incident| incident.id == *id).map(Arc::clone)
                }
                Event::Notice { .. } => None,
            };
            // Whoever records may be stuck on a disk; the incident itself stays in the list.
            self.tell(Happened::Event(event, about));
        }
    }

    fn publish_rules(&self, core: &Core) -> Arc<RulesView> {
        let view = Arc::new(core.mitigator.as_ref().map_or_else(RulesView::default, Mitigator::view));
        *self.0.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        view
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self) -> Arc<Published> {
        Arc::clone(&self.0.published.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns how much is known.
    pub fn learning(&self) -> Learning {
        self.published().learning.clone()
    }

    /// Returns what is known of every class and metric that was ever seen.
    pub fn baselines(&self) -> Vec<View> {
        self.published().baselines.clone()
    }

    /// Returns the busiest addresses behind this node, busiest first.
    pub fn destinations(&self) -> Vec<DestinationView> {
        self.published().destinations.clone()
    }

    /// Returns the incidents, oldest first; those of earlier lives of the daemon too.
    pub fn incidents(&self) -> Vec<Incident> {
        self.published().incidents.iter().map(|incident| Incident::clone(incident)).collect()
    }

    /// As [`Self::incidents`], without copies.
    pub(super) fn incidents_shared(&self) -> Vec<Arc<Incident>> {
        self.published().incidents.clone()
    }

    /// Returns the latest notices, oldest first.
    pub fn notices(&self) -> Vec<Entry> {
        self.published().notices.clone()
    }

    /// Takes the kernel's rules over; from now on rules are put into force.
    pub(super) fn arm(&self, mitigator: Mitigator) {
        self.core().mitigator = Some(mitigator);
    }

    /// Takes the kernel's guard over, or gives it new settings.
    pub(super) fn set_gate(&self, make: impl FnOnce(Option<Gate>) -> Option<Gate>) {
        let mut core = self.core();
        core.gate = make(core.gate.take());
    }

    /// Takes the kernel's tripwire over, or gives it new settings.
    pub(super) fn set_trap(&self, make: impl FnOnce(Option<Trap>) -> Option<Trap>) {
        let mut core = self.core();
        core.trap = make(core.trap.take());
    }

    /// Returns how the guard and the tripwire are; `None` until the kernel's is at hand.
    pub(super) fn guards(&self) -> (Option<GuardStatus>, Option<TripwireStatus>) {
        let published = self.published();
        (published.guard.clone(), published.tripwire.clone())
    }

    /// Puts everything that reaches the core, and what it decides, on a tape from now on.
    pub(super) fn set_tape(&self, tape: Tape) {
        let mut core = self.core();
        core.tape = Some(tape);
        core.tape_state(true);
    }

    /// Takes a new reading of the kernel's clock.
    pub(super) fn set_beat(&self, beat: Beat) {
        if let Some(mitigator) = &mut self.core().mitigator {
            mitigator.set_beat(beat);
        }
    }

    /// Says what no rule may match, and whether rules are made and drop.
    pub(super) fn set_bounds(&self, exempt: Exempt, mode: Mode) {
        let mut core = self.core();
        core.mitigator.iter_mut().filter(|_| mode == Mode::Observe).for_each(Mitigator::end_inherited);
        core.put(Input::Bounds { exempt, mode });
    }

    /// Takes the rules of operators, in force when this returns.
    ///
    /// # Errors
    /// The rules that are not in force.
    pub(super) fn set_operators(&self, rules: Vec<OperatorRule>) -> Result<(), Vec<Failure>> {
        let mut core = self.core();
        if core.mitigator.is_none() {
            return Ok(());
        }
        let of = |rule: &OperatorRule| WatchedRule {
            id: rule.id,
            matches: rule.matches.clone(),
            counts: rule.action.only_looks(),
        };
        core.put(Input::Watch(rules.iter().map(of).collect()));
        let Core { decider, mitigator: Some(mitigator), .. } = &mut *core else { return Ok(()) };
        let result = mitigator.set_operators(rules, clock::monotonic_ns(), decider.wanted());
        self.publish(&mut core, Vec::new());
        result
    }

    /// Says of which packets the kernel gives every one to whoever records, see [`Mitigator::set_captures`].
    ///
    /// # Errors
    /// The rules that are not in force.
    pub(super) fn set_captures(&self, captures: Vec<(u32, FlowMatch, u64)>) -> Result<(), Vec<Failure>> {
        let mut core = self.core();
        let Core { decider, mitigator: Some(mitigator), .. } = &mut *core else { return Ok(()) };
        let result = mitigator.set_captures(captures, clock::monotonic_ns(), decider.wanted());
        self.publish(&mut core, Vec::new());
        result
    }

    /// Returns the rules in the kernel, and what they did.
    pub(super) fn rules(&self) -> Arc<RulesView> {
        Arc::clone(&self.0.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the rules that no operator made: what the next life of the daemon has to know.
    pub(super) fn own_rules(&self) -> Vec<Wanted> {
        let view = self.rules();
        // What is armed is remembered, and armed again only where clean traffic is known to allow it.
        let own = view.rules.iter().filter(|live| match live.owner {
            Owner::Operator(_) | Owner::Capture(_) => false,
            Owner::Decision(id) => !memory::is_armed(id),
            Owner::Inherited => true,
        });
        own.map(|live| live.wanted.clone()).collect()
    }

    /// Returns the signatures of earlier attacks that are armed.
    pub(super) fn armed(&self) -> Vec<Armed> {
        self.published().armed.clone()
    }

    /// Returns the rules that worked.
    pub(super) fn remembered(&self) -> Vec<Remembered> {
        self.published().remembered.clone()
    }

    /// Returns what the rules of operators cost, by their numbers.
    pub(super) fn watched(&self) -> BTreeMap<u32, Collateral> {
        self.published().watched.clone()
    }

    /// Takes in what patterns of indicators say of the open incident.
    pub(super) fn name_tool(&self, input: Input) {
        let mut core = self.core();
        let events = core.put(input);
        self.publish(&mut core, events);
    }

    /// Returns what was learned and holds on other nodes too.
    pub fn export(&self) -> Checkpoint {
        Checkpoint { sockets: None, ..self.core().decider.checkpoint(now()) }
    }

    /// Returns what outlives a restart; `None` where a tick has panicked in the middle of learning: what is
    /// on disk is better then.
    pub(super) fn export_sound(&self) -> Option<Checkpoint> {
        Some(self.0.core.lock().ok()?.decider.checkpoint(now()))
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// Where it cannot be used, in words; nothing has changed then.
    pub fn import(&self, checkpoint: Checkpoint) -> Result<(), String> {
        let mut core = self.core();
        // Another node's sockets are not ours.
        core.decider.restore(Checkpoint { sockets: None, ..checkpoint })?;
        core.tape_state(true);
        self.publish(&mut core, Vec::new());
        Ok(())
    }

    /// Passes something on to whoever records.
    pub(super) fn tell(&self, happened: Happened) -> bool {
        let told = self.0.happened.try_send(happened).is_ok();
        if !told {
            self.0.untold.fetch_add(1, Ordering::Relaxed);
        }
        told
    }

    /// Returns how much found no room since this was last asked.
    pub(super) fn take_untold(&self) -> u64 {
        self.0.untold.swap(0, Ordering::Relaxed)
    }
}

impl Core {
    /// Puts the whole core on the tape: whoever replays begins here.
    fn tape_state(&mut self, breaks: bool) {
        let Self { tape: Some(tape), decider, images, .. } = self else { return };
        if !tape.has_room_for_image() {
            // One for every tick that finds no room would fill the memory: later, and one for all of them.
            return if breaks {
                tape.owe_image()
            };
        }
        self.taped = self.ticks;
        tape.put(Fact::State(images.take(decider, breaks)));
    }

    /// Puts a tick on the tape, and now and then, while nothing is the matter, the whole core.
    fn tape_tick(&mut self, observed: &Observed<'_>, counted: Vec<RuleCount>, events: &[Event], changed: bool) {
        let Self { decider, mitigator, tape: Some(tape), .. } = self else { return };
        let Decided { events, incidents, wanted } = Decided::of(decider, events.to_vec(), &mut self.wanted);
        let slots = changed.then(|| mitigator.as_ref().map(Mitigator::slots).unwrap_or_default());
        tape.put(Fact::Tick(Box::new(TickRecord {
            now: Now { mono_ns: observed.at_ns, unix_ms: observed.unix_ms },
            elapsed_ns: observed.elapsed_ns,
            counts: self.counts.clone(),
            samples: observed.samples.to_vec(),
            outbound: None,
            host: observed.host.clone(),
            rules: counted,
            ifaces: observed.ifaces.iter().map(IfaceSeen::from).collect(),
            events,
            incidents,
            wanted,
            slots,
        })));
        let calm = !decider.incidents().any(Incident::is_open);
        let lost = tape.take_lost();
        if lost || calm && self.ticks.saturating_sub(self.taped) >= STATE_TICKS {
            self.tape_state(lost);
        }
    }

    fn on_tick(&mut self, observed: Observed<'_>) -> Outcome {
        self.ticks += 1;
        self.look_at_uplink(&observed);
        let Self { decider, mitigator, .. } = self;
        for (count, seen) in self.counts.classes.iter_mut().zip(observed.classes) {
            *count = ClassCount { packets: seen.packets, bytes: seen.bytes, dropped: seen.dropped };
        }
        Packet::of_samples(observed.samples, &mut self.packets);
        let counted = mitigator.as_mut().map_or(&[][..], |mitigator| mitigator.counts(observed.elapsed_ns));
        let taped = self.tape.is_some().then(|| counted.to_vec());
        let events = decider.on_tick(&Tick {
            now: Now { mono_ns: observed.at_ns, unix_ms: observed.unix_ms },
            elapsed_ns: observed.elapsed_ns,
            counts: &self.counts,
            samples: &self.packets,
            outbound: None,
            host: observed.host.as_ref(),
            rules: counted,
        });
        let now_ns = clock::monotonic_ns();
        if let Some(gate) = &mut self.gate {
            gate.follow(now_ns, decider.guard(), observed.host.as_ref());
        }
        if let Some(trap) = &mut self.trap {
            trap.follow(now_ns, decider.ceilings());
        }
        self.planes.follow(decider.ascent());
        let trouble = mitigator.as_mut().and_then(|mitigator| mitigator.follow(now_ns, decider.wanted()));
        let changed = mitigator.as_mut().is_some_and(Mitigator::take_changed);
        if let Some(counted) = taped {
            self.tape_tick(&observed, counted, &events, changed);
        }
        Outcome { events, trouble, changed }
    }

    /// Counts what the metrics count.
    fn count(&mut self, events: &[Event]) {
        for event in events {
            match event {
                Event::Opened { id } => {
                    let Some(incident) = self.decider.incidents().rev().find(|incident| incident.id == *id) else {
                        continue;
                    };
                    *self.opened.entry(incident.vector).or_default() += 1;
                    if self.detect_seconds.len() < TIMES {
                        self.detect_seconds.push(seconds(incident.began, incident.opened));
                    }
                }
                Event::Notice { .. } => self.notices_total += 1,
                Event::Changed { .. } | Event::Closed { .. } | Event::Ladder { .. } => {}
            }
        }
        self.time_mitigation();
    }

    /// Notes how long incidents took to their first rule, once for each.
    fn time_mitigation(&mut self) {
        let Self { decider, mitigated, mitigate_seconds, .. } = self;
        for incident in decider.incidents() {
            let Some(at) = incident.mitigated else { continue };
            if mitigate_seconds.len() < TIMES && mitigated.insert(incident.id.clone()) {
                mitigate_seconds.push(seconds(incident.began, at));
            }
        }
        if mitigated.len() > decider.incidents().count() {
            mitigated.retain(|id| decider.incidents().any(|incident| incident.id == *id));
        }
    }

    /// Returns how things are. Of what was published before, closed incidents are taken over:
    /// they change no more.
    fn published(&self, before: &[Arc<Incident>]) -> Published {
        let closed = before.iter().filter(|incident| !incident.is_open());
        let known: BTreeMap<&str, &Arc<Incident>> = closed.map(|incident| (incident.id.as_str(), incident)).collect();
        let share = |incident: &Incident| match known.get(incident.id.as_str()) {
            Some(known) => Arc::clone(known),
            None => Arc::new(incident.clone()),
        };
        Published {
            learning: self.decider.learning(),
            baselines: self.decider.baselines(),
            destinations: self.decider.destinations(),
            incidents: self.decider.incidents().map(share).collect(),
            notices: self.decider.notices().cloned().collect(),
            opened: self.opened.clone(),
            detect_seconds: self.detect_seconds.clone(),
            mitigate_seconds: self.mitigate_seconds.clone(),
            notices_total: self.notices_total,
            guard: self.gate.as_ref().map(|gate| gate.status(&self.decider)),
            tripwire: self.trap.as_ref().map(|_| Trap::status(&self.decider)),
            armed: self.decider.armed(),
            remembered: self.decider.remembered(),
            watched: self.decider.watched().collect(),
            ladder: self.decider.ladder_view(),
        }
    }
}

/// Returns a decider with a seed of the operating system: who cannot guess it cannot fill one
/// bucket of its tables on purpose.
///
/// # Errors
/// Where there is no randomness to be had.
pub(super) fn decider(trust_after_s: u64, mode: Mode) -> io::Result<Decider> {
    let seed = getrandom::u64().map_err(io::Error::other)?;
    Ok(Decider::new(Settings { trust_after_s, seed, mode }))
}

/// Returns the seconds between two instants of this boot.
pub(super) fn seconds(from: Now, to: Now) -> f64 {
    to.mono_ns.saturating_sub(from.mono_ns) as f64 / 1e9
}

/// Returns the present.
pub(super) fn now() -> Now {
    Now { mono_ns: clock::monotonic_ns(), unix_ms: clock::unix_ms() }
}

#[cfg(test)]
mod tests;
