//! Rule synthesis: the few rules that remove an attack and leave clean traffic alone.
//!
//! What the packets of the attack have in common is looked for field by field (`fields`,
//! `payload`), conjunctions of that are tried against the attack and against clean traffic
//! (`search`), and the best is taken, again for what remains, until little does. Where no rule is
//! cheap enough, the plan says so.

pub mod atoms;
mod bits;
pub mod exempt;
mod fields;
mod payload;
mod search;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ftagent_common::TrafficClass;
use ipnet::IpNet;

use self::{
    atoms::{Atom, matching},
    search::{Budget, Found},
};
use serde::{Deserialize, Serialize};

use super::{
    mitigate::{Predicted, RunnerUp},
    reservoir::{Clean, Glimpse, Passed, hit},
};
use crate::rule::{Action, FlowMatch, Ranges, Rate};

/// Share of clean traffic that the rules of an incident may hit together.
pub const BUDGET: f64 = 0.001;
/// The same for a rule that only thins what it matches.
const THINNED: f64 = 0.01;
/// Packets that a search looks at.
const SAMPLES: usize = 1024;
/// Packets that a search needs.
const LEAST: usize = 24;
/// A rule removes at least this share of its protocol's part of what is left of the attack …
const GAIN: f64 = 0.04;
/// … and this share of the whole attack.
const LITTLE: f64 = 0.005;
/// A protocol with less than this share of the attack is left alone.
const PART: f64 = 0.03;
/// Share of calm traffic's packets that a rule may hit where it hits any flow: its budget, and what the
/// sample errs by.
const PACKETS: f64 = 0.003;
/// What a rule removes must be so many times what calm traffic had of it …
const RISEN: f64 = 5.0;
/// … and be so many packets more than that: a few of them together are no attack.
const SURGE: f64 = 32.0;
/// A narrower rule takes another's place if it removes this share of what that did.
const KEPT: f64 = 0.5;
/// With fewer clean flows than this nothing is known of what a rule costs.
pub const SCARCE: usize = 64;
/// A rate limit is never tighter than this, packets a second.
const SLOWEST_PPS: f64 = 100.0;

/// A packet of the attack.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The packet.
    pub seen: Glimpse,
    /// Packets a second that it stands for.
    pub pps: f64,
    /// Its bytes on the wire.
    pub wire: u32,
    /// Its source was known before.
    pub known: bool,
}

/// What rules are looked for.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The packets of the attack, as far as they are not known to be somebody's.
    pub attack: &'a [Sample],
    /// Clean traffic: the reservoir, and flows that were there before.
    pub clean: &'a [&'a Clean],
    /// What no rule may match.
    pub exempt: &'a [FlowMatch],
    /// This node's own addresses: they are nobody's source.
    pub own: &'a [IpAddr],
    /// Matches that were tried and cost too much.
    pub refused: &'a [FlowMatch],
    /// Rules at most.
    pub most: usize,
    /// Packets a second of a class that are still ordinary, by class number.
    pub ordinary: &'a [f64],
    /// Packets and bits a second below which an attack by a class is over, likewise.
    pub exit: &'a [(f64, f64)],
    /// Share of the whole attack that this is: other rules remove the rest already. 0 to 1.
    pub part: f64,
    /// Those rules.
    pub taken: &'a [&'a FlowMatch],
    /// The time that the packets of the attack are of, seconds.
    pub seconds: f64,
    /// How much calm traffic had of what.
    pub calm: &'a Passed,
}

/// A rule that was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What it matches.
    pub matches: FlowMatch,
    /// What it does.
    pub action: Action,
    /// What it is expected to do.
    pub predicted: Predicted,
    /// The next best.
    pub runners_up: Vec<RunnerUp>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The rules, in the order in which they were found.
    pub rules: Vec<Choice>,
    /// Why part of the attack or all of it is not removed, in words.
    pub none_because: Option<String>,
}

/// Packets of one protocol: of the attack, and of clean traffic.
#[derive(Clone, Debug)]
struct Ground<'a> {
    pub attack: Vec<&'a Sample>,
    pub clean: Vec<&'a Clean>,
    /// Packets of the attack that there were before any rule.
    pub all: usize,
    problem: &'a Problem<'a>,
}

impl<'a> Ground<'a> {
    /// Returns the packets that satisfy a condition.
    fn only(&self, atom: &Atom) -> Self {
        Self {
            attack: self.attack.iter().copied().filter(|sample| atom.holds(&sample.seen)).collect(),
            clean: self.clean.iter().copied().filter(|clean| atom.holds(&clean.seen)).collect(),
            all: self.all,
            problem: self.problem,
        }
    }

