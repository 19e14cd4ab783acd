//! Messages in words: the first line says all, what follows is what one asks next.

use std::collections::BTreeMap;

use super::{
    Alert, Kind, cut,
    words::{count, harmless, percent, rate, several, short, span, utc},
};
use crate::decide::{
    Incident, Metric, Now, Severity,
    classify::{Evidence, Share},
    mitigate::{Phase, RuleReport},
};

/// Rules that are spelt out.
const RULES: usize = 4;
/// Changes that are spelt out.
const CHANGES: usize = 8;
/// Characters of one line at most: evidence may quote what senders wrote.
const LINE: usize = 400;

/// What a message needs beside the incident.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'a> {
    /// The machine.
    pub node: &'a str,
    /// `alerts.link`: where more is to be seen, `{incident}` standing for the id; may be empty.
    pub link: &'a str,
    /// Now, milliseconds since 1970.
    pub now_ms: i64,
    /// What changed since the last message.
    pub what: &'a [String],
    /// The last of them that escalates it; `None`: it is its severity that does.
    pub raised: Option<&'a str>,
    /// What is done beyond this host's rules, a line each: the guard, steps upstream.
    pub beyond: &'a [String],
}

/// Writes a message about an incident.
pub fn incident(kind: Kind, about: &Incident, context: &Context<'_>) -> Alert {
    let Context { node, now_ms, .. } = *context;
    let id = format!("{}.{}.{now_ms}", about.id, kind.as_str());
    let done = done(about, context.beyond);
    let mut alert = Alert {
        id,
        topic: about.id.clone(),
        kind,
        severity: about.severity,
        at_ms: now_ms,
        began_ms: about.began.unix_ms,
        ended_ms: about.closed.map(|closed| closed.unix_ms),
        node: node.to_owned(),
        title: clean(&title(kind, about, context, &done)),
        lines: lines(kind, about, context).iter().map(|line| clean(line)).collect(),
        fields: fields(about, now_ms, &done),
        facts: facts(about, context, &done),
        numbers: numbers(about),
        vectors: vector_names(about),
        link: link(context.link, &about.id),
    };
    alert.fields.iter_mut().for_each(|(_, value)| *value = clean(value));
    alert.facts.values_mut().for_each(|value| *value = clean(value));
    alert
}

/// Writes a message about what became of what was upstream when the incident was over.
pub fn after(topic: &str, about: &Incident, context: &Context<'_>) -> Alert {
    let left: Vec<&str> = context.beyond.iter().map(|line| short_of(line)).collect();
    let left = if left.is_empty() { "nothing is left upstream".to_owned() } else { left.join("; ") };
    let what = context.what.last().map_or("", String::as_str);
    let title = format!("AFTER {} on {}, which is over: {what}; {left}", name(about), context.node);
    let alert = incident(Kind::Changed, about, context);
    let id = format!("{topic}.{}.{}", Kind::Changed.as_str(), context.now_ms);
    Alert { id, topic: topic.to_owned(), title: clean(&title), ..alert }
}

/// Returns what a line `what: more` says in short.
fn short_of(line: &str) -> &str {
    line.split(": ").next().unwrap_or(line)
}

/// Writes a message about the agent itself. `topic` begins with `health:`.
pub fn health(kind: Kind, topic: &str, severity: Severity, began_ms: i64, text: &str, context: &Context<'_>) -> Alert {
    let Context { node, now_ms, .. } = *context;
    let over = kind.is_end();
    let title = match over {
        false => format!("ftagent on {node} is in trouble: {text}"),
        true => format!("ftagent on {node} is right again: it was that {text}"),
    };
    let lasted = span(now_ms.saturating_sub(began_ms));
    let since = if over { format!("It lasted {lasted}.") } else { format!("Since {}.", utc(began_ms)) };
    let facts = [("what", text.to_owned()), ("opened", utc(began_ms)), ("duration", lasted)];
    Alert {
        id: format!("{topic}.{}.{now_ms}", kind.as_str()),
        topic: topic.to_owned(),
        kind,
        severity,
        at_ms: now_ms,
        began_ms,
        ended_ms: over.then_some(now_ms),
        node: node.to_owned(),
        title: clean(&title),
        lines: vec![since, "More: ftagent status".to_owned()],
        fields: vec![("node".to_owned(), node.to_owned()), ("severity".to_owned(), severity.as_str().to_owned())],
        facts: facts.map(|(name, value)| (name.to_owned(), clean(&value))).into(),
        numbers: BTreeMap::new(),
        vectors: Vec::new(),
        link: link(context.link, ""),
    }
}

