//! Speaks to the daemon.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Cli;
use crate::{
    config::Config,
    serve::protocol::{Answer, Request},
};

/// Replacing a feed of a million entries takes the daemon a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// An end waits for planes upstream, each of which may hang, and for `nft`.
const END_PATIENCE: Duration = Duration::from_secs(120);

/// Sends a request and returns what it asked for.
///
/// # Errors
/// Where no daemon answers, and what the daemon refuses.
pub fn call(cli: &Cli, request: &Request) -> Result<Value> {
    let path = Config::socket(cli.config.as_deref())?;
    let mut stream = UnixStream::connect(&path).with_context(|| {
        format!(
            "no daemon answers at {} (is `ftagent run` running, and may you speak to it: root or group ftagent?)",
            path.display()
        )
    })?;
    let patience = if *request == Request::Detach { END_PATIENCE } else { PATIENCE };
    stream.set_read_timeout(Some(patience))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).context("waiting for the daemon's answer")?;
    match serde_json::from_str(&answer).context("the daemon's answer is not one that this version knows")? {
        Answer::Done { data } => Ok(data),
        Answer::Refused { error } => bail!("{error}"),
    }
}

/// As [`call`], typed.
///
/// # Errors
/// As [`call`].
pub fn ask<T: DeserializeOwned>(cli: &Cli, request: &Request) -> Result<T> {
    serde_json::from_value(call(cli, request)?).context("the daemon is of another version than this command")
}

/// Returns the peer of the SSH session that this command runs in.
pub fn ssh_client() -> Option<IpAddr> {
    let value = std::env::var("SSH_CONNECTION").or_else(|_| std::env::var("SSH_CLIENT")).ok()?;
    value.split_whitespace().next()?.parse().ok()
}
