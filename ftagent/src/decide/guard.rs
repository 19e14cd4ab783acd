//! Where the socket table may decide: validation in calm, and what is armed in an attack.
//!
//! What is translated (DNAT), proxied, or belongs to a container or another namespace has no socket
//! that the kernel program can see. It is not guessed at: in calm, samples are looked up, and only
//! where nearly every one found its socket may packets without one be dropped later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
    str::FromStr,
};

use ftagent_common::guard::socket;
use serde::{Deserialize, Serialize};

use super::{
    Now, Packet, Vector,
    flows::{Flow, Half, note},
    packet::tcp,
};

/// Lookups that a port must have had.
const LOOKUPS: f64 = 1000.0;
/// Share of them that found a socket.
const FOUND: f64 = 0.999;
/// What is asked answers from a port below this one (RFC 6335, 6: system ports).
const SERVICES: u16 = 1024;
/// Packets that went past this host's sockets, in parts of those that were looked up: more are no strays.
const PAST: f64 = 0.02;
/// What sums of fractions may be off by.
const ROUNDING: f64 = 1e-6;
/// Ports of which it is known.
const PORTS: usize = 2048;
/// Local ports that the kernel gives to connections of its own (`ip_local_port_range`), which are
/// too many to be known one by one.
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// After so many seconds what was seen counts half: a container that was started since is noticed.
const HALF_LIFE_S: f64 = 6.0 * 3600.0;
/// Lookups of an earlier life of the daemon count as no more than these: what moved while nobody
/// looked is noticed soon.
const RESTORED: f64 = 4.0 * LOOKUPS;

/// A protocol that has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of this host, or all ephemeral ones together. As text, `443` or `ephemeral`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Ports {
    /// One port.
    One(u16),
    /// Ports that the kernel gives to its own connections.
    Ephemeral,
}

impl Ports {
    /// Returns where a port belongs.
    pub fn of(port: u16) -> Self {
        if EPHEMERAL.contains(&port) { Self::Ephemeral } else { Self::One(port) }
    }

    /// Returns the ports.
    pub fn each(self) -> RangeInclusive<u16> {
        match self {
            Self::One(port) => port..=port,
            Self::Ephemeral => EPHEMERAL,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(port) => port.fmt(f),
            Self::Ephemeral => f.write_str("ephemeral"),
        }
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "ephemeral" {
            return Ok(Self::Ephemeral);
        }
        text.parse().map(Self::One).map_err(|error| format!("`{text}` is no port: {error}"))
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What lookups in calm found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Packets that were looked up.
    pub asked: f64,
    /// Those that had a socket.
    pub found: f64,
    /// Of the packets, those of IPv6: a port may be translated for one family and not for the other.
    pub asked6: f64,
    /// Those that had a socket.
    pub found6: f64,
    /// Packets beside these that went past this host's own sockets, it seems: who forges a few of them must not
    /// keep the guard off, and of what is translated they are most.
    pub past: f64,
    /// Of these, those of IPv6.
    pub past6: f64,
}

impl Found {
    /// Returns whether the socket table is right about this port.
    pub fn is_valid(&self) -> bool {
        self.asked >= LOOKUPS && self.families().into_iter().all(|family| family.is_right())
    }

    /// Returns why it may not be armed, in words; `None` where it may.
    pub fn why_not(&self) -> Option<String> {
        if self.asked < LOOKUPS {
            return Some(format!("{:.0} of {LOOKUPS:.0} packets in calm were looked up", self.asked));
        }
        let mut families = ["IPv4", "IPv6"].into_iter().zip(self.families());
        let (family, Family { asked, found, past }) = families.find(|(_, family)| !family.is_right())?;
        let missed = 100.0 * (asked - found + past) / (asked + past);
        Some(format!("{missed:.2} % of its {family} packets in calm had no socket: translated or proxied"))
    }

    /// Returns what was seen of IPv4 and of IPv6.
    fn families(&self) -> [Family; 2] {
        let v6 = Family { asked: self.asked6, found: self.found6, past: self.past6 };
        [Family { asked: self.asked - v6.asked, found: self.found - v6.found, past: self.past - v6.past }, v6]
    }

    fn add_past(&mut self, v6: bool) {
        self.past += 1.0;
        self.past6 += f64::from(u8::from(v6));
    }

