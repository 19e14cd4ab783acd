//! How long it takes from the decision that there is an attack until a router upstream has heard, by BGP, what it
//! is asked to drop: two gobgpd, a session over an uplink that the flood fills, and a new node for each attack.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ftagent::{decide::Incident, sense::clock::monotonic_ns};
use ftagent_tests::{
    customers::Customers,
    daemon::{Daemon, wait_for},
    edge::{API, Edge, OWN_AS, Speakers},
    peers,
    sandbox::{Process, Sandbox},
    traffic::{Flood, Generator, vectors},
};

use crate::{customers::part, report::Row};

/// What the uplink carries, and what is sent, Mbit/s; bits of a packet of the flood.
const MBIT: u32 = 100;
const FLOOD_MBIT: u64 = 300;
const PACKET_BITS: u64 = 8 * 1442;
/// The longest from the incident's opening to the route at the peer, p99, milliseconds.
const HEARD_MS: f64 = 300.0;
/// Clean flows count when they are a few seconds old.
const CALM: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures so many attacks.
pub fn rows(attacks: usize) -> Result<Vec<Row>> {
    if ["gobgpd", "gobgp"].iter().any(|name| peers::program(name).is_none()) {
        println!("\nladder: gobgpd is not there, `cargo xtask setup` unpacks it below target/peers");
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for _ in 0..attacks {
        all.push(Sandbox::run(one)??);
    }
    let of = |value: fn(&Times) -> f64| -> Vec<f64> { all.iter().map(value).collect() };
    let (heard, ruled) = (of(|times| times.heard_ms), of(|times| times.ruled_ms));
    let after = of(|times| times.heard_ms - times.ruled_ms);
    Ok(vec![
        Row::alone("attacks", all.len() as f64, "", None),
        Row::alone("incident opened to rule in force here: median", part(&ruled, 0.5), "ms", None),
        Row::alone("rule in force to route heard: median", part(&after, 0.5), "ms", None),
        Row::alone("incident opened to route heard: median", part(&heard, 0.5), "ms", None),
        Row::alone("incident opened to route heard: p99", part(&heard, 0.99), "ms", Some(HEARD_MS)),
    ])
}

/// Since the incident was opened, milliseconds.
struct Times {
    /// Until the first rule was in force in the kernel.
    ruled_ms: f64,
    /// Until the peer had the first route.
    heard_ms: f64,
}

fn one(sandbox: &Sandbox) -> Result<Times> {
    let edge = Edge::new(sandbox, MBIT)?;
    let Some(_speakers) = Speakers::start(sandbox, &edge)? else {
        bail!("gobgpd is not there: `cargo xtask setup` unpacks it below target/peers");
    };
    let peer = Peer::listen(sandbox)?;
    let daemon = Daemon::start(sandbox, &["wan0"], &configuration())?;
    let stop = Arc::new(AtomicBool::new(false));
    let _customers = Customers::begin(sandbox, &edge.veth, &stop)?;
    daemon.wait_for_log(0, "the baseline is trusted from now on")?;
    thread::sleep(CALM);
    ensure!(peer.heard().is_none(), "the peer heard a route before there was an attack");
    let (halt, ifindex) = (Arc::clone(&stop), edge.leaves_by()?);
    let flood = vectors::find("dns_amplification")?.flood(&edge.way());
    let flood = Flood { pps: Some(FLOOD_MBIT * 1_000_000 / PACKET_BITS), ..flood };
    let sender = edge.world().spawn(move || Generator::new(ifindex)?.run(&flood, &halt));
    let heard = wait_for("a route at the peer", PATIENCE, || peer.heard()).with_context(|| daemon.log());
    let mitigated = || {
        let answer: serde_json::Value = serde_json::from_str(&daemon.ok(&["incidents", "--json"]).ok()?).ok()?;
        let incidents: Vec<Incident> = serde_json::from_value(answer["incidents"].clone()).ok()?;
        incidents.into_iter().find_map(|incident| Some((incident.opened.mono_ns, incident.mitigated?.mono_ns)))
    };
    let times = wait_for("an incident with a rule", PATIENCE, mitigated);
    stop.store(true, Relaxed);
    sender.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let (heard, (opened, mitigated)) = (heard?, times?);
    let since = |at: u64| (at as f64 - opened as f64) / 1e6;
    Ok(Times { ruled_ms: since(mitigated), heard_ms: since(heard) })
}

fn configuration() -> String {
    format!(
        "[learning]\ntrust_after = \"8s\"\n[services]\ndetect = false\n\
         [uplink]\ncapacity = \"{MBIT} Mbit/s\"\nprefixes = [\"10.77.0.0/24\"]\n\
         [bgp]\ndaemon = \"gobgp\"\ngobgp_address = \"{API}\"\nasn = {OWN_AS}\nown_prefixes = [\"10.77.0.0/24\"]\n\
         [[ladder.rungs]]\nplane = \"flowspec\"\napprove = \"auto\"\nutilisation_percent = 70\nactivation = \"1s\"\n"
    )
}

/// Writes down when the router's daemon had its first flow specification, as it says so itself.
struct Peer {
    heard: Arc<Mutex<Option<u64>>>,
    _monitor: Process,
}

impl Peer {
    fn listen(sandbox: &Sandbox) -> Result<Self> {
        let mut monitor = peers::program("gobgp").context("there is no gobgp")?;
        let port = API.rsplit_once(':').context("the API has no port")?.1;
        monitor.args(["-p", port, "monitor", "global", "rib", "-a", "ipv4-flowspec"]);
        monitor.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut monitor = sandbox.peer_spawn(monitor)?;
        let lines = BufReader::new(monitor.stdout.take().context("gobgp has no output")?).lines();
        let heard = Arc::<Mutex<Option<u64>>>::default();
        let note = Arc::clone(&heard);
        // It ends with the process.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let at = monotonic_ns();
                if line.contains("10.77.0.") {
                    note.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(at);
                }
            }
        });
        Ok(Self { heard, _monitor: monitor })
    }

    fn heard(&self) -> Option<u64> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
