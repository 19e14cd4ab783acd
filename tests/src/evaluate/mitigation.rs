//! Judges what was removed of an attack and whom it cost, and adds it up.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::Value;

use super::{
    compose::{Case, Kind},
    list::Behaviour,
    peers::PEERS,
    removal::{Measured, Removal, Share},
    report::Latency,
};

/// Of an attack with a constant field, at least this much has to be removed, per cent.
const REMOVED: f64 = 95.0;
/// The most that it may cost the others, per cent: where a field is constant, and where none is.
const LOST: f64 = 0.1;
const LOST_RANDOM: f64 = 1.0;
/// What has to be removed from some time on has to be so within this time already, milliseconds.
const AT_ONCE_MS: u64 = 100;
/// How many of the worst are listed.
const WORST: usize = 12;

/// What was done about an attack of the matrix.
#[derive(Clone, Debug, Serialize)]
pub struct Mitigation {
    /// What it did.
    pub measured: Measured,
    /// Whether the list says that a field is constant.
    pub constant: bool,
    /// Whether the answer was that there is no safe rule.
    pub no_safe_rule: bool,
    /// The rules, as text.
    pub rules: Vec<String>,
    /// What is not as it should be, one line each.
    pub problems: Vec<String>,
}

/// Judges an attack of the matrix; `None` for everything else.
pub fn judge(case: &Case, report: &Value, removal: &Removal) -> Option<Mitigation> {
    let Kind::Attack { constant, .. } = &case.kind else { return None };
    let measured = removal.measured();
    let mut problems = Vec::new();
    let (removed, lost) = (measured.ours.removed, measured.ours.lost);
    if *constant && removed.percent() < REMOVED {
        problems.push(format!("{:.1} % removed, not {REMOVED:.0}", removed.percent()));
    }
    let most = if *constant { LOST } else { LOST_RANDOM };
    if lost.percent() > most {
        problems.push(format!("{:.2} % of what is benign lost, over {most}", lost.percent()));
    }
    if measured.outside.percent() > LOST {
        problems.push(format!("{:.2} % lost before or after the attack, over {LOST}", measured.outside.percent()));
    }
    let rules = rules(report);
    Some(Mitigation { measured, constant: *constant, no_safe_rule: no_safe_rule(report), rules, problems })
}

/// Returns what is wrong with what was done in a behaviour, one line each.
pub fn problems(behaviour: &Behaviour, report: &Value, removal: &Removal) -> Vec<String> {
    let mut problems = Vec::new();
    for bound in &behaviour.removal {
        let (from, to) = (bound.window_ms.0 + bound.settle_ms, bound.window_ms.1);
        // At once, and not only in the long run.
        for to in [to.min(from + AT_ONCE_MS), to] {
            let share = removal.between(from, to).percent();
            if share < bound.percent {
                problems.push(format!("{share:.1} % removed from {from} to {to} ms, not {}", bound.percent));
            }
        }
    }
    if let Some(most) = behaviour.lost_percent {
        let Measured { ours, outside, .. } = removal.measured();
        for (share, when) in [(ours.lost, "during the attack"), (outside, "before or after it")] {
            if share.percent() > most {
                problems.push(format!("{:.2} % of what is benign lost {when}, over {most}", share.percent()));
            }
        }
    }
    for name in &behaviour.spared {
        match dropped(report, |source| source["name"] == name.as_str()) {
            Share { of: 0, .. } => problems.push(format!("no packet of `{name}` was replayed")),
            share if share.percent() > LOST => {
                problems.push(format!("{:.2} % of `{name}` lost, over {LOST}", share.percent()));
            }
            _ => {}
        }
    }
    let all = dropped(report, |_| true).part;
    if behaviour.drops_nothing && all > 0 {
        problems.push(format!("{all} packets dropped"));
    }
    if behaviour.rules_end {
        problems.extend(standing(report).map(|rule| format!("still there at the end: {rule}")));
    }
    problems
}

