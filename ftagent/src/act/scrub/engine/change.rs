//! Changes: written down, asked for, and what came of them.

use std::time::Duration;

use serde_json::Value;
use tracing::{info, warn};

use super::{
    super::{
        Item as _, Order, Provider, Trouble,
        journal::Entry,
        judge::{Phase, State},
    },
    Batch, Engine, Pause, Round,
};
use crate::{
    act::upstream::{Act, Witness},
    decide::ladder::Standing,
};

/// Retry-After and the like are believed up to this.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// Between two tries with credentials that were not taken: providers lock out who tries often.
const DENIED: Duration = Duration::from_secs(900);

impl<P: Provider> Engine<P> {
    /// Carries out the changes of one group. What is to be taken back does not wait for a disk: neither for the audit
    /// log nor for the journal, which knows of it from before.
    pub(super) fn change(
        &mut self,
        group: &str,
        mut batch: Batch<P::Item>,
        witness: &dyn Witness,
        round: &mut Round,
    ) -> Result<(), Trouble> {
        let now = (self.now)();
        let busy = self.busy.get(group).filter(|(until, _)| now < *until).map(|(_, why)| why.clone());
        if let Some(why) = busy {
            self.wait(&batch.add, &why);
            round.remains(&batch, &why);
            return Ok(());
        }
        self.busy.remove(group);
        let backs = self.acts(&batch.remove, false);
        backs.iter().for_each(|act| witness.before_back(act));
        let mut asks = self.acts(&batch.add, true);
        if let Some((written, why)) = first_error(asks.iter().map(|act| witness.before(act))) {
            asks.truncate(written);
            self.leave_out(&mut batch, &mut asks, witness, &why);
            round.trouble = Some(why);
        }
        let before = self.states(&batch.add);
        if let Err(why) = self.mark(&batch, now.as_secs()) {
            // What is to be asked for would be forgotten.
            self.restore(before.clone());
            self.leave_out(&mut batch, &mut asks, witness, &why);
            round.trouble = Some(why);
        }
        if batch.add.is_empty() && batch.remove.is_empty() {
            return Ok(());
        }
        let result = self.provider.change(&batch.add, &batch.remove);
        let why = result.as_ref().err().map(|trouble| trouble.why().to_owned());
        asks.iter().chain(&backs).for_each(|act| witness.after(act, why.as_deref().map_or(Ok(()), Err)));
        if matches!(result, Err(Trouble::Refused(_) | Trouble::Busy(..) | Trouble::Limited(..) | Trouble::Denied(_))) {
            // Nothing was done: things are as they were. It was answered, so the next attempt is another.
            if !batch.add.is_empty() {
                self.restore(before);
            }
            self.answered(&batch);
        }
        self.settle(group, &batch, result, round)
    }

    /// Asks for nothing: it could not be written down.
    fn leave_out(&mut self, batch: &mut Batch<P::Item>, asks: &mut Vec<Act>, witness: &dyn Witness, why: &str) {
        asks.drain(..).for_each(|act| witness.after(&act, Err(why)));
        self.fail(&batch.add, &format!("it was not asked for: {why}"));
        batch.add.clear();
    }

    /// Notes of what was answered that the next attempt at it is another.
    fn answered(&mut self, batch: &Batch<P::Item>) {
        for order in batch.add.iter().chain(&batch.remove) {
            let key = order.item.key();
            if let Some(state) = self.journal.find(&key).map(|entry| entry.state.clone())
                && matches!(state.phase, Phase::Asking | Phase::TakingBack)
            {
                self.journal.note(&key, State { attempt: 0, ..state });
            }
        }
    }

    /// Returns what is known of items before they are asked for.
    fn states(&self, orders: &[Order<P::Item>]) -> Vec<(String, Option<State>)> {
        let known = |key: &str| self.journal.find(key).map(|entry| entry.state.clone());
        orders.iter().map(|order| order.item.key()).map(|key| (key.clone(), known(&key))).collect()
    }

    fn restore(&mut self, before: Vec<(String, Option<State>)>) {
        for (key, state) in before {
            match state {
                Some(state) => self.journal.note(&key, state),
                None => self.journal.forget(&key),
            }
        }
    }

    /// Writes down what is about to be asked.
    fn mark(&mut self, batch: &Batch<P::Item>, now: u64) -> Result<(), String> {
        for order in &batch.add {
            let known = self.journal.find(&order.item.key()).map(|entry| entry.state.clone());
            // A yes that came to nothing is remembered.
            let vain = match known {
                Some(State { phase: Phase::Asked, vain, .. }) => vain.saturating_add(1),
                Some(State { phase: Phase::Asking, vain, .. }) => vain,
                _ => 0,
            };
            let state =
                State { phase: Phase::Asking, ours: true, since: now, attempt: order.attempt, vain, missing: 0 };
            let (incident, reason) = (order.incident.clone(), order.reason.clone());
            self.journal.put(Entry { item: order.item.clone(), state, incident, reason });
        }
        self.turn(&batch.remove, Phase::TakingBack, now);
        self.journal.save()
    }

