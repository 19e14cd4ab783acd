//! What a running daemon counts, drops and shows is what was on the wire.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "wire/prometheus.rs"]
mod prometheus;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
    time::Duration,
};

use ftagent::{
    bpf::testrun::{MIN_FRAME, TestRun},
    serve::protocol::Interface,
};
use ftagent_common::TrafficClass;
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Capture, Flood, Generator, L4, Pace, Template, Vary, need_captures, replay_capture, tcp},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

const FIVE_SECONDS: Duration = Duration::from_secs(5);
/// Two polls: what was on its way when a status was taken is in the next one.
const POLLS: Duration = Duration::from_millis(250);
/// The same UDP services everywhere: that of this machine must not matter.
const SERVICES: [u16; 3] = [53, 443, 9955];
const SECTIONS: &str = "[services]\ndetect = false\nudp = [53, 443, 9955]\n";
const PORT: u16 = 4242;

/// Packets and bytes by class; classes without packets are left out.
type Classes = BTreeMap<String, (u64, u64)>;

fn classes(interface: &Interface) -> Classes {
    interface.classes.iter().map(|class| (class.class.clone(), (class.packets, class.bytes))).collect()
}

fn since(before: &Classes, after: &Classes) -> Classes {
    let difference = |(name, &(packets, bytes)): (&String, &(u64, u64))| {
        let &(old_packets, old_bytes) = before.get(name).unwrap_or(&(0, 0));
        (packets > old_packets).then(|| (name.clone(), (packets - old_packets, bytes - old_bytes)))
    };
    after.iter().filter_map(difference).collect()
}

/// Waits until an interface has seen so many packets, and a little longer for one too many.
fn at_rest(daemon: &Daemon, name: &str, packets: u64) -> Interface {
    daemon.wait_for_interface(name, FIVE_SECONDS, |interface| interface.packets >= packets).unwrap();
    thread::sleep(POLLS);
    daemon.interface(name).unwrap()
}

/// The files under a folder, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Returns what test runs count of each capture, without what no interface can send: frames that
/// are longer than `mtu` allows, and runts. The last value is how many were too long.
fn by_test_runs(paths: &[PathBuf], mtu: usize) -> Vec<(Classes, u64)> {
    let mut run = TestRun::new(1).unwrap();
    run.set_service_ports(&SERVICES).unwrap();
    let mut before = Classes::new();
    let mut counted = Vec::new();
    for path in paths {
        let (mut capture, mut oversize) = (Capture::open(path).unwrap(), 0);
        while let Some(packet) = capture.next_packet().unwrap() {
            if packet.bytes.len() > mtu + MIN_FRAME {
                oversize += 1;
            } else if packet.bytes.len() >= MIN_FRAME {
                run.run(&packet.bytes).unwrap();
            }
        }
        let counters = run.counters().unwrap();
        let row = |class: TrafficClass| {
            let counter = counters.class(class);
            (counter.packets > 0).then(|| (class.as_str().to_owned(), (counter.packets, counter.bytes)))
        };
        let after: Classes = TrafficClass::ALL.into_iter().filter_map(row).collect();
        counted.push((since(&before, &after), oversize));
        before = after;
    }
    counted
}

/// The receiving side of a veth works on the CPU of the sender; its queue then never overflows.
fn on_first_cpu() {
    let mut first = CpuSet::new();
    first.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &first).unwrap();
}

