//! The TCP guard in front of real sockets: strangers are turned away, customers notice nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "guard/challenge.rs"]
mod challenge;
#[path = "guard/frames.rs"]
mod frames;
#[path = "guard/paws.rs"]
mod paws;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::xdp::XdpMode};
use ftagent::{
    bpf::{
        Loader,
        clock::JiffyClock,
        counters::CounterReader,
        guard::{KernelGuard, listener},
        load::{fd, program},
        rules::compile::state,
    },
    rule::{Action, Rate},
};
use ftagent_common::{
    DropReason, TrafficClass,
    abi::{features, maps, programs},
    counters::IfaceCounters,
    guard::{Guard, flags, port},
    reason::verdict,
};
use ftagent_tests::{
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{Flood, Generator, L4, Program, Receiver, Values, vectors},
};

const PORT: u16 = 8080;
/// Below it, a listener's queue never overflows here.
const BACKLOG_OVERFLOWS: u64 = 5_000;

/// The datapath on an interface, with a guard.
struct Guarded {
    ebpf: Ebpf,
    guard: KernelGuard,
    reader: CounterReader,
    hz: u64,
}

impl Guarded {
    /// Attaches to the sandbox's interface; the peer gets the program that veth wants for answers.
    fn new(sandbox: &Sandbox, veth: &Veth) -> (Self, Receiver) {
        sandbox.widen(veth).unwrap();
        let mut ebpf = Loader { slot: 0, replay: false, features: features::ALL, pins: None }.load().unwrap();
        let xdp = program(&mut ebpf, programs::DATAPATH).unwrap();
        xdp.attach_to_if_index(veth.here.ifindex, XdpMode::Driver).unwrap();
        let mut guard = KernelGuard::open(&ebpf).unwrap();
        guard.set_own([veth.here.v4.into(), veth.here.v6.into()]).unwrap();
        let receiver = sandbox.peer(|| Receiver::attach("peer0", Program::Pass).unwrap()).unwrap();
        sandbox.peer_command("ethtool -K peer0 tx off").unwrap();
        let hz = JiffyClock::calibrate(&mut ebpf).unwrap().hz();
        (Self { ebpf, guard, reader: CounterReader::new().unwrap(), hz }, receiver)
    }

    fn set(&mut self, flags: u32) {
        self.allow(flags, 10_000_000);
    }

    /// As `set`, with so many answers a second at most.
    fn allow(&mut self, flags: u32, answers: u64) {
        let answers = state(Action::RateLimit(Rate::Pps(answers)), 0, self.hz);
        self.guard.set(Guard { flags, mss4: 1460, mss6: 1440, expires: u64::MAX, answers });
    }

    fn counters(&mut self) -> Box<IfaceCounters> {
        Box::new(self.reader.total(fd(&self.ebpf, maps::COUNTERS).unwrap(), 0).unwrap())
    }

    fn dropped(&mut self, class: TrafficClass, reason: DropReason) -> u64 {
        self.counters().drops[class.index()][reason.index()]
    }
}

fn setting(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
}

fn address(veth: &Veth, v6: bool) -> IpAddr {
    if v6 { veth.here.v6.into() } else { veth.here.v4.into() }
}

/// A server that returns what it gets, and says which options its connections have.
fn serve(address: SocketAddr) -> thread::JoinHandle<Vec<u8>> {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        let mut options = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            options.push(tcp_options(&stream));
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            if bytes == b"stop" {
                return options;
            }
            stream.write_all(&bytes).unwrap();
        }
        options
    })
}

/// `tcpi_options`: timestamps 1, SACK 2, window scale 4.
fn tcp_options(stream: &TcpStream) -> u8 {
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    #[expect(unsafe_code, reason = "std has no TCP_INFO")]
    // SAFETY: the buffer is as long as said.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(done, 0);
    // struct tcp_info: state, ca_state, retransmits, probes, backoff, options.
    info[5]
}

/// Sends bytes and wants them back.
fn echo(server: SocketAddr, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
    let took = begun.elapsed();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let length = bytes.len();
    let reader = thread::spawn(move || {
        let mut came = Vec::with_capacity(length);
        reading.read_to_end(&mut came).unwrap();
        came
    });
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(reader.join().unwrap() == bytes, "what came back is not what was sent");
    took
}

