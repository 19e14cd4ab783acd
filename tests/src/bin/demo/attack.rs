//! A flood under way: all the time until it is told to stop, or in pulses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use ftagent::sense::clock;
use ftagent_tests::{
    sandbox::{Host, Sandbox, Veth},
    traffic::{Flood, Generator, Sent},
};

/// A train of pulses.
#[derive(Clone, Copy, Debug)]
pub struct Pulses {
    /// How long each of them is.
    pub on: Duration,
    /// How long it is quiet after each.
    pub off: Duration,
    /// How many.
    pub count: usize,
}

/// An instant, on the clocks that the agent stamps with.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Since the boot, nanoseconds.
    pub mono_ns: u64,
    /// Since 1970, milliseconds.
    pub unix_ms: i64,
}

/// What the sender says.
enum Said {
    /// The next packet is the first.
    Begun(Moment),
    /// Of a pulse; a flood that is none is a single one.
    Ended(Sent),
}

/// A flood under way.
pub struct Attack {
    thread: JoinHandle<Result<Result<Sent>>>,
    stop: Arc<AtomicBool>,
    said: Receiver<Said>,
    /// When it began.
    pub begun: Moment,
}

impl Attack {
    /// Sends from the peer.
    pub fn begin(sandbox: &Sandbox, veth: &Veth, flood: Flood, pulses: Option<Pulses>) -> Result<Self> {
        Self::begin_at(sandbox.peer_host(), veth.peer.ifindex, flood, pulses)
    }

    /// Sends from a host, out of the interface of this index.
    pub fn begin_at(host: &Host, ifindex: u32, flood: Flood, pulses: Option<Pulses>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let halt = Arc::clone(&stop);
        let (says, said) = sync_channel(pulses.map_or(0, |pulses| 2 * pulses.count).max(2));
        let thread = host.spawn(move || {
            let mut generator = Generator::new(ifindex)?;
            match pulses {
                None => pulse(&mut generator, &flood, &halt, &says),
                Some(pulses) => train(&mut generator, &flood, pulses, &halt, &says),
            }
        });
        let Said::Begun(begun) = said.recv().context("the flood did not begin")? else {
            anyhow::bail!("the flood ended before it began");
        };
        Ok(Self { thread, stop, said, begun })
    }

    /// Waits until the present pulse is over.
    pub fn pulse_ended(&self) -> Result<Sent> {
        loop {
            if let Said::Ended(sent) = self.said.recv().context("there are no more pulses")? {
                return Ok(sent);
            }
        }
    }

    /// Waits until the next pulse begins.
    pub fn pulse_begun(&self) -> Result<Moment> {
        loop {
            if let Said::Begun(begun) = self.said.recv().context("there are no more pulses")? {
                return Ok(begun);
            }
        }
    }

    /// Ends it; returns what was sent in all.
    pub fn end(self) -> Result<Sent> {
        self.stop.store(true, Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))??
    }
}

fn pulse(generator: &mut Generator, flood: &Flood, stop: &AtomicBool, says: &SyncSender<Said>) -> Result<Sent> {
    says.send(Said::Begun(Moment { mono_ns: clock::monotonic_ns(), unix_ms: clock::unix_ms() }))?;
    let sent = generator.run(flood, stop)?;
    says.send(Said::Ended(sent))?;
    Ok(sent)
}

fn train(
    generator: &mut Generator,
    flood: &Flood,
    Pulses { on, off, count }: Pulses,
    stop: &AtomicBool,
    says: &SyncSender<Said>,
) -> Result<Sent> {
    let mut all = Sent::default();
    for number in 0..count as u64 {
        let flood = Flood { duration: Some(on), seed: number + 1, ..flood.clone() };
        let sent = pulse(generator, &flood, stop, says)?;
        all.packets += sent.packets;
        all.bytes += sent.bytes;
        all.elapsed += sent.elapsed;
        let quiet = Instant::now();
        while number + 1 < count as u64 && quiet.elapsed() < off && !stop.load(Relaxed) {
            sleep(Duration::from_millis(10));
        }
    }
    Ok(all)
}
