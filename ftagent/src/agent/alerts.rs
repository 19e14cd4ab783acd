//! What the agent tells people: it hands over how things are, and answers what operators ask about it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json, to_value};
use tracing::{info, warn};

use super::{Agent, brain::Brain, report};
use crate::{
    alert::{Post, Trouble},
    decide::Severity,
    serve::{
        control::Caller,
        protocol::{AlertSilence, Alerts},
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
        let unsaved = self.store.unsaved().map(|why| format!("block and allow entries are not saved: {why}"));
        let state = [one("entries", Severity::Medium, unsaved), one("learned", Severity::Medium, self.brain.trouble())];
        post.health("state", state.into_iter().flatten().collect());
        let capture = self.capture_status().and_then(|capture| capture.trouble);
        post.health("capture", one("disk", Severity::Low, capture).into_iter().collect());
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
