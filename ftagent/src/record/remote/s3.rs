//! One bucket of an S3-compatible store: objects in one request, or in parts that outlive a restart.
//!
//! Requests are signed as URLs (AWS Signature Version 4, query parameters), one request at a time, each as
//! long as its own signature.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle, actions::CreateMultipartUpload};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use ureq::{Agent, Body, http::Response};

use crate::{act::http::tls, config::Remote as Settings};

/// How long a signed request is valid.
const VALID: Duration = Duration::from_secs(15 * 60);
/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 256 * 1024;
/// The smallest part but the last that S3 takes.
pub const LEAST_PART: u64 = 5 << 20;
/// Parts of an object at most.
const MOST_PARTS: u64 = 10_000;

/// Why a copy was not made.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// What was configured cannot be used.
    #[error("{path}: {what}", path = path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        what: String,
    },
    /// The file of certificates cannot be used: its name, what is wrong, and the remedy.
    #[error("{0}")]
    Certificates(String),
    /// The endpoint or the bucket cannot be written as a URL.
    #[error("`remote.endpoint` and `remote.bucket`: {0}")]
    Url(String),
    /// The store cannot be reached.
    #[error("{0} cannot be reached")]
    Reach(String, #[source] Box<ureq::Error>),
    /// The store refused.
    #[error("the store refused to {what}: {status} {code}{remedy}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// S3's code, or what the answer begins with.
        code: String,
        /// What to do, with a colon before it; empty where nobody knows.
        remedy: &'static str,
    },
    /// The store's answer makes no sense.
    #[error("the store's answer to {0} makes no sense: {1}")]
    Answer(&'static str, String),
    /// A file cannot be read, or progress not be saved.
    #[error("{path}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RemoteError {
    /// Returns whether the store may have forgotten the upload: stores say so in different ways.
    const fn may_be_lost(&self) -> bool {
        matches!(self, Self::Refused { status: 400..500, .. })
    }
}

/// How far a file is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The file's length when the copy began.
    pub bytes: u64,
    /// Bytes of a part.
    pub part_bytes: u64,
    /// The store's name for the upload, while it is under way.
    pub upload: Option<String>,
    /// The store's answers to the parts so far, in order.
    pub parts: Vec<String>,
    /// All of it is there.
    pub done: bool,
    /// When the file had last been changed when the copy began, nanoseconds since 1970; 0: not noted.
    #[serde(default)]
    pub changed_ns: i64,
}

/// A bucket.
pub struct Store {
    bucket: Bucket,
    credentials: Credentials,
    agent: Agent,
    prefix: String,
    part_bytes: u64,
}

impl Store {
    /// Reads credentials and certificates. Nothing is asked of the store.
    ///
    /// # Errors
    /// See [`RemoteError`].
    pub fn open(settings: &Settings) -> Result<Self, RemoteError> {
        let style = if settings.path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let endpoint = settings.endpoint.parse().map_err(|error| RemoteError::Url(format!("{error}")))?;
        let bucket = Bucket::new(endpoint, style, settings.bucket.clone(), settings.region.clone())
            .map_err(|error| RemoteError::Url(error.to_string()))?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .timeout_per_write(Some(Duration::from_secs(60)))
            .user_agent(concat!("ftagent/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls(settings.ca_file.as_deref()).map_err(RemoteError::Certificates)?)
            .build();
        Ok(Self {
            bucket,
            credentials: credentials(&settings.credentials)?,
            agent: config.new_agent(),
            prefix: settings.prefix.clone(),
            part_bytes: settings.part_bytes.max(LEAST_PART),
        })
    }

    /// Copies a file, from where `progress` says on; `save` is called whenever that has changed.
    ///
    /// # Errors
    /// See [`RemoteError`]; what was copied is in `progress`, and is not copied again.
    pub fn copy(
        &self,
        name: &str,
        path: &Path,
        progress: &mut Progress,
        save: &mut dyn FnMut(&Progress) -> io::Result<()>,
    ) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let part_bytes = self.part_bytes.max(bytes.div_ceil(MOST_PARTS));
        let object = format!("{}{name}", self.prefix);
        if progress.bytes != bytes || progress.part_bytes != part_bytes {
            self.abort(&object, progress);
            *progress = Progress { bytes, part_bytes, ..Progress::default() };
        }
        if progress.done {
            return Ok(());
        }
        if bytes <= part_bytes {
            let mut body = Vec::new();
            file.read_to_end(&mut body).map_err(failed)?;
            let url = self.bucket.put_object(Some(&self.credentials), &object).sign(VALID);
            accepted("store an object", self.send(url.as_str(), &body), &object)?;
        } else {
            let resumed = progress.upload.is_some();
            match self.in_parts(&object, (&mut file, path), progress, save) {
                // Parts do not live for ever. Where that is not why, a new one is refused too.
                Err(error) if resumed && error.may_be_lost() => {
                    *progress = Progress { bytes, part_bytes, ..Progress::default() };
                    self.in_parts(&object, (&mut file, path), progress, save)?;
                }
                result => result?,
            }
        }
        *progress = Progress { bytes, part_bytes, done: true, ..Progress::default() };
        save(progress).map_err(failed)
    }

    fn in_parts(
        &self,
        object: &str,
        (file, path): (&mut File, &Path),
        progress: &mut Progress,
        save: &mut dyn FnMut(&Progress) -> io::Result<()>,
    ) -> Result<(), RemoteError> {
        let failed = |source| RemoteError::File { path: path.to_owned(), source };
        let credentials = Some(&self.credentials);
        let upload = match &progress.upload {
            Some(upload) => upload.clone(),
            None => {
                let what = "begin an object of parts";
                let url = self.bucket.create_multipart_upload(credentials, object).sign(VALID);
                let answer = accepted(what, self.agent.post(url.as_str()).send_empty(), object)?;
                let parsed = CreateMultipartUpload::parse_response(&text(answer));
                let upload = parsed.map_err(|error| RemoteError::Answer(what, error.to_string()))?;
                progress.upload = Some(upload.upload_id().to_owned());
                save(progress).map_err(failed)?;
                upload.upload_id().to_owned()
            }
        };
        let parts = progress.bytes.div_ceil(progress.part_bytes);
        for number in progress.parts.len() as u64..parts {
            let from = number * progress.part_bytes;
            let length = progress.part_bytes.min(progress.bytes - from);
            let mut body = Vec::new();
            file.seek(SeekFrom::Start(from)).map_err(failed)?;
            file.take(length).read_to_end(&mut body).map_err(failed)?;
            let number = u16::try_from(number + 1).unwrap_or(u16::MAX);
            let url = self.bucket.upload_part(credentials, object, number, &upload).sign(VALID);
            let answer = accepted("store a part", self.send(url.as_str(), &body), object)?;
            let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok());
            let tag = tag.ok_or_else(|| RemoteError::Answer("store a part", "it has no ETag".to_owned()))?;
            progress.parts.push(tag.to_owned());
            save(progress).map_err(failed)?;
        }
        let tags = progress.parts.iter().map(String::as_str);
        let action = self.bucket.complete_multipart_upload(credentials, object, &upload, tags);
        let (url, what) = (action.sign(VALID), "put the parts together");
        let answer = text(accepted(what, self.agent.post(url.as_str()).send(action.body()), object)?);
        // It may have answered before it knew.
        if answer.contains("<Error>") {
            return Err(RemoteError::Answer(what, code(&answer)));
        }
        Ok(())
    }

