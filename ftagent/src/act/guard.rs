//! Puts the TCP guard's plan into force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ftagent_common::guard::{Guard, flags, port};

use crate::{
    bpf::{LoadError, guard::KernelGuard, rules::compile},
    decide::guard::{Plan, Ports},
    rule::{Action, Rate},
    sense::signals::PortSockets,
};

/// What the kernel is set to, and what the link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when a queue overflows, 2 always.
    pub syncookies: u8,
    /// `net.ipv4.tcp_timestamps`: 0 none, 1 with a secret offset, 2 without.
    pub timestamps: u8,
    /// The smallest MTU of the protected interfaces, bytes.
    pub mtu: u16,
    /// SYN-ACKs a second at most, over all CPUs.
    pub answers_per_second: u64,
    /// Jiffies in a second.
    pub hz: u64,
    /// There is more than one way out.
    pub many_routes: bool,
    /// A card may have taken the tags of VLANs off: an answer would leave without one.
    pub tags_lost: bool,
}

/// Bytes of the IP and TCP headers.
const HEADERS4: u16 = 40;
/// See [`HEADERS4`].
const HEADERS6: u16 = 60;

impl GuardSettings {
    /// Returns why SYNs cannot be answered by cookies; `None` where they can.
    pub fn no_cookies(&self) -> Option<&'static str> {
        if self.syncookies == 0 {
            return Some("net.ipv4.tcp_syncookies is 0: set it to 1, its default");
        }
        let lost = "there are VLANs on a protected interface and its card takes their tags off, so an answer would go \
                    astray: `ethtool -K INTERFACE rxvlan off` leaves them on (the kernel's own cookies go on meanwhile)";
        self.tags_lost.then_some(lost)
    }

    fn guard(&self, flags: u32, expires: u64) -> Guard {
        Guard {
            flags,
            mss4: self.mtu.saturating_sub(HEADERS4).max(536),
            mss6: self.mtu.saturating_sub(HEADERS6).max(1220),
            expires,
            answers: compile::state(Action::RateLimit(Rate::Pps(self.answers_per_second)), 0, self.hz),
        }
    }
}

/// Every port.
const PORTS: usize = 65_536;

/// What is armed in the kernel.
#[derive(Debug, Default)]
pub struct Present {
    /// As it was planned.
    pub plan: Plan,
    /// How many ports that is.
    pub ports: usize,
    /// The jiffy at which it ends.
    pub ends: u64,
}

/// The guard's driver. What is armed is in the kernel alone.
#[derive(Debug)]
pub struct GuardDriver {
    kernel: KernelGuard,
    own: BTreeSet<IpAddr>,
    scales: BTreeMap<u16, u8>,
}

impl GuardDriver {
    /// Takes the guard over as it is: an earlier life of the daemon may have armed it in an attack
    /// that goes on.
    pub fn new(kernel: KernelGuard) -> Self {
        let scale = |number: u16| {
            let bits = kernel.port(number);
            let known = (bits >> port::SCALE_SHIFT).checked_sub(1).filter(|_| bits & port::SYN != 0)?;
            Some((number, u8::try_from(known).ok()?))
        };
        let scales = (0..=u16::MAX).filter_map(scale).collect();
        Self { kernel, own: BTreeSet::new(), scales }
    }

    /// Returns what is armed.
    pub fn present(&self) -> Present {
        let (guard, mut present) = (self.kernel.get(), Present::default());
        if guard.flags & flags::ARMED == 0 {
            return present;
        }
        present.ends = guard.expires;
        for number in 0..=u16::MAX {
            let (bits, ports) = (self.kernel.port(number), Ports::of(number));
            present.ports += usize::from(bits != 0);
            if bits & port::SYN != 0 {
                present.plan.cookies.insert(number);
            }
            if bits & port::STATE != 0 {
                present.plan.state.insert(ports);
            }
            if bits & port::UDP != 0 {
                present.plan.closed.insert(ports);
            }
        }
        present
    }

    /// Says which addresses are this host's own.
    ///
    /// # Errors
    /// What the map says.
    pub fn set_own(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), LoadError> {
        if addresses != self.own {
            self.kernel.set_own(addresses.iter().copied())?;
            self.own = addresses;
        }
        Ok(())
    }

    /// Learns which window scales the kernel chooses. Returns whether that changes what an armed
    /// port has to answer.
    pub fn learn(&mut self, ports: &[PortSockets]) -> bool {
        let mut concerns = false;
        for sockets in ports {
            let number = sockets.port;
            let before = self.scales.get(&number).copied();
            match sockets.scale() {
                Some(scale) => drop(self.scales.insert(number, scale)),
                None if sockets.scales != 0 => drop(self.scales.remove(&number)),
                None => {}
            }
            let changed = self.scales.get(&number).copied() != before;
            concerns |= changed && self.kernel.port(number) & port::SYN != 0;
        }
        concerns
    }

    /// Lets what is armed go on until a jiffy.
    pub fn renew(&mut self, expires: u64) {
        self.kernel.renew(expires);
    }

    /// Arms what the plan says until a jiffy, and disarms everything else. An empty plan leaves the
    /// oracle on. Returns how many ports are armed.
    pub fn apply(&mut self, plan: &Plan, settings: &GuardSettings, expires: u64) -> usize {
        let wanted = self.bits(plan, settings);
        let any = wanted.iter().fold(0, |any, bits| any | bits);
        let mut flags = flags::ORACLE;
        flags |= if any & port::SYN != 0 { flags::SYN } else { 0 };
        flags |= if any & port::STATE != 0 { flags::STATE } else { 0 };
        flags |= if any & port::UDP != 0 { flags::UDP } else { 0 };
        flags |= if settings.timestamps == 2 { flags::TIMESTAMPS } else { 0 };
        flags |= if settings.syncookies == 2 { flags::ALWAYS } else { 0 };
        flags |= if settings.many_routes { flags::ROUTE } else { 0 };
        // Ports before flags on the way up; on the way down a port without bits is not looked at.
        for (number, bits) in (0..=u16::MAX).zip(&wanted) {
            if self.kernel.port(number) != *bits {
                self.kernel.arm(number, *bits);
            }
        }
        self.kernel.set(settings.guard(flags, expires));
        wanted.iter().filter(|bits| **bits != 0).count()
    }

    /// Returns the bits of every port.
    fn bits(&self, plan: &Plan, settings: &GuardSettings) -> Vec<u32> {
        let mut bits = vec![0; PORTS];
        let mut add = |number: u16, what: u32| {
            if let Some(bits) = bits.get_mut(usize::from(number)) {
                *bits |= what;
            }
        };
        plan.state.iter().flat_map(|ports| ports.each()).for_each(|number| add(number, port::STATE));
        plan.closed.iter().flat_map(|ports| ports.each()).for_each(|number| add(number, port::UDP));
        if settings.no_cookies().is_none() {
            for number in &plan.cookies {
                let scale = self.scales.get(number).map_or(0, |scale| u32::from(*scale) + 1);
                add(*number, port::SYN | scale << port::SCALE_SHIFT);
            }
        }
        bits
    }
}
