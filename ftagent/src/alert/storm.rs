//! Many messages in one: at three in the morning, forty incidents are one thing to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Alert, Kind, words::several};
use crate::decide::Severity;

/// Topics that are spelt out.
const SHOWN: usize = 20;

/// Returns whether so much waits that it is told in one: more topics than `storm`.
pub fn is_one<'a>(waiting: impl Iterator<Item = &'a Arc<Alert>>, storm: u32) -> bool {
    let mut topics = BTreeSet::new();
    storm > 0
        && waiting.map(|alert| topics.insert(alert.topic.as_str())).filter(|new| *new).nth(storm as usize).is_some()
}

/// Makes one message of some, oldest first. Of each topic the last word counts.
pub fn digest(alerts: &[Arc<Alert>], now_ms: i64) -> Alert {
    let mut latest: BTreeMap<&str, &Arc<Alert>> = BTreeMap::new();
    for alert in alerts {
        latest.insert(&alert.topic, alert);
    }
    let mut topics: Vec<&Arc<Alert>> = latest.into_values().collect();
    // What goes on and is worst comes first.
    topics.sort_by_key(|alert| (alert.kind.is_end(), std::cmp::Reverse(alert.severity), alert.began_ms));
    let open = topics.iter().filter(|alert| !alert.kind.is_end()).count();
    let worst = topics.iter().map(|alert| alert.severity).max().unwrap_or(Severity::Info);
    let (first, last) = (alerts.first(), alerts.last());
    let node = first.map_or(String::new(), |alert| alert.node.clone());
    let mut vectors: Vec<String> = Vec::new();
    for vector in topics.iter().flat_map(|alert| alert.vectors.first()) {
        if !vectors.contains(vector) && vectors.len() < 8 {
            vectors.push(vector.clone());
        }
    }
    let (all, over) = (topics.len(), topics.len() - open);
    let mut lines: Vec<String> = topics.iter().take(SHOWN).map(|alert| alert.title.clone()).collect();
    if all > SHOWN {
        lines.push(format!("and {} more: ftagent incidents", all - SHOWN));
    }
    let id = |alert: Option<&Arc<Alert>>| alert.map_or("", |alert| alert.id.as_str()).to_owned();
    Alert {
        id: format!("digest:{}..{}", id(first), id(last)),
        topic: "digest:".to_owned(),
        kind: Kind::Digest,
        severity: worst,
        at_ms: now_ms,
        began_ms: first.map_or(now_ms, |alert| alert.at_ms),
        ended_ms: None,
        title: format!(
            "{} on {node}: {open} going on (worst: {}), {over} over; {} in one message",
            several(all as u64, "incident"),
            worst.as_str(),
            several(alerts.len() as u64, "alert"),
        ),
        node,
        lines,
        fields: vec![("going on".to_owned(), open.to_string()), ("over".to_owned(), over.to_string())],
        facts: BTreeMap::new(),
        numbers: BTreeMap::new(),
        vectors,
        link: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::message::tests::opened;

    #[test]
    fn a_storm_is_told_with_the_worst_first() {
        let alert = |topic: &str, kind, severity| {
            Arc::new(Alert {
                topic: topic.to_owned(),
                title: format!("{topic} {}", Kind::as_str(kind)),
                kind,
                severity,
                ..opened()
            })
        };
        let alerts = [
            alert("a", Kind::Opened, Severity::Low),
            alert("b", Kind::Opened, Severity::High),
            alert("c", Kind::Opened, Severity::Critical),
            alert("a", Kind::Closed, Severity::Low),
            alert("c", Kind::Changed, Severity::Critical),
        ];
        assert!(is_one(alerts.iter(), 2) && !is_one(alerts.iter(), 3) && !is_one(alerts.iter(), 0));
        let digest = digest(&alerts, 7);
        assert_eq!(digest.title, "3 incidents on edge1: 2 going on (worst: critical), 1 over; 5 alerts in one message");
        assert_eq!(digest.lines, ["c changed", "b opened", "a closed"]);
    }
}
