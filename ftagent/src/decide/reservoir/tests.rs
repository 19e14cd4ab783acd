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
