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
use serde::{Serialize, Serializer, ser::SerializeMap as _};

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
    /// Dimensions of what was asked for that it leaves out, or says otherwise. None: it says all of it.
    pub losses: Vec<Loss>,
    /// Packets at the edges of the rule that it matches too, though it says all of it.
    pub widened: Vec<Widening>,
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

/// A kind of packets that a platform cannot tell from those of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Widening {
    /// Packets that contradict themselves: to the agent they are malformed, and no rule's.
    Malformed,
    /// First fragments: to the agent no fragment has a transport header.
    FirstFragments,
    /// A payload's bytes in what pads a frame behind its packet.
    Padding,
    /// IPv6 with an authentication header, at which the agent stops: to it, that is the protocol. Some walk on, to the
    /// protocol or to a fragment header behind it.
    Authentication,
    /// First fragments of IPv6 with further extension headers, at which the agent stops.
    Extensions,
}

impl Widening {
    /// Returns its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::FirstFragments => "first-fragments",
            Self::Padding => "padding",
            Self::Authentication => "authentication",
            Self::Extensions => "extensions",
        }
    }

    /// Says which packets these are.
    pub const fn also(self) -> &'static str {
        match self {
            Self::Malformed => {
                "packets whose headers contradict themselves (a source that cannot be one, a length beyond the packet)"
            }
            Self::FirstFragments => {
                "first fragments, by the ports, flags or types in them (`frag not` leaves them out); later ones pass"
            }
            Self::Padding => {
                "packets that end before the bytes, where these stand in what pads the frame: at the interface it is \
                 still there"
            }
            Self::Authentication => "IPv6 packets with an authentication header, by what is behind it",
            Self::Extensions => {
                "first fragments of IPv6 with extension headers behind the fragment header, by what is behind those"
            }
        }
    }
}

impl fmt::Display for Widening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WIDENING: it also matches {}", self.also())
    }
}

impl Serialize for Widening {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("kind", self.as_str())?;
        map.serialize_entry("also", self.also())?;
        map.end()
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
