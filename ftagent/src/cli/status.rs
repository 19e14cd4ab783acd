//! `ftagent status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Cli,
    baseline::learning_text,
    client::ask,
    incidents::{alarm, notice_text},
    text::{count, duration, si, table},
};
use crate::serve::protocol::{Interface, Request, Status};

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
    use crate::decide::{baseline::Learning, incident::Entry};

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
            ..older()
        };
        let text = render(&status);
        let beginnings = [
            "ATTACK: syn_flood, high, for 1 min 12 s: 48.2 kpps",
            "ftagent 0.1.0  pid 42  up 1m 30s",
            "mitigation auto: lists drop",
            "learning: nothing is trusted yet; 9 min 48 s more",
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
}
