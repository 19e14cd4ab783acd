//! The daemon at rest: CPU time and resident memory.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use ftagent_tests::{daemon::Daemon, sandbox::Sandbox};

use crate::report::Row;

/// How long it is watched.
const WATCH: Duration = Duration::from_secs(20);
/// How long a daemon that was just started may settle.
const SETTLE: Duration = Duration::from_secs(3);
/// The most that it may use, percent of one CPU.
const CPU_PERCENT: f64 = 0.5;
/// The most that may be resident, MiB.
const RESIDENT_MIB: f64 = 25.0;
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
    let before = cpu_seconds(pid)?;
    thread::sleep(WATCH);
    let percent = (cpu_seconds(pid)? - before) / WATCH.as_secs_f64() * 100.0;
    Ok(vec![
        Row::alone("CPU, part of one core", percent, "%", Some(CPU_PERCENT)),
        Row::alone("resident", resident_mib(pid)?, "MiB", Some(RESIDENT_MIB)),
    ])
}

/// User and system time of all its threads: fields 14 and 15 of proc(5)'s `/proc/PID/stat`.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("{path}: does the daemon run?"))?;
    // The name in field 2 may contain spaces; what follows the last parenthesis begins with field 3.
    let (_, rest) = stat.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let ticks = |field: usize| -> Result<u64> {
        let text = rest.split_whitespace().nth(field - 3).with_context(|| format!("{path} is short"))?;
        text.parse().with_context(|| format!("field {field} of {path}"))
    };
    Ok((ticks(14)? + ticks(15)?) as f64 / USER_HZ)
}

fn resident_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).with_context(|| format!("{path} has no VmRSS"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
