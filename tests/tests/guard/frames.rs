//! SYNs in every wrapping: each gets one answer that is right, and none is a way around the guard.

use std::{
    io,
    net::{IpAddr, TcpListener},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use ftagent::bpf::guard::listener;
use ftagent_common::{guard::flags, reason::verdict};
use ftagent_tests::{
    require_root,
    sandbox::{Sandbox, Veth},
    traffic::{L4, Program, Receiver, Template, tcp},
};

use super::{Guarded, PORT, address, setting};

const SPORT: u16 = 40_123;
const SEQ: u32 = 0xdead_beef;
/// MSS, SACK, timestamps, NOP, window scale: what Linux offers.
const LINUX: &[u8] = &[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 16, 0, 0, 0, 0, 0, 1, 3, 3, 7];

/// A way to wrap a SYN.
struct Case {
    name: &'static str,
    v6: bool,
    vlans: &'static [(u16, u16)],
    /// What stands between the fixed IP header and TCP: options, or an extension header with its
    /// protocol number; the first byte of that is filled in.
    extra: &'static [u8],
    next: u8,
    options: &'static [u8],
    payload: &'static [u8],
}

const PLAIN: Case = Case { name: "plain", v6: false, vlans: &[], extra: &[], next: 0, options: LINUX, payload: b"" };
/// VLAN 0 is a priority alone: the kernel takes it without a VLAN device.
const PRIORITY: &[(u16, u16)] = &[(0x8100, 0x6000)];

const CASES: [Case; 14] = [
    PLAIN,
    Case { name: "plain, IPv6", v6: true, ..PLAIN },
    Case { name: "no TCP options", options: &[], ..PLAIN },
    Case { name: "40 bytes of TCP options", options: &[1; 40], ..PLAIN },
    Case { name: "broken TCP options", options: &[3, 0, 8, 200], ..PLAIN },
    Case { name: "data on a SYN", payload: &[7; 700], ..PLAIN },
    Case { name: "tagged", vlans: PRIORITY, ..PLAIN },
    Case { name: "tagged, IPv6", v6: true, vlans: PRIORITY, ..PLAIN },
    Case { name: "tagged twice", vlans: &[(0x88a8, 0), (0x8100, 0)], ..PLAIN },
    Case { name: "IP options", extra: &[1, 1, 1, 0], ..PLAIN },
    Case { name: "40 bytes of IP options", extra: &[1; 40], ..PLAIN },
    Case { name: "tagged, IP options", vlans: PRIORITY, extra: &[1, 1, 1, 0], ..PLAIN },
    Case { name: "hop-by-hop options", v6: true, extra: &[0, 0, 1, 4, 0, 0, 0, 0], ..PLAIN },
    Case { name: "destination options", v6: true, extra: &[0, 0, 1, 4, 0, 0, 0, 0], next: 60, ..PLAIN },
];

#[test]
fn a_syn_in_any_wrapping_gets_one_right_answer() {
    require_root!();
    for case in CASES {
        Sandbox::run(|sandbox| {
            let veth = sandbox.veth("wan0", "peer0").unwrap();
            // Every SYN gets a cookie.
            setting("tcp_syncookies", "2");
            setting("tcp_timestamps", "2");
            let (mut guarded, receiver) = Guarded::new(sandbox, &veth);
            drop(receiver);
            let receiver = sandbox.peer(|| Receiver::attach("peer0", Program::Count).unwrap()).unwrap();
            // Nobody there knows of this connection.
            sandbox.peer_command("nft add table inet hush").unwrap();
            sandbox.peer_command("nft add chain inet hush out { type filter hook output priority 0 ; }").unwrap();
            sandbox.peer_command("nft add rule inet hush out tcp flags rst drop").unwrap();
            let server = TcpListener::bind((address(&veth, case.v6), PORT)).unwrap();
            server.set_nonblocking(true).unwrap();
            guarded.guard.arm(PORT, listener(Some(7)));
            guarded.set(flags::SYN | flags::STATE | flags::TIMESTAMPS);
            let peer = sandbox.peer_host();
            let (wire, answer) = peer.run(|| one_answer(&case, &veth, &receiver)).unwrap();
            let answered = guarded.counters().verdicts[verdict::TX as usize];
            assert_eq!(answered, 1, "{}: answers of the program", case.name);
            let seq = check(&case, &veth, &answer);
            let expected = 14 + 4 * case.vlans.len() + answer.len() - 14;
            assert_eq!(wire, expected as u64, "{}: the answer has the tags of the SYN", case.name);
            peer.run(|| Raw::open(veth.peer.ifindex).send(&frame(&case, &veth, tcp::ACK, seq.wrapping_add(1))))
                .unwrap();
            let accepted = within(Duration::from_secs(2), || server.accept().ok());
            assert!(accepted.is_some(), "{}: the cookie was not accepted", case.name);
        })
        .unwrap();
    }
}

/// Sends the SYN; returns the bytes of its answer on the wire, and the answer without tags.
fn one_answer(case: &Case, veth: &Veth, receiver: &Receiver) -> (u64, Vec<u8>) {
    let raw = Raw::open(veth.peer.ifindex);
    let before = receiver.received().unwrap();
    raw.send(&frame(case, veth, tcp::SYN, 0));
    let ours = |frame: &Vec<u8>| {
        let l4 = if case.v6 { 54 } else { 34 };
        frame.len() >= l4 + 20 && frame[l4..l4 + 4] == [PORT.to_be_bytes(), SPORT.to_be_bytes()].concat()
    };
    let answer = within(Duration::from_secs(2), || raw.receive().filter(ours));
    let answer = answer.unwrap_or_else(|| panic!("{}: no answer", case.name));
    let after = receiver.received().unwrap();
    assert_eq!(after.packets - before.packets, 1, "{}", case.name);
    (after.bytes - before.bytes, answer)
}

/// Checks an answer; returns its sequence number.
fn check(case: &Case, veth: &Veth, answer: &[u8]) -> u32 {
    let name = case.name;
    assert_eq!((&answer[..6], &answer[6..12]), (&veth.peer.mac.0[..], &veth.here.mac.0[..]), "{name}");
    let (ip, l4) = (&answer[14..], if case.v6 { 40 } else { 20 });
    let tcp = &ip[l4..];
    let pseudo = if case.v6 {
        assert_eq!(usize::from(u16::from_be_bytes([ip[4], ip[5]])), tcp.len(), "{name}");
        assert_eq!(ip[8..24], veth.here.v6.octets(), "{name}");
        assert_eq!(ip[24..40], veth.peer.v6.octets(), "{name}");
        sum(&ip[8..40])
    } else {
        assert_eq!(usize::from(u16::from_be_bytes([ip[2], ip[3]])), ip.len(), "{name}");
        assert_eq!(fold(sum(&ip[..20])), 0xffff, "{name}: IP checksum");
        assert_eq!(ip[12..16], veth.here.v4.octets(), "{name}");
        assert_eq!(ip[16..20], veth.peer.v4.octets(), "{name}");
        sum(&ip[12..20])
    };
    assert_eq!(fold(pseudo + sum(tcp) + 6 + tcp.len() as u32), 0xffff, "{name}: TCP checksum");
    assert_eq!(tcp[13] & 0x17, tcp::SYN | tcp::ACK, "{name}");
    assert_eq!(tcp[8..12], SEQ.wrapping_add(1).to_be_bytes(), "{name}");
    assert_eq!(usize::from(tcp[12] >> 4) * 4, tcp.len(), "{name}: options, and nothing behind them");
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

fn frame(case: &Case, veth: &Veth, flags: u8, ack: u32) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) =
        if case.v6 { (veth.peer.v6.into(), veth.here.v6.into()) } else { (veth.peer.v4.into(), veth.here.v4.into()) };
    let is_syn = flags == tcp::SYN;
    let (options, payload) = if is_syn { (case.options, case.payload) } else { (&[][..], &[][..]) };
    let seq = if is_syn { SEQ } else { SEQ.wrapping_add(1) };
    let options = options.to_vec();
    let l4 = L4::Tcp { sport: SPORT, dport: PORT, flags, seq, ack, window: 64_240, options };
    let (src_mac, dst_mac) = (veth.peer.mac, veth.here.mac);
    let (vlans, payload) = (case.vlans.to_vec(), payload.to_vec());
    let template = Template { src_mac, dst_mac, vlans, src, dst, ttl: 64, fragment: None, l4, payload };
    let mut frame = template.frame().unwrap();
    if !case.extra.is_empty() {
        wrap(&mut frame, 14 + 4 * case.vlans.len(), case);
    }
    frame
}

