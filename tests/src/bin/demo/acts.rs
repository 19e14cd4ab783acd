//! The acts, and how one is played: a flood begins, the agent deals with it, it ends.

use std::{
    io::IsTerminal as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ftagent::{
    cli::status::render,
    decide::{
        Incident,
        mitigate::{Phase, RuleReport},
    },
    sense::clock,
    serve::protocol::Status,
};
use ftagent_tests::{
    daemon::Daemon,
    sandbox::{Sandbox, Veth},
    traffic::{
        Flood, Generator, Sent,
        vectors::{self, Link},
    },
};

use crate::customers::{Customers, Served};

/// A kind of flood.
pub struct Act {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in words.
    about: &'static str,
    /// Of [`vectors::VECTORS`].
    vector: &'static str,
}

/// All of them.
pub const ACTS: &[Act] = &[Act {
    name: "amplification",
    about: "Time servers all over the world send this host answers that it never asked for.",
    vector: "ntp_amplification",
}];

/// How long the agent has to name a flood and to choose a rule.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has to take the rule back: an incident waits ten quiet seconds before it closes.
const PATIENCE_AFTER: Duration = Duration::from_secs(45);
/// At least this much of a flood has to be removed.
const REMOVED: f64 = 0.95;

/// Where the acts are played.
pub struct Stage<'a> {
    sandbox: &'a Sandbox,
    veth: &'a Veth,
    agent: &'a Daemon,
    customers: &'a Customers,
    pps: u64,
    seconds: u64,
    phases: Vec<Watched>,
}

/// What was measured in a phase.
struct Watched {
    name: String,
    seen: f64,
    dropped: f64,
    served: Served,
    /// Requests that failed in it.
    failed: u64,
}

/// A flood under way.
struct Attack {
    thread: JoinHandle<Result<Result<Sent>>>,
    stop: Arc<AtomicBool>,
    begun_ns: u64,
}

impl Attack {
    fn end(self) -> Result<Sent> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??
    }
}

impl<'a> Stage<'a> {
    pub fn new(
        sandbox: &'a Sandbox,
        veth: &'a Veth,
        agent: &'a Daemon,
        customers: &'a Customers,
        pps: u64,
        seconds: u64,
    ) -> Self {
        Self { sandbox, veth, agent, customers, pps, seconds, phases: Vec::new() }
    }

    /// Lets the agent learn.
    pub fn calm(&mut self) -> Result<()> {
        self.watch("calm")?;
        println!("The agent learns what is normal here …");
        self.agent.wait_for_log(0, "the baseline is trusted from now on")?;
        println!("… and has learned it.\n");
        Ok(())
    }

    /// Plays an act; returns whether it went as it should.
    pub fn play(&mut self, act: &Act) -> Result<bool> {
        println!("=== {}: {}\n", act.name, act.about);
        let failed_before = self.customers.failed();
        let attack = self.begin(act)?;
        let since = |at_ns: u64| at_ns.saturating_sub(attack.begun_ns) as f64 / 1e6;
        let mut failures = Vec::new();
        match self.wait_for_incident(attack.begun_ns, PATIENCE, |_| true)? {
            Some(incident) => told_incident(&incident, since(incident.opened.mono_ns)),
            None => failures.push("the flood was not named"),
        }
        let enforces = |rule: &RuleReport| rule.state == Phase::Enforcing;
        let enforced = |incident: &Incident| incident.mitigated.is_some() && incident.rules.iter().any(enforces);
        match self.wait_for_incident(attack.begun_ns, PATIENCE, enforced)? {
            Some(incident) => told_rules(&incident, incident.mitigated.map(|at| since(at.mono_ns))),
            None => failures.push("no rule was chosen"),
        }
        let flood = self.watch(act.name)?;
        let removed = flood.dropped / flood.seen.max(1.0);
        let begun_ns = attack.begun_ns;
        let sent = attack.end()?;
        println!("The flood is over: {} packets, {:.0} a second.", sent.packets, sent.pps());
        if removed < REMOVED {
            failures.push("too little of the flood was removed");
        }
        if !self.taken_back(begun_ns, &sent)? {
            failures.push("the rule was not taken back");
        }
        let after = self.watch("calm again")?;
        if after.dropped > 0.0 {
            failures.push("something is still dropped");
        }
        match self.customers.failed() - failed_before {
            0 => println!("Not one request failed since the flood began."),
            lost => {
                println!("{lost} requests failed since the flood began.");
                failures.push("customers were lost");
            }
        }
        failures.iter().for_each(|what| println!("NOT as it should be: {what}."));
        println!();
        Ok(failures.is_empty())
    }

    fn begin(&self, act: &Act) -> Result<Attack> {
        let flood = vectors::find(act.vector)?.flood(&Link::to_here(self.veth, false));
        let flood = Flood { pps: Some(self.pps), ..flood };
        let (ifindex, stop) = (self.veth.peer.ifindex, Arc::new(AtomicBool::new(false)));
        let halt = Arc::clone(&stop);
        let (begins, begun) = sync_channel(1);
        let thread = self.sandbox.peer_host().spawn(move || {
            let mut generator = Generator::new(ifindex)?;
            // The clock that the agent stamps its incidents with; the first packet leaves after it.
            begins.send(clock::monotonic_ns())?;
            generator.run(&flood, &halt)
        });
        println!("The flood begins: {} packets a second of `{}`.", self.pps, act.vector);
        Ok(Attack { thread, stop, begun_ns: begun.recv().context("the flood did not begin")? })
    }

