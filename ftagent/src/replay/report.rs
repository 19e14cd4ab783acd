//! What a replay found: JSON for programs, a table for people.

use std::fmt::Write as _;

use ftagent_common::{TrafficClass, counters::IfaceCounters};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::scenario::Label;
use crate::decide::{
    Incident, Severity, Vector,
    classify::{Evidence, Finding},
    incident::{Entry, Named},
    mitigate::{self, Phase, RuleCount, Wanted},
};

/// The schema of the JSON.
pub const SCHEMA: &str = "ftagent.replay/1";

/// The report. Times are virtual milliseconds since the start; only [`Self::wall_ms`] differs
/// between two runs of the same input.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The scenario's duration; without a scenario, the time of the last packet.
    pub duration_ms: u64,
    /// Packets that the program saw.
    pub packets: u64,
    /// Their bytes, from the Ethernet header on, without FCS.
    pub bytes: u64,
    /// How long the replay took, real milliseconds.
    pub wall_ms: u64,
    /// The program's own counters, for each class that it saw.
    #[serde(serialize_with = "classes_as_map")]
    pub classes: Vec<ClassReport>,
    /// The sources, in the order given.
    pub sources: Vec<SourceReport>,
    /// Incidents, in the order in which they opened.
    pub incidents: Vec<IncidentReport>,
    /// Rules that were given with the command line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<GivenRule>,
    /// What is worth knowing and no attack.
    pub notices: Vec<NoticeReport>,
    /// What was left out, changed, or decided without evidence.
    pub notes: Vec<String>,
}

/// Packets and bytes, and how many of them were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets that did not get through.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
    /// Those of the dropped ones that are SYNs which the guard answered by cookies, so that the stack did not
    /// see them, and whose senders did not come back. Of sources only.
    #[serde(skip_serializing_if = "is_zero")]
    pub answered_packets: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A traffic class.
#[derive(Clone, Copy, Debug)]
pub struct ClassReport {
    /// Its name.
    pub name: &'static str,
    /// What was counted.
    pub counts: Counts,
}

/// A source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceReport {
    /// Its name.
    pub name: String,
    /// What the scenario says it is; `None` without a scenario.
    pub label: Option<Label>,
    /// By the verdicts of its packets.
    #[serde(flatten)]
    pub counts: Counts,
    /// When its first packet was dropped.
    pub first_drop_ms: Option<u64>,
}

impl SourceReport {
    /// Returns whether the scenario says that it is ordinary traffic.
    pub fn is_benign(&self) -> bool {
        matches!(self.label, Some(Label::Benign))
    }
}

/// An incident.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentReport {
    /// Its name.
    pub id: String,
    /// The vector; `multi_vector` or `carpet_bombing` where that is what it is.
    pub vector: Vector,
    /// Every vector that was found in it, strongest first.
    pub vectors: Vec<Vector>,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// How bad it got.
    pub severity: Severity,
    /// The tool that the packets look like.
    pub tool: Option<String>,
    /// The pattern of indicators that names it, and how much of the attack matches; `null` where none does.
    pub named: Option<Named>,
    /// When the excess began.
    pub began_ms: u64,
    /// When it was decided that this is an attack.
    pub opened_ms: u64,
    /// When a rule against it had begun to drop: the end of that tick.
    pub mitigated_ms: Option<u64>,
    /// When it was over; `null` where it was not.
    pub closed_ms: Option<u64>,
    /// The highest rate over 100 ms, packets per second.
    pub peak_pps: u64,
    /// The highest rate over 100 ms, bits per second.
    pub peak_bps: u64,
    /// What the first vector rests on.
    pub evidence: Evidence,
    /// Every vector with its evidence.
    pub findings: Vec<Finding>,
    /// What happened in it.
    pub timeline: Vec<NoticeReport>,
    /// The rules against it, in the order in which they were made.
    pub rules: Vec<mitigate::RuleReport>,
}

/// A rule that was given with the command line.
#[derive(Clone, Debug, Serialize)]
pub struct GivenRule {
    /// What it matches, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, as text.
    pub action: String,
    /// Packets that matched.
    pub packets: u64,
    /// Packets that it dropped.
    pub dropped: u64,
}

impl GivenRule {
    pub(super) fn new(wanted: &Wanted, count: &RuleCount) -> Self {
        let (matches, action) = (wanted.rule.matches.to_string(), wanted.rule.action.to_string());
        Self { matches, action, packets: count.packets, dropped: count.dropped }
    }
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct NoticeReport {
    /// When.
    pub at_ms: u64,
    /// What, in words.
    pub what: String,
}

impl From<&Entry> for NoticeReport {
    fn from(entry: &Entry) -> Self {
        Self { at_ms: entry.at.mono_ns / 1_000_000, what: entry.what.clone() }
    }
}

impl From<&Incident> for IncidentReport {
    fn from(incident: &Incident) -> Self {
        Self {
            id: incident.id.clone(),
            vector: incident.vector,
            vectors: incident.vectors.clone(),
            confidence: incident.confidence,
            severity: incident.severity,
            tool: incident.tool.clone(),
            named: incident.named.clone(),
            began_ms: incident.began.mono_ns / 1_000_000,
            opened_ms: incident.opened.mono_ns / 1_000_000,
            mitigated_ms: incident.mitigated.map(|at| at.mono_ns / 1_000_000),
            closed_ms: incident.closed.map(|closed| closed.mono_ns / 1_000_000),
            peak_pps: incident.peak_pps as u64,
            peak_bps: incident.peak_bps as u64,
            evidence: incident.findings.first().map(|finding| finding.evidence.clone()).unwrap_or_default(),
            findings: incident.findings.clone(),
            timeline: incident.timeline.iter().map(NoticeReport::from).collect(),
            rules: incident.rules.clone(),
        }
    }
}

fn classes_as_map<S: Serializer>(classes: &[ClassReport], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(classes.len()))?;
    for class in classes {
        map.serialize_entry(class.name, &class.counts)?;
    }
    map.end()
}

