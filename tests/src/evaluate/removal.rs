//! Watches what a replay removes: of the attack over time, and of everything else.

use ftagent::replay::{Fate, Seen, scenario::Label};
use serde::Serialize;

use super::peers::{Effect, PEERS, Peers};

/// How long a defence has before its effect counts, nanoseconds.
pub const SETTLE_NS: u64 = 300_000_000;
/// Time is measured to so many nanoseconds.
const BIN_NS: u64 = 10_000_000;
/// An attack counts as removed when so much of it is, over 100 ms and at least twenty packets.
const REMOVED: f64 = 0.95;
const REMOVED_BINS: usize = 10;
const REMOVED_PACKETS: u64 = 20;

/// A part of something, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The part.
    pub part: u64,
    /// The whole.
    pub of: u64,
}

impl Share {
    /// Takes in a packet.
    pub fn add(&mut self, part: bool) {
        self.part += u64::from(part);
        self.of += 1;
    }

    /// Returns it in per cent; 0 of nothing.
    pub fn percent(self) -> f64 {
        if self.of == 0 { 0.0 } else { 100.0 * self.part as f64 / self.of as f64 }
    }
}

impl std::ops::AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.part += other.part;
        self.of += other.of;
    }
}

/// What was removed, packet by packet. Nothing is allocated for a packet, but for what the peers
/// come to know.
#[derive(Debug)]
pub struct Removal {
    /// The attack's window: what is benign inside of it is lost during the attack.
    window_ns: (u64, u64),
    /// Attack packets by 10 ms since the window's beginning, and those of them that were dropped.
    bins: Vec<Share>,
    first_ns: Option<u64>,
    first_drop_ns: Option<u64>,
    attack: Share,
    settled: Share,
    during: Share,
    outside: Share,
    peers: Option<Peers>,
}

impl Removal {
    /// Watches an attack; `peers`: what simpler defences would have done, too.
    pub fn new(window_ms: (u64, u64), peers: bool) -> Self {
        let window_ns = (window_ms.0 * 1_000_000, window_ms.1 * 1_000_000);
        let bins = (window_ns.1.saturating_sub(window_ns.0) / BIN_NS + 1) as usize;
        Self {
            window_ns,
            bins: vec![Share::default(); bins],
            first_ns: None,
            first_drop_ns: None,
            attack: Share::default(),
            settled: Share::default(),
            during: Share::default(),
            outside: Share::default(),
            peers: peers.then(Peers::default),
        }
    }

    /// Takes in a packet that the program decided about.
    pub fn see(&mut self, seen: &Seen<'_>) {
        let Seen { time_ns, label, frame, fate } = *seen;
        // Whose SYN is answered by a cookie has lost nothing, and the stack has not seen it.
        let answered = matches!(fate, Fate::Answered(_)) && label == Some(Label::Attack);
        let dropped = fate == Fate::Dropped || answered;
        let within = time_ns >= self.window_ns.0 && time_ns < self.window_ns.1;
        match label {
            Some(Label::Attack) => self.attack(time_ns, within, dropped, fate),
            Some(Label::Benign) if within => self.during.add(dropped),
            Some(Label::Benign) => self.outside.add(dropped),
            None => return,
        }
        if let (Some(peers), Some(first), true) = (&mut self.peers, self.first_ns, within) {
            peers.see(time_ns, frame, label == Some(Label::Attack), time_ns >= first + SETTLE_NS);
        }
    }

    fn attack(&mut self, time_ns: u64, within: bool, dropped: bool, fate: Fate) {
        // A precursor is an attack's, and before its window.
        if !within {
            return;
        }
        let first = *self.first_ns.get_or_insert(time_ns);
        if dropped {
            self.first_drop_ns.get_or_insert(time_ns);
        }
        self.attack.add(dropped);
        if time_ns >= first + SETTLE_NS {
            self.settled.add(dropped);
        }
        if let Fate::Returned(syn) = fate {
            self.is_no_gain(syn.time_ns, first);
        }
        let bin = ((time_ns - self.window_ns.0) / BIN_NS) as usize;
        if let Some(bin) = self.bins.get_mut(bin) {
            bin.add(dropped);
        }
    }

    /// Takes back that a SYN was removed: its sender came back with the cookie.
    fn is_no_gain(&mut self, time_ns: u64, first_ns: u64) {
        if time_ns < self.window_ns.0 {
            return;
        }
        let settled = time_ns >= first_ns + SETTLE_NS;
        let bin = self.bins.get_mut(((time_ns - self.window_ns.0) / BIN_NS) as usize);
        let shares = [Some(&mut self.attack), settled.then_some(&mut self.settled), bin];
        for share in shares.into_iter().flatten() {
            share.part = share.part.saturating_sub(1);
        }
    }

