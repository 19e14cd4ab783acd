//! From what is written of `[alerts]` to what is valid.

use std::{collections::BTreeSet, time::Duration};

use super::{AlertSink, Alerts, Maintenance, Window, sink::Needs};
use crate::{
    alert::{Kind, template},
    config::{
        Problem,
        check::{DAY, SECOND, bytes, duration, number},
        raw::{RawAlertSink, RawAlerts, RawMaintenance},
    },
    decide::{Severity, Vector},
};

type Problems = Vec<Problem>;

/// Sinks at most: each has a thread.
const MOST_SINKS: usize = 32;
/// The names of days, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
pub(in crate::config) fn checked(raw: &RawAlerts, problems: &mut Problems) -> Alerts {
    let mut time = |key: &str, text: &str, least: Duration, most: Duration| {
        duration(&format!("alerts.{key}"), text, least..=most, problems).unwrap_or(least)
    };
    let millisecond = Duration::from_millis(1);
    let changed_interval = time("changed_interval", &raw.changed_interval, SECOND, DAY);
    let trouble_after = time("trouble_after", &raw.trouble_after, Duration::ZERO, DAY);
    let give_up_after = time("give_up_after", &raw.give_up_after, SECOND, 30 * DAY);
    let retry_first = time("retry_first", &raw.retry_first, millisecond, DAY);
    let retry_longest = time("retry_longest", &raw.retry_longest, retry_first, DAY);
    if raw.sinks.len() > MOST_SINKS {
        let what = format!("has {} sinks", raw.sinks.len());
        problems.push(Problem::new("alerts.sinks", what, format!("write at most {MOST_SINKS}")));
    }
    if !raw.link.is_empty() && !is_url(&raw.link) {
        let what = format!("\"{}\" is not an address", raw.link);
        problems.push(Problem::new("alerts.link", what, "write it as \"https://noc.example.net/ftagent/{incident}\""));
    }
    if raw.node.chars().any(|c| c.is_control() || c.is_whitespace()) || raw.node.len() > 255 {
        let what = "cannot be the name of a machine";
        problems.push(Problem::new("alerts.node", what, "write it as \"edge1.example.net\", or leave it out"));
    }
    let sinks = raw.sinks.iter().enumerate().filter_map(|(i, _)| sink(&raw.sinks, i, problems)).collect();
    Alerts {
        node: raw.node.clone(),
        link: raw.link.clone(),
        changed_interval,
        storm: number("alerts.storm", raw.storm, 0, 1000, problems),
        trouble_after,
        give_up_after,
        retry_first,
        retry_longest,
        max_entries: number("alerts.max_entries", raw.max_entries, 100, 1_000_000, problems) as usize,
        max_bytes: bytes("alerts.max_bytes", &raw.max_bytes, 1 << 20..=1 << 34, problems),
        sinks,
        maintenance: maintenance(raw, problems),
    }
}

pub(super) fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '"')
}

fn sink(all: &[RawAlertSink], i: usize, problems: &mut Problems) -> Option<AlertSink> {
    let raw = all.get(i)?;
    let at = |key: &str| format!("alerts.sinks[{i}].{key}");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if raw.name.is_empty() || raw.name.len() > 64 || !raw.name.chars().all(plain) {
        let what = format!("\"{}\" is not a name", raw.name);
        problems.push(Problem::new(at("name"), what, "use 1 to 64 of the characters a-z, 0-9, \"_\" and \"-\""));
    } else if all.iter().take(i).any(|other| other.name == raw.name) {
        let what = format!("\"{}\" is the name of another sink", raw.name);
        problems.push(Problem::new(at("name"), what, "give every sink a name of its own"));
    }
    for (key, template) in [("title", &raw.title), ("text", &raw.text)] {
        if let Err((what, remedy)) = template::check(template) {
            problems.push(Problem::new(at(key), what, remedy));
        }
    }
    let severity = named(&at("severity"), &raw.severity, &SEVERITIES, problems).unwrap_or(Severity::Low);
    let vectors: Vec<(&str, Vector)> = Vector::ALL.iter().map(|vector| (vector.as_str(), *vector)).collect();
    let vectors = each(&at("vectors"), &raw.vectors, &vectors, problems);
    let events = each(&at("events"), &raw.events, &Kind::EVENTS.map(|kind| (kind.as_str(), kind)), problems);
    let rate = number(&at("rate_per_minute"), raw.rate_per_minute, 0, 60_000, problems);
    let timeout = duration(&at("timeout"), &raw.timeout, SECOND..=60 * SECOND, problems).unwrap_or(SECOND);
    if !raw.ca_file.is_empty() && !raw.ca_file.starts_with('/') {
        let what = format!("\"{}\" is not an absolute path", raw.ca_file);
        problems.push(Problem::new(at("ca_file"), what, "start it with \"/\""));
    }
    let mut needs = Needs { raw, i, problems, used: BTreeSet::new() };
    let target = needs.target();
    needs.rest();
    Some(AlertSink {
        name: raw.name.clone(),
        target: target?,
        severity,
        vectors,
        events,
        title: raw.title.clone(),
        text: raw.text.clone(),
        rate_per_minute: (rate > 0).then_some(rate),
        timeout,
        ca_file: (!raw.ca_file.is_empty()).then(|| raw.ca_file.clone().into()),
    })
}

