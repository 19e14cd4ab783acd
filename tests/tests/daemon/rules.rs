//! Rules of operators, from the command line to the packet.

use std::{fs, net::IpAddr, sync::atomic::AtomicBool, time::SystemTime};

use ftagent::serve::protocol::RuleStatus;
use ftagent_common::rules::PATTERNS;
use ftagent_tests::{
    daemon::{Daemon, PATIENCE, wait_for},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Template, Vary},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{FIVE_SECONDS, drops};

const SECTIONS: &str = "[services]\ndetect = false\n";
/// What [`drops`] sends: UDP from port 40000 to 4242, with ten bytes of payload.
const SENT: &str = "udp sport 40000 dport 4242 len 38 payload 0:30313233";

fn template(veth: &Veth, src: &str, (sport, dport): (u16, u16), payload: &[u8]) -> Template {
    let src: IpAddr = src.parse().unwrap();
    Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src,
        dst: if src.is_ipv6() { veth.here.v6.into() } else { veth.here.v4.into() },
        ttl: 64,
        fragment: None,
        l4: L4::Udp { sport, dport },
        payload: payload.to_vec(),
    }
}

/// Sends packets and returns how many of them the datapath dropped.
fn dropped(sandbox: &Sandbox, veth: &Veth, daemon: &Daemon, template: Template, packets: u64) -> u64 {
    let name = &veth.here.name;
    let before = daemon.interface(name).unwrap();
    let flood = Flood { packets: Some(packets), ..Flood::new(template, Vary::default()) };
    let ifindex = veth.peer.ifindex;
    sandbox.peer(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap()).unwrap();
    let all = |interface: &ftagent::serve::protocol::Interface| interface.packets >= before.packets + packets;
    let after = daemon.wait_for_interface(name, FIVE_SECONDS, all).unwrap();
    after.dropped_packets - before.dropped_packets
}

fn rule(daemon: &Daemon, id: u32) -> Option<RuleStatus> {
    daemon.rules().unwrap().rules.into_iter().find(|rule| rule.id == id)
}

#[test]
fn a_rule_drops_what_matches_and_nothing_else() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"));
        let said = daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "10m", "--reason", "it floods"]);
        assert!(said.unwrap().starts_with(&format!("Rule 1 is in force for 10m: {SENT} then drop.")));
        for source in ["192.0.2.7", "203.0.113.9"] {
            assert!(drops(sandbox, &veth, &daemon, source), "{source}");
        }
        let others = [
            template(&veth, "192.0.2.7", (40_000, 4243), b"0123456789"),
            template(&veth, "192.0.2.7", (40_001, 4242), b"0123456789"),
            template(&veth, "192.0.2.7", (40_000, 4242), b"012345678"),
            template(&veth, "192.0.2.7", (40_000, 4242), b"0124456789"),
        ];
        for other in others {
            assert_eq!(dropped(sandbox, &veth, &daemon, other.clone(), 3), 0, "{other:?}");
        }
        assert!(!drops(sandbox, &veth, &daemon, "2001:db8::7"), "a packet of IPv6 is 20 bytes longer");

        let counted = || rule(&daemon, 1).filter(|rule| rule.packets == 2 && rule.dropped == 2);
        let status = wait_for("the counters", PATIENCE, counted).unwrap();
        assert_eq!((status.state.as_str(), status.reason.as_str()), ("enforcing", "it floods"));
        assert!(status.ends_s.is_some_and(|left| left <= 600), "{status:?}");
        let wanted = [r#"ftagent_rules{plane="xdp",state="enforcing"} 1"#, "ftagent_rule_drift 0"];
        let shown = || Some(daemon.metrics().unwrap()).filter(|text| wanted.iter().all(|line| text.contains(line)));
        let metrics = wait_for("the metrics", PATIENCE, shown).unwrap();
        assert!(metrics.lines().any(|line| line.starts_with("ftagent_rule_packets_total{") && line.ends_with(" 2")));
        let table = daemon.ok(&["rules"]).unwrap();
        assert!(table.contains(&format!("{SENT} then drop")) && table.contains("it floods"), "{table}");

        daemon.ok(&["allow", "192.0.2.7"]).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"), "the allow list overrules any rule");
        assert!(drops(sandbox, &veth, &daemon, "192.0.2.8"));
        daemon.ok(&["rules", "remove", "1"]).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.8"));
        assert!(daemon.refused(&["rules", "remove", "1"]).unwrap().contains("there is no rule 1 of an operator"));
    })
    .unwrap();
}

