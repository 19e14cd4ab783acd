//! What each service needs of `[[alerts.sinks]]`.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    Mail, MailTls, SyslogAddress, SyslogFormat, Target,
    check::{is_url, named},
};
use crate::config::{Problem, SecretFile, raw::RawAlertSink};

type Problems = Vec<Problem>;

/// The services.
const KINDS: [&str; 10] =
    ["slack", "discord", "teams", "pagerduty", "opsgenie", "telegram", "alertmanager", "email", "webhook", "syslog"];
/// Facilities of RFC 5424 that a daemon may use.
const FACILITIES: [(&str, u8); 11] = [
    ("daemon", 3),
    ("user", 1),
    ("auth", 4),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// Takes what a service needs, and reports what is missing and what it has no use for.
pub(super) struct Needs<'a> {
    pub raw: &'a RawAlertSink,
    pub i: usize,
    pub problems: &'a mut Problems,
    pub used: BTreeSet<&'static str>,
}

impl Needs<'_> {
    fn wrong(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::new(format!("alerts.sinks[{}].{key}", self.i), what, remedy));
    }

    pub fn target(&mut self) -> Option<Target> {
        let kind = named(
            &format!("alerts.sinks[{}].kind", self.i),
            &self.raw.kind,
            &KINDS.map(|kind| (kind, kind)),
            self.problems,
        )?;
        Some(match kind {
            "slack" => Target::Slack(self.secret("the webhook's address")?),
            "discord" => Target::Discord(self.secret("the webhook's address")?),
            "teams" => Target::Teams(self.secret("the workflow's address")?),
            "pagerduty" => Target::PagerDuty {
                key: self.secret("the routing key")?,
                url: self.url("https://events.pagerduty.com/v2/enqueue")?,
            },
            "opsgenie" => Target::Opsgenie {
                key: self.secret("the API key")?,
                url: self.url("https://api.opsgenie.com/v2/alerts")?,
                teams: self.list("teams", |raw| &raw.teams),
            },
            "telegram" => Target::Telegram {
                token: self.secret("the bot's token")?,
                url: self.url("https://api.telegram.org")?,
                chat: self.text("chat", |raw| &raw.chat, "write the chat's number, as \"-1001234567890\"")?,
            },
            "alertmanager" => {
                let authorization = if self.raw.secret.is_empty() { None } else { Some(self.secret("")?) };
                Target::Alertmanager { url: self.url("http://127.0.0.1:9093")?, authorization }
            }
            "email" => Target::Email(self.mail()?),
            "webhook" => Target::Webhook(self.secret("the lines `url = …` and `secret = whsec_…`")?),
            _ => self.syslog()?,
        })
    }

    fn text(&mut self, key: &'static str, get: fn(&RawAlertSink) -> &String, remedy: &str) -> Option<String> {
        self.used.insert(key);
        let text = get(self.raw).clone();
        if text.is_empty() {
            self.wrong(key, format!("is missing, which a sink of kind \"{}\" needs", self.raw.kind), remedy);
            return None;
        }
        Some(text)
    }

    fn list(&mut self, key: &'static str, get: fn(&RawAlertSink) -> &Vec<String>) -> Vec<String> {
        self.used.insert(key);
        get(self.raw).clone()
    }

    fn secret(&mut self, holds: &str) -> Option<SecretFile> {
        let remedy = format!(
            "name a file that holds {holds}, for its owner alone, as \"/etc/ftagent/secrets/{}\"",
            self.raw.kind
        );
        let text = self.text("secret", |raw| &raw.secret, &remedy)?;
        match SecretFile::parse(&text) {
            Ok(secret) => Some(secret),
            // What is written may be the secret itself: it is not repeated.
            Err(_) => {
                self.wrong("secret", "is neither an absolute path nor `credential:NAME`", remedy);
                None
            }
        }
    }

    fn url(&mut self, default: &str) -> Option<String> {
        self.used.insert("url");
        let url = if self.raw.url.is_empty() { default.to_owned() } else { self.raw.url.clone() };
        if !is_url(&url) || url.contains(['@', '?', '#']) {
            let remedy = format!("write it as \"{default}\", without credentials");
            self.wrong("url", "is not an address of a service", remedy);
            return None;
        }
        Some(url.trim_end_matches('/').to_owned())
    }

    fn mail(&mut self) -> Option<Mail> {
        self.used.extend(["tls", "user"]);
        let remedy = "write it as \"mail.example.net:587\"";
        let server = self.text("server", |raw| &raw.server, remedy)?;
        let from = self.text("from", |raw| &raw.from, "write it as \"ftagent <ftagent@example.net>\"")?;
        let to = self.list("to", |raw| &raw.to);
        let tls = match self.raw.tls.as_str() {
            "" | "starttls" => MailTls::StartTls,
            "implicit" => MailTls::Implicit,
            "none" => MailTls::None,
            other => {
                let what = format!("\"{other}\" is not known");
                self.wrong("tls", what, "write \"starttls\", \"implicit\", or \"none\" for loopback");
                return None;
            }
        };
        let default = if tls == MailTls::Implicit { 465 } else { 587 };
        let Some((host, port)) = host_port(&server, Some(default)) else {
            self.wrong("server", format!("\"{server}\" is not a server"), remedy);
            return None;
        };
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if tls == MailTls::None && !loopback {
            let what = "\"none\" sends in clear text, which is for loopback only";
            self.wrong("tls", what, "write \"starttls\" or \"implicit\"");
        }
        let address = |text: &String| text.parse::<lettre::message::Mailbox>().is_ok();
        if !address(&from) {
            self.wrong("from", format!("\"{from}\" is no mail address"), "write it as \"ftagent@example.net\"");
        }
        if to.is_empty() {
            self.wrong("to", "is missing", "name a recipient, as to = [\"noc@example.net\"]");
        }
        if let Some(odd) = to.iter().find(|to| !address(to)) {
            self.wrong("to", format!("\"{odd}\" is no mail address"), "write it as \"noc@example.net\"");
        }
        let login = match self.raw.user.as_str() {
            "" => None,
            user => Some((user.to_owned(), self.secret("the password")?)),
        };
        Some(Mail { host, port, tls, login, from, to })
    }

    fn syslog(&mut self) -> Option<Target> {
        self.used.extend(["format", "facility"]);
        let remedy = "write it as \"udp://192.0.2.1:514\", \"tcp://log.example.net:601\" or \"unix:///dev/log\"";
        let text = self.text("address", |raw| &raw.address, remedy)?;
        let host = |rest: &str| host_port(rest, None).map(|(host, port)| joined(&host, port));
        let address = match text.split_once("://") {
            Some(("udp", rest)) => host(rest).map(SyslogAddress::Udp),
            Some(("tcp", rest)) => host(rest).map(SyslogAddress::Tcp),
            Some(("unix", path)) if path.starts_with('/') => Some(SyslogAddress::Unix(path.into())),
            _ => None,
        };
        let Some(address) = address else {
            self.wrong("address", format!("\"{text}\" is not an address of syslog"), remedy);
            return None;
        };
        let path = |key: &str| format!("alerts.sinks[{}].{key}", self.i);
        let formats = [("", SyslogFormat::Rfc5424), ("rfc5424", SyslogFormat::Rfc5424), ("cef", SyslogFormat::Cef)];
        let format = named(&path("format"), &self.raw.format, &formats, self.problems)?;
        let facility = match self.raw.facility.as_str() {
            "" => 3,
            name => named(&path("facility"), name, &FACILITIES, self.problems)?,
        };
        Some(Target::Syslog { address, format, facility })
    }

    /// Reports what is written and has no meaning here.
    pub fn rest(&mut self) {
        if !KINDS.contains(&self.raw.kind.as_str()) {
            return;
        }
        let raw = self.raw;
        let written = [
            ("secret", !raw.secret.is_empty()),
            ("url", !raw.url.is_empty()),
            ("teams", !raw.teams.is_empty()),
            ("chat", !raw.chat.is_empty()),
            ("server", !raw.server.is_empty()),
            ("tls", !raw.tls.is_empty()),
            ("user", !raw.user.is_empty()),
            ("from", !raw.from.is_empty()),
            ("to", !raw.to.is_empty()),
            ("address", !raw.address.is_empty()),
            ("format", !raw.format.is_empty()),
            ("facility", !raw.facility.is_empty()),
        ];
        let odd: Vec<&str> = written
            .into_iter()
            .filter(|(key, written)| *written && !self.used.contains(key))
            .map(|(key, _)| key)
            .collect();
        for key in odd {
            // Mail without a user needs no password.
            let what = match (raw.kind.as_str(), key) {
                ("email", "secret") => "is a password, but `user` is missing".to_owned(),
                (kind, _) => format!("has no meaning for a sink of kind \"{kind}\""),
            };
            self.wrong(key, what, "remove it");
        }
    }
}

/// Splits `host:port`; IPv6 addresses are in brackets.
fn host_port(text: &str, default: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':')?)),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok().map(Some))?.filter(|port| *port > 0)?;
    let odd = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    (!host.is_empty() && !host.contains(odd)).then(|| (host.to_owned(), port))
}

fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers() {
        assert_eq!(host_port("mail.example.net", Some(587)), Some(("mail.example.net".into(), 587)));
        assert_eq!(host_port("[::1]:25", Some(587)), Some(("::1".into(), 25)));
        assert_eq!(host_port("[::1]", Some(587)), Some(("::1".into(), 587)));
        for wrong in ["", ":25", "host:", "host:0", "host:99999", "ho st:25", "::1", "host"] {
            assert_eq!(host_port(wrong, None), None, "{wrong}");
        }
    }
}
