//! The driver of every provider: looks, decides, asks, and writes down.

mod change;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use tracing::warn;

use super::{
    Item, Now, Order, Pace, Provider, Seen, Trouble,
    journal::{Entry, Journal},
    judge::{self, Move, Phase, Sight, State},
};
use crate::{
    act::{
        machine,
        upstream::{Driver, Witness},
    },
    decide::ladder::{Report, Standing, Step, What},
};

/// What a step comes down to, or why to nothing.
type Resolution<I> = Result<Vec<I>, Standing>;

/// The driver.
pub(super) struct Engine<P: Provider> {
    name: String,
    provider: P,
    pace: Pace,
    journal: Journal<P::Item>,
    now: Now,
    /// What wanted steps come down to, so that it is not looked up each time.
    resolved: Vec<(What, Resolution<P::Item>)>,
    /// How each item was found last, by key.
    standings: BTreeMap<String, Standing>,
    /// What the provider will not do, by key, for as long as it is wanted.
    refused: BTreeMap<String, String>,
    /// Groups of which one item is asked for at a time: all at once were refused, and one may be to blame.
    apart: BTreeSet<String>,
    /// Groups that the provider is busy with: until when, and why.
    busy: BTreeMap<String, (Duration, String)>,
    /// Since when items are wanted that are not there, by key.
    since: BTreeMap<String, Duration>,
    /// No request at all for a while.
    pause: Option<Pause>,
    /// The steps of the round before.
    steps: BTreeSet<u32>,
    failures: u32,
    /// Whether the credentials are to be read again.
    denied: bool,
    /// When it was last found that the provider answers.
    checked: Option<Duration>,
    /// Whether what bears our mark was looked for since the start.
    swept: bool,
    interval: Duration,
}

/// Why no request is made.
struct Pause {
    until: Duration,
    why: String,
    /// Whether the provider asked for it: a new step does not end it.
    firm: bool,
}

/// Some items of one group that are to change in one request.
struct Batch<I> {
    add: Vec<Order<I>>,
    remove: Vec<Order<I>>,
}

/// What one round found.
#[derive(Default)]
struct Round {
    leaving: usize,
    trouble: Option<String>,
    moving: bool,
}

impl Round {
    /// Tells that something of a batch should be gone and is not.
    fn remains<I>(&mut self, batch: &Batch<I>, why: &str) {
        if !batch.remove.is_empty() {
            self.trouble = Some(format!("what nobody wants any more is still there: {why}"));
        }
    }
}

impl<P: Provider> Engine<P> {
    pub fn open(name: &str, provider: P, state: &Path, pace: Pace, now: Now) -> Result<Self, String> {
        let mut journal = Journal::open(&state.join("scrub"), name)?;
        let unix = now().as_secs();
        for entry in &mut journal.entries {
            // A clock that was ahead in an earlier life must not hold things until it is that late.
            entry.state.since = entry.state.since.min(unix);
        }
        Ok(Self {
            name: name.to_owned(),
            provider,
            pace,
            journal,
            now,
            resolved: Vec::new(),
            standings: BTreeMap::new(),
            refused: BTreeMap::new(),
            apart: BTreeSet::new(),
            busy: BTreeMap::new(),
            since: BTreeMap::new(),
            pause: None,
            steps: BTreeSet::new(),
            failures: 0,
            denied: false,
            checked: None,
            swept: false,
            interval: Duration::ZERO,
        })
    }

    /// Returns a number for an attempt: no two are the same.
    fn number(&self) -> u64 {
        u64::try_from((self.now)().as_micros()).unwrap_or(u64::MAX)
    }

    fn round(&mut self, wanted: &[Step], witness: &dyn Witness) -> Result<Round, Trouble> {
        if self.denied {
            self.provider.reload().map_err(Trouble::Denied)?;
            self.denied = false;
        }
        self.sweep()?;
        self.resolve(wanted)?;
        let orders = self.orders(wanted);
        let items = self.items(&orders);
        if items.is_empty() {
            return self.idle();
        }
        let seen = self.provider.look(&items)?;
        let mut round = Round::default();
        let batches = self.judge(&items, &seen, &orders, &mut round);
        if let Err(error) = self.journal.save() {
            warn!(plane = self.name, %error, "What a provider was asked for cannot be written down.");
            round.trouble = Some(error);
        }
        for (group, batch) in batches {
            self.change(&group, batch, witness, &mut round)?;
        }
        self.checked = Some((self.now)());
        Ok(round)
    }

