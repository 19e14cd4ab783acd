//! `ftagent audit`: reads and verifies the audit log. It needs no daemon, only the files.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    Cli, access,
    text::{count, harmless, several},
};
use crate::{
    config::Config,
    record::audit::{
        self, Asked, CHECKPOINTS, Checkpoint, PUBLIC, Report,
        read::{Reader, Shown, Wanted, files, latest_checkpoint},
        read_public,
    },
    serve::protocol::Access,
};

/// Time between two looks at a log that is followed, or that is written while it is verified.
const PAUSE: Duration = Duration::from_millis(300);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show who did what, and why.
    Show(Show),
    /// Say whether the log is what was written; names the first line that is not.
    Verify(Verify),
    /// Copy the log with all that is needed to verify it elsewhere, or print the key or a checkpoint.
    Export(Export),
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
struct Show {
    /// From then on: how long ago (1h, 2d) or a time (2026-08-01T12:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<u64>,
    /// Of these only: daemon, operator, fleet, provider, a login name or a uid.
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Only these acts, or all that begin so: block.add, rule.
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only what was done to this.
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Only what belongs to an incident.
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
    /// Checkpoints too.
    #[arg(long)]
    checkpoints: bool,
    /// The last so many.
    #[arg(long, value_name = "LINES", default_value_t = 50)]
    limit: usize,
    /// Go on with what is added.
    #[arg(long, short)]
    follow: bool,
    /// Of another directory than the configuration's.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
struct Verify {
    /// The directory of a log, or files of it; default: the one that the daemon writes.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The public key, in PEM; default: the one beside the log.
    #[arg(long, value_name = "PEM")]
    public_key: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere, or a file of them: the log must agree with it, and not end
    /// before it.
    #[arg(long, value_name = "FILE|JSON")]
    checkpoint: Vec<String>,
}

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Export {
    /// Copy the log, its checkpoints and the public key into this new directory.
    #[arg(value_name = "DIR")]
    to: Option<PathBuf>,
    /// Print the public key, in PEM.
    #[arg(long)]
    public_key: bool,
    /// Print the latest checkpoint: kept elsewhere, it proves what the log was then.
    #[arg(long)]
    checkpoint: bool,
}

fn since(text: &str) -> Result<u64, String> {
    let now = SystemTime::now();
    let at = match humantime::parse_duration(text) {
        Ok(ago) => now.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        Err(_) => humantime::parse_rfc3339_weak(text)
            .map_err(|_| "write how long ago, as 1h or 2d, or a time as 2026-08-01T12:00:00Z".to_owned())?,
    };
    Ok(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Shows, verifies or exports.
///
/// # Errors
/// Where the log cannot be read.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Show(args) => show(cli, args),
        Command::Verify(args) => verify(cli, args),
        Command::Export(args) => export(cli, args),
    }
}

fn home(cli: &Cli) -> Result<PathBuf> {
    let dir = audit::dir(&Config::load(cli.config.as_deref())?.paths.state);
    match fs::read_dir(&dir) {
        Ok(_) => Ok(dir),
        Err(error) => Err(error)
            .with_context(|| format!("reading the audit log in {} (only its owner may: root, mostly)", dir.display())),
    }
}

fn show(cli: &Cli, args: &Show) -> Result<ExitCode> {
    let dir = args.dir.clone().map_or_else(|| home(cli), Ok)?;
    let wanted = Wanted {
        since: args.since,
        actor: args.actor.clone(),
        action: args.action.clone(),
        subject: args.subject.clone(),
        incident: args.incident.clone(),
        checkpoints: args.checkpoints,
    };
    let mut reader = Reader::new(&dir, wanted);
    let mut most = args.limit;
    loop {
        let lines = reader.next(most)?;
        if lines.is_empty() && !args.follow && !cli.json {
            println!("Nothing of the audit log is like that.");
        }
        for (text, line) in lines {
            if cli.json { println!("{text}") } else { print!("{}", harmless(&render(&line))) }
        }
        if !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
        most = usize::MAX;
        thread::sleep(PAUSE);
    }
}

/// Lays a line out for a terminal.
fn render(line: &Shown) -> String {
    if let Some(said) = &line.checkpoint {
        return format!("{:.23}Z  {:>6}  signed up to line {} with key {}\n", said.time, line.seq, said.seq, said.key);
    }
    let who = line.actor.as_ref().map_or_else(String::new, |actor| match (&actor.login, actor.uid) {
        (Some(login), Some(uid)) => format!("{login}({uid})"),
        (Some(login), None) => login.clone(),
        _ => actor.kind.as_str().to_owned(),
    });
    let result = line.result.map_or("", |result| result.as_str());
    let mut text = format!(
        "{:.23}Z  {:>6}  {who:10}  {:16} {result:7}  {}\n",
        line.time,
        line.seq,
        line.action,
        line.subject.replace('\n', " ")
    );
    let mut note = |what: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{:34}{what}{}\n", "", value.replace('\n', " ")));
        }
    };
    note("", &line.reason);
    note("incident ", line.incident.as_deref().unwrap_or_default());
    let value = |value: &Option<Value>| value.as_ref().map(Value::to_string).unwrap_or_default();
    note("before ", &value(&line.before));
    note("after  ", &value(&line.after));
    text
}

