//! What is generated is what it says: the class that the datapath counts it in.

use std::collections::BTreeMap;

use ftagent_common::{
    TrafficClass,
    parse::{SlicePacket, parse},
};

use super::*;
use crate::traffic::Capture;

/// Connections: many packets of many classes.
const BULKY: [&str; 7] =
    ["connection_flood", "tls_flood", "http_get_flood", "flash_crowd", "speed_test", "backup_upload", "download_acks"];

/// Classes of the packets towards the host (or to anybody, where it is multicast).
fn classes(path: &Path) -> BTreeMap<&'static str, u32> {
    let mut capture = Capture::open(path).unwrap();
    let mut seen = BTreeMap::new();
    while let Some(packet) = capture.next_packet().unwrap() {
        let from_host = packet.bytes.get(26..30) == Some(&HOST.octets());
        if !from_host {
            let facts = parse(&SlicePacket { bytes: &packet.bytes, wire: packet.bytes.len() }, |_| false);
            let class = TrafficClass::from_index(facts.class as usize).unwrap();
            *seen.entry(class.as_str()).or_insert(0) += 1;
        }
    }
    seen
}

#[test]
fn floods_are_of_the_class_they_are_named_after() {
    let dir = tempfile::tempdir().unwrap();
    write_captures(dir.path(), |name| !BULKY.contains(&name)).unwrap();
    let purely = [
        ("ack_flood", "tcp_ack"),
        ("psh_ack_flood", "tcp_data"),
        ("rst_flood", "tcp_rst"),
        ("fin_flood", "tcp_fin"),
        ("null_flood", "tcp_null"),
        ("xmas_flood", "tcp_xmas"),
        ("syn_fin_flood", "tcp_badflags"),
        ("urg_flood", "tcp_urg"),
        ("mirai_syn", "tcp_syn"),
        ("syn6_flood", "tcp_syn"),
        ("middlebox_reflection", "tcp_data"),
        ("unlisted_reflector", "udp_game_query"),
        ("dns_query_flood", "udp_dns_query"),
        ("dns_water_torture", "udp_dns_query"),
        ("quic_flood", "udp_quic_initial"),
        ("sip_flood", "udp_sip"),
        ("game_query_flood", "udp_game_query"),
        ("vpn_flood", "udp_vpn"),
        ("fragments_udp", "frag_next"),
        ("icmp_unreachable_flood", "icmp_unreachable"),
        ("smurf", "icmp_echo_reply"),
        ("icmp6_flood", "icmp6_echo"),
        ("gre_flood", "gre"),
        ("esp_flood", "esp_ah"),
        ("ipip_flood", "ipip"),
        ("sctp_flood", "sctp"),
        ("random_protocols", "other_proto"),
        ("malformed_flood", "malformed"),
        ("snmp_walk", "udp_src_snmp"),
        ("dns_answers_elsewhere", "udp_src_dns"),
        ("gre_tunnel", "gre"),
    ];
    for (name, class) in purely {
        let seen = classes(&dir.path().join(format!("{name}.pcap")));
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [class], "{name}");
    }
    for reflector in udp::REFLECTORS {
        let name = format!("{}_amplification", reflector.name);
        let seen = classes(&dir.path().join(format!("{name}.pcap")));
        let class = format!("udp_src_{}", reflector.name);
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), [class.as_str()], "{name}");
    }
}

#[test]
fn the_same_bytes_come_out_every_time() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let names = ["http_get_flood", "nfs_udp_fragments", "ntp_amplification", "malformed_flood"];
    for dir in [&first, &second] {
        write_captures(dir.path(), |name| names.contains(&name)).unwrap();
    }
    for name in names {
        let file = format!("{name}.pcap");
        let bytes = |dir: &tempfile::TempDir| fs::read(dir.path().join(&file)).unwrap();
        assert_eq!(bytes(&first), bytes(&second), "{name}");
    }
}
