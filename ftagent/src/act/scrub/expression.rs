//! Matches in the language of Cloudflare's Network Firewall ("Form expressions", "Network Firewall fields"):
//! IPv4, prefixes only inside sets, ports as fields of their protocol.

use ipnet::{IpNet, Ipv4Net};

use crate::rule::{Action, Family, Flags, FlowMatch, Ranges};

/// Protocols whose names are known there.
const PROTOCOLS: [(u8, &str); 3] = [(1, "icmp"), (6, "tcp"), (17, "udp")];
/// Flags by bit (RFC 9293, 3.1; RFC 3168, 6.1), from the lowest.
const FLAGS: [&str; 8] = ["fin", "syn", "reset", "push", "ack", "urg", "ecn", "cwr"];

/// Returns the expression that matches exactly what `matches` does.
pub(super) fn expression(matches: &FlowMatch, action: Action) -> Result<String, String> {
    if action != Action::Drop {
        return Err("Cloudflare's Network Firewall cannot limit rates here, only drop: use a plane that can".to_owned());
    }
    let unsaid = [
        (!matches.dscp.is_any(), "DSCP"),
        (!matches.frag.is_empty(), "fragments"),
        (!matches.payload.is_empty(), "payload"),
        (matches.family == Some(Family::Ip6), "IPv6"),
    ];
    if let Some((_, what)) = unsaid.into_iter().find(|(asked, _)| *asked) {
        return Err(format!("Cloudflare's Network Firewall cannot match {what} here: use a plane that can"));
    }
    let mut parts = Vec::new();
    for (field, net) in [("ip.dst", matches.dst), ("ip.src", matches.src)] {
        match net {
            Some(IpNet::V4(net)) => parts.push(prefix(field, net)),
            Some(IpNet::V6(_)) => {
                return Err(
                    "Cloudflare's Network Firewall has policies for IPv4 alone: use a plane that knows IPv6".into()
                );
            }
            None => {}
        }
    }
    let protocols = protocols(&matches.proto)?;
    if let Some(part) = any_of(protocols.iter().map(|name| format!("ip.proto == \"{name}\"")).collect()) {
        parts.push(part);
    }
    parts.extend(number("ip.len", &matches.len));
    parts.extend(number("ip.ttl", &matches.ttl));
    for (range, sides) in
        [(&matches.sport, &["srcport"][..]), (&matches.dport, &["dstport"]), (&matches.port, &["srcport", "dstport"])]
    {
        let ported = ["tcp", "udp"].into_iter().filter(|name| protocols.is_empty() || protocols.contains(name));
        let fields = ported.flat_map(|name| sides.iter().map(move |side| format!("{name}.{side}")));
        let choices: Vec<String> = fields.filter_map(|field| number(&field, range)).collect();
        if choices.is_empty() && !range.is_any() {
            return Err("ports are those of tcp and udp, and it asks for neither".to_owned());
        }
        parts.extend(any_of(choices));
    }
    parts.extend(number("icmp.type", &matches.icmp_type));
    parts.extend(number("icmp.code", &matches.icmp_code));
    parts.extend(any_of(matches.flags.iter().map(flags).collect()));
    if parts.is_empty() {
        return Err("it matches everything".to_owned());
    }
    Ok(parts.join(" and "))
}

fn protocols(wanted: &Ranges<u8>) -> Result<Vec<&'static str>, String> {
    let name = |number: u8| {
        let found = PROTOCOLS.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
        let shown = crate::rule::protocol_name(number);
        found.ok_or_else(|| format!("Cloudflare's Network Firewall is asked for icmp, tcp and udp alone, not {shown}"))
    };
    wanted.iter().flat_map(|(first, last)| first..=last).map(name).collect()
}

fn prefix(field: &str, net: Ipv4Net) -> String {
    match net.prefix_len() {
        32 => format!("{field} == {}", net.addr()),
        _ => format!("{field} in {{{net}}}"),
    }
}

fn number<T: crate::rule::set::Number>(field: &str, ranges: &Ranges<T>) -> Option<String> {
    let one = |(first, last): (T, T)| if first == last { first.to_string() } else { format!("{first}..{last}") };
    let items: Vec<String> = ranges.iter().map(one).collect();
    match items.as_slice() {
        [] => None,
        [only] if !only.contains('.') => Some(format!("{field} == {only}")),
        items => Some(format!("{field} in {{{}}}", items.join(" "))),
    }
}

fn any_of(mut choices: Vec<String>) -> Option<String> {
    match choices.len() {
        0 | 1 => choices.pop(),
        _ => Some(format!("({})", choices.join(" or "))),
    }
}

fn flags(flags: &Flags) -> String {
    let tests = FLAGS.iter().enumerate().filter(|(bit, _)| flags.mask & (1 << bit) != 0);
    let test = |(bit, name): (usize, &&str)| {
        let not = if flags.value & (1 << bit) == 0 { "not " } else { "" };
        format!("{not}tcp.flags.{name}")
    };
    let tests: Vec<String> = tests.map(test).collect();
    match tests.as_slice() {
        [only] => only.clone(),
        tests => format!("({})", tests.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_become_expressions_or_are_refused() {
        let rows = [
            (
                "udp sport 123 dst 203.0.113.5",
                Ok("ip.dst == 203.0.113.5 and ip.proto == \"udp\" and udp.srcport == 123"),
            ),
            (
                "dst 203.0.113.0/24 src 198.51.100.0/25",
                Ok("ip.dst in {203.0.113.0/24} and ip.src in {198.51.100.0/25}"),
            ),
            (
                "proto tcp,udp dport 80,8000-8080 dst 203.0.113.5",
                Ok("ip.dst == 203.0.113.5 and (ip.proto == \"tcp\" or ip.proto == \"udp\") and \
                    (tcp.dstport in {80 8000..8080} or udp.dstport in {80 8000..8080})"),
            ),
            (
                "udp port 53 len 400-1500 ttl 64 dst 203.0.113.5",
                Ok("ip.dst == 203.0.113.5 and ip.proto == \"udp\" and ip.len in {400..1500} and ip.ttl == 64 and \
                    (udp.srcport == 53 or udp.dstport == 53)"),
            ),
            (
                "tcp flags syn/syn+ack dst 203.0.113.5",
                Ok("ip.dst == 203.0.113.5 and ip.proto == \"tcp\" and (tcp.flags.syn and not tcp.flags.ack)"),
            ),
            (
                "icmp icmp-type 8 dst 203.0.113.5",
                Ok("ip.dst == 203.0.113.5 and ip.proto == \"icmp\" and icmp.type == 8"),
            ),
            ("gre dst 203.0.113.5", Err("not gre")),
            ("udp dst 2001:db8::1", Err("IPv4 alone")),
            ("udp frag is dst 203.0.113.5", Err("fragments")),
            ("udp payload 0:17 dst 203.0.113.5", Err("payload")),
            ("udp dscp 7 dst 203.0.113.5", Err("DSCP")),
            ("icmp dport 8 dst 203.0.113.5", Err("neither")),
        ];
        for (text, expected) in rows {
            match (expected, expression(&text.parse().unwrap(), Action::Drop)) {
                (Ok(expected), Ok(found)) => assert_eq!(found, expected, "{text}"),
                (Err(part), Err(why)) => assert!(why.contains(part), "{text}: {why}"),
                (_, found) => panic!("{text}: {found:?}"),
            }
        }
    }
}
