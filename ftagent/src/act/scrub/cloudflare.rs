//! Cloudflare: on-demand advertisement of Magic Transit, by its interface for BGP prefixes, and rules of its
//! Network Firewall. `docs/planes/cloudflare.md` says what it can and cannot do.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::Method;

use super::{
    Item, Order, Provider, Seen, Trouble,
    api::{self, Api, text},
    expression::expression,
    permitted,
};
use crate::{
    config::{self, Secret, SecretFile, Take},
    decide::ladder::{Step, What},
};

/// How long what the account has is believed.
const CATALOGUE: Duration = Duration::from_secs(600);
/// After a 429 all requests of an account are blocked for so long ("API rate limits").
const BLOCKED: Duration = Duration::from_secs(300);
/// With fewer requests left than this, the rest of the window is waited for.
const RESERVE: u64 = 5;
/// Between two tries at something that it answers with "no success".
const AGAIN: Duration = Duration::from_secs(30);
/// Its ways of saying that a token is none ("Invalid request headers", "Authentication error", …).
const BAD_TOKEN: [i64; 4] = [6003, 6111, 9109, 10000];

/// What Cloudflare is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Thing {
    /// To announce a prefix.
    Advertise {
        /// The BGP prefix as a whole: what is wanted lies in it.
        cidr: IpNet,
        prefix_id: String,
        bgp_prefix_id: String,
    },
    /// A rule of the Network Firewall.
    Block {
        expression: String,
        /// Its description there, by which it is known again.
        mark: String,
    },
}

impl Item for Thing {
    fn key(&self) -> String {
        match self {
            Self::Advertise { cidr, .. } => format!("advertise {cidr}"),
            Self::Block { expression, .. } => format!("block {expression}"),
        }
    }

    fn diverts(&self) -> bool {
        matches!(self, Self::Advertise { .. })
    }
}

pub(super) struct Cloudflare {
    api: Api,
    config: config::Scrub,
    file: SecretFile,
    token: Secret,
    owner: String,
    catalogue: Option<(Instant, Vec<Thing>)>,
    /// Few requests are left until then.
    spent: Option<Instant>,
}

impl Cloudflare {
    pub fn open(config: &config::Scrub) -> Result<Self, String> {
        let file = api::credentials(config)?.clone();
        let [token] = file.read_keys(["api_token"])?;
        let mut api = Api::open(config, "Cloudflare")?;
        api.hide([&token]);
        let owner = api::owner(&config.name);
        Ok(Self { api, config: config.clone(), file, token, owner, catalogue: None, spent: None })
    }

    /// Asks, and returns the `result`; nothing where there is no such thing.
    fn call(&mut self, method: &Method, path: &str, body: Option<&Value>) -> Result<Option<Value>, Trouble> {
        let now = Instant::now();
        if let Some(left) = self.spent.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
        {
            let why = "Cloudflare: nearly all requests of this window are used up; the next one is waited for";
            return Err(Trouble::Limited(why.to_owned(), Some(left)));
        }
        let path = format!("/accounts/{}{path}", self.config.account);
        let authorization = format!("Bearer {}", self.token.expose());
        let mut headers = vec![("authorization", authorization.as_str()), ("accept", "application/json")];
        let body = body.map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let reply = self.api.send(method, &path, &headers, body.as_bytes()).map_err(|trouble| match trouble {
            Trouble::Limited(why, wait) => Trouble::Limited(why, Some(wait.unwrap_or(BLOCKED))),
            other => other,
        })?;
        self.spent = reply.header("ratelimit").and_then(window).map(|wait| now + wait);
        let answer = match self.api.json(&reply) {
            Ok(answer) => answer,
            Err(_) if matches!(reply.status, 401 | 403) => Value::Null,
            // The page of a proxy on the way does not mean that a thing is gone.
            Err(trouble) => return Err(trouble),
        };
        let words = self.words(&answer);
        let code = |error: &Value| error.get("code").and_then(Value::as_i64).unwrap_or_default();
        let errors = answer.get("errors").and_then(Value::as_array);
        let bad_token = errors.is_some_and(|errors| errors.iter().any(|error| BAD_TOKEN.contains(&code(error))));
        match reply.status {
            401 | 403 => {
                Err(self.api.denied(&self.file, &words, "give the token the permissions of docs/planes/cloudflare.md"))
            }
            400 if bad_token => Err(self.api.denied(&self.file, &words, "`api_token` is not a token")),
            404 if answer.get("success") != Some(&Value::Bool(false)) => Err(self.api.odd(&reply)),
            404 if matches!(*method, Method::GET | Method::DELETE) => Ok(None),
            409 => Err(Trouble::Busy(format!("Cloudflare is busy: {words}"), AGAIN)),
            400.. => Err(self.api.refused(&words)),
            _ if answer.get("success") != Some(&Value::Bool(true)) => {
                Err(Trouble::Busy(format!("Cloudflare answers without success: {words}"), AGAIN))
            }
            _ => Ok(Some(answer.get("result").cloned().unwrap_or_default())),
        }
    }

