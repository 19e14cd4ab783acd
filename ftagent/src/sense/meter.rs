//! What happened in a tick: counters of all interfaces, as differences between two readings.

use ftagent_common::{TrafficClass, counters::IfaceCounters, sample::SampleRecord};

use super::{signals::HostSignals, window::IfaceSnapshot};

/// What was counted of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
}

/// What was counted, by class number.
pub type Classes = [Counted; TrafficClass::COUNT];

/// One tick, as it was observed.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// When the counters were read, `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// The same, milliseconds since 1970, UTC.
    pub unix_ms: i64,
    /// Time since the tick before: 100 ms, less where something is the matter, longer where ticks
    /// were missed.
    pub elapsed_ns: u64,
    /// What was counted in it, summed over the interfaces.
    pub classes: &'a Classes,
    /// The samples taken in it. Those of one CPU are in order of time.
    pub samples: &'a [SampleRecord],
    /// What the host told of itself, if there is anything new.
    pub host: Option<HostSignals>,
    /// The interfaces that were read, with their totals.
    pub ifaces: &'a [IfaceSnapshot],
}

/// Takes what was observed, and returns whether a decision waits for the next tick, which comes sooner
/// then. It is called on the poll thread, so it may not wait.
pub type Sink = Box<dyn FnMut(Observed<'_>) -> bool + Send>;

/// A difference of clocks, nanoseconds, above which the machine was suspended between two ticks.
const SUSPENDED_NS: u64 = 50_000_000;

/// Makes differences out of totals.
#[derive(Debug)]
pub struct Meter {
    /// The last reading of each interface, by slot.
    last: Vec<Option<Last>>,
    /// Counts the ticks: an interface that was not read in the last one begins anew.
    tick: u64,
    sum: Box<Classes>,
    /// Monotonic and boot time of the last tick.
    clocks: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Last {
    name: String,
    tick: u64,
    total: Box<Classes>,
}

impl Default for Meter {
    fn default() -> Self {
        Self { last: Vec::new(), tick: 0, sum: Box::new([Counted::default(); TrafficClass::COUNT]), clocks: None }
    }
}

impl Meter {
    /// Begins a tick.
    pub fn begin(&mut self) {
        self.tick += 1;
        self.sum.fill(Counted::default());
    }

    /// Adds the totals of an interface. Its first reading, and one after a reading that failed,
    /// count nothing: the packets before them belong to no known stretch of time.
    pub fn add(&mut self, slot: u32, name: &str, total: &IfaceCounters) {
        let slot = slot as usize;
        if self.last.len() <= slot {
            self.last.resize_with(slot + 1, || None);
        }
        let Some(place) = self.last.get_mut(slot) else { return };
        let before = place.as_ref().is_some_and(|last| last.name == name && last.tick + 1 == self.tick);
        let last = place.get_or_insert_with(|| Last {
            name: String::new(),
            tick: 0,
            total: Box::new([Counted::default(); TrafficClass::COUNT]),
        });
        if last.name != name {
            name.clone_into(&mut last.name);
        }
        last.tick = self.tick;
        let classes = TrafficClass::ALL.into_iter();
        for ((class, then), sum) in classes.zip(last.total.iter_mut()).zip(self.sum.iter_mut()) {
            let counter = total.class(class);
            let (packets, bytes, dropped) = (counter.packets, counter.bytes, total.dropped_packets(class));
            let now = Counted { packets, bytes, dropped };
            if before {
                // Counters that went back were made anew; all of the class is left out then.
                let since = || {
                    Some(Counted {
                        packets: now.packets.checked_sub(then.packets)?,
                        bytes: now.bytes.checked_sub(then.bytes)?,
                        dropped: now.dropped.checked_sub(then.dropped)?,
                    })
                };
                let since = since().unwrap_or_default();
                sum.packets += since.packets;
                sum.bytes += since.bytes;
                sum.dropped += since.dropped;
            }
            *then = now;
        }
    }

    /// Ends a tick: its length and what was counted. `None` where there is none to speak of: the
    /// first one, and one in which the machine was suspended. Packets from before and after the
    /// suspension would look like a burst on one clock, and like silence on the other.
    pub fn finish(&mut self, mono_ns: u64, boot_ns: u64) -> Option<(u64, &Classes)> {
        let (last_mono, last_boot) = self.clocks.replace((mono_ns, boot_ns))?;
        let elapsed = mono_ns.checked_sub(last_mono).filter(|elapsed| *elapsed > 0)?;
        let suspended = boot_ns.saturating_sub(last_boot).saturating_sub(elapsed);
        (suspended < SUSPENDED_NS).then_some((elapsed, &*self.sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: TrafficClass = TrafficClass::TcpSyn;
    const MS: u64 = 1_000_000;

    fn total(packets: u64) -> IfaceCounters {
        let mut total = IfaceCounters::ZERO;
        let class = &mut total.classes[CLASS.index()];
        (class.packets, class.bytes) = (packets, packets * 60);
        total.drops[CLASS.index()][0] = packets / 2;
        total
    }

    /// A tick with the readings of some interfaces (slot, name, packets); returns its length and
    /// packets.
    fn tick(meter: &mut Meter, at_ms: (u64, u64), readings: &[(u32, &str, u64)]) -> Option<(u64, u64)> {
        meter.begin();
        for (slot, name, packets) in readings {
            meter.add(*slot, name, &total(*packets));
        }
        let (elapsed, classes) = meter.finish(at_ms.0 * MS, at_ms.1 * MS)?;
        let counted = classes[CLASS.index()];
        assert_eq!(counted.bytes, counted.packets * 60);
        assert!(classes.iter().enumerate().all(|(i, c)| i == CLASS.index() || *c == Counted::default()));
        Some((elapsed / MS, counted.packets))
    }

    #[test]
    fn differences_are_summed_over_interfaces_and_nothing_is_made_up() {
        let mut meter = Meter::default();
        // Monotonic and boot time, the readings, and what is expected.
        type Case<'a> = ((u64, u64), &'a [(u32, &'a str, u64)], Option<(u64, u64)>, &'a str);
        let cases: &[Case<'_>] = &[
            ((100, 100), &[(0, "eth0", 5000), (2, "eth2", 70)], None, "the first tick has no length"),
            ((200, 200), &[(0, "eth0", 5010), (2, "eth2", 75)], Some((100, 15)), "an ordinary tick"),
            ((650, 650), &[(0, "eth0", 5050), (2, "eth2", 75)], Some((450, 40)), "a long one after missed ticks"),
            ((750, 750), &[(0, "eth0", 30), (2, "eth2", 80)], Some((100, 5)), "counters that were made anew"),
            ((850, 850), &[(0, "eth0", 40)], Some((100, 10)), "a reading that failed"),
            ((950, 950), &[(0, "eth0", 50), (2, "eth2", 900)], Some((100, 10)), "and the one after it"),
            ((1050, 1050), &[(0, "eth0", 60), (2, "eth2", 901)], Some((100, 11)), "and then it goes on"),
            ((1150, 1150), &[(0, "eth0", 60), (2, "eth9", 990)], Some((100, 0)), "another interface in the slot"),
            ((1250, 61_250), &[(0, "eth0", 9000), (2, "eth9", 990)], None, "a minute of suspension"),
            ((1350, 61_350), &[(0, "eth0", 9001), (2, "eth9", 990)], Some((100, 1)), "and the tick after it"),
            ((1350, 61_350), &[(0, "eth0", 9001), (2, "eth9", 990)], None, "no time at all"),
        ];
        for (at, readings, expected, what) in cases {
            assert_eq!(tick(&mut meter, *at, readings), *expected, "{what}");
        }
    }

    #[test]
    fn drops_are_counted_over_all_reasons() {
        let mut meter = Meter::default();
        tick(&mut meter, (1, 1), &[(0, "eth0", 100)]);
        meter.begin();
        let mut more = total(100);
        more.drops[CLASS.index()][0] += 3;
        more.drops[CLASS.index()][1] += 4;
        meter.add(0, "eth0", &more);
        let (_, classes) = meter.finish(2 * MS, 2 * MS).unwrap();
        assert_eq!(classes[CLASS.index()].dropped, 7);
    }
}
