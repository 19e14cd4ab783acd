//! How full the links towards the network are: by the counters of the datapath, which see what it drops too.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::window::IfaceSnapshot;

/// How full the fullest link towards the network is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    /// The interface, or `uplink` where the capacity of all together is stated.
    pub name: String,
    /// Bits a second that arrive, those that are dropped here included.
    pub used_bps: f64,
    /// Bits a second that it can carry; absent: the driver does not say, nor does the configuration.
    pub capacity_bps: Option<f64>,
}

impl Uplink {
    /// Returns how full it is, 0 to 1.
    pub fn utilisation(&self) -> Option<f64> {
        self.capacity_bps.filter(|capacity| *capacity > 0.0).map(|capacity| self.used_bps / capacity)
    }
}

/// Rates are of this time at least, nanoseconds: a burst between two looks is none of the link. A little less than
/// an ordinary tick, which may be a little early.
const OVER_NS: u64 = 90_000_000;
/// Readings that are kept.
const READINGS: usize = 16;
/// What a frame takes on the wire beyond what is counted: preamble, frame check sequence, gap (IEEE 802.3, 4.4.2).
const OVERHEAD: u64 = 24;

/// What the capacity is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Capacity {
    /// As stated, bits a second, of all interfaces together.
    pub stated_bps: Option<f64>,
    /// As the drivers tell, bits a second, by interface.
    pub links: BTreeMap<String, f64>,
}

/// What had been counted at an instant: bytes and packets by interface.
type Reading = (u64, BTreeMap<String, (u64, u64)>);

/// Makes rates of totals.
#[derive(Clone, Debug, Default)]
pub struct UplinkMeter {
    capacity: Capacity,
    readings: VecDeque<Reading>,
}

impl UplinkMeter {
    /// Says what the capacity is.
    pub fn set(&mut self, capacity: Capacity) {
        self.capacity = capacity;
    }

    /// Takes a reading, and returns how full the fullest link is; `None` until there are two.
    pub fn read(&mut self, at_ns: u64, ifaces: &[IfaceSnapshot]) -> Option<Uplink> {
        let total = |iface: &IfaceSnapshot| {
            let bytes = iface.total.classes.iter().map(|class| class.bytes).sum();
            (iface.name.clone(), (bytes, iface.total.seen()))
        };
        let now: BTreeMap<String, (u64, u64)> = ifaces.iter().map(total).collect();
        // Of those that are old enough, the latest.
        while self.readings.get(1).is_some_and(|(then, _)| at_ns.saturating_sub(*then) >= OVER_NS)
            || self.readings.len() >= READINGS
        {
            self.readings.pop_front();
        }
        let uplink = self.readings.front().and_then(|(then, before)| {
            let seconds = at_ns.checked_sub(*then).filter(|ns| *ns > 0)? as f64 / 1e9;
            Some(self.fullest(&since(before, &now), seconds))
        });
        self.readings.push_back((at_ns, now));
        uplink
    }

    fn fullest(&self, counted: &BTreeMap<String, (u64, u64)>, seconds: f64) -> Uplink {
        let bits = |bytes: u64| bytes as f64 * 8.0 / seconds;
        let all = || bits(counted.values().map(|(bytes, _)| bytes).sum());
        if let Some(stated) = self.capacity.stated_bps {
            return Uplink { name: "uplink".to_owned(), used_bps: all(), capacity_bps: Some(stated) };
        }
        let link = |(name, (bytes, packets)): (&String, &(u64, u64))| {
            let capacity = *self.capacity.links.get(name)?;
            let used_bps = bits(bytes.saturating_add(packets.saturating_mul(OVERHEAD)));
            Some(Uplink { name: name.clone(), used_bps, capacity_bps: Some(capacity) })
        };
        let full = |uplink: &Uplink| uplink.utilisation().unwrap_or(0.0);
        let fullest = counted.iter().filter_map(link).max_by(|a, b| full(a).total_cmp(&full(b)));
        fullest.unwrap_or_else(|| Uplink { name: "uplink".to_owned(), used_bps: all(), capacity_bps: None })
    }
}

/// Returns what was counted since; an interface that is new, or whose counters began anew, counts nothing.
fn since(before: &BTreeMap<String, (u64, u64)>, now: &BTreeMap<String, (u64, u64)>) -> BTreeMap<String, (u64, u64)> {
    let counted = |(name, (bytes, packets)): (&String, &(u64, u64))| {
        let (then, packets_then) = before.get(name)?;
        Some((name.clone(), (bytes.checked_sub(*then)?, packets.checked_sub(*packets_then)?)))
    };
    now.iter().filter_map(counted).collect()
}

#[cfg(test)]
mod tests {
    use ftagent_common::{TrafficClass, counters::IfaceCounters};

    use super::*;

    fn iface(name: &str, packets: u64, bytes: u64) -> IfaceSnapshot {
        let mut total = IfaceCounters::ZERO;
        let class = &mut total.classes[TrafficClass::TcpData.index()];
        (class.packets, class.bytes) = (packets, bytes);
        total.verdicts[0] = packets;
        IfaceSnapshot { name: name.to_owned(), slot: 0, total, rates: Vec::new() }
    }

    #[test]
    fn the_fullest_link_counts_and_drops_are_in_it() {
        let links = [("eth0".to_owned(), 1e9), ("eth1".to_owned(), 1e8)].into();
        // What is stated, what drivers tell, and name, use and capacity after a second of 10 MB on both.
        type Case = (Option<f64>, BTreeMap<String, f64>, (&'static str, f64, Option<f64>));
        let cases: [Case; 3] = [
            (None, links, ("eth1", 8.0 * (1e7 + 24e4), Some(1e8))),
            (Some(5e8), BTreeMap::new(), ("uplink", 1.6e8, Some(5e8))),
            (None, BTreeMap::new(), ("uplink", 1.6e8, None)),
        ];
        for (stated_bps, links, (name, used, capacity)) in cases {
            let mut meter = UplinkMeter::default();
            meter.set(Capacity { stated_bps, links });
            let before = vec![iface("eth0", 5, 500), iface("eth1", 0, 0)];
            assert_eq!(meter.read(0, &before), None);
            let after = vec![iface("eth0", 10_005, 10_000_500), iface("eth1", 10_000, 10_000_000)];
            let uplink = meter.read(1_000_000_000, &after).unwrap();
            assert_eq!((uplink.name.as_str(), uplink.capacity_bps), (name, capacity));
            assert!((uplink.used_bps - used).abs() < 1.0, "{uplink:?}");
            // Counters that began anew, and an interface that is new.
            let anew = vec![iface("eth0", 1, 100), iface("eth2", 9, 900)];
            assert_eq!(meter.read(2_000_000_000, &anew).unwrap().used_bps, 0.0);
        }
    }
}
