//! The protected side's sockets in virtual time: a model, made of what it is seen to send.
//!
//! On a host the kernel program asks the socket table. Captures have none, but where they hold both
//! directions, the answers show it: who sends a SYN-ACK listens, who sends anything else has a
//! connection, who sends a datagram has its port open. What nobody was seen to answer has no socket.
//! A listener has a queue of half-open requests, as the kernel's have (`queue`): no SYN is answered by a
//! cookie while that has room.

mod queue;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use ftagent_common::guard::socket;

pub(super) use self::queue::BACKLOG;
use self::queue::Queue;
use super::{schedule::SECOND, watch::Answer};
use crate::decide::{Packet, guard::Ports, packet::tcp};

/// How long a handshake waits for its end, and a connection is remembered after its own.
const LINGERS_NS: u64 = 60 * SECOND;
/// How long the port of a client's own socket stays open after its last datagram.
const ASKED_NS: u64 = 60 * SECOND;
/// What is over is forgotten this often.
const SWEEP_NS: u64 = 10 * SECOND;
/// Connections that are remembered, and as many cookies; further ones have no socket until some end.
const MOST: usize = 1 << 20;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ends {
    own: SocketAddr,
    peer: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The SYN was answered; its sender has not come back yet.
    HalfOpen,
    Open,
    /// One side has said that it is done: this one, or the peer.
    Half {
        own: bool,
    },
    Closed,
}

#[derive(Clone, Copy, Debug)]
struct Connection {
    state: State,
    /// Its last packet.
    at_ns: u64,
}

impl Connection {
    fn is_over(&self, now_ns: u64) -> bool {
        matches!(self.state, State::HalfOpen | State::Closed) && now_ns.saturating_sub(self.at_ns) >= LINGERS_NS
    }
}

/// What a lookup finds, as far as packets told.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    own: HashSet<IpAddr>,
    listeners: HashMap<SocketAddr, Queue>,
    connections: HashMap<Ends, Connection>,
    /// Local ends of UDP, and when each sent last.
    udp: HashMap<SocketAddr, u64>,
    /// Who sent a SYN in a capture that does not show answers.
    knocked: HashSet<Ends>,
    /// Who was given a cookie in this minute and in the last one, for which SYN.
    given: [HashMap<Ends, Answer>; 2],
    turned_ns: u64,
    swept_ns: u64,
}

impl Sockets {
    /// Knows nothing yet. `own`: the addresses that have the sockets.
    pub(super) fn new(own: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { own: own.into_iter().collect(), ..Self::default() }
    }

    /// Returns what a lookup finds for a packet that comes in: one of [`socket`].
    pub(super) fn look(&self, packet: &Packet) -> u8 {
        let Some(ends) = self.ends(packet, packet.dst(), packet.src()) else { return socket::UNKNOWN };
        if packet.is_udp() {
            let open = self.udp.get(&ends.own).is_some_and(|at| {
                // A server waits for ever, a client's port is gone with its question.
                Ports::of(ends.own.port()) != Ports::Ephemeral || packet.time_ns.saturating_sub(*at) < ASKED_NS
            });
            return if open { socket::UNCONNECTED } else { socket::NONE };
        }
        let live = self.connections.get(&ends).filter(|connection| !connection.is_over(packet.time_ns));
        let begins = is_syn(packet) && live.is_some_and(|connection| connection.state == State::Closed);
        if self.returns(packet, &ends) {
            return socket::CONNECTED;
        }
        if let Some(connection) = live.filter(|_| !begins) {
            return if connection.state == State::HalfOpen { socket::HALF_OPEN } else { socket::CONNECTED };
        }
        if self.listeners.contains_key(&ends.own) { socket::LISTENER } else { socket::NONE }
    }

    /// Returns whether a SYN comes to a listener that has room for it.
    pub(super) fn has_room(&mut self, packet: &Packet) -> bool {
        let Some(ends) = self.ends(packet, packet.dst(), packet.src()).filter(|_| is_syn(packet)) else { return false };
        self.listeners.get_mut(&ends.own).is_some_and(|queue| !queue.is_full(packet.time_ns))
    }

    /// Takes in a packet, about to come in, that is known to have been asked for, of a capture that
    /// does not show it: there is a socket for it.
    pub(super) fn assume(&mut self, packet: &Packet) {
        let Some(ends) = self.ends(packet, packet.dst(), packet.src()) else { return };
        if packet.is_udp() {
            self.udp.insert(ends.own, packet.time_ns);
        } else if is_syn(packet) {
            self.listeners.entry(ends.own).or_default();
        } else if !self.connections.contains_key(&ends) {
            self.note(ends, packet.time_ns, State::Open);
        }
    }

    /// Takes in a packet, about to come in, of a capture that does not show answers: who goes on after a SYN
    /// had one.
    pub(super) fn knock(&mut self, packet: &Packet) {
        let Some(ends) = self.ends(packet, packet.dst(), packet.src()).filter(|_| packet.is_tcp()) else { return };
        if is_syn(packet) {
            if self.knocked.len() < MOST {
                self.knocked.insert(ends);
            }
        } else if packet.flags & tcp::ACK != 0 && !self.was_given(&ends) && self.knocked.remove(&ends) {
            self.assume(packet);
        }
    }

