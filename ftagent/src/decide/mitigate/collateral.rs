//! What a rule costs: an estimate, with its interval, of the benign packets that it drops.
//!
//! Every sample carries what the socket table said of it. Benign is a TCP segment other than a SYN
//! that has a connection, or a datagram for a connected UDP socket, of a flow that was there before
//! the attack. Where there is no socket table (in replay), and against attackers who have connections
//! themselves, what the flow table says decides alone.

use std::collections::VecDeque;

use ftagent_common::guard::socket;
use serde::{Deserialize, Serialize};

use super::evidence::{existed, is_of_before};
use crate::{
    decide::{Packet, Vector, analyst::Seen, classify::Scene, packet::tcp},
    rule::FlowMatch,
};

/// What counts is of this time, nanoseconds.
const WINDOW_NS: u64 = 10_000_000_000;
/// The normal deviate of 95 %.
const Z: f64 = 1.96;

/// What an estimate rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// What flows say alone: there is no socket table, or it cannot tell friend from foe here.
    #[default]
    Flows,
    /// The socket table.
    Sockets,
}

/// What a rule costs. In shadow: what it would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Collateral {
    /// Benign packets dropped, of all benign ones of the rule's scope: its family, protocols and
    /// destination. 0 to 1.
    pub ratio: f64,
    /// The 95 % interval that it is in.
    pub low: f64,
    /// See [`Self::low`].
    pub high: f64,
    /// Benign packets dropped a second.
    pub benign_pps: f64,
    /// Of what is dropped, the share of which nothing can be said: SYNs, datagrams for sockets that
    /// take them from anybody, fragments, ICMP. Clean traffic that was kept decides about those.
    pub unknown_share: f64,
    /// Samples of benign packets of the scope that it rests on.
    pub samples: u64,
    /// What it rests on.
    pub basis: Basis,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is of a conversation from before.
    Benign,
    /// Nobody here waits for it.
    Unrelated,
    /// It cannot be told.
    Unknown,
}

impl Verdict {
    fn is_benign(self) -> bool {
        self == Self::Benign
    }
}

/// A verdict, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    verdict: Verdict,
    basis: Basis,
}

impl Judged {
    /// Returns whether the packet is of a conversation from before.
    pub fn is_benign(self) -> bool {
        self.verdict.is_benign()
    }
}

/// Judges packets.
#[derive(Clone, Copy, Debug)]
pub struct Jury {
    /// When the attack began, monotonic nanoseconds.
    pub began_ns: u64,
    /// The socket table answers, and its answers count.
    pub by_sockets: bool,
}

impl Jury {
    /// Returns what is known of a packet.
    pub fn verdict(self, scene: &Scene<'_>, seen: &Seen) -> Judged {
        let asked = self.by_sockets && seen.packet.socket != socket::UNKNOWN;
        let said = if asked { said(&seen.packet) } else { Verdict::Unknown };
        let verdict = match said {
            Verdict::Benign if existed(scene, seen, self.began_ns) => Verdict::Benign,
            // What is translated has no socket that the kernel program sees: its flow tells.
            _ if is_of_before(scene, seen, self.began_ns) => Verdict::Benign,
            // A connection made since may be the attacker's.
            Verdict::Benign => Verdict::Unknown,
            said => said,
        };
        Judged { verdict, basis: if asked { Basis::Sockets } else { Basis::Flows } }
    }
}

/// Returns what the socket table says of a packet.
fn said(packet: &Packet) -> Verdict {
    let is_syn = packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN;
    match packet.socket {
        socket::CONNECTED if packet.is_udp() || packet.is_tcp() && !is_syn => Verdict::Benign,
        socket::NONE => Verdict::Unrelated,
        // It may complete a handshake that a cookie answered.
        _ => Verdict::Unknown,
    }
}

/// Returns whether those who attack so have connections themselves, which the socket table knows.
pub fn is_of_connections(vector: Vector) -> bool {
    matches!(vector, Vector::HttpFlood | Vector::TlsFlood | Vector::SlowHttp | Vector::TcpConnectionFlood)
}

