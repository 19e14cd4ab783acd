//! `ftagent ioc`: patterns of tools, and the indicators of incidents.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::json;

use super::{
    Cli, access,
    text::{aligned, count, harmless, percent, several},
};
use crate::{
    config::{self, Config},
    decide::Packet,
    record::ioc::{self, IocReport, Library, Look, Scratch, Watched, stix},
    replay::capture,
    serve::protocol::Access,
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the patterns that samples are compared with.
    List,
    /// Check files of patterns; every problem with its line and column.
    Check {
        /// The files.
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Say which patterns the packets of a capture match.
    Test {
        /// The capture, pcap or pcapng.
        #[arg(long, value_name = "FILE")]
        pcap: PathBuf,
        /// Look no further than the bytes that a sample has.
        #[arg(long)]
        as_samples: bool,
    },
    /// Write the indicators of an incident.
    Export {
        /// Its id, the beginning or end of it, or `last`.
        #[arg(value_name = "INCIDENT", allow_negative_numbers = true)]
        incident: String,
        /// The form.
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
        /// Write to this new file, readable by its owner alone, instead of to standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// All that is known, with the host's own addresses.
    Json,
    /// A line for each indicator, for spreadsheets.
    Csv,
    /// A STIX 2.1 bundle.
    Stix,
}

/// Does what is asked; needs no daemon.
///
/// # Errors
/// What cannot be read or written, and where there is no such incident.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::List => list(cli),
        Command::Check { files } => check(cli, files),
        Command::Test { pcap, as_samples } => test(cli, pcap, *as_samples),
        Command::Export { incident, format, out } => export(cli, incident, *format, out.as_deref()),
    }
}

/// The configuration that is named, the system's, or where there is none the defaults.
fn configuration(cli: &Cli) -> Result<Config> {
    match &cli.config {
        None if !Path::new(config::DEFAULT_PATH).exists() => Ok(Config::parse("", "the defaults")?),
        path => Ok(Config::load(path.as_deref())?),
    }
}

/// The library that the daemon would have. Problems are told; what is not broken counts.
fn library(cli: &Cli) -> Result<std::sync::Arc<Library>> {
    let config = configuration(cli)?;
    let (watched, problems) = Watched::open(&config.indicators.paths);
    problems.iter().for_each(|problem| eprintln!("ftagent: {}", harmless(&problem.to_string())));
    Ok(std::sync::Arc::clone(watched.library()))
}

fn list(cli: &Cli) -> Result<ExitCode> {
    let library = library(cli)?;
    let from = |pattern: &ioc::Pattern| match &pattern.origin {
        ioc::Origin::Shipped => "shipped".to_owned(),
        ioc::Origin::File(path) => path.display().to_string(),
    };
    if cli.json {
        let one = |pattern: &ioc::Pattern| {
            json!({
                "name": pattern.name, "kind": pattern.kind, "tool": pattern.tool, "about": pattern.about,
                "source": pattern.source, "confidence": pattern.confidence, "from": from(pattern),
            })
        };
        let all: Vec<_> = library.patterns().iter().map(one).collect();
        println!("{}", json!({ "patterns": all }));
        return Ok(ExitCode::SUCCESS);
    }
    let row = |pattern: &ioc::Pattern| {
        vec![
            pattern.name.clone(),
            pattern.kind.as_str().to_owned(),
            harmless(&pattern.tool),
            percent(pattern.confidence),
            from(pattern),
            harmless(&pattern.about),
        ]
    };
    let rows: Vec<Vec<String>> = library.patterns().iter().map(row).collect();
    print!("{}", aligned(&["name", "kind", "tool", "sure", "from", "what it is"], &rows, &[0, 1, 2, 4, 5]));
    Ok(ExitCode::SUCCESS)
}

