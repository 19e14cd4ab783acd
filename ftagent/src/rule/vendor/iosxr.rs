//! IOS-XR: class maps, a policy and `flowspec` (Cisco's BGP FlowSpec guides for ASR 9000 and NCS 6000).

use ipnet::IpNet;

use super::{
    super::{
        Action, Flags, FlowMatch, Fragment, Ranges, Rate,
        flowspec::{Compiled, Limit},
        set::Number,
    },
    BlackHole, CannotSay, Loss, Options, Place, Platform, Text, by_family,
    gobgp::no_packets,
    hole,
    routes::{self, Routes, lose},
    terms::{self, Lines},
};

/// IOS-XR.
pub const PLATFORM: Platform = Platform {
    name: "iosxr",
    title: "IOS-XR",
    comment: "!",
    place: Place::Network,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

const UNCHECKED: &str = "No parser of IOS-XR was at hand to check this, and words differ by release (`match packet \
                         length`, `match packet-length`): `show configuration failed` after `commit`.";

fn rule(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    let mut text = Text::default();
    let routes = Routes::of(matches, action, &mut text)?;
    let then = match (routes.limit, action) {
        (Limit::Packets(packets), _) => return Err(no_packets("it", packets)),
        (_, Action::RateLimit(Rate::Bps(bits))) => format!("police rate {bits} bps"),
        _ => "drop".to_owned(),
    };
    for route in &routes.all {
        let (family, ip) = if routes::is_six(route) { (6, "ipv6") } else { (4, "ipv4") };
        let name = format!("{}-{family}", options.name);
        let classes = classes(route, &mut text.losses)?;
        let mut policy = format!("policy-map type pbr {name}\n");
        for (number, class) in (1..).zip(&classes) {
            text.text
                .push_str(&format!("class-map type traffic match-all {name}-{number}\n {class}\n end-class-map\n!\n"));
            policy.push_str(&format!(" class type traffic {name}-{number}\n  {then}\n !\n"));
        }
        if let ([_, _, ..], Limit::Bytes(1..)) = (classes.as_slice(), routes.limit) {
            let why = format!("it becomes {} classes, and each lets the whole rate pass", classes.len());
            lose(&mut text.losses, Loss::narrower("action", action, why));
        }
        text.text.push_str(&format!(
            "{policy} class type traffic class-default\n !\n end-policy-map\n!\nflowspec\n address-family {ip}\n  \
             service-policy type pbr {name}\n !\n!\n"
        ));
        text.undo.push_str(&format!(
            "flowspec\n address-family {ip}\n  no service-policy type pbr {name}\n !\n!\nno policy-map type pbr {name}\n"
        ));
        (1..=classes.len()).for_each(|number| {
            text.undo.push_str(&format!("no class-map type traffic match-all {name}-{number}\n"));
        });
    }
    if let Limit::Bytes(1..) = routes.limit {
        text.traps.push("Its text is in BITS a second; the route that goes out has bytes.".to_owned());
    }
    text.traps.extend(
        [
            "This announces the rule. To enforce it on this router too: `flowspec / local-install interface-all`.",
            "One policy of a kind stands at `service-policy`: where there is one already, add the classes to it.",
            "Peers need `address-family ipv4 flowspec` (`ipv6 flowspec`) under `router bgp` and the neighbour; against \
             validation there is `validation disable` at the neighbour's. IOS-XE only receives.",
            UNCHECKED,
        ]
        .map(str::to_owned),
    );
    Ok(text)
}

/// Returns class maps, of which a packet must satisfy one.
fn classes(route: &Compiled, losses: &mut Vec<Loss>) -> Result<Vec<String>, CannotSay> {
    let own = terms::families(&route.says).into_iter().next().ok_or_else(terms::nothing)?;
    let ip = if routes::is_six(route) { "ipv6" } else { "ipv4" };
    let mut lines = Lines::new("\n ");
    for (word, net) in [("destination", own.dst), ("source", own.src)] {
        if let Some(net) = net.filter(|net| net.prefix_len() > 0) {
            lines.part(&format!("match {word}-address {ip} {}", address(&net)));
        }
    }
    let mut list = |word: &str, any: bool, values: String| {
        if !any {
            lines.part(&format!("match {word} {values}"));
        }
    };
    list("protocol", own.proto.is_any(), values(&own.proto));
    list("source-port", own.sport.is_any(), values(&own.sport));
    list("destination-port", own.dport.is_any(), values(&own.dport));
    list("packet length", own.len.is_any(), values(&own.len));
    list("dscp", own.dscp.is_any(), values(&own.dscp));
    if !own.port.is_any() {
        lines.and(&["source-port", "destination-port"].map(|word| format!("match {word} {}", values(&own.port))))?;
    }
    // One value each: it has no lists of these.
    for (word, ranges) in [("icmp-type", &own.icmp_type), ("icmp-code", &own.icmp_code)] {
        if !ranges.is_any() {
            let each = (0..=255u8).filter(|value| ranges.contains(*value));
            lines.and(&each.map(|value| format!("match {ip} {word} {value}")).collect::<Vec<_>>())?;
        }
    }
    if !own.flags.is_empty() {
        let test = |Flags { value, mask }: &Flags| format!("match tcp-flag {value} bit-mask {mask}");
        lines.and(&own.flags.iter().map(test).collect::<Vec<_>>())?;
    }
    if own.frag.contains(&Fragment::Not) {
        let asked = own.frag.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        lose(losses, Loss::wider("frag", asked, "it has no word for packets that are no fragment: all are hit"));
    } else if !own.frag.is_empty() {
        let kind = |kind: &Fragment| match kind {
            Fragment::Dont => "dont-fragment",
            Fragment::First => "first-fragment",
            Fragment::Last => "last-fragment",
            Fragment::Is | Fragment::Not => "is-fragment",
        };
        lines.and(&own.frag.iter().map(|one| format!("match fragment-type {}", kind(one))).collect::<Vec<_>>())?;
    }
    let rest = FlowMatch { frag: Vec::new(), ..own.clone() };
    if own.frag.contains(&Fragment::Not) && terms::only_destination(&rest) {
        return Err(CannotSay::new(
            "it cannot see what tells this traffic apart, and all that its destination gets would be hit",
            "match something more, or say that a black hole is meant: `ftagent tools rtbh`",
        ));
    }
    Ok(lines.into_vec())
}

fn address(net: &IpNet) -> String {
    match net {
        IpNet::V4(net) => format!("{} {}", net.addr(), net.netmask()),
        IpNet::V6(net) => net.to_string(),
    }
}

fn values<T: Number>(ranges: &Ranges<T>) -> String {
    terms::items(ranges, |one| one.to_string(), |first, last| format!("{first}-{last}")).join(" ")
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let (name, net, next_hop) = (&options.name, hole.net, hole.next_hop);
    let ip = by_family(&net, "ipv4", "ipv6");
    let (plain, large) = hole.communities();
    let plain = plain.join(", ").replace("65535:65281", "no-export");
    let large = match large.is_empty() {
        true => String::new(),
        false => format!("    set large-community ({})\n", large.join(", ")),
    };
    let text = format!(
        "router static\n address-family {ip} unicast\n  {net} Null0 tag 666\n !\n!\nroute-policy {name}-holes\n  if tag is \
         666 then\n    set community ({plain})\n{large}    set next-hop {next_hop}\n    pass\n  endif\nend-policy\n!\nrouter \
         bgp AS\n address-family {ip} unicast\n  redistribute static route-policy {name}-holes\n !\n!\n"
    );
    let mut traps = hole::traps(hole);
    traps.extend([
        "Write your AS number for AS. Where static routes are redistributed already, add the `if` to that policy."
            .to_owned(),
        "The neighbour needs `send-community-ebgp`: without it the communities are not sent.".to_owned(),
        "`Null0` drops the traffic on this router as well.".to_owned(),
        "No parser of IOS-XR was at hand to check this: `show configuration failed` after `commit`.".to_owned(),
    ]);
    Ok(Text {
        text,
        undo: format!("router static\n address-family {ip} unicast\n  no {net} Null0 tag 666\n !\n!\n"),
        traps,
        ..Text::default()
    })
}
