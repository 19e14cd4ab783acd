//! Finds addresses in frames and changes them, with the checksums that cover them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

/// Where the outer IP header of a frame is, and what covers its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the IP header.
    ip: u32,
    /// Whether it is IPv6.
    pub v6: bool,
    /// The upper protocol (IPv6: behind the extension headers).
    pub protocol: u8,
    /// Offset of the upper header; `None` in later fragments.
    l4: Option<u32>,
    /// Offset of the upper protocol's checksum, where that covers the addresses.
    checksum: Option<u32>,
    /// The identification of a fragment.
    pub fragment: Option<u32>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMPV6: u8 = 58;
const UDP_LITE: u8 = 136;

/// Extension headers that are followed at most.
const MAX_EXTENSIONS: usize = 8;

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}

impl Layout {
    /// Looks at an Ethernet frame with any number of VLAN tags (IEEE 802.1Q and 802.1ad). Returns
    /// `None` where it holds no whole IP header.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let mut at = 12;
        while matches!(u16_at(frame, at)?, 0x8100 | 0x88a8 | 0x9100) {
            at += 4;
        }
        let ip = at + 2;
        match (u16_at(frame, at)?, frame.get(ip)? >> 4) {
            (0x0800, 4) => Self::v4(frame, ip),
            (0x86dd, 6) => Self::v6(frame, ip),
            _ => None,
        }
    }

    /// RFC 791, section 3.1.
    fn v4(frame: &[u8], ip: usize) -> Option<Self> {
        let header: &[u8; 20] = frame.get(ip..)?.first_chunk()?;
        let l4 = ip + usize::from(header[0] & 15) * 4;
        if l4 < ip + 20 {
            return None;
        }
        let bits = u16::from_be_bytes([header[6], header[7]]);
        let (more, offset) = (bits & 0x2000 != 0, bits & 0x1fff);
        let fragment = (more || offset != 0).then(|| u32::from(u16::from_be_bytes([header[4], header[5]])));
        Some(Self::with_upper(frame, ip, false, header[9], (offset == 0).then_some(l4), fragment))
    }

    /// RFC 8200, sections 3 and 4; RFC 4302, section 2.2, for the length of an AH.
    fn v6(frame: &[u8], ip: usize) -> Option<Self> {
        let header: &[u8; 40] = frame.get(ip..)?.first_chunk()?;
        let (mut next, mut at, mut fragment) = (header[6], ip + 40, None);
        for _ in 0..MAX_EXTENSIONS {
            let Some(&[following, length, high, low, a, b, c, d]) = frame.get(at..).and_then(|rest| rest.first_chunk())
            else {
                break;
            };
            at += match next {
                0 | 43 | 60 | 135 => (usize::from(length) + 1) * 8,
                51 => (usize::from(length) + 2) * 4,
                44 => {
                    let bits = u16::from_be_bytes([high, low]);
                    fragment = (bits & !6 != 0).then(|| u32::from_be_bytes([a, b, c, d]));
                    if bits >> 3 != 0 {
                        return Some(Self::with_upper(frame, ip, true, following, None, fragment));
                    }
                    8
                }
                _ => break,
            };
            next = following;
        }
        Some(Self::with_upper(frame, ip, true, next, Some(at), fragment))
    }

    fn with_upper(frame: &[u8], ip: usize, v6: bool, protocol: u8, l4: Option<usize>, fragment: Option<u32>) -> Self {
        let field = match protocol {
            TCP => Some(16),
            UDP | DCCP | UDP_LITE => Some(6),
            ICMPV6 if v6 => Some(2),
            _ => None,
        };
        let checksum = l4.zip(field).map(|(l4, field)| l4 + field).filter(|&at| at + 2 <= frame.len());
        let small = |at: usize| at as u32;
        Self { ip: small(ip), v6, protocol, l4: l4.map(small), checksum: checksum.map(small), fragment }
    }

    fn address(&self, destination: bool) -> Range<usize> {
        let ip = self.ip as usize;
        let (first, length) = if self.v6 { (8, 16) } else { (12, 4) };
        let start = ip + first + if destination { length } else { 0 };
        start..start + length
    }

    fn read(&self, frame: &[u8], destination: bool) -> IpAddr {
        let bytes = frame.get(self.address(destination)).unwrap_or_default();
        if self.v6 {
            Ipv6Addr::from(bytes.first_chunk::<16>().copied().unwrap_or_default()).into()
        } else {
            Ipv4Addr::from(bytes.first_chunk::<4>().copied().unwrap_or_default()).into()
        }
    }

    /// Returns the source address.
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        self.read(frame, false)
    }

    /// Returns the destination address.
    pub fn destination(&self, frame: &[u8]) -> IpAddr {
        self.read(frame, true)
    }

    /// Returns source and destination port of TCP, UDP and their kin.
    pub fn ports(&self, frame: &[u8]) -> Option<(u16, u16)> {
        let l4 = self.l4? as usize;
        matches!(self.protocol, TCP | UDP | DCCP | UDP_LITE | 132).then_some(())?;
        Some((u16_at(frame, l4)?, u16_at(frame, l4 + 2)?))
    }

    /// Returns whether this is TCP.
    pub fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// Returns whether the packet begins something: a SYN without ACK, or the first fragment.
    pub fn is_first(&self, frame: &[u8]) -> bool {
        match self.l4.map(|l4| l4 as usize) {
            None => false,
            Some(_) if self.fragment.is_some() => true,
            Some(l4) => self.is_tcp() && frame.get(l4 + 13).is_some_and(|flags| flags & 0x12 == 0x02),
        }
    }

    /// Changes the source address. An address of the other family changes nothing.
    pub fn set_source(&self, frame: &mut [u8], address: IpAddr) {
        self.set(frame, false, address);
    }

    /// Changes the destination address. An address of the other family changes nothing.
    pub fn set_destination(&self, frame: &mut [u8], address: IpAddr) {
        self.set(frame, true, address);
    }

    fn set(&self, frame: &mut [u8], destination: bool, address: IpAddr) {
        match address {
            IpAddr::V4(address) if !self.v6 => self.set_bytes(frame, destination, &address.octets()),
            IpAddr::V6(address) if self.v6 => self.set_bytes(frame, destination, &address.octets()),
            _ => {}
        }
    }

    /// Checksums are updated, not computed anew (RFC 1624, equation 3): one that was wrong, or
    /// left to the card, stays so, and a packet that was cut keeps the sum of the whole.
    fn set_bytes(&self, frame: &mut [u8], destination: bool, new: &[u8]) {
        let Some(field) = frame.get_mut(self.address(destination)) else { return };
        let words = |bytes: &[u8], invert: u16| -> u32 {
            bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]) ^ invert)).sum()
        };
        let change = words(field, 0xffff) + words(new, 0);
        field.copy_from_slice(new);
        if !self.v6 {
            update(frame, self.ip as usize + 10, change);
        }
        let Some(at) = self.checksum.map(|at| at as usize) else { return };
        let is_udp = self.protocol == UDP;
        // RFC 768: zero says that there is no checksum; a sum of zero is sent as all ones.
        if is_udp && u16_at(frame, at) == Some(0) {
            return;
        }
        update(frame, at, change);
        if is_udp && u16_at(frame, at) == Some(0) {
            frame[at..at + 2].fill(0xff);
        }
    }
}

fn update(frame: &mut [u8], at: usize, change: u32) {
    let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else { return };
    let mut sum = u32::from(!u16::from_be_bytes(*field)) + change;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    *field = (!(sum as u16)).to_be_bytes();
}

#[cfg(test)]
mod tests;
