//! Ordinary traffic of two kinds of node, a tick of a tenth of a second each.

use std::net::Ipv4Addr;

use crate::decide::{
    frames::{Dice, HOST, Segment, connection, ip_at, member, tcp_between, udp, udp_bytes},
    packet::tcp,
};

pub type Frames = Vec<(bool, Vec<u8>)>;
pub type Background = fn(&mut Dice, u64) -> Frames;

/// How a client's packets look: hop count by where it is, options by its stack.
fn dressed(client: u64, (inbound, mut frame): (bool, Vec<u8>)) -> (bool, Vec<u8>) {
    if !inbound {
        return (inbound, frame);
    }
    let start = if client.is_multiple_of(3) { 128 } else { 64 };
    frame[22] = start - 5 - (crate::decide::table::mix(client) % 18) as u8;
    frame[20] = 0x40;
    if frame[23] == 6 {
        let syn = frame[47] & tcp::SYN != 0;
        let options: &[u8] = match (syn, client.is_multiple_of(3)) {
            (true, false) => &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7],
            (true, true) => &[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2],
            (false, false) => &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            (false, true) => &[],
        };
        let at = 54;
        frame.splice(at..at, options.iter().copied());
        let length = u16::from_be_bytes([frame[16], frame[17]]) + options.len() as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[46] += (options.len() as u8 / 4) << 4;
    }
    (inbound, frame)
}

/// A tick's share of pages: connections with requests of many kinds.
fn pages(dice: &mut Dice, count: u64) -> Frames {
    let paths = ["/", "/style.css", "/app.js", "/img/map.png", "/news", "/api/v1/items?page=2"];
    let mut frames = Frames::new();
    for _ in 0..count {
        let client = dice.below(4000);
        let secure = dice.below(2) == 0;
        let requests: Vec<Vec<u8>> = (0..1 + dice.below(4))
            .map(|number| match (secure, number) {
                (true, 0) => {
                    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
                    let length = 330 + dice.below(400) as usize;
                    hello.extend(dice.bytes(length));
                    hello
                }
                (true, _) => {
                    let length = 40 + dice.below(900) as usize;
                    [&[23, 3, 3, 0][..], &dice.bytes(length)].concat()
                }
                (false, _) => {
                    let path = paths[dice.below(6) as usize];
                    let agent = "Mozilla/5.0 ".repeat(1 + dice.below(4) as usize);
                    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\nUser-Agent: {agent}\r\n\r\n").into_bytes()
                }
            })
            .collect();
        let port = if secure { 443 } else { 80 };
        let packets = connection(dice, member(10_000 + client), port, &requests, 700);
        frames.extend(packets.into_iter().map(|frame| dressed(client, frame)));
    }
    frames
}

/// Answers to this host's own questions.
fn answers(dice: &mut Dice, tick: u64) -> Frames {
    let port = 40_000 + (tick % 20_000) as u16;
    let resolver = Ipv4Addr::new(9, 9, 9, 9);
    let question = ip_at(HOST, resolver, 17, [0; 4], &udp_bytes((port, 53), &[7; 30]));
    let length = 50 + dice.below(300) as usize;
    let answer = udp(resolver, (53, port), &[&b"\x11\x22\x81\x80\0\x01"[..], &dice.bytes(length)].concat());
    vec![(false, question), (true, answer)]
}

/// A web server, with a few conversations that go on all the time.
pub fn web(dice: &mut Dice, tick: u64) -> Frames {
    let mut frames = pages(dice, 8);
    frames.extend(answers(dice, tick));
    frames
}

/// A game server: a hundred players over UDP, who come and go, and a web page.
pub fn game(dice: &mut Dice, tick: u64) -> Frames {
    let mut frames = pages(dice, 2);
    frames.extend(answers(dice, tick));
    for slot in 0..100u64 {
        // A player stays for a minute.
        let player = slot + 1000 * ((tick + slot * 6) / 600);
        let port = 20_000 + (crate::decide::table::mix(player) % 40_000) as u16;
        let length = 20 + dice.below(60) as usize;
        let said = [&tick.to_le_bytes()[..4], &dice.bytes(length)].concat();
        let frame = udp(member(50_000 + player), (port, 27_016), &said);
        frames.push(dressed(player, (true, frame)));
        let back = ip_at(HOST, member(50_000 + player), 17, [0; 4], &udp_bytes((27_016, port), &dice.bytes(120)));
        frames.push((false, back));
    }
    frames
}

/// A conversation of [`busy`].
pub const LIVE: (Ipv4Addr, u16) = (Ipv4Addr::new(60, 1, 1, 0), 20_000);

/// A server of three hundred conversations that go on all the time, a hundred of them from one /8, and
/// web pages.
pub fn busy(dice: &mut Dice, tick: u64) -> Frames {
    let mut frames = pages(dice, 2);
    for client in 0..300u64 {
        let src = Ipv4Addr::new(if client < 100 { 60 } else { 61 + (client % 90) as u8 }, 1, 1, client as u8);
        let (seq, ack) = (7000 + tick as u32 * 100, 9000 + tick as u32 * 200);
        let ports = (20_000 + client as u16, 443);
        let flags = tcp::PSH | tcp::ACK;
        let said = Segment { ports, flags, seq, ack, payload: &dice.bytes(100) };
        frames.push(dressed(client, (true, tcp_between(src, HOST, &said))));
        let ports = (443, ports.0);
        let back = Segment { ports, flags, seq: ack, ack: seq.wrapping_add(100), payload: &[1; 200] };
        frames.push((false, tcp_between(HOST, src, &back)));
    }
    frames
}
