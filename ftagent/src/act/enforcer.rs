//! Sees to it that the kernel has the rules that are wanted, and says what they did.

use std::collections::BTreeSet;

use ftagent_common::rules::{Counter, Counters, RULES};

use crate::{
    bpf::{
        LoadError,
        rules::{KernelRules, Placed, RulesError},
    },
    decide::mitigate::{RuleCount, Wanted},
    rule::{Action, Origin, Rule},
};

/// Removed rules whose last counts are kept.
const DEPARTED: usize = 64;

/// Time in jiffies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jiffies {
    /// The present jiffy.
    pub now: u64,
    /// Jiffies in a second.
    pub hz: u64,
}

impl Jiffies {
    /// Returns the jiffy that begins this many milliseconds from now, at least one ahead.
    pub(super) fn after(self, ms: u64) -> u64 {
        let ticks = (u128::from(ms) * u128::from(self.hz)).div_ceil(1000);
        self.now.saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX).max(1))
    }
}

/// Keeps the kernel's rules as they are wanted. Slots are given out so that a rule keeps its
/// counters while it lives, and no slot is given to another rule before all CPUs have left it.
#[derive(Debug)]
pub struct Enforcer {
    kernel: KernelRules,
    /// In force, in the order in which they are tried.
    held: Vec<Held>,
    /// Wanted and not in force: the rule, and why.
    refused: Vec<(Held, String)>,
    /// Out of force, with something to say yet.
    departed: Vec<Departed>,
    /// Slots that packets may still be in, and the number of the set that replaced theirs.
    resting: Vec<(u8, u64)>,
    /// Slots of the daemon before this one, as long as its rules are in force.
    inherited: Vec<u8>,
    /// A rule waits for a slot.
    retry: bool,
    /// The table in force, as it was read back.
    fingerprint: u64,
}

/// A rule and its slot.
#[derive(Clone, Debug)]
struct Held {
    id: u32,
    rule: Rule,
    ttl_ms: u64,
    slot: u8,
    /// What was told of it.
    told: Counter,
}

/// A rule that was removed, until what it did at last is told.
#[derive(Clone, Debug)]
struct Departed {
    held: Held,
    /// The number of the set without it.
    flips: u64,
}

/// How wanted and present compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// Rules that are wanted.
    pub wanted: usize,
    /// Rules that are present.
    pub present: usize,
    /// Rules that were missing, in words, with the reason where they cannot be put back.
    pub missing: Vec<String>,
}

impl Enforcer {
    /// Takes over the kernel's rules. Those of an earlier daemon stay in force until others are
    /// wanted, or until they end by themselves.
    pub fn new(kernel: KernelRules) -> Self {
        let inherited = kernel.present().into_iter().map(|(slot, _)| slot).collect();
        Self {
            kernel,
            held: Vec::new(),
            refused: Vec::new(),
            departed: Vec::new(),
            resting: Vec::new(),
            inherited,
            retry: false,
            fingerprint: 0,
        }
    }

