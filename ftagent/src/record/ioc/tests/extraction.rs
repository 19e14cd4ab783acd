//! What an incident's samples say of who sent them.

use std::{net::Ipv4Addr, sync::Arc};

use ftagent_common::{
    DropReason, TrafficClass,
    guard::socket,
    reason::verdict,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};
use proptest::prelude::*;

use super::{
    super::{
        report::{Basis, Verdict, load, save},
        *,
    },
    patterns::{SYN, Segment, tcp_from},
};
use crate::{
    bpf::captures::Captured,
    decide::{
        Counts, Incident, Now, Packet, Severity, Vector,
        classify::{Evidence, Finding},
        frames::{Dice, member, udp},
        input::Input,
    },
    record::tape::TickRecord,
};

const START_MS: i64 = 1_785_585_600_000;

fn incident(vector: Vector, classes: &[TrafficClass]) -> Incident {
    let opened = Now { mono_ns: 0, unix_ms: START_MS };
    let classes = classes.iter().map(|class| class.as_str().to_owned()).collect();
    let evidence = Evidence { classes, ..Evidence::default() };
    Incident {
        confidence: 0.9,
        severity: Severity::High,
        findings: vec![Finding { vector, confidence: 0.9, tool: None, evidence }],
        ..Incident::new("20260801T120000Z-1".to_owned(), vector, opened, opened)
    }
}

/// What the kernel says of a packet.
#[derive(Clone, Copy, Default)]
struct Told {
    stride: u32,
    dropped: Option<DropReason>,
    connected: bool,
    ttl: Option<u8>,
}

fn sample(frame: &[u8], told: Told) -> SampleRecord {
    let packet = Packet::decode(0, frame, frame.len(), None, false);
    let mut data = [0; SAMPLE_BYTES];
    let kept = frame.len().min(SAMPLE_BYTES);
    data[..kept].copy_from_slice(&frame[..kept]);
    if let Some(ttl) = told.ttl {
        data[22] = ttl;
    }
    let header = SampleHeader {
        time_ns: 0,
        wire_bytes: frame.len() as u32,
        stride: told.stride,
        captured: kept as u16,
        slot: 0,
        class: packet.class as u8,
        verdict: if told.dropped.is_some() { verdict::DROP } else { verdict::PASS } as u8,
        reason: told.dropped.map_or(SampleHeader::NO_REASON, |reason| reason as u8),
        socket: if told.connected { socket::CONNECTED } else { socket::UNKNOWN },
        rule: 0,
        cpu: 0,
        flags: 0,
    };
    SampleRecord { header, data }
}

fn tick(number: i64, samples: Vec<SampleRecord>) -> TickRecord {
    TickRecord {
        now: Now { mono_ns: 100_000_000 * number as u64, unix_ms: START_MS + 100 * number },
        elapsed_ns: 100_000_000,
        counts: Box::new(Counts::default()),
        samples,
        outbound: None,
        host: None,
        rules: Vec::new(),
        ifaces: Vec::new(),
        events: Vec::new(),
        incidents: Vec::new(),
        wanted: None,
        slots: None,
    }
}

/// Takes samples, a hundred a tick, for an incident of some classes.
fn extract(incident: &Incident, samples: impl IntoIterator<Item = SampleRecord>) -> Extraction {
    let mut extraction = Extraction::new(Arc::new(Library::shipped()));
    extraction.begin(incident);
    let all: Vec<SampleRecord> = samples.into_iter().collect();
    for (number, chunk) in (0..).zip(all.chunks(100)) {
        extraction.take(&tick(number, chunk.to_vec()));
    }
    extraction
}

fn every_address(dice: &mut Dice) -> Ipv4Addr {
    Ipv4Addr::from_bits(dice.next() as u32)
}

#[test]
fn sources_drawn_at_random_are_said_to_be_forged_and_not_listed() {
    let incident = incident(Vector::SynFlood, &[TrafficClass::TcpSyn, TrafficClass::Malformed]);
    let mut dice = Dice(3);
    let samples = (0..60_000).map(|_| {
        let (seq, ttl) = (dice.next() as u32, Some(40 + dice.below(80) as u8));
        sample(
            &tcp_from(every_address(&mut dice), &Segment { seq, ..SYN }),
            Told { stride: 50, ttl, ..Told::default() },
        )
    });
    let report = extract(&incident, samples.collect::<Vec<_>>()).report(&incident);
    assert_eq!(report.spoofing.verdict, Verdict::Forged, "{:?}", report.spoofing);
    assert!(report.spoofing.confidence > 0.9);
    assert!(report.sources.is_empty() && report.reflectors.is_empty() && report.prefixes.is_empty());
    assert_eq!((report.samples, report.packets), (60_000, 3_000_000));
    assert!((report.distinct_sources as f64 - 60_000.0).abs() < 3000.0, "{}", report.distinct_sources);
    assert_eq!(report.destination_ports[0].value, "80");
    assert_eq!(report.tool, None);
}