    /// Returns what its errors say.
    fn words(&self, answer: &Value) -> String {
        let errors = answer.get("errors").and_then(Value::as_array);
        let word = |error: &Value| {
            let code = error.get("code").map(Value::to_string).unwrap_or_default();
            format!("{} ({code})", text(error, "message"))
        };
        let words: Vec<String> = errors.into_iter().flatten().map(word).collect();
        if words.is_empty() { "it does not say why".to_owned() } else { self.api.clean(&words.join("; ")) }
    }

    /// Returns the BGP prefixes that the account has inside what the configuration allows.
    fn catalogue(&mut self) -> Result<Vec<Thing>, Trouble> {
        if let Some((at, known)) = &self.catalogue
            && at.elapsed() < CATALOGUE
        {
            return Ok(known.clone());
        }
        let prefixes = self.call(&Method::GET, "/addressing/prefixes", None)?.unwrap_or_default();
        let mut found = Vec::new();
        for prefix in prefixes.as_array().into_iter().flatten() {
            let Some(whole) = net(prefix) else { continue };
            let apart = |own: &IpNet| !own.contains(&whole) && !whole.contains(own);
            if self.config.prefixes.iter().all(apart) {
                continue;
            }
            let prefix_id = text(prefix, "id").to_owned();
            let path = format!("/addressing/prefixes/{}/bgp/prefixes", api::escaped(&prefix_id));
            let below = self.call(&Method::GET, &path, None)?.unwrap_or_default();
            for bgp in below.as_array().into_iter().flatten() {
                let Some(cidr) = net(bgp).filter(|cidr| self.config.prefixes.iter().any(|own| own.contains(cidr)))
                else {
                    continue;
                };
                let bgp_prefix_id = text(bgp, "id").to_owned();
                found.push(Thing::Advertise { cidr, prefix_id: prefix_id.clone(), bgp_prefix_id });
            }
        }
        self.catalogue = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// Finds the narrowest BGP prefix around what is wanted, or those that make it up.
    fn cover(&mut self, wanted: IpNet) -> Result<Vec<Thing>, Trouble> {
        let catalogue = self.catalogue()?;
        let cidr = |thing: &Thing| match thing {
            Thing::Advertise { cidr, .. } => Some(*cidr),
            Thing::Block { .. } => None,
        };
        let around = catalogue.iter().filter(|thing| cidr(thing).is_some_and(|cidr| cidr.contains(&wanted)));
        if let Some(narrowest) = around.max_by_key(|thing| cidr(thing).map(|cidr| cidr.prefix_len())) {
            return Ok(vec![narrowest.clone()]);
        }
        let parts = catalogue.iter().filter(|thing| cidr(thing).is_some_and(|cidr| wanted.contains(&cidr)));
        let parts: Vec<Thing> = parts.cloned().collect();
        if IpNet::aggregate(&parts.iter().filter_map(cidr).collect()) == [wanted] {
            return Ok(parts);
        }
        // What the operator mends there is to be seen soon.
        self.catalogue = None;
        Err(Trouble::Refused(format!(
            "Cloudflare has no BGP prefix around {wanted} that lies inside `prefixes` of [[scrub]] \"{}\": add one there \
             (Address space, BGP prefixes) or widen `prefixes`",
            self.config.name
        )))
    }

    fn prefix(&mut self, prefix_id: &str, bgp_prefix_id: &str) -> Result<Seen, Trouble> {
        let path = path_of(prefix_id, bgp_prefix_id);
        let Some(bgp) = self.call(&Method::GET, &path, None)? else {
            self.catalogue = None;
            return Ok(Seen::Barred(
                "Cloudflare does not know this BGP prefix any more: look at the account".to_owned(),
            ));
        };
        let demand = bgp.get("on_demand").unwrap_or(&Value::Null);
        let yes = |value: &Value, key: &str| value.get(key) == Some(&Value::Bool(true));
        if yes(demand, "advertised") {
            return Ok(Seen::Present);
        }
        let barred = if !yes(demand, "on_demand_enabled") {
            Some("on-demand advertisement is not enabled for it at Cloudflare: ask your account team to enable it")
        } else if yes(demand, "on_demand_locked") {
            Some("Cloudflare holds it locked: ask your account team to unlock it")
        } else if bgp.get("bgp_signal_opts").is_some_and(|signal| yes(signal, "enabled")) {
            Some("it is advertised by BGP signals, and cannot be by request as well: choose one at Cloudflare")
        } else {
            None
        };
        Ok(barred.map_or(Seen::Absent, |why| Seen::Barred(why.to_owned())))
    }

    fn advertise(&mut self, prefix_id: &str, bgp_prefix_id: &str, on: bool) -> Result<(), Trouble> {
        let body = json!({ "on_demand": { "advertised": on } });
        self.call(&Method::PATCH, &path_of(prefix_id, bgp_prefix_id), Some(&body)).map(drop)
    }

    /// Returns the firewall's ruleset and its rules.
    fn ruleset(&mut self) -> Result<Option<(String, Vec<Value>)>, Trouble> {
        let found = self.call(&Method::GET, "/rulesets/phases/magic_transit/entrypoint", None)?;
        Ok(found.map(|ruleset| {
            let rules = ruleset.get("rules").and_then(Value::as_array).cloned().unwrap_or_default();
            (text(&ruleset, "id").to_owned(), rules)
        }))
    }

    fn block(&mut self, expression: &str, mark: &str) -> Result<(), Trouble> {
        let Some((id, _)) = self.ruleset()? else { return Err(Trouble::Refused(NO_RULESET.to_owned())) };
        // One rule is added; to send the ruleset as a whole would take away what others put there.
        let rule = json!({ "action": "block", "expression": expression, "description": mark, "enabled": true });
        self.call(&Method::POST, &format!("/rulesets/{}/rules", api::escaped(&id)), Some(&rule)).map(drop)
    }

    fn unblock(&mut self, mark: &str) -> Result<(), Trouble> {
        let Some((id, rules)) = self.ruleset()? else { return Ok(()) };
        for rule in rules.iter().filter(|rule| text(rule, "description") == mark) {
            let path = format!("/rulesets/{}/rules/{}", api::escaped(&id), api::escaped(text(rule, "id")));
            self.call(&Method::DELETE, &path, None)?;
        }
        Ok(())
    }

    fn filters(&self) -> bool {
        self.config.takes.contains(&Take::Filter)
    }
}

const NO_RULESET: &str = "the account has no ruleset of the Network Firewall: make one in the dashboard, with a policy of \
                          your own";

fn path_of(prefix_id: &str, bgp_prefix_id: &str) -> String {
    format!("/addressing/prefixes/{}/bgp/prefixes/{}", api::escaped(prefix_id), api::escaped(bgp_prefix_id))
}

fn net(value: &Value) -> Option<IpNet> {
    text(value, "cidr").parse().ok()
}

/// Reads `"default";r=50;t=30`: requests that are left, seconds until there are more. Returns how long to wait.
fn window(header: &str) -> Option<Duration> {
    let number = |name: &str| {
        let value = header.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))?;
        value.trim().parse::<u64>().ok()
    };
    (number("r")? < RESERVE).then_some(Duration::from_secs(number("t")?))
}

