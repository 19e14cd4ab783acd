//! What the command line and the daemon say to each other over the control socket: one JSON
//! object on a line each way, then the connection ends.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{act::store::Listed, feeds::FeedStatus};

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What the daemon does and sees: [`Status`].
    Status,
    /// Every entry that blocks or allows: [`Rules`].
    Rules,
    /// Drop everything from a prefix.
    Block(Entry),
    /// Let everything from a prefix pass, whatever else says drop.
    Allow(Entry),
    /// Remove a block entry.
    Unblock {
        /// Exactly the prefix that was blocked.
        prefix: IpNet,
    },
    /// Remove an allow entry.
    Unallow {
        /// Exactly the prefix that was allowed.
        prefix: IpNet,
    },
    /// Accept a feed that is held because it changed by more than half.
    ConfirmFeed {
        /// The feed's name.
        name: String,
    },
    /// Read the configuration again.
    Reload,
    /// Remove programs, attachments and maps, and exit.
    Detach,
}

/// An entry to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The prefix.
    pub prefix: IpNet,
    /// How long it lasts, seconds; absent: the configured default for blocks, for ever for allows.
    pub for_s: Option<u64>,
    /// Why; may be empty.
    pub reason: String,
    /// Do it although the checks on operator input object.
    pub force: bool,
    /// The peer of the caller's SSH session, if it has one.
    pub ssh_client: Option<IpAddr>,
}

/// An answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was done.
    Done {
        /// What the request asked for; `null` where it asks for nothing.
        data: Value,
    },
    /// It was not done, and nothing changed.
    Refused {
        /// Why, and what to do instead.
        error: String,
    },
}

/// What `ftagent status` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Whether it acts by itself, and why.
    pub mitigation: Mitigation,
    /// Every configured interface.
    pub interfaces: Vec<Interface>,
    /// Entries in the lists.
    pub lists: ListCounts,
    /// Every block-list file.
    pub feeds: Vec<FeedStatus>,
    /// The sampler.
    pub samples: Samples,
    /// What the operator should know, most important first.
    pub warnings: Vec<String>,
}

/// Whether the daemon acts by itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mitigation {
    /// `mitigation.mode` of the configuration.
    pub mode: String,
    /// What that means now, in words.
    pub state: String,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index; 0 while it is gone.
    pub ifindex: u32,
    /// Its slot in the counters.
    pub slot: u32,
    /// How the program runs there; absent while it does not.
    pub mode: Option<String>,
    /// `protected`, `probation`, `absent` or `detached`, with the reason where there is one.
    pub state: String,
    /// Packets seen, dropped ones included, since the counters were first pinned.
    pub packets: u64,
    /// Bytes of those, without FCS.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Drop decisions that the allow list overruled.
    pub overruled: u64,
    /// Packets a second, dropped ones included.
    pub pps: f64,
    /// Bits a second, dropped ones included.
    pub bps: f64,
    /// Packets dropped a second.
    pub dropped_pps: f64,
    /// Classes that were seen, busiest first.
    pub classes: Vec<Class>,
    /// Packets dropped by reason.
    pub reasons: Vec<Reason>,
}

/// One traffic class on one interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Class {
    /// Its name.
    pub class: String,
    /// Packets seen, dropped ones included.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped_packets: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Packets a second.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
    /// Packets dropped a second.
    pub dropped_pps: f64,
}

/// Drops for one reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reason {
    /// Its name.
    pub reason: String,
    /// Packets dropped for it.
    pub packets: u64,
}

/// Entries in the lists.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct ListCounts {
    /// Entries that operators blocked.
    pub block: usize,
    /// Entries that operators allowed.
    pub allow: usize,
    /// Entries of feeds and of `lists.block` in force.
    pub feeds: usize,
}

/// The sampler.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    /// Samples written by the kernel program.
    pub written: u64,
    /// Samples lost because the ring was full.
    pub lost: u64,
    /// Samples skipped by the cap per class and jiffy.
    pub capped: u64,
    /// Samples that this daemon has read.
    pub read: u64,
}

/// What `ftagent rules` shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Blocked prefixes.
    pub block: Vec<Listed>,
    /// Allowed prefixes.
    pub allow: Vec<Listed>,
    /// Feeds.
    pub feeds: Vec<FeedStatus>,
}
