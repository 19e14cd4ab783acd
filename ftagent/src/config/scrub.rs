//! `[[scrub]]`: providers that take traffic away before it reaches this node, and what they may be asked for.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Problem, SecretFile,
    check::{duration, prefix},
    raw::RawScrub,
};

/// A provider, and what it may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrub {
    /// The name of its plane: `[a-z0-9_-]`, 1 to 64 of them, unique.
    pub name: String,
    /// Who it is.
    pub provider: Provider,
    /// Where its credentials are; absent where it is asked for nothing.
    pub credentials: Option<SecretFile>,
    /// The account (Cloudflare) or the server's number (Hetzner Robot); empty for the others.
    pub account: String,
    /// What it may be asked about; never empty but for a provider that is asked for nothing.
    pub prefixes: Vec<IpNet>,
    /// Where its interface is, without a slash at the end.
    pub endpoint: String,
    /// Certificates that the endpoint's is signed by; absent: those of public authorities.
    pub ca_file: Option<PathBuf>,
    /// What it may be asked for.
    pub takes: Vec<Take>,
    /// How long traffic stays diverted at least; absent: as long as suits the provider.
    pub min_hold: Option<Duration>,
    /// Time between the end of one diversion of a prefix and the next at least; absent: as above.
    pub min_gap: Option<Duration>,
}

/// Whose interface it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Cloudflare Magic Transit, and its Network Firewall.
    Cloudflare,
    /// OVHcloud: mitigation and the Edge Network Firewall.
    Ovh,
    /// The firewall in front of a dedicated server at Hetzner.
    HetznerRobot,
    /// Hetzner Cloud, whose firewall cannot drop anything.
    HetznerCloud,
    /// Whoever answers a signed webhook.
    Webhook,
}

/// A kind of thing that a provider is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Take {
    /// To lead traffic through its scrubbing centres.
    Divert,
    /// To drop what matches a rule.
    Filter,
    /// To drop everything towards an address.
    BlackHole,
    /// To drop everything from an address.
    SourceBlackHole,
}

impl Provider {
    const ALL: [(&str, Self); 5] = [
        ("cloudflare", Self::Cloudflare),
        ("ovh", Self::Ovh),
        ("hetzner-robot", Self::HetznerRobot),
        ("hetzner-cloud", Self::HetznerCloud),
        ("webhook", Self::Webhook),
    ];

    /// Returns the name as the configuration writes it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, provider)| *provider == self).map_or("", |(name, _)| name)
    }

    /// Returns where its interface is; empty where the operator has to say it.
    pub const fn endpoint(self) -> &'static str {
        match self {
            Self::Cloudflare => "https://api.cloudflare.com/client/v4",
            Self::Ovh => "https://eu.api.ovh.com/1.0",
            Self::HetznerRobot => "https://robot-ws.your-server.de",
            Self::HetznerCloud => "https://api.hetzner.cloud/v1",
            Self::Webhook => "",
        }
    }

    /// Returns what can be asked of it; what it is asked for unless `takes` says otherwise comes first.
    const fn takes(self) -> &'static [Take] {
        match self {
            Self::Cloudflare | Self::Ovh => &[Take::Divert, Take::Filter],
            Self::HetznerRobot => &[Take::Filter],
            Self::HetznerCloud => &[],
            Self::Webhook => &[Take::Divert, Take::Filter, Take::BlackHole, Take::SourceBlackHole],
        }
    }
}

impl Take {
    const ALL: [(&str, Self); 4] = [
        ("divert", Self::Divert),
        ("filter", Self::Filter),
        ("black-hole", Self::BlackHole),
        ("source-black-hole", Self::SourceBlackHole),
    ];

    /// Returns the name as the configuration writes it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, take)| *take == self).map_or("", |(name, _)| name)
    }
}

/// Names of planes that are not providers.
const TAKEN_NAMES: [&str; 4] = ["flowspec", "rtbh", "nft", "xdp"];
const MINUTE: Duration = Duration::from_secs(60);

