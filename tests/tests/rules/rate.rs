//! Rate limits: exact to a twentieth, however the packets are spread over CPUs.

use ftagent::{
    bpf::testrun::TestRun,
    rule::{Action, Rate},
};
use ftagent_common::reason::verdict;
use ftagent_tests::{
    packet::{Ipv4, Udp},
    require_root,
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use super::{HZ, placed};

/// Virtual time between two bunches of packets.
const STEP_NS: u64 = 1_000_000;

/// The CPUs that this thread may run on, two at most.
fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).take(2).collect()
}

fn go_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Sends bunches for some virtual seconds, so many packets on each CPU; returns how many passed.
fn passed(run: &mut TestRun, frame: &[u8], from_ns: u64, seconds: u64, bunch: &[(usize, u64)]) -> u64 {
    let mut passed = 0;
    for step in 0..seconds * 1_000_000_000 / STEP_NS {
        run.set_time(from_ns + step * STEP_NS);
        for &(cpu, packets) in bunch {
            go_to(cpu);
            for _ in 0..packets {
                passed += u64::from(run.run(frame).unwrap() == verdict::PASS);
            }
        }
    }
    passed
}

#[test]
fn a_limit_is_exact_on_one_cpu_and_on_several() {
    require_root!();
    let cpus = cpus();
    let (one, two) = (cpus[0], cpus[cpus.len() - 1]);
    let frame = Ipv4::new().frame(&Udp::new(123, 40000, &[7; 400]).build());
    let bits = frame.len() as u64 * 8;
    // Packets of a bunch on either CPU; every case offers ten times the rate.
    let cases = [
        ("one CPU", Rate::Pps(1000), [(one, 10), (two, 0)]),
        ("evenly", Rate::Pps(1000), [(one, 5), (two, 5)]),
        ("ninety to ten", Rate::Pps(1000), [(one, 9), (two, 1)]),
        ("one CPU, bits", Rate::Bps(1000 * bits), [(one, 10), (two, 0)]),
        ("evenly, bits", Rate::Bps(1000 * bits), [(one, 5), (two, 5)]),
    ];
    let mut run = TestRun::new(1).unwrap();
    let seconds = 2;
    for (i, (name, rate, bunch)) in (1..).zip(cases) {
        run.rules.install(&[], HZ).unwrap();
        run.rules.install(&[placed(0, "udp sport 123", Action::RateLimit(rate))], HZ).unwrap();
        // From a while after the last case on: nothing is saved up for longer than a moment.
        let passed = passed(&mut run, &frame, i * 3_600_000_000_000, seconds, &bunch);
        let expected = 1000 * seconds;
        let error = passed.abs_diff(expected) as f64 / expected as f64;
        assert!(error <= 0.05, "{name}: {passed} of {expected}");
        let counter = run.rules.counters().unwrap().slots[0];
        assert_eq!((counter.packets, counter.packets - counter.dropped), (10_000 * seconds, passed), "{name}");
    }
    for cpu in cpus {
        let mut all = sched_getaffinity(Pid::from_raw(0)).unwrap();
        all.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &all).unwrap();
    }
}

#[test]
fn slow_rates_and_rates_that_change() {
    require_root!();
    let mut run = TestRun::new(1).unwrap();
    let cpu = cpus()[0];
    let frame = Ipv4::new().frame(&Udp::new(123, 40000, &[7; 1400]).build());
    // One after the other in one slot: no account of the rate before it is carried over.
    let cases = [
        (Rate::Bps(100_000_000_000), 30_000),
        (Rate::Pps(1), 30),
        (Rate::Pps(10), 300),
        (Rate::Bps(frame.len() as u64 * 8), 30),
        (Rate::Pps(0), 0),
        (Rate::Pps(100), 3000),
        (Rate::Pps(u64::MAX), 30_000),
    ];
    for (i, (rate, expected)) in (1..).zip(cases) {
        run.rules.install(&[placed(0, "udp sport 123", Action::RateLimit(rate))], HZ).unwrap();
        let passed = passed(&mut run, &frame, i * 60_000_000_000, 30, &[(cpu, 1)]);
        assert!(passed.abs_diff(expected) <= expected / 20 + 2, "{rate:?}: {passed} of {expected}");
    }
}
