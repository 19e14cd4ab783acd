//! What may not be upstream any more: what is exempt changes while steps wait, are there, or are probed.

use super::{
    Scene, Step, Turn, What,
    engine::{Climb, Ladder, Move, Stage, State, moved},
    safety,
};

impl Ladder {
    /// Takes back what came from rules that cost too much here, and, where that changed, what may not be asked for.
    pub(super) fn weed(&mut self, climb: &mut Climb, scene: &Scene<'_>, moves: &mut Vec<Move>) {
        // At a start nothing is known of what is ours.
        let anew = self.weeded != self.bounds && safety::is_anything_ours(&self.upstream, &self.exempt);
        if anew {
            self.weeded = self.bounds;
        }
        let withdrawn = scene.attack.map_or(&[][..], |attack| &attack.withdrawn);
        if !anew && withdrawn.is_empty() {
            return;
        }
        for i in 0..climb.states.len() {
            let Some(state) = climb.states.get(i) else { return };
            if !(state.is_live() || state.is_probed() || state.stage == Stage::Asking) {
                continue;
            }
            let objection = |step: &Step| {
                if state.rules.get(&step.id).is_some_and(|rule| withdrawn.contains(rule)) {
                    return Some("the rule here that it came from cost too much".to_owned());
                }
                if anew { self.forbids(&step.what) } else { None }
            };
            let gone: Vec<(u32, String)> = state
                .steps
                .iter()
                .filter_map(|step| Some((step.id, format!("`{}`: {}", step.what, objection(step)?))))
                .collect();
            if gone.is_empty() {
                continue;
            }
            let ids: Vec<u32> = gone.iter().map(|(id, _)| *id).collect();
            let texts: Vec<String> = gone.into_iter().map(|(_, text)| text).collect();
            let what = format!("not any more: {}", texts.join("; "));
            let Some(state) = climb.states.get_mut(i) else { return };
            state.drop_steps(&ids);
            let empty = state.steps.is_empty();
            if empty {
                state.go(Stage::Idle, scene.now, what.clone());
            }
            let name = state.name.clone();
            moves.push(moved(climb, &name, if empty { Turn::CameBack } else { Turn::Changed }, what));
        }
    }

    /// Says why a step may not be asked for.
    pub(super) fn forbids(&self, what: &What) -> Option<String> {
        safety::permits(what, &self.upstream, &self.exempt).err()
    }

    /// Takes steps out that may not be asked for, and says why of each.
    pub(super) fn drop_forbidden(&self, state: &mut State) -> Vec<String> {
        let forbidden = |step: &Step| Some((step.id, format!("`{}`: {}", step.what, self.forbids(&step.what)?)));
        let gone: Vec<(u32, String)> = state.steps.iter().filter_map(forbidden).collect();
        state.drop_steps(&gone.iter().map(|(id, _)| *id).collect::<Vec<_>>());
        gone.into_iter().map(|(_, text)| text).collect()
    }
}
