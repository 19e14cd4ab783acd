//! Operators' words.

use super::{
    LadderMode, Turn,
    climb::announce,
    engine::{Bar, Climb, Ladder, Move, Stage, State, moved},
};
use crate::decide::Now;

/// What a number names.
#[derive(Clone, Copy)]
enum Named {
    Rung(usize),
    Step(usize),
}

impl Ladder {
    /// Approves what waits for it, or puts back what was taken back.
    ///
    /// # Errors
    /// Where there is nothing to approve under this number.
    pub fn approve(&mut self, id: u32, now: Now) -> Result<Vec<Move>, String> {
        let mut climb = self.climb.take().ok_or_else(nothing)?;
        let result = self.approve_in(&mut climb, id, now);
        self.climb = Some(climb);
        self.publish();
        result
    }

    fn approve_in(&mut self, climb: &mut Climb, id: u32, now: Now) -> Result<Vec<Move>, String> {
        let (Named::Rung(i) | Named::Step(i)) = find(climb, id)?;
        let state = climb.states.get_mut(i).ok_or_else(nothing)?;
        if self.dry {
            return Err(match self.upstream.policy.mode {
                LadderMode::DryRun => format!("{} is a dry run: set `ladder.mode` to \"on\" first", state.name),
                _ => "nothing is asked of planes now: see `ftagent ladder status`".to_owned(),
            });
        }
        match state.stage {
            Stage::Asking | Stage::Barred { .. } if !state.steps.is_empty() => {}
            _ => return Err(format!("{} does not wait for approval", state.name)),
        }
        // An operator's word does not make it harmless, and it may be an old one.
        let before = state.clone();
        let forbidden = self.drop_forbidden(state);
        if state.steps.is_empty() {
            *state = before;
            return Err(format!("{} may not be approved: {}", state.name, forbidden.join("; ")));
        }
        let left_out = match forbidden.as_slice() {
            [] => String::new(),
            some => format!(", without {}", some.join("; ")),
        };
        state.approved = true;
        state.spared.clear();
        state.refused.clear();
        self.renew(state, None, None);
        let texts: Vec<String> = state.steps.iter().map(|step| step.what.to_string()).collect();
        announce(state, now, "approved by an operator");
        self.totals.escalations += 1;
        let name = state.name.clone();
        let what = format!("{}: approved by an operator{left_out}", texts.join("; "));
        Ok(vec![moved(climb, &name, Turn::Escalated, what)])
    }

    /// Denies what waits for approval; takes back what is there.
    ///
    /// # Errors
    /// Where there is nothing under this number.
    pub fn deny(&mut self, id: u32, now: Now) -> Result<Vec<Move>, String> {
        let climb = self.climb.as_mut().ok_or_else(nothing)?;
        let (Named::Rung(i) | Named::Step(i)) = find(climb, id)?;
        let state = climb.states.get_mut(i).ok_or_else(nothing)?;
        if state.stage != Stage::Asking {
            return Err(format!(
                "{} does not wait for approval: `ftagent ladder withdraw {id}` takes it back",
                state.name
            ));
        }
        let what = "denied by an operator, for the rest of the attack";
        state.go(Stage::Barred { bar: Bar::Denied, until_ns: None }, now, what);
        let name = state.name.clone();
        let moves = vec![moved(climb, &name, Turn::Stopped, what)];
        self.publish();
        Ok(moves)
    }

    /// Takes back a rung, one of its steps, or everything, for the rest of the attack.
    ///
    /// # Errors
    /// Where there is nothing to take back.
    pub fn withdraw(&mut self, id: Option<u32>, now: Now) -> Result<Vec<Move>, String> {
        let climb = self.climb.as_mut().ok_or_else(nothing)?;
        let named = match id {
            Some(id) => vec![find(climb, id)?],
            None => (0..climb.states.len()).map(Named::Rung).collect(),
        };
        let mut moves = Vec::new();
        for named in named {
            let (Named::Rung(i) | Named::Step(i)) = named;
            let Some(state) = climb.states.get_mut(i) else { continue };
            let one = match named {
                Named::Step(_) if state.steps.len() > 1 && state.is_live() => id,
                _ => None,
            };
            let Some(what) = take(state, one, now) else { continue };
            climb.leave_alone();
            let name = climb.states.get(i).map(|state| state.name.clone()).unwrap_or_default();
            moves.push(moved(climb, &name, Turn::Stopped, what));
        }
        if moves.is_empty() {
            return Err("there is nothing to take back: see `ftagent ladder status`".to_owned());
        }
        self.publish();
        Ok(moves)
    }
}

/// Takes a rung back, or one step of it; says what was done, or nothing where there was nothing to do.
fn take(state: &mut State, one: Option<u32>, now: Now) -> Option<String> {
    if let Some(id) = one {
        let at = state.steps.iter().position(|step| step.id == id)?;
        let step = state.steps.remove(at);
        state.rules.remove(&id);
        let what = format!("`{}` taken back by an operator, for the rest of the attack", step.what);
        state.spared.push(step.what);
        return Some(what);
    }
    let bar = match state.stage {
        Stage::Up { .. } | Stage::Trickle { .. } | Stage::Away { .. } => Bar::Withdrawn,
        Stage::Asking => Bar::Denied,
        _ => return None,
    };
    let what = "taken back by an operator, for the rest of the attack".to_owned();
    state.go(Stage::Barred { bar, until_ns: None }, now, what.clone());
    Some(what)
}

fn find(climb: &Climb, id: u32) -> Result<Named, String> {
    let of_rung = climb.states.iter().position(|state| state.id == id && id != 0);
    let of_step = || climb.states.iter().position(|state| state.steps.iter().any(|step| step.id == id));
    of_rung.map(Named::Rung).or_else(|| of_step().map(Named::Step)).ok_or_else(|| {
        format!("nothing of the ladder has the number {id}: `ftagent ladder status` lists what there is")
    })
}

fn nothing() -> String {
    "there is no attack that the ladder is about: `ftagent ladder status`".to_owned()
}
