//! Decides who is told what, and when. What it is handed is how things are; what it tells is what is new to
//! those it tells it.

mod after;
#[cfg(test)]
pub(super) mod late;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;

use self::after::After;
use super::{
    Alert, Kind, News, UPSTREAM,
    courier::{delivery, not_arrived},
    log::How,
    message::{self, Context, costs},
    post::{Inner, Offer, Shared, Trouble},
    words::utc,
};
use crate::{
    config::alerts::{AlertSink, Alerts, Target},
    decide::{Incident, Severity, Vector},
    record::audit::AuditLog,
    sense::clock,
};

/// Rises of severity within this time are told together: a ramp passes all levels in seconds.
const ESCALATED: Duration = Duration::from_secs(5);
/// The same for what is in force, and for steps upstream.
const MITIGATED: Duration = Duration::from_secs(1);
/// Incidents that are over and still known: what is said late of them may be so old.
const ENDED: usize = 512;
/// Changes of one incident that are kept until they are told.
const CHANGES: usize = 32;
/// How long a start waits for news of trouble that an earlier life told.
const INHERITED: Duration = Duration::from_secs(30);
/// How long a sink fails before the others are told.
const SINK: Duration = Duration::from_secs(300);

/// An incident that goes on.
#[derive(Debug)]
struct Topic {
    incident: Arc<Incident>,
    /// As told.
    severity: Severity,
    mitigated: bool,
    /// Rules whose cost was told.
    dear: BTreeSet<u32>,
    told: Instant,
    /// What is to be told next, each in a message of its own, and what changed.
    pending: BTreeSet<Kind>,
    what: Vec<String>,
    /// Which of that escalates it.
    raised: Option<String>,
    /// What is done upstream.
    beyond: Vec<String>,
}

/// What a message says beside how the incident is.
#[derive(Clone, Copy, Debug, Default)]
struct Said<'a> {
    what: &'a [String],
    raised: Option<&'a str>,
    beyond: &'a [String],
}

/// Something wrong with the agent itself.
#[derive(Debug)]
struct Ailment {
    severity: Severity,
    text: String,
    since: Instant,
    began_ms: i64,
    /// Absent until it is told.
    topic: Option<String>,
    /// Since when it is not named any more.
    gone: Option<Instant>,
}

pub(super) struct Desk {
    shared: Arc<Shared>,
    audit: AuditLog,
    node: String,
    topics: BTreeMap<String, Topic>,
    /// Incidents that are over, latest last.
    ended: VecDeque<String>,
    /// What is done upstream, by incident, those that are over too.
    beyond: BTreeMap<String, Vec<String>>,
    /// What became of that, where the incident is over.
    after: BTreeMap<String, After>,
    ailments: BTreeMap<String, Ailment>,
    guard: Option<String>,
    sinks_looked: Instant,
}

/// Returns what this machine is called.
pub(super) fn node_name(settings: &Alerts) -> String {
    if !settings.node.is_empty() {
        return settings.node.clone();
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "this-node".to_owned())
}

impl Desk {
    pub fn new(shared: Arc<Shared>, audit: AuditLog) -> Self {
        let (node, ailments) = {
            let inner = shared.lock();
            (node_name(&inner.settings), inherited(&inner))
        };
        Self {
            shared,
            audit,
            node,
            topics: BTreeMap::new(),
            ended: VecDeque::new(),
            beyond: BTreeMap::new(),
            after: BTreeMap::new(),
            ailments,
            guard: None,
            sinks_looked: Instant::now(),
        }
    }

    /// Takes over what the configuration says.
    pub fn reload(&mut self) {
        self.node = node_name(&self.shared.lock().settings);
    }

    /// Returns how long nothing is due.
    pub fn pause(&self) -> Duration {
        let hasty = self.topics.values().flat_map(|topic| &topic.pending).any(|kind| *kind != Kind::Changed);
        Duration::from_millis(if hasty { 100 } else { 1000 })
    }

