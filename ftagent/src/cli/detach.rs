//! `ftagent detach`.

use std::{os::unix::net::UnixStream, process::ExitCode};

use anyhow::{Context as _, Result};

use super::{Cli, client::call};
use crate::{
    agent::{nftables::remove_nftables_of, planes::clear_of},
    bpf::pins::Pins,
    config::{Config, OnAuditFailure},
    record::audit::{self, Actor, Entry, Outcome},
    serve::protocol::Request,
};

/// Asks the daemon to remove everything, or does it where none is running.
///
/// # Errors
/// Where a pin cannot be removed.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let running = UnixStream::connect(Config::socket(cli.config.as_deref())?).is_ok();
    let (removed, upstream) = if running {
        let data = call(cli, &Request::Detach)?;
        let left = data["upstream"].as_array().into_iter().flatten();
        let left: Vec<String> = left.filter_map(|what| what.as_str().map(str::to_owned)).collect();
        (data["removed"].as_array().map_or(0, Vec::len), left)
    } else {
        without_daemon(&Config::load(cli.config.as_deref())?)?
    };
    if cli.json {
        println!("{}", serde_json::json!({ "removed": removed, "daemon_stopped": running, "upstream": upstream }));
    } else if removed == 0 {
        println!("Nothing was attached.");
    } else {
        let daemon = if running { " and the daemon stopped" } else { "" };
        println!("Detached: {removed} pins were removed{daemon}. Nothing is filtered any more.");
    }
    for what in &upstream {
        eprintln!("ftagent: STILL THERE UPSTREAM, and nobody looks after it: {what}");
    }
    if !upstream.is_empty() {
        eprintln!("ftagent: `ftagent detach` again tries again; or take it back by hand, at the router or provider.");
    }
    Ok(if upstream.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Removes everything by itself; returns how many pins that were, and what is still there upstream.
fn without_daemon(config: &Config) -> Result<(usize, Vec<String>)> {
    let pins = Pins::at(&config.paths.bpffs);
    let uid = nix::unistd::getuid();
    let login = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name);
    let entry = Entry::new("daemon.detach", "").by(Actor::operator(uid.as_raw(), &login));
    let log = |entry: Entry| match config.paths.state.exists() {
        true => audit::append_offline(&config.paths.state, &config.audit, vec![entry]),
        false => Ok(()),
    };
    if let Err(error) = log(entry.clone().because("no daemon runs").with(Outcome::Asked)) {
        let error = anyhow::Error::new(error).context("writing the audit log");
        match config.audit.on_failure {
            OnAuditFailure::Act => eprintln!("ftagent: WARNING: {error:#}"),
            OnAuditFailure::Refuse => return Err(error.context("`audit.on_failure` is \"refuse\"")),
        }
    }
    remove_nftables_of(&config.paths.state).context("removing the nftables table")?;
    let removed = pins.remove_all();
    let after = match &removed {
        Ok(removed) => entry.now(serde_json::json!({ "removed": removed })),
        Err(error) => entry.because(crate::chain(error)).with(Outcome::Failed),
    };
    if let Err(error) = log(after) {
        eprintln!("ftagent: WARNING: {:#}", anyhow::Error::new(error).context("writing the audit log"));
    }
    // Black holes outlive the daemon that asked for them.
    let upstream = clear_of(config);
    Ok((removed?.len(), upstream))
}
