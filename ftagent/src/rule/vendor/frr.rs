//! FRR 8: a client of FlowSpec, which originates none; black holes by redistributed routes (FRR's user guide).

use super::{
    super::{Action, Family, FlowMatch, Rate},
    BlackHole, CannotSay, Options, Place, Platform, Text, by_family, hole,
};

/// FRR.
pub const PLATFORM: Platform = Platform {
    name: "frr",
    title: "FRR 8, vtysh",
    comment: "!",
    place: Place::Receiver,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

fn rule(matches: &FlowMatch, action: Action, _: &Options) -> Result<Text, CannotSay> {
    let both = [(Family::Ip4, "ipv4"), (Family::Ip6, "ipv6")];
    let wanted = both.into_iter().filter(|(family, _)| matches.family().is_none_or(|own| own == *family));
    let families: String = wanted
        .map(|(_, word)| {
            format!(
                " address-family {word} flowspec\n  neighbor NEIGHBOUR activate\n  local-install INTERFACE\n \
                 exit-address-family\n"
            )
        })
        .collect();
    let mut instead = "announce it from ExaBGP, GoBGP or BIRD; what FRR needs in order to take and enforce rules is below. \
                       It needs ipset and iptables, and fails silently without; it does not validate what it is sent, and \
                       rules stay in the kernel if it crashes"
        .to_owned();
    if let Action::RateLimit(Rate::Bps(_) | Rate::Pps(_)) = action {
        instead.push_str(". Of this rule it would enforce NOTHING: it drops and redirects, and never limits to a rate");
    }
    if !matches.sport.is_any() && !matches.dport.is_any() {
        instead.push_str(". It cannot match source and destination ports together, as this rule does");
    }
    Err(CannotSay {
        what: "it is a client of FlowSpec only: it cannot originate a rule".to_owned(),
        instead,
        setup: format!("router bgp AS\n{families}exit\n"),
    })
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let ip = by_family(&hole.net, "ip", "ipv6");
    let route = format!("{ip} route {} blackhole tag 666", hole.net);
    let mut traps = hole::traps(hole);
    traps.extend([
        "Write your AS number for AS. Where static routes are redistributed already, add the entry to that route map."
            .to_owned(),
        "`blackhole` drops the traffic on this machine as well.".to_owned(),
        "No parser of FRR was at hand to check this: `vtysh -C -f FILE`.".to_owned(),
    ]);
    Ok(Text {
        text: format!("{route}\n!\n{}", route_map(hole, &format!("{}-holes", options.name))),
        undo: format!("no {route}\n"),
        traps,
        ..Text::default()
    })
}

/// A route map that announces routes with tag 666 as black holes, and what redistributes them.
pub fn route_map(hole: &BlackHole, name: &str) -> String {
    let (plain, large) = hole.communities();
    let plain = plain.join(" ").replace("65535:65281", "no-export");
    let large = if large.is_empty() { String::new() } else { format!(" set large-community {}\n", large.join(" ")) };
    let family = by_family(&hole.net, "ipv4", "ipv6");
    let next_hop = by_family(&hole.net, "ip next-hop", "ipv6 next-hop global");
    format!(
        "route-map {name} permit 10\n match tag 666\n set community {plain}\n{large} set {next_hop} {}\n!\nrouter bgp AS\n \
         address-family {family} unicast\n  redistribute static route-map {name}\n exit-address-family\n!\n",
        hole.next_hop
    )
}
