//! The command line: one file per subcommand. Human output by default, `--json` everywhere.

mod access;
mod alert;
mod audit;
mod baseline;
mod block;
mod capture;
mod client;
mod config;
mod detach;
mod doctor;
mod explain;
mod feeds;
mod incidents;
mod ioc;
mod ladder;
mod plot;
mod replay;
mod rules;
mod run;
pub mod status;
mod text;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// A DDoS defence agent: counts every packet in the kernel and drops what attacks.
#[derive(Debug, Parser)]
#[command(name = "ftagent", version, max_term_width = 100)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Protect: load the datapath, attach it, and stay.
    Run(run::Args),
    /// Show what the daemon protects, sees and drops.
    Status(status::Args),
    /// Drop everything from an address or prefix.
    Block(block::Block),
    /// Remove a block entry.
    Unblock(block::Target),
    /// Let everything from an address or prefix pass, whatever else says drop.
    Allow(block::Allow),
    /// List what drops, limits and allows; add or remove a rule.
    Rules(rules::Args),
    /// Say what would happen to a packet, and why.
    Explain(explain::Args),
    /// Show block-list files, or accept one that is held.
    Feeds(feeds::Args),
    /// List attacks that were found, or show one with all its evidence.
    Incidents(incidents::Args),
    /// List, show and export what was recorded of attacks; capture what matches something.
    Capture(capture::Args),
    /// Show what is asked of the network upstream, what would be; approve it, or take it back.
    Ladder(ladder::Args),
    /// Patterns of attack tools: list, check, test; export the indicators of an incident.
    Ioc(ioc::Args),
    /// Show who is told of attacks, try a sink, or let nobody be told for a while.
    Alert(alert::Args),
    /// Show what is known to be normal, or correct it.
    Baseline(baseline::Args),
    /// Show who did what, verify that nobody changed that, or copy it.
    Audit(audit::Args),
    /// Say what this machine can do, what is missing, and how to mend it.
    Doctor,
    /// Run captures or a scenario through the real datapath, in virtual time.
    Replay(replay::Args),
    /// Write rules as text for firewalls, BGP daemons and routers.
    Tools(tools::Args),
    /// Check a configuration, or print one with every default.
    Config(config::Args),
    /// Stop filtering: remove programs, attachments and maps, and end the daemon.
    Detach,
}

/// Runs the command; errors are printed in one line each.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ftagent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.command {
        Command::Run(args) => run::run(cli, args),
        Command::Status(args) => status::run(cli, args),
        Command::Block(args) => block::block(cli, args),
        Command::Unblock(args) => block::unblock(cli, args),
        Command::Allow(args) => block::allow(cli, args),
        Command::Rules(args) => rules::run(cli, args),
        Command::Explain(args) => explain::run(cli, args),
        Command::Feeds(args) => feeds::run(cli, args),
        Command::Incidents(args) => incidents::run(cli, args),
        Command::Capture(args) => capture::run(cli, args),
        Command::Ladder(args) => ladder::run(cli, args),
        Command::Ioc(args) => ioc::run(cli, args),
        Command::Alert(args) => alert::run(cli, args),
        Command::Baseline(args) => baseline::run(cli, args),
        Command::Audit(args) => audit::run(cli, args),
        Command::Doctor => doctor::run(cli),
        Command::Replay(args) => replay::run(cli, args),
        Command::Tools(args) => tools::run(cli, args),
        Command::Config(args) => config::run(cli, args),
        Command::Detach => detach::run(cli),
    }
}
