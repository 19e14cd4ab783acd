//! TCP connections, both directions: floods that complete handshakes, and people who do.

use anyhow::Result;

use super::{
    Recipe,
    maker::{Maker, Packet, Peer},
    recipe,
};
use crate::traffic::{L4, tcp};

pub(super) const RECIPES: &[Recipe] = &[
    recipe("connection_flood", connections),
    recipe("tls_flood", tls),
    recipe("http_get_flood", http_get),
    recipe("flash_crowd", |m| people(m, 4, 16_000)),
    // The same in few packets, for simulations of many days.
    recipe("short_visits", |m| people(m, 1, 2800)),
    recipe("speed_test", |m| bulk(m, 6, 8000, 5201)),
    recipe("backup_upload", |m| bulk(m, 1, 8000, 873)),
    recipe("download_acks", downloads),
];

const MILLISECOND: u64 = 1_000_000;
const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7];
/// No operation twice and time stamps, as every segment of a connection has that agreed on them.
const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 1, 2, 3, 0, 4, 5, 6];
const MSS: usize = 1448;

/// One connection, from the client's side.
struct Flow<'a> {
    maker: &'a mut Maker,
    peer: Peer,
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    /// Nanoseconds.
    at: u64,
    rtt: u64,
}

impl<'a> Flow<'a> {
    /// A new client, a little after the one before it.
    fn new(maker: &'a mut Maker, peer: Peer, port: u16, gap_ns: u64) -> Self {
        maker.at += gap_ns;
        let (at, ports) = (maker.at, (maker.ephemeral(), port));
        let (seq, ack) = (maker.word(), maker.word());
        let rtt = MILLISECOND * u64::from(maker.between(5, 90));
        Self { maker, peer, ports, seq, ack, at, rtt }
    }

    fn segment(&mut self, inbound: bool, flags: u8, payload: &[u8]) -> Result<()> {
        let (sport, dport) = if inbound { self.ports } else { (self.ports.1, self.ports.0) };
        let (seq, ack) = if inbound { (self.seq, self.ack) } else { (self.ack, self.seq) };
        let ack = if flags & tcp::ACK == 0 { 0 } else { ack };
        let options = if flags & tcp::SYN == 0 { STAMPS.to_vec() } else { SYN_OPTIONS.to_vec() };
        let l4 = L4::Tcp { sport, dport, flags, seq, ack, window: 502, options };
        let used = payload.len() as u32 + u32::from(flags & (tcp::SYN | tcp::FIN) != 0);
        let packet = Packet::new(l4, payload.to_vec());
        if inbound {
            self.seq = self.seq.wrapping_add(used);
            self.maker.receive_at(self.at, self.peer, packet)
        } else {
            self.ack = self.ack.wrapping_add(used);
            self.maker.send_at(self.at, self.peer, packet)
        }
    }

    fn handshake(&mut self) -> Result<()> {
        self.segment(true, tcp::SYN, &[])?;
        self.at += 50_000;
        self.segment(false, tcp::SYN | tcp::ACK, &[])?;
        self.at += self.rtt;
        self.segment(true, tcp::ACK, &[])
    }

