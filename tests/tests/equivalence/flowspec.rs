//! Routers: flow specifications, matched by their RFC's text to packets that are read here anew, as a
//! router reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ftagent::rule::{
    Family, FlowMatch, Fragment, Subject,
    flowspec::{CannotSay, Compiled, FlowSpec},
};
use ftagent_common::rules::{Key, has};
use ftagent_tests::packet::proto;

use super::{Case, Tally};

/// What a match is as flow specifications, of each family.
pub struct Specs(Vec<[Result<Compiled, CannotSay>; 2]>);

/// Compiles the rules.
pub fn specs(rules: &[FlowMatch]) -> Specs {
    let both = |matches: &FlowMatch| [Family::Ip4, Family::Ip6].map(|family| FlowSpec::compile(matches, family));
    Specs(rules.iter().map(both).collect())
}

impl Specs {
    /// Compares what flow specifications match with what the rules do.
    pub fn compare(&self, rules: &[FlowMatch], cases: &[&Case], tally: &mut Tally) {
        for case in cases.iter().filter(|case| !case.is_malformed()) {
            // What a router makes of the others is its own affair.
            let Some(read) = read(&case.frame) else { continue };
            tally.flowspec += 1;
            for (i, (matches, specs)) in rules.iter().zip(&self.0).enumerate() {
                let spec = if read.ends.0.is_ipv4() { &specs[0] } else { &specs[1] };
                let met = case.met.binary_search(&i).is_ok();
                let beyond = judge(matches, spec, case, &read, met).unwrap_or_else(|wrong| {
                    panic!("FlowSpec, {wrong}: `{matches}` as {spec:?}, {:02x?} ({:?})", case.frame, case.packet.key)
                });
                tally.flowspec_beyond += u64::from(beyond);
            }
        }
    }
}

/// Returns whether a flow specification takes a packet that its rule does not mean, as it says it may.
fn judge(
    matches: &FlowMatch,
    spec: &Result<Compiled, CannotSay>,
    case: &Case,
    read: &Read,
    met: bool,
) -> Result<bool, &'static str> {
    // No router can be asked for the ICMP of the other family (RFC 8955, 4.2.2.7; RFC 8956, 3.5).
    let other = matches!((read.ends.0.is_ipv4(), read.key.proto), (true, proto::ICMPV6) | (false, proto::ICMP));
    if other && !(matches.icmp_type.is_any() && matches.icmp_code.is_any()) {
        return Ok(false);
    }
    let compiled = match spec {
        Ok(compiled) => compiled,
        Err(CannotSay::Family | CannotSay::Nothing(_)) if met => return Err("it is said to match nothing"),
        Err(CannotSay::Malformed(what)) => panic!("{what}: `{matches}`"),
        Err(_) => return Ok(false),
    };
    let found = compiled.spec.matches(&read.subject());
    // Ports of first fragments are declared; and a router knows IPv6's last fragment from those before it.
    let wider = compiled.first_fragments && read.key.fragment & FIRST != 0
        || !read.ends.0.is_ipv4() && read.key.fragment & LAST != 0 && matches.frag.contains(&Fragment::Last);
    let says = if compiled.widened.is_empty() { met } else { compiled.says.matches(&case.packet.subject()) };
    match (found, says, met) {
        (_, false, true) => Err("what it says leaves out a packet that is meant"),
        (false, true, _) => Err("it leaves a packet out"),
        (true, false, _) if !wider => Err("it takes more"),
        _ => Ok(found && !met),
    }
}

/// A packet as a router reads it.
pub struct Read {
    pub ends: (IpAddr, IpAddr),
    pub key: Key,
}

impl Read {
    pub fn subject(&self) -> Subject<'_> {
        Subject { ends: Some(self.ends), key: self.key, payload: &[] }
    }
}

/// RFC 8955, 4.2.2.12.
const DONT: u8 = 1;
const IS: u8 = 2;
pub const FIRST: u8 = 4;
pub const LAST: u8 = 8;

