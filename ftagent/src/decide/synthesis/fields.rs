//! Finds conditions: what the packets of an attack have in common, field by field.
//!
//! A field that is spread over its values says nothing and is not used. Values that are seen in few
//! packets make no sets, and ranges have a margin: a rule must hold for the packets that come next.

use std::net::IpAddr;

use ipnet::IpNet;

use ftagent_common::rules::{fragment, has};

use super::{
    Ground, Sample,
    atoms::{Atom, FLAGS},
    payload,
};
use crate::{
    decide::reservoir::Glimpse,
    rule::{Family, Fragment, Ranges, set::Number},
};

/// Values of a set at most.
const SET: usize = 8;
/// A set holds at least this share of the packets …
const SET_SHARE: f64 = 0.97;
/// … and each of its values so many.
const SET_LEAST: usize = 4;
/// A value is worth a condition from this share on.
const MOSTLY: f64 = 0.5;
/// A value begins a search of its own from this share on, unless nearly all packets have it.
const CLUSTER: f64 = 0.05;
const CLUSTER_OF_HOSTS: f64 = 0.15;
/// Such values of one field.
const CLUSTERS: usize = 4;
/// A port belongs to more than a connection or two where so many sources have it.
const SHARED: usize = 8;
/// A port is in use where so many clean packets went to it.
const IN_USE: usize = 3;
/// Sources are concentrated where a prefix holds this share.
const CONCENTRATED: f64 = 0.2;
/// Samples that show a range or a spread.
const MANY: usize = 32;
/// Ports that clean traffic uses at most, for the others to be told from them.
const PORTS_IN_USE: usize = 12;

/// A field that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Proto,
    Sport,
    Dport,
    Len,
    Ttl,
    Dscp,
    IcmpType,
    IcmpCode,
}

const NUMBERS: [Field; 8] =
    [Field::Proto, Field::Dport, Field::Sport, Field::Len, Field::IcmpType, Field::IcmpCode, Field::Ttl, Field::Dscp];

impl Field {
    fn of(self, seen: &Glimpse) -> Option<u16> {
        let key = &seen.key;
        let where_has = |bit: u8, value: u16| (key.has & bit != 0).then_some(value);
        match self {
            Self::Proto => Some(key.proto.into()),
            Self::Sport => where_has(has::PORTS, key.sport),
            Self::Dport => where_has(has::PORTS, key.dport),
            Self::Len => Some(key.len),
            Self::Ttl => Some(key.ttl.into()),
            Self::Dscp => Some(key.dscp.into()),
            Self::IcmpType => where_has(has::ICMP, key.icmp_type.into()),
            Self::IcmpCode => where_has(has::ICMP, key.icmp_code.into()),
        }
    }

    /// Ranges wider than this say nothing of the field.
    const fn widest(self) -> u16 {
        match self {
            Self::Len => 1000,
            Self::Sport | Self::Dport => 8192,
            Self::Ttl => 48,
            _ => 8,
        }
    }

    /// How far a range reaches beyond what was seen, as a part of its width.
    const fn margin(self, width: u16) -> u16 {
        match self {
            Self::Len => width / 8 + 1,
            Self::Ttl => 1,
            _ => width / 16,
        }
    }

    fn atom(self, ranges: Vec<(u16, u16)>) -> Option<Atom> {
        let narrow = |ranges: &[(u16, u16)]| {
            let byte = |value: u16| u8::try_from(value).unwrap_or(u8::MAX);
            set(ranges.iter().map(|(first, last)| (byte(*first), byte(*last))).collect())
        };
        Some(match self {
            Self::Proto => Atom::Proto(narrow(&ranges)?),
            Self::Sport => Atom::Sport(set(ranges)?),
            Self::Dport => Atom::Dport(set(ranges)?),
            Self::Len => Atom::Len(set(ranges)?),
            Self::Ttl => Atom::Ttl(narrow(&ranges)?),
            Self::Dscp => Atom::Dscp(narrow(&ranges)?),
            Self::IcmpType => Atom::IcmpType(narrow(&ranges)?),
            Self::IcmpCode => Atom::IcmpCode(narrow(&ranges)?),
        })
    }

