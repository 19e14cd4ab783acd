//! Floods from listed sources over veth, dropped by ours, by xdp-filter and by nftables.
//!
//! Sender and receiver share one CPU, so the rate is that of both together; a program that drops
//! everything and does nothing else shows what the sender alone costs.

use std::{fs, net::IpAddr, path::Path, process::Stdio, sync::atomic::AtomicBool, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::lists::FeedSet;
use ftagent_common::{lists::Key4, reason::verdict};
use ftagent_tests::{
    sandbox::{Sandbox, Veth},
    traffic::{Addresses, Flood, Generator, L4, Program, Receiver, Sent, Template, Values, Vary, tcp},
};

use crate::{guard::snmp, ours::Ours, report::Row, rivals::Rival};

const HERE: &str = "wan0";
const PEER: &str = "gen0";
/// The first of the flood's sources: 198.18.0.1, of the range for benchmarks (RFC 2544).
pub const FIRST: u32 = 0xc612_0001;
/// How many there are.
pub const SOURCES: u32 = 1000;

/// Drops the flood by each means in turn; a row for the rate and one for the CPU time.
pub fn flood(sandbox: &Sandbox, duration: Duration) -> Result<Vec<Row>> {
    let veth = sandbox.veth(HERE, PEER)?;
    let sources: Vec<u32> = (FIRST..FIRST + SOURCES).collect();
    let mut rows = Vec::new();
    let mut add = |case: &str, seen: Seen| {
        rows.push(Row::alone(format!("{case}: dropped"), seen.mpps, "Mpps", None));
        rows.push(Row::alone(format!("{case}: CPU for 1 M packets"), seen.cpu_ms, "ms", None));
    };

    let bare = Receiver::attach(HERE, Program::Drop)?;
    add("bare XDP_DROP that counts", send(sandbox, &veth, duration)?);
    drop(bare);

    let mut ours = Ours::load()?;
    let mut feeds = FeedSet::default();
    feeds.v4.extend(sources.iter().map(|&network| (Key4 { network, length: 32 }, 1)));
    ours.lists.publish_feeds(feeds, u64::MAX)?;
    ours.attach(HERE)?;
    let seen = send(sandbox, &veth, duration)?;
    let counters = ours.counters()?;
    let dropped = counters.verdicts[verdict::DROP as usize];
    ensure!(dropped == seen.sent, "ftagent dropped {dropped} of {} packets", seen.sent);
    add("ftagent", seen);
    drop(ours);

    for name in ["xdpfilt_alw_ip", "xdpfilt_dny_ip"] {
        // A directory of its own: the packet benchmarks load these programs again.
        let pins = Path::new("/sys/fs/bpf/flood");
        if !pins.exists() {
            fs::create_dir(pins).context("making /sys/fs/bpf/flood")?;
        }
        let mut rival = Rival::load(name, pins)?;
        // `dny` drops whatever is not listed.
        if name == "xdpfilt_alw_ip" {
            rival.list4(&sources)?;
        }
        rival.attach(HERE)?;
        add(name, send(sandbox, &veth, duration)?);
    }

    // Live frames need a program at the receiving end; it passes them on to nftables.
    let passing = Receiver::attach(HERE, Program::Pass)?;
    nft_drop(sandbox, HERE)?;
    add("nftables, netdev ingress", send(sandbox, &veth, duration)?);
    drop(passing);
    sandbox.command("nft delete table netdev bench")?;
    Ok(rows)
}

struct Seen {
    sent: u64,
    mpps: f64,
    /// Milliseconds of system, interrupt and softirq time on all CPUs, per million packets.
    cpu_ms: f64,
}

/// Sends the flood and checks that none of it reached the stack.
fn send(sandbox: &Sandbox, veth: &Veth, duration: Duration) -> Result<Seen> {
    let syn = L4::Tcp { sport: 1024, dport: 80, flags: tcp::SYN, seq: 0, ack: 0, window: 1024, options: Vec::new() };
    let first = IpAddr::V4(FIRST.into());
    let template = Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src: first,
        dst: IpAddr::V4(veth.here.v4),
        ttl: 64,
        fragment: None,
        l4: syn,
        payload: Vec::new(),
    };
    let src = Addresses::Cycle { first, count: SOURCES };
    let vary = Vary { src, sport: Values::Any, tcp_seq: true, ..Vary::default() };
    let flood = Flood { duration: Some(duration), ..Flood::new(template, vary) };
    let (received, busy) = (received_by_ip()?, busy_ms()?);
    let sent: Sent = sandbox.peer(|| Generator::new(veth.peer.ifindex)?.run(&flood, &AtomicBool::new(false)))??;
    let (received, busy) = (received_by_ip()? - received, busy_ms()? - busy);
    ensure!(received * 1000 < sent.packets, "{received} of {} packets reached the stack", sent.packets);
    let millions = sent.packets as f64 / 1e6;
    Ok(Seen { sent: sent.packets, mpps: sent.pps() / 1e6, cpu_ms: busy / millions })
}

/// Drops the flood's sources at the ingress hook (nft(8), "netdev").
pub fn nft_drop(sandbox: &Sandbox, interface: &str) -> Result<()> {
    use std::io::Write as _;
    let elements: Vec<String> =
        (FIRST..FIRST + SOURCES).map(|source| std::net::Ipv4Addr::from(source).to_string()).collect();
    let rules = format!(
        "table netdev bench {{\n set listed {{ type ipv4_addr; elements = {{ {} }}; }}\n \
         chain drops {{\n type filter hook ingress device {interface} priority 0;\n ip saddr @listed drop;\n }}\n}}\n",
        elements.join(", ")
    );
    let mut command = std::process::Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = sandbox.spawn(command).context("starting nft")?;
    nft.stdin.take().context("nft has no standard input")?.write_all(rules.as_bytes())?;
    let status = nft.wait()?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

/// IPv4 packets that the stack of this host received (RFC 4293, ipSystemStatsInReceives).
fn received_by_ip() -> Result<u64> {
    snmp("Ip", "InReceives")
}

/// System, interrupt and softirq time of all CPUs, milliseconds (proc(5), `/proc/stat`).
fn busy_ms() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let total = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = total.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    let ticks: u64 = [2, 5, 6].into_iter().filter_map(|at| fields.get(at)).sum();
    // USER_HZ is 100 on every architecture that BPF has a JIT for.
    Ok(ticks as f64 * 10.0)
}
