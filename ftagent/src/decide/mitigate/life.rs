//! The life of one rule: what it matched, what it cost, and what follows from that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Measured, Phase, RuleCount, RuleReport, Wanted,
    collateral::{Gauge, Judged},
};
use crate::{
    decide::{
        Now,
        analyst::Seen,
        reservoir::{Clean, Glimpse},
        synthesis::{BUDGET, Choice},
    },
    rule::{Action, Origin, Rule},
};

/// Rates are of this time, nanoseconds.
const RATE_NS: u64 = 1_000_000_000;
/// Distinct conversations from before the attack that take a rule back, at least.
pub const VETO: usize = 3;
/// Conversations are counted over this time, nanoseconds.
pub const METER_NS: u64 = 10_000_000_000;
/// A class with less than this share of what a rule matched is there by chance.
const BY_CHANCE: f64 = 0.05;
/// Conversations that are counted at most.
pub const METER: usize = 4096;
/// Packets of theirs that are kept at most.
const TOUCHED: usize = 32;
/// A rule that matches too little to be worth its place ends after this time, nanoseconds …
const IDLE_NS: u64 = 30_000_000_000;
/// … one that matched nothing since it counts after this …
const IDLE_IN_SHADOW_NS: u64 = 1_000_000_000;
/// … and one against a holder of connections after this: tools send a piece once in 10 to 100 seconds.
const HOLDER_IDLE_NS: u64 = 120_000_000_000;
/// A rule that is wanted no more, or whose daemon has died, ends after this time, milliseconds.
pub const TTL_MS: u64 = 30_000;

/// Conversations, each with when it was seen last, nanoseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Meter(BTreeMap<u64, u64>);

impl Meter {
    /// Takes in a packet of a conversation. Returns whether the conversation is new.
    pub fn note(&mut self, tag: u64, now_ns: u64) -> bool {
        (self.0.len() < METER || self.0.contains_key(&tag)) && self.0.insert(tag, now_ns).is_none()
    }

