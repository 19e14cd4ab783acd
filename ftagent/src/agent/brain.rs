//! The functional core behind a lock: the poll loop feeds it, the surfaces ask it.
//!
//! What surfaces show is published once a second and at every event, so that they never hold the
//! lock that a tick needs; only commands that change something do, for moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use ftagent_common::TrafficClass;

use super::mitigator::{Beat, Failure, Mitigator, Owner, View as RulesView};
use super::{gate::Gate, trap::Trap};
use crate::{
    act::operator::OperatorRule,
    decide::{
        ClassCount, Counts, Decider, Event, Incident, Now, Packet, Settings, Tick, Vector,
        baseline::{Checkpoint, Learning, View},
        destinations::DestinationView,
        incident::Entry,
        mitigate::{
            Exempt, Mode, Wanted,
            collateral::Collateral,
            memory::{self, Armed, Remembered},
        },
    },
    rule::Action,
    sense::{clock, meter::Observed},
    serve::protocol::{GuardStatus, TripwireStatus},
};

/// Ticks between two publications.
const PUBLISH_TICKS: u64 = 10;
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
}

/// What metrics show of it.
#[derive(Clone, Debug, Default)]
pub struct BrainMetrics {
    /// Everything that is known to be normal.
    pub views: Vec<View>,
    /// Open incidents by vector.
    pub active: BTreeMap<Vector, usize>,
    /// Incidents that opened since the start, by vector.
    pub opened_total: BTreeMap<Vector, u64>,
    /// Seconds from the beginning of each of them to its opening.
    pub detect_seconds: Vec<f64>,
    /// Seconds from the beginning of each to its first rule in force, where it got one.
    pub mitigate_seconds: Vec<f64>,
    /// Notices since the start.
    pub notices_total: u64,
}

