//! Ordinary traffic that looks like an attack to whoever only counts.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::{
    HOST, Recipe,
    maker::{Maker, PACKETS, Packet, Peer, udp},
    recipe,
};
use crate::traffic::{Fragment, L4, tcp};

pub(super) const RECIPES: &[Recipe] = &[
    recipe("snmp_walk", snmp_walk),
    recipe("dns_answers_elsewhere", dns_answers),
    recipe("nfs_udp_fragments", nfs),
    recipe("openvpn_tunnel", |m| tunnel(m, 10, 1194, &[0x48])),
    recipe("wireguard_tunnel", |m| tunnel(m, 3, 51820, &[4, 0, 0, 0])),
    recipe("gre_tunnel", gre),
    recipe("market_data", market_data),
    recipe("internet_noise", noise),
    recipe("port_scan", scan),
];

/// GetResponses of 40 agents to one poller: its requests go by another path.
fn snmp_walk(maker: &mut Maker) -> Result<()> {
    let agents: Vec<_> = (1..=40).map(local).collect();
    for number in 0..PACKETS {
        let (from, value) = (agents[number % agents.len()], maker.length(4, 40));
        let mut pdu = vec![0x30, 0x82, 0, 0x60, 2, 1, 1, 4, 6];
        pdu.extend(b"public");
        pdu.extend([0xa2, 0x82, 0, 0x40, 2, 4]);
        pdu.extend((0x1000_0000 + number as u32).to_be_bytes());
        pdu.extend([2, 1, 0, 2, 1, 0, 0x30, 0x30, 6, 10, 0x2b, 6, 1, 2, 1, 2, 2, 1]);
        pdu.extend([(number / 40 % 22) as u8, (number % 60) as u8, 4, value as u8]);
        let payload = maker.filled(&pdu, pdu.len() + value);
        maker.receive(from, Packet::new(udp(161, 45161), payload))?;
    }
    Ok(())
}

/// A host of the neighbourhood.
fn local(host: u8) -> Peer {
    Peer { addr: Ipv4Addr::new(198, 51, 101, host).into(), ttl: 63 }
}

fn dns_answers(maker: &mut Maker) -> Result<()> {
    let resolvers = [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(149, 112, 112, 112)];
    for _ in 0..PACKETS {
        let from = Peer { addr: maker.pick(&resolvers).into(), ttl: 57 };
        let (dport, name, records) = (maker.ephemeral(), maker.length(4, 18), maker.between(1, 9) as u8);
        let mut payload = maker.noise(2);
        payload.extend([0x81, 0x80, 0, 1, 0, records, 0, 0, 0, 0, name as u8]);
        payload.extend(maker.letters(name));
        payload.extend(b"\x03com\0\0\x01\0\x01");
        for _ in 0..records {
            payload.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 1, 0x2c, 0, 4]);
            payload.extend(maker.word().to_be_bytes());
        }
        maker.receive(from, Packet::new(udp(53, dport), payload))?;
    }
    Ok(())
}

/// READ replies of 8 KiB from a file server on the same network, each in six fragments.
fn nfs(maker: &mut Maker) -> Result<()> {
    const BYTES: usize = 8 * 1024 + 136;
    const PIECE: usize = 1480;
    let server = local(5);
    for number in 0..PACKETS / 6 {
        // The UDP header is part of the first fragment, so all of it is laid out by hand.
        let mut datagram = [2049u16, 801, BYTES as u16, 0].map(u16::to_be_bytes).concat();
        datagram.extend((0x5000_0000 + number as u32).to_be_bytes());
        datagram.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        let datagram = maker.filled(&datagram, BYTES);
        for (piece, bytes) in datagram.chunks(PIECE).enumerate() {
            let fragment = Fragment { offset: (piece * PIECE / 8) as u16, more: (piece + 1) * PIECE < BYTES };
            let packet =
                Packet { l4: L4::Raw(17), payload: bytes.to_vec(), fragment: Some(fragment), id: number as u16 };
            maker.receive(server, packet)?;
        }
    }
    Ok(())
}

