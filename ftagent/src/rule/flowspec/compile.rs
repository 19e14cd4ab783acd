//! From matches to flow specifications.

use std::fmt;

use ipnet::IpNet;
use thiserror::Error;

use super::{BitField, Bitmask, Component, Field, FlowSpec, Malformed, Numeric, Side, fragment};
use crate::rule::{Family, Flags, FlowMatch, Fragment, Ranges, set::Number};

/// A match in the terms of RFC 8955.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The flow specification.
    pub spec: FlowSpec,
    /// What was left out, so that more is matched than was asked for; none: exactly what was asked for.
    pub widened: Vec<Widened>,
    /// What it says, as a match: what was asked for without what was left out.
    pub says: FlowMatch,
    /// It asks for ports, flags or ICMP, which a router also sees in the first fragment of a datagram (RFC 8955,
    /// 4.2.2.4). Where packets are parsed here, first fragments have none: these are matched beyond what was
    /// asked for, and belong to the same flow.
    pub first_fragments: bool,
}

/// A dimension that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widened {
    /// The word of the dimension, as the text form of matches has it.
    pub dimension: &'static str,
    /// What was asked for, as text.
    pub asked: String,
}

impl fmt::Display for Widened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} cannot be said in FlowSpec: any matches", self.dimension, self.asked)
    }
}

/// Why a match has no flow specification. The remedy is to match something else, or to ask another plane.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CannotSay {
    /// It is limited to the other family.
    #[error("it matches packets of the other IP family alone")]
    Family,
    /// No packet satisfies it.
    #[error("no packet can match it: {0}")]
    Nothing(String),
    /// Nothing of it can be said, so that every packet would match.
    #[error("nothing of it can be said in FlowSpec (RFC 8955 has neither TTL nor payload): every packet would match")]
    Everything,
    /// It does not fit.
    #[error("it cannot be written: {0}; match fewer values")]
    Malformed(#[from] Malformed),
}

/// Returns the families that a match has packets of: one flow specification each.
pub fn families(matches: &FlowMatch) -> Vec<Family> {
    matches.family().map_or_else(|| vec![Family::Ip4, Family::Ip6], |family| vec![family])
}

impl FlowSpec {
    /// Says what a match asks for of the packets of a family.
    ///
    /// # Errors
    /// Why it cannot be said, not even as something wider.
    pub fn compile(matches: &FlowMatch, family: Family) -> Result<Compiled, CannotSay> {
        if matches.family().is_some_and(|own| own != family) {
            return Err(CannotSay::Family);
        }
        if let Some(why) = matches.impossible() {
            return Err(CannotSay::Nothing(why));
        }
        // Type and code are those of the family's own ICMP (RFC 8955, 4.2.2.7; RFC 8956, 3.5). Packets parsed here
        // have them with the other one's number too, which no host sends and no router can be asked for.
        let icmp = if family == Family::Ip4 { 1 } else { 58 };
        if !(matches.proto.contains(icmp) || matches.icmp_type.is_any() && matches.icmp_code.is_any()) {
            return Err(CannotSay::Nothing("ICMP of the one IP family is none of the other".to_owned()));
        }
        let (widened, says) = left_out(matches, family);
        let mut components = Vec::new();
        for (side, net) in [(Side::Destination, says.dst), (Side::Source, says.src)] {
            // Every address of the family: the family says so already.
            let net: Option<IpNet> = net.filter(|net| net.prefix_len() > 0);
            components.extend(net.map(|net| Component::Prefix { side, net: net.trunc(), offset: 0 }));
        }
        let mut numbers = |field: Field, tests: Vec<Numeric>| {
            if !tests.is_empty() {
                components.push(Component::Numbers(field, tests));
            }
        };
        numbers(Field::Protocol, always(&says.proto, 255));
        numbers(Field::Port, tests(&says.port, 65_535));
        numbers(Field::DestinationPort, tests(&says.dport, 65_535));
        numbers(Field::SourcePort, tests(&says.sport, 65_535));
        numbers(Field::IcmpType, tests(&says.icmp_type, 255));
        numbers(Field::IcmpCode, tests(&says.icmp_code, 255));
        numbers(Field::Length, always(&says.len, 65_535));
        numbers(Field::Dscp, always(&says.dscp, 63));
        for (field, tests) in
            [(BitField::TcpFlags, flags(&says.flags)), (BitField::Fragment, fragments(&says.frag, family)?)]
        {
            if !tests.is_empty() {
                components.push(Component::Bits(field, tests));
            }
        }
        components.sort_by_key(Component::kind);
        if components.is_empty() {
            return Err(CannotSay::Everything);
        }
        let header = [Field::Port, Field::DestinationPort, Field::SourcePort, Field::IcmpType, Field::IcmpCode];
        let headers = |component: &Component| match component {
            Component::Numbers(field, _) => header.contains(field),
            Component::Bits(field, _) => *field == BitField::TcpFlags,
            Component::Prefix { .. } => false,
        };
        let first_fragments = components.iter().any(headers);
        Ok(Compiled { spec: Self::new(family, components)?, widened, says, first_fragments })
    }
}

