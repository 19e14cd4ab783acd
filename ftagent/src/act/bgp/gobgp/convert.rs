//! Between routes and GoBGP's messages.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use prost::Message;
use prost_types::Any;

use super::{Nlri, Route, Seen, api};
use crate::{
    config::{Community, LargeCommunity},
    rule::{
        Family,
        flowspec::{BitField, Bitmask, Component, Field, FlowSpec, Limit, Numeric, Side},
    },
};

/// What the names of messages begin with.
const TYPES: &str = "type.googleapis.com/apipb.";
/// Joined to the comparison before (RFC 8955, 4.2.1).
const AND: u32 = 0x40;

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("{TYPES}{name}"), value: message.encode_to_vec() }
}

fn read<T: Message + Default>(any: &Any, name: &str) -> Option<T> {
    (any.type_url.strip_prefix(TYPES) == Some(name)).then(|| T::decode(any.value.as_slice()).ok())?
}

/// Returns a route as `AddPath` takes it.
pub fn path(route: &Route) -> api::Path {
    let mut path = withdrawn(&route.nlri);
    path.pattrs = vec![any("OriginAttribute", &api::OriginAttribute { origin: 0 })];
    // A next hop is asked for even where the route has none (RFC 8955, 4).
    let next_hop = route.next_hop.map_or_else(|| "0.0.0.0".to_owned(), |next_hop| next_hop.to_string());
    path.pattrs.push(any("NextHopAttribute", &api::NextHopAttribute { next_hop }));
    if !route.communities.is_empty() {
        let communities = route.communities.iter().map(|community| community.0).collect();
        path.pattrs.push(any("CommunitiesAttribute", &api::CommunitiesAttribute { communities }));
    }
    if let Some(limit) = route.limit {
        let communities = vec![rate(limit, route.asn)];
        path.pattrs.push(any("ExtendedCommunitiesAttribute", &api::ExtendedCommunitiesAttribute { communities }));
    }
    let LargeCommunity { global, first, second } = route.marker;
    let marker = api::LargeCommunity { global_admin: global, local_data1: first, local_data2: second };
    let large = api::LargeCommunitiesAttribute { communities: vec![marker] };
    path.pattrs.push(any("LargeCommunitiesAttribute", &large));
    path
}

/// Returns what names a route to `DeletePath`: the rest of its attributes does not matter.
pub fn withdrawn(nlri: &Nlri) -> api::Path {
    let (nlri, family) = match nlri {
        Nlri::Flow(spec) => {
            let rules = spec.components().iter().map(component).collect();
            (any("FlowSpecNLRI", &api::FlowSpecNlri { rules }), (spec.family(), 133))
        }
        Nlri::Prefix(net) => {
            let prefix =
                api::IpAddressPrefix { prefix_len: net.prefix_len().into(), prefix: net.network().to_string() };
            let family = if net.addr().is_ipv4() { Family::Ip4 } else { Family::Ip6 };
            (any("IPAddressPrefix", &prefix), (family, 1))
        }
    };
    let afi = if family.0 == Family::Ip4 { 1 } else { 2 };
    let pattrs = vec![any(
        "NextHopAttribute",
        &api::NextHopAttribute {
            next_hop: if family == (Family::Ip6, 1) { "::".to_owned() } else { "0.0.0.0".to_owned() },
        },
    )];
    api::Path { nlri: Some(nlri), pattrs, family: Some(api::Family { afi, safi: family.1 }), ..Default::default() }
}

