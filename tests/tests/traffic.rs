//! What the generator sends arrives, all of it, and network stacks accept it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use ftagent_common::{
    TrafficClass,
    parse::{SlicePacket, parse},
};
use ftagent_tests::{
    require_root,
    sandbox::{Mac, Process, Sandbox, Veth},
    traffic::{
        Addresses, Capture, Captured, Flood, Generator, L4, Pace, Program, Receiver, Replayed, Template, Values, Vary,
        Vlan, need_captures, replay_capture, tcp,
        vectors::{Link, VECTORS},
    },
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt::RcvBufForce,
};

/// A packet from the peer to this end.
fn towards(veth: &Veth, v6: bool, l4: L4, payload: &[u8]) -> Template {
    Template {
        src_mac: veth.peer.mac,
        dst_mac: veth.here.mac,
        vlans: Vec::new(),
        src: if v6 { veth.peer.v6.into() } else { veth.peer.v4.into() },
        dst: if v6 { veth.here.v6.into() } else { veth.here.v4.into() },
        ttl: 64,
        fragment: None,
        l4,
        payload: payload.to_vec(),
    }
}

/// A prefix that neither host has an address in.
fn elsewhere(v6: bool) -> Addresses {
    Addresses::Prefix(if v6 { "2001:2::/48" } else { "198.18.0.0/15" }.parse().unwrap())
}

fn send(sandbox: &Sandbox, veth: &Veth, flood: &Flood) -> u64 {
    let ifindex = veth.peer.ifindex;
    let sent = sandbox.peer(|| Generator::new(ifindex).unwrap().run(flood, &AtomicBool::new(false)).unwrap()).unwrap();
    eprintln!("{} packets, {:.0} a second", sent.packets, sent.pps());
    sent.packets
}

#[test]
fn every_packet_sent_is_received() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let receiver = Receiver::attach("wan0", Program::Drop).unwrap();
        let vary = Vary { src: Addresses::Any, sport: Values::Any, ..Vary::default() };
        let template = towards(&veth, false, L4::Udp { sport: 1, dport: 9 }, b"0123456789");
        // Not a multiple of the kernel's batch.
        let flood = Flood { packets: Some(1_000_001), ..Flood::new(template, vary) };
        assert_eq!(send(sandbox, &veth, &flood), 1_000_001);
        assert_eq!(arrived(&receiver, 1_000_001), (1_000_001, 1_000_001 * (14 + 20 + 8 + 10)));
        // At a rate, in calls of 100 and a rest.
        let flood = Flood { packets: Some(1_050), pps: Some(10_000), ..flood };
        assert_eq!(send(sandbox, &veth, &flood), 1_050);
        assert_eq!(arrived(&receiver, 1_001_051).0, 1_001_051);
    })
    .unwrap();
}

#[test]
fn a_flood_ends_when_it_is_told_to_and_counts_meanwhile() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let receiver = Receiver::attach("wan0", Program::Drop).unwrap();
        let template = towards(&veth, false, L4::Udp { sport: 1, dport: 9 }, b"");
        let flood = Flood { pps: Some(50_000), ..Flood::new(template, Vary::default()) };
        let (stop, mut generator) = (AtomicBool::new(false), Generator::new(veth.peer.ifindex).unwrap());
        let counter = generator.counter();
        let sent = std::thread::scope(|scope| {
            let peer = sandbox.peer_host();
            let flooding = scope.spawn(|| peer.run(|| generator.run(&flood, &stop).unwrap()).unwrap());
            while counter.sent().unwrap().0 < 1_000 {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            flooding.join().unwrap()
        });
        assert!(sent.packets >= 1_000);
        assert_eq!(arrived(&receiver, sent.packets).0, sent.packets);
    })
    .unwrap();
}

/// Polls until there are `wanted`: the last packets may still be with ksoftirqd. Gives up after
/// ten seconds and returns what there is.
fn settled<T>(wanted: u64, mut poll: impl FnMut() -> (u64, T)) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (count, value) = poll();
        if count >= wanted || Instant::now() > deadline {
            return value;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns packets and bytes, when `wanted` packets are there.
fn arrived(receiver: &Receiver, wanted: u64) -> (u64, u64) {
    settled(wanted, || {
        let received = receiver.received().unwrap();
        (received.packets, (received.packets, received.bytes))
    })
}

/// Receives all there is, when there are `wanted`.
fn drain(socket: &UdpSocket, wanted: u64) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2048];
    let mut datagrams = Vec::new();
    socket.set_nonblocking(true).unwrap();
    settled(wanted, || {
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            datagrams.push((buffer[..length].to_vec(), from));
        }
        (datagrams.len() as u64, ())
    });
    datagrams
}