    pub fn take(&mut self, offer: Offer) {
        match offer {
            Offer::Seen(incident, news) => self.see(&incident, news),
            Offer::Look(incidents, guard) => self.look(&incidents, guard),
            Offer::Health(source, troubles) => self.health(source, troubles),
            Offer::Beyond(incident, lines) => {
                if let Some(topic) = self.topics.get_mut(&incident) {
                    topic.beyond.clone_from(&lines);
                }
                match lines.is_empty() {
                    true => drop(self.beyond.remove(&incident)),
                    false => drop(self.beyond.insert(incident, lines)),
                }
            }
            Offer::After(incident, what) => self.follow(incident, what),
            Offer::Settings(_) | Offer::Stop(_) => {}
        }
    }

    /// Tells what waited long enough.
    pub fn tick(&mut self) {
        let changed = self.shared.lock().settings.changed_interval;
        let due = |(_, topic): &(&String, &Topic)| topic.is_due(topic.told.elapsed(), changed);
        let due: Vec<String> = self.topics.iter().filter(due).map(|(id, _)| id.clone()).collect();
        for id in due {
            self.tell(&id);
        }
        self.tick_after(changed);
        self.tick_health();
    }

    /// Takes in how an incident is.
    fn see(&mut self, incident: &Arc<Incident>, news: Option<News>) {
        let id = incident.id.clone();
        if !incident.is_open() {
            let known = self.topics.remove(&id);
            if known.is_some() || self.shared.lock().book.anybody_was_told(&id) {
                let what = known.map(|topic| topic.what).unwrap_or_default();
                // It may be over because something upstream still keeps it away.
                let beyond = self.beyond.get(&id).cloned().unwrap_or_default();
                self.send([Kind::Closed], incident, &Said { what: &what, beyond: &beyond, ..Said::default() });
            }
            self.end(&id);
            return;
        }
        if self.ended.contains(&id) {
            // How it was before it ended, and came late: whoever records had to wait.
            return;
        }
        let Some(topic) = self.topics.get_mut(&id) else {
            let told = self.shared.lock().book.latest(&id).map(|alert| alert.severity);
            let topic = Topic {
                incident: Arc::clone(incident),
                severity: told.unwrap_or(incident.severity).max(incident.severity),
                // What an earlier life told is not told again; where a rule was armed, it is news a second later.
                mitigated: told.is_some() && incident.mitigated.is_some(),
                dear: incident.rules.iter().filter(|rule| costs(rule)).map(|rule| rule.id).collect(),
                told: Instant::now(),
                pending: BTreeSet::new(),
                what: Vec::new(),
                raised: None,
                beyond: self.beyond.get(&id).cloned().unwrap_or_default(),
            };
            let beyond = topic.beyond.clone();
            self.topics.insert(id, topic);
            self.send([Kind::Opened], incident, &Said { beyond: &beyond, ..Said::default() });
            return;
        };
        topic.incident = Arc::clone(incident);
        topic.notice(news);
        // Those who could not be told of it before are told now; the others know.
        let beyond = topic.beyond.clone();
        self.send([Kind::Opened], incident, &Said { beyond: &beyond, ..Said::default() });
    }

    /// Takes in how all are, and ends what ended unseen.
    fn look(&mut self, incidents: &[Arc<Incident>], guard: Option<String>) {
        self.guard = guard;
        let open: BTreeSet<&str> = incidents.iter().filter(|i| i.is_open()).map(|i| i.id.as_str()).collect();
        for incident in incidents.iter().filter(|incident| incident.is_open()) {
            self.see(incident, None);
        }
        let told = self.shared.lock().book.topics();
        // Each message about what was left upstream stands for itself.
        told.iter().filter(|id| id.ends_with(UPSTREAM)).for_each(|id| self.shared.lock().book.end(id));
        for id in told.iter().filter(|id| !id.contains(':') && !open.contains(id.as_str())) {
            match incidents.iter().find(|incident| incident.id == *id) {
                Some(incident) => self.see(incident, None),
                None => self.forgotten(id),
            }
        }
    }

