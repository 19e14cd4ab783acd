//! How a packet continues its flow.

use serde::{Deserialize, Serialize};

use super::{Flow, Half, note};
use crate::decide::{Packet, packet::tcp};
use ftagent_common::TrafficClass;

/// How a packet continues its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not part of a flow, or not TCP.
    None,
    /// The first packet that was seen of it.
    First,
    /// It goes on where earlier packets of either direction ended.
    Steady,
    /// It says what was said before: no number has moved.
    Same,
    /// Its numbers do not fit.
    Stray,
}

/// Sequence numbers may jump so far where packets in between were not sampled, bytes.
const SEQ_WINDOW: i32 = 4 << 20;
/// Acknowledgements may jump so far, bytes.
const ACK_WINDOW: i32 = 32 << 20;
/// A SYN with another number takes over a flow that has been silent for so long, nanoseconds.
const REUSE_NS: u64 = 5_000_000_000;
/// A piece that comes so long after the beginning of its request is late, nanoseconds.
const LATE_NS: u64 = 2_000_000_000;
/// Bytes up to which a segment that follows a request is a drip.
const DRIP_BYTES: u16 = 48;

/// Takes a packet into its flow; returns how it fits, and whether it is a drip of a request.
pub(super) fn advance(flow: &mut Flow, packet: &Packet, forward: bool) -> (State, bool) {
    let fresh = flow.halves.iter().all(|half| half.packets == 0);
    if !packet.is_tcp() {
        let state = if fresh { State::First } else { State::Steady };
        count(half_mut(flow, forward), packet);
        return (state, false);
    }
    if packet.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN {
        return (begin(flow, packet, forward), false);
    }
    let state = if fresh { State::First } else { fit(flow, packet, forward) };
    if matches!(state, State::Stray) {
        return (state, false);
    }
    let drip = state != State::Same && payload_notes(flow, packet, forward);
    note_window(flow, packet, forward);
    absorb(flow, packet, forward, state);
    (state, drip)
}

/// A SYN: the flow begins, or begins anew.
fn begin(flow: &mut Flow, packet: &Packet, forward: bool) -> State {
    let half = half_of(flow, forward);
    let again = half.packets > 0 && half.flags & tcp::SYN != 0 && half.isn == packet.seq;
    let alive = flow.is_established() && !flow.has(note::CLOSED);
    let silent = packet.time_ns.saturating_sub(flow.last_ns) > REUSE_NS;
    if alive && !again && !silent {
        return State::Stray;
    }
    let repeated = again && half.packets == 1;
    let mut kept = flow.notes & (note::PROPOSED | note::OURS | note::COMPLETED_BEFORE);
    if !repeated && flow.has(note::COMPLETE) {
        kept |= note::COMPLETED_BEFORE;
    }
    // A SYN in the direction of the first packet: the other direction's numbers are of the past.
    *flow = Flow {
        tag: flow.tag,
        first_ns: if repeated { flow.first_ns } else { packet.time_ns },
        last_ns: flow.last_ns,
        lower: flow.lower,
        port: flow.port,
        remote: flow.remote,
        notes: kept,
        ..Flow::default()
    };
    let half = half_mut(flow, forward);
    count(half, packet);
    (half.isn, half.next_seq) = (packet.seq, packet.seq.wrapping_add(1));
    if repeated {
        half.packets = 2;
    }
    if repeated { State::Same } else { State::First }
}

/// Compares a segment's numbers with those of its flow.
fn fit(flow: &Flow, packet: &Packet, forward: bool) -> State {
    let (own, other) = (half_of(flow, forward), half_of(flow, !forward));
    let acks = packet.flags & tcp::ACK != 0;
    if packet.flags & tcp::RST != 0 {
        let own_fits = own.packets > 0 && near(packet.seq, own.next_seq, SEQ_WINDOW);
        let other_fits = other.packets > 0
            && (acks && near(packet.ack, other.next_seq, ACK_WINDOW)
                || other.flags & tcp::ACK != 0 && near(packet.seq, other.ack, SEQ_WINDOW));
        return if own_fits || other_fits { State::Steady } else { State::Stray };
    }
    let seq_fits = if own.packets > 0 {
        near(packet.seq, own.next_seq, SEQ_WINDOW)
    } else {
        packet.flags & tcp::SYN != 0 || other.flags & tcp::ACK == 0 || near(packet.seq, other.ack, SEQ_WINDOW)
    };
    let ack_fits = if other.packets > 0 {
        acks && near(packet.ack, other.next_seq, ACK_WINDOW)
    } else if own.flags & tcp::ACK != 0 {
        acks && ahead(packet.ack, own.ack) > -SEQ_WINDOW && ahead(packet.ack, own.ack) < ACK_WINDOW
    } else {
        acks
    };
    if !seq_fits || !ack_fits {
        return State::Stray;
    }
    let moves = own.packets == 0
        || own.flags & tcp::ACK == 0
        || ahead(end_of(packet), own.next_seq) > 0
        || ahead(packet.ack, own.ack) > 0;
    if moves { State::Steady } else { State::Same }
}

