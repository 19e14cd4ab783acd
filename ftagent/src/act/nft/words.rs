//! The commands that make up the table: names, chains, leases, rules.

use serde_json::{Value, json};

use super::intervals::Interval;
use crate::rule::{
    Family,
    nft::{Compiled, Test, Verdict},
};

/// The table's name.
pub const TABLE: &str = "ftagent";
/// Before everything else of the host at the same hook.
const INGRESS_PRIORITY: i32 = -500;
/// Before conntrack puts fragments together (`NF_IP_PRI_RAW_BEFORE_DEFRAG` is -450).
const PREROUTING_PRIORITY: i32 = -460;
/// A rule's comment holds so many bytes at most (`NFTNL_UDATA_COMMENT_MAXLEN`).
const COMMENT: usize = 128;
/// The lists: what they hold, and what is done.
pub(super) const LISTS: [(&str, bool, bool); 4] =
    [("allow4", true, true), ("allow6", false, true), ("block4", true, false), ("block6", false, false)];

/// Where the table is hung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// At the ingress of each interface, before the stack.
    Ingress,
    /// Before routing, behind the IP stack's own checks.
    Prerouting,
}

impl Hook {
    /// Returns the table's family.
    pub const fn family(self) -> &'static str {
        match self {
            Self::Ingress => "netdev",
            Self::Prerouting => "inet",
        }
    }

    /// Returns an object of the table.
    pub(super) fn object(self, kind: &str, name: &str) -> Value {
        json!({ kind: { "family": self.family(), "table": TABLE, "name": name } })
    }

    /// Returns the table itself.
    pub(super) fn table(self) -> Value {
        json!({ "table": { "family": self.family(), "name": TABLE } })
    }

    /// Lists the table's counters.
    pub(super) fn list_counters(self) -> Value {
        json!({ "list": { "counters": { "family": self.family(), "table": TABLE } } })
    }

    /// Adds objects without properties.
    pub(super) fn add(self, kind: &str, name: &str) -> Value {
        json!({ "add": self.object(kind, name) })
    }

    /// Empties a chain or a set.
    pub(super) fn flush(self, kind: &str, name: &str) -> Value {
        json!({ "flush": self.object(kind, name) })
    }

    /// Removes an object.
    pub(super) fn delete(self, kind: &str, name: &str) -> Value {
        json!({ "delete": self.object(kind, name) })
    }

    /// Adds a rule behind the others of its chain.
    fn rule(self, chain: &str, expr: Vec<Value>, comment: Option<&str>) -> Value {
        let mut rule = json!({ "family": self.family(), "table": TABLE, "chain": chain, "expr": expr });
        if let (Some(comment), Some(rule)) = (comment, rule.as_object_mut()) {
            rule.insert("comment".to_owned(), json!(comment));
        }
        json!({ "add": { "rule": rule } })
    }

    fn set(self, name: &str, kind: &str, flags: &[&str]) -> Value {
        json!({ "add": { "set": { "family": self.family(), "table": TABLE, "name": name, "type": kind, "flags": flags } } })
    }

    /// Makes the table anew, without any rule: what there was goes with the same transaction.
    pub(super) fn anew(self, devices: &[String]) -> Vec<Value> {
        let mut all =
            vec![json!({ "add": self.table() }), json!({ "delete": self.table() }), json!({ "add": self.table() })];
        all.extend(["allowed", "blocked"].map(|name| self.add("counter", name)));
        for (name, is4, _) in LISTS {
            all.push(self.set(name, if is4 { "ipv4_addr" } else { "ipv6_addr" }, &["interval", "timeout"]));
        }
        all.extend(["v4", "v6", "all"].map(|name| self.add("chain", name)));
        for (list, is4, allow) in LISTS {
            let field = json!({ "payload": { "protocol": if is4 { "ip" } else { "ip6" }, "field": "saddr" } });
            let found = json!({ "match": { "op": "==", "left": field, "right": format!("@{list}") } });
            let (counter, then) = if allow { ("allowed", "accept") } else { ("blocked", "drop") };
            all.push(self.rule("all", vec![found, json!({ "counter": counter }), json!({ then: null })], None));
        }
        let goto = |chain: &str| json!({ "goto": { "target": chain } });
        let data = json!({ "set": [["ip", goto("v4")], ["ip6", goto("v6")]] });
        let dispatch = json!({ "vmap": { "key": { "meta": { "key": "protocol" } }, "data": data } });
        all.push(self.rule("all", vec![dispatch], None));
        all.extend(self.base(devices));
        all
    }

    /// Hangs the table at the interfaces.
    fn base(self, devices: &[String]) -> Vec<Value> {
        let jump = json!({ "jump": { "target": "all" } });
        let chain = |name: &str| json!({ "family": self.family(), "table": TABLE, "name": name, "type": "filter", "policy": "accept" });
        let with = |mut chain: Value, more: Value| {
            if let (Some(chain), Value::Object(more)) = (chain.as_object_mut(), more) {
                chain.extend(more);
            }
            json!({ "add": { "chain": chain } })
        };
        match self {
            Self::Ingress => {
                let one = |(i, device): (usize, &String)| {
                    let name = format!("ingress{i}");
                    let hook = json!({ "hook": "ingress", "dev": device, "prio": INGRESS_PRIORITY });
                    [with(chain(&name), hook), self.rule(&name, vec![jump.clone()], None)]
                };
                devices.iter().enumerate().flat_map(one).collect()
            }
            Self::Prerouting => {
                let hook = json!({ "hook": "prerouting", "prio": PREROUTING_PRIORITY });
                let mut all = vec![with(chain("prerouting"), hook)];
                let by = |device: &String| {
                    let left = json!({ "meta": { "key": "iifname" } });
                    let is = json!({ "match": { "op": "==", "left": left, "right": device } });
                    self.rule("prerouting", vec![is, jump.clone()], None)
                };
                all.extend(devices.iter().map(by));
                all
            }
        }
    }

    /// Fills a list.
    pub(super) fn fill(self, list: &str, intervals: &[Interval]) -> Vec<Value> {
        let mut all = vec![self.flush("set", list)];
        if !intervals.is_empty() {
            all.push(self.elements(list, intervals.iter().map(Interval::json).collect()));
        }
        all
    }

    fn elements(self, set: &str, elements: Vec<Value>) -> Value {
        json!({ "add": { "element": { "family": self.family(), "table": TABLE, "name": set, "elem": elements } } })
    }

    /// Renews a rule's lease. Flushing first: older kernels leave an element's timeout as it is, and no
    /// packet sees the set in between.
    pub(super) fn renew(self, id: u32, seconds: u64) -> Vec<Value> {
        let lease = lease(id);
        let element = |protocol: &str| json!({ "elem": { "val": protocol, "timeout": seconds.max(1) } });
        vec![self.flush("set", &lease), self.elements(&lease, vec![element("ip"), element("ip6")])]
    }

    /// Makes what belongs to a rule and stays while it lives: counters and lease.
    pub(super) fn belongings(self, id: u32) -> Vec<Value> {
        let [matched, dropped] = counters(id);
        vec![
            self.add("counter", &matched),
            self.add("counter", &dropped),
            self.set(&lease(id), "ether_type", &["timeout"]),
        ]
    }

    /// Makes a rule's own chains.
    pub(super) fn chains(self, id: u32, compiled: &Compiled) -> Vec<Value> {
        let mut all = Vec::new();
        let names = chain_names(id, compiled);
        all.extend(names.iter().map(|name| self.add("chain", name)));
        if names.is_empty() {
            return all;
        }
        let act = act(id);
        all.extend(verdicts(id, compiled.verdict).into_iter().map(|expr| self.rule(&act, expr, None)));
        for (family, branch) in compiled.branches().filter(|(_, branch)| branch.lone().is_none()) {
            let name = branch_chain(id, family);
            let rule = |tests: &[Test], then: Value| {
                self.rule(&name, tests.iter().map(Test::json).chain([then]).collect(), None)
            };
            let take = |tests: &Vec<Test>| rule(tests, json!({ "goto": { "target": act } }));
            all.extend(branch.first.iter().map(take));
            all.extend(branch.leave.iter().map(|tests| rule(tests, json!({ "return": null }))));
            all.extend(branch.take.iter().map(take));
        }
        all
    }

    /// Puts a rule behind the others of each family.
    pub(super) fn entries(self, id: u32, compiled: &Compiled, words: &str) -> Vec<Value> {
        let comment = comment(id, words);
        let entry = |(family, branch): (Family, &crate::rule::nft::Branch)| {
            let lone = branch.lone().map(|tests| tests.map(Test::json).collect::<Vec<_>>());
            let is_lone = lone.is_some();
            let mut expr = lone.unwrap_or_else(|| branch.all.iter().map(Test::json).collect());
            let key = json!({ "meta": { "key": "protocol" } });
            expr.push(json!({ "match": { "op": "==", "left": key, "right": format!("@{}", lease(id)) } }));
            match (is_lone, compiled.verdict) {
                (true, Verdict::Drop | Verdict::Count) => {
                    expr.extend(verdicts(id, compiled.verdict).into_iter().flatten());
                }
                (true, _) => expr.push(json!({ "jump": { "target": act(id) } })),
                _ => expr.push(json!({ "jump": { "target": branch_chain(id, family) } })),
            }
            self.rule(if family == Family::Ip4 { "v4" } else { "v6" }, expr, Some(&comment))
        };
        compiled.branches().map(entry).collect()
    }
}

