//! Between routes and ExaBGP's text.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Nlri, Route, Seen};
use crate::{
    config::{Community, LargeCommunity},
    rule::{
        Family,
        flowspec::{BitField, Bitmask, Component, Field, FlowSpec, Limit, Numeric, Side},
        vendor,
    },
};

/// Returns a route as its commands `announce` and `withdraw` take it.
pub fn route(route: &Route) -> String {
    let mut attributes = String::new();
    if !route.communities.is_empty() {
        let all: Vec<String> = route.communities.iter().map(ToString::to_string).collect();
        attributes.push_str(&format!("community [ {} ]; ", all.join(" ")));
    }
    attributes.push_str(&format!("large-community [ {} ];", route.marker));
    match &route.nlri {
        Nlri::Flow(spec) => {
            // In octets, which say all of it: the words know neither packets a second nor an AS.
            let limit = route.limit.unwrap_or(Limit::Bytes(0)).community(route.asn);
            let limit: String = limit.iter().map(|byte| format!("{byte:02x}")).collect();
            let then = format!("extended-community [ 0x{limit} ]; {attributes}");
            format!("flow route {{ match {{ {} }} then {{ {then} }} }}", vendor::exabgp_terms(spec))
        }
        Nlri::Prefix(net) => {
            let next_hop = route.next_hop.unwrap_or_else(|| unspecified(net));
            format!("route {net} next-hop {next_hop} {}", attributes.replace(';', ""))
        }
    }
}

/// Returns what names a route to `withdraw`.
pub fn withdrawn(nlri: &Nlri) -> String {
    match nlri {
        Nlri::Flow(spec) => {
            format!("flow route {{ match {{ {} }} then {{ discard; }} }}", vendor::exabgp_terms(spec))
        }
        Nlri::Prefix(net) => format!("route {net} next-hop {}", unspecified(net)),
    }
}

fn unspecified(net: &IpNet) -> IpAddr {
    match net {
        IpNet::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A neighbour, as `show neighbor extensive` tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its session is up.
    pub up: bool,
    /// Its families that this side offers: `ipv4 flow`.
    pub families: BTreeSet<String>,
}

/// Reads the answer to `show neighbor extensive`.
pub fn neighbours(lines: &[String]) -> BTreeMap<String, Neighbour> {
    let mut all: BTreeMap<String, Neighbour> = BTreeMap::new();
    let mut name = String::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["Neighbor", address] = words[..] {
            address.clone_into(&mut name);
            all.entry(name.clone()).or_default();
        }
        let Some(neighbour) = all.get_mut(&name) else { continue };
        match words[..] {
            ["state", state] => neighbour.up = state.eq_ignore_ascii_case("established"),
            [afi @ ("ipv4" | "ipv6"), safi, "enabled", ..] => {
                neighbour.families.insert(format!("{afi} {}", safi.trim_end_matches(':')));
            }
            _ => {}
        }
    }
    all
}

/// Returns the family of a route, as ExaBGP names it.
pub const fn family(nlri: &Nlri) -> &'static str {
    match nlri {
        Nlri::Flow(spec) if matches!(spec.family(), Family::Ip4) => "ipv4 flow",
        Nlri::Flow(_) => "ipv6 flow",
        Nlri::Prefix(IpNet::V4(_)) => "ipv4 unicast",
        Nlri::Prefix(IpNet::V6(_)) => "ipv6 unicast",
    }
}

/// What every line of a listing of routes begins with.
pub const LISTED: &str = "neighbor ";

/// Reads the answer to `show adj-rib out extensive`: routes by neighbour.
///
/// # Errors
/// The line that is none of such an answer, or that is a route of ours (it bears the marker) and cannot be read.
pub fn listing(lines: &[String], marker: LargeCommunity) -> Result<Vec<(String, Seen)>, &str> {
    let marker = marker.to_string();
    let ours = |text: &str| {
        let (_, behind) = text.rsplit_once(" large-community ").unwrap_or_default();
        behind.split_whitespace().any(|word| word == marker)
    };
    let mut routes = Vec::with_capacity(lines.len());
    for text in lines {
        match line(text).filter(|_| text.starts_with(LISTED)) {
            Some(route) => routes.push(route),
            // Others may announce what is never announced here.
            None if text.starts_with(LISTED) && text.contains(ALLOWED) && !ours(text) => {}
            None => return Err(text),
        }
    }
    Ok(routes)
}

