//! What was asked of a provider, on disk before it is asked: what a crash or a restart leaves behind is found
//! and taken back.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{
    Item,
    judge::{Phase, State},
};

const VERSION: u32 = 1;

/// What is known of one item.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry<I> {
    pub item: I,
    pub state: State,
    pub incident: String,
    pub reason: String,
}

/// All that is known, in the order in which it was asked for.
#[derive(Debug)]
pub(super) struct Journal<I> {
    path: PathBuf,
    pub entries: Vec<Entry<I>>,
    /// What is wrong with the file that was found, for people; it was set aside. No trouble of the plane, which can do
    /// whatever is asked of it.
    pub damage: Option<String>,
    dirty: bool,
}

#[derive(Serialize)]
struct Written<'a, I> {
    version: u32,
    entries: &'a [Entry<I>],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<I> {
    version: u32,
    entries: Vec<Entry<I>>,
}

/// Returns what journals list that is, or may be, at a provider by our doing: for each plane its items, as text.
/// Journals that cannot be read list themselves.
pub fn listed(state: &Path) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for file in fs::read_dir(state.join("scrub")).into_iter().flatten().flatten() {
        let path = file.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Read<serde_json::Value>>(&text)?));
        let items = match read {
            Ok(read) => {
                let ours = |entry: &&Entry<_>| entry.state.ours && entry.state.phase != Phase::TakenBack;
                read.entries.iter().filter(ours).map(|entry| entry.item.to_string()).collect()
            }
            Err(error) => vec![format!("what {} says, which cannot be read ({error})", path.display())],
        };
        all.push((name.to_owned(), items));
    }
    all.retain(|(_, items): &(String, Vec<String>)| !items.is_empty());
    all.sort();
    all
}

impl<I: Item> Journal<I> {
    /// Reads the journal of a plane, or begins one. A directory that cannot be made now is made when it is written:
    /// until then nothing is asked.
    pub fn open(dir: &Path, name: &str) -> Result<Self, String> {
        let path = dir.join(format!("{name}.json"));
        let wrong = |what: &str, error: io::Error| format!("{}: {what} ({error})", path.display());
        let _later = fs::create_dir_all(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, entries: Vec::new(), damage: None, dirty: false });
            }
            Err(error) => return Err(wrong("cannot be read", error)),
        };
        let problem = match serde_json::from_slice::<Read<I>>(&text) {
            Ok(read) if read.version == VERSION => {
                return Ok(Self { path, entries: read.entries, damage: None, dirty: false });
            }
            Ok(read) => format!("has version {}, which this program does not know", read.version),
            Err(error) => format!("is damaged ({error})"),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let aside = dir.join(format!("{name}.json.bad-{now}"));
        fs::rename(&path, &aside).map_err(|error| wrong("is damaged and cannot be set aside", error))?;
        let damage = format!(
            "{} {problem} and was set aside as {}: what was asked for before is not known any more; look at the \
             provider for what is left over",
            path.display(),
            aside.display()
        );
        Ok(Self { path, entries: Vec::new(), damage: Some(damage), dirty: false })
    }

    pub fn find(&self, key: &str) -> Option<&Entry<I>> {
        self.entries.iter().find(|entry| entry.item.key() == key)
    }

    /// Changes what is known of an item; [`Self::save`] writes it.
    pub fn put(&mut self, entry: Entry<I>) {
        let key = entry.item.key();
        self.dirty = true;
        match self.entries.iter_mut().find(|known| known.item.key() == key) {
            Some(known) => *known = entry,
            None => self.entries.push(entry),
        }
    }

    /// Changes how far we are with an item that is known.
    pub fn note(&mut self, key: &str, state: State) {
        if let Some(known) = self.entries.iter_mut().find(|known| known.item.key() == key)
            && known.state != state
        {
            (known.state, self.dirty) = (state, true);
        }
    }

    pub fn forget(&mut self, key: &str) {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.item.key() != key);
        self.dirty |= self.entries.len() != before;
    }

    /// Writes what changed, in place of the file as a whole. What cannot be written now is written next time.
    pub fn save(&mut self) -> Result<(), String> {
        if !self.dirty {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(&serde_json::to_vec(&Written { version: VERSION, entries: &self.entries })?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path)?;
            // The name is in the directory, and that is a file of its own to the disk.
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| format!("{}: cannot be written ({error})", self.path.display()))?;
        self.dirty = false;
        Ok(())
    }
}
