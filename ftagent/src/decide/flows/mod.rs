//! Conversations: what is known of the flows that the samples touched.
//!
//! A bounded table of 5-tuples, both directions of a flow in one entry. Its places are chosen by a
//! keyed hash, and what a stranger can make cheaply never pushes out what took a handshake.

mod track;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Packet, packet::tcp, table::mix};

pub use crate::sense::signals::block_of;
pub use track::{State, http};

/// Flows in one bucket.
const WAYS: usize = 8;
/// Buckets.
const BUCKETS: usize = 4096;
// With what decides about a place, the table stays below 6 MiB.
const _: () = assert!(BUCKETS * (WAYS * size_of::<Flow>() + size_of::<Bucket>()) <= 6 << 20);
/// After so long a flow that proved nothing gives way, nanoseconds.
const BRIEF_NS: u64 = 3_000_000_000;
/// After so long any flow gives way, nanoseconds.
const IDLE_NS: u64 = 180_000_000_000;

/// Who sends so many packets …
const SUSTAINED: u32 = 4;
/// … and for so long is answered, nanoseconds: an unanswered question is asked three or four times within seconds.
const SUSTAINED_NS: u64 = 5_000_000_000;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Half {
    /// Packets.
    pub packets: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// The sequence number that comes next.
    pub next_seq: u32,
    /// The number of the SYN.
    pub isn: u32,
    /// The last acknowledgement.
    pub ack: u32,
    /// All TCP flags that were seen.
    pub flags: u8,
    /// Packets that went on where earlier ones ended.
    pub steady: u16,
    /// Segments with payload.
    pub data: u16,
}

/// What was noticed of a flow; bits of [`Flow::notes`].
pub mod note {
    /// This host sent packets of it.
    pub const OUTBOUND: u16 = 1;
    /// This host sent the first packet that was seen.
    pub const OURS: u16 = 1 << 1;
    /// The handshake was completed.
    pub const COMPLETE: u16 = 1 << 2;
    /// The handshake was completed, and the acknowledgement fits what this host sent.
    pub const PROVEN: u16 = 1 << 3;
    /// An HTTP request was seen.
    pub const REQUEST: u16 = 1 << 4;
    /// The request's head was seen whole and does not end.
    pub const UNFINISHED: u16 = 1 << 5;
    /// A TLS ClientHello was seen.
    pub const HELLO: u16 = 1 << 6;
    /// The source was proposed as known.
    pub const PROPOSED: u16 = 1 << 7;
    /// FIN or RST was seen.
    pub const CLOSED: u16 = 1 << 8;
    /// The request names a length: a body follows.
    pub const POST: u16 = 1 << 9;
    /// The request or the ClientHello came in the direction of half 1.
    pub const BY_SECOND: u16 = 1 << 12;
    /// Who asked says that he takes nothing: his last segment's window is 0.
    pub const SHUT: u16 = 1 << 13;
    /// An earlier connection with the same ends completed its handshake.
    pub const COMPLETED_BEFORE: u16 = 1 << 11;
    /// The peer acknowledged something after its request: it was answered.
    pub const ANSWERED: u16 = 1 << 10;
    /// The socket table has its connection: the handshake was not forged.
    pub const CONNECTED: u16 = 1 << 14;
}

/// A flow: half 0 is the direction of the first packet that was seen. It is two cache lines, not parts
/// of three.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[repr(C, align(64))]
pub struct Flow {
    /// Identity; 0 where the place is empty.
    pub tag: u64,
    /// First packet, nanoseconds.
    pub first_ns: u64,
    /// Last packet, nanoseconds.
    pub last_ns: u64,
    /// When the last request began, nanoseconds.
    pub request_ns: u64,
    /// Both directions.
    pub halves: [Half; 2],
    /// The acknowledgement that the last request or ClientHello carried.
    pub request_ack: u32,
    /// See [`note`].
    pub notes: u16,
    /// Requests.
    pub requests: u16,
    /// Small pieces of a request that came by themselves.
    pub drips: u16,
    /// Those that came long after the request began.
    pub late_drips: u16,
    /// Segments after a ClientHello.
    pub after_hello: u16,
    /// Local port.
    pub port: u16,
    /// Whether half 0 is sent by the lower of both ends.
    pub lower: bool,
    /// The other host; `None` in an empty place only.
    pub remote: Option<IpAddr>,
}

