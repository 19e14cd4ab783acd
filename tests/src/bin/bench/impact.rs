//! Time to mitigate against time to impact: customers of a TCP server in every tenth of a second around the
//! beginning of an attack, with the daemon as it ships and without.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ftagent_tests::{
    daemon::Daemon,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Program, Receiver, Values, vectors},
};

use crate::{
    customers::{self, Crowd, Visit, part},
    report::Row,
};

const HERE: &str = "vict0";
const PEER: &str = "vict1";
const PORT: u16 = 443;
/// Customers before, so that it is known what clean traffic is.
const LEARN: Duration = Duration::from_secs(30);
/// Of the measured time, what comes before the attack.
const CALM: Duration = Duration::from_secs(1);
/// The attack.
const ATTACK: Duration = Duration::from_secs(4);
/// What is looked at one by one.
const SLOT: Duration = Duration::from_millis(100);
/// Slots of the attack that are shown one by one.
const SHOWN: usize = 10;
/// Service is as in calm while nobody fails and p99 is at most this over the calm second's.
const LATER_MS: f64 = 5.0;
/// It is back once this many slots in a row are.
const ROW: usize = 5;
/// What is learned in [`LEARN`] is trusted.
const LEARNING: &str = "[learning]\ntrust_after = \"8s\"\n[services]\ndetect = false\n";

/// An attack: its vector, packets a second (`None`: as fast as a CPU sends), and `net.ipv4.tcp_syncookies`, of
/// which 1 is Linux's default.
#[derive(Clone, Copy)]
struct Attack(&'static str, Option<u64>, &'static str);

const ATTACKS: [Attack; 4] = [
    Attack("ntp_amplification", Some(200_000), "1"),
    Attack("ntp_amplification", None, "1"),
    Attack("syn_flood", Some(200_000), "1"),
    Attack("syn_flood", Some(200_000), "0"),
];

impl Attack {
    fn name(self) -> String {
        let Self(vector, pps, cookies) = self;
        let rate = pps.map_or("flat out".to_owned(), |pps| format!("{} kpps", pps / 1000));
        format!("{vector}, {rate}, syncookies {cookies}")
    }
}

/// A tenth of a second.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    customers: usize,
    failed: usize,
    p99_ms: f64,
    /// Connections that waited to be accepted, and half-open ones, at its end.
    queue: Queue,
}

/// The server's queues.
#[derive(Clone, Copy, Debug, Default)]
struct Queue {
    accept: u64,
    half_open: u64,
    /// `ListenOverflows` and `ListenDrops`.
    overflows: u64,
    drops: u64,
}

/// What was seen of an attack.
struct Seen {
    kpps: f64,
    calm_ms: f64,
    slots: Vec<Slot>,
}

impl Seen {
    /// The slot from which everything is as in calm, and whether it ever was not.
    fn back(&self) -> Option<usize> {
        let fine = |slot: &Slot| slot.failed == 0 && slot.p99_ms <= self.calm_ms + LATER_MS;
        let rows = self.slots.windows(ROW);
        rows.into_iter().position(|row| row.iter().all(fine))
    }

    /// Milliseconds until service is back.
    fn back_ms(&self) -> f64 {
        self.back().map_or(f64::INFINITY, |slot| (slot as u128 * SLOT.as_millis()) as f64)
    }

    fn failed(&self) -> f64 {
        let (failed, all) = self.slots.iter().fold((0, 0), |sum, slot| (sum.0 + slot.failed, sum.1 + slot.customers));
        100.0 * failed as f64 / all.max(1) as f64
    }
}

