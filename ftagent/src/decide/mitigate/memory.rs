//! Rules that worked. They stay in the kernel as *armed signatures*: what matches one is let through at
//! the rate that clean traffic may need, so that the next wave of the same attack is dropped from its
//! first packets on, before anybody has looked at it.
//!
//! Nothing is armed that clean traffic could miss: not where a share of it beyond the budget matches
//! now, not where exempt flows do, and never a match that is a class, a protocol or a port in other
//! words. One that drops conversations from before is forgotten.

use std::collections::{BTreeSet, VecDeque};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Predicted, Wanted,
    collateral::{Collateral, Gauge, Jury},
    keeper::Scene,
    life::{Meter, TTL_MS, VETO},
};
use crate::{
    decide::{
        Now, Vector,
        synthesis::{BUDGET, Choice, SCARCE, exempt},
    },
    rule::{Action, FlowMatch, Origin, Ranges, Rate, Rule, set::Number},
};

/// Rules that are remembered.
const MOST: usize = 32;
/// Rules that are armed.
pub const ARMED: usize = 16;
/// For how long a rule is remembered after it worked last, nanoseconds.
const LASTS_NS: u64 = 6 * 3600 * 1_000_000_000;
/// Ids of armed rules, from here on: the rules of an incident are tried before them.
const IDS: u32 = 1 << 29;

/// Returns whether an id is that of an armed rule.
pub const fn is_armed(id: u32) -> bool {
    id >= IDS
}

/// What is armed is looked at anew after this time, nanoseconds.
const REVIEW_NS: u64 = 60_000_000_000;
/// The same while nothing may be armed, or too little is known of clean traffic: after a restart.
const REVIEW_SOON_NS: u64 = 5_000_000_000;
/// A limit is never tighter than this, packets a second.
const LEAST_PPS: f64 = 100.0;
/// So many calm seconds have to be known before anything is limited: a conversation that a rule hit in
/// an attack must not be hit after it for want of a look.
const CALM_S: u64 = 5;
/// A limit lets so many times through what calm traffic had at most.
const ROOM: f64 = 10.0;
/// A second counts as calm only if nothing was wrong for so long after it, nanoseconds.
const WAITS_NS: u64 = 3_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// A limit that dropped nothing for so long begins anew when it drops, nanoseconds.
const PAUSE_NS: u64 = 5_000_000_000;
/// What dropped within this time is part of a load that an operator calls normal, nanoseconds.
const ACCEPTED_NS: u64 = 60_000_000_000;
/// A set of values that is a constant of the packets: ranges at most, and values of each.
const CONSTANT: (usize, u32) = (4, 8);

/// An armed signature, as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Armed {
    /// [`Wanted::id`].
    pub id: u32,
    /// What it matches, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, as text.
    pub action: String,
    /// The incident in which it worked last.
    pub incident: String,
    /// Against which vectors it worked.
    pub vectors: Vec<Vector>,
    /// Since when it is armed.
    pub since: Now,
    /// Seconds until it is forgotten, if it does not work again.
    pub ends_s: u64,
    /// Packets that matched while it was armed.
    pub packets: u64,
    /// Packets that it dropped.
    pub dropped: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// What it cost.
    pub collateral: Collateral,
}

/// What of a remembered rule outlives the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// What it matches.
    #[serde(rename = "match")]
    pub matches: FlowMatch,
    /// What it did.
    pub action: Action,
    /// What was expected of it.
    pub predicted: Predicted,
    /// The incident in which it worked last.
    pub incident: String,
    /// Against which vectors it worked.
    pub vectors: Vec<Vector>,
    /// The classes of what it matched, by name.
    pub classes: BTreeSet<String>,
    /// When it worked last, milliseconds since 1970.
    pub worked_unix_ms: i64,
    /// Packets a second of calm traffic that matched it at most.
    pub calm_pps: f64,
}

