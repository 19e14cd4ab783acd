//! How matches relate: whether one covers another, whether a packet can satisfy both, and whether
//! any packet can satisfy one at all.
//!
//! All of it is conservative: *covers* and *impossible* are only said where they are certain, and
//! *overlaps* is only denied where that is.

use super::{Family, FlowMatch, Fragment, Payload, Ranges, set::Number};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl<T: Number> Ranges<T> {
    /// Returns whether every value from 0 to `most` is in it.
    pub fn is_all(&self, most: u32) -> bool {
        self.is_any() || self.iter().any(|(first, last)| first.into() == 0 && last.into() >= most)
    }

    /// Returns whether every value of another set is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        let within = |(first, last): (T, T)| self.iter().any(|(low, high)| low <= first && last <= high);
        self.is_any() || !other.is_any() && other.iter().all(within)
    }

    /// Returns whether the sets have a value in common.
    pub fn meets(&self, other: &Self) -> bool {
        let crosses = |(first, last): (T, T)| self.iter().any(|(low, high)| low <= last && first <= high);
        self.is_any() || other.is_any() || other.iter().any(crosses)
    }

    /// Returns which share of the values from `low` to `high` is in it, 0 to 1.
    pub(super) fn share(&self, low: u32, high: u32) -> f64 {
        if self.is_any() {
            return 1.0;
        }
        let inside = |(first, last): (T, T)| {
            let (first, last) = (first.into().max(low), last.into().min(high));
            (last + 1).saturating_sub(first)
        };
        let count: u32 = self.iter().map(inside).sum();
        f64::from(count) / f64::from(high + 1 - low)
    }
}

impl FlowMatch {
    /// Returns whether every packet that `other` matches is one that this matches too.
    pub fn covers(&self, other: &Self) -> bool {
        let ports = other.needs_ports();
        let port_fields = |own: &Ranges<u16>, theirs: &Ranges<u16>| {
            own.is_any() || ports && own.is_all(65_535) || !theirs.is_any() && own.covers(theirs)
        };
        let icmp_fields = |own: &Ranges<u8>, theirs: &Ranges<u8>| {
            own.is_any() || other.needs_icmp() && own.is_all(255) || !theirs.is_any() && own.covers(theirs)
        };
        let either = [&other.port, &other.sport, &other.dport];
        self.family().is_none_or(|family| other.family() == Some(family))
            && [(self.src, other.src), (self.dst, other.dst)].into_iter().all(|(own, theirs)| match (own, theirs) {
                (None, _) => true,
                // The family was compared above.
                (Some(own), None) => own.prefix_len() == 0,
                (Some(own), Some(theirs)) => own.contains(&theirs),
            })
            && (self.proto.is_any() || (0..=255).all(|proto| !other.allows(proto) || self.proto.contains(proto)))
            && (self.port.is_any()
                || ports && self.port.is_all(65_535)
                || either.into_iter().any(|theirs| !theirs.is_any() && self.port.covers(theirs)))
            && port_fields(&self.sport, &other.sport)
            && port_fields(&self.dport, &other.dport)
            && icmp_fields(&self.icmp_type, &other.icmp_type)
            && icmp_fields(&self.icmp_code, &other.icmp_code)
            && self.covers_flags(other)
            && (self.len.is_all(65_535) || self.len.covers(&other.len))
            && (self.dscp.is_all(63) || self.dscp.covers(&other.dscp))
            && (self.ttl.is_all(255) || self.ttl.covers(&other.ttl))
            && self.covers_fragments(other)
            && self.payload.iter().all(|payload| payload.is_implied_by(&other.payload))
    }

