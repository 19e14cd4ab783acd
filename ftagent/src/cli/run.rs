//! `ftagent run`.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use super::Cli;
use crate::{
    agent::{Agent, Ended},
    config::{Config, InterfaceName, LogFormat},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Protect this interface instead of the configured ones; may be repeated.
    #[arg(long, short, value_name = "NAME")]
    interface: Vec<String>,
}

/// Runs until stopped.
///
/// # Errors
/// Where the configuration is wrong or an interface cannot be protected.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    let mut config = Config::load(cli.config.as_deref())?;
    if !args.interface.is_empty() {
        config.interfaces.names = args.interface.iter().cloned().map(InterfaceName::Named).collect();
    }
    let filter = EnvFilter::try_from_env("FTAGENT_LOG").unwrap_or_else(|_| EnvFilter::new(config.log.level.as_str()));
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_target(false);
    let log = log.with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Json => log.json().init(),
        LogFormat::Text => log.init(),
    }
    match Agent::start(config, cli.config.clone())?.run()? {
        Ended::Stopped | Ended::Detached => Ok(ExitCode::SUCCESS),
    }
}
