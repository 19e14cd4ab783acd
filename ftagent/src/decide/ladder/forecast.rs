//! When the uplink will be full, from how it has filled: a straight line or a constant growth in per cent,
//! whichever fits better. Slopes are medians of pairs (Theil 1950, Sen 1968), so single readings move nothing.

use serde::{Deserialize, Serialize};

/// An uplink that is this full drops packets in bursts.
pub const FULL: f64 = 0.95;
/// Readings without which nothing is said: four pairs. A step shows in two pairs at most, and is no ramp.
const LEAST: usize = 8;
/// Each of the last pairs has risen by this part of what the whole foretells.
const RISING: f64 = 0.25;
/// Nothing is foreseen beyond this, seconds.
const FARTHEST: f64 = 3600.0;

/// How something grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Growth {
    /// By so much a second.
    Linear(f64),
    /// By this factor (natural logarithm) a second.
    Geometric(f64),
}

impl Growth {
    /// Returns the seconds from one value to another; `None` where it never gets there, or not within an hour.
    pub fn reaches(self, from: f64, to: f64) -> Option<f64> {
        if from >= to {
            return Some(0.0);
        }
        let seconds = match self {
            Self::Linear(slope) if slope > 0.0 => (to - from) / slope,
            Self::Geometric(rate) if rate > 0.0 && from > 0.0 => libm::log(to / from) / rate,
            _ => return None,
        };
        (seconds <= FARTHEST).then_some(seconds)
    }
}

/// Fits a growth to readings (seconds, value), oldest first; `None` where there are too few, or it does not grow.
pub fn fit(points: &[(f64, f64)]) -> Option<Growth> {
    if points.len() < LEAST {
        return None;
    }
    let straight = line(points)?;
    let logs: Vec<(f64, f64)> = points.iter().map(|(at, value)| (*at, libm::log(value.max(1.0)))).collect();
    let curved = line(&logs)?;
    let error = |value: &dyn Fn(f64) -> f64| median(points.iter().map(|(at, seen)| (seen - value(*at)).abs()));
    let of_straight = error(&|at| straight.0 + straight.1 * at)?;
    let of_curved = error(&|at| libm::exp(curved.0 + curved.1 * at))?;
    let growth = if of_curved < of_straight { Growth::Geometric(curved.1) } else { Growth::Linear(straight.1) };
    let grows = straight.1 > 0.0 && curved.1 > 0.0;
    (grows && rises(points, straight.1)).then_some(growth)
}

/// Returns whether the last pairs of readings rise, each above the one before.
fn rises(points: &[(f64, f64)], slope: f64) -> bool {
    let recent = points.get(points.len().saturating_sub(LEAST)..).unwrap_or_default();
    let pairs: Vec<(f64, f64)> = recent
        .chunks_exact(2)
        .filter_map(|pair| match pair {
            [a, b] => Some((f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1))),
            _ => None,
        })
        .collect();
    pairs.len() == LEAST / 2
        && pairs.iter().zip(pairs.iter().skip(1)).all(|(a, b)| b.1 - a.1 > RISING * slope * (b.0 - a.0))
}

/// Returns where the line through most points begins, and how it rises.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, (at, value)) in points.iter().enumerate() {
        for (later, then) in points.iter().skip(i + 1) {
            if later > at {
                slopes.push((then - value) / (later - at));
            }
        }
    }
    let slope = median(slopes.into_iter())?;
    let from = median(points.iter().map(|(at, value)| value - slope * at))?;
    Some((from, slope))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(middle.checked_sub(1)?)?, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: impl Fn(f64) -> f64, count: u32) -> Vec<(f64, f64)> {
        (0..count).map(f64::from).map(|at| (at, value(at))).collect()
    }

    #[test]
    fn time_to_saturation_of_curves() {
        // Readings, the value now, seconds until 1000 (and how exact), or never.
        type Case = (&'static str, Vec<(f64, f64)>, Option<(f64, f64)>);
        let noise = |at: f64| if (at as u32).is_multiple_of(2) { 1.05 } else { 0.95 };
        let cases: Vec<Case> = vec![
            ("a straight ramp", seconds(|at| 100.0 + 10.0 * at, 20), Some((71.0, 1.0))),
            ("a noisy ramp", seconds(|at| (100.0 + 10.0 * at) * noise(at), 20), Some((71.0, 12.0))),
            ("doubling every ten seconds", seconds(|at| 100.0 * libm::exp2(at / 10.0), 20), Some((14.2, 1.0))),
            ("flat", seconds(|_| 500.0, 30), None),
            ("noise alone", seconds(|at| 500.0 * noise(at), 30), None),
            ("falling", seconds(|at| 900.0 - at, 30), None),
            ("a step that is over", seconds(|at| if at < 12.0 { 100.0 } else { 700.0 }, 30), None),
            ("one spike", seconds(|at| if at == 20.0 { 990.0 } else { 100.0 }, 30), None),
            ("a ramp that has ended", seconds(|at| 100.0 + 40.0 * at.min(15.0), 30), None),
            ("too few", seconds(|at| 100.0 * at, 3), None),
        ];
        for (what, points, expected) in cases {
            let now = points.last().map_or(0.0, |(_, value)| *value);
            let eta = fit(&points).and_then(|growth| growth.reaches(now, 1000.0));
            match (eta, expected) {
                (Some(eta), Some((wanted, within))) => assert!((eta - wanted).abs() <= within, "{what}: {eta}"),
                (found, wanted) => assert_eq!(found.is_some(), wanted.is_some(), "{what}: {found:?}"),
            }
        }
    }
}
