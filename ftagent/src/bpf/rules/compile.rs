//! From rules to the table of bit vectors. Pure; what the kernel makes of the table is compared
//! with [`FlowMatch::matches`] by the tests beside this file.

use std::collections::{BTreeMap, BTreeSet};

use ftagent_common::rules::{
    ABSENT, BOUNDS, Bits, Intervals4, Intervals6, MAX_PER_JIFFY, PATTERN_REACH, PATTERNS, Pattern, RULES, State, TOKEN,
    Table, VALUE_CLASSES, Wide, action, limbs, uses,
};
use ipnet::IpNet;

use super::{Placed, RulesError};
use crate::{
    rule::{Action, Family, FlowMatch, Payload, Ranges, Rate},
    sys,
};

/// Values of a field, as ranges with both ends included; `None`: any, also where there is no such
/// field.
type Values = Option<Vec<(u32, u32)>>;

/// One bit of the table: a rule, or the half of one that asks for ports of either end.
struct Place<'a> {
    placed: &'a Placed,
    sport: Values,
    dport: Values,
}

/// Compiles rules, in the order in which they are tried.
///
/// # Errors
/// [`RulesError::Compile`], naming the first rule for which there is no room, or that cannot be carried out.
pub fn compile(rules: &[Placed]) -> Result<Box<Table>, RulesError> {
    let mut places = Vec::with_capacity(rules.len());
    for placed in rules {
        if placed.rule.action == Action::Challenge && !placed.rule.matches.is_tcp() {
            return Err(refuse(placed, "only TCP can be challenged: name it"));
        }
        places.extend(expand(placed));
        if places.len() > RULES {
            let what = "the table has 256 places, and they are taken: a rule needs one, a rule with `port` two";
            return Err(refuse(placed, what));
        }
    }
    let mut table = sys::zeroed::<Table>();
    table.bits = places.len() as u32;
    for (slot, place) in table.slots.iter_mut().zip(&places) {
        *slot = place.placed.slot;
    }
    let matches = |place: &Place<'_>| place.placed.rule.matches.clone();
    by_number(&mut table, &places.iter().map(matches).collect::<Vec<_>>());
    uses(&mut table, &places);
    wide(&mut table, &places)?;
    prefixes(&mut table, &places);
    patterns(&mut table, &places)?;
    Ok(table)
}

fn refuse(placed: &Placed, what: impl Into<String>) -> RulesError {
    RulesError::Compile { slot: placed.slot, rule: placed.rule.matches.to_string(), what: what.into() }
}

/// Splits a rule for ports of either end into one for source ports and one for the destination
/// ports of what is left: no packet satisfies both, so none is counted twice.
fn expand(placed: &Placed) -> Vec<Place<'_>> {
    let FlowMatch { port, sport, dport, .. } = &placed.rule.matches;
    let (sport, dport) = (values(sport), values(dport));
    let Some(port) = values(port) else { return vec![Place { placed, sport, dport }] };
    let all = || vec![(0, u32::from(u16::MAX))];
    let by_source = intersection(sport.as_deref().unwrap_or(&all()), &port);
    let by_destination = intersection(dport.as_deref().unwrap_or(&all()), &port);
    let others = intersection(&sport.unwrap_or_else(all), &complement(&port));
    let mut places = vec![Place { placed, sport: Some(by_source), dport }];
    if !others.is_empty() && !by_destination.is_empty() {
        places.push(Place { placed, sport: Some(others), dport: Some(by_destination) });
    }
    places
}

fn values(ranges: &Ranges<u16>) -> Values {
    (!ranges.is_any()).then(|| ranges.iter().map(|(first, last)| (first.into(), last.into())).collect())
}

fn intersection(a: &[(u32, u32)], b: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let pairs = a.iter().flat_map(|a| b.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(first, last)| first <= last).collect()
}

/// Returns the 16-bit values outside of ranges in ascending order.
fn complement(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut from = 0;
    let mut outside = Vec::new();
    for &(first, last) in ranges {
        if first > from {
            outside.push((from, first - 1));
        }
        from = last + 1;
    }
    if from <= u32::from(u16::MAX) {
        outside.push((from, u16::MAX.into()));
    }
    outside
}

/// Returns the set of the bits whose rules satisfy a test.
fn set<T>(items: &[T], test: impl Fn(&T) -> bool) -> Bits {
    let mut bits = Bits::default();
    for (bit, _) in items.iter().enumerate().filter(|(_, item)| test(item)) {
        add(&mut bits, bit);
    }
    bits
}

