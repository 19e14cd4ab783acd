//! `[remote]`: where a copy of what was recorded goes.

use std::path::PathBuf;

use super::{Problem, raw::RawRemote};

/// Where copies go: a bucket of an S3-compatible store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `https://s3.example.net`, without the bucket.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// What object names begin with; empty or ending in a slash.
    pub prefix: String,
    /// The region that signatures name.
    pub region: String,
    /// The bucket is in the path, not in the host name.
    pub path_style: bool,
    /// A file with `access_key_id = …` and `secret_access_key = …`, for its owner alone.
    pub credentials: PathBuf,
    /// Certificates that the endpoint's is signed by; absent: those of public authorities.
    pub ca_file: Option<PathBuf>,
    /// Bytes of a part.
    pub part_bytes: u64,
}

/// Parts that S3 takes, MiB.
const PART_MIB: std::ops::RangeInclusive<i64> = 5..=1024;

pub(super) fn checked(raw: RawRemote, problems: &mut Vec<Problem>) -> Option<Remote> {
    if raw.endpoint.is_empty() {
        return None;
    }
    let mut wrong = |path: &str, what: String, remedy: &str| problems.push(Problem::new(path, what, remedy));
    let host = raw.endpoint.strip_prefix("https://").or_else(|| raw.endpoint.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.trim_end_matches('/').contains(['/', '?', '#', '@'])) {
        let what = format!("\"{}\" is not an address of a store", raw.endpoint);
        wrong("remote.endpoint", what, "write it as \"https://s3.example.net\", without bucket and credentials");
    }
    // What every store takes: Amazon S3 User Guide, "General purpose bucket naming rules".
    let odd = |c: char| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
    if !(3..=63).contains(&raw.bucket.len()) || raw.bucket.contains(odd) {
        let what = format!("\"{}\" cannot be the name of a bucket", raw.bucket);
        wrong("remote.bucket", what, "3 to 63 of a-z, 0-9, \"-\" and \".\"");
    }
    if raw.prefix.starts_with('/') || raw.prefix.contains("//") || raw.prefix.contains(char::is_control) {
        wrong("remote.prefix", format!("\"{}\" is odd", raw.prefix), "write it as \"node1\" or \"edge/node1\"");
    }
    if raw.region.is_empty() {
        wrong("remote.region", "is empty".to_owned(), "\"us-east-1\" where the store does not care");
    }
    for (path, text) in [("remote.credentials", &raw.credentials), ("remote.ca_file", &raw.ca_file)] {
        let needed = path == "remote.credentials";
        if !text.starts_with('/') && (needed || !text.is_empty()) {
            wrong(path, format!("\"{text}\" is not an absolute path"), "start it with \"/\"");
        }
    }
    if !PART_MIB.contains(&raw.part_mib) {
        wrong("remote.part_mib", format!("{} is out of range", raw.part_mib), "from 5 to 1024");
    }
    let prefix = raw.prefix.trim_end_matches('/');
    Some(Remote {
        prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        endpoint: raw.endpoint,
        bucket: raw.bucket,
        region: raw.region,
        path_style: raw.path_style,
        credentials: raw.credentials.into(),
        ca_file: (!raw.ca_file.is_empty()).then(|| raw.ca_file.into()),
        part_bytes: u64::try_from(raw.part_mib).unwrap_or(0) << 20,
    })
}
