//! UDP that only its length tells apart.

use ftagent_common::TrafficClass::{self, *};

use super::super::{Vector, analyst::Seen};
use super::{
    scene::{Opinion, Proposal, Scene, Window},
    tcp::SCAN_PPS,
    traits::{Traits, weight},
};

/// Classes by length.
pub const PLAIN: [TrafficClass; 4] = [UdpEmpty, UdpSmall, UdpMedium, UdpLarge];
/// Samples that a rule wants to see.
const ENOUGH: usize = 20;

/// Judges the plain UDP classes together: one flood may have packets of all lengths.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    let classes: Vec<_> = PLAIN.into_iter().filter(|class| scene.excess_of(*class).is_some()).collect();
    if classes.is_empty() {
        return;
    }
    let all = window.of_all(&classes);
    if all.len() < ENOUGH {
        return;
    }
    let fresh = newcomers(scene, window, &classes);
    let share = weight(&fresh) / weight(&all).max(1.0);
    if fresh.len() < ENOUGH || share < 0.2 {
        out.push(Opinion::Ordinary("udp: conversations that were there before".to_owned()));
        return;
    }
    let traits = Traits::of(scene, &fresh);
    let pps: f64 = classes.iter().map(|class| scene.above(*class)).sum();
    let lift = classes.iter().map(|class| scene.lift(*class)).fold(1.0, f64::max);
    let verdict = weigh(scene, &traits, &fresh, pps, lift);
    match verdict {
        Err(why) => out.push(Opinion::Ordinary(format!("udp: {why}"))),
        Ok((vector, confidence, hard, why)) => {
            let proposal = Proposal::new(scene, vector, &classes, fresh);
            out.push(Opinion::Attack(proposal.sure(confidence, hard, why)));
        }
    }
}

/// Returns the packets of flows that were not there before the excess, or have grown with it.
pub fn newcomers<'a>(scene: &Scene<'a>, window: &Window<'a>, classes: &[TrafficClass]) -> Vec<&'a Seen> {
    let mut fresh: Vec<&Seen> = Vec::new();
    for class in classes {
        let list = window.of(*class);
        let standing = scene.standing(list, window.step(*class), scene.since(*class));
        fresh.extend(list.iter().zip(standing).filter(|(_, standing)| !standing).map(|(seen, _)| *seen));
    }
    fresh.sort_by_key(|seen: &&Seen| seen.packet.time_ns);
    fresh
}

type Verdict = Result<(Vector, f64, bool, String), &'static str>;

fn weigh(scene: &Scene<'_>, traits: &Traits, list: &[&Seen], pps: f64, lift: f64) -> Verdict {
    if traits.multicast > 0.5 {
        return Err("to groups of receivers");
    }
    if traits.responses > 0.6 {
        return Err("answers to what came in");
    }
    let scan = traits.looks_swept() && traits.payload <= 100.0 && revisits(traits) <= 3.0;
    if pps < SCAN_PPS && (scan || traits.looks_like_sweep_of_hosts()) {
        return Err("one source tries ports, each a few times: a scan");
    }
    if let Some(unknown) = reflected(traits, list) {
        return Ok(unknown);
    }
    let (per_flow, forged) = (1.0 / traits.flows.spread().max(1e-6), traits.looks_forged());
    if forged {
        return Ok((Vector::UdpFlood, 0.95, true, "nearly every packet from another source".to_owned()));
    }
    if traits.talks >= 0.5 {
        return Err("conversations both ways");
    }
    if per_flow <= 2.0 && traits.samples >= 50 {
        // Peers of a swarm send a packet or two each, and are answered.
        if traits.many() >= 20 && traits.asked >= 0.5 && pps < 5000.0 {
            return Err("many peers that are spoken with");
        }
        let one = traits.blocks.head_share(4) >= 0.5;
        let why = format!("{:.1} packets in each flow", per_flow);
        // Many ports of each source, and a packet from each: no program speaks so.
        let sprayed = traits.flows.distinct() >= 3 * traits.many() && per_flow <= 1.2;
        let hard = (one || sprayed) && pps >= 1000.0 && traits.samples >= 200;
        let confidence = match pps {
            _ if hard => 0.93,
            pps if pps >= 1000.0 || one => 0.88,
            _ => 0.75,
        };
        return Ok((Vector::UdpFlood, confidence, hard, why));
    }
    steady(scene, traits, pps, lift)
}

/// Few flows with many packets each, in one direction: a stream or a flood.
fn steady(scene: &Scene<'_>, traits: &Traits, pps: f64, lift: f64) -> Verdict {
    let (flows, heads) = (traits.flows.distinct(), traits.heads.first_share());
    let same = heads >= 0.9 && traits.samples >= 50;
    if same && pps >= 1000.0 && (lift >= 4.0 || !scene.trusted) {
        let why = format!("the same payload in {:.0} % of {flows} flows' packets", heads * 100.0);
        return Ok((Vector::UdpFlood, 0.8, traits.samples >= 200 && pps >= 2000.0, why));
    }
    // Tunnels carry packets of all lengths.
    let uniform = traits.lengths.first_share() >= 0.9;
    if lift >= 10.0 && pps >= 2000.0 && (uniform || pps >= 20_000.0) {
        let why = format!("{flows} flows in one direction, {lift:.0} times what is normal");
        return Ok((Vector::UdpFlood, 0.6 + 0.01 * lift.min(20.0), false, why));
    }
    if flows >= 50 && traits.many() >= 20 && lift >= 4.0 && !(scene.sees_own && traits.asked >= 0.3) && pps >= 2000.0 {
        return Ok((Vector::UdpFlood, 0.65, false, format!("{flows} new flows in one direction")));
    }
    Err("few steady streams")
}

/// One source port, many sources, large or uniform payloads.
pub fn reflected(traits: &Traits, list: &[&Seen]) -> Option<(Vector, f64, bool, String)> {
    let (port, share) = traits.sports.first();
    let uniform = traits.lengths.first_share() >= 0.6;
    let large = traits.payload >= 200.0;
    let many = traits.many() >= 10 && traits.sources.first_share() <= 0.5;
    let varied = traits.heads.spread() >= 0.5;
    // What forges sources forges each packet's; reflectors answer again and again.
    let one_each = traits.looks_forged() && traits.sources.spread() >= 0.95 && !large;
    let client = traits.dports.first_share() >= 0.9 && varied && !uniform;
    let strong = large && (uniform || traits.payload >= 600.0) || uniform && traits.payload >= 100.0;
    if share < 0.9 || !many || !strong || one_each || client || traits.talks >= 0.5 || port == 0 {
        return None;
    }
    let hard = traits.many() >= 30 && traits.samples >= 100 && traits.asked < 0.1 && list.len() >= 100;
    let why = format!("{} sources answer from port {port} with {:.0} bytes", traits.many(), traits.payload);
    Some((Vector::AmplificationUnknown, if hard { 0.92 } else { 0.8 }, hard, why))
}

fn revisits(traits: &Traits) -> f64 {
    let swept = traits.sports.distinct().max(traits.dports.distinct()).max(1);
    traits.samples as f64 / swept as f64
}
