//! A webhook of anybody's, signed as Standard Webhooks 1.0.0 has it: the receiver knows who sent it, when, and
//! whether it has it already.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::{
    Failure, Pace, Receipt, Sink,
    web::{Web, check_address, judge},
};
use crate::{
    alert::{Alert, cut, words::rfc3339},
    config::Secret,
    sense::clock,
};

/// Bytes of a body at most; receivers may refuse more than 20 kB.
const MOST: usize = 20_000;

/// The sink.
#[derive(Debug)]
pub struct Webhook {
    web: Web,
    url: Secret,
    key: Key,
}

/// The key of the signature.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Reads `whsec_<base64>`.
    ///
    /// # Errors
    /// What is wrong with it; it is not repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = text.strip_prefix("whsec_").and_then(|base64| STANDARD.decode(base64).ok());
        match key {
            Some(key) if (24..=64).contains(&key.len()) => Ok(Self(key)),
            _ => Err("`secret` is no key of a webhook: write `whsec_` and the base64 of 24 to 64 random bytes, as \
                      `echo whsec_$(head -c 32 /dev/urandom | base64)` prints it"
                .to_owned()),
        }
    }

    /// Signs: the value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl Webhook {
    /// `key` is `whsec_<base64>`.
    ///
    /// # Errors
    /// Where address or key are none.
    pub fn new(web: Web, url: Secret, key: &str) -> Result<Self, String> {
        check_address(&url, &"`url`")?;
        Ok(Self { web, url, key: Key::parse(key)? })
    }
}

impl Sink for Webhook {
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let mut body = body(alert, usize::MAX).to_string();
        if body.len() > MOST {
            body = self::body(alert, MOST / 8).to_string();
        }
        let id = message_id(alert);
        // That of this attempt: what is old is refused as a replay.
        let timestamp = clock::unix_ms() / 1000;
        let signature = self.key.sign(&id, timestamp, body.as_bytes());
        let timestamp = timestamp.to_string();
        let headers = [
            ("webhook-id", id.as_str()),
            ("webhook-timestamp", timestamp.as_str()),
            ("webhook-signature", signature.as_str()),
        ];
        let url = self.url.expose();
        judge(&self.web.post_bytes(url, &headers, body.as_bytes(), &[url])?, &[url])
    }

    fn pace(&self) -> Pace {
        Pace { per_minute: 60_000, burst: 1000 }
    }
}

/// The name of a message, the same at every try. A full stop would part it from the timestamp.
fn message_id(alert: &Alert) -> String {
    let whole = format!("{}/{}", alert.node, alert.id);
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '/') { c } else { '_' };
    format!("msg_{}", whole.chars().map(plain).collect::<String>())
}

fn body(alert: &Alert, most: usize) -> Value {
    let lines: Vec<String> = alert.lines.iter().take(64).map(|line| cut(line, most)).collect();
    let fields: serde_json::Map<String, Value> =
        alert.fields.iter().map(|(label, value)| (label.clone(), cut(value, most).into())).collect();
    json!({
        "type": format!("ftagent.{}", alert.kind.as_str()),
        "timestamp": rfc3339(alert.at_ms),
        "data": {
            "id": alert.id,
            "topic": alert.topic,
            "node": alert.node,
            "kind": alert.kind,
            "severity": alert.severity,
            "vectors": alert.vectors,
            "title": cut(&alert.title, most),
            "lines": lines,
            "fields": fields,
            "numbers": alert.numbers,
            "began": rfc3339(alert.began_ms),
            "ended": alert.ended_ms.map(rfc3339),
            "link": alert.link,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // standard-webhooks, spec/standard-webhooks.md.
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(format!("{key:?}"), "Key(…)");
    }

    #[test]
    fn what_is_no_key_is_not_repeated() {
        for wrong in ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64"] {
            let said = Key::parse(wrong).unwrap_err();
            assert!(said.contains("whsec_") && (wrong.len() < 8 || !said.contains(wrong)), "{said}");
        }
    }
}
