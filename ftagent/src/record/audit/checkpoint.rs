//! A signed statement of how far the log had come, and what its last line was.

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::{
    key::Key,
    line::{Hex, VERSION, hex, seal, unhex},
};

const CHECKPOINT: &[u8] = br#""checkpoint":"#;
const SIGNATURE: &[u8] = br#","signature":""#;

/// What is signed: exactly the bytes of this object as it stands in the line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// Version of the form.
    pub v: u8,
    /// The last line that it covers; 0: none. It stands in the line after that one.
    pub seq: u64,
    /// The hash of that line.
    pub head: String,
    /// When it was made, RFC 3339, UTC.
    pub time: String,
    /// Lines until the next checkpoint at most.
    pub every: u64,
    /// The first line that has not been removed because of its age; the log begins there or earlier.
    pub from: u64,
    /// Whether a file begins with it.
    pub segment: bool,
    /// The SHA-256 of the statement before; zeros where there is none.
    pub previous: String,
    /// The name of the key.
    pub key: String,
}

/// A statement with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// What it says.
    pub statement: Statement,
    text: Vec<u8>,
    signature: [u8; 64],
}

impl Checkpoint {
    /// Signs a statement.
    pub(super) fn sign(statement: Statement, key: &Key) -> Self {
        // Texts and numbers: there is nothing that could fail.
        let text = serde_json::to_vec(&statement).unwrap_or_default();
        let signature = key.sign(&text);
        Self { statement, text, signature }
    }

    /// Reads `"checkpoint":{…},"signature":"…"`, and nothing else.
    ///
    /// # Errors
    /// What is wrong.
    fn read_members(members: &[u8]) -> Result<Self, String> {
        let wrong = || "it is not a checkpoint as this version writes them".to_owned();
        let rest = members.strip_prefix(CHECKPOINT).ok_or_else(wrong)?;
        // The statement is flat, and its texts are hashes, a time and a name.
        let end = rest.iter().position(|byte| *byte == b'}').ok_or_else(wrong)?;
        let (text, rest) = rest.split_at_checked(end + 1).ok_or_else(wrong)?;
        let digits = rest.strip_prefix(SIGNATURE).and_then(|rest| rest.strip_suffix(b"\"")).ok_or_else(wrong)?;
        let signature = unhex(digits).ok_or_else(wrong)?;
        let statement: Statement = serde_json::from_slice(text).map_err(|_| wrong())?;
        let same = serde_json::to_vec(&statement).is_ok_and(|again| again == text);
        if !same || statement.v != VERSION {
            return Err(wrong());
        }
        Ok(Self { statement, text: text.to_vec(), signature })
    }

    /// Takes a checkpoint out of what stands between a line's number and its `prev`; `None` where the
    /// line is an entry.
    pub(super) fn of_line(members: &[u8]) -> Option<Result<Self, String>> {
        members.starts_with(CHECKPOINT).then(|| Self::read_members(members))
    }

    /// Reads a checkpoint that stands by itself: `{"checkpoint":{…},"signature":"…"}`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let members = text.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
        Self::read_members(members.ok_or("it is not a checkpoint as `ftagent audit export --checkpoint` prints it")?)
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, key: &VerifyingKey, id: &str) -> Result<(), String> {
        if self.statement.key != id {
            return Err(format!("it was signed with the key {}, and not with {id}", self.statement.key));
        }
        key.verify_strict(&self.text, &Signature::from_bytes(&self.signature))
            .map_err(|_| format!("its signature is not one of the key {id}"))
    }

    /// Returns the hash that the next statement names.
    pub(super) fn hash(&self) -> Hex {
        Hex::of(&[&self.text])
    }

    fn members(&self) -> Vec<u8> {
        [CHECKPOINT, &self.text, SIGNATURE, hex(&self.signature).as_bytes(), b"\""].concat()
    }

    /// Writes it as it stands by itself.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&[&b"{"[..], &self.members(), b"}"].concat()).into_owned()
    }

    /// Writes its line behind others; returns the line's hash. The line has no byte that does not follow
    /// from the statement, so it needs no checkpoint itself.
    pub(super) fn write(&self, text: &mut Vec<u8>, seq: u64, prev: Hex) -> Hex {
        let from = text.len();
        text.extend_from_slice(format!("{{\"v\":{VERSION},\"seq\":{seq},").as_bytes());
        text.extend_from_slice(&self.members());
        text.extend_from_slice(format!(",\"prev\":\"{prev}\"}}").as_bytes());
        seal(text, from)
    }
}
