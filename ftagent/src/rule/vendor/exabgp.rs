//! ExaBGP 4.2: routes of a configuration, and the same as commands of its API.

use super::{
    super::{
        Action, Family, FlowMatch, Rate,
        flowspec::{BitField, Bitmask, Component, Field, FlowSpec, Limit, Numeric, Side},
    },
    BlackHole, CannotSay, Options, Place, Platform, Text, hole,
    routes::{self, FRAGMENTS, Routes},
};

/// ExaBGP.
pub const PLATFORM: Platform = Platform {
    name: "exabgp",
    title: "ExaBGP 4.2",
    comment: "#",
    place: Place::Network,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

const FLAGS: [&str; 8] = ["fin", "syn", "rst", "push", "ack", "urgent", "ece", "cwr"];

fn rule(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    let mut text = Text::default();
    let routes = Routes::of(matches, action, &mut text)?;
    let then = match routes.limit {
        Limit::Bytes(0) => "discard".to_owned(),
        Limit::Bytes(bytes) => format!("rate-limit {bytes}"),
        Limit::Packets(_) => {
            let (first, second) = routes.community();
            format!("extended-community [ 0x{first:08x}{second:08x} ]")
        }
    };
    text.text.push_str("flow {\n");
    let mut commands = String::new();
    for route in &routes.all {
        let family = if routes::is_six(route) { 6 } else { 4 };
        let body = format!("{{ match {{ {} }} then {{ {then}; }} }}", terms(&route.spec));
        text.text.push_str(&format!("    route {}-{family} {body}\n", options.name));
        commands.push_str(&format!("\nannounce flow route {body}"));
        text.undo.push_str(&format!("withdraw flow route {body}\n"));
    }
    text.text.push_str("}\n");
    text.traps.extend([
        "It stands in the `neighbor` section, whose `family` names `ipv4 flow` or `ipv6 flow`. Check it with `exabgp \
         --test FILE`."
            .to_owned(),
        "Over its API, a `match` that is empty or has an unknown word is answered with `done`, and announced as a rule \
         that hits EVERYTHING: look at `show adj-rib out extensive`."
            .to_owned(),
        format!("As commands of its API:{commands}"),
    ]);
    if let Action::RateLimit(Rate::Bps(bits)) = action
        && bits % 8 != 0
    {
        text.traps.push(format!("The rate is rounded down to {} whole bytes a second.", bits / 8));
    }
    Ok(text)
}

/// Writes what stands in the `match` of a flow: the components, each with a semicolon.
pub fn terms(spec: &FlowSpec) -> String {
    let six = spec.family() == Family::Ip6;
    let one = |component: &Component| match component {
        Component::Prefix { side: Side::Destination, net, .. } => format!("destination {net};"),
        Component::Prefix { side: Side::Source, net, .. } => format!("source {net};"),
        Component::Numbers(field, tests) => {
            let number = |test: &Numeric| format!("{}{}", test.operator(), test.value);
            format!("{} [ {} ];", word(*field, six), routes::numbers(tests, number, "&", " "))
        }
        Component::Bits(field, tests) => {
            let (word, known): (_, &[&str]) = match field {
                BitField::TcpFlags => ("tcp-flags", &FLAGS),
                BitField::Fragment => ("fragment", &FRAGMENTS),
            };
            let bits = |test: &Bitmask| {
                let (not, all) = (if test.not { "!" } else { "" }, if test.all { "=" } else { "" });
                format!("{not}{all}{}", routes::names(test.value, known, "+"))
            };
            format!("{word} [ {} ];", routes::bits(tests, bits, "&", " "))
        }
    };
    spec.components().iter().map(one).collect::<Vec<_>>().join(" ")
}

const fn word(field: Field, six: bool) -> &'static str {
    match (field, six) {
        (Field::Protocol, false) => "protocol",
        (Field::Protocol, true) => "next-header",
        (Field::Port, _) => "port",
        (Field::DestinationPort, _) => "destination-port",
        (Field::SourcePort, _) => "source-port",
        (Field::IcmpType, _) => "icmp-type",
        (Field::IcmpCode, _) => "icmp-code",
        (Field::Length, _) => "packet-length",
        (Field::Dscp, false) => "dscp",
        (Field::Dscp, true) => "traffic-class",
        (Field::FlowLabel, _) => "flow-label",
    }
}

fn black_hole(hole: &BlackHole, _: &Options) -> Result<Text, CannotSay> {
    let (plain, large) = hole.communities();
    let mut attributes = format!("next-hop {} community [ {} ]", hole.next_hop, plain.join(" "));
    if !large.is_empty() {
        attributes.push_str(&format!(" large-community [ {} ]", large.join(" ")));
    }
    let mut traps = hole::traps(hole);
    traps.push(format!("As a command of its API: announce route {} {attributes}", hole.net));
    Ok(Text {
        text: format!("static {{\n    route {} {attributes};\n}}\n", hole.net),
        undo: format!("withdraw route {} {attributes}\n", hole.net),
        traps,
        ..Text::default()
    })
}
