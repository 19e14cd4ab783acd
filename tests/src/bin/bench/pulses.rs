//! How long it takes until the first packet of a pulse is dropped, with the daemon as it ships.
//!
//! The kernel's counters are read again and again while a pulse comes in. What is shown lies between the
//! last reading without a packet of the pulse and the first one with a drop: never less than it took.

use std::{
    path::Path,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use ftagent::bpf::{counters::CounterReader, pins::Pins};
use ftagent_common::{TrafficClass, abi::maps};
use ftagent_tests::{
    daemon::{BPFFS, Daemon, wait_for},
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, vectors},
};

use crate::{
    customers::{self, Crowd, part},
    report::Row,
};

const HERE: &str = "puls0";
const PEER: &str = "puls1";
const PORT: u16 = 443;
/// Pulses of each kind.
const PULSES: usize = 30;
/// How long each lasts, and the pause after it.
const PULSE: Duration = Duration::from_millis(150);
const PAUSE: Duration = Duration::from_millis(850);
/// Packets a second in a pulse.
const PPS: u64 = 20_000;
/// Between two readings.
const NAP: Duration = Duration::from_micros(50);
/// Attacks that are new, where those alone are measured.
const FRESH: u32 = 3;
/// How long a new attack lasts that is measured.
const NEW: Duration = Duration::from_secs(4);
/// Customers in calm, so that it is known what clean traffic is.
const CALM: Duration = Duration::from_secs(30);
/// The longest that an incident takes to open, to have a rule, to end.
const PATIENCE: Duration = Duration::from_secs(45);
/// The most that the first drop of an armed class may take, p99, milliseconds.
const ARMED_MS: f64 = 10.0;
/// The same of later pulses of an attack that had a rule.
const LATER_MS: f64 = 20.0;
/// The share of a new attack that is to be dropped …
const REMOVED: f64 = 0.95;
/// … in every time of this length that begins later than …
const WINDOW: Duration = Duration::from_millis(50);
/// … this long after its first packet, milliseconds.
const REMOVED_MS: f64 = 300.0;
const LEARNING: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n";

/// What was seen of a pulse.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    /// Until the first drop, milliseconds; infinite where there was none.
    first_ms: f64,
    /// Until the end of the last [`WINDOW`] in which less than [`REMOVED`] was dropped, milliseconds.
    removed_ms: f64,
    packets: u64,
    passed: u64,
}

/// Measures a class that is armed from the beginning.
pub fn armed() -> Result<Vec<Row>> {
    Sandbox::run(armed_class)?
}

/// Measures attacks of NTP's answers that are new, each at a node of its own: the longest of each time.
pub fn fresh() -> Result<Vec<Row>> {
    let one = |sandbox: &Sandbox| Node::start(sandbox)?.new_attack("ntp_amplification");
    let mut worst = Sandbox::run(one)??;
    for _ in 1..FRESH {
        let new = Sandbox::run(one)??;
        worst.first_ms = worst.first_ms.max(new.first_ms);
        worst.removed_ms = worst.removed_ms.max(new.removed_ms);
        worst.packets += new.packets;
        worst.passed += new.passed;
    }
    let mut rows = vec![Row::alone("attacks", f64::from(FRESH), "", None)];
    rows.extend(show_new("NTP", &worst));
    Ok(rows)
}

/// A server whose customers are known, and its agent.
struct Node<'a> {
    sandbox: &'a Sandbox,
    veth: Veth,
    crowd: Crowd,
    daemon: Daemon,
}

impl<'a> Node<'a> {
    fn start(sandbox: &'a Sandbox) -> Result<Self> {
        let veth = sandbox.veth(HERE, PEER)?;
        let crowd = Crowd::behind(sandbox, &veth, PORT)?;
        customers::serve(crowd.server())?;
        let daemon = Daemon::start(sandbox, &[HERE], &LEARNING.replace("2s", "8s"))?;
        crowd.come(sandbox.peer_host(), CALM)?;
        daemon.wait_for_log(0, "the baseline is trusted from now on")?;
        Ok(Self { sandbox, veth, crowd, daemon })
    }

    fn new_attack(&self, vector: &str) -> Result<Pulse> {
        Probe::new(self.sandbox, &self.veth, vector)?.pulse(NEW)
    }
}

fn show_new(name: &str, new: &Pulse) -> [Row; 3] {
    let removed = 100.0 * (1.0 - new.passed as f64 / new.packets.max(1) as f64);
    [
        Row::alone(format!("new attack, {name}: first drop"), new.first_ms, "ms", None),
        Row::alone(format!("new attack, {name}: until 95 % are dropped"), new.removed_ms, "ms", Some(REMOVED_MS)),
        Row::alone(format!("new attack, {name}: removed of its first {} s", NEW.as_secs()), removed, "%", None),
    ]
}

/// Measures an attack that is new, its later pulses, and those of a signature that is remembered.
pub fn learned() -> Result<Vec<Row>> {
    Sandbox::run(signature)?
}

/// Pulses of what nobody has business in.
fn armed_class(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let veth = sandbox.veth(HERE, PEER)?;
    let daemon = Daemon::start(sandbox, &[HERE], LEARNING)?;
    daemon.wait_for_log(0, "the baseline is trusted from now on")?;
    // What is held is told within a second.
    thread::sleep(Duration::from_secs(2));
    let mut probe = Probe::new(sandbox, &veth, "memcached_amplification")?;
    let pulses = probe.pulses()?;
    Ok(show("armed class", &pulses, ARMED_MS))
}

