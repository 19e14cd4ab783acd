//! What is asked of the daemon over the control socket.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::protocol::*;
use crate::rule::{Action, FlowMatch};

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
    /// Make a rule.
    RuleAdd(Box<NewRule>),
    /// Remove an operator's rule.
    RuleRemove {
        /// Its number.
        id: u32,
    },
    /// Take back a rule of an open incident, or a signature that is armed.
    RuleWithdraw {
        /// Its number.
        id: u32,
    },
    /// Say what would happen to packets, and why: [`Explained`].
    Explain(Explain),
    /// Accept a feed that is held because it changed by more than half.
    ConfirmFeed {
        /// The feed's name.
        name: String,
    },
    /// Incidents and notices: [`Incidents`].
    Incidents {
        /// One incident alone: its id, a part of it that no other id begins or ends with, or
        /// `last`. Absent: all that are kept.
        id: Option<String>,
    },
    /// What is known to be normal: [`Baseline`].
    Baseline {
        /// One class alone.
        class: Option<String>,
    },
    /// Take the operator's word that the present load is normal: [`Accepted`].
    BaselineAccept,
    /// Forget what was learned: [`Learning`](crate::decide::baseline::Learning).
    BaselineReset {
        /// Of one class alone.
        class: Option<String>,
    },
    /// What was learned, to be kept or carried elsewhere: the text of a JSON object, a
    /// [`Checkpoint`](crate::decide::baseline::Checkpoint). It is a text, because taken apart into
    /// [`Value`](serde_json::Value)s it would take twenty times its size.
    BaselineExport,
    /// Go on from what was exported: [`Learning`](crate::decide::baseline::Learning).
    BaselineImport {
        /// The text of the export.
        checkpoint: String,
    },
    /// Capture the samples that match something: an object with the capture's `name`.
    CaptureStart(Box<CaptureStart>),
    /// End such a capture.
    CaptureStop {
        /// Its name; absent: the only one that runs.
        name: Option<String>,
    },
    /// How the ladder is: [`LadderStatus`].
    Ladder,
    /// What would happen at so many times the present load: [`LadderPlan`].
    LadderPlan {
        /// How many times.
        factors: Vec<u32>,
    },
    /// Approve, deny or take back: [`LadderSaid`].
    LadderSay {
        /// What is said.
        word: Word,
        /// Only say what it would do.
        dry_run: bool,
    },
    /// Put into the audit log that the caller reads or keeps something of what was recorded, which commands do
    /// without the daemon.
    Accessed(Accessed),
    /// How alerts are doing, and what became of the last ones: [`Alerts`].
    Alerts,
    /// Send a test message through a sink: an object with the number of the `test`.
    AlertTest {
        /// The sink.
        sink: String,
    },
    /// What came of a test: [`Answers`](crate::alert::Answers), `null` while nothing did.
    AlertTested {
        /// The sink.
        sink: String,
        /// The test's number.
        test: u64,
    },
    /// Tell nobody for a while.
    AlertSilence(AlertSilence),
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

/// A rule to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// What it matches.
    #[serde(rename = "match")]
    pub matches: FlowMatch,
    /// What it does.
    pub action: Action,
    /// How long it lasts, seconds; absent: as blocks do.
    pub for_s: Option<u64>,
    /// Why; may be empty.
    pub reason: String,
    /// Do it although the checks on operator input object.
    pub force: bool,
    /// The peer of the caller's SSH session, if it has one.
    pub ssh_client: Option<IpAddr>,
}

/// What is read or kept of what was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accessed {
    /// What is done.
    pub what: Access,
    /// Of which capture or incident.
    pub id: String,
    /// More about it: the form, or where to.
    pub detail: String,
}

/// What is done with what was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// What is in a capture is shown.
    Show,
    /// A capture is exported.
    Export,
    /// A capsule is made.
    Capsule,
    /// Indicators are exported.
    Indicators,
    /// A capture is put on legal hold.
    Hold,
    /// A capture is taken off legal hold.
    Release,
    /// The audit log is exported.
    Audit,
}

impl Access {
    /// Returns the action as the audit log names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Show => "capture.show",
            Self::Export => "capture.export",
            Self::Capsule => "capture.capsule",
            Self::Indicators => "indicators.export",
            Self::Hold => "capture.hold",
            Self::Release => "capture.release",
            Self::Audit => "audit.export",
        }
    }
}

/// A capture to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureStart {
    /// What packets have to match.
    #[serde(rename = "match")]
    pub matches: FlowMatch,
    /// How long it lasts at most, seconds; absent: ten minutes.
    pub for_s: Option<u64>,
    /// Bytes that it takes on disk at most; absent: as an incident's.
    pub bytes: Option<u64>,
    /// Every packet, as long as it is, in place of samples.
    #[serde(default)]
    pub full: bool,
}
