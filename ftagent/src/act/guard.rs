//! Puts the TCP guard's plan into force.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ftagent_common::guard::{Guard, flags, port};

use crate::{
    bpf::{LoadError, guard::KernelGuard},
    decide::guard::Plan,
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
    /// CPUs that may answer.
    pub cpus: u32,
    /// Jiffies in a second.
    pub hz: u64,
    /// There is more than one way out.
    pub many_routes: bool,
}

/// Bytes of the IP and TCP headers.
const HEADERS4: u16 = 40;
/// See [`HEADERS4`].
const HEADERS6: u16 = 60;

impl GuardSettings {
    /// Returns why SYNs cannot be answered by cookies; `None` where they can.
    pub fn no_cookies(&self) -> Option<&'static str> {
        (self.syncookies == 0).then_some("net.ipv4.tcp_syncookies is 0: set it to 1, its default")
    }

    fn guard(&self, flags: u32, expires: u64) -> Guard {
        let share = self.answers_per_second / (self.hz.max(1) * u64::from(self.cpus.max(1)));
        Guard {
            flags,
            answers_per_jiffy: u32::try_from(share.max(1)).unwrap_or(u32::MAX),
            mss4: self.mtu.saturating_sub(HEADERS4).max(536),
            mss6: self.mtu.saturating_sub(HEADERS6).max(1220),
            _pad: 0,
            expires,
        }
    }
}

/// The guard's driver.
#[derive(Debug)]
pub struct GuardDriver {
    kernel: KernelGuard,
    /// The bits of every port that has any.
    armed: BTreeMap<u16, u32>,
    own: BTreeSet<IpAddr>,
    scales: BTreeMap<u16, u8>,
}

impl GuardDriver {
    /// Takes the guard over and disarms it: who armed it is gone, and so is what it knew.
    pub fn new(mut kernel: KernelGuard) -> Self {
        kernel.disarm();
        for number in 0..=u16::MAX {
            if kernel.port(number) != 0 {
                kernel.arm(number, 0);
            }
        }
        Self { kernel, armed: BTreeMap::new(), own: BTreeSet::new(), scales: BTreeMap::new() }
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

    /// Learns which window scales the kernel chooses.
    pub fn learn(&mut self, ports: &[PortSockets]) {
        for sockets in ports {
            match sockets.scale() {
                Some(scale) => drop(self.scales.insert(sockets.port, scale)),
                None if sockets.scales != 0 => drop(self.scales.remove(&sockets.port)),
                None => {}
            }
        }
    }

    /// Lets what is armed go on until a jiffy.
    pub fn renew(&mut self, expires: u64) {
        self.kernel.renew(expires);
    }

    /// Arms what the plan says until a jiffy, and disarms everything else. An empty plan leaves the
    /// oracle on.
    pub fn apply(&mut self, plan: &Plan, settings: &GuardSettings, expires: u64) {
        let wanted = self.bits(plan, settings);
        let mut flags = flags::ORACLE;
        for bits in wanted.values() {
            flags |= if bits & port::SYN != 0 { flags::SYN } else { 0 };
            flags |= if bits & port::STATE != 0 { flags::STATE } else { 0 };
            flags |= if bits & port::UDP != 0 { flags::UDP } else { 0 };
        }
        flags |= if settings.timestamps == 2 { flags::TIMESTAMPS } else { 0 };
        flags |= if settings.syncookies == 2 { flags::ALWAYS } else { 0 };
        flags |= if settings.many_routes { flags::ROUTE } else { 0 };
        // Ports before flags on the way up; on the way down a port without bits is not looked at.
        for (number, bits) in &wanted {
            if self.armed.get(number) != Some(bits) {
                self.kernel.arm(*number, *bits);
            }
        }
        for number in self.armed.keys().filter(|number| !wanted.contains_key(number)) {
            self.kernel.arm(*number, 0);
        }
        let guard = settings.guard(flags, expires);
        if self.kernel.get() != guard {
            self.kernel.set(guard);
        }
        self.armed = wanted;
    }

    /// Returns how many ports are armed.
    pub fn armed(&self) -> usize {
        self.armed.len()
    }

    fn bits(&self, plan: &Plan, settings: &GuardSettings) -> BTreeMap<u16, u32> {
        let mut bits: BTreeMap<u16, u32> = BTreeMap::new();
        for number in &plan.state {
            *bits.entry(*number).or_default() |= port::STATE;
        }
        if settings.no_cookies().is_none() {
            for number in &plan.cookies {
                let scale = self.scales.get(number).map_or(0, |scale| u32::from(*scale) + 1);
                *bits.entry(*number).or_default() |= port::SYN | scale << port::SCALE_SHIFT;
            }
        }
        for number in &plan.closed {
            *bits.entry(*number).or_default() |= port::UDP;
        }
        bits
    }
}
