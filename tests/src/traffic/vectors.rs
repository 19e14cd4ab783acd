//! Ready floods by the names of attack vectors: one table, [`VECTORS`].
//!
//! The packets are made from the protocols' definitions, not from captures. Sources are drawn
//! from the prefixes set aside for benchmarks (198.18.0.0/15, RFC 2544; 2001:2::/48, RFC 5180)
//! unless the caller sets others.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use ftagent_common::TrafficClass;

use super::{Addresses, Flood, Fragment, L4, Template, Values, Vary, Word, tcp};
use crate::sandbox::{Mac, Veth};

/// A kind of attack traffic.
#[derive(Debug)]
pub struct Vector {
    /// The vector's name; a few are kinds of packets that no vector is named after.
    pub name: &'static str,
    /// What its packets are.
    pub about: &'static str,
    /// The class that the datapath counts its packets in, where no port is a service's.
    pub class: TrafficClass,
    shape: Shape,
}

/// From where to where a flood goes.
#[derive(Clone, Debug)]
pub struct Link {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// VLAN tags, outermost first: EtherType and TCI.
    pub vlans: Vec<(u16, u16)>,
    /// Destination.
    pub dst: IpAddr,
}

impl Link {
    /// From the peer of a veth to the end under test.
    pub fn to_here(veth: &Veth, v6: bool) -> Self {
        let dst = if v6 { veth.here.v6.into() } else { veth.here.v4.into() };
        Self { src_mac: veth.peer.mac, dst_mac: veth.here.mac, vlans: Vec::new(), dst }
    }
}