fn verify(cli: &Cli, args: &Verify) -> Result<ExitCode> {
    let paths = if args.paths.is_empty() { vec![home(cli)?] } else { args.paths.clone() };
    let first = paths.first().map_or(Path::new("."), PathBuf::as_path);
    let beside = if first.is_dir() { first.to_owned() } else { first.parent().unwrap_or(first).to_owned() };
    let file = args.public_key.clone().unwrap_or_else(|| beside.join(PUBLIC));
    let key = read_public(&file).context("`--public-key FILE` names the key that the log was signed with")?;
    let mut asked = Asked { paths, checkpoints: Vec::new() };
    for given in &args.checkpoint {
        asked.checkpoints.extend(checkpoints(given)?);
    }
    let mut report = audit::verify(&asked, &key)?;
    if !report.valid {
        // A line may be half written at this moment, or a file just removed because of its age.
        thread::sleep(PAUSE);
        report = audit::verify(&asked, &key)?;
    }
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", harmless(&judgement(&report, args.public_key.is_some())));
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads one checkpoint, or a file of them.
fn checkpoints(given: &str) -> Result<Vec<(String, Checkpoint)>> {
    let (name, text) = if given.trim_start().starts_with('{') {
        ("--checkpoint".to_owned(), given.to_owned())
    } else {
        (given.to_owned(), fs::read_to_string(given).with_context(|| format!("reading the checkpoint {given}"))?)
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let read = |line: &str| Checkpoint::read(line.as_bytes()).map_err(|what| anyhow::anyhow!("{name}: {what}"));
    let found: Vec<(String, Checkpoint)> = lines.map(|line| Ok((name.clone(), read(line)?))).collect::<Result<_>>()?;
    if found.is_empty() {
        bail!("{name}: there is no checkpoint in it");
    }
    Ok(found)
}

/// Says what was found, in words.
fn judgement(report: &Report, own_key: bool) -> String {
    let Report { lines, segments, checkpoints, first, last, from, to, unsigned, key, .. } = report;
    let covered = format!(
        "{} ({first} to {last}) in {}, with {}, from {from} to {to}, key {key}",
        several(*lines, "line"),
        several(*segments as u64, "file"),
        several(*checkpoints as u64, "checkpoint"),
    );
    let mut text = match &report.fault {
        None => format!("The audit log is sound: {covered}.\n"),
        Some(fault) => {
            let seq = fault.seq.map_or_else(String::new, |seq| format!(" (number {seq})"));
            let line = if fault.line > 0 { format!(", line {}", fault.line) } else { String::new() };
            format!(
                "The audit log is NOT sound: {}{line}{seq}: {}.\nSound before that: {covered}.\n",
                fault.file, fault.what
            )
        }
    };
    if report.fault.is_none() {
        match unsigned {
            0 => text.push_str("Every line is signed.\n"),
            lines => text.push_str(&format!(
                "{} at the end {} not signed yet: what is wrong with those cannot be told for certain.\n",
                several(*lines, "line"),
                if *lines == 1 { "is" } else { "are" }
            )),
        }
        if !report.complete {
            text.push_str(&format!("What was before line {first} is not among these files, and was not looked at.\n"));
        }
        if report.compared > 0 {
            let older =
                if report.older > 0 { format!(" ({} of lines before these)", report.older) } else { String::new() };
            text.push_str(&format!(
                "It agrees with {} kept beside it or elsewhere{older}.\n",
                several(report.compared as u64, "checkpoint")
            ));
        }
    }
    if !own_key {
        text.push_str("The key was found beside the log: compare its name with one that you noted elsewhere.\n");
    }
    if !report.aside.is_empty() {
        text.push_str(&format!("Kept aside, because they did not verify at a start: {}.\n", report.aside.join(", ")));
    }
    text
}

fn export(cli: &Cli, args: &Export) -> Result<ExitCode> {
    let dir = home(cli)?;
    if args.public_key {
        print!("{}", fs::read_to_string(dir.join(PUBLIC)).context("reading the public key")?);
    } else if args.checkpoint {
        let latest = latest_checkpoint(&dir)?.context("nothing is signed yet")?;
        println!("{}", latest.text());
    } else if let Some(to) = &args.to {
        access::log(cli, Access::Audit, "", &format!("to {}", to.display()))?;
        let bytes = copy(&dir, to)?;
        if cli.json {
            println!("{}", json!({ "directory": to, "bytes": bytes }));
        } else {
            let to = to.display();
            println!("{} bytes are in {to}. There: `ftagent audit verify {to} --public-key KEY`.", count(bytes));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies a log; returns its bytes. Nothing of what is there already is touched.
fn copy(dir: &Path, to: &Path) -> Result<u64> {
    let made = fs::DirBuilder::new().mode(0o700).create(to);
    made.with_context(|| format!("making {}, which must not be there yet", to.display()))?;
    let mut bytes = 0;
    for path in files(dir)? {
        let name = path.file_name().unwrap_or_default();
        let mut text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        // The last line may be half written at this moment.
        if name != PUBLIC {
            text.truncate(text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        }
        let target = to.join(name);
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&target);
        let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, &text));
        written.with_context(|| format!("writing {}", target.display()))?;
        bytes += text.len() as u64;
    }
    if !to.join(CHECKPOINTS).exists() {
        bail!("{} has no log yet", dir.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::audit::Fault;

    fn report() -> Report {
        Report {
            valid: true,
            lines: 1234,
            segments: 2,
            checkpoints: 3,
            first: 1,
            last: 1234,
            from: "2026-08-01T12:00:00Z".to_owned(),
            to: "2026-08-02T12:00:00Z".to_owned(),
            unsigned: 2,
            complete: true,
            compared: 3,
            key: "0123456789abcdef".to_owned(),
            ..Report::default()
        }
    }

    #[test]
    fn a_judgement_says_how_far_it_goes() {
        let said = judgement(&report(), true);
        for part in
            ["is sound: 1 234 lines (1 to 1234) in 2 files", "2 lines at the end are not signed", "3 checkpoints"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("beside the log: compare"), "{said}");
        let fault = Fault { file: "a/audit-1.jsonl".into(), line: 7, seq: Some(7), what: "it was changed".into() };
        let said = judgement(&Report { valid: false, fault: Some(fault), ..report() }, false);
        assert!(said.contains("NOT sound: a/audit-1.jsonl, line 7 (number 7): it was changed."), "{said}");
        assert!(said.contains("compare its name"), "{said}");
    }

    #[test]
    fn lines_are_shown_without_what_commands_a_terminal() {
        let line = r#"{"seq":7,"time":"2026-08-01T12:00:00.123456789Z","actor":{"kind":"operator","uid":0,"login":"root"},
            "action":"block.add","subject":"192.0.2.0/24","reason":"it \u001b[2J floods","result":"asked"}"#;
        let said = harmless(&render(&serde_json::from_str(line).unwrap()));
        assert!(said.starts_with("2026-08-01T12:00:00.123Z       7  root(0)     block.add"), "{said}");
        assert!(said.contains("it .[2J floods"), "{said}");
    }

    #[test]
    fn times_are_ago_or_at() {
        assert_eq!(since("2026-08-01T12:00:00Z"), Ok(1_785_585_600));
        assert!(since("1h").unwrap() > 1_700_000_000);
        assert!(since("yesterday").unwrap_err().contains("how long ago"));
    }
}
