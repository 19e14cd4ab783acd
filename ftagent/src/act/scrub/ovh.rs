//! OVHcloud: mitigation of addresses, and rules of the Edge Network Firewall. `docs/planes/ovh.md` says what they
//! can and cannot do.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use ureq::http::Method;

use super::{
    Item, Order, Provider, Seen, Trouble,
    api::{self, Api, text},
    flow::{Flow, Limits, flows},
    permitted,
};
use crate::{
    config::{self, Secret, SecretFile, Take},
    decide::ladder::{Step, What},
};

const KEYS: [&str; 3] = ["application_key", "application_secret", "consumer_key"];
/// Addresses that one diversion may come down to.
const ADDRESSES: usize = 16;
/// Rules of one address: sequences 0 to 19.
const SEQUENCES: u8 = 20;
const PROTOCOLS: [(u8, &str); 6] = [(1, "icmp"), (6, "tcp"), (17, "udp"), (47, "gre"), (50, "esp"), (51, "ah")];
const LIMITS: Limits =
    Limits { who: "OVH's Edge Network Firewall", protocols: &PROTOCOLS, ranges: false, rules: SEQUENCES as usize };
/// Between two tries at something that OVH is not ready for.
const AGAIN: Duration = Duration::from_secs(10);
/// How long the difference between its clock and ours is believed.
const CLOCK: Duration = Duration::from_secs(3600);
const NO_SUCH: &str = "OVH does not know this address in this block: write the blocks in `prefixes` as the Control Panel \
                       shows them (IP, Public IP addresses)";

/// What OVH is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Thing {
    /// Mitigation of an address, attack or not.
    Mitigation { block: Ipv4Net, ip: Ipv4Addr },
    /// That the firewall of an address is there, and on.
    Firewall { block: Ipv4Net, ip: Ipv4Addr },
    /// A rule of it.
    Rule { block: Ipv4Net, ip: Ipv4Addr, flow: Flow },
}

impl Item for Thing {
    fn key(&self) -> String {
        match self {
            Self::Mitigation { ip, .. } => format!("mitigate {ip}"),
            Self::Firewall { ip, .. } => format!("firewall of {ip}"),
            Self::Rule { flow, .. } => format!("deny {}", flow.text()),
        }
    }

    fn diverts(&self) -> bool {
        matches!(self, Self::Mitigation { .. })
    }
}

pub(super) struct Ovh {
    api: Api,
    config: config::Scrub,
    file: SecretFile,
    secrets: [Secret; 3],
    clock: Option<Clock>,
}

/// The provider's time, by a clock that does not jump.
#[derive(Clone, Copy, Debug)]
struct Clock {
    read: Instant,
    unix: u64,
}

impl Clock {
    fn now(self) -> u64 {
        self.unix + self.read.elapsed().as_secs()
    }
}

impl Ovh {
    pub fn open(config: &config::Scrub) -> Result<Self, String> {
        let file = api::credentials(config)?.clone();
        let secrets = file.read_keys(KEYS)?;
        let mut api = Api::open(config, "OVH")?;
        api.hide(&secrets);
        Ok(Self { api, config: config.clone(), file, secrets, clock: None })
    }

    /// Returns OVH's time: ours may be wrong, and a signature is good for a few minutes only.
    fn time(&mut self) -> Result<u64, Trouble> {
        if let Some(clock) = self.clock.filter(|clock| clock.read.elapsed() < CLOCK) {
            return Ok(clock.now());
        }
        let reply = self.api.send(&Method::GET, "/auth/time", &[("accept", "application/json")], b"")?;
        let unix = self.api.json(&reply)?.as_u64().filter(|_| reply.is_ok()).ok_or_else(|| self.api.odd(&reply))?;
        let clock = Clock { read: Instant::now(), unix };
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if ours.abs_diff(unix) > 60 {
            tracing::warn!(
                seconds = ours.abs_diff(unix),
                "The clock of this machine is not that of OVH; OVH's is used."
            );
        }
        self.clock = Some(clock);
        Ok(clock.now())
    }

