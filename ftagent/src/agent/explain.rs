//! What would happen to a packet, from the lists and rules that are in the kernel now.

use std::net::IpAddr;

use anyhow::{Result, bail};
use ftagent_common::{
    DropReason, TrafficClass,
    parse::{SlicePacket, parse},
    rules::has,
};
use ipnet::IpNet;

use super::{
    Agent,
    mitigator::{Live, Owner},
};
use crate::{
    act::store::origin,
    bpf::lists::Which,
    decide::{Packet, guard::Ports, packet::tcp},
    rule::Action,
    sense::clock,
    serve::{
        explain::MOST_FRAMES,
        protocol::{
            Explain, Explained, Explanation, Frame, GuardStatus, ListHit, RuleVerdict, TripwireStatus, Verdict,
        },
    },
};

impl Agent {
    pub(super) fn explain(&self, question: &Explain) -> Result<Explained> {
        if question.frames.len() > MOST_FRAMES {
            bail!("{} packets are too many for one question: ask for {MOST_FRAMES} at a time", question.frames.len());
        }
        let (view, now_ns) = (self.brain.rules(), clock::monotonic_ns());
        let in_force = |live: &&Live| live.failed.is_none() && live.ends_ns.is_none_or(|ends| ends > now_ns);
        let rules: Vec<&Live> = view.rules.iter().filter(in_force).collect();
        let explain = |frame: &Frame| self.explain_frame(frame, &rules, question.detail);
        Ok(Explained { frames: question.frames.iter().map(explain).collect::<Result<_>>()? })
    }

    fn explain_frame(&self, frame: &Frame, rules: &[&Live], detail: bool) -> Result<Explanation> {
        let Some(bytes) = bytes(&frame.hex) else { bail!("`{}` is not hexadecimal", frame.hex) };
        if bytes.len() < 14 {
            bail!("{} bytes are no Ethernet frame: its header alone has 14", bytes.len());
        }
        let wire = frame.wire.map_or(bytes.len(), |wire| (wire as usize).max(bytes.len()));
        let is_service = |port: u16| self.service_ports.contains(&port);
        let class = parse(&SlicePacket { bytes: &bytes, wire }, is_service).class as usize;
        let class = TrafficClass::from_index(class).unwrap_or(TrafficClass::Malformed);
        let packet = Packet::decode(0, &bytes, wire, Some(class), false);
        let lists = packet.src().map_or(Vec::new(), |src| self.hits(src));
        let (tried, verdict, by_rule) = try_rules(&packet, rules, detail);
        let (verdict, reason, mut because) = decide(&lists, verdict, by_rule);
        // The allow list overrules these, too.
        if verdict == Verdict::Pass && !lists.iter().any(|hit| hit.list.starts_with("allow")) {
            let (guard, tripwire) = self.brain.guards();
            let more = watchers(&packet, class, &guard.unwrap_or_default(), &tripwire.unwrap_or_default());
            more.iter().for_each(|what| because = format!("{because}; {what}"));
        }
        Ok(Explanation {
            packet: in_one_line(&packet),
            class: class.as_str().to_owned(),
            verdict,
            reason: reason.map(str::to_owned),
            because,
            lists,
            rules: tried,
        })
    }

    /// Returns the entries that cover a source, those that drop first.
    fn hits(&self, src: IpAddr) -> Vec<ListHit> {
        let now = self.clock.now();
        let mut hits = Vec::new();
        for (which, name) in [(Which::Block, "block"), (Which::Allow, "allow")] {
            let Some((prefix, entry)) = self.lists.find(which, src, now) else { continue };
            let ends_s = (entry.expires != u64::MAX).then(|| self.clock.until(entry.expires).as_secs());
            let record = self.store.record(which, prefix);
            let list = if entry.origin == origin::CONFIG { format!("{name}:config") } else { name.to_owned() };
            let (reason, by) = record.map(|record| (record.reason.clone(), record.by.clone())).unwrap_or_default();
            hits.push(ListHit { list, prefix, reason, by, ends_s });
        }
        if let Some((prefix, entry)) = self.lists.find_in_feeds(src, now) {
            let feed = self.feeds.name_of(entry.origin).map(|name| format!("feed:{name}"));
            let list = feed.unwrap_or_else(|| "block:config".to_owned());
            hits.insert(
                usize::from(hits.first().is_some_and(|hit| hit.list == "block")),
                ListHit { list, prefix, reason: String::new(), by: String::new(), ends_s: None },
            );
        }
        hits
    }
}

