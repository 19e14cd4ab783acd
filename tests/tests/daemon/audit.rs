//! The audit log of a running daemon: what is in it, and that nobody can change it unnoticed.

use std::{fs, path::PathBuf, process::Command};

use ftagent::record::audit::{self, release};
use ftagent_tests::{
    daemon::{Daemon, PATIENCE, wait_for},
    require_root,
    sandbox::{Sandbox, skip},
    traffic::{Flood, vectors},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::guard::Flooding;

const SECTIONS: &str = "[services]\ndetect = false\n";

/// Returns the lines that are kept, checkpoints left out.
pub(super) fn lines(daemon: &Daemon, more: &[&str]) -> Vec<Value> {
    let args = [&["audit", "show", "--json", "--limit", "10000"], more].concat();
    daemon.ok(&args).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn text<'a>(line: &'a Value, name: &str) -> &'a str {
    line[name].as_str().unwrap_or_default()
}

fn segments(daemon: &Daemon) -> Vec<PathBuf> {
    let dir = audit::dir(&daemon.path("state"));
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("audit-")).collect();
    found.sort();
    found
}

/// Runs `audit verify`, and returns whether it is content and what is wrong.
pub(super) fn verify(daemon: &Daemon, more: &[&str]) -> (bool, Option<Value>) {
    let args = [&["audit", "verify", "--json"], more].concat();
    let output = daemon.cli(&args).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(report["valid"].as_bool().unwrap(), output.status.success());
    (output.status.success(), Some(report["fault"].clone()).filter(|fault| !fault.is_null()))
}

#[test]
fn what_operators_do_is_in_the_log_and_cannot_be_changed_unnoticed() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["block", "198.51.100.0/24", "--for", "10m", "--reason", "it floods"]).unwrap();
        daemon.refused(&["block", "0.0.0.0/0"]).unwrap();
        daemon.ok(&["rules", "add", "udp sport 123 len 400-1500 then drop", "--for", "5m"]).unwrap();
        daemon.ok(&["rules", "remove", "1"]).unwrap();
        daemon.configure(&format!("{SECTIONS}[lists]\nblock = [\"203.0.113.9\"]\n")).unwrap();
        daemon.signal(Signal::SIGHUP).unwrap();
        let changed = || Some(lines(&daemon, &["--action", "config.change"])).filter(|found| !found.is_empty());
        let change = wait_for("the change", PATIENCE, changed).unwrap().remove(0);
        assert_eq!(
            (text(&change, "subject"), &change["after"]["lists.block"][0]),
            ("lists.block", &"203.0.113.9".into())
        );
        daemon.ok(&["unblock", "198.51.100.0/24"]).unwrap();
        assert!(daemon.ok(&["status"]).unwrap().contains("audit log: "));
        assert!(daemon.metrics().unwrap().contains("\nftagent_audit_lost_total 0"));
        daemon.terminate().unwrap();

        let all = lines(&daemon, &[]);
        let told: Vec<(&str, &str, &str)> =
            all.iter().map(|line| (text(line, "action"), text(line, "subject"), text(line, "result"))).collect();
        let wanted = [
            ("daemon.start", "0.1.0", "done"),
            ("interface.protect", "wan0", "done"),
            ("block.add", "198.51.100.0/24", "asked"),
            ("block.add", "198.51.100.0/24", "done"),
            ("block.add", "0.0.0.0/0", "asked"),
            ("block.add", "0.0.0.0/0", "refused"),
            ("rule.add", "udp sport 123 len 400-1500 then drop", "asked"),
            ("rule.add", "udp sport 123 len 400-1500 then drop", "done"),
            ("rule.remove", "1", "asked"),
            ("rule.remove", "1", "done"),
            ("config.reload", "", "asked"),
            ("config.change", "lists.block", "done"),
            ("config.reload", "", "done"),
            ("block.remove", "198.51.100.0/24", "asked"),
            ("block.remove", "198.51.100.0/24", "done"),
            ("daemon.stop", "0.1.0", "done"),
        ];
        let mut rest = told.iter();
        for wanted in wanted {
            assert!(rest.any(|found| *found == wanted), "{wanted:?} is not there, or not in its place: {told:#?}");
        }
        let block = all.iter().find(|line| text(line, "action") == "block.add").unwrap();
        assert_eq!((text(&block["actor"], "login"), &block["actor"]["uid"]), ("root", &0.into()));
        assert_eq!((text(block, "reason"), &block["after"]["for_s"]), ("it floods", &600.into()));
        assert!(block["late"].is_null(), "it was on disk before it was done");
        let removed = all.iter().rfind(|line| text(line, "action") == "rule.remove").unwrap();
        assert_eq!((&removed["before"]["id"], &removed["late"]), (&1.into(), &true.into()));
        assert_eq!(lines(&daemon, &["--actor", "root", "--action", "block"]).len(), 6);

        assert_eq!(verify(&daemon, &[]), (true, None));
        tampered(&daemon);
        with_openssl(&daemon);
    })
    .unwrap();
}

