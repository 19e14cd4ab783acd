//! What an attack must survive: the daemon's death, rules that change all the time, addresses that come
//! and go, and an attacker who uses an operator's own address.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ftagent::{
    decide::{Incident, mitigate::Phase},
    rule::FlowMatch,
    serve::protocol::{Interface, RuleStatus},
};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Addresses, Flood, L4, Program, Receiver, Values, vectors},
};

use super::guard::Flooding;

const LEARNING: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n";
/// What nobody has business in is removed although this host knows no clean traffic.
const KNOWN: &str = "memcached_amplification";
const PATIENCE: Duration = Duration::from_secs(15);

fn flood(veth: &Veth, vector: &str) -> Flood {
    let flood = vectors::find(vector).unwrap().flood(&vectors::Link::to_here(veth, false));
    Flood { pps: Some(30_000), ..flood }
}

pub(super) fn incidents(daemon: &Daemon) -> Vec<Incident> {
    let answer: serde_json::Value = serde_json::from_str(&daemon.ok(&["incidents", "--json"]).unwrap()).unwrap();
    serde_json::from_value(answer["incidents"].clone()).unwrap()
}

fn is_enforced(incident: &Incident) -> bool {
    incident.is_open() && incident.rules.iter().any(|rule| rule.state == Phase::Enforcing)
}

fn learned(daemon: &Daemon) {
    daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
}

/// Returns packets seen and dropped between two readings.
fn between(before: &Interface, after: &Interface) -> (u64, u64) {
    (after.packets - before.packets, after.dropped_packets - before.dropped_packets)
}

#[test]
fn an_attack_outlives_no_daemon_and_no_incident_is_told_twice() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        learned(&daemon);
        let flooding = Flooding::begin(sandbox, &veth, flood(&veth, KNOWN));
        let enforced = || incidents(&daemon).into_iter().find(is_enforced);
        let first = wait_for("a rule", PATIENCE, enforced).unwrap();
        // The incident has to be on disk, and the rule too: that is done once a second.
        thread::sleep(Duration::from_millis(2500));
        let before = daemon.interface("wan0").unwrap();
        daemon.kill().unwrap();
        thread::sleep(Duration::from_secs(2));
        daemon.launch(sandbox).unwrap();
        let resumed =
            || incidents(&daemon).into_iter().find(|incident| is_enforced(incident) && incident.id == first.id);
        let resumed = wait_for("the same incident", PATIENCE, resumed).unwrap();
        let (seen, dropped) = between(&before, &daemon.interface("wan0").unwrap());
        assert!(seen > 60_000 && dropped as f64 > 0.99 * seen as f64, "{dropped} of {seen} dropped meanwhile");
        assert!(resumed.timeline.iter().any(|entry| entry.what.contains("goes on after a restart")), "{resumed:#?}");
        assert_eq!(incidents(&daemon).len(), 1);
        let ids: Vec<u32> = resumed.rules.iter().map(|rule| rule.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "rules are numbered on: {ids:?}");
        flooding.end();
        let over = || incidents(&daemon).iter().all(|incident| !incident.is_open()).then_some(());
        wait_for("its end", Duration::from_secs(45), over).unwrap();
    })
    .unwrap();
}

