//! The table of TCP sockets, by `INET_DIAG` (sock_diag(7)): who holds connections here, and who
//! holds them without using them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    net::IpAddr,
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_ESTABLISHED, TCP_SYN_RECV},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::sense::signals::{HostSignals, PortSockets, block_of};

/// Sockets that are looked at in one reading: what a flood of connections leaves behind must not
/// keep the reader busy for ever.
pub const MOST_SOCKETS: usize = 50_000;
/// Ports that are told.
const MOST_PORTS: usize = 256;
/// Bytes of one answer: the kernel fills at most 32 KiB.
const BUFFER: usize = 32 << 10;

// Offsets in `struct tcp_info` (uapi/linux/tcp.h), which only grows at its end.
const OPTIONS: usize = 5;
const SCALES: usize = 6;
const LAST_DATA_RECV: usize = 52;
const BYTES_RECEIVED: usize = 128;

/// `TCPI_OPT_WSCALE`: both ends scale their windows.
const SCALED: u8 = 4;

/// A connection as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    port: u16,
    peer: IpAddr,
    /// Half open otherwise.
    established: bool,
    cookie: u64,
    /// Bytes of data that were received; `None` where the kernel does not tell.
    received: Option<u64>,
    /// Milliseconds since data was last received, or since it was established.
    silent_ms: u32,
    /// The window scale that this host announced; `None` where windows are not scaled.
    scale: Option<u8>,
}

impl From<&InetResponse> for Connection {
    fn from(response: &InetResponse) -> Self {
        let header = &response.header;
        let info = response.nlas.iter().find_map(|nla| match nla {
            Nla::TcpInfo(info) => Some(info.as_slice()),
            _ => None,
        });
        let bytes = |offset: usize| info.and_then(|info| info.get(offset..)).unwrap_or_default();
        Self {
            port: header.socket_id.source_port,
            peer: header.socket_id.destination_address,
            established: header.state == TCP_ESTABLISHED,
            cookie: u64::from_ne_bytes(header.socket_id.cookie),
            received: bytes(BYTES_RECEIVED).first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)),
            silent_ms: bytes(LAST_DATA_RECV).first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)),
            scale: match (bytes(OPTIONS).first(), bytes(SCALES).first()) {
                // Two bit fields of four: what the peer announced, then what this host did.
                (Some(options), Some(scales)) if options & SCALED != 0 => Some(scales >> 4),
                _ => None,
            },
        }
    }
}

/// What a reading says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// See [`HostSignals::ports`].
    pub ports: Vec<PortSockets>,
    /// See [`HostSignals::peers`].
    pub peers: Vec<u64>,
    /// Sockets that were looked at.
    pub sockets: usize,
}

/// Reads the table again and again. The kernel does not tell how old a connection is, so those
/// with little data are remembered from when they were first seen; at most [`MOST_SOCKETS`].
#[derive(Debug, Default)]
pub struct SocketTable {
    /// When each connection with little data was first seen, nanoseconds, by cookie.
    first_seen: HashMap<u64, u64>,
}

impl SocketTable {
    /// Reads the table; `now_ns` is monotonic.
    ///
    /// # Errors
    /// What netlink says: the kernel may lack `inet_diag`.
    pub fn read(&mut self, now_ns: u64) -> io::Result<Reading> {
        let mut listening = HashSet::new();
        for family in [AF_INET, AF_INET6] {
            dump(family, IPPROTO_TCP, StateFlags::LISTEN, &mut |found| {
                listening.insert(found.header.socket_id.source_port);
                listening.len() < MOST_SOCKETS
            })?;
        }
        let mut sum = Sum::new(now_ns, &self.first_seen);
        for family in [AF_INET, AF_INET6] {
            let states = StateFlags::ESTABLISHED | StateFlags::SYN_RECV;
            dump(family, IPPROTO_TCP, states, &mut |found| {
                // A connection that this host began says nothing of who comes here.
                let known = [TCP_ESTABLISHED, TCP_SYN_RECV].contains(&found.header.state);
                if known && listening.contains(&found.header.socket_id.source_port) {
                    sum.add(&Connection::from(found));
                }
                sum.may_go_on()
            })?;
        }
        for family in [AF_INET, AF_INET6] {
            // A kernel without `udp_diag` has no such handler; TCP alone is worth telling.
            let told = dump(family, IPPROTO_UDP, StateFlags::ESTABLISHED, &mut |found| {
                sum.add_peer(found.header.socket_id.destination_address);
                sum.may_go_on()
            });
            if told.is_err() {
                break;
            }
        }
        let (reading, first_seen) = sum.finish();
        self.first_seen = first_seen;
        Ok(reading)
    }
}

/// Adds connections up.
struct Sum<'a> {
    now_ns: u64,
    before: &'a HashMap<u64, u64>,
    first_seen: HashMap<u64, u64>,
    ports: BTreeMap<u16, PortSockets>,
    stalled_peers: HashSet<(u16, u64)>,
    peers: HashSet<u64>,
    sockets: usize,
}

