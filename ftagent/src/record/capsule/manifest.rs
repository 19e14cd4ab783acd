//! What stands at the beginning of a capsule.

use serde::{Deserialize, Serialize};

/// The format that this version writes, and the latest that it reads.
pub const VERSION: u32 = 1;
/// The name of the format, before its version.
const NAME: &str = "ftagent.capsule/";

/// The manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `ftagent.capsule/1`.
    pub format: String,
    /// What wrote it.
    pub agent: Agent,
    /// When it was written, milliseconds since 1970.
    pub created_unix_ms: i64,
    /// The incident; absent where it is a stretch of time.
    pub incident: Option<String>,
    /// What was done so that nobody can be recognised; absent where nothing was.
    pub anonymised: Option<Anonymised>,
    /// What is lacking, and why, one line each.
    pub notes: Vec<String>,
    /// The other members, in their order.
    pub members: Vec<Member>,
}

/// What wrote a capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// What it was built for: architecture and operating system.
    pub target: String,
    /// The version of its states.
    pub state: u32,
}

/// What was done to addresses and payload, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anonymised {
    /// How addresses were changed.
    pub addresses: String,
    /// What was done to payload.
    pub payload: String,
    /// What the decisions in it are.
    pub decisions: String,
    /// The incidents that opened when it was decided, as they were recorded, by vector.
    pub incidents_then: Vec<String>,
    /// Those that open in what the capsule holds.
    pub incidents_now: Vec<String>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Begins one.
    pub fn new(incident: Option<String>, created_unix_ms: i64) -> Self {
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        Self {
            format: format!("{NAME}{VERSION}"),
            agent: Agent { version: env!("CARGO_PKG_VERSION").to_owned(), target, state: crate::decide::STATE_VERSION },
            created_unix_ms,
            incident,
            anonymised: None,
            notes: Vec::new(),
            members: Vec::new(),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it and what to do, in words.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| format!("its manifest is no JSON: {error}"))?;
        let format = value.get("format").and_then(serde_json::Value::as_str).unwrap_or_default();
        let version = format.strip_prefix(NAME).and_then(|version| version.parse::<u32>().ok());
        match version {
            Some(VERSION) => {}
            Some(later) if later > VERSION => {
                let by = value.pointer("/agent/version").and_then(serde_json::Value::as_str).unwrap_or("a later one");
                return Err(format!(
                    "it is from the future: of format {later}, and this program reads {VERSION}; \
                     use ftagent {by} or newer, or export it again as format {VERSION}"
                ));
            }
            _ => return Err(format!("its format is `{format}`, and a capsule's is `{NAME}{VERSION}`")),
        }
        serde_json::from_value(value).map_err(|error| format!("its manifest lacks something: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_capsule_of_this_version_is_told_apart() {
        let mut good = serde_json::to_value(Manifest::new(Some("i".into()), 5)).unwrap();
        let read = |value: &serde_json::Value| Manifest::read(value.to_string().as_bytes());
        assert_eq!(read(&good).unwrap(), Manifest::new(Some("i".into()), 5));
        good["agent"]["version"] = "7.2.1".into();
        let cases = [
            ("ftagent.capsule/2", "from the future"),
            ("ftagent.capsule/2", "use ftagent 7.2.1 or newer"),
            ("ftagent.capsule/0", "its format is"),
            ("ftagent.capsule/99999999999", "its format is"),
            ("tarball/1", "its format is"),
        ];
        for (format, expected) in cases {
            good["format"] = format.into();
            let error = read(&good).unwrap_err();
            assert!(error.contains(expected), "{format}: {error}");
        }
        assert!(Manifest::read(b"{").unwrap_err().contains("no JSON"));
        assert!(Manifest::read(br#"{"format":"ftagent.capsule/1"}"#).unwrap_err().contains("lacks"));
    }
}