    const fn is_port(self) -> bool {
        matches!(self, Self::Sport | Self::Dport)
    }
}

fn set<T: Number>(ranges: Vec<(T, T)>) -> Option<Ranges<T>> {
    Ranges::new(ranges).ok().filter(|set| !set.is_any())
}

/// The values of a field among the packets.
struct Values {
    sorted: Vec<u16>,
    /// Each value and how often it occurs, most frequent first.
    runs: Vec<(u16, usize)>,
}

impl Values {
    fn of(field: Field, attack: &[&Sample]) -> Self {
        let mut sorted: Vec<u16> = attack.iter().filter_map(|sample| field.of(&sample.seen)).collect();
        sorted.sort_unstable();
        let mut runs: Vec<(u16, usize)> = Vec::new();
        for value in &sorted {
            match runs.last_mut() {
                Some((last, count)) if last == value => *count += 1,
                _ => runs.push((*value, 1)),
            }
        }
        runs.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        Self { sorted, runs }
    }

    fn at(&self, share: f64) -> u16 {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((share * last as f64) as usize).copied().unwrap_or(0)
    }

    fn share(&self, count: usize, total: usize) -> f64 {
        count as f64 / total.max(1) as f64
    }

    /// Returns the fewest values that nearly all packets have.
    fn few(&self, total: usize) -> Option<Vec<u16>> {
        let mut held = 0;
        let mut values = Vec::new();
        for (value, count) in self.runs.iter().take(SET) {
            if *count < SET_LEAST.max(total / 100) {
                return None;
            }
            held += count;
            values.push(*value);
            if self.share(held, total) >= SET_SHARE {
                return Some(values);
            }
        }
        None
    }
}

/// Returns conditions that most of the packets meet.
pub fn atoms(ground: &Ground<'_>) -> Vec<Atom> {
    let attack = &ground.attack;
    let mut found = Vec::new();
    for field in NUMBERS {
        numbers(field, ground, &mut found);
    }
    flags(attack, &mut found);
    fragments(attack, &mut found);
    ends(ground, &mut found);
    found.extend(payload::common(attack).into_iter().map(Atom::Payload));
    found
}

fn numbers(field: Field, ground: &Ground<'_>, found: &mut Vec<Atom>) {
    let before = found.len();
    conditions(field, ground, found);
    if field.is_port() {
        let kept: Vec<Atom> = found.split_off(before).into_iter().filter(|atom| is_shared(atom, ground)).collect();
        found.extend(kept);
    }
}

/// Returns whether a port is the attack's and not that of a connection or a few: many send from it or
/// to it, or most packets of the attack have it.
fn is_shared(atom: &Atom, ground: &Ground<'_>) -> bool {
    let hit: Vec<&&Sample> = ground.attack.iter().filter(|sample| atom.holds(&sample.seen)).collect();
    let mut sources: Vec<IpAddr> = hit.iter().map(|sample| sample.seen.src).collect();
    sources.sort_unstable();
    sources.dedup();
    sources.len() >= SHARED || hit.len() as f64 >= MOSTLY * ground.all as f64
}

fn conditions(field: Field, ground: &Ground<'_>, found: &mut Vec<Atom>) {
    let total = ground.attack.len();
    let values = Values::of(field, &ground.attack);
    if values.share(values.sorted.len(), total) < MOSTLY {
        return;
    }
    let Some((first, count)) = values.runs.first().copied() else { return };
    if values.share(count, total) >= MOSTLY {
        found.extend(field.atom(vec![(first, first)]));
    }
    let few = values.few(total).filter(|few| few.len() > 1);
    let spread = values.share(count, total) < SET_SHARE;
    if let Some(few) = few {
        found.extend(field.atom(few.into_iter().map(|value| (value, value)).collect()));
        return;
    }
    if total < MANY || values.runs.len() < 2 {
        return;
    }
    let (low, high) = (values.at(0.003), values.at(0.997));
    let width = high - low;
    // The ports that a client counts through are gone the next second.
    if field != Field::Sport && width <= field.widest() && values.share(values.sorted.len(), total) >= SET_SHARE {
        let margin = field.margin(width);
        found.extend(field.atom(vec![(low.saturating_sub(margin), high.saturating_add(margin))]));
    }
    if field.is_port() && spread && values.runs.len() >= MANY / 2 {
        ports(field, &values, ground, found);
    }
}

