//! `ftagent detach`.

use std::{os::unix::net::UnixStream, process::ExitCode};

use anyhow::Result;

use super::{Cli, client::call};
use crate::{bpf::pins::Pins, config::Config, serve::protocol::Request};

/// Asks the daemon to remove everything, or does it where none is running.
///
/// # Errors
/// Where a pin cannot be removed.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let running = UnixStream::connect(Config::socket(cli.config.as_deref())?).is_ok();
    let removed = if running {
        let data = call(cli, &Request::Detach)?;
        data["removed"].as_array().map_or(0, Vec::len)
    } else {
        Pins::at(&Config::load(cli.config.as_deref())?.paths.bpffs).remove_all()?.len()
    };
    if cli.json {
        println!("{}", serde_json::json!({ "removed": removed, "daemon_stopped": running }));
    } else if removed == 0 {
        println!("Nothing was attached.");
    } else {
        let daemon = if running { " and the daemon stopped" } else { "" };
        println!("Detached: {removed} pins were removed{daemon}. Nothing is filtered any more.");
    }
    Ok(ExitCode::SUCCESS)
}
