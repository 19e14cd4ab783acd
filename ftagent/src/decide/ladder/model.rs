//! A network that is imagined: an uplink, an attack, and planes that do what they are asked, late, badly or not at
//! all. For `ftagent ladder plan`, and for tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Attack, Filter, Ladder, Move, Report, Scene, Standing, Step, Traffic, Uplink, What};
use crate::{
    decide::{Now, mitigate::Exempt},
    rule::{Action, Rate},
};

/// How a plane behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// It does what it is asked, so many milliseconds later.
    Obeys(u64),
    /// It says so after that time, and does nothing.
    Lies(u64),
    /// It cannot be reached.
    Down,
    /// It says no.
    Refuses,
    /// It takes what it is asked for, and has nobody to tell: a BGP daemon without a session.
    Unheard,
    /// It obeys, and what is not wanted any more is there, and works, so many milliseconds longer.
    Clings(u64, u64),
    /// It obeys, drops, and does not limit rates.
    DropsOnly(u64),
}

/// How it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Bits a second of the attack that is sent.
    pub attack_bps: f64,
    /// Bits a second that customers send.
    pub clean_bps: f64,
}

/// The network.
#[derive(Debug)]
pub struct World {
    /// What the uplink carries, bits a second.
    pub capacity_bps: f64,
    /// What is sent.
    pub load: Load,
    /// The planes, by name.
    pub planes: BTreeMap<String, Plane>,
    /// Rules that this host finds against the attack, as they can be said upstream.
    pub filters: Vec<Filter>,
    /// What it is aimed at.
    pub victims: Vec<(IpAddr, f64)>,
    /// Rules that this host found, and took back because they cost too much.
    pub withdrawn: Vec<u32>,
    /// What is exempt here.
    pub exempt: Exempt,
    /// Whether the daemon acts.
    pub acts: bool,
    /// Steps that somebody took back at the plane, by what they are.
    pub taken_back: Vec<What>,
    /// Milliseconds in which the uplink was full, of victims in black holes, and how often something was announced:
    /// a step that was not there in any form a tick before.
    pub full_ms: u64,
    /// See [`Self::full_ms`].
    pub black_ms: u64,
    /// See [`Self::full_ms`].
    pub announced: u32,
    /// Nanoseconds since its beginning, to which the wall clock is added.
    pub now: Now,
    asked: BTreeMap<u32, (Step, u64)>,
    /// What was there and is replaced by something else of the same packets, until that works.
    lingering: Vec<(Step, u64)>,
    open: Option<(String, u64)>,
    over_ns: Option<u64>,
    number: u32,
    reported: Vec<Report>,
}

/// The attack is found when there is so much of it, as a share of what customers send, and it has been there for so
/// long; it is over after so long, nanoseconds.
const FOUND: f64 = 0.05;
const FOUND_NS: u64 = 300_000_000;
const OVER_NS: u64 = 10_000_000_000;
/// Rules are found so long after it opened, nanoseconds.
const RULES_NS: u64 = 200_000_000;

impl World {
    /// Makes one.
    pub fn new(capacity_bps: f64, load: Load, planes: BTreeMap<String, Plane>) -> Self {
        Self {
            capacity_bps,
            load,
            planes,
            filters: Vec::new(),
            victims: Vec::new(),
            withdrawn: Vec::new(),
            exempt: Exempt::default(),
            acts: true,
            taken_back: Vec::new(),
            full_ms: 0,
            black_ms: 0,
            announced: 0,
            now: Now { mono_ns: 1_000_000_000, unix_ms: 1_700_000_000_000 },
            asked: BTreeMap::new(),
            lingering: Vec::new(),
            open: None,
            over_ns: None,
            number: 0,
            reported: Vec::new(),
        }
    }

    /// Returns what of the attack a step is about, 0 to 1.
    fn share(&self, what: &What) -> f64 {
        match what {
            What::Filter { matches, .. } => {
                let same = |filter: &&Filter| {
                    let narrowed = crate::rule::FlowMatch { dst: filter.matches.dst, ..(**matches).clone() };
                    filter.matches == narrowed || filter.matches.covers(matches)
                };
                let of_it = self.filters.iter().find(same).map_or(0.0, |filter| filter.share);
                of_it * matches.dst.map_or(1.0, |net| self.towards(&net))
            }
            What::BlackHole { victim: net } | What::Divert { prefix: net } => self.towards(net),
            What::SourceBlackHole { .. } => 0.0,
        }
    }

    /// Returns what of the attack goes to a prefix, 0 to 1. Of an attack on many addresses few are known: the others
    /// are in all prefixes.
    fn towards(&self, net: &IpNet) -> f64 {
        let sum = |inside: bool| -> f64 {
            let shares = self.victims.iter().filter(|(address, _)| net.contains(address) == inside);
            shares.map(|(_, share)| share).sum()
        };
        if net.prefix_len() == net.max_prefix_len() { sum(true) } else { (1.0 - sum(false)).max(0.0) }
    }

