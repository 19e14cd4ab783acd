//! Patterns of tools against real captures, and exports against the published schemas.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ftagent::{
    decide::Packet,
    record::ioc::{Kind, Library, Look, Scratch},
    replay::capture::for_each_packet,
};
use ftagent_common::sample::SAMPLE_BYTES;
use ftagent_tests::{evaluate::generate, sandbox::skip, traffic::need_captures};

/// The share of a benign capture's packets that one pattern of a tool may match. A relation of 16 bits holds
/// by chance once in 65 536 packets.
const MOST_FALSE: f64 = 0.0005;

/// Generated captures of ordinary traffic. Noise of the Internet is not among them: it has scanners' packets.
const ORDINARY: [&str; 11] = [
    "backup_upload",
    "dns_answers_elsewhere",
    "download_acks",
    "flash_crowd",
    "gre_tunnel",
    "market_data",
    "nfs_udp_fragments",
    "openvpn_tunnel",
    "snmp_walk",
    "speed_test",
    "wireguard_tunnel",
];

/// Generated floods, and the pattern that nearly all of their packets match.
const FLOODS: [(&str, &str); 19] = [
    ("mirai_syn", "mirai_scan"),
    ("chargen_amplification", "chargen_answer"),
    ("portmap_amplification", "portmap_answer"),
    ("ntp_amplification", "ntp_monlist_answer"),
    ("cldap_amplification", "cldap_answer"),
    ("mssql_amplification", "mssql_answer"),
    ("plex_amplification", "plex_answer"),
    ("wsd_amplification", "wsd_answer"),
    ("bittorrent_amplification", "bittorrent_dht_answer"),
    ("mitel_amplification", "mitel_blast"),
    ("memcached_amplification", "memcached_answer"),
    ("quake_amplification", "quake_status_answer"),
    ("steam_amplification", "source_engine_answer"),
    ("jenkins_amplification", "jenkins_answer"),
    ("dvr_amplification", "dvr_answer"),
    ("openvpn_amplification", "openvpn_reset_answer"),
    ("game_query_flood", "source_engine_query"),
    ("middlebox_reflection", "middlebox_page"),
    ("icmp_unreachable_flood", "icmp_port_unreachable"),
];

/// How many packets of a capture match each pattern; `kept` bytes of each are looked at.
fn hits(library: &Library, path: &Path, kept: usize) -> Result<(u64, BTreeMap<String, u64>)> {
    let (mut packets, mut found) = (0, BTreeMap::new());
    let (mut scratch, mut buffer) = (Scratch::default(), Vec::new());
    for_each_packet(path, |captured| {
        let Some(frame) = captured.frame(&mut buffer) else { return };
        let bytes = &frame[..frame.len().min(kept)];
        let packet = Packet::decode(captured.time_ns, bytes, frame.len(), None, false);
        packets += 1;
        for number in library.scan(&Look::of(&packet, bytes), &mut scratch) {
            let name = library.pattern(*number).map_or("", |pattern| &pattern.name);
            *found.entry(name.to_owned()).or_default() += 1;
        }
    })
    .with_context(|| path.display().to_string())?;
    Ok((packets, found))
}

fn kind(library: &Library, name: &str) -> Option<Kind> {
    library.patterns().iter().find(|pattern| pattern.name == name).map(|pattern| pattern.kind)
}

/// Patterns of tools and bots that match more of a capture than they may.
fn false_positives(library: &Library, path: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for kept in [SAMPLE_BYTES, usize::MAX] {
        let (packets, found) = hits(library, path, kept)?;
        for (name, count) in found {
            let named = kind(library, &name).is_some_and(Kind::names_a_tool);
            if named && count as f64 > MOST_FALSE * packets as f64 {
                wrong.push(format!("{}: {name} matches {count} of {packets}", path.display()));
            }
        }
    }
    Ok(wrong)
}

