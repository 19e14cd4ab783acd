//! Requests to providers and receivers of alerts: one at a time, bounded in time and size, never redirected
//! (a redirect would carry credentials elsewhere).

use std::{io::Read as _, path::Path, time::Duration};

use thiserror::Error;
use ureq::{
    Agent,
    http::{self, HeaderMap, Method},
    tls::{Certificate, PemItem, RootCerts, TlsConfig},
};

/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 1 << 20;

/// Why there is no answer. What was asked is not told: addresses may hold secrets.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The request cannot be written.
    #[error("the request cannot be made: {0}")]
    Request(String),
    /// Nobody answered.
    #[error("{host} does not answer: {why}")]
    Reach {
        /// The host, without path and query.
        host: String,
        /// Why, in words.
        why: String,
    },
    /// A file of certificates cannot be used.
    #[error("{0}")]
    Certificates(String),
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most 1 MiB of it.
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns whether it says that all is well.
    pub const fn is_ok(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    /// Returns a header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns how long to wait before the next try (`Retry-After` in seconds, RFC 9110, 10.2.3).
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds: f64 = self.header("retry-after")?.trim().parse().ok()?;
        (0.0..1e6).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
    }
}

/// Makes requests.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
}

impl Client {
    /// `timeout` is for a request as a whole; `ca_file`: certificates in place of the public ones.
    ///
    /// # Errors
    /// Where the file cannot be used.
    pub fn new(timeout: Duration, ca_file: Option<&Path>) -> Result<Self, HttpError> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(timeout))
            .user_agent(concat!("ftagent/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls(ca_file).map_err(HttpError::Certificates)?)
            .build();
        Ok(Self { agent: config.new_agent() })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Where there is none; an answer with a bad status is an answer.
    pub fn send(&self, method: &Method, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply, HttpError> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let host = || {
            let behind = url.split_once("://").map_or(url, |(_, rest)| rest);
            behind.split(['/', '?', '#']).next().unwrap_or_default().rsplit('@').next().unwrap_or_default().to_owned()
        };
        let failed = |error: ureq::Error| HttpError::Reach { host: host(), why: error.to_string() };
        // Without a body there is no length to be told either.
        let answer = if body.is_empty() && !matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
            let request = request.body(()).map_err(|error| HttpError::Request(error.to_string()))?;
            self.agent.run(request)
        } else {
            let request = request.body(body).map_err(|error| HttpError::Request(error.to_string()))?;
            self.agent.run(request)
        };
        let mut answer = answer.map_err(failed)?;
        let mut body = Vec::new();
        let mut reader = answer.body_mut().as_reader().take(ANSWER_BYTES);
        reader.read_to_end(&mut body).map_err(|error| HttpError::Reach { host: host(), why: error.to_string() })?;
        Ok(Reply { status: answer.status().as_u16(), headers: answer.headers().clone(), body })
    }
}

/// Returns how certificates are judged.
///
/// # Errors
/// What is wrong with the file, with its name.
pub fn tls(ca_file: Option<&Path>) -> Result<TlsConfig, String> {
    let Some(path) = ca_file else { return Ok(TlsConfig::builder().build()) };
    let wrong = |what: String| format!("{}: {what}", path.display());
    let pem = std::fs::read(path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
    let items = ureq::tls::parse_pem(&pem).collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|error| wrong(format!("is not PEM ({error})")))?;
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<Certificate<'static>> = items.into_iter().filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(wrong("has no certificate in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}
