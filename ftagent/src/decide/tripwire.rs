//! What the kernel is told beforehand, so that the first packets that are too much need not wait for
//! a tick.
//!
//! Every class has a copy of its detector's bucket in the kernel, and the packet that fills it wakes the
//! daemon. What is dropped before anybody has judged it is only what nobody has business in. A class that
//! carries customers is thinned while an incident that is acted on has no safe rule, and not before: a
//! flash crowd crosses ceilings too.

use std::collections::{BTreeMap, BTreeSet};

use ftagent_common::{TrafficClass, tripwire::SPARED_PORTS};
use serde::{Deserialize, Serialize};

use super::{
    Metric, Now,
    baseline::{Baselines, no_business},
    detect::{evidence, limits},
    mitigate::Mode,
};

/// A leaky bucket: what it loses a second, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Packets or bits a second.
    pub rate: f64,
    /// Packets or bits.
    pub depth: f64,
}

impl Bucket {
    /// Returns the bucket of a limit: it evens out what comes within a fortieth of a second.
    pub fn of_rate(rate: f64) -> Self {
        Self { rate, depth: rate / 40.0 }
    }
}

/// What is dropped of a class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Police {
    /// Packets a second that pass.
    pub pps: f64,
    /// Packets a second that pass beside those, of what is to be spared.
    pub spared_pps: f64,
    /// Whether what goes to a socket that talks to anybody is to be spared. Connections always are.
    pub spares_open: bool,
}

/// What is held against a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Wakes the daemon when it is full of packets.
    pub wake_pps: Option<Bucket>,
    /// Wakes the daemon when it is full of bits.
    pub wake_bps: Option<Bucket>,
    /// Drops.
    pub police: Option<Police>,
}

/// Returns the destination ports of a class that are spared where it is policed, in its pool beside: what keeps
/// paths and addresses up, and is of no class of its own. 0: none. (BFD has more: see [`spares_bfd`].)
pub const fn spared_ports(class: TrafficClass) -> [u16; SPARED_PORTS] {
    match class {
        // Short messages of DHCPv6, to clients, and to servers and relays (RFC 9915, 7.2): most solicits are.
        TrafficClass::UdpSmall => [546, 547, 0, 0],
        // DHCP of IPv4 has 236 bytes at least (RFC 2131, 2); both, either way.
        TrafficClass::UdpMedium => [67, 68, 546, 547],
        _ => [0; SPARED_PORTS],
    }
}

/// Returns whether BFD is of a class, and spared in the same way: 24 bytes, and what authenticates them
/// (RFC 5880, 4.1).
pub const fn spares_bfd(class: TrafficClass) -> bool {
    matches!(class, TrafficClass::UdpSmall)
}

/// What a tick says.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Its end.
    pub now: Now,
    /// What is normal.
    pub baselines: &'a Baselines,
    /// Whether that is trusted.
    pub trusted: bool,
    /// Whether anything is dropped.
    pub mode: Mode,
    /// Classes of the open incident, about which everybody is awake already.
    pub open: &'a BTreeSet<TrafficClass>,
    /// Classes that are thinned, packets a second.
    pub thinned: &'a BTreeMap<TrafficClass, f64>,
}

/// What is held against all classes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tripwire {
    ceilings: Vec<Ceiling>,
    generation: u64,
    at_ns: Option<u64>,
    acts: bool,
    thinned: BTreeMap<TrafficClass, f64>,
    open: BTreeSet<TrafficClass>,
}

impl Default for Tripwire {
    fn default() -> Self {
        Self {
            ceilings: vec![Ceiling::default(); TrafficClass::COUNT],
            generation: 0,
            at_ns: None,
            acts: false,
            thinned: BTreeMap::new(),
            open: BTreeSet::new(),
        }
    }
}

/// Thresholds move slowly: they are looked at this often.
const EVERY_NS: u64 = 1_000_000_000;
/// The daemon is woken by a little more than its own bucket needs: samples are estimates.
const MARGIN: f64 = 1.1;
/// What is spared passes up to so many times what is normal …
const SPARED: f64 = 10.0;
/// … and at least this, packets a second.
const SPARED_LEAST: f64 = 100.0;

impl Tripwire {
    /// Ends a tick.
    pub fn on_tick(&mut self, scene: &Scene<'_>) {
        let due = self.at_ns.is_none_or(|at| scene.now.mono_ns.saturating_sub(at) >= EVERY_NS);
        let acts = scene.mode.acts(scene.trusted);
        if !due && self.acts == acts && self.thinned == *scene.thinned && self.open == *scene.open {
            return;
        }
        self.acts = acts;
        self.at_ns = Some(scene.now.mono_ns);
        self.thinned.clone_from(scene.thinned);
        self.open.clone_from(scene.open);
        let ceilings: Vec<Ceiling> = TrafficClass::ALL.into_iter().map(|class| ceiling(class, scene)).collect();
        if ceilings != self.ceilings {
            self.ceilings = ceilings;
            self.generation += 1;
        }
    }

    /// Returns what is held, by class number, and a number that changes whenever that does.
    pub fn ceilings(&self) -> (&[Ceiling], u64) {
        (&self.ceilings, self.generation)
    }
}

