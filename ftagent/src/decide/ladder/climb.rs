//! The way up.

use super::{
    Approve, Attack, Kind, Rung, Scene, Standing, Step, Turn, Upstream, What,
    descend::hold_longer,
    engine::{Bar, Climb, Health, Ladder, Look, Move, SECOND_NS, Stage, State, moved},
    forecast::FULL,
    safety::{self, Gist, Wish},
};
use crate::decide::Now;

/// Rules against a young attack are still being found: nothing above filters is climbed before, nanoseconds.
const YOUNG_NS: u64 = 3 * SECOND_NS;
/// After it is there, a step is given so long to show that it helps, nanoseconds.
const SETTLE_NS: u64 = 3 * SECOND_NS;
/// A step that helps leaves less than this share of what it is about.
const HELPS: f64 = 0.5;
/// A rung that did not help is tried again after this time, which doubles, nanoseconds.
const AGAIN_NS: u64 = 600 * SECOND_NS;
/// One that a plane refused is tried again after this time, nanoseconds.
const REFUSED_NS: u64 = 300 * SECOND_NS;
/// A plane in trouble for so long is not waited for, nanoseconds.
const TROUBLE_NS: u64 = 3 * SECOND_NS;
/// An attack with less than this share of what arrives does not fill the uplink.
const OF_LOAD: f64 = 0.2;
/// Growth of an uplink that is emptier than this foretells nothing.
const LEAST_FULL: f64 = 0.05;
/// Growth is that since the incident, and this long before, nanoseconds.
const BEFORE_NS: u64 = 2 * SECOND_NS;

impl Ladder {
    /// Fits the growth of the uplink anew where there is something new to fit.
    pub(super) fn foresee(&mut self, scene: &Scene<'_>) {
        let Some(attack) = scene.attack else {
            (self.growth, self.foreseen) = (None, (0, 0));
            return;
        };
        let since_ns = attack.opened_ns.saturating_sub(BEFORE_NS);
        let of = (self.link.newest_ns(), since_ns);
        if self.foreseen != of {
            (self.growth, self.foreseen) = (self.link.growth(since_ns), of);
        }
    }

    /// Returns seconds until the uplink is full, if it goes on as it does since the attack began.
    pub(super) fn full_in_s(&self, now_ns: u64) -> Option<f64> {
        let uplink = self.link.now(now_ns)?;
        self.growth?.reaches(uplink.used_bps, uplink.capacity_bps? * FULL)
    }

    /// Says why a rung is needed now; `None` where it is not.
    pub(super) fn need(&self, rung: &Rung, scene: &Scene<'_>) -> Option<String> {
        let attack = scene.attack?;
        let now_ns = scene.now.mono_ns;
        if let Some(uplink) = self.link.now(now_ns)
            && let (Some(full), Some(wanted)) = (uplink.utilisation(), rung.when.utilisation)
            && attack.bps >= OF_LOAD * uplink.used_bps
        {
            if full >= wanted {
                return Some(format!("the uplink is {:.0} % full", 100.0 * full));
            }
            let eta = self.full_in_s(now_ns);
            let ahead = rung.activation_ms as f64 / 1e3;
            let ahead = if rung.kind == Kind::BlackHole { ahead + 2.0 } else { ahead * 1.75 + 5.0 };
            if let Some(eta) = eta.filter(|eta| full >= LEAST_FULL && *eta <= ahead) {
                let takes = rung.activation_ms as f64 / 1e3;
                return Some(format!(
                    "the uplink, {:.0} % full, will be {:.0} % full in {eta:.0} s, and this takes {takes:.0} s",
                    100.0 * full,
                    100.0 * FULL
                ));
            }
        }
        let (lost, softirq) = self.strain.unwrap_or((0.0, 0.0));
        if rung.when.lost_pps.is_some_and(|most| lost >= most) {
            return Some(format!("this host loses {lost:.0} packets a second before it can look at them"));
        }
        if rung.when.softirq.is_some_and(|most| softirq >= most) {
            return Some(format!("a CPU spends {:.0} % of its time taking packets", 100.0 * softirq));
        }
        let young = now_ns.saturating_sub(attack.opened_ns) < YOUNG_NS;
        let residual = rung.when.residual.filter(|most| attack.residual >= *most && !young);
        residual.map(|_| format!("{:.0} % of the attack pass what is dropped here", 100.0 * attack.residual))
    }

