//! What is thinned while there is no safe rule and this host takes more than it can: the classes of an
//! attack, to what was ordinary of them.
//!
//! Thinning takes customers' packets in proportion. A host that bears the flood serves them better without.

use std::collections::BTreeMap;

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

/// There is no safe rule for so long before anything is thinned, nanoseconds.
const AFTER_NS: u64 = 1_000_000_000;
/// A host that suffered so long ago suffers still, nanoseconds.
const STRAINED_NS: u64 = 1_000_000_000;
/// A lull that is none, before thinning begins, nanoseconds.
const LULL_NS: u64 = 500_000_000;
/// What is left is ordinary for so long before thinning ends, nanoseconds.
const OVER_NS: u64 = 2_000_000_000;

/// What IP itself, its links and its routers cannot do without, or may hide it.
const fn is_spared(class: TrafficClass) -> bool {
    use TrafficClass::*;
    // Path MTU discovery is among ICMP's "unreachable" and ICMPv6's others, MLD among the latter too,
    // OSPF and VRRP among other protocols; LLDP, LACP and 802.1X are other EtherTypes. BFD and DHCP are among
    // the UDP that customers send: they have a pool beside it (`tripwire::spared_ports`).
    matches!(class, Arp | OtherL2 | Icmp6Nd | Icmp6Other | IcmpUnreachable | Igmp | OtherProto)
}

/// What no rule matches of a class, and what is ordinary of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Left {
    /// Packets a second that no rule matches.
    pub pps: f64,
    /// Bits a second of those.
    pub bps: f64,
    /// Packets and bits a second below which an attack by it is over.
    pub exit: (f64, f64),
    /// Packets a second that it is thinned to: what clean traffic had at most, and what was too much.
    pub ordinary_pps: f64,
}

impl Left {
    fn is_too_much(&self) -> bool {
        self.pps > self.exit.0 || self.bps > self.exit.1
    }
}

/// What is thinned.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Thinning {
    /// Since when there is no safe rule for too much of the attack, nanoseconds.
    since_ns: Option<u64>,
    /// When that was so last.
    last_ns: u64,
    /// When this host suffered last, nanoseconds.
    strained_ns: Option<u64>,
    classes: BTreeMap<TrafficClass, f64>,
}

impl Thinning {
    /// Returns the classes that are thinned, packets a second.
    pub fn classes(&self) -> &BTreeMap<TrafficClass, f64> {
        &self.classes
    }

    /// Notes that this host takes more packets than it can.
    pub fn strained(&mut self, now_ns: u64) {
        self.strained_ns = Some(now_ns);
    }

    /// Takes in what a tick left of each class; `stuck`: no safe rule was found for it, `acts`: it may
    /// be thinned at all. Returns what changed, in words.
    pub fn on_tick(
        &mut self,
        now_ns: u64,
        left: &BTreeMap<TrafficClass, Left>,
        stuck: bool,
        acts: bool,
    ) -> Vec<String> {
        let thins = !self.classes.is_empty();
        let too_much = || left.iter().filter(|(class, left)| !is_spared(**class) && left.is_too_much());
        if acts && (stuck || thins) && too_much().next().is_some() {
            self.since_ns.get_or_insert(now_ns);
            self.last_ns = now_ns;
        }
        let pause = if thins { OVER_NS } else { LULL_NS };
        if !acts || now_ns.saturating_sub(self.last_ns) >= pause {
            return self.end();
        }
        let suffers = self.strained_ns.is_some_and(|at| now_ns.saturating_sub(at) < STRAINED_NS);
        // What is thinned strains nobody any more, and that is why.
        if !(suffers || thins) || self.since_ns.is_none_or(|since| now_ns.saturating_sub(since) < AFTER_NS) {
            return Vec::new();
        }
        let mut lines = Vec::new();
        for (class, left) in too_much().filter(|(_, left)| left.ordinary_pps.is_finite()) {
            if !self.classes.contains_key(class) {
                self.classes.insert(*class, left.ordinary_pps);
                lines.push(format!(
                    "{} is thinned to {:.0} pps: there is no safe rule for {:.0} pps of it, and this host loses packets",
                    class.as_str(),
                    left.ordinary_pps,
                    left.pps
                ));
            }
        }
        lines
    }

    /// Thins nothing any more.
    pub fn end(&mut self) -> Vec<String> {
        self.since_ns = None;
        let ended = std::mem::take(&mut self.classes);
        ended.keys().map(|class| format!("{} is thinned no more", class.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 100_000_000;

    fn left(class: TrafficClass, pps: f64) -> BTreeMap<TrafficClass, Left> {
        let left = Left { pps, bps: 0.0, exit: (100.0, 1e9), ordinary_pps: 250.0 };
        BTreeMap::from([(class, left)])
    }

    #[test]
    fn a_class_is_thinned_after_a_second_without_a_rule_until_what_is_left_is_ordinary() {
        let class = TrafficClass::UdpMedium;
        let mut thinning = Thinning::default();
        // It suffers until it is helped.
        thinning.strained(119 * TICK_NS);
        let (mut began, mut ended) = (None, None);
        for tick in 100..200u64 {
            let pps = if (110..150).contains(&tick) { 5000.0 } else { 40.0 };
            let lines = thinning.on_tick(tick * TICK_NS, &left(class, pps), true, true);
            match lines.first() {
                Some(line) if line.contains("no more") => ended = Some(tick),
                Some(line) => {
                    assert_eq!(
                        line,
                        "udp_medium is thinned to 250 pps: there is no safe rule for 5000 pps of it, and this host loses packets"
                    );
                    began = Some(tick);
                }
                None => {}
            }
            assert_eq!(thinning.classes().get(&class).is_some(), began.is_some() && ended.is_none());
        }
        assert_eq!((began, ended), (Some(120), Some(169)));
    }

    #[test]
    fn what_must_not_be_thinned_is_not() {
        let cases = [
            ("a rule was found", TrafficClass::UdpMedium, false, true),
            ("nothing is acted on", TrafficClass::UdpMedium, true, false),
            ("ARP", TrafficClass::Arp, true, true),
            ("neighbour discovery", TrafficClass::Icmp6Nd, true, true),
            ("path MTU discovery", TrafficClass::IcmpUnreachable, true, true),
            ("routing protocols", TrafficClass::OtherProto, true, true),
        ];
        for (name, class, stuck, acts) in cases {
            let mut thinning = Thinning::default();
            for tick in 100..160 {
                thinning.strained(tick * TICK_NS);
                assert!(thinning.on_tick(tick * TICK_NS, &left(class, 9000.0), stuck, acts).is_empty(), "{name}");
            }
            assert!(thinning.classes().is_empty(), "{name}");
        }
    }

    #[test]
    fn an_operator_who_wants_to_look_on_ends_it_at_once() {
        let mut thinning = Thinning::default();
        let flood = left(TrafficClass::TcpAck, 9000.0);
        for tick in 100..120 {
            thinning.strained(tick * TICK_NS);
            thinning.on_tick(tick * TICK_NS, &flood, true, true);
        }
        assert_eq!(thinning.classes().len(), 1);
        assert_eq!(thinning.on_tick(120 * TICK_NS, &flood, true, false), ["tcp_ack is thinned no more"]);
    }
}
