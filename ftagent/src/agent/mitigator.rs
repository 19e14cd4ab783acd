//! Joins what operators and decisions want of the kernel, and what came of it. It is called on the
//! poll thread at every tick: a rule that was decided on is in force before the tick is over.

use std::{collections::BTreeMap, fmt};

use ftagent_common::rules::RULES;

use crate::{
    act::{
        enforcer::{Drift, Enforcer, Jiffies},
        operator::OperatorRule,
    },
    bpf::{LoadError, clock::JiffyClock, rules::RulesError},
    decide::mitigate::{RuleCount, Wanted},
    record::tape::SlotRule,
    rule::{Action, FlowMatch, Origin, Rule},
    sense::clock,
};

/// Rules are renewed, and compared with what the kernel has, this often.
const EVERY_NS: u64 = 1_000_000_000;
/// Ids in the kernel: those of operators are below, those that decisions gave from here on. The order
/// of ids is that in which rules are tried.
const DECIDED: u32 = 1 << 30;
/// Ids of rules of an earlier life, from here on.
const INHERITED: u32 = 2 << 30;
/// Ids of what is captured, from here on; the kernel tries them first all the same.
const CAPTURES: u32 = 3 << 30;

/// What puts rules into force.
pub(super) trait Plane: fmt::Debug + Send {
    /// See [`Enforcer::apply`].
    fn apply(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Result<(), Vec<RulesError>>;
    /// See [`Enforcer::counts`].
    fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError>;
    /// See [`Enforcer::reconcile`].
    fn reconcile(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Drift;
    /// Returns the slot of a rule.
    fn slot(&self, id: u32) -> Option<u8>;
}

impl Plane for Enforcer {
    fn apply(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Result<(), Vec<RulesError>> {
        Self::apply(self, wanted, jiffies)
    }

    fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError> {
        Self::counts(self)
    }

    fn reconcile(&mut self, wanted: &[Wanted], jiffies: Jiffies) -> Drift {
        Self::reconcile(self, wanted, jiffies)
    }

    fn slot(&self, id: u32) -> Option<u8> {
        Self::slot(self, id)
    }
}

/// How the kernel's jiffies relate to `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    at_ns: u64,
    jiffy: u64,
    hz: u64,
}

impl From<&JiffyClock> for Beat {
    fn from(kernel: &JiffyClock) -> Self {
        Self { at_ns: clock::monotonic_ns(), jiffy: kernel.now(), hz: kernel.hz() }
    }
}

impl Beat {
    pub(super) fn at(self, now_ns: u64) -> Jiffies {
        let passed = u128::from(now_ns.saturating_sub(self.at_ns)) * u128::from(self.hz) / 1_000_000_000;
        Jiffies { now: self.jiffy.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)), hz: self.hz }
    }
}

/// Whose a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// An operator's, with its number.
    Operator(u32),
    /// One that was decided on, with the number that the decisions gave it.
    Decision(u32),
    /// One of an earlier life of the daemon.
    Inherited,
    /// What is captured, with its number.
    Capture(u32),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator(id) => write!(f, "operator's rule {id}"),
            Self::Decision(id) => write!(f, "rule {id}"),
            Self::Capture(number) => write!(f, "capture {number}"),
            Self::Inherited => f.write_str("rule of an earlier life"),
        }
    }
}

/// A rule in the kernel, and what it did in this life of the daemon.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Whose it is.
    pub owner: Owner,
    /// The rule, as it is now.
    pub wanted: Wanted,
    /// When it ends by itself, monotonic nanoseconds; `None`: it is renewed as long as it is wanted.
    pub ends_ns: Option<u64>,
    /// What it did.
    pub total: RuleCount,
    /// Packets a second that matched, over the last second.
    pub pps: f64,
    /// Why it is not in force.
    pub failed: Option<String>,
    /// Whether that is for what it is, and not for what became of the whole set.
    pub refused: bool,
    /// Where its counters are.
    pub slot: Option<u8>,
    /// Packets of this second.
    second: u64,
}

/// How things are.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The rules, in the order in which they are tried.
    pub rules: Vec<Live>,
    /// How wanted and present compare.
    pub drift: Drift,
    /// Packets that matched since the start, by slot, of slots that were used.
    pub slots: Vec<(u8, u64)>,
    /// What does not work, for the operator.
    pub trouble: Option<String>,
}