    /// Takes in what planes said of the steps that are wanted.
    pub(super) fn hear(&mut self, climb: &mut Climb, moves: &mut Vec<Move>) {
        for i in 0..climb.states.len() {
            let (Some(state), Some(rung)) = (climb.states.get(i), self.upstream.policy.rungs.get(i)) else { continue };
            if !state.is_live() || self.dry {
                continue;
            }
            let heard: Vec<(What, Option<Standing>)> =
                state.steps.iter().map(|step| (step.what.clone(), self.standing(step).cloned())).collect();
            let (mut gone, mut refused) = (Vec::new(), None);
            for (what, standing) in &heard {
                match standing {
                    Some(Standing::TakenBack) => gone.push(what.clone()),
                    Some(Standing::Refused(why)) => refused = Some((what.clone(), why.clone())),
                    _ => {}
                }
            }
            let is = |wanted: fn(&Standing) -> bool| {
                heard.iter().filter(move |(_, standing)| standing.as_ref().is_some_and(wanted)).count()
            };
            let there = is(|standing| *standing == Standing::Present);
            let failed = is(|standing| matches!(standing, Standing::Failed(_)));
            if !gone.is_empty() {
                self.taken_back(climb, i, &gone, moves);
            } else if let Some((what, why)) = refused {
                self.refused(climb, i, &what, &why, moves);
            } else {
                let seen = there > 0 && there + failed == heard.len();
                let well = seen && self.trouble(rung).is_none();
                let told = climb.states.get_mut(i).and_then(|state| note_health(state, seen, well, self.now.mono_ns));
                moves.extend(told.map(|what| moved(climb, &rung.name, Turn::Changed, what)));
            }
        }
    }

    /// Somebody took steps back where they were: they stay away.
    fn taken_back(&mut self, climb: &mut Climb, i: usize, gone: &[What], moves: &mut Vec<Move>) {
        climb.leave_alone();
        let now = self.now;
        let Some(state) = climb.states.get_mut(i) else { return };
        state.spared.extend(gone.iter().cloned());
        let texts: Vec<String> = gone.iter().map(ToString::to_string).collect();
        let what = format!("taken back by hand, and left so for the rest of the attack: {}", texts.join("; "));
        if gone.len() == state.steps.len() {
            state.go(Stage::Barred { bar: Bar::TakenBack, until_ns: None }, now, what.clone());
        } else {
            state.steps.retain(|step| !gone.contains(&step.what));
        }
        let name = state.name.clone();
        moves.push(moved(climb, &name, Turn::Stopped, what));
    }

    fn refused(&mut self, climb: &mut Climb, i: usize, what: &What, why: &str, moves: &mut Vec<Move>) {
        let now = self.now;
        let Some(state) = climb.states.get_mut(i) else { return };
        let name = state.name.clone();
        if matches!(state.stage, Stage::Trickle { .. }) {
            // It drops and does not limit: then by taking it back. What it drops is put back if need be.
            state.no_trickle = true;
            let since_ns = now.mono_ns;
            let what = format!("{name} lets no trickle through: {why}");
            state.go(Stage::Away { since_ns, probe_ns: since_ns }, now, what.clone());
            moves.push(moved(climb, &name, Turn::Probed, format!("taken back, and watched: {what}")));
            return;
        }
        let said = format!("{name} refuses `{what}`: {why}");
        if state.steps.len() <= 1 {
            let until_ns = Some(now.mono_ns + REFUSED_NS);
            state.go(Stage::Barred { bar: Bar::Refused, until_ns }, now, said.clone());
        } else {
            state.steps.retain(|step| step.what != *what);
            state.refused.push(what.clone());
        }
        moves.push(moved(climb, &name, Turn::Failed, said));
    }

