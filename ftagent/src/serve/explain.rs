//! What would happen to a packet: the question and the answer.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::rule::{Mismatch, Origin};

/// Frames of one question at most.
pub const MOST_FRAMES: usize = 4096;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The packets, at most [`MOST_FRAMES`].
    pub frames: Vec<Frame>,
    /// Name the rules that do not match too, and why.
    pub detail: bool,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// The frame from its Ethernet header on, hexadecimal; the first 256 bytes are enough.
    pub hex: String,
    /// Bytes of the frame on the wire, without FCS; absent: as many as there are.
    pub wire: Option<u32>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// For each frame.
    pub frames: Vec<Explanation>,
}

/// What the datapath does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Pass,
    /// It passes while the rate of a rule is not exceeded.
    Limit,
    /// It is dropped.
    Drop,
}

/// What would happen to a packet now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet in one line.
    pub packet: String,
    /// The class that it is counted in.
    pub class: String,
    /// What happens.
    pub verdict: Verdict,
    /// The reason that a drop is counted under.
    pub reason: Option<String>,
    /// Why, in words.
    pub because: String,
    /// Entries of lists that cover its source.
    pub lists: Vec<ListHit>,
    /// Rules in the order in which they are tried: those that match, and where it was asked for
    /// those that do not.
    pub rules: Vec<RuleVerdict>,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListHit {
    /// `block`, `allow`, or `feed:` and its name; with `:config` behind it where the configuration
    /// says so.
    pub list: String,
    /// The prefix.
    pub prefix: IpNet,
    /// Why an operator made it; empty where that is not known.
    pub reason: String,
    /// Who made it; empty where that is not known.
    pub by: String,
    /// Seconds until it ends; absent: it does not.
    pub ends_s: Option<u64>,
}

/// Whether a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// Its number.
    pub id: u32,
    /// Who made it.
    pub origin: Origin,
    /// What it matches, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, as text.
    pub action: String,
    /// The dimensions that the packet does not satisfy: none where it matches.
    pub mismatches: Vec<Mismatch>,
    /// It is the one that decides.
    pub decides: bool,
}