/// Ports that are spread: the unprivileged ones, and those that clean traffic does not use.
fn ports(field: Field, values: &Values, ground: &Ground<'_>, found: &mut Vec<Atom>) {
    let lowest = if values.at(0.0) >= 1024 { 1024 } else { 0 };
    if lowest > 0 {
        found.extend(field.atom(vec![(lowest, u16::MAX)]));
    }
    // The source ports of clean traffic are of one connection each: another one comes next.
    if field == Field::Sport {
        return;
    }
    let high = |sample: &&&Sample| sample.seen.key.sport >= 1024;
    let high_sources = ground.attack.iter().filter(high).count() == ground.attack.len();
    // Answers to this host come to ports that nobody can list; their source ports tell them.
    let asks = |seen: &&Glimpse| !high_sources || seen.key.sport >= 1024;
    let of_clean = ground.clean.iter().map(|clean| &clean.seen).filter(asks);
    let mut used: Vec<u16> = of_clean.filter_map(|seen| field.of(seen)).filter(|port| *port >= lowest).collect();
    let enough = used.len() >= MANY;
    used.sort_unstable();
    let lasting = used.chunk_by(|a, b| a == b).all(|chunk| chunk.len() >= IN_USE);
    used.dedup();
    if !enough || !lasting || used.len() > PORTS_IN_USE {
        return;
    }
    let mut ranges = Vec::new();
    let mut from = lowest;
    for port in used {
        if port > from {
            ranges.push((from, port - 1));
        }
        from = port.saturating_add(1);
    }
    ranges.push((from, u16::MAX));
    found.extend(field.atom(ranges));
}

fn flags(attack: &[&Sample], found: &mut Vec<Atom>) {
    let runs = flag_runs(attack);
    let total = attack.len();
    let mut held = 0;
    let mut sets = Vec::new();
    for (value, count) in runs.into_iter().take(SET / 2) {
        if count < SET_LEAST.max(total / 100) {
            break;
        }
        held += count;
        sets.push(value);
        if sets.len() == 1 && held as f64 >= MOSTLY * total as f64 {
            found.push(Atom::Flags(sets.clone()));
        }
        if held as f64 >= SET_SHARE * total as f64 {
            break;
        }
    }
    if sets.len() > 1 && held as f64 >= SET_SHARE * total as f64 {
        sets.sort_unstable();
        found.push(Atom::Flags(sets));
    }
}

fn flag_runs(attack: &[&Sample]) -> Vec<(u8, usize)> {
    let mut counts = [0usize; 64];
    for key in attack.iter().map(|sample| &sample.seen.key).filter(|key| key.has & has::FLAGS != 0) {
        if let Some(count) = counts.get_mut(usize::from(key.flags & FLAGS)) {
            *count += 1;
        }
    }
    let mut runs: Vec<(u8, usize)> = (0u8..).zip(counts).filter(|(_, count)| *count > 0).collect();
    runs.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    runs
}

fn fragments(attack: &[&Sample], found: &mut Vec<Atom>) {
    let share = |bits: u8| {
        let with = attack.iter().filter(|sample| sample.seen.key.fragment & bits != 0).count();
        with as f64 / attack.len().max(1) as f64
    };
    let (later, first) = (share(fragment::IS), share(fragment::FIRST));
    if later >= MOSTLY {
        found.push(Atom::Frag(vec![Fragment::Is]));
    }
    if first >= MOSTLY {
        found.push(Atom::Frag(vec![Fragment::First]));
    }
    if later + first >= SET_SHARE {
        found.push(Atom::Frag(vec![Fragment::Is, Fragment::First]));
    }
    if later + first <= 1.0 - SET_SHARE {
        found.push(Atom::Frag(vec![Fragment::Not]));
    }
    if share(fragment::DONT) >= SET_SHARE {
        found.push(Atom::Frag(vec![Fragment::Dont]));
    }
}

