//! What compilers have in common: matches of one family with everything implied written out, and alternatives.

use super::{
    super::{Family, FlowMatch, Fragment, Ranges, set::Number},
    CannotSay, Loss, Widening,
    routes::lose,
};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const AH: u8 = 51;
pub const ICMPV6: u8 = 58;
/// Rules that one match may become where a platform has no lists.
const RULES: usize = 128;

/// Splits a match by family, and says in each part what is implied: ports are those of TCP and UDP. A part that no
/// packet can satisfy is left out, and so are dimensions that every packet satisfies.
pub fn families(matches: &FlowMatch) -> Vec<FlowMatch> {
    let wanted = match matches.family() {
        Some(family) => vec![family],
        None => vec![Family::Ip4, Family::Ip6],
    };
    wanted.into_iter().filter_map(|family| of_family(matches, family)).collect()
}

fn of_family(matches: &FlowMatch, family: Family) -> Option<FlowMatch> {
    let mut own = FlowMatch { family: Some(family), ..matches.clone() };
    let icmp = !(own.icmp_type.is_any() && own.icmp_code.is_any());
    let ports = !(own.port.is_any() && own.sport.is_any() && own.dport.is_any());
    if icmp || ports || !own.flags.is_empty() {
        // ICMP is another protocol in each family.
        let other = if family == Family::Ip4 { ICMPV6 } else { ICMP };
        let allowed = (0..=255u8).filter(|proto| matches.allows(*proto) && !(icmp && *proto == other));
        let ranges: Vec<(u8, u8)> = allowed.map(|proto| (proto, proto)).collect();
        if ranges.is_empty() {
            return None;
        }
        own.proto = Ranges::new(ranges).ok()?;
    }
    if own.proto.is_all(255) {
        own.proto = Ranges::default();
    }
    if own.len.is_all(65_535) {
        own.len = Ranges::default();
    }
    if own.dscp.is_all(63) {
        own.dscp = Ranges::default();
    }
    if own.ttl.is_all(255) {
        own.ttl = Ranges::default();
    }
    if family == Family::Ip6 && !own.frag.is_empty() {
        // IPv6 has no don't-fragment.
        own.frag.retain(|kind| *kind != Fragment::Dont);
        if own.frag.is_empty() {
            return None;
        }
    }
    own.frag.sort_unstable();
    own.frag.dedup();
    if own.frag.contains(&Fragment::Not) && own.frag.contains(&Fragment::Is) && own.frag.contains(&Fragment::First) {
        own.frag.clear();
    }
    own.flags.sort_unstable();
    own.flags.dedup();
    Some(own)
}

/// Returns whether nothing is left of a match but to whom packets go: it would drop everything that they get.
pub fn only_destination(own: &FlowMatch) -> bool {
    let bare = FlowMatch { family: own.family, dst: own.dst, ..FlowMatch::default() };
    *own == bare
}

/// Returns what kernels and routers match beyond a match of one family; `past`: whether they walk past an authentication
/// header to what is behind it.
pub fn widened(own: &FlowMatch, past: bool) -> Vec<Widening> {
    let mut all = vec![Widening::Malformed];
    let any = |kinds: &[Fragment]| own.frag.iter().any(|kind| kinds.contains(kind));
    // Of the kinds that go with ports, these two may be first fragments.
    let first = own.frag.is_empty() || any(&[Fragment::Dont, Fragment::First]);
    let upper = !(own.proto.is_any() && own.payload.is_empty());
    all.extend((own.needs_header() && first).then_some(Widening::FirstFragments));
    // A fragment header is found behind it in any case.
    let behind = any(&[Fragment::Is, Fragment::First, Fragment::Last]) || past && upper;
    all.extend((is_six(own) && behind).then_some(Widening::Authentication));
    all.extend((is_six(own) && upper && first).then_some(Widening::Extensions));
    all
}

/// Adds what is widened, once though it is of both families.
pub fn widen(all: &mut Vec<Widening>, more: impl IntoIterator<Item = Widening>) {
    all.extend(more);
    all.sort_unstable();
    all.dedup();
}

/// Notes that who walks past IPv6's authentication header (RFC 8956, 3.3) finds none by its number.
pub fn lose_authentication(own: &FlowMatch, losses: &mut Vec<Loss>) {
    if is_six(own) && !own.proto.is_any() && own.proto.contains(AH) {
        let why = "routers, and ip6tables-legacy, walk past an authentication header of IPv6: packets with one are \
                   matched by what is behind it alone";
        lose(losses, Loss::narrower("proto", AH, why));
    }
}

/// Says that no packet satisfies any of it.
pub fn nothing() -> CannotSay {
    CannotSay::new("no packet of its family is of that kind", "match something else")
}

/// Returns whether a match of one family is IPv6.
pub fn is_six(own: &FlowMatch) -> bool {
    own.family == Some(Family::Ip6)
}

/// Writes ranges, each by `one` or `range`.
pub fn items<T: Number>(ranges: &Ranges<T>, one: impl Fn(T) -> String, range: impl Fn(T, T) -> String) -> Vec<String> {
    let item = |(first, last): (T, T)| if first == last { one(first) } else { range(first, last) };
    ranges.iter().map(item).collect()
}

/// Alternatives, of which a packet must satisfy one; each is a part of a line.
#[derive(Clone, Debug)]
pub struct Lines {
    lines: Vec<String>,
    between: &'static str,
}

impl Lines {
    /// One line, empty as yet; what is put between the parts of a line.
    pub fn new(between: &'static str) -> Self {
        Self { lines: vec![String::new()], between }
    }

    /// Demands one of several parts beside what is demanded already.
    ///
    /// # Errors
    /// Where it becomes too many lines.
    pub fn and(&mut self, any_of: &[String]) -> Result<(), CannotSay> {
        let count = self.lines.len().saturating_mul(any_of.len());
        if count > RULES {
            return Err(CannotSay::new(
                format!("it has no lists for some of this, and would need {count} rules or more"),
                "make the rule simpler, or use nftables, which has lists",
            ));
        }
        let join = |line: &String, part: &String| match (line.is_empty(), part.is_empty()) {
            (true, _) => part.clone(),
            (_, true) => line.clone(),
            _ => format!("{line}{}{part}", self.between),
        };
        let join = &join;
        self.lines = self.lines.iter().flat_map(|line| any_of.iter().map(move |part| join(line, part))).collect();
        Ok(())
    }

    /// Demands a part.
    pub fn part(&mut self, part: &str) {
        // One alternative is never too many.
        let _fits: Result<(), CannotSay> = self.and(&[part.to_owned()]);
    }

    /// Returns the lines.
    pub fn into_vec(self) -> Vec<String> {
        self.lines
    }
}

impl FlowMatch {
    /// Returns whether it looks behind the IP header.
    pub(super) fn needs_header(&self) -> bool {
        let FlowMatch { port, sport, dport, icmp_type, icmp_code, flags, payload, .. } = self;
        let icmp = icmp_type.is_any() && icmp_code.is_any();
        !(port.is_any() && sport.is_any() && dport.is_any() && icmp && flags.is_empty() && payload.is_empty())
    }
}
