//! Floods as common tools send them, from few addresses and over real connections, and ordinary load
//! that is like them.

use super::{
    Frames, World, judged,
    shapes::{connections, flood},
    sure,
};
use crate::decide::{
    Vector::{self, HttpFlood, RstFlood, SlowHttp, TcpConnectionFlood, UdpFlood},
    frames::{Dice, HOST, Segment, connection, member, tcp_between, udp},
    packet::tcp,
};

type Make = fn(&mut Dice, u64) -> Frames;

fn asked(dice: &mut Dice, bots: u64, port: u16, count: u64, request: &[u8], answer: usize) -> Frames {
    connections(count, |_| {
        let bot = member(dice.below(bots));
        connection(dice, bot, port, &[request.to_vec()], answer)
    })
}

/// Resets of one host from many of its ports to one, or from one to many.
fn resets(tick: u64, flags: u8) -> Frames {
    flood(|number| {
        let ports = ((tick * 400 + number) as u16, 443);
        tcp_between(member(1), HOST, &Segment { ports, flags, seq: number as u32 * 77_777, ack: 0, payload: &[] })
    })
}

/// Segments of connections that are open: in each the same text, over and over.
fn babble(tick: u64, conns: u64, count: u64, text: impl Fn(u64) -> Vec<u8>) -> Frames {
    let one = |number: u64| {
        let (conn, at) = (number % conns, tick * count.div_ceil(conns) + number / conns);
        let text = text(number);
        let segment = Segment {
            ports: (50_000 + conn as u16, 80),
            flags: tcp::PSH | tcp::ACK,
            seq: (at * text.len() as u64) as u32,
            ack: 9,
            payload: &text,
        };
        (true, tcp_between(member(conn % 5), HOST, &segment))
    };
    (0..count).map(one).collect()
}

#[test]
fn floods_of_common_tools_are_named() {
    let tools: [(&str, Vector, Make); 7] = [
        ("resets from one address", RstFlood, |_, tick| resets(tick, tcp::RST)),
        ("requests without a header", HttpFlood, |dice, _| asked(dice, 9, 80, 60, b"GET / HTTP/1.0\r\n\r\n\r\n", 900)),
        ("logins that are posted", HttpFlood, |dice, _| {
            asked(
                dice,
                50,
                80,
                60,
                b"POST /wp-login.php HTTP/1.1\r\nHost: example.com\r\nContent-Length: 9\r\n\r\n",
                500,
            )
        }),
        ("logins to a shell", TcpConnectionFlood, |dice, _| asked(dice, 3, 22, 60, b"SSH-2.0-libssh\r\n", 40)),
        ("players that join and join", TcpConnectionFlood, |dice, _| {
            asked(dice, 100, 25_565, 60, b"\x10\0\x2f\x09host", 30)
        }),
        ("one line over open connections", TcpConnectionFlood, |_, tick| {
            babble(tick, 20, 400, |_| b"A line that every one of them says again.".to_vec())
        }),
        ("what is no query, for port 53", UdpFlood, |dice, _| {
            flood(|_| {
                let port = dice.port();
                udp(dice.anyone(), (port, 53), &[b'X'; 400])
            })
        }),
    ];
    for (name, vector, make) in tools {
        let judgement = judged(make, true);
        let names: Vec<_> = sure(&judgement, 0.5).iter().map(|finding| finding.vector).collect();
        assert_eq!(names, [vector], "{name}: {judgement:?}");
    }
}

#[test]
fn what_is_like_them_is_ordinary() {
    let load: [(&str, Make); 6] = [
        ("refusals of what this host scans", |_, tick| resets(tick, tcp::RST | tcp::ACK)),
        ("one program that asks a web service", |dice, _| {
            asked(dice, 1, 80, 20, b"GET /status HTTP/1.1\r\nHost: example.com\r\n\r\n", 300)
        }),
        ("a service that each client calls once", |dice, tick| {
            connections(15, |number| connection(dice, member(tick * 15 + number), 5432, &[b"\0\0\0\x08".to_vec()], 30))
        }),
        ("telemetry over open connections", |dice, tick| {
            let readings: Vec<Vec<u8>> = (0..40).map(|_| dice.bytes(40)).collect();
            babble(tick, 20, 40, |number| readings[number as usize].clone())
        }),
        ("a form that many send, each of them once", |dice, tick| {
            let form = b"POST /signup HTTP/1.1\r\nHost: example.com\r\nContent-Length: 9\r\n\r\n";
            connections(60, |number| connection(dice, member(tick * 60 + number), 80, &[form.to_vec()], 500))
        }),
        ("commands of one length that begin alike", |_, tick| {
            let key = |number| format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{:012}\r\n", tick * 400 + number);
            babble(tick, 200, 400, |number| key(number).into_bytes())
        }),
    ];
    for (name, make) in load {
        for (trusted, bar) in [(true, 0.5), (false, 0.9)] {
            let judgement = judged(make, trusted);
            assert!(sure(&judgement, bar).is_empty(), "{name}, trusted {trusted}: {judgement:?}");
        }
    }
}

/// Clients of which `shut` do not read the answer: what they say is that they take nothing.
fn readers(all: u64, shut: u64) -> Vec<Vector> {
    let (mut world, mut dice) = (World::new(true), Dice(5));
    let mut begun = Frames::new();
    let mut later = Frames::new();
    for number in 0..all {
        let request = b"GET /film HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec();
        let mut packets = connection(&mut dice, member(number), 80, &[request], 900);
        packets.truncate(6);
        if let Some((_, last)) = packets.last_mut().filter(|_| number < shut) {
            // The window, 14 bytes into the TCP header.
            last[14 + 20 + 14..][..2].fill(0);
            later.push((true, last.clone()));
        }
        begun.extend(packets);
    }
    world.tick(&begun);
    for number in 0..60 {
        world.tick(&if number % 20 == 19 { later.clone() } else { Frames::new() });
    }
    world.analyst.standing(world.now_ns).findings.iter().map(|finding| finding.vector).collect()
}

#[test]
fn answers_that_nobody_reads_are_slow_and_players_that_pause_are_not() {
    assert_eq!(readers(80, 80), [SlowHttp]);
    assert_eq!(readers(80, 20), []);
    assert_eq!(readers(300, 60), []);
}
