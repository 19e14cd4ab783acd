//! An upgrade or a crash of the daemon lets no blocked packet through and loses no count; a
//! daemon that stays dead blocks nobody for ever.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use ftagent::{bpf::attach, serve::protocol::Interface};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{End, Sandbox, Veth},
    traffic::{Addresses, Flood, Generator, L4, Sent, Template, Vary},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        signal::Signal,
        socket::{setsockopt, sockopt::RcvBufForce},
    },
    unistd::Pid,
};

/// How often the daemon is replaced.
const ROUNDS: u32 = 100;
/// How often its start is cut short.
const CUT_SHORT: u32 = 40;
/// How often its block list changes.
const CHANGES: u32 = 50;
/// Entries of the list at first: 64 addresses and a prefix of each family.
const FEED_ENTRIES: usize = 2 * 65;
/// Where the blocked packets are sent to, and the others.
const PORT: u16 = 4242;
/// Blocked packets a second.
const PPS4: u64 = 400_000;
const PPS6: u64 = 100_000;
/// Time between two ordinary packets.
const GAP: Duration = Duration::from_millis(2);

/// Two floods at a time would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

/// The sources, a quarter each: exact entries, a prefix, addresses and a prefix of a feed.
const NET4: &str = "198.51.100.";
const NET6: &str = "2001:db8:bad::";

/// Writes the feed and starts a daemon that has the flood's sources blocked in every way.
fn blocking(sandbox: &Sandbox) -> Daemon {
    let daemon = Daemon::new(&["wan0"], "").unwrap();
    let feed = daemon.path("feed.txt");
    let mut lines = format!("{NET4}192/26\n{NET6}c0/122\n");
    for low in 0x80..0xc0 {
        writeln!(lines, "{NET4}{low}\n{NET6}{low:x}").unwrap();
    }
    fs::write(&feed, lines).unwrap();
    daemon.configure(&format!("[services]\ndetect = false\n[[feeds]]\nname = \"bad\"\npath = {feed:?}\n")).unwrap();
    let mut daemon = daemon;
    daemon.launch(sandbox).unwrap();
    for low in 0..64 {
        daemon.ok(&["block", &format!("{NET4}{low}")]).unwrap();
        daemon.ok(&["block", &format!("{NET6}{low:x}")]).unwrap();
    }
    daemon.ok(&["block", &format!("{NET4}64/26"), "--reason", "a prefix"]).unwrap();
    daemon.ok(&["block", &format!("{NET6}40/122")]).unwrap();
    daemon
}

fn udp(veth: &Veth, src: IpAddr) -> Template {
    Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src,
        dst: address(&veth.here, src.is_ipv6()),
        ttl: 64,
        fragment: None,
        l4: L4::Udp { sport: 40_000, dport: PORT },
        payload: b"blocked".to_vec(),
    }
}

fn address(end: &End, v6: bool) -> IpAddr {
    if v6 { end.v6.into() } else { end.v4.into() }
}

/// All that sends on one CPU: the receiving side of a veth works on the CPU of the sender, and
/// its queue overflows only where two feed it at once.
fn on_first_cpu() {
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
}

/// Sends blocked packets until told to stop.
fn flood(veth: &Veth, first: IpAddr, pps: u64, stop: &AtomicBool) -> Sent {
    on_first_cpu();
    let vary = Vary { src: Addresses::Cycle { first, count: 256 }, ..Vary::default() };
    let flood = Flood { pps: Some(pps), ..Flood::new(udp(veth, first), vary) };
    Generator::new(veth.peer.ifindex).unwrap().run(&flood, stop).unwrap()
}

/// Sends ordinary packets until told to stop; returns how many.
fn ordinary(veth: &Veth, stop: &AtomicBool) -> u64 {
    on_first_cpu();
    let socket = UdpSocket::bind((veth.peer.v4, 0)).unwrap();
    let mut sent = 0;
    while !stop.load(Relaxed) {
        socket.send_to(b"ordinary", (veth.here.v4, PORT)).unwrap();
        sent += 1;
        thread::sleep(GAP);
    }
    sent
}

/// What reached a socket.
#[derive(Default)]
struct Arrived {
    ordinary: AtomicU64,
    blocked: AtomicU64,
}

/// Binds the socket behind the program. Before anything is sent: what arrives earlier is refused.
fn behind() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // A packet takes a page: the default holds what comes in a tenth of a second, and on a busy
    // machine the reader waits longer than that for its turn.
    setsockopt(&socket, RcvBufForce, &(64 << 20)).unwrap();
    socket
}

/// Counts what reaches a socket until told to stop.
fn receive(socket: &UdpSocket, veth: &Veth, arrived: &Arrived, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Relaxed) {
        let Ok((_, from)) = socket.recv_from(&mut buffer) else { continue };
        let known = from.ip().to_canonical() == IpAddr::from(veth.peer.v4);
        let counter = if known { &arrived.ordinary } else { &arrived.blocked };
        counter.fetch_add(1, Relaxed);
    }
}

