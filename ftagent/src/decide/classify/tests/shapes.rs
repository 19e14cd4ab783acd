//! What attacks and ordinary load look like, a tick of a tenth of a second each.

use std::net::Ipv4Addr;

use super::Frames;
use crate::decide::{
    Vector::{self, *},
    frames::{Dice, HOST, Segment, connection, ip, ip_at, ip6, member, stray, tcp_between, udp, udp_bytes},
    packet::tcp,
};

/// Packets in a tick of a flood: four thousand a second.
const MANY: u64 = 400;

type Make = fn(&mut Dice, u64) -> Frames;

pub(super) fn flood(mut one: impl FnMut(u64) -> Vec<u8>) -> Frames {
    (0..MANY).map(|number| (true, one(number))).collect()
}

pub(super) fn connections(count: u64, one: impl FnMut(u64) -> Frames) -> Frames {
    (0..count).flat_map(one).collect()
}

fn reflected(dice: &mut Dice, port: u16, head: &[u8], length: usize) -> Frames {
    let mut payload = head.to_vec();
    payload.resize(length.max(head.len()), b'.');
    flood(|_| {
        let (source, dport) = (member(dice.below(600)), dice.port());
        udp(source, (port, dport), &payload)
    })
}

fn bare(dice: &mut Dice, flags: u8) -> Frames {
    flood(|_| stray(dice, 80, flags, &[]))
}

macro_rules! reflectors {
    ($($vector:ident $port:literal $head:literal $length:literal;)*) => {
        vec![$(($vector, (|dice, _| reflected(dice, $port, $head, $length)) as Make)),*]
    };
}

