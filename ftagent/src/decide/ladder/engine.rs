//! The ladder's state, and what a tick does with it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{
    Aim, Approve, Kind, LadderMode, Report, Rung, Scene, Standing, Step, Turn, Uplink, Upstream, What,
    forecast::Growth,
    link::Track,
    safety::{Gist, Wish},
};
use crate::{
    decide::{Now, analyst::Seen, flows::Flows, mitigate::Exempt},
    rule::Action,
};

pub(super) const SECOND_NS: u64 = 1_000_000_000;
const DAY_NS: u64 = 86_400 * SECOND_NS;
/// An attack is over when there was no incident for so long, and nothing of ours is upstream …
const OVER_NS: u64 = 60 * SECOND_NS;
/// … and so long after an operator said no in it.
pub(super) const OVER_AFTER_WORD_NS: u64 = 600 * SECOND_NS;
/// The longest probe, and the longest pause of an attack that is reckoned with, nanoseconds.
pub(super) const LONGEST_NS: u64 = 180 * SECOND_NS;
/// What arrives is smoothed over about this time, nanoseconds.
const SMOOTH_NS: f64 = 700e6;

/// Why a rung is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bar {
    /// An operator denied it.
    Denied,
    /// An operator took it back through us.
    Withdrawn,
    /// Somebody took it back where it was.
    TakenBack,
    /// The plane refused.
    Refused,
    /// The plane said yes, and nothing changed.
    Useless,
}

impl Bar {
    /// Returns whether it is a person's word, which holds for the whole attack.
    pub const fn is_word(self) -> bool {
        matches!(self, Self::Denied | Self::Withdrawn | Self::TakenBack)
    }
}

/// Where a rung is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Not needed.
    #[default]
    Idle,
    /// Waits for approval.
    Asking,
    /// Would have been asked for.
    Dry,
    /// Asked for.
    Up {
        /// Since when it is what it is now.
        since_ns: u64,
        /// Since when it was seen there, whatever its plane said of it later: see [`State::health`].
        present_ns: Option<u64>,
        /// Whether it was looked whether it helps.
        judged: bool,
        /// It was told that it takes too long.
        late: bool,
    },
    /// A little is let through.
    Trickle {
        /// Since when that is asked for.
        since_ns: u64,
        /// Since when it is so.
        seen_ns: Option<u64>,
    },
    /// Taken back, and watched.
    Away {
        /// Since when nothing of it is there any more.
        since_ns: u64,
        /// When the probe began, moved on by the time in which nothing could be seen.
        probe_ns: u64,
    },
    /// Not used.
    Barred {
        /// Why.
        bar: Bar,
        /// Until when; absent: for the rest of the attack.
        until_ns: Option<u64>,
    },
}

/// What a plane says of all that a rung asks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Health {
    /// It is there, and the plane has no trouble: what arrives tells whether it helps.
    pub well: bool,
    /// Since when it is so, or is not.
    pub since_ns: u64,
}

/// A rung that is looked at in a tick.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// Its place.
    pub i: usize,
    pub rung: &'a Rung,
    pub scene: &'a Scene<'a>,
    /// Why it is needed now; absent: it is not.
    pub needed: Option<&'a str>,
}

/// A rung in an attack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub name: String,
    /// What operators call it; 0 until there is something to say.
    pub id: u32,
    pub stage: Stage,
    pub since: Now,
    pub why: String,
    /// An operator has approved it in this attack.
    pub approved: bool,
    /// What is, or would be, asked for; what was, where it is barred.
    pub steps: Vec<Step>,
    /// The rules that filters came from, by the numbers of their steps.
    pub rules: BTreeMap<u32, u32>,
    /// What filters do when they are not probed, by the numbers of their steps; absent: what they do now.
    #[serde(default)]
    pub actions: BTreeMap<u32, Action>,
    /// Since when the attack does not name a step any more, by its number.
    #[serde(default)]
    pub unnamed: BTreeMap<u32, u64>,
    #[serde(default)]
    pub health: Health,
    /// What people took back one by one.
    pub spared: Vec<What>,
    /// What the plane does not take. Another filter of the same packets it may.
    #[serde(default)]
    pub refused: Vec<What>,
    pub announcements: u32,
    pub failed_probes: u32,
    pub hold_ns: u64,
    /// When the probe began after which it came back, or when a part of it did.
    pub left_ns: Option<u64>,
    /// Bits a second of what it is about, when it was asked for, and now.
    pub before_bps: f64,
    pub arriving_bps: f64,
    /// Times that it did not help.
    pub useless: u32,
    /// Since when it would not be climbed any more.
    pub unneeded_ns: Option<u64>,
    /// The plane does not limit rates.
    pub no_trickle: bool,
}

