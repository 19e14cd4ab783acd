//! What tests of this crate leave out is in the list of skipped checks: as `ftagent_tests::sandbox::skip`, which depends
//! on this crate.

use std::{fs, io::Write as _};

/// Notes that a test, or a part of one, is skipped: prints what and why, and adds a line to the file that
/// `FTAGENT_SKIPPED` names. `cargo xtask test` sets it, and fails where something may not be skipped.
pub(crate) fn skip(what: &str, why: &str) {
    eprintln!("skipped: {what}: {why}");
    let Some(path) = std::env::var_os("FTAGENT_SKIPPED") else { return };
    // One write: other threads add their lines at the same time.
    let line = format!("{what}: {why}\n");
    let added = fs::File::options().create(true).append(true).open(&path);
    if let Err(error) = added.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("{}: {error}", path.display());
    }
}
