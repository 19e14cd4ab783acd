//! Sets of numbers, as ranges.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Ranges of a field's values, both ends included; none at all: any value. In ascending order, with
/// a gap between any two: what is built with [`Ranges::new`] is equal where it matches the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(
    try_from = "Vec<Item<T>>",
    into = "Vec<Item<T>>",
    bound(serialize = "T: Number + Serialize", deserialize = "T: Number + Deserialize<'de>")
)]
pub struct Ranges<T>(Vec<(T, T)>);

/// A number that a field holds.
pub trait Number: Copy + Ord + fmt::Display + fmt::Debug + Into<u32> {}

impl Number for u8 {}
impl Number for u16 {}

/// How one range stands in TOML and JSON: a number, or both ends in an array.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Item<T> {
    One(T),
    Range([T; 2]),
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Number> Ranges<T> {
    /// Sorts and joins ranges.
    ///
    /// # Errors
    /// The range whose ends are in the wrong order.
    pub fn new(mut ranges: Vec<(T, T)>) -> Result<Self, (T, T)> {
        if let Some(wrong) = ranges.iter().find(|(first, last)| first > last) {
            return Err(*wrong);
        }
        ranges.sort_unstable();
        let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first.into() <= before.1.into().saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Ok(Self(joined))
    }

    /// One value.
    pub fn one(value: T) -> Self {
        Self(vec![(value, value)])
    }

    /// One range.
    pub fn range(first: T, last: T) -> Self {
        Self(vec![(first.min(last), first.max(last))])
    }

    /// Returns whether a value is in it.
    pub fn contains(&self, value: T) -> bool {
        self.0.is_empty() || self.0.iter().any(|(first, last)| (*first..=*last).contains(&value))
    }

    /// Returns the ranges.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (T, T)> {
        self.0.iter().copied()
    }
}

impl<T> Ranges<T> {
    /// Returns whether any value matches.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T: Number> TryFrom<Vec<Item<T>>> for Ranges<T> {
    type Error = String;

    fn try_from(items: Vec<Item<T>>) -> Result<Self, String> {
        let ranges = items.into_iter().map(|item| match item {
            Item::One(value) => (value, value),
            Item::Range([first, last]) => (first, last),
        });
        Self::new(ranges.collect()).map_err(|(first, last)| format!("{first}-{last} ends before it begins"))
    }
}

impl<T: Number> From<Ranges<T>> for Vec<Item<T>> {
    fn from(ranges: Ranges<T>) -> Self {
        ranges
            .iter()
            .map(|(first, last)| if first == last { Item::One(first) } else { Item::Range([first, last]) })
            .collect()
    }
}

impl<T: Number> fmt::Display for Ranges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl<T: Number> fmt::Debug for Ranges<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() { f.write_str("any") } else { fmt::Display::fmt(self, f) }
    }
}