#[test]
fn an_operator_takes_a_rule_of_an_incident_back() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        learned(&daemon);
        let flooding = Flooding::begin(sandbox, &veth, flood(&veth, KNOWN));
        let incident = wait_for("a rule", PATIENCE, || incidents(&daemon).into_iter().find(is_enforced)).unwrap();
        let rule = incident.rules.iter().find(|rule| rule.state == Phase::Enforcing).unwrap();
        let id = rule.id.to_string();
        let refused = daemon.refused(&["rules", "remove", &id]).unwrap();
        assert!(refused.contains(&format!("`ftagent rules withdraw {id}` takes it back")), "{refused}");
        assert!(daemon.refused(&["rules", "withdraw", "999"]).unwrap().contains("no open incident has a rule 999"));
        let said = daemon.ok(&["rules", "withdraw", &id]).unwrap();
        assert!(said.starts_with(&format!("Rule {id} is withdrawn: {} then {}.", rule.matches, rule.action)), "{said}");
        let taken: FlowMatch = rule.matches.parse().unwrap();
        let overlaps = |shown: &RuleStatus| taken.overlaps(&shown.matches.parse().unwrap());
        let is_gone = || !daemon.rules().unwrap().rules.iter().any(overlaps);
        wait_for("its end", PATIENCE, || is_gone().then_some(())).unwrap();
        thread::sleep(Duration::from_secs(3));
        assert!(is_gone(), "it comes back: {:#?}", daemon.rules().unwrap().rules);
        let shown = daemon.ok(&["incidents", "show", "last"]).unwrap();
        assert!(shown.contains(&format!("rule {id} withdrawn by root(0), and nothing else drops")), "{shown}");
        let audit = daemon.ok(&["audit", "show"]).unwrap();
        assert!(audit.contains("rule.withdraw"), "{audit}");
        flooding.end();
    })
    .unwrap();
}

#[test]
fn what_a_dead_daemon_leaves_ends_by_itself() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        learned(&daemon);
        let flooding = Flooding::begin(sandbox, &veth, flood(&veth, KNOWN));
        wait_for("a rule", PATIENCE, || incidents(&daemon).into_iter().find(is_enforced)).unwrap();
        flooding.end();
        daemon.kill().unwrap();
        // Rules, guard and tripwire last 30 s.
        thread::sleep(Duration::from_secs(32));
        let sent = Flooding::begin(sandbox, &veth, flood(&veth, KNOWN));
        thread::sleep(Duration::from_secs(1));
        let sent = sent.end();
        daemon.begin(sandbox).unwrap();
        let interface = daemon.wait_for_interface("wan0", PATIENCE, |interface| interface.packets > 0).unwrap();
        let passed = interface.packets - interface.dropped_packets;
        assert!(passed >= sent.packets, "{passed} passed of those and {} sent after the rules' end", sent.packets);
    })
    .unwrap();
}

#[test]
fn rules_that_change_all_the_time_let_nothing_through() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        daemon.ok(&["rules", "add", "udp dport 49152-65535 len 540 then drop", "--force"]).unwrap();
        let before = daemon.interface("wan0").unwrap();
        let flooding = Flooding::begin(sandbox, &veth, Flood { pps: None, ..flood(&veth, "udp_flood") });
        let (begun, mut changes) = (Instant::now(), 0);
        while begun.elapsed() < Duration::from_secs(4) {
            let rule = format!("tcp dport {} then drop", 1000 + changes % 50);
            daemon.ok(&["rules", "add", &rule, "--for", "1m"]).unwrap();
            changes += 1;
        }
        let sent = flooding.end();
        let all = |interface: &Interface| interface.packets >= before.packets + sent.packets;
        let after = daemon.wait_for_interface("wan0", PATIENCE, all).unwrap();
        let (seen, dropped) = between(&before, &after);
        println!("{changes} changes in {:?}, {seen} packets at {:.0} a second", begun.elapsed(), sent.pps());
        // What the sandbox sends by itself is no flood: neighbour discovery and the like.
        assert!(dropped >= sent.packets && seen - dropped < 100, "{dropped} of {seen} dropped, {} sent", sent.packets);
        let shown = daemon.rules().unwrap().rules;
        assert_eq!(shown.len(), 1 + changes.min(50), "each rule once, the first among them");
    })
    .unwrap();
}

