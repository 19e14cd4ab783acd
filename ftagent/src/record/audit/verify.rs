//! Whether a log is what was written: offline, with the public key alone.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ed25519_dalek::VerifyingKey;
use serde::Serialize;

use super::{
    AuditError,
    checkpoint::Checkpoint,
    key::key_id,
    line::Hex,
    segments::{self, CHECKPOINTS},
    walk::{Fault, Walk},
};

/// What is to be verified.
#[derive(Debug, Default)]
pub struct Asked {
    /// The directory of a log, or some of its files, which may be copies.
    pub paths: Vec<PathBuf>,
    /// Later checkpoints that the log must agree with, each with where it is from.
    pub checkpoints: Vec<(String, Checkpoint)>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything is what was written.
    pub valid: bool,
    /// The first thing that is not.
    pub fault: Option<Fault>,
    /// Lines that are sound.
    pub lines: u64,
    /// Files.
    pub segments: usize,
    /// Checkpoints in them.
    pub checkpoints: usize,
    /// The numbers of the first and the last line.
    pub first: u64,
    /// See [`Self::first`].
    pub last: u64,
    /// When these were written, RFC 3339.
    pub from: String,
    /// See [`Self::from`].
    pub to: String,
    /// Lines at the end that no checkpoint covers: who can write the file can have changed them.
    pub unsigned: u64,
    /// Whether the log is there from its beginning, but for what age has removed.
    pub complete: bool,
    /// Other checkpoints that were compared, those of the file beside the log included.
    pub compared: usize,
    /// Of those, which are about lines that are not here any more.
    pub older: usize,
    /// The name of the key.
    pub key: String,
    /// Logs that did not verify at a start of the daemon, kept beside this one.
    pub aside: Vec<String>,
}

/// Verifies a log.
///
/// # Errors
/// Where a directory cannot be read. What is wrong with the log is in the report.
pub fn verify(asked: &Asked, key: &VerifyingKey) -> Result<Report, AuditError> {
    let mut log = Log::default();
    for path in &asked.paths {
        log.gather(path)?;
    }
    log.segments.sort_by_key(|path| segments::first_of(path));
    let mut walk = Walk::new(key);
    let mut report = Report { key: key_id(key), aside: log.aside.clone(), ..Report::default() };
    let fault = look(&mut walk, &log, asked, &mut report).err();
    report.lines = walk.lines;
    report.checkpoints = walk.checkpoints.len();
    (report.first, report.last) = (walk.first.unwrap_or_default(), walk.last.map_or(0, |(seq, _)| seq));
    (report.from, report.to) = walk.times.unwrap_or_default();
    (report.valid, report.fault) = (fault.is_none(), fault);
    Ok(report)
}

/// The files of a log.
#[derive(Debug, Default)]
struct Log {
    segments: Vec<PathBuf>,
    /// A file of checkpoints and its bytes, read before the segments: these are ahead of it at any time.
    stubs: Vec<(PathBuf, Vec<u8>)>,
    /// Everything is there that a directory has.
    whole: bool,
    aside: Vec<String>,
}

impl Log {
    fn gather(&mut self, path: &Path) -> Result<(), AuditError> {
        if !path.is_dir() {
            if path.file_name().is_some_and(|name| name == CHECKPOINTS) {
                return self.stub(path);
            }
            self.segments.push(path.to_owned());
            return Ok(());
        }
        let stubs = path.join(CHECKPOINTS);
        if stubs.exists() {
            self.stub(&stubs)?;
        }
        self.segments.extend(segments::list(path)?);
        self.whole = true;
        let entries = fs::read_dir(path).map_err(|source| AuditError::io("reading", path, source))?;
        let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        self.aside.extend(names.filter(|name| name.starts_with("aside-")));
        self.aside.sort_unstable();
        Ok(())
    }

    fn stub(&mut self, path: &Path) -> Result<(), AuditError> {
        let bytes = fs::read(path).map_err(|source| AuditError::io("reading", path, source))?;
        self.stubs.push((path.to_owned(), bytes));
        Ok(())
    }
}

