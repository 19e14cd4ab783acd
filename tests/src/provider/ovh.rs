//! OVH's interface, version 1.0: mitigation and firewall of the addresses of one block.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::{Service, exactly};
use crate::http::{Request, Response};

/// Something that is made and removed slowly.
#[derive(Clone, Debug)]
struct Slow {
    /// `ok`, `creationPending`, `removalPending`
    state: &'static str,
    left: u32,
    value: Value,
}

/// A firewall of one address.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    /// Whether it is on.
    pub enabled: bool,
    rules: BTreeMap<u64, Slow>,
}

/// The account.
pub struct Ovh {
    keys: [String; 3],
    /// As it stands in paths: `203.0.113.0/28`.
    block: String,
    /// Where it thinks it listens, as `http://127.0.0.1:40123`: signatures cover it.
    pub origin: String,
    /// Its clock, against ours.
    pub skew: i64,
    mitigations: BTreeMap<String, Slow>,
    /// By address.
    pub firewalls: BTreeMap<String, Firewall>,
    /// How many looks a change takes.
    pub delay: u32,
    /// How many changes it says yes to, and does nothing.
    pub vain: u32,
}

impl Ovh {
    /// An account with application key, application secret and consumer key, and one block.
    pub fn new(keys: [&str; 3], block: &str) -> Self {
        Self {
            keys: keys.map(str::to_owned),
            block: block.to_owned(),
            origin: String::new(),
            skew: 0,
            mitigations: BTreeMap::new(),
            firewalls: BTreeMap::new(),
            delay: 0,
            vain: 0,
        }
    }

    /// Returns whether an address is on mitigation.
    pub fn mitigated(&self, ip: &str) -> bool {
        self.mitigations.get(ip).is_some_and(|it| it.state != "removalPending")
    }

    /// Puts an address on mitigation, or off, by hand.
    pub fn mitigate(&mut self, ip: &str, on: bool) {
        if on {
            let value = json!({ "ipOnMitigation": ip, "auto": false, "permanent": true });
            self.mitigations.insert(ip.to_owned(), Slow { state: "ok", left: 0, value });
        } else {
            self.mitigations.remove(ip);
        }
    }

    /// Puts an address on mitigation, as OVH does when it sees an attack.
    pub fn begin_by_itself(&mut self, ip: &str) {
        let value = json!({ "ipOnMitigation": ip, "auto": true, "permanent": false });
        self.mitigations.insert(ip.to_owned(), Slow { state: "ok", left: 0, value });
    }

    /// Returns the rules of an address as they are read.
    pub fn rules(&self, ip: &str) -> Vec<Value> {
        let firewall = self.firewalls.get(ip);
        firewall.into_iter().flat_map(|firewall| &firewall.rules).map(|(_, rule)| rule.value.clone()).collect()
    }

    /// Makes a rule by hand.
    pub fn put_rule(&mut self, ip: &str, sequence: u64, value: Value) {
        let firewall = self.firewalls.entry(ip.to_owned()).or_default();
        firewall.rules.insert(sequence, Slow { state: "ok", left: 0, value });
    }

    /// Removes rules by hand.
    pub fn clear_rules(&mut self, ip: &str) {
        self.firewalls.entry(ip.to_owned()).or_default().rules.clear();
    }

    fn now(&self) -> i64 {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(unix).unwrap_or_default() + self.skew
    }

    fn signed(&self, request: &Request) -> Result<Option<Response>, String> {
        let header = |name: &str| request.header(name).ok_or(format!("no header {name}"));
        let [key, secret, consumer] = &self.keys;
        let (time, signature) = (header("x-ovh-timestamp")?, header("x-ovh-signature")?);
        if header("x-ovh-application")? != key {
            return Ok(Some(error(403, "Client::Forbidden", "This application key is invalid")));
        }
        if header("x-ovh-consumer")? != consumer {
            return Ok(Some(error(403, "Client::Forbidden", "This credential does not exist")));
        }
        let off = time.parse::<i64>().map_err(|_| "the time is no number")?.abs_diff(self.now());
        if off > 60 {
            return Ok(Some(error(400, "Client::BadRequest", "Query out of time")));
        }
        let body = String::from_utf8_lossy(&request.body);
        let text = format!("{secret}+{consumer}+{}+{}{}+{body}+{time}", request.method, self.origin, request.path);
        let hex: String = Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        if *signature != format!("$1${hex}") {
            return Ok(Some(error(400, "Client::BadRequest", "Invalid signature")));
        }
        Ok(None)
    }