/// Says everything back.
fn echo(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// Types a key and waits for its echo; returns the longest wait.
fn types(stream: &mut TcpStream, keys: u32) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..keys {
        let begun = Instant::now();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        longest = longest.max(begun.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    longest
}

#[test]
fn an_operators_session_lives_while_his_own_address_attacks() {
    require_root!();
    for vector in ["ack_flood", "udp_flood", "rst_flood"] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
            let server = SocketAddr::new(IpAddr::V4(veth.here.v4), 22);
            echo(server);
            let mut session = sandbox.peer(|| TcpStream::connect(server).unwrap()).unwrap();
            session.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            types(&mut session, 100);
            learned(&daemon);
            let mut flood = flood(&veth, vector);
            flood.vary.src = Addresses::Fixed;
            flood.template.src = IpAddr::V4(veth.peer.v4);
            if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
                *dport = 22;
            }
            let flooding = Flooding::begin(sandbox, &veth, flood);
            wait_for("an incident", PATIENCE, || incidents(&daemon).into_iter().find(Incident::is_open)).unwrap();
            let longest = types(&mut session, 150);
            assert!(longest < Duration::from_secs(2), "{vector}: a key took {longest:?}");
            flooding.end();
        })
        .unwrap();
    }
}

#[test]
fn a_bgp_session_lives_while_its_peers_address_attacks() {
    require_root!();
    for vector in ["ack_flood", "syn_ack_flood", "rst_flood"] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            // Not the gateway, whose BGP is exempt in any case.
            let peer: SocketAddr = "10.77.0.9:179".parse().unwrap();
            sandbox.peer_command("ip addr add 10.77.0.9/24 dev peer0").unwrap();
            let neighbour = format!("ip neigh replace 10.77.0.9 lladdr {} dev wan0 nud permanent", veth.peer.mac);
            sandbox.command(&neighbour).unwrap();
            sandbox.peer(|| echo(peer)).unwrap();
            let mut session = TcpStream::connect(peer).unwrap();
            session.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
            types(&mut session, 100);
            learned(&daemon);
            let mut flood = flood(&veth, vector);
            flood.vary.src = Addresses::Fixed;
            flood.vary.sport = Values::Fixed;
            flood.template.src = peer.ip();
            if let L4::Tcp { sport, .. } = &mut flood.template.l4 {
                *sport = peer.port();
            }
            let flooding = Flooding::begin(sandbox, &veth, flood);
            wait_for("an incident", PATIENCE, || incidents(&daemon).into_iter().find(Incident::is_open)).unwrap();
            let longest = types(&mut session, 150);
            assert!(longest < Duration::from_secs(2), "{vector}: a message took {longest:?}");
            flooding.end();
            // Nor may anybody cut it by mistake.
            let rule = format!("tcp src {} sport 179 then drop", peer.ip());
            for words in [["rules", "add", &rule], ["block", &peer.ip().to_string(), "--for=1m"]] {
                let said = daemon.refused(&words).unwrap();
                assert!(said.contains("BGP"), "{words:?}: {said}");
            }
        })
        .unwrap();
    }
}

#[test]
fn an_address_may_come_and_go_in_an_attack() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        // Answers that the guard sends reach the peer's stack only so.
        let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
        sandbox.peer_command("ethtool -K peer0 tx off").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        let second: IpAddr = "10.77.0.77".parse().unwrap();
        echo(SocketAddr::new("0.0.0.0".parse().unwrap(), 8080));
        let visit = |address: IpAddr| {
            sandbox
                .peer(|| {
                    let server = SocketAddr::new(address, 8080);
                    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    types(&mut stream, 10)
                })
                .unwrap()
        };
        for _ in 0..100 {
            visit(IpAddr::V4(veth.here.v4));
        }
        learned(&daemon);
        let mut flood = flood(&veth, "syn_flood");
        if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
            *dport = 8080;
        }
        let flooding = Flooding::begin(sandbox, &veth, flood);
        wait_for("an incident", PATIENCE, || incidents(&daemon).into_iter().find(Incident::is_open)).unwrap();
        // Nobody asks for addresses on this link.
        sandbox.peer_command(&format!("ip neigh add 10.77.0.77 lladdr {} dev peer0", veth.here.mac)).unwrap();
        sandbox.command("ip address add 10.77.0.77/32 dev wan0").unwrap();
        for _ in 0..5 {
            visit(second);
            visit(IpAddr::V4(veth.here.v4));
        }
        sandbox.command("ip address del 10.77.0.77/32 dev wan0").unwrap();
        for _ in 0..5 {
            visit(IpAddr::V4(veth.here.v4));
        }
        flooding.end();
    })
    .unwrap();
}
