//! Replays a capsule: the same decisions again, or where they differ now.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use serde::Serialize;
use thiserror::Error;

use crate::{
    decide::{Decider, STATE_VERSION},
    record::capsule::{
        container::{self, Capsule, CapsuleError},
        member,
        reader::Journey,
        rerun::{Difference, Outcome, rerun},
        start::Start,
        state,
    },
};

/// The schema of the JSON.
pub const SCHEMA: &str = "ftagent.replay.capsule/1";
/// Characters of a line that are shown to people.
const SHOWN: usize = 160;
/// Keys the tables of a core that does not go on from a state.
const SEED: u64 = 1;

/// Why a capsule was not replayed.
#[derive(Debug, Error)]
pub enum CapsuleReplayError {
    /// It cannot be read.
    #[error(transparent)]
    Capsule(#[from] CapsuleError),
    /// What is in it cannot be replayed.
    #[error("{}: {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct CapsuleReport {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The file.
    pub capsule: PathBuf,
    /// The version that wrote it.
    pub written_by: String,
    /// The version that has replayed it.
    pub replayed_by: &'static str,
    /// The incident.
    pub incident: Option<String>,
    /// Nobody can be recognised in it.
    pub anonymised: bool,
    /// What the core began from.
    pub began_from: Beginning,
    /// The same was decided.
    pub identical: bool,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What a core begins from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Beginning {
    /// The core as it was: everything is decided as then.
    State,
    /// What was learned alone: differences are to be expected.
    Baseline,
}

/// Replays a capsule. It needs neither privileges nor the captures.
///
/// # Errors
/// See [`CapsuleReplayError`].
pub fn replay(path: &Path) -> Result<CapsuleReport, CapsuleReplayError> {
    let mut capsule = container::read(path)?;
    let unusable = |what: String| CapsuleReplayError::Unusable { path: path.to_owned(), what };
    let mut notes = capsule.manifest.notes.clone();
    let (core, began_from) = beginning(&mut capsule, &mut notes).map_err(unusable)?;
    let ticks = capsule.large(member::TICKS).ok_or_else(|| unusable(format!("it has no `{}`", member::TICKS)))?;
    let mut journey = Journey::new(ticks).map_err(unusable)?;
    // A core that somebody else has written may hold what none of ours would: it ends nothing but this.
    let gone_through = catch_unwind(AssertUnwindSafe(|| rerun(core, &mut journey)));
    let mut outcome = gone_through
        .map_err(|_| unusable("the core in it holds what no core would: it was not written by ftagent".to_owned()))?
        .map_err(unusable)?;
    outcome.notes.splice(0..0, notes);
    Ok(CapsuleReport {
        schema: SCHEMA,
        capsule: path.to_owned(),
        written_by: capsule.manifest.agent.version.clone(),
        replayed_by: env!("CARGO_PKG_VERSION"),
        incident: capsule.manifest.incident.clone(),
        anonymised: capsule.manifest.anonymised.is_some(),
        began_from,
        identical: outcome.is_identical(),
        outcome,
    })
}

/// Returns the core that a capsule begins with.
fn beginning(capsule: &mut Capsule, notes: &mut Vec<String>) -> Result<(Decider, Beginning), String> {
    let found = capsule.large(member::STATE).map(state::decode);
    let why = match found {
        Some(Ok(core)) => return Ok((*core, Beginning::State)),
        Some(Err(error)) => error.to_string(),
        None => "it has no state".to_owned(),
    };
    let text = capsule.small(member::BASELINE).ok_or_else(|| format!("{why}, and no `{}`", member::BASELINE))?;
    let start: Start =
        serde_json::from_slice(text).map_err(|error| format!("{why}, and `{}`: {error}", member::BASELINE))?;
    notes.push(format!(
        "{why} (this program: version {STATE_VERSION}): it begins from what was learned, and sees nothing before the \
         pre-roll; differences are to be expected"
    ));
    Ok((start.core(SEED)?, Beginning::Baseline))
}

impl CapsuleReport {
    /// Renders it for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        self.render(&mut text).unwrap_or_default();
        text
    }

    fn render(&self, out: &mut String) -> std::fmt::Result {
        let Outcome { ticks, decisions, differing, differences, notes, .. } = &self.outcome;
        let of = self.incident.as_deref().map_or(String::new(), |id| format!("incident {id}, "));
        writeln!(out, "{of}written by ftagent {}, replayed by {}", self.written_by, self.replayed_by)?;
        if self.anonymised {
            writeln!(out, "anonymised: its decisions are those of the changed packets")?;
        }
        if self.identical {
            writeln!(out, "{ticks} ticks, {decisions} decisions: identical")?;
        } else {
            writeln!(out, "{ticks} ticks, {decisions} decisions: {differing} ticks differ")?;
        }
        for difference in differences {
            render(difference, out)?;
        }
        let more = *differing - differences.len() as u64;
        if more > 0 {
            writeln!(out, "… and {more} more")?;
        }
        notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

fn render(difference: &Difference, out: &mut String) -> std::fmt::Result {
    let Difference { tick, at_ms, recorded, decided, .. } = difference;
    writeln!(out, "\ntick {tick}, {}.{:03} s", at_ms / 1000, at_ms % 1000)?;
    if recorded.is_empty() && decided.is_empty() {
        writeln!(out, "  the same in another order")?;
    }
    for at in 0..recorded.len().max(decided.len()) {
        let (then, now) = aligned(recorded.get(at), decided.get(at));
        writeln!(out, "  then  {then}\n  now   {now}")?;
    }
    Ok(())
}

/// Cuts two lines so that the place where they differ is shown.
fn aligned(then: Option<&String>, now: Option<&String>) -> (String, String) {
    let (Some(one), Some(other)) = (then, now) else {
        let shown = |line: Option<&String>| line.map_or("(nothing)".to_owned(), |line| part(line, 0));
        return (shown(then), shown(now));
    };
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(SHOWN / 3);
    (part(one, from), part(other, from))
}

fn part(line: &str, from: usize) -> String {
    let shown: String = line.chars().skip(from).take(SHOWN).collect();
    let before = if from > 0 { "…" } else { "" };
    let after = if line.chars().count() > from + SHOWN { "…" } else { "" };
    format!("{before}{shown}{after}")
}