const SEVERITIES: [(&str, Severity); 5] = [
    ("info", Severity::Info),
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

/// Returns what a name stands for.
pub(super) fn named<T: Copy>(path: &str, name: &str, known: &[(&str, T)], problems: &mut Problems) -> Option<T> {
    let found = known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    if found.is_none() {
        let score = |known: &str| strsim::normalized_damerau_levenshtein(known, name);
        let best = known.iter().map(|(known, _)| (score(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
        let remedy = match best {
            Some((score, known)) if score >= 0.5 => format!("did you mean \"{known}\"?"),
            _ => format!("write one of {}", known.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ")),
        };
        problems.push(Problem::new(path, format!("\"{name}\" is not known"), remedy));
    }
    found
}

fn each<T: Copy + Ord>(path: &str, names: &[String], known: &[(&str, T)], problems: &mut Problems) -> BTreeSet<T> {
    let one = |(i, name): (usize, &String)| named(&format!("{path}[{i}]"), name, known, problems);
    names.iter().enumerate().filter_map(one).collect()
}

fn maintenance(raw: &RawAlerts, problems: &mut Problems) -> Vec<Maintenance> {
    let mut windows = Vec::new();
    for (i, RawMaintenance { from, to, days, sinks }) in raw.maintenance.iter().enumerate() {
        let at = |key: &str| format!("alerts.maintenance[{i}].{key}");
        for sink in sinks.iter().filter(|sink| !raw.sinks.iter().any(|known| known.name == **sink)) {
            let remedy = "name one of `[[alerts.sinks]]`, or leave it out for all";
            problems.push(Problem::new(at("sinks"), format!("\"{sink}\" is no sink"), remedy));
        }
        match window(from, to, days) {
            Ok(when) => windows.push(Maintenance { sinks: sinks.iter().cloned().collect(), when }),
            Err((key, what)) => {
                let remedy = "write times as \"22:00\" (UTC) for every week, or as \"2026-12-01T22:00:00Z\" for once";
                problems.push(Problem::new(at(key), what, remedy));
            }
        }
    }
    windows
}

fn window(from: &str, to: &str, days: &[String]) -> Result<Window, (&'static str, String)> {
    if let (Some(from), Some(to)) = (minutes(from), minutes(to)) {
        let mut set = BTreeSet::new();
        for name in days {
            let day = DAYS.iter().position(|day| day == name).and_then(|day| u8::try_from(day).ok());
            set.insert(day.ok_or_else(|| ("days", format!("\"{name}\" is no day: {}", DAYS.join(", "))))?);
        }
        if set.is_empty() {
            set.extend(0..7);
        }
        return Ok(Window::Weekly { days: set, from, to });
    }
    let unix_ms = |key, text: &str| {
        let time = humantime::parse_rfc3339(text).map_err(|_| (key, format!("\"{text}\" is not a time")))?;
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    };
    let (from, to) = (unix_ms("from", from)?, unix_ms("to", to)?);
    match (from < to, days.is_empty()) {
        (false, _) => Err(("to", "is not after `from`".to_owned())),
        (_, false) => Err(("days", "has no meaning for a window with dates".to_owned())),
        _ => Ok(Window::Once(from, to)),
    }
}

/// Reads `22:00`.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_when_they_say() {
        let at = |text: &str| {
            let time = humantime::parse_rfc3339(text).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(time.as_millis()).unwrap()
        };
        let days = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        // 2026-08-01 is a Saturday.
        let cases = [
            ("22:00", "02:00", days(&["sat"]), "2026-08-01T23:00:00Z", true),
            ("22:00", "02:00", days(&["sat"]), "2026-08-02T01:59:59Z", true),
            ("22:00", "02:00", days(&["sat"]), "2026-08-02T02:00:00Z", false),
            ("22:00", "02:00", days(&["sat"]), "2026-08-02T23:00:00Z", false),
            ("22:00", "02:00", days(&["sat"]), "2026-08-01T01:00:00Z", false),
            ("09:00", "17:30", days(&["mon", "tue"]), "2026-08-03T17:29:00Z", true),
            ("09:00", "17:30", days(&["mon", "tue"]), "2026-08-05T10:00:00Z", false),
            ("00:00", "00:00", days(&[]), "2026-08-05T10:00:00Z", true),
            ("2026-08-01T00:00:00Z", "2026-08-02T00:00:00Z", days(&[]), "2026-08-01T12:00:00Z", true),
            ("2026-08-01T00:00:00Z", "2026-08-02T00:00:00Z", days(&[]), "2026-08-02T00:00:00Z", false),
        ];
        for (from, to, days, when, wanted) in cases {
            assert_eq!(window(from, to, &days).unwrap().holds(at(when)), wanted, "{from} to {to} {days:?} at {when}");
        }
        assert_eq!(window("22:00", "24:00", &[]).unwrap_err().0, "from");
        assert_eq!(window("22:00", "23:00", &days(&["sunday"])).unwrap_err().0, "days");
        assert_eq!(window("2026-08-02T00:00:00Z", "2026-08-01T00:00:00Z", &[]).unwrap_err().0, "to");
    }
}
