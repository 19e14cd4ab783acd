//! `ftagent capture`: what was recorded of attacks, and captures that operators ask for.

mod show;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::{
    Cli, access,
    client::call,
    text::{aligned, count, duration, harmless, size, utc},
};
use crate::{
    config::{self, Config},
    record::capsule::export::{Options, export as make_capsule},
    record::recorder::{
        frames::{Survey, survey},
        lives,
        meta::{CAPTURE, Kind},
        store::{self, Entry, Hold, Opened},
    },
    rule::FlowMatch,
    sense::clock,
    serve::protocol::{Access, CaptureStart, Request},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List what was captured.
    List,
    /// Show what is in a capture and what is not.
    Show {
        /// Its name, the beginning or end of it, or `last`.
        #[arg(value_name = "ID|last", allow_negative_numbers = true)]
        id: String,
    },
    /// Write a capture to a file that Wireshark reads.
    Export(Export),
    /// Put a capture on legal hold: it is not removed, however old it gets.
    Hold {
        /// Its name, the beginning or end of it, or `last`.
        #[arg(value_name = "ID|last", allow_negative_numbers = true)]
        id: String,
        /// Why; shown by `ftagent capture list`.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take a capture off legal hold.
    Release {
        /// Its name, the beginning or end of it, or `last`.
        #[arg(value_name = "ID|last", allow_negative_numbers = true)]
        id: String,
    },
    /// Capture packets that match something, samples or all of them, dropped ones included.
    Start(Box<Start>),
    /// End a capture that was started.
    Stop {
        /// Its name; not needed where only one runs.
        name: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Export {
    /// Its name, the beginning or end of it, or `last`.
    #[arg(value_name = "ID|last", allow_negative_numbers = true)]
    id: String,
    /// Where to; `-` is standard output. Default: the capture's name in this directory.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// In which form.
    #[arg(long, value_enum, default_value = "pcapng")]
    format: Format,
    /// Write over a file that is there.
    #[arg(long, conflicts_with = "capsule")]
    force: bool,
    /// Make a capsule instead: one file with which `ftagent replay` decides again what was decided.
    #[arg(long, conflicts_with = "format")]
    capsule: bool,
    /// Change addresses and cut payload in a capsule, so that nobody can be recognised.
    #[arg(long, requires = "capsule")]
    anonymise: bool,
    /// Of an earlier life of the daemon, where it was started anew during the incident: from 1.
    #[arg(long, requires = "capsule", value_name = "N")]
    life: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// As Wireshark reads it.
    Pcapng,
    /// The same, compressed, as it is kept.
    Zst,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ftagent capture start --match \"udp dport 53\" --for 5m --full\n  \
                        ftagent capture start --match \"src 192.0.2.0/24\" --bytes \"10 MiB\"")]
struct Start {
    /// What packets have to match, as in `ftagent rules add`.
    #[arg(long = "match", value_name = "MATCH")]
    matches: FlowMatch,
    /// For how long, for example 5m; default: 10m.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
    /// How large it may get; default: `capture.incident_bytes`.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    bytes: Option<u64>,
    /// Every packet that matches, as long as it is, in place of samples.
    #[arg(long)]
    full: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let plain = || text.parse().ok();
    config::size(text).or_else(plain).ok_or("write a number and a unit, as \"10 MiB\"".to_owned())
}

/// Does it.
///
/// # Errors
/// Where the directory cannot be read, there is no such capture, or the daemon refuses.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::List => list(cli),
        Command::Show { id } => {
            let opened = find(cli, id)?;
            access::log(cli, Access::Show, &opened.id, "")?;
            show::run(cli, &opened)
        }
        Command::Export(export) => self::export(cli, export),
        Command::Hold { id, reason } => hold(cli, id, reason),
        Command::Release { id } => release(cli, id),
        Command::Start(start) => self::start(cli, start),
        Command::Stop { name } => {
            let data = call(cli, &Request::CaptureStop { name: name.clone() })?;
            let name = data.get("name").and_then(Value::as_str).unwrap_or_default();
            print(cli, &data, || format!("Capture {name} ends: `ftagent capture show {name}`."))
        }
    }
}

fn root(cli: &Cli) -> Result<PathBuf> {
    Ok(store::root(&Config::load(cli.config.as_deref())?.paths.state))
}

fn find(cli: &Cli, id: &str) -> Result<Opened> {
    store::find(&root(cli)?, id).map_err(anyhow::Error::msg)
}

fn print(cli: &Cli, data: &Value, text: impl FnOnce() -> String) -> Result<ExitCode> {
    if cli.json {
        println!("{}", serde_json::to_string(data)?);
    } else {
        println!("{}", text());
    }
    Ok(ExitCode::SUCCESS)
}

