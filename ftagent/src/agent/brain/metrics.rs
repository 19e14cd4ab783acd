//! What metrics show of the core.

use std::collections::BTreeMap;

use super::Brain;
use crate::decide::{Vector, baseline::View};

/// What metrics show of it.
#[derive(Clone, Debug, Default)]
pub struct BrainMetrics {
    /// Everything that is known to be normal.
    pub views: Vec<View>,
    /// Open incidents by vector.
    pub active: BTreeMap<Vector, usize>,
    /// Incidents that opened since the start, by vector.
    pub opened_total: BTreeMap<Vector, u64>,
    /// Seconds from the beginning of each of them to its opening.
    pub detect_seconds: Vec<f64>,
    /// Seconds from the beginning of each to its first rule in force, where it got one.
    pub mitigate_seconds: Vec<f64>,
    /// Notices since the start.
    pub notices_total: u64,
}

impl Brain {
    /// Returns what metrics show.
    pub fn metrics(&self) -> BrainMetrics {
        let published = self.published();
        let mut active = BTreeMap::new();
        for incident in published.incidents.iter().filter(|incident| incident.is_open()) {
            *active.entry(incident.vector).or_default() += 1;
        }
        BrainMetrics {
            views: published.baselines.clone(),
            active,
            opened_total: published.opened.clone(),
            detect_seconds: published.detect_seconds.clone(),
            mitigate_seconds: published.mitigate_seconds.clone(),
            notices_total: published.notices_total,
        }
    }
}
