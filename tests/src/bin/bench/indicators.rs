//! What a sample costs the recorder: compared with every pattern, and taken into an incident's indicators.

use std::{sync::Arc, time::Instant};

use ftagent::{
    decide::{Counts, Now, Packet},
    record::{
        ioc::{Extraction, Library, Look, Scratch},
        tape::TickRecord,
    },
};
use ftagent_common::{
    TrafficClass,
    guard::socket,
    reason::verdict,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::report::Row;

/// Samples of a tick: those of 20 000 a second.
const SAMPLES: usize = 2000;
const ROUNDS: u32 = 200;
/// The most that a sample may cost, nanoseconds: with it 20 000 a second are 4 % of a core.
const TARGET_NS: f64 = 2000.0;

/// Measures SYNs from random sources, answers of reflectors, and requests with texts to be searched.
pub fn indicators() -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let request = b"GET /index.html?user=12345 HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 (X";
    let mut answer = vec![0xd7, 0, 3, 0x2a, 0, 6, 0, 0x48];
    answer.resize(100, 0);
    let loads: [(&str, u8, &[u8]); 3] =
        [("SYNs of random sources", 6, b""), ("answers of NTP", 17, &answer), ("HTTP requests", 6, request)];
    let library = Arc::new(Library::shipped());
    let mut rows = Vec::new();
    for (name, proto, payload) in loads {
        let samples: Vec<SampleRecord> = (0..SAMPLES).map(|_| sample(&mut rng, proto, payload)).collect();
        rows.push(Row::alone(format!("{name}: patterns"), scanned(&library, &samples), "ns", Some(TARGET_NS)));
        rows.push(Row::alone(format!("{name}: all of it"), taken(&library, samples), "ns", Some(TARGET_NS)));
    }
    rows
}

/// Nanoseconds for each sample to be compared with every pattern, decoded already.
fn scanned(library: &Library, samples: &[SampleRecord]) -> f64 {
    let packets: Vec<Packet> = samples.iter().map(Packet::of_sample).collect();
    let (mut scratch, mut hits) = (Scratch::default(), 0);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        for (packet, record) in packets.iter().zip(samples) {
            let frame = &record.data[..usize::from(record.header.captured)];
            hits += library.scan(&Look::of(packet, frame), &mut scratch).len();
        }
    }
    std::hint::black_box(hits);
    begun.elapsed().as_secs_f64() * 1e9 / (f64::from(ROUNDS) * samples.len() as f64)
}

/// Nanoseconds for each sample to be decoded, compared and counted.
fn taken(library: &Arc<Library>, samples: Vec<SampleRecord>) -> f64 {
    let count = samples.len() as f64;
    let tick = TickRecord {
        now: Now::default(),
        elapsed_ns: 100_000_000,
        counts: Box::new(Counts::default()),
        samples,
        outbound: None,
        host: None,
        rules: Vec::new(),
        ifaces: Vec::new(),
        events: Vec::new(),
        incidents: Vec::new(),
        wanted: None,
        slots: None,
    };
    let mut extraction = Extraction::new(Arc::clone(library));
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        extraction.take(&tick);
    }
    begun.elapsed().as_secs_f64() * 1e9 / (f64::from(ROUNDS) * count)
}

fn sample(rng: &mut ChaCha8Rng, proto: u8, payload: &[u8]) -> SampleRecord {
    let mut l4 = rng.random_range(1024..u16::MAX).to_be_bytes().to_vec();
    if proto == 17 {
        l4 = vec![0, 123, 200, 0];
        l4.extend((8 + payload.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
    } else {
        l4.extend([0, 80]);
        l4.extend(rng.random::<u32>().to_be_bytes());
        l4.extend([0, 0, 0, 0, 0x50, if payload.is_empty() { 2 } else { 24 }, 0xff, 0xff, 0, 0, 0, 0]);
    }
    l4.extend(payload);
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + l4.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, proto, 0, 0]);
    frame.extend(rng.random::<u32>().to_be_bytes());
    frame.extend([198, 51, 100, 10]);
    frame.extend(l4);
    let mut data = [0; SAMPLE_BYTES];
    let kept = frame.len().min(SAMPLE_BYTES);
    data[..kept].copy_from_slice(&frame[..kept]);
    let class = if proto == 17 { TrafficClass::UdpSrcNtp } else { TrafficClass::TcpSyn };
    let header = SampleHeader {
        time_ns: 0,
        wire_bytes: frame.len() as u32,
        stride: 10,
        captured: kept as u16,
        slot: 0,
        class: class as u8,
        verdict: verdict::PASS as u8,
        reason: SampleHeader::NO_REASON,
        socket: socket::UNKNOWN,
        rule: 0,
        cpu: 0,
        flags: 0,
    };
    SampleRecord { header, data }
}
