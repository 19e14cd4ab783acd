//! Keeps what samples tell: recent packets, flows, and sources that are known.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Excess, Packet, Tick,
    classify::{self, Judgement, Scene},
    flows::{Flows, Mark, State, block_of},
    known::Known,
    packet::tcp,
};
use crate::sense::signals::{HostSignals, PortSockets};

/// Packets that are remembered at most.
const RING: usize = 12_288;
// A ring buffer's room is a power of two: it stays below 5 MiB.
const _: () = assert!(RING.next_power_of_two() * size_of::<Seen>() <= 5 << 20);
/// For how long they are remembered, nanoseconds.
const RING_NS: u64 = 3_000_000_000;
/// Packets of this host that are looked at in one tick.
const OUTBOUND: usize = 16_384;
/// Held connections are taken for held for so long after they last showed it, nanoseconds.
const SLOW_NS: u64 = 16_000_000_000;
/// Connections above what is usual that are too many, at least.
const HELD_AT_LEAST: f64 = 100.0;
/// Time in which what is usual of them follows a change, nanoseconds.
const USUAL_NS: f64 = 600e9;
/// Ports of which it is known.
const USUAL_PORTS: usize = 256;
/// Ticks of which rates are remembered.
const RATES: usize = 10;
/// Time in which the memory of calm traffic follows it, nanoseconds.
const CALM_NS: f64 = 60e9;
/// Ticks that handshakes wait for before they count as usual.
const LATELY: usize = 30;
/// After an excess nothing is calm for so long, nanoseconds.
const RESTLESS_NS: u64 = 2_000_000_000;

/// What is known beyond rates.
#[derive(Debug, Serialize, Deserialize)]
pub struct Analyst {
    ring: VecDeque<Seen>,
    flows: Flows,
    known: Known,
    rates: Rates,
    calm: Calm,
    host: Option<HostSignals>,
    /// Connections that are held and say little, usually, by port.
    usual: Usual,
    /// This host's own packets are seen.
    sees_own: bool,
    /// The kernel names this host's peers.
    has_peers: bool,
    seed: u64,
    now_ns: u64,
    /// Connections that were held last, and when they were seen to be.
    held: Option<(u64, Judgement)>,
    /// Something looked like an attack last at that time.
    alarmed_ns: Option<u64>,
    /// Packets of the last tick in the ring.
    fresh: usize,
}

clone_in_place!(Analyst {
    ring,
    flows,
    known,
    rates,
    calm,
    host,
    usual,
    sees_own,
    has_peers,
    seed,
    now_ns,
    held,
    alarmed_ns,
    fresh
});

/// A packet that is remembered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The packet.
    pub packet: Packet,
    /// The class that it is looked at in: [`Packet::intent`], but packets with the same source and
    /// destination stay malformed.
    pub class: TrafficClass,
    /// How many packets it stands for.
    pub weight: f64,
    /// What the flow table said when it came.
    pub mark: Mark,
}

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The present, monotonic nanoseconds.
    pub now_ns: u64,
    /// The classes above normal, or all that are busy where nothing is known of what is normal.
    pub excess: &'a [Excess],
    /// Whether the baseline is trusted. Where it is not, [`Excess::threshold`] is only a floor
    /// and the packets alone must tell.
    pub trusted: bool,
    /// Look at the packets to this address only.
    pub only: Option<IpAddr>,
}

impl Analyst {
    /// Knows nothing yet. `seed` keys its tables: who cannot guess it cannot fill one bucket.
    pub fn new(seed: u64) -> Self {
        Self {
            ring: VecDeque::new(),
            flows: Flows::new(seed),
            known: Known::new(seed.rotate_left(17) ^ 0x9e37_79b9_7f4a_7c15),
            rates: Rates::default(),
            calm: Calm::default(),
            host: None,
            usual: Usual::default(),
            sees_own: false,
            has_peers: false,
            seed,
            now_ns: 0,
            held: None,
            alarmed_ns: None,
            fresh: 0,
        }
    }

