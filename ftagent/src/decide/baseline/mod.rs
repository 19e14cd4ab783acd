//! What is normal: per class and metric.
//!
//! [`series`] learns one rate, [`ceiling`] bounds how far it can be led.

pub mod ceiling;
pub mod series;
#[cfg(test)]
mod tests;

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use self::series::{Series, WEEK};
use super::{Metric, Now, guard::Validation};

/// What is known of one class and metric, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The class.
    pub class: String,
    /// The metric: `pps` or `bps`.
    pub metric: Metric,
    /// The present rate (mean of the last second).
    pub rate: f64,
    /// What is normal now.
    pub baseline: f64,
    /// How far normal reaches to both sides.
    pub spread: f64,
    /// The threshold now.
    pub threshold: f64,
    /// What the threshold may never cross.
    pub ceiling: f64,
    /// Whether it is trusted.
    pub trusted: bool,
    /// Means of the last minutes, oldest first, at most 60; for a plot.
    pub minutes: Vec<f64>,
    /// Hourly levels of the last 168 hours, oldest first, as far as known.
    pub hours: Vec<f64>,
}

/// How much is known, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// `new` (nothing is trusted yet), `learning` (the first week), `learned`.
    pub state: String,
    /// Seconds that were watched. What looked like an attack was not learned in them.
    pub learned_s: u64,
    /// Seconds that are needed before the baseline is trusted.
    pub trust_after_s: u64,
    /// Bound on growth, in words: time-to-blind.
    pub bound: String,
}

/// Everything that outlives a restart. Its form is versioned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// [`Checkpoint::VERSION`].
    pub version: u32,
    /// When it was taken.
    pub taken: Now,
    /// Seconds that were watched.
    pub learned_s: u64,
    /// The classes that were ever seen.
    pub classes: Vec<Learned>,
    /// Where the socket table was found to be right. It is of one node alone: exports do not have it.
    #[serde(default)]
    pub sockets: Option<Validation>,
}

/// What was learned of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// Its name.
    pub class: String,
    /// Packets per second.
    pub pps: Series,
    /// Bits per second.
    pub bps: Series,
}

impl Checkpoint {
    /// The version that this program writes, and the only one that it reads.
    pub const VERSION: u32 = 1;
}

/// What is normal of every class.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baselines {
    classes: Vec<Pair>,
    learned_s: u64,
    /// The hour since the start of the monotonic clock that is being learned.
    hour: Option<u64>,
}

/// A class in both metrics.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Pair {
    #[serde(with = "series::whole")]
    pps: Series,
    #[serde(with = "series::whole")]
    bps: Series,
}

/// One class in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Packets per second.
    pub pps: f64,
    /// Bits per second.
    pub bps: f64,
    /// Whether it is to be learned from.
    pub ordinary: bool,
}

impl Default for Baselines {
    fn default() -> Self {
        Self { classes: vec![Pair::default(); TrafficClass::COUNT], learned_s: 0, hour: None }
    }
}

impl Baselines {
    /// Takes in a second. Returns the classes whose ceiling has doubled, with its new value.
    pub fn second(&mut self, now: Now, seconds: &[Second]) -> Vec<(TrafficClass, Metric, f64)> {
        let week = hour_of_week(now.unix_ms);
        let mut doubled = Vec::new();
        let hour = now.mono_ns / HOUR_NS;
        if self.hour.replace(hour).is_some_and(|before| before != hour) {
            for (class, pair) in TrafficClass::ALL.into_iter().zip(&mut self.classes) {
                let ended = [
                    (Metric::Pps, pair.pps.end_hour(floor(class, Metric::Pps), week)),
                    (Metric::Bps, pair.bps.end_hour(floor(class, Metric::Bps), week)),
                ];
                let told = ended.into_iter().filter_map(|(metric, value)| Some((class, metric, value?)));
                doubled.extend(told.filter(|_| pair.pps.is_used()));
            }
        }
        // Also while a class is suspicious: one that always is must not keep the node unknown for ever.
        self.learned_s += 1;
        for ((class, pair), second) in TrafficClass::ALL.into_iter().zip(&mut self.classes).zip(seconds) {
            pair.pps.show(second.pps);
            pair.bps.show(second.bps);
            if second.ordinary {
                pair.pps.learn(second.pps, floor(class, Metric::Pps), week);
                pair.bps.learn(second.bps, floor(class, Metric::Bps), week);
            }
        }
        doubled
    }

    /// Returns what is known of a class in a metric.
    pub fn of(&self, class: TrafficClass, metric: Metric) -> Option<&Series> {
        let pair = self.classes.get(class.index())?;
        Some(if metric == Metric::Bps { &pair.bps } else { &pair.pps })
    }

    /// Returns the seconds that were watched.
    pub fn learned_s(&self) -> u64 {
        self.learned_s
    }

