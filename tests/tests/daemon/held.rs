//! A slow attack of real clients against a real listener: who holds connections is dropped by source, customers
//! are served, and whom somebody forges keeps his way in.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use ftagent::{
    decide::{Incident, Vector, mitigate::Phase},
    replay::output::PcapWriter,
};
use ftagent_tests::{
    customers::Customers,
    daemon::{Daemon, wait_for},
    packet::{Ipv4, Tcp, flags},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Pace, replay_capture},
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use super::guard::{LEARNING, serve};

const PORT: u16 = 8081;
const SOURCES: u8 = 10;
/// Connections of each.
const EACH: usize = 4;
/// An address that nobody has, so that nobody resets what is answered to it.
const FORGED: Ipv4Addr = Ipv4Addr::new(10, 79, 1, 1);

fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, number)
}

fn begin(from: Ipv4Addr, to: SocketAddrV4) -> TcpStream {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    // Of requests that come all at once not every one is sampled.
    thread::sleep(Duration::from_millis(30));
    stream
}

/// Sends SYNs, and requests that do not end, from an address that is not the sender's.
fn forge(veth: &Veth, file: &Path) {
    let mut pcap = PcapWriter::create(file).unwrap();
    for number in 0..6u16 {
        let syn = Tcp { src: 40_000 + number, ..Tcp::to(PORT, flags::SYN) };
        let request = Tcp { src: syn.src, ..Tcp::data(PORT, b"GET / HTTP/1.1\r\nHost: a\r\n") };
        for (at, segment) in [(0, syn), (100, request)] {
            let ip = Ipv4 { src: FORGED, dst: veth.here.v4, ..Ipv4::new() };
            let mut frame = ip.frame(&segment.build());
            frame[..6].copy_from_slice(&veth.here.mac.0);
            frame[6..12].copy_from_slice(&veth.peer.mac.0);
            pcap.write((u64::from(number) * 200 + at) * 1_000_000, &frame).unwrap();
        }
    }
    pcap.finish().unwrap();
    assert_eq!(replay_capture(file, &veth.peer.name, Pace::AsCaptured).unwrap().sent, 12);
}

/// Returns the sources that are dropped.
fn dropped(incident: &Incident) -> Vec<String> {
    let rules = incident.rules.iter().filter(|rule| rule.state == Phase::Enforcing);
    let source = |matches: &str| {
        matches.split_once("src ").and_then(|(_, rest)| rest.split(['/', ' ']).next().map(str::to_owned))
    };
    let mut sources: Vec<String> = rules.filter_map(|rule| source(&rule.matches)).collect();
    sources.sort();
    sources
}

#[test]
fn who_holds_connections_is_dropped_and_nobody_else() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let server = SocketAddrV4::new(veth.here.v4, PORT);
        serve(server.into());
        let stop = Arc::new(AtomicBool::new(false));
        let customers = Customers::begin(sandbox, &veth, &stop).unwrap();
        for number in 1..=SOURCES {
            sandbox.peer_command(&format!("ip addr add {}/32 dev {}", source(number), veth.peer.name)).unwrap();
        }
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        thread::sleep(Duration::from_secs(5));
        let file = daemon.path("forged.pcap");
        sandbox.peer(|| forge(&veth, &file)).unwrap();
        let held = sandbox.peer(|| {
            let each = (1..=SOURCES).flat_map(|number| (0..EACH).map(move |_| begin(source(number), server)));
            each.collect::<Vec<_>>()
        });
        let mut held = held.unwrap();
        let (drips, halt) = (Arc::clone(&stop), Arc::clone(&stop));
        let dripping = thread::spawn(move || {
            while !drips.load(Relaxed) {
                // What is dropped waits in the sender's queue.
                held.iter_mut().for_each(|stream| drop(stream.write_all(b"X-a: 1\r\n")));
                thread::sleep(Duration::from_secs(1));
            }
        });
        let all: Vec<String> = {
            let mut all: Vec<String> = (1..=SOURCES).map(|number| source(number).to_string()).collect();
            all.sort();
            all
        };
        let named = || {
            let incidents: Vec<Incident> = super::survive::incidents(&daemon);
            let slow = incidents.into_iter().find(|incident| incident.vector == Vector::SlowHttp)?;
            (dropped(&slow).len() >= usize::from(SOURCES)).then_some(slow)
        };
        let incident = wait_for("rules by source", Duration::from_secs(30), named);
        let incident = incident.unwrap_or_else(|error| panic!("{error}: {:#?}", super::survive::incidents(&daemon)));
        assert_eq!(dropped(&incident), all, "{:#?}", incident.timeline);
        thread::sleep(Duration::from_secs(3));
        let shown = daemon.ok(&["incidents", "show", &incident.id]).unwrap();
        assert!(shown.contains("7 more rules like tcp dport 8081, in force, each by another source"), "{shown}");
        assert!(shown.contains("who holds connections to port 8081 and does not use them"), "{shown}");
        halt.store(true, Relaxed);
        dripping.join().unwrap();
        assert_eq!(customers.failed(), 0);
        assert!(customers.take().pages > 100);
    })
    .unwrap();
}
