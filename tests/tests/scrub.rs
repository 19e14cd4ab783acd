//! Scrubbing centres and firewalls of others: every driver against a strict stand-in of its provider, in order and
//! out of order. What all drivers have in common is one table of providers times one of situations; what only one
//! of them has is in the module of its name.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "scrub/cloudflare.rs"]
mod cloudflare;
#[path = "scrub/ovh.rs"]
mod ovh;
#[path = "scrub/providers.rs"]
mod providers;
#[path = "scrub/rig.rs"]
mod rig;
#[path = "scrub/robot.rs"]
mod robot;
#[path = "scrub/webhook.rs"]
mod webhook;

use std::time::Duration;

use ftagent::decide::ladder::{Report, Standing};
use ftagent_tests::{
    http::Response,
    provider::{Fault, When},
};
use rig::{Rig, every};
use serde_json::json;

#[test]
fn what_is_wanted_comes_stays_and_goes() {
    every(|mut rig| {
        rig.peer.slow(2);
        let first = rig.look(true);
        assert_eq!(first, Standing::Asked, "{}: a provider takes time", rig.name);
        rig.until_present();
        assert_eq!(rig.peer.there(), 1, "{}", rig.name);
        // It is asked for once, however often it is looked at.
        let asked = rig.acts().len();
        (0..3).for_each(|_| assert_eq!(rig.look(true), Standing::Present, "{}", rig.name));
        assert_eq!(rig.acts().len(), asked, "{}", rig.name);
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
        let verbs: Vec<String> = rig.acts();
        let expected: Vec<&str> = rig.verbs.iter().copied().flat_map(|verb| [verb, "ok"]).collect();
        assert_eq!(verbs, expected, "{}: every act is written down before and after", rig.name);
        assert!(rig.journal_is_empty(), "{}: nothing is kept in mind", rig.name);
    });
}

#[test]
fn a_provider_that_fails_is_tried_again_and_nothing_is_made_twice() {
    let limited = || Response::json(429, &json!({ "message": "slow down" })).with("Retry-After", "0");
    let garbage = || Response::new(200, "<html>welcome</html>");
    let faults: Vec<(&str, Fault)> = vec![
        ("429", Fault::Answer(limited())),
        ("500", Fault::Answer(Response::empty(500))),
        ("503 with a page", Fault::Answer(Response::new(503, "<html>"))),
        ("garbage", Fault::Answer(garbage())),
        ("404 of a proxy", Fault::Answer(Response::new(404, "<html>"))),
        ("garbage, done", Fault::Done(garbage())),
        ("500, done", Fault::Done(Response::empty(500))),
        ("reset", Fault::Reset),
        ("reset, done", Fault::DoneThenReset),
    ];
    for (fault, what) in faults {
        every(|mut rig| {
            for when in [When::Any, When::Change] {
                let place = format!("{}: {fault} at {when:?}", rig.name);
                rig.peer.fail(when, what.clone());
                let seen = rig.history(|standing| *standing == Standing::Present);
                let bad = seen.iter().any(|standing| matches!(standing, Standing::Refused(_) | Standing::TakenBack));
                assert!(!bad, "{place}: {seen:?}");
                assert_eq!(rig.peer.there(), 1, "{place}");
                rig.peer.fail(when, what.clone());
                rig.until_gone();
                assert_eq!(rig.peer.there(), 0, "{place}");
            }
            assert!(rig.acts_are_paired(), "{}: {:?}", rig.name, rig.acts());
        });
    }
}

#[test]
fn a_provider_that_says_nothing_is_given_up_told_and_asked_again() {
    every(|mut rig| {
        rig.peer.fail(When::Change, Fault::Stall(Duration::from_secs(60)));
        let standing = rig.look(true);
        let Standing::Failed(why) = &standing else { panic!("{}: {standing:?}", rig.name) };
        // It is the client that gave up, long before the minute was over, and it says who and why.
        assert!(why.contains("does not answer: timeout"), "{}: {why}", rig.name);
        rig.until_present();
        rig.until_gone();
    });
}

