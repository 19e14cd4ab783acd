//! What one IP family's packets are asked.

use ftagent_common::rules::fragment as bits;

use super::{
    Widened,
    field::{Base, Field, Op, Test},
    payload,
};
use crate::rule::{Family, FlowMatch, Fragment, Payload, Ranges, set::Number};

/// A match for packets of one family: they have to pass every test of `all`, and one of the conjunctions
/// of `first`; or else none of those of `leave` and one of those of `take`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// Tests for every packet.
    pub all: Vec<Test>,
    /// What is taken, whatever of `leave` it passes.
    pub first: Vec<Vec<Test>>,
    /// What is left alone.
    pub leave: Vec<Vec<Test>>,
    /// What is taken; never empty.
    pub take: Vec<Vec<Test>>,
}

impl Branch {
    /// Returns the tests where one nftables rule says it all.
    pub fn lone(&self) -> Option<impl Iterator<Item = &Test>> {
        match (self.first.is_empty() && self.leave.is_empty(), self.take.as_slice()) {
            (true, [take]) => Some(self.all.iter().chain(take)),
            _ => None,
        }
    }
}

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const AH: u8 = 51;
pub(super) const ICMPV6: u8 = 58;
/// Extension headers that are walked past: hop-by-hop, routing, fragment, destination.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
/// IPv4's more-fragments and offset bits.
const NOT_WHOLE: u32 = 0x3fff;
/// The bytes of an IPv6 header, which its payload length does not count.
const HEADER6: u16 = 40;

/// Protocols that a match can mean.
pub(super) type Protocols = Vec<u8>;

/// Returns a match as one family's packets are asked; `None` where it means none of them.
pub(super) fn branch(matches: &FlowMatch, family: Family, widened: &mut Vec<Widened>) -> Option<Branch> {
    let of = |net: &ipnet::IpNet| if net.addr().is_ipv4() { Family::Ip4 } else { Family::Ip6 };
    let nets = [(Field::Source(family), matches.src), (Field::Destination(family), matches.dst)];
    let families = matches.family.into_iter().chain(nets.iter().filter_map(|(_, net)| net.as_ref().map(of)));
    if families.into_iter().any(|wanted| wanted != family) {
        return None;
    }
    let protocols = protocols(matches);
    if protocols.is_empty() {
        return None;
    }
    let mut branch = Branch::default();
    for (field, net) in nets {
        branch.all.extend(net.filter(|net| net.prefix_len() > 0).map(|net| Test::net(field, net)));
    }
    branch.all.extend(length(&matches.len, family)?);
    branch.all.extend(ranges(Field::Ttl(family), &matches.ttl, u8::MAX.into()));
    branch.all.extend(dscp(&matches.dscp, family));
    fragments(&mut branch, matches, family, &protocols)?;
    takes(&mut branch, matches, family, &protocols, widened);
    let asks = !(is_any(&protocols) && matches.payload.is_empty() && branch.leave.is_empty());
    if family == Family::Ip6 && asks {
        widened.extend([Widened::Authentication, Widened::FirstFragment]);
    }
    Some(branch)
}

/// Returns the protocols that can have all the fields that are asked for.
fn protocols(matches: &FlowMatch) -> Protocols {
    let ports = [&matches.port, &matches.sport, &matches.dport].iter().any(|ports| !ports.is_any());
    let icmp = !matches.icmp_type.is_any() || !matches.icmp_code.is_any();
    let can = |number: &u8| {
        matches.proto.contains(*number)
            && (!ports || matches!(*number, TCP | UDP))
            && (!icmp || matches!(*number, ICMP | ICMPV6))
            && (matches.flags.is_empty() || *number == TCP)
    };
    (0..=u8::MAX).filter(can).collect()
}

pub(super) fn is_any(protocols: &[u8]) -> bool {
    protocols.len() == 256
}

