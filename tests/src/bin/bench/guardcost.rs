//! What the TCP guard costs a packet: the same program with the stage and without it, in a namespace with
//! real sockets. Beside it a program that looks the packet's socket up and does nothing else.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use ftagent::{
    bpf::{
        guard::{KernelGuard, listener},
        rules::compile,
    },
    rule::{Action, Rate},
};
use ftagent_common::{
    abi::features,
    guard::{Guard, flags, port},
    reason::verdict,
};
use ftagent_tests::sandbox::Sandbox;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};

use crate::{
    frames::{self, Kind},
    measure::{self, Bench, Input, Subject},
    ours::Ours,
    report::Row,
};

/// What the guard may cost packets of classes that are attacked, ns.
const ATTACKED: f64 = 150.0;
/// And all others: nothing, as far as it can be measured.
const OTHERS: f64 = 1.0;
/// The port that is attacked, one that nobody listens on, and one that nothing is armed for.
const PORT: u16 = 80;
const CLOSED: u16 = 81;
const CALM: u16 = 82;
/// Of UDP: where the frames go.
const UDP_PORT: u16 = 7777;
/// Sources of SYNs that are answered one by one.
const SOURCES: u32 = 1 << 10;

/// Sockets as long as they are measured.
struct Sockets {
    _listeners: [TcpListener; 2],
    _connection: TcpStream,
}

/// Gives the sandbox the addresses of the frames, who listens there, and a connection.
fn open(sandbox: &Sandbox) -> Result<Sockets> {
    for line in [
        "ip link set lo up".to_owned(),
        format!("ip addr add {}/32 dev lo", Ipv4Addr::from(frames::DST4)),
        format!("ip addr add {}/32 dev lo", Ipv4Addr::from(frames::SRC4)),
        format!("ip addr add {}/128 dev lo nodad", Ipv6Addr::from(frames::DST6)),
    ] {
        sandbox.command(&line)?;
    }
    // Every SYN is answered by a cookie, as in a flood.
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").context("net.ipv4.tcp_syncookies")?;
    let server = SocketAddrV4::new(frames::DST4.into(), PORT);
    let listeners = [TcpListener::bind(server)?, TcpListener::bind(SocketAddr::from((frames::DST6, PORT)))?];
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(client.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(frames::SRC4.into(), frames::CLIENT)))?;
    connect(client.as_raw_fd(), &SockaddrIn::from(server)).context("connecting over the loopback")?;
    Ok(Sockets { _listeners: listeners, _connection: client.into() })
}

fn arm(guard: &mut KernelGuard, armed: u32) -> Result<()> {
    guard.set_own([Ipv4Addr::from(frames::DST4).into(), Ipv6Addr::from(frames::DST6).into()])?;
    guard.arm(PORT, listener(Some(7)));
    guard.arm(CLOSED, port::STATE);
    guard.arm(UDP_PORT, port::UDP);
    guard.set(Guard {
        flags: armed | flags::TIMESTAMPS | flags::ALWAYS | flags::ORACLE,
        mss4: 1460,
        mss6: 1440,
        expires: u64::MAX,
        answers: compile::state(Action::RateLimit(Rate::Pps(u64::MAX)), 0, 250),
    });
    Ok(())
}

/// A kind of packets to another port.
fn to(kind: &Kind, port: u16) -> Kind {
    let at = if kind.family == 6 { 56 } else { 36 };
    let mut kind = kind.clone();
    kind.frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
    kind
}