fn bind(veth: &Veth, v6: bool, port: u16) -> UdpSocket {
    let address: IpAddr = if v6 { veth.here.v6.into() } else { veth.here.v4.into() };
    let socket = UdpSocket::bind((address, port)).unwrap();
    setsockopt(&socket, RcvBufForce, &(64 << 20)).unwrap();
    socket
}

const TAGS: [(u16, u16); 2] = [(0x88a8, 100), (0x8100, 0x2007)];

#[test]
fn a_udp_socket_accepts_every_packet() {
    require_root!();
    const PACKETS: u64 = 3_000;
    for (v6, tags, payload) in [
        (false, 0, &b"even"[..]),
        (false, 0, b"an odd length"),
        (false, 1, b"tagged"),
        (false, 2, b"tagged twice"),
        (true, 0, b"even"),
        (true, 0, b"an odd length"),
        (true, 1, b"tagged"),
        (true, 2, b"tagged twice"),
    ] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let receiver = Receiver::attach("wan0", Program::PopVlan).unwrap();
            let socket = bind(&veth, v6, 4242);
            let mut template = towards(&veth, v6, L4::Udp { sport: 1, dport: 4242 }, payload);
            template.vlans = TAGS[2 - tags..].to_vec();
            let vary = Vary { src: elsewhere(v6), sport: Values::Between(1024, 65535), ip_id: true, ..Vary::default() };
            let flood = Flood { packets: Some(PACKETS), pps: Some(100_000), ..Flood::new(template, vary) };
            send(sandbox, &veth, &flood);
            assert_eq!(arrived(&receiver, PACKETS).0, PACKETS);
            let datagrams = drain(&socket, PACKETS);
            assert_eq!(datagrams.len() as u64, PACKETS, "IPv6: {v6}, {tags} tags, {payload:?}");
            assert!(datagrams.iter().all(|(bytes, _)| bytes == payload));
            let sources: BTreeSet<_> = datagrams.iter().map(|(_, from)| *from).collect();
            assert!(sources.len() as u64 > PACKETS * 9 / 10, "{} sources", sources.len());
        })
        .unwrap();
    }
}

#[test]
fn sources_that_hosts_may_have_are_drawn_from_all_over() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let _pass = Receiver::attach("wan0", Program::Pass).unwrap();
        let socket = bind(&veth, false, 4242);
        let template = towards(&veth, false, L4::Udp { sport: 1, dport: 4242 }, b"");
        let vary = Vary { src: Addresses::Unicast, ..Vary::default() };
        send(sandbox, &veth, &Flood { packets: Some(3000), pps: Some(100_000), ..Flood::new(template, vary) });
        let first = |(_, from): &(Vec<u8>, SocketAddr)| match from.ip() {
            IpAddr::V4(address) => address.octets()[0],
            IpAddr::V6(address) => panic!("{address}"),
        };
        let came: BTreeSet<u8> = drain(&socket, 3000).iter().map(first).collect();
        assert!(came.len() > 120, "{came:?}");
        assert!(came.iter().all(|octet| (1..=64).contains(octet) || (129..=192).contains(octet)), "{came:?}");
    })
    .unwrap();
}

#[test]
fn cycles_come_in_order() {
    require_root!();
    for (v6, first) in [(false, "198.18.0.254"), (true, "2001:2::fffe")] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let _pass = Receiver::attach("wan0", Program::Pass).unwrap();
            let socket = bind(&veth, v6, 4242);
            let template = towards(&veth, v6, L4::Udp { sport: 1, dport: 4242 }, b"");
            let (src, sport) =
                (Addresses::Cycle { first: first.parse().unwrap(), count: 5 }, Values::Cycle(1000, 1002));
            let vary = Vary { src, sport, ..Vary::default() };
            send(sandbox, &veth, &Flood { packets: Some(30), ..Flood::new(template, vary) });
            let number = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_bits().into(),
                IpAddr::V6(address) => address.to_bits(),
            };
            let base = number(first.parse().unwrap());
            let came: Vec<_> =
                drain(&socket, 30).iter().map(|(_, from)| (number(from.ip()) - base, from.port())).collect();
            let expected: Vec<_> = (0..30).map(|i| (i % 5, 1000 + (i % 3) as u16)).collect();
            assert_eq!(came, expected);
        })
        .unwrap();
    }
}

