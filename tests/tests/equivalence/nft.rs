//! nftables itself: all rules in one table at the ingress of a veth, the packets from its other end.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use ftagent::{
    act::nft::{Hook, Nft, Runner as _},
    decide::Packet,
    rule::{
        Action, Family, FlowMatch,
        nft::{Branch, Test, compile},
    },
};
use ftagent_common::TrafficClass;
use ftagent_tests::{
    packet::{ethertype, proto},
    peers::need,
    sandbox::Sandbox,
    traffic::packet_socket,
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, send},
};
use serde_json::{Value, json};

use super::{Case, Sum, Tally, Times, met, timed};

/// The table of counted rules, and the way to it.
pub struct Veth {
    socket: OwnedFd,
    nft: Nft,
}

/// How a packet is to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Verdicts are the same.
    Exact,
    /// nftables may take more, as it says.
    Wider,
    /// nftables is not shown it.
    Unseen,
}

/// Runs `body` where the rules are in force. Without nftables the rest is compared all the same.
pub fn on_a_veth<T: Send>(what: &str, rules: &[FlowMatch], body: impl FnOnce(Option<Veth>) -> T + Send) -> T {
    if !need(what, &["nft"]) {
        return body(None);
    }
    Sandbox::run(|sandbox| {
        let pair = sandbox.veth("eq0", "eq1").unwrap();
        sandbox.command("ip link set eq0 mtu 3000").unwrap();
        sandbox.peer_command("ip link set eq1 mtu 3000").unwrap();
        let socket = sandbox.peer(|| packet_socket(pair.peer.ifindex).unwrap()).unwrap();
        let mut nft = Nft::default().with_patience(Duration::from_secs(120));
        nft.run(vec![json!({ "flush": { "ruleset": null } })]).unwrap();
        let compiled: Vec<_> = rules.iter().map(|matches| compile(matches, Action::Count).unwrap()).collect();
        let named: Vec<_> = (0u32..).zip(&compiled).map(|(id, compiled)| (id, compiled, "")).collect();
        nft.run(Hook::Ingress.whole(&["eq0".to_owned()], &named, 86_400)).unwrap();
        assert_listable(&mut nft, rules);
        // Behind ours: counts what arrived.
        nft.run(arrivals()).unwrap();
        body(Some(Veth { socket, nft }))
    })
    .unwrap()
}

/// What nft writes it can read: where it cannot, names the rule.
fn assert_listable(nft: &mut Nft, rules: &[FlowMatch]) {
    let list = || vec![json!({ "list": { "ruleset": null } })];
    let Err(error) = nft.run(list()) else { return };
    for matches in rules {
        let compiled = compile(matches, Action::Count).unwrap();
        nft.run(Hook::Ingress.whole(&[], &[(0, &compiled, "")], 60)).unwrap();
        let listed = nft.run(list());
        assert!(listed.is_ok(), "`{matches}` cannot be read back: {listed:?}\n{}", shown(matches));
    }
    panic!("the table cannot be read back, and each of its rules can: {error}");
}

/// How long packets may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// A table with a chain on either side of ours: `came` counts what arrives, `passed` what ours lets pass.
pub fn arrivals() -> Vec<Value> {
    let object = |name: &str| json!({ "family": "netdev", "table": "arrivals", "name": name });
    let mut commands = vec![json!({ "add": { "table": { "family": "netdev", "name": "arrivals" } } })];
    for (name, priority) in [("came", -600), ("passed", 0)] {
        let mut chain = object(name);
        let hook = json!({ "type": "filter", "hook": "ingress", "dev": "eq0", "prio": priority, "policy": "accept" });
        chain.as_object_mut().unwrap().extend(hook.as_object().unwrap().clone());
        let end = if name == "passed" { vec![json!({ "drop": null })] } else { Vec::new() };
        let expr = [vec![json!({ "counter": name })], end].concat();
        let rule = json!({ "family": "netdev", "table": "arrivals", "chain": name, "expr": expr });
        commands.push(json!({ "add": { "counter": object(name) } }));
        commands.push(json!({ "add": { "chain": chain } }));
        commands.push(json!({ "add": { "rule": rule } }));
    }
    commands
}

