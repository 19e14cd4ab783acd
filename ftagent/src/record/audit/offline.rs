//! The log where no daemon runs: for commands of root that act by themselves.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{
    AuditError,
    chain::Chain,
    dir,
    entry::{Entry, Stamped},
};
use crate::config::Audit;

/// The log, held by one command. What an earlier life left is verified once, when it is opened.
#[derive(Debug)]
pub struct OfflineLog(Mutex<Chain>);

impl OfflineLog {
    /// Opens the log; `None` where nothing is to be logged.
    ///
    /// # Errors
    /// Where a daemon runs, and what the file system says.
    pub fn open(state: &Path, rules: &Audit) -> Result<Option<Self>, AuditError> {
        if !rules.enabled {
            return Ok(None);
        }
        let (mut chain, notes) = Chain::open(&dir(state), rules.clone())?;
        notes.into_iter().for_each(|note| chain.append(&Stamped::new(note, false)));
        Ok(Some(Self(Mutex::new(chain))))
    }

    /// Adds an entry; it is on disk when this returns.
    ///
    /// # Errors
    /// What the file system says; it is tried again with the next one.
    pub fn add(&self, entry: Entry) -> Result<(), AuditError> {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chain.append(&Stamped::new(entry, false));
        chain.flush()
    }

    /// Signs what was added; it is on disk when this returns.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sign(&self) -> Result<(), AuditError> {
        let mut chain = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chain.checkpoint();
        chain.flush()
    }
}

/// Adds entries. They are signed and on disk when this returns.
///
/// # Errors
/// Where a daemon runs, and what the file system says.
pub fn append_offline(state: &Path, rules: &Audit, entries: Vec<Entry>) -> Result<(), AuditError> {
    let Some(log) = OfflineLog::open(state, rules)? else { return Ok(()) };
    entries.into_iter().try_for_each(|entry| log.add(entry))?;
    log.sign()
}
