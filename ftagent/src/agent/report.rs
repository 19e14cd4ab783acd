//! What `ftagent status` shows.

use std::{sync::PoisonError, time::Instant};

use ftagent_common::{
    TrafficClass,
    reason::{DropReason, verdict},
};

use super::{
    Agent,
    alerts::{upstream_status, upstream_warnings},
    iface::{Iface, State},
    knowledge::now_ms,
    unix,
};
use crate::{
    alert::Post,
    bpf::lists::Which,
    config::{MitigationMode, OnAuditFailure},
    decide::Incident,
    feeds::{FeedState, FeedStatus},
    record::audit::AuditStatus,
    sense::window::{IfaceSnapshot, Rate},
    serve::metrics::Facts,
    serve::protocol::{
        Class, Interface, LadderStatus, ListCounts, Mitigation, Reason, Samples, Status, TripwireStatus,
    },
};

impl Agent {
    /// Tells the metrics what they cannot read from the counters.
    pub(super) fn publish_facts(&self) {
        let mode = |iface: &Iface| (iface.name.clone(), iface.mode.as_str().to_owned(), iface.attached().is_some());
        let mut lists = vec![
            ("block".to_owned(), self.store.len(Which::Block)),
            ("allow".to_owned(), self.store.len(Which::Allow)),
        ];
        lists.extend(self.feeds.status().map(|feed| (format!("feed:{}", feed.name), feed.entries)));
        let facts = Facts {
            ifaces: self.ifaces.iter().map(mode).collect(),
            lists,
            feeds_held: self.feeds.status().filter(|feed| feed.state == FeedState::Held).count(),
            config_loaded: unix(self.config_loaded),
            detection: self.detection(),
            mitigation: self.mitigation_metrics(),
            ladder: self.brain.ladder(),
            audit: self.audit.metrics(),
            capture: self.capture_status(),
            alerts: self.post.as_ref().map(Post::status),
            unwritable: self.brain.unwritable().is_some(),
        };
        *self.sources.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    pub(super) fn status(&self) -> Status {
        let snapshot = self.sources.shared.snapshot();
        let mut samples = Samples {
            read: self.sources.shared.samples.load(std::sync::atomic::Ordering::Relaxed),
            ..Samples::default()
        };
        for iface in &snapshot.ifaces {
            samples.written += iface.total.samples;
            samples.lost += iface.total.samples_lost;
            samples.capped += iface.total.samples_capped;
        }
        let feeds: Vec<FeedStatus> = self.feeds.status().cloned().collect();
        let blocked = feeds.iter().map(|feed| feed.entries).sum::<usize>() + self.config.lists.block.len();
        let (guard, tripwire) = self.brain.guards();
        let ladder = self.brain.ladder();
        let early_ticks = self.sources.shared.wakes.load(std::sync::atomic::Ordering::Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            mitigation: Mitigation {
                mode: mode_name(self.config.mitigation.mode).to_owned(),
                state: self.mitigation_state(),
            },
            interfaces: self
                .ifaces
                .iter()
                .map(|iface| interface(iface, snapshot.ifaces.iter().find(|s| s.slot == iface.slot)))
                .collect(),
            lists: ListCounts {
                block: self.store.len(Which::Block),
                allow: self.store.len(Which::Allow) + self.config.lists.allow.len(),
                feeds: blocked,
            },
            warnings: self.all_warnings(&feeds, &ladder),
            feeds,
            samples,
            now_ms: now_ms(),
            learning: Some(self.brain.learning()),
            incidents: self.brain.incidents().into_iter().filter(Incident::is_open).collect(),
            notices: self.recent_notices(),
            guard,
            capture: self.capture_status(),
            tripwire: tripwire.map(|tripwire| TripwireStatus { early_ticks, ..tripwire }),
            audit: self.audit.status(),
            upstream: upstream_status(&ladder),
        }
    }

    fn all_warnings(&self, feeds: &[FeedStatus], ladder: &LadderStatus) -> Vec<String> {
        let unprotected = self.ifaces.iter().filter(|iface| iface.attached().is_none());
        let unprotected = unprotected.map(|iface| format!("{} is NOT protected: {}", iface.name, state(iface)));
        let held = feeds.iter().filter(|feed| feed.state == FeedState::Held).map(|feed| {
            format!(
                "feed `{}` changed by more than half and is held: `ftagent feeds confirm {}` takes it",
                feed.name, feed.name
            )
        });
        let errors = self.sources.shared.errors.load(std::sync::atomic::Ordering::Relaxed);
        let errors = (errors > 0).then(|| format!("{errors} reads of counters or settings failed since the start"));
        let unsaved = self.store.unsaved().map(|why| {
            format!("block and allow entries are in force but not saved, and a reboot would lose them: {why}")
        });
        let unpublished = self.unpublished.as_ref().map(|why| {
            let every = humantime::format_duration(self.config.feed.reload_interval);
            format!(
                "block lists cannot be replaced, those from before are in force: {why}; it is tried again every {every}"
            )
        });
        unprotected
            .chain(self.brain.unwritable())
            .chain(unpublished)
            .chain(upstream_warnings(ladder))
            .chain(held)
            .chain(unsaved)
            .chain(self.feeds.unsaved())
            .chain(self.rules_trouble())
            .chain(self.brain.trouble())
            .chain(self.alert_warnings())
            .chain(self.audit_warnings())
            .chain(self.capture_status().and_then(|capture| capture.trouble))
            .chain(self.remote_trouble())
            .chain(errors)
            .chain(self.warnings.iter().cloned())
            .collect()
    }
}

impl Agent {
    /// Returns what the operator should know of the audit log.
    fn audit_warnings(&self) -> Vec<String> {
        let Some(AuditStatus { lost, trouble, found, .. }) = self.audit.status() else { return Vec::new() };
        let trouble = trouble.map(|why| {
            let acts = match self.config.audit.on_failure {
                OnAuditFailure::Act => "what operators ask for is done all the same",
                OnAuditFailure::Refuse => "what operators ask for is refused meanwhile",
            };
            format!("the audit log cannot be written: {why}; {acts} (`audit.on_failure`), and it is tried again every second")
        });
        let lost =
            (lost > 0).then(|| format!("{lost} entries of the audit log were lost since the start; it says where"));
        trouble.into_iter().chain(lost).chain(found).collect()
    }
}

fn mode_name(mode: MitigationMode) -> &'static str {
    match mode {
        MitigationMode::Auto => "auto",
        MitigationMode::Observe => "observe",
        MitigationMode::Enforce => "enforce",
    }
}

