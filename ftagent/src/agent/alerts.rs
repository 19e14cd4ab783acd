//! What the agent tells people: it hands over how things are, and answers what operators ask about it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json, to_value};
use tracing::{error, info, warn};

use super::{Agent, brain::Brain, report};
use crate::{
    alert::{Post, Trouble},
    decide::{Severity, ladder::LadderMode},
    serve::{
        control::Caller,
        protocol::{AlertSilence, Alerts, LadderStatus, RungView},
    },
};

impl Agent {
    /// Starts the threads that tell people.
    pub(super) fn start_alerts(&mut self) -> Result<Post> {
        let started = Post::start(&self.config.paths.state, &self.config.alerts, self.audit.clone());
        let (post, told) = started.context("starting to tell of alerts")?;
        if let Some(told) = told {
            warn!("{told}");
            self.warnings.push(told);
        }
        self.post = Some(post.clone());
        Ok(post)
    }

    /// Says that the disk hangs, which whoever waits for it cannot.
    pub(super) fn watch_disk(&self) {
        let Some(waited) = self.brain.hangs().filter(|_| self.brain.unwritable().is_none()) else { return };
        let why = format!(
            "the disk of {} has not answered for {} s: attacks are removed all the same, but nothing is written, and \
             messages wait that are written down before they are sent; look at that disk (`dmesg`)",
            self.config.paths.state.display(),
            waited.as_secs()
        );
        error!("{why}");
        self.brain.set_unwritable(Some(why));
    }

    /// Tells of what is wrong with the agent itself, everything each time.
    pub(super) fn tell_health(&self) {
        let Some(post) = &self.post else { return };
        let one = |key: &str, severity: Severity, text: Option<String>| {
            text.map(|text| Trouble { key: key.to_owned(), severity, text })
        };
        let lost = self.ifaces.iter().filter(|iface| iface.attached().is_none());
        let lost = lost.map(|iface| Trouble {
            key: iface.name.clone(),
            severity: Severity::Critical,
            text: format!("{} is NOT protected: {}", iface.name, report::state_without_times(iface)),
        });
        post.health("interface", lost.collect());
        let audit = self.audit.status().and_then(|status| status.trouble);
        let audit = audit.map(|why| format!("the audit log cannot be written: {why}"));
        post.health("audit", one("log", Severity::High, audit).into_iter().collect());
        let rules = self.rules_trouble().first().map(|first| format!("rules are not as they are wanted: {first}"));
        post.health("rules", one("kernel", Severity::High, rules).into_iter().collect());
        post.health("control", one("socket", Severity::High, self.deaf.clone()).into_iter().collect());
        let unsaved = self.store.unsaved().map(|why| format!("block and allow entries are not saved: {why}"));
        let state = [
            one("disk", Severity::High, self.brain.unwritable()),
            one("entries", Severity::Medium, unsaved),
            one("learned", Severity::Medium, self.brain.trouble()),
        ];
        post.health("state", state.into_iter().flatten().collect());
        let capture = self.capture_status().and_then(|capture| capture.trouble);
        post.health("capture", one("disk", Severity::Low, capture).into_iter().collect());
        post.health("plane", plane_troubles(&self.brain.ladder()));
    }

    /// Returns what the operator should know of alerts.
    pub(super) fn alert_warnings(&self) -> Vec<String> {
        let Some(status) = self.post.as_ref().map(Post::status) else { return Vec::new() };
        let failing = status.sinks.into_iter().filter_map(|sink| {
            let trouble = sink.trouble?;
            Some(format!("alerts do not reach the sink `{}`: {trouble}; {} wait", sink.name, sink.waiting))
        });
        failing.chain(status.disk).collect()
    }

    pub(super) fn alerts(&self) -> Result<Alerts> {
        let post = self.post.as_ref().context("nobody is told yet: the agent is starting")?;
        Ok(Alerts { now_ms: crate::sense::clock::unix_ms(), status: post.status(), history: post.history() })
    }

    pub(super) fn test_alert(&self, sink: &str) -> Result<Value> {
        let post = self.post.as_ref().context("nobody is told yet: the agent is starting")?;
        Ok(json!({ "test": post.test(sink)? }))
    }

    /// Returns what came of a test; `null` while nothing did.
    pub(super) fn tested_alert(&self, sink: &str, test: u64) -> Result<Value> {
        Ok(to_value(self.post.as_ref().and_then(|post| post.tested(sink, test)))?)
    }

