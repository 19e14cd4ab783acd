//! Microsoft Teams: the workflow "When a Teams webhook request is received", with an adaptive card.

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

/// Bytes of a message; larger ones are taken and never shown.
const MOST: usize = 28 * 1024;

/// The sink.
#[derive(Debug)]
pub struct Teams {
    web: Web,
    url: Secret,
}

impl Teams {
    /// `url` is the workflow's address.
    pub fn new(web: Web, url: Secret) -> Self {
        Self { web, url }
    }
}

impl Sink for Teams {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let url = self.url.expose();
        let mut body = body(alert, usize::MAX);
        if body.to_string().len() > MOST {
            body = self::body(alert, MOST / 4);
        }
        judge(&self.web.post(url, &[], &body, &[url])?, &[url])
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 60, burst: 4 }
    }
}

/// Cards read Markdown: what would format or link is taken literally.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '\\' | '*' | '_' | '[' | ']' | '`' | '#') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn body(alert: &Alert, most: usize) -> Value {
    let colour = match (alert.kind, alert.severity) {
        (Kind::Closed | Kind::Recovered, _) => "Good",
        (_, Severity::High | Severity::Critical) => "Attention",
        (_, Severity::Low | Severity::Medium) => "Warning",
        _ => "Default",
    };
    let text = |text: &str| json!({ "type": "TextBlock", "text": escape(text), "wrap": true });
    let mut title = text(&cut(&alert.title, most));
    if let Some(title) = title.as_object_mut() {
        title.extend([
            ("weight".to_owned(), json!("Bolder")),
            ("size".to_owned(), json!("Medium")),
            ("color".to_owned(), json!(colour)),
        ]);
    }
    let fact = |(label, value): &(String, String)| json!({ "title": label, "value": escape(&cut(value, 400)) });
    let facts: Vec<Value> = alert.fields.iter().take(20).map(fact).collect();
    let mut cards = vec![title];
    if !facts.is_empty() {
        cards.push(json!({ "type": "FactSet", "facts": facts }));
    }
    let mut left = most;
    for line in &alert.lines {
        let line = cut(line, left);
        left = left.saturating_sub(line.len());
        if !line.is_empty() {
            cards.push(text(&line));
        }
    }
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": cards,
    });
    if let (Some(link), Some(card)) = (&alert.link, card.as_object_mut()) {
        card.insert("actions".into(), json!([{ "type": "Action.OpenUrl", "title": "Show", "url": link }]));
    }
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": null,
            "content": card,
        }],
    })
}
