//! The ladder: its policy, from the configuration and what is known of this host, and what operators ask.

use std::{collections::BTreeMap, fs, net::IpAddr};

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde_json::{Value, to_value};
use tracing::{info, warn};

use super::{
    Agent,
    planes::{
        self,
        routes::{Found, Routes},
    },
};
use crate::{
    config::UplinkConfig,
    decide::ladder::{Kept, Saved, Upstream},
    record::ladder,
    sense::{
        host::{HostFacts, HostRoot},
        uplink::Capacity,
    },
    serve::{
        control::Caller,
        protocol::{LadderPlan, LadderSaid, Word},
    },
};

/// Loads that a plan is made for at most, and the largest.
const FACTORS: usize = 8;
const MOST_FACTOR: u32 = 10_000;

impl Agent {
    /// Makes the planes' drivers; nothing is asked of them yet.
    pub(super) fn open_planes(&mut self) {
        let (drivers, told) = planes::open(&self.config);
        self.planes = planes::names(&drivers);
        self.drivers = drivers;
        for why in told {
            warn!("{why}");
            self.warnings.push(why);
        }
        for rung in self.config.ladder.missing(&self.planes) {
            let why = format!("the rung `{rung}` of the ladder is left out: no plane of this name is configured");
            warn!("{why}");
            self.warnings.push(why);
        }
    }

    /// Starts the planes' threads, with what an earlier life of the daemon left upstream. Returns what it had written
    /// down.
    pub(super) fn start_planes(&mut self) -> Option<Saved> {
        let (saved, told) = ladder::load(&self.config.paths.state);
        if let Some(why) = told {
            warn!("{why}");
            self.warnings.push(why);
        }
        let live = saved.as_ref().map(Saved::live).unwrap_or_default();
        let Found { routes, lost, told } = Routes::open(&self.config, &live);
        for why in told.into_iter().chain(planes::orphans(&self.config, &live, &lost)) {
            warn!("{why}");
            self.warnings.push(why);
        }
        if saved.as_ref().is_some_and(Saved::is_up) {
            info!("The ladder goes on where an earlier life of the daemon stopped.");
        }
        self.brain.start_planes(std::mem::take(&mut self.drivers), routes, saved.clone(), &self.audit);
        saved
    }

    /// Tells the ladder its policy, and what may never be black-holed.
    pub(super) fn refresh_upstream(&mut self) {
        let names: Vec<String> = self.ifaces.iter().map(|iface| iface.name.clone()).collect();
        let capacity = capacity(&self.config.uplink, &self.host, &names);
        let mut kept = carrying(self.facts());
        remember(&mut self.kept, &mut kept);
        kept.extend(self.config.ladder.never_black_hole.iter().copied().map(named));
        let protected = self.config.bgp.iter().flat_map(|bgp| bgp.protect.iter().copied());
        kept.extend(protected.map(|net| Kept { net, why: "what `bgp.protect` names".to_owned() }));
        kept.sort_by(|a, b| a.net.cmp(&b.net).then(a.why.cmp(&b.why)));
        let mut allowed = self.config.lists.allow.clone();
        allowed.extend(self.store.prefixes(crate::bpf::lists::Which::Allow));
        allowed.extend(self.config.bgp.iter().flat_map(crate::config::Bgp::guests));
        allowed.sort();
        allowed.dedup();
        let policy = self.config.ladder.policy(&self.planes);
        let bgp = self.config.bgp.as_ref();
        let mut space = self.config.uplink.prefixes.clone();
        if let Some(bgp) = bgp.filter(|_| space.is_empty()) {
            space.clone_from(&bgp.own_prefixes);
        }
        self.brain.set_upstream(Upstream { policy, space, kept, allowed }, capacity);
    }

    /// Says what would happen.
    pub(super) fn ladder_plan(&self, factors: &[u32]) -> Result<LadderPlan> {
        if factors.is_empty() || factors.len() > FACTORS || factors.iter().any(|of| !(1..=MOST_FACTOR).contains(of)) {
            bail!("give 1 to {FACTORS} factors from 1 to {MOST_FACTOR}");
        }
        match self.brain.plan(factors) {
            Ok((plans, assumed)) => Ok(LadderPlan { plans, assumed }),
            Err(why) => bail!("nothing can be foretold: {why}"),
        }
    }

    /// Does what an operator says.
    pub(super) fn ladder_word(&self, word: Word, dry_run: bool, caller: &Caller) -> Result<Value> {
        match self.brain.say(word, dry_run) {
            Ok(moves) => {
                if !dry_run {
                    info!(by = %caller.name, ?word, "An operator spoke to the ladder.");
                }
                Ok(to_value(LadderSaid { moves, dry_run })?)
            }
            Err(why) => bail!("{why}"),
        }
    }
}

