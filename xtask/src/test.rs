//! `cargo xtask test`: everything that CI runs, in the order in which failures are cheapest to find.
//!
//! The tests come last and nothing is printed after them, so that the end of the output is cargo's own summary. What
//! tests skipped is told before the last of them, those in the documentation.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{command, lint, setup, tidy};

#[derive(Args)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Lets more checks skip themselves: those whose line (what, and why) contains this. Others that do are failures,
    /// but for want of recorded traffic, of PyPI, or of daemons that this system has no packages of. Without root every
    /// check may
    #[arg(long, value_name = "WORD")]
    may_skip: Vec<String>,
}

/// What a machine may lack beside the repository, in words of the lines of checks that skip themselves for want of it:
/// recorded traffic, PyPI, daemons that its Debian has no package of.
const MAY_LACK: [&str; 5] = [
    "no captures: set FTAGENT_CAPTURES",
    "labelled_attacks_are_seen",
    "stix2-validator",
    "prometheus-alertmanager",
    "this system has no package of it",
];

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
    let list = command::target_dir()?.join("skipped");
    fs::write(&list, "").with_context(|| list.display().to_string())?;
    let tested = command::run(&mut tests(options, &list, &TARGETS));
    let skipped = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let skipped = Skipped::read(&skipped, |line| {
        let mut words = MAY_LACK.into_iter().chain(options.may_skip.iter().map(String::as_str));
        !command::is_root() || words.any(|word| line.contains(word))
    });
    // Where a test failed, the end of the output is cargo's list of those.
    tested.with_context(|| format!("{}, see {}", skipped.count(), list.display()))?;
    println!("\n== skipped\n{skipped}\n== tests in the documentation");
    command::run(&mut tests(options, &list, &["--doc"]))?;
    if !skipped.unexpected.is_empty() {
        bail!(
            "{} that no `--may-skip` names (listed under `== skipped`): give them what they need, or name them",
            plural(skipped.unexpected.values().sum())
        );
    }
    Ok(())
}

/// What skipped itself: each line of the list, and how often it is there.
#[derive(Default)]
struct Skipped {
    expected: BTreeMap<String, usize>,
    unexpected: BTreeMap<String, usize>,
}

impl Skipped {
    fn read(list: &str, may: impl Fn(&str) -> bool) -> Self {
        let mut all = Self::default();
        for line in list.lines() {
            let lines = if may(line) { &mut all.expected } else { &mut all.unexpected };
            *lines.entry(line.to_owned()).or_default() += 1;
        }
        all
    }

    fn count(&self) -> String {
        plural(self.expected.values().chain(self.unexpected.values()).sum())
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (lines, mark) in [(&self.expected, ""), (&self.unexpected, "NOT EXPECTED: ")] {
            for (line, times) in lines {
                writeln!(f, "{times} × {mark}{line}")?;
            }
        }
        write!(f, "{}", self.count())
    }
}

fn plural(count: usize) -> String {
    if count == 1 { "1 check was skipped".to_owned() } else { format!("{count} checks were skipped") }
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

/// All that is tested but the examples in the documentation, which cargo runs last in any case.
const TARGETS: [&str; 3] = ["--lib", "--bins", "--tests"];

fn tests(options: &Options, skipped: &Path, which: &[&str]) -> Command {
    let mut cargo = command::cargo();
    cargo.env("FTAGENT_SKIPPED", skipped);
    cargo.args(["test", "--locked", "--no-fail-fast"]).args(HOST_CRATES).args(which);
    // Two at a time: many of them keep whole CPUs busy with packets.
    cargo.arg("--").arg("--test-threads=2");
    cargo.args(&options.filter);
    cargo
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_counted_and_named() {
        let list = "wire: no captures\nnft: there is no nft\nwire: no captures\n";
        let skipped = Skipped::read(list, |line| line.contains("captures"));
        assert_eq!(
            skipped.to_string(),
            "2 × wire: no captures\n1 × NOT EXPECTED: nft: there is no nft\n3 checks were skipped"
        );
        assert_eq!(skipped.unexpected.into_keys().collect::<Vec<_>>(), ["nft: there is no nft"]);
        assert_eq!(Skipped::read("", |_| false).to_string(), "0 checks were skipped");
    }
}
