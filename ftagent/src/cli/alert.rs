//! `ftagent alert`: who is told, what became of it, and silence.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    Cli,
    client::{ask, call},
    text::{ago, aligned, count, duration, harmless, utc},
};
use crate::{
    alert::{Answers, SinkStatus, log::How, try_once},
    config::Config,
    serve::protocol::{AlertSilence, Alerts, Request},
};

/// Time between two looks at what came of a test.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks before a test is given up: longer than any delivery may take.
const LOOKS: usize = 900;
/// Characters of a title in the table.
const TITLE: usize = 70;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the sinks, and how they are doing (the default).
    List,
    /// Send a test message through a sink, and show what the other side answers.
    Test {
        /// The sink's name.
        sink: String,
        /// Send it from this process: no daemon is needed, and what the configuration's file says counts.
        #[arg(long)]
        here: bool,
    },
    /// Show what became of the last alerts.
    History {
        /// Of this sink only.
        #[arg(long)]
        sink: Option<String>,
        /// The last so many.
        #[arg(long, default_value_t = 50, value_name = "LINES")]
        limit: usize,
    },
    /// Tell nobody of anything new for a while; what was told before is still told to be over.
    Silence {
        /// How long, as 30m or 2h; `off` ends it.
        #[arg(value_name = "DURATION|off")]
        lasts: String,
        /// This sink only.
        #[arg(long)]
        sink: Option<String>,
        /// Why, for the audit log.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Shows, tests or silences.
///
/// # Errors
/// What the daemon refuses, and a test that did not arrive.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match args.command.as_ref().unwrap_or(&Command::List) {
        Command::List => {
            let alerts: Alerts = ask(cli, &Request::Alerts)?;
            if cli.json { println!("{}", serde_json::to_string(&alerts.status)?) } else { print!("{}", list(&alerts)) }
        }
        Command::Test { sink, here } => return test(cli, sink, *here),
        Command::History { sink, limit } => {
            let mut alerts: Alerts = ask(cli, &Request::Alerts)?;
            alerts.history.retain(|delivery| sink.as_ref().is_none_or(|sink| delivery.sink == *sink));
            alerts.history.drain(..alerts.history.len().saturating_sub(*limit));
            if cli.json {
                println!("{}", serde_json::to_string(&alerts.history)?);
            } else {
                print!("{}", history(&alerts));
            }
        }
        Command::Silence { lasts, sink, reason } => silence(cli, lasts, sink.clone(), reason)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn test(cli: &Cli, sink: &str, here: bool) -> Result<ExitCode> {
    let answers = if here {
        try_once(&Config::load(cli.config.as_deref())?.alerts, sink)?
    } else {
        let asked = call(cli, &Request::AlertTest { sink: sink.to_owned() })?;
        let Some(test) = asked.get("test").and_then(Value::as_u64) else { bail!("the daemon named no test") };
        let mut looks = 0;
        loop {
            let answers: Option<Answers> = ask(cli, &Request::AlertTested { sink: sink.to_owned(), test })?;
            if let Some(answers) = answers {
                break answers;
            }
            looks += 1;
            if looks > LOOKS {
                bail!("the sink `{sink}` has not answered yet: `ftagent alert` says how it is doing");
            }
            thread::sleep(PAUSE);
        }
    };
    if cli.json {
        println!("{}", serde_json::to_string(&answers)?);
    } else if answers.arrived {
        println!("It arrived at `{sink}`, which answered: {}", harmless(&answers.answer));
    } else {
        println!("It did not arrive at `{sink}`: {}\n{}", harmless(&answers.answer), answers.meaning);
    }
    Ok(if answers.arrived { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn silence(cli: &Cli, lasts: &str, sink: Option<String>, reason: &str) -> Result<()> {
    let for_s = match lasts {
        "off" => 0,
        text => match humantime::parse_duration(text) {
            Ok(duration) if duration.as_secs() > 0 => duration.as_secs(),
            _ => bail!("\"{text}\" is not a duration: write it as 30m or 2h, or `off`"),
        },
    };
    let who = sink.as_ref().map_or("Nobody".to_owned(), |sink| format!("The sink `{sink}`"));
    let request = AlertSilence { sink, for_s, reason: reason.to_owned() };
    let data = call(cli, &Request::AlertSilence(request))?;
    match data.get("until_ms").and_then(Value::as_i64).filter(|until| *until > 0) {
        _ if cli.json => println!("{data}"),
        Some(until) => println!("{who} is told of anything new for {}, until {}.", duration(for_s), utc(until)),
        None => println!("It is over with the silence."),
    }
    Ok(())
}

/// Lays the sinks out for a terminal.
fn list(alerts: &Alerts) -> String {
    let status = &alerts.status;
    if status.sinks.is_empty() {
        return "Nobody is told: no sink is configured (`[[alerts.sinks]]`).\n".to_owned();
    }
    let rows: Vec<Vec<String>> = status.sinks.iter().map(|sink| row(sink, alerts.now_ms)).collect();
    let mut text = aligned(&["sink", "service", "waiting", "arrived", "lost", "last", "state"], &rows, &[0, 1, 5, 6]);
    if let Some(until) = status.silent_until_ms {
        text.push_str(&format!("Nobody is told of anything new until {}.\n", utc(until)));
    }
    status.disk.iter().for_each(|disk| text.push_str(&format!("{disk}\n")));
    text
}

fn row(sink: &SinkStatus, now_ms: i64) -> Vec<String> {
    let sum = |arrived: bool| -> u64 {
        let ways = How::ALL.into_iter().filter(|how| how.arrived() == arrived);
        ways.filter_map(|how| sink.results.get(how.as_str())).sum()
    };
    let state = match (&sink.trouble, sink.next_try_s) {
        (Some(trouble), next) => {
            let next = next.map_or(String::new(), |s| format!(" (next try in {s} s)"));
            format!("FAILS: {}{next}", harmless(trouble))
        }
        _ if sink.maintenance => "in maintenance".to_owned(),
        _ => sink.silent_until_ms.map_or("well".to_owned(), |until| format!("silent until {}", utc(until))),
    };
    vec![
        sink.name.clone(),
        sink.kind.clone(),
        count(sink.waiting as u64),
        count(sum(true)),
        count(sum(false)),
        sink.last_ms.map_or("never".to_owned(), |at| ago(now_ms, at)),
        state,
    ]
}

/// Lays what became of alerts out for a terminal, newest last.
fn history(alerts: &Alerts) -> String {
    if alerts.history.is_empty() {
        return "Nothing was told yet.\n".to_owned();
    }
    let row = |delivery: &crate::alert::log::Delivery| {
        let title = crate::alert::cut(&harmless(&delivery.title), TITLE);
        let result = match delivery.how {
            how if how.arrived() => how.as_str().to_owned(),
            how => format!("{}: {}", how.as_str(), harmless(&delivery.answer)),
        };
        let waited = format!("{:.1} s", delivery.waited_ms as f64 / 1000.0);
        vec![utc(delivery.at_ms), delivery.sink.clone(), waited, title, result]
    };
    let rows: Vec<Vec<String>> = alerts.history.iter().map(row).collect();
    aligned(&["when", "sink", "after", "what", "result"], &rows, &[0, 1, 3, 4])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Status, log::Delivery};

    fn alerts() -> Alerts {
        let well = SinkStatus {
            name: "oncall".to_owned(),
            kind: "pagerduty".to_owned(),
            results: [("delivered".to_owned(), 12), ("refused".to_owned(), 1)].into(),
            last_ms: Some(1_785_585_600_000),
            ..SinkStatus::default()
        };
        let ill = SinkStatus {
            name: "chat".to_owned(),
            kind: "slack".to_owned(),
            waiting: 4,
            trouble: Some("404 no_service".to_owned()),
            next_try_s: Some(17),
            ..SinkStatus::default()
        };
        let delivery = Delivery {
            id: "a".to_owned(),
            title: "ATTACK on edge1".to_owned(),
            sink: "chat".to_owned(),
            how: How::Refused,
            at_ms: 1_785_585_600_000,
            waited_ms: 250,
            answer: "400 invalid_blocks".to_owned(),
        };
        let status = Status { sinks: vec![well, ill], ..Status::default() };
        Alerts { now_ms: 1_785_585_660_000, status, history: vec![delivery] }
    }

    #[test]
    fn the_list_says_what_fails_and_why() {
        let text = list(&alerts());
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "oncall pagerduty 0 12 1 1 min ago well");
        assert_eq!(lines[2], "chat slack 4 0 0 never FAILS: 404 no_service (next try in 17 s)");
        let none = Alerts { status: Status::default(), ..alerts() };
        assert!(list(&none).contains("[[alerts.sinks]]"));
    }

    #[test]
    fn the_history_says_what_became_of_each() {
        let text = history(&alerts());
        let line = text.lines().nth(1).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line, "2026-08-01 12:00:00 UTC chat 0.2 s ATTACK on edge1 refused: 400 invalid_blocks");
    }
}
