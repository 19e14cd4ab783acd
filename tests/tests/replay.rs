//! Replay: captures and scenarios through the real datapath, as an operator uses it.
//!
//! Running the datapath needs root; without it the tests say so and end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "replay/guarded.rs"]
mod guarded;

use std::{
    fs,
    path::{Path, PathBuf},
};

use ftagent::replay::{Counts, Options, ReplayError, Report, for_each_packet, run};
use ftagent_tests::{sandbox::may_run, traffic::need_captures};
use serde_json::Value;
use tempfile::TempDir;

/// Where the scenarios of the project look for captures.
const CAPTURES: &str = "../../../shared/captures";

const WEB: &str = "benign_web/seladb+PcapPlusPlus__browsing_http.pcap";
const UDP_FLOOD: &str = "udp_flood/doup123+attacker__zero_len_dport0.pcap";

/// Returns the directory of captures, or `None`, having said so, where a test cannot run.
fn captures(test: &str) -> Option<PathBuf> {
    if may_run(test) { need_captures(test) } else { None }
}

fn all_captures(dir: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries(dir).filter(|path| path.is_dir()).flat_map(|dir| entries(&dir).collect::<Vec<_>>());
    let mut files: Vec<_> = nested.filter(|path| path.extension().is_some_and(|end| end == "pcap")).collect();
    files.sort();
    files
}

/// A directory for what a test writes.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Replays a scenario; `@/` in it is the directory of captures.
    fn play(&self, text: &str, captures: &Path) -> Result<Report, ReplayError> {
        let text = text.replace("@/", &format!("{}/", captures.display()));
        run(&Options { scenario: Some(self.write("scenario.toml", text)), ..Options::default() })
    }
}

/// Returns the JSON without what may differ.
fn json(report: &Report) -> String {
    let mut report = report.clone();
    report.wall_ms = 0;
    serde_json::to_string(&report).unwrap()
}

fn project_scenario(name: &str, captures: &Path) -> Report {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name)).unwrap();
    Desk::new().play(&text.replace(CAPTURES, "@"), captures).unwrap()
}

#[test]
fn the_same_scenario_gives_the_same_bytes() {
    let Some(captures) = captures("the_same_scenario_gives_the_same_bytes") else { return };
    for name in ["web_and_syn_flood.toml", "listed_botnet.toml", "carpet_bombing.toml", "m03_another_signature.toml"] {
        let first = project_scenario(name, &captures);
        let second = project_scenario(name, &captures);
        assert_eq!(json(&first), json(&second), "{name}");
        assert_eq!(first.to_table(), second.to_table(), "{name}");
    }
}

#[test]
fn another_seed_gives_another_run_of_the_same_rate() {
    let Some(captures) = captures("another_seed_gives_another_run_of_the_same_rate") else { return };
    let text = |seed| {
        format!(
            "duration = \"10s\"\nseed = {seed}\n[[source]]\nname = \"w\"\nfile = \"@/{WEB}\"\nlabel = \"benign\"\npps = 1000\nloop = true"
        )
    };
    let packets = |seed| Desk::new().play(&text(seed), &captures).unwrap().packets;
    assert_ne!(packets(1), packets(2));
    assert!(packets(1).abs_diff(10_000) < 500);
}

#[test]
fn only_the_listed_source_is_dropped_and_the_report_says_when() {
    let Some(captures) = captures("only_the_listed_source_is_dropped_and_the_report_says_when") else { return };
    let report: Value = serde_json::from_str(&json(&project_scenario("listed_botnet.toml", &captures))).unwrap();
    assert_eq!(report["schema"], "ftagent.replay/1");
    assert_eq!(report["duration_ms"], 12_000);
    // It is dropped by the list from its first packet on, and named all the same.
    let [incident] = report["incidents"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&incident["vector"], &incident["vectors"]), (&"udp_flood".into(), &serde_json::json!(["udp_flood"])));
    let opened = incident["opened_ms"].as_u64().unwrap();
    assert!((2000..2500).contains(&opened), "{opened}");
    assert_eq!(incident["closed_ms"], Value::Null);
    // The list comes first: nothing is left for a rule.
    let rules = incident["rules"].as_array().unwrap();
    assert!(rules.iter().all(|rule| rule["measured"]["packets"] == 0), "{rules:?}");
    let [game, botnet] = report["sources"].as_array().unwrap().as_slice() else { panic!("{report}") };
    assert_eq!((&game["label"], &game["packets"]), (&"benign".into(), &2400.into()));
    assert_eq!((&game["dropped_packets"], &game["first_drop_ms"]), (&0.into(), &Value::Null));
    // On from 2 to 10 s, 1 s of every 1.5 s: 5.5 s at 4 000 a second.
    assert_eq!((&botnet["label"], &botnet["packets"]), (&"attack".into(), &22_000.into()));
    assert_eq!((&botnet["dropped_packets"], &botnet["first_drop_ms"]), (&22_000.into(), &2000.into()));
    assert_eq!(botnet["dropped_bytes"], botnet["bytes"]);
}

