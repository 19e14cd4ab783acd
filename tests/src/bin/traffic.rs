//! Sends floods and captures onto an interface, for people. Only inside a network namespace:
//! in the machine's own it refuses.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use ftagent_tests::{
    sandbox::Mac,
    traffic::{
        Addresses, Flood, Generator, Pace, Program, Receiver, replay_capture,
        vectors::{Link, VECTORS, find},
    },
};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

/// Test traffic, inside a network namespace of its own (`unshare -n -m`, `ip netns exec`).
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Go on where it cannot be told whether this is the machine's own network.
    #[arg(long)]
    here: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Sends a flood; the other end of a veth needs an XDP program (`traffic receive`, or ftagent).
    Flood(FloodOptions),
    /// Sends a capture file (pcap or pcapng, Ethernet).
    Replay {
        /// The capture.
        file: PathBuf,
        /// Interface to send out of.
        #[arg(long)]
        interface: String,
        /// Packets per second; default: as captured.
        #[arg(long, conflicts_with = "flat_out")]
        pps: Option<u64>,
        /// Without pause.
        #[arg(long)]
        flat_out: bool,
    },
    /// Attaches a program to an interface and prints every second what arrives.
    Receive {
        /// Interface to attach to.
        #[arg(long)]
        interface: String,
        /// What to do with the packets.
        #[arg(long, value_enum, default_value = "drop")]
        and: And,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Lists the classes of floods.
    Classes,
}

#[derive(Clone, Copy, ValueEnum)]
enum And {
    Drop,
    Pass,
    PopVlan,
}

#[derive(clap::Args)]
struct FloodOptions {
    /// Interface to send out of.
    #[arg(long)]
    interface: String,
    /// What to send: see `traffic classes`; the suffix `_flood` may be left out.
    #[arg(long)]
    class: String,
    /// Destination address, or a prefix to spread over.
    #[arg(long, value_parser = prefix)]
    dst: IpNet,
    /// Source address or prefix; default: 198.18.0.0/15 or 2001:2::/48.
    #[arg(long, value_parser = prefix)]
    src: Option<IpNet>,
    /// Ethernet destination; default: what the neighbour table says, else broadcast.
    #[arg(long)]
    dst_mac: Option<Mac>,
    /// A VLAN to tag with; twice for two tags, the outer one first.
    #[arg(long)]
    vlan: Vec<u16>,
    /// Packets per second; default: as fast as one CPU can.
    #[arg(long)]
    pps: Option<u64>,
    /// How long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many packets, if it is to end before that.
    #[arg(long)]
    packets: Option<u64>,
}

fn main() -> Result<()> {
    let Options { here, verb } = Options::parse();
    if !matches!(verb, Verb::Classes) {
        not_in_the_machines_namespace(here)?;
    }
    match verb {
        Verb::Flood(options) => flood(&options),
        Verb::Replay { file, interface, pps, flat_out } => {
            let pace = match pps {
                Some(pps) => Pace::Pps(pps),
                None if flat_out => Pace::FlatOut,
                None => Pace::AsCaptured,
            };
            let done = replay_capture(&file, &interface, pace)?;
            println!("{} packets sent, {} bytes, {} of them cut by the capture", done.sent, done.bytes, done.cut);
            println!("{} not sent: longer than the MTU; {} shorter than a header", done.oversize, done.runts);
            Ok(())
        }
        Verb::Receive { interface, and, seconds } => receive(&interface, and, seconds),
        Verb::Classes => {
            for vector in VECTORS {
                println!("{:26} {} ({})", vector.name, vector.about, vector.class.as_str());
            }
            Ok(())
        }
    }
}

fn flood(options: &FloodOptions) -> Result<()> {
    let FloodOptions { interface, class, dst, src, dst_mac, vlan, pps, seconds, packets } = options;
    let vector = find(class).or_else(|error| find(&format!("{class}_flood")).map_err(|_| error))?;
    let ifindex = if_nametoindex(interface.as_str()).with_context(|| format!("interface {interface}"))?;
    let address = format!("/sys/class/net/{interface}/address");
    let src_mac = fs::read_to_string(&address).context(address)?.trim().parse()?;
    let dst_mac = dst_mac.or_else(|| neighbour(interface, dst.addr())).unwrap_or(Mac([0xff; 6]));
    let outer = if vlan.len() > 1 { 0x88a8 } else { 0x8100 };
    let vlans = vlan.iter().enumerate().map(|(i, tci)| (if i == 0 { outer } else { 0x8100 }, *tci)).collect();
    let mut flood = vector.flood(&Link { src_mac, dst_mac, vlans, dst: dst.addr() });
    if let Some(src) = src {
        flood.vary.src = Addresses::Prefix(*src);
    }
    if dst.prefix_len() != dst.max_prefix_len() {
        flood.vary.dst = Addresses::Prefix(*dst);
    }
    let duration = Some(Duration::from_secs(*seconds));
    let flood = Flood { pps: *pps, packets: *packets, duration, ..flood };
    let sent = Generator::new(ifindex)?.run(&flood, &AtomicBool::new(false))?;
    println!("{} packets, {} bytes, {:.0} packets/s", sent.packets, sent.bytes, sent.pps());
    Ok(())
}

fn receive(interface: &str, and: And, seconds: u64) -> Result<()> {
    let program = match and {
        And::Drop => Program::Drop,
        And::Pass => Program::Count,
        And::PopVlan => Program::PopVlan,
    };
    let receiver = Receiver::attach(interface, program)?;
    let (mut before, mut since) = (receiver.received()?, Instant::now());
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        let (now, elapsed) = (receiver.received()?, since.elapsed().as_secs_f64());
        let rate = |now: u64, before: u64| (now - before) as f64 / elapsed;
        println!(
            "{} packets in all, {:.0} packets/s, {:.0} bytes/s",
            now.packets,
            rate(now.packets, before.packets),
            rate(now.bytes, before.bytes)
        );
        (before, since) = (now, Instant::now());
    }
    Ok(())
}

/// Returns the Ethernet address that the neighbour table has.
fn neighbour(interface: &str, address: IpAddr) -> Option<Mac> {
    let shown = Command::new("ip").args(["neigh", "show", &address.to_string(), "dev", interface]).output().ok()?;
    let shown = String::from_utf8(shown.stdout).ok()?;
    shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1)?.parse().ok()
}

fn not_in_the_machines_namespace(here: bool) -> Result<()> {
    let own = fs::read_link("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")?;
    match fs::read_link("/proc/1/ns/net") {
        Ok(first) => ensure!(own != first, "this is the machine's own network: {REMEDY}"),
        Err(error) => ensure!(
            here,
            "/proc/1/ns/net: {error}: whether this is the machine's own network cannot be told; {REMEDY}, then give --here"
        ),
    }
    Ok(())
}

const REMEDY: &str = "run it in a namespace (`unshare -n -m`, `ip netns exec`)";

/// Reads an address or a prefix.
fn prefix(text: &str) -> Result<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    text.parse().with_context(|| format!("`{text}` is neither an address nor a prefix like 198.18.0.0/15"))
}
