//! What is recorded of a real attack, as Wireshark reads it.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use ftagent::record::recorder::meta::{Meta, Status};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    peers::need,
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, vectors},
};
use serde_json::Value;

use super::{guard::Flooding, send};

const SECTIONS: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n[mitigation]\nmode = \"enforce\"\n\
                        [capture]\nmin_free = \"0 B\"\npre_roll = \"5s\"\n";
pub(super) const A_MINUTE: Duration = Duration::from_secs(60);

/// Runs a program of Wireshark's on a file; returns what it printed. It must say nothing on the side.
pub(super) fn wireshark(program: &str, args: &[&str], file: &Path) -> String {
    let mut command = Command::new(program);
    command.args(args).arg(file).env("LC_ALL", "C");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // That it runs as root is no fault of the file's.
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(output.status.success() && said.is_empty(), "{program} {}: {said:?}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Whether these are installed; tests without them say so.
pub(super) fn has_wireshark() -> bool {
    need("captures as Wireshark reads them", &["tshark", "capinfos"])
}

pub(super) fn opened(daemon: &Daemon) -> Option<String> {
    let answer: Value = serde_json::from_str(&daemon.ok(&["incidents", "--json"]).unwrap()).unwrap();
    Some(answer["incidents"][0]["id"].as_str()?.to_owned())
}

pub(super) fn meta(daemon: &Daemon, id: &str) -> Option<Meta> {
    let text = fs::read_to_string(daemon.path("state").join("captures").join(id).join("meta.json")).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// What is not in the file is declared, and nothing else is missing.
pub(super) fn declared(meta: &Meta) {
    let lost = meta.lost;
    let sum = meta.written + lost.not_sampled + lost.kernel + lost.tape + lost.quota + lost.disk;
    assert_eq!(meta.seen, sum, "{meta:#?}");
    assert_eq!(meta.seen, meta.classes.values().map(|class| class.seen).sum::<u64>(), "{meta:#?}");
}

pub(super) fn complete(daemon: &Daemon, id: &str) -> Meta {
    let closed = || meta(daemon, id).filter(|meta| meta.status == Status::Closed);
    wait_for("the end of the capture", A_MINUTE, closed).unwrap()
}

/// Sends packets of some vectors at once, each so many at so many a second, until told to stop.
fn attack(
    sandbox: &Sandbox,
    veth: &Veth,
    parts: &[(&str, u64, u64)],
    stop: &Arc<AtomicBool>,
) -> Vec<std::thread::JoinHandle<anyhow::Result<u64>>> {
    let mut senders = Vec::new();
    for (vector, pps, packets) in parts {
        let flood = vectors::find(vector).unwrap().flood(&vectors::Link::to_here(veth, false));
        let flood = Flood { pps: Some(*pps), packets: Some(*packets), ..flood };
        let (ifindex, stop) = (veth.peer.ifindex, Arc::clone(stop));
        let sends = move || Ok(Generator::new(ifindex)?.run(&flood, &stop)?.packets);
        let host = sandbox.peer_host();
        senders.push(host.spawn(sends));
    }
    let flat = |sender: std::thread::JoinHandle<anyhow::Result<anyhow::Result<u64>>>| {
        std::thread::spawn(move || sender.join().unwrap().and_then(|sent| sent))
    };
    senders.into_iter().map(flat).collect()
}

fn sent(senders: Vec<std::thread::JoinHandle<anyhow::Result<u64>>>) -> Vec<u64> {
    senders.into_iter().map(|sender| sender.join().unwrap().unwrap()).collect()
}

#[test]
fn a_capture_has_what_was_before_and_what_was_dropped_and_declares_what_it_lacks() {
    require_root!();
    if !has_wireshark() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        assert!(daemon.ok(&["capture", "list"]).unwrap().contains("Nothing was captured yet"));
        assert!(daemon.status().unwrap().capture.is_some());
        sleep(Duration::from_secs(3));
        // Nothing is known of clean traffic, so only what an operator says is dropped.
        daemon.ok(&["rules", "add", "udp sport 123 len 400-1500 then drop", "--for", "10m"]).unwrap();
        // From before: a source of its own.
        send(sandbox, &veth, "10.77.0.2", 20);
        sleep(Duration::from_millis(500));
        const PACKETS: u64 = 100_000;
        let stop = Arc::new(AtomicBool::new(false));
        let senders = attack(sandbox, &veth, &[("ntp_amplification", 20_000, PACKETS)], &stop);
        let id = wait_for("an incident", Duration::from_secs(10), || opened(&daemon)).unwrap();
        let status = wait_for("it to be shown", Duration::from_secs(5), || {
            Some(daemon.ok(&["status"]).unwrap()).filter(|said| said.contains("RECORDING"))
        });
        assert!(status.unwrap().contains(&id));
        assert_eq!(sent(senders), [PACKETS]);
        let meta = complete(&daemon, &id);

        // Everything that was sent was seen, and what is not in the file is declared.
        let ntp = meta.classes["udp_src_ntp"];
        assert_eq!(ntp.seen, PACKETS, "{meta:#?}");
        assert_eq!(meta.seen, veth.here.arrived().unwrap().packets, "{meta:#?}");
        declared(&meta);

        let file = daemon.path("attack.pcapng");
        daemon.ok(&["capture", "export", "last", "--out", file.to_str().unwrap()]).unwrap();
        assert!(
            daemon
                .refused(&["capture", "export", "last", "--out", file.to_str().unwrap()])
                .unwrap()
                .contains("--force")
        );
        let info = wireshark("capinfos", &["-M"], &file);
        for line in [
            format!("Number of packets:   {}", meta.written),
            "File timestamp precision:  nanoseconds (9)".to_owned(),
            "Name = wan0".to_owned(),
        ] {
            assert!(info.contains(&line), "{line} is not in {info}");
        }
        let fields = ["frame.time_epoch", "ip.src", "udp.srcport", "frame.verdict.ebpf_xdp", "frame.comment"];
        let mut args = vec!["-n", "-T", "fields"];
        fields.iter().for_each(|field| args.extend(["-e", field]));
        args.push("-r");
        let packets: Vec<Vec<String>> = wireshark("tshark", &args, &file)
            .lines()
            .map(|line| line.split('\t').map(str::to_owned).collect())
            .collect();
        assert_eq!(packets.len() as u64, meta.written);
        let from = |port: &str| packets.iter().filter(|packet| packet[2] == port).count() as u64;
        assert_eq!(PACKETS - from("123"), ntp.seen - ntp.written, "declared loss is true loss");
        let time = |packet: &[String]| packet[0].parse::<f64>().unwrap();
        let opened = meta.incident.as_ref().unwrap().opened.unix_ms as f64 / 1000.0;
        let before = packets.iter().filter(|packet| packet[1] == "10.77.0.2" && time(packet) < opened).count();
        assert_eq!(before, 20, "from before the incident");
        let dropped = packets.iter().filter(|packet| packet[3] == "1").count() as u64;
        assert!(dropped > 100 && meta.verdicts["dropped"] == dropped, "{dropped}");
        let comment = packets.iter().find(|packet| packet[3] == "1").map(|packet| packet[4].clone()).unwrap();
        assert!(comment.starts_with("verdict=dropped reason="), "{comment}");
        let by_rule = packets.iter().map(|packet| packet[4].as_str()).find(|comment| comment.contains("reason=rule "));
        assert!(by_rule.is_some_and(|comment| comment.contains("(udp sport 123 len 400-1500)")), "{by_rule:?}");
        assert!(packets.is_sorted_by(|a, b| time(a) <= time(b) + 0.005), "in order");

        let shown = daemon.ok(&["capture", "show", &id]).unwrap();
        for part in ["ntp_amplification, closed", "udp_src_ntp", "dropped", "from udp 123", "not sampled", "sha256"] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        let scrape = daemon.metrics().unwrap();
        assert!(scrape.contains(&format!("ftagent_capture_packets_total {}", meta.written)), "{scrape}");
        daemon.ok(&["capture", "hold", &id, "--reason", "evidence"]).unwrap();
        assert!(daemon.ok(&["capture", "list"]).unwrap().contains("held"));
        daemon.ok(&["capture", "release", &id]).unwrap();
        for bad in ["../../etc", "/etc/passwd", "..", "x/y"] {
            assert!(daemon.refused(&["capture", "export", bad]).unwrap().contains("is no name"), "{bad}");
        }
    })
    .unwrap();
}

#[test]
fn five_kinds_of_packets_are_all_there_however_unequal_their_rates() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        sleep(Duration::from_secs(3));
        let parts = [
            ("memcached_amplification", 20_000, 160_000, "udp_src_memcached"),
            ("ntp_amplification", 2000, 16_000, "udp_src_ntp"),
            ("syn_flood", 500, 4000, "tcp_syn"),
            ("ssdp_amplification", 100, 800, "udp_src_ssdp"),
            ("icmp_flood", 20, 160, "icmp_echo"),
        ];
        let stop = Arc::new(AtomicBool::new(false));
        let floods: Vec<_> = parts.iter().map(|(vector, pps, packets, _)| (*vector, *pps, *packets)).collect();
        let senders = attack(sandbox, &veth, &floods, &stop);
        let id = wait_for("an incident", Duration::from_secs(10), || opened(&daemon)).unwrap();
        let numbers = sent(senders);
        let meta = complete(&daemon, &id);
        declared(&meta);
        // Nothing else is sent, and all of it within the capture: what it declares is what the driver counted, who knows
        // nothing of captures. Senders on two CPUs may overflow the queue between the ends.
        let arrived = veth.here.arrived().unwrap();
        assert_eq!(meta.seen, arrived.packets, "{arrived:?} {meta:#?}");
        assert_eq!(numbers.iter().sum::<u64>(), arrived.packets + arrived.dropped);
        for ((_, _, _, class), number) in parts.iter().zip(numbers) {
            let counts = meta.classes[*class];
            assert!(number - counts.seen <= arrived.dropped, "{class}: {number} sent, {counts:?}, {arrived:?}");
            assert!(counts.written >= 100, "{class}: {counts:?}");
        }
    })
    .unwrap();
}