fn list(cli: &Cli) -> Result<ExitCode> {
    let root = root(cli)?;
    let entries = store::list(&root)
        .with_context(|| format!("reading {}: only root may, for it is what people sent", root.display()))?;
    if cli.json {
        println!("{}", serde_json::to_string(&entries)?);
    } else {
        print!("{}", table(&entries));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lays captures out, newest last.
fn table(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "Nothing was captured yet: a capture begins with an incident, or by `ftagent capture start`.\n"
            .to_owned();
    }
    let row = |entry: &Entry| {
        let held = if entry.hold.is_some() { "held" } else { "" }.to_owned();
        let Some(meta) = &entry.meta else {
            let problem = entry.problem.as_deref().unwrap_or("unknown");
            return vec![
                entry.id.clone(),
                utc(entry.changed_ms),
                problem.to_owned(),
                String::new(),
                String::new(),
                size(entry.bytes),
                held,
            ];
        };
        let what = match meta.kind {
            Kind::Incident => meta.vector.clone().unwrap_or_default(),
            Kind::Manual => meta.matches.clone().unwrap_or_default(),
        };
        vec![
            entry.id.clone(),
            utc(meta.begun_ms),
            format!("{what}, {}", meta.status.as_str()),
            count(meta.written),
            count(meta.seen),
            size(entry.bytes),
            held,
        ]
    };
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    harmless(&aligned(&["id", "begun", "what", "packets", "of", "on disk", ""], &rows, &[0, 1, 2, 6]))
}

fn hold(cli: &Cli, id: &str, reason: &str) -> Result<ExitCode> {
    let (opened, root) = (find(cli, id)?, root(cli)?);
    access::log(cli, Access::Hold, &opened.id, reason)?;
    let by = caller();
    let held = Hold { by: by.clone(), reason: reason.to_owned(), since_ms: clock::unix_ms() };
    store::hold(&root, &opened.id, &held).with_context(|| format!("holding capture {}", opened.id))?;
    let data = json!({ "id": opened.id, "held": true, "by": by });
    print(cli, &data, || format!("Capture {0} is kept until `ftagent capture release {0}`.", opened.id))
}

fn release(cli: &Cli, id: &str) -> Result<ExitCode> {
    let (opened, root) = (find(cli, id)?, root(cli)?);
    access::log(cli, Access::Release, &opened.id, "")?;
    let was = store::release(&root, &opened.id).with_context(|| format!("releasing capture {}", opened.id))?;
    let data = json!({ "id": opened.id, "held": false, "was_held": was });
    print(cli, &data, || match was {
        true => format!("Capture {} is kept no longer than others.", opened.id),
        false => format!("Capture {} was not on hold.", opened.id),
    })
}

/// Returns who runs this command: `name(uid)`.
fn caller() -> String {
    let uid = nix::unistd::Uid::current();
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    format!("{}({uid})", name.as_deref().unwrap_or("?"))
}

fn start(cli: &Cli, start: &Start) -> Result<ExitCode> {
    let for_s = start.lasts.map(|lasts| lasts.as_secs().max(1));
    let asked = CaptureStart { matches: start.matches.clone(), for_s, bytes: start.bytes, full: start.full };
    let data = call(cli, &Request::CaptureStart(Box::new(asked)))?;
    let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    let lasts = duration(data.get("for_s").and_then(Value::as_u64).unwrap_or_default());
    print(cli, &data, || {
        format!("Capture {0} runs for {lasts}: {1}. `ftagent capture stop {0}` ends it.", text("name"), text("match"))
    })
}

fn export(cli: &Cli, export: &Export) -> Result<ExitCode> {
    let opened = find(cli, &export.id)?;
    if export.capsule {
        return capsule(cli, export, &opened);
    }
    access::log(cli, Access::Export, &opened.id, &format!("as {:?}", export.format).to_lowercase())?;
    let extension = if export.format == Format::Zst { "pcapng.zst" } else { "pcapng" };
    let out = export.out.clone().unwrap_or_else(|| format!("{}.{extension}", opened.id).into());
    let file = opened.file(CAPTURE).with_context(|| format!("opening the capture of {}", opened.id))?;
    let found = if out == Path::new("-") {
        write(file, export.format, &mut io::stdout().lock()).context("writing to standard output")?
    } else {
        let mut to = create(&out, export.force)?;
        let found = write(file, export.format, &mut to).with_context(|| format!("writing {}", out.display()))?;
        to.as_file().sync_all().with_context(|| format!("writing {}", out.display()))?;
        name(to, &out, export.force)?;
        found
    };
    ensure!(found.frames > 0, "capture {} has no whole frame: nothing reached the disk", opened.id);
    if found.torn {
        eprintln!(
            "ftagent: the capture ends in a part of a frame, which is left out: it is being written, or was interrupted"
        );
    }
    if out != Path::new("-") {
        let data = json!({ "id": opened.id, "out": out, "frames": found.frames, "torn": found.torn });
        return print(cli, &data, || format!("Capture {} is in {}.", opened.id, out.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a capsule.
fn capsule(cli: &Cli, export: &Export, opened: &Opened) -> Result<ExitCode> {
    let of = export.life.map_or_else(String::new, |life| format!(".{}", lives::name(life)));
    let out = export.out.clone().unwrap_or_else(|| format!("{}{of}.ftcapsule", opened.id).into());
    let how = if export.anonymise { "anonymised" } else { "with addresses" };
    access::log(cli, Access::Capsule, &opened.id, &format!("{how}{of}").replace('.', ", "))?;
    let options = Options { anonymise: export.anonymise, life: export.life, created_unix_ms: clock::unix_ms() };
    let made = make_capsule(&root(cli)?.join(&opened.id), &out, &options);
    let manifest = made.map_err(|error| anyhow::anyhow!(crate::chain(&error)))?;
    let data = json!({ "id": opened.id, "out": out, "manifest": manifest });
    print(cli, &data, || {
        format!("Capsule {} has what decided incident {}: `ftagent replay {0}`.", out.display(), opened.id)
    })
}

/// Makes the file to export to beside its place: nobody else may read it, whoever may read or owns what is there. No
/// link is written over, and no file unless that is asked for.
fn create(out: &Path, force: bool) -> Result<NamedTempFile> {
    match fs::symlink_metadata(out) {
        Ok(_) if !force => bail!("{} is there already: name another file by --out, or use --force", out.display()),
        Ok(there) if !there.is_file() => bail!("{} is no plain file: name another one by --out", out.display()),
        _ => {}
    }
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    NamedTempFile::new_in(dir).with_context(|| format!("creating {}", out.display()))
}

/// Gives it its name, now that it is whole.
fn name(made: NamedTempFile, out: &Path, force: bool) -> Result<()> {
    let named = if force { made.persist(out) } else { made.persist_noclobber(out) };
    named.map(|_| ()).map_err(|error| error.error).with_context(|| format!("creating {}", out.display()))
}

/// Writes the whole frames of a capture.
fn write(file: File, format: Format, to: &mut impl io::Write) -> io::Result<Survey> {
    let mut failed = None;
    let mut blocks = |bytes: &[u8]| {
        if failed.is_none() {
            failed = to.write_all(bytes).err();
        }
    };
    if format == Format::Pcapng {
        let found = survey(io::BufReader::new(file), &mut blocks)?;
        to.flush()?;
        return failed.map_or(Ok(found), Err);
    }
    let found = survey(io::BufReader::new(&file), |_| {})?;
    let mut whole = io::Read::take(file, found.good);
    io::Seek::rewind(whole.get_mut())?;
    io::copy(&mut whole, to)?;
    to.flush()?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::recorder::meta::{Meta, Status};

    #[test]
    fn captures_are_listed() {
        assert!(table(&[]).contains("capture start"));
        let meta = Meta {
            begun_ms: 1_785_585_600_000,
            status: Status::Closed,
            vector: Some("ntp_amplification".to_owned()),
            written: 12_000,
            seen: 1_200_000,
            ..Meta::default()
        };
        let entry = Entry {
            id: "20260801T120000Z-1".to_owned(),
            bytes: 3 << 20,
            hold: Some(Hold::default()),
            changed_ms: 0,
            meta: Some(meta),
            problem: None,
        };
        let broken = Entry {
            id: "x".to_owned(),
            hold: None,
            meta: None,
            problem: Some("meta.json cannot be used".to_owned()),
            ..entry.clone()
        };
        let wanted = "  id                  begun                    what                       packets         of  on disk\n  \
             20260801T120000Z-1  2026-08-01 12:00:00 UTC  ntp_amplification, closed   12 000  1 200 000  3.15 MB  held\n  \
             x                   1970-01-01 00:00:00 UTC  meta.json cannot be used                       3.15 MB\n";
        let text = table(&[entry, broken]);
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(&text), squeezed(wanted), "{text}");
    }

    #[test]
    fn an_export_writes_over_nothing_and_is_for_one_pair_of_eyes() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let write = |force: bool| create(&out, force).and_then(|made| name(made, &out, force));
        write(false).unwrap();
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(false).unwrap_err().to_string().contains("--force"));
        // Everybody may read what was there, and somebody has it open.
        fs::set_permissions(&out, fs::Permissions::from_mode(0o644)).unwrap();
        let before = out.metadata().unwrap().ino();
        write(true).unwrap();
        let after = out.metadata().unwrap();
        assert!(after.permissions().mode() & 0o777 == 0o600 && after.ino() != before, "{after:?}");
        let link = dir.path().join("link");
        symlink(dir.path().join("elsewhere"), &link).unwrap();
        for special in [link.as_path(), dir.path(), Path::new("/dev/null")] {
            assert!(create(special, false).is_err() && create(special, true).is_err(), "{}", special.display());
        }
        assert!(!dir.path().join("elsewhere").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        assert_eq!(bytes("10 MiB"), Ok(10 << 20));
        assert_eq!(bytes("5kB"), Ok(5000));
        assert_eq!(bytes("65536"), Ok(65_536));
        for bad in ["", "MiB", "1.5 MiB", "-1 B", "10 parsecs", "99999999999999 TiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
