//! The append-only flag of files (`chattr +a`, ioctl_iflags(2)): what carries it can grow, and cannot be
//! changed, cut, renamed or removed, by root neither, until somebody with `CAP_LINUX_IMMUTABLE` clears
//! the flag.

use std::{fs::File, io, path::Path};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Sets or clears the flag.
///
/// # Errors
/// Where the file system knows no such flag, or the calling thread lacks `CAP_LINUX_IMMUTABLE`.
pub(super) fn set_append_only(file: &File, on: bool) -> io::Result<()> {
    let flags = ioctl_getflags(file)?;
    let wanted = if on { flags | IFlags::APPEND } else { flags - IFlags::APPEND };
    if wanted != flags {
        ioctl_setflags(file, wanted)?;
    }
    Ok(())
}

/// Clears the flag of a file, where it has one: before it is cut, renamed or removed.
///
/// # Errors
/// Where it has one and it cannot be cleared.
pub fn release(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::APPEND) => Ok(ioctl_setflags(&file, flags - IFlags::APPEND)?),
        // A file system without flags.
        _ => Ok(()),
    }
}
