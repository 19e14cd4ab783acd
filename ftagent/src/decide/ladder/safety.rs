//! What the ladder may ask for, whatever it believes: within the operator's own space, never what is exempt, no
//! black hole for what keeps this host reachable.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Attack, Filter, Kind, Upstream, What};
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

/// A victim with less than this share of an attack is not named in filters, nor is a prefix in which none has it.
const OF_FILTERS: f64 = 0.05;
/// A prefix is named where so much of an attack goes to those of its addresses that are not.
const OF_OTHERS: f64 = 0.2;
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
        Kind::Scrub => diversions(attack, &space, most)?,
    };
    wishes.truncate(most);
    Ok(wishes)
}

/// Says whether a step may be asked for, whoever wants it and whenever it was made: what is exempt changes.
///
/// # Errors
/// Why it may not.
pub fn permits(what: &What, upstream: &Upstream, exempt: &Exempt) -> Result<(), String> {
    let space = space(upstream, exempt);
    let inside = |net: &IpNet| match space.iter().any(|own| own.contains(net)) {
        true => Ok(()),
        false => Err(format!("{net} is not in `uplink.prefixes`")),
    };
    match what {
        What::Filter { matches, .. } => {
            inside(&matches.dst.ok_or("it names no destination")?)?;
            announced(matches, &all(exempt), &upstream.allowed)
                .map_err(|flow| format!("it would match `{flow}`, which is exempt"))
        }
        What::BlackHole { victim } if victim.prefix_len() < victim.max_prefix_len() => {
            Err(format!("{victim} is more than one address"))
        }
        What::BlackHole { victim } => inside(victim).and_then(|()| unkept(victim, upstream)),
        What::SourceBlackHole { source } if is_spared(&source.addr(), upstream, exempt, &all(exempt)) => {
            Err(format!("{source} is this host's own, allowed or exempt"))
        }
        What::SourceBlackHole { .. } => Ok(()),
        What::Divert { prefix } => inside(prefix),
    }
}

/// Returns whether anything may be named upstream: at a start it is not known yet.
pub fn is_anything_ours(upstream: &Upstream, exempt: &Exempt) -> bool {
    !space(upstream, exempt).is_empty()
}

/// All that filters are made of, but for what changes only with the policy and what is exempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Gist {
    filters: Vec<(FlowMatch, Action, u32)>,
    unsaid: Option<String>,
    aimed: Vec<IpNet>,
    most: usize,
}

impl Gist {
    /// Returns that of an attack.
    pub fn of(attack: &Attack, upstream: &Upstream, exempt: &Exempt, most: usize) -> Self {
        let filter = |filter: &Filter| (filter.matches.clone(), filter.action, filter.rule);
        Self {
            filters: attack.filters.iter().map(filter).collect(),
            unsaid: attack.unsaid.first().cloned(),
            aimed: aimed(attack, &space(upstream, exempt)),
            most,
        }
    }
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

/// Returns the prefix of a space that an address belongs to: the narrowest.
pub fn home(space: &[IpNet], address: IpAddr) -> Option<IpNet> {
    space.iter().copied().filter(|net| net.contains(&address)).max_by_key(IpNet::prefix_len)
}

/// Returns the prefixes of a space, each with the share of an attack that goes to all its addresses together.
fn shares(attack: &Attack, space: &[IpNet]) -> BTreeMap<IpNet, f64> {
    let mut shares: BTreeMap<IpNet, f64> = BTreeMap::new();
    for (address, of) in &attack.victims {
        if let Some(net) = home(space, *address) {
            *shares.entry(net).or_default() += of;
        }
    }
    // Of many addresses only the sums are known.
    for (net, of) in attack.prefixes.iter().filter(|(net, _)| space.contains(net)) {
        let known = shares.entry(*net).or_default();
        *known = known.max(*of);
    }
    shares
}

/// Returns what filters name that name no destination of their own: victims, and prefixes of which many are hit.
fn aimed(attack: &Attack, space: &[IpNet]) -> Vec<IpNet> {
    let mut named: Vec<IpNet> = victims(attack, space, OF_FILTERS).map(IpNet::from).collect();
    for (net, of) in shares(attack, space).into_iter().filter(|(net, _)| net.prefix_len() < net.max_prefix_len()) {
        let inside = |address: &IpAddr| home(space, *address) == Some(net);
        let hosts: Vec<f64> =
            attack.victims.iter().filter(|(a, of)| *of >= OF_FILTERS && inside(a)).map(|(_, of)| *of).collect();
        let others = of - hosts.iter().sum::<f64>();
        if hosts.len() > MANY || others >= OF_OTHERS || hosts.is_empty() && others >= OF_FILTERS {
            named.retain(|victim| !net.contains(victim));
            named.push(net);
        }
    }
    // In an order that does not change with every packet.
    named.sort();
    named.dedup();
    named
}

const OUTSIDE: &str = "what it is aimed at is not in `uplink.prefixes`";

/// Says why nothing that an attack is aimed at can be named.
fn aimless(attack: &Attack, space: &[IpNet], least: f64, remedy: &str) -> String {
    if shares(attack, space).values().sum::<f64>() < least {
        return OUTSIDE.to_owned();
    }
    format!("it is spread over many addresses, none of which has {:.0} % of it: {remedy}", 100.0 * least)
}

fn filters(
    attack: &Attack,
    upstream: &Upstream,
    exempt: &Exempt,
    space: &[IpNet],
    most: usize,
) -> Result<Vec<Wish>, String> {
    let kept = all(exempt);
    let aimed = aimed(attack, space);
    let mut wishes: Vec<Wish> = Vec::new();
    let mut why = attack.unsaid.first().cloned();
    for filter in &attack.filters {
        // What only counts or challenges is no order to anybody upstream; nor is a rate of this host's.
        let action = match filter.action {
            Action::Drop => Action::Drop,
            Action::RateLimit(Rate::Bps(rate)) => Action::RateLimit(Rate::Bps(rate)),
            _ => continue,
        };
        for dst in destinations(&filter.matches, &aimed, space) {
            if wishes.len() >= most {
                return Ok(wishes);
            }
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
        false => aimless(attack, space, OF_FILTERS, "write their prefix into `uplink.prefixes`"),
    }))
}

