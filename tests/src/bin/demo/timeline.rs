//! One timeline of what several hosts saw.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ftagent::sense::clock;

use crate::attack::Moment;

/// What is seen is put in order for so long before it is printed: who looks less often tells later.
const ORDER: Duration = Duration::from_millis(1500);

/// What happened, told in the order in which it did.
pub struct Timeline {
    begun: Instant,
    /// The same instant on the agent's clock.
    begun_ns: u64,
    waiting: Vec<(Instant, &'static str, String)>,
    known: BTreeSet<(&'static str, String)>,
}

impl Timeline {
    /// Begins at the first packet of the flood.
    pub fn begin(at: Moment) -> Self {
        let ago = Duration::from_nanos(clock::monotonic_ns().saturating_sub(at.mono_ns));
        let now = Instant::now();
        let begun = now.checked_sub(ago).unwrap_or(now);
        Self { begun, begun_ns: at.mono_ns, waiting: Vec::new(), known: BTreeSet::new() }
    }

    /// When it began.
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// Notes what was seen; what was before the beginning is left out.
    pub fn note(&mut self, at: Instant, who: &'static str, what: String) {
        if at >= self.begun {
            self.waiting.push((at, who, what));
        }
    }

    /// Notes what the agent stamped, once: the same again is nothing new.
    pub fn note_once(&mut self, mono_ns: u64, who: &'static str, what: String) {
        let Some(since) = mono_ns.checked_sub(self.begun_ns) else { return };
        if self.known.insert((who, format!("{mono_ns} {what}"))) {
            self.note(self.begun + Duration::from_nanos(since), who, what);
        }
    }

    /// Prints what nobody can come before any more.
    pub fn flow(&mut self) {
        let until = Instant::now().checked_sub(ORDER).unwrap_or(self.begun);
        self.print(until);
    }

    /// Prints the rest.
    pub fn end(&mut self) {
        self.print(Instant::now());
    }

    fn print(&mut self, until: Instant) {
        self.waiting.sort_by_key(|(at, ..)| *at);
        let later = self.waiting.partition_point(|(at, ..)| *at <= until);
        for (at, who, what) in self.waiting.drain(..later) {
            println!("  {:>8.3} s  {who:8} {what}", (at - self.begun).as_secs_f64());
        }
    }
}