fn add(bits: &mut Bits, bit: usize) {
    if let Some(word) = bits.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}

/// Fills the dimensions with a row for each value.
fn by_number(table: &mut Table, rules: &[FlowMatch]) {
    let is_of = |family: Family| move |rule: &FlowMatch| families(rule).contains(&family);
    let family = [set(rules, is_of(Family::Ip4)), set(rules, is_of(Family::Ip6))];
    for value in 0..=u8::MAX {
        let i = usize::from(value);
        let proto = set(rules, |rule| rule.proto.contains(value));
        table.proto[0][i] = std::array::from_fn(|word| proto[word] & family[0][word]);
        table.proto[1][i] = std::array::from_fn(|word| proto[word] & family[1][word]);
        table.ttl[i] = set(rules, |rule| rule.ttl.contains(value));
        table.icmp_type[i] = set(rules, |rule| rule.icmp_type.contains(value));
        table.icmp_code[i] = set(rules, |rule| rule.icmp_code.contains(value));
        table.flags[i] =
            set(rules, |rule| rule.flags.is_empty() || rule.flags.iter().any(|test| value & test.mask == test.value));
    }
    table.icmp_type[ABSENT] = set(rules, |rule| rule.icmp_type.is_any());
    table.icmp_code[ABSENT] = set(rules, |rule| rule.icmp_code.is_any());
    table.flags[ABSENT] = set(rules, |rule| rule.flags.is_empty());
    for (value, row) in (0u8..).zip(&mut table.dscp) {
        *row = set(rules, |rule| rule.dscp.contains(value));
    }
    for (bits, row) in (0u8..).zip(&mut table.fragment) {
        *row = set(rules, |rule| rule.frag.is_empty() || rule.frag.iter().any(|kind| kind.is(bits)));
    }
}

/// Notes what the rules ask for that accept a protocol.
fn uses(table: &mut Table, places: &[Place<'_>]) {
    let of = |place: &Place<'_>| {
        let FlowMatch { icmp_type, icmp_code, flags, len, dscp, frag, ttl, .. } = &place.placed.rule.matches;
        let used = [
            (uses::ANY, true),
            (uses::SPORT, place.sport.is_some()),
            (uses::DPORT, place.dport.is_some()),
            (uses::LEN, !len.is_any()),
            (uses::FLAGS, !flags.is_empty()),
            (uses::ICMP, !(icmp_type.is_any() && icmp_code.is_any())),
            (uses::TTL, !ttl.is_any()),
            (uses::DSCP, !dscp.is_any()),
            (uses::FRAGMENT, !frag.is_empty()),
        ];
        used.iter().filter(|(_, used)| *used).fold(0, |all, (bit, _)| all | bit)
    };
    let of: Vec<u32> = places.iter().map(of).collect();
    for (row, rules) in table.uses.iter_mut().flatten().zip(table.proto.iter().flatten()) {
        let accepted = of.iter().enumerate().filter(|(bit, _)| contains(rules, *bit));
        *row = accepted.fold(0, |all, (_, uses)| all | uses);
    }
}

fn contains(bits: &Bits, bit: usize) -> bool {
    bits.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 != 0)
}

/// Returns the families that a rule can match: none where it contradicts itself.
fn families(rule: &FlowMatch) -> Vec<Family> {
    let fits = |family: &Family| {
        let is4 = *family == Family::Ip4;
        let prefixes = [rule.src, rule.dst];
        rule.family.is_none_or(|wanted| wanted == *family)
            && prefixes.iter().flatten().all(|net| net.addr().is_ipv4() == is4)
    };
    [Family::Ip4, Family::Ip6].into_iter().filter(fits).collect()
}

