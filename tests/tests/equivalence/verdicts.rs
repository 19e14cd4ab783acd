//! What becomes of a packet where there are actions, an allow list and a block list: the driver's table
//! and the kernel program do the same.

use std::{collections::BTreeMap, os::fd::AsRawFd as _, time::Instant};

use ftagent::{
    act::nft::{Entry, Nft, Runner as _, Table},
    bpf::{
        lists::Which,
        rules::Placed,
        testrun::{HZ, MIN_FRAME, TestRun},
    },
    decide::{Packet, mitigate::Wanted},
    rule::{Action, Origin, Rule},
};
use ftagent_common::{TrafficClass, reason::verdict};
use ftagent_tests::{peers::need, require_root, sandbox::Sandbox, traffic::packet_socket};
use ipnet::IpNet;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    draw,
    nft::{Kind, arrivals, kind, transmit, wait_for_arrivals},
};

const FRAMES: usize = 4000;

#[test]
fn allow_and_block_lists_stand_above_the_rules_of_every_plane() {
    require_root!();
    if !need("verdicts of the planes", &["nft"]) {
        return;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let rules: Vec<Placed> = (0..60u8)
        .map(|slot| {
            let action = if rng.random_bool(0.5) { Action::Drop } else { Action::Count };
            let rule =
                Rule { matches: draw::flow_match(&mut rng), action, origin: Origin::Config, reason: String::new() };
            Placed { slot, rule, expires: u64::MAX }
        })
        .collect();
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let allow = ["10.1.0.0/16", "192.0.2.7/32", "2001:db8:0:1::/64"].map(net);
    let block = ["10.0.0.0/13", "10.1.0.3/32", "192.0.2.0/30", "2001:db8:0:2::/64", "fd00::/16"].map(net);
    let frames: Vec<Vec<u8>> = (0..FRAMES)
        .map(|_| {
            let rule = rng.random_range(0..rules.len());
            draw::frame(&mut rng, &rules[rule].rule.matches)
        })
        .filter(|frame| frame.len() >= MIN_FRAME && is_exact(frame))
        .collect();
    let mut run = TestRun::new(1).unwrap();
    run.rules.install(&rules, HZ).unwrap();
    allow.iter().for_each(|net| run.lists.insert(Which::Allow, *net, u64::MAX, 0).unwrap());
    block.iter().for_each(|net| run.lists.insert(Which::Block, *net, u64::MAX, 0).unwrap());
    let passes: Vec<bool> = frames.iter().map(|frame| run.run(frame).unwrap() == verdict::PASS).collect();
    for (frame, passes) in frames.iter().zip(&passes) {
        assert_eq!(*passes, plain(&rules, &allow, &block, frame), "{frame:02x?}");
    }
    let wanted: Vec<Wanted> =
        (1u32..).zip(&rules).map(|(id, placed)| Wanted { id, rule: placed.rule.clone(), ttl_ms: 600_000 }).collect();
    Sandbox::run(|sandbox| {
        let pair = sandbox.veth("eq0", "eq1").unwrap();
        sandbox.command("ip link set eq0 mtu 3000").unwrap();
        sandbox.peer_command("ip link set eq1 mtu 3000").unwrap();
        let socket = sandbox.peer(|| packet_socket(pair.peer.ifindex).unwrap()).unwrap();
        let mut table = Table::new(Box::new(Nft::default()), vec!["eq0".to_owned()]);
        let entries = |nets: &[IpNet]| nets.iter().map(|net| Entry { net: *net, lasts: None }).collect::<Vec<_>>();
        table.set_lists(entries(&allow), entries(&block));
        table.apply(&wanted, Instant::now()).unwrap();
        assert_eq!(table.refused(), []);
        let mut nft = Nft::default();
        nft.run(arrivals()).unwrap();
        let mut count = |frames: &[&Vec<u8>]| {
            frames.iter().for_each(|frame| transmit(socket.as_raw_fd(), frame));
            wait_for_arrivals(&mut nft, frames.len() as u64)
        };
        for (frames, passes) in frames.chunks(200).zip(passes.chunks(200)) {
            let expected = passes.iter().filter(|passes| **passes).count() as u64;
            if count(&frames.iter().collect::<Vec<_>>()) == expected {
                continue;
            }
            for (frame, passes) in frames.iter().zip(passes) {
                assert_eq!(count(&[frame]), u64::from(*passes), "{frame:02x?}");
            }
            panic!("a batch differs, and no packet of it");
        }
        let counts: BTreeMap<u32, u64> =
            table.counts().unwrap().into_iter().map(|count| (count.id, count.packets)).collect();
        assert!(counts.values().filter(|packets| **packets > 0).count() > 20, "{counts:?}");
    })
    .unwrap();
}

/// Malformed packets and the others of which nftables declares something are compared elsewhere.
fn is_exact(frame: &[u8]) -> bool {
    let packet = Packet::decode(0, frame, frame.len(), None, false);
    packet.class != TrafficClass::Malformed && kind(frame, &packet) == Kind::Exact
}

/// A plain reading: the allow list, then the block list, then the first rule that drops.
fn plain(rules: &[Placed], allow: &[IpNet], block: &[IpNet], frame: &[u8]) -> bool {
    let packet = Packet::decode(0, frame, frame.len(), None, false);
    let Some(src) = packet.src() else { return true };
    if allow.iter().any(|net| net.contains(&src)) {
        return true;
    }
    let drops = |placed: &Placed| placed.rule.action == Action::Drop && placed.rule.matches.matches(&packet.subject());
    !block.iter().any(|net| net.contains(&src)) && !rules.iter().any(drops)
}