/// Returns what a match asks for that cannot be said, and the match without it.
fn left_out(matches: &FlowMatch, family: Family) -> (Vec<Widened>, FlowMatch) {
    let mut says = FlowMatch { family: Some(family), ..matches.clone() };
    let mut widened = Vec::new();
    // All of them are none of them, and say nothing.
    if !says.ttl.is_all(255) {
        widened.push(Widened { dimension: "ttl", asked: says.ttl.to_string() });
    }
    for payload in &says.payload {
        widened.push(Widened { dimension: "payload", asked: payload.to_string() });
    }
    says.ttl = Ranges::default();
    says.payload = Vec::new();
    (widened, says)
}

/// As [`tests`], of a field that every packet has: a set that names every value says nothing.
fn always<T: Number>(ranges: &Ranges<T>, most: u32) -> Vec<Numeric> {
    if ranges.is_all(most) { Vec::new() } else { tests(ranges, most) }
}

/// Returns comparisons that hold for values of any of the ranges; none where any value will do. A set that names
/// every value says that there is such a field.
fn tests<T: Number>(ranges: &Ranges<T>, most: u32) -> Vec<Numeric> {
    let test = |less, more, equal, value: u32| Numeric { and: false, less, more, equal, value: value.into() };
    let range = |(first, last): (T, T)| -> Vec<Numeric> {
        let (first, last): (u32, u32) = (first.into(), last.into());
        match (first, last) {
            _ if first == last => vec![test(false, false, true, first)],
            (0, _) if last < most => vec![test(true, false, true, last)],
            _ if last >= most => vec![test(false, true, true, first)],
            _ => vec![test(false, true, true, first), Numeric { and: true, ..test(true, false, true, last) }],
        }
    };
    ranges.iter().flat_map(range).collect()
}

/// Returns comparisons that hold for any of the tests: the flags that are to be set, and none of those that are
/// to be clear. Each of the latter stands alone, because implementations differ in what a negated comparison of
/// several bits is: that none is set, or that not all are.
fn flags(wanted: &[Flags]) -> Vec<Bitmask> {
    let mut tests = Vec::new();
    for Flags { value, mask } in wanted {
        let begin = tests.len();
        if *value != 0 {
            tests.push(Bitmask { and: false, not: false, all: true, value: (*value).into() });
        }
        for bit in bits(mask & !value) {
            tests.push(Bitmask { and: tests.len() > begin, not: true, all: false, value: bit });
        }
    }
    tests
}

fn bits(mask: u8) -> impl Iterator<Item = u16> {
    (0..8).map(|shift| 1u16 << shift).filter(move |bit| u16::from(mask) & bit != 0)
}

/// Returns comparisons that hold for any of the kinds.
fn fragments(kinds: &[Fragment], family: Family) -> Result<Vec<Bitmask>, CannotSay> {
    let one = |value| Bitmask { and: false, not: false, all: false, value };
    let mut tests = Vec::new();
    for kind in kinds {
        match kind {
            // IPv6 has no such bit: no packet is of this kind (RFC 8956, 3.6).
            Fragment::Dont if family == Family::Ip6 => {}
            Fragment::Dont => tests.push(one(fragment::DONT)),
            Fragment::Is => tests.push(one(fragment::IS)),
            Fragment::First => tests.push(one(fragment::FIRST)),
            Fragment::Last => tests.push(one(fragment::LAST)),
            Fragment::Not => tests.extend([
                Bitmask { not: true, ..one(fragment::IS) },
                Bitmask { not: true, and: true, ..one(fragment::FIRST) },
            ]),
        }
    }
    if tests.is_empty() && !kinds.is_empty() {
        return Err(CannotSay::Nothing("IPv6 has no don't-fragment bit".to_owned()));
    }
    Ok(tests)
}
