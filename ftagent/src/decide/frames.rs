//! Frames for tests, from the protocols' definitions.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Packet, packet::tcp, table::mix};

/// The protected host.
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// Draws numbers: the same ones every time.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn port(&mut self) -> u16 {
        1024 + self.below(60_000) as u16
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Any ordinary address.
    pub fn anyone(&mut self) -> Ipv4Addr {
        Ipv4Addr::new(1 + self.below(120) as u8, self.next() as u8, self.next() as u8, self.next() as u8)
    }
}

/// One of so many addresses, far apart.
pub fn member(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits((mix(number) as u32 & 0x3fff_ffff) + 0x0500_0000)
}

/// IPv4 around a payload; `place`: identification, flags and offset.
pub fn ip_at(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, place: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend(place);
    frame.extend([57, proto, 0, 0]);
    frame.extend(src.octets());
    frame.extend(dst.octets());
    frame.extend(payload);
    frame
}

pub fn ip(src: Ipv4Addr, proto: u8, payload: &[u8]) -> Vec<u8> {
    ip_at(src, HOST, proto, [0; 4], payload)
}

pub fn ip6(src: u128, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0];
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([proto, 57]);
    frame.extend(Ipv6Addr::from_bits(src).octets());
    frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).octets());
    frame.extend(payload);
    frame
}

pub fn udp_bytes(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = [ports.0, ports.1, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    bytes
}

pub fn udp(src: Ipv4Addr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    ip(src, 17, &udp_bytes(ports, payload))
}

/// What a segment says.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub ports: (u16, u16),
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub payload: &'a [u8],
}

pub fn tcp_between(src: Ipv4Addr, dst: Ipv4Addr, segment: &Segment<'_>) -> Vec<u8> {
    let mut bytes = [segment.ports.0, segment.ports.1].map(u16::to_be_bytes).concat();
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([5 << 4, segment.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    bytes.extend(segment.payload);
    ip_at(src, dst, 6, [0; 4], &bytes)
}

/// A segment out of any connection.
pub fn stray(dice: &mut Dice, dport: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let segment =
        Segment { ports: (dice.port(), dport), flags, seq: dice.next() as u32, ack: dice.next() as u32, payload };
    tcp_between(dice.anyone(), HOST, &segment)
}

/// One connection of a client to the host; its packets with the direction: true is inbound.
pub fn connection(
    dice: &mut Dice,
    client: Ipv4Addr,
    port: u16,
    requests: &[Vec<u8>],
    answer: usize,
) -> Vec<(bool, Vec<u8>)> {
    let ports = (dice.port(), port);
    let (mut seq, mut ack) = (dice.next() as u32, dice.next() as u32);
    let mut out = Vec::new();
    let mut say = |inbound: bool, flags: u8, payload: &[u8]| {
        let used = payload.len() as u32 + u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
        if inbound {
            let known = if flags & tcp::ACK == 0 { 0 } else { ack };
            out.push((true, tcp_between(client, HOST, &Segment { ports, flags, seq, ack: known, payload })));
            seq = seq.wrapping_add(used);
        } else {
            let ports = (ports.1, ports.0);
            out.push((false, tcp_between(HOST, client, &Segment { ports, flags, seq: ack, ack: seq, payload })));
            ack = ack.wrapping_add(used);
        }
    };
    say(true, tcp::SYN, &[]);
    say(false, tcp::SYN | tcp::ACK, &[]);
    say(true, tcp::ACK, &[]);
    for request in requests {
        say(true, tcp::PSH | tcp::ACK, request);
        if answer > 0 {
            say(false, tcp::PSH | tcp::ACK, &vec![b'a'; answer]);
            say(true, tcp::ACK, &[]);
        }
    }
    if answer > 0 {
        say(true, tcp::FIN | tcp::ACK, &[]);
        say(false, tcp::FIN | tcp::ACK, &[]);
        say(true, tcp::ACK, &[]);
    }
    out
}

pub fn decoded(time_ns: u64, frame: &[u8]) -> Packet {
    Packet::decode(time_ns, frame.get(..128).unwrap_or(frame), frame.len(), None, false)
}
