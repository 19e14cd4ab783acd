//! The directory of captures, as the daemon and the command line use it. Names come from people: what is
//! no name is refused, and no symbolic link is followed.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat},
    sys::stat::Mode,
};
use serde::{Deserialize, Serialize};

use super::{
    frames::{digest, survey},
    lives,
    meta::{CAPTURE, FORMAT, FileFacts, HOLD, META, Meta, Status},
    pcapng,
};
use crate::record::replace;

/// A description that is longer is none of ours.
const MOST_META: u64 = 4 << 20;
/// Bytes of a name at most.
const NAME: usize = 64;

/// Returns where captures are.
pub fn root(state: &Path) -> PathBuf {
    state.join("captures")
}

/// Returns whether a text may be the name of a capture: letters, digits, `-`, `_` and `.`, which does not
/// come first.
pub fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= NAME && !text.starts_with('.') && text.chars().all(plain)
}

/// Makes the directory of a capture.
///
/// # Errors
/// What the file system says, and where something else has its name.
pub fn make(root: &Path, id: &str) -> io::Result<PathBuf> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true).create(root)?;
    let dir = root.join(id);
    match builder.recursive(false).create(&dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(&dir)?.is_dir() => Ok(dir),
        made => made.map(|()| dir),
    }
}

/// A capture's directory, opened: whatever its name means meanwhile, this is the one.
#[derive(Debug)]
pub struct Opened {
    /// Its name.
    pub id: String,
    fd: OwnedFd,
}

