//! A pattern: what packets of a tool look like, who says so, and how sure that is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{condition::Condition, field::Look};
use crate::rule::{FlowMatch, Subject};

/// What a pattern tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Packets that a family of bots makes.
    Botnet,
    /// Packets that an attack tool makes.
    Tool,
    /// A request or an answer of a protocol that is used for reflection. Ordinary where it was asked for.
    Reflection,
    /// Packets of a scanner.
    Scanner,
    /// A protocol, named so that people know what a flood consists of. Says nothing of intent.
    Protocol,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Botnet, Self::Tool, Self::Reflection, Self::Scanner, Self::Protocol];

    /// Returns its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Botnet => "botnet",
            Self::Tool => "tool",
            Self::Reflection => "reflection",
            Self::Scanner => "scanner",
            Self::Protocol => "protocol",
        }
    }

    /// Returns whether it says who made the packet.
    pub const fn names_a_tool(self) -> bool {
        matches!(self, Self::Botnet | Self::Tool)
    }
}

/// Where a pattern comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is part of the program.
    Shipped,
    /// An operator's file.
    File(PathBuf),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// Its name, unique: `a-z`, digits and `_`.
    pub name: String,
    /// What it tells.
    pub kind: Kind,
    /// The tool or family; empty where there is none.
    pub tool: String,
    /// What it is, in words.
    pub about: String,
    /// Where that is published.
    pub source: String,
    /// How sure it is that a packet which matches was made so, 0 to 1.
    pub confidence: f64,
    /// What the header has to be; absent where anything will do, what is malformed included.
    pub matches: Option<FlowMatch>,
    /// What has to hold as well.
    pub conditions: Vec<Condition>,
    /// What the payload has to contain.
    pub payload: Vec<Needle>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Bytes in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle {
    /// The bytes, where `mask` has bits.
    pub bytes: Vec<u8>,
    /// Which bits count; absent for all.
    pub mask: Option<Vec<u8>>,
    /// Upper and lower case of ASCII are the same.
    pub nocase: bool,
    /// The offsets at which it may begin, the last one included.
    pub from: usize,
    /// See [`Self::from`].
    pub to: usize,
}

impl Needle {
    /// Returns whether it stands at one place.
    pub const fn is_fixed(&self) -> bool {
        self.from == self.to
    }

    /// Returns whether it stands at an offset.
    pub fn is_at(&self, payload: &[u8], at: usize) -> bool {
        let Some(found) = payload.get(at..).and_then(|rest| rest.get(..self.bytes.len())) else { return false };
        match &self.mask {
            None if self.nocase => found.eq_ignore_ascii_case(&self.bytes),
            None => found == self.bytes,
            Some(mask) => found.iter().zip(mask).zip(&self.bytes).all(|((byte, mask), wanted)| byte & mask == *wanted),
        }
    }
}

impl Pattern {
    /// Returns whether the header is as it has to be, and what stands at a fixed place of the payload.
    pub fn fits(&self, look: &Look<'_>, subject: &Subject<'_>) -> bool {
        // Bytes at a place are the quickest to compare.
        self.payload.iter().all(|needle| !needle.is_fixed() || needle.is_at(look.payload, needle.from))
            && self.matches.as_ref().is_none_or(|matches| matches.matches(subject))
            && self.conditions.iter().all(|condition| condition.holds(look))
    }
}
