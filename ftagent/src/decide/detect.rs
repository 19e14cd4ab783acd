//! Detection: evidence that a class exceeds what is normal for it, tick by tick.
//!
//! Evidence accumulates in a leaky bucket per class and metric (a CUSUM): what arrives above the
//! threshold fills it, what stays below drains it. So a pulse of any width counts by what it
//! carried, and there is neither a number of ticks to wait for nor a time to be blind in.

use std::collections::VecDeque;

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    ClassCount, Excess, Metric, Tick,
    baseline::{Baselines, floor, invalid, no_business},
};

/// Packets above the threshold that are evidence, at least …
const PACKETS: f64 = 200.0;
/// … and in a class that nobody has business in.
const PACKETS_NO_BUSINESS: f64 = 50.0;
/// Bits above the threshold that are evidence, at least: half a megabyte.
const BITS: f64 = 4e6;
/// Evidence is at least what the threshold lets through in this time, seconds.
const WINDOW_S: f64 = 0.1;
/// A bucket holds what the threshold lets through in this time, seconds, and a few times the
/// evidence: it drains soon after the excess ends.
const DEPTH_S: f64 = 1.0;
/// Rate above which a class is looked at while nothing is known of what is normal.
const COLD_PPS: f64 = 500.0;
/// The present rate is the mean of this time.
const RATE_NS: u64 = 1_000_000_000;

/// What is too much for a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// What is normal.
    pub baseline: f64,
    /// How far normal reaches above that.
    pub spread: f64,
    /// What is too much.
    pub threshold: f64,
}

/// Returns the limits of a class.
pub fn limits(baselines: &Baselines, class: TrafficClass, metric: Metric, trusted: bool) -> Limits {
    let floor = floor(class, metric);
    let Some(series) = baselines.of(class, metric).filter(|_| trusted) else {
        let threshold = match metric {
            Metric::Bps => f64::INFINITY,
            _ if no_business(class) || invalid(class) => floor,
            _ => COLD_PPS,
        };
        return Limits { baseline: 0.0, spread: 0.0, threshold };
    };
    let level = series.level();
    let (baseline, high) = (f64::from(level.median), f64::from(level.high));
    let known = series.threshold();
    Limits { baseline, spread: (high - baseline).max(0.0), threshold: if known.is_finite() { known } else { floor } }
}

/// Returns how much above the threshold is evidence, packets or bits.
pub fn evidence(class: TrafficClass, metric: Metric, threshold: f64) -> f64 {
    let least = match metric {
        Metric::Bps => BITS,
        _ if no_business(class) || invalid(class) => PACKETS_NO_BUSINESS,
        _ => PACKETS,
    };
    least.max(threshold * WINDOW_S)
}

/// Evidence of one class in one metric.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Bucket {
    fill: f64,
    since_ns: u64,
    packets: u64,
    bytes: u64,
}

impl Bucket {
    fn add(&mut self, tick: &Tick<'_>, count: ClassCount, amount: f64, threshold: f64, evidence: f64) {
        let seconds = tick.elapsed_ns as f64 / 1e9;
        if self.fill <= 0.0 {
            *self = Self { since_ns: tick.now.mono_ns.saturating_sub(tick.elapsed_ns), ..Self::default() };
        }
        self.packets += count.packets;
        self.bytes += count.bytes;
        let most = 4.0 * evidence + threshold * DEPTH_S;
        self.fill = (self.fill + amount - threshold * seconds).clamp(0.0, most);
    }
}

/// Packets and bytes of a tick.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Recent {
    at_ns: u64,
    length_ns: u64,
    packets: u64,
    bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ClassState {
    pps: Bucket,
    bps: Bucket,
    recent: VecDeque<Recent>,
}

impl ClassState {
    /// Returns the rates of the last second, or of less where it is asked for less.
    fn rates(&self, since_ns: u64) -> (f64, f64) {
        let (mut length, mut packets, mut bytes) = (0, 0, 0);
        for recent in self.recent.iter().filter(|recent| recent.at_ns > since_ns) {
            length += recent.length_ns;
            packets += recent.packets;
            bytes += recent.bytes;
        }
        let seconds = (length as f64 / 1e9).max(1e-9);
        if length == 0 { (0.0, 0.0) } else { (packets as f64 / seconds, bytes as f64 * 8.0 / seconds) }
    }
}

