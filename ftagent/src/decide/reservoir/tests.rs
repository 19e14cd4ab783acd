#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]
//! What gets into the sample of clean traffic, and what does not.

use super::*;
use crate::decide::{
    frames::{Dice, connection, decoded, member, udp},
    packet::tcp,
};

const TICK_NS: u64 = 100_000_000;

struct Node {
    reservoir: Reservoir,
    flows: Flows,
    now_ns: u64,
}

impl Node {
    fn new() -> Self {
        Self { reservoir: Reservoir::new(1), flows: Flows::new(2), now_ns: 60_000_000_000 }
    }

    fn tick(&mut self, frames: &[(bool, Vec<u8>)], calm: bool) {
        let mut seen = Vec::new();
        for (number, (inbound, frame)) in frames.iter().enumerate() {
            let packet = decoded(self.now_ns + number as u64, frame);
            let (mark, _) = self.flows.note(&packet, !inbound, true);
            if *inbound {
                seen.push(Seen { packet, class: packet.class, weight: 1.0, mark });
            }
        }
        self.now_ns += TICK_NS;
        self.reservoir.feed(self.now_ns, seen.iter(), &self.flows, calm);
    }

    fn wait(&mut self, ticks: u64) {
        (0..ticks).for_each(|_| self.tick(&[], true));
    }
}

fn page(dice: &mut Dice, client: u64) -> Vec<(bool, Vec<u8>)> {
    connection(dice, member(client), 80, &[b"GET / HTTP/1.1\r\n\r\n".to_vec()], 300)
}

#[test]
fn a_conversation_is_in_it_by_each_kind_of_its_packets_after_three_seconds() {
    let (mut node, mut dice) = (Node::new(), Dice(1));
    let frames = page(&mut dice, 1);
    node.tick(&frames, true);
    node.wait(29);
    assert_eq!(node.reservoir.size(), (0, 0), "it waits");
    node.wait(2);
    let flags: Vec<u8> = node.reservoir.entries().map(|clean| clean.seen.key.flags).collect();
    let (ack, data) = (tcp::ACK, tcp::PSH | tcp::ACK);
    assert_eq!(flags, [tcp::SYN, ack, data, tcp::FIN | ack], "each kind once, and all of them vouched for");
    assert_eq!(node.reservoir.size(), (4, 0));
    let hit = node.reservoir.share(&"tcp dport 80 flags syn/syn+ack".parse().unwrap());
    assert_eq!((hit.clean, hit.uncertain, hit.flows), (0.25, 0.0, 1));
    // What the same connection goes on with is nothing new within the minute.
    node.tick(&frames, true);
    node.wait(40);
    assert_eq!(node.reservoir.size(), (4, 0));
}

#[test]
fn what_came_just_before_an_attack_was_recognised_is_not_in_it() {
    let (mut node, mut dice) = (Node::new(), Dice(1));
    for client in 0..20 {
        node.tick(&page(&mut dice, client), true);
    }
    node.tick(&page(&mut dice, 99), false);
    node.wait(60);
    assert_eq!(node.reservoir.size(), (0, 0));
}

#[test]
fn what_nobody_vouches_for_is_kept_apart_and_weighs_a_tenth() {
    let (mut node, mut dice) = (Node::new(), Dice(1));
    for client in 0..40 {
        node.tick(&page(&mut dice, client), true);
        let forged = (0..8).map(|_| (true, udp(dice.anyone(), (dice.port(), 27_016), b"hello"))).collect::<Vec<_>>();
        node.tick(&forged, true);
    }
    node.wait(40);
    let (verified, others) = node.reservoir.size();
    assert_eq!((verified, others), (160, 320));
    let hit = node.reservoir.share(&"udp dport 27016".parse().unwrap());
    assert_eq!(hit.clean, 0.0);
    assert!((hit.uncertain - 32.0 / 192.0).abs() < 1e-9, "{hit:?}");
}

#[test]
fn it_is_bounded_and_remembers_a_day() {
    let mut node = Node::new();
    let mut dice = Dice(4);
    for hour in 0..30u64 {
        node.now_ns = hour * HOUR_NS + 1;
        for second in 0..400 {
            node.now_ns = hour * HOUR_NS + second * 9_000_000_000;
            let mut frames = page(&mut dice, hour * 100_000 + second);
            frames.extend((0..40).map(|_| (true, udp(dice.anyone(), (dice.port(), 27_016), &hour.to_be_bytes()))));
            node.tick(&frames, true);
        }
    }
    let (verified, others) = node.reservoir.size();
    assert!(verified <= PRESENT[0] + (HOURS - 1) * PAST[0] && verified > 24 * 200, "{verified}");
    assert!(others <= PRESENT[1] + (HOURS - 1) * PAST[1] && others > 24 * 50, "{others}");
    let hours: std::collections::BTreeSet<u8> =
        node.reservoir.entries().filter(|clean| !clean.verified).map(|clean| clean.seen.head()[7]).collect();
    assert_eq!(hours.len(), HOURS, "{hours:?}");
}

