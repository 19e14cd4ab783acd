use super::*;
use crate::decide::{
    frames::{Dice, HOST, Segment, connection, decoded, member, tcp_between, udp},
    packet::tcp,
};

const MILLISECOND: u64 = 1_000_000;

/// Notes packets, a millisecond apart; returns the states of the inbound ones and the proven blocks.
fn states(flows: &mut Flows, packets: &[(bool, Vec<u8>)], sees_own: bool) -> (Vec<State>, Vec<u64>) {
    let (mut states, mut proven) = (Vec::new(), Vec::new());
    for (number, (inbound, frame)) in packets.iter().enumerate() {
        let packet = decoded((number as u64 + 1) * 20 * MILLISECOND, frame);
        let (mark, block) = flows.note(&packet, !inbound, sees_own);
        proven.extend(block);
        if *inbound {
            states.push(mark.state);
        }
    }
    (states, proven)
}

#[test]
fn a_connection_goes_on_and_proves_its_source() {
    let request = vec![b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec(); 2];
    let packets = connection(&mut Dice(1), member(1), 80, &request, 700);
    let block = block_of(member(1).into());
    let (states_seen, proven) = states(&mut Flows::new(1), &packets, true);
    assert_eq!(states_seen[0], State::First);
    assert!(states_seen[1..].iter().all(|state| *state == State::Steady), "{states_seen:?}");
    assert_eq!(proven, [block]);
    let inbound: Vec<_> = packets.into_iter().filter(|(inbound, _)| *inbound).collect();
    let (_, proven) = states(&mut Flows::new(1), &inbound, false);
    assert_eq!(proven, [block], "consistent segments prove it where this host's are not seen");
    let (_, proven) = states(&mut Flows::new(1), &inbound, true);
    assert_eq!(proven, [0u64; 0], "where this host's own packets are seen, they must be part of it");
}

#[test]
fn what_can_be_forged_proves_nothing() {
    let mut dice = Dice(2);
    let segment = |dice: &mut Dice, flags, payload| Segment {
        ports: (4000, 80),
        flags,
        seq: dice.next() as u32,
        ack: dice.next() as u32,
        payload,
    };
    let mut packets = Vec::new();
    for number in 0..200 {
        for flags in [tcp::SYN, tcp::ACK, tcp::PSH | tcp::ACK] {
            let payload: &[u8] = if flags & tcp::PSH != 0 { b"data" } else { &[] };
            let segment = segment(&mut dice, flags, payload);
            packets.push((true, tcp_between(member(number), HOST, &segment)));
        }
        packets.push((true, udp(member(number), (53, 5353), b"one packet")));
    }
    for sees_own in [true, false] {
        let (_, proven) = states(&mut Flows::new(1), &packets, sees_own);
        assert_eq!(proven, [0u64; 0], "sees its own: {sees_own}");
    }
}

#[test]
fn half_open_flows_never_push_out_established_ones() {
    let mut flows = Flows::new(9);
    let request = [b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec()];
    let mut dice = Dice(3);
    let kept: Vec<_> = (0..500).map(|number| connection(&mut dice, member(number), 80, &request, 100)).collect();
    for packets in &kept {
        // Without the end: the connection stays open.
        states(&mut flows, &packets[..6], true);
    }
    for _ in 0..200_000 {
        let syn = Segment { ports: (dice.port(), 80), flags: tcp::SYN, seq: 1, ack: 0, payload: &[] };
        flows.note(&decoded(200 * MILLISECOND, &tcp_between(dice.anyone(), HOST, &syn)), false, true);
    }
    let held = flows.iter().filter(|flow| flow.has(note::PROVEN)).count();
    assert!(held >= 495, "{held} of 500 are left");
    assert!(flows.iter().count() <= WAYS * BUCKETS);
}

#[test]
fn segments_are_told_by_their_numbers() {
    let begin = Segment { ports: (4000, 80), flags: tcp::ACK, seq: 1000, ack: 5000, payload: &[] };
    let rows: [(&str, Segment<'_>, State); 6] = [
        ("the same again", begin, State::Same),
        ("more is acknowledged", Segment { ack: 9000, ..begin }, State::Steady),
        ("data follows", Segment { payload: b"abc", ..begin }, State::Steady),
        ("a gap of what was not sampled", Segment { seq: 300_000, payload: b"abc", ..begin }, State::Steady),
        ("any number", Segment { seq: 0x8000_0000, ..begin }, State::Stray),
        ("an acknowledgement out of nowhere", Segment { ack: 0x9000_0000, ..begin }, State::Stray),
    ];
    for (name, then, expected) in rows {
        let mut flows = Flows::new(1);
        let packets = [begin, then].map(|segment| (true, tcp_between(member(1), HOST, &segment)));
        assert_eq!(states(&mut flows, &packets, true).0, [State::First, expected], "{name}");
    }
}

#[test]
fn lines_of_a_header_are_told_from_other_data() {
    let rows: [(&[u8], bool); 8] = [
        (b"X-a: 1234\r\n", true),
        (b"Keep-Alive: 9\r\n", true),
        (b"X-b:", true),
        (b"X-a: 1\r\n\r\n", false),
        (b"GET / HTTP/1.1\r\n", false),
        (b"\x81\x05hello", false),
        (b"PING :server", false),
        (b"", false),
    ];
    for (text, expected) in rows {
        assert_eq!(http::is_header_line(text), expected, "{}", text.escape_ascii());
    }
}