fn stop(sandbox: &Sandbox, server: SocketAddr) {
    sandbox
        .peer(|| {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.write_all(b"stop").unwrap();
        })
        .unwrap();
}

/// Floods from the peer while `body` runs.
fn under<T>(sandbox: &Sandbox, veth: &Veth, flood: &Flood, body: impl FnOnce() -> T) -> (u64, T) {
    let over = AtomicBool::new(false);
    let peer = sandbox.peer_host();
    thread::scope(|scope| {
        let sender =
            scope.spawn(|| peer.run(|| Generator::new(veth.peer.ifindex).unwrap().run(flood, &over).unwrap()).unwrap());
        thread::sleep(Duration::from_millis(300));
        let result = body();
        over.store(true, Relaxed);
        (sender.join().unwrap().packets, result)
    })
}

fn flood(veth: &Veth, v6: bool, name: &str, port: u16, pps: u64) -> Flood {
    let mut flood = vectors::find(name).unwrap().flood(&vectors::Link::to_here(veth, v6));
    match &mut flood.template.l4 {
        L4::Tcp { dport, .. } | L4::Udp { dport, .. } => *dport = port,
        other => panic!("{name} has no ports: {other:?}"),
    }
    flood.vary.dport = Values::Fixed;
    Flood { pps: Some(pps), duration: Some(Duration::from_secs(20)), ..flood }
}

#[test]
fn customers_connect_during_a_syn_flood() {
    require_root!();
    // Timestamps 2: options survive the cookie. 1: MSS only.
    for (v6, timestamps) in [(false, "1"), (true, "1"), (false, "2"), (true, "2")] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            setting("tcp_timestamps", timestamps);
            setting("tcp_syncookies", "1");
            let (mut guarded, _receiver) = Guarded::new(sandbox, &veth);
            let server = SocketAddr::new(address(&veth, v6), PORT);
            let echoes = serve(server);
            let bits = flags::SYN | flags::STATE | if timestamps == "2" { flags::TIMESTAMPS } else { 0 };
            guarded.guard.arm(PORT, listener(scale_of(&veth)));
            guarded.set(bits);
            let calm = sandbox.peer(|| echo(server, b"calm")).unwrap();
            assert_eq!(guarded.counters().verdicts[verdict::TX as usize], 0, "in calm, the kernel answers");

            let syns = flood(&veth, v6, "syn_flood", PORT, 100_000);
            let (sent, slowest) = under(sandbox, &veth, &syns, || {
                let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
                sandbox.peer(|| (0..20).map(|_| echo(server, &bytes)).max().unwrap()).unwrap()
            });
            let answered = guarded.counters().verdicts[verdict::TX as usize];
            assert!(sent > BACKLOG_OVERFLOWS && answered * 2 > sent, "{answered} answers to {sent} SYNs");
            assert!(slowest < Duration::from_secs(2), "a customer waited {slowest:?} (calm: {calm:?})");
            stop(sandbox, server);
            let options = echoes.join().unwrap();
            if timestamps == "2" {
                let full = options.iter().filter(|options| *options & 7 == 7).count();
                assert_eq!(full, options.len(), "options of the connections: {options:?}");
            }
        })
        .unwrap();
    }
}

