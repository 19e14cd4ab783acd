//! Every shipped pattern matches the packet that it describes, as a sample too, and ordinary packets match
//! none that names a tool.

use std::{collections::BTreeSet, net::Ipv4Addr};

use proptest::prelude::*;

use super::super::*;
use crate::decide::{
    Packet,
    frames::{Dice, HOST, connection, ip, ip_at, udp},
};

const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const SAMPLE: usize = 128;

pub struct Segment<'a> {
    pub ports: (u16, u16),
    pub flags: u8,
    pub seq: u32,
    pub window: u16,
    pub id: u16,
    pub options: &'a [u8],
    pub payload: &'a [u8],
}

pub const SYN: Segment<'static> =
    Segment { ports: (40_000, 80), flags: 2, seq: 77, window: 64_240, id: 9, options: &[], payload: &[] };

pub fn tcp_from(src: Ipv4Addr, segment: &Segment<'_>) -> Vec<u8> {
    let mut bytes = [segment.ports.0, segment.ports.1].map(u16::to_be_bytes).concat();
    bytes.extend(segment.seq.to_be_bytes());
    let ack: u32 = if segment.flags & 16 == 0 { 0 } else { 1 };
    bytes.extend(ack.to_be_bytes());
    bytes.extend([(5 + segment.options.len() as u8 / 4) << 4, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(segment.options);
    bytes.extend(segment.payload);
    let [high, low] = segment.id.to_be_bytes();
    ip_at(src, HOST, 6, [high, low, 0, 0], &bytes)
}

fn tcp(segment: &Segment<'_>) -> Vec<u8> {
    tcp_from(PEER, segment)
}

fn data(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    tcp(&Segment { ports, flags: 24, payload, options: &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1], ..SYN })
}

fn from(port: u16, payload: &[u8]) -> Vec<u8> {
    udp(PEER, (port, 50_123), payload)
}

fn to(port: u16, payload: &[u8]) -> Vec<u8> {
    udp(PEER, (50_123, port), payload)
}

fn padded(head: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = head.to_vec();
    bytes.resize(length, 0x5a);
    bytes
}

const MIRAI_OPTIONS: [u8; 20] = [2, 4, 5, 0x7c, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 6];

/// GRE around what Mirai puts into it; the bot has one byte order or the other.
fn gre(ethernet: bool, outer: u16, inner: u16) -> Vec<u8> {
    let mut payload = if ethernet { vec![0, 0, 0x65, 0x58] } else { vec![0, 0, 8, 0] };
    let [high, low] = inner.to_be_bytes();
    let inside = ip_at(Ipv4Addr::new(9, 8, 7, 6), Ipv4Addr::new(5, 4, 3, 2), 17, [high, low, 0, 0], &[1; 520]);
    payload.extend(if ethernet { &inside[..] } else { &inside[14..] });
    let [high, low] = outer.to_be_bytes();
    ip_at(PEER, HOST, 47, [high, low, 0, 0], &payload)
}

/// RFC 1035, 4.1: a question for a name of two labels.
fn dns(answer: bool, name: &[&[u8]], kind: u8, class: u8) -> Vec<u8> {
    let mut bytes = vec![1, 2, if answer { 0x81 } else { 1 }, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name {
        bytes.push(label.len() as u8);
        bytes.extend(*label);
    }
    bytes.extend([0, 0, kind, 0, class]);
    bytes
}

fn snmp(kind: u8) -> Vec<u8> {
    let mut bytes = vec![0x30, 0x82, 4, 0, 2, 1, 1, 4, 6];
    bytes.extend(b"public");
    bytes.extend([kind, 0x82, 3, 0xf0]);
    bytes.splice(1..4, [0x26]);
    bytes
}

fn rpc(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The packet of each pattern.
fn botnets_and_tools() -> Vec<(&'static str, Vec<u8>)> {
    let masscan = (HOST.to_bits() ^ 80 ^ 0x0102_0304) as u16;
    vec![
        ("mirai_scan", tcp(&Segment { seq: HOST.to_bits(), ports: (5000, 23), ..SYN })),
        ("mirai_syn", tcp(&Segment { window: 0, options: &MIRAI_OPTIONS, ..SYN })),
        ("mirai_gre_ip", gre(false, 5000, !4000u16)),
        ("mirai_gre_ip", gre(false, 5000u16.swap_bytes(), (!4000u16).swap_bytes())),
        ("mirai_gre_eth", gre(true, 700, !(700u16.wrapping_sub(1000)))),
        ("gafgyt_std_text", to(9999, b"dayzddos.co runs you if you read this lol then you tcp dumped it")),
        ("gafgyt_hex_text", to(80, b"/x38/xFJ/x93/xID/x9A/x38/xFJ/x93/xID/x9A/x38")),
        ("mozi_dht", to(6881, b"d1:ad2:id20:88888888aaaabbbbccccd6:target20:")),
        ("sql_slammer", to(1434, &padded(&[4, 1, 1, 1, 1, 1, 1, 1, 1], 376))),
        ("syn_padded", tcp(&Segment { payload: &[7; 969], ..SYN })),
        ("hping3_tcp", tcp(&Segment { window: 512, ..SYN })),
        (
            "hping3_fill",
            ip(PEER, 1, &padded(&[8, 0, 0, 0, 1, 2, 3, 4], 8).into_iter().chain([b'X'; 120]).collect::<Vec<_>>()),
        ),
        ("loic_text", to(80, b"A cat is fine too. Desudesudesu~")),
        ("loic_text_later", data((5000, 80), b"U dun goofed")),
        ("loic_page", data((5000, 80), b"GET /?id=1292337572944&msg=BOOM HTTP/1.1\r\nHost: x\r\n")),
        ("hoic_request", data((5000, 80), b"GET / HTTP/1.0\r\nAccept: */*\r\nAccept-Language:  en\r\n")),
        ("slowloris_keep", data((5000, 80), b"X-a: b\r\n")),
        ("slowloris_keep", data((5000, 80), b"X-a: 4711\r\n")),
        ("mqtt_malaria", data((5000, 1883), b"\x30\x25\0\x1emqtt-malaria/host-12/data/1/100xxx")),
        ("land", ip_at(HOST, HOST, 6, [0; 4], &[0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 1, 1, 0, 0, 0, 0])),
        ("zmap_tcp", tcp(&Segment { id: 54_321, window: 65_535, ..SYN })),
        ("zmap_other", ip_at(PEER, HOST, 1, [0xd4, 0x31, 0, 0], &[8, 0, 1, 2, 3, 4, 5, 6])),
        ("masscan_tcp", tcp(&Segment { id: masscan, seq: 0x0102_0304, window: 1024, ..SYN })),
        ("nmap_syn", tcp(&Segment { window: 1024, options: &[2, 4, 5, 0xb4], ..SYN })),
        ("nmap_odd_flags", tcp(&Segment { window: 1024, flags: 41, ..SYN })),
        ("sip_scanner", to(5060, b"OPTIONS sip:100@1.2.3.4 SIP/2.0\r\nUser-Agent: friendly-scanner\r\n")),
        ("dns_version_bind", to(53, &dns(false, &[b"VERSION", b"BIND"], 16, 3))),
    ]
}

fn reflections() -> Vec<(&'static str, Vec<u8>)> {
    let xml = b"<?xml version=\"1.0\"?><SOAP-ENV:Envelope xmlns:SOAP-ENV=";
    vec![
        ("ntp_monlist_answer", from(123, &padded(&[0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48], 440))),
        ("ntp_monlist_request", to(123, &[0x17, 0, 3, 0x2a, 0, 0, 0, 0])),
        ("ntp_control_answer", from(123, &[0x16, 0x82, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0])),
        ("memcached_answer", from(11211, b"\0\0\0\0\0\x01\0\0VALUE a 0 1048576\r\n")),
        ("memcached_request", to(11211, b"\0\x01\0\0\0\x01\0\0stats\r\n")),
        ("ssdp_answer", from(1900, b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\n")),
        ("ssdp_search", to(1900, b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n")),
        ("cldap_answer", from(389, &[0x30, 0x84, 0, 0, 0x0b, 0x6a, 2, 1, 1, 0x64, 0x84, 0, 0])),
        ("cldap_request", to(389, b"\x30\x25\x02\x01\x01\x63\x20\x04\x00\x0a\x01\x00\x87\x0bobjectclass\x30\x00")),
        ("dns_any_answer", from(53, &dns(true, &[b"example", b"org"], 255, 1))),
        ("dns_any_query", to(53, &dns(false, &[b"example", b"org"], 255, 1))),
        ("chargen_answer", from(19, b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGH")),
        ("snmp_answer", from(161, &snmp(0xa2))),
        ("snmp_bulk_request", to(161, &snmp(0xa5))),
        ("portmap_answer", from(111, &rpc(&[7, 1, 0, 0, 0, 0]))),
        ("portmap_dump_request", to(111, &rpc(&[7, 0, 2, 100_000, 2, 4, 0, 0, 0, 0]))),
        (
            "netbios_status_answer",
            from(137, b"\xe5\xd8\x84\0\0\0\0\x01\0\0\0\0 CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\x21"),
        ),
        ("mssql_answer", from(1434, b"\x05\x58\x01ServerName;SRV;InstanceName;")),
        ("wsd_answer", from(3702, xml)),
        ("wsd_probe", to(3702, xml)),
        ("ard_answer", from(3283, &padded(&[0, 1, 3, 0xea, 0x31, 0], 1006))),
        ("coap_links_answer", from(5683, b"\x64\x45\x37\x10\xff</.well-known/core>;ct=40")),
        (
            "mdns_services_answer",
            from(5353, b"\0\0\x84\0\0\x01\0\x02\0\0\0\0\x09_services\x07_dns-sd\x04_udp\x05local\0"),
        ),
        ("plex_answer", from(32414, b"HTTP/1.0 200 OK\r\nContent-Type: plex/media-server\r\n")),
        ("jenkins_answer", from(33848, b"<hudson><version>2.204.1</version>")),
        ("mitel_blast", from(10074, b"\0\0\0\0call.startblast: counter 1")),
        ("source_engine_answer", from(27015, b"\xff\xff\xff\xffI\x11name\0")),
        ("quake_status_answer", from(27960, b"\xff\xff\xff\xffstatusResponse\n\\")),
        ("game_info_answer", from(30120, b"\xff\xff\xff\xffinfoResponse\n\\sv_maxclients")),
        ("dvr_answer", from(37810, b"\xc1\0\0\0\0\0\0\0{\"method\":\"client.notifyDevInfo\"")),
        ("bittorrent_dht_answer", from(6881, b"d1:rd2:id20:abcdefghij0123456789e1:t2:aa1:y1:re")),
        ("stun_answer", from(3478, &[1, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4])),
        ("ipmi_answer", from(623, &[6, 0, 0xff, 7, 0, 0, 0, 0])),
        ("middlebox_page", data((80, 5000), b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n")),
        ("middlebox_request", tcp(&Segment { payload: b"GET / HTTP/1.1\r\nHost: blocked.example\r\n\r\n", ..SYN })),
    ]
}

fn protocols() -> Vec<(&'static str, Vec<u8>)> {
    let ike = [&[9u8; 8][..], &[0; 8], &[33, 0x20, 34, 8], &[0; 8]].concat();
    let raknet = [
        &[1u8, 0, 0, 0, 0, 0, 0, 0, 1][..],
        &[0, 255, 255, 0, 254, 254, 254, 254, 253, 253, 253, 253, 0x12, 0x34, 0x56, 0x78],
    ]
    .concat();
    vec![
        ("source_engine_query", to(27015, b"\xff\xff\xff\xffTSource Engine Query\0")),
        ("quake_status_query", to(27960, b"\xff\xff\xff\xffgetstatus")),
        ("game_info_query", to(30120, b"\xff\xff\xff\xffgetinfo xxx")),
        ("raknet_ping", to(19132, &raknet)),
        ("samp_query", to(7777, b"SAMP\x01\x02\x03\x04\x61\x1ei")),
        ("teamspeak3_init", to(9987, b"TS3INIT1\0\x65\0\0\x88")),
        ("wireguard_init", to(51820, &padded(&[1, 0, 0, 0], 148))),
        ("openvpn_reset", to(1194, &[0x38, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0])),
        ("openvpn_reset_answer", from(1194, &[0x40, 1, 2, 3, 4, 5, 6, 7, 8, 0])),
        ("ike_init", to(500, &ike)),
        ("quic_initial", to(443, &padded(&[0xc3, 0, 0, 0, 1, 8], 1200))),
        ("tls_client_hello", data((5000, 443), &padded(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 517))),
        ("http_get", data((5000, 80), b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")),
        ("http_post", data((5000, 80), b"POST /login HTTP/1.1\r\nHost: example.org\r\n")),
        ("rdp_cookie", data((5000, 3389), b"\x03\0\0\x2a\x25\xe0\0\0\0\0\0Cookie: mstshash=hello\r\n")),
        ("mqtt_connect", data((5000, 1883), b"\x10\x1a\0\x04MQTT\x04\x02\0\x3c\0\x0e")),
        ("sip_request", to(5060, b"INVITE sip:bob@example.org SIP/2.0\r\n")),
        ("sip_request", to(5060, b"REGISTER sip:example.org SIP/2.0\r\n")),
        ("icmp_port_unreachable", ip(PEER, 1, &[3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 0])),
        ("icmp_echo_reply", ip(PEER, 1, &[0, 0, 0, 0, 0, 1, 0, 1, 9, 8, 7, 6])),
    ]
}

fn names(library: &Library, frame: &[u8], kept: usize) -> Vec<String> {
    let bytes = frame.get(..kept).unwrap_or(frame);
    let packet = Packet::decode(0, bytes, frame.len(), None, false);
    let mut scratch = Scratch::default();
    let hits = library.scan(&Look::of(&packet, bytes), &mut scratch);
    hits.iter().filter_map(|number| library.pattern(*number)).map(|pattern| pattern.name.clone()).collect()
}

#[test]
fn every_pattern_matches_its_packet() {
    let library = Library::shipped();
    let mut cases = [botnets_and_tools(), reflections(), protocols()].concat();
    let whole_only = [(
        "slowloris_agent",
        data((5000, 80), b"GET /1 HTTP/1.1\r\nHost: example.org\r\nUser-Agent: Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 5.1; Trident/4.0; .NET CLR 1.1.4322; .NET CLR 2.0.503l3;"),
    )];
    for (name, frame) in &cases {
        let found = names(&library, frame, SAMPLE);
        assert!(found.iter().any(|found| found == name), "{name} as a sample: {found:?}");
    }
    cases.extend(whole_only);
    let kind = |name: &str| library.patterns().iter().find(|pattern| pattern.name == name).unwrap().kind;
    for (name, frame) in &cases {
        let found = names(&library, frame, usize::MAX);
        assert!(found.iter().any(|found| found == name), "{name}: {found:?}");
        // Who made a packet is said by one pattern at most, and by none where it is a protocol's.
        let told: Vec<&String> = found.iter().filter(|found| kind(found).names_a_tool()).collect();
        assert!(told.iter().all(|told| *told == name), "{name}: {told:?}");
    }
    let covered: BTreeSet<&str> = cases.iter().map(|(name, _)| *name).collect();
    let all: BTreeSet<&str> = library.patterns().iter().map(|pattern| pattern.name.as_str()).collect();
    assert_eq!(covered, all, "every pattern has a packet here");
}

#[test]
fn what_is_nearly_so_matches_nothing_that_names_a_tool() {
    let linux = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let fast_open = [&linux[..], &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]].concat();
    let cases = [
        ("another sequence number", tcp(&Segment { seq: HOST.to_bits() + 1, ..SYN })),
        ("an answer with that number", tcp(&Segment { seq: HOST.to_bits(), flags: 18, ..SYN })),
        ("a Linux client", tcp(&Segment { options: &linux, ..SYN })),
        ("a phone's MSS and scale", tcp(&Segment { options: &MIRAI_OPTIONS, ..SYN })),
        ("a request in a SYN", tcp(&Segment { options: &fast_open, payload: &[b'a'; 900], ..SYN })),
        ("a scaled window of 512", tcp(&Segment { window: 512, flags: 16, ..SYN })),
        ("a reset", tcp(&Segment { window: 512, flags: 4, ..SYN })),
        ("GRE with UDP", gre(false, 5000, 5001)),
        ("GRE with zero identifications", gre(false, 0, 0)),
        ("seven letters", data((5000, 80), b"XXXXXXX")),
        ("another header", data((5000, 80), b"X-abc: 1\r\n")),
        ("a question and a message", data((5000, 80), b"GET /?q=1&msg=hi HTTP/1.1\r\n")),
    ];
    let library = Library::shipped();
    for (what, frame) in cases {
        for name in names(&library, &frame, usize::MAX) {
            let pattern = library.patterns().iter().find(|pattern| pattern.name == name).unwrap();
            assert!(!pattern.kind.names_a_tool(), "{what}: {name}");
        }
    }
    let mut dice = Dice(7);
    for number in 0..300 {
        let client = dice.anyone();
        let requests = [dice.bytes(300), b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()];
        for (_, frame) in connection(&mut dice, client, 443, &requests, 1200) {
            for name in names(&library, &frame, SAMPLE) {
                let pattern = library.patterns().iter().find(|pattern| pattern.name == name).unwrap();
                assert!(!pattern.kind.names_a_tool(), "connection {number}: {name}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_end_the_search(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0usize..6,
        cut in 0usize..200,
    ) {
        let library = Library::shipped();
        // Behind headers that lead somewhere.
        let starts: [&[u8]; 6] = [
            &[],
            &[0; 12],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x4f, 0],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 1, 0x88, 0xa8],
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 200, 0, 0, 0, 0, 64, 47, 0, 0],
        ];
        let frame = [starts[kind], &bytes].concat();
        names(&library, &frame, cut);
    }
}
