//! What whoever drives a replay may look at, packet by packet.

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
    /// Whether it was dropped.
    pub dropped: bool,
}
