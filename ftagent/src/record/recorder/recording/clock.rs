//! From the clock that packets have to UTC.

use crate::decide::Now;

/// Offsets of the clocks that differ by less are the same, nanoseconds: UTC is known to the millisecond.
const SAME_NS: i128 = 5_000_000;

/// From `CLOCK_MONOTONIC` to UTC.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock(pub(super) Option<i128>);

impl Clock {
    /// Takes in that both clocks were read. UTC comes in whole milliseconds, cut off, so the largest of
    /// offsets that are nearly the same is the best; one that differs is a clock that was set.
    pub(super) fn follow(&mut self, now: Now) {
        let offset = i128::from(now.unix_ms) * 1_000_000 - i128::from(now.mono_ns);
        self.0 = Some(match self.0 {
            Some(known) if (known - offset).abs() < SAME_NS => known.max(offset),
            _ => offset,
        });
    }

    pub(super) fn utc_ns(self, mono_ns: u64) -> u64 {
        u64::try_from(i128::from(mono_ns) + self.0.unwrap_or(0)).unwrap_or(0)
    }
}
