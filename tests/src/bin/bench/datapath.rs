//! Nanoseconds per packet: the pass path, the lists, and drops.

use std::{collections::HashSet, net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result, ensure};
use ftagent::bpf::lists::{FeedSet, Which};
use ftagent_common::{
    lists::{Key4, Key6},
    reason::verdict,
};
use ipnet::{IpNet, Ipv4Net};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    frames::{Kind, from4},
    measure::{Bench, Input, unicast},
    ours::Ours,
    report::Row,
    rivals::Rival,
};

/// The most that the pass path may cost, in parts of xdp-filter's full program.
const PASS: f64 = 0.15;
/// The same with 10 000 addresses and 100 prefixes listed.
const LISTED_10K: f64 = 0.25;
/// The same with a million addresses listed.
const LISTED_1M: f64 = 0.35;
/// The most that a drop may cost, in parts of xdp-filter's.
const DROP: f64 = 1.0;
/// Seconds that loading a million entries may take.
const LOAD_SECONDS: f64 = 2.0;
/// Sources that a cycle draws from.
const SOURCES: usize = 1 << 16;
/// Far enough in the future for a benchmark, jiffies.
const NEVER: u64 = u64::MAX;

/// A list of random entries, and sources on it and off it.
pub struct Listing {
    exact: Vec<u32>,
    prefixes: Vec<Ipv4Net>,
}

impl Listing {
    /// Draws addresses and prefixes of /16 to /29.
    pub fn draw(exact: usize, prefixes: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut addresses = HashSet::with_capacity(exact);
        while addresses.len() < exact {
            addresses.insert(unicast(rng.random()));
        }
        let prefixes = (0..prefixes).map(|_| {
            let length = rng.random_range(16..=29);
            Ipv4Net::new_assert(unicast(rng.random()).into(), length).trunc()
        });
        Self { prefixes: prefixes.collect(), exact: addresses.into_iter().collect() }
    }

    fn feeds(&self) -> FeedSet {
        let mut feeds = FeedSet::default();
        feeds.v4.extend(self.exact.iter().map(|&network| (Key4 { network, length: 32 }, 1)));
        self.prefixes.iter().for_each(|&net| feeds.push(IpNet::V4(net), 2));
        feeds
    }

    /// Draws sources that are not listed.
    fn others(&self, seed: u64) -> Vec<u32> {
        let listed: HashSet<u32> = self.exact.iter().copied().collect();
        let mut covered: Vec<(u32, u32)> =
            self.prefixes.iter().map(|net| (net.network().to_bits(), net.broadcast().to_bits())).collect();
        covered.sort_unstable();
        // Prefixes nest or are disjoint: with the nested ones gone, one comparison tells.
        covered.dedup_by(|next, kept| next.1 <= kept.1);
        let is_covered = |source: u32| {
            let behind = covered.partition_point(|&(first, _)| first <= source);
            behind.checked_sub(1).and_then(|at| covered.get(at)).is_some_and(|&(_, last)| source <= last)
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drawn = std::iter::repeat_with(|| unicast(rng.random()));
        drawn.filter(|source| !listed.contains(source) && !is_covered(*source)).take(SOURCES).collect()
    }

    /// Draws sources inside the prefixes.
    fn covered(&self, seed: u64) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let draw = |net: &Ipv4Net| rng.random_range(net.network().to_bits()..=net.broadcast().to_bits());
        self.prefixes.iter().cycle().take(SOURCES).map(draw).collect()
    }
}

/// The pass path for each kind of packet, everything on, lists empty.
pub fn pass_path(bench: &mut Bench, ours: &mut Ours, full: &Rival, kinds: &[Kind]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in kinds {
        let target = kind.judged.then_some(PASS);
        compare(bench, ours, full, kind, &[], (kind.name, target, verdict::PASS), &mut rows)?;
    }
    let all: Vec<&Kind> = kinds.iter().collect();
    let judged: Vec<&Kind> = kinds.iter().filter(|kind| kind.judged).collect();
    for (name, kinds) in
        [("all of TCP and UDP above in random order", judged), ("all of the above in random order", all)]
    {
        let (subject, mut drain) = ours.subject(verdict::PASS)?;
        let ns = bench.measure(&[subject, full.subject(verdict::PASS)?], Input::Cycle(&kinds, &[]), &mut drain)?;
        rows.push(Row::beside(name, "cycle", ns[0], (full.name, ns[1]), None));
    }
    Ok(rows)
}

/// Measures ours beside another program: one constant packet, and a cycle.
fn compare(
    bench: &mut Bench,
    ours: &mut Ours,
    rival: &Rival,
    kind: &Kind,
    sources: &[u32],
    (case, target, expected): (&str, Option<f64>, u32),
    rows: &mut Vec<Row>,
) -> Result<()> {
    let frame = sources.first().map_or_else(|| kind.frame.clone(), |source| from4(kind, *source));
    for (name, input) in [("constant", Input::Constant(&frame)), ("cycle", Input::Cycle(&[kind], sources))] {
        if matches!(input, Input::Cycle(..)) && kind.family == 0 {
            continue;
        }
        let (subject, mut drain) = ours.subject(expected)?;
        let ns = bench.measure(&[subject, rival.subject(expected)?], input, &mut drain)?;
        rows.push(Row::beside(case, name, ns[0], (rival.name, ns[1]), target));
    }
    Ok(())
}

