//! The audit log: how fast it is written, and how fast it is verified.

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use ftagent::{
    config::Config,
    record::audit::{self, Asked, AuditLog, Entry, PUBLIC, read_public, verify},
};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::report::Row;

/// Entries that nobody waits for, in bursts that fit the queue.
const BURSTS: usize = 128;
const BURST: usize = 4000;
/// Callers who each wait for the disk, and how often.
const CALLERS: usize = 64;
const WAITS: usize = 500;
/// The most that an entry may cost when it is written, microseconds: 20 000 a second.
const WRITE_US: f64 = 50.0;
/// The most that an entry may cost when it is verified, microseconds: 500 000 a second.
const VERIFY_US: f64 = 2.0;

/// Measures a log on the disk of the temporary directory.
pub fn rows() -> Result<Vec<Row>> {
    let state = tempfile::tempdir().context("making a folder for the log")?;
    let rules = ftagent::config::Audit { append_only: false, ..Config::default().audit };
    let log = AuditLog::start(state.path(), &rules, || {})?;
    log.before(entry(0)).map_err(anyhow::Error::msg)?;
    let mut rows = Vec::new();
    let mut written = |case: &str, entries: usize, us: f64| {
        rows.push(Row::alone(format!("{case}, an entry"), us / entries as f64, "us", Some(WRITE_US)));
        rows.push(Row::alone(case, entries as f64 / us * 1e6, "entries/s", None));
    };
    let begun = Instant::now();
    for _ in 0..BURSTS {
        (1..BURST).for_each(|number| log.after(entry(number)));
        log.before(entry(0)).map_err(anyhow::Error::msg)?;
    }
    written("written, nobody waits", BURSTS * BURST, begun.elapsed().as_secs_f64() * 1e6);
    let begun = Instant::now();
    let wait = || (0..WAITS).try_for_each(|number| log.before(entry(number)));
    let waited: Result<(), String> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(wait)).collect();
        callers.into_iter().try_for_each(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".to_owned())))
    });
    waited.map_err(anyhow::Error::msg)?;
    written("written, 64 wait each for the disk", CALLERS * WAITS, begun.elapsed().as_secs_f64() * 1e6);
    log.stop();
    let metrics = log.metrics().context("there is no log")?;
    ensure!(metrics.lost == 0 && metrics.failures == 0, "entries were lost: {metrics:?}");

    let dir = audit::dir(state.path());
    let key = read_public(&dir.join(PUBLIC))?;
    let (begun, cpu) = (Instant::now(), cpu_us()?);
    let report = verify(&Asked { paths: vec![dir], checkpoints: Vec::new() }, &key)?;
    let us = begun.elapsed().as_secs_f64() * 1e6;
    let cpu = cpu_us()? - cpu;
    ensure!(report.valid, "the log is not sound: {:?}", report.fault);
    let lines = report.lines as f64;
    rows.push(Row::alone("verified, an entry", us / lines, "us", Some(VERIFY_US)));
    rows.push(Row::alone("verified, an entry, CPU time", cpu / lines, "us", None));
    rows.push(Row::alone("verified", lines / us * 1e6, "entries/s", None));
    Ok(rows)
}

/// Returns the CPU time of this process, microseconds.
fn cpu_us() -> Result<f64> {
    let now = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("reading the CPU time")?;
    Ok(now.tv_sec() as f64 * 1e6 + now.tv_nsec() as f64 / 1e3)
}

fn entry(number: usize) -> Entry {
    Entry::new("rule.enforce", format!("udp sport 123 len {number} dst 198.51.100.7"))
        .because("97 % of the attack's packets, 0 % of clean traffic")
        .was(json!({ "action": "count", "state": "shadow" }))
        .now(json!({ "action": "drop", "state": "enforcing" }))
        .about("20260801T120000Z-1")
}