    /// Asks; nothing where there is no such thing.
    fn call(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, Trouble> {
        let fresh = self.clock.is_none();
        match self.signed(method, path, body) {
            // Time may have gone astray on either side: once more, by OVH's.
            Err(Trouble::Denied(why)) if !fresh && is_about_time(&why) => {
                self.clock = None;
                self.signed(method, path, body)
            }
            other => other,
        }
    }

    fn signed(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, Trouble> {
        let time = self.time()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let url = format!("{}{path}", self.api.base);
        let [application, _, consumer] = &self.secrets;
        let signature = signature(&self.secrets, method, &url, &body, time);
        let time = time.to_string();
        let mut headers = vec![
            ("accept", "application/json"),
            ("x-ovh-application", application.expose()),
            ("x-ovh-consumer", consumer.expose()),
            ("x-ovh-timestamp", time.as_str()),
            ("x-ovh-signature", signature.as_str()),
        ];
        if !body.is_empty() {
            headers.push(("content-type", "application/json;charset=utf-8"));
        }
        let reply = self.api.send(method, path, &headers, body.as_bytes())?;
        if reply.is_ok() {
            return if reply.body.is_empty() { Ok(Some(Value::Null)) } else { self.api.json(&reply).map(Some) };
        }
        let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let query = reply.header("x-ovh-queryid").or(reply.header("x-ovh-query-id")).unwrap_or_default();
        let words = format!("{} {} {query}", text(&answer, "class"), text(&answer, "message"));
        match reply.status {
            // The page of a proxy on the way does not mean that a thing is gone.
            404 if text(&answer, "message").is_empty() => Err(self.api.odd(&reply)),
            404 if matches!(*method, Method::GET | Method::DELETE) => Ok(None),
            404 => Err(Trouble::Refused(NO_SUCH.to_owned())),
            401 | 403 => Err(self.api.denied(&self.file, &words, "give the keys the rights of docs/planes/ovh.md")),
            400 if is_about_time(&words) => Err(self.api.denied(&self.file, &words, "look at the three keys")),
            409 | 423 => Err(Trouble::Busy(format!("OVH is busy with it: {}", self.api.clean(&words)), AGAIN)),
            400..500 => Err(self.api.refused(&words)),
            _ => Err(self.api.odd(&reply)),
        }
    }

    /// Returns the block, as OVH knows it, that an address lies in.
    fn block(&self, ip: Ipv4Addr) -> Option<Ipv4Net> {
        let v4 = |net: &IpNet| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        };
        let blocks = self.config.prefixes.iter().filter_map(v4).filter(|net| net.contains(&ip));
        blocks.max_by_key(Ipv4Net::prefix_len)
    }

    /// Returns what a step comes down to, without asking anybody.
    fn things(&self, what: &What) -> Result<Vec<Thing>, String> {
        permitted(&self.config, what)?;
        let outside = |ip: Ipv4Addr| format!("{ip} is in none of the blocks in `prefixes`");
        match what {
            What::Divert { prefix: IpNet::V6(_) } => Err("OVH mitigates IPv4 alone".to_owned()),
            What::Divert { prefix: IpNet::V4(net) } => {
                let hosts = 1_usize.checked_shl(32 - u32::from(net.prefix_len())).unwrap_or(usize::MAX);
                if hosts > ADDRESSES {
                    return Err(format!(
                        "OVH mitigates address by address, and {net} has {hosts} of them: ask for a /28 or less"
                    ));
                }
                let first = u32::from(net.network());
                let ips = (0..hosts).filter_map(|i| u32::try_from(i).ok()).map(|i| Ipv4Addr::from(first + i));
                let thing = |ip| self.block(ip).map(|block| Thing::Mitigation { block, ip }).ok_or_else(|| outside(ip));
                ips.map(thing).collect()
            }
            What::Filter { matches, action } => {
                let flows = flows(matches, *action, LIMITS)?;
                let mut things = Vec::with_capacity(flows.len() + 1);
                for flow in flows {
                    let ip = flow.host().ok_or("OVH's firewall is that of one address: name one as destination")?;
                    let block = self.block(ip).ok_or_else(|| outside(ip))?;
                    if things.is_empty() {
                        things.push(Thing::Firewall { block, ip });
                    }
                    things.push(Thing::Rule { block, ip, flow });
                }
                Ok(things)
            }
            _ => Err("OVH does not do that".to_owned()),
        }
    }

    fn mitigation(&mut self, block: Ipv4Net, ip: Ipv4Addr) -> Result<Seen, Trouble> {
        let found = self.call(&Method::GET, &format!("{}/mitigation/{ip}", base(block)), None)?;
        let yes = |it: &Value, key: &str| it.get(key) == Some(&Value::Bool(true));
        Ok(found.map_or(Seen::Absent, |it| match standing(text(&it, "state")) {
            Seen::Present if yes(&it, "auto") && !yes(&it, "permanent") => Seen::Lent,
            seen => seen,
        }))
    }

    fn firewall(&mut self, block: Ipv4Net, ip: Ipv4Addr) -> Result<Seen, Trouble> {
        let Some(found) = self.call(&Method::GET, &format!("{}/firewall/{ip}", base(block)), None)? else {
            return Ok(Seen::Absent);
        };
        let on = found.get("enabled") == Some(&Value::Bool(true));
        let stays = |rule: &Value| standing(text(rule, "state")) != Seen::Going;
        Ok(match (text(&found, "state"), on) {
            ("ok" | "", true) => Seen::Present,
            // Ours are made when it is on: those that it has are somebody else's.
            ("ok" | "", false) if self.rules(block, ip)?.values().any(stays) => Seen::Barred(format!(
                "the firewall of {ip} is off and has rules, which would come into force with it: switch it on by hand, \
                 or remove them"
            )),
            ("ok" | "", false) => Seen::Absent,
            ("disableFirewallPending", _) => Seen::Going,
            _ => Seen::Coming,
        })
    }

    /// Returns the rules of an address, by sequence.
    fn rules(&mut self, block: Ipv4Net, ip: Ipv4Addr) -> Result<BTreeMap<u64, Value>, Trouble> {
        let base = format!("{}/firewall/{ip}/rule", base(block));
        let list = self.call(&Method::GET, &base, None)?.unwrap_or_default();
        let mut rules = BTreeMap::new();
        for sequence in list.as_array().into_iter().flatten().filter_map(Value::as_u64) {
            // One that went away meanwhile is no rule.
            if let Some(rule) = self.call(&Method::GET, &format!("{base}/{sequence}"), None)? {
                rules.insert(sequence, rule);
            }
        }
        Ok(rules)
    }

    fn add(&mut self, thing: &Thing) -> Result<(), Trouble> {
        match thing {
            Thing::Mitigation { block, ip } => {
                let body = json!({ "ipOnMitigation": ip });
                self.call(&Method::POST, &format!("{}/mitigation", base(*block)), Some(&body)).map(drop)
            }
            Thing::Firewall { block, ip } => {
                let path = format!("{}/firewall/{ip}", base(*block));
                if self.call(&Method::GET, &path, None)?.is_none() {
                    let body = json!({ "ipOnFirewall": ip });
                    self.call(&Method::POST, &format!("{}/firewall", base(*block)), Some(&body))?;
                }
                // To make one does not switch it on.
                self.call(&Method::PUT, &path, Some(&json!({ "enabled": true }))).map(drop)
            }
            Thing::Rule { block, ip, flow } => {
                if self.firewall(*block, *ip)? != Seen::Present {
                    return Err(Trouble::Busy(format!("the firewall of {ip} is not on yet"), AGAIN));
                }
                let used = self.rules(*block, *ip)?;
                let free = (0..SEQUENCES).find(|sequence| !used.contains_key(&u64::from(*sequence)));
                let Some(sequence) = free else {
                    let why = format!("all {SEQUENCES} rules of the firewall of {ip} are in use: remove some");
                    return Err(Trouble::Refused(why));
                };
                let body = rule(flow, sequence);
                self.call(&Method::POST, &format!("{}/firewall/{ip}/rule", base(*block)), Some(&body)).map(drop)
            }
        }
    }

    fn remove(&mut self, thing: &Thing) -> Result<(), Trouble> {
        match thing {
            Thing::Mitigation { block, ip } => {
                self.call(&Method::DELETE, &format!("{}/mitigation/{ip}", base(*block)), None).map(drop)
            }
            Thing::Firewall { block, ip } => {
                let path = format!("{}/firewall/{ip}", base(*block));
                match self.call(&Method::GET, &path, None)? {
                    Some(_) => self.call(&Method::PUT, &path, Some(&json!({ "enabled": false }))).map(drop),
                    None => Ok(()),
                }
            }
            Thing::Rule { block, ip, flow } => {
                let rules = self.rules(*block, *ip)?;
                let same = rules.iter().filter(|(_, found)| is(found, flow)).map(|(sequence, _)| *sequence);
                for sequence in same.take(1).collect::<Vec<_>>() {
                    self.call(&Method::DELETE, &format!("{}/firewall/{ip}/rule/{sequence}", base(*block)), None)?;
                }
                Ok(())
            }
        }
    }
}

/// Returns what a request is signed with ("First steps with the OVHcloud APIs").
fn signature(secrets: &[Secret; 3], method: &Method, url: &str, body: &str, time: u64) -> String {
    let [_, application, consumer] = secrets;
    let text = format!("{}+{}+{method}+{url}+{body}+{time}", application.expose(), consumer.expose());
    let hex: String = Sha1::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("$1${hex}")
}

fn is_about_time(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["signature", "timestamp", "out of time"].iter().any(|part| words.contains(part))
}

/// Returns the path of a block; that of one address is written without its length.
fn base(block: Ipv4Net) -> String {
    let name = if block.prefix_len() == 32 { block.addr().to_string() } else { block.to_string() };
    format!("/ip/{}", api::escaped(&name))
}

/// Reads the state of a mitigation or rule: `ok`, `creationPending`, `removalPending`, …
fn standing(state: &str) -> Seen {
    match state {
        "ok" | "" => Seen::Present,
        state if state.to_ascii_lowercase().contains("remov") => Seen::Going,
        _ => Seen::Coming,
    }
}

/// Returns a rule as it is written there.
fn rule(flow: &Flow, sequence: u8) -> Value {
    let mut rule = json!({
        "action": "deny",
        "protocol": flow.protocol(&PROTOCOLS).unwrap_or("ipv4"),
        "sequence": sequence,
    });
    if let Some(fields) = rule.as_object_mut() {
        if let Some(src) = flow.src {
            fields.insert("source".to_owned(), json!(src));
        }
        for (name, port) in [("sourcePort", flow.sport), ("destinationPort", flow.dport)] {
            if let Some((port, _)) = port {
                fields.insert(name.to_owned(), json!(port));
            }
        }
    }
    rule
}

/// Returns whether a rule as it is read there (ports as `eq 123`) is this one.
fn is(found: &Value, flow: &Flow) -> bool {
    let port = |name: &str| match found.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::Number(number)) => Some(Some(number.to_string())),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(Value::String(text)) => Some(text.trim().strip_prefix("eq ").map(str::to_owned).or(Some(text.clone()))),
        Some(_) => None,
    };
    let wanted = |range: Option<(u16, u16)>| Some(range.map(|(port, _)| port.to_string()));
    let source = match text(found, "source") {
        "" | "any" | "0.0.0.0/0" => None,
        source => Some(source),
    };
    let net = |text: &str| text.parse::<Ipv4Net>().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(Ipv4Net::from));
    let plain = |name: &str| matches!(found.get(name), None | Some(Value::Null | Value::Bool(false)));
    text(found, "action") == "deny"
        && text(found, "protocol") == flow.protocol(&PROTOCOLS).unwrap_or("ipv4")
        && source.map(net) == flow.src.map(Some)
        && port("sourcePort") == wanted(flow.sport)
        && port("destinationPort") == wanted(flow.dport)
        && plain("fragments")
        && plain("tcpOption")
}

