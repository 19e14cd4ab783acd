//! BGP Flow Specifications (RFC 8955, RFC 8956): what of a [`FlowMatch`](super::FlowMatch) a router can be
//! asked to drop.
//!
//! [`FlowSpec::compile`] says a match in the terms of the RFC. What has no such terms (TTL, payload) is left
//! out, which matches more: the result names what that is, and holds the match that is really said, so that
//! whoever asks for it can weigh it. A [`FlowSpec`] is never empty, for an empty one means every packet.
//! [`FlowSpec::matches`] is written from the RFC's text alone, so that the compiler can be measured against it.

mod action;
mod compile;
mod matching;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use ipnet::IpNet;
use thiserror::Error;

pub use action::{LEAST_BYTES, Limit, NoLimit};
pub use compile::{CannotSay, Compiled, Widened, families};

use super::Family;

/// The longest NLRI, bytes behind its length (RFC 8955, 4.1: twelve bits). One less than there is room for:
/// ExaBGP refuses the last.
pub const MOST_BYTES: usize = 4094;

/// A flow specification: a packet matches it if it satisfies every component. At least one component, in
/// ascending order of type, each type once; no host bits; of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowSpec {
    family: Family,
    components: Vec<Component>,
}

/// A component of a flow specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// An address prefix.
    Prefix {
        /// Of which address.
        side: Side,
        /// The prefix. Bits before the offset and behind the length are clear.
        net: IpNet,
        /// How many of the first bits are not looked at; IPv6 only (RFC 8956, 3.1).
        offset: u8,
    },
    /// Numbers that a field is compared with.
    Numbers(Field, Vec<Numeric>),
    /// Bits that a field is compared with.
    Bits(BitField, Vec<Bitmask>),
}

/// The address of a prefix; the discriminants are the types of RFC 8955.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Side {
    /// The destination.
    Destination = 1,
    /// The source.
    Source = 2,
}

/// A field that holds a number; the discriminants are the types of RFC 8955 and RFC 8956.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Field {
    /// The IP protocol; in IPv6 that of the upper layer, behind extension headers.
    Protocol = 3,
    /// A port of TCP or UDP, source or destination.
    Port = 4,
    /// The destination port of TCP or UDP.
    DestinationPort = 5,
    /// The source port of TCP or UDP.
    SourcePort = 6,
    /// The type of ICMP or ICMPv6.
    IcmpType = 7,
    /// The code of ICMP or ICMPv6.
    IcmpCode = 8,
    /// The total length of the IP packet, bytes.
    Length = 10,
    /// The DSCP, six bits.
    Dscp = 11,
    /// The flow label, twenty bits; IPv6 only.
    FlowLabel = 13,
}

/// A field of bits; the discriminants are the types of RFC 8955.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum BitField {
    /// The TCP flags; with two bytes, byte 13 of the header before them.
    TcpFlags = 9,
    /// What kind of fragment it is.
    Fragment = 12,
}

/// A comparison with a number (RFC 8955, 4.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Numeric {
    /// Holds together with the one before; otherwise it is another choice. False in the first.
    pub and: bool,
    /// Holds for what is less.
    pub less: bool,
    /// Holds for what is more.
    pub more: bool,
    /// Holds for what is equal.
    pub equal: bool,
    /// What it is compared with.
    pub value: u64,
}

/// A comparison of bits (RFC 8955, 4.2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bitmask {
    /// Holds together with the one before; otherwise it is another choice. False in the first.
    pub and: bool,
    /// Holds where it would not.
    pub not: bool,
    /// Holds where all of the bits are set; otherwise, where any of them is.
    pub all: bool,
    /// The bits.
    pub value: u16,
}

/// Bits of a fragment component (RFC 8955, 4.2.2.12).
pub mod fragment {
    /// Don't-fragment; IPv4 only.
    pub const DONT: u16 = 1;
    /// A fragment other than the first.
    pub const IS: u16 = 2;
    /// The first fragment.
    pub const FIRST: u16 = 4;
    /// The last fragment.
    pub const LAST: u16 = 8;
}

/// Why components or bytes are no flow specification.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// It has no component, and would match every packet.
    #[error("it is empty, and would match every packet")]
    Empty,
    /// It is longer than the length field can say, or than the bytes at hand.
    #[error("it is {0} bytes long, and {MOST_BYTES} are the most")]
    Long(usize),
    /// The bytes end inside it.
    #[error("it ends in the middle")]
    Short,
    /// A type that is not known.
    #[error("component type {0} is not known")]
    Type(u8),
    /// A type that is not greater than the one before.
    #[error("component type {0} does not belong behind type {1}")]
    Order(u8, u8),
    /// A prefix or a value that cannot be.
    #[error("component type {0}: {1}")]
    Value(u8, &'static str),
}