impl Hook {
    /// Returns the commands of a table that holds these rules, by number and in words, and nothing else;
    /// their leases last so many seconds.
    pub fn whole(self, devices: &[String], rules: &[(u32, &Compiled, &str)], seconds: u64) -> Vec<Value> {
        let mut all = self.anew(devices);
        for (id, compiled, _) in rules {
            all.extend(self.belongings(*id));
            all.extend(self.chains(*id, compiled));
        }
        for (id, compiled, words) in rules {
            all.extend(self.entries(*id, compiled, words));
            all.extend(self.renew(*id, seconds));
        }
        all
    }
}

/// Returns the commands that leave nothing of ours, whatever there is.
pub fn gone() -> Vec<Value> {
    let both = [Hook::Ingress, Hook::Prerouting];
    both.into_iter().flat_map(|hook| [json!({ "add": hook.table() }), json!({ "delete": hook.table() })]).collect()
}

/// Returns the names of a rule's own chains, so that none refers to one before it.
pub(super) fn chain_names(id: u32, compiled: &Compiled) -> Vec<String> {
    let several = compiled.branches().filter(|(_, branch)| branch.lone().is_none());
    let mut names: Vec<String> = several.map(|(family, _)| branch_chain(id, family)).collect();
    if !names.is_empty() || matches!(compiled.verdict, Verdict::Limit(_)) {
        names.push(act(id));
    }
    names
}

