//! Runs the decisions in virtual time: the same core as in the daemon, fed at the same pace.

use ftagent_common::{
    TrafficClass,
    abi::Sampling,
    class::CLASS_SLOTS,
    counters::IfaceCounters,
    sample::{SampleRecord, flags::WOKE},
};

use super::{
    ReplayError,
    gate::{Gate, Shown},
    naming::Naming,
    rules::Rules,
    scribe::{Given, Scribe},
    timeline::Event,
    watch::Fate,
};
use crate::{
    act::{enforcer::Jiffies, tripwire::TripwireDriver},
    bpf::{
        LoadError,
        testrun::{HZ, TestRun, jiffies},
    },
    decide::{ClassCount, Counts, Decider, Now, Packet, Tick},
    sense::{
        pace::Pace,
        poll::{STRIDE_NS, strides},
    },
};

/// What is held against each class is renewed this often, nanoseconds.
const RENEW_NS: u64 = 1_000_000_000;

/// The decisions of a replay.
pub(super) struct Mind {
    /// The functional core.
    pub(super) decider: Decider,
    /// What they want of the kernel.
    pub(super) rules: Rules,
    tripwire: TripwireDriver,
    /// The guard, where there are sockets to ask for.
    gate: Option<Gate>,
    /// The generation that is held against the classes, and when it was renewed.
    held: Option<(u64, u64)>,
    sampling: Sampling,
    sample_rate: u32,
    pace: Pace,
    /// Ticks that are over.
    ticks: u64,
    /// When the last one was.
    ended_ns: u64,
    /// When the strides were adjusted.
    adapted_ns: u64,
    /// Whether the program saw a packet in the present tick.
    busy: bool,
    before: Box<IfaceCounters>,
    counts: Box<Counts>,
    /// Packets by class since the strides were adjusted.
    recent: [f64; TrafficClass::COUNT],
    samples: Vec<Packet>,
    outbound: Vec<Packet>,
    /// What becomes a capsule, where one is wanted, and the samples of the present tick as they came.
    record: Option<Scribe>,
    records: Vec<SampleRecord>,
    /// Says which tools are at work; absent where nobody is to.
    naming: Option<Naming>,
    /// Whether the victim's own packets are in the captures.
    sees_outbound: bool,
}

impl Mind {
    pub(super) fn new(
        decider: Decider,
        rules: Rules,
        tripwire: TripwireDriver,
        (sample_rate, burst): (u32, u32),
        sees_outbound: bool,
    ) -> Self {
        Self {
            decider,
            rules,
            tripwire,
            gate: None,
            held: None,
            pace: Pace::new(0),
            ended_ns: 0,
            adapted_ns: 0,
            sampling: Sampling { stride: [1; CLASS_SLOTS], burst, _pad: 0 },
            sample_rate,
            ticks: 0,
            busy: false,
            before: Box::new(IfaceCounters::ZERO),
            counts: Box::default(),
            recent: [0.0; TrafficClass::COUNT],
            samples: Vec::new(),
            outbound: Vec::new(),
            record: None,
            records: Vec::new(),
            naming: None,
            sees_outbound,
        }
    }

    /// Has the guard at work.
    pub(super) fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    /// Has it said which tools are at work.
    pub(super) fn set_naming(&mut self, naming: Naming) {
        self.naming = Some(naming);
    }