/// Writes a message that is only to arrive.
pub fn test(sink: &str, context: &Context<'_>) -> Alert {
    let Context { node, now_ms, .. } = *context;
    Alert {
        id: format!("test:{sink}.test.{now_ms}"),
        topic: format!("test:{sink}"),
        kind: Kind::Test,
        severity: Severity::Info,
        at_ms: now_ms,
        began_ms: now_ms,
        ended_ms: None,
        node: node.to_owned(),
        title: format!("Test: ftagent on {node} can reach this sink (`{sink}`)"),
        lines: vec!["Nothing is the matter; somebody ran `ftagent alert test`.".to_owned()],
        fields: vec![("node".to_owned(), node.to_owned())],
        facts: [("opened".to_owned(), utc(now_ms)), ("duration".to_owned(), span(0))].into(),
        numbers: BTreeMap::new(),
        vectors: Vec::new(),
        link: link(context.link, ""),
    }
}

/// Makes one line without what would command a terminal, of bounded length.
fn clean(text: &str) -> String {
    cut(&harmless(&text.replace('\n', " ")), LINE)
}

fn link(base: &str, id: &str) -> Option<String> {
    match base {
        "" => None,
        _ if base.contains("{incident}") => Some(base.replace("{incident}", id)),
        _ if id.is_empty() => Some(base.to_owned()),
        _ => Some(format!("{}/incidents/{id}", base.trim_end_matches('/'))),
    }
}

fn vector_names(about: &Incident) -> Vec<String> {
    let mut names = vec![about.vector.as_str().to_owned()];
    names.extend(about.vectors.iter().filter(|vector| **vector != about.vector).map(|v| v.as_str().to_owned()));
    names
}

/// `multi_vector (syn_flood, udp_flood)`
fn name(about: &Incident) -> String {
    let names = vector_names(about);
    match names.split_first() {
        Some((first, rest)) if !rest.is_empty() => format!("{first} ({})", rest.join(", ")),
        _ => about.vector.as_str().to_owned(),
    }
}

/// Returns the milliseconds between two instants; a clock that steps in between changes nothing.
fn between(from: Now, to: Now) -> i64 {
    match to.mono_ns.checked_sub(from.mono_ns) {
        Some(ns) => i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX),
        None => to.unix_ms.saturating_sub(from.unix_ms).max(0),
    }
}

fn lasted(about: &Incident, now_ms: i64) -> String {
    span(
        about
            .closed
            .map_or_else(|| now_ms.saturating_sub(about.opened.unix_ms), |closed| between(about.opened, closed)),
    )
}

fn title(kind: Kind, about: &Incident, context: &Context<'_>, done: &str) -> String {
    let (name, node, severity) = (name(about), context.node, about.severity.as_str());
    let now = rates(about.pps, about.bps);
    let normal = normal(about).map_or(String::new(), |normal| format!(" (normal {normal})"));
    let what = context.what.last().map_or("", String::as_str);
    match kind {
        Kind::Closed => {
            let peak = rates(about.peak_pps, about.peak_bps);
            format!("OVER: {name} on {node} after {}: peak {peak}; {done}", lasted(about, context.now_ms))
        }
        Kind::Escalated => match context.raised {
            Some(raised) => format!("ESCALATED: {name} on {node}, {severity}: {raised}; {now}{normal}; {done}"),
            None => format!("{name} on {node} is now {severity}: {now}{normal}; {done}"),
        },
        Kind::Mitigated => {
            let after = about
                .mitigated
                .map_or(String::new(), |at| format!(" {} after it began", span(between(about.began, at))));
            format!("{name} on {node} is mitigated{after}: {done}; {now}")
        }
        Kind::Collateral => {
            let cost = about.rules.iter().rev().find(|rule| costs(rule)).map_or(String::new(), cost_text);
            format!("COLLATERAL on {node}: what is done against {name} costs ordinary traffic: {cost}")
        }
        Kind::Changed => format!("{name} on {node}, {severity}: {what}; {now}; {done}"),
        _ => format!("ATTACK on {node}: {name}, {severity}: {now}{normal}; {done}"),
    }
}

fn rates(pps: f64, bps: f64) -> String {
    format!("{}, {}", rate(pps, Metric::Pps), rate(bps, Metric::Bps))
}

fn evidence(about: &Incident) -> Option<&Evidence> {
    about.findings.first().map(|finding| &finding.evidence)
}

/// What is normal of what opened it; nothing where that is not known.
fn normal(about: &Incident) -> Option<String> {
    let evidence = evidence(about)?;
    let metric = evidence.metric.filter(|metric| *metric != Metric::Structure)?;
    Some(rate(evidence.baseline, metric))
}