    /// A request and its answer, acknowledged every second segment.
    fn exchange(&mut self, request: &[u8], answer: usize) -> Result<()> {
        self.at += 20_000;
        self.segment(true, tcp::PSH | tcp::ACK, request)?;
        self.at += 300_000;
        let mut left = answer;
        let mut sent = 0;
        while left > 0 {
            let length = left.min(MSS);
            let payload = self.maker.noise(length);
            self.segment(false, tcp::ACK | if left <= MSS { tcp::PSH } else { 0 }, &payload)?;
            left -= length;
            sent += 1;
            self.at += 12_000;
            if sent % 2 == 0 || left == 0 {
                self.at += self.rtt / 16;
                self.segment(true, tcp::ACK, &[])?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.at += 40_000;
        self.segment(true, tcp::FIN | tcp::ACK, &[])?;
        self.at += 60_000;
        self.segment(false, tcp::FIN | tcp::ACK, &[])?;
        self.at += self.rtt;
        self.segment(true, tcp::ACK, &[])
    }
}

/// Handshakes and nothing after them.
fn connections(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(800);
    for _ in 0..2000 {
        let bot = maker.pick(&bots);
        Flow::new(maker, bot, 443, 400_000).handshake()?;
    }
    Ok(())
}

/// One ClientHello of the same tool on each connection, which is dropped once it was answered.
fn tls(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(800);
    for _ in 0..1500 {
        let bot = maker.pick(&bots);
        let hello = client_hello(maker, 512);
        let mut flow = Flow::new(maker, bot, 443, 400_000);
        flow.handshake()?;
        flow.exchange(&hello, 3100)?;
        flow.segment(true, tcp::RST, &[])?;
    }
    Ok(())
}

/// A TLS record of version 3.1 with a ClientHello (RFC 8446, section 4.1.2).
fn client_hello(maker: &mut Maker, length: usize) -> Vec<u8> {
    let (record, message) = ((length - 5) as u16, (length - 9) as u16);
    let mut head = vec![22, 3, 1];
    head.extend(record.to_be_bytes());
    head.extend([1, 0]);
    head.extend(message.to_be_bytes());
    head.extend([3, 3]);
    maker.filled(&head, length)
}

/// The same request but for its query, one on each connection.
fn http_get(maker: &mut Maker) -> Result<()> {
    let bots = maker.peers(800);
    for _ in 0..1500 {
        let (bot, query) = (maker.pick(&bots), maker.word());
        let request = format!(
            "GET /search?q={query:010} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n"
        );
        let mut flow = Flow::new(maker, bot, 80, 400_000);
        flow.handshake()?;
        flow.exchange(request.as_bytes(), 900)?;
        flow.close()?;
    }
    Ok(())
}

/// People: each with an address, a browser and a pace of their own, who load a page and what is on
/// it, over one connection or two, and read on.
fn people(maker: &mut Maker, most_pages: u16, longest: usize) -> Result<()> {
    const BROWSERS: [&str; 6] = [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
        "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
        "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126.0 Mobile",
        "Mozilla/5.0 (Windows NT 10.0; rv:126.0) Gecko/20100101 Firefox/126.0",
    ];
    const PATHS: [&str; 12] = [
        "/",
        "/news",
        "/style.css",
        "/app.js",
        "/img/head.webp",
        "/tickets",
        "/api/seats",
        "/img/map.png",
        "/fonts/a.woff2",
        "/about",
        "/basket",
        "/api/price",
    ];
    for _ in 0..1800 {
        let (peer, browser, secure) = (maker.peer(), maker.pick(&BROWSERS), maker.below(2) == 0);
        let pages = maker.between(1, most_pages);
        let mut flow = Flow::new(maker, peer, if secure { 443 } else { 80 }, 3_000_000);
        flow.handshake()?;
        if secure {
            let length = flow.maker.length(260, 620);
            let hello = client_hello(flow.maker, length);
            flow.exchange(&hello, 3200)?;
        }
        for _ in 0..pages {
            let (path, cookie) = (flow.maker.pick(&PATHS), flow.maker.length(0, 120));
            let cookie = String::from_utf8(flow.maker.letters(cookie))?;
            let clear = format!(
                "GET {path} HTTP/1.1\r\nHost: tickets.example\r\nUser-Agent: {browser}\r\nCookie: s={cookie}\r\n\r\n"
            );
            let request = if secure { flow.maker.filled(&[23, 3, 3, 1, 64], clear.len()) } else { clear.into_bytes() };
            let answer = flow.maker.length(400, longest);
            flow.exchange(&request, answer)?;
            flow.at += MILLISECOND * u64::from(flow.maker.between(100, 1500));
        }
        flow.close()?;
    }
    Ok(())
}

/// Uploads: full segments in, an acknowledgement for every second one out.
fn bulk(maker: &mut Maker, connections: usize, segments: usize, port: u16) -> Result<()> {
    let peer = maker.peer();
    for _ in 0..connections {
        let mut flow = Flow::new(maker, peer, port, MILLISECOND);
        flow.handshake()?;
        for number in 0..segments / connections {
            let payload = flow.maker.noise(MSS);
            flow.at += 400_000;
            flow.segment(true, tcp::ACK, &payload)?;
            if number % 2 == 1 {
                flow.at += 30_000;
                flow.segment(false, tcp::ACK, &[])?;
            }
        }
        flow.close()?;
    }
    Ok(())
}

/// A hundred downloads from this host.
fn downloads(maker: &mut Maker) -> Result<()> {
    for _ in 0..100 {
        let peer = maker.peer();
        let mut flow = Flow::new(maker, peer, 443, MILLISECOND);
        flow.handshake()?;
        let hello = client_hello(flow.maker, 517);
        flow.exchange(&hello, 120 * MSS)?;
        flow.close()?;
    }
    Ok(())
}