    /// Returns since when a step works, monotonic nanoseconds; `None` where its plane does nothing.
    fn works_from(&self, step: &Step, asked_ns: u64) -> Option<u64> {
        match self.planes.get(&step.plane) {
            Some(Plane::DropsOnly(_)) if step.what.limits() => None,
            Some(Plane::Obeys(delay) | Plane::Clings(delay, _) | Plane::DropsOnly(delay)) => {
                Some(asked_ns + delay * 1_000_000)
            }
            _ => None,
        }
    }

    /// Returns what works now.
    fn at_work(&self) -> impl Iterator<Item = &Step> {
        let now_ns = self.now.mono_ns;
        let works = move |(step, asked_ns): &&(Step, u64)| {
            self.works_from(step, *asked_ns).is_some_and(|from_ns| now_ns >= from_ns)
        };
        let lingers = self.lingering.iter().filter(move |(_, until_ns)| now_ns < *until_ns);
        self.asked.values().filter(works).chain(lingers).map(|(step, _)| step)
    }

    /// Returns what of the attack and of customers' traffic comes through what is upstream now, bits a second.
    fn through(&self) -> (f64, f64) {
        let (mut attack, mut clean) = (self.load.attack_bps, self.load.clean_bps);
        for step in self.at_work() {
            let of_it = self.load.attack_bps * self.share(&step.what);
            match &step.what {
                What::Filter { action: Action::RateLimit(Rate::Bps(limit)), .. } => {
                    attack -= (of_it - *limit as f64).max(0.0);
                }
                What::BlackHole { .. } => {
                    attack -= of_it;
                    clean *= 1.0 - self.share(&step.what).min(1.0);
                }
                _ => attack -= of_it,
            }
        }
        (attack.max(0.0), clean.max(0.0))
    }

    /// Goes on by a tick, and returns the moves.
    pub fn tick(&mut self, ladder: &mut Ladder, elapsed_ms: u64) -> Vec<Move> {
        let elapsed_ns = elapsed_ms * 1_000_000;
        self.now.mono_ns += elapsed_ns;
        self.now.unix_ms += elapsed_ms as i64;
        let (attack, clean) = self.through();
        let sent = attack + clean;
        if sent >= self.capacity_bps {
            self.full_ms += elapsed_ms;
        }
        // What does not fit is lost by chance.
        let fits = (self.capacity_bps / sent.max(1.0)).min(1.0);
        let (attack, clean) = (attack * fits, clean * fits);
        ladder.note_uplink(
            self.now.mono_ns,
            Uplink { name: "uplink".to_owned(), used_bps: attack + clean, capacity_bps: Some(self.capacity_bps) },
        );
        let reports = self.reports();
        if reports != self.reported {
            self.reported.clone_from(&reports);
            ladder.note_reports(reports);
        }
        let incident = self.incident(attack, clean);
        let arriving = Arriving { world: self, attack };
        let scene = Scene {
            now: self.now,
            elapsed_ns,
            attack: incident.as_ref(),
            strain: Some((0.0, 0.0)),
            acts: self.acts,
            keeps: self.acts,
            exempt: &self.exempt,
            traffic: &arriving,
        };
        let moves = ladder.on_tick(&scene);
        self.follow(ladder.ascent().0);
        let black: usize = self.asked.values().filter(|(step, _)| matches!(step.what, What::BlackHole { .. })).count();
        self.black_ms += elapsed_ms * black as u64;
        moves
    }

    /// Takes what is wanted to the planes.
    fn follow(&mut self, wanted: &[Step]) {
        let subject = |what: &What| match what {
            What::Filter { matches, .. } => matches.to_string(),
            other => other.to_string(),
        };
        let before_ids: BTreeSet<u32> = self.asked.keys().copied().collect();
        let before: BTreeSet<String> = self.asked.values().map(|(step, _)| subject(&step.what)).collect();
        let now_ns = self.now.mono_ns;
        self.lingering.retain(|(_, until_ns)| now_ns < *until_ns);
        let gone = self.asked.values().filter(|(step, _)| !wanted.iter().any(|kept| kept.id == step.id));
        let replaced = gone.filter_map(|(step, at_ns)| {
            let new =
                wanted.iter().find(|new| !before_ids.contains(&new.id) && subject(&new.what) == subject(&step.what))?;
            let worked = self.works_from(step, *at_ns).is_some_and(|from_ns| now_ns >= from_ns);
            Some((step.clone(), self.works_from(new, now_ns).filter(|_| worked)?))
        });
        let replaced: Vec<(Step, u64)> = replaced.collect();
        let clings = |step: &Step| match self.planes.get(&step.plane) {
            Some(Plane::Clings(_, longer)) => Some((step.clone(), now_ns + longer * 1_000_000)),
            _ => None,
        };
        let gone = self.asked.values().filter(|(step, _)| !wanted.iter().any(|kept| kept.id == step.id));
        let clinging: Vec<(Step, u64)> = gone.filter_map(|(step, _)| clings(step)).collect();
        self.lingering.extend(replaced);
        self.lingering.extend(clinging);
        self.asked.retain(|id, _| wanted.iter().any(|step| step.id == *id));
        for step in wanted {
            if !self.asked.contains_key(&step.id) {
                self.announced += u32::from(!before.contains(&subject(&step.what)));
                self.asked.insert(step.id, (step.clone(), self.now.mono_ns));
            }
        }
    }

