//! Rules as text for firewalls, BGP daemons and routers, with what each of them makes of it.
//!
//! A platform is one file with one [`Platform`]: pure functions from a match to a [`Text`]. What it cannot
//! express is never left out silently: either the text says so in [`Text::losses`], or there is none and
//! [`CannotSay`] tells why. Facts about platforms that have no parser here are from their makers' references.

mod arista;
mod bird;
mod community;
mod exabgp;
mod frr;
mod gobgp;
mod hole;
mod iosxr;
mod iptables;
mod junos;
mod nftables;
mod nokia;
mod routes;
mod terms;
mod u32;

use std::fmt;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::{Action, Family, FlowMatch, Rate, check};

pub use community::{AnyCommunity, Community, LargeCommunity};
pub use exabgp::terms as exabgp_terms;
pub use hole::{BlackHole, End, nobodys};

/// Every platform, in the order in which they are printed.
pub const PLATFORMS: [&Platform; 11] = [
    &nftables::PLATFORM,
    &iptables::PLATFORM,
    &iptables::PLATFORM_6,
    &exabgp::PLATFORM,
    &gobgp::PLATFORM,
    &bird::PLATFORM,
    &frr::PLATFORM,
    &junos::PLATFORM,
    &iosxr::PLATFORM,
    &nokia::PLATFORM,
    &arista::PLATFORM,
];

/// What is known of a platform.
#[derive(Debug)]
pub struct Platform {
    /// The word for it on the command line.
    pub name: &'static str,
    /// Its name, and the version that the text is for.
    pub title: &'static str,
    /// What begins a comment in its language.
    pub comment: &'static str,
    /// Where it stands.
    pub place: Place,
    /// The family that it is limited to.
    pub family: Option<Family>,
    /// Writes a rule.
    pub rule: fn(&FlowMatch, Action, &Options) -> Written,
    /// Writes a black hole; absent where there is none to write.
    pub black_hole: Option<fn(&BlackHole, &Options) -> Written>,
}

/// A text, or why there is none.
pub type Written = Result<Text, CannotSay>;

/// Where a platform stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the host itself: its firewall.
    Host,
    /// In the network: it announces rules by BGP, or is a router that holds them.
    Network,
    /// In the network, and it only takes rules that others announce.
    Receiver,
}

/// What the text depends on beyond the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Names tables, chains, routes and policies: a letter, then letters, digits and `-`.
    pub name: String,
    /// The interface that packets arrive at; absent: any.
    pub interface: Option<String>,
}

/// The longest [`Options::name`]: chains of iptables have 28 characters, and some are added.
pub const NAME: usize = 16;

impl Options {
    /// Checks a name and an interface: they are copied into configurations.
    ///
    /// # Errors
    /// What is wrong with them, and what to write.
    pub fn new(name: &str, interface: Option<&str>) -> Result<Self, String> {
        let letters = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !letters(name) || name.len() > NAME {
            return Err(format!(
                "`{name}` is no name for all platforms: a letter, then letters, digits and `-`, at most {NAME} in all"
            ));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        if let Some(interface) = interface
            && (interface.is_empty() || interface.len() > 15 || !interface.bytes().all(plain))
        {
            return Err(format!("`{interface}` is no name of an interface such as eth0"));
        }
        Ok(Self { name: name.to_owned(), interface: interface.map(str::to_owned) })
    }

    /// The name where `-` is not taken.
    fn snake(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// A rule or a black hole in the language of a platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Text {
    /// What to give to the platform.
    pub text: String,
    /// What takes it back, as commands or configuration of the platform.
    pub undo: String,
    /// How it differs from what was asked for. None: it does exactly that.
    pub losses: Vec<Loss>,
    /// What to know before it is used.
    pub traps: Vec<String>,
}

/// A difference between a rule and its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The dimension, by its word in the text form; `action` where it is that.
    pub dimension: &'static str,
    /// Whether more or less matches than was asked for.
    pub direction: Direction,
    /// What was asked for.
    pub wanted: String,
    /// What comes of it, and why.
    pub why: String,
}

/// Which way a text differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// It matches more: others are hit.
    Wider,
    /// It matches less: some of what was meant passes.
    Narrower,
}

