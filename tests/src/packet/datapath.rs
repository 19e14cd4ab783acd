//! Runs frames through the kernel program and tells what each did to the counters.

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::testrun::TestRun;
use ftagent_common::{
    DropReason, TrafficClass,
    abi::Sampling,
    class::CLASS_SLOTS,
    counters::IfaceCounters,
    parse::{Facts, SlicePacket, parse},
    reason::verdict,
    sample::{SampleHeader, SampleRecord},
};

/// The kernel program in test runs, with every packet sampled.
pub struct Datapath {
    /// The program, its lists and its clock.
    pub run: TestRun,
    before: IfaceCounters,
}

/// What one frame did, read from the difference of the counters.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The verdict, see [`verdict`].
    pub verdict: u32,
    /// The one class whose counter moved.
    pub class: TrafficClass,
    /// Bytes counted.
    pub bytes: u64,
    /// The reason, where it was dropped.
    pub reason: Option<DropReason>,
    /// The sample record.
    pub sample: SampleRecord,
}

impl Datapath {
    /// Loads the program; needs CAP_BPF and CAP_NET_ADMIN.
    pub fn new() -> Result<Self> {
        let mut run = TestRun::new(1).context("loading the datapath for test runs; it takes root")?;
        run.set_sampling(Sampling { stride: [1; CLASS_SLOTS], burst: u32::MAX, _pad: 0 })?;
        let before = run.counters()?;
        Ok(Self { run, before })
    }

    /// Runs a frame and checks everything that holds for any frame: exactly one class, one
    /// verdict and one sample, and that they agree.
    pub fn feed(&mut self, frame: &[u8]) -> Result<Outcome> {
        let returned = self.run.run(frame)?;
        let after = self.run.counters()?;
        let before = std::mem::replace(&mut self.before, after);
        let moved = |class: &TrafficClass| after.class(*class).packets != before.class(*class).packets;
        let classes: Vec<TrafficClass> = TrafficClass::ALL.into_iter().filter(moved).collect();
        let &[class] = &classes[..] else { anyhow::bail!("{} classes counted: {classes:?}", classes.len()) };
        let (now, then) = (after.class(class), before.class(class));
        ensure!(now.packets == then.packets + 1, "counted {} times", now.packets - then.packets);
        let reasons: Vec<DropReason> = DropReason::ALL
            .into_iter()
            .filter(|r| after.drops[class.index()][r.index()] != before.drops[class.index()][r.index()])
            .collect();
        ensure!(reasons.len() == usize::from(returned == verdict::DROP), "verdict {returned}, reasons {reasons:?}");
        let bytes = now.bytes - then.bytes;
        let dropped = now.dropped_bytes - then.dropped_bytes;
        ensure!(dropped == if returned == verdict::DROP { bytes } else { 0 }, "{dropped} of {bytes} bytes dropped");
        let sample = self.run.next_sample().context("no sample")?;
        ensure!(self.run.next_sample().is_none(), "more than one sample");
        let outcome = Outcome { verdict: returned, class, bytes, reason: reasons.first().copied(), sample };
        check_sample(&outcome, frame)?;
        check_identity(&after)?;
        Ok(outcome)
    }

    /// Runs a frame and returns its sample alone: many times faster than [`Self::feed`].
    pub fn feed_fast(&mut self, frame: &[u8]) -> Result<SampleRecord> {
        self.run.run(frame)?;
        self.run.next_sample().context("no sample")
    }

    /// Returns the counters.
    pub fn counters(&mut self) -> Result<IfaceCounters> {
        Ok(self.run.counters()?)
    }
}

/// What must hold of the counters at any time: every packet has one class and one verdict, every
/// drop one reason, and the program never fails.
pub fn check_identity(counters: &IfaceCounters) -> Result<()> {
    let verdicts: u64 = counters.verdicts.iter().sum();
    ensure!(counters.seen() == verdicts, "{} seen, {verdicts} verdicts", counters.seen());
    let drops: u64 = counters.drops.iter().flatten().sum();
    let dropped = counters.verdicts[verdict::DROP as usize];
    ensure!(drops == dropped, "{drops} drops with a reason, {dropped} verdicts");
    ensure!(counters.verdicts[verdict::ABORTED as usize] == 0, "aborted");
    Ok(())
}

fn check_sample(outcome: &Outcome, frame: &[u8]) -> Result<()> {
    let SampleRecord { header, data } = outcome.sample;
    let reason = outcome.reason.map_or(SampleHeader::NO_REASON, |reason| reason as u8);
    ensure!(usize::from(header.class) == outcome.class.index(), "sample of class {}", header.class);
    ensure!(u32::from(header.verdict) == outcome.verdict, "sample with verdict {}", header.verdict);
    ensure!(header.reason == reason, "sample with reason {}", header.reason);
    ensure!(u64::from(header.wire_bytes) == outcome.bytes, "sample of {} bytes", header.wire_bytes);
    let captured = usize::from(header.captured);
    ensure!(captured == frame.len().min(data.len()), "{captured} bytes captured of {}", frame.len());
    ensure!(data[..captured] == frame[..captured], "the sample holds other bytes than the frame");
    Ok(())
}

/// Parses a whole frame on the host.
pub fn parse_host(frame: &[u8], services: &[u16]) -> Facts {
    parse(&SlicePacket::whole(frame), |port| services.contains(&port))
}

/// Returns the class of a whole frame as the host parser sees it.
pub fn class_on_host(frame: &[u8], services: &[u16]) -> Option<TrafficClass> {
    TrafficClass::from_index(parse_host(frame, services).class as usize)
}