/// A rule that worked, and where.
#[derive(Clone, Debug)]
pub struct Worked<'a> {
    /// The incident.
    pub incident: &'a str,
    /// Its vectors.
    pub vectors: &'a [Vector],
    /// The classes of what the rule matched.
    pub classes: &'a BTreeSet<TrafficClass>,
    /// The rule.
    pub choice: &'a Choice,
}

/// A rule that is remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Signature {
    incident: String,
    vectors: Vec<Vector>,
    classes: BTreeSet<TrafficClass>,
    choice: Choice,
    worked: Now,
    ends_ns: u64,
    calm: Calm,
    armed: Option<Force>,
}

/// What calm traffic had of a match.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Calm {
    /// Packets a second at most.
    most_pps: f64,
    /// Of how many seconds.
    seconds: u64,
    /// The present second: how long it lasts yet, and its packets.
    second: (u64, f64),
    /// Seconds that wait: when they ended, and packets a second.
    waiting: VecDeque<(u64, f64)>,
}

impl Calm {
    fn count(&mut self, now_ns: u64, elapsed_ns: u64, packets: f64) {
        self.second = (self.second.0 + elapsed_ns, self.second.1 + packets);
        if self.second.0 >= SECOND_NS {
            self.waiting.push_back((now_ns, self.second.1 * 1e9 / self.second.0 as f64));
            self.second = (0, 0.0);
        }
        while let Some((_, pps)) = self.waiting.pop_front_if(|(at, _)| *at + WAITS_NS <= now_ns) {
            self.most_pps = self.most_pps.max(pps);
            self.seconds += 1;
        }
    }

    fn disturb(&mut self) {
        self.second = (0, 0.0);
        self.waiting.clear();
    }
}

/// A rule in the kernel, and what it did.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Force {
    id: u32,
    since: Now,
    pps: u64,
    packets: u64,
    dropped: u64,
    dropped_bytes: u64,
    /// When it began to drop, and when it did last.
    dropping: Option<(Now, u64)>,
    benign: Meter,
    gauge: Gauge,
}

/// The rules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    signatures: Vec<Signature>,
    last_id: u32,
    /// When what is armed is looked at next, nanoseconds; at once where it is not known.
    due_ns: Option<u64>,
    changed: bool,
}

impl Memory {
    /// Remembers a rule that worked. One that names a source is of one attack only.
    pub fn keep(&mut self, worked: &Worked<'_>, now: Now) {
        let Worked { incident, vectors, classes, choice } = worked;
        if choice.matches.src.is_some() {
            return;
        }
        let before = self.signatures.iter().position(|known| known.choice.matches == choice.matches);
        let before = before.map(|at| self.signatures.remove(at));
        let (calm, armed) = before.map(|known| (known.calm, known.armed)).unwrap_or_default();
        self.signatures.push(Signature {
            incident: (*incident).to_owned(),
            vectors: vectors.to_vec(),
            classes: (*classes).clone(),
            choice: (*choice).clone(),
            worked: now,
            ends_ns: now.mono_ns.saturating_add(LASTS_NS),
            calm,
            armed,
        });
        if self.signatures.len() > MOST {
            self.signatures.remove(0);
        }
        self.look_again();
    }

    /// Forgets a rule that did harm.
    pub fn forget(&mut self, matches: &FlowMatch) {
        self.changed |= self.signatures.iter().any(|known| known.choice.matches == *matches && known.armed.is_some());
        self.signatures.retain(|signature| signature.choice.matches != *matches);
    }

    /// Forgets the signature that is armed under a number.
    pub fn disarm(&mut self, id: u32) {
        let is_it = |known: &Signature| known.armed.as_ref().is_some_and(|force| force.id == id);
        self.changed |= self.signatures.iter().any(is_it);
        self.signatures.retain(|known| !is_it(known));
    }

    /// Forgets what drops now: the operator says that this load is normal.
    pub fn accept(&mut self, now_ns: u64) {
        let drops = |force: &Force| force.dropping.is_some_and(|(_, last)| now_ns.saturating_sub(last) < ACCEPTED_NS);
        let count = self.signatures.len();
        self.signatures.retain(|signature| !signature.armed.as_ref().is_some_and(drops));
        self.changed |= count != self.signatures.len();
    }

