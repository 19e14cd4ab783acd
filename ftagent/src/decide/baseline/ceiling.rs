//! The ceiling: what a threshold may never cross, and how fast it may grow.
//!
//! This is the part of learning that an adversary works against, so it is pure arithmetic on
//! rates: no evidence of any kind enters it. `ARCHITECTURE.md` states the theorem, and a property
//! test in `tests.rs` holds it over arbitrary rates.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The ceiling stands this high over the level that it is derived from.
pub const MULTIPLE: f64 = 8.0;
/// Hours of learning after which the ceiling follows the busy hours instead of the quietest.
pub const WEEK_HOURS: u32 = 168;
/// Growth from one hour to the next, at most: the 24th root of 2, so a factor of 2 in 24 hours.
pub const PER_HOUR: f64 = 1.029_302_236_643_492;
/// Growth within any 30 days, at most.
pub const PER_MONTH: f64 = 10.0;

const DAY: u32 = 24;
const MONTH: usize = 30;
/// A rise by this factor is told. With what an hour adds, three of them stay under ten.
const TOLD: f64 = 2.0;

/// A ceiling and its past.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// The present value; 0 before anything is known.
    value: f64,
    /// The level of the quietest hour of the first week.
    anchor: Option<f64>,
    /// Hours that were learned from.
    hours: u32,
    /// The lowest value in each of the last 30 days, the present one last.
    month: VecDeque<f64>,
    /// The value that the operator was told last.
    told: f64,
}

impl Ceiling {
    /// Returns the present value; infinite before anything is known.
    pub fn value(&self) -> f64 {
        if self.value > 0.0 { self.value } else { f64::INFINITY }
    }

    /// Returns whether the first week is over.
    pub fn is_past_first_week(&self) -> bool {
        self.hours >= WEEK_HOURS
    }

    /// Returns the hours that were learned from.
    pub fn hours(&self) -> u32 {
        self.hours
    }

    /// Within the first hour: follows the level that nine tenths of what was seen so far exceed.
    pub fn begin(&mut self, low: f64, floor: f64) {
        if self.hours == 0 {
            self.value = MULTIPLE * low.max(floor);
            self.told = self.value;
        }
    }

    /// An hour is complete. `low` is the level that nine tenths of its blocks exceed, `busy` the
    /// level of a typical busy hour of the last week. Returns the new value where it has doubled
    /// since the operator was told.
    pub fn hour(&mut self, low: f64, busy: f64, floor: f64) -> Option<f64> {
        self.hours = self.hours.saturating_add(1);
        let wanted = if self.hours <= WEEK_HOURS {
            // An adversary can only add: the quietest hour is the one he touched least.
            let anchor = self.anchor.map_or(low, |anchor| anchor.min(low));
            self.anchor = Some(anchor);
            MULTIPLE * anchor.max(floor)
        } else {
            MULTIPLE * busy.max(floor)
        };
        self.value = wanted.min(self.bound());
        self.remember();
        if self.told <= 0.0 || self.value < self.told / TOLD {
            self.told = self.value;
        }
        (self.value >= self.told * TOLD).then(|| {
            self.told = self.value;
            self.value
        })
    }

    /// Returns what the growth limits allow now.
    fn bound(&self) -> f64 {
        if self.month.is_empty() {
            return f64::INFINITY;
        }
        let lowest = self.month.iter().copied().fold(f64::INFINITY, f64::min);
        (PER_HOUR * self.value).min(PER_MONTH * lowest)
    }

    fn remember(&mut self) {
        match self.month.back_mut() {
            Some(today) if !self.hours.is_multiple_of(DAY) => *today = today.min(self.value),
            _ => self.month.push_back(self.value),
        }
        // One more than the days, so that the oldest is a whole day old.
        if self.month.len() > MONTH + 1 {
            self.month.pop_front();
        }
    }

    /// The operator's word: the ceiling stands over `level` from now on and its past is void.
    pub fn accept(&mut self, level: f64, floor: f64) {
        self.value = MULTIPLE * level.max(floor);
        self.told = self.value;
        self.anchor = Some(level);
        self.month.clear();
    }

    /// Returns whether what was read from a file can be used.
    pub fn is_sound(&self) -> bool {
        let numbers = [self.value, self.told, self.anchor.unwrap_or(0.0)];
        let good = |value: &f64| value.is_finite() && *value >= 0.0;
        numbers.iter().chain(&self.month).all(good) && self.month.len() <= MONTH + 1
    }
}
