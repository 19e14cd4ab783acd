//! The rules that operators made: what, why, by whom, until when.
//!
//! They are kept in a file and put back after a restart. Every rule ends: nothing is dropped for ever.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::store::{Place, StoreError, unix};
use crate::{
    decide::mitigate::Wanted,
    rule::{
        Action, FlowMatch, Origin, Rule,
        check::{Relation, relation},
    },
    sense::clock,
};

/// Rules of operators at most: half of the table, the other half is the daemon's.
pub const MOST: usize = ftagent_common::rules::RULES / 2;

const VERSION: u32 = 1;

/// A rule of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRule {
    /// Its number, never given to another; rules are tried in the order of their numbers.
    pub id: u32,
    /// What it matches.
    #[serde(rename = "match")]
    pub matches: FlowMatch,
    /// What it does.
    pub action: Action,
    /// Why, in the operator's words; may be empty.
    pub reason: String,
    /// Who: login name and uid of the caller.
    pub by: String,
    /// When it was made, seconds since the epoch.
    pub since_unix: u64,
    /// When it ends, seconds since the epoch, by the clock of when the file was written.
    pub expires_unix: u64,
    /// The same on the monotonic clock, nanoseconds: a wall clock that steps ends nothing early.
    #[serde(skip)]
    pub ends_ns: u64,
}

impl OperatorRule {
    /// Returns how long it is still in force.
    pub const fn remaining(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.ends_ns.saturating_sub(now_ns))
    }

    /// Returns it as one that is wanted in the kernel.
    pub fn wanted(&self, now_ns: u64) -> Wanted {
        let (matches, action, reason) = (self.matches.clone(), self.action, self.reason.clone());
        let rule = Rule { matches, action, origin: Origin::Operator(self.by.clone()), reason };
        let ttl_ms = u64::try_from(self.remaining(now_ns).as_millis()).unwrap_or(u64::MAX);
        Wanted { id: self.id, rule, ttl_ms }
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is matched.
    pub matches: FlowMatch,
    /// What is done.
    pub action: Action,
    /// For how long.
    pub lasts: Duration,
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The rule.
    pub rule: OperatorRule,
    /// It replaces one that did the same: it has its number.
    pub replaced: bool,
    /// What the operator should know of it.
    pub warning: Option<String>,
}

/// Why a rule is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddError {
    /// Another one does something else to the same packets.
    #[error(
        "rule {id} says `{action}` of the same packets (`{matches}`), and it is tried first: `ftagent rules remove \
         {id}` and add this one again"
    )]
    Contradicts {
        /// The other's number.
        id: u32,
        /// What it matches.
        matches: String,
        /// What it does.
        action: String,
    },
    /// There are too many.
    #[error("there are {MOST} rules of operators already, which is all there is room for: `ftagent rules remove` one")]
    Full,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    /// The next rule's number.
    next: u32,
    rules: Vec<OperatorRule>,
}

/// The rules of operators.
#[derive(Debug)]
pub struct OperatorRules {
    place: Place,
    saved: Saved,
    unsaved: Option<String>,
}

impl OperatorRules {
    /// Reads the file in the state directory; what has ended meanwhile is left out. A damaged file
    /// is set aside: there are no rules then, and the second value says what happened.
    ///
    /// # Errors
    /// Where the file exists and cannot be read.
    pub fn open(state: &Path) -> Result<(Self, Option<StoreError>), StoreError> {
        let (place, saved, damage) = Place::read(state.join("rules.json"), VERSION, |saved: &Saved| saved.version)?;
        let mut saved = saved.unwrap_or(Saved { version: VERSION, next: 1, rules: Vec::new() });
        let (now, now_ns) = (unix(SystemTime::now()), clock::monotonic_ns());
        saved.rules.retain(|rule| rule.expires_unix > now);
        for rule in &mut saved.rules {
            rule.ends_ns = now_ns.saturating_add(rule.expires_unix.saturating_sub(now).saturating_mul(1_000_000_000));
            // A number that was given must not be given again, whatever the file says.
            saved.next = saved.next.max(rule.id.saturating_add(1));
        }
        saved.rules.sort_by_key(|rule| rule.id);
        Ok((Self { place, saved, unsaved: None }, damage))
    }

