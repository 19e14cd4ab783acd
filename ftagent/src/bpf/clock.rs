//! How the kernel's jiffies relate to `CLOCK_MONOTONIC`: user space has no jiffies clock, so a
//! program of ours is test-run to read both at one instant.

use std::{thread::sleep, time::Duration};

use aya::{Ebpf, TestRunOptions, maps::Array, programs::TestRun as _};
use ftagent_common::abi::{Clock, maps, programs};

use super::load::{LoadError, map, open_map, program};

/// Ticks a second that kernels are built with (`CONFIG_HZ`).
const KNOWN_HZ: [u64; 5] = [100, 250, 300, 1000, 1200];

/// Turns durations into jiffies of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JiffyClock {
    hz: u64,
    at: Clock,
}

impl JiffyClock {
    /// Reads the clocks twice, 100 ms apart, and derives the tick rate.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn calibrate(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let first = read(ebpf)?;
        sleep(Duration::from_millis(100));
        let second = read(ebpf)?;
        let ticks = second.jiffies.saturating_sub(first.jiffies) * 1_000_000_000;
        let rate = ticks / second.now_ns.saturating_sub(first.now_ns).max(1);
        let hz = KNOWN_HZ.into_iter().min_by_key(|hz| hz.abs_diff(rate)).unwrap_or(250);
        Ok(Self { hz, at: second })
    }

    /// Reads the clocks anew; the tick rate stays.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn refresh(&mut self, ebpf: &mut Ebpf) -> Result<(), LoadError> {
        self.at = read(ebpf)?;
        Ok(())
    }

    /// Returns the ticks a second.
    pub const fn hz(&self) -> u64 {
        self.hz
    }

    /// Returns the current jiffy.
    pub fn now(&self) -> u64 {
        let elapsed = monotonic_ns().saturating_sub(self.at.now_ns);
        self.at.jiffies + (u128::from(elapsed) * u128::from(self.hz) / 1_000_000_000) as u64
    }

    /// Returns the jiffy that begins `after` from now, at least one tick ahead.
    pub fn after(&self, after: Duration) -> u64 {
        let ticks = (after.as_nanos() * u128::from(self.hz)).div_ceil(1_000_000_000);
        self.now().saturating_add(u64::try_from(ticks).unwrap_or(u64::MAX).max(1))
    }

    /// Returns the time until a jiffy; zero where it has passed.
    pub fn until(&self, jiffy: u64) -> Duration {
        let ticks = jiffy.saturating_sub(self.now());
        Duration::from_secs(ticks / self.hz) + Duration::from_nanos(ticks % self.hz * 1_000_000_000 / self.hz)
    }
}

fn read(ebpf: &mut Ebpf) -> Result<Clock, LoadError> {
    let name = programs::CLOCK;
    // XDP test runs want a frame of at least an Ethernet header; the program ignores it.
    let options = TestRunOptions { data_in: Some(&[0; 64]), ..TestRunOptions::new() };
    program(ebpf, name)?.test_run(options).map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
    let clock: Array<_, Clock> =
        Array::try_from(aya::maps::Map::Array(open_map(ebpf, maps::CLOCK)?)).map_err(map(maps::CLOCK))?;
    clock.get(&0, 0).map_err(map(maps::CLOCK))
}

fn monotonic_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
