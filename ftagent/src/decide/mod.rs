//! Decisions: a functional core. What it is given is data, what it returns is data.
//!
//! [`Decider::on_tick`] takes the counts and samples of a tick. [`baseline`] knows what is normal
//! and [`detect`] says which classes exceed it; [`analyst`] keeps what the samples tell and
//! [`classify`] names what it is; [`incident`] is the state machine that people see.
//!
//! There is no clock, no file and no randomness in here: replay gives the same decisions every
//! time, and a simulated month is a test.

#[macro_use]
mod copy;

pub mod analyst;
pub mod baseline;
mod bytes;
pub mod classify;
mod decider;
pub mod destinations;
pub mod detect;
pub mod flows;
#[cfg(test)]
pub(crate) mod frames;
pub mod guard;
pub mod incident;
pub mod input;
pub mod known;
pub mod ladder;
pub mod machine;
pub mod mitigate;
pub mod packet;
pub mod reservoir;
pub mod synthesis;
mod table;
pub mod tripwire;
pub mod vector;

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

pub use decider::{Decider, Event, Settings};
pub use incident::{Incident, Severity};
pub use packet::Packet;
pub use vector::Vector;

use crate::sense::signals::HostSignals;

/// The version of a [`Decider`] written down. It goes up with every change of what is in it, or of what is meant
/// by it: another version cannot go on from there.
pub const STATE_VERSION: u32 = 6;

/// An instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Monotonic nanoseconds; of virtual time in replay, where it begins at 0.
    pub mono_ns: u64,
    /// Milliseconds since 1970, UTC. May step; only the hour of the week and what people read
    /// depend on it.
    pub unix_ms: i64,
}

/// What was counted of one class in a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// What was counted in a tick, by class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// By class number.
    pub classes: [ClassCount; TrafficClass::COUNT],
}

impl Default for Counts {
    fn default() -> Self {
        Self { classes: [ClassCount::default(); TrafficClass::COUNT] }
    }
}

impl Counts {
    /// Returns what was counted of a class.
    pub fn of(&self, class: TrafficClass) -> ClassCount {
        self.classes.get(class.index()).copied().unwrap_or_default()
    }
}

/// Everything that is known of one tick: 100 ms, less where something is the matter, longer where ticks
/// were missed.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// Its end.
    pub now: Now,
    /// Its length, nanoseconds.
    pub elapsed_ns: u64,
    /// What was counted in it, before drops.
    pub counts: &'a Counts,
    /// Packets towards this host that were sampled in it, in order of time. A sample stands for
    /// as many packets as its class had in the tick, divided by the samples of that class:
    /// strides, caps and losses then cancel out.
    pub samples: &'a [Packet],
    /// Packets that this host sent, where they are seen (replay); `None` where they are not.
    pub outbound: Option<&'a [Packet]>,
    /// The kernel's statistics, in the ticks in which they were read.
    pub host: Option<&'a HostSignals>,
    /// What the wanted rules did in it; those that are not in force yet are absent.
    pub rules: &'a [mitigate::RuleCount],
}

/// What a rate is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Packets per second.
    Pps,
    /// Bits per second.
    Bps,
    /// What the packets are, whatever their rate: a class that this node has no business
    /// receiving, or connections that are held and not used.
    Structure,
}

/// A class above what is normal for it: the arithmetic of a detection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Excess {
    /// The class.
    pub class: TrafficClass,
    /// The metric that is exceeded.
    pub metric: Metric,
    /// When the excess began, monotonic nanoseconds.
    pub since_ns: u64,
    /// Packets and bytes of the class since then.
    pub packets: u64,
    /// See [`Self::packets`].
    pub bytes: u64,
    /// The present rate, packets per second, over the excess but at most the last second.
    pub pps: f64,
    /// The present rate, bits per second.
    pub bps: f64,
    /// What is normal, in the metric.
    pub baseline: f64,
    /// How far normal reaches to both sides, in the metric.
    pub spread: f64,
    /// The threshold, in the metric.
    pub threshold: f64,
    /// What is normal, packets per second, whatever the metric.
    pub baseline_pps: f64,
    /// How far the baseline is trusted yet.
    pub trusted: bool,
}
