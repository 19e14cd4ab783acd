//! What no rule may do, whoever makes it, and how a new rule stands to those that there are.
//!
//! Exemptions are tuples, not addresses: what is protected is the answer of a resolver or a login by
//! SSH, not everything that claims to come from there. A rule is refused where it *may* match such
//! traffic; an operator who knows better says `--force`.

use std::{fmt, net::IpAddr};

use ftagent_common::tripwire::BFD_PORTS;
use ipnet::IpNet;

use super::{Action, Family, FlowMatch, Fragment, MOST_RATE, Payload, Ranges, Rate};
use crate::config::too_short;

/// What must stay reachable, as plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Addresses and prefixes that are this host's own. None at all: any address may be.
    pub own: Vec<IpNet>,
    /// Next hops of default routes.
    pub gateways: Vec<IpAddr>,
    /// Name servers that this host asks.
    pub resolvers: Vec<IpAddr>,
    /// Ports that sshd listens on.
    pub ssh_ports: Vec<u16>,
    /// Peers of SSH sessions.
    pub operators: Vec<IpAddr>,
    /// The peer of the SSH session that the command comes from.
    pub caller: Option<IpAddr>,
    /// Peers of BGP sessions that end at this host.
    pub bgp: Vec<IpAddr>,
}

/// Why a rule is not taken. Displays the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    /// What it would do, as a sentence about the rule: `would match every packet`.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
    /// Whether `--force` takes it all the same.
    pub may_be_forced: bool,
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, remedy, may_be_forced } = self;
        write!(f, "this rule {reason}: {remedy}{}", if *may_be_forced { "; --force adds it all the same" } else { "" })
    }
}

impl std::error::Error for Objection {}

/// Traffic that no rule drops without force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exemption {
    /// What it is, for people.
    pub what: String,
    /// The traffic.
    pub flow: FlowMatch,
    /// From anywhere, so a rule that is limited to some sources does not cut it off.
    anyone: bool,
    /// Towards this host.
    inward: bool,
    /// Which port is one that a client chose. A rule about a few ports meets it by chance only.
    chosen: Option<Chosen>,
}

/// A side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    Sport,
    Dport,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Looks at what a rule would do, the others aside.
///
/// # Errors
/// Why it is not taken.
pub fn check(matches: &FlowMatch, action: Action, guarded: &Guarded) -> Result<(), Objection> {
    check_action(matches, action)?;
    if let Some(why) = matches.impossible() {
        return Err(refused("matches no packet", format!("{why}; leave one of them out"), false));
    }
    // Counting harms nobody.
    if action.only_looks() {
        return Ok(());
    }
    if let Some(what) = matches_in_effect(matches) {
        let remedy = "say which traffic is meant, by a port, a prefix of /8 or longer (IPv6 /16), or bytes of payload";
        return Err(refused(format!("would match {what}"), remedy, true));
    }
    let limited = limits_sources(matches);
    let inward =
        |net: &IpNet| guarded.own.is_empty() || guarded.own.iter().any(|own| own.contains(net) || net.contains(own));
    for exemption in exemptions(guarded) {
        let elsewhere = exemption.inward && matches.dst.as_ref().is_some_and(|dst| !inward(dst));
        let out_of_reach = exemption.anyone && limited || elsewhere;
        if !out_of_reach && exemption.may_be_hit(matches) {
            let flow = FlowMatch { payload: Vec::new(), frag: Vec::new(), ..exemption.flow };
            let remedy = format!("leave it out, by protocol, port, length or prefix (it is `{flow}`)");
            return Err(refused(format!("may match {}", exemption.what), remedy, true));
        }
    }
    check_own(matches, guarded)
}

fn refused(reason: impl Into<String>, remedy: impl Into<String>, may_be_forced: bool) -> Objection {
    Objection { reason: reason.into(), remedy: remedy.into(), may_be_forced }
}

