//! What outlives the daemon: the baseline's checkpoint, the incidents, and the rules that it made.
//! Trouble with the disk never stops anything: it is said, and tried again.

pub mod audit;
pub mod baseline;
pub mod capsule;
pub mod incidents;
pub mod ioc;
pub mod ladder;
pub mod recorder;
pub mod remote;
pub mod routes;
pub mod rules;
pub mod tape;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::errno::Errno;

use crate::act::store::unix;

/// Files of one name that are kept aside.
const KEPT_ASIDE: usize = 5;

/// What is written to find out whether a disk takes anything: a block.
const PROBE: [u8; 4096] = [0; 4096];

/// Returns whether a disk is to blame that is full, read-only or broken: it may come back.
pub fn is_of_disk(error: &io::Error) -> bool {
    let found = error.raw_os_error().map(Errno::from_raw);
    matches!(found, Some(Errno::EROFS | Errno::ENOSPC | Errno::EDQUOT | Errno::EIO))
}

/// Finds out whether the state directory can be written, by writing; makes it where it is not there.
///
/// # Errors
/// What the file system says.
pub fn probe(state: &Path) -> io::Result<()> {
    fs::create_dir_all(state)?;
    let mut file = tempfile::Builder::new().prefix(".probe-").tempfile_in(state)?;
    file.write_all(&PROBE)
}

/// Replaces a file at once: whoever reads it, after a crash too, finds the old one or the new one.
///
/// # Errors
/// What the file system says; the old file is in place then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The name is in the directory, and that is a file of its own to the disk.
    File::open(dir)?.sync_all()
}

/// Renames a file that cannot be used to `<name>.bad-<seconds since 1970>`, for people to look at;
/// the oldest of more than five go. Returns its new name.
///
/// # Errors
/// What the file system says.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bad = format!("{name}.bad-");
    let age = |entry: fs::DirEntry| {
        let at: u64 = entry.file_name().to_str()?.strip_prefix(&bad)?.parse().ok()?;
        Some((at, entry.path()))
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut others: Vec<(u64, PathBuf)> = fs::read_dir(dir)?.flatten().filter_map(age).collect();
    others.sort_unstable();
    // Two in one second, or a clock that went back: the order of names stays that of events.
    let least = others.last().map_or(0, |(at, _)| at + 1);
    let aside = path.with_file_name(format!("{bad}{}", unix(SystemTime::now()).max(least)));
    fs::rename(path, &aside)?;
    for (_, old) in others.iter().rev().skip(KEPT_ASIDE - 1) {
        fs::remove_file(old)?;
    }
    Ok(aside)
}

/// Says that a file cannot be used, what became of it, and what to do.
fn damaged(path: &Path, problem: &str, consequence: &str) -> String {
    let path_shown = path.display();
    match set_aside(path) {
        Ok(aside) => format!("{path_shown} {problem}; it is kept as {} and {consequence}", aside.display()),
        Err(error) => format!("{path_shown} {problem}, and could not be set aside ({error}); {consequence}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_five_bad_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("baseline.json");
        fs::write(dir.path().join("baseline.json.bad-notes"), "the operator's own").unwrap();
        let mut asides = Vec::new();
        for i in 0..8 {
            replace(&path, format!("{i}").as_bytes()).unwrap();
            asides.push(set_aside(&path).unwrap());
        }
        let there: Vec<bool> = asides.iter().map(|aside| aside.exists()).collect();
        assert_eq!(there, [false, false, false, true, true, true, true, true]);
        assert_eq!(fs::read_to_string(&asides[7]).unwrap(), "7");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6, "and no temporary files");
    }
}
