//! Junos: flow routes and black holes as `set` commands (Juniper's CLI reference, "flow (routing-options)").

use super::{
    super::{
        Action, Flags, FlowMatch, Fragment, Ranges, Rate,
        flowspec::{Compiled, Limit},
        set::Number,
    },
    BlackHole, CannotSay, Loss, Options, Place, Platform, Text,
    gobgp::no_packets,
    hole,
    routes::{self, Routes, lose},
    terms,
};

/// Junos.
pub const PLATFORM: Platform = Platform {
    name: "junos",
    title: "Junos, set commands",
    comment: "#",
    place: Place::Network,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

/// Flags that have a name there.
const FLAGS: [&str; 6] = ["fin", "syn", "rst", "push", "ack", "urgent"];
const UNCHECKED: &str = "No parser of Junos was at hand to check this: `commit check` before `commit`.";

fn rule(matches: &FlowMatch, action: Action, options: &Options) -> Result<Text, CannotSay> {
    let mut text = Text::default();
    let routes = Routes::of(matches, action, &mut text)?;
    let then = match (routes.limit, action) {
        (Limit::Packets(packets), _) => return Err(no_packets("it", packets)),
        (_, Action::RateLimit(Rate::Bps(bits))) => format!("rate-limit {bits}"),
        _ => "discard".to_owned(),
    };
    for route in &routes.all {
        let six = routes::is_six(route);
        let at = if six { "routing-options rib inet6.0 flow route" } else { "routing-options flow route" };
        let name = format!("{}-{}", options.name, if six { 6 } else { 4 });
        for term in terms(route, &mut text.losses)? {
            text.text.push_str(&format!("set {at} {name} match {term}\n"));
        }
        text.text.push_str(&format!("set {at} {name} then {then}\n"));
        text.undo.push_str(&format!("delete {at} {name}\n"));
    }
    if let Limit::Bytes(1..) = routes.limit {
        text.traps.push("Its text is in BITS a second; the route that goes out has bytes.".to_owned());
    }
    text.traps.extend(
        [
            "The order of rules is not that of RFC 8955 by default: `set routing-options flow term-order standard`.",
            "It takes the rule from a peer with `family inet flow` (`inet6 flow`), and against validation with \
             `no-validate POLICY` there.",
            "Look at `show route table inetflow.0 extensive` and `show firewall filter __flowspec_default_inet__`.",
            UNCHECKED,
        ]
        .map(str::to_owned),
    );
    Ok(text)
}

fn terms(route: &Compiled, losses: &mut Vec<Loss>) -> Result<Vec<String>, CannotSay> {
    let six = routes::is_six(route);
    let own = terms::families(&route.says).into_iter().next().ok_or_else(terms::nothing)?;
    let mut all = Vec::new();
    all.extend(own.dst.map(|net| format!("destination {net}")));
    all.extend(own.src.map(|net| format!("source {net}")));
    all.extend(list("protocol", &own.proto));
    let both = !(own.port.is_any() || own.sport.is_any() && own.dport.is_any());
    if both {
        let why = "it has no `port` beside `source-port` or `destination-port`, and those are kept";
        lose(losses, Loss::wider("port", &own.port, why));
    } else {
        all.extend(list("port", &own.port));
    }
    all.extend(list("destination-port", &own.dport));
    all.extend(list("source-port", &own.sport));
    all.extend(list(if six { "icmp6-type" } else { "icmp-type" }, &own.icmp_type));
    all.extend(list(if six { "icmp6-code" } else { "icmp-code" }, &own.icmp_code));
    all.extend(flags(&own.flags, losses));
    all.extend(list("packet-length", &own.len));
    all.extend(list("dscp", &own.dscp));
    if !own.frag.is_empty() {
        let kind = |kind: &Fragment| match kind {
            Fragment::Dont => "dont-fragment",
            Fragment::Is => "is-fragment",
            Fragment::First => "first-fragment",
            Fragment::Last => "last-fragment",
            Fragment::Not => "not-a-fragment",
        };
        all.push(bracketed("fragment", &own.frag.iter().map(|one| kind(one).to_owned()).collect::<Vec<_>>()));
    }
    Ok(all)
}

fn list<T: Number>(word: &str, ranges: &Ranges<T>) -> Option<String> {
    let items = terms::items(ranges, |one| one.to_string(), |first, last| format!("{first}-{last}"));
    Some(bracketed(word, &items)).filter(|_| !ranges.is_any())
}

fn bracketed(word: &str, items: &[String]) -> String {
    match items {
        [one] => format!("{word} {one}"),
        _ => format!("{word} [ {} ]", items.join(" ")),
    }
}

/// An expression over flags; those without a name are left out.
fn flags(tests: &[Flags], losses: &mut Vec<Loss>) -> Option<String> {
    const KNOWN: u8 = 0x3f;
    let mut choices = Vec::new();
    for test in tests {
        if test.mask & !KNOWN != 0 {
            lose(losses, Loss::wider("flags", test, "it has no names for ECE and CWR, which are not looked at"));
        }
        let bits = (0..6u8).filter(|bit| test.mask & KNOWN & (1 << bit) != 0);
        let named = bits.filter_map(|bit| Some((bit, FLAGS.get(usize::from(bit))?)));
        let parts: Vec<String> =
            named.map(|(bit, name)| format!("{}{name}", if test.value & (1 << bit) == 0 { "!" } else { "" })).collect();
        // One choice that looks at nothing holds for all.
        if parts.is_empty() {
            return None;
        }
        choices.push(parts.join(" & "));
    }
    match choices.as_slice() {
        [] => None,
        [one] => Some(format!("tcp-flags \"{one}\"")),
        _ => Some(format!("tcp-flags \"({})\"", choices.join(") | ("))),
    }
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let (name, net) = (&options.name, hole.net);
    let rib = if net.addr().is_ipv4() { "routing-options" } else { "routing-options rib inet6.0" };
    let (mut members, large) = hole.communities();
    for member in &mut members {
        if member == "65535:65281" {
            *member = "no-export".to_owned();
        }
    }
    members.extend(large.iter().map(|community| format!("large:{community}")));
    let policy = format!("set policy-options policy-statement {name}-holes term {name}");
    let text = format!(
        "set {rib} static route {net} discard\nset policy-options community {name}-hole members [ {} ]\n{policy} from \
         protocol static\n{policy} from route-filter {net} exact\n{policy} then community add {name}-hole\n{policy} then \
         next-hop {}\n{policy} then accept\n",
        members.join(" "),
        hole.next_hop
    );
    let mut traps = hole::traps(hole);
    traps.extend([
        format!(
            "The session must export it: `set protocols bgp group GROUP export {name}-holes`, before policies that \
             refuse so long a prefix."
        ),
        "`discard` drops the traffic on this router as well.".to_owned(),
        UNCHECKED.to_owned(),
    ]);
    Ok(Text {
        text,
        undo: format!(
            "delete {rib} static route {net} discard\ndelete policy-options policy-statement {name}-holes term {name}\n"
        ),
        traps,
        ..Text::default()
    })
}
