//! IPv4 and IPv6 packets.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Transport, checksum, ethertype, frame, proto};

/// An IPv4 packet (RFC 791). Fields that are `None` get the right value.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Version.
    pub version: u8,
    /// Header length in words.
    pub ihl: Option<u8>,
    /// Total length.
    pub total_length: Option<u16>,
    /// Flags and fragment offset as in the header: 0x8000 reserved, 0x4000 DF, 0x2000 MF.
    pub fragment: u16,
    /// Options, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// Header checksum.
    pub checksum: Option<u16>,
}

impl Ipv4 {
    /// From 192.0.2.1 to 198.51.100.7 (RFC 5737).
    pub fn new() -> Self {
        Self {
            src: Ipv4Addr::new(192, 0, 2, 1),
            dst: Ipv4Addr::new(198, 51, 100, 7),
            version: 4,
            ihl: None,
            total_length: None,
            fragment: 0,
            options: Vec::new(),
            checksum: None,
        }
    }

    /// From the given source.
    pub fn from(src: impl Into<Ipv4Addr>) -> Self {
        Self { src: src.into(), ..Self::new() }
    }

    /// A fragment at `offset` bytes (a multiple of 8).
    pub fn fragment(offset: u16, more: bool) -> Self {
        Self { fragment: (offset / 8) | if more { 0x2000 } else { 0 }, ..Self::new() }
    }

    /// Builds the packet.
    pub fn build(&self, inner: &Transport) -> Vec<u8> {
        let header = 20 + self.options.len();
        let ihl = self.ihl.unwrap_or((header / 4) as u8);
        let total = self.total_length.unwrap_or((header + inner.bytes.len()) as u16);
        let mut bytes = vec![self.version << 4 | ihl & 15, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, inner.proto, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        let sum = self.checksum.unwrap_or_else(|| checksum(&[&bytes]));
        bytes.splice(10..12, sum.to_be_bytes());
        let length = (inner.bytes.len() as u32).to_be_bytes();
        let pseudo = [&self.src.octets()[..], &self.dst.octets(), &[0, inner.proto], &length[2..]].concat();
        bytes.extend(summed(inner, &pseudo));
        bytes
    }

    /// Builds the packet in an untagged frame.
    pub fn frame(&self, inner: &Transport) -> Vec<u8> {
        frame(ethertype::IPV4, &self.build(inner))
    }
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self::new()
    }
}

/// An IPv6 extension header: its number and its bytes, the first of which (the next header's
/// number) is filled in when the packet is built.
#[derive(Clone, Debug)]
pub struct Extension {
    /// The number that announces it.
    pub number: u8,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Extension {
    /// Hop-by-hop or destination options, or a routing header, of `bytes` bytes (a multiple of 8
    /// up to 2048), filled by one PadN after another.
    pub fn options(number: u8, bytes: usize) -> Self {
        let mut all = vec![0, (bytes / 8 - 1) as u8];
        while all.len() < bytes {
            let data = (bytes - all.len()).saturating_sub(2).min(255);
            all.extend([1, data as u8]);
            all.resize(all.len() + data, 0);
        }
        Self { number, bytes: all }
    }

    /// A fragment header at `offset` bytes (a multiple of 8).
    pub fn fragment(offset: u16, more: bool) -> Self {
        let [high, low] = (offset | u16::from(more)).to_be_bytes();
        Self { number: proto::FRAGMENT, bytes: vec![0, 0, high, low, 0, 0, 0x12, 0x34] }
    }

    /// An authentication header (RFC 4302) of 24 bytes.
    pub fn authentication() -> Self {
        let mut bytes = vec![0; 24];
        bytes.splice(1..2, [4]);
        Self { number: proto::AH, bytes }
    }
}

/// An IPv6 packet (RFC 8200). Fields that are `None` get the right value.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Version.
    pub version: u8,
    /// Payload length.
    pub payload_length: Option<u16>,
    /// Extension headers, in order.
    pub extensions: Vec<Extension>,
}

impl Ipv6 {
    /// From 2001:db8::1 to 2001:db8:ffff::7 (RFC 3849).
    pub fn new() -> Self {
        Self {
            src: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            dst: Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7),
            version: 6,
            payload_length: None,
            extensions: Vec::new(),
        }
    }

    /// From the given source.
    pub fn from(src: impl Into<Ipv6Addr>) -> Self {
        Self { src: src.into(), ..Self::new() }
    }

    /// With extension headers.
    pub fn with(extensions: impl IntoIterator<Item = Extension>) -> Self {
        Self { extensions: extensions.into_iter().collect(), ..Self::new() }
    }

    /// Builds the packet.
    pub fn build(&self, inner: &Transport) -> Vec<u8> {
        let numbers: Vec<u8> = self.extensions.iter().map(|e| e.number).chain([inner.proto]).collect();
        let payload = inner.bytes.len() + self.extensions.iter().map(|e| e.bytes.len()).sum::<usize>();
        let mut bytes = vec![self.version << 4, 0, 0, 0];
        bytes.extend(self.payload_length.unwrap_or(payload as u16).to_be_bytes());
        bytes.extend([numbers[0], 64]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        for (extension, next) in self.extensions.iter().zip(&numbers[1..]) {
            bytes.push(*next);
            bytes.extend(extension.bytes.iter().skip(1));
        }
        let length = (inner.bytes.len() as u32).to_be_bytes();
        let pseudo = [&self.src.octets()[..], &self.dst.octets(), &length, &[0, 0, 0, inner.proto]].concat();
        bytes.extend(summed(inner, &pseudo));
        bytes
    }

    /// Builds the packet in an untagged frame.
    pub fn frame(&self, inner: &Transport) -> Vec<u8> {
        frame(ethertype::IPV6, &self.build(inner))
    }
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self::new()
    }
}

/// Fills in the transport checksum.
fn summed(inner: &Transport, pseudo: &[u8]) -> Vec<u8> {
    let mut bytes = inner.bytes.clone();
    if let Some(at) = inner.checksum_at
        && at + 2 <= bytes.len()
    {
        let sum = checksum(&[pseudo, &bytes]);
        bytes.splice(at..at + 2, sum.to_be_bytes());
    }
    bytes
}
