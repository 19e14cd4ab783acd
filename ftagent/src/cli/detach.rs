//! `ftagent detach`.

use std::{os::unix::net::UnixStream, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Error, Result};

use super::{Cli, client::call};
use crate::{
    agent::{nftables::remove_nftables_of, planes::clear_of},
    bpf::pins::Pins,
    config::{Config, OnAuditFailure},
    record::audit::{Actor, Entry, OfflineLog, Outcome},
    serve::protocol::Request,
};

/// Asks the daemon to remove everything, or does it where none is running.
///
/// # Errors
/// Where a pin cannot be removed; what is still there upstream is said before.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let running = UnixStream::connect(Config::socket(cli.config.as_deref())?).is_ok();
    let (removed, upstream) = if running {
        let data = call(cli, &Request::Detach)?;
        let left = data["upstream"].as_array().into_iter().flatten();
        let left: Vec<String> = left.filter_map(|what| what.as_str().map(str::to_owned)).collect();
        (Ok(data["removed"].as_array().map_or(0, Vec::len)), left)
    } else {
        without_daemon(&Config::load(cli.config.as_deref())?)?
    };
    for what in &upstream {
        eprintln!("ftagent: STILL THERE UPSTREAM, and nobody looks after it: {what}");
    }
    if !upstream.is_empty() {
        eprintln!("ftagent: `ftagent detach` again tries again; or take it back by hand, at the router or provider.");
    }
    let removed = removed?;
    if cli.json {
        println!("{}", serde_json::json!({ "removed": removed, "daemon_stopped": running, "upstream": upstream }));
    } else if removed == 0 {
        println!("Nothing was attached.");
    } else {
        let daemon = if running { " and the daemon stopped" } else { "" };
        println!("Detached: {removed} pins were removed{daemon}. Nothing is filtered any more.");
    }
    Ok(if upstream.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of an end without a daemon: how many pins were removed, or why one could not be, and what is still there
/// upstream.
type Removed = (Result<usize>, Vec<String>);

/// Removes everything by itself.
///
/// # Errors
/// Where nothing was done, because it could not be logged.
fn without_daemon(config: &Config) -> Result<Removed> {
    let uid = nix::unistd::getuid();
    let login = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name);
    let actor = Actor::operator(uid.as_raw(), &login);
    let entry = Entry::new("daemon.detach", "").by(actor.clone());
    let log = begin(config, entry.clone().because("no daemon runs").with(Outcome::Asked))?.map(Arc::new);
    let table = remove_nftables_of(&config.paths.state).context("removing the nftables table");
    let pins = Pins::at(&config.paths.bpffs).remove_all().map_err(Error::from);
    // What cannot be removed keeps nothing else in force.
    let removed = table.and(pins);
    let after = match &removed {
        Ok(removed) => entry.now(serde_json::json!({ "removed": removed })),
        Err(error) => entry.because(format!("{error:#}")).with(Outcome::Failed),
    };
    warn(log.as_ref().map_or(Ok(()), |log| log.add(after)).map_err(Error::from));
    // Black holes outlive the daemon that asked for them.
    let upstream = clear_of(config, log.clone(), actor);
    warn(log.as_ref().map_or(Ok(()), |log| log.sign()).map_err(Error::from));
    Ok((removed.map(|removed| removed.len()), upstream))
}

/// Opens the audit log and says in it what is about to be done; `None` where it is not logged.
///
/// # Errors
/// Where it cannot be logged and `audit.on_failure` is `refuse`.
fn begin(config: &Config, entry: Entry) -> Result<Option<OfflineLog>> {
    if !config.paths.state.exists() {
        return Ok(None);
    }
    let open = || -> Result<Option<OfflineLog>> {
        let log = OfflineLog::open(&config.paths.state, &config.audit)?;
        log.as_ref().map_or(Ok(()), |log| log.add(entry))?;
        Ok(log)
    };
    match (open(), config.audit.on_failure) {
        (Ok(log), _) => Ok(log),
        (Err(error), OnAuditFailure::Refuse) => {
            Err(error.context("writing the audit log").context("`audit.on_failure` is \"refuse\""))
        }
        (Err(error), OnAuditFailure::Act) => {
            warn(Err(error));
            Ok(None)
        }
    }
}

/// Says that the audit log could not be written.
fn warn(result: Result<()>) {
    if let Err(error) = result.context("writing the audit log") {
        eprintln!("ftagent: WARNING: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::record::audit::{self, ActorKind, read};

    #[test]
    fn a_pin_that_stays_hides_nothing_that_is_left_upstream() {
        let dir = tempfile::tempdir().unwrap();
        let (state, pins) = (dir.path().join("state"), dir.path().join("bpf"));
        // No file that could be removed, and the journal of a provider that nobody looks after.
        fs::create_dir_all(pins.join("link_7/stuck")).unwrap();
        fs::create_dir_all(state.join("scrub")).unwrap();
        fs::write(state.join("scrub/old.json"), "damaged").unwrap();
        let text = format!("[paths]\nstate = {state:?}\nbpffs = {pins:?}\n[audit]\nappend_only = false\n");
        let config = Config::parse(&text, "t.toml").unwrap();
        let (removed, upstream) = without_daemon(&config).unwrap();
        assert!(format!("{:#}", removed.unwrap_err()).contains("link_7"));
        assert!(upstream.len() == 1 && upstream[0].contains("`old`"), "{upstream:?}");
        let dir = audit::dir(&state);
        let lines = read::Reader::new(&dir, read::Wanted::default()).next(usize::MAX).unwrap();
        let said: Vec<_> = lines.iter().map(|(_, line)| (line.action.as_str(), line.result)).collect();
        assert_eq!(said, [("daemon.detach", Some(Outcome::Asked)), ("daemon.detach", Some(Outcome::Failed))]);
        assert!(lines.iter().all(|(_, line)| line.actor.as_ref().is_some_and(|by| by.kind == ActorKind::Operator)));
        let key = audit::read_public(&dir.join(audit::PUBLIC)).unwrap();
        let asked = audit::Asked { paths: vec![dir], checkpoints: Vec::new() };
        let report = audit::verify(&asked, &key).unwrap();
        assert!(report.valid && report.unsigned == 0, "{report:?}");
    }
}
