//! Whoever has a connection is no part of a flood that has none.

use super::*;
use crate::decide::{
    frames::{HOST, Segment, member, tcp_between},
    packet::tcp,
};

/// As [`game`], and somebody who begins to send a file when the attack begins, as fast as it goes.
fn upload(dice: &mut Dice, tick: u64) -> Frames {
    let mut frames = game(dice, tick);
    for number in (0..80).filter(|_| tick >= 400) {
        let seq = (tick as u32 * 80 + number) * 1400;
        let part = Segment { ports: (50_445, 445), flags: tcp::ACK, seq, ack: 77, payload: &[b'A'; 1400] };
        frames.push((true, tcp_between(member(77), HOST, &part)));
    }
    frames
}

#[test]
fn what_he_sends_is_not_dropped_for_being_much_at_the_same_time() {
    let mut world = World::calm_daemon(upload);
    world.attack(floods::random_ack, 40);
    assert!(world.incidents().last().is_some_and(|incident| incident.is_open()));
    assert_eq!(world.lost[0].0, 0, "of {}: {:#?}", world.lost[0].1, told(&world));
}
