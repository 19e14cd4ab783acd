//! What the daemon does about attacks by itself, for the audit log. Everything here happens on the thread
//! that records, after the act: the poll thread never waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    brain::Brain,
    mitigator::{Live, Owner, View},
};
use crate::{
    decide::{
        Event, Incident,
        mitigate::{Phase, RuleReport, memory},
    },
    record::audit::{Actor, ActorKind, AuditLog, Entry, Outcome},
    rule::{Action, Origin},
    serve::protocol::{GuardStatus, TripwireStatus},
};

/// How long a rule that is gone waits for the incident to say why.
const EXPLAINED: Duration = Duration::from_secs(3);
/// So the core begins when it says that it found no rule, once for each change of the reason …
const NO_RULE: &str = "no safe rule";
/// … and so the ladder, when what it asked for was taken back where it was, and not by it.
const TAKEN_BACK: &str = "taken back by hand";

/// What was there at the last look.
#[derive(Debug)]
pub(super) struct Trail {
    log: AuditLog,
    /// Rules that no operator made, by their numbers in the kernel.
    rules: BTreeMap<u32, Live>,
    /// Rules that failed, operators' too, and why.
    failed: BTreeMap<u32, String>,
    /// Rules that are gone, and since when.
    gone: Vec<(Live, Instant)>,
    guard: Armed,
    thinned: BTreeSet<String>,
    policed: BTreeSet<String>,
}

/// Where the guard is armed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Armed {
    cookies: BTreeSet<u16>,
    state: BTreeSet<crate::decide::guard::Ports>,
    closed: BTreeSet<crate::decide::guard::Ports>,
}

impl Armed {
    fn of(status: &GuardStatus) -> Self {
        let GuardStatus { cookies, state, closed, .. } = status;
        Self { cookies: cookies.clone(), state: state.clone(), closed: closed.clone() }
    }

    fn is_empty(&self) -> bool {
        self.cookies.is_empty() && self.state.is_empty() && self.closed.is_empty()
    }

    fn value(&self) -> Value {
        if self.is_empty() {
            return Value::Null;
        }
        json!({ "cookies": self.cookies, "state": self.state, "closed": self.closed })
    }
}

impl Trail {
    pub(super) fn new(log: AuditLog) -> Self {
        Self {
            log,
            rules: BTreeMap::new(),
            failed: BTreeMap::new(),
            gone: Vec::new(),
            guard: Armed::default(),
            thinned: BTreeSet::new(),
            policed: BTreeSet::new(),
        }
    }

    /// Says that so much was not told.
    pub(super) fn lose(&self, happened: u64) {
        self.log.lose(happened);
    }

    /// Logs an event.
    pub(super) fn event(&self, event: &Event, incident: Option<&Incident>) {
        let about = |action: &str, id: &str| {
            let entry = Entry::new(action, incident.map_or("", |incident| incident.vector.as_str())).about(id);
            entry.now(incident.map_or(Value::Null, summary))
        };
        self.log.after(match event {
            Event::Opened { id } => {
                let evidence = incident.and_then(|incident| incident.findings.first());
                about("incident.open", id).because(evidence.map_or("", |finding| finding.evidence.line.as_str()))
            }
            Event::Changed { id, what } if what.starts_with(NO_RULE) => {
                about("rule.refuse", id).because(what.as_str()).with(Outcome::Refused)
            }
            Event::Changed { id, what } => about("incident.change", id).because(what.as_str()),
            Event::Closed { id } => about("incident.close", id),
            Event::Ladder { id, rung, turn, what } => {
                let entry = Entry::new(&format!("ladder.{}", turn.as_str()), rung.as_str()).because(what.as_str());
                let entry = if what.starts_with(TAKEN_BACK) { entry.by(upstream(rung)) } else { entry };
                if id.is_empty() { entry } else { entry.about(id.as_str()) }
            }
            Event::Notice { what } => Entry::new("notice", "").because(what.as_str()),
        });
    }

    /// Logs what became of rules since the last look.
    pub(super) fn rules(&mut self, view: &View) {
        let own = view.rules.iter().filter(|live| !matches!(live.owner, Owner::Operator(_)));
        let mut before = std::mem::take(&mut self.rules);
        for live in own {
            let id = live.wanted.id;
            match before.remove(&id) {
                None => self.log.after(entry("rule.add", live).now(rule(live))),
                Some(old) if old.wanted.rule != live.wanted.rule => {
                    let enforced = old.wanted.rule.action == Action::Count && live.wanted.rule.action != Action::Count;
                    let action = if enforced { "rule.enforce" } else { "rule.change" };
                    self.log.after(entry(action, live).was(rule(&old)).now(rule(live)));
                }
                Some(_) => {}
            }
            self.rules.insert(id, live.clone());
        }
        self.gone.extend(before.into_values().map(|live| (live, Instant::now())));
        self.failures(view);
    }

