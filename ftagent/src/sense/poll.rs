//! The poll loop: every 100 ms it reads the counters of every interface and drains the samples.
//!
//! It runs on a thread of its own and makes blocking system calls only; whoever wants its
//! results takes the latest snapshot. It never waits for anybody.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, RingBuf};
use ftagent_common::{
    TrafficClass,
    abi::{IFACE_SLOTS, Sampling},
    counters::IfaceCounters,
};

use super::window::{IfaceSnapshot, Window};
use crate::{bpf::counters::CounterReader, sys};

/// Time between reads.
pub const TICK: Duration = Duration::from_millis(100);
/// Ticks between adjustments of the sampling strides.
const STRIDE_TICKS: u64 = 10;

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
    stop: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            snapshot: Mutex::new(Arc::new(Snapshot { at: Instant::now(), ifaces: Vec::new() })),
            targets: Mutex::new(Vec::new()),
            samples: AtomicU64::new(0),
            errors: AtomicU64::new(0),
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

/// The maps that the loop reads, and the one it writes.
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
}

impl Poll {
    /// Starts the loop on its own thread.
    ///
    /// # Errors
    /// Where the thread cannot be started or the CPUs not be counted.
    pub fn spawn(mut self, shared: Arc<Shared>) -> std::io::Result<thread::JoinHandle<()>> {
        let mut reader = CounterReader::new()?;
        thread::Builder::new().name("poll".into()).spawn(move || {
            let mut windows: Vec<Window> = (0..IFACE_SLOTS).map(|_| Window::default()).collect();
            let mut next = Instant::now();
            for tick in 0u64.. {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                self.tick(&shared, &mut reader, &mut windows);
                if tick % STRIDE_TICKS == STRIDE_TICKS - 1 {
                    self.adapt(&shared);
                }
                next += TICK;
                let now = Instant::now();
                match next.checked_duration_since(now) {
                    Some(wait) => thread::sleep(wait),
                    // Behind by more than a tick (suspended, starved): do not catch up.
                    None => next = now,
                }
            }
        })
    }

    fn tick(&mut self, shared: &Shared, reader: &mut CounterReader, windows: &mut [Window]) {
        let targets = shared.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Instant::now();
        let mut ifaces = Vec::with_capacity(targets.len());
        for target in targets.iter() {
            let Some(window) = windows.get_mut(target.slot as usize) else { continue };
            match reader.total(self.counters.as_fd(), target.slot) {
                Ok(mut total) => {
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
        let drained = std::iter::from_fn(|| self.ring.next().map(|item| u64::from(sys::sample(&item).is_some()))).sum();
        shared.samples.fetch_add(drained, Ordering::Relaxed);
        *shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Snapshot { at, ifaces });
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

/// Returns the stride of every class so that all of them together give `budget` samples a second:
/// shares are equal, and what a rare class leaves over goes to the others.
fn strides(rates: &[f64; TrafficClass::COUNT], budget: u32) -> [u32; TrafficClass::COUNT] {
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
