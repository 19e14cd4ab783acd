//! Routes: what is announced, and what a daemon says it has.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::{
    config::{Community, LargeCommunity},
    rule::flowspec::{FlowSpec, Limit},
};

/// A kind of routes: a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Flow specifications.
    FlowSpec,
    /// Black holes: routes of addresses to a next hop that leads nowhere.
    BlackHole,
}

/// What a route is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Nlri {
    /// A flow specification.
    Flow(FlowSpec),
    /// A prefix.
    Prefix(IpNet),
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flow(spec) => spec.fmt(f),
            Self::Prefix(net) => net.fmt(f),
        }
    }
}

/// A route to announce. Only [`super::check::route`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub(super) nlri: Nlri,
    /// The rate of a flow specification.
    pub(super) limit: Option<Limit>,
    /// The next hop of a black hole.
    pub(super) next_hop: Option<IpAddr>,
    pub(super) communities: BTreeSet<Community>,
    pub(super) marker: LargeCommunity,
    /// The operator's AS, told with a rate.
    pub(super) asn: u32,
}

impl Route {
    /// Returns what it is of.
    pub const fn nlri(&self) -> &Nlri {
        &self.nlri
    }

    /// Describes it for the audit log.
    pub fn describe(&self) -> Value {
        describe(&self.nlri, self.limit, self.next_hop, &self.communities)
    }
}

fn describe(nlri: &Nlri, limit: Option<Limit>, next_hop: Option<IpAddr>, communities: &BTreeSet<Community>) -> Value {
    let limit = limit.map(|limit| match limit {
        Limit::Bytes(rate) => json!({ "bytes_per_second": rate }),
        Limit::Packets(rate) => json!({ "packets_per_second": rate }),
    });
    let communities: Vec<String> = communities.iter().map(ToString::to_string).collect();
    json!({ "route": nlri.to_string(), "limit": limit, "next_hop": next_hop, "communities": communities })
}

/// A route that a daemon has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it is of.
    pub nlri: Nlri,
    /// The rate of a flow specification, where it has one.
    pub limit: Option<Limit>,
    /// The next hop.
    pub next_hop: Option<IpAddr>,
    /// Its communities.
    pub communities: BTreeSet<Community>,
    /// Its large communities.
    pub large: BTreeSet<LargeCommunity>,
    /// Every neighbour is told of it, and the same.
    pub whole: bool,
}

impl Seen {
    /// Returns whether it is just what is to be announced.
    pub fn is(&self, route: &Route) -> bool {
        // A rate is a float on the wire: what was rounded there is compared as it is there.
        let wire = |limit: Option<Limit>| limit.map(|limit| limit.community(0));
        self.whole
            && self.nlri == route.nlri
            && wire(self.limit) == wire(route.limit)
            && (route.next_hop.is_none() || self.next_hop == route.next_hop)
            && self.communities == route.communities
            && self.large.contains(&route.marker)
    }

    /// Describes it for the audit log.
    pub fn describe(&self) -> Value {
        describe(&self.nlri, self.limit, self.next_hop, &self.communities)
    }
}
