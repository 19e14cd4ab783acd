//! What simpler defences would have done to the same packets: three peers, each as good as its
//! idea can be.
//!
//! Every peer is told more than it could know. It need not detect: of each packet of a tick
//! (100 ms, as long as ours) it is told whether it belongs to the attack. At the end of the tick it
//! adds as many of its keys as it takes to cover 95 % of the tick's attack packets, the busiest
//! first, and from then on drops whatever has one of its keys; nothing ends before the attack does.
//! What it is not told is what the rest of the traffic looks like: that is what none of them asks.
//! All are measured as we are, from 300 ms after the attack's first packet on. A capture that is
//! shorter than its attack begins anew, so that forged sources come again: that flatters the list.
//!
//! | peer | its key | its table |
//! |---|---|---|
//! | source list | source address | 65 536 entries, an ipset's default: what a fail2ban that never errs would do |
//! | destination port | protocol and destination port; protocol alone where there are no ports | 64 entries: an access list that someone still reads |
//! | black hole | destination address | 256 entries: RTBH in no time, where BGP needs seconds |

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use ftagent_common::{
    parse::{Facts, Family, SlicePacket, key, parse},
    rules::has,
};
use serde::Serialize;

use super::removal::Share;

/// How often a peer decides, nanoseconds.
const TICK_NS: u64 = 100_000_000;
/// The share of a tick's attack packets that its keys have to cover.
const COVERED: f64 = 0.95;
/// Names and table sizes, in the order of [`Peers::effects`].
pub const PEERS: [(&str, usize); 3] = [("source list", 65_536), ("destination port", 64), ("black hole", 256)];

/// What a defence did to an attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// Attack packets removed, from 300 ms after the first on.
    pub removed: Share,
    /// Benign packets lost, as long.
    pub lost: Share,
}

/// The peers, on one attack.
#[derive(Debug)]
pub struct Peers {
    sources: Peer<u128>,
    ports: Peer<u32>,
    victims: Peer<u128>,
    tick_end_ns: u64,
}

impl Default for Peers {
    fn default() -> Self {
        let [(_, sources), (_, ports), (_, victims)] = PEERS;
        Self { sources: Peer::new(sources), ports: Peer::new(ports), victims: Peer::new(victims), tick_end_ns: 0 }
    }
}

impl Peers {
    /// Shows them a packet; `measured`: whether it counts for the effect.
    pub fn see(&mut self, time_ns: u64, frame: &[u8], attack: bool, measured: bool) {
        if self.tick_end_ns == 0 {
            self.tick_end_ns = time_ns + TICK_NS;
        }
        while time_ns >= self.tick_end_ns {
            self.tick_end_ns += TICK_NS;
            self.sources.decide();
            self.ports.decide();
            self.victims.decide();
        }
        let slice = SlicePacket { bytes: frame, wire: frame.len() };
        let facts = parse(&slice, |_| false);
        let ports = key(&slice, &facts);
        let port = if ports.has & has::PORTS == 0 { 0x1_0000 } else { u32::from(ports.dport) };
        // What is not IP has no key that any of them knows, and is let through by all.
        let ip = facts.family != Family::None;
        self.sources.see(ip.then(|| address(&facts, facts.src)), attack, measured);
        self.ports.see(ip.then_some(u32::from(facts.proto) << 17 | port), attack, measured);
        self.victims.see(ip.then(|| address(&facts, facts.dst)), attack, measured);
    }

    /// Returns what each did, in the order of [`PEERS`].
    pub fn effects(&self) -> [Effect; 3] {
        [self.sources.effect, self.ports.effect, self.victims.effect]
    }
}

fn address(facts: &Facts, (high, low): (u64, u64)) -> u128 {
    // An IPv4 address must not be taken for an IPv6 one.
    let family = if facts.family == Family::V4 { 0xffff_0000_0000 } else { 0 };
    u128::from(high) << 64 | u128::from(low) | family
}

#[derive(Debug)]
struct Peer<K> {
    table: usize,
    dropped: HashSet<K>,
    /// Attack packets of this tick by key, of keys that are let through.
    passed: HashMap<K, u32>,
    ranked: Vec<(u32, K)>,
    /// Attack packets of this tick, and how many of them were dropped.
    tick: Share,
    effect: Effect,
}

