//! What an earlier life left: a line that was cut short is cut off, and a log that does not verify is
//! kept aside as it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{
    AuditError,
    checkpoint::Checkpoint,
    entry::{Entry, unix_ns, unix_s},
    flags,
    key::{Key, PRIVATE, PUBLIC},
    line::Hex,
    segments::{self, CHECKPOINTS},
    walk::Walk,
};

/// Characters of a line that was cut off which are told.
const SHOWN: usize = 200;

/// Where the log goes on.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) seq: u64,
    pub(super) head: Hex,
    /// The hash of the latest checkpoint.
    pub(super) previous: Hex,
    pub(super) from: u64,
    /// Lines since the latest checkpoint.
    pub(super) since: u64,
    /// When the segment began, seconds since 1970.
    pub(super) began: u64,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    /// `None`: a log begins.
    pub(super) tail: Option<Tail>,
    /// What has to stand in the log, and in the daemon's own.
    pub(super) notes: Vec<Entry>,
}

/// Looks at what is in a directory, and makes it so that one can go on from it.
pub(super) fn recover(dir: &Path) -> Result<Found, AuditError> {
    let key = match Key::load(dir) {
        Ok(key) => key,
        Err(AuditError::Key { problem, .. }) => {
            let note = set_aside(dir, &format!("its key cannot be used: {problem}"), Value::Null, true)?;
            return Ok(Found { key: new_key(dir)?, tail: None, notes: vec![note] });
        }
        Err(other) => return Err(other),
    };
    let mut notes = Vec::new();
    let Some(key) = key else {
        if !segments::list(dir)?.is_empty() || dir.join(CHECKPOINTS).exists() {
            notes.push(set_aside(dir, "its key is gone", Value::Null, false)?);
        }
        return Ok(Found { key: new_key(dir)?, tail: None, notes });
    };
    key.publish(dir)?;
    let tail = match tail(dir, &key, &mut notes) {
        Ok(tail) => tail,
        Err(Trouble::Io(error)) => return Err(error),
        Err(Trouble::Broken { why, last }) => {
            let last = last.map_or(Value::Null, |(seq, head)| json!({ "seq": seq, "head": head.as_str() }));
            notes.push(set_aside(dir, &why, last, false)?);
            None
        }
    };
    Ok(Found { key, tail, notes })
}

fn new_key(dir: &Path) -> Result<Key, AuditError> {
    let key = Key::create(dir)?;
    key.publish(dir)?;
    Ok(key)
}

/// Why one cannot go on from what is there.
enum Trouble {
    Io(AuditError),
    /// It is not what it should be; with the last line that is.
    Broken {
        why: String,
        last: Option<(u64, Hex)>,
    },
}

impl From<AuditError> for Trouble {
    fn from(error: AuditError) -> Self {
        Self::Io(error)
    }
}

fn tail(dir: &Path, key: &Key, notes: &mut Vec<Entry>) -> Result<Option<Tail>, Trouble> {
    let stubs = stubs(dir, key)?;
    let Some((path, bytes)) = last_segment(dir, notes)? else {
        return match stubs.last() {
            None => Ok(None),
            Some(last) => {
                let why = format!("its files are gone, and line {} had been signed", last.statement.seq);
                Err(Trouble::Broken { why, last: None })
            }
        };
    };
    let public = key.public();
    let mut walk = Walk::new(&public);
    if let Err(fault) = walk.bytes(&path, &bytes) {
        let why = format!("{}, line {}: {}", fault.file, fault.line, fault.what);
        return Err(Trouble::Broken { why, last: walk.last });
    }
    let last = walk.last;
    let broken = |why: String| Trouble::Broken { why, last };
    let since = walk.unsigned().map_err(broken)?;
    let (Some((seq, head)), Some(latest), Some((began, _))) = (last, &walk.latest, &walk.times) else {
        return Err(broken(format!("{} has no line", path.display())));
    };
    if let Some(signed) = stubs.last().filter(|signed| signed.statement.seq > latest.statement.seq) {
        return Err(broken(format!("it ends with line {seq}, and line {} had been signed", signed.statement.seq)));
    }
    for signed in &stubs {
        if walk.checkpoints.get(&signed.statement.seq).is_some_and(|found| *found != signed.hash()) {
            return Err(broken(format!("line {} is not the one that had been signed", signed.statement.seq)));
        }
    }
    Ok(Some(Tail {
        size: bytes.len() as u64,
        seq,
        head,
        previous: latest.hash(),
        from: latest.statement.from,
        since,
        began: unix_s(began).unwrap_or_default(),
        path,
    }))
}