    fn add(&mut self, v6: bool, has_socket: bool) {
        let (one, found) = (1.0, f64::from(u8::from(has_socket)));
        (self.asked, self.found) = (self.asked + one, self.found + found);
        if v6 {
            (self.asked6, self.found6) = (self.asked6 + one, self.found6 + found);
        }
    }

    fn fade(&mut self, factor: f64) {
        let Self { asked, found, asked6, found6, past, past6 } = self;
        [asked, found, asked6, found6, past, past6].into_iter().for_each(|number| *number *= factor);
    }
}

/// What lookups for one family found.
#[derive(Clone, Copy, Debug)]
struct Family {
    asked: f64,
    found: f64,
    past: f64,
}

impl Family {
    /// Returns whether so few lookups missed that the socket table is right: of few, one may.
    fn is_right(&self) -> bool {
        let Self { asked, found, past } = *self;
        let all = asked.max(LOOKUPS);
        asked - found <= (1.0 - FOUND) * all + ROUNDING && past <= PAST * all
    }

    fn is_sound(&self) -> bool {
        (-ROUNDING..=self.asked + ROUNDING).contains(&self.found) && self.past >= -ROUNDING && self.past.is_finite()
    }
}

/// What the guard does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// TCP ports that answer SYNs with cookies.
    pub cookies: BTreeSet<u16>,
    /// TCP ports where segments without a socket are dropped.
    pub state: BTreeSet<Ports>,
    /// UDP ports where packets without a socket are dropped.
    pub closed: BTreeSet<Ports>,
}

impl Plan {
    /// Returns whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.cookies.is_empty() && self.state.is_empty() && self.closed.is_empty()
    }

    /// Returns whether anything is armed there.
    pub fn has(&self, transport: Transport, ports: Ports) -> bool {
        match transport {
            Transport::Tcp => self.state.contains(&ports),
            Transport::Udp => self.closed.contains(&ports),
        }
    }
}

/// What is known of where the socket table is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "Saved", try_from = "Saved")]
pub struct Validation {
    seen: BTreeMap<(Transport, Ports), Found>,
    /// Listeners that were seen, by port.
    listeners: BTreeSet<u16>,
}

/// The form in which a [`Validation`] outlives the daemon.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    seen: Vec<(Transport, Ports, Found)>,
    listeners: BTreeSet<u16>,
}

impl From<Validation> for Saved {
    fn from(validation: Validation) -> Self {
        Self { seen: validation.iter().collect(), listeners: validation.listeners }
    }
}

impl TryFrom<Saved> for Validation {
    type Error = String;

    fn try_from(Saved { seen, listeners }: Saved) -> Result<Self, String> {
        if seen.len() > PORTS || listeners.len() > PORTS {
            return Err(format!("it knows the sockets of more than {PORTS} ports"));
        }
        let sound = |found: &Found| {
            found.asked.is_finite()
                && (-ROUNDING..=found.asked).contains(&found.asked6)
                && found.families().into_iter().all(|family| family.is_sound())
        };
        if let Some((transport, ports, found)) = seen.iter().find(|(.., found)| !sound(found)) {
            return Err(format!("{} of {} lookups for {transport} {ports} make no sense", found.found, found.asked));
        }
        let entry = |(transport, ports, found)| ((transport, ports), found);
        Ok(Self { seen: seen.into_iter().map(entry).collect(), listeners })
    }
}

/// What the socket table said of a packet in calm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TCP listener: the packet was a SYN, or nothing it waits for.
    Listener,
    /// A socket for this packet.
    Socket,
    /// None.
    Nothing,
}

/// A packet to one of this host's own addresses that was looked up in calm.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// Its protocol.
    pub transport: Transport,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Its source port.
    pub from: u16,
    /// Its destination port.
    pub port: u16,
    /// It opens a connection.
    pub is_syn: bool,
    /// It goes on in a conversation that only its two ends can hold.
    pub conversing: bool,
    /// The conversation has been closed: its socket may be gone.
    pub closed: bool,
    /// What the socket table said.
    pub answer: Answer,
}

impl Lookup {
    /// Returns whether it was somebody's, without a socket. What is missing for others says nothing: stray segments
    /// come from anywhere, and must not be able to keep the guard off.
    fn is_missed(&self) -> bool {
        self.answer == Answer::Nothing && self.transport == Transport::Tcp && self.conversing && !self.is_syn
    }

