//! Where messages go: one file for each service. A sink sends one message at a time and says what came of it;
//! waiting, ordering and trying again are the courier's.

mod alertmanager;
mod discord;
mod email;
mod opsgenie;
mod pagerduty;
mod slack;
mod syslog;
mod teams;
mod telegram;
mod web;
pub mod webhook;

use std::{sync::Arc, time::Duration};

use super::{Alert, template};
use crate::config::alerts::{AlertSink, Target};

/// What a sink says when it has a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// What the other side answered, for people.
    pub answer: String,
    /// How long it wants no more.
    pub pause: Option<Duration>,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may be, later.
    Later {
        /// Why.
        why: String,
        /// How long to wait at least, where the other side says so.
        after: Option<Duration>,
    },
    /// This message never will.
    Never(String),
    /// No message is: a key, an address or a permission is wrong. The sink is opened anew before it is tried
    /// again, which reads its secret anew.
    Shut(String),
}

impl Failure {
    /// It may work later.
    pub fn later(why: impl Into<String>) -> Self {
        Self::Later { why: why.into(), after: None }
    }

    /// Returns why.
    pub fn why(&self) -> &str {
        match self {
            Self::Later { why, .. } | Self::Never(why) | Self::Shut(why) => why,
        }
    }
}

/// How many messages a service bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Messages a minute.
    pub per_minute: u32,
    /// Messages at once.
    pub burst: u32,
}

/// A service.
pub trait Sink: Send {
    /// Sends a message, and waits for the answer.
    ///
    /// # Errors
    /// See [`Failure`].
    fn send(&mut self, alert: &Alert) -> Result<Receipt, Failure>;

    /// Returns what the service bears.
    fn pace(&self) -> Pace;

    /// Returns how often [`Self::again`] is to be called.
    fn interval(&self) -> Option<Duration> {
        None
    }

    /// Says again what goes on: `open` are the latest messages of all that the sink was told of.
    ///
    /// # Errors
    /// See [`Failure`].
    fn again(&mut self, open: &[Arc<Alert>]) -> Result<(), Failure> {
        let _all = open;
        Ok(())
    }
}

/// Opens a sink: reads its secret, and makes what it sends with. Nothing is sent.
///
/// # Errors
/// The file that cannot be used, why, and the remedy.
pub fn open(settings: &AlertSink) -> Result<Box<dyn Sink>, String> {
    let web = || web::Web::new(settings.timeout, settings.ca_file.as_deref());
    Ok(match &settings.target {
        Target::Slack(secret) => Box::new(slack::Slack::new(web()?, web::address(secret)?)),
        Target::Discord(secret) => Box::new(discord::Discord::new(web()?, web::address(secret)?)),
        Target::Teams(secret) => Box::new(teams::Teams::new(web()?, web::address(secret)?)),
        Target::PagerDuty { key, url } => Box::new(pagerduty::PagerDuty::new(web()?, key.read()?, url)),
        Target::Opsgenie { key, url, teams } => Box::new(opsgenie::Opsgenie::new(web()?, key.read()?, url, teams)),
        Target::Telegram { token, url, chat } => Box::new(telegram::Telegram::new(web()?, token.read()?, url, chat)?),
        Target::Alertmanager { url, authorization } => {
            let authorization = authorization.as_ref().map(crate::config::SecretFile::read).transpose()?;
            Box::new(alertmanager::Alertmanager::new(web()?, url, authorization))
        }
        Target::Email(mail) => Box::new(email::Email::new(mail, settings)?),
        Target::Webhook(secret) => {
            let [url, key] = secret.read_keys(["url", "secret"])?;
            Box::new(webhook::Webhook::new(web()?, url, key.expose())?)
        }
        Target::Syslog { address, format, facility } => {
            Box::new(syslog::Syslog::new(address.clone(), *format, *facility, settings.timeout))
        }
    })
}

/// Returns the message in the words of the sink's templates.
pub fn worded(settings: &AlertSink, alert: &Alert) -> Alert {
    let mut worded = alert.clone();
    if !settings.title.is_empty() {
        worded.title = template::render(&settings.title, alert).replace('\n', " ");
    }
    if !settings.text.is_empty() {
        worded.lines = template::render(&settings.text, alert).lines().map(str::to_owned).collect();
    }
    worded
}