/// Measures it at rest and armed.
pub fn rows(sandbox: &Sandbox, bench: &mut Bench, ours: &mut Ours, kinds: &[Kind]) -> Result<Vec<Row>> {
    let _sockets = open(sandbox)?;
    let find = |name: &str| kinds.iter().find(|kind| kind.name == name).with_context(|| format!("no kind `{name}`"));
    let (syn, connection, udp) = (find("tcp syn")?, find("tcp ack")?, find("udp small")?);
    // From the same address, by another port than the connection's.
    let mut ack = connection.clone();
    ack.frame[34..36].copy_from_slice(&(frames::CLIENT + 1).to_be_bytes());
    let ack = &ack;
    let mut without = Ours::with(features::ALL & !features::GUARD)?;
    let mut guard = ours.guard()?;
    let lookups = measure::lookups()?;
    let mut stage = Stage { bench, ours, without: &mut without, lookups: &lookups, rows: Vec::new() };
    let (pass, drop) = (verdict::PASS, verdict::DROP);

    arm(&mut guard, 0)?;
    for kind in [syn, ack, udp] {
        stage.measure(format!("at rest: {}", kind.name), kind, pass, OTHERS)?;
    }
    arm(&mut guard, flags::SYN | flags::STATE)?;
    for kind in [udp, find("icmp echo")?, find("ipv6 udp small")?, find("arp")?] {
        stage.measure(format!("armed for TCP: {}", kind.name), kind, pass, OTHERS)?;
    }
    let of = |make: fn(u32) -> Vec<u8>| -> Vec<Vec<u8>> { (0..SOURCES).map(make).collect() };
    stage.answered("SYN, answered by a cookie", &of(frames::linux_syn4))?;
    stage.answered("SYN, answered by a cookie, ipv6", &of(frames::linux_syn6))?;
    // After the SYNs: cookies that were given out lately are looked for in what comes.
    stage.attacked("ACK without a cookie, to a listener", ack, drop, "lookup_tcp")?;
    stage.attacked("ACK to a port that nobody listens on", &to(ack, CLOSED), drop, "lookup_tcp")?;
    stage.measure("ACK to a port that is not armed".into(), &to(ack, CALM), pass, ATTACKED)?;
    let connection = Kind { family: 0, ..connection.clone() };
    stage.attacked("ACK of a connection", &connection, pass, "lookup_tcp")?;
    arm(&mut guard, flags::UDP)?;
    stage.attacked("UDP to a closed port", udp, drop, "lookup_udp")?;
    let _open = UdpSocket::bind(SocketAddrV4::new(frames::DST4.into(), UDP_PORT))?;
    stage.attacked("UDP to an open port", udp, pass, "lookup_udp")?;
    stage.measure("armed for UDP: tcp ack".into(), ack, pass, OTHERS)?;
    guard.disarm();
    Ok(stage.rows)
}

/// Both programs, and what was measured.
struct Stage<'a> {
    bench: &'a mut Bench,
    ours: &'a mut Ours,
    without: &'a mut Ours,
    /// See [`measure::lookups`].
    lookups: &'a Ebpf,
    rows: Vec<Row>,
}

impl Stage<'_> {
    /// Adds what the stage costs a kind of packet that is not changed.
    fn measure(&mut self, case: String, kind: &Kind, expected: u32, target: f64) -> Result<()> {
        let inputs = [("constant", Input::Constant(&kind.frame)), ("cycle", Input::Cycle(&[kind], &[]))];
        for (name, input) in inputs {
            // What does not vary is measured once.
            if name == "cycle" && kind.family == 0 {
                continue;
            }
            let (with, mut drain) = self.ours.subject(expected)?;
            let (bare, mut drain_bare) = self.without.subject(verdict::PASS)?;
            let mut between = || {
                drain();
                drain_bare();
            };
            let ns = self.bench.measure(&[with, bare], input, &mut between)?;
            self.rows.push(Row { input: name, ..Row::alone(case.clone(), ns[0] - ns[1], "ns", Some(target)) });
        }
        Ok(())
    }

    /// Adds what the stage costs a packet of a class that is attacked, beside what the kernel's lookup costs.
    fn attacked(&mut self, case: &str, kind: &Kind, expected: u32, lookup: &'static str) -> Result<()> {
        let inputs = [("constant", Input::Constant(&kind.frame)), ("cycle", Input::Cycle(&[kind], &[]))];
        for (name, input) in inputs {
            // What does not vary is measured once.
            if name == "cycle" && kind.family == 0 {
                continue;
            }
            let alone = Subject {
                name: "the lookup alone",
                program: measure::loaded(self.lookups, lookup)?,
                frags: true,
                verdict: verdict::PASS,
            };
            let (with, mut drain) = self.ours.subject(expected)?;
            let (bare, mut drain_bare) = self.without.subject(verdict::PASS)?;
            let mut between = || {
                drain();
                drain_bare();
            };
            let rival = alone.name;
            let ns = self.bench.measure(&[with, bare, alone], input, &mut between)?;
            let ours = ns[0] - ns[1];
            let mut row = Row::beside(case, name, ours, (rival, ns[2]), None);
            (row.target, row.met) = (Some(ATTACKED), Some(ours <= ATTACKED));
            self.rows.push(row);
        }
        Ok(())
    }

    /// Adds what an answer costs: the frame is another one afterwards, so each has a run of its own.
    fn answered(&mut self, case: &str, frames: &[Vec<u8>]) -> Result<()> {
        let (with, mut drain) = self.ours.subject(verdict::TX)?;
        let (bare, mut drain_bare) = self.without.subject(verdict::PASS)?;
        let mut between = || {
            drain();
            drain_bare();
        };
        let ns = self.bench.singly(&[with, bare], frames, &mut between)?;
        self.rows.push(Row { input: "single", ..Row::alone(case, ns[0] - ns[1], "ns", Some(ATTACKED)) });
        Ok(())
    }
}
