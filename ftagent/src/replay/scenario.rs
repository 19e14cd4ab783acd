//! Scenarios: which captures are sent when, how fast, from where, and what they are.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Serialize;
use thiserror::Error;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    check::{
        Fields, Problem, Problems, Read, boolean, duration, expected, positive_duration, rate, string, unknown, whole,
    },
    rewrite::{Rewrite, Sources},
    schedule::{Arrivals, Pace, Pulse, Ramp},
};

/// The most addresses of a pool.
pub const MAX_POOL: u32 = 1 << 20;

/// A scenario that cannot be used.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("{}: cannot read the scenario", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the TOML parser says; line and column are in it.
        what: String,
    },
    /// The file is TOML, but not a scenario.
    #[error("{}: {}", path.display(), list(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    let mut text = format!("{} {}", problems.len(), if problems.len() == 1 { "problem" } else { "problems" });
    for problem in problems {
        // Writing to a string cannot fail.
        let _written = write!(text, "\n  {problem}");
    }
    text
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Ordinary traffic.
    Benign,
    /// An attack.
    Attack,
}

/// A scenario, valid by construction.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Virtual time, nanoseconds; packets are sent before its end.
    pub duration: u64,
    /// Seeds everything that is drawn.
    pub seed: u64,
    /// The `[config]` table, as written.
    pub config: toml::Table,
    /// The sources, in the order of the file.
    pub sources: Vec<SourceSpec>,
}

/// A source of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// Its name, unique in the scenario.
    pub name: String,
    /// The capture.
    pub file: PathBuf,
    /// What it is; `None` where a capture is replayed without a scenario.
    pub label: Option<Label>,
    /// When it begins, nanoseconds.
    pub start: u64,
    /// When it ends, nanoseconds.
    pub stop: u64,
    /// Its rate; `None`: the capture's own timing.
    pub pace: Option<Pace>,
    /// Silence in between, where the capture's own timing is kept.
    pub pulse: Option<Pulse>,
    /// Whether the file starts again when it ends.
    pub repeats: bool,
    /// What becomes of addresses.
    pub rewrite: Rewrite,
    /// The address in the capture that is protected.
    pub victim: Option<IpAddr>,
    /// The vector that should be reported.
    pub expect: Option<String>,
}

impl SourceSpec {
    /// A capture as it is: its own timing and addresses.
    pub fn plain(name: String, file: PathBuf) -> Self {
        Self {
            name,
            file,
            label: None,
            start: 0,
            stop: u64::MAX,
            pace: None,
            pulse: None,
            repeats: false,
            rewrite: Rewrite::default(),
            victim: None,
            expect: None,
        }
    }
}

const SCENARIO: [&str; 4] = ["duration", "seed", "config", "source"];
const SOURCE: [&str; 13] = [
    "name", "file", "label", "start", "stop", "pps", "arrivals", "ramp", "pulse", "loop", "rewrite", "victim", "expect",
];

impl Scenario {
    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// See [`ScenarioError`]: it has everything that is wrong, not only what comes first.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// As [`Self::load`], from text; `path` is for messages, and what `file` is relative to.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ScenarioError> {
        let syntax = |error: toml::de::Error| ScenarioError::Syntax { path: path.to_owned(), what: error.to_string() };
        let root = DeTable::parse(text).map_err(syntax)?;
        let whole_table: toml::Table = toml::from_str(text).map_err(syntax)?;
        let mut problems = Problems::new(text);
        let scenario = Self::check(&root, whole_table, path, &mut problems);
        let problems = problems.into_sorted();
        match scenario {
            Some(scenario) if problems.is_empty() => Ok(scenario),
            _ => Err(ScenarioError::Invalid { path: path.to_owned(), problems }),
        }
    }

    fn check(
        root: &Spanned<DeTable<'_>>,
        mut values: toml::Table,
        path: &Path,
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let fields = Fields::new(root.get_ref(), 0..0, "", &SCENARIO, problems);
        let duration = fields.required("duration", problems, positive_duration);
        let seed = fields.optional("seed", problems, whole).unwrap_or(1);
        let config = match values.remove("config") {
            None => toml::Table::new(),
            Some(toml::Value::Table(table)) => table,
            Some(_) => {
                problems.add(fields.span_of("config"), "config", "expected a table: [config]");
                return None;
            }
        };
        let sources = sources(&fields, duration.unwrap_or(u64::MAX), path, problems);
        Some(Self { duration: duration?, seed, config, sources })
    }
}

