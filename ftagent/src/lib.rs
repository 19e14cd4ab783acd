//! ftagent, a DDoS defence agent for Linux edge nodes.
//!
//! The modules read as the pipeline that a packet's fact travels; a module knows the ones before
//! it, never the ones after. `ARCHITECTURE.md` has the map and the invariants.
#![deny(unsafe_code)]

pub mod act;
pub mod agent;
pub mod alert;
pub mod bpf;
pub mod cli;
pub mod config;
pub mod decide;
pub mod doctor;
#[cfg(test)]
mod documents;
pub mod feeds;
mod privileges;
pub mod record;
pub mod replay;
pub mod rule;
pub mod sense;
pub mod serve;
#[cfg(test)]
mod skipped;
mod sys;

/// Returns an error with all its causes, `: ` between them. aya hides the errno in a cause.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        // Transparent wrappers repeat their cause.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}