/// Returns the destinations that a filter names: always some, within the space.
fn destinations(matches: &FlowMatch, aimed: &[IpNet], space: &[IpNet]) -> Vec<IpNet> {
    if let Some(dst) = matches.dst {
        if space.iter().any(|net| net.contains(&dst)) {
            return vec![dst];
        }
        return space.iter().copied().filter(|net| dst.contains(net)).collect();
    }
    let fits = |net: &IpNet| matches.family().is_none_or(|family| (family == Family::Ip4) == net.addr().is_ipv4());
    aimed.iter().copied().filter(fits).collect()
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
        match unkept(&victim, upstream) {
            Err(kept) => why = Some(kept),
            Ok(()) => wishes.push((What::BlackHole { victim }, 0)),
        }
    }
    if wishes.is_empty() {
        return Err(why.unwrap_or_else(|| aimless(attack, space, OF_VICTIMS, "no prefix is ever black-holed")));
    }
    Ok(wishes)
}

/// Checks that a victim carries nothing that keeps this host reachable.
fn unkept(victim: &IpNet, upstream: &Upstream) -> Result<(), String> {
    match upstream.kept.iter().find(|kept| kept.net.contains(victim) || victim.contains(&kept.net)) {
        Some(kept) => Err(format!("{victim} is never black-holed: it carries {}", kept.why)),
        None => Ok(()),
    }
}

fn sources(attack: &Attack, upstream: &Upstream, exempt: &Exempt) -> Result<Vec<Wish>, String> {
    let flows = all(exempt);
    let wish = |source: &IpAddr| (What::SourceBlackHole { source: IpNet::from(*source) }, 0);
    let wishes: Vec<Wish> =
        attack.sources.iter().filter(|source| !is_spared(source, upstream, exempt, &flows)).map(wish).collect();
    if wishes.is_empty() {
        return Err("no source of it has completed a handshake, so any may be forged".to_owned());
    }
    Ok(wishes)
}

/// Returns whether a source is never black-holed; `flows` is all that is exempt.
fn is_spared(source: &IpAddr, upstream: &Upstream, exempt: &Exempt, flows: &[FlowMatch]) -> bool {
    upstream.allowed.iter().chain(upstream.kept.iter().map(|kept| &kept.net)).any(|net| net.contains(source))
        || exempt.own.contains(source)
        || flows.iter().any(|flow| flow.src.is_some_and(|src| src.contains(source)))
}

fn diversions(attack: &Attack, space: &[IpNet], most: usize) -> Result<Vec<Wish>, String> {
    let mut hit: Vec<(IpNet, f64)> =
        shares(attack, space).into_iter().filter(|(_, share)| *share >= OF_VICTIMS).collect();
    if hit.is_empty() {
        return Err(aimless(attack, space, OF_VICTIMS, "nor has any prefix of `uplink.prefixes`"));
    }
    hit.sort_by(|a, b| b.1.total_cmp(&a.1));
    hit.truncate(most);
    hit.sort_by_key(|(net, _)| *net);
    Ok(hit.into_iter().map(|(prefix, _)| (What::Divert { prefix }, 0)).collect())
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