impl Provider for Cloudflare {
    type Item = Thing;

    fn takes(&self, what: &What) -> Result<(), String> {
        permitted(&self.config, what)?;
        match what {
            What::Filter { matches, action } => expression(matches, *action).map(drop),
            _ => Ok(()),
        }
    }

    fn resolve(&mut self, step: &Step) -> Result<Vec<Thing>, Trouble> {
        match &step.what {
            What::Divert { prefix } => self.cover(*prefix),
            What::Filter { matches, action } => {
                let expression = expression(matches, *action).map_err(Trouble::Refused)?;
                let mark = format!("ftagent {} {}", self.owner, api::digest(&expression, 8));
                Ok(vec![Thing::Block { expression, mark }])
            }
            _ => Err(Trouble::Refused("Cloudflare does not do that".to_owned())),
        }
    }

    fn look(&mut self, items: &[Thing]) -> Result<Vec<Seen>, Trouble> {
        let blocks = items.iter().any(|item| matches!(item, Thing::Block { .. }));
        let ruleset = match if blocks { self.ruleset() } else { Ok(None) } {
            Err(Trouble::Refused(why) | Trouble::Busy(why, _)) => Err(why),
            other => Ok(other?),
        };
        let block = |mark: &str| match &ruleset {
            Err(why) => Seen::Unread(why.clone()),
            Ok(None) => Seen::Barred(NO_RULESET.to_owned()),
            Ok(Some((_, rules))) => {
                let on = |rule: &Value| rule.get("enabled") != Some(&Value::Bool(false));
                let mut ours = rules.iter().filter(|rule| text(rule, "description") == mark).map(on);
                match ours.next() {
                    None => Seen::Absent,
                    Some(first) if first || ours.any(|on| on) => Seen::Present,
                    Some(_) => Seen::Listed,
                }
            }
        };
        let mut seen = Vec::with_capacity(items.len());
        for item in items {
            seen.push(match item {
                Thing::Advertise { prefix_id, bgp_prefix_id, .. } => {
                    Seen::of_one(self.prefix(prefix_id, bgp_prefix_id))?
                }
                Thing::Block { mark, .. } => block(mark),
            });
        }
        Ok(seen)
    }

