//! Providers that take traffic away before it reaches this node: scrubbing centres and firewalls that others run.
//!
//! A `Provider` speaks the protocol of one; the `Engine` is the same for all. It knows what was asked for
//! (the journal, on disk before anything is asked), looks at what is there, and decides (`judge`) what to do
//! about the difference. So nothing is orphaned by a crash, nothing is taken back that somebody else made, what
//! people took back by hand stays away, and a provider that says yes and does nothing is found out.

mod api;
mod cloudflare;
mod engine;
mod expression;
mod flow;
mod hetzner;
mod journal;
mod judge;
mod ovh;
mod robot;
mod webhook;

use std::{
    fmt,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};

use self::{cloudflare::Cloudflare, engine::Engine, hetzner::HetznerCloud, ovh::Ovh, robot::Robot, webhook::Webhook};
use super::upstream::Driver;
use crate::{
    config::{self, Take},
    decide::ladder::{Step, What},
};

pub use journal::listed;
pub use webhook::signature;

/// How fast things go at a provider, and how patient we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks while something is under way.
    pub moving: Duration,
    /// Between two looks while all is as it should be.
    pub steady: Duration,
    /// Between two looks at a provider of whom nothing is wanted: whether it would answer.
    pub idle: Duration,
    /// From a yes until it is there at the latest; after that the yes was worth nothing, and it is asked again.
    pub activation: Duration,
    /// From a yes until it is gone at the latest; likewise.
    pub removal: Duration,
    /// How long the Internet goes on as before after the provider shows it gone.
    pub drain: Duration,
    /// How long a diversion stays at least.
    pub hold: Duration,
    /// From the end of a diversion to the next of the same at least.
    pub gap: Duration,
    /// How long a request whose answer was lost may still take effect.
    pub grace: Duration,
    /// The first wait after a failure; it doubles.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Pace {
    /// Returns what suits a provider.
    pub fn of(config: &config::Scrub) -> Self {
        let common = Self {
            moving: seconds(10),
            steady: seconds(60),
            idle: seconds(3600),
            activation: seconds(600),
            removal: seconds(600),
            drain: Duration::ZERO,
            hold: Duration::ZERO,
            gap: Duration::ZERO,
            grace: seconds(120),
            first: seconds(2),
            longest: seconds(300),
        };
        let own = match config.provider {
            // Withdrawing takes a quarter of an hour to reach the whole Internet (its "Dynamic advertisement: best
            // practices"); 1200 requests in five minutes are allowed.
            config::Provider::Cloudflare => {
                Self { moving: seconds(15), drain: seconds(900), hold: seconds(1800), gap: seconds(900), ..common }
            }
            // 200 requests an hour; a change takes half a minute.
            config::Provider::HetznerRobot => Self {
                moving: seconds(20),
                steady: seconds(120),
                activation: seconds(180),
                removal: seconds(180),
                first: seconds(10),
                ..common
            },
            _ => common,
        };
        Self { hold: config.min_hold.unwrap_or(own.hold), gap: config.min_gap.unwrap_or(own.gap), ..own }
    }
}

/// Makes the driver of a `[[scrub]]`; its journal lies in `scrub` below `state`.
///
/// # Errors
/// What cannot be used: the credentials, the file of certificates, the journal.
pub fn open(config: &config::Scrub, state: &Path) -> Result<Box<dyn Driver>, String> {
    open_at(config, state, Pace::of(config), clock())
}

/// Tells the time since 1970. It never goes back.
pub type Now = Box<dyn Fn() -> Duration + Send>;

/// Returns a clock that does not jump while this process lives; from one life to the next it is that of the wall.
fn clock() -> Now {
    let (began, unix) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
    Box::new(move || unix + began.elapsed())
}

/// As [`open`], at another pace and by another clock.
///
/// # Errors
/// As there.
pub fn open_at(config: &config::Scrub, state: &Path, pace: Pace, now: Now) -> Result<Box<dyn Driver>, String> {
    let name = &config.name;
    let place = |error: String| format!("[[scrub]] \"{name}\": {error}");
    let driver: Result<Box<dyn Driver>, String> = match config.provider {
        config::Provider::Cloudflare => Cloudflare::open(config).and_then(|it| boxed(it, name, state, pace, now)),
        config::Provider::Ovh => Ovh::open(config).and_then(|it| boxed(it, name, state, pace, now)),
        config::Provider::HetznerRobot => Robot::open(config).and_then(|it| boxed(it, name, state, pace, now)),
        config::Provider::HetznerCloud => Ok(Box::new(HetznerCloud::new(name))),
        config::Provider::Webhook => Webhook::open(config).and_then(|it| boxed(it, name, state, pace, now)),
    };
    driver.map_err(place)
}

fn boxed<P: Provider + 'static>(
    provider: P,
    name: &str,
    state: &Path,
    pace: Pace,
    now: Now,
) -> Result<Box<dyn Driver>, String> {
    Ok(Box::new(Engine::open(name, provider, state, pace, now)?))
}