/// Returns the classes that were seen, in the order of their numbers.
pub(super) fn classes(counters: &IfaceCounters) -> Vec<ClassReport> {
    let report = |class: TrafficClass| {
        let counter = counters.class(class);
        let (packets, bytes, dropped_bytes) = (counter.packets, counter.bytes, counter.dropped_bytes);
        let counts = Counts {
            packets,
            bytes,
            dropped_packets: counters.dropped_packets(class),
            dropped_bytes,
            answered_packets: 0,
        };
        ClassReport { name: class.as_str(), counts }
    };
    TrafficClass::ALL.into_iter().map(report).filter(|class| class.counts.packets > 0).collect()
}

impl Report {
    /// Returns the report as text for a terminal; ends with a newline.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _written = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let Self { packets, bytes, .. } = self;
        writeln!(out, "{packets} packets, {bytes} bytes in {} of virtual time\n", seconds(self.duration_ms))?;
        let width = |names: &mut dyn Iterator<Item = usize>| names.max().unwrap_or(0).max(6);
        let wide = width(&mut self.sources.iter().map(|source| source.name.chars().count()));
        write!(out, "{:wide$}  {:7}", "source", "label")?;
        writeln!(out, "{HEADER}  {:>10}", "first drop")?;
        for SourceReport { name, label, counts, first_drop_ms } in &self.sources {
            let label = match label {
                Some(Label::Benign) => "benign",
                Some(Label::Attack) => "attack",
                None => "-",
            };
            let first = first_drop_ms.map_or("-".to_owned(), seconds);
            writeln!(out, "{name:wide$}  {label:7}{}  {first:>10}", row(counts))?;
        }
        let wide = width(&mut self.classes.iter().map(|class| class.name.len()));
        writeln!(out, "\n{:wide$}{HEADER}", "class")?;
        for class in &self.classes {
            writeln!(out, "{:wide$}{}", class.name, row(&class.counts))?;
        }
        if !self.rules.is_empty() {
            writeln!(out, "\n{:>14}{:>14}  given rule", "packets", "dropped")?;
        }
        for GivenRule { matches, action, packets, dropped } in &self.rules {
            writeln!(out, "{packets:>14}{dropped:>14}  {action} {matches}")?;
        }
        self.incidents.iter().try_for_each(|incident| incident.write(out))?;
        if !self.notes.is_empty() || !self.notices.is_empty() {
            writeln!(out)?;
        }
        self.notices.iter().try_for_each(|notice| writeln!(out, "{}: {}", seconds(notice.at_ms), notice.what))?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

impl IncidentReport {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Self { vector, severity, confidence, opened_ms, mitigated_ms, closed_ms, evidence, .. } = self;
        let (vector, severity, confidence) = (vector.as_str(), severity.as_str(), confidence * 100.0);
        let mitigated = mitigated_ms.map_or(String::new(), |ms| format!(", acted on at {}", seconds(ms)));
        let closed = closed_ms.map_or("still open".to_owned(), |ms| format!("closed at {}", seconds(ms)));
        writeln!(out, "\nincident {}: {vector}, {severity}, {confidence:.0} % sure", self.id)?;
        writeln!(out, "  opened at {}{mitigated}, {closed}; {}", seconds(*opened_ms), evidence.line)?;
        if let Some(named) = &self.named {
            writeln!(out, "  looks like {}: {}", named.tool, named.words())?;
        }
        self.rules.iter().try_for_each(|rule| write_rule(rule, out))
    }
}

fn write_rule(rule: &mitigate::RuleReport, out: &mut String) -> std::fmt::Result {
    let mitigate::RuleReport { id, matches, action, state, reason, predicted, measured, .. } = rule;
    let state = match state {
        Phase::Shadow => "in shadow",
        Phase::Enforcing => "enforcing",
        Phase::Withdrawn => "withdrawn",
        Phase::Ended => "ended",
    };
    writeln!(out, "  rule {id}, {state}: {action} {matches}")?;
    writeln!(
        out,
        "    predicted: {:.1} % of the attack, {:.2} % of {} clean flows; measured: {} packets matched, {} dropped",
        predicted.attack_share * 100.0,
        predicted.clean_share * 100.0,
        predicted.clean_flows,
        measured.packets,
        measured.dropped
    )?;
    if reason.is_empty() { Ok(()) } else { writeln!(out, "    {reason}") }
}

const HEADER: &str = "       packets           bytes         dropped  dropped bytes";

fn row(counts: &Counts) -> String {
    let Counts { packets, bytes, dropped_packets, dropped_bytes, answered_packets } = counts;
    let answered = if *answered_packets == 0 { String::new() } else { format!("  {answered_packets} answered") };
    format!("  {packets:>12}  {bytes:>14}  {dropped_packets:>14}  {dropped_bytes:>13}{answered}")
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}