    pub(super) fn silence(&self, asked: &AlertSilence, caller: &Caller) -> Result<Value> {
        let post = self.post.as_ref().context("nobody is told yet: the agent is starting")?;
        let until_ms = post.silence(asked.sink.as_deref(), Duration::from_secs(asked.for_s))?;
        let sink = asked.sink.as_deref().unwrap_or("all");
        info!(by = %caller.name, sink, seconds = asked.for_s, "Alerts were silenced.");
        Ok(json!({ "until_ms": until_ms, "sink": asked.sink }))
    }
}

/// Says what is upstream, and what waits to be: a line for each rung, `what: more`.
pub(super) fn upstream_text(view: &LadderStatus) -> Vec<String> {
    let acts = acts(view);
    let line = |rung: &RungView| {
        let how = match rung.state.as_str() {
            "dry-run" => "would be asked for upstream (dry run)",
            _ if !acts => return None,
            "present" => "is in force upstream",
            "asked" => "is asked for upstream",
            "asking" => "waits for approval",
            "probing" => "is probed upstream",
            "watching" => "is taken back for a moment",
            _ => return None,
        };
        let steps: Vec<&str> = rung.steps.iter().map(|step| step.what.as_str()).collect();
        Some(format!("{} {how}: {}", rung.rung, steps.join("; ")))
    };
    view.rungs.iter().filter_map(line).collect()
}

/// What `ftagent status` says of what is upstream: a line for each rung that asks or has something, and what is still to
/// go.
pub(super) fn upstream_status(view: &LadderStatus) -> Vec<String> {
    let leaving: BTreeMap<&str, usize> =
        view.rungs.iter().filter(|rung| rung.leaving > 0).map(|rung| (plane_of(rung), rung.leaving)).collect();
    let leaving = leaving.into_iter().map(|(plane, count)| format!("{plane} is still taking back {count} of ours"));
    upstream_text(view).into_iter().chain(leaving).collect()
}

/// What the operator should know of the ladder, what waits for him first.
pub(super) fn upstream_warnings(view: &LadderStatus) -> Vec<String> {
    let waits = view.rungs.iter().filter(|rung| acts(view) && rung.state == "asking").map(|rung| {
        let id = rung.id.map(|id| format!(" {id}")).unwrap_or_default();
        format!(
            "{} waits for approval: `ftagent ladder approve{id}` asks it of the plane, `deny{id}` does not",
            rung.rung
        )
    });
    waits.chain(plane_troubles(view).into_iter().map(|trouble| trouble.text)).collect()
}

/// Returns whether anything may be asked of planes: a rung stays where it was when that ends; its steps are taken back
/// all the same.
fn acts(view: &LadderStatus) -> bool {
    view.mode == LadderMode::On && view.held_back.is_none()
}

/// Returns the plane that a rung is of.
fn plane_of(rung: &RungView) -> &str {
    if rung.rung == "source_rtbh" { "rtbh" } else { &rung.rung }
}

/// Returns the planes upstream that do not work, each once: worse where something of ours is there.
fn plane_troubles(view: &LadderStatus) -> Vec<Trouble> {
    let mut troubles: BTreeMap<&str, Trouble> = BTreeMap::new();
    for rung in view.rungs.iter().filter(|_| view.mode != LadderMode::Off) {
        let Some(why) = &rung.trouble else { continue };
        let plane = plane_of(rung);
        let used = matches!(rung.state.as_str(), "asked" | "present" | "probing" | "watching") || rung.leaving > 0;
        let severity = if used { Severity::High } else { Severity::Medium };
        let text = format!("the plane `{plane}` upstream does not work: {why}");
        let fresh = Trouble { key: plane.to_owned(), severity, text };
        let known = troubles.entry(plane).or_insert(fresh);
        known.severity = known.severity.max(severity);
    }
    troubles.into_values().collect()
}

