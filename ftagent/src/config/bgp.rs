//! `[bgp]`: the BGP daemon through which routers upstream are asked to drop.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;

use super::{Problem, raw::RawBgp};

pub use crate::rule::vendor::{Community, LargeCommunity};

/// The BGP daemon, and what may be announced through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// Which daemon, and how it is reached.
    pub daemon: BgpDaemon,
    /// The operator's AS.
    pub asn: u32,
    /// The large community by which this agent knows its own routes; absent: made of the AS and this machine.
    pub marker: Option<LargeCommunity>,
    /// The operator's own space: no destination outside is ever announced.
    pub own_prefixes: Vec<IpNet>,
    /// What is never announced, not even as a part of a prefix.
    pub protect: Vec<IpNet>,
    /// Next hop of black holes, IPv4.
    pub next_hop4: Ipv4Addr,
    /// Next hop of black holes, IPv6.
    pub next_hop6: Ipv6Addr,
    /// Communities of black holes.
    pub communities: Vec<Community>,
    /// Communities of flow specifications.
    pub flowspec_communities: Vec<Community>,
    /// Announcements of a plane at a time.
    pub max_announcements: usize,
    /// Whether routers know limits in packets.
    pub packet_rates: bool,
    /// Whether more than a host may be black-holed.
    pub blackhole_prefixes: bool,
    /// Whether sources may be black-holed.
    pub source_blackhole: bool,
}

impl Bgp {
    /// Returns what is protected and not the operator's own: others whose packets no filter drops. What is their own
    /// is never a destination or source of one.
    pub fn guests(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.protect.iter().filter(|net| !self.own_prefixes.iter().any(|own| own.contains(*net))).copied()
    }
}

/// A BGP daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpDaemon {
    /// GoBGP, by its API.
    GoBgp(SocketAddr),
    /// ExaBGP: the directory of its pipes `exabgp.in` and `exabgp.out`.
    ExaBgp(PathBuf),
}

pub(super) fn checked(raw: &RawBgp, problems: &mut Vec<Problem>) -> Option<Bgp> {
    let daemon = daemon(raw, problems)?;
    let mut wrong = |path: &str, what: String, remedy: &str| problems.push(Problem::new(path, what, remedy));
    let asn = u32::try_from(raw.asn).unwrap_or(0);
    if asn == 0 {
        wrong("bgp.asn", format!("{} is not the number of an AS", raw.asn), "write your own, as 64500");
    }
    let marker = (!raw.marker.is_empty()).then(|| raw.marker.parse::<LargeCommunity>());
    if let Some(Err(what)) = &marker {
        wrong("bgp.marker", what.clone(), "write it as \"64500:666:1\", another one for each node");
    }
    if raw.own_prefixes.is_empty() {
        wrong("bgp.own_prefixes", "is empty".into(), "name the prefixes that this daemon may announce parts of");
    }
    if raw.communities.is_empty() {
        let remedy = "name what your routers know a black hole by: \"65535:666\" (RFC 7999), or your upstream's own";
        wrong("bgp.communities", "is empty".into(), remedy);
    }
    let mut next_hop = |path: &str, text: &str| {
        let address =
            text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified() && !address.is_multicast());
        let fits = address.filter(|address| address.is_ipv4() == (path == "bgp.next_hop4"));
        if fits.is_none() {
            let what = format!("\"{text}\" is no address of a next hop");
            wrong(path, what, "the address that your routers send to nowhere, as 192.0.2.1 or 100::1");
        }
        fits
    };
    let (next4, next6) = (next_hop("bgp.next_hop4", &raw.next_hop4), next_hop("bgp.next_hop6", &raw.next_hop6));
    let most = usize::try_from(raw.max_announcements).ok().filter(|most| (1..=10_000).contains(most));
    if most.is_none() {
        let what = format!("{} is out of range", raw.max_announcements);
        wrong("bgp.max_announcements", what, "write a number from 1 to 10000");
    }
    Some(Bgp {
        daemon,
        asn,
        marker: marker.and_then(Result::ok),
        own_prefixes: prefixes("bgp.own_prefixes", &raw.own_prefixes, problems),
        protect: prefixes("bgp.protect", &raw.protect, problems),
        next_hop4: match next4 {
            Some(IpAddr::V4(address)) => address,
            _ => Ipv4Addr::new(192, 0, 2, 1),
        },
        next_hop6: match next6 {
            Some(IpAddr::V6(address)) => address,
            _ => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1),
        },
        communities: communities("bgp.communities", &raw.communities, problems),
        flowspec_communities: communities("bgp.flowspec_communities", &raw.flowspec_communities, problems),
        max_announcements: most.unwrap_or(1),
        packet_rates: raw.packet_rates,
        blackhole_prefixes: raw.blackhole_prefixes,
        source_blackhole: raw.source_blackhole,
    })
}

/// Returns which daemon is meant; `None` where there is none, or (with a problem) where it is not known.
fn daemon(raw: &RawBgp, problems: &mut Vec<Problem>) -> Option<BgpDaemon> {
    let mut wrong = |path: &str, what: String, remedy: &str| problems.push(Problem::new(path, what, remedy));
    match raw.daemon.as_str() {
        "" => None,
        "gobgp" => {
            let address = raw.gobgp_address.parse().ok();
            if address.is_none() {
                let what = format!("\"{}\" is not an address and a port", raw.gobgp_address);
                wrong("bgp.gobgp_address", what, "write it as \"127.0.0.1:50051\"");
            }
            address.map(BgpDaemon::GoBgp)
        }
        "exabgp" => {
            if !raw.exabgp_pipes.starts_with('/') {
                let what = format!("\"{}\" is not an absolute path", raw.exabgp_pipes);
                wrong("bgp.exabgp_pipes", what, "start it with \"/\"");
            }
            Some(BgpDaemon::ExaBgp(raw.exabgp_pipes.clone().into()))
        }
        other => {
            wrong("bgp.daemon", format!("\"{other}\" is not known"), "\"gobgp\", \"exabgp\", or \"\" for none");
            None
        }
    }
}

fn communities(path: &str, raw: &[String], problems: &mut Vec<Problem>) -> Vec<Community> {
    let read = |(i, text): (usize, &String)| {
        let remedy = "write it as \"65535:666\", \"blackhole\" or \"no-export\"";
        let wrong = |what| problems.push(Problem::new(format!("{path}[{i}]"), what, remedy));
        text.parse().map_err(wrong).ok()
    };
    raw.iter().enumerate().filter_map(read).collect()
}

fn prefixes(path: &str, raw: &[String], problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let read = |(i, text): (usize, &String)| {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let what = match net {
            Ok(net) if net == net.trunc() && net.prefix_len() > 0 => return Some(net),
            Ok(net) if net.prefix_len() == 0 => format!("{net} is the whole Internet"),
            Ok(net) => format!("{net} has host bits set"),
            Err(_) => format!("\"{text}\" is not an address or prefix"),
        };
        let remedy = "write it as \"203.0.113.0/24\" or \"2001:db8::/32\"";
        problems.push(Problem::new(format!("{path}[{i}]"), what, remedy));
        None
    };
    raw.iter().enumerate().filter_map(read).collect()
}