impl Opened {
    /// Opens the directory of a capture.
    ///
    /// # Errors
    /// What the file system says; a link is not followed.
    pub fn new(root: &Path, id: &str) -> io::Result<Self> {
        if !is_name(id) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{id}` is no name of a capture")));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self { id: id.to_owned(), fd: open(&root.join(id), flags, Mode::empty())? })
    }

    /// Opens a regular file in it.
    ///
    /// # Errors
    /// What the file system says; a link is not followed, and what is no file is refused.
    pub fn file(&self, name: &str) -> io::Result<File> {
        // A pipe of this name must not hold who opens it.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = File::from(openat(&self.fd, name, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a file")));
        }
        Ok(file)
    }

    /// Opens a directory in it.
    ///
    /// # Errors
    /// What the file system says; a link is not followed.
    fn within(&self, name: &str) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self { id: self.id.clone(), fd: openat(&self.fd, name, flags, Mode::empty())? })
    }

    /// Reads what is known of the capture.
    ///
    /// # Errors
    /// What the file system says, and where it makes no sense.
    pub fn meta(&self) -> io::Result<Meta> {
        let mut text = Vec::new();
        self.file(META)?.take(MOST_META).read_to_end(&mut text)?;
        let meta: Meta = serde_json::from_slice(&text)?;
        if meta.format > FORMAT {
            let what = format!("it is of format {}, and this program reads up to {FORMAT}", meta.format);
            return Err(io::Error::other(what));
        }
        Ok(Meta { held: self.hold().is_some(), ..meta })
    }

    /// Returns who holds it.
    pub fn hold(&self) -> Option<Hold> {
        let mut text = Vec::new();
        self.file(HOLD).ok()?.take(MOST_META).read_to_end(&mut text).ok()?;
        // What cannot be read holds all the same.
        Some(serde_json::from_slice(&text).unwrap_or_default())
    }
}

/// Who keeps a capture from being removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// Who.
    pub by: String,
    /// Why; may be empty.
    pub reason: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: i64,
}

/// Puts a capture on legal hold: it is not removed before it is released.
///
/// # Errors
/// What the file system says.
pub fn hold(root: &Path, id: &str, hold: &Hold) -> io::Result<()> {
    Opened::new(root, id)?;
    replace(&root.join(id).join(HOLD), &serde_json::to_vec(hold)?)
}

/// Takes a capture off legal hold; returns whether it was.
///
/// # Errors
/// What the file system says.
pub fn release(root: &Path, id: &str) -> io::Result<bool> {
    Opened::new(root, id)?;
    match fs::remove_file(root.join(id).join(HOLD)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// A capture in the directory.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Why it is not removed, where it is not.
    pub hold: Option<Hold>,
    /// When it was changed last, milliseconds since 1970.
    pub changed_ms: i64,
    /// What is known of it; absent where that cannot be read.
    pub meta: Option<Meta>,
    /// Why.
    pub problem: Option<String>,
}

/// Returns the captures, oldest first.
///
/// # Errors
/// What the file system says; that there is no directory yet is none.
pub fn list(root: &Path) -> io::Result<Vec<Entry>> {
    let dirs = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        dirs => dirs?,
    };
    let names = dirs.flatten().filter_map(|dir| dir.file_name().into_string().ok()).filter(|name| is_name(name));
    let mut entries: Vec<Entry> = names.filter_map(|id| entry(root, &id).ok()).collect();
    let begun = |entry: &Entry| entry.meta.as_ref().map_or(entry.changed_ms, |meta| meta.begun_ms);
    entries.sort_by(|a, b| (begun(a), &a.id).cmp(&(begun(b), &b.id)));
    Ok(entries)
}

fn entry(root: &Path, id: &str) -> io::Result<Entry> {
    let opened = Opened::new(root, id)?;
    let (mut bytes, mut changed_ms) = (0, 0);
    let dir = root.join(id);
    let lives = lives::list(&dir).into_iter().filter_map(|life| fs::read_dir(dir.join(lives::name(life))).ok());
    for file in fs::read_dir(&dir)?.chain(lives.flatten()).flatten() {
        // Of the entry itself, whatever it points at.
        let Ok(facts) = file.metadata() else { continue };
        bytes += facts.blocks() * 512;
        changed_ms = changed_ms.max(facts.mtime().saturating_mul(1000));
    }
    let (meta, problem) = match opened.meta() {
        Ok(meta) => (Some(meta), None),
        Err(error) => (None, Some(format!("{META} cannot be used ({error})"))),
    };
    Ok(Entry { id: id.to_owned(), bytes, hold: opened.hold(), changed_ms, meta, problem })
}

/// Finds the capture that an operator names: by its id, a part that no other begins or ends with, or
/// `last`.
///
/// # Errors
/// In words, where there is none or more than one.
pub fn find(root: &Path, name: &str) -> Result<Opened, String> {
    if name != "last" && !is_name(name) {
        return Err(format!("`{}` is no name of a capture: `ftagent capture list` has them", name.escape_debug()));
    }
    let entries = list(root).map_err(|error| format!("{} cannot be read: {error}", root.display()))?;
    let ids = || entries.iter().map(|entry| entry.id.as_str());
    let matching: Vec<&str> = match name {
        "last" => ids().next_back().into_iter().collect(),
        _ if ids().any(|id| id == name) => vec![name],
        _ => ids().filter(|id| id.starts_with(name) || id.ends_with(name)).collect(),
    };
    match matching.as_slice() {
        [id] => Opened::new(root, id).map_err(|error| format!("capture {id} cannot be opened: {error}")),
        [] => Err(format!("there is no capture `{name}`: `ftagent capture list` has those there are")),
        several => Err(format!("`{name}` may be {}: name one of them", several.join(" or "))),
    }
}

/// Finishes what an earlier life of the daemon left open, and returns the captures that it was; `busy` are those of
/// this life.
pub fn finish_interrupted(root: &Path, busy: &[&str]) -> Vec<String> {
    let entries = list(root).unwrap_or_default();
    let left = |entry: &Entry| entry.meta.as_ref().is_none_or(|meta| meta.status == Status::Open);
    let open = entries.into_iter().filter(|entry| left(entry) && !busy.contains(&entry.id.as_str()));
    open.filter_map(|entry| finish(root, entry).ok().flatten()).collect()
}

fn finish(root: &Path, entry: Entry) -> io::Result<Option<String>> {
    let Entry { id, changed_ms, meta, .. } = entry;
    let opened = Opened::new(root, &id)?;
    if meta.is_none() && opened.file(META).is_ok() {
        // It is another version's, or damaged: not ours to write over.
        return Ok(None);
    }
    let mut meta = settle(root, &opened, meta, changed_ms)?;
    meta.files = facts(&root.join(&id), &opened, &[], &[]);
    meta.save(&root.join(&id))?;
    Ok(Some(id))
}

/// Describes a capture whose end this life could not write, and gave up; `known` is what it counted, and `was_made`
/// whether it wrote anything of it, so that what an earlier life counted is among that. What never reached the file is
/// declared as lost.
///
/// # Errors
/// What the file system says; it may be tried again.
pub fn finish_given_up(root: &Path, known: &Meta, was_made: bool) -> io::Result<()> {
    let opened = Opened::new(root, &known.id)?;
    let mut meta = Meta { format: FORMAT, status: Status::Closed, ..known.clone() };
    if !was_made && let Some(earlier) = earlier(root, &known.id)? {
        meta.add(&earlier);
    }
    let packets = trim(root, &opened)?.map_or(0, |(packets, _)| packets);
    let lost = meta.written.saturating_sub(packets);
    meta.lost.disk += lost;
    meta.written = packets;
    meta.seen = meta.seen.max(packets);
    meta.notes.push(format!(
        "its end could not be written, and was given up: {lost} packets are lost with it, and still in what was counted \
         by class, verdict, reason and interface"
    ));
    meta.files = facts(&root.join(&known.id), &opened, &[], &[]);
    meta.save(&root.join(&known.id))
}

/// Returns what an earlier life knew of a capture with which this one goes on. Nothing of it need be written: where
/// the disk was full at the start, it is still as that life left it.
///
/// # Errors
/// Where the disk does not let it be known yet: it must not be written over. What makes no sense is not known.
pub fn earlier(root: &Path, id: &str) -> io::Result<Option<Meta>> {
    let known = || {
        let opened = Opened::new(root, id)?;
        let meta = opened.meta()?;
        if meta.status != Status::Open {
            return Ok(meta);
        }
        settle(root, &opened, Some(meta), entry(root, id)?.changed_ms)
    };
    match known() {
        Err(error) if may_pass(&error) => Err(error),
        known => Ok(known.ok()),
    }
}

/// Returns whether the system is to blame, and not what is there: nothing, a link, or what makes no sense.
fn may_pass(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| !matches!(Errno::from_raw(code), Errno::ENOENT | Errno::ELOOP))
}

/// Takes half a frame off the end of a capture that was cut short, and counts what is in it.
fn settle(root: &Path, opened: &Opened, meta: Option<Meta>, changed_ms: i64) -> io::Result<Meta> {
    let (id, unknown) = (&opened.id, meta.is_none());
    let mut meta = meta.unwrap_or_else(|| Meta { begun_ms: changed_ms, id: id.clone(), ..Meta::default() });
    meta.format = FORMAT;
    meta.status = Status::Interrupted;
    meta.ended_ms = Some(changed_ms);
    if let Some((packets, torn)) = trim(root, opened)? {
        if torn {
            meta.notes.push("the daemon ended in the middle of a frame, which was taken off".to_owned());
        }
        let counted = if unknown { "what was counted is not known" } else { "what was counted is a few seconds older" };
        meta.notes.push(format!("the daemon ended while it was open: {packets} packets are in the file, {counted}"));
        meta.written = packets;
        meta.seen = meta.seen.max(packets);
    }
    Ok(meta)
}

/// Takes half a frame off the end of the file; returns how many packets are in it, and whether there was one. `None`:
/// there is no such file.
fn trim(root: &Path, opened: &Opened) -> io::Result<Option<(u64, bool)>> {
    let file = match opened.file(CAPTURE) {
        Err(error) if may_pass(&error) => return Err(error),
        Err(_) => return Ok(None),
        Ok(file) => file,
    };
    let mut packets = 0;
    let count = |blocks: &[u8]| {
        packets += pcapng::blocks(blocks).filter(|block| block.kind == pcapng::kind::PACKET).count() as u64;
    };
    let found = survey(io::BufReader::new(file), count)?;
    if found.torn {
        File::options().write(true).open(root.join(&opened.id).join(CAPTURE))?.set_len(found.good)?;
    }
    Ok(Some((packets, found.torn)))
}

/// Returns what is known of the files of a capture but its description and those of `but`, earlier lives' included;
/// of these, `known` need not be read again.
pub fn facts(dir: &Path, opened: &Opened, but: &[&str], known: &[FileFacts]) -> Vec<FileFacts> {
    let mut all: Vec<FileFacts> = names(dir, but).into_iter().filter_map(|name| facts_of(opened, &name)).collect();
    for life in lives::list(dir).into_iter().map(lives::name) {
        let Ok(within) = opened.within(&life) else { continue };
        for name in names(&dir.join(&life), &[]) {
            let full = format!("{life}/{name}");
            let facts = known.iter().find(|known| known.name == full).cloned().or_else(|| facts_of(&within, &name));
            all.extend(facts.map(|facts| FileFacts { name: full, ..facts }));
        }
    }
    all
}

fn names(dir: &Path, but: &[&str]) -> Vec<String> {
    let names =
        fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|file| file.file_name().into_string().ok());
    let ours = |name: &String| ![META, HOLD].contains(&name.as_str()) && !name.starts_with('.');
    let mut names: Vec<String> = names.filter(|name| ours(name) && !but.contains(&name.as_str())).collect();
    names.sort_unstable();
    names
}

fn facts_of(opened: &Opened, name: &str) -> Option<FileFacts> {
    let (bytes, sha256) = digest(io::BufReader::new(opened.file(name).ok()?)).ok()?;
    Some(FileFacts { name: name.to_owned(), bytes, sha256 })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("captures");
        make(&root, "20260801T120000Z-1").unwrap();
        fs::create_dir(dir.path().join("secret")).unwrap();
        fs::write(dir.path().join("secret/meta.json"), "{}").unwrap();
        symlink(dir.path().join("secret"), root.join("link")).unwrap();
        for bad in ["", ".", "..", "../secret", "a/b", "/etc", "a\0b", "ä", "link", &"x".repeat(65)] {
            assert!(find(&root, bad).is_err(), "{bad:?}");
            assert!(Opened::new(&root, bad).is_err() && hold(&root, bad, &Hold::default()).is_err(), "{bad:?}");
        }
        assert!(make(&root, "link").is_err(), "a link is no directory of ours");
        for good in ["last", "20260801T120000Z-1", "20260801", "-1"] {
            assert_eq!(find(&root, good).unwrap().id, "20260801T120000Z-1");
        }
        make(&root, "20260801T120000Z-2").unwrap();
        assert!(find(&root, "20260801").unwrap_err().contains("20260801T120000Z-1 or 20260801T120000Z-2"));
        assert!(find(&root, "77").unwrap_err().contains("capture list"));
        let opened = find(&root, "20260801T120000Z-1").unwrap();
        symlink("/etc/passwd", root.join("20260801T120000Z-1").join(CAPTURE)).unwrap();
        assert!(opened.file(CAPTURE).is_err(), "nor is a file one that is a link");
        nix::unistd::mkfifo(&root.join("20260801T120000Z-1/pipe"), Mode::S_IRUSR).unwrap();
        assert!(opened.file("pipe").is_err());
    }

    #[test]
    fn what_was_open_is_finished_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("captures");
        for (id, status) in [("a", Status::Open), ("b", Status::Closed)] {
            let made = make(&root, id).unwrap();
            Meta { format: FORMAT, id: id.to_owned(), status, ..Meta::default() }.save(&made).unwrap();
        }
        let nothing_known = make(&root, "c").unwrap();
        fs::write(nothing_known.join(CAPTURE), "no frame").unwrap();
        let newer = make(&root, "d").unwrap();
        Meta { format: FORMAT + 1, ..Meta::default() }.save(&newer).unwrap();
        let known = earlier(&root, "a").unwrap().unwrap();
        assert_eq!((known.status, known.id.as_str()), (Status::Interrupted, "a"), "before that is written");
        assert_eq!(Opened::new(&root, "a").unwrap().meta().unwrap().status, Status::Open);
        let counted = Meta { id: "g".to_owned(), seen: 9, written: 7, ..Meta::default() };
        let made = make(&root, "g").unwrap();
        Meta { format: FORMAT, begun_ms: 3, seen: 5, ..counted.clone() }.save(&made).unwrap();
        finish_given_up(&root, &counted, false).unwrap();
        let told = Opened::new(&root, "g").unwrap().meta().unwrap();
        assert_eq!((told.status, told.begun_ms, told.seen), (Status::Closed, 3, 14), "both lives are in it");
        assert_eq!((told.written, told.lost.disk), (0, 14), "there is no file");
        assert_eq!(finish_interrupted(&root, &["a", "c"]), [""; 0], "nothing of this life");
        assert_eq!(finish_interrupted(&root, &[]), ["a", "c"]);
        assert_eq!(finish_interrupted(&root, &[]), [""; 0], "once");
        let is_known = |id: &str| earlier(&root, id).unwrap().is_some();
        assert_eq!(["a", "d", "e"].map(is_known), [true, false, false]);
        let status = |id: &str| Opened::new(&root, id).unwrap().meta().map(|meta| meta.status).ok();
        assert_eq!(
            ["a", "b", "c", "d"].map(status),
            [Some(Status::Interrupted), Some(Status::Closed), Some(Status::Interrupted), None]
        );
        assert_eq!(fs::metadata(nothing_known.join(CAPTURE)).unwrap().len(), 0, "it is readable");
        assert_eq!(Opened::new(&root, "c").unwrap().meta().unwrap().files[0].name, CAPTURE);
        let hold_by = Hold { by: "ann(1)".to_owned(), ..Hold::default() };
        hold(&root, "a", &hold_by).unwrap();
        assert!(list(&root).unwrap().iter().any(|entry| entry.id == "a" && entry.hold.as_ref() == Some(&hold_by)));
        assert!(release(&root, "a").unwrap() && !release(&root, "a").unwrap());
    }
}