    /// Climbs a rung where that is due: one in a tick.
    pub(super) fn ascend(&mut self, climb: &mut Climb, scene: &Scene<'_>, moves: &mut Vec<Move>) {
        let Some(attack) = scene.attack else { return };
        let now_ns = scene.now.mono_ns;
        let mut waits = false;
        for i in 0..climb.states.len() {
            let (Some(stage), Some(rung)) =
                (climb.states.get(i).map(|state| state.stage), self.upstream.policy.rungs.get(i).cloned())
            else {
                return;
            };
            let needed = self.need(&rung, scene);
            let look = Look { i, rung: &rung, scene, needed: needed.as_deref() };
            match stage {
                Stage::Idle => {
                    let held = waits && rung.kind == Kind::BlackHole;
                    let young = now_ns.saturating_sub(attack.opened_ns) < YOUNG_NS;
                    if held || young && rung.kind != Kind::Filter {
                        continue;
                    }
                    let Some(why) = look.needed else { continue };
                    match self.start(climb, &look, attack, why, moves) {
                        Started::Yes => return,
                        Started::Waits => waits = true,
                        // Rules against it are still being found.
                        Started::No if young => return,
                        Started::No => {}
                    }
                }
                // Whether it would have helped is not known, until it may be asked for.
                Stage::Dry => {
                    if let Some(state) = climb.states.get_mut(i).filter(|_| !self.dry) {
                        state.go(Stage::Idle, scene.now, "may be asked for now");
                    }
                    return;
                }
                Stage::Asking => {
                    let Some(state) = climb.states.get(i) else { return };
                    let patience_ns = self.upstream.policy.patience_ms.saturating_mul(1_000_000);
                    waits |= now_ns.saturating_sub(state.since.mono_ns) < patience_ns;
                    self.wish_again(climb, &look, attack);
                }
                Stage::Up { .. } => {
                    if !self.settled(climb, &look, moves) || self.amend(climb, &look, attack, moves) {
                        return;
                    }
                }
                Stage::Trickle { .. } | Stage::Away { .. } => return,
                Stage::Barred { until_ns, .. } => {
                    if until_ns.is_some_and(|until| now_ns >= until)
                        && let Some(state) = climb.states.get_mut(i)
                    {
                        state.go(Stage::Idle, scene.now, "may be tried again");
                    }
                }
            }
        }
    }

    /// Returns whether nothing more is to be expected of a rung than what it does now.
    fn settled(&mut self, climb: &mut Climb, look: &Look<'_>, moves: &mut Vec<Move>) -> bool {
        let Look { i, rung, scene, .. } = *look;
        let now_ns = scene.now.mono_ns;
        let failure = climb.states.get(i).and_then(|state| {
            state.steps.iter().find_map(|step| match self.standing(step) {
                Some(Standing::Failed(why)) => Some(why.clone()),
                _ => None,
            })
        });
        let sick = self.trouble(rung).map(str::to_owned).or(failure);
        let Some(state) = climb.states.get_mut(i) else { return true };
        let Stage::Up { since_ns, present_ns, judged, late } = state.stage else { return true };
        let lasts = now_ns.saturating_sub(state.health.since_ns);
        if !state.health.well {
            let patience = rung.activation_ms.saturating_mul(1_250_000) + SETTLE_NS;
            if lasts < patience && !(sick.is_some() && lasts >= TROUBLE_NS) {
                return false;
            }
            if !late {
                let why = sick.unwrap_or_else(|| format!("nothing after {:.0} s", lasts as f64 / 1e9));
                let how = if present_ns.is_some() { "does not work as it should" } else { "is not there yet" };
                state.stage = Stage::Up { since_ns, present_ns, judged, late: true };
                let what = format!("{how} ({why}); it stays asked for, and the next rung is looked at");
                moves.push(moved(climb, &rung.name, Turn::Failed, what));
            }
            return true;
        }
        if judged {
            return true;
        }
        if lasts < SETTLE_NS {
            return false;
        }
        state.stage = Stage::Up { since_ns, present_ns, judged: true, late };
        if state.before_bps > 0.0 && state.arriving_bps > HELPS * state.before_bps {
            let (before, now) = (state.before_bps / 1e6, state.arriving_bps / 1e6);
            let what = format!(
                "says that it is done, and nothing changed: {now:.1} of {before:.1} Mbit/s still arrive; it is taken back"
            );
            let until_ns = Some(now_ns + (AGAIN_NS << state.useless.min(6)));
            state.useless += 1;
            state.go(Stage::Barred { bar: Bar::Useless, until_ns }, scene.now, what.clone());
            moves.push(moved(climb, &rung.name, Turn::Failed, what));
        }
        true
    }