impl<K: Copy + Eq + Hash + Ord> Peer<K> {
    fn new(table: usize) -> Self {
        let (dropped, passed, ranked) = (HashSet::new(), HashMap::new(), Vec::new());
        Self { table, dropped, passed, ranked, tick: Share::default(), effect: Effect::default() }
    }

    fn see(&mut self, key: Option<K>, attack: bool, measured: bool) {
        let dropped = key.is_some_and(|key| self.dropped.contains(&key));
        if measured {
            let share = if attack { &mut self.effect.removed } else { &mut self.effect.lost };
            share.add(dropped);
        }
        if !attack {
            return;
        }
        self.tick.add(dropped);
        if let Some(key) = key.filter(|_| !dropped) {
            *self.passed.entry(key).or_insert(0) += 1;
        }
    }

    /// Adds the busiest keys until enough of this tick would have been dropped.
    fn decide(&mut self) {
        let Share { part: mut covered, of } = std::mem::take(&mut self.tick);
        self.ranked.clear();
        self.ranked.extend(self.passed.drain().map(|(key, packets)| (packets, key)));
        // By key where equal: hash maps have no order that could be repeated.
        self.ranked.sort_unstable_by(|a, b| b.cmp(a));
        for (packets, key) in &self.ranked {
            if covered as f64 >= COVERED * of as f64 || self.dropped.len() >= self.table {
                break;
            }
            covered += u64::from(*packets);
            self.dropped.insert(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::packet::{Ipv4, Udp};

    const MS: u64 = 1_000_000;

    /// A UDP packet from 198.18.0.0 + `src` to 198.51.100.`dst`, to a port.
    fn udp(src: u32, dst: u8, dport: u16) -> Vec<u8> {
        let src = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + src);
        let ip = Ipv4 { src, dst: Ipv4Addr::new(198, 51, 100, dst), ..Ipv4::new() };
        ip.frame(&Udp::new(4000, dport, b"x").build())
    }

    /// A second of attack and of one customer, a packet of each in a millisecond; returns removed and
    /// lost in per cent for each peer, measured from 300 ms on.
    fn effects(attack: fn(u32) -> Vec<u8>, customer: fn(u32) -> Vec<u8>) -> Vec<(f64, f64)> {
        let mut peers = Peers::default();
        for ms in 0..1000 {
            let measured = ms >= 300;
            peers.see(1 + u64::from(ms) * MS, &attack(ms), true, measured);
            peers.see(1 + u64::from(ms) * MS, &customer(ms), false, measured);
        }
        peers.effects().iter().map(|effect| (effect.removed.percent(), effect.lost.percent())).collect()
    }

    #[test]
    fn every_peer_does_what_its_key_can() {
        let customer = |_| udp(70_000, 10, 443);
        // Three sources, a port of its own: a list and a port filter do it without harm.
        assert_eq!(effects(|ms| udp(ms % 3, 10, 123), customer), [(100.0, 0.0), (100.0, 0.0), (100.0, 100.0)]);
        // Every source comes once: a list removes nothing. The port is the customer's, too.
        assert_eq!(effects(|ms| udp(ms, 10, 443), customer), [(0.0, 0.0), (100.0, 100.0), (100.0, 100.0)]);
        // A port of its own for every packet: the list of ports is full before it helps.
        assert_eq!(effects(|ms| udp(0, 10, 1000 + ms as u16), customer), [(100.0, 0.0), (0.0, 0.0), (100.0, 100.0)]);
        // The attacker's address is the customer's: they share a NAT.
        assert_eq!(effects(|_| udp(70_000, 10, 123), customer), [(100.0, 100.0), (100.0, 0.0), (100.0, 100.0)]);
        // Another address is attacked.
        assert_eq!(effects(|ms| udp(ms, 11, 123), customer)[2], (100.0, 0.0));
    }

    #[test]
    fn keys_are_added_only_until_enough_is_covered() {
        // One source sends 96 %, the others one packet each: one entry is enough.
        let mut peers = Peers::default();
        for ms in 0..1000 {
            let source = if ms % 25 == 0 { 100 + ms } else { 7 };
            peers.see(1 + u64::from(ms) * MS, &udp(source, 10, 123), true, ms >= 300);
        }
        assert_eq!(peers.sources.dropped.len(), 1);
        assert_eq!(peers.effects()[0].removed, Share { part: 672, of: 700 });
    }
}
