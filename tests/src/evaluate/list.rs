//! The list of scenarios: `tests/scenarios/*.toml`, as data.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, de::DeserializeOwned};

/// `matrix.toml`: attacks, backgrounds, and what is ordinary.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// When the attacks begin and end.
    pub timing: Timing,
    /// How strong they are.
    pub intensity: Intensity,
    /// When what is ordinary begins and ends.
    pub benign_timing: BenignTiming,
    /// The kinds of node.
    pub background: Vec<Background>,
    /// The attacks.
    pub attack: Vec<Attack>,
    /// What is ordinary.
    pub benign: Vec<Benign>,
}

/// Milliseconds of calm, attack and quiet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Before the attack.
    pub calm_ms: u64,
    /// The attack.
    pub attack_ms: u64,
    /// After it.
    pub tail_ms: u64,
}

/// How strong attacks are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intensity {
    /// Times the background's rate.
    pub ratios: Vec<f64>,
}

/// Milliseconds of what is ordinary.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenignTiming {
    /// The background alone, before.
    pub learn_ms: u64,
    /// The capture.
    pub run_ms: u64,
}

/// A kind of node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Background {
    /// Its name.
    pub name: String,
    /// What it is, in words.
    pub about: String,
    /// What it receives.
    pub sources: Vec<BackgroundSource>,
}

impl Background {
    /// Returns its rate, packets a second towards the host.
    pub fn pps(&self) -> f64 {
        self.sources.iter().map(|source| source.pps).sum()
    }
}

/// A part of a background.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackgroundSource {
    /// Its name.
    pub name: String,
    /// The capture, below the folder of captures.
    pub file: String,
    /// Packets a second towards the host.
    pub pps: f64,
    /// The host in the capture.
    pub victim: Option<String>,
}

/// An attack of the matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attack {
    /// Its name.
    pub name: String,
    /// The vector of the incident.
    pub vector: String,
    /// The set of vectors that have to be reported; absent: `vector` alone.
    pub vectors: Option<Vec<String>>,
    /// The capture, below the folder of captures.
    pub file: Option<String>,
    /// The generated capture.
    pub generated: Option<String>,
    /// Several captures at once.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// The host in the capture.
    pub victim: Option<String>,
    /// What becomes of sources.
    pub src: Option<String>,
    /// Where it goes, if not to the host.
    pub dst: Option<String>,
    /// Times the background's rate, instead of the usual.
    pub ratios: Option<Vec<f64>>,
    /// How many run side by side, at their own timing, instead of a rate.
    pub copies: Option<Vec<u32>>,
    /// How long it lasts, instead of the usual.
    pub attack_ms: Option<u64>,
    /// Fields that hold one value.
    pub constant: Vec<String>,
}

impl Attack {
    /// Returns the vectors that have to be reported, sorted.
    pub fn expected(&self) -> Vec<String> {
        let mut vectors = self.vectors.clone().unwrap_or_else(|| vec![self.vector.clone()]);
        vectors.sort();
        vectors
    }

    /// Returns what it is made of; shares add up to 1.
    pub fn parts(&self) -> Vec<Part> {
        if self.parts.is_empty() {
            return vec![Part { file: self.file.clone(), generated: self.generated.clone(), share: 1.0 }];
        }
        self.parts.clone()
    }
}

/// A part of an attack.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// See [`Attack::file`].
    pub file: Option<String>,
    /// See [`Attack::generated`].
    pub generated: Option<String>,
    /// Its share of the packets.
    pub share: f64,
}

/// Something ordinary.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benign {
    /// Its name.
    pub name: String,
    /// See [`Attack::file`].
    pub file: Option<String>,
    /// See [`Attack::generated`].
    pub generated: Option<String>,
    /// The host in the capture.
    pub victim: Option<String>,
    /// `keep`: destinations stay.
    pub dst: Option<String>,
    /// Its rate; absent: its own timing.
    pub pps: Option<f64>,
    /// Ten times its own rate; absent: it is never sped up.
    pub x10_pps: Option<f64>,
    /// What is learned before it, in the scenarios that learn.
    pub background: String,
}

/// `behaviours.toml`, or `mitigation.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviours {
    /// The entries.
    pub behaviour: Vec<Behaviour>,
}