fn totals(interface: &Interface) -> Vec<(String, u64)> {
    let mut totals = vec![
        ("packets".to_owned(), interface.packets),
        ("bytes".to_owned(), interface.bytes),
        ("dropped".to_owned(), interface.dropped_packets),
    ];
    totals.extend(interface.classes.iter().map(|class| (format!("class {}", class.class), class.packets)));
    totals.extend(interface.reasons.iter().map(|reason| (format!("reason {}", reason.reason), reason.packets)));
    totals.sort();
    totals
}

fn assert_monotone(before: &[(String, u64)], after: &[(String, u64)]) {
    for (name, then) in before {
        let now = after.iter().find(|(other, _)| other == name).map_or(0, |(_, now)| *now);
        assert!(now >= *then, "{name} went back from {then} to {now}");
    }
}

/// Replaces the daemon, or what it enforces, again and again under traffic.
fn survives(how: &str, times: u32, replace: fn(&Sandbox, &mut Daemon, u32)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = blocking(sandbox);
        let (stop, stop_receiving, arrived) = (AtomicBool::new(false), AtomicBool::new(false), Arrived::default());
        let first6: Ipv6Addr = NET6.parse().unwrap();
        let (veth, stop, arrived) = (&veth, &stop, &arrived);
        let (peer, socket) = (sandbox.peer_host(), behind());
        let (sent4, sent6, ordinary) = thread::scope(|scope| {
            let receiver = scope.spawn(|| receive(&socket, veth, arrived, &stop_receiving));
            let first4 = format!("{NET4}0").parse().unwrap();
            let flood4 = scope.spawn(move || peer.run(|| flood(veth, first4, PPS4, stop)).unwrap());
            let flood6 = scope.spawn(move || peer.run(|| flood(veth, first6.into(), PPS6, stop)).unwrap());
            let ordinary = scope.spawn(move || peer.run(|| ordinary(veth, stop)).unwrap());
            let rounds = rounds(sandbox, &mut daemon, arrived, times, replace);
            stop.store(true, Relaxed);
            let sent = (flood4.join().unwrap(), flood6.join().unwrap(), ordinary.join().unwrap());
            let delivered = || (arrived.ordinary.load(Relaxed) == sent.2).then_some(());
            let all = wait_for("every ordinary packet at the socket", Duration::from_secs(5), delivered);
            stop_receiving.store(true, Relaxed);
            receiver.join().unwrap();
            rounds.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Err(error) = all {
                eprintln!("{error}");
            }
            sent
        });
        let rate = sent4.pps() + sent6.pps();
        eprintln!(
            "{times} times {how} in {:?} at {rate:.0} blocked packets a second, {ordinary} others",
            sent4.elapsed
        );
        assert_eq!(arrived.blocked.load(Relaxed), 0, "blocked packets reached the socket");
        account(&daemon, sent4.packets, sent6.packets, ordinary);
        assert_eq!(arrived.ordinary.load(Relaxed), ordinary, "the datapath passed them all, and the socket has not");
    })
    .unwrap();
}

/// Does it so many times; totals never go back, and ordinary packets go on arriving.
fn rounds(
    sandbox: &Sandbox,
    daemon: &mut Daemon,
    arrived: &Arrived,
    times: u32,
    replace: fn(&Sandbox, &mut Daemon, u32),
) -> thread::Result<()> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut before = totals(&daemon.interface("wan0").unwrap());
        for round in 0..times {
            let ordinary = arrived.ordinary.load(Relaxed);
            replace(sandbox, daemon, round);
            let interface = daemon.wait_for_interface("wan0", Duration::from_secs(5), |i| i.packets > 0).unwrap();
            assert_eq!(interface.state, "protected", "round {round}");
            let after = totals(&interface);
            assert_monotone(&before, &after);
            before = after;
            let more = || (arrived.ordinary.load(Relaxed) > ordinary).then_some(());
            wait_for("an ordinary packet", Duration::from_secs(5), more).unwrap();
        }
    }))
}

