//! What the ladder may ask for, whatever it believes: within the operator's own space, never what is exempt, no
//! black hole for what keeps this host reachable.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Attack, Kind, Upstream, What};
use crate::{
    decide::{
        mitigate::Exempt,
        synthesis::exempt::{all, around, halves, overlap},
    },
    rule::{
        Action, Family, FlowMatch, Rate,
        flowspec::{FlowSpec, families},
    },
};

/// A victim with less than this share of an attack is not named in filters.
const OF_FILTERS: f64 = 0.05;
/// A victim with less than this share is not black-holed, and its prefix not diverted.
const OF_VICTIMS: f64 = 0.1;
/// More victims than this in one prefix of the operator's are named by it.
const MANY: usize = 4;
/// Parts that a filter is split into at most, to go around what is exempt.
const PARTS: usize = 48;

/// A step to ask for, and the rule that it came from; 0 where it came from none.
pub type Wish = (What, u32);

/// Returns what of a match can be said upstream: without the dimensions that only a host can see. It matches more
/// then; the second value says whether it does.
pub fn said(matches: &FlowMatch) -> (FlowMatch, bool) {
    let said = FlowMatch { ttl: Default::default(), payload: Vec::new(), ..matches.clone() };
    let wider = said != *matches;
    (said, wider)
}

/// Returns what a rung of this kind would ask for; at most so many steps.
///
/// # Errors
/// Why it can do nothing about this attack.
pub fn wishes(
    kind: Kind,
    attack: &Attack,
    upstream: &Upstream,
    exempt: &Exempt,
    most: usize,
) -> Result<Vec<Wish>, String> {
    let space = space(upstream, exempt);
    let mut wishes = match kind {
        Kind::Filter => filters(attack, upstream, exempt, &space, most)?,
        Kind::BlackHole => black_holes(attack, upstream, &space)?,
        Kind::SourceBlackHole => sources(attack, upstream, exempt)?,
        Kind::Scrub => diversions(attack, &space)?,
    };
    wishes.truncate(most);
    Ok(wishes)
}

/// Returns the prefixes that may be named upstream.
fn space(upstream: &Upstream, exempt: &Exempt) -> Vec<IpNet> {
    if !upstream.space.is_empty() {
        return upstream.space.clone();
    }
    exempt.own.iter().copied().filter(|own| !own.is_loopback()).map(IpNet::from).collect()
}

/// Returns the victims within the space, of at least a share.
fn victims<'a>(attack: &'a Attack, space: &'a [IpNet], share: f64) -> impl Iterator<Item = IpAddr> + 'a {
    let inside = move |address: &IpAddr| space.iter().any(|net| net.contains(address));
    attack.victims.iter().filter(move |(_, of)| *of >= share).map(|(address, _)| *address).filter(inside)
}

const OUTSIDE: &str = "what it is aimed at is not in `uplink.prefixes`";

fn filters(
    attack: &Attack,
    upstream: &Upstream,
    exempt: &Exempt,
    space: &[IpNet],
    most: usize,
) -> Result<Vec<Wish>, String> {
    let kept = all(exempt);
    let mut wishes: Vec<Wish> = Vec::new();
    let mut why = attack.unsaid.first().cloned();
    for filter in &attack.filters {
        // What only counts or challenges is no order to anybody upstream; nor is a rate of this host's.
        let action = match filter.action {
            Action::Drop => Action::Drop,
            Action::RateLimit(Rate::Bps(rate)) => Action::RateLimit(Rate::Bps(rate)),
            _ => continue,
        };
        for dst in destinations(&filter.matches, attack, space) {
            let matches = FlowMatch { dst: Some(dst), ..said(&filter.matches).0 };
            match split(&matches, &kept, &upstream.allowed) {
                Ok(parts) if wishes.len() + parts.len() <= most => {
                    let wish = |matches| (What::Filter { matches: Box::new(matches), action }, filter.rule);
                    let new = parts.into_iter().map(wish).filter(|wish| !wishes.iter().any(|known| known.0 == wish.0));
                    wishes.extend(new.collect::<Vec<_>>());
                }
                Ok(parts) => why = Some(format!("it takes {} announcements, and {most} are allowed", parts.len())),
                Err(flow) => why = Some(format!("the filter cannot go around `{flow}`, which is exempt")),
            }
        }
    }
    if !wishes.is_empty() {
        return Ok(wishes);
    }
    Err(why.unwrap_or_else(|| match attack.filters.is_empty() {
        true => "there is no rule against it that could be said upstream".to_owned(),
        false => OUTSIDE.to_owned(),
    }))
}

/// Returns the destinations that a filter names: always some, within the space.
fn destinations(matches: &FlowMatch, attack: &Attack, space: &[IpNet]) -> Vec<IpNet> {
    let fits = |net: &IpNet| matches.family().is_none_or(|family| (family == Family::Ip4) == net.addr().is_ipv4());
    if let Some(dst) = matches.dst {
        if space.iter().any(|net| net.contains(&dst)) {
            return vec![dst];
        }
        return space.iter().copied().filter(|net| dst.contains(net)).collect();
    }
    let mut named: Vec<IpNet> = victims(attack, space, OF_FILTERS).map(IpNet::from).filter(|net| fits(net)).collect();
    for net in space.iter().filter(|net| net.prefix_len() < net.max_prefix_len()) {
        if named.iter().filter(|victim| net.contains(*victim)).count() > MANY {
            named.retain(|victim| !net.contains(victim));
            named.push(*net);
        }
    }
    named
}

