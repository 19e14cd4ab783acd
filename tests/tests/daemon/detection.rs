//! A real flood on a real interface: recognised, named, and over when it is over.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::Duration,
};

use ftagent::{decide::Vector, serve::protocol::RuleStatus};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::Sandbox,
    traffic::{Flood, Generator, vectors},
};
use serde_json::Value;

const LEARNING: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n";

fn incidents(daemon: &Daemon) -> Vec<Value> {
    let answer: Value = serde_json::from_str(&daemon.ok(&["incidents", "--json"]).unwrap()).unwrap();
    answer["incidents"].as_array().cloned().unwrap_or_default()
}

/// Lets clients connect, one after the other, until told to stop.
fn clients(sandbox: &Sandbox, server: SocketAddr, stop: Arc<AtomicBool>) {
    let listener = TcpListener::bind(server).unwrap();
    let halt = Arc::clone(&stop);
    std::thread::spawn(move || {
        let accepted = listener.incoming().take_while(|_| !halt.load(Relaxed));
        accepted.for_each(drop);
    });
    sandbox.peer_host().spawn(move || {
        while !stop.load(Relaxed) {
            let _connected = TcpStream::connect_timeout(&server, Duration::from_secs(1));
            sleep(Duration::from_millis(20));
        }
        let _woken = TcpStream::connect_timeout(&server, Duration::from_secs(1));
    });
}

#[test]
fn a_flood_is_named_on_the_surfaces_and_closes_when_it_is_over() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        clients(sandbox, SocketAddr::new(IpAddr::V4(veth.here.v4), 8080), Arc::clone(&stop));
        wait_for("trust", Duration::from_secs(10), || {
            let said = daemon.ok(&["incidents", "--json"]).unwrap();
            (!said.contains("\"state\":\"new\"")).then_some(())
        })
        .unwrap();
        assert_eq!(incidents(&daemon), Vec::<Value>::new(), "ordinary clients are no attack");

        let flood = vectors::find("syn_flood").unwrap().flood(&vectors::Link::to_here(&veth, false));
        let ifindex = veth.peer.ifindex;
        let halt = Arc::new(AtomicBool::new(false));
        let halted = Arc::clone(&halt);
        let sender = sandbox.peer_host().spawn(move || {
            Generator::new(ifindex)?.run(&Flood { pps: Some(20_000), packets: Some(200_000), ..flood }, &halted)
        });
        let found = wait_for("an incident", Duration::from_secs(10), || incidents(&daemon).first().cloned()).unwrap();
        assert_eq!(found["vector"], "syn_flood", "{found:#}");
        let id = found["id"].as_str().unwrap().to_owned();
        let said = daemon.ok(&["status"]).unwrap();
        assert!(said.starts_with("ATTACK: syn_flood"), "{said}");
        let shown = daemon.ok(&["incidents", "show", &id]).unwrap();
        assert!(shown.contains("handshakes completed") && shown.contains("tcp_syn"), "{shown}");
        let scrape = daemon.metrics().unwrap();
        for line in [
            "ftagent_incident_active{vector=\"syn_flood\"} 1",
            "ftagent_incidents_total{vector=\"syn_flood\"} 1",
            "ftagent_time_to_detect_seconds_count 1",
        ] {
            assert!(scrape.lines().any(|found| found == line), "{line} is not in {scrape}");
        }
        halt.store(true, Relaxed);
        sender.join().unwrap().unwrap().unwrap();

        let closed = wait_for("the end", Duration::from_secs(40), || {
            incidents(&daemon).first().filter(|incident| !incident["closed"].is_null()).cloned()
        })
        .unwrap();
        assert_eq!(closed["vectors"], serde_json::json!(["syn_flood"]), "{closed:#}");
        assert_eq!(incidents(&daemon).len(), 1, "one flood is one incident");
        stop.store(true, Relaxed);
    })
    .unwrap();
}

/// Returns what is armed, as `ftagent rules` shows it.
fn armed(daemon: &Daemon) -> Option<RuleStatus> {
    daemon.rules().unwrap().rules.into_iter().find(|rule| rule.state == "armed")
}

#[test]
fn what_removed_an_attack_is_armed_for_the_next_over_a_restart_too() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let sections = format!("{LEARNING}[mitigation]\nmode = \"enforce\"\n");
        let mut daemon = Daemon::start(sandbox, &["wan0"], &sections).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        // Enough is known of clean traffic when two blocks of addresses have shown it, in two minutes by
        // the clock.
        for address in [IpAddr::V4(veth.here.v4), IpAddr::V6(veth.here.v6)] {
            clients(sandbox, SocketAddr::new(address, 8080), Arc::clone(&stop));
        }
        sleep(Duration::from_secs(62));
        let flood = vectors::find("ntp_amplification").unwrap().flood(&vectors::Link::to_here(&veth, false));
        let ifindex = veth.peer.ifindex;
        let send = |packets: u64| {
            let flood = Flood { pps: Some(20_000), packets: Some(packets), ..flood.clone() };
            sandbox.peer(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap()).unwrap()
        };
        send(40_000);
        let found = incidents(&daemon);
        assert!(found.len() == 1 && !found[0]["mitigated"].is_null(), "{found:#?}");
        let signature = wait_for("a signature that is armed", Duration::from_secs(60), || armed(&daemon)).unwrap();
        assert_eq!(signature.vectors, [Vector::NtpAmplification], "{signature:?}");
        assert_eq!(signature.action, "rate-limit 100 pps");
        let table = daemon.ok(&["rules"]).unwrap();
        assert!(table.contains("armed: it removed ntp_amplification before"), "{table}");
        assert!(daemon.metrics().unwrap().contains("ftagent_rules{plane=\"xdp\",state=\"armed\"} 1"));

        // A tenth of a second of the next wave: nobody has looked at it yet.
        let before = daemon.interface("wan0").unwrap();
        let sent = send(1500);
        let all = |i: &ftagent::serve::protocol::Interface| i.packets >= before.packets + 1500;
        let after = daemon.wait_for_interface("wan0", Duration::from_secs(5), all).unwrap();
        let dropped = after.dropped_packets - before.dropped_packets;
        // What the limit lets through while it lasts, and a little more.
        let within = 75 + (100.0 * sent.elapsed.as_secs_f64()) as u64;
        assert!(dropped + within >= 1500, "{dropped} of 1500 in {:?}", sent.elapsed);

        wait_for("it to be recorded", Duration::from_secs(10), || {
            let saved = std::fs::read_to_string(daemon.path("state").join("mitigation.json")).ok()?;
            saved.contains("\"remembered\":[{").then_some(())
        })
        .unwrap();
        daemon.terminate().unwrap();
        daemon.launch(sandbox).unwrap();
        let again = wait_for("the signature, armed again", Duration::from_secs(90), || armed(&daemon)).unwrap();
        assert_eq!(again.matches, signature.matches);
        stop.store(true, Relaxed);
    })
    .unwrap();
}