    /// Adds a rule, or renews one that does the same. It is on disk when this returns, or
    /// [`Self::unsaved`] says why not.
    ///
    /// # Errors
    /// See [`AddError`].
    pub fn add(&mut self, request: Request) -> Result<Added, AddError> {
        let Request { matches, action, lasts, reason, by } = request;
        let (mut same, mut warning) = (None, None);
        for earlier in &self.saved.rules {
            match relation((&matches, action), (&earlier.matches, earlier.action)) {
                Relation::Same => same = same.or(Some(earlier.id)),
                Relation::Contradicts => {
                    let (id, matches, action) = (earlier.id, earlier.matches.to_string(), earlier.action.to_string());
                    return Err(AddError::Contradicts { id, matches, action });
                }
                Relation::NeverReached if warning.is_none() => warning = Some(hidden(earlier)),
                _ => {}
            }
        }
        if same.is_none() && self.saved.rules.len() >= MOST {
            return Err(AddError::Full);
        }
        let nanoseconds = u64::try_from(lasts.as_nanos()).unwrap_or(u64::MAX);
        let now = unix(SystemTime::now());
        let rule = OperatorRule {
            id: same.unwrap_or(self.saved.next),
            matches,
            action,
            reason,
            by,
            since_unix: now,
            expires_unix: now.saturating_add(lasts.as_secs().max(1)),
            ends_ns: clock::monotonic_ns().saturating_add(nanoseconds),
        };
        match self.saved.rules.iter_mut().find(|known| Some(known.id) == same) {
            Some(known) => *known = rule.clone(),
            None => {
                self.saved.next = self.saved.next.saturating_add(1);
                self.saved.rules.push(rule.clone());
            }
        }
        self.keep();
        // What it repeats is what hides it.
        Ok(Added { rule, replaced: same.is_some(), warning: warning.filter(|_| same.is_none()) })
    }

    /// Removes a rule; `None` where there is none of this number.
    pub fn remove(&mut self, id: u32) -> Option<OperatorRule> {
        let at = self.saved.rules.iter().position(|rule| rule.id == id)?;
        let rule = self.saved.rules.remove(at);
        self.keep();
        Some(rule)
    }

    /// Puts a rule back that [`Self::add`] replaced, or one that was removed.
    pub fn restore(&mut self, rule: OperatorRule) {
        self.saved.rules.retain(|known| known.id != rule.id);
        self.saved.rules.push(rule);
        self.saved.rules.sort_by_key(|rule| rule.id);
        self.keep();
    }

    /// Forgets what has ended, and returns it. Tries again to save where that failed.
    pub fn sweep(&mut self) -> Vec<OperatorRule> {
        let now_ns = clock::monotonic_ns();
        let ended: Vec<OperatorRule> = self.saved.rules.extract_if(.., |rule| rule.ends_ns <= now_ns).collect();
        if !ended.is_empty() || self.unsaved.is_some() {
            self.keep();
        }
        ended
    }

    /// Returns the rules in the order in which they are tried.
    pub fn rules(&self) -> &[OperatorRule] {
        &self.saved.rules
    }

    /// Returns why the file is behind what is in force, if it is; every sweep tries again.
    pub fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    fn keep(&mut self) {
        let (now, now_ns) = (unix(SystemTime::now()), clock::monotonic_ns());
        for rule in &mut self.saved.rules {
            // The wall clock may have stepped since.
            rule.expires_unix = now.saturating_add(rule.remaining(now_ns).as_secs().max(1));
        }
        let failed = self.place.write(&self.saved).err().map(|error| crate::chain(&error));
        if let Some(error) = failed.as_ref().filter(|_| self.unsaved.is_none()) {
            tracing::error!(%error, "The rules could not be saved; they stay in force until they end.");
        }
        self.unsaved = failed;
    }
}

