//! What an attack is aimed at, from where, and what of its rules can be said upstream: from samples.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Filter,
    safety::{home, said},
};
use crate::{
    decide::{
        analyst::Seen,
        flows::{Flow, Flows},
        mitigate::life::Life,
        reservoir::Reservoir,
        synthesis::BUDGET,
    },
    rule::FlowMatch,
};

/// Addresses that are kept.
const KEPT: usize = 256;
/// What has less than this share is forgotten.
const LEAST: f64 = 0.01;
/// Sources with less than this share of an attack are not named.
const OF_SOURCES: f64 = 0.05;
/// Clean conversations without which it is not known what a wider filter costs.
const CLEAN: usize = 200;
/// Share of unverified clean traffic that a wider filter may match.
const UNCERTAIN: f64 = 0.01;

/// What is known of the attack, over about a second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Aim {
    victims: BTreeMap<IpAddr, f64>,
    /// The same by the operator's prefixes: an attack on all addresses of one has no victim that stands out.
    prefixes: BTreeMap<IpNet, f64>,
    /// What all of these are shares of: nearly 1 after a second.
    known: f64,
    sources: BTreeMap<IpAddr, f64>,
    residual: Option<f64>,
    /// Whether a filter that matches more than its rule costs little enough.
    cheap: BTreeMap<FlowMatch, bool>,
}

impl Aim {
    /// Forgets: there is no attack.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes in the packets of a tick that belong to the attack on a space; of `connections`, those of conversations
    /// name sources. `part`: how much of what is known is of this tick.
    pub(super) fn note<'a>(
        &mut self,
        attack: impl Iterator<Item = &'a Seen>,
        space: &[IpNet],
        flows: &Flows,
        connections: bool,
        part: f64,
    ) {
        let (mut victims, mut sources, mut all) = (BTreeMap::new(), BTreeMap::new(), 0.0);
        for seen in attack {
            let Some((src, dst)) = seen.packet.ends else { continue };
            all += seen.weight;
            *victims.entry(dst).or_insert(0.0) += seen.weight;
            if connections && flows.get(&seen.mark).is_some_and(Flow::is_established) {
                *sources.entry(src).or_insert(0.0) += seen.weight;
            }
        }
        // What is dropped upstream says nothing: it was aimed where it was.
        if all > 0.0 {
            let mut prefixes = BTreeMap::new();
            for (address, weight) in &victims {
                if let Some(net) = home(space, *address) {
                    *prefixes.entry(net).or_insert(0.0) += *weight;
                }
            }
            mix(&mut self.prefixes, prefixes, all, part);
            self.known += (1.0 - self.known) * part;
            mix(&mut self.victims, victims, all, part);
            mix(&mut self.sources, sources, all, part);
        }
    }

    /// Takes in which share of the attack passed in a tick, and returns it over about a second.
    pub fn passes(&mut self, share: f64, part: f64) -> f64 {
        let before = self.residual.unwrap_or(share);
        *self.residual.insert(before + (share - before) * part)
    }

    /// Returns what it is aimed at, each with its share, largest first.
    pub fn victims(&self) -> Vec<(IpAddr, f64)> {
        let mut victims: Vec<(IpAddr, f64)> =
            self.victims.iter().map(|(address, share)| (*address, share / self.known.max(f64::MIN_POSITIVE))).collect();
        victims.sort_by(|a, b| b.1.total_cmp(&a.1));
        victims
    }

    /// Returns the prefixes that it is aimed at, each with its share.
    pub fn prefixes(&self) -> Vec<(IpNet, f64)> {
        self.prefixes.iter().map(|(net, share)| (*net, share / self.known.max(f64::MIN_POSITIVE))).collect()
    }

    /// Returns the sources that proved that they are no forgery, busiest first.
    pub fn sources(&self) -> Vec<IpAddr> {
        let mut sources: Vec<(IpAddr, f64)> =
            self.sources.iter().map(|(address, share)| (*address, *share)).filter(|of| of.1 >= OF_SOURCES).collect();
        sources.sort_by(|a, b| b.1.total_cmp(&a.1));
        sources.into_iter().map(|(address, _)| address).collect()
    }

    /// Returns rules in force as filters, and why others are none.
    pub fn filters<'a>(
        &mut self,
        lives: impl Iterator<Item = &'a Life>,
        clean: &Reservoir,
    ) -> (Vec<Filter>, Vec<String>) {
        let (mut filters, mut unsaid) = (Vec::new(), Vec::new());
        let mut known = BTreeSet::new();
        for life in lives {
            let (matches, wider) = said(&life.choice.matches);
            if wider && !*self.cheap.entry(matches.clone()).or_insert_with(|| is_cheap(&matches, clean)) {
                unsaid.push(format!(
                    "`{}` looks at what routers cannot see, and `{matches}` alone would cost too much",
                    life.choice.matches
                ));
                continue;
            }
            known.insert(matches.clone());
            // What it was expected to match, until it is known: nothing is measured of what upstream drops.
            let share = life.measured.attack_share.max(life.choice.predicted.attack_share).clamp(0.0, 1.0);
            filters.push(Filter { matches, action: life.choice.action, share, rule: life.id });
        }
        self.cheap.retain(|matches, cheap| !*cheap || known.contains(matches));
        (filters, unsaid)
    }
}

fn is_cheap(matches: &FlowMatch, clean: &Reservoir) -> bool {
    let hit = clean.share(matches);
    clean.size().0 >= CLEAN && hit.clean <= BUDGET && hit.uncertain <= UNCERTAIN
}

fn mix<K: Ord>(known: &mut BTreeMap<K, f64>, now: BTreeMap<K, f64>, all: f64, part: f64) {
    known.values_mut().for_each(|share| *share *= 1.0 - part);
    for (address, weight) in now {
        *known.entry(address).or_insert(0.0) += part * weight / all;
    }
    if known.len() > KEPT {
        known.retain(|_, share| *share >= LEAST);
    }
    while known.len() > KEPT {
        known.pop_last();
    }
}