/// The report says which rules were made, what was expected of them and what came; what they dropped is
/// what the sources lost.
#[test]
fn rules_are_reported_with_what_they_did() {
    let Some(captures) = captures("rules_are_reported_with_what_they_did") else { return };
    let report = project_scenario("m03_another_signature.toml", &captures);
    let [incident] = report.incidents.as_slice() else { panic!("{:?}", report.incidents) };
    let mitigated = incident.mitigated_ms.unwrap();
    let first_drop = report.sources.iter().filter_map(|source| source.first_drop_ms).min().unwrap();
    assert!(first_drop >= incident.opened_ms && first_drop < incident.opened_ms + 300, "{first_drop}");
    assert!(mitigated <= first_drop && first_drop <= mitigated + 100, "from then on: {mitigated}, {first_drop}");
    // What the guard answered met no rule.
    let by_rules = |counts: &Counts| counts.dropped_packets - counts.answered_packets;
    let dropped: u64 = report.sources.iter().map(|source| by_rules(&source.counts)).sum();
    assert_eq!(incident.rules.iter().map(|rule| rule.measured.dropped).sum::<u64>(), dropped);
    let value: Value = serde_json::from_str(&json(&report)).unwrap();
    for rule in value["incidents"][0]["rules"].as_array().unwrap() {
        for key in ["id", "match", "action", "state", "predicted", "measured"] {
            assert!(!rule[key].is_null(), "{key}: {rule}");
        }
        let line = format!("{} {}", rule["action"].as_str().unwrap(), rule["match"].as_str().unwrap());
        assert!(report.to_table().contains(&line), "{line}");
    }
}

#[test]
fn classes_and_sources_add_up_on_every_capture() {
    let Some(captures) = captures("classes_and_sources_add_up_on_every_capture") else { return };
    let files = all_captures(&captures);
    let report = run(&Options { captures: files.clone(), ..Options::default() }).unwrap();
    let (mut packets, mut bytes) = (0, 0);
    for file in &files {
        for_each_packet(file, |packet| {
            packets += 1;
            bytes += packet.frame_len().unwrap() as u64;
        })
        .unwrap();
    }
    assert_eq!((report.packets, report.bytes), (packets, bytes));
    let classes = report.classes.iter().map(|class| (class.counts.packets, class.counts.bytes));
    assert_eq!(classes.fold((0, 0), |(a, b), (c, d)| (a + c, b + d)), (packets, bytes));
    assert_eq!(report.sources.len(), files.len());
    println!("{packets} packets, {bytes} bytes of {} captures in {} ms", files.len(), report.wall_ms);
}

#[test]
fn a_capture_alone_keeps_its_timing() {
    let Some(captures) = captures("a_capture_alone_keeps_its_timing") else { return };
    let file = captures.join(UDP_FLOOD);
    let (mut first, mut last) = (u64::MAX, 0);
    for_each_packet(&file, |packet| (first, last) = (first.min(packet.time_ns), last.max(packet.time_ns))).unwrap();
    let report = run(&Options { captures: vec![file], ..Options::default() }).unwrap();
    assert_eq!((report.packets, report.duration_ms), (10_000, (last - first) / 1_000_000));
}

