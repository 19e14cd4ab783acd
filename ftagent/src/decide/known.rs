//! Sources that are known: blocks of addresses with which a conversation was held that cannot be
//! forged cheaply.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::table::mix;

/// Bits of one generation.
const BITS: usize = 1 << 21;
/// Bits that stand for one block.
const HASHES: u64 = 4;
/// Blocks that a generation takes before the next begins: it would answer wrongly in about one of
/// fifty cases then.
const FULL: u32 = 200_000;
/// How long a generation lasts, nanoseconds; it is remembered for as long again.
const LASTS_NS: u64 = 24 * 3600 * 1_000_000_000;
/// How long a block waits before it is known: who comes with an attack is not known during it.
const WAITS_NS: u64 = 60 * 1_000_000_000;
/// Blocks that wait at most.
const WAITING: usize = 8192;

/// An aged Bloom filter over /24 and /64 blocks, with a waiting room in front.
#[derive(Debug, Serialize, Deserialize)]
pub struct Known {
    seed: u64,
    young: Vec<u64>,
    old: Vec<u64>,
    added: u32,
    begun_ns: u64,
    waiting: VecDeque<(u64, u64)>,
    any: bool,
}

clone_in_place!(Known { seed, young, old, added, begun_ns, waiting, any });

impl Known {
    /// Knows nobody.
    pub fn new(seed: u64) -> Self {
        let empty = vec![0; BITS / 64];
        Self { seed, young: empty.clone(), old: empty, added: 0, begun_ns: 0, waiting: VecDeque::new(), any: false }
    }

    /// Returns whether anybody could have become known yet.
    pub fn any(&self) -> bool {
        self.any
    }

    /// Returns whether a block is known. May say yes wrongly in about one of fifty cases.
    pub fn contains(&self, block: u64) -> bool {
        self.holds(&self.young, block) || self.holds(&self.old, block)
    }

    /// Takes in a block; it is known after a minute that `settle` called calm.
    pub fn propose(&mut self, block: u64, now_ns: u64) {
        // Full: those that wait longest have the better claim.
        if self.waiting.len() < WAITING && !self.holds(&self.young, block) {
            self.waiting.push_back((now_ns, block));
        }
    }

    /// Lets blocks in that have waited for long enough. While `under_attack` nobody is let in, and
    /// those who came meanwhile wait anew.
    pub fn settle(&mut self, now_ns: u64, under_attack: bool) {
        if now_ns.saturating_sub(self.begun_ns) > LASTS_NS || self.added >= FULL {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.iter_mut().for_each(|word| *word = 0);
            (self.added, self.begun_ns) = (0, now_ns);
        }
        if under_attack {
            while self.waiting.back().is_some_and(|(since, _)| now_ns.saturating_sub(*since) < WAITS_NS) {
                self.waiting.pop_back();
            }
            return;
        }
        while let Some(&(since, block)) = self.waiting.front() {
            if now_ns.saturating_sub(since) < WAITS_NS {
                break;
            }
            self.waiting.pop_front();
            self.insert(block);
        }
    }

    fn insert(&mut self, block: u64) {
        self.any = true;
        if self.holds(&self.young, block) {
            return;
        }
        self.added += 1;
        for place in places(block, self.seed) {
            if let Some(word) = self.young.get_mut(place / 64) {
                *word |= 1 << (place % 64);
            }
        }
    }

    fn holds(&self, generation: &[u64], block: u64) -> bool {
        places(block, self.seed)
            .all(|place| generation.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1))
    }
}

fn places(block: u64, seed: u64) -> impl Iterator<Item = usize> {
    let first = mix(block ^ seed);
    let step = mix(first ^ seed.rotate_left(32)) | 1;
    (0..HASHES).map(move |i| first.wrapping_add(step.wrapping_mul(i)) as usize % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_block_is_known_after_a_calm_minute_and_forgotten_after_two_days() {
        let mut known = Known::new(1);
        known.propose(77, 0);
        known.settle(30 * SECOND, false);
        assert!(!known.contains(77));
        known.settle(61 * SECOND, false);
        assert!(known.contains(77) && known.any());
        known.settle(LASTS_NS + SECOND, false);
        assert!(known.contains(77), "remembered by the older generation");
        known.settle(2 * LASTS_NS + 3 * SECOND, false);
        assert!(!known.contains(77));
    }

    #[test]
    fn who_comes_with_an_attack_is_not_known() {
        let mut known = Known::new(1);
        known.propose(1, 0);
        known.settle(SECOND, true);
        known.settle(200 * SECOND, false);
        assert!(!known.contains(1));
    }

    #[test]
    fn strangers_are_rarely_taken_for_known() {
        let mut known = Known::new(5);
        for block in 0..FULL as u64 {
            known.insert(block);
        }
        let wrong = (0..100_000u64).filter(|block| known.contains(mix(*block) | 1 << 60)).count();
        assert!(wrong < 4000, "{wrong} of 100 000");
    }
}