    /// Returns how many entries are verified, and how many are not.
    fn sizes(&self) -> (usize, usize) {
        sizes(&self.clean)
    }

    /// Returns whether a rule may name a source: nobody who is known is in it, whoever forges it.
    fn may_name(&self, net: IpNet) -> bool {
        let inside: Vec<_> = self.attack.iter().filter(|sample| net.contains(&sample.seen.src)).collect();
        let known = inside.iter().filter(|sample| sample.known).count();
        let own = self.problem.own.iter().any(|own| net.contains(own));
        let honest = self.problem.clean.iter().any(|clean| clean.verified && net.contains(&clean.seen.src));
        !own && !honest && known * 20 <= inside.len()
    }
}

fn sizes(clean: &[&Clean]) -> (usize, usize) {
    let verified = clean.iter().filter(|clean| clean.verified).count();
    (verified, clean.len() - verified)
}

/// Looks for rules.
pub fn plan(problem: &Problem<'_>) -> Plan {
    let mut parts: BTreeMap<u8, Vec<&Sample>> = BTreeMap::new();
    for sample in problem.attack {
        parts.entry(part_of(&sample.seen)).or_default().push(sample);
    }
    let weight = |part: &[&Sample]| part.iter().map(|sample| heft(sample)).sum::<f64>();
    let total: f64 = parts.values().map(|part| weight(part)).sum();
    let mut order: Vec<_> = parts.into_iter().map(|(proto, part)| (weight(&part), proto, part)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (verified, _) = sizes(problem.clean);
    let mut work = Work {
        problem,
        plan: Plan::default(),
        reasons: Vec::new(),
        budget: Budget { hits: (verified as f64 * BUDGET) as usize, scarce: verified < SCARCE },
    };
    for (weight, proto, part) in order {
        if weight >= PART * total {
            work.part(proto, &part);
        }
    }
    work.plan.none_because = (!work.reasons.is_empty()).then(|| work.reasons.join("; "));
    work.plan
}

/// Returns whether there is more of what a match hits than calm traffic had of it. What other rules
/// leave is compared with what they would have left then.
fn has_risen(matches: &FlowMatch, problem: &Problem<'_>, chosen: &[Choice]) -> bool {
    let classes: BTreeSet<usize> = problem.attack.iter().map(|sample| sample.seen.class.index()).collect();
    let others = || problem.taken.iter().copied().chain(chosen.iter().map(|rule| &rule.matches));
    let holds = |seen: &Glimpse| {
        let subject = seen.subject();
        matches.matches(&subject) && !others().any(|other| other.matches(&subject))
    };
    let now: f64 = problem.attack.iter().filter(|sample| holds(&sample.seen)).map(|sample| sample.pps).sum();
    let calm = problem.calm.pps(|seen| classes.contains(&seen.class.index()) && holds(seen));
    calm <= 0.0 || now >= RISEN * calm && (now - calm) * problem.seconds >= SURGE
}

/// Looks for a rule that matches less than one that cost too much, and removes as much as it can.
pub fn narrow(wide: &FlowMatch, problem: &Problem<'_>) -> Option<Choice> {
    let start = Atom::of_match(wide)?;
    let attack: Vec<&Sample> = problem.attack.iter().filter(|sample| wide.matches(&sample.seen.subject())).collect();
    let attack = drawn(&attack);
    if attack.len() < LEAST {
        return None;
    }
    let clean = problem.clean.iter().copied().filter(|clean| wide.matches(&clean.seen.subject())).collect();
    let (verified, _) = sizes(problem.clean);
    let budget = Budget { hits: (verified as f64 * BUDGET) as usize, scarce: verified < SCARCE };
    let all = attack.len();
    let good = search::inside(&Ground { attack, clean, all, problem }, &start, budget);
    let fits = |found: &&Found| {
        let matches = matching(&found.atoms);
        found.hits as f64 >= KEPT * all as f64 && matches != *wide && !problem.refused.contains(&matches)
    };
    let matches = matching(&good.iter().find(fits)?.atoms);
    let predicted = predict(&matches, problem);
    // What is left may be those for whose sake the other was withdrawn.
    if problem.part * predicted.attack_share < GAIN || !has_risen(&matches, problem, &[]) {
        return None;
    }
    Some(Choice { matches, action: Action::Drop, predicted, runners_up: Vec::new() })
}

/// Returns what a packet is searched with: those of its protocol, or of no common one.
fn part_of(seen: &Glimpse) -> u8 {
    match seen.key.proto {
        proto @ (1 | 6 | 17 | 58) => proto,
        _ => 0,
    }
}

/// Returns what a packet weighs: bytes count like packets of 500.
fn heft(sample: &Sample) -> f64 {
    sample.pps * (1.0 + f64::from(sample.wire) / 500.0)
}

fn name(proto: u8) -> &'static str {
    match proto {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        _ => "other protocols",
    }
}

