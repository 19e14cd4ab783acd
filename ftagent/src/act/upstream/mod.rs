//! Planes beyond this host: what they have in common.
//!
//! A [`Driver`] speaks to one BGP daemon or provider. It is given everything that is wanted and makes it so;
//! it is asked again and again, so a daemon that lost its routes gets them back, and what an earlier life of
//! this agent left is found and taken back. Each runs on a thread of its own ([`Plane`]): a provider that
//! hangs holds up nothing.

mod plane;

use std::time::Duration;

use serde_json::Value;

use crate::decide::ladder::{Report, Step, What};

pub use plane::{Listener, Plane, refusals};

/// An act that changes something beyond this host, for the audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// `announce`, `withdraw`, `divert`, `restore`, …
    pub verb: &'static str,
    /// The plane.
    pub plane: String,
    /// What it is about, as text: a rule, a prefix.
    pub subject: String,
    /// The incident; empty where there is none.
    pub incident: String,
    /// Why.
    pub reason: String,
    /// How it was before; `null` where nothing was.
    pub before: Value,
    /// How it is to be.
    pub after: Value,
}

/// Who writes down what is done upstream.
pub trait Witness: Send + Sync {
    /// Called before something is asked for; it is on disk when this returns.
    ///
    /// # Errors
    /// Why it must not be done: the log cannot be written, and the operator wants no act without it.
    fn before(&self, act: &Act) -> Result<(), String>;
    /// Called before something is taken back. One who would wait for a disk in [`Self::before`] must not do so here:
    /// whatever hangs, what hits customers goes at once.
    fn before_back(&self, act: &Act) {
        // What is taken back is taken back, written down or not.
        let _taken_back: Result<(), String> = self.before(act);
    }
    /// Called after it, with why it failed where it did.
    fn after(&self, act: &Act, result: Result<(), &str>);
}

/// What speaks to one BGP daemon or provider. It may block, but gives up by itself after some seconds.
pub trait Driver: Send {
    /// Returns the plane's name in the configuration.
    fn plane(&self) -> &str;

    /// Returns whether the plane can do this at all; it is not asked of anybody.
    ///
    /// # Errors
    /// Why not, and the remedy.
    fn takes(&self, what: &What) -> Result<(), String>;

    /// Makes present what is wanted and nothing else of ours, and says what is there now. Called at every
    /// change of what is wanted, and every [`Self::interval`].
    fn reconcile(&mut self, wanted: &[Step], witness: &dyn Witness) -> Report;

    /// Returns what the operator should know of what an earlier life left. It is told once, and no trouble of the plane.
    fn found(&self) -> Option<&str> {
        None
    }

    /// Returns how often to look while nothing changes.
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}