#[test]
fn reflectors_are_listed_as_such_by_weight() {
    let incident = incident(Vector::NtpAmplification, &[TrafficClass::UdpSrcNtp]);
    let mut answer = vec![0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48];
    answer.resize(440, 0);
    let samples = (0..3000u64).map(|i| {
        let server = if i % 3 == 0 { 0 } else { 1 + i % 200 };
        sample(&udp(member(server), (123, 40_000), &answer), Told { stride: 10, ..Told::default() })
    });
    let extraction = extract(&incident, samples);
    let report = extraction.report(&incident);
    assert_eq!(report.spoofing.verdict, Verdict::Reflected);
    assert!(report.sources.is_empty());
    let first = &report.reflectors[0];
    assert_eq!((first.address, first.port), (member(0).into(), Some(123)));
    assert!((first.share - 1.0 / 3.0).abs() < 0.01 && first.confidence > 0.8, "{first:?}");
    assert!(report.reflectors.len() > 150, "{}", report.reflectors.len());
    let hit = &report.patterns[0];
    assert_eq!((hit.name.as_str(), hit.packets), ("ntp_monlist_answer", 30_000));
    assert!(report.payloads[0].hex.starts_with("d700032a") && report.payloads[0].share > 0.99);
    assert_eq!(extraction.tool(), None, "a protocol is no tool");
    assert_eq!(extraction.hits().find(|(name, _)| *name == "ntp_monlist_answer"), Some(("ntp_monlist_answer", 3000)));
}

#[test]
fn a_connection_or_a_steady_ttl_speaks_for_a_source() {
    let incident = incident(Vector::TcpConnectionFlood, &[TrafficClass::TcpSyn, TrafficClass::HttpRequest]);
    let mut samples = Vec::new();
    for i in 0..2000u64 {
        let bot = i % 40;
        // Some are seen in a connection, some have one TTL, some have any.
        let connected = bot < 10 && i > 1000;
        let ttl = if bot < 30 { 50 + bot as u8 } else { 40 + (i % 77) as u8 };
        let payload: &[u8] = if connected { b"GET / HTTP/1.1\r\n" } else { b"" };
        let segment = Segment { flags: if connected { 24 } else { 2 }, payload, ..SYN };
        samples.push(sample(
            &tcp_from(member(bot), &segment),
            Told { stride: 1, connected, ttl: Some(ttl), ..Told::default() },
        ));
    }
    let report = extract(&incident, samples).report(&incident);
    let confidence =
        |bot: u64| report.sources.iter().find(|source| source.address == member(bot)).map(|source| source.confidence);
    assert_eq!(confidence(3), Some(0.95));
    assert_eq!(confidence(20), Some(0.5));
    assert_eq!(confidence(35), None, "not named: {:?}", report.sources);
    assert!(report.sources.iter().all(|source| !source.why.is_empty()));
}

#[test]
fn what_decisions_dropped_is_the_attack_and_not_all_of_its_class() {
    let incident = incident(Vector::SynFlood, &[TrafficClass::TcpSyn]);
    let mut dice = Dice(5);
    let mut samples = Vec::new();
    for i in 0..1000u64 {
        let bot = Segment { seq: u32::from(Ipv4Addr::new(198, 51, 100, 10)), ..SYN };
        let dropped = Some(DropReason::Rule);
        samples.push(sample(&tcp_from(member(i % 50), &bot), Told { stride: 20, dropped, ..Told::default() }));
        if i % 5 == 0 {
            let customer = Segment { seq: dice.next() as u32, ..SYN };
            samples.push(sample(&tcp_from(member(9000 + i), &customer), Told { stride: 20, ..Told::default() }));
            let listed = Told { dropped: Some(DropReason::FeedAddress), stride: 20, ..Told::default() };
            samples.push(sample(&udp(member(20_000 + i), (9, 9), b"x"), listed));
        }
    }
    let extraction = extract(&incident, samples);
    let report = extraction.report(&incident);
    assert_eq!((report.basis, report.samples), (Basis::Rules, 1000));
    let tool = extraction.tool().unwrap();
    assert_eq!((tool.name.as_str(), tool.pattern.as_str()), ("Mirai", "mirai_scan"));
    assert!(tool.share > 0.99 && tool.confidence > 0.9);
    assert!(report.sources.iter().all(|source| (0..50).any(|bot| source.address == member(bot))));
}

