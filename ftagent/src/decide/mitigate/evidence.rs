//! What rules are made from and judged by: the packets of the attack, and the conversations that
//! were there before it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ftagent_common::TrafficClass;

use crate::decide::{
    Metric,
    analyst::{Analyst, Seen},
    classify::Scene,
    flows::{Flow, State, note},
    reservoir::{Clean, Glimpse, Reservoir, vouches},
    synthesis::Sample,
};

/// Packets of the attack are looked at for so long back, nanoseconds …
const WINDOW_NS: u64 = 1_000_000_000;
/// … and for longer where there are fewer than this.
const FEW: usize = 256;
/// The longest window, nanoseconds.
const LONGEST_NS: u64 = 3_000_000_000;
/// Packets of the attack at most.
const MOST: usize = 4096;
/// Conversations at most.
const LIVE: usize = 1024;
/// A conversation is one of before if it began so long before the attack, nanoseconds.
const BEFORE_NS: u64 = 1_000_000_000;
/// From this share on, known sources are not taken for honest: somebody forges them.
const FORGED: f64 = 0.4;

/// What an attack is about.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its classes, each with the metric that is exceeded.
    pub classes: &'a BTreeMap<TrafficClass, Metric>,
    /// The one address that it is at, where the classes do not show it.
    pub focus: Option<IpAddr>,
    /// When it began, monotonic nanoseconds.
    pub began_ns: u64,
    /// The present, monotonic nanoseconds.
    pub now_ns: u64,
    /// Who attacks has no connections, and the socket table knows who has.
    pub by_sockets: bool,
}

impl Target<'_> {
    /// Returns whether a packet may belong to it.
    pub fn takes(&self, seen: &Seen) -> bool {
        self.classes.contains_key(&seen.class) && self.focus.is_none_or(|only| seen.packet.dst() == Some(only))
    }

    /// Returns whether it is about connections that are held: their packets are told by what their
    /// flows do, not by their rate.
    pub fn is_held(&self) -> bool {
        !self.classes.is_empty() && self.classes.values().all(|metric| *metric == Metric::Structure)
    }
}

/// The packets of an attack, and who was there before.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The attack.
    pub attack: Vec<Sample>,
    /// Conversations from before it, a packet of each kind that they sent.
    pub live: Vec<Clean>,
    /// The time that the packets of the attack are of, seconds.
    pub seconds: f64,
}

/// Gathers what is known of an attack.
pub fn gather(analyst: &Analyst, target: &Target<'_>) -> Evidence {
    let scene = analyst.memory();
    let recent: Vec<&Seen> = scene.ring.iter().collect();
    let steady = scene.standing(&recent, 1, target.began_ns);
    let benign: Vec<bool> =
        recent.iter().zip(steady).map(|(seen, steady)| steady && is_of_before(&scene, seen, target.began_ns)).collect();
    let live = live(&recent, &benign);
    let mut from_ns = target.now_ns.saturating_sub(WINDOW_NS);
    let flows = flows_of(&recent, &benign, target);
    let takes = |seen: &Seen| target.takes(seen) || seen.mark.tag != 0 && flows.contains(&seen.mark.tag);
    let within = |from: u64| {
        let of = recent.iter().zip(&benign).filter(move |(seen, _)| seen.packet.time_ns >= from);
        of.filter(|(seen, benign)| !**benign && takes(seen))
    };
    if within(from_ns.max(target.began_ns)).count() < FEW {
        from_ns = target.now_ns.saturating_sub(LONGEST_NS);
    }
    let from_ns = from_ns.max(target.began_ns);
    let mut found: Vec<&Seen> = within(from_ns).map(|(seen, _)| *seen).collect();
    let weigh = |list: &[&Seen], counts: fn(&Seen) -> bool| -> f64 {
        list.iter().filter(|seen| counts(seen)).map(|seen| seen.weight).sum()
    };
    if weigh(&found, |seen| seen.mark.known) < FORGED * weigh(&found, |_| true) {
        found.retain(|seen| !seen.mark.known);
    }
    if target.by_sockets && weigh(&found, |seen| seen.packet.is_expected()) < FORGED * weigh(&found, |_| true) {
        found.retain(|seen| !seen.packet.is_expected());
    }
    let step = found.len().div_ceil(MOST).max(1);
    let seconds = (target.now_ns.saturating_sub(from_ns) as f64 / 1e9).max(0.02);
    let sample = |seen: &Seen| {
        Some(Sample {
            seen: Glimpse::of(&seen.packet)?,
            pps: seen.weight * step as f64 / seconds,
            wire: seen.packet.wire,
            known: seen.mark.known,
        })
    };
    Evidence { attack: found.into_iter().step_by(step).filter_map(sample).collect(), live, seconds }
}

/// Returns the flows that the attack has begun. Who has connections sends more in them than what is too
/// much: their SYNs and requests are as few as customers', and go with the rest.
fn flows_of(recent: &[&Seen], benign: &[bool], target: &Target<'_>) -> BTreeSet<u64> {
    let of_attack = recent.iter().zip(benign).filter(|(seen, benign)| {
        !**benign && seen.packet.is_tcp() && seen.packet.time_ns >= target.began_ns && target.takes(seen)
    });
    of_attack.map(|(seen, _)| seen.mark.tag).collect()
}

/// Returns whether a packet belongs to a flow that was there before an attack, whatever it proves.
pub fn existed(scene: &Scene<'_>, seen: &Seen, began_ns: u64) -> bool {
    scene.flow(seen).is_some_and(|flow| is_old(flow, began_ns))
}

fn is_old(flow: &Flow, began_ns: u64) -> bool {
    flow.first_ns + BEFORE_NS <= began_ns && !is_unused(flow)
}

/// Returns whether a packet belongs to a conversation that was there before an attack.
pub fn is_of_before(scene: &Scene<'_>, seen: &Seen, began_ns: u64) -> bool {
    let Some(flow) = scene.flow(seen) else { return false };
    let old = is_old(flow, began_ns);
    let fits = if seen.packet.is_tcp() {
        flow.is_established() && matches!(seen.mark.state, State::Steady | State::Same)
    } else {
        // Who merely goes on may have begun early for the purpose, or in a pulse before.
        vouches(flow, false)
    };
    old && fits
}

fn is_unused(flow: &Flow) -> bool {
    flow.drips > 0 || flow.has(note::SHUT) || flow.has(note::UNFINISHED) && !flow.has(note::ANSWERED)
}

/// Returns what no rule is to hit: clean traffic, and the conversations from before.
pub fn clean<'a>(reservoir: &'a Reservoir, evidence: &'a Evidence) -> Vec<&'a Clean> {
    reservoir.entries().chain(&evidence.live).collect()
}

fn live(recent: &[&Seen], benign: &[bool]) -> Vec<Clean> {
    let mut kinds = BTreeSet::new();
    let mut found = Vec::new();
    for (seen, _) in recent.iter().zip(benign).filter(|(_, benign)| **benign) {
        if found.len() < LIVE && kinds.insert((seen.mark.tag, seen.class, seen.packet.key.len >> 4)) {
            found.extend(Glimpse::of(&seen.packet).map(|seen| Clean { seen, verified: true, at_s: 0 }));
        }
    }
    found
}