    /// An incident that nothing is known of any more: what was told of it is taken back.
    fn forgotten(&mut self, id: &str) {
        self.topics.remove(id);
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        if let Some(last) = inner.book.latest(id).map(|alert| Alert::clone(alert)) {
            let now_ms = clock::unix_ms();
            let alert = Alert {
                id: format!("{id}.{}.{now_ms}", Kind::Closed.as_str()),
                kind: Kind::Closed,
                at_ms: now_ms,
                ended_ms: Some(now_ms),
                title: format!("OVER: nothing is known any more of {id} on {}", self.node),
                lines: vec!["ftagent was started anew, and its list of incidents does not have it.".to_owned()],
                ..last
            };
            self.post(&mut inner, &[Kind::Closed], alert.severity, &alert.vectors.clone(), id, |_| alert.clone());
        }
        drop(inner);
        self.end(id);
    }

    /// An incident is over, for good.
    fn end(&mut self, id: &str) {
        self.shared.lock().book.end(id);
        if !self.ended.iter().any(|ended| ended == id) {
            self.ended.push_back(id.to_owned());
            if self.ended.len() > ENDED {
                self.ended.pop_front();
            }
        }
    }

    /// Tells what waits of an incident.
    fn tell(&mut self, id: &str) {
        let Some(topic) = self.topics.get_mut(id) else { return };
        let (what, raised) = (std::mem::take(&mut topic.what), topic.raised.take());
        let kinds = std::mem::take(&mut topic.pending);
        topic.told = Instant::now();
        let (incident, beyond) = (Arc::clone(&topic.incident), topic.beyond.clone());
        self.send(kinds, &incident, &Said { what: &what, raised: raised.as_deref(), beyond: &beyond });
    }

    /// Makes a message of each kind of an incident for everybody who is to have it.
    fn send(&self, kinds: impl IntoIterator<Item = Kind>, incident: &Incident, said: &Said<'_>) {
        let kinds: Vec<Kind> = kinds.into_iter().collect();
        let mut vectors: Vec<Vector> = incident.vectors.clone();
        vectors.push(incident.vector);
        let names: Vec<String> = vectors.iter().map(|vector| vector.as_str().to_owned()).collect();
        let mut beyond = self.guard.iter().filter(|_| incident.is_open()).cloned().collect::<Vec<_>>();
        beyond.extend_from_slice(said.beyond);
        let mut inner = self.shared.lock();
        let link = inner.settings.link.clone();
        let Said { what, raised, .. } = *said;
        let context =
            Context { node: &self.node, link: &link, now_ms: clock::unix_ms(), what, raised, beyond: &beyond };
        let write = |kind| message::incident(kind, incident, &context);
        self.post(&mut inner, &kinds, incident.severity, &names, &incident.id, write);
    }

    /// Puts a message of each kind into the outbox for those who are to have it. Who was told nothing yet is told
    /// that it began, whatever it is that others are told. What merely changed is in any other message.
    fn post(
        &self,
        inner: &mut Inner,
        kinds: &[Kind],
        severity: Severity,
        vectors: &[String],
        topic: &str,
        write: impl Fn(Kind) -> Alert,
    ) {
        let now_ms = clock::unix_ms();
        let mut groups: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        for sink in &inner.settings.sinks {
            let one = |kind: &Kind| told(inner, sink, *kind, severity, vectors, topic, now_ms);
            let mut all: BTreeSet<Kind> = kinds.iter().filter_map(one).collect();
            if all.len() > 1 {
                all.remove(&Kind::Changed);
            }
            for kind in all {
                groups.entry(kind).or_default().push(sink.name.clone());
            }
        }
        if groups.is_empty() {
            return;
        }
        // In the order of the kinds: it got worse, and then it was mitigated.
        for (kind, sinks) in groups {
            inner.book.put(write(kind), sinks);
        }
        self.shared.ring();
        let (most, bytes) = (inner.settings.max_entries, inner.settings.max_bytes);
        while let Some((n, sinks)) = inner.book.surplus(most, bytes) {
            let Some(alert) = sinks.first().and_then(|sink| inner.book.find(sink, n)) else { break };
            warn!(alert = %alert.id, "Too many alerts wait: one is left out.");
            for sink in sinks {
                let why = "too many alerts waited (`alerts.max_entries`, `alerts.max_bytes`)";
                inner.book.done(n, delivery(&alert, &sink, How::Crowded, why));
                self.audit.after(not_arrived(&alert, &sink, How::Crowded, why));
            }
        }
    }