/// Reads the last segment and cuts off what is no line; empty ones are removed.
fn last_segment(dir: &Path, notes: &mut Vec<Entry>) -> Result<Option<(PathBuf, Vec<u8>)>, AuditError> {
    let mut all = segments::list(dir)?;
    while let Some(path) = all.pop() {
        let mut bytes = fs::read(&path).map_err(|source| AuditError::io("reading", &path, source))?;
        let sound = sound(&bytes);
        if sound < bytes.len() {
            let torn = bytes.split_off(sound);
            notes.push(cut_off(&path, sound as u64, &torn)?);
        }
        if !bytes.is_empty() {
            return Ok(Some((path, bytes)));
        }
        // A file that was made, and the first line never came.
        let removed = flags::release(&path).and_then(|()| fs::remove_file(&path));
        removed.map_err(|source| AuditError::io("removing", &path, source))?;
    }
    Ok(None)
}

/// Returns how many bytes are there without a last line that was cut short.
fn sound(bytes: &[u8]) -> usize {
    let lines = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let whole = bytes.get(..lines).unwrap_or_default();
    let body = whole.strip_suffix(b"\n").unwrap_or_default();
    let begin = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let last = body.get(begin..).unwrap_or_default();
    // Blocks that were never written are zeros, or what was there before.
    let json = last.is_empty() || serde_json::from_slice::<IgnoredAny>(last).is_ok();
    if json { lines } else { begin }
}

fn cut_off(path: &Path, at: u64, torn: &[u8]) -> Result<Entry, AuditError> {
    let cut = flags::release(path).and_then(|()| {
        let file = fs::File::options().write(true).open(path)?;
        file.set_len(at)?;
        file.sync_all()
    });
    cut.map_err(|source| AuditError::io("cutting a line that was cut short off", path, source))?;
    let shown: String = String::from_utf8_lossy(torn).chars().take(SHOWN).collect();
    let (file, sha256) = (path.file_name().unwrap_or_default().to_string_lossy(), Hex::of(&[torn]));
    Ok(Entry::new("audit.recovered", file)
        .because("the last line had been cut short, as by a crash or a full disk, and was cut off")
        .now(json!({ "bytes": torn.len(), "sha256": sha256.as_str(), "begin": shown })))
}

/// Reads the file of checkpoints. What is no checkpoint of this key says nothing, and is left out: the
/// file is there to notice what is missing, and `ftagent audit verify` looks at it closely.
fn stubs(dir: &Path, key: &Key) -> Result<Vec<Checkpoint>, AuditError> {
    let path = dir.join(CHECKPOINTS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(AuditError::io("reading", &path, source)),
    };
    let public = key.public();
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        let file = fs::File::options().write(true).open(&path).and_then(|file| file.set_len(whole as u64));
        file.map_err(|source| AuditError::io("cutting", &path, source))?;
    }
    let lines = text.get(..whole).unwrap_or_default().split(|byte| *byte == b'\n');
    let read = lines.filter_map(|line| Checkpoint::read(line).ok());
    Ok(read.filter(|found| found.check(&public, &key.id).is_ok()).collect())
}

/// Returns the checkpoints of a segment that the file of checkpoints lacks, as they stand there.
pub(super) fn missing_stubs(dir: &Path, segment: &Path, key: &Key) -> Result<Vec<u8>, AuditError> {
    let known = stubs(dir, key)?.last().map(|last| last.statement.seq);
    let bytes = fs::read(segment).map_err(|source| AuditError::io("reading", segment, source))?;
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| super::line::Line::read(line).ok());
    let checkpoints = lines.filter_map(|line| Checkpoint::of_line(line.members)?.ok());
    let missing = checkpoints.filter(|found| known.is_none_or(|known| found.statement.seq > known));
    Ok(missing.flat_map(|found| (found.text() + "\n").into_bytes()).collect())
}

/// Moves everything that belongs to the log into a directory of its own, as it is.
fn set_aside(dir: &Path, why: &str, last: Value, with_key: bool) -> Result<Entry, AuditError> {
    let seconds = unix_ns() / 1_000_000_000;
    let name = (0..).map(|more: u64| format!("aside-{}", seconds + more)).find(|name| !dir.join(name).exists());
    let name = name.unwrap_or_default();
    let aside = dir.join(&name);
    segments::make_dir(&aside)?;
    let mut files = segments::list(dir)?;
    files.extend([CHECKPOINTS].into_iter().chain(with_key.then_some(PRIVATE)).map(|name| dir.join(name)));
    for path in files.iter().filter(|path| path.exists()) {
        let to = aside.join(path.file_name().unwrap_or_default());
        let moved = flags::release(path).and_then(|()| fs::rename(path, to));
        moved.map_err(|source| AuditError::io("keeping aside", path, source))?;
    }
    let public = dir.join(PUBLIC);
    if public.exists() {
        fs::copy(&public, aside.join(PUBLIC)).map_err(|source| AuditError::io("copying", &public, source))?;
    }
    segments::sync_dir(dir)?;
    Ok(Entry::new("audit.restarted", name)
        .because(format!("the log that was here does not verify and was kept aside as it was: {why}"))
        .was(last))
}
