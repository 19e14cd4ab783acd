//! Goes through segments line by line and stops at the first that is not what it should be. Lines are
//! hashed as they are, on every CPU at once; what ties them together is looked at in their order.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
    thread,
};

use ed25519_dalek::VerifyingKey;
use serde::{Serialize, de::IgnoredAny};

use super::{
    checkpoint::Checkpoint,
    key::key_id,
    line::{Hex, Line, MOST_LINE},
    segments::first_of,
};

/// Bytes that a CPU looks at, at a time.
const PART: usize = 2 << 20;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// Its line, from 1; 0: the file as a whole.
    pub line: u64,
    /// The sequence number of the line, where it has one.
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Fault {
    pub(super) fn new(file: &Path, (line, seq): (u64, Option<u64>), what: impl Into<String>) -> Self {
        Self { file: file.display().to_string(), line, seq, what: what.into() }
    }
}

/// What is known of the lines that were gone through.
#[derive(Debug)]
pub(super) struct Walk<'k> {
    key: &'k VerifyingKey,
    id: String,
    pub(super) lines: u64,
    /// The number of the first line.
    pub(super) first: Option<u64>,
    /// Number and hash of the last one.
    pub(super) last: Option<(u64, Hex)>,
    /// The times of the first and the last one.
    pub(super) times: Option<(String, String)>,
    /// The latest checkpoint.
    pub(super) latest: Option<Checkpoint>,
    /// The hashes of all of them, by the line that they cover.
    pub(super) checkpoints: BTreeMap<u64, Hex>,
}

impl<'k> Walk<'k> {
    pub(super) fn new(key: &'k VerifyingKey) -> Self {
        let (id, checkpoints) = (key_id(key), BTreeMap::new());
        Self { key, id, lines: 0, first: None, last: None, times: None, latest: None, checkpoints }
    }