#[test]
fn every_syn_is_answered() {
    require_root!();
    const PACKETS: u64 = 5_000;
    for (v6, open) in [(false, false), (false, true), (true, false), (true, true)] {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            let _pass = Receiver::attach("wan0", Program::Pass).unwrap();
            let answers = sandbox.peer(|| Receiver::attach("peer0", Program::Drop).unwrap()).unwrap();
            // Cookies always: each SYN gets one answer, which is not sent again.
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
            let address: IpAddr = if v6 { veth.here.v6.into() } else { veth.here.v4.into() };
            let _listener = open.then(|| std::net::TcpListener::bind((address, 80)).unwrap());
            let options = vec![2, 4, 5, 0xb4];
            let l4 = L4::Tcp { sport: 1, dport: 80, flags: tcp::SYN, seq: 0, ack: 0, window: 64240, options };
            let (src, sport) = (elsewhere(v6), Values::Between(1024, 65535));
            let vary = Vary { src, sport, tcp_seq: true, ip_id: true, ..Vary::default() };
            let flood = Flood::new(towards(&veth, v6, l4, b""), vary);
            send(sandbox, &veth, &Flood { packets: Some(PACKETS), pps: Some(200_000), ..flood });
            // A SYN-ACK has an option, a reset has none.
            let header = if v6 { 14 + 40 + 20 } else { 14 + 20 + 20 };
            let (packets, bytes) = arrived(&answers, PACKETS);
            assert_eq!(packets, PACKETS, "IPv6: {v6}, open: {open}");
            assert_eq!(bytes, PACKETS * (header + if open { 4 } else { 0 }));
        })
        .unwrap();
    }
}

#[test]
fn a_peer_program_pushes_tags() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let tags = Vlan { tags: [0x88a8_0064, 0x8100_2007], count: 2, redirect: 0 };
        let pushed = Receiver::attach_with("wan0", Program::PushVlan, tags).unwrap();
        let back = sandbox.peer(|| Receiver::attach("peer0", Program::Drop).unwrap()).unwrap();
        let template = towards(&veth, false, L4::Udp { sport: 1, dport: 9 }, b"payload");
        send(sandbox, &veth, &Flood { packets: Some(640), ..Flood::new(template, Vary::default()) });
        assert_eq!(arrived(&pushed, 640), (640, 640 * (42 + 7)));
        assert_eq!(arrived(&back, 640), (640, 640 * (42 + 7 + 8)));
    })
    .unwrap();
}

#[test]
fn a_switch_in_the_peer_tags_and_untags_between_two_links() {
    require_root!();
    for (program, given, taken) in [(Program::PushVlan, 0, 2), (Program::PopVlan, 2, 0)] {
        Sandbox::run(|sandbox| {
            let (first, second) = (sandbox.veth("wan0", "peer0").unwrap(), sandbox.veth("wan1", "peer1").unwrap());
            let vlan = Vlan { tags: [0x88a8_0064, 0x8100_2007], count: 2, redirect: second.peer.ifindex };
            let _switch = sandbox.peer(|| Receiver::attach_with("peer0", program, vlan).unwrap()).unwrap();
            let other_end = Receiver::attach("wan1", Program::Drop).unwrap();
            let mut template = towards(&first, false, L4::Udp { sport: 1, dport: 9 }, b"payload");
            template.vlans = TAGS[..given].to_vec();
            let flood = Flood { packets: Some(640), ..Flood::new(template, Vary::default()) };
            Generator::new(first.here.ifindex).unwrap().run(&flood, &AtomicBool::new(false)).unwrap();
            assert_eq!(arrived(&other_end, 640), (640, 640 * (42 + 7 + 4 * taken)));
        })
        .unwrap();
    }
}

