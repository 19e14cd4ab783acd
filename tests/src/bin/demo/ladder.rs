//! `cargo xtask demo --ladder`: a flood that no host can drop its way out of, because it fills the link before it.
//!
//! The agent drops it at once, and asks the router upstream to drop it instead; a router that enforces what it is
//! told by BGP makes the link free again. The agent looks again and again whether that is still needed, and takes
//! it back when it is not. Everybody's view is printed as one timeline.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ftagent::{decide::Incident, serve::protocol::LadderStatus};
use ftagent_tests::{
    customers::Customers,
    daemon::{self, Daemon},
    edge::{API, Edge, Enforcer, Meter, OWN_AS, Speakers},
    http::{Server, says},
    sandbox::Sandbox,
    traffic::{Flood, vectors},
};

use crate::{SECTIONS, attack::Attack, timeline::Timeline};

/// What the uplink carries.
const MBIT: u32 = 100;
/// Packets a second of the flood, 1442 bytes each: more than twice of what the uplink carries.
const PPS: u64 = 20_000;
/// How long a flow specification stays before it is asked whether it is still needed; minutes, otherwise.
const HOLD: &str = "6s";
/// Time between two looks at everything.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who looks at what.
struct Scene<'a> {
    agent: &'a Daemon,
    customers: &'a Customers,
    enforcer: &'a Enforcer,
    meter: &'a Meter,
    /// Where alerts arrive.
    sink: &'a Server,
    timeline: Timeline,
    changes: usize,
    loads: usize,
    alerts: usize,
    full: bool,
    rules: BTreeSet<String>,
    failing: (u64, Instant),
}

/// Plays it; returns whether all went as it should.
pub fn play(sandbox: &Sandbox) -> Result<bool> {
    let edge = Edge::new(sandbox, MBIT)?;
    println!(
        "Three hosts: this one ({}) is protected; its uplink, shaped to {MBIT} Mbit/s, leads to a router of the provider, \
         and behind that router is the world. The router takes flow specifications by BGP (gobgpd on both sides) and \
         enforces them by nft.\n",
        edge.veth.here.v4
    );
    let Some(_speakers) = Speakers::start(sandbox, &edge)? else {
        bail!("gobgpd is not there: `cargo xtask setup` unpacks it below target/peers");
    };
    let (enforcer, meter) = (Enforcer::start(sandbox), Meter::start(sandbox, &edge, MBIT));
    let sink = Server::start(|_, _| says(200, ""));
    let mut agent = Daemon::new(&["wan0"], SECTIONS)?;
    agent.configure(&sections(&edge, &agent, &sink)?)?;
    agent.launch(sandbox)?;
    let stop = Arc::new(AtomicBool::new(false));
    let customers = Customers::begin(sandbox, &edge.veth, &stop)?;
    println!("The agent learns what is normal here …");
    agent.wait_for_log(0, "the baseline is trusted from now on")?;
    println!("… and has learned it.\n\n$ ftagent ladder plan\n{}", agent.ok(&["ladder", "plan"])?);
    let flood = Flood { pps: Some(PPS), ..vectors::find("dns_amplification")?.flood(&edge.way()) };
    let attack = Attack::begin_at(edge.world(), edge.leaves_by()?, flood, None)?;
    println!(
        "The flood begins: {PPS} packets a second of `dns_amplification`, {:.0} Mbit/s.\n",
        PPS as f64 * 1442.0 * 8.0 / 1e6
    );
    let mut scene = Scene {
        agent: &agent,
        customers: &customers,
        enforcer: &enforcer,
        meter: &meter,
        sink: &sink,
        timeline: Timeline::begin(attack.begun),
        changes: 0,
        loads: 0,
        alerts: 0,
        full: false,
        rules: BTreeSet::new(),
        failing: (customers.failed(), Instant::now()),
    };
    let held = scene.play(attack)?;
    stop.store(true, Relaxed);
    println!("\n$ ftagent ladder status\n{}", agent.ok(&["ladder", "status"])?);
    print!("{}", agent.ok(&["detach"])?);
    Ok(held)
}

fn sections(edge: &Edge, agent: &Daemon, sink: &Server) -> Result<String> {
    let mut text = SECTIONS.to_owned();
    writeln!(text, "[uplink]\ncapacity = \"{MBIT} Mbit/s\"")?;
    writeln!(text, "[bgp]\ndaemon = \"gobgp\"\ngobgp_address = \"{API}\"\nasn = {OWN_AS}")?;
    writeln!(text, "own_prefixes = [\"{}/32\"]", edge.veth.here.v4)?;
    writeln!(text, "[ladder]\nmode = \"on\"")?;
    writeln!(text, "[[ladder.rungs]]\nplane = \"flowspec\"\napprove = \"auto\"\nhold = \"{HOLD}\"")?;
    let secret = agent.path("webhook");
    let key = "whsec_ZGVtb25zdHJhdGlvbiBvbmx5LCBub3Qgc2VjcmV0";
    daemon::secret(&secret, &format!("url = {}\nsecret = {key}\n", sink.url("/alerts")))?;
    writeln!(text, "[[alerts.sinks]]\nname = \"demo\"\nkind = \"webhook\"\nsecret = {secret:?}")?;
    Ok(text)
}

