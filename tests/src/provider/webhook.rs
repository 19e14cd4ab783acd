//! A receiver of the webhook of `docs/planes/webhook.md`, as an operator would write one.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{Service, exactly};
use crate::http::{Request, Response};

/// The receiver.
pub struct Webhook {
    /// The bytes behind `whsec_`.
    secret: Vec<u8>,
    /// What it has, by key; how many looks each takes until it is there.
    pub things: BTreeMap<String, u32>,
    /// What asks and take-backs were called, in order.
    pub ids: Vec<String>,
    /// How many looks a change takes.
    pub delay: u32,
    /// How many changes it says yes to, and does nothing.
    pub vain: u32,
    /// The key that it was asked about last.
    pub last_key: String,
    /// Why it refuses everything.
    pub refuses: Option<String>,
}

/// How far a receiver's clock and a sender's may be apart, seconds.
const TOLERANCE: u64 = 300;

impl Webhook {
    /// A receiver that knows a secret (`whsec_…`).
    ///
    /// # Panics
    /// Where it is none.
    pub fn new(secret: &str) -> Self {
        let encoded = secret.strip_prefix("whsec_").unwrap();
        let secret = STANDARD.decode(encoded).unwrap();
        Self {
            secret,
            things: BTreeMap::new(),
            ids: Vec::new(),
            delay: 0,
            vain: 0,
            last_key: String::new(),
            refuses: None,
        }
    }

    fn state(&mut self, key: &str) -> Response {
        let state = match self.things.get_mut(key) {
            None => "gone",
            Some(0) => "present",
            Some(left) => {
                *left -= 1;
                "asked"
            }
        };
        Response::json(200, &json!({ "state": state, "reason": "" }))
    }

    fn act(&mut self, kind: &str, id: &str, data: &Value) -> Result<Response, String> {
        if kind == "ftagent.check" {
            exactly(data, &["plane"])?;
            return Ok(Response::json(200, &json!({ "state": "gone", "reason": "nothing was asked" })));
        }
        exactly(data, &["plane", "key", "kind", "prefix", "match", "action", "incident", "reason"])?;
        let key = data["key"].as_str().filter(|key| key.len() == 16).ok_or("no key")?.to_owned();
        self.last_key.clone_from(&key);
        if kind == "ftagent.status" {
            return Ok(self.state(&key));
        }
        if let Some(why) = &self.refuses {
            return Ok(Response::json(200, &json!({ "state": "refused", "reason": why })));
        }
        // What was seen is not done again.
        let seen = self.ids.iter().any(|known| known == id);
        self.ids.push(id.to_owned());
        if !seen && self.vain > 0 {
            self.vain -= 1;
        } else if !seen {
            match kind {
                "ftagent.ask" => {
                    self.things.insert(key.clone(), self.delay);
                }
                "ftagent.take-back" => {
                    self.things.remove(&key);
                }
                _ => return Err(format!("no type {kind} is documented")),
            }
        }
        let said = if kind == "ftagent.ask" { "asked" } else { "gone" };
        Ok(Response::json(200, &json!({ "state": said, "reason": "" })))
    }
}

impl Service for Webhook {
    fn answer(&mut self, request: &Request) -> Result<Response, String> {
        if request.method != "POST" || request.path != "/ddos" || !request.query.is_empty() {
            return Err("no such path".into());
        }
        request.typed("application/json")?;
        let header = |name: &str| request.header(name).ok_or(format!("no header {name}"));
        let (id, time, signatures) =
            (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let off = time.parse::<u64>().map_err(|_| "the time is no number")?.abs_diff(unix);
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|_| "an odd secret")?;
        mac.update(format!("{id}.{time}.").as_bytes());
        mac.update(&request.body);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        if off > TOLERANCE || !signatures.split(' ').any(|one| one == expected) {
            return Ok(Response::json(401, &json!({ "state": "refused", "reason": "wrong signature or time" })));
        }
        if id.contains('.') || id.is_empty() {
            return Err("a dot in the id, or none".into());
        }
        let body = request.json()?;
        exactly(&body, &["type", "timestamp", "data"])?;
        if body["timestamp"].as_u64().map(|time| time.to_string()).as_deref() != Some(time) {
            return Err("two times".into());
        }
        let kind = body["type"].as_str().ok_or("no type")?.to_owned();
        self.act(&kind, id, &body["data"])
    }

    fn changes(&self, request: &Request) -> bool {
        let kind = request.json().ok().and_then(|body| body["type"].as_str().map(str::to_owned));
        matches!(kind.as_deref(), Some("ftagent.ask" | "ftagent.take-back"))
    }
}