/// One reason is changed: the line is named, and the daemon's next life says so and goes on.
fn tampered(daemon: &Daemon) {
    let path = segments(daemon).remove(0);
    release(&path).unwrap();
    let sound = fs::read_to_string(&path).unwrap();
    let line = sound.lines().position(|line| line.contains("it floods")).unwrap() as u64 + 1;
    fs::write(&path, sound.replacen("it floods", "it FLOODS", 1)).unwrap();
    let (valid, fault) = verify(daemon, &[]);
    let fault = fault.unwrap();
    assert!(!valid && fault["line"] == line && fault["file"] == path.display().to_string(), "{fault}");
    let said = daemon.cli(&["audit", "verify"]).unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains(&format!(", line {line} (number {line}): its bytes")));
    fs::write(&path, sound).unwrap();
    assert_eq!(verify(daemon, &[]), (true, None));
}

/// A copy, the public key and a checkpoint are enough elsewhere, and openssl agrees.
fn with_openssl(daemon: &Daemon) {
    let copy = daemon.path("copy");
    let to = copy.to_str().unwrap();
    daemon.ok(&["audit", "export", to]).unwrap();
    let (pem, checkpoint) = (daemon.path("public.pem"), daemon.ok(&["audit", "export", "--checkpoint"]).unwrap());
    fs::write(&pem, daemon.ok(&["audit", "export", "--public-key"]).unwrap()).unwrap();
    let with = ["--public-key", pem.to_str().unwrap(), "--checkpoint", checkpoint.trim()];
    assert_eq!(verify(daemon, &[&[to][..], &with].concat()), (true, None));
    fs::remove_file(copy.join(audit::CHECKPOINTS)).unwrap();
    let segment = copy.join(segments(daemon).remove(0).file_name().unwrap());
    let whole = fs::read_to_string(&segment).unwrap();
    let cut: Vec<&str> = whole.lines().take(4).collect();
    fs::write(&segment, cut.join("\n") + "\n").unwrap();
    assert_eq!(verify(daemon, &[to]), (true, None), "who has no later checkpoint cannot know");
    let (valid, fault) = verify(daemon, &[&[to][..], &with].concat());
    assert!(!valid && fault.unwrap()["what"].as_str().unwrap().contains("its end was cut off"));

    let (said, signature) = checkpoint.trim().split_once(",\"signature\":\"").unwrap();
    let said = said.strip_prefix("{\"checkpoint\":").unwrap();
    let digits = signature.strip_suffix("\"}").unwrap();
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
    let (message, file) = (daemon.path("statement"), daemon.path("signature"));
    fs::write(&message, said).unwrap();
    fs::write(&file, bytes.collect::<Vec<u8>>()).unwrap();
    let openssl = |message: &PathBuf| {
        let mut command = Command::new("openssl");
        command.args(["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"]).arg(&pem);
        command.arg("-in").arg(message).arg("-sigfile").arg(&file).output()
    };
    match openssl(&message) {
        Err(error) => skip("openssl verifies a checkpoint", &error.to_string()),
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            fs::write(&message, said.replacen("\"seq\":", "\"seq\":1", 1)).unwrap();
            assert!(!openssl(&message).unwrap().status.success(), "another statement");
        }
    }
}

#[test]
fn a_log_that_was_changed_or_cut_short_is_said_at_the_next_start() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["block", "198.51.100.7"]).unwrap();
        daemon.kill().unwrap();
        let path = segments(&daemon).remove(0);
        release(&path).unwrap();
        let sound = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{sound}{{\"v\":1,\"seq\":99")).unwrap();
        daemon.launch(sandbox).unwrap();
        let told = || lines(&daemon, &["--action", "audit.recovered"]).pop();
        assert_eq!(wait_for("the cut", PATIENCE, told).unwrap()["after"]["bytes"], 15);
        assert!(daemon.status().unwrap().warnings.iter().any(|warning| warning.contains("had been cut short")));
        assert_eq!(verify(&daemon, &[]), (true, None));
        daemon.terminate().unwrap();

        release(&path).unwrap();
        fs::write(&path, fs::read_to_string(&path).unwrap().replacen("198.51.100.7", "198.51.100.8", 1)).unwrap();
        daemon.launch(sandbox).unwrap();
        let told = || lines(&daemon, &["--action", "audit.restarted"]).pop();
        let told = wait_for("the new log", PATIENCE, told).unwrap();
        assert!(
            told["before"]["seq"].as_u64().is_some() && text(&told, "reason").contains("does not verify"),
            "{told}"
        );
        assert!(daemon.status().unwrap().warnings.iter().any(|warning| warning.contains("kept aside")));
        let kept = audit::dir(&daemon.path("state")).join(text(&told, "subject"));
        let (valid, fault) = verify(&daemon, &[kept.to_str().unwrap()]);
        assert!(!valid && fault.as_ref().unwrap()["line"].as_u64() > Some(1), "{fault:?}");
        assert!(verify(&daemon, &[]).0);
    })
    .unwrap();
}

