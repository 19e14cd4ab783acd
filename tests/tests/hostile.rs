//! Packets of every broken kind: the program never fails, counts every one of them, and agrees
//! with the host's parser on class, source and length.

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::{lists::Which, testrun::MIN_FRAME};
use ftagent_common::{TrafficClass, class::CLASS_SLOTS, parse::Family, reason::verdict};
use ftagent_tests::packet::{
    TAGGINGS,
    datapath::{Datapath, check_identity, parse_host},
    ethertype::{ARP, IPV4, IPV6, QINQ, VLAN},
    fixtures::fixtures,
    tagged,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const SERVICES: [u16; 3] = [40001, 53, 0];

/// The program with lists that block half of the fixtures' sources, so that the verdict tells
/// which source it read; and how often the host saw each class.
struct Differential {
    datapath: Datapath,
    seen: [u64; CLASS_SLOTS],
    dropped: u64,
}

impl Differential {
    fn new() -> Result<Self> {
        let mut datapath = Datapath::new()?;
        datapath.run.set_service_ports(&SERVICES)?;
        for net in ["192.0.2.0/24", "2001:db8::/64"] {
            datapath.run.lists.insert(Which::Block, net.parse()?, u64::MAX, 0)?;
        }
        Ok(Self { datapath, seen: [0; CLASS_SLOTS], dropped: 0 })
    }

    /// Runs a frame on both sides and compares.
    fn feed(&mut self, frame: &[u8]) -> Result<()> {
        let sample = self.datapath.feed_fast(frame)?.header;
        let facts = parse_host(frame, &SERVICES);
        let blocked = match facts.family {
            Family::V4 => facts.src.1 >> 8 == 0x00c0_0002,
            Family::V6 => facts.src.0 == 0x2001_0db8_0000_0000,
            Family::None => false,
        };
        let expected = if blocked { verdict::DROP } else { verdict::PASS };
        let same = u32::from(sample.class) == facts.class
            && u32::from(sample.verdict) == expected
            && sample.wire_bytes == facts.wire
            && facts.wire as usize == frame.len();
        ensure!(same, "the program: {sample:?}\nthe host: {facts:?}\nthe frame: {frame:02x?}");
        self.seen[facts.class as usize] += 1;
        self.dropped += u64::from(blocked);
        Ok(())
    }

    /// Compares the totals.
    fn finish(mut self) -> Result<u64> {
        let counters = self.datapath.counters()?;
        check_identity(&counters)?;
        for class in TrafficClass::ALL {
            let (counted, seen) = (counters.class(class).packets, self.seen[class.index()]);
            ensure!(counted == seen, "{}: {counted} counted, {seen} fed", class.as_str());
        }
        ensure!(counters.verdicts[verdict::DROP as usize] == self.dropped, "drops");
        ensure!(counters.samples_lost == 0 && counters.samples_capped == 0, "samples");
        Ok(counters.seen())
    }
}

/// Every fixture, untagged and with two tags.
fn frames() -> impl Iterator<Item = (String, Vec<u8>)> {
    fixtures().into_iter().flat_map(|fixture| {
        [&[][..], &[QINQ, VLAN]].map(|tags| (format!("{} {tags:x?}", fixture.name), tagged(&fixture.frame, tags)))
    })
}

#[test]
fn fixtures_cut_off_anywhere() -> Result<()> {
    let mut differential = Differential::new()?;
    for (name, frame) in frames() {
        for bytes in MIN_FRAME..frame.len() {
            differential.feed(&frame[..bytes]).with_context(|| format!("{name}, {bytes} bytes"))?;
        }
    }
    eprintln!("{} frames", differential.finish()?);
    Ok(())
}

#[test]
fn fixtures_with_any_header_byte_changed() -> Result<()> {
    /// Ethernet, two tags, the longest IPv4 header and 20 bytes of TCP.
    const HEADERS: usize = 14 + 8 + 60 + 20;
    let mut differential = Differential::new()?;
    for (name, mut frame) in frames() {
        // Addresses of Ethernet are not read.
        for at in 12..frame.len().min(HEADERS) {
            let right = frame[at];
            for flip in [0x01, 0x04, 0x10, 0x40, 0x80, 0xff] {
                frame[at] = right ^ flip;
                differential.feed(&frame).with_context(|| format!("{name}, byte {at} ^ {flip:#x}"))?;
            }
            frame[at] = right;
        }
    }
    eprintln!("{} frames", differential.finish()?);
    Ok(())
}

/// Random bytes, half of them behind an EtherType that leads somewhere.
fn noise(random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut frame = vec![0; random.random_range(MIN_FRAME..200)];
    random.fill(&mut frame[..]);
    let known = [IPV4, IPV6, VLAN, QINQ, ARP];
    let mut at = 12;
    while at + 2 <= frame.len() && random.random_bool(0.7) {
        let number = known[random.random_range(0..known.len())];
        frame.splice(at..at + 2, number.to_be_bytes());
        at += 4;
        if !matches!(number, VLAN | QINQ) {
            break;
        }
    }
    frame
}

/// A fixture with a few bytes changed, and now and then cut off, extended or with a piece of
/// another in it.
fn mutant(random: &mut ChaCha8Rng, all: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = all[random.random_range(0..all.len())].clone();
    for _ in 0..random.random_range(0..6) {
        let at = random.random_range(12.min(frame.len() - 1)..frame.len().min(120));
        frame[at] = match random.random_range(0..4) {
            0 => 0,
            1 => 0xff,
            2 => frame[at] ^ 1 << random.random_range(0..8),
            _ => random.random(),
        };
    }
    match random.random_range(0..8) {
        0 => frame.truncate(random.random_range(MIN_FRAME..=frame.len())),
        1 => frame.resize(frame.len() + random.random_range(1..80), 0),
        2 => {
            let other = &all[random.random_range(0..all.len())];
            let at = random.random_range(12..=frame.len().min(other.len()));
            frame.truncate(at);
            frame.extend(&other[at..]);
        }
        _ => {}
    }
    frame.resize(frame.len().max(MIN_FRAME), 0);
    frame
}

#[test]
fn a_million_random_frames() -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(20_261_122);
    // What is special lies in the headers; the largest frames only cost time.
    let all: Vec<Vec<u8>> = fixtures()
        .iter()
        .filter(|fixture| fixture.frame.len() <= 1100)
        .flat_map(|fixture| TAGGINGS.map(|tags| tagged(&fixture.frame, tags)))
        .collect();
    let mut differential = Differential::new()?;
    for i in 0..1_000_000 {
        let frame = if i % 4 == 0 { noise(&mut random) } else { mutant(&mut random, &all) };
        differential.feed(&frame).with_context(|| format!("random frame {i}"))?;
    }
    let classes = differential.seen.iter().filter(|&&n| n > 0).count();
    ensure!(classes == TrafficClass::COUNT, "only {classes} classes were met: the frames are too random");
    ensure!(differential.finish()? == 1_000_000, "not every frame was counted");
    Ok(())
}
