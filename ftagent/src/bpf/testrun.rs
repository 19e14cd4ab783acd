//! Runs the datapath packet by packet under `BPF_PROG_TEST_RUN`, in virtual time.
//!
//! Verdicts, counters and samples are those of the very program that is attached to cards; only
//! clock and dice come from us. Runs are reproducible while the calling thread stays on one CPU,
//! which [`TestRun::new`] sees to.

use std::mem::offset_of;

use aya::{
    Ebpf, TestRunOptions,
    maps::{MapData, RingBuf},
    programs::TestRun as _,
};
use ftagent_common::{
    abi::{Clock, Sampling, features, maps, programs},
    counters::IfaceCounters,
    sample::SampleRecord,
};

use super::{
    LoadError, Loader,
    captures::CaptureRing,
    counters::CounterReader,
    guard::KernelGuard,
    lists::Lists,
    load::{fd, io, program},
    rules::KernelRules,
    tripwire::KernelTripwire,
};
use crate::sys::mmap::MappedArray;

/// XDP test runs refuse frames that are shorter than an Ethernet header.
pub const MIN_FRAME: usize = 14;

/// The datapath, loaded for test runs, with maps of its own.
pub struct TestRun {
    ebpf: Ebpf,
    clock: MappedArray<Clock>,
    ring: RingBuf<MapData>,
    reader: CounterReader,
    /// The lists of this instance.
    pub lists: Lists,
    /// The signature rules of this instance.
    pub rules: KernelRules,
}

impl TestRun {
    /// Loads the datapath in replay mode and pins the calling thread to the CPU it is on:
    /// per-CPU state is one CPU's.
    ///
    /// # Errors
    /// See [`LoadError`]; it needs CAP_BPF and CAP_NET_ADMIN.
    pub fn new(seed: u64) -> Result<Self, LoadError> {
        crate::sys::stay_on_this_cpu().map_err(io("pinning the thread to a CPU"))?;
        let mut ebpf = Loader { slot: 0, replay: true, features: features::ALL, pins: None }.load()?;
        let mut clock = MappedArray::new(fd(&ebpf, maps::CLOCK)?, 1).map_err(io("mapping `clock`"))?;
        clock.set(0, Clock { now_ns: 0, jiffies: 0, dice: seed.max(1), ..Clock::default() });
        let ring = ebpf
            .take_map(maps::SAMPLES)
            .and_then(|map| RingBuf::try_from(map).ok())
            .ok_or(LoadError::Missing { kind: "map", name: maps::SAMPLES })?;
        let reader = CounterReader::new().map_err(io("counting CPUs"))?;
        let lists = Lists::open(&ebpf)?;
        let rules = KernelRules::open_idle(&ebpf)?;
        Ok(Self { ebpf, clock, ring, reader, lists, rules })
    }

    /// Opens the signature rules a second time, for an
    /// [`Enforcer`](crate::act::enforcer::Enforcer), which wants them for itself.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open_rules(&self) -> Result<KernelRules, LoadError> {
        KernelRules::open_idle(&self.ebpf)
    }

    /// Opens the tripwire, for a [`TripwireDriver`](crate::act::tripwire::TripwireDriver).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open_tripwire(&self) -> Result<KernelTripwire, LoadError> {
        KernelTripwire::open(&self.ebpf)
    }

    /// Opens the guard, for a [`GuardDriver`](crate::act::guard::GuardDriver). Its lookups find what
    /// [`Self::set_socket`] says.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open_guard(&self) -> Result<KernelGuard, LoadError> {
        KernelGuard::open(&self.ebpf)
    }

    /// Sets the virtual clock: nanoseconds since the start of the run. A virtual jiffy is
    /// [`JIFFY_NS`] long; jiffy 0 is skipped because 0 means "shared" in a list entry.
    pub fn set_time(&mut self, now_ns: u64) {
        self.clock.store(0, offset_of!(Clock, now_ns), now_ns);
        self.clock.store(0, offset_of!(Clock, jiffies), jiffies(now_ns));
    }

    /// Says what the socket table holds for the next frame: one of [`ftagent_common::guard::socket`].
    /// `room`: it is a SYN for a listener that has room for it.
    pub fn set_socket(&mut self, answer: u8, room: bool) {
        let room = if room { Clock::ROOM } else { 0 };
        self.clock.store(0, offset_of!(Clock, socket), u64::from(answer) | room);
    }

    /// Runs one frame through the datapath and returns the verdict
    /// (see [`ftagent_common::reason::verdict`]).
    ///
    /// # Errors
    /// What `BPF_PROG_TEST_RUN` says; frames shorter than [`MIN_FRAME`] are refused.
    pub fn run(&mut self, frame: &[u8]) -> Result<u32, LoadError> {
        let name = programs::DATAPATH;
        let source = |source| LoadError::Program { name, source: Box::new(source) };
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
        let result = program(&mut self.ebpf, name)?.test_run(options).map_err(source)?;
        Ok(result.return_value)
    }

    /// Takes the oldest sample out of the ring.
    pub fn next_sample(&mut self) -> Option<SampleRecord> {
        loop {
            let item = self.ring.next()?;
            if let Some(record) = crate::sys::sample(&item) {
                return Some(record);
            }
        }
    }

    /// Opens the ring of captured packets.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn captures(&self) -> Result<CaptureRing, LoadError> {
        CaptureRing::open(&self.ebpf)
    }

    /// Opens the rules of this instance.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn kernel_rules(&self) -> Result<KernelRules, LoadError> {
        KernelRules::open(&self.ebpf)
    }

    /// Sets the UDP ports that count as services.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_service_ports(&mut self, ports: &[u16]) -> Result<(), LoadError> {
        super::set_service_ports(&self.ebpf, ports)
    }

    /// Sets how the sampler draws: the stride of every class, and the cap per class and jiffy.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_sampling(&mut self, sampling: Sampling) -> Result<(), LoadError> {
        super::set_sampling(&self.ebpf, sampling)
    }

    /// Returns the counters, summed over the CPUs (one of which counts).
    ///
    /// # Errors
    /// What the map says.
    pub fn counters(&mut self) -> Result<IfaceCounters, LoadError> {
        let map = fd(&self.ebpf, maps::COUNTERS)?;
        self.reader.total(map, 0).map_err(io("reading `counters`"))
    }

    /// Returns how many instructions the verifier processed to accept the datapath.
    pub fn verified_instructions(&mut self) -> Option<u32> {
        let info = program(&mut self.ebpf, programs::DATAPATH).ok()?.info().ok()?;
        info.verified_instruction_count()
    }
}

/// Length of a virtual jiffy, nanoseconds: that of a kernel with `CONFIG_HZ=250`.
pub const JIFFY_NS: u64 = 4_000_000;

/// Virtual jiffies in a second.
pub const HZ: u64 = 1_000_000_000 / JIFFY_NS;

/// Returns the virtual jiffy at a virtual time.
pub const fn jiffies(now_ns: u64) -> u64 {
    1 + now_ns / JIFFY_NS
}