#[test]
fn every_vector_is_in_its_class() {
    let (src_mac, dst_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    for vector in VECTORS {
        for (dst, vlans) in [("10.77.0.1", 0), ("fd77::1", 0), ("10.77.0.1", 2), ("fd77::1", 1)] {
            let dst = dst.parse().unwrap();
            let mut flood = vector.flood(&Link { src_mac, dst_mac, vlans: TAGS[2 - vlans..].to_vec(), dst });
            // Ports that vary are 0 in the template: use one that they may have.
            if let L4::Tcp { sport, dport, .. } | L4::Udp { sport, dport } = &mut flood.template.l4 {
                for port in [sport, dport] {
                    *port = if *port == 0 { 50_000 } else { *port };
                }
            }
            let frame = flood.template.frame().unwrap();
            let class = TrafficClass::ALL[parse(&SlicePacket::whole(&frame), |_| false).class as usize];
            let six = match vector.class {
                TrafficClass::IcmpEcho => TrafficClass::Icmp6Echo,
                TrafficClass::IcmpUnreachable => TrafficClass::Icmp6Other,
                class => class,
            };
            assert_eq!(class, if dst.is_ipv6() { six } else { vector.class }, "{} to {dst}", vector.name);
        }
    }
}

#[test]
fn every_vector_arrives_with_right_checksums() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let _pass = Receiver::attach("wan0", Program::Pass).unwrap();
        let sniffer = Sniffer::new();
        let mut generator = Generator::new(veth.peer.ifindex).unwrap();
        for (vector, v6) in VECTORS.iter().flat_map(|vector| [(vector, false), (vector, true)]) {
            let flood = Flood { packets: Some(20), ..vector.flood(&Link::to_here(&veth, v6)) };
            sandbox.peer(|| generator.run(&flood, &AtomicBool::new(false)).unwrap()).unwrap();
            // Answers of the host go out of the same interface.
            let mut frames = Vec::new();
            settled(20, || {
                frames.extend(sniffer.frames().into_iter().filter(|frame| frame[6..12] == veth.peer.mac.0));
                (frames.len() as u64, ())
            });
            assert_eq!(frames.len(), 20, "{} to IPv6: {v6}", vector.name);
            assert!(frames.iter().collect::<BTreeSet<_>>().len() > 1, "{}: all alike", vector.name);
            for frame in frames {
                assert_eq!(frame.len(), flood.template.frame().unwrap().len(), "{}", vector.name);
                assert_checksums(&frame, vector.name);
            }
        }
    })
    .unwrap();
}

/// Checks IPv4, TCP, UDP and ICMP checksums (RFC 1071), independently of the generator's way.
fn assert_checksums(frame: &[u8], what: &str) {
    let sum = |parts: &[&[u8]]| {
        let words = parts.iter().flat_map(|part| part.chunks(2));
        let sum: u32 = words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum();
        (sum & 0xffff) + (sum >> 16)
    };
    let ip = &frame[14..];
    let v6 = frame[12] == 0x86;
    let (addresses, protocol, fragment, l4) = if v6 {
        (&ip[8..40], ip[6], false, &ip[40..])
    } else {
        assert_eq!(sum(&[&ip[..20]]) & 0xffff, 0xffff, "{what}: IPv4 checksum");
        (&ip[12..20], ip[9], ip[6] & 0x3f != 0 || ip[7] != 0, &ip[20..])
    };
    let pseudo = [0, protocol, (l4.len() >> 8) as u8, l4.len() as u8];
    let folded = match protocol {
        _ if fragment => return,
        1 => sum(&[l4]),
        6 | 17 | 58 => sum(&[addresses, &pseudo, l4]),
        _ => return,
    };
    assert_eq!((folded & 0xffff) + (folded >> 16), 0xffff, "{what}: checksum of protocol {protocol}");
}

/// Sees all packets of the namespace that it was made in (packet(7)).
struct Sniffer(std::os::fd::OwnedFd);

impl Sniffer {
    fn new() -> Self {
        let (family, kind) = (AddressFamily::Packet, SockType::Raw);
        let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
        setsockopt(&socket, RcvBufForce, &(256 << 20)).unwrap();
        Self(socket)
    }