    /// Forgets what is long past.
    pub fn settle(&mut self, now_ns: u64) {
        self.0.retain(|_, at| *at + METER_NS > now_ns);
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A rule that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Life {
    /// Its number.
    pub id: u32,
    /// What was chosen.
    pub choice: Choice,
    /// It is against one who holds connections: its packets come seldom.
    pub holder: bool,
    /// The kernel does not take it.
    pub refused: bool,
    /// The operator who takes it back.
    pub withdrawn_by: Option<String>,
    /// Shadow or enforcing.
    pub phase: Phase,
    /// Since when it is wanted, nanoseconds.
    pub since_ns: u64,
    /// When it was put in force.
    pub enforced: Option<Now>,
    /// When it matched enough last to be worth its place, nanoseconds.
    pub busy_ns: u64,
    /// What it did.
    pub measured: Measured,
    /// Packets that its attack had when it matched last, a second.
    recent: VecDeque<(u64, u64, u64)>,
    /// Conversations from before the attack that it matched.
    pub benign: Meter,
    /// A packet of each of the first of them.
    pub touched: Vec<Clean>,
    /// What it costs.
    gauge: Gauge,
    /// What it matched, packets by class.
    classes: BTreeMap<TrafficClass, f64>,
}

impl Life {
    /// Begins in shadow.
    pub fn new(id: u32, choice: Choice, now_ns: u64) -> Self {
        Self {
            id,
            gauge: Gauge::of(&choice.matches),
            classes: BTreeMap::new(),
            choice,
            holder: false,
            refused: false,
            withdrawn_by: None,
            phase: Phase::Shadow,
            since_ns: now_ns,
            enforced: None,
            busy_ns: now_ns,
            measured: Measured::default(),
            recent: VecDeque::new(),
            benign: Meter::default(),
            touched: Vec::new(),
        }
    }

    /// Returns whether it matches a packet.
    pub fn matches(&self, seen: &Seen) -> bool {
        self.choice.matches.matches(&seen.packet.subject())
    }

    /// Takes in a packet, which may concern it or not; `free`: no rule before it has taken the packet.
    /// Returns whether it matches.
    pub fn weigh(&mut self, now_ns: u64, seen: &Seen, judged: Judged, free: bool) -> bool {
        let matched = self.matches(seen);
        let hit = matched && free && (seen.packet.dropped || self.phase == Phase::Shadow);
        if matched {
            *self.classes.entry(seen.class).or_default() += seen.weight;
        }
        if hit && judged.is_benign() && self.benign.note(seen.mark.tag, now_ns) && self.touched.len() < TOUCHED {
            let glimpse = Glimpse::of(&seen.packet);
            self.touched.extend(glimpse.map(|seen| Clean { seen, verified: true, at_s: 0 }));
        }
        if hit || judged.is_benign() {
            self.gauge.note(now_ns, seen, judged, hit);
        }
        matched
    }

    /// Returns the classes of what it matched, but for those that it met by chance.
    pub fn classes(&self) -> BTreeSet<TrafficClass> {
        let all: f64 = self.classes.values().sum();
        self.classes.iter().filter(|(_, packets)| **packets >= BY_CHANCE * all).map(|(class, _)| *class).collect()
    }

    /// Puts it in force; from now on what it costs is what it drops.
    pub fn enforce(&mut self, now: Now) {
        self.phase = Phase::Enforcing;
        self.enforced.get_or_insert(now);
        self.gauge = Gauge::of(&self.choice.matches);
    }

    /// Returns how long it may match too little before it ends, nanoseconds.
    pub fn patience_ns(&self) -> u64 {
        match self.measured.packets {
            _ if self.holder => HOLDER_IDLE_NS,
            0 => IDLE_IN_SHADOW_NS,
            _ => IDLE_NS,
        }
    }

    /// Takes it back.
    pub fn withdraw(&mut self) {
        self.phase = Phase::Withdrawn;
    }

    /// Takes in what it did in a tick: by the kernel's count, or by the samples where there is none.
    pub fn count(&mut self, now_ns: u64, elapsed_ns: u64, count: Option<&RuleCount>, sampled: f64) {
        let measured = &mut self.measured;
        let packets = count.map_or(sampled as u64, |count| count.packets);
        measured.packets += packets;
        if let Some(count) = count {
            self.refused = count.refused;
            measured.dropped += count.dropped;
            measured.dropped_bytes += count.dropped_bytes;
        }
        self.recent.push_back((now_ns, elapsed_ns, packets));
        while self.recent.front().is_some_and(|(at, ..)| at + RATE_NS <= now_ns) {
            self.recent.pop_front();
        }
        let (length, packets) = self.recent.iter().fold((0, 0), |sum, (_, ns, packets)| (sum.0 + ns, sum.1 + packets));
        measured.pps = packets as f64 / (length.max(1) as f64 / 1e9);
        self.benign.settle(now_ns);
        measured.benign_flows = measured.benign_flows.max(self.benign.count() as u64);
        self.gauge.settle(now_ns);
        measured.collateral = self.gauge.read();
    }

    /// Returns whether it hits more of the conversations from before the attack than it may: of
    /// `live` ones, with 95 % certainty.
    pub fn costs_too_much(&self, live: usize) -> bool {
        let hit = self.benign.count();
        let certain = self.phase == Phase::Shadow || lowest(hit, live) > BUDGET;
        hit >= VETO && certain
    }

    /// Returns what is wanted in the kernel.
    pub fn wanted(&self, incident: &str) -> Wanted {
        let action = if self.phase == Phase::Enforcing { self.choice.action } else { Action::Count };
        let rule = Rule {
            matches: self.choice.matches.clone(),
            action,
            origin: Origin::Incident(incident.to_owned()),
            reason: self.reason(),
        };
        Wanted { id: self.id, rule, ttl_ms: TTL_MS }
    }

    /// Returns what was expected of it, in words.
    pub fn reason(&self) -> String {
        let predicted = &self.choice.predicted;
        let verb = if self.choice.action == Action::Drop { "removes" } else { "thins" };
        let uncertain = if predicted.uncertain_share > 0.0 {
            format!(" and {:.2} % that nobody vouches for", predicted.uncertain_share * 100.0)
        } else {
            String::new()
        };
        format!(
            "{verb} {:.1} % of the attack, touches {:.2} % of {} clean flows{uncertain}",
            predicted.attack_share * 100.0,
            predicted.clean_share * 100.0,
            predicted.clean_flows,
        )
    }

    /// Returns it as people see it.
    pub fn report(&self) -> RuleReport {
        RuleReport {
            id: self.id,
            matches: self.choice.matches.to_string(),
            action: self.choice.action.to_string(),
            state: self.phase,
            reason: self.reason(),
            predicted: self.choice.predicted,
            measured: self.measured,
            runners_up: self.choice.runners_up.clone(),
            withdrawn_by: self.withdrawn_by.clone(),
        }
    }
}

/// Returns the lower end of the interval that a share is in with 95 % certainty (Wilson 1927).
fn lowest(hit: usize, of: usize) -> f64 {
    let n = of.max(hit).max(1) as f64;
    let (share, z) = (hit as f64 / n, 1.96);
    let middle = share + z * z / (2.0 * n);
    let half = z * libm::sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n));
    ((middle - half) / (1.0 + z * z / n)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_share_is_wilsons() {
        let cases = [(0, 100, 0.0), (3, 100, 0.0103), (3, 10_000, 0.000_102), (50, 100, 0.4038), (5, 5, 0.5655)];
        for (hit, of, expected) in cases {
            assert!((lowest(hit, of) - expected).abs() < 1e-4, "{hit} of {of}: {}", lowest(hit, of));
        }
    }
}
