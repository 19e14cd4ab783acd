//! A packet on its way to a file, from whichever source it is, and what is said of it there.

use std::{collections::BTreeMap, fmt::Write as _};

use ftagent_common::{
    DropReason, TrafficClass,
    guard::socket,
    parse::{Family, SlicePacket, parse},
    reason::verdict,
    sample::{SampleHeader, SampleRecord},
};

use crate::{bpf::captures::Captured, config::Payload, record::tape::SlotRule};

/// Bytes of payload that decisions look at, and that are kept by default.
const LOOKED_AT: usize = 64;
/// What is kept of a frame that is not IP where only headers are: Ethernet with two VLAN tags, and ARP.
const NOT_IP: usize = 22 + 28;

/// A packet, as the kernel saw it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Bytes on the wire, without FCS.
    pub wire: u32,
    /// The first of them.
    pub bytes: &'a [u8],
    /// The interface's slot.
    pub slot: u32,
    /// The CPU that saw it.
    pub cpu: u32,
    /// What it was counted in.
    pub class: Option<TrafficClass>,
    /// See [`verdict`].
    pub verdict: u32,
    /// Why it was dropped.
    pub reason: Option<DropReason>,
    /// The slot of the rule that decided.
    pub rule: Option<u8>,
    /// How many packets it stood for when it was drawn.
    pub stride: u32,
    /// See [`socket`].
    pub socket: u8,
}

impl<'a> From<&'a SampleRecord> for Frame<'a> {
    fn from(sample: &'a SampleRecord) -> Self {
        let captured = usize::from(sample.header.captured);
        Self::new(&sample.header, sample.data.get(..captured).unwrap_or(&sample.data))
    }
}

impl<'a> From<&'a Captured> for Frame<'a> {
    fn from(captured: &'a Captured) -> Self {
        Self::new(&captured.header, &captured.bytes)
    }
}

impl<'a> Frame<'a> {
    fn new(header: &SampleHeader, bytes: &'a [u8]) -> Self {
        Self {
            time_ns: header.time_ns,
            wire: header.wire_bytes,
            bytes,
            slot: u32::from(header.slot),
            cpu: u32::from(header.cpu),
            class: TrafficClass::from_index(usize::from(header.class)),
            verdict: u32::from(header.verdict),
            reason: DropReason::from_index(usize::from(header.reason)),
            rule: header.rule.checked_sub(1).and_then(|slot| u8::try_from(slot).ok()),
            stride: header.stride,
            socket: header.socket,
        }
    }
}

impl<'a> Frame<'a> {
    /// Returns the name of its class.
    pub fn class_name(&self) -> &'static str {
        self.class.map_or("unknown", TrafficClass::as_str)
    }

    /// Returns what of it may be kept.
    pub fn kept(&self, payload: Payload) -> &'a [u8] {
        let most = match payload {
            Payload::Full => return self.bytes,
            Payload::Classify => self.headers() + LOOKED_AT,
            Payload::Headers => self.headers(),
        };
        self.bytes.get(..most).unwrap_or(self.bytes)
    }

    /// Returns the bytes of its headers, up to TCP's options or ICMP's eight bytes.
    fn headers(&self) -> usize {
        let wire = (self.wire as usize).max(self.bytes.len());
        let facts = parse(&SlicePacket { bytes: self.bytes, wire }, |_| false);
        let l4 = usize::from(facts.l4);
        let ip = match facts.family {
            Family::None => return NOT_IP,
            Family::V4 => usize::from(facts.l3) + 20,
            Family::V6 => usize::from(facts.l3) + 40,
        };
        // A later fragment has no header behind IP, whatever its protocol.
        if l4 == 0 || self.class == Some(TrafficClass::FragNext) {
            return ip.max(l4);
        }
        let behind = match facts.proto {
            6 => usize::from(self.bytes.get(l4 + 12).copied().unwrap_or(0) >> 4).max(5) * 4,
            _ => 8,
        };
        l4 + behind
    }
}