/// A rule that could not be put into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its match, as text; `None`: all of them.
    pub rule: Option<String>,
    /// Why.
    pub what: String,
}

/// Keeps the kernel as it is wanted.
#[derive(Debug)]
pub(super) struct Mitigator {
    plane: Box<dyn Plane>,
    beat: Beat,
    operators: Vec<OperatorRule>,
    /// What is captured: number, match, and when it ends.
    captures: Vec<(u32, FlowMatch, u64)>,
    inherited: Vec<(Wanted, u64)>,
    live: BTreeMap<u32, Live>,
    generation: Option<u64>,
    applied_ns: Option<u64>,
    /// What was counted in this tick of the rules that were decided on.
    counts: Vec<RuleCount>,
    second_ns: u64,
    slots: Box<[Option<u64>]>,
    drift: Drift,
    failures: Vec<Failure>,
    /// Why counters cannot be read.
    unreadable: Option<String>,
    trouble: Option<String>,
    /// The rules are others than at the last look.
    changed: bool,
}

impl Mitigator {
    /// `inherited`: what an earlier life of the daemon wanted, with the time that is left to it.
    pub(super) fn new(plane: Box<dyn Plane>, beat: Beat, inherited: Vec<Wanted>) -> Self {
        let now_ns = clock::monotonic_ns();
        // They keep their numbers: the kernel counts by them.
        let ends = |(wanted, id): (Wanted, u32)| {
            let ends_ns = now_ns.saturating_add(wanted.ttl_ms.saturating_mul(1_000_000));
            (Wanted { id, ..wanted }, ends_ns)
        };
        Self {
            plane,
            beat,
            operators: Vec::new(),
            captures: Vec::new(),
            inherited: inherited.into_iter().zip(INHERITED..).map(ends).collect(),
            live: BTreeMap::new(),
            generation: None,
            applied_ns: None,
            counts: Vec::new(),
            second_ns: 0,
            slots: vec![None; RULES].into(),
            drift: Drift::default(),
            failures: Vec::new(),
            unreadable: None,
            trouble: None,
            changed: false,
        }
    }

    /// Takes a new reading of the kernel's clock.
    pub(super) fn set_beat(&mut self, beat: Beat) {
        self.beat = beat;
    }

    /// Reads what the rules did in a tick, and returns it of those that were decided on.
    pub(super) fn counts(&mut self, elapsed_ns: u64) -> &[RuleCount] {
        self.counts.clear();
        if self.live.is_empty() {
            return &self.counts;
        }
        let read = self.plane.counts();
        self.unreadable = read.as_ref().err().map(|error| crate::chain(error));
        let Ok(read) = read else { return &self.counts };
        for count in read {
            self.count(count);
        }
        // The decisions have to look for something else.
        for live in self.live.values() {
            if let (Owner::Decision(id), true) = (live.owner, live.refused) {
                self.counts.retain(|count| count.id != id);
                self.counts.push(RuleCount { id, refused: true, ..RuleCount::default() });
            }
        }
        self.second_ns += elapsed_ns;
        if self.second_ns >= EVERY_NS {
            let seconds = self.second_ns as f64 / 1e9;
            for live in self.live.values_mut() {
                (live.pps, live.second) = (live.second as f64 / seconds, 0);
            }
            self.second_ns = 0;
        }
        &self.counts
    }

    fn count(&mut self, count: RuleCount) {
        if let Some(sum) = self.plane.slot(count.id).and_then(|slot| self.slots.get_mut(usize::from(slot))) {
            *sum = Some(sum.unwrap_or_default() + count.packets);
        }
        let Some(live) = self.live.get_mut(&count.id) else { return };
        let RuleCount { packets, bytes, dropped, dropped_bytes, .. } = count;
        let total = &mut live.total;
        (total.packets, total.bytes) = (total.packets + packets, total.bytes + bytes);
        (total.dropped, total.dropped_bytes) = (total.dropped + dropped, total.dropped_bytes + dropped_bytes);
        live.second += packets;
        if let Owner::Decision(id) = live.owner {
            self.counts.push(RuleCount { id, ..count });
        }
    }