/// Data packets of a VPN, both ways.
fn tunnel(maker: &mut Maker, peers: usize, port: u16, head: &[u8]) -> Result<()> {
    let peers: Vec<_> = maker.peers(peers).into_iter().map(|peer| (peer, maker.ephemeral())).collect();
    for _ in 0..PACKETS {
        let ((peer, other), back) = (maker.pick(&peers), maker.below(3) == 0);
        let small = maker.below(3) == 0;
        let length = if small { maker.length(60, 140) } else { maker.length(1200, 1420) };
        let payload = maker.filled(head, length);
        if back {
            maker.at += 20_000;
            maker.send_at(maker.at, peer, Packet::new(udp(port, other), payload))?;
        } else {
            maker.receive(peer, Packet::new(udp(other, port), payload))?;
        }
    }
    Ok(())
}

fn gre(maker: &mut Maker) -> Result<()> {
    let peer = maker.peer();
    for _ in 0..PACKETS {
        let (small, back) = (maker.below(3) == 0, maker.below(3) == 0);
        let length = if small { 40 } else { maker.length(900, 1420) };
        let mut payload = vec![0, 0, 8, 0, 0x45, 0];
        payload.extend((length as u16).to_be_bytes());
        payload.extend(maker.noise(2));
        payload.extend([
            0x40,
            0,
            63,
            6,
            0,
            0,
            10,
            20,
            0,
            maker.between(2, 60) as u8,
            10,
            30,
            0,
            maker.between(2, 60) as u8,
        ]);
        let payload = maker.filled(&payload, length + 4);
        let packet = Packet::new(L4::Raw(47), payload);
        if back {
            maker.at += 20_000;
            maker.send_at(maker.at, peer, packet)?;
        } else {
            maker.receive(peer, packet)?;
        }
    }
    Ok(())
}

/// Two publishers, four groups, a sequence number in front.
fn market_data(maker: &mut Maker) -> Result<()> {
    let publishers = [local(30), local(31)];
    for number in 0..PACKETS {
        let (from, group, length) = (publishers[number % 2], (number % 4) as u8, maker.length(90, 640));
        let head = (number as u64).to_be_bytes();
        let (dst, payload): (IpAddr, _) = (Ipv4Addr::new(233, 54, 12, group + 1).into(), maker.filled(&head, length));
        maker.at += 300_000;
        maker.put(maker.at, from.addr, dst, 12, Packet::new(udp(30500, 30500 + u16::from(group)), payload))?;
    }
    Ok(())
}

/// What every public address gets: SYNs of scanners to the ports of the day, refused.
fn noise(maker: &mut Maker) -> Result<()> {
    const PORTS: [u16; 12] = [23, 22, 445, 3389, 8080, 80, 443, 5555, 6379, 2323, 1433, 8443];
    for number in 0..1500 {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        let dport = if number % 4 == 0 { maker.between(1, 65535) } else { maker.pick(&PORTS) };
        let l4 = maker.tcp(sport, dport, tcp::SYN);
        maker.receive(from, Packet::new(l4, Vec::new()))?;
        let refused = maker.tcp(dport, sport, tcp::RST | tcp::ACK);
        maker.put(maker.at + 30_000, HOST.into(), from.addr, 64, Packet::new(refused, Vec::new()))?;
    }
    Ok(())
}

/// One scanner, one SYN to each port in turn, refused.
fn scan(maker: &mut Maker) -> Result<()> {
    let (from, sport) = (maker.peer(), maker.ephemeral());
    for port in 1..=1000 {
        let l4 = maker.tcp(sport, port, tcp::SYN);
        maker.receive(from, Packet::new(l4, Vec::new()))?;
        let refused = maker.tcp(port, sport, tcp::RST | tcp::ACK);
        maker.send_at(maker.at + 30_000, from, Packet::new(refused, Vec::new()))?;
    }
    Ok(())
}