/// Reads a frame. `None` where RFC 8956 and rules have different ideas of what is behind a header: an
/// authentication header, which is an extension header there and a protocol here; extension headers behind
/// a first fragment's; a fragment of a fragment.
pub fn read(frame: &[u8]) -> Option<Read> {
    let mut at = 12;
    while matches!(pair(frame, at)?, 0x8100 | 0x88a8) {
        at += 4;
    }
    let packet = frame.get(at + 2..)?;
    let mut read = if packet.first()? >> 4 == 4 { version4(packet)? } else { version6(packet)? };
    let (key, upper) = (&mut read.0.key, packet.get(read.1..)?);
    key.has = has::IP;
    if key.fragment & IS != 0 {
        return Some(read.0);
    }
    if matches!(key.proto, proto::TCP | proto::UDP)
        && let (Some(sport), Some(dport)) = (pair(upper, 0), pair(upper, 2))
    {
        (key.sport, key.dport, key.has) = (sport, dport, key.has | has::PORTS);
    }
    if let Some(flags) = upper.get(13).filter(|_| key.proto == proto::TCP) {
        (key.flags, key.has) = (*flags, key.has | has::FLAGS);
    }
    if let [kind, code, ..] = upper
        && matches!(key.proto, proto::ICMP | proto::ICMPV6)
    {
        (key.icmp_type, key.icmp_code, key.has) = (*kind, *code, key.has | has::ICMP);
    }
    Some(read.0)
}

fn pair(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Returns an IPv4 packet, and where its payload begins.
fn version4(packet: &[u8]) -> Option<(Read, usize)> {
    let address = |at: usize| Some(IpAddr::from(Ipv4Addr::from_octets(packet.get(at..at + 4)?.try_into().ok()?)));
    let bits = pair(packet, 6)?;
    let (offset, more) = (bits & 0x1fff, bits & 0x2000 != 0);
    let mut key =
        Key { len: pair(packet, 2)?, ttl: packet[8], proto: packet[9], dscp: packet[1] >> 2, ..Key::default() };
    key.fragment = kind(offset, more) | if bits & 0x4000 != 0 { DONT } else { 0 };
    Some((Read { ends: (address(12)?, address(16)?), key }, usize::from(packet[0] & 15) * 4))
}

/// Returns an IPv6 packet, and where its upper-layer header begins.
fn version6(packet: &[u8]) -> Option<(Read, usize)> {
    let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from_octets(packet.get(at..at + 16)?.try_into().ok()?)));
    let class = pair(packet, 0)? >> 4 & 0xff;
    let len = pair(packet, 4)?.saturating_add(40);
    let mut key = Key { len, ttl: *packet.get(7)?, dscp: (class >> 2) as u8, ..Key::default() };
    let (mut next, mut at, mut fragmented) = (*packet.get(6)?, 40, false);
    loop {
        match next {
            proto::AH => return None,
            proto::FRAGMENT if fragmented => return None,
            proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION if key.fragment & FIRST != 0 => return None,
            proto::FRAGMENT => {
                let bits = pair(packet, at + 2)?;
                (next, fragmented) = (*packet.get(at)?, true);
                key.fragment = kind(bits >> 3, bits & 1 != 0);
                at += 8;
                // What is behind a later fragment's header is data.
                if key.fragment & IS != 0 {
                    if next == proto::AH {
                        return None;
                    }
                    break;
                }
            }
            proto::HOP_BY_HOP | proto::ROUTING | proto::DESTINATION => {
                next = *packet.get(at)?;
                at += 8 * (usize::from(*packet.get(at + 1)?) + 1);
            }
            _ => break,
        }
    }
    key.proto = next;
    Some((Read { ends: (address(8)?, address(24)?), key }, at))
}

fn kind(offset: u16, more: bool) -> u8 {
    match (offset, more) {
        (0, false) => 0,
        (0, true) => FIRST,
        (_, true) => IS,
        (_, false) => IS | LAST,
    }
}