fn threshold(about: &Incident) -> Option<String> {
    let evidence = evidence(about)?;
    let metric = evidence.metric.filter(|metric| *metric != Metric::Structure)?;
    Some(rate(evidence.threshold, metric))
}

/// What is done, in some words.
fn done(about: &Incident, beyond: &[String]) -> String {
    let enforcing: Vec<&RuleReport> = about.rules.iter().filter(|rule| rule.state == Phase::Enforcing).collect();
    let dropped: u64 = about.rules.iter().map(|rule| rule.measured.dropped).sum();
    let mut parts = Vec::new();
    if !about.is_open() {
        let share = if about.packets > 0 { dropped as f64 / about.packets as f64 } else { 0.0 };
        parts.push(match dropped {
            0 => "nothing was dropped".to_owned(),
            _ => format!("{} of its packets dropped", percent(share.min(1.0))),
        });
    } else if enforcing.is_empty() {
        let shadow = about.rules.iter().filter(|rule| rule.state == Phase::Shadow).count();
        parts.push(match shadow {
            0 => "no rule in force".to_owned(),
            _ => format!("{} being tried, none in force", several(shadow as u64, "rule")),
        });
    } else {
        let rules = several(enforcing.len() as u64, "rule");
        let verb = if enforcing.len() == 1 { "removes" } else { "remove" };
        parts.push(format!("{rules} {verb} {} of it", percent(removed(&enforcing))));
    }
    if !about.thinned.is_empty() && about.is_open() {
        parts.push(several(about.thinned.len() as u64, "class").replace("classs", "classes") + " thinned");
    }
    parts.extend(beyond.iter().map(|line| short_of(line).to_owned()));
    parts.join("; ")
}

/// The share of the attack that rules match now, or were expected to while nothing is measured.
fn removed(rules: &[&RuleReport]) -> f64 {
    let share = |rule: &&RuleReport| match rule.measured.packets {
        0 => rule.predicted.attack_share,
        _ => rule.measured.attack_share,
    };
    rules.iter().map(share).sum::<f64>().min(1.0)
}

/// Returns whether a rule costs, or cost while it dropped, more than it may.
pub fn costs(rule: &RuleReport) -> bool {
    let dear = rule.measured.collateral.low > crate::decide::synthesis::BUDGET;
    match rule.state {
        Phase::Enforcing => dear,
        Phase::Withdrawn => rule.measured.dropped > 0 && (dear || rule.measured.benign_flows > 0),
        _ => false,
    }
}

fn cost_text(rule: &RuleReport) -> String {
    let cost = &rule.measured.collateral;
    let end = if rule.state == Phase::Withdrawn { "it was withdrawn" } else { "it is still in force" };
    format!(
        "rule {} ({}) dropped {} of it ({} to {}), {} from before; {end}",
        rule.id,
        rule.matches,
        percent(cost.ratio),
        percent(cost.low),
        percent(cost.high),
        several(rule.measured.benign_flows, "conversation")
    )
}

fn lines(kind: Kind, about: &Incident, context: &Context<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let left_out = context.what.len().saturating_sub(CHANGES);
    lines.extend(context.what.iter().skip(left_out).map(|what| format!("Changed: {what}")));
    if left_out > 0 {
        lines.push("and more before".to_owned());
    }
    let peak = format!("peak {}", rates(about.peak_pps, about.peak_bps));
    let usual =
        normal(about).zip(threshold(about)).map(|(normal, most)| format!("; normal {normal}, threshold {most}"));
    let usual = usual.unwrap_or_default();
    lines.push(match about.is_open() {
        true => format!("Rates: {} now, {peak}{usual}", rates(about.pps, about.bps)),
        false => {
            format!("Rates: {peak}{usual}; {} packets, {}B in all", count(about.packets), short(about.bytes as f64))
        }
    });
    lines.extend(target(about).map(|target| format!("Target: {target}")));
    let line = evidence(about).map_or("", |evidence| evidence.line.as_str());
    if !line.is_empty() && kind != Kind::Closed {
        lines.push(format!("Evidence: {line} ({} sure)", percent(about.confidence)));
    }
    lines.extend(about.named.as_ref().map(|named| format!("Looks like: {} ({})", named.tool, named.words())));
    lines.extend(rules(about));
    for (class, pps) in &about.thinned {
        lines.push(format!("Thinned, because no rule is safe: {class} keeps {}pps", short(*pps)));
    }
    lines.extend(context.beyond.iter().map(|line| format!("Also: {line}")));
    let opened = utc(about.opened.unix_ms);
    lines.push(format!("Opened {opened}, {} after it began", span(between(about.began, about.opened))));
    lines.push(format!("More: ftagent incidents show {}", about.id));
    lines
}