impl State {
    /// Returns whether its steps are wanted of the plane.
    pub const fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Up { .. } | Stage::Trickle { .. })
    }

    /// Returns whether a probe is under way.
    pub const fn is_probed(&self) -> bool {
        matches!(self.stage, Stage::Trickle { .. } | Stage::Away { .. })
    }

    /// Returns whether people took back what a step would do, or a part of it, or the plane does not take it.
    pub fn is_spared(&self, what: &What) -> bool {
        self.refused.contains(what) || self.spared.iter().any(|spared| what.covers(spared))
    }

    /// Takes steps out, with what is known of them.
    pub fn drop_steps(&mut self, gone: &[u32]) {
        self.steps.retain(|step| !gone.contains(&step.id));
        self.rules.retain(|step, _| !gone.contains(step));
        self.actions.retain(|step, _| !gone.contains(step));
        self.unnamed.retain(|step, _| !gone.contains(step));
    }

    /// Goes elsewhere.
    pub fn go(&mut self, stage: Stage, now: Now, why: impl Into<String>) {
        (self.stage, self.since, self.why, self.unneeded_ns) = (stage, now, why.into(), None);
        self.unnamed.clear();
    }
}

/// An attack, as far as it concerns the ladder: from the first incident until all of it has come back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Climb {
    pub incident: String,
    pub began: Now,
    pub states: Vec<State>,
    /// An operator took something back: whatever is above is asked for first.
    pub hands_off: bool,
    /// The longest time after which it came back when it was thought over, up to [`LONGEST_NS`].
    pub pause_ns: u64,
    /// Since when there is no incident.
    pub quiet_ns: Option<u64>,
}

impl Climb {
    /// An operator is at work: whatever is announced anew in this attack is asked for first.
    pub fn leave_alone(&mut self) {
        self.hands_off = true;
        self.states.iter_mut().for_each(|state| state.approved = false);
    }

    /// It came back after so long.
    pub fn note_pause(&mut self, pause_ns: u64) {
        self.pause_ns = self.pause_ns.max(pause_ns.min(LONGEST_NS));
    }
}

/// What is counted for good.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Totals {
    pub black_hole_ns: u64,
    pub escalations: u64,
    pub probes: u64,
    pub failed_probes: u64,
}

/// A move, for events.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// The incident; empty where there is none.
    pub incident: String,
    /// The rung.
    pub rung: String,
    /// What kind of move.
    pub turn: Turn,
    /// What and why.
    pub what: String,
}

/// When filters were made, of what, and what came of it.
pub(super) type Made = (u64, Gist, Result<Vec<Wish>, String>);

/// The state machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ladder {
    pub(super) upstream: Upstream,
    pub(super) link: Track,
    /// How the uplink fills during this attack, and of which span and attack that is.
    pub(super) growth: Option<Growth>,
    pub(super) foreseen: (u64, u64),
    /// Packets lost a second and the busiest CPU's share, smoothed.
    pub(super) strain: Option<(f64, f64)>,
    pub(super) climb: Option<Climb>,
    pub(super) reports: BTreeMap<String, Report>,
    pub(super) steps: Vec<Step>,
    pub(super) generation: u64,
    pub(super) last_id: u32,
    /// When rungs were climbed without an operator, by name, in the last day.
    pub(super) climbed: BTreeMap<String, VecDeque<u64>>,
    pub(super) totals: Totals,
    /// Nothing may be asked for now: the mode, or what is known.
    pub(super) dry: bool,
    /// What is known of the attack.
    pub aim: Aim,
    pub(super) now: Now,
    /// What no step may match.
    pub(super) exempt: Exempt,
    /// Changes with what steps may be about; and of which such time they were looked at.
    pub(super) bounds: u64,
    pub(super) weeded: u64,
    /// What filters were made of last, by rung, and what came of it: making them takes long. Made anew where it is
    /// missing, it is the same.
    #[serde(skip)]
    pub(super) made: BTreeMap<String, Made>,
}

impl Ladder {
    /// Returns what is wanted of all planes, and a number that changes whenever that does.
    pub fn ascent(&self) -> (&[Step], u64) {
        (&self.steps, self.generation)
    }

    /// Returns whether something is upstream, asked for, or probed: it is looked at at every tick then.
    pub fn is_awake(&self) -> bool {
        self.climb.is_some()
    }

    /// Returns whether there is anything that it could do.
    pub fn is_used(&self) -> bool {
        self.upstream.policy.mode != LadderMode::Off && !self.upstream.policy.rungs.is_empty()
    }