/// Where problems of one element go.
struct Place<'a> {
    path: String,
    problems: &'a mut Vec<Problem>,
}

impl Place<'_> {
    fn wrong(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::new(format!("{}.{key}", self.path), what, remedy));
    }
}

pub(super) fn checked(raw: &[RawScrub], problems: &mut Vec<Problem>) -> Vec<Scrub> {
    let mut checked = Vec::with_capacity(raw.len());
    for (i, scrub) in raw.iter().enumerate() {
        let mut place = Place { path: format!("scrub[{i}]"), problems };
        name(scrub, raw.iter().take(i), &mut place);
        let Some(provider) = provider(&scrub.provider, &mut place) else { continue };
        checked.push(Scrub {
            name: scrub.name.clone(),
            provider,
            credentials: credentials(scrub, provider, &mut place),
            account: account(scrub, provider, &mut place),
            prefixes: prefixes(scrub, provider, &mut place),
            endpoint: endpoint(scrub, provider, &mut place),
            ca_file: ca_file(scrub, &mut place),
            takes: takes(scrub, provider, &mut place),
            min_hold: interval("min_hold", &scrub.min_hold, &mut place),
            min_gap: interval("min_gap", &scrub.min_gap, &mut place),
        });
    }
    checked
}

fn name<'a>(scrub: &RawScrub, mut before: impl Iterator<Item = &'a RawScrub>, place: &mut Place<'_>) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let shown = format!("\"{}\"", scrub.name);
    if scrub.name.is_empty() {
        place.wrong("name", "is missing", "give the plane a name of its own, as name = \"magic\"");
    } else if scrub.name.len() > 64 || !scrub.name.chars().all(plain) {
        place.wrong(
            "name",
            format!("{shown} is not a name"),
            "use 1 to 64 of the characters a-z, 0-9, \"_\" and \"-\"",
        );
    } else if TAKEN_NAMES.contains(&scrub.name.as_str()) {
        place.wrong("name", format!("{shown} is the name of a plane of another kind"), "give it another");
    } else if before.any(|other| other.name == scrub.name) {
        place.wrong("name", format!("{shown} is the name of another provider"), "give each a name of its own");
    }
}

fn provider(text: &str, place: &mut Place<'_>) -> Option<Provider> {
    let found = Provider::ALL.iter().find(|(name, _)| *name == text).map(|(_, provider)| *provider);
    if found.is_none() {
        let names = Provider::ALL.map(|(name, _)| format!("\"{name}\"")).join(", ");
        let what = if text.is_empty() { "is missing".to_owned() } else { format!("\"{text}\" is not known") };
        place.wrong("provider", what, format!("write one of {names}"));
    }
    found
}

fn credentials(scrub: &RawScrub, provider: Provider, place: &mut Place<'_>) -> Option<SecretFile> {
    if scrub.credentials.is_empty() && provider == Provider::HetznerCloud {
        return None;
    }
    let remedy = "write the path of a file that only its owner may read, or \"credential:NAME\" (LoadCredential=)";
    match SecretFile::parse(&scrub.credentials) {
        Ok(file) => Some(file),
        Err(_) if scrub.credentials.is_empty() => {
            place.wrong("credentials", "is missing", remedy);
            None
        }
        // What stands there may be the secret itself: it is not repeated.
        Err(_) => {
            place.wrong("credentials", "is neither an absolute path nor `credential:NAME`", remedy);
            None
        }
    }
}

fn account(scrub: &RawScrub, provider: Provider, place: &mut Place<'_>) -> String {
    let account = scrub.account.as_str();
    match provider {
        Provider::Cloudflare if account.len() != 32 || !account.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            let what = format!("\"{account}\" is not an account of Cloudflare");
            place.wrong("account", what, "write its 32 hexadecimal digits: they are in the address of the dashboard");
        }
        Provider::HetznerRobot if account.parse::<u64>().is_err() => {
            let what = format!("\"{account}\" is not the number of a server");
            place.wrong("account", what, "write the number that Robot shows behind the server's name, as \"321\"");
        }
        Provider::Ovh | Provider::HetznerCloud | Provider::Webhook if !account.is_empty() => {
            let what = format!("means nothing to the provider \"{}\"", provider.as_str());
            place.wrong("account", what, "leave it out");
        }
        _ => {}
    }
    account.to_owned()
}

