//! What the daemon learns of its host: the socket table, and a baseline that outlives it.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};

use ftagent::sense::{
    host::diag::{Reading, SocketTable},
    signals::{HostSignals, PortSockets, block_of},
};
use ftagent_tests::{daemon::Daemon, require_root, sandbox::Sandbox};

use super::{FIVE_SECONDS, send};

const SECTIONS: &str = "[services]\ndetect = false\n[learning]\ntrust_after = \"2s\"\n";

/// Reads the table until the kernel has brought all connections to their final state.
fn read(table: &mut SocketTable, now_s: u64, done: impl Fn(&Reading) -> bool) -> Reading {
    let look = || Some(table.read(now_s * 1_000_000_000).unwrap()).filter(&done);
    ftagent_tests::daemon::wait_for("the sockets", FIVE_SECONDS, look).unwrap()
}

#[test]
fn connections_that_are_held_and_not_used_are_seen() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut table = SocketTable::default();
        for address in [SocketAddr::new(veth.here.v4.into(), 8080), SocketAddr::new(veth.here.v6.into(), 8081)] {
            let listener = TcpListener::bind(address).unwrap();
            let held: Vec<TcpStream> =
                sandbox.peer(|| (0..30).map(|_| TcpStream::connect(address).unwrap()).collect()).unwrap();
            let accepted: Vec<TcpStream> = held.iter().map(|_| listener.accept().unwrap().0).collect();
            // Ten of them say a little, as slow attacks do, and ten more send a whole request.
            let requests = [vec![b'x'; 20], vec![b'x'; HostSignals::STALLED_BYTES as usize]];
            for (streams, bytes) in held.chunks(10).zip(&requests) {
                streams.iter().for_each(|mut stream| stream.write_all(bytes).unwrap());
            }
            // What this host begins itself is nobody's attack.
            let elsewhere = sandbox.peer(|| TcpListener::bind(SocketAddr::new(veth.peer.v4.into(), 9000))).unwrap();
            let _own = TcpStream::connect(elsewhere.unwrap().local_addr().unwrap()).unwrap();
            let port = address.port();
            let of_port = |reading: &Reading| reading.ports.iter().find(|sums| sums.port == port).copied();
            let peer = if address.is_ipv4() { veth.peer.v4.into() } else { veth.peer.v6.into() };
            let young = read(&mut table, 100, |reading| {
                of_port(reading).is_some_and(|sums| sums.established == 30) && reading.peers.contains(&block_of(peer))
            });
            let young = of_port(&young).unwrap();
            let expected = PortSockets { port, established: 30, scales: young.scales, ..PortSockets::default() };
            assert_eq!(young, expected);
            let aged = of_port(&table.read(111_000_000_000).unwrap()).unwrap();
            assert_eq!(aged, PortSockets { stalled: 20, stalled_peers: 1, ..expected });
            drop((held, accepted));
        }
    })
    .unwrap();
}

/// Returns the files of the state directory whose names begin like this.
fn files(daemon: &Daemon, begin: &str) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(daemon.path("state")).unwrap().map(|entry| entry.unwrap());
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(begin)));
    ours.map(|entry| entry.path()).collect()
}

#[test]
fn what_was_learned_outlives_the_daemon_and_a_broken_file_is_kept_aside() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        send(sandbox, &veth, "198.51.100.7", 50);
        daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        daemon.terminate().unwrap();
        let baseline = daemon.path("state").join("baseline.json");
        let learned = fs::read_to_string(&baseline).unwrap();
        let from = daemon.log().len();
        daemon.launch(sandbox).unwrap();
        daemon.wait_for_log(from, "What is normal here was restored").unwrap();
        daemon.terminate().unwrap();
        assert!(!daemon.log()[from..].contains("the baseline is trusted from now on"), "it was trusted all along");
        let other_version = learned.replacen("\"version\":1", "\"version\":99", 1);
        for (broken, told) in [(&learned[..learned.len() / 2], "cannot be read"), (&other_version, "of version 99")] {
            let before = files(&daemon, "baseline.json.bad-");
            fs::write(&baseline, broken).unwrap();
            daemon.launch(sandbox).unwrap();
            let warnings = daemon.status().unwrap().warnings;
            let warned = warnings.iter().any(|w| w.contains(told) && w.contains("learning starts anew"));
            assert!(warned, "{warnings:#?}");
            let mut kept = files(&daemon, "baseline.json.bad-");
            kept.retain(|file| !before.contains(file));
            assert_eq!(kept.len(), 1, "{kept:?}");
            assert_eq!(fs::read_to_string(kept.first().unwrap()).unwrap(), broken);
            daemon.terminate().unwrap();
        }
        // A start after that has nothing to complain of.
        daemon.launch(sandbox).unwrap();
        assert_eq!(daemon.status().unwrap().warnings, Vec::<String>::new());
        fs::remove_file(&baseline).unwrap();
        fs::create_dir(&baseline).unwrap();
        let from = daemon.log().len();
        daemon.terminate().unwrap();
        daemon.wait_for_log(from, "the baseline cannot be saved").unwrap();
        daemon.launch(sandbox).unwrap();
    })
    .unwrap();
}