    /// Returns the policy, and what it may be about.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Takes a policy. Rungs of the same name go on.
    pub fn set(&mut self, upstream: Upstream) {
        if let Some(climb) = &mut self.climb {
            let mut old: BTreeMap<String, State> =
                std::mem::take(&mut climb.states).into_iter().map(|state| (state.name.clone(), state)).collect();
            climb.states = upstream.policy.rungs.iter().map(|rung| fresh(rung, &mut old)).collect();
        }
        self.upstream = upstream;
        self.bounds += 1;
        self.publish();
    }

    /// Takes in the packets of a tick that belong to the attack, see [`Aim`].
    pub fn note_aim<'a>(
        &mut self,
        attack: impl Iterator<Item = &'a Seen>,
        flows: &Flows,
        connections: bool,
        part: f64,
    ) {
        self.aim.note(attack, &self.upstream.space, flows, connections, part);
    }

    /// Takes a reading of the uplink.
    pub fn note_uplink(&mut self, now_ns: u64, uplink: Uplink) {
        self.link.note(now_ns, uplink);
    }

    /// Takes what planes found.
    pub fn note_reports(&mut self, reports: Vec<Report>) {
        for report in reports {
            self.reports.insert(report.plane.clone(), report);
        }
    }

    /// Takes in a tick, and returns the moves that follow from it.
    pub fn on_tick(&mut self, scene: &Scene<'_>) -> Vec<Move> {
        self.now = scene.now;
        if self.exempt != *scene.exempt {
            self.exempt.clone_from(scene.exempt);
            self.bounds += 1;
        }
        self.note_strain(scene);
        self.foresee(scene);
        let mut moves = Vec::new();
        self.hold_back(scene.acts, scene.keeps);
        if self.upstream.policy.mode == LadderMode::Off || self.upstream.policy.rungs.is_empty() {
            self.climb = None;
            self.publish();
            return moves;
        }
        self.begin(scene);
        let Some(mut climb) = self.climb.take() else { return moves };
        self.measure(&mut climb, scene);
        self.hear(&mut climb, &mut moves);
        self.weed(&mut climb, scene, &mut moves);
        self.ascend(&mut climb, scene, &mut moves);
        self.descend(&mut climb, scene, &mut moves);
        let idle = |state: &State| matches!(state.stage, Stage::Idle | Stage::Barred { .. });
        let word = climb.states.iter().any(|state| matches!(state.stage, Stage::Barred { bar, .. } if bar.is_word()));
        let quiet = if word { OVER_AFTER_WORD_NS } else { OVER_NS }.max(climb.pause_ns.saturating_mul(5) / 2);
        let over = climb.quiet_ns.is_some_and(|since| scene.now.mono_ns.saturating_sub(since) >= quiet);
        if !(over && climb.states.iter().all(idle)) {
            self.climb = Some(climb);
        }
        self.publish();
        moves
    }

    /// Sees whether anything may be asked for, see [`Scene::acts`] and [`Scene::keeps`].
    pub(super) fn hold_back(&mut self, acts: bool, keeps: bool) {
        // An earlier life knew what it did, though this one has still to learn.
        let kept = keeps && self.climb.iter().flat_map(|climb| &climb.states).any(State::is_live);
        self.dry = self.upstream.policy.mode == LadderMode::DryRun || !(acts || kept);
    }

    /// Begins with an incident, and follows whether there is one.
    fn begin(&mut self, scene: &Scene<'_>) {
        let now_ns = scene.now.mono_ns;
        if let Some(attack) = scene.attack {
            let rungs = &self.upstream.policy.rungs;
            let climb = self.climb.get_or_insert_with(|| Climb {
                began: scene.now,
                states: rungs.iter().map(|rung| fresh(rung, &mut BTreeMap::new())).collect(),
                ..Climb::default()
            });
            climb.incident.clone_from(&attack.id);
            climb.quiet_ns = None;
        } else if let Some(climb) = &mut self.climb {
            climb.quiet_ns.get_or_insert(now_ns);
        }
        for climbed in self.climbed.values_mut() {
            while climbed.front().is_some_and(|at| now_ns.saturating_sub(*at) >= DAY_NS) {
                climbed.pop_front();
            }
        }
    }

    fn note_strain(&mut self, scene: &Scene<'_>) {
        let Some((lost, softirq)) = scene.strain else { return };
        let (was_lost, was_softirq) = self.strain.unwrap_or((0.0, 0.0));
        // Half of what is new each time: a reading is made five times a second.
        self.strain = Some(((was_lost + lost) / 2.0, (was_softirq + softirq) / 2.0));
    }

    /// Follows what arrives of what rungs are about, and counts black holes.
    fn measure(&mut self, climb: &mut Climb, scene: &Scene<'_>) {
        let part = 1.0 - libm::exp(-(scene.elapsed_ns as f64) / SMOOTH_NS);
        for (state, rung) in climb.states.iter_mut().zip(&self.upstream.policy.rungs) {
            let watched = state.is_live() || state.is_probed();
            if !watched {
                continue;
            }
            let arriving = match rung.kind {
                // What comes back clean goes to the same prefix: the attack alone tells.
                Kind::Scrub => scene.attack.map_or(0.0, |attack| attack.bps),
                _ => state.steps.iter().map(|step| scene.traffic.arriving(&step.what)).sum(),
            };
            state.arriving_bps += (arriving - state.arriving_bps) * part;
            if rung.kind == Kind::BlackHole && state.is_live() && !self.dry {
                let victims = state.steps.len() as u64;
                self.totals.black_hole_ns += scene.elapsed_ns.saturating_mul(victims);
            }
        }
    }

    /// Returns how a plane found a step.
    pub(super) fn standing(&self, step: &Step) -> Option<&Standing> {
        let report = self.reports.get(&step.plane)?;
        report.steps.iter().find(|(id, _)| *id == step.id).map(|(_, standing)| standing)
    }

    /// Returns why a plane does not work as a whole.
    pub(super) fn trouble(&self, rung: &Rung) -> Option<&str> {
        self.reports.get(rung.plane())?.trouble.as_deref()
    }

    /// Returns how many announcements of ours its plane is still taking back.
    pub(super) fn leaving(&self, rung: &Rung) -> usize {
        self.reports.get(rung.plane()).map_or(0, |report| report.leaving)
    }

    /// Returns whether what a rung took back may be there yet: what is not seen behind it says nothing then.
    pub(super) fn may_linger(&self, rung: &Rung, state: &State) -> bool {
        let Some(report) = self.reports.get(rung.plane()) else { return false };
        // A plane that still speaks of the steps has not looked since.
        let listed = || state.steps.iter().any(|step| report.steps.iter().any(|(id, _)| *id == step.id));
        report.leaving > 0 || report.trouble.is_some() || listed()
    }

    /// Says why a rung asks before it is announced, beside its policy; `None` where it does not ask. `counts`: it
    /// is a climb that the cap is about.
    pub(super) fn asks(&self, climb: &Climb, state: &State, rung: &Rung, counts: bool) -> Option<String> {
        let today = self.climbed.get(&rung.name).map_or(0, VecDeque::len);
        match () {
            () if state.approved => None,
            () if rung.approve == Approve::Ask => Some(String::new()),
            () if counts && rung.per_day > 0 && today >= rung.per_day as usize => {
                Some(format!(" (its cap of {} in 24 hours is used up)", rung.per_day))
            }
            () if climb.hands_off => Some(" (something was taken back by hand in this attack)".to_owned()),
            () => None,
        }
    }

    /// Gives the steps of a rung new numbers: what planes said of the old ones is of the time before. Filters do what
    /// they did before they were probed, or limit for a probe.
    pub(super) fn renew(&mut self, state: &mut State, reason: Option<&str>, limit: Option<Action>) {
        let State { steps, rules, actions, .. } = state;
        let (old_rules, old_actions) = (std::mem::take(rules), std::mem::take(actions));
        for step in steps {
            let number = self.number();
            if let Some(rule) = old_rules.get(&step.id) {
                rules.insert(number, *rule);
            }
            if let What::Filter { action, .. } = &mut step.what {
                let own = old_actions.get(&step.id).copied().unwrap_or(*action);
                if limit.is_some() {
                    actions.insert(number, own);
                }
                *action = limit.unwrap_or(own);
            }
            step.id = number;
            if let Some(reason) = reason {
                step.reason = reason.to_owned();
            }
        }
    }

    /// Returns the next number.
    pub(super) fn number(&mut self) -> u32 {
        self.last_id = self.last_id.wrapping_add(1).max(1);
        self.last_id
    }

    /// Says what is wanted, from where the rungs are.
    pub(super) fn publish(&mut self) {
        let live = self.climb.iter().flat_map(|climb| &climb.states).filter(|state| state.is_live());
        let steps: Vec<Step> = match self.dry || self.upstream.policy.mode != LadderMode::On {
            true => Vec::new(),
            false => live.flat_map(|state| state.steps.iter().cloned()).collect(),
        };
        if steps != self.steps {
            self.steps = steps;
            self.generation += 1;
        }
    }
}

/// Returns the state of a rung: what it was, or that it is not needed.
fn fresh(rung: &Rung, old: &mut BTreeMap<String, State>) -> State {
    old.remove(&rung.name).unwrap_or_else(|| State {
        name: rung.name.clone(),
        hold_ns: rung.hold_ms * 1_000_000,
        ..State::default()
    })
}

/// Returns a move of a rung.
pub(super) fn moved(climb: &Climb, rung: &str, turn: Turn, what: impl Into<String>) -> Move {
    Move { incident: climb.incident.clone(), rung: rung.to_owned(), turn, what: what.into() }
}
