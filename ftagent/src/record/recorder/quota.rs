//! How much of each class is kept as a file nears its cap: everything in the first half of it; then
//! classes share what is left equally, so that a rare one stays whole while a flood is thinned.

use ftagent_common::TrafficClass;

/// What is left when the first half is full is meant to last so long, seconds; what is left then for as
/// long again: a file is never quite full.
const LASTS_S: f64 = 1800.0;
/// Bytes that are kept for the end of the file.
const RESERVE: u64 = 64 << 10;
/// Compressed bytes of a packet with what is said of it, until it is known better.
const PACKET_BYTES: f64 = 100.0;
/// How fast rates of classes are forgotten, seconds.
const MEMORY_S: f64 = 1.0;
/// Classes, and one more for those that are unknown.
const PLACES: usize = TrafficClass::COUNT + 1;

/// Shares the room in a file.
#[derive(Clone, Debug)]
pub struct Quota {
    cap: u64,
    lasts_s: f64,
    packet_bytes: f64,
    rates: Vec<f64>,
    tokens: Vec<f64>,
    /// Packets a second of one class; infinite while there is room for all.
    share: f64,
}

/// How full a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// There is room.
    Roomy,
    /// Classes have to share.
    Shared,
    /// And only headers are kept.
    Tight,
}

impl Quota {
    /// For a file of so many bytes at most; `lasts_s`: for how long it is to last, where that is known.
    pub fn new(cap: u64, lasts_s: Option<f64>) -> Self {
        let lasts_s = lasts_s.map_or(LASTS_S, |seconds| seconds.clamp(1.0, LASTS_S));
        let (rates, tokens) = (vec![0.0; PLACES], vec![0.0; PLACES]);
        Self { cap, lasts_s, packet_bytes: PACKET_BYTES, rates, tokens, share: f64::INFINITY }
    }

    /// Returns how full the file is with so many bytes in it.
    pub fn fill(&self, bytes: u64) -> Fill {
        match bytes {
            _ if bytes < self.cap / 2 => Fill::Roomy,
            _ if bytes < self.cap / 4 * 3 => Fill::Shared,
            _ => Fill::Tight,
        }
    }

    /// Learns what a packet takes: `bytes` were compressed of so many packets.
    pub fn learn(&mut self, packets: u64, bytes: u64) {
        if packets >= 16 {
            self.packet_bytes += (bytes as f64 / packets as f64 - self.packet_bytes) * 0.5;
        }
    }

    /// Returns about how many bytes so many packets will take.
    pub fn estimate(&self, packets: u64) -> u64 {
        (packets as f64 * self.packet_bytes) as u64
    }

    /// Begins a tick in which so many packets of each class are at hand; the file has `bytes`.
    pub fn tick(&mut self, elapsed_s: f64, classes: &[u32], bytes: u64) {
        let elapsed_s = elapsed_s.clamp(0.001, 1.0);
        let weight = (elapsed_s / MEMORY_S).min(1.0);
        for (rate, count) in self.rates.iter_mut().zip(classes) {
            *rate += (f64::from(*count) / elapsed_s - *rate) * weight;
        }
        if self.fill(bytes) == Fill::Roomy {
            self.share = f64::INFINITY;
            return;
        }
        let left = self.cap.saturating_sub(RESERVE.min(self.cap / 16)).saturating_sub(bytes);
        self.share = level(&self.rates, left as f64 / self.lasts_s / self.packet_bytes);
        let share = self.share;
        for tokens in &mut self.tokens {
            *tokens = (*tokens + share * elapsed_s).min(share.max(1.0));
        }
        if left == 0 {
            self.tokens.fill(0.0);
        }
    }

    /// Takes a packet of a class; returns whether it may be kept.
    pub fn take(&mut self, class: Option<TrafficClass>) -> bool {
        if self.share.is_infinite() {
            return true;
        }
        let Some(tokens) = self.tokens.get_mut(place(class)) else { return false };
        let may = *tokens >= 1.0;
        if may {
            *tokens -= 1.0;
        }
        may
    }
}

