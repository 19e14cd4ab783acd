//! `cargo xtask demo`: two throw-away hosts, ordinary traffic, a real flood, and the agent between
//! them. The agent learns what is normal, names the flood by itself, and says how long that took.
//! Shows the classes live, blocks the flood's sources by the agent's own command, and prints what
//! it measured. Nothing of it is left behind.

use std::{
    io::{IsTerminal as _, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Parser;
use ftagent::{cli::status::render, decide::Incident, sense::clock, serve::protocol::Status};
use ftagent_tests::{
    daemon::Daemon,
    sandbox::Sandbox,
    traffic::{Addresses, Flood, Generator, L4, Template, Values, Vary},
};

/// The flood comes from these, one after the other.
const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SOURCES: u32 = 3;
/// Where it goes: a port with a socket that counts what arrives.
const VICTIM_PORT: u16 = 9000;
/// What the agent is configured with: it learns for seconds here, not for minutes.
const SECTIONS: &str =
    "[services]\ndetect = false\n[learning]\ntrust_after = \"5s\"\n[mitigation]\nmode = \"enforce\"\n";
/// How long the agent has to name the flood.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where ordinary clients go.
const WEB_PORT: u16 = 8080;

#[derive(Debug, Parser)]
struct Args {
    /// Packets a second of the flood.
    #[arg(long, default_value_t = 300_000)]
    pps: u64,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the demo makes network namespaces: run it as root");
    Sandbox::run(|sandbox| demo(sandbox, &args))?
}

fn demo(sandbox: &Sandbox, args: &Args) -> Result<()> {
    let veth = sandbox.veth("wan0", "peer0")?;
    println!("Two hosts joined by a veth pair: this one ({}) is protected, the other sends.\n", veth.here.v4);
    let agent = Daemon::start(sandbox, &["wan0"], SECTIONS)?;
    let stop = Arc::new(AtomicBool::new(false));

    let web = Arc::new(Web::default());
    serve_web(SocketAddr::new(veth.here.v4.into(), WEB_PORT), Arc::clone(&stop))?;
    let (clients, halt) = (Arc::clone(&web), Arc::clone(&stop));
    let server = SocketAddr::new(veth.here.v4.into(), WEB_PORT);
    let client = sandbox.peer_host().spawn(move || clients.ask(server, &halt));
    let victim = Victim::listen(SocketAddr::new(veth.here.v4.into(), VICTIM_PORT), Arc::clone(&stop))?;

    let mut phases = Vec::new();
    phases.push(Phase::watch("calm", args.seconds, &agent, &web, &victim)?);
    agent.wait_for_log(0, "the baseline is trusted from now on")?;
    println!("The agent has learned what is normal here.\n");

    let (pps, halt) = (args.pps, Arc::clone(&stop));
    let template = Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src: FIRST_SOURCE.into(),
        dst: veth.here.v4.into(),
        ttl: 64,
        fragment: None,
        l4: L4::Udp { sport: 40_000, dport: VICTIM_PORT },
        payload: vec![b'.'; 64],
    };
    let src = Addresses::Cycle { first: FIRST_SOURCE.into(), count: SOURCES };
    // Ports that no reflector answers from: one class, as a simple tool would send it.
    let vary = Vary { src, sport: Values::Between(49_152, 65_535), ..Vary::default() };
    let ifindex = veth.peer.ifindex;
    let (begins, begun) = sync_channel(1);
    let flood = sandbox.peer_host().spawn(move || {
        let mut generator = Generator::new(ifindex)?;
        // The clock that the agent stamps its incidents with; the first packet leaves after it.
        begins.send(clock::monotonic_ns())?;
        generator.run(&Flood { pps: Some(pps), ..Flood::new(template, vary) }, &halt)
    });
    let named = detect(&agent, begun.recv()?)?;
    phases.push(Phase::watch("flood", args.seconds, &agent, &web, &victim)?);

    let blocked = Instant::now();
    for i in 0..SOURCES {
        let source = Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + i).to_string();
        print!(
            "  $ ftagent block {source} --for 10m --reason demo\n  {}",
            agent.ok(&["block", &source, "--for", "10m", "--reason", "demo"])?
        );
    }
    println!("  ({} entries took {:.0} ms)\n", SOURCES, blocked.elapsed().as_secs_f64() * 1e3);
    phases.push(Phase::watch("blocked", args.seconds, &agent, &web, &victim)?);

    stop.store(true, Relaxed);
    let sent = flood.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let _gone = client.join();
    println!("{}", agent.ok(&["rules"])?);
    summary(&phases, sent.pps());
    match named {
        Some((vector, after)) => {
            println!("\nNamed `{vector}` {:.0} ms after its first packet.", after.as_secs_f64() * 1e3)
        }
        None => println!("\nThe agent did NOT name the flood within {} s.", PATIENCE.as_secs()),
    }
    print!("\n{}", agent.ok(&["detach"])?);
    Ok(())
}

