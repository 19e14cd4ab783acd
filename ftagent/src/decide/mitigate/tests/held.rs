//! Connections that are held: who holds several is dropped by source, and nobody else is.

use ftagent_common::guard::socket;

use super::*;
use crate::decide::{
    Now,
    classify::tests::shapes::slow_client,
    frames::{connection, member},
    mitigate::keeper,
};

/// So many connections of so many sources, by ticks. Sources are of networks of their own. Each sends so many
/// lines behind the one that begins its request.
fn slow(connections: u64, sources: u64, lines: usize) -> Vec<Vec<Frames>> {
    let of_source = |number: u64| {
        let mut ticks = slow_client(&mut Dice(number), number);
        ticks.truncate(1 + 25 * lines);
        for (inbound, frame) in ticks.iter_mut().flatten() {
            let (address, port) = if *inbound { (26, 34) } else { (30, 36) };
            frame[address..address + 4].copy_from_slice(&[20 + (number % sources) as u8, 0, 113, 7]);
            frame[port..port + 2].copy_from_slice(&(10_000 + number as u16).to_be_bytes());
        }
        ticks
    };
    (0..connections).map(of_source).collect()
}

fn attacked(world: &mut World, clients: &[Vec<Frames>]) {
    attacked_for(world, clients, 100);
}

fn attacked_for(world: &mut World, clients: &[Vec<Frames>], ticks: usize) {
    for tick in 0..ticks {
        let frames = clients.iter().filter_map(|pieces| pieces.get(tick)).flatten().cloned().collect();
        world.tick(frames);
    }
    assert_eq!(world.incidents().last().map(|incident| incident.vector), Some(Vector::SlowHttp));
}

fn sources(world: &World) -> Vec<String> {
    let mut named: Vec<_> = world.dropping().iter().map(|rule| rule.rule.matches.to_string()).collect();
    named.sort();
    named
}

#[test]
fn who_holds_several_is_dropped_by_source_and_nobody_else() {
    let cases = [
        ("three each, one line", slow(120, 40, 1), 40),
        ("one each, one line", slow(120, 120, 1), 0),
        ("one each, three lines", slow(56, 56, 3), 56),
        ("one source", slow(120, 1, 3), 1),
    ];
    for (name, clients, expected) in cases {
        let mut world = World::calm(web);
        attacked_for(&mut world, &clients, 160);
        let named = sources(&world);
        assert_eq!(named.len(), expected, "{name}: {:#?}", told(&world));
        assert!(named.iter().all(|rule| rule.starts_with("tcp src ") && rule.ends_with(".0.113.7/32 dport 80")));
        assert_eq!(world.lost[0].0, 0, "customers");
        let said = told(&world).iter().filter(|line| line.starts_with("who holds connections")).count();
        assert_eq!(said, usize::from(expected > 0), "{:#?}", told(&world));
        assert!(expected > 0 || is_none(&world), "{:#?}", told(&world));
    }
}

#[test]
fn there_are_no_more_rules_by_source_than_there_is_room_for() {
    let mut world = World::calm(web);
    attacked(&mut world, &slow(400, 100, 3));
    assert_eq!(sources(&world).len(), keeper::HOLDERS, "{:#?}", told(&world));
    assert!(told(&world).iter().any(|line| line.ends_with("there is room for no more of them")));
}

#[test]
fn nobody_is_dropped_whom_another_forged() {
    let cases = [
        ("connections", socket::CONNECTED, 40, "who holds connections to port 80"),
        ("requests that forged SYNs made", socket::HALF_OPEN, 0, "nothing shows that the connections are real"),
        ("no socket: translated, or forged", socket::NONE, 0, "nothing shows that the connections are real"),
    ];
    for (name, socket, expected, said) in cases {
        let mut world = World { socket: Some(socket), ..World::calm_daemon(web) };
        attacked_for(&mut world, &slow(120, 40, 3), 160);
        assert_eq!(sources(&world).len(), expected, "{name}: {:#?}", told(&world));
        assert!(told(&world).iter().any(|line| line.contains(said)), "{name}: {:#?}", told(&world));
    }
}

#[test]
fn who_waits_for_an_answer_holds_nothing() {
    let mut clients = slow(120, 10, 3);
    // Three customers with twelve posts each, whose body is a segment of its own, and no answer.
    for number in 0..36u64 {
        let pieces = [b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_vec(), b"a=1&b=234".to_vec()];
        let mut packets = connection(&mut Dice(number), member(number), 80, &pieces, 0);
        for (inbound, frame) in &mut packets {
            let at = if *inbound { 26 } else { 30 };
            frame[at..at + 4].copy_from_slice(&[192, 88, 1, (number % 3) as u8]);
        }
        clients.push(vec![packets]);
    }
    let mut world = World::calm(web);
    attacked(&mut world, &clients);
    let named = sources(&world);
    assert!(named.len() == 10 && named.iter().all(|rule| rule.contains(".0.113.7/32")), "{named:?}");
}

#[test]
fn a_rule_by_source_stays_while_pieces_come_and_the_timeline_stays_short() {
    let mut clients = slow(120, 40, 3);
    for ticks in &mut clients {
        // Three lines 2.5 s apart are followed by one every 15 s; its numbers do not matter.
        let last = ticks.last().cloned().unwrap_or_default();
        for _ in 0..20 {
            ticks.extend((0..149).map(|_| Frames::new()));
            ticks.push(last.clone());
        }
    }
    let mut world = World::calm(web);
    attacked_for(&mut world, &clients, 2000);
    assert_eq!(sources(&world).len(), 40, "{:#?}", told(&world));
    assert!(world.dropping().iter().all(|rule| rule.id <= 45), "none was made anew: {:#?}", told(&world));
    let lines = world.incidents().last().unwrap().timeline.len();
    assert!(lines < 12, "{:#?}", told(&world));
}

#[test]
fn rules_by_source_only_count_where_nothing_is_dropped() {
    let mut world = World::calm(web);
    world.decider.set_mode(Mode::Observe);
    attacked(&mut world, &slow(120, 40, 1));
    assert_eq!(sources(&world), [""; 0]);
    let shown = world.incidents().last().unwrap().rules.iter().filter(|rule| rule.state == Phase::Shadow).count();
    assert_eq!(shown, 40, "{:#?}", told(&world));
}

#[test]
fn a_restart_goes_on_with_rules_by_source_and_a_change_of_mode_is_a_line() {
    let mut world = World::calm(web);
    let clients = slow(120, 40, 1);
    attacked_for(&mut world, &clients, 160);
    let named = sources(&world);
    assert_eq!(named.len(), 40);
    let known: Vec<_> = world.incidents().into_iter().cloned().collect();
    // The next life knows what is normal and what was going on; requests it has seen none.
    let mut next = World::calm_shared(web);
    next.ticks = world.ticks;
    let mono_ns = next.ticks * 100_000_000;
    next.decider.remember(known, Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 });
    let more: Vec<Vec<Frames>> = slow(160, 160, 1).split_off(40);
    attacked_for(&mut next, &more, 60);
    let kept = sources(&next);
    assert!(named.iter().all(|rule| kept.contains(rule)), "{kept:?}: {:#?}", told(&next));
    let before = told(&next).len();
    for mode in [Mode::Observe, Mode::Enforce] {
        next.decider.set_mode(mode);
        next.tick(Frames::new());
    }
    let lines = told(&next).split_off(before);
    assert!(lines.iter().any(|line| line == "40 rules by source only count from now on"), "{lines:#?}");
    assert!(lines.len() < 6, "{lines:#?}");
}
