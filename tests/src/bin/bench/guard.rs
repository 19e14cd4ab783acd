//! The TCP guard: customers who connect through a flood, with it and without.
//!
//! Customers sit behind a switch (two XDP programs), which tags their packets where VLANs are
//! measured. The tag is VLAN 0, a priority alone, which the kernel takes without a VLAN device.

use std::{
    fs,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ftagent::{
    bpf::{guard::listener, rules::compile},
    rule::{Action, Rate},
};
use ftagent_common::guard::{Guard, flags};
use ftagent_tests::{
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Program, Receiver, Values, Vlan, vectors},
};

use crate::{ours::Ours, report::Row};

const HERE: &str = "wan0";
const PEER: &str = "peer0";
const PORT: u16 = 443;
/// Customers that connect at once.
const CUSTOMERS: usize = 4;
/// Between two connections of one of them.
const PAUSE: Duration = Duration::from_millis(2);
/// Who waits longer has not connected.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest that a flood may last.
const LONGEST: Duration = Duration::from_secs(120);
/// A tenth of ten gigabits, the default.
const ANSWERS: u64 = 1_488_095;
/// What p99 may be over that in calm, milliseconds.
const LATER_MS: f64 = 5.0;
/// Attack packets that may reach the stack, percent.
const REACHED: f64 = 0.5;

/// One line of the table.
#[derive(Clone, Copy)]
struct Case {
    v6: bool,
    tagged: bool,
    /// The vector and its rate; `None`: calm.
    flood: Option<(&'static str, u64)>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sent: u64,
    pps: f64,
    connections: usize,
    failed: usize,
    p50_ms: f64,
    p99_ms: f64,
    /// Packets that the stack received.
    received: u64,
    resets: u64,
}

impl Seen {
    /// Share of the attack that reached the stack, percent. `each`: packets of one connection.
    fn reached(&self, each: f64) -> f64 {
        let attack = self.received as f64 - each * self.connections as f64;
        if self.sent == 0 { 0.0 } else { (100.0 * attack / self.sent as f64).max(0.0) }
    }

    fn failed(&self) -> f64 {
        100.0 * self.failed as f64 / self.connections.max(1) as f64
    }
}

/// Measures everything, prints a table, and returns the figures.
pub fn rows(duration: Duration) -> Result<Vec<Row>> {
    let duration = duration.min(LONGEST / 2);
    println!("\nTCP guard; every pair of figures: ours / the same flood without us");
    println!(
        "{:15} {:3} {:6} {:>9} {:>13} {:>13} {:>15} {:>13} {:>12}",
        "flood, wanted", "IP", "VLAN", "sent kpps", "failed %", "p50 ms", "p99 ms", "reached %", "resets"
    );
    let floods = [None, Some(("syn_flood", 300_000)), Some(("syn_flood", 1_000_000))];
    let floods = floods.into_iter().chain([Some(("ack_flood", 300_000)), Some(("ack_flood", 1_000_000))]);
    let mut rows = Vec::new();
    for (v6, tagged) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut calm = [Seen::default(); 2];
        for flood in floods.clone() {
            let case = Case { v6, tagged, flood };
            let seen = [measure(case, true, duration)?, measure(case, false, duration)?];
            if flood.is_none() {
                calm = seen;
            }
            rows.extend(show(case, calm, seen));
        }
    }
    Ok(rows)
}

fn show(case: Case, calm: [Seen; 2], seen: [Seen; 2]) -> Vec<Row> {
    let each = calm.map(|calm| calm.received as f64 / calm.connections.max(1) as f64);
    let [(ours, ours_each), (none, none_each)] = [(seen[0], each[0]), (seen[1], each[1])];
    let flood = case.flood.map_or_else(|| "calm".to_owned(), |(name, pps)| format!("{name} {}k", pps / 1000));
    let (family, vlan) = (if case.v6 { "v6" } else { "v4" }, if case.tagged { "tagged" } else { "-" });
    let figures = [
        ("sent, kpps", ours.pps / 1e3, none.pps / 1e3, None),
        ("handshakes that failed, %", ours.failed(), none.failed(), Some(0.0)),
        ("connect, p50, ms", ours.p50_ms, none.p50_ms, None),
        ("connect, p99, ms", ours.p99_ms, none.p99_ms, Some(calm[0].p99_ms + LATER_MS)),
        ("attack that reached the stack, %", ours.reached(ours_each), none.reached(none_each), Some(REACHED)),
        ("resets sent", ours.resets as f64, none.resets as f64, Some(0.0)),
    ];
    let digits = [0, 2, 2, 2, 2, 0];
    let cells: Vec<String> =
        figures.iter().zip(digits).map(|((_, a, b, _), digits)| format!("{a:.digits$} / {b:.digits$}")).collect();
    println!(
        "{flood:15} {family:3} {vlan:6} {:>9} {:>13} {:>13} {:>15} {:>13} {:>12}",
        cells[0], cells[1], cells[2], cells[3], cells[4], cells[5]
    );
    figures
        .into_iter()
        .map(|(what, ours, none, target)| {
            let target = target.filter(|_| case.flood.is_some());
            Row {
                rival: Some("nothing"),
                rival_figure: Some(none),
                ..Row::alone(format!("{flood}, {family}, {vlan}: {what}"), ours, "", target)
            }
        })
        .collect()
}