impl Provider for Ovh {
    type Item = Thing;

    fn takes(&self, what: &What) -> Result<(), String> {
        self.things(what).map(drop)
    }

    fn resolve(&mut self, step: &Step) -> Result<Vec<Thing>, Trouble> {
        self.things(&step.what).map_err(Trouble::Refused)
    }

    fn look(&mut self, items: &[Thing]) -> Result<Vec<Seen>, Trouble> {
        let mut known: BTreeMap<Ipv4Addr, Result<BTreeMap<u64, Value>, String>> = BTreeMap::new();
        let mut seen = Vec::with_capacity(items.len());
        for item in items {
            seen.push(match item {
                Thing::Mitigation { block, ip } => Seen::of_one(self.mitigation(*block, *ip))?,
                Thing::Firewall { block, ip } => Seen::of_one(self.firewall(*block, *ip))?,
                Thing::Rule { block, ip, flow } => {
                    if !known.contains_key(ip) {
                        let rules = match self.rules(*block, *ip) {
                            Err(Trouble::Refused(why) | Trouble::Busy(why, _)) => Err(why),
                            other => Ok(other?),
                        };
                        known.insert(*ip, rules);
                    }
                    match known.get(ip) {
                        Some(Ok(rules)) => {
                            let found = rules.values().find(|found| is(found, flow));
                            found.map_or(Seen::Absent, |it| standing(text(it, "state")))
                        }
                        Some(Err(why)) => Seen::Unread(why.clone()),
                        None => Seen::Absent,
                    }
                }
            });
        }
        Ok(seen)
    }

