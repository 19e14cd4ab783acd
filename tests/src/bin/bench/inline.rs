//! Transactions of a client whose server's CPU is flooded: the test of Høiland-Jørgensen et al., "The eXpress
//! Data Path" (CoNEXT 2018), 4.1.3, on a veth.
//!
//! One CPU has server, client and all that the receiving end does with the flood, by a NAPI thread that has
//! precedence over both, as softirqs have; the other CPU sends.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::lists::FeedSet;
use ftagent_common::lists::Key4;
use ftagent_tests::{
    sandbox::{Sandbox, Veth},
    traffic::{Addresses, Flood, Generator, L4, Program, Receiver, Sent, Template, Values, Vary},
};

use crate::{customers::part, endtoend, ours::Ours, report::Row, rivals::Rival, stay_on};

/// A name that no other NAPI thread of the machine has.
const HERE: &str = "inl0";
const PEER: &str = "inl1";
const PORT: u16 = 7;
/// The CPU of the server, and that of the attacker.
const VICTIM: usize = 1;
const ATTACKER: usize = 0;
/// Rates of the attack, thousands of packets a second; `None`: as fast as a CPU sends.
const RATES: [Option<u64>; 6] = [Some(0), Some(100), Some(200), Some(400), Some(800), None];
const MEANS: [Means; 4] = [Means::Nothing, Means::Nft, Means::Filter("xdpfilt_alw_ip"), Means::Ours];
/// How long one is measured, and how often, in turns.
const MEASURE: Duration = Duration::from_millis(700);
const ROUNDS: usize = 2;
/// What the flood needs to begin.
const SETTLE: Duration = Duration::from_millis(150);
/// A client that waits longer has no transactions.
const PATIENCE: Duration = Duration::from_millis(700);

/// Who drops the flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Means {
    Nothing,
    Nft,
    Filter(&'static str),
    Ours,
}

impl Means {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Nft => "nftables",
            Self::Filter(name) => name,
            Self::Ours => "ftagent",
        }
    }
}

/// Transactions, packets sent and packets that arrived, a second.
type Figures = (f64, f64, f64);

/// Measures everything, prints a table, and returns the figures.
pub fn rows() -> Result<Vec<Row>> {
    println!("\ninline DoS: transactions a second in parts of those without attack (Mpps sent, that arrived)");
    println!("{:>10} {}", "kpps", MEANS.map(|means| format!("{:>22}", means.name())).join(""));
    let mut all: Vec<Vec<Vec<Figures>>> = vec![vec![Vec::new(); RATES.len()]; MEANS.len()];
    for _ in 0..ROUNDS {
        for (means, all) in MEANS.into_iter().zip(&mut all) {
            for (figures, all) in Sandbox::run(|sandbox| by(sandbox, means))??.into_iter().zip(all) {
                all.push(figures);
            }
        }
    }
    let median = |figures: &[Figures], of: fn(&Figures) -> f64| part(&figures.iter().map(of).collect::<Vec<_>>(), 0.5);
    let mut rows = Vec::new();
    for (at, rate) in RATES.into_iter().enumerate() {
        let rate = rate.map_or("flat out".to_owned(), |kpps| kpps.to_string());
        let mut line = format!("{rate:>10} ");
        for (means, all) in MEANS.into_iter().zip(&all) {
            let calm = median(&all[0], |figures| figures.0);
            let of = |of| median(&all[at], of);
            let (done, sent, arrived) = (of(|figures| figures.0), of(|figures| figures.1), of(|figures| figures.2));
            line += &format!("{:>7.2} ({:>4.2}, {:>4.2})", done / calm, sent / 1e6, arrived / 1e6);
            line += " ";
            rows.push(Row::alone(format!("{}, {rate} kpps: of the calm rate", means.name()), done / calm, "", None));
        }
        println!("{line}");
    }
    let calm = all.iter().map(|all| format!("{:>21.0} ", median(&all[0], |figures| figures.0)));
    println!("{:>10} {}", "calm, 1/s", calm.collect::<String>());
    Ok(rows)
}

/// Measures one means at every rate.
fn by(sandbox: &Sandbox, means: Means) -> Result<Vec<Figures>> {
    let veth = sandbox.veth(HERE, PEER)?;
    let pins = Path::new("/sys/fs/bpf");
    let (mut ours, mut rival, mut passing) = (None, None, None);
    match means {
        Means::Nothing | Means::Nft => passing = Some(Receiver::attach(HERE, Program::Pass)?),
        Means::Filter(name) => {
            let filter = rival.insert(Rival::load(name, pins)?);
            filter.list4(&sources())?;
            filter.attach(HERE)?;
        }
        Means::Ours => {
            let loaded = ours.insert(Ours::load()?);
            let mut feeds = FeedSet::default();
            feeds.v4.extend(sources().into_iter().map(|network| (Key4 { network, length: 32 }, 1)));
            loaded.lists.publish_feeds(feeds, u64::MAX)?;
            loaded.attach(HERE)?;
        }
    }
    if means == Means::Nft {
        endtoend::nft_drop(sandbox, HERE)?;
    }
    pin_napi()?;
    let server = SocketAddr::new(IpAddr::V4(veth.here.v4), PORT);
    serve(server)?;
    let figures = RATES.into_iter().map(|rate| measure(sandbox, &veth, server, rate)).collect();
    drop((ours, rival, passing));
    figures
}