fn pcaps(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in dir.read_dir().with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn no_tool_is_seen_in_benign_captures() -> Result<()> {
    let Some(root) = need_captures("no_tool_is_seen_in_benign_captures") else { return Ok(()) };
    let library = Library::shipped();
    let (mut count, mut wrong) = (0, Vec::new());
    for entry in root.read_dir()? {
        let dir = entry?.path();
        let benign = dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("benign_"));
        for path in if benign { pcaps(&dir)? } else { Vec::new() } {
            count += 1;
            wrong.extend(false_positives(&library, &path)?);
        }
    }
    if count == 0 {
        skip("no_tool_is_seen_in_benign_captures", "no benign captures there: set FTAGENT_CAPTURES");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Labelled captures of attacks, and the pattern that must match a good part of them.
const LABELLED: [(&str, &str, f64); 3] = [
    ("http_flood/joaoceron+ddos_dissector__anonymousdos_js_loic.pcap", "loic_page", 0.01),
    ("ssdp_amplification/joaoceron+ddos_dissector__booter_ssdp_20141229.pcap", "ssdp_answer", 0.5),
    ("tcp_connection_flood/l-laura+MQTTset-reduced__mqtt_malaria_publish_flood.pcap", "mqtt_malaria", 0.01),
];

#[test]
fn labelled_attacks_are_seen() -> Result<()> {
    let Some(root) = need_captures("labelled_attacks_are_seen") else { return Ok(()) };
    let library = Library::shipped();
    let mut wrong = Vec::new();
    for (file, pattern, least) in LABELLED {
        let path = root.join(file);
        if !path.exists() {
            skip("labelled_attacks_are_seen", &format!("{file} is not there"));
            continue;
        }
        let (packets, found) = hits(&library, &path, usize::MAX)?;
        let count = found.get(pattern).copied().unwrap_or_default();
        if (count as f64) < least * packets as f64 {
            wrong.push(format!("{file}: {pattern} matches {count} of {packets}; found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn generated_floods_are_seen_and_generated_ordinary_traffic_is_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let wanted = |name: &str| ORDINARY.contains(&name) || FLOODS.iter().any(|(flood, _)| *flood == name);
    generate::write_captures(dir.path(), wanted)?;
    let library = Library::shipped();
    let mut wrong = Vec::new();
    for name in ORDINARY {
        wrong.extend(false_positives(&library, &dir.path().join(format!("{name}.pcap")))?);
    }
    for (name, pattern) in FLOODS {
        let (packets, found) = hits(&library, &dir.path().join(format!("{name}.pcap")), SAMPLE_BYTES)?;
        let count = found.get(pattern).copied().unwrap_or_default();
        if (count as f64) < 0.9 * packets as f64 {
            wrong.push(format!("{name}: {pattern} matches {count} of {packets}; found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The validator of the OASIS schemas (PyPI: stix2-validator), in an environment of its own.
fn validator() -> Option<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stix-venv");
    let program = home.join("bin/stix2_validator");
    if !program.exists() {
        let run = |program: &Path, args: &[&str]| {
            Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
        };
        let made = run(Path::new("python3"), &["-m", "venv", home.to_str()?]);
        if !made || !run(&home.join("bin/pip"), &["install", "--quiet", "--timeout", "20", "stix2-validator==3.3.2"]) {
            return None;
        }
    }
    Some(program)
}

/// What the standard recommends and we leave, by the validator's numbers: random identifiers (ours are the same
/// for the same report), a hash of the page that a reference names, and both ports of traffic where one is known.
const DELIBERATE: &str = "103,302,301";

#[test]
fn a_bundle_is_valid_by_the_published_schemas() -> Result<()> {
    let Some(validator) = validator() else {
        skip(
            "a_bundle_is_valid_by_the_published_schemas",
            "stix2-validator cannot be installed: python3-venv and PyPI",
        );
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (number, report) in reports()?.into_iter().enumerate() {
        let path = dir.path().join(format!("{number}.json"));
        std::fs::write(&path, serde_json::to_vec(&ftagent::record::ioc::stix::bundle(&report))?)?;
        files.push(path);
    }
    let out = Command::new(validator).args(["--version", "2.1", "--disable", DELIBERATE]).args(&files).output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success() && !said.contains("[X]"), "{said}");
    // Custom content, vocabularies that are not the standard's, identifiers that are not as they should be.
    ensure!(!said.contains("[!]"), "{said}");
    Ok(())
}

/// A report of a botnet's flood, one of reflected answers, one of a tool, and an empty one.
fn reports() -> Result<Vec<ftagent::record::ioc::IocReport>> {
    use serde_json::json;
    let source = |n: u32, port: Option<u16>| {
        json!({
            "address": Ipv4Addr::from_bits(0x0506_0700 + n), "packets": 1000 - n, "share": 0.02, "confidence": 0.85,
            "why": "it says so", "first_ms": 1_785_585_600_000i64, "last_ms": 1_785_585_612_345i64, "port": port,
        })
    };
    let hit = |name: &str, kind: &str, tool: &str| {
        json!({
            "name": name, "kind": kind, "tool": tool, "about": "packets", "source": "a paper", "confidence": 0.9,
            "packets": 900, "share": 0.9,
        })
    };
    let report = |vector: &str, sources: Vec<_>, reflectors: Vec<_>, patterns: Vec<_>| {
        json!({
            "version": 1, "incident": format!("20260801T120000Z-{vector}"), "vector": vector, "vectors": [vector],
            "from_ms": 1_785_585_600_000i64, "to_ms": 1_785_585_612_345i64, "basis": "rules", "samples": 1000,
            "packets": 5_000_000_000u64, "spoofing": { "verdict": "unknown", "confidence": 0.3, "why": [] },
            "distinct_sources": 50, "sources": sources, "reflectors": reflectors, "prefixes": [], "payloads": [],
            "patterns": patterns, "source_ports": [], "destination_ports": [], "lengths": [], "ttls": [],
            "targets": [{ "value": "198.51.100.10", "packets": 5, "share": 1.0 }],
            "tls": { "fingerprints": [], "whole": 0, "cut": 0, "broken": 0 }, "tool": null,
        })
    };
    let v6 = json!({
        "address": "2001:db8:1::7", "packets": 1000, "share": 0.02, "confidence": 0.4, "why": "one TTL",
        "first_ms": 1_785_585_600_000i64, "last_ms": 1_785_585_612_345i64,
    });
    let bots = (0..40).map(|n| source(n, None)).chain([v6]).collect();
    let servers = (0..40).map(|n| source(n, Some(if n % 2 == 0 { 123 } else { 53 }))).collect();
    let all = [
        report("syn_flood", bots, vec![], vec![hit("mirai_scan", "botnet", "Mirai")]),
        report("ntp_amplification", vec![], servers, vec![hit("ntp_monlist_answer", "reflection", "")]),
        report("udp_flood", vec![source(1, None)], vec![], vec![hit("loic_text", "tool", "LOIC")]),
        report("carpet_bombing", vec![], vec![], vec![]),
    ];
    Ok(all.into_iter().map(serde_json::from_value).collect::<Result<_, _>>()?)
}