/// All classes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detector {
    classes: Vec<ClassState>,
}

impl Default for Detector {
    fn default() -> Self {
        Self { classes: vec![ClassState::default(); TrafficClass::COUNT] }
    }
}

impl Detector {
    /// Takes in a tick and returns the classes that exceed what is normal, in the order of their
    /// numbers.
    pub fn on_tick(&mut self, tick: &Tick<'_>, baselines: &Baselines, trusted: bool) -> Vec<Excess> {
        let mut found = Vec::new();
        for (class, state) in TrafficClass::ALL.into_iter().zip(&mut self.classes) {
            let count = tick.counts.of(class);
            let at_ns = tick.now.mono_ns;
            state.recent.push_back(Recent {
                at_ns,
                length_ns: tick.elapsed_ns,
                packets: count.packets,
                bytes: count.bytes,
            });
            while state.recent.front().is_some_and(|first| first.at_ns + RATE_NS <= at_ns) {
                state.recent.pop_front();
            }
            if count.packets > 0 || state.pps.fill > 0.0 || state.bps.fill > 0.0 {
                found.extend(state.weigh(tick, class, count, baselines, trusted));
            }
        }
        found
    }

    /// Returns the packets and bits per second of a class over the last second.
    pub fn rates(&self, class: TrafficClass) -> (f64, f64) {
        self.classes.get(class.index()).map_or((0.0, 0.0), |state| state.rates(0))
    }
}

impl ClassState {
    fn weigh(
        &mut self,
        tick: &Tick<'_>,
        class: TrafficClass,
        count: ClassCount,
        baselines: &Baselines,
        trusted: bool,
    ) -> Option<Excess> {
        let pps = limits(baselines, class, Metric::Pps, trusted);
        let bps = limits(baselines, class, Metric::Bps, trusted);
        let packets = evidence(class, Metric::Pps, pps.threshold);
        let bits = evidence(class, Metric::Bps, bps.threshold);
        self.pps.add(tick, count, count.packets as f64, pps.threshold, packets);
        if bps.threshold.is_finite() {
            self.bps.add(tick, count, count.bytes as f64 * 8.0, bps.threshold, bits);
        } else {
            self.bps = Bucket::default();
        }
        // A bucket that is still full after its excess is evidence of the past, not of now.
        let seconds = (tick.elapsed_ns as f64 / 1e9).max(1e-9);
        let goes_on = |rate: f64, mean: f64, threshold: f64| rate.max(mean) > threshold;
        let pps_now = goes_on(count.packets as f64 / seconds, self.rates(self.pps.since_ns).0, pps.threshold);
        let bps_now = goes_on(count.bytes as f64 * 8.0 / seconds, self.rates(self.bps.since_ns).1, bps.threshold);
        let by_pps = self.pps.fill >= packets && pps_now;
        let by_bps = self.bps.fill >= bits && bps_now;
        let (metric, bucket, limits) = match (by_pps, by_bps) {
            (true, false) => (Metric::Pps, self.pps, pps),
            (false, true) => (Metric::Bps, self.bps, bps),
            (true, true) if self.pps.fill / packets >= self.bps.fill / bits => (Metric::Pps, self.pps, pps),
            (true, true) => (Metric::Bps, self.bps, bps),
            (false, false) => return None,
        };
        let (now_pps, now_bps) = self.rates(bucket.since_ns);
        Some(Excess {
            class,
            metric,
            since_ns: bucket.since_ns,
            packets: bucket.packets,
            bytes: bucket.bytes,
            pps: now_pps,
            bps: now_bps,
            baseline: limits.baseline,
            spread: limits.spread,
            threshold: limits.threshold,
            baseline_pps: pps.baseline,
            trusted,
        })
    }
}

#[cfg(test)]
mod tests;
