//! One match, one answer: what [`FlowMatch::matches`] says of a packet is what the kernel program, a
//! FlowSpec router and nftables make of it, but for what each says it widens.
//!
//! A share of it runs everywhere; `FTAGENT_EQUIVALENCE=1000000` asks for that many packets, and
//! `FTAGENT_EQUIVALENCE_SEED=1` for other rules and packets.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "equivalence/draw.rs"]
mod draw;
#[path = "equivalence/flowspec.rs"]
mod flowspec;
#[path = "equivalence/kernel.rs"]
mod kernel;
#[path = "equivalence/nft.rs"]
mod nft;
#[path = "equivalence/upstream.rs"]
mod upstream;
#[path = "equivalence/verdicts.rs"]
mod verdicts;

use std::time::{Duration, Instant};

use ftagent::{decide::Packet, rule::FlowMatch};
use ftagent_common::TrafficClass;
use ftagent_tests::require_root;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Rules of a run.
const RULES: usize = 1000;
/// Packets of a run in CI.
const PACKETS: usize = 5000;
/// What the rules and packets of a run in CI are drawn from.
const SEED: u64 = 20_261_123;
/// Packets that are compared at a time.
const BATCH: usize = 500;

/// Returns what an environment variable asks for; a word that is no number is a mistake.
fn asked<T: std::str::FromStr<Err: std::fmt::Debug>>(name: &str, otherwise: T) -> T {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A packet with what the reference says of it.
struct Case {
    frame: Vec<u8>,
    packet: Packet,
    /// The rules that it matches, in ascending order.
    met: Vec<usize>,
}

impl Case {
    fn new(frame: Vec<u8>, rules: &[FlowMatch]) -> Self {
        let packet = Packet::decode(0, &frame, frame.len(), None, false);
        let subject = packet.subject();
        let met = (0..rules.len()).filter(|i| rules[*i].matches(&subject)).collect();
        Self { frame, packet, met }
    }

    fn is_malformed(&self) -> bool {
        self.packet.class == TrafficClass::Malformed
    }
}

/// Packets, and how long they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    packets: u64,
    bytes: u64,
}

impl Sum {
    /// What came since `before`, which becomes the present sum.
    fn since(self, before: &mut Self) -> Self {
        let Self { packets, bytes } = std::mem::replace(before, self);
        Self { packets: self.packets - packets, bytes: self.bytes - bytes }
    }
}

/// Returns how much of a batch each rule is met by; a packet is as long as `size` says.
fn met(cases: &[&Case], rules: usize, size: impl Fn(&[u8]) -> usize) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); rules];
    for case in cases {
        for rule in &case.met {
            let Sum { packets, bytes } = &mut sums[*rule];
            (*packets, *bytes) = (*packets + 1, *bytes + size(&case.frame) as u64);
        }
    }
    sums
}

/// What was compared, for the one line that a run prints.
#[derive(Debug, Default)]
struct Tally {
    kernel: u64,
    flowspec: u64,
    nft: u64,
    nft_wider: u64,
    matches: u64,
    malformed: u64,
    /// Matches beyond the reference, of rules and packets for which that is declared.
    flowspec_beyond: u64,
    nft_beyond: u64,
    times: Times,
}

/// Where the time goes.
#[derive(Debug, Default)]
struct Times {
    /// Drawing packets, and what the reference says of them.
    drawn: Duration,
    kernel: Duration,
    flowspec: Duration,
    /// Sending, until all have passed nftables' rules.
    nft: Duration,
    /// Reading what nftables counted.
    listed: Duration,
}

/// Adds the time that something takes.
fn timed<T>(sum: &mut Duration, body: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = body();
    *sum += begun.elapsed();
    result
}

#[test]
fn every_plane_says_the_same_of_a_packet() {
    require_root!();
    let (packets, seed) = (asked("FTAGENT_EQUIVALENCE", PACKETS), asked("FTAGENT_EQUIVALENCE_SEED", SEED));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rules: Vec<FlowMatch> = (0..RULES).map(|_| draw::flow_match(&mut rng)).collect();
    let begun = Instant::now();
    let mut kernel = kernel::Kernel::new(&rules);
    let specs = flowspec::specs(&rules);
    let (tally, has_nft) = nft::on_a_veth("equivalence", &rules, |mut nft| {
        let mut tally = Tally::default();
        let mut left = packets;
        while left > 0 {
            let count = left.min(BATCH);
            left -= count;
            let mut drawn = || {
                let rule = rand::RngExt::random_range(&mut rng, 0..rules.len());
                Case::new(draw::frame(&mut rng, &rules[rule]), &rules)
            };
            let cases: Vec<Case> = timed(&mut tally.times.drawn, || (0..count).map(|_| drawn()).collect());
            let all: Vec<&Case> = cases.iter().collect();
            tally.kernel += timed(&mut tally.times.kernel, || kernel.compare(&rules, &all));
            let begun = Instant::now();
            specs.compare(&rules, &all, &mut tally);
            tally.times.flowspec += begun.elapsed();
            tally.malformed += cases.iter().filter(|case| case.is_malformed()).count() as u64;
            tally.matches += cases.iter().map(|case| case.met.len() as u64).sum::<u64>();
            if let Some(nft) = &mut nft {
                nft.compare(&rules, &all, &mut tally);
            }
        }
        (tally, nft.is_some())
    });
    let seconds = begun.elapsed().as_secs();
    eprintln!(
        "equivalence: {packets} packets × {RULES} rules (seed {seed}) in {seconds} s: {tally:?}, no disagreement"
    );
    assert!(tally.matches > tally.kernel, "a packet meets more than one rule on average: {tally:?}");
    assert!(tally.malformed < tally.kernel / 5, "most packets are whole: {tally:?}");
    // What is left out, or may be wider, is little.
    let half = packets as u64 / 2;
    assert!(tally.kernel > half && tally.flowspec > half && (!has_nft || tally.nft > half), "{tally:?}");
    assert!(tally.nft_wider < packets as u64 / 3, "{tally:?}");
    assert!(tally.flowspec_beyond < tally.matches / 5 && tally.nft_beyond < tally.matches / 5, "{tally:?}");
}
