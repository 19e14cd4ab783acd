//! One packet as the decisions see it: what its headers say, decoded once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ftagent_common::{
    TrafficClass,
    guard::socket,
    parse::{Facts, Family, SlicePacket, key, parse},
    reason::verdict,
    rules::Key,
    sample::{SampleHeader, SampleRecord},
};
use serde::{Deserialize, Serialize};

use crate::rule::Subject;

/// Bytes of payload that are kept.
pub const HEAD: usize = 64;

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fragment {
    /// Identification.
    pub id: u32,
    /// Offset of its first byte in the datagram.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// A packet, from the first 128 bytes of its frame or more.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Packet {
    /// When it was seen, nanoseconds, monotonic (virtual in replay).
    pub time_ns: u64,
    /// The class that the kernel counted it in.
    pub class: TrafficClass,
    /// The class that it would be in were its source address an ordinary one: differs from
    /// [`Self::class`] only for martian and land packets, which are counted as malformed.
    pub intent: TrafficClass,
    /// Bytes of the frame on the wire, without FCS.
    pub wire: u32,
    /// Source and destination; `None` where it is not IP.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// IP protocol behind extension headers.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Source port of TCP and UDP; 0 where there is none.
    pub sport: u16,
    /// Destination port of TCP and UDP; 0 where there is none.
    pub dport: u16,
    /// The fragment that it is; `None` for whole packets.
    pub fragment: Option<Fragment>,
    /// TCP flags; ICMP type.
    pub flags: u8,
    /// ICMP code.
    pub code: u8,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgement number.
    pub ack: u32,
    /// TCP window as sent, unscaled.
    pub window: u16,
    /// Bytes of TCP options.
    pub options: u8,
    /// Bytes of payload behind TCP, UDP or ICMP's 8 bytes, or behind IP for other protocols.
    pub payload: u16,
    /// Bytes of [`Self::head`] that are valid.
    pub head_len: u8,
    /// The first bytes of payload.
    #[serde(with = "super::bytes")]
    pub head: [u8; HEAD],
    /// Whether the datapath dropped it.
    pub dropped: bool,
    /// What rules look at.
    pub key: Key,
    /// What the socket table said of it, see [`socket`].
    pub socket: u8,
}

/// TCP flags.
pub mod tcp {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
    /// URG.
    pub const URG: u8 = 32;
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

impl Packet {
    /// Decodes the first bytes of a frame; `wire` is its length on the wire. `class` is what the
    /// kernel counted it in; `None` asks the parser.
    pub fn decode(time_ns: u64, frame: &[u8], wire: usize, class: Option<TrafficClass>, dropped: bool) -> Self {
        let slice = SlicePacket { bytes: frame, wire: wire.max(frame.len()) };
        let facts = parse(&slice, |_| false);
        let parsed = TrafficClass::from_index(facts.class as usize).unwrap_or(TrafficClass::Malformed);
        let class = class.unwrap_or(parsed);
        let mut packet = Self {
            time_ns,
            class,
            intent: class,
            wire: u32::try_from(wire).unwrap_or(u32::MAX),
            ends: ends(&facts),
            proto: facts.proto,
            ttl: 0,
            sport: 0,
            dport: 0,
            fragment: None,
            flags: 0,
            code: 0,
            seq: 0,
            ack: 0,
            window: 0,
            options: 0,
            payload: 0,
            head_len: 0,
            head: [0; HEAD],
            dropped,
            key: key(&slice, &facts),
            socket: socket::UNKNOWN,
        };
        if packet.ends.is_some() {
            packet.network(frame, &facts);
        }
        if class == TrafficClass::Malformed {
            packet.intent = intent(frame, wire, &facts);
        }
        packet
    }