/// What stands between the neighbour and the route.
const ALLOWED: &str = " family-allowed ";

/// Reads a line of it: the neighbour, and a route; `None` where it is of a kind that is never announced here.
fn line(line: &str) -> Option<(String, Seen)> {
    let mut line = line.to_owned();
    // What it has no name for, it tells in words.
    for words in
        ["unknown protocol type ", "unknown icmp type type ", "unknown tcp flag type ", "unknown fragment type "]
    {
        line = line.replace(words, "");
    }
    let (whom, what) = line.split_once(ALLOWED)?;
    let neighbour = whom.split_whitespace().nth(1)?.to_owned();
    let mut words = what.split_whitespace().skip(1);
    let six = words.next()? == "ipv6";
    let nlri = match words.next()? {
        "flow" => {
            words.next().filter(|word| *word == "flow")?;
            None
        }
        "unicast" => Some(Nlri::Prefix(words.next()?.parse().ok()?)),
        _ => return None,
    };
    let mut components = Vec::new();
    let mut seen = Attributes::default();
    while let Some(key) = words.next() {
        let values: Vec<&str> = match words.next()? {
            "[" => words.by_ref().take_while(|word| *word != "]").collect(),
            value => vec![value],
        };
        match component(key, &values) {
            Some(component) if nlri.is_none() => components.push(component?),
            _ => seen.read(key, &values)?,
        }
    }
    let nlri = match nlri {
        Some(nlri) => nlri,
        None => Nlri::Flow(FlowSpec::new(if six { Family::Ip6 } else { Family::Ip4 }, components).ok()?),
    };
    let Attributes { limit, next_hop, communities, large } = seen;
    Some((neighbour, Seen { nlri, limit, next_hop, communities, large, whole: true }))
}

#[derive(Default)]
struct Attributes {
    limit: Option<Limit>,
    next_hop: Option<IpAddr>,
    communities: BTreeSet<Community>,
    large: BTreeSet<LargeCommunity>,
}

impl Attributes {
    /// Takes an attribute; `None` where it cannot be read, or could be a part of the flow specification that is not
    /// known here.
    fn read(&mut self, key: &str, values: &[&str]) -> Option<()> {
        match key {
            "next-hop" => self.next_hop = values.first().and_then(|value| value.parse().ok()),
            "community" => self.communities = values.iter().map(|value| value.parse().ok()).collect::<Option<_>>()?,
            "large-community" => self.large = values.iter().map(|value| value.parse().ok()).collect::<Option<_>>()?,
            "extended-community" => self.limit = values.iter().find_map(|value| limit(value)),
            "origin" | "as-path" | "local-preference" | "med" | "aggregator" | "originator-id" | "cluster-list"
            | "attribute" => {}
            _ => return None,
        }
        Some(())
    }
}

fn limit(text: &str) -> Option<Limit> {
    if let Some(rate) = text.strip_prefix("rate-limit:") {
        return Some(Limit::Bytes(rate.parse().ok()?));
    }
    let number = u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()?;
    Limit::from_community(number.to_be_bytes())
}

/// Reads a part of a flow specification: `None` where it is no such key, `Some(None)` where its value is not known.
fn component(key: &str, values: &[&str]) -> Option<Option<Component>> {
    let side = match key {
        "destination-ipv4" | "destination-ipv6" => Side::Destination,
        "source-ipv4" | "source-ipv6" => Side::Source,
        _ => return field(key).map(|field| compared(field, values)),
    };
    Some(values.first().and_then(|value| prefix(side, value)))
}

fn prefix(side: Side, text: &str) -> Option<Component> {
    let mut parts = text.split('/');
    let (address, length) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let offset = parts.next().map_or(Some(0), |offset| offset.parse().ok())?;
    Some(Component::Prefix { side, net: IpNet::new(address, length).ok()?.trunc(), offset })
}

/// A field of numbers, or of bits.
enum Compared {
    Numbers(Field),
    Bits(BitField),
}

fn field(key: &str) -> Option<Compared> {
    Some(Compared::Numbers(match key {
        "protocol" | "next-header" => Field::Protocol,
        "port" => Field::Port,
        "destination-port" => Field::DestinationPort,
        "source-port" => Field::SourcePort,
        "icmp-type" => Field::IcmpType,
        "icmp-code" => Field::IcmpCode,
        "packet-length" => Field::Length,
        "dscp" | "traffic-class" => Field::Dscp,
        "flow-label" => Field::FlowLabel,
        "tcp-flags" => return Some(Compared::Bits(BitField::TcpFlags)),
        "fragment" => return Some(Compared::Bits(BitField::Fragment)),
        _ => return None,
    }))
}