/// Returns the packets dropped of sources of the report.
pub fn dropped(report: &Value, wanted: impl Fn(&Value) -> bool) -> Share {
    let count = |source: &Value, key: &str| source[key].as_u64().unwrap_or(0);
    let mut sum = Share::default();
    for source in array(&report["sources"]).iter().filter(|source| wanted(source)) {
        sum += Share { part: count(source, "dropped_packets"), of: count(source, "packets") };
    }
    sum
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn all_rules(report: &Value) -> impl Iterator<Item = &Value> {
    array(&report["incidents"]).iter().flat_map(|incident| array(&incident["rules"]))
}

fn told(rule: &Value) -> String {
    let text = |key: &str| rule[key].as_str().unwrap_or("?");
    format!("{} {} ({})", text("action"), text("match"), text("state"))
}

fn rules(report: &Value) -> Vec<String> {
    all_rules(report).map(told).collect()
}

/// Returns the rules that did not end with the scenario.
fn standing(report: &Value) -> impl Iterator<Item = String> {
    all_rules(report).filter(|rule| matches!(rule["state"].as_str(), Some("shadow" | "enforcing"))).map(told)
}

fn no_safe_rule(report: &Value) -> bool {
    let entries = array(&report["incidents"]).iter().flat_map(|incident| array(&incident["timeline"]));
    entries.filter_map(|entry| entry["what"].as_str()).any(|what| what.contains("no safe rule"))
}

/// One row of a table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Attacks.
    pub of: usize,
    /// Those that are as they should be.
    pub held: usize,
    /// Where the answer was that there is no safe rule.
    pub no_safe_rule: usize,
    /// Ours and the peers': means over attacks of what was removed and lost, per cent.
    pub removed: [f64; 4],
    /// See [`Self::removed`].
    pub lost: [f64; 4],
    /// First drops.
    pub first_drop: Latency,
    /// 95 % removed.
    pub until_removed: Latency,
}

/// What is being added up for a row.
#[derive(Default)]
struct Sum {
    row: Row,
    first_drop: Vec<f64>,
    until_removed: Vec<f64>,
}

impl Sum {
    fn add(&mut self, mitigation: &Mitigation) {
        let row = &mut self.row;
        row.of += 1;
        row.held += usize::from(mitigation.problems.is_empty());
        row.no_safe_rule += usize::from(mitigation.no_safe_rule);
        let Measured { ours, peers, first_drop_ms, removed_ms, .. } = &mitigation.measured;
        let effects = std::iter::once(ours).chain(peers.iter().map(|(_, effect)| effect));
        for ((removed, lost), effect) in row.removed.iter_mut().zip(&mut row.lost).zip(effects) {
            *removed += effect.removed.percent();
            *lost += effect.lost.percent();
        }
        self.first_drop.extend(first_drop_ms);
        self.until_removed.extend(removed_ms);
    }

    fn row(self) -> Row {
        let mut row = self.row;
        let of = row.of.max(1) as f64;
        row.removed.iter_mut().chain(&mut row.lost).for_each(|sum| *sum /= of);
        row.first_drop = Latency::of(self.first_drop);
        row.until_removed = Latency::of(self.until_removed);
        row
    }
}

/// An attack and how it came out, in a line.
type Line = (f64, String, String);

/// What was done about the attacks of the matrix.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// With a constant field, and without.
    pub by_kind: BTreeMap<String, Row>,
    /// By the expected vector.
    pub by_vector: BTreeMap<String, Row>,
    /// By how strong they are.
    pub by_intensity: BTreeMap<String, Row>,
    /// By background.
    pub by_background: BTreeMap<String, Row>,
    /// The least removed of those with a constant field: per cent, name, and the rules.
    pub least_removed: Vec<Line>,
    /// The most lost: per cent, name, and the rules.
    pub most_lost: Vec<Line>,
}

/// The tables that an attack counts in: name, and row.
const CONSTANT: &str = "with a constant field";
const RANDOM: &str = "without any";

