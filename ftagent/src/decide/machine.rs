//! The state machine of an incident: opens, follows what it is, closes.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Event, Excess, Metric, Now, Tick, Vector,
    baseline::Baselines,
    classify::Finding,
    destinations::Destinations,
    detect::{Detector, limits},
    incident::{Entry, Incident, Named, Severity},
    mitigate::Phase,
};

/// Incidents that are kept.
pub const KEPT: usize = 256;
/// Entries of a timeline that are kept.
const ENTRIES: usize = 128;
/// Below the exit threshold for this long, an incident closes; longer where it has come back
/// after a pause, so that pulses make one incident.
const HOLD_NS: u64 = 10_000_000_000;
/// The longest hold.
const LONGEST_HOLD_NS: u64 = 60_000_000_000;
/// A pause that is none: shorter ones do not prolong the hold.
const PAUSE_NS: u64 = 500_000_000;
/// Not judged an attack for this long, an incident closes although the rate has not fallen.
const UNCONFIRMED_NS: u64 = 30_000_000_000;
/// An incident of an earlier life of the daemon goes on if that ended at most this long ago,
/// milliseconds.
const RESUMED_MS: i64 = 600_000;
/// Judgements after which a vector belongs to the incident for good …
const ESTABLISHED: u32 = 5;
/// … and its share of the incident, without which it does not.
const SHARE: f64 = 0.15;
/// Support fades by this factor a second: a vector that comes late can still have its share.
const FADE: f64 = 0.97;
/// The exit threshold lies this far between normal and the threshold.
const EXIT: f64 = 0.5;

/// What speaks for a vector in an incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Support {
    weight: f64,
    times: u32,
    established: bool,
    finding: Finding,
}

/// The open incident, behind its public face.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    support: BTreeMap<Vector, Support>,
    /// The classes that it is about, each with the metric that is exceeded.
    classes: BTreeMap<TrafficClass, Metric>,
    /// The one address that it is about, where the classes do not show it.
    focus: Option<IpAddr>,
    trusted: bool,
    confirmed_ns: u64,
    quiet_ns: Option<u64>,
    hold_ns: u64,
}

/// What the rates are measured against.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Rates by class.
    pub detector: &'a Detector,
    /// What is normal.
    pub baselines: &'a Baselines,
    /// Rates by address.
    pub destinations: &'a Destinations,
}

/// The open incident, and what it is about.
#[derive(Debug)]
pub struct Current<'a> {
    /// What people see of it.
    pub incident: &'a mut Incident,
    /// The classes that it is about, each with the metric that is exceeded.
    pub classes: &'a BTreeMap<TrafficClass, Metric>,
    /// The one address that it is about, where the classes do not show it.
    pub focus: Option<IpAddr>,
}

/// All incidents, at most one of them open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    incidents: VecDeque<Incident>,
    open: Option<Open>,
    /// When the latest incident was taken over from an earlier life, monotonic nanoseconds: it goes on
    /// if its attack does.
    suspended_ns: Option<u64>,
    number: u64,
}

impl Machine {
    /// Returns the incidents, oldest first.
    pub fn incidents(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.incidents.iter()
    }

    /// Returns whether a class belongs to the open incident.
    pub fn holds(&self, class: TrafficClass) -> bool {
        self.open.as_ref().is_some_and(|open| open.classes.contains_key(&class))
    }

    /// Returns whether an incident is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Returns when the open incident opened.
    pub fn opened_ns(&self) -> Option<u64> {
        self.open.as_ref().and(self.incidents.back()).map(|incident| incident.opened.mono_ns)
    }

