//! What a log is worth: everything that is done to it afterwards is found, and what goes wrong while it is
//! written is said in it.

mod recovery;
mod tamper;
mod writing;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{
    chain::Chain,
    entry::{Actor, Entry, Stamped},
    *,
};
use crate::config::{Audit, OnAuditFailure};

/// A checkpoint every five lines, and nothing that depends on time.
fn rules() -> Audit {
    Audit {
        enabled: true,
        checkpoint_lines: 5,
        checkpoint_interval: Duration::from_secs(86_400),
        segment_bytes: 1 << 20,
        retention: Duration::from_secs(365 * 86_400),
        on_failure: OnAuditFailure::Act,
        append_only: false,
    }
}

fn entry(number: usize) -> Entry {
    let who = if number.is_multiple_of(2) { Actor::DAEMON } else { Actor::operator(1000, "ann") };
    Entry::new("block.add", format!("192.0.2.{number}"))
        .by(who)
        .because("\"quoted\", with ünïcode and \u{1b}[2J")
        .was(json!({ "ends": null }))
        .now(json!({ "for_s": 600 }))
}

fn add(chain: &mut Chain, entries: usize) {
    (0..entries).for_each(|number| chain.append(&Stamped::new(entry(number), number.is_multiple_of(3))));
    chain.flush().unwrap();
}

/// Writes a log with so many entries that ends with a checkpoint; returns its directory.
fn log(entries: usize) -> (tempfile::TempDir, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let dir = dir(state.path());
    let (mut chain, notes) = Chain::open(&dir, rules()).unwrap();
    assert!(notes.is_empty());
    add(&mut chain, entries);
    chain.checkpoint();
    chain.flush().unwrap();
    (state, dir)
}

fn judge(dir: &Path) -> Report {
    let key = read_public(&dir.join(PUBLIC)).unwrap();
    verify(&Asked { paths: vec![dir.to_owned()], checkpoints: Vec::new() }, &key).unwrap()
}

fn segment(dir: &Path) -> PathBuf {
    segments::list(dir).unwrap().pop().unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

fn actions(dir: &Path) -> Vec<String> {
    let mut reader = read::Reader::new(dir, read::Wanted::default());
    reader.next(usize::MAX).unwrap().into_iter().map(|(_, line)| line.action).collect()
}
