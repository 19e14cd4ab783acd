//! One learned rate: a class in one metric.
//!
//! Seconds make blocks of ten, blocks make hours, hours make the week. A level is always a
//! median or another order statistic, so single bursts move nothing.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::ceiling::Ceiling;

/// Seconds in a block.
const BLOCK_S: usize = 10;
/// Blocks of the shortest horizon: five minutes.
const RECENT: usize = 30;
/// Blocks in an hour.
const HOUR: usize = 360;
/// Blocks that an hour must have to count: ten minutes.
const LEAST: usize = 60;
/// Hours in a week.
pub const WEEK: usize = 168;
/// Hours of the middle horizon.
const DAY: usize = 24;
/// Thresholds among which one may double at most: those of ten minutes, and one more because the
/// end of an hour makes one as well.
const LIMIT_BLOCKS: usize = 61;
/// Growth of the threshold within that time.
const LIMIT: f64 = 2.0;
/// The threshold stands this high over the level at least …
const OVER_LEVEL: f64 = 1.5;
/// … and this high over what bursts reach ordinarily.
const OVER_BURSTS: f64 = 1.25;
/// Weight of the newest week in an hour of the week.
const NEW_WEEK: f64 = 0.3;
/// Minutes that are kept for people.
const MINUTES: usize = 60;

/// A level, and what bursts reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// The median.
    pub median: f32,
    /// What nineteen in twenty bursts stay under.
    pub high: f32,
}

impl Level {
    fn threshold(self) -> f64 {
        (f64::from(self.median) * OVER_LEVEL).max(f64::from(self.high) * OVER_BURSTS)
    }
}

/// What is known of one class in one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Seconds of the present block.
    block: Vec<f32>,
    /// The last five minutes.
    recent: VecDeque<Level>,
    /// The present hour.
    hour: Vec<Level>,
    /// The last week, hour by hour.
    hours: VecDeque<Level>,
    /// By hour of the week, over the weeks.
    week: Vec<Option<Level>>,
    ceiling: Ceiling,
    /// The threshold after each of the last blocks.
    past: VecDeque<f64>,
    level: Level,
    threshold: f64,
    /// Seconds of the present minute, learned from or not, and the means of the last ones.
    #[serde(skip)]
    minute: Vec<f32>,
    #[serde(skip)]
    minutes: VecDeque<f32>,
}

/// A series with what does not outlive the daemon: an operator's word refers to the last minute.
pub mod whole {
    use std::collections::VecDeque;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Series;

    #[derive(Serialize)]
    struct Writing<'a> {
        series: &'a Series,
        minute: &'a [f32],
        minutes: &'a VecDeque<f32>,
    }

    #[derive(Deserialize)]
    struct Reading {
        series: Series,
        minute: Vec<f32>,
        minutes: VecDeque<f32>,
    }

    /// Writes it.
    pub fn serialize<S: Serializer>(series: &Series, serializer: S) -> Result<S::Ok, S::Error> {
        Writing { series, minute: &series.minute, minutes: &series.minutes }.serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Series, D::Error> {
        let Reading { series, minute, minutes } = Reading::deserialize(deserializer)?;
        Ok(Series { minute, minutes, ..series })
    }
}

impl Series {
    /// Notes the rate of a second for people, whatever it is.
    pub fn show(&mut self, rate: f64) {
        self.minute.push(rate as f32);
        if self.minute.len() == 60 {
            let mean = self.minute.iter().sum::<f32>() / 60.0;
            push(&mut self.minutes, mean, MINUTES);
            self.minute.clear();
        }
    }

    /// Learns a second of ordinary traffic. What is above the ceiling is learned as the ceiling.
    pub fn learn(&mut self, rate: f64, floor: f64, hour_of_week: usize) {
        self.block.push(rate.min(self.ceiling.value()) as f32);
        if self.block.len() < BLOCK_S {
            return;
        }
        let median = rank(&mut self.block, 0.5);
        let high = self.block.iter().copied().fold(0.0, f32::max);
        self.block.clear();
        let block = Level { median, high };
        push(&mut self.recent, block, RECENT);
        if self.hour.len() < HOUR {
            self.hour.push(block);
        }
        self.ceiling.begin(low(&self.hour), floor);
        self.weigh(floor, hour_of_week);
    }

    /// Ends the hour. Returns the ceiling where it has doubled since the operator was told.
    pub fn end_hour(&mut self, floor: f64, hour_of_week: usize) -> Option<f64> {
        if self.hour.len() < LEAST {
            self.hour.clear();
            return None;
        }
        let (level, low) = (summary(&self.hour), low(&self.hour));
        self.hour.clear();
        push(&mut self.hours, level, WEEK);
        if self.week.len() < WEEK {
            self.week.resize(WEEK, None);
        }
        if let Some(slot) = self.week.get_mut(hour_of_week) {
            *slot = Some(slot.map_or(level, |old| mix(old, level)));
        }
        let mut levels: Vec<f32> = self.hours.iter().map(|hour| hour.median).collect();
        let doubled = self.ceiling.hour(low, f64::from(rank(&mut levels, 0.9)), floor);
        self.weigh(floor, hour_of_week);
        doubled
    }

