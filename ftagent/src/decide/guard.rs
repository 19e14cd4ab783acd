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

use super::{Now, Packet, Vector, packet::tcp};

/// Lookups that a port must have had.
const LOOKUPS: f64 = 1000.0;
/// Share of them that found a socket.
const FOUND: f64 = 0.999;
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
pub struct Found {
    /// Packets that were looked up.
    pub asked: f64,
    /// Those that had a socket.
    pub found: f64,
}

impl Found {
    /// Returns whether the socket table is right about this port.
    pub fn is_valid(&self) -> bool {
        self.asked >= LOOKUPS && self.found >= FOUND * self.asked
    }

    /// Returns why it may not be armed, in words; `None` where it may.
    pub fn why_not(&self) -> Option<String> {
        if self.asked < LOOKUPS {
            return Some(format!("{:.0} of {LOOKUPS:.0} packets in calm were looked up", self.asked));
        }
        let missed = 100.0 * (1.0 - self.found / self.asked);
        (!self.is_valid()).then(|| format!("{missed:.2} % of its packets in calm had no socket: translated or proxied"))
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
        let sound = |found: &Found| found.asked.is_finite() && (0.0..=found.asked).contains(&found.found);
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

impl Validation {
    /// Notes what a lookup found in calm. `conversing`: the packet goes on in a conversation that only
    /// its two ends can hold. What is missing for others says nothing: stray segments come from
    /// anywhere, and must not be able to keep the guard off.
    pub fn note(&mut self, transport: Transport, port: u16, is_syn: bool, answer: Answer, conversing: bool) {
        if answer == Answer::Listener {
            if self.listeners.len() < PORTS {
                self.listeners.insert(port);
            }
            // A listener says that the port is open, and nothing of who has its connections.
            return;
        }
        if is_syn || (answer == Answer::Nothing && !conversing) {
            return;
        }
        let key = (transport, Ports::of(port));
        if self.seen.len() >= PORTS && !self.seen.contains_key(&key) {
            return;
        }
        let found = self.seen.entry(key).or_default();
        found.asked += 1.0;
        if answer == Answer::Socket {
            found.found += 1.0;
        }
    }

    /// Lets what was seen fade.
    pub fn age(&mut self, seconds: f64) {
        let kept = libm::exp2(-seconds / HALF_LIFE_S);
        for found in self.seen.values_mut() {
            // What was seen enough stays enough for days of silence: fade the surplus only.
            let factor = if found.asked * kept >= LOOKUPS { kept } else { (LOOKUPS / found.asked).min(1.0) };
            (found.asked, found.found) = (found.asked * factor, found.found * factor);
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
            (found.asked, found.found) = (found.asked * factor, found.found * factor);
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
    pub fn note(&mut self, packet: &Packet, conversing: bool) {
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
        self.validation.note(transport, packet.dport, is_syn, answer, conversing);
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
mod tests {
    use super::*;

    fn after(transport: Transport, port: u16, sockets: u32, nothing: u32) -> Validation {
        let mut validation = Validation::default();
        validation.note(Transport::Tcp, port, true, Answer::Listener, false);
        for _ in 0..sockets {
            validation.note(transport, port, false, Answer::Socket, true);
        }
        for _ in 0..nothing {
            validation.note(transport, port, false, Answer::Nothing, true);
        }
        validation
    }

    #[test]
    fn only_validated_ports_are_armed() {
        let cases = [
            ("served by this host", 5000, 0, true),
            ("too few packets", 999, 0, false),
            ("just enough", 1000, 0, true),
            ("a thousandth without a socket", 9990, 10, true),
            ("translated to a container", 0, 5000, false),
            ("half of its addresses are translated", 5000, 5000, false),
            ("never seen", 0, 0, false),
        ];
        for (name, sockets, nothing, armed) in cases {
            let tcp = after(Transport::Tcp, 443, sockets, nothing);
            let plan = tcp.plan(&[Vector::SynFlood]);
            assert_eq!(plan.state.contains(&Ports::One(443)), armed, "{name}");
            assert_eq!(plan.cookies.contains(&443), armed, "{name}");
            assert!(plan.closed.is_empty(), "{name}: TCP says nothing of UDP");
            let udp = after(Transport::Udp, 27_015, sockets, nothing).plan(&[Vector::UdpFlood]);
            assert_eq!(udp.closed.contains(&Ports::One(27_015)), armed, "{name}");
        }
    }

    #[test]
    fn ephemeral_ports_count_together() {
        let mut validation = Validation::default();
        for port in 40_000..42_000 {
            validation.note(Transport::Udp, port, false, Answer::Socket, true);
        }
        let plan = validation.plan(&[Vector::DnsAmplification]);
        assert_eq!(plan.closed, BTreeSet::from([Ports::Ephemeral]));
        for (port, armed) in [(32_767, false), (32_768, true), (60_999, true), (61_000, false)] {
            assert_eq!(plan.has(Transport::Udp, Ports::of(port)), armed, "{port}: never validated, never armed");
        }
    }

    #[test]
    fn strays_cannot_keep_the_guard_off() {
        let mut validation = after(Transport::Tcp, 443, 2000, 0);
        for _ in 0..1_000_000 {
            validation.note(Transport::Tcp, 443, false, Answer::Nothing, false);
            validation.note(Transport::Tcp, 443, false, Answer::Listener, false);
        }
        assert!(validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)));
    }

    #[test]
    fn each_vector_arms_what_helps_against_it() {
        let mut validation = after(Transport::Tcp, 443, 2000, 0);
        for _ in 0..2000 {
            validation.note(Transport::Udp, 53, false, Answer::Socket, true);
        }
        let cases = [
            (Vector::SynFlood, true, true, false),
            (Vector::AckFlood, false, true, false),
            (Vector::RstFlood, false, true, false),
            (Vector::NtpAmplification, false, false, true),
            (Vector::UdpFlood, false, false, true),
            (Vector::HttpFlood, false, false, false),
            (Vector::IcmpFlood, false, false, false),
        ];
        for (vector, cookies, state, closed) in cases {
            let plan = validation.plan(&[vector]);
            let armed = (!plan.cookies.is_empty(), !plan.state.is_empty(), !plan.closed.is_empty());
            assert_eq!(armed, (cookies, state, closed), "{}", vector.as_str());
        }
        assert!(validation.plan(&[]).is_empty());
    }

    #[test]
    fn a_port_that_moved_into_a_container_is_noticed_and_a_quiet_one_is_not_forgotten() {
        let mut validation = after(Transport::Tcp, 443, 10_000, 0);
        validation.age(48.0 * 3600.0);
        assert!(validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)), "silence is no reason");
        for _ in 0..20 {
            validation.note(Transport::Tcp, 443, false, Answer::Nothing, true);
        }
        assert!(!validation.plan(&[Vector::AckFlood]).state.contains(&Ports::One(443)));
        let (.., found) = validation.iter().next().unwrap();
        assert!(found.why_not().unwrap().contains("no socket"));
    }

    #[test]
    fn a_plan_is_made_when_vectors_change_and_once_a_second() {
        let mut sentry = Sentry { validation: after(Transport::Tcp, 443, 999, 0), ..Sentry::default() };
        let at = |ms: u64| Now { mono_ns: ms * 1_000_000, unix_ms: ms as i64 };
        sentry.on_tick(at(10_000), &[Vector::SynFlood]);
        assert!(sentry.plan().0.is_empty() && sentry.cause().is_none());
        sentry.validation.note(Transport::Tcp, 443, false, Answer::Socket, true);
        sentry.on_tick(at(10_100), &[Vector::SynFlood]);
        assert!(sentry.plan().0.is_empty(), "not yet");
        sentry.on_tick(at(11_000), &[Vector::SynFlood]);
        assert_eq!(sentry.plan().0.cookies, BTreeSet::from([443]));
        sentry.on_tick(at(11_100), &[Vector::AckFlood]);
        assert!(sentry.plan().0.cookies.is_empty() && !sentry.plan().0.is_empty(), "at once");
        assert_eq!(sentry.cause(), Some((at(11_000), &[Vector::AckFlood][..])));
        sentry.on_tick(at(11_200), &[]);
        assert!(sentry.plan().0.is_empty() && sentry.cause().is_none());
    }

    #[test]
    fn what_was_validated_outlives_a_restart_and_counts_less() {
        let mut validation = after(Transport::Tcp, 443, 1_000_000, 0);
        for _ in 0..2000 {
            validation.note(Transport::Udp, 40_000, false, Answer::Socket, true);
        }
        let text = serde_json::to_string(&validation).unwrap();
        let read: Validation = serde_json::from_str(&text).unwrap();
        assert_eq!(read, validation);
        let mut sentry = Sentry::default();
        sentry.restore(read);
        let plan = sentry.validation().plan(&[Vector::SynFlood, Vector::UdpFlood]);
        assert!(plan.cookies.contains(&443) && plan.has(Transport::Udp, Ports::Ephemeral));
        for _ in 0..5 {
            sentry.validation.note(Transport::Tcp, 443, false, Answer::Nothing, true);
        }
        assert!(sentry.validation().plan(&[Vector::SynFlood]).is_empty(), "it moved meanwhile");
        for (from, to) in [("\"443\"", "\"70000\""), ("1000000.0", "null"), ("\"found\":2000.0", "\"found\":2001.0")] {
            let damaged = text.replacen(from, to, 1);
            assert_ne!(damaged, text);
            assert!(serde_json::from_str::<Validation>(&damaged).is_err(), "{damaged}");
        }
    }
}