    /// Has what is armed looked at anew at the next tick.
    pub fn look_again(&mut self) {
        self.due_ns = None;
    }

    /// Returns whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.signatures.is_empty()
    }

    /// Returns the rules against any of these vectors, latest first.
    pub fn against<'a>(&'a self, vectors: &'a [Vector], now_ns: u64) -> impl Iterator<Item = &'a Choice> {
        let fresh = move |signature: &&Signature| now_ns < signature.ends_ns;
        let meets = |signature: &&Signature| signature.vectors.iter().any(|vector| vectors.contains(vector));
        self.signatures.iter().rev().filter(fresh).filter(meets).map(|signature| &signature.choice)
    }

    /// Returns since when a rule has been dropping, and how many packets it dropped, where it is armed
    /// and does.
    pub fn dropping(&self, matches: &FlowMatch) -> Option<(Now, u64)> {
        let of = |signature: &&Signature| signature.choice.matches == *matches;
        let force = self.signatures.iter().find(of)?.armed.as_ref()?;
        Some((force.dropping?.0, force.dropped))
    }

    /// Takes in a tick. Returns what people should know.
    pub fn on_tick(&mut self, scene: &Scene<'_>, calm: bool, jury: Jury) -> Vec<String> {
        let now_ns = scene.now.mono_ns;
        let (before, armed) = (self.signatures.len(), self.armed_count());
        self.signatures.retain(|signature| now_ns < signature.ends_ns);
        self.changed |= before != self.signatures.len() && armed != self.armed_count();
        for signature in &mut self.signatures {
            signature.count(scene, calm, jury);
        }
        let lines = self.judge();
        let may = scene.mode.acts(scene.trusted);
        if !may && self.armed_count() > 0 {
            self.look_again();
        }
        if self.due_ns.is_none_or(|due| now_ns >= due) {
            self.review(scene, may);
        }
        lines
    }

    /// Forgets what drops conversations from before.
    fn judge(&mut self) -> Vec<String> {
        let harms =
            |signature: &mut Signature| signature.armed.as_ref().is_some_and(|force| force.benign.count() >= VETO);
        let gone: Vec<Signature> = self.signatures.extract_if(.., harms).collect();
        self.changed |= !gone.is_empty();
        let told = |signature: Signature| {
            let of = signature.armed.map_or(0, |force| force.benign.count());
            format!(
                "the signature `{}` is armed no more: it dropped packets of {of} conversations from before",
                signature.choice.matches
            )
        };
        gone.into_iter().map(told).collect()
    }

    /// Decides what is armed, and at which rate: latest first.
    fn review(&mut self, scene: &Scene<'_>, may: bool) {
        let unknown = self.signatures.iter().any(|signature| signature.calm.seconds < CALM_S);
        let soon = !may || unknown || scene.reservoir.size().0 < SCARCE;
        let pause = if soon { REVIEW_SOON_NS } else { REVIEW_NS };
        self.due_ns = Some(scene.now.mono_ns.saturating_add(pause));
        let mut left = ARMED;
        for signature in self.signatures.iter_mut().rev() {
            let pps = if may && left > 0 { signature.limit(scene) } else { None };
            left -= usize::from(pps.is_some());
            self.changed |= pps != signature.armed.as_ref().map(|force| force.pps);
            match (pps, &mut signature.armed) {
                (Some(pps), Some(force)) => force.pps = pps,
                (Some(pps), none) => {
                    *none = Some(Force::new(IDS + self.last_id, pps, scene.now));
                    self.last_id += 1;
                }
                (None, force) => *force = None,
            }
        }
    }

    fn armed_count(&self) -> usize {
        self.signatures.iter().filter(|signature| signature.armed.is_some()).count()
    }

    /// Returns whether what is armed is other than when this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Returns what is wanted in the kernel, but for what other rules do anyway.
    pub fn wanted<'a>(&'a self, taken: impl Fn(&FlowMatch) -> bool + 'a) -> impl Iterator<Item = Wanted> + 'a {
        let free = move |signature: &&Signature| !taken(&signature.choice.matches);
        self.signatures.iter().rev().filter(free).filter_map(Signature::wanted)
    }

    /// Returns what is armed, as people see it.
    pub fn armed(&self, now_ns: u64) -> Vec<Armed> {
        self.signatures.iter().rev().filter_map(|signature| signature.shown(now_ns)).collect()
    }

    /// Returns what outlives the daemon, oldest first.
    pub fn remembered(&self) -> Vec<Remembered> {
        let remembered = |signature: &Signature| Remembered {
            matches: signature.choice.matches.clone(),
            action: signature.choice.action,
            predicted: signature.choice.predicted,
            incident: signature.incident.clone(),
            vectors: signature.vectors.clone(),
            classes: signature.classes.iter().map(|class| class.as_str().to_owned()).collect(),
            worked_unix_ms: signature.worked.unix_ms,
            calm_pps: signature.calm.most_pps,
        };
        self.signatures.iter().map(remembered).collect()
    }

    /// Takes over what an earlier life of the daemon remembered; what is too old is left out.
    pub fn restore(&mut self, remembered: Vec<Remembered>, now: Now) {
        for known in remembered {
            // A clock that stepped back makes nothing older than it is, and nothing lasts for longer.
            let age_ms = u64::try_from(now.unix_ms.saturating_sub(known.worked_unix_ms)).unwrap_or(0);
            let left_ns = LASTS_NS.saturating_sub(age_ms.saturating_mul(1_000_000));
            let calm_pps = if known.calm_pps.is_finite() { known.calm_pps.max(0.0) } else { 0.0 };
            if left_ns == 0 || known.matches.src.is_some() || known.action.only_looks() {
                continue;
            }
            self.forget(&known.matches);
            let Remembered { matches, action, predicted, incident, vectors, classes, worked_unix_ms, .. } = known;
            self.signatures.push(Signature {
                incident,
                vectors,
                classes: classes.iter().filter_map(|name| TrafficClass::from_name(name)).collect(),
                choice: Choice { matches, action, predicted, runners_up: Vec::new() },
                worked: Now { mono_ns: now.mono_ns, unix_ms: worked_unix_ms },
                ends_ns: now.mono_ns.saturating_add(left_ns),
                calm: Calm { most_pps: calm_pps, seconds: CALM_S, ..Calm::default() },
                armed: None,
            });
        }
        let over = self.signatures.len().saturating_sub(MOST);
        self.signatures.drain(..over);
        self.look_again();
    }
}