    /// Decodes a sample of the kernel program.
    pub fn of_sample(record: &SampleRecord) -> Self {
        let SampleHeader { time_ns, wire_bytes, captured, class, verdict: said, socket, .. } = record.header;
        let frame = record.data.get(..usize::from(captured)).unwrap_or(&record.data);
        let class = TrafficClass::from_index(usize::from(class));
        let packet = Self::decode(time_ns, frame, wire_bytes as usize, class, u32::from(said) == verdict::DROP);
        Self { socket, ..packet }
    }

    /// Decodes the samples of a tick, as the kernel gave them, in order of time.
    pub fn of_samples(records: &[SampleRecord], packets: &mut Vec<Self>) {
        packets.clear();
        packets.extend(records.iter().map(Self::of_sample));
        // Every CPU writes its samples in order; those of several may cross.
        if !packets.is_sorted_by_key(|packet| packet.time_ns) {
            packets.sort_by_key(|packet| packet.time_ns);
        }
    }

    /// Returns the source address.
    pub fn src(&self) -> Option<IpAddr> {
        self.ends.map(|(src, _)| src)
    }

    /// Returns the destination address.
    pub fn dst(&self) -> Option<IpAddr> {
        self.ends.map(|(_, dst)| dst)
    }

    /// Returns the first bytes of payload.
    pub fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or_default()
    }

    /// Returns it as rules see it.
    pub fn subject(&self) -> Subject<'_> {
        Subject { ends: self.ends, key: self.key, payload: self.head() }
    }

    /// Returns whether it is TCP.
    pub fn is_tcp(&self) -> bool {
        self.proto == TCP
    }

    /// Returns whether the socket table has a connection for a segment: then it is somebody's, however much he
    /// sends.
    pub fn is_connected(&self) -> bool {
        self.is_tcp() && self.flags & tcp::SYN == 0 && self.socket == socket::CONNECTED
    }

    /// Returns whether it has one, or the request of one, which such a segment completes.
    pub fn is_expected(&self) -> bool {
        let has = matches!(self.socket, socket::CONNECTED | socket::HALF_OPEN);
        self.is_tcp() && self.flags & tcp::SYN == 0 && has
    }

    /// Returns whether it is UDP.
    pub fn is_udp(&self) -> bool {
        self.proto == UDP
    }

    /// Reads what IP says, then goes on with the header behind it.
    fn network(&mut self, frame: &[u8], facts: &Facts) {
        let l3 = usize::from(facts.l3);
        let at = |offset: usize| frame.get(l3 + offset).copied().unwrap_or(0);
        let pair = |offset: usize| u16::from_be_bytes([at(offset), at(offset + 1)]);
        let (end, l4) = match facts.family {
            Family::V4 => {
                let header = usize::from(at(0) & 15) * 4;
                let bits = pair(6);
                if bits & 0x3fff != 0 {
                    let (offset, more) = ((bits & 0x1fff) << 3, bits & 0x2000 != 0);
                    self.fragment = Some(Fragment { id: u32::from(pair(4)), offset, more });
                }
                self.ttl = at(8);
                (l3 + usize::from(pair(2)), l3 + header)
            }
            Family::V6 => {
                self.ttl = at(7);
                let (l4, fragment) = self.extensions(frame, l3);
                self.fragment = fragment;
                (l3 + 40 + usize::from(pair(4)), l4)
            }
            Family::None => return,
        };
        if self.fragment.is_none_or(|fragment| fragment.offset == 0) {
            self.transport(frame, l4, end);
        } else {
            self.keep(frame, l4, end);
        }
    }

    /// Follows IPv6 extension headers (RFC 8200, section 4) and notes the last protocol.
    fn extensions(&mut self, frame: &[u8], l3: usize) -> (usize, Option<Fragment>) {
        let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
        let (mut proto, mut at, mut fragment) = (byte(l3 + 6), l3 + 40, None);
        for _ in 0..ftagent_common::abi::MAX_EXTENSION_HEADERS {
            let length = match proto {
                0 | 43 | 60 => (usize::from(byte(at + 1)) + 1) * 8,
                44 => {
                    let bits = u16::from_be_bytes([byte(at + 2), byte(at + 3)]);
                    let id = u32::from_be_bytes([byte(at + 4), byte(at + 5), byte(at + 6), byte(at + 7)]);
                    let (offset, more) = (bits & 0xfff8, bits & 1 != 0);
                    fragment = (more || offset != 0).then_some(Fragment { id, offset, more });
                    8
                }
                _ => break,
            };
            proto = byte(at);
            at += length;
            if fragment.is_some_and(|fragment: Fragment| fragment.offset != 0) {
                break;
            }
        }
        self.proto = proto;
        (at, fragment)
    }

    fn transport(&mut self, frame: &[u8], l4: usize, end: usize) {
        let byte = |at: usize| frame.get(l4 + at).copied().unwrap_or(0);
        let pair = |at: usize| u16::from_be_bytes([byte(at), byte(at + 1)]);
        let word = |at: usize| u32::from_be_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        let header = match self.proto {
            TCP => {
                (self.sport, self.dport) = (pair(0), pair(2));
                (self.seq, self.ack) = (word(4), word(8));
                self.flags = byte(13) & 63;
                self.window = pair(14);
                let header = usize::from(byte(12) >> 4) * 4;
                self.options = u8::try_from(header.saturating_sub(20)).unwrap_or(0);
                header.max(20)
            }
            UDP => {
                (self.sport, self.dport) = (pair(0), pair(2));
                8
            }
            ICMP | ICMPV6 => {
                (self.flags, self.code) = (byte(0), byte(1));
                8
            }
            _ => 0,
        };
        self.keep(frame, l4 + header, end);
    }

    /// Notes the length of the payload, and its head.
    fn keep(&mut self, frame: &[u8], from: usize, end: usize) {
        self.payload = u16::try_from(end.saturating_sub(from)).unwrap_or(u16::MAX);
        let bytes = frame.get(from..end.min(frame.len())).unwrap_or_default();
        let kept = bytes.len().min(HEAD);
        for (to, byte) in self.head.iter_mut().zip(bytes) {
            *to = *byte;
        }
        self.head_len = kept as u8;
    }
}