impl Summary {
    /// Adds up.
    pub fn new<'a>(all: impl Iterator<Item = (&'a Case, &'a Mitigation)>) -> Self {
        let mut tables: [BTreeMap<String, Sum>; 4] = Default::default();
        let mut summary = Self::default();
        for (case, mitigation) in all {
            let Kind::Attack { vector, intensity, ratio, background, .. } = &case.kind else { continue };
            let kind = if mitigation.constant { CONSTANT } else { RANDOM };
            let intensity = if *ratio > 0.0 { intensity } else { "slow attacks" };
            for (table, key) in tables.iter_mut().zip([kind, vector, intensity, background]) {
                table.entry(key.to_owned()).or_default().add(mitigation);
            }
            let ours = mitigation.measured.ours;
            let rules = if mitigation.rules.is_empty() { "no rule".to_owned() } else { mitigation.rules.join("; ") };
            if mitigation.constant {
                summary.least_removed.push((ours.removed.percent(), case.name.clone(), rules.clone()));
            }
            if ours.lost.part > 0 {
                summary.most_lost.push((ours.lost.percent(), case.name.clone(), rules));
            }
        }
        summary.least_removed.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        summary.least_removed.truncate(WORST);
        summary.most_lost.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        summary.most_lost.truncate(WORST);
        let [by_kind, by_vector, by_intensity, by_background] =
            tables.map(|table| table.into_iter().map(|(key, sum)| (key, sum.row())).collect());
        Self { by_kind, by_vector, by_intensity, by_background, ..summary }
    }

    /// Returns how many are as they should be, and all.
    pub fn held(&self) -> (usize, usize) {
        self.by_kind.values().fold((0, 0), |(held, of), row| (held + row.held, of + row.of))
    }

    /// Writes it as a section of the page.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut String) -> std::fmt::Result {
        if self.by_kind.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n## Removal\n\nShares of packets, means over attacks. *Removed*: of the attack, from 300 ms after its \
             first packet on. *Lost*: of everything else, while it lasts. An attack with a constant field holds with at \
             least {REMOVED:.0} % removed and at most {LOST} % lost, one without any with at most {LOST_RANDOM:.0} % lost; \
             outside of the attack at most {LOST} % may be lost. Times are from the attack's first packet to the first \
             that is dropped, and until 95 % are; they are virtual: between a decision and the kernel lies nothing.\n\n\
             The peers drop by one key each, on the same packets, and are told what to drop (tests/src/evaluate/peers.rs): \
             their detector never errs, adds keys every 100 ms until 95 % of the attack are covered, and has up to {} \
             sources, {} pairs of protocol and port, or {} destinations.",
            PEERS[0].1, PEERS[1].1, PEERS[2].1
        )?;
        for (title, rows) in [
            ("attacks", &self.by_kind),
            ("intensity", &self.by_intensity),
            ("background", &self.by_background),
            ("vector", &self.by_vector),
        ] {
            write_table(title, rows, out)?;
        }
        write_lines("least removed, of those with a constant field", &self.least_removed, out)?;
        write_lines("most lost", &self.most_lost, out)
    }
}

fn write_table(title: &str, rows: &BTreeMap<String, Row>, out: &mut String) -> std::fmt::Result {
    write!(out, "\n| {title} | hold | removed | lost | first drop, median and p99 | 95 % removed | no safe rule")?;
    PEERS.iter().try_for_each(|(peer, _)| write!(out, " | {peer}: removed / lost"))?;
    writeln!(out, " |\n|---|---|---|---|---|---|---|---|---|---|")?;
    for (name, row) in rows {
        let Row { of, held, no_safe_rule, removed, lost, first_drop, until_removed } = row;
        let times = |latency: &Latency| match latency.detected {
            0 => "never".to_owned(),
            count => {
                let never = if count < *of { format!(", {} never", of - count) } else { String::new() };
                format!("{:.0} / {:.0} ms{never}", latency.median_ms, latency.p99_ms)
            }
        };
        write!(out, "| {name} | {held} of {of} | {:.1} % | {:.3} %", removed[0], lost[0])?;
        write!(out, " | {} | {} | {no_safe_rule}", times(first_drop), times(until_removed))?;
        let peers = removed.iter().zip(lost).skip(1);
        peers.into_iter().try_for_each(|(removed, lost)| write!(out, " | {removed:.1} / {lost:.2} %"))?;
        writeln!(out, " |")?;
    }
    Ok(())
}

fn write_lines(title: &str, lines: &[Line], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\nThe worst ({title}):\n")?;
    if lines.is_empty() {
        writeln!(out, "None.")?;
    }
    lines.iter().try_for_each(|(percent, name, rules)| writeln!(out, "- `{name}`: {percent:.2} %; {rules}"))
}

#[cfg(test)]
mod tests;