/// Returns what arrived: when, its kind (`opened`, `escalated`, …) and its first line.
fn alerts(sink: &Server) -> impl Iterator<Item = (Instant, String, String)> {
    sink.asked().into_iter().map(|request| {
        let body = request.json().unwrap_or_default();
        let text = |name: &str| body["data"][name].as_str().unwrap_or("?").to_owned();
        (request.at, text("kind"), text("title"))
    })
}

impl Scene<'_> {
    fn play(&mut self, attack: Attack) -> Result<bool> {
        let mut faults = Vec::new();
        if !self.until(|scene| !scene.rules.is_empty())? {
            faults.push("no route came to the router");
        }
        let relieved = |scene: &mut Self| {
            let loads = scene.meter.loads();
            let latest = loads.iter().rev().take(10);
            loads.len() > 10 && latest.clone().all(|load| !load.full)
        };
        if !self.until(relieved)? {
            faults.push("the uplink is still full");
        }
        if !self.until(|scene| scene.ladder().is_ok_and(|ladder| ladder.failed_probes >= 1))? {
            faults.push("nobody asked whether the route is needed");
        }
        if !self.until(relieved)? {
            faults.push("the uplink is full again");
        }
        let sent = attack.end()?;
        self.timeline.note(Instant::now(), "world", format!("the flood is over: {} packets", sent.packets));
        if !self.until(|scene| scene.rules.is_empty() && scene.changes > 0)? {
            faults.push("the route was not taken back");
        }
        let closed = |scene: &mut Self| alerts(scene.sink).any(|(_, kind, _)| kind == "closed");
        if !self.until(closed)? {
            faults.push("nobody was told of the end");
        }
        self.timeline.end();
        let full = self.meter.full_since(self.timeline.begun());
        let seconds = sent.elapsed.as_secs_f64();
        println!("\nThe uplink was full for {full:.1} s of the {seconds:.1} s of the flood.");
        let status = self.ladder()?;
        println!(
            "The router changed what it drops {} times; {} probes, of which {} found the flood still there.",
            self.changes, status.probes, status.failed_probes
        );
        println!("{} alerts arrived.", self.sink.count());
        faults.iter().for_each(|what| println!("NOT as it should be: {what}."));
        Ok(faults.is_empty())
    }

    fn ladder(&self) -> Result<LadderStatus> {
        Ok(serde_json::from_str(&self.agent.ok(&["ladder", "status", "--json"])?)?)
    }

    /// Looks at everything again and again until something is so; returns whether it became so.
    fn until(&mut self, mut so: impl FnMut(&mut Self) -> bool) -> Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.look()?;
            if so(self) {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            sleep(PAUSE);
        }
    }

    fn look(&mut self) -> Result<()> {
        self.look_at_router();
        self.look_at_link();
        self.look_at_customers();
        for (at, kind, title) in alerts(self.sink).skip(self.alerts) {
            self.alerts += 1;
            self.timeline.note(at, "alert", format!("{kind}: {title}"));
        }
        let answer: serde_json::Value = serde_json::from_str(&self.agent.ok(&["incidents", "--json"])?)?;
        let incidents: Vec<Incident> = serde_json::from_value(answer["incidents"].clone())?;
        let over = incidents.iter().all(|incident| !incident.is_open()) && self.changes > 0;
        let closed_ns = incidents.iter().filter_map(|incident| incident.closed).map(|at| at.mono_ns).max();
        for entry in incidents.into_iter().flat_map(|incident| incident.timeline) {
            self.timeline.note_once(entry.at.mono_ns, "agent", entry.what.to_string());
        }
        if over {
            // What is taken back after the attack stands in no incident's timeline.
            for rung in self.ladder()?.rungs {
                let Some(since) = rung.since.map(|since| since.mono_ns).filter(|since| Some(*since) > closed_ns) else {
                    continue;
                };
                self.timeline.note_once(since, "ladder", format!("{}: {}: {}", rung.rung, rung.state, rung.why));
            }
        }
        self.timeline.flow();
        Ok(())
    }

    fn look_at_router(&mut self) {
        for change in self.enforcer.changes().into_iter().skip(self.changes) {
            self.changes += 1;
            for rule in change.rules.difference(&self.rules) {
                self.timeline.note(change.at, "router", format!("enforces: {rule}"));
            }
            for rule in self.rules.difference(&change.rules) {
                self.timeline.note(change.at, "router", format!("does not any more: {rule}"));
            }
            self.rules = change.rules;
        }
    }

    fn look_at_link(&mut self) {
        for load in self.meter.loads().into_iter().skip(self.loads) {
            self.loads += 1;
            if load.full != self.full {
                self.full = load.full;
                let how = if load.full { "is full" } else { "has room again" };
                self.timeline.note(load.at, "uplink", format!("{how}: {:.0} Mbit/s", load.bits / 1e6));
            }
        }
    }

    fn look_at_customers(&mut self) {
        let failed = self.customers.failed();
        let (before, since) = self.failing;
        if since.elapsed() >= Duration::from_secs(1) {
            if failed > before {
                self.timeline.note(Instant::now(), "customer", format!("{} requests failed", failed - before));
            }
            self.failing = (failed, Instant::now());
        }
    }
}