    /// Sends a body once the store has said that it wants it: one that refuses closes the line, and why it
    /// did would be lost behind that.
    fn send(&self, url: &str, body: &[u8]) -> Result<Response<Body>, ureq::Error> {
        self.agent.put(url).header("expect", "100-continue").send(body)
    }

    /// Has the store forget parts that nobody will ask for; what it cannot it forgets by itself.
    fn abort(&self, object: &str, progress: &Progress) {
        let Some(upload) = &progress.upload else { return };
        let url = self.bucket.abort_multipart_upload(Some(&self.credentials), object, upload).sign(VALID);
        let _forgets_by_itself = self.agent.delete(url.as_str()).call();
    }
}

/// Reads an answer that says yes, or why not.
fn accepted(
    what: &'static str,
    answer: Result<Response<Body>, ureq::Error>,
    object: &str,
) -> Result<Response<Body>, RemoteError> {
    let answer = answer.map_err(|error| RemoteError::Reach(format!("the store of {object}"), Box::new(error)))?;
    let status = answer.status().as_u16();
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let code = code(&text(answer));
    let remedy = match (status, code.as_str()) {
        (_, "RequestTimeTooSkewed") => ": this machine's clock is wrong",
        (_, "NoSuchBucket") => ": make the bucket, or mend `remote.bucket`",
        (401 | 403, _) => ": look at `remote.credentials`, and whether they may write to the bucket",
        (301 | 307, _) => ": look at `remote.region` and `remote.endpoint`",
        _ => "",
    };
    Err(RemoteError::Refused { what, status, code, remedy })
}

fn text(mut answer: Response<Body>) -> String {
    answer.body_mut().with_config().limit(ANSWER_BYTES).read_to_string().unwrap_or_default()
}

/// Returns S3's code in an answer, or how that begins.
fn code(answer: &str) -> String {
    let inner = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    inner.map_or_else(|| answer.chars().filter(|c| !c.is_control()).take(80).collect(), |(code, _)| code.to_owned())
}

/// Reads the credentials. Nothing of them is ever told.
fn credentials(path: &Path) -> Result<Credentials, RemoteError> {
    let wrong = |what: String| RemoteError::Settings { path: path.to_owned(), what };
    let read = || -> io::Result<(String, u32)> {
        let mut file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok((text, mode))
    };
    let (text, mode) = read().map_err(|error| wrong(format!("cannot be read ({error})")))?;
    if mode & 0o077 != 0 {
        return Err(wrong(format!("may be read by others (mode {:o}): `chmod 600` it", mode & 0o777)));
    }
    let value = |key: &str| {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(k, v)| (k.trim(), v.trim().trim_matches('"'))).find(|(k, _)| k.trim_start_matches("aws_") == key)
    };
    let needed = |key: &str| {
        let found = value(key).map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty());
        found.ok_or_else(|| wrong(format!("does not have a line `{key} = …`")))
    };
    let (key, secret) = (needed("access_key_id")?, needed("secret_access_key")?);
    Ok(match value("session_token") {
        Some((_, token)) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    })
}