    /// Returns one that knows the same rates and ports, and no flows, sources or packets. `seed` keys its tables.
    pub fn disguised(&self, seed: u64) -> Self {
        let host = self.host.clone().map(|host| HostSignals { peers: None, ..host });
        Self {
            rates: self.rates.clone(),
            calm: self.calm.clone(),
            host,
            usual: self.usual.clone(),
            sees_own: self.sees_own,
            has_peers: self.has_peers,
            now_ns: self.now_ns,
            ..Self::new(seed)
        }
    }

    /// Takes in a tick, whatever happens in it.
    pub fn observe(&mut self, tick: &Tick<'_>) {
        self.now_ns = tick.now.mono_ns;
        self.sees_own |= tick.outbound.is_some();
        let restless = self.alarmed_ns.is_some_and(|at| self.now_ns.saturating_sub(at) < RESTLESS_NS);
        if let Some(host) = tick.host {
            self.listen(host);
        }
        let (completed, begun) = self.packets(tick);
        self.fresh = tick.samples.len();
        self.rates.push(tick);
        self.calm.handshakes(begun, completed, restless);
        self.calm.follow(tick);
        self.known.settle(self.now_ns, restless);
        while self.ring.len() > RING
            || self.ring.front().is_some_and(|seen| seen.packet.time_ns + RING_NS < self.now_ns)
        {
            self.ring.pop_front();
        }
    }

    /// Names what exceeds normal.
    pub fn judge(&mut self, question: &Question<'_>) -> Judgement {
        self.calm.disturb(question.excess, question.now_ns);
        let judgement = match question.only {
            None => classify::judge(&self.scene(question)),
            Some(only) => {
                let to = |seen: &&Seen| seen.packet.dst() == Some(only);
                let ring: VecDeque<Seen> = self.ring.iter().filter(to).copied().collect();
                classify::judge(&Scene { ring: &ring, ..self.scene(question) })
            }
        };
        if judgement.findings.iter().any(|finding| finding.confidence >= 0.5) {
            self.alarmed_ns = Some(question.now_ns);
        }
        judgement
    }

    /// Names what needs no rate to be suspicious: connections that are held and not used.
    pub fn standing(&mut self, now_ns: u64) -> Judgement {
        let question = Question { now_ns, excess: &[], trusted: true, only: None };
        let judgement = classify::standing(&self.scene(&question));
        if !judgement.findings.is_empty() {
            self.held = Some((now_ns, judgement.clone()));
            return judgement;
        }
        // Slow clients say something every ten or fifteen seconds; between that nothing has changed.
        match &self.held {
            Some((at, held)) if now_ns.saturating_sub(*at) < SLOW_NS => held.clone(),
            _ => Judgement::default(),
        }
    }

    /// Returns the packets of the last tick, oldest first.
    pub fn fresh(&self) -> impl Iterator<Item = &Seen> + Clone {
        self.ring.iter().skip(self.ring.len().saturating_sub(self.fresh))
    }

