//! What all who announce BGP FlowSpec (RFC 8955, RFC 8956) have in common: routes, and their traps.

use super::{
    super::{
        Action, Family, FlowMatch,
        flowspec::{self, Bitmask, Compiled, FlowSpec, Limit, Numeric},
    },
    CannotSay, Loss, Text, terms,
};

/// The routes of a match, one for each family.
#[derive(Debug)]
pub struct Routes {
    /// The routes.
    pub all: Vec<Compiled>,
    /// What they do.
    pub limit: Limit,
}

impl Routes {
    /// Compiles a match; what is lost stands in `text`.
    ///
    /// # Errors
    /// Where too little of it can be said, and where the action cannot.
    pub fn of(matches: &FlowMatch, action: Action, text: &mut Text) -> Result<Self, CannotSay> {
        let limit = Limit::of(action).map_err(|error| CannotSay::new(error.to_string(), "take another action"))?;
        let mut all = Vec::new();
        let mut why = String::new();
        for family in flowspec::families(matches) {
            match FlowSpec::compile(matches, family) {
                Ok(compiled) => all.push(compiled),
                // Of the other family there may be packets.
                Err(error @ flowspec::CannotSay::Nothing(_)) => why = error.to_string(),
                Err(error) => return Err(CannotSay::new(error.to_string(), "match something else as well")),
            }
        }
        if all.is_empty() {
            return Err(CannotSay::new(why, "leave one of them out"));
        }
        for compiled in &all {
            for widened in &compiled.widened {
                let why = "FlowSpec knows no such thing, and packets with any are hit";
                lose(&mut text.losses, Loss::wider(widened.dimension, &widened.asked, why));
            }
            if !compiled.widened.is_empty() && terms::only_destination(&compiled.says) {
                return Err(CannotSay::new(
                    "it cannot see what tells this traffic apart, and all that its destination gets would be hit",
                    "match something more, or say that a black hole is meant: `ftagent tools rtbh`",
                ));
            }
        }
        for own in all.iter().flat_map(|compiled| terms::families(&compiled.says)) {
            terms::lose_authentication(&own, &mut text.losses);
            terms::widen(&mut text.widened, terms::widened(&own, true));
        }
        let this = Self { all, limit };
        this.traps(text);
        Ok(this)
    }

    fn traps(&self, text: &mut Text) {
        let mut trap = |what: &str| text.traps.push(what.to_owned());
        trap(
            "A peer takes it over eBGP only if its best unicast route for the destination comes from this session as \
             well (RFC 8955, 6), or its validation is switched off for this session.",
        );
        if self.all.iter().any(|route| terms::only_destination(&route.says)) && self.limit == Limit::Bytes(0) {
            trap("It drops everything for the destination: that is a black hole. Is that meant?");
        }
        match self.limit {
            Limit::Bytes(0) => {}
            Limit::Bytes(_) => trap(
                "The rate of a route is in BYTES a second. It is policed, never shaped; each router, often each line \
                 card of it, lets the whole rate pass.",
            ),
            Limit::Packets(_) => trap(
                "Packets a second (0x800c) are new in RFC 8955: a router that does not know them lets EVERYTHING pass \
                 that matches. Try it before it is needed.",
            ),
        }
        if self.all.len() > 1 {
            trap("These are two routes, one of each family: take both back.");
        }
        if self.all.iter().any(|route| route.spec.destination().is_none()) {
            trap(
                "It has no destination: peers refuse it unless told otherwise (RFC 8955, 6), and where one takes it, \
                 everybody's traffic is hit.",
            );
        }
    }

    /// Returns the extended community as two words.
    pub fn community(&self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = self.limit.community(0);
        (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
    }
}

/// Notes a loss once, though it is of both families.
pub fn lose(losses: &mut Vec<Loss>, loss: Loss) {
    if !losses.contains(&loss) {
        losses.push(loss);
    }
}

/// Returns whether a route is IPv6.
pub fn is_six(route: &Compiled) -> bool {
    route.spec.family() == Family::Ip6
}

/// Writes comparisons: `and` before one that holds together with the one before, `or` before another choice.
pub fn numbers(tests: &[Numeric], write: impl Fn(&Numeric) -> String, and: &str, or: &str) -> String {
    joined(tests.iter().map(|test| (test.and, write(test))), and, or)
}

/// As [`numbers`].
pub fn bits(tests: &[Bitmask], write: impl Fn(&Bitmask) -> String, and: &str, or: &str) -> String {
    joined(tests.iter().map(|test| (test.and, write(test))), and, or)
}

fn joined(tests: impl Iterator<Item = (bool, String)>, and: &str, or: &str) -> String {
    let mut text = String::new();
    for (with_before, test) in tests {
        if !text.is_empty() {
            text.push_str(if with_before { and } else { or });
        }
        text.push_str(&test);
    }
    text
}

/// Writes bits by their names, lowest first.
pub fn names(bits: u16, names: &[&str], between: &str) -> String {
    let set = names.iter().enumerate().filter(|(bit, _)| bits & (1 << bit) != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join(between)
}

/// Names of FlowSpec's fragment bits, as ExaBGP and GoBGP write them.
pub const FRAGMENTS: [&str; 4] = ["dont-fragment", "is-fragment", "first-fragment", "last-fragment"];