    fn health(&mut self, source: &str, troubles: Vec<Trouble>) {
        let prefix = format!("{source}:");
        let now = Instant::now();
        let named: BTreeSet<String> = troubles.iter().map(|trouble| format!("{prefix}{}", trouble.key)).collect();
        for (key, ailment) in &mut self.ailments {
            if key.starts_with(&prefix) && !named.contains(key) {
                // What an earlier life told is over when its source says so for the first time.
                ailment.gone = Some(ailment.gone.map_or(now, |gone| gone.min(now)));
            }
        }
        for Trouble { key, severity, text } in troubles {
            let fresh = || Ailment {
                severity,
                text: text.clone(),
                since: now,
                began_ms: clock::unix_ms(),
                topic: None,
                gone: None,
            };
            let ailment = self.ailments.entry(format!("{prefix}{key}")).or_insert_with(fresh);
            (ailment.severity, ailment.text, ailment.gone) = (severity, text.clone(), None);
        }
    }

    fn tick_health(&mut self) {
        if self.sinks_looked.elapsed() >= Duration::from_secs(1) {
            self.sinks_looked = Instant::now();
            let troubles = sink_troubles(&self.shared.lock());
            self.health("sink", troubles);
        }
        let after = self.shared.lock().settings.trouble_after;
        let (now, keys) = (Instant::now(), self.ailments.keys().cloned().collect::<Vec<_>>());
        for key in keys {
            let Some(ailment) = self.ailments.get_mut(&key) else { continue };
            let gone = ailment.gone.filter(|gone| now.saturating_duration_since(*gone) >= after);
            match (&ailment.topic, gone.is_some()) {
                (None, true) => drop(self.ailments.remove(&key)),
                (None, false) if ailment.gone.is_none() && ailment.since.elapsed() >= after => {
                    let stamp = utc(ailment.began_ms).replace(['-', ':'], "").replace(' ', "T").replace("TUTC", "Z");
                    ailment.topic = Some(format!("health:{key}@{stamp}"));
                    self.send_health(&key, Kind::Trouble);
                }
                (None, false) => {}
                // Who was silent is told now.
                (Some(_), false) => self.send_health(&key, Kind::Trouble),
                (Some(_), true) => {
                    self.send_health(&key, Kind::Recovered);
                    if let Some(topic) = self.ailments.remove(&key).and_then(|ailment| ailment.topic) {
                        self.shared.lock().book.end(&topic);
                    }
                }
            }
        }
    }

    fn send_health(&self, key: &str, kind: Kind) {
        let Some(ailment) = self.ailments.get(key) else { return };
        let Some(topic) = &ailment.topic else { return };
        let mut inner = self.shared.lock();
        let link = inner.settings.link.clone();
        let context = Context { node: &self.node, link: &link, now_ms: clock::unix_ms(), ..Context::default() };
        let Ailment { severity, began_ms, text, .. } = ailment;
        let write = |kind| message::health(kind, topic, *severity, *began_ms, text, &context);
        self.post(&mut inner, &[kind], *severity, &[], topic, write);
    }
}

impl Topic {
    /// Returns whether what waits is told now: once any of it waited long enough, all of it is, so that it is told
    /// in order.
    fn is_due(&self, passed: Duration, changed: Duration) -> bool {
        let gap = |kind: &Kind| match kind {
            Kind::Collateral => Duration::ZERO,
            Kind::Escalated if self.raised.is_none() => ESCALATED,
            Kind::Escalated | Kind::Mitigated => MITIGATED,
            _ => changed,
        };
        self.pending.iter().any(|kind| passed >= gap(kind))
    }

