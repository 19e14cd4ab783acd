//! `ftagent replay`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::Cli;
use crate::{
    replay::{Options, run as replay},
    rule::FlowMatch,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["captures", "scenario"])))]
pub struct Args {
    /// Captures (pcap or pcapng), each a source with its own timing.
    #[arg(value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// A scenario instead: sources, rates, rewriting, configuration.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Drop what this matches from the start on, beside what the agent decides: `udp sport 123`.
    #[arg(long, value_name = "MATCH")]
    drop: Vec<FlowMatch>,
    /// Write the packets that passed to this pcap file.
    #[arg(long, value_name = "FILE")]
    out_passed: Option<PathBuf>,
    /// Write the packets that were dropped to this pcap file.
    #[arg(long, value_name = "FILE")]
    out_dropped: Option<PathBuf>,
}

/// Replays and reports. The configuration is that of `--config`, not the system's.
///
/// # Errors
/// Where input cannot be used.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    let report = replay(&Options {
        captures: args.captures.clone(),
        scenario: args.scenario.clone(),
        config: cli.config.clone(),
        drop: args.drop.clone(),
        out_passed: args.out_passed.clone(),
        out_dropped: args.out_dropped.clone(),
    })
    .map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.to_table());
    }
    Ok(ExitCode::SUCCESS)
}