    /// Returns the share of the attack's packets that was dropped between two times, to 10 ms.
    pub fn between(&self, from_ms: u64, to_ms: u64) -> Share {
        let bin = |ms: u64| ((ms * 1_000_000).saturating_sub(self.window_ns.0) / BIN_NS) as usize;
        let mut sum = Share::default();
        let bins = self.bins.get(bin(from_ms)..bin(to_ms).min(self.bins.len())).unwrap_or_default();
        bins.iter().for_each(|share| sum += *share);
        sum
    }

    /// Returns what came of it.
    pub fn measured(&self) -> Measured {
        let since = |at: u64| (at - self.first_ns.unwrap_or(at)) as f64 / 1e6;
        let names = PEERS.iter().map(|(name, _)| *name);
        let effects = self.peers.as_ref().map(Peers::effects);
        Measured {
            overall: self.attack,
            ours: Effect { removed: self.settled, lost: self.during },
            outside: self.outside,
            first_drop_ms: self.first_drop_ns.map(since),
            // Where nothing was dropped, nothing was removed; where a bin was, its first drop is later.
            removed_ms: self.removed_ns().zip(self.first_drop_ns).map(|(at, drop)| since(at.max(drop))),
            peers: names.zip(effects.into_iter().flatten()).collect(),
        }
    }

    /// Returns when the attack was removed first: the beginning of the first 10 ms from which on
    /// 95 % were dropped for 100 ms.
    fn removed_ns(&self) -> Option<u64> {
        let removed = |from: &usize| {
            let mut sum = Share::default();
            for (number, share) in self.bins.iter().skip(*from).enumerate() {
                if number >= REMOVED_BINS && sum.of >= REMOVED_PACKETS {
                    break;
                }
                sum += *share;
            }
            sum.of > 0 && sum.part as f64 >= REMOVED * sum.of as f64
        };
        let bin = (0..self.bins.len()).filter(|bin| self.bins[*bin].of > 0).find(removed)?;
        Some(self.window_ns.0 + bin as u64 * BIN_NS)
    }
}

/// What came of an attack.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Of all its packets, those that were dropped.
    pub overall: Share,
    /// The attack's from 300 ms after its first packet on, and what else was lost while it lasted:
    /// from its very beginning, unlike for the peers, who are measured from 300 ms on.
    pub ours: Effect,
    /// Benign packets before and after the attack, and those that were lost.
    pub outside: Share,
    /// From its first packet to the first that was dropped, milliseconds.
    pub first_drop_ms: Option<f64>,
    /// From its first packet until 95 % of it were removed, milliseconds, to 10.
    pub removed_ms: Option<f64>,
    /// What simpler defences would have done, by name.
    pub peers: Vec<(&'static str, Effect)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn watch(packets: impl Iterator<Item = (u64, Label, bool)>) -> Removal {
        let mut removal = Removal::new((1000, 3000), false);
        for (ms, label, dropped) in packets {
            removal.see(&Seen {
                time_ns: ms * MS,
                label: Some(label),
                frame: &[],
                fate: if dropped { Fate::Dropped } else { Fate::Passed },
            });
        }
        removal
    }

    #[test]
    fn times_and_shares_are_counted_from_the_first_packet() {
        // An attack packet a millisecond, dropped from 150 ms on; a customer every 10 ms, lost once
        // in the attack and once after it.
        let attack = (1005..3000).map(|ms| (ms, Label::Attack, ms >= 1155));
        let customer = (0..400).map(|n| (n * 10, Label::Benign, matches!(n, 150 | 350)));
        let removal = watch(attack.chain(customer));
        let measured = removal.measured();
        assert_eq!(measured.overall, Share { part: 1845, of: 1995 });
        assert_eq!(measured.ours.removed, Share { part: 1695, of: 1695 });
        assert_eq!(measured.ours.lost, Share { part: 1, of: 200 });
        assert_eq!(measured.outside, Share { part: 1, of: 200 });
        assert_eq!(measured.first_drop_ms, Some(150.0));
        // In the 10 ms that begin at 1150 ms: 5 of the next 100 passed. No earlier than the first drop.
        assert_eq!(measured.removed_ms, Some(150.0));
        assert_eq!(removal.between(1000, 1150), Share { part: 0, of: 145 });
        assert_eq!(removal.between(1500, 1600).percent(), 100.0);
    }

    #[test]
    fn a_single_drop_is_no_removal() {
        let measured = watch((1000..3000).map(|ms| (ms, Label::Attack, ms % 10 == 0))).measured();
        assert_eq!((measured.first_drop_ms, measured.removed_ms), (Some(0.0), None));
        // A slow attack: twenty packets take longer than 100 ms.
        let slow = watch((1000..3000).step_by(50).map(|ms| (ms, Label::Attack, ms >= 1500))).measured();
        assert_eq!(slow.removed_ms, Some(500.0));
        assert_eq!(watch(std::iter::empty()).measured().ours.removed.percent(), 0.0);
    }
}
