//! What a replay found: JSON for programs, a table for people.

use std::fmt::Write as _;

use ftagent_common::{TrafficClass, counters::IfaceCounters};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::scenario::Label;
use crate::decide::{
    Incident, Severity, Vector,
    classify::{Evidence, Finding},
    incident::Entry,
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
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
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
    /// When the excess began.
    pub began_ms: u64,
    /// When it was decided that this is an attack.
    pub opened_ms: u64,
    /// When the first rule against it was in force; this version has none.
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
    /// The rules against it; this version makes none.
    pub rules: Vec<serde_json::Value>,
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
            began_ms: incident.began.mono_ns / 1_000_000,
            opened_ms: incident.opened.mono_ns / 1_000_000,
            mitigated_ms: None,
            closed_ms: incident.closed.map(|closed| closed.mono_ns / 1_000_000),
            peak_pps: incident.peak_pps as u64,
            peak_bps: incident.peak_bps as u64,
            evidence: incident.findings.first().map(|finding| finding.evidence.clone()).unwrap_or_default(),
            findings: incident.findings.clone(),
            timeline: incident.timeline.iter().map(NoticeReport::from).collect(),
            rules: Vec::new(),
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
        let counts = Counts { packets, bytes, dropped_packets: counters.dropped_packets(class), dropped_bytes };
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
        for incident in &self.incidents {
            let IncidentReport { vector, severity, confidence, opened_ms, closed_ms, evidence, .. } = incident;
            let (vector, severity, confidence) = (vector.as_str(), severity.as_str(), confidence * 100.0);
            let closed = closed_ms.map_or("still open".to_owned(), |ms| format!("closed at {}", seconds(ms)));
            writeln!(out, "\nincident {}: {vector}, {severity}, {confidence:.0} % sure", incident.id)?;
            writeln!(out, "  opened at {}, {closed}; {}", seconds(*opened_ms), evidence.line)?;
        }
        if !self.notes.is_empty() || !self.notices.is_empty() {
            writeln!(out)?;
        }
        self.notices.iter().try_for_each(|notice| writeln!(out, "{}: {}", seconds(notice.at_ms), notice.what))?;
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

const HEADER: &str = "       packets           bytes         dropped  dropped bytes";

fn row(counts: &Counts) -> String {
    let Counts { packets, bytes, dropped_packets, dropped_bytes } = counts;
    format!("  {packets:>12}  {bytes:>14}  {dropped_packets:>14}  {dropped_bytes:>13}")
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}