#[test]
fn counting_passes_and_limiting_drops_what_is_too_much() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", "udp dport 4242 then count"]).unwrap();
        daemon.ok(&["rules", "add", "udp dport 4242 sport 7 then rate-limit 50 pps"]).unwrap();
        let other = template(&veth, "192.0.2.7", (40_000, 4242), b"x");
        assert_eq!(dropped(sandbox, &veth, &daemon, other, 500), 0);
        let limited = dropped(sandbox, &veth, &daemon, template(&veth, "192.0.2.7", (7, 4242), b"x"), 5000);
        assert!((1..5000).contains(&limited), "{limited} of 5000");
        let counted = |id: u32, packets: u64| rule(&daemon, id).filter(|rule| rule.packets == packets);
        let first = wait_for("the first", PATIENCE, || counted(1, 5500)).unwrap();
        assert_eq!((first.dropped, first.state.as_str()), (0, "counting"), "counting goes on with the next rule");
        assert_eq!(wait_for("the second", PATIENCE, || counted(2, 5000)).unwrap().dropped, limited);
    })
    .unwrap();
}

#[test]
fn a_rule_outlives_the_daemon_and_ends_at_its_time() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", "udp dport 9 then count"]).unwrap();
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--reason", "it floods"]).unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let before = daemon.interface("wan0").unwrap();
            match signal {
                Signal::SIGTERM => daemon.terminate().unwrap(),
                _ => daemon.kill().unwrap(),
            }
            super::send(sandbox, &veth, "192.0.2.7", 10);
            daemon.launch(sandbox).unwrap();
            let all = |i: &ftagent::serve::protocol::Interface| i.packets == before.packets + 10;
            let after = daemon.wait_for_interface("wan0", FIVE_SECONDS, all).unwrap();
            assert_eq!(after.dropped_packets, before.dropped_packets + 10, "the kernel went on by itself");
            assert!(drops(sandbox, &veth, &daemon, "192.0.2.7"), "and the rule is in force again");
            let rules = daemon.rules().unwrap().rules;
            let shown: Vec<_> = rules.iter().map(|rule| (rule.id, rule.reason.as_str())).collect();
            assert_eq!(shown, [(1, ""), (2, "it floods")], "after {signal}");
        }
        daemon.ok(&["rules", "remove", "2"]).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"));
        daemon.ok(&["rules", "add", &format!("{SENT} then drop"), "--for", "3s"]).unwrap();
        assert!(drops(sandbox, &veth, &daemon, "192.0.2.7"));
        wait_for("its end", PATIENCE, || rule(&daemon, 3).is_none().then_some(())).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"));
    })
    .unwrap();
}

#[test]
fn what_no_rule_may_do_is_refused_with_the_reason() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let cases = [
            ("any then drop", "would match every packet"),
            ("udp then drop", "would match every UDP packet"),
            ("len 0-65535 then drop", "would match nearly every packet"),
            ("src 0.0.0.0/0 then drop", "would match nearly every IPv4 packet"),
            ("tcp dport 22 then drop", "logins by SSH to this host"),
            ("dst 10.77.0.1 then drop", "logins by SSH to this host"),
            ("icmp6 icmp-type 135 then drop", "neighbour discovery"),
            ("src 10.77.0.2 then drop", "10.77.0.2, the gateway of the default route"),
            ("src 10.77.0.1 udp then drop", "an address of this host"),
            ("udp sprot 9 then drop", "`sprot` is no dimension: did you mean `sport`?"),
            ("udp sport 9", "does not say what to do"),
            ("udp sport 9 then rate-limit 0 pps", "write `drop`"),
            ("udp flags syn then drop", "matches no packet"),
        ];
        for (text, wanted) in cases {
            let said = daemon.refused(&["rules", "add", text]).unwrap();
            assert!(said.contains(wanted), "{text}: {said}");
        }
        let mut command = daemon.command(&["rules", "add", "src 198.51.100.7 tcp then drop"]).unwrap();
        let output = command.env("SSH_CONNECTION", "198.51.100.7 50000 10.77.0.1 22").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("the SSH session that asks for it"), "{said}");
        let said = daemon.refused(&["rules", "add", "udp sport 9 then drop", "--for", "400d"]).unwrap();
        assert!(said.contains("block.max_duration"), "{said}");
        assert_eq!(daemon.rules().unwrap().rules, Vec::new(), "nothing of it was taken");
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"));

        daemon.ok(&["rules", "add", "udp dport 4242 then drop"]).unwrap();
        let said = daemon.refused(&["rules", "add", "udp dport 4242 then rate-limit 5 pps", "--force"]).unwrap();
        assert!(said.contains("rule 1 says `drop` of the same packets"), "{said}");
        let said = daemon.ok(&["rules", "add", "udp", "dport", "4242", "len", "38", "then", "count"]).unwrap();
        assert!(said.contains("WARNING: it does nothing: rule 1"), "{said}");
        let said = daemon.ok(&["rules", "add", "udp dport 4242 then drop", "--for", "2h"]).unwrap();
        assert!(said.contains("Rule 1 is renewed for 2h"), "{said}");
        daemon.ok(&["rules", "remove", "1"]).unwrap();
        daemon.ok(&["rules", "add", "udp then drop", "--force", "--for", "1m"]).unwrap();
        assert!(drops(sandbox, &veth, &daemon, "192.0.2.7"), "an operator who knows better is obeyed");
    })
    .unwrap();
}

