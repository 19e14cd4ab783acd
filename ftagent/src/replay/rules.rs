//! Rules in virtual time: what the decisions want is put into the kernel of the test run.
//!
//! What is wanted is compared at the end of every tick and renewed every virtual second, by the
//! same [`Enforcer`] as in the daemon. It is in force for the first packet of the next tick: the
//! time between a decision and the kernel's map, which a daemon needs, is 0 here. What it costs
//! there is measured by the benchmarks, not by replay.

use std::collections::BTreeSet;

use super::report::GivenRule;
use crate::{
    act::enforcer::{Enforcer, Jiffies},
    bpf::{
        LoadError,
        rules::RulesError,
        testrun::{HZ, TestRun, jiffies},
    },
    decide::{
        Decider,
        mitigate::{RuleCount, Wanted},
    },
    rule::{Action, FlowMatch, Origin, Rule},
};

/// Ticks between renewals.
const RENEW_TICKS: u64 = 10;
/// How long a rule that was given with the command line lasts; it is renewed all the time.
const GIVEN_TTL_MS: u64 = 60_000;
/// Rules that do not fit are noted up to this number.
const NOTES: usize = 20;

/// The rules of a replay.
#[derive(Default)]
pub(super) struct Rules {
    /// Opened with the first rule that is wanted.
    enforcer: Option<Enforcer>,
    /// Rules were in force in the tick that ends, or in the one before it: some may have gone since.
    counting: bool,
    /// Rules of the operator, tried first, and what they did.
    given: Vec<(Wanted, RuleCount)>,
    /// Everything that was wanted last, the given rules first.
    wanted: Vec<Wanted>,
    generation: u64,
    counts: Vec<RuleCount>,
    problems: BTreeSet<String>,
}

impl Rules {
    /// Puts the given rules into force; they drop what they match.
    pub(super) fn new(given: &[FlowMatch], datapath: &mut TestRun) -> Result<Self, LoadError> {
        // Numbers from the end: the decisions count theirs from the beginning.
        let wanted = (0..u32::MAX).rev().zip(given).map(|(id, matches)| Wanted {
            id,
            rule: Rule {
                matches: matches.clone(),
                action: Action::Drop,
                origin: Origin::Operator("replay".to_owned()),
                reason: "given with the command line".to_owned(),
            },
            ttl_ms: GIVEN_TTL_MS,
        });
        let given: Vec<_> = wanted.map(|wanted| (wanted, RuleCount::default())).collect();
        let wanted = given.iter().map(|(wanted, _)| wanted.clone()).collect();
        let mut rules = Self { given, wanted, ..Self::default() };
        rules.apply(0, datapath)?;
        Ok(rules)
    }

    /// Returns what the rules of the decisions did since this was last asked.
    pub(super) fn counts(&mut self) -> Result<&[RuleCount], LoadError> {
        self.counts.clear();
        let counting = std::mem::replace(&mut self.counting, !self.wanted.is_empty());
        let Some(enforcer) = self.enforcer.as_mut().filter(|_| counting || self.counting) else { return Ok(&[]) };
        for count in enforcer.counts()? {
            match self.given.iter_mut().find(|(wanted, _)| wanted.id == count.id) {
                None => self.counts.push(count),
                Some((_, sum)) => {
                    sum.packets += count.packets;
                    sum.bytes += count.bytes;
                    sum.dropped += count.dropped;
                    sum.dropped_bytes += count.dropped_bytes;
                }
            }
        }
        Ok(&self.counts)
    }

    /// Ends a tick: puts into force what is wanted now, where that changed or is due for renewal.
    pub(super) fn end_tick(
        &mut self,
        ticks: u64,
        now_ns: u64,
        decider: &Decider,
        datapath: &mut TestRun,
    ) -> Result<(), LoadError> {
        let (wanted, generation) = decider.wanted();
        if generation != self.generation {
            self.generation = generation;
            self.wanted.truncate(self.given.len());
            self.wanted.extend_from_slice(wanted);
        } else if self.wanted.is_empty() || !ticks.is_multiple_of(RENEW_TICKS) {
            return Ok(());
        }
        self.apply(now_ns, datapath)
    }

    fn apply(&mut self, now_ns: u64, datapath: &mut TestRun) -> Result<(), LoadError> {
        if self.enforcer.is_none() {
            if self.wanted.is_empty() {
                return Ok(());
            }
            self.enforcer = Some(Enforcer::new(datapath.open_rules()?));
        }
        let Some(enforcer) = &mut self.enforcer else { return Ok(()) };
        let Err(errors) = enforcer.apply(&self.wanted, Jiffies { now: jiffies(now_ns), hz: HZ }) else { return Ok(()) };
        for error in errors {
            match error {
                RulesError::Load(error) => return Err(error),
                error if self.problems.len() < NOTES => {
                    self.problems.insert(error.to_string());
                }
                RulesError::Compile { .. } => {}
            }
        }
        Ok(())
    }

    /// Returns the rules that were given, and what they did.
    pub(super) fn given(&self) -> impl Iterator<Item = GivenRule> {
        self.given.iter().map(|(wanted, count)| GivenRule::new(wanted, count))
    }

    /// Returns why rules were not in force that should have been.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|what| format!("not in force: {what}"))
    }
}
