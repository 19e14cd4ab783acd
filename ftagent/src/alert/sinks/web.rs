//! What the services that speak HTTP have in common.

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::Value;
use ureq::http::Method;

use super::{Failure, Receipt};
use crate::{
    act::http::{Client, HttpError, Reply},
    alert::cut,
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

/// Characters of an answer that people see.
const EXCERPT: usize = 200;
/// Parts of a secret or an address with so many characters say enough to be one: a token in a path, the value of a
/// query.
const TOKEN: usize = 12;

/// Takes secrets out of a text, and the address of a request but for its host: whole, without scheme and host, and by
/// its long parts. The other side may repeat any of them.
pub fn quiet(text: &str, url: &str, secrets: &[&str]) -> String {
    let mut forms: BTreeSet<&str> = BTreeSet::new();
    for secret in secrets.iter().copied() {
        forms.insert(secret);
        forms.extend(secret.split(|c: char| "/?&=#: ".contains(c)).filter(|part| part.len() >= TOKEN));
    }
    for address in secrets.iter().copied().chain([url]) {
        let Some((_, rest)) = address.split_once("://") else { continue };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        forms.extend([user, user.split_once(':').map_or("", |(_, password)| password)]);
        // The host is told.
        forms.remove(host.split(':').next().unwrap_or_default());
        let behind = rest.get(authority.len()..).unwrap_or_default();
        forms.extend([behind, behind.trim_start_matches('/')]);
        let path = behind.split(['?', '#']).next().unwrap_or_default();
        forms.extend([path, path.trim_start_matches('/')]);
        forms.extend(behind.split(|c: char| "/?&=#".contains(c)).filter(|part| part.len() >= TOKEN));
    }
    let mut forms: Vec<&str> = forms.into_iter().filter(|form| form.len() > 3).collect();
    // What contains others goes first.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut text = text.to_owned();
    for form in forms {
        text = text.replace(form, "…");
        // As JSON may write it.
        text = text.replace(&form.replace('/', "\\/"), "…");
    }
    text
}

/// Returns an answer's body as text, for people: one line, cut, and without secrets, see [`quiet`]. They are taken out
/// of the whole of it: what is cut in the middle of one would not be known for it.
pub fn excerpt(reply: &Reply, url: &str, secrets: &[&str]) -> String {
    let text = quiet(&String::from_utf8_lossy(&reply.body), url, secrets);
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), EXCERPT)
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
    let excerpt = excerpt(reply, "", secrets);
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

#[cfg(test)]
#[path = "web/tests.rs"]
mod tests;