#[test]
fn of_a_busy_source_every_kind_of_packet_is_known() {
    let (mut node, mut dice) = (Node::new(), Dice(3));
    // Sixty conversations of one proxy use up what a source may have in a minute; the sixty-first
    // has answers of a length of its own.
    for client in 0..60 {
        let say = vec![b'x'; if client < 59 { 100 } else { 1200 }];
        let frames = connection(&mut dice, member(7), 445, &[say], 300);
        node.tick(&frames, true);
    }
    node.wait(40);
    let (verified, _) = node.reservoir.size();
    assert!(verified <= usize::from(KINDS_OF_BLOCK), "{verified}: one source is not the whole sample");
    let hit = node.reservoir.share(&"tcp dport 445 len 1200-1300".parse().unwrap());
    assert!(hit.flows > 0, "{:?}", node.reservoir.size());
}

#[test]
fn how_much_there_was_of_what_is_known_by_packets() {
    let (mut node, mut dice) = (Node::new(), Dice(5));
    let said = |dice: &mut Dice, port: u16, count: u64| -> Vec<(bool, Vec<u8>)> {
        (0..count).map(|_| (true, udp(member(3), (port, 514), &dice.bytes(60)))).collect()
    };
    let of = |node: &Node, port: u16| node.reservoir.passed().pps(|seen| seen.key.sport == port);
    for _ in 0..40 {
        node.tick(&[said(&mut dice, 1111, 30), said(&mut dice, 2222, 10)].concat(), true);
    }
    assert_eq!(of(&node, 1111), 0.0, "a second of what has settled says nothing yet");
    for _ in 0..200 {
        node.tick(&[said(&mut dice, 1111, 30), said(&mut dice, 2222, 10)].concat(), true);
    }
    let calm = (of(&node, 1111), of(&node, 2222));
    assert!((200.0..400.0).contains(&calm.0) && (60.0..140.0).contains(&calm.1), "{calm:?}");
    // What came in the seconds before an attack was recognised, or in it, does not count.
    for calm_still in [true, false] {
        for _ in 0..20 {
            node.tick(&said(&mut dice, 3333, 500), calm_still);
        }
    }
    assert_eq!(of(&node, 3333), 0.0);
    // What is silent counts as time.
    node.wait(1000);
    node.tick(&said(&mut dice, 1111, 1), true);
    node.wait(40);
    assert!(of(&node, 1111) < calm.0 / 3.0, "{}", of(&node, 1111));
}

#[test]
fn what_conversations_have_of_calm_traffic_is_known_by_packets() {
    let (mut node, mut dice) = (Node::new(), Dice(6));
    for client in 0..200 {
        let forged = (0..5).map(|_| (true, udp(dice.anyone(), (dice.port(), 27_016), b"hello"))).collect::<Vec<_>>();
        node.tick(&[page(&mut dice, client), forged].concat(), true);
    }
    let share = |text: &str| {
        let matches: FlowMatch = text.parse().unwrap();
        node.reservoir.passed().share(|seen| matches.matches(&seen.subject()))
    };
    assert!((0.2..0.6).contains(&share("tcp dport 80")), "{}", share("tcp dport 80"));
    assert_eq!((share("udp"), share("tcp dport 443")), (0.0, 0.0));
}

/// What is known of twenty calm seconds in which a packet came so often a second, for other tests.
pub fn passed(pps: u64, seen: &Glimpse) -> Passed {
    let (mut passed, flows) = (Passed::default(), Flows::new(1));
    let (frame, mut now_ns) = (udp(member(3), (seen.key.sport, seen.key.dport), seen.head()), 60_000_000_000);
    let packet = decoded(now_ns, &frame);
    for _ in 0..200 {
        now_ns += TICK_NS;
        let packets =
            [Seen { packet, class: packet.class, weight: pps as f64 / 10.0, mark: crate::decide::flows::Mark::NONE }];
        passed.feed(now_ns, packets.iter().take(usize::from(pps > 0)), &flows, true);
    }
    passed
}