/// At rest, what was sent is what was counted, to the packet.
fn account(daemon: &Daemon, sent4: u64, sent6: u64, ordinary: u64) {
    let all = sent4 + sent6 + ordinary;
    let interface = daemon.wait_for_interface("wan0", Duration::from_secs(5), |i| i.packets >= all);
    let interface = interface.unwrap();
    assert_eq!(interface.packets, all, "{sent4} + {sent6} + {ordinary} were sent");
    assert_eq!(interface.dropped_packets, sent4 + sent6);
    assert_eq!(interface.classes.iter().map(|class| class.packets).sum::<u64>(), all);
    assert_eq!(interface.classes.len(), 1, "{:?}", interface.classes);
    let frames = [(sent4, 14 + 20 + 8 + 7), (sent6, 14 + 40 + 8 + 7), (ordinary, 14 + 20 + 8 + 8)];
    assert_eq!(interface.bytes, frames.iter().map(|(packets, bytes)| packets * bytes).sum::<u64>());
    let verdicts: u64 = daemon
        .metrics()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("ftagent_verdicts_total{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(verdicts, all, "every packet has one class and one verdict");
    // Sources come in turn, 256 of each family, a quarter for each way to be blocked.
    let quarter = |sent: u64, from: u64| sent / 256 * 64 + (sent % 256).saturating_sub(from).min(64);
    let wanted = ["block_address", "block_prefix", "feed_address", "feed_prefix"];
    for (reason, from) in wanted.into_iter().zip([0, 64, 128, 192]) {
        let counted = interface.reasons.iter().find(|r| r.reason == reason).map_or(0, |r| r.packets);
        assert_eq!(counted, quarter(sent4, from) + quarter(sent6, from), "{reason}");
    }
}

#[test]
fn an_upgrade_lets_no_blocked_packet_through() {
    require_root!();
    survives("upgraded", ROUNDS, |sandbox, daemon, _| {
        daemon.terminate().unwrap();
        let ifindex = attach::ifindex("wan0").unwrap();
        assert!(attach::query(ifindex).unwrap().is_some(), "SIGTERM keeps the program");
        daemon.launch(sandbox).unwrap();
    });
}

#[test]
fn a_killed_daemon_lets_no_blocked_packet_through() {
    require_root!();
    survives("killed", ROUNDS, |sandbox, daemon, _| {
        daemon.kill().unwrap();
        daemon.launch(sandbox).unwrap();
    });
}

#[test]
fn a_start_that_is_cut_short_lets_no_blocked_packet_through() {
    require_root!();
    survives("killed while it started", CUT_SHORT, |sandbox, daemon, round| {
        daemon.kill().unwrap();
        daemon.begin(sandbox).unwrap();
        // A start takes some hundreds of milliseconds: this walks through it.
        thread::sleep(Duration::from_millis(u64::from(round * 10)));
        daemon.kill().unwrap();
        daemon.launch(sandbox).unwrap();
    });
}

#[test]
fn lists_are_replaced_without_a_gap() {
    require_root!();
    survives("replaced its lists", CHANGES, |_, daemon, round| {
        let path = daemon.path("feed.txt");
        let mut lines = fs::read_to_string(&path).unwrap();
        writeln!(lines, "203.0.113.{round}\n2001:db8:{round:x}::/48").unwrap();
        fs::write(path, lines).unwrap();
        let from = daemon.log().len();
        daemon.signal(Signal::SIGHUP).unwrap();
        daemon.wait_for_log(from, "The configuration was read again").unwrap();
        let entries = daemon.status().unwrap().lists.feeds;
        assert_eq!(entries, FEED_ENTRIES + 2 * (round as usize + 1));
    });
}

/// Sends packets from an address until one of them reaches the socket or patience ends.
fn passes(sandbox: &Sandbox, veth: &Veth, socket: &UdpSocket, from: IpAddr, patience: Duration) -> bool {
    let flood = Flood { packets: Some(1), ..Flood::new(udp(veth, from), Vary::default()) };
    let ifindex = veth.peer.ifindex;
    let arrives = || {
        sandbox.peer(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap()).unwrap();
        // Until the socket is empty: an earlier call may have left something.
        let mut sources = std::iter::from_fn(|| socket.recv_from(&mut [0; 64]).ok());
        sources.any(|(_, source): (usize, SocketAddr)| source.ip().to_canonical() == from).then_some(())
    };
    wait_for("a packet", patience, arrives).is_ok()
}

#[test]
fn what_a_dead_daemon_blocked_ends_by_itself() {
    require_root!();
    let none = Duration::ZERO;
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::new(&["wan0"], "").unwrap();
        let feed = daemon.path("feed.txt");
        fs::write(&feed, "198.51.100.0/24\n").unwrap();
        daemon.configure(&format!("[feed]\nttl = \"10s\"\n[[feeds]]\nname = \"bad\"\npath = {feed:?}\n")).unwrap();
        let mut daemon = daemon;
        daemon.launch(sandbox).unwrap();
        daemon.ok(&["block", "203.0.113.9", "--for", "4s"]).unwrap();
        daemon.ok(&["block", "203.0.113.0/29", "--for", "1h"]).unwrap();
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let passes = |from, patience| passes(sandbox, &veth, &socket, from, patience);
        let [short, long, listed, other] =
            ["203.0.113.9", "203.0.113.7", "198.51.100.7", "192.0.2.7"].map(|a| a.parse().unwrap());
        for source in [short, long, listed] {
            assert!(!passes(source, none), "{source} is blocked");
        }
        assert!(passes(other, Duration::from_secs(5)));
        daemon.kill().unwrap();
        assert!(!passes(listed, none), "the kernel goes on enforcing the feed");
        assert!(passes(short, Duration::from_secs(20)), "the block ended");
        assert!(passes(listed, Duration::from_secs(30)), "the feed lapsed");
        assert!(!passes(long, none), "what has not expired stays");
        daemon.launch(sandbox).unwrap();
        assert!(!passes(listed, none), "a new daemon brings the feed back");
        assert!(passes(short, none), "but not what has ended");
    })
    .unwrap();
}
