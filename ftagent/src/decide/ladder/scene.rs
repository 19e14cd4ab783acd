//! What the ladder is told of a tick.

use std::net::IpAddr;

use ipnet::IpNet;

use super::What;
use crate::{
    decide::{Now, mitigate::Exempt},
    rule::{Action, FlowMatch},
};

/// What arrives here now. Behind what is dropped upstream nothing can be seen.
pub trait Traffic {
    /// Returns the bits a second that arrive of what a step is about.
    fn arriving(&self, what: &What) -> f64;
}

/// A rule that is in force here, as it can be said upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// What it matches: no dimension that only a host can see.
    pub matches: FlowMatch,
    /// Drop, or limit.
    pub action: Action,
    /// Share of the attack that the rule matches, 0 to 1.
    pub share: f64,
    /// The rule's number.
    pub rule: u32,
}

/// The open incident.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attack {
    /// Its id.
    pub id: String,
    /// When it opened, monotonic nanoseconds.
    pub opened_ns: u64,
    /// Packets a second of it that arrive, before drops here.
    pub pps: f64,
    /// Bits of those.
    pub bps: f64,
    /// Share of it that passes what is dropped here, 0 to 1.
    pub residual: f64,
    /// Its rules that are in force and can be said upstream.
    pub filters: Vec<Filter>,
    /// Rules that were taken back because they cost too much: they are not to be upstream either.
    pub withdrawn: Vec<u32>,
    /// Rules in force that cannot be said upstream, and why, in words.
    pub unsaid: Vec<String>,
    /// The addresses that it is aimed at, each with its share of it, largest first.
    pub victims: Vec<(IpAddr, f64)>,
    /// The operator's own prefixes, each with the share of it that goes to all its addresses together; where it is
    /// absent, that is the sum of the victims'.
    pub prefixes: Vec<(IpNet, f64)>,
    /// Sources of it that completed a handshake, busiest first.
    pub sources: Vec<IpAddr>,
}

/// A tick.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// Its end.
    pub now: Now,
    /// Its length, nanoseconds.
    pub elapsed_ns: u64,
    /// The open incident.
    pub attack: Option<&'a Attack>,
    /// Packets a second that cards and backlogs lost, and the share of the busiest CPU in soft interrupts (0 to 1),
    /// where that was read in this tick.
    pub strain: Option<(f64, f64)>,
    /// Whether anything is to be done about attacks at all now.
    pub acts: bool,
    /// Whether what is upstream already may go on: an operator did not say that nothing is to be done.
    pub keeps: bool,
    /// What no rule may match.
    pub exempt: &'a Exempt,
    /// What arrives.
    pub traffic: &'a dyn Traffic,
}
