//! What is to be done about one item, from what is wanted, what was asked for, and what is there. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Pace, Seen};
use crate::decide::ladder::Standing;

/// How often something must be found missing before we believe it.
const MISSING: u8 = 2;

/// How far we are with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// A request is under way, or its answer was lost.
    Asking,
    /// The provider said yes.
    Asked,
    /// It was there.
    Present,
    /// A request to take it back is under way, or its answer was lost.
    TakingBack,
    /// The provider said that it is gone, or going.
    Leaving,
    /// It was there, and somebody else took it back.
    TakenBack,
}

/// What the journal knows of an item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct State {
    /// How far we are.
    pub phase: Phase,
    /// Whether we made it.
    pub ours: bool,
    /// When the phase began, seconds since 1970.
    pub since: u64,
    /// The number of the last attempt at it; that of a later one is larger. 0: it was answered, and the next one
    /// is another.
    pub attempt: u64,
    /// How often a yes came to nothing.
    #[serde(default)]
    pub vain: u8,
    /// How often in a row it was found missing.
    #[serde(default)]
    pub missing: u8,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Nothing.
    Rest,
    /// To remember this.
    Note(State),
    /// To forget it.
    Forget,
    /// To ask for it: again, as the attempt of this number, where an answer was lost; else afresh.
    Ask(Option<u64>),
    /// To take it back.
    TakeBack,
}

/// What is to be done, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub next: Move,
    /// How it is, where it is wanted.
    pub standing: Standing,
    /// Whether it is there though it is not wanted.
    pub leaving: bool,
    /// What is not as it should be though nobody wants it.
    pub trouble: Option<String>,
    /// Whether it is worth looking again soon.
    pub moving: bool,
}

/// What was found, when, and how patient we are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub seen: &'a Seen,
    /// Seconds since 1970.
    pub now: u64,
    pub pace: &'a Pace,
    /// Whether the item leads traffic elsewhere.
    pub diverts: bool,
    /// For how long it has been wanted in vain.
    pub waited: Duration,
}

impl Sight<'_> {
    fn age(&self, state: &State) -> Duration {
        // A clock that was set back makes it young, never older than it is.
        Duration::from_secs(self.now.saturating_sub(state.since))
    }

    fn hold(&self) -> Duration {
        if self.diverts { self.pace.hold } else { Duration::ZERO }
    }

    fn drain(&self) -> Duration {
        if self.diverts { self.pace.drain } else { Duration::ZERO }
    }

    fn gap(&self) -> Duration {
        if self.diverts { self.pace.gap.max(self.pace.drain) } else { Duration::ZERO }
    }

    /// Returns what to say of something that the provider is busy with: its time is not over before it was given.
    fn busy(&self, why: &str) -> Standing {
        if self.waited <= self.pace.activation { Standing::Asked } else { Standing::Failed(why.to_owned()) }
    }

    fn fresh(&self, phase: Phase, ours: bool) -> State {
        State { phase, ours, since: self.now, attempt: 0, vain: 0, missing: 0 }
    }

    fn turned(&self, state: &State, phase: Phase) -> State {
        State { phase, missing: 0, ..state.clone() }
    }
}

fn verdict(next: Move, standing: Standing) -> Verdict {
    let moving = !matches!(standing, Standing::Present | Standing::TakenBack | Standing::Refused(_));
    Verdict { next, standing, leaving: false, trouble: None, moving }
}