const _: () = assert!(size_of::<Flow>() == 128);

impl Flow {
    fn new(key: &Key, packet: &Packet, outbound: bool) -> Self {
        Self {
            tag: key.tag,
            first_ns: packet.time_ns,
            lower: key.lower,
            notes: if outbound { note::OURS } else { 0 },
            port: if outbound { packet.sport } else { packet.dport },
            remote: if outbound { packet.dst() } else { packet.src() },
            ..Self::default()
        }
    }

    /// Reads from both of its cache lines.
    fn touch(&self) -> u64 {
        self.tag ^ u64::from(self.notes)
    }

    /// Returns whether a note was made.
    pub fn has(&self, note: u16) -> bool {
        self.notes & note != 0
    }

    /// Returns whether it has proved that both ends take part, or goes on as only its ends can.
    pub fn is_established(&self) -> bool {
        self.has(note::COMPLETE | note::PROVEN)
            || self.halves.iter().any(|half| half.steady >= 3)
            || self.halves.iter().all(|half| half.packets >= 2)
    }

    /// Returns whether one end has gone on for a while, as nobody does whom nobody answers. Of UDP that is all that can
    /// be seen where this host's own packets are not.
    pub fn is_sustained(&self) -> bool {
        let lasted_ns = self.last_ns.saturating_sub(self.first_ns);
        lasted_ns >= SUSTAINED_NS && self.halves.iter().any(|half| half.packets >= SUSTAINED)
    }

    /// Returns whether a packet is the one that completed the handshake.
    pub fn just_completed(&self, packet: &Packet) -> bool {
        let [first, _] = &self.halves;
        self.has(note::COMPLETE)
            && self.last_ns == packet.time_ns
            && first.flags & tcp::SYN != 0
            && first.steady == 1
            && packet.seq == first.isn.wrapping_add(1)
    }

    /// Returns how many bytes of answer the client has acknowledged since its request or ClientHello.
    pub fn answered_bytes(&self) -> u32 {
        let [first, second] = &self.halves;
        let client = if self.has(note::BY_SECOND) { second } else { first };
        client.ack.wrapping_sub(self.request_ack)
    }

    /// Returns whether both ends speak repeatedly.
    pub fn talks(&self) -> bool {
        let [a, b] = &self.halves;
        a.packets.min(b.packets) >= 2 && a.packets.max(b.packets) >= 3
    }
}

/// What the table said of a packet when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Identity of the flow; 0 where the packet has none.
    pub tag: u64,
    /// Its place in the table, while [`Flow::tag`] is the same.
    pub place: u32,
    /// How it continues its flow.
    pub state: State,
    /// It answers a packet that came in: only where both directions are fed in as arriving.
    pub response: bool,
    /// This host had sent packets of the flow.
    pub asked: bool,
    /// It is a small piece of an unfinished request.
    pub drip: bool,
    /// Its source's block was known before.
    pub known: bool,
}

impl Mark {
    /// Of a packet that belongs to no flow.
    pub const NONE: Self =
        Self { tag: 0, place: 0, state: State::None, response: false, asked: false, drip: false, known: false };
}

/// The table.
#[derive(Debug, Serialize, Deserialize)]
#[serde(into = "Kept", from = "Kept")]
pub struct Flows {
    seed: u64,
    flows: Vec<Flow>,
    /// What decides about a place, apart from the flows.
    buckets: Vec<Bucket>,
}

clone_in_place!(Flows { seed, flows, buckets });

/// What decides about the places of a bucket: two cache lines that are fetched together.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(128))]
struct Bucket {
    tags: [u64; WAYS],
    worths: [Worth; WAYS],
}