#[derive(Debug)]
enum Shape {
    /// TCP to a port, with random sequence numbers and source ports.
    Tcp { flags: u8, options: &'static [u8], payload: &'static [u8] },
    /// Answers of a reflector: from one port to any, with a head and filler up to a length.
    Answer { sport: u16, head: &'static [u8], length: usize },
    /// Requests to a service: to one port, words of which vary.
    Request { dport: u16, head: &'static [u8], length: usize, words: &'static [Word] },
    /// Junk to any port.
    Junk { length: usize },
    /// ICMP: type and code over IPv4, over IPv6.
    Icmp { v4: (u8, u8), v6: (u8, u8), length: usize },
    /// Another protocol.
    Raw { protocol: u8, head: &'static [u8], length: usize, fragment: Option<Fragment> },
}

/// Ports that no reflector answers from and no service listens on.
const EPHEMERAL: Values = Values::Between(49152, 65535);
/// Stands for payload that nobody looks at; no protocol's first byte.
const FILLER: u8 = b'.';
/// MSS 1460, SACK permitted, timestamps, window scale 7: what Linux sends.
const SYN_OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
const DNS_QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x0dwaaaaaaaaaaaa\x07example\x03com\0\0\x01\0\x01";
const LETTERS: u32 = 0x0f0f_0f0f;

const fn word(offset: usize, width: usize, base: u32, mask: u32) -> Word {
    Word { offset, width, base, mask }
}

const fn bare(flags: u8) -> Shape {
    Shape::Tcp { flags, options: &[], payload: &[] }
}

macro_rules! vectors {
    ($($name:literal $class:ident $about:literal $shape:expr;)*) => {
        /// All of them.
        pub static VECTORS: &[Vector] =
            &[$(Vector { name: $name, about: $about, class: TrafficClass::$class, shape: $shape }),*];
    };
}

vectors! {
    "syn_flood" TcpSyn "SYNs with the options that Linux sends"
        Shape::Tcp { flags: tcp::SYN, options: SYN_OPTIONS, payload: &[] };
    "syn_ack_flood" TcpSynAck "SYN-ACKs that nobody asked for" bare(tcp::SYN | tcp::ACK);
    "ack_flood" TcpAck "bare ACKs out of any connection" bare(tcp::ACK);
    "psh_ack_flood" TcpData "data out of any connection"
        Shape::Tcp { flags: tcp::PSH | tcp::ACK, options: &[], payload: &[FILLER; 512] };
    "rst_flood" TcpRst "resets" bare(tcp::RST);
    "fin_flood" TcpFin "FIN-ACKs out of any connection" bare(tcp::FIN | tcp::ACK);
    "null_flood" TcpNull "TCP without any flag" bare(0);
    "xmas_flood" TcpXmas "FIN, PSH and URG" bare(tcp::FIN | tcp::PSH | tcp::URG);
    "tcp_flag_flood" TcpBadFlags "SYN with FIN" bare(tcp::SYN | tcp::FIN);
    "http_flood" HttpRequest "GET requests out of any connection"
        Shape::Tcp { flags: tcp::PSH | tcp::ACK, options: &[], payload: b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" };
    "udp_flood" UdpMedium "junk from and to any port" Shape::Junk { length: 512 };
    "udp_flood_small" UdpSmall "as udp_flood, with 18 bytes: the shortest frames" Shape::Junk { length: 18 };
    "udp_flood_large" UdpLarge "as udp_flood, with 1400 bytes" Shape::Junk { length: 1400 };
    "dns_query_flood" UdpDnsQuery "queries for random names under one zone"
        Shape::Request { dport: 53, head: DNS_QUERY, length: 0, words: &[
            word(0, 2, 0, 0xffff),
            word(14, 4, 0x6161_6161, LETTERS), word(18, 4, 0x6161_6161, LETTERS), word(22, 4, 0x6161_6161, LETTERS),
        ] };
    "quic_flood" UdpQuicInitial "Initial packets with random connection IDs"
        Shape::Request { dport: 443, head: b"\xc3\0\0\0\x01\x08........\x08........\0\x44\x9e", length: 1200, words: &[
            word(6, 4, 0, u32::MAX), word(10, 4, 0, u32::MAX),
        ] };
    "game_query_flood" UdpGameQuery "Source engine queries"
        Shape::Request { dport: 27015, head: b"\xff\xff\xff\xffTSource Engine Query\0", length: 0, words: &[] };
    "sip_flood" UdpSip "REGISTER requests"
        Shape::Request { dport: 5060, head: b"REGISTER sip:example.com SIP/2.0\r\n", length: 300, words: &[] };
    "dns_amplification" UdpSrcDns "large answers from port 53"
        Shape::Answer { sport: 53, head: b"\0\x01\x81\x80\0\x01\0\x20\0\0\0\0", length: 1400 };
    "ntp_amplification" UdpSrcNtp "monlist answers (mode 7)"
        Shape::Answer { sport: 123, head: b"\xd7\0\x03\x2a\0\x06\0\x48", length: 440 };
    "memcached_amplification" UdpSrcMemcached "values behind the 8-byte frame header"
        Shape::Answer { sport: 11211, head: b"\0\0\0\0\0\x01\0\0VALUE a 0 1048576\r\n", length: 1400 };
    "ssdp_amplification" UdpSrcSsdp "answers to M-SEARCH"
        Shape::Answer { sport: 1900, head: b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\n", length: 320 };
    "cldap_amplification" UdpSrcCldap "search results"
        Shape::Answer { sport: 389, head: b"\x30\x84\0\0\x0b\x6a\x02\x01\x01\x64\x84", length: 1400 };
    "snmp_amplification" UdpSrcSnmp "GetBulk responses"
        Shape::Answer { sport: 161, head: b"\x30\x82\x04\xf4\x02\x01\x01\x04\x06public\xa2\x82", length: 1272 };
    "chargen_amplification" UdpSrcChargen "lines of characters"
        Shape::Answer { sport: 19, head: b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ", length: 1024 };
    "icmp_flood" IcmpEcho "echo requests" Shape::Icmp { v4: (8, 0), v6: (128, 0), length: 56 };
    "icmp_unreachable_flood" IcmpUnreachable "port unreachable (BlackNurse)"
        Shape::Icmp { v4: (3, 3), v6: (1, 4), length: 48 };
    "fragment_flood" FragNext "middle fragments of UDP without their first"
        Shape::Raw { protocol: 17, head: &[], length: 1400, fragment: Some(Fragment { offset: 175, more: true }) };
    "gre_flood" Gre "GRE around IPv4"
        Shape::Raw { protocol: 47, head: b"\0\0\x08\0\x45\0\x02\0\0\0\0\0\x40\x11\0\0", length: 516, fragment: None };
    "esp_flood" EspAh "ESP" Shape::Raw { protocol: 50, head: &[0, 0, 0x10, 0, 0, 0, 0, 1], length: 256, fragment: None };
}

/// Returns the vector of a name.
///
/// # Errors
/// Where there is none, naming all that there are.
pub fn find(name: &str) -> Result<&'static Vector> {
    VECTORS.iter().find(|vector| vector.name == name).with_context(|| {
        let all: Vec<_> = VECTORS.iter().map(|vector| vector.name).collect();
        format!("there is no vector `{name}`; there are {}", all.join(", "))
    })
}

impl Vector {
    /// Makes a flood of this vector, without rate and bounds.
    pub fn flood(&self, link: &Link) -> Flood {
        let v6 = link.dst.is_ipv6();
        let src = benchmark_source(v6);
        let (l4, payload, fragment, vary) = self.shape.build(v6);
        let (vlans, ttl) = (link.vlans.clone(), 64);
        let &Link { src_mac, dst_mac, dst, .. } = link;
        let template = Template { src_mac, dst_mac, vlans, src: src.addr(), dst, ttl, fragment, l4, payload };
        Flood::new(template, Vary { src: Addresses::Prefix(src), ..vary })
    }
}

fn benchmark_source(v6: bool) -> ipnet::IpNet {
    use std::net::{Ipv4Addr, Ipv6Addr};
    // Both lengths are within their families' and so never refused.
    if v6 {
        ipnet::Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0), 48).into()
    } else {
        ipnet::Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15).into()
    }
}

type Parts = (L4, Vec<u8>, Option<Fragment>, Vary);

impl Shape {
    fn build(&self, v6: bool) -> Parts {
        match self {
            Self::Tcp { flags, options, payload } => Self::tcp(*flags, options, payload),
            Self::Answer { sport, head, length } => {
                let vary = Vary { dport: EPHEMERAL, ip_id: true, ..Vary::default() };
                (L4::Udp { sport: *sport, dport: 0 }, filled(head, *length), None, vary)
            }
            Self::Request { dport, head, length, words } => {
                let vary = Vary { sport: EPHEMERAL, ip_id: true, payload: words.to_vec(), ..Vary::default() };
                (L4::Udp { sport: 0, dport: *dport }, filled(head, *length), None, vary)
            }
            Self::Junk { length } => {
                let vary = Vary { sport: EPHEMERAL, dport: EPHEMERAL, ip_id: true, ..Vary::default() };
                (L4::Udp { sport: 0, dport: 0 }, filled(&[], *length), None, vary)
            }
            Self::Icmp { v4, v6: six, length } => {
                let (kind, code) = if v6 { *six } else { *v4 };
                let vary = Vary { ip_id: true, ..Vary::default() };
                (L4::Icmp { kind, code, rest: 0 }, filled(&[], *length), None, vary)
            }
            Self::Raw { protocol, head, length, fragment } => {
                let vary = Vary { ip_id: true, ..Vary::default() };
                (L4::Raw(*protocol), filled(head, *length), *fragment, vary)
            }
        }
    }

    fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Parts {
        let (seq, ack, options) = (0, 0, options.to_vec());
        let l4 = L4::Tcp { sport: 0, dport: 80, flags, seq, ack, window: 64240, options };
        let tcp_ack = flags & tcp::ACK != 0;
        let vary = Vary { sport: EPHEMERAL, tcp_seq: true, tcp_ack, ip_id: true, ..Vary::default() };
        (l4, payload.to_vec(), None, vary)
    }
}

/// Returns `head` and filler up to `length`.
fn filled(head: &[u8], length: usize) -> Vec<u8> {
    let mut payload = head.to_vec();
    payload.resize(length.max(head.len()), FILLER);
    payload
}