/// Measures everything, prints a table, and returns the figures.
pub fn rows() -> Result<Vec<Row>> {
    println!("\ntime to mitigate, time to impact; every pair of figures: ours / the same flood without us");
    let mut rows = Vec::new();
    for attack in ATTACKS {
        let seen = [measure(attack, true)?, measure(attack, false)?];
        show(attack, &seen);
        let [ours, none] = seen;
        let name = attack.name();
        let figures = [
            ("sent, kpps", ours.kpps, none.kpps),
            ("service is back, ms", ours.back_ms(), none.back_ms()),
            ("customers that failed, %", ours.failed(), none.failed()),
        ];
        rows.extend(figures.map(|(what, ours, none)| Row {
            rival: Some("nothing"),
            rival_figure: Some(none),
            ..Row::alone(format!("{name}: {what}"), ours, "", None)
        }));
    }
    Ok(rows)
}

fn show(attack: Attack, [ours, none]: &[Seen; 2]) {
    println!(
        "{}: {:.0} / {:.0} kpps sent; p99 in calm {:.1} / {:.1} ms",
        attack.name(),
        ours.kpps,
        none.kpps,
        ours.calm_ms,
        none.calm_ms
    );
    println!(
        "{:>12} {:>13} {:>15} {:>13} {:>13} {:>15} {:>15}",
        "ms", "failed", "p99 ms", "accept queue", "half-open", "overflows", "drops"
    );
    let line = |name: String, a: &Slot, b: &Slot| {
        let whole = |of: fn(&Slot) -> u64| format!("{} / {}", of(a), of(b));
        println!(
            "{name:>12} {:>13} {:>15} {:>13} {:>13} {:>15} {:>15}",
            whole(|slot| slot.failed as u64),
            format!("{:.1} / {:.1}", a.p99_ms, b.p99_ms),
            whole(|slot| slot.queue.accept),
            whole(|slot| slot.queue.half_open),
            whole(|slot| slot.queue.overflows),
            whole(|slot| slot.queue.drops),
        );
    };
    for (i, (a, b)) in ours.slots.iter().zip(&none.slots).enumerate().take(SHOWN) {
        line(format!("{}", i as u128 * SLOT.as_millis()), a, b);
    }
    let rest = [ours, none].map(|seen| together(seen.slots.get(SHOWN..).unwrap_or_default()));
    line("the rest".to_owned(), &rest[0], &rest[1]);
    let back = [ours, none].map(|seen| seen.back().map_or("never".to_owned(), |_| format!("{} ms", seen.back_ms())));
    println!("{:>12} {} / {}\n", "back after", back[0], back[1]);
}

/// Several slots as one: all that failed, the worst p99.
fn together(slots: &[Slot]) -> Slot {
    slots.iter().fold(Slot::default(), |sum, slot| Slot {
        customers: sum.customers + slot.customers,
        failed: sum.failed + slot.failed,
        p99_ms: sum.p99_ms.max(slot.p99_ms),
        queue: Queue {
            accept: sum.queue.accept.max(slot.queue.accept),
            half_open: sum.queue.half_open.max(slot.queue.half_open),
            overflows: sum.queue.overflows + slot.queue.overflows,
            drops: sum.queue.drops + slot.queue.drops,
        },
    })
}

fn measure(attack: Attack, protected: bool) -> Result<Seen> {
    Sandbox::run(|sandbox| measure_in(sandbox, attack, protected))?
}

fn measure_in(sandbox: &Sandbox, Attack(vector, pps, cookies): Attack, protected: bool) -> Result<Seen> {
    let veth = sandbox.veth(HERE, PEER)?;
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies).context("net.ipv4.tcp_syncookies")?;
    let crowd = Crowd::behind(sandbox, &veth, PORT)?;
    customers::serve(crowd.server())?;
    let (_daemon, _bare) = if protected {
        let daemon = Daemon::start(sandbox, &[HERE], LEARNING)?;
        crowd.come(sandbox.peer_host(), LEARN)?;
        daemon.wait_for_log(0, "the baseline is trusted from now on")?;
        (Some(daemon), None)
    } else {
        // Live frames need a program at the receiving end.
        (None, Some(Receiver::attach(HERE, Program::Pass)?))
    };
    let flood = Flood { pps, duration: Some(ATTACK), ..flood(&veth, vector)? };
    let over = AtomicBool::new(false);
    let host = sandbox.peer_host();
    thread::scope(|scope| {
        let mut generator = host.run(|| Generator::new(veth.peer.ifindex))??;
        let visits = scope.spawn(|| crowd.come(host, CALM + ATTACK));
        let begun = Instant::now();
        let (flood, over) = (&flood, &over);
        let sender = scope.spawn(move || {
            thread::sleep(CALM);
            host.run(|| generator.run(flood, over))?
        });
        thread::sleep(CALM);
        let queues = watch(begun + CALM);
        if queues.is_err() {
            over.store(true, Relaxed);
        }
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
        let visits = visits.join().map_err(|_| anyhow::anyhow!("the customers' thread panicked"))??;
        Ok(digest(&visits, &queues?, sent.pps() / 1e3))
    })
}

