//! Sends floods by live frames.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, TestRunOptions,
    maps::{Array, Map, MapData, PerCpuValues},
    programs::{TestRun as _, TestRunAttrs},
};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{
    PerCpu, Template, Vary, load, program,
    spec::{Spec, State},
    take, vary,
};

const PROGRAM: &str = "generate";
/// Frames that the kernel sends before it lets the receiver work: its default (NAPI_POLL_WEIGHT).
const BATCH: u32 = 64;
/// Packets of one call where no rate is wanted: some ten milliseconds, so that stopping is prompt
/// and setting up the pages for a call does not show.
const FLAT_OUT: u64 = 1 << 17;
/// Calls a second, at most, where a rate is wanted.
const CALLS_PER_SECOND: u64 = 100;
/// What is owed beyond this part of a second's packets is forgotten: a thread that was kept from
/// its CPU is not to make up for it in one burst.
const BACKLOG: u64 = 5;
/// Longest sleep, so that stopping is prompt.
const NAP: Duration = Duration::from_millis(100);

/// What to send, how fast, and how much of it. It ends at the first of the bounds.
#[derive(Clone, Debug)]
pub struct Flood {
    /// The frame.
    pub template: Template,
    /// What of it varies.
    pub vary: Vary,
    /// Packets per second; `None`: as fast as this CPU can.
    pub pps: Option<u64>,
    /// How many packets; `None`: no such bound.
    pub packets: Option<u64>,
    /// How long; `None`: no such bound.
    pub duration: Option<Duration>,
    /// Seeds what is drawn: the same seed on one CPU gives the same packets.
    pub seed: u64,
}