/// The rules in the kernel, by slot, as comments name them.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<u8, String>);

impl Names {
    /// Takes the rules that are there now.
    pub fn follow(&mut self, slots: &[SlotRule]) {
        self.0 = slots.iter().map(|rule| (rule.slot, rule.matches.clone())).collect();
    }
}

/// Writes what is to be said of a packet: `verdict=dropped reason=rule rule=3 (udp sport 123)
/// class=udp_src_ntp stride=64 socket=none`. The rule's number is its slot, as metrics have it.
pub fn comment(text: &mut String, frame: &Frame<'_>, names: &Names) {
    text.clear();
    text.push_str("verdict=");
    text.push_str(verdict::name(frame.verdict));
    if let Some(reason) = frame.reason {
        text.push_str(" reason=");
        text.push_str(reason.as_str());
    }
    if let Some(slot) = frame.rule {
        // Writing to a String cannot fail.
        let _ = write!(text, " rule={slot}");
        if let Some(matches) = names.0.get(&slot) {
            text.push_str(" (");
            text.push_str(matches);
            text.push(')');
        }
    }
    text.push_str(" class=");
    text.push_str(frame.class_name());
    let _ = write!(text, " stride={}", frame.stride);
    text.push_str(" socket=");
    text.push_str(match frame.socket {
        socket::NONE => "none",
        socket::LISTENER => "listener",
        socket::CONNECTED => "connected",
        socket::UNCONNECTED => "unconnected",
        socket::HALF_OPEN => "half-open",
        _ => "unknown",
    });
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::record::recorder::tests::{sample, udp};

    #[test]
    fn a_packet_says_what_became_of_it_and_why() {
        let mut names = Names::default();
        let rule = SlotRule {
            slot: 3,
            owner: "rule 17".to_owned(),
            matches: "udp sport 123".to_owned(),
            action: "drop".to_owned(),
        };
        names.follow(&[rule]);
        let mut ntp = sample(7, &udp(Ipv4Addr::new(192, 0, 2, 1), (123, 5000), &[0; 40]));
        ntp.header.stride = 64;
        let mut text = String::new();
        comment(&mut text, &Frame::from(&ntp), &names);
        assert_eq!(text, "verdict=passed class=udp_src_ntp stride=64 socket=unknown");
        ntp.header.verdict = verdict::DROP as u8;
        ntp.header.reason = DropReason::Rule as u8;
        (ntp.header.rule, ntp.header.socket) = (4, socket::NONE);
        comment(&mut text, &Frame::from(&ntp), &names);
        assert_eq!(text, "verdict=dropped reason=rule rule=3 (udp sport 123) class=udp_src_ntp stride=64 socket=none");
        ntp.header.rule = 9;
        comment(&mut text, &Frame::from(&ntp), &names);
        assert!(text.contains("rule=8 class="), "a rule that nobody named: {text}");
    }

    #[test]
    fn no_more_is_kept_than_was_asked_for() {
        let of = |bytes: usize| sample(1, &udp(Ipv4Addr::new(192, 0, 2, 1), (123, 5000), &vec![7; bytes]));
        let long = of(200);
        let kept = |payload| Frame::from(&long).kept(payload).len();
        assert_eq!(kept(Payload::Full), 128, "what the sampler gives");
        assert_eq!(kept(Payload::Classify), 42 + 64);
        assert_eq!(kept(Payload::Headers), 42);
        let short = of(1);
        assert_eq!(Frame::from(&short).kept(Payload::Classify).len(), 43);
        let arp = sample(1, &[[2; 12].as_slice(), &[8, 6], &[1; 100]].concat());
        assert_eq!(Frame::from(&arp).kept(Payload::Headers).len(), 50);
        let mut cut = sample(1, &[]);
        cut.header.captured = 500;
        assert_eq!(Frame::from(&cut).kept(Payload::Full).len(), 128, "a length that cannot be");
    }
}