    fn turn(&mut self, orders: &[Order<P::Item>], phase: Phase, now: u64) {
        for order in orders {
            let key = order.item.key();
            if let Some(state) = self.journal.find(&key).map(|entry| entry.state.clone()) {
                let attempt = order.attempt;
                self.journal.note(&key, State { phase, since: now, attempt, missing: 0, ..state });
            }
        }
    }

    /// Writes down what came of it.
    fn settle(
        &mut self,
        group: &str,
        batch: &Batch<P::Item>,
        result: Result<(), Trouble>,
        round: &mut Round,
    ) -> Result<(), Trouble> {
        let now = (self.now)();
        match &result {
            Ok(()) => {
                self.turn(&batch.add, Phase::Asked, now.as_secs());
                self.turn(&batch.remove, Phase::Leaving, now.as_secs());
                round.moving = true;
            }
            // It may have been done: the next look tells.
            Err(Trouble::Lost(why, _)) => self.fail(&batch.add, why),
            Err(Trouble::Busy(why, _)) => {
                info!(plane = self.name, group, %why, "The provider is not ready for it; it is asked again.");
                self.wait(&batch.add, why);
                round.remains(batch, why);
            }
            Err(trouble) => {
                self.fail(&batch.add, trouble.why());
                round.remains(batch, trouble.why());
            }
        }
        match &result {
            Err(Trouble::Refused(_)) if batch.add.len() > 1 => {
                self.apart.insert(group.to_owned());
                round.moving = true;
            }
            Err(Trouble::Refused(why)) => {
                for order in &batch.add {
                    self.refused.insert(order.item.key(), why.clone());
                    self.standings.insert(order.item.key(), Standing::Refused(why.clone()));
                }
                if !batch.remove.is_empty() {
                    // It said no: there is no hurry to hear it again.
                    self.busy.insert(group.to_owned(), (now + self.pace.longest, why.clone()));
                }
            }
            Err(Trouble::Busy(why, wait)) => {
                self.busy.insert(group.to_owned(), (now + (*wait).min(MOST_PATIENCE), why.clone()));
                round.moving = true;
            }
            _ => {}
        }
        if let Err(error) = self.journal.save() {
            warn!(plane = self.name, %error, "What a provider answered cannot be written down.");
            round.trouble = Some(error);
        }
        match result {
            Err(trouble @ (Trouble::Lost(..) | Trouble::Limited(..) | Trouble::Denied(_))) => Err(trouble),
            _ => Ok(()),
        }
    }

    /// Says of what the provider is too busy for that it is asked for; when its time is over, that it failed.
    fn wait(&mut self, orders: &[Order<P::Item>], why: &str) {
        let now = (self.now)();
        for order in orders {
            let key = order.item.key();
            let since = *self.since.entry(key.clone()).or_insert(now);
            let over = now.saturating_sub(since) > self.pace.activation;
            let standing = if over { Standing::Failed(why.to_owned()) } else { Standing::Asked };
            self.standings.insert(key, standing);
        }
    }

    fn fail(&mut self, orders: &[Order<P::Item>], why: &str) {
        for order in orders {
            self.standings.insert(order.item.key(), Standing::Failed(why.to_owned()));
        }
    }

    fn acts(&self, orders: &[Order<P::Item>], add: bool) -> Vec<Act> {
        let act = |order: &Order<P::Item>| {
            let item = serde_json::to_value(&order.item).unwrap_or_default();
            let (ask, back) = order.item.verbs();
            Act {
                verb: if add { ask } else { back },
                plane: self.name.clone(),
                subject: order.item.key(),
                incident: order.incident.clone(),
                reason: order.reason.clone(),
                before: if add { Value::Null } else { item.clone() },
                after: if add { item } else { Value::Null },
            }
        };
        orders.iter().map(act).collect()
    }

    /// Goes on after a failure that is not about one item: not at once.
    pub(super) fn hold_off(&mut self, trouble: &Trouble) {
        self.failures = self.failures.saturating_add(1);
        let doubled = self.pace.first.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let own = jittered(doubled.min(self.pace.longest));
        let (wait, firm) = match trouble {
            Trouble::Limited(_, wait) => (wait.map_or(own, |wait| wait.max(own)), true),
            Trouble::Lost(_, wait) => (wait.map_or(own, |wait| wait.max(own)), wait.is_some()),
            Trouble::Denied(_) => {
                self.denied = true;
                (DENIED.max(own), true)
            }
            Trouble::Refused(_) | Trouble::Busy(..) => (own, false),
        };
        let wait = wait.min(MOST_PATIENCE);
        self.pause = Some(Pause { until: (self.now)() + wait, why: trouble.why().to_owned(), firm });
        self.interval = wait;
    }
}

/// Returns how many went well before the first that did not, and what was wrong with that.
fn first_error(mut results: impl Iterator<Item = Result<(), String>>) -> Option<(usize, String)> {
    let mut written = 0;
    results.find_map(|result| match result {
        Ok(()) => {
            written += 1;
            None
        }
        Err(why) => Some((written, why)),
    })
}

/// Takes up to a quarter off or puts it on, so that many nodes do not come back at once.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.75 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