#[test]
fn a_yes_that_comes_to_nothing_is_noticed() {
    every(|mut rig| {
        rig.peer.vain(1);
        rig.until(|standing| matches!(standing, Standing::Failed(why) if why.contains("said yes")));
        rig.until_present();
        rig.until_gone();
    });
}

#[test]
fn a_crash_between_request_and_record_leaves_nothing_behind() {
    every(|mut rig| {
        rig.peer.fail(When::Change, Fault::DoneThenReset);
        let standing = rig.look(true);
        assert!(matches!(standing, Standing::Failed(_)), "{}: {standing:?}", rig.name);
        rig.restart();
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
    });
}

#[test]
fn a_daemon_that_is_killed_before_it_hears_yes_finds_it_and_takes_it_back() {
    // This test again, as the process that is killed.
    rig::life();
    every(|mut rig| {
        rig.life_that_is_killed();
        // Of two changes to one end the first was done; the next life goes on from there, and makes nothing twice.
        rig.until_present();
        assert_eq!(rig.peer.there(), 1, "{}", rig.name);
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
        rig.life_that_is_killed();
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}: nobody wants it after the start", rig.name);
    });
}

#[test]
fn a_restart_changes_nothing_about_what_is_wanted() {
    every(|mut rig| {
        rig.until_present();
        let asked = rig.acts().len();
        rig.restart();
        assert_eq!(rig.look(true), Standing::Present, "{}", rig.name);
        assert_eq!(rig.acts().len(), asked, "{}: it is not asked for again", rig.name);
        rig.restart();
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
    });
}

#[test]
fn what_people_take_back_stays_away_and_what_they_made_stays() {
    every(|mut rig| {
        rig.until_present();
        let asked = rig.acts().len();
        rig.peer.by_hand(false);
        rig.until(|standing| *standing == Standing::TakenBack);
        rig.restart();
        assert_eq!(rig.look(true), Standing::TakenBack, "{}: a restart does not forget it", rig.name);
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
        rig.until_gone();
        assert!(rig.acts().len() <= asked + rig.verbs.len(), "{}: {:?}", rig.name, rig.acts());
        // Made by hand, wanted, and not wanted any more: it was never ours.
        let before = rig.acts().len();
        rig.peer.by_hand(true);
        rig.until_present();
        rig.until_gone();
        assert_eq!((rig.peer.there(), rig.acts().len()), (1, before), "{}", rig.name);
    });
}

#[test]
fn wrong_credentials_are_told_without_being_shown_and_read_again() {
    every(|mut rig| {
        let right = rig.swap_credentials(&rig.wrong_credentials());
        rig.restart();
        let standing = rig.look(true);
        let Standing::Failed(why) = &standing else { panic!("{}: {standing:?}", rig.name) };
        assert!(why.contains("credentials"), "{}: {why}", rig.name);
        let asked = rig.peer.requests().len();
        (0..20).for_each(|_| drop(rig.look(true)));
        assert!(rig.peer.requests().len() <= asked + 4, "{}: nobody is locked out", rig.name);
        rig.swap_credentials(&right);
        // Without a restart.
        rig.until_present();
        rig.until_gone();
    });
}

#[test]
fn no_secret_is_told_whatever_a_provider_repeats() {
    every(|mut rig| {
        rig.peer.fail(When::Any, Fault::Echo);
        rig.look(true);
        rig.rest();
        rig.peer.fail(When::Change, Fault::Echo);
        rig.until_present();
        rig.until_gone();
        let told = rig.told();
        assert!(told.contains("trouble of its own"), "{}: {told}", rig.name);
        for secret in &rig.secrets {
            assert!(!told.contains(secret), "{}: {secret} in {told}", rig.name);
        }
    });
}

