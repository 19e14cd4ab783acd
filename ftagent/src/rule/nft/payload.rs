//! Bytes of payload: where they lie depends on the protocol, and behind TCP on its header's length.

use super::{
    Widened,
    branch::{Branch, ICMP, ICMPV6, Protocols, TCP, UDP, is_of},
    field::{Base, Field, Op, Test},
};
use crate::rule::{Family, Payload};

/// Lengths of a TCP or IPv4 header, in words of 32 bits.
const WORDS: std::ops::RangeInclusive<u32> = 5..=15;
/// Bytes of an IPv4 header without options.
const HEADER4: u32 = 20;
/// Bytes of an IPv6 header.
const HEADER6: u32 = 40;

/// Returns the conjunctions that find these bytes behind each protocol's header, and has the branch
/// leave packets that end before them: what is behind a packet is padding.
pub(super) fn places(
    branch: &mut Branch,
    patterns: &[Payload],
    family: Family,
    protocols: &[u8],
    widened: &mut Vec<Widened>,
) -> Vec<Vec<Test>> {
    let end = patterns.iter().map(end).max().unwrap_or(0);
    let having = |wanted: fn(&u8) -> bool| -> Protocols { protocols.iter().copied().filter(wanted).collect() };
    let mut places = Vec::new();
    let mut add = |protocols: Protocols, header: u32, extra: Option<Test>| {
        let long_enough = match family {
            Family::Ip4 => HEADER4 + header + end,
            Family::Ip6 => header + end,
        };
        let enough = Test::compared(Field::Length(family), Op::AtLeast, long_enough);
        let patterns = patterns.iter().flat_map(|pattern| bytes(pattern, Base::Transport, header));
        let is_of = is_of(&protocols).into_iter().chain(extra);
        // Patterns are the dearest. But nft (1.0.6) dies of an assertion when it lists a masked one behind the
        // test of a protocol that it knows no header of, and every listing of the host with it.
        places.push(match header {
            0 => [enough].into_iter().chain(patterns).chain(is_of).collect(),
            _ => is_of.chain([enough]).chain(patterns).collect(),
        });
    };
    if protocols.contains(&TCP) {
        let offset = |words: u32| Test::one(Field::Raw(Base::Transport, 96, 8), words << 4).masked(0xf0);
        WORDS.for_each(|words| add(vec![TCP], 4 * words, Some(offset(words))));
    }
    let eight = having(|number| matches!(*number, UDP | ICMP | ICMPV6));
    if !eight.is_empty() {
        add(eight.clone(), 8, None);
    }
    let other = having(|number| !matches!(*number, TCP | UDP | ICMP | ICMPV6));
    if !other.is_empty() {
        add(other.clone(), 0, None);
    }
    if family == Family::Ip4 {
        let least = [(having(|number| *number == TCP), 20), (eight, 8), (other, 0)];
        for (protocols, header) in least.into_iter().filter(|(protocols, _)| !protocols.is_empty()) {
            leave_short(branch, &protocols, header + end);
        }
    }
    if family == Family::Ip6 || protocols.contains(&TCP) {
        widened.push(Widened::Padding);
    }
    places
}

/// Returns the tests of bytes that lie right behind an IPv6 header.
pub(super) fn behind_ip6(patterns: &[Payload]) -> Vec<Test> {
    let enough = patterns.iter().map(end).max().map(|end| Test::compared(Field::Length(Family::Ip6), Op::AtLeast, end));
    enough.into_iter().chain(patterns.iter().flat_map(|pattern| bytes(pattern, Base::Network, HEADER6))).collect()
}

/// Returns where a pattern ends.
fn end(pattern: &Payload) -> u32 {
    u32::from(pattern.offset) + pattern.value.len() as u32
}

/// Leaves IPv4 packets with options that are too short for what is asked for. Of TCP this is the least:
/// nftables cannot add two lengths.
fn leave_short(branch: &mut Branch, protocols: &[u8], behind: u32) {
    for words in WORDS.skip(1) {
        let header = Test::one(Field::Raw(Base::Network, 0, 8), 0x40 | words);
        let short = Test::compared(Field::Length(Family::Ip4), Op::Less, 4 * words + behind);
        branch.leave.push(is_of(protocols).into_iter().chain([header, short]).collect());
    }
}

/// Returns the tests of a pattern that begins so many bytes behind a header: four bytes in each, or two or
/// one at the end. Bytes of which no bit is looked at are left out.
fn bytes(pattern: &Payload, base: Base, header: u32) -> Vec<Test> {
    let (mut tests, mut at) = (Vec::new(), 0);
    let mut rest = pattern.value.iter().zip(&pattern.mask).peekable();
    while rest.peek().is_some() {
        let left = pattern.value.len().min(pattern.mask.len()) - at;
        let count = if left >= 4 { 4 } else { left.min(2) };
        let take =
            |(value, mask): (u32, u32), (v, m): (&u8, &u8)| (value << 8 | u32::from(*v), mask << 8 | u32::from(*m));
        let (value, mask) = rest.by_ref().take(count).fold((0, 0), take);
        let whole = u32::MAX >> (32 - 8 * count as u32);
        let offset = header + u32::from(pattern.offset) + at as u32;
        let test = Test::one(Field::Raw(base, 8 * offset, 8 * count as u32), value);
        tests.extend((mask != 0).then(|| if mask == whole { test } else { test.masked(mask) }));
        at += count;
    }
    tests
}
