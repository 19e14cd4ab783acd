//! Collects the frames of one capture, and draws what varies in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{HOST, HOST6};
use crate::{
    sandbox::Mac,
    traffic::{Fragment, L4, Template, tcp},
};

/// One packet: everything but the addresses of the protected host and the Ethernet header.
pub(super) struct Packet {
    pub l4: L4,
    pub payload: Vec<u8>,
    pub fragment: Option<Fragment>,
    /// IPv4 identification.
    pub id: u16,
}

impl Packet {
    pub(super) fn new(l4: L4, payload: Vec<u8>) -> Self {
        Self { l4, payload, fragment: None, id: 0 }
    }
}

/// Returns a UDP header.
pub(super) fn udp(sport: u16, dport: u16) -> L4 {
    L4::Udp { sport, dport }
}

/// Who sends: an address and the hops that are left of its TTL.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub addr: IpAddr,
    pub ttl: u8,
}

/// The frames so far, and the dice.
pub(super) struct Maker {
    rng: ChaCha8Rng,
    frames: Vec<(u64, Vec<u8>)>,
    /// Time of the next packet, nanoseconds. Scenarios set their own rates: only the order counts.
    pub at: u64,
}

/// Packets of a capture; scenarios begin it anew when it ends. Tests look at what packets are, not
/// at how many.
pub(super) const PACKETS: usize = if cfg!(test) { 300 } else { 5000 };

const STEP_NS: u64 = 100_000;

impl Maker {
    pub(super) fn new(name: &str) -> Self {
        // FNV-1a (Fowler, Noll, Vo).
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self { rng: ChaCha8Rng::seed_from_u64(hash), frames: Vec::new(), at: STEP_NS }
    }

    /// Returns the frames in order of time.
    pub(super) fn into_frames(mut self) -> Vec<(u64, Vec<u8>)> {
        self.frames.sort_by_key(|(at, _)| *at);
        self.frames
    }

    /// Returns a number below `bound`.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.rng.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Returns a number from `first` to `last`, both included.
    pub(super) fn between(&mut self, first: u16, last: u16) -> u16 {
        first + self.below(u32::from(last - first) + 1) as u16
    }

    /// Returns a length from `first` to `last` bytes.
    pub(super) fn length(&mut self, first: usize, last: usize) -> usize {
        first + self.below((last - first) as u32 + 1) as usize
    }

    /// Returns a port that clients use.
    pub(super) fn ephemeral(&mut self) -> u16 {
        self.between(32768, 60999)
    }

    pub(super) fn word(&mut self) -> u32 {
        self.rng.next_u32()
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    /// Returns random bytes.
    pub(super) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// Returns `head` and noise behind it, up to a length.
    pub(super) fn filled(&mut self, head: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.extend(self.noise(length.saturating_sub(head.len())));
        bytes
    }

    /// Returns lower-case letters.
    pub(super) fn letters(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| b'a' + self.below(26) as u8).collect()
    }

    /// Returns a host somewhere on the Internet, 5 to 25 hops away.
    pub(super) fn peer(&mut self) -> Peer {
        let bits = loop {
            let bits = self.word();
            // Not what no router forwards, and not the networks of documentation and tests.
            if !matches!(bits >> 24, 0 | 10 | 127 | 172 | 192 | 198 | 203 | 224..) {
                break bits;
            }
        };
        let from = self.pick(&[64, 64, 128, 255]);
        Peer { addr: Ipv4Addr::from_bits(bits).into(), ttl: from - self.between(5, 25) as u8 }
    }

    /// As [`Self::peer`], with IPv6.
    pub(super) fn peer6(&mut self) -> Peer {
        let bits = u128::from(self.word()) << 96 | u128::from(self.word()) << 64 | u128::from(self.word());
        let from = self.pick(&[64, 64, 128]);
        Peer { addr: Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into(), ttl: from - self.between(5, 25) as u8 }
    }

    pub(super) fn peers(&mut self, count: usize) -> Vec<Peer> {
        (0..count).map(|_| self.peer()).collect()
    }

    /// A packet to the host, a step after the one before.
    pub(super) fn receive(&mut self, from: Peer, packet: Packet) -> Result<()> {
        self.at += STEP_NS;
        self.receive_at(self.at, from, packet)
    }

    pub(super) fn receive_at(&mut self, at: u64, from: Peer, packet: Packet) -> Result<()> {
        let host = if from.addr.is_ipv4() { HOST.into() } else { HOST6.into() };
        self.put(at, from.addr, host, from.ttl, packet)
    }

    /// A packet from the host.
    pub(super) fn send_at(&mut self, at: u64, to: Peer, packet: Packet) -> Result<()> {
        let host = if to.addr.is_ipv4() { HOST.into() } else { HOST6.into() };
        self.put(at, host, to.addr, 64, packet)
    }

    /// A packet between any two.
    pub(super) fn put(&mut self, at: u64, src: IpAddr, dst: IpAddr, ttl: u8, packet: Packet) -> Result<()> {
        let Packet { l4, payload, fragment, id } = packet;
        let (src_mac, dst_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let template = Template { src_mac, dst_mac, vlans: Vec::new(), src, dst, ttl, fragment, l4, payload };
        let mut frame = template.frame()?;
        if src.is_ipv4() {
            identify(&mut frame, id);
        }
        self.frames.push((at, frame));
        Ok(())
    }

    /// A frame as it is.
    pub(super) fn raw(&mut self, frame: Vec<u8>) {
        self.at += STEP_NS;
        self.frames.push((self.at, frame));
    }

    /// The frame that [`Self::receive`] put last, taken back.
    pub(super) fn take_back(&mut self) -> Vec<u8> {
        self.frames.pop().map_or_else(Vec::new, |(_, frame)| frame)
    }

    /// A TCP header with random numbers.
    pub(super) fn tcp(&mut self, sport: u16, dport: u16, flags: u8) -> L4 {
        let ack = if flags & tcp::ACK != 0 { self.word() } else { 0 };
        L4::Tcp { sport, dport, flags, seq: self.word(), ack, window: self.between(1024, 65535), options: Vec::new() }
    }
}

/// Sets the identification of an IPv4 packet, and its checksum (RFC 1624, equation 3).
fn identify(frame: &mut [u8], id: u16) {
    let at = 14;
    let sum = u16::from_be_bytes([frame[at + 10], frame[at + 11]]);
    let changed = u32::from(!sum) + u32::from(id);
    let folded = (changed & 0xffff) + (changed >> 16);
    frame[at + 4..at + 6].copy_from_slice(&id.to_be_bytes());
    frame[at + 10..at + 12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}
