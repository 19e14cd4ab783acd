//! Slack: an incoming webhook with Block Kit. It answers in plain text: `ok`, or what is wrong.

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, excerpt, judge},
};
use crate::{
    alert::{Alert, cut},
    config::Secret,
};

/// Characters of a section's text.
const SECTION: usize = 3000;
/// Fields of a section, and characters of each.
const FIELDS: (usize, usize) = (10, 2000);
/// Characters of the text that notifications show.
const TEXT: usize = 4000;
/// Characters of an address behind a button.
const URL: usize = 3000;

/// The sink.
#[derive(Debug)]
pub struct Slack {
    web: Web,
    url: Secret,
}

impl Slack {
    /// `url` is the webhook's address.
    pub fn new(web: Web, url: Secret) -> Self {
        Self { web, url }
    }
}

impl Sink for Slack {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let url = self.url.expose();
        let reply = self.web.post(url, &[], &body(alert), &[url])?;
        let said = String::from_utf8_lossy(&reply.body);
        match reply.status {
            200 if said.trim() == "ok" => Ok(Receipt { answer: "200 ok".to_owned(), pause: None }),
            // What answers so is not Slack: a portal in between.
            200 => Err(Failure::later(format!("it answered 200, but not \"ok\": {}", excerpt(&reply, url, &[url])))),
            400 if said.starts_with("no_") && !said.starts_with("no_text") => {
                Err(Failure::Shut(format!("400 {}", excerpt(&reply, url, &[url]))))
            }
            _ => judge(&reply, &[url]),
        }
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 60, burst: 3 }
    }
}

/// Slack's own characters are written as entities; nothing else needs escaping.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Cuts what an escaped text may be long: entities count with all their characters, and are not cut apart.
fn fitted(text: &str, most: usize) -> String {
    let mut length = most;
    loop {
        let escaped = escape(&cut(text, length));
        let over = escaped.chars().count().saturating_sub(most);
        if over == 0 || length == 0 {
            return escaped;
        }
        length = length.saturating_sub(over.div_ceil(4).max(1));
    }
}

fn body(alert: &Alert) -> Value {
    let title = fitted(&alert.title, SECTION - 2);
    let mut blocks = vec![json!({ "type": "section", "text": { "type": "mrkdwn", "text": format!("*{title}*") } })];
    let field = |(label, value): &(String, String)| {
        let text = format!("*{}*\n{}", escape(label), fitted(value, FIELDS.1 - 200));
        json!({ "type": "mrkdwn", "text": text })
    };
    let fields: Vec<Value> = alert.fields.iter().take(FIELDS.0).map(field).collect();
    if !fields.is_empty() {
        blocks.push(json!({ "type": "section", "fields": fields }));
    }
    let text = fitted(&alert.lines.join("\n"), SECTION);
    if !text.is_empty() {
        blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
    }
    if let Some(link) = alert.link.as_ref().filter(|link| link.chars().count() <= URL) {
        let button = json!({ "type": "button", "text": { "type": "plain_text", "text": "Show" }, "url": link });
        blocks.push(json!({ "type": "actions", "elements": [button] }));
    }
    blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": escape(&alert.topic) }] }));
    json!({ "text": fitted(&alert.title, TEXT), "blocks": blocks, "unfurl_links": false })
}
