//! The way back: from the top, one rung at a time, and never without having looked.

use super::{
    Kind, Probe, Rung, Scene, Standing, Step, Turn,
    climb::announce,
    engine::{Climb, LONGEST_NS, Ladder, Look, Move, OVER_AFTER_WORD_NS, SECOND_NS, Stage, State, moved},
    safety::Wish,
};
use crate::rule::{Action, Rate};

/// A rung that was never there, and is not needed any more for so long, is given up, nanoseconds.
const GIVEN_UP_NS: u64 = 10 * SECOND_NS;
/// Approval is not asked for any more when it was not needed for so long, nanoseconds.
const UNASKED_NS: u64 = 60 * SECOND_NS;
/// A trickle is looked at for so long at least, a withdrawal for so long, nanoseconds.
const TRICKLE_NS: u64 = 5 * SECOND_NS;
const AWAY_NS: u64 = 10 * SECOND_NS;
/// A trickle of which this share is used shows that the attack is still there.
const USED: f64 = 0.5;
/// Readings of the first moments of a trickle are of what was before, nanoseconds.
const FIRST_NS: u64 = 2 * SECOND_NS;
/// From this announcement in one attack on, the next probe is as late as may be.
const ANNOUNCEMENTS: u32 = 3;

impl Ladder {
    /// Comes back where that is due.
    pub(super) fn descend(&mut self, climb: &mut Climb, scene: &Scene<'_>, moves: &mut Vec<Move>) {
        let now_ns = scene.now.mono_ns;
        let mut above = false;
        for i in (0..climb.states.len()).rev() {
            let Some(rung) = self.upstream.policy.rungs.get(i).cloned() else { continue };
            let needed = self.need(&rung, scene);
            let look = Look { i, rung: &rung, scene, needed: needed.as_deref() };
            self.let_go(climb, &look, moves);
            let Some(state) = climb.states.get_mut(i) else { continue };
            if needed.is_some() {
                state.unneeded_ns = None;
            } else {
                state.unneeded_ns.get_or_insert(now_ns);
            }
            let unneeded = state.unneeded_ns.map_or(0, |since| now_ns.saturating_sub(since));
            let in_time = rung.activation_ms.saturating_mul(1_250_000) + GIVEN_UP_NS;
            match state.stage {
                Stage::Idle | Stage::Barred { .. } => continue,
                Stage::Dry if scene.attack.is_none() => {
                    state.go(Stage::Idle, scene.now, "would have come back");
                    moves.push(moved(
                        climb,
                        &rung.name,
                        Turn::CameBack,
                        "would come back: the attack is over (dry run)",
                    ));
                }
                Stage::Asking if unneeded >= UNASKED_NS => {
                    state.go(Stage::Idle, scene.now, "not needed any more");
                    let what = "is not asked for any more: it is not needed";
                    moves.push(moved(climb, &rung.name, Turn::CameBack, what));
                }
                Stage::Up { present_ns: None, since_ns, .. }
                    if unneeded >= GIVEN_UP_NS && now_ns.saturating_sub(since_ns) >= in_time =>
                {
                    let may_be_there =
                        |step: &Step| matches!(self.standing(step), Some(Standing::Asked | Standing::Present));
                    if state.steps.iter().any(may_be_there) {
                        // Nothing may be seen because it works: it is looked at like one that is there.
                        if !above {
                            self.probe(climb, &look, moves);
                        }
                    } else {
                        state.go(Stage::Idle, scene.now, "not needed any more");
                        let what = "given up: it is not needed any more, and never was there";
                        moves.push(moved(climb, &rung.name, Turn::CameBack, what));
                    }
                }
                Stage::Up { present_ns: Some(present), .. } => {
                    let held = now_ns.saturating_sub(present) >= state.hold_ns;
                    if held && !above && needed.is_none() {
                        self.probe(climb, &look, moves);
                    }
                }
                Stage::Trickle { .. } => self.trickle(climb, &look, moves),
                Stage::Away { .. } => self.away(climb, &look, moves),
                _ => {}
            }
            above |= climb.states.get(i).is_some_and(|state| state.is_live() || state.is_probed());
        }
    }