/// What is read as a table has not passed the text form.
fn check_action(matches: &FlowMatch, action: Action) -> Result<(), Objection> {
    match action {
        Action::RateLimit(Rate::Pps(0) | Rate::Bps(0)) => {
            Err(refused("lets nothing pass", "write `drop` instead of a rate of 0", false))
        }
        Action::RateLimit(Rate::Pps(rate) | Rate::Bps(rate)) if rate > MOST_RATE => {
            Err(refused("has a rate that no link reaches", format!("the highest is {MOST_RATE} a second"), false))
        }
        Action::Challenge if !matches.is_tcp() => {
            Err(refused("would challenge what is not TCP", "begin with `tcp`: only SYNs can be answered", false))
        }
        _ => Ok(()),
    }
}

/// Own addresses are no source of packets that arrive, unless something here forwards them.
fn check_own(matches: &FlowMatch, guarded: &Guarded) -> Result<(), Objection> {
    let Some(src) = matches.src else { return Ok(()) };
    let loopback = |net: &IpNet| net.addr().is_loopback();
    let meets = |net: &&IpNet| net.contains(&src) || src.contains(*net);
    match guarded.own.iter().filter(|net| !loopback(net)).find(meets) {
        Some(own) => {
            let reason = format!("names {src} as a source, which covers {own}, an address of this host");
            Err(refused(reason, "take a prefix that leaves it out, or write `dst`", true))
        }
        None => Ok(()),
    }
}

/// Returns whether only packets from some sources can match.
fn limits_sources(matches: &FlowMatch) -> bool {
    matches.src.is_some_and(|net| !too_short(&net))
}

/// Says what a rule matches in effect where nothing narrows it down: `every TCP packet`.
pub fn matches_in_effect(matches: &FlowMatch) -> Option<String> {
    let FlowMatch { src, dst, port, sport, dport, icmp_type, icmp_code, len, dscp, ttl, .. } = matches;
    // The whole of a field, and what nearly all packets have in it.
    const WHOLE: f64 = 0.9;
    let narrows = [src, dst].into_iter().flatten().any(|net| !too_short(net))
        || !matches.proto.is_any() && !matches.proto.contains(TCP) && !matches.proto.contains(UDP)
        || port.share(0, 65_535) < WHOLE
        // Clients' ports.
        || sport.share(1024, 65_535) < WHOLE
        || dport.share(0, 65_535) < WHOLE
        || icmp_type.share(0, 255) < WHOLE
        || icmp_code.share(0, 255) < WHOLE
        // Segments of every connection.
        || !(matches.accepts_flags(true, 0x10) && matches.accepts_flags(true, 0x18))
        || len.share(40, 1500) < WHOLE
        || !dscp.contains(0)
        || !(matches.frag.is_empty() || matches.frag.iter().any(|kind| matches!(kind, Fragment::Dont | Fragment::Not)))
        // What is left of the usual initial values, 64 and 128.
        || ttl.share(30, 128) < WHOLE
        || payload_bits(matches) >= 8;
    if narrows {
        return None;
    }
    let plain = FlowMatch { family: matches.family, proto: matches.proto.clone(), ..FlowMatch::default() };
    let nearly = if plain == *matches { "" } else { "nearly " };
    let family = match matches.family() {
        Some(Family::Ip4) => " IPv4",
        Some(Family::Ip6) => " IPv6",
        None => "",
    };
    let proto = match (matches.allows(TCP), matches.allows(UDP)) {
        (true, false) => " TCP",
        (false, true) => " UDP",
        _ => "",
    };
    Some(format!("{nearly}every{family}{proto} packet"))
}

fn payload_bits(matches: &FlowMatch) -> u32 {
    matches.payload.iter().flat_map(|payload| &payload.mask).map(|mask| mask.count_ones()).sum()
}

impl Exemption {
    fn may_be_hit(&self, matches: &FlowMatch) -> bool {
        // Two bytes of payload hit by chance only what has none that are always the same.
        let by_payload = self.flow.payload.is_empty() && payload_bits(matches) >= 16;
        // One in a hundred of the ports that clients choose from.
        let many = |ports: &Ranges<u16>| ports.share(1024, 65_535) > 0.01;
        let (chosen, fixed) = match self.chosen {
            Some(Chosen::Sport) => (&matches.sport, &self.flow.dport),
            Some(Chosen::Dport) => (&matches.dport, &self.flow.sport),
            None => (&self.flow.port, &self.flow.port),
        };
        let by_port = matches.port.meets(fixed) || many(&matches.port);
        let by_chance = self.chosen.is_some() && !(many(chosen) && by_port);
        self.flow.overlaps(matches) && !by_chance && !by_payload
    }
}

