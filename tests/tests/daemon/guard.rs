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

use ftagent::{
    decide::guard::{Ports, Transport},
    serve::protocol::GuardPort,
};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Program, Receiver, Sent, vectors},
};

pub(super) const LEARNING: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n";
const SERVED: u16 = 8080;
const REDIRECTED: u16 = 9090;

/// Returns what it gets, for as long as the sandbox lives.
pub(super) fn serve(address: SocketAddr) {
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
pub(super) fn visit(server: SocketAddr, length: usize) -> Duration {
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

pub(super) fn syns(veth: &Veth, port: u16) -> Flood {
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
        sandbox.widen(&veth).unwrap();
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
        let flooding = Flooding::begin(sandbox, &veth, syns(&veth, port));
        wait_for("an incident", Duration::from_secs(10), || {
            daemon.ok(&["incidents"]).unwrap().contains("syn_flood").then_some(())
        })
        .unwrap();
        thread::sleep(Duration::from_secs(1));
        for _ in 0..20 {
            let took = sandbox.peer(|| visit(server(port), 20_000)).unwrap();
            assert!(took < Duration::from_secs(4), "a customer waited {took:?}");
        }
        flooding.end();
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

/// Floods from the peer until the result is told to stop.
pub(super) struct Flooding {
    halt: Arc<AtomicBool>,
    sender: thread::JoinHandle<anyhow::Result<anyhow::Result<Sent>>>,
}

impl Flooding {
    pub(super) fn begin(sandbox: &Sandbox, veth: &Veth, flood: Flood) -> Self {
        let (halt, ifindex) = (Arc::new(AtomicBool::new(false)), veth.peer.ifindex);
        let halted = Arc::clone(&halt);
        let sender = sandbox.peer_host().spawn(move || Generator::new(ifindex)?.run(&flood, &halted));
        Self { halt, sender }
    }

    pub(super) fn end(self) -> Sent {
        self.halt.store(true, Relaxed);
        self.sender.join().unwrap().unwrap().unwrap()
    }
}

/// Returns what `status` says of a port.
pub(super) fn known(daemon: &Daemon, transport: Transport, ports: Ports) -> Option<GuardPort> {
    let guard = daemon.status().unwrap().guard?;
    guard.ports.into_iter().find(|port| (port.transport, port.ports) == (transport, ports))
}

fn is_armed(daemon: &Daemon) -> bool {
    daemon.status().unwrap().guard.is_some_and(|guard| guard.since_ms.is_some())
}

#[test]
fn a_restart_in_an_attack_disarms_nothing_and_forgets_nothing() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        sandbox.widen(&veth).unwrap();
        let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
        sandbox.peer_command("ethtool -K peer0 tx off").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        let server = SocketAddr::new(IpAddr::V4(veth.here.v4), SERVED);
        serve(server);
        let visits = |times: u32, pause: u64| {
            for _ in 0..times {
                sandbox.peer(|| visit(server, 100_000)).unwrap();
                thread::sleep(Duration::from_millis(pause));
            }
        };
        visits(120, 40);
        let validated =
            || known(&daemon, Transport::Tcp, Ports::One(SERVED)).is_some_and(|port| port.why_not.is_none());
        assert!(validated(), "{}", daemon.ok(&["status"]).unwrap());
        daemon.terminate().unwrap();
        daemon.launch(sandbox).unwrap();
        let restored =
            || known(&daemon, Transport::Tcp, Ports::One(SERVED)).filter(|port| port.why_not.is_none() && port.listens);
        wait_for("what was validated", Duration::from_secs(5), restored).unwrap();

        let flooding = Flooding::begin(sandbox, &veth, Flood { duration: None, ..syns(&veth, SERVED) });
        wait_for("the guard", Duration::from_secs(15), || is_armed(&daemon).then_some(())).unwrap();
        let shown = daemon.ok(&["status"]).unwrap();
        assert!(shown.contains("against syn_flood\n  cookies answer SYNs to tcp 8080\n"), "{shown}");
        let answers = || daemon.ok(&["status"]).unwrap().contains("\n  answered by the guard: ").then_some(());
        wait_for("answers that status counts", Duration::from_secs(5), answers).unwrap();
        daemon.kill().unwrap();
        visits(20, 0);
        let before = daemon.log().len();
        daemon.launch(sandbox).unwrap();
        let taken_over = daemon.log().split_off(before);
        assert!(taken_over.contains("armed for 1 ports by an earlier life"), "{taken_over}");
        visits(20, 0);
        wait_for("the guard of the new life", Duration::from_secs(25), || is_armed(&daemon).then_some(())).unwrap();
        visits(20, 0);
        assert!(!daemon.log()[before..].contains("armed for 0 ports"), "{}", daemon.log());
        flooding.end();
        let over = || daemon.log()[before..].contains("armed for 0 ports").then_some(());
        wait_for("the guard's end", Duration::from_secs(40), over).unwrap();
        assert!(daemon.ok(&["status"]).unwrap().contains("guard: not armed\n  may be armed for"));
    })
    .unwrap();
}

/// A new login: greetings both ways, then commands and their answers.
fn log_in(server: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut line = [0; 21];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"SSH-2.0-OpenSSH_9.2\r\n");
    for _ in 0..5 {
        stream.write_all(&line).unwrap();
        stream.read_exact(&mut line).unwrap();
    }
    begun.elapsed()
}

/// Greets, and returns what it gets.
fn serve_logins(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _gone = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
                let mut line = [0; 21];
                while stream.read_exact(&mut line).is_ok() && stream.write_all(&line).is_ok() {}
            });
        }
    });
}

/// With few logins in calm, the guard is never armed for the port, and something else has to help.
#[test]
fn a_new_login_works_while_its_port_is_flooded_with_syns() {
    require_root!();
    for busy in [false, true] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            sandbox.widen(&veth).unwrap();
            let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
            let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
            let server = SocketAddr::new(IpAddr::V4(veth.here.v4), 22);
            serve_logins(server);
            let calm = Instant::now();
            while calm.elapsed() < Duration::from_secs(6) {
                sandbox
                    .peer(|| (0..if busy { 10 } else { 1 }).for_each(|_| assert!(log_in(server) > Duration::ZERO)))
                    .unwrap();
                thread::sleep(Duration::from_millis(if busy { 20 } else { 1000 }));
            }
            let flooding = Flooding::begin(sandbox, &veth, Flood { duration: None, ..syns(&veth, 22) });
            wait_for("an incident", Duration::from_secs(15), || {
                daemon.ok(&["incidents"]).unwrap().contains("syn_flood").then_some(())
            })
            .unwrap();
            thread::sleep(Duration::from_secs(1));
            assert_eq!(is_armed(&daemon), busy, "{}", daemon.ok(&["status"]).unwrap());
            for _ in 0..20 {
                let took = sandbox.peer(|| log_in(server)).unwrap();
                assert!(took < Duration::from_secs(4), "busy: {busy}: a login took {took:?}");
            }
            flooding.end();
        })
        .unwrap();
    }
}