#[test]
fn captures_on_the_wire_count_as_in_test_runs() {
    require_root!();
    let Some(dir) = need_captures("captures on the wire") else { return };
    const MTU: usize = 32_768;
    let paths = files(&dir);
    // On a thread of its own, because test runs tie it to one CPU.
    let wanted = thread::scope(|scope| scope.spawn(|| by_test_runs(&paths, MTU)).join().unwrap());
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        sandbox.command(&format!("ip link set wan0 mtu {MTU}")).unwrap();
        sandbox.peer_command(&format!("ip link set peer0 mtu {MTU}")).unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let (mut packets, mut bytes, mut too_long) = (0, 0, 0);
        for (path, (wanted, oversize)) in paths.iter().zip(wanted) {
            let name = path.strip_prefix(&dir).unwrap().display();
            let before = classes(&daemon.interface("wan0").unwrap());
            let send = || {
                on_first_cpu();
                replay_capture(path, "peer0", Pace::FlatOut).unwrap()
            };
            let sent = sandbox.peer(send).unwrap();
            let interface = at_rest(&daemon, "wan0", packets + sent.sent);
            assert_eq!(since(&before, &classes(&interface)), wanted, "{name}");
            assert_eq!(sent.oversize, oversize, "{name}");
            (packets, bytes, too_long) = (packets + sent.sent, bytes + sent.bytes, too_long + oversize);
            assert_eq!((interface.packets, interface.bytes), (packets, bytes), "{name}");
            assert_eq!(interface.dropped_packets, 0, "{name}");
        }
        eprintln!("{} captures, {packets} packets, {bytes} bytes; {too_long} frames over the MTU", paths.len());
    })
    .unwrap();
}

/// A frame from the peer to this end.
fn frame(veth: &Veth, src: &str, l4: L4, vlans: &[(u16, u16)]) -> Template {
    let src: IpAddr = src.parse().unwrap();
    Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: vlans.to_vec(),
        src,
        dst: if src.is_ipv6() { veth.here.v6.into() } else { veth.here.v4.into() },
        ttl: 64,
        fragment: None,
        l4,
        payload: b"0123456789".to_vec(),
    }
}

fn udp() -> L4 {
    L4::Udp { sport: 40_000, dport: PORT }
}

fn syn() -> L4 {
    L4::Tcp { sport: 40_000, dport: 80, flags: tcp::SYN, seq: 1, ack: 0, window: 1024, options: Vec::new() }
}

/// Sends a frame so often from the peer.
fn send(sandbox: &Sandbox, veth: &Veth, template: &Template, packets: u64) {
    let flood = Flood { packets: Some(packets), ..Flood::new(template.clone(), Vary::default()) };
    let ifindex = veth.peer.ifindex;
    let sent = sandbox.peer(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap());
    assert_eq!(sent.unwrap().packets, packets);
}

#[test]
fn tagged_frames_are_counted_in_their_class_and_dropped() {
    require_root!();
    const PACKETS: u64 = 10_000;
    let tags: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 7)], &[(0x88a8, 7), (0x8100, 9)]];
    let sources = ["198.51.100.7", "2001:db8:bad::7"];
    let kinds = [("tcp_syn", syn()), ("udp_small", udp())];
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let mut before = daemon.interface("wan0").unwrap();
        for blocked in [false, true] {
            for (source, (class, l4)) in sources.into_iter().flat_map(|source| kinds.clone().map(|kind| (source, kind)))
            {
                for vlans in tags {
                    let template = frame(&veth, source, l4.clone(), vlans);
                    let bytes = PACKETS * template.frame().unwrap().len() as u64;
                    send(sandbox, &veth, &template, PACKETS);
                    let after = at_rest(&daemon, "wan0", before.packets + PACKETS);
                    let place = format!("{source} {class}, {} tags, blocked: {blocked}", vlans.len());
                    let wanted = Classes::from([(class.to_owned(), (PACKETS, bytes))]);
                    assert_eq!(since(&classes(&before), &classes(&after)), wanted, "{place}");
                    let dropped = after.dropped_packets - before.dropped_packets;
                    assert_eq!(dropped, if blocked { PACKETS } else { 0 }, "{place}");
                    before = after;
                }
            }
            sources.iter().for_each(|source| drop(daemon.ok(&["block", source]).unwrap()));
        }
    })
    .unwrap();
}

