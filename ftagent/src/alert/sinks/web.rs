//! What the services that speak HTTP have in common.

use std::{path::Path, time::Duration};

use serde_json::Value;
use ureq::http::Method;

use super::{Failure, Receipt};
use crate::{
    act::http::{Client, HttpError, Reply},
    config::{Secret, SecretFile},
};

/// The longest that a service is believed to want no messages.
const LONGEST: Duration = Duration::from_secs(3600);

/// Makes requests, and keeps quiet about secrets.
#[derive(Debug)]
pub struct Web(Client);

impl Web {
    /// `timeout` is for a request as a whole.
    ///
    /// # Errors
    /// What is wrong with the file of certificates.
    pub fn new(timeout: Duration, ca_file: Option<&Path>) -> Result<Self, String> {
        Client::new(timeout, ca_file).map(Self).map_err(|error| error.to_string())
    }

    /// Sends JSON. `secrets` never stand in what is said about it.
    ///
    /// # Errors
    /// Where there is no answer.
    pub fn post(&self, url: &str, headers: &[(&str, &str)], body: &Value, secrets: &[&str]) -> Result<Reply, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::Never(error.to_string()))?;
        self.post_bytes(url, headers, &body, secrets)
    }

    /// Sends JSON that is written already.
    ///
    /// # Errors
    /// Where there is no answer.
    pub fn post_bytes(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        secrets: &[&str],
    ) -> Result<Reply, Failure> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.0.send(&Method::POST, url, &all, body).map_err(|error| match &error {
            HttpError::Reach { .. } => Failure::later(quiet(&error.to_string(), url, secrets)),
            HttpError::Request(_) | HttpError::Certificates(_) => {
                Failure::Shut(quiet(&error.to_string(), url, secrets))
            }
        })
    }
}

/// Takes secrets out of a text, and the address of a request but for its host.
pub fn quiet(text: &str, url: &str, secrets: &[&str]) -> String {
    let behind = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let mut text = text.to_owned();
    for secret in secrets.iter().copied().chain([behind]).filter(|secret| secret.len() > 3) {
        text = text.replace(secret, "…");
    }
    text
}

/// Reads the address of a webhook, which is a secret as a whole.
///
/// # Errors
/// The file, what is wrong with it, and the remedy.
pub fn address(secret: &SecretFile) -> Result<Secret, String> {
    let address = secret.read()?;
    check_address(&address, secret)?;
    Ok(address)
}

/// Checks an address without telling it.
pub fn check_address(address: &Secret, of: &impl std::fmt::Display) -> Result<(), String> {
    let text = address.expose();
    let good = text.starts_with("https://") || text.starts_with("http://");
    if !good || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!("{of}: is not the address of a webhook: it begins with https:// and has no spaces in it"));
    }
    Ok(())
}

/// Says what an answer means where the service documents nothing else: 2xx is taken; 408, 425, 429 and 5xx
/// are for later; who we are, or where, is wrong with 401, 403, 404, 405, 410 and redirections; another 4xx is
/// about this message.
///
/// # Errors
/// See [`Failure`].
pub fn judge(reply: &Reply, secrets: &[&str]) -> Result<Receipt, Failure> {
    let excerpt = quiet(&reply.excerpt(), "", secrets);
    let said = if excerpt.is_empty() { reply.status.to_string() } else { format!("{} {excerpt}", reply.status) };
    match reply.status {
        200..300 => Ok(Receipt { answer: said, pause: None }),
        408 | 425 | 429 | 500.. => Err(Failure::Later { why: said, after: retry_after(reply) }),
        300..=399 | 401 | 403 | 404 | 405 | 410 => Err(Failure::Shut(said)),
        _ => Err(Failure::Never(said)),
    }
}

/// Returns how long the service wants no messages; bounded, so that no header stops alerts for a day.
pub fn retry_after(reply: &Reply) -> Option<Duration> {
    reply.retry_after().map(|wait| wait.min(LONGEST))
}

/// Returns seconds of a JSON answer as a time to wait.
pub fn seconds(value: Option<&Value>) -> Option<Duration> {
    let seconds = value?.as_f64().filter(|seconds| (0.0..1e6).contains(seconds))?;
    Some(Duration::from_secs_f64(seconds).min(LONGEST))
}
