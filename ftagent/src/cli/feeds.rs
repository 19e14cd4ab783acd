//! `ftagent feeds`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Cli,
    client::{ask, call},
    text::{count, table},
};
use crate::{
    feeds::FeedStatus,
    serve::protocol::{Request, Rules},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Accept a feed that is held because it changed by more than half.
    Confirm {
        /// The feed's name.
        name: String,
    },
}

/// Shows or confirms.
///
/// # Errors
/// What the daemon refuses.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Some(Command::Confirm { name }) => {
            let data = call(cli, &Request::ConfirmFeed { name: name.clone() })?;
            if cli.json { println!("{data}") } else { println!("Feed `{name}` is accepted as it is.") }
        }
        None => {
            let rules: Rules = ask(cli, &Request::Rules)?;
            if cli.json {
                println!("{}", serde_json::to_string(&rules.feeds)?);
            } else {
                print!("{}", render(&rules.feeds));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays feeds out for a terminal.
pub fn render(feeds: &[FeedStatus]) -> String {
    if feeds.is_empty() {
        return "No block-list file is configured (`[[feeds]]`).\n".to_owned();
    }
    let rows: Vec<Vec<String>> = feeds
        .iter()
        .map(|feed| {
            vec![feed.name.clone(), count(feed.entries as u64), feed.state_text(), feed.path.display().to_string()]
        })
        .collect();
    format!("feeds\n{}", table(&["name", "entries", "state", "file"], &rows))
}