fn state(iface: &Iface) -> String {
    match &iface.state {
        State::New => "not attached yet".to_owned(),
        State::Protected { .. } => "protected".to_owned(),
        State::Probation { since, .. } => {
            format!("probation for {} s: no packet has arrived yet", since.elapsed().as_secs())
        }
        State::Absent => "there is no interface of this name now; it is attached when it comes back".to_owned(),
        State::Detached { reason, retry } => {
            format!("detached: {reason} (next try in {} s)", retry.saturating_duration_since(Instant::now()).as_secs())
        }
    }
}

/// As [`state`], without what changes every second.
pub(super) fn state_without_times(iface: &Iface) -> String {
    match &iface.state {
        State::Probation { .. } => "probation: no packet has arrived yet".to_owned(),
        State::Detached { reason, .. } => format!("detached: {reason}"),
        _ => state(iface),
    }
}

fn interface(iface: &Iface, snapshot: Option<&IfaceSnapshot>) -> Interface {
    let rate = snapshot.map_or_else(Rate::default, IfaceSnapshot::rate);
    let total = snapshot.map(|snapshot| &snapshot.total);
    let mut classes: Vec<Class> = snapshot.map_or_else(Vec::new, |snapshot| {
        TrafficClass::ALL.into_iter().filter_map(|class| row(snapshot, class)).collect()
    });
    classes.sort_by(|a, b| b.pps.total_cmp(&a.pps).then(b.packets.cmp(&a.packets)));
    let reasons = DropReason::ALL.into_iter().map(|reason| Reason {
        reason: reason.as_str().to_owned(),
        packets: snapshot.map_or(0, |snapshot| snapshot.dropped_for(reason)),
    });
    Interface {
        name: iface.name.clone(),
        ifindex: iface.attached().unwrap_or(0),
        slot: iface.slot,
        mode: iface.attached().map(|_| iface.mode.as_str().to_owned()),
        state: state(iface),
        packets: total.map_or(0, |total| total.seen()),
        bytes: total.map_or(0, |total| total.classes.iter().map(|class| class.bytes).sum()),
        dropped_packets: total.map_or(0, |total| total.verdicts[verdict::DROP as usize]),
        sent_packets: total.map_or(0, |total| total.verdicts[verdict::TX as usize]),
        overruled: total.map_or(0, |total| total.overruled),
        pps: rate.packets,
        bps: rate.bytes * 8.0,
        dropped_pps: rate.dropped,
        classes,
        reasons: reasons.filter(|reason| reason.packets > 0).collect(),
    }
}

fn row(snapshot: &IfaceSnapshot, class: TrafficClass) -> Option<Class> {
    let counter = snapshot.total.class(class);
    let rate = snapshot.rates.get(class.index()).copied().unwrap_or_default();
    (counter.packets > 0).then(|| Class {
        class: class.as_str().to_owned(),
        packets: counter.packets,
        bytes: counter.bytes,
        dropped_packets: snapshot.total.dropped_packets(class),
        dropped_bytes: counter.dropped_bytes,
        pps: rate.packets,
        bps: rate.bytes * 8.0,
        dropped_pps: rate.dropped,
    })
}