fn ends(facts: &Facts) -> Option<(IpAddr, IpAddr)> {
    let v6 = |(high, low): (u64, u64)| Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into();
    let v4 = |(_, low): (u64, u64)| Ipv4Addr::from(low as u32).into();
    match facts.family {
        Family::None => None,
        Family::V4 => Some((v4(facts.src), v4(facts.dst))),
        Family::V6 => Some((v6(facts.src), v6(facts.dst))),
    }
}

/// Returns the class of a malformed packet had it come from an ordinary source. Who forges
/// sources at random hits martian ones too, and those packets belong to the same flood.
fn intent(frame: &[u8], wire: usize, facts: &Facts) -> TrafficClass {
    let mut copy = [0; 256];
    let kept = frame.len().min(copy.len());
    let (Some(to), Some(from)) = (copy.get_mut(..kept), frame.get(..kept)) else { return TrafficClass::Malformed };
    to.copy_from_slice(from);
    let l3 = usize::from(facts.l3);
    // TEST-NET-1 and the documentation prefix: unicast, and nobody's destination.
    let (at, source): (usize, &[u8]) = match facts.family {
        Family::V4 => (l3 + 12, &[192, 0, 2, 1]),
        Family::V6 => (l3 + 8, &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        Family::None => return TrafficClass::Malformed,
    };
    let Some(field) = copy.get_mut(at..at + source.len()) else { return TrafficClass::Malformed };
    field.copy_from_slice(source);
    let bytes = copy.get(..kept).unwrap_or_default();
    let facts = parse(&SlicePacket { bytes, wire: wire.max(kept) }, |_| false);
    TrafficClass::from_index(facts.class as usize).unwrap_or(TrafficClass::Malformed)
}
