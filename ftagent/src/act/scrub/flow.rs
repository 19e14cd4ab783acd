//! Matches in the terms of simple packet filters: addresses, a protocol, ports, flags. What cannot be said is
//! refused with the reason, never said less narrowly.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::rule::{Action, Family, FlowMatch, Ranges};

/// One rule of such a filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flow {
    pub src: Option<Ipv4Net>,
    pub dst: Ipv4Net,
    /// Any, where there is none.
    pub proto: Option<u8>,
    pub sport: Option<(u16, u16)>,
    pub dport: Option<(u16, u16)>,
}

/// What such a filter can say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Whom refusals name.
    pub who: &'static str,
    pub protocols: &'static [(u8, &'static str)],
    /// Whether several ports go into one rule.
    pub ranges: bool,
    /// Rules that one match may come down to.
    pub rules: usize,
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Returns the rules that together match exactly what `matches` does.
pub(super) fn flows(matches: &FlowMatch, action: Action, limits: Limits) -> Result<Vec<Flow>, String> {
    let who = limits.who;
    if action != Action::Drop {
        return Err(format!("{who} cannot limit rates, only drop: use a plane that can"));
    }
    let dst = match matches.dst {
        Some(IpNet::V4(dst)) => dst,
        Some(IpNet::V6(_)) => return Err(format!("{who} filters IPv4 alone by address: use a plane that knows IPv6")),
        None => return Err("it names no destination of yours".to_owned()),
    };
    let src = match matches.src {
        Some(IpNet::V4(src)) => Some(src),
        None => None,
        Some(IpNet::V6(_)) => return Err("its source and destination are of different families".to_owned()),
    };
    if let Some(what) = unsaid(matches) {
        return Err(format!("{who} cannot match {what}: use a plane that can"));
    }
    let protocols = protocols(&matches.proto, limits)?;
    let ported = !(matches.port.is_any() && matches.sport.is_any() && matches.dport.is_any());
    if ported && !protocols.iter().all(|proto| matches!(proto, Some(TCP | UDP))) {
        return Err(format!("{who} matches ports of tcp and udp alone: name the protocol"));
    }
    let (sports, dports) = (ports(&matches.sport, limits)?, ports(&matches.dport, limits)?);
    let either = ports(&matches.port, limits)?;
    let mut flows = Vec::new();
    for proto in protocols {
        for &sport in &sports {
            for &dport in &dports {
                let flow = |sport, dport| Flow { src, dst, proto, sport, dport };
                match either.as_slice() {
                    [None] => flows.push(flow(sport, dport)),
                    // Either port: a rule for each side.
                    some if sport.is_none() && dport.is_none() => {
                        flows.extend(some.iter().flat_map(|port| [flow(*port, None), flow(None, *port)]));
                    }
                    _ => return Err(format!("{who} cannot match `port` together with `sport` or `dport`")),
                }
            }
        }
    }
    if flows.len() > limits.rules {
        let (count, most) = (flows.len(), limits.rules);
        return Err(format!("it would take {count} rules at {who}, which has room for {most}: match less in one rule"));
    }
    Ok(flows)
}

/// Returns what of a match no simple filter knows.
fn unsaid(matches: &FlowMatch) -> Option<&'static str> {
    let unsaid = [
        (matches.family == Some(Family::Ip6), "IPv6"),
        (!matches.icmp_type.is_any() || !matches.icmp_code.is_any(), "types and codes of ICMP"),
        (!matches.flags.is_empty(), "TCP flags as exactly as this"),
        (!matches.len.is_any(), "the length of packets"),
        (!matches.dscp.is_any(), "DSCP"),
        (!matches.frag.is_empty(), "fragments"),
        (!matches.ttl.is_any(), "TTL"),
        (!matches.payload.is_empty(), "payload"),
    ];
    unsaid.into_iter().find(|(asked, _)| *asked).map(|(_, what)| what)
}

fn protocols(wanted: &Ranges<u8>, limits: Limits) -> Result<Vec<Option<u8>>, String> {
    if wanted.is_any() {
        return Ok(vec![None]);
    }
    let all = wanted.iter().flat_map(|(first, last)| first..=last);
    let known = |number: u8| limits.protocols.iter().any(|(known, _)| *known == number);
    let name = crate::rule::protocol_name;
    let check = |number| match known(number) {
        true => Ok(Some(number)),
        false => Err(format!("{} does not know the protocol {}", limits.who, name(number))),
    };
    all.map(check).collect()
}

fn ports(wanted: &Ranges<u16>, limits: Limits) -> Result<Vec<Option<(u16, u16)>>, String> {
    if wanted.is_any() {
        return Ok(vec![None]);
    }
    if let Some((first, last)) = wanted.iter().find(|(first, last)| !limits.ranges && first != last) {
        return Err(format!("{} knows no ranges of ports such as {first}-{last}: name single ports", limits.who));
    }
    Ok(wanted.iter().map(Some).collect())
}

