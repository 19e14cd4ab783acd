//! What has no conversation to be judged by: ICMP, flags that no stack sends, other protocols and
//! broken packets.

use ftagent_common::TrafficClass::{self, *};

use super::super::{Vector, analyst::Seen, packet::tcp, table::Tally};
use super::{
    scene::{Family, Opinion, Proposal, Scene, Window, family},
    tcp::SCAN_PPS,
    traits::{Traits, hash_of, head_hash, only, weight},
    udp,
};

/// Samples that a rule wants to see.
const ENOUGH: usize = 20;
/// AH (RFC 4302).
const AH: u8 = 51;

/// Judges all of them.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    flags(scene, window, out);
    icmp(scene, window, out);
    protocols(scene, window, out);
    broken(scene, window, out);
}

fn flags<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    for (classes, vector) in [
        (&[TcpNull][..], Vector::NullFlood),
        (&[TcpXmas][..], Vector::XmasFlood),
        (&[TcpBadFlags, TcpUrg][..], Vector::TcpFlagFlood),
    ] {
        let list = window.of_all(classes);
        let busy: Vec<_> = classes.iter().copied().filter(|class| scene.excess_of(*class).is_some()).collect();
        if busy.is_empty() || list.len() < ENOUGH {
            continue;
        }
        let traits = Traits::of(scene, &list);
        let pps: f64 = busy.iter().map(|class| scene.above(*class)).sum();
        if pps < SCAN_PPS && (traits.looks_swept() || traits.looks_like_sweep_of_hosts()) {
            out.push(Opinion::Ordinary("tcp flags: one source tries ports, each a few times: a scan".to_owned()));
            continue;
        }
        // FIN alone is a flag flood by its class, and what people know as a FIN flood.
        let fins = weight(&only(&list, |seen| seen.packet.flags & !(tcp::PSH) == tcp::FIN));
        let vector =
            if vector == Vector::TcpFlagFlood && fins >= 0.9 * weight(&list) { Vector::FinFlood } else { vector };
        let steady =
            weight(&only(&list, |seen| scene.flow(seen).is_some_and(super::super::flows::Flow::is_established)));
        let urgent = busy.contains(&TcpUrg) && steady >= 0.5 * weight(&list);
        if urgent {
            out.push(Opinion::Ordinary("tcp_urg: urgent data within connections".to_owned()));
            continue;
        }
        let confidence = if pps >= 500.0 { 0.94 } else { 0.8 };
        let why = format!("no stack sends these flags; {} sources", traits.many());
        let proposal = Proposal::new(scene, vector, &busy, list);
        let hard = proposal.packets.len() >= 100 && pps >= 500.0;
        out.push(Opinion::Attack(proposal.sure(confidence, hard, why)));
    }
}

fn icmp<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    let echo = [IcmpEcho, Icmp6Echo, IcmpOther, Icmp6Other, Icmp6Nd];
    let busy: Vec<_> = echo.into_iter().filter(|class| scene.excess_of(*class).is_some()).collect();
    let list = window.of_all(&busy);
    if !busy.is_empty() && list.len() >= ENOUGH {
        out.push(pings(scene, &busy, list));
    }
    if scene.excess_of(IcmpEchoReply).is_some() && window.of(IcmpEchoReply).len() >= ENOUGH {
        out.push(replies(scene, window.of(IcmpEchoReply)));
    }
    let unreachable = window.of(IcmpUnreachable);
    if let Some(excess) = scene.excess_of(IcmpUnreachable).filter(|_| unreachable.len() >= ENOUGH) {
        if is_returned(scene, window, unreachable, excess.pps) {
            out.push(Opinion::Ordinary(
                "icmp_unreachable: of hosts that send far more than that, to be answered".into(),
            ));
            return;
        }
        let few = Traits::of(scene, unreachable).sources.head_share(8) >= 0.8;
        let port = weight(&only(unreachable, |seen| seen.packet.code == 3)) >= 0.8 * weight(unreachable);
        let confidence = match excess.pps {
            pps if pps >= 1000.0 && few && port => 0.9,
            pps if pps >= 1000.0 => 0.8,
            pps if pps >= 300.0 => 0.6,
            _ => 0.4,
        };
        let why = if port { "port unreachable" } else { "destination unreachable" };
        let proposal = Proposal::new(scene, Vector::IcmpUnreachableFlood, &[IcmpUnreachable], unreachable.to_vec());
        out.push(Opinion::Attack(proposal.sure(confidence, few && excess.pps >= 2000.0, why)));
    }
}

