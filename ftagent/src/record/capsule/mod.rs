//! Incidents as files that replay: what reached the core, what it was before, and what it decided.
//!
//! [`journal`] writes what happens while it happens, [`export`] makes one file of it ([`container`]), and
//! [`rerun`] goes through it again. `docs/CAPSULE.md` describes the file.

pub mod anonymise;
pub mod container;
pub mod export;
pub mod journal;
pub mod manifest;
pub mod reader;
pub mod rerun;
pub mod row;
pub mod start;
pub mod state;
#[cfg(test)]
mod tests;

/// The members of a capsule, and the files of an incident's directory.
pub mod member {
    /// What is in it, and the digests of the rest; comes first.
    pub const MANIFEST: &str = "manifest.json";
    /// The incident.
    pub const INCIDENT: &str = "incident.json";
    /// The configuration, secrets masked.
    pub const CONFIG: &str = "config.toml";
    /// What any version can begin from.
    pub const BASELINE: &str = "baseline.json";
    /// What was decided, tick by tick.
    pub const DECISIONS: &str = "decisions.jsonl";
    /// The core before the first tick.
    pub const STATE: &str = "state.mp.zst";
    /// The ticks.
    pub const TICKS: &str = "ticks.ftj.zst";
    /// The packets.
    pub const CAPTURE: &str = "capture.pcapng.zst";
    /// The indicators.
    pub const INDICATORS: &str = "indicators.json";
}
