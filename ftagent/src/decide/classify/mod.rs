//! Names what is above normal, with the evidence for the name.

mod evidence;
mod fragments;
mod hitters;
mod l7;
mod other;
mod reflect;
mod scene;
mod service;
mod standing;
mod tcp;
mod tool;
mod traits;
mod udp;
mod weigh;

use serde::{Deserialize, Serialize};

use super::{Metric, Vector};

pub use scene::Scene;
pub use standing::{Holder, Holders, holders, standing};
pub use weigh::judge;

/// What a judgement says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The vectors, strongest first. A finding with a low confidence is kept: evidence may grow.
    pub findings: Vec<Finding>,
    /// Why an excess that no finding explains is taken for ordinary load, one line each.
    pub ordinary: Vec<String>,
}

/// One vector, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The vector.
    pub vector: Vector,
    /// How sure it is that this is an attack of this kind, 0 to 1.
    pub confidence: f64,
    /// The tool that the packets look like. A hint: it never decides anything.
    pub tool: Option<String>,
    /// What was found.
    pub evidence: Evidence,
}

/// A value and how often it occurs among the packets of a finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The value, as people write it.
    pub value: String,
    /// Its share, 0 to 1, weighted by what each sample stands for.
    pub share: f64,
}

/// The numbers that a finding rests on. Rates are those that the decision used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Names of the classes that it is about, busiest first.
    pub classes: Vec<String>,
    /// What is exceeded; absent while nothing is known of what is normal.
    pub metric: Option<Metric>,
    /// Length of the window that was looked at, milliseconds.
    pub window_ms: u64,
    /// Packets of those classes in it, and their bytes.
    pub packets: u64,
    /// See [`Self::packets`].
    pub bytes: u64,
    /// Packets a second.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
    /// What is normal, and how far normal reaches to both sides, in the metric.
    pub baseline: f64,
    /// See [`Self::baseline`].
    pub spread: f64,
    /// The threshold, in the metric.
    pub threshold: f64,
    /// Samples that were looked at.
    pub samples: u64,
    /// Different sources among them.
    pub sources: u64,
    /// Different destinations among them.
    pub destinations: u64,
    /// Share of packets from sources that were known before (an accepted connection, or a
    /// conversation both ways); absent where nobody could become known.
    pub seen_before: Option<f64>,
    /// Entropy of the sources, 0 (one) to 1 (all different).
    pub source_entropy: f64,
    /// Handshakes completed of those begun; absent where that cannot be told.
    pub handshakes_completed: Option<f64>,
    /// The same when all is normal.
    pub handshakes_normal: Option<f64>,
    /// Packets answered of those that ask for an answer; absent where what is sent is not seen.
    pub answered: Option<f64>,
    /// Sources, as prefixes of any length that hold a considerable share.
    pub top_sources: Vec<Share>,
    /// Destinations, likewise.
    pub top_destinations: Vec<Share>,
    /// Source ports.
    pub source_ports: Vec<Share>,
    /// Destination ports.
    pub destination_ports: Vec<Share>,
    /// Bytes on the wire.
    pub lengths: Vec<Share>,
    /// TTLs and hop limits.
    pub ttls: Vec<Share>,
    /// TCP flags, as in `SA`.
    pub flags: Vec<Share>,
    /// First bytes of payload, in hexadecimal.
    pub payloads: Vec<Share>,
    /// Fields that hold one value in nearly all packets.
    pub constant: Vec<String>,
    /// All of it in one line that a human can check.
    pub line: String,
}

#[cfg(test)]
pub(crate) mod tests;
