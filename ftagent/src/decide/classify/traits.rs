//! What packets have in common, and in what they differ.

use std::net::IpAddr;

use super::super::{
    analyst::Seen,
    flows::{State, block_of},
    table::{Tally, mix},
};
use super::scene::Scene;

/// Packets that are looked at, evenly spaced.
const MOST: usize = 512;

/// Counts over the packets of a window.
#[derive(Clone, Debug)]
pub struct Traits {
    /// Packets that were looked at.
    pub samples: usize,
    /// Packets that they stand for.
    pub weight: f64,
    /// Sources, by hash.
    pub sources: Tally,
    /// Blocks that sources are in: /24 and /64.
    pub blocks: Tally,
    /// Destinations, by hash.
    pub destinations: Tally,
    /// Source ports.
    pub sports: Tally,
    /// Destination ports.
    pub dports: Tally,
    /// Flows, by hash.
    pub flows: Tally,
    /// Lengths of payload.
    pub lengths: Tally,
    /// First bytes of payload with its length, by hash.
    pub heads: Tally,
    /// Mean bytes of payload.
    pub payload: f64,
    /// Shares of packets, 0 to 1: to multicast and broadcast.
    pub multicast: f64,
    /// From sources that were known before.
    pub known: f64,
    /// Of flows in which this host sent before.
    pub asked: f64,
    /// Of flows in which both ends speak repeatedly.
    pub talks: f64,
    /// Answers to packets that came in.
    pub responses: f64,
    /// Of flows whose first packet this is.
    pub first: f64,
}

/// Hashes an address.
pub fn hash_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => mix(u64::from(v4.to_bits()) | 1 << 40),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            mix(bits as u64 ^ mix((bits >> 64) as u64))
        }
    }
}

/// Returns a number for the first bytes of payload, at most so many.
pub fn head_hash(head: &[u8], most: usize) -> u64 {
    head.iter().take(most).fold(head.len().min(most) as u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5)
    })
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

impl Traits {
    /// Looks at packets.
    pub fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let step = list.len().div_ceil(MOST).max(1);
        let list: Vec<&Seen> = list.iter().step_by(step).copied().collect();
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let mut traits = Self {
            samples: list.len(),
            weight: 0.0,
            sources: tally(),
            blocks: tally(),
            destinations: tally(),
            sports: tally(),
            dports: tally(),
            flows: tally(),
            lengths: tally(),
            heads: tally(),
            payload: 0.0,
            multicast: 0.0,
            known: 0.0,
            asked: 0.0,
            talks: 0.0,
            responses: 0.0,
            first: 0.0,
        };
        for seen in &list {
            traits.add(scene, seen);
        }
        let weight = traits.weight.max(f64::MIN_POSITIVE);
        for share in [
            &mut traits.payload,
            &mut traits.multicast,
            &mut traits.known,
            &mut traits.asked,
            &mut traits.talks,
            &mut traits.responses,
            &mut traits.first,
        ] {
            *share /= weight;
        }
        traits
    }

    fn add(&mut self, scene: &Scene<'_>, seen: &Seen) {
        let (packet, weight) = (&seen.packet, seen.weight);
        self.weight += weight;
        if let Some((src, dst)) = packet.ends {
            self.sources.add(hash_of(src), weight);
            self.blocks.add(block_of(src), weight);
            self.destinations.add(hash_of(dst), weight);
            self.multicast += if is_group(dst) { weight } else { 0.0 };
        }
        self.sports.add(u64::from(packet.sport), weight);
        self.dports.add(u64::from(packet.dport), weight);
        self.flows.add(seen.mark.tag, weight);
        self.lengths.add(u64::from(packet.payload), weight);
        self.heads.add(head_hash(packet.head(), 16) ^ u64::from(packet.payload) << 48, weight);
        self.payload += weight * f64::from(packet.payload);
        let share = |of: &mut f64, holds: bool| *of += if holds { weight } else { 0.0 };
        share(&mut self.known, seen.mark.known);
        share(&mut self.asked, seen.mark.asked);
        share(&mut self.talks, scene.flow(seen).is_some_and(|flow| flow.talks()));
        share(&mut self.responses, seen.mark.response);
        share(&mut self.first, seen.mark.state == State::First);
    }

    /// Returns how many different sources there are.
    pub fn many(&self) -> usize {
        self.sources.distinct()
    }

    /// Returns whether nearly every packet has another source.
    pub fn looks_forged(&self) -> bool {
        self.samples >= 200 && self.sources.spread() >= 0.8
    }

    /// Returns whether one host tries the ports of one other, each once or a few times: its own port
    /// stays, the other side's is swept.
    pub fn looks_swept(&self) -> bool {
        self.is_swept(&self.sports, &self.dports)
    }

    /// Returns whether these are the answers to such a scan.
    pub fn looks_like_echo_of_sweep(&self) -> bool {
        self.is_swept(&self.dports, &self.sports)
    }

    fn is_swept(&self, fixed: &Tally, swept: &Tally) -> bool {
        let pair = self.sources.first_share() >= 0.8 && self.destinations.first_share() >= 0.8;
        let each_once = swept.distinct() >= 20 && swept.spread() >= 0.3;
        pair && self.samples >= 20 && fixed.head_share(3) >= 0.9 && each_once
    }

    /// Returns whether one host tries one port of many others.
    pub fn looks_like_sweep_of_hosts(&self) -> bool {
        self.sources.first_share() >= 0.9
            && self.destinations.distinct() >= 20
            && self.destinations.spread() >= 0.5
            && self.dports.head_share(3) >= 0.9
    }
}

/// Keeps the packets for which `keep` says so.
pub fn only<'a>(list: &[&'a Seen], mut keep: impl FnMut(&Seen) -> bool) -> Vec<&'a Seen> {
    list.iter().copied().filter(|seen| keep(seen)).collect()
}

/// Returns how many packets a list stands for.
pub fn weight(list: &[&Seen]) -> f64 {
    list.iter().map(|seen| seen.weight).sum()
}
