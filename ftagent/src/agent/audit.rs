//! What the agent puts into the audit log: what operators ask for, how the daemon begins and ends, its
//! configuration, and its interfaces. What it does about attacks is in [`super::trail`].

use anyhow::{Result, anyhow};
use serde_json::{Value, json, to_value};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::{
    Agent, Ended,
    iface::{Iface, State},
};
use crate::{
    bpf::lists::Which,
    config::Config,
    feeds::{FeedEvent, FeedEventKind},
    record::audit::{
        self, Actor, ActorKind, AuditLog, Entry, Outcome,
        diff::{self, Flat, Remembered},
    },
    serve::{
        control::Caller,
        protocol::{Entry as ListEntry, Request, Word},
    },
};

/// What a request does, in the words of the log.
struct Act {
    action: &'static str,
    subject: String,
    reason: String,
    /// What is asked for, beyond that.
    asked: Value,
}

impl Act {
    fn new(action: &'static str, subject: impl ToString) -> Self {
        Self { action, subject: subject.to_string(), reason: String::new(), asked: Value::Null }
    }

    fn listed(action: &'static str, entry: &ListEntry) -> Self {
        let ListEntry { prefix, for_s, reason, force, ssh_client: _ } = entry;
        let asked = json!({ "for_s": for_s, "force": force });
        Self { action, subject: prefix.trunc().to_string(), reason: reason.clone(), asked }
    }

    /// Returns what a request does; `None` where it changes nothing.
    fn of(request: &Request) -> Option<Self> {
        let all = |class: &Option<String>| class.clone().unwrap_or_else(|| "every class".to_owned());
        Some(match request {
            Request::Block(entry) => Self::listed("block.add", entry),
            Request::Allow(entry) => Self::listed("allow.add", entry),
            Request::Unblock { prefix } => Self::new("block.remove", prefix.trunc()),
            Request::Unallow { prefix } => Self::new("allow.remove", prefix.trunc()),
            Request::RuleAdd(rule) => Self {
                reason: rule.reason.clone(),
                asked: json!({ "for_s": rule.for_s, "force": rule.force }),
                ..Self::new("rule.add", format!("{} then {}", rule.matches, rule.action))
            },
            Request::RuleRemove { id } => Self::new("rule.remove", id),
            Request::RuleWithdraw { id } => Self::new("rule.withdraw", id),
            Request::ConfirmFeed { name } => Self::new("feed.confirm", name),
            Request::BaselineAccept => Self::new("baseline.accept", ""),
            Request::BaselineReset { class } => Self::new("baseline.reset", all(class)),
            Request::BaselineImport { checkpoint } => {
                let asked = json!({ "sha256": sha256(checkpoint.as_bytes()), "bytes": checkpoint.len() });
                Self { asked, ..Self::new("baseline.import", "") }
            }
            Request::BaselineExport => Self::new("baseline.export", ""),
            Request::Accessed(accessed) => {
                Self { reason: accessed.detail.clone(), ..Self::new(accessed.what.as_str(), &accessed.id) }
            }
            Request::CaptureStart(asked) => Self {
                asked: json!({ "for_s": asked.for_s, "bytes": asked.bytes, "full": asked.full }),
                ..Self::new("capture.start", &asked.matches)
            },
            Request::CaptureStop { name } => Self::new("capture.stop", name.as_deref().unwrap_or_default()),
            Request::AlertTest { sink } => Self::new("alert.test", sink),
            Request::AlertSilence(asked) => Self {
                reason: asked.reason.clone(),
                asked: json!({ "for_s": asked.for_s }),
                ..Self::new("alert.silence", asked.sink.as_deref().unwrap_or("all"))
            },
            Request::Reload => Self::new("config.reload", ""),
            Request::Detach => Self::new("daemon.detach", ""),
            Request::LadderSay { word, dry_run: false } => match word {
                Word::Approve(id) => Self::new("ladder.approve", id),
                Word::Deny(id) => Self::new("ladder.deny", id),
                Word::Withdraw(id) => {
                    Self::new("ladder.withdraw", id.map_or("everything".to_owned(), |id| id.to_string()))
                }
            },
            Request::Status
            | Request::Ladder
            | Request::LadderPlan { .. }
            | Request::LadderSay { .. }
            | Request::Rules
            | Request::Explain(_)
            | Request::Incidents { .. }
            | Request::Alerts
            | Request::AlertTested { .. }
            | Request::Baseline { .. } => return None,
        })
    }
}