#[test]
fn a_capture_survives_the_daemons_death_and_goes_on_with_its_incident() {
    require_root!();
    if !has_wireshark() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        sleep(Duration::from_secs(3));
        let stop = Arc::new(AtomicBool::new(false));
        let senders = attack(sandbox, &veth, &[("memcached_amplification", 5000, 10_000_000)], &stop);
        let id = wait_for("an incident", Duration::from_secs(10), || opened(&daemon)).unwrap();
        let written = || meta(&daemon, &id).is_some_and(|meta| meta.written > 0 && !meta.interfaces.is_empty());
        wait_for("a description", Duration::from_secs(20), || written().then_some(())).unwrap();
        daemon.kill().unwrap();
        let file = daemon.path("killed.pcapng");
        daemon.ok(&["capture", "export", &id, "--out", file.to_str().unwrap()]).unwrap();
        let first = wireshark("tshark", &["-n", "-T", "fields", "-e", "frame.number", "-r"], &file).lines().count();
        assert!(first > 100, "{first}");
        daemon.launch(sandbox).unwrap();
        wait_for("the capture to go on", A_MINUTE, || {
            Some(daemon.ok(&["status"]).unwrap()).filter(|said| said.contains("RECORDING"))
        })
        .unwrap();
        stop.store(true, Relaxed);
        sent(senders);
        let meta = complete(&daemon, &id);
        assert!(meta.notes.iter().any(|note| note.contains("the daemon ended while it was open")), "{meta:#?}");
        daemon.ok(&["capture", "export", &id, "--force", "--out", file.to_str().unwrap()]).unwrap();
        let all = wireshark("tshark", &["-n", "-T", "fields", "-e", "frame.number", "-r"], &file).lines().count();
        assert_eq!(all as u64, meta.written, "both lives' packets");
        assert!(all > first);
        // What decided until the daemon was killed is there as well as what decided then, and replays.
        assert!(daemon.ok(&["capture", "show", &id]).unwrap().contains("life-1/ticks.ftj.zst"));
        let ticks = |more: &[&str], out: &str| {
            let out = daemon.path(out);
            let args = ["capture", "export", &id, "--capsule", "--out", out.to_str().unwrap()];
            daemon.ok(&[&args, more].concat()).unwrap();
            let said = daemon.ok(&["replay", out.to_str().unwrap()]).unwrap();
            assert!(said.contains("decisions: identical"), "{more:?}: {said}");
            said.split(" ticks").next().and_then(|text| text.rsplit([' ', '\n']).next()?.parse::<u64>().ok()).unwrap()
        };
        let (before, after) = (ticks(&["--life", "1"], "before.ftcapsule"), ticks(&[], "after.ftcapsule"));
        assert!(before >= 30 && after >= 30, "{before} {after}");
    })
    .unwrap();
}

