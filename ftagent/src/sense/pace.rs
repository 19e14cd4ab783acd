//! When ticks end: every 100 ms, and sooner where something is the matter.
//!
//! The daemon's poll loop and replay keep the same time.

use std::time::Duration;

/// Time between ticks where nothing is the matter.
pub const TICK: Duration = Duration::from_millis(100);
/// The shortest tick: in less, a few packets look like a rate.
const SHORTEST: Duration = Duration::from_millis(20);
/// The longest tick while a decision waits for the next.
const HASTY: Duration = Duration::from_millis(50);
/// Wake-ups that are heeded at once …
const WAKES: f64 = 10.0;
/// … and how many more each second: load that is ordinary after all may wake for ever.
const WAKES_A_SECOND: f64 = 1.0;

/// Nanoseconds of a time that is short.
const fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Says when the present tick ends.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    began_ns: u64,
    due_ns: u64,
    wakes: f64,
    wakes_ns: u64,
}

impl Pace {
    /// Begins the first tick.
    pub fn new(now_ns: u64) -> Self {
        Self { began_ns: now_ns, due_ns: now_ns + nanos(TICK), wakes: WAKES, wakes_ns: now_ns }
    }

    /// Returns when the present tick ends.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Notes that the kernel says that there is too much of something. Returns whether the tick ends
    /// sooner for it.
    pub fn wake(&mut self, now_ns: u64) -> bool {
        let passed = now_ns.saturating_sub(self.wakes_ns) as f64 / 1e9;
        (self.wakes, self.wakes_ns) = ((self.wakes + passed * WAKES_A_SECOND).min(WAKES), now_ns);
        let sooner = now_ns.max(self.began_ns + nanos(SHORTEST));
        if self.wakes < 1.0 || sooner >= self.due_ns {
            return false;
        }
        self.wakes -= 1.0;
        self.due_ns = sooner;
        true
    }

    /// Ends the tick at a time and begins the next. `hasty`: a decision waits for it.
    pub fn tick(&mut self, now_ns: u64, hasty: bool) {
        // A tick that ended sooner moves those after it. Behind (suspended, starved): ticks are not made
        // up for, and none is much shorter than it should be.
        let length = if hasty { nanos(HASTY) } else { nanos(TICK) };
        let from = if now_ns < self.due_ns + length { self.due_ns } else { now_ns };
        self.due_ns = (from + length).max(now_ns + length / 2);
        self.began_ns = now_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn ticks_keep_to_their_grid_and_are_not_made_up_for() {
        let mut pace = Pace::new(0);
        // When the tick ends, and when the one after it is due.
        let cases = [(100, 200), (201, 300), (330, 400), (440, 500), (560, 610), (5000, 5100), (5100, 5200)];
        for (now, due) in cases {
            pace.tick(now * MS, false);
            assert_eq!(pace.due_ns(), due * MS, "after {now}");
        }
        pace.tick(5200 * MS, true);
        assert_eq!(pace.due_ns(), 5250 * MS);
    }

    #[test]
    fn a_wake_up_ends_the_tick_and_many_do_not_end_many() {
        let mut pace = Pace::new(0);
        pace.tick(100 * MS, false);
        assert!(pace.wake(101 * MS), "too much");
        assert_eq!(pace.due_ns(), 120 * MS, "but no tick is shorter than 20 ms");
        assert!(!pace.wake(102 * MS), "it is due already");
        pace.tick(120 * MS, false);
        assert_eq!(pace.due_ns(), 220 * MS);
        assert!(pace.wake(199 * MS));
        assert_eq!(pace.due_ns(), 199 * MS);
        let (mut now, mut heeded) = (199, 0);
        while now < 10_199 {
            pace.tick(now * MS, false);
            heeded += u32::from(pace.wake((now + 1) * MS));
            now = pace.due_ns() / MS;
        }
        assert!((17..=20).contains(&heeded), "a few at once, then one a second: {heeded}");
    }
}