/// Returns who calls.
pub(super) fn actor(caller: &Caller) -> Actor {
    Actor::operator(caller.uid, &caller.login)
}

impl Agent {
    /// Does what is asked. What changes something is in the audit log before it is done, and what came of
    /// it afterwards.
    pub(super) fn audited(&mut self, request: Request, caller: &Caller) -> Result<Value> {
        let Some(Act { action, subject, reason, asked }) = Act::of(&request) else {
            return self.carry_out(request, caller);
        };
        let entry = Entry::new(action, subject).by(actor(caller)).was(self.present(&request));
        let intent = entry.clone().because(reason.as_str()).now(asked).with(Outcome::Asked);
        let result = match self.audit.before(intent) {
            // What is exported is no change, and too long to be repeated.
            Ok(()) if request == Request::BaselineExport => self.carry_out(request, caller).map(|data| (data, false)),
            Ok(()) => self.carry_out(request, caller).map(|data| (data, true)),
            Err(why) => Err(anyhow!(why)),
        };
        self.audit.after(match &result {
            Ok((data, shown)) => entry.because(reason).now(if *shown { data.clone() } else { Value::Null }),
            Err(error) => entry.because(format!("{error:#}")).with(Outcome::Refused),
        });
        result.map(|(data, _)| data)
    }

    /// Returns how that is now which a request would change; `null` where that is nothing.
    fn present(&self, request: &Request) -> Value {
        let listed = |which, prefix: &ipnet::IpNet| self.store.record(which, prefix.trunc()).map(to_value);
        let rule = |fits: &dyn Fn(&crate::act::operator::OperatorRule) -> bool| {
            self.rules.rules().iter().find(|rule| fits(rule)).map(to_value)
        };
        let present = match request {
            Request::Block(ListEntry { prefix, .. }) | Request::Unblock { prefix } => listed(Which::Block, prefix),
            Request::Allow(ListEntry { prefix, .. }) | Request::Unallow { prefix } => listed(Which::Allow, prefix),
            Request::RuleAdd(new) => rule(&|rule| rule.matches == new.matches && rule.action == new.action),
            Request::RuleRemove { id } => rule(&|rule| rule.id == *id),
            Request::RuleWithdraw { id } => self.decided_rule(*id).map(to_value),
            Request::BaselineAccept | Request::BaselineReset { .. } | Request::BaselineImport { .. } => {
                Some(to_value(self.brain.learning()))
            }
            _ => None,
        };
        // Plain data: there is nothing that could fail.
        present.and_then(Result::ok).unwrap_or_default()
    }

    /// Takes the configuration because of a signal; nobody knows whose.
    pub(super) fn hung_up(&mut self) -> Result<()> {
        let operator = Actor { kind: ActorKind::Operator, uid: None, login: None };
        let entry = Entry::new("config.reload", "").by(operator.clone());
        let asked = self.audit.before(entry.clone().because("SIGHUP").with(Outcome::Asked));
        let result = asked.map_err(|why| anyhow!(why)).and_then(|()| self.reload(operator));
        self.audit.after(match &result {
            Ok(()) => entry.because("SIGHUP"),
            Err(error) => entry.because(format!("{error:#}")).with(Outcome::Refused),
        });
        result
    }

    /// Logs what a reload changed.
    pub(super) fn audit_config(&self, before: &Config, by: Actor) {
        let now = values(&self.config);
        changed(&self.audit, diff::changes(&values(before), &now), "the file was read again", by);
        remember(&self.audit, &now);
    }

    /// Logs what became of interfaces since the last look.
    pub(super) fn audit_interfaces(&mut self) {
        for iface in &self.ifaces {
            let (state, reason) = state_of(iface);
            let before = self.seen_states.get(&iface.name).copied();
            if before == Some(state) || state == "new" {
                continue;
            }
            let mut after = json!({ "state": state, "slot": iface.slot });
            if let Some((ifindex, object)) = iface.attached().zip(after.as_object_mut()) {
                object.insert("ifindex".into(), ifindex.into());
                object.insert("mode".into(), iface.mode.as_str().into());
            }
            let was = before.map_or(Value::Null, |state| json!({ "state": state }));
            let entry = Entry::new(&format!("interface.{}", verb(state)), iface.name.as_str());
            self.audit.after(entry.was(was).now(after).because(reason));
            self.seen_states.insert(iface.name.clone(), state);
        }
    }

