//! Attacks that the shapes of classification do not have.

use std::net::Ipv4Addr;

use super::backgrounds::Frames;
use crate::decide::{
    frames::{Dice, HOST, Segment, ip_at, member, tcp_between, udp, udp_bytes},
    packet::tcp,
};

const MANY: u64 = 400;

fn flood(mut one: impl FnMut(u64) -> Vec<u8>) -> Frames {
    (0..MANY).map(|number| (true, one(number))).collect()
}

/// TTLs as of many hosts.
fn scattered(dice: &mut Dice, mut frame: Vec<u8>) -> Vec<u8> {
    frame[22] = 40 + dice.below(90) as u8;
    frame
}

/// Everything about it is random, and it goes where ordinary packets of players go.
pub fn random_udp(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let length = 18 + dice.below(80) as usize;
        let junk = dice.bytes(length);
        let frame = udp(dice.anyone(), (dice.port(), 27_016), &junk);
        scattered(dice, frame)
    })
}

/// Data segments as clients send them, but of no connection.
pub fn random_ack(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let length = 40 + dice.below(900) as usize;
        let payload = [&[23, 3, 3, 0][..], &dice.bytes(length)].concat();
        let ports = (dice.port(), 443);
        let (seq, ack) = (dice.next() as u32, dice.next() as u32);
        let segment = Segment { ports, flags: tcp::PSH | tcp::ACK, seq, ack, payload: &payload };
        let frame = tcp_between(dice.anyone(), HOST, &segment);
        scattered(dice, frame)
    })
}

/// SYNs with the options of real stacks.
pub fn random_syn(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        let port = if dice.below(2) == 0 { 80 } else { 443 };
        let segment =
            Segment { ports: (dice.port(), port), flags: tcp::SYN, seq: dice.next() as u32, ack: 0, payload: &options };
        let mut frame = tcp_between(dice.anyone(), HOST, &segment);
        frame[46] = 10 << 4;
        frame[22] = 42 + dice.below(18) as u8;
        frame[20] = 0x40;
        frame
    })
}

/// One payload to one port from forged sources: what an attacker may have sent before, slowly.
pub fn signature(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| signed(dice))
}

pub fn signed(dice: &mut Dice) -> Vec<u8> {
    let frame = udp(dice.anyone(), (dice.port(), 27_016), b"\x13\x37attack-of-the-day");
    let mut frame = frame;
    frame[22] = 244;
    frame
}

/// A flood that forges the address of a player.
pub fn as_a_player(dice: &mut Dice, tick: u64) -> Frames {
    let player = member(50_000 + 1000 * (tick / 600));
    flood(|_| udp(player, (dice.port(), 27_016), &[&b"\x77\x66\x55\x44"[..], &[9; 300]].concat()))
}

/// Junk at ports that nobody listens on, from one net.
pub fn from_one_net(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let source = Ipv4Addr::new(203, 0, 113, dice.next() as u8);
        let length = 18 + dice.below(80) as usize;
        let junk = dice.bytes(length);
        let frame = udp(source, (dice.port(), 27_016), &junk);
        scattered(dice, frame)
    })
}

/// Several reflectors at once.
pub fn mixed_reflectors(dice: &mut Dice, _: u64) -> Frames {
    flood(|number| {
        let (port, length) = [(123, 440), (389, 1400), (1900, 320), (11_211, 1300)][number as usize % 4];
        let (source, dport) = (member(dice.below(600)), dice.port());
        udp(source, (port, dport), &vec![b'.'; length])
    })
}

/// Answers of a resolver that nobody asked: the first piece and the rest.
pub fn fragmented_answers(dice: &mut Dice, tick: u64) -> Frames {
    (0..MANY / 2)
        .flat_map(|number| {
            let id = ((tick * 1000 + number) as u16).to_be_bytes();
            let source = member(dice.below(60));
            let first = [&udp_bytes((53, dice.port()), &[]), &[1; 1464][..]].concat();
            let rest = 100 + dice.below(1300) as usize;
            [
                (true, ip_at(source, HOST, 17, [id[0], id[1], 0x20, 0], &first)),
                (true, ip_at(source, HOST, 17, [id[0], id[1], 0, 0xb9], &vec![2; rest])),
            ]
        })
        .collect()
}

/// Segments of one shape, all on the tuple of one conversation that is there.
pub fn on_a_live_tuple(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let (src, sport) = super::backgrounds::LIVE;
        let (seq, ack) = (dice.next() as u32, dice.next() as u32);
        let segment = Segment { ports: (sport, 443), flags: tcp::PSH | tcp::ACK, seq, ack, payload: &[5; 100] };
        let mut frame = tcp_between(src, HOST, &segment);
        frame[22] = 99;
        frame
    })
}
