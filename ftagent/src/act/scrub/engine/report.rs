//! What is said of it.

use super::{
    super::{Item as _, Provider, journal::Entry, judge::Phase},
    Engine, Round,
};
use crate::decide::ladder::{Report, Standing, Step};

impl<P: Provider> Engine<P> {
    /// Says how things are as far as known.
    pub(super) fn report(&self, wanted: &[Step], round: Round) -> Report {
        let paused = self.pause.as_ref().map(|pause| pause.why.clone());
        let unknown = || Standing::Failed(paused.clone().unwrap_or_else(|| "it was not asked for yet".to_owned()));
        let of_item = |item: &P::Item| match self.standings.get(&item.key()) {
            Some(standing) => standing.clone(),
            // What was there when we last looked is not gone because nobody answers.
            None => match self.journal.find(&item.key()).map(|entry| entry.state.phase) {
                Some(Phase::Present) => Standing::Present,
                Some(Phase::Asked) => Standing::Asked,
                Some(Phase::TakenBack) => Standing::TakenBack,
                _ => unknown(),
            },
        };
        let of_step = |step: &Step| match self.resolution(&step.what) {
            Some(Ok(items)) => items.iter().map(of_item).max_by_key(gravity).unwrap_or_else(unknown),
            Some(Err(standing)) => standing.clone(),
            None => self.provider.takes(&step.what).err().map_or_else(unknown, Standing::Refused),
        };
        Report {
            plane: self.name.clone(),
            steps: wanted.iter().map(|step| (step.id, of_step(step))).collect(),
            leaving: round.leaving,
            unseen: paused.is_some() || round.trouble.is_some(),
            trouble: paused.or(round.trouble),
        }
    }

    /// Counts what is left over, as far as known without looking.
    pub(super) fn left_over(&self, wanted: &[Step]) -> usize {
        let orders = self.orders(wanted);
        let stays = |entry: &&Entry<P::Item>| orders.iter().any(|order| order.item.key() == entry.item.key());
        let entries = self.journal.entries.iter().filter(|entry| entry.state.ours && !stays(entry));
        entries.filter(|entry| entry.state.phase != Phase::TakenBack).count()
    }
}

/// Of several items of one step, the one in the worst way is that of the step.
const fn gravity(standing: &Standing) -> u8 {
    match standing {
        Standing::Present => 0,
        Standing::Asked => 1,
        Standing::TakenBack => 2,
        Standing::Failed(_) => 3,
        Standing::Refused(_) => 4,
    }
}