/// Returns whether unreachables come of what their own senders do: who sends a lot from ports on which
/// it does not listen returns each answer that reaches it (RFC 1122, 3.2.2.1). That holds whatever the
/// rest of its packets turns out to be, and also while that is not certain.
fn is_returned(scene: &Scene<'_>, window: &Window<'_>, unreachable: &[&Seen], pps: f64) -> bool {
    let by_source = |list: &[&Seen]| {
        let mut sources: Vec<u64> = list.iter().filter_map(|seen| seen.packet.src()).map(hash_of).collect();
        sources.sort_unstable();
        sources
    };
    let within = |sources: &[u64], list: &[&Seen]| {
        let known = |seen: &Seen| seen.packet.src().is_some_and(|src| sources.binary_search(&hash_of(src)).is_ok());
        weight(&only(list, known)) / weight(list).max(1.0)
    };
    let returned = by_source(unreachable);
    let others = scene.excess.iter().filter(|excess| !matches!(family(excess.class), Family::Icmp | Family::Malformed));
    let (mut sent, mut senders) = (0.0, Vec::new());
    for class in others.map(|excess| excess.class).collect::<std::collections::BTreeSet<_>>() {
        let list = window.of(class);
        sent += scene.above(class) * within(&returned, list);
        senders.extend_from_slice(list);
    }
    let own = within(&by_source(&senders), unreachable);
    own >= 0.5 && sent >= 2.0 * own * pps
}

/// Echo requests, and every type that is not echo reply or unreachable.
fn pings<'a>(scene: &Scene<'a>, busy: &[TrafficClass], list: Vec<&'a Seen>) -> Opinion<'a> {
    let traits = Traits::of(scene, &list);
    let pps: f64 = busy.iter().map(|class| scene.above(*class)).sum();
    let neighbours = busy == [Icmp6Nd] && pps < 2000.0;
    let asked = traits.asked >= 0.5 && !busy.contains(&IcmpEcho) && traits.many() <= 3 && pps < 1000.0;
    if traits.responses > 0.6 || neighbours || asked {
        return Opinion::Ordinary("icmp: answers, or neighbours that look for each other".to_owned());
    }
    let confidence = match pps {
        pps if pps >= 500.0 => 0.92,
        pps if pps >= 150.0 => 0.7,
        _ => 0.4,
    };
    let hard = list.len() >= 50 && pps >= 900.0;
    let why = format!("{} sources, {:.0} bytes", traits.many(), traits.payload);
    Opinion::Attack(Proposal::new(scene, Vector::IcmpFlood, busy, list).sure(confidence, hard, why))
}

