//! The daemon at rest and under a flood: CPU time and resident memory.

use std::{fs, sync::atomic::AtomicBool, thread, time::Duration};

use anyhow::{Context as _, Result};
use ftagent_tests::{
    daemon::Daemon,
    sandbox::Sandbox,
    traffic::{Flood, Generator, vectors},
};

use crate::report::Row;

/// How long it is watched.
const WATCH: Duration = Duration::from_secs(20);
/// How long a daemon that was just started may settle.
const SETTLE: Duration = Duration::from_secs(3);
/// The most that it may use, percent of one CPU.
const CPU_PERCENT: f64 = 0.5;
/// The most that may be resident, MiB.
const RESIDENT_MIB: f64 = 25.0;
/// The same under a flood.
const CPU_PERCENT_FLOOD: f64 = 5.0;
/// The same under a flood.
const RESIDENT_MIB_FLOOD: f64 = 40.0;
/// How long the flood lasts that it is watched under.
const FLOOD: Duration = Duration::from_secs(12);
/// Kernel ticks a second in `/proc/PID/stat` (USER_HZ).
const USER_HZ: f64 = 100.0;

/// Measures a daemon that runs already, or starts one on an interface of its own.
pub fn at_rest(sandbox: &Sandbox, pid: Option<u32>) -> Result<Vec<Row>> {
    if let Some(pid) = pid {
        return watch(pid);
    }
    sandbox.veth("rest0", "rest1")?;
    let daemon = Daemon::start(sandbox, &["rest0"], "")?;
    thread::sleep(SETTLE);
    watch(daemon.pid()?.as_raw().unsigned_abs())
}

fn watch(pid: u32) -> Result<Vec<Row>> {
    let percent = cpu_percent(pid, WATCH)?;
    Ok(vec![
        Row::alone("CPU, part of one core", percent, "%", Some(CPU_PERCENT)),
        Row::alone("resident", resident_mib(pid)?, "MiB", Some(RESIDENT_MIB)),
    ])
}

/// Measures a daemon that trusts its baseline and is hit by SYNs from forged sources.
pub fn under_flood(sandbox: &Sandbox) -> Result<Vec<Row>> {
    let veth = sandbox.veth("hit0", "hit1")?;
    let daemon = Daemon::start(sandbox, &["hit0"], "[learning]\ntrust_after = \"2s\"\n")?;
    thread::sleep(SETTLE + SETTLE);
    let pid = daemon.pid()?.as_raw().unsigned_abs();
    let flood = vectors::find("syn_flood")?.flood(&vectors::Link::to_here(&veth, false));
    let ifindex = veth.peer.ifindex;
    let sender = sandbox.peer_host().spawn(move || {
        Generator::new(ifindex)?.run(&Flood { duration: Some(FLOOD), ..flood }, &AtomicBool::new(false))
    });
    thread::sleep(Duration::from_secs(1));
    let percent = cpu_percent(pid, FLOOD - Duration::from_secs(3))?;
    let resident = resident_mib(pid)?;
    let sent = sender.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))???;
    let status = daemon.status()?;
    Ok(vec![
        Row::alone("packets sent", sent.pps() / 1e6, "Mpps", None),
        Row::alone("CPU, part of one core", percent, "%", Some(CPU_PERCENT_FLOOD)),
        Row::alone("resident", resident, "MiB", Some(RESIDENT_MIB_FLOOD)),
        Row::alone("samples lost", status.samples.lost as f64, "", None),
    ])
}

fn cpu_percent(pid: u32, time: Duration) -> Result<f64> {
    let before = cpu_seconds(pid)?;
    thread::sleep(time);
    Ok((cpu_seconds(pid)? - before) / time.as_secs_f64() * 100.0)
}

/// User and system time of all its threads: fields 14 and 15 of proc(5)'s `/proc/PID/stat`.
fn cpu_seconds(pid: u32) -> Result<f64> {
    cpu_seconds_of(&format!("/proc/{pid}"))
}

/// The same of a process or thread by its directory.
pub fn cpu_seconds_of(dir: &str) -> Result<f64> {
    let path = format!("{dir}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: does the daemon run?"))?;
    // The name in field 2 may contain spaces; what follows the last parenthesis begins with field 3.
    let (_, rest) = stat.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let ticks = |field: usize| -> Result<u64> {
        let text = rest.split_whitespace().nth(field - 3).with_context(|| format!("{path} is short"))?;
        text.parse().with_context(|| format!("field {field} of {path}"))
    };
    Ok((ticks(14)? + ticks(15)?) as f64 / USER_HZ)
}

/// Returns what is resident of a process.
pub fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("{path} has no VmRSS"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