#[test]
fn a_hello_that_a_sample_cuts_short_has_no_fingerprint() {
    let incident = incident(Vector::TlsFlood, &[TrafficClass::TlsClientHello]);
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(517, 0);
    let frame = tcp_from(member(1), &Segment { ports: (5000, 443), flags: 24, payload: &hello, ..SYN });
    let mut extraction = extract(&incident, (0..50).map(|_| sample(&frame, Told::default())));
    let tls = extraction.report(&incident).tls;
    assert_eq!((tls.cut, tls.whole, tls.fingerprints.len()), (50, 0, 0));
    // The capture ring has them whole.
    let header = SampleHeader { captured: frame.len() as u16, ..sample(&frame, Told::default()).header };
    extraction.hello(&Captured { header, bytes: frame });
    let tls = extraction.report(&incident).tls;
    assert_eq!((tls.cut, tls.whole + tls.broken), (49, 1));
}

#[test]
fn rare_payloads_are_not_written_down() {
    let incident = incident(Vector::UdpFlood, &[]);
    let mut dice = Dice(9);
    let samples = (0..2000u64).map(|i| {
        let payload = if i % 4 == 0 { b"the same every time".to_vec() } else { dice.bytes(80) };
        sample(&udp(member(i % 7), (9, 7777), &payload), Told::default())
    });
    let report = extract(&incident, samples.collect::<Vec<_>>()).report(&incident);
    assert_eq!(report.basis, Basis::Everything);
    assert_eq!(report.payloads.len(), 1, "{:?}", report.payloads);
    assert_eq!(report.payloads[0].text, "the same every time");
}

/// Reports of each kind.
fn reports() -> Vec<IocReport> {
    let syn = incident(Vector::SynFlood, &[TrafficClass::TcpSyn]);
    let bots = (0..900u64).map(|i| {
        let bot = Segment { seq: u32::from(Ipv4Addr::new(198, 51, 100, 10)), ..SYN };
        sample(&tcp_from(member(i % 50), &bot), Told { stride: 20, dropped: Some(DropReason::Rule), ..Told::default() })
    });
    let ntp = incident(Vector::NtpAmplification, &[TrafficClass::UdpSrcNtp]);
    let mut answer = vec![0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48];
    answer.resize(440, 0);
    let answers = (0..900u64).map(|i| sample(&udp(member(i % 50), (123, 40_000), &answer), Told::default()));
    let loic = incident(Vector::UdpFlood, &[]);
    let texts =
        (0..900u64).map(|i| sample(&udp(member(i % 3), (9, 80), b"A cat is fine too. Desudesudesu~"), Told::default()));
    let six = incident(Vector::UdpFlood, &[]);
    let frame = crate::decide::frames::ip6(
        0x2001_0db8_0001_0002_0000_0000_0000_0003,
        17,
        &[0, 9, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4],
    );
    let sixes = (0..900).map(|_| sample(&frame, Told::default()));
    let nothing = incident(Vector::CarpetBombing, &[TrafficClass::TcpSyn]);
    vec![
        extract(&syn, bots).report(&syn),
        extract(&ntp, answers).report(&ntp),
        extract(&loic, texts).report(&loic),
        extract(&six, sixes).report(&six),
        Extraction::new(Arc::new(Library::none())).report(&nothing),
    ]
}

#[test]
fn what_is_exported_is_valid_the_same_every_time_and_without_our_addresses() {
    for report in reports() {
        let bundle = stix::bundle(&report);
        assert_eq!(stix::problems(&bundle), Vec::<String>::new(), "{bundle:#}");
        assert_eq!(bundle, stix::bundle(&report));
        for text in [bundle.to_string(), report.csv()] {
            assert!(!text.contains("198.51.100.10") && !text.contains("2001:db8::10"), "{text}");
        }
        assert!(report.csv().lines().all(|line| line.matches(',').count() >= 7));
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &report).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join(FILE_NAME)).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let read = load(dir.path()).unwrap();
        assert_eq!(
            (read.incident, read.sources.len(), read.patterns),
            (report.incident, report.sources.len(), report.patterns)
        );
    }
}