#[test]
fn an_operator_captures_what_matches() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let said = daemon.ok(&["capture", "start", "--match", "udp dport 4242", "--for", "10m", "--json"]).unwrap();
        let answer: Value = serde_json::from_str(&said).unwrap();
        let name = answer["name"].as_str().unwrap().to_owned();
        let dir = daemon.path("state").join("captures").join(&name);
        wait_for("it to begin", Duration::from_secs(5), || dir.join("meta.json").exists().then_some(())).unwrap();
        send(sandbox, &veth, "198.51.100.7", 20);
        let seen = || daemon.status().unwrap().capture.filter(|capture| capture.recordings[0].packets == 20);
        wait_for("the packets", Duration::from_secs(5), seen).unwrap();
        assert!(daemon.refused(&["capture", "stop", "other"]).unwrap().contains(&name));
        daemon.ok(&["capture", "stop"]).unwrap();
        let meta = complete(&daemon, &name);
        assert_eq!((meta.written, meta.matches.as_deref()), (20, Some("udp dport 4242")));
        let by_class: BTreeMap<_, _> =
            meta.classes.iter().map(|(name, counts)| (name.as_str(), counts.written)).collect();
        assert_eq!(by_class["udp_small"], 20);
        assert!(daemon.refused(&["capture", "stop"]).unwrap().contains("no capture of an operator runs"));
        assert!(daemon.refused(&["capture", "start", "--match", "udp dport x"]).unwrap().contains("dport"));
        let mode =
            |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777;
        assert_eq!(
            (mode(&dir), mode(&dir.join("meta.json")), mode(&dir.join("capture.pcapng.zst"))),
            (0o700, 0o600, 0o600)
        );
    })
    .unwrap();
}