    /// Works the threshold out anew. The horizons must agree that a rate is too high: the most
    /// permissive one counts, under the limits of growth.
    fn weigh(&mut self, floor: f64, hour_of_week: usize) {
        let recent = summary(self.recent.make_contiguous());
        let day = self.hours.iter().rev().take(DAY).copied().collect::<Vec<_>>();
        let horizons = [Some(recent), (!day.is_empty()).then(|| summary(&day)), self.of_week(hour_of_week)];
        let wanted = horizons.iter().flatten().map(|level| level.threshold()).fold(floor, f64::max);
        let grown = LIMIT * self.past.iter().copied().fold(f64::INFINITY, f64::min);
        self.level = recent;
        self.threshold = wanted.min(grown).max(floor).min(self.ceiling.value());
        push(&mut self.past, self.threshold, LIMIT_BLOCKS);
    }

    /// The hour of the week, with its neighbours: people are not punctual.
    fn of_week(&self, hour: usize) -> Option<Level> {
        let at = |hour: usize| self.week.get(hour % WEEK).copied().flatten();
        let near = [at(hour), at(hour + 1), at(hour + WEEK - 1)];
        near.into_iter().flatten().reduce(|a, b| Level { median: a.median.max(b.median), high: a.high.max(b.high) })
    }

    /// Returns what is normal now.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Returns the threshold; infinite before anything is known.
    pub fn threshold(&self) -> f64 {
        if self.past.is_empty() { f64::INFINITY } else { self.threshold }
    }

    /// Returns what the threshold may never cross.
    pub fn ceiling(&self) -> &Ceiling {
        &self.ceiling
    }

    /// Returns whether it was ever above 0.
    pub fn is_used(&self) -> bool {
        let used = |level: &Level| level.high > 0.0;
        self.recent.iter().any(used)
            || self.hours.iter().any(used)
            || self.minutes.iter().chain(&self.minute).any(|rate| *rate > 0.0)
    }

    /// Returns the mean rate of the last second, and of each of the last minutes.
    pub fn shown(&self) -> (f64, Vec<f64>) {
        let last = self.minute.last().or(self.minutes.back()).copied().unwrap_or(0.0);
        (f64::from(last), self.minutes.iter().map(|mean| f64::from(*mean)).collect())
    }

    /// Returns the level of each of the last hours.
    pub fn hours(&self) -> Vec<f64> {
        self.hours.iter().map(|hour| f64::from(hour.median)).collect()
    }

    /// Takes the present rate for normal, on the operator's word.
    pub fn accept(&mut self, floor: f64, hour_of_week: usize) {
        let last = self.minute.iter().copied().rev().take(BLOCK_S);
        let mut seconds: Vec<f32> = last.collect();
        if seconds.is_empty() {
            return;
        }
        let high = seconds.iter().copied().fold(0.0, f32::max);
        let block = Level { median: rank(&mut seconds, 0.5), high };
        let (hours, week) = (std::mem::take(&mut self.hours), std::mem::take(&mut self.week));
        let (minute, minutes) = (std::mem::take(&mut self.minute), std::mem::take(&mut self.minutes));
        let mut ceiling = std::mem::take(&mut self.ceiling);
        ceiling.accept(f64::from(block.median), floor);
        *self = Self { hours, week, minute, minutes, ceiling, ..Self::default() };
        self.recent.push_back(block);
        self.weigh(floor, hour_of_week);
    }

    /// Returns whether what was read from a file can be used.
    pub fn is_sound(&self) -> bool {
        let good = |level: &Level| {
            level.median.is_finite() && level.median >= 0.0 && level.high.is_finite() && level.high >= 0.0
        };
        let levels = self.recent.iter().chain(&self.hour).chain(&self.hours).chain(self.week.iter().flatten());
        levels.chain([&self.level]).all(good)
            && self.block.len() < BLOCK_S
            && self.block.iter().all(|rate| rate.is_finite())
            && self.recent.len() <= RECENT
            && self.hour.len() <= HOUR
            && self.hours.len() <= WEEK
            && self.week.len() <= WEEK
            && self.past.len() <= LIMIT_BLOCKS
            && self.past.iter().chain([&self.threshold]).all(|value| value.is_finite() && *value >= 0.0)
            && self.ceiling.is_sound()
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T, most: usize) {
    ring.push_back(value);
    if ring.len() > most {
        ring.pop_front();
    }
}

/// Returns the smallest value that a share of the values does not exceed; 0 of none.
fn rank(values: &mut [f32], share: f64) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let at = (libm::ceil(share * values.len() as f64) as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Returns the level that nine tenths of the blocks reach: who comes later cannot raise it.
fn low(blocks: &[Level]) -> f64 {
    let mut medians: Vec<f32> = blocks.iter().map(|block| block.median).collect();
    f64::from(rank(&mut medians, 0.1))
}

fn summary(levels: &[Level]) -> Level {
    let mut medians: Vec<f32> = levels.iter().map(|level| level.median).collect();
    let mut highs: Vec<f32> = levels.iter().map(|level| level.high).collect();
    Level { median: rank(&mut medians, 0.5), high: rank(&mut highs, 0.95) }
}

/// Mixes levels by their logarithms: a week twice as busy counts as one half as busy does.
fn mix(old: Level, new: Level) -> Level {
    let blend = |old: f32, new: f32| {
        let log = |value: f32| libm::log1p(f64::from(value));
        libm::expm1((1.0 - NEW_WEEK) * log(old) + NEW_WEEK * log(new)) as f32
    };
    Level { median: blend(old.median, new.median), high: blend(old.high, new.high) }
}
