//! The daemon and its recorder under an attack of five vectors, as fast as one core sends and a thousand times
//! slower: whether rules stay in force, the thread's CPU time, memory, and whether the loss that it declares is
//! the loss there was.

use std::{
    fs,
    path::Path,
    sync::atomic::AtomicBool,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow};
use ftagent::record::recorder::meta::{CAPTURE, META, Meta, Status};
use ftagent_tests::{
    daemon::{Daemon, wait_for},
    sandbox::{Arrived, Sandbox},
    traffic::{Flood, Generator, vectors},
};

use crate::{
    daemon::{cpu_seconds_of, resident_mib},
    report::Row,
};

const HERE: &str = "reco0";
const PEER: &str = "reco1";
/// What is sent: vector, class, packets a second (`None`: as fast as a core sends).
const ATTACK: [(&str, &str, Option<u64>); 5] = [
    ("memcached_amplification", "udp_src_memcached", None),
    ("ntp_amplification", "udp_src_ntp", Some(20_000)),
    ("syn_flood", "tcp_syn", Some(2000)),
    ("ssdp_amplification", "udp_src_ssdp", Some(200)),
    ("icmp_flood", "icmp_echo", Some(20)),
];
/// The most that may pass of the attack, its first second and all that no rule is made for included, percent.
const PASSED_PERCENT: f64 = 5.0;
/// The most that the thread may use, percent of a core.
const CPU_PERCENT: f64 = 3.0;
/// The most by which memory may grow in the second half, MiB.
const GROWTH_MIB: f64 = 4.0;
/// The longest from the decision to the first byte in a file, milliseconds.
const FIRST_BYTE_MS: f64 = 100.0;
/// The longest that an incident takes to end.
const PATIENCE: Duration = Duration::from_secs(90);
const SECTIONS: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n[capture]\nmin_free = \"0 B\"\n";

/// Measures it.
pub fn rows(duration: Duration) -> Result<Vec<Row>> {
    Sandbox::run(|sandbox| measure(sandbox, duration))?
}

