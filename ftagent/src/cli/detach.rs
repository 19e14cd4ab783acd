//! `ftagent detach`.

use std::{
    fs::File,
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result};
use nix::fcntl::Flock;
use serde_json::{Value, json};

use super::{Cli, client::call};
use crate::{
    agent::{
        nftables::remove_nftables_of,
        planes::clear_of,
        start::{Held, lock_out},
    },
    bpf::pins::Pins,
    config::{Config, OnAuditFailure},
    record::{
        audit::{Actor, Entry, OfflineLog, Outcome},
        is_of_disk,
    },
    serve::protocol::Request,
};

/// Time between two looks whether a daemon has ended.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a daemon that does not answer may take to end: it may have been told to.
const ENDING: Duration = Duration::from_secs(5);

/// Asks the daemon to remove everything, or does it where none is running.
///
/// # Errors
/// Where nothing was done. What is still there, here or upstream, is said.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let running = UnixStream::connect(Config::socket(cli.config.as_deref())?).is_ok();
    let end = if running {
        End::of(&call(cli, &Request::Detach)?)
    } else {
        without_daemon(&Config::load(cli.config.as_deref())?, ENDING)?
    };
    let End { removed, here, upstream } = &end;
    for what in here {
        eprintln!("ftagent: STILL THERE on this host: {what}");
    }
    for what in upstream {
        eprintln!("ftagent: STILL THERE UPSTREAM, and nobody looks after it: {what}");
    }
    if !end.is_clean() {
        eprintln!(
            "ftagent: `ftagent detach` again tries again; or take it back by hand, here, at the router or provider."
        );
    }
    if cli.json {
        let told = json!({ "removed": removed, "daemon_stopped": running, "here": here, "upstream": upstream });
        println!("{told}");
    } else if *removed == 0 && here.is_empty() {
        println!("Nothing was attached.");
    } else {
        let daemon = if running { " and the daemon stopped" } else { "" };
        let filtered = if here.is_empty() { " Nothing is filtered any more." } else { "" };
        println!("Detached: {removed} pins were removed{daemon}.{filtered}");
    }
    Ok(if end.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of an end.
#[derive(Debug, Default)]
struct End {
    /// Pins that were removed.
    removed: usize,
    /// What is still there on this host, and why.
    here: Vec<String>,
    /// What is still there upstream.
    upstream: Vec<String>,
}

impl End {
    /// Reads a daemon's answer.
    fn of(answer: &Value) -> Self {
        let texts = |key: &str| {
            let texts = answer[key].as_array().into_iter().flatten();
            texts.filter_map(|what| what.as_str().map(str::to_owned)).collect()
        };
        let removed = answer["removed"].as_array().map_or(0, Vec::len);
        Self { removed, here: texts("here"), upstream: texts("upstream") }
    }

    fn is_clean(&self) -> bool {
        self.here.is_empty() && self.upstream.is_empty()
    }
}

/// Removes everything by itself, where no daemon runs that would put it back; one may take `ending` to end.
///
/// # Errors
/// Where nothing was done, because a daemon runs or it could not be logged.
fn without_daemon(config: &Config, ending: Duration) -> Result<End> {
    let _locks = lock_out_within(config, ending)?;
    let uid = nix::unistd::getuid();
    let login = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| "?".to_owned(), |user| user.name);
    let actor = Actor::operator(uid.as_raw(), &login);
    let entry = Entry::new("daemon.detach", "").by(actor.clone());
    let log = begin(config, entry.clone().because("no daemon runs").with(Outcome::Asked))?.map(Arc::new);
    // What cannot be removed keeps nothing else in force.
    let table = remove_nftables_of(&config.paths.state).context("the nftables table");
    let (pins, stuck) = Pins::at(&config.paths.bpffs).remove_all();
    let removed = pins.len();
    let entry = entry.now(json!({ "removed": pins }));
    let stuck = stuck.iter().map(|error| crate::chain(error));
    let here: Vec<String> = stuck.chain(table.err().map(|error| format!("{error:#}"))).collect();
    let after = if here.is_empty() { entry } else { entry.because(here.join("; ")).with(Outcome::Failed) };
    warn(log.as_ref().map_or(Ok(()), |log| log.add(after)).map_err(Error::from));
    // Black holes outlive the daemon that asked for them.
    let upstream = clear_of(config, log.clone(), actor);
    warn(log.as_ref().map_or(Ok(()), |log| log.sign()).map_err(Error::from));
    Ok(End { removed, here, upstream })
}

