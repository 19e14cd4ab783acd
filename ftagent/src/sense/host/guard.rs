//! Checks what is about to be blocked against what must stay reachable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use super::HostFacts;
use crate::config::{MIN_PREFIX4, MIN_PREFIX6, too_short};

/// What an address is to this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protected {
    /// Loopback.
    Loopback,
    /// One of its own.
    Own,
    /// Where the command comes from.
    Caller,
    /// Somebody else's SSH session.
    Operator,
    /// A next hop of a default route.
    Gateway,
    /// A name server.
    Resolver,
    /// The other end of a BGP session.
    Router,
}

impl Protected {
    fn describe(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Own => "an address of this host",
            Self::Caller => "the peer of the SSH session that asks for it",
            Self::Operator => "the peer of an operator's SSH session",
            Self::Gateway => "the gateway of the default route",
            Self::Resolver => "a name server that this host uses",
            Self::Router => "a router that this host has a BGP session with",
        }
    }
}

/// Why a prefix is not blocked without force. Displays the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It covers too much.
    #[error(
        "{net} {}; take prefixes of /{least} or longer, or --force blocks it all the same", self.reason()
    )]
    TooShort {
        /// The prefix.
        net: IpNet,
        /// The shortest length that is taken.
        least: u8,
    },
    /// It covers something that must stay reachable.
    #[error("{net} {}; {}--force blocks it all the same", self.reason(), narrower(net))]
    Covers {
        /// The prefix.
        net: IpNet,
        /// What it covers.
        address: IpNet,
        /// And what that is.
        what: Protected,
    },
}

impl Refusal {
    /// Returns the reason without the remedy: for feeds, which nobody can force.
    pub fn reason(&self) -> String {
        match self {
            Self::TooShort { least, .. } => format!("is shorter than /{least} and covers too much of the Internet"),
            Self::Covers { net, address, what } if net == address => format!("is {}", what.describe()),
            Self::Covers { address, what, .. } => format!("covers {address}, {}", what.describe()),
        }
    }
}

fn narrower(net: &IpNet) -> &'static str {
    if net.prefix_len() == net.max_prefix_len() { "" } else { "take a narrower prefix that leaves it out, or " }
}

const LOOPBACK4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
const LOOPBACK6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));

/// What must stay reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Few: tens on an ordinary host. The order is that in which reasons are told.
    protected: Vec<(IpNet, Protected)>,
    /// The same as first and last address: a feed asks a million times.
    ranges: Vec<(u128, u128)>,
}

/// Returns the first and last address as numbers; IPv4 as mapped into IPv6 (RFC 4291, 2.5.5.2),
/// so that a mapped prefix is what it maps.
fn range(net: &IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => {
            let mapped = |address: Ipv4Addr| 0xffff_0000_0000 | u128::from(address.to_bits());
            (mapped(net.network()), mapped(net.broadcast()))
        }
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

impl From<&HostFacts> for Guard {
    fn from(facts: &HostFacts) -> Self {
        let mut protected = vec![(LOOPBACK4, Protected::Loopback), (LOOPBACK6, Protected::Loopback)];
        let mut add = |nets: &mut dyn Iterator<Item = IpNet>, what| {
            // Local connections and stub resolvers: loopback is there already.
            protected.extend(nets.filter(|net| !net.addr().is_loopback()).map(|net| (net, what)));
        };
        add(&mut facts.addresses.iter().copied(), Protected::Own);
        add(&mut facts.operators.iter().copied().map(IpNet::from), Protected::Operator);
        add(&mut facts.default_routes.iter().filter_map(|route| route.gateway).map(IpNet::from), Protected::Gateway);
        add(&mut facts.resolvers.iter().copied().map(IpNet::from), Protected::Resolver);
        add(&mut facts.bgp_peers.iter().copied().map(IpNet::from), Protected::Router);
        let ranges = protected.iter().map(|(net, _)| range(net)).collect();
        Self { protected, ranges }
    }
}

impl Guard {
    /// Checks a prefix that is about to be blocked. `caller` is the address that the operator's
    /// command comes from. With `force` everything passes.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check(&self, net: IpNet, caller: Option<IpAddr>, force: bool) -> Result<(), Refusal> {
        if force {
            return Ok(());
        }
        Self::check_width(net, force)?;
        if let Some(caller) = caller.map(|address| address.to_canonical()).filter(|caller| net.contains(caller)) {
            return Err(Refusal::Covers { net, address: caller.into(), what: Protected::Caller });
        }
        let (first, last) = range(&net);
        match self.ranges.iter().position(|&(low, high)| low <= last && first <= high).map(|i| self.protected[i]) {
            Some((address, what)) => Err(Refusal::Covers { net, address, what }),
            None => Ok(()),
        }
    }

    /// Checks a line of a feed, which nobody can force.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn check_feed(&self, net: IpNet) -> Result<(), Refusal> {
        self.check(net, None, false)
    }

    /// Checks the width of a prefix alone: what holds for the allow list too.
    ///
    /// # Errors
    /// [`Refusal::TooShort`].
    pub fn check_width(net: IpNet, force: bool) -> Result<(), Refusal> {
        if force || !too_short(&net) {
            return Ok(());
        }
        Err(Refusal::TooShort { net, least: if net.addr().is_ipv4() { MIN_PREFIX4 } else { MIN_PREFIX6 } })
    }
}
