//! Traffic whose sockets are not where the program looks: in containers, behind translation, on a
//! macvlan. The guard is never armed for it, and none of it loses a packet in a flood.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use ftagent::decide::guard::{Ports, Transport};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    require_root,
    sandbox::{Host, Sandbox, Veth},
    traffic::{Flood, L4, Program, Receiver, Values, vectors},
};

use super::guard::{Flooding, LEARNING, known, serve, visit};

/// A server of this host; the macvlan has one on the same port.
const OWN: u16 = 8080;
/// A process of this host takes connections and passes them on to the container.
const PROXIED: u16 = 8081;
/// Translated to the container.
const TRANSLATED: u16 = 8082;
/// In the container.
const INSIDE: u16 = 80;
/// Where the container itself connects to, in the peer.
const OUTSIDE: u16 = 7000;
const CONTAINER: &str = "172.18.0.2";
const MACVLAN: &str = "10.77.0.9";

/// As docker-proxy does.
fn forward(from: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(from).unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(to) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ended = std::io::copy(&mut from, &mut to);
                    let _gone = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

/// A container behind a bridge-like link, with a translated port and masqueraded egress.
fn container(sandbox: &Sandbox) -> Host {
    let container = sandbox.one_more().unwrap();
    sandbox.command(&format!("ip link add ct0 type veth peer name eth0 netns {}", container.path())).unwrap();
    for line in ["ip addr add 172.18.0.1/24 dev ct0", "ip link set ct0 up", "sysctl -qw net.ipv4.ip_forward=1"] {
        sandbox.command(line).unwrap();
    }
    let address = format!("ip addr add {CONTAINER}/24 dev eth0");
    for line in [&address, "ip link set eth0 up", "ip route add default via 172.18.0.1", "ethtool -K eth0 tx off"] {
        container.command(line).unwrap();
    }
    let translate = format!("nft add rule ip nat before iif wan0 tcp dport {TRANSLATED} dnat to {CONTAINER}:{INSIDE}");
    for line in [
        "nft add table ip nat",
        "nft add chain ip nat before { type nat hook prerouting priority -100 ; }",
        "nft add chain ip nat after { type nat hook postrouting priority 100 ; }",
        "nft add rule ip nat after oif wan0 masquerade",
        &translate,
    ] {
        sandbox.command(line).unwrap();
    }
    container.run(|| serve(SocketAddr::new(CONTAINER.parse().unwrap(), INSIDE))).unwrap();
    container
}

/// A host with an address and a MAC of its own on the protected interface.
fn macvlan(sandbox: &Sandbox, veth: &Veth) -> Host {
    const MAC: &str = "02:f7:00:00:00:99";
    let host = sandbox.one_more().unwrap();
    let path = host.path();
    sandbox.command(&format!("ip link add mv0 link wan0 address {MAC} type macvlan mode bridge")).unwrap();
    sandbox.command(&format!("ip link set mv0 netns {path}")).unwrap();
    let gateway = veth.peer.v4;
    for line in [
        &format!("ip addr add {MACVLAN}/24 dev mv0"),
        "ip link set mv0 up",
        &format!("ip neigh replace {gateway} lladdr {} dev mv0 nud permanent", veth.peer.mac),
        &format!("ip route add default via {gateway}"),
        "ethtool -K mv0 tx off",
    ] {
        host.command(line).unwrap();
    }
    sandbox.peer_command(&format!("ip neigh replace {MACVLAN} lladdr {MAC} dev peer0 nud permanent")).unwrap();
    host.run(|| serve(SocketAddr::new(MACVLAN.parse().unwrap(), OWN))).unwrap();
    host
}

/// Customers that come and go until told to stop; a failed visit panics.
struct Customers {
    stop: Arc<AtomicBool>,
    visits: Arc<AtomicU32>,
    all: Vec<thread::JoinHandle<anyhow::Result<()>>>,
}

impl Customers {
    fn of(servers: &[(&Host, SocketAddr)]) -> Self {
        let (stop, visits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let one = |(host, server): &(&Host, SocketAddr)| {
            let (stop, visits, server) = (Arc::clone(&stop), Arc::clone(&visits), *server);
            host.spawn(move || {
                while !stop.load(Relaxed) {
                    visit(server, 60_000);
                    visits.fetch_add(1, Relaxed);
                    thread::sleep(Duration::from_millis(50));
                }
            })
        };
        let all = servers.iter().map(one).collect();
        Self { stop, visits, all }
    }

    /// Waits for so many more visits, and that no customer has failed.
    fn wait_for(&self, more: u32) {
        let wanted = self.visits.load(Relaxed) + more;
        let done =
            || (self.visits.load(Relaxed) >= wanted || self.all.iter().any(|one| one.is_finished())).then_some(());
        wait_for("visits", Duration::from_secs(60), done).unwrap();
    }

    fn end(self) {
        self.stop.store(true, Relaxed);
        self.all.into_iter().for_each(|one| one.join().unwrap().unwrap());
    }
}

/// A connection of the container to the world, open through everything: words there and back.
fn talk(host: &Host, server: SocketAddr, stop: &Arc<AtomicBool>) -> thread::JoinHandle<anyhow::Result<u32>> {
    let stop = Arc::clone(stop);
    host.spawn(move || {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut rounds, mut heard) = (0, [0; 1000]);
        while !stop.load(Relaxed) {
            stream.write_all(&[7; 1000]).unwrap();
            assert!(stream.read_exact(&mut heard).is_ok(), "the container's own connection stalled");
            rounds += 1;
            thread::sleep(Duration::from_millis(10));
        }
        rounds
    })
}

/// Returns each piece at once.
fn echo(address: SocketAddr) {
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

/// A flood to all ports of the test, and to an ephemeral one.
fn flood(veth: &Veth, name: &str, to: Values, dport: u16) -> Flood {
    let mut flood = vectors::find(name).unwrap().flood(&vectors::Link::to_here(veth, false));
    if let L4::Tcp { dport: at, .. } = &mut flood.template.l4 {
        *at = dport;
    }
    flood.vary.dport = to;
    Flood { pps: Some(30_000), duration: None, ..flood }
}

#[test]
fn what_has_its_sockets_elsewhere_is_never_guarded_and_loses_nothing() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        sandbox.widen(&veth).unwrap();
        let _answers = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
        sandbox.peer_command("ethtool -K peer0 tx off").unwrap();
        let (inner, beside) = (container(sandbox), macvlan(sandbox, &veth));
        let at = |port| SocketAddr::new(IpAddr::V4(veth.here.v4), port);
        let (outside, aside) =
            (SocketAddr::new(veth.peer.v4.into(), OUTSIDE), SocketAddr::new(MACVLAN.parse().unwrap(), OWN));
        serve(at(OWN));
        forward(at(PROXIED), SocketAddr::new(CONTAINER.parse().unwrap(), INSIDE));
        sandbox.peer(|| echo(outside)).unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], LEARNING).unwrap();
        let peer = sandbox.peer_host();
        let customers = Customers::of(&[(peer, at(OWN)), (peer, at(PROXIED)), (peer, at(TRANSLATED)), (peer, aside)]);
        let stop = Arc::new(AtomicBool::new(false));
        let talks: Vec<_> = (0..6).map(|_| talk(&inner, outside, &stop)).collect();

        let may = |ports| known(&daemon, Transport::Tcp, ports).map(|port| (port.asked, port.why_not));
        let calm = || {
            let enough = |ports| may(ports).is_some_and(|(asked, _)| asked >= 1000.0);
            let all = [Ports::One(OWN), Ports::One(PROXIED), Ports::One(TRANSLATED), Ports::Ephemeral];
            all.into_iter().all(enough).then_some(())
        };
        let known_in_time = wait_for("a thousand packets of each", Duration::from_secs(90), calm);
        assert!(known_in_time.is_ok(), "{}", daemon.ok(&["status"]).unwrap());
        for (ports, valid) in [
            (Ports::One(OWN), true),
            (Ports::One(PROXIED), true),
            (Ports::One(TRANSLATED), false),
            (Ports::Ephemeral, false),
        ] {
            let (_, why_not) = may(ports).unwrap();
            assert_eq!(why_not.is_none(), valid, "{ports}: {why_not:?}");
        }
        let floods = [
            flood(&veth, "syn_flood", Values::Cycle(OWN, TRANSLATED), OWN),
            // Segments of no connection, to where the container's own are.
            flood(&veth, "ack_flood", Values::Between(32_768, 60_999), 40_000),
        ];
        for flood in floods {
            let flooding = Flooding::begin(sandbox, &veth, flood);
            let guard = wait_for("the guard", Duration::from_secs(30), || {
                daemon.status().unwrap().guard.filter(|guard| guard.since_ms.is_some())
            });
            let guard = guard.unwrap_or_else(|error| panic!("{error}: {}", daemon.log()));
            assert_eq!(guard.state, [Ports::One(OWN), Ports::One(PROXIED)].into());
            customers.wait_for(60);
            flooding.end();
            wait_for("the guard's end", Duration::from_secs(60), || {
                daemon.status().unwrap().guard.is_some_and(|guard| guard.since_ms.is_none()).then_some(())
            })
            .unwrap();
        }
        // The same port on the macvlan, while it is armed for this host's own addresses.
        let mut to_it = flood(&veth, "syn_flood", Values::Fixed, OWN);
        to_it.template.dst = MACVLAN.parse().unwrap();
        to_it.template.dst_mac = "02:f7:00:00:00:99".parse().unwrap();
        let flooding = Flooding::begin(sandbox, &veth, to_it);
        customers.wait_for(60);
        flooding.end();
        stop.store(true, Relaxed);
        let rounds: Vec<u32> = talks.into_iter().map(|talk| talk.join().unwrap().unwrap()).collect();
        assert!(rounds.iter().all(|rounds| *rounds > 100), "{rounds:?}");
        customers.end();
        drop(beside);
    })
    .unwrap();
}
