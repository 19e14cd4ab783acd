//! The TCP guard in the running daemon: what is decided is in force before the tick is over.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use tracing::{info, warn};

use super::mitigator::Beat;
use crate::{
    act::guard::{GuardDriver, GuardSettings},
    decide::guard::Plan,
    sense::{host::HostRoot, signals::HostSignals},
};

/// SYN-ACKs a second at most where the link's speed is not known: a tenth of a gigabit of 64-byte
/// frames with their preamble.
const ANSWERS: u64 = 148_000;
/// Bits of a SYN-ACK on the wire: 84 bytes with preamble and gap.
const ANSWER_BITS: u64 = 672;
/// Share of the link that answers may take.
const LINK_SHARE: u64 = 10;

/// The guard's driver, and what it was told.
#[derive(Debug)]
pub(super) struct Gate {
    driver: GuardDriver,
    settings: GuardSettings,
    generation: Option<u64>,
    beat: Beat,
    renewed_ns: u64,
}

/// What is armed ends by itself after so many seconds without the daemon.
const TTL_S: u64 = 30;
/// It is renewed this often.
const EVERY_NS: u64 = 1_000_000_000;

impl Gate {
    /// Takes the guard over, disarmed.
    pub(super) fn new(driver: GuardDriver, settings: GuardSettings, beat: Beat) -> Self {
        Self { driver, settings, generation: None, beat, renewed_ns: 0 }
    }

    /// Takes new settings and addresses; they hold from the next tick on.
    pub(super) fn set(&mut self, settings: GuardSettings, own: BTreeSet<IpAddr>, beat: Beat) {
        self.beat = beat;
        if let Err(error) = self.driver.set_own(own) {
            warn!(error = crate::chain(&error), "The guard could not be told this host's addresses.");
        }
        if settings != self.settings {
            (self.settings, self.generation) = (settings, None);
        }
    }

    /// Puts a plan into force where it changed, and renews it.
    pub(super) fn follow(&mut self, now_ns: u64, (plan, generation): (&Plan, u64), host: Option<&HostSignals>) {
        if let Some(ports) = host.and_then(|host| host.ports.as_ref()) {
            self.driver.learn(ports);
        }
        let jiffies = self.beat.at(now_ns);
        let expires = jiffies.now.saturating_add(TTL_S * jiffies.hz);
        if self.generation == Some(generation) {
            if now_ns.saturating_sub(self.renewed_ns) >= EVERY_NS {
                self.driver.renew(expires);
                self.renewed_ns = now_ns;
            }
            return;
        }
        let before = self.driver.armed();
        self.driver.apply(plan, &self.settings, expires);
        self.generation = Some(generation);
        let armed = self.driver.armed();
        if armed != before {
            let (cookies, state, closed) = (plan.cookies.len(), plan.state.len(), plan.closed.len());
            info!(cookies, state, closed, "The guard is armed for {armed} ports.");
            if let Some(why) = self.settings.no_cookies().filter(|_| cookies > 0) {
                warn!("SYNs cannot be answered by cookies: {why}.");
            }
        }
    }
}

/// Reads what the kernel is set to. What cannot be read is taken for the kernel's default.
pub(super) fn settings(root: &HostRoot, interfaces: &[&str], routes: usize, hz: u64) -> GuardSettings {
    let number = |path: &Path| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i64>().ok());
    let sysctl = |name: &str| {
        let value = number(&root.proc.join("sys/net/ipv4").join(name));
        value.and_then(|value| u8::try_from(value).ok()).unwrap_or(1)
    };
    let of = |name: &str, what: &str| number(&root.sys.join("class/net").join(name).join(what));
    let mtu = interfaces.iter().filter_map(|name| of(name, "mtu")).min();
    // Megabits a second; -1 where the driver does not know.
    let speed = interfaces.iter().filter_map(|name| of(name, "speed")).filter(|speed| *speed > 0).min();
    let answers =
        speed.and_then(|speed| u64::try_from(speed).ok()).map(|speed| speed * 1_000_000 / LINK_SHARE / ANSWER_BITS);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    GuardSettings {
        syncookies: sysctl("tcp_syncookies"),
        timestamps: sysctl("tcp_timestamps"),
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500),
        answers_per_second: answers.unwrap_or(ANSWERS),
        cpus: u32::try_from(cpus).unwrap_or(1),
        hz,
        many_routes: routes > 1 || interfaces.len() > 1,
    }
}