fn rate(limit: Limit, asn: u32) -> Any {
    match limit {
        Limit::Bytes(_) => {
            let asn = if asn > 0xffff { 0 } else { asn };
            any("TrafficRateExtended", &api::TrafficRateExtended { asn, rate: limit.rate() })
        }
        // GoBGP 3 has no name for it.
        Limit::Packets(_) => {
            let [kind, value @ ..] = limit.community(asn);
            any("UnknownExtended", &api::UnknownExtended { r#type: kind.into(), value: value.to_vec() })
        }
    }
}

fn component(component: &Component) -> Any {
    let kind = component.kind().into();
    let items = match component {
        Component::Prefix { net, offset, .. } => {
            let prefix = api::FlowSpecIpPrefix {
                r#type: kind,
                prefix_len: net.prefix_len().into(),
                prefix: net.network().to_string(),
                offset: (*offset).into(),
            };
            return any("FlowSpecIPPrefix", &prefix);
        }
        Component::Numbers(_, tests) => tests
            .iter()
            .map(|test| {
                let bits = [(test.and, AND), (test.less, 4), (test.more, 2), (test.equal, 1)];
                item(&bits, test.value)
            })
            .collect(),
        Component::Bits(_, tests) => {
            tests.iter().map(|test| item(&[(test.and, AND), (test.not, 2), (test.all, 1)], test.value.into())).collect()
        }
    };
    any("FlowSpecComponent", &api::FlowSpecComponent { r#type: kind, items })
}

fn item(bits: &[(bool, u32)], value: u64) -> api::FlowSpecComponentItem {
    let op = bits.iter().filter(|(set, _)| *set).fold(0, |op, (_, bit)| op | bit);
    api::FlowSpecComponentItem { op, value }
}

/// Reads a route; `None` where it is of a kind that is never announced here.
pub fn seen(path: &api::Path) -> Option<Seen> {
    let six = path.family.as_ref().is_some_and(|family| family.afi == 2);
    let nlri = nlri(path.nlri.as_ref()?, if six { Family::Ip6 } else { Family::Ip4 })?;
    let (communities, large) = (BTreeSet::new(), BTreeSet::new());
    let mut seen = Seen { nlri, limit: None, next_hop: None, communities, large, whole: true };
    for attribute in &path.pattrs {
        if let Some(own) = read::<api::CommunitiesAttribute>(attribute, "CommunitiesAttribute") {
            seen.communities = own.communities.into_iter().map(Community).collect();
        } else if let Some(own) = read::<api::LargeCommunitiesAttribute>(attribute, "LargeCommunitiesAttribute") {
            let large = |own: api::LargeCommunity| LargeCommunity {
                global: own.global_admin,
                first: own.local_data1,
                second: own.local_data2,
            };
            seen.large = own.communities.into_iter().map(large).collect();
        } else if let Some(own) = read::<api::NextHopAttribute>(attribute, "NextHopAttribute") {
            seen.next_hop = own.next_hop.parse().ok();
        } else if let Some(own) = read::<api::MpReachNlriAttribute>(attribute, "MpReachNLRIAttribute") {
            seen.next_hop = own.next_hops.first().and_then(|next_hop| next_hop.parse().ok());
        } else if let Some(own) = read::<api::ExtendedCommunitiesAttribute>(attribute, "ExtendedCommunitiesAttribute") {
            seen.limit = own.communities.iter().find_map(limit);
        }
    }
    Some(seen)
}

fn limit(community: &Any) -> Option<Limit> {
    if let Some(rate) = read::<api::TrafficRateExtended>(community, "TrafficRateExtended") {
        let [a, b, c, d] = rate.rate.to_be_bytes();
        return Limit::from_community([0x80, 0x06, 0, 0, a, b, c, d]);
    }
    let unknown = read::<api::UnknownExtended>(community, "UnknownExtended")?;
    let mut bytes = vec![u8::try_from(unknown.r#type).ok()?];
    bytes.extend(unknown.value);
    Limit::from_community(bytes.try_into().ok()?)
}

fn nlri(nlri: &Any, family: Family) -> Option<Nlri> {
    if let Some(prefix) = read::<api::IpAddressPrefix>(nlri, "IPAddressPrefix") {
        return net(&prefix.prefix, prefix.prefix_len).map(Nlri::Prefix);
    }
    let rules = read::<api::FlowSpecNlri>(nlri, "FlowSpecNLRI")?.rules;
    let components = rules.iter().map(component_of).collect::<Option<Vec<_>>>()?;
    FlowSpec::new(family, components).ok().map(Nlri::Flow)
}

fn net(address: &str, length: u32) -> Option<IpNet> {
    IpNet::new(address.parse::<IpAddr>().ok()?, u8::try_from(length).ok()?).ok()
}

fn component_of(rule: &Any) -> Option<Component> {
    if let Some(prefix) = read::<api::FlowSpecIpPrefix>(rule, "FlowSpecIPPrefix") {
        let side = if prefix.r#type == 1 { Side::Destination } else { Side::Source };
        let net = net(&prefix.prefix, prefix.prefix_len)?.trunc();
        return Some(Component::Prefix { side, net, offset: u8::try_from(prefix.offset).ok()? });
    }
    let component = read::<api::FlowSpecComponent>(rule, "FlowSpecComponent")?;
    let field = match component.r#type {
        9 => return bits(BitField::TcpFlags, &component.items),
        12 => return bits(BitField::Fragment, &component.items),
        kind => Field::of_type(u8::try_from(kind).ok()?)?,
    };
    let test = |(at, item): (usize, &api::FlowSpecComponentItem)| Numeric {
        and: item.op & AND != 0 && at > 0,
        less: item.op & 4 != 0,
        more: item.op & 2 != 0,
        equal: item.op & 1 != 0,
        value: item.value,
    };
    Some(Component::Numbers(field, component.items.iter().enumerate().map(test).collect()))
}

fn bits(field: BitField, items: &[api::FlowSpecComponentItem]) -> Option<Component> {
    let test = |(at, item): (usize, &api::FlowSpecComponentItem)| {
        let value = u16::try_from(item.value).ok()?;
        Some(Bitmask { and: item.op & AND != 0 && at > 0, not: item.op & 2 != 0, all: item.op & 1 != 0, value })
    };
    Some(Component::Bits(field, items.iter().enumerate().map(test).collect::<Option<_>>()?))
}
