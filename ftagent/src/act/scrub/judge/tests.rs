//! Every situation that an item can be in.

use std::time::Duration;

use super::*;

const PACE: Pace = Pace {
    moving: Duration::ZERO,
    steady: Duration::ZERO,
    idle: Duration::ZERO,
    activation: Duration::from_secs(600),
    removal: Duration::from_secs(600),
    drain: Duration::from_secs(900),
    hold: Duration::from_secs(1800),
    gap: Duration::from_secs(1200),
    grace: Duration::from_secs(120),
    first: Duration::ZERO,
    longest: Duration::ZERO,
};
const NOW: u64 = 1_000_000;

fn state(phase: Phase, age: u64) -> State {
    State { phase, ours: true, since: NOW - age, attempt: 7, vain: 0, missing: 0 }
}

fn sight(seen: &Seen) -> Sight<'_> {
    Sight { seen, now: NOW, pace: &PACE, diverts: true, waited: Duration::ZERO }
}

/// In short: what is done, and what is said of it.
fn short(verdict: &Verdict) -> (&'static str, &'static str) {
    let next = match &verdict.next {
        Move::Rest => "rest",
        Move::Note(state) => match state.phase {
            Phase::Asking => "asking",
            Phase::Asked => "asked",
            Phase::Present if state.missing > 0 => "missing",
            Phase::Present if !state.ours => "theirs",
            Phase::Present => "present",
            Phase::TakingBack => "taking back",
            Phase::Leaving => "leaving",
            Phase::TakenBack => "taken back",
        },
        Move::Forget => "forget",
        Move::Ask(Some(7)) => "ask again",
        Move::Ask(Some(_)) => "ask wrongly",
        Move::Ask(None) => "ask",
        Move::TakeBack => "take back",
    };
    let standing = match &verdict.standing {
        Standing::Asked => "asked",
        Standing::Present => "present",
        Standing::Refused(_) => "refused",
        Standing::Failed(_) => "failed",
        Standing::TakenBack => "taken back",
    };
    (next, standing)
}

