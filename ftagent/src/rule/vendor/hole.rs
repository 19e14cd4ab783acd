//! Remotely triggered black holes (RFC 5635, RFC 7999): what is announced, and what it does to whom.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::{AnyCommunity, Community, Refused, by_family};

const BLACKHOLE: AnyCommunity = AnyCommunity::Plain(Community::BLACKHOLE);
const NO_EXPORT: AnyCommunity = AnyCommunity::Plain(Community::NO_EXPORT);
/// The shortest prefixes of a black hole: longer ones are one network's customers, shorter ones are networks.
const SHORTEST: [u8; 2] = [24, 48];

/// A black hole, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlackHole {
    /// What is dropped.
    #[serde(rename = "prefix")]
    pub net: IpNet,
    /// Whether it is who sends or who receives.
    pub end: End,
    /// An address that edges discard: 192.0.2.1 (RFC 5737) or 100::1 (RFC 6666) by custom.
    pub next_hop: IpAddr,
    /// Communities that the upstream asks for.
    pub communities: Vec<AnyCommunity>,
    /// Whether NO_EXPORT is left out.
    pub export: bool,
}

/// Which end of a flow is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// Everything towards it (RFC 7999).
    Destination,
    /// Everything from it (RFC 5635, section 4).
    Source,
}

impl BlackHole {
    /// Checks what is asked for. Without communities of the upstream's own, it is BLACKHOLE; without a next hop, the
    /// customary one.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead.
    pub fn new(
        net: IpNet,
        end: End,
        communities: Vec<AnyCommunity>,
        next_hop: Option<IpAddr>,
        anywhere: bool,
    ) -> Result<Self, Refused> {
        let refuse = |why: String| Err(Refused(why));
        if net.trunc() != net {
            let (whole, one) = (net.trunc(), IpNet::from(net.addr()));
            return refuse(format!("`{net}` has host bits set: did you mean {whole} or {one}?"));
        }
        if net.prefix_len() == 0 {
            return refuse(format!("{net} is the whole Internet: name an address"));
        }
        if let Some(what) = nobodys(&net) {
            return refuse(format!("{net} is {what}, which no router upstream leads to you: name an address"));
        }
        let [four, six] = SHORTEST;
        let shortest = if net.addr().is_ipv4() { four } else { six };
        if net.prefix_len() < shortest && !anywhere {
            return refuse(format!(
                "{net} is wider than a /{shortest}, and everything in it would be cut off: name an address, or add \
                 --anywhere if that is meant"
            ));
        }
        let next_hop = match next_hop {
            Some(hop) if hop.is_ipv4() != net.addr().is_ipv4() => {
                return refuse(format!("{hop} is no next hop for {net}: take an address of the same family"));
            }
            Some(hop) => hop,
            None if net.addr().is_ipv4() => IpAddr::from([192, 0, 2, 1]),
            None => IpAddr::from([0x100, 0, 0, 0, 0, 0, 0, 1]),
        };
        let communities = if communities.is_empty() { vec![BLACKHOLE] } else { communities };
        Ok(Self { net, end, next_hop, communities, export: false })
    }

    /// Leaves NO_EXPORT out: for upstreams that hand black holes on to theirs.
    pub fn exported(self) -> Self {
        Self { export: true, ..self }
    }

    /// Returns the communities, NO_EXPORT among them.
    pub fn all(&self) -> Vec<AnyCommunity> {
        let no_export = Some(NO_EXPORT).filter(|_| !self.export && !self.communities.contains(&NO_EXPORT));
        self.communities.iter().copied().chain(no_export).collect()
    }

    /// Returns them as text, plain ones and large ones.
    pub fn communities(&self) -> (Vec<String>, Vec<String>) {
        let (plain, large): (Vec<AnyCommunity>, Vec<AnyCommunity>) =
            self.all().into_iter().partition(|community| matches!(community, AnyCommunity::Plain(_)));
        let text = |list: Vec<AnyCommunity>| list.iter().map(ToString::to_string).collect();
        (text(plain), text(large))
    }

    /// Returns whether it is one address.
    pub fn is_host(&self) -> bool {
        self.net.prefix_len() == self.net.max_prefix_len()
    }
}

/// Says what a prefix is that belongs to nobody, if it is such.
pub fn nobodys(net: &IpNet) -> Option<&'static str> {
    match net.addr() {
        _ if net.prefix_len() == 0 => Some("everybody's"),
        address if address.is_loopback() => Some("the loopback's"),
        address if address.is_multicast() => Some("multicast"),
        address if address.is_unspecified() => Some("no address"),
        IpAddr::V4(address) if address.is_link_local() => Some("link-local"),
        IpAddr::V4(address) if address.octets().first() >= Some(&240) => Some("reserved"),
        IpAddr::V6(address) if address.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80) => {
            Some("link-local")
        }
        _ => None,
    }
}

/// What to know of a black hole, whoever announces it.
pub fn traps(hole: &BlackHole) -> Vec<String> {
    let BlackHole { net, end, next_hop, .. } = hole;
    let mut traps = Vec::new();
    match end {
        End::Destination => traps.push(format!(
            "It completes the attack for {net}: NOTHING reaches it any more, from anybody. Try FlowSpec or scrubbing \
             first, and take it back as soon as you can: nothing of the attack can be seen behind it."
        )),
        End::Source => traps.extend([
            format!(
                "It drops what comes FROM {net} only where edges check sources (loose uRPF, RFC 5635, 4; Junos: \
                 `forwarding-options rpf-loose-mode-discard`). Elsewhere it only cuts off answers TO it."
            ),
            "Sources of UDP and of lone SYNs are easily forged: whoever forges one has you cut off whom they like. Only \
             for sources that completed a handshake, and never for resolvers that all use."
                .to_owned(),
            "Announce it inside your own network alone: it is not your prefix, and elsewhere it is a hijack.".to_owned(),
        ]),
    }
    traps.push(format!(
        "Every edge must discard {next_hop}: route it to null there ({} by custom). Where an edge does not, this \
         attracts the traffic instead.",
        by_family(net, "192.0.2.1, RFC 5737", "100::1, RFC 6666")
    ));
    if !hole.communities.contains(&BLACKHOLE) {
        traps.push("Without 65535:666 (RFC 7999) only an upstream that knows your community discards it.".to_owned());
    } else if *end == End::Destination {
        traps.push(
            "65535:666 is RFC 7999's; many upstreams want one of their own instead (--community), on a session of its \
             own."
                .to_owned(),
        );
    }
    if !hole.is_host() {
        traps.push(format!(
            "Most upstreams take black holes of single addresses (/{}) only, and only of your own.",
            net.max_prefix_len()
        ));
    }
    if hole.export {
        traps.push("Without no-export a neighbour may hand it on to the whole Internet.".to_owned());
    }
    traps
}