fn flood(veth: &Veth, vector: &str) -> Result<Flood> {
    let mut flood = vectors::find(vector)?.flood(&vectors::Link::to_here(veth, false));
    if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
        *dport = PORT;
        flood.vary.dport = Values::Fixed;
    }
    Ok(flood)
}

/// Sorts visits into slots of the attack.
fn digest(visits: &[Visit], queues: &[Queue], kpps: f64) -> Seen {
    let within = |from: Duration, length: Duration| -> Vec<f64> {
        let of = |visit: &&Visit| visit.at >= from && visit.at < from + length;
        visits.iter().filter(of).map(|visit| visit.took_ms).collect()
    };
    let slots = (0u32..).zip(queues).map(|(i, &queue)| {
        let took = within(CALM + SLOT * i, SLOT);
        let failed = took.iter().filter(|took| took.is_infinite()).count();
        let served: Vec<f64> = took.iter().copied().filter(|took| took.is_finite()).collect();
        Slot {
            customers: took.len(),
            failed,
            p99_ms: if served.is_empty() { f64::INFINITY } else { part(&served, 0.99) },
            queue,
        }
    });
    Seen { kpps, calm_ms: part(&within(Duration::ZERO, CALM), 0.99), slots: slots.collect() }
}

/// Looks at the server's queues at the end of every slot.
fn watch(begun: Instant) -> Result<Vec<Queue>> {
    let mut before = listen_counters()?;
    let mut queues = Vec::new();
    for slot in 1..=(ATTACK.as_millis() / SLOT.as_millis()) as u32 {
        thread::sleep((begun + SLOT * slot).saturating_duration_since(Instant::now()));
        let now = listen_counters()?;
        let (accept, half_open) = backlog()?;
        queues.push(Queue { accept, half_open, overflows: now.0 - before.0, drops: now.1 - before.1 });
        before = now;
    }
    Ok(queues)
}

/// Connections of which the queue had no room, and SYNs that were lost for this or other reasons.
fn listen_counters() -> Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let value = |name: &str| -> Result<u64> {
        let at = names.split_whitespace().position(|known| known == name).with_context(|| format!("no {name}"))?;
        Ok(values.split_whitespace().nth(at).context("no value")?.parse()?)
    };
    Ok((value("ListenOverflows")?, value("ListenDrops")?))
}

/// Connections that wait for accept(), and half-open ones: the listener's receive queue, and those in
/// state SYN_RECV (proc(5), `/proc/net/tcp`).
fn backlog() -> Result<(u64, u64)> {
    const LISTEN: &str = "0A";
    const SYN_RECV: &str = "03";
    let text = fs::read_to_string("/proc/thread-self/net/tcp")?;
    let port = format!(":{PORT:04X}");
    let (mut accept, mut half_open) = (0, 0);
    for line in text.lines() {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        let queues = fields.next().unwrap_or_default();
        if local.ends_with(&port) && state == LISTEN {
            accept = queues.split_once(':').and_then(|(_, rx)| u64::from_str_radix(rx, 16).ok()).unwrap_or(0);
        }
        half_open += u64::from(local.ends_with(&port) && state == SYN_RECV);
    }
    Ok((accept, half_open))
}