    /// Takes what was seen so far.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        let mut frames = Vec::new();
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

fn read_all(path: &Path) -> Vec<Captured> {
    let mut capture = Capture::open(path).unwrap();
    std::iter::from_fn(|| capture.next_packet().unwrap()).collect()
}

#[test]
fn a_capture_arrives_packet_for_packet() {
    require_root!();
    let Some(captures) = need_captures("a_capture_arrives_packet_for_packet") else { return };
    Sandbox::run(|sandbox| {
        let _veth = sandbox.veth("wan0", "peer0").unwrap();
        sandbox.command("ip link set wan0 mtu 16000").unwrap();
        sandbox.peer_command("ip link set peer0 mtu 16000").unwrap();
        let (counter, mut in_all) = (Receiver::attach("wan0", Program::Count).unwrap(), 0);
        let sniffer = Sniffer::new();
        for name in [
            "benign_voice/lucaderi+sgr__teams_call.pcap",
            "dns_amplification/StopDDoS+packet-captures__RRSIG_fragmented_raw.pcap",
            "icmp_flood/OISF+suricata-verify__rsmurf6_icmpv6.pcap",
        ] {
            let path = captures.join(name);
            let expected = read_all(&path);
            let done = sandbox.peer(|| replay_capture(&path, "peer0", Pace::FlatOut).unwrap()).unwrap();
            assert_eq!((done.sent, done.oversize, done.runts), (expected.len() as u64, 0, 0), "{name}");
            in_all += done.sent;
            assert_eq!(arrived(&counter, in_all).0, in_all, "{name}");
            let frames = sniffer.frames();
            // Whatever this host answers leaves by the same interface; the capture's packets are
            // a subsequence of what was seen.
            let mut seen = frames.iter();
            for (i, packet) in expected.iter().enumerate() {
                assert!(seen.any(|frame| *frame == packet.bytes), "{name}: packet {} is missing", i + 1);
            }
        }
    })
    .unwrap();
}

#[test]
fn packets_over_the_mtu_are_reported_and_the_rest_is_sent() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let (long, short) = (frame(1600), frame(10));
        fs::write(file.path(), pcap(false, 0xa1b2_c3d4, &[long, frame(60), short, frame(1500)])).unwrap();
        let counter = Receiver::attach("wan0", Program::Drop).unwrap();
        let done = sandbox.peer(|| replay_capture(file.path(), "peer0", Pace::Pps(1_000)).unwrap()).unwrap();
        assert_eq!(done, Replayed { sent: 2, bytes: 1560, oversize: 1, runts: 1, cut: 2 });
        assert_eq!(arrived(&counter, 2), (2, 1560));
    })
    .unwrap();
}

/// A frame of an EtherType for local experiments (IEEE 802), told apart by its bytes.
fn frame(length: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..length).map(|i| (i * 7 + length) as u8).collect();
    for (i, byte) in [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5].into_iter().enumerate().take(length) {
        frame[i] = byte;
    }
    frame
}

fn pcap(big_endian: bool, magic: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut file = [word(magic).to_vec(), half(2).to_vec(), half(4).to_vec()].concat();
    for value in [0, 0, 65535, 1] {
        file.extend(word(value));
    }
    for (i, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        for value in [5, 250 * i as u32, length, length + 4] {
            file.extend(word(value));
        }
        file.extend(frame);
    }
    file
}

fn pcapng(big_endian: bool, frames: &[Vec<u8>]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let block = |kind: u32, body: Vec<u8>| {
        let length = 12 + body.len() as u32;
        [&word(kind)[..], &word(length), &body, &word(length)].concat()
    };
    let mut header = [word(0x1a2b_3c4d).to_vec(), half(1).to_vec(), half(0).to_vec()].concat();
    header.extend([0xff; 8]);
    let mut file = block(0x0a0d_0d0a, header);
    // Ethernet, with if_tsresol (option 9) 9: nanoseconds.
    let mut interface = [half(1).to_vec(), half(0).to_vec(), word(65535).to_vec()].concat();
    interface.extend([&half(9)[..], &half(1), &[9, 0, 0, 0], &half(0), &half(0)].concat());
    file.extend(block(1, interface));
    for (i, frame) in frames.iter().enumerate() {
        let ticks = 5_000_000_000 + 250 * i as u64;
        let mut packet = Vec::new();
        for value in [0, (ticks >> 32) as u32, ticks as u32, frame.len() as u32, frame.len() as u32 + 4] {
            packet.extend(word(value));
        }
        packet.extend(frame);
        packet.resize(packet.len().next_multiple_of(4), 0);
        file.extend(block(6, packet));
    }
    file
}

