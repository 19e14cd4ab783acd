//! Prometheus' Alertmanager, API v2. An alert there is its labels, and it ends by itself unless it is said
//! again: what goes on is repeated every minute, and what is over is sent with its end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, judge},
};
use crate::{
    alert::{Alert, Kind, words::rfc3339},
    config::Secret,
    sense::clock,
};

/// Time between two repetitions.
const AGAIN: Duration = Duration::from_secs(60);
/// How long an alert lasts that is not repeated, milliseconds: a daemon that died says no end.
const LASTS_MS: i64 = 5 * 60_000;
/// Alerts in one request.
const AT_ONCE: usize = 100;

/// The sink.
#[derive(Debug)]
pub struct Alertmanager {
    web: Web,
    url: String,
    authorization: Option<Secret>,
    /// The labels under which each topic fires. Severity and vector are among them, so that routes can use
    /// them; where those change, the alert of before ends and another begins.
    firing: BTreeMap<String, (Value, i64)>,
}

impl Alertmanager {
    /// `url` is the address without `/api/v2`.
    pub fn new(web: Web, url: &str, authorization: Option<Secret>) -> Self {
        Self { web, url: format!("{url}/api/v2/alerts"), authorization, firing: BTreeMap::new() }
    }

    fn post(&self, alerts: &[Value]) -> Result<Receipt, Failure> {
        let authorization = self.authorization.as_ref().map_or("", Secret::expose);
        let headers = [("authorization", authorization)];
        let headers = if authorization.is_empty() { &headers[..0] } else { &headers[..] };
        judge(&self.web.post(&self.url, headers, &json!(alerts), &[authorization])?, &[authorization])
    }

    /// Returns what is to be said of a message: the end of what its topic was before, and what it is now.
    fn said(&self, alert: &Alert, now_ms: i64) -> Vec<Value> {
        let labels = labels(alert);
        let mut said = Vec::new();
        match self.firing.get(&alert.topic) {
            Some((before, began_ms)) if *before != labels => {
                said.push(posted(alert, before, *began_ms, now_ms.max(began_ms + 1)));
                if !alert.kind.is_end() {
                    said.push(posted(alert, &labels, alert.began_ms, now_ms + LASTS_MS));
                }
            }
            _ => {
                let ends_ms = if alert.kind.is_end() { now_ms } else { now_ms + LASTS_MS };
                // An end before the start is refused; clocks step.
                said.push(posted(alert, &labels, alert.began_ms, ends_ms.max(alert.began_ms + 1)));
            }
        }
        said
    }

    fn remember(&mut self, alert: &Alert) {
        if alert.kind.is_end() || alert.kind == Kind::Test {
            self.firing.remove(&alert.topic);
        } else {
            self.firing.insert(alert.topic.clone(), (labels(alert), alert.began_ms));
        }
    }
}

impl Sink for Alertmanager {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let receipt = self.post(&self.said(alert, clock::unix_ms()))?;
        self.remember(alert);
        Ok(receipt)
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 600, burst: 50 }
    }

    fn interval(&self) -> Option<Duration> {
        Some(AGAIN)
    }

    fn again(&mut self, open: &[Arc<Alert>]) -> Result<(), Failure> {
        let now_ms = clock::unix_ms();
        for chunk in open.chunks(AT_ONCE) {
            let said: Vec<Value> = chunk.iter().flat_map(|alert| self.said(alert, now_ms)).collect();
            self.post(&said)?;
            chunk.iter().for_each(|alert| self.remember(alert));
        }
        Ok(())
    }
}

/// What the alert is; never a value that changes from minute to minute.
fn labels(alert: &Alert) -> Value {
    let name = match alert.kind {
        Kind::Test => "FtagentTest",
        Kind::Trouble | Kind::Recovered => "FtagentTrouble",
        _ => "FtagentAttack",
    };
    json!({
        "alertname": name,
        "instance": alert.node,
        "severity": alert.severity.as_str(),
        "vector": alert.vectors.first().map_or("none", String::as_str),
        "incident": alert.topic,
    })
}

fn posted(alert: &Alert, labels: &Value, began_ms: i64, ends_ms: i64) -> Value {
    let mut annotations = serde_json::Map::new();
    annotations.insert("summary".into(), alert.title.as_str().into());
    annotations.insert("description".into(), alert.lines.join("\n").into());
    let named = alert.fields.iter().filter(|(label, _)| label.chars().all(|c| c.is_ascii_lowercase()));
    annotations.extend(named.map(|(label, value)| (label.clone(), value.as_str().into())));
    let mut posted = json!({
        "labels": labels,
        "annotations": annotations,
        "startsAt": rfc3339(began_ms),
        "endsAt": rfc3339(ends_ms),
    });
    if let (Some(link), Some(posted)) = (&alert.link, posted.as_object_mut()) {
        posted.insert("generatorURL".into(), link.as_str().into());
    }
    posted
}