#[test]
fn what_is_wanted() {
    let barred = Seen::Barred("locked".to_owned());
    let unread = Seen::Unread("status 400".to_owned());
    let answered = State { attempt: 0, ..state(Phase::TakingBack, 5) };
    let missing = State { missing: 1, ..state(Phase::Present, 5000) };
    let theirs = State { ours: false, ..state(Phase::Present, 5000) };
    let theirs_missing = State { missing: 1, ..theirs.clone() };
    let rows: &[(Option<State>, &Seen, (&str, &str))] = &[
        (None, &Seen::Absent, ("ask", "asked")),
        // Somebody else was faster: it is not ours to take back.
        (None, &Seen::Present, ("theirs", "present")),
        // It is busy: that is no failure before its time is over.
        (None, &Seen::Going, ("rest", "asked")),
        (Some(state(Phase::Asked, 599)), &Seen::Going, ("rest", "asked")),
        (Some(state(Phase::Asked, 601)), &Seen::Going, ("rest", "failed")),
        // It does not tell of this one: the answer to asking tells, and what was there is not thought to be gone.
        (None, &unread, ("ask", "asked")),
        (Some(state(Phase::Asking, 1)), &unread, ("ask again", "asked")),
        (Some(state(Phase::Asked, 5)), &unread, ("rest", "asked")),
        (Some(state(Phase::Asked, 601)), &unread, ("rest", "failed")),
        (Some(state(Phase::Present, 5000)), &unread, ("rest", "failed")),
        (Some(state(Phase::TakenBack, 5)), &unread, ("rest", "taken back")),
        (Some(state(Phase::Leaving, 1201)), &unread, ("ask", "asked")),
        // Somebody switched it off: it is taken back, and stays known as ours until it is gone.
        (Some(state(Phase::Present, 5000)), &Seen::Listed, ("rest", "taken back")),
        (Some(state(Phase::Asked, 5)), &Seen::Listed, ("asked", "asked")),
        (Some(state(Phase::Asked, 601)), &Seen::Listed, ("rest", "failed")),
        // The provider does it by itself: when that ends it is asked for, and what was ours is taken back.
        (None, &Seen::Lent, ("rest", "present")),
        (Some(state(Phase::Asked, 5)), &Seen::Lent, ("present", "present")),
        (Some(state(Phase::Present, 5)), &Seen::Lent, ("rest", "present")),
        (Some(state(Phase::Leaving, 5)), &Seen::Lent, ("rest", "present")),
        (None, &barred, ("rest", "refused")),
        // The answer was lost: the same request again, or what came of it.
        (Some(state(Phase::Asking, 1)), &Seen::Absent, ("ask again", "asked")),
        (Some(state(Phase::Asking, 1)), &Seen::Present, ("present", "present")),
        (Some(state(Phase::Asking, 1)), &Seen::Coming, ("asked", "asked")),
        (Some(state(Phase::Asked, 599)), &Seen::Absent, ("rest", "asked")),
        // It said yes, and nothing came of it.
        (Some(state(Phase::Asked, 601)), &Seen::Absent, ("ask", "failed")),
        (Some(State { vain: 1, ..state(Phase::Asked, 5) }), &Seen::Absent, ("rest", "failed")),
        (Some(state(Phase::Asked, 601)), &Seen::Coming, ("rest", "failed")),
        (Some(state(Phase::Asked, 5)), &barred, ("forget", "refused")),
        (Some(state(Phase::Present, 5000)), &Seen::Present, ("rest", "present")),
        // One look that misses it is not enough.
        (Some(state(Phase::Present, 5000)), &Seen::Absent, ("missing", "asked")),
        (Some(missing.clone()), &Seen::Absent, ("taken back", "taken back")),
        (Some(missing.clone()), &barred, ("taken back", "taken back")),
        (Some(missing), &Seen::Present, ("present", "present")),
        (Some(theirs), &Seen::Present, ("rest", "present")),
        (Some(theirs_missing), &Seen::Absent, ("taken back", "taken back")),
        (Some(state(Phase::TakenBack, 5)), &Seen::Absent, ("rest", "taken back")),
        (Some(state(Phase::TakenBack, 5)), &Seen::Present, ("theirs", "present")),
        // Wanted again: not before the pause is over.
        (Some(state(Phase::Leaving, 5)), &Seen::Absent, ("rest", "failed")),
        (Some(state(Phase::Leaving, 1201)), &Seen::Absent, ("ask", "asked")),
        (Some(state(Phase::Leaving, 5)), &Seen::Present, ("rest", "asked")),
        (Some(state(Phase::Leaving, 601)), &Seen::Present, ("present", "present")),
        // What took it back may still be on its way; if it arrives, nobody's hand did it.
        (Some(state(Phase::TakingBack, 5)), &Seen::Present, ("rest", "asked")),
        (Some(state(Phase::TakingBack, 121)), &Seen::Present, ("present", "present")),
        (Some(answered), &Seen::Present, ("present", "present")),
        (Some(state(Phase::TakingBack, 1201)), &Seen::Absent, ("ask", "asked")),
    ];
    for (state, seen, expected) in rows {
        assert_eq!(short(&wanted(state.as_ref(), sight(seen))), *expected, "{state:?}, {seen:?}");
    }
}