    /// Puts the wanted rules into force where they changed, and renews the others. Call it at every
    /// change and at least every second.
    ///
    /// # Errors
    /// The rules that do not fit, one error each; all others are in force.
    pub fn apply(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Result<(), Vec<RulesError>> {
        let wanted = in_order(wanted);
        if self.must_install(&wanted, jiffies) {
            self.install(&wanted, jiffies).map_err(|error| vec![error])?;
        } else {
            for held in &mut self.held {
                if let Some(now) = wanted.iter().find(|wanted| wanted.id == held.id) {
                    held.ttl_ms = now.ttl_ms;
                }
                self.kernel.renew(held.slot, jiffies.after(held.ttl_ms));
            }
        }
        let errors = self.refused.iter().map(|(held, what)| RulesError::Compile {
            slot: held.slot,
            rule: held.rule.matches.to_string(),
            what: what.clone(),
        });
        let errors: Vec<_> = errors.collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Returns what each rule did since this was last asked; of a rule that was removed meanwhile,
    /// what it did until then.
    ///
    /// # Errors
    /// What the map says.
    pub fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError> {
        let counters = self.kernel.counters()?;
        let mut counts: Vec<_> = self.held.iter_mut().map(|held| held.tell(&counters)).collect();
        let departed = std::mem::take(&mut self.departed);
        for mut gone in departed {
            counts.push(gone.held.tell(&counters));
            if !self.kernel.have_left(gone.flips) {
                self.departed.push(gone);
            }
        }
        Ok(counts)
    }

    /// Returns the slot of a rule that is in force, or was until a moment ago.
    pub fn slot(&self, id: u32) -> Option<u8> {
        let mut held = self.held.iter().chain(self.departed.iter().map(|gone| &gone.held));
        held.find(|held| held.id == id).map(|held| held.slot)
    }

    /// Compares what is wanted with what the kernel has, and repairs it.
    pub fn reconcile(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Drift {
        let wanted = in_order(wanted);
        let present = self.kernel.present();
        let is_table = self.held.is_empty() || self.fingerprint == self.kernel.fingerprint();
        let mut missing = Vec::new();
        for wanted in &wanted {
            let held = self.held.iter().find(|held| held.id == wanted.id && acts_alike(&held.rule, &wanted.rule));
            let is_there = is_table
                && held.is_some_and(|held| {
                    let alive = present.iter().any(|(slot, expires)| *slot == held.slot && *expires > jiffies.now);
                    alive && self.kernel.does(held.slot, held.rule.action, jiffies.hz)
                });
            if !is_there {
                missing.push((wanted.id, format!("{} {}", wanted.rule.matches, wanted.rule.action)));
            }
        }
        let mut failed = None;
        if !missing.is_empty()
            && let Err(error) = self.install(&wanted, jiffies)
        {
            failed = Some(error.to_string());
        }
        let why = |id: u32| self.refused.iter().find(|(held, _)| held.id == id).map(|(_, what)| what.clone());
        let words = |(id, rule): (u32, String)| match failed.clone().or_else(|| why(id)) {
            Some(what) => format!("{rule}: {what}"),
            None => rule,
        };
        Drift { wanted: wanted.len(), present: present.len(), missing: missing.into_iter().map(words).collect() }
    }

    /// Returns whether the set is another than the one in force.
    fn must_install(&mut self, wanted: &[&Wanted], jiffies: Jiffies) -> bool {
        if !self.inherited.is_empty() {
            let is_alive = |(_, expires): &(u8, u64)| *expires > jiffies.now;
            return !wanted.is_empty() || !self.kernel.present().iter().any(is_alive);
        }
        if self.retry && self.used().len() < RULES {
            return true;
        }
        // Both are in the order of trying; the refused ones have their place among the others.
        let mut known: Vec<&Held> = self.held.iter().chain(self.refused.iter().map(|(held, _)| held)).collect();
        known.sort_by_key(|held| (rank(&held.rule), held.id));
        known.len() != wanted.len()
            || known
                .iter()
                .zip(wanted)
                .any(|(held, wanted)| held.id != wanted.id || !acts_alike(&held.rule, &wanted.rule))
    }

    /// Returns the slots that cannot be given to another rule.
    fn used(&mut self) -> BTreeSet<u8> {
        let Self { kernel, held, departed, resting, inherited, .. } = self;
        resting.retain(|(_, flips)| !kernel.have_left(*flips));
        // Not before its last counts were told.
        let held = held.iter().chain(departed.iter().map(|gone| &gone.held)).map(|held| held.slot);
        held.chain(inherited.iter().copied()).chain(resting.iter().map(|(slot, _)| *slot)).collect()
    }

    /// Puts a set into force. Rules that do not fit are left out, one by one.
    fn install(&mut self, wanted: &[&Wanted], jiffies: Jiffies) -> Result<(), RulesError> {
        self.retry = false;
        let (mut next, mut refused) = self.place(wanted);
        loop {
            let place =
                |held: &Held| Placed { slot: held.slot, rule: held.rule.clone(), expires: jiffies.after(held.ttl_ms) };
            let placed: Vec<_> = next.iter().map(place).collect();
            match self.kernel.install(&placed, jiffies.hz) {
                Ok(()) => break,
                Err(RulesError::Compile { slot, rule, what }) => {
                    let Some(at) = next.iter().position(|held| held.slot == slot) else {
                        return Err(RulesError::Compile { slot, rule, what });
                    };
                    refused.push((next.remove(at), what));
                }
                Err(error) => return Err(error),
            }
        }
        let flips = self.kernel.flips();
        let slots: BTreeSet<u8> = next.iter().map(|held| held.slot).collect();
        for held in std::mem::take(&mut self.held) {
            if !slots.contains(&held.slot) {
                self.resting.push((held.slot, flips));
                self.departed.push(Departed { held, flips });
            }
        }
        // Where nobody asks what rules did, their slots are not kept for that.
        self.departed.drain(..self.departed.len().saturating_sub(DEPARTED));
        self.resting.extend(std::mem::take(&mut self.inherited).into_iter().map(|slot| (slot, flips)));
        (self.held, self.refused) = (next, refused);
        self.fingerprint = self.kernel.fingerprint();
        Ok(())
    }

    /// Gives every rule a slot: the one it has, or a free one. The second list is of those for
    /// which there is none.
    fn place(&mut self, wanted: &[&Wanted]) -> (Vec<Held>, Vec<(Held, String)>) {
        let used = self.used();
        let mut free = (0..=u8::MAX).filter(|slot| !used.contains(slot));
        let (mut placed, mut refused) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let Wanted { id, rule, ttl_ms } = (*wanted).clone();
            let known = self.held.iter().find(|held| held.id == id);
            let slot = known.map(|held| held.slot).or_else(|| free.next());
            let told = known.map(|held| held.told).unwrap_or_default();
            let held = Held { id, rule, ttl_ms, slot: slot.unwrap_or(0), told };
            match slot {
                Some(_) if placed.len() < RULES => placed.push(held),
                _ => {
                    self.retry = true;
                    let what = "256 rules are in force, or have been until a moment ago; it waits for one to end";
                    refused.push((held, what.to_owned()));
                }
            }
        }
        (placed, refused)
    }
}

/// Rules that capture come first, because the others may end the search; then those of operators and of the
/// configuration, then those of incidents; the older before the younger.
pub(super) fn in_order(wanted: &[Wanted]) -> Vec<&Wanted> {
    let mut wanted: Vec<_> = wanted.iter().collect();
    wanted.sort_by_key(|wanted| (rank(&wanted.rule), wanted.id));
    wanted
}

/// Returns whether the kernel makes no difference between two rules.
pub(super) fn acts_alike(a: &Rule, b: &Rule) -> bool {
    a.matches == b.matches && a.action == b.action && rank(a) == rank(b)
}

fn rank(rule: &Rule) -> u8 {
    match (rule.action, &rule.origin) {
        (Action::Capture, _) => 0,
        (_, Origin::Incident(_)) => 2,
        _ => 1,
    }
}

impl Held {
    /// Returns what it did since this was last called.
    fn tell(&mut self, counters: &Counters) -> RuleCount {
        let Some(&now) = counters.slots.get(usize::from(self.slot)) else { return RuleCount::default() };
        let before = std::mem::replace(&mut self.told, now);
        RuleCount {
            id: self.id,
            packets: now.packets.saturating_sub(before.packets),
            bytes: now.bytes.saturating_sub(before.bytes),
            dropped: now.dropped.saturating_sub(before.dropped),
            dropped_bytes: now.dropped_bytes.saturating_sub(before.dropped_bytes),
            refused: false,
        }
    }
}