impl Force {
    fn new(id: u32, pps: u64, since: Now) -> Self {
        Self {
            id,
            since,
            pps,
            packets: 0,
            dropped: 0,
            dropped_bytes: 0,
            dropping: None,
            benign: Meter::default(),
            gauge: Gauge::default(),
        }
    }
}

impl Signature {
    /// Takes in what a tick had of it.
    fn count(&mut self, scene: &Scene<'_>, calm: bool, jury: Jury) {
        let now_ns = scene.now.mono_ns;
        let matches = &self.choice.matches;
        let id = self.armed.as_ref().map(|force| force.id);
        let counted = scene.counts.iter().find(|count| Some(count.id) == id);
        if let (Some(force), Some(count)) = (&mut self.armed, counted) {
            force.packets += count.packets;
            force.dropped += count.dropped;
            force.dropped_bytes += count.dropped_bytes;
            if count.dropped > 0 {
                let again = force.dropping.filter(|(_, last_ns)| now_ns.saturating_sub(*last_ns) < PAUSE_NS);
                let began =
                    again.map_or(Now { mono_ns: now_ns.saturating_sub(scene.elapsed_ns), ..scene.now }, |(b, _)| b);
                force.dropping = Some((began, now_ns));
                force.weigh(matches, scene, Jury { began_ns: began.mono_ns, ..jury });
            }
            force.benign.settle(now_ns);
            force.gauge.settle(now_ns);
        }
        if !calm {
            self.calm.disturb();
            return;
        }
        let sampled = || {
            let of = scene.analyst.fresh().filter(|seen| matches.matches(&seen.packet.subject()));
            of.map(|seen| seen.weight).sum()
        };
        let packets = counted.map_or_else(sampled, |count| count.packets as f64);
        self.calm.count(now_ns, scene.elapsed_ns, packets);
    }

