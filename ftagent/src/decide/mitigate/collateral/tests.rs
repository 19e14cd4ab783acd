#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]
//! The meter against streams of which the truth is known. With `--nocapture` they print what they found.

use super::*;
use crate::decide::frames::Dice;

/// A stream: packets of a second that are benign and kept, benign and dropped, and of the attack, each
/// with the stride that it is sampled by.
struct Stream {
    name: &'static str,
    kept: (u64, u64),
    hit: (u64, u64),
    attack: (u64, u64),
}

const STREAMS: [Stream; 6] = [
    Stream { name: "everything is sampled", kept: (2000, 1), hit: (300, 1), attack: (600, 1) },
    Stream { name: "one in ten", kept: (40_000, 10), hit: (6000, 10), attack: (10_000, 10) },
    Stream { name: "drops are sampled more rarely", kept: (20_000, 4), hit: (40_000, 64), attack: (80_000, 64) },
    Stream { name: "drops are sampled more densely", kept: (400_000, 100), hit: (3000, 3), attack: (3000, 3) },
    Stream { name: "few of many", kept: (200_000, 50), hit: (400, 20), attack: (100_000, 20) },
    Stream { name: "nothing but benign", kept: (100, 20), hit: (30_000, 20), attack: (0, 1) },
];

/// Samples a packet in so many, with gaps as the kernel draws them.
fn samples(dice: &mut Dice, (packets, stride): (u64, u64), mut take: impl FnMut(f64)) -> u64 {
    let mut gap = 1 + dice.below(2 * stride - 1);
    let mut taken = 0;
    for _ in 0..packets {
        gap -= 1;
        if gap == 0 {
            taken += 1;
            gap = 1 + dice.below(2 * stride - 1);
        }
    }
    // A sample stands for its part of what was counted.
    let weight = packets as f64 / taken.max(1) as f64;
    (0..taken).for_each(|_| take(weight));
    taken
}

/// Seconds of each stream.
const RUNS: u64 = 300;

#[test]
fn the_interval_covers_the_truth_and_the_estimate_is_near_it() {
    let (mut covered, mut runs) = (0u32, 0u32);
    for stream in &STREAMS {
        let (mut inside, mut near) = (0, 0);
        let (mut dropped, mut dropped_benign) = (0.0, 0.0);
        for run in 0..RUNS {
            let mut dice = Dice(run * 7919 + stream.kept.0);
            // No two seconds are alike: the numbers vary by a fifth, and each packet by itself.
            let vary = |dice: &mut Dice, (packets, stride): (u64, u64)| {
                ((packets * (80 + dice.below(41))).div_ceil(100), stride)
            };
            let (kept, hit, attack) =
                (vary(&mut dice, stream.kept), vary(&mut dice, stream.hit), vary(&mut dice, stream.attack));
            let mut sums = Sums::default();
            samples(&mut dice, kept, |weight| sums.add(weight, Verdict::Benign, true, false));
            samples(&mut dice, attack, |weight| sums.add(weight, Verdict::Unrelated, false, true));
            // The class of what is dropped is sampled as a whole: what of it is benign shows by chance.
            let classes = [(hit.0 * 2, hit.1)];
            let mut benign = 0;
            for class in classes {
                samples(&mut dice.clone(), class, |weight| {
                    let is_benign = dice.below(2) == 0;
                    benign += u64::from(is_benign);
                    sums.add(weight, if is_benign { Verdict::Benign } else { Verdict::Unrelated }, true, is_benign);
                });
            }
            let truth = hit.0 as f64 / (hit.0 + kept.0) as f64;
            dropped += (2 * hit.0 + attack.0) as f64;
            dropped_benign += hit.0 as f64;
            let (share, low, high) = sums.ratio();
            inside += u32::from((low..=high).contains(&truth));
            near += u32::from((share / truth - 1.0).abs() <= 0.1);
            assert!(low <= share && share <= high, "{}", stream.name);
        }
        (covered, runs) = (covered + inside, runs + RUNS as u32);
        let percent = |count: u32| 100.0 * f64::from(count) / RUNS as f64;
        println!(
            "collateral meter, {}: the 95 % interval covers the truth in {:.1} % of {RUNS} runs, the estimate is within \
             10 % of it in {:.1} %; {:.0} % of the drops are benign",
            stream.name,
            percent(inside),
            percent(near),
            100.0 * dropped_benign / dropped
        );
        assert!(percent(inside) >= 94.0, "{}: the interval covers the truth in {inside} of {RUNS}", stream.name);
        let rarely = stream.hit.0 / stream.hit.1 < 400;
        assert!(percent(near) >= 95.0 || rarely, "{}: within 10 % in {near} of {RUNS} runs", stream.name);
    }
    println!(
        "collateral meter, all of them: covered in {:.1} % of {runs} runs",
        100.0 * f64::from(covered) / f64::from(runs)
    );
    assert!(covered * 100 >= runs * 94, "{covered} of {runs}");
}

#[test]
fn where_nothing_benign_was_seen_nothing_is_claimed() {
    let mut sums = Sums::default();
    assert_eq!(sums.ratio(), (0.0, 0.0, 1.0));
    sums.add(10.0, Verdict::Unknown, true, true);
    sums.add(30.0, Verdict::Unrelated, true, true);
    assert_eq!((sums.ratio(), sums.unknown / sums.dropped), ((0.0, 0.0, 1.0), 0.25));
    for _ in 0..1000 {
        sums.add(1.0, Verdict::Benign, true, false);
    }
    let (share, low, high) = sums.ratio();
    assert!(share == 0.0 && low == 0.0 && (0.003..0.005).contains(&high), "{high}");
}
