//! `ftagent incidents`: what attacks there were, and why it is thought that they were.

mod show;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    Cli,
    baseline::learning_text,
    client::call,
    plot::Screen,
    text::{ago, aligned, harmless, percent, rate, span, utc},
};
use crate::{
    decide::{Incident, Metric, Now, Severity, incident::Entry},
    serve::protocol::{Incidents, Request},
};

/// Notices that the list shows at most.
const NOTICES: usize = 10;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show everything that is known of one incident.
    Show {
        /// Its id, the beginning or end of it, or `last`.
        #[arg(value_name = "ID|last", allow_negative_numbers = true)]
        id: String,
    },
}

/// Shows them.
///
/// # Errors
/// Where no daemon answers, and where there is no such incident.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    let id = args.command.as_ref().map(|Command::Show { id }| id.clone());
    let one = id.is_some();
    let mut answer = call(cli, &Request::Incidents { id })?;
    if cli.json {
        let value = if one { answer.pointer_mut("/incidents/0").map(Value::take) } else { Some(answer) };
        println!("{}", value.context("the daemon named no incident")?);
        return Ok(ExitCode::SUCCESS);
    }
    let answer: Incidents =
        serde_json::from_value(answer).context("the daemon is of another version than this command")?;
    match answer.incidents.first().filter(|_| one) {
        Some(incident) => print!("{}", show::render(incident, answer.now_ms, Screen::of_stdout())),
        None => print!("{}", list(&answer)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays incidents and notices out for a terminal, newest last.
fn list(answer: &Incidents) -> String {
    let mut text = String::new();
    if answer.incidents.is_empty() {
        text.push_str(&format!("There was no incident yet.\n{}\n", learning_text(&answer.learning)));
    } else {
        let rows: Vec<Vec<String>> = answer.incidents.iter().map(|incident| row(incident, answer.now_ms)).collect();
        let header = ["id", "opened", "lasted", "vector", "severity", "sure", "peak", "peak"];
        text.push_str(&aligned(&header, &rows, &[0, 1, 2, 3, 4]));
        if answer.learning.state == "new" {
            text.push_str(&format!("{}\n", learning_text(&answer.learning)));
        }
    }
    let left_out = answer.notices.len().saturating_sub(NOTICES);
    if left_out < answer.notices.len() {
        text.push_str(&format!("notices{}\n", if left_out > 0 { " (the latest)" } else { "" }));
    }
    answer.notices.iter().skip(left_out).for_each(|notice| text.push_str(&notice_text(notice, answer.now_ms)));
    text
}

fn row(incident: &Incident, now_ms: i64) -> Vec<String> {
    vec![
        incident.id.clone(),
        format!("{}, {}", utc(incident.opened.unix_ms), ago(now_ms, incident.opened.unix_ms)),
        lasted(incident, now_ms),
        vectors(incident),
        incident.severity.as_str().to_owned(),
        percent(incident.confidence),
        rate(incident.peak_pps, Metric::Pps),
        rate(incident.peak_bps, Metric::Bps),
    ]
}

/// Writes a notice on a line of its own.
pub fn notice_text(notice: &Entry, now_ms: i64) -> String {
    let at = notice.at.unix_ms;
    format!("  {} ({})  {}\n", utc(at), ago(now_ms, at), harmless(&notice.what))
}

/// Names an incident by its vectors: `multi_vector (syn_flood, udp_flood)`.
fn vectors(incident: &Incident) -> String {
    let parts = incident.vectors.iter().filter(|vector| **vector != incident.vector);
    let parts: Vec<&str> = parts.map(|vector| vector.as_str()).collect();
    match parts.as_slice() {
        [] => incident.vector.as_str().to_owned(),
        _ => format!("{} ({})", incident.vector.as_str(), parts.join(", ")),
    }
}

fn lasted(incident: &Incident, now_ms: i64) -> String {
    match incident.closed {
        Some(closed) => span(between(incident.opened, closed)),
        None => format!("open {}", span(now_ms.saturating_sub(incident.opened.unix_ms))),
    }
}

/// Returns the milliseconds between two instants. A clock that steps in between changes nothing,
/// except where the machine started in between and the other clock began anew.
fn between(from: Now, to: Now) -> i64 {
    match to.mono_ns.checked_sub(from.mono_ns) {
        Some(ns) => i64::try_from(ns / 1_000_000).unwrap_or(i64::MAX),
        None => to.unix_ms.saturating_sub(from.unix_ms).max(0),
    }
}

/// Tells an open incident in one line, for `ftagent status`.
pub fn alarm(incident: &Incident, now_ms: i64) -> String {
    let word = if incident.severity == Severity::Info { "NOTE" } else { "ATTACK" };
    let quiet = incident
        .quiet_since
        .map_or(String::new(), |since| format!(", quiet for {}", span(now_ms.saturating_sub(since.unix_ms))));
    let named = incident.named.as_ref().map_or(String::new(), |named| format!(", looks like {}", named.tool));
    format!(
        "{word}: {}, {}{named}, for {}{quiet}: {}, {} (peak {}, {}): `ftagent incidents show {}`\n",
        vectors(incident),
        incident.severity.as_str(),
        span(now_ms.saturating_sub(incident.opened.unix_ms)),
        rate(incident.pps, Metric::Pps),
        rate(incident.bps, Metric::Bps),
        rate(incident.peak_pps, Metric::Pps),
        rate(incident.peak_bps, Metric::Bps),
        incident.id,
    )
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::decide::{
        Vector,
        baseline::Learning,
        classify::{Evidence, Finding, Share},
    };

    /// 2026-08-01 12:00:00 UTC.
    pub const NOON: i64 = 1_785_585_600_000;

    pub fn at(ms: i64) -> Now {
        Now { mono_ns: u64::try_from(1_000_000 + ms).unwrap() * 1_000_000, unix_ms: NOON + ms }
    }

    fn share(value: &str, share: f64) -> Share {
        Share { value: value.to_owned(), share }
    }

    fn evidence() -> Evidence {
        Evidence {
            classes: vec!["tcp_syn".to_owned()],
            metric: Some(Metric::Pps),
            window_ms: 100,
            packets: 4821,
            bytes: 308_544,
            pps: 48_210.0,
            bps: 24_683_520.0,
            baseline: 310.0,
            spread: 40.0,
            threshold: 620.0,
            samples: 1204,
            sources: 1197,
            destinations: 1,
            seen_before: Some(0.0),
            source_entropy: 0.994,
            handshakes_completed: Some(0.02),
            handshakes_normal: Some(0.97),
            answered: None,
            top_sources: vec![share("198.18.0.0/16", 0.6), share("203.0.113.7/32", 0.12)],
            destination_ports: vec![share("443", 0.999)],
            payloads: vec![share("474554202f20", 0.4), share("00ff", 0.1)],
            constant: vec!["ttl 64".to_owned(), "window 512".to_owned()],
            line: "tcp_syn 48 210 pps against a learned 310±40, handshakes completed 2 % (normal 97 %)".to_owned(),
            ..Evidence::default()
        }
    }

    pub fn incident() -> Incident {
        let finding = Finding {
            vector: Vector::SynFlood,
            confidence: 0.97,
            tool: Some("hping3".to_owned()),
            evidence: evidence(),
        };
        Incident {
            confidence: 0.97,
            severity: Severity::High,
            tool: Some("hping3".to_owned()),
            exit_threshold: 500.0,
            pps: 48_210.0,
            bps: 24_683_520.0,
            peak_pps: 60_000.0,
            peak_bps: 30_720_000.0,
            packets: 3_480_000,
            bytes: 222_720_000,
            findings: vec![finding],
            timeline: vec![
                Entry { at: at(0), what: "opened as syn_flood".to_owned() },
                Entry { at: at(4_200), what: "severity rose to high".to_owned() },
            ],
            ..Incident::new("20260801T120000Z-1".to_owned(), Vector::SynFlood, at(-200), at(0))
        }
    }

    fn answer(incidents: Vec<Incident>, notices: Vec<Entry>, state: &str) -> Incidents {
        let learning = Learning { state: state.to_owned(), learned_s: 60, trust_after_s: 600, bound: String::new() };
        Incidents { now_ms: NOON + 72_000, learning, incidents, notices }
    }

    #[test]
    fn the_list_has_the_newest_last() {
        let closed = Incident {
            id: "20260801T115000Z-0".to_owned(),
            vector: Vector::MultiVector,
            vectors: vec![Vector::NtpAmplification, Vector::UdpFlood],
            opened: at(-600_000),
            closed: Some(at(-348_000)),
            severity: Severity::Low,
            ..incident()
        };
        let wanted = [
            "  id                  opened                               lasted          vector                                     severity  sure     peak         peak",
            "  20260801T115000Z-0  2026-08-01 11:50:00 UTC, 11 min ago  4 min 12 s      multi_vector (ntp_amplification, udp_flood)  low       97 %  60.0 kpps  30.7 Mbit/s",
            "  20260801T120000Z-1  2026-08-01 12:00:00 UTC, 1 min ago   open 1 min 12 s  syn_flood                                  high      97 %  60.0 kpps  30.7 Mbit/s",
        ];
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = list(&answer(vec![closed, incident()], Vec::new(), "learned"));
        let lines: Vec<String> = text.lines().map(squeezed).collect();
        assert_eq!(lines, wanted.map(squeezed));
        // Columns start at one place.
        let column = |name: &str| text.lines().map(|line| line.find(name)).collect::<Vec<_>>();
        assert_eq!(column("97 %")[1], column("97 %")[2], "{text}");
    }

    #[test]
    fn an_empty_list_says_so_and_how_much_is_known() {
        let notice = |ms, what: &str| Entry { at: at(ms), what: what.to_owned() };
        let notices = (0..12).map(|i| notice(i * 1000, &format!("notice {i}"))).collect();
        let text = list(&answer(Vec::new(), notices, "new"));
        assert!(text.starts_with("There was no incident yet.\nlearning: nothing is trusted yet"), "{text}");
        assert!(text.contains("notices (the latest)\n  2026-08-01 12:00:02 UTC (1 min ago)  notice 2\n"), "{text}");
        assert!(text.ends_with("notice 11\n") && !text.contains("notice 1\n"), "{text}");
        let text = list(&answer(Vec::new(), Vec::new(), "learned"));
        assert!(!text.contains("notices"), "{text}");
    }

    #[test]
    fn durations_survive_steps_of_the_clock_and_restarts_of_the_machine() {
        let now = |mono_s: u64, unix_s: i64| Now { mono_ns: mono_s * 1_000_000_000, unix_ms: unix_s * 1000 };
        assert_eq!(between(now(100, 5000), now(160, 1000)), 60_000);
        assert_eq!(between(now(100, 5000), now(20, 5300)), 300_000);
        assert_eq!(between(now(100, 5000), now(20, 4000)), 0);
    }

    #[test]
    fn the_alarm_is_one_line() {
        let now = NOON + 72_000;
        assert_eq!(
            alarm(&incident(), now),
            "ATTACK: syn_flood, high, for 1 min 12 s: 48.2 kpps, 24.7 Mbit/s (peak 60.0 kpps, 30.7 Mbit/s): \
             `ftagent incidents show 20260801T120000Z-1`\n"
        );
        let quiet = Incident { quiet_since: Some(at(60_000)), severity: Severity::Info, ..incident() };
        assert!(alarm(&quiet, now).starts_with("NOTE: syn_flood, info, for 1 min 12 s, quiet for 12 s: "));
    }
}
