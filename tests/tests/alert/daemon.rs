//! From a flood on an interface to a message at a sink.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{sleep, spawn},
    time::Duration,
};

use ftagent_tests::{
    daemon::{self, Daemon, wait_for},
    http::{Server, accept, says},
    require_root,
    sandbox::Sandbox,
    traffic::{Flood, Generator, vectors},
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{PATIENCE, body, each};

/// Writes a secret into the daemon's folder, and returns the sink's section.
fn section(daemon: &Daemon, name: &str, sink: &Server) -> String {
    let path = daemon.path(name);
    let text = format!("url = {}\nsecret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", sink.url("/hook"));
    daemon::secret(&path, &text).unwrap();
    format!("[[alerts.sinks]]\nname = {name:?}\nkind = \"webhook\"\nsecret = {path:?}\n")
}

fn kinds(sink: &Server) -> Vec<String> {
    each(sink, "kind")
}

/// Ends what goes on beside a test, however that ends.
struct Beside(Arc<AtomicBool>);

impl Beside {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn end(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets clients connect, one after the other, until told to stop.
fn clients(sandbox: &Sandbox, server: SocketAddr, stop: Arc<AtomicBool>) {
    let listener = TcpListener::bind(server).unwrap();
    let stopped = Arc::clone(&stop);
    spawn(move || accept(&listener, &stopped, drop));
    sandbox.peer_host().spawn(move || {
        while !stop.load(Relaxed) {
            let _connected = TcpStream::connect_timeout(&server, Duration::from_secs(1));
            sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_flood_is_told_as_it_begins_is_mitigated_and_ends_over_a_crash() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let up = Arc::new(AtomicBool::new(true));
        let state = Arc::clone(&up);
        let sink = Server::start(move |_, _| says(if state.load(Relaxed) { 200 } else { 503 }, ""));
        let base = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n[mitigation]\nmode = \"enforce\"\n[alerts]\n\
                    node = \"edge1\"\nretry_longest = \"1s\"\n";
        let mut daemon = Daemon::new(&["wan0"], "").unwrap();
        daemon.configure(base).unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(daemon.ok(&["alert"]).unwrap().starts_with("Nobody is told"));
        assert!(daemon.refused(&["alert", "test", "hook"]).unwrap().contains("no sink is configured"));

        // A sink that is configured while the daemon runs is told at once.
        let sections = format!("{base}{}", section(&daemon, "hook", &sink));
        daemon.configure(&sections).unwrap();
        let from = daemon.log().len();
        daemon.signal(Signal::SIGHUP).unwrap();
        daemon.wait_for_log(from, "The configuration was read again.").unwrap();
        assert!(daemon.ok(&["alert", "test", "hook"]).unwrap().contains("It arrived at `hook`, which answered: 200"));
        assert!(daemon.ok(&["alert", "test", "hook", "--here"]).unwrap().contains("It arrived"));
        // Enough is known of clean traffic when two blocks of addresses have shown it, in two minutes by the clock.
        let visits = Beside::new();
        for address in [IpAddr::V4(veth.here.v4), IpAddr::V6(veth.here.v6)] {
            clients(sandbox, SocketAddr::new(address, 8080), Arc::clone(&visits.0));
        }
        sleep(Duration::from_secs(62));

        let flood = vectors::find("ntp_amplification").unwrap().flood(&vectors::Link::to_here(&veth, false));
        let (ifindex, flooding) = (veth.peer.ifindex, Beside::new());
        let halted = Arc::clone(&flooding.0);
        let sender = sandbox
            .peer_host()
            .spawn(move || Generator::new(ifindex)?.run(&Flood { pps: Some(20_000), packets: None, ..flood }, &halted));
        let opened = || sink.asked().iter().map(body).find(|told| told["data"]["kind"] == "opened");
        let opened = wait_for("the alert", PATIENCE, opened).unwrap();
        let data = &opened["data"];
        assert_eq!((&data["node"], &data["vectors"][0]), (&"edge1".into(), &"ntp_amplification".into()));
        assert!(data["title"].as_str().unwrap().starts_with("ATTACK on edge1: ntp_amplification"), "{data:#}");
        let told = || kinds(&sink).contains(&"mitigated".to_owned()).then_some(());
        wait_for("the mitigation", PATIENCE, told)
            .unwrap_or_else(|error| panic!("{error}: {:?}: {}", kinds(&sink), daemon.ok(&["rules"]).unwrap()));

        // The sink is away as it ends, and the daemon is killed.
        up.store(false, Relaxed);
        visits.end();
        flooding.end();
        sender.join().unwrap().unwrap().unwrap();
        let over = || {
            let last: Value = serde_json::from_str(&daemon.ok(&["incidents", "show", "last", "--json"]).unwrap()).unwrap();
            let status: Value = serde_json::from_str(&daemon.ok(&["alert", "--json"]).unwrap()).unwrap();
            (!last["closed"].is_null() && status["sinks"][0]["waiting"].as_u64()? > 0).then_some(())
        };
        wait_for("the end to wait", Duration::from_secs(60), over).unwrap();
        let waits = || daemon.metrics().unwrap().contains("ftagent_alert_sink_up{sink=\"hook\"} 0").then_some(());
        wait_for("the scrape to say so", PATIENCE, waits).unwrap();
        daemon.kill().unwrap();
        up.store(true, Relaxed);
        daemon.launch(sandbox).unwrap();
        wait_for("the end", PATIENCE, || kinds(&sink).contains(&"closed".to_owned()).then_some(())).unwrap();
        let taken: Vec<String> = kinds(&sink).into_iter().filter(|kind| kind == "opened").collect();
        assert_eq!(taken.len(), 1, "what was told is not told again: {:?}", kinds(&sink));
        let history = daemon.ok(&["alert", "history"]).unwrap();
        assert!(history.contains("OVER: ntp_amplification on edge1"), "{history}");
        let said = daemon.ok(&["alert", "silence", "1h", "--reason", "drill"]).unwrap();
        assert!(said.starts_with("Nobody is told of anything new for 1h"), "{said}");
        assert!(daemon.ok(&["alert"]).unwrap().contains("until"));
        let audit = daemon.ok(&["audit", "show", "--action", "alert"]).unwrap();
        assert!(audit.contains("alert.test") && audit.contains("alert.silence") && audit.contains("drill"), "{audit}");
    })
    .unwrap();
}