    fn route(&mut self, request: &Request) -> Result<Response, String> {
        let parts = request.parts();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let [_, ip, block, rest @ ..] = parts.as_slice() else { return Err("no such path".into()) };
        if *ip != "ip" {
            return Err("no such path".into());
        }
        if *block != self.block {
            return Ok(error(404, "Client::NotFound", "This service does not exist"));
        }
        match rest {
            ["mitigation", rest @ ..] => self.mitigation(request, rest),
            ["firewall", rest @ ..] => self.firewall(request, rest),
            _ => Err("no such path".into()),
        }
    }

    fn mitigation(&mut self, request: &Request, rest: &[&str]) -> Result<Response, String> {
        let vain = self.vain;
        match (request.method.as_str(), rest) {
            ("GET", []) => Ok(Response::json(200, &json!(self.mitigations.keys().collect::<Vec<_>>()))),
            ("GET", [ip]) => Ok(look(&mut self.mitigations, &(*ip).to_owned())),
            ("POST", []) => {
                let body = request.json()?;
                exactly(&body, &["ipOnMitigation"])?;
                let ip = body["ipOnMitigation"].as_str().ok_or("no address")?.to_owned();
                if self.mitigations.contains_key(&ip) {
                    return Ok(error(409, "Client::Conflict", "This IP is already on mitigation"));
                }
                let value = json!({ "ipOnMitigation": ip, "auto": false, "permanent": true });
                let answer = Response::json(200, &value);
                self.vain = vain.saturating_sub(1);
                if vain == 0 {
                    self.mitigations.insert(ip, slow(self.delay, value));
                }
                Ok(answer)
            }
            ("DELETE", [ip]) => Ok(remove(&mut self.mitigations, &(*ip).to_owned(), self.delay)),
            _ => Err("no such path".into()),
        }
    }

