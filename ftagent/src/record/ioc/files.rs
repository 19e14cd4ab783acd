//! The files of patterns: read, and read again when they change. What is broken leaves in force what was.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    library::{Library, merge},
    pattern::Origin,
    read::{self, MOST_BYTES, PatternFile, Problem},
};

/// Files at most.
const MOST_FILES: usize = 200;

/// What tells that a file changed: its time of change, its length and its number.
type Stamp = (i64, i64, u64, u64);

/// The files, watched: whoever calls [`Self::look`] every few seconds has the latest library.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    stamps: BTreeMap<PathBuf, Stamp>,
    library: Arc<Library>,
}

/// What came of looking.
#[derive(Debug)]
pub enum Looked {
    /// Nothing changed.
    Same,
    /// There is another library.
    New(Arc<Library>),
    /// Something changed and cannot be used; the library before is in force.
    Broken(Vec<Problem>),
}

impl Watched {
    /// Reads the files and directories for the first time. With what is broken, the shipped patterns and the
    /// files that are not broken are in force.
    pub fn open(paths: &[PathBuf]) -> (Self, Vec<Problem>) {
        let (found, stamps, mut problems) = read_all(paths);
        let library = Arc::new(Library::of(merge(found, &mut problems)));
        (Self { paths: paths.to_vec(), stamps, library }, problems)
    }

    /// Returns the library in force.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// Looks whether a file changed, came or went, and reads them all again if so.
    pub fn look(&mut self) -> Looked {
        if stamps(&self.paths) == self.stamps {
            return Looked::Same;
        }
        let (found, stamps, mut problems) = read_all(&self.paths);
        self.stamps = stamps;
        let patterns = merge(found, &mut problems);
        if !problems.is_empty() {
            return Looked::Broken(problems);
        }
        self.library = Arc::new(Library::of(patterns));
        Looked::New(Arc::clone(&self.library))
    }
}

/// Reads a file of patterns and says what is wrong with it, as [`read::read`] does.
///
/// # Errors
/// Every problem; where the file cannot be read, that.
pub fn check(path: &Path) -> Result<PatternFile, Vec<Problem>> {
    let name = path.display().to_string();
    let text = text_of(path).map_err(|problem| vec![problem])?;
    let content = read::read(&text, &name, &Origin::File(path.to_owned()))?;
    let mut problems = Vec::new();
    merge(vec![(name, text, content.clone())], &mut problems);
    if problems.is_empty() { Ok(content) } else { Err(problems) }
}

type Content = Vec<(String, String, PatternFile)>;

fn read_all(paths: &[PathBuf]) -> (Content, BTreeMap<PathBuf, Stamp>, Vec<Problem>) {
    // Stamped first: what changes while it is read is read again.
    let stamps = stamps(paths);
    let (mut content, mut problems) = (Content::new(), Vec::new());
    for path in stamps.keys().take(MOST_FILES) {
        let name = path.display().to_string();
        match text_of(path) {
            Ok(text) => match read::read(&text, &name, &Origin::File(path.clone())) {
                Ok(found) => content.push((name, text, found)),
                Err(found) => problems.extend(found),
            },
            Err(problem) => problems.push(problem),
        }
    }
    if stamps.len() > MOST_FILES {
        problems.push(unreadable(Path::new("the library"), &format!("has {} files; merge them", stamps.len())));
    }
    (content, stamps, problems)
}

/// Finds the files: those that are named, and those that end in `.toml` of directories, in order of their
/// names. What is not there has nothing to say.
fn stamps(paths: &[PathBuf]) -> BTreeMap<PathBuf, Stamp> {
    let mut found = BTreeMap::new();
    for path in paths {
        let Ok(meta) = fs::metadata(path) else { continue };
        if !meta.is_dir() {
            found.insert(path.clone(), stamp(&meta));
            continue;
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let named = path.extension().is_some_and(|extension| extension == "toml");
            // Editors leave hidden files of the same ending.
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            if let Ok(meta) = fs::metadata(&path)
                && meta.is_file()
                && named
                && !hidden
            {
                found.insert(path, stamp(&meta));
            }
        }
    }
    found
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    (meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino())
}

fn text_of(path: &Path) -> Result<String, Problem> {
    let told = |error: io::Error| unreadable(path, &format!("cannot be read ({error})"));
    let meta = fs::metadata(path).map_err(told)?;
    if !meta.is_file() {
        return Err(unreadable(path, "is no file"));
    }
    if meta.len() > MOST_BYTES {
        return Err(unreadable(path, "is longer than 1 MiB"));
    }
    let bytes = fs::read(path).map_err(told)?;
    String::from_utf8(bytes).map_err(|error| {
        let text = String::from_utf8_lossy(error.as_bytes());
        let (line, column) = read::place(&text, error.utf8_error().valid_up_to());
        Problem { line, column, ..unreadable(path, "is not UTF-8 here") }
    })
}

fn unreadable(path: &Path, what: &str) -> Problem {
    let remedy = "mend or remove it, or take it out of `indicators.paths`".to_owned();
    Problem { file: path.display().to_string(), line: 1, column: 1, what: what.to_owned(), remedy }
}
