use rand::SeedableRng as _;

use super::*;

const EVEN: Pace = Pace { pps: 1000.0, arrivals: Arrivals::Even, ramp: None, pulse: None };

/// Returns the times before `end`.
fn times(pace: Pace, end: u64) -> Vec<u64> {
    let mut pacer = Pacer::new(pace, ChaCha8Rng::seed_from_u64(5), end);
    std::iter::repeat_with(|| pacer.next_ns()).take_while(|&at| at < end).collect()
}

fn between(times: &[u64], from: u64, to: u64) -> usize {
    times.iter().filter(|at| (from..to).contains(*at)).count()
}

#[test]
fn even_packets_are_one_gap_apart() {
    let times = times(EVEN, 90 * SECOND);
    assert_eq!(times.len(), 90_000);
    assert!(times.iter().enumerate().all(|(k, &at)| at == k as u64 * 1_000_000));
}

#[test]
fn rates_that_do_not_divide_a_second_do_not_drift() {
    let times = times(Pace { pps: 3.0, ..EVEN }, 10_000 * SECOND);
    assert_eq!((times.len(), times[29_999]), (30_000, 9_999_666_666_667));
}

#[test]
fn poisson_has_the_rate_and_the_spread() {
    let times = times(Pace { arrivals: Arrivals::Poisson, ..EVEN }, 100 * SECOND);
    // 100 000 packets, five standard deviations.
    assert!(times.len().abs_diff(100_000) < 1600, "{}", times.len());
    let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
    // Exponential gaps: the standard deviation is the mean.
    assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{mean} {variance}");
}

#[test]
fn a_ramp_grows_geometrically_and_then_stays() {
    let ramp = Some(Ramp { to: 50_000.0, over: 20 * SECOND });
    let times = times(Pace { pps: 2000.0, ramp, ..EVEN }, 30 * SECOND);
    // The integral of 2000·25^(t/20) over [0, 10] and [10, 20]; then 50 000 a second.
    let first = 2000.0 * 20.0 / 25f64.ln() * (5.0 - 1.0);
    let second = 2000.0 * 20.0 / 25f64.ln() * (25.0 - 5.0);
    assert!((between(&times, 0, 10 * SECOND) as f64 - first).abs() <= 1.0);
    assert!((between(&times, 10 * SECOND, 20 * SECOND) as f64 - second).abs() <= 1.0);
    assert!(between(&times, 20 * SECOND, 30 * SECOND).abs_diff(500_000) <= 1);
    assert!(times.is_sorted());
}

#[test]
fn a_ramp_may_fall_or_stay_level() {
    let over = 10 * SECOND;
    let falling = times(Pace { ramp: Some(Ramp { to: 10.0, over }), ..EVEN }, 20 * SECOND);
    assert!(between(&falling, 0, over).abs_diff(2150) <= 1, "{}", between(&falling, 0, over));
    assert!(between(&falling, over, 2 * over).abs_diff(100) <= 1);
    assert_eq!(times(Pace { ramp: Some(Ramp { to: 1000.0, over }), ..EVEN }, 20 * SECOND).len(), 20_000);
}

#[test]
fn pulses_are_silent_when_off_and_lose_nothing_when_on() {
    let pulse = Some(Pulse { on: 4 * SECOND, off: SECOND });
    for arrivals in [Arrivals::Even, Arrivals::Poisson] {
        let times = times(Pace { arrivals, pulse, ..EVEN }, 50 * SECOND);
        for n in 0..10 {
            let start = n * 5 * SECOND;
            let on = between(&times, start, start + 4 * SECOND);
            let slack = if arrivals == Arrivals::Even { 1 } else { 320 };
            assert!(on.abs_diff(4000) <= slack, "{on} packets in pulse {n}");
            assert_eq!(between(&times, start + 4 * SECOND, start + 5 * SECOND), 0);
        }
    }
}

#[test]
fn a_ramp_goes_on_while_a_pulse_is_off() {
    let (ramp, pulse) = (Some(Ramp { to: 16_000.0, over: 4 * SECOND }), Some(Pulse { on: SECOND, off: SECOND }));
    let times = times(Pace { ramp, pulse, ..EVEN }, 6 * SECOND);
    // 1000·2^t over [2, 3].
    let third = 4000.0 / 2f64.ln();
    assert!((between(&times, 2 * SECOND, 3 * SECOND) as f64 - third).abs() <= 1.0);
    assert!(between(&times, 4 * SECOND, 5 * SECOND).abs_diff(16_000) <= 1);
}

#[test]
fn a_rate_near_nothing_ends() {
    let pulse = Some(Pulse { on: 1_000_000, off: 1_000_000 });
    assert_eq!(times(Pace { pps: 1e-300, pulse, ..EVEN }, SECOND), [0]);
}

#[test]
fn a_pulse_stretches_time() {
    let pulse = Pulse { on: 10, off: 3 };
    assert_eq!([0, 9, 10, 25].map(|active| pulse.stretch(active)), [0, 9, 13, 31]);
}