#[test]
fn an_operator_captures_every_packet_of_a_filter_whole() {
    require_root!();
    if !has_wireshark() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", "udp sport 123 len 400-1500 then drop", "--for", "10m"]).unwrap();
        let said = daemon.ok(&["capture", "start", "--full", "--match", "udp sport 123", "--json"]).unwrap();
        let name = serde_json::from_str::<Value>(&said).unwrap()["name"].as_str().unwrap().to_owned();
        const PACKETS: u64 = 30_000;
        let stop = Arc::new(AtomicBool::new(false));
        let floods = [("ntp_amplification", 20_000, PACKETS), ("icmp_flood", 1000, 1500)];
        let before = veth.here.arrived().unwrap();
        assert_eq!(sent(attack(sandbox, &veth, &floods, &stop)), [PACKETS, 1500]);
        // On a busy machine the last of them wait in the queue in front of the program for a while …
        let all_are_through = || {
            let now = veth.here.arrived().unwrap();
            let through = now.packets - before.packets + now.dropped - before.dropped;
            (through >= PACKETS + 1500).then_some(())
        };
        wait_for("the packets to arrive", Duration::from_secs(5), all_are_through).unwrap();
        daemon.ok(&["capture", "stop"]).unwrap();
        let meta = complete(&daemon, &name);
        // … which senders on two CPUs may overflow: that is nobody's to capture.
        let overflowed = veth.here.arrived().unwrap().dropped;
        let taken = meta.written + meta.lost.kernel + meta.lost.disk + meta.lost.quota;
        assert!(taken <= PACKETS && PACKETS - taken <= overflowed, "{overflowed} {meta:#?}");
        assert!(meta.written >= taken * 99 / 100 && taken >= PACKETS / 2, "{meta:#?}");
        assert!(meta.seen + overflowed >= PACKETS + 1500, "all between start and stop: {meta:#?}");
        assert_eq!(meta.reasons["rule"], meta.written, "dropped ones included");
        let file = daemon.path("full.pcapng");
        daemon.ok(&["capture", "export", &name, "--out", file.to_str().unwrap()]).unwrap();
        let args = ["-n", "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len", "-e", "udp.srcport", "-r"];
        let text = wireshark("tshark", &args, &file);
        assert_eq!(text.lines().count() as u64, meta.written);
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            assert!(fields[0] == fields[1] && fields[2] == "123", "{line}: whole, and nothing else");
        }
        assert!(wireshark("capinfos", &["-M"], &file).contains("Number of packets"));
        // Nothing of it stays in the kernel.
        assert!(!daemon.ok(&["rules"]).unwrap().contains("capture"));
        let refused = daemon.refused(&["rules", "add", "udp sport 1 then capture"]).unwrap();
        assert!(refused.contains("ftagent capture start --full"), "{refused}");
    })
    .unwrap();
}