    pub(super) const fn key(&self) -> &'k VerifyingKey {
        self.key
    }

    /// Goes through a segment.
    pub(super) fn file(&mut self, path: &Path) -> Result<(), Fault> {
        let unreadable = |error: io::Error| Fault::new(path, (0, None), format!("it cannot be read: {error}"));
        let mut file = File::open(path).map_err(unreadable)?;
        let workers = thread::available_parallelism().map_or(1, usize::from).min(16);
        let (mut buffer, mut line, mut more) = (Vec::new(), 0, true);
        while more {
            let room = (workers * PART) as u64;
            more = file.by_ref().take(room).read_to_end(&mut buffer).map_err(unreadable)? as u64 == room;
            let whole = match buffer.iter().rposition(|byte| *byte == b'\n') {
                Some(end) if more => end + 1,
                _ if !more => buffer.len(),
                _ => 0,
            };
            if whole == 0 && buffer.len() > MOST_LINE {
                return Err(Fault::new(path, (line + 1, None), "the line is longer than any that is written here"));
            }
            let (ready, _) = buffer.split_at_checked(whole).unwrap_or_default();
            for facts in self.look(ready, workers) {
                self.take(path, &mut line, facts)?;
            }
            buffer.drain(..whole);
        }
        if line == 0 {
            return Err(Fault::new(path, (0, None), "it is empty"));
        }
        Ok(())
    }

    /// Goes through a segment that is in memory.
    pub(super) fn bytes(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Fault> {
        let facts = look(bytes, self.key, &self.id);
        self.take(path, &mut 0, facts)
    }

    /// Looks at lines on several CPUs; in their order.
    fn look(&self, bytes: &[u8], workers: usize) -> Vec<Facts> {
        let (key, id) = (self.key, self.id.as_str());
        let parts = split(bytes, workers);
        match parts.as_slice() {
            [] => Vec::new(),
            [one] => vec![look(one, key, id)],
            several => thread::scope(|scope| {
                let started = several.iter().map(|part| scope.spawn(move || look(part, key, id)));
                let started: Vec<_> = started.collect();
                let broken = || Facts { fault: Some((0, None, "looking at it failed".to_owned())), ..Facts::default() };
                started.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
            }),
        }
    }

    /// Ties lines to those before; `line`: lines of this file until here.
    fn take(&mut self, path: &Path, line: &mut u64, facts: Facts) -> Result<(), Fault> {
        let Facts { lines, first, last, checkpoints, fault, time } = facts;
        let base = *line;
        let wrong = |at: u64, seq: u64, what: String| Err(Fault::new(path, (base + at + 1, Some(seq)), what));
        if let Some((seq, prev)) = first {
            if let Err(what) = self.follows(seq, prev) {
                return wrong(0, seq, what);
            }
            if base == 0 {
                let begins = checkpoints.first().filter(|(at, _, found)| *at == 0 && found.statement.segment);
                let Some((_, _, begins)) = begins else {
                    return wrong(
                        0,
                        seq,
                        "a file of the log begins with a checkpoint of its own, and this does not".into(),
                    );
                };
                if first_of(path).is_some_and(|named| named != seq) {
                    return wrong(0, seq, format!("the file's name says that it begins with another line than {seq}"));
                }
                self.first.get_or_insert(seq);
                self.times.get_or_insert((begins.statement.time.clone(), String::new()));
            }
        }
        for (at, seq, checkpoint) in checkpoints {
            if let Err(what) = self.continues(&checkpoint, base + at == 0) {
                return wrong(at, seq, what);
            }
            self.checkpoints.insert(checkpoint.statement.seq, checkpoint.hash());
            self.latest = Some(checkpoint);
        }
        (self.lines, *line) = (self.lines + lines, base + lines);
        self.last = last.or(self.last);
        if let (Some((_, to)), Some(time)) = (&mut self.times, time) {
            *to = time;
        }
        match fault {
            Some((at, seq, what)) => Err(Fault::new(path, (base + at + 1, seq), what)),
            None => Ok(()),
        }
    }

    /// Whether a line may come after what was seen.
    fn follows(&self, seq: u64, prev: Hex) -> Result<(), String> {
        match self.last {
            Some(last) => linked(last, (seq, prev)),
            None if seq == 1 && prev != Hex::ZERO => Err("it is the first line and names one before it".to_owned()),
            None => Ok(()),
        }
    }

    /// Whether a checkpoint may come after what was seen.
    fn continues(&self, checkpoint: &Checkpoint, begins: bool) -> Result<(), String> {
        let said = &checkpoint.statement;
        if said.segment != begins {
            return Err("it is a checkpoint that begins a file, in the middle of one".to_owned());
        }
        let Some(before) = &self.latest else {
            return match said.seq {
                0 if said.previous != Hex::ZERO.as_str() => {
                    Err("it is the first checkpoint and names one before it".to_owned())
                }
                _ => Ok(()),
            };
        };
        if said.previous != before.hash().as_str() {
            return Err("it does not name the checkpoint before it: one was taken out or changed".to_owned());
        }
        if said.from < before.statement.from {
            return Err("it says that the log begins earlier than the checkpoint before it says".to_owned());
        }
        let lines = said.seq.saturating_sub(before.statement.seq + 1);
        if lines > before.statement.every {
            return Err(format!(
                "there are {lines} lines since the checkpoint before, which allows {}",
                before.statement.every
            ));
        }
        Ok(())
    }

    /// Returns how many lines at the end no checkpoint covers.
    ///
    /// # Errors
    /// Where these are more than the latest checkpoint allows.
    pub(super) fn unsigned(&self) -> Result<u64, String> {
        let (Some((seq, _)), Some(latest)) = (self.last, &self.latest) else { return Ok(0) };
        let lines = seq.saturating_sub(latest.statement.seq + 1);
        match latest.statement.every {
            every if lines > every => Err(format!("{lines} lines at the end have no checkpoint, and {every} may")),
            _ => Ok(lines),
        }
    }
}