fn measure(case: Case, guarded: bool, duration: Duration) -> Result<Seen> {
    Sandbox::run(|sandbox| measure_in(sandbox, case, guarded, duration))?
}

fn measure_in(sandbox: &Sandbox, case: Case, guarded: bool, duration: Duration) -> Result<Seen> {
    let veth = sandbox.veth(HERE, PEER)?;
    sandbox.widen(&veth)?;
    let _switch = switch(sandbox, &veth, case.tagged)?;
    for (name, value) in [("tcp_syncookies", "1"), ("tcp_timestamps", "2")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| name)?;
    }
    let at: IpAddr = if case.v6 { veth.here.v6.into() } else { veth.here.v4.into() };
    let server = SocketAddr::new(at, PORT);
    let (_guard, _bare) = if guarded {
        (Some(arm(&veth)?), None)
    } else {
        // Live frames need a program at the receiving end.
        (None, Some(Receiver::attach(HERE, Program::Pass)?))
    };
    serve(server)?;
    let over = AtomicBool::new(false);
    let host = sandbox.peer_host();
    thread::scope(|scope| {
        let sender = case.flood.map(|(name, pps)| flood(&veth, case, name, pps)).transpose()?;
        let sender = sender.map(|flood| {
            let mut generator = host.run(|| Generator::new(veth.peer.ifindex))??;
            let counter = generator.counter();
            let over = &over;
            let sends = move || host.run(|| generator.run(&flood, over))?;
            Ok::<_, anyhow::Error>((scope.spawn(sends), counter))
        });
        let sender = sender.transpose()?;
        let sent = || sender.as_ref().map_or(Ok(0), |(_, counter)| Ok::<_, anyhow::Error>(counter.sent()?.0));
        // Until the listener's queue has overflowed, the kernel answers.
        thread::sleep(Duration::from_millis(500));
        let before = (received(case.v6)?, resets()?, sent()?, Instant::now());
        let (times, failed) = host.run(|| customers(server, duration))?;
        let (received, resets) = (received(case.v6)? - before.0, resets()? - before.1);
        let (sent, seconds) = (sent()? - before.2, before.3.elapsed().as_secs_f64());
        over.store(true, Relaxed);
        if let Some((sender, _)) = sender {
            sender.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??;
        }
        let (p50_ms, p99_ms) = (part(&times, 0.5), part(&times, 0.99));
        let connections = times.len() + failed;
        Ok(Seen { sent, pps: sent as f64 / seconds, connections, failed, p50_ms, p99_ms, received, resets })
    })
}

/// Puts the customers behind a switch, with the peer's addresses.
fn switch(sandbox: &Sandbox, veth: &Veth, tagged: bool) -> Result<Vec<Receiver>> {
    let (mac, v4, v6) = (veth.peer.mac, veth.peer.v4, veth.peer.v6);
    let (to4, to6, to_mac) = (veth.here.v4, veth.here.v6, veth.here.mac);
    for line in [
        format!("ip link add sw0 type veth peer name cl0 address {mac}"),
        format!("ip addr flush dev {PEER}"),
        "ip link set sw0 arp off up".to_owned(),
        "ip link set cl0 arp off up".to_owned(),
        "ethtool -K cl0 tx off".to_owned(),
        format!("ip addr add {v4}/24 dev cl0"),
        format!("ip addr add {v6}/64 dev cl0 nodad"),
        format!("ip neigh replace {to4} lladdr {to_mac} dev cl0 nud permanent"),
        format!("ip neigh replace {to6} lladdr {to_mac} dev cl0 nud permanent"),
        // What is answered to forged sources ends here, as early as it can.
        "nft add table netdev strays".to_owned(),
        "nft add chain netdev strays in { type filter hook ingress device cl0 priority 0 ; }".to_owned(),
        format!("nft add rule netdev strays in ip daddr != {v4} drop"),
        format!("nft add rule netdev strays in ip6 daddr != {v6} drop"),
    ] {
        sandbox.peer_command(&line)?;
    }
    let (count, out) = (u32::from(tagged), veth.peer.ifindex);
    sandbox.peer(|| {
        let back = nix::net::if_::if_nametoindex("sw0")?;
        let to = Vlan { tags: [0x8100_0000, 0], count, redirect: out };
        let from = Vlan { tags: [0; 2], count: 0, redirect: back };
        Ok(vec![
            Receiver::attach_with("sw0", Program::PushVlan, to)?,
            Receiver::attach_with(PEER, Program::PopVlan, from)?,
            Receiver::attach("cl0", Program::Pass)?,
        ])
    })?
}