fn hidden(earlier: &OperatorRule) -> String {
    let OperatorRule { id, matches, action, .. } = earlier;
    format!("it does nothing: rule {id} (`{matches} then {action}`) is tried first and takes all of its packets")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn request(text: &str, lasts: Duration) -> Request {
        let (matches, action) = crate::rule::parse(text).unwrap();
        Request { matches, action, lasts, reason: "why not".to_owned(), by: "root(0)".to_owned() }
    }

    fn texts(rules: &OperatorRules) -> Vec<String> {
        rules.rules().iter().map(|rule| format!("{}: {} then {}", rule.id, rule.matches, rule.action)).collect()
    }

    #[test]
    fn rules_outlive_the_daemon_and_end_at_their_time() {
        let dir = tempfile::tempdir().unwrap();
        let (mut rules, damage) = OperatorRules::open(dir.path()).unwrap();
        assert!(damage.is_none() && rules.rules().is_empty());
        rules.add(request("udp sport 123 then drop", HOUR)).unwrap();
        rules.add(request("udp sport 53 len 1400-1500 then rate-limit 300 pps", Duration::ZERO)).unwrap();
        rules.add(request("tcp dport 80 payload 0:474554 then count", HOUR)).unwrap();
        let ended = rules.sweep();
        assert_eq!(ended.iter().map(|rule| rule.id).collect::<Vec<_>>(), [2]);
        let before = rules.rules().to_vec();
        let (mut rules, _) = OperatorRules::open(dir.path()).unwrap();
        assert_eq!(texts(&rules), ["1: udp sport 123 then drop", "3: tcp dport 80 payload 0:474554 then count"]);
        for (then, now) in before.iter().zip(rules.rules()) {
            assert_eq!((&then.reason, &then.by, then.since_unix), (&now.reason, &now.by, now.since_unix));
            assert!(then.ends_ns.abs_diff(now.ends_ns) < 2_000_000_000, "it ends when it was to end");
        }
        assert_eq!(rules.remove(3).map(|rule| rule.id), Some(3));
        assert_eq!(rules.remove(3), None);
        assert_eq!(rules.add(request("udp sport 9 then drop", HOUR)).unwrap().rule.id, 4, "no number is given twice");
        let wanted = rules.rules()[0].wanted(clock::monotonic_ns());
        assert!((3_590_000..=3_600_000).contains(&wanted.ttl_ms), "{}", wanted.ttl_ms);
        assert_eq!(wanted.rule.origin, Origin::Operator("root(0)".to_owned()));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_kept_aside() {
        for text in ["", "{}", "{\"version\":99,\"next\":1,\"rules\":[]}", "\0\0"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("rules.json"), text).unwrap();
            let (mut rules, damage) = OperatorRules::open(dir.path()).unwrap();
            let damage = damage.unwrap().to_string();
            assert!(damage.contains("rules.json") && damage.contains("set aside as"), "{damage}");
            assert!(rules.rules().is_empty());
            rules.add(request("udp sport 123 then drop", HOUR)).unwrap();
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the damaged one is there to be looked at");
        }
    }

    #[test]
    fn what_repeats_renews_and_what_contradicts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut rules, _) = OperatorRules::open(dir.path()).unwrap();
        rules.add(request("udp sport 123 then drop", HOUR)).unwrap();
        let added = rules.add(request("port 0-65535 udp sport 123 then drop", 2 * HOUR)).unwrap();
        assert_eq!((added.rule.id, added.replaced, added.warning), (1, true, None));
        assert!(rules.rules()[0].remaining(clock::monotonic_ns()) > HOUR);
        let error = rules.add(request("udp sport 123 then rate-limit 5 pps", HOUR)).unwrap_err().to_string();
        assert!(
            error.contains("rule 1 says `drop` of the same packets") && error.contains("rules remove 1"),
            "{error}"
        );
        let added = rules.add(request("udp sport 123 len 1-9 then rate-limit 5 pps", HOUR)).unwrap();
        assert!(added.warning.unwrap().contains("rule 1 ("));
        for port in 1000..1000 + MOST - 2 {
            rules.add(request(&format!("udp sport {port} then drop"), HOUR)).unwrap();
        }
        assert_eq!(rules.add(request("udp sport 9 then drop", HOUR)), Err(AddError::Full));
        assert!(rules.add(request("udp sport 123 then drop", HOUR)).unwrap().replaced, "renewing needs no room");
    }

    #[test]
    fn a_disk_that_refuses_is_told_and_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let (mut rules, _) = OperatorRules::open(&state).unwrap();
        fs::remove_dir(&state).unwrap();
        rules.add(request("udp sport 123 then drop", HOUR)).unwrap();
        assert!(rules.unsaved().is_some_and(|why| why.contains("rules.json")));
        fs::create_dir(&state).unwrap();
        assert!(rules.sweep().is_empty() && rules.unsaved().is_none());
        assert_eq!(texts(&OperatorRules::open(&state).unwrap().0), ["1: udp sport 123 then drop"]);
    }
}
