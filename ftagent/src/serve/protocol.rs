//! What the command line and the daemon say to each other over the control socket: one JSON
//! object on a line each way, then the connection ends.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    act::store::Listed,
    decide::{
        Event, Incident, Metric, Vector,
        baseline::{Learning, View},
        destinations::DestinationView,
        guard::{Ports, Transport},
        incident,
        mitigate::{Measured, Predicted, collateral::Collateral},
    },
    feeds::FeedStatus,
    record::{audit::AuditStatus, recorder::status::CaptureStatus},
    rule::{Origin, Rule},
};

pub use super::{
    alert::{AlertSilence, Alerts},
    explain::{Explain, Explained, Explanation, Frame, ListHit, RuleVerdict, Verdict},
    ladder::{LadderPlan, LadderSaid, LadderStatus, RungView, Word},
    request::{Access, Accessed, CaptureStart, Entry, NewRule, Request},
};

/// Bytes of a request at most. The largest is a baseline of every class with every hour of its
/// week: about 5 MB.
pub const REQUEST_BYTES: u64 = 16 * 1024 * 1024;

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was done.
    Done {
        /// What the request asked for; `null` where it asks for nothing.
        data: Value,
    },
    /// It was not done, and nothing changed.
    Refused {
        /// Why, and what to do instead.
        error: String,
    },
}

/// What `ftagent status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether it acts by itself, and why.
    pub mitigation: Mitigation,
    /// Every configured interface.
    pub interfaces: Vec<Interface>,
    /// Entries in the lists.
    pub lists: ListCounts,
    /// Every block-list file.
    pub feeds: Vec<FeedStatus>,
    /// The sampler.
    pub samples: Samples,
    /// What the operator should know, most important first.
    pub warnings: Vec<String>,
    /// The daemon's time, milliseconds since 1970. This field and the next three are absent in
    /// the answers of daemons that detect nothing, which an upgrade may leave running for a while.
    #[serde(default)]
    pub now_ms: i64,
    /// How much is known of what is normal.
    #[serde(default)]
    pub learning: Option<Learning>,
    /// Open incidents, oldest first.
    #[serde(default)]
    pub incidents: Vec<Incident>,
    /// Notices of the last hour, oldest first.
    #[serde(default)]
    pub notices: Vec<incident::Entry>,
    /// The TCP guard.
    #[serde(default)]
    pub guard: Option<GuardStatus>,
    /// The tripwire.
    #[serde(default)]
    pub tripwire: Option<TripwireStatus>,
    /// The audit log; absent where there is none.
    #[serde(default)]
    pub audit: Option<AuditStatus>,
    /// What is recorded; absent where nothing is.
    #[serde(default)]
    pub capture: Option<CaptureStatus>,
    /// What is asked of planes upstream, is there or waits for approval, a line each.
    #[serde(default)]
    pub upstream: Vec<String>,
}

/// What the kernel drops by itself of a class as soon as there is too much of it, and how often it woke
/// the daemon.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TripwireStatus {
    /// Classes of which what is too much is dropped now, thinned ones included.
    pub policed: usize,
    /// Their names.
    #[serde(default)]
    pub classes: BTreeSet<String>,
    /// Classes that are thinned now, because there is no safe rule, each with the packets a second that
    /// it keeps.
    pub thinned: BTreeMap<String, f64>,
    /// Ticks since the start that ended early because there was too much of a class.
    pub early_ticks: u64,
}

/// What the TCP guard does, and where it may.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Since when it is armed, milliseconds since 1970; absent: it is not, or an earlier life of the
    /// daemon armed it.
    pub since_ms: Option<i64>,
    /// What it is armed against.
    pub vectors: Vec<Vector>,
    /// Seconds until what an earlier life armed ends; absent: there is no such thing.
    pub inherited_s: Option<u64>,
    /// TCP ports that answer SYNs with cookies.
    pub cookies: BTreeSet<u16>,
    /// TCP ports where segments without a socket are dropped.
    pub state: BTreeSet<Ports>,
    /// UDP ports where packets without a socket are dropped.
    pub closed: BTreeSet<Ports>,
    /// Why SYNs cannot be answered with cookies; absent: they can.
    pub no_cookies: Option<String>,
    /// Which options connections lack that begin by a cookie; absent: none.
    pub no_options: Option<String>,
    /// SYN-ACKs a second at most.
    pub answers_per_second: u64,
    /// Where packets in calm were looked up, those with most of them first. What is not here was never
    /// seen, and is never armed.
    pub ports: Vec<GuardPort>,
}

/// A port of this host, and whether the guard may be armed there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardPort {
    /// TCP or UDP.
    pub transport: Transport,
    /// The port, or all ephemeral ones together.
    pub ports: Ports,
    /// Packets that were looked up in calm; what is long ago counts less.
    pub asked: f64,
    /// Those that had a socket.
    pub found: f64,
    /// Whether a listener was seen.
    pub listens: bool,
    /// Whether packets without a socket are dropped now.
    pub armed: bool,
    /// Why the guard may not be armed; absent: it may.
    pub why_not: Option<String>,
}