/// Arms the guard as the daemon would in a flood of SYNs.
fn arm(veth: &Veth) -> Result<Ours> {
    let mut ours = Ours::load()?;
    let hz = ours.hz()?;
    ours.attach(HERE)?;
    let mut guard = ours.guard()?;
    guard.set_own([veth.here.v4.into(), veth.here.v6.into()])?;
    guard.arm(PORT, listener(Some(7)));
    guard.set(Guard {
        flags: flags::SYN | flags::STATE | flags::TIMESTAMPS | flags::ORACLE,
        mss4: 1460,
        mss6: 1440,
        expires: u64::MAX,
        answers: compile::state(Action::RateLimit(Rate::Pps(ANSWERS)), 0, hz),
    });
    Ok(ours)
}

fn flood(veth: &Veth, case: Case, name: &str, pps: u64) -> Result<Flood> {
    let link = vectors::Link::to_here(veth, case.v6);
    let vlans = if case.tagged { vec![(0x8100, 0)] } else { Vec::new() };
    let mut flood = vectors::find(name)?.flood(&vectors::Link { vlans, ..link });
    if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
        *dport = PORT;
    }
    flood.vary.dport = Values::Fixed;
    // It is ended earlier; this is for when something fails meanwhile.
    Ok(Flood { pps: Some(pps), duration: Some(LONGEST), ..flood })
}

/// Greets whoever connects, for as long as the process lives.
fn serve(address: SocketAddr) -> Result<()> {
    use std::io::Write as _;
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _gone = stream.write_all(b"!");
        }
    });
    Ok(())
}

/// Customers that connect again and again. Returns how long each took, milliseconds, and how many failed.
fn customers(server: SocketAddr, duration: Duration) -> (Vec<f64>, usize) {
    let all = Mutex::new((Vec::new(), 0));
    let begun = Instant::now();
    let note = |took: Option<f64>| {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        match took {
            Some(took) => all.0.push(took),
            None => all.1 += 1,
        }
    };
    thread::scope(|scope| {
        for _ in 0..CUSTOMERS {
            scope.spawn(|| {
                while begun.elapsed() < duration {
                    note(connect(server).ok());
                    thread::sleep(PAUSE);
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Connects and waits for the greeting: the server has taken the connection, too.
fn connect(server: SocketAddr) -> Result<f64> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = [0];
    stream.read_exact(&mut greeting)?;
    ensure!(greeting == *b"!", "what came is no greeting");
    Ok(took)
}

fn part(times: &[f64], part: f64) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or(f64::NAN)
}

/// Packets of a family that the stack of this host received.
fn received(v6: bool) -> Result<u64> {
    if !v6 {
        return snmp("Ip", "InReceives");
    }
    let text = fs::read_to_string("/proc/thread-self/net/snmp6")?;
    let line = text.lines().find(|line| line.starts_with("Ip6InReceives ")).context("no Ip6InReceives")?;
    Ok(line.split_whitespace().nth(1).context("no value")?.parse()?)
}

/// Resets that this host sent.
fn resets() -> Result<u64> {
    snmp("Tcp", "OutRsts")
}

/// A counter of RFC 4293 or RFC 4022.
pub fn snmp(group: &str, name: &str) -> Result<u64> {
    let snmp = fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let at = names.split_whitespace().position(|known| known == name).with_context(|| format!("no {name}"))?;
    Ok(values.split_whitespace().nth(at).context("no value")?.parse()?)
}
