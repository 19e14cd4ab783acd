//! Searches the conditions for the rule that removes most of an attack and touches least of clean
//! traffic: a beam search over conjunctions of up to five conditions.

use std::collections::BTreeSet;

use super::{
    Ground,
    atoms::{Atom, FLAGS},
    bits::Bits,
    fields,
};
use crate::{
    decide::baseline::{invalid, no_business},
    rule::Fragment,
};

/// Conjunctions that are carried on at each length.
const BEAM: usize = 10;
/// Conditions of a rule at most, besides those that it begins with.
const LONGEST: usize = 4;
/// Conditions that are tried at most.
const ATOMS: usize = 48;
/// Searches that begin with a value that part of the packets have.
const CLUSTERS: usize = 8;
/// There are none where one rule removes this share.
const ENOUGH: f64 = 0.9;
/// Conditions that only make a rule narrower may lose this share of what it removes.
const LOST: f64 = 0.003;
/// Packets that show that a narrower condition holds.
const SHOWN: usize = 64;
/// Share of what nobody vouches for that a rule may hit without being the attack's signature.
const UNVOUCHED: f64 = 0.02;
/// Such a signature is worth that only where it removes this share of the whole attack.
const WORTH: f64 = 0.04;
/// A rule that is too dear is still named, as what would have to be paid, from this share on.
const NAMED: f64 = 0.6;

/// What a rule may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Verified entries that may be hit yet.
    pub hits: usize,
    /// So little clean traffic is known that only what nobody has business with is dropped.
    pub scarce: bool,
}

/// A conjunction, and what it hits.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its conditions.
    pub atoms: Vec<Atom>,
    /// Packets of the attack.
    pub hits: usize,
    /// Verified entries, or as many as are to be expected.
    pub verified: usize,
    /// How good it is.
    pub score: f64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rules within the budget, best first.
    pub good: Vec<Found>,
    /// The cheapest of those that remove most of it and cost too much.
    pub near: Option<Found>,
}

/// Searches among all packets, and among those that share a value.
pub fn search(ground: &Ground<'_>, start: &[Atom], budget: Budget) -> Outcome {
    let mut outcome = Outcome::default();
    explore(ground, ground, start, budget, &mut outcome);
    let enough = outcome.good.iter().any(|found| found.hits as f64 >= ENOUGH * ground.attack.len() as f64);
    for cluster in fields::clusters(ground).into_iter().take(if enough { 0 } else { CLUSTERS }) {
        let part = ground.only(&cluster);
        let mut begin: Vec<Atom> =
            start.iter().filter(|atom| atom.dimension() != cluster.dimension()).cloned().collect();
        begin.push(cluster);
        explore(&part, ground, &begin, budget, &mut outcome);
    }
    outcome.good.sort_by(|a, b| b.score.total_cmp(&a.score));
    outcome.good.dedup_by(|a, b| a.hits == b.hits && a.atoms == b.atoms);
    outcome
}

/// Searches for conditions beside those of a rule that there is already; best first.
pub fn inside(ground: &Ground<'_>, start: &[Atom], budget: Budget) -> Vec<Found> {
    let mut outcome = Outcome::default();
    explore(ground, ground, start, budget, &mut outcome);
    outcome.good.sort_by(|a, b| b.score.total_cmp(&a.score));
    outcome.good
}

/// What a conjunction that is being built hits.
#[derive(Clone, Copy)]
struct Draft {
    picks: u64,
    dimensions: u16,
    hits: usize,
    verified: usize,
    others: usize,
    score: f64,
}

/// A conjunction that is carried on, with the packets that it hits.
#[derive(Clone)]
struct Item {
    draft: Draft,
    attack: Bits,
    clean: Bits,
}

/// A condition, and what it hits by itself.
struct Tried {
    atom: Atom,
    attack: Bits,
    clean: Bits,
}

struct Hunt<'s, 'a> {
    ground: &'s Ground<'a>,
    whole: &'s Ground<'a>,
    start: &'s [Atom],
    budget: Budget,
    tried: Vec<Tried>,
    verified: Bits,
    /// Entries of the whole ground: verified ones and others.
    known: (usize, usize),
    /// Most packets are of classes that nobody has business with.
    idle: bool,
}

fn explore(ground: &Ground<'_>, whole: &Ground<'_>, start: &[Atom], budget: Budget, outcome: &mut Outcome) {
    let mut atoms = fields::atoms(ground);
    atoms.retain(|atom| start.iter().all(|other| other.dimension() != atom.dimension()));
    atoms.truncate(ATOMS);
    let attack = Bits::of_each(&ground.attack, &atoms, |atom, sample| atom.holds(&sample.seen));
    let clean = Bits::of_each(&ground.clean, &atoms, |atom, clean| atom.holds(&clean.seen));
    let tried = atoms.into_iter().zip(attack).zip(clean);
    let tried = tried.map(|((atom, attack), clean)| Tried { atom, attack, clean });
    let useless = |class| no_business(class) || invalid(class);
    let idle = ground.attack.iter().filter(|sample| useless(sample.seen.class)).count();
    let hunt = Hunt {
        ground,
        whole,
        start,
        budget,
        tried: tried.collect(),
        verified: Bits::of(&ground.clean, |clean| clean.verified),
        known: whole.sizes(),
        idle: idle * 10 >= ground.attack.len() * 9,
    };
    hunt.run(outcome);
}