    /// Asks for what the attack names by now, where it is not enough: filters for rules that are new, what it has
    /// turned to. Returns whether there is any such thing.
    fn amend(&mut self, climb: &mut Climb, look: &Look<'_>, attack: &Attack, moves: &mut Vec<Move>) -> bool {
        let Look { i, rung, scene, .. } = *look;
        let (Some(state), Some(why)) = (climb.states.get(i).filter(|state| state.is_live()), look.needed) else {
            return false;
        };
        // More filters belong to a climb that was counted; another victim, source or prefix is another one.
        let counts = rung.kind != Kind::Filter;
        let room = rung.most.saturating_sub(state.steps.len());
        if room == 0 || self.dry || self.asks(climb, state, rung, counts).is_some() {
            return false;
        }
        let known = |what: &What| state.steps.iter().any(|step| step.what.is_about(what));
        let wishes = self.wishes(rung, scene, attack, state).unwrap_or_default();
        let new: Vec<Wish> = wishes.into_iter().filter(|(what, _)| !known(what)).take(room).collect();
        if new.is_empty() {
            return false;
        }
        let (turn, what) = if counts {
            let texts: Vec<String> = new.iter().map(|(what, _)| what.to_string()).collect();
            (Turn::Escalated, format!("{}: the attack turned there, and {why}", texts.join("; ")))
        } else {
            (Turn::Changed, format!("{} filters more: the rules here changed", new.len()))
        };
        let (added, rules) = self.steps_of(rung, &climb.incident, &what, new);
        let Some(state) = climb.states.get_mut(i) else { return false };
        state.steps.extend(added);
        state.rules.extend(rules);
        if let Stage::Up { since_ns, present_ns, .. } = &mut state.stage {
            *since_ns = scene.now.mono_ns;
            *present_ns = present_ns.map(|_| scene.now.mono_ns);
        }
        state.health = Health { well: false, since_ns: scene.now.mono_ns };
        if state.left_ns.take().is_some() {
            // A part of it was taken back, and too early.
            state.announcements += 1;
            hold_longer(state, rung);
        }
        if counts {
            self.count(state, rung);
            self.totals.escalations += 1;
        }
        moves.push(moved(climb, &rung.name, turn, what));
        true
    }

    /// Counts an announcement towards the cap, where no operator said so.
    pub(super) fn count(&mut self, state: &State, rung: &Rung) {
        if !state.approved {
            self.climbed.entry(rung.name.clone()).or_default().push_back(self.now.mono_ns);
        }
    }

    /// Returns what the attack names for a rung; nothing where that is not known: rules are still being found.
    pub(super) fn named(&mut self, look: &Look<'_>, state: &State) -> Option<Vec<Wish>> {
        match self.wishes(look.rung, look.scene, look.scene.attack?, state) {
            Err(_) if look.rung.kind == Kind::Filter => None,
            wishes => Some(wishes.unwrap_or_default()),
        }
    }

    /// Keeps what is asked for up to date while it waits for approval.
    fn wish_again(&mut self, climb: &mut Climb, look: &Look<'_>, attack: &Attack) {
        let Look { i, rung, scene, .. } = *look;
        let Some(state) = climb.states.get(i) else { return };
        let Ok(wishes) = self.wishes(rung, scene, attack, state) else { return };
        let before = expected(rung, attack, &wishes);
        let same = wishes.len() == state.steps.len()
            && wishes.iter().zip(&state.steps).all(|((what, _), step)| *what == step.what);
        let made = (!same).then(|| self.steps_of(rung, &climb.incident, &state.why.clone(), wishes));
        let Some(state) = climb.states.get_mut(i) else { return };
        state.before_bps = before;
        if let Some((steps, rules)) = made {
            (state.steps, state.rules) = (steps, rules);
            state.actions.clear();
        }
    }

    /// Returns what a rung would ask for now, but for what people took back.
    fn wishes(&mut self, rung: &Rung, scene: &Scene<'_>, attack: &Attack, state: &State) -> Result<Vec<Wish>, String> {
        let make = |upstream: &Upstream| safety::wishes(rung.kind, attack, upstream, scene.exempt, rung.most);
        let wishes = if rung.kind == Kind::Filter {
            let gist = Gist::of(attack, &self.upstream, scene.exempt, rung.most);
            match self.made.get(&rung.name) {
                Some((bounds, of, made)) if *bounds == self.bounds && *of == gist => made.clone(),
                _ => {
                    let made = make(&self.upstream);
                    self.made.insert(rung.name.clone(), (self.bounds, gist, made.clone()));
                    made
                }
            }
        } else {
            make(&self.upstream)
        };
        let left: Vec<Wish> = wishes?.into_iter().filter(|(what, _)| !state.is_spared(what)).collect();
        if left.is_empty() { Err("what it would ask for was refused or taken back".to_owned()) } else { Ok(left) }
    }

    fn steps_of(
        &mut self,
        rung: &Rung,
        incident: &str,
        reason: &str,
        wishes: Vec<Wish>,
    ) -> (Vec<Step>, std::collections::BTreeMap<u32, u32>) {
        let (mut steps, mut rules) = (Vec::new(), std::collections::BTreeMap::new());
        for (what, rule) in wishes {
            let id = self.number();
            rules.insert(id, rule);
            let (plane, incident, reason) = (rung.plane().to_owned(), incident.to_owned(), reason.to_owned());
            steps.push(Step { id, plane, what, incident, reason });
        }
        (steps, rules)
    }

