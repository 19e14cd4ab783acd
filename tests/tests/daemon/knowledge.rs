//! Incidents and baselines, as operators ask for them and correct them.

use std::fs;

use ftagent_tests::{daemon::Daemon, require_root, sandbox::Sandbox};
use serde_json::Value;

use super::send;

/// Runs a command that prints JSON.
fn json(daemon: &Daemon, args: &[&str]) -> Value {
    serde_json::from_str(&daemon.ok(&[args, &["--json"]].concat()).unwrap()).unwrap()
}

#[test]
fn a_fresh_daemon_says_that_it_has_seen_nothing_and_is_learning() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], "").unwrap();
        send(sandbox, &veth, "198.51.100.7", 10);
        let said = daemon.ok(&["incidents"]).unwrap();
        assert!(said.starts_with("There was no incident yet.\nlearning: nothing is trusted yet; "), "{said}");
        assert_eq!(json(&daemon, &["incidents"])["learning"]["state"], "new");
        let said = daemon.ok(&["status"]).unwrap();
        assert!(said.contains("mitigation auto: observes until normal is known here (in "), "{said}");
        assert!(said.contains("learning: nothing is trusted yet"), "{said}");
        let said = daemon.ok(&["baseline", "show", "--class", "esp_ah"]).unwrap();
        assert!(said.contains("No packet of class esp_ah was seen yet"), "{said}");
        let scrape = daemon.metrics().unwrap();
        for line in [
            "ftagent_learning_state{state=\"new\"} 1",
            "ftagent_incident_active{vector=\"syn_flood\"} 0",
            "ftagent_incidents_total{vector=\"carpet_bombing\"} 0",
            "ftagent_time_to_detect_seconds_count 0",
        ] {
            assert!(scrape.lines().any(|found| found == line), "{line} is not in {scrape}");
        }
    })
    .unwrap();
}

#[test]
fn what_was_learned_travels_in_a_file_and_other_files_do_not() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], "").unwrap();
        let path = daemon.path("baseline.json");
        let file = path.to_str().unwrap();
        daemon.ok(&["baseline", "export", file]).unwrap();
        let export = fs::read_to_string(&path).unwrap();
        let printed: Value = serde_json::from_str(&daemon.ok(&["baseline", "export"]).unwrap()).unwrap();
        assert!(printed["version"].is_u64(), "{printed}");
        let said = daemon.ok(&["baseline", "import", file]).unwrap();
        assert!(said.contains("baseline.json is imported."), "{said}");

        let version = printed["version"].as_u64().unwrap();
        let other = |to: u64| export.replacen(&format!("\"version\":{version}"), &format!("\"version\":{to}"), 1);
        let cases = [
            (other(version + 1), "by a newer ftagent"),
            (other(version - 1), "by an older ftagent"),
            (export[..export.len() / 2].to_owned(), "is not JSON, or ends early"),
            ("{}".to_owned(), "is not an exported baseline"),
        ];
        for (text, why) in cases {
            fs::write(&path, text).unwrap();
            let said = daemon.refused(&["baseline", "import", file]).unwrap();
            assert!(said.contains("baseline.json") && said.contains(why), "{said}");
        }
        let said = daemon.refused(&["baseline", "import", "/nowhere"]).unwrap();
        assert!(said.contains("/nowhere cannot be read"), "{said}");
    })
    .unwrap();
}

#[test]
fn nothing_is_changed_by_a_slip() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], "").unwrap();
        let cases: [(&[&str], &str); 6] = [
            (&["baseline", "accept"], "give `--yes`"),
            (&["baseline", "reset"], "give `--yes`"),
            (&["baseline", "show", "--class", "tcp_synn"], "did you mean `tcp_syn`?"),
            (&["baseline", "reset", "--yes", "--class", "udp_src_dnss"], "did you mean `udp_src_dns`?"),
            (&["incidents", "show", "20260801"], "there is no incident `20260801`: `ftagent incidents` lists"),
            (&["incidents", "show", "last"], "there was no incident yet"),
        ];
        for (args, why) in cases {
            let said = daemon.refused(args).unwrap();
            assert!(said.contains(why), "{args:?}: {said}");
        }
        let said = daemon.ok(&["baseline", "accept", "--yes"]).unwrap();
        assert!(said.starts_with("The present load is what is normal now.\n"), "{said}");
        let said = daemon.ok(&["baseline", "reset", "--class", "tcp_syn", "--yes"]).unwrap();
        assert!(said.starts_with("What was learned of `tcp_syn` is forgotten.\nlearn"), "{said}");
        assert!(json(&daemon, &["baseline", "reset", "--yes"])["state"].is_string());
        daemon.wait_for_log(0, "What was learned was forgotten").unwrap();
    })
    .unwrap();
}