impl<'a> Sum<'a> {
    fn new(now_ns: u64, before: &'a HashMap<u64, u64>) -> Self {
        Self {
            now_ns,
            before,
            first_seen: HashMap::with_capacity(before.len()),
            ports: BTreeMap::new(),
            stalled_peers: HashSet::new(),
            peers: HashSet::new(),
            sockets: 0,
        }
    }

    fn add(&mut self, connection: &Connection) {
        let Connection { port, peer, established, cookie, received, silent_ms, scale } = *connection;
        let sums = self.ports.entry(port).or_insert(PortSockets { port, ..PortSockets::default() });
        if !established {
            sums.half_open += 1;
            return;
        }
        sums.established += 1;
        sums.note_scale(scale);
        let Some(received) = received else { return };
        if received < HostSignals::STALLED_BYTES {
            let first = self.before.get(&cookie).copied().unwrap_or(self.now_ns);
            self.first_seen.insert(cookie, first);
            let age_ns = self.now_ns.saturating_sub(first).max(u64::from(silent_ms) * 1_000_000);
            if age_ns >= u64::from(HostSignals::STALLED_AGE_S) * 1_000_000_000 {
                sums.stalled += 1;
                self.stalled_peers.insert((port, block_of(peer)));
            }
        }
        if received > 0 {
            self.add_peer(peer);
        }
    }

    fn add_peer(&mut self, peer: IpAddr) {
        if !peer.to_canonical().is_loopback() {
            self.peers.insert(block_of(peer));
        }
    }

    /// Counts a socket and returns whether another one may be looked at.
    fn may_go_on(&mut self) -> bool {
        self.sockets += 1;
        self.sockets < MOST_SOCKETS
    }

    fn finish(self) -> (Reading, HashMap<u64, u64>) {
        let mut by_port = self.ports;
        for (port, _) in self.stalled_peers {
            if let Some(sums) = by_port.get_mut(&port) {
                sums.stalled_peers += 1;
            }
        }
        let mut ports: Vec<PortSockets> = by_port.into_values().collect();
        ports.sort_by_key(|sums| std::cmp::Reverse(sums.established + sums.half_open));
        ports.truncate(MOST_PORTS);
        let mut peers: Vec<u64> = self.peers.into_iter().collect();
        peers.sort_unstable();
        (Reading { ports, peers, sockets: self.sockets }, self.first_seen)
    }
}

/// Gives every socket of a family and protocol in some states to `take`, until that returns
/// false: the kernel forgets the rest when the descriptor is closed.
fn dump(family: u8, protocol: u8, states: StateFlags, take: &mut dyn FnMut(&InetResponse) -> bool) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(family, protocol, states), 0)?;
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if !parse(&buffer, take)? {
            return Ok(());
        }
    }
}

