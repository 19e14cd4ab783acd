//! What the tripwire costs: the same program with the stage and without it.

use anyhow::Result;
use ftagent::{
    act::{enforcer::Jiffies, tripwire::TripwireDriver},
    decide::tripwire::{Bucket, Ceiling, Police},
};
use ftagent_common::{TrafficClass, abi::features, reason::verdict};

use crate::{
    frames::Kind,
    measure::{Bench, Input},
    ours::Ours,
    report::Row,
};

/// What the stage may cost packets of classes that are not policed, ns.
const TARGET: f64 = 1.0;
/// Ticks a second, as far as the rates here go.
const HZ: u64 = 1000;

/// What is held: as the daemon holds it in calm. Every class would wake the daemon, and those that
/// nobody has business in are policed.
fn armed(pps: f64) -> Vec<Ceiling> {
    let wakes = Some(Bucket { rate: 1e6, depth: 1e6 });
    let of = |class: TrafficClass| Ceiling {
        wake_pps: wakes,
        wake_bps: wakes,
        police: class.is_no_business().then_some(Police { pps, spared_pps: 100.0, spares_open: true }),
    };
    TrafficClass::ALL.into_iter().map(of).collect()
}

/// Measures packets that pass, of three kinds, and those of a policed class.
pub fn rows(bench: &mut Bench, ours: &mut Ours, kinds: [&Kind; 3], policed: &Kind) -> Result<Vec<Row>> {
    let mut without = Ours::with(features::ALL & !features::TRIPWIRE)?;
    let mut driver = TripwireDriver::new(ours.tripwire()?);
    // Far from now, so that what is held does not end: `expires` is this and 30 s.
    let jiffies = Jiffies { now: u64::MAX / 2, hz: HZ };
    let mut rows = Vec::new();
    for (case, ceilings) in [("nothing held", Vec::new()), ("armed", armed(1e6))] {
        driver.apply(&pad(ceilings), jiffies);
        for kind in kinds {
            more(&mut rows, bench, (&mut *ours, &mut without), (case, kind), verdict::PASS, Some(TARGET))?;
        }
    }
    driver.apply(&pad(armed(1e12)), jiffies);
    more(&mut rows, bench, (&mut *ours, &mut without), ("within its limit", policed), verdict::PASS, None)?;
    driver.apply(&pad(armed(1.0)), jiffies);
    more(&mut rows, bench, (&mut *ours, &mut without), ("over its limit", policed), verdict::DROP, None)?;
    driver.apply(&pad(Vec::new()), jiffies);
    Ok(rows)
}

/// A ceiling for every class.
fn pad(mut ceilings: Vec<Ceiling>) -> Vec<Ceiling> {
    ceilings.resize(TrafficClass::COUNT, Ceiling::default());
    ceilings
}

/// Adds what the stage costs a kind of packet.
fn more(
    rows: &mut Vec<Row>,
    bench: &mut Bench,
    (ours, without): (&mut Ours, &mut Ours),
    (case, kind): (&str, &Kind),
    expected: u32,
    target: Option<f64>,
) -> Result<()> {
    let inputs = [Input::Constant(&kind.frame), Input::Cycle(&[kind], &[])];
    for (name, input) in ["constant", "cycle"].into_iter().zip(inputs) {
        let (with, mut drain) = ours.subject(expected)?;
        let (bare, mut drain_bare) = without.subject(verdict::PASS)?;
        let mut between = || {
            drain();
            drain_bare();
        };
        let ns = bench.measure(&[with, bare], input, &mut between)?;
        rows.push(Row { input: name, ..Row::alone(format!("{case}: {}", kind.name), ns[0] - ns[1], "ns", target) });
    }
    Ok(())
}
