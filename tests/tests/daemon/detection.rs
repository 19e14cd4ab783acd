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