/// Something that a provider is asked for, in its own terms. What is equal has the same key.
trait Item: Clone + fmt::Debug + Send + Serialize + DeserializeOwned {
    /// What it is known by, and called in front of people.
    fn key(&self) -> String;
    /// What is changed with it in one request.
    fn group(&self) -> String {
        self.key()
    }
    /// Whether it leads traffic elsewhere, and is therefore not to flap.
    fn diverts(&self) -> bool {
        false
    }
    /// What asking for it and taking it back are called in the audit log.
    fn verbs(&self) -> (&'static str, &'static str) {
        if self.diverts() { ("divert", "restore") } else { ("filter", "unfilter") }
    }
}

/// An item that is to be asked for, or taken back.
#[derive(Clone, Debug)]
struct Order<I> {
    item: I,
    /// Its number: the same again where an answer was lost, larger where it is asked afresh.
    attempt: u64,
    incident: String,
    reason: String,
}

/// How an item is, as the provider shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// It is not there.
    Absent,
    /// It is being made.
    Coming,
    /// It is there.
    Present,
    /// It is there by the provider's own doing, which ends when the provider thinks so.
    Lent,
    /// It is being taken away.
    Going,
    /// It is listed, and somebody switched it off: it has no effect, and could have one again.
    Listed,
    /// It is not there, and cannot be asked for. Why, and the remedy.
    Barred(String),
    /// The provider does not tell of this one. Why.
    Unread(String),
}

impl Seen {
    /// Takes the answer about one item. Only what holds for all of them is an error.
    fn of_one(answer: Result<Self, Trouble>) -> Result<Self, Trouble> {
        match answer {
            Err(Trouble::Refused(why) | Trouble::Busy(why, _)) => Ok(Self::Unread(why)),
            other => other,
        }
    }
}

/// Why a request came to nothing. Texts hold no secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// It understood, and will not do it.
    Refused(String),
    /// It is busy with this very thing.
    Busy(String, Duration),
    /// No more requests of any kind for a while; this one was not done.
    Limited(String, Option<Duration>),
    /// The credentials are not taken; this was not done.
    Denied(String),
    /// No answer, or none that can be understood: it may have been done.
    Lost(String, Option<Duration>),
}

impl Trouble {
    fn why(&self) -> &str {
        match self {
            Self::Refused(why)
            | Self::Busy(why, _)
            | Self::Limited(why, _)
            | Self::Denied(why)
            | Self::Lost(why, _) => why,
        }
    }
}

/// What speaks to one provider.
trait Provider: Send {
    /// What it is asked for.
    type Item: Item;

    /// As [`Driver::takes`].
    fn takes(&self, what: &What) -> Result<(), String>;

    /// Returns what a step asks for, in the order in which it is to be asked for; may look it up.
    fn resolve(&mut self, step: &Step) -> Result<Vec<Self::Item>, Trouble>;

    /// Returns how the items are, in their order. One that cannot be read is [`Seen::Unread`]: the others are seen
    /// to all the same.
    fn look(&mut self, items: &[Self::Item]) -> Result<Vec<Seen>, Trouble>;

    /// Asks for some and takes others back, all of one group.
    fn change(&mut self, add: &[Order<Self::Item>], remove: &[Order<Self::Item>]) -> Result<(), Trouble>;

    /// Finds out whether it would answer.
    fn check(&mut self) -> Result<(), Trouble>;

    /// Returns what bears our mark there, whether or not the journal knows it.
    fn strays(&mut self) -> Result<Vec<Self::Item>, Trouble> {
        Ok(Vec::new())
    }

    /// Reads the credentials again.
    fn reload(&mut self) -> Result<(), String>;
}

/// Returns the kind of a step, and the prefix of ours that it is about: none for a source.
fn about(what: &What) -> (Take, Option<IpNet>) {
    match what {
        What::Divert { prefix } => (Take::Divert, Some(*prefix)),
        What::Filter { matches, .. } => (Take::Filter, matches.dst),
        What::BlackHole { victim } => (Take::BlackHole, Some(*victim)),
        What::SourceBlackHole { source } => (Take::SourceBlackHole, Some(*source)),
    }
}

/// Checks what every provider checks: that it may be asked for this kind, about this prefix.
fn permitted(config: &config::Scrub, what: &What) -> Result<(), String> {
    let (kind, subject) = about(what);
    let name = &config.name;
    if !config.takes.contains(&kind) {
        let kind = kind.as_str();
        return Err(format!("the configuration does not let it: add \"{kind}\" to `takes` of [[scrub]] \"{name}\""));
    }
    if kind == Take::SourceBlackHole {
        return Ok(());
    }
    let Some(subject) = subject else {
        return Err("it says of no destination that it is yours: name one inside `prefixes`".to_owned());
    };
    if !config.prefixes.iter().any(|own| own.contains(&subject)) {
        return Err(format!("{subject} is outside `prefixes` of [[scrub]] \"{name}\": add it there if it is yours"));
    }
    Ok(())
}
