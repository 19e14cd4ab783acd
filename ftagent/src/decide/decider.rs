//! Joins baselines, detection, analysis and incidents.

mod disguise;
mod known;
mod upstream;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Excess, Metric, Now, Tick, Vector,
    analyst::{Analyst, Question},
    baseline::{Baselines, Checkpoint, Learning, Second, View},
    classify::{Finding, Judgement},
    destinations::{DestinationView, Destinations},
    detect::Detector,
    guard::{self, Plan, Sentry, Validation},
    incident::{Entry, Incident},
    ladder::{Ladder, Turn},
    machine::{Known, Machine},
    mitigate::{
        Exempt, Mode, Wanted,
        collateral::{Collateral, Watch},
        keeper::{self, Keeper},
        levels::Levels,
        memory::{Armed, Remembered},
    },
    reservoir::Reservoir,
    tripwire::{self, Ceiling, Tripwire},
};
use crate::{
    rule::{Action, FlowMatch},
    sense::signals::HostSignals,
};

/// How it decides. There is nothing to tune: these are contracts, not thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Seconds of data before the baseline is trusted.
    pub trust_after_s: u64,
    /// Keys the tables that senders could otherwise fill on purpose.
    pub seed: u64,
    /// Whether it acts.
    pub mode: Mode,
}

/// What was decided in a tick.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// An incident opened.
    Opened {
        /// Its id.
        id: String,
    },
    /// Something about it changed that people want to know.
    Changed {
        /// Its id.
        id: String,
        /// What, in words.
        what: String,
    },
    /// It closed.
    Closed {
        /// Its id.
        id: String,
    },
    /// The ladder moved: something is asked of the network upstream, or taken back.
    Ladder {
        /// The incident; may be over already.
        id: String,
        /// The rung, as the configuration names it.
        rung: String,
        /// What kind of move.
        turn: Turn,
        /// What and why, in words.
        what: String,
    },
    /// Something to know that is no attack: the ceiling doubled, load that looks human.
    Notice {
        /// What, in words.
        what: String,
    },
}

/// Findings from this confidence on open an incident once normal is known.
const SURE: f64 = 0.5;
/// Findings from this confidence on open an incident while nothing is known.
const SURE_WHEN_COLD: f64 = 0.9;
/// Notices that are kept.
const NOTICES: usize = 64;
/// An excess that looks ordinary is told again after this time if it has grown to so many times …
const TELL_GROWN_NS: u64 = 600_000_000_000;
/// … what it was when it was told …
const GROWN: f64 = 2.0;
/// … and otherwise three times a day: what goes on has been said.
const TELL_AGAIN_NS: u64 = 8 * 3600 * 1_000_000_000;
/// An excess must look ordinary for so many judgements before it is told.
const ORDINARY_TIMES: u32 = 10;
/// What is suspicious for so many judgements is named in hindsight if it ends before it is certain.
const SUSPICIOUS_TIMES: u32 = 20;
/// A suspicion is over when the rate has fallen to this share of its peak …
const ENDED: f64 = 0.25;
/// … for this long.
const ENDED_NS: u64 = 2_000_000_000;
/// An incident is judged at every tick while it is this young, then twice a second.
const YOUNG_NS: u64 = 5_000_000_000;
/// Ticks are shorter while an incident is this young and its rules only count.
const HASTY_NS: u64 = 1_000_000_000;
/// Ticks between judgements of an older incident.
const SELDOM: u64 = 5;

/// What looks like an attack while nothing is known of what is normal.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Suspicion {
    finding: Finding,
    began: Now,
    times: u32,
    peak: (f64, f64),
    low_since_ns: Option<u64>,
}

/// What was said of a class whose excess looks ordinary.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Told {
    /// Judgements since it was last told.
    times: u32,
    /// When it was told, and packets a second then.
    last: Option<(u64, f64)>,
}