/// Returns numbers in ascending order as ranges.
pub(super) fn joined(numbers: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// Returns the test of a protocol; none where any will do.
pub(super) fn is_of(protocols: &[u8]) -> Option<Test> {
    let numbers = || joined(protocols.iter().map(|number| u32::from(*number)));
    (!is_any(protocols)).then(|| Test::ranges(Field::Protocol, numbers()))
}

/// Returns the test of a field; none where any value will do.
fn ranges<T: Number>(field: Field, ranges: &Ranges<T>, most: u32) -> Option<Test> {
    let all: Vec<(u32, u32)> = ranges.iter().map(|(first, last)| (first.into(), last.into())).collect();
    (!ranges.is_any() && all != [(0, most)]).then(|| Test::ranges(field, all))
}

/// The match has the total length, of which an IPv6 header has only what is behind it. `None`: no
/// packet of this family is that short.
fn length(len: &Ranges<u16>, family: Family) -> Option<Option<Test>> {
    if family == Family::Ip4 || len.is_any() {
        return Some(ranges(Field::Length(family), len, u16::MAX.into()));
    }
    let behind = |(first, last): (u16, u16)| {
        // Longer packets than the total length can tell count as 65 535 bytes long.
        let last = if last == u16::MAX { last } else { last.checked_sub(HEADER6)? };
        Some((first.saturating_sub(HEADER6), last))
    };
    let behind: Vec<(u16, u16)> = len.iter().filter_map(behind).collect();
    let behind = Ranges::new(behind).ok().filter(|ranges| !ranges.is_any())?;
    Some(ranges(Field::Length(family), &behind, u16::MAX.into()))
}

/// DSCP are the upper six bits of a byte in IPv4, and lie across two bytes in IPv6, behind the version;
/// as ranges of whole bytes they need no mask.
fn dscp(dscp: &Ranges<u8>, family: Family) -> Option<Test> {
    let (field, base, shift) = match family {
        Family::Ip4 => (Field::Raw(Base::Network, 8, 8), 0, 2),
        Family::Ip6 => (Field::Raw(Base::Network, 0, 16), 0x6000, 6),
    };
    let fill = (1 << shift) - 1;
    let bytes =
        dscp.iter().map(|(first, last)| (base | u32::from(first) << shift, base | u32::from(last) << shift | fill));
    let all = dscp.iter().eq([(0, 63)]);
    (!dscp.is_any() && !all).then(|| Test::ranges(field, bytes.collect()))
}

/// Adds what the match says of fragments. `None`: no packet of this family is like that.
fn fragments(branch: &mut Branch, matches: &FlowMatch, family: Family, protocols: &[u8]) -> Option<()> {
    // Fragments have no ports, flags, type and payload: see `ftagent_common::rules::has::PORTS`.
    let whole = ![&matches.port, &matches.sport, &matches.dport].iter().all(|ports| ports.is_any())
        || !matches.icmp_type.is_any()
        || !matches.icmp_code.is_any()
        || !matches.flags.is_empty()
        || !matches.payload.is_empty();
    let wanted = |state: u8| {
        let is = matches.frag.is_empty() || matches.frag.iter().any(|kind: &Fragment| kind.is(state));
        is && (!whole || state & (bits::IS | bits::FIRST) == 0)
    };
    match family {
        Family::Ip4 => {
            let mut states = Vec::new();
            for (flags, dont, more) in
                [(0, 0, false), (0x2000, 0, true), (0x4000, bits::DONT, false), (0x6000, bits::DONT, true)]
            {
                if wanted(dont | if more { bits::FIRST } else { 0 }) {
                    states.push((flags, flags));
                }
                if wanted(dont | bits::IS | if more { 0 } else { bits::LAST }) {
                    states.push((flags | 1, flags | 0x1fff));
                }
            }
            let states = states.into_iter().flat_map(|(first, last)| first..=last);
            branch.all.extend(fragment4(joined(states))?);
        }
        Family::Ip6 => {
            let ([none, first, later], header) = ([0, bits::FIRST, bits::IS].map(wanted), Field::Extension);
            if ![none, first, later].contains(&true) {
                return None;
            }
            let offset = |op| Test::compared(header("frag", "frag-off"), op, 0);
            let more = |value| Test::one(header("frag", "more-fragments"), value);
            let kinds = [
                (later, vec![offset(Op::IsNot)]),
                (first, vec![offset(Op::Is), more(1)]),
                (none, vec![offset(Op::Is), more(0)]),
                (none, vec![Test::one(Field::Present("frag"), 0)]),
            ];
            branch.leave.extend(kinds.into_iter().filter(|(is, _)| !is).map(|(_, tests)| tests));
            // A fragment header behind an authentication header is none of the packet's to the match.
            if none && !(first && later) && protocols.contains(&AH) {
                branch.first = authenticated(&matches.payload);
            }
        }
    }
    Some(())
}

/// Returns the test of IPv4's fragment field without its reserved bit; `None` where nothing is wanted.
fn fragment4(states: Vec<(u32, u32)>) -> Option<Option<Test>> {
    let field = Test::ranges(Field::Fragment4, states.clone());
    match states.as_slice() {
        [] => None,
        [(0, 0x7fff)] => Some(None),
        // Whole packets, with or without don't-fragment.
        [(0, 0), (0x4000, 0x4000)] => Some(Some(Test::one(Field::Fragment4, 0).masked(NOT_WHOLE))),
        _ => Some(Some(field.masked(0x7fff))),
    }
}

/// Adds what is behind IP: the alternatives.
fn takes(branch: &mut Branch, matches: &FlowMatch, family: Family, protocols: &[u8], widened: &mut Vec<Widened>) {
    let mut inner = Vec::new();
    inner.extend(ranges(Field::SourcePort, &matches.sport, u16::MAX.into()));
    inner.extend(ranges(Field::DestinationPort, &matches.dport, u16::MAX.into()));
    inner.extend(ranges(Field::Raw(Base::Transport, 0, 8), &matches.icmp_type, u8::MAX.into()));
    inner.extend(ranges(Field::Raw(Base::Transport, 8, 8), &matches.icmp_code, u8::MAX.into()));
    if !matches.flags.is_empty() {
        let met = (0..=u8::MAX).filter(|flags| matches.accepts_flags(true, *flags));
        let met = joined(met.map(u32::from));
        inner.extend((met != [(0, 255)]).then(|| Test::ranges(Field::Raw(Base::Transport, 104, 8), met)));
    }
    let ends = match [Field::SourcePort, Field::DestinationPort].map(|end| ranges(end, &matches.port, u16::MAX.into()))
    {
        [Some(src), Some(dst)] => vec![vec![src], vec![dst]],
        _ => vec![Vec::new()],
    };
    let places = match matches.payload.is_empty() {
        true => vec![is_of(protocols).into_iter().collect()],
        false => payload::places(branch, &matches.payload, family, protocols, widened),
    };
    for place in places {
        for end in &ends {
            branch.take.push([place.as_slice(), end.as_slice(), inner.as_slice()].concat());
        }
    }
    if family == Family::Ip6 && !(is_any(protocols) && matches.payload.is_empty()) {
        if protocols.contains(&AH) {
            if branch.first.is_empty() {
                branch.take.extend(authenticated(&matches.payload));
            }
            branch.take.push(vec![Test::one(Field::Extension("frag", "nexthdr"), AH.into())]);
        }
        branch.take.extend(again(protocols).filter(|_| matches.payload.is_empty()).into_iter().flatten());
    }
}

/// Takes an authentication header, which tests of fragments look behind: one that comes first,
/// and one behind another header but a fragment's. Where the payload is asked for, the place of the bytes is
/// known only of the one that comes first: the header itself is what the match calls payload.
fn authenticated(patterns: &[Payload]) -> Vec<Vec<Test>> {
    let is = |field| vec![Test::one(field, AH.into())];
    let mut direct = is(Field::NextHeader);
    direct.extend(payload::behind_ip6(patterns));
    let behind = ["hbh", "dst", "rt"].map(|name| is(Field::Extension(name, "nexthdr")));
    [direct].into_iter().chain(behind).collect()
}

/// Takes a fragment by the extension header behind its own, at which the match stops and nftables does not.
/// (Fragments have no payload; and behind the header of a packet that is none, RFC 6946, both walk on.)
fn again(protocols: &[u8]) -> Option<[Vec<Test>; 2]> {
    let numbers: Vec<u32> = EXTENSIONS.into_iter().filter(|number| protocols.contains(number)).map(u32::from).collect();
    (!numbers.is_empty()).then(|| {
        let again = Test::ranges(Field::Extension("frag", "nexthdr"), joined(numbers));
        let offset = |op| Test::compared(Field::Extension("frag", "frag-off"), op, 0);
        let more = Test::one(Field::Extension("frag", "more-fragments"), 1);
        [vec![again.clone(), offset(Op::IsNot)], vec![again, offset(Op::Is), more]]
    })
}