    /// Returns whether it goes past this host's sockets, it seems, to a container or another host: whoever forges a few
    /// packets with care can make it seem so.
    fn is_past(&self) -> bool {
        match (self.answer, self.transport) {
            // A listener has nobody's connection: a proxy listens there, and what is translated goes past it.
            (Answer::Listener, _) => self.conversing && !self.closed && !self.is_syn,
            // An answer to a container's question is a single packet, and to this host's own it has a socket.
            (Answer::Nothing, Transport::Udp) => {
                self.conversing || self.from < SERVICES && Ports::of(self.port) == Ports::Ephemeral
            }
            (Answer::Nothing, Transport::Tcp) | (Answer::Socket, _) => false,
        }
    }
}

impl Validation {
    /// Notes what a lookup found in calm.
    pub fn note(&mut self, lookup: &Lookup) {
        let Lookup { transport, v6, port, is_syn, answer, .. } = *lookup;
        if answer == Answer::Listener && self.listeners.len() < PORTS {
            self.listeners.insert(port);
        }
        let (missed, past) = (lookup.is_missed(), lookup.is_past());
        if !missed && !past && (is_syn || answer != Answer::Socket) {
            return;
        }
        let key = (transport, Ports::of(port));
        if self.seen.len() >= PORTS && !self.seen.contains_key(&key) && !self.make_room() {
            return;
        }
        let found = self.seen.entry(key).or_default();
        if past {
            found.add_past(v6);
        } else {
            found.add(v6, !missed);
        }
    }

    /// Forgets the half that was asked for least, which is a proxy's own ports: a service that is seen late has to find
    /// a place. Returns whether there is room then.
    fn make_room(&mut self) -> bool {
        let mut asked: Vec<f64> = self.seen.values().map(|found| found.asked).collect();
        let (_, median, _) = asked.select_nth_unstable_by(self.seen.len() / 2, f64::total_cmp);
        let median = *median;
        self.seen.retain(|_, found| found.asked > median || found.is_valid());
        self.seen.len() < PORTS
    }

    /// Lets what was seen fade.
    pub fn age(&mut self, seconds: f64) {
        let kept = libm::exp2(-seconds / HALF_LIFE_S);
        for found in self.seen.values_mut() {
            // What was seen enough stays enough for days of silence: fade the surplus only.
            let factor = if found.asked * kept >= LOOKUPS { kept } else { (LOOKUPS / found.asked).min(1.0) };
            found.fade(factor);
        }
    }

    /// Returns what was found, by protocol and port.
    pub fn iter(&self) -> impl Iterator<Item = (Transport, Ports, Found)> {
        self.seen.iter().map(|((transport, ports), found)| (*transport, *ports, *found))
    }

    /// Returns whether a listener was seen.
    pub fn listens(&self, ports: Ports) -> bool {
        self.listeners.range(ports.each()).next().is_some()
    }

    /// Returns what to arm against these vectors.
    pub fn plan(&self, vectors: &[Vector]) -> Plan {
        let mut plan = Plan::default();
        let cookies = vectors.contains(&Vector::SynFlood);
        let state = cookies || vectors.iter().any(|vector| is_stateless_tcp(*vector));
        let closed = vectors.iter().any(|vector| is_udp(*vector));
        for (transport, ports, _) in self.iter().filter(|(.., found)| found.is_valid()) {
            match transport {
                Transport::Tcp if state => drop(plan.state.insert(ports)),
                Transport::Udp if closed => drop(plan.closed.insert(ports)),
                Transport::Tcp | Transport::Udp => {}
            }
        }
        if cookies {
            let valid = |port: &u16| plan.state.contains(&Ports::of(*port));
            plan.cookies = self.listeners.iter().copied().filter(valid).collect();
        }
        plan
    }

    /// Returns what an earlier life of the daemon knew, as it counts in this one.
    fn restored(mut self) -> Self {
        for found in self.seen.values_mut() {
            let factor = (RESTORED / found.asked).min(1.0);
            found.fade(factor);
        }
        self
    }
}

/// Keeps what is known, and what is armed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sentry {
    validation: Validation,
    plan: Plan,
    generation: u64,
    /// What the plan is against.
    vectors: Vec<Vector>,
    /// Since when there is one.
    since: Option<Now>,
    planned_ns: u64,
    aged_ns: u64,
}