/// Returns what the counters of a table have counted since they were last asked. nft (1.0.6) reads all rules before it
/// lists a counter, which takes half a second where these are many, and none before it resets one.
pub fn counters(nft: &mut Nft, table: &str) -> Vec<(String, Sum)> {
    let listing = nft.run(vec![json!({ "reset": { "counters": { "family": "netdev", "table": table } } })]).unwrap();
    let sum = |counter: &Value| {
        let number = |name: &str| counter[name].as_u64().unwrap();
        Sum { packets: number("packets"), bytes: number("bytes") }
    };
    let counters = listing.iter().filter_map(|object| object.get("counter"));
    counters.map(|counter| (counter["name"].as_str().unwrap().to_owned(), sum(counter))).collect()
}

/// Waits until so many packets more have come in; returns how many of them passed our table.
pub fn wait_for_arrivals(nft: &mut Nft, sent: u64) -> u64 {
    let begun = Instant::now();
    let (mut came, mut passed) = (0, 0);
    let mut look = || {
        for (name, Sum { packets, .. }) in counters(nft, "arrivals") {
            *(if name == "came" { &mut came } else { &mut passed }) += packets;
        }
        (came, passed)
    };
    loop {
        let (came, _) = look();
        if came == sent {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "packets were lost on the veth: {came} of {sent}");
        thread::sleep(Duration::from_millis(5));
    }
    // Looked at after the last one came, not with it: it has passed by now, or never will.
    look().1
}

/// Returns how long nft takes a packet to be: without its Ethernet header, and without the tag that the kernel takes
/// off before.
fn length(frame: &[u8]) -> usize {
    let tagged = matches!(frame.get(12..14), Some([0x81, 0] | [0x88, 0xa8]));
    frame.len() - if tagged { 18 } else { 14 }
}

impl Veth {
    /// Sends the packets, and compares what each rule counted; finds a packet where that differs.
    pub fn compare(&mut self, rules: &[FlowMatch], cases: &[&Case], tally: &mut Tally) {
        let of = |kind: Kind| {
            cases.iter().copied().filter(|case| self::kind(&case.frame, &case.packet) == kind).collect::<Vec<_>>()
        };
        let (exact, wider) = (of(Kind::Exact), of(Kind::Wider));
        (tally.nft, tally.nft_wider) = (tally.nft + exact.len() as u64, tally.nft_wider + wider.len() as u64);
        let times = &mut tally.times;
        self.judge(rules, &exact, |found, expected| found == expected, times);
        let least = |found: Sum, expected: Sum| found.packets >= expected.packets && found.bytes >= expected.bytes;
        let found = self.judge(rules, &wider, least, times);
        let packets = |sums: Vec<Sum>| sums.iter().map(|sum| sum.packets).sum::<u64>();
        tally.nft_beyond += packets(found) - packets(met(&wider, rules.len(), length));
    }

    fn judge(
        &mut self,
        rules: &[FlowMatch],
        cases: &[&Case],
        is_right: fn(Sum, Sum) -> bool,
        times: &mut Times,
    ) -> Vec<Sum> {
        let expected = met(cases, rules.len(), length);
        let found = self.count(rules, cases, times);
        let wrong = (0..rules.len()).find(|rule| !is_right(found[*rule], expected[*rule]));
        let Some(rule) = wrong else { return found };
        // One of the packets shows it: half of those that are left does, or the other half.
        let mut left = cases;
        while left.len() > 1 {
            let (first, second) = left.split_at(left.len() / 2);
            let is_there = !is_right(self.count(rules, first, times)[rule], met(first, rules.len(), length)[rule]);
            left = if is_there { first } else { second };
        }
        let case = left[0];
        let (found, expected) = (self.count(rules, &[case], times)[rule], met(&[case], rules.len(), length)[rule]);
        panic!(
            "nftables, {found:?} instead of {expected:?} of `{}` and {:02x?} ({:?}; the same, if it needs others):\n{}",
            rules[rule],
            case.frame,
            case.packet.key,
            shown(&rules[rule]),
        );
    }

