//! What fits the table, and what the compiler says of the rest.

use super::{
    Placed, RulesError,
    compile::{compile, state},
};
use crate::rule::{Action, Origin, Rate, Rule};
use ftagent_common::rules::{TOKEN, action};

fn placed(slot: u8, matches: &str, action: Action) -> Placed {
    let rule = Rule { matches: matches.parse().unwrap(), action, origin: Origin::Config, reason: String::new() };
    Placed { slot, rule, expires: u64::MAX }
}

/// Returns what the compiler says of rules; `None`: they fit.
fn refusal(rules: &[Placed]) -> Option<(u8, String)> {
    match compile(rules) {
        Ok(_) => None,
        Err(RulesError::Compile { slot, what, .. }) => Some((slot, what)),
        Err(error) => panic!("{error:?}"),
    }
}

fn many(count: u8, matches: impl Fn(u8) -> String) -> Vec<Placed> {
    (0..=count - 1).map(|i| placed(i, &matches(i), Action::Drop)).collect()
}

#[test]
fn the_rule_that_does_not_fit_is_named() {
    let full = |matches: &dyn Fn(u8) -> String| (0..=255).map(|i| placed(i, &matches(i), Action::Drop)).collect();
    type Case = (&'static str, Vec<Placed>, Option<(u8, &'static str)>);
    let cases: Vec<Case> = vec![
        ("256 rules with prefixes", full(&|i| format!("udp src 10.{i}.0.0/17 dst 192.0.2.{i}")), None),
        (
            "256 rules with ranges of ports",
            full(&|i| format!("udp sport {}-{}", 2000 + 9 * u16::from(i), 2003 + 9 * u16::from(i))),
            None,
        ),
        ("128 rules for either port", many(128, |i| format!("udp port {i}")), None),
        ("129 rules for either port", many(129, |i| format!("udp port {i}")), Some((128, "256 places"))),
        ("16 patterns", many(16, |i| format!("udp payload 0:{i:02x}")), None),
        ("17 patterns", many(17, |i| format!("udp payload 0:{i:02x}")), Some((16, "payload"))),
        ("the same pattern often", many(200, |_| "udp payload 4:0102030405060708090a".into()), None),
        (
            "more ranges of one dimension than there is room for",
            many(16, |i| {
                let ranges: Vec<_> = (0..40u16).map(|k| (u16::from(i) * 1000 + k * 10).to_string()).collect();
                format!("udp len {}", ranges.join(","))
            }),
            Some((7, "lengths")),
        ),
        ("TCP is challenged", vec![placed(3, "tcp", Action::Challenge)], None),
        ("UDP is not", vec![placed(3, "udp", Action::Challenge)], Some((3, "only TCP can be challenged"))),
    ];
    for (name, rules, expected) in cases {
        let said = refusal(&rules);
        assert_eq!(said.as_ref().map(|said| said.0), expected.map(|expected| expected.0), "{name}: {said:?}");
        if let (Some(said), Some(expected)) = (said, expected) {
            assert!(said.1.contains(expected.1), "{name}: {said:?}");
        }
    }
}

#[test]
fn rates_are_exact_to_a_hundredth_and_never_overflow() {
    for hz in [100, 250, 300, 1000] {
        for rate in [1, 7, 300, 1_000_000, 100_000_000] {
            let is = state(Action::RateLimit(Rate::Pps(rate)), 9, hz);
            let per_second = is.per_jiffy as f64 * hz as f64 / TOKEN as f64;
            assert!((per_second / rate as f64 - 1.0).abs() < 0.01, "{rate} pps at {hz}: {per_second}");
            assert_eq!(is.action, action::LIMIT_PACKETS);
            let is = state(Action::RateLimit(Rate::Bps(rate * 8_000)), 9, hz);
            let per_second = is.per_jiffy as f64 * hz as f64 / TOKEN as f64;
            assert!((per_second / (rate * 1000) as f64 - 1.0).abs() < 0.01, "{rate} kB/s at {hz}: {per_second}");
        }
        for rate in [Rate::Pps(u64::MAX), Rate::Bps(u64::MAX)] {
            let is = state(Action::RateLimit(rate), 9, hz);
            assert!(is.burst.checked_shl(6).is_some_and(|debt| debt >> 6 == is.burst), "{is:?}");
        }
        assert_eq!(state(Action::RateLimit(Rate::Pps(0)), 9, hz).burst, 0, "no packet at all");
    }
}
