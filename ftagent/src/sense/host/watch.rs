//! Reads what the host tells of itself, again and again, on a thread of its own: the socket table
//! may be huge, and a tick never waits for it.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{HostRoot, diag::SocketTable, stats::Totals, strain::Strain};
use crate::sense::{clock, signals::HostSignals};

/// Time between two readings of the statistics.
const EVERY: Duration = Duration::from_millis(200);
/// Least time between two readings of the socket table.
const SOCKETS_EVERY: Duration = Duration::from_secs(1);
/// A reading that takes longer than this is followed by a longer pause.
const LONG: Duration = Duration::from_millis(20);
/// The pause is so many times as long as the reading took, so that it costs 2 % of one CPU.
const REST: u32 = 50;
/// The longest pause, also after a reading that failed.
const LONGEST: Duration = Duration::from_secs(60);

/// What was read and not taken yet.
#[derive(Debug, Default)]
pub struct Latest {
    signals: Mutex<Option<HostSignals>>,
    stop: AtomicBool,
}

impl Latest {
    /// Takes what was read since the last call. Does not wait: what is being written just now
    /// comes next time.
    pub fn take(&self) -> Option<HostSignals> {
        self.signals.try_lock().ok()?.take()
    }

    fn put(&self, signals: HostSignals) {
        let mut slot = self.signals.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(match slot.take() {
            Some(earlier) => signals.after(earlier),
            None => signals,
        });
    }

    /// Ends the thread within moments.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Starts the thread.
///
/// # Errors
/// Where it cannot be started.
pub fn spawn(root: HostRoot, latest: Arc<Latest>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("host".into()).spawn(move || {
        let mut watch = Watch::new(root);
        while !latest.stop.load(Ordering::Relaxed) {
            thread::sleep(EVERY);
            latest.put(watch.read());
        }
    })
}

struct Watch {
    root: HostRoot,
    totals: Totals,
    strain: Strain,
    at: Instant,
    table: SocketTable,
    /// When the socket table may be read next.
    next: Instant,
    told: bool,
}

impl Watch {
    fn new(root: HostRoot) -> Self {
        let mut watch = Self {
            root,
            totals: Totals::default(),
            strain: Strain::default(),
            at: Instant::now(),
            table: SocketTable::default(),
            next: Instant::now(),
            told: false,
        };
        watch.read_totals();
        watch
    }

    fn read_totals(&mut self) -> HostSignals {
        let mut problems = Vec::new();
        let (totals, at) = (Totals::read(&self.root, &mut problems), Instant::now());
        let interval_ns = u64::try_from(at.duration_since(self.at).as_nanos()).unwrap_or(u64::MAX);
        let mut signals = totals.since(&self.totals, interval_ns);
        let strain = Strain::read(&self.root, &mut problems);
        strain.since(&self.strain, &mut signals);
        (self.totals, self.strain, self.at) = (totals, strain, at);
        if let Some(problem) = problems.first() {
            self.tell(problem);
        }
        signals
    }

    fn read(&mut self) -> HostSignals {
        let mut signals = self.read_totals();
        let begun = Instant::now();
        if begun >= self.next {
            let pause = match self.table.read(clock::monotonic_ns()) {
                Ok(reading) => {
                    signals.ports = Some(reading.ports);
                    signals.peers = Some(reading.peers);
                    pause(begun.elapsed())
                }
                Err(error) => {
                    self.tell(&format!("the socket table: {error}"));
                    LONGEST
                }
            };
            self.next = Instant::now() + pause;
        }
        signals
    }

    /// Once is enough: the kernel does not gain a feature while it runs.
    fn tell(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(problem, "A part of what the kernel tells of this host is missing; decisions do without.");
        }
    }
}

/// Returns how long to wait after a reading that took `took`.
fn pause(took: Duration) -> Duration {
    if took <= LONG { SOCKETS_EVERY } else { (took * REST).clamp(SOCKETS_EVERY, LONGEST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reading_is_followed_by_a_long_pause() {
        let ms = Duration::from_millis;
        for (took, expected) in [(1, 1000), (20, 1000), (21, 1050), (200, 10_000), (30_000, 60_000)] {
            assert_eq!(pause(ms(took)), ms(expected), "after {took} ms");
        }
    }

    #[test]
    fn what_was_read_is_taken_once_and_in_whole() {
        let latest = Latest::default();
        assert_eq!(latest.take(), None);
        for udp_sent in [1, 2] {
            latest.put(HostSignals { interval_ns: 10, udp_sent, ..HostSignals::default() });
        }
        let both = latest.take().unwrap();
        assert_eq!((both.interval_ns, both.udp_sent), (20, 3));
        assert_eq!(latest.take(), None);
    }
}