struct Work<'a> {
    problem: &'a Problem<'a>,
    plan: Plan,
    reasons: Vec<String>,
    budget: Budget,
}

impl<'a> Work<'a> {
    /// Finds the rules for one protocol.
    fn part(&mut self, proto: u8, part: &[&'a Sample]) {
        let mut left = drawn(part);
        if left.len() < LEAST {
            return;
        }
        let all = left.len();
        let in_part = |clean: &&&Clean| part_of(&clean.seen) == proto;
        let clean: Vec<&Clean> = self.problem.clean.iter().filter(in_part).copied().collect();
        let start: Vec<Atom> = if proto == 0 { Vec::new() } else { vec![Atom::Proto(Ranges::one(proto))] };
        while self.plan.rules.len() < self.problem.most {
            let share = left.len() as f64 / all as f64;
            // What is left of an attack is mostly clean traffic that nobody knows yet.
            let over = (left.len() < all || self.problem.part < 1.0) && self.is_over(part);
            if left.len() < LEAST || share < GAIN || over {
                return;
            }
            let ground = Ground { attack: left.clone(), clean: clean.clone(), all, problem: self.problem };
            let outcome = search::search(&ground, &start, self.budget);
            let before = self.plan.rules.len();
            self.take(&outcome.good, all);
            let new = self.plan.rules.get(before..).unwrap_or_default();
            if new.is_empty() {
                self.give_up(proto, outcome.near, left.len(), clean.len());
                return;
            }
            left.retain(|sample| new.iter().all(|rule| !rule.matches.matches(&sample.seen.subject())));
        }
    }

    /// Returns whether what the rules leave of a protocol is no more than what is ordinary.
    fn is_over(&self, part: &[&'a Sample]) -> bool {
        let left = |sample: &&&Sample| self.plan.rules.iter().all(|rule| !rule.matches.matches(&sample.seen.subject()));
        let (mut pps, mut bps) = (0.0, 0.0);
        for sample in part.iter().filter(left) {
            pps += sample.pps;
            bps += sample.pps * f64::from(sample.wire) * 8.0;
        }
        let classes: BTreeSet<usize> = part.iter().map(|sample| sample.seen.class.index()).collect();
        let exits = classes.iter().filter_map(|class| self.problem.exit.get(*class));
        let (most_pps, most_bps) = exits.fold((0.0, 0.0), |sum, exit| (sum.0 + exit.0, sum.1 + exit.1));
        pps <= most_pps && bps <= most_bps
    }

    /// Takes the best that is allowed.
    fn take(&mut self, good: &[Found], all: usize) {
        for (at, found) in good.iter().enumerate() {
            let share = found.hits as f64 / all.max(1) as f64;
            if share < GAIN || share * self.problem.part < LITTLE {
                continue;
            }
            let matches = matching(&found.atoms);
            let room = self.problem.most - self.plan.rules.len();
            let Ok(parts) = exempt::around(&matches, self.problem.exempt, 40) else { continue };
            let mut parts: Vec<_> = parts.into_iter().filter(|part| !self.problem.refused.contains(part)).collect();
            // One flow of thousands may have many of the packets.
            let share = |matches: &FlowMatch| self.problem.calm.share(|seen| matches.matches(&seen.subject()));
            let costs = found.verified > 0 && share(&matches) > PACKETS;
            if costs || !has_risen(&matches, self.problem, &self.plan.rules) {
                continue;
            }
            if parts.len() > 1 {
                parts.sort_by_key(|part| std::cmp::Reverse(self.hits(part)));
                parts.truncate(room);
            }
            let kept: usize = parts.iter().map(|part| self.hits(part)).sum();
            if parts.is_empty() || (kept as f64) < 0.8 * self.hits(&matches) as f64 {
                continue;
            }
            let others = good.iter().skip(at + 1).filter(|other| other.atoms != found.atoms).take(3);
            let runners_up: Vec<RunnerUp> = others.map(|other| self.runner_up(&other.atoms)).collect();
            self.budget.hits = self.budget.hits.saturating_sub(found.verified);
            for part in parts {
                let predicted = predict(&part, self.problem);
                let runners_up = runners_up.clone();
                self.plan.rules.push(Choice { matches: part, action: Action::Drop, predicted, runners_up });
            }
            return;
        }
    }

    fn hits(&self, matches: &FlowMatch) -> usize {
        self.problem.attack.iter().filter(|sample| matches.matches(&sample.seen.subject())).count()
    }

    fn runner_up(&self, atoms: &[Atom]) -> RunnerUp {
        let matches = matching(atoms);
        RunnerUp { matches: matches.to_string(), predicted: predict(&matches, self.problem) }
    }

    /// Says why nothing is dropped, and thins what remains where that is allowed.
    fn give_up(&mut self, proto: u8, near: Option<Found>, left: usize, known: usize) {
        let mut words = format!("no safe rule for {}: ", name(proto));
        let Some(near) = near else {
            words.push_str(&format!("{left} samples have no constant field that tells them from clean traffic"));
            self.reasons.push(with_guard(words, proto));
            return;
        };
        let matches = matching(&near.atoms);
        let predicted = predict(&matches, self.problem);
        if self.budget.scarce {
            words.push_str(&format!("only {} clean flows are known yet", predicted.clean_flows));
        } else {
            words.push_str(&format!(
                "`{matches}` would remove {:.1} % of the attack and touch {:.2} % of {} clean flows",
                predicted.attack_share * 100.0,
                predicted.clean_share * 100.0,
                predicted.clean_flows,
            ));
        }
        self.reasons.push(with_guard(words, proto));
        if proto == 6 || self.budget.scarce || known == 0 || predicted.clean_share > THINNED {
            return;
        }
        let Ok(parts) = exempt::around(&matches, self.problem.exempt, 1) else { return };
        let room = self.problem.most > self.plan.rules.len();
        for part in parts.into_iter().filter(|part| room && !self.problem.refused.contains(part)) {
            let rate = Rate::Pps(self.ordinary(&part));
            let action = Action::RateLimit(rate);
            self.plan.rules.push(Choice { matches: part, action, predicted, runners_up: Vec::new() });
        }
    }

    /// Returns the packets a second of clean traffic that a match may have, at the most that is
    /// still ordinary.
    fn ordinary(&self, matches: &FlowMatch) -> u64 {
        let mut classes: BTreeMap<TrafficClass, (usize, usize)> = BTreeMap::new();
        for clean in self.problem.clean {
            let (hits, all) = classes.entry(clean.seen.class).or_default();
            *all += 1;
            *hits += usize::from(matches.matches(&clean.seen.subject()));
        }
        let part = |(class, (hits, all)): (&TrafficClass, &(usize, usize))| {
            let most = self.problem.ordinary.get(class.index()).copied().unwrap_or(0.0);
            if *hits == 0 || !most.is_finite() { 0.0 } else { most * *hits as f64 / *all as f64 }
        };
        classes.iter().map(part).sum::<f64>().max(SLOWEST_PPS) as u64
    }
}

fn with_guard(mut words: String, proto: u8) -> String {
    if proto == 6 {
        words.push_str("; the TCP guard is needed");
    }
    words
}

/// Returns what a match would do.
pub fn predict(matches: &FlowMatch, problem: &Problem<'_>) -> Predicted {
    let (mut hits, mut all) = (0.0, 0.0);
    for sample in problem.attack {
        all += heft(sample);
        if matches.matches(&sample.seen.subject()) {
            hits += heft(sample);
        }
    }
    let (mut verified, mut others) = (0, 0);
    for clean in problem.clean.iter().filter(|clean| matches.matches(&clean.seen.subject())) {
        *(if clean.verified { &mut verified } else { &mut others }) += 1;
    }
    let known = sizes(problem.clean);
    let shares = hit((verified, others), known);
    Predicted {
        attack_share: hits / f64::max(all, f64::MIN_POSITIVE),
        clean_share: shares.clean,
        uncertain_share: shares.uncertain,
        clean_flows: known.0 as u64,
    }
}

/// Draws packets so that each stands for as much as any other, in order of time.
fn drawn<'a>(part: &[&'a Sample]) -> Vec<&'a Sample> {
    let total: f64 = part.iter().map(|sample| heft(sample)).sum();
    let first = part.first().map_or(0.0, |sample| heft(sample));
    if part.len() <= SAMPLES && part.iter().all(|sample| (heft(sample) - first).abs() < 1e-9) {
        return part.to_vec();
    }
    let step = total / SAMPLES.min(part.len() * 2) as f64;
    let (mut sum, mut next) = (0.0, step / 2.0);
    let mut out = Vec::with_capacity(SAMPLES);
    for sample in part {
        sum += heft(sample);
        while sum > next && out.len() < SAMPLES {
            out.push(*sample);
            next += step;
        }
    }
    out
}