fn request(family: u8, protocol: u8, states: StateFlags) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let extensions = if protocol == IPPROTO_TCP { ExtensionFlags::INFO } else { ExtensionFlags::empty() };
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let request = InetRequest { family, protocol, extensions, states, socket_id };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads the messages of one answer; returns whether another answer follows. A socket that
/// cannot be decoded is skipped: newer kernels may tell of them in other words.
fn parse(mut bytes: &[u8], take: &mut dyn FnMut(&InetResponse) -> bool) -> io::Result<bool> {
    const HEADER: usize = 16;
    if bytes.is_empty() {
        return Err(io::Error::other("an empty answer"));
    }
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let (Some(message), true) = (bytes.get(..length), length >= HEADER) else {
            return Err(io::Error::other("a netlink message is cut short"));
        };
        match NetlinkMessage::<SockDiagMessage>::deserialize(message).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found))) => {
                if !take(&found) {
                    return Ok(false);
                }
            }
            Ok(NetlinkPayload::Done(_)) => return Ok(false),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(_) | Err(_) => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DoneMessage, ErrorMessage};
    use netlink_packet_sock_diag::inet::InetResponseHeader;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn response(connection: &Connection) -> InetResponse {
        let Connection { port, peer, established, cookie, received, silent_ms, scale } = *connection;
        let v4 = peer.is_ipv4();
        let any = if v4 { SocketId::new_v4() } else { SocketId::new_v6() };
        let socket_id = SocketId {
            source_port: port,
            destination_port: 40_000,
            destination_address: peer,
            cookie: cookie.to_ne_bytes(),
            ..any
        };
        let header = InetResponseHeader {
            family: if v4 { AF_INET } else { AF_INET6 },
            state: if established { TCP_ESTABLISHED } else { TCP_SYN_RECV },
            timer: None,
            socket_id,
            recv_queue: 0,
            send_queue: 0,
            uid: 0,
            inode: 7,
        };
        let info = received.map(|received| {
            // As long as that of a 6.x kernel, so what stands behind the fields is read over.
            let mut info = vec![0xaa; 248];
            info[LAST_DATA_RECV..LAST_DATA_RECV + 4].copy_from_slice(&silent_ms.to_ne_bytes());
            if let Some(scale) = scale {
                (info[OPTIONS], info[SCALES]) = (SCALED, scale << 4);
            }
            info[BYTES_RECEIVED..BYTES_RECEIVED + 8].copy_from_slice(&received.to_ne_bytes());
            Nla::TcpInfo(info)
        });
        InetResponse { header, nlas: info.into_iter().collect() }
    }

    fn encode(payload: NetlinkPayload<SockDiagMessage>) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
        message.serialize(&mut bytes);
        bytes
    }

    fn found(connection: &Connection) -> Vec<u8> {
        encode(SockDiagMessage::InetResponse(Box::new(response(connection))).into())
    }

    fn connection(cookie: u64, peer: &str, received: u64) -> Connection {
        let peer = peer.parse().unwrap();
        Connection {
            port: 443,
            peer,
            established: true,
            cookie,
            received: Some(received),
            silent_ms: 0,
            scale: Some(7),
        }
    }

    /// Returns what was found, and how it ended.
    fn parsed(bytes: &[u8]) -> (Vec<Connection>, io::Result<bool>) {
        let mut all = Vec::new();
        let ended = parse(bytes, &mut |found| {
            all.push(Connection::from(found));
            true
        });
        (all, ended)
    }

    #[test]
    fn answers_of_the_kernel_are_understood() {
        let connections = [
            connection(1, "192.0.2.7", 5000),
            connection(2, "2001:db8::7", 0),
            Connection { established: false, received: None, scale: None, ..connection(3, "192.0.2.8", 0) },
            Connection { silent_ms: 12_000, ..connection(4, "192.0.2.9", 17) },
        ];
        let mut bytes: Vec<u8> = connections.iter().flat_map(found).collect();
        let (all, ended) = parsed(&bytes);
        assert_eq!((all.as_slice(), ended.unwrap()), (&connections[..], true), "more is to come");
        bytes.extend(encode(NetlinkPayload::Done(DoneMessage::default())));
        let (all, ended) = parsed(&bytes);
        assert_eq!((all.as_slice(), ended.unwrap()), (&connections[..], false));
    }

    #[test]
    fn an_answer_that_makes_no_sense_ends_the_reading() {
        let whole = found(&connection(1, "192.0.2.7", 5000));
        let mut refused = ErrorMessage::default();
        refused.code = std::num::NonZero::new(-libc::ENOENT);
        let refused = encode(NetlinkPayload::Error(refused));
        for (bytes, read) in [(&whole[..whole.len() - 4], 0), (&[0; 16][..], 0), (&[][..], 0), (&refused, 0)] {
            let (all, ended) = parsed(bytes);
            assert!(all.len() == read && ended.is_err(), "{bytes:?}: {all:?}");
        }
    }

    #[test]
    fn connections_that_are_held_and_not_used_are_counted_by_age() {
        let v4 = |host: u64, received| connection(host, &format!("198.51.100.{host}"), received);
        let held: Vec<Connection> = (1..=5).map(|host| v4(host, 300)).collect();
        let mut table = HashMap::new();
        // Seconds since the first reading, and what is expected then: stalled, and their peers.
        for (at, stalled, peers) in [(0, 0, 0), (9, 0, 0), (10, 5, 1), (30, 5, 1)] {
            let mut sum = Sum::new(at * SECOND, &table);
            held.iter().for_each(|connection| sum.add(connection));
            sum.add(&v4(6, 100_000));
            sum.add(&Connection { established: false, received: None, scale: None, ..v4(7, 0) });
            // It was there before the first reading: the kernel tells.
            sum.add(&Connection { silent_ms: 60_000, ..connection(8, "203.0.113.1", 0) });
            // Young, whatever the others are.
            sum.add(&connection(100 + at, "2001:db8::1", 10));
            let (reading, seen) = sum.finish();
            let [port] = reading.ports.as_slice() else { panic!("{reading:?}") };
            let expected = PortSockets {
                port: 443,
                established: 8,
                half_open: 1,
                stalled: stalled + 1,
                stalled_peers: peers + 1,
                scales: 1 << 7,
            };
            assert_eq!(*port, expected, "after {at} s");
            assert_eq!(reading.peers.len(), 2, "those who sent data, by block: {:x?}", reading.peers);
            assert_eq!(seen.len(), 7, "closed connections are forgotten");
            table = seen;
        }
    }

    #[test]
    fn loopback_is_nobody() {
        let before = HashMap::new();
        let mut sum = Sum { sockets: MOST_SOCKETS - 2, ..Sum::new(0, &before) };
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            sum.add(&connection(1, peer, 9000));
        }
        assert!(sum.may_go_on() && !sum.may_go_on(), "and the bound holds");
        assert_eq!(sum.finish().0.peers, Vec::<u64>::new());
    }
}
