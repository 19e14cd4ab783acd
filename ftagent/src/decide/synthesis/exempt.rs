//! What no rule may match: rules that would are split around it, or refused.

use ipnet::IpNet;

use crate::decide::mitigate::Exempt;
pub use crate::rule::check::always;
use crate::rule::{Action, Family, Flags, FlowMatch, Fragment, Ranges, set::Number};

/// Returns everything that is exempt: always, and as configured, which has the former in it already where it
/// was made of what is known of a host.
pub fn all(configured: &Exempt) -> Vec<FlowMatch> {
    let mut flows = always();
    let more: Vec<FlowMatch> = configured.flows.iter().filter(|flow| !flows.contains(flow)).cloned().collect();
    flows.extend(more);
    flows
}

/// Returns matches that together match what `matches` does, but nothing that is exempt; `None`
/// where there are none, with what stands in the way. `most` matches at most.
///
/// # Errors
/// The exempt flow that it cannot be split around, as text.
pub fn around(matches: &FlowMatch, exempt: &[FlowMatch], most: usize) -> Result<Vec<FlowMatch>, String> {
    let mut parts = vec![matches.clone()];
    for flow in exempt {
        let mut next = Vec::new();
        for part in parts {
            if !overlap(&part, flow) {
                next.push(part);
                continue;
            }
            next.extend(without(&part, flow).ok_or_else(|| flow.to_string())?);
        }
        parts = next;
        if parts.len() > most || parts.is_empty() {
            return Err(flow.to_string());
        }
    }
    Ok(parts)
}

/// Returns whether a rule that drops could match something that is exempt.
pub fn is_touched(matches: &FlowMatch, action: Action, exempt: &[FlowMatch]) -> bool {
    !action.only_looks() && exempt.iter().any(|flow| overlap(matches, flow))
}

/// Returns whether some packet may satisfy both. May say yes where none does, never no where one does.
pub fn overlap(a: &FlowMatch, b: &FlowMatch) -> bool {
    families(a, b)
        && nets(a.src, b.src)
        && nets(a.dst, b.dst)
        && meet(&a.proto, &b.proto)
        && protocols_fit(a, b)
        && meet(&a.sport, &b.sport)
        && meet(&a.dport, &b.dport)
        && ports_fit(a, b)
        && ports_fit(b, a)
        && meet(&a.icmp_type, &b.icmp_type)
        && meet(&a.icmp_code, &b.icmp_code)
        && meet(&a.len, &b.len)
        && meet(&a.dscp, &b.dscp)
        && meet(&a.ttl, &b.ttl)
        && flags_fit(&a.flags, &b.flags)
        && fragments_fit(&a.frag, &b.frag)
}

/// Ports stand for TCP and UDP, types for ICMP: what asks for the one is none of the other.
fn protocols_fit(a: &FlowMatch, b: &FlowMatch) -> bool {
    let asks = |matches: &FlowMatch| {
        let ports = !(matches.port.is_any() && matches.sport.is_any() && matches.dport.is_any());
        let icmp = !(matches.icmp_type.is_any() && matches.icmp_code.is_any());
        ports || icmp || !matches.flags.is_empty()
    };
    // Fragments have none of those fields.
    let pieces = |matches: &FlowMatch| {
        let piece = |kind: &Fragment| matches!(kind, Fragment::Is | Fragment::First | Fragment::Last);
        !matches.frag.is_empty() && matches.frag.iter().all(piece)
    };
    if pieces(a) && asks(b) || pieces(b) && asks(a) {
        return false;
    }
    let kinds = |matches: &FlowMatch| {
        let ports = !(matches.port.is_any() && matches.sport.is_any() && matches.dport.is_any());
        let icmp = !(matches.icmp_type.is_any() && matches.icmp_code.is_any());
        let only = |numbers: &[u8]| {
            !matches.proto.is_any()
                && matches.proto.iter().all(|(first, last)| (first..=last).all(|number| numbers.contains(&number)))
        };
        (ports || only(&[6, 17]), icmp || only(&[1, 58]), !matches.flags.is_empty())
    };
    let (of_a, of_b) = (kinds(a), kinds(b));
    !(of_a.0 && of_b.1 || of_a.1 && of_b.0 || of_a.1 && of_b.2 || of_a.2 && of_b.1)
}

