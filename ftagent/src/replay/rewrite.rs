//! Moves packets to other addresses: the victim's to the protected side's, and sources kept,
//! forged, or drawn from a pool or a prefix.
//!
//! What is drawn is drawn per packet, but connections hold together: all segments of a TCP
//! connection keep what its SYN drew, and all fragments of a datagram what the first drew. With
//! `spoof` only fragments hold together: who forges a source does not keep connections. The
//! addresses inside ICMP errors and tunnels are left alone.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::frame::Layout;

/// What becomes of source addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sources {
    /// They stay.
    #[default]
    Keep,
    /// Any unicast address, another for every packet.
    Spoof,
    /// One of so many addresses.
    Pool(u32),
    /// Any address of a prefix; packets of the other family keep theirs.
    Prefix(IpNet),
}

/// A source's `rewrite` table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Where IPv4 packets go; over all of it where it is a prefix.
    pub dst: Option<IpNet>,
    /// Where IPv6 packets go.
    pub dst6: Option<IpNet>,
    /// What becomes of source addresses.
    pub src: Sources,
}

/// Addresses that were drawn.
#[derive(Clone, Copy, Debug)]
struct Drawn {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
}

/// What packets must hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    remote: IpAddr,
    local: IpAddr,
    protocol: u8,
    /// Ports, or the identification of a fragmented datagram.
    tag: u64,
}

impl FlowKey {
    /// Returns the key of a packet; `inbound`: it goes towards the protected side.
    pub fn new(layout: &Layout, frame: &[u8], inbound: bool) -> Self {
        let (source, destination) = (layout.source(frame), layout.destination(frame));
        let (from, to) = layout.ports(frame).filter(|_| layout.fragment.is_none()).unwrap_or_default();
        let (remote, local, ports) =
            if inbound { (source, destination, (from, to)) } else { (destination, source, (to, from)) };
        let tag = match layout.fragment {
            Some(id) => 1 << 32 | u64::from(id),
            None => u64::from(ports.0) << 16 | u64::from(ports.1),
        };
        Self { remote, local, protocol: layout.protocol, tag }
    }
}

/// Numbers flows in the order of their first packet.
#[derive(Debug, Default)]
pub struct Flows(HashMap<FlowKey, u32>);

impl Flows {
    /// Returns the number of a flow.
    pub fn number(&mut self, key: FlowKey) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(key).or_insert(next)
    }
}

/// Rewrites the packets of one source.
#[derive(Debug)]
pub struct Rewriter {
    rules: Rewrite,
    rng: ChaCha8Rng,
    pool4: Vec<IpAddr>,
    pool6: Vec<IpAddr>,
    flows: Vec<Option<Drawn>>,
}

impl Rewriter {
    /// Makes a rewriter.
    pub fn new(rules: Rewrite, mut rng: ChaCha8Rng) -> Self {
        let (mut pool4, mut pool6) = (BTreeSet::new(), BTreeSet::new());
        if let Sources::Pool(size) = rules.src {
            while pool4.len() < size as usize {
                pool4.insert(random_v4(&mut rng));
            }
            while pool6.len() < size as usize {
                pool6.insert(random_v6(&mut rng));
            }
        }
        let (pool4, pool6) = (pool4.into_iter().collect(), pool6.into_iter().collect());
        Self { rules, rng, pool4, pool6, flows: Vec::new() }
    }

    /// Returns whether nothing is to be changed.
    pub fn is_idle(&self) -> bool {
        self.rules == Rewrite::default()
    }

    /// Forgets what flows drew: the file begins anew, with new connections.
    pub fn restart(&mut self) {
        self.flows.fill(None);
    }

    /// Rewrites a packet; `inbound` as in [`FlowKey::new`].
    pub fn apply(&mut self, frame: &mut [u8], layout: &Layout, flow: u32, inbound: bool) {
        let held = self.flows.get(flow as usize).copied().flatten();
        let drawn = match held {
            Some(drawn) if !inbound || !self.draws_anew(frame, layout) => drawn,
            _ => self.draw(layout.v6, flow),
        };
        let Drawn { source, destination } = drawn;
        let (source, destination) = if inbound { (source, destination) } else { (destination, source) };
        if let Some(source) = source {
            layout.set_source(frame, source);
        }
        if let Some(destination) = destination {
            layout.set_destination(frame, destination);
        }
    }

    fn draws_anew(&self, frame: &[u8], layout: &Layout) -> bool {
        if layout.fragment.is_some() {
            return layout.is_first(frame);
        }
        !layout.is_tcp() || self.rules.src == Sources::Spoof || layout.is_first(frame)
    }

    fn draw(&mut self, v6: bool, flow: u32) -> Drawn {
        let rng = &mut self.rng;
        let pool = if v6 { &self.pool6 } else { &self.pool4 };
        let source = match self.rules.src {
            Sources::Keep => None,
            Sources::Spoof if v6 => Some(random_v6(rng)),
            Sources::Spoof => Some(random_v4(rng)),
            Sources::Pool(size) => pool.get(below(rng, size) as usize).copied(),
            Sources::Prefix(net) => Some(within(rng, net)),
        };
        let destination = if v6 { self.rules.dst6 } else { self.rules.dst }.map(|net| within(rng, net));
        let drawn = Drawn { source, destination };
        let flow = flow as usize;
        if self.flows.len() <= flow {
            self.flows.resize(flow + 1, None);
        }
        self.flows[flow] = Some(drawn);
        drawn
    }
}

/// Returns a number below `bound`, by multiplication (Lemire 2019; the bias is below 2^-32).
fn below(rng: &mut ChaCha8Rng, bound: u32) -> u32 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u32
}

/// Returns an IPv4 address that no stack calls martian: not 0/8, 127/8, 224/4 or 240/4.
fn random_v4(rng: &mut ChaCha8Rng) -> IpAddr {
    loop {
        let bits = rng.next_u32();
        if !matches!(bits >> 24, 0 | 127 | 224..) {
            return Ipv4Addr::from_bits(bits).into();
        }
    }
}

/// Returns an address of 2000::/3, global unicast (RFC 4291, section 2.4).
fn random_v6(rng: &mut ChaCha8Rng) -> IpAddr {
    let bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into()
}

fn within(rng: &mut ChaCha8Rng, net: IpNet) -> IpAddr {
    if net.prefix_len() == net.max_prefix_len() {
        return net.addr();
    }
    match net {
        IpNet::V4(net) => {
            Ipv4Addr::from_bits(net.network().to_bits() | rng.next_u32() & net.hostmask().to_bits()).into()
        }
        IpNet::V6(net) => {
            let bits = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
            Ipv6Addr::from_bits(net.network().to_bits() | bits & net.hostmask().to_bits()).into()
        }
    }
}

#[cfg(test)]
mod tests;