fn prefixes(scrub: &RawScrub, provider: Provider, place: &mut Place<'_>) -> Vec<IpNet> {
    if scrub.prefixes.is_empty() && provider != Provider::HetznerCloud {
        let remedy = "name your own prefixes that the provider may be asked about, as [\"203.0.113.0/24\"]";
        place.wrong("prefixes", "is missing", remedy);
    }
    let mut prefixes = Vec::with_capacity(scrub.prefixes.len());
    for (i, text) in scrub.prefixes.iter().enumerate() {
        match prefix(text) {
            Ok(net) => prefixes.push(net),
            Err((what, remedy)) => place.wrong(&format!("prefixes[{i}]"), what, remedy),
        }
    }
    prefixes
}

/// Checks that nobody on the way can read or change what is said there.
fn endpoint(scrub: &RawScrub, provider: Provider, place: &mut Place<'_>) -> String {
    if scrub.endpoint.is_empty() {
        if provider == Provider::Webhook {
            place.wrong(
                "endpoint",
                "is missing",
                "write where the receiver listens, as \"https://noc.example.net/ddos\"",
            );
        }
        return provider.endpoint().to_owned();
    }
    let text = scrub.endpoint.trim_end_matches('/');
    let secure = text.strip_prefix("https://");
    let rest = secure.or_else(|| text.strip_prefix("http://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | '@');
    if authority.is_empty() || text.contains(odd) {
        // A password may stand in it: it is not repeated.
        let remedy = format!("write it as \"{}\", without credentials and query", example(provider));
        place.wrong("endpoint", "is not the address of an interface", remedy);
    } else if secure.is_none() && !is_loopback(authority) {
        let what = "has no TLS, and credentials would be seen on the way";
        place.wrong("endpoint", what, "write \"https://…\"; http is for loopback addresses alone");
    }
    text.to_owned()
}

const fn example(provider: Provider) -> &'static str {
    match provider {
        Provider::Webhook => "https://noc.example.net/ddos",
        other => other.endpoint(),
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn ca_file(scrub: &RawScrub, place: &mut Place<'_>) -> Option<PathBuf> {
    if !scrub.ca_file.is_empty() && !scrub.ca_file.starts_with('/') {
        place.wrong("ca_file", format!("\"{}\" is not an absolute path", scrub.ca_file), "start it with \"/\"");
    }
    (!scrub.ca_file.is_empty()).then(|| scrub.ca_file.clone().into())
}

fn takes(scrub: &RawScrub, provider: Provider, place: &mut Place<'_>) -> Vec<Take> {
    let can = provider.takes();
    if scrub.takes.is_empty() {
        return can.iter().take(1).copied().collect();
    }
    let mut takes = Vec::with_capacity(scrub.takes.len());
    for (i, text) in scrub.takes.iter().enumerate() {
        let known = Take::ALL.iter().find(|(name, _)| *name == text).map(|(_, take)| *take);
        match known.filter(|take| can.contains(take)) {
            Some(take) => takes.push(take),
            None => {
                let names: Vec<String> = can.iter().map(|take| format!("\"{}\"", take.as_str())).collect();
                let what = format!("\"{text}\" cannot be asked of the provider \"{}\"", provider.as_str());
                let remedy = match names.as_slice() {
                    [] => format!("nothing can: see docs/planes/hetzner.md; remove this [[scrub]] \"{}\"", scrub.name),
                    names => format!("it takes {}", names.join(", ")),
                };
                place.wrong(&format!("takes[{i}]"), what, remedy);
            }
        }
    }
    takes
}

fn interval(key: &str, text: &str, place: &mut Place<'_>) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    duration(&format!("{}.{key}", place.path), text, Duration::ZERO..=24 * 60 * MINUTE, place.problems)
}