/// Returns what is exempt, most important first.
pub fn exemptions(guarded: &Guarded) -> Vec<Exemption> {
    let mut all = management(guarded);
    for resolver in guarded.resolvers.iter().filter(|address| !address.is_loopback()) {
        // Answers by UDP fit into 1232 bytes and headers (DNS flag day 2020).
        let udp = FlowMatch { len: Ranges::range(28, 1280), payload: answer(), ..from(*resolver, UDP) };
        let answers = [udp, from(*resolver, TCP)].map(|flow| FlowMatch { sport: Ranges::one(53), ..flow });
        let what = format!("answers of {resolver}, a name server that this host asks");
        let chosen = Some(Chosen::Dport);
        all.extend(answers.map(|flow| Exemption { chosen, ..exempt(what.clone(), flow, false) }));
    }
    for gateway in &guarded.gateways {
        let what = format!("what {gateway}, the gateway of the default route, has to say");
        let icmp = match gateway {
            IpAddr::V4(_) => FlowMatch { icmp_type: numbers(&[3, 11, 12]), ..from(*gateway, ICMP) },
            IpAddr::V6(_) => FlowMatch { icmp_type: Ranges::range(1, 4), ..from(*gateway, ICMPV6) },
        };
        all.push(exempt(what.clone(), icmp, false));
        // A session that is down is to come up again, and the gateway is who most often has one.
        let flows = bgp(&from(*gateway, TCP));
        all.extend(flows.map(|(flow, chosen)| Exemption { chosen, ..exempt(what.clone(), flow, false) }));
    }
    for peer in guarded.bgp.iter().filter(|peer| !peer.is_loopback() && !guarded.gateways.contains(peer)) {
        let what = format!("BGP with {peer}, a peer of this host");
        let flows = bgp(&from(*peer, TCP));
        all.extend(flows.map(|(flow, chosen)| Exemption { chosen, ..exempt(what.clone(), flow, false) }));
    }
    all.extend(protocols());
    all
}

/// A session of BGP with somebody, by the port of either side (RFC 4271, 8.2.1), and which port was chosen.
fn bgp(peer: &FlowMatch) -> [(FlowMatch, Option<Chosen>); 2] {
    let asked = FlowMatch { sport: Ranges::one(179), ..peer.clone() };
    let asks = FlowMatch { dport: Ranges::one(179), ..peer.clone() };
    [(asked, Some(Chosen::Dport)), (asks, Some(Chosen::Sport))]
}

/// What stands in every answer behind its number: that it is one, with one question (RFC 1035, 4.1.1).
fn answer() -> Vec<Payload> {
    vec![Payload { offset: 2, value: vec![0x80, 0, 0, 1], mask: vec![0xf8, 0, 0xff, 0xff] }]
}

/// Own addresses that exemptions name one by one at most; of more, any destination is exempt.
const OWN: usize = 64;
/// Peers of BGP that they name at most; of more, anybody's BGP is exempt.
const BGP_PEERS: usize = 64;

/// Returns what is exempt on every host, whatever is known of it: what IP itself, its links and its
/// routers cannot do without. As matches of headers alone, for rules that the daemon makes.
pub fn always() -> Vec<FlowMatch> {
    protocols().into_iter().map(headers).collect()
}

/// The payload cannot be said upstream, and what is exempt comes in one piece as a rule.
fn headers(exemption: Exemption) -> FlowMatch {
    FlowMatch { payload: Vec::new(), frag: Vec::new(), ..exemption.flow }
}

/// Returns what is exempt on this host, [`always`] included, in the same form.
pub fn exempt_flows(guarded: &Guarded) -> Vec<FlowMatch> {
    if guarded.bgp.len() > BGP_PEERS {
        let anybody = FlowMatch { proto: Ranges::one(TCP), ..FlowMatch::default() };
        let mut flows = exempt_flows(&Guarded { bgp: Vec::new(), ..guarded.clone() });
        flows.extend(bgp(&anybody).map(|(flow, _)| flow));
        return flows;
    }
    let mut flows = Vec::new();
    for exemption in exemptions(guarded) {
        let inward = exemption.inward;
        let flow = headers(exemption);
        if inward && !guarded.own.is_empty() && guarded.own.len() <= OWN {
            flows.extend(guarded.own.iter().map(|own| FlowMatch { dst: Some(*own), ..flow.clone() }));
        } else {
            flows.push(flow);
        }
    }
    flows
}