/// Puts the case's extra bytes behind the fixed IP header.
fn wrap(frame: &mut Vec<u8>, l3: usize, case: &Case) {
    let mut extra = case.extra.to_vec();
    let more = extra.len() as u16;
    let ip = &mut frame[l3..];
    if case.v6 {
        extra[0] = ip[6];
        ip[6] = case.next;
        let length = u16::from_be_bytes([ip[4], ip[5]]) + more;
        ip[4..6].copy_from_slice(&length.to_be_bytes());
        frame.splice(l3 + 40..l3 + 40, extra);
    } else {
        ip[0] = 0x45 + (more / 4) as u8;
        let length = u16::from_be_bytes([ip[2], ip[3]]) + more;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[10..12].fill(0);
        frame.splice(l3 + 20..l3 + 20, extra);
        let header = &mut frame[l3..l3 + 20 + usize::from(more)];
        let checksum = !fold(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn within<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// A packet(7) socket.
struct Raw(OwnedFd);

#[expect(unsafe_code, reason = "std has no packet sockets")]
impl Raw {
    fn open(ifindex: u32) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: a system call without pointers, whose result is owned here alone.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
            assert!(fd >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all-zero is a valid address.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        (at.sll_family, at.sll_protocol, at.sll_ifindex) = (libc::AF_PACKET as u16, protocol, ifindex as i32);
        // SAFETY: the address is as long as said.
        let rc = unsafe { libc::bind(fd.as_raw_fd(), (&raw const at).cast(), size_of_val(&at) as libc::socklen_t) };
        assert_eq!(rc, 0, "{}", io::Error::last_os_error());
        Self(fd)
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Returns a frame that came, without its outer tag; `None` where there is none.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2048];
        // SAFETY: the buffer is as long as said.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(length).ok()?);
        // Tags that the kernel does not take off itself.
        while bytes.len() > 18 && matches!(bytes[12..14], [0x81, 0] | [0x88, 0xa8]) {
            bytes.drain(12..16);
        }
        Some(bytes)
    }
}
