//! What outlives a restart: what is upstream stays there, and is still known.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    Step,
    engine::{Climb, Health, Ladder, SECOND_NS, Stage, Totals},
};
use crate::decide::Now;

/// After a restart nothing waits longer for its next probe than this, nanoseconds: much may have happened.
const SOON_NS: u64 = 60 * SECOND_NS;

/// The ladder, written down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    climb: Option<Climb>,
    climbed: BTreeMap<String, VecDeque<u64>>,
    totals: Totals,
    last_id: u32,
    at: Now,
}

impl Saved {
    /// Returns whether something may be upstream that has to be seen to.
    pub fn is_up(&self) -> bool {
        self.climb.is_some()
    }

    /// Returns what it had upstream.
    pub fn live(&self) -> Vec<Step> {
        let states = self.climb.iter().flat_map(|climb| &climb.states).filter(|state| state.is_live());
        states.flat_map(|state| state.steps.iter().cloned()).collect()
    }

    /// As it is in an attack, before anything is asked for.
    #[cfg(test)]
    pub(crate) fn in_attack() -> Self {
        Self { climb: Some(Climb::default()), ..Self::default() }
    }

    /// Returns what is left of it when everything was taken back.
    pub fn over(self) -> Self {
        Self { climb: None, ..self }
    }
}

impl Ladder {
    /// Returns what outlives a restart.
    pub fn saved(&self) -> Saved {
        Saved {
            climb: self.climb.clone(),
            climbed: self.climbed.clone(),
            totals: self.totals.clone(),
            last_id: self.last_id,
            at: self.now,
        }
    }

    /// Goes on from what was saved, under the present policy. What the planes had said is forgotten: they look anew.
    /// `keeps`: what is upstream may stay there, see [`Scene::keeps`](super::Scene::keeps).
    pub fn restore(&mut self, saved: Saved, keeps: bool, now: Now) {
        let Saved { climb, mut climbed, totals, last_id, at } = saved;
        // Another boot begins to count anew: what was in its future is now.
        let rebooted = at.mono_ns > now.mono_ns;
        let known = |ns: u64| if rebooted { now.mono_ns } else { ns.min(now.mono_ns) };
        // What ends in the future ends so much later as it would have.
        let ends = |ns: u64| now.mono_ns.saturating_add(ns.saturating_sub(at.mono_ns));
        climbed.values_mut().flatten().for_each(|ns| *ns = known(*ns));
        (self.climbed, self.totals, self.last_id, self.now) = (climbed, totals, self.last_id.max(last_id), now);
        self.reports.clear();
        self.climb = climb.map(|mut climb| {
            climb.quiet_ns = climb.quiet_ns.map(known);
            for state in &mut climb.states {
                state.since.mono_ns = known(state.since.mono_ns);
                state.unneeded_ns = None;
                state.left_ns = state.left_ns.map(known);
                state.hold_ns = state.hold_ns.min(SOON_NS);
                state.unnamed.clear();
                state.health = Health { well: false, since_ns: now.mono_ns };
                state.stage = match state.stage {
                    // What was there is looked for again; that it helped is not judged by the moment of a start.
                    Stage::Up { present_ns, .. } => Stage::Up {
                        since_ns: now.mono_ns,
                        present_ns: present_ns.map(|_| now.mono_ns),
                        judged: true,
                        late: false,
                    },
                    Stage::Trickle { .. } => Stage::Trickle { since_ns: now.mono_ns, seen_ns: None },
                    Stage::Away { .. } => Stage::Away { since_ns: now.mono_ns, probe_ns: now.mono_ns },
                    Stage::Barred { bar, until_ns } => Stage::Barred { bar, until_ns: until_ns.map(ends) },
                    Stage::Dry => Stage::Idle,
                    stage @ (Stage::Idle | Stage::Asking) => stage,
                };
            }
            climb
        });
        self.hold_back(false, keeps);
        let upstream = std::mem::take(&mut self.upstream);
        self.set(upstream);
    }
}
