//! The ladder: what is asked of the network upstream when dropping here is not enough, and when it is taken
//! back.
//!
//! Decisions are data: a list of [`Step`]s that are wanted. The planes ([`crate::act::upstream`]) see to it
//! that they are there and nothing else of ours is, and say what they found.
//!
//! [`Policy`] says what must hold to climb; [`Ladder`] is the state machine; [`safety`] is what it may never
//! ask for; [`plan`] runs it against a network that is imagined. All times are monotonic.

mod aim;
mod climb;
mod descend;
mod engine;
mod forecast;
mod link;
pub mod model;
mod operator;
pub mod plan;
mod policy;
pub mod safety;
mod saved;
mod scene;
#[cfg(test)]
mod tests;
mod view;
mod weed;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::rule::{Action, FlowMatch};

pub use aim::Aim;
pub use engine::{Ladder, Move};
pub use link::Uplink;
pub use policy::{Approve, Kept, Kind, LadderMode, Policy, Probe, Rung, Upstream, When};
pub use saved::Saved;
pub use scene::{Attack, Filter, Scene, Traffic};
pub use view::{RungView, StepView, Turn, View};

/// What is asked of a plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Drop, or limit, what matches (BGP FlowSpec, RFC 8955 and 8956; a provider's firewall).
    Filter {
        /// What is matched. The destination lies within the operator's own space.
        matches: Box<FlowMatch>,
        /// [`Action::Drop`] or [`Action::RateLimit`].
        action: Action,
    },
    /// Drop everything towards a victim (remotely triggered black hole, RFC 5635 and 7999).
    BlackHole {
        /// A host, or what the policy allows.
        victim: IpNet,
    },
    /// Drop everything from a source (RFC 5635, section 4).
    SourceBlackHole {
        /// The source.
        source: IpNet,
    },
    /// Lead traffic for a prefix through a scrubbing centre.
    Divert {
        /// The prefix.
        prefix: IpNet,
    },
}

impl What {
    /// Returns whether both are about the same packets, whatever is done to them.
    pub fn is_about(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Filter { matches, .. }, Self::Filter { matches: of, .. }) => matches == of,
            _ => self == other,
        }
    }

    /// Returns whether it is about all packets that another is about, whatever is done to them.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Filter { matches, .. }, Self::Filter { matches: of, .. }) => matches.covers(of),
            _ => self == other,
        }
    }

    /// Returns whether it lets a part through.
    pub const fn limits(&self) -> bool {
        matches!(self, Self::Filter { action: Action::RateLimit(_), .. })
    }
}

/// Something that is wanted of a plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Unique in the life of this core.
    pub id: u32,
    /// The plane's name in the configuration: `flowspec`, `rtbh`, or the name of a `[[scrub]]`.
    pub plane: String,
    /// What it is to do.
    pub what: What,
    /// The incident that it is for; empty for an operator's own.
    pub incident: String,
    /// Why, for people and for the audit log.
    pub reason: String,
}

/// How a wanted step is, as its plane found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Asked for, not seen there yet: a provider takes minutes.
    Asked,
    /// It is there: it was read back from the plane.
    Present,
    /// The plane cannot or may not do it, and will not be asked again. Why, and the remedy.
    Refused(String),
    /// It did not work this time, and is tried again. Why.
    Failed(String),
    /// Somebody else took it back (an operator, by hand); it is not put back.
    TakenBack,
}

/// What a plane found when it last looked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The plane.
    pub plane: String,
    /// The wanted steps, by [`Step::id`].
    pub steps: Vec<(u32, Standing)>,
    /// Steps of ours that are still there though nobody wants them: they are being taken back.
    pub leaving: usize,
    /// Why the plane does not work as a whole, and the remedy: a BGP daemon that is away.
    pub trouble: Option<String>,
    /// What is there could not be looked at. A BGP daemon whose routes nobody hears is in trouble, and its routes
    /// are seen.
    #[serde(default)]
    pub unseen: bool,
}