/// A source that is not listed, with lists of many sizes.
pub fn lists(bench: &mut Bench, ours: &mut Ours, full: &Rival, syn: &Kind) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let sizes = [
        ("no entries", 0, 0, None),
        ("10 addresses", 10, 0, None),
        ("1 k addresses", 1000, 0, None),
        ("100 k addresses", 100_000, 0, None),
        ("1 M addresses", 1_000_000, 0, Some(LISTED_1M)),
        ("10 prefixes", 0, 10, None),
        ("1 k prefixes", 0, 1000, None),
        ("10 k prefixes", 0, 10_000, None),
        ("10 k addresses and 100 prefixes", 10_000, 100, Some(LISTED_10K)),
    ];
    for (case, exact, prefixes, target) in sizes {
        let listing = Listing::draw(exact, prefixes, 7);
        ours.lists.publish_feeds(listing.feeds(), NEVER)?;
        let others = listing.others(8);
        compare(bench, ours, full, syn, &others, (case, target, verdict::PASS), &mut rows)?;
    }
    // What the prefilter cannot tell: the neighbour of a listed address, in the same /24.
    let listing = Listing::draw(10_000, 100, 7);
    let neighbours: HashSet<u32> = listing.exact.iter().map(|address| address ^ 1).collect();
    let others: Vec<u32> = neighbours.into_iter().filter(|address| !listing.is_listed(*address)).collect();
    let case = ("the same, all from a listed address's /24", None, verdict::PASS);
    compare(bench, ours, full, syn, &others, case, &mut rows)?;
    Ok(rows)
}

impl Listing {
    fn is_listed(&self, address: u32) -> bool {
        let host = Ipv4Addr::from(address);
        self.exact.contains(&address) || self.prefixes.iter().any(|net| net.contains(&host))
    }
}

/// An IPv6 source that is not listed.
pub fn lists6(bench: &mut Bench, ours: &mut Ours, full: &Rival, syn: &Kind) -> Result<Vec<Row>> {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut feeds = FeedSet::default();
    for _ in 0..10_000 {
        let high = 0x2001_0db8_0000_0000 | u64::from(rng.random::<u32>());
        feeds.v6.push((Key6 { high, low: rng.random(), length: 128, _pad: 0 }, 1));
    }
    for _ in 0..100 {
        let high = (0x2a00 | rng.random_range(0..256u64)) << 48 | u64::from(rng.random::<u32>()) << 16;
        feeds.v6.push((Key6 { high, low: 0, length: 48, _pad: 0 }, 1));
    }
    ours.lists.publish_feeds(feeds, NEVER)?;
    let mut rows = Vec::new();
    let case = ("10 k addresses and 100 prefixes", Some(LISTED_10K), verdict::PASS);
    compare(bench, ours, full, syn, &[], case, &mut rows)?;
    Ok(rows)
}

/// Listed sources: dropped.
pub fn drops(bench: &mut Bench, ours: &mut Ours, deny: &Rival, allow: &mut Rival, syn: &Kind) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let listing = Listing::draw(10_000, 100, 7);
    ours.lists.publish_feeds(listing.feeds(), NEVER)?;
    let case = ("feed, address (10 k and 100 prefixes)", Some(DROP), verdict::DROP);
    compare(bench, ours, deny, syn, &listing.exact, case, &mut rows)?;
    let case = ("feed, prefix (10 k and 100 prefixes)", None, verdict::DROP);
    compare(bench, ours, deny, syn, &listing.covered(8), case, &mut rows)?;
    allow.list4(&listing.exact)?;
    let case = ("feed, address, both with the same 10 k", None, verdict::DROP);
    compare(bench, ours, allow, syn, &listing.exact, case, &mut rows)?;

    ours.lists.publish_feeds(FeedSet::default(), NEVER)?;
    let blocked: Vec<u32> = listing.exact.iter().copied().take(1000).collect();
    for &address in &blocked {
        let net = Ipv4Net::new_assert(address.into(), 32);
        ours.lists.insert(Which::Block, IpNet::V4(net), NEVER, 0)?;
    }
    let case = ("block, address (1 k)", Some(DROP), verdict::DROP);
    compare(bench, ours, deny, syn, &blocked, case, &mut rows)?;
    for &address in &blocked {
        ours.lists.remove(Which::Block, IpNet::V4(Ipv4Net::new_assert(address.into(), 32)))?;
    }

    let listing = Listing::draw(1_000_000, 0, 7);
    ours.lists.publish_feeds(listing.feeds(), NEVER)?;
    let case = ("feed, address (1 M)", None, verdict::DROP);
    compare(bench, ours, deny, syn, &listing.exact, case, &mut rows)?;
    Ok(rows)
}

/// How long a million entries take to be in force.
pub fn load(ours: &mut Ours) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (case, seed) in [("1 M entries in force", 21), ("1 M others in their place", 22)] {
        let feeds = Listing::draw(1_000_000, 0, seed).feeds();
        ensure!(feeds.len() == 1_000_000, "a listing of {} entries", feeds.len());
        let start = Instant::now();
        ours.lists.publish_feeds(feeds, NEVER).context("loading a million entries")?;
        rows.push(Row::alone(case, start.elapsed().as_secs_f64(), "s", Some(LOAD_SECONDS)));
    }
    Ok(rows)
}
