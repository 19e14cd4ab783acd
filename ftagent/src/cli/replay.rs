//! `ftagent replay`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};

use super::Cli;
use crate::{
    record::capsule::container::is_capsule,
    replay::{Options, capsule, run as replay},
    rule::FlowMatch,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["captures", "scenario"])))]
pub struct Args {
    /// Captures (pcap or pcapng), each a source with its own timing; or one capsule (.ftcapsule), which is decided
    /// again and compared: where anything is decided differently now, the exit code is 1.
    #[arg(value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// A scenario instead: sources, rates, rewriting, configuration.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Drop what this matches from the start on, beside what the agent decides: `udp sport 123`.
    #[arg(long, value_name = "MATCH")]
    drop: Vec<FlowMatch>,
    /// Write the packets that passed to this pcap file. A SYN that the guard answered is among them once its
    /// cookie came back.
    #[arg(long, value_name = "FILE")]
    out_passed: Option<PathBuf>,
    /// Write the packets that were dropped to this pcap file; at its end SYNs whose cookies never came back.
    #[arg(long, value_name = "FILE")]
    out_dropped: Option<PathBuf>,
    /// Write the replay down as a capsule: this replays without captures and privileges.
    #[arg(long, value_name = "FILE")]
    capsule: Option<PathBuf>,
}

/// Replays and reports. The configuration is that of `--config`, not the system's.
///
/// # Errors
/// Where input cannot be used.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    if let Some(path) = args.captures.iter().find(|path| is_capsule(path)) {
        return again(cli, args, path);
    }
    let report = replay(&Options {
        captures: args.captures.clone(),
        scenario: args.scenario.clone(),
        config: cli.config.clone(),
        drop: args.drop.clone(),
        out_passed: args.out_passed.clone(),
        out_dropped: args.out_dropped.clone(),
        capsule: args.capsule.clone(),
    })
    .map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.to_table());
    }
    Ok(ExitCode::SUCCESS)
}

/// Replays a capsule.
fn again(cli: &Cli, args: &Args, path: &Path) -> Result<ExitCode> {
    let others = [&args.out_passed, &args.out_dropped, &args.capsule].into_iter().flatten().next().is_some();
    if args.captures.len() > 1 || others || !args.drop.is_empty() {
        bail!(
            "{}: is a capsule, which is replayed alone and as it is: without captures, --drop, --out-passed, \
             --out-dropped and --capsule",
            path.display()
        );
    }
    let report = capsule::replay(path).map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.to_text());
    }
    Ok(if report.identical { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