    /// Returns whether a week was learned.
    pub fn is_past_first_week(&self) -> bool {
        self.classes.first().is_some_and(|pair| pair.pps.ceiling().is_past_first_week())
    }

    /// Takes the present load for normal.
    pub fn accept(&mut self, now: Now, trust_after_s: u64) {
        let week = hour_of_week(now.unix_ms);
        for (class, pair) in TrafficClass::ALL.into_iter().zip(&mut self.classes) {
            pair.pps.accept(floor(class, Metric::Pps), week);
            pair.bps.accept(floor(class, Metric::Bps), week);
        }
        self.learned_s = self.learned_s.max(trust_after_s);
    }

    /// Forgets one class or all. Who forgets all begins to learn anew.
    pub fn reset(&mut self, class: Option<TrafficClass>) {
        match class.and_then(|class| self.classes.get_mut(class.index())) {
            Some(pair) => *pair = Pair::default(),
            None => *self = Self::default(),
        }
    }

    /// Returns what is known of every class that was ever seen.
    pub fn views(&self, trusted: bool) -> Vec<View> {
        let mut views = Vec::new();
        for (class, pair) in TrafficClass::ALL.into_iter().zip(&self.classes).filter(|(_, pair)| pair.pps.is_used()) {
            views.push(view(class, Metric::Pps, &pair.pps, trusted));
            views.push(view(class, Metric::Bps, &pair.bps, trusted));
        }
        views
    }

    /// Returns what outlives a restart.
    pub fn checkpoint(&self, now: Now) -> Checkpoint {
        let used = TrafficClass::ALL.into_iter().zip(&self.classes).filter(|(_, pair)| pair.pps.is_used());
        let learned = |(class, pair): (TrafficClass, &Pair)| Learned {
            class: class.as_str().to_owned(),
            pps: pair.pps.clone(),
            bps: pair.bps.clone(),
        };
        let classes = used.map(learned).collect();
        Checkpoint { version: Checkpoint::VERSION, taken: now, learned_s: self.learned_s, classes, sockets: None }
    }

    /// Makes the baselines of a checkpoint.
    ///
    /// # Errors
    /// Where it cannot be used, in words.
    pub fn restore(checkpoint: Checkpoint) -> Result<Self, String> {
        let Checkpoint { version, classes, learned_s, .. } = checkpoint;
        if version != Checkpoint::VERSION {
            return Err(format!("it is of version {version}, and this program reads version {}", Checkpoint::VERSION));
        }
        let mut baselines = Self { learned_s, ..Self::default() };
        for Learned { class: name, pps, bps } in classes {
            let class = TrafficClass::from_name(&name).ok_or_else(|| format!("it has an unknown class `{name}`"))?;
            if !pps.is_sound() || !bps.is_sound() {
                return Err(format!("what it says of `{name}` is no baseline"));
            }
            if let Some(pair) = baselines.classes.get_mut(class.index()) {
                *pair = Pair { pps, bps };
            }
        }
        Ok(baselines)
    }
}

fn view(class: TrafficClass, metric: Metric, series: &Series, trusted: bool) -> View {
    let (rate, minutes) = series.shown();
    let level = series.level();
    let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
    View {
        class: class.as_str().to_owned(),
        metric,
        rate,
        baseline: f64::from(level.median),
        spread: f64::from((level.high - level.median).max(0.0)),
        // Where nothing is learned of a class yet, the floor is what decides.
        threshold: match series.threshold() {
            known if known.is_finite() => known,
            _ if trusted => floor(class, metric),
            _ => 0.0,
        },
        ceiling: finite(series.ceiling().value()),
        trusted,
        minutes,
        hours: series.hours(),
    }
}

const HOUR_NS: u64 = 3_600_000_000_000;
const HOUR_MS: i64 = 3_600_000;
/// Hours from Monday to Thursday, the first of January 1970.
const THURSDAY: i64 = 72;

/// Returns the hour of the week, UTC, 0 on Monday at midnight.
pub fn hour_of_week(unix_ms: i64) -> usize {
    (unix_ms.div_euclid(HOUR_MS) + THURSDAY).rem_euclid(WEEK as i64) as usize
}

/// Returns the rate below which a class is never too much, however little is normal.
pub const fn floor(class: TrafficClass, metric: Metric) -> f64 {
    match metric {
        Metric::Bps => 4e6,
        _ if no_business(class) || invalid(class) => 100.0,
        _ => 200.0,
    }
}

/// Returns whether no stack sends packets of this class.
pub const fn invalid(class: TrafficClass) -> bool {
    use TrafficClass::*;
    matches!(class, Malformed | TcpNull | TcpXmas | TcpBadFlags | TcpUrg)
}

/// Returns whether an edge node has no business receiving packets of this class.
pub const fn no_business(class: TrafficClass) -> bool {
    class.is_no_business()
}
