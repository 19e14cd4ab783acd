//! PagerDuty, Events API v2: an incident is triggered, triggered again as it changes, and resolved.

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, judge},
};
use crate::{
    alert::{Alert, Kind, cut, words::rfc3339},
    config::Secret,
    decide::Severity,
};

/// Characters of a summary.
const SUMMARY: usize = 1024;
/// Characters of the key that makes events one.
const KEY: usize = 255;

/// The sink.
#[derive(Debug)]
pub struct PagerDuty {
    web: Web,
    key: Secret,
    url: String,
}

impl PagerDuty {
    /// `key` is the routing key of an integration.
    pub fn new(web: Web, key: Secret, url: &str) -> Self {
        Self { web, key, url: url.to_owned() }
    }
}

impl Sink for PagerDuty {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let receipt = self.post(&body(alert, self.key.expose()))?;
        if alert.kind == Kind::Test {
            // Nobody is to be paged on for long.
            return self.post(&resolve(alert, self.key.expose()));
        }
        Ok(receipt)
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 100, burst: 20 }
    }
}

impl PagerDuty {
    fn post(&self, body: &Value) -> Result<Receipt, Failure> {
        let key = self.key.expose();
        let reply = self.web.post(&self.url, &[], body, &[key])?;
        match reply.status {
            202 => judge(&reply, &[key]),
            // A proxy, or another service: nothing was taken.
            200..300 => Err(Failure::later(format!("it answered {} and not 202", reply.status))),
            400 if String::from_utf8_lossy(&reply.body).to_lowercase().contains("routing_key") => {
                Err(Failure::Shut("400: the routing key is not one".to_owned()))
            }
            _ => judge(&reply, &[key]),
        }
    }
}

/// The key by which PagerDuty knows that events are about one thing.
fn dedup_key(alert: &Alert) -> String {
    let key = alert.key();
    // The id is at the end, and is what tells incidents apart.
    match key.chars().count().checked_sub(KEY) {
        None | Some(0) => key,
        Some(over) => key.chars().skip(over).collect(),
    }
}

fn resolve(alert: &Alert, key: &str) -> Value {
    json!({ "routing_key": key, "event_action": "resolve", "dedup_key": dedup_key(alert) })
}

fn body(alert: &Alert, key: &str) -> Value {
    if alert.kind.is_end() {
        return resolve(alert, key);
    }
    let severity = match alert.severity {
        Severity::Info => "info",
        Severity::Low => "warning",
        Severity::Medium | Severity::High => "error",
        Severity::Critical => "critical",
    };
    let mut details = serde_json::Map::new();
    details.extend(alert.fields.iter().map(|(label, value)| (label.clone(), value.as_str().into())));
    details.insert("text".into(), alert.lines.join("\n").into());
    let links: Vec<Value> = alert.link.iter().map(|link| json!({ "href": link, "text": "ftagent" })).collect();
    json!({
        "routing_key": key,
        "event_action": "trigger",
        "dedup_key": dedup_key(alert),
        "client": "ftagent",
        "links": links,
        "payload": {
            "summary": cut(&alert.title, SUMMARY),
            "source": alert.node,
            "severity": severity,
            "timestamp": rfc3339(alert.at_ms),
            "component": "ftagent",
            "class": alert.vectors.first().map_or("agent", String::as_str),
            "custom_details": details,
        },
    })
}
