//! One frame, field by field, and where its fields came to lie.

use std::net::IpAddr;

use anyhow::{Result, bail, ensure};

use super::FRAME_MAX;
use crate::sandbox::Mac;

/// TCP flags, for [`L4::Tcp`] (RFC 9293 §3.1).
pub mod tcp {
    #![expect(missing_docs, reason = "the names are those of the RFC")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// A frame by its fields. Lengths and checksums follow from them.
#[derive(Clone, Debug)]
pub struct Template {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// VLAN tags, outermost first: EtherType (0x88a8, 0x8100) and TCI.
    pub vlans: Vec<(u16, u16)>,
    /// Source address; of the same family as `dst`.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A fragment of a larger packet.
    pub fragment: Option<Fragment>,
    /// What IP carries.
    pub l4: L4,
    /// What the transport carries.
    pub payload: Vec<u8>,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Offset in units of 8 bytes. From 1 on, there is no transport header: `l4` must be
    /// [`L4::Raw`].
    pub offset: u16,
    /// Whether more follow.
    pub more: bool,
}

/// A transport header.
#[derive(Clone, Debug)]
pub enum L4 {
    /// RFC 9293.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// See [`tcp`].
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Window, unscaled.
        window: u16,
        /// Options; padded to a multiple of 4 bytes, at most 40.
        options: Vec<u8>,
    },
    /// RFC 768.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// RFC 792, or RFC 4443 over IPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// The second word of the header.
        rest: u32,
    },
    /// Any protocol by number: the payload follows IP at once.
    Raw(u8),
}

/// A frame, complete but for its checksums, which are 0.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub bytes: Vec<u8>,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset of what the transport carries.
    pub payload: usize,
    pub v6: bool,
    pub kind: Kind,
    /// Offset of the transport's checksum.
    pub l4_checksum: Option<usize>,
    /// What the pseudo-header adds beside the addresses: `None` where there is none.
    pub pseudo: Option<(u8, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Icmp,
    Raw,
}

impl Template {
    /// Returns the frame with its checksums, as a capture of it would show.
    ///
    /// # Errors
    /// Where the fields contradict each other or the frame is too long.
    pub fn frame(&self) -> Result<Vec<u8>> {
        let mut frame = self.layout()?;
        let (ip, l4) = frame.sums();
        frame.set_checksums(ip, l4);
        Ok(frame.bytes)
    }

    pub(super) fn layout(&self) -> Result<Frame> {
        ensure!(self.vlans.len() <= 2, "a frame has at most two VLAN tags, not {}", self.vlans.len());
        let raw = matches!(self.l4, L4::Raw(_));
        let later = self.fragment.is_some_and(|fragment| fragment.offset > 0);
        ensure!(raw || !later, "a fragment with an offset has no transport header: use L4::Raw");
        let mut bytes = [self.dst_mac.0, self.src_mac.0].concat();
        for (ethertype, tci) in &self.vlans {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let (protocol, header) = self.transport()?;
        let below_l4 = header.len() + self.payload.len();
        let l3 = bytes.len() + 2;
        let v6 = match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.ipv4(&mut bytes, protocol, below_l4)?,
            (IpAddr::V6(_), IpAddr::V6(_)) => self.ipv6(&mut bytes, protocol, below_l4)?,
            (src, dst) => bail!("{src} and {dst} are of different families"),
        };
        let l4 = bytes.len();
        bytes.extend(&header);
        let payload = bytes.len();
        bytes.extend(&self.payload);
        ensure!(bytes.len() <= FRAME_MAX, "{} bytes are more than a frame of {FRAME_MAX}", bytes.len());
        let (kind, checksum) = match self.l4 {
            L4::Tcp { .. } => (Kind::Tcp, Some(16)),
            L4::Udp { .. } => (Kind::Udp, Some(6)),
            L4::Icmp { .. } => (Kind::Icmp, Some(2)),
            L4::Raw(_) => (Kind::Raw, None),
        };
        let has_pseudo = !raw && (v6 || kind != Kind::Icmp);
        Ok(Frame {
            bytes,
            l3,
            l4,
            payload,
            v6,
            kind,
            l4_checksum: checksum.map(|at| l4 + at),
            pseudo: has_pseudo.then_some((protocol, below_l4)),
        })
    }

