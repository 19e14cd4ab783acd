//! The accepted and the held version of each feed, as files: `feeds/NAME.accepted` and
//! `feeds/NAME.held` in the state directory, one prefix per line, replaced atomically. What the disk does not take is in
//! memory until it does: a block list is in force all the same.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
};

use tracing::{error, info};

use super::{Entries, Guard, Report, parse};

const ACCEPTED: &str = "accepted";
const HELD: &str = "held";

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// What files ought to have in them that the disk has not taken, by file name.
    waiting: BTreeMap<String, Vec<u8>>,
    /// Why it has not.
    trouble: Option<String>,
}

impl Store {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("feeds"), waiting: BTreeMap::new(), trouble: None }
    }

    /// Removes what belongs to no feed of these names.
    pub(super) fn keep_only(&mut self, names: &[&str]) {
        let is_other = |path: &Path| {
            let ours = path.extension().is_some_and(|extension| extension == ACCEPTED || extension == HELD);
            let known = path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| names.contains(&stem));
            ours && !known
        };
        self.waiting.retain(|file, _| !is_other(Path::new(file)));
        for path in fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if is_other(&path)
                && let Err(error) = fs::remove_file(&path)
            {
                info!(%error, path = %path.display(), "The copy of a feed that is not configured any more stays.");
            }
        }
    }

    /// Reads the accepted version; `None` where there is none yet.
    pub(super) fn accepted(&self, name: &str, guard: Option<&Guard>) -> io::Result<Option<(Entries, Report)>> {
        if let Some(text) = self.waiting.get(&file_name(name, ACCEPTED)) {
            return parse::read(text.as_slice(), guard).map(Some);
        }
        match File::open(self.path(name, ACCEPTED)) {
            Ok(file) => parse::read(BufReader::with_capacity(1 << 16, file), guard).map(Some),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the number of prefixes of the accepted version.
    pub(super) fn count(&self, name: &str) -> io::Result<usize> {
        Ok(self.accepted(name, None)?.map_or(0, |(entries, _)| entries.len()))
    }

    /// Accepts a version (`None`: the accepted one stands), and forgets what was held.
    pub(super) fn accept(&mut self, name: &str, entries: Option<&Entries>) {
        if let Some(entries) = entries {
            self.put(name, ACCEPTED, text_of(entries));
        }
        self.waiting.remove(&file_name(name, HELD));
        // One that stays is not confirmed: it is known to be held by those who held it alone.
        let _stays = fs::remove_file(self.path(name, HELD));
    }

    /// Puts a version aside until it is confirmed.
    pub(super) fn hold(&mut self, name: &str, entries: &Entries) {
        self.put(name, HELD, text_of(entries));
    }

    /// Accepts the version that was put aside.
    pub(super) fn accept_held(&mut self, name: &str) -> io::Result<()> {
        let text = match self.waiting.remove(&file_name(name, HELD)) {
            Some(text) => text,
            None if fs::rename(self.path(name, HELD), self.path(name, ACCEPTED)).is_ok() => {
                self.waiting.remove(&file_name(name, ACCEPTED));
                return Ok(());
            }
            None => fs::read(self.path(name, HELD))?,
        };
        self.put(name, ACCEPTED, text);
        Ok(())
    }

    /// Tries again to write what waits for the disk.
    pub(super) fn save(&mut self) {
        for (file, text) in std::mem::take(&mut self.waiting) {
            self.keep(file, text);
        }
        if self.waiting.is_empty() && self.trouble.take().is_some() {
            info!("Feeds are saved again.");
        }
    }

    /// Returns what waits for the disk, in words.
    pub(super) fn unsaved(&self) -> Option<String> {
        let why = self.trouble.as_ref().filter(|_| !self.waiting.is_empty())?;
        let files = self.waiting.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Some(format!(
            "feeds are in force but not saved ({files}: {why}): after a restart they are compared with older versions; look at \
             the disk of `paths.state`, it is tried again every few seconds"
        ))
    }

    fn put(&mut self, name: &str, version: &str, text: Vec<u8>) {
        self.waiting.remove(&file_name(name, version));
        self.keep(file_name(name, version), text);
    }

    fn keep(&mut self, file: String, text: Vec<u8>) {
        let Err(why) = self.write(&file, &text) else { return };
        if self.trouble.replace(why.to_string()).is_none() {
            error!(error = %why, %file, "A feed cannot be saved; it is in force all the same.");
        }
        self.waiting.insert(file, text);
    }

    fn path(&self, name: &str, version: &str) -> PathBuf {
        self.dir.join(file_name(name, version))
    }

    fn write(&self, file: &str, text: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let mut output = tempfile::NamedTempFile::new_in(&self.dir)?;
        output.write_all(text)?;
        output.as_file().sync_all()?;
        output.persist(self.dir.join(file)).map_err(|error| error.error)?;
        Ok(())
    }
}

fn file_name(name: &str, version: &str) -> String {
    format!("{name}.{version}")
}

fn text_of(entries: &Entries) -> Vec<u8> {
    let mut text = Vec::new();
    for net in entries.nets() {
        // Plain addresses are read several times as fast as prefixes. Writing to memory cannot fail.
        let _written = match net.prefix_len() == net.max_prefix_len() {
            true => writeln!(text, "{}", net.addr()),
            false => writeln!(text, "{net}"),
        };
    }
    text
}