#[test]
fn every_interface_has_its_own_slot_and_labels() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veths = [sandbox.veth("wan0", "peer0").unwrap(), sandbox.veth("wan1", "peer1").unwrap()];
        let daemon = Daemon::start(sandbox, &["wan0", "wan1"], SECTIONS).unwrap();
        daemon.ok(&["block", "198.51.100.0/24", "--reason", "a test"]).unwrap();
        let loads = [
            (&veths[0], frame(&veths[0], "198.51.100.7", udp(), &[]), 30_000),
            (&veths[1], frame(&veths[1], "192.0.2.7", syn(), &[]), 50_000),
        ];
        thread::scope(|scope| {
            for (veth, template, packets) in &loads {
                let flood = Flood { packets: Some(*packets), ..Flood::new(template.clone(), Vary::default()) };
                let (peer, ifindex) = (sandbox.peer_host(), veth.peer.ifindex);
                scope.spawn(move || {
                    peer.run(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap()).unwrap()
                });
            }
        });
        let [first, second] =
            [("wan0", 30_000), ("wan1", 50_000)].map(|(name, packets)| at_rest(&daemon, name, packets));
        assert_ne!(first.slot, second.slot);
        assert_eq!((first.ifindex, second.ifindex), (veths[0].here.ifindex, veths[1].here.ifindex));
        let only =
            |class: &str, packets: u64, bytes: u64| Classes::from([(class.to_owned(), (packets, packets * bytes))]);
        assert_eq!(classes(&first), only("udp_small", 30_000, 14 + 20 + 8 + 10));
        assert_eq!(classes(&second), only("tcp_syn", 50_000, 14 + 20 + 20 + 10));
        assert_eq!((first.dropped_packets, second.dropped_packets), (30_000, 0));
        metrics_agree(&daemon, &[first, second]);
        let (code, body) = daemon.http("/healthz").unwrap();
        assert_eq!((code, body.as_str()), (200, "ok\n"));
        assert_eq!(daemon.http("/nothing").unwrap().0, 404);
    })
    .unwrap();
}

/// At rest, what is scraped is what the status shows.
fn metrics_agree(daemon: &Daemon, interfaces: &[Interface]) {
    let series = prometheus::parse(&daemon.metrics().unwrap()).unwrap();
    let value = |key: String| *series.get(&key).unwrap_or_else(|| panic!("there is no {key}"));
    for interface in interfaces {
        let name = &interface.name;
        for class in TrafficClass::ALL {
            let class = class.as_str();
            let shown = interface.classes.iter().find(|shown| shown.class == class);
            let (packets, bytes, dropped) =
                shown.map_or((0, 0, 0), |shown| (shown.packets, shown.bytes, shown.dropped_bytes));
            let labels = format!("{{class={class:?},interface={name:?}}}");
            assert_eq!(value(format!("ftagent_packets_total{labels}")), packets as f64, "{labels}");
            assert_eq!(value(format!("ftagent_bytes_total{labels}")), bytes as f64, "{labels}");
            assert_eq!(value(format!("ftagent_dropped_bytes_total{labels}")), dropped as f64, "{labels}");
        }
        for reason in &interface.reasons {
            let wanted = format!("interface={name:?},reason={:?}", reason.reason);
            let sum = series
                .iter()
                .filter(|(key, _)| key.starts_with("ftagent_dropped_packets_total{") && key.contains(&wanted));
            assert_eq!(sum.map(|(_, value)| value).sum::<f64>(), reason.packets as f64, "{wanted}");
        }
        let verdict = |verdict| value(format!("ftagent_verdicts_total{{interface={name:?},verdict={verdict:?}}}"));
        assert_eq!(verdict("dropped"), interface.dropped_packets as f64);
        assert_eq!(verdict("dropped") + verdict("passed"), interface.packets as f64);
        assert_eq!(verdict("aborted") + verdict("sent"), 0.0);
        assert_eq!(value(format!("ftagent_xdp_info{{interface={name:?},mode=\"native\"}}")), 1.0);
    }
    assert_eq!(value("ftagent_list_entries{list=\"block\"}".to_owned()), 1.0);
    let labelled = |key: &&String| key.contains("interface=");
    let names = |key: &String| interfaces.iter().any(|i| key.contains(&format!("interface={:?}", i.name)));
    assert!(series.keys().filter(labelled).all(names), "only interfaces that are protected have series");
}

