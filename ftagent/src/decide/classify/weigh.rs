//! Weighs what the rules say against each other and makes findings of it.

use ftagent_common::TrafficClass::{self, *};

use super::super::{Excess, Vector, analyst::Seen, table::Tally};
use super::{
    Finding, Judgement, evidence, other, reflect,
    scene::{Opinion, Proposal, Scene},
    service, tcp, tool,
    traits::{Traits, hash_of},
    udp,
};

/// A second vector holds at least this share of packets or bytes.
const CONSIDERABLE: f64 = 0.22;
/// Without a baseline only structure that ordinary traffic cannot have is sure: others stay here.
const UNSURE: f64 = 0.8;
/// Addresses over which a flood must spread to count as carpet bombing.
const CARPET: usize = 16;

/// Names what exceeds normal.
pub fn judge(scene: &Scene<'_>) -> Judgement {
    if scene.excess.is_empty() {
        return Judgement::default();
    }
    let (excess, lent) = lend(scene);
    let own: Vec<_> = scene.excess.iter().map(|excess| excess.class).collect();
    let scene = Scene { excess: &excess, ..*scene };
    let window = scene.window();
    let mut opinions = Vec::new();
    for rules in [tcp::judge, reflect::judge, udp::judge, service::judge, other::judge] {
        rules(&scene, &window, &mut opinions);
    }
    let (mut proposals, mut ordinary) = (Vec::new(), Vec::new());
    for opinion in opinions {
        match opinion {
            Opinion::Attack(proposal) => proposals.push(proposal),
            Opinion::Ordinary(why) => ordinary.push(why),
        }
    }
    let proposals = settle(&scene, proposals);
    let carpet = carpet(&scene, &proposals);
    let mut findings: Vec<Finding> = proposals.iter().map(|proposal| finding(&scene, proposal, &lent, &own)).collect();
    if let Some(carpet) = carpet {
        findings.insert(0, finding(&scene, &carpet, &lent, &own));
    }
    findings.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    Judgement { findings, ordinary }
}

/// Packets with a martian source are counted as malformed: lends their rates to the classes that
/// they would be in otherwise. Returns the excesses, and the classes that borrowed.
fn lend(scene: &Scene<'_>) -> (Vec<Excess>, Vec<TrafficClass>) {
    let mut all = scene.excess.to_vec();
    let mut lent = Vec::new();
    let Some(broken) = scene.excess_of(Malformed).copied() else { return (all, lent) };
    let mut tally = Tally::with_capacity(TrafficClass::COUNT, scene.seed);
    for seen in scene.ring.iter().rev().take(8192) {
        if seen.packet.class == Malformed && seen.packet.time_ns + 100_000_000 >= broken.since_ns {
            tally.add(seen.class.index() as u64, seen.weight);
        }
    }
    for (index, share) in tally.top(6) {
        let Some(class) = TrafficClass::from_index(index as usize).filter(|class| *class != Malformed) else {
            continue;
        };
        if share < 0.05 {
            continue;
        }
        lent.push(class);
        let part = |value: f64| value * share;
        let packets = |value: u64| (value as f64 * share) as u64;
        match all.iter_mut().find(|excess| excess.class == class) {
            Some(excess) => {
                excess.pps += part(broken.pps);
                excess.bps += part(broken.bps);
                excess.packets += packets(broken.packets);
                excess.bytes += packets(broken.bytes);
            }
            None => all.push(Excess {
                class,
                pps: part(broken.pps),
                bps: part(broken.bps),
                packets: packets(broken.packets),
                bytes: packets(broken.bytes),
                ..broken
            }),
        }
    }
    let remains = 1.0
        - tally
            .top(6)
            .iter()
            .filter(|(index, _)| *index != Malformed.index() as u64)
            .map(|(_, share)| share)
            .sum::<f64>();
    if tally.count() >= 10 && remains < 0.2 {
        all.retain(|excess| excess.class != Malformed);
    }
    (all, lent)
}

