//! How full the uplink is, seen by the router that shapes it.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::Edge;
use crate::sandbox::Sandbox;

/// Time between two looks.
pub const PERIOD: Duration = Duration::from_millis(100);
/// From this share of its capacity on a link counts as full: the shaper counts other bytes than the interface.
const FULL: f64 = 0.95;

/// What went over the link in a period.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// When the period ended.
    pub at: Instant,
    /// Bits a second.
    pub bits: f64,
    /// Whether it was full.
    pub full: bool,
}

/// Measures until it is dropped.
#[derive(Debug)]
pub struct Meter {
    loads: Arc<Mutex<Vec<Load>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Meter {
    /// Begins to measure the uplink, whose capacity is in Mbit/s.
    pub fn start(sandbox: &Sandbox, edge: &Edge, capacity_mbit: u32) -> Self {
        let (loads, stop) = (Arc::<Mutex<Vec<Load>>>::default(), Arc::new(AtomicBool::new(false)));
        let (seen, halt) = (Arc::clone(&loads), Arc::clone(&stop));
        let path = format!("/sys/class/net/{}/statistics/tx_bytes", edge.veth.peer.name);
        let capacity = f64::from(capacity_mbit) * 1e6;
        let thread = sandbox.peer_host().spawn(move || measure(&path, capacity, &seen, &halt));
        Self { loads, stop, thread: Some(thread) }
    }

    /// Returns what was measured so far.
    pub fn loads(&self) -> Vec<Load> {
        self.loads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns how long the link was full since then, seconds.
    pub fn full_since(&self, since: Instant) -> f64 {
        let full = self.loads().into_iter().filter(|load| load.at > since && load.full).count();
        full as f64 * PERIOD.as_secs_f64()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(Ok(Ok(Err(error)))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the meter of the uplink: {error:#}");
        }
    }
}

fn measure(path: &str, capacity: f64, loads: &Mutex<Vec<Load>>, stop: &AtomicBool) -> Result<()> {
    let read = || -> Result<(u64, Instant)> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        Ok((text.trim().parse()?, Instant::now()))
    };
    let (mut bytes, mut at) = read()?;
    while !stop.load(Relaxed) {
        sleep(PERIOD);
        let (now_bytes, now) = read()?;
        let bits = now_bytes.saturating_sub(bytes) as f64 * 8.0 / (now - at).as_secs_f64();
        let load = Load { at: now, bits, full: bits >= capacity * FULL };
        loads.lock().unwrap_or_else(PoisonError::into_inner).push(load);
        (bytes, at) = (now_bytes, now);
    }
    Ok(())
}