/// Echo replies: of one host they are a flood of ICMP, of many a smurf.
fn replies<'a>(scene: &Scene<'a>, list: &[&'a Seen]) -> Opinion<'a> {
    let traits = Traits::of(scene, list);
    let pps = scene.above(IcmpEchoReply);
    if traits.asked >= 0.5 || traits.responses > 0.6 {
        return Opinion::Ordinary("icmp_echo_reply: this host asked".to_owned());
    }
    let smurf = traits.many() >= 8 && traits.sources.first_share() <= 0.5;
    let vector = if smurf { Vector::Smurf } else { Vector::IcmpFlood };
    let confidence = match pps {
        pps if pps >= 500.0 => 0.9,
        pps if pps >= 150.0 => 0.65,
        _ => 0.4,
    };
    let hard = list.len() >= 100 && pps >= 1000.0 && (traits.many() >= 20 || pps >= 3000.0);
    let why = format!("{} sources answer what was not asked", traits.many());
    Opinion::Attack(Proposal::new(scene, vector, &[IcmpEchoReply], list.to_vec()).sure(confidence, hard, why))
}

fn protocols<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    for class in [Gre, EspAh, Ipip, Sctp, Igmp, OtherProto] {
        let Some(excess) = scene.excess_of(class) else { continue };
        let fresh = udp::newcomers(scene, window, &[class]);
        if fresh.len() < ENOUGH {
            continue;
        }
        let headers = weight(&only(&fresh, |seen| seen.packet.proto == AH)) >= 0.5 * weight(&fresh);
        let vector = match class {
            Gre => Vector::GreFlood,
            Ipip => Vector::IpipFlood,
            EspAh if !headers => Vector::EspFlood,
            _ => Vector::ProtocolFlood,
        };
        let traits = Traits::of(scene, &fresh);
        if traits.multicast > 0.5 {
            out.push(Opinion::Ordinary(format!("{}: to groups of receivers", class.as_str())));
            continue;
        }
        let lift = scene.lift(class);
        let inner = Inner::of(scene, &fresh);
        let (confidence, hard, why) = if traits.many() >= 20 && traits.sources.first_share() <= 0.5 {
            (0.92, traits.samples >= 100, format!("{} sources: no tunnel has so many ends", traits.many()))
        } else if traits.talks >= 0.5 {
            out.push(Opinion::Ordinary(format!("{}: a tunnel with traffic both ways", class.as_str())));
            continue;
        } else if inner.same >= 0.9 && traits.samples >= 50 {
            (
                0.92,
                traits.samples >= 100 && excess.pps >= 500.0,
                "every packet says the same: no tunnel does".to_owned(),
            )
        } else if inner.foreign(class) {
            (0.88, traits.samples >= 200, "the inside goes from anywhere to anywhere".to_owned())
        } else if !matches!(class, Gre | EspAh | Ipip | Sctp) && excess.pps >= 500.0 {
            (0.85, excess.pps >= 2000.0, format!("protocol {}", fresh.last().map_or(0, |seen| seen.packet.proto)))
        } else if lift >= 10.0 && excess.pps >= 20_000.0 {
            (0.6, false, format!("{lift:.0} times what is normal, in one direction"))
        } else {
            out.push(Opinion::Ordinary(format!("{}: a tunnel between few ends", class.as_str())));
            continue;
        };
        out.push(Opinion::Attack(Proposal::new(scene, vector, &[class], fresh).sure(confidence, hard, why)));
    }
}

/// What tunnels carry.
struct Inner {
    /// Share of the most frequent first bytes.
    same: f64,
    /// Different inner ends, or identities of security associations, for each packet.
    ends: f64,
    samples: usize,
}

impl Inner {
    fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let (mut heads, mut ends) = (tally(), tally());
        for seen in list {
            let head = seen.packet.head();
            // Counters are in the first bytes: the whole head is the same only where nothing counts.
            heads.add(head_hash(head, 64), seen.weight);
            let from_to = match seen.packet.proto {
                // GRE (RFC 2784), an inner IPv4 header behind 4 bytes: the /16s that it joins.
                47 if head.get(2..4) == Some(&[8, 0]) => blocks(head.get(16..24)),
                47 => 0,
                // IPv4 in IP: likewise.
                4 => blocks(head.get(12..20)),
                // AH and ESP: the SPI.
                51 => head_hash(head.get(4..8).unwrap_or_default(), 4),
                _ => head_hash(head.get(..4).unwrap_or_default(), 4),
            };
            ends.add(from_to, seen.weight);
        }
        Self { same: heads.first_share(), ends: ends.spread(), samples: list.len() }
    }

    fn foreign(&self, class: TrafficClass) -> bool {
        matches!(class, Gre | EspAh | Ipip) && self.samples >= 50 && self.ends >= 0.5
    }
}

/// Returns a number for the /16s of two IPv4 addresses.
fn blocks(addresses: Option<&[u8]>) -> u64 {
    match addresses {
        Some(&[a, b, _, _, c, d, _, _]) => u64::from(u32::from_be_bytes([a, b, c, d])),
        _ => 0,
    }
}

/// Packets that contradict themselves whoever sent them.
fn broken<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    let Some(excess) = scene.excess_of(Malformed) else { return };
    let list = window.of(Malformed);
    if list.len() < ENOUGH {
        return;
    }
    let confidence = if excess.pps >= 200.0 { 0.9 } else { 0.7 };
    let proposal = Proposal::new(scene, Vector::MalformedFlood, &[Malformed], list.to_vec());
    let hard = list.len() >= 100 && excess.pps >= 300.0;
    out.push(Opinion::Attack(proposal.sure(confidence, hard, "no stack sends such packets")));
}