/// Whether the daemon acts by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mitigation {
    /// `mitigation.mode` of the configuration.
    pub mode: String,
    /// What that means now, in words.
    pub state: String,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index; 0 while it is gone.
    pub ifindex: u32,
    /// Its slot in the counters.
    pub slot: u32,
    /// How the program runs there; absent while it does not.
    pub mode: Option<String>,
    /// `protected`, `probation`, `absent` or `detached`, with the reason where there is one.
    pub state: String,
    /// Packets seen, dropped ones included, since the counters were first pinned.
    pub packets: u64,
    /// Bytes of those, without FCS.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Packets that were answered, and went no further: the guard's answers to SYNs.
    #[serde(default)]
    pub sent_packets: u64,
    /// Drop decisions that the allow list overruled.
    pub overruled: u64,
    /// Packets a second, dropped ones included.
    pub pps: f64,
    /// Bits a second, dropped ones included.
    pub bps: f64,
    /// Packets dropped a second.
    pub dropped_pps: f64,
    /// Classes that were seen, busiest first.
    pub classes: Vec<Class>,
    /// Packets dropped by reason.
    pub reasons: Vec<Reason>,
}

/// One traffic class on one interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub class: String,
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Packets a second.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
    /// Packets dropped a second.
    pub dropped_pps: f64,
}

/// Drops for one reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Its name.
    pub reason: String,
    /// Packets dropped for it.
    pub packets: u64,
}

/// Entries in the lists.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ListCounts {
    /// Entries that operators blocked.
    pub block: usize,
    /// Entries that operators allowed.
    pub allow: usize,
    /// Entries of feeds and of `lists.block` in force.
    pub feeds: usize,
}

/// The sampler.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    /// Samples written by the kernel program.
    pub written: u64,
    /// Samples lost because the ring was full.
    pub lost: u64,
    /// Samples skipped by the cap per class and jiffy.
    pub capped: u64,
    /// Samples that this daemon has read.
    pub read: u64,
}

/// What `ftagent rules` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Blocked prefixes.
    pub block: Vec<Listed>,
    /// Allowed prefixes.
    pub allow: Vec<Listed>,
    /// Feeds.
    pub feeds: Vec<FeedStatus>,
    /// Rules, in the order in which they are tried.
    #[serde(default)]
    pub rules: Vec<RuleStatus>,
}

/// A rule, and what it does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its number: those of operators are by themselves, those of incidents belong to the daemon's
    /// present life.
    pub id: u32,
    /// What it matches, as text.
    #[serde(rename = "match")]
    pub matches: String,
    /// What it does, as text; of a rule in shadow, what it is to do.
    pub action: String,
    /// Who made it.
    pub origin: Origin,
    /// Why.
    pub reason: String,
    /// `enforcing`, `counting` (it is there to count), `shadow` (it counts before it drops), `armed`
    /// (it removed an earlier attack, and limits what matches until the next), `inherited` (of an earlier life of the daemon) or `failed`.
    pub state: String,
    /// Why it is not in force, where it is not.
    pub problem: Option<String>,
    /// When an operator made it, or since when it is armed, seconds since the epoch.
    pub since_unix: Option<u64>,
    /// Seconds until it ends; absent: with its attack.
    pub ends_s: Option<u64>,
    /// Packets that matched since the daemon started.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Packets a second that match.
    pub pps: f64,
    /// What was expected of a rule of an incident.
    pub predicted: Option<Predicted>,
    /// What it did.
    pub measured: Option<Measured>,
    /// Against which vectors it worked, where it is armed.
    #[serde(default)]
    pub vectors: Vec<Vector>,
    /// What it costs those whom it does not concern, over the last ten seconds.
    #[serde(default)]
    pub collateral: Option<Collateral>,
}

impl RuleStatus {
    /// A rule that did nothing yet.
    pub fn new(rule: &Rule, state: &str) -> Self {
        Self {
            matches: rule.matches.to_string(),
            action: rule.action.to_string(),
            origin: rule.origin.clone(),
            reason: rule.reason.clone(),
            state: state.to_owned(),
            ..Self::default()
        }
    }
}

/// What `ftagent incidents` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Incidents {
    /// The daemon's time, milliseconds since 1970.
    pub now_ms: i64,
    /// How much is known of what is normal.
    pub learning: Learning,
    /// Incidents, oldest first.
    pub incidents: Vec<Incident>,
    /// Notices, oldest first.
    pub notices: Vec<incident::Entry>,
}

/// What `ftagent baseline show` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// How much is known.
    pub learning: Learning,
    /// Every class and metric that was ever seen.
    pub views: Vec<View>,
    /// The busiest addresses behind this node, busiest first; estimates from samples.
    #[serde(default)]
    pub destinations: Vec<DestinationView>,
}

/// What `ftagent baseline accept` changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Accepted {
    /// What was decided because of it: incidents that closed.
    pub events: Vec<Event>,
    /// Every class and metric whose threshold or ceiling moved.
    pub moved: Vec<Moved>,
}

/// A threshold that moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// The class.
    pub class: String,
    /// The metric, which the values are in.
    pub metric: Metric,
    /// The threshold before; absent where there was none.
    pub threshold_before: Option<f64>,
    /// The threshold now.
    pub threshold: f64,
    /// The ceiling before; absent where there was none.
    pub ceiling_before: Option<f64>,
    /// The ceiling now.
    pub ceiling: f64,
}
