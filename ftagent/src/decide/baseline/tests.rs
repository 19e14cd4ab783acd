#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]
//! The bound on growth, over arbitrary rates; and that a ramp is never learned along.

use proptest::prelude::*;

use super::{
    ceiling::{Ceiling, MULTIPLE, PER_MONTH, WEEK_HOURS},
    series::Series,
    *,
};

const FLOOR: f64 = 200.0;

/// Rates over ten orders of magnitude, and silence.
fn rate() -> impl Strategy<Value = f64> {
    prop_oneof![1 => Just(0.0), 9 => (0.0..10.0).prop_map(|exponent: f64| libm::pow(10.0, exponent))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_ceiling_grows_twofold_in_a_day_and_tenfold_in_a_month_at_most(
        hours in prop::collection::vec((rate(), rate()), 24 * 100),
    ) {
        let mut ceiling = Ceiling::default();
        let mut values = Vec::new();
        let mut told = Vec::new();
        for (hour, (low, busy)) in hours.iter().enumerate() {
            if ceiling.hour(*low, *busy, FLOOR).is_some() {
                told.push(hour);
            }
            values.push(ceiling.value());
        }
        let week = WEEK_HOURS as usize;
        // The first week: eight times the quietest hour so far.
        for hour in 0..week {
            let quietest = hours[..=hour].iter().map(|(low, _)| *low).fold(f64::INFINITY, f64::min);
            prop_assert!(values[hour] <= MULTIPLE * quietest.max(FLOOR) * 1.000_001);
        }
        for now in week..values.len() {
            for then in now.saturating_sub(24).max(week - 1)..now {
                prop_assert!(values[now] <= 2.000_001 * values[then], "hour {then}: {}, {now}: {}", values[then], values[now]);
            }
            for then in now.saturating_sub(24 * 30).max(week - 1)..now {
                prop_assert!(values[now] <= PER_MONTH * 1.000_001 * values[then]);
            }
        }
        // Three notices come before a factor of ten.
        for then in week..values.len() {
            if let Some(now) = (then..values.len()).find(|now| values[*now] >= 9.9 * values[then]) {
                let between = told.iter().filter(|hour| (then..=now).contains(*hour)).count();
                prop_assert!(between >= 3, "{between} notices from hour {then} to {now}");
            }
        }
    }

    #[test]
    fn a_threshold_stays_under_the_ceiling_and_doubles_in_ten_minutes_at_most(
        blocks in prop::collection::vec(rate(), 1..400),
    ) {
        let mut series = Series::default();
        let mut past: Vec<f64> = Vec::new();
        for rate in blocks {
            for _ in 0..10 {
                series.learn(rate, FLOOR, 0);
            }
            let threshold = series.threshold();
            prop_assert!(threshold <= series.ceiling().value());
            prop_assert!(threshold >= FLOOR);
            let lowest = past.iter().rev().take(60).copied().fold(f64::INFINITY, f64::min);
            prop_assert!(threshold <= 2.0 * lowest);
            past.push(threshold);
        }
    }
}

/// Returns the rate at which a ramp first exceeds the threshold, as a multiple of the threshold
/// at its beginning.
fn caught_at(normal: f64, factor: f64, smooth: bool) -> f64 {
    let mut series = Series::default();
    for _ in 0..60 {
        series.learn(normal, FLOOR, 0);
    }
    let before = series.threshold();
    for second in 0..100_000 {
        let steps = if smooth { f64::from(second) / 10.0 } else { f64::from(second / 10 + 1) };
        let rate = normal * libm::pow(factor, steps);
        if rate > series.threshold() {
            return rate / before;
        }
        series.learn(rate, FLOOR, 0);
    }
    f64::INFINITY
}

#[test]
fn no_ramp_is_learned_along() {
    for normal in [50.0, 400.0, 20_000.0] {
        for factor in [1.05, 1.1, 1.2, 1.5, 2.0, 2.5, 2.9, 3.0] {
            for smooth in [true, false] {
                let caught = caught_at(normal, factor, smooth);
                assert!(
                    caught < 4.0,
                    "from {normal}, ×{factor} (smooth: {smooth}): at {caught:.1} times the threshold"
                );
            }
        }
    }
}

#[test]
fn the_first_minutes_of_an_hour_decide_its_low_level() {
    let mut series = Series::default();
    for _ in 0..600 {
        series.learn(1000.0, FLOOR, 0);
    }
    // Whoever comes after ten of sixty minutes raises nothing.
    for _ in 0..3000 {
        series.learn(2900.0, FLOOR, 0);
    }
    assert!(series.ceiling().value() <= 8001.0, "{}", series.ceiling().value());
}

#[test]
fn the_week_begins_on_monday() {
    assert_eq!(hour_of_week(0), 72, "1970 began on a Thursday");
    assert_eq!(hour_of_week(4 * 86_400_000), 0);
    assert_eq!(hour_of_week(-3_600_000), 71);
}

#[test]
fn a_checkpoint_goes_on_where_it_was_taken() {
    let mut baselines = Baselines::default();
    let mut seconds = vec![Second { ordinary: true, ..Second::default() }; TrafficClass::COUNT];
    seconds[TrafficClass::TcpSyn.index()].pps = 900.0;
    let mut now = Now::default();
    for second in 0..5000_u64 {
        now = Now { mono_ns: second * 1_000_000_000, unix_ms: second as i64 * 1000 };
        baselines.second(now, &seconds);
    }
    let text = serde_json::to_string(&baselines.checkpoint(now)).unwrap();
    let restored = Baselines::restore(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(restored.checkpoint(now).classes.len(), 1);
    let (was, is) = (baselines.of(TrafficClass::TcpSyn, Metric::Pps), restored.of(TrafficClass::TcpSyn, Metric::Pps));
    assert_eq!(was.unwrap().threshold(), is.unwrap().threshold());
    assert_eq!(was.unwrap().ceiling(), is.unwrap().ceiling());
    assert_eq!(restored.learned_s(), 5000);
}

#[test]
fn a_checkpoint_that_is_none_is_refused_in_words() {
    let good = Baselines::default().checkpoint(Now::default());
    let other = Checkpoint { version: 99, ..good.clone() };
    assert!(Baselines::restore(other).unwrap_err().contains("version 99"));
    let learned = Learned { class: "tcp_sin".to_owned(), pps: Series::default(), bps: Series::default() };
    let unknown = Checkpoint { classes: vec![learned], ..good };
    assert!(Baselines::restore(unknown).unwrap_err().contains("tcp_sin"));
}
