//! Makes a capsule of an incident's directory.

use std::{
    fs::{self, File},
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;
use thiserror::Error;

use super::{
    container::{self, Source},
    manifest::Manifest,
    member,
    reader::{Ended, Journey, Step},
};
use crate::{
    decide::{Incident, Now},
    record::{recorder::lives, tape::Decided},
};

/// How a capsule is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Change addresses and cut payload, so that nobody can be recognised.
    pub anonymise: bool,
    /// Of which earlier life of the daemon in this incident; `None`: of the last, which ended it.
    pub life: Option<u32>,
    /// The present, milliseconds since 1970.
    pub created_unix_ms: i64,
}

/// Why there is no capsule.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The incident has no journal.
    #[error(
        "{dir}: there is no journal of this incident (`{}`): only what was recorded by a daemon that keeps journals (`capture.journal_bytes`) can be replayed",
        member::TICKS
    )]
    NoJournal {
        /// Its directory.
        dir: String,
    },
    /// There was no such life of the daemon.
    #[error("{dir}: there is no earlier life {life} of the daemon in it{there}")]
    NoLife {
        /// Its directory.
        dir: String,
        /// Which.
        life: u32,
        /// Which there are, in words.
        there: String,
    },
    /// The journal cannot be used.
    #[error("{dir}: {what}")]
    Journal {
        /// Its directory.
        dir: String,
        /// What is wrong.
        what: String,
    },
    /// A capsule is not written over another file.
    #[error("{path}: exists; choose another name with --out, or remove it")]
    Exists {
        /// The file.
        path: String,
    },
    /// The file system says no.
    #[error("{place}: cannot be exported")]
    File {
        /// Where.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// A line of `decisions.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    tick: u64,
    at: Now,
    #[serde(flatten)]
    decided: &'a Decided,
}

/// Makes a capsule of what lies in an incident's directory.
///
/// # Errors
/// See [`ExportError`].
pub fn export(dir: &Path, out: &Path, options: &Options) -> Result<Manifest, ExportError> {
    let place = |path: &Path| path.display().to_string();
    let failed = |path: &Path| {
        let place = place(path);
        move |source| ExportError::File { place, source }
    };
    if fs::symlink_metadata(out).is_ok() {
        return Err(ExportError::Exists { path: place(out) });
    }
    let lives = lives::list(dir);
    let from = place_of(dir, &lives, options.life)?;
    let ticks = from.join(member::TICKS);
    let file = File::open(&ticks).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ExportError::NoJournal { dir: place(&from) },
        _ => failed(&ticks)(error),
    })?;
    let wrong = |what: String| ExportError::Journal { dir: place(dir), what };
    let incident = incident(&from).map_err(failed(&from))?;
    let mut manifest = Manifest::new(incident.map(|incident| incident.id), options.created_unix_ms);
    manifest.notes.extend(about_lives(&lives, options.life));
    if options.anonymise {
        return super::anonymise::export(&from, file, out, manifest).map_err(wrong);
    }
    let mut journey = Journey::new(BufReader::with_capacity(1 << 17, file)).map_err(wrong)?;
    let mut decisions = Vec::new();
    write_decisions(&mut journey, &mut decisions).map_err(wrong)?;
    match journey.ended() {
        Ended::Whole => {}
        Ended::Early(why) => manifest.notes.push(format!("the journal ended before its incident: {why}")),
        Ended::Broken(what) => manifest.notes.push(format!("the journal has no end: {what}")),
    }
    let mut sources = vec![(member::DECISIONS, Source::Bytes(decisions))];
    let files = [
        member::INCIDENT,
        member::CONFIG,
        member::BASELINE,
        member::STATE,
        member::TICKS,
        member::CAPTURE,
        member::INDICATORS,
    ];
    for name in files {
        // Packets of all lives are in one file.
        let path = if name == member::CAPTURE { dir.join(name) } else { from.join(name) };
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => sources.push((name, Source::File(path))),
            Ok(_) => return Err(wrong(format!("`{name}` is no plain file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => manifest.notes.push(format!("there is no {name}")),
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    container::write(out, manifest, &sources).map_err(failed(out))
}

/// Returns where what is asked for lies.
fn place_of(dir: &Path, lives: &[u32], life: Option<u32>) -> Result<PathBuf, ExportError> {
    let Some(life) = life else { return Ok(dir.to_owned()) };
    if lives.contains(&life) {
        return Ok(dir.join(lives::name(life)));
    }
    let there = if lives.is_empty() {
        ": the daemon was not started anew in this incident, leave out --life".to_owned()
    } else {
        format!(", there are {}", listed(lives))
    };
    Err(ExportError::NoLife { dir: dir.display().to_string(), life, there })
}

/// Says which part of an incident this is, where it has several.
fn about_lives(lives: &[u32], life: Option<u32>) -> Option<String> {
    let others: Vec<u32> = lives.iter().copied().filter(|other| Some(*other) != life).collect();
    Some(match life {
        None if others.is_empty() => return None,
        None => format!(
            "the daemon was started anew during the incident: the journal begins with its last start, what was before are \
             capsules of their own (capture export --life {})",
            listed(&others)
        ),
        Some(life) => format!(
            "this is life {life} of the daemon in the incident, until it was started anew: what came later are capsules of \
             their own; the packets are those of all lives"
        ),
    })
}

fn listed(lives: &[u32]) -> String {
    lives.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn incident(dir: &Path) -> io::Result<Option<Incident>> {
    match fs::read(dir.join(member::INCIDENT)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes down what was decided, a line for each tick in which anything was.
fn write_decisions(journey: &mut Journey<BufReader<File>>, out: &mut Vec<u8>) -> Result<(), String> {
    let mut number = 0;
    while let Some(step) = journey.step()? {
        let Step::Tick(tick) = step else { continue };
        number += 1;
        let decided = Decided { events: tick.events, incidents: tick.incidents, wanted: tick.wanted };
        line(number, tick.now, &decided, out).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Adds what was decided in a tick, where anything was.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn line(tick: u64, at: Now, decided: &Decided, out: &mut Vec<u8>) -> io::Result<()> {
    if decided.is_empty() {
        return Ok(());
    }
    serde_json::to_writer(&mut *out, &Line { tick, at, decided })?;
    out.write_all(b"\n")
}
