//! Configuration: as written ([`raw`]), as checked (this module's types, valid by construction),
//! and as documented ([`mod@reference`]).
//!
//! Reading collects every problem instead of stopping at the first. Every key has a default, so
//! an empty file is valid; a key that is not known is a problem, never ignored.

pub mod alerts;
mod bgp;
mod check;
mod error;
mod ladder;
pub mod raw;
mod read;
pub mod reference;
mod remote;
mod scrub;
mod secret;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use alerts::Alerts;
pub use bgp::{Bgp, BgpDaemon, Community, LargeCommunity};
pub use check::size;
pub use error::{ConfigError, Problem};
pub use ladder::{LadderConfig, RungConfig, UplinkConfig, rate};
pub use remote::Remote;
pub use scrub::{Provider, Scrub, Take};
pub use secret::{Secret, SecretFile};

/// Where the configuration is looked for when no path is given.
pub const DEFAULT_PATH: &str = "/etc/ftagent/ftagent.toml";

/// A configuration that the agent can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where to attach.
    pub interfaces: Interfaces,
    /// Where things are kept.
    pub paths: Paths,
    /// The metrics listener.
    pub metrics: Metrics,
    /// How long blocks last.
    pub block: Block,
    /// How block-list files are treated.
    pub feed: FeedPolicy,
    /// The block-list files. Names are unique.
    pub feeds: Vec<FeedFile>,
    /// Static entries.
    pub lists: Lists,
    /// The UDP services of this host.
    pub services: Services,
    /// How much the kernel samples.
    pub sampling: Sampling,
    /// The probation after attaching.
    pub probation: Probation,
    /// How the agent learns what is normal.
    pub learning: Learning,
    /// What the agent may do.
    pub mitigation: Mitigation,
    /// The link towards the network.
    pub uplink: UplinkConfig,
    /// What is asked of the network upstream, and when.
    pub ladder: LadderConfig,
    /// Where a copy of what was recorded goes; absent: nowhere.
    pub remote: Option<Remote>,
    /// The BGP daemon; absent: none.
    pub bgp: Option<Bgp>,
    /// The providers that take traffic away before it reaches this node. Names are unique.
    pub scrub: Vec<Scrub>,
    /// The audit log.
    pub audit: Audit,
    /// What is kept of attacks.
    pub capture: Capture,
    /// The patterns that samples are compared with.
    pub indicators: Indicators,
    /// Who is told of what.
    pub alerts: Alerts,
    /// The agent's own log.
    pub log: Log,
    /// All of it as it was written, defaults included.
    pub written: raw::Raw,
}

/// Where to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// The interfaces, at least one and at most [`ftagent_common::abi::IFACE_SLOTS`], no doubles.
    pub names: Vec<InterfaceName>,
    /// How to attach.
    pub mode: AttachMode,
}

/// An interface as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterfaceName {
    /// The interface of the default route, resolved when the agent attaches.
    Auto,
    /// The interface of this name, at most 15 bytes (`IFNAMSIZ`, linux/if.h).
    Named(String),
}

/// How XDP attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachMode {
    /// In the driver. Where the driver cannot, attaching fails.
    #[default]
    Native,
    /// In the network stack, after the packet was copied into a socket buffer: for drivers
    /// without XDP, several times slower.
    Generic,
}

/// Where things are kept. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Directory for pinned maps and links, on a BPF file system.
    pub bpffs: PathBuf,
    /// Directory for what outlives a restart.
    pub state: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
}

/// The patterns that samples are compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indicators {
    /// Whether the indicators of incidents are collected.
    pub enabled: bool,
    /// Files of patterns, and directories of such files; absolute.
    pub paths: Vec<PathBuf>,
}

/// The metrics listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Whether it listens.
    pub enabled: bool,
    /// Where; always a loopback address. Port 0 takes a free one.
    pub listen: SocketAddr,
}

/// How long blocks last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// A block for which no duration is given.
    pub default_duration: Duration,
    /// The longest that may be asked for; at least `default_duration`.
    pub max_duration: Duration,
}

/// How block-list files are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedPolicy {
    /// How long feed entries count once the daemon no longer renews them; longer than
    /// `reload_interval`.
    pub ttl: Duration,
    /// How often the files are looked at.
    pub reload_interval: Duration,
}

/// A block-list file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedFile {
    /// Its name: `[a-z0-9_-]`, 1 to 64 of them.
    pub name: String,
    /// Its absolute path.
    pub path: PathBuf,
}

/// Static entries. Host bits are clear, no prefix is shorter than [`MIN_PREFIX4`] or
/// [`MIN_PREFIX6`], and no prefix is in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Never dropped.
    pub allow: Vec<IpNet>,
    /// Always dropped.
    pub block: Vec<IpNet>,
}

/// The shortest IPv4 prefix that is taken without force.
pub const MIN_PREFIX4: u8 = 8;
/// The shortest IPv6 prefix that is taken without force.
pub const MIN_PREFIX6: u8 = 16;

/// Returns whether a prefix is so short that it is taken only with force.
pub fn too_short(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < MIN_PREFIX4,
        IpNet::V6(net) => net.prefix_len() < MIN_PREFIX6,
    }
}