    fn incidents(&self) -> Result<Vec<Incident>> {
        let answer: serde_json::Value = serde_json::from_str(&self.agent.ok(&["incidents", "--json"])?)?;
        Ok(serde_json::from_value(answer["incidents"].clone())?)
    }

    /// Waits for an incident that opened since the flood began and that is as wanted.
    fn wait_for_incident(
        &self,
        begun_ns: u64,
        patience: Duration,
        wanted: impl Fn(&Incident) -> bool,
    ) -> Result<Option<Incident>> {
        let deadline = Instant::now() + patience;
        loop {
            let ours = |incident: &Incident| incident.opened.mono_ns >= begun_ns && wanted(incident);
            if let Some(incident) = self.incidents()?.into_iter().find(ours) {
                return Ok(Some(incident));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the incident is closed and its rules have ended, and tells it.
    fn taken_back(&self, begun_ns: u64, sent: &Sent) -> Result<bool> {
        let ended = Instant::now();
        let gone = |rule: &RuleReport| matches!(rule.state, Phase::Ended | Phase::Withdrawn);
        let over = |incident: &Incident| !incident.is_open() && incident.rules.iter().all(gone);
        let Some(incident) = self.wait_for_incident(begun_ns, PATIENCE_AFTER, over)? else { return Ok(false) };
        println!("  {:.1} s later: incident {} is closed", ended.elapsed().as_secs_f64(), incident.id);
        for rule in &incident.rules {
            let RuleReport { id, measured, reason, .. } = rule;
            println!("  rule {id} is taken back; it removed {} packets ({reason})", measured.dropped);
        }
        let dropped: u64 = incident.rules.iter().map(|rule| rule.measured.dropped).sum();
        let passed = sent.packets.saturating_sub(dropped);
        let ms = passed as f64 * 1e3 / sent.pps().max(1.0);
        println!("  {passed} packets of the flood came through: what it sends in {ms:.0} ms");
        println!();
        Ok(true)
    }

    /// Shows the live table for some seconds and measures.
    fn watch(&mut self, name: &str) -> Result<&Watched> {
        // What is under way when the phase begins belongs to the one before.
        sleep(Duration::from_millis(500));
        self.customers.take();
        let failed_before = self.customers.failed();
        let (before, begun) = (self.agent.status()?, Instant::now());
        let live = std::io::stdout().is_terminal();
        let mut last = before.clone();
        let mut shown = 0;
        for second in 1..=self.seconds {
            sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
            last = self.agent.status()?;
            if live || second == self.seconds {
                let text = format!("--- {name}, second {second} of {}\n{}", self.seconds, render(&last).trim_end());
                // Up over what was shown before, and clear from there.
                let up = if shown > 0 { format!("\x1b[{shown}A\x1b[J") } else { String::new() };
                println!("{up}{text}");
                shown = text.lines().count();
            }
        }
        println!();
        let elapsed = begun.elapsed().as_secs_f64();
        let total = |status: &Status| status.interfaces.first().map_or((0, 0), |i| (i.packets, i.dropped_packets));
        let ((seen, dropped), (seen_before, dropped_before)) = (total(&last), total(&before));
        self.phases.push(Watched {
            name: name.to_owned(),
            seen: (seen - seen_before) as f64 / elapsed,
            dropped: (dropped - dropped_before) as f64 / elapsed,
            served: self.customers.take(),
            failed: self.customers.failed() - failed_before,
        });
        self.phases.last().context("a phase was just added")
    }

    /// Prints what was measured.
    pub fn summary(&self) {
        println!("Measured, for each second:\n");
        println!(
            "  {:16} {:>12} {:>12} {:>10} {:>12} {:>14} {:>8}",
            "phase", "seen", "dropped", "pages", "median", "time answers", "failed"
        );
        for Watched { name, seen, dropped, served, failed } in &self.phases {
            let each = |count: u64| count as f64 / self.seconds.max(1) as f64;
            println!(
                "  {name:16} {seen:>12.0} {dropped:>12.0} {:>10.0} {:>9.2} ms {:>14.0} {failed:>8}",
                each(served.pages),
                served.median.as_secs_f64() * 1e3,
                each(served.clocks)
            );
        }
        println!("\n(failed: all of the phase; a request has failed that is not answered within a second)");
    }
}

fn told_incident(incident: &Incident, after_ms: f64) {
    println!("  {after_ms:.0} ms: incident {}: {}", incident.id, incident.vector.as_str());
    incident.findings.iter().for_each(|finding| println!("    {}", finding.evidence.line));
}

fn told_rules(incident: &Incident, after_ms: Option<f64>) {
    let after = after_ms.map_or(String::new(), |ms| format!("{ms:.0} ms: it drops, by "));
    for RuleReport { id, matches, action, predicted, runners_up, .. } in &incident.rules {
        println!("  {after}rule {id}: {action} {matches}");
        println!(
            "    expected: {:.1} % of the attack, {:.2} % of {} clean flows",
            predicted.attack_share * 100.0,
            predicted.clean_share * 100.0,
            predicted.clean_flows
        );
        if let Some(next) = runners_up.first() {
            println!("    rather than: {} ({:.2} % of clean flows)", next.matches, next.predicted.clean_share * 100.0);
        }
    }
    println!();
}
