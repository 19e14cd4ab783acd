//! The verdicts of the datapath's lists beside a plain reading of the same lists.

use std::net::Ipv4Addr;

use anyhow::Result;
use ftagent::bpf::{
    lists::{FeedSet, Which},
    testrun::TestRun,
};
use ftagent_common::{DropReason, reason::verdict};
use ftagent_tests::require_root;
use ipnet::{IpNet, Ipv4Net};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Entries lie in 10.0.0.0/14, so that sources meet several of them.
fn draw(rng: &mut ChaCha8Rng) -> u32 {
    0x0a00_0000 | (rng.random::<u32>() & 0x3_0fff)
}

fn nets(rng: &mut ChaCha8Rng, lengths: &[u8], count: usize) -> Vec<Ipv4Net> {
    let net = |rng: &mut ChaCha8Rng| {
        let length = lengths[rng.random_range(0..lengths.len())];
        Ipv4Net::new_assert(draw(rng).into(), length).trunc()
    };
    (0..count).map(|_| net(rng)).collect()
}

fn covers(nets: &[Ipv4Net], source: Ipv4Addr) -> bool {
    nets.iter().any(|net| net.contains(&source))
}

fn frame(source: u32) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&source.to_be_bytes());
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame[34..40].copy_from_slice(&[0x9c, 0x40, 0x1e, 0x61, 0, 26]);
    frame
}

#[test]
fn verdicts_are_those_of_the_lists() {
    require_root!();
    if let Err(error) = compare() {
        panic!("{error:?}");
    }
}

fn compare() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // Lengths of blocks, of feeds and of allows; each list alone, with one length, and together.
    let cases: [(&[u8], &[u8], &[u8]); 8] = [
        (&[32], &[], &[]),
        (&[], &[32], &[]),
        (&[24], &[], &[]),
        (&[], &[28], &[]),
        (&[32], &[32], &[]),
        (&[32], &[30], &[32]),
        (&[20, 25, 32], &[], &[31]),
        (&[22, 32], &[24, 27, 29, 32], &[26, 32]),
    ];
    for (block, feed, allow) in cases {
        let mut run = TestRun::new(1)?;
        let drawn = |rng: &mut ChaCha8Rng, lengths: &[u8]| match lengths {
            [] => Vec::new(),
            _ => nets(rng, lengths, 60),
        };
        let (blocks, feeds, allows) = (drawn(&mut rng, block), drawn(&mut rng, feed), drawn(&mut rng, allow));
        let mut set = FeedSet::default();
        feeds.iter().for_each(|&net| set.push(IpNet::V4(net), 1));
        run.lists.publish_feeds(set, u64::MAX)?;
        for (which, nets) in [(Which::Block, &blocks), (Which::Allow, &allows)] {
            for &net in nets {
                run.lists.insert(which, IpNet::V4(net), u64::MAX, 0)?;
            }
        }
        let mut expected = [0; 2];
        for i in 0..4000 {
            // Half of the sources are the first address of an entry or its neighbour.
            let all: Vec<&Ipv4Net> = blocks.iter().chain(&feeds).collect();
            let near = all[rng.random_range(0..all.len())].network().to_bits() + rng.random_range(0..2);
            let source = if i % 2 == 0 { draw(&mut rng) } else { near };
            let address = Ipv4Addr::from(source);
            let (blocked, fed) = (covers(&blocks, address), covers(&feeds, address));
            let dropped = (blocked || fed) && !covers(&allows, address);
            let wanted = if dropped { verdict::DROP } else { verdict::PASS };
            assert_eq!(run.run(&frame(source))?, wanted, "{address}: {blocks:?} {feeds:?} {allows:?}");
            if dropped {
                expected[usize::from(!blocked)] += 1;
            }
        }
        let counters = run.counters()?;
        let drops = |reasons: [DropReason; 2]| -> u64 {
            reasons.iter().map(|reason| counters.drops.iter().map(|row| row[reason.index()]).sum::<u64>()).sum()
        };
        let by_block = drops([DropReason::BlockAddress, DropReason::BlockPrefix]);
        let by_feed = drops([DropReason::FeedAddress, DropReason::FeedPrefix]);
        assert_eq!([by_block, by_feed], expected, "reasons with {block:?} {feed:?}");
        assert!(expected[0] + expected[1] > 100, "too few drops to tell anything: {expected:?}");
    }
    Ok(())
}
