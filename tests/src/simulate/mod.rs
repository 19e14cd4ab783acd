//! Days and rates that cannot be replayed packet by packet: simulated counts and samples, through
//! the same [`ftagent::decide::Decider`].
//!
//! [`world`] turns a model of traffic into ticks. People are whole connections with answers, as
//! [`crate::evaluate::generate`] writes them, each from an address of its own; floods are their
//! packets. What days are simulated in has ticks of one second, the rest of 100 ms.

mod adversary;
mod month;
mod short;
pub mod world;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// What a simulation found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The behaviour that it shows.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What was simulated, in words.
    pub about: String,
    /// Whether the behaviour holds.
    pub holds: bool,
    /// What came out, in a line.
    pub summary: String,
    /// The figures.
    pub lines: Vec<String>,
}

type Simulation = fn() -> Result<Finding>;

/// All simulations, by behaviour and name.
pub const ALL: [(&str, &str, Simulation); 5] = [
    ("V19", "month", month::run),
    ("V20", "adversary", adversary::run),
    ("V5", "ramps", short::ramps),
    ("V8", "cold", short::cold),
    ("V16", "crowd", short::crowd),
];
