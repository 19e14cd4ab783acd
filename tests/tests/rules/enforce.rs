//! The enforcer: wanted rules are in the kernel, keep their slots, and their counts are told.

use ftagent::{
    act::enforcer::{Enforcer, Jiffies},
    bpf::testrun::{TestRun, jiffies},
    decide::mitigate::{RuleCount, Wanted},
    rule::{Action, Origin, Rate, Rule},
};
use ftagent_common::{DropReason, reason::verdict};
use ftagent_tests::{
    packet::{Ipv4, Udp},
    require_root,
};

use super::{HZ, PASSED, datapath, dropped, feed};

fn wanted(id: u32, matches: &str, action: Action, origin: Origin) -> Wanted {
    let rule = Rule { matches: matches.parse().unwrap(), action, origin, reason: "a test".into() };
    Wanted { id, rule, ttl_ms: 2000 }
}

fn of_incident(id: u32, matches: &str, action: Action) -> Wanted {
    wanted(id, matches, action, Origin::Incident("inc-1".into()))
}

fn at(run: &mut TestRun, ms: u64) -> Jiffies {
    run.set_time(ms * 1_000_000);
    Jiffies { now: jiffies(ms * 1_000_000), hz: HZ }
}

fn frame(sport: u16) -> Vec<u8> {
    Ipv4::new().frame(&Udp::new(sport, 40000, &[7; 400]).build())
}

fn enforcer(run: &TestRun) -> Enforcer {
    Enforcer::new(run.open_rules().unwrap())
}

fn count(enforcer: &mut Enforcer) -> Vec<(u32, u64, u64)> {
    let tuple = |count: RuleCount| (count.id, count.packets, count.dropped);
    enforcer.counts().unwrap().into_iter().map(tuple).collect()
}

#[test]
fn a_rule_keeps_its_slot_and_counts_while_it_lives() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let now = at(&mut run, 0);
    enforcer.apply(&[of_incident(7, "udp sport 123", Action::Count)], now).unwrap();
    let shadow = feed(&mut run, &frame(123));
    assert_eq!((shadow.verdict, shadow.rule != 0), (verdict::PASS, true), "it counts, and the sample tells");
    assert_eq!(count(&mut enforcer), [(7, 1, 0)]);
    assert_eq!(count(&mut enforcer), [(7, 0, 0)], "told once");

    // It is enforced, and another comes before it.
    let wants = [of_incident(3, "udp sport 53", Action::Drop), of_incident(7, "udp sport 123", Action::Drop)];
    enforcer.apply(&wants, now).unwrap();
    assert_eq!(feed(&mut run, &frame(123)).rule, shadow.rule, "in its slot");
    feed(&mut run, &frame(53));
    feed(&mut run, &frame(53));
    assert_eq!(count(&mut enforcer), [(3, 2, 2), (7, 1, 1)]);

    // It goes: what it did last is told once, and a new rule in its slot begins at nothing.
    feed(&mut run, &frame(123));
    enforcer.apply(&wants[..1], now).unwrap();
    assert_eq!(feed(&mut run, &frame(123)), PASSED);
    assert_eq!(count(&mut enforcer), [(3, 0, 0), (7, 1, 1)]);
    assert_eq!(count(&mut enforcer), [(3, 0, 0)]);
    enforcer.apply(&[wants[0].clone(), of_incident(9, "udp sport 99", Action::Drop)], now).unwrap();
    assert_eq!(feed(&mut run, &frame(99)).rule, shadow.rule);
    assert_eq!(count(&mut enforcer), [(3, 0, 0), (9, 1, 1)]);
}

#[test]
fn rules_live_as_long_as_they_are_wanted() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let wants = [of_incident(1, "udp sport 123", Action::Drop)];
    for ms in (0..10_000).step_by(1000) {
        let now = at(&mut run, ms);
        enforcer.apply(&wants, now).unwrap();
    }
    at(&mut run, 10_900);
    assert_eq!(feed(&mut run, &frame(123)).verdict, verdict::DROP, "renewed every second");
    at(&mut run, 11_100);
    assert_eq!(feed(&mut run, &frame(123)), PASSED, "not renewed for two seconds");
}

#[test]
fn operators_are_tried_first() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let now = at(&mut run, 0);
    let all = Action::RateLimit(Rate::Pps(1_000_000));
    let wants = [
        of_incident(1, "udp sport 123", Action::Drop),
        wanted(5, "udp len 100-500", all, Origin::Operator("ada".into())),
    ];
    enforcer.apply(&wants, now).unwrap();
    assert_eq!(feed(&mut run, &frame(123)).verdict, verdict::PASS, "within the operator's rate");
    assert_eq!(count(&mut enforcer), [(5, 1, 0), (1, 0, 0)]);
}