#[test]
fn nothing_is_done_that_cannot_be_written_down() {
    every(|mut rig| {
        // The audit log refuses.
        rig.witness.refuse(true);
        let standing = rig.look(true);
        assert!(matches!(&standing, Standing::Failed(why) if why.contains("audit log")), "{}: {standing:?}", rig.name);
        rig.witness.refuse(false);
        // The journal cannot be written.
        rig.break_journal(true);
        let standing = rig.look(true);
        assert!(matches!(&standing, Standing::Failed(why) if why.contains("cannot be written")), "{standing:?}");
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
        rig.break_journal(false);
        rig.until_present();
        // What is there goes all the same.
        rig.break_journal(true);
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
    });
}

#[test]
fn a_provider_that_is_away_keeps_what_it_was_last_seen_to_have() {
    every(|mut rig| {
        rig.until_present();
        rig.peer.fail(When::Any, Fault::Answer(Response::empty(503)));
        let report = rig.report(true);
        assert_eq!(report.steps.first().map(|(_, standing)| standing), Some(&Standing::Present), "{}", rig.name);
        assert!(report.trouble.is_some_and(|why| why.contains("trouble of its own")), "{}", rig.name);
        rig.rest();
        rig.until_gone();
    });
}

#[test]
fn an_hour_without_the_provider_costs_nothing_but_the_hour() {
    const HOUR: Duration = Duration::from_secs(3600);
    every(|mut rig| {
        // While nothing is wanted: what is wanted then is asked for as soon as it is answered.
        rig.peer.down(Some(Response::empty(503)));
        rig.for_long(false, HOUR);
        let asked = rig.peer.requests().len();
        let seen = rig.for_long(true, HOUR);
        assert!(seen.iter().all(|report| matches!(report.steps[0].1, Standing::Failed(_))), "{}: {seen:?}", rig.name);
        assert!(rig.peer.requests().len() - asked < 40, "{}: it is left in peace", rig.name);
        rig.peer.down(None);
        let seen = rig.for_long(true, HOUR / 6);
        assert_eq!(seen.last().unwrap().steps[0].1, Standing::Present, "{}", rig.name);
        // While it is there: it is taken to be there, and nothing is done.
        let acts = rig.acts().len();
        rig.peer.down(Some(Response::empty(503)));
        let seen = rig.for_long(true, HOUR);
        let well = |report: &Report| report.steps[0].1 == Standing::Present && report.trouble.is_some();
        assert!(seen.iter().all(well), "{}: {seen:?}", rig.name);
        // While it is to go: it is told that it is there still, and goes in the end.
        let seen = rig.for_long(false, HOUR);
        assert!(seen.iter().all(|report| report.leaving > 0), "{}: {seen:?}", rig.name);
        assert_eq!((rig.acts().len(), rig.peer.there()), (acts, 1), "{}", rig.name);
        rig.restart();
        rig.peer.down(None);
        rig.until_gone();
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
    });
}

#[test]
fn a_step_does_not_wait_for_the_next_try_at_something_else() {
    every(|mut rig| {
        rig.peer.down(Some(Response::empty(503)));
        rig.for_long(false, Duration::from_secs(3600));
        rig.report(false);
        rig.peer.down(None);
        rig.look(true);
        assert!(rig.acts().contains(&"ok".to_owned()), "{}: it is asked for at once", rig.name);
    });
}

#[test]
fn a_clock_that_was_ahead_does_not_hold_things_until_then() {
    every(|mut rig| {
        rig.pass(Duration::from_secs(10 * 365 * 86400));
        rig.until_present();
        // It is set right, and the daemon is started again.
        rig.set_back();
        rig.restart();
        rig.for_long(false, Duration::from_secs(3600));
        assert_eq!(rig.peer.there(), 0, "{}", rig.name);
    });
}

#[test]
fn what_a_provider_cannot_do_is_refused_without_asking_it() {
    for (plane, provider, rows) in providers::REFUSALS {
        let rig = Rig::of(plane, provider);
        for (what, part) in *rows {
            let why = rig.refusal(&providers::what(what));
            assert!(why.contains(part), "{plane}: {what}: {why}");
        }
        assert_eq!(rig.peer.requests().len(), 0, "{plane}");
    }
}