/// Returns a duration as people say it.
fn minutes(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

/// Decides about an item that is wanted.
pub(super) fn wanted(state: Option<&State>, sight: Sight<'_>) -> Verdict {
    let Some(state) = state else { return unknown(sight) };
    match state.phase {
        Phase::Asking | Phase::Asked if state.ours => asked(state, sight),
        Phase::Asking | Phase::Asked | Phase::Present => present(state, sight),
        Phase::TakenBack => match sight.seen {
            // It is back, and not by us.
            Seen::Present | Seen::Coming => verdict(Move::Note(sight.fresh(Phase::Present, false)), Standing::Present),
            Seen::Lent => verdict(Move::Rest, Standing::Present),
            _ => verdict(Move::Rest, Standing::TakenBack),
        },
        Phase::TakingBack | Phase::Leaving => returning(state, sight),
    }
}

/// Nothing is known of it yet.
fn unknown(sight: Sight<'_>) -> Verdict {
    match sight.seen {
        // Of one that it does not tell of, the answer to asking for it tells.
        Seen::Absent | Seen::Listed | Seen::Unread(_) => verdict(Move::Ask(None), Standing::Asked),
        // Somebody else had the same thought; it is theirs.
        Seen::Present => verdict(Move::Note(sight.fresh(Phase::Present, false)), Standing::Present),
        // Nobody's to keep in mind: when it ends by itself it is asked for.
        Seen::Lent => verdict(Move::Rest, Standing::Present),
        Seen::Coming => verdict(Move::Note(sight.fresh(Phase::Asked, false)), Standing::Asked),
        Seen::Going => {
            let why = "somebody is taking it away just now; it is asked for when it is gone";
            verdict(Move::Rest, sight.busy(why))
        }
        Seen::Barred(why) => verdict(Move::Rest, Standing::Refused(why.clone())),
    }
}

/// It was asked for and not there yet.
fn asked(state: &State, sight: Sight<'_>) -> Verdict {
    let age = sight.age(state);
    let waited = minutes(age);
    match sight.seen {
        Seen::Present | Seen::Lent => {
            let state = State { vain: 0, ..sight.turned(state, Phase::Present) };
            verdict(Move::Note(state), Standing::Present)
        }
        Seen::Coming | Seen::Listed if age <= sight.pace.activation => {
            verdict(Move::Note(sight.turned(state, Phase::Asked)), Standing::Asked)
        }
        Seen::Coming => {
            let why = format!("the provider has been at it for {waited} and is not done; look at its status page");
            verdict(Move::Rest, Standing::Failed(why))
        }
        Seen::Listed => {
            let why = "the provider lists it, and somebody switched it off there: switch it on, or remove it";
            verdict(Move::Rest, Standing::Failed(why.to_owned()))
        }
        // The same again: nobody knows whether the request before arrived.
        Seen::Absent | Seen::Unread(_) if state.phase == Phase::Asking => {
            verdict(Move::Ask(Some(state.attempt)), vainly(state, None))
        }
        Seen::Absent if age <= sight.pace.activation => verdict(Move::Rest, vainly(state, None)),
        Seen::Absent => verdict(Move::Ask(None), vainly(state, Some(&waited))),
        Seen::Unread(_) if age <= sight.pace.activation => verdict(Move::Rest, vainly(state, None)),
        Seen::Unread(why) => verdict(Move::Rest, Standing::Failed(why.clone())),
        Seen::Going if age <= sight.pace.activation => verdict(Move::Rest, vainly(state, None)),
        Seen::Going => verdict(Move::Rest, Standing::Failed("it is being taken away again".to_owned())),
        Seen::Barred(why) => verdict(Move::Forget, Standing::Refused(why.clone())),
    }
}

/// Returns what to say of a yes: nothing special, unless one came to nothing before.
fn vainly(state: &State, waited: Option<&str>) -> Standing {
    let vain = u32::from(state.vain) + u32::from(waited.is_some());
    if vain == 0 {
        return Standing::Asked;
    }
    Standing::Failed(format!(
        "the provider said yes {vain} time(s) and nothing came of it{}; it is asked again: look there by hand",
        waited.map(|waited| format!(" within {waited}")).unwrap_or_default()
    ))
}

/// It was there, or is somebody else's.
fn present(state: &State, sight: Sight<'_>) -> Verdict {
    match sight.seen {
        Seen::Present | Seen::Lent => {
            let healthy = state.phase == Phase::Present && state.missing == 0;
            let note = if healthy { Move::Rest } else { Move::Note(sight.turned(state, Phase::Present)) };
            verdict(note, Standing::Present)
        }
        Seen::Coming => verdict(Move::Rest, Standing::Asked),
        Seen::Unread(why) => verdict(Move::Rest, Standing::Failed(why.clone())),
        // It stays known as ours, so that what is switched off there goes in the end.
        Seen::Listed => verdict(Move::Rest, Standing::TakenBack),
        Seen::Absent | Seen::Going | Seen::Barred(_) => {
            let missing = state.missing.saturating_add(1);
            if missing < MISSING {
                return verdict(Move::Note(State { missing, ..state.clone() }), Standing::Asked);
            }
            let gone = State { since: sight.now, ..sight.turned(state, Phase::TakenBack) };
            verdict(Move::Note(gone), Standing::TakenBack)
        }
    }
}

/// It was being taken back, and is wanted again.
fn returning(state: &State, sight: Sight<'_>) -> Verdict {
    let age = sight.age(state);
    match sight.seen {
        Seen::Lent => verdict(Move::Rest, Standing::Present),
        // The request to take it back, whose answer was lost, may still take effect: that is nobody's hand.
        Seen::Present if state.phase == Phase::TakingBack && state.attempt != 0 && age <= sight.pace.grace => {
            verdict(Move::Rest, Standing::Asked)
        }
        Seen::Present if state.phase == Phase::TakingBack || age > sight.pace.removal => {
            let back = State { since: sight.now, ..sight.turned(state, Phase::Present) };
            verdict(Move::Note(back), Standing::Present)
        }
        Seen::Present | Seen::Coming => verdict(Move::Rest, Standing::Asked),
        Seen::Listed | Seen::Unread(_) if age <= sight.pace.grace => verdict(Move::Rest, Standing::Asked),
        Seen::Absent | Seen::Listed | Seen::Unread(_) if age < sight.gap() => {
            let left = minutes(sight.gap().saturating_sub(age));
            let why = format!(
                "it was taken back {} ago; it is asked for again in {left}, so that it does not flap",
                minutes(age)
            );
            verdict(Move::Rest, Standing::Failed(why))
        }
        Seen::Absent | Seen::Listed | Seen::Unread(_) => verdict(Move::Ask(None), Standing::Asked),
        Seen::Going => verdict(Move::Rest, sight.busy("it is still leaving; it is asked for when it is gone")),
        Seen::Barred(why) => verdict(Move::Forget, Standing::Refused(why.clone())),
    }
}

/// Decides about an item that nobody wants any more.
pub(super) fn unwanted(state: &State, sight: Sight<'_>) -> Verdict {
    let rest = |next, leaving| Verdict { next, standing: Standing::Asked, leaving, trouble: None, moving: leaving };
    // What is not ours is left alone.
    if !state.ours || state.phase == Phase::TakenBack {
        return rest(Move::Forget, false);
    }
    let age = sight.age(state);
    // Behind what the provider does by itself ours may still be there, until it was taken back.
    let lent = *sight.seen == Seen::Lent && matches!(state.phase, Phase::TakingBack | Phase::Leaving);
    // A provider that said that it is gone, and does not tell of it, is believed.
    let untold = matches!(sight.seen, Seen::Unread(_)) && state.phase == Phase::Leaving;
    let gone = lent || untold || matches!(sight.seen, Seen::Absent | Seen::Barred(_));
    match state.phase {
        Phase::Asking if gone && age >= sight.pace.grace => rest(Move::Forget, false),
        Phase::Asking if gone => rest(Move::Rest, true),
        Phase::Present if gone && state.missing + 1 >= MISSING => rest(Move::Forget, false),
        Phase::Present if gone => rest(Move::Note(State { missing: state.missing + 1, ..state.clone() }), true),
        Phase::Asking | Phase::Asked | Phase::Present if age < sight.hold() => Verdict {
            // It is long until then, and nothing else is to happen.
            moving: false,
            ..rest(Move::Rest, true)
        },
        Phase::Asking | Phase::Asked | Phase::Present => rest(Move::TakeBack, true),
        Phase::TakingBack if gone => {
            let left = State { since: sight.now, ..sight.turned(state, Phase::Leaving) };
            rest(Move::Note(left), true)
        }
        Phase::TakingBack if *sight.seen == Seen::Going => rest(Move::Rest, true),
        Phase::TakingBack => rest(Move::TakeBack, true),
        Phase::Leaving | Phase::TakenBack => left(age, gone, sight),
    }
}

/// The provider said that it is gone.
fn left(age: Duration, gone: bool, sight: Sight<'_>) -> Verdict {
    let rest = |next, leaving| Verdict { next, standing: Standing::Asked, leaving, trouble: None, moving: leaving };
    if gone {
        let over = age >= sight.gap();
        let draining = age < sight.drain();
        let next = if over { Move::Forget } else { Move::Rest };
        // While it drains there is nothing to be seen at the provider.
        return Verdict { moving: false, ..rest(next, draining && !over) };
    }
    if age <= sight.pace.removal {
        return rest(Move::Rest, true);
    }
    let why = format!("the provider said {} ago that it is gone, and it is there; it is asked again", minutes(age));
    let again = if *sight.seen == Seen::Going { Move::Rest } else { Move::TakeBack };
    Verdict { trouble: Some(why), ..rest(again, true) }
}

#[cfg(test)]
mod tests;
