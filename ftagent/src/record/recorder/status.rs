//! What surfaces show of the recorder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::meta::Lost;

/// What the recorder does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureStatus {
    /// Bytes that the last seconds take in memory, about.
    pub ring_bytes: u64,
    /// Seconds that they are.
    pub ring_s: f64,
    /// Bytes that captures take on disk.
    pub disk_bytes: u64,
    /// Packets that were written since the start.
    pub written: u64,
    /// Packets that were not, although they were sampled while something was captured; `not_sampled` are
    /// those that were not even that.
    pub lost: Lost,
    /// Ticks that the recorder was too slow for since the start, whether anything was captured or not.
    pub lost_ticks: u64,
    /// What is being written.
    pub recordings: Vec<RecordingStatus>,
    /// Samples of incidents that matched a pattern since the start, by what it is called in metrics.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hits: BTreeMap<String, u64>,
    /// What does not work, in words.
    pub trouble: Option<String>,
}

/// A capture that is being written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordingStatus {
    /// Its name.
    pub id: String,
    /// What packets have to match, of an operator's.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// When it was begun, milliseconds since 1970.
    pub since_ms: i64,
    /// Bytes so far.
    pub bytes: u64,
    /// Packets so far.
    pub packets: u64,
}