/// Takes side effects away, merges what has one name, and adapts confidence to what is known.
fn settle<'a>(scene: &Scene<'a>, proposals: Vec<Proposal<'a>>) -> Vec<Proposal<'a>> {
    let mut merged: Vec<Proposal<'a>> = Vec::new();
    for proposal in proposals {
        match merged.iter_mut().find(|other| other.vector == proposal.vector) {
            Some(other) => {
                other.pps += proposal.pps;
                other.bps += proposal.bps;
                other.packets.extend(proposal.packets);
                other.classes.extend(proposal.classes);
                if proposal.confidence > other.confidence {
                    (other.confidence, other.hard, other.why) = (proposal.confidence, proposal.hard, proposal.why);
                }
            }
            None => merged.push(proposal),
        }
    }
    for proposal in &mut merged {
        proposal.confidence = adapted(scene, proposal);
    }
    merged.sort_by(|a, b| (b.confidence * b.pps.max(1.0)).total_cmp(&(a.confidence * a.pps.max(1.0))));
    let sure = |proposal: &Proposal<'_>| proposal.confidence >= 0.5;
    let pps: f64 = merged.iter().filter(|it| sure(it)).map(|it| it.pps).sum();
    let bps: f64 = merged.iter().filter(|it| sure(it)).map(|it| it.bps).sum();
    let mut kept: Vec<Proposal<'a>> = Vec::new();
    for proposal in merged {
        let share = (proposal.pps / pps.max(1.0)).max(proposal.bps / bps.max(1.0));
        let main = |main: &Proposal<'_>| sure(main) && is_side_effect(scene, main, &proposal);
        if !sure(&proposal) || share >= CONSIDERABLE && !kept.iter().any(main) {
            kept.push(proposal);
        }
    }
    kept
}

fn adapted(scene: &Scene<'_>, proposal: &Proposal<'_>) -> f64 {
    if !scene.trusted {
        return if proposal.hard { proposal.confidence } else { proposal.confidence.min(UNSURE) };
    }
    let lift = proposal.classes.iter().map(|class| scene.lift(*class)).fold(1.0, f64::max);
    // Twice what is normal says little; ten times says something.
    let factor = 0.94 + 0.06 * ((lift - 1.0) / 9.0).clamp(0.0, 1.0);
    (proposal.confidence * factor).min(0.99)
}

/// Returns whether a proposal is what another one causes: packets that come from where the other
/// goes to, or unreachables and resets in smaller number.
fn is_side_effect(scene: &Scene<'_>, main: &Proposal<'_>, other: &Proposal<'_>) -> bool {
    let (of_main, of_other) = (Traits::of(scene, &main.packets), Traits::of(scene, &other.packets));
    let (victim, share) = of_main.destinations.first();
    let mirrored = share >= 0.5 && of_other.sources.first().0 == victim && of_other.sources.first_share() >= 0.7;
    let backscatter = matches!(other.vector, Vector::IcmpUnreachableFlood | Vector::RstFlood)
        && other.pps <= 0.5 * main.pps
        && overlap(&main.packets, &other.packets) >= 0.3;
    mirrored || backscatter
}

/// Returns the share of packets of `other` whose source is among those of `main`.
fn overlap(main: &[&Seen], other: &[&Seen]) -> f64 {
    let mut sources: Vec<u64> = main.iter().filter_map(|seen| seen.packet.src()).map(hash_of).collect();
    sources.sort_unstable();
    let within =
        other.iter().filter(|seen| seen.packet.src().is_some_and(|src| sources.binary_search(&hash_of(src)).is_ok()));
    within.count() as f64 / other.len().max(1) as f64
}

/// A flood that spreads evenly over many addresses of one prefix.
fn carpet<'a>(scene: &Scene<'a>, proposals: &[Proposal<'a>]) -> Option<Proposal<'a>> {
    let main = proposals.iter().find(|proposal| proposal.confidence >= 0.5)?;
    let list = &main.packets;
    let mut tally = Tally::with_capacity(list.len(), scene.seed);
    let mut prefix = Tally::with_capacity(list.len(), scene.seed);
    for seen in list {
        let Some(dst) = seen.packet.dst() else { continue };
        tally.add(hash_of(dst), seen.weight);
        // One prefix: a /16, or a /48.
        let block = match dst {
            std::net::IpAddr::V4(v4) => u64::from(v4.to_bits() >> 16),
            std::net::IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64,
        };
        prefix.add(block, seen.weight);
    }
    let distinct = tally.distinct();
    let even = distinct as f64 * tally.first_share();
    let wide = distinct >= CARPET && prefix.first_share() >= 0.8 && even <= 6.0 && tally.first_share() <= 0.2;
    wide.then(|| {
        let mut carpet = main.clone();
        carpet.vector = Vector::CarpetBombing;
        carpet.why = format!("{} spread evenly over {distinct} addresses", main.vector.as_str());
        carpet
    })
}

pub fn finding(scene: &Scene<'_>, proposal: &Proposal<'_>, lent: &[TrafficClass], own: &[TrafficClass]) -> Finding {
    let classes = evidence::class_names(scene, proposal, lent, own);
    Finding {
        vector: proposal.vector,
        confidence: proposal.confidence,
        tool: tool::hint(proposal.vector, &proposal.packets),
        evidence: evidence::of(scene, proposal, classes),
    }
}
