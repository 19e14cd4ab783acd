//! What clean traffic looks like: a bounded sample of it, against which rules are tried.
//!
//! It weighs flows, not packets: who sends much counts no more than who sends little. It is fed
//! only while nothing is wrong, and what it takes in has waited for three seconds, so that the
//! beginning of an attack is not in it when the attack is recognised.

mod passed;

use std::{collections::VecDeque, net::IpAddr};

use ftagent_common::{TrafficClass, guard::socket, rules::Key};
use serde::{Deserialize, Serialize};

pub use self::passed::Passed;
use super::{
    Packet,
    analyst::Seen,
    flows::{Flow, Flows, Mark, block_of, note},
    table::mix,
};
use crate::rule::{FlowMatch, Subject};

/// Bytes of payload that are kept.
pub const HEAD: usize = 48;
/// Hours that are remembered, the present one included.
const HOURS: usize = 24;
const HOUR_NS: u64 = 3_600_000_000_000;
/// Entries of the present hour: of sources that a conversation vouches for, and of others.
const PRESENT: [usize; 2] = [4096, 1024];
/// Entries that remain of an hour that is over, likewise.
const PAST: [usize; 2] = [256, 64];
/// So many entries of an hour are taken densely: one of each flow, not of each source.
const DENSE: usize = 1024;
/// Packets that wait to be taken in.
const WAITING: usize = 2048;
/// How long they wait, nanoseconds.
const WAITS_NS: u64 = 3_000_000_000;
/// A source counts once in this time, nanoseconds.
const MINUTE_NS: u64 = 60_000_000_000;
/// Entries of one source block in a minute while they are taken densely …
const OF_BLOCK: u8 = 48;
/// … and with those that show a kind of packet that the block had not sent in it: a rule hits kinds, and
/// what a rule for the others costs nobody would know.
const KINDS_OF_BLOCK: u8 = 96;
/// Places of the memory of what was taken in lately.
const LATELY: usize = 16_384;
/// Clients have ports from here on; what answers from those below is a reflector, and would be in step with it.
const CLIENTS: u16 = 1024;
/// What an entry that nobody vouches for weighs in shares.
const TENTH: f64 = 0.1;

const _: () = assert!(
    (PRESENT[0] + PRESENT[1] + (HOURS - 1) * (PAST[0] + PAST[1])) * size_of::<Clean>()
        + WAITING * size_of::<Waiting>()
        + LATELY * 10
        <= 3 << 20
);

/// A packet as far as rules see it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Glimpse {
    /// Its headers.
    pub key: Key,
    /// Its source.
    pub src: IpAddr,
    /// Its destination.
    pub dst: IpAddr,
    /// Its class.
    pub class: TrafficClass,
    head_len: u8,
    #[serde(with = "super::bytes")]
    head: [u8; HEAD],
}

impl Glimpse {
    /// Returns what rules see of a packet; `None` where no rule can match it.
    pub fn of(packet: &Packet) -> Option<Self> {
        let (src, dst) = packet.ends?;
        if packet.key.has & ftagent_common::rules::has::IP == 0 {
            return None;
        }
        let mut head = [0; HEAD];
        let kept = packet.head().len().min(HEAD);
        for (to, byte) in head.iter_mut().zip(packet.head()) {
            *to = *byte;
        }
        Some(Self { key: packet.key, src, dst, class: packet.class, head_len: kept as u8, head })
    }

    /// Returns the first bytes of payload.
    pub fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or_default()
    }

    /// Returns it as rules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { ends: Some((self.src, self.dst)), key: self.key, payload: self.head() }
    }
}

/// A packet of clean traffic.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Clean {
    /// The packet.
    pub seen: Glimpse,
    /// A conversation vouches for its source. The others may be what an attacker sent before his
    /// attack, to make its signature look like somebody's.
    pub verified: bool,
    /// When it came, seconds on the monotonic clock.
    pub at_s: u32,
}

/// What part of clean traffic a match hits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hit {
    /// Verified entries that it hits, of all verified ones.
    pub clean: f64,
    /// The same of the others, as a share of everything, in which they count a tenth.
    pub uncertain: f64,
    /// Verified entries that it hits.
    pub flows: usize,
}

/// A packet that waits: whether somebody vouches for it shows meanwhile.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Waiting {
    at_ns: u64,
    seen: Glimpse,
    mark: Mark,
    /// See [`is_served`].
    served: bool,
}

/// A bounded sample of a stream (Vitter's algorithm R, 1985), drawn by a keyed hash.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pool {
    entries: Vec<Clean>,
    offered: u64,
}

clone_in_place!(Pool { entries, offered });

impl Pool {
    fn offer(&mut self, clean: Clean, room: usize, seed: u64) {
        self.offered += 1;
        if self.entries.len() < room {
            self.entries.push(clean);
            return;
        }
        let at = mix(seed ^ self.offered) % self.offered;
        if let Some(place) = self.entries.get_mut(at as usize) {
            *place = clean;
        }
    }

