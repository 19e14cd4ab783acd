//! From what is written to what is valid: every function reports what is wrong and goes on with
//! a stand-in, so that one reading finds every problem.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ftagent_common::abi::{ALLOW_ENTRIES, BLOCK_ENTRIES, IFACE_SLOTS};
use ipnet::IpNet;

use super::{
    Audit, Block, Capture, Config, FeedFile, FeedPolicy, Indicators, InterfaceName, Interfaces, Learning, Lists, Log,
    MIN_PREFIX4, MIN_PREFIX6, MOST_JOURNAL_BYTES, Metrics, Mitigation, Paths, Probation, Problem, Sampling, Services,
    raw::{
        Raw, RawAudit, RawBlock, RawCapture, RawFeed, RawFeedPolicy, RawIndicators, RawInterfaces, RawLearning,
        RawLists, RawMetrics, RawPaths, RawProbation, RawSampling, RawServices,
    },
    too_short,
};

type Problems = Vec<Problem>;

pub(super) const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Room for a path in `sockaddr_un`, without the final NUL (unix(7)).
const SOCKET_PATH: usize = 107;

pub(super) fn checked(raw: Raw, problems: &mut Problems) -> Config {
    Config {
        written: raw.clone(),
        interfaces: interfaces(raw.interfaces, problems),
        paths: paths(&raw.paths, problems),
        metrics: metrics(&raw.metrics, problems),
        block: block(&raw.block, problems),
        feed: feed_policy(&raw.feed, problems),
        feeds: feeds(&raw.feeds, problems),
        lists: lists(&raw.lists, problems),
        services: services(&raw.services, problems),
        sampling: sampling(&raw.sampling, problems),
        probation: probation(&raw.probation, problems),
        learning: learning(&raw.learning, problems),
        mitigation: Mitigation { mode: raw.mitigation.mode, plane: raw.mitigation.plane },
        uplink: super::ladder::uplink(&raw.uplink, problems),
        ladder: super::ladder::checked(&raw.ladder, problems),
        remote: super::remote::checked(raw.remote, problems),
        bgp: super::bgp::checked(&raw.bgp, problems),
        scrub: super::scrub::checked(&raw.scrub, problems),
        audit: audit(&raw.audit, problems),
        capture: capture(&raw.capture, problems),
        indicators: indicators(&raw.indicators, problems),
        alerts: super::alerts::checked(&raw.alerts, problems),
        log: Log { level: raw.log.level, format: raw.log.format },
    }
}

fn interfaces(raw: RawInterfaces, problems: &mut Problems) -> Interfaces {
    let path = "interfaces.names";
    if raw.names.is_empty() {
        problems.push(Problem::new(path, "is empty", "name an interface, or \"auto\" for that of the default route"));
    }
    if raw.names.len() > IFACE_SLOTS as usize {
        let what = format!("names {} interfaces", raw.names.len());
        problems.push(Problem::new(path, what, format!("name at most {IFACE_SLOTS}")));
    }
    let mut names: Vec<InterfaceName> = Vec::with_capacity(raw.names.len());
    for (i, name) in raw.names.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        // What the kernel takes as a name: net/core/dev.c, dev_valid_name.
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(odd) {
            let what = format!("\"{name}\" cannot be the name of an interface");
            problems.push(Problem::new(path, what, "`ip -brief link` lists the interfaces of this machine"));
            continue;
        }
        let name = if name == "auto" { InterfaceName::Auto } else { InterfaceName::Named(name) };
        if names.contains(&name) {
            problems.push(Problem::new(path, "names an interface twice", "remove one of them"));
        }
        names.push(name);
    }
    Interfaces { names, mode: raw.mode }
}

fn paths(raw: &RawPaths, problems: &mut Problems) -> Paths {
    if raw.socket.len() > SOCKET_PATH {
        let what = format!("is {} bytes long", raw.socket.len());
        problems.push(Problem::new(
            "paths.socket",
            what,
            format!("the path of a socket has at most {SOCKET_PATH} bytes"),
        ));
    }
    Paths {
        bpffs: absolute("paths.bpffs", &raw.bpffs, problems),
        state: absolute("paths.state", &raw.state, problems),
        socket: absolute("paths.socket", &raw.socket, problems),
    }
}

