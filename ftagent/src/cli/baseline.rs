//! `ftagent baseline`: what is known to be normal, and an operator's word on it.

mod show;

use std::{
    fs,
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    Cli,
    client::{ask, call},
    plot::Screen,
    text::{aligned, harmless, rate, span},
};
use crate::{
    decide::{
        Event, Metric,
        baseline::{Learning, View},
    },
    serve::protocol::{Accepted, Baseline, Incidents, Moved, REQUEST_BYTES, Request},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show normal rates, thresholds and ceilings, or one class with its last hour and week.
    Show {
        /// One class alone, with plots; its name as in `ftagent status`.
        #[arg(long, value_name = "CLASS")]
        class: Option<String>,
        /// Packets or bits a second; default: packets, and both for one class.
        #[arg(long, value_name = "METRIC", value_enum)]
        metric: Option<Unit>,
        /// What goes to each address, for a host with many or a router in front of a prefix.
        #[arg(long, conflicts_with_all = ["class", "metric"])]
        destinations: bool,
    },
    /// Say that the present load is normal: baselines and ceilings begin anew from it, and open
    /// incidents close.
    Accept {
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Forget what was learned, and learn anew.
    Reset {
        /// Of one class alone.
        #[arg(long, value_name = "CLASS")]
        class: Option<String>,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Write what was learned as JSON.
    Export {
        /// Where to; default: standard output.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Go on from what was exported; it replaces what was learned here.
    Import {
        /// What `ftagent baseline export` wrote.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Unit {
    Pps,
    Bps,
}

impl Unit {
    const fn metric(self) -> Metric {
        match self {
            Self::Pps => Metric::Pps,
            Self::Bps => Metric::Bps,
        }
    }
}

/// Shows or changes it.
///
/// # Errors
/// What the daemon refuses, files that cannot be read or written, and a question that was not
/// answered with yes.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Show { destinations: true, .. } => destinations(cli)?,
        Command::Show { class, metric, .. } => show(cli, class.as_deref(), metric.map(Unit::metric))?,
        Command::Accept { yes } => accept(cli, *yes)?,
        Command::Reset { class, yes } => reset(cli, class.as_deref(), *yes)?,
        Command::Export { file } => export(cli, file.as_deref())?,
        Command::Import { file } => import(cli, file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(cli: &Cli, class: Option<&str>, metric: Option<Metric>) -> Result<()> {
    let request = Request::Baseline { class: class.map(str::to_owned) };
    if cli.json {
        let mut answer = call(cli, &request)?;
        let name = metric.map(serde_json::to_value).transpose()?;
        if let (Some(name), Some(views)) = (name, answer.get_mut("views").and_then(Value::as_array_mut)) {
            views.retain(|view| view.get("metric") == Some(&name));
        }
        println!("{answer}");
        return Ok(());
    }
    let baseline: Baseline = ask(cli, &request)?;
    let screen = Screen::of_stdout();
    match class {
        Some(class) => print!("{}", show::one(&baseline, class, metric, screen)),
        None => print!("{}", show::overview(&baseline, metric.unwrap_or(Metric::Pps), screen)),
    }
    Ok(())
}

fn destinations(cli: &Cli) -> Result<()> {
    let answer = call(cli, &Request::Baseline { class: None })?;
    if cli.json {
        println!("{}", answer.get("destinations").unwrap_or(&Value::Null));
    } else {
        print!("{}", show::destinations(&serde_json::from_value(answer)?));
    }
    Ok(())
}

fn accept(cli: &Cli, yes: bool) -> Result<()> {
    if !yes {
        let baseline: Baseline = ask(cli, &Request::Baseline { class: None })?;
        let incidents: Incidents = ask(cli, &Request::Incidents { id: None })?;
        confirm(&consequences(&baseline, &incidents), "Is this load normal?")?;
    }
    let answer = call(cli, &Request::BaselineAccept)?;
    if cli.json {
        println!("{answer}");
    } else {
        print!("{}", harmless(&accepted(&serde_json::from_value(answer)?)));
    }
    Ok(())
}

/// Says what accepting would change.
fn consequences(baseline: &Baseline, incidents: &Incidents) -> String {
    let mut text = "The present load becomes what is normal: baselines, thresholds and ceilings begin anew from it.\n\
                    Traffic like it raises no alarm from then on.\n"
        .to_owned();
    for incident in incidents.incidents.iter().filter(|incident| incident.is_open()) {
        let now = [rate(incident.pps, Metric::Pps), rate(incident.bps, Metric::Bps)].join(", ");
        text.push_str(&format!("  closes     {}  {}  {now}\n", incident.id, incident.vector.as_str()));
    }
    for view in baseline.views.iter().filter(|view| is_above(view)) {
        let (now, threshold) = (rate(view.rate, view.metric), rate(view.threshold, view.metric));
        text.push_str(&format!("  is raised  {}  {now} against a threshold of {threshold}\n", view.class));
    }
    text
}

fn is_above(view: &View) -> bool {
    view.threshold > 0.0 && view.rate > view.threshold
}

/// Says what accepting changed.
fn accepted(answer: &Accepted) -> String {
    let mut text = "The present load is what is normal now.\n".to_owned();
    for event in &answer.events {
        match event {
            Event::Closed { id } => text.push_str(&format!("  incident {id} is closed\n")),
            Event::Opened { id } => text.push_str(&format!("  incident {id} opened\n")),
            Event::Changed { id, what } => text.push_str(&format!("  incident {id}: {what}\n")),
            Event::Ladder { rung, what, .. } => text.push_str(&format!("  {rung}: {what}\n")),
            Event::Notice { what } => text.push_str(&format!("  {what}\n")),
        }
    }
    if answer.moved.is_empty() {
        return text + "No threshold moved.\n";
    }
    let before = |value: Option<f64>, metric| value.map_or("none".to_owned(), |value| rate(value, metric));
    let row = |moved: &Moved| {
        vec![
            moved.class.clone(),
            before(moved.threshold_before, moved.metric),
            rate(moved.threshold, moved.metric),
            before(moved.ceiling_before, moved.metric),
            rate(moved.ceiling, moved.metric),
        ]
    };
    let rows: Vec<Vec<String>> = answer.moved.iter().map(row).collect();
    text + &aligned(&["class", "threshold was", "is", "ceiling was", "is"], &rows, &[0])
}

fn reset(cli: &Cli, class: Option<&str>, yes: bool) -> Result<()> {
    let what = class.map_or("of every class".to_owned(), |class| format!("of `{class}`"));
    // What is normal of the others stays trusted.
    let disarmed = match class {
        None => disarmed(&ask(cli, &Request::Incidents { id: None })?),
        Some(_) => String::new(),
    };
    if !yes {
        let warning = format!(
            "What was learned {what} is forgotten, and learning starts anew. `ftagent baseline export FILE` keeps a copy.\n{disarmed}"
        );
        confirm(&warning, "Forget it?")?;
    } else if !disarmed.is_empty() {
        eprint!("ftagent: WARNING: {disarmed}");
    }
    let answer = call(cli, &Request::BaselineReset { class: class.map(str::to_owned) })?;
    if cli.json {
        println!("{answer}");
    } else {
        println!("What was learned {what} is forgotten.\n{}", learning_text(&serde_json::from_value(answer)?));
    }
    Ok(())
}

/// Says what forgetting what is normal does to attacks that go on; empty where there is none.
fn disarmed(incidents: &Incidents) -> String {
    let mut open = incidents.incidents.iter().filter(|incident| incident.is_open()).peekable();
    if open.peek().is_none() {
        return String::new();
    }
    let text = "In the middle of an attack: rules against it drop nothing until normal is known again, where \
                `mitigation.mode` is \"auto\" and customers send such packets too.\n"
        .to_owned();
    open.fold(text, |text, incident| {
        let now = [rate(incident.pps, Metric::Pps), rate(incident.bps, Metric::Bps)].join(", ");
        text + &harmless(&format!("  disarms    {}  {}  {now}\n", incident.id, incident.vector.as_str()))
    })
}

/// Tells what will happen and goes on only after a yes.
fn confirm(consequences: &str, question: &str) -> Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("{consequences}this asks before it acts, and there is no terminal to ask at: give `--yes` to do it");
    }
    eprint!("{consequences}{question} [y/N] ");
    let mut answer = String::new();
    stdin.read_line(&mut answer).context("waiting for an answer")?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("not confirmed, so nothing has changed"),
    }
}

fn export(cli: &Cli, file: Option<&Path>) -> Result<()> {
    let text = ask::<String>(cli, &Request::BaselineExport)? + "\n";
    let Some(file) = file.filter(|file| *file != Path::new("-")) else {
        print!("{text}");
        return Ok(());
    };
    // Half a file would look like an export until it is needed.
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
        temporary.write_all(text.as_bytes())?;
        temporary.as_file().sync_all()?;
        temporary.persist(file)?;
        Ok(())
    };
    write().with_context(|| format!("writing the baseline to {}", file.display()))?;
    if !cli.json {
        println!("The baseline is in {} ({} bytes).", file.display(), text.len());
    }
    Ok(())
}

fn import(cli: &Cli, file: &Path) -> Result<()> {
    let checkpoint = read_export(file)?;
    let answer = call(cli, &Request::BaselineImport { checkpoint })
        .with_context(|| format!("{} was not imported, and nothing has changed", file.display()))?;
    if cli.json {
        println!("{answer}");
    } else {
        println!("{} is imported.\n{}", file.display(), learning_text(&serde_json::from_value(answer)?));
    }
    Ok(())
}

/// Reads a file that should be an export; the daemon looks at what is in it.
fn read_export(file: &Path) -> Result<String> {
    const AGAIN: &str = "`ftagent baseline export FILE` writes a file that can be imported";
    let name = file.display();
    let mut text = String::new();
    let read = fs::File::open(file).and_then(|opened| opened.take(REQUEST_BYTES + 1).read_to_string(&mut text));
    read.with_context(|| format!("{name} cannot be read"))?;
    if text.len() as u64 > REQUEST_BYTES {
        bail!("{name} is larger than {} MiB, so it is no exported baseline: {AGAIN}", REQUEST_BYTES >> 20);
    }
    serde_json::from_str::<IgnoredAny>(&text).with_context(|| format!("{name} is not JSON, or ends early: {AGAIN}"))?;
    Ok(text)
}

/// Says how much is known.
pub fn learning_text(learning: &Learning) -> String {
    let learned = span(milliseconds(learning.learned_s));
    match learning.state.as_str() {
        "new" => {
            let left = learning.trust_after_s.saturating_sub(learning.learned_s);
            let left = if left == 0 { "a moment".to_owned() } else { span(milliseconds(left)) };
            format!(
                "learning: nothing is trusted yet; {left} more of traffic is needed ({learned} so far). \
                 Until then only what is unmistakable is named an attack."
            )
        }
        "learning" => format!("learning: thresholds are trusted; this is the first week ({learned} so far)"),
        "learned" => format!("learned over {learned}"),
        other => format!("learning: {other} ({learned} so far)"),
    }
}

fn milliseconds(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Incident, Now};

    #[test]
    fn learning_says_how_long_until_it_is_trusted() {
        let cases = [
            ("new", 12, "learning: nothing is trusted yet; 9 min 48 s more of traffic is needed (12 s so far)"),
            ("new", 600, "learning: nothing is trusted yet; a moment more"),
            ("learning", 273_600, "learning: thresholds are trusted; this is the first week (3 d 4 h so far)"),
            ("learned", 1_036_800, "learned over 12 d"),
        ];
        for (state, learned_s, wanted) in cases {
            let learning =
                Learning { state: state.to_owned(), learned_s, trust_after_s: 600, bound: "irrelevant".to_owned() };
            assert!(learning_text(&learning).starts_with(wanted), "{}", learning_text(&learning));
        }
    }

    #[test]
    fn accepting_tells_what_moved() {
        let moved = |class: &str, metric, before, now| Moved {
            class: class.to_owned(),
            metric,
            threshold_before: before,
            threshold: now,
            ceiling_before: before.map(|before| before * 4.0),
            ceiling: now * 4.0,
        };
        let answer = Accepted {
            events: vec![Event::Closed { id: "20260801T120000Z-1".to_owned() }],
            moved: vec![moved("tcp_syn", Metric::Pps, Some(620.0), 96_400.0), moved("esp", Metric::Bps, None, 5e6)],
        };
        let wanted = "The present load is what is normal now.\n  incident 20260801T120000Z-1 is closed\n";
        let table = [
            "  class    threshold was           is  ceiling was           is",
            "  tcp_syn        620 pps    96.4 kpps    2.48 kpps     386 kpps",
            "  esp               none  5.00 Mbit/s         none  20.0 Mbit/s",
        ];
        assert_eq!(accepted(&answer), format!("{wanted}{}\n", table.join("\n")));
        let none = Accepted { events: Vec::new(), moved: Vec::new() };
        assert!(accepted(&none).ends_with("No threshold moved.\n"));
    }

    #[test]
    fn forgetting_in_the_middle_of_an_attack_says_that_it_disarms() {
        let learning = Learning { state: "learned".to_owned(), learned_s: 1, trust_after_s: 1, bound: String::new() };
        let of = |incidents| Incidents { now_ms: 0, learning: learning.clone(), incidents, notices: Vec::new() };
        let (open, now) = (super::super::incidents::tests::incident(), Now::default());
        let over = Incident { id: "over".to_owned(), closed: Some(now), ..open.clone() };
        assert_eq!(disarmed(&of(vec![over.clone()])), "");
        let said = disarmed(&of(vec![over, open.clone()]));
        assert!(said.contains("drop nothing until normal is known again") && !said.contains("over  "), "{said}");
        assert!(said.contains(&format!("  disarms    {}  syn_flood  ", open.id)), "{said}");
    }

    #[test]
    fn files_that_are_no_export_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let cases = [
            ("missing", None, "cannot be read"),
            ("text", Some("hello"), "is not JSON, or ends early"),
            ("half", Some("{\"version\": 1, "), "is not JSON, or ends early"),
        ];
        for (name, content, part) in cases {
            let path = dir.path().join(name);
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let error = format!("{:#}", read_export(&path).unwrap_err());
            assert!(error.starts_with(path.to_str().unwrap()) && error.contains(part), "{error}");
        }
        let path = dir.path().join("large");
        fs::write(&path, vec![b' '; REQUEST_BYTES as usize + 1]).unwrap();
        assert!(read_export(&path).unwrap_err().to_string().contains("larger than 16 MiB"));
    }
}