    /// Keeps so many, evenly spaced.
    fn thin(&mut self, room: usize) {
        let step = self.entries.len().div_ceil(room).max(1);
        self.entries = self.entries.iter().step_by(step).copied().collect();
    }
}

/// An hour: what somebody vouches for, and the rest.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Hour {
    number: u64,
    pools: [Pool; 2],
}

clone_in_place!(Hour { number, pools });

/// The sample.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reservoir {
    seed: u64,
    /// Oldest first; the last one is the present.
    hours: Vec<Hour>,
    waiting: VecDeque<Waiting>,
    /// Who was taken in lately: a hash of what and when.
    lately: Vec<u64>,
    /// How often a block was taken in lately: a hash of block and minute, and the number.
    blocks: Vec<(u32, u8)>,
    /// TCP flows that were taken in, and those of them in which this host was heard; both fade.
    heard: (f64, f64),
    passed: Passed,
}

clone_in_place!(Reservoir { seed, hours, waiting, lately, blocks, heard, passed });

impl Reservoir {
    /// Makes an empty one. `seed` keys its tables.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            hours: Vec::new(),
            waiting: VecDeque::new(),
            lately: vec![0; LATELY],
            blocks: vec![(0, 0); LATELY / 4],
            heard: (0.0, 0.0),
            passed: Passed::default(),
        }
    }

    /// Returns one with other addresses and without payload, which waits for nothing. `seed` keys its tables.
    pub fn disguised(&self, seed: u64, change: &mut dyn FnMut(IpAddr) -> IpAddr) -> Self {
        let mut hours = self.hours.clone();
        for clean in hours.iter_mut().flat_map(|hour| &mut hour.pools).flat_map(|pool| &mut pool.entries) {
            let Glimpse { key, src, dst, class, .. } = clean.seen;
            clean.seen = Glimpse { key, src: change(src), dst: change(dst), class, head_len: 0, head: [0; HEAD] };
        }
        Self { hours, heard: self.heard, ..Self::new(seed) }
    }

    /// Takes in the packets of a tick. Where it is not `calm`, nothing is taken in, and what waits
    /// is thrown away.
    pub fn feed<'a>(
        &mut self,
        now_ns: u64,
        packets: impl Iterator<Item = &'a Seen> + Clone,
        flows: &Flows,
        calm: bool,
    ) {
        self.passed.feed(now_ns, packets.clone(), flows, calm);
        if !calm {
            self.waiting.clear();
            return;
        }
        while let Some(first) = self.waiting.front().copied() {
            if first.at_ns + WAITS_NS > now_ns {
                break;
            }
            self.waiting.pop_front();
            self.admit(now_ns, &first, flows);
        }
        for seen in packets {
            if self.waiting.len() >= WAITING {
                break;
            }
            let Some(glimpse) = Glimpse::of(&seen.packet) else { continue };
            if self.is_new(&glimpse, seen.mark.tag, now_ns) {
                let served = is_served(&seen.packet);
                self.waiting.push_back(Waiting { at_ns: now_ns, seen: glimpse, mark: seen.mark, served });
            }
        }
    }

    /// Returns whether the like of a packet has not been taken in within the minute: from its source, or
    /// from its flow as long as there is room.
    fn is_new(&mut self, seen: &Glimpse, tag: u64, now_ns: u64) -> bool {
        let minute = now_ns / MINUTE_NS + 1;
        let (block, key) = (block_of(seen.src), &seen.key);
        let dense = self.hours.last().is_none_or(|hour| hour.pools.iter().all(|pool| pool.entries.len() < DENSE));
        // Of a conversation each kind of packet counts: its SYN, its data, its end.
        let shape = u64::from(seen.class as u8) << 48 | u64::from(key.len >> 4) << 24 | u64::from(key.flags);
        let port = u64::from(key.sport.min(key.dport));
        let kind = mix(shape ^ port << 32) ^ minute.rotate_left(40);
        let of_block = self.is_first(mix(self.seed ^ mix(block) ^ kind));
        let of_flow = dense && self.is_first(mix(self.seed ^ tag ^ kind));
        if !of_block && !of_flow {
            return false;
        }
        let hash = mix(self.seed ^ mix(block) ^ minute);
        let Some((owner, count)) = self.blocks.get_mut(hash as usize % (LATELY / 4)) else { return false };
        if *owner != (hash >> 32) as u32 {
            (*owner, *count) = ((hash >> 32) as u32, 0);
        }
        let room = *count < if of_block && dense { KINDS_OF_BLOCK } else { OF_BLOCK };
        *count += u8::from(room);
        room
    }

    /// Returns whether a hash is not among those noted lately; notes it.
    fn is_first(&mut self, hash: u64) -> bool {
        let hash = hash.max(1);
        let Some(place) = self.lately.get_mut(hash as usize % LATELY) else { return false };
        std::mem::replace(place, hash) != hash
    }

    fn admit(&mut self, now_ns: u64, waiting: &Waiting, flows: &Flows) {
        let number = now_ns / HOUR_NS;
        if self.hours.last().is_none_or(|hour| hour.number != number) {
            if let Some(hour) = self.hours.last_mut() {
                hour.pools.iter_mut().zip(PAST).for_each(|(pool, room)| pool.thin(room));
            }
            self.hours.push(Hour { number, ..Hour::default() });
            while self.hours.len() > HOURS {
                self.hours.remove(0);
            }
        }
        let verified = self.is_verified(waiting, flows);
        let Some(hour) = self.hours.last_mut() else { return };
        let at = usize::from(!verified);
        let (Some(pool), Some(room)) = (hour.pools.get_mut(at), PRESENT.get(at)) else { return };
        let at_s = (waiting.at_ns / 1_000_000_000) as u32;
        pool.offer(Clean { seen: waiting.seen, verified, at_s }, *room, self.seed);
    }

    /// Returns whether a conversation vouches for a source: one that this host took part in, where
    /// what it says is seen at all.
    fn is_verified(&mut self, waiting: &Waiting, flows: &Flows) -> bool {
        if waiting.mark.known {
            return true;
        }
        let Some(flow) = flows.get(&waiting.mark) else { return false };
        if waiting.seen.key.proto != 6 {
            return vouches(flow, waiting.served);
        }
        if !flow.is_established() {
            return false;
        }
        let (all, heard) = &mut self.heard;
        *all = *all * 0.999 + 1.0;
        *heard = *heard * 0.999 + f64::from(u8::from(flow.has(note::OUTBOUND)));
        flow.has(note::OUTBOUND) || *heard < 0.5 * *all
    }

    /// Returns how much there lately was of what, by packets.
    pub const fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Returns all entries, oldest hour first.
    pub fn entries(&self) -> impl Iterator<Item = &Clean> {
        self.hours.iter().flat_map(|hour| hour.pools.iter().flat_map(|pool| &pool.entries))
    }

    /// Returns how many entries there are: verified ones, and others.
    pub fn size(&self) -> (usize, usize) {
        let of =
            |at: usize| self.hours.iter().filter_map(move |hour| hour.pools.get(at)).map(|pool| pool.entries.len());
        (of(0).sum(), of(1).sum())
    }

    /// Returns what part of the verified clean traffic of each class a match hits, of classes of which it
    /// hits any.
    pub fn part_of_classes(&self, matches: &FlowMatch) -> Vec<(TrafficClass, f64)> {
        let mut classes = [(0u32, 0u32); TrafficClass::COUNT];
        for entry in self.entries().filter(|entry| entry.verified) {
            let Some((hits, all)) = classes.get_mut(entry.seen.class.index()) else { continue };
            *all += 1;
            *hits += u32::from(matches.matches(&entry.seen.subject()));
        }
        let of_class = TrafficClass::ALL.into_iter().zip(classes).filter(|(_, (hits, _))| *hits > 0);
        of_class.map(|(class, (hits, all))| (class, f64::from(hits) / f64::from(all))).collect()
    }

    /// Returns what part of clean traffic a match hits.
    pub fn share(&self, matches: &FlowMatch) -> Hit {
        let (mut verified, mut others) = (0usize, 0usize);
        for entry in self.entries().filter(|entry| matches.matches(&entry.seen.subject())) {
            *(if entry.verified { &mut verified } else { &mut others }) += 1;
        }
        hit((verified, others), self.size())
    }
}

