//! The guard of a replay: the kernel program's own decisions, over sockets that are a model.

use std::net::IpAddr;

use ftagent_common::reason::verdict;

use super::{
    report::NoticeReport,
    sockets::{BACKLOG, Sockets},
    timeline::Event,
    watch::{Answer, Fate},
};
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
    tags_lost: false,
};
/// What is armed goes on this long; it is renewed well before.
const TTL_JIFFIES: u64 = 30 * HZ;
const RENEW_NS: u64 = 10_000_000_000;
/// Changes of what is armed that are told.
const NOTES: usize = 100;

/// What a source's capture shows of its conversations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    /// Both directions, or what nobody answers: sockets are what the protected side's packets show.
    #[default]
    Whole,
    /// Ordinary traffic, without the protected side's part: it was asked for.
    Asked,
    /// An attack, without the protected side's part: who sends a SYN and goes on was answered.
    Knocks,
}

/// The guard of a replay.
#[derive(Debug)]
pub(super) struct Gate {
    driver: GuardDriver,
    sockets: Sockets,
    /// The packet that comes in now.
    packet: Option<Packet>,
    /// SYNs that were answered.
    answers: u64,
    generation: Option<u64>,
    renewed_ns: u64,
    /// What was armed, and when.
    armed: Vec<NoticeReport>,
}

impl Gate {
    /// Has samples looked up. `own`: the addresses of the protected side.
    pub(super) fn new(own: &[IpAddr], datapath: &TestRun) -> Result<Self, LoadError> {
        let mut driver = GuardDriver::new(datapath.open_guard()?);
        driver.set_own(own.iter().copied().collect())?;
        let sockets = Sockets::new(own.iter().copied());
        let mut gate =
            Self { driver, sockets, packet: None, answers: 0, generation: None, renewed_ns: 0, armed: Vec::new() };
        gate.follow(0, (&Plan::default(), 0));
        Ok(gate)
    }

    /// Tells the program what a lookup finds for the packet that it sees next.
    pub(super) fn before(&mut self, event: &Event<'_>, shown: Shown, datapath: &mut TestRun) {
        let packet = decoded(event);
        match shown {
            Shown::Whole => {}
            Shown::Asked => self.sockets.assume(&packet),
            Shown::Knocks => self.sockets.knock(&packet),
        }
        let room = self.sockets.has_room(&packet);
        datapath.set_socket(self.sockets.look(&packet), room);
        self.packet = Some(packet);
    }

    /// Takes in what became of that packet.
    pub(super) fn after(&mut self, event: &Event<'_>, verdict: u32) -> Fate {
        let Some(packet) = self.packet.take() else { return Fate::of(verdict) };
        if verdict == verdict::TX {
            let bytes = event.frame.len() as u64;
            let answer = Answer { number: self.answers, time_ns: event.time_ns, source: event.source, bytes };
            self.answers += 1;
            self.sockets.answered(&packet, answer);
            return Fate::Answered(answer);
        }
        match Fate::of(verdict) {
            Fate::Passed => self.sockets.passed(&packet).map_or(Fate::Passed, Fate::Returned),
            fate => fate,
        }
    }

    /// Takes in a packet of the protected side.
    pub(super) fn sent(&mut self, event: &Event<'_>) {
        self.sockets.sent(&decoded(event));
    }

    /// Returns what was armed, and when.
    pub(super) fn armed(&self) -> &[NoticeReport] {
        &self.armed
    }

    /// Puts a plan into force where it changed, and renews it.
    pub(super) fn follow(&mut self, now_ns: u64, (plan, generation): (&Plan, u64)) {
        let expires = jiffies(now_ns) + TTL_JIFFIES;
        if self.generation != Some(generation) {
            self.driver.apply(plan, &SETTINGS, expires);
            if self.generation.is_some() && self.armed.len() < NOTES {
                self.armed.push(NoticeReport { at_ms: now_ns / 1_000_000, what: told(plan) });
            }
            (self.generation, self.renewed_ns) = (Some(generation), now_ns);
        } else if now_ns.saturating_sub(self.renewed_ns) >= RENEW_NS {
            self.driver.renew(expires);
            self.renewed_ns = now_ns;
        }
    }
}

/// Says how a replay comes by sockets.
pub(super) fn explained() -> String {
    format!(
        "sockets are those that the protected side's own packets show, or benign sources imply where these lack \
         them; a listener has room for {BACKLOG} half-open requests, and SYNs are answered by cookies beyond that"
    )
}

/// Says what is armed.
fn told(plan: &Plan) -> String {
    let cookies = plan.cookies.iter().map(|port| format!("SYNs to {port} are answered by cookies"));
    let state = plan.state.iter().map(|ports| format!("TCP to {ports} without a connection is dropped"));
    let closed = plan.closed.iter().map(|ports| format!("UDP to {ports} without a socket is dropped"));
    let all: Vec<String> = cookies.chain(state).chain(closed).collect();
    if all.is_empty() { "the guard is off".to_owned() } else { format!("the guard: {}", all.join(", ")) }
}

fn decoded(event: &Event<'_>) -> Packet {
    Packet::decode(event.time_ns, event.frame, event.frame.len(), None, false)
}