fn measure(sandbox: &Sandbox, duration: Duration) -> Result<Vec<Row>> {
    let veth = sandbox.veth(HERE, PEER)?;
    let daemon = Daemon::start(sandbox, &[HERE], SECTIONS)?;
    thread::sleep(Duration::from_secs(5));
    let pid = daemon.pid()?.as_raw().unsigned_abs();
    let senders: Vec<_> = ATTACK
        .into_iter()
        .map(|(vector, _, pps)| {
            let flood = vectors::find(vector)?.flood(&vectors::Link::to_here(&veth, false));
            let flood = Flood { pps, duration: Some(duration), ..flood };
            let ifindex = veth.peer.ifindex;
            Ok(sandbox.peer_host().spawn(move || Generator::new(ifindex)?.run(&flood, &AtomicBool::new(false))))
        })
        .collect::<Result<_>>()?;
    let captures = daemon.path("state").join("captures");
    let (id, first_byte) = first_byte(&captures)?;
    let begun = Instant::now();
    let thread = thread_of(pid, "capture")?;
    let before = cpu_seconds_of(&thread)?;
    let (mut resident, mut watch) = (Vec::new(), Watch::default());
    while senders.iter().any(|sender| !sender.is_finished()) {
        resident.push(resident_mib(pid)?);
        watch.look(&daemon)?;
        thread::sleep(Duration::from_millis(500));
    }
    let cpu = (cpu_seconds_of(&thread)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let mut sent = Vec::new();
    for sender in senders {
        sent.push(sender.join().map_err(|_| anyhow!("a flood's thread panicked"))???);
    }
    let meta = wait_for("the end of the capture", PATIENCE, || {
        read(&captures.join(&id)).filter(|meta| meta.status == Status::Closed)
    })?;
    let opened = meta.incident.as_ref().context("the capture is of no incident")?.opened.unix_ms;
    let first_ms = first_byte.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() * 1e3 - opened as f64;
    let half = resident.get(resident.len() / 2).copied().unwrap_or_default();
    let last = resident.last().copied().unwrap_or_default();
    let most = resident.iter().copied().fold(0.0, f64::max);
    let packets: u64 = sent.iter().map(|sent| sent.packets).sum();
    // Senders on several CPUs overflow the veth's queue in front of the program: what arrived is what its driver counted.
    let Arrived { packets: arrived, dropped: overflowed } = veth.here.arrived()?;
    let unaccounted = packets.abs_diff(arrived + overflowed);
    let declared = meta.lost_total();
    let pps = packets as f64 / duration.as_secs_f64();
    let interface = daemon.interface(HERE)?;
    let restarts = u64::from(daemon.pid()?.as_raw().unsigned_abs() != pid);
    let passed = 100.0 * interface.packets.saturating_sub(interface.dropped_packets) as f64 / packets.max(1) as f64;
    let difference = declared.abs_diff(arrived.saturating_sub(meta.written));
    let unknown = meta.classes.get("unknown").map_or(0, |counts| counts.seen);
    let bytes = meta.files.iter().find(|file| file.name == CAPTURE).map_or(0, |file| file.bytes);
    let mut rows = vec![
        Row::alone("packets sent", pps / 1e6, "Mpps", None),
        Row::alone("passed, of what was sent", passed, "%", Some(PASSED_PERCENT)),
        Row::alone("looks at the rules once there were any", watch.looks as f64, "", None),
        Row::alone("of those, without a rule in force", watch.without as f64, "", Some(0.0)),
        Row::alone("incidents", watch.incidents as f64, "", None),
        Row::alone("restarts", restarts as f64, "", Some(0.0)),
        Row::alone("the thread's CPU, part of a core", cpu, "%", Some(CPU_PERCENT)),
        Row::alone("resident, most", most, "MiB", None),
        Row::alone("resident, growth in the second half", last - half, "MiB", Some(GROWTH_MIB)),
        Row::alone("first byte after the decision", first_ms, "ms", Some(FIRST_BYTE_MS)),
        Row::alone(
            "sent and neither arrived nor dropped by the queue of the veth",
            unaccounted as f64,
            "packets",
            Some(0.0),
        ),
        Row::alone("dropped by the queue of the veth, before the program", overflowed as f64, "packets", None),
        Row::alone("arrived, as the veth's driver counted", arrived as f64, "packets", None),
        Row::alone("in the file", meta.written as f64, "packets", None),
        Row::alone("declared as lost", declared as f64, "packets", None),
        Row::alone("declared loss other than the true one by", difference as f64, "packets", Some(0.0)),
        Row::alone("of those, of no known class", unknown as f64, "packets", Some(0.0)),
        Row::alone("samples that the recorder was too slow for", meta.lost.tape as f64, "", Some(0.0)),
        Row::alone("samples without room in the file", meta.lost.quota as f64, "", None),
        Row::alone("on disk", bytes as f64 / 1e6, "MB", None),
    ];
    for (vector, class, pps) in ATTACK {
        let kept = meta.classes.get(class).map_or(0, |counts| counts.written);
        let rate = pps.map_or("flat out".to_owned(), |pps| format!("{pps} pps"));
        rows.push(Row::alone(format!("kept of {vector}, {rate}"), kept as f64, "packets", None));
    }
    Ok(rows)
}

/// What was seen of the rules from the first one on.
#[derive(Debug, Default)]
struct Watch {
    looks: usize,
    without: usize,
    incidents: usize,
}

impl Watch {
    fn look(&mut self, daemon: &Daemon) -> Result<()> {
        let is_in_force = daemon.rules()?.rules.iter().any(|rule| rule.state == "enforcing");
        if is_in_force || self.looks > 0 {
            self.looks += 1;
            self.without += usize::from(!is_in_force);
        }
        let answer: serde_json::Value = serde_json::from_str(&daemon.ok(&["incidents", "--json"])?)?;
        self.incidents = answer["incidents"].as_array().map_or(0, Vec::len);
        Ok(())
    }
}

fn read(dir: &Path) -> Option<Meta> {
    serde_json::from_slice(&fs::read(dir.join(META)).ok()?).ok()
}

/// Waits for the first byte of a capture; returns its name and when that was.
fn first_byte(captures: &Path) -> Result<(String, SystemTime)> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for dir in fs::read_dir(captures).into_iter().flatten().flatten() {
            if fs::metadata(dir.path().join(CAPTURE)).is_ok_and(|file| file.len() > 0) {
                return Ok((dir.file_name().to_string_lossy().into_owned(), SystemTime::now()));
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    Err(anyhow!("no incident was captured"))
}

/// Returns the directory of a thread of a process in `/proc`.
fn thread_of(pid: u32, name: &str) -> Result<String> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let path = task.path();
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
            return Ok(path.display().to_string());
        }
    }
    Err(anyhow!("process {pid} has no thread `{name}`"))
}
