//! What is said over the control socket about the ladder.

use serde::{Deserialize, Serialize};

use crate::decide::ladder::plan::Plan;
pub use crate::decide::ladder::{RungView, View as LadderStatus};

/// An operator's word about what the ladder asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Word {
    /// Yes, to this number.
    Approve(u32),
    /// No.
    Deny(u32),
    /// Take it back for the rest of the attack; everything where there is no number.
    Withdraw(Option<u32>),
}

/// What would happen at each of some loads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LadderPlan {
    /// One for each load.
    pub plans: Vec<Plan>,
    /// What they assume, in words.
    pub assumed: Vec<String>,
}

/// What an operator's word did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LadderSaid {
    /// The moves, in words.
    pub moves: Vec<String>,
    /// It was only said what it would do.
    pub dry_run: bool,
}
