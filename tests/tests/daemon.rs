//! The daemon as operators and accidents treat it: bad input, signals, vanishing interfaces,
//! broken lists. What it refuses it explains, and what it cannot do leaves things as they were.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "daemon/audit.rs"]
mod audit;
#[path = "daemon/capture.rs"]
mod capture;
#[path = "daemon/detection.rs"]
mod detection;
#[path = "daemon/disk.rs"]
mod disk;
#[path = "daemon/elsewhere.rs"]
mod elsewhere;
#[path = "daemon/feeds.rs"]
mod feeds;
#[path = "daemon/guard.rs"]
mod guard;
#[path = "daemon/held.rs"]
mod held;
#[path = "daemon/knowledge.rs"]
mod knowledge;
#[path = "daemon/learning.rs"]
mod learning;
#[path = "daemon/life.rs"]
mod life;
#[path = "daemon/nftables.rs"]
mod nftables;
#[path = "daemon/probation.rs"]
mod probation;
#[path = "daemon/refusals.rs"]
mod refusals;
#[path = "daemon/rules.rs"]
mod rules;
#[path = "daemon/survive.rs"]
mod survive;
#[path = "daemon/unwritable.rs"]
mod unwritable;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use ftagent::bpf::attach;
use ftagent_tests::{
    daemon::{BPFFS, Daemon},
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Template, Vary},
};

const FIVE_SECONDS: Duration = Duration::from_secs(5);

/// Returns everything that is pinned, sorted.
fn pins() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(BPFFS), &mut found);
    found.sort();
    found
}

/// Returns the id of the XDP program of an interface.
fn program(interface: &str) -> Option<u32> {
    let attached = attach::query(attach::ifindex(interface)?).unwrap();
    attached.map(|attached| attached.program)
}

/// Sends UDP packets from a source to the host under test.
fn send(sandbox: &Sandbox, veth: &Veth, source: &str, packets: u64) {
    let src: IpAddr = source.parse().unwrap();
    let template = Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src,
        dst: if src.is_ipv6() { veth.here.v6.into() } else { veth.here.v4.into() },
        ttl: 64,
        fragment: None,
        l4: L4::Udp { sport: 40_000, dport: 4242 },
        payload: b"0123456789".to_vec(),
    };
    let flood = Flood { packets: Some(packets), ..Flood::new(template, Vary::default()) };
    let ifindex = veth.peer.ifindex;
    let sent = sandbox.peer(|| Generator::new(ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap());
    assert_eq!(sent.unwrap().packets, packets);
}

/// Sends one packet from a source and returns whether the datapath dropped it.
fn drops(sandbox: &Sandbox, veth: &Veth, daemon: &Daemon, source: &str) -> bool {
    let name = &veth.here.name;
    let before = daemon.interface(name).unwrap();
    send(sandbox, veth, source, 1);
    let after = daemon.wait_for_interface(name, FIVE_SECONDS, |i| i.packets > before.packets).unwrap();
    assert_eq!(after.packets, before.packets + 1);
    after.dropped_packets > before.dropped_packets
}
