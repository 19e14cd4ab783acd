//! The tripwire in the running daemon: what is decided is in force before the tick is over.

use std::collections::BTreeSet;

use ftagent_common::TrafficClass;

use super::mitigator::Beat;
use crate::{
    act::tripwire::TripwireDriver,
    decide::{Decider, tripwire::Ceiling},
    serve::protocol::TripwireStatus,
};

/// What is held is renewed this often, nanoseconds.
const EVERY_NS: u64 = 1_000_000_000;

/// The tripwire's driver, and what it was told.
#[derive(Debug)]
pub(super) struct Trap {
    driver: TripwireDriver,
    beat: Beat,
    generation: Option<u64>,
    at_ns: u64,
}

impl Trap {
    pub(super) fn new(driver: TripwireDriver, beat: Beat) -> Self {
        Self { driver, beat, generation: None, at_ns: 0 }
    }

    /// Takes the ports by which operators come in; they hold from the next tick on.
    pub(super) fn set(&mut self, ports: impl IntoIterator<Item = u16>, beat: Beat) {
        (self.beat, self.generation) = (beat, None);
        self.driver.set_ports(ports);
    }

    /// Holds what is wanted, where that changed or is due for renewal.
    pub(super) fn follow(&mut self, now_ns: u64, (ceilings, generation): (&[Ceiling], u64)) {
        let due = now_ns.saturating_sub(self.at_ns) >= EVERY_NS;
        if due || self.generation != Some(generation) {
            self.driver.apply(ceilings, self.beat.at(now_ns));
            (self.generation, self.at_ns) = (Some(generation), now_ns);
        }
    }

    /// Returns what is held, for people. Early ticks are not known here.
    pub(super) fn status(decider: &Decider) -> TripwireStatus {
        let all = TrafficClass::ALL.into_iter().zip(decider.ceilings().0);
        let policed = all.filter(|(_, ceiling)| ceiling.police.is_some());
        let classes: BTreeSet<String> = policed.map(|(class, _)| class.as_str().to_owned()).collect();
        TripwireStatus {
            policed: classes.len(),
            classes,
            thinned: decider.thinned().iter().map(|(class, pps)| (class.as_str().to_owned(), *pps)).collect(),
            early_ticks: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Counts, Now, Settings, Tick, mitigate::Mode};

    #[test]
    fn what_nobody_has_business_in_is_policed_where_anything_is_acted_on() {
        let all = TrafficClass::ALL.into_iter().filter(|class| class.is_no_business()).count();
        for (mode, wanted) in [(Mode::Enforce, all), (Mode::Observe, 0)] {
            let mut decider = Decider::new(Settings { trust_after_s: 1, seed: 1, mode });
            assert_eq!(Trap::status(&decider), TripwireStatus::default(), "nothing before the first tick");
            for tick in 1..=50 {
                let now = Now { mono_ns: tick * 100_000_000, unix_ms: tick as i64 * 100 };
                let (counts, elapsed_ns) = (&Counts::default(), 100_000_000);
                decider.on_tick(&Tick {
                    now,
                    elapsed_ns,
                    counts,
                    samples: &[],
                    outbound: None,
                    host: None,
                    rules: &[],
                });
            }
            let status = Trap::status(&decider);
            assert_eq!((status.policed, status.classes.len()), (wanted, wanted), "{mode:?}");
            let named = |name: &String| TrafficClass::from_name(name).is_some_and(TrafficClass::is_no_business);
            assert!(status.classes.iter().all(named), "{status:?}");
        }
    }
}