    /// Takes in a packet that got through. Returns which SYN's cookie it brought back.
    pub(super) fn passed(&mut self, packet: &Packet) -> Option<Answer> {
        self.sweep(packet.time_ns);
        let ends = self.ends(packet, packet.dst(), packet.src()).filter(|_| packet.is_tcp())?;
        if let Some(queue) = self.listeners.get_mut(&ends.own) {
            if is_syn(packet) {
                queue.ask(ends, packet.time_ns);
            } else if packet.flags & (tcp::ACK | tcp::RST) != 0 {
                queue.forget(&ends);
            }
        }
        let returned = self.returns(packet, &ends);
        if returned {
            self.note(ends, packet.time_ns, State::Open);
            return self.given.iter_mut().find_map(|given| given.remove(&ends));
        }
        if let Some(connection) = self.connections.get_mut(&ends) {
            connection.at_ns = packet.time_ns;
            connection.state = after(connection.state, packet.flags, false);
        }
        None
    }

    /// Takes in that a SYN was answered by a cookie: its connection exists once that comes back.
    pub(super) fn answered(&mut self, packet: &Packet, answer: Answer) {
        self.sweep(packet.time_ns);
        let Some(ends) = self.ends(packet, packet.dst(), packet.src()) else { return };
        let [this, last] = &mut self.given;
        // A SYN that is sent again is the same one; the one before it will not come back.
        if this.len() + last.len() < MOST || this.contains_key(&ends) {
            this.insert(ends, answer);
        }
    }

    /// Takes in a packet that the protected side sent.
    pub(super) fn sent(&mut self, packet: &Packet) {
        self.sweep(packet.time_ns);
        let Some(ends) = self.ends(packet, packet.src(), packet.dst()) else { return };
        if packet.is_udp() {
            self.udp.insert(ends.own, packet.time_ns);
            return;
        }
        let flags = packet.flags & (tcp::SYN | tcp::ACK | tcp::RST);
        if flags == tcp::SYN | tcp::ACK {
            self.listeners.entry(ends.own).or_default();
            // A SYN that a cookie answered never came to the listener that answered it in the capture.
            if !self.was_given(&ends) && !self.connections.contains_key(&ends) {
                self.note(ends, packet.time_ns, State::HalfOpen);
            }
        } else if flags & tcp::RST != 0 {
            self.connections.remove(&ends);
            self.listeners.get_mut(&ends.own).into_iter().for_each(|queue| queue.forget(&ends));
        } else if let Some(connection) = self.connections.get_mut(&ends) {
            connection.at_ns = packet.time_ns;
            connection.state = after(connection.state, packet.flags, true);
        } else {
            // A connection of its own, or one that is older than the capture.
            self.note(ends, packet.time_ns, after(State::Open, packet.flags, true));
        }
    }

    fn ends(&self, packet: &Packet, own: Option<IpAddr>, peer: Option<IpAddr>) -> Option<Ends> {
        let (own, peer) = (own.filter(|own| self.own.contains(own))?, peer?);
        let (own_port, peer_port) =
            if packet.dst() == Some(own) { (packet.dport, packet.sport) } else { (packet.sport, packet.dport) };
        let ends = Ends { own: (own, own_port).into(), peer: (peer, peer_port).into() };
        (packet.is_tcp() || packet.is_udp()).then_some(ends)
    }

    fn was_given(&self, ends: &Ends) -> bool {
        self.given.iter().any(|given| given.contains_key(ends))
    }

    /// Returns whether a segment brings a cookie back.
    fn returns(&self, packet: &Packet, ends: &Ends) -> bool {
        packet.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::ACK && self.was_given(ends)
    }

    fn note(&mut self, ends: Ends, at_ns: u64, state: State) {
        if self.connections.len() < MOST || self.connections.contains_key(&ends) {
            self.connections.insert(ends, Connection { state, at_ns });
        }
    }

    fn sweep(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = now_ns;
            self.connections.retain(|_, connection| !connection.is_over(now_ns));
        }
        let since_ns = now_ns.saturating_sub(self.turned_ns);
        if since_ns >= LINGERS_NS {
            self.turned_ns = now_ns;
            let [this, last] = &mut self.given;
            std::mem::swap(this, last);
            this.clear();
            if since_ns >= 2 * LINGERS_NS {
                last.clear();
            }
        }
    }
}

fn is_syn(packet: &Packet) -> bool {
    packet.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// Returns what becomes of a connection with a segment of its own or of its peer.
fn after(state: State, flags: u8, own: bool) -> State {
    match state {
        _ if flags & tcp::RST != 0 => State::Closed,
        State::Closed | State::HalfOpen if flags & tcp::SYN != 0 => State::HalfOpen,
        State::Half { own: before } if flags & tcp::FIN != 0 && before != own => State::Closed,
        State::Open | State::HalfOpen if flags & tcp::FIN != 0 => State::Half { own },
        State::HalfOpen => State::Open,
        State::Open | State::Half { .. } | State::Closed => state,
    }
}

#[cfg(test)]
mod tests;
