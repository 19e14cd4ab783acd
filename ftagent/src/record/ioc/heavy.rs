//! What occurs most, in bounded memory.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash},
};

/// Weights of the heaviest values of a stream. When twice as many values are held as are to be kept, the
/// lighter half goes, and what comes later begins at the weight of the heaviest that went: a weight is never
/// too small, and too large by its `excess` at most (Metwally et al., "Efficient Computation of Frequent and
/// Top-k Elements in Data Streams", ICDT 2005, with evictions gathered).
#[derive(Clone, Debug)]
pub struct Heavy<K, V> {
    table: HashMap<K, Weighed<V>>,
    keep: usize,
    floor: f64,
    /// The weight of everything that was added.
    pub total: f64,
}

/// A value's weight, and what is noted of it.
#[derive(Clone, Debug, Default)]
pub struct Weighed<V> {
    /// At most what was added for it, plus [`Self::excess`].
    pub weight: f64,
    /// How much of the weight may not be its own.
    pub excess: f64,
    /// Samples since it is in the table.
    pub samples: u64,
    /// What is noted.
    pub note: V,
}

impl<V> Weighed<V> {
    /// Returns the weight that it certainly has.
    pub fn certain(&self) -> f64 {
        (self.weight - self.excess).max(0.0)
    }
}

impl<K: Hash + Eq + Ord + Clone, V: Default> Heavy<K, V> {
    /// Makes a table that keeps so many values.
    pub fn new(keep: usize) -> Self {
        Self { table: HashMap::new(), keep: keep.max(1), floor: 0.0, total: 0.0 }
    }

    /// Adds weight to a value, and returns what is noted of it.
    pub fn add(&mut self, key: K, weight: f64) -> &mut V {
        self.total += weight;
        if self.table.len() >= 2 * self.keep && !self.table.contains_key(&key) {
            self.shrink();
        }
        let floor = self.floor;
        let entry = match self.table.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Weighed { weight: floor, excess: floor, samples: 0, note: V::default() })
            }
        };
        entry.weight += weight;
        entry.samples += 1;
        &mut entry.note
    }

    fn shrink(&mut self) {
        let mut all: Vec<(f64, K)> = self.table.iter().map(|(key, entry)| (entry.weight, key.clone())).collect();
        // Equal weights are told apart by the value, so that the same stream leaves the same table.
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (weight, key) in all.drain(..).skip(self.keep) {
            self.floor = self.floor.max(weight);
            self.table.remove(&key);
        }
    }

    /// Returns how many values are held.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Returns the weight that a value which is not held may have had at most.
    pub fn floor(&self) -> f64 {
        self.floor
    }

    /// Returns the heaviest values, by the weight that they certainly have, heaviest first.
    pub fn top(&self, most: usize) -> Vec<(&K, &Weighed<V>)> {
        let mut all: Vec<(&K, &Weighed<V>)> = self.table.iter().collect();
        all.sort_unstable_by(|a, b| b.1.certain().total_cmp(&a.1.certain()).then_with(|| a.0.cmp(b.0)));
        all.truncate(most);
        all
    }
}

/// How many different values there were, within a few per cent: HyperLogLog with 2^12 registers (Flajolet et
/// al., 2007; standard error 1.6 %).
#[derive(Clone, Debug)]
pub struct Distinct {
    registers: Vec<u8>,
    /// The same in every run, so that the same packets give the same report.
    keys: BuildHasherDefault<DefaultHasher>,
}

const REGISTER_BITS: u32 = 12;

impl Default for Distinct {
    fn default() -> Self {
        Self { registers: vec![0; 1 << REGISTER_BITS], keys: BuildHasherDefault::default() }
    }
}

impl Distinct {
    /// Adds a value.
    pub fn add(&mut self, value: &impl Hash) {
        let hash = self.keys.hash_one(value);
        let place = (hash >> (64 - REGISTER_BITS)) as usize;
        let rank = (hash << REGISTER_BITS | 1 << (REGISTER_BITS - 1)).leading_zeros() as u8 + 1;
        if let Some(register) = self.registers.get_mut(place) {
            *register = rank.max(*register);
        }
    }

    /// Returns how many there were.
    pub fn count(&self) -> f64 {
        let size = self.registers.len() as f64;
        let sum: f64 = self.registers.iter().map(|rank| 0.5f64.powi(i32::from(*rank))).sum();
        let raw = 0.7213 / (1.0 + 1.079 / size) * size * size / sum;
        let empty = self.registers.iter().filter(|rank| **rank == 0).count();
        if raw <= 2.5 * size && empty > 0 { size * (size / empty as f64).ln() } else { raw }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn weights_are_bounded_whatever_comes(values in proptest::collection::vec((0u32..400, 1u8..9), 0..3000)) {
            let mut heavy: Heavy<u32, ()> = Heavy::new(32);
            let mut exact = HashMap::new();
            for (value, weight) in values {
                heavy.add(value, f64::from(weight));
                *exact.entry(value).or_insert(0.0) += f64::from(weight);
                prop_assert!(heavy.len() <= 64);
            }
            for (value, entry) in heavy.top(usize::MAX) {
                prop_assert!(entry.certain() <= exact[value] + 1e-9 && exact[value] <= entry.weight + 1e-9);
            }
            let held: Vec<u32> = heavy.top(usize::MAX).into_iter().map(|(value, _)| *value).collect();
            for (value, weight) in exact {
                prop_assert!(held.contains(&value) || weight <= heavy.floor() + 1e-9);
            }
        }
    }

    #[test]
    fn different_values_are_counted_within_a_few_per_cent() {
        for count in [0u32, 1, 100, 5_000, 200_000] {
            let mut distinct = Distinct::default();
            (0..count * 2).for_each(|value| distinct.add(&(value / 2)));
            let found = distinct.count();
            assert!((found - f64::from(count)).abs() <= 0.08 * f64::from(count) + 1.0, "{count}: {found}");
        }
    }
}
