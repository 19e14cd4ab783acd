//! GoBGP 3: commands of its own client.

use super::{
    super::{
        Action, FlowMatch,
        flowspec::{BitField, Bitmask, Compiled, Component, Field, Limit, Numeric, Side},
    },
    BlackHole, CannotSay, Options, Place, Platform, Text, by_family, hole,
    routes::{self, FRAGMENTS, Routes},
};

/// GoBGP.
pub const PLATFORM: Platform = Platform {
    name: "gobgp",
    title: "GoBGP 3, its command line",
    comment: "#",
    place: Place::Network,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

const FLAGS: [&str; 8] = ["F", "S", "R", "P", "A", "U", "E", "C"];
const IN_MEMORY: &str = "It lives in gobgpd's memory alone, and is gone after a restart of it.";

fn rule(matches: &FlowMatch, action: Action, _: &Options) -> Result<Text, CannotSay> {
    let mut text = Text::default();
    let routes = Routes::of(matches, action, &mut text)?;
    let then = match routes.limit {
        Limit::Bytes(0) => "discard".to_owned(),
        Limit::Bytes(bytes) => format!("rate-limit {bytes}"),
        Limit::Packets(packets) => return Err(no_packets("its command line", packets)),
    };
    for route in &routes.all {
        let family = if routes::is_six(route) { "ipv6-flowspec" } else { "ipv4-flowspec" };
        let terms = terms(route);
        text.text.push_str(&format!("gobgp global rib add -a {family} match {terms} then {then}\n"));
        text.undo.push_str(&format!("gobgp global rib del -a {family} match {terms} then {then}\n"));
    }
    text.traps.extend(
        [
            IN_MEMORY,
            "gobgpd takes a rule that matches nothing in particular, which hits EVERYTHING, and clears host bits \
             without a word: look at `gobgp global rib -a ipv4-flowspec`.",
            "`not-a-fragment` of its grammar is a test of no bit, which no packet passes: here it is two tests.",
            "gobgpd takes commands at every address, from anybody, unless started with --api-hosts 127.0.0.1:50051.",
        ]
        .map(str::to_owned),
    );
    Ok(text)
}

/// Says that a platform has no limit in packets.
pub fn no_packets(who: &str, packets: u64) -> CannotSay {
    let bits = packets.saturating_mul(8000);
    CannotSay::new(
        format!("{who} limits bits, not {packets} packets, a second"),
        format!("write bits, such as `rate-limit {bits} bps` where packets have 1000 bytes"),
    )
}

/// Writes the components.
fn terms(route: &Compiled) -> String {
    let one = |component: &Component| match component {
        Component::Prefix { side: Side::Destination, net, .. } => format!("destination {net}"),
        Component::Prefix { side: Side::Source, net, .. } => format!("source {net}"),
        Component::Numbers(field, tests) => {
            let number = |test: &Numeric| match test.operator() {
                "=" => format!("=={}", test.value),
                operator => format!("{operator}{}", test.value),
            };
            format!("{} '{}'", word(*field), routes::numbers(tests, number, "&", "' '"))
        }
        Component::Bits(field, tests) => {
            let (word, known, between): (_, &[&str], _) = match field {
                BitField::TcpFlags => ("tcp-flags", &FLAGS, ""),
                BitField::Fragment => ("fragment", &FRAGMENTS, "+"),
            };
            let bits = |test: &Bitmask| {
                let (not, all) = (if test.not { "!" } else { "" }, if test.all { "=" } else { "" });
                format!("{not}{all}{}", routes::names(test.value, known, between))
            };
            format!("{word} '{}'", routes::bits(tests, bits, "&", "' '"))
        }
    };
    route.spec.components().iter().map(one).collect::<Vec<_>>().join(" ")
}

const fn word(field: Field) -> &'static str {
    match field {
        Field::Protocol => "protocol",
        Field::Port => "port",
        Field::DestinationPort => "destination-port",
        Field::SourcePort => "source-port",
        Field::IcmpType => "icmp-type",
        Field::IcmpCode => "icmp-code",
        Field::Length => "packet-length",
        Field::Dscp => "dscp",
        Field::FlowLabel => "label",
    }
}

fn black_hole(hole: &BlackHole, _: &Options) -> Result<Text, CannotSay> {
    let (plain, large) = hole.communities();
    let family = by_family(&hole.net, "ipv4", "ipv6");
    let large = if large.is_empty() { String::new() } else { format!(" large-community {}", large.join(",")) };
    let mut traps = hole::traps(hole);
    traps.extend([
        "gobgpd does not keep to no-export itself: without an export policy it hands what it learned on.".to_owned(),
        IN_MEMORY.to_owned(),
    ]);
    let (net, next_hop, plain) = (hole.net, hole.next_hop, plain.join(","));
    Ok(Text {
        text: format!(
            "gobgp global rib add -a {family} {net} nexthop {next_hop} community {plain} origin igp{large}\n"
        ),
        undo: format!("gobgp global rib del -a {family} {net}\n"),
        traps,
        ..Text::default()
    })
}