impl Component {
    /// Returns its type.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Prefix { side, .. } => *side as u8,
            Self::Numbers(field, _) => *field as u8,
            Self::Bits(field, _) => *field as u8,
        }
    }

    fn check(&self, family: Family) -> Result<(), Malformed> {
        let wrong = |what| Err(Malformed::Value(self.kind(), what));
        match self {
            Self::Prefix { net, offset, .. } => match (family, net) {
                (Family::Ip4, IpNet::V4(_)) if *offset != 0 => wrong("IPv4 prefixes have no offset"),
                (Family::Ip4, IpNet::V4(_)) | (Family::Ip6, IpNet::V6(_)) if *net != net.trunc() => {
                    wrong("host bits are set")
                }
                (Family::Ip4, IpNet::V4(_)) => Ok(()),
                (Family::Ip6, IpNet::V6(net)) => match *offset {
                    0 => Ok(()),
                    _ if *offset >= net.prefix_len() => wrong("the offset is not before the end of the prefix"),
                    _ if net.addr().to_bits() >> (128 - offset) != 0 => wrong("bits before the offset are set"),
                    _ => Ok(()),
                },
                _ => wrong("the prefix is of the other family"),
            },
            Self::Numbers(Field::FlowLabel, _) if family == Family::Ip4 => wrong("only IPv6 has it"),
            Self::Numbers(field, tests) => match tests.as_slice() {
                [] => wrong("nothing is compared"),
                [first, ..] if first.and => wrong("the first comparison has none before it"),
                tests if tests.iter().any(|test| test.value > field.most()) => wrong("a value is too large"),
                _ => Ok(()),
            },
            Self::Bits(field, tests) => match tests.as_slice() {
                [] => wrong("nothing is compared"),
                [first, ..] if first.and => wrong("the first comparison has none before it"),
                tests if *field == BitField::Fragment && tests.iter().any(|test| test.value > 255) => {
                    wrong("a value is too large")
                }
                _ => Ok(()),
            },
        }
    }
}

impl Field {
    /// Returns the field of a component's type (RFC 8955, 4.2.2; RFC 8956, 3).
    pub const fn of_type(kind: u8) -> Option<Self> {
        Some(match kind {
            3 => Self::Protocol,
            4 => Self::Port,
            5 => Self::DestinationPort,
            6 => Self::SourcePort,
            7 => Self::IcmpType,
            8 => Self::IcmpCode,
            10 => Self::Length,
            11 => Self::Dscp,
            13 => Self::FlowLabel,
            _ => return None,
        })
    }

    /// Returns the largest value that the field can be compared with.
    const fn most(self) -> u64 {
        match self {
            // What a field of one byte is compared with may be larger: it is then compared in vain.
            Self::Dscp => 63,
            Self::Protocol | Self::IcmpType | Self::IcmpCode => 255,
            Self::Port | Self::DestinationPort | Self::SourcePort | Self::Length => 65_535,
            Self::FlowLabel => 0xf_ffff,
        }
    }
}

impl FlowSpec {
    /// Takes components in the order of their types.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(family: Family, components: Vec<Component>) -> Result<Self, Malformed> {
        if components.is_empty() {
            return Err(Malformed::Empty);
        }
        let mut before = 0;
        for component in &components {
            if component.kind() <= before {
                return Err(Malformed::Order(component.kind(), before));
            }
            before = component.kind();
            component.check(family)?;
        }
        let spec = Self { family, components };
        let length = spec.body().len();
        if length > MOST_BYTES { Err(Malformed::Long(length)) } else { Ok(spec) }
    }

    /// Returns its family.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Returns its components, at least one, in the order of their types.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// Returns the prefix that destinations lie in, where one is said without an offset.
    pub fn destination(&self) -> Option<IpNet> {
        self.prefix(Side::Destination)
    }

    /// Returns the prefix that sources lie in, where one is said without an offset.
    pub fn source(&self) -> Option<IpNet> {
        self.prefix(Side::Source)
    }

    fn prefix(&self, wanted: Side) -> Option<IpNet> {
        self.components.iter().find_map(|component| match component {
            Component::Prefix { side, net, offset: 0 } if *side == wanted => Some(*net),
            _ => None,
        })
    }
}
