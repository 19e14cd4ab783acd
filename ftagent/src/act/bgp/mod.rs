//! Flow specifications and black holes, announced through a BGP daemon.
//!
//! Two planes, `flowspec` and `rtbh`, over one daemon: a [`Speaker`] knows the daemon, an [`Announcer`] what is
//! wanted. Nothing is announced that [`check`] did not pass. Every route carries a large community of this
//! agent's, by which it knows its own after a restart; routes without it are never touched.
//!
//! A route that was seen in the daemon and is gone was either lost or taken back. [`Listing::life`] tells: it
//! changes whenever the daemon may have restarted. In the same life a daemon loses nothing by itself, so somebody
//! took the route back, and it stays away; in another life it is announced again.

pub mod check;
mod exabgp;
mod gobgp;
mod plane;
mod route;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use super::{machine, upstream::Driver};
use crate::config::{Bgp, BgpDaemon, LargeCommunity};

pub use exabgp::ExaBgp;
pub use gobgp::GoBgp;
pub use plane::Announcer;
pub use route::{Kind, Nlri, Route, Seen};

/// What a daemon has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The routes that were announced through this daemon, not those that it learned.
    pub routes: Vec<Seen>,
    /// Changes whenever the daemon may have restarted since the last listing.
    pub life: u64,
    /// Why nobody hears what is announced: no session is up.
    pub unheard: Option<String>,
}

/// Speaks to a BGP daemon. Whatever it does, it gives up by itself after some seconds.
pub trait Speaker: Send {
    /// Returns what the daemon has of a kind.
    ///
    /// # Errors
    /// Why it does not answer, and the remedy.
    fn list(&mut self, kind: Kind) -> Result<Listing, String>;

    /// Announces a route, in place of one of the same NLRI.
    ///
    /// # Errors
    /// Why the daemon does not take it.
    fn announce(&mut self, route: &Route) -> Result<(), String>;

    /// Withdraws a route.
    ///
    /// # Errors
    /// Why the daemon does not.
    fn withdraw(&mut self, route: &Seen) -> Result<(), String>;

    /// Returns what to think of a route that was announced without an error, and is not listed.
    fn hidden(&self) -> &'static str {
        "the daemon took it and does not list it: see its log"
    }
}

/// A speaker that both planes use.
pub type Shared = Arc<Mutex<dyn Speaker>>;

/// Makes the planes `flowspec` and `rtbh`. Nothing is asked of the daemon yet.
///
/// # Errors
/// What this machine lacks.
pub fn open(config: &Bgp) -> Result<Vec<Box<dyn Driver>>, String> {
    if config.marker.is_none() && machine::id().is_none() {
        let why = "this machine has no identity of its own (/etc/machine-id), by which its routes are known";
        return Err(format!("[bgp]: {why}: set bgp.marker, another one for each node"));
    }
    let speaker: Shared = match &config.daemon {
        BgpDaemon::GoBgp(address) => Arc::new(Mutex::new(GoBgp::new(*address)?)),
        BgpDaemon::ExaBgp(pipes) => Arc::new(Mutex::new(ExaBgp::new(pipes.clone(), marker(config)))),
    };
    let plane = |kind| -> Box<dyn Driver> { Box::new(Announcer::new(kind, config.clone(), Arc::clone(&speaker))) };
    Ok(vec![plane(Kind::FlowSpec), plane(Kind::BlackHole)])
}

/// Returns the large community of this agent: the configured one, or the AS, "ftag" in ASCII, and what tells this
/// machine from others that announce through the same daemon.
pub fn marker(config: &Bgp) -> LargeCommunity {
    config.marker.unwrap_or_else(|| {
        let digest = Sha256::digest(machine::id().unwrap_or_default().as_bytes());
        let second = digest.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte));
        LargeCommunity { global: config.asn, first: u32::from_be_bytes(*b"ftag"), second }
    })
}