    fn firewall(&mut self, request: &Request, rest: &[&str]) -> Result<Response, String> {
        let shown = |ip: &str, firewall: &Firewall| {
            Response::json(200, &json!({ "ipOnFirewall": ip, "enabled": firewall.enabled, "state": "ok" }))
        };
        match (request.method.as_str(), rest) {
            ("POST", []) => {
                let body = request.json()?;
                exactly(&body, &["ipOnFirewall"])?;
                let ip = body["ipOnFirewall"].as_str().ok_or("no address")?.to_owned();
                if self.firewalls.contains_key(&ip) {
                    return Ok(error(409, "Client::Conflict", "This IP is already on firewall"));
                }
                Ok(shown(&ip, self.firewalls.entry(ip.clone()).or_default()))
            }
            ("GET", []) => Ok(Response::json(200, &json!(self.firewalls.keys().collect::<Vec<_>>()))),
            ("GET", [ip]) => Ok(self.firewalls.get(*ip).map_or_else(missing, |firewall| shown(ip, firewall))),
            ("PUT", [ip]) => {
                let body = request.json()?;
                exactly(&body, &["enabled"])?;
                let Some(firewall) = self.firewalls.get_mut(*ip) else { return Ok(missing()) };
                firewall.enabled = body["enabled"].as_bool().ok_or("`enabled` is not a bool")?;
                Ok(Response::json(200, &Value::Null))
            }
            (_, [ip, "rule", rest @ ..]) => {
                let Some(firewall) = self.firewalls.get_mut(*ip) else { return Ok(missing()) };
                let (delay, vain) = (self.delay, self.vain);
                match (request.method.as_str(), rest) {
                    ("GET", []) => Ok(Response::json(200, &json!(firewall.rules.keys().collect::<Vec<_>>()))),
                    ("GET", [sequence]) => Ok(look(&mut firewall.rules, &number(sequence)?)),
                    ("DELETE", [sequence]) => Ok(remove(&mut firewall.rules, &number(sequence)?, delay)),
                    ("POST", []) => {
                        let (sequence, value) = rule(&request.json()?, ip)?;
                        if firewall.rules.contains_key(&sequence) {
                            return Ok(error(409, "Client::Conflict", "This sequence is in use"));
                        }
                        let answer = Response::json(200, &value);
                        self.vain = vain.saturating_sub(1);
                        if vain == 0 {
                            firewall.rules.insert(sequence, slow(delay, value));
                        }
                        Ok(answer)
                    }
                    _ => Err("rules cannot be changed, only made and removed".into()),
                }
            }
            _ => Err("no such path".into()),
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no sequence"))
}

/// Checks a rule as it is written, and returns it as it is read.
fn rule(body: &Value, ip: &str) -> Result<(u64, Value), String> {
    let object = body.as_object().ok_or("not an object")?;
    let known = ["action", "protocol", "sequence", "source", "sourcePort", "destinationPort", "tcpOption"];
    if let Some(odd) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("no field {odd} is documented"));
    }
    let sequence = body["sequence"].as_u64().filter(|sequence| *sequence < 20).ok_or("no sequence from 0 to 19")?;
    let protocol = body["protocol"].as_str().unwrap_or_default();
    if !["ah", "esp", "gre", "icmp", "ipv4", "tcp", "udp"].contains(&protocol) {
        return Err(format!("no protocol {protocol}"));
    }
    if !matches!(body["action"].as_str(), Some("deny" | "permit")) {
        return Err("neither deny nor permit".into());
    }
    let port = |name: &str| match &body[name] {
        Value::Null => Ok(Value::Null),
        port if !matches!(protocol, "tcp" | "udp") => Err(format!("{name} {port} of {protocol}")),
        port => port.as_u64().map(|port| json!(format!("eq {port}"))).ok_or(format!("{name} is no number")),
    };
    let source = match &body["source"] {
        Value::Null => json!("any"),
        Value::String(net) if net.parse::<ipnet::Ipv4Net>().is_ok() => json!(net),
        other => return Err(format!("{other} is no prefix")),
    };
    let read = json!({
        "sequence": sequence, "action": body["action"], "protocol": protocol, "source": source,
        "destination": format!("{ip}/32"), "sourcePort": port("sourcePort")?,
        "destinationPort": port("destinationPort")?, "fragments": false, "tcpOption": null, "rule": "…",
    });
    Ok((sequence, read))
}

fn slow(delay: u32, value: Value) -> Slow {
    Slow { state: if delay == 0 { "ok" } else { "creationPending" }, left: delay, value }
}

fn look<K: Ord>(all: &mut BTreeMap<K, Slow>, key: &K) -> Response {
    let Some(it) = all.get_mut(key) else { return missing() };
    if it.left > 0 {
        it.left -= 1;
    } else if it.state == "removalPending" {
        all.remove(key);
        return missing();
    } else {
        it.state = "ok";
    }
    let mut value = it.value.clone();
    value["state"] = json!(it.state);
    Response::json(200, &value)
}

fn remove<K: Ord>(all: &mut BTreeMap<K, Slow>, key: &K, delay: u32) -> Response {
    let Some(it) = all.get_mut(key) else { return missing() };
    let value = it.value.clone();
    if delay == 0 {
        all.remove(key);
    } else {
        (it.state, it.left) = ("removalPending", delay);
    }
    Response::json(200, &value)
}

fn error(status: u16, class: &str, message: &str) -> Response {
    Response::json(status, &json!({ "class": class, "message": message, "details": {} }))
        .with("X-OVH-QUERYID", "EU.ext-1")
}

fn missing() -> Response {
    error(404, "Client::NotFound", "The requested object does not exist")
}

impl Service for Ovh {
    fn answer(&mut self, request: &Request) -> Result<Response, String> {
        if !request.query.is_empty() {
            return Err("no query is documented".into());
        }
        if !request.path.starts_with("/1.0/") {
            return Err("not version 1.0".into());
        }
        if request.method == "GET" && request.path == "/1.0/auth/time" {
            request.bare()?;
            return Ok(Response::json(200, &json!(self.now())));
        }
        if matches!(request.method.as_str(), "GET" | "DELETE") {
            request.bare()?;
        } else {
            request.typed("application/json;charset=utf-8")?;
        }
        match self.signed(request)? {
            Some(refusal) => Ok(refusal),
            None => self.route(request),
        }
    }
}
