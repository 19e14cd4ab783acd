//! What a judgement is made of: the packets of the attack window by class, and what is known.

use std::collections::VecDeque;

use ftagent_common::TrafficClass;

use super::super::{
    Excess, Metric, Vector,
    analyst::{Calm, Rates, Seen, Usual},
    flows::{Flow, Flows, note},
    table::Tally,
};
use crate::sense::signals::HostSignals;

/// Everything that a judgement looks at.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// The present, monotonic nanoseconds.
    pub now_ns: u64,
    /// What exceeds normal.
    pub excess: &'a [Excess],
    /// Whether it is known what is normal.
    pub trusted: bool,
    /// Recent packets, oldest first.
    pub ring: &'a VecDeque<Seen>,
    /// Flows.
    pub flows: &'a Flows,
    /// Present rates.
    pub rates: &'a Rates,
    /// Usual rates.
    pub calm: &'a Calm,
    /// The kernel's statistics as last read.
    pub host: Option<&'a HostSignals>,
    /// Connections that are held, usually.
    pub usual: &'a Usual,
    /// This host's own packets are seen.
    pub sees_own: bool,
    /// Somebody is known.
    pub knows_sources: bool,
    /// Keys tables.
    pub seed: u64,
}

/// Packets of one class that a window holds at most, evenly spaced in time.
const PER_CLASS: usize = 1024;
/// A window reaches so far back before the excess was noticed, nanoseconds.
pub const BEFORE_NS: u64 = 100_000_000;
/// Length of a window at most, nanoseconds.
const WINDOW_NS: u64 = 3_000_000_000;

/// The packets of the attack window.
#[derive(Clone, Debug)]
pub struct Window<'a> {
    lists: Vec<Vec<&'a Seen>>,
    /// One of so many packets was kept.
    steps: Vec<usize>,
    since: Vec<Option<u64>>,
}

