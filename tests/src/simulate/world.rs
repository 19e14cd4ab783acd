//! Ticks made of a model of traffic.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use ftagent::decide::{Counts, Decider, Event, Metric, Now, Packet, Settings, Tick};
use ftagent_common::TrafficClass;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::evaluate::generate::{self, HOST};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// A Monday, midnight UTC: weeks begin where simulations do.
const MONDAY_MS: i64 = 1_704_067_200_000;

/// One connection or exchange: its packets in order, and whether each goes to the host.
type Flow = Vec<(bool, Packet)>;

/// A kind of traffic, as examples that are drawn from.
pub struct Kind {
    flows: Vec<Flow>,
    /// Packets and bytes of a flow towards the host, by class, on average.
    mean: Vec<(TrafficClass, f64, f64)>,
    /// Packets of a flow towards the host, on average.
    packets: f64,
    /// Sources that come back, and the share of flows that are theirs; the rest is new.
    regulars: Vec<Ipv4Addr>,
    returning: f64,
    /// Addresses and ports stay as they are, and flows come in turn: long conversations.
    steady: Option<usize>,
}

/// Packets of a flow that are kept together; longer conversations go on in the next.
const LONGEST: usize = 128;
/// The same for steady conversations, which never end.
const PIECE: usize = 16;

impl Kind {
    /// Takes a generated capture apart into flows.
    ///
    /// # Errors
    /// Where there is no such capture.
    pub fn new(capture: &str) -> Result<Self> {
        let mut flows: Vec<(FlowKey, Flow)> = Vec::new();
        let mut places = std::collections::BTreeMap::new();
        for (_, frame) in generate::frames(capture)? {
            let packet = Packet::decode(0, &frame, frame.len(), None, false);
            let (src, dst) = packet.ends.context("generated packets are IP")?;
            let inbound = src != IpAddr::from(HOST);
            let key = if inbound { (src, packet.sport, packet.dport) } else { (dst, packet.dport, packet.sport) };
            let place = *places.entry(key).or_insert_with(|| {
                flows.push((key, Vec::new()));
                flows.len() - 1
            });
            flows[place].1.push((inbound, packet));
        }
        let whole = flows.iter().flat_map(|(_, flow)| flow.chunks(LONGEST).map(<[_]>::to_vec)).collect();
        Ok(Self::of(whole))
    }

    fn of(flows: Vec<Flow>) -> Self {
        let mut sums = vec![(0u64, 0u64); TrafficClass::COUNT];
        for (_, packet) in flows.iter().flatten().filter(|(inbound, _)| *inbound) {
            let sum = &mut sums[packet.class.index()];
            *sum = (sum.0 + 1, sum.1 + u64::from(packet.wire));
        }
        let count = flows.len().max(1) as f64;
        let mean: Vec<_> = TrafficClass::ALL
            .into_iter()
            .zip(&sums)
            .filter(|(_, sum)| sum.0 > 0)
            .map(|(class, sum)| (class, sum.0 as f64 / count, sum.1 as f64 / sum.0 as f64))
            .collect();
        let packets = mean.iter().map(|(_, packets, _)| packets).sum();
        Self { flows, mean, packets, regulars: Vec::new(), returning: 0.0, steady: None }
    }

    /// Makes conversations of it that go on for ever between the same ends.
    #[must_use]
    pub fn steady(self) -> Self {
        let pieces = self.flows.iter().flat_map(|flow| flow.chunks(PIECE).map(<[_]>::to_vec)).collect();
        let mut steady = Self::of(pieces);
        steady.begin();
        steady
    }

    /// Lets steady conversations begin anew, with their handshakes.
    pub fn begin(&mut self) {
        self.steady = Some(self.flows.len().saturating_sub(1));
    }

    /// Lets a share of the flows come from so many sources that return.
    #[must_use]
    pub fn returning(mut self, sources: u32, share: f64, rng: &mut Dice) -> Self {
        self.regulars = (0..sources).map(|_| rng.address()).collect();
        self.returning = share;
        self
    }

    /// Returns packets of a class in each flow, on average.
    pub fn per_flow(&self, class: TrafficClass) -> f64 {
        self.mean.iter().find(|(of, ..)| *of == class).map_or(0.0, |(_, packets, _)| *packets)
    }

    /// Returns how many flows a second make so many packets a second.
    pub fn flows(&self, pps: f64) -> f64 {
        pps / self.packets.max(1.0)
    }

