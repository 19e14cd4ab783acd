//! Compiles rules for nftables: JSON for `nft -j` (libnftables-json(5)).
//!
//! A match becomes one branch for each IP family. nftables rules are conjunctions, so what a match asks
//! for in several ways (ports of either end, payload behind TCP headers of any length) becomes several
//! alternatives, and what it excludes becomes rules that leave early: a branch is a small chain. What
//! nftables cannot tell apart is taken too and said so ([`Widened`]): never does a branch miss a
//! packet that the match means, but those that no chain on an interface is shown ([`UNSEEN`]).

mod branch;
mod field;
mod payload;

use std::fmt;

use serde_json::{Value, json};
use thiserror::Error;

pub use branch::Branch;
pub use field::{Base, Field, Op, Test, Values};

use super::{Action, Family, FlowMatch, Rate};

/// A match for nftables, and what is done with what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// What to do with IPv4 packets; `None`: the match means none of them.
    pub ip4: Option<Branch>,
    /// What to do with IPv6 packets.
    pub ip6: Option<Branch>,
    /// What is done.
    pub verdict: Verdict,
    /// What is taken beyond the match.
    pub widened: Vec<Widened>,
}

/// What is done with a packet that a rule takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// It is counted, and the next rule is tried.
    Count,
    /// It is dropped where it exceeds a rate, and accepted otherwise: no further rule is tried.
    Limit(Limit),
}

/// A rate as `limit` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What passes in a second.
    pub rate: u64,
    /// What passes at once after a pause.
    pub burst: u64,
    /// Bytes, not packets.
    pub bytes: bool,
}

/// What a rule takes in nftables beyond what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Widened {
    /// Packets that contradict themselves, which no rule means: a source that cannot be one, a UDP
    /// length beyond the packet, source and destination alike.
    Malformed,
    /// Payload bytes that lie behind the IP packet, in what pads its frame, where IPv4 options and
    /// TCP, or IPv6 extension headers, put the payload's place out of reach.
    Padding,
    /// IPv6 packets with an authentication header may be taken by a fragment header behind it, and where other
    /// extension headers come before it, whatever it holds.
    Authentication,
    /// First fragments whose fragment header is not the last extension header are taken by what is
    /// behind the last.
    FirstFragment,
}

impl fmt::Display for Widened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "packets whose headers contradict themselves are not left out",
            Self::Padding => {
                "where options or extension headers come first, payload bytes may also be found in a frame's padding"
            }
            Self::Authentication => {
                "IPv6 packets with an authentication header may be taken by what is behind it, or whatever it holds"
            }
            Self::FirstFragment => {
                "first fragments with extension headers behind the fragment header are taken by what is behind those"
            }
        })
    }
}

/// What a chain at an interface's ingress is not shown, or cannot find, whatever the rule.
pub const UNSEEN: [&str; 3] = [
    "IP behind two VLAN tags: name the VLAN's own interface",
    "a second fragment header and what is behind it; where fragments are left out, an authentication header between two \
     headers of one kind and a fragment header (IPv6)",
    "the segments of what the kernel merged before (GRO): a length is that of the merged packet",
];

/// A rule that nftables has no words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CannotSay {
    /// Answering SYNs.
    #[error(
        "nftables cannot answer SYNs for the kernel's own listeners: `challenge` needs XDP; write `rate-limit` or `drop`"
    )]
    Challenge,
    /// Giving packets to whoever records.
    #[error("nftables cannot hand whole packets to the recorder: captures need XDP")]
    Capture,
    /// A rate that the kernel's arithmetic overflows at.
    #[error("nftables limits {0} bytes a second at most (137 Gbps): write a lower rate, one in packets, or `drop`")]
    Rate(u64),
}

/// The highest limit in bytes a second: `nft_limit` keeps rate and burst in nanoseconds, 64 bits of them.
const MOST_BYTES: u64 = 1 << 34;

/// Compiles a rule.
///
/// # Errors
/// What nftables cannot do at all.
pub fn compile(matches: &FlowMatch, action: Action) -> Result<Compiled, CannotSay> {
    let verdict = match action {
        Action::Drop => Verdict::Drop,
        Action::Count => Verdict::Count,
        Action::RateLimit(rate) => match limit(rate) {
            None => Verdict::Drop,
            Some(Limit { bytes: true, rate: MOST_BYTES.., .. }) => return Err(CannotSay::Rate(MOST_BYTES)),
            Some(limit) => Verdict::Limit(limit),
        },
        Action::Challenge => return Err(CannotSay::Challenge),
        Action::Capture => return Err(CannotSay::Capture),
    };
    let mut widened = vec![Widened::Malformed];
    let [ip4, ip6] = [Family::Ip4, Family::Ip6].map(|family| branch::branch(matches, family, &mut widened));
    widened.sort_unstable();
    widened.dedup();
    Ok(Compiled { ip4, ip6, verdict, widened })
}

/// Returns a rate with a burst of a fortieth of a second, as the kernel program has it; `None` where
/// nothing passes.
fn limit(rate: Rate) -> Option<Limit> {
    // One packet must fit what is saved up, or none would ever pass.
    const LARGEST_PACKET: u64 = 65_575;
    let (rate, least, bytes) = match rate {
        Rate::Pps(rate) => (rate, 1, false),
        Rate::Bps(bits) => (bits.div_ceil(8), LARGEST_PACKET, true),
    };
    let burst = (rate / 40).clamp(least, u32::MAX.into());
    (rate != 0).then_some(Limit { rate, burst, bytes })
}

impl Limit {
    /// Returns the statement that holds for what exceeds the rate.
    pub fn over(self) -> Value {
        let Self { rate, burst, bytes } = self;
        match bytes {
            true => json!({ "limit": {
                "rate": rate, "rate_unit": "bytes", "per": "second", "burst": burst, "burst_unit": "bytes", "inv": true,
            } }),
            false => json!({ "limit": { "rate": rate, "per": "second", "burst": burst, "inv": true } }),
        }
    }
}

impl Compiled {
    /// Returns the branches there are.
    pub fn branches(&self) -> impl Iterator<Item = (Family, &Branch)> {
        let both = [(Family::Ip4, &self.ip4), (Family::Ip6, &self.ip6)];
        both.into_iter().filter_map(|(family, branch)| branch.as_ref().map(|branch| (family, branch)))
    }
}

#[cfg(test)]
mod tests;