    /// Returns everything that is remembered, for those who look for more than a name.
    pub fn memory(&self) -> Scene<'_> {
        self.scene(&Question { now_ns: self.now_ns, excess: &[], trusted: true, only: None })
    }

    /// Takes the connections that are held now for usual, on the operator's word.
    pub fn accept(&mut self) {
        self.usual = Usual::default();
        self.held = None;
    }

    fn scene<'a>(&'a self, question: &Question<'a>) -> Scene<'a> {
        Scene {
            now_ns: question.now_ns,
            excess: question.excess,
            trusted: question.trusted,
            ring: &self.ring,
            flows: &self.flows,
            rates: &self.rates,
            calm: &self.calm,
            host: self.host.as_ref(),
            usual: &self.usual,
            sees_own: self.sees_own,
            knows_sources: self.known.any(),
            seed: self.seed,
        }
    }

    fn listen(&mut self, host: &HostSignals) {
        for block in host.peers.iter().flatten() {
            self.has_peers = true;
            self.known.propose(*block, self.now_ns);
        }
        if let Some(ports) = &host.ports {
            self.usual.follow(ports, self.now_ns);
        }
        let mut host = host.clone();
        host.peers = None;
        // The socket table is read more rarely than counters: its last state stands.
        if host.ports.is_none() {
            host.ports = self.host.take().and_then(|before| before.ports);
        }
        self.host = Some(host);
    }

    /// Takes in the packets of a tick, both directions in order of time. Returns handshakes
    /// completed and begun.
    fn packets(&mut self, tick: &Tick<'_>) -> (u32, u32) {
        let mut samples = [0u32; TrafficClass::COUNT];
        for packet in tick.samples {
            if let Some(count) = samples.get_mut(packet.class.index()) {
                *count += 1;
            }
        }
        let weight = |class: TrafficClass| {
            let sampled = samples.get(class.index()).copied().unwrap_or(0).max(1);
            (tick.counts.of(class).packets as f64 / f64::from(sampled)).max(1.0)
        };
        let outbound = tick.outbound.unwrap_or_default();
        let mut own = outbound.get(..outbound.len().min(OUTBOUND)).unwrap_or_default().iter().peekable();
        let (mut completed, mut begun) = (0, 0);
        for packet in tick.samples {
            while let Some(sent) = own.next_if(|sent| sent.time_ns < packet.time_ns) {
                self.flows.note(sent, true, self.sees_own);
            }
            let (mark, proven) = self.flows.note(packet, false, self.sees_own);
            if let Some(block) = proven.filter(|_| !self.has_peers) {
                self.known.propose(block, packet.time_ns);
            }
            let known = packet.src().is_some_and(|src| self.known.contains(block_of(src)));
            begun += u32::from(packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN && packet.is_tcp());
            let goes_on = mark.state == State::Steady;
            completed += u32::from(goes_on && self.flows.get(&mark).is_some_and(|flow| flow.just_completed(packet)));
            self.ring.push_back(Seen {
                packet: *packet,
                class: looked_at(packet),
                weight: weight(packet.class),
                mark: Mark { known, ..mark },
            });
            if self.ring.len() > RING {
                self.ring.pop_front();
            }
        }
        for sent in own {
            self.flows.note(sent, true, self.sees_own);
        }
        (completed, begun)
    }
}

/// Returns the class that a packet is looked at in.
fn looked_at(packet: &Packet) -> TrafficClass {
    if packet.class != TrafficClass::Malformed {
        return packet.class;
    }
    // What comes from its own destination and port is broken on purpose ("land").
    let land = packet.ends.is_some_and(|(src, dst)| src == dst) && packet.sport == packet.dport && packet.sport != 0;
    if land { TrafficClass::Malformed } else { packet.intent }
}

/// Rates of the last second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rates {
    ticks: VecDeque<(u64, Vec<(u64, u64)>)>,
}

impl Rates {
    fn push(&mut self, tick: &Tick<'_>) {
        let counts = tick.counts.classes.iter().map(|count| (count.packets, count.bytes)).collect();
        self.ticks.push_back((tick.elapsed_ns.max(1), counts));
        if self.ticks.len() > RATES {
            self.ticks.pop_front();
        }
    }

    /// Returns packets and bits a second of a class over the last so many nanoseconds, at most a
    /// second.
    pub fn of(&self, class: TrafficClass, over_ns: u64) -> (f64, f64) {
        let (mut time, mut packets, mut bytes) = (0u64, 0, 0);
        for (elapsed, counts) in self.ticks.iter().rev() {
            if time > 0 && time + elapsed / 2 > over_ns {
                break;
            }
            let (p, b) = counts.get(class.index()).copied().unwrap_or_default();
            (time, packets, bytes) = (time + elapsed, packets + p, bytes + b);
        }
        let seconds = time.max(1) as f64 / 1e9;
        (packets as f64 / seconds, bytes as f64 * 8.0 / seconds)
    }
}

