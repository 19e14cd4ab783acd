//! Who must not notice the flood: people who load pages, and the clock of this host.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    http::accept,
    sandbox::{Host, Sandbox, Veth},
};
use anyhow::{Result, ensure};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
    time::TimeVal,
};

/// Where pages are.
pub const WEB_PORT: u16 = 8080;
/// The protocol of clocks.
const NTP_PORT: u16 = 123;
/// Customers come from so many networks.
const NETWORKS: u8 = 24;
/// Who waits longer than this has given up, seconds.
const PATIENCE_S: i64 = 1;

/// Everybody who is served, and how.
#[derive(Debug, Default)]
pub struct Customers {
    pages: Requests,
    clocks: Requests,
}

/// What became of one kind of request.
#[derive(Debug, Default)]
struct Requests {
    answered: AtomicU64,
    failed: AtomicU64,
    took: Mutex<Vec<Duration>>,
}

/// What was answered since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Pages that were loaded.
    pub pages: u64,
    /// Half of them took no longer.
    pub median: Duration,
    /// Answers of the time server.
    pub clocks: u64,
}

impl Requests {
    fn note(&self, result: &Result<()>, took: Duration) {
        if result.is_err() {
            self.failed.fetch_add(1, Relaxed);
            return;
        }
        self.answered.fetch_add(1, Relaxed);
        self.took.lock().unwrap_or_else(PoisonError::into_inner).push(took);
    }

    fn median(&self) -> Duration {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner));
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or_default()
    }
}

impl Customers {
    /// Opens the shop on this host and sends customers from the other, until `stop`. This host asks
    /// a time server there, too: its answers come from the port that a reflection comes from.
    ///
    /// # Errors
    /// Where sockets cannot be made.
    pub fn begin(sandbox: &Sandbox, veth: &Veth, stop: &Arc<AtomicBool>) -> Result<Arc<Self>> {
        for network in 0..NETWORKS {
            sandbox.peer_command(&format!("ip addr add {}/32 dev {}", customer(network), veth.peer.name))?;
        }
        let server = SocketAddrV4::new(veth.here.v4, WEB_PORT);
        serve_pages(server.into(), Arc::clone(stop))?;
        let time_server = SocketAddr::new(veth.peer.v4.into(), NTP_PORT);
        let answers = sandbox.peer(|| UdpSocket::bind(time_server))??;
        // So often it looks whether to stop.
        answers.set_read_timeout(Some(Duration::from_millis(200)))?;
        serve_time(answers, Arc::clone(stop));
        let customers = Arc::new(Self::default());
        let (all, halt) = (Arc::clone(&customers), Arc::clone(stop));
        let _loads = sandbox.peer_host().spawn(move || load_pages(&all.pages, server, &halt));
        let (all, halt) = (Arc::clone(&customers), Arc::clone(stop));
        let here: &Host = sandbox.here();
        let _asks = here.spawn(move || ask_time(&all.clocks, time_server, &halt));
        Ok(customers)
    }

    /// Returns how many requests of both kinds failed since the beginning.
    pub fn failed(&self) -> u64 {
        self.pages.failed.load(Relaxed) + self.clocks.failed.load(Relaxed)
    }

    /// Returns what was answered since this was last asked.
    pub fn take(&self) -> Served {
        Served {
            pages: self.pages.answered.swap(0, Relaxed),
            median: self.pages.median(),
            clocks: self.clocks.answered.swap(0, Relaxed),
        }
    }
}

/// The address of the customers of one network.
fn customer(network: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, network, 2)
}

fn load_pages(requests: &Requests, server: SocketAddrV4, stop: &AtomicBool) {
    for network in (0..NETWORKS).cycle() {
        if stop.load(Relaxed) {
            return;
        }
        let begun = Instant::now();
        requests.note(&page(customer(network), server), begun.elapsed());
        sleep(Duration::from_millis(15));
    }
}

fn page(from: Ipv4Addr, server: SocketAddrV4) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // A limit on sending is one on connecting, too: socket(7).
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE_S, 0))?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(server))?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not an answer");
    Ok(())
}

fn serve_pages(at: SocketAddr, stop: Arc<AtomicBool>) -> Result<()> {
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        accept(&listener, &stop, |mut stream| {
            let mut request = [0; 512];
            // A client that goes away gets no answer; it counts that itself.
            let _answered = stream.read(&mut request).and_then(|_| {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n")
            });
        });
    });
    Ok(())
}

/// A question of a clock (RFC 5905): version 4, client.
fn question() -> [u8; 48] {
    let mut packet = [0; 48];
    packet[0] = 0x23;
    packet
}

fn ask_time(requests: &Requests, server: SocketAddr, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        requests.note(&time(server), begun.elapsed());
        sleep(Duration::from_millis(100));
    }
}

fn time(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(PATIENCE_S.unsigned_abs())))?;
    socket.connect(server)?;
    socket.send(&question())?;
    let mut answer = [0; 64];
    ensure!(socket.recv(&mut answer)? == 48 && answer[0] == 0x24, "not an answer");
    Ok(())
}

fn serve_time(socket: UdpSocket, stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut question = [0; 64];
        while !stop.load(Relaxed) {
            if let Ok((48, from)) = socket.recv_from(&mut question) {
                let mut answer = [0; 48];
                // Version 4, server, stratum 2.
                (answer[0], answer[1]) = (0x24, 2);
                let _sent = socket.send_to(&answer, from);
            }
        }
    });
}
