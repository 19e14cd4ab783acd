//! Hetzner Robot: the stateless firewall in front of a dedicated server. A change sends the whole list, so ours go
//! in front of the operator's, which are sent back as they were found. `docs/planes/hetzner.md` has the limits.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use ureq::http::Method;

use super::{
    Item, Order, Provider, Seen, Trouble,
    api::{self, Api, escaped, text},
    flow::{Flow, Limits, flows},
    hetzner::ALWAYS_ON,
    permitted,
};
use crate::{
    config::{self, Secret, SecretFile},
    decide::ladder::{Step, What},
};

/// Rules in one direction.
const RULES: usize = 10;
const PROTOCOLS: [(u8, &str); 6] = [(1, "icmp"), (6, "tcp"), (17, "udp"), (47, "gre"), (50, "esp"), (51, "ah")];
const LIMITS: Limits = Limits { who: "Hetzner's firewall", protocols: &PROTOCOLS, ranges: true, rules: RULES };
/// A change is carried out in 20 to 30 seconds; until then no other is taken.
const IN_PROCESS: Duration = Duration::from_secs(20);
/// What a rule can have.
const FIELDS: [&str; 9] =
    ["ip_version", "name", "dst_ip", "src_ip", "dst_port", "src_port", "protocol", "tcp_flags", "action"];

/// A rule in front of the operator's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Discard {
    server: String,
    flow: Flow,
    /// Its name there, by which it is known again.
    mark: String,
}

impl Item for Discard {
    fn key(&self) -> String {
        format!("discard {}", self.flow.text())
    }

    fn group(&self) -> String {
        format!("server {}", self.server)
    }
}

/// The firewall of a server, as it was read.
struct Firewall {
    busy: bool,
    active: bool,
    filter_ipv6: bool,
    whitelist_hos: bool,
    input: Vec<Value>,
    output: Vec<Value>,
}

pub(super) struct Robot {
    api: Api,
    config: config::Scrub,
    file: SecretFile,
    login: [Secret; 2],
    owner: String,
}

impl Robot {
    pub fn open(config: &config::Scrub) -> Result<Self, String> {
        let file = api::credentials(config)?.clone();
        let login = file.read_keys(["user", "password"])?;
        let api = Api::open(config, "Hetzner Robot")?;
        let owner = api::owner(&config.name);
        let mut robot = Self { api, config: config.clone(), file, login, owner };
        robot.hide();
        Ok(robot)
    }

    /// Keeps the password out of all texts, and what it travels as.
    fn hide(&mut self) {
        let encoded = Secret::new(self.encoded());
        self.api.hide([&encoded, &self.login[1]]);
    }

    fn encoded(&self) -> String {
        let [user, password] = &self.login;
        STANDARD.encode(format!("{}:{}", user.expose(), password.expose()))
    }

    fn call(&self, method: &Method, body: &str) -> Result<Value, Trouble> {
        let authorization = format!("Basic {}", self.encoded());
        let mut headers = vec![("authorization", authorization.as_str()), ("accept", "application/json")];
        if !body.is_empty() {
            headers.push(("content-type", "application/x-www-form-urlencoded"));
        }
        let path = format!("/firewall/{}", self.config.account);
        let reply = self.api.send(method, &path, &headers, body.as_bytes())?;
        if reply.is_ok() {
            return self.api.json(&reply);
        }
        let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let error = answer.get("error").unwrap_or(&Value::Null);
        let (code, message) = (text(error, "code"), text(error, "message"));
        let words = format!("{code} {message}");
        match (reply.status, code) {
            (401, _) => {
                Err(self.api.denied(&self.file, &words, "write the `user` and `password` of a web service user"))
            }
            // Robot's way of saying 429.
            (403, "RATE_LIMIT_EXCEEDED") => {
                let wait = error.get("interval").and_then(Value::as_u64).map(Duration::from_secs);
                Err(Trouble::Limited("Hetzner Robot lets no more requests in for now".to_owned(), wait))
            }
            (403, _) => Err(self.api.denied(&self.file, &words, "let the web service user see this server")),
            (409, _) => Err(Trouble::Busy("Hetzner still carries out the change before".to_owned(), IN_PROCESS)),
            (404, "SERVER_NOT_FOUND") => {
                let why = format!("Hetzner knows no server {}: look at `account`", self.config.account);
                Err(Trouble::Denied(why))
            }
            (404, _) => {
                Err(Trouble::Denied(format!("this server has no firewall at Hetzner ({})", self.api.clean(&words))))
            }
            (400..500, _) => {
                let list =
                    |key: &str| error.get(key).filter(|list| !list.is_null()).map(Value::to_string).unwrap_or_default();
                Err(self.api.refused(&format!("{words} {}{}", list("missing"), list("invalid"))))
            }
            _ => Err(self.api.odd(&reply)),
        }
    }

