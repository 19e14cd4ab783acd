//! The guard in the running daemon: armed where calm traffic proved that it is right, and there alone.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Program, Receiver, vectors},
};

const LEARNING: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n";
const SERVED: u16 = 8080;
const REDIRECTED: u16 = 9090;

/// Returns what it gets, for as long as the sandbox lives.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut stream, mut bytes) = (stream, Vec::new());
                if stream.read_to_end(&mut bytes).is_ok() {
                    let _gone = stream.write_all(&bytes);
                }
            });
        }
    });
}

/// A customer: sends, and wants it back. Returns how long it took.
fn visit(server: SocketAddr, length: usize) -> Duration {
    let (begun, sent) = (Instant::now(), vec![7; length]);
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    assert_eq!(came.len(), sent.len());
    begun.elapsed()
}

fn syns(veth: &Veth, port: u16) -> Flood {
    let mut flood = vectors::find("syn_flood").unwrap().flood(&vectors::Link::to_here(veth, false));
    if let L4::Tcp { dport, .. } = &mut flood.template.l4 {
        *dport = port;
    }
    Flood { pps: Some(50_000), duration: Some(Duration::from_secs(30)), ..flood }
}

/// Customers in calm, then in a flood of SYNs to the same port. Returns the daemon's log.
fn log_of_a_flood(redirect: bool) -> String {
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
        sandbox.peer_command("ethtool -K peer0 tx off").unwrap();
        let port = if redirect { REDIRECTED } else { SERVED };
        if redirect {
            sandbox.command("nft add table ip nat").unwrap();
            sandbox.command("nft add chain ip nat before { type nat hook prerouting priority -100 ; }").unwrap();
            sandbox
                .command(&format!("nft add rule ip nat before tcp dport {REDIRECTED} redirect to :{SERVED}"))
                .unwrap();
        }
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        let server = |port| SocketAddr::new(IpAddr::V4(veth.here.v4), port);
        serve(server(SERVED));
        let calm = Instant::now();
        while calm.elapsed() < Duration::from_secs(6) {
            sandbox.peer(|| visit(server(port), 100_000)).unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        let (halt, flood, ifindex) = (Arc::new(AtomicBool::new(false)), syns(&veth, port), veth.peer.ifindex);
        let halted = Arc::clone(&halt);
        let sender = sandbox.peer_host().spawn(move || Generator::new(ifindex)?.run(&flood, &halted));
        wait_for("an incident", Duration::from_secs(10), || {
            daemon.ok(&["incidents"]).unwrap().contains("syn_flood").then_some(())
        })
        .unwrap();
        thread::sleep(Duration::from_secs(1));
        for _ in 0..20 {
            let took = sandbox.peer(|| visit(server(port), 20_000)).unwrap();
            assert!(took < Duration::from_secs(4), "a customer waited {took:?}");
        }
        halt.store(true, Relaxed);
        sender.join().unwrap().unwrap().unwrap();
        if !redirect {
            let over = || daemon.log().contains("armed for 0 ports").then_some(());
            wait_for("the guard's end", Duration::from_secs(40), over).unwrap();
        }
        daemon.log()
    })
    .unwrap()
}

#[test]
fn the_guard_is_armed_in_a_syn_flood_and_disarmed_after_it() {
    require_root!();
    let log = log_of_a_flood(false);
    assert!(log.contains("The guard is armed for 1 ports"), "{log}");
}

#[test]
fn a_port_whose_sockets_are_elsewhere_is_never_guarded() {
    require_root!();
    let log = log_of_a_flood(true);
    assert!(!log.contains("The guard is armed"), "{log}");
}