impl Told {
    /// Returns what there is to add to a notice that is due, or nothing where it is not.
    fn due(&mut self, now_ns: u64, pps: f64) -> Option<String> {
        self.times += 1;
        if self.times < ORDINARY_TIMES {
            return None;
        }
        let Some((at_ns, before)) = self.last else {
            (self.times, self.last) = (0, Some((now_ns, pps)));
            return Some(String::new());
        };
        let (ago_ns, grown) = (now_ns.saturating_sub(at_ns), pps >= GROWN * before);
        if ago_ns < TELL_GROWN_NS || !grown && ago_ns < TELL_AGAIN_NS {
            return None;
        }
        // What goes up and down is not growth each time that it goes up.
        (self.times, self.last) = (0, Some((now_ns, pps.max(before / GROWN))));
        let hours = ago_ns as f64 / 3.6e12;
        Some(format!("; {pps:.0} pps now, {before:.0} when this was last told {hours:.1} h ago"))
    }
}

/// The functional core.
#[derive(Debug, Serialize, Deserialize)]
pub struct Decider {
    settings: Settings,
    baselines: Baselines,
    detector: Detector,
    destinations: Destinations,
    analyst: Analyst,
    machine: Machine,
    notices: VecDeque<Entry>,
    told: BTreeMap<TrafficClass, Told>,
    suspicion: Option<Suspicion>,
    /// When a class was last found suspicious.
    suspect_ns: BTreeMap<TrafficClass, u64>,
    /// What was counted since the last second ended.
    second: Vec<(u64, u64)>,
    second_ns: u64,
    ticks: u64,
    wanted: Vec<Wanted>,
    generation: u64,
    exempt: Exempt,
    reservoir: Reservoir,
    keeper: Keeper,
    sentry: Sentry,
    tripwire: Tripwire,
    watch: Watch,
    ladder: Ladder,
    now: Now,
}

clone_in_place!(Decider {
    settings,
    baselines,
    detector,
    destinations,
    analyst,
    machine,
    notices,
    told,
    suspicion,
    suspect_ns,
    second,
    second_ns,
    ticks,
    wanted,
    generation,
    exempt,
    reservoir,
    keeper,
    sentry,
    tripwire,
    watch,
    ladder,
    now
});

