//! One rule type for every plane: what of a packet is matched, what is done, until when, by whom
//! and why.
//!
//! A rule has a text form that people write (`udp sport 123 len 400-1500 dst 198.51.100.10/32`),
//! and a form for TOML and JSON, a table of the same fields; both round-trip. The planes compile it:
//! the kernel's bit vectors in [`crate::bpf::rules`], others later.

mod action;
pub mod check;
pub mod flowspec;
mod matching;
pub mod nft;
mod relate;
pub mod set;
mod text;
pub mod vendor;
mod words;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use action::{MOST_RATE, parse};
pub use matching::Mismatch;
pub use set::Ranges;
pub use text::protocol_name;
pub use words::ParseRuleError;

/// What of a packet is matched: the dimensions of BGP FlowSpec (RFC 8955, RFC 8956) and those that
/// only a host can see. A dimension that is empty matches everything; a packet must satisfy all of
/// them. A packet that has no such field (a fragment's ports) satisfies no dimension that asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default, remote = "Self")]
pub struct FlowMatch {
    /// IPv4 or IPv6 alone; implied by a prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// Source prefix. Host bits are clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<IpNet>,
    /// Destination prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpNet>,
    /// IP protocols, behind IPv6 extension headers.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub proto: Ranges<u8>,
    /// Ports, source or destination.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub port: Ranges<u16>,
    /// Source ports.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub sport: Ranges<u16>,
    /// Destination ports.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub dport: Ranges<u16>,
    /// ICMP or ICMPv6 types.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub icmp_type: Ranges<u8>,
    /// ICMP or ICMPv6 codes.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub icmp_code: Ranges<u8>,
    /// TCP flags: any of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flags>,
    /// Total length of the IP packet, bytes.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub len: Ranges<u16>,
    /// DSCP, six bits.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub dscp: Ranges<u8>,
    /// Fragments: any of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frag: Vec<Fragment>,
    /// TTL or hop limit. No FlowSpec dimension.
    #[serde(skip_serializing_if = "Ranges::is_any")]
    pub ttl: Ranges<u8>,
    /// Bytes of payload: all of these. No FlowSpec dimension.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub payload: Vec<Payload>,
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ip4,
    /// IPv6.
    Ip6,
}

/// A test of TCP flags: those in `mask` are exactly `value`. Written `syn/syn+ack+rst+fin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Flags {
    /// Flags that are set.
    pub value: u8,
    /// Flags that are looked at.
    pub mask: u8,
}

/// A kind of packet by fragmentation (RFC 8955, 4.2.2.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fragment {
    /// Don't-fragment is set.
    Dont,
    /// A fragment other than the first.
    Is,
    /// The first fragment.
    First,
    /// The last fragment.
    Last,
    /// No fragment at all. FlowSpec says so by a negated match.
    Not,
}

/// Bytes of payload at an offset. Written `0:17000326`; a dot stands for half a byte that is not
/// looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Payload {
    /// Where they begin behind the transport header.
    pub offset: u16,
    /// The bytes, 1 to 32; clear where the mask is.
    pub value: Vec<u8>,
    /// The bits that are looked at, as many bytes.
    pub mask: Vec<u8>,
}

/// What is done with what matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Drop.
    Drop,
    /// Drop what exceeds a rate.
    RateLimit(Rate),
    /// Answer a SYN with a cookie instead of handing it to the stack.
    Challenge,
    /// Count, and go on with the next rule.
    Count,
    /// As [`Self::Count`], and give every packet to whoever records. In the kernel only.
    Capture,
}

impl Action {
    /// Returns whether it does nothing to a packet: the next rule is tried.
    pub const fn only_looks(self) -> bool {
        matches!(self, Self::Count | Self::Capture)
    }
}

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// Packets a second.
    Pps(u64),
    /// Bits a second.
    Bps(u64),
}

/// Who made a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// An operator, by user name.
    Operator(String),
    /// The daemon itself, for an incident.
    Incident(String),
    /// The configuration.
    #[default]
    Config,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// What it matches.
    #[serde(rename = "match")]
    pub matches: FlowMatch,
    /// What it does.
    pub action: Action,
    /// Who made it.
    pub origin: Origin,
    /// Why.
    pub reason: String,
}

/// A packet as rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Source and destination.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// Everything else in the headers.
    pub key: ftagent_common::rules::Key,
    /// What is at hand of the payload.
    pub payload: &'a [u8],
}

#[cfg(test)]
mod tests;