#[test]
fn what_the_kernel_has_no_room_for_is_refused_and_changes_nothing() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let add = |pattern: usize| {
            let text = format!("udp dport 4242 payload 0:303132{pattern:02x} then drop");
            daemon.cli(&["rules", "add", &text]).unwrap()
        };
        for pattern in 0..PATTERNS {
            assert!(add(0x33 + pattern).status.success(), "{pattern}");
        }
        assert!(drops(sandbox, &veth, &daemon, "192.0.2.7"));
        let said = add(0x33 + PATTERNS);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("the kernel cannot take this rule") && said.contains("pattern"), "{said}");
        let rules = daemon.rules().unwrap().rules;
        assert!(rules.len() == PATTERNS && rules.iter().all(|rule| rule.state == "enforcing"), "{rules:?}");
        assert!(drops(sandbox, &veth, &daemon, "192.0.2.7"), "those that there were are in force");
        assert_eq!(daemon.status().unwrap().warnings, Vec::<String>::new());
    })
    .unwrap();
}

/// Writes down what an earlier life of the daemon would have a minute ago: one rule that goes on for 30 seconds, and one
/// that has ended.
fn leave(daemon: &Daemon) {
    let rule = |sport: u16, ttl_ms: u64| {
        json!({ "id": sport, "ttl_ms": ttl_ms, "rule": {
            "match": { "proto": [17], "sport": [sport] }, "action": "drop",
            "origin": { "incident": "20260801T120000Z-1" }, "reason": "a flood",
        } })
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let left = json!({ "version": 1, "at_unix": now - 60, "rules": [rule(40_000, 90_000), rule(40_001, 59_000)] });
    fs::create_dir(daemon.path("state")).unwrap();
    fs::write(daemon.path("state").join("mitigation.json"), left.to_string()).unwrap();
}

#[test]
fn who_observes_ends_rules_of_an_earlier_life() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], SECTIONS).unwrap();
        leave(&daemon);
        daemon.launch(sandbox).unwrap();
        assert!(wait_for("it to drop", PATIENCE, || drops(sandbox, &veth, &daemon, "192.0.2.7").then_some(())).is_ok());
        daemon.kill().unwrap();
        daemon.configure(&format!("{SECTIONS}[mitigation]\nmode = \"observe\"\n")).unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"), "the kernel would go on for 30 s");
        assert!(daemon.rules().unwrap().rules.is_empty());
    })
    .unwrap();
}

#[test]
fn rules_of_an_earlier_life_end_by_themselves() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], SECTIONS).unwrap();
        leave(&daemon);
        daemon.launch(sandbox).unwrap();
        assert!(wait_for("it to drop", PATIENCE, || drops(sandbox, &veth, &daemon, "192.0.2.7").then_some(())).is_ok());
        let ended = template(&veth, "192.0.2.7", (40_001, 9), b"x");
        assert_eq!(dropped(sandbox, &veth, &daemon, ended, 3), 0, "it had ended before the start");
        let rules = daemon.rules().unwrap().rules;
        let shown: Vec<_> = rules.iter().map(|rule| (rule.matches.as_str(), rule.state.as_str())).collect();
        assert_eq!(shown, [("udp sport 40000", "inherited")]);
        assert!(rules[0].ends_s.is_some_and(|left| left <= 30), "{rules:?}");
        // A second start in a row knows it too.
        daemon.kill().unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(wait_for("it to drop", PATIENCE, || drops(sandbox, &veth, &daemon, "192.0.2.7").then_some(())).is_ok());
        wait_for("its end", 2 * PATIENCE, || daemon.rules().unwrap().rules.is_empty().then_some(())).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "192.0.2.7"));
    })
    .unwrap();
}

#[test]
fn a_damaged_file_of_rules_is_kept_aside() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["rules", "add", "udp dport 4242 then drop"]).unwrap();
        daemon.terminate().unwrap();
        let path = daemon.path("state").join("rules.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        daemon.launch(sandbox).unwrap();
        let warnings = daemon.status().unwrap().warnings;
        let told = warnings.iter().find(|warning| warning.contains("rules.json")).unwrap();
        assert!(told.contains("is damaged and was set aside as"), "{told}");
        daemon.ok(&["rules", "add", "udp dport 4242 then drop"]).unwrap();
        assert_eq!(daemon.rules().unwrap().rules.len(), 1);
    })
    .unwrap();
}