    /// Returns the rate at which it may be armed now, packets a second; `None` where it may not.
    fn limit(&self, scene: &Scene<'_>) -> Option<u64> {
        let matches = &self.choice.matches;
        let (verified, _) = scene.reservoir.size();
        let fits = is_signature(matches) && !exempt::is_touched(matches, Action::Drop, &exempt::all(scene.exempt));
        if !fits || verified < SCARCE || self.calm.seconds < CALM_S {
            return None;
        }
        let hit = scene.reservoir.share(matches).clean;
        if hit > BUDGET {
            return None;
        }
        let threshold =
            |class: &TrafficClass| scene.ordinary.get(class.index()).copied().filter(|most| most.is_finite());
        let most = self.classes.iter().filter_map(threshold).fold(f64::INFINITY, f64::min);
        let clean = if hit > 0.0 { scene.reservoir.part_of_classes(matches) } else { Vec::new() };
        let of_class = |(class, part): (TrafficClass, f64)| threshold(&class).unwrap_or(0.0) * part;
        let needed = (ROOM * self.calm.most_pps).max(clean.into_iter().map(of_class).sum());
        Some(needed.min(most).max(LEAST_PPS) as u64)
    }

    fn wanted(&self) -> Option<Wanted> {
        let force = self.armed.as_ref()?;
        let names: Vec<&str> = self.vectors.iter().map(|vector| vector.as_str()).collect();
        let rule = Rule {
            matches: self.choice.matches.clone(),
            action: Action::RateLimit(Rate::Pps(force.pps)),
            origin: Origin::Incident(self.incident.clone()),
            reason: format!("armed: it removed {} before", names.join(", ")),
        };
        Some(Wanted { id: force.id, rule, ttl_ms: TTL_MS })
    }

    fn shown(&self, now_ns: u64) -> Option<Armed> {
        let force = self.armed.as_ref()?;
        Some(Armed {
            id: force.id,
            matches: self.choice.matches.to_string(),
            action: Action::RateLimit(Rate::Pps(force.pps)).to_string(),
            incident: self.incident.clone(),
            vectors: self.vectors.clone(),
            since: force.since,
            ends_s: self.ends_ns.saturating_sub(now_ns) / SECOND_NS,
            packets: force.packets,
            dropped: force.dropped,
            dropped_bytes: force.dropped_bytes,
            collateral: force.gauge.read(),
        })
    }
}

impl Force {
    /// Looks at what it dropped.
    fn weigh(&mut self, matches: &FlowMatch, scene: &Scene<'_>, jury: Jury) {
        let memory = scene.analyst.memory();
        self.gauge.scope_to(matches);
        for seen in scene.analyst.fresh() {
            let hit = seen.packet.dropped && matches.matches(&seen.packet.subject());
            if !hit && !self.gauge.has_in_scope(seen) {
                continue;
            }
            let verdict = jury.verdict(&memory, seen);
            self.gauge.note(scene.now.mono_ns, seen, verdict, hit);
            if hit && verdict.is_benign() {
                self.benign.note(seen.mark.tag, scene.now.mono_ns);
            }
        }
    }
}

/// Returns whether a match says what the packets are, beyond their source, class, protocol and ports.
fn is_signature(matches: &FlowMatch) -> bool {
    let named = is_constant(&matches.len) || is_constant(&matches.ttl) || is_constant(&matches.dscp);
    matches.src.is_none() && (named || !matches.payload.is_empty())
}

fn is_constant<T: Number>(set: &Ranges<T>) -> bool {
    let (ranges, values) = CONSTANT;
    !set.is_any() && set.iter().len() <= ranges && set.iter().all(|(first, last)| last.into() - first.into() < values)
}
