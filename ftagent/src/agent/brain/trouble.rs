//! What does not work about the disk, for those who show and tell it.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use super::Brain;
use crate::sense::clock;

/// A disk that has not answered for so long hangs. What waits for it says nothing itself.
pub const HANGS: Duration = Duration::from_secs(10);

impl Brain {
    /// Returns why what was learned or found is not on disk, if it is not.
    pub fn trouble(&self) -> Option<String> {
        self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::agent) fn set_trouble(&self, trouble: Option<String>) {
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Returns why nothing can be written to the state directory, if so.
    pub fn unwritable(&self) -> Option<String> {
        self.0.unwritable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(in crate::agent) fn set_unwritable(&self, why: Option<String>) {
        *self.0.unwritable.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Says that whoever records waits for the disk, or does no longer; returns whether it hung.
    pub(in crate::agent) fn set_writing(&self, writes: bool) -> bool {
        let now_ns = if writes { clock::monotonic_ns().max(1) } else { 0 };
        let since_ns = self.0.writing_ns.swap(now_ns, Ordering::Relaxed);
        !writes && since_ns > 0 && waits(since_ns) >= HANGS
    }

    /// Returns how long whoever records has waited for a disk that hangs; `None` where it does not.
    pub(in crate::agent) fn hangs(&self) -> Option<Duration> {
        let since_ns = self.0.writing_ns.load(Ordering::Relaxed);
        (since_ns > 0).then(|| waits(since_ns)).filter(|waited| *waited >= HANGS)
    }
}

fn waits(since_ns: u64) -> Duration {
    Duration::from_nanos(clock::monotonic_ns().saturating_sub(since_ns))
}