/// What the rules say: drop or limit, and which one.
type ByRule = Option<(u32, String)>;

/// Tries the rules in their order. Those that count never decide.
fn try_rules(packet: &Packet, rules: &[&Live], detail: bool) -> (Vec<RuleVerdict>, Verdict, ByRule) {
    let (mut tried, mut verdict, mut by_rule) = (Vec::new(), Verdict::Pass, None);
    let subject = packet.subject();
    for live in rules {
        let rule = &live.wanted.rule;
        let mismatches = rule.matches.mismatches(&subject);
        let hit = mismatches.is_empty();
        let decides = hit && by_rule.is_none() && !rule.action.only_looks();
        let id = match live.owner {
            Owner::Operator(id) | Owner::Decision(id) => id,
            Owner::Inherited | Owner::Capture(_) => live.wanted.id,
        };
        if decides {
            verdict = match rule.action {
                Action::Drop => Verdict::Drop,
                Action::RateLimit(_) => Verdict::Limit,
                Action::Challenge | Action::Count | Action::Capture => Verdict::Pass,
            };
            by_rule = Some((id, format!("`{} then {}`", rule.matches, rule.action)));
        }
        if hit || detail {
            let (matches, action) = (rule.matches.to_string(), rule.action.to_string());
            tried.push(RuleVerdict { id, origin: rule.origin.clone(), matches, action, mismatches, decides });
        }
    }
    (tried, verdict, by_rule)
}

/// Blocks and feeds come first, then rules, and the allow list overrules any drop.
fn decide(lists: &[ListHit], by_rules: Verdict, by_rule: ByRule) -> (Verdict, Option<&'static str>, String) {
    let allowed = lists.iter().find(|hit| hit.list.starts_with("allow"));
    let listed = lists.iter().find(|hit| !hit.list.starts_with("allow"));
    let whole = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    let (verdict, reason, because) = match (listed, by_rule) {
        (Some(hit), _) => {
            let reason = match (hit.list.starts_with("feed:") || hit.list == "block:config", whole(&hit.prefix)) {
                (false, true) => DropReason::BlockAddress,
                (false, false) => DropReason::BlockPrefix,
                (true, true) => DropReason::FeedAddress,
                (true, false) => DropReason::FeedPrefix,
            };
            (Verdict::Drop, Some(reason.as_str()), format!("{} is listed ({})", hit.prefix, hit.list))
        }
        (None, Some((id, text))) if by_rules == Verdict::Pass => {
            let what = "a SYN to a listener of this host is answered by a cookie, everything else passes";
            (Verdict::Pass, None, format!("rule {id} challenges it, {what}: {text}"))
        }
        (None, Some((id, text))) => {
            let reason = if by_rules == Verdict::Drop { DropReason::Rule } else { DropReason::RateLimit };
            (by_rules, Some(reason.as_str()), format!("rule {id} matches: {text}"))
        }
        (None, None) => (Verdict::Pass, None, "no list names its source and no rule that drops matches".to_owned()),
    };
    match allowed {
        Some(hit) if verdict != Verdict::Pass => {
            (Verdict::Pass, None, format!("{} is allowed, which overrules that {because}", hit.prefix))
        }
        _ => (verdict, reason, because),
    }
}