    /// Logs what became of a block list.
    pub(super) fn audit_feed(&self, event: &FeedEvent) {
        let name = event.name.as_str();
        let counts = |change: &crate::feeds::Change| json!({ "entries": change.entries, "added": change.added, "removed": change.removed });
        self.audit.after(match &event.kind {
            FeedEventKind::Accepted { change, .. } => Entry::new("feed.accept", name).now(counts(change)),
            FeedEventKind::Held { change, .. } => Entry::new("feed.hold", name)
                .now(counts(change))
                .because("it changed by more than half")
                .with(Outcome::Refused),
            FeedEventKind::Missing => {
                let why = "its file is gone; the last version stays in force";
                Entry::new("feed.read", name).because(why).with(Outcome::Failed)
            }
            FeedEventKind::Failed { error } => {
                Entry::new("feed.read", name).because(error.as_str()).with(Outcome::Failed)
            }
        });
    }
}

/// Starts the log, and says in it that the daemon begins and what its configuration is.
///
/// # Errors
/// Where its thread cannot be started.
pub(super) fn open(config: &Config) -> Result<AuditLog> {
    let cut = audit::read::without_end(&audit::dir(&config.paths.state)).ok().flatten();
    let log = AuditLog::start(&config.paths.state, &config.audit, || {
        if let Err(error) = crate::privileges::keep_for_audit() {
            warn!(%error, "The thread of the audit log could not drop its capabilities.");
        }
    })?;
    let now = values(config);
    let text = serde_json::to_vec(&now).unwrap_or_default();
    let start = Entry::new("daemon.start", env!("CARGO_PKG_VERSION"));
    let start = start.now(json!({ "pid": std::process::id(), "config_sha256": sha256(&text) }));
    log.after(match cut {
        Some(last) => {
            let why =
                "the life before wrote no end: it was killed or its disk failed, and what it did last may not be here";
            start.because(why).was(json!({ "seq": last.seq, "time": last.time }))
        }
        None => start,
    });
    if let Some(remembered) = log.dir().and_then(Remembered::load) {
        changed(&log, remembered.changes(&now), "changed while no daemon ran", Actor::DAEMON);
    }
    remember(&log, &now);
    Ok(log)
}

/// Says in the log how the daemon ended, and ends the log.
pub(super) fn close(log: &AuditLog, ended: &Result<Ended>) {
    let entry = Entry::new("daemon.stop", env!("CARGO_PKG_VERSION")).now(json!({ "pid": std::process::id() }));
    log.after(match ended {
        Ok(Ended::Stopped) => entry.because("a signal asked it to; the datapath stays attached"),
        Ok(Ended::Detached) => entry.because("an operator detached it; nothing is filtered any more"),
        Err(error) => entry.because(format!("{error:#}")).with(Outcome::Failed),
    });
    log.stop();
}

fn values(config: &Config) -> Flat {
    diff::flat(&to_value(&config.written).unwrap_or_default())
}

fn changed(
    log: &AuditLog,
    (before, after): (serde_json::Map<String, Value>, serde_json::Map<String, Value>),
    why: &str,
    by: Actor,
) {
    if !before.is_empty() || !after.is_empty() {
        let keys: std::collections::BTreeSet<&str> = before.keys().chain(after.keys()).map(String::as_str).collect();
        let subject = keys.into_iter().collect::<Vec<_>>().join(", ");
        log.after(Entry::new("config.change", subject).by(by).because(why).was(before.into()).now(after.into()));
    }
}

fn remember(log: &AuditLog, values: &Flat) {
    let Some(dir) = log.dir() else { return };
    if let Err(error) = Remembered::save(dir, values) {
        warn!(%error, "The configuration could not be noted: what changes until the next start will not be told.");
    }
}

fn sha256(bytes: &[u8]) -> String {
    audit::hex(&Sha256::digest(bytes))
}

fn state_of(iface: &Iface) -> (&'static str, String) {
    match &iface.state {
        State::New => ("new", String::new()),
        State::Protected { .. } => ("protected", String::new()),
        State::Probation { .. } => ("probation", "it has to prove that packets still arrive".to_owned()),
        State::Absent => ("absent", "the interface is gone, or its attachment was removed".to_owned()),
        State::Detached { reason, .. } => ("detached", reason.clone()),
    }
}

fn verb(state: &str) -> &'static str {
    match state {
        "protected" => "protect",
        "probation" => "attach",
        "absent" => "lose",
        _ => "detach",
    }
}