/// Every vector but those that are composed of others.
pub fn attacks() -> Vec<(Vector, Make)> {
    let mut all: Vec<(Vector, Make)> = vec![
        (SynFlood, |dice, _| bare(dice, tcp::SYN)),
        (SynAckFlood, |dice, _| {
            flood(|_| {
                let (port, number) = (dice.port(), dice.below(300));
                let segment = Segment {
                    ports: (443, port),
                    flags: tcp::SYN | tcp::ACK,
                    seq: dice.next() as u32,
                    ack: dice.next() as u32,
                    payload: &[],
                };
                tcp_between(member(number), HOST, &segment)
            })
        }),
        (AckFlood, |dice, _| bare(dice, tcp::ACK)),
        (PshAckFlood, |dice, _| {
            flood(|_| {
                let junk = dice.bytes(300);
                stray(dice, 80, tcp::PSH | tcp::ACK, &junk)
            })
        }),
        (RstFlood, |dice, _| bare(dice, tcp::RST)),
        (FinFlood, |dice, _| bare(dice, tcp::FIN | tcp::ACK)),
        (NullFlood, |dice, _| bare(dice, 0)),
        (XmasFlood, |dice, _| bare(dice, tcp::FIN | tcp::PSH | tcp::URG)),
        (TcpFlagFlood, |dice, _| bare(dice, tcp::SYN | tcp::FIN)),
        (TcpConnectionFlood, |dice, _| {
            connections(150, |_| {
                let bot = member(dice.below(800));
                connection(dice, bot, 443, &[], 0)
            })
        }),
        (TcpMiddleboxReflection, |dice, _| {
            flood(|_| {
                let (port, number) = (dice.port(), dice.below(300));
                let page = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n<html><title>Blocked";
                let segment = Segment {
                    ports: (80, port),
                    flags: tcp::PSH | tcp::ACK,
                    seq: dice.next() as u32,
                    ack: dice.next() as u32,
                    payload: page,
                };
                tcp_between(member(number), HOST, &segment)
            })
        }),
        (AmplificationUnknown, |dice, _| reflected(dice, 30120, b"infoResponse", 1200)),
        (DnsQueryFlood, |dice, _| {
            flood(|_| {
                let port = dice.port();
                udp(dice.anyone(), (port, 53), b"\x11\x22\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\xff\0\x01")
            })
        }),
        (DnsWaterTorture, |dice, _| {
            flood(|_| {
                let mut query = b"\x11\x22\x01\0\0\x01\0\0\0\0\0\0\x0a".to_vec();
                query.extend((0..10).map(|_| b'a' + dice.below(26) as u8));
                query.extend(b"\x04shop\x07example\0\0\x01\0\x01");
                udp(member(dice.below(300)), (dice.port(), 53), &query)
            })
        }),
        (QuicFlood, |dice, _| {
            flood(|_| {
                let mut initial = vec![0xc3, 0, 0, 0, 1, 8];
                initial.extend(dice.bytes(20));
                initial.resize(1200, 0);
                udp(dice.anyone(), (dice.port(), 443), &initial)
            })
        }),
        (SipFlood, |dice, _| {
            flood(|_| {
                let port = dice.port();
                udp(
                    member(dice.below(200)),
                    (port, 5060),
                    b"REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1\r\n\r\n",
                )
            })
        }),
        (GameQueryFlood, |dice, _| {
            flood(|_| {
                let port = dice.port();
                udp(dice.anyone(), (port, 27015), b"\xff\xff\xff\xffTSource Engine Query\0")
            })
        }),
        (VpnFlood, |dice, _| {
            flood(|_| {
                let mut reset = vec![0x38];
                reset.extend(dice.bytes(8));
                reset.extend([0; 5]);
                udp(dice.anyone(), (dice.port(), 1194), &reset)
            })
        }),
        (UdpFlood, |dice, _| {
            flood(|_| {
                let junk = dice.bytes(64);
                udp(dice.anyone(), (dice.port(), dice.port() | 0xc000), &junk)
            })
        }),
        (FragmentFlood, |dice, _| {
            flood(|number| {
                let id = (number as u16).to_be_bytes();
                ip_at(dice.anyone(), HOST, 17, [id[0], id[1], 0x20, 0xaf], &[0; 1200])
            })
        }),
        (IcmpFlood, |_, _| flood(|_| ip(member(1), 1, &[8, 0, 0, 0, 0, 1, 0, 1]))),
        (IcmpUnreachableFlood, |dice, _| {
            flood(|_| ip(member(dice.below(8)), 1, &[3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 28]))
        }),
        (Smurf, |dice, _| flood(|_| ip(member(dice.below(200)), 1, &[0, 0, 0, 0, 0, 1, 0, 1]))),
        (GreFlood, |dice, _| {
            flood(|_| {
                let mut inside = vec![0, 0, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0];
                inside.extend(dice.bytes(32));
                ip(dice.anyone(), 47, &inside)
            })
        }),
        (EspFlood, |dice, _| {
            flood(|_| {
                let inside = dice.bytes(64);
                ip(dice.anyone(), 50, &inside)
            })
        }),
        (IpipFlood, |dice, _| {
            flood(|_| {
                let mut inside = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0];
                inside.extend(dice.bytes(28));
                ip(dice.anyone(), 4, &inside)
            })
        }),
        (ProtocolFlood, |dice, _| {
            flood(|_| {
                let inside = dice.bytes(40);
                ip6(u128::from(dice.next()) | 0x2001_0db9 << 96, 51, &inside)
            })
        }),
        (MalformedFlood, |dice, _| {
            flood(|_| {
                let mut frame = stray(dice, 80, tcp::ACK, &[]);
                frame[46] = 0x20;
                frame
            })
        }),
        (HttpFlood, |dice, _| {
            connections(60, |_| {
                let bot = member(dice.below(50));
                let request = format!(
                    "GET /?{:08x}={:08x} HTTP/1.1\r\nHost: example.com\r\n\r\n",
                    dice.next() as u32,
                    dice.next() as u32
                );
                connection(dice, bot, 80, &[request.into_bytes()], 500)
            })
        }),
        (TlsFlood, |dice, _| {
            connections(60, |_| {
                let bot = member(dice.below(500));
                let mut hello = vec![22, 3, 1, 1, 0xfc, 1, 0, 1, 0xf8, 3, 3];
                hello.resize(517, 7);
                let mut packets = connection(dice, bot, 443, &[hello], 1400);
                packets.truncate(6);
                packets
            })
        }),
        (SlowHttp, |dice, _| {
            connections(40, |number| {
                let pieces = [b"GET / HTTP/1.1\r\n".to_vec(), b"X-a: 1\r\n".to_vec(), b"X-b: 2\r\n".to_vec()];
                connection(dice, member(number), 80, &pieces, 0)
            })
        }),
    ];
    all.extend(reflectors! {
        ChargenAmplification 19 b" !\"#$%&'()*+,-./0123" 1024;
        QotdAmplification 17 b"\"We want a few mad people now.\"" 200;
        DnsAmplification 53 b"\0\x01\x81\x80\0\x01\0\x20\0\0\0\0" 1400;
        TftpAmplification 69 b"\0\x03\0\x01" 516;
        PortmapAmplification 111 b"\x65\x72\x0a\x37\0\0\0\x01" 480;
        NtpAmplification 123 b"\xd7\0\x03\x2a\0\x06\0\x48" 440;
        NetbiosAmplification 137 b"\xe5\xd8\x84\0\0\0\0\x01" 229;
        SnmpAmplification 161 b"\x30\x82\x04\xf4\x02\x01\x01" 1200;
        CldapAmplification 389 b"\x30\x84\0\0\x0b\x6a" 1400;
        SlpAmplification 427 b"\x02\x0a\0\x05\x78" 900;
        IsakmpAmplification 500 b"\x11\x22\x33\x44\x55\x66\x77\x88" 204;
        RipAmplification 520 b"\x02\x01\0\0\0\x02\0\0" 504;
        IpmiAmplification 623 b"\x06\0\xff\x07" 72;
        OpenvpnAmplification 1194 b"\x40" 54;
        MssqlAmplification 1434 b"\x05\x58\x01ServerName;" 400;
        L2tpAmplification 1701 b"\xc8\x02" 130;
        SsdpAmplification 1900 b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\n" 320;
        PlexAmplification 32414 b"HTTP/1.0 200 OK\r\n" 300;
        ArdAmplification 3283 b"\0\x01\x03\xea\x31" 1006;
        StunAmplification 3478 b"\x01\x01\0\x58\x21\x12\xa4\x42" 108;
        WsdAmplification 3702 b"<?xml version=\"1.0\"" 1200;
        SipAmplification 5060 b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP " 500;
        MdnsAmplification 5353 b"\0\0\x84\0\0\0\0\x09" 500;
        CoapAmplification 5683 b"\x54\x45\x37\x10" 600;
        BittorrentAmplification 6881 b"d1:rd2:id20:" 400;
        UbiquitiAmplification 10001 b"\x01\0\0\x93" 180;
        MitelAmplification 10074 b"\0\0\0\0call.startblast" 100;
        MemcachedAmplification 11211 b"\0\0\0\0\0\x01\0\0VALUE a 0 1048576\r\n" 1400;
        QuakeAmplification 27960 b"\xff\xff\xff\xffstatusResponse\n" 900;
        SteamAmplification 27015 b"\xff\xff\xff\xffI\x11" 200;
        JenkinsAmplification 33848 b"<hudson><version>" 240;
        DvrAmplification 37810 b"\xc1\0\0\0" 700;
        BacnetAmplification 47808 b"\x81\x0a\0\x4a" 100;
        QuicAmplification 443 b"\xc3\0\0\0\x01" 1200;
    });
    all
}

