//! Cloudflare's interface, version 4: address space and rulesets of one account.

use serde_json::{Value, json};

use super::{Service, exactly};
use crate::http::{Request, Response};

/// A BGP prefix, and what may be done with it.
#[derive(Clone, Debug)]
pub struct Bgp {
    /// `203.0.113.0/24`
    pub cidr: String,
    /// Whether it is announced.
    pub advertised: bool,
    /// Whether it may be on demand.
    pub enabled: bool,
    /// Whether that is locked.
    pub locked: bool,
    /// Whether BGP signals decide instead.
    pub signal: bool,
    /// What it becomes, and after how many looks.
    coming: Option<(bool, u32)>,
}

/// The account.
pub struct Cloudflare {
    account: String,
    token: String,
    /// Its prefixes: `203.0.113.0/24`, and the BGP prefixes in them.
    pub prefixes: Vec<(String, Vec<Bgp>)>,
    /// The rules of the Network Firewall; none without a ruleset.
    pub rules: Option<Vec<Value>>,
    /// Rules that somebody removed by hand.
    pub removed: Vec<Value>,
    /// How many looks a change takes.
    pub delay: u32,
    /// How many changes it says yes to, and does nothing.
    pub vain: u32,
    /// What is in the `Ratelimit` header.
    pub ratelimit: Option<String>,
    made: u32,
}

impl Bgp {
    /// One that may be announced on demand.
    pub fn new(cidr: &str) -> Self {
        Self { cidr: cidr.to_owned(), advertised: false, enabled: true, locked: false, signal: false, coming: None }
    }

    fn json(&self, id: &str) -> Value {
        let advertised = if self.enabled { json!(self.advertised) } else { Value::Null };
        json!({
            "id": id, "asn": 13335, "asn_prepend_count": 0, "cidr": self.cidr,
            "created_at": "2026-01-01T00:00:00Z", "modified_at": "2026-01-01T00:00:00Z",
            "bgp_signal_opts": { "enabled": self.signal, "modified_at": "2026-01-01T00:00:00Z" },
            "on_demand": {
                "advertised": advertised, "advertised_modified_at": "2026-01-01T00:00:00Z",
                "on_demand_enabled": self.enabled, "on_demand_locked": self.locked,
            },
        })
    }
}

impl Cloudflare {
    /// An account with a token, without prefixes, with an empty ruleset.
    pub fn new(account: &str, token: &str) -> Self {
        Self {
            account: account.to_owned(),
            token: token.to_owned(),
            prefixes: Vec::new(),
            rules: Some(Vec::new()),
            removed: Vec::new(),
            delay: 0,
            vain: 0,
            ratelimit: None,
            made: 0,
        }
    }

    /// Returns a BGP prefix.
    ///
    /// # Panics
    /// Where there is none.
    pub fn bgp(&mut self, cidr: &str) -> &mut Bgp {
        let all = self.prefixes.iter_mut().flat_map(|(_, below)| below);
        all.into_iter().find(|bgp| bgp.cidr == cidr).unwrap()
    }

    fn route(&mut self, request: &Request) -> Result<Response, String> {
        let parts = request.parts();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let [c, v4, accounts, account, rest @ ..] = parts.as_slice() else { return Err("no such path".into()) };
        if [*c, *v4, *accounts] != ["client", "v4", "accounts"] || *account != self.account {
            return Err("no such path".into());
        }
        if matches!(request.method.as_str(), "GET" | "DELETE") {
            request.bare()?;
        } else {
            request.typed("application/json")?;
        }
        match (request.method.as_str(), rest) {
            ("GET", ["addressing", "prefixes"]) => {
                let prefix = |(i, (cidr, _)): (usize, &(String, Vec<Bgp>))| json!({ "id": format!("p{i}"), "account_id": self.account, "cidr": cidr, "approved": "V" });
                Ok(good(&self.prefixes.iter().enumerate().map(prefix).collect()))
            }
            (_, ["addressing", "prefixes", prefix, "bgp", "prefixes", rest @ ..]) => self.prefix(request, prefix, rest),
            (_, ["rulesets", rest @ ..]) => self.ruleset(request, rest),
            _ => Err("no such path".into()),
        }
    }

