//! The direction of dependencies in `ftagent/src`: a packet's fact travels from the first layer to the last, and a
//! layer knows the ones before it, never the ones after. `decide` knows nothing of the world at all.

use super::{
    File, Finding,
    source::{line_of, words},
};

/// The pipeline, first to last. What joins it (`agent`, `cli`) comes after everything.
const LAYERS: [&str; 11] =
    ["rule", "bpf", "sense", "decide", "act", "record", "alert", "serve", "fleet", "agent", "cli"];

/// What `decide` may not name, with the reason. Effects are data there and time is an argument: that is what makes
/// replay exact and a simulated month a unit test.
const IMPURE: [(&str, &str); 13] = [
    ("aya", "kernel state reaches it as plain data from `sense`"),
    ("tokio", "it is called, it does not wait"),
    ("axum", "it is called, it does not serve"),
    ("fs", "files belong to `record` and `config`"),
    ("thread", "it runs where it is called"),
    ("process", "commands belong to `act`"),
    ("env", "settings belong to `config`"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("OsRng", "randomness is an argument"),
    ("sys", "system calls belong to the layers around it"),
    ("HashMap", "its order differs from run to run: use BTreeMap"),
    ("HashSet", "its order differs from run to run: use BTreeSet"),
];

pub(super) fn check(file: &File) -> Vec<Finding> {
    let Some(code) = &file.code else { return Vec::new() };
    let Some(layer) = layer_of(&file.path) else { return Vec::new() };
    let mut findings = Vec::new();
    let later = LAYERS.iter().skip_while(|name| **name != layer).skip(1);
    for name in later {
        for at in references(code, name) {
            let message =
                format!("`{layer}` may not know `{name}`, which comes after it: pass plain data back instead");
            findings.push(file.finding(line_of(code, at), message));
        }
    }
    if layer == "decide" {
        for (name, reason) in IMPURE {
            findings.extend(words(code, name).map(|at| {
                file.finding(line_of(code, at), format!("`decide` is pure and may not name `{name}`: {reason}"))
            }));
        }
    }
    findings
}

/// Returns the layer that a file of `ftagent/src` belongs to, if any.
fn layer_of(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix("ftagent/src/")?;
    let top = rest.split('/').next()?.trim_end_matches(".rs");
    LAYERS.iter().find(|layer| **layer == top).copied()
}

/// Finds `crate::name` and `crate::{…, name, …}`, wherever they stand.
fn references(code: &str, name: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for at in words(code, "crate") {
        let Some(rest) = code.get(at + "crate".len()..).and_then(|rest| rest.trim_start().strip_prefix("::")) else {
            continue;
        };
        let rest = rest.trim_start();
        let named = match rest.strip_prefix('{') {
            Some(group) => top_level_names(group).any(|first| first == name),
            None => first_word(rest) == name,
        };
        if named {
            found.push(at);
        }
    }
    found
}

/// Returns the first word of each entry of a use group whose opening brace was just passed.
fn top_level_names(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    let end = group.find(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth < 0
    });
    let mut depth = 0_i32;
    let body = group.get(..end.unwrap_or(group.len())).unwrap_or_default();
    let entries = body.split(move |c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    });
    entries.map(|entry| first_word(entry.trim_start()))
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn findings(path: &str, text: &str, expected: usize) {
        let found = check(&File::new(path, text));
        assert_eq!(found.len(), expected, "{path}: {text}: {found:?}");
    }

    #[test]
    fn a_layer_knows_only_the_layers_before_it() {
        findings("ftagent/src/sense/mod.rs", "use crate::bpf::Loaded;", 0);
        findings("ftagent/src/sense/mod.rs", "use crate::serve::Metrics;", 1);
        findings("ftagent/src/bpf/load.rs", "use crate::{sys::bpf, sense::{self, serve}, config};", 1);
        findings("ftagent/src/bpf/load.rs", "fn f() -> crate::agent::Agent {}", 1);
        findings("ftagent/src/bpf/load.rs", "// crate::serve in a comment", 0);
        findings("ftagent/src/config/mod.rs", "use crate::serve::Metrics;", 0);
        findings("ftagent/src/agent.rs", "use crate::{bpf, serve, fleet};", 0);
    }

    #[test]
    fn decide_names_no_clock_no_runtime_and_no_file() {
        findings("ftagent/src/decide/baseline.rs", "use std::time::{Duration, Instant};", 1);
        findings("ftagent/src/decide/baseline.rs", "use std::time::Duration;", 0);
        findings("ftagent/src/decide/policy.rs", "tokio::spawn(async {}); std::fs::read(p);", 2);
        findings("ftagent/src/sense/poll.rs", "use std::time::Instant;", 0);
    }
}
