//! Rules that worked: the next attack of the same kind meets them at once.

use std::collections::VecDeque;

use crate::decide::{Vector, synthesis::Choice};

/// Rules that are remembered.
const MOST: usize = 32;
/// For how long, nanoseconds.
const LASTS_NS: u64 = 6 * 3600 * 1_000_000_000;

/// A rule, and against what it worked.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The vectors of its incident.
    pub vectors: Vec<Vector>,
    /// The rule.
    pub choice: Choice,
    at_ns: u64,
}

/// The rules.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    signatures: VecDeque<Signature>,
}

impl Memory {
    /// Remembers a rule that worked. One that names a source is of one attack only.
    pub fn keep(&mut self, vectors: &[Vector], choice: &Choice, now_ns: u64) {
        if choice.matches.src.is_some() {
            return;
        }
        self.forget(&choice.matches);
        let signature = Signature { vectors: vectors.to_vec(), choice: choice.clone(), at_ns: now_ns };
        self.signatures.push_back(signature);
        if self.signatures.len() > MOST {
            self.signatures.pop_front();
        }
    }

    /// Forgets a rule that did harm.
    pub fn forget(&mut self, matches: &crate::rule::FlowMatch) {
        self.signatures.retain(|signature| signature.choice.matches != *matches);
    }

    /// Returns the rules against any of these vectors, latest first.
    pub fn against<'a>(&'a self, vectors: &'a [Vector], now_ns: u64) -> impl Iterator<Item = &'a Choice> {
        let fresh = move |signature: &&Signature| now_ns.saturating_sub(signature.at_ns) < LASTS_NS;
        let meets = |signature: &&Signature| signature.vectors.iter().any(|vector| vectors.contains(vector));
        self.signatures.iter().rev().filter(fresh).filter(meets).map(|signature| &signature.choice)
    }
}