/// SSH: the sessions that there are, and new ones.
fn management(guarded: &Guarded) -> Vec<Exemption> {
    let (banner, chosen) = (begins(b"SSH-", 8), Some(Chosen::Sport));
    let ranges = guarded.ssh_ports.iter().map(|port| (*port, *port)).collect();
    let Some(dport) = Ranges::new(ranges).ok().filter(|ports| !ports.is_any()) else { return Vec::new() };
    let peer = |address: IpAddr, whose: &str| {
        let address = address.to_canonical();
        let flow = FlowMatch { dport: dport.clone(), payload: banner.clone(), ..from(address, TCP) };
        Exemption { chosen, ..exempt(format!("{whose} from {address}"), flow, false) }
    };
    let mut all: Vec<Exemption> =
        guarded.caller.into_iter().map(|caller| peer(caller, "the SSH session that asks for it,")).collect();
    let others = guarded.operators.iter().filter(|address| !address.is_loopback() && Some(**address) != guarded.caller);
    all.extend(others.map(|address| peer(*address, "an operator's SSH session,")));
    let proto = Ranges::one(TCP);
    let login = FlowMatch { dport: dport.clone(), proto, payload: banner.clone(), ..FlowMatch::default() };
    all.push(Exemption {
        anyone: true,
        inward: true,
        chosen,
        ..exempt("logins by SSH to this host".to_owned(), login, false)
    });
    all
}

/// What keeps the link and the network up, from whomever it comes.
fn protocols() -> Vec<Exemption> {
    let of = |proto: u8| FlowMatch { proto: Ranges::one(proto), ..FlowMatch::default() };
    let udp = |sport: &[u16], dport: &[u16]| FlowMatch { sport: numbers(sport), dport: numbers(dport), ..of(UDP) };
    // RFC 1812, 4.3.2.3: an ICMP error is of 576 bytes at most; RFC 4443, 2.4: of 1280.
    let needed =
        FlowMatch { icmp_type: Ranges::one(3), icmp_code: Ranges::one(4), len: Ranges::range(56, 576), ..of(ICMP) };
    let (len, payload) = (Ranges::range(88, 1280), begins(&[0x60], 1));
    let too_big = FlowMatch { icmp_type: Ranges::one(2), len, payload, ..of(ICMPV6) };
    let icmp6 = |types: &[u8]| FlowMatch { icmp_type: numbers(types), ..of(ICMPV6) };
    // RFC 5881, 4, and as there the others: source ports from 49152 on; RFC 5880, 4.1: 24 bytes and what
    // authenticates them.
    let bfd = udp(&[], &BFD_PORTS);
    let bfd = FlowMatch {
        sport: Ranges::range(49_152, 65_535),
        len: Ranges::range(52, 128),
        payload: begins(&[0x20], 1),
        ..bfd
    };
    // Both ways and between relays: this host may be any of them. RFC 2131, 2: operation 1 or 2; RFC 9915, 7.3.
    let operation = vec![Payload { offset: 0, value: vec![0], mask: vec![0xfc] }];
    let dhcp = FlowMatch { payload: operation, ..udp(&[67, 68], &[67, 68]) };
    let dhcp6 = FlowMatch { payload: begins(&[0], 1), ..udp(&[546, 547], &[546, 547]) };
    let all = [
        ("ICMP's fragmentation needed, without which large packets of some clients vanish", needed),
        ("ICMPv6's packet too big, without which large packets of some clients vanish", too_big),
        ("IPv6 neighbour discovery and router advertisements", icmp6(&[133, 134, 135, 136, 137])),
        ("MLD, by which IPv6 multicast is joined", icmp6(&[130, 131, 132, 143])),
        ("IGMP, by which multicast is joined", of(2)),
        ("OSPF, by which routers agree on routes", of(89)),
        ("VRRP, by which routers agree who is the gateway", of(112)),
        ("DHCP, by which addresses are given out", dhcp),
        ("DHCPv6, by which addresses are given out", dhcp6),
        ("BFD, by which routers see that a path is up", bfd),
    ];
    all.map(|(what, flow)| Exemption { anyone: true, ..exempt(what.to_owned(), flow, false) }).into()
}