/// A socket behind the program, and who sent what reached it.
struct Behind(UdpSocket);

impl Behind {
    fn bind() -> Self {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Self(socket)
    }

    /// Sends one packet and returns whether it arrived.
    fn reached_by(&self, sandbox: &Sandbox, veth: &Veth, source: &str) -> bool {
        send(sandbox, veth, &frame(veth, source, udp(), &[]), 1);
        let mut sources = std::iter::from_fn(|| self.0.recv_from(&mut [0; 64]).ok());
        sources.any(|(_, from)| from.ip().to_canonical().to_string() == source)
    }
}

#[test]
fn allow_beats_block_and_unblock_lets_pass() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let behind = Behind::bind();
        let reached = |source: &str| behind.reached_by(sandbox, &veth, source);
        for (net, inside, other) in [
            ("198.51.100.0/24", "198.51.100.7", "198.51.100.8"),
            ("2001:db8:bad::/48", "2001:db8:bad::7", "2001:db8:bad::8"),
        ] {
            assert!(reached(inside), "nothing is listed yet");
            daemon.ok(&["block", net, "--for", "10m", "--reason", "a test"]).unwrap();
            assert!(!reached(inside) && !reached(other), "{net} is blocked");
            daemon.ok(&["allow", inside, "--reason", "a customer"]).unwrap();
            assert!(reached(inside) && !reached(other), "the allow entry beats the block of {net}");
            let rules = daemon.rules().unwrap();
            assert!(rules.block.iter().any(|rule| rule.prefix.to_string() == net && rule.record.reason == "a test"));
            assert!(rules.allow.iter().any(|rule| rule.prefix.addr().to_string() == inside));
            assert!(daemon.refused(&["unblock", other]).unwrap().contains(net), "it is named what blocks it");
            daemon.ok(&["allow", "--remove", inside]).unwrap();
            assert!(!reached(inside), "without the allow entry the block is back");
            daemon.ok(&["unblock", net]).unwrap();
            assert!(reached(inside) && reached(other), "{net} is not blocked any more");
        }
        let overruled = |i: &Interface| i.overruled == 2;
        let interface = daemon.wait_for_interface("wan0", FIVE_SECONDS, overruled).unwrap();
        assert_eq!(interface.dropped_packets, 8, "{:?}", interface.reasons);
    })
    .unwrap();
}

#[test]
fn what_must_stay_reachable_is_not_blocked() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let cases = [
            ("10.77.0.1", "an address of this host"),
            ("10.77.0.0/24", "an address of this host"),
            ("fd77::1", "an address of this host"),
            ("10.77.0.2", "the gateway of the default route"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("0.0.0.0/0", "covers too much of the Internet"),
            ("::/0", "covers too much of the Internet"),
            ("203.0.113.9", "the peer of the SSH session that asks for it"),
            ("203.0.113.0/24", "the peer of the SSH session that asks for it"),
        ];
        for (prefix, why) in cases {
            let mut command = daemon.command(&["block", prefix]).unwrap();
            let output = command.env("SSH_CONNECTION", "203.0.113.9 50000 10.77.0.1 22").output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{prefix} was blocked");
            assert!(said.contains(why) && said.contains("--force"), "{prefix}: {said}");
        }
        assert!(daemon.rules().unwrap().block.is_empty(), "what is refused changes nothing");
        let behind = Behind::bind();
        assert!(behind.reached_by(sandbox, &veth, "10.77.0.2"));
        daemon.ok(&["block", "10.77.0.2", "--force", "--for", "1m"]).unwrap();
        assert!(!behind.reached_by(sandbox, &veth, "10.77.0.2"), "who insists gets it");
        daemon.ok(&["unblock", "10.77.0.2"]).unwrap();
        wait_for("the gateway", FIVE_SECONDS, || behind.reached_by(sandbox, &veth, "10.77.0.2").then_some(())).unwrap();
    })
    .unwrap();
}