fn family_of(matches: &FlowMatch) -> Option<Family> {
    let of = |net: IpNet| if net.addr().is_ipv4() { Family::Ip4 } else { Family::Ip6 };
    matches.family.or(matches.src.map(of)).or(matches.dst.map(of))
}

fn families(a: &FlowMatch, b: &FlowMatch) -> bool {
    family_of(a).is_none_or(|a| family_of(b).is_none_or(|b| a == b))
}

fn nets(a: Option<IpNet>, b: Option<IpNet>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    a.contains(&b) || b.contains(&a)
}

fn meet<T: Number>(a: &Ranges<T>, b: &Ranges<T>) -> bool {
    let crosses = |(low, high): (T, T)| b.iter().any(|(first, last)| low <= last && first <= high);
    a.is_any() || b.is_any() || a.iter().any(crosses)
}

/// `port` asks for one of both ports.
fn ports_fit(a: &FlowMatch, b: &FlowMatch) -> bool {
    a.port.is_any() || meet(&a.port, &b.sport) || meet(&a.port, &b.dport)
}

fn flags_fit(a: &[Flags], b: &[Flags]) -> bool {
    let agree = |a: &Flags| b.iter().any(|b| (a.value ^ b.value) & a.mask & b.mask == 0);
    a.is_empty() || b.is_empty() || a.iter().any(agree)
}

fn fragments_fit(a: &[Fragment], b: &[Fragment]) -> bool {
    let possible = |kinds: &[Fragment], bits: u8| kinds.is_empty() || kinds.iter().any(|kind| kind.is(bits));
    (0..16).any(|bits| possible(a, bits) && possible(b, bits))
}

/// Returns what remains of a match without a flow, as matches that differ in one dimension.
fn without(matches: &FlowMatch, flow: &FlowMatch) -> Option<Vec<FlowMatch>> {
    macro_rules! by {
        ($($field:ident),*) => { $(
            if let Some(left) = minus(&matches.$field, &flow.$field) {
                return Some(vec![FlowMatch { $field: left, ..matches.clone() }]);
            }
        )* };
    }
    by!(icmp_code, icmp_type, dport, sport, len, dscp, ttl);
    if let (Some(of_rule), Some(of_flow)) = (matches.src, flow.src) {
        return halves(of_rule, of_flow)
            .map(|nets| nets.into_iter().map(|net| FlowMatch { src: Some(net), ..matches.clone() }).collect());
    }
    None
}

/// Returns the values of a set that are not in another; `None` where that says nothing, or leaves
/// nothing.
fn minus<T: Number + TryFrom<u32>>(set: &Ranges<T>, other: &Ranges<T>) -> Option<Ranges<T>> {
    if other.is_any() {
        return None;
    }
    let most = if size_of::<T>() == 1 { 255 } else { 65_535 };
    let mut left: Vec<(u32, u32)> = if set.is_any() {
        vec![(0, most)]
    } else {
        set.iter().map(|(first, last)| (first.into(), last.into())).collect()
    };
    for (first, last) in other.iter() {
        let (first, last): (u32, u32) = (first.into(), last.into());
        left = left
            .into_iter()
            .flat_map(|(low, high)| {
                let below = (low < first).then(|| (low, high.min(first.saturating_sub(1))));
                let above = (high > last).then(|| (low.max(last + 1), high));
                [below, above]
            })
            .flatten()
            .filter(|(low, high)| low <= high)
            .collect();
    }
    let number = |value: u32| T::try_from(value).ok();
    let ranges: Option<Vec<(T, T)>> =
        left.into_iter().map(|(first, last)| Some((number(first)?, number(last)?))).collect();
    Ranges::new(ranges?).ok().filter(|ranges| !ranges.is_any())
}

/// Returns the prefixes that make up `net` without `hole`, widest first.
pub fn halves(net: IpNet, hole: IpNet) -> Option<Vec<IpNet>> {
    if !net.contains(&hole) || net == hole {
        return None;
    }
    let mut left = Vec::new();
    let mut rest = net;
    while rest != hole {
        let mut both = rest.subnets(rest.prefix_len() + 1).ok()?;
        let (low, high) = (both.next()?, both.next()?);
        let (keep, go) = if high.contains(&hole) { (low, high) } else { (high, low) };
        left.push(keep);
        rest = go;
    }
    Some(left)
}
