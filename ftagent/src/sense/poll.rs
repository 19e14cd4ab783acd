//! The poll loop: every 100 ms it reads the counters of every interface, drains the samples, and
//! hands both on; sooner where the kernel says that there is too much of something.
//!
//! It runs on a thread of its own and makes blocking system calls only. What happened in a tick
//! goes to its [`Sink`]; whoever wants totals and rates takes the latest snapshot. It never waits
//! for anybody.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use aya::maps::{Array, MapData, RingBuf};
use ftagent_common::{
    TrafficClass,
    abi::{IFACE_SLOTS, Sampling},
    counters::IfaceCounters,
    sample::SampleRecord,
};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use super::{
    clock,
    host::watch::Latest,
    meter::{Meter, Observed, Sink},
    pace::Pace,
    window::{IfaceSnapshot, Window},
};
use crate::{bpf::counters::CounterReader, sys};

/// Time between adjustments of the sampling strides, nanoseconds.
pub const STRIDE_NS: u64 = 1_000_000_000;
/// Samples that one tick takes at most, twice what the ring holds: a ring that fills as fast as it
/// is drained must not hold the loop.
const MOST_SAMPLES: usize = 12_000;

/// What the poll loop knows at one instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Instant,
    /// Every protected interface.
    pub ifaces: Vec<IfaceSnapshot>,
}

/// An interface to read.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the interface.
    pub name: String,
    /// Its slot.
    pub slot: u32,
    /// What older counters had reached, to be added.
    pub base: Box<IfaceCounters>,
}

/// What the poll loop shares with the rest.
#[derive(Debug)]
pub struct Shared {
    snapshot: Mutex<Arc<Snapshot>>,
    targets: Mutex<Vec<Target>>,
    /// Samples taken out of the ring.
    pub samples: AtomicU64,
    /// Reads that failed.
    pub errors: AtomicU64,
    /// Ticks that ended sooner because the kernel said that there was too much of something.
    pub wakes: AtomicU64,
    stop: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            snapshot: Mutex::new(Arc::new(Snapshot { at: Instant::now(), ifaces: Vec::new() })),
            targets: Mutex::new(Vec::new()),
            samples: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }
}

