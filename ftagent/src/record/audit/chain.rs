//! The log as it is written: one line after another, signed now and then, in files that end by size or
//! at midnight.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::fcntl::Flock;
use serde_json::json;

use super::{
    AuditError,
    checkpoint::{Checkpoint, Statement},
    entry::{Entry, Stamped, rfc3339, unix_ns, unix_s},
    flags,
    key::Key,
    line::{Hex, Line, VERSION},
    recover::{self, Found, Tail},
    segments::{self, CHECKPOINTS, first_of, path_of, write_some},
};
use crate::config::Audit;

const DAY_S: u64 = 86_400;

/// The log, open for writing. There is one writer: it holds a lock.
#[derive(Debug)]
pub(super) struct Chain {
    dir: PathBuf,
    rules: Audit,
    key: Key,
    file: File,
    path: PathBuf,
    /// Bytes of the present segment.
    size: u64,
    /// The day on which it began, since 1970.
    day: u64,
    seq: u64,
    head: Hex,
    /// The hash of the latest checkpoint.
    previous: Hex,
    /// The first line that age has not removed.
    from: u64,
    /// Lines since the latest checkpoint.
    since: u64,
    signed: Instant,
    /// Lines that are not on disk yet, and how much of them is written.
    unwritten: Vec<u8>,
    written: usize,
    /// The same of the file of checkpoints.
    stubs: Vec<u8>,
    stubs_written: usize,
    boot: String,
    /// Why segments cannot be made append-only, where they cannot.
    pub(super) not_append_only: Option<String>,
    _lock: Flock<File>,
}

impl Chain {
    /// Goes on from what is in a directory. The second value is what has to be said of it.
    ///
    /// # Errors
    /// Where the directory cannot be used, or somebody else writes.
    pub(super) fn open(dir: &Path, rules: Audit) -> Result<(Self, Vec<Entry>), AuditError> {
        segments::make_dir(dir)?;
        let lock = segments::lock(dir)?;
        let Found { key, tail, notes } = recover::recover(dir)?;
        let begins = tail.is_none();
        let tail = tail.unwrap_or_else(|| Tail {
            path: path_of(dir, 1),
            size: 0,
            seq: 0,
            head: Hex::ZERO,
            previous: Hex::ZERO,
            from: 1,
            since: 0,
            began: unix_ns() / 1_000_000_000,
        });
        let stubs = if begins { Vec::new() } else { recover::missing_stubs(dir, &tail.path, &key)? };
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut chain = Self {
            dir: dir.to_owned(),
            rules,
            key,
            file: segments::open_to_append(&tail.path)?,
            path: tail.path,
            size: tail.size,
            day: tail.began / DAY_S,
            seq: tail.seq,
            head: tail.head,
            previous: tail.previous,
            from: tail.from,
            since: tail.since,
            signed: Instant::now(),
            unwritten: Vec::new(),
            written: 0,
            stubs,
            stubs_written: 0,
            boot,
            not_append_only: None,
            _lock: lock,
        };
        chain.keep_append_only();
        segments::sync_dir(dir)?;
        if begins {
            chain.sign(true);
        }
        chain.flush()?;
        Ok((chain, notes))
    }

    /// Adds an entry; it is on disk after the next [`Self::flush`].
    pub(super) fn append(&mut self, stamped: &Stamped) {
        self.seq += 1;
        self.head = stamped.write(&mut self.unwritten, self.seq, self.head, &self.boot);
        self.since += 1;
        if self.since >= self.rules.checkpoint_lines {
            self.sign(false);
        }
    }

    /// Adds a checkpoint, where there is something to sign.
    pub(super) fn checkpoint(&mut self) {
        if self.since > 0 {
            self.sign(false);
        }
    }

    fn sign(&mut self, segment: bool) {
        let statement = Statement {
            v: VERSION,
            seq: self.seq,
            head: self.head.to_string(),
            time: rfc3339(unix_ns()),
            every: self.rules.checkpoint_lines,
            from: self.from,
            segment,
            previous: self.previous.to_string(),
            key: self.key.id.clone(),
        };
        let checkpoint = Checkpoint::sign(statement, &self.key);
        self.seq += 1;
        self.head = checkpoint.write(&mut self.unwritten, self.seq, self.head);
        self.previous = checkpoint.hash();
        self.stubs.extend_from_slice((checkpoint.text() + "\n").as_bytes());
        (self.since, self.signed) = (0, Instant::now());
    }