/// Returns where a class has its counts.
pub fn place(class: Option<TrafficClass>) -> usize {
    class.map_or(TrafficClass::COUNT, TrafficClass::index)
}

/// Returns how many packets of one class a second may be kept, so that all together are `budget`:
/// what rare ones leave over goes to the others.
fn level(rates: &[f64], budget: f64) -> f64 {
    let mut order: Vec<f64> = rates.iter().copied().filter(|rate| *rate > 0.0).collect();
    order.sort_by(f64::total_cmp);
    let mut left = budget;
    for (done, rate) in order.iter().enumerate() {
        let share = left / (order.len() - done) as f64;
        if *rate >= share {
            return share;
        }
        left -= rate;
    }
    // All of them have room; the next one may be new.
    order.last().copied().unwrap_or(0.0) + left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs seconds of ten ticks; returns what was kept of each class, with packets of 100 bytes.
    fn run(quota: &mut Quota, bytes: &mut u64, seconds: u32, rates: &[(TrafficClass, u32)]) -> Vec<u64> {
        let mut kept = vec![0; rates.len()];
        for tick in 0..seconds * 10 {
            let mut classes = vec![0; PLACES];
            for (class, rate) in rates {
                classes[class.index()] = rate / 10 + u32::from(tick % 10 < rate % 10);
            }
            quota.tick(0.1, &classes, *bytes);
            for ((class, _), kept) in rates.iter().zip(&mut kept) {
                for _ in 0..classes[class.index()] {
                    if quota.take(Some(*class)) {
                        (*kept, *bytes) = (*kept + 1, *bytes + 100);
                    }
                }
            }
        }
        kept
    }

    #[test]
    fn the_rare_stay_whole_and_the_flood_is_thinned() {
        const CAP: u64 = 10 << 20;
        let mut quota = Quota::new(CAP, None);
        let rates = [
            (TrafficClass::TcpSyn, 5000),
            (TrafficClass::UdpSrcNtp, 500),
            (TrafficClass::UdpDnsQuery, 5),
            (TrafficClass::IcmpEcho, 2),
        ];
        let mut bytes = 0;
        let first = run(&mut quota, &mut bytes, 5, &rates);
        assert_eq!(first, [25_000, 2500, 25, 10], "there is room for everything");
        let later = run(&mut quota, &mut bytes, 600, &rates);
        assert_eq!(later[2..], [3000, 1200], "the rare ones are whole");
        assert!((100..600 * 5000 / 50).contains(&later[0]) && later[1] >= 1000, "{later:?}");
        assert!(bytes < CAP, "{bytes}");
        let much_later = run(&mut quota, &mut bytes, 4 * 3600, &rates);
        assert!(bytes < CAP && much_later.iter().all(|kept| *kept > 0), "{bytes}: {much_later:?}");
    }

    #[test]
    fn a_full_file_takes_nothing_more() {
        let mut quota = Quota::new(1 << 20, Some(10.0));
        let mut bytes = 1 << 20;
        assert_eq!(run(&mut quota, &mut bytes, 5, &[(TrafficClass::Arp, 1)]), [0]);
        assert_eq!(quota.fill(0), Fill::Roomy);
        assert_eq!(quota.fill(600 << 10), Fill::Shared);
        assert_eq!(quota.fill(800 << 10), Fill::Tight);
    }

    #[test]
    fn shares_are_equal_and_what_is_left_over_goes_round() {
        assert_eq!(level(&[1.0, 10.0, 1000.0], 101.0), 90.0);
        assert_eq!(level(&[100.0, 100.0], 100.0), 50.0);
        assert_eq!(level(&[0.0, 3.0], 10.0), 10.0);
        assert_eq!(level(&[], 10.0), 10.0);
    }
}
