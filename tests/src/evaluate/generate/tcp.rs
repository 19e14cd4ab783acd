//! TCP out of any connection: floods by flags, and what middleboxes reflect.

use std::net::IpAddr;

use anyhow::Result;

use super::{
    HOST, Recipe,
    maker::{Maker, PACKETS, Packet, Peer},
    recipe,
};
use crate::traffic::{L4, tcp};

pub(super) const RECIPES: &[Recipe] = &[
    recipe("ack_flood", |m| bare(m, tcp::ACK, Some(443))),
    recipe("psh_ack_flood", psh_ack),
    recipe("rst_flood", |m| bare(m, tcp::RST, None)),
    recipe("fin_flood", |m| bare(m, tcp::FIN | tcp::ACK, Some(80))),
    recipe("null_flood", |m| bare(m, 0, None)),
    recipe("xmas_flood", |m| bare(m, tcp::FIN | tcp::PSH | tcp::URG, None)),
    recipe("syn_fin_flood", |m| bare(m, tcp::SYN | tcp::FIN, None)),
    recipe("urg_flood", |m| bare(m, tcp::URG, None)),
    recipe("mirai_syn", mirai),
    recipe("syn6_flood", syn6),
    recipe("middlebox_reflection", middlebox),
];

/// MSS, SACK permitted, time stamps, window scale: the options of the family's bots.
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 6];

/// Segments without payload from forged sources, to one port or to any.
fn bare(maker: &mut Maker, flags: u8, dport: Option<u16>) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport) = (maker.peer(), maker.between(1024, 65535));
        let dport = dport.unwrap_or_else(|| maker.between(1, 65535));
        let l4 = maker.tcp(sport, dport, flags);
        maker.receive(from, Packet::new(l4, Vec::new()))?;
    }
    Ok(())
}

fn psh_ack(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport, dport) = (maker.peer(), maker.between(1024, 65535), maker.between(1, 65535));
        let length = maker.length(8, 1200);
        let (l4, payload) = (maker.tcp(sport, dport, tcp::PSH | tcp::ACK), maker.noise(length));
        maker.receive(from, Packet::new(l4, payload))?;
    }
    Ok(())
}

/// A botnet of 3 000 that writes the destination address where the sequence number belongs.
fn mirai(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(3000);
    for _ in 0..PACKETS {
        let (from, sport, window) = (maker.pick(&bots), maker.between(1024, 65535), maker.between(1024, 65535));
        let (seq, options) = (HOST.to_bits(), SYN_OPTIONS.to_vec());
        let l4 = L4::Tcp { sport, dport: 80, flags: tcp::SYN, seq, ack: 0, window, options };
        maker.receive(from, Packet::new(l4, Vec::new()))?;
    }
    Ok(())
}

fn syn6(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, sport, seq) = (maker.peer6(), maker.between(1024, 65535), maker.word());
        let l4 = L4::Tcp { sport, dport: 443, flags: tcp::SYN, seq, ack: 0, window: 64240, options: Vec::new() };
        maker.receive(from, Packet::new(l4, Vec::new()))?;
    }
    Ok(())
}

/// Block pages of filters that answer a forged request without a handshake (Bock et al., "Weaponizing
/// Middleboxes for TCP Reflected Amplification", USENIX Security 2021).
fn middlebox(maker: &mut Maker) -> Result<()> {
    const PAGES: [&[u8]; 3] = [
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html><title>Blocked",
        b"HTTP/1.1 403 Forbidden\r\nServer: filter\r\nContent-Length: 1024\r\n\r\n<html><head><title>Access denied",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 512\r\n\r\n<html><iframe src=\"http://10.10.34.34",
    ];
    let boxes = maker.peers(600);
    for number in 0..PACKETS {
        let (from, dport) = (maker.pick(&boxes), maker.between(1024, 65535));
        let page = PAGES[usize::from(host_byte(from)) % PAGES.len()];
        let length = 400 + 200 * (number % 5);
        let (l4, payload) = (maker.tcp(80, dport, tcp::PSH | tcp::ACK), maker.filled(page, length));
        maker.receive(from, Packet::new(l4, payload))?;
    }
    Ok(())
}

fn host_byte(peer: Peer) -> u8 {
    match peer.addr {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}
