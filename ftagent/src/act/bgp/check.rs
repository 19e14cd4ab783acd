//! What is announced, and what never is, whoever asks for it. Daemons check next to nothing: an empty flow
//! specification, which means every packet, is taken by both of them.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::route::{Kind, Nlri, Route};
use crate::{
    config::{Bgp, Community, LargeCommunity},
    decide::ladder::What,
    rule::{
        Action, FlowMatch,
        flowspec::{Component, FlowSpec, Limit, Side},
        vendor::nobodys,
    },
};

/// Makes the route that a plane announces for what is asked.
///
/// # Errors
/// Why it must not, or cannot, and the remedy.
pub fn route(kind: Kind, what: &What, config: &Bgp, marker: LargeCommunity) -> Result<Route, String> {
    match (kind, what) {
        (Kind::FlowSpec, What::Filter { matches, action }) => filter(matches, *action, config, marker),
        (Kind::BlackHole, What::BlackHole { victim }) => {
            inside(*victim, config)?;
            hole(*victim, config, marker)
        }
        (Kind::BlackHole, What::SourceBlackHole { source }) => {
            foreign(*source, config)?;
            hole(*source, config, marker)
        }
        (Kind::FlowSpec, _) => Err("the plane flowspec filters: a black hole is for rtbh".to_owned()),
        (Kind::BlackHole, _) => Err("the plane rtbh black-holes: a filter is for flowspec".to_owned()),
    }
}

fn filter(matches: &FlowMatch, action: Action, config: &Bgp, marker: LargeCommunity) -> Result<Route, String> {
    let limit = Limit::of(action).map_err(|error| error.to_string())?;
    if matches!(limit, Limit::Packets(_)) && !config.packet_rates {
        let remedy = "limit bits a second, or set bgp.packet_rates where your routers know it";
        return Err(format!(
            "routers that do not know limits in packets (RFC 8955, 7.2) let everything pass: {remedy}"
        ));
    }
    let Some(dst) = matches.dst else {
        return Err("it names no destination, and routers take no filter without one: add `dst`".to_owned());
    };
    let family = matches.family().ok_or("it names no IP family: add `dst`")?;
    let compiled = FlowSpec::compile(matches, family).map_err(|error| error.to_string())?;
    let spec = compiled.spec;
    inside(spec.destination().unwrap_or(dst), config)?;
    for net in [spec.destination(), spec.source()].into_iter().flatten() {
        unprotected(net, config)?;
    }
    let destination = |part: &Component| matches!(part, Component::Prefix { side: Side::Destination, .. });
    if limit == Limit::Bytes(0) && spec.components().iter().all(destination) {
        let left: Vec<String> = compiled.widened.iter().map(ToString::to_string).collect();
        let why = if left.is_empty() { String::new() } else { format!(" ({})", left.join("; ")) };
        return Err(format!(
            "it would drop everything towards {dst}{why}: match something of the attack, or ask rtbh for a black hole"
        ));
    }
    let communities = config.flowspec_communities.iter().copied().collect();
    Ok(Route { nlri: Nlri::Flow(spec), limit: Some(limit), next_hop: None, communities, marker, asn: config.asn })
}

fn hole(net: IpNet, config: &Bgp, marker: LargeCommunity) -> Result<Route, String> {
    if net != net.trunc() {
        return Err(format!("{net} has host bits set: write {}", net.trunc()));
    }
    if net.prefix_len() != net.max_prefix_len() && !config.blackhole_prefixes {
        return Err(format!("{net} is more than a host: set bgp.blackhole_prefixes where that is meant"));
    }
    unprotected(net, config)?;
    let next_hop: IpAddr = match net {
        IpNet::V4(_) => config.next_hop4.into(),
        IpNet::V6(_) => config.next_hop6.into(),
    };
    if net.contains(&next_hop) {
        return Err(format!("{net} holds the next hop of black holes: set bgp.next_hop4 or bgp.next_hop6 to another"));
    }
    let mut communities: BTreeSet<Community> = config.communities.iter().copied().collect();
    // A black hole that leaks is one for the whole Internet.
    communities.insert(Community::NO_EXPORT);
    Ok(Route { nlri: Nlri::Prefix(net), limit: None, next_hop: Some(next_hop), communities, marker, asn: config.asn })
}

/// The operator's own space, all of it.
fn inside(net: IpNet, config: &Bgp) -> Result<(), String> {
    if config.own_prefixes.iter().any(|own| own.contains(&net)) {
        return Ok(());
    }
    Err(format!("{net} is not inside bgp.own_prefixes: only destinations of your own are announced"))
}

fn unprotected(net: IpNet, config: &Bgp) -> Result<(), String> {
    match config.protect.iter().find(|kept| kept.contains(&net) || net.contains(*kept)) {
        Some(kept) => Err(format!("{net} meets {kept}, which bgp.protect keeps from being announced")),
        None => Ok(()),
    }
}

/// A source that may be black-holed: a unicast address of somebody else.
fn foreign(net: IpNet, config: &Bgp) -> Result<(), String> {
    if !config.source_blackhole {
        let why = "your routers need a loose reverse-path check for it (RFC 5635)";
        return Err(format!("sources are not black-holed: {why}; set bgp.source_blackhole where they have one"));
    }
    if let Some(own) = config.own_prefixes.iter().find(|own| own.contains(&net) || net.contains(*own)) {
        return Err(format!("{net} meets {own}, your own space: no attacker's source"));
    }
    match nobodys(&net) {
        Some(what) => Err(format!("{net} is {what}, and no source that routers forward")),
        None => Ok(()),
    }
}
