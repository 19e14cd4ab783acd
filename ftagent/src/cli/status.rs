//! `ftagent status`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Cli,
    client::ask,
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
    let mut text = format!(
        "ftagent {}  pid {}  up {}\nmitigation {}: {}\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        status.mitigation.mode,
        status.mitigation.state
    );
    for warning in &status.warnings {
        text.push_str(&format!("WARNING: {warning}\n"));
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