/// Addresses: the family, the destination that the attack is at, sources where they are few.
fn ends(ground: &Ground<'_>, found: &mut Vec<Atom>) {
    let attack = &ground.attack;
    let four = attack.iter().filter(|sample| sample.seen.src.is_ipv4()).count();
    let enough = SET_SHARE * attack.len() as f64;
    if four as f64 >= enough {
        found.push(Atom::Family(Family::Ip4));
    } else if (attack.len() - four) as f64 >= enough {
        found.push(Atom::Family(Family::Ip6));
    }
    let targets = prefixes(attack.iter().map(|sample| sample.seen.dst), [32, 24], [128, 64]);
    for (net, count) in targets {
        let elsewhere = ground.clean.iter().any(|clean| !net.contains(&clean.seen.dst));
        if count as f64 >= enough && elsewhere {
            found.push(Atom::Dst(net));
            break;
        }
    }
    if attack.len() < MANY {
        return;
    }
    let mut chosen: Vec<IpNet> = Vec::new();
    for (net, count) in prefixes(attack.iter().map(|sample| sample.seen.src), [32, 24, 16], [128, 64, 48]) {
        let inside = |other: &IpNet| net.contains(other);
        if (count as f64) < CONCENTRATED * attack.len() as f64 || chosen.iter().any(inside) {
            continue;
        }
        if ground.may_name(net) {
            chosen.push(net);
        }
    }
    found.extend(chosen.into_iter().take(4).map(Atom::Src));
}

/// Returns prefixes of several lengths with how many addresses are in each: longest first, then
/// fullest first.
fn prefixes<const N: usize>(
    addresses: impl Iterator<Item = IpAddr>,
    lengths4: [u8; N],
    lengths6: [u8; N],
) -> Vec<(IpNet, usize)> {
    let mut sorted: Vec<IpAddr> = addresses.collect();
    sorted.sort_unstable();
    let mut all = Vec::new();
    for (length4, length6) in lengths4.into_iter().zip(lengths6) {
        let mut of_length: Vec<(IpNet, usize)> = Vec::new();
        for address in &sorted {
            let length = if address.is_ipv4() { length4 } else { length6 };
            let Ok(net) = IpNet::new(*address, length).map(|net| net.trunc()) else { continue };
            match of_length.last_mut() {
                Some((last, count)) if *last == net => *count += 1,
                _ => of_length.push((net, 1)),
            }
        }
        of_length.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        of_length.truncate(SET);
        all.extend(of_length);
    }
    all
}

/// Returns values that part of the packets have: each begins a search among the packets that have it,
/// for an attack may be several.
pub fn clusters(ground: &Ground<'_>) -> Vec<Atom> {
    let attack = &ground.attack;
    let total = attack.len();
    let is_cluster_from = |least: f64, count: usize| {
        let share = count as f64 / total.max(1) as f64;
        count >= SET_LEAST && (least..SET_SHARE).contains(&share)
    };
    let is_cluster = |count| is_cluster_from(CLUSTER, count);
    let mut found = Vec::new();
    for (value, count) in flag_runs(attack).into_iter().take(CLUSTERS) {
        if is_cluster(count) {
            found.push((count, Atom::Flags(vec![value])));
        }
    }
    for field in [Field::Sport, Field::Dport, Field::IcmpType, Field::Proto, Field::Len, Field::Ttl] {
        // Lengths and hop counts of many hosts are a handful of values too.
        let least = if matches!(field, Field::Len | Field::Ttl) { CLUSTER_OF_HOSTS } else { CLUSTER };
        let values = Values::of(field, attack);
        for (value, count) in values.runs.iter().take(CLUSTERS) {
            let atom = field.atom(vec![(*value, *value)]);
            let is_one = |atom: &Atom| !field.is_port() || is_shared(atom, ground);
            let atom = atom.filter(|atom| is_cluster_from(least, *count) && is_one(atom));
            found.extend(atom.map(|atom| (*count, atom)));
        }
    }
    let fragments = attack.iter().filter(|s| s.seen.key.fragment & (fragment::IS | fragment::FIRST) != 0).count();
    if is_cluster(fragments) {
        found.push((fragments, Atom::Frag(vec![Fragment::Is, Fragment::First])));
        found.push((total - fragments, Atom::Frag(vec![Fragment::Not])));
    }
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    found.into_iter().map(|(_, atom)| atom).collect()
}