    /// Brings what was added to the disk: lines first, then checkpoints, so that no checkpoint is ever
    /// ahead of its log. What fails is tried again by the next call, from where it stopped.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn flush(&mut self) -> Result<(), AuditError> {
        if !self.unwritten.is_empty() {
            let before = self.written;
            let result = write_some(&self.file, &self.unwritten, &mut self.written);
            self.size += (self.written - before) as u64;
            result
                .and_then(|()| self.file.sync_data())
                .map_err(|source| AuditError::io("writing", &self.path, source))?;
            self.unwritten.clear();
            self.written = 0;
        }
        if !self.stubs.is_empty() {
            let path = self.dir.join(CHECKPOINTS);
            let file = segments::open_to_append(&path)?;
            let result = write_some(&file, &self.stubs, &mut self.stubs_written);
            result.and_then(|()| file.sync_data()).map_err(|source| AuditError::io("writing", &path, source))?;
            self.stubs.clear();
            self.stubs_written = 0;
        }
        Ok(())
    }

    /// Whether a checkpoint is due.
    pub(super) fn is_due(&self) -> bool {
        self.since > 0 && self.signed.elapsed() >= self.rules.checkpoint_interval
    }

    /// Returns when a checkpoint will be due, if one will.
    pub(super) fn due_in(&self) -> Option<Duration> {
        (self.since > 0).then(|| self.rules.checkpoint_interval.saturating_sub(self.signed.elapsed()))
    }

    /// Returns the lines that no checkpoint covers yet.
    pub(super) const fn unsigned(&self) -> u64 {
        self.since
    }

    /// Returns the number of the last line, and the name of the key.
    pub(super) fn at(&self) -> (u64, &str) {
        (self.seq, &self.key.id)
    }

    /// Begins the next segment, where the present one is long enough or of another day. Everything that
    /// was added is on disk afterwards.
    ///
    /// # Errors
    /// What the file system says; it goes on in the present segment then.
    pub(super) fn rotate(&mut self) -> Result<(), AuditError> {
        let today = unix_ns() / 1_000_000_000 / DAY_S;
        if self.size < self.rules.segment_bytes && today == self.day {
            return Ok(());
        }
        self.checkpoint();
        self.flush()?;
        let path = path_of(&self.dir, self.seq + 1);
        self.file = segments::open_to_append(&path)?;
        (self.path, self.size, self.day) = (path, 0, today);
        self.keep_append_only();
        self.sign(true);
        self.flush()?;
        segments::sync_dir(&self.dir)?;
        self.retain()
    }

    /// Removes segments whose last line is older than the log is kept. First the log says so, signed,
    /// then they go: a log that begins late without that is one that somebody has shortened.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn retain(&mut self) -> Result<(), AuditError> {
        let oldest = (unix_ns() / 1_000_000_000).saturating_sub(self.rules.retention.as_secs());
        let all = segments::list(&self.dir)?;
        // A segment ends when the next one begins.
        let ended = |next: &PathBuf| began(next).is_some_and(|began| began < oldest);
        let old = all.iter().skip(1).take_while(|next| ended(next)).count();
        let (old, kept) = all.split_at_checked(old).unwrap_or_default();
        let (false, Some(from)) = (old.is_empty(), kept.first().and_then(|path| first_of(path))) else {
            return Ok(());
        };
        let names: Vec<String> =
            old.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
        let days = self.rules.retention.as_secs() / DAY_S;
        let entry = Entry::new("audit.retention", format!("lines before {from}"))
            .because(format!("older than {days} days (`audit.retention_days`)"))
            .now(json!({ "from": from, "files": names }));
        self.from = from;
        self.append(&Stamped::new(entry, false));
        self.checkpoint();
        self.flush()?;
        for path in old {
            let removed = flags::release(path).and_then(|()| fs::remove_file(path));
            removed.map_err(|source| AuditError::io("removing", path, source))?;
        }
        segments::sync_dir(&self.dir)
    }

    fn keep_append_only(&mut self) {
        if self.rules.append_only {
            self.not_append_only = flags::set_append_only(&self.file, true).err().map(|error| error.to_string());
        }
    }
}

/// Returns when a segment began, seconds since 1970.
fn began(path: &Path) -> Option<u64> {
    use std::io::{BufRead as _, BufReader, Read as _};
    let mut line = Vec::new();
    BufReader::new(File::open(path).ok()?.take(4096)).read_until(b'\n', &mut line).ok()?;
    let line = Line::read(line.strip_suffix(b"\n")?).ok()?;
    unix_s(&Checkpoint::of_line(line.members)?.ok()?.statement.time)
}