fn compared(field: Compared, values: &[&str]) -> Option<Component> {
    // What holds together with the one before is written behind a `&`, without a space.
    let each = values.iter().flat_map(|value| value.split('&').enumerate()).map(|(at, test)| (at > 0, test));
    match field {
        Compared::Numbers(field) => {
            each.map(|(and, test)| numeric(and, test)).collect::<Option<_>>().map(|all| Component::Numbers(field, all))
        }
        Compared::Bits(field) => each
            .map(|(and, test)| bitmask(field, and, test))
            .collect::<Option<_>>()
            .map(|all| Component::Bits(field, all)),
    }
}

fn numeric(and: bool, text: &str) -> Option<Numeric> {
    let at = text.find(|letter| !matches!(letter, '<' | '>' | '=' | '!')).unwrap_or(text.len());
    let (operator, value) = text.split_at(at);
    let (less, more, equal) = match (operator, value) {
        ("", "true") => (true, true, true),
        ("", "false") => (false, false, false),
        ("=", _) => (false, false, true),
        (">", _) => (false, true, false),
        (">=", _) => (false, true, true),
        ("<", _) => (true, false, false),
        ("<=", _) => (true, false, true),
        ("!=", _) => (true, true, false),
        _ => return None,
    };
    let value = if operator.is_empty() { 0 } else { value.parse().ok().or_else(|| named(value))? };
    Some(Numeric { and, less, more, equal, value })
}

