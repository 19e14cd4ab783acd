//! UDP: what reflectors answer, what services are asked, and junk.

use anyhow::Result;

use super::{
    Recipe,
    maker::{Maker, PACKETS, Packet, udp},
    recipe,
};
use crate::traffic::{Fragment, L4};

pub(super) const RECIPES: &[Recipe] = &[
    recipe("unlisted_reflector", unlisted),
    recipe("ntp_1400", ntp_1400),
    recipe("udp_random", random),
    recipe("udp6_flood", random6),
    recipe("udp_closed_port", closed_port),
    recipe("fragments_udp", fragments),
    recipe("dns_query_flood", dns_queries),
    recipe("dns_water_torture", water_torture),
    recipe("quic_flood", quic),
    recipe("sip_flood", sip),
    recipe("game_query_flood", game),
    recipe("vpn_flood", vpn),
];

/// A protocol that answers more than it is asked.
pub(super) struct Reflector {
    pub name: &'static str,
    /// Where it answers from.
    port: u16,
    /// How its answers begin.
    head: &'static [u8],
    /// Bytes of payload, from and to.
    length: (usize, usize),
}

const fn reflector(name: &'static str, port: u16, head: &'static [u8], length: (usize, usize)) -> Reflector {
    Reflector { name, port, head, length }
}

/// One for each class that no capture shows. Heads and lengths are those of the protocols' answers.
pub(super) static REFLECTORS: &[Reflector] = &[
    reflector(
        "chargen",
        19,
        b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n",
        (1024, 1024),
    ),
    reflector("qotd", 17, b"\"We want a few mad people now.\" George Bernard Shaw\r\n", (140, 420)),
    // Data, block 1 (RFC 1350).
    reflector("tftp", 69, &[0, 3, 0, 1], (516, 516)),
    // RPC reply, accepted (RFC 5531), with the list of programs.
    reflector("portmap", 111, &[0x65, 0x72, 0x0a, 0x37, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], (400, 980)),
    // Private mode, response, monlist: six items of 72 bytes.
    reflector("ntp", 123, &[0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48], (440, 440)),
    // Node status response (RFC 1002, section 4.2.18).
    reflector("netbios", 137, &[0xe5, 0xd8, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x20, 0x43, 0x4b], (193, 301)),
    // Search result entry (RFC 4511).
    reflector("cldap", 389, &[0x30, 0x84, 0, 0, 0x0b, 0x6a, 2, 1, 1, 0x64, 0x84], (1250, 1460)),
    // Service type reply, version 2 (RFC 2608).
    reflector("slp", 427, &[2, 10, 0, 5, 0x78, 0, 0, 0, 0, 0, 0, 1], (600, 1400)),
    // Response, version 1, entries of 20 bytes (RFC 1058).
    reflector("rip", 520, &[2, 1, 0, 0, 0, 2, 0, 0], (504, 504)),
    // RMCP pong (ASF 2.0).
    reflector("ipmi", 623, &[6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0], (28, 72)),
    // Hard reset of the server, retransmitted.
    reflector("openvpn", 1194, &[0x40], (26, 54)),
    // SVR_RESP of the resolution service.
    reflector("mssql", 1434, b"\x05\x58\x01ServerName;", (180, 620)),
    // Start-control-connection-reply (RFC 2661).
    reflector("l2tp", 1701, &[0xc8, 2], (100, 160)),
    reflector("plex", 32414, b"HTTP/1.0 200 OK\r\nContent-Type: plex/media-server\r\n", (260, 380)),
    reflector("ard", 3283, &[0, 1, 3, 0xea, 0x31], (1006, 1006)),
    // Binding response with the magic cookie (RFC 8489).
    reflector("stun", 3478, &[1, 1, 0, 0x58, 0x21, 0x12, 0xa4, 0x42], (88, 108)),
    reflector("wsd", 3702, b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><SOAP-ENV:Envelope xmlns:SOAP", (900, 1420)),
    reflector("sip", 5060, b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP ", (380, 720)),
    // Authoritative answer (RFC 6762).
    reflector("mdns", 5353, &[0, 0, 0x84, 0, 0, 0, 0, 9], (220, 700)),
    // Non-confirmable, 2.05 Content (RFC 7252).
    reflector("coap", 5683, &[0x54, 0x45, 0x37, 0x10], (340, 1080)),
    reflector("bittorrent", 6881, b"d1:rd2:id20:", (280, 460)),
    reflector("ubiquiti", 10001, &[1, 0, 0, 0x93, 2, 0, 10], (148, 210)),
    reflector("mitel", 10074, b"\0\0\0\0call.startblast: counter ", (64, 130)),
    reflector("memcached", 11211, b"\0\0\0\0\0\x01\0\0VALUE a 0 1048576\r\n", (1400, 1400)),
    reflector("quake", 27960, b"\xff\xff\xff\xffstatusResponse\n\\", (600, 1300)),
    reflector("steam", 27015, b"\xff\xff\xff\xffI\x11", (110, 260)),
    reflector("jenkins", 33848, b"<hudson><version>2.204.1</version><url>", (200, 290)),
    reflector("dvr", 37810, b"\xc1\0\0\0\0\0\0\0{\"method\":\"client.notifyDevInfo\"", (520, 820)),
    // Original unicast NPDU with a complex acknowledgement (ASHRAE 135, annex J).
    reflector("bacnet", 47808, &[0x81, 0x0a, 0, 0x4a, 1, 0, 0x30], (60, 140)),
    // Initial of a server, version 1 (RFC 9000).
    reflector("quic", 443, &[0xc3, 0, 0, 0, 1], (1200, 1252)),
];

/// Answers of some thousand reflectors: one port, many sources, hops that fit the source.
pub(super) fn reflected(maker: &mut Maker, reflector: &Reflector) -> Result<()> {
    let hosts: Vec<_> = maker
        .peers(2500)
        .into_iter()
        .map(|peer| (peer, maker.length(reflector.length.0, reflector.length.1)))
        .collect();
    for _ in 0..PACKETS {
        let ((from, length), dport) = (maker.pick(&hosts), maker.between(1024, 65535));
        let payload = maker.filled(reflector.head, length);
        maker.receive(from, Packet::new(udp(reflector.port, dport), payload))?;
    }
    Ok(())
}

fn unlisted(maker: &mut Maker) -> Result<()> {
    reflected(maker, &reflector("fivem", 30120, b"\xff\xff\xff\xffinfoResponse\n\\sv_maxclients\\48", (1200, 1200)))
}

fn ntp_1400(maker: &mut Maker) -> Result<()> {
    reflected(maker, &reflector("ntp", 123, &[0xd7, 0, 3, 0x2a, 0, 19, 0, 0x48], (1358, 1358)))
}

fn random(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        // Between the services' and the reflectors' ports nobody listens and nobody reflects.
        let (from, ports, length) =
            (maker.peer(), (maker.between(49152, 65535), maker.between(49152, 65535)), maker.length(1, 1400));
        let payload = maker.noise(length);
        maker.receive(from, Packet::new(udp(ports.0, ports.1), payload))?;
    }
    Ok(())
}

fn random6(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport, payload) = (maker.peer6(), maker.between(49152, 65535), maker.noise(504));
        maker.receive(from, Packet::new(udp(sport, 80), payload))?;
    }
    Ok(())
}

