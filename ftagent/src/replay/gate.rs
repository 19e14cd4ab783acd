//! The guard of a replay: the kernel program's own decisions, over sockets that are a model.

use std::net::IpAddr;

use ftagent_common::reason::verdict;

use super::{sockets::Sockets, timeline::Event, watch::Fate};
use crate::{
    act::guard::{GuardDriver, GuardSettings},
    bpf::{
        LoadError,
        testrun::{HZ, TestRun, jiffies},
    },
    decide::{Packet, guard::Plan},
};

/// What an ordinary host is set to, on a link of 10 Gbit/s: a tenth of it is for answers.
const SETTINGS: GuardSettings = GuardSettings {
    syncookies: 1,
    timestamps: 1,
    mtu: 1500,
    answers_per_second: 10_000_000_000 / 10 / (84 * 8),
    hz: HZ,
    many_routes: false,
};
/// What is armed goes on this long; it is renewed well before.
const TTL_JIFFIES: u64 = 30 * HZ;
const RENEW_NS: u64 = 10_000_000_000;

/// The guard of a replay.
#[derive(Debug)]
pub(super) struct Gate {
    driver: GuardDriver,
    sockets: Sockets,
    /// The packet that comes in now.
    packet: Option<Packet>,
    generation: Option<u64>,
    renewed_ns: u64,
}

impl Gate {
    /// Has samples looked up. `own`: the addresses of the protected side.
    pub(super) fn new(own: &[IpAddr], datapath: &TestRun) -> Result<Self, LoadError> {
        let mut driver = GuardDriver::new(datapath.open_guard()?);
        driver.set_own(own.iter().copied().collect())?;
        let sockets = Sockets::new(own.iter().copied());
        let mut gate = Self { driver, sockets, packet: None, generation: None, renewed_ns: 0 };
        gate.follow(0, (&Plan::default(), 0));
        Ok(gate)
    }

    /// Tells the program what a lookup finds for the packet that it sees next.
    pub(super) fn before(&mut self, event: &Event<'_>, datapath: &mut TestRun) {
        let packet = decoded(event);
        datapath.set_socket(self.sockets.look(&packet));
        self.packet = Some(packet);
    }

    /// Takes in what became of that packet.
    pub(super) fn after(&mut self, verdict: u32) -> Fate {
        let fate = Fate::of(verdict);
        let Some(packet) = self.packet.take() else { return fate };
        if verdict == verdict::TX {
            self.sockets.answered(&packet);
        }
        if fate == Fate::Passed && self.sockets.passed(&packet) { Fate::Returned } else { fate }
    }

    /// Takes in a packet of the protected side.
    pub(super) fn sent(&mut self, event: &Event<'_>) {
        self.sockets.sent(&decoded(event));
    }

    /// Puts a plan into force where it changed, and renews it.
    pub(super) fn follow(&mut self, now_ns: u64, (plan, generation): (&Plan, u64)) {
        let expires = jiffies(now_ns) + TTL_JIFFIES;
        if self.generation != Some(generation) {
            self.driver.apply(plan, &SETTINGS, expires);
            (self.generation, self.renewed_ns) = (Some(generation), now_ns);
        } else if now_ns.saturating_sub(self.renewed_ns) >= RENEW_NS {
            self.driver.renew(expires);
            self.renewed_ns = now_ns;
        }
    }
}

fn decoded(event: &Event<'_>) -> Packet {
    Packet::decode(event.time_ns, event.frame, event.frame.len(), None, false)
}