/// Returns the names of a rule's counters: of what matched, and of what was dropped.
pub(super) fn counters(id: u32) -> [String; 2] {
    [format!("matched{id}"), format!("dropped{id}")]
}

pub(super) fn lease(id: u32) -> String {
    format!("lease{id}")
}

fn act(id: u32) -> String {
    format!("act{id}")
}

fn branch_chain(id: u32, family: Family) -> String {
    format!("rule{id}v{}", if family == Family::Ip4 { 4 } else { 6 })
}

fn comment(id: u32, words: &str) -> String {
    let mut comment = format!("{id}: {words}");
    while comment.len() >= COMMENT {
        comment.pop();
    }
    comment
}

/// Returns what is done with what was taken: one rule, or three.
fn verdicts(id: u32, verdict: Verdict) -> Vec<Vec<Value>> {
    let [matched, dropped] = counters(id).map(|name| json!({ "counter": name }));
    let drop = json!({ "drop": null });
    match verdict {
        Verdict::Drop => vec![vec![matched, dropped, drop]],
        Verdict::Count => vec![vec![matched]],
        Verdict::Limit(limit) => {
            vec![vec![matched], vec![limit.over(), dropped, drop], vec![json!({ "accept": null })]]
        }
    }
}

/// Turns commands into those for a table of another name, which is gone again at their end.
pub(super) fn elsewhere(commands: Vec<Value>) -> Vec<Value> {
    const NAME: &str = "ftagent-try";
    let mut all: Vec<Value> = commands;
    let rename = |command: &mut Value| {
        let Some(object) = command.as_object_mut().and_then(|command| command.values_mut().next()) else { return };
        let Some((kind, body)) = object.as_object_mut().and_then(|object| object.iter_mut().next()) else { return };
        let key = if kind == "table" { "name" } else { "table" };
        if let Some(name) = body.get_mut(key) {
            *name = json!(NAME);
        }
    };
    all.iter_mut().for_each(rename);
    // The last command is the removal of what the first ones made.
    let family = all.first().and_then(|first| first.pointer("/add/table/family")).cloned().unwrap_or(json!("netdev"));
    all.push(json!({ "delete": { "table": { "family": family, "name": NAME } } }));
    all
}