impl Loss {
    fn wider(dimension: &'static str, wanted: impl fmt::Display, why: impl Into<String>) -> Self {
        Self { dimension, direction: Direction::Wider, wanted: wanted.to_string(), why: why.into() }
    }

    fn narrower(dimension: &'static str, wanted: impl fmt::Display, why: impl Into<String>) -> Self {
        Self { direction: Direction::Narrower, ..Self::wider(dimension, wanted, why) }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dimension, direction, wanted, why } = self;
        match direction {
            Direction::Wider => write!(f, "MATCHES MORE than asked for: `{dimension} {wanted}` is left out: {why}"),
            Direction::Narrower => write!(f, "MATCHES LESS than asked for: of `{dimension} {wanted}`: {why}"),
        }
    }
}

/// Why there is no text for a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CannotSay {
    /// Why, as a sentence about the platform: `counts no packets a second`.
    pub what: String,
    /// What to do instead.
    pub instead: String,
    /// What there is to configure on it all the same, in its language.
    pub setup: String,
}

impl CannotSay {
    fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { what: what.into(), instead: instead.into(), setup: String::new() }
    }
}

impl fmt::Display for CannotSay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.instead)
    }
}

impl std::error::Error for CannotSay {}

/// Why a rule is not written for any platform. Displays the reason and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Serialize for Refused {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Refuses what nobody should be handed as text: a rule that matches everything or nothing, one with host bits,
/// and upstream one without a destination. Returns what else is to be said of it.
///
/// # Errors
/// Why, and what to write instead.
pub fn admit(matches: &FlowMatch, action: Action, place: Place, anywhere: bool) -> Result<Vec<String>, Refused> {
    let refuse = |why: String| Err(Refused(why));
    if let Err(error) = matches.clone().checked() {
        return refuse(error.to_string());
    }
    if let Some(why) = matches.impossible() {
        return refuse(format!("this rule matches no packet: {why}; leave one of them out"));
    }
    if let Action::Challenge | Action::Capture = action {
        return refuse(format!("`{action}` is something that only the agent itself can do: write drop or rate-limit"));
    }
    if let Action::RateLimit(Rate::Pps(0) | Rate::Bps(0)) = action {
        return refuse("a rate of 0 lets nothing pass: write `drop`".to_owned());
    }
    if action != Action::Count
        && let Some(what) = check::matches_in_effect(matches)
    {
        let remedy = "say which traffic is meant, by a port, a prefix of /8 or longer (IPv6 /16), or bytes of payload";
        return refuse(format!("this rule would match {what}: {remedy}"));
    }
    if place != Place::Host {
        match matches.dst {
            None if !anywhere => {
                return refuse(
                    "this rule names no destination, and would act on everybody's traffic upstream, not on that to \
                     your own addresses: add `dst ADDRESS`, or --anywhere if that is meant"
                        .to_owned(),
                );
            }
            Some(dst) if let Some(what) = nobodys(&dst) => {
                return refuse(format!(
                    "{dst} is {what}, which no router upstream leads to you: name your own address"
                ));
            }
            _ => {}
        }
        if action == Action::Count {
            return refuse(
                "a rule that only counts is nothing upstream: FlowSpec has no such action, and one without any stops \
                 at the first match; write drop or rate-limit"
                    .to_owned(),
            );
        }
    }
    let warning = check::check(matches, action, &check::Guarded::default()).err();
    Ok(warning.map(|objection| format!("it {}", objection.reason)).into_iter().collect())
}

impl Platform {
    /// Returns whether it has to do with a family; a match of both concerns every platform.
    pub fn concerns(&self, family: Option<Family>) -> bool {
        self.family.is_none() || family.is_none() || self.family == family
    }

    /// Writes lines as comments.
    pub fn commented(&self, text: &str) -> String {
        text.lines().map(|line| format!("{} {line}", self.comment).trim_end().to_owned() + "\n").collect()
    }
}

/// Writes an IPv4 or IPv6 word.
fn by_family(net: &IpNet, four: &'static str, six: &'static str) -> &'static str {
    if net.addr().is_ipv4() { four } else { six }
}

#[cfg(test)]
mod tests;