/// How many connections are held on each port without saying much, when all is well: subscribers of
/// a broker, sockets of a web application.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Usual {
    ports: BTreeMap<u16, f64>,
    at_ns: Option<u64>,
}

impl Usual {
    /// Returns the connections that are too many on a port: far more than usual, and several from
    /// each of the nets that they come from. Subscribers come from as many nets as there are of them.
    pub fn is_exceeded(&self, port: &PortSockets) -> bool {
        let (held, usual) = (f64::from(port.stalled), self.of(port.port));
        held >= usual + HELD_AT_LEAST && held >= 3.0 * usual && port.stalled >= 4 * port.stalled_peers
    }

    /// Returns the usual number.
    pub fn of(&self, port: u16) -> f64 {
        self.ports.get(&port).copied().unwrap_or(0.0)
    }

    /// Follows what was read. The first reading is taken for usual; what is too many is not learned.
    fn follow(&mut self, ports: &[PortSockets], now_ns: u64) {
        let share = self.at_ns.map_or(1.0, |at| (now_ns.saturating_sub(at) as f64 / USUAL_NS).min(1.0));
        self.at_ns = Some(now_ns);
        for port in ports.iter().take(USUAL_PORTS) {
            if share < 1.0 && self.is_exceeded(port) {
                continue;
            }
            if self.ports.len() < USUAL_PORTS || self.ports.contains_key(&port.port) {
                let usual = self.ports.entry(port.port).or_default();
                *usual += share * (f64::from(port.stalled) - *usual);
            }
        }
    }
}

/// What is usual: slow averages over time without excess.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Calm {
    pps: Vec<f64>,
    restless_until: Vec<u64>,
    seconds: f64,
    begun: f64,
    completed: f64,
    /// What was begun and completed lately: it counts once nothing has been wrong for a while.
    lately: VecDeque<(u32, u32)>,
}

impl Calm {
    /// Returns the usual packets a second of a class; 0 while nothing is known.
    pub fn pps(&self, class: TrafficClass) -> f64 {
        self.pps.get(class.index()).copied().unwrap_or(0.0)
    }

    /// Returns the usual share of handshakes that are completed; `None` while too few were seen.
    pub fn completion(&self) -> Option<f64> {
        (self.begun >= 10.0).then(|| (self.completed / self.begun).min(1.0))
    }

    fn follow(&mut self, tick: &Tick<'_>) {
        self.pps.resize(TrafficClass::COUNT, 0.0);
        self.restless_until.resize(TrafficClass::COUNT, 0);
        let elapsed = tick.elapsed_ns.max(1) as f64;
        self.seconds += elapsed / 1e9;
        // A plain mean at first, which the past then outweighs less and less.
        let share = (elapsed / CALM_NS).max(elapsed / 1e9 / self.seconds).min(1.0);
        for ((pps, until), count) in self.pps.iter_mut().zip(&self.restless_until).zip(&tick.counts.classes) {
            if *until <= tick.now.mono_ns {
                *pps += share * (count.packets as f64 / (elapsed / 1e9) - *pps);
            }
        }
    }

    fn disturb(&mut self, excess: &[Excess], now_ns: u64) {
        for excess in excess.iter().filter(|excess| excess.trusted) {
            if let Some(until) = self.restless_until.get_mut(excess.class.index()) {
                *until = now_ns + RESTLESS_NS;
            }
        }
    }

    fn handshakes(&mut self, begun: u32, completed: u32, restless: bool) {
        self.lately.push_back((begun, completed));
        if restless {
            self.lately.clear();
        }
        if self.lately.len() <= LATELY {
            return;
        }
        let (begun, completed) = self.lately.pop_front().unwrap_or_default();
        self.begun += f64::from(begun);
        self.completed += f64::from(completed);
        if self.begun > 2000.0 {
            self.begun /= 2.0;
            self.completed /= 2.0;
        }
    }
}

#[cfg(test)]
mod tests;
