//! What goes to each address, for a host with many of them or a router in front of a prefix.
//!
//! The kernel counts by class, not by destination, so these rates are estimates from samples:
//! every sample stands for as many packets as its class had in the tick, divided by the samples of
//! that class. The table holds the busiest addresses (Space-Saving, Metwally et al. 2005). An
//! attack on one quiet address among thousands does not show in the sum; it shows here.

use std::{collections::BTreeMap, net::IpAddr};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{ClassCount, Excess, Metric, Packet, Tick};

/// Addresses that are kept.
const KEPT: usize = 128;
/// Excess over this many packets a second is never too little to be looked at.
const FLOOR_PPS: f64 = 1000.0;
/// So many times its level is too much for an address.
const MULTIPLE: f64 = 4.0;
/// Packets of excess that are evidence.
const EVIDENCE: f64 = 500.0;
/// Seconds in which a level follows a change to two thirds.
const LEARN_S: f64 = 600.0;
/// An address with more than this share of all packets is not looked at by itself: the classes
/// show what happens to it.
const DOMINANT: f64 = 0.5;
/// Seconds of the table's life before an address that it does not know counts as quiet.
const KNOWN_AFTER_S: u64 = 60;
/// A class is part of an excess from this share of the address' packets on.
const CLASS_SHARE: f64 = 0.15;
/// A level may double in this many seconds at most, whatever arrives: a day.
const DOUBLING_S: f64 = 86_400.0;

/// One address, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DestinationView {
    /// The address.
    pub address: IpAddr,
    /// Packets per second, an estimate.
    pub pps: f64,
    /// Bits per second, an estimate.
    pub bps: f64,
    /// What is normal, packets per second.
    pub baseline: f64,
}

/// Too much for one address.
#[derive(Clone, Debug, PartialEq)]
pub struct Focus {
    /// The address.
    pub address: IpAddr,
    /// The classes that it is, with the rates at this address.
    pub excess: Vec<Excess>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Destination {
    /// Of the present second.
    packets: f64,
    bits: f64,
    classes: BTreeMap<TrafficClass, (f64, f64)>,
    /// Of the last second.
    pps: f64,
    bps: f64,
    /// What is normal; absent until it is known.
    level: Option<f64>,
    /// The level a day's growth is measured from.
    slowest: f64,
    fill: f64,
    since_ns: u64,
    seconds: u64,
}

/// What went to an address: packets, bits, and both by class.
#[derive(Clone, Debug, Default)]
struct Load {
    packets: f64,
    bits: f64,
    classes: BTreeMap<TrafficClass, (f64, f64)>,
}

/// All addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Destinations {
    table: BTreeMap<IpAddr, Destination>,
    elapsed_ns: u64,
    seconds: u64,
}

impl Destinations {
    /// Returns it with other addresses.
    pub fn disguised(&self, change: &mut dyn FnMut(IpAddr) -> IpAddr) -> Self {
        let table = self.table.iter().map(|(address, of)| (change(*address), of.clone())).collect();
        Self { table, ..*self }
    }

    /// Takes in a tick. Returns the address that is most above what is normal for it.
    pub fn on_tick(&mut self, tick: &Tick<'_>, trusted: bool) -> Option<Focus> {
        let weights = Weights::of(tick);
        let mut here: BTreeMap<IpAddr, Load> = BTreeMap::new();
        let mut total = 0.0;
        for packet in tick.samples {
            let Some(address) = packet.dst() else { continue };
            let (packets, bits) = weights.stand_for(packet);
            total += packets;
            let entry = here.entry(address).or_default();
            entry.packets += packets;
            entry.bits += bits;
            let class = entry.classes.entry(packet.class).or_default();
            *class = (class.0 + packets, class.1 + bits);
        }
        for (address, load) in here {
            self.add(address, load, tick);
        }
        let focus = trusted.then(|| self.weigh(tick, total)).flatten();
        self.elapsed_ns += tick.elapsed_ns;
        if self.elapsed_ns >= 1_000_000_000 {
            self.second();
        }
        focus
    }

    fn add(&mut self, address: IpAddr, load: Load, tick: &Tick<'_>) {
        let Load { packets, bits, classes } = load;
        if self.table.len() >= KEPT && !self.table.contains_key(&address) {
            // The quietest makes room. One that is under suspicion stays.
            let quietest =
                self.table.iter().filter(|(_, d)| d.fill <= 0.0).min_by(|a, b| a.1.rank().total_cmp(&b.1.rank()));
            let Some((&quietest, _)) = quietest.filter(|(_, d)| d.rank() < packets * 10.0) else { return };
            self.table.remove(&quietest);
        }
        // An address that a table with a past does not know was quiet.
        let level = (self.seconds >= KNOWN_AFTER_S).then_some(0.0);
        let entry = self.table.entry(address).or_insert_with(|| Destination {
            packets: 0.0,
            bits: 0.0,
            classes: BTreeMap::new(),
            pps: 0.0,
            bps: 0.0,
            level,
            slowest: 0.0,
            fill: 0.0,
            since_ns: tick.now.mono_ns,
            seconds: 0,
        });
        entry.packets += packets;
        entry.bits += bits;
        for (class, (packets, bits)) in classes {
            let sum = entry.classes.entry(class).or_default();
            *sum = (sum.0 + packets, sum.1 + bits);
        }
        if entry.level.is_none() {
            return;
        }
        let threshold = entry.threshold();
        if entry.fill <= 0.0 {
            entry.since_ns = tick.now.mono_ns.saturating_sub(tick.elapsed_ns);
        }
        let allowed = threshold * tick.elapsed_ns as f64 / 1e9;
        entry.fill = (entry.fill + packets - allowed).clamp(0.0, 4.0 * EVIDENCE + threshold);
    }

