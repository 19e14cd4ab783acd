//! Runs the decisions in virtual time: the same core as in the daemon, fed at the same pace.

use ftagent_common::{TrafficClass, abi::Sampling, class::CLASS_SLOTS, counters::IfaceCounters};

use super::{rules::Rules, timeline::Event};
use crate::{
    bpf::{LoadError, testrun::TestRun},
    decide::{ClassCount, Counts, Decider, Now, Packet, Tick},
    sense::poll::{TICK, strides},
};

/// Nanoseconds of a tick.
const TICK_NS: u64 = TICK.as_nanos() as u64;
/// Ticks between adjustments of the sampling strides.
const STRIDE_TICKS: u64 = 10;

/// The decisions of a replay.
pub(super) struct Mind {
    /// The functional core.
    pub(super) decider: Decider,
    /// What they want of the kernel.
    pub(super) rules: Rules,
    sampling: Sampling,
    sample_rate: u32,
    /// Ticks that are over.
    ticks: u64,
    /// Whether the program saw a packet in the present tick.
    busy: bool,
    before: Box<IfaceCounters>,
    counts: Box<Counts>,
    /// Packets by class since the strides were adjusted.
    recent: [f64; TrafficClass::COUNT],
    samples: Vec<Packet>,
    outbound: Vec<Packet>,
    /// Whether the victim's own packets are in the captures.
    sees_outbound: bool,
}

impl Mind {
    pub(super) fn new(decider: Decider, rules: Rules, sample_rate: u32, burst: u32, sees_outbound: bool) -> Self {
        Self {
            decider,
            rules,
            sampling: Sampling { stride: [1; CLASS_SLOTS], burst, _pad: 0 },
            sample_rate,
            ticks: 0,
            busy: false,
            before: Box::new(IfaceCounters::ZERO),
            counts: Box::default(),
            recent: [0.0; TrafficClass::COUNT],
            samples: Vec::new(),
            outbound: Vec::new(),
            sees_outbound,
        }
    }

    /// Ends all ticks up to a time.
    pub(super) fn advance(&mut self, now_ns: u64, datapath: &mut TestRun) -> Result<(), LoadError> {
        while (self.ticks + 1) * TICK_NS <= now_ns {
            self.ticks += 1;
            self.tick(datapath)?;
        }
        Ok(())
    }

    /// Takes in a packet that the program has just seen.
    pub(super) fn inbound(&mut self, datapath: &mut TestRun) {
        self.busy = true;
        // The ring holds the samples of one packet at a time: none is ever lost.
        while let Some(record) = datapath.next_sample() {
            self.samples.push(Packet::of_sample(&record));
        }
    }

    /// Takes in a packet that the protected side sent.
    pub(super) fn outbound(&mut self, event: &Event<'_>) {
        self.outbound.push(Packet::decode(event.time_ns, event.frame, event.frame.len(), None, false));
    }

    fn tick(&mut self, datapath: &mut TestRun) -> Result<(), LoadError> {
        let now_ns = self.ticks * TICK_NS;
        if std::mem::take(&mut self.busy) {
            let total = datapath.counters()?;
            for (class, count) in TrafficClass::ALL.into_iter().zip(&mut self.counts.classes) {
                *count = difference(&total, &self.before, class);
            }
            *self.before = total;
        } else {
            *self.counts = Counts::default();
        }
        for (sum, count) in self.recent.iter_mut().zip(&self.counts.classes) {
            *sum += count.packets as f64;
        }
        let unix_ms = i64::try_from(now_ns / 1_000_000).unwrap_or(i64::MAX);
        self.decider.on_tick(&Tick {
            now: Now { mono_ns: now_ns, unix_ms },
            elapsed_ns: TICK_NS,
            counts: &self.counts,
            samples: &self.samples,
            outbound: self.sees_outbound.then_some(&self.outbound),
            host: None,
            rules: self.rules.counts()?,
        });
        self.rules.end_tick(self.ticks, now_ns, &self.decider, datapath)?;
        self.samples.clear();
        self.outbound.clear();
        if self.ticks.is_multiple_of(STRIDE_TICKS) {
            self.adapt(datapath)?;
        }
        Ok(())
    }

    /// Adjusts the strides as the daemon's poll loop does.
    fn adapt(&mut self, datapath: &mut TestRun) -> Result<(), LoadError> {
        let rates = std::mem::replace(&mut self.recent, [0.0; TrafficClass::COUNT]);
        let wanted = strides(&rates, self.sample_rate);
        let Some(present) = self.sampling.stride.get_mut(..TrafficClass::COUNT) else { return Ok(()) };
        if present != wanted {
            present.copy_from_slice(&wanted);
            datapath.set_sampling(self.sampling)?;
        }
        Ok(())
    }
}

fn difference(total: &IfaceCounters, before: &IfaceCounters, class: TrafficClass) -> ClassCount {
    let (now, then) = (total.class(class), before.class(class));
    ClassCount {
        packets: now.packets.wrapping_sub(then.packets),
        bytes: now.bytes.wrapping_sub(then.bytes),
        dropped: total.dropped_packets(class).wrapping_sub(before.dropped_packets(class)),
    }
}
