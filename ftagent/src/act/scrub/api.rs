//! What all providers' interfaces have in common: one request, and what its answer means for us.

use std::time::Duration;

use serde_json::Value;
use ureq::http::Method;

use super::Trouble;
use crate::{
    act::http::{Client, HttpError, Reply},
    config::{self, Secret, SecretFile},
};

/// For a request as a whole.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a provider's own words that are passed on.
const WORDS: usize = 240;

/// A provider's interface over HTTP.
pub(super) struct Api {
    client: Client,
    /// Without a slash at the end.
    pub base: String,
    /// Whom texts name.
    who: &'static str,
    /// What texts must never repeat, whoever wrote them.
    hidden: Vec<Secret>,
}

impl Api {
    pub fn open(config: &config::Scrub, who: &'static str) -> Result<Self, String> {
        let client = Client::new(TIMEOUT, config.ca_file.as_deref()).map_err(|error| error.to_string())?;
        Ok(Self { client, base: config.endpoint.clone(), who, hidden: Vec::new() })
    }

    /// Says what must never be told.
    pub fn hide<'a>(&mut self, secrets: impl IntoIterator<Item = &'a Secret>) {
        self.hidden = secrets.into_iter().cloned().collect();
    }

    /// Asks, and returns an answer of the client's making: neither 429 nor 5xx.
    pub fn send(&self, method: &Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, Trouble> {
        let url = format!("{}{path}", self.base);
        let reply = self.client.send(method, &url, headers, body).map_err(|error| match error {
            HttpError::Reach { .. } => Trouble::Lost(self.clean(&format!("{}: {error}", self.who)), None),
            // A secret with a line break in it, say: nothing was sent.
            HttpError::Request(_) | HttpError::Certificates(_) => Trouble::Denied(format!(
                "{}: a request cannot be made: look at the credentials for odd characters",
                self.who
            )),
        })?;
        match reply.status {
            429 => {
                let why = format!("{} lets no more requests in for now ({})", self.who, self.words(&reply));
                Err(Trouble::Limited(why, reply.retry_after()))
            }
            500.. => {
                let why = format!("{} has trouble of its own ({})", self.who, self.words(&reply));
                Err(Trouble::Lost(why, reply.retry_after()))
            }
            _ => Ok(reply),
        }
    }

    /// Reads an answer; one that cannot be read says nothing about what was done.
    pub fn json(&self, reply: &Reply) -> Result<Value, Trouble> {
        serde_json::from_slice(&reply.body).map_err(|_| self.odd(reply))
    }

    /// An answer that says nothing.
    pub fn odd(&self, reply: &Reply) -> Trouble {
        let what = format!("{} answered something that is not understood ({})", self.who, self.words(reply));
        Trouble::Lost(what, None)
    }

    /// Credentials that are not taken.
    pub fn denied(&self, file: &SecretFile, words: &str, remedy: &str) -> Trouble {
        Trouble::Denied(format!(
            "{} does not take the credentials in {file} ({}): {remedy}",
            self.who,
            self.clean(words)
        ))
    }

    /// What was understood, and will not be done.
    pub fn refused(&self, words: &str) -> Trouble {
        Trouble::Refused(format!("{} refuses: {}", self.who, self.clean(words)))
    }

    /// Returns the status and how a body begins, for people.
    fn words(&self, reply: &Reply) -> String {
        // Secrets are taken out before anything is cut off: half of one is too much.
        let words = self.clean(&String::from_utf8_lossy(&reply.body));
        format!("{}: {}", reply.status, if words.is_empty() { "no body" } else { &words })
    }

    /// Makes one line of a provider's words, without secrets.
    pub fn clean(&self, text: &str) -> String {
        let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.retain(|c| !c.is_control());
        for secret in &self.hidden {
            text = text.replace(secret.expose(), "…");
        }
        if text.chars().count() > WORDS {
            text = text.chars().take(WORDS).chain(['…']).collect();
        }
        text
    }
}

/// Returns where the credentials are.
pub(super) fn credentials(config: &config::Scrub) -> Result<&SecretFile, String> {
    config.credentials.as_ref().ok_or_else(|| "`credentials` is missing".to_owned())
}

/// Returns a text in an answer; nothing where there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Escapes what is to be one part of a path, or a value of a form (RFC 3986, section 2.3).
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Returns as many hexadecimal digits of a hash of a text.
pub(super) fn digest(text: &str, digits: usize) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hex: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// Returns what marks things as those of this plane on this machine: it outlives the state directory.
pub(super) fn owner(plane: &str) -> String {
    // The identity itself is confidential (machine-id(5)): a hash of it is not.
    let machine = crate::act::machine::id().unwrap_or_default();
    digest(&format!("ftagent/{machine}/{plane}"), 8)
}