    fn read(&self) -> Result<Firewall, Trouble> {
        let answer = self.call(&Method::GET, "")?;
        let lost = || Trouble::Lost("Hetzner Robot answered something that is not a firewall".to_owned(), None);
        let firewall = answer.get("firewall").ok_or_else(lost)?;
        let rules = |side: &str| {
            let list = firewall.get("rules").and_then(|rules| rules.get(side)).and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let yes = |key: &str| match firewall.get(key) {
            Some(Value::Bool(yes)) => *yes,
            other => other.and_then(Value::as_str) == Some("true"),
        };
        let status = text(firewall, "status");
        if !["active", "disabled", "in process", "in progress"].contains(&status) {
            return Err(lost());
        }
        Ok(Firewall {
            // The documentation writes it in two ways.
            busy: status.starts_with("in "),
            active: status == "active",
            filter_ipv6: yes("filter_ipv6"),
            whitelist_hos: yes("whitelist_hos"),
            input: rules("input"),
            output: rules("output"),
        })
    }

    fn is_ours(&self, rule: &Value) -> bool {
        text(rule, "name").starts_with(&format!("ftagent {} ", self.owner))
    }

    fn discards(&self, what: &What) -> Result<Vec<Discard>, String> {
        permitted(&self.config, what)?;
        let What::Filter { matches, action } = what else { return Err(ALWAYS_ON.to_owned()) };
        let discard = |flow: Flow| {
            let mark = format!("ftagent {} {}", self.owner, api::digest(&flow.text(), 8));
            Discard { server: self.config.account.clone(), flow, mark }
        };
        Ok(flows(matches, *action, LIMITS)?.into_iter().map(discard).collect())
    }
}

/// Returns a rule's fields as a form has them.
fn fields(discard: &Discard) -> Vec<(&'static str, String)> {
    let flow = &discard.flow;
    let mut fields = vec![("ip_version", "ipv4".to_owned()), ("name", discard.mark.clone())];
    fields.push(("dst_ip", flow.dst.to_string()));
    fields.extend(flow.src.map(|src| ("src_ip", src.to_string())));
    let range = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    fields.extend(flow.dport.map(|port| ("dst_port", range(port))));
    fields.extend(flow.sport.map(|port| ("src_port", range(port))));
    fields.extend(flow.protocol(&PROTOCOLS).map(|name| ("protocol", name.to_owned())));
    fields.push(("action", "discard".to_owned()));
    fields
}

/// Returns an operator's rule as it is to be sent back.
fn kept(rule: &Value) -> Result<Vec<(&'static str, String)>, Trouble> {
    let Some(object) = rule.as_object() else {
        return Err(Trouble::Refused("a rule there cannot be read, and would be lost".to_owned()));
    };
    if let Some((name, _)) = object.iter().find(|(name, value)| !FIELDS.contains(&name.as_str()) && !value.is_null()) {
        let why = format!("a rule there has a field \"{name}\" that this version does not know, and would lose it");
        return Err(Trouble::Refused(why));
    }
    let field = |name: &&'static str| match object.get(*name) {
        Some(Value::String(text)) => Some((*name, text.clone())),
        Some(Value::Null) | None => None,
        Some(other) => Some((*name, other.to_string())),
    };
    Ok(FIELDS.iter().filter_map(field).collect())
}

/// Returns the form that replaces the firewall: ours first, then the operator's in their order.
fn form(firewall: &Firewall, input: &[Vec<(&str, String)>]) -> Result<String, Trouble> {
    let mut pairs = vec![
        ("status".to_owned(), "active".to_owned()),
        ("filter_ipv6".to_owned(), firewall.filter_ipv6.to_string()),
        ("whitelist_hos".to_owned(), firewall.whitelist_hos.to_string()),
    ];
    let output = firewall.output.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
    for (side, rules) in [("input", input), ("output", &output)] {
        for (i, rule) in rules.iter().enumerate() {
            pairs.extend(rule.iter().map(|(name, value)| (format!("rules[{side}][{i}][{name}]"), value.clone())));
        }
    }
    let pair = |(name, value): &(String, String)| format!("{}={}", escaped(name), escaped(value));
    Ok(pairs.iter().map(pair).collect::<Vec<_>>().join("&"))
}

