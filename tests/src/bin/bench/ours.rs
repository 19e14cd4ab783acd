//! The datapath under test, set up as the daemon sets it up.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{Xdp, XdpMode},
};
use ftagent::bpf::{
    Loader, clock::JiffyClock, counters::CounterReader, guard::KernelGuard, lists::Lists, load::fd, rules::KernelRules,
    set_sampling, tripwire::KernelTripwire,
};
use ftagent_common::{
    abi::{Sampling, features, maps, programs},
    class::CLASS_SLOTS,
    counters::IfaceCounters,
};

use crate::{
    measure::{self, Subject},
    report::Program,
};

/// One packet in so many is sampled: what the daemon settles at near a million packets per second.
const STRIDE: u32 = 1000;
/// Samples of a class in one jiffy at most.
const BURST: u32 = 64;

/// The datapath with everything on.
pub struct Ours {
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    /// Its lists.
    pub lists: Lists,
    /// Its signature rules.
    pub rules: KernelRules,
}

impl Ours {
    /// Loads it, with maps of its own and empty lists.
    pub fn load() -> Result<Self> {
        Self::with(features::ALL)
    }

    /// The same with some features only.
    pub fn with(features: u32) -> Result<Self> {
        let mut ebpf = Loader { slot: 0, replay: false, features, pins: None }.load()?;
        set_sampling(&ebpf, Sampling { stride: [STRIDE; CLASS_SLOTS], burst: BURST, _pad: 0 })?;
        let ring = ebpf.take_map(maps::SAMPLES).context("no map `samples`")?.try_into()?;
        let lists = Lists::open(&ebpf)?;
        let rules = KernelRules::open(&ebpf)?;
        Ok(Self { ebpf, ring, lists, rules })
    }

    /// Returns it to be measured, and what empties its ring between runs.
    pub fn subject(&mut self, verdict: u32) -> Result<(Subject<'_>, impl FnMut())> {
        let program = measure::loaded(&self.ebpf, programs::DATAPATH)?;
        let ring = &mut self.ring;
        let drain = || while ring.next().is_some() {};
        Ok((Subject { name: programs::DATAPATH, program, frags: true, verdict }, drain))
    }

    /// Returns what the kernel made of it.
    pub fn program(&self) -> Result<Program> {
        let info = measure::loaded(&self.ebpf, programs::DATAPATH)?.info()?;
        Ok(Program {
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            translated_bytes: info.size_translated().unwrap_or(0),
            machine_code_bytes: info.size_jitted(),
        })
    }

    /// Attaches it in native mode.
    pub fn attach(&mut self, interface: &str) -> Result<()> {
        let program: &mut Xdp = self.ebpf.program_mut(programs::DATAPATH).context("no datapath")?.try_into()?;
        program.attach(interface, XdpMode::Driver).map(drop).with_context(|| format!("attaching to {interface}"))
    }

    /// Returns its guard, which does nothing yet.
    pub fn guard(&self) -> Result<KernelGuard> {
        Ok(KernelGuard::open(&self.ebpf)?)
    }

    /// Returns its tripwire, which holds nothing yet.
    pub fn tripwire(&self) -> Result<KernelTripwire> {
        Ok(KernelTripwire::open(&self.ebpf)?)
    }

    /// Returns the kernel's jiffies in a second.
    pub fn hz(&mut self) -> Result<u64> {
        Ok(JiffyClock::calibrate(&mut self.ebpf)?.hz())
    }

    /// Returns its counters, summed over the CPUs.
    pub fn counters(&self) -> Result<IfaceCounters> {
        Ok(CounterReader::new()?.total(fd(&self.ebpf, maps::COUNTERS)?, 0)?)
    }
}
