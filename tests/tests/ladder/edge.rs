//! A daemon at an uplink of 100 Mbit/s whose router does what it hears by BGP, with customers and a flood.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use ftagent::serve::protocol::{LadderStatus, RungView};
use ftagent_tests::{
    customers::Customers,
    daemon::Daemon,
    edge::{self, API, Enforcer, Flooding, Speakers},
    peers,
    sandbox::Sandbox,
    traffic::{
        Flood,
        vectors::{self, Link},
    },
};

/// The uplink.
const MBIT: u32 = 100;
/// Bits of a packet of the flood: 1400 bytes of an answer and its headers.
const PACKET_BITS: u64 = 8 * 1442;

/// What the ladder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rungs {
    /// Filters by itself; black holes where an operator says so.
    Filters,
    /// Black holes by itself and nothing else, for a second address of the host.
    Holes,
}

pub struct Edge<'a> {
    pub sandbox: &'a Sandbox,
    pub daemon: Daemon,
    /// The target of floods.
    pub victim: Ipv4Addr,
    flood: Option<Flooding>,
    customers: Arc<Customers>,
    uplink: edge::Edge,
    enforcer: Enforcer,
    speakers: Speakers,
    stop: Arc<AtomicBool>,
}

/// Runs a test at an edge; skips it where a program is missing.
pub fn within(rungs: Rungs, body: impl FnOnce(&mut Edge<'_>) + Send) {
    if peers::need("the ladder through a BGP daemon", &["gobgpd", "gobgp", "nft"]) {
        Sandbox::run(|sandbox| body(&mut Edge::start(sandbox, rungs))).unwrap();
    }
}

impl<'a> Edge<'a> {
    fn start(sandbox: &'a Sandbox, rungs: Rungs) -> Self {
        let more = if rungs == Rungs::Filters { FILTERS } else { HOLES };
        Self::with(sandbox, rungs == Rungs::Holes, more, Enforcer::start)
    }

    /// Makes an edge with further sections of the configuration; `router` does what is asked upstream. The target is the
    /// host's only address, or a `second`.
    pub fn with(sandbox: &'a Sandbox, second: bool, more: &str, router: impl FnOnce(&Sandbox) -> Enforcer) -> Self {
        let uplink = edge::Edge::new(sandbox, MBIT).unwrap();
        let victim = if second { edge::SECOND } else { uplink.veth.here.v4 };
        if second {
            uplink.add_second(sandbox).unwrap();
        }
        let speakers = Speakers::start(sandbox, &uplink).unwrap().unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], &format!("{CONFIG}{more}")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let customers = Customers::begin(sandbox, &uplink.veth, &stop).unwrap();
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        // Clean flows count when they are a few seconds old.
        sleep(Duration::from_secs(5));
        let enforcer = router(sandbox);
        Self { sandbox, daemon, victim, flood: None, customers, uplink, enforcer, speakers, stop }
    }

    /// Begins a flood of so many Mbit/s, or ends it.
    pub fn flood(&mut self, mbit: u64) {
        if let Some(flood) = self.flood.take() {
            flood.end().unwrap();
        }
        if mbit > 0 {
            let way = Link { dst: self.victim.into(), ..self.uplink.way() };
            let flood = vectors::find("dns_amplification").unwrap().flood(&way);
            let flood = Flood { pps: Some(mbit * 1_000_000 / PACKET_BITS), ..flood };
            self.flood = Some(Flooding::begin(&self.uplink, flood).unwrap());
        }
    }

    /// Waits until customers load pages, from now on.
    pub fn serves(&self) {
        self.customers.take();
        self.wait("customers that are served", 60, |edge| edge.customers.take().pages > 0);
    }

    /// Returns how many routes the BGP daemon beside the agent has.
    pub fn announced(&self) -> usize {
        ["ipv4", "ipv4-flowspec"].map(|family| edge::table(family).unwrap().len()).iter().sum()
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
                self.daemon.ok(&["ladder"]).unwrap_or_else(|error| error.to_string()),
                self.heard(),
                self.daemon.log()
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Kills the BGP daemon beside the agent, which cannot say goodbye.
    pub fn kill_speaker(&mut self) {
        self.speakers.kill();
    }

    /// Starts it again; returns how long after it first answers it has a route of the agent's, and how long after that
    /// answer the router does what it hears.
    pub fn revive_speaker(&mut self) -> (Duration, Duration) {
        let since = Instant::now();
        self.speakers.begin(self.sandbox).unwrap();
        let moment = |what: &str, holds: &dyn Fn() -> bool| {
            self.wait(what, 120, |_| holds());
            Instant::now()
        };
        let answers = moment("the BGP daemon's answer", &|| edge::table("ipv4-flowspec").is_ok());
        let has = moment("the route in the BGP daemon", &|| {
            edge::table("ipv4-flowspec").is_ok_and(|routes| !routes.is_empty())
        });
        let first = || self.enforcer.changes().into_iter().find(|change| change.at > since && !change.rules.is_empty());
        self.wait("the route at the router", 120, |_| first().is_some());
        let heard = first().map_or(has, |change| change.at);
        (has - answers, heard.saturating_duration_since(answers))
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
"#;

/// [`Rungs::Filters`].
const FILTERS: &str = r#"
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

/// [`Rungs::Holes`].
const HOLES: &str = r#"
[[ladder.rungs]]
plane = "rtbh"
approve = "auto"
per_day = 20
utilisation_percent = 70
activation = "1s"
hold = "3s"
longest_hold = "6s"
"#;