    fn reports(&self) -> Vec<Report> {
        let report = |(name, plane): (&String, &Plane)| {
            let steps = self.asked.values().filter(|(step, _)| step.plane == *name).map(|(step, at_ns)| {
                let passed = self.now.mono_ns.saturating_sub(*at_ns);
                let standing = match plane {
                    _ if self.taken_back.contains(&step.what) => Standing::TakenBack,
                    Plane::DropsOnly(_) if step.what.limits() => Standing::Refused("it does not limit".to_owned()),
                    Plane::Obeys(delay) | Plane::Lies(delay) | Plane::Clings(delay, _) | Plane::DropsOnly(delay) => {
                        match passed >= delay * 1_000_000 {
                            true => Standing::Present,
                            false => Standing::Asked,
                        }
                    }
                    Plane::Unheard => Standing::Present,
                    Plane::Down => Standing::Failed("connection refused".to_owned()),
                    Plane::Refuses => Standing::Refused("not in the contract".to_owned()),
                };
                (step.id, standing)
            });
            let trouble = match plane {
                Plane::Down => Some("it cannot be reached".to_owned()),
                Plane::Unheard => Some("none of its sessions is up".to_owned()),
                _ => None,
            };
            let clings = matches!(plane, Plane::Clings(..));
            let left =
                self.lingering.iter().filter(|(step, until_ns)| step.plane == *name && *until_ns > self.now.mono_ns);
            let leaving = if clings { left.count() } else { 0 };
            Report {
                plane: name.clone(),
                steps: steps.collect(),
                leaving,
                trouble,
                unseen: matches!(plane, Plane::Down),
            }
        };
        self.planes.iter().map(report).collect()
    }

    /// Returns the incident as this host sees it: by what arrives.
    fn incident(&mut self, attack: f64, clean: f64) -> Option<Attack> {
        let now_ns = self.now.mono_ns;
        if attack >= FOUND * clean.max(1_000_000.0) {
            self.over_ns = None;
            if self.open.is_none() {
                self.number += 1;
                self.open = Some((format!("imagined-{}", self.number), now_ns));
            }
        } else if now_ns.saturating_sub(*self.over_ns.get_or_insert(now_ns)) >= OVER_NS {
            self.open = None;
        }
        let (id, since) = self.open.clone()?;
        let opened_ns = since + FOUND_NS;
        if now_ns < opened_ns {
            return None;
        }
        let filters = if now_ns >= opened_ns + RULES_NS { self.filters.clone() } else { Vec::new() };
        let dropped: f64 = filters.iter().map(|filter| filter.share).sum();
        Some(Attack {
            id,
            opened_ns,
            pps: attack / 8000.0,
            bps: attack,
            residual: (1.0 - dropped).max(0.0),
            filters,
            victims: self.victims.clone(),
            withdrawn: self.withdrawn.clone(),
            ..Attack::default()
        })
    }
}

/// What arrives of what steps are about.
struct Arriving<'a> {
    world: &'a World,
    attack: f64,
}

impl Traffic for Arriving<'_> {
    fn arriving(&self, what: &What) -> f64 {
        let sent = self.world.load.attack_bps;
        match what {
            What::Filter { .. } => {
                // What upstream lets through of just this.
                let limited = self.world.at_work().find_map(|step| match (&step.what, what) {
                    (What::Filter { matches, action }, What::Filter { matches: of, .. }) if matches == of => {
                        Some(*action)
                    }
                    _ => None,
                });
                let of_it = sent * self.world.share(what);
                match limited {
                    Some(Action::RateLimit(Rate::Bps(limit))) => of_it.min(limit as f64),
                    Some(_) => 0.0,
                    None if sent > 0.0 => of_it * (self.attack / sent).min(1.0),
                    None => 0.0,
                }
            }
            _ if self.world.at_work().any(|step| step.what == *what) => 0.0,
            _ => self.attack * self.world.share(what),
        }
    }
}
