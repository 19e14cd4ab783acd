//! What is said over the control socket about alerts.

use serde::{Deserialize, Serialize};

/// When nobody is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertSilence {
    /// Which sink is silent; absent: all.
    pub sink: Option<String>,
    /// How long, seconds; 0: no more.
    pub for_s: u64,
    /// Why; may be empty.
    pub reason: String,
}

/// What `ftagent alert` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Alerts {
    /// The daemon's time, milliseconds since 1970.
    pub now_ms: i64,
    /// How they are doing.
    pub status: crate::alert::Status,
    /// What became of the last ones, oldest first.
    pub history: Vec<crate::alert::log::Delivery>,
}
