//! What is done with what matches: the rate communities (RFC 8955, 7.1 and 7.2).

use thiserror::Error;

use crate::rule::{Action, MOST_RATE, Rate};

/// The lowest limit in bytes a second. Less is dropping with more words, and some routers take it for nothing.
pub const LEAST_BYTES: u64 = 1;

/// A limit in the units of RFC 8955; `Bytes(0)` drops everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Bytes a second: traffic-rate-bytes, 0x8006.
    Bytes(u64),
    /// Packets a second: traffic-rate-packets, 0x800c, which RFC 5575 did not have and many routers ignore.
    Packets(u64),
}

/// Why an action has no rate community.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoLimit {
    /// Routers only drop and limit.
    #[error("routers cannot `{0}` by FlowSpec: only drop, and limit to a rate")]
    Action(Action),
    /// A rate that cannot be meant.
    #[error("a limit of {0} is none to announce: write `drop`, or a rate that a link has")]
    Rate(Action),
}

impl Limit {
    /// Says what an action asks for.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn of(action: Action) -> Result<Self, NoLimit> {
        match action {
            Action::Drop => Ok(Self::Bytes(0)),
            // Bits into bytes: a part of a byte is rounded down, so that no more passes than was asked for.
            Action::RateLimit(Rate::Bps(bits)) if (LEAST_BYTES * 8..=MOST_RATE).contains(&bits) => {
                Ok(Self::Bytes(bits / 8))
            }
            Action::RateLimit(Rate::Pps(packets)) if (1..=MOST_RATE).contains(&packets) => Ok(Self::Packets(packets)),
            Action::RateLimit(_) => Err(NoLimit::Rate(action)),
            _ => Err(NoLimit::Action(action)),
        }
    }

    /// Returns the rate as the communities hold it.
    pub const fn rate(self) -> f32 {
        match self {
            Self::Bytes(rate) | Self::Packets(rate) => rate as f32,
        }
    }

    /// Returns the extended community; `asn` is for information, and 0 where it does not fit in two bytes.
    pub fn community(self, asn: u32) -> [u8; 8] {
        let subtype = match self {
            Self::Bytes(_) => 0x06,
            Self::Packets(_) => 0x0c,
        };
        let [high, low] = u16::try_from(asn).unwrap_or(0).to_be_bytes();
        let [a, b, c, d] = self.rate().to_be_bytes();
        [0x80, subtype, high, low, a, b, c, d]
    }

    /// Reads an extended community; `None` where it is no rate, or none that can be meant.
    pub fn from_community(community: [u8; 8]) -> Option<Self> {
        let [0x80, subtype @ (0x06 | 0x0c), _, _, a, b, c, d] = community else { return None };
        let rate = f32::from_be_bytes([a, b, c, d]);
        // Not a number, and what is less than nothing, are no rates.
        if !(rate >= 0.0 && rate <= MOST_RATE as f32) {
            return None;
        }
        Some(if subtype == 0x06 { Self::Bytes(rate as u64) } else { Self::Packets(rate as u64) })
    }
}
