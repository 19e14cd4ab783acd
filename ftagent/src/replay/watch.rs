//! What whoever drives a replay may look at, packet by packet.

use ftagent_common::reason::verdict;

use super::scenario::Label;

/// A packet that the program has just decided about.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Virtual time, nanoseconds since the start.
    pub time_ns: u64,
    /// What its source is; `None` without a scenario.
    pub label: Option<Label>,
    /// The frame, from the Ethernet header on, without FCS.
    pub frame: &'a [u8],
    /// What became of it.
    pub fate: Fate,
}

/// A SYN that the guard answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its number among those of a replay.
    pub number: u64,
    /// When it came, virtual time, nanoseconds since the start.
    pub time_ns: u64,
    /// Its source, by number.
    pub source: usize,
    /// Its bytes, from the Ethernet header on.
    pub bytes: u64,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It went on to the stack.
    Passed,
    /// It went on, and brought back the cookie that its SYN was answered with: that SYN was no loss to
    /// whoever sent it, and is no gain for whoever was attacked.
    Returned(Answer),
    /// A SYN that the guard answered by a cookie: the stack does not see it.
    Answered(Answer),
    /// It was dropped.
    Dropped,
}

impl Fate {
    /// Reads a verdict of the program, of a packet that was not answered.
    pub(super) fn of(verdict: u32) -> Self {
        match verdict {
            verdict::DROP | verdict::ABORTED => Self::Dropped,
            _ => Self::Passed,
        }
    }
}