impl<'a> Scene<'a> {
    /// Collects the packets of all classes that exceed normal, and of their relatives.
    pub fn window(&self) -> Window<'a> {
        let mut since: Vec<Option<u64>> = vec![None; TrafficClass::COUNT];
        for excess in self.excess {
            for class in TrafficClass::ALL {
                let own = class == excess.class;
                if !own && family(class) != family(excess.class) && excess.class != TrafficClass::Malformed {
                    continue;
                }
                if let Some(at) = since.get_mut(class.index()) {
                    *at = Some(at.unwrap_or(u64::MAX).min(excess.since_ns));
                }
            }
        }
        // A class that exceeds normal by itself is looked at from then on, relatives or not.
        for excess in self.excess {
            if let Some(at) = since.get_mut(excess.class.index()) {
                *at = Some(self.since(excess.class));
            }
        }
        let mut lists: Vec<Vec<&Seen>> = vec![Vec::new(); TrafficClass::COUNT];
        for seen in self.ring.iter().rev() {
            let at = seen.packet.time_ns;
            if at + WINDOW_NS < self.now_ns {
                break;
            }
            let class = seen.class.index();
            let (Some(Some(since)), Some(list)) = (since.get(class), lists.get_mut(class)) else { continue };
            if at + BEFORE_NS >= *since {
                list.push(seen);
            }
        }
        let mut steps = Vec::with_capacity(lists.len());
        for list in &mut lists {
            let step = list.len().div_ceil(PER_CLASS).max(1);
            if step > 1 {
                *list = list.iter().step_by(step).copied().collect();
            }
            list.reverse();
            self.flows.fetch_marked(list.iter().map(|seen| &seen.mark));
            steps.push(step);
        }
        Window { lists, steps, since }
    }

    /// Returns what exceeds normal in a class, packets a second before bits.
    pub fn excess_of(&self, class: TrafficClass) -> Option<&'a Excess> {
        let of = |metric| self.excess.iter().find(move |excess| excess.class == class && excess.metric == metric);
        of(Metric::Pps).or_else(|| self.excess.iter().find(|excess| excess.class == class))
    }

    /// Returns when the excess of a class began.
    pub fn since(&self, class: TrafficClass) -> u64 {
        let of_class = self.excess.iter().filter(|excess| excess.class == class);
        of_class.map(|excess| excess.since_ns).min().unwrap_or(self.now_ns)
    }

    /// Returns packets a second of a class above what is normal.
    pub fn above(&self, class: TrafficClass) -> f64 {
        self.excess_of(class).map_or(0.0, |excess| (excess.pps - self.normal(class)).max(0.0))
    }

    /// Returns bits a second of a class that exceeds normal.
    pub fn bits(&self, class: TrafficClass) -> f64 {
        self.excess_of(class).map_or(0.0, |excess| excess.bps)
    }

    /// Returns what is normal of a class, packets a second.
    pub fn normal(&self, class: TrafficClass) -> f64 {
        let known = if self.trusted { self.excess_of(class).map(|excess| excess.baseline_pps) } else { None };
        known.unwrap_or_else(|| if self.trusted { self.calm.pps(class) } else { 0.0 })
    }

    /// Returns how many times normal a class is.
    pub fn lift(&self, class: TrafficClass) -> f64 {
        if !self.trusted {
            return 1.0;
        }
        let Some(excess) = self.excess_of(class) else {
            return self.rates.of(class, 1_000_000_000).0 / self.calm.pps(class).max(10.0);
        };
        excess.pps / excess.baseline_pps.max(10.0)
    }

    /// Returns the flow of a packet, if it is still known and did not begin anew since.
    pub fn flow(&self, seen: &Seen) -> Option<&'a Flow> {
        self.flows.get(&seen.mark).filter(|flow| flow.first_ns <= seen.packet.time_ns)
    }

    /// Returns the flow of a packet as it is now, even if it began anew since.
    pub fn flow_now(&self, seen: &Seen) -> Option<&'a Flow> {
        self.flows.get(&seen.mark)
    }

    /// Returns whether the handshake that a SYN began was completed.
    pub fn is_completed(&self, syn: &Seen) -> bool {
        let Some(flow) = self.flows.get(&syn.mark) else { return false };
        let again = flow.first_ns > syn.packet.time_ns;
        flow.has(if again { note::COMPLETED_BEFORE } else { note::COMPLETE })
    }

    /// Tells for each packet whether its flow was there before the excess began and has not grown
    /// since. `step`: one of so many packets is in the list.
    pub fn standing(&self, list: &[&Seen], step: usize, since_ns: u64) -> Vec<bool> {
        let mut tally = Tally::with_capacity(list.len(), self.seed);
        for seen in list {
            tally.add(seen.mark.tag, 1.0);
        }
        let counts = tally.counts();
        let window = list.first().map_or(1, |first| self.now_ns.saturating_sub(first.packet.time_ns)).max(100_000_000);
        let of = |seen: &&Seen| {
            let Some(flow) = self.flow(seen) else { return false };
            if flow.first_ns + 1_000_000_000 > since_ns {
                return false;
            }
            let found = counts.binary_search_by_key(&seen.mark.tag, |(tag, _)| *tag);
            let now =
                found.ok().and_then(|at| counts.get(at)).map_or(0.0, |(_, count)| f64::from(*count) * step as f64);
            let total: f64 = flow.halves.iter().map(|half| f64::from(half.packets)).sum();
            let past = self.now_ns.saturating_sub(flow.first_ns).saturating_sub(window).max(1) as f64;
            let (before, present) = ((total - now).max(0.0) / past, now / window as f64);
            // What came once in a while does not make known what comes all the time.
            let expected = before * window as f64;
            expected >= 0.5 && present * window as f64 <= 4.0 * expected + (3 * step) as f64
        };
        list.iter().map(of).collect()
    }
}

impl<'a> Window<'a> {
    /// Returns the packets of a class, oldest first.
    pub fn of(&self, class: TrafficClass) -> &[&'a Seen] {
        self.lists.get(class.index()).map_or(&[], Vec::as_slice)
    }