fn absolute(path: &str, text: &str, problems: &mut Problems) -> PathBuf {
    if !Path::new(text).is_absolute() {
        problems.push(Problem::new(path, format!("\"{text}\" is not an absolute path"), "start it with \"/\""));
    }
    text.into()
}

fn indicators(raw: &RawIndicators, problems: &mut Problems) -> Indicators {
    let path = |(i, text): (usize, &String)| absolute(&format!("indicators.paths[{i}]"), text, problems);
    let paths = raw.paths.iter().enumerate().map(path).collect();
    Indicators { enabled: raw.enabled, paths }
}

fn metrics(raw: &RawMetrics, problems: &mut Problems) -> Metrics {
    let path = "metrics.listen";
    let fallback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listen = raw.listen.parse().unwrap_or_else(|_| {
        let what = format!("\"{}\" is not an address and a port", raw.listen);
        problems.push(Problem::new(path, what, "write it as \"127.0.0.1:9464\" or \"[::1]:9464\""));
        fallback
    });
    if !listen.ip().is_loopback() {
        let what = format!("{} is not a loopback address, and metrics are served without authentication", listen.ip());
        let remedy = format!(
            "listen on 127.0.0.1:{} or [::1]:{0}, and let a scraper in through a proxy or tunnel",
            listen.port()
        );
        problems.push(Problem::new(path, what, remedy));
    }
    Metrics { enabled: raw.enabled, listen }
}

fn block(raw: &RawBlock, problems: &mut Problems) -> Block {
    let default_duration = duration("block.default_duration", &raw.default_duration, SECOND..=365 * DAY, problems);
    let max_duration = duration("block.max_duration", &raw.max_duration, SECOND..=365 * DAY, problems);
    if let (Some(default), Some(max)) = (default_duration, max_duration)
        && default > max
    {
        let what = format!("{} is longer than `block.max_duration` ({})", raw.default_duration, raw.max_duration);
        problems.push(Problem::new("block.default_duration", what, "shorten it, or raise `block.max_duration`"));
    }
    Block { default_duration: default_duration.unwrap_or_default(), max_duration: max_duration.unwrap_or_default() }
}

fn feed_policy(raw: &RawFeedPolicy, problems: &mut Problems) -> FeedPolicy {
    let ttl = duration("feed.ttl", &raw.ttl, 10 * SECOND..=30 * DAY, problems);
    let reload_interval =
        duration("feed.reload_interval", &raw.reload_interval, Duration::from_millis(100)..=DAY, problems);
    if let (Some(ttl), Some(interval)) = (ttl, reload_interval)
        && ttl <= interval
    {
        let what = format!("{} is not longer than `feed.reload_interval` ({})", raw.ttl, raw.reload_interval);
        problems.push(Problem::new("feed.ttl", what, "raise it: entries would lapse while the daemon lives"));
    }
    FeedPolicy { ttl: ttl.unwrap_or_default(), reload_interval: reload_interval.unwrap_or_default() }
}

/// Reads a duration, `None` (and a problem) where it is none or out of range.
pub(super) fn duration(
    path: &str,
    text: &str,
    range: std::ops::RangeInclusive<Duration>,
    problems: &mut Problems,
) -> Option<Duration> {
    let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    let Ok(value) = humantime::parse_duration(text) else {
        let what = format!("\"{text}\" is not a duration");
        problems.push(Problem::new(path, what, "write a number and a unit, as \"500ms\", \"10m\" or \"1h 30m\""));
        return None;
    };
    if !range.contains(&value) {
        let what = format!("{text} is out of range");
        problems.push(Problem::new(path, what, format!("write a duration from {least} to {most}")));
        return None;
    }
    Some(value)
}