    /// Ends what an earlier life left by the next second: nothing is dropped by itself any more.
    pub(super) fn end_inherited(&mut self) {
        self.inherited.clear();
    }

    /// Puts into force what is wanted after a tick, where that changed or is due for renewal.
    /// Returns what does not work, once.
    pub(super) fn follow(&mut self, now_ns: u64, (decided, generation): (&[Wanted], u64)) -> Option<String> {
        let due = self.applied_ns.is_none_or(|at| now_ns.saturating_sub(at) >= EVERY_NS);
        if !due && self.generation == Some(generation) {
            return None;
        }
        self.apply(now_ns, (decided, generation));
        if due {
            self.reconcile(now_ns);
        }
        self.tell()
    }

    /// Takes the rules of operators, in force when this returns.
    ///
    /// # Errors
    /// Those that are not in force, of operators or not.
    pub(super) fn set_operators(
        &mut self,
        operators: Vec<OperatorRule>,
        now_ns: u64,
        decided: (&[Wanted], u64),
    ) -> Result<(), Vec<Failure>> {
        self.operators = operators;
        self.apply(now_ns, decided);
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.clone()) }
    }

    /// Has the kernel give whoever records every packet that one of these matches, by number and end
    /// (monotonic nanoseconds), from when this returns.
    ///
    /// # Errors
    /// As [`Self::set_operators`].
    pub(super) fn set_captures(
        &mut self,
        captures: Vec<(u32, FlowMatch, u64)>,
        now_ns: u64,
        decided: (&[Wanted], u64),
    ) -> Result<(), Vec<Failure>> {
        self.captures = captures;
        self.apply(now_ns, decided);
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.clone()) }
    }

    fn apply(&mut self, now_ns: u64, (decided, generation): (&[Wanted], u64)) {
        (self.generation, self.applied_ns) = (Some(generation), Some(now_ns));
        let wanted = self.gather(now_ns, decided);
        // Until something is wanted, what an earlier life left ends by itself.
        if wanted.is_empty() && self.live.is_empty() {
            return;
        }
        let rules: Vec<Wanted> = wanted.iter().map(|(wanted, ..)| wanted.clone()).collect();
        let failed = self.plane.apply(&rules, self.beat.at(now_ns)).err().unwrap_or_default();
        self.failures = failed.iter().map(Failure::from).collect();
        let mut before = std::mem::take(&mut self.live);
        let known = |wanted: &Wanted| before.get(&wanted.id).is_some_and(|live| live.wanted.rule == wanted.rule);
        self.changed |= before.len() != wanted.len() || !wanted.iter().all(|(wanted, ..)| known(wanted));
        for (wanted, owner, ends_ns) in wanted {
            let text = wanted.rule.matches.to_string();
            let concerned = |failure: &&Failure| failure.rule.as_ref().is_none_or(|rule| *rule == text);
            let failed = self.failures.iter().find(concerned).map(|failure| failure.what.clone());
            let refused = self.failures.iter().any(|failure| failure.rule.as_ref() == Some(&text));
            let id = wanted.id;
            let known = before.remove(&id).map(|live| (live.total, live.pps, live.second));
            let (total, pps, second) = known.unwrap_or((RuleCount { id, ..RuleCount::default() }, 0.0, 0));
            let slot = self.plane.slot(id);
            self.live.insert(id, Live { owner, wanted, ends_ns, total, pps, failed, refused, slot, second });
        }
    }

    /// Returns everything that is wanted, in the order in which it is tried: operators' rules, those
    /// that were decided on, and those of an earlier life that these do not replace.
    fn gather(&mut self, now_ns: u64, decided: &[Wanted]) -> Vec<(Wanted, Owner, Option<u64>)> {
        let operators = self.operators.iter().filter(|rule| rule.ends_ns > now_ns);
        let operators = operators.map(|rule| (rule.wanted(now_ns), Owner::Operator(rule.id), Some(rule.ends_ns)));
        let own = decided.iter().map(|wanted| {
            let id = DECIDED.saturating_add(wanted.id).min(INHERITED - 1);
            (Wanted { id, ..wanted.clone() }, Owner::Decision(wanted.id), None)
        });
        let acts = |wanted: &Wanted| wanted.rule.action != Action::Count;
        self.inherited.retain(|(old, ends_ns)| {
            let replaced = decided.iter().any(|new| acts(new) && new.rule.matches == old.rule.matches);
            *ends_ns > now_ns && !replaced
        });
        let inherited = self.inherited.iter().map(|(wanted, ends_ns)| {
            let ttl_ms = ends_ns.saturating_sub(now_ns) / 1_000_000;
            (Wanted { ttl_ms, ..wanted.clone() }, Owner::Inherited, Some(*ends_ns))
        });
        let captures = self.captures.iter().filter(|(.., ends_ns)| *ends_ns > now_ns);
        let captures = captures.map(|(number, matches, ends_ns)| {
            let (id, ttl_ms) = (CAPTURES.saturating_add(*number), ends_ns.saturating_sub(now_ns) / 1_000_000);
            let (origin, reason) = (Origin::default(), String::new());
            let rule = Rule { matches: matches.clone(), action: Action::Capture, origin, reason };
            (Wanted { id, rule, ttl_ms }, Owner::Capture(*number), Some(*ends_ns))
        });
        captures.chain(operators).chain(own).chain(inherited).take(RULES).collect()
    }

    fn reconcile(&mut self, now_ns: u64) {
        if self.live.is_empty() {
            self.drift = Drift::default();
            return;
        }
        let failed = |live: &&Live| live.failed.is_none();
        let wanted: Vec<Wanted> = self.live.values().filter(failed).map(|live| live.wanted.clone()).collect();
        self.drift = self.plane.reconcile(&wanted, self.beat.at(now_ns));
        self.drift.wanted = self.drift.wanted.max(self.live.len());
    }

    /// Returns what does not work where that is news.
    fn tell(&mut self) -> Option<String> {
        let failures = self.failures.iter().map(|failure| match &failure.rule {
            Some(rule) => format!("rule `{rule}` is not in force: {}", failure.what),
            None => format!("rules cannot be changed: {}", failure.what),
        });
        let missing = self.drift.missing.iter().map(|missing| format!("the kernel had lost a rule: {missing}"));
        let unreadable = self.unreadable.iter().map(|why| format!("what rules do cannot be read: {why}"));
        let mut all: Vec<String> = failures.chain(missing).chain(unreadable).collect();
        all.dedup();
        let more = all.len().saturating_sub(1);
        let first = all.into_iter().next();
        let also = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        let trouble = first.map(|first| format!("{first}{also}; it is tried again every second"));
        let news = trouble != self.trouble;
        self.trouble = trouble;
        self.trouble.clone().filter(|_| news)
    }

    /// Returns whether the rules are others than when this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Returns the rules in the kernel, by slot, for who reads samples.
    pub(super) fn slots(&self) -> Vec<SlotRule> {
        let of = |live: &Live| {
            Some(SlotRule {
                slot: live.slot?,
                owner: live.owner.to_string(),
                matches: live.wanted.rule.matches.to_string(),
                action: live.wanted.rule.action.to_string(),
            })
        };
        self.live.values().filter_map(of).collect()
    }

    /// Returns how things are.
    pub(super) fn view(&self) -> View {
        let slots = (0..=u8::MAX).zip(self.slots.iter()).filter_map(|(slot, sum)| Some((slot, (*sum)?)));
        View {
            rules: self.live.values().cloned().collect(),
            drift: self.drift.clone(),
            slots: slots.collect(),
            trouble: self.trouble.clone(),
        }
    }
}

