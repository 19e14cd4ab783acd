//! One test of a packet, as JSON and as text.

use std::fmt;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::rule::Family;

/// Where a raw field is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network,
    /// What is behind IP and its extension headers. No such test holds for a later fragment.
    Transport,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The protocol behind extension headers.
    Protocol,
    /// Source address.
    Source(Family),
    /// Destination address.
    Destination(Family),
    /// IPv4's total length, or IPv6's payload length, bytes.
    Length(Family),
    /// TTL or hop limit.
    Ttl(Family),
    /// IPv4's flags and fragment offset.
    Fragment4,
    /// IPv6's first next header.
    NextHeader,
    /// Source port.
    SourcePort,
    /// Destination port.
    DestinationPort,
    /// A field of the first IPv6 extension header of a kind. A packet without that header meets no
    /// test of it.
    Extension(&'static str, &'static str),
    /// Whether there is an IPv6 extension header of a kind: 1 or 0.
    Present(&'static str),
    /// Bits of the packet, by offset and length in bits.
    Raw(Base, u32, u32),
}

/// How it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It is one of the values.
    Is,
    /// It is none of the values.
    IsNot,
    /// It is less than the value.
    Less,
    /// It is the value or more.
    AtLeast,
}

/// What it is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// A prefix.
    Net(IpNet),
    /// Ranges in ascending order, both ends included, with gaps between them.
    Ranges(Vec<(u32, u32)>),
}

/// A test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// What is looked at.
    pub field: Field,
    /// The bits of it that are.
    pub mask: Option<u32>,
    /// How.
    pub op: Op,
    /// What it is compared with.
    pub values: Values,
}

impl Test {
    /// The field is in one of these ranges.
    pub fn ranges(field: Field, ranges: Vec<(u32, u32)>) -> Self {
        Self { field, mask: None, op: Op::Is, values: Values::Ranges(ranges) }
    }

    /// The field is this number.
    pub fn one(field: Field, value: u32) -> Self {
        Self::ranges(field, vec![(value, value)])
    }

    /// The field compares so with this number.
    pub fn compared(field: Field, op: Op, value: u32) -> Self {
        Self { op, ..Self::one(field, value) }
    }

    /// The address is in this prefix.
    pub fn net(field: Field, net: IpNet) -> Self {
        Self { field, mask: None, op: Op::Is, values: Values::Net(net.trunc()) }
    }

    /// Looks at some bits only.
    pub fn masked(self, mask: u32) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// Returns the `match` statement.
    pub fn json(&self) -> Value {
        let left = match self.mask {
            Some(mask) => json!({ "&": [self.field.json(), mask] }),
            None => self.field.json(),
        };
        let right = match (&self.values, self.field) {
            (Values::Net(net), _) => json!({ "prefix": { "addr": net.addr().to_string(), "len": net.prefix_len() } }),
            (Values::Ranges(ranges), Field::Present(_)) => json!(ranges.first().is_some_and(|(first, _)| *first != 0)),
            (Values::Ranges(ranges), _) => {
                let item = |(first, last): &(u32, u32)| match first == last {
                    true => json!(first),
                    false => json!({ "range": [first, last] }),
                };
                match ranges.as_slice() {
                    [range] => item(range),
                    _ => json!({ "set": ranges.iter().map(item).collect::<Vec<_>>() }),
                }
            }
        };
        json!({ "match": { "op": self.op.word(), "left": left, "right": right } })
    }
}

impl Field {
    fn json(self) -> Value {
        let named = |protocol: &str, field: &str| json!({ "payload": { "protocol": protocol, "field": field } });
        match self {
            Self::Protocol => json!({ "meta": { "key": "l4proto" } }),
            Self::Source(family) => named(ip(family), "saddr"),
            Self::Destination(family) => named(ip(family), "daddr"),
            Self::Length(family) => named(ip(family), "length"),
            Self::Ttl(Family::Ip4) => named("ip", "ttl"),
            Self::Ttl(Family::Ip6) => named("ip6", "hoplimit"),
            Self::Fragment4 => named("ip", "frag-off"),
            Self::NextHeader => named("ip6", "nexthdr"),
            Self::SourcePort => named("th", "sport"),
            Self::DestinationPort => named("th", "dport"),
            Self::Extension(name, field) => json!({ "exthdr": { "name": name, "field": field } }),
            Self::Present(name) => json!({ "exthdr": { "name": name } }),
            Self::Raw(base, offset, len) => json!({ "payload": { "base": base.word(), "offset": offset, "len": len } }),
        }
    }
}

impl Base {
    const fn word(self) -> &'static str {
        match self {
            Self::Network => "nh",
            Self::Transport => "th",
        }
    }
}

impl Op {
    const fn word(self) -> &'static str {
        match self {
            Self::Is => "==",
            Self::IsNot => "!=",
            Self::Less => "<",
            Self::AtLeast => ">=",
        }
    }
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::Ip4 => "ip",
        Family::Ip6 => "ip6",
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Protocol => f.write_str("meta l4proto"),
            Self::Source(family) => write!(f, "{} saddr", ip(family)),
            Self::Destination(family) => write!(f, "{} daddr", ip(family)),
            Self::Length(family) => write!(f, "{} length", ip(family)),
            Self::Ttl(Family::Ip4) => f.write_str("ip ttl"),
            Self::Ttl(Family::Ip6) => f.write_str("ip6 hoplimit"),
            Self::Fragment4 => f.write_str("ip frag-off"),
            Self::NextHeader => f.write_str("ip6 nexthdr"),
            Self::SourcePort => f.write_str("th sport"),
            Self::DestinationPort => f.write_str("th dport"),
            Self::Extension(name, field) => write!(f, "{name} {field}"),
            Self::Present(name) => write!(f, "exthdr {name}"),
            Self::Raw(base, offset, len) => write!(f, "@{},{offset},{len}", base.word()),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.field)?;
        if let Some(mask) = self.mask {
            write!(f, " & {mask:#x}")?;
        }
        match self.op {
            Op::Is if self.mask.is_none() => {}
            op => write!(f, " {}", op.word())?,
        }
        let ranges = match &self.values {
            Values::Net(net) => return write!(f, " {net}"),
            Values::Ranges(ranges) => ranges,
        };
        if let Field::Present(_) = self.field {
            let is = ranges.first().is_some_and(|(first, _)| *first != 0);
            return f.write_str(if is { " exists" } else { " missing" });
        }
        // Raw fields and masks are bits to people too.
        let bits = self.mask.is_some() || matches!(self.field, Field::Raw(..));
        let number = |value: u32| if bits { format!("{value:#x}") } else { value.to_string() };
        let item = |(first, last): &(u32, u32)| match first == last {
            true => number(*first),
            false => format!("{}-{}", number(*first), number(*last)),
        };
        match ranges.as_slice() {
            [range] => write!(f, " {}", item(range)),
            _ => write!(f, " {{ {} }}", ranges.iter().map(item).collect::<Vec<_>>().join(", ")),
        }
    }
}
