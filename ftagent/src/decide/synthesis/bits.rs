//! Sets of packets, as bits.

/// A set of so many packets at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// The set of those for which `holds` says so.
    pub fn of<T>(items: &[T], holds: impl Fn(&T) -> bool) -> Self {
        let word =
            |chunk: &[T]| chunk.iter().enumerate().fold(0, |word, (at, item)| word | u64::from(holds(item)) << at);
        Self(items.chunks(64).map(word).collect())
    }

    /// Several sets at once: those of which `holds` says so. Each item is looked at once, for there
    /// are many of them and few sets.
    pub fn of_each<T, A>(items: &[T], sets: &[A], holds: impl Fn(&A, &T) -> bool) -> Vec<Self> {
        let mut all = vec![Self(Vec::with_capacity(items.len().div_ceil(64))); sets.len()];
        let mut words = vec![0u64; sets.len()];
        for chunk in items.chunks(64) {
            words.fill(0);
            for (at, item) in chunk.iter().enumerate() {
                for (word, set) in words.iter_mut().zip(sets) {
                    *word |= u64::from(holds(set, item)) << at;
                }
            }
            all.iter_mut().zip(&words).for_each(|(bits, word)| bits.0.push(*word));
        }
        all
    }

    /// Returns what is in both.
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a & b).collect())
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Returns how many are in both.
    pub fn count_and(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).map(|(a, b)| (a & b).count_ones() as usize).sum()
    }

    /// Returns how many are in both, and how many of those are in a third set.
    pub fn count_within(&self, other: &Self, third: &Self) -> (usize, usize) {
        let words = self.0.iter().zip(&other.0).zip(&third.0);
        words.fold((0, 0), |(both, all), ((a, b), c)| {
            (both + (a & b).count_ones() as usize, all + (a & b & c).count_ones() as usize)
        })
    }
}