fn check(cli: &Cli, files: &[PathBuf]) -> Result<ExitCode> {
    let (mut problems, mut patterns) = (Vec::new(), 0);
    for file in files {
        match ioc::check(file) {
            Ok(found) => patterns += found.patterns.len(),
            Err(found) => problems.extend(found),
        }
    }
    if cli.json {
        println!("{}", json!({ "valid": problems.is_empty(), "patterns": patterns, "problems": problems }));
    } else {
        problems.iter().for_each(|problem| eprintln!("{}", harmless(&problem.to_string())));
        if problems.is_empty() {
            println!("{} in {}, all valid.", several(patterns as u64, "pattern"), several(files.len() as u64, "file"));
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn test(cli: &Cli, pcap: &Path, as_samples: bool) -> Result<ExitCode> {
    let library = library(cli)?;
    let mut hits = vec![0u64; library.patterns().len()];
    let (mut packets, mut matched, mut skipped) = (0u64, 0u64, 0u64);
    let (mut scratch, mut buffer) = (Scratch::default(), Vec::new());
    let mut tls = (std::collections::BTreeMap::<String, u64>::new(), 0u64);
    capture::for_each_packet(pcap, |captured| {
        let Some(length) = captured.frame_len() else {
            skipped += 1;
            return;
        };
        let Some(frame) = captured.frame(&mut buffer) else { return };
        // What a snap length cut off is filled with zeros, which are no part of the packet.
        let kept = if captured.is_cut() { length.min(captured.data.len() + ETHERNET) } else { length };
        let most = if as_samples { ftagent_common::sample::SAMPLE_BYTES } else { kept };
        let frame = frame.get(..most.min(kept)).unwrap_or(frame);
        let packet = Packet::decode(captured.time_ns, frame, length, None, false);
        let look = Look::of(&packet, frame);
        let found = library.scan(&look, &mut scratch);
        packets += 1;
        matched += u64::from(!found.is_empty());
        found
            .iter()
            .for_each(|number| hits.iter_mut().skip(usize::from(*number)).take(1).for_each(|count| *count += 1));
        if packet.is_tcp() {
            match ioc::ja4::of(look.payload) {
                ioc::ja4::Hello::Whole(print) if tls.0.len() < MOST_PRINTS => *tls.0.entry(print.ja4).or_default() += 1,
                ioc::ja4::Hello::Cut { .. } => tls.1 += 1,
                _ => {}
            }
        }
    })
    .map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    let mut all: Vec<(&ioc::Pattern, u64)> =
        library.patterns().iter().zip(hits).filter(|(_, count)| *count > 0).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.name.cmp(&b.0.name)));
    if cli.json {
        let one = |(pattern, count): &(&ioc::Pattern, u64)| json!({ "name": pattern.name, "kind": pattern.kind, "tool": pattern.tool, "packets": count });
        let hits: Vec<_> = all.iter().map(one).collect();
        let tls = json!({ "ja4": tls.0, "cut": tls.1 });
        println!(
            "{}",
            json!({ "packets": packets, "matched": matched, "skipped": skipped, "patterns": hits, "tls": tls })
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}, of which {} match a pattern.", several(packets, "packet"), count(matched));
    if skipped > 0 {
        println!("{} left out: too short or too long for a frame.", several(skipped, "packet"));
    }
    let share = |hits: u64| percent(hits as f64 / packets.max(1) as f64);
    let row = |(pattern, hits): &(&ioc::Pattern, u64)| {
        vec![
            pattern.name.clone(),
            pattern.kind.as_str().to_owned(),
            harmless(&pattern.tool),
            count(*hits),
            share(*hits),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    if !rows.is_empty() {
        print!("{}", aligned(&["pattern", "kind", "tool", "packets", "share"], &rows, &[0, 1, 2]));
    }
    let rows: Vec<Vec<String>> = tls.0.iter().map(|(print, hits)| vec![print.clone(), count(*hits)]).collect();
    if !rows.is_empty() {
        print!("{}", aligned(&["TLS client (JA4)", "packets"], &rows, &[0]));
    }
    if tls.1 > 0 {
        println!("{} cut short: no fingerprint can be had of those.", several(tls.1, "ClientHello"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes of the header that is made up for packets captured without one.
const ETHERNET: usize = 14;
/// Fingerprints that are counted at most.
const MOST_PRINTS: usize = 10_000;

fn export(cli: &Cli, incident: &str, format: Format, out: Option<&Path>) -> Result<ExitCode> {
    let captures = configuration(cli)?.paths.state.join("captures");
    let dir = directory(&captures, incident)?;
    let report = ioc::load(&dir).map_err(anyhow::Error::msg)?;
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    access::log(cli, Access::Indicators, &id, &format!("as {format:?}").to_lowercase())?;
    let text = rendered(&report, format)?;
    let Some(out) = out else {
        std::io::stdout().lock().write_all(text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    };
    // Never over something, and never through a link.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("{} cannot be made; name a file that is not there yet", out.display()))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(|| out.display().to_string())?;
    if cli.json {
        println!("{}", json!({ "written": out, "bytes": text.len() }));
    } else {
        println!("{} written to {}.", several(text.len() as u64, "byte"), out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn rendered(report: &IocReport, format: Format) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Csv => report.csv(),
        Format::Stix => {
            let bundle = stix::bundle(report);
            let problems = stix::problems(&bundle);
            if let Some(problem) = problems.first() {
                bail!("the bundle would not be valid STIX ({problem}): report this with the file {}", ioc::FILE_NAME);
            }
            serde_json::to_string_pretty(&bundle)? + "\n"
        }
    })
}

/// Finds an incident's directory by its name in the list of what is there: what is given is never joined to a
/// path, so it cannot lead out.
fn directory(captures: &Path, incident: &str) -> Result<PathBuf> {
    let shown = captures.display();
    let entries = fs::read_dir(captures)
        .with_context(|| format!("{shown} cannot be read: the daemon makes it when it records its first incident"))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| fs::symlink_metadata(captures.join(name).join(ioc::FILE_NAME)).is_ok())
        .collect();
    names.sort();
    if incident == "last" {
        return names
            .last()
            .map(|name| captures.join(name))
            .with_context(|| format!("no incident in {shown} has indicators"));
    }
    let exact: Vec<&String> = names.iter().filter(|name| *name == incident).collect();
    let near =
        names.iter().filter(|name| !incident.is_empty() && (name.starts_with(incident) || name.ends_with(incident)));
    let found: Vec<&String> = if exact.is_empty() { near.collect() } else { exact };
    match found.as_slice() {
        [name] => Ok(captures.join(name)),
        [] => {
            bail!("no incident `{}` in {shown} has indicators; `ftagent incidents` lists incidents", harmless(incident))
        }
        several => bail!("`{}` fits {} incidents; write more of the id", harmless(incident), several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incident_is_found_by_its_name_and_nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let captures = dir.path().join("captures");
        for name in ["20260801T120000Z-1", "20260801T130000Z-2", "20260802T130000Z-3"] {
            fs::create_dir_all(captures.join(name)).unwrap();
            fs::write(captures.join(name).join(ioc::FILE_NAME), "{}").unwrap();
        }
        fs::create_dir_all(captures.join("20260803T130000Z-4")).unwrap();
        fs::write(dir.path().join(ioc::FILE_NAME), "{}").unwrap();
        std::os::unix::fs::symlink(dir.path(), captures.join("20260809T000000Z-9")).unwrap();
        let name = |given: &str| {
            directory(&captures, given).map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).ok()
        };
        let cases = [
            ("last", Some("20260802T130000Z-3")),
            ("20260801T120000Z-1", Some("20260801T120000Z-1")),
            ("-2", Some("20260801T130000Z-2")),
            ("20260802", Some("20260802T130000Z-3")),
            ("20260801", None),
            ("", None),
            ("..", None),
            ("../", None),
            (".", None),
            ("/etc", None),
            ("20260809", None),
            ("20260803", None),
        ];
        for (given, wanted) in cases {
            assert_eq!(name(given).as_deref(), wanted, "{given}");
        }
    }
}
