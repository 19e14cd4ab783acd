//! The files of the log: `audit-<number of the first line>.jsonl`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::AuditError;

/// The file of all checkpoints.
pub const CHECKPOINTS: &str = "checkpoints.jsonl";

/// How often, and how long in all, a lock that somebody holds is asked for again.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Returns the path of the segment that begins with a line.
pub(super) fn path_of(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("audit-{first:012}.jsonl"))
}

/// Returns the number of the line that a segment begins with, as its name says.
pub(super) fn first_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// Returns the segments of a directory, in their order.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let entries = fs::read_dir(dir).map_err(|source| AuditError::io("reading", dir, source))?;
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|entry| Some((first_of(&entry.path())?, entry.path()))).collect();
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Makes the directory, for its owner alone.
pub(super) fn make_dir(dir: &Path) -> Result<(), AuditError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| AuditError::io("making", dir, source))?;
    let wide = fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o077 != 0);
    if wide {
        let narrow = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        narrow.map_err(|source| AuditError::io("taking away others' access to", dir, source))?;
    }
    Ok(())
}

/// Makes sure that nobody else writes.
pub(super) fn lock(dir: &Path) -> Result<Flock<File>, AuditError> {
    let path = dir.join("lock");
    let file = File::options().create(true).append(true).mode(0o600).open(&path);
    let mut file = file.map_err(|source| AuditError::io("opening", &path, source))?;
    for _ in 0..TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, nix::errno::Errno::EWOULDBLOCK)) => file = same,
            Err((_, errno)) => return Err(AuditError::io("locking", &path, errno.into())),
        }
        std::thread::sleep(PAUSE);
    }
    Err(AuditError::Busy(dir.to_owned()))
}

/// Opens a file for appending, made with 0600 where there is none.
pub(super) fn open_to_append(path: &Path) -> Result<File, AuditError> {
    let file = File::options().create(true).append(true).mode(0o600).open(path);
    file.map_err(|source| AuditError::io("opening", path, source))
}

/// Brings names that were made or removed to the disk.
pub(super) fn sync_dir(dir: &Path) -> Result<(), AuditError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| AuditError::io("writing", dir, source))
}

/// Writes as much of some bytes as the disk takes, and says from where on it did not.
pub(super) fn write_some(file: &File, bytes: &[u8], done: &mut usize) -> io::Result<()> {
    while let Some(rest) = bytes.get(*done..).filter(|rest| !rest.is_empty()) {
        match nix::unistd::write(file, rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *done += written,
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