    /// Returns packets of each flow towards the host, on average.
    pub const fn packets(&self) -> f64 {
        self.packets
    }
}

type FlowKey = (IpAddr, u16, u16);

/// Seeded dice.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Makes dice.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Returns a number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }

    /// Returns a normal deviate (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Returns a count of this mean: Poisson's, by its normal limit where that fits.
    pub fn count(&mut self, mean: f64) -> u64 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (bound, mut product, mut count) = ((-mean.max(0.0)).exp(), self.unit(), 0);
        while product > bound {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// Returns how many of `all` are taken when each is taken with a probability.
    fn count_of(&mut self, all: u64, share: f64) -> u64 {
        if share >= 1.0 { all } else { self.count(all as f64 * share).min(all) }
    }

    /// Returns a unicast address.
    pub fn address(&mut self) -> Ipv4Addr {
        loop {
            let bits = self.0.next_u32();
            if !matches!(bits >> 24, 0 | 10 | 127 | 172 | 192 | 198 | 203 | 224..) {
                return Ipv4Addr::from_bits(bits);
            }
        }
    }
}

/// A node, and its time.
pub struct World {
    /// What decides.
    pub decider: Decider,
    /// The dice.
    pub dice: Dice,
    now_ns: u64,
    tick_ns: u64,
    counts: Counts,
    samples: Vec<Packet>,
    outbound: Vec<Packet>,
    /// Packets towards the host in the last tick.
    before: f64,
    /// Thresholds by class, packets a second, as of some seconds ago.
    thresholds: Vec<f64>,
    ticks: u64,
    /// Until when samples are dense, nanoseconds.
    dense_until_ns: u64,
}

/// Sampled packets of a tick towards the host while nothing is near a threshold. Nothing is judged
/// then, and days go by faster.
const SPARSE: f64 = 40.0;
/// The same when something is: enough for the rarest class of people to be judged.
const DENSE: f64 = 400.0;
/// A class is near its threshold from this share of it on.
const NEAR: f64 = 0.9;
/// How long samples stay dense: more than the window that judgements look at.
const DENSE_NS: u64 = 6 * SECOND;

impl World {
    /// A node that was just started.
    pub fn new(seed: u64, tick_ns: u64, trust_after_s: u64) -> Self {
        Self {
            decider: Decider::new(Settings { trust_after_s, seed, mode: ftagent::decide::mitigate::Mode::Enforce }),
            dice: Dice::new(seed),
            now_ns: 0,
            tick_ns,
            counts: Counts::default(),
            samples: Vec::new(),
            outbound: Vec::new(),
            before: 0.0,
            thresholds: vec![0.0; TrafficClass::COUNT],
            ticks: 0,
            dense_until_ns: 0,
        }
    }

    /// Returns the time since the start, seconds.
    pub fn seconds(&self) -> f64 {
        self.now_ns as f64 / SECOND as f64
    }

    /// Adds traffic to the tick that is being made, flows a second.
    pub fn add(&mut self, kind: &mut Kind, flows_per_second: f64) {
        let seconds = self.tick_ns as f64 / SECOND as f64;
        let flows = self.dice.count(flows_per_second * seconds);
        self.watch(kind, flows as f64 / seconds);
        // Every kind is thinned alike, as the datapath's sampler does it: what the samples of a
        // class say of its parts is then true.
        let budget = if self.now_ns < self.dense_until_ns { DENSE } else { SPARSE };
        let share = (budget / self.before.max(flows as f64 * kind.packets).max(1.0)).min(1.0);
        let sampled = self.dice.count_of(flows, share);
        // What is sampled is counted as it is, the rest as the average.
        let rest = flows - sampled;
        for (class, packets, bytes) in &kind.mean {
            // Fractions of a packet come up as often as they should.
            let exact = packets * rest as f64;
            let whole = exact.floor() as u64 + u64::from(self.dice.unit() < exact.fract());
            let count = &mut self.counts.classes[class.index()];
            count.packets += whole;
            count.bytes += (whole as f64 * bytes) as u64;
        }
        for _ in 0..sampled {
            if let Some(next) = &mut kind.steady {
                *next = (*next + 1) % kind.flows.len();
                let flow = &kind.flows[*next];
                let peer = flow.iter().find_map(|(inbound, packet)| if *inbound { packet.src() } else { packet.dst() });
                self.sample(flow, peer.unwrap_or(HOST.into()), 0);
                continue;
            }
            let flow = &kind.flows[self.dice.below(kind.flows.len())];
            let returns = !kind.regulars.is_empty() && self.dice.unit() < kind.returning;
            let source =
                if returns { kind.regulars[self.dice.below(kind.regulars.len())] } else { self.dice.address() };
            let shift = self.dice.below(28_000) as u16;
            self.sample(flow, source.into(), shift);
        }
    }