    /// Returns the guard, where it is at work.
    pub(super) fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }

    /// Runs a packet through the program. `shown`: what its capture shows.
    pub(super) fn run(&mut self, event: &Event<'_>, shown: Shown, datapath: &mut TestRun) -> Result<Fate, LoadError> {
        let Some(gate) = &mut self.gate else { return Ok(Fate::of(datapath.run(event.frame)?)) };
        gate.before(event, shown, datapath);
        Ok(gate.after(event, datapath.run(event.frame)?))
    }

    /// Writes down what happens from now on.
    pub(super) fn record(&mut self, scribe: Scribe) {
        self.record = Some(scribe);
    }

    /// Returns what was written down.
    pub(super) fn take_record(&mut self) -> Option<Scribe> {
        self.record.take()
    }

    /// Ends all ticks up to a time.
    pub(super) fn advance(&mut self, now_ns: u64, datapath: &mut TestRun) -> Result<(), ReplayError> {
        while self.pace.due_ns() <= now_ns {
            self.ticks += 1;
            self.tick(self.pace.due_ns(), datapath)?;
        }
        Ok(())
    }

    /// Takes in a packet that the program has just seen. Its sample may say that the tick ends soon.
    pub(super) fn inbound(&mut self, now_ns: u64, datapath: &mut TestRun) {
        self.busy = true;
        // The ring holds the samples of one packet at a time: none is ever lost.
        while let Some(record) = datapath.next_sample() {
            if record.header.flags & WOKE != 0 {
                self.pace.wake(now_ns);
            }
            self.samples.push(Packet::of_sample(&record));
            if self.record.is_some() || self.naming.is_some() {
                self.records.push(record);
            }
        }
    }

    /// Takes in a packet that the protected side sent.
    pub(super) fn outbound(&mut self, event: &Event<'_>) {
        if let Some(gate) = &mut self.gate {
            gate.sent(event);
        }
        self.outbound.push(Packet::decode(event.time_ns, event.frame, event.frame.len(), None, false));
    }

    fn tick(&mut self, now_ns: u64, datapath: &mut TestRun) -> Result<(), ReplayError> {
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
        let now = Now { mono_ns: now_ns, unix_ms };
        let elapsed_ns = now_ns.saturating_sub(std::mem::replace(&mut self.ended_ns, now_ns));
        let rules = self.rules.counts()?;
        let events = self.decider.on_tick(&Tick {
            now,
            elapsed_ns,
            counts: &self.counts,
            samples: &self.samples,
            outbound: self.sees_outbound.then_some(&self.outbound),
            host: None,
            rules,
        });
        let records = std::mem::take(&mut self.records);
        let said = self.naming.as_mut().and_then(|naming| naming.tick(&self.decider, &records, now));
        if let Some(scribe) = &mut self.record {
            let given = Given { now, elapsed_ns, counts: &self.counts, rules };
            let outbound = self.sees_outbound.then_some(self.outbound.as_slice());
            scribe.tick(given, records, outbound, &self.before, (&self.decider, events))?;
        }
        if let Some(input) = said {
            self.record.as_mut().map_or(Ok(()), |scribe| scribe.input(&input))?;
            self.decider.put(input);
        }
        self.rules.end_tick(self.ticks, now_ns, &self.decider, datapath)?;
        self.hold(now_ns);
        if let Some(gate) = &mut self.gate {
            gate.follow(now_ns, self.decider.guard());
        }
        self.samples.clear();
        self.outbound.clear();
        if now_ns.saturating_sub(self.adapted_ns) >= STRIDE_NS {
            self.adapt(now_ns, datapath)?;
        }
        self.pace.tick(now_ns, self.decider.is_hasty(now_ns));
        Ok(())
    }

    /// Has the program hold against each class what is decided.
    fn hold(&mut self, now_ns: u64) {
        let (ceilings, generation) = self.decider.ceilings();
        if self.held.is_none_or(|(held, at)| held != generation || now_ns.saturating_sub(at) >= RENEW_NS) {
            self.tripwire.apply(ceilings, Jiffies { now: jiffies(now_ns), hz: HZ });
            self.held = Some((generation, now_ns));
        }
    }

    /// Adjusts the strides as the daemon's poll loop does.
    fn adapt(&mut self, now_ns: u64, datapath: &mut TestRun) -> Result<(), LoadError> {
        let seconds = now_ns.saturating_sub(std::mem::replace(&mut self.adapted_ns, now_ns)) as f64 / 1e9;
        let packets = std::mem::replace(&mut self.recent, [0.0; TrafficClass::COUNT]);
        let rates = packets.map(|packets| packets / seconds);
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