/// The window scale that this kernel chooses, as an accepted connection on loopback has it.
fn scale_of(veth: &Veth) -> Option<u8> {
    let listener = TcpListener::bind((veth.here.v4, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    #[expect(unsafe_code, reason = "std has no TCP_INFO")]
    // SAFETY: the buffer is as long as said.
    let done = unsafe {
        libc::getsockopt(
            server.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(done, 0);
    drop(client);
    // tcpi_snd_wscale in the lower half, tcpi_rcv_wscale in the upper.
    Some(info[6] >> 4)
}

/// One pool for all CPUs: one queue, and so one CPU, gets all of it.
#[test]
fn answers_are_capped_over_all_cpus_together() {
    require_root!();
    const CAP: u64 = 10_000;
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        setting("tcp_syncookies", "2");
        let (mut guarded, _receiver) = Guarded::new(sandbox, &veth);
        let _listener = TcpListener::bind((veth.here.v4, PORT)).unwrap();
        guarded.guard.arm(PORT, listener(None));
        guarded.allow(flags::SYN, CAP);
        let answers = |guarded: &mut Guarded| guarded.counters().verdicts[verdict::TX as usize];
        let syns = flood(&veth, false, "syn_flood", PORT, 100_000);
        let (sent, (answered, seconds)) = under(sandbox, &veth, &syns, || {
            let (begun, before) = (Instant::now(), answers(&mut guarded));
            thread::sleep(Duration::from_secs(2));
            (answers(&mut guarded) - before, begun.elapsed().as_secs_f64())
        });
        let rate = answered as f64 / seconds;
        // Half of it would be the share of one of two CPUs; tokens are lost while the sender does not run.
        assert!((0.6..1.1).contains(&(rate / CAP as f64)), "{rate} answers a second to {sent} SYNs");
        let dropped = guarded.dropped(TrafficClass::TcpSyn, DropReason::QueueFull);
        assert_eq!(dropped + answers(&mut guarded), sent, "no SYN reaches the stack");
    })
    .unwrap();
}

#[test]
fn segments_out_of_any_connection_get_no_answer() {
    require_root!();
    for (v6, name, class) in [
        (false, "ack_flood", TrafficClass::TcpAck),
        (true, "ack_flood", TrafficClass::TcpAck),
        (false, "rst_flood", TrafficClass::TcpRst),
        (false, "syn_ack_flood", TrafficClass::TcpSynAck),
        (false, "psh_ack_flood", TrafficClass::TcpData),
        (true, "xmas_flood", TrafficClass::TcpXmas),
    ] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let (mut guarded, receiver) = Guarded::new(sandbox, &veth);
            let server = SocketAddr::new(address(&veth, v6), PORT);
            let echoes = serve(server);
            guarded.guard.arm(PORT, port::STATE);
            guarded.set(flags::STATE);
            let before = receiver.received().unwrap().packets;
            let segments = Flood { packets: Some(20_000), ..flood(&veth, v6, name, PORT, 200_000) };
            let (sent, ()) = under(sandbox, &veth, &segments, || thread::sleep(Duration::from_millis(300)));
            assert_eq!(guarded.dropped(class, DropReason::OutOfState), sent, "{name}");
            let answers = receiver.received().unwrap().packets - before;
            assert!(answers < 20, "{name}: {answers} answers");
            let endless = flood(&veth, v6, name, PORT, 100_000);
            under(sandbox, &veth, &endless, || {
                sandbox
                    .peer(|| {
                        (0..20).for_each(|_| {
                            echo(server, &vec![7; 50_000]);
                        })
                    })
                    .unwrap();
            });
            stop(sandbox, server);
            echoes.join().unwrap();
        })
        .unwrap();
    }
}

#[test]
fn udp_reaches_open_ports_only() {
    require_root!();
    for v6 in [false, true] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let (mut guarded, receiver) = Guarded::new(sandbox, &veth);
            let open = UdpSocket::bind((address(&veth, v6), PORT)).unwrap();
            open.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for number in [PORT, PORT + 1] {
                guarded.guard.arm(number, port::UDP);
            }
            guarded.set(flags::UDP);
            let before = receiver.received().unwrap().packets;
            let game = Flood { packets: Some(5_000), ..flood(&veth, v6, "sip_flood", PORT + 1, 100_000) };
            let (sent, ()) = under(sandbox, &veth, &game, || thread::sleep(Duration::from_millis(200)));
            let counters = guarded.counters();
            let dropped: u64 = counters.drops.iter().map(|row| row[DropReason::ClosedPort.index()]).sum();
            assert_eq!(dropped, sent);
            assert!(receiver.received().unwrap().packets - before < 20, "unreachables were sent");
            let target = open.local_addr().unwrap();
            sandbox
                .peer(|| {
                    let any: IpAddr = if v6 { veth.peer.v6.into() } else { veth.peer.v4.into() };
                    UdpSocket::bind((any, 0)).unwrap().send_to(b"hello", target).unwrap();
                })
                .unwrap();
            let mut bytes = [0; 16];
            let (length, _) = open.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"hello");
        })
        .unwrap();
    }
}
