//! A daemon at an uplink of 100 Mbit/s whose router does what it hears by BGP, with customers and a flood.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::Result;
use ftagent::serve::protocol::{LadderStatus, RungView};
use ftagent_tests::{
    customers::Customers,
    daemon::Daemon,
    edge::{self, API, Enforcer, Speakers},
    peers,
    sandbox::{Host, Sandbox, skip},
    traffic::{Flood, Generator, vectors},
};

/// The uplink.
const MBIT: u32 = 100;
/// Bits of a packet of the flood: 1400 bytes of an answer and its headers.
const PACKET_BITS: u64 = 8 * 1442;

/// A thread that sends.
type Sending = JoinHandle<Result<Result<()>>>;

pub struct Edge<'a> {
    pub sandbox: &'a Sandbox,
    pub daemon: Daemon,
    uplink: edge::Edge,
    enforcer: Enforcer,
    _speakers: Speakers,
    flood: Option<(Arc<AtomicBool>, Sending)>,
    stop: Arc<AtomicBool>,
}

/// Runs a test at an edge; skips it where a program is missing.
pub fn within(body: impl FnOnce(&mut Edge<'_>) + Send) {
    Sandbox::run(|sandbox| match Edge::start(sandbox) {
        Some(mut edge) => body(&mut edge),
        None => skip("the ladder through a BGP daemon", "gobgpd is not there: `cargo xtask setup`"),
    })
    .unwrap();
}

impl<'a> Edge<'a> {
    fn start(sandbox: &'a Sandbox) -> Option<Self> {
        let uplink = edge::Edge::new(sandbox, MBIT).unwrap();
        let speakers = Speakers::start(sandbox, &uplink).unwrap()?;
        let daemon = Daemon::start(sandbox, &["wan0"], CONFIG).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let _customers = Customers::begin(sandbox, &uplink.veth, &stop).unwrap();
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        // Clean flows count when they are a few seconds old.
        sleep(Duration::from_secs(5));
        let enforcer = Enforcer::start(sandbox);
        Some(Self { sandbox, daemon, uplink, enforcer, _speakers: speakers, flood: None, stop })
    }

    /// Begins a flood of so many Mbit/s, or ends it.
    pub fn flood(&mut self, mbit: u64) {
        if let Some((stop, thread)) = self.flood.take() {
            stop.store(true, Relaxed);
            thread.join().unwrap().unwrap().unwrap();
        }
        if mbit == 0 {
            return;
        }
        let (stop, ifindex) = (Arc::new(AtomicBool::new(false)), self.uplink.leaves_by().unwrap());
        let flood = vectors::find("dns_amplification").unwrap().flood(&self.uplink.way());
        let (flood, halt) = (Flood { pps: Some(mbit * 1_000_000 / PACKET_BITS), ..flood }, Arc::clone(&stop));
        let world: &Host = self.uplink.world();
        let thread = world.spawn(move || Generator::new(ifindex)?.run(&flood, &halt).map(drop));
        self.flood = Some((stop, thread));
    }

    /// Returns what the router does of what it has heard.
    pub fn heard(&self) -> Vec<String> {
        self.enforcer.rules().into_iter().collect()
    }

    pub fn ladder(&self) -> LadderStatus {
        serde_json::from_str(&self.daemon.ok(&["ladder", "status", "--json"]).unwrap()).unwrap()
    }

    pub fn rung(&self, name: &str) -> RungView {
        self.ladder().rungs.into_iter().find(|rung| rung.rung == name).unwrap()
    }

    /// Waits until something holds; where it does not, says how things are.
    pub fn wait(&self, what: &str, seconds: u64, holds: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !holds(self) {
            assert!(
                since.elapsed() < Duration::from_secs(seconds),
                "in vain for {seconds} s: {what}\n{}\nthe router does {:#?}\n{}",
                self.daemon.ok(&["ladder"]).unwrap(),
                self.heard(),
                self.daemon.log()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Takes routes back by hand at the daemon here, as an operator would.
    pub fn withdraw_by_hand(&self) {
        let port = API.rsplit_once(':').unwrap().1;
        let mut gobgp = peers::program("gobgp").unwrap();
        let output = gobgp.args(["-p", port, "global", "rib", "del", "all", "-a", "ipv4-flowspec"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Edge<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some((stop, _)) = &self.flood {
            stop.store(true, Relaxed);
        }
    }
}

/// The agent's, beyond what every one has: short holds, so that a test sees them end.
const CONFIG: &str = r#"
[learning]
trust_after = "8s"
[services]
detect = false
[uplink]
capacity = "100 Mbit/s"
prefixes = ["10.77.0.0/24"]
[bgp]
daemon = "gobgp"
gobgp_address = "127.0.0.1:50051"
asn = 64500
own_prefixes = ["10.77.0.0/24"]
[ladder]
trickle = "1 Mbit/s"
[[ladder.rungs]]
plane = "flowspec"
approve = "auto"
utilisation_percent = 70
activation = "1s"
hold = "3s"
longest_hold = "6s"
[[ladder.rungs]]
plane = "rtbh"
utilisation_percent = 95
lost_pps = 0
softirq_percent = 0
"#;