fn sources() -> Vec<u32> {
    (endtoend::FIRST..endtoend::FIRST + endtoend::SOURCES).collect()
}

/// Gives what the near end receives to a thread on the server's CPU that goes before all others there.
fn pin_napi() -> Result<()> {
    fs::write(format!("/sys/class/net/{HERE}/threaded"), "1").context("a NAPI thread")?;
    let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let mut found = false;
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let pid = name.to_string_lossy();
        if !pid.starts_with(|first: char| first.is_ascii_digit()) || !of(&pid).starts_with(&format!("napi/{HERE}-")) {
            continue;
        }
        for command in [["taskset", "-pc", &VICTIM.to_string(), &pid], ["chrt", "-fp", "1", &pid]] {
            let status = std::process::Command::new(command[0]).args(&command[1..]).stdout(Stdio::null()).status()?;
            ensure!(status.success(), "{}: {status}", command.join(" "));
        }
        found = true;
    }
    ensure!(found, "{HERE} has no NAPI thread");
    Ok(())
}

/// Says back what it hears, on the CPU that is attacked.
fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        stay_on(VICTIM)?;
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true)?;
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
        Ok::<_, anyhow::Error>(())
    });
    Ok(())
}

fn measure(sandbox: &Sandbox, veth: &Veth, server: SocketAddr, kpps: Option<u64>) -> Result<Figures> {
    let host = sandbox.peer_host();
    let over = AtomicBool::new(false);
    let flood = Flood { pps: kpps.map(|kpps| kpps * 1000), ..flood(veth) };
    let sends = || -> Result<Sent> {
        stay_on(ATTACKER)?;
        host.run(|| {
            let mut generator = Generator::new(veth.peer.ifindex)?;
            // The client is there before the flood is.
            thread::sleep(SETTLE);
            generator.run(&flood, &over)
        })?
    };
    let client = || -> Result<f64> {
        stay_on(VICTIM)?;
        host.run(|| transactions(server))?
    };
    let before = arrived(sandbox)?;
    thread::scope(|scope| {
        let client = scope.spawn(client);
        let sender = (kpps != Some(0)).then(|| scope.spawn(sends));
        let done = client.join().map_err(|_| anyhow::anyhow!("the client panicked"));
        over.store(true, Relaxed);
        let sent =
            sender.map(|sender| sender.join().map_err(|_| anyhow::anyhow!("the flood panicked"))?).transpose()?;
        let sent = sent.unwrap_or_default();
        // The client's own packets are few.
        let arrived = (arrived(sandbox)? - before) as f64 / sent.elapsed.as_secs_f64().max(MEASURE.as_secs_f64());
        Ok((done??, sent.pps(), arrived))
    })
}

/// Packets that the program at the near end was given.
fn arrived(sandbox: &Sandbox) -> Result<u64> {
    let text = sandbox.command(&format!("ethtool -S {HERE}"))?;
    let counted = text.lines().filter_map(|line| line.split_once("_xdp_packets:")?.1.trim().parse::<u64>().ok());
    Ok(counted.sum())
}

/// Returns how many bytes a client hears back in a second, one after the other.
fn transactions(server: SocketAddr) -> Result<f64> {
    let Ok(mut stream) = TcpStream::connect_timeout(&server, PATIENCE) else { return Ok(0.0) };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [7];
    let mut exchange = || stream.write_all(&byte).is_ok() && stream.read_exact(&mut byte).is_ok();
    let settled = Instant::now();
    while settled.elapsed() < 3 * SETTLE && exchange() {}
    let (begun, mut done) = (Instant::now(), 0);
    while begun.elapsed() < MEASURE {
        if !exchange() {
            break;
        }
        done += 1;
    }
    Ok(f64::from(done) / begun.elapsed().max(MEASURE).as_secs_f64())
}

/// Small UDP datagrams to a closed port, from the sources that are listed.
fn flood(veth: &Veth) -> Flood {
    let first = IpAddr::V4(endtoend::FIRST.into());
    let template = Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src: first,
        dst: IpAddr::V4(veth.here.v4),
        ttl: 64,
        fragment: None,
        l4: L4::Udp { sport: 4000, dport: 4001 },
        payload: vec![b'.'; 18],
    };
    let src = Addresses::Cycle { first, count: endtoend::SOURCES };
    Flood::new(template, Vary { src, sport: Values::Any, ..Vary::default() })
}