/// The Internet checksum of RFC 1071 over a whole message is 0 where its own is right.
fn checksum(parts: &[&[u8]]) -> u16 {
    let total: u64 =
        parts.concat().chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| b.into())).sum();
    !((total % 0xffff) as u16) % 0xffff
}

/// Returns whether the checksums of the IPv4 header and of TCP or UDP are right; `None` for other
/// packets and for fragments.
fn sound(frame: &[u8]) -> Option<(bool, bool)> {
    if frame.get(12..15)? != [8, 0, 0x45] || frame[20] & 0x3f != 0 || frame[21] != 0 || !matches!(frame[23], 6 | 17) {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let (ip, upper) = (&frame[14..34], frame.get(34..14 + length)?);
    let pseudo = [&ip[12..20], &[0, ip[9]], &(upper.len() as u16).to_be_bytes(), upper];
    Some((checksum(&[ip]) == 0, checksum(&pseudo) == 0))
}

#[test]
fn rewritten_packets_have_right_checksums_where_they_had_them() {
    let Some(captures) = captures("rewritten_packets_have_right_checksums_where_they_had_them") else { return };
    let desk = Desk::new();
    // Rewriting does not touch the timing: the packets come out in the same order, where none is dropped.
    const LOOKS_ON: &str = "duration = \"2h\"\n[config.mitigation]\nmode = \"observe\"\n";
    let verdicts = |name: &str, rewrite: &str| {
        let source = |(i, file): (usize, &PathBuf)| {
            format!("[[source]]\nname = \"{i}\"\nfile = \"{}\"\nlabel = \"benign\"\n{rewrite}\n", file.display())
        };
        let sources: String = all_captures(&captures).iter().enumerate().map(source).collect();
        let scenario = Some(desk.write("s.toml", format!("{LOOKS_ON}{sources}")));
        let out = desk.path(name);
        run(&Options { scenario, out_passed: Some(out.clone()), ..Options::default() }).unwrap();
        let (mut verdicts, mut scratch) = (Vec::new(), Vec::new());
        for_each_packet(&out, |packet| verdicts.push(packet.frame(&mut scratch).and_then(sound))).unwrap();
        verdicts
    };
    let before = verdicts("before.pcap", "");
    assert!(before == verdicts("after.pcap", "rewrite = { src = \"spoof\" }"));
    let right = before.iter().flatten().filter(|(ip, upper)| *ip && *upper).count();
    assert!(right > 50_000, "{right} of {}", before.iter().flatten().count());
    println!("{right} right of {} checked of {}", before.iter().flatten().count(), before.len());
}

#[test]
fn outputs_hold_every_packet_once_and_can_be_replayed() {
    let Some(captures) = captures("outputs_hold_every_packet_once_and_can_be_replayed") else { return };
    let desk = Desk::new();
    let options = Options {
        captures: vec![captures.join(WEB), captures.join(UDP_FLOOD)],
        config: Some(desk.write("c.toml", "[lists]\nblock = [\"192.168.0.0/16\", \"172.16.0.0/12\"]\n")),
        out_passed: Some(desk.path("passed.pcap")),
        out_dropped: Some(desk.path("dropped.pcap")),
        scenario: None,
        drop: Vec::new(),
        capsule: None,
    };
    let report = run(&options).unwrap();
    let dropped: u64 = report.sources.iter().map(|source| source.counts.dropped_packets).sum();
    let again = |name: &str| run(&Options { captures: vec![desk.path(name)], ..Options::default() }).unwrap();
    let (passed_again, dropped_again) = (again("passed.pcap"), again("dropped.pcap"));
    assert_eq!(dropped_again.packets, dropped);
    assert_eq!(passed_again.packets + dropped, report.packets);
    assert_eq!(passed_again.bytes + dropped_again.bytes, report.bytes);
    for class in &report.classes {
        let count = |report: &Report| {
            report.classes.iter().find(|other| other.name == class.name).map_or(0, |class| class.counts.packets)
        };
        assert_eq!(count(&dropped_again), class.counts.dropped_packets, "{}", class.name);
        assert_eq!(count(&passed_again) + count(&dropped_again), class.counts.packets, "{}", class.name);
    }
}

/// What an operator gives with `--drop` is in force from the first packet on, and drops nothing else.
#[test]
fn given_rules_drop_what_they_match() {
    let Some(captures) = captures("given_rules_drop_what_they_match") else { return };
    let play = |drop: &[&str]| {
        let drop = drop.iter().map(|text| text.parse().unwrap()).collect();
        run(&Options { captures: vec![captures.join(WEB), captures.join(UDP_FLOOD)], drop, ..Options::default() })
            .unwrap()
    };
    let dropped = |report: &Report| report.sources.iter().map(|s| s.counts.dropped_packets).collect::<Vec<_>>();
    let report = play(&["udp dport 0 len 28", "ip6"]);
    assert_eq!(dropped(&report), [0, 10_000]);
    assert_eq!(report.sources[1].first_drop_ms, Some(0));
    let rules: Vec<_> = report.rules.iter().map(|rule| (rule.matches.as_str(), rule.packets, rule.dropped)).collect();
    assert_eq!(rules, [("udp dport 0 len 28", 10_000, 10_000), ("ip6", 0, 0)]);
    assert!(report.to_table().contains("drop udp dport 0 len 28"), "{}", report.to_table());
    assert_eq!(dropped(&play(&["udp dport 1", "tcp dport 0"])), [0, 0]);
    let web = play(&["tcp"]);
    let tcp: u64 = web
        .classes
        .iter()
        .filter(|c| c.name.starts_with("tcp") || c.name == "http_request")
        .map(|c| c.counts.packets)
        .sum();
    assert_eq!(dropped(&web), [tcp, 0]);
}

#[test]
fn configuration_from_the_command_line_wins() {
    let Some(captures) = captures("configuration_from_the_command_line_wins") else { return };
    let desk = Desk::new();
    let file = captures.join(UDP_FLOOD);
    let scenario = format!(
        "duration = \"1s\"\n[config.lists]\nblock = [\"172.0.0.0/8\"]\n[config.services]\nudp = [53]\n[[source]]\nname = \"u\"\nfile = \"{}\"\nlabel = \"attack\"\n",
        file.display()
    );
    let scenario = desk.write("s.toml", scenario);
    let dropped = |config: Option<&str>| {
        let config = config.map(|text| desk.write("c.toml", text));
        let report = run(&Options { scenario: Some(scenario.clone()), config, ..Options::default() }).unwrap();
        report.sources[0].counts.dropped_packets
    };
    assert_eq!(dropped(None), 10_000);
    assert_eq!(dropped(Some("[lists]\nblock = []")), 0);
    assert_eq!(dropped(Some("[lists]\nallow = [\"172.0.0.0/9\", \"172.128.0.0/9\"]")), 0);
}

#[test]
fn pcap_and_pcapng_give_the_same_report() {
    let Some(captures) = captures("pcap_and_pcapng_give_the_same_report") else { return };
    let desk = Desk::new();
    let source = captures.join(WEB);
    let mut file = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let length = (body.len().next_multiple_of(4) as u32 + 12).to_le_bytes();
        file.extend(
            [&kind.to_le_bytes()[..], &length, body, &vec![0; body.len().next_multiple_of(4) - body.len()], &length]
                .concat(),
        );
    };
    block(0x0a0d_0d0a, &[&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat());
    block(1, &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    for_each_packet(&source, |packet| {
        let words =
            [0, (packet.time_ns >> 32) as u32, packet.time_ns as u32, packet.data.len() as u32, packet.original];
        block(6, &[&words.map(u32::to_le_bytes).concat(), packet.data].concat());
    })
    .unwrap();
    let other = desk.write("web.pcapng", file);
    let report = |path: PathBuf| {
        let mut report = run(&Options { captures: vec![path], ..Options::default() }).unwrap();
        report.sources[0].name.clear();
        json(&report)
    };
    assert_eq!(report(source), report(other));
}

#[test]
fn jumbo_and_offload_frames_run_up_to_the_largest() {
    let Some(_captures) = captures("jumbo_and_offload_frames_run_up_to_the_largest") else { return };
    let desk = Desk::new();
    let lengths = [14, 60, 1514, 3000, 4096, 9018, 16_162, 40_000, 65_549, 65_557];
    let mut file = Vec::new();
    [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1].iter().for_each(|word| file.extend(word.to_le_bytes()));
    for length in lengths {
        [0, 0, length as u32, length as u32].iter().for_each(|word: &u32| file.extend(word.to_le_bytes()));
        file.extend(vec![0; length]);
    }
    let report = run(&Options { captures: vec![desk.write("long.pcap", file)], ..Options::default() }).unwrap();
    assert_eq!((report.packets, report.bytes), (10, lengths.iter().sum::<usize>() as u64));
    let bytes: u64 = report.classes.iter().map(|class| class.counts.bytes).sum();
    assert_eq!(bytes, report.bytes);
}

/// Prints an error as the command line does: with its causes.
fn told(options: &Options) -> String {
    format!("{:#}", anyhow::Error::from(run(options).unwrap_err()))
}

#[test]
fn bad_input_is_refused_with_place_and_reason_and_nothing_is_written() {
    let Some(captures) = captures("bad_input_is_refused_with_place_and_reason_and_nothing_is_written") else { return };
    let desk = Desk::new();
    let whole = fs::read(captures.join(UDP_FLOOD)).unwrap();
    let good = desk.write("good.pcap", &whole);
    let cut = desk.write("cut.pcap", &whole[..whole.len() - 3]);
    let scenario = |name: &str, source: &str| {
        Some(desk.write(name, format!("duration = \"1s\"\n[[source]]\nname = \"u\"\nlabel = \"attack\"\n{source}\n")))
    };
    let captures = |path: &Path| vec![path.to_owned()];
    let config = |text: &str| Some(desk.write("c.toml", text));
    let base = Options::default;
    let table = [
        (base(), "give either captures or a scenario"),
        (Options { captures: captures(&cut), ..base() }, "cut.pcap: packet 10000, at byte "),
        (
            Options { captures: captures(&desk.path("no.pcap")), ..base() },
            "no.pcap: cannot read the capture: No such file",
        ),
        (Options { scenario: Some(desk.path("no.toml")), ..base() }, "no.toml: cannot read the scenario: No such file"),
        (Options { scenario: scenario("a.toml", "file = \"no.pcap\""), ..base() }, "no.pcap: cannot read the capture"),
        (
            Options { scenario: scenario("b.toml", "fil = \"no.pcap\""), ..base() },
            "line 5: `source[0].fil`: unknown key; the nearest known one is `file`",
        ),
        (
            Options { scenario: scenario("c.toml", "file = \"good.pcap\"\nvictim = \"1.2.3.4\""), ..base() },
            "source `u`: the capture has no packet to the victim 1.2.3.4",
        ),
        (
            Options { captures: captures(&good), scenario: scenario("d.toml", ""), ..base() },
            "give either captures or a scenario",
        ),
        (
            Options { captures: captures(&good), out_passed: Some(good.clone()), ..base() },
            "good.pcap: is an input or the other output",
        ),
        (
            Options {
                captures: captures(&good),
                out_passed: Some(desk.path("o")),
                out_dropped: Some(desk.path("o")),
                ..base()
            },
            "is an input or the other output",
        ),
        (
            Options { captures: captures(&good), out_passed: Some(desk.path("no/o")), ..base() },
            "no/o: cannot write: No such file",
        ),
        (
            Options { captures: captures(&good), config: Some(desk.path("no.toml")), ..base() },
            "no.toml: cannot read the configuration: No such file",
        ),
    ];
    for (options, message) in table {
        let error = told(&options);
        assert!(error.contains(message), "{error}\n{message}");
    }
    for (text, message) in [
        ("lists = [", "TOML parse error at line 1"),
        ("[lists]\nblock = [\"10.0.0.0/33\"]", "`lists.block[0]`: \"10.0.0.0/33\" is not an address or prefix"),
        ("[services]\nudp = [65536]", "`services.udp"),
        ("[lists]\nblok = []", "did you mean `lists.block`?"),
    ] {
        let error = told(&Options { captures: captures(&good), config: config(text), ..base() });
        assert!(error.contains(message), "{error}\n{message}");
    }
    assert_eq!(fs::read(&good).unwrap(), whole);
    assert!(!desk.path("o").exists());
}