    /// Returns whether a packet may satisfy both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let nets = [(self.src, other.src), (self.dst, other.dst)].into_iter().all(|pair| match pair {
            (Some(a), Some(b)) => a.contains(&b) || b.contains(&a),
            _ => true,
        });
        let families = !matches!((self.family(), other.family()), (Some(a), Some(b)) if a != b);
        // A port of one that is neither of the other's.
        let ports = |a: &Self, b: &Self| {
            a.port.is_any() || b.sport.is_any() || b.dport.is_any() || a.port.meets(&b.sport) || a.port.meets(&b.dport)
        };
        let flags = self.flags.is_empty()
            || other.flags.is_empty()
            || self
                .flags
                .iter()
                .any(|a| other.flags.iter().any(|b| a.value & b.mask & a.mask == b.value & a.mask & b.mask));
        let both = self.payload.iter().chain(&other.payload);
        nets && families
            && (0..=255).any(|proto| self.allows(proto) && other.allows(proto))
            && ports(self, other)
            && ports(other, self)
            && self.sport.meets(&other.sport)
            && self.dport.meets(&other.dport)
            && self.icmp_type.meets(&other.icmp_type)
            && self.icmp_code.meets(&other.icmp_code)
            && flags
            && self.len.meets(&other.len)
            && self.dscp.meets(&other.dscp)
            && self.ttl.meets(&other.ttl)
            && FRAGMENT_BITS.into_iter().any(|bits| self.allows_fragment(bits) && other.allows_fragment(bits))
            && bytes(both).is_some()
    }

    /// Says why no packet satisfies it, where that is certain.
    pub fn impossible(&self) -> Option<String> {
        if !(0..=255).any(|proto| self.allows(proto)) {
            let wants = [
                (self.needs_ports(), "ports, which TCP and UDP have"),
                (!self.flags.is_empty(), "flags, which TCP has"),
                (self.needs_icmp(), "a type or code, which ICMP has"),
            ];
            let wants: Vec<&str> = wants.into_iter().filter(|(asked, _)| *asked).map(|(_, what)| what).collect();
            return Some(format!("it asks for {}, of packets that have none", wants.join(", and for ")));
        }
        if !FRAGMENT_BITS.into_iter().any(|bits| self.allows_fragment(bits)) {
            return Some(
                "fragments count as having no ports, flags, ICMP type or payload: only the first of a datagram could"
                    .to_owned(),
            );
        }
        if bytes(self.payload.iter()).is_none() {
            return Some("its payload patterns contradict each other".to_owned());
        }
        None
    }

    /// Returns whether nothing but TCP can match.
    pub fn is_tcp(&self) -> bool {
        const TCP: u8 = 6;
        self.proto == super::Ranges::one(TCP)
    }

    /// Returns the family that it is limited to, by word or by a prefix.
    pub fn family(&self) -> Option<Family> {
        let net = self.src.or(self.dst);
        self.family.or_else(|| net.map(|net| if net.addr().is_ipv4() { Family::Ip4 } else { Family::Ip6 }))
    }

    fn needs_ports(&self) -> bool {
        !(self.port.is_any() && self.sport.is_any() && self.dport.is_any())
    }

    fn needs_icmp(&self) -> bool {
        !(self.icmp_type.is_any() && self.icmp_code.is_any())
    }

    /// Returns whether packets of a protocol can satisfy it: only some have the fields it asks for.
    pub(super) fn allows(&self, proto: u8) -> bool {
        self.proto.contains(proto)
            && (!self.needs_ports() || matches!(proto, TCP | UDP))
            && (!self.needs_icmp() || matches!(proto, ICMP | ICMPV6))
            && (self.flags.is_empty() || proto == TCP)
    }

    fn covers_flags(&self, other: &Self) -> bool {
        let implied = |theirs: &super::Flags| {
            self.flags.iter().any(|own| own.mask & !theirs.mask == 0 && theirs.value & own.mask == own.value)
        };
        self.flags.is_empty() || !other.flags.is_empty() && other.flags.iter().all(implied)
    }

    fn covers_fragments(&self, other: &Self) -> bool {
        let own = |bits| self.frag.is_empty() || self.frag.iter().any(|kind| kind.is(bits));
        FRAGMENT_BITS.into_iter().all(|bits| !other.allows_fragment(bits) || own(bits))
    }

    /// Returns whether packets with these fragment bits can satisfy it: fragments count as having
    /// no ports, flags, ICMP type or payload.
    fn allows_fragment(&self, bits: u8) -> bool {
        let header = self.needs_ports() || self.needs_icmp() || !self.flags.is_empty() || !self.payload.is_empty();
        (self.frag.is_empty() || self.frag.iter().any(|kind| kind.is(bits))) && (!header || Fragment::Not.is(bits))
    }
}

/// Every combination of fragment bits that a packet can have.
const FRAGMENT_BITS: [u8; 8] = {
    use ftagent_common::rules::fragment::{DONT, FIRST, IS, LAST};
    [0, DONT, FIRST, FIRST | DONT, IS, IS | DONT, IS | LAST, IS | LAST | DONT]
};

impl Payload {
    /// Returns whether a payload that has all of `others` has this too.
    fn is_implied_by(&self, others: &[Self]) -> bool {
        // What no payload has implies everything.
        let Some(known) = bytes(others.iter()) else { return true };
        let from = usize::from(self.offset);
        // As long as `known`: what lies behind its end may not be there at all.
        let Some(known) = known.get(from..from + self.value.len()) else { return false };
        let own = self.value.iter().zip(&self.mask);
        known
            .iter()
            .zip(own)
            .all(|((value, looked_at), (wanted, mask))| mask & !looked_at == 0 && value & mask == *wanted)
    }
}

/// Lays patterns over each other: value and mask of every byte that all of them together look at,
/// or `None` where they contradict each other.
fn bytes<'a>(patterns: impl Iterator<Item = &'a Payload>) -> Option<Vec<(u8, u8)>> {
    let mut all: Vec<(u8, u8)> = Vec::new();
    for pattern in patterns {
        let from = usize::from(pattern.offset);
        if all.len() < from + pattern.value.len() {
            all.resize(from + pattern.value.len(), (0, 0));
        }
        let places = all.iter_mut().skip(from);
        for ((value, mask), (wanted, looked_at)) in places.zip(pattern.value.iter().zip(&pattern.mask)) {
            if (*value ^ wanted) & *mask & looked_at != 0 {
                return None;
            }
            (*value, *mask) = (*value | wanted, *mask | looked_at);
        }
    }
    Some(all)
}
