//! Opsgenie, and Jira Service Management behind another base address: an alert is created, noted upon as it
//! changes, and closed.

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, judge},
};
use crate::{
    alert::{Alert, Kind, cut},
    config::Secret,
    decide::Severity,
};

/// Characters: of a message, an alias, a description, an entity, a tag.
const MESSAGE: usize = 130;
const ALIAS: usize = 512;
const DESCRIPTION: usize = 15_000;
const ENTITY: usize = 512;
const TAG: usize = 50;
/// Tags of an alert.
const TAGS: usize = 20;

/// The sink.
#[derive(Debug)]
pub struct Opsgenie {
    web: Web,
    key: Secret,
    url: String,
    teams: Vec<String>,
}

impl Opsgenie {
    /// `url` ends in `/alerts`; `key` is that of an API integration.
    pub fn new(web: Web, key: Secret, url: &str, teams: &[String]) -> Self {
        Self { web, key, url: url.to_owned(), teams: teams.to_vec() }
    }

    fn post(&self, url: &str, body: &Value) -> Result<Receipt, Failure> {
        let key = self.key.expose();
        let authorization = format!("GenieKey {key}");
        let reply = self.web.post(url, &[("authorization", &authorization)], body, &[key])?;
        match reply.status {
            202 => judge(&reply, &[key]),
            200..300 => Err(Failure::later(format!("it answered {} and not 202", reply.status))),
            _ => judge(&reply, &[key]),
        }
    }
}

impl Sink for Opsgenie {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let alias = cut(&alert.key(), ALIAS);
        if !alert.kind.is_end() {
            let created = self.post(&self.url, &self.create(alert, &alias))?;
            // Nobody is to be called on because of a test.
            if alert.kind != Kind::Test {
                return Ok(created);
            }
        }
        let url = format!("{}/{}/close?identifierType=alias", self.url, encoded(&alias));
        let body = json!({ "user": "ftagent", "source": cut(&alert.node, 100), "note": cut(&alert.text(), 25_000) });
        self.post(&url, &body)
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 120, burst: 10 }
    }
}

/// An alias is one segment of a path (RFC 3986, 2.3: what is unreserved stays).
fn encoded(alias: &str) -> String {
    let mut text = String::with_capacity(alias.len());
    for byte in alias.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

impl Opsgenie {
    /// Creating an alert whose alias is open counts it up, and keeps its first description: what is new is in
    /// the note.
    fn create(&self, alert: &Alert, alias: &str) -> Value {
        let priority = match (alert.kind, alert.severity) {
            (Kind::Test, _) | (_, Severity::Info) => "P5",
            (_, Severity::Low) => "P4",
            (_, Severity::Medium) => "P3",
            (_, Severity::High) => "P2",
            (_, Severity::Critical) => "P1",
        };
        let mut details = serde_json::Map::new();
        details.extend(alert.fields.iter().map(|(label, value)| (label.clone(), value.as_str().into())));
        details.extend(alert.link.iter().map(|link| ("link".to_owned(), link.as_str().into())));
        let tags: Vec<String> = [alert.severity.as_str(), "ftagent"]
            .into_iter()
            .chain(alert.vectors.iter().map(String::as_str))
            .take(TAGS)
            .map(|tag| cut(tag, TAG))
            .collect();
        let responders: Vec<Value> = self.teams.iter().map(|team| json!({ "name": team, "type": "team" })).collect();
        let mut body = json!({
            "message": cut(&alert.title, MESSAGE),
            "alias": alias,
            "description": cut(&alert.text(), DESCRIPTION),
            "details": details,
            "tags": tags,
            "entity": cut(&alert.node, ENTITY),
            "source": cut(&format!("ftagent {}", alert.node), 100),
            "priority": priority,
            "note": cut(&alert.text(), 25_000),
        });
        if let Some(body) = body.as_object_mut().filter(|_| !responders.is_empty()) {
            body.insert("responders".into(), responders.into());
        }
        body
    }
}