    fn failures(&mut self, view: &View) {
        let failed = view.rules.iter().filter_map(|live| Some((live, live.failed.clone()?)));
        let mut now = BTreeMap::new();
        for (live, why) in failed {
            if self.failed.get(&live.wanted.id) != Some(&why) {
                self.log.after(entry("rule.fail", live).because(why.as_str()).with(Outcome::Failed));
            }
            now.insert(live.wanted.id, why);
        }
        self.failed = now;
    }

    /// Logs what is only looked at now and then: why rules are gone, the guard, and what is policed.
    pub(super) fn look(&mut self, brain: &Brain) {
        if !self.gone.is_empty() {
            self.endings(brain);
        }
        let (guard, tripwire) = brain.guards();
        if let Some(guard) = guard {
            self.guard(&guard);
        }
        if let Some(tripwire) = tripwire {
            self.tripwire(&tripwire);
        }
    }

    fn endings(&mut self, brain: &Brain) {
        let incidents = brain.incidents_shared();
        let report = |live: &Live| -> Option<&RuleReport> {
            let (Owner::Decision(id), Origin::Incident(incident)) = (live.owner, &live.wanted.rule.origin) else {
                return None;
            };
            let of = incidents.iter().find(|known| known.id == *incident)?;
            of.rules.iter().find(|rule| rule.id == id)
        };
        self.gone.retain(|(live, since)| {
            let told = report(live).filter(|report| matches!(report.state, Phase::Withdrawn | Phase::Ended));
            if told.is_none() && report(live).is_some() && since.elapsed() < EXPLAINED {
                return true;
            }
            let action = match told.map(|report| report.state) {
                Some(Phase::Withdrawn) => "rule.withdraw",
                _ => "rule.end",
            };
            let ended = entry(action, live).was(rule(live));
            self.log.after(match told {
                Some(report) => ended.because(report.reason.as_str()).now(json!({ "measured": report.measured })),
                None => ended,
            });
            false
        });
    }

    fn guard(&mut self, status: &GuardStatus) {
        let now = Armed::of(status);
        if now == self.guard {
            return;
        }
        let action = match (self.guard.is_empty(), now.is_empty()) {
            (true, _) => "guard.arm",
            (false, true) => "guard.disarm",
            (false, false) => "guard.change",
        };
        let against: Vec<&str> = status.vectors.iter().map(|vector| vector.as_str()).collect();
        let subject = if status.inherited_s.is_some() { "of an earlier life".to_owned() } else { against.join(", ") };
        self.log.after(Entry::new(action, subject).was(self.guard.value()).now(now.value()));
        self.guard = now;
    }

    fn tripwire(&mut self, status: &TripwireStatus) {
        for (class, pps) in status.thinned.iter().filter(|(class, _)| !self.thinned.contains(*class)) {
            let why = "the host suffers, and no rule against the attack is safe";
            self.log.after(Entry::new("class.thin", class.as_str()).because(why).now(json!({ "keeps_pps": pps })));
        }
        for class in self.thinned.iter().filter(|class| !status.thinned.contains_key(*class)) {
            self.log.after(Entry::new("class.restore", class.as_str()));
        }
        self.thinned = status.thinned.keys().cloned().collect();
        // Of those that are thinned there are lines already.
        let policed: BTreeSet<String> = status.classes.difference(&self.thinned).cloned().collect();
        if policed != self.policed {
            let changed: Vec<&str> = policed.symmetric_difference(&self.policed).map(String::as_str).collect();
            let (was, now) = (json!({ "classes": self.policed }), json!({ "classes": policed }));
            self.log.after(Entry::new("class.police", changed.join(", ")).was(was).now(now));
            self.policed = policed;
        }
    }
}

/// Whoever is at the other end of a rung.
fn upstream(rung: &str) -> Actor {
    Actor { kind: ActorKind::Provider, uid: None, login: Some(rung.to_owned()) }
}

fn entry(action: &str, live: &Live) -> Entry {
    let rule = &live.wanted.rule;
    let entry = Entry::new(action, rule.matches.to_string()).because(rule.reason.as_str());
    match &rule.origin {
        Origin::Incident(id) => entry.about(id.as_str()),
        _ => entry,
    }
}

fn rule(live: &Live) -> Value {
    let state = match (live.owner, live.wanted.rule.action) {
        (Owner::Inherited, _) => "inherited",
        (Owner::Decision(id), _) if memory::is_armed(id) => "armed",
        (_, Action::Count) => "shadow",
        _ => "enforcing",
    };
    let (action, ttl_ms) = (live.wanted.rule.action.to_string(), live.wanted.ttl_ms);
    json!({ "rule": live.owner.to_string(), "action": action, "state": state, "ttl_ms": ttl_ms })
}

