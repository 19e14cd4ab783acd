//! Customers from several addresses, who come at a steady rate whether or not those before them were served.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ftagent_tests::{
    sandbox::{Host, Sandbox, Veth},
    traffic::{Program, Receiver},
};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
    time::{TimeVal, TimeValLike as _},
};

/// Addresses that customers have: the daemon knows a few flows of each, and wants dozens before it makes rules.
const ADDRESSES: u8 = 32;
/// Between two customers.
const EVERY: Duration = Duration::from_micros(6250);
/// Who waits longer was not served.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a customer asks for, and the length of what it gets, bytes.
const REQUEST: &[u8] = b"GET /catalogue/index.html HTTP/1.1\r\nHost: shop.example\r\nAccept: text/html\r\n\r\n";
const ANSWER: usize = 12_000;
/// Connections that wait to be accepted.
const BACKLOG: &str = "128";

/// A customer's visit.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// When it began, after the first of its crowd.
    pub at: Duration,
    /// Milliseconds until the answer; infinite where none came.
    pub took_ms: f64,
}

/// Who connects to a server, at the far end of a veth.
pub struct Crowd {
    sources: Vec<Ipv4Addr>,
    server: SocketAddrV4,
    /// What XDP sends back arrives at a program only.
    _answers: Receiver,
}

impl Crowd {
    /// Gives the far end its addresses. Before anything is attached to the near one.
    pub fn behind(sandbox: &Sandbox, veth: &Veth, port: u16) -> Result<Self> {
        sandbox.widen(veth)?;
        let [a, b, c, _] = veth.peer.v4.octets();
        let sources: Vec<Ipv4Addr> = (0..ADDRESSES).map(|i| Ipv4Addr::new(a, b, c, 100 + i)).collect();
        let (here, peer, mac) = (&veth.here.name, &veth.peer.name, veth.peer.mac);
        for source in &sources {
            sandbox.peer_command(&format!("ip addr add {source}/24 dev {peer}"))?;
            sandbox.command(&format!("ip neigh replace {source} lladdr {mac} dev {here} nud permanent"))?;
        }
        // What is answered to forged sources ends here, as early as it can.
        sandbox.peer_command("nft add table netdev strays")?;
        let chain = format!("nft add chain netdev strays in {{ type filter hook ingress device {peer} priority 0 ; }}");
        sandbox.peer_command(&chain)?;
        sandbox.peer_command(&format!("nft add rule netdev strays in ip daddr != {a}.{b}.{c}.0/24 drop"))?;
        let _answers = sandbox.peer(|| Receiver::attach(peer, Program::Pass))??;
        Ok(Self { sources, server: SocketAddrV4::new(veth.here.v4, port), _answers })
    }

    /// The server.
    pub fn server(&self) -> SocketAddr {
        self.server.into()
    }

    /// Visits for a time; returns those, in no order.
    pub fn come(&self, host: &Host, duration: Duration) -> Result<Vec<Visit>> {
        let visits = Mutex::new(Vec::new());
        let note = |at, took: Result<f64>| {
            let visit = Visit { at, took_ms: took.unwrap_or(f64::INFINITY) };
            visits.lock().unwrap_or_else(PoisonError::into_inner).push(visit);
        };
        host.run(|| {
            let begun = Instant::now();
            thread::scope(|scope| {
                for (i, &source) in (0u32..).zip(self.sources.iter().cycle()) {
                    let at = EVERY * i;
                    if at >= duration {
                        return;
                    }
                    thread::sleep(at.saturating_sub(begun.elapsed()));
                    scope.spawn(move || note(at, visit(source, self.server)));
                }
            });
        })?;
        Ok(visits.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Connects, asks, and waits for the answer.
fn visit(source: Ipv4Addr, server: SocketAddrV4) -> Result<f64> {
    let begun = Instant::now();
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::milliseconds(PATIENCE.as_millis().try_into()?);
    // It bounds connect() too (socket(7)).
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(server))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = vec![0; ANSWER];
    stream.read_exact(&mut answer)?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Answers whoever connects, one after the other, for as long as the process lives.
pub fn serve(address: SocketAddr) -> Result<()> {
    fs::write("/proc/sys/net/core/somaxconn", BACKLOG).context("net.core.somaxconn")?;
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _gone = answer(&mut stream);
        }
    });
    Ok(())
}

fn answer(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; REQUEST.len()];
    stream.read_exact(&mut request)?;
    Ok(stream.write_all(&[b'x'; ANSWER])?)
}

/// Returns the value below which a part of the values lies.
pub fn part(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