#[test]
fn patterns_name_the_tool_of_an_incident_wherever_it_is_shown_and_in_its_capsule() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        let mut flood = vectors::find("udp_flood").unwrap().flood(&vectors::Link::to_here(&veth, false));
        flood.template.payload = b"A cat is fine too. Desudesudesu~".repeat(16);
        let flooding = Flooding::begin(sandbox, &veth, Flood { pps: Some(10_000), ..flood });
        let id = wait_for("an incident", A_MINUTE, || opened(&daemon)).unwrap();
        let shown = || Some(daemon.ok(&["incidents", "show", &id]).unwrap()).filter(|said| said.contains("loic_text"));
        let shown = wait_for("its tool", A_MINUTE, shown).unwrap();
        assert!(shown.contains("looks like") && shown.contains("LOIC (the pattern loic_text matches"), "{shown}");
        assert!(daemon.ok(&["status"]).unwrap().contains("looks like LOIC"));
        flooding.end();
        complete(&daemon, &id);
        let answer: Value = serde_json::from_str(&daemon.ok(&["incidents", "show", &id, "--json"]).unwrap()).unwrap();
        assert_eq!((&answer["tool"], &answer["named"]["pattern"]), (&"LOIC".into(), &"loic_text".into()), "{answer}");
        let capsule = daemon.path("incident.ftcapsule");
        daemon.ok(&["capture", "export", &id, "--capsule", "--out", capsule.to_str().unwrap()]).unwrap();
        assert!(daemon.ok(&["replay", capsule.to_str().unwrap()]).unwrap().contains("decisions: identical"));
        let unpacked = Command::new("tar").arg("-xOf").arg(&capsule).arg("decisions.jsonl").output().unwrap();
        let decisions = String::from_utf8_lossy(&unpacked.stdout).into_owned();
        assert!(decisions.contains("\"pattern\":\"loic_text\""), "{decisions} {unpacked:?}");
    })
    .unwrap();
}