/// Sees that no daemon runs, and that none starts meanwhile. That it cannot be reached says nothing: its socket may be
/// another's than the configuration says by now, it may be starting, or have no room for callers.
///
/// # Errors
/// Where one runs, or it cannot be told. A disk that does not work keeps nothing in force.
fn lock_out_within(config: &Config, ending: Duration) -> Result<Vec<Flock<File>>> {
    let until = Instant::now() + ending;
    loop {
        match lock_out(config) {
            Ok(locks) => return Ok(locks),
            Err(error) if error.is::<Held>() && Instant::now() < until => thread::sleep(AGAIN),
            Err(error) if error.is::<Held>() => {
                let socket = config.paths.socket.display();
                let told = format!(
                    "a daemon runs but does not answer at {socket}, and would go on: `systemctl stop ftagent` first"
                );
                return Err(error.context(told));
            }
            Err(error) if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_of_disk) => {
                eprintln!("ftagent: WARNING: whether a daemon runs cannot be told: {error:#}");
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        }
    }
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
    use std::{fs, path::Path};

    use super::*;
    use crate::record::audit::{self, ActorKind, read};

    #[test]
    fn a_pin_that_stays_hides_nothing_that_is_left_upstream() {
        let dir = tempfile::tempdir().unwrap();
        let (state, pins) = (dir.path().join("state"), dir.path().join("bpf"));
        // No file that could be removed, and the journal of a provider that nobody looks after.
        fs::create_dir_all(pins.join("link_7/stuck")).unwrap();
        fs::write(pins.join("link_8"), "").unwrap();
        fs::create_dir_all(state.join("scrub")).unwrap();
        fs::write(state.join("scrub/old.json"), "damaged").unwrap();
        let text = format!("[paths]\nstate = {state:?}\nbpffs = {pins:?}\n[audit]\nappend_only = false\n");
        let config = Config::parse(&text, "t.toml").unwrap();
        let End { here, upstream, .. } = without_daemon(&config, Duration::ZERO).unwrap();
        assert!(here.len() == 1 && here[0].contains("link_7"), "{here:?}");
        assert!(!pins.join("link_8").exists(), "nor does it keep another");
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

    #[test]
    fn a_daemon_that_does_not_answer_is_one_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (state, other, pins) = (dir.path().join("state"), dir.path().join("other"), dir.path().join("bpf"));
        [&state, &other, &pins].iter().for_each(|path| fs::create_dir(path).unwrap());
        fs::write(pins.join("link_7"), "").unwrap();
        let config = |state: &Path| {
            let text = format!("[paths]\nstate = {state:?}\nbpffs = {pins:?}\n[audit]\nenabled = false\n");
            Config::parse(&text, "t.toml").unwrap()
        };
        let daemon = lock_out(&config(&state)).unwrap();
        // The configuration may have been edited since.
        for state in [&state, &other] {
            let error = format!("{:#}", without_daemon(&config(state), Duration::ZERO).unwrap_err());
            for part in ["a daemon runs but does not answer", "`systemctl stop ftagent` first"] {
                assert!(error.contains(part), "{error}");
            }
            assert!(pins.join("link_7").exists(), "nothing was done");
        }
        drop(daemon);
        assert_eq!(without_daemon(&config(&state), Duration::ZERO).unwrap().removed, 1);
    }
}
