use std::net::Ipv4Addr;

use super::*;
use crate::decide::{Counts, Now};

const TICK_NS: u64 = 100_000_000;

fn packet(address: u32) -> Packet {
    let mut frame = vec![0; 14];
    frame[12] = 8;
    frame.extend([0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 7]);
    frame.extend(Ipv4Addr::from_bits(0xc633_6400 + address).octets());
    frame.extend([0x9c, 0x40, 0x23, 0x28, 0, 108, 0, 0]);
    frame.resize(142, b'.');
    Packet::decode(0, &frame, frame.len(), None, false)
}

/// Lets seconds pass in which each address receives so many packets a tick, of which one in
/// `stride` is sampled. Returns what was too much, the last time something was.
fn run(
    destinations: &mut Destinations,
    begin: u64,
    seconds: u64,
    loads: &[(u32, usize)],
    stride: usize,
) -> Option<Focus> {
    let mut focus = None;
    for tick in 0..seconds * 10 {
        let mut samples = Vec::new();
        for (address, packets) in loads {
            samples.extend(std::iter::repeat_n(packet(*address), packets / stride));
        }
        let mut counts = Counts::default();
        let packets = loads.iter().map(|(_, packets)| *packets as u64).sum();
        let class = samples.first().map_or(TrafficClass::UdpSmall, |packet| packet.class);
        counts.classes[class.index()] = ClassCount { packets, bytes: packets * 142, dropped: 0 };
        let now = Now { mono_ns: begin * 1_000_000_000 + tick * TICK_NS, unix_ms: 0 };
        let tick = Tick {
            now,
            elapsed_ns: TICK_NS,
            counts: &counts,
            samples: &samples,
            outbound: None,
            host: None,
            rules: &[],
        };
        focus = destinations.on_tick(&tick, true).or(focus);
    }
    focus
}

#[test]
fn an_attack_on_one_of_many_addresses_is_seen_at_that_address() {
    let mut destinations = Destinations::default();
    let calm: Vec<(u32, usize)> = (1..40).map(|address| (address, 400)).collect();
    assert_eq!(run(&mut destinations, 0, 120, &calm, 40), None, "normal load is not too much for anybody");
    let mut attacked = calm.clone();
    attacked.push((77, 800));
    let focus = run(&mut destinations, 120, 1, &attacked, 40);
    let focus = focus.unwrap_or_else(|| panic!("{:?}", destinations.views()));
    assert_eq!(focus.address, Ipv4Addr::from_bits(0xc633_6400 + 77));
    assert_eq!(focus.excess.len(), 1);
    let excess = focus.excess[0];
    assert!((4000.0..16_000.0).contains(&excess.pps), "{excess:?}");
}

#[test]
fn what_is_normal_for_an_address_is_learned() {
    let mut destinations = Destinations::default();
    run(&mut destinations, 0, 120, &[(1, 400), (2, 400), (3, 20)], 4);
    let views = destinations.views();
    assert_eq!(views.len(), 3);
    assert!((views[0].baseline - 4000.0).abs() < 200.0, "{views:?}");
    assert!((views[2].pps - 200.0).abs() < 20.0, "{views:?}");
}

#[test]
fn random_destinations_do_not_fill_memory() {
    let mut destinations = Destinations::default();
    for round in 0..40 {
        let loads: Vec<(u32, usize)> = (0..250).map(|address| (round * 251 + address, 4)).collect();
        run(&mut destinations, u64::from(round), 1, &loads, 4);
    }
    assert!(destinations.table.len() <= KEPT);
}