impl Decider {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            baselines: Baselines::default(),
            detector: Detector::default(),
            destinations: Destinations::default(),
            analyst: Analyst::new(settings.seed),
            machine: Machine::default(),
            notices: VecDeque::new(),
            told: BTreeMap::new(),
            suspicion: None,
            suspect_ns: BTreeMap::new(),
            second: vec![(0, 0); TrafficClass::COUNT],
            second_ns: 0,
            ticks: 0,
            wanted: Vec::new(),
            generation: 0,
            exempt: Exempt::default(),
            reservoir: Reservoir::new(settings.seed.rotate_left(41)),
            keeper: Keeper::default(),
            sentry: Sentry::default(),
            tripwire: Tripwire::default(),
            watch: Watch::default(),
            ladder: Ladder::default(),
            now: Now::default(),
        }
    }

    /// Returns the rules that are wanted in the kernel, in the order in which they are tried, and a
    /// number that changes whenever they do.
    pub fn wanted(&self) -> (&[Wanted], u64) {
        (&self.wanted, self.generation)
    }

    /// Returns how many clean flows are known: those that a conversation vouches for, and others.
    pub fn clean_flows(&self) -> (usize, usize) {
        self.reservoir.size()
    }

    /// Returns where the guard is to be armed, and a number that changes whenever that does.
    pub fn guard(&self) -> (&Plan, u64) {
        self.sentry.plan()
    }

    /// Returns what is to be held against each class, by its number, and a number that changes whenever
    /// that does.
    pub fn ceilings(&self) -> (&[Ceiling], u64) {
        self.tripwire.ceilings()
    }

    /// Returns whether a decision waits for the next tick: a rule of a young incident counts, and drops
    /// nothing yet.
    pub fn is_hasty(&self, now_ns: u64) -> bool {
        let young = self.machine.opened_ns().is_some_and(|opened| now_ns.saturating_sub(opened) < HASTY_NS);
        young && self.wanted.iter().any(|wanted| wanted.rule.action == Action::Count)
    }

    /// Returns since when the guard is to be armed, and against what.
    pub fn guard_cause(&self) -> Option<(Now, &[Vector])> {
        self.sentry.cause()
    }

    /// Returns where the socket table was found to be right.
    pub fn validation(&self) -> &Validation {
        self.sentry.validation()
    }

    /// Says what no rule may match.
    pub fn set_exempt(&mut self, exempt: Exempt) {
        self.exempt = exempt;
        self.keeper.look_again();
    }

    /// Changes whether it acts, from the next tick on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.settings.mode = mode;
        self.keeper.look_again();
    }

    /// Returns the classes that are thinned while there is no safe rule, with the packets a second that
    /// each keeps.
    pub fn thinned(&self) -> &BTreeMap<TrafficClass, f64> {
        self.keeper.thinned()
    }

    /// Returns the signatures of earlier attacks that are armed, latest first.
    pub fn armed(&self) -> Vec<Armed> {
        self.keeper.armed(self.now.mono_ns)
    }

    /// Returns the rules that worked, as they outlive a restart.
    pub fn remembered(&self) -> Vec<Remembered> {
        self.keeper.remembered()
    }

    /// Takes over the rules that worked in an earlier life of the daemon.
    pub fn restore_remembered(&mut self, remembered: Vec<Remembered>, now: Now) {
        self.keeper.remember(remembered, now);
    }

    /// Says which rules operators have: number, match, and whether it only counts. What they cost is
    /// measured.
    pub fn watch(&mut self, rules: impl IntoIterator<Item = (u32, FlowMatch, bool)>) {
        self.watch.set(rules);
    }

    /// Returns what the rules of operators cost, by their numbers.
    pub fn watched(&self) -> impl Iterator<Item = (u32, Collateral)> {
        self.watch.read()
    }

    /// Takes in a tick and returns what was decided.
    pub fn on_tick(&mut self, tick: &Tick<'_>) -> Vec<Event> {
        self.ticks += 1;
        self.now = tick.now;
        self.analyst.observe(tick);
        let trusted = self.is_trusted();
        let excess = self.detector.on_tick(tick, &self.baselines, trusted);
        let mut events = Vec::new();
        let judgement = self.judge(tick.now, &excess, trusted);
        let bar = if trusted { SURE } else { SURE_WHEN_COLD };
        let (sure, unsure): (Vec<_>, Vec<_>) = judgement.findings.into_iter().partition(|f| f.confidence >= bar);
        events.extend(self.machine.confirm(tick.now, &sure, &excess, trusted, None));
        events.extend(self.look_at_addresses(tick, trusted, sure.is_empty()));
        self.suspect(tick.now, &sure);
        self.suspect(tick.now, &unsure);
        events.extend(self.watch_suspicion(tick.now, &unsure, trusted));
        events.extend(self.tell_ordinary(tick.now, &excess, &judgement.ordinary));
        let Self { machine, detector, baselines, destinations, .. } = self;
        events.extend(machine.on_tick(tick, &Known { detector, baselines, destinations }));
        events.extend(self.mitigate(tick, trusted));
        self.hold(tick.now, trusted);
        events.extend(self.climb(tick, trusted));
        events.extend(self.learn(tick));
        events
    }

    /// Sees to the rules of the open incident; learns what clean traffic is where there is none.
    fn mitigate(&mut self, tick: &Tick<'_>, trusted: bool) -> Vec<Event> {
        let now = tick.now;
        let suspicious = self.suspicion.is_some() || self.suspect_ns.keys().any(|class| self.is_suspect(*class, now));
        let calm = !self.machine.is_open() && !suspicious;
        let flows = self.analyst.memory().flows;
        self.reservoir.feed(now.mono_ns, self.analyst.fresh(), flows, calm);
        self.watch_sockets(now, calm, trusted);
        self.watch.on_tick(now.mono_ns, &self.analyst.memory(), self.analyst.fresh());
        let mut events = Vec::new();
        let over = self
            .keeper
            .incident()
            .map(str::to_owned)
            .filter(|id| self.machine.find(id).is_none_or(|incident| !incident.is_open()));
        if let Some(id) = over {
            self.keeper.end(self.machine.find(&id), now);
        }
        let Self { keeper, machine, analyst, reservoir, exempt, baselines, settings, .. } = self;
        let mut lines = Vec::new();
        if machine.is_open() || keeper.is_awake() {
            let levels = Levels::of(baselines, trusted);
            let scene = keeper::Scene {
                now,
                elapsed_ns: tick.elapsed_ns,
                counts: tick.rules,
                analyst,
                reservoir,
                exempt,
                ordinary: &levels.ordinary,
                exit: &levels.exit,
                clean: &levels.clean,
                mode: settings.mode,
                trusted,
                strained: tick.host.is_some_and(HostSignals::is_strained),
            };
            lines = keeper.watch(&scene, calm);
            if let Some(current) = machine.current() {
                events = keeper.on_tick(current, &scene);
            }
        }
        for line in lines {
            events.push(self.notice(now, line));
        }
        if let Some(wanted) = self.keeper.changes() {
            self.wanted = wanted;
            self.generation += 1;
        }
        events
    }

    /// Sees to what the kernel holds against each class.
    fn hold(&mut self, now: Now, trusted: bool) {
        let Self { tripwire, baselines, machine, keeper, settings, .. } = self;
        let open: BTreeSet<TrafficClass> =
            TrafficClass::ALL.into_iter().filter(|class| machine.holds(*class)).collect();
        let (mode, thinned) = (settings.mode, keeper.thinned());
        tripwire.on_tick(&tripwire::Scene { now, baselines, trusted, mode, open: &open, thinned });
    }

    /// Learns in calm where the socket table is right, and arms the guard there in an attack.
    fn watch_sockets(&mut self, now: Now, calm: bool, trusted: bool) {
        let Self { sentry, analyst, exempt, machine, settings, .. } = self;
        if calm {
            let flows = analyst.memory().flows;
            for seen in analyst.fresh().filter(|seen| guard::is_own(&exempt.own, seen.packet.dst())) {
                sentry.note(&seen.packet, flows.get(&seen.mark));
            }
        }
        let current = machine.current().filter(|_| settings.mode.acts(trusted));
        let vectors = current.map_or(&[][..], |current| &current.incident.vectors);
        sentry.on_tick(now, vectors);
    }

    /// Judges an address far above its own level by its own packets, where the classes show nothing.
    fn look_at_addresses(&mut self, tick: &Tick<'_>, trusted: bool, classes_are_fine: bool) -> Vec<Event> {
        let Some(focus) = self.destinations.on_tick(tick, trusted) else { return Vec::new() };
        if !classes_are_fine {
            return Vec::new();
        }
        let only = Some(focus.address);
        let question = Question { now_ns: tick.now.mono_ns, excess: &focus.excess, trusted, only };
        let mut findings = self.analyst.judge(&question).findings;
        findings.retain(|finding| finding.confidence >= SURE);
        self.suspect(tick.now, &findings);
        self.machine.confirm(tick.now, &findings, &focus.excess, trusted, only)
    }

    fn is_trusted(&self) -> bool {
        self.baselines.learned_s() >= self.settings.trust_after_s
    }

    fn judge(&mut self, now: Now, excess: &[Excess], trusted: bool) -> Judgement {
        let young = self.machine.opened_ns().is_none_or(|opened| now.mono_ns.saturating_sub(opened) < YOUNG_NS);
        let due = young || self.ticks.is_multiple_of(SELDOM);
        let mut judgement = if excess.is_empty() || !due {
            Judgement::default()
        } else {
            self.analyst.judge(&Question { now_ns: now.mono_ns, excess, trusted, only: None })
        };
        if self.ticks.is_multiple_of(10) {
            judgement.findings.extend(self.analyst.standing(now.mono_ns).findings);
        }
        judgement
    }

    fn suspect(&mut self, now: Now, findings: &[Finding]) {
        for finding in findings.iter().filter(|finding| finding.confidence >= SURE) {
            for class in finding.evidence.classes.iter().filter_map(|name| TrafficClass::from_name(name)) {
                self.suspect_ns.insert(class, now.mono_ns);
            }
        }
    }

    /// While nothing is known of what is normal, what looks like an attack is neither learned nor
    /// acted on; if it ends before that changes, it is named then.
    fn watch_suspicion(&mut self, now: Now, unsure: &[Finding], trusted: bool) -> Vec<Event> {
        if trusted || self.machine.is_open() {
            self.suspicion = None;
            return Vec::new();
        }
        if let Some(finding) = unsure.first().filter(|finding| finding.confidence >= SURE) {
            let suspicion = self.suspicion.get_or_insert_with(|| Suspicion {
                finding: finding.clone(),
                began: now,
                times: 0,
                peak: (0.0, 0.0),
                low_since_ns: None,
            });
            suspicion.times += 1;
            if finding.confidence > suspicion.finding.confidence {
                suspicion.finding = finding.clone();
            }
        }
        let Some(suspicion) = &mut self.suspicion else { return Vec::new() };
        let classes = suspicion.finding.evidence.classes.iter().filter_map(|name| TrafficClass::from_name(name));
        let rates = classes.map(|class| self.detector.rates(class));
        let (pps, bps) = rates.fold((0.0, 0.0), |sum, rate| (sum.0 + rate.0, sum.1 + rate.1));
        suspicion.peak = (suspicion.peak.0.max(pps), suspicion.peak.1.max(bps));
        if pps > suspicion.peak.0 * ENDED {
            suspicion.low_since_ns = None;
            return Vec::new();
        }
        let since = *suspicion.low_since_ns.get_or_insert(now.mono_ns);
        if now.mono_ns.saturating_sub(since) < ENDED_NS {
            return Vec::new();
        }
        match self.suspicion.take() {
            Some(Suspicion { finding, began, times, peak, .. }) if times >= SUSPICIOUS_TIMES => {
                self.machine.in_hindsight(now, began, &finding, peak)
            }
            _ => Vec::new(),
        }
    }

    /// Tells of an excess that no finding explains: once, when it has grown, and now and then.
    fn tell_ordinary(&mut self, now: Now, excess: &[Excess], lines: &[String]) -> Vec<Event> {
        let Some(line) = lines.first().filter(|_| self.is_trusted() && !self.machine.is_open()) else {
            return Vec::new();
        };
        let Some(busiest) = excess.iter().max_by(|a, b| a.pps.total_cmp(&b.pps)) else { return Vec::new() };
        let due = self.told.entry(busiest.class).or_default().due(now.mono_ns, busiest.pps);
        due.map(|since| self.notice(now, format!("{line}{since}"))).into_iter().collect()
    }

    fn notice(&mut self, at: Now, what: String) -> Event {
        self.notices.push_back(Entry { at, what: what.clone() });
        if self.notices.len() > NOTICES {
            self.notices.pop_front();
        }
        Event::Notice { what }
    }

    /// Learns whenever a second is over.
    fn learn(&mut self, tick: &Tick<'_>) -> Vec<Event> {
        self.second_ns += tick.elapsed_ns;
        for (sum, count) in self.second.iter_mut().zip(&tick.counts.classes) {
            sum.0 += count.packets;
            sum.1 += count.bytes;
        }
        if self.second_ns < 1_000_000_000 {
            return Vec::new();
        }
        let (now, length) = (tick.now, self.second_ns as f64 / 1e9);
        let seconds: Vec<Second> = TrafficClass::ALL
            .into_iter()
            .zip(&self.second)
            .map(|(class, (packets, bytes))| Second {
                pps: *packets as f64 / length,
                bps: *bytes as f64 * 8.0 / length,
                ordinary: !self.machine.holds(class) && !self.is_suspect(class, now),
            })
            .collect();
        self.second.fill((0, 0));
        self.second_ns = 0;
        let was_trusted = self.is_trusted();
        let doubled = self.baselines.second(now, &seconds);
        let mut events = Vec::new();
        if !was_trusted && self.is_trusted() {
            events.push(self.notice(now, "the baseline is trusted from now on".to_owned()));
        }
        for (class, metric, value) in doubled {
            let unit = if metric == Metric::Bps { "bit/s" } else { "pps" };
            let what = format!(
                "the ceiling of {} has doubled to {value:.0} {unit}: if this load is not yours, look at `ftagent baseline show --class {0}`",
                class.as_str()
            );
            events.push(self.notice(now, what));
        }
        events
    }

    fn is_suspect(&self, class: TrafficClass, now: Now) -> bool {
        self.suspect_ns.get(&class).is_some_and(|at| now.mono_ns.saturating_sub(*at) <= 1_500_000_000)
    }

    #[cfg(test)]
    pub(super) fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }
}

#[cfg(test)]
mod tests;
