//! When packets are sent: pure arithmetic on virtual nanoseconds.
//!
//! Paced sources run on *load*: the number of packets that are due by a time, which is the
//! integral of the rate. The k-th packet of an even source is sent when the load reaches k; of a
//! Poisson source, when it reaches the sum of k exponential gaps of mean 1. Inverting the integral
//! gives the time without adding up errors, whatever ramp and pulse do to the rate.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// How packets of a paced source are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// At random, independent of each other.
    Poisson,
}

/// On and off, in turns, beginning with on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Length of "on", nanoseconds.
    pub on: u64,
    /// Length of "off", nanoseconds.
    pub off: u64,
}

impl Pulse {
    /// Returns the time since the start at which a source that is silent while off has been on
    /// for `active` nanoseconds.
    pub fn stretch(self, active: u64) -> u64 {
        active.saturating_add((active / self.on).saturating_mul(self.off))
    }
}

/// Grows geometrically from the source's own rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// The rate at the end and afterwards, packets per second.
    pub to: f64,
    /// How long it grows, nanoseconds.
    pub over: u64,
}

/// The rate of a paced source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Packets per second, while on.
    pub pps: f64,
    /// How packets are spaced.
    pub arrivals: Arrivals,
    /// Growth.
    pub ramp: Option<Ramp>,
    /// Silence in between. The ramp goes on growing meanwhile.
    pub pulse: Option<Pulse>,
}

impl Pace {
    /// Returns the load at a time: the packets due since the start if the source were always on.
    fn load(&self, seconds: f64) -> f64 {
        let Some((growth, over, to)) = self.growth() else { return self.pps * seconds };
        let growing = seconds.min(over);
        self.pps / growth * libm::expm1(growth * growing) + to * (seconds - growing)
    }

    /// Returns the time at which the load reaches a value.
    fn time(&self, load: f64) -> f64 {
        let Some((growth, over, to)) = self.growth() else { return load / self.pps };
        let grown = self.load(over);
        if load >= grown {
            return over + (load - grown) / to;
        }
        libm::log1p(load * growth / self.pps) / growth
    }

    /// Returns the exponent of the growth per second, its length in seconds, and the last rate.
    fn growth(&self) -> Option<(f64, f64, f64)> {
        let ramp = self.ramp?;
        let over = seconds(ramp.over);
        let growth = libm::log(ramp.to / self.pps) / over;
        (growth != 0.0).then_some((growth, over, ramp.to))
    }
}

/// Draws the times of a paced source, one after the other.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    rng: ChaCha8Rng,
    /// Packets sent (even), or the sum of the gaps (Poisson).
    due: f64,
    /// Load that fell into silence.
    skipped: f64,
    /// End of the present "on", nanoseconds.
    on_until: u64,
    /// Nothing is sent from then on, nanoseconds.
    end: u64,
    last: u64,
}

impl Pacer {
    /// Makes a pacer whose time begins at 0; times at or past `end` need not be exact.
    pub fn new(pace: Pace, rng: ChaCha8Rng, end: u64) -> Self {
        let on_until = pace.pulse.map_or(u64::MAX, |pulse| pulse.on);
        Self { pace, rng, due: 0.0, skipped: 0.0, on_until, end, last: 0 }
    }

    /// Returns when the next packet is sent, nanoseconds since the source's start; never earlier
    /// than the one before.
    pub fn next_ns(&mut self) -> u64 {
        let due = match self.pace.arrivals {
            Arrivals::Even => {
                self.due += 1.0;
                self.due - 1.0
            }
            Arrivals::Poisson => {
                // 53 random bits: in (0, 1], so that the logarithm is finite.
                let uniform = ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
                self.due -= libm::log(uniform);
                self.due
            }
        };
        let mut at = nanoseconds(self.pace.time(due + self.skipped));
        while let Some(pulse) = self.pace.pulse.filter(|_| at >= self.on_until) {
            let resume = self.on_until.saturating_add(pulse.off);
            self.skipped += self.pace.load(seconds(resume)) - self.pace.load(seconds(self.on_until));
            self.on_until = resume.saturating_add(pulse.on);
            // Rounding must not put a packet back into the silence.
            at = nanoseconds(self.pace.time(due + self.skipped)).max(resume);
            if resume >= self.end {
                break;
            }
        }
        self.last = self.last.max(at);
        self.last
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}

/// Rounds to the nearest: `as` saturates, which is wanted past the end of time.
fn nanoseconds(seconds: f64) -> u64 {
    libm::round(seconds * SECOND as f64) as u64
}

#[cfg(test)]
mod tests;
