//! ICMP, tunnels, other protocols, and what no stack would send.

use anyhow::Result;

use super::{
    HOST, Recipe,
    maker::{Maker, PACKETS, Packet, udp},
    recipe,
};
use crate::traffic::{L4, tcp};

pub(super) const RECIPES: &[Recipe] = &[
    recipe("icmp_unreachable_flood", black_nurse),
    recipe("smurf", smurf),
    recipe("icmp6_flood", icmp6),
    recipe("gre_flood", gre),
    recipe("esp_flood", esp),
    recipe("ipip_flood", ipip),
    recipe("sctp_flood", sctp),
    recipe("random_protocols", random_protocols),
    recipe("malformed_flood", malformed),
];

/// An IPv4 header with a UDP header behind it, from the host: what errors quote and tunnels carry.
fn inner(maker: &mut Maker, length: u16) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(maker.noise(2));
    bytes.extend([0, 0, 64, 17, 0, 0]);
    bytes.extend(HOST.octets());
    bytes.extend(maker.word().to_be_bytes());
    bytes.extend(maker.noise(4));
    bytes.extend((length - 20).to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// Port unreachable from a few hosts (BlackNurse, 2016).
fn black_nurse(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(20);
    for _ in 0..PACKETS {
        let (from, quoted) = (maker.pick(&bots), inner(maker, 60));
        maker.receive(from, Packet::new(L4::Icmp { kind: 3, code: 3, rest: 0 }, quoted))?;
    }
    Ok(())
}

/// Replies of networks that were asked in the host's name.
fn smurf(maker: &mut Maker) -> Result<()> {
    let hosts = maker.peers(1200);
    let payload: Vec<u8> = (0..56).collect();
    for number in 0..PACKETS as u32 {
        let from = maker.pick(&hosts);
        maker.receive(from, Packet::new(L4::Icmp { kind: 0, code: 0, rest: 0x4d2_0000 | number }, payload.clone()))?;
    }
    Ok(())
}

fn icmp6(maker: &mut Maker) -> Result<()> {
    let payload: Vec<u8> = (0..56).collect();
    for _ in 0..PACKETS {
        let (from, rest) = (maker.peer6(), maker.word());
        maker.receive(from, Packet::new(L4::Icmp { kind: 128, code: 0, rest }, payload.clone()))?;
    }
    Ok(())
}

/// GRE around UDP, as the bots of one family send it.
fn gre(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(2000);
    for _ in 0..PACKETS {
        let from = maker.pick(&bots);
        let mut payload = vec![0, 0, 8, 0];
        payload.extend(inner(maker, 516));
        let payload = maker.filled(&payload, 520);
        maker.receive(from, Packet::new(L4::Raw(47), payload))?;
    }
    Ok(())
}

fn esp(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, length) = (maker.peer(), maker.length(60, 1300));
        let payload = maker.noise(length);
        maker.receive(from, Packet::new(L4::Raw(50), payload))?;
    }
    Ok(())
}

fn ipip(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, length) = (maker.peer(), maker.length(60, 900));
        let head = inner(maker, length as u16);
        let payload = maker.filled(&head, length);
        maker.receive(from, Packet::new(L4::Raw(4), payload))?;
    }
    Ok(())
}

/// INIT chunks (RFC 9260).
fn sctp(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let from = maker.peer();
        let mut payload = maker.noise(4);
        payload.extend([0, 0, 0, 0]);
        payload.extend(maker.noise(4));
        payload.extend([1, 0, 0, 20]);
        payload.extend(maker.noise(16));
        maker.receive(from, Packet::new(L4::Raw(132), payload))?;
    }
    Ok(())
}

/// Numbers that IANA has not given to anybody.
fn random_protocols(maker: &mut Maker) -> Result<()> {
    for _ in 0..PACKETS {
        let (from, protocol, length) = (maker.peer(), maker.between(148, 252) as u8, maker.length(20, 1000));
        let payload = maker.noise(length);
        maker.receive(from, Packet::new(L4::Raw(protocol), payload))?;
    }
    Ok(())
}

/// Headers that contradict themselves, in six ways.
fn malformed(maker: &mut Maker) -> Result<()> {
    const IP: usize = 14;
    const L4_AT: usize = IP + 20;
    for number in 0..PACKETS {
        let (from, sport, dport) = (maker.peer(), maker.between(1024, 65535), maker.between(1, 65535));
        let payload = maker.noise(40);
        let l4 = if number % 2 == 0 { maker.tcp(sport, dport, tcp::ACK) } else { udp(sport, dport) };
        maker.receive(from, Packet::new(l4, payload))?;
        let mut frame = maker.take_back();
        match number % 6 {
            // A TCP header of 12 bytes.
            0 => frame[L4_AT + 12] = 0x30,
            // A UDP length beyond the packet.
            1 => frame[L4_AT + 4] = 0xff,
            // An IP header of 16 bytes.
            2 | 5 => frame[IP] = 0x44,
            // A UDP length below its header's.
            3 => frame[L4_AT + 4..L4_AT + 6].copy_from_slice(&[0, 3]),
            // A total length beyond the frame.
            _ => frame[IP + 2] = 0x40,
        }
        maker.raw(frame);
    }
    Ok(())
}