/// What a place is worth.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Worth {
    /// Last packet, in units of 2^20 nanoseconds; wraps after 52 days.
    last: u32,
    established: bool,
    closed: bool,
    requested: bool,
}

/// The form in which a table is written down: what is in it, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    seed: u64,
    flows: Vec<(u32, Flow, Worth)>,
}

impl From<Flows> for Kept {
    fn from(table: Flows) -> Self {
        let worths = table.buckets.iter().flat_map(|bucket| bucket.worths);
        let places = (0u32..).zip(&table.flows).zip(worths);
        let held = places.filter(|((_, flow), _)| flow.tag != 0).map(|((place, flow), worth)| (place, *flow, worth));
        Self { seed: table.seed, flows: held.collect() }
    }
}

impl From<Kept> for Flows {
    fn from(kept: Kept) -> Self {
        let mut table = Self::new(kept.seed);
        for (place, flow, worth) in kept.flows {
            let (at, way) = (place as usize, place as usize % WAYS);
            let Some(slot) = table.flows.get_mut(at) else { continue };
            *slot = flow;
            let Some(bucket) = table.buckets.get_mut(at / WAYS) else { continue };
            if let (Some(tag), Some(of)) = (bucket.tags.get_mut(way), bucket.worths.get_mut(way)) {
                (*tag, *of) = (flow.tag, worth);
            }
        }
        table
    }
}

/// Where a packet's flow is.
#[derive(Clone, Copy, Debug)]
struct Key {
    tag: u64,
    /// The packet is sent by the lower end.
    lower: bool,
}

impl Flows {
    /// Makes an empty table.
    pub fn new(seed: u64) -> Self {
        Self { seed, flows: vec![Flow::default(); WAYS * BUCKETS], buckets: vec![Bucket::default(); BUCKETS] }
    }