fn rules(about: &Incident) -> Vec<String> {
    let told = |rule: &&RuleReport| matches!(rule.state, Phase::Enforcing | Phase::Shadow) || rule.measured.dropped > 0;
    let all: Vec<&RuleReport> = about.rules.iter().filter(told).collect();
    let line = |rule: &&RuleReport| {
        let state = match rule.state {
            Phase::Shadow => "only counts yet",
            Phase::Enforcing => "in force",
            Phase::Withdrawn => "withdrawn",
            Phase::Ended => "ended",
        };
        let (predicted, measured) = (&rule.predicted, &rule.measured);
        format!(
            "Rule {} ({state}): {} then {}: expected {} of the attack at {} of clean traffic, measured {} at {} ({} dropped)",
            rule.id,
            rule.matches,
            rule.action,
            percent(predicted.attack_share),
            percent(predicted.clean_share),
            percent(measured.attack_share),
            percent(measured.collateral.ratio),
            count(measured.dropped),
        )
    };
    let mut lines: Vec<String> = all.iter().take(RULES).map(line).collect();
    if all.len() > RULES {
        lines.push(format!("and {} more rules", all.len() - RULES));
    }
    lines
}

fn target(about: &Incident) -> Option<String> {
    let evidence = evidence(about)?;
    let first = |shares: &[Share]| shares.first().map(|share| format!("{} ({})", share.value, percent(share.share)));
    let address = first(&evidence.top_destinations);
    let port = first(&evidence.destination_ports).map(|port| format!("port {port}"));
    let parts: Vec<String> = address.into_iter().chain(port).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn fields(about: &Incident, now_ms: i64, done: &str) -> Vec<(String, String)> {
    let mut fields = vec![
        ("vector", name(about)),
        ("severity", about.severity.as_str().to_owned()),
        if about.is_open() { ("now", rates(about.pps, about.bps)) } else { ("lasted", lasted(about, now_ms)) },
        ("peak", rates(about.peak_pps, about.peak_bps)),
    ];
    fields.extend(normal(about).map(|normal| ("normal", normal)));
    fields.extend(target(about).map(|target| ("target", target)));
    fields.push(("done", done.to_owned()));
    fields.into_iter().map(|(label, value)| (label.to_owned(), value)).collect()
}

fn facts(about: &Incident, context: &Context<'_>, done: &str) -> BTreeMap<String, String> {
    let rules: Vec<&RuleReport> = about.rules.iter().filter(|rule| rule.state != Phase::Withdrawn).collect();
    let predicted: f64 = rules.iter().map(|rule| rule.predicted.attack_share).sum();
    let facts = [
        ("vector", about.vector.as_str().to_owned()),
        ("confidence", percent(about.confidence)),
        ("tool", about.tool.clone().unwrap_or_default()),
        ("target", target(about).unwrap_or_default()),
        ("pps", rate(about.pps, Metric::Pps)),
        ("bps", rate(about.bps, Metric::Bps)),
        ("peak_pps", rate(about.peak_pps, Metric::Pps)),
        ("peak_bps", rate(about.peak_bps, Metric::Bps)),
        ("normal", normal(about).unwrap_or_default()),
        ("threshold", threshold(about).unwrap_or_default()),
        ("done", done.to_owned()),
        ("predicted", percent(predicted.min(1.0))),
        ("measured", percent(removed(&rules))),
        ("what", context.what.join("; ")),
        ("opened", utc(about.opened.unix_ms)),
        ("duration", lasted(about, context.now_ms)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

fn numbers(about: &Incident) -> BTreeMap<String, f64> {
    let dropped: u64 = about.rules.iter().map(|rule| rule.measured.dropped).sum();
    let mut numbers = vec![
        ("pps", about.pps),
        ("bps", about.bps),
        ("peak_pps", about.peak_pps),
        ("peak_bps", about.peak_bps),
        ("packets", about.packets as f64),
        ("bytes", about.bytes as f64),
        ("dropped_packets", dropped as f64),
        ("confidence", about.confidence),
    ];
    numbers.extend(evidence(about).filter(|e| e.metric == Some(Metric::Pps)).map(|e| ("normal_pps", e.baseline)));
    numbers.extend(evidence(about).filter(|e| e.metric == Some(Metric::Bps)).map(|e| ("normal_bps", e.baseline)));
    // JSON has no other numbers.
    numbers.into_iter().filter(|(_, value)| value.is_finite()).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
#[path = "message/tests.rs"]
pub mod tests;
