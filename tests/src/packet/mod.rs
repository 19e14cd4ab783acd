//! Builds frames from fields: the fixtures of the datapath tests.
//!
//! Lengths and checksums are right unless a field says otherwise; every one can be overridden,
//! because most of what is tested are packets that no stack would send. Written by hand for that
//! reason: a packet library refuses to build them.
//!
//! A frame is built from the inside out: a [`Transport`] goes into an [`Ipv4`] or [`Ipv6`], whose
//! bytes go behind an Ethernet header ([`frame`]), into which [`tagged`] puts VLAN tags.

pub mod datapath;
pub mod fixtures;
mod ip;
mod transport;

pub use ip::{Extension, Ipv4, Ipv6};
pub use transport::{Icmp, Tcp, Transport, Udp, flags};

/// EtherTypes (IEEE registration authority).
pub mod ethertype {
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// LLDP.
    pub const LLDP: u16 = 0x88cc;
    /// LACP and the other slow protocols.
    pub const SLOW: u16 = 0x8809;
    /// An 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// An 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

/// IP protocol numbers (IANA).
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// AH.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: no next header.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header.
    pub const MOBILITY: u8 = 135;
}

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of both addresses of an Ethernet header; tags and EtherType follow.
const ADDRESSES: usize = 12;

/// Puts an Ethernet header in front of `body`.
pub fn frame(ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

/// Inserts VLAN tags, the outermost first, given as EtherTypes; the VLANs are 100, 101, …
pub fn tagged(untagged: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut frame = untagged.get(..ADDRESSES).unwrap_or(untagged).to_vec();
    for (vlan, tag) in (100u16..).zip(tags) {
        frame.extend(tag.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(untagged.get(ADDRESSES..).unwrap_or_default());
    frame
}

/// The ways to tag a frame that every fixture is repeated with: none, one tag, two tags.
pub const TAGGINGS: [&[u16]; 6] = {
    use ethertype::{QINQ, VLAN};
    [&[], &[VLAN], &[QINQ], &[VLAN, VLAN], &[QINQ, VLAN], &[QINQ, QINQ]]
};

/// The internet checksum (RFC 1071) over several pieces, each but the last of even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for piece in pieces {
        for pair in piece.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair.first().copied().unwrap_or(0), low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3.
    #[test]
    fn checksum_of_the_rfc() {
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    /// A header that carries its own checksum sums up to zero, and so does a datagram with its
    /// pseudo-header.
    #[test]
    fn frames_carry_right_checksums() {
        let segment = Tcp { payload: b"odd".to_vec(), ..Tcp::to(80, flags::ACK) }.build();
        let ip = Ipv4 { options: vec![1; 4], ..Ipv4::new() }.build(&segment);
        assert_eq!(checksum(&[&ip[..24]]), 0);
        let length = [0, proto::TCP, 0, (ip.len() - 24) as u8];
        assert_eq!(checksum(&[&ip[12..20], &length, &ip[24..]]), 0);

        let ip = Ipv6::new().build(&segment);
        let length = [0, 0, 0, (ip.len() - 40) as u8, 0, 0, 0, proto::TCP];
        assert_eq!(checksum(&[&ip[8..40], &length, &ip[40..]]), 0);
    }

    #[test]
    fn tags_go_between_addresses_and_ethertype() {
        let tagged = tagged(&frame(ethertype::ARP, &[7]), &[ethertype::QINQ, ethertype::VLAN]);
        assert_eq!(tagged[12..], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 101, 8, 6, 7]);
    }
}
