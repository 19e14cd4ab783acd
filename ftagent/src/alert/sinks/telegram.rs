//! Telegram: a bot's message. The token is in the address, which is never told.

use serde_json::{Value, json};

use super::{
    Failure, Pace, Receipt, Sink,
    slack::escape,
    web::{Web, judge, quiet, retry_after, seconds},
};
use crate::{
    alert::{Alert, cut},
    config::Secret,
};

/// Characters of a message, entities resolved.
const TEXT: usize = 4096;

/// The sink.
#[derive(Debug)]
pub struct Telegram {
    web: Web,
    token: Secret,
    url: String,
    chat: Value,
}

impl Telegram {
    /// `chat` is a number, or `@channel`.
    ///
    /// # Errors
    /// Where the token cannot be one.
    pub fn new(web: Web, token: Secret, url: &str, chat: &str) -> Result<Self, String> {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-'));
        if token.expose().contains(odd) || !token.expose().contains(':') {
            return Err("the bot's token is not one: BotFather writes it as 123456:ABC-DEF".to_owned());
        }
        let chat = chat.parse::<i64>().map_or_else(|_| json!(chat), |number| json!(number));
        Ok(Self { web, url: format!("{url}/bot{}/sendMessage", token.expose()), token, chat })
    }
}

impl Sink for Telegram {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let token = self.token.expose();
        // Entities count as what they stand for, so the limit is that of the plain text.
        let title = cut(&alert.title, 1000);
        let body = cut(&alert.body(), TEXT - title.chars().count() - 2);
        let request = json!({
            "chat_id": self.chat,
            "text": format!("<b>{}</b>\n\n{}", escape(&title), escape(&body)),
            "parse_mode": "HTML",
            "disable_web_page_preview": true,
        });
        let reply = self.web.post(&self.url, &[], &request, &[token])?;
        let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        if answer.get("ok") == Some(&Value::Bool(true)) && reply.is_ok() {
            let id = answer.pointer("/result/message_id").and_then(Value::as_i64);
            let answer = id.map_or("ok".to_owned(), |id| format!("ok, message {id}"));
            return Ok(Receipt { answer, pause: None });
        }
        let said = answer.get("description").and_then(Value::as_str).unwrap_or_default();
        let why = format!("{} {}", reply.status, cut(&quiet(said, &self.url, &[token]), 200));
        match reply.status {
            200..300 => Err(Failure::later(format!("{why}: not what Telegram answers"))),
            429 => {
                let after = seconds(answer.pointer("/parameters/retry_after")).or(retry_after(&reply));
                Err(Failure::Later { why, after })
            }
            // The chat is not there, or the bot is not in it: no message would be taken.
            400 if said.contains("chat not found") || said.contains("CHAT_ID") || said.contains("migrated") => {
                Err(Failure::Shut(why))
            }
            _ => judge(&reply, &[token]).and(Err(Failure::later(why))),
        }
    }

    fn pace(&self) -> Pace {
        // A group bears twenty a minute.
        Pace { per_minute: 20, burst: 3 }
    }
}