    /// Has the memory fetched of flows that marks were made of. One after the other they wait for it; read
    /// in a row, their requests are under way at the same time.
    pub fn fetch_marked<'a>(&self, marks: impl Iterator<Item = &'a Mark>) {
        let flows = marks.filter_map(|mark| self.flows.get(mark.place as usize));
        // Nothing else wants what is read here, and it has to be read all the same.
        std::hint::black_box(flows.fold(0, |read, flow| read ^ flow.touch()));
    }

    /// Returns the flow that a mark was made of, if it is still there.
    pub fn get(&self, mark: &Mark) -> Option<&Flow> {
        self.flows.get(mark.place as usize).filter(|flow| flow.tag == mark.tag && mark.tag != 0)
    }

    /// Returns the flows in which a request was seen. The others, nearly all, are not touched.
    pub fn requested(&self) -> impl Iterator<Item = &Flow> {
        let places = self.flows.iter().zip(self.buckets.iter().flat_map(|bucket| &bucket.worths));
        places.filter(|(flow, worth)| worth.requested && flow.tag != 0).map(|(flow, _)| flow)
    }

    /// Returns all flows.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(|flow| flow.tag != 0)
    }

    /// Takes in a packet; `outbound`: this host sent it. Returns the mark, and the block of the
    /// source where the flow has just proved that it cannot be forged cheaply. `sees_own`: packets
    /// that this host sends are seen, so that proof can be had from them.
    pub fn note(&mut self, packet: &Packet, outbound: bool, sees_own: bool) -> (Mark, Option<u64>) {
        let Some(key) = self.key(packet) else { return (Mark::NONE, None) };
        let Some(bucket) = self.buckets.get_mut(key.tag as usize % BUCKETS) else { return (Mark::NONE, None) };
        let (way, found) = bucket.place(key.tag, packet.time_ns);
        let place = (key.tag as usize % BUCKETS) * WAYS + way;
        let (Some(slot), Some(tag), Some(worth)) =
            (self.flows.get_mut(place), bucket.tags.get_mut(way), bucket.worths.get_mut(way))
        else {
            return (Mark::NONE, None);
        };
        if !found && !may_replace(*tag, *worth, packet.time_ns) {
            return (Mark { tag: key.tag, place: u32::MAX, state: State::First, ..Mark::NONE }, None);
        }
        // A new flow is made aside and then written: what it replaces need not be fetched, and in a
        // flood nearly every packet has one.
        let mut flow = if found { *slot } else { Flow::new(&key, packet, outbound) };
        let asked = flow.has(note::OUTBOUND);
        let forward = flow.lower == key.lower;
        let (state, drip) = track::advance(&mut flow, packet, forward);
        flow.last_ns = packet.time_ns;
        *tag = key.tag;
        *worth = Worth {
            last: coarse(packet.time_ns),
            established: flow.is_established(),
            closed: flow.has(note::CLOSED),
            requested: flow.has(note::REQUEST),
        };
        if outbound {
            flow.notes |= note::OUTBOUND;
        }
        if packet.is_connected() {
            flow.notes |= note::CONNECTED;
        }
        let remote = if outbound { packet.dst() } else { packet.src() };
        let proven = track::is_proof(&flow, packet, sees_own) && !flow.has(note::PROPOSED);
        if proven {
            flow.notes |= note::PROPOSED;
        }
        *slot = flow;
        let response = !outbound && !forward && !flow.has(note::OURS);
        let mark = Mark { tag: key.tag, place: place as u32, state, response, asked, drip, known: false };
        (mark, remote.filter(|_| proven).map(block_of))
    }

    fn key(&self, packet: &Packet) -> Option<Key> {
        let (src, dst) = packet.ends?;
        // Later fragments have no ports; they are looked at as datagrams, not as flows.
        if packet.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return None;
        }
        let end = |address: IpAddr, port: u16| match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), port),
            IpAddr::V6(v6) => (v6.to_bits(), port),
        };
        let (from, to) = (end(src, packet.sport), end(dst, packet.dport));
        let lower = from <= to;
        let (low, high) = if lower { (from, to) } else { (to, from) };
        let mut tag = mix(self.seed ^ u64::from(packet.proto) << 32 ^ u64::from(low.1) << 16 ^ u64::from(high.1));
        for word in [low.0 as u64, (low.0 >> 64) as u64, high.0 as u64, (high.0 >> 64) as u64] {
            tag = mix(tag.rotate_left(23) ^ word ^ self.seed);
        }
        Some(Key { tag: tag.max(1), lower })
    }
}

impl Bucket {
    /// Returns the way of a flow and whether it is there, or the way that it may take.
    fn place(&self, tag: u64, now_ns: u64) -> (usize, bool) {
        if let Some(way) = self.tags.iter().position(|other| *other == tag) {
            return (way, true);
        }
        let places = self.tags.iter().zip(&self.worths).enumerate();
        let cheapest = places.min_by_key(|(_, (tag, worth))| price(**tag, **worth, now_ns));
        (cheapest.map_or(0, |(way, _)| way), false)
    }
}

fn coarse(ns: u64) -> u32 {
    (ns >> 20) as u32
}

/// Returns for how long a place was idle, nanoseconds.
fn idle(worth: Worth, now_ns: u64) -> u64 {
    u64::from(coarse(now_ns).wrapping_sub(worth.last)) << 20
}

/// Returns how dear a place is: 0 is empty, then what is idle, then what proved nothing, oldest
/// first.
fn price(tag: u64, worth: Worth, now_ns: u64) -> u64 {
    let idle = idle(worth, now_ns);
    let youth = IDLE_NS.saturating_sub(idle);
    match worth.established {
        _ if tag == 0 => 0,
        _ if idle > IDLE_NS => 1,
        false => 2 + youth,
        true => 2 + IDLE_NS + youth,
    }
}

fn may_replace(tag: u64, worth: Worth, now_ns: u64) -> bool {
    let idle = idle(worth, now_ns);
    tag == 0 || !worth.established || idle > IDLE_NS || (worth.closed && idle > BRIEF_NS)
}

#[cfg(test)]
mod tests;
