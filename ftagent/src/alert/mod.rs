//! Telling people: what is sent where, when, and until it has arrived.
//!
//! [`Post`] is the way in, and it never waits. A thread makes messages of what happened (`desk`, [`message`])
//! and puts them into the outbox ([`book`], [`log`]), which is on disk; each sink ([`sinks`]) has a thread of
//! its own (`courier`) that sends what waits for it, in order, until the other side has it. What the other
//! side is told twice after a crash has the same id both times.

pub mod book;
mod courier;
mod desk;
pub mod log;
pub mod message;
mod post;
pub mod sinks;
mod storm;
pub mod template;
pub mod words;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decide::Severity;

pub use post::{Answers, Post, SinkStatus, Status, Trouble, try_once};

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An incident opened.
    Opened,
    /// It is worse than it was.
    Escalated,
    /// Something about it changed.
    Changed,
    /// The first rule drops.
    Mitigated,
    /// What is done about it costs ordinary traffic.
    Collateral,
    /// It is over.
    Closed,
    /// Something is wrong with the agent itself.
    Trouble,
    /// It is right again.
    Recovered,
    /// Many messages in one.
    Digest,
    /// Somebody tries a sink.
    Test,
}

impl Kind {
    /// What a sink can be told of, or not.
    pub const EVENTS: [Self; 8] = [
        Self::Opened,
        Self::Escalated,
        Self::Changed,
        Self::Mitigated,
        Self::Collateral,
        Self::Closed,
        Self::Trouble,
        Self::Recovered,
    ];

    /// Returns the name that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Escalated => "escalated",
            Self::Changed => "changed",
            Self::Mitigated => "mitigated",
            Self::Collateral => "collateral",
            Self::Closed => "closed",
            Self::Trouble => "trouble",
            Self::Recovered => "recovered",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }

    /// Returns whether nothing follows it.
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Closed | Self::Recovered)
    }

    /// Returns whether it is the first that is told of something.
    pub const fn is_begin(self) -> bool {
        matches!(self, Self::Opened | Self::Trouble)
    }
}

/// What is new about an incident, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something about it changed; it is told with what else changes, at leisure.
    Changed(String),
    /// More is done, or asked for, against it: a step upstream, an approval that is waited for. It is told soon.
    Escalated(String),
}

/// Ends the topics of messages about what is left upstream of an attack that is over; an incident's own has no colon.
const UPSTREAM: &str = ":upstream";

/// A message, ready to be written in the words of any sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Unique, and the same however often it is sent.
    pub id: String,
    /// What it belongs to: the id of an incident, or `health:…`. Messages of a topic arrive in order.
    pub topic: String,
    /// What happened.
    pub kind: Kind,
    /// How bad it is now.
    pub severity: Severity,
    /// When, milliseconds since 1970.
    pub at_ms: i64,
    /// When the topic began.
    pub began_ms: i64,
    /// When it ended; absent while it goes on.
    pub ended_ms: Option<i64>,
    /// The machine.
    pub node: String,
    /// One line that says all.
    pub title: String,
    /// The rest, a line each.
    pub lines: Vec<String>,
    /// Short values for sinks that lay them out: label and value.
    pub fields: Vec<(String, String)>,
    /// Values by the names that templates use.
    pub facts: BTreeMap<String, String>,
    /// Numbers for machines: packets and bits a second, packets, bytes, shares from 0 to 1.
    pub numbers: BTreeMap<String, f64>,
    /// The vectors, strongest first.
    pub vectors: Vec<String>,
    /// Where more is to be seen.
    pub link: Option<String>,
}

impl Alert {
    /// Returns everything as plain text: the title, an empty line, the rest.
    pub fn text(&self) -> String {
        format!("{}\n\n{}", self.title, self.body())
    }

    /// Returns all but the title.
    pub fn body(&self) -> String {
        let link = self.link.iter().map(|link| link.as_str());
        self.lines.iter().map(String::as_str).chain(link).collect::<Vec<_>>().join("\n")
    }

    /// Returns what identifies its topic beyond this machine.
    pub fn key(&self) -> String {
        format!("ftagent/{}/{}", self.node, self.topic)
    }
}

/// Cuts a text to a number of characters; what was cut ends in `…`.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}