fn look(walk: &mut Walk<'_>, log: &Log, asked: &Asked, report: &mut Report) -> Result<(), Fault> {
    let key = walk.key();
    let mut others: Vec<(String, u64, Checkpoint)> = Vec::new();
    let mut stub_fault = None;
    for (path, bytes) in &log.stubs {
        match read_stubs(path, bytes, key) {
            Ok(read) => others.extend(read),
            Err(fault) => stub_fault = stub_fault.or(Some(fault)),
        }
    }
    for path in &log.segments {
        walk.file(path)?;
        report.segments += 1;
    }
    let nowhere = Path::new("the log");
    let Some((first, (last, _))) = walk.first.zip(walk.last) else {
        return Err(Fault::new(nowhere, (0, None), "there is no file of it (`audit-….jsonl`)"));
    };
    let newest = log.segments.last().map_or(nowhere, PathBuf::as_path);
    let from = walk.latest.as_ref().map_or(1, |latest| latest.statement.from);
    report.complete = first <= from;
    if log.whole && !report.complete {
        let what = format!(
            "the log begins with line {first}: those from {from} on are gone, and were not removed because of their age"
        );
        return Err(Fault::new(log.segments.first().map_or(nowhere, PathBuf::as_path), (1, Some(first)), what));
    }
    report.unsigned = walk.unsigned().map_err(|what| Fault::new(newest, (0, Some(last)), what))?;
    if let Some(fault) = stub_fault {
        return Err(fault);
    }
    for (name, checkpoint) in &asked.checkpoints {
        let checked = checkpoint.check(key, &report.key);
        checked.map_err(|what| Fault::new(Path::new(name), (0, Some(checkpoint.statement.seq)), what))?;
        others.push((name.clone(), 0, checkpoint.clone()));
    }
    for (name, line, checkpoint) in others {
        report.compared += 1;
        compare(walk, (first, last), &checkpoint, newest).map_or_else(
            |what| Err(Fault::new(Path::new(&name), (line, Some(checkpoint.statement.seq)), what)),
            |older| {
                report.older += usize::from(older);
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// Reads a file of checkpoints, every byte of it.
fn read_stubs(path: &Path, bytes: &[u8], key: &VerifyingKey) -> Result<Vec<(String, u64, Checkpoint)>, Fault> {
    let (id, name) = (key_id(key), path.display().to_string());
    let mut found: Vec<(String, u64, Checkpoint)> = Vec::new();
    for (raw, line) in bytes.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let wrong = |what: String| Fault::new(path, (line, None), what);
        let text = raw.strip_suffix(b"\n").ok_or_else(|| wrong("it is cut short: it has no end".to_owned()))?;
        let checkpoint = Checkpoint::read(text).map_err(wrong)?;
        checkpoint.check(key, &id).map_err(wrong)?;
        let before = found.last().map(|(.., before)| before.hash()).unwrap_or(Hex::ZERO);
        if checkpoint.statement.previous != before.as_str() {
            return Err(wrong("it does not name the checkpoint before it: one was taken out or put in".to_owned()));
        }
        found.push((name.clone(), line, checkpoint));
    }
    Ok(found)
}

/// Compares a checkpoint with the log; returns whether it is about lines that are not here any more.
fn compare(walk: &Walk<'_>, (first, last): (u64, u64), checkpoint: &Checkpoint, newest: &Path) -> Result<bool, String> {
    let seq = checkpoint.statement.seq;
    if seq + 1 < first {
        return Ok(true);
    }
    if seq + 1 > last {
        let newest = newest.display();
        return Err(format!(
            "line {seq} had been signed, and the log ({newest}) ends with line {last}: its end was cut off"
        ));
    }
    match walk.checkpoints.get(&seq) {
        Some(hash) if *hash == checkpoint.hash() => Ok(false),
        _ => Err(format!("line {seq} had been signed, and is another one in this log: it was written anew")),
    }
}