fn exempt(what: String, flow: FlowMatch, anyone: bool) -> Exemption {
    // None of it is of a size to be fragmented.
    let flow = FlowMatch { frag: vec![Fragment::Not], ..flow };
    Exemption { what, flow, anyone, inward: false, chosen: None }
}

/// A payload that begins so, of which the first `halves` half bytes are looked at.
fn begins(bytes: &[u8], halves: usize) -> Vec<Payload> {
    let masks = (0..bytes.len()).map(|at| if 2 * at + 1 < halves { 0xff } else { 0xf0 });
    let mask: Vec<u8> = masks.collect();
    vec![Payload { offset: 0, value: bytes.iter().zip(&mask).map(|(byte, mask)| byte & mask).collect(), mask }]
}

fn from(address: IpAddr, proto: u8) -> FlowMatch {
    FlowMatch { src: Some(address.into()), proto: Ranges::one(proto), ..FlowMatch::default() }
}

/// Single values; none of them: any.
fn numbers<T: super::set::Number>(values: &[T]) -> Ranges<T> {
    Ranges::new(values.iter().map(|value| (*value, *value)).collect()).unwrap_or_default()
}

/// How a new rule stands to one that is tried before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// It does the same to the same packets.
    Same,
    /// It does something else to the same packets: only one of them can be meant.
    Contradicts,
    /// The other takes all of its packets first, so it never does anything.
    NeverReached,
    /// Nothing that matters.
    Unrelated,
}