fn closed_port(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(1500);
    for _ in 0..PACKETS {
        let (from, sport, payload) = (maker.pick(&bots), maker.between(49152, 65535), maker.noise(512));
        maker.receive(from, Packet::new(udp(sport, 8081), payload))?;
    }
    Ok(())
}

fn fragments(maker: &mut Maker) -> Result<()> {
    for number in 0..PACKETS {
        let (from, payload) = (maker.peer(), maker.noise(1400));
        let fragment = Some(Fragment { offset: 175, more: true });
        maker.receive(from, Packet { l4: L4::Raw(17), payload, fragment, id: number as u16 })?;
    }
    Ok(())
}

fn query(maker: &mut Maker, name: &[&[u8]], kind: u8) -> Vec<u8> {
    let mut bytes = maker.noise(2);
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name {
        bytes.push(label.len() as u8);
        bytes.extend(*label);
    }
    bytes.extend([0, 0, kind, 0, 1]);
    bytes
}

/// ANY (255) for one name.
fn dns_queries(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        let payload = query(maker, &[b"example", b"com"], 255);
        maker.receive(from, Packet::new(udp(sport, 53), payload))?;
    }
    Ok(())
}

/// Random names under one zone, by way of resolvers: their queries look like anybody's.
fn water_torture(maker: &mut Maker) -> Result<()> {
    let resolvers = maker.peers(900);
    for _ in 0..PACKETS {
        let (from, sport, length) = (maker.pick(&resolvers), maker.between(1024, 65535), maker.length(6, 16));
        let label = maker.letters(length);
        let payload = query(maker, &[&label, b"victim-shop", b"example"], 1);
        maker.receive(from, Packet::new(udp(sport, 53), payload))?;
    }
    Ok(())
}

fn quic(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        let mut payload = vec![0xc3, 0, 0, 0, 1, 8];
        payload.extend(maker.noise(8));
        payload.push(8);
        let payload = maker.filled(&payload, 1200);
        maker.receive(from, Packet::new(udp(sport, 443), payload))?;
    }
    Ok(())
}

fn sip(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(400);
    for _ in 0..PACKETS {
        let (from, number, call) = (maker.pick(&bots), maker.below(9000), maker.word());
        let text = format!(
            "INVITE sip:{}@198.51.100.10 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK{call:08x}\r\n\
             From: <sip:{number}@198.51.100.10>;tag={call:x}\r\nCall-ID: {call:08x}\r\nCSeq: 1 INVITE\r\n\r\n",
            1000 + number
        );
        let sport = maker.ephemeral();
        maker.receive(from, Packet::new(udp(sport, 5060), text.into_bytes()))?;
    }
    Ok(())
}

fn game(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        maker.receive(from, Packet::new(udp(sport, 27015), b"\xff\xff\xff\xffTSource Engine Query\0".to_vec()))?;
    }
    Ok(())
}

/// Client resets of OpenVPN: opcode 7, a session of 8 bytes, no acknowledgements, packet 0.
fn vpn(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        let mut payload = vec![0x38];
        payload.extend(maker.noise(8));
        payload.extend([0; 5]);
        maker.receive(from, Packet::new(udp(sport, 1194), payload))?;
    }
    Ok(())
}