/// Returns shares of numbers of entries: verified ones and others, of all of them.
pub fn hit((verified, others): (usize, usize), (all_verified, all_others): (usize, usize)) -> Hit {
    let everything = all_verified as f64 + all_others as f64 * TENTH;
    Hit {
        clean: verified as f64 / (all_verified.max(1) as f64),
        uncertain: others as f64 * TENTH / everything.max(1.0),
        flows: verified,
    }
}

/// Returns whether a flow without handshake vouches for its source: this host began it, or both
/// ends speak again and again. What a server answers blindly is no proof. Where this host's own packets are
/// not seen, who goes on with a server's open socket is its customer, a player or the other end of a tunnel.
pub fn vouches(flow: &Flow, served: bool) -> bool {
    let [first, second] = &flow.halves;
    let age = flow.last_ns.saturating_sub(flow.first_ns);
    let both = first.packets.min(second.packets);
    both >= 1 && flow.has(note::OURS) || both >= 3 && age >= 1_000_000_000 || served && flow.is_sustained()
}

/// Returns whether a packet comes from a client's port and is for the open socket of a UDP server.
pub fn is_served(packet: &Packet) -> bool {
    packet.is_udp() && packet.socket == socket::UNCONNECTED && packet.sport >= CLIENTS
}

#[cfg(test)]
pub mod tests;