/// Fills the dimensions of 65 536 values.
fn wide(table: &mut Table, places: &[Place<'_>]) -> Result<(), RulesError> {
    let sport: Vec<_> = places.iter().map(|place| place.sport.clone()).collect();
    let dport: Vec<_> = places.iter().map(|place| place.dport.clone()).collect();
    let len: Vec<_> = places.iter().map(|place| values(&place.placed.rule.matches.len)).collect();
    let dimensions = [
        (&mut table.sport, sport, "source ports"),
        (&mut table.dport, dport, "destination ports"),
        (&mut table.len, len, "lengths"),
    ];
    for (dimension, values, name) in dimensions {
        if values.iter().all(Option::is_none) {
            continue;
        }
        fill(dimension, &values).map_err(|at| {
            let what = format!(
                "the rules divide {name} into more than {} ranges; write fewer or wider ranges",
                VALUE_CLASSES - 1
            );
            places.get(at).map_or_else(|| unreachable_rule(&what), |place| refuse(place.placed, what.clone()))
        })?;
    }
    Ok(())
}

fn unreachable_rule(what: &str) -> RulesError {
    RulesError::Compile { slot: 0, rule: String::new(), what: what.to_owned() }
}

/// Fills one of them. The error is the bit that does not fit.
fn fill(dimension: &mut Wide, places: &[Values]) -> Result<(), usize> {
    let mut starts = BTreeSet::from([0]);
    for (bit, values) in places.iter().enumerate() {
        for (first, last) in values.iter().flatten() {
            starts.extend([*first, last + 1].into_iter().filter(|start| *start <= u32::from(u16::MAX)));
        }
        // One for each interval at most, and that of packets without the field.
        if starts.len() >= VALUE_CLASSES {
            return Err(bit);
        }
    }
    dimension.rules[0] = set(places, Option::is_none);
    let mut classes: BTreeMap<Bits, u16> = BTreeMap::new();
    let mut ends = starts.iter().skip(1).copied().chain([1 << 16]);
    for start in &starts {
        let end = ends.next().unwrap_or(1 << 16);
        let holds = |values: &Values| {
            values.as_ref().is_none_or(|ranges| ranges.iter().any(|range| (range.0..=range.1).contains(start)))
        };
        let bits = set(places, holds);
        let next = classes.len() as u16 + 1;
        let class = *classes.entry(bits).or_insert(next);
        if let Some(row) = dimension.rules.get_mut(usize::from(class)) {
            *row = bits;
        }
        if let Some(values) = dimension.class.get_mut(*start as usize..end as usize) {
            values.fill(class);
        }
    }
    Ok(())
}

/// Fills the dimensions of addresses. Two ends for each of 256 prefixes always fit.
fn prefixes(table: &mut Table, places: &[Place<'_>]) {
    let of = |pick: fn(&FlowMatch) -> Option<IpNet>, is4: bool| -> Vec<Option<(u128, u128)>> {
        let net = |place: &Place<'_>| pick(&place.placed.rule.matches).filter(|net| net.addr().is_ipv4() == is4);
        places.iter().map(|place| net(place).map(ends)).collect()
    };
    let src: fn(&FlowMatch) -> _ = |matches| matches.src;
    let dst: fn(&FlowMatch) -> _ = |matches| matches.dst;
    let dimensions = [of(src, true), of(dst, true), of(src, false), of(dst, false)];
    for (d, nets) in dimensions.iter().enumerate() {
        if nets.iter().all(Option::is_none) {
            continue;
        }
        table.prefixed[d] = set(nets, Option::is_some);
        let intervals = Cut::of(nets, d < 2);
        table.bounds[d] = intervals.starts.len() as u32;
        match d {
            0 => intervals.to4(&mut table.src4),
            1 => intervals.to4(&mut table.dst4),
            2 => intervals.to6(&mut table.src6),
            _ => intervals.to6(&mut table.dst6),
        }
    }
}

/// Returns the first and last address of a prefix.
fn ends(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

/// The intervals that prefixes divide the addresses into.
struct Cut {
    /// The first address of each but the first.
    starts: Vec<u128>,
    /// The rules of each.
    rows: Vec<Bits>,
}

impl Cut {
    fn of(nets: &[Option<(u128, u128)>], is4: bool) -> Self {
        let largest = if is4 { u32::MAX.into() } else { u128::MAX };
        let mut starts = BTreeSet::from([0]);
        for (first, last) in nets.iter().flatten() {
            starts.insert(*first);
            if *last < largest {
                starts.insert(last + 1);
            }
        }
        let row = |start: &u128| set(nets, |net| net.is_none_or(|(first, last)| (first..=last).contains(start)));
        let rows = starts.iter().map(row).collect();
        Self { starts: starts.into_iter().skip(1).collect(), rows }
    }

    /// Returns the row of an interval, that of the last behind it.
    fn row(&self, interval: usize) -> Bits {
        self.rows.get(interval).or(self.rows.last()).copied().unwrap_or_default()
    }

    fn to4(&self, dimension: &mut Intervals4) {
        let starts = self.starts.iter().map(|start| *start as u32).chain(std::iter::repeat(u32::MAX));
        dimension.bounds.iter_mut().zip(starts).for_each(|(bound, start)| *bound = start);
        (0..).zip(&mut dimension.rules).for_each(|(i, row)| *row = self.row(i));
    }

    fn to6(&self, dimension: &mut Intervals6) {
        let starts = self.starts.iter().map(|start| limbs((start >> 64) as u64, *start as u64));
        let starts = starts.chain(std::iter::repeat(limbs(u64::MAX, u64::MAX)));
        for ((top, rest), [high, middle, low]) in dimension.tops.iter_mut().zip(&mut dimension.rests).zip(starts) {
            (*top, *rest) = (high, [middle, low]);
        }
        (0..).zip(&mut dimension.rules).for_each(|(i, row)| *row = self.row(i));
    }
}

const _: () = assert!(BOUNDS == 2 * RULES);

/// Fills the payload patterns. Rules that look for the same share one.
fn patterns(table: &mut Table, places: &[Place<'_>]) -> Result<(), RulesError> {
    let mut used = 0;
    for (bit, place) in places.iter().enumerate() {
        let payloads = &place.placed.rule.matches.payload;
        if payloads.iter().any(|payload| usize::from(payload.offset) + payload.value.len() > PATTERN_REACH.into()) {
            return Err(refuse(place.placed, format!("it looks behind the first {PATTERN_REACH} bytes of payload")));
        }
        for wanted in payloads.iter().flat_map(words) {
            let same = |pattern: &Pattern| Pattern { rules: Bits::default(), ..*pattern } == wanted;
            let at = table.patterns.iter().take(used).position(same).unwrap_or(used);
            let Some(pattern) = table.patterns.get_mut(at) else {
                let what = format!(
                    "all rules together may look for {PATTERNS} different words of eight bytes of payload; \
                     shorten a pattern, or have rules look for the same one"
                );
                return Err(refuse(place.placed, what));
            };
            *pattern = Pattern { rules: pattern.rules, ..wanted };
            add(&mut pattern.rules, bit);
            add(&mut table.patterned, bit);
            used = used.max(at + 1);
        }
    }
    Ok(())
}

/// Cuts a pattern into words of eight bytes. Those that look at nothing are left out, but the last
/// that remains sees to it that the packet has all the bytes.
fn words(payload: &Payload) -> Vec<Pattern> {
    let length = payload.value.len().min(payload.mask.len());
    let word = |bytes: &[u8]| (0..8).fold(0u64, |word, i| word << 8 | u64::from(bytes.get(i).copied().unwrap_or(0)));
    let of = |from: usize| Pattern {
        value: word(payload.value.get(from..length).unwrap_or_default()),
        mask: word(payload.mask.get(from..length).unwrap_or_default()),
        rules: Bits::default(),
        offset: u32::from(payload.offset) + from as u32,
        bytes: (length - from).min(8) as u32,
    };
    let mut words: Vec<Pattern> = (0..length).step_by(8).map(of).collect();
    words.retain(|word| word.mask != 0 || word.value != 0);
    let end = u32::from(payload.offset) + payload.value.len() as u32;
    match words.last_mut() {
        Some(last) => last.bytes = end - last.offset,
        None => {
            words.push(Pattern { offset: payload.offset.into(), bytes: end - u32::from(payload.offset), ..NOTHING })
        }
    }
    words
}

const NOTHING: Pattern = Pattern { value: 0, mask: 0, rules: [0; RULES / 64], offset: 0, bytes: 0 };

/// Returns the state of a rule that ends at a jiffy: what it does, and its rate in tokens.
pub fn state(rule: Action, expires: u64, hz: u64) -> State {
    let hz = hz.max(1);
    let (action, tokens) = match rule {
        Action::Drop => (action::DROP, 0),
        Action::Count => (action::COUNT, 0),
        Action::Capture => (action::CAPTURE, 0),
        Action::Challenge => (action::CHALLENGE, 0),
        Action::RateLimit(Rate::Pps(rate)) => (action::LIMIT_PACKETS, u128::from(rate) * u128::from(TOKEN)),
        Action::RateLimit(Rate::Bps(rate)) => (action::LIMIT_BYTES, u128::from(rate) * u128::from(TOKEN) / 8),
    };
    let per_jiffy = ((tokens + u128::from(hz) / 2) / u128::from(hz)).min(MAX_PER_JIFFY.into()) as u64;
    State {
        expires,
        per_jiffy,
        // A fortieth of a second's, but no tokens of a whole jiffy are lost.
        burst: (per_jiffy * hz / 40).max(2 * per_jiffy),
        chunk: per_jiffy * hz / 100,
        action,
        ..State::default()
    }
}