fn feeds(raw: &[RawFeed], problems: &mut Problems) -> Vec<FeedFile> {
    for (i, feed) in raw.iter().enumerate() {
        let (name, path) = (format!("feeds[{i}].name"), format!("feeds[{i}].path"));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
        if feed.name.is_empty() {
            problems.push(Problem::new(name, "is missing", "give the feed a name of its own, as name = \"drop\""));
        } else if feed.name.len() > 64 || !feed.name.chars().all(plain) {
            let what = format!("\"{}\" is not a name", feed.name);
            problems.push(Problem::new(name, what, "use 1 to 64 of the characters a-z, 0-9, \"_\" and \"-\""));
        } else if raw[..i].iter().any(|other| other.name == feed.name) {
            let what = format!("\"{}\" is the name of another feed", feed.name);
            problems.push(Problem::new(name, what, "give every feed a name of its own"));
        }
        if feed.path.is_empty() {
            problems.push(Problem::new(path, "is missing", "name the file, as path = \"/etc/ftagent/drop.txt\""));
        } else {
            absolute(&path, &feed.path, problems);
        }
    }
    raw.iter().map(|feed| FeedFile { name: feed.name.clone(), path: (&feed.path).into() }).collect()
}

fn lists(raw: &RawLists, problems: &mut Problems) -> Lists {
    let allow = prefixes("lists.allow", &raw.allow, ALLOW_ENTRIES, problems);
    let block = prefixes("lists.block", &raw.block, BLOCK_ENTRIES, problems);
    for net in block.iter().filter(|net| allow.contains(net)) {
        let what = format!("{net} is in `lists.allow` too, which wins");
        problems.push(Problem::new("lists.block", what, "remove it from one of them"));
    }
    Lists { allow, block }
}

pub(super) fn prefixes(path: &str, raw: &[String], most: u32, problems: &mut Problems) -> Vec<IpNet> {
    if raw.len() > most as usize {
        let remedy = format!("write at most {most} here; `[[feeds]]` takes larger block lists");
        problems.push(Problem::new(path, format!("has {} entries", raw.len()), remedy));
    }
    let item = |(i, text): (usize, &String)| match prefix(text) {
        Ok(net) => Some(net),
        Err((what, remedy)) => {
            problems.push(Problem::new(format!("{path}[{i}]"), what, remedy));
            None
        }
    };
    raw.iter().enumerate().filter_map(item).collect()
}

/// Reads an address or prefix; what is wrong and the remedy where it is none to take.
pub(super) fn prefix(text: &str) -> Result<IpNet, (String, String)> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let net = text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
        let remedy = "write it as \"192.0.2.1\", \"192.0.2.0/24\" or \"2001:db8::/32\"";
        (format!("\"{text}\" is not an address or prefix"), remedy.to_owned())
    })?;
    if net != net.trunc() {
        return Err((format!("{net} has host bits set"), format!("write {} or {}", net.trunc(), net.addr())));
    }
    if too_short(&net) {
        let remedy = format!("write prefixes of at least /{MIN_PREFIX4} (IPv4) or /{MIN_PREFIX6} (IPv6)");
        return Err((format!("{net} covers too much of the Internet for a static entry"), remedy));
    }
    Ok(net)
}

fn services(raw: &RawServices, problems: &mut Problems) -> Services {
    let mut udp = Vec::with_capacity(raw.udp.len());
    for (i, &port) in raw.udp.iter().enumerate() {
        match u16::try_from(port) {
            Ok(port) if port > 0 => udp.push(port),
            _ => {
                let what = format!("{port} is not a port");
                problems.push(Problem::new(format!("services.udp[{i}]"), what, "write a number from 1 to 65535"));
            }
        }
    }
    udp.sort_unstable();
    udp.dedup();
    Services { udp, detect: raw.detect }
}

fn sampling(raw: &RawSampling, problems: &mut Problems) -> Sampling {
    Sampling {
        rate_pps: number("sampling.rate_pps", raw.rate_pps, 1, 1_000_000, problems),
        burst: number("sampling.burst", raw.burst, 1, 65_535, problems),
    }
}