    fn count(&mut self, rules: &[FlowMatch], cases: &[&Case], times: &mut Times) -> Vec<Sum> {
        timed(&mut times.nft, || cases.iter().for_each(|case| transmit(self.socket.as_raw_fd(), &case.frame)));
        let (begun, sent) = (Instant::now(), cases.len() as u64);
        // Ours counts and drops nothing: what passed was counted.
        assert_eq!(wait_for_arrivals(&mut self.nft, sent), sent, "rules that count drop packets");
        let mut counts = vec![Sum::default(); rules.len()];
        for (name, sum) in counters(&mut self.nft, "ftagent") {
            let Some(rule) = name.strip_prefix("matched").and_then(|id| id.parse::<usize>().ok()) else { continue };
            counts[rule] = sum;
        }
        times.listed += begun.elapsed();
        counts
    }
}

/// A rule as it is in the table.
fn shown(matches: &FlowMatch) -> String {
    let words = |tests: &Vec<Test>| tests.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let branch = |(family, branch): (Family, &Branch)| {
        let leave = branch.leave.iter().map(|tests| format!("\n  leave {}", words(tests)));
        let take = |tests: &Vec<Test>| format!("\n  take {}", words(tests));
        let all = branch.first.iter().map(take).chain(leave).chain(branch.take.iter().map(take));
        format!("{family:?} {}{}", words(&branch.all), all.collect::<String>())
    };
    compile(matches, Action::Count).unwrap().branches().map(branch).collect::<Vec<_>>().join("\n")
}

/// Sends a frame; waits while the queue is full.
pub fn transmit(socket: i32, frame: &[u8]) {
    loop {
        match send(socket, frame, MsgFlags::empty()) {
            Ok(_) => return,
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => thread::yield_now(),
            Err(error) => panic!("sending {} bytes: {error}", frame.len()),
        }
    }
}

/// Says what is declared of a packet.
/// (See [`ftagent::rule::nft::Widened`].)
pub fn kind(frame: &[u8], decoded: &Packet) -> Kind {
    let mut l3 = 14;
    let ethertype_at = |at: usize| frame.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let is_tag = |at: usize| matches!(ethertype_at(at), Some(ethertype::VLAN | ethertype::QINQ));
    let mut tags = 0;
    while tags < 3 && is_tag(l3 - 2) {
        (l3, tags) = (l3 + 4, tags + 1);
    }
    // The kernel drops a tagged frame that is too short for what follows the tag.
    if tags > 1 || tags == 1 && frame.len() < 20 {
        return Kind::Unseen;
    }
    if decoded.class == TrafficClass::Malformed {
        return Kind::Wider;
    }
    let packet = frame.get(l3..).unwrap_or_default();
    let padded = packet.len() > usize::from(decoded.key.len);
    match decoded.ends {
        Some((src, _)) if src.is_ipv4() => {
            if padded && packet[0] & 15 > 5 && decoded.proto == proto::TCP {
                Kind::Wider
            } else {
                Kind::Exact
            }
        }
        Some(_) => headers(packet, padded),
        None => Kind::Exact,
    }
}

/// Says what is declared of an IPv6 packet, from a walk of its own.
fn headers(packet: &[u8], padded: bool) -> Kind {
    let (mut next, mut at, mut fragment) = (packet[6], 40, false);
    let (mut kinds, mut further, mut cut) = (Vec::new(), false, false);
    while matches!(next, proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::DESTINATION) {
        further |= fragment;
        let Some(head) = packet.get(at..at + 8) else {
            cut = true;
            break;
        };
        fragment |= next == proto::FRAGMENT && u16::from_be_bytes([head[2], head[3]]) & 0xfff9 != 0;
        at += if next == proto::FRAGMENT { 8 } else { 8 * (usize::from(head[1]) + 1) };
        kinds.push(next);
        next = head[0];
        if fragment && !further && u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0 {
            // A later fragment: what follows is no header.
            further = matches!(next, proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::DESTINATION);
            break;
        }
    }
    let any = !kinds.is_empty();
    let fragments = kinds.iter().filter(|kind| **kind == proto::FRAGMENT).count();
    kinds.sort_unstable();
    let twice = kinds.windows(2).any(|pair| pair[0] == pair[1]);
    match next {
        _ if fragments > 1 => Kind::Unseen,
        proto::AH if twice => Kind::Unseen,
        proto::AH => Kind::Wider,
        _ if cut || further || any && padded => Kind::Wider,
        _ => Kind::Exact,
    }
}