/// Notes requests, handshakes and drips; returns whether it is a drip.
fn payload_notes(flow: &mut Flow, packet: &Packet, forward: bool) -> bool {
    let own_ack = half_of(flow, forward).ack;
    if matches!(packet.class, TrafficClass::HttpRequest | TrafficClass::TlsClientHello) {
        flow.notes = if forward { flow.notes & !note::BY_SECOND } else { flow.notes | note::BY_SECOND };
    } else if forward == flow.has(note::BY_SECOND) {
        // What comes back with payload is the answer.
        if packet.class == TrafficClass::TcpData && flow.has(note::REQUEST) {
            flow.notes |= note::ANSWERED;
        }
        return false;
    }
    match packet.class {
        TrafficClass::HttpRequest => {
            flow.requests = flow.requests.saturating_add(1);
            (flow.request_ns, flow.request_ack) = (packet.time_ns, packet.ack);
            flow.notes &= !(note::UNFINISHED | note::POST | note::ANSWERED);
            flow.notes |= note::REQUEST;
            (flow.drips, flow.late_drips) = (0, 0);
            if http::is_unfinished(packet) {
                flow.notes |= note::UNFINISHED;
            }
            if packet.head().starts_with(b"POST") {
                flow.notes |= note::POST;
            }
            false
        }
        TrafficClass::TlsClientHello => {
            flow.notes |= note::HELLO;
            flow.after_hello = 0;
            flow.request_ack = packet.ack;
            false
        }
        TrafficClass::TcpData if flow.has(note::REQUEST) => {
            // Once the answer was acknowledged, what follows belongs to something else.
            if ahead(packet.ack, flow.request_ack) > 0 {
                flow.notes |= note::ANSWERED;
                return false;
            }
            let drip = packet.payload <= DRIP_BYTES
                && ahead(packet.ack, own_ack) <= 0
                && (http::is_header_line(packet.head()) || flow.has(note::POST));
            if drip {
                flow.drips = flow.drips.saturating_add(1);
                let late = packet.time_ns.saturating_sub(flow.request_ns) >= LATE_NS;
                flow.late_drips = flow.late_drips.saturating_add(u16::from(late));
            }
            drip
        }
        TrafficClass::TcpData if flow.has(note::HELLO) => {
            flow.after_hello = flow.after_hello.saturating_add(1);
            false
        }
        TrafficClass::TcpAck | TrafficClass::TcpFin if flow.has(note::REQUEST) => {
            if ahead(packet.ack, flow.request_ack) > 0 {
                flow.notes |= note::ANSWERED;
            }
            false
        }
        _ => false,
    }
}

/// Notes whether who has asked takes the answer.
fn note_window(flow: &mut Flow, packet: &Packet, forward: bool) {
    if !flow.has(note::REQUEST | note::HELLO) || forward == flow.has(note::BY_SECOND) {
        return;
    }
    if packet.window == 0 && packet.flags & (tcp::ACK | tcp::RST) == tcp::ACK {
        flow.notes |= note::SHUT;
    } else {
        flow.notes &= !note::SHUT;
    }
}

/// Takes in the numbers of a segment that fits.
fn absorb(flow: &mut Flow, packet: &Packet, forward: bool, state: State) {
    let other = *half_of(flow, !forward);
    let half = half_mut(flow, forward);
    let first = half.packets == 0;
    let (opened, confirmed) = (half.flags & tcp::SYN != 0, half.flags & tcp::ACK != 0);
    count(half, packet);
    if state == State::Steady {
        half.steady = half.steady.saturating_add(1);
    }
    if packet.flags & tcp::SYN != 0 {
        half.isn = packet.seq;
    }
    if first || ahead(end_of(packet), half.next_seq) > 0 {
        half.next_seq = end_of(packet);
    }
    if packet.flags & tcp::ACK != 0 && (!confirmed || ahead(packet.ack, half.ack) > 0) {
        half.ack = packet.ack;
    }
    let reset = packet.flags & tcp::RST != 0;
    if opened && state == State::Steady && !reset && near(packet.seq, half.isn.wrapping_add(1), SEQ_WINDOW) {
        flow.notes |= note::COMPLETE;
        if other.flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
            && ahead(packet.ack, other.isn) > 0
            && near(packet.ack, other.next_seq, ACK_WINDOW)
        {
            flow.notes |= note::PROVEN;
        }
    }
    if packet.flags & (tcp::FIN | tcp::RST) != 0 {
        flow.notes |= note::CLOSED;
    }
}

