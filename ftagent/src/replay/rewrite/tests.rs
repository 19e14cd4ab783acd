#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;

use rand::SeedableRng as _;

use super::*;

const CLIENT: [u8; 4] = [192, 0, 2, 7];
const SERVER: [u8; 4] = [10, 0, 0, 1];

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    frame.extend([from.0, to.0].concat());
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    frame
}

struct Harness(Rewriter, Flows);

impl Harness {
    fn new(dst: &str, src: Sources) -> Self {
        let rules = Rewrite { dst: dst.parse().ok(), dst6: None, src };
        Self(Rewriter::new(rules, ChaCha8Rng::seed_from_u64(1)), Flows::default())
    }

    /// Returns the new source and destination.
    fn send(&mut self, mut frame: Vec<u8>, inbound: bool) -> (IpAddr, IpAddr) {
        let layout = Layout::of(&frame).unwrap();
        let flow = self.1.number(FlowKey::new(&layout, &frame, inbound));
        self.0.apply(&mut frame, &layout, flow, inbound);
        (layout.source(&frame), layout.destination(&frame))
    }

    fn request(&mut self, port: u16, flags: u8) -> (IpAddr, IpAddr) {
        self.send(tcp((CLIENT, port), (SERVER, 80), flags), true)
    }

    fn reply(&mut self, port: u16) -> (IpAddr, IpAddr) {
        self.send(tcp((SERVER, 80), (CLIENT, port), 0x12), false)
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

#[test]
fn a_destination_is_replaced_in_both_directions() {
    let mut harness = Harness::new("198.51.100.10/32", Sources::Keep);
    let (client, new): (IpAddr, IpAddr) = (CLIENT.into(), [198, 51, 100, 10].into());
    assert_eq!(harness.request(1000, SYN), (client, new));
    assert_eq!(harness.reply(1000), (new, client));
}

#[test]
fn connections_hold_together_over_a_pool_and_a_prefix() {
    let mut harness = Harness::new("198.51.100.0/24", Sources::Pool(50));
    let mut sources = BTreeSet::new();
    for port in 0..2000 {
        let (from, to) = harness.request(port, SYN);
        assert_eq!(harness.reply(port), (to, from));
        assert_eq!(harness.request(port, ACK), (from, to));
        sources.insert(from);
    }
    assert_eq!(sources.len(), 50);
}

#[test]
fn a_new_syn_and_a_new_pass_are_new_connections() {
    let mut harness = Harness::new("198.51.100.10/32", Sources::Pool(100_000));
    let first = harness.request(1, SYN);
    assert_ne!(harness.request(1, SYN), first);
    let second = harness.request(1, ACK);
    harness.0.restart();
    assert_ne!(harness.request(1, ACK), second);
}

#[test]
fn forged_sources_are_new_for_every_packet_and_never_martian() {
    let mut harness = Harness::new("198.51.100.10/32", Sources::Spoof);
    let sources: BTreeSet<IpAddr> = (0..5000).map(|_| harness.request(1, ACK).0).collect();
    assert!(sources.len() > 4990);
    for source in sources {
        let IpAddr::V4(source) = source else { panic!("{source}") };
        assert!(!source.is_loopback() && !source.is_multicast() && source.octets()[0] != 0 && source.octets()[0] < 240);
    }
}

#[test]
fn a_prefix_is_used_whole() {
    let mut harness = Harness::new("198.51.100.0/28", Sources::Prefix("203.0.113.0/28".parse().unwrap()));
    let pairs: BTreeSet<_> = (0..4000).map(|port| harness.request(port, SYN)).collect();
    assert_eq!(pairs.len(), 256);
    let (source, destination): (IpNet, IpNet) = ("203.0.113.0/28".parse().unwrap(), "198.51.100.0/28".parse().unwrap());
    assert!(pairs.iter().all(|(from, to)| source.contains(from) && destination.contains(to)));
}

#[test]
fn fragments_hold_together() {
    let mut harness = Harness::new("198.51.100.10/32", Sources::Spoof);
    let fragment = |offset: u16, id: u8| {
        let mut frame = tcp((CLIENT, 1), (SERVER, 2), ACK);
        frame[23] = 17;
        frame[19] = id;
        frame[20..22].copy_from_slice(&(0x2000 | offset).to_be_bytes());
        frame
    };
    let first = harness.send(fragment(0, 1), true);
    let other = harness.send(fragment(0, 2), true);
    assert_ne!(first, other);
    assert_eq!(harness.send(fragment(5, 1), true), first);
    assert_eq!(harness.send(fragment(5, 2), true), other);
}

#[test]
fn global_addresses_are_global() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let net: IpNet = "2000::/3".parse().unwrap();
    assert!((0..1000).all(|_| net.contains(&random_v6(&mut rng))));
}
