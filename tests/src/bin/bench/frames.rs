//! The frames that are measured: one for each major kind of packet.

/// Bytes at the front of a frame that the prologue writes (`HEAD` in `ftagent-ebpf/src/bench.rs`).
pub const HEAD: usize = 128;

/// A frame and what may be varied in it.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The name in the table.
    pub name: &'static str,
    /// The frame without FCS, at least [`HEAD`] bytes.
    pub frame: Vec<u8>,
    /// The IP version whose source address may be varied; 0: the frame stays as it is.
    pub family: u32,
    /// Whether the source port may be varied too.
    pub ports: bool,
    /// Whether the targets are for this kind: TCP and UDP, of which xdp-filter's programs read
    /// as much as ours do. They leave everything else half-read.
    pub judged: bool,
}

/// Where frames come from, and by which port.
pub const SRC4: [u8; 4] = [198, 51, 100, 7];
pub const CLIENT: u16 = 40_000;
/// Where they go.
pub const DST4: [u8; 4] = [192, 0, 2, 1];
const SRC6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 7];
/// The same over IPv6.
pub const DST6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH_ACK: u8 = 24;

/// Returns every kind.
pub fn kinds() -> Vec<Kind> {
    let quic = [&[0xc3, 0, 0, 0, 1, 8][..], &[0x5a; 1194]].concat();
    let dns = [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x07example\x03com\0\0\x01\0\x01"].concat();
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x5a; 500]].concat();
    let http: &[u8] = b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: bench\r\n\r\n";
    // What most connections carry: a record of TLS application data (RFC 8446, 5.1).
    let record = [&[0x17, 3, 3, 3, 0xe3][..], &[0x5a; 995]].concat();
    let udp4 = |src, dst, payload: &[u8]| ipv4(UDP, 0, &udp(src, dst, payload));
    let tcp4 = |flags, payload: &[u8]| ipv4(TCP, 0, &tcp(flags, payload));
    let plain = |name, frame| kind(name, frame, 0, false);
    let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &udp(40_000, 7777, &[0; 40])].concat();
    let echo = [&[8, 0, 0, 0, 0, 1, 0, 1][..], &[0; 56]].concat();
    let mut bad = ethernet(0x0800, &tcp4(ACK, &[]));
    bad[14] = 0x44;
    vec![
        kind("tcp syn", ethernet(0x0800, &tcp4(SYN, &[])), 4, true),
        kind("tcp ack", ethernet(0x0800, &tcp4(ACK, &[])), 4, true),
        kind("tcp data", ethernet(0x0800, &tcp4(PSH_ACK, &record)), 4, true),
        kind("tcp http request", ethernet(0x0800, &tcp4(PSH_ACK, http)), 4, true),
        kind("tcp tls hello", ethernet(0x0800, &tcp4(PSH_ACK, &hello)), 4, true),
        kind("udp small", ethernet(0x0800, &udp4(40_000, 7777, &[0; 40])), 4, true),
        kind("udp large", ethernet(0x0800, &udp4(40_000, 7777, &[0; 1200])), 4, true),
        kind("udp from 123", ethernet(0x0800, &udp4(123, 7777, &[0x17; 440])), 4, false),
        kind("udp dns query", ethernet(0x0800, &udp4(40_000, 53, &dns)), 4, true),
        kind("udp quic initial", ethernet(0x0800, &udp4(40_000, 443, &quic)), 4, true),
        kind("ipv6 tcp syn", ethernet(0x86dd, &ipv6(TCP, &tcp(SYN, &[]))), 6, true),
        kind("ipv6 tcp data", ethernet(0x86dd, &ipv6(TCP, &tcp(PSH_ACK, &record))), 6, true),
        kind("ipv6 udp small", ethernet(0x86dd, &ipv6(UDP, &udp(40_000, 7777, &[0; 40]))), 6, true),
        other(kind("icmp echo", ethernet(0x0800, &ipv4(1, 0, &echo)), 4, false)),
        other(kind("fragment, first", ethernet(0x0800, &ipv4(UDP, 0x2000, &[0x5a; 1400])), 4, false)),
        other(kind("fragment, later", ethernet(0x0800, &ipv4(UDP, 100, &[0x5a; 400])), 4, false)),
        other(plain("ipv6 udp behind options", ethernet(0x86dd, &ipv6(60, &options)))),
        other(plain("vlan tcp ack", ethernet(0x8100, &vlan(0x0800, &tcp4(ACK, &[]))))),
        other(plain("qinq tcp ack", ethernet(0x88a8, &vlan(0x8100, &vlan(0x0800, &tcp4(ACK, &[])))))),
        other(plain("malformed", bad)),
        other(plain("arp", ethernet(0x0806, &[0, 1, 8, 0, 6, 4, 0, 1]))),
    ]
}

fn kind(name: &'static str, frame: Vec<u8>, family: u32, ports: bool) -> Kind {
    Kind { name, frame, family, ports, judged: true }
}

fn other(kind: Kind) -> Kind {
    Kind { judged: false, ..kind }
}

/// Returns a frame of a kind with another IPv4 source.
pub fn from4(kind: &Kind, source: u32) -> Vec<u8> {
    let mut frame = kind.frame.clone();
    frame[26..30].copy_from_slice(&source.to_be_bytes());
    frame
}

/// An answer of memcached, which no host on the internet has business in.
pub fn memcached() -> Kind {
    let answer = [&b"\0\0\0\0\0\x01\0\0VALUE a 0 1048576\r\n"[..], &[b'.'; 1000]].concat();
    other(kind("udp from 11211", ethernet(0x0800, &ipv4(UDP, 0, &udp(11211, 50_000, &answer))), 4, false))
}

/// The SYN of a Linux client with a number: its source and port depend on that.
pub fn linux_syn4(number: u32) -> Vec<u8> {
    let mut frame = ethernet(0x0800, &ipv4(TCP, 0, &linux_syn(number)));
    frame[26..30].copy_from_slice(&(0x0b00_0001_u32.wrapping_add(number.wrapping_mul(0x0001_2345))).to_be_bytes());
    frame
}

/// The same over IPv6.
pub fn linux_syn6(number: u32) -> Vec<u8> {
    let mut frame = ethernet(0x86dd, &ipv6(TCP, &linux_syn(number)));
    frame[34..38].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    frame
}

/// A header with the options that Linux sends: MSS, SACK, timestamps, window scale (RFC 9293, RFC 7323).
fn linux_syn(number: u32) -> Vec<u8> {
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
    let mut header = tcp(SYN, &options);
    header[12] = 0xa0;
    header[..2].copy_from_slice(&(1024 + (number as u16 & 0x7fff)).to_be_bytes());
    header
}

/// An Ethernet II frame, padded to what the prologue writes.
fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let addresses = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let mut frame = [&addresses[..], &ethertype.to_be_bytes(), packet].concat();
    frame.resize(frame.len().max(HEAD), 0);
    frame
}

fn vlan(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[0, 5][..], &ethertype.to_be_bytes(), packet].concat()
}

/// RFC 791; the checksum stays zero, which no program here verifies.
fn ipv4(proto: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let total = (20 + payload.len() as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let head = [0x45, 0, total[0], total[1], 0, 1, fragment[0], fragment[1], 64, proto, 0, 0];
    [&head[..], &SRC4, &DST4, payload].concat()
}

/// RFC 8200.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &SRC6, &DST6, payload].concat()
}

/// RFC 9293.
fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (CLIENT.to_be_bytes(), 80u16.to_be_bytes());
    [&src[..], &dst, &[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0], payload].concat()
}

/// RFC 768.
fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}