    /// Returns the open incident and what it is about.
    pub fn current(&mut self) -> Option<Current<'_>> {
        let (open, incident) = (self.open.as_ref()?, self.incidents.back_mut()?);
        Some(Current { incident, classes: &open.classes, focus: open.focus })
    }

    /// Returns an incident by its id.
    pub fn find(&mut self, id: &str) -> Option<&mut Incident> {
        self.incidents.iter_mut().rev().find(|incident| incident.id == id)
    }

    /// Takes over what an earlier life of the daemon knew. The incident that was open goes on if the
    /// attack does.
    pub fn remember(&mut self, incidents: Vec<Incident>, now: Now) {
        let count = incidents.len();
        for (i, mut incident) in incidents.into_iter().enumerate() {
            end_rules(&mut incident);
            if incident.is_open() {
                let told = || incident.timeline.last().map_or(incident.opened, |entry| entry.at);
                let at = incident.seen.unwrap_or_else(told);
                let away = now.unix_ms.saturating_sub(at.unix_ms);
                // On this boot: the clock of another says nothing.
                let goes_on = i + 1 == count && (0..=RESUMED_MS).contains(&away) && at.mono_ns <= now.mono_ns;
                if goes_on {
                    self.suspended_ns = Some(now.mono_ns);
                    note(&mut incident, now, "the daemon was started anew while this was open".to_owned());
                } else {
                    incident.closed = Some(at);
                    note(&mut incident, at, "the daemon stopped while this was open".to_owned());
                }
            }
            // Ids of one second differ by their number, over restarts too.
            self.number += 1;
            self.keep(incident);
        }
    }

    /// Goes on with the incident of an earlier life, if the findings are about the same; closes it
    /// otherwise.
    fn resume(&mut self, now: Now, findings: &[Finding]) -> Option<Event> {
        self.suspended_ns.take()?;
        let incident = self.incidents.back_mut()?;
        if !findings.iter().any(|finding| incident.vectors.contains(&finding.vector)) {
            return Some(self.close(now, "over: it had ended when the daemon was back"));
        }
        let what = "goes on after a restart of the daemon".to_owned();
        note(incident, now, what.clone());
        let id = incident.id.clone();
        Some(Event::Changed { id, what })
    }

    fn keep(&mut self, incident: Incident) {
        self.incidents.push_back(incident);
        if self.incidents.len() > KEPT {
            self.incidents.pop_front();
        }
    }

    /// Takes in findings that are strong enough to act on. Opens an incident where none is; about
    /// one address where `focus` names it.
    pub fn confirm(
        &mut self,
        now: Now,
        findings: &[Finding],
        excess: &[Excess],
        trusted: bool,
        focus: Option<IpAddr>,
    ) -> Vec<Event> {
        let Some(first) = findings.first() else { return Vec::new() };
        let mut events = Vec::new();
        if self.open.is_none() {
            let resumed = self.resume(now, findings);
            if !matches!(resumed, Some(Event::Changed { .. })) {
                self.number += 1;
                let incident = begin(self.number, now, first, excess);
                events.push(Event::Opened { id: incident.id.clone() });
                self.keep(incident);
            }
            events.extend(resumed);
            self.open = Some(Open {
                support: BTreeMap::new(),
                classes: BTreeMap::new(),
                focus,
                trusted,
                confirmed_ns: now.mono_ns,
                quiet_ns: None,
                hold_ns: HOLD_NS,
            });
        }
        let (Some(open), Some(incident)) = (&mut self.open, self.incidents.back_mut()) else { return events };
        open.confirmed_ns = now.mono_ns;
        // What the classes show is more than one address' affair.
        open.focus = open.focus.and(focus);
        for finding in findings {
            open.support(finding);
            for name in &finding.evidence.classes {
                let Some(class) = TrafficClass::from_name(name) else { continue };
                let metric = finding.evidence.metric.unwrap_or(Metric::Pps);
                let held = open.classes.entry(class).or_insert(metric);
                // What needs no rate is not over when the rate falls.
                if metric == Metric::Structure {
                    *held = metric;
                }
            }
        }
        if let Some(what) = open.rename(incident) {
            note(incident, now, what.clone());
            if events.is_empty() {
                events.push(Event::Changed { id: incident.id.clone(), what });
            }
        }
        events
    }

    /// Takes in what patterns say of the packets of the open incident; of another, it comes too late.
    pub fn name_tool(&mut self, now: Now, id: &str, named: Option<Named>) -> Vec<Event> {
        let open = self.open.as_ref().and(self.incidents.back_mut());
        let Some(incident) = open.filter(|incident| incident.id == id) else { return Vec::new() };
        let before = std::mem::replace(&mut incident.named, named);
        incident.tool = tool_of(incident);
        let name = |named: &Option<Named>| named.as_ref().map(|named| (named.tool.clone(), named.pattern.clone()));
        if name(&before) == name(&incident.named) {
            return Vec::new();
        }
        let what = match &incident.named {
            Some(named) => format!("looks like {}: {}", named.tool, named.words()),
            None => "does not look like one tool's any more: no pattern matches most of it".to_owned(),
        };
        note(incident, now, what.clone());
        vec![Event::Changed { id: incident.id.clone(), what }]
    }

    /// Follows the rates, and closes the incident when it is over.
    pub fn on_tick(&mut self, tick: &Tick<'_>, known: &Known<'_>) -> Vec<Event> {
        let waits = |since| tick.now.mono_ns.saturating_sub(since) < UNCONFIRMED_NS;
        if self.suspended_ns.is_some_and(|since| !waits(since)) {
            self.suspended_ns = None;
            return vec![self.close(tick.now, "over: it had ended when the daemon was back")];
        }
        let (Some(open), Some(incident)) = (&mut self.open, self.incidents.back_mut()) else { return Vec::new() };
        let now = tick.now;
        let mut events = open.measure(incident, tick, known);
        let quiet = open.is_quiet(incident, now, known);
        match (quiet, open.quiet_ns) {
            (true, None) => {
                open.quiet_ns = Some(now.mono_ns);
                incident.quiet_since = Some(now);
            }
            (false, Some(since)) => {
                let pause = now.mono_ns.saturating_sub(since);
                if pause >= PAUSE_NS {
                    open.hold_ns = open.hold_ns.max((pause * 5 / 2).min(LONGEST_HOLD_NS));
                    note(incident, now, format!("came back after {:.1} s", pause as f64 / 1e9));
                }
                open.quiet_ns = None;
                incident.quiet_since = None;
            }
            _ => {}
        }
        let over = open.quiet_ns.is_some_and(|since| now.mono_ns.saturating_sub(since) >= open.hold_ns);
        let unconfirmed = now.mono_ns.saturating_sub(open.confirmed_ns) >= UNCONFIRMED_NS;
        if over || unconfirmed {
            let why = if over { "over: below the exit threshold" } else { "over: what remains looks ordinary" };
            events.push(self.close(now, why));
        }
        events
    }

    /// Closes the open incident, if there is one.
    pub fn close_open(&mut self, now: Now, why: &str) -> Option<Event> {
        self.open.is_some().then(|| self.close(now, why))
    }

    fn close(&mut self, now: Now, why: &str) -> Event {
        let open = self.open.take();
        let Some(incident) = self.incidents.back_mut() else { return Event::Notice { what: why.to_owned() } };
        // What was only a first guess goes; where there was nothing else, it stays.
        if let Some(mut open) = open
            && open.support.values().any(|support| support.established)
        {
            open.support.retain(|_, support| support.established);
            open.rename(incident);
        }
        incident.closed = Some(now);
        (incident.pps, incident.bps) = (0.0, 0.0);
        note(incident, now, why.to_owned());
        Event::Closed { id: incident.id.clone() }
    }

    /// Records an attack that had ended before it was certain.
    pub fn in_hindsight(&mut self, now: Now, began: Now, finding: &Finding, peak: (f64, f64)) -> Vec<Event> {
        let mut events = self.confirm(now, std::slice::from_ref(finding), &[], false, None);
        if let Some(incident) = self.incidents.back_mut() {
            incident.began = began;
            if let Some(first) = incident.timeline.first_mut() {
                first.at = began;
            }
            (incident.peak_pps, incident.peak_bps) = peak;
        }
        events.extend(self.close_open(now, "had been going on since before the start, and was named when it ended"));
        events
    }
}

