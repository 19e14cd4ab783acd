//! `ftagent config`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::Cli;
use crate::config::{Config, ConfigError, reference};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check a configuration file; every problem is named with its line.
    Check {
        /// The file; default: the one that `run` would read.
        file: Option<PathBuf>,
    },
    /// Print a commented configuration file with every key and its default.
    Default,
    /// Print the reference of every key as Markdown.
    Reference,
}

/// Checks or prints.
///
/// # Errors
/// None but those of printing.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Check { file } => Ok(check(cli, Config::load(file.as_deref().or(cli.config.as_deref())))),
        Command::Default => {
            print!("{}", reference::default_text());
            Ok(ExitCode::SUCCESS)
        }
        Command::Reference => {
            print!("{}", reference::markdown());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(cli: &Cli, config: Result<Config, ConfigError>) -> ExitCode {
    let error = config.err();
    if cli.json {
        let problems =
            error.as_ref().map(|error| serde_json::json!({ "error": error.to_string(), "problems": error.problems() }));
        println!("{}", serde_json::json!({ "valid": error.is_none(), "why": problems }));
    } else {
        match &error {
            None => println!("The configuration is valid."),
            Some(error) => eprintln!("{error}"),
        }
    }
    if error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