    /// Takes back what the attack has not named for as long as it is held: it turned elsewhere, and what it fills the
    /// uplink with now keeps nothing else there. Should it be missed, it is named again, and held for longer.
    fn let_go(&mut self, climb: &mut Climb, look: &Look<'_>, moves: &mut Vec<Move>) {
        let now_ns = look.scene.now.mono_ns;
        let Some(state) = climb.states.get(look.i) else { return };
        let is_up = look.needed.is_some() && matches!(state.stage, Stage::Up { .. }) && !self.dry;
        let named = if is_up { self.named(look, state) } else { None };
        let Some(state) = climb.states.get_mut(look.i) else { return };
        let Some(named) = named else { return state.unnamed.clear() };
        let State { steps, unnamed, hold_ns, .. } = state;
        let mut gone: Vec<&Step> = Vec::new();
        for step in steps.iter() {
            if is_named(&named, step) {
                unnamed.remove(&step.id);
            } else if now_ns.saturating_sub(*unnamed.entry(step.id).or_insert(now_ns)) >= *hold_ns {
                gone.push(step);
            }
        }
        if gone.is_empty() {
            return;
        }
        let texts: Vec<String> = gone.iter().map(|step| step.what.to_string()).collect();
        let ids: Vec<u32> = gone.iter().map(|step| step.id).collect();
        let what = format!("taken back: the attack has turned away from {}", texts.join("; "));
        state.drop_steps(&ids);
        state.left_ns = Some(now_ns);
        let empty = state.steps.is_empty();
        if empty {
            state.go(Stage::Idle, look.scene.now, what.clone());
        }
        moves.push(moved(climb, &look.rung.name, if empty { Turn::CameBack } else { Turn::Changed }, what));
    }

    /// Begins to look whether a rung is still needed.
    fn probe(&mut self, climb: &mut Climb, look: &Look<'_>, moves: &mut Vec<Move>) {
        let Look { i, rung, scene, .. } = *look;
        self.totals.probes += 1;
        let trickle_bps = self.upstream.policy.trickle_bps.max(1);
        let now_ns = scene.now.mono_ns;
        let Some(state) = climb.states.get(i) else { return };
        if rung.kind == Kind::Filter && rung.probe == Probe::Trickle && !state.no_trickle {
            let each = Rate::Bps((trickle_bps / state.steps.len().max(1) as u64).max(1));
            let Some(state) = climb.states.get_mut(i) else { return };
            self.renew(state, Some("a probe: a little is let through"), Some(Action::RateLimit(each)));
            state.arriving_bps = 0.0;
            state.go(Stage::Trickle { since_ns: now_ns, seen_ns: None }, scene.now, "a probe: a little is let through");
            let what = format!("probe: {:.1} Mbit/s of it are let through", trickle_bps as f64 / 1e6);
            moves.push(moved(climb, &rung.name, Turn::Probed, what));
            return;
        }
        let window = window_ns(climb.pause_ns, AWAY_NS) + rung.activation_ms.saturating_mul(1_000_000);
        if let Some(state) = climb.states.get_mut(i) {
            state.go(Stage::Away { since_ns: now_ns, probe_ns: now_ns }, scene.now, "a probe: taken back");
        }
        let what = format!("probe: taken back, and put back if the attack shows within {:.0} s", window as f64 / 1e9);
        moves.push(moved(climb, &rung.name, Turn::Probed, what));
    }

    /// Looks at what comes through a trickle.
    fn trickle(&mut self, climb: &mut Climb, look: &Look<'_>, moves: &mut Vec<Move>) {
        let Look { i, rung, scene, needed } = *look;
        let now_ns = scene.now.mono_ns;
        let pause_ns = climb.pause_ns;
        let Some(state) = climb.states.get_mut(i) else { return };
        let Stage::Trickle { since_ns, seen_ns } = &mut state.stage else { return };
        let (since_ns, late) = (*since_ns, rung.activation_ms.saturating_mul(1_500_000) + 2 * SECOND_NS);
        if seen_ns.is_none() && now_ns.saturating_sub(since_ns) >= late {
            // The plane does not say; it had the time.
            *seen_ns = Some(now_ns);
        }
        let limit = self.upstream.policy.trickle_bps.max(1) as f64;
        let seen = seen_ns.map(|at| now_ns.saturating_sub(at));
        let used = seen.is_some_and(|seen| seen >= FIRST_NS) && state.arriving_bps >= USED * limit;
        if used || needed.is_some() {
            let found =
                format!("{:.2} Mbit/s of it come through a trickle of {:.2}", state.arriving_bps / 1e6, limit / 1e6);
            let why = needed.map_or(found, str::to_owned);
            return self.put_back(climb, look, &why, moves);
        }
        if seen.is_some_and(|seen| seen >= window_ns(pause_ns, TRICKLE_NS)) {
            state.go(Stage::Away { since_ns: now_ns, probe_ns: since_ns }, scene.now, "nothing came through a trickle");
            moves.push(moved(climb, &rung.name, Turn::Probed, "nothing came through: taken back, and watched"));
        }
    }