    fn change(&mut self, add: &[Order<Thing>], remove: &[Order<Thing>]) -> Result<(), Trouble> {
        remove.iter().try_for_each(|order| self.remove(&order.item))?;
        add.iter().try_for_each(|order| self.add(&order.item))
    }

    fn check(&mut self) -> Result<(), Trouble> {
        let blocks: Vec<Ipv4Net> = self.config.prefixes.iter().filter_map(|net| self.block(v4(net)?)).collect();
        // The keys need the rights for what may be asked for, and no others.
        let part = if self.config.takes.contains(&Take::Divert) { "mitigation" } else { "firewall" };
        for block in blocks {
            if self.call(&Method::GET, &format!("{}/{part}", base(block)), None)?.is_none() {
                return Err(Trouble::Refused(format!("{block}: {NO_SUCH}")));
            }
        }
        Ok(())
    }

    fn reload(&mut self) -> Result<(), String> {
        self.secrets = self.file.read_keys(KEYS)?;
        self.api.hide(&self.secrets);
        Ok(())
    }
}

fn v4(net: &IpNet) -> Option<Ipv4Addr> {
    match net {
        IpNet::V4(net) => Some(net.network()),
        IpNet::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_signed_as_the_clients_of_ovh_do() {
        let secrets = |[a, b, c]: [&str; 3]| [Secret::new(a), Secret::new(b), Secret::new(c)];
        let ours = secrets(["AppKey", "AppSecret", "ConsKey"]);
        let signed = signature(&ours, &Method::GET, "https://eu.api.ovh.com/1.0/me", "", 1_700_000_000);
        assert_eq!(signed, "$1$2bea1647b71a80b894269dda60122441ca715306");
    }

    #[test]
    fn a_rule_is_known_again_however_it_is_read() {
        let flow = |text: &str| flows(&text.parse().unwrap(), crate::rule::Action::Drop, LIMITS).unwrap().remove(0);
        let ntp = flow("udp sport 123 dst 203.0.113.5");
        assert_eq!(rule(&ntp, 3), json!({ "action": "deny", "protocol": "udp", "sequence": 3, "sourcePort": 123 }));
        let rows = [
            (json!({ "action": "deny", "protocol": "udp", "sourcePort": "eq 123", "source": "any" }), true),
            (json!({ "action": "deny", "protocol": "udp", "sourcePort": 123, "fragments": false }), true),
            (json!({ "action": "permit", "protocol": "udp", "sourcePort": "eq 123" }), false),
            (json!({ "action": "deny", "protocol": "tcp", "sourcePort": "eq 123" }), false),
            (json!({ "action": "deny", "protocol": "udp", "destinationPort": "eq 123" }), false),
            (json!({ "action": "deny", "protocol": "udp", "sourcePort": "range 1 2" }), false),
            (json!({ "action": "deny", "protocol": "udp", "sourcePort": "eq 123", "source": "192.0.2.1" }), false),
        ];
        for (found, expected) in rows {
            assert_eq!(is(&found, &ntp), expected, "{found}");
        }
        let one = flow("dst 203.0.113.5 src 192.0.2.1");
        assert!(is(&json!({ "action": "deny", "protocol": "ipv4", "source": "192.0.2.1/32" }), &one));
        assert_eq!(rule(&one, 0)["source"], json!("192.0.2.1/32"));
    }
}
