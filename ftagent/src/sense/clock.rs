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

/// Time between two readings that is none: a thread that was not interrupted takes less, nanoseconds.
const PROMPT_NS: u64 = 1_000_000;
/// Tries to read two clocks at the same time, at most.
const TRIES: u32 = 8;

/// Returns [`monotonic_ns`] and [`boot_ns`] of one instant: a thread that loses its CPU between the two readings
/// reads them again, or how long it waited would look like a suspension.
pub fn monotonic_and_boot_ns() -> (u64, u64) {
    together(monotonic_ns, boot_ns)
}

fn together(mut monotonic: impl FnMut() -> u64, mut boot: impl FnMut() -> u64) -> (u64, u64) {
    let (mut best, mut least) = ((0, 0), u64::MAX);
    for _ in 0..TRIES {
        let before = monotonic();
        let at_boot = boot();
        let apart = monotonic().saturating_sub(before);
        if apart < least {
            (best, least) = ((before, at_boot), apart);
        }
        if least < PROMPT_NS {
            break;
        }
    }
    best
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_thread_that_loses_its_cpu_between_two_clocks_reads_them_again() {
        const MS: u64 = 1_000_000;
        // How long each reading takes, one after the other; both clocks show the same time.
        let cases: [(&[u64], u64); 3] = [(&[0; 3], 0), (&[0, 80 * MS, 0, 0, 0, 0], 0), (&[80 * MS; 64], 160 * MS)];
        for (takes, apart) in cases {
            let (now, takes) = (Cell::new(0), Cell::new(takes.iter()));
            let read = || {
                let mut left = takes.take();
                now.set(now.get() + left.next().copied().unwrap_or(0));
                takes.set(left);
                now.get()
            };
            let (monotonic, boot) = together(read, read);
            assert!(boot - monotonic <= apart, "{monotonic} and {boot}");
        }
    }
}