fn sources(fields: &Fields<'_, '_>, duration: u64, path: &Path, problems: &mut Problems<'_>) -> Vec<SourceSpec> {
    let Some(value) = fields.raw("source") else {
        problems.add(0..0, "source", "is missing: a scenario has at least one [[source]]");
        return Vec::new();
    };
    let DeValue::Array(array) = value.get_ref() else {
        problems.add(value.span(), "source", "expected an array of tables: [[source]]");
        return Vec::new();
    };
    let (mut sources, mut names) = (Vec::new(), BTreeSet::new());
    for (i, item) in array.iter().enumerate() {
        let at = format!("source[{i}]");
        let DeValue::Table(table) = item.get_ref() else {
            problems.add(item.span(), at, expected("a table", item.get_ref()));
            continue;
        };
        let fields = Fields::new(table, item.span(), &at, &SOURCE, problems);
        let Some(source) = source(&fields, duration, path, problems) else { continue };
        if !names.insert(source.name.clone()) {
            problems.add(fields.span_of("name"), fields.path_of("name"), "another source has this name");
        }
        sources.push(source);
    }
    sources
}

fn source(fields: &Fields<'_, '_>, duration_ns: u64, path: &Path, problems: &mut Problems<'_>) -> Option<SourceSpec> {
    let name = fields.required("name", problems, string);
    let file = fields.required("file", problems, string);
    let label = fields.required("label", problems, label);
    let (start, stop) = span(fields, duration_ns, problems);
    let pulse = pulse(fields, problems);
    let pace = pace(fields, pulse, problems);
    let repeats = fields.optional("loop", problems, boolean).unwrap_or(false);
    let (rewrite, inner_victim) = rewrite(fields, problems);
    let victim = fields.optional("victim", problems, address).or(inner_victim);
    let expect = expect(fields, label, problems);
    let file = path.parent().unwrap_or(Path::new("")).join(file?);
    let (name, label) = (name?, Some(label?));
    Some(SourceSpec { name, file, label, start, stop, pace, pulse, repeats, rewrite, victim, expect })
}

fn span(fields: &Fields<'_, '_>, end: u64, problems: &mut Problems<'_>) -> (u64, u64) {
    let start = fields.optional("start", problems, duration).unwrap_or(0);
    let stop = fields.optional("stop", problems, duration).unwrap_or(end);
    if start >= end {
        problems.add(fields.span_of("start"), fields.path_of("start"), "must be before the scenario's end");
    } else if stop <= start {
        problems.add(fields.span_of("stop"), fields.path_of("stop"), "must be after `start`");
    }
    (start, stop.min(end))
}

fn pulse(fields: &Fields<'_, '_>, problems: &mut Problems<'_>) -> Option<Pulse> {
    let pulse = fields.table("pulse", &["on", "off"], problems)?;
    let on = pulse.required("on", problems, beat);
    let off = pulse.required("off", problems, beat);
    Some(Pulse { on: on?, off: off? })
}

/// Shorter beats than a millisecond are no pulses, and take for ever to step through.
fn beat(value: &DeValue<'_>) -> Read<u64> {
    match duration(value)? {
        0..1_000_000 => Err("must be at least 1ms".to_owned()),
        ns => Ok(ns),
    }
}

fn pace(fields: &Fields<'_, '_>, pulse: Option<Pulse>, problems: &mut Problems<'_>) -> Option<Pace> {
    let pps = fields.optional("pps", problems, rate);
    let arrivals = fields.optional("arrivals", problems, arrivals).unwrap_or(Arrivals::Poisson);
    let ramp = fields.table("ramp", &["to", "over"], problems).and_then(|ramp| {
        let to = ramp.required("to", problems, rate);
        let over = ramp.required("over", problems, positive_duration);
        Some(Ramp { to: to?, over: over? })
    });
    if fields.raw("pps").is_none() {
        for key in ["arrivals", "ramp"] {
            if fields.raw(key).is_some() {
                problems.add(
                    fields.span_of(key),
                    fields.path_of(key),
                    "needs `pps`: without it the capture's own timing is kept",
                );
            }
        }
    }
    Some(Pace { pps: pps?, arrivals, ramp, pulse })
}