/// Returns whether a flow has just proved what a forger cannot: an acknowledgement of what this
/// host sent, or, where that is not seen, a handshake and data that go on consistently.
pub(super) fn is_proof(flow: &Flow, packet: &Packet, sees_own: bool) -> bool {
    let [first, second] = &flow.halves;
    let age = packet.time_ns.saturating_sub(flow.first_ns);
    if packet.is_udp() {
        return flow.has(note::OUTBOUND) && first.packets.min(second.packets) >= 3 && age >= 1_000_000_000;
    }
    if !packet.is_tcp() {
        return false;
    }
    if sees_own {
        return flow.has(note::OUTBOUND) && flow.has(note::PROVEN) && first.data + second.data > 0;
    }
    flow.has(note::COMPLETE) && first.data.max(second.data) >= 2 && first.steady >= 3 && age >= 20_000_000
}

fn count(half: &mut Half, packet: &Packet) {
    half.packets = half.packets.saturating_add(1);
    half.payload = half.payload.saturating_add(u32::from(packet.payload));
    if packet.is_tcp() {
        half.flags |= packet.flags;
        if packet.payload > 0 {
            half.data = half.data.saturating_add(1);
        }
    }
}

fn half_of(flow: &Flow, forward: bool) -> &Half {
    let [first, second] = &flow.halves;
    if forward { first } else { second }
}

fn half_mut(flow: &mut Flow, forward: bool) -> &mut Half {
    let [first, second] = &mut flow.halves;
    if forward { first } else { second }
}

/// Returns the sequence number behind a segment (RFC 9293, 3.4: SYN and FIN count as one).
fn end_of(packet: &Packet) -> u32 {
    let flags = u32::from(packet.flags & tcp::SYN != 0) + u32::from(packet.flags & tcp::FIN != 0);
    packet.seq.wrapping_add(u32::from(packet.payload)).wrapping_add(flags)
}

/// Returns how far a number is ahead of another, in the arithmetic of sequence numbers.
fn ahead(number: u32, of: u32) -> i32 {
    number.wrapping_sub(of) as i32
}

fn near(number: u32, to: u32, window: i32) -> bool {
    ahead(number, to).unsigned_abs() <= window as u32
}

/// What the first bytes of HTTP/1 tell.
pub mod http {
    use super::Packet;

    /// Returns whether a segment holds a whole beginning of a request that does not end in it: the
    /// empty line is missing. Segments longer than what is kept are not judged.
    pub fn is_unfinished(packet: &Packet) -> bool {
        let head = packet.head();
        usize::from(packet.payload) == head.len()
            && !head.windows(4).any(|four| four == b"\r\n\r\n")
            && !head.windows(2).any(|two| two == b"\n\n")
    }

    /// Returns whether a request ends behind its first line: it has no header at all, not even the one that
    /// HTTP/1.1 asks for (RFC 9112, 3.2).
    pub fn is_bare(head: &[u8]) -> bool {
        let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return false };
        let behind = head.get(end + 1..).unwrap_or_default();
        behind.starts_with(b"\r\n") || behind.starts_with(b"\n")
    }

    /// Returns whether text looks like one header line and nothing else (RFC 9112, 5), or a part
    /// of one.
    pub fn is_header_line(text: &[u8]) -> bool {
        let Some(colon) = text.iter().position(|byte| *byte == b':') else { return false };
        let (name, value) = text.split_at(colon);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_!#$%&'*+.^`|~".contains(byte);
        let visible = |byte: &u8| (b' '..=b'~').contains(byte) || b"\t\r\n".contains(byte);
        !name.is_empty() && name.iter().all(token) && value.iter().all(visible) && !value.ends_with(b"\r\n\r\n")
    }

    /// Returns the target of a request as far as it is kept.
    pub fn target(head: &[u8]) -> Option<&[u8]> {
        let from = head.iter().position(|byte| *byte == b' ')? + 1;
        let rest = head.get(from..)?;
        let end = rest.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')).unwrap_or(rest.len());
        rest.get(..end)
    }
}
