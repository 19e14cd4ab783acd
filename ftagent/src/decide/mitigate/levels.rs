//! What is ordinary of each class, as far as rules need it.

use ftagent_common::TrafficClass;

#[cfg(doc)]
use super::keeper::Scene;
use crate::decide::{
    Metric,
    baseline::Baselines,
    detect::{Limits, limits},
};

/// What is ordinary, by class.
#[derive(Debug)]
pub struct Levels {
    /// See [`Scene::ordinary`].
    pub ordinary: Vec<f64>,
    /// See [`Scene::exit`].
    pub exit: Vec<(f64, f64)>,
    /// See [`Scene::clean`].
    pub clean: Vec<f64>,
}

impl Levels {
    /// Works it out.
    pub fn of(baselines: &Baselines, trusted: bool) -> Self {
        let of = |class, metric| limits(baselines, class, metric, trusted);
        let middle = |limits: Limits| f64::midpoint(limits.baseline, limits.threshold);
        let each = |value: &dyn Fn(TrafficClass) -> f64| TrafficClass::ALL.into_iter().map(value).collect();
        let exit = |class| (middle(of(class, Metric::Pps)), middle(of(class, Metric::Bps)));
        // Nineteen in twenty of the busiest seconds of a block are below: more than 99 in 100 of all.
        let high = |class| baselines.of(class, Metric::Pps).map_or(0.0, |series| f64::from(series.level().high));
        Self {
            ordinary: each(&|class| of(class, Metric::Pps).threshold),
            exit: TrafficClass::ALL.into_iter().map(exit).collect(),
            clean: each(&high),
        }
    }
}