/// What is to be logged and recorded, away from the thread on which it happened.
#[derive(Debug)]
pub(super) enum Happened {
    /// An event, and the incident that it is about, as it was then.
    Event(Event, Option<Arc<Incident>>),
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
        let inner =
            Inner { core: Mutex::new(core), published, rules: Mutex::default(), happened, trouble: Mutex::default() };
        (Self(Arc::new(inner)), events)
    }

    /// Takes in a tick; returns whether a decision waits for the next. It is called on the poll thread.
    pub fn observe(&self, observed: Observed<'_>) -> bool {
        let mut core = self.core();
        let at_ns = observed.at_ns;
        let (events, trouble) = core.on_tick(observed);
        if let Some(trouble) = trouble {
            self.tell(Happened::Rules(trouble));
        }
        let changed = core.mitigator.as_mut().is_some_and(Mitigator::take_changed);
        if changed && events.is_empty() {
            self.publish_rules(&core);
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
                Event::Opened { id } | Event::Changed { id, .. } | Event::Closed { id } => {
                    published.incidents.iter().rev().find(|incident| incident.id == *id).map(Arc::clone)
                }
                Event::Notice { .. } => None,
            };
            // Whoever records may be stuck on a disk; the incident itself stays in the list.
            let _full = self.0.happened.try_send(Happened::Event(event, about));
        }
    }

    fn publish_rules(&self, core: &Core) {
        let view = core.mitigator.as_ref().map_or_else(RulesView::default, Mitigator::view);
        *self.0.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
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

    /// Returns what metrics show.
    pub fn metrics(&self) -> BrainMetrics {
        let published = self.published();
        let mut active = BTreeMap::new();
        for incident in published.incidents.iter().filter(|incident| incident.is_open()) {
            *active.entry(incident.vector).or_default() += 1;
        }
        BrainMetrics {
            views: published.baselines.clone(),
            active,
            opened_total: published.opened.clone(),
            detect_seconds: published.detect_seconds.clone(),
            mitigate_seconds: published.mitigate_seconds.clone(),
            notices_total: published.notices_total,
        }
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

    /// Takes a new reading of the kernel's clock.
    pub(super) fn set_beat(&self, beat: Beat) {
        if let Some(mitigator) = &mut self.core().mitigator {
            mitigator.set_beat(beat);
        }
    }

    /// Says what no rule may match, and whether rules are made and drop.
    pub(super) fn set_bounds(&self, exempt: Exempt, mode: Mode) {
        let mut core = self.core();
        core.decider.set_exempt(exempt);
        core.decider.set_mode(mode);
    }

    /// Takes the rules of operators, in force when this returns.
    ///
    /// # Errors
    /// The rules that are not in force.
    pub(super) fn set_operators(&self, rules: Vec<OperatorRule>) -> Result<(), Vec<Failure>> {
        let mut core = self.core();
        let Core { decider, mitigator: Some(mitigator), .. } = &mut *core else { return Ok(()) };
        let of = |rule: &OperatorRule| (rule.id, rule.matches.clone(), rule.action == Action::Count);
        decider.watch(rules.iter().map(of));
        let result = mitigator.set_operators(rules, clock::monotonic_ns(), decider.wanted());
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
            Owner::Operator(_) => false,
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

    /// Takes the operator's word that the present load is normal.
    pub fn accept(&self) -> Vec<Event> {
        let mut core = self.core();
        let events = core.decider.accept(now());
        self.publish(&mut core, events.clone());
        events
    }

    /// Forgets everything that was learned, of one class or of all.
    pub fn reset(&self, class: Option<TrafficClass>) {
        let mut core = self.core();
        core.decider.reset(class);
        self.publish(&mut core, Vec::new());
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
        self.publish(&mut core, Vec::new());
        Ok(())
    }

    /// Returns why what was learned or found is not on disk, if it is not.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Passes something on to whoever records.
    pub(super) fn tell(&self, happened: Happened) -> bool {
        self.0.happened.try_send(happened).is_ok()
    }
}

impl Core {
    /// The second value is what does not work about rules, once.
    fn on_tick(&mut self, observed: Observed<'_>) -> (Vec<Event>, Option<String>) {
        self.ticks += 1;
        let Self { decider, mitigator, .. } = self;
        for (count, seen) in self.counts.classes.iter_mut().zip(observed.classes) {
            *count = ClassCount { packets: seen.packets, bytes: seen.bytes, dropped: seen.dropped };
        }
        self.packets.clear();
        self.packets.extend(observed.samples.iter().map(Packet::of_sample));
        // Every CPU writes its samples in order; those of several may cross.
        if !self.packets.is_sorted_by_key(|packet| packet.time_ns) {
            self.packets.sort_by_key(|packet| packet.time_ns);
        }
        let counted = mitigator.as_mut().map_or(&[][..], |mitigator| mitigator.counts(observed.elapsed_ns));
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
        let trouble = mitigator.as_mut().and_then(|mitigator| mitigator.follow(now_ns, decider.wanted()));
        (events, trouble)
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
                Event::Changed { .. } | Event::Closed { .. } => {}
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
mod tests {
    use ftagent_common::{
        reason::verdict,
        sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
    };

    use super::*;
    use crate::sense::meter::{Classes, Counted};

    const MS: u64 = 1_000_000;

    fn syn() -> SampleRecord {
        let mut data = [0; SAMPLE_BYTES];
        // An Ethernet header, IPv4 from 192.0.2.1 to 198.51.100.1, and a SYN to port 443.
        data[12..14].copy_from_slice(&[8, 0]);
        data[14..34].copy_from_slice(&[69, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
        data[34..54].copy_from_slice(&[156, 64, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 80, 2, 250, 240, 0, 0, 0, 0]);
        let header = SampleHeader {
            time_ns: 0,
            wire_bytes: 60,
            stride: 1,
            captured: 60,
            slot: 0,
            class: TrafficClass::TcpSyn.index() as u8,
            verdict: verdict::DROP as u8,
            reason: 0,
            socket: 0,
            rule: 0,
            cpu: 0,
            flags: 0,
        };
        SampleRecord { header, data }
    }

    /// Lets a brain see ticks of 100 ms with so many SYNs each.
    fn see(brain: &Brain, ticks: std::ops::Range<u64>, packets: u64) {
        let mut classes: Classes = [Counted::default(); TrafficClass::COUNT];
        classes[TrafficClass::TcpSyn.index()] = Counted { packets, bytes: packets * 60, dropped: 0 };
        for tick in ticks {
            brain.observe(Observed {
                at_ns: (tick + 1) * 100 * MS,
                unix_ms: 1_700_000_000_000 + tick as i64 * 100,
                elapsed_ns: 100 * MS,
                classes: &classes,
                samples: &[syn(); 3],
                host: None,
            });
        }
    }

    #[test]
    fn samples_are_decoded_as_the_kernel_counted_them() {
        let packet = Packet::of_sample(&syn());
        assert_eq!((packet.class, packet.wire, packet.dropped), (TrafficClass::TcpSyn, 60, true));
        let ends = packet.ends.map(|(src, dst)| (src.to_string(), dst.to_string()));
        assert_eq!(ends, Some(("192.0.2.1".into(), "198.51.100.1".into())));
        assert_eq!((packet.dport, packet.ttl), (443, 64));
        let mut odd = syn();
        (odd.header.captured, odd.header.class) = (u16::MAX, u8::MAX);
        assert_eq!(Packet::of_sample(&odd).dport, 443, "a record that makes no sense is no reason to fall");
    }

    #[test]
    fn ticks_become_baselines_and_commands_show_at_once() {
        let (brain, events) = Brain::new(decider(3, Mode::Enforce).unwrap());
        let rate = |brain: &Brain| brain.baselines().iter().find(|v| v.class == "tcp_syn").map(|view| view.baseline);
        assert_eq!(rate(&brain), None);
        see(&brain, 0..100, 40);
        let learned = rate(&brain).unwrap();
        assert!((300.0..500.0).contains(&learned), "{learned}");
        assert_eq!(brain.learning().trust_after_s, 3);
        let checkpoint = brain.export();
        brain.reset(None);
        assert_ne!(rate(&brain), Some(learned), "forgotten");
        brain.import(checkpoint.clone()).unwrap();
        assert_eq!(rate(&brain), Some(learned));
        assert!(brain.import(Checkpoint { version: Checkpoint::VERSION + 1, ..checkpoint }).is_err());
        assert_eq!(rate(&brain), Some(learned), "what cannot be used changes nothing");
        let told = brain.accept();
        assert_eq!(brain.notices().iter().rev().take(told.len()).count(), told.len());
        assert_eq!(brain.metrics().notices_total, brain.notices().len() as u64);
        let heard = events.try_iter().filter(|happened| matches!(happened, Happened::Event(..))).count();
        assert_eq!(heard as u64, brain.metrics().notices_total, "and whoever records hears of all");
    }

    #[test]
    fn nobody_who_listens_holds_up_no_tick() {
        let (brain, events) = Brain::new(decider(1, Mode::Enforce).unwrap());
        for _ in 0..2 * PENDING {
            brain.accept();
        }
        see(&brain, 0..10, 1);
        assert_eq!(events.try_iter().count(), PENDING);
        drop(events);
        brain.accept();
        assert!(!brain.tell(Happened::Event(Event::Notice { what: String::new() }, None)));
    }
}