pub(super) fn number(path: &str, value: i64, least: u32, most: u32, problems: &mut Problems) -> u32 {
    match u32::try_from(value) {
        Ok(number) if (least..=most).contains(&number) => number,
        _ => {
            let remedy = format!("write a number from {least} to {most}");
            problems.push(Problem::new(path, format!("{value} is out of range"), remedy));
            least
        }
    }
}

fn probation(raw: &RawProbation, problems: &mut Problems) -> Probation {
    let window = duration("probation.window", &raw.window, SECOND..=10 * MINUTE, problems);
    Probation { enabled: raw.enabled, window: window.unwrap_or_default() }
}

fn learning(raw: &RawLearning, problems: &mut Problems) -> Learning {
    let trust_after = duration("learning.trust_after", &raw.trust_after, SECOND..=30 * DAY, problems);
    Learning { trust_after: trust_after.unwrap_or(10 * MINUTE) }
}

fn audit(raw: &RawAudit, problems: &mut Problems) -> Audit {
    let lines = number("audit.checkpoint_lines", raw.checkpoint_lines, 1, 1_000_000, problems);
    let interval = duration("audit.checkpoint_interval", &raw.checkpoint_interval, SECOND..=DAY, problems);
    let mib = number("audit.segment_mib", raw.segment_mib, 1, 1024, problems);
    let days = number("audit.retention_days", raw.retention_days, 1, 36_500, problems);
    Audit {
        enabled: raw.enabled,
        checkpoint_lines: lines.into(),
        checkpoint_interval: interval.unwrap_or(MINUTE),
        segment_bytes: u64::from(mib) << 20,
        retention: days * DAY,
        on_failure: raw.on_failure,
        append_only: raw.append_only,
    }
}

fn capture(raw: &RawCapture, problems: &mut Problems) -> Capture {
    let pre_roll = duration("capture.pre_roll", &raw.pre_roll, Duration::ZERO..=MINUTE, problems);
    Capture {
        enabled: raw.enabled,
        memory: bytes("capture.memory", &raw.memory, MIB..=16 * GIB, problems),
        pre_roll: pre_roll.unwrap_or_default(),
        incident_bytes: bytes("capture.incident_bytes", &raw.incident_bytes, MIB..=1024 * GIB, problems),
        journal_bytes: journal_bytes(&raw.journal_bytes, problems),
        payload: raw.payload,
        keep_days: number("capture.keep_days", raw.keep_days, 1, 3650, problems),
        keep_bytes: bytes("capture.keep_bytes", &raw.keep_bytes, MIB..=1024 * 1024 * GIB, problems),
        min_free: bytes("capture.min_free", &raw.min_free, 0..=1024 * 1024 * GIB, problems),
    }
}

fn journal_bytes(text: &str, problems: &mut Problems) -> u64 {
    let path = "capture.journal_bytes";
    match size(text) {
        // Nothing is kept to replay from.
        Some(0) => 0,
        // What was asked for before that was known is no reason not to start.
        Some(value) if value > MOST_JOURNAL_BYTES => MOST_JOURNAL_BYTES,
        _ => bytes(path, text, MIB..=MOST_JOURNAL_BYTES, problems),
    }
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Units of sizes.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// Reads a size: a whole number and its unit.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit())?);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Reads a size; the least (and a problem) where it is none or out of range.
pub(super) fn bytes(path: &str, text: &str, range: std::ops::RangeInclusive<u64>, problems: &mut Problems) -> u64 {
    let written = |bytes: u64| {
        let (unit, scale) =
            UNITS.iter().find(|(_, scale)| bytes >= *scale && bytes.is_multiple_of(*scale)).unwrap_or(&("B", 1));
        format!("{} {unit}", bytes / scale)
    };
    match size(text) {
        Some(value) if range.contains(&value) => return value,
        Some(_) => {
            let remedy = format!("write a size from {} to {}", written(*range.start()), written(*range.end()));
            problems.push(Problem::new(path, format!("{text} is out of range"), remedy));
        }
        None => {
            let what = format!("\"{text}\" is not a size");
            problems.push(Problem::new(path, what, "write a whole number and a unit, as \"64 MiB\" or \"10 GiB\""));
        }
    }
    *range.start()
}