    fn prefix(&mut self, request: &Request, prefix: &str, rest: &[&str]) -> Result<Response, String> {
        let at: usize = prefix.strip_prefix('p').and_then(|at| at.parse().ok()).ok_or("no such prefix")?;
        let (_, below) = self.prefixes.get_mut(at).ok_or("no such prefix")?;
        let index = |id: &str| id.strip_prefix('b').and_then(|at| at.parse::<usize>().ok());
        match (request.method.as_str(), rest) {
            ("GET", []) => {
                let all = below.iter().enumerate().map(|(i, bgp)| bgp.json(&format!("b{i}")));
                Ok(good(&all.collect()))
            }
            ("GET", [id]) => {
                let bgp = index(id).and_then(|at| below.get_mut(at)).ok_or("no such BGP prefix")?;
                match bgp.coming {
                    Some((to, 0)) => (bgp.advertised, bgp.coming) = (to, None),
                    Some((to, left)) => bgp.coming = Some((to, left - 1)),
                    None => {}
                }
                Ok(good(&bgp.json(id)))
            }
            ("PATCH", [id]) => {
                let body = request.json()?;
                exactly(&body, &["on_demand"])?;
                exactly(&body["on_demand"], &["advertised"])?;
                let to = body["on_demand"]["advertised"].as_bool().ok_or("`advertised` is not a bool")?;
                let bgp = index(id).and_then(|at| below.get_mut(at)).ok_or("no such BGP prefix")?;
                if !bgp.enabled || bgp.locked || bgp.signal {
                    return Ok(bad(400, 1015, "the prefix cannot be changed on demand"));
                }
                if self.vain > 0 {
                    self.vain -= 1;
                } else if self.delay == 0 {
                    (bgp.advertised, bgp.coming) = (to, None);
                } else {
                    bgp.coming = Some((to, self.delay));
                }
                Ok(good(&bgp.json(id)))
            }
            _ => Err("no such path".into()),
        }
    }

    fn ruleset(&mut self, request: &Request, rest: &[&str]) -> Result<Response, String> {
        let Some(rules) = &mut self.rules else {
            return match (request.method.as_str(), rest) {
                ("GET", ["phases", "magic_transit", "entrypoint"]) => Ok(bad(404, 10003, "no entrypoint ruleset")),
                _ => Err("there is no ruleset, and none is to be made".into()),
            };
        };
        match (request.method.as_str(), rest) {
            ("GET", ["phases", "magic_transit", "entrypoint"]) => {
                Ok(good(&json!({ "id": "r0", "kind": "root", "phase": "magic_transit", "rules": rules })))
            }
            ("POST", ["r0", "rules"]) => {
                let mut rule = request.json()?;
                exactly(&rule, &["action", "expression", "description", "enabled"])?;
                if rule["action"] != "block" || rule["enabled"] != true {
                    return Err("not a rule that blocks".into());
                }
                if self.vain > 0 {
                    self.vain -= 1;
                } else {
                    self.made += 1;
                    rule["id"] = json!(format!("rule{}", self.made));
                    rules.push(rule);
                }
                Ok(good(&json!({ "id": "r0", "rules": rules })))
            }
            ("DELETE", ["r0", "rules", id]) => {
                let before = rules.len();
                rules.retain(|rule| rule["id"] != *id);
                Ok(if rules.len() == before { bad(404, 10004, "no such rule") } else { good(&json!({ "id": "r0" })) })
            }
            _ => Err("no such path".into()),
        }
    }
}

fn good(result: &Value) -> Response {
    Response::json(200, &json!({ "success": true, "errors": [], "messages": [], "result": result }))
}

fn bad(status: u16, code: u32, message: &str) -> Response {
    let errors = json!([{ "code": code, "message": message }]);
    Response::json(status, &json!({ "success": false, "errors": errors, "messages": [], "result": null }))
}

impl Service for Cloudflare {
    fn answer(&mut self, request: &Request) -> Result<Response, String> {
        if !request.query.is_empty() {
            return Err("no query is documented".into());
        }
        let Some(token) = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err("no bearer token".into());
        };
        if token != self.token {
            return Ok(bad(403, 10000, "Authentication error"));
        }
        let answer = self.route(request)?;
        Ok(match &self.ratelimit {
            Some(left) => answer.with("Ratelimit", left).with("Ratelimit-Policy", "\"default\";q=1200;w=300"),
            None => answer,
        })
    }
}