#[test]
fn a_search_that_finds_no_safe_rule_is_in_the_log_once_and_policed_classes_by_name() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let sections = format!("{SECTIONS}[learning]\ntrust_after = \"2s\"\n[mitigation]\nmode = \"enforce\"\n");
        let mut daemon = Daemon::start(sandbox, &["wan0"], &sections).unwrap();
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        // Nothing is known of clean traffic, and customers may have such answers.
        let flood = vectors::find("ntp_amplification").unwrap().flood(&vectors::Link::to_here(&veth, false));
        let flooding = Flooding::begin(sandbox, &veth, Flood { pps: Some(20_000), ..flood });
        let refused = || Some(lines(&daemon, &["--action", "rule.refuse"])).filter(|found| !found.is_empty());
        let first = wait_for("the line", PATIENCE, refused).unwrap().remove(0);
        assert!(text(&first, "reason").starts_with("no safe rule for UDP: "), "{first}");
        assert_eq!((text(&first, "result"), text(&first["actor"], "kind")), ("refused", "daemon"));
        let opened = lines(&daemon, &["--action", "incident.open"]).remove(0);
        assert_eq!(text(&first, "incident"), text(&opened, "incident"));
        // It searches again and again, and finds the same.
        std::thread::sleep(std::time::Duration::from_secs(5));
        let reasons = refused().unwrap();
        assert_eq!(reasons.len(), 1, "{reasons:#?}");
        flooding.end();
        let policed = lines(&daemon, &["--action", "class.police"]).remove(0);
        assert!(text(&policed, "subject").contains("udp_src_memcached"), "{policed}");
        assert!(policed["after"]["classes"].as_array().unwrap().len() > 5, "{policed}");
        daemon.terminate().unwrap();
        assert_eq!(verify(&daemon, &[]), (true, None));
    })
    .unwrap();
}

#[test]
fn a_full_disk_stops_nobody_unless_that_is_wanted() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        for policy in ["act", "refuse"] {
            let sections = format!("{SECTIONS}[audit]\non_failure = {policy:?}\n");
            let mut daemon = Daemon::new(&["wan0"], &sections).unwrap();
            let dir = audit::dir(&daemon.path("state"));
            fs::create_dir_all(&dir).unwrap();
            sandbox.command(&format!("mount -t tmpfs -o size=64k none {}", dir.display())).unwrap();
            daemon.launch(sandbox).unwrap();
            daemon.ok(&["block", "198.51.100.1"]).unwrap();
            let full = dir.join("full");
            fs::write(&full, vec![0; 64 << 10]).unwrap_err();
            // What is left of the last page is used up first.
            let mut last = Ok(String::new());
            for host in 2..40 {
                last = daemon.ok(&["block", &format!("198.51.100.{host}")]);
                if last.is_err() {
                    break;
                }
            }
            match policy {
                "refuse" => assert!(format!("{:#}", last.unwrap_err()).contains("`audit.on_failure` is \"refuse\"")),
                _ => assert_eq!(daemon.rules().unwrap().block.len(), 39, "{last:?}"),
            }
            let warned = || daemon.status().unwrap().warnings.into_iter().find(|warning| warning.contains("audit log"));
            assert!(wait_for("the warning", PATIENCE, warned).unwrap().contains("No space left"));
            fs::remove_file(&full).unwrap();
            let over = || warned().is_none().then_some(());
            wait_for("the end of the trouble", PATIENCE, over).unwrap();
            daemon.ok(&["block", "198.51.100.99"]).unwrap();
            let gap = lines(&daemon, &["--action", "audit.gap"]).pop().unwrap();
            assert!(gap["after"]["lost"] == 0 && text(&gap, "reason").contains("No space left"), "{gap}");
            daemon.terminate().unwrap();
            assert_eq!(verify(&daemon, &[]), (true, None));
            sandbox.command(&format!("umount {}", dir.display())).unwrap();
        }
    })
    .unwrap();
}