/// Returns matches that together match what one does but nothing that is exempt or that an allowed source sends.
fn split(matches: &FlowMatch, exempt: &[FlowMatch], allowed: &[IpNet]) -> Result<Vec<FlowMatch>, String> {
    let mut parts = around(matches, exempt, PARTS)?;
    for source in allowed {
        let mut next = Vec::with_capacity(parts.len());
        for part in parts {
            next.extend(beside(part, *source).ok_or_else(|| format!("src {source}"))?);
        }
        parts = next;
        if parts.len() > PARTS || parts.is_empty() {
            return Err(format!("src {source}"));
        }
    }
    parts.iter().try_for_each(|part| announced(part, exempt, allowed))?;
    Ok(parts)
}

/// Checks what routers will match, not what they were asked to: a dimension that cannot be said is left out.
fn announced(part: &FlowMatch, exempt: &[FlowMatch], allowed: &[IpNet]) -> Result<(), String> {
    for family in families(part) {
        let says = FlowSpec::compile(part, family).map_err(|error| format!("{part} ({error})"))?.says;
        if let Some(flow) = exempt.iter().find(|flow| overlap(&says, flow)) {
            return Err(flow.to_string());
        }
        let from = |net: &&IpNet| match says.src {
            Some(src) => src.contains(*net) || net.contains(&src),
            None => net.addr().is_ipv4() == (family == Family::Ip4),
        };
        if let Some(source) = allowed.iter().find(from) {
            return Err(format!("src {source}"));
        }
    }
    Ok(())
}

/// Returns what a match matches of other sources.
fn beside(matches: FlowMatch, source: IpNet) -> Option<Vec<FlowMatch>> {
    let v4 = source.addr().is_ipv4();
    if matches.family().is_some_and(|family| (family == Family::Ip4) != v4) {
        return Some(vec![matches]);
    }
    let anywhere = if v4 { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
    let from = matches.src.unwrap_or(anywhere);
    if source.contains(&from) {
        return Some(Vec::new());
    }
    if !from.contains(&source) {
        return Some(vec![matches]);
    }
    let nets = halves(from, source)?;
    Some(nets.into_iter().map(|net| FlowMatch { src: Some(net), ..matches.clone() }).collect())
}

fn black_holes(attack: &Attack, upstream: &Upstream, space: &[IpNet]) -> Result<Vec<Wish>, String> {
    let mut why = None;
    let mut wishes = Vec::new();
    for victim in victims(attack, space, OF_VICTIMS).map(IpNet::from) {
        match upstream.kept.iter().find(|kept| kept.net.contains(&victim) || victim.contains(&kept.net)) {
            Some(kept) => why = Some(format!("{victim} is never black-holed: it carries {}", kept.why)),
            None => wishes.push((What::BlackHole { victim }, 0)),
        }
    }
    if wishes.is_empty() { Err(why.unwrap_or_else(|| OUTSIDE.to_owned())) } else { Ok(wishes) }
}

fn sources(attack: &Attack, upstream: &Upstream, exempt: &Exempt) -> Result<Vec<Wish>, String> {
    let exempts = all(exempt);
    let spared = |source: &IpAddr| {
        upstream.allowed.iter().chain(upstream.kept.iter().map(|kept| &kept.net)).any(|net| net.contains(source))
            || exempt.own.contains(source)
            || exempts.iter().any(|flow| flow.src.is_some_and(|src| src.contains(source)))
    };
    let wish = |source: &IpAddr| (What::SourceBlackHole { source: IpNet::from(*source) }, 0);
    let wishes: Vec<Wish> = attack.sources.iter().filter(|source| !spared(source)).map(wish).collect();
    if wishes.is_empty() {
        return Err("no source of it has completed a handshake, so any may be forged".to_owned());
    }
    Ok(wishes)
}

fn diversions(attack: &Attack, space: &[IpNet]) -> Result<Vec<Wish>, String> {
    let mut prefixes: Vec<IpNet> = Vec::new();
    for victim in victims(attack, space, OF_VICTIMS) {
        let nets = space.iter().filter(|net| net.contains(&victim));
        prefixes.extend(nets.max_by_key(|net| net.prefix_len()));
    }
    prefixes.sort();
    prefixes.dedup();
    if prefixes.is_empty() {
        return Err(OUTSIDE.to_owned());
    }
    Ok(prefixes.into_iter().map(|prefix| (What::Divert { prefix }, 0)).collect())
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Filter { matches, action } => write!(f, "{matches} then {action}"),
            Self::BlackHole { victim } => write!(f, "black hole for {victim}"),
            Self::SourceBlackHole { source } => write!(f, "black hole for what {source} sends"),
            Self::Divert { prefix } => write!(f, "divert {prefix}"),
        }
    }
}
