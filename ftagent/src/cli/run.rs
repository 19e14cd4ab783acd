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

/// The exit status of a daemon that `ftagent detach` ended. The unit tells systemd by it not to start it again; the
/// number is one that systemd and sysexits(3) have no name for.
const DETACHED: u8 = 10;

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
        Ended::Stopped => Ok(ExitCode::SUCCESS),
        Ended::Detached => Ok(DETACHED.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_starts_it_again_unless_it_was_detached() {
        let unit = include_str!("../../../packaging/ftagent.service");
        let setting = |name: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        let detached = DETACHED.to_string();
        assert_eq!(setting("Restart"), "always");
        assert_eq!((setting("RestartPreventExitStatus"), setting("SuccessExitStatus")), (detached.clone(), detached));
    }
}
