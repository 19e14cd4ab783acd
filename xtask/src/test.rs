//! `cargo xtask test`: everything that CI runs, in the order in which failures are cheapest to find.
//!
//! The tests come last and nothing is printed after them, so that the end of the output is cargo's own summary.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{command, lint, setup, tidy};

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// A step: its name and what it does.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 4] = [("setup", install), ("tidy", tidy::run), ("lint", lint::run), ("build", build)];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut times = Vec::new();
    for (name, step) in STEPS {
        println!("\n== {name}");
        let start = Instant::now();
        step().with_context(|| format!("step `{name}`"))?;
        let took = start.elapsed();
        println!("== {name}: done in {}", seconds(took));
        times.push((name, took));
    }
    println!("\n== steps before the tests");
    for (name, took) in &times {
        println!("{name:<8} {:>9}", seconds(*took));
    }
    println!("{:<8} {:>9}", "total", seconds(times.iter().map(|(_, took)| *took).sum()));
    if !command::is_root() {
        println!("not root: tests that load kernel programs skip themselves and say so");
    }
    println!("\n== tests");
    command::run(&mut tests(options))
}

fn install() -> Result<()> {
    setup::ensure(setup::Need::BuildAndTest)
}

/// Builds all that the tests run, binaries included: end-to-end tests start the agent's own program.
fn build() -> Result<()> {
    command::run(command::cargo().args(["build", "--locked", "--all-targets"]).args(HOST_CRATES))
}

/// Every member but the kernel programs, which have no tests on the host: the tests crate runs them in the kernel.
pub(crate) const HOST_CRATES: [&str; 3] = ["--workspace", "--exclude", "ftagent-ebpf"];

fn tests(options: &Options) -> std::process::Command {
    let mut cargo = command::cargo();
    cargo.args(["test", "--locked", "--no-fail-fast"]).args(HOST_CRATES);
    // Two at a time: many of them keep whole CPUs busy with packets.
    cargo.arg("--").arg("--test-threads=2");
    cargo.args(&options.filter);
    cargo
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