impl Flood {
    /// A flood without a rate and without an end: set them.
    pub fn new(template: Template, vary: Vary) -> Self {
        Self { template, vary, pps: None, packets: None, duration: None, seed: 1 }
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Bytes, without FCS.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Sent {
    /// Returns the mean rate, packets per second.
    pub fn pps(&self) -> f64 {
        self.packets as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// Sends floods out of one interface.
///
/// Frames leave as if the interface's own XDP program had returned `XDP_TX`. The other end of a
/// veth needs an XDP program (see [`super::Receiver`]), or the kernel drops them unseen.
pub struct Generator {
    ebpf: Ebpf,
    spec: Array<MapData, Spec>,
    state: PerCpu<State>,
    /// A second handle of `state`, which other threads may hold.
    counter: SentCounter,
    ifindex: u32,
}

/// Reads what a [`Generator`] has sent while it sends, from any thread.
#[derive(Clone)]
pub struct SentCounter(Arc<PerCpu<State>>);

impl SentCounter {
    /// Returns packets and bytes since the flood began.
    ///
    /// # Errors
    /// What the map says.
    pub fn sent(&self) -> Result<(u64, u64)> {
        let per_cpu = self.0.get(&0, 0).context("reading map `state`")?;
        Ok(per_cpu.iter().fold((0, 0), |(packets, bytes), one| (packets + one.packets, bytes + one.bytes)))
    }
}

impl Generator {
    /// Loads the program. `ifindex` is an interface of the network namespace of the thread that
    /// will call [`Generator::run`].
    ///
    /// # Errors
    /// What the kernel says; it needs CAP_BPF and CAP_NET_ADMIN.
    pub fn new(ifindex: u32) -> Result<Self> {
        let mut ebpf = load(PROGRAM)?;
        let spec = take(&mut ebpf, "spec")?;
        let second = ftagent::bpf::load::open_map(&ebpf, "state")?;
        let counter = SentCounter(Arc::new(PerCpu::try_from(Map::PerCpuArray(second))?));
        let state = take(&mut ebpf, "state")?;
        Ok(Self { ebpf, spec, state, counter, ifindex })
    }

    /// Returns packets and bytes since the last flood began.
    ///
    /// # Errors
    /// What the map says.
    pub fn sent(&self) -> Result<(u64, u64)> {
        self.counter.sent()
    }

    /// Returns a counter for another thread.
    pub fn counter(&self) -> SentCounter {
        self.counter.clone()
    }

    /// Sends a flood until it ends or `stop` is set. The thread stays on its CPU meanwhile: the
    /// receiver then works between batches, and no packet of a veth is lost to a full queue.
    ///
    /// # Errors
    /// Where template and variations contradict each other, or the kernel refuses.
    pub fn run(&mut self, flood: &Flood, stop: &AtomicBool) -> Result<Sent> {
        let (spec, frame) = vary::compile(&flood.template, &flood.vary)?;
        ensure!(flood.pps != Some(0), "a rate of 0 packets per second never ends");
        self.spec.set(0, spec, 0).context("writing map `spec`")?;
        self.seed(flood.seed)?;
        let _pinned = Pinned::here().context("pinning the thread to its CPU")?;
        let mut call = Call::new(&frame, self.ifindex);
        let mut pace = flood.pps.map(Pacer::new);
        let start = Instant::now();
        loop {
            let (packets, bytes) = self.sent()?;
            let elapsed = start.elapsed();
            let left = flood.packets.map_or(u64::MAX, |all| all.saturating_sub(packets));
            if left == 0 || stop.load(Ordering::Relaxed) || flood.duration.is_some_and(|limit| elapsed >= limit) {
                return Ok(Sent { packets, bytes, elapsed });
            }
            match pace.as_mut().map_or(Ok(FLAT_OUT), |pace| pace.due(elapsed, packets, left)) {
                Ok(now) => call.run(&mut self.ebpf, now.min(left) as u32)?,
                Err(early) => thread::sleep(early.min(NAP)),
            }
        }
    }

    fn seed(&mut self, seed: u64) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
        // splitmix64 (Steele et al. 2014): CPUs draw different numbers from one seed.
        let states = (0..cpus as u64).map(|cpu| {
            let mut z = seed.wrapping_add((cpu + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            State { packets: 0, bytes: 0, dice: (z ^ (z >> 31)) | 1 }
        });
        let values = PerCpuValues::try_from(states.collect::<Vec<_>>())?;
        self.state.set(0, values, 0).context("writing map `state`")
    }
}

/// Says how many packets are due. A call costs as much as thousands of packets and may have to
/// wait for the kernel, so what has come due meanwhile is sent by one call, however long it took.
struct Pacer {
    pps: u64,
    /// Packets of a call that is on time.
    chunk: u64,
    forgotten: u64,
}

impl Pacer {
    fn new(pps: u64) -> Self {
        Self { pps, chunk: (pps / CALLS_PER_SECOND).max(1), forgotten: 0 }
    }

    /// Returns the packets for the next call, or how long to wait before there are enough.
    fn due(&mut self, elapsed: Duration, sent: u64, left: u64) -> Result<u64, Duration> {
        // A call sends what is due up to the call after it.
        let until = elapsed.as_nanos() + u128::from(1_000_000_000 / CALLS_PER_SECOND);
        let goal = (until * u128::from(self.pps) / 1_000_000_000) as u64;
        let owed = goal.saturating_sub(sent + self.forgotten);
        let enough = self.chunk.min(left);
        if owed < enough {
            return Err(Duration::from_nanos((enough - owed).saturating_mul(1_000_000_000) / self.pps));
        }
        let now = owed.min((self.pps / BACKLOG).max(1));
        self.forgotten += owed - now;
        Ok(now)
    }
}

/// The arguments of a test run with live frames.
struct Call<'a> {
    frame: &'a [u8],
    context: Vec<u8>,
}

impl<'a> Call<'a> {
    fn new(frame: &'a [u8], ifindex: u32) -> Self {
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        Self { frame, context }
    }

    /// Sends; a signal may cut it short.
    fn run(&mut self, ebpf: &mut Ebpf, packets: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(self.frame),
            ctx_in: Some(&self.context),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(packets)),
            ..TestRunOptions::new()
        };
        match program(ebpf, PROGRAM)?.test_run(options) {
            Ok(_) => Ok(()),
            Err(aya::programs::ProgramError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::Interrupted =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("sending live frames"),
        }
    }
}

/// Keeps the calling thread on the CPU it is on until dropped.
struct Pinned(CpuSet);

impl Pinned {
    fn here() -> nix::Result<Self> {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this)?;
        let mut only = CpuSet::new();
        only.set(sched_getcpu()?)?;
        sched_setaffinity(this, &only)?;
        Ok(Self(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The set was the thread's own before: the kernel takes it again.
        let _restored: nix::Result<()> = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is sent in a second in which every call takes `call`.
    fn second(pps: u64, call: Duration) -> u64 {
        let (mut pacer, mut now, mut sent) = (Pacer::new(pps), Duration::ZERO, 0);
        while now < Duration::from_secs(1) {
            match pacer.due(now, sent, u64::MAX) {
                Ok(packets) => {
                    sent += packets;
                    now += call;
                }
                Err(early) => now += early,
            }
        }
        sent
    }

    #[test]
    fn the_rate_does_not_depend_on_how_long_a_call_takes() {
        for pps in [1, 7, 99, 100, 1_000, 12_345, 3_000_000] {
            for call in [0, 1, 9, 30, 150] {
                let sent = second(pps, Duration::from_millis(call));
                let most = pps + pps / 100 + 1;
                assert!((pps * 4 / 5..=most).contains(&sent), "{sent} at {pps} packets/s, calls of {call} ms");
            }
        }
    }

    #[test]
    fn a_long_delay_is_not_made_up_for() {
        let mut pacer = Pacer::new(1_000);
        assert_eq!(pacer.due(Duration::ZERO, 0, u64::MAX), Ok(10));
        assert_eq!(pacer.due(Duration::from_secs(10), 10, u64::MAX), Ok(200));
        assert_eq!(pacer.due(Duration::from_secs(10), 210, u64::MAX), Err(Duration::from_millis(10)));
        // The last packets do not wait for a whole chunk.
        assert_eq!(pacer.due(Duration::from_millis(10_003), 210, 3), Ok(3));
    }
}
