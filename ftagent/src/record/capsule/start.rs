//! What any version can begin from: what was learned, and what the core was told. Its JSON is for people too.

use serde::{Deserialize, Serialize};

use crate::decide::{
    Decider, Now, Settings,
    baseline::Checkpoint,
    input::{Input, WatchedRule},
    mitigate::{Exempt, Mode, memory::Remembered},
};

/// A core without its short-term memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The instant.
    pub at: Now,
    /// Seconds of data before the baseline is trusted.
    pub trust_after_s: u64,
    /// Whether it acts.
    pub mode: Mode,
    /// What no rule may match.
    pub exempt: Exempt,
    /// The rules of operators.
    pub watched: Vec<WatchedRule>,
    /// The rules that worked in earlier incidents.
    pub remembered: Vec<Remembered>,
    /// What was learned.
    pub checkpoint: Checkpoint,
}

impl Start {
    /// Takes it from a core.
    pub fn of(core: &Decider) -> Self {
        let Settings { trust_after_s, mode, .. } = core.settings();
        let at = core.now();
        Self {
            at,
            trust_after_s,
            mode,
            exempt: core.exempt().clone(),
            watched: core.watched_rules().collect(),
            remembered: core.remembered(),
            checkpoint: core.checkpoint(at),
        }
    }

    /// Makes a core of it; `seed` keys its tables.
    ///
    /// # Errors
    /// Where what was learned cannot be used, in words.
    pub fn core(self, seed: u64) -> Result<Decider, String> {
        let Self { at, trust_after_s, mode, exempt, watched, remembered, checkpoint } = self;
        let mut core = Decider::new(Settings { trust_after_s, seed, mode });
        core.restore(checkpoint)?;
        core.restore_remembered(remembered, at);
        core.put(Input::Bounds { exempt, mode });
        core.put(Input::Watch(watched));
        Ok(core)
    }
}