/// Waits for the agent to open an incident, shows it, and returns what it is called and how long
/// that took; `begun_ns` is when the flood began.
fn detect(agent: &Daemon, begun_ns: u64) -> Result<Option<(String, Duration)>> {
    println!("The flood begins.");
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let answer: serde_json::Value = serde_json::from_str(&agent.ok(&["incidents", "--json"])?)?;
        let incidents: Vec<Incident> = serde_json::from_value(answer["incidents"].clone())?;
        let Some(incident) = incidents.iter().find(|incident| incident.opened.mono_ns >= begun_ns) else {
            sleep(Duration::from_millis(10));
            continue;
        };
        let shown = Duration::from_nanos(clock::monotonic_ns().saturating_sub(begun_ns));
        let after = Duration::from_nanos(incident.opened.mono_ns - begun_ns);
        println!("  incident {}: {} ({})", incident.id, incident.vector.as_str(), incident.severity.as_str());
        let evidence = incident.findings.iter().map(|finding| finding.evidence.line.as_str());
        evidence.for_each(|line| println!("  {line}"));
        println!(
            "  opened {:.0} ms after the first packet, on this screen after {:.0} ms\n",
            after.as_secs_f64() * 1e3,
            shown.as_secs_f64() * 1e3
        );
        return Ok(Some((incident.vector.as_str().to_owned(), after)));
    }
    println!("  no incident within {} s\n", PATIENCE.as_secs());
    Ok(None)
}

/// Ordinary clients: each asks for a page, ten times a second.
#[derive(Default)]
struct Web {
    answered: AtomicU64,
    failed: AtomicU64,
    took: Mutex<Vec<Duration>>,
}

impl Web {
    fn ask(&self, server: SocketAddr, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            let begun = Instant::now();
            match get(server) {
                Ok(()) => {
                    self.answered.fetch_add(1, Relaxed);
                    self.took.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed());
                }
                Err(_) => {
                    self.failed.fetch_add(1, Relaxed);
                }
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Returns and forgets: answered, failed, median time.
    fn take(&self) -> (u64, u64, Duration) {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner));
        took.sort_unstable();
        let median = took.get(took.len() / 2).copied().unwrap_or_default();
        (self.answered.swap(0, Relaxed), self.failed.swap(0, Relaxed), median)
    }
}

fn get(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not an answer");
    Ok(())
}

fn serve_web(at: SocketAddr, stop: Arc<AtomicBool>) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if stop.load(Relaxed) {
                return;
            }
            let mut stream = stream;
            let mut request = [0; 512];
            // A client that goes away gets no answer; it counts that itself.
            let _answered = stream.read(&mut request).and_then(|_| {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
            });
        }
    });
    Ok(())
}

/// The socket that the flood is for.
struct Victim {
    received: Arc<AtomicU64>,
}

impl Victim {
    fn listen(at: SocketAddr, stop: Arc<AtomicBool>) -> Result<Self> {
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut buffer)
                    && from.ip() >= IpAddr::from(FIRST_SOURCE)
                {
                    count.fetch_add(1, Relaxed);
                }
            }
        });
        Ok(Self { received })
    }
}

/// What one phase measured.
struct Phase {
    name: &'static str,
    seen: f64,
    dropped: f64,
    at_socket: f64,
    answered: u64,
    failed: u64,
    median: Duration,
}

impl Phase {
    /// Shows the live table for some seconds and measures.
    fn watch(name: &'static str, seconds: u64, agent: &Daemon, web: &Web, victim: &Victim) -> Result<Self> {
        // What is under way when the phase begins belongs to the one before.
        sleep(Duration::from_millis(1200));
        web.take();
        let (before, begun, socket) = (agent.status()?, Instant::now(), victim.received.load(Relaxed));
        let live = std::io::stdout().is_terminal();
        let mut last = before.clone();
        let mut shown = 0;
        for second in 1..=seconds {
            sleep((begun + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
            last = agent.status()?;
            if live || second == seconds {
                let text = format!("--- {name}, second {second} of {seconds}\n{}", render(&last).trim_end());
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
        let (answered, failed, median) = web.take();
        Ok(Self {
            name,
            seen: (seen - seen_before) as f64 / elapsed,
            dropped: (dropped - dropped_before) as f64 / elapsed,
            at_socket: (victim.received.load(Relaxed) - socket) as f64 / elapsed,
            answered,
            failed,
            median,
        })
    }
}

fn summary(phases: &[Phase], flood_pps: f64) {
    println!("Measured (the flood sent {flood_pps:.0} packets/s from {SOURCES} sources):\n");
    println!(
        "  {:10} {:>12} {:>12} {:>18} {:>16} {:>8} {:>12}",
        "phase", "seen/s", "dropped/s", "flood at socket/s", "pages answered", "failed", "median"
    );
    for phase in phases {
        println!(
            "  {:10} {:>12.0} {:>12.0} {:>18.0} {:>16} {:>8} {:>9.2} ms",
            phase.name,
            phase.seen,
            phase.dropped,
            phase.at_socket,
            phase.answered,
            phase.failed,
            phase.median.as_secs_f64() * 1e3
        );
    }
}
