//! Sections about who is told.

use super::{DURATION, Key, NUMBER, SIZE, Section, TEXT, row};

/// `[alerts]`.
pub(super) const ALERTS: Section = Section {
    name: "alerts",
    doc: "Who is told of attacks and of trouble of the agent itself, and how. What waits to be told is on disk, in \
              `paths.state`/outbox. docs/alerts has a page for each service.",
    keys: &[
        row("alerts.node", TEXT, "", "What this machine is called in messages; empty: its host name."),
        row(
            "alerts.link",
            TEXT,
            "",
            "Where more is to be seen, as \"https://noc.example.net/ftagent/{incident}\"; empty: messages have no link.",
        ),
        row(
            "alerts.changed_interval",
            DURATION,
            "",
            "Time from a message to the next that only says that something changed; changes in between are in it.",
        ),
        row(
            "alerts.storm",
            NUMBER,
            "incidents",
            "Where more than these wait for a sink that people read, they are told in one message; 0: never.",
        ),
        row("alerts.trouble_after", DURATION, "", "How long trouble of the agent itself lasts before it is told."),
        row(
            "alerts.give_up_after",
            DURATION,
            "",
            "How long a message is tried for. That it did not arrive is in the log, the audit log and a metric.",
        ),
        row("alerts.retry_first", DURATION, "", "The wait after a first failure; it doubles with each."),
        row("alerts.retry_longest", DURATION, "", "The longest wait between two tries."),
        row("alerts.max_entries", NUMBER, "messages", "The most that wait; beyond them the least important go."),
        row("alerts.max_bytes", SIZE, "", "The same in bytes; 1 MiB to 16 GiB."),
    ],
};

/// `[[alerts.sinks]]`.
pub(super) const SINKS: Section = Section {
    name: "alerts.sinks[]",
    doc: "Where alerts go. Repeat the section for each; 32 at most.",
    keys: &[
        Key { sample: "\"oncall\"", ..row("alerts.sinks[].name", TEXT, "", "Its name: a-z, 0-9, _ and -.") },
        Key {
            sample: "\"slack\"",
            ..row(
                "alerts.sinks[].kind",
                "a service",
                "",
                "slack, discord, teams, pagerduty, opsgenie, telegram, alertmanager, email, webhook or syslog.",
            )
        },
        Key {
            sample: "\"/etc/ftagent/secrets/slack\"",
            unless: "`kind` is alertmanager, syslog, or email without `user`",
            ..row(
                "alerts.sinks[].secret",
                "a file or `credential:NAME`",
                "",
                "Holds the webhook's address (slack, discord, teams), the routing key (pagerduty), the API key \
                     (opsgenie), the bot's token (telegram), the value of the Authorization header (alertmanager, if \
                     any), the password (email, with `user`), or the lines `url = …` and `secret = whsec_…` (webhook). \
                     Only its owner may read it.",
            )
        },
        row(
            "alerts.sinks[].severity",
            "\"info\", \"low\", \"medium\", \"high\" or \"critical\"",
            "",
            "What is less severe is not told.",
        ),
        row(
            "alerts.sinks[].vectors",
            "a list of vectors",
            "",
            "Only attacks with one of these are told; empty: all, and trouble of the agent itself.",
        ),
        row(
            "alerts.sinks[].events",
            "a list of events",
            "",
            "Only these are told: opened, escalated, changed, mitigated, collateral, closed, trouble, recovered; \
                 empty: all.",
        ),
        row("alerts.sinks[].title", TEXT, "", "A template of the first line, as \"{node}: {vector} {severity}\"."),
        row("alerts.sinks[].text", TEXT, "", "A template of the rest. docs/alerts/README.md has the placeholders."),
        row("alerts.sinks[].rate_per_minute", NUMBER, "messages", "The most a minute; 0: what the service bears."),
        row("alerts.sinks[].timeout", DURATION, "", "How long one delivery may take; 1 s to 1 min."),
        row("alerts.sinks[].ca_file", TEXT, "", "Certificates (PEM) in place of the public ones."),
        row(
            "alerts.sinks[].url",
            TEXT,
            "",
            "pagerduty, opsgenie, telegram, alertmanager: where the service is; empty: where it usually is.",
        ),
        row("alerts.sinks[].teams", "a list of strings", "", "opsgenie: the teams that respond."),
        row("alerts.sinks[].chat", TEXT, "", "telegram: the chat's number, or \"@channel\"."),
        row("alerts.sinks[].server", TEXT, "", "email: the server, as \"mail.example.net:587\"."),
        row("alerts.sinks[].tls", TEXT, "", "email: \"starttls\" (or empty), \"implicit\", \"none\" (loopback only)."),
        row("alerts.sinks[].user", TEXT, "", "email: who logs in; empty: nobody."),
        row("alerts.sinks[].from", TEXT, "", "email: the sender."),
        row("alerts.sinks[].to", "a list of strings", "", "email: the recipients."),
        row(
            "alerts.sinks[].address",
            TEXT,
            "",
            "syslog: \"udp://192.0.2.1:514\", \"tcp://log.example.net:601\" or \"unix:///dev/log\".",
        ),
        row("alerts.sinks[].format", TEXT, "", "syslog: \"rfc5424\" (or empty), or \"cef\"."),
        row(
            "alerts.sinks[].facility",
            TEXT,
            "",
            "syslog: \"daemon\" (or empty), \"user\", \"auth\", \"local0\" to \"local7\".",
        ),
    ],
};

/// `[[alerts.maintenance]]`.
pub(super) const MAINTENANCE: Section = Section {
    name: "alerts.maintenance[]",
    doc: "When nobody is told. What goes on when it ends is told then; what was told before is told to be over.",
    keys: &[
        Key {
            sample: "\"22:00\"",
            ..row("alerts.maintenance[].from", "a time, UTC", "", "\"22:00\", or once \"2026-12-01T22:00:00Z\".")
        },
        Key {
            sample: "\"02:00\"",
            ..row("alerts.maintenance[].to", "a time, UTC", "", "When it ends; not after `from`: on the next day.")
        },
        row(
            "alerts.maintenance[].days",
            "a list of days",
            "",
            "On which it begins: mon, tue, wed, thu, fri, sat, sun; empty: every day.",
        ),
        row("alerts.maintenance[].sinks", "a list of sinks", "", "For which it holds; empty: all."),
    ],
};