/// A frame that [`drops`] would send, as hexadecimal digits, from a source and to a port.
fn frame(veth: &Veth, src: [u8; 4], dport: u16) -> String {
    let mut bytes: Vec<u8> = [veth.here.mac.0, veth.peer.mac.0].concat();
    bytes.extend([8, 0, 0x45, 0, 0, 38, 0, 1, 0, 0, 64, 17, 0, 0]);
    bytes.extend(src);
    bytes.extend(veth.here.v4.octets());
    bytes.extend(40_000u16.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.extend([0, 18, 0, 0]);
    bytes.extend(b"0123456789");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_would_happen_is_explained_as_it_happens() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        let feed = daemon.path("bad.txt");
        fs::write(&feed, "203.0.113.0/24\n").unwrap();
        daemon.configure(&format!("{SECTIONS}[[feeds]]\nname = \"bad\"\npath = {feed:?}\n")).unwrap();
        daemon.launch(sandbox).unwrap();
        daemon.ok(&["rules", "add", "udp dport 9 then drop"]).unwrap();
        daemon.ok(&["rules", "add", "udp sport 40000 dport 4242 then drop", "--for", "5m"]).unwrap();
        daemon.ok(&["block", "198.51.100.0/24", "--reason", "it floods"]).unwrap();
        daemon.ok(&["allow", "198.51.100.9"]).unwrap();
        let cases = [
            ([192, 0, 2, 7], 4242, "drop", Some("rule"), "rule 2 matches"),
            ([192, 0, 2, 7], 4243, "pass", None, "no list names its source"),
            ([198, 51, 100, 7], 4243, "drop", Some("block_prefix"), "198.51.100.0/24 is listed (block)"),
            ([198, 51, 100, 9], 4242, "pass", None, "198.51.100.9/32 is allowed, which overrules"),
            ([203, 0, 113, 7], 4243, "drop", Some("feed_prefix"), "203.0.113.0/24 is listed (feed:bad)"),
        ];
        for (src, dport, verdict, reason, because) in cases {
            let said = daemon.ok(&["explain", "--packet", &frame(&veth, src, dport), "--json"]).unwrap();
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!((said["verdict"].as_str(), said["reason"].as_str()), (Some(verdict), reason), "{said}");
            assert!(said["because"].as_str().unwrap().contains(because), "{said}");
            let source = IpAddr::from(src).to_string();
            let sent = template(&veth, &source, (40_000, dport), b"0123456789");
            let dropped = dropped(sandbox, &veth, &daemon, sent, 1);
            assert_eq!(dropped == 1, verdict == "drop", "{source} to {dport}: and that is what happens");
        }
        let said = daemon.ok(&["explain", "--packet", &frame(&veth, [192, 0, 2, 7], 4242)]).unwrap();
        for part in ["1 `udp dport 9 then drop`: no: dport is 4242, not 9", "2 `udp sport 40000", "is DROPPED (rule)"] {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        // A classic capture: header, then each record's times, lengths and bytes.
        let mut pcap: Vec<u8> =
            vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        for (src, dport, _, _, _) in cases {
            let hex = frame(&veth, src, dport);
            let bytes = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap());
            let bytes: Vec<u8> = bytes.collect();
            let length = (bytes.len() as u32).to_le_bytes();
            pcap.extend([[0; 4], [0; 4], length, length].concat());
            pcap.extend(bytes);
        }
        let path = daemon.path("five.pcap");
        fs::write(&path, pcap).unwrap();
        let args = ["explain", "--pcap", path.to_str().unwrap(), "--first", "2", "--json"];
        let said: Value = serde_json::from_str(&daemon.ok(&args).unwrap()).unwrap();
        assert_eq!((said["packets"].as_u64(), said["first"].as_array().map(Vec::len)), (Some(5), Some(2)), "{said}");
        let of = |verdict: &str| {
            let all = said["verdicts"].as_array().unwrap().iter().filter(|kind| kind["verdict"] == verdict);
            all.map(|kind| kind["packets"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((of("drop"), of("pass")), (3, 2), "{said}");
        assert!(daemon.refused(&["explain", "--packet", "45zz"]).unwrap().contains("no hexadecimal digit"));
    })
    .unwrap();
}

#[test]
fn the_mode_is_what_the_configuration_says_now() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let cases = [
            ("auto", "observes until normal is known here"),
            ("observe", "rules only count"),
            ("enforce", "attacks are removed at once"),
        ];
        for (mode, wanted) in cases {
            daemon.configure(&format!("{SECTIONS}[mitigation]\nmode = {mode:?}\n")).unwrap();
            let from = daemon.log().len();
            daemon.signal(Signal::SIGHUP).unwrap();
            daemon.wait_for_log(from, "The configuration was read again").unwrap();
            let mitigation = daemon.status().unwrap().mitigation;
            assert!(mitigation.mode == mode && mitigation.state.contains(wanted), "{mitigation:?}");
        }
    })
    .unwrap();
}