fn summary(incident: &Incident) -> Value {
    let mut vectors: Vec<&str> = incident.vectors.iter().map(|vector| vector.as_str()).collect();
    vectors.dedup();
    json!({
        "severity": incident.severity, "confidence": incident.confidence, "vectors": vectors,
        "pps": incident.pps, "bps": incident.bps, "peak_pps": incident.peak_pps, "peak_bps": incident.peak_bps,
        "packets": incident.packets, "bytes": incident.bytes, "rules": incident.rules.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        decide::{Now, Vector, ladder::Turn},
        record::audit::{self, read},
    };

    /// What is told becomes these lines: actor, action, subject, result.
    fn told(tell: impl FnOnce(&mut Trail)) -> Vec<(String, String, String, &'static str)> {
        let state = tempfile::tempdir().unwrap();
        let rules = audit_rules();
        let log = AuditLog::start(state.path(), &rules, || {}).unwrap();
        tell(&mut Trail::new(log.clone()));
        log.stop();
        let mut reader = read::Reader::new(&audit::dir(state.path()), read::Wanted::default());
        let lines = reader.next(usize::MAX).unwrap().into_iter().map(|(_, line)| {
            let actor = line.actor.map_or(String::new(), |actor| {
                actor.login.map_or(actor.kind.as_str().to_owned(), |name| format!("{} {name}", actor.kind.as_str()))
            });
            (actor, line.action, line.subject, line.result.map_or("", Outcome::as_str))
        });
        lines.collect()
    }

    fn audit_rules() -> crate::config::Audit {
        crate::config::Audit { append_only: false, ..Config::default().audit }
    }

    fn line(actor: &str, action: &str, subject: &str, result: &'static str) -> (String, String, String, &'static str) {
        (actor.to_owned(), action.to_owned(), subject.to_owned(), result)
    }

    #[test]
    fn what_the_core_says_in_words_is_known_by_them() {
        let synthesis = include_str!("../decide/synthesis/mod.rs");
        assert!(synthesis.contains(&format!("format!(\"{NO_RULE} for ")), "the core says it otherwise");
        let climb = include_str!("../decide/ladder/climb.rs");
        assert!(climb.contains(&format!("format!(\"{TAKEN_BACK}, ")), "the ladder says it otherwise");
    }

    #[test]
    fn a_search_without_a_rule_and_what_others_took_back_have_lines_of_their_own() {
        let incident = Incident::new("i-1".to_owned(), Vector::UdpFlood, Now::default(), Now::default());
        let changed = |what: &str| Event::Changed { id: "i-1".to_owned(), what: what.to_owned() };
        let ladder = |what: &str| Event::Ladder {
            id: "i-1".to_owned(),
            rung: "ovh".to_owned(),
            turn: Turn::Stopped,
            what: what.to_owned(),
        };
        let lines = told(|trail| {
            for event in [
                changed("no safe rule for UDP: only 3 clean flows are known yet"),
                changed("rule 1 enforced: udp sport 123"),
                ladder("taken back by hand, and left so for the rest of the attack: divert 192.0.2.0/24"),
                ladder("denied by ann(1000)"),
            ] {
                trail.event(&event, Some(&incident));
            }
        });
        let wanted = [
            line("daemon", "rule.refuse", "udp_flood", "refused"),
            line("daemon", "incident.change", "udp_flood", "done"),
            line("provider ovh", "ladder.stopped", "ovh", "done"),
            line("daemon", "ladder.stopped", "ovh", "done"),
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn classes_that_are_policed_are_named_and_those_that_are_thinned_once() {
        let status = |classes: &[&str], thinned: &[&str]| TripwireStatus {
            policed: classes.len(),
            classes: classes.iter().map(|&name| name.to_owned()).collect(),
            thinned: thinned.iter().map(|&name| (name.to_owned(), 250.0)).collect(),
            early_ticks: 0,
        };
        let lines = told(|trail| {
            for (classes, thinned) in [
                (&["malformed", "udp_src_memcached"][..], &[][..]),
                (&["malformed", "udp_src_memcached"], &[]),
                (&["malformed", "udp_small", "udp_src_memcached"], &["udp_small"]),
                (&["malformed"], &[]),
            ] {
                trail.tripwire(&status(classes, thinned));
            }
        });
        let wanted = [
            line("daemon", "class.police", "malformed, udp_src_memcached", "done"),
            line("daemon", "class.thin", "udp_small", "done"),
            line("daemon", "class.restore", "udp_small", "done"),
            line("daemon", "class.police", "udp_src_memcached", "done"),
        ];
        assert_eq!(lines, wanted);
    }
}