fn bitmask(field: BitField, and: bool, text: &str) -> Option<Bitmask> {
    let (not, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
    let (all, text) = text.strip_prefix('=').map_or((false, text), |text| (true, text));
    let names: &[&str] = match field {
        BitField::TcpFlags => &["fin", "syn", "rst", "push", "ack", "urg", "ece", "cwr", "ns"],
        BitField::Fragment => &["dont-fragment", "is-fragment", "first-fragment", "last-fragment"],
    };
    let mut value = 0;
    for name in text.split('+').filter(|name| !matches!(*name, "" | "not-a-fragment")) {
        let bit = names.iter().position(|known| *known == name).map(|bit| 1 << bit);
        value |= bit.or_else(|| name.parse().ok())?;
    }
    Some(Bitmask { and, not, all, value })
}

/// Names that ExaBGP gives to protocols and ICMP types.
fn named(name: &str) -> Option<u64> {
    const NAMES: [(&str, u64); 35] = [
        ("icmp", 1),
        ("igmp", 2),
        ("tcp", 6),
        ("egp", 8),
        ("udp", 17),
        ("rsvp", 46),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("ospf", 89),
        ("ipip", 94),
        ("pim", 103),
        ("sctp", 132),
        ("echo-reply", 0),
        ("unreachable", 3),
        ("source-quench", 4),
        ("redirect", 5),
        ("echo-request", 8),
        ("router-advertisement", 9),
        ("router-solicit", 10),
        ("time-exceeded", 11),
        ("parameter-problem", 12),
        ("timestamp", 13),
        ("timestamp-reply", 14),
        ("info-request", 15),
        ("info-reply", 16),
        ("mask-request", 17),
        ("mask-reply", 18),
        ("traceroute", 30),
        ("experimental-mobility", 41),
        ("extended-echo-request", 42),
        ("extended-echo-reply", 43),
        ("experimental-one", 253),
        ("experimental-two", 254),
        // What later versions say instead.
        ("ipv6-icmp", 58),
    ];
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOM: &str = "neighbor 127.0.0.2 local-ip 127.0.0.1 local-as 64500 peer-as 64501 router-id 127.0.0.1 \
                        family-allowed in-open ";

    #[test]
    fn what_it_lists_is_what_was_meant() {
        // As ExaBGP 4.2.21 writes it, and as a flow specification is shown here.
        let cases = [
            (
                "ipv4 flow flow destination-ipv4 203.0.113.5/32 protocol [ =udp =tcp&>unknown protocol type 3 ] \
                 source-port =123 icmp-type =echo-request icmp-code [ >=0&<=3 ] tcp-flags [ =syn&!ack =fin+rst ] \
                 packet-length [ >=400&<=1500 ] dscp =46 fragment [ is-fragment !=first-fragment ] community 64500:1 \
                 extended-community rate-limit:0 large-community 64500:1718903143:99",
                "flow4 dst 203.0.113.5/32 proto =17,=6&>3 sport =123 icmp-type =8 icmp-code >=0&<=3 flags \
                 =0x02&!0x10,=0x05 len >=400&<=1500 dscp =46 frag 0x02,!=0x04",
                Some(Limit::Bytes(0)),
            ),
            (
                "ipv6 flow flow destination-ipv6 2001:db8::5/128/0 source-ipv6 2001:db9::/33/0 next-header =udp \
                 source-port [ =0&=1 >2 ] traffic-class =46 flow-label =12 community [ 64500:1 no-export ] \
                 extended-community 0x800C000044FA0000 large-community 64500:1718903143:99",
                "flow6 dst 2001:db8::5/128 src 2001:db9::/33 proto =17 sport =0&=1,>2 dscp =46 label =12",
                Some(Limit::Packets(2000)),
            ),
            (
                "ipv4 unicast 203.0.113.9/32 next-hop 192.0.2.1 community [ 1:2 blackhole no-export ] \
                 large-community 64500:1718903143:99",
                "203.0.113.9/32",
                None,
            ),
        ];
        for (text, wanted, limit) in cases {
            let (neighbour, seen) = line(&format!("{WHOM}{text}")).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((neighbour.as_str(), seen.nlri.to_string().as_str()), ("127.0.0.2", wanted));
            assert_eq!(seen.limit, limit);
            assert!(seen.large.contains(&"64500:1718903143:99".parse().unwrap()), "{seen:?}");
        }
        // What cannot be read is not taken for something else.
        for text in [
            "ipv4 flow flow destination-ipv4 203.0.113.5/32 something =1 large-community 1:2:3",
            "ipv4 flow flow destination-ipv4 203.0.113.5/32 protocol =what",
            "ipv4 flow flow large-community 1:2:3",
            "l2vpn evpn something",
            "",
        ] {
            assert_eq!(line(&format!("{WHOM}{text}")), None, "{text}");
        }
    }

    #[test]
    fn a_listing_is_taken_whole_or_not_at_all() {
        let marker: LargeCommunity = "64500:1:99".parse().unwrap();
        let route = |more: &str| {
            format!("{WHOM}ipv4 unicast 203.0.113.9/32 next-hop 192.0.2.1 {more} large-community 64500:1:99")
        };
        let named = route("community [ no-advertise no-export-subconfed no-peer 64500:7 ]");
        let other = format!("{WHOM}l2vpn evpn something large-community 64500:1:98");
        let lines = [named.clone(), other.clone()];
        let [(_, seen)] = &listing(&lines, marker).unwrap()[..] else { panic!("one is for us") };
        let named_ones = [0xffff_ff02, 0xffff_ff03, 0xffff_ff04, 64500 << 16 | 7].map(Community);
        assert_eq!(seen.communities, named_ones.into());
        // Ours that cannot be read; a part of a line; what answers another command.
        for bad in
            [route("community [ something-new ]"), named[40..].to_owned(), WHOM.to_owned(), "exabgp 4.2.21".to_owned()]
        {
            let lines = [other.clone(), bad.clone()];
            match listing(&lines, marker) {
                Err(line) => assert_eq!(line, bad),
                // A line without a route is none of ours.
                Ok(routes) => assert!(routes.is_empty() && bad == WHOM, "{bad}"),
            }
        }
    }

    #[test]
    fn neighbours_are_told_with_their_families() {
        let text = "Neighbor 127.0.0.2\n\n  Session                         Local\n   state                           IDLE\n   \
                    down for                     0:00:01\n  Families                        Local          Remote        \
                    Add-Path\n   ipv4 unicast:                enabled             n/a        disabled\n   ipv4 flow:  \
                    disabled             n/a        disabled\nNeighbor 127.0.0.3\n   state                    \
                    ESTABLISHED\n   up for    1 day, 0:00:01\n   ipv6 flow:                enabled   enabled   disabled";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let all = neighbours(&lines);
        let one = |up, family: &str| Neighbour { up, families: [family.to_owned()].into() };
        assert_eq!(
            all,
            [("127.0.0.2".to_owned(), one(false, "ipv4 unicast")), ("127.0.0.3".to_owned(), one(true, "ipv6 flow"))]
                .into()
        );
    }
}