/// Returns what else may drop a packet: whether it does hangs on sockets and on how many there are.
fn watchers(packet: &Packet, class: TrafficClass, guard: &GuardStatus, tripwire: &TripwireStatus) -> Vec<String> {
    let (ports, class) = (Ports::of(packet.dport), class.as_str());
    let mut all = Vec::new();
    if packet.is_tcp() && guard.state.contains(&ports) {
        all.push(format!(
            "but the guard is armed for tcp {ports} and drops it where this host has no socket for it (out_of_state)"
        ));
    }
    let is_syn = packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN;
    if packet.is_tcp() && is_syn && guard.cookies.contains(&packet.dport) {
        all.push("while its listener's queue is full the guard answers it by a cookie".to_owned());
    }
    if packet.is_udp() && guard.closed.contains(&ports) {
        all.push(format!("but the guard is armed for udp {ports} and drops it where no socket is open (closed_port)"));
    }
    if let Some(kept) = tripwire.thinned.get(class) {
        all.push(format!(
            "but {class} is thinned to {kept:.0} packets a second, sockets that are open spared (ceiling)"
        ));
    } else if tripwire.classes.contains(class) {
        all.push(format!("but what is too much of {class} is dropped, sockets that are open spared (ceiling)"));
    }
    all
}

/// `udp 192.0.2.1:123 > 198.51.100.10:4242, 468 bytes, TTL 64`.
fn in_one_line(packet: &Packet) -> String {
    let Some((src, dst)) = packet.ends else { return format!("not IP, {} bytes", packet.wire) };
    let ends = if packet.key.has & has::PORTS != 0 {
        let end = |address: IpAddr, port: u16| std::net::SocketAddr::new(address, port);
        format!("{} > {}", end(src, packet.sport), end(dst, packet.dport))
    } else {
        format!("{src} > {dst}")
    };
    let proto = crate::rule::protocol_name(packet.proto);
    let fragment = if packet.fragment.is_some() { ", a fragment" } else { "" };
    format!("{proto} {ends}, {} bytes, TTL {}{fragment}", packet.wire, packet.ttl)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::frames::{HOST, Segment, member, tcp_between, udp};

    #[test]
    fn what_the_guard_and_the_tripwire_may_do_is_said() {
        let guard = GuardStatus {
            cookies: [443].into(),
            state: [Ports::One(443)].into(),
            closed: [Ports::Ephemeral].into(),
            ..GuardStatus::default()
        };
        let classes = ["udp_small", "tcp_ack"].map(str::to_owned).into();
        let thinned = [("udp_small".to_owned(), 200.0)].into();
        let tripwire = TripwireStatus { policed: 2, classes, thinned, ..TripwireStatus::default() };
        let segment = |dport: u16, flags: u8| {
            tcp_between(member(1), HOST, &Segment { ports: (40_000, dport), flags, seq: 1, ack: 1, payload: &[] })
        };
        let cases: [(Vec<u8>, TrafficClass, &[&str]); 6] = [
            (segment(443, tcp::SYN), TrafficClass::TcpSyn, &["out_of_state", "by a cookie"]),
            (segment(443, tcp::RST), TrafficClass::TcpRst, &["tcp 443"]),
            (segment(22, tcp::RST), TrafficClass::TcpRst, &[]),
            (segment(22, tcp::ACK), TrafficClass::TcpAck, &["too much of tcp_ack"]),
            (udp(member(1), (53, 40_000), &[1; 9]), TrafficClass::UdpSmall, &["closed_port", "200 packets a second"]),
            (udp(member(1), (9, 9), &[1; 9]), TrafficClass::UdpLarge, &[]),
        ];
        for (frame, class, expected) in cases {
            let packet = Packet::decode(0, &frame, frame.len(), Some(class), false);
            let said = watchers(&packet, class, &guard, &tripwire);
            assert_eq!(said.len(), expected.len(), "{said:?}");
            assert!(said.iter().zip(expected).all(|(said, part)| said.contains(part)), "{said:?}");
        }
    }
}