impl Shared {
    /// Returns the latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is read, from the next tick on.
    pub fn set_targets(&self, targets: Vec<Target>) {
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// Ends the loop at its next tick.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The maps that the loop reads, the one it writes, and where its results go.
pub struct Poll {
    /// The counters.
    pub counters: OwnedFd,
    /// The sample ring.
    pub ring: RingBuf<MapData>,
    /// The strides.
    pub sampling: Array<MapData, Sampling>,
    /// Samples a second that the strides aim at.
    pub sample_rate: u32,
    /// Samples of one class in one jiffy and CPU at most.
    pub burst: u32,
    /// What the host tells of itself.
    pub host: Arc<Latest>,
    /// Gets every tick.
    pub sink: Sink,
}

/// What the loop keeps from tick to tick.
struct State {
    reader: CounterReader,
    windows: Vec<Window>,
    meter: Meter,
    samples: Vec<SampleRecord>,
}

impl Poll {
    /// Starts the loop on its own thread.
    ///
    /// # Errors
    /// Where the thread cannot be started or the CPUs not be counted.
    pub fn spawn(mut self, shared: Arc<Shared>) -> std::io::Result<thread::JoinHandle<()>> {
        let mut state = State {
            reader: CounterReader::new()?,
            windows: (0..IFACE_SLOTS).map(|_| Window::default()).collect(),
            meter: Meter::default(),
            samples: Vec::with_capacity(512),
        };
        let alarm = Alarm::new(&self.ring)?;
        thread::Builder::new().name("poll".into()).spawn(move || {
            let mut pace = Pace::new(clock::monotonic_ns());
            let mut adapted_ns = 0;
            while !shared.stop.load(Ordering::Relaxed) {
                let now_ns = clock::monotonic_ns();
                let hasty = self.tick(&shared, &mut state);
                if now_ns.saturating_sub(adapted_ns) >= STRIDE_NS {
                    self.adapt(&shared);
                    adapted_ns = now_ns;
                }
                pace.tick(now_ns, hasty);
                alarm.sleep(&mut pace, &shared);
            }
        })
    }

    /// Returns whether a decision waits for the next tick.
    fn tick(&mut self, shared: &Shared, state: &mut State) -> bool {
        let State { reader, windows, meter, samples } = state;
        let (at, (at_ns, boot_ns)) = (Instant::now(), clock::monotonic_and_boot_ns());
        let targets = shared.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ifaces = Vec::with_capacity(targets.len());
        meter.begin();
        for target in targets.iter() {
            let Some(window) = windows.get_mut(target.slot as usize) else { continue };
            match reader.total(self.counters.as_fd(), target.slot) {
                Ok(mut total) => {
                    meter.add(target.slot, &target.name, &total);
                    total.add(&target.base);
                    let rates = window.push(at, &total);
                    ifaces.push(IfaceSnapshot { name: target.name.clone(), slot: target.slot, total, rates });
                }
                Err(_) => {
                    shared.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        drop(targets);
        samples.clear();
        let records = std::iter::from_fn(|| self.ring.next().map(|item| sys::sample(&item)));
        samples.extend(records.take(MOST_SAMPLES).flatten());
        shared.samples.fetch_add(samples.len() as u64, Ordering::Relaxed);
        let snapshot = Arc::new(Snapshot { at, ifaces });
        *shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&snapshot);
        let Some((elapsed_ns, classes)) = meter.finish(at_ns, boot_ns) else { return false };
        let host = self.host.take();
        (self.sink)(Observed {
            at_ns,
            unix_ms: clock::unix_ms(),
            elapsed_ns,
            classes,
            samples,
            host,
            ifaces: &snapshot.ifaces,
        })
    }

    /// Gives every class that is active an equal share of the wanted sample rate: a rare kind of
    /// packet is then sampled whole, a flood one in thousands.
    fn adapt(&mut self, shared: &Shared) {
        let snapshot = shared.snapshot();
        let mut rates = [0.0; TrafficClass::COUNT];
        for iface in &snapshot.ifaces {
            rates.iter_mut().zip(&iface.rates).for_each(|(sum, rate)| *sum += rate.packets);
        }
        let wanted = strides(&rates, self.sample_rate);
        let Ok(mut sampling) = self.sampling.get(&0, 0) else { return };
        sampling.burst = self.burst;
        if sampling.stride[..TrafficClass::COUNT] != wanted {
            sampling.stride[..TrafficClass::COUNT].copy_from_slice(&wanted);
            if self.sampling.set(0, sampling, 0).is_err() {
                shared.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Waits for the next tick, or for the kernel's word that there is too much of something.
struct Alarm(Epoll);

impl Alarm {
    fn new(ring: &RingBuf<MapData>) -> std::io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Edge-triggered: samples that lie in the ring are no event, only the program's wake-up is.
        epoll.add(ring, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
        Ok(Self(epoll))
    }

    fn sleep(&self, pace: &mut Pace, shared: &Shared) {
        loop {
            let now_ns = clock::monotonic_ns();
            let left_ns = pace.due_ns().saturating_sub(now_ns);
            if left_ns == 0 {
                return;
            }
            // Whole milliseconds, upwards: no turn of the loop is for nothing.
            let timeout = u16::try_from(left_ns.div_ceil(1_000_000)).unwrap_or(u16::MAX);
            match self.0.wait(&mut [EpollEvent::empty()], EpollTimeout::from(timeout)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if pace.wake(clock::monotonic_ns()) => {
                    shared.wakes.fetch_add(1, Ordering::Relaxed);
                }
                // What cannot be waited for is slept through.
                Ok(_) => {}
                Err(_) => thread::sleep(std::time::Duration::from_nanos(left_ns)),
            }
        }
    }
}

/// Returns the stride of every class so that all of them together give `budget` samples a second:
/// shares are equal, and what a rare class leaves over goes to the others. `rates` are packets per
/// second by class.
pub fn strides(rates: &[f64; TrafficClass::COUNT], budget: u32) -> [u32; TrafficClass::COUNT] {
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|a, b| rates[*a].total_cmp(&rates[*b]));
    let mut left = f64::from(budget);
    let mut strides = [1; TrafficClass::COUNT];
    for (done, &class) in order.iter().enumerate() {
        let share = left / (rates.len() - done) as f64;
        // Powers of two: a rate that wobbles does not rewrite the map every second.
        let stride = (rates[class] / share.max(1.0)).ceil().clamp(1.0, f64::from(1 << 20)) as u32;
        strides[class] = stride.next_power_of_two();
        left = (left - rates[class] / f64::from(strides[class])).max(0.0);
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_classes_are_sampled_whole_and_floods_within_the_budget() {
        let mut rates = [0.0; TrafficClass::COUNT];
        rates[TrafficClass::TcpSyn.index()] = 1_000_000.0;
        rates[TrafficClass::UdpDnsQuery.index()] = 10.0;
        let strides = strides(&rates, 2000);
        assert_eq!(strides[TrafficClass::UdpDnsQuery.index()], 1);
        let samples: f64 = rates.iter().zip(strides).map(|(rate, stride)| rate / f64::from(stride)).sum();
        assert!((500.0..=2000.0).contains(&samples), "{samples}");
    }
}