impl Flow {
    /// Returns the protocol's name at a provider.
    pub fn protocol(&self, names: &[(u8, &'static str)]) -> Option<&'static str> {
        let wanted = self.proto?;
        names.iter().find(|(number, _)| *number == wanted).map(|(_, name)| *name)
    }

    /// Returns the host that it protects, if it is one.
    pub fn host(&self) -> Option<Ipv4Addr> {
        (self.dst.prefix_len() == 32).then(|| self.dst.addr())
    }

    /// Returns it as one of a match's text.
    pub fn text(&self) -> String {
        let number = |range: Option<(u16, u16)>| range.map_or_else(Ranges::default, |(a, b)| Ranges::range(a, b));
        let matches = FlowMatch {
            src: self.src.map(IpNet::V4),
            dst: Some(IpNet::V4(self.dst)),
            proto: self.proto.map_or_else(Ranges::default, Ranges::one),
            sport: number(self.sport),
            dport: number(self.dport),
            ..FlowMatch::default()
        };
        matches.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rate;

    const LIMITS: Limits =
        Limits { who: "it", protocols: &[(TCP, "tcp"), (UDP, "udp"), (1, "icmp")], ranges: false, rules: 4 };

    #[test]
    fn what_can_be_said_is_said_exactly_and_the_rest_refused() {
        type Row = (&'static str, Limits, Result<&'static [&'static str], &'static str>);
        let ranged = Limits { ranges: true, ..LIMITS };
        let rows: &[Row] = &[
            ("udp sport 123 dst 203.0.113.5", LIMITS, Ok(&["udp sport 123 dst 203.0.113.5/32"])),
            ("dst 203.0.113.5 src 198.51.100.0/24", LIMITS, Ok(&["src 198.51.100.0/24 dst 203.0.113.5/32"])),
            (
                "proto tcp,udp dport 80 dst 203.0.113.5",
                LIMITS,
                Ok(&["tcp dport 80 dst 203.0.113.5/32", "udp dport 80 dst 203.0.113.5/32"]),
            ),
            (
                "udp port 53 dst 203.0.113.5",
                LIMITS,
                Ok(&["udp sport 53 dst 203.0.113.5/32", "udp dport 53 dst 203.0.113.5/32"]),
            ),
            ("udp sport 1000-2000 dst 203.0.113.5", ranged, Ok(&["udp sport 1000-2000 dst 203.0.113.5/32"])),
            ("udp sport 1000-2000 dst 203.0.113.5", LIMITS, Err("no ranges")),
            ("udp port 53 dport 80 dst 203.0.113.5", LIMITS, Err("together")),
            ("sport 123 dst 203.0.113.5", LIMITS, Err("name the protocol")),
            ("udp sport 1,3,5,7,9 dst 203.0.113.5", LIMITS, Err("5 rules")),
            ("gre dst 203.0.113.5", LIMITS, Err("does not know the protocol gre")),
            ("udp sport 123", LIMITS, Err("no destination")),
            ("udp dst 2001:db8::1", LIMITS, Err("IPv4 alone")),
            ("udp len 400-500 dst 203.0.113.5", LIMITS, Err("length")),
            ("tcp flags syn/syn+ack dst 203.0.113.5", LIMITS, Err("flags")),
            ("udp frag is dst 203.0.113.5", LIMITS, Err("fragments")),
            ("icmp icmp-type 8 dst 203.0.113.5", LIMITS, Err("ICMP")),
            ("udp ttl 1 dst 203.0.113.5", LIMITS, Err("TTL")),
            ("udp payload 0:17 dst 203.0.113.5", LIMITS, Err("payload")),
            ("udp dscp 7 dst 203.0.113.5", LIMITS, Err("DSCP")),
        ];
        for (text, limits, expected) in rows {
            let found = flows(&text.parse().unwrap(), Action::Drop, *limits);
            match (expected, found) {
                (Ok(expected), Ok(found)) => {
                    let expected = expected.iter().map(|text| text.parse::<FlowMatch>().unwrap().to_string());
                    assert_eq!(
                        found.iter().map(Flow::text).collect::<Vec<_>>(),
                        expected.collect::<Vec<_>>(),
                        "{text}"
                    );
                }
                (Err(part), Err(why)) => assert!(why.contains(part), "{text}: {why}"),
                (_, found) => panic!("{text}: {found:?}"),
            }
        }
        let rated = flows(&"udp dst 203.0.113.5".parse().unwrap(), Action::RateLimit(Rate::Pps(1)), LIMITS);
        assert!(rated.unwrap_err().contains("limit rates"));
    }
}
