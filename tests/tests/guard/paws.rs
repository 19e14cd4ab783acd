//! Connections that begin by a cookie live on: no segment of theirs is ever too old (RFC 7323, 5).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ftagent::bpf::guard::listener;
use ftagent_common::{guard::flags, reason::verdict};
use ftagent_tests::{require_root, sandbox::Sandbox};

use super::{BACKLOG_OVERFLOWS, Guarded, PORT, address, flood, scale_of, setting, under};

const CONNECTIONS: usize = 60;
/// How long each goes on.
const LASTS: Duration = Duration::from_secs(3);
/// Who waits this long is stalled.
const STALLED: Duration = Duration::from_secs(8);

#[test]
fn sixty_connections_through_the_guard_never_stall() {
    require_root!();
    for (v6, timestamps) in [(false, "0"), (false, "1"), (false, "2"), (true, "2")] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            setting("tcp_timestamps", timestamps);
            setting("tcp_syncookies", "1");
            let (mut guarded, _receiver) = Guarded::new(sandbox, &veth);
            let server = SocketAddr::new(address(&veth, v6), PORT);
            echo_each(server);
            guarded.guard.arm(PORT, listener(scale_of(&veth)));
            let with = if timestamps == "2" { flags::TIMESTAMPS } else { 0 };
            guarded.set(flags::SYN | flags::STATE | with);
            let syns = flood(&veth, v6, "syn_flood", PORT, 50_000);
            let (sent, rounds) = under(sandbox, &veth, &syns, || sandbox.peer(|| talk(server)).unwrap());
            let answered = guarded.counters().verdicts[verdict::TX as usize];
            assert!(sent > BACKLOG_OVERFLOWS && answered * 2 > sent, "{answered} answers to {sent} SYNs");
            assert_eq!(rounds.len(), CONNECTIONS);
            assert!(rounds.iter().all(|rounds| *rounds > 3), "timestamps {timestamps}, IPv6 {v6}: {rounds:?}");
        })
        .unwrap();
    }
}

/// Returns what comes, at once, on every connection, for as long as the sandbox lives.
fn echo_each(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Opens all connections at once and talks on each. Returns how often each went there and back.
fn talk(server: SocketAddr) -> Vec<u32> {
    let one = || {
        let mut stream = TcpStream::connect_timeout(&server, STALLED).unwrap();
        stream.set_read_timeout(Some(STALLED)).unwrap();
        let (begun, mut rounds) = (Instant::now(), 0);
        let (said, mut heard) = ([7; 1400], [0; 1400]);
        while begun.elapsed() < LASTS {
            stream.write_all(&said).unwrap();
            assert!(stream.read_exact(&mut heard).is_ok(), "a connection stalled");
            rounds += 1;
            thread::sleep(Duration::from_millis(20));
        }
        rounds
    };
    thread::scope(|scope| {
        let talks: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(one)).collect();
        talks.into_iter().map(|talk| talk.join().unwrap()).collect()
    })
}
