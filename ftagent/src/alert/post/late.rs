//! What nobody would say again, where there is no room for it yet.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Offer, PENDING};
use crate::decide::Incident;

/// An incident that is over, and what became of what is upstream for it.
type After = (Arc<Incident>, String);

/// What became of what is upstream, in order: the incident is over, and a look at all of them says nothing of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<Mutex<VecDeque<After>>>);

impl Late {
    /// Adds one. Of very many the oldest goes: those behind it are newer words on the same.
    pub(super) fn push(&self, incident: Arc<Incident>, what: String) {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        late.push_back((incident, what));
        if late.len() > PENDING {
            late.pop_front();
        }
    }

    /// Hands over what waits, as much as `offer` says that there was room for.
    pub(super) fn hand_over(&self, offer: impl Fn(Offer) -> bool) {
        let mut late = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((incident, what)) = late.front() {
            if !offer(Offer::After(Arc::clone(incident), what.clone())) {
                return;
            }
            late.pop_front();
        }
    }
}
