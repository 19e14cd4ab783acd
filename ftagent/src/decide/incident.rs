//! Incidents: what people see of an attack.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Metric, Now, Vector, classify::Finding, mitigate::RuleReport};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a look; nothing is ever dropped for it.
    Info,
    /// Below five times what is normal and 10 000 packets or 100 Mbit a second.
    Low,
    /// More than that.
    Medium,
    /// From 50 000 packets or 500 Mbit a second on.
    High,
    /// From 500 000 packets or 5 Gbit a second on.
    Critical,
}

impl Severity {
    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Something that happened in an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Now,
    /// What, in words.
    pub what: String,
}

/// The tool or family that most of an incident's packets match a pattern of. A hint: it decides nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Its name, as the pattern has it.
    pub tool: String,
    /// The pattern.
    pub pattern: String,
    /// The share of the incident's packets that match, 0 to 1.
    pub share: f64,
    /// Samples of the incident that were looked at when this was said.
    pub samples: u64,
    /// How sure it is: the pattern's confidence, times the share.
    pub confidence: f64,
}

impl Named {
    /// Returns why, in words.
    pub fn words(&self) -> String {
        let Self { pattern, share, samples, confidence, .. } = self;
        let (share, confidence) = (share * 100.0, confidence * 100.0);
        format!(
            "the pattern {pattern} matches {share:.0} % of what {samples} samples stand for, {confidence:.0} % sure"
        )
    }
}

/// An incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Its name: the UTC time at which it opened and a number, unique on this node.
    pub id: String,
    /// The vector; [`Vector::MultiVector`] or [`Vector::CarpetBombing`] where that is what it is.
    pub vector: Vector,
    /// Every vector that was found in it, strongest first.
    pub vectors: Vec<Vector>,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    /// How bad it got.
    pub severity: Severity,
    /// The tool that the packets look like: what [`Self::named`] says, or else what the first finding does.
    pub tool: Option<String>,
    /// What the patterns of indicators say of that, where one names a tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<Named>,
    /// When the excess began.
    pub began: Now,
    /// When it was decided that this is an attack.
    pub opened: Now,
    /// When the metric that opened it fell below the exit threshold for good; absent while open.
    pub closed: Option<Now>,
    /// When it was below the exit threshold last, while it is open and waits to be closed.
    pub quiet_since: Option<Now>,
    /// When it was looked at last; while it is open, the present. Absent where older versions wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Now>,
    /// The metric that opened it and must fall for it to close.
    pub metric: Metric,
    /// The rate below which it ends, in the metric.
    pub exit_threshold: f64,
    /// The present rate of its classes, packets and bits per second, before drops.
    pub pps: f64,
    /// See [`Self::pps`].
    pub bps: f64,
    /// The highest rates, over 100 ms.
    pub peak_pps: f64,
    /// See [`Self::peak_pps`].
    pub peak_bps: f64,
    /// Packets of its classes since it began.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// The vectors with their evidence, as strong as it ever was.
    pub findings: Vec<Finding>,
    /// The rules against it, in the order in which they were made.
    #[serde(default)]
    pub rules: Vec<RuleReport>,
    /// When the first of them was in force.
    #[serde(default)]
    pub mitigated: Option<Now>,
    /// Classes that are thinned now, because there is no safe rule, each with the packets a second that
    /// it keeps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub thinned: BTreeMap<String, f64>,
    /// What happened, in order; the oldest entries of a long incident but the first are dropped.
    pub timeline: Vec<Entry>,
}

impl Incident {
    /// One of which nothing is known yet but this: what is one's own, write in front of `..Incident::new(…)`.
    pub fn new(id: String, vector: Vector, began: Now, opened: Now) -> Self {
        Self {
            id,
            vector,
            vectors: vec![vector],
            confidence: 1.0,
            severity: Severity::Low,
            tool: None,
            named: None,
            began,
            opened,
            closed: None,
            quiet_since: None,
            seen: None,
            metric: Metric::Pps,
            exit_threshold: 0.0,
            pps: 0.0,
            bps: 0.0,
            peak_pps: 0.0,
            peak_bps: 0.0,
            packets: 0,
            bytes: 0,
            findings: Vec::new(),
            rules: Vec::new(),
            mitigated: None,
            thinned: BTreeMap::new(),
            timeline: Vec::new(),
        }
    }

    /// Returns whether it is still going on.
    pub const fn is_open(&self) -> bool {
        self.closed.is_none()
    }
}