/// What is known of lines by themselves.
#[derive(Debug, Default)]
struct Facts {
    lines: u64,
    /// Number and `prev` of the first.
    first: Option<(u64, Hex)>,
    /// Number and hash of the last.
    last: Option<(u64, Hex)>,
    /// Where they stand among these lines (from 0), their line's number, and themselves.
    checkpoints: Vec<(u64, u64, Checkpoint)>,
    /// The first that is wrong.
    fault: Option<(u64, Option<u64>, String)>,
    /// When the last was written.
    time: Option<String>,
}

/// Cuts at line ends into about as many parts.
fn split(bytes: &[u8], parts: usize) -> Vec<&[u8]> {
    let (mut rest, mut found) = (bytes, Vec::new());
    let size = (bytes.len() / parts.max(1)).max(MOST_LINE);
    while !rest.is_empty() {
        let end = rest.iter().skip(size).position(|byte| *byte == b'\n').map_or(rest.len(), |at| size + at + 1);
        let (part, others) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        found.push(part);
        rest = others;
    }
    found
}

fn look(bytes: &[u8], key: &VerifyingKey, id: &str) -> Facts {
    let mut facts = Facts::default();
    let mut time: Option<&[u8]> = None;
    // What a signature covers was written by who has the key; the rest is at least to be JSON.
    let mut loose = Vec::new();
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        let at = facts.lines;
        let mut fail = |seq: Option<u64>, what: String| facts.fault = Some((at, seq, what));
        let Some(text) = raw.strip_suffix(b"\n") else {
            fail(None, "it is cut short: it has no end".to_owned());
            break;
        };
        let line = match Line::read(text) {
            Ok(line) => line,
            Err((seq, what)) => {
                fail(seq, what);
                break;
            }
        };
        if let Some(Err(what)) = facts.last.map(|last| linked(last, (line.seq, line.prev))) {
            fail(Some(line.seq), what);
            break;
        }
        match entry_or_checkpoint(&line, key, id) {
            Ok(None) => loose.push((at, line.seq, text)),
            Ok(Some(checkpoint)) => {
                loose.clear();
                facts.checkpoints.push((at, line.seq, checkpoint));
            }
            Err(what) => {
                fail(Some(line.seq), what);
                break;
            }
        }
        facts.first.get_or_insert((line.seq, line.prev));
        facts.last = Some((line.seq, line.hash));
        facts.lines += 1;
        time = Some(line.members);
    }
    for (at, seq, text) in loose {
        if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
            facts.fault = Some((at, Some(seq), format!("it is no JSON: {error}")));
            break;
        }
    }
    facts.time = time.and_then(time_of);
    facts
}

fn entry_or_checkpoint(line: &Line<'_>, key: &VerifyingKey, id: &str) -> Result<Option<Checkpoint>, String> {
    let Some(checkpoint) = Checkpoint::of_line(line.members) else { return Ok(None) };
    let checkpoint = checkpoint?;
    checkpoint.check(key, id)?;
    let said = &checkpoint.statement;
    if said.seq + 1 != line.seq || said.head != line.prev.as_str() {
        return Err("it is a checkpoint of another place in the log, or of another log".to_owned());
    }
    Ok(Some(checkpoint))
}

fn linked((last, hash): (u64, Hex), (seq, prev): (u64, Hex)) -> Result<(), String> {
    if seq != last + 1 {
        return Err(format!("it follows line {last}: lines are missing, doubled or in another order"));
    }
    if prev != hash {
        return Err("the line before it is not the one that it names: that was replaced".to_owned());
    }
    Ok(())
}

/// Returns the time of a line, as text.
fn time_of(members: &[u8]) -> Option<String> {
    const TIME: &[u8] = br#""time":""#;
    let at = members.windows(TIME.len()).position(|found| found == TIME)?;
    let rest = members.get(at + TIME.len()..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(rest.get(..end)?).ok().map(str::to_owned)
}
