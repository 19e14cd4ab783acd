//! How long an alert takes to a sink on this machine, through a flood.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use ftagent::{
    alert::Post,
    config::Config,
    decide::{Incident, Now, Severity, Vector},
    record::audit::AuditLog,
    sense::clock,
};
use ftagent_tests::{
    daemon::{self, Daemon, wait_for},
    http::{Request, Server, says},
    sandbox::Sandbox,
    traffic::{Flood, Generator, vectors},
};
use serde_json::Value;

use crate::report::Row;

/// The most that 99 of 100 alerts may take, milliseconds.
const TARGET_MS: f64 = 500.0;
/// Time between two alerts: no service bears more.
const PAUSE: Duration = Duration::from_millis(20);
const ALERTS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(60);
/// What the daemon learns is trusted after so long.
const LEARN: Duration = Duration::from_secs(6);

/// Measures in calm, and while a daemon is hit by as many SYNs as a core sends.
pub fn rows(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let calm = latencies()?;
    let veth = sandbox.veth("told0", "told1")?;
    let sink = Server::start(|_, _| says(204, ""));
    let mut daemon = Daemon::new(&["told0"], "")?;
    let secret = daemon.path("hook");
    let sections = format!(
        "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n[mitigation]\nmode = \"enforce\"\n{}",
        section(&secret, &sink)?
    );
    daemon.configure(&sections)?;
    daemon.launch(sandbox)?;
    thread::sleep(LEARN);
    let flood = vectors::find("syn_flood")?.flood(&vectors::Link::to_here(&veth, false));
    let (ifindex, halt) = (veth.peer.ifindex, Arc::new(AtomicBool::new(false)));
    let halted = Arc::clone(&halt);
    let sender = sandbox
        .peer_host()
        .spawn(move || Generator::new(ifindex)?.run(&Flood { duration: Some(PATIENCE), ..flood }, &halted));
    let own = opened(&daemon, &sink);
    let flooded = latencies();
    halt.store(true, Relaxed);
    let sent = sender.join().map_err(|_| anyhow!("the flood's thread panicked"))???;
    let flooded = flooded?;
    Ok(vec![
        Row::alone("in calm, p50", at(&calm, 0.5), "ms", None),
        Row::alone("in calm, p99", at(&calm, 0.99), "ms", Some(TARGET_MS)),
        Row::alone("packets sent", sent.pps() / 1e6, "Mpps", None),
        Row::alone("through a flood, p50", at(&flooded, 0.5), "ms", None),
        Row::alone("through a flood, p99", at(&flooded, 0.99), "ms", Some(TARGET_MS)),
        Row::alone("through a flood, longest", at(&flooded, 1.0), "ms", None),
        Row::alone("the flood itself, opened to arrived", own?, "ms", Some(TARGET_MS)),
    ])
}

/// Writes a secret, and returns the sink's section.
fn section(secret: &Path, sink: &Server) -> Result<String> {
    let text = format!("url = {}\nsecret = whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", sink.url("/hook"));
    daemon::secret(secret, &text)?;
    Ok(format!("[[alerts.sinks]]\nname = \"s\"\nkind = \"webhook\"\nsecret = {secret:?}\n"))
}

/// Returns a text of a message.
fn said(asked: &Request, name: &str) -> Option<String> {
    Some(asked.json().ok()?["data"][name].as_str()?.to_owned())
}

/// Milliseconds from the instant at which the daemon's incident opened to its message.
fn opened(daemon: &Daemon, sink: &Server) -> Result<f64> {
    let find = || sink.asked().into_iter().find(|asked| said(asked, "kind").as_deref() == Some("opened"));
    let asked = wait_for("the daemon's alert", PATIENCE, find)?;
    let arrived_ms = clock::unix_ms() as f64 - asked.at.elapsed().as_secs_f64() * 1000.0;
    let id = said(&asked, "topic").context("a message without a topic")?;
    let shown: Value = serde_json::from_str(&daemon.ok(&["incidents", "show", &id, "--json"])?)?;
    Ok(arrived_ms - shown["opened"]["unix_ms"].as_f64().context("an incident that was never opened")?)
}

/// Hands incidents over one after the other, and returns how long each took until it arrived, milliseconds,
/// sorted. The disk is the machine's own.
fn latencies() -> Result<Vec<f64>> {
    let dir = tempfile::Builder::new().prefix("ftagent-").tempdir_in("/var/tmp")?;
    let sink = Server::start(|_, _| says(204, ""));
    let text = format!("[audit]\nenabled = false\n[alerts]\n{}", section(&dir.path().join("hook"), &sink)?);
    let config = Config::parse(&text, "bench")?;
    let log = AuditLog::start(dir.path(), &config.audit, || ())?;
    let (post, _) = Post::start(dir.path(), &config.alerts, log)?;
    let mut handed = BTreeMap::new();
    for number in 0..ALERTS {
        let id = format!("i{number}");
        handed.insert(id.clone(), Instant::now());
        post.seen(Arc::new(incident(id)), None);
        thread::sleep(PAUSE);
    }
    wait_for("all alerts", PATIENCE, || (sink.count() >= ALERTS).then_some(()))?;
    post.stop();
    let took =
        |asked: Request| Some(asked.at.duration_since(*handed.get(&said(&asked, "topic")?)?).as_secs_f64() * 1000.0);
    let mut all: Vec<f64> = sink.asked().into_iter().filter_map(took).collect();
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

fn incident(id: String) -> Incident {
    let now = Now { mono_ns: clock::monotonic_ns(), unix_ms: clock::unix_ms() };
    Incident {
        severity: Severity::High,
        pps: 48_210.0,
        bps: 24_683_520.0,
        peak_pps: 60_000.0,
        peak_bps: 30_720_000.0,
        packets: 3_480_000,
        bytes: 222_720_000,
        ..Incident::new(id, Vector::SynFlood, now, now)
    }
}
