//! How an act is played: a flood begins, the agent deals with it, it ends.

use std::{
    io::IsTerminal as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ftagent::{
    cli::status::render,
    decide::{
        Incident,
        guard::{Ports, Transport},
        incident::Entry,
        mitigate::{Phase, RuleReport},
    },
    serve::protocol::{GuardPort, GuardStatus},
};
use ftagent_tests::{
    customers::{Customers, Served, WEB_PORT},
    daemon::Daemon,
    sandbox::{Sandbox, Veth},
    traffic::{
        Flood, Sent,
        vectors::{self, Link},
    },
};

use crate::{
    acts::{Act, Remedy},
    attack::{Attack, Moment, Pulses},
    counted::Counted,
    told,
};

/// How long the agent has to know where the guard may be armed.
const PATIENCE_BEFORE: Duration = Duration::from_secs(60);
/// How long it has to name a flood and to deal with it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it has to take everything back: an incident waits ten quiet seconds before it closes, and
/// longer after pulses.
const PATIENCE_AFTER: Duration = Duration::from_secs(45);
/// At least this much of a flood has to be removed.
const REMOVED: f64 = 0.95;
/// What is shown is as it was at most this long ago.
const PUBLISHED: Duration = Duration::from_secs(1);
/// Counters are read this much later, so that nothing is under way any more.
const SETTLED: Duration = Duration::from_millis(500);

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

/// What is measured from here on.
struct Measuring {
    name: String,
    before: Counted,
    begun: Instant,
    failed: u64,
}

/// What was measured in a phase.
struct Watched {
    name: String,
    seconds: f64,
    counted: Counted,
    served: Served,
    /// Requests that failed in it.
    failed: u64,
}

/// What did not go as it should.
type Faults = Vec<&'static str>;

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
        let known = |guard: GuardStatus| {
            let port = |port: &&GuardPort| is_web(port) && port.why_not.is_none();
            guard.ports.iter().find(port).map(|port| port.found)
        };
        let known = wait(PATIENCE_BEFORE, || Ok(self.agent.status()?.guard.and_then(known)))?;
        let found = known.context("the guard may not be armed for the customers' port")?;
        println!(
            "… and has learned it. The guard may be armed for port {WEB_PORT}: {found:.0} packets to it had a socket."
        );
        println!();
        Ok(())
    }

    /// Plays an act; returns whether it went as it should.
    pub fn play(&mut self, act: &Act) -> Result<bool> {
        println!("=== {}: {}\n", act.name, act.about);
        let failed_before = self.customers.failed();
        let before = Counted::of(&self.agent.status()?);
        let attack = self.begin(act)?;
        let (begun, mut faults) = (attack.begun, Faults::new());
        let sent = match act.pulses {
            None => self.flood(act, attack, &mut faults)?,
            Some(pulses) => self.train(act, pulses, attack, &mut faults)?,
        };
        println!("The flood is over: {} packets, {:.0} a second while it came.", sent.packets, sent.pps());
        sleep(SETTLED);
        let counted = Counted::of(&self.agent.status()?).since(&before);
        let class = vectors::find(act.vector)?.class;
        let (passed, ms) = counted.came_through(class, &sent);
        println!("  {} packets of {} arrived: {}", counted.arrived(class), class.as_str(), counted.by_reason());
        println!("  {passed} of them came through, to the host itself: what the flood sends in {ms:.1} ms");
        if act.remedy == Remedy::Tripwire && !counted.reasons.contains_key("ceiling") {
            faults.push("the tripwire dropped nothing");
        }
        self.taken_back(act, begun, &mut faults)?;
        let after = self.watch("calm again")?;
        if after.counted.dropped > 0 {
            faults.push("something is still dropped");
        }
        match self.customers.failed() - failed_before {
            0 => println!("Not one request failed since the flood began."),
            lost => {
                println!("{lost} requests failed since the flood began.");
                faults.push("customers were lost");
            }
        }
        faults.iter().for_each(|what| println!("NOT as it should be: {what}."));
        println!();
        Ok(faults.is_empty())
    }

    fn begin(&self, act: &Act) -> Result<Attack> {
        let flood = (act.change)(vectors::find(act.vector)?.flood(&Link::to_here(self.veth, false)));
        let flood = Flood { pps: Some(self.pps), ..flood };
        let attack = Attack::begin(self.sandbox, self.veth, flood, act.pulses)?;
        println!("The flood begins: {} packets a second of `{}`.", self.pps, act.vector);
        Ok(attack)
    }

    /// A flood that goes on until it was watched for a while.
    fn flood(&mut self, act: &Act, attack: Attack, faults: &mut Faults) -> Result<Sent> {
        self.named(attack.begun, faults)?;
        match act.remedy {
            Remedy::Rule if !self.ruled(attack.begun, PATIENCE)? => faults.push("no rule was chosen"),
            Remedy::Guard if !self.armed(attack.begun)? => faults.push("the guard was not armed"),
            _ => {}
        }
        println!();
        let watched = self.watch(act.name)?;
        if watched.counted.removed() < REMOVED {
            faults.push("too little of the flood was removed");
        }
        if act.remedy != Remedy::Rule {
            self.ruled(attack.begun, Duration::ZERO)?;
        }
        self.incidents(attack.begun)?.last().into_iter().for_each(told::thinned);
        attack.end()
    }

    /// A flood in pulses.
    fn train(&mut self, act: &Act, pulses: Pulses, attack: Attack, faults: &mut Faults) -> Result<Sent> {
        let (first, class) = (attack.begun, vectors::find(act.vector)?.class);
        let phase = self.open(act.name)?;
        let mut before = Counted::of(&self.agent.status()?);
        let (mut begun, mut told) = (first, false);
        for number in 1..=pulses.count {
            let sent = attack.pulse_ended()?;
            if number == 1 {
                self.named(first, faults)?;
            }
            sleep(SETTLED);
            let now = Counted::of(&self.agent.status()?);
            let counted = now.since(&before);
            let (passed, ms) = counted.came_through(class, &sent);
            let (arrived, took) = (counted.arrived(class), sent.elapsed.as_secs_f64() * 1e3);
            println!("  pulse {number}: {arrived} packets arrived in {took:.0} ms: {}", counted.by_reason());
            println!("    {passed} came through: what it sends in {ms:.1} ms; {}", self.noticed(first, begun)?);
            if counted.removed() < REMOVED {
                faults.push("too little of a pulse was removed");
            }
            told = told || self.ruled(first, PUBLISHED)?;
            before = now;
            if number < pulses.count {
                begun = attack.pulse_begun()?;
            }
        }
        self.close(phase)?;
        if self.incidents(first)?.len() != 1 {
            faults.push("the pulses are not one incident");
        }
        attack.end()
    }

    /// Says how long after its first packet a pulse was taken for what it is.
    fn noticed(&self, first: Moment, begun: Moment) -> Result<String> {
        let incidents = self.incidents(first)?;
        let Some(incident) = incidents.last() else { return Ok("there is no incident".to_owned()) };
        let since = |ns: u64| (ns >= begun.mono_ns).then(|| (ns - begun.mono_ns) as f64 / 1e6);
        if let Some(ms) = since(incident.opened.mono_ns) {
            return Ok(format!("the incident opened after {ms:.0} ms"));
        }
        let back = |entry: &&Entry| entry.what.starts_with("came back");
        let back = incident.timeline.iter().filter(back).find_map(|entry| since(entry.at.mono_ns));
        Ok(match back {
            Some(ms) => format!("the same incident has it back after {ms:.0} ms"),
            None if incident.is_open() => "the same incident is open all the time".to_owned(),
            None => "its incident was closed already".to_owned(),
        })
    }

    /// Incidents that opened since the flood began.
    fn incidents(&self, begun: Moment) -> Result<Vec<Incident>> {
        let answer: serde_json::Value = serde_json::from_str(&self.agent.ok(&["incidents", "--json"])?)?;
        let all: Vec<Incident> = serde_json::from_value(answer["incidents"].clone())?;
        Ok(all.into_iter().filter(|incident| incident.opened.mono_ns >= begun.mono_ns).collect())
    }

    /// Waits for an incident, and tells it.
    fn named(&self, begun: Moment, faults: &mut Faults) -> Result<()> {
        match wait(PATIENCE, || Ok(self.incidents(begun)?.into_iter().next()))? {
            Some(incident) => told::incident(&incident, ms_since(begun, incident.opened.mono_ns)),
            None => faults.push("the flood was not named"),
        }
        Ok(())
    }

    /// Waits for a rule in force, and tells it. Returns whether there is one.
    fn ruled(&self, begun: Moment, patience: Duration) -> Result<bool> {
        let enforces = |rule: &RuleReport| rule.state == Phase::Enforcing;
        let ruled = |incident: &Incident| incident.mitigated.is_some() && incident.rules.iter().any(enforces);
        let incident = wait(patience, || Ok(self.incidents(begun)?.into_iter().find(ruled)))?;
        let Some(incident) = incident else { return Ok(false) };
        told::rules(&incident, incident.mitigated.map(|at| ms_since(begun, at.mono_ns)));
        Ok(true)
    }

    /// Waits for the guard, and tells what it does. Returns whether it is armed.
    fn armed(&self, begun: Moment) -> Result<bool> {
        let armed = |guard: GuardStatus| guard.since_ms.filter(|since| *since >= begun.unix_ms).map(|at| (at, guard));
        let guard = wait(PATIENCE, || Ok(self.agent.status()?.guard.and_then(armed)))?;
        let Some((at_ms, guard)) = guard else { return Ok(false) };
        told::guard(&guard, at_ms - begun.unix_ms);
        Ok(guard.cookies.contains(&WEB_PORT))
    }

    /// Waits until the incident is closed, its rules have ended and the guard is disarmed, and tells it.
    fn taken_back(&self, act: &Act, begun: Moment, faults: &mut Faults) -> Result<()> {
        let ended = Instant::now();
        let gone = |rule: &RuleReport| matches!(rule.state, Phase::Ended | Phase::Withdrawn);
        let over = |incident: &Incident| !incident.is_open() && incident.rules.iter().all(gone);
        let closed = wait(PATIENCE_AFTER, || Ok(self.incidents(begun)?.into_iter().last().filter(over)))?;
        let Some(incident) = closed else {
            faults.push("what was done was not taken back");
            return Ok(());
        };
        println!("  {:.1} s later: incident {} is closed", ended.elapsed().as_secs_f64(), incident.id);
        for rule in &incident.rules {
            let RuleReport { id, measured, reason, .. } = rule;
            println!("  rule {id} is taken back; it removed {} packets ({reason})", measured.dropped);
        }
        let disarmed = |guard: GuardStatus| (guard.since_ms.is_none() && guard.cookies.is_empty()).then_some(());
        match wait(PATIENCE, || Ok(self.agent.status()?.guard.and_then(disarmed)))? {
            Some(()) if act.remedy == Remedy::Guard => println!("  the guard is disarmed"),
            Some(()) => {}
            None => faults.push("the guard was not disarmed"),
        }
        println!("  mitigation: {}\n", self.agent.status()?.mitigation.state);
        Ok(())
    }

    /// Begins to measure.
    fn open(&self, name: &str) -> Result<Measuring> {
        self.customers.take();
        let failed = self.customers.failed();
        let before = Counted::of(&self.agent.status()?);
        Ok(Measuring { name: name.to_owned(), before, begun: Instant::now(), failed })
    }

    /// Ends what was begun.
    fn close(&mut self, phase: Measuring) -> Result<&Watched> {
        let counted = Counted::of(&self.agent.status()?).since(&phase.before);
        self.phases.push(Watched {
            name: phase.name,
            seconds: phase.begun.elapsed().as_secs_f64(),
            counted,
            served: self.customers.take(),
            failed: self.customers.failed() - phase.failed,
        });
        self.phases.last().context("a phase was just added")
    }

    /// Shows the live table for some seconds and measures.
    fn watch(&mut self, name: &str) -> Result<&Watched> {
        // What is under way when the phase begins belongs to the one before.
        sleep(SETTLED);
        let phase = self.open(name)?;
        let live = std::io::stdout().is_terminal();
        let mut shown = 0;
        for second in 1..=self.seconds {
            sleep((phase.begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
            if live || second == self.seconds {
                let status = render(&self.agent.status()?);
                let text = format!("--- {name}, second {second} of {}\n{}", self.seconds, status.trim_end());
                // Up over what was shown before, and clear from there.
                let up = if shown > 0 { format!("\x1b[{shown}A\x1b[J") } else { String::new() };
                println!("{up}{text}");
                shown = text.lines().count();
            }
        }
        println!();
        self.close(phase)
    }

    /// Prints what was measured.
    pub fn summary(&self) {
        println!("Measured, for each second:\n");
        println!(
            "  {:16} {:>12} {:>12} {:>12} {:>10} {:>12} {:>14} {:>8}",
            "phase", "seen", "dropped", "answered", "pages", "median", "time answers", "failed"
        );
        for Watched { name, seconds, counted, served, failed } in &self.phases {
            let each = |count: u64| count as f64 / seconds.max(f64::MIN_POSITIVE);
            println!(
                "  {name:16} {:>12.0} {:>12.0} {:>12.0} {:>10.0} {:>9.2} ms {:>14.0} {failed:>8}",
                each(counted.seen),
                each(counted.dropped),
                each(counted.answered),
                each(served.pages),
                served.median.as_secs_f64() * 1e3,
                each(served.clocks)
            );
        }
        println!("\n(failed: all of the phase; a request has failed that is not answered within a second)");
    }
}

fn is_web(port: &GuardPort) -> bool {
    port.transport == Transport::Tcp && port.ports == Ports::One(WEB_PORT)
}

fn ms_since(begun: Moment, at_ns: u64) -> f64 {
    at_ns.saturating_sub(begun.mono_ns) as f64 / 1e6
}

/// Asks again and again until there is an answer; once at least.
fn wait<T>(patience: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let deadline = Instant::now() + patience;
    loop {
        let answer = ask()?;
        if answer.is_some() || Instant::now() >= deadline {
            return Ok(answer);
        }
        sleep(Duration::from_millis(20));
    }
}
