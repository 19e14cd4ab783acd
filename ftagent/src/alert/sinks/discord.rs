//! Discord: a webhook with one embed. It is asked to wait, or it would not say what it did not keep.

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, excerpt, judge, retry_after, seconds},
};
use crate::{
    alert::{Alert, Kind, cut, words::rfc3339},
    config::Secret,
    decide::Severity,
};

/// Characters: of a title, a description, a field's name and its value.
const TITLE: usize = 256;
const DESCRIPTION: usize = 4096;
const NAME: usize = 256;
const VALUE: usize = 1024;
/// Fields of an embed.
const FIELDS: usize = 25;
/// Characters of everything in an embed.
const ALL: usize = 6000;

/// The sink.
#[derive(Debug)]
pub struct Discord {
    web: Web,
    url: Secret,
}

impl Discord {
    /// `url` is the webhook's address; a `thread_id` may be in it.
    pub fn new(web: Web, url: Secret) -> Self {
        Self { web, url }
    }
}

impl Sink for Discord {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let url = self.url.expose();
        let joint = if url.contains('?') { '&' } else { '?' };
        let reply = self.web.post(&format!("{url}{joint}wait=true"), &[], &body(alert), &[url])?;
        if reply.status == 429 {
            let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            // The body has fractions of a second, the header is rounded.
            let after = seconds(answer.get("retry_after")).or(retry_after(&reply));
            return Err(Failure::Later { why: format!("429 {}", excerpt(&reply, url, &[url])), after });
        }
        let mut receipt = judge(&reply, &[url])?;
        if let Some(id) = serde_json::from_slice::<Value>(&reply.body).ok().and_then(|m| m.get("id").cloned()) {
            receipt.answer = format!("{} message {}", reply.status, id.as_str().unwrap_or_default());
        }
        let header = |name: &str| reply.header(name)?.parse::<f64>().ok();
        if header("x-ratelimit-remaining") == Some(0.0) {
            receipt.pause = header("x-ratelimit-reset-after").and_then(|wait| seconds(Some(&json!(wait))));
        }
        Ok(receipt)
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 120, burst: 4 }
    }
}

/// The bar beside the embed.
fn colour(alert: &Alert) -> u32 {
    match (alert.kind, alert.severity) {
        (Kind::Closed | Kind::Recovered, _) => 0x2E_8B57,
        (Kind::Test, _) | (_, Severity::Info) => 0x60_7D8B,
        (_, Severity::Low) => 0xF9_C22E,
        (_, Severity::Medium) => 0xF1_8F01,
        (_, Severity::High) => 0xE5_5934,
        (_, Severity::Critical) => 0xB0_0020,
    }
}

/// Takes the meaning from what Discord would take for formatting.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '_' | '~' | '`' | '|' | '>' | '<' | '@' | '#' | '[' | ']') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn body(alert: &Alert) -> Value {
    let title = cut(&escape(&alert.title), TITLE);
    let mut left = ALL - title.chars().count() - alert.topic.chars().count().min(200);
    let mut fields = Vec::new();
    for (label, value) in alert.fields.iter().take(FIELDS) {
        let (name, value) = (cut(label, NAME), cut(&escape(value), VALUE));
        let length = name.chars().count() + value.chars().count();
        // An empty field is refused.
        if length < left / 2 && !name.is_empty() && !value.is_empty() {
            left -= length;
            fields.push(json!({ "name": name, "value": value, "inline": value.chars().count() < 30 }));
        }
    }
    // A title that was cut is whole in the description.
    let whole = if title.ends_with('…') { format!("{}\n", alert.title) } else { String::new() };
    let description = cut(&escape(&format!("{whole}{}", alert.lines.join("\n"))), DESCRIPTION.min(left));
    let mut embed = json!({
        "title": title,
        "description": description,
        "color": colour(alert),
        "fields": fields,
        "footer": { "text": cut(&alert.topic, 200) },
        "timestamp": rfc3339(alert.at_ms),
    });
    if let (Some(link), Some(embed)) = (&alert.link, embed.as_object_mut()) {
        embed.insert("url".into(), link.as_str().into());
    }
    json!({ "embeds": [embed], "allowed_mentions": { "parse": [] } })
}
