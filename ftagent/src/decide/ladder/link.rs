//! The uplink, and how it fills.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::forecast::{self, Growth};
pub use crate::sense::uplink::Uplink;

/// Spans of use that are kept: half a minute.
const KEPT: usize = 60;
/// Such a span, nanoseconds.
const SPAN_NS: u64 = 500_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// What was measured longer ago than this says nothing of now, nanoseconds.
const STALE_NS: u64 = 3 * SECOND_NS;

/// The uplink over the last half minute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Track {
    latest: Option<(u64, Uplink)>,
    /// Spans with their mean use: monotonic nanoseconds of the end, bits a second.
    spans: VecDeque<(u64, f64)>,
    /// Of the span that has not ended: when it began, sum, readings.
    current: (u64, f64, u32),
}

impl Track {
    /// Takes a reading.
    pub fn note(&mut self, now_ns: u64, uplink: Uplink) {
        let (began, sum, count) = &mut self.current;
        if *count == 0 {
            *began = now_ns;
        }
        (*sum, *count) = (*sum + uplink.used_bps, *count + 1);
        if now_ns.saturating_sub(*began) >= SPAN_NS || self.spans.is_empty() || now_ns < *began {
            self.spans.push_back((now_ns, *sum / f64::from(*count)));
            self.current = (now_ns, 0.0, 0);
            if self.spans.len() > KEPT {
                self.spans.pop_front();
            }
        }
        // A gap: what was before it is no part of a trend.
        if self.latest.as_ref().is_some_and(|(at, _)| now_ns.saturating_sub(*at) > STALE_NS) {
            self.spans.clear();
        }
        self.latest = Some((now_ns, uplink));
    }

    /// Returns the latest reading that still says something.
    pub fn now(&self, now_ns: u64) -> Option<&Uplink> {
        self.latest.as_ref().filter(|(at, _)| now_ns.saturating_sub(*at) <= STALE_NS).map(|(_, uplink)| uplink)
    }

    /// Returns how the use grows, from what was measured since an instant.
    pub fn growth(&self, since_ns: u64) -> Option<Growth> {
        let points: Vec<(f64, f64)> = self
            .spans
            .iter()
            .filter(|(at, _)| *at >= since_ns)
            .map(|(at, bps)| (at.saturating_sub(since_ns) as f64 / 1e9, *bps))
            .collect();
        forecast::fit(&points)
    }

    /// Returns when the newest span ended; the growth is the same until that changes.
    pub fn newest_ns(&self) -> u64 {
        self.spans.back().map_or(0, |(at, _)| *at)
    }
}