    /// Looks whether a kind of traffic brings one of its classes near its threshold.
    fn watch(&mut self, kind: &Kind, flows_per_second: f64) {
        let seconds = self.tick_ns as f64 / SECOND as f64;
        let near = kind.mean.iter().any(|(class, packets, _)| {
            let so_far = self.counts.of(*class).packets as f64 / seconds;
            so_far + packets * flows_per_second >= NEAR * self.thresholds[class.index()]
        });
        if near {
            self.dense_until_ns = self.now_ns + DENSE_NS;
        }
    }

    fn sample(&mut self, flow: &Flow, source: IpAddr, shift: u16) {
        let step = self.tick_ns / (flow.len() as u64 + 1);
        for ((inbound, packet), number) in flow.iter().zip(1..) {
            let mut packet = *packet;
            packet.time_ns = self.now_ns + step * number;
            // Clients' ports change with the connection; a service's or a reflector's do not.
            let moved = |port: u16| if port >= 32768 { 32768 + (port - 32768 + shift) % 28_232 } else { port };
            if *inbound {
                packet.ends = Some((source, HOST.into()));
                packet.sport = moved(packet.sport);
                let count = &mut self.counts.classes[packet.class.index()];
                (count.packets, count.bytes) = (count.packets + 1, count.bytes + u64::from(packet.wire));
                self.samples.push(packet);
            } else {
                packet.ends = Some((HOST.into(), source));
                packet.dport = moved(packet.dport);
                self.outbound.push(packet);
            }
        }
    }

    /// Ends the tick and returns what was decided.
    pub fn tick(&mut self) -> Vec<Event> {
        self.now_ns += self.tick_ns;
        self.samples.sort_by_key(|packet| packet.time_ns);
        self.outbound.sort_by_key(|packet| packet.time_ns);
        let now = Now { mono_ns: self.now_ns, unix_ms: MONDAY_MS + (self.now_ns / 1_000_000) as i64 };
        let tick = Tick {
            now,
            elapsed_ns: self.tick_ns,
            counts: &self.counts,
            samples: &self.samples,
            outbound: Some(&self.outbound),
            host: None,
            rules: &[],
        };
        let events = self.decider.on_tick(&tick);
        self.before = self.counts.classes.iter().map(|count| count.packets as f64).sum();
        self.ticks += 1;
        if self.ticks.is_multiple_of(10) {
            self.read_thresholds();
        }
        self.counts = Counts::default();
        self.samples.clear();
        self.outbound.clear();
        events
    }

    fn read_thresholds(&mut self) {
        self.thresholds.fill(0.0);
        for view in self.decider.baselines().iter().filter(|view| view.metric == Metric::Pps) {
            if let Some(class) = TrafficClass::from_name(&view.class) {
                self.thresholds[class.index()] = view.threshold;
            }
        }
    }

    /// Sends a plain flood and returns whether it opens an incident within 30 s. A simulation whose
    /// decisions cannot see this one proves nothing by seeing none.
    ///
    /// # Errors
    /// Where the flood cannot be generated.
    pub fn sees_a_flood(&mut self) -> Result<bool> {
        let mut flood = Kind::new("udp_closed_port")?;
        let (threshold, _) = self.bounds(TrafficClass::UdpMedium);
        let pps = 20.0 * threshold.max(1000.0);
        for _ in 0..30 * SECOND / self.tick_ns {
            self.add(&mut flood, pps);
            if opened(&self.tick()) > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the threshold and the ceiling of a class, packets a second.
    pub fn bounds(&self, class: TrafficClass) -> (f64, f64) {
        let views = self.decider.baselines();
        let view = views.iter().find(|view| view.class == class.as_str() && view.metric == Metric::Pps);
        view.map_or((0.0, 0.0), |view| (view.threshold, view.ceiling))
    }
}

/// Returns how many incidents opened.
pub fn opened(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Opened { .. })).count()
}