/// Returns the tool that an incident's packets look like: patterns know more of it than the findings.
fn tool_of(incident: &Incident) -> Option<String> {
    let named = incident.named.as_ref().map(|named| named.tool.clone());
    named.or_else(|| incident.findings.iter().find_map(|finding| finding.tool.clone()))
}

/// Says of rules that the daemon before this one had that they are no longer kept: what still holds
/// of them ends by itself.
fn end_rules(incident: &mut Incident) {
    for rule in incident.rules.iter_mut().filter(|rule| matches!(rule.state, Phase::Shadow | Phase::Enforcing)) {
        if rule.state == Phase::Enforcing {
            rule.reason = format!("{}; {RESTARTED}", rule.reason);
        }
        rule.state = Phase::Ended;
    }
}

/// What is said of a rule that was in force when the daemon ended.
pub const RESTARTED: &str = "in force when the daemon was started anew";

impl Open {
    fn support(&mut self, finding: &Finding) {
        let evidence = &finding.evidence;
        // Bytes count like packets of 500 bytes: amplifications are few and large.
        let weight = finding.confidence * (evidence.pps + evidence.bps / 4000.0).max(1.0);
        let support = self.support.entry(finding.vector).or_insert_with(|| Support {
            weight: 0.0,
            times: 0,
            established: false,
            finding: finding.clone(),
        });
        support.weight += weight;
        support.times += 1;
        if finding.confidence >= support.finding.confidence {
            support.finding = finding.clone();
        }
    }