    /// Takes over what bears our mark though the journal does not know it: the journal was lost.
    fn sweep(&mut self) -> Result<(), Trouble> {
        if self.swept {
            return Ok(());
        }
        if machine::id().is_none() {
            let plane = &self.name;
            warn!(
                plane,
                "This machine has no identity of its own (/etc/machine-id): what an earlier life asked for is \
                          known by the journal alone."
            );
            self.swept = true;
            return Ok(());
        }
        let now = (self.now)().as_secs();
        for item in self.provider.strays()? {
            if self.journal.find(&item.key()).is_none() {
                let state = State { phase: Phase::Present, ours: true, since: now, attempt: 1, vain: 0, missing: 0 };
                let reason = "it bears our mark".to_owned();
                self.journal.put(Entry { item, state, incident: String::new(), reason });
            }
        }
        self.swept = true;
        Ok(())
    }

    /// Finds out what the wanted steps come down to.
    fn resolve(&mut self, wanted: &[Step]) -> Result<(), Trouble> {
        self.resolved.retain(|(what, result)| {
            // A failure is worth another try, a refusal is not.
            let settled = !matches!(result, Err(Standing::Failed(_)));
            settled && wanted.iter().any(|step| step.what == *what)
        });
        for step in wanted {
            if self.resolved.iter().any(|(what, _)| *what == step.what) {
                continue;
            }
            let result = match self.provider.takes(&step.what) {
                Err(why) => Err(Standing::Refused(why)),
                Ok(()) => match self.provider.resolve(step) {
                    Ok(items) if items.is_empty() => Err(Standing::Refused("it comes down to nothing".to_owned())),
                    Ok(items) => Ok(items),
                    Err(Trouble::Refused(why)) => Err(Standing::Refused(why)),
                    Err(Trouble::Busy(why, _)) => Err(Standing::Failed(why)),
                    Err(trouble) => return Err(trouble),
                },
            };
            self.resolved.push((step.what.clone(), result));
        }
        Ok(())
    }

    fn resolution(&self, what: &What) -> Option<&Resolution<P::Item>> {
        self.resolved.iter().find(|(known, _)| known == what).map(|(_, result)| result)
    }

    /// Returns the items that are wanted, each once, in order.
    fn orders(&self, wanted: &[Step]) -> Vec<Order<P::Item>> {
        let mut orders: Vec<Order<P::Item>> = Vec::new();
        let mut known = BTreeSet::new();
        for step in wanted {
            let Some(Ok(items)) = self.resolution(&step.what) else { continue };
            for item in items.iter().filter(|item| known.insert(item.key())) {
                orders.push(Order {
                    item: item.clone(),
                    attempt: 0,
                    incident: step.incident.clone(),
                    reason: step.reason.clone(),
                });
            }
        }
        orders
    }

    /// Returns all items to look at: those that are known, then those that are only wanted.
    fn items(&self, orders: &[Order<P::Item>]) -> Vec<P::Item> {
        let known = self.journal.entries.iter().map(|entry| entry.item.clone());
        let new = orders.iter().map(|order| &order.item).filter(|item| self.journal.find(&item.key()).is_none());
        known.chain(new.cloned()).collect()
    }

    /// Asks a provider of whom nothing is wanted whether it would answer, once in a while.
    fn idle(&mut self) -> Result<Round, Trouble> {
        let now = (self.now)();
        if self.checked.is_none_or(|last| now.saturating_sub(last) >= self.pace.idle) {
            self.provider.check()?;
            self.checked = Some(now);
        }
        self.standings.clear();
        self.refused.clear();
        self.since.clear();
        self.apart.clear();
        self.journal
            .save()
            .map_or_else(|error| Ok(Round { trouble: Some(error), ..Round::default() }), |()| Ok(Round::default()))
    }

