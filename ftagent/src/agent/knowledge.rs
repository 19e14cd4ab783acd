//! What callers ask of the functional core: incidents, and what is known to be normal.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use ftagent_common::TrafficClass;
use serde::Deserialize;
use tracing::{info, warn};

use super::Agent;
use crate::{
    decide::{
        Incident,
        baseline::{Checkpoint, Learning, View},
        incident::Entry,
    },
    serve::{
        control::Caller,
        metrics::Detection,
        protocol::{Accepted, Baseline, Incidents, Moved},
    },
};

/// How far back `ftagent status` shows notices, milliseconds.
const RECENT_MS: i64 = 3_600_000;
/// A threshold that moved by less than this share of itself stayed where it was: time passes
/// between two looks at it.
const SAME: f64 = 0.001;
/// Ids that an error names at most.
const NAMED: usize = 5;

impl Agent {
    pub(super) fn incidents(&self, id: Option<&str>) -> Result<Incidents> {
        let mut incidents = self.brain.incidents();
        if let Some(id) = id {
            let chosen = choose(&incidents, id)?;
            incidents = incidents.into_iter().nth(chosen).into_iter().collect();
        }
        Ok(Incidents { now_ms: now_ms(), learning: self.brain.learning(), incidents, notices: self.brain.notices() })
    }

    /// Returns the notices of the last hour, oldest first.
    pub(super) fn recent_notices(&self) -> Vec<Entry> {
        let since = now_ms().saturating_sub(RECENT_MS);
        self.brain.notices().into_iter().filter(|notice| notice.at.unix_ms >= since).collect()
    }

    pub(super) fn baseline(&self, class: Option<&str>) -> Result<Baseline> {
        let class = class.map(class_named).transpose()?;
        let mut views = self.brain.baselines();
        views.retain(|view| class.is_none_or(|class| view.class == class.as_str()));
        views.iter_mut().for_each(finite);
        Ok(Baseline { learning: self.brain.learning(), views, destinations: self.brain.destinations() })
    }

    pub(super) fn accept(&self, caller: &Caller) -> Accepted {
        let mut before = self.brain.baselines();
        before.iter_mut().for_each(finite);
        let events = self.brain.accept();
        let mut after = self.brain.baselines();
        after.iter_mut().for_each(finite);
        let moved = moved(&before, &after);
        warn!(by = %caller.name, moved = moved.len(), "The present load was accepted as normal.");
        Accepted { events, moved }
    }

    pub(super) fn forget(&self, class: Option<&str>, caller: &Caller) -> Result<Learning> {
        let class = class.map(class_named).transpose()?;
        self.brain.reset(class);
        let what = class.map_or("every class", TrafficClass::as_str);
        warn!(by = %caller.name, class = what, "What was learned was forgotten; learning starts anew.");
        Ok(self.brain.learning())
    }

    pub(super) fn import(&self, checkpoint: &str, caller: &Caller) -> Result<Learning> {
        let checkpoint = read_checkpoint(checkpoint)?;
        self.brain.import(checkpoint).map_err(|why| anyhow::anyhow!("this baseline cannot be used: {why}"))?;
        info!(by = %caller.name, "A baseline was imported; it replaces what was learned before.");
        Ok(self.brain.learning())
    }

    /// Returns what metrics show of the core, without the histories that only plots need.
    pub(super) fn detection(&self) -> Detection {
        let metrics = self.brain.metrics();
        let strip = |view: View| View { minutes: Vec::new(), hours: Vec::new(), ..view };
        Detection {
            state: self.brain.learning().state,
            views: metrics.views.into_iter().map(strip).collect(),
            active: metrics.active,
            opened: metrics.opened_total,
            detect_seconds: metrics.detect_seconds,
            notices: metrics.notices_total,
        }
    }
}

/// Returns the time, milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Finds the incident that is meant: its id, `last`, or what only its id begins with or, where
/// none begins so, ends with. Ids begin with the time, so their ends differ most.
fn choose(incidents: &[Incident], id: &str) -> Result<usize> {
    const LIST: &str = "`ftagent incidents` lists those there are";
    if id == "last" {
        return incidents.len().checked_sub(1).context("there was no incident yet");
    }
    if let Some(exact) = incidents.iter().position(|incident| incident.id == id) {
        return Ok(exact);
    }
    let matching = |fits: fn(&str, &str) -> bool| -> Vec<usize> {
        let all = incidents.iter().enumerate();
        all.filter(|(_, incident)| !id.is_empty() && fits(&incident.id, id)).map(|(at, _)| at).collect()
    };
    let mut found = matching(|own, part| own.starts_with(part));
    if found.is_empty() {
        found = matching(|own, part| own.ends_with(part));
    }
    match found.as_slice() {
        [] => bail!("there is no incident `{id}`: {LIST}"),
        [one] => Ok(*one),
        several => {
            let names = several.iter().rev().take(NAMED).filter_map(|at| incidents.get(*at));
            let names: Vec<&str> = names.map(|incident| incident.id.as_str()).collect();
            bail!("`{id}` fits {} incidents ({}, …): {LIST}", several.len(), names.join(", "))
        }
    }
}

/// Finds a class, or says which one is nearest.
fn class_named(name: &str) -> Result<TrafficClass> {
    if let Some(class) = TrafficClass::from_name(name) {
        return Ok(class);
    }
    let nearness = |class: &TrafficClass| strsim::normalized_damerau_levenshtein(class.as_str(), &name.to_lowercase());
    // Of equally near ones the first is meant: the kinds that people ask for come first.
    let nearest = TrafficClass::ALL.into_iter().rev().max_by(|a, b| nearness(a).total_cmp(&nearness(b)));
    let nearest = nearest.map_or("", TrafficClass::as_str);
    bail!("there is no class `{name}`: did you mean `{nearest}`? (`ftagent baseline show` lists those that were seen)")
}

