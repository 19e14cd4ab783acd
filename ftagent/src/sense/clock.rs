//! The clocks of the running system.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Returns `CLOCK_MONOTONIC`, nanoseconds: it neither steps nor runs while the machine is
/// suspended.
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Returns `CLOCK_BOOTTIME`, nanoseconds: as [`monotonic_ns`], but it runs on in suspension.
pub fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

/// Returns milliseconds since 1970, UTC. It may step.
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// These clocks cannot fail (clock_gettime(2)).
fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
