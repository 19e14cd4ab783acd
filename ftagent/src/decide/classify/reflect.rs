//! Answers of reflectors, by the port they come from.

use ftagent_common::TrafficClass::{self, *};

use super::super::{Vector, analyst::Seen, baseline::no_business};
use super::{
    fragments::{self, Fragments},
    scene::{Opinion, Proposal, Scene, Window},
    traits::{Traits, only, weight},
    udp,
};

/// Samples that a rule wants to see.
const ENOUGH: usize = 12;

/// Judges every reflector's class, and fragments in their light.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    let fragments = Fragments::of(scene, window);
    let mut named = None;
    for class in TrafficClass::ALL {
        let Some(vector) = Vector::of_reflector(class) else { continue };
        let first = fragments.as_ref().and_then(|fragments| fragments.from(class));
        if scene.excess_of(class).is_none() && first.is_none() {
            continue;
        }
        let opinion = reflector(scene, window, class, vector, first.as_deref().unwrap_or_default());
        let fragmented = first.is_some() && matches!(&opinion, Some(Opinion::Attack(it)) if it.confidence >= 0.5);
        if fragmented {
            named = Some(class);
        }
        let with_fragments = |mut proposal: Proposal<'a>| {
            for class in [FragFirst, FragNext].into_iter().filter(|class| scene.excess_of(*class).is_some()) {
                proposal.classes.push(class);
                proposal.pps += scene.above(class);
                proposal.bps += scene.bits(class);
            }
            proposal
        };
        out.extend(opinion.map(|opinion| match opinion {
            Opinion::Attack(proposal) if fragmented => Opinion::Attack(with_fragments(proposal)),
            other => other,
        }));
    }
    if let Some(fragments) = fragments.filter(|_| named.is_none()) {
        fragments::judge(scene, &fragments, out);
    }
}

fn reflector<'a>(
    scene: &Scene<'a>,
    window: &Window<'a>,
    class: TrafficClass,
    vector: Vector,
    first: &[&'a Seen],
) -> Option<Opinion<'a>> {
    let mut fresh = udp::newcomers(scene, window, &[class]);
    let share = weight(&fresh) / weight(window.of(class)).max(1.0);
    fresh.extend(first);
    if fresh.len() < ENOUGH {
        return None;
    }
    let name = class.as_str();
    let traits = Traits::of(scene, &fresh);
    let pps = scene.above(class).max(weight(first));
    if traits.multicast > 0.5 {
        return Some(Opinion::Ordinary(format!("{name}: to groups of receivers")));
    }
    if first.is_empty()
        && (share < 0.3 || scene.trusted && share * scene.excess_of(class)?.pps < 0.4 * scene.above(class))
    {
        return Some(Opinion::Ordinary(format!("{name}: conversations that were there before")));
    }
    if traits.looks_like_echo_of_sweep() && traits.payload <= 100.0 {
        return Some(Opinion::Ordinary(format!("{name}: the echo of a scan")));
    }
    if traits.talks >= 0.5 || traits.asked >= 0.6 {
        return Some(Opinion::Ordinary(format!("{name}: answers to what this host asked")));
    }
    let many = traits.many();
    // A poller's hundred agents answer with little each; reflectors are more, or say more.
    let modest = many < 100 && traits.payload < 200.0 && first.is_empty();
    let points = points(class, &traits, &fresh, first).min(if modest { 1 } else { u32::MAX });
    let why = format!(
        "{many} sources answer from port {} with {:.0} bytes, unasked",
        traits.sports.first().0,
        traits.payload
    );
    let forbidden = no_business(class);
    let lift = scene.lift(class);
    let confidence = match points {
        _ if forbidden && (many >= 3 || pps >= 500.0) => 0.94,
        _ if forbidden => 0.75,
        4.. => 0.94,
        3 => 0.88,
        2 if lift >= 4.0 => 0.65,
        2 => 0.45,
        _ => return Some(Opinion::Ordinary(format!("{name}: few sources, as of a service that this host uses"))),
    };
    let hard =
        fresh.len() >= 100 && (forbidden && points >= 2 || points >= 4 && many >= 20) || forbidden && fresh.len() >= 30;
    Some(Opinion::Attack(Proposal::new(scene, vector, &[class], fresh).sure(confidence, hard, why)))
}

/// Counts what speaks for reflection: many sources, few of them dominant; answers of one length,
/// or large ones; one port that they go to, or one packet for each flow; the protocol's own shape.
fn points(class: TrafficClass, traits: &Traits, list: &[&Seen], first: &[&Seen]) -> u32 {
    let many = traits.many();
    let spread = if many >= 20 && traits.sources.first_share() <= 0.5 { 2 } else { u32::from(many >= 8) };
    if spread == 0 {
        // A swarm of answers comes from a swarm of reflectors.
        return u32::from(many >= 4 && traits.payload >= 400.0);
    }
    let uniform = u32::from(traits.lengths.head_share(4) >= 0.6 || traits.payload >= 400.0 || !first.is_empty());
    let aimed =
        u32::from(traits.dports.head_share(4) >= 0.7 && traits.flows.distinct() >= 8 || traits.flows.spread() >= 0.5);
    let shaped = u32::from(weight(&only(list, |seen| is_answer(class, seen))) >= 0.8 * weight(list));
    spread + uniform + aimed + shaped
}

/// Returns whether a payload has the shape of what the reflector answers.
fn is_answer(class: TrafficClass, seen: &Seen) -> bool {
    let head = seen.packet.head();
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    match class {
        // RFC 1035, 4.1.1: QR = 1; RFC 5905 and ntpd: modes 6 and 7, answer bit.
        UdpSrcDns | UdpSrcMdns | UdpSrcNetbios => byte(2) & 0x80 != 0,
        UdpSrcNtp => matches!(byte(0) & 7, 6 | 7) && seen.packet.payload > 48,
        // RFC 9000: long header; the short one belongs to connections.
        UdpSrcQuic => byte(0) & 0x80 != 0,
        UdpSrcMemcached => head.get(8..).is_some_and(|text| text.starts_with(b"VALUE") || text.starts_with(b"STAT")),
        UdpSrcSsdp => head.starts_with(b"HTTP/1.1"),
        UdpSrcSnmp | UdpSrcCldap => byte(0) == 0x30,
        UdpSrcStun => byte(0) == 1 && byte(1) == 1,
        UdpSrcSip => head.starts_with(b"SIP/2.0"),
        UdpSrcQuake | UdpSrcSteam => head.starts_with(&[0xff; 4]),
        // NAT traversal keeps ESP in the same port: its SPI is not zero.
        UdpSrcIsakmp => seen.packet.sport == 500 || head.starts_with(&[0; 4]) || seen.packet.dport != 4500,
        _ => true,
    }
}
