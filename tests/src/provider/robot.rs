//! Hetzner Robot's interface: the firewall of one server.

use serde_json::{Value, json};

use super::Service;
use crate::http::{Request, Response, unescaped};

const FIELDS: [&str; 9] =
    ["ip_version", "name", "dst_ip", "src_ip", "dst_port", "src_port", "protocol", "tcp_flags", "action"];

/// The server, and its firewall.
pub struct Robot {
    server: String,
    /// User and password, as `Basic` has them.
    login: String,
    /// `active` or `disabled`.
    pub status: String,
    /// Rules for what comes in, as they are read: all fields, `null` where there is nothing.
    pub input: Vec<Value>,
    /// Rules for what goes out.
    pub output: Vec<Value>,
    /// Rules that somebody removed by hand.
    pub removed: Vec<Value>,
    /// For how many looks a change is in process.
    pub delay: u32,
    /// How many changes it says yes to, and does nothing.
    pub vain: u32,
    /// How many changes it says yes to, and leaves the first rule out.
    pub half: u32,
    /// Logins that were wrong.
    pub bad_logins: u32,
    left: u32,
}

/// Returns a rule as Robot shows it.
pub fn rule(fields: &[(&str, &str)]) -> Value {
    let value = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    FIELDS.iter().map(|name| ((*name).to_owned(), json!(value(name)))).collect::<serde_json::Map<_, _>>().into()
}

impl Robot {
    /// A server whose firewall is on and accepts everything. `login` is `user:password` in base64.
    pub fn new(server: &str, login: &str) -> Self {
        Self {
            server: server.to_owned(),
            login: login.to_owned(),
            status: "active".to_owned(),
            input: vec![rule(&[("name", "accept all"), ("action", "accept")])],
            output: vec![rule(&[("name", "out"), ("ip_version", "ipv4"), ("action", "accept")])],
            removed: Vec::new(),
            delay: 0,
            vain: 0,
            half: 0,
            bad_logins: 0,
            left: 0,
        }
    }

    fn shown(&self) -> Response {
        let status = if self.left > 0 { "in process" } else { &self.status };
        let firewall = json!({
            "server_ip": "203.0.113.5", "server_number": self.server.parse::<u64>().unwrap_or_default(),
            "status": status, "filter_ipv6": false, "whitelist_hos": true, "port": "main",
            "rules": { "input": self.input, "output": self.output },
        });
        Response::json(200, &json!({ "firewall": firewall }))
    }

    fn replace(&mut self, request: &Request) -> Result<Response, String> {
        request.typed("application/x-www-form-urlencoded")?;
        if self.left > 0 {
            return Ok(error(
                409,
                "FIREWALL_IN_PROCESS",
                "the firewall cannot be updated while a update is in process",
            ));
        }
        let body = String::from_utf8(request.body.clone()).map_err(|_| "the form is not UTF-8")?;
        let (mut input, mut output, mut status) = (Vec::new(), Vec::new(), None);
        for pair in body.split('&') {
            let (name, value) = pair.split_once('=').ok_or("not a form")?;
            let (name, value) = (unescaped(name), unescaped(value));
            match name.as_str() {
                "status" => status = Some(value),
                "filter_ipv6" | "whitelist_hos" => {
                    if value != if name == "whitelist_hos" { "true" } else { "false" } {
                        return Err(format!("{name} was changed to {value}"));
                    }
                }
                _ => {
                    let rest = name.strip_prefix("rules[").and_then(|rest| rest.strip_suffix(']')).ok_or("odd name")?;
                    let parts: Vec<&str> = rest.split("][").collect();
                    let [side, at, field] = parts.as_slice() else { return Err(format!("odd name {name}")) };
                    let rules = if *side == "input" { &mut input } else { &mut output };
                    place(rules, at.parse().map_err(|_| "odd index")?, field, &value)?;
                }
            }
        }
        let status = status.ok_or("no status")?;
        if !["active", "disabled"].contains(&status.as_str()) {
            return Err(format!("no status {status}"));
        }
        if input.len() > 10 || output.len() > 10 {
            return Ok(error(400, "INVALID_INPUT", "invalid input"));
        }
        if self.half > 0 {
            self.half -= 1;
            input.remove(0);
        }
        if self.vain > 0 {
            self.vain -= 1;
        } else {
            (self.input, self.output, self.status, self.left) = (input, output, status, self.delay);
        }
        Ok(Response { status: 202, ..self.shown() })
    }
}

/// Puts a field of a rule where it belongs, and checks it.
fn place(rules: &mut Vec<Value>, at: usize, field: &str, value: &str) -> Result<(), String> {
    if !FIELDS.contains(&field) {
        return Err(format!("no field {field} is documented"));
    }
    let good = match field {
        "ip_version" => ["ipv4", "ipv6"].contains(&value),
        "action" => ["accept", "discard"].contains(&value),
        "dst_ip" | "src_ip" => value.parse::<ipnet::Ipv4Net>().is_ok(),
        "dst_port" | "src_port" => value.split('-').all(|port| port.parse::<u16>().is_ok()),
        "protocol" => ["tcp", "udp", "gre", "icmp", "ipip", "ah", "esp"].contains(&value),
        _ => true,
    };
    if !good {
        return Err(format!("{field} cannot be {value}"));
    }
    if at == rules.len() {
        rules.push(rule(&[]));
    }
    let rule = rules.get_mut(at).ok_or("an index was left out")?;
    rule[field] = json!(value);
    Ok(())
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let error = json!({ "status": status, "code": code, "message": message, "missing": null, "invalid": null });
    Response::json(status, &json!({ "error": error }))
}

impl Service for Robot {
    fn answer(&mut self, request: &Request) -> Result<Response, String> {
        if !request.query.is_empty() || request.path != format!("/firewall/{}", self.server) {
            return Err("no such path".into());
        }
        let Some(login) = request.header("authorization").and_then(|value| value.strip_prefix("Basic ")) else {
            return Err("no basic authentication".into());
        };
        if login != self.login {
            self.bad_logins += 1;
            return Ok(error(401, "UNAUTHORIZED", "Unauthorized"));
        }
        match request.method.as_str() {
            "GET" => {
                request.bare()?;
                let shown = self.shown();
                self.left = self.left.saturating_sub(1);
                Ok(shown)
            }
            "POST" => self.replace(request),
            _ => Err("to remove all rules is never wanted".into()),
        }
    }
}