    /// Watches what was taken back.
    fn away(&mut self, climb: &mut Climb, look: &Look<'_>, moves: &mut Vec<Move>) {
        let Look { i, rung, scene, needed } = *look;
        let now_ns = scene.now.mono_ns;
        let pause_ns = climb.pause_ns;
        let Some(state) = climb.states.get_mut(i) else { return };
        let Stage::Away { since_ns, probe_ns } = state.stage else { return };
        if let Some(why) = needed {
            return self.put_back(climb, look, why, moves);
        }
        if self.may_linger(rung, state) {
            // Behind what is still there nothing can be seen.
            let probe_ns = probe_ns.saturating_add(now_ns.saturating_sub(since_ns));
            let waits_ns = now_ns.saturating_sub(state.since.mono_ns);
            if waits_ns >= rung.activation_ms.saturating_mul(1_000_000) + OVER_AFTER_WORD_NS {
                // Whatever comes after so long may be another attack.
                state.approved = false;
            }
            state.stage = Stage::Away { since_ns: now_ns, probe_ns };
            return;
        }
        let window = window_ns(pause_ns, AWAY_NS) + rung.activation_ms.saturating_mul(1_000_000);
        if now_ns.saturating_sub(since_ns) >= window {
            state.steps.clear();
            state.left_ns = Some(probe_ns);
            state.go(Stage::Idle, scene.now, "not needed any more");
            let what = format!("not needed any more: nothing came for {:.0} s", window as f64 / 1e9);
            moves.push(moved(climb, &rung.name, Turn::CameBack, what));
        }
    }

    /// Takes steps out that the attack does not name, and says so of each.
    fn drop_unnamed(&mut self, look: &Look<'_>, state: &mut State) -> Vec<String> {
        let Some(named) = self.named(look, state) else { return Vec::new() };
        let gone: Vec<&Step> = state.steps.iter().filter(|step| !is_named(&named, step)).collect();
        let ids: Vec<u32> = gone.iter().map(|step| step.id).collect();
        let texts = gone.iter().map(|step| format!("`{}`: the attack has turned away from it", step.what)).collect();
        state.drop_steps(&ids);
        texts
    }

    /// The attack is still there: as it was, for longer.
    fn put_back(&mut self, climb: &mut Climb, look: &Look<'_>, why: &str, moves: &mut Vec<Move>) {
        let Look { i, rung, scene, .. } = *look;
        let Some(state) = climb.states.get_mut(i) else { return };
        let away_ns = match state.stage {
            Stage::Away { probe_ns, .. } => Some(probe_ns),
            _ => None,
        };
        // While it was away, what is exempt may have changed, or the attack turned elsewhere.
        let mut without = self.drop_forbidden(state);
        if away_ns.is_some() {
            without.extend(self.drop_unnamed(look, state));
        }
        if state.steps.is_empty() {
            let what = format!("still needed ({why}), and not put back: {}", without.join("; "));
            state.left_ns = away_ns;
            state.go(Stage::Idle, scene.now, what.clone());
            moves.push(moved(climb, &rung.name, Turn::CameBack, what));
            return;
        }
        self.totals.failed_probes += 1;
        state.failed_probes += 1;
        self.renew(state, Some(why), None);
        if let Some(from_ns) = away_ns {
            climb.note_pause(scene.now.mono_ns.saturating_sub(from_ns));
        }
        let Some(state) = climb.states.get(i) else { return };
        let asks = self.asks(climb, state, rung, true).filter(|_| away_ns.is_some());
        let Some(state) = climb.states.get_mut(i) else { return };
        if let Some(because) = asks {
            hold_longer(state, rung);
            state.go(Stage::Asking, scene.now, why);
            let what = format!("asks to be put back: {why}{because}; `ftagent ladder approve {}`", state.id);
            moves.push(moved(climb, &rung.name, Turn::Asked, what));
            return;
        }
        let announcements = state.announcements;
        announce(state, scene.now, why);
        if away_ns.is_some() {
            self.count(state, rung);
        } else {
            // What was there all the time was not announced anew.
            state.announcements = announcements;
        }
        hold_longer(state, rung);
        // It helped before: it is not judged by a moment in which it was away.
        if let Stage::Up { judged, .. } = &mut state.stage {
            *judged = true;
        }
        let next = format!("next probe in {:.0} s", state.hold_ns as f64 / 1e9);
        let what = match without.as_slice() {
            [] => format!("still needed: {why}; {next}"),
            some => format!("still needed: {why}; {next}; without {}", some.join("; ")),
        };
        moves.push(moved(climb, &rung.name, Turn::Probed, what));
    }
}

/// Returns whether wishes name what a step is about.
fn is_named(wishes: &[Wish], step: &Step) -> bool {
    wishes.iter().any(|(what, _)| what.is_about(&step.what))
}

/// Lets it stay longer than the last time.
pub(super) fn hold_longer(state: &mut State, rung: &Rung) {
    let longest = rung.longest_hold_ms.saturating_mul(1_000_000);
    let doubled = if state.announcements >= ANNOUNCEMENTS { longest } else { state.hold_ns.saturating_mul(2) };
    state.hold_ns = doubled.min(longest);
}

/// Returns how long a probe lasts: so that the longest pause that was seen fits in.
fn window_ns(pause_ns: u64, least_ns: u64) -> u64 {
    (pause_ns.saturating_mul(5) / 2).clamp(least_ns, LONGEST_NS)
}