    /// Works out what the incident is called. Returns what changed, in words.
    fn rename(&mut self, incident: &mut Incident) -> Option<String> {
        let carpet = self.support.contains_key(&Vector::CarpetBombing);
        let total: f64 =
            self.support.iter().filter(|(vector, _)| **vector != Vector::CarpetBombing).map(|(_, s)| s.weight).sum();
        let mut names: Vec<(f64, Vector)> = Vec::new();
        for (vector, support) in &mut self.support {
            let share = if *vector == Vector::CarpetBombing { 1.0 } else { support.weight / total.max(1e-9) };
            support.established |= support.times >= ESTABLISHED && share >= SHARE;
            if support.established || share >= SHARE {
                names.push((support.weight, *vector));
            }
        }
        names.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut vectors: Vec<Vector> = names.into_iter().map(|(_, vector)| vector).collect();
        if let Some(at) = vectors.iter().position(|vector| *vector == Vector::CarpetBombing) {
            let carpet = vectors.remove(at);
            vectors.insert(0, carpet);
        }
        let plain = vectors.len() - usize::from(carpet);
        let first = vectors.first().copied()?;
        incident.vector = if carpet || plain < 2 { first } else { Vector::MultiVector };
        let findings = vectors.iter().filter_map(|vector| self.support.get(vector));
        incident.findings = findings.map(|support| support.finding.clone()).collect();
        let sure = incident.findings.iter().map(|finding| finding.confidence);
        incident.confidence = sure.fold(0.0, f64::max);
        incident.tool = tool_of(incident);
        let before = std::mem::replace(&mut incident.vectors, vectors);
        let same = before.len() == incident.vectors.len() && before.iter().all(|v| incident.vectors.contains(v));
        let names: Vec<&str> = incident.vectors.iter().map(|vector| vector.as_str()).collect();
        (!same && !before.is_empty()).then(|| format!("is now {}", names.join(", ")))
    }

    /// Returns packets and bytes of the tick, and packets and bits per second of the last second.
    fn rates(&self, tick: &Tick<'_>, known: &Known<'_>, seconds: f64) -> (u64, u64, f64, f64) {
        if let Some(address) = self.focus {
            let (pps, bps, _) = known.destinations.rates(address);
            return ((pps * seconds) as u64, (bps * seconds / 8.0) as u64, pps, bps);
        }
        let (mut packets, mut bytes, mut pps, mut bps) = (0, 0, 0.0, 0.0);
        for class in self.classes.keys() {
            let count = tick.counts.of(*class);
            let (class_pps, class_bps) = known.detector.rates(*class);
            packets += count.packets;
            bytes += count.bytes;
            pps += class_pps;
            bps += class_bps;
        }
        (packets, bytes, pps, bps)
    }