    /// Returns the packets of several classes.
    pub fn of_all(&self, classes: &[TrafficClass]) -> Vec<&'a Seen> {
        classes.iter().flat_map(|class| self.of(*class).iter().copied()).collect()
    }

    /// Returns how many packets of a class stand behind each one that was kept.
    pub fn step(&self, class: TrafficClass) -> usize {
        self.steps.get(class.index()).copied().unwrap_or(1)
    }

    /// Returns from when on packets of a class are looked at.
    pub fn since(&self, class: TrafficClass) -> u64 {
        self.since.get(class.index()).copied().flatten().unwrap_or(0)
    }
}

/// What belongs together: classes that are judged in the light of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// TCP by flags and by first bytes.
    Tcp,
    /// TCP whose flags no stack sends.
    Flags,
    /// UDP that is known by length alone.
    Udp,
    /// UDP to a service.
    Service,
    /// UDP from a reflector, and fragments.
    Reflected,
    /// ICMP and ICMPv6.
    Icmp,
    /// Other protocols.
    Protocol,
    /// Broken packets.
    Malformed,
    /// Not IP.
    Link,
}

/// Returns the family of a class.
pub const fn family(class: TrafficClass) -> Family {
    use TrafficClass::*;
    match class {
        Arp | OtherL2 => Family::Link,
        Malformed => Family::Malformed,
        TcpSyn | TcpSynAck | TcpAck | TcpData | TcpFin | TcpRst | HttpRequest | TlsClientHello => Family::Tcp,
        TcpNull | TcpXmas | TcpBadFlags | TcpUrg => Family::Flags,
        UdpEmpty | UdpSmall | UdpMedium | UdpLarge => Family::Udp,
        UdpDnsQuery | UdpQuicInitial | UdpSip | UdpGameQuery | UdpVpn => Family::Service,
        IcmpEcho | IcmpEchoReply | IcmpUnreachable | IcmpOther | Icmp6Echo | Icmp6Nd | Icmp6Other => Family::Icmp,
        Gre | EspAh | Ipip | Sctp | Igmp | OtherProto => Family::Protocol,
        FragFirst | FragNext => Family::Reflected,
        _ => Family::Reflected,
    }
}

/// What a rule says.
#[derive(Clone, Debug)]
pub enum Opinion<'a> {
    /// It is an attack.
    Attack(Proposal<'a>),
    /// It is ordinary, and why.
    Ordinary(String),
}

/// A vector that a rule proposes.
#[derive(Clone, Debug)]
pub struct Proposal<'a> {
    /// The vector.
    pub vector: Vector,
    /// How sure the rule is, by structure.
    pub confidence: f64,
    /// Ordinary traffic cannot look like this: enough where nothing is known of what is normal.
    pub hard: bool,
    /// The packets that it is about.
    pub packets: Vec<&'a Seen>,
    /// The classes in excess that it explains.
    pub classes: Vec<TrafficClass>,
    /// Packets a second that it explains, above normal.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
    /// Handshakes completed, where that is what tells.
    pub completed: Option<f64>,
    /// Requests answered, where that is seen.
    pub answered: Option<f64>,
    /// What tells, in words.
    pub why: String,
}

impl<'a> Proposal<'a> {
    /// Makes a proposal over classes; those that do not exceed normal are left out.
    pub fn new(scene: &Scene<'a>, vector: Vector, classes: &[TrafficClass], packets: Vec<&'a Seen>) -> Self {
        let classes: Vec<_> = classes.iter().copied().filter(|class| scene.excess_of(*class).is_some()).collect();
        let pps = classes.iter().map(|class| scene.above(*class)).sum();
        let bps = classes.iter().map(|class| scene.bits(*class)).sum();
        Self {
            vector,
            confidence: 0.0,
            hard: false,
            packets,
            classes,
            pps,
            bps,
            completed: None,
            answered: None,
            why: String::new(),
        }
    }

    /// Says how sure it is, whether that is enough without a baseline, and why.
    pub fn sure(mut self, confidence: f64, hard: bool, why: impl Into<String>) -> Self {
        (self.confidence, self.hard, self.why) = (confidence.clamp(0.0, 1.0), hard, why.into());
        self
    }
}
