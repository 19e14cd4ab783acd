//! What a tick of decisions costs: `Decider::on_tick`, from decoded samples to events.

use std::{net::Ipv4Addr, time::Instant};

use ftagent::decide::{ClassCount, Counts, Decider, Now, Packet, Settings, Tick};
use ftagent_common::TrafficClass;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::report::Row;

/// Samples of a tick: those of 20 000 a second.
const SAMPLES: usize = 2000;
/// Packets of a calm tick: too few to be looked at.
const CALM: u64 = 10;
/// Ticks of each load.
const TICKS: u64 = 600;
const TICK_NS: u64 = 100_000_000;
/// The most that a tick may cost, microseconds.
const TARGET_US: f64 = 1000.0;

/// Measures calm traffic, which is only taken in, and floods, which are judged at every tick.
pub fn decide() -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut decider =
        Decider::new(Settings { trust_after_s: 10, seed: 1, mode: ftagent::decide::mitigate::Mode::Enforce });
    let calm = measure(&mut decider, 0, TICKS, |_| syn(&mut rng, 8, CALM));
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let flood = measure(&mut decider, TICKS, 50, |_| syn(&mut rng, u32::MAX, 500_000));
    let mut rows = Vec::new();
    for (name, mut took) in [("calm", calm), ("flood, judged at every tick", flood)] {
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or_default();
        rows.push(Row::alone(format!("{name}: median"), at(0.5), "us", None));
        rows.push(Row::alone(format!("{name}: p99"), at(0.99), "us", Some(TARGET_US)));
    }
    rows
}

/// Returns how long each tick took, microseconds. The first second is not counted.
fn measure(decider: &mut Decider, begin: u64, ticks: u64, mut load: impl FnMut(u64) -> (Vec<u8>, u64)) -> Vec<f64> {
    let mut took = Vec::new();
    for tick in begin..begin + ticks {
        let mut packets = 0;
        let mut samples = Vec::with_capacity(SAMPLES);
        for sample in 0..SAMPLES as u64 {
            let (frame, in_tick) = load(sample);
            packets = in_tick;
            let at = tick * TICK_NS + sample * (TICK_NS / SAMPLES as u64);
            samples.push(Packet::decode(at, &frame, frame.len(), None, false));
        }
        let mut counts = Counts::default();
        counts.classes[TrafficClass::TcpSyn.index()] = ClassCount { packets, bytes: packets * 60, dropped: 0 };
        let now = Now { mono_ns: (tick + 1) * TICK_NS, unix_ms: (tick * 100) as i64 };
        let begun = Instant::now();
        decider.on_tick(&Tick {
            now,
            elapsed_ns: TICK_NS,
            counts: &counts,
            samples: &samples,
            outbound: None,
            host: None,
            rules: &[],
        });
        if tick >= begin + 10 {
            took.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    took
}

/// Returns a SYN from one of so many sources, and the packets of its tick.
fn syn(rng: &mut ChaCha8Rng, sources: u32, packets: u64) -> (Vec<u8>, u64) {
    let source = Ipv4Addr::from_bits(0x0a00_0000_u32.wrapping_add(rng.random_range(0..sources)));
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(source.octets());
    frame.extend([198, 51, 100, 10]);
    frame.extend(rng.random_range(1024..u16::MAX).to_be_bytes());
    frame.extend([0, 80]);
    frame.extend(rng.random::<u32>().to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    (frame, packets)
}