/// A behaviour that must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// V1 to V22 of what is detected, M1 and on of what is done about it.
    pub id: String,
    /// The scenario, beside the list.
    pub file: Option<String>,
    /// Attacks of the matrix that show it.
    pub matrix: Vec<String>,
    /// The simulation that shows it.
    pub simulation: Option<String>,
    /// What else shows it, in words.
    pub elsewhere: Option<String>,
    /// What to know, in words.
    pub note: Option<String>,
    /// The set of vectors that have to be reported; empty: no incident.
    pub vectors: Vec<String>,
    /// When the attack begins and ends.
    pub attack_ms: Option<(u64, u64)>,
    /// Longest time to detect.
    pub within_ms: Option<u64>,
    /// A second attack: when it begins and ends.
    pub again_ms: Option<(u64, u64)>,
    /// There may be but one incident.
    pub one_incident: bool,
    /// It may not close before.
    pub held_until_ms: Option<u64>,
    /// Incidents of severity `info` do not count.
    pub allow_info: bool,
    /// A key of the evidence, and what has to stand in it.
    pub evidence: Option<(String, String)>,
    /// How the attack grows.
    pub ramp: Option<Ramp>,
    /// The rate that the ramp may have reached when the incident opens.
    pub below_pps: Option<f64>,
    /// What has to be removed of the attack.
    pub removal: Vec<RemovalBound>,
    /// The most that may be lost of everything that is benign, per cent.
    pub lost_percent: Option<f64>,
    /// Sources that may lose 0.1 % each at most.
    pub spared: Vec<String>,
    /// Not one packet may be dropped.
    pub drops_nothing: bool,
    /// No rule may be left at the end.
    pub rules_end: bool,
}

/// What has to be removed of an attack.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovalBound {
    /// When the attack, or a part of it, begins and ends.
    pub window_ms: (u64, u64),
    /// What passes so soon after the beginning does not count.
    pub settle_ms: u64,
    /// At least this much of the rest, per cent.
    pub percent: f64,
}

/// Geometric growth.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// From this rate,
    pub from_pps: f64,
    /// to this rate,
    pub to_pps: f64,
    /// in this time.
    pub over_ms: f64,
}

impl Ramp {
    /// Returns the rate so long after the start, packets a second.
    pub fn at(&self, after_ms: f64) -> f64 {
        self.from_pps * (self.to_pps / self.from_pps).powf((after_ms / self.over_ms).min(1.0))
    }
}

/// All of it.
#[derive(Clone, Debug)]
pub struct List {
    /// The folder.
    pub dir: PathBuf,
    /// `matrix.toml`.
    pub matrix: Matrix,
    /// `behaviours.toml` and `mitigation.toml`.
    pub behaviours: Vec<Behaviour>,
    /// `known.toml`: why a scenario falls short, by its name. A name that ends in `*` stands for
    /// all that begin so.
    pub known: BTreeMap<String, String>,
    /// `ci.toml`.
    pub ci: Ci,
}

/// `ci.toml`: scenarios that must be right in every run of the tests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ci {
    /// Attacks and behaviours.
    pub held: Vec<String>,
    /// Ordinary traffic.
    pub ordinary: Vec<String>,
    /// Attacks that have to be removed, too.
    pub removed: Vec<String>,
}

impl List {
    /// Reads the list of this repository.
    ///
    /// # Errors
    /// Where a file cannot be read or is not what it should be.
    pub fn load() -> Result<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let matrix = read(&dir.join("matrix.toml"))?;
        let Behaviours { behaviour: mut behaviours } = read(&dir.join("behaviours.toml"))?;
        let Behaviours { behaviour: mitigated } = read(&dir.join("mitigation.toml"))?;
        behaviours.extend(mitigated);
        let known = read(&dir.join("known.toml"))?;
        let ci = read(&dir.join("ci.toml"))?;
        Ok(Self { dir, matrix, behaviours, known, ci })
    }

    /// Returns why a scenario is known to fall short.
    pub fn reason(&self, name: &str) -> Option<&str> {
        let exact = self.known.get(name);
        let by_prefix = || {
            let fits = |key: &str| key.strip_suffix('*').is_some_and(|prefix| name.starts_with(prefix));
            self.known.iter().find(|(key, _)| fits(key)).map(|(_, reason)| reason)
        };
        exact.or_else(by_prefix).map(String::as_str)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}
