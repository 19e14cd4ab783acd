//! Conditions that rules are made of.

use ipnet::IpNet;

use ftagent_common::rules::has;

use crate::{
    decide::reservoir::Glimpse,
    rule::{Family, Flags, FlowMatch, Fragment, Payload, Ranges, set::Number},
};

/// TCP flags that are looked at: those that say what a segment is.
pub const FLAGS: u8 = 63;

/// One condition on one dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Atom {
    /// IP family.
    Family(Family),
    /// Protocol.
    Proto(Ranges<u8>),
    /// Source prefix.
    Src(IpNet),
    /// Destination prefix.
    Dst(IpNet),
    /// Source ports.
    Sport(Ranges<u16>),
    /// Destination ports.
    Dport(Ranges<u16>),
    /// Length.
    Len(Ranges<u16>),
    /// TTL.
    Ttl(Ranges<u8>),
    /// DSCP.
    Dscp(Ranges<u8>),
    /// ICMP type.
    IcmpType(Ranges<u8>),
    /// ICMP code.
    IcmpCode(Ranges<u8>),
    /// Exactly one of these sets of flags.
    Flags(Vec<u8>),
    /// Fragments of these kinds.
    Frag(Vec<Fragment>),
    /// Bytes of payload.
    Payload(Payload),
}

impl Atom {
    /// Returns the number of its dimension: a rule has one condition on each.
    pub const fn dimension(&self) -> u8 {
        match self {
            Self::Family(_) => 0,
            Self::Proto(_) => 1,
            Self::Src(_) => 2,
            Self::Dst(_) => 3,
            Self::Sport(_) => 4,
            Self::Dport(_) => 5,
            Self::Len(_) => 6,
            Self::Ttl(_) => 7,
            Self::Dscp(_) => 8,
            Self::IcmpType(_) => 9,
            Self::IcmpCode(_) => 10,
            Self::Flags(_) => 11,
            Self::Frag(_) => 12,
            Self::Payload(_) => 13,
        }
    }

    /// Returns whether a packet satisfies it, as [`FlowMatch::matches`] would.
    pub fn holds(&self, seen: &Glimpse) -> bool {
        let key = &seen.key;
        let has = |field: u8| key.has & field != 0;
        match self {
            Self::Family(family) => (*family == Family::Ip4) == seen.src.is_ipv4(),
            Self::Proto(ranges) => ranges.contains(key.proto),
            Self::Src(net) => net.contains(&seen.src),
            Self::Dst(net) => net.contains(&seen.dst),
            Self::Sport(ranges) => has(has::PORTS) && ranges.contains(key.sport),
            Self::Dport(ranges) => has(has::PORTS) && ranges.contains(key.dport),
            Self::Len(ranges) => ranges.contains(key.len),
            Self::Ttl(ranges) => ranges.contains(key.ttl),
            Self::Dscp(ranges) => ranges.contains(key.dscp),
            Self::IcmpType(ranges) => has(has::ICMP) && ranges.contains(key.icmp_type),
            Self::IcmpCode(ranges) => has(has::ICMP) && ranges.contains(key.icmp_code),
            Self::Flags(sets) => has(has::FLAGS) && sets.contains(&(key.flags & FLAGS)),
            Self::Frag(kinds) => kinds.iter().any(|kind| kind.is(key.fragment)),
            Self::Payload(payload) => has(has::PAYLOAD) && payload.is_in(seen.head()),
        }
    }

    /// Returns the conditions of a match; `None` where it has others than these.
    pub fn of_match(matches: &FlowMatch) -> Option<Vec<Self>> {
        fn some<T: Number>(set: &Ranges<T>, atom: fn(Ranges<T>) -> Atom) -> Option<Atom> {
            (!set.is_any()).then(|| atom(set.clone()))
        }
        let flags: Vec<u8> = matches.flags.iter().map(|flags| flags.value).collect();
        let found = [
            matches.family.map(Self::Family),
            some(&matches.proto, Self::Proto),
            matches.src.map(Self::Src),
            matches.dst.map(Self::Dst),
            some(&matches.sport, Self::Sport),
            some(&matches.dport, Self::Dport),
            some(&matches.len, Self::Len),
            some(&matches.ttl, Self::Ttl),
            some(&matches.dscp, Self::Dscp),
            some(&matches.icmp_type, Self::IcmpType),
            some(&matches.icmp_code, Self::IcmpCode),
            (!flags.is_empty()).then_some(Self::Flags(flags)),
            (!matches.frag.is_empty()).then(|| Self::Frag(matches.frag.clone())),
            matches.payload.first().cloned().map(Self::Payload),
        ];
        let atoms: Vec<Self> = found.into_iter().flatten().collect();
        (matching(&atoms) == *matches).then_some(atoms)
    }

