//! The TCP guard in the running daemon: what is decided is in force before the tick is over.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use tracing::{info, warn};

use super::mitigator::Beat;
use crate::{
    act::guard::{GuardDriver, GuardSettings, Present},
    decide::{
        Decider,
        guard::{Plan, Transport},
    },
    sense::{clock, host::HostRoot, signals::HostSignals},
    serve::protocol::{GuardPort, GuardStatus},
    sys::ethtool,
};

/// SYN-ACKs a second at most where the link's speed is not known, as of virtual devices: a tenth of
/// ten gigabits. A million spoofed SYNs a second can be answered.
const ANSWERS: u64 = 10_000_000_000 / LINK_SHARE / ANSWER_BITS;
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
    armed: usize,
    /// What an earlier life of the daemon armed. It is not renewed: it holds until something is
    /// wanted, or it ends by itself.
    inherited: Option<Present>,
}

/// What is armed ends by itself after so many seconds without the daemon.
const TTL_S: u64 = 30;
/// It is renewed this often.
const EVERY_NS: u64 = 1_000_000_000;

impl Gate {
    /// Takes the guard over as it is.
    pub(super) fn new(driver: GuardDriver, settings: GuardSettings, beat: Beat) -> Self {
        let (present, jiffies) = (driver.present(), beat.at(clock::monotonic_ns()));
        let inherited = Some(present).filter(|present| present.ports > 0 && present.ends > jiffies.now);
        let armed = inherited.as_ref().map_or(0, |present| present.ports);
        if armed > 0 {
            info!("The guard was armed for {armed} ports by an earlier life and stays so until that ends.");
        }
        Self { driver, settings, generation: None, beat, renewed_ns: 0, armed, inherited }
    }

    /// Takes new settings and addresses; they hold from the next tick on. `acts`: whether anything may
    /// be dropped.
    pub(super) fn set(&mut self, settings: GuardSettings, own: BTreeSet<IpAddr>, beat: Beat, acts: bool) {
        self.beat = beat;
        if let Err(error) = self.driver.set_own(own) {
            warn!(error = crate::chain(&error), "The guard could not be told this host's addresses.");
        }
        if settings != self.settings {
            (self.settings, self.generation) = (settings, None);
        }
        if !acts {
            self.inherited = None;
        }
    }

    /// Puts a plan into force where it changed, and renews it.
    pub(super) fn follow(&mut self, now_ns: u64, (plan, generation): (&Plan, u64), host: Option<&HostSignals>) {
        let ports = host.and_then(|host| host.ports.as_ref());
        if ports.is_some_and(|ports| self.driver.learn(ports)) {
            self.generation = None;
        }
        let jiffies = self.beat.at(now_ns);
        if let Some(inherited) = &self.inherited {
            if plan.is_empty() && jiffies.now < inherited.ends {
                return;
            }
            self.inherited = None;
        }
        let expires = jiffies.now.saturating_add(TTL_S * jiffies.hz);
        if self.generation == Some(generation) {
            if now_ns.saturating_sub(self.renewed_ns) >= EVERY_NS {
                self.driver.renew(expires);
                self.renewed_ns = now_ns;
            }
            return;
        }
        let armed = self.driver.apply(plan, &self.settings, expires);
        self.generation = Some(generation);
        if armed != self.armed {
            let (cookies, state, closed) = (plan.cookies.len(), plan.state.len(), plan.closed.len());
            info!(cookies, state, closed, "The guard is armed for {armed} ports.");
            if let Some(why) = self.settings.no_cookies().filter(|_| cookies > 0) {
                warn!("SYNs cannot be answered by cookies: {why}.");
            }
        }
        self.armed = armed;
    }

    /// Returns how it is, for people.
    pub(super) fn status(&self, decider: &Decider) -> GuardStatus {
        let plan = self.inherited.as_ref().map_or(decider.guard().0, |inherited| &inherited.plan);
        let cause = decider.guard_cause();
        let jiffies = self.beat.at(clock::monotonic_ns());
        let left = |ends: u64| ends.saturating_sub(jiffies.now) / jiffies.hz.max(1);
        let mut ports: Vec<GuardPort> = decider
            .validation()
            .iter()
            .map(|(transport, ports, found)| GuardPort {
                transport,
                ports,
                asked: found.asked,
                found: found.found,
                listens: transport == Transport::Tcp && decider.validation().listens(ports),
                armed: plan.has(transport, ports),
                why_not: found.why_not(),
            })
            .collect();
        ports.sort_by(|a, b| b.asked.total_cmp(&a.asked));
        GuardStatus {
            since_ms: cause.map(|(since, _)| since.unix_ms),
            vectors: cause.map_or_else(Vec::new, |(_, vectors)| vectors.to_vec()),
            inherited_s: self.inherited.as_ref().map(|inherited| left(inherited.ends)),
            cookies: if self.settings.no_cookies().is_none() { plan.cookies.clone() } else { BTreeSet::new() },
            state: plan.state.clone(),
            closed: plan.closed.clone(),
            no_cookies: self.settings.no_cookies().map(str::to_owned),
            no_options: (self.settings.timestamps != 2).then(|| NO_OPTIONS.to_owned()),
            answers_per_second: self.settings.answers_per_second,
            ports,
        }
    }
}

/// What is lost where timestamps have a secret offset, or none are sent.
const NO_OPTIONS: &str =
    "connections made in a flood have no window scale and no SACK: net.ipv4.tcp_timestamps = 2 would keep them";

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
    GuardSettings {
        syncookies: sysctl("tcp_syncookies"),
        timestamps: sysctl("tcp_timestamps"),
        mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500),
        answers_per_second: answers.unwrap_or(ANSWERS),
        hz,
        many_routes: routes > 1 || interfaces.len() > 1,
        // What cannot be known may be so.
        tags_lost: interfaces.iter().any(|name| has_vlans(root, name) && ethtool::strips_tags(name).unwrap_or(true)),
    }
}

/// Returns whether there are VLANs on top of an interface, whose tags matter.
fn has_vlans(root: &HostRoot, interface: &str) -> bool {
    let class = root.sys.join("class/net");
    let Ok(entries) = fs::read_dir(class.join(interface)) else { return false };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut uppers = names.filter_map(|name| Some(name.strip_prefix("upper_")?.to_owned()));
    uppers.any(|upper| {
        let about = fs::read_to_string(class.join(upper).join("uevent"));
        about.is_ok_and(|about| about.lines().any(|line| line == "DEVTYPE=vlan"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_on_an_interface_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("class/net");
        for (name, uevent) in [("eth0", ""), ("eth0.10", "DEVTYPE=vlan\n"), ("eth1", ""), ("br0", "DEVTYPE=bridge\n")] {
            fs::create_dir_all(class.join(name)).unwrap();
            fs::write(class.join(name).join("uevent"), format!("{uevent}INTERFACE={name}\n")).unwrap();
        }
        fs::create_dir_all(class.join("eth0/upper_eth0.10")).unwrap();
        fs::create_dir_all(class.join("eth1/upper_br0")).unwrap();
        let root = HostRoot { proc: dir.path().to_owned(), sys: dir.path().to_owned(), ..HostRoot::default() };
        assert!(has_vlans(&root, "eth0"));
        assert!(!has_vlans(&root, "eth1") && !has_vlans(&root, "eth2"));
        // A driver of no such device tells nothing: no answer goes out without its tag.
        let settings = |names: &[&str]| settings(&root, names, 1, 250);
        assert!(!settings(&["eth1"]).tags_lost && settings(&["eth1"]).no_cookies().is_none());
    }
}