/// Junk over a /24.
pub fn carpet(dice: &mut Dice, _: u64) -> Frames {
    flood(|_| {
        let dst = Ipv4Addr::new(198, 51, 100, dice.next() as u8);
        let junk = udp_bytes((dice.port(), dice.port() | 0xc000), &dice.bytes(64));
        ip_at(dice.anyone(), dst, 17, [0; 4], &junk)
    })
}

/// A client that begins a request and sends a line of it every two seconds and a half; by ticks.
pub fn slow_client(dice: &mut Dice, number: u64) -> Vec<Frames> {
    let mut pieces = vec![b"GET / HTTP/1.1\r\n".to_vec()];
    pieces.extend((0..3).map(|_| b"X-a: 1\r\n".to_vec()));
    let packets = connection(dice, member(number), 80, &pieces, 0);
    let mut ticks = vec![packets[..4].to_vec()];
    for line in &packets[4..] {
        ticks.extend((0..24).map(|_| Frames::new()));
        ticks.push(vec![line.clone()]);
    }
    ticks
}

/// Ordinary load that looks like an attack to whoever only counts.
pub fn ordinary() -> Vec<(&'static str, Make)> {
    vec![
        ("a crowd", |dice, _| {
            connections(60, |_| {
                let client = dice.anyone();
                let paths = ["/", "/style.css", "/app.js", "/img/map.png", "/news"];
                let requests: Vec<_> = (0..3)
                    .map(|_| {
                        format!(
                            "GET {} HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
                            paths[dice.below(5) as usize]
                        )
                        .into_bytes()
                    })
                    .collect();
                connection(dice, client, 80, &requests, 900)
            })
        }),
        ("one client, many connections", |dice, _| {
            connections(20, |_| {
                connection(dice, member(1), 80, &[b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec()], 300)
            })
        }),
        ("an upload", |_, tick| {
            (0..300u64)
                .map(|number| {
                    let seq = ((tick * 300 + number) * 1400) as u32;
                    (
                        true,
                        tcp_between(
                            member(1),
                            HOST,
                            &Segment { ports: (40_000, 873), flags: tcp::ACK, seq, ack: 77, payload: &[5; 1400] },
                        ),
                    )
                })
                .collect()
        }),
        ("acknowledgements of downloads", |_, tick| {
            (0..300u64)
                .map(|number| {
                    let ack = ((tick * 300 + number) * 2800) as u32;
                    (
                        true,
                        tcp_between(
                            member(number % 5),
                            HOST,
                            &Segment { ports: (40_000, 443), flags: tcp::ACK, seq: 99, ack, payload: &[] },
                        ),
                    )
                })
                .collect()
        }),
        ("a scan of ports", |_, tick| {
            (0..100u64)
                .map(|number| {
                    let dport = (tick * 100 + number + 1) as u16;
                    (
                        true,
                        tcp_between(
                            member(1),
                            HOST,
                            &Segment { ports: (61_477, dport), flags: tcp::SYN, seq: 7, ack: 0, payload: &[] },
                        ),
                    )
                })
                .collect()
        }),
        ("a scan of ports among clients", |dice, tick| {
            let mut frames = connections(6, |number| {
                let request = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec();
                connection(dice, member(100 + number), 80, &[request], 300)
            });
            frames.extend((0..40u64).map(|number| {
                let segment = Segment {
                    ports: (61_477, (tick * 40 + number + 1) as u16),
                    flags: tcp::SYN,
                    seq: 7,
                    ack: 0,
                    payload: &[],
                };
                (true, tcp_between(member(1), HOST, &segment))
            }));
            frames
        }),
        ("a walk over SNMP", |dice, _| {
            flood(|number| {
                let value = dice.below(40) as usize;
                udp(member(number % 40), (161, 45_161), &[&[0x30, 0x82, 0, 0x60][..], &vec![b'v'; 60 + value]].concat())
            })
        }),
        ("answers of two resolvers", |dice, _| {
            flood(|number| {
                let length = 60 + dice.below(200) as usize;
                udp(member(number % 2), (53, dice.port()), &[&b"\0\x01\x81\x80"[..], &dice.bytes(length)].concat())
            })
        }),
        ("calls", |dice, tick| {
            (0..200u64)
                .flat_map(|number| {
                    let (peer, count) = (number % 8, (tick * 25 + number / 8) as u16);
                    let voice = [&[0x80, 0][..], &count.to_be_bytes(), &dice.bytes(156)].concat();
                    let back =
                        ip_at(HOST, member(peer), 17, [0; 4], &udp_bytes((20_000, 30_000 + peer as u16), &voice));
                    [(true, udp(member(peer), (30_000 + peer as u16, 20_000), &voice)), (false, back)]
                })
                .collect()
        }),
        ("market data to groups", |dice, _| {
            flood(|number| {
                let dst = Ipv4Addr::new(233, 54, 12, (number % 4) as u8 + 1);
                ip_at(member(1), dst, 17, [0; 4], &udp_bytes((30_500, 30_501), &dice.bytes(300)))
            })
        }),
        ("a file server's datagrams in fragments", |_, tick| {
            (0..60u16)
                .flat_map(|number| {
                    let id = (tick as u16 * 60 + number).to_be_bytes();
                    let first = ip_at(
                        member(5),
                        HOST,
                        17,
                        [id[0], id[1], 0x20, 0],
                        &[&udp_bytes((2049, 801), &[]), &[1; 1472][..]].concat(),
                    );
                    let middle = ip_at(member(5), HOST, 17, [id[0], id[1], 0x20, 185], &[1; 1480]);
                    let last = ip_at(member(5), HOST, 17, [id[0], id[1], 1, 114], &[1; 700]);
                    [(true, first), (true, middle), (true, last)]
                })
                .collect()
        }),
        ("a tunnel", |dice, _| {
            (0..MANY)
                .map(|number| {
                    let ends = [10, 20, 0, number as u8, 10, 30, 0, 9];
                    let inside =
                        [&[0, 0, 8, 0, 0x45, 0, 2, 0, 0, 0, 0, 0, 64, 6, 0, 0], &ends[..], &dice.bytes(400)].concat();
                    let inbound = number % 3 > 0;
                    let (from, to) = if inbound { (member(1), HOST) } else { (HOST, member(1)) };
                    (inbound, ip_at(from, to, 47, [0; 4], &inside))
                })
                .collect()
        }),
    ]
}