/// Compares a new rule with an earlier one.
pub fn relation(new: (&FlowMatch, Action), earlier: (&FlowMatch, Action)) -> Relation {
    let ((new, action), (other, others)) = (new, earlier);
    // Counting goes with everything, and never ends the search.
    let counts = action.only_looks() || others.only_looks();
    match (other.covers(new), new.covers(other)) {
        (true, true) if action == others => Relation::Same,
        (true, true) if !counts => Relation::Contradicts,
        (true, _) if !others.only_looks() => Relation::NeverReached,
        _ => Relation::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::parse;

    fn guarded() -> Guarded {
        Guarded {
            own: vec!["198.51.100.10/32".parse().unwrap(), "2001:db8::10/128".parse().unwrap()],
            gateways: vec!["198.51.100.1".parse().unwrap(), "fe80::1".parse().unwrap()],
            resolvers: vec!["192.0.2.53".parse().unwrap(), "127.0.0.53".parse().unwrap()],
            ssh_ports: vec![22, 2222],
            operators: vec!["203.0.113.9".parse().unwrap()],
            caller: Some("203.0.113.5".parse().unwrap()),
            bgp: vec!["192.0.2.17".parse().unwrap(), "2001:db8:ffff::17".parse().unwrap()],
        }
    }

    #[test]
    fn what_no_rule_may_do() {
        // What is refused, and with which reason.
        let refused = [
            ("any then drop", "would match every packet"),
            ("any then rate-limit 5 kpps", "would match every packet"),
            ("ip6 then drop", "would match every IPv6 packet"),
            ("tcp then drop", "would match every TCP packet"),
            ("proto tcp,udp,icmp then drop", "would match every packet"),
            ("udp then rate-limit 9 Mbps", "would match every UDP packet"),
            ("len 0-65535 then drop", "would match nearly every packet"),
            ("len 40-1500 then drop", "would match nearly every packet"),
            ("src 0.0.0.0/0 then drop", "would match nearly every IPv4 packet"),
            ("dst ::/0 udp then drop", "would match nearly every IPv6 UDP packet"),
            ("src 96.0.0.0/7 then drop", "would match nearly every IPv4 packet"),
            ("src 2000::/15 then drop", "would match nearly every IPv6 packet"),
            ("udp sport 1024-65535 then drop", "would match nearly every UDP packet"),
            ("tcp dport 0-65535 then drop", "would match nearly every TCP packet"),
            ("tcp flags ack then drop", "would match nearly every TCP packet"),
            ("dscp 0 then drop", "would match nearly every packet"),
            ("frag not then drop", "would match nearly every packet"),
            ("ttl 1-255 then drop", "would match nearly every packet"),
            ("payload 0:1. then drop", "would match nearly every packet"),
            ("src 203.0.113.5 then drop", "may match the SSH session that asks for it, from 203.0.113.5"),
            ("src 203.0.113.0/29 tcp then drop", "the SSH session that asks for it, from 203.0.113.5"),
            ("src 203.0.113.9 tcp dport 2222 then drop", "an operator's SSH session, from 203.0.113.9"),
            ("tcp dport 22 len 60 then rate-limit 5 pps", "the SSH session that asks for it"),
            ("tcp flags syn/syn+ack then drop", "the SSH session that asks for it"),
            ("udp sport 53 then drop", "answers of 192.0.2.53, a name server"),
            ("src 192.0.2.0/24 then drop", "answers of 192.0.2.53, a name server"),
            ("src 198.51.100.1 then drop", "what 198.51.100.1, the gateway of the default route, has to say"),
            ("tcp port 179 then drop", "the gateway of the default route"),
            ("src 192.0.2.17 tcp then drop", "BGP with 192.0.2.17, a peer of this host"),
            ("src 192.0.2.16/28 tcp dport 179 then drop", "BGP with 192.0.2.17, a peer of this host"),
            ("src 2001:db8:ffff::/48 tcp sport 179 then drop", "BGP with 2001:db8:ffff::17, a peer of this host"),
            ("icmp then rate-limit 100 pps", "the gateway of the default route"),
            ("icmp6 icmp-type 135 then drop", "IPv6 neighbour discovery"),
            ("icmp6 icmp-type 2 then drop", "has to say"),
            ("icmp6 icmp-type 143 then drop", "MLD"),
            ("igmp then drop", "IGMP"),
            ("tcp payload 0:53 then drop", "the SSH session that asks for it"),
            ("udp payload 2:8180 then drop", "answers of 192.0.2.53"),
            ("ospf then drop", "OSPF"),
            ("vrrp then drop", "VRRP"),
            ("proto 100-120 then drop", "VRRP"),
            ("udp sport 60-70 then drop", "DHCP, by which"),
            ("udp dport 67 len 328 then drop", "DHCP, by which"),
            ("udp dport 546 then drop", "DHCPv6, by which"),
            ("udp dport 3784 then drop", "BFD"),
            ("src 198.51.100.0/24 udp dport 9 then drop", "covers 198.51.100.10/32, an address of this host"),
            ("dst 198.51.100.10 then drop", "the SSH session that asks for it"),
        ];
        for (text, wanted) in refused {
            let (matches, action) = parse(text).unwrap();
            let objection = check(&matches, action, &guarded()).expect_err(text);
            assert!(objection.reason.contains(wanted) && objection.may_be_forced, "{text}: {objection}");
            assert!(objection.to_string().ends_with("--force adds it all the same"), "{objection}");
            assert_eq!(check(&matches, Action::Count, &guarded()), Ok(()), "{text}: counting harms nobody");
        }
    }

    #[test]
    fn every_kind_of_bfd_is_exempt() {
        for port in BFD_PORTS {
            for family in ["ip4", "ip6"] {
                let (matches, action) = parse(&format!("{family} udp dport {port} then drop")).unwrap();
                let objection = check(&matches, action, &guarded()).expect_err("BFD is exempt");
                assert!(objection.reason.contains("BFD"), "{port}: {objection}");
            }
            let packet: FlowMatch = format!("udp sport 49152 dport {port} len 52").parse().unwrap();
            assert!(always().iter().any(|flow| flow.overlaps(&packet)), "{port}");
        }
    }

    #[test]
    fn what_a_rule_may_do() {
        let taken = [
            "udp sport 123 len 400-1500 then drop",
            "udp dport 27015 then rate-limit 9 kpps",
            "tcp sport 5000 then drop",
            "udp sport 123 then rate-limit 300 pps",
            "udp sport 11211 dst 198.51.100.10 then drop",
            "tcp dport 80,443 flags syn/syn+ack then rate-limit 5 kpps",
            "src 192.0.2.128/25 then drop",
            "src 203.0.113.5 udp then drop",
            "src 192.0.2.17 udp then drop",
            "src 192.0.2.17 tcp dport 443 then drop",
            "src 192.0.2.18 tcp then drop",
            "src 192.0.2.66 tcp dport 22 then drop",
            "udp sport 53 len 1400-65535 then drop",
            "icmp icmp-type 8 then rate-limit 100 pps",
            "icmp icmp-type 3 icmp-code 0-3,5-15 src 192.0.2.77 then drop",
            "gre then drop",
            "udp payload 0:17000326 then drop",
            "tcp dport 443 payload 0:474554 then drop",
            "tcp payload 0:474554202f then drop",
            "payload 0:17000326 then drop",
            "frag is then drop",
            "dst 10.9.8.7 udp dport 9 then drop",
            "ip6 udp dport 27015 then drop",
        ];
        for text in taken {
            let (matches, action) = parse(text).unwrap();
            assert_eq!(check(&matches, action, &guarded()), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_nobody_can_force() {
        let of = |text: &str| text.parse::<FlowMatch>().unwrap();
        let cases = [
            (of("udp sport 9"), Action::RateLimit(Rate::Pps(0)), "write `drop`"),
            (of("udp sport 9"), Action::RateLimit(Rate::Bps(u64::MAX)), "no link reaches"),
            (of("udp dport 80"), Action::Challenge, "only SYNs can be answered"),
            (of("udp flags syn"), Action::Drop, "matches no packet"),
            (of("udp sport 9 frag is"), Action::Count, "fragments count as having no ports"),
        ];
        for (matches, action, wanted) in cases {
            let objection = check(&matches, action, &guarded()).unwrap_err();
            assert!(objection.to_string().contains(wanted) && !objection.may_be_forced, "{objection}");
        }
    }

    #[test]
    fn rules_that_get_in_each_others_way() {
        let cases = [
            ("udp sport 123 then drop", "udp sport 123 then drop", Relation::Same),
            ("port 0-65535 udp sport 123 then drop", "udp sport 123 then drop", Relation::Same),
            ("udp sport 123 then drop", "udp sport 123 then rate-limit 5 pps", Relation::Contradicts),
            ("udp sport 123 len 5 then drop", "udp sport 123 then rate-limit 5 pps", Relation::NeverReached),
            ("udp sport 123 len 5 then count", "udp sport 123 then drop", Relation::NeverReached),
            ("udp sport 123 then drop", "udp sport 123 then count", Relation::Unrelated),
            ("udp sport 123 then drop", "udp sport 123 len 5 then rate-limit 5 pps", Relation::Unrelated),
            ("udp sport 123 then drop", "udp sport 53 then drop", Relation::Unrelated),
        ];
        for (new, earlier, wanted) in cases {
            let (a, b) = (parse(new).unwrap(), parse(earlier).unwrap());
            assert_eq!(relation((&a.0, a.1), (&b.0, b.1)), wanted, "{new} after {earlier}");
        }
    }

    #[test]
    fn a_route_server_has_too_many_peers_to_name() {
        let peers = |count: u32| (1..=count).map(|n| IpAddr::V4((0xc0a8_0000 + n).into())).collect();
        for (count, flows) in [(0, 0), (3, 6), (64, 128), (65, 2), (5000, 2)] {
            let guarded = Guarded { bgp: peers(count), ..Guarded::default() };
            assert_eq!(exempt_flows(&guarded).len(), flows + always().len(), "{count} peers");
            let (matches, action) = parse("src 192.168.0.1 tcp sport 179 then drop").unwrap();
            assert_eq!(check(&matches, action, &guarded).is_err(), count > 0, "{count} peers");
        }
    }

    #[test]
    fn where_nothing_is_known_of_this_host_any_address_may_be_its_own() {
        let guarded = Guarded { ssh_ports: vec![22], ..Guarded::default() };
        for (text, taken) in [("dst 10.9.8.7 then drop", false), ("dst 10.9.8.7 udp dport 9 then drop", true)] {
            let (matches, action) = parse(text).unwrap();
            assert_eq!(check(&matches, action, &guarded).is_ok(), taken, "{text}");
        }
    }
}