#[test]
fn every_format_of_captures_is_read() {
    let frames: Vec<_> = [60, 61, 1499, 9000].into_iter().map(frame).collect();
    for (name, bytes, unit) in [
        ("µs, little", pcap(false, 0xa1b2_c3d4, &frames), 1000),
        ("µs, big", pcap(true, 0xa1b2_c3d4, &frames), 1000),
        ("ns, little", pcap(false, 0xa1b2_3c4d, &frames), 1),
        ("ns, big", pcap(true, 0xa1b2_3c4d, &frames), 1),
        ("pcapng, little", pcapng(false, &frames), 1),
        ("pcapng, big", pcapng(true, &frames), 1),
    ] {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &bytes).unwrap();
        let read = read_all(file.path());
        assert_eq!(read.len(), frames.len(), "{name}");
        for (i, (packet, frame)) in read.iter().zip(&frames).enumerate() {
            assert_eq!(packet.bytes, *frame, "{name}");
            assert_eq!(packet.wire as usize, frame.len() + 4, "{name}");
            assert_eq!(packet.at, Duration::from_secs(5) + Duration::from_nanos(250 * unit * i as u64), "{name}");
        }
        // Cut in mid-packet: what came before is there, then an error that says where.
        fs::write(file.path(), &bytes[..bytes.len() - 100]).unwrap();
        let mut capture = Capture::open(file.path()).unwrap();
        for _ in 0..3 {
            assert!(capture.next_packet().unwrap().is_some(), "{name}");
        }
        let error = format!("{:#}", capture.next_packet().unwrap_err());
        assert!(error.contains("after 3 packets"), "{name}: {error}");
    }
}

#[test]
fn what_is_no_capture_is_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    assert!(Capture::open(file.path()).is_err());
    file.write_all(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").unwrap();
    assert!(Capture::open(file.path()).is_err());
    let mut raw_ip = pcap(false, 0xa1b2_c3d4, &[]);
    raw_ip[20] = 101;
    fs::write(file.path(), raw_ip).unwrap();
    let error = Capture::open(file.path()).and_then(|mut capture| capture.next_packet()).unwrap_err();
    assert!(format!("{error:#}").contains("101"), "{error:#}");
}

#[test]
fn contradictions_are_refused() {
    let (src_mac, dst_mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
    let (src, dst) = ("198.18.0.1".parse().unwrap(), "fd77::1".parse().unwrap());
    let (l4, payload) = (L4::Udp { sport: 1, dport: 2 }, Vec::new());
    let mixed = Template { src_mac, dst_mac, vlans: vec![], src, dst, ttl: 1, fragment: None, l4, payload };
    assert!(mixed.frame().is_err());
    let long = Template { dst: src, payload: vec![0; 4000], ..mixed.clone() };
    assert!(long.frame().is_err());
    let tags = Template { dst: src, vlans: vec![(0x8100, 1); 3], ..mixed };
    assert!(tags.frame().is_err());
}

#[test]
fn a_sandbox_is_private_and_vanishes() {
    require_root!();
    let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let child = AtomicU32::new(0);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        Sandbox::run(|sandbox| {
            sandbox.veth("wan0", "peer0").unwrap();
            let second = sandbox.veth("wan1", "peer1").unwrap();
            assert_eq!(second.peer.v4.to_string(), "10.77.1.2");
            assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
            // Each host sees its own interfaces and its own pins.
            assert!(Path::new("/sys/class/net/wan0").exists() && !Path::new("/sys/class/net/peer0").exists());
            fs::create_dir("/sys/fs/bpf/here").unwrap();
            let (interface, pin) = ("/sys/class/net/peer0", "/sys/fs/bpf/here");
            let seen = sandbox.peer(|| (Path::new(interface).exists(), Path::new(pin).exists())).unwrap();
            assert_eq!(seen, (true, false));
            assert!(sandbox.command("ip link show peer0").is_err());
            assert!(sandbox.peer_command("ip -o link show peer0").unwrap().contains("02:f7:00:00:00:02"));
            let mut sleep = Command::new("sleep");
            sleep.arg("600");
            let process: Process = sandbox.peer_spawn(sleep).unwrap();
            child.store(process.id(), Ordering::Relaxed);
            panic!("on purpose");
        })
    }));
    assert_eq!(*panicked.unwrap_err().downcast::<&str>().unwrap(), "on purpose");
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
    assert!(!Path::new("/sys/class/net/wan0").exists());
    assert!(!Path::new(&format!("/proc/{}", child.load(Ordering::Relaxed))).exists());
}
