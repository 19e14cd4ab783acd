//! What must stay reachable, from what is known of this host.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Agent, gate, mitigator::Beat, rules::mode_of};
use crate::{
    act::guard::GuardSettings,
    decide::mitigate::{Exempt, Mode},
    rule::check::{Guarded, exempt_flows},
    sense::host::{Guard, HostFacts},
};

/// How old addresses and routes of this host may be when input is checked against them.
const FACTS_AGE: Duration = Duration::from_secs(10);

impl Agent {
    /// Returns what is known of this host. Who operates is read anew each time; addresses and routes,
    /// which may be a full table, every ten seconds at most.
    pub(super) fn facts(&mut self) -> &HostFacts {
        match &mut self.facts {
            Some((at, facts)) if at.elapsed() < FACTS_AGE => facts.refresh_operators(&self.host),
            stale => *stale = None,
        }
        &self.facts.get_or_insert_with(|| (Instant::now(), HostFacts::read(&self.host))).1
    }

    /// Returns what blocks and feeds are checked against.
    pub(super) fn guard(&mut self) -> Guard {
        Guard::from(self.facts())
    }

    /// Returns what rules are checked against; `caller` is the peer of the SSH session that asks.
    pub(super) fn guarded(&mut self, caller: Option<IpAddr>) -> Guarded {
        let facts = self.facts();
        Guarded {
            own: facts.addresses.iter().copied().filter(|net| !net.addr().is_loopback()).collect(),
            gateways: facts.default_routes.iter().filter_map(|route| route.gateway).collect(),
            resolvers: facts.resolvers.iter().copied().collect(),
            ssh_ports: facts.ssh_ports.iter().copied().collect(),
            operators: facts.operators.iter().copied().collect(),
            caller: caller.map(|address| address.to_canonical()),
            bgp: facts.bgp_peers.iter().copied().collect(),
        }
    }

    /// Returns what the guard depends on.
    pub(super) fn gate_settings(&mut self) -> GuardSettings {
        let routes = self.facts().default_routes.iter().map(|route| route.interface.clone()).collect::<BTreeSet<_>>();
        let names: Vec<&str> = self.ifaces.iter().map(|iface| iface.name.as_str()).collect();
        gate::settings(&self.host, &names, routes.len(), self.clock.hz())
    }

    /// Tells the decisions what no rule may match, whether rules are made, and what time it is to
    /// the kernel.
    pub(super) fn refresh_bounds(&mut self) {
        let guarded = self.guarded(None);
        let own = guarded.own.iter().filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr());
        let exempt = Exempt { flows: exempt_flows(&guarded), own: own.collect() };
        let own = exempt.own.iter().copied().collect();
        self.brain.set_bounds(exempt, mode_of(&self.config));
        self.refresh_upstream();
        self.brain.set_beat(Beat::from(&self.clock));
        let (settings, beat) = (self.gate_settings(), Beat::from(&self.clock));
        let ports = guarded.ssh_ports;
        self.brain.set_trap(|trap| {
            trap.map(|mut trap| {
                trap.set(ports, beat);
                trap
            })
        });
        let acts = mode_of(&self.config) != Mode::Observe;
        self.brain.set_gate(|gate| {
            gate.map(|mut gate| {
                gate.set(settings, own, beat, acts);
                gate
            })
        });
    }
}