impl Hunt<'_, '_> {
    fn run(&self, outcome: &mut Outcome) {
        let (attack, clean) = (Bits::of(&self.ground.attack, |_| true), Bits::of(&self.ground.clean, |_| true));
        let all =
            Item { draft: self.draft(0, 0, attack.count(), clean.count_within(&clean, &self.verified)), attack, clean };
        let mut beam = vec![all];
        let mut seen = BTreeSet::new();
        let mut best: Vec<Item> = Vec::new();
        for depth in 0..=LONGEST {
            let mut next: Vec<(Draft, usize, usize)> = Vec::new();
            for (parent, item) in beam.iter().enumerate() {
                self.consider(item, &mut best, outcome);
                if depth < LONGEST {
                    next.extend(self.extend(item, &mut seen).map(|(draft, number)| (draft, parent, number)));
                }
            }
            next.sort_by(|a, b| b.0.score.total_cmp(&a.0.score).then(a.0.picks.cmp(&b.0.picks)));
            next.truncate(BEAM);
            let grow = |(draft, parent, number): (Draft, usize, usize)| {
                Some(self.grown(beam.get(parent)?, self.tried.get(number)?, draft))
            };
            beam = next.into_iter().filter_map(grow).collect();
        }
        best.sort_by(|a, b| b.draft.score.total_cmp(&a.draft.score).then(a.draft.picks.cmp(&b.draft.picks)));
        best.truncate(3);
        outcome.good.extend(best.into_iter().filter_map(|item| self.finish(item)));
    }

    fn draft(&self, picks: u64, dimensions: u16, hits: usize, (all, verified): (usize, usize)) -> Draft {
        let mut draft = Draft { picks, dimensions, hits, verified, others: all - verified, score: 0.0 };
        draft.score = self.score(&draft);
        draft
    }

    fn extended(&self, item: &Item, number: usize, tried: &Tried) -> Draft {
        let clean = item.clean.count_within(&tried.clean, &self.verified);
        let (picks, dimensions) = (item.draft.picks | 1 << number, item.draft.dimensions | 1 << tried.atom.dimension());
        self.draft(picks, dimensions, item.attack.count_and(&tried.attack), clean)
    }

    fn grown(&self, item: &Item, tried: &Tried, draft: Draft) -> Item {
        Item { draft, attack: item.attack.and(&tried.attack), clean: item.clean.and(&tried.clean) }
    }

    fn extend(&self, item: &Item, seen: &mut BTreeSet<u64>) -> impl Iterator<Item = (Draft, usize)> {
        let unfinished = !is_rule(&self.atoms(&item.draft));
        let mut found = Vec::new();
        for (number, tried) in self.tried.iter().enumerate() {
            let before = &item.draft;
            if before.dimensions & 1 << tried.atom.dimension() != 0 || !seen.insert(before.picks | 1 << number) {
                continue;
            }
            let draft = self.extended(item, number, tried);
            // What takes nothing from clean traffic makes a rule longer and no better.
            let saves = draft.verified + draft.others < before.verified + before.others;
            if (saves || unfinished) && draft.hits > 0 {
                found.push((draft, number));
            }
        }
        found.into_iter()
    }

    /// Shares of the attack, less what it costs.
    fn score(&self, item: &Draft) -> f64 {
        let (verified, others) = self.known;
        let removed = item.hits as f64 / self.whole.attack.len().max(1) as f64;
        let over = item.verified.saturating_sub(self.budget.hits);
        let within = item.verified.min(self.budget.hits) as f64 / self.budget.hits.max(1) as f64;
        let price: f64 = self.picked(item.picks).map(|tried| tried.atom.price()).sum();
        let start: f64 = self.start.iter().map(Atom::price).sum();
        let paid = 0.9 * over as f64 / verified.max(1) as f64 + 0.02 * within;
        removed - paid - 0.3 * item.others as f64 / others.max(20) as f64 - price - start
    }

    fn picked(&self, picks: u64) -> impl Iterator<Item = &Tried> {
        self.tried.iter().enumerate().filter(move |(number, _)| picks >> number & 1 == 1).map(|(_, tried)| tried)
    }

    fn atoms(&self, item: &Draft) -> Vec<Atom> {
        self.start.iter().cloned().chain(self.picked(item.picks).map(|tried| tried.atom.clone())).collect()
    }

    fn consider(&self, item: &Item, best: &mut Vec<Item>, outcome: &mut Outcome) {
        let draft = &item.draft;
        let atoms = self.atoms(draft);
        if draft.hits == 0 || !is_rule(&atoms) {
            return;
        }
        if draft.verified > self.budget.hits || self.budget.scarce && !self.idle {
            let near = outcome.near.as_ref();
            let better = near.is_none_or(|near| (draft.verified, near.hits) < (near.verified, draft.hits));
            if better && draft.hits as f64 >= NAMED * self.whole.attack.len() as f64 {
                outcome.near = Some(found(draft, atoms));
            }
            return;
        }
        best.push(item.clone());
    }

