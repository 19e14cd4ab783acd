//! Nokia SR OS: it takes FlowSpec from others and originates none (Nokia's Unicast Guide, 22).

use super::{
    super::{Action, Family, FlowMatch},
    BlackHole, CannotSay, Options, Place, Platform, Text, hole,
};

/// SR OS.
pub const PLATFORM: Platform = Platform {
    name: "nokia",
    title: "Nokia SR OS, MD-CLI",
    comment: "#",
    place: Place::Receiver,
    family: None,
    rule,
    black_hole: Some(black_hole),
};

const UNCHECKED: &str = "No parser of SR OS was at hand to check this: `validate` before `commit`.";

fn rule(matches: &FlowMatch, _: Action, options: &Options) -> Result<Text, CannotSay> {
    let name = &options.name;
    let both = [(Family::Ip4, "flow-ipv4", "ip"), (Family::Ip6, "flow-ipv6", "ipv6")];
    let wanted = both.into_iter().filter(|(family, ..)| matches.family().is_none_or(|own| own == *family));
    let mut setup = String::new();
    for (_, family, ip) in wanted {
        setup.push_str(&format!(
            "configure router \"Base\" bgp neighbor NEIGHBOUR family {family} true\nconfigure filter {ip}-filter \
             \"{name}\" default-action accept\nconfigure filter {ip}-filter \"{name}\" filter-id 99\nconfigure filter \
             {ip}-filter \"{name}\" embed flowspec offset 1000 router-instance \"Base\"\nconfigure router \"Base\" \
             interface INTERFACE ingress filter {ip} \"{name}\"\n"
        ));
    }
    Err(CannotSay {
        what: "it only takes FlowSpec rules that others announce, and has no text for one".to_owned(),
        instead: "announce it from ExaBGP, GoBGP or BIRD; what it needs in order to take and enforce rules is below. \
                  Without `embed flowspec` in a filter on the interface it takes them and enforces NOTHING. The offset \
                  and the largest number of rules must fit into the range of entries. SR Linux has no FlowSpec"
            .to_owned(),
        setup,
    })
}

fn black_hole(hole: &BlackHole, options: &Options) -> Result<Text, CannotSay> {
    let (name, net, next_hop) = (&options.name, hole.net, hole.next_hop);
    let (mut members, large) = hole.communities();
    for member in &mut members {
        if member == "65535:65281" {
            *member = "no-export".to_owned();
        }
    }
    let all = members.iter().chain(&large);
    let members: String =
        all.map(|member| format!("configure policy-options community \"{name}-hole\" member \"{member}\"\n")).collect();
    let list = format!("configure policy-options prefix-list \"{name}-holes\" prefix {net} type exact\n");
    let entry = format!("configure policy-options policy-statement \"{name}-holes\" entry 10");
    let route = format!("configure router \"Base\" static-routes route {net} route-type unicast blackhole");
    let text = format!(
        "{route} admin-state enable\n{members}{list}{entry} from prefix-list [\"{name}-holes\"]\n{entry} action \
         action-type accept\n{entry} action community add [\"{name}-hole\"]\n{entry} action next-hop {next_hop}\n"
    );
    let mut traps = hole::traps(hole);
    traps.extend([
        format!(
            "The session must export it: `configure router \"Base\" bgp group GROUP export policy [\"{name}-holes\"]`."
        ),
        "The blackhole route drops the traffic on this router as well.".to_owned(),
        UNCHECKED.to_owned(),
    ]);
    let undo = format!("delete router \"Base\" static-routes route {net} route-type unicast\n");
    Ok(Text { text, undo, traps, ..Text::default() })
}
