//! Counters over time: totals and rates per interface and class, as the surfaces show them.

use std::{collections::VecDeque, time::Instant};

use ftagent_common::{TrafficClass, counters::IfaceCounters, reason::DropReason};

/// Rates of one class, per second, over the last second or so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Packets seen, dropped ones included.
    pub packets: f64,
    /// Bytes seen, dropped ones included.
    pub bytes: f64,
    /// Packets dropped.
    pub dropped: f64,
}

/// One interface at one instant.
#[derive(Clone, Debug)]
pub struct IfaceSnapshot {
    /// Name of the interface.
    pub name: String,
    /// Its slot in the counters.
    pub slot: u32,
    /// Totals since the counters were first pinned, over restarts and upgrades.
    pub total: IfaceCounters,
    /// Rates by class number.
    pub rates: Vec<Rate>,
}

impl IfaceSnapshot {
    /// Returns the rates of all classes together.
    pub fn rate(&self) -> Rate {
        self.rates.iter().fold(Rate::default(), |sum, rate| Rate {
            packets: sum.packets + rate.packets,
            bytes: sum.bytes + rate.bytes,
            dropped: sum.dropped + rate.dropped,
        })
    }

    /// Returns the packets dropped for a reason, over all classes.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.total.drops.iter().map(|row| row[reason.index()]).sum()
    }
}

/// The readings of one interface over the last second.
#[derive(Debug, Default)]
pub struct Window {
    readings: VecDeque<(Instant, Box<IfaceCounters>)>,
}

/// Readings in the window: one second at one every 100 ms.
const READINGS: usize = 11;

impl Window {
    /// Adds a reading and returns the rates since the oldest one in the window.
    pub fn push(&mut self, at: Instant, total: &IfaceCounters) -> Vec<Rate> {
        // The box of the reading that leaves is reused: no allocation at rest.
        let mut slot = if self.readings.len() >= READINGS { self.readings.pop_front().map(|(_, b)| b) } else { None }
            .unwrap_or_else(|| Box::new(IfaceCounters::ZERO));
        *slot = *total;
        self.readings.push_back((at, slot));
        let Some((first_at, first)) = self.readings.front() else { return Vec::new() };
        let seconds = at.duration_since(*first_at).as_secs_f64();
        if seconds <= 0.0 {
            return vec![Rate::default(); TrafficClass::COUNT];
        }
        let rate = |class: TrafficClass| {
            let (now, then) = (total.class(class), first.class(class));
            let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            Rate {
                packets: per_second(now.packets, then.packets),
                bytes: per_second(now.bytes, then.bytes),
                dropped: per_second(total.dropped_packets(class), first.dropped_packets(class)),
            }
        };
        TrafficClass::ALL.into_iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rates_are_per_second_over_the_window() {
        let mut window = Window::default();
        let start = Instant::now();
        let mut total = IfaceCounters::ZERO;
        let mut rates = Vec::new();
        for tick in 0..30u32 {
            rates = window.push(start + Duration::from_millis(100) * tick, &total);
            let class = &mut total.classes[TrafficClass::TcpSyn.index()];
            class.packets += 50;
            class.bytes += 3000;
            total.drops[TrafficClass::TcpSyn.index()][0] += 10;
        }
        let syn = rates[TrafficClass::TcpSyn.index()];
        assert!((syn.packets - 500.0).abs() < 1e-6 && (syn.bytes - 30_000.0).abs() < 1e-6, "{syn:?}");
        assert!((syn.dropped - 100.0).abs() < 1e-6, "{syn:?}");
        assert_eq!(rates[TrafficClass::Arp.index()], Rate::default());
    }
}