/// Pulses of what had to be learned first: while the first incident is open, and of the remembered
/// signature after its end.
fn signature(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let node = Node::start(sandbox)?;
    let (daemon, crowd, host) = (&node.daemon, &node.crowd, sandbox.peer_host());
    let new = node.new_attack("ntp_amplification")?;
    let mut probe = Probe::new(sandbox, &node.veth, "ntp_amplification")?;
    let in_state = |state: &str| {
        let rules = daemon.rules().ok()?.rules;
        rules.iter().any(|rule| rule.state == state).then_some(())
    };
    wait_for("a rule", PATIENCE, || in_state("enforcing")).with_context(|| daemon.log())?;
    let mut rows = Vec::from(show_new("NTP", &new));
    let pulses = probe.pulses()?;
    rows.extend(show("later pulse", &pulses, LATER_MS));
    crowd.come(host, CALM)?;
    let armed =
        wait_for("an armed signature", PATIENCE, || in_state("armed").filter(|()| in_state("enforcing").is_none()));
    ensure!(armed.is_ok(), "the attack's signature is not armed; the log:\n{}", daemon.log());
    let pulses = probe.pulses()?;
    rows.extend(show("remembered signature", &pulses, LATER_MS));
    Ok(rows)
}

fn show(name: &str, pulses: &[Pulse], target: f64) -> Vec<Row> {
    let first: Vec<f64> = pulses.iter().map(|pulse| pulse.first_ms).collect();
    let (passed, packets) = pulses.iter().fold((0, 0), |sum, pulse| (sum.0 + pulse.passed, sum.1 + pulse.packets));
    vec![
        Row::alone(format!("{name}: p50"), part(&first, 0.5), "ms", None),
        Row::alone(format!("{name}: p99"), part(&first, 0.99), "ms", Some(target)),
        Row::alone(format!("{name}: passed"), 100.0 * passed as f64 / packets.max(1) as f64, "%", None),
    ]
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Sends pulses and reads the kernel's counters meanwhile.
struct Probe<'a> {
    sandbox: &'a Sandbox,
    ifindex: u32,
    flood: Flood,
    class: TrafficClass,
    counters: MapData,
    reader: CounterReader,
}

impl<'a> Probe<'a> {
    fn new(sandbox: &'a Sandbox, veth: &Veth, vector: &str) -> Result<Self> {
        let vector = vectors::find(vector)?;
        let path = Pins::at(Path::new(BPFFS)).maps().join(maps::COUNTERS);
        let counters = MapData::from_pin(&path).with_context(|| path.display().to_string())?;
        let flood = Flood { pps: Some(PPS), ..vector.flood(&vectors::Link::to_here(veth, false)) };
        let (ifindex, class) = (veth.peer.ifindex, vector.class);
        Ok(Self { sandbox, ifindex, flood, class, counters, reader: CounterReader::new()? })
    }

    /// Packets of the class, and those of them that were dropped.
    fn seen(&mut self) -> Result<(u64, u64)> {
        use std::os::fd::AsFd as _;
        let total = self.reader.total(self.counters.fd().as_fd(), 0)?;
        let class = self.class.index();
        Ok((total.classes[class].packets, total.drops[class].iter().sum()))
    }

    fn pulses(&mut self) -> Result<Vec<Pulse>> {
        let one = |_| {
            thread::sleep(PAUSE);
            self.pulse(PULSE)
        };
        (0..PULSES).map(one).collect()
    }

    fn pulse(&mut self, duration: Duration) -> Result<Pulse> {
        let before = self.seen()?;
        let (flood, ifindex) = (Flood { duration: Some(duration), ..self.flood.clone() }, self.ifindex);
        let sends = move || Generator::new(ifindex)?.run(&flood, &AtomicBool::new(false));
        let sender = self.sandbox.peer_host().spawn(sends);
        let (mut calm, mut first, mut removed) = (Instant::now(), None, Duration::ZERO);
        let mut last = (calm, before);
        while !sender.is_finished() {
            let at = Instant::now();
            let now = self.seen()?;
            if now.0 == before.0 {
                calm = at;
            } else if now.1 > before.1 && first.is_none() {
                first = Some(calm.elapsed());
            }
            if now.0 == before.0 {
                last = (at, now);
            } else if last.0.elapsed() >= WINDOW {
                let (packets, dropped) = (now.0 - last.1.0, now.1 - last.1.1);
                if (dropped as f64) < REMOVED * packets as f64 {
                    removed = calm.elapsed();
                }
                last = (at, now);
            }
            thread::sleep(if first.is_some() { Duration::from_millis(5) } else { NAP });
        }
        sender.join().map_err(|_| anyhow::anyhow!("the pulse's thread panicked"))???;
        let (packets, dropped) = self.seen()?;
        let (packets, dropped) = (packets - before.0, dropped - before.1);
        Ok(Pulse {
            first_ms: first.map_or(f64::INFINITY, ms),
            removed_ms: ms(removed),
            packets,
            passed: packets.saturating_sub(dropped),
        })
    }
}
