//! Benchmarks: one run, one table, and JSON with the same figures.
//!
//! Needs root and Debian's `xdp-tools` and `nftables`. Everything happens in network and mount
//! namespaces of its own. See `docs/BENCHMARKS.md` for what the figures mean.

mod alerts;
mod audit;
mod customers;
mod daemon;
mod datapath;
mod endtoend;
mod frames;
mod guard;
mod guardcost;
mod impact;
mod indicators;
mod inline;
mod measure;
mod ours;
mod pulses;
mod rates;
mod recorder;
mod report;
mod rivals;
mod rules;
mod tick;
mod tripwire;
mod upstream;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use ftagent_tests::sandbox::Sandbox;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    measure::{Bench, Effort},
    ours::Ours,
    report::{Report, Section},
    rivals::Rival,
};

/// Measures the datapath against xdp-filter and nftables.
#[derive(Debug, Parser)]
struct Args {
    /// Write the figures to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Runs of each program in a round.
    #[arg(long, default_value_t = 200_000)]
    repeat: u32,
    /// Rounds in which the programs take turns.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// The CPU for the measurements of single packets.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Seconds of each flood.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Seconds of the attack that is recorded.
    #[arg(long, default_value_t = 20)]
    recorded_seconds: u64,
    /// Attacks that are told of upstream.
    #[arg(long, default_value_t = 20)]
    attacks: usize,
    /// Measure a daemon that runs already.
    #[arg(long)]
    daemon_pid: Option<u32>,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Pass, Part::Lists, Part::Drops, Part::Rules, Part::Tripwire, Part::GuardCost, Part::Rates, Part::Flood, Part::Guard, Part::Pulses, Part::Impact, Part::Inline, Part::Daemon, Part::Recorder, Part::Decide, Part::Alerts, Part::Audit, Part::Indicators, Part::Ladder])]
    parts: Vec<Part>,
    /// Exit with status 1 where a target is missed.
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The pass path.
    Pass,
    /// Sources that are not listed.
    Lists,
    /// Sources that are, and how long loading takes.
    Drops,
    /// Signature rules.
    Rules,
    /// The tripwire.
    Tripwire,
    /// What the TCP guard costs a packet.
    GuardCost,
    /// How exact rate limits are.
    Rates,
    /// End to end.
    Flood,
    /// Customers who connect through floods, with the TCP guard and without.
    Guard,
    /// How long the first drop takes, pulse by pulse.
    Pulses,
    /// How long new attacks take until 95 % of them are dropped: the first part of `pulses` alone.
    Fresh,
    /// A server through the first seconds of an attack.
    Impact,
    /// Transactions of a client whose CPU is flooded.
    Inline,
    /// The daemon at rest and under a flood.
    Daemon,
    /// The recorder under an attack of five vectors.
    Recorder,
    /// What a tick of decisions costs.
    Decide,
    /// How long alerts take through a flood.
    Alerts,
    /// The audit log.
    Audit,
    /// What patterns and indicators cost for each sample.
    Indicators,
    /// From the incident to the route at a router upstream.
    Ladder,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let report = Sandbox::run(|sandbox| run(&args, sandbox))??;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)?;
        fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    let missed = report.print_verdict();
    if args.strict && missed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn run(args: &Args, sandbox: &Sandbox) -> Result<Report> {
    let mut ours = Ours::load()?;
    let mut report = Report {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor: processor()?,
        repeat: args.repeat,
        rounds: args.rounds,
        program: ours.program()?,
        sections: Vec::new(),
    };
    report.print_head();
    // The flood first: its threads choose their CPUs, what follows is on one.
    if args.parts.contains(&Part::Flood) {
        report
            .add("flood of 1 k listed sources over veth", endtoend::flood(sandbox, Duration::from_secs(args.seconds))?);
    }
    if args.parts.contains(&Part::Guard) {
        let rows = guard::rows(Duration::from_secs(args.seconds))?;
        report.sections.push(Section { title: "TCP guard", rows });
    }
    if args.parts.contains(&Part::Pulses) {
        report.add("first drop, 30 pulses of memcached's answers", pulses::armed()?);
        report.add("first drop, 30 pulses of NTP's answers", pulses::learned()?);
    }
    if args.parts.contains(&Part::Fresh) {
        report.add("attacks that are new", pulses::fresh()?);
    }
    if args.parts.contains(&Part::Ladder) {
        report.add("flow specifications, from the incident to the peer", upstream::rows(args.attacks)?);
    }
    if args.parts.contains(&Part::Impact) {
        let rows = impact::rows()?;
        report.sections.push(Section { title: "time to mitigate, time to impact", rows });
    }
    if args.parts.contains(&Part::Inline) {
        let rows = inline::rows()?;
        report.sections.push(Section { title: "inline DoS", rows });
    }
    if args.parts.contains(&Part::Daemon) {
        let rows = daemon::at_rest(sandbox, args.daemon_pid)?;
        if !rows.is_empty() {
            report.add("daemon at rest", rows);
        }
        if args.daemon_pid.is_none() {
            report.add("daemon under a SYN flood, as fast as one core sends", daemon::under_flood(sandbox)?);
        }
    }
    if args.parts.contains(&Part::Alerts) {
        report.add("alerts, from the hand-over to a sink on this machine", alerts::rows(sandbox)?);
    }
    if args.parts.contains(&Part::Audit) {
        report.add("audit log", audit::rows()?);
    }
    if args.parts.contains(&Part::Recorder) {
        let rows = recorder::rows(Duration::from_secs(args.recorded_seconds))?;
        report.add("recorder, five vectors at once", rows);
    }
    if args.parts.contains(&Part::Rates) {
        report.add("rate limits, ten times the rate offered", rates::rows()?);
    }
    stay_on(args.cpu)?;
    if args.parts.contains(&Part::Decide) {
        report.add("a tick of decisions, 2 000 samples", tick::decide());
    }
    if args.parts.contains(&Part::Indicators) {
        report.add("a sample in the recorder, for each", indicators::indicators());
    }
    packets(args, sandbox, &mut ours, &mut report)?;
    Ok(report)
}