/// The beginning of what every version exports.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// Reads what an export said. The version comes first: another version has another form.
fn read_checkpoint(text: &str) -> Result<Checkpoint> {
    const AGAIN: &str = "export one with `ftagent baseline export FILE`";
    let ours = u64::from(Checkpoint::VERSION);
    let version = serde_json::from_str::<Version>(text).ok().map(|read| read.version);
    match version {
        None => bail!("this is not an exported baseline, because it names no version: {AGAIN}"),
        Some(version) if version > ours => bail!(
            "this baseline was exported by a newer ftagent (form {version}, and this one reads {ours}): \
             update this node first, or let it learn by itself"
        ),
        Some(version) if version < ours => bail!(
            "this baseline was exported by an older ftagent (form {version}, and this one reads {ours}): \
             update the node that it comes from and export it again, or let this node learn by itself"
        ),
        Some(_) => {}
    }
    serde_json::from_str(text).with_context(|| format!("this exported baseline is damaged, so {AGAIN} again"))
}

/// Returns what differs between two looks.
fn moved(before: &[View], after: &[View]) -> Vec<Moved> {
    let differs = |old: Option<f64>, new: f64| old.is_none_or(|old| (new - old).abs() > SAME * old.abs());
    let look = |view: &View| {
        let old = before.iter().find(|old| old.class == view.class && old.metric == view.metric);
        let (threshold, ceiling) = (old.map(|old| old.threshold), old.map(|old| old.ceiling));
        let change = differs(threshold, view.threshold) || differs(ceiling, view.ceiling);
        change.then(|| Moved {
            class: view.class.clone(),
            metric: view.metric,
            threshold_before: threshold,
            threshold: view.threshold,
            ceiling_before: ceiling,
            ceiling: view.ceiling,
        })
    };
    after.iter().filter_map(look).collect()
}

/// JSON has no infinity; 0 stands for what is not known yet.
fn finite(view: &mut View) {
    let numbers = [&mut view.rate, &mut view.baseline, &mut view.spread, &mut view.threshold, &mut view.ceiling];
    numbers.into_iter().chain(&mut view.minutes).chain(&mut view.hours).for_each(|value| {
        if !value.is_finite() {
            *value = 0.0;
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::{Metric, Now, Vector};

    fn incident(id: &str) -> Incident {
        Incident::new(id.to_owned(), Vector::SynFlood, Now::default(), Now::default())
    }

    #[test]
    fn incidents_are_found_by_what_people_type() {
        let incidents = ["20260801T120000Z-1", "20260801T130000Z-2", "20260802T090000Z-12"].map(incident);
        let cases = [
            ("20260801T120000Z-1", Ok(0)),
            ("last", Ok(2)),
            ("20260802", Ok(2)),
            ("20260801T13", Ok(1)),
            ("-1", Ok(0)),
            ("-12", Ok(2)),
            ("20260801", Err("fits 2 incidents (20260801T130000Z-2, 20260801T120000Z-1, …)")),
            ("2", Err("fits 3 incidents")),
            ("7", Err("there is no incident `7`: `ftagent incidents` lists")),
            ("", Err("there is no incident ``")),
        ];
        for (id, wanted) in cases {
            match (choose(&incidents, id), wanted) {
                (Ok(at), Ok(wanted)) => assert_eq!(at, wanted, "{id}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{id}: {error}"),
                (got, wanted) => panic!("{id}: {got:?}, wanted {wanted:?}"),
            }
        }
        assert!(choose(&[], "last").unwrap_err().to_string().contains("no incident yet"));
    }

    #[test]
    fn classes_are_named_or_guessed() {
        assert_eq!(class_named("tcp_syn").unwrap(), TrafficClass::TcpSyn);
        for (typed, nearest) in [
            ("tcp_sin", "`tcp_syn`"),
            ("udp_smal", "`udp_small`"),
            ("TCP_SYN", "`tcp_syn`"),
            ("udp_src_dnss", "`udp_src_dns`"),
        ] {
            let error = class_named(typed).unwrap_err().to_string();
            assert!(error.contains(nearest), "{typed}: {error}");
        }
    }

    #[test]
    fn other_versions_of_a_baseline_are_refused_in_words() {
        let ours = Checkpoint::VERSION;
        let cases = [
            (json!({ "version": ours + 1, "anything": [] }), "by a newer ftagent"),
            (json!({ "version": 0 }), "by an older ftagent"),
            (json!({ "schema": "ftagent.replay/1" }), "not an exported baseline"),
            (json!([1, 2, 3]), "not an exported baseline"),
            (json!({ "version": ours, "taken": "yesterday" }), "damaged"),
        ];
        for (value, part) in cases {
            let error = format!("{:#}", read_checkpoint(&value.to_string()).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn only_what_moved_is_told() {
        let view = |class: &str, threshold: f64, ceiling: f64| View {
            class: class.to_owned(),
            metric: Metric::Pps,
            rate: 1.0,
            baseline: 1.0,
            spread: 0.0,
            threshold,
            ceiling,
            trusted: true,
            minutes: Vec::new(),
            hours: Vec::new(),
        };
        let before = [view("tcp_syn", 600.0, 2480.0), view("arp", 10.0, 80.0)];
        let after = [view("tcp_syn", 1200.0, 2480.0), view("arp", 10.001, 80.0), view("esp", 5.0, 40.0)];
        let moved = moved(&before, &after);
        let told: Vec<_> = moved.iter().map(|m| (m.class.as_str(), m.threshold_before, m.threshold)).collect();
        assert_eq!(told, [("tcp_syn", Some(600.0), 1200.0), ("esp", None, 5.0)]);
    }
}
