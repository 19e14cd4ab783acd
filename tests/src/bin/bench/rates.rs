//! How exact rate limits are, however packets are spread over CPUs: in virtual time, so the answer is always the same.

use anyhow::{Context as _, Result};
use ftagent::{
    bpf::{
        rules::Placed,
        testrun::{HZ, TestRun},
    },
    rule::{Action, Origin, Rate, Rule},
};
use ftagent_common::reason::verdict;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{frames, report::Row};

/// The most by which what passes may be other than what was asked, percent.
const ERROR_PERCENT: f64 = 5.0;
/// Packets a second that are asked for; ten times that is offered.
const ASKED: u64 = 1000;
/// Virtual time of each case, and between two bunches of packets.
const SECONDS: u64 = 3;
const STEP_NS: u64 = 1_000_000;
/// From one case to the next, so that nothing is saved up.
const HOUR_NS: u64 = 3_600_000_000_000;

/// Measures limits in packets and in bits; leaves the thread where it was.
pub fn rows() -> Result<Vec<Row>> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me)?;
    let rows = measure(&allowed);
    // The bunches went from CPU to CPU.
    sched_setaffinity(me, &allowed)?;
    rows
}

fn measure(allowed: &CpuSet) -> Result<Vec<Row>> {
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let (one, two) = (*cpus.first().context("no CPU")?, *cpus.last().context("no CPU")?);
    let frame = frames::kinds().into_iter().find(|kind| kind.name == "udp from 123").context("no such kind")?.frame;
    let bits = frame.len() as u64 * 8;
    // Packets of a bunch on either CPU.
    let spreads = [("one CPU active", (10, 0)), ("evenly over two", (5, 5)), ("90 to 10 over two", (9, 1))];
    let rates = [("pps", Rate::Pps(ASKED)), ("bps", Rate::Bps(ASKED * bits))];
    let mut run = TestRun::new(1)?;
    let (mut rows, mut at) = (Vec::new(), 0);
    for (unit, rate) in rates {
        for (spread, (first, second)) in spreads {
            at += HOUR_NS;
            run.rules.install(&[], HZ)?;
            run.rules.install(&[placed(rate)?], HZ)?;
            let mut passed = 0;
            for step in 0..SECONDS * 1_000_000_000 / STEP_NS {
                run.set_time(at + step * STEP_NS);
                for (cpu, packets) in [(one, first), (two, second)] {
                    go_to(cpu)?;
                    for _ in 0..packets {
                        passed += u64::from(run.run(&frame)? == verdict::PASS);
                    }
                }
            }
            let error = 100.0 * passed.abs_diff(ASKED * SECONDS) as f64 / (ASKED * SECONDS) as f64;
            rows.push(Row::alone(format!("{unit}, {spread}: off by"), error, "%", Some(ERROR_PERCENT)));
        }
    }
    Ok(rows)
}

fn placed(rate: Rate) -> Result<Placed> {
    let matches = "udp sport 123".parse()?;
    let rule = Rule { matches, action: Action::RateLimit(rate), origin: Origin::Config, reason: String::new() };
    Ok(Placed { slot: 0, rule, expires: u64::MAX })
}

fn go_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("moving to CPU {cpu}"))
}