type Spoil = fn(&mut serde_json::Value);

#[test]
fn the_strict_check_finds_what_is_wrong_with_a_bundle() {
    let good = stix::bundle(&reports()[1]);
    let spoil: [(&str, Spoil); 8] = [
        ("is no identifier", |b| b["objects"][1]["id"] = "indicator--4".into()),
        ("stands twice", |b| b["objects"][1] = b["objects"][0].clone()),
        ("`name` is missing", |b| b["objects"][0]["name"] = "".into()),
        ("is no time", |b| b["objects"][0]["created"] = "yesterday".into()),
        ("is not before", |b| b["objects"][1]["modified"] = "1971-01-01T00:00:00.000Z".into()),
        ("which is not there", |b| b["objects"][1]["created_by_ref"] = "identity--1".into()),
        ("is no bundle", |b| b["type"] = "report".into()),
        ("the bundle is empty", |b| b["objects"] = serde_json::json!([])),
    ];
    for (what, spoil) in spoil {
        let mut bundle = good.clone();
        spoil(&mut bundle);
        let found = stix::problems(&bundle).join("\n");
        assert!(found.contains(what), "{what}: {found}");
    }
}

#[test]
fn a_damaged_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let cases = [
        ("", "damaged"),
        ("{}", "names no version"),
        ("{\"version\": 9}", "version 9"),
        ("{\"version\": 1}", "damaged"),
    ];
    for (text, what) in cases {
        std::fs::write(&path, text).unwrap();
        assert!(load(dir.path()).unwrap_err().contains(what), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("cannot be read"));
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("no file of indicators"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn tables_stay_bounded_and_reports_valid_whatever_is_sent(seed in any::<u64>(), size in 0usize..300) {
        let incident = incident(Vector::UdpFlood, &[]);
        let mut dice = Dice(seed);
        let mut samples = Vec::new();
        for _ in 0..3000 {
            let mut frame = udp(every_address(&mut dice), (dice.port(), dice.port()), &dice.bytes(size % 90));
            for _ in 0..dice.below(4) {
                let at = dice.below(frame.len() as u64) as usize;
                frame[at] = dice.next() as u8;
            }
            samples.push(sample(&frame, Told { stride: dice.next() as u32, ..Told::default() }));
        }
        let report = extract(&incident, samples).report(&incident);
        prop_assert!(report.sources.len() <= 500 && report.payloads.len() <= 20 && report.lengths.len() <= 20);
        prop_assert!(report.sources.iter().all(|source| source.packets <= report.packets));
        prop_assert_eq!(stix::problems(&stix::bundle(&report)), Vec::<String>::new());
    }
}

#[test]
fn a_tool_is_named_once_there_is_enough_and_stands_until_it_is_not_half() {
    let (mut dice, mut numbers) = (Dice(11), 0..);
    let about = incident(Vector::SynFlood, &[TrafficClass::TcpSyn]);
    let mut extraction = extract(&about, []);
    let mut namer = Namer::default();
    let mut more = |bots: u64, others: u64| {
        let number = numbers.next().unwrap();
        let segment = |seq| {
            sample(&tcp_from(member(dice.below(5000)), &Segment { seq, ..SYN }), Told { stride: 8, ..Told::default() })
        };
        let bot = u32::from(Ipv4Addr::new(198, 51, 100, 10));
        let all = (0..bots).map(|_| bot).chain((0..others).map(|other| other as u32)).map(segment).collect();
        extraction.take(&tick(10 * number, all));
        namer.look(&extraction, "a", 1_000_000_000 * number as u64)
    };
    let said = |input: Option<Input>| match input {
        Some(Input::Tool { incident, named }) => {
            assert_eq!(incident, "a");
            named.map(|named| (named.pattern, named.samples, (named.share * 100.0).round()))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(more(29, 0), None, "too few");
    assert_eq!(said(more(1, 10)), Some(("mirai_scan".to_owned(), 40, 75.0)));
    assert_eq!(more(100, 0), None, "said already");
    assert_eq!(more(0, 100), None, "54 % of 240: enough to stand");
    assert_eq!(said(more(270, 0)), Some(("mirai_scan".to_owned(), 510, 78.0)), "ten times as many");
    assert_eq!(said(more(0, 1000)), None, "26 % of 1510");
    assert_eq!(more(0, 10), None);
    assert_eq!(said(more(5000, 0)), Some(("mirai_scan".to_owned(), 6520, 83.0)));
}