    /// Adds it to a match.
    pub fn put(&self, matches: &mut FlowMatch) {
        match self.clone() {
            Self::Family(family) => matches.family = Some(family),
            Self::Proto(ranges) => matches.proto = ranges,
            Self::Src(net) => matches.src = Some(net),
            Self::Dst(net) => matches.dst = Some(net),
            Self::Sport(ranges) => matches.sport = ranges,
            Self::Dport(ranges) => matches.dport = ranges,
            Self::Len(ranges) => matches.len = ranges,
            Self::Ttl(ranges) => matches.ttl = ranges,
            Self::Dscp(ranges) => matches.dscp = ranges,
            Self::IcmpType(ranges) => matches.icmp_type = ranges,
            Self::IcmpCode(ranges) => matches.icmp_code = ranges,
            Self::Flags(sets) => {
                matches.flags = sets.into_iter().map(|value| Flags { value, mask: FLAGS }).collect();
            }
            Self::Frag(kinds) => matches.frag = kinds,
            Self::Payload(payload) => matches.payload = vec![payload],
        }
    }

    /// Returns what a rule pays for it, in shares of the attack: of two rules that remove the same,
    /// the one with fewer and simpler conditions is taken, and of those the one that other planes
    /// can express.
    pub fn price(&self) -> f64 {
        let ranges = |many: usize| 0.002 + 0.000_5 * many as f64;
        match self {
            Self::Family(_) | Self::Proto(_) | Self::Dst(_) => 0.000_5,
            Self::Len(set) => ranges(set.iter().len()),
            // What the packets have comes before what clean traffic has not.
            Self::Sport(set) | Self::Dport(set) => ranges(set.iter().len()) + if is_few(set) { 0.0 } else { 0.01 },
            Self::Dscp(set) | Self::IcmpType(set) | Self::IcmpCode(set) => ranges(set.iter().len()),
            Self::Flags(sets) => ranges(sets.len()),
            Self::Frag(_) => 0.002,
            Self::Ttl(set) => 0.006 + ranges(set.iter().len()),
            Self::Payload(_) => 0.008,
            Self::Src(_) => 0.05,
        }
    }

    /// Returns whether it is a single value that says much: who shares it by chance is rare.
    pub fn is_signature(&self) -> bool {
        match self {
            Self::Sport(set) | Self::Len(set) => is_one(set),
            Self::Ttl(set) => is_one(set),
            Self::Payload(payload) => payload.mask.iter().map(|mask| mask.count_ones()).sum::<u32>() >= 32,
            _ => false,
        }
    }

    /// Returns it with the neighbours of its values, and which part of that it is itself.
    pub fn widened(&self) -> (Self, f64) {
        match self {
            Self::Len(set) => {
                grown(set, 4, u16::MAX).map_or((self.clone(), 1.0), |(wide, part)| (Self::Len(wide), part))
            }
            Self::Ttl(set) => {
                grown(set, 2, u8::MAX).map_or((self.clone(), 1.0), |(wide, part)| (Self::Ttl(wide), part))
            }
            _ => (self.clone(), 1.0),
        }
    }

    /// Returns whether it names a value of the packets, so that a source may stand beside it.
    pub fn is_constant(&self) -> bool {
        match self {
            Self::Sport(set) | Self::Dport(set) | Self::Len(set) => is_few(set),
            Self::Ttl(set) | Self::IcmpType(set) | Self::IcmpCode(set) => is_few(set),
            Self::Flags(_) | Self::Payload(_) => true,
            Self::Frag(kinds) => !kinds.iter().any(|kind| matches!(kind, Fragment::Not | Fragment::Dont)),
            _ => false,
        }
    }
}

fn grown<T: Number + TryFrom<u32>>(set: &Ranges<T>, by: u32, most: T) -> Option<(Ranges<T>, f64)> {
    let size = |set: &Ranges<T>| set.iter().map(|(first, last)| last.into() - first.into() + 1).sum::<u32>();
    let wide = set.iter().map(|(first, last)| {
        let (first, last): (u32, u32) = (first.into(), last.into());
        Some((T::try_from(first.saturating_sub(by)).ok()?, T::try_from((last + by).min(most.into())).ok()?))
    });
    let wide = Ranges::new(wide.collect::<Option<Vec<_>>>()?).ok()?;
    let part = f64::from(size(set)) / f64::from(size(&wide).max(1));
    Some((wide, part))
}

fn is_one<T: Number>(set: &Ranges<T>) -> bool {
    let mut ranges = set.iter();
    ranges.len() == 1 && ranges.all(|(first, last)| first == last)
}

fn is_few<T: Number>(set: &Ranges<T>) -> bool {
    !set.is_any() && set.iter().all(|(first, last)| last.into() - first.into() < 8)
}

/// Returns the match of several conditions.
pub fn matching<'a>(atoms: impl IntoIterator<Item = &'a Atom>) -> FlowMatch {
    let mut matches = FlowMatch::default();
    atoms.into_iter().for_each(|atom| atom.put(&mut matches));
    // A prefix says the family already.
    if matches.src.is_some() || matches.dst.is_some() {
        matches.family = None;
    }
    matches
}