    fn weigh(&self, tick: &Tick<'_>, total: f64) -> Option<Focus> {
        let of_many = self.table.len() > 1;
        let suspects = self.table.iter().filter(|(_, d)| of_many && d.level.is_some() && d.fill >= EVIDENCE);
        let worst = suspects.max_by(|a, b| a.1.fill.total_cmp(&b.1.fill));
        let (&address, destination) = worst?;
        let seconds = ((self.elapsed_ns + tick.elapsed_ns) as f64 / 1e9).max(0.1);
        if destination.packets / seconds > DOMINANT * total * 1e9 / (tick.elapsed_ns as f64).max(1.0) {
            return None;
        }
        let excess = |(class, (packets, bits)): (&TrafficClass, &(f64, f64))| Excess {
            class: *class,
            metric: Metric::Pps,
            since_ns: destination.since_ns,
            packets: *packets as u64,
            bytes: (*bits / 8.0) as u64,
            pps: packets / seconds,
            bps: bits / seconds,
            baseline: destination.level.unwrap_or(0.0),
            spread: 0.0,
            threshold: destination.threshold(),
            baseline_pps: destination.level.unwrap_or(0.0),
            trusted: true,
        };
        let busy = destination.classes.iter().filter(|(_, (packets, _))| *packets >= CLASS_SHARE * destination.packets);
        Some(Focus { address, excess: busy.map(excess).collect() })
    }

    fn second(&mut self) {
        let seconds = self.elapsed_ns as f64 / 1e9;
        self.elapsed_ns = 0;
        self.seconds += 1;
        for destination in self.table.values_mut() {
            destination.second(seconds);
        }
    }

    /// Returns packets and bits per second to an address over the last second or so, and the rate
    /// below which an incident about it ends: halfway between normal and too much.
    pub fn rates(&self, address: IpAddr) -> (f64, f64, f64) {
        let Some(destination) = self.table.get(&address) else { return (0.0, 0.0, FLOOR_PPS / 2.0) };
        let level = destination.level.unwrap_or(0.0);
        (destination.pps, destination.bps, (level + destination.threshold()) / 2.0)
    }

    /// Returns the busiest addresses, busiest first.
    pub fn views(&self) -> Vec<DestinationView> {
        let view = |(address, destination): (&IpAddr, &Destination)| DestinationView {
            address: *address,
            pps: destination.pps,
            bps: destination.bps,
            baseline: destination.level.unwrap_or(0.0),
        };
        let mut views: Vec<DestinationView> = self.table.iter().map(view).filter(|view| view.pps > 0.0).collect();
        views.sort_by(|a, b| b.pps.total_cmp(&a.pps));
        views
    }
}

impl Destination {
    fn rank(&self) -> f64 {
        self.pps.max(self.packets).max(self.level.unwrap_or(0.0))
    }

    fn threshold(&self) -> f64 {
        (MULTIPLE * self.level.unwrap_or(0.0)).max(FLOOR_PPS)
    }

    fn second(&mut self, seconds: f64) {
        (self.pps, self.bps) = (self.packets / seconds, self.bits / seconds);
        (self.packets, self.bits) = (0.0, 0.0);
        self.classes.clear();
        self.seconds += 1;
        let level = match self.level {
            None if self.seconds < KNOWN_AFTER_S => {
                self.slowest += (self.pps - self.slowest) / self.seconds as f64;
                return;
            }
            None => self.slowest,
            // What is under suspicion is not learned.
            Some(level) if self.fill > 0.0 => level,
            Some(level) => {
                let most = level.max(FLOOR_PPS / MULTIPLE) * libm::exp2(seconds / DOUBLING_S);
                (level + (self.pps - level) * (seconds / LEARN_S)).min(most)
            }
        };
        self.level = Some(level);
    }
}

/// How many packets a sample of each class stands for in a tick.
struct Weights {
    by_class: Vec<(f64, f64)>,
}

impl Weights {
    fn of(tick: &Tick<'_>) -> Self {
        let mut samples = vec![(0.0, 0.0); TrafficClass::COUNT];
        for packet in tick.samples {
            if let Some(sum) = samples.get_mut(packet.class.index()) {
                *sum = (sum.0 + 1.0, sum.1 + f64::from(packet.wire));
            }
        }
        let weight = |(sum, count): (&(f64, f64), &ClassCount)| match sum.0 > 0.0 {
            true => (count.packets as f64 / sum.0, count.bytes as f64 / sum.1.max(1.0)),
            false => (0.0, 0.0),
        };
        Self { by_class: samples.iter().zip(&tick.counts.classes).map(weight).collect() }
    }

    /// Returns the packets and bits that a sample stands for.
    fn stand_for(&self, packet: &Packet) -> (f64, f64) {
        let (packets, bytes) = self.by_class.get(packet.class.index()).copied().unwrap_or_default();
        (packets, bytes * f64::from(packet.wire) * 8.0)
    }
}

#[cfg(test)]
mod tests;
