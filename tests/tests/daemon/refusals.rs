//! Starts that must fail, say why, and change nothing.

use std::{fs, net::TcpListener};

use aya::maps::{Array, MapData};
use ftagent_common::abi::{ABI_VERSION, maps};
use ftagent_tests::{
    daemon::{BPFFS, Daemon, METRICS},
    require_root,
    sandbox::Sandbox,
    traffic::{Program, Receiver},
};

use super::{pins, program};

/// Asserts that every part is in what was said.
fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn an_interface_that_does_not_exist() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let said = Daemon::new(&["wan0", "eth77"], "").unwrap().refuses(sandbox, &[]).unwrap();
        assert_says(&said, &["there is no interface `eth77`", "ip link"]);
        assert_eq!((program("wan0"), pins()), (None, Vec::new()), "the other one is left alone");
    })
    .unwrap();
}

#[test]
fn no_default_route_where_the_interface_is_to_be_found_by_it() {
    require_root!();
    Sandbox::run(|sandbox| {
        let said = Daemon::new(&["auto"], "").unwrap().refuses(sandbox, &[]).unwrap();
        assert_says(&said, &["no interface has a default route", "interfaces.names"]);
    })
    .unwrap();
}

#[test]
fn a_foreign_program_is_never_replaced() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        sandbox.veth("wan1", "peer1").unwrap();
        let foreign = Receiver::attach("wan1", Program::Pass).unwrap();
        let id = program("wan1");
        let mut daemon = Daemon::new(&["wan0", "wan1"], "").unwrap();
        let said = daemon.refuses(sandbox, &[]).unwrap();
        assert_says(&said, &["`wan1` already runs an XDP program", "native", "bpftool", "never replaces"]);
        assert!(said.contains(&format!("id {}", id.unwrap())), "{said}");
        assert_eq!(program("wan1"), id, "the foreign program is still there");
        assert_eq!(program("wan0"), None, "a start that fails leaves nothing attached");
        drop(foreign);
        daemon.launch(sandbox).unwrap();
        assert!(program("wan0").is_some() && program("wan1").is_some());
    })
    .unwrap();
}

#[test]
fn no_capability() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"];
        let said = daemon.refuses(sandbox, &wrapper).unwrap();
        assert_says(&said, &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON", "root"]);
        assert_eq!(program("wan0"), None);
        daemon.launch(sandbox).unwrap();
    })
    .unwrap();
}

#[test]
fn a_pin_of_another_map_is_named_and_kept() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let dir = format!("{BPFFS}/abi_{ABI_VERSION}");
        let pin = format!("{dir}/{}", maps::BLOCK4);
        fs::create_dir_all(&dir).unwrap();
        Array::<MapData, u32>::create(7, 0).unwrap().pin(&pin).unwrap();
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        let said = daemon.refuses(sandbox, &[]).unwrap();
        let differences = ["type Array, wanted Hash", "key size 4, wanted 8", "value size 4, wanted 16", "entries 7"];
        assert_says(&said, &differences);
        assert_says(&said, &[&pin, "ftagent detach", "or remove that file"]);
        assert_eq!(pins(), [pin], "nothing is removed and nothing added");
        assert_eq!(program("wan0"), None);
        // The first remedy that it names helps.
        daemon.ok(&["detach"]).unwrap();
        daemon.launch(sandbox).unwrap();
    })
    .unwrap();
}

#[test]
fn a_second_daemon() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], "").unwrap();
        let (id, pid) = (program("wan0"), daemon.status().unwrap().pid);
        let mut command = daemon.command(&["run"]).unwrap();
        let output = command.output().unwrap();
        assert!(!output.status.success());
        assert_says(&String::from_utf8_lossy(&output.stderr), &["another ftagent runs", "stop it first"]);
        assert_eq!(program("wan0"), id, "its program is still there");
        assert_eq!(daemon.status().unwrap().pid, pid, "and it still answers");
    })
    .unwrap();
}

#[test]
fn a_second_daemon_with_a_state_of_its_own() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        sandbox.veth("wan1", "peer1").unwrap();
        let first = Daemon::start(sandbox, &["wan0"], "").unwrap();
        first.ok(&["block", "198.51.100.0/24"]).unwrap();
        let id = program("wan0");
        // It would share the maps, and undo the first one's lists.
        let said = Daemon::new(&["wan0", "wan1"], "").unwrap().refuses(sandbox, &[]).unwrap();
        assert_says(&said, &["another ftagent runs", BPFFS, "stop it first"]);
        assert_eq!((program("wan0"), program("wan1")), (id, None));
        assert_eq!(first.rules().unwrap().block.len(), 1);
    })
    .unwrap();
}

#[test]
fn a_port_that_is_taken() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let taken = TcpListener::bind(METRICS).unwrap();
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        let said = daemon.refuses(sandbox, &[]).unwrap();
        assert_says(&said, &["serving metrics", METRICS, "in use"]);
        assert_eq!(program("wan0"), None, "a start that fails leaves nothing attached");
        drop(taken);
        daemon.launch(sandbox).unwrap();
    })
    .unwrap();
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], "[feed]\nreload_intervall = \"2s\"\n").unwrap();
        let said = daemon.refuses(sandbox, &[]).unwrap();
        let text = fs::read_to_string(daemon.path("ftagent.toml")).unwrap();
        let line = text.lines().position(|line| line.contains("intervall")).unwrap() + 1;
        assert_says(&said, &["reload_intervall", "did you mean `feed.reload_interval`?", &line.to_string()]);
        assert!(daemon.refused(&["config", "check"]).unwrap().contains("reload_intervall"));
        assert_eq!((program("wan0"), pins()), (None, Vec::new()));
    })
    .unwrap();
}

#[test]
fn a_command_without_a_daemon() {
    require_root!();
    Sandbox::run(|_| {
        let daemon = Daemon::new(&["wan0"], "").unwrap();
        let said = daemon.refused(&["status"]).unwrap();
        let socket = daemon.path("control.sock");
        assert_says(&said, &["no daemon answers", socket.to_str().unwrap(), "ftagent run"]);
    })
    .unwrap();
}