/// Addresses that are remembered to have carried sessions at most.
const STICKY: usize = 256;

/// What once carried a session of an operator does so again: it stays kept for the life of the daemon. What the
/// configuration names is kept for as long as it does.
fn remember(known: &mut Vec<Kept>, carrying: &mut Vec<Kept>) {
    for one in carrying.iter() {
        if known.len() < STICKY && !known.iter().any(|known| known.net == one.net) {
            known.push(one.clone());
        }
    }
    let missing = known.iter().filter(|known| !carrying.iter().any(|one| one.net == known.net));
    let missing: Vec<Kept> = missing.cloned().collect();
    carrying.extend(missing);
}

fn named(net: IpNet) -> Kept {
    Kept { net, why: "what `ladder.never_black_hole` names".to_owned() }
}

/// Returns what carries sessions by which this host is reached.
fn carrying(facts: &HostFacts) -> Vec<Kept> {
    let mut kept: BTreeMap<IpNet, String> =
        facts.carrying.iter().map(|(address, what)| (IpNet::from(*address), (*what).to_owned())).collect();
    for gateway in facts.default_routes.iter().filter_map(|route| route.gateway) {
        kept.insert(gateway.into(), "the way to the network: it is the gateway".to_owned());
    }
    let global = |net: &&IpNet| match net.addr() {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    for v4 in [true, false] {
        let mut own = facts
            .addresses
            .iter()
            .filter(global)
            .filter(|net| net.addr().is_ipv4() == v4 && net.prefix_len() == net.max_prefix_len());
        if let (Some(only), None) = (own.next(), own.next()) {
            kept.entry(*only).or_insert_with(|| "every login: it is the only address of this host".to_owned());
        }
    }
    kept.into_iter().map(|(net, why)| Kept { net, why }).collect()
}

/// Returns what the uplink carries: as it is stated, or as the drivers say.
fn capacity(config: &UplinkConfig, root: &HostRoot, names: &[String]) -> Capacity {
    let speed = |name: &String| {
        let text = fs::read_to_string(root.sys.join("class/net").join(name).join("speed")).ok()?;
        // Megabits a second; -1 where the driver does not know.
        let megabits = text.trim().parse::<i64>().ok().filter(|speed| *speed > 0)?;
        Some((name.clone(), megabits as f64 * 1e6))
    };
    Capacity {
        stated_bps: config.capacity_bps.map(|bits| bits as f64),
        links: names.iter().filter_map(speed).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carried_a_session_is_remembered() {
        let kept = |net: &str, why: &str| Kept { net: net.parse().unwrap(), why: why.to_owned() };
        let mut known = Vec::new();
        let mut now = vec![kept("192.0.2.1/32", "an SSH session")];
        remember(&mut known, &mut now);
        // The session ended, and another began elsewhere.
        let mut now = vec![kept("192.0.2.2/32", "a BGP session")];
        remember(&mut known, &mut now);
        assert_eq!(now, [kept("192.0.2.2/32", "a BGP session"), kept("192.0.2.1/32", "an SSH session")]);
        // No more than there is room for.
        let mut many: Vec<Kept> = (0..300).map(|i| kept(&format!("198.51.{}.{}/32", i / 256, i % 256), "x")).collect();
        remember(&mut known, &mut many);
        assert_eq!((known.len(), many.len()), (STICKY, 302));
    }

    #[test]
    fn what_reaches_this_host_is_kept_and_capacity_is_told_honestly() {
        let facts = HostFacts {
            addresses: ["192.0.2.1/32", "127.0.0.0/8", "2001:db8::1/128", "2001:db8::2/128"]
                .into_iter()
                .map(|net| net.parse().unwrap())
                .collect(),
            carrying: [("2001:db8::2".parse().unwrap(), "an SSH session")].into(),
            ..HostFacts::default()
        };
        let kept = carrying(&facts);
        let kept: Vec<String> = kept.into_iter().map(|kept| format!("{} {}", kept.net, kept.why)).collect();
        assert_eq!(
            kept,
            ["192.0.2.1/32 every login: it is the only address of this host", "2001:db8::2/128 an SSH session"]
        );
        let dir = tempfile::tempdir().unwrap();
        for (name, speed) in [("eth0", "1000\n"), ("tun0", "-1\n")] {
            fs::create_dir_all(dir.path().join("sys/class/net").join(name)).unwrap();
            fs::write(dir.path().join("sys/class/net").join(name).join("speed"), speed).unwrap();
        }
        let names = ["eth0", "tun0", "gone"].map(str::to_owned);
        let found = capacity(&UplinkConfig::default(), &HostRoot::at(dir.path()), &names);
        assert_eq!((found.stated_bps, found.links), (None, [("eth0".to_owned(), 1e9)].into()));
    }
}
