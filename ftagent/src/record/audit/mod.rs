//! The audit log: who did what to what, when, why, and what came of it. `docs/AUDIT.md` has the form and
//! what it proves.
//!
//! Lines are chained by hashes, and a key signs how far the chain has come; what was changed, taken
//! out, put in or cut off afterwards is found by whoever has the public key and a later checkpoint.
//! [`AuditLog`] is the way in: operators' acts are on disk before they are done, the kernel's never wait.

mod chain;
mod checkpoint;
pub mod diff;
mod entry;
mod flags;
mod key;
mod line;
mod offline;
pub mod read;
mod recover;
mod segments;
#[cfg(test)]
mod tests;
mod verify;
mod walk;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

pub use checkpoint::{Checkpoint, Statement};
pub use entry::{Actor, ActorKind, Entry, Outcome};
pub use flags::release;
pub use key::{PUBLIC, key_id, read_public};
pub use line::hex;
pub use offline::{OfflineLog, append_offline};
pub use segments::CHECKPOINTS;
pub use verify::{Asked, Report, verify};
pub use walk::Fault;
pub use writer::{AuditLog, AuditMetrics, AuditStatus};

/// Why the log cannot be read or written.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The file system.
    #[error("{what} {}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else writes.
    #[error("another ftagent writes the audit log in {}: ask it, or stop it first", .0.display())]
    Busy(PathBuf),
    /// A file holds no key.
    #[error("{} is no Ed25519 key in PEM: {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl AuditError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// Returns where the log is.
pub fn dir(state: &Path) -> PathBuf {
    state.join("audit")
}