/// Says where the guard is armed: `guard on 2 ports`, and behind a colon how.
pub(super) fn guard_text(brain: &Brain) -> Option<String> {
    let (guard, _) = brain.guards();
    let guard = guard.filter(|guard| guard.since_ms.is_some())?;
    let cookies: Vec<String> = guard.cookies.iter().take(8).map(u16::to_string).collect();
    let ports = guard.cookies.len() + guard.state.len() + guard.closed.len();
    if ports == 0 {
        return None;
    }
    let cookies = if cookies.is_empty() { String::new() } else { format!("SYN cookies on {}; ", cookies.join(", ")) };
    let (state, closed) = (guard.state.len(), guard.closed.len());
    Some(format!("guard armed: {cookies}segments without a socket dropped on {state}, datagrams on {closed} ports"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::ladder::{Kind, StepView};

    fn rung(name: &str, kind: Kind, state: &str, trouble: Option<&str>) -> RungView {
        RungView {
            rung: name.to_owned(),
            kind,
            state: state.to_owned(),
            id: Some(1),
            why: String::new(),
            since: None,
            steps: vec![StepView { id: 2, what: "black hole for 192.0.2.7/32".to_owned(), standing: None }],
            next_probe_s: None,
            announcements: 1,
            failed_probes: 0,
            today: 0,
            per_day: 0,
            trouble: trouble.map(str::to_owned),
            leaving: 0,
        }
    }

    #[test]
    fn status_says_what_is_upstream_what_waits_and_what_is_to_go() {
        let leaving = |name: &str| RungView { leaving: 2, ..rung(name, Kind::BlackHole, "withdrawn", None) };
        let rungs = vec![
            rung("flowspec", Kind::Filter, "present", Some("no session is up")),
            rung("cloud", Kind::Scrub, "asking", None),
            leaving("source_rtbh"),
            leaving("rtbh"),
        ];
        let view = LadderStatus { mode: LadderMode::On, rungs, ..LadderStatus::default() };
        let lines = [
            "flowspec is in force upstream: black hole for 192.0.2.7/32",
            "cloud waits for approval: black hole for 192.0.2.7/32",
            "rtbh is still taking back 2 of ours",
        ];
        assert_eq!(upstream_status(&view), lines);
        let warnings = [
            "cloud waits for approval: `ftagent ladder approve 1` asks it of the plane, `deny 1` does not",
            "the plane `flowspec` upstream does not work: no session is up",
        ];
        assert_eq!(upstream_warnings(&view), warnings);
        // It is taken back whatever the rungs say, and nobody is asked.
        let off = LadderStatus { mode: LadderMode::Off, ..view };
        assert_eq!((upstream_status(&off), upstream_warnings(&off)), (vec![lines[2].to_owned()], Vec::new()));
        assert_eq!(upstream_status(&LadderStatus::default()), [""; 0]);
    }

    #[test]
    fn what_is_upstream_and_what_does_not_work_is_said() {
        let rungs = vec![
            rung("source_rtbh", Kind::SourceBlackHole, "idle", Some("no session is up")),
            rung("rtbh", Kind::BlackHole, "present", Some("no session is up")),
            rung("cloud", Kind::Scrub, "asking", None),
            rung("edge", Kind::Filter, "withdrawn", Some("401")),
        ];
        let view = LadderStatus { mode: LadderMode::On, rungs, ..LadderStatus::default() };
        assert_eq!(
            upstream_text(&view),
            [
                "rtbh is in force upstream: black hole for 192.0.2.7/32",
                "cloud waits for approval: black hole for 192.0.2.7/32"
            ]
        );
        let told: Vec<_> =
            plane_troubles(&view).into_iter().map(|trouble| (trouble.key, trouble.severity, trouble.text)).collect();
        assert_eq!(
            told,
            [
                ("edge".to_owned(), Severity::Medium, "the plane `edge` upstream does not work: 401".to_owned()),
                (
                    "rtbh".to_owned(),
                    Severity::High,
                    "the plane `rtbh` upstream does not work: no session is up".to_owned()
                ),
            ]
        );
        // Nothing may be asked for any more: what is there is taken back, whatever the rungs say.
        let mut dry = view.clone();
        dry.rungs.push(rung("flowspec", Kind::Filter, "dry-run", None));
        let would = ["flowspec would be asked for upstream (dry run): black hole for 192.0.2.7/32"];
        let held_back = Some("the daemon drops nothing by itself now".to_owned());
        assert_eq!(upstream_text(&LadderStatus { held_back, ..dry.clone() }), would);
        assert_eq!(upstream_text(&LadderStatus { mode: LadderMode::DryRun, ..dry }), would);
        let off = LadderStatus { mode: LadderMode::Off, ..view };
        assert_eq!(plane_troubles(&off), []);
    }
}