fn ceiling(class: TrafficClass, scene: &Scene<'_>) -> Ceiling {
    let of = |metric| limits(scene.baselines, class, metric, scene.trusted);
    let (pps, bps) = (of(Metric::Pps), of(Metric::Bps));
    let wake = |metric, threshold: f64| {
        let bucket = Bucket { rate: threshold, depth: MARGIN * evidence(class, metric, threshold) };
        (threshold.is_finite() && !scene.open.contains(&class)).then_some(bucket)
    };
    let spared_pps = (SPARED * pps.baseline).max(SPARED_LEAST);
    // Resolvers answer to sockets that may talk to anybody.
    let spares_open = no_business(class) || class == TrafficClass::UdpSrcDns;
    let thinned = scene.thinned.get(&class).copied();
    // No stack sends what is malformed, and rules cannot tell one such packet from another.
    let broken = class == TrafficClass::Malformed && !scene.open.is_empty();
    let most =
        thinned.or_else(|| ((no_business(class) || broken) && pps.threshold.is_finite()).then_some(pps.threshold));
    // What is new here may be what this node lives on: until normal is known, somebody looks first.
    let police = most.filter(|_| scene.mode.acts(scene.trusted)).map(|pps| Police { pps, spared_pps, spares_open });
    Ceiling { wake_pps: wake(Metric::Pps, pps.threshold), wake_bps: wake(Metric::Bps, bps.threshold), police }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mode: Mode, open: Option<TrafficClass>, thinned: &[(TrafficClass, f64)]) -> Tripwire {
        let (baselines, thinned) = (Baselines::default(), thinned.iter().copied().collect());
        let open = open.into_iter().collect();
        let mut tripwire = Tripwire::default();
        let now = Now { mono_ns: 5, unix_ms: 0 };
        tripwire.on_tick(&Scene { now, baselines: &baselines, trusted: true, mode, open: &open, thinned: &thinned });
        tripwire
    }

    #[test]
    fn nothing_that_may_carry_customers_is_dropped_before_it_was_judged() {
        for mode in [Mode::Observe, Mode::Auto, Mode::Enforce] {
            let tripwire = after(mode, None, &[]);
            for class in TrafficClass::ALL {
                let ceiling = tripwire.ceilings().0[class.index()];
                let drops = no_business(class) && mode != Mode::Observe;
                assert_eq!(ceiling.police.is_some(), drops, "{} in {mode:?}", class.as_str());
                assert!(ceiling.wake_pps.is_some(), "{} wakes in every mode", class.as_str());
            }
        }
    }

    #[test]
    fn while_nothing_is_known_nothing_is_dropped_unseen() {
        for (mode, drops) in [(Mode::Observe, false), (Mode::Auto, false), (Mode::Enforce, true)] {
            let (baselines, now) = (Baselines::default(), Now { mono_ns: 5, unix_ms: 0 });
            let (open, thinned) = (BTreeSet::new(), BTreeMap::new());
            let mut tripwire = Tripwire::default();
            tripwire.on_tick(&Scene {
                now,
                baselines: &baselines,
                trusted: false,
                mode,
                open: &open,
                thinned: &thinned,
            });
            assert_eq!(tripwire.ceilings().0.iter().any(|ceiling| ceiling.police.is_some()), drops, "{mode:?}");
        }
    }

    #[test]
    fn an_operator_who_looks_on_is_heard_at_once() {
        let mut tripwire = after(Mode::Enforce, None, &[]);
        let (baselines, now) = (Baselines::default(), Now { mono_ns: 6, unix_ms: 0 });
        let (open, thinned, mode) = (BTreeSet::new(), BTreeMap::new(), Mode::Observe);
        tripwire.on_tick(&Scene { now, baselines: &baselines, trusted: true, mode, open: &open, thinned: &thinned });
        assert!(tripwire.ceilings().0.iter().all(|ceiling| ceiling.police.is_none()));
    }

    #[test]
    fn what_is_malformed_is_dropped_in_an_attack() {
        let of = |mode, open| after(mode, open, &[]).ceilings().0[TrafficClass::Malformed.index()].police;
        assert_eq!(of(Mode::Auto, None), None);
        assert!(of(Mode::Auto, Some(TrafficClass::TcpSyn)).is_some(), "sources at random are martians in part");
        assert_eq!(of(Mode::Observe, Some(TrafficClass::TcpSyn)), None);
    }

    #[test]
    fn what_is_thinned_is_dropped_and_said_at_once() {
        let class = TrafficClass::UdpMedium;
        let mut tripwire = after(Mode::Enforce, Some(class), &[(class, 4000.0)]);
        let (ceilings, first) = tripwire.ceilings();
        let ceiling = ceilings[class.index()];
        assert_eq!(ceiling.police.map(|police| (police.pps, police.spares_open)), Some((4000.0, false)));
        assert_eq!(ceiling.wake_pps, None, "who is awake need not be woken");
        let (baselines, now) = (Baselines::default(), Now { mono_ns: 6, unix_ms: 0 });
        let (open, thinned) = (BTreeSet::new(), BTreeMap::new());
        let mode = Mode::Enforce;
        tripwire.on_tick(&Scene { now, baselines: &baselines, trusted: true, mode, open: &open, thinned: &thinned });
        let (ceilings, second) = tripwire.ceilings();
        assert!(second > first && ceilings[class.index()].police.is_none(), "within the tick, not the second");
    }
}
