//! BIRD 2: static protocols.

use super::{
    super::{
        Action, FlowMatch,
        flowspec::{BitField, Bitmask, Compiled, Component, Field, Numeric, Side},
    },
    AnyCommunity, BlackHole, CannotSay, LargeCommunity, Options, Place, Platform, Text, by_family, hole,
    routes::{self, Routes},
};

/// BIRD.
pub const PLATFORM: Platform = Platform {
    name: "bird",
    title: "BIRD 2",
    comment: "#",
    place: Place::Network,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

const FRAGMENTS: [&str; 4] = ["dont_fragment", "is_fragment", "first_fragment", "last_fragment"];

fn rule(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    let mut text = Text::default();
    let routes = Routes::of(matches, action, &mut text)?;
    let (first, second) = routes.community();
    let name = options.snake();
    let mut channels = Vec::new();
    for route in &routes.all {
        let family = if routes::is_six(route) { 6 } else { 4 };
        text.text.push_str(&format!(
            "flow{family} table {name}_flow{family};\nprotocol static {name}_rules{family} {{\n    flow{family} {{ \
             table {name}_flow{family}; }};\n    route flow{family} {{ {} }} {{\n        \
             bgp_ext_community.add((generic, 0x{first:08x}, 0x{second:08x}));\n    }};\n}}\n",
            terms(route)
        ));
        text.undo.push_str(&format!("birdc disable {name}_rules{family}\n"));
        channels.push(format!("flow{family} {{ table {name}_flow{family}; import none; export all; }};"));
    }
    text.traps.extend([
        format!("The `protocol bgp` of the peer needs: {}", channels.join(" ")),
        "Put it into a file that bird.conf includes, then `birdc configure`; `bird -p -c FILE` checks.".to_owned(),
        "BIRD announces the rule and enforces nothing itself.".to_owned(),
        "Without its community the route is a rule that lets everything pass: keep the line.".to_owned(),
    ]);
    Ok(text)
}

/// Writes the components, each with a semicolon.
fn terms(route: &Compiled) -> String {
    let six = routes::is_six(route);
    let one = |component: &Component| match component {
        Component::Prefix { side: Side::Destination, net, .. } => format!("dst {net};"),
        Component::Prefix { side: Side::Source, net, .. } => format!("src {net};"),
        Component::Numbers(field, tests) => {
            let number = |test: &Numeric| format!("{} {}", test.operator(), test.value);
            format!("{} {};", word(*field, six), routes::numbers(tests, number, " && ", " || "))
        }
        Component::Bits(BitField::TcpFlags, tests) => {
            let bits = |test: &Bitmask| {
                format!("{}0x{:02x}/0x{:02x}", if test.not { "!" } else { "" }, test.value, test.value)
            };
            format!("tcp flags {};", routes::bits(tests, bits, " && ", " || "))
        }
        Component::Bits(BitField::Fragment, tests) => {
            let bits = |test: &Bitmask| {
                format!("{}{}", if test.not { "!" } else { "" }, routes::names(test.value, &FRAGMENTS, " || "))
            };
            format!("fragment {};", routes::bits(tests, bits, " && ", " || "))
        }
    };
    route.spec.components().iter().map(one).collect::<Vec<_>>().join(" ")
}

const fn word(field: Field, six: bool) -> &'static str {
    match (field, six) {
        (Field::Protocol, false) => "proto",
        (Field::Protocol, true) => "next header",
        (Field::Port, _) => "port",
        (Field::DestinationPort, _) => "dport",
        (Field::SourcePort, _) => "sport",
        (Field::IcmpType, _) => "icmp type",
        (Field::IcmpCode, _) => "icmp code",
        (Field::Length, _) => "length",
        (Field::Dscp, _) => "dscp",
        (Field::FlowLabel, _) => "label",
    }
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let (name, family) = (options.snake(), by_family(&hole.net, "4", "6"));
    let add = |community: &AnyCommunity| match community {
        AnyCommunity::Plain(community) => {
            let [a, b] = community.halves();
            format!("        bgp_community.add(({a}, {b}));\n")
        }
        AnyCommunity::Large(LargeCommunity { global, first, second }) => {
            format!("        bgp_large_community.add(({global}, {first}, {second}));\n")
        }
    };
    let adds: String = hole.all().iter().map(add).collect();
    let mut traps = hole::traps(hole);
    traps.extend([
        format!(
            "BIRD names itself as the next hop unless the filter says otherwise: the peer's channel is `ipv{family} {{ \
             import none; export filter {name}_holes_out{family}; }};`."
        ),
        "Where a `protocol kernel` exports this table, the traffic is dropped on this machine as well.".to_owned(),
    ]);
    let (net, next_hop) = (hole.net, hole.next_hop);
    Ok(Text {
        text: format!(
            "protocol static {name}_holes{family} {{\n    ipv{family};\n    route {net} blackhole {{\n{adds}    }};\n}}\n\
             filter {name}_holes_out{family} {{\n    if proto = \"{name}_holes{family}\" then {{\n        \
             bgp_next_hop = {next_hop};\n        accept;\n    }}\n    reject;\n}}\n"
        ),
        undo: format!("birdc disable {name}_holes{family}\n"),
        traps,
        ..Text::default()
    })
}