impl From<&RulesError> for Failure {
    fn from(error: &RulesError) -> Self {
        match error {
            RulesError::Compile { rule, what, .. } => Self { rule: Some(rule.clone()), what: what.clone() },
            other => Self { rule: None, what: crate::chain(other) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::rule::{Origin, Rule, parse};

    const SECOND: u64 = 1_000_000_000;

    /// What a plane was told, and what it answers.
    #[derive(Debug, Default)]
    struct Told {
        applied: Vec<Vec<Wanted>>,
        counts: Vec<RuleCount>,
        /// Matches that it cannot take.
        refuses: Vec<String>,
    }

    #[derive(Clone, Debug, Default)]
    struct Fake(Arc<Mutex<Told>>);

    impl Plane for Fake {
        fn apply(&mut self, wanted: &[Wanted], _: Jiffies) -> Result<(), Vec<RulesError>> {
            let mut told = self.0.lock().unwrap();
            told.applied.push(wanted.to_vec());
            let texts = wanted.iter().map(|wanted| wanted.rule.matches.to_string());
            let refused = texts.filter(|text| told.refuses.contains(text));
            let errors: Vec<RulesError> =
                refused.map(|rule| RulesError::Compile { slot: 0, rule, what: "no room".to_owned() }).collect();
            if errors.is_empty() { Ok(()) } else { Err(errors) }
        }

        fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError> {
            Ok(std::mem::take(&mut self.0.lock().unwrap().counts))
        }

        fn reconcile(&mut self, wanted: &[Wanted], _: Jiffies) -> Drift {
            Drift { wanted: wanted.len(), present: wanted.len(), missing: Vec::new() }
        }

        fn slot(&self, id: u32) -> Option<u8> {
            Some(id as u8)
        }
    }

    fn decided(id: u32, text: &str) -> Wanted {
        let (matches, action) = parse(text).unwrap();
        let rule = Rule { matches, action, origin: Origin::Incident("i".to_owned()), reason: String::new() };
        Wanted { id, rule, ttl_ms: 10_000 }
    }

    fn operator(id: u32, text: &str, ends_ns: u64) -> OperatorRule {
        let (matches, action) = parse(text).unwrap();
        let (reason, by) = (String::new(), "root(0)".to_owned());
        OperatorRule { id, matches, action, reason, by, since_unix: 0, expires_unix: 0, ends_ns }
    }

    fn mitigator(inherited: Vec<Wanted>) -> (Mitigator, Fake) {
        let fake = Fake::default();
        let beat = Beat { at_ns: 0, jiffy: 1000, hz: 250 };
        (Mitigator::new(Box::new(fake.clone()), beat, inherited), fake)
    }

    /// Returns what was applied last, as text.
    fn last(fake: &Fake) -> Vec<String> {
        let told = fake.0.lock().unwrap();
        let text = |wanted: &Wanted| format!("{} then {}", wanted.rule.matches, wanted.rule.action);
        told.applied.last().map_or(Vec::new(), |wanted| wanted.iter().map(text).collect())
    }

    fn times(fake: &Fake) -> usize {
        fake.0.lock().unwrap().applied.len()
    }

    #[test]
    fn operators_come_first_and_changes_are_applied_at_once() {
        let (mut mitigator, fake) = mitigator(Vec::new());
        let now = clock::monotonic_ns();
        assert_eq!(mitigator.follow(now, (&[], 0)), None);
        assert_eq!(times(&fake), 0, "what an earlier life left is not touched before anything is wanted");
        let one = [decided(1, "udp sport 123 then count")];
        mitigator.follow(now + 1, (&one, 1));
        assert_eq!(last(&fake), ["udp sport 123 then count"]);
        mitigator.follow(now + 2, (&one, 1));
        assert_eq!(times(&fake), 1, "nothing changed");
        mitigator.follow(now + 1 + SECOND, (&one, 1));
        assert_eq!(times(&fake), 2, "it is renewed every second");
        let mine = vec![operator(7, "tcp dport 9 then drop", now + 3 * SECOND)];
        mitigator.set_operators(mine, now + 2 + SECOND, (&one, 1)).unwrap();
        assert_eq!(last(&fake), ["tcp dport 9 then drop", "udp sport 123 then count"]);
        let ids: Vec<u32> = fake.0.lock().unwrap().applied[2].iter().map(|wanted| wanted.id).collect();
        assert!(ids.is_sorted() && ids[0] == 7, "{ids:?}");
        let ttls: Vec<u64> = fake.0.lock().unwrap().applied[2].iter().map(|wanted| wanted.ttl_ms).collect();
        assert_eq!(ttls, [1999, 10_000], "an operator's rule is not renewed beyond its end");
        mitigator.follow(now + 4 * SECOND, (&[], 2));
        assert_eq!(last(&fake), Vec::<String>::new(), "it has ended, and so has the attack");
    }

    #[test]
    fn rules_of_an_earlier_life_stay_until_they_end_or_are_taken_over() {
        let old = vec![decided(1, "udp sport 123 then drop"), decided(2, "udp sport 53 then drop")];
        let (mut mitigator, fake) = mitigator(old);
        let now = clock::monotonic_ns();
        mitigator.follow(now, (&[], 0));
        assert_eq!(last(&fake), ["udp sport 123 then drop", "udp sport 53 then drop"]);
        mitigator.follow(now + SECOND, (&[decided(1, "udp sport 123 then count")], 1));
        assert_eq!(last(&fake)[0], "udp sport 123 then count", "the new one looks first");
        assert_eq!(last(&fake).len(), 3);
        mitigator.follow(now + 2 * SECOND, (&[decided(1, "udp sport 123 then drop")], 2));
        assert_eq!(last(&fake), ["udp sport 123 then drop", "udp sport 53 then drop"], "taken over");
        assert_eq!(mitigator.view().rules[1].owner, Owner::Inherited);
        mitigator.follow(now + 11 * SECOND, (&[decided(1, "udp sport 123 then drop")], 2));
        assert_eq!(last(&fake), ["udp sport 123 then drop"], "the other has ended");
    }

    #[test]
    fn who_only_watches_ends_what_an_earlier_life_left() {
        let old = vec![decided(1, "udp sport 123 then drop"), decided(2, "udp sport 53 then drop")];
        let (mut mitigator, fake) = mitigator(old);
        let now = clock::monotonic_ns();
        mitigator.follow(now, (&[], 0));
        assert_eq!(last(&fake).len(), 2);
        mitigator.end_inherited();
        mitigator.follow(now + SECOND, (&[decided(1, "udp sport 123 then count")], 1));
        assert_eq!(last(&fake), ["udp sport 123 then count"]);
    }

    #[test]
    fn counts_come_back_under_the_numbers_that_were_given() {
        let (mut mitigator, fake) = mitigator(Vec::new());
        let now = clock::monotonic_ns();
        let one = [decided(3, "udp sport 123 then count")];
        mitigator.set_operators(vec![operator(3, "tcp dport 9 then drop", now + 60 * SECOND)], now, (&one, 1)).unwrap();
        for _ in 0..10 {
            let count =
                |id| RuleCount { id, packets: 50, bytes: 3000, dropped: 40, dropped_bytes: 2400, refused: false };
            fake.0.lock().unwrap().counts = vec![count(3), count(DECIDED + 3), count(99)];
            let seen: Vec<(u32, u64)> =
                mitigator.counts(SECOND / 10).iter().map(|count| (count.id, count.packets)).collect();
            assert_eq!(seen, [(3, 50)], "the decisions see their own");
        }
        let view = mitigator.view();
        for live in &view.rules {
            assert_eq!((live.total.packets, live.total.dropped_bytes, live.pps), (500, 24_000, 500.0), "{live:?}");
        }
        assert!(view.slots.contains(&(3, 1000)), "{:?}", view.slots);
        mitigator.follow(now + SECOND, (&one, 1));
        assert_eq!(mitigator.view().rules[0].total.packets, 500, "renewing keeps what was counted");
    }

    #[test]
    fn what_does_not_fit_is_told_once_and_tried_again() {
        let (mut mitigator, fake) = mitigator(Vec::new());
        let now = clock::monotonic_ns();
        fake.0.lock().unwrap().refuses = vec!["udp sport 123".to_owned()];
        let two = [decided(1, "udp sport 123 then drop"), decided(2, "udp sport 53 then drop")];
        let told = mitigator.follow(now, (&two, 1)).unwrap();
        assert!(told.contains("rule `udp sport 123` is not in force: no room; it is tried again"), "{told}");
        assert_eq!(mitigator.follow(now + SECOND, (&two, 1)), None, "once");
        assert_eq!((times(&fake), mitigator.view().trouble), (2, Some(told)));
        let failed: Vec<bool> = mitigator.view().rules.iter().map(|live| live.failed.is_some()).collect();
        assert_eq!(failed, [true, false]);
        let refused: Vec<u32> =
            mitigator.counts(SECOND).iter().filter(|count| count.refused).map(|count| count.id).collect();
        assert_eq!(refused, [1], "the decisions learn of it");
        assert_eq!((mitigator.view().drift.wanted, mitigator.view().drift.present), (2, 1));
        fake.0.lock().unwrap().refuses.clear();
        assert_eq!(mitigator.follow(now + 2 * SECOND, (&two, 1)), None);
        assert_eq!(mitigator.view().trouble, None);
    }
}