    fn change(&mut self, add: &[Order<Thing>], remove: &[Order<Thing>]) -> Result<(), Trouble> {
        for order in remove {
            match &order.item {
                Thing::Advertise { prefix_id, bgp_prefix_id, .. } => self.advertise(prefix_id, bgp_prefix_id, false)?,
                Thing::Block { mark, .. } => self.unblock(mark)?,
            }
        }
        for order in add {
            match &order.item {
                Thing::Advertise { prefix_id, bgp_prefix_id, .. } => self.advertise(prefix_id, bgp_prefix_id, true)?,
                Thing::Block { expression, mark } => self.block(expression, mark)?,
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Trouble> {
        // The token needs the permissions for what may be asked for, and no others.
        if self.config.takes.contains(&Take::Divert) {
            self.catalogue = None;
            if self.catalogue()?.is_empty() {
                let name = &self.config.name;
                let why =
                    format!("Cloudflare has no BGP prefix inside `prefixes` of [[scrub]] \"{name}\": add one there");
                return Err(Trouble::Refused(why));
            }
        }
        if self.filters() && self.ruleset()?.is_none() {
            return Err(Trouble::Refused(NO_RULESET.to_owned()));
        }
        Ok(())
    }

    fn strays(&mut self) -> Result<Vec<Thing>, Trouble> {
        if !self.filters() {
            return Ok(Vec::new());
        }
        let ours = format!("ftagent {} ", self.owner);
        let rules = self.ruleset()?.map(|(_, rules)| rules).unwrap_or_default();
        let marked = rules.iter().filter(|rule| text(rule, "description").starts_with(&ours));
        let thing = |rule: &Value| Thing::Block {
            expression: text(rule, "expression").to_owned(),
            mark: text(rule, "description").to_owned(),
        };
        Ok(marked.map(thing).collect())
    }

    fn reload(&mut self) -> Result<(), String> {
        let [token] = self.file.read_keys(["api_token"])?;
        self.api.hide([&token]);
        self.token = token;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_nearly_used_up_is_waited_for() {
        let rows = [
            ("\"default\";r=50;t=30", None),
            ("\"default\";r=4;t=30", Some(30)),
            ("\"default\"; r=0; t=7", Some(7)),
            ("\"default\";r=x;t=30", None),
            ("", None),
        ];
        for (header, expected) in rows {
            assert_eq!(window(header), expected.map(Duration::from_secs), "{header}");
        }
    }
}