    fn measure(&mut self, incident: &mut Incident, tick: &Tick<'_>, known: &Known<'_>) -> Vec<Event> {
        let seconds = (tick.elapsed_ns as f64 / 1e9).max(1e-3);
        let (packets, bytes, pps, bps) = self.rates(tick, known, seconds);
        incident.seen = Some(tick.now);
        incident.packets += packets;
        incident.bytes += bytes;
        (incident.pps, incident.bps) = (pps, bps);
        incident.peak_pps = incident.peak_pps.max(packets as f64 / seconds);
        incident.peak_bps = incident.peak_bps.max(bytes as f64 * 8.0 / seconds);
        let faded = libm::pow(FADE, seconds);
        self.support.values_mut().for_each(|support| support.weight *= faded);
        let severity = severity(incident);
        if severity <= incident.severity {
            return Vec::new();
        }
        incident.severity = severity;
        let what = format!("severity is now {}", severity.as_str());
        note(incident, tick.now, what.clone());
        vec![Event::Changed { id: incident.id.clone(), what }]
    }

    fn is_quiet(&self, incident: &mut Incident, now: Now, known: &Known<'_>) -> bool {
        if let Some(address) = self.focus {
            let (pps, _, exit) = known.destinations.rates(address);
            incident.exit_threshold = exit;
            return pps < exit;
        }
        let mut quiet = true;
        let mut exit_sum = 0.0;
        for (class, metric) in &self.classes {
            if *metric == Metric::Structure {
                // It has no rate: it is over when it was not found again for two seconds.
                quiet &= now.mono_ns.saturating_sub(self.confirmed_ns) > 2_000_000_000;
                continue;
            }
            let limits = limits(known.baselines, *class, *metric, self.trusted);
            let exit = limits.baseline + (limits.threshold - limits.baseline) * EXIT;
            let (pps, bps) = known.detector.rates(*class);
            quiet &= if *metric == Metric::Bps { bps } else { pps } < exit;
            if *metric == incident.metric {
                exit_sum += exit;
            }
        }
        incident.exit_threshold = exit_sum;
        quiet
    }
}

fn begin(number: u64, now: Now, first: &Finding, excess: &[Excess]) -> Incident {
    let evidence = &first.evidence;
    let of_finding = |excess: &&Excess| evidence.classes.iter().any(|name| name == excess.class.as_str());
    let since = excess.iter().filter(of_finding).map(|excess| excess.since_ns).min().unwrap_or(now.mono_ns);
    let ago = now.mono_ns.saturating_sub(since);
    let began = Now { mono_ns: since, unix_ms: now.unix_ms - i64::try_from(ago / 1_000_000).unwrap_or(0) };
    let id = format!("{}-{number}", stamp(now.unix_ms));
    let mut incident = Incident {
        // Judged with the first findings, as it is again with those that follow.
        vectors: Vec::new(),
        confidence: first.confidence,
        tool: first.tool.clone(),
        metric: evidence.metric.unwrap_or(Metric::Pps),
        pps: evidence.pps,
        bps: evidence.bps,
        packets: evidence.packets,
        bytes: evidence.bytes,
        timeline: vec![Entry { at: began, what: "the excess began".to_owned() }],
        ..Incident::new(id, first.vector, began, now)
    };
    note(&mut incident, now, format!("opened as {}: {}", first.vector.as_str(), evidence.line));
    incident
}

fn severity(incident: &Incident) -> Severity {
    let (pps, bps) = (incident.peak_pps, incident.peak_bps);
    let baseline = incident.findings.first().map_or(0.0, |finding| match finding.evidence.metric {
        Some(Metric::Pps) => finding.evidence.baseline,
        _ => 0.0,
    });
    match () {
        () if pps >= 5e5 || bps >= 5e9 => Severity::Critical,
        () if pps >= 5e4 || bps >= 5e8 => Severity::High,
        () if pps >= 1e4 || bps >= 1e8 || (baseline > 0.0 && pps >= 5.0 * baseline) => Severity::Medium,
        () => Severity::Low,
    }
}

/// Writes a line into the timeline of an incident.
pub(super) fn note(incident: &mut Incident, at: Now, what: String) {
    incident.timeline.push(Entry { at, what });
    if incident.timeline.len() > ENTRIES {
        incident.timeline.remove(2);
    }
}

/// Writes a time as `20261122T034501Z`.
fn stamp(unix_ms: i64) -> String {
    let (days, ms) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Returns the date of a day since 1970, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the leap day is the last; eras are 400 years long.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests;
