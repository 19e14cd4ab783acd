//! What is done about an attack: which rules are wanted, in which state, and what they did.
//!
//! The decisions say what they want; [`crate::act`] sees to it that the kernel has it, and what the
//! rules did comes back with the next tick. A rule is first in *shadow*, where it only counts, then
//! it is *enforced*, and it ends when its attack does, when it costs too much, or when it removes
//! nothing.

pub mod collateral;
mod evidence;
pub mod keeper;
pub mod levels;
pub mod life;
pub mod memory;
#[cfg(test)]
mod tests;
pub mod thin;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use self::collateral::Collateral;
use crate::rule::{FlowMatch, Rule};

/// Whether rules are made, and whether they drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything is decided and nothing is dropped: rules stay in shadow.
    Observe,
    /// As [`Self::Observe`] until the baseline is trusted, then as [`Self::Enforce`]; until then only
    /// findings that ordinary traffic cannot look like are acted on.
    #[default]
    Auto,
    /// Act at once.
    Enforce,
}

impl Mode {
    /// Returns whether anything is dropped; `sure`: enough is known to act by itself.
    pub const fn acts(self, sure: bool) -> bool {
        match self {
            Self::Observe => false,
            Self::Auto => sure,
            Self::Enforce => true,
        }
    }
}

/// A rule that is wanted in the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// Unique in the life of this core; smaller numbers are tried first.
    pub id: u32,
    /// What it matches and does now: [`Action::Count`](crate::rule::Action::Count) in shadow.
    pub rule: Rule,
    /// How long it stays in force from the last time it was wanted, milliseconds. It is renewed by
    /// being wanted on; if the daemon dies, it ends by itself.
    pub ttl_ms: u64,
}

/// What a rule did in a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// [`Wanted::id`].
    pub id: u32,
    /// Packets that matched, dropped or not.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// It is not in force: the kernel does not take it, or has no place for it.
    #[serde(default)]
    pub refused: bool,
}

/// Where a rule is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Counts, and drops nothing yet.
    Shadow,
    /// In force.
    Enforcing,
    /// Taken back: it would cost, or has cost, too much.
    Withdrawn,
    /// Ended with its attack, or because it removed nothing any more.
    Ended,
}

/// What a rule was expected to do when it was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Share of the attack's packets that it matches, 0 to 1.
    pub attack_share: f64,
    /// Share of clean traffic that it matches, 0 to 1: the collateral.
    pub clean_share: f64,
    /// Share of clean traffic that it matches and that may be a precursor of the attack: from
    /// sources that nothing verifies.
    pub uncertain_share: f64,
    /// How many clean flows that rests on.
    pub clean_flows: u64,
}

/// What it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Packets that matched.
    pub packets: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Bytes dropped.
    pub dropped_bytes: u64,
    /// Packets a second that matched, over the last second.
    pub pps: f64,
    /// Share of the attack's present rate that it matches, 0 to 1.
    pub attack_share: f64,
    /// Distinct flows known from before the incident that it matched.
    pub benign_flows: u64,
    /// What it costs those whom it does not concern, over the last ten seconds.
    #[serde(default)]
    pub collateral: Collateral,
}

/// A rule of an incident, as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleReport {
    /// [`Wanted::id`].
    pub id: u32,
    /// What it matches, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, as text: `drop`, `rate-limit 300 pps`.
    pub action: String,
    /// Where it is in its life.
    pub state: Phase,
    /// Why it was chosen, and why it ended.
    pub reason: String,
    /// What was expected.
    pub predicted: Predicted,
    /// What came.
    pub measured: Measured,
    /// The next best: match and expectation, best first.
    #[serde(default)]
    pub runners_up: Vec<RunnerUp>,
    /// The operator who took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_by: Option<String>,
}

/// A rule that was considered and not chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunnerUp {
    /// What it would match, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What was expected of it.
    pub predicted: Predicted,
}

/// What must never be matched by a rule that the daemon makes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exempt {
    /// Flows that are always let through: resolvers' answers, the management port, BGP.
    pub flows: Vec<FlowMatch>,
    /// This node's own addresses.
    pub own: Vec<IpAddr>,
}