    /// Takes in what is new, and decides what is to be told of it.
    fn notice(&mut self, news: Option<News>) {
        let incident = &self.incident;
        if incident.mitigated.is_some() && !self.mitigated {
            self.mitigated = true;
            self.pending.insert(Kind::Mitigated);
        }
        if incident.severity > self.severity {
            self.severity = incident.severity;
            self.pending.insert(Kind::Escalated);
        }
        for rule in incident.rules.iter().filter(|rule| costs(rule)) {
            if self.dear.insert(rule.id) {
                self.pending.insert(Kind::Collateral);
            }
        }
        let what = match news {
            Some(News::Escalated(what)) => {
                self.pending.insert(Kind::Escalated);
                self.raised = Some(what.clone());
                Some(what)
            }
            Some(News::Changed(what)) => {
                self.pending.insert(Kind::Changed);
                Some(what)
            }
            None => None,
        };
        self.what.extend(what);
        if self.what.len() > CHANGES {
            self.what.remove(0);
        }
    }
}

/// Returns what a sink is told of something, if anything.
fn told(
    inner: &Inner,
    sink: &AlertSink,
    kind: Kind,
    severity: Severity,
    vectors: &[String],
    topic: &str,
    now_ms: i64,
) -> Option<Kind> {
    let after = topic.ends_with(UPSTREAM);
    let told = inner.book.was_told(&sink.name, topic);
    let wants = |kind: Kind| sink.events.is_empty() || sink.events.contains(&kind);
    let begin = if topic.starts_with("health:") { Kind::Trouble } else { Kind::Opened };
    let keeps = matches!(sink.target, Target::PagerDuty { .. } | Target::Opsgenie { .. } | Target::Alertmanager { .. });
    if kind.is_end() && (told || wants(begin)) {
        // Who opened an alert of their own must be able to close it.
        return (told && (wants(kind) || keeps)).then_some(kind);
    }
    let fits = sink.vectors.is_empty() || sink.vectors.iter().any(|v| vectors.iter().any(|name| name == v.as_str()));
    let itself = topic.strip_prefix("health:sink:").and_then(|rest| rest.split('@').next()) == Some(&sink.name);
    let silent = inner.book.silent_until(&sink.name, now_ms).is_some()
        || inner.settings.maintenance.iter().any(|window| window.concerns(&sink.name) && window.when.holds(now_ms));
    if severity < sink.severity || !fits || itself || silent {
        return None;
    }
    if after {
        // There is no alert any more that it could belong to, and nobody is paged for it.
        return (!keeps && wants(kind)).then_some(kind);
    }
    match told {
        true => (kind != begin && wants(kind)).then_some(kind),
        false if wants(begin) => Some(begin),
        false => (kind != begin && wants(kind)).then_some(kind),
    }
}

/// Returns the trouble that an earlier life told; whoever knows of it says whether it is over.
fn inherited(inner: &Inner) -> BTreeMap<String, Ailment> {
    let mut ailments = BTreeMap::new();
    for topic in inner.book.topics() {
        let Some((key, _)) = topic.strip_prefix("health:").and_then(|rest| rest.rsplit_once('@')) else { continue };
        let Some(alert) = inner.book.latest(&topic) else { continue };
        let ailment = Ailment {
            severity: alert.severity,
            text: alert.facts.get("what").cloned().unwrap_or_default(),
            since: Instant::now(),
            began_ms: alert.began_ms,
            topic: Some(topic.clone()),
            gone: Instant::now().checked_add(INHERITED),
        };
        ailments.insert(key.to_owned(), ailment);
    }
    ailments
}

/// Returns the sinks that fail for long, for the others.
fn sink_troubles(inner: &Inner) -> Vec<Trouble> {
    let failing = inner.seats.iter().filter(|(_, seat)| seat.since.is_some_and(|since| since.elapsed() >= SINK));
    let trouble = |(name, seat): (&String, &super::post::Seat)| Trouble {
        key: name.clone(),
        severity: Severity::High,
        text: format!(
            "alerts do not reach the sink `{name}`: {}",
            seat.trouble.as_deref().unwrap_or("nothing is known of why")
        ),
    };
    failing.map(trouble).collect()
}

#[cfg(test)]
#[path = "desk/tests.rs"]
mod tests;