fn rewrite(fields: &Fields<'_, '_>, problems: &mut Problems<'_>) -> (Rewrite, Option<IpAddr>) {
    let Some(table) = fields.table("rewrite", &["dst", "dst6", "src", "victim"], problems) else {
        return (Rewrite::default(), None);
    };
    let dst = table.optional("dst", problems, |value| family(network(value)?, false));
    let dst6 = table.optional("dst6", problems, |value| family(network(value)?, true));
    let src = table.optional("src", problems, sources_rule).unwrap_or_default();
    let victim = table.optional("victim", problems, address);
    if victim.is_some() && fields.raw("victim").is_some() {
        problems.add(table.span_of("victim"), table.path_of("victim"), "`victim` is given twice");
    }
    (Rewrite { dst, dst6, src }, victim)
}

fn expect(fields: &Fields<'_, '_>, label: Option<Label>, problems: &mut Problems<'_>) -> Option<String> {
    let expect = fields.table("expect", &["vector"], problems)?;
    if label == Some(Label::Benign) {
        problems.add(fields.span_of("expect"), fields.path_of("expect"), "only attack sources can expect a vector");
    }
    expect.required("vector", problems, string)
}

fn label(value: &DeValue<'_>) -> Read<Label> {
    choice(value, &[("benign", Label::Benign), ("attack", Label::Attack)])
}

fn arrivals(value: &DeValue<'_>) -> Read<Arrivals> {
    choice(value, &[("poisson", Arrivals::Poisson), ("even", Arrivals::Even)])
}

fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Read<T> {
    let name = string(value)?;
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let found = choices.iter().find(|(known, _)| *known == name);
    found.map(|(_, choice)| *choice).ok_or_else(|| unknown(&format!("value \"{name}\""), &name, &names))
}

fn address(value: &DeValue<'_>) -> Read<IpAddr> {
    let text = string(value)?;
    text.parse().map_err(|_| format!("\"{text}\" is not an IP address"))
}

/// Reads an address or a prefix; host bits are cleared.
fn network(value: &DeValue<'_>) -> Read<IpNet> {
    let text = string(value)?;
    parse_network(&text).ok_or_else(|| format!("\"{text}\" is neither an IP address nor a prefix"))
}

/// Parses an address or a prefix; host bits are cleared.
pub(super) fn parse_network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>().or_else(|_| address()).ok().map(|net| net.trunc())
}

fn family(net: IpNet, v6: bool) -> Read<IpNet> {
    match (net, v6) {
        (IpNet::V4(_), false) | (IpNet::V6(_), true) => Ok(net),
        (IpNet::V6(_), false) => Err("is IPv6: use `dst6`".to_owned()),
        (IpNet::V4(_), true) => Err("is IPv4: use `dst`".to_owned()),
    }
}

fn sources_rule(value: &DeValue<'_>) -> Read<Sources> {
    let text = string(value)?;
    match text.split_once(':') {
        None if text == "keep" => Ok(Sources::Keep),
        None if text == "spoof" => Ok(Sources::Spoof),
        Some(("pool", size)) => match size.parse() {
            Ok(size @ 1..=MAX_POOL) => Ok(Sources::Pool(size)),
            _ => Err(format!("a pool has from 1 to {MAX_POOL} addresses, for example \"pool:200\"")),
        },
        Some(("prefix", net)) => {
            parse_network(net).map(Sources::Prefix).ok_or_else(|| format!("\"{net}\" is not a prefix"))
        }
        _ => Err(format!("\"{text}\" is none of \"keep\", \"spoof\", \"pool:N\" and \"prefix:CIDR\"")),
    }
}

#[cfg(test)]
mod tests;