/// What is known fades this often.
const AGE_NS: u64 = 60_000_000_000;
/// What was seen since is looked at this often.
const PLAN_NS: u64 = 1_000_000_000;

impl Sentry {
    /// Notes what the socket table said of a packet to one of this host's own addresses, in calm.
    pub fn note(&mut self, packet: &Packet, flow: Option<&Flow>) {
        let answer = match packet.socket {
            socket::NONE => Answer::Nothing,
            socket::LISTENER => Answer::Listener,
            socket::CONNECTED | socket::UNCONNECTED => Answer::Socket,
            _ => return,
        };
        let (transport, is_syn) = if packet.is_tcp() {
            (Transport::Tcp, packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN)
        } else if packet.is_udp() {
            (Transport::Udp, false)
        } else {
            return;
        };
        let goes_on =
            |flow: &Flow| if transport == Transport::Tcp { flow.is_established() } else { flow.is_sustained() };
        // What completes a handshake that a cookie answered finds the listener, and so do the first data.
        let opens = |flow: &Flow| {
            let follows = |half: &Half| half.flags & tcp::SYN != 0 && packet.seq == half.isn.wrapping_add(1);
            flow.halves.iter().any(follows)
        };
        let is_syn = is_syn || answer == Answer::Listener && flow.is_some_and(opens);
        self.validation.note(&Lookup {
            transport,
            v6: packet.dst().is_some_and(|dst| dst.is_ipv6()),
            from: packet.sport,
            port: packet.dport,
            is_syn,
            conversing: flow.is_some_and(goes_on),
            closed: flow.is_some_and(|flow| flow.has(note::CLOSED)),
            answer,
        });
    }

    /// Ends a tick: `vectors` are those of the open incident that is acted on; none where there is
    /// nothing to act on.
    pub fn on_tick(&mut self, now: Now, vectors: &[Vector]) {
        let now_ns = now.mono_ns;
        if now_ns.saturating_sub(self.aged_ns) >= AGE_NS {
            let seconds = now_ns.saturating_sub(self.aged_ns) as f64 / 1e9;
            if self.aged_ns != 0 {
                self.validation.age(seconds);
            }
            self.aged_ns = now_ns;
        }
        let changed = vectors != self.vectors.as_slice();
        let due = !vectors.is_empty() && now_ns.saturating_sub(self.planned_ns) >= PLAN_NS;
        if !changed && !due {
            return;
        }
        if changed {
            vectors.clone_into(&mut self.vectors);
        }
        self.planned_ns = now_ns;
        let plan = if vectors.is_empty() { Plan::default() } else { self.validation.plan(vectors) };
        if plan != self.plan {
            self.since = if plan.is_empty() { None } else { self.since.or(Some(now)) };
            self.plan = plan;
            self.generation += 1;
        }
    }

    /// Returns what is to be armed, and a number that changes whenever that does.
    pub fn plan(&self) -> (&Plan, u64) {
        (&self.plan, self.generation)
    }

    /// Returns since when something is to be armed, and against what.
    pub fn cause(&self) -> Option<(Now, &[Vector])> {
        self.since.map(|since| (since, self.vectors.as_slice()))
    }

    /// Returns what is known of where the socket table is right.
    pub fn validation(&self) -> &Validation {
        &self.validation
    }

    /// Goes on from what an earlier life of the daemon knew.
    pub fn restore(&mut self, validation: Validation) {
        self.validation = validation.restored();
    }
}

/// Returns whether an address is among these.
pub fn is_own(own: &[IpAddr], address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| own.contains(&address))
}

/// Segments that belong to no connection.
const fn is_stateless_tcp(vector: Vector) -> bool {
    use Vector::*;
    matches!(
        vector,
        SynAckFlood
            | AckFlood
            | PshAckFlood
            | RstFlood
            | FinFlood
            | NullFlood
            | XmasFlood
            | TcpFlagFlood
            | TcpMiddleboxReflection
    )
}

/// UDP that may go to ports that nobody has open.
fn is_udp(vector: Vector) -> bool {
    use Vector::*;
    matches!(vector, UdpFlood | AmplificationUnknown | SipFlood | GameQueryFlood | QuicFlood | VpnFlood)
        || vector.as_str().ends_with("_amplification")
}

#[cfg(test)]
mod tests;