    /// Climbs a rung, or asks whether it may be.
    fn start(
        &mut self,
        climb: &mut Climb,
        look: &Look<'_>,
        attack: &Attack,
        why: &str,
        moves: &mut Vec<Move>,
    ) -> Started {
        let Look { i, rung, scene, .. } = *look;
        let Some(state) = climb.states.get(i) else { return Started::No };
        let wishes = match self.wishes(rung, scene, attack, state) {
            Ok(wishes) => wishes,
            Err(problem) => {
                if let Some(state) = climb.states.get_mut(i) {
                    state.why = format!("{why}, but {problem}");
                }
                return Started::No;
            }
        };
        let before = expected(rung, attack, &wishes);
        let (steps, rules) = self.steps_of(rung, &climb.incident, why, wishes);
        let id = if state.id == 0 { self.number() } else { state.id };
        let asks = self.asks(climb, state, rung, true);
        let Some(state) = climb.states.get_mut(i) else { return Started::No };
        (state.id, state.steps, state.rules, state.before_bps, state.arriving_bps) = (id, steps, rules, before, before);
        state.actions.clear();
        let texts: Vec<String> = state.steps.iter().map(|step| step.what.to_string()).collect();
        let texts = texts.join("; ");
        if self.dry {
            state.go(Stage::Dry, scene.now, why);
            let asks = if rung.approve == Approve::Ask { "ask for" } else { "announce" };
            moves.push(moved(climb, &rung.name, Turn::Escalated, format!("would {asks} {texts}: {why} (dry run)")));
            return Started::Yes;
        }
        if let Some(because) = asks {
            state.go(Stage::Asking, scene.now, why);
            let what = format!("asks for {texts}: {why}{because}; `ftagent ladder approve {id}`");
            moves.push(moved(climb, &rung.name, Turn::Asked, what));
            return Started::Waits;
        }
        self.count(state, rung);
        self.totals.escalations += 1;
        let left = state.left_ns.take();
        announce(state, scene.now, why);
        if let Some(left) = left {
            // It came back too early.
            hold_longer(state, rung);
            climb.note_pause(scene.now.mono_ns.saturating_sub(left));
        }
        moves.push(moved(climb, &rung.name, Turn::Escalated, format!("{texts}: {why}")));
        Started::Yes
    }
}

/// What became of a start.
enum Started {
    Yes,
    /// It waits for approval.
    Waits,
    /// There is nothing that it could do.
    No,
}

/// Notes whether all that a rung asks for was seen there, and whether all is well with it. Returns what people are
/// told of that.
fn note_health(state: &mut State, seen: bool, well: bool, now_ns: u64) -> Option<String> {
    match &mut state.stage {
        Stage::Up { since_ns, present_ns, late, .. } => {
            if seen {
                present_ns.get_or_insert(now_ns);
            }
            if state.health.well == well {
                return None;
            }
            let before = std::mem::replace(&mut state.health, Health { well, since_ns: now_ns });
            let lasted = now_ns.saturating_sub(before.since_ns);
            if !well || before.since_ns > *since_ns && lasted < TROUBLE_NS {
                return None;
            }
            *late = false;
            let after = lasted as f64 / 1e9;
            Some(match before.since_ns > *since_ns {
                true => format!("works again, after {after:.1} s"),
                false => format!("is there, {after:.1} s after it was asked for"),
            })
        }
        Stage::Trickle { seen_ns, .. } => {
            if seen {
                seen_ns.get_or_insert(now_ns);
            }
            None
        }
        _ => None,
    }
}

/// Puts what a rung has ready upstream.
pub(super) fn announce(state: &mut State, now: Now, why: &str) {
    state.announcements += 1;
    state.arriving_bps = state.before_bps;
    state.health = Health { well: false, since_ns: now.mono_ns };
    state.go(Stage::Up { since_ns: now.mono_ns, present_ns: None, judged: false, late: false }, now, why);
}

/// Returns the bits a second that a rung should make vanish.
fn expected(rung: &Rung, attack: &Attack, wishes: &[Wish]) -> f64 {
    let share: f64 = match rung.kind {
        Kind::Filter => {
            let named = |rule: u32| wishes.iter().any(|(_, of)| *of == rule);
            attack.filters.iter().filter(|filter| named(filter.rule)).map(|filter| filter.share).sum()
        }
        Kind::BlackHole => {
            let named = |victim: &std::net::IpAddr| {
                wishes.iter().any(|(what, _)| matches!(what, What::BlackHole { victim: net } if net.contains(victim)))
            };
            attack.victims.iter().filter(|(victim, _)| named(victim)).map(|(_, share)| share).sum()
        }
        // How much each source sends is not known: any effect will do.
        Kind::SourceBlackHole => 0.0,
        Kind::Scrub => 1.0,
    };
    attack.bps * share.min(1.0)
}
