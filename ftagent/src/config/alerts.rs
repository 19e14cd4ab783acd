//! `[alerts]`: who is told of what, and how.

mod check;
mod sink;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::SecretFile;
use crate::{
    alert::Kind,
    decide::{Severity, Vector},
};

pub(super) use check::checked;

/// Who is told of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alerts {
    /// What this machine is called in messages; empty: its host name.
    pub node: String,
    /// Where more is to be seen, with or without `{incident}`; may be empty.
    pub link: String,
    /// Time between two messages that only say that something changed.
    pub changed_interval: Duration,
    /// From more topics than this waiting for a sink on, they are told in one message; 0: never.
    pub storm: u32,
    /// How long trouble of the agent itself lasts before it is told.
    pub trouble_after: Duration,
    /// How long a message is tried for.
    pub give_up_after: Duration,
    /// The wait after a first failure.
    pub retry_first: Duration,
    /// The longest wait.
    pub retry_longest: Duration,
    /// Messages that wait at most.
    pub max_entries: usize,
    /// Bytes of those.
    pub max_bytes: u64,
    /// Where messages go. Names are unique.
    pub sinks: Vec<AlertSink>,
    /// When they do not.
    pub maintenance: Vec<Maintenance>,
}

/// Where messages go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSink {
    /// Its name: `[a-z0-9_-]`, 1 to 64 of them.
    pub name: String,
    /// The service, and what it needs.
    pub target: Target,
    /// What is less severe is not told.
    pub severity: Severity,
    /// What is told; empty: incidents of every vector, and what concerns the agent itself.
    pub vectors: BTreeSet<Vector>,
    /// What is told; empty: everything.
    pub events: BTreeSet<Kind>,
    /// A template of the first line; empty: none.
    pub title: String,
    /// A template of the rest; empty: none.
    pub text: String,
    /// Messages a minute at most; absent: what the service bears.
    pub rate_per_minute: Option<u32>,
    /// How long one delivery may take.
    pub timeout: Duration,
    /// Certificates in place of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// A service, and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Slack's incoming webhook; the secret is its address.
    Slack(SecretFile),
    /// Discord's webhook; the secret is its address.
    Discord(SecretFile),
    /// A workflow of Microsoft Teams; the secret is its address.
    Teams(SecretFile),
    /// PagerDuty Events API v2.
    PagerDuty {
        /// The routing key.
        key: SecretFile,
        /// Where the API is.
        url: String,
    },
    /// Opsgenie, or Jira Service Management.
    Opsgenie {
        /// The API key.
        key: SecretFile,
        /// `…/v2/alerts`.
        url: String,
        /// Teams that respond.
        teams: Vec<String>,
    },
    /// A bot of Telegram.
    Telegram {
        /// The bot's token.
        token: SecretFile,
        /// Where the API is.
        url: String,
        /// The chat: a number, or `@channel`.
        chat: String,
    },
    /// Prometheus' Alertmanager, API v2.
    Alertmanager {
        /// Its address, without `/api/v2`.
        url: String,
        /// The value of the Authorization header, where one is needed.
        authorization: Option<SecretFile>,
    },
    /// Mail.
    Email(Mail),
    /// A signed webhook; the secret has the lines `url = …` and `secret = whsec_…`.
    Webhook(SecretFile),
    /// Syslog.
    Syslog {
        /// Where it listens.
        address: SyslogAddress,
        /// In which form.
        format: SyslogFormat,
        /// The facility's number, RFC 5424, 6.2.1.
        facility: u8,
    },
}

impl Target {
    /// Returns the name that the configuration gives the service.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Slack(_) => "slack",
            Self::Discord(_) => "discord",
            Self::Teams(_) => "teams",
            Self::PagerDuty { .. } => "pagerduty",
            Self::Opsgenie { .. } => "opsgenie",
            Self::Telegram { .. } => "telegram",
            Self::Alertmanager { .. } => "alertmanager",
            Self::Email(_) => "email",
            Self::Webhook(_) => "webhook",
            Self::Syslog { .. } => "syslog",
        }
    }

    /// Returns whether people read it message by message: storms are told to them in one. Where the service
    /// groups by itself, or programs read, every message goes its way.
    pub const fn is_for_people(&self) -> bool {
        matches!(self, Self::Slack(_) | Self::Discord(_) | Self::Teams(_) | Self::Telegram { .. } | Self::Email(_))
    }
}

/// How mail is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the line is encrypted.
    pub tls: MailTls,
    /// Who logs in, and the password; absent: nobody.
    pub login: Option<(String, SecretFile)>,
    /// The sender.
    pub from: String,
    /// The recipients, at least one.
    pub to: Vec<String>,
}

/// How a line to a mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// From the first byte on (RFC 8314, port 465).
    Implicit,
    /// After STARTTLS; nothing is sent without (RFC 3207, port 587).
    StartTls,
    /// Not at all: loopback only.
    None,
}

/// Where syslog listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// `udp://HOST:PORT`, RFC 5426.
    Udp(String),
    /// `tcp://HOST:PORT`, octet counting, RFC 6587, 3.4.1.
    Tcp(String),
    /// `unix:///dev/log`
    Unix(PathBuf),
}

/// What a syslog message looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// With structured data.
    #[default]
    Rfc5424,
    /// RFC 5424 around ArcSight's Common Event Format.
    Cef,
}

/// When nobody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// The sinks that it holds for; empty: all.
    pub sinks: BTreeSet<String>,
    /// When.
    pub when: Window,
}

impl Maintenance {
    /// Returns whether it holds for a sink.
    pub fn concerns(&self, sink: &str) -> bool {
        self.sinks.is_empty() || self.sinks.contains(sink)
    }
}

/// A time, UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// Once: from and to, milliseconds since 1970.
    Once(i64, i64),
    /// Every week.
    Weekly {
        /// On which days it begins, Monday is 0.
        days: BTreeSet<u8>,
        /// Minutes after midnight at which it begins.
        from: u16,
        /// Minutes after midnight at which it ends; not after `from`: on the next day.
        to: u16,
    },
}

const DAY_MS: i64 = 86_400_000;

impl Window {
    /// Returns whether an instant is in it.
    pub fn holds(&self, unix_ms: i64) -> bool {
        match self {
            Self::Once(from, to) => (*from..*to).contains(&unix_ms),
            Self::Weekly { days, from, to } => {
                // 1970 began on a Thursday.
                let day = |days: i64| u8::try_from((days + 3).rem_euclid(7)).unwrap_or(0);
                let (today, minute) = (unix_ms.div_euclid(DAY_MS), unix_ms.rem_euclid(DAY_MS) / 60_000);
                let (from, to) = (i64::from(*from), i64::from(*to));
                if from < to {
                    return days.contains(&day(today)) && (from..to).contains(&minute);
                }
                let tonight = days.contains(&day(today)) && minute >= from;
                tonight || days.contains(&day(today - 1)) && minute < to
            }
        }
    }
}
