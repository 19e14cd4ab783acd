//! What a replay found: JSON for programs, a table for people.

use std::fmt::Write as _;

use ftagent_common::{TrafficClass, counters::IfaceCounters};
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::scenario::Label;

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
    /// Incidents. Always empty: this version counts and enforces lists, it does not conclude.
    pub incidents: Vec<serde_json::Value>,
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
        if !self.notes.is_empty() {
            writeln!(out)?;
        }
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