/// Everything that is measured packet by packet.
fn packets(args: &Args, sandbox: &Sandbox, ours: &mut Ours, report: &mut Report) -> Result<()> {
    let mut bench = Bench::new(Effort { repeat: args.repeat, rounds: args.rounds }, 1)?;
    let kinds = frames::kinds();
    let find = |name: &str| kinds.iter().find(|kind| kind.name == name).with_context(|| format!("no kind `{name}`"));
    if args.parts.contains(&Part::Rules) {
        let kinds = [find("udp small")?, find("tcp syn")?, find("ipv6 udp small")?];
        report.add("signature rules, ns more than without the stage", rules::rows(&mut bench, ours, kinds)?);
    }
    if args.parts.contains(&Part::Tripwire) {
        let kinds = [find("udp small")?, find("tcp syn")?, find("ipv6 udp small")?];
        let rows = tripwire::rows(&mut bench, ours, kinds, &frames::memcached())?;
        report.add("tripwire, ns more than without the stage", rows);
    }
    if args.parts.contains(&Part::GuardCost) {
        let rows = guardcost::rows(sandbox, &mut bench, ours, &kinds)?;
        report.add("TCP guard, ns more than without the stage", rows);
    }
    if ![Part::Pass, Part::Lists, Part::Drops].iter().any(|part| args.parts.contains(part)) {
        return Ok(());
    }
    let pins = Path::new("/sys/fs/bpf");
    let full = Rival::load("xdpfilt_alw_all", pins)?;
    if args.parts.contains(&Part::Pass) {
        report.add("pass, everything on, lists empty", datapath::pass_path(&mut bench, ours, &full, &kinds)?);
    }
    if args.parts.contains(&Part::Lists) {
        let rows = datapath::lists(&mut bench, ours, &full, find("tcp syn")?)?;
        report.add("pass, IPv4 source not listed", rows);
        let rows = datapath::lists6(&mut bench, ours, &full, find("ipv6 tcp syn")?)?;
        report.add("pass, IPv6 source not listed", rows);
    }
    if args.parts.contains(&Part::Drops) {
        let deny = Rival::load("xdpfilt_dny_ip", pins)?;
        let mut allow = Rival::load("xdpfilt_alw_ip", pins)?;
        report.add("drop", datapath::drops(&mut bench, ours, &deny, &mut allow, find("tcp syn")?)?);
        report.add("loading", datapath::load(ours)?);
    }
    Ok(())
}

fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("moving to CPU {cpu}"))
}

fn processor() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Ok(model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()))
}
