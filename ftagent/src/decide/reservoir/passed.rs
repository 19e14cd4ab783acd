//! How much calm traffic has of what: a sample of its packets, each of which stands for many.
//!
//! The reservoir says *that* somebody sends the like, whoever sends much or little; this says how much
//! of it there was. What is as much in an attack as it was before is none of the attack.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Glimpse, WAITS_NS, is_served, vouches};
use crate::decide::{
    analyst::Seen,
    flows::{Flow, Flows},
    table::mix,
};

/// Packets that are kept: of forty seconds, where ticks take a tenth of one.
const MOST: usize = 1536;
/// Packets that are kept of a tick at most.
const PICKS: usize = 4;
/// Nothing is said before so much time is known, seconds.
const LEAST_S: f64 = 5.0;

const _: () = assert!(MOST * size_of::<Entry>() <= 256 << 10);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    at_ns: u64,
    seen: Glimpse,
    /// Packets that it stands for.
    packets: f64,
    /// Its part of the time, seconds.
    seconds: f64,
    /// It is of a conversation: nobody can forge it beforehand to make himself untouchable.
    proven: bool,
}

/// A sample of the packets of calm traffic, latest last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Passed {
    entries: VecDeque<Entry>,
    /// The end of the last tick, and of the last calm one, nanoseconds.
    ended_ns: u64,
    calm_ns: u64,
    /// Calm time in which nothing came, seconds.
    silent_s: f64,
}

impl Passed {
    /// Takes in a tick.
    pub(super) fn feed<'a>(
        &mut self,
        now_ns: u64,
        packets: impl Iterator<Item = &'a Seen> + Clone,
        flows: &Flows,
        calm: bool,
    ) {
        let before_ns = std::mem::replace(&mut self.ended_ns, now_ns);
        // How long the first tick took is not known.
        let seconds = if before_ns == 0 { 0.0 } else { now_ns.saturating_sub(before_ns) as f64 / 1e9 };
        if !calm {
            return;
        }
        self.calm_ns = now_ns;
        let (count, total) = packets.clone().fold((0usize, 0.0), |(count, sum), seen| (count + 1, sum + seen.weight));
        let picks = count.min(PICKS);
        if picks == 0 {
            self.silent_s += seconds;
            return;
        }
        let step = total / picks as f64;
        let part = (seconds + std::mem::take(&mut self.silent_s)) / picks as f64;
        // Evenly spaced by what they stand for, from a place that nobody can foresee.
        let mut next = step * (mix(now_ns) >> 11) as f64 / (1u64 << 53) as f64;
        let mut sum = 0.0;
        for seen in packets {
            sum += seen.weight;
            if sum <= next {
                continue;
            }
            next += step;
            let Some(glimpse) = Glimpse::of(&seen.packet) else { continue };
            if self.entries.len() == MOST {
                self.entries.pop_front();
            }
            let served = is_served(&seen.packet);
            let talks = |flow: &Flow| if seen.packet.is_tcp() { flow.is_established() } else { vouches(flow, served) };
            let proven = seen.mark.known || flows.get(&seen.mark).is_some_and(talks);
            self.entries.push_back(Entry { at_ns: now_ns, seen: glimpse, packets: step, seconds: part, proven });
        }
    }

    fn settled(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.at_ns + WAITS_NS <= self.calm_ns)
    }

    /// Returns which part of calm traffic's packets are of conversations and have `holds` true of them, 0
    /// to 1; as [`Self::pps`].
    pub fn share(&self, holds: impl Fn(&Glimpse) -> bool) -> f64 {
        let (mut hit, mut all, mut seconds) = (0.0, 0.0, 0.0);
        for entry in self.settled() {
            (all, seconds) = (all + entry.packets, seconds + entry.seconds);
            hit += if entry.proven && holds(&entry.seen) { entry.packets } else { 0.0 };
        }
        if seconds < LEAST_S { 0.0 } else { hit / f64::max(all, 1.0) }
    }

    /// Returns the packets a second that calm traffic had lately of what `holds` is true of; 0 where too
    /// little is known. The last seconds before an attack was recognised are left out.
    pub fn pps(&self, holds: impl Fn(&Glimpse) -> bool) -> f64 {
        let settled = self.settled();
        let (mut packets, mut seconds) = (0.0, 0.0);
        for entry in settled {
            seconds += entry.seconds;
            packets += if holds(&entry.seen) { entry.packets } else { 0.0 };
        }
        if seconds < LEAST_S { 0.0 } else { packets / seconds }
    }
}
