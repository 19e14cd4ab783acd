//! Narrower rules in the place of those that cost too much.

use super::{
    super::{
        evidence::{Target, clean, gather},
        life::Life,
    },
    Keeper, Scene, acts, tell,
};
use crate::{
    decide::{
        Event, Incident,
        reservoir::Clean,
        synthesis::{self, Choice, Problem},
    },
    rule::FlowMatch,
};

/// Packets that are spared at most.
const SPARED: usize = 256;

impl Keeper {
    /// Keeps packets for whose sake a rule was withdrawn.
    pub(super) fn spare(&mut self, touched: &[Clean]) {
        self.spared.extend_from_slice(touched);
        let over = self.spared.len().saturating_sub(SPARED);
        self.spared.drain(..over);
    }

    /// Puts a narrower rule in the place of each that was withdrawn, where there is one. It matches only
    /// what the other did, so it has been in shadow as long as that was: where that was in force, it is
    /// at once.
    pub(super) fn narrow(
        &mut self,
        incident: &mut Incident,
        target: &Target<'_>,
        scene: &Scene<'_>,
        withdrawn: Vec<Life>,
    ) -> Vec<Event> {
        if withdrawn.is_empty() || target.is_held() {
            return Vec::new();
        }
        let evidence = gather(scene.analyst, target);
        let mut clean = clean(scene.reservoir, &evidence);
        let spared = self.spared.clone();
        clean.extend(&spared);
        let exempt = self.exempt(scene);
        let mut lines = Vec::new();
        for wide in withdrawn {
            let mut attack = evidence.attack.clone();
            attack.retain(|sample| self.lives.iter().all(|life| !life.choice.matches.matches(&sample.seen.subject())));
            let taken: Vec<&FlowMatch> = self.lives.iter().map(|life| &life.choice.matches).collect();
            let problem = Problem {
                attack: &attack,
                clean: &clean,
                exempt: &exempt,
                own: &scene.exempt.own,
                refused: &self.refused,
                most: self.room(),
                ordinary: scene.ordinary,
                exit: scene.exit,
                part: attack.len() as f64 / evidence.attack.len().max(1) as f64,
                taken: &taken,
                seconds: evidence.seconds,
                calm: scene.reservoir.passed(),
            };
            let known = |choice: &Choice| self.lives.iter().any(|life| life.choice.matches == choice.matches);
            let found = synthesis::narrow(&wide.choice.matches, &problem).filter(|choice| !known(choice));
            let Some(choice) = found.filter(|_| problem.most > 0) else { continue };
            let at = self.begin(choice, scene.now.mono_ns);
            let in_force = wide.enforced.is_some() && acts(incident, scene);
            let Some(life) = self.lives.get_mut(at) else { continue };
            if in_force {
                life.enforce(scene.now);
            }
            let state = if in_force { "enforced" } else { "in shadow" };
            let (matches, reason) = (&life.choice.matches, life.reason());
            lines.push(format!("rule {} {state} in place of rule {}, narrower: {matches}: {reason}", life.id, wide.id));
        }
        tell(incident, scene.now, lines)
    }
}