    /// Makes a rule as narrow as it can be without removing less.
    fn finish(&self, mut item: Item) -> Option<Found> {
        if item.draft.hits >= SHOWN {
            self.narrow(&mut item, |atom| {
                matches!(atom, Atom::Family(_) | Atom::Dst(_))
                    || matches!(atom, Atom::Flags(_) | Atom::Len(_)) && !self.is_of_connections()
                    || matches!(atom, Atom::IcmpType(_) | Atom::IcmpCode(_) | Atom::Frag(_))
                    || matches!(atom, Atom::Dport(_)) && atom.is_constant()
                    || matches!(atom, Atom::Sport(_)) && atom.is_constant() && !self.is_of_clients(atom)
            });
        }
        // What clean traffic it hits yet may be a forerunner of the attack, or somebody's.
        if item.draft.verified + item.draft.others > 0 {
            self.narrow(&mut item, |atom| matches!(atom, Atom::Ttl(_) | Atom::Payload(_) | Atom::Dscp(_)));
        }
        let mut draft = item.draft;
        let atoms = self.atoms(&draft);
        draft.verified = draft.verified.max(self.expected(&atoms));
        let (_, others) = self.known;
        let vouched = draft.others as f64 <= UNVOUCHED * others as f64;
        let signatures = atoms.iter().filter(|atom| atom.is_signature()).count();
        let removed = self.whole.problem.part * draft.hits as f64 / self.whole.all.max(1) as f64;
        let is_signature = signatures >= 2 && removed >= WORTH;
        (draft.verified <= self.budget.hits && (vouched || is_signature)).then(|| found(&draft, atoms))
    }

    /// Returns whether it names ports from which clients connect: they have others the next second.
    fn is_of_clients(&self, atom: &Atom) -> bool {
        let high = matches!(atom, Atom::Sport(set) if set.iter().any(|(_, last)| last >= 1024));
        high && self.ground.attack.iter().all(|sample| sample.seen.key.proto == 6)
    }

    /// Returns whether the packets are those of whole connections: what comes next in them has other flags
    /// and lengths than what came first.
    fn is_of_connections(&self) -> bool {
        let flags: BTreeSet<u8> = self.ground.attack.iter().map(|sample| sample.seen.key.flags & FLAGS).collect();
        let common = |flags: &&u8| {
            let with = self.ground.attack.iter().filter(|sample| sample.seen.key.flags & FLAGS == **flags).count();
            with * 50 >= self.ground.attack.len()
        };
        flags.iter().filter(common).count() >= 3
    }

    fn narrow(&self, item: &mut Item, wanted: impl Fn(&Atom) -> bool) {
        for (number, tried) in self.tried.iter().enumerate() {
            let taken = item.draft.dimensions & 1 << tried.atom.dimension() != 0;
            if taken || !wanted(&tried.atom) || is_whole(&tried.atom) {
                continue;
            }
            let draft = Draft { score: item.draft.score, ..self.extended(item, number, tried) };
            if draft.hits as f64 >= (1.0 - LOST) * item.draft.hits as f64 {
                *item = self.grown(item, tried, draft);
            }
        }
    }

    /// Returns how many verified entries a rule may hit by what its neighbours hit: a value that is
    /// missing among few packets is not missing among many.
    fn expected(&self, atoms: &[Atom]) -> usize {
        let mut odds = 1.0;
        let wide: Vec<Atom> = atoms
            .iter()
            .map(|atom| {
                let (wide, part) = atom.widened();
                odds *= part;
                wide
            })
            .collect();
        if odds >= 1.0 {
            return 0;
        }
        let hit = |clean: &&&crate::decide::reservoir::Clean| {
            clean.verified && wide.iter().all(|atom| atom.holds(&clean.seen))
        };
        (self.ground.clean.iter().filter(hit).count() as f64 * odds) as usize
    }
}

fn found(draft: &Draft, atoms: Vec<Atom>) -> Found {
    Found { atoms, hits: draft.hits, verified: draft.verified, score: draft.score }
}

/// Returns whether it asks for packets that are no fragments, as nearly all are.
fn is_whole(atom: &Atom) -> bool {
    matches!(atom, Atom::Frag(kinds) if kinds.contains(&Fragment::Not))
}

/// Returns whether conditions make a rule: more than a protocol and where it goes to, and no source
/// without a constant of the packets beside it.
fn is_rule(atoms: &[Atom]) -> bool {
    let says_little = |atom: &Atom| {
        matches!(atom, Atom::Family(_) | Atom::Dst(_) | Atom::Dscp(_) | Atom::Src(_))
            || matches!(atom, Atom::Proto(set) if [1, 6, 17, 58].into_iter().any(|proto| set.contains(proto)))
            || is_whole(atom)
    };
    let by_source = atoms.iter().any(|atom| matches!(atom, Atom::Src(_)));
    atoms.iter().any(|atom| !says_little(atom)) && (!by_source || atoms.iter().any(Atom::is_constant))
}
