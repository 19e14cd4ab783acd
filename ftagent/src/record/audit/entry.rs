//! What is written down: who did what to what, and why.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::line::{Hex, VERSION, seal};
use crate::sense::clock;

/// Bytes of a text at most; longer ones are cut.
const MOST_TEXT: usize = 2048;
/// Bytes of `before` and of `after` at most; larger ones are replaced by their hash and length.
const MOST_VALUE: usize = 16 << 10;

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// What kind of somebody.
    pub kind: ActorKind,
    /// The uid of who called, as the kernel says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The name that belongs to it, of an operator; of a provider or fleet, its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
}

/// A kind of actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    /// The daemon by itself.
    Daemon,
    /// A person, or a program of theirs, through the control socket, a signal or the command line.
    Operator,
    /// The fleet that this node belongs to; nothing writes it yet.
    Fleet,
    /// The other end of a rung, a provider's say: what was taken back there. What the daemon asks of it is the daemon's
    /// act.
    Provider,
}

impl ActorKind {
    /// Returns the name that stands in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Operator => "operator",
            Self::Fleet => "fleet",
            Self::Provider => "provider",
        }
    }
}

impl Actor {
    /// The daemon.
    pub const DAEMON: Self = Self { kind: ActorKind::Daemon, uid: None, login: None };

    /// An operator, by uid and login name.
    pub fn operator(uid: u32, login: &str) -> Self {
        Self { kind: ActorKind::Operator, uid: Some(uid), login: Some(login.to_owned()) }
    }
}

/// What became of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is asked for, and not done yet: the line is on disk before it is done.
    Asked,
    /// It was done.
    Done,
    /// It was not done, on purpose; `reason` says why.
    Refused,
    /// It was tried and did not work; `reason` says why.
    Failed,
}

impl Outcome {
    /// Returns the name that stands in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Who.
    pub actor: Actor,
    /// What, as `thing.verb`: `block.add`, `rule.withdraw`.
    pub action: String,
    /// To what: a prefix, a rule's text, a name. May be empty.
    pub subject: String,
    /// Why; may be empty.
    pub reason: String,
    /// How it was before, where that says something.
    pub before: Option<Value>,
    /// How it is now.
    pub after: Option<Value>,
    /// The incident that it belongs to.
    pub incident: Option<String>,
    /// What became of it.
    pub result: Outcome,
}

impl Entry {
    /// Something that the daemon did.
    pub fn new(action: &str, subject: impl Into<String>) -> Self {
        Self {
            actor: Actor::DAEMON,
            action: action.to_owned(),
            subject: subject.into(),
            reason: String::new(),
            before: None,
            after: None,
            incident: None,
            result: Outcome::Done,
        }
    }

    /// Says who did it.
    #[must_use]
    pub fn by(self, actor: Actor) -> Self {
        Self { actor, ..self }
    }

    /// Says why.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Says how it was before; `null` says nothing.
    #[must_use]
    pub fn was(self, before: Value) -> Self {
        Self { before: Some(before).filter(|value| !value.is_null()), ..self }
    }

    /// Says how it is now; `null` says nothing.
    #[must_use]
    pub fn now(self, after: Value) -> Self {
        Self { after: Some(after).filter(|value| !value.is_null()), ..self }
    }

    /// Says to which incident it belongs.
    #[must_use]
    pub fn about(self, incident: impl Into<String>) -> Self {
        Self { incident: Some(incident.into()), ..self }
    }

    /// Says what became of it.
    #[must_use]
    pub fn with(self, result: Outcome) -> Self {
        Self { result, ..self }
    }
}

/// An entry with the time at which it happened.
#[derive(Clone, Debug)]
pub(super) struct Stamped {
    entry: Entry,
    unix_ns: u64,
    mono_ns: u64,
    late: bool,
}

impl Stamped {
    /// Stamps an entry with the present; `late`: the act was before the line.
    pub(super) fn new(entry: Entry, late: bool) -> Self {
        Self { entry, unix_ns: unix_ns(), mono_ns: clock::monotonic_ns(), late }
    }

    /// Writes its line behind others; returns its hash.
    pub(super) fn write(&self, text: &mut Vec<u8>, seq: u64, prev: Hex, boot: &str) -> Hex {
        let Entry { actor, action, subject, reason, before, after, incident, result } = &self.entry;
        let (before, after) = (before.as_ref().map(bounded), after.as_ref().map(bounded));
        let body = Body {
            v: VERSION,
            seq,
            time: &rfc3339(self.unix_ns),
            mono_ns: self.mono_ns,
            boot,
            actor,
            action: cut(action),
            subject: cut(subject),
            reason: cut(reason),
            before: before.as_ref(),
            after: after.as_ref(),
            incident: incident.as_deref().map(cut),
            result: *result,
            late: self.late,
            prev: prev.as_str(),
        };
        let from = text.len();
        // Every part is a text, a number or a value already: there is nothing that could fail.
        let _sound: serde_json::Result<()> = serde_json::to_writer(&mut *text, &body);
        seal(text, from)
    }
}

/// A line without its hash. The order of the members is the order in which they are written.
#[derive(Serialize)]
struct Body<'a> {
    v: u8,
    seq: u64,
    time: &'a str,
    mono_ns: u64,
    boot: &'a str,
    actor: &'a Actor,
    action: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subject: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<&'a str>,
    result: Outcome,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    prev: &'a str,
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MOST_TEXT)).unwrap_or_default()
}

/// Returns a value, or what stands for one that is too large.
fn bounded(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= MOST_VALUE {
        return value.clone();
    }
    json!({ "left_out_bytes": text.len(), "sha256": Hex::of(&[text.as_bytes()]).as_str() })
}

/// Returns nanoseconds since 1970, UTC.
pub(super) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Writes nanoseconds since 1970 as RFC 3339 with nine decimals.
pub(super) fn rfc3339(unix_ns: u64) -> String {
    humantime::format_rfc3339_nanos(SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns)).to_string()
}

/// Reads what [`rfc3339`] writes: seconds since 1970.
pub(super) fn unix_s(time: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}
