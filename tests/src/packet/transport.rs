//! What goes into an IP packet.

use super::proto;

/// TCP flags (RFC 9293, and RFC 3168 for the last two).
pub mod flags {
    /// FIN.
    pub const FIN: u8 = 1;
    /// SYN.
    pub const SYN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// PSH.
    pub const PSH: u8 = 8;
    /// ACK.
    pub const ACK: u8 = 16;
    /// URG.
    pub const URG: u8 = 32;
    /// ECE.
    pub const ECE: u8 = 64;
    /// CWR.
    pub const CWR: u8 = 128;
}

/// The payload of an IP packet, with its protocol number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The protocol number.
    pub proto: u8,
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// Where IP puts the checksum over pseudo-header and bytes; `None`: the bytes are final.
    pub checksum_at: Option<usize>,
}

impl Transport {
    /// Any protocol with the bytes as they are.
    pub fn raw(proto: u8, bytes: &[u8]) -> Self {
        Self { proto, bytes: bytes.to_vec(), checksum_at: None }
    }

    /// Cuts the bytes off behind `bytes`.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.bytes.truncate(bytes);
        self.checksum_at = None;
        self
    }
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// All eight flag bits, see [`flags`].
    pub flags: u8,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// The data offset field in words; `None`: what the options make it.
    pub offset: Option<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Tcp {
    /// A segment without payload from port 40000.
    pub fn to(dst: u16, flags: u8) -> Self {
        Self { src: 40000, dst, flags, options: Vec::new(), offset: None, payload: Vec::new() }
    }

    /// A PSH-ACK with payload from port 40000.
    pub fn data(dst: u16, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..Self::to(dst, flags::PSH | flags::ACK) }
    }

    /// Builds the segment.
    pub fn build(&self) -> Transport {
        let offset = self.offset.unwrap_or((5 + self.options.len() / 4) as u8);
        let mut bytes = Vec::from(self.src.to_be_bytes());
        bytes.extend(self.dst.to_be_bytes());
        bytes.extend(1_000_000u32.to_be_bytes());
        bytes.extend(2_000_000u32.to_be_bytes());
        bytes.extend([offset << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        Transport { proto: proto::TCP, bytes, checksum_at: Some(16) }
    }
}

/// A UDP datagram.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// The length field; `None`: the true one.
    pub length: Option<u16>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Udp {
    /// A datagram.
    pub fn new(src: u16, dst: u16, payload: &[u8]) -> Self {
        Self { src, dst, length: None, payload: payload.to_vec() }
    }

    /// Builds the datagram.
    pub fn build(&self) -> Transport {
        let length = self.length.unwrap_or((8 + self.payload.len()) as u16);
        let mut bytes = Vec::from(self.src.to_be_bytes());
        bytes.extend(self.dst.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(&self.payload);
        Transport { proto: proto::UDP, bytes, checksum_at: Some(6) }
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Debug)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Everything behind the checksum.
    pub rest: Vec<u8>,
}

impl Icmp {
    /// A message with code 0 and 4 + 16 bytes behind the checksum.
    pub fn new(kind: u8) -> Self {
        Self { kind, code: 0, rest: vec![0; 20] }
    }

    /// Builds it as ICMP.
    pub fn v4(&self) -> Transport {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(&self.rest);
        let sum = super::checksum(&[&bytes]);
        bytes.splice(2..4, sum.to_be_bytes());
        Transport { proto: proto::ICMP, bytes, checksum_at: None }
    }

    /// Builds it as ICMPv6.
    pub fn v6(&self) -> Transport {
        let mut bytes = vec![self.kind, self.code, 0, 0];
        bytes.extend(&self.rest);
        Transport { proto: proto::ICMPV6, bytes, checksum_at: Some(2) }
    }
}
