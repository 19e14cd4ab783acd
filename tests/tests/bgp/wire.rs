//! A BGP speaker that only listens, written from RFC 4271 and RFC 4760: what a neighbour tells it, octet for octet.
//! Beside the real peers, it says what was on the wire, and when it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ftagent_tests::sandbox::Sandbox;

/// What is announced: address family, subsequent family, NLRI.
pub type Key = (u16, u8, Vec<u8>);

/// What it is announced with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub next_hop: Option<IpAddr>,
    pub communities: BTreeSet<u32>,
    pub extended: Vec<[u8; 8]>,
    pub large: BTreeSet<[u32; 3]>,
}

/// What a neighbour has announced and not withdrawn.
pub type Table = BTreeMap<Key, Attributes>;

/// The neighbours' tables.
#[derive(Default)]
struct Heard {
    /// Those whose session is up.
    tables: Mutex<BTreeMap<Ipv4Addr, Table>>,
    changed: Condvar,
    stop: AtomicBool,
}

/// The speaker.
pub struct Wire {
    heard: Arc<Heard>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Keeps a session with each neighbour: address, the AS to claim to it, and whether it waits to be called.
    pub fn start(sandbox: &Sandbox, neighbours: &[(Ipv4Addr, u16, bool)]) -> Self {
        let heard = Arc::new(Heard::default());
        let mut threads = Vec::new();
        let inside = |deed: Box<dyn FnOnce() + Send>| {
            let thread = sandbox.here().spawn(deed);
            thread::spawn(move || thread.join().unwrap().unwrap())
        };
        for &(neighbour, asn, called) in neighbours {
            let heard = Arc::clone(&heard);
            let deed = move || {
                while !heard.stop.load(Ordering::Relaxed) {
                    if let Ok(stream) = TcpStream::connect((neighbour, 179)) {
                        session(stream, neighbour, asn, &heard);
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            };
            if called {
                threads.push(inside(Box::new(deed)));
            }
        }
        let (callers, all) = (neighbours.to_vec(), Arc::clone(&heard));
        threads.push(inside(Box::new(move || {
            let listener = TcpListener::bind("127.0.0.1:179").unwrap();
            listener.set_nonblocking(true).unwrap();
            while !all.stop.load(Ordering::Relaxed) {
                let Ok((stream, from)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                let caller = callers.iter().find(|(address, _, called)| !called && from.ip() == *address).copied();
                let Some((neighbour, asn, _)) = caller else { continue };
                stream.set_nonblocking(false).unwrap();
                let heard = Arc::clone(&all);
                thread::spawn(move || session(stream, neighbour, asn, &heard));
            }
        })));
        Self { heard, threads }
    }

    fn tables(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, Table>> {
        self.heard.tables.lock().unwrap()
    }

    /// Returns what a neighbour has announced; `None` while no session with it is up.
    pub fn table(&self, neighbour: Ipv4Addr) -> Option<Table> {
        self.tables().get(&neighbour).cloned()
    }

    /// Waits until a neighbour's table is as wanted; returns when it was.
    pub fn wait(&self, neighbour: Ipv4Addr, what: &str, wanted: impl Fn(&Table) -> bool) -> Instant {
        let until = Instant::now() + Duration::from_secs(60);
        let mut tables = self.tables();
        loop {
            if tables.get(&neighbour).is_some_and(&wanted) {
                return Instant::now();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{neighbour} does not tell {what}: {:#?}", tables.get(&neighbour));
            tables = self.heard.changed.wait_timeout(tables, left).unwrap().0;
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.heard.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap_or_default());
    }
}

/// Lasts as long as the connection.
fn session(mut stream: TcpStream, neighbour: Ipv4Addr, asn: u16, heard: &Heard) {
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut up = false;
    let mut buffer = Vec::new();
    while !heard.stop.load(Ordering::Relaxed) {
        let mut chunk = vec![0; 65536];
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        while let Some(message) = message(&mut buffer) {
            let answer = match message[0] {
                1 => [open(asn), framed(4, &[])].concat(),
                4 => framed(4, &[]),
                kind => {
                    if kind == 3 {
                        eprintln!("{neighbour} ends the session: {message:02x?}");
                    }
                    Vec::new()
                }
            };
            let mut tables = heard.tables.lock().unwrap();
            if message[0] == 4 && !up {
                up = true;
                tables.insert(neighbour, Table::new());
            }
            if let (2, Some(table)) = (message[0], tables.get_mut(&neighbour)) {
                update(&message[1..], table);
            }
            drop(tables);
            heard.changed.notify_all();
            if stream.write_all(&answer).is_err() {
                break;
            }
        }
    }
    heard.tables.lock().unwrap().remove(&neighbour);
    heard.changed.notify_all();
}

/// Takes a whole message from the front: its type and what follows.
fn message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*buffer.get(16)?, *buffer.get(17)?]));
    if buffer.len() < length {
        return None;
    }
    let rest = buffer.split_off(length);
    let message = buffer.split_off(18);
    *buffer = rest;
    Some(message)
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// Four families, and AS numbers of four octets.
fn open(asn: u16) -> Vec<u8> {
    let mut capabilities = vec![65, 4, 0, 0];
    capabilities.extend(asn.to_be_bytes());
    for (afi, safi) in [(1, 1), (2, 1), (1, 133), (2, 133)] {
        capabilities.extend([1, 4, 0, afi, 0, safi]);
    }
    let length = u8::try_from(capabilities.len()).unwrap();
    let body = [&[4][..], &asn.to_be_bytes(), &[0, 90, 127, 0, 0, 1, length + 2, 2, length], &capabilities].concat();
    framed(1, &body)
}

fn update(message: &[u8], table: &mut Table) {
    let (withdrawn, rest) = counted(message);
    let (attributes, announced) = counted(rest);
    let mut gone: Vec<Key> = nlris(1, 1, withdrawn);
    let mut new = Vec::new();
    let mut found = Attributes::default();
    let mut left = attributes;
    while let [flags, kind, rest @ ..] = left {
        let (value, behind) = match flags & 0x10 {
            0 => rest[1..].split_at(rest[0].into()),
            _ => counted(rest),
        };
        left = behind;
        match kind {
            3 => found.next_hop = address(value),
            8 => found.communities = value.chunks(4).map(number).collect(),
            16 => found.extended = value.chunks(8).map(|chunk| chunk.try_into().unwrap()).collect(),
            32 => {
                let large = |chunk: &[u8]| [0, 4, 8].map(|at| number(&chunk[at..at + 4]));
                found.large = value.chunks(12).map(large).collect();
            }
            14 => {
                let length = usize::from(value[3]);
                // Behind a global next hop there may be a link-local one.
                found.next_hop = address(&value[4..4 + length.min(16)]);
                new.extend(nlris(value[1].into(), value[2], &value[5 + length..]));
            }
            15 => gone.extend(nlris(value[1].into(), value[2], &value[3..])),
            _ => {}
        }
    }
    new.extend(nlris(1, 1, announced));
    gone.iter().for_each(|key| drop(table.remove(key)));
    table.extend(new.into_iter().map(|key| (key, found.clone())));
}

/// Splits off what two octets say the length of.
fn counted(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[2..].split_at(u16::from_be_bytes([bytes[0], bytes[1]]).into())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into()),
        _ => None,
    }
}

fn nlris(afi: u16, safi: u8, mut bytes: &[u8]) -> Vec<Key> {
    let mut all = Vec::new();
    while let Some(first) = bytes.first() {
        let length = match (safi, first) {
            (133, 0xf0..) => 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]) & 0xfff),
            (133, first) => 1 + usize::from(*first),
            (_, bits) => 1 + usize::from(*bits).div_ceil(8),
        };
        let (nlri, rest) = bytes.split_at(length);
        all.push((afi, safi, nlri.to_vec()));
        bytes = rest;
    }
    all
}
