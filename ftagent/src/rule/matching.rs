//! Whether a packet satisfies a match, and which dimension it fails: what every plane's compiler is
//! measured against.

use std::fmt;

use ftagent_common::rules::{fragment, has};
use serde::{Deserialize, Serialize};

use super::{Family, Flags, FlowMatch, Fragment, Payload, Ranges, Subject, set::Number};

/// A dimension that a packet does not satisfy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The word of the dimension, as the text form has it.
    pub dimension: String,
    /// What the match asks for, as text.
    pub wanted: String,
    /// What the packet has, as text; absent where it has no such field.
    pub found: Option<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dimension, wanted, found } = self;
        match found {
            Some(found) => write!(f, "{dimension} is {found}, not {wanted}"),
            None => write!(f, "it has no {dimension}"),
        }
    }
}

impl FlowMatch {
    /// Returns whether a packet satisfies it.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let key = &subject.key;
        let Some((src, dst)) = subject.ends.filter(|_| key.has & has::IP != 0) else { return false };
        let family = if src.is_ipv4() { Family::Ip4 } else { Family::Ip6 };
        let ports = key.has & has::PORTS != 0;
        let icmp = key.has & has::ICMP != 0;
        self.family.is_none_or(|wanted| wanted == family)
            && self.src.is_none_or(|net| net.contains(&src))
            && self.dst.is_none_or(|net| net.contains(&dst))
            && self.proto.contains(key.proto)
            && (self.port.is_any() || ports && (self.port.contains(key.sport) || self.port.contains(key.dport)))
            && (self.sport.is_any() || ports && self.sport.contains(key.sport))
            && (self.dport.is_any() || ports && self.dport.contains(key.dport))
            && (self.icmp_type.is_any() || icmp && self.icmp_type.contains(key.icmp_type))
            && (self.icmp_code.is_any() || icmp && self.icmp_code.contains(key.icmp_code))
            && self.accepts_flags(key.has & has::FLAGS != 0, key.flags)
            && self.len.contains(key.len)
            && self.dscp.contains(key.dscp)
            && (self.frag.is_empty() || self.frag.iter().any(|kind| kind.is(key.fragment)))
            && self.ttl.contains(key.ttl)
            && self.payload.iter().all(|payload| key.has & has::PAYLOAD != 0 && payload.is_in(subject.payload))
    }

    /// Returns the dimensions that a packet does not satisfy: none where it matches.
    pub fn mismatches(&self, subject: &Subject<'_>) -> Vec<Mismatch> {
        let key = &subject.key;
        let Some((src, dst)) = subject.ends.filter(|_| key.has & has::IP != 0) else {
            return vec![Mismatch {
                dimension: "IP header that is whole".to_owned(),
                wanted: "any".to_owned(),
                found: None,
            }];
        };
        let mut all = Findings::default();
        let family = if src.is_ipv4() { Family::Ip4 } else { Family::Ip6 };
        let name = |family| if family == Family::Ip4 { "ip4" } else { "ip6" };
        if let Some(wanted) = self.family.filter(|wanted| *wanted != family) {
            all.note("family", name(wanted), Some(name(family)));
        }
        for (word, wanted, address) in [("src", self.src, src), ("dst", self.dst, dst)] {
            if let Some(net) = wanted.filter(|net| !net.contains(&address)) {
                all.note(word, net, Some(address));
            }
        }
        all.range("proto", &self.proto, Some(key.proto));
        let ports = key.has & has::PORTS != 0;
        let (sport, dport) = (Some(key.sport).filter(|_| ports), Some(key.dport).filter(|_| ports));
        if !self.port.is_any() && !(ports && (self.port.contains(key.sport) || self.port.contains(key.dport))) {
            let found = ports.then(|| format!("{} and {}", key.sport, key.dport));
            all.note("port", &self.port, found);
        }
        all.range("sport", &self.sport, sport);
        all.range("dport", &self.dport, dport);
        let icmp = key.has & has::ICMP != 0;
        all.range("icmp-type", &self.icmp_type, Some(key.icmp_type).filter(|_| icmp));
        all.range("icmp-code", &self.icmp_code, Some(key.icmp_code).filter(|_| icmp));
        let flagged = key.has & has::FLAGS != 0;
        if !self.accepts_flags(flagged, key.flags) {
            all.note("flags", list(&self.flags), flagged.then(|| Flags { value: key.flags, mask: key.flags }.names()));
        }
        all.range("len", &self.len, Some(key.len));
        all.range("dscp", &self.dscp, Some(key.dscp));
        if !self.frag.is_empty() && !self.frag.iter().any(|kind| kind.is(key.fragment)) {
            all.note("frag", list(&self.frag), Some(kinds(key.fragment)));
        }
        all.range("ttl", &self.ttl, Some(key.ttl));
        let payload = key.has & has::PAYLOAD != 0;
        for wanted in self.payload.iter().filter(|wanted| !(payload && wanted.is_in(subject.payload))) {
            all.note("payload", wanted, wanted.seen(subject.payload).filter(|_| payload));
        }
        all.0
    }

    pub(super) fn accepts_flags(&self, present: bool, flags: u8) -> bool {
        self.flags.is_empty() || present && self.flags.iter().any(|test| flags & test.mask == test.value)
    }
}

/// Collects mismatches.
#[derive(Default)]
struct Findings(Vec<Mismatch>);

impl Findings {
    fn note(&mut self, dimension: &str, wanted: impl ToString, found: Option<impl ToString>) {
        let (dimension, wanted) = (dimension.to_owned(), wanted.to_string());
        self.0.push(Mismatch { dimension, wanted, found: found.map(|found| found.to_string()) });
    }

    /// `found` is `None` where the packet has no such field.
    fn range<T: Number>(&mut self, dimension: &str, wanted: &Ranges<T>, found: Option<T>) {
        if !wanted.is_any() && !found.is_some_and(|found| wanted.contains(found)) {
            self.note(dimension, wanted, found);
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Names the kinds of fragment that a packet with these bits is of.
fn kinds(bits: u8) -> String {
    let all = [Fragment::Dont, Fragment::Is, Fragment::First, Fragment::Last, Fragment::Not];
    list(&all.into_iter().filter(|kind| kind.is(bits)).collect::<Vec<_>>())
}

impl Fragment {
    /// Returns whether a packet with these bits is of this kind.
    pub const fn is(self, bits: u8) -> bool {
        match self {
            Self::Dont => bits & fragment::DONT != 0,
            Self::Is => bits & fragment::IS != 0,
            Self::First => bits & fragment::FIRST != 0,
            Self::Last => bits & fragment::LAST != 0,
            Self::Not => bits & (fragment::IS | fragment::FIRST) == 0,
        }
    }
}

impl Payload {
    /// Returns whether a payload has these bytes.
    pub fn is_in(&self, payload: &[u8]) -> bool {
        let from = usize::from(self.offset);
        let Some(bytes) = payload.get(from..from + self.value.len()) else { return false };
        bytes.iter().zip(&self.mask).zip(&self.value).all(|((byte, mask), value)| byte & mask == *value)
    }

    /// Returns what a payload has in its place, as text; `None` where it ends before.
    fn seen(&self, payload: &[u8]) -> Option<String> {
        let from = usize::from(self.offset);
        let bytes = payload.get(from..payload.len().min(from + self.value.len())).filter(|bytes| !bytes.is_empty())?;
        Some(format!("{from}:{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
    }
}