    /// Decides about every item, and returns what is to be changed, by group.
    fn judge(
        &mut self,
        items: &[P::Item],
        seen: &[Seen],
        orders: &[Order<P::Item>],
        round: &mut Round,
    ) -> Vec<(String, Batch<P::Item>)> {
        let (clock, afresh) = ((self.now)(), self.number());
        let now = clock.as_secs();
        let mut batches: Vec<(String, Batch<P::Item>)> = Vec::new();
        self.refused.retain(|key, _| orders.iter().any(|order| order.item.key() == *key));
        self.standings.retain(|key, _| orders.iter().any(|order| order.item.key() == *key));
        self.since.retain(|key, _| orders.iter().any(|order| order.item.key() == *key));
        for (item, seen) in items.iter().zip(seen) {
            let key = item.key();
            let order = orders.iter().find(|order| order.item.key() == key);
            let state = self.journal.find(&key).map(|entry| entry.state.clone());
            let waited = self.since.get(&key).map_or(Duration::ZERO, |since| clock.saturating_sub(*since));
            let sight = Sight { seen, now, pace: &self.pace, diverts: item.diverts(), waited };
            let mut verdict = match (order, &state) {
                (Some(_), state) => judge::wanted(state.as_ref(), sight),
                (None, Some(state)) => judge::unwanted(state, sight),
                (None, None) => continue,
            };
            if let (Move::Ask(_), Some(why)) = (&verdict.next, self.refused.get(&key)) {
                verdict.standing = Standing::Refused(why.clone());
                (verdict.next, verdict.moving) = (Move::Rest, false);
            }
            round.leaving += usize::from(verdict.leaving);
            round.moving |= verdict.moving;
            if let Some(trouble) = verdict.trouble {
                round.trouble = Some(format!("{key}: {trouble}"));
            }
            if order.is_some() && verdict.standing != Standing::Present {
                self.since.entry(key.clone()).or_insert(clock);
            } else {
                self.since.remove(&key);
            }
            if order.is_some() {
                self.standings.insert(key.clone(), verdict.standing);
            }
            let batch = match batches.iter_mut().find(|(group, _)| *group == item.group()) {
                Some((_, batch)) => batch,
                None => {
                    batches.push((item.group(), Batch { add: Vec::new(), remove: Vec::new() }));
                    let Some((_, batch)) = batches.last_mut() else { continue };
                    batch
                }
            };
            match verdict.next {
                Move::Rest => {}
                Move::Forget => self.journal.forget(&key),
                Move::Note(state) => note(&mut self.journal, item, order, state),
                Move::Ask(attempt) => {
                    let attempt = attempt.filter(|attempt| *attempt != 0).unwrap_or(afresh);
                    batch.add.extend(order.map(|order| Order { attempt, ..order.clone() }));
                }
                Move::TakeBack => batch.remove.extend(self.journal.find(&key).map(|entry| Order {
                    item: item.clone(),
                    // The same again only where nobody knows whether the one before arrived.
                    attempt: match entry.state {
                        State { phase: Phase::TakingBack, attempt: 1.., .. } => entry.state.attempt,
                        _ => afresh,
                    },
                    incident: entry.incident.clone(),
                    reason: "nobody wants it any more".to_owned(),
                })),
            }
        }
        for (_, batch) in batches.iter_mut().filter(|(group, _)| self.apart.contains(group)) {
            batch.add.truncate(1);
        }
        batches.retain(|(_, batch)| !batch.add.is_empty() || !batch.remove.is_empty());
        in_order(batches)
    }
}

fn note<I: Item>(journal: &mut Journal<I>, item: &I, order: Option<&Order<I>>, state: State) {
    match order.filter(|_| journal.find(&item.key()).is_none()) {
        Some(order) => {
            let (incident, reason) = (order.incident.clone(), order.reason.clone());
            journal.put(Entry { item: item.clone(), state, incident, reason });
        }
        None => journal.note(&item.key(), state),
    }
}

/// What is taken back goes first, in the opposite order of its making: it makes room, and what others rest on
/// goes last.
fn in_order<I>(batches: Vec<(String, Batch<I>)>) -> Vec<(String, Batch<I>)> {
    let (add, mut remove): (Vec<_>, Vec<_>) = batches.into_iter().partition(|(_, batch)| batch.remove.is_empty());
    remove.reverse();
    remove.into_iter().chain(add).collect()
}

impl<P: Provider> Driver for Engine<P> {
    fn plane(&self) -> &str {
        &self.name
    }

    fn takes(&self, what: &What) -> Result<(), String> {
        self.provider.takes(what)
    }

    fn reconcile(&mut self, wanted: &[Step], witness: &dyn Witness) -> Report {
        let now = (self.now)();
        let steps: BTreeSet<u32> = wanted.iter().map(|step| step.id).collect();
        // What is wanted anew does not wait for the next try at something else.
        let anew = !steps.is_subset(&self.steps);
        self.steps = steps;
        if let Some(pause) = self.pause.as_ref().filter(|pause| now < pause.until && (pause.firm || !anew)) {
            self.interval = pause.until.saturating_sub(now);
            let leaving = self.left_over(wanted);
            return self.report(wanted, Round { leaving, ..Round::default() });
        }
        match self.round(wanted, witness) {
            Ok(round) => {
                (self.pause, self.failures) = (None, 0);
                self.interval = match (round.moving, self.journal.entries.is_empty()) {
                    (true, _) => self.pace.moving,
                    (false, true) if wanted.is_empty() => self.pace.idle,
                    (false, _) => self.pace.steady,
                };
                self.report(wanted, round)
            }
            Err(trouble) => {
                self.hold_off(&trouble);
                let leaving = self.left_over(wanted);
                self.report(wanted, Round { leaving, ..Round::default() })
            }
        }
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn found(&self) -> Option<&str> {
        self.journal.damage.as_deref()
    }
}

#[cfg(test)]
mod tests;