/// Sums over samples. A sample stands for as many packets as its weight says.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sums {
    samples: u64,
    /// Weights of benign packets of the scope, and their squares.
    benign: f64,
    benign2: f64,
    /// The same of those that were dropped.
    hit: f64,
    hit2: f64,
    /// Weights of everything dropped, and of what nothing can be said of.
    dropped: f64,
    unknown: f64,
}

impl Sums {
    fn add(&mut self, weight: f64, verdict: Verdict, in_scope: bool, hit: bool) {
        if hit {
            self.dropped += weight;
            self.unknown += if verdict == Verdict::Unknown { weight } else { 0.0 };
        }
        if verdict.is_benign() && (in_scope || hit) {
            self.samples += 1;
            (self.benign, self.benign2) = (self.benign + weight, self.benign2 + weight * weight);
            if hit {
                (self.hit, self.hit2) = (self.hit + weight, self.hit2 + weight * weight);
            }
        }
    }

    fn join(self, other: &Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            benign: self.benign + other.benign,
            benign2: self.benign2 + other.benign2,
            hit: self.hit + other.hit,
            hit2: self.hit2 + other.hit2,
            dropped: self.dropped + other.dropped,
            unknown: self.unknown + other.unknown,
        }
    }

    /// Returns the share of what is benign that was dropped, and its interval: Wilson's (1927), for
    /// as many samples of one weight as would vary as much as these do (Kish 1965, and for a ratio
    /// by linearisation).
    fn ratio(&self) -> (f64, f64, f64) {
        if self.benign <= 0.0 {
            return (0.0, 0.0, 1.0);
        }
        let share = (self.hit / self.benign).clamp(0.0, 1.0);
        let alike = self.benign * self.benign / self.benign2.max(f64::MIN_POSITIVE);
        let spread = self.hit2 * (1.0 - share) * (1.0 - share) + (self.benign2 - self.hit2).max(0.0) * share * share;
        let varying = share * (1.0 - share) * self.benign * self.benign / spread.max(f64::MIN_POSITIVE);
        let n = if share > 0.0 && share < 1.0 { alike.min(varying) } else { alike }.max(1.0);
        let middle = share + Z * Z / (2.0 * n);
        let half = Z * libm::sqrt(share * (1.0 - share) / n + Z * Z / (4.0 * n * n));
        let whole = 1.0 + Z * Z / n;
        (share, ((middle - half) / whole).clamp(0.0, share), ((middle + half) / whole).clamp(share, 1.0))
    }
}

/// Adds up what a rule costs, over the last seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Gauge {
    scope: FlowMatch,
    ticks: VecDeque<(u64, Sums)>,
    since_ns: Option<u64>,
    now_ns: u64,
    basis: Basis,
}

impl Gauge {
    /// Measures what a match costs those whom it concerns: packets of its family, protocols and
    /// destination.
    pub fn of(matches: &FlowMatch) -> Self {
        let mut gauge = Self::default();
        gauge.scope_to(matches);
        gauge
    }

    /// See [`Self::of`].
    pub fn scope_to(&mut self, matches: &FlowMatch) {
        if self.scope.proto != matches.proto || self.scope.dst != matches.dst || self.scope.family != matches.family {
            let FlowMatch { family, dst, proto, .. } = matches.clone();
            *self = Self { scope: FlowMatch { family, dst, proto, ..FlowMatch::default() }, ..Self::default() };
        }
    }

    /// Returns whether a packet is in its scope.
    pub fn has_in_scope(&self, seen: &Seen) -> bool {
        self.scope.matches(&seen.packet.subject())
    }

