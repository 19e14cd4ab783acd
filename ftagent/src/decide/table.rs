//! Small weighted counts: how often a value occurs among the packets of a window.

/// Mixes a number so that every bit of the result depends on every bit of it (the finaliser of
/// MurmurHash3, Appleby 2011).
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// Weights by value, of a bounded number of values: open addressing, twice as large as what it
/// may hold.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    slots: Vec<Slot>,
    seed: u64,
    distinct: usize,
    total: f64,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    value: u64,
    weight: f64,
    count: u32,
}

impl Tally {
    /// Makes a tally for at most so many additions.
    pub fn with_capacity(additions: usize, seed: u64) -> Self {
        let size = (additions.max(4) * 2).next_power_of_two();
        Self { slots: vec![Slot::default(); size], seed, ..Self::default() }
    }

    /// Adds weight to a value. What does not fit is counted in the total only.
    pub fn add(&mut self, value: u64, weight: f64) {
        self.total += weight;
        self.count += 1;
        if self.distinct * 4 > self.slots.len() * 3 {
            return;
        }
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = mix(value ^ self.seed) as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.count == 0 {
                *slot = Slot { value, weight, count: 1 };
                self.distinct += 1;
                return;
            }
            if slot.value == value {
                slot.weight += weight;
                slot.count += 1;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// Returns how many different values were added.
    pub fn distinct(&self) -> usize {
        self.distinct
    }

    /// Returns how many additions were made.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns different values for each addition: 1 where none repeats, 0 for nothing.
    pub fn spread(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.distinct as f64 / self.count as f64 }
    }

    /// Returns the values with the largest shares, largest first, at most `most`.
    pub fn top(&self, most: usize) -> Vec<(u64, f64)> {
        let mut all: Vec<(u64, f64)> =
            self.slots.iter().filter(|slot| slot.count > 0).map(|slot| (slot.value, slot.weight)).collect();
        let order = |a: &(u64, f64), b: &(u64, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if all.len() > most && most > 0 {
            all.select_nth_unstable_by(most - 1, order);
        }
        all.truncate(most);
        all.sort_unstable_by(order);
        let total = self.total.max(f64::MIN_POSITIVE);
        all.into_iter().map(|(value, weight)| (value, weight / total)).collect()
    }

    /// Returns all values with how often each was added, in order of the value.
    pub fn counts(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<_> =
            self.slots.iter().filter(|slot| slot.count > 0).map(|slot| (slot.value, slot.count)).collect();
        all.sort_unstable();
        all
    }

    /// Returns the most frequent value and its share; 0 and 0 for nothing.
    pub fn first(&self) -> (u64, f64) {
        let best = self
            .slots
            .iter()
            .filter(|slot| slot.count > 0)
            .max_by(|a, b| a.weight.total_cmp(&b.weight).then(b.value.cmp(&a.value)));
        best.map_or((0, 0.0), |slot| (slot.value, slot.weight / self.total.max(f64::MIN_POSITIVE)))
    }

    /// Returns the share of the most frequent value.
    pub fn first_share(&self) -> f64 {
        self.first().1
    }

    /// Returns the share that the `most` largest values hold together.
    pub fn head_share(&self, most: usize) -> f64 {
        self.top(most).iter().map(|(_, share)| share).sum()
    }

    /// Returns Shannon's entropy as a share of what it would be if no value occurred twice: 0 for
    /// one value, 1 where all differ.
    pub fn entropy(&self) -> f64 {
        if self.count < 2 || self.total <= 0.0 {
            return 0.0;
        }
        let entropy: f64 = self
            .slots
            .iter()
            .filter(|slot| slot.count > 0)
            .map(|slot| f64::from(slot.count) / self.count as f64)
            .map(|share| -share * libm::log2(share))
            .sum();
        (entropy / libm::log2(self.count as f64) + 0.0).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_shares_and_entropy() {
        let cases: [(&[u64], usize, f64, f64); 4] = [
            (&[], 0, 0.0, 0.0),
            (&[7, 7, 7, 7], 1, 1.0, 0.0),
            (&[1, 2, 3, 4], 4, 0.25, 1.0),
            (&[1, 1, 2, 2], 2, 0.5, 0.5),
        ];
        for (values, distinct, first, entropy) in cases {
            let mut tally = Tally::with_capacity(values.len(), 9);
            values.iter().for_each(|value| tally.add(*value, 2.0));
            assert_eq!(tally.distinct(), distinct, "{values:?}");
            assert!((tally.first_share() - first).abs() < 1e-9, "{values:?}");
            assert!((tally.entropy() - entropy).abs() < 1e-9, "{values:?}");
        }
    }

    #[test]
    fn more_than_fits_neither_hangs_nor_loses_the_total() {
        let mut tally = Tally::with_capacity(8, 1);
        (0..1000).for_each(|value| tally.add(value, 1.0));
        assert!(tally.distinct() < 16);
        assert!(tally.first_share() <= 0.001 + 1e-9);
    }
}