#[test]
fn rules_that_do_not_fit_are_left_out_alone() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let now = at(&mut run, 0);
    let wants = [
        of_incident(1, "udp sport 123", Action::Drop),
        of_incident(2, "udp", Action::Challenge),
        of_incident(3, "udp sport 53", Action::Drop),
    ];
    for _ in 0..2 {
        let errors = enforcer.apply(&wants, now).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains("only TCP can be challenged"), "{}", errors[0]);
    }
    assert_eq!(feed(&mut run, &frame(123)).verdict, verdict::DROP);
    assert_eq!(feed(&mut run, &frame(53)).verdict, verdict::DROP);
    enforcer.apply(&[wants[0].clone(), wants[2].clone()], now).unwrap();

    let many: Vec<_> = (0..300).map(|id| of_incident(10 + id, &format!("udp dport {id}"), Action::Drop)).collect();
    let errors = enforcer.apply(&many, now).unwrap_err();
    assert!(errors.iter().any(|error| error.to_string().contains("waits for one to end")), "{errors:?}");
    count(&mut enforcer);
    // The slots of the two that went are free now, and 44 are too many for good.
    assert_eq!(enforcer.apply(&many, now).unwrap_err().len(), 44);
    assert_eq!(count(&mut enforcer).len(), 256);
}

#[test]
fn what_is_missing_is_put_back_and_reported() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let now = at(&mut run, 0);
    let wants = [of_incident(1, "udp sport 123", Action::Drop), of_incident(2, "udp sport 53", Action::Drop)];
    enforcer.apply(&wants, now).unwrap();
    let drift = enforcer.reconcile(&wants, now);
    assert_eq!((drift.wanted, drift.present, drift.missing), (2, 2, vec![]));

    // Somebody else takes everything out, or one rule's time away.
    let mut other = run.open_rules().unwrap();
    other.install(&[], HZ).unwrap();
    let drift = enforcer.reconcile(&wants, now);
    assert_eq!(
        (drift.present, &drift.missing[..]),
        (0, &["udp sport 123 drop".to_owned(), "udp sport 53 drop".to_owned()][..])
    );
    assert_eq!(feed(&mut run, &frame(123)).verdict, verdict::DROP, "put back");
    let slot = (feed(&mut run, &frame(53)).rule - 1) as u8;
    other.renew(slot, 1);
    assert_eq!(feed(&mut run, &frame(53)), PASSED);
    assert_eq!(enforcer.reconcile(&wants, now).missing, ["udp sport 53 drop"]);
    assert_eq!(feed(&mut run, &frame(53)), dropped(slot, DropReason::Rule));
    assert_eq!(enforcer.reconcile(&wants, now).missing, [""; 0]);
}

#[test]
fn a_rule_may_change_what_it_does_in_any_way() {
    require_root!();
    let mut run = datapath();
    let mut enforcer = enforcer(&run);
    let now = at(&mut run, 0);
    let actions =
        [Action::Count, Action::Drop, Action::RateLimit(Rate::Pps(0)), Action::RateLimit(Rate::Pps(1_000_000))];
    for (before, after) in actions.iter().flat_map(|before| actions.map(|after| (*before, after))) {
        for action in [before, after] {
            enforcer.apply(&[of_incident(1, "udp sport 123", action)], now).unwrap();
        }
        let expected = match after {
            Action::Drop => Some(DropReason::Rule),
            Action::RateLimit(Rate::Pps(0)) => Some(DropReason::RateLimit),
            _ => None,
        };
        assert_eq!(feed(&mut run, &frame(123)).reason, expected, "{before} to {after}");
        let drift = enforcer.reconcile(&[of_incident(1, "udp sport 123", after)], now);
        assert_eq!(drift.missing, [""; 0], "{before} to {after}");
    }
    assert_eq!(count(&mut enforcer)[0].1, 16, "all counted by one rule");
}

#[test]
fn a_new_daemon_leaves_the_rules_of_the_last_until_it_has_its_own() {
    require_root!();
    let mut run = datapath();
    let now = at(&mut run, 0);
    enforcer(&run).apply(&[of_incident(1, "udp sport 123", Action::Drop)], now).unwrap();
    let mut next = enforcer(&run);
    next.apply(&[], now).unwrap();
    assert_eq!(feed(&mut run, &frame(123)).verdict, verdict::DROP, "still in force");
    next.apply(&[of_incident(1, "udp sport 53", Action::Drop)], now).unwrap();
    assert_eq!(feed(&mut run, &frame(123)), PASSED);
    assert_eq!(feed(&mut run, &frame(53)).verdict, verdict::DROP);
    assert_eq!(count(&mut next), [(1, 1, 1)]);
}