#[test]
fn what_nobody_wants_any_more() {
    let barred = Seen::Barred("locked".to_owned());
    let unread = Seen::Unread("status 400".to_owned());
    let missing = State { missing: 1, ..state(Phase::Present, 5000) };
    let theirs = State { ours: false, ..state(Phase::Present, 5000) };
    let rows: &[(State, &Seen, (&str, bool))] = &[
        // What others made, or took back, is left alone.
        (theirs, &Seen::Present, ("forget", false)),
        (state(Phase::TakenBack, 5), &Seen::Present, ("forget", false)),
        // A request whose answer was lost may still take effect.
        (state(Phase::Asking, 60), &Seen::Absent, ("rest", true)),
        (state(Phase::Asking, 121), &Seen::Absent, ("forget", false)),
        (state(Phase::Asking, 60), &Seen::Present, ("rest", true)),
        (state(Phase::Asking, 1801), &Seen::Present, ("take back", true)),
        (state(Phase::Asked, 60), &Seen::Absent, ("rest", true)),
        (state(Phase::Asked, 1801), &Seen::Absent, ("take back", true)),
        (state(Phase::Present, 60), &Seen::Present, ("rest", true)),
        (state(Phase::Present, 1801), &Seen::Present, ("take back", true)),
        (state(Phase::Present, 1801), &Seen::Absent, ("missing", true)),
        (missing, &Seen::Absent, ("forget", false)),
        (state(Phase::TakingBack, 1), &Seen::Present, ("take back", true)),
        (state(Phase::TakingBack, 1), &Seen::Absent, ("leaving", true)),
        (state(Phase::TakingBack, 1), &Seen::Going, ("rest", true)),
        (state(Phase::Present, 1801), &Seen::Lent, ("take back", true)),
        (state(Phase::TakingBack, 1), &Seen::Lent, ("leaving", true)),
        (state(Phase::Leaving, 1201), &Seen::Lent, ("forget", false)),
        (state(Phase::Leaving, 5), &Seen::Present, ("rest", true)),
        // It does not tell of it: it is taken back all the same, and a yes to that is believed.
        (state(Phase::Asked, 1801), &unread, ("take back", true)),
        (state(Phase::Present, 1801), &unread, ("take back", true)),
        (state(Phase::TakingBack, 1), &unread, ("take back", true)),
        (state(Phase::Leaving, 1201), &unread, ("forget", false)),
        // Switched off there it would have an effect again when somebody switches it on.
        (state(Phase::Present, 1801), &Seen::Listed, ("take back", true)),
        (state(Phase::TakingBack, 1), &Seen::Listed, ("take back", true)),
        // It said that it is gone, and it is not.
        (state(Phase::Leaving, 601), &Seen::Present, ("take back", true)),
        (state(Phase::Leaving, 601), &Seen::Going, ("rest", true)),
        // Gone at the provider, not yet on the Internet; then kept in mind for the pause.
        (state(Phase::Leaving, 5), &Seen::Absent, ("rest", true)),
        (state(Phase::Leaving, 901), &barred, ("rest", false)),
        (state(Phase::Leaving, 1201), &Seen::Absent, ("forget", false)),
    ];
    for (state, seen, expected) in rows {
        let verdict = unwanted(state, sight(seen));
        assert_eq!((short(&verdict).0, verdict.leaving), *expected, "{state:?}, {seen:?}");
    }
    let verdict = unwanted(&state(Phase::Leaving, 601), sight(&Seen::Present));
    assert!(verdict.trouble.unwrap().contains("11 min ago"));
}

#[test]
fn a_provider_that_is_busy_for_long_has_failed() {
    let long = Sight { waited: Duration::from_secs(601), ..sight(&Seen::Going) };
    assert_eq!(short(&wanted(None, long)), ("rest", "failed"));
    assert_eq!(short(&wanted(Some(&state(Phase::Leaving, 5)), long)), ("rest", "failed"));
    assert_eq!(short(&wanted(Some(&state(Phase::Leaving, 5)), sight(&Seen::Going))), ("rest", "asked"));
}

#[test]
fn a_clock_that_was_set_back_only_makes_us_wait() {
    let future = State { since: NOW + 10_000, ..state(Phase::Present, 0) };
    assert_eq!(short(&unwanted(&future, sight(&Seen::Present))).0, "rest");
    let filter = Sight { diverts: false, ..sight(&Seen::Present) };
    assert_eq!(short(&unwanted(&future, filter)).0, "take back", "only what leads traffic elsewhere is held");
}
