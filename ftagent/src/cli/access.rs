//! Tells the audit log of what a command reads by itself: captures and what is made of them.

use anyhow::{Result, bail};
use tracing::debug;

use super::{Cli, client::call};
use crate::{
    config::{Config, OnAuditFailure},
    record::audit::{self, Actor, Entry},
    serve::protocol::{Access, Accessed, Request},
};

/// Has it in the audit log, before it is done, that something was read: by the daemon, or where none runs, by
/// this command itself.
///
/// # Errors
/// Where it cannot be logged and `audit.on_failure` is `refuse`; else that is said on standard error.
pub fn log(cli: &Cli, what: Access, id: &str, detail: &str) -> Result<()> {
    let (id, detail) = (id.to_owned(), detail.to_owned());
    let accessed = Accessed { what, id, detail };
    let Err(refused) = call(cli, &Request::Accessed(accessed.clone())) else { return Ok(()) };
    debug!(error = format!("{refused:#}"), "No daemon logs this.");
    let config = Config::load(cli.config.as_deref())?;
    let uid = nix::unistd::Uid::current();
    let login = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(String::new, |user| user.name);
    let entry = Entry::new(what.as_str(), accessed.id).because(accessed.detail);
    let entry = entry.by(Actor::operator(uid.as_raw(), &login));
    let Err(error) = audit::append_offline(&config.paths.state, &config.audit, vec![entry]) else { return Ok(()) };
    let why = crate::chain(&error);
    if config.audit.on_failure == OnAuditFailure::Refuse {
        bail!("not done, because it cannot be put into the audit log (`audit.on_failure`): {why}");
    }
    eprintln!("ftagent: this is not in the audit log: {why}");
    Ok(())
}
