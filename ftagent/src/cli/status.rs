//! `ftagent status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Cli,
    baseline::learning_text,
    client::ask,
    incidents::{alarm, notice_text},
    text::{ago, count, duration, harmless, several, si, size, table, utc},
};
use crate::{
    record::{audit::AuditStatus, recorder::status::CaptureStatus},
    serve::protocol::{GuardPort, GuardStatus, Interface, Request, Status, TripwireStatus},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show it again every so many seconds, until interrupted.
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<u64>,
}

/// Shows it.
///
/// # Errors
/// Where no daemon answers.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    loop {
        if cli.json {
            let status: serde_json::Value = ask(cli, &Request::Status)?;
            println!("{}", serde_json::to_string(&status)?);
        } else {
            let status: Status = ask(cli, &Request::Status)?;
            // Home and clear to the end: the table stands still while it changes.
            let clear = if args.watch.is_some() { "\x1b[H\x1b[J" } else { "" };
            print!("{clear}{}", render(&status));
        }
        match args.watch {
            Some(seconds) => std::thread::sleep(std::time::Duration::from_secs(seconds.max(1))),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Lays a status out for a terminal.
pub fn render(status: &Status) -> String {
    let mut text: String = status.incidents.iter().map(|incident| alarm(incident, status.now_ms)).collect();
    text.push_str(&format!(
        "ftagent {}  pid {}  up {}\nmitigation {}: {}\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        status.mitigation.mode,
        status.mitigation.state
    ));
    if let Some(learning) = &status.learning {
        text.push_str(&format!("{}\n", learning_text(learning)));
    }
    if let Some(guard) = &status.guard {
        text.push_str(&guard_text(guard, status.now_ms));
    }
    if let Some(tripwire) = &status.tripwire {
        text.push_str(&tripwire_text(tripwire));
    }
    if let Some(audit) = &status.audit {
        text.push_str(&audit_text(audit));
    }
    if let Some(capture) = &status.capture {
        text.push_str(&capture_text(capture, status.now_ms));
    }
    for line in &status.upstream {
        text.push_str(&harmless(&format!("upstream: {line}\n")));
    }
    for warning in &status.warnings {
        text.push_str(&format!("WARNING: {warning}\n"));
    }
    if !status.notices.is_empty() {
        text.push_str("notices of the last hour\n");
        status.notices.iter().for_each(|notice| text.push_str(&notice_text(notice, status.now_ms)));
    }
    let lists = &status.lists;
    text.push_str(&format!(
        "lists: {} blocked, {} allowed, {} from {} feeds and the configuration\n",
        count(lists.block as u64),
        count(lists.allow as u64),
        count(lists.feeds as u64),
        status.feeds.len()
    ));
    let samples = &status.samples;
    text.push_str(&format!("samples: {} written, {} lost\n", count(samples.written), count(samples.lost)));
    status.interfaces.iter().for_each(|interface| text.push_str(&interface_text(interface)));
    text
}

fn audit_text(audit: &AuditStatus) -> String {
    let unsigned = match audit.unsigned {
        0 => "all of them signed".to_owned(),
        lines => format!("{} not signed yet", count(lines)),
    };
    let grows = if audit.not_append_only.is_some() { ", files not append-only" } else { "" };
    format!("audit log: {}, {unsigned}, key {}{grows}\n", several(audit.seq, "line"), audit.key)
}

/// Ports that are named; of more there is a number.
const NAMED: usize = 6;

fn guard_text(guard: &GuardStatus, now_ms: i64) -> String {
    let mut text = match (guard.since_ms, guard.inherited_s) {
        (Some(since), _) => {
            let vectors: Vec<&str> = guard.vectors.iter().map(|vector| vector.as_str()).collect();
            format!("guard: ARMED since {} ({}) against {}\n", utc(since), ago(now_ms, since), vectors.join(", "))
        }
        (None, Some(left)) => format!("guard: ARMED by the daemon's earlier life, for {left} s more\n"),
        (None, None) => "guard: not armed\n".to_owned(),
    };
    let armed = [
        ("cookies answer SYNs to tcp ", names(guard.cookies.iter())),
        ("no socket, no packet on tcp ", names(guard.state.iter())),
        ("no socket, no packet on udp ", names(guard.closed.iter())),
    ];
    for (what, ports) in armed.iter().filter(|(_, ports)| !ports.is_empty()) {
        text.push_str(&format!("  {what}{ports}\n"));
    }
    let (may, may_not): (Vec<_>, Vec<_>) = guard.ports.iter().partition(|port| port.why_not.is_none());
    let name = |port: &GuardPort| format!("{} {}", port.transport, port.ports);
    match may.as_slice() {
        [] => text.push_str("  may be armed nowhere yet: too few packets in calm had a socket\n"),
        may => text.push_str(&format!("  may be armed for {}\n", names(may.iter().map(|port| name(port))))),
    }
    for port in may_not.iter().take(NAMED / 2) {
        text.push_str(&format!("  not for {}: {}\n", name(port), port.why_not.as_deref().unwrap_or_default()));
    }
    match may_not.len().saturating_sub(NAMED / 2) {
        0 => {}
        more => text.push_str(&format!("  not for {}: see `--json`\n", several(more as u64, "more port"))),
    }
    for why in guard.no_cookies.iter().map(|why| format!("  no cookies: {why}\n")) {
        text.push_str(&why);
    }
    text
}

fn tripwire_text(tripwire: &TripwireStatus) -> String {
    let thinned = match tripwire.thinned.iter() {
        none if none.len() == 0 => "none thinned".to_owned(),
        some => format!("thinned {}", names(some.map(|(class, pps)| format!("{class} to {}pps", si(*pps))))),
    };
    let policed = match tripwire.policed {
        1 => "1 class".to_owned(),
        more => format!("{more} classes"),
    };
    format!("tripwire: {policed} policed, {thinned}; {} since the start\n", several(tripwire.early_ticks, "early tick"))
}

fn capture_text(capture: &CaptureStatus, now_ms: i64) -> String {
    let memory = format!("the last {:.0} s in memory ({})", capture.ring_s, size(capture.ring_bytes));
    let lost = match capture.lost_ticks {
        0 => String::new(),
        ticks => format!("; too slow for {} since the start", several(ticks, "tick")),
    };
    let mut text = format!("recorder: {memory}, {} on disk{lost}\n", size(capture.disk_bytes));
    for recording in &capture.recordings {
        let what = recording.matches.as_ref().map_or(String::new(), |matches| format!(", `{matches}`"));
        let (packets, since) = (several(recording.packets, "packet"), ago(now_ms, recording.since_ms));
        text.push_str(&format!(
            "  RECORDING {}{what}: {packets}, {}, begun {since}\n",
            recording.id,
            size(recording.bytes)
        ));
    }
    harmless(&text)
}

/// Names some things, and counts the rest.
fn names(things: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let all = things.len();
    let mut names: Vec<String> = things.take(NAMED).map(|thing| thing.to_string()).collect();
    if all > NAMED {
        names.push(format!("{} more", all - NAMED));
    }
    names.join(", ")
}

fn interface_text(interface: &Interface) -> String {
    let mode = interface.mode.as_deref().unwrap_or("no XDP");
    let mut text = format!("\n{}  {mode}  {}\n", interface.name, interface.state);
    let row = |name: &str, values: [f64; 3], totals: [u64; 3]| {
        let rates = values.iter().map(|value| si(*value));
        let totals = totals.iter().map(|value| count(*value));
        std::iter::once(name.to_owned()).chain(rates).chain(totals).collect()
    };
    let mut rows: Vec<Vec<String>> = interface
        .classes
        .iter()
        .map(|class| {
            let totals = [class.packets, class.bytes, class.dropped_packets];
            row(&class.class, [class.pps, class.bps, class.dropped_pps], totals)
        })
        .collect();
    let totals = [interface.packets, interface.bytes, interface.dropped_packets];
    rows.push(row("all", [interface.pps, interface.bps, interface.dropped_pps], totals));
    let header = ["class", "packets/s", "bits/s", "dropped/s", "packets", "bytes", "dropped"];
    text.push_str(&table(&header, &rows));
    for reason in &interface.reasons {
        text.push_str(&format!("  dropped by {}: {}\n", reason.reason, count(reason.packets)));
    }
    if interface.sent_packets > 0 {
        text.push_str(&format!("  answered by the guard: {}\n", count(interface.sent_packets)));
    }
    if interface.overruled > 0 {
        text.push_str(&format!("  let pass by the allow list: {}\n", count(interface.overruled)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::incidents::tests::{NOON, at, incident},
        *,
    };
    use crate::decide::{
        Vector,
        baseline::Learning,
        guard::{Found, Ports, Transport},
        incident::Entry,
    };

    /// What daemons that detect nothing answer.
    fn older() -> Status {
        let status = json!({
            "version": "0.1.0", "pid": 42, "uptime_s": 90, "interfaces": [], "feeds": [],
            "mitigation": { "mode": "auto", "state": "lists drop" },
            "lists": { "block": 0, "allow": 0, "feeds": 0 },
            "samples": { "written": 10, "lost": 0, "capped": 0, "read": 10 },
            "warnings": ["eth1 is NOT protected: it is gone"],
        });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn attacks_come_before_everything() {
        let learning = Learning { state: "new".into(), learned_s: 12, trust_after_s: 600, bound: String::new() };
        let status = Status {
            now_ms: NOON + 72_000,
            learning: Some(learning),
            incidents: vec![incident()],
            notices: vec![Entry { at: at(60_000), what: "the ceiling of tcp_data doubled".to_owned() }],
            upstream: vec!["rtbh is in force upstream: black hole for 192.0.2.7/32".to_owned()],
            ..older()
        };
        let text = render(&status);
        let beginnings = [
            "ATTACK: syn_flood, high, for 1 min 12 s: 48.2 kpps",
            "ftagent 0.1.0  pid 42  up 1m 30s",
            "mitigation auto: lists drop",
            "learning: nothing is trusted yet; 9 min 48 s more",
            "upstream: rtbh is in force upstream: black hole for 192.0.2.7/32",
            "WARNING: eth1 is NOT protected",
            "notices of the last hour",
            "  2026-08-01 12:01:00 UTC (12 s ago)  the ceiling of tcp_data doubled",
            "lists: 0 blocked",
        ];
        for (line, wanted) in text.lines().zip(beginnings) {
            assert!(line.starts_with(wanted), "{line}, wanted {wanted}");
        }
    }

    #[test]
    fn an_older_daemon_is_still_shown() {
        let text = render(&older());
        assert!(text.starts_with("ftagent 0.1.0  pid 42") && !text.contains("learn"), "{text}");
    }

    fn port(transport: Transport, ports: &str, asked: f64, found: f64) -> GuardPort {
        let why_not = Found { asked, found, ..Found::default() }.why_not();
        GuardPort { transport, ports: ports.parse().unwrap(), asked, found, listens: true, armed: false, why_not }
    }

    #[test]
    fn the_tripwire_says_what_it_holds_on_one_line() {
        let calm = TripwireStatus { policed: 21, early_ticks: 1, ..TripwireStatus::default() };
        let thinned = [("udp_small".to_owned(), 2500.0)].into();
        let cases = [
            (&calm, "tripwire: 21 classes policed, none thinned; 1 early tick since the start\n"),
            (
                &TripwireStatus { policed: 1, thinned, early_ticks: 3, ..TripwireStatus::default() },
                "tripwire: 1 class policed, thinned udp_small to 2.50 kpps; 3 early ticks since the start\n",
            ),
        ];
        for (tripwire, wanted) in cases {
            assert_eq!(tripwire_text(tripwire), wanted);
        }
        let status = Status { tripwire: Some(calm.clone()), ..older() };
        assert!(render(&status).contains(cases[0].1), "{}", render(&status));
    }

    #[test]
    fn answers_of_the_guard_are_shown_where_there_are_any() {
        let interface = |sent: u64| {
            let mut interface = json!({
                "name": "eth0", "ifindex": 2, "slot": 0, "mode": "driver", "state": "protected", "packets": 9,
                "bytes": 540, "dropped_packets": 0, "overruled": 0, "pps": 0.0, "bps": 0.0, "dropped_pps": 0.0,
                "classes": [], "reasons": [],
            });
            if sent > 0 {
                interface["sent_packets"] = sent.into();
            }
            interface_text(&serde_json::from_value(interface).unwrap())
        };
        assert!(interface(7).ends_with("\n  answered by the guard: 7\n"), "{}", interface(7));
        assert!(!interface(0).contains("answered"), "nor do older daemons say it");
    }

    #[test]
    fn the_guard_says_where_it_is_armed_and_where_it_may_not_be() {
        let mut ports = vec![
            port(Transport::Tcp, "443", 90_000.0, 90_000.0),
            port(Transport::Udp, "ephemeral", 5000.0, 5000.0),
            port(Transport::Tcp, "9090", 4000.0, 0.0),
            port(Transport::Tcp, "22", 400.0, 400.0),
        ];
        let calm = GuardStatus { ports: ports.clone(), ..GuardStatus::default() };
        let wanted = "guard: not armed\n  may be armed for tcp 443, udp ephemeral\n  \
            not for tcp 9090: 100.00 % of its IPv4 packets in calm had no socket: translated or proxied\n  \
            not for tcp 22: 400 of 1000 packets in calm were looked up\n";
        assert_eq!(guard_text(&calm, NOON), wanted);
        ports.extend((1..=9).map(|number| port(Transport::Tcp, &number.to_string(), 1.0, 1.0)));
        let armed = GuardStatus {
            since_ms: Some(NOON - 12_000),
            vectors: vec![Vector::SynFlood],
            cookies: (1..=8).collect(),
            state: [Ports::One(443), Ports::Ephemeral].into(),
            no_cookies: Some("it is off".to_owned()),
            ports,
            ..GuardStatus::default()
        };
        let text = guard_text(&armed, NOON);
        for part in [
            "ARMED since 2026-08-01 11:59:48 UTC (12 s ago) against syn_flood\n",
            "cookies answer SYNs to tcp 1, 2, 3, 4, 5, 6, 2 more\n",
            "no socket, no packet on tcp 443, ephemeral\n",
            "not for 8 more ports: see `--json`\n",
            "no cookies: it is off\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let earlier = GuardStatus { inherited_s: Some(20), ..GuardStatus::default() };
        assert!(guard_text(&earlier, NOON).contains("earlier life, for 20 s more\n  may be armed nowhere yet"));
    }
}