/// The UDP services of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Services {
    /// Ports that are services whether or not something listens now; sorted, no doubles.
    pub udp: Vec<u16>,
    /// Whether the ports on which this host listens count as well.
    pub detect: bool,
}

/// How much the kernel samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Samples per second to aim at, over all classes and CPUs.
    pub rate_pps: u32,
    /// Samples of one class in one jiffy on one CPU at most.
    pub burst: u32,
}

/// The probation after attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probation {
    /// Whether there is one.
    pub enabled: bool,
    /// How long silence, where there were packets before, is watched before detaching.
    pub window: Duration,
}

/// How the agent learns what is normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learning {
    /// How long traffic is watched before the baseline is trusted.
    pub trust_after: Duration,
}

/// What the agent may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mitigation {
    /// In which mode it is.
    pub mode: MitigationMode,
    /// What puts rules into force.
    pub plane: RulePlane,
}

/// What puts rules into force on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulePlane {
    /// The kernel program.
    #[default]
    Xdp,
    /// A table of nftables.
    Nftables,
}

impl RulePlane {
    /// Returns the name as the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Nftables => "nftables",
        }
    }
}

/// Whether the agent acts on what it decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MitigationMode {
    /// Observes while the node is unknown, enforces once the baseline is trusted.
    #[default]
    Auto,
    /// Decides everything and drops nothing by itself.
    Observe,
    /// Acts at once.
    Enforce,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Whether there is one.
    pub enabled: bool,
    /// Lines from one signature to the next at most; at least 1.
    pub checkpoint_lines: u64,
    /// Time from a line to the signature that covers it at most.
    pub checkpoint_interval: Duration,
    /// Bytes after which a file is ended and another begun.
    pub segment_bytes: u64,
    /// How long lines are kept; whole days.
    pub retention: Duration,
    /// What becomes of an operator's act that cannot be logged.
    pub on_failure: OnAuditFailure,
    /// Whether its files are made append-only, where the file system can.
    pub append_only: bool,
}

/// What becomes of an operator's act that cannot be logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAuditFailure {
    /// It is done, and the daemon warns.
    #[default]
    Act,
    /// It is refused.
    Refuse,
}

/// Bytes that the journal of one incident may have: what reads capsules takes no more.
pub const MOST_JOURNAL_BYTES: u64 = 4 << 30;

/// What is kept of attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Whether anything is.
    pub enabled: bool,
    /// Bytes of the last seconds in memory.
    pub memory: u64,
    /// How long before an incident opens its capture begins.
    pub pre_roll: Duration,
    /// Bytes of one capture on disk.
    pub incident_bytes: u64,
    /// Bytes of the journal that an incident is replayed from; 0: there is none.
    pub journal_bytes: u64,
    /// What of a packet is kept.
    pub payload: Payload,
    /// For how many days captures are kept.
    pub keep_days: u32,
    /// Bytes of all captures on disk.
    pub keep_bytes: u64,
    /// Bytes of the disk that stay free.
    pub min_free: u64,
}

/// What of a packet is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Headers, and as much behind them as decisions look at: 64 bytes.
    #[default]
    Classify,
    /// Headers alone.
    Headers,
    /// All that was taken of it: the sampler takes 128 bytes.
    Full,
}

impl Payload {
    /// Returns the name as the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Headers => "headers",
            Self::Full => "full",
        }
    }
}

/// The agent's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator wants to know.
    #[default]
    Info,
    /// And what explains it.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Returns the name as the configuration and `tracing` write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        check::checked(raw::Raw::default(), &mut Vec::new())
    }
}

impl Config {
    /// Reads the configuration from a file; without a path from [`DEFAULT_PATH`], which need not
    /// exist.
    ///
    /// # Errors
    /// Where the file cannot be read, and every problem in it.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, &file.display().to_string()),
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// Returns where a daemon with the configuration in this file listens. What is wrong with the
    /// rest of the file does not matter: the daemon keeps its old configuration then, and its
    /// operators must reach it all the same.
    ///
    /// # Errors
    /// Where the file was named and cannot be read.
    pub fn socket(path: Option<&Path>) -> Result<PathBuf, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(_) if path.is_none() => String::new(),
            Err(source) => return Err(ConfigError::Read { path: file.to_owned(), source }),
        };
        Ok(read::socket(&text).map_or_else(|| Self::default().paths.socket, PathBuf::from))
    }

    /// Reads the configuration from text; `origin` names the text in errors.
    ///
    /// # Errors
    /// Every problem in the text.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let config = read::raw(text, &mut problems).map(|raw| check::checked(raw, &mut problems));
        read::locate(text, &mut problems);
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Invalid { origin: origin.to_owned(), problems }),
        }
    }

    /// Reads the configuration from a table that is part of another file, as the `[config]` of a
    /// scenario. Problems have paths but no lines.
    ///
    /// # Errors
    /// Every problem in the table.
    pub fn from_table(table: toml::Table) -> Result<Self, ConfigError> {
        let origin = "[config]";
        Self::parse(&table.to_string(), origin).map_err(|mut error| {
            if let ConfigError::Invalid { problems, .. } = &mut error {
                problems.iter_mut().for_each(|problem| problem.line = None);
            }
            error
        })
    }
}