    /// Takes in a packet of a tick; `hit`: the rule dropped it, or would have.
    pub fn note(&mut self, now_ns: u64, seen: &Seen, Judged { verdict, basis }: Judged, hit: bool) {
        self.since_ns.get_or_insert(now_ns);
        if basis == Basis::Sockets {
            self.basis = basis;
        }
        let in_scope = verdict.is_benign() && self.has_in_scope(seen);
        if self.ticks.back().is_none_or(|(at, _)| *at != now_ns) {
            self.ticks.push_back((now_ns, Sums::default()));
        }
        if let Some((_, sums)) = self.ticks.back_mut() {
            sums.add(seen.weight, verdict, in_scope, hit);
        }
    }

    /// Forgets what is long past.
    pub fn settle(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        while self.ticks.front().is_some_and(|(at, _)| at + WINDOW_NS <= now_ns) {
            self.ticks.pop_front();
        }
    }

    /// Returns what it costs.
    pub fn read(&self) -> Collateral {
        let sums = self.ticks.iter().fold(Sums::default(), |sum, (_, tick)| sum.join(tick));
        let (ratio, low, high) = sums.ratio();
        let first = self.since_ns.unwrap_or(self.now_ns).max(self.now_ns.saturating_sub(WINDOW_NS));
        // The tick of the first packet is part of the time.
        let seconds = self.now_ns.saturating_sub(first) as f64 / 1e9 + 0.1;
        Collateral {
            ratio,
            low,
            high,
            benign_pps: sums.hit / seconds,
            unknown_share: if sums.dropped > 0.0 { sums.unknown / sums.dropped } else { 0.0 },
            samples: sums.samples,
            basis: self.basis,
        }
    }
}

/// A rule that is measured and never taken back: an operator's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Watched {
    /// Its number.
    pub id: u32,
    matches: FlowMatch,
    counts_only: bool,
    gauge: Gauge,
}

/// Rules of operators that are measured at most.
const WATCHED: usize = 64;
/// A flow that is so old, nanoseconds, is one from before for an operator's rule, which has no attack.
const OLD_NS: u64 = 5_000_000_000;

/// The rules of operators, and what they cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Watch(Vec<Watched>);

impl Watch {
    /// Returns the rules: number, match, and whether it only counts.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &FlowMatch, bool)> {
        self.0.iter().map(|rule| (rule.id, &rule.matches, rule.counts_only))
    }

    /// Says which rules there are: number, match, and whether it only counts. Those that are known
    /// go on being measured.
    pub fn set(&mut self, rules: impl IntoIterator<Item = (u32, FlowMatch, bool)>) {
        let mut before = std::mem::take(&mut self.0);
        for (id, matches, counts_only) in rules.into_iter().take(WATCHED) {
            let same = |known: &Watched| known.id == id && known.matches == matches && known.counts_only == counts_only;
            let known = before.iter().position(same).map(|at| before.swap_remove(at));
            let gauge = Gauge::of(&matches);
            self.0.push(known.unwrap_or(Watched { id, matches, counts_only, gauge }));
        }
    }

    /// Takes in a tick.
    pub fn on_tick<'a>(&mut self, now_ns: u64, scene: &Scene<'_>, fresh: impl Iterator<Item = &'a Seen>) {
        if self.0.is_empty() {
            return;
        }
        let jury = Jury { began_ns: now_ns.saturating_sub(OLD_NS), by_sockets: true };
        for seen in fresh {
            let mut verdict = None;
            for watched in &mut self.0 {
                let matched = watched.matches.matches(&seen.packet.subject());
                if !matched && !watched.gauge.has_in_scope(seen) {
                    continue;
                }
                let verdict = *verdict.get_or_insert_with(|| jury.verdict(scene, seen));
                let hit = matched && (seen.packet.dropped || watched.counts_only);
                watched.gauge.note(now_ns, seen, verdict, hit);
            }
        }
        self.0.iter_mut().for_each(|watched| watched.gauge.settle(now_ns));
    }

    /// Returns what each rule costs, by its number.
    pub fn read(&self) -> impl Iterator<Item = (u32, Collateral)> {
        self.0.iter().map(|watched| (watched.id, watched.gauge.read()))
    }
}

#[cfg(test)]
mod tests;