    fn ipv4(&self, bytes: &mut Vec<u8>, protocol: u8, length: usize) -> Result<bool> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.src, self.dst) else { bail!("not IPv4") };
        let fragment = self.fragment.map_or(0, |f| f.offset & 0x1fff | u16::from(f.more) << 13);
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend(u16::try_from(20 + length)?.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        Ok(false)
    }

    fn ipv6(&self, bytes: &mut Vec<u8>, protocol: u8, length: usize) -> Result<bool> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (self.src, self.dst) else { bail!("not IPv6") };
        let (next, extra) = if self.fragment.is_some() { (44, 8) } else { (protocol, 0) };
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(u16::try_from(extra + length)?.to_be_bytes());
        bytes.extend([next, self.ttl]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        if let Some(fragment) = self.fragment {
            bytes.extend([protocol, 0]);
            bytes.extend((fragment.offset << 3 | u16::from(fragment.more)).to_be_bytes());
            bytes.extend([0; 4]);
        }
        Ok(true)
    }

    fn transport(&self) -> Result<(u8, Vec<u8>)> {
        let mut header = Vec::new();
        let protocol = match &self.l4 {
            L4::Tcp { sport, dport, flags, seq, ack, window, options } => {
                let padded = options.len().next_multiple_of(4);
                ensure!(padded <= 40, "TCP has room for 40 bytes of options, not {padded}");
                header.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                header.extend([seq.to_be_bytes(), ack.to_be_bytes()].concat());
                header.extend([((20 + padded) as u8 / 4) << 4, *flags]);
                header.extend(window.to_be_bytes());
                header.extend([0; 4]);
                header.extend(options);
                header.resize(20 + padded, 0);
                6
            }
            L4::Udp { sport, dport } => {
                header.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                header.extend(u16::try_from(8 + self.payload.len())?.to_be_bytes());
                header.extend([0; 2]);
                17
            }
            L4::Icmp { kind, code, rest } => {
                header.extend([*kind, *code, 0, 0]);
                header.extend(rest.to_be_bytes());
                if self.src.is_ipv6() { 58 } else { 1 }
            }
            L4::Raw(protocol) => *protocol,
        };
        Ok((protocol, header))
    }
}

impl Frame {
    /// Sums what the two checksums cover, as `Spec` wants it: words as they lie in memory.
    pub(super) fn sums(&self) -> (u32, u32) {
        let ip = if self.v6 { 0 } else { sum(&self.bytes[self.l3..self.l3 + 20]) };
        let mut l4 = 0;
        if self.l4_checksum.is_some() {
            l4 += sum(&self.bytes[self.l4..]);
        }
        if let Some((protocol, length)) = self.pseudo {
            let addresses = if self.v6 { self.l3 + 8..self.l3 + 40 } else { self.l3 + 12..self.l3 + 20 };
            l4 += sum(&self.bytes[addresses]);
            l4 += u32::from(u16::from(protocol).to_be()) + u32::from((length as u16).to_be());
        }
        (ip, l4)
    }

    fn set_checksums(&mut self, ip: u32, l4: u32) {
        if !self.v6 {
            self.bytes[self.l3 + 10..self.l3 + 12].copy_from_slice(&checksum(ip).to_ne_bytes());
        }
        if let Some(at) = self.l4_checksum {
            let value = match checksum(l4) {
                0 if self.kind == Kind::Udp => 0xffff,
                value => value,
            };
            self.bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
    }
}

/// Adds 16-bit words as they lie in memory; a last odd byte is followed by a 0.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

/// RFC 1071.
fn checksum(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
