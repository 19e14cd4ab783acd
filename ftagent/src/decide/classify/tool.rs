//! What the packets look like they were made by. A hint: it never decides anything.

use std::net::IpAddr;

use super::super::{Vector, analyst::Seen};
use super::traits::{only, weight};

type Fingerprint = (&'static str, fn(&Seen) -> bool);

/// Returns the tool whose fingerprint most of the packets carry.
pub fn hint(vector: Vector, list: &[&Seen]) -> Option<String> {
    let list = list.get(list.len().saturating_sub(512)..).unwrap_or_default();
    let all = weight(list);
    let fingerprints: [Fingerprint; 6] = [
        ("mirai", is_mirai),
        ("loic", is_loic),
        ("goldeneye", is_random_query),
        ("slowloris", is_slowloris),
        ("vse", |seen| seen.packet.head().starts_with(b"\xff\xff\xff\xffTSource Engine Query")),
        ("hping3", is_hping),
    ];
    let fits = |name: &str| match name {
        "goldeneye" => vector == Vector::HttpFlood,
        "slowloris" => vector == Vector::SlowHttp,
        _ => true,
    };
    let found = fingerprints.iter().find(|(name, test)| fits(name) && weight(&only(list, test)) >= 0.6 * all);
    found.filter(|_| all > 0.0).map(|(name, _)| (*name).to_owned())
}

/// Mirai's scanner and its SYN flood put the destination address into the sequence number.
fn is_mirai(seen: &Seen) -> bool {
    let dst = match seen.packet.dst() {
        Some(IpAddr::V4(dst)) => dst.to_bits(),
        _ => return false,
    };
    seen.packet.is_tcp() && seen.packet.seq == dst
}

/// hping3: window 512 and no options; its ICMP and UDP packets are empty or filled with X.
fn is_hping(seen: &Seen) -> bool {
    let packet = &seen.packet;
    if packet.is_tcp() {
        return packet.window == 512 && packet.options == 0;
    }
    packet.payload > 0 && packet.head_len >= 4 && packet.head().iter().all(|byte| *byte == b'X')
}

/// LOIC's default texts, of the program and of its page.
fn is_loic(seen: &Seen) -> bool {
    let head = seen.packet.head();
    let has = |text: &[u8]| head.windows(text.len()).any(|part| part == text);
    has(b"A cat is fine too") || has(b"U dun goofed") || has(b"?id=") && has(b"&msg=")
}

/// GoldenEye and HULK: a query whose name is drawn at random.
fn is_random_query(seen: &Seen) -> bool {
    seen.packet.head().starts_with(b"GET /?") || seen.packet.head().starts_with(b"POST /?")
}

/// slowloris and its kin: header lines that begin `X-`.
fn is_slowloris(seen: &Seen) -> bool {
    seen.packet.head().starts_with(b"X-") || seen.packet.head().starts_with(b"GET /?") && seen.packet.payload < 40
}
