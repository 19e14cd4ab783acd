//! The log for people: which lines are wanted.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    AuditError,
    checkpoint::{Checkpoint, Statement},
    entry::unix_s,
    line::Line,
    segments,
};

/// A line, whatever it is.
#[derive(Clone, Debug, Deserialize)]
pub struct Shown {
    /// Its number.
    pub seq: u64,
    /// When it happened; of a checkpoint, absent.
    #[serde(default)]
    pub time: String,
    /// Who.
    #[serde(default)]
    pub actor: Option<super::Actor>,
    /// What.
    #[serde(default)]
    pub action: String,
    /// To what.
    #[serde(default)]
    pub subject: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// How it was.
    #[serde(default)]
    pub before: Option<Value>,
    /// How it is.
    #[serde(default)]
    pub after: Option<Value>,
    /// Where it belongs.
    #[serde(default)]
    pub incident: Option<String>,
    /// What became of it; of a checkpoint, absent.
    #[serde(default)]
    pub result: Option<super::Outcome>,
    /// Whether the act was before the line.
    #[serde(default)]
    pub late: bool,
    /// What a checkpoint says.
    #[serde(default)]
    pub checkpoint: Option<Statement>,
}

/// Which lines are wanted; what is absent does not matter.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// From this time on, seconds since 1970.
    pub since: Option<u64>,
    /// A kind of actor, a login name or a uid.
    pub actor: Option<String>,
    /// An action, or what it begins with: `rule` stands for all of rules.
    pub action: Option<String>,
    /// A part of the subject.
    pub subject: Option<String>,
    /// An incident, or what its id begins or ends with.
    pub incident: Option<String>,
    /// Checkpoints too.
    pub checkpoints: bool,
}

impl Wanted {
    fn takes(&self, line: &Shown) -> bool {
        if line.checkpoint.is_some() {
            return self.checkpoints;
        }
        let actor = |wanted: &String| {
            line.actor.as_ref().is_some_and(|actor| {
                actor.kind.as_str() == wanted
                    || actor.login.as_ref() == Some(wanted)
                    || actor.uid.is_some_and(|uid| uid.to_string() == *wanted)
            })
        };
        let action = |wanted: &String| {
            line.action.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let incident = |wanted: &String| {
            line.incident.as_ref().is_some_and(|id| id.starts_with(wanted.as_str()) || id.ends_with(wanted.as_str()))
        };
        self.since.is_none_or(|since| unix_s(&line.time).is_some_and(|at| at >= since))
            && self.actor.as_ref().is_none_or(actor)
            && self.action.as_ref().is_none_or(action)
            && self.subject.as_ref().is_none_or(|wanted| line.subject.contains(wanted.as_str()))
            && self.incident.as_ref().is_none_or(incident)
    }
}

/// Reads a log from some place on, as it grows.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    wanted: Wanted,
    /// The file, and the bytes of it that were read.
    at: Option<(PathBuf, u64)>,
}

impl Reader {
    /// Begins with the first line that is kept.
    pub fn new(dir: &Path, wanted: Wanted) -> Self {
        Self { dir: dir.to_owned(), wanted, at: None }
    }

    /// Returns the wanted lines that were added since, the last `most` of them, as they stand there.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn next(&mut self, most: usize) -> Result<Vec<(String, Shown)>, AuditError> {
        let mut found = VecDeque::new();
        let all = segments::list(&self.dir)?;
        let begin = self.at.as_ref().and_then(|(at, _)| all.iter().position(|path| path == at)).unwrap_or_default();
        for path in all.iter().skip(begin) {
            let from = self.at.as_ref().filter(|(at, _)| at == path).map_or(0, |(_, bytes)| *bytes);
            let read = self.segment(path, from, most, &mut found)?;
            self.at = Some((path.clone(), from + read));
        }
        Ok(found.into())
    }

    fn segment(
        &self,
        path: &Path,
        from: u64,
        most: usize,
        found: &mut VecDeque<(String, Shown)>,
    ) -> Result<u64, AuditError> {
        let unreadable = |source| AuditError::io("reading", path, source);
        let mut file = File::open(path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(from)).map_err(unreadable)?;
        let (mut reader, mut line, mut read) = (BufReader::new(file), Vec::new(), 0);
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(unreadable)?;
            // What has no end is still being written.
            let Some(text) = line.strip_suffix(b"\n") else { return Ok(read) };
            read += bytes as u64;
            let text = String::from_utf8_lossy(text).into_owned();
            // Whether lines are sound is not the question here.
            let Ok(shown) = serde_json::from_str::<Shown>(&text) else { continue };
            if self.wanted.takes(&shown) {
                found.push_back((text, shown));
                if found.len() > most {
                    found.pop_front();
                }
            }
        }
    }
}

/// Lines of the daemon behind its last one at most: of threads that were slower than the one that ended it.
const STRAGGLERS: usize = 256;

/// Returns the last line of a daemon that did not get to write its end: it was killed, or its disk failed.
/// `None` where the last one did, or there is none.
///
/// # Errors
/// Where the log cannot be read.
pub fn without_end(dir: &Path) -> Result<Option<Shown>, AuditError> {
    if !dir.exists() {
        return Ok(None);
    }
    let (mut last, mut looked) = (None, 0);
    for path in segments::list(dir)?.iter().rev() {
        let bytes = std::fs::read(path).map_err(|source| AuditError::io("reading", path, source))?;
        let lines = bytes.rsplit(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Shown>(line).ok());
        // Operators read captures without a daemon too.
        let own = |line: &Shown| line.actor.as_ref().is_some_and(|actor| actor.kind == super::ActorKind::Daemon);
        for line in lines.filter(own) {
            looked += 1;
            match line.action.as_str() {
                "daemon.stop" => return Ok(None),
                "daemon.start" => return Ok(last.or(Some(line))),
                _ if looked > STRAGGLERS => return Ok(last),
                _ => last = last.or(Some(line)),
            }
        }
    }
    Ok(last)
}

/// Returns the latest checkpoint of a log, for keeping elsewhere.
///
/// # Errors
/// Where the log cannot be read, or has none.
pub fn latest_checkpoint(dir: &Path) -> Result<Option<Checkpoint>, AuditError> {
    let Some(path) = segments::list(dir)?.pop() else { return Ok(None) };
    let bytes = std::fs::read(&path).map_err(|source| AuditError::io("reading", &path, source))?;
    let lines = bytes.rsplit(|byte| *byte == b'\n').filter_map(|line| Line::read(line).ok());
    Ok(lines.filter_map(|line| Checkpoint::of_line(line.members)?.ok()).next())
}

/// Returns the files of a log that one has to copy in order to verify it elsewhere.
///
/// # Errors
/// Where the directory cannot be read.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let others = [segments::CHECKPOINTS, super::PUBLIC].map(|name| dir.join(name));
    // The checkpoints first: the log is ahead of them at any time.
    let mut all: Vec<PathBuf> = others.into_iter().filter(|path| path.exists()).collect();
    all.extend(segments::list(dir)?);
    Ok(all)
}