impl Provider for Robot {
    type Item = Discard;

    fn takes(&self, what: &What) -> Result<(), String> {
        if matches!(what, What::Divert { .. }) {
            return Err(ALWAYS_ON.to_owned());
        }
        self.discards(what).map(drop)
    }

    fn resolve(&mut self, step: &Step) -> Result<Vec<Discard>, Trouble> {
        self.discards(&step.what).map_err(Trouble::Refused)
    }

    fn look(&mut self, items: &[Discard]) -> Result<Vec<Seen>, Trouble> {
        let firewall = self.read()?;
        let seen = |item: &Discard| {
            let there = firewall.input.iter().any(|rule| text(rule, "name") == item.mark);
            match (there, firewall.busy) {
                (true, true) => Seen::Coming,
                (true, false) if firewall.active => Seen::Present,
                // It would come into force when somebody switches the firewall on.
                (true, false) => Seen::Listed,
                (false, true) => Seen::Going,
                _ if !firewall.active => Seen::Barred(format!(
                    "the firewall of server {} is off, and to switch it on would put its other rules in force as well: \
                     make it active in Robot, with a last rule that accepts",
                    self.config.account
                )),
                _ => Seen::Absent,
            }
        };
        Ok(items.iter().map(seen).collect())
    }

    fn change(&mut self, add: &[Order<Discard>], remove: &[Order<Discard>]) -> Result<(), Trouble> {
        let firewall = self.read()?;
        if firewall.busy {
            return Err(Trouble::Busy("Hetzner still carries out the change before".to_owned(), IN_PROCESS));
        }
        if !firewall.active && !add.is_empty() {
            return Err(Trouble::Refused("the firewall was switched off meanwhile".to_owned()));
        }
        let named =
            |orders: &[Order<Discard>], rule: &Value| orders.iter().any(|it| it.item.mark == text(rule, "name"));
        let (ours, others): (Vec<&Value>, Vec<&Value>) = firewall.input.iter().partition(|rule| self.is_ours(rule));
        let stay = ours.into_iter().filter(|rule| !named(remove, rule) && !named(add, rule));
        let mut input = stay.map(kept).collect::<Result<Vec<_>, _>>()?;
        input.extend(add.iter().map(|order| fields(&order.item)));
        for rule in others {
            input.push(kept(rule)?);
        }
        if input.len() > RULES && !add.is_empty() {
            let why = format!("the firewall of server {} has room for {RULES} rules: remove some", self.config.account);
            return Err(Trouble::Refused(why));
        }
        // To send back one that is off must not switch it on.
        let mut form = form(&firewall, &input)?;
        if !firewall.active {
            form = form.replacen("status=active", "status=disabled", 1);
        }
        self.call(&Method::POST, &form).map(drop)
    }

    fn check(&mut self) -> Result<(), Trouble> {
        self.read().map(drop)
    }

    fn strays(&mut self) -> Result<Vec<Discard>, Trouble> {
        let firewall = self.read()?;
        let discard = |rule: &Value| {
            let (flow, server) = (flow(rule)?, self.config.account.clone());
            Some(Discard { server, flow, mark: text(rule, "name").to_owned() })
        };
        Ok(firewall.input.iter().filter(|rule| self.is_ours(rule)).filter_map(discard).collect())
    }

    fn reload(&mut self) -> Result<(), String> {
        self.login = self.file.read_keys(["user", "password"])?;
        self.hide();
        Ok(())
    }
}

/// Reads a rule of ours.
fn flow(rule: &Value) -> Option<Flow> {
    let range = |name: &str| {
        let text = text(rule, name);
        if text.is_empty() {
            return Some(None);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        Some(Some((first.parse().ok()?, last.parse().ok()?)))
    };
    let net = |text: &str| text.parse().ok().or_else(|| text.parse::<std::net::Ipv4Addr>().ok().map(Into::into));
    let src = match text(rule, "src_ip") {
        "" => None,
        text => Some(net(text)?),
    };
    let proto = match text(rule, "protocol") {
        "" => None,
        name => Some(PROTOCOLS.iter().find(|(_, known)| *known == name)?.0),
    };
    Some(Flow { src, dst: net(text(rule, "dst_ip"))?, proto, sport: range("src_port")?, dport: range("dst_port")? })
}
