//! A webhook of the operator's own: every request is signed (Standard Webhooks 1.0), every answer says how the
//! thing is. `docs/planes/webhook.md` has the protocol.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use ureq::http::Method;

use super::{
    Item, Order, Provider, Seen, Trouble, about,
    api::{self, Api, text},
    permitted,
};
use crate::{
    config::{self, Secret, SecretFile},
    decide::ladder::{Step, What},
};

/// The message that asks how a thing is.
const STATUS: &str = "ftagent.status";
/// Between two tries at something that the receiver is not ready for.
const AGAIN: Duration = Duration::from_secs(10);

/// What the receiver is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thing {
    what: What,
    /// The same for the same thing, also after a restart; different on another machine.
    key: String,
}

impl Item for Thing {
    fn key(&self) -> String {
        format!("{} ({})", described(&self.what), self.key)
    }

    fn diverts(&self) -> bool {
        matches!(self.what, What::Divert { .. })
    }

    fn verbs(&self) -> (&'static str, &'static str) {
        match self.what {
            What::Divert { .. } => ("divert", "restore"),
            What::Filter { .. } => ("filter", "unfilter"),
            What::BlackHole { .. } | What::SourceBlackHole { .. } => ("black-hole", "restore"),
        }
    }
}

/// Says it for people.
fn described(what: &What) -> String {
    match what {
        What::Divert { prefix } => format!("divert {prefix}"),
        What::Filter { matches, action } => format!("filter {matches}: {action}"),
        What::BlackHole { victim } => format!("black-hole {victim}"),
        What::SourceBlackHole { source } => format!("black-hole everything from {source}"),
    }
}

pub(super) struct Webhook {
    api: Api,
    config: config::Scrub,
    file: SecretFile,
    /// The secret, then the one before it while secrets are exchanged.
    keys: Vec<Secret>,
    owner: String,
}

/// How the receiver says it is.
struct Answer {
    state: String,
    reason: String,
}

impl Webhook {
    pub fn open(config: &config::Scrub) -> Result<Self, String> {
        let file = api::credentials(config)?.clone();
        let api = Api::open(config, "the webhook's receiver")?;
        let owner = api::owner(&config.name);
        let mut webhook = Self { api, config: config.clone(), file, keys: Vec::new(), owner };
        webhook.read()?;
        Ok(webhook)
    }

    fn read(&mut self) -> Result<(), String> {
        let [secret] = self.file.read_keys(["secret"])?;
        let mut keys = vec![secret];
        if let Ok([previous]) = self.file.read_keys(["previous_secret"]) {
            keys.push(previous);
        }
        for key in &keys {
            // What is wrong with it is told, not what it is.
            signature(key, "id", 0, b"").map_err(|what| format!("{}: {what}", self.file))?;
        }
        self.api.hide(&keys);
        self.keys = keys;
        Ok(())
    }

    /// Sends one message. `id` is the same where the same is sent again.
    fn call(&self, kind: &str, id: &str, data: &Value) -> Result<Answer, Trouble> {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let body = json!({ "type": kind, "timestamp": timestamp, "data": data }).to_string();
        let sign = |key: &Secret| signature(key, id, timestamp, body.as_bytes());
        let signatures = self.keys.iter().map(sign).collect::<Result<Vec<_>, _>>().map_err(Trouble::Denied)?.join(" ");
        let timestamp = timestamp.to_string();
        let headers = [
            ("content-type", "application/json"),
            ("accept", "application/json"),
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.as_str()),
            ("webhook-signature", signatures.as_str()),
        ];
        let reply = self.api.send(&Method::POST, "", &headers, body.as_bytes())?;
        let answer = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
        let (state, reason) = (text(&answer, "state").to_owned(), self.api.clean(text(&answer, "reason")));
        let why = if reason.is_empty() { format!("status {}", reply.status) } else { reason.clone() };
        match reply.status {
            200..300 if ["asked", "present", "refused", "leaving", "gone"].contains(&state.as_str()) => {
                Ok(Answer { state, reason })
            }
            401 | 403 => Err(self.api.denied(&self.file, &why, "give both sides the same `secret`, and the same time")),
            // It may not know this one; if it knows nothing at all, asking and taking back say so.
            404 | 410 if kind == STATUS => Err(self.api.refused(&format!("it tells nothing of this one ({why})"))),
            404 | 410 => Err(Trouble::Denied(format!("nobody takes the webhook any more ({why}): look at `endpoint`"))),
            409 => Err(Trouble::Busy(format!("the webhook's receiver is busy ({why})"), AGAIN)),
            400..500 => Err(self.api.refused(&why)),
            _ => Err(self.api.odd(&reply)),
        }
    }

    fn data(&self, thing: &Thing, incident: &str, reason: &str) -> Value {
        let (kind, own) = about(&thing.what);
        let prefix = match &thing.what {
            What::SourceBlackHole { source } => Some(*source),
            _ => own,
        };
        let (matches, action) = match &thing.what {
            What::Filter { matches, action } => (Some(matches.to_string()), Some(action.to_string())),
            _ => (None, None),
        };
        json!({
            "plane": self.config.name, "key": thing.key, "kind": kind.as_str(), "prefix": prefix, "match": matches,
            "action": action, "incident": incident, "reason": reason,
        })
    }
}

