//! Arista EOS: it takes FlowSpec from others (Arista's TOI "BGP Flowspec"). Releases from about 4.33 on have
//! policies of their own, whose words are not known here.

use super::{
    super::{Action, Family, FlowMatch},
    BlackHole, CannotSay, Options, Place, Platform, Text, by_family,
    frr::route_map,
    hole,
};

/// EOS.
pub const PLATFORM: Platform = Platform {
    name: "arista",
    title: "Arista EOS",
    comment: "!",
    place: Place::Receiver,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

fn rule(matches: &FlowMatch, _: Action, _: &Options) -> Result<Text, CannotSay> {
    let both = [(Family::Ip4, "ipv4"), (Family::Ip6, "ipv6")];
    let wanted = both.into_iter().filter(|(family, _)| matches.family().is_none_or(|own| own == *family));
    let words: Vec<&str> = wanted.map(|(_, word)| word).collect();
    let families: String = words
        .iter()
        .map(|word| format!("   address-family flow-spec {word}\n      neighbor NEIGHBOUR activate\n   !\n"))
        .collect();
    Err(CannotSay {
        what:
            "it takes FlowSpec rules that others announce; rules of its own (EOS 4.33 and later) are not written here"
                .to_owned(),
        instead: "announce it from ExaBGP, GoBGP or BIRD; what it needs in order to take and enforce rules is below. \
                  Without `flow-spec` on the interface it enforces NOTHING, and some switches need a TCAM profile that \
                  has flow-spec. `show flow-spec ipv4` counts what each rule hits"
            .to_owned(),
        setup: format!(
            "service routing protocols model multi-agent\n!\ninterface INTERFACE\n   flow-spec {}\n!\nrouter bgp AS\n   \
             neighbor NEIGHBOUR send-community extended\n{families}!\n",
            words.join(" ")
        ),
    })
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let ip = by_family(&hole.net, "ip", "ipv6");
    let route = format!("{ip} route {} Null0 tag 666", hole.net);
    let mut traps = hole::traps(hole);
    traps.extend([
        "Write your AS number for AS; the neighbour needs `send-community`.".to_owned(),
        "`Null0` drops the traffic on this switch as well.".to_owned(),
        "No parser of EOS was at hand to check this: try it in a `configure session`.".to_owned(),
    ]);
    Ok(Text {
        text: format!("{route}\n!\n{}", route_map(hole, &format!("{}-holes", options.name))),
        undo: format!("no {route}\n"),
        traps,
        ..Text::default()
    })
}