/// Returns a signature of Standard Webhooks: `v1,` and the HMAC-SHA256 of id, time and body.
///
/// # Errors
/// What is wrong with the secret; not what it is.
pub fn signature(secret: &Secret, id: &str, timestamp: u64, body: &[u8]) -> Result<String, String> {
    let wrong =
        "`secret` is not `whsec_` and 24 to 64 bytes in base64: `echo whsec_$(openssl rand -base64 32)` makes one";
    let encoded = secret.expose().strip_prefix("whsec_").ok_or(wrong)?;
    let key = STANDARD.decode(encoded).map_err(|_| wrong)?;
    if !(24..=64).contains(&key.len()) {
        return Err(wrong.to_owned());
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| wrong)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

impl Provider for Webhook {
    type Item = Thing;

    fn takes(&self, what: &What) -> Result<(), String> {
        permitted(&self.config, what)
    }

    fn resolve(&mut self, step: &Step) -> Result<Vec<Thing>, Trouble> {
        let what = step.what.clone();
        let text = serde_json::to_string(&what).map_err(|error| Trouble::Refused(error.to_string()))?;
        let key = api::digest(&format!("{} {text}", self.owner), 16);
        Ok(vec![Thing { what, key }])
    }

    fn look(&mut self, items: &[Thing]) -> Result<Vec<Seen>, Trouble> {
        let look = |thing: &Thing| {
            let answer = self.call(STATUS, &format!("status_{}", unique()), &self.data(thing, "", ""))?;
            Ok(match answer.state.as_str() {
                "present" => Seen::Present,
                "asked" => Seen::Coming,
                "leaving" => Seen::Going,
                "gone" => Seen::Absent,
                _ if answer.reason.is_empty() => Seen::Barred("the webhook's receiver refuses it".to_owned()),
                _ => Seen::Barred(format!("the webhook's receiver refuses it: {}", answer.reason)),
            })
        };
        items.iter().map(|thing| Seen::of_one(look(thing))).collect()
    }

    fn change(&mut self, add: &[Order<Thing>], remove: &[Order<Thing>]) -> Result<(), Trouble> {
        for order in remove {
            let id = format!("back_{}_{}", order.item.key, order.attempt);
            let data = self.data(&order.item, &order.incident, &order.reason);
            let answer = self.call("ftagent.take-back", &id, &data)?;
            match answer.state.as_str() {
                "refused" => return Err(self.api.refused(&answer.reason)),
                "present" => return Err(Trouble::Busy("the webhook's receiver keeps it".to_owned(), AGAIN)),
                _ => {}
            }
        }
        for order in add {
            let id = format!("ask_{}_{}", order.item.key, order.attempt);
            let data = self.data(&order.item, &order.incident, &order.reason);
            let answer = self.call("ftagent.ask", &id, &data)?;
            match answer.state.as_str() {
                "refused" => return Err(self.api.refused(&answer.reason)),
                "gone" | "leaving" => {
                    let why = format!("the webhook's receiver answers \"{}\" to a request for it", answer.state);
                    return Err(Trouble::Busy(why, AGAIN));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Trouble> {
        let data = json!({ "plane": self.config.name });
        self.call("ftagent.check", &format!("check_{}", unique()), &data).map(drop)
    }

    fn reload(&mut self) -> Result<(), String> {
        self.read()
    }
}

/// Returns what no other message is called.
fn unique() -> String {
    let random = getrandom::u64().unwrap_or_default();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{nanos:x}{random:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_signed_as_the_standard_says() {
        // The vector of the specification's own libraries.
        let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for wrong in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!"] {
            let error = signature(&Secret::new(wrong), "id", 0, b"").unwrap_err();
            assert!(error.contains("openssl rand") && (wrong.len() < 8 || !error.contains(wrong)), "{error}");
        }
    }
}
