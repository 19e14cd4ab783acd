//! A node in virtual time: background, attack, and a kernel that carries out what is wanted.

use std::net::IpAddr;

use ftagent_common::guard::socket;

use super::backgrounds::{Background, Frames, LIVE};
use crate::{
    decide::{
        Counts, Decider, Event, Incident, Now, Packet, Settings, Tick,
        frames::{Dice, decoded},
        mitigate::{Mode, RuleCount, Wanted},
        packet::tcp,
    },
    rule::{Action, FlowMatch, Rate},
    sense::signals::HostSignals,
};

const TICK_NS: u64 = 100_000_000;

#[derive(Clone)]
pub struct World {
    pub decider: Decider,
    pub background: Background,
    pub dice: Dice,
    pub ticks: u64,
    /// How far its wall clock is off, milliseconds.
    pub clock_ms: i64,
    pub events: Vec<Event>,
    /// What the kernel has: of the tick before.
    pub present: Vec<Wanted>,
    /// What the kernel does not take.
    pub refuses: Option<FlowMatch>,
    /// Rules of an operator: they drop.
    pub given: Vec<FlowMatch>,
    /// It loses packets.
    pub is_strained: bool,
    /// Its socket table answers, and nobody sees what it sends.
    pub is_daemon: bool,
    /// What the socket table says of the attack's segments, where it says something of its own.
    pub socket: Option<u8>,
    /// Packets that were dropped, of the background and of the attack, of how many.
    pub lost: [(u64, u64); 2],
}

impl World {
    pub fn new(background: Background, mode: Mode) -> Self {
        Self {
            decider: Decider::new(Settings { trust_after_s: 30, seed: 5, mode }),
            background,
            dice: Dice(5),
            ticks: 0,
            clock_ms: 0,
            events: Vec::new(),
            present: Vec::new(),
            refuses: None,
            given: Vec::new(),
            is_strained: false,
            is_daemon: false,
            socket: None,
            lost: [(0, 0); 2],
        }
    }

    /// A node that has seen its ordinary traffic for forty seconds.
    pub fn calm(background: Background) -> Self {
        let mut world = Self::new(background, Mode::Enforce);
        for _ in 0..400 {
            world.tick(Frames::new());
        }
        world
    }

    /// The same as the daemon sees it: with the answers of a socket table, without what it sends.
    pub fn calm_daemon(background: Background) -> Self {
        let mut world = Self { is_daemon: true, ..Self::new(background, Mode::Enforce) };
        for _ in 0..400 {
            world.tick(Frames::new());
        }
        world
    }

    /// The same, made once for many cases.
    pub fn calm_shared(background: Background) -> Self {
        static CALM: std::sync::OnceLock<World> = std::sync::OnceLock::new();
        CALM.get_or_init(|| Self::calm(background)).clone()
    }

    pub fn attack(&mut self, make: fn(&mut Dice, u64) -> Frames, ticks: u64) {
        for _ in 0..ticks {
            let mut dice = Dice(self.ticks * 77);
            let frames = make(&mut dice, self.ticks);
            self.tick(frames);
        }
    }

    /// Lets a tick pass with these packets beside the background.
    pub fn tick(&mut self, extra: Frames) -> Vec<Event> {
        let begin = self.ticks * TICK_NS;
        let background = (self.background)(&mut self.dice, self.ticks);
        self.ticks += 1;
        let all = mixed(background, extra);
        let gap = TICK_NS / (all.len() as u64 + 1);
        let (mut counts, mut samples, mut outbound) = (Box::<Counts>::default(), Vec::<Packet>::new(), Vec::new());
        let mut done: Vec<RuleCount> =
            self.present.iter().map(|rule| RuleCount { id: rule.id, ..RuleCount::default() }).collect();
        for (number, (kind, (inbound, frame))) in all.into_iter().enumerate() {
            let mut packet = decoded(begin + gap * (number as u64 + 1), &frame);
            if !inbound {
                outbound.push(packet);
                continue;
            }
            if self.is_daemon {
                let other = self.socket.filter(|_| kind == 1 && packet.is_tcp() && packet.flags & tcp::SYN == 0);
                packet.socket = other.unwrap_or_else(|| socket_of(&packet, kind == 0));
            }
            let given = self.given.iter().any(|rule| rule.matches(&packet.subject()));
            packet.dropped = given || drops(&self.present, &packet, &mut done);
            let lost = &mut self.lost[kind];
            (lost.0, lost.1) = (lost.0 + u64::from(packet.dropped), lost.1 + 1);
            let count = &mut counts.classes[packet.class.index()];
            (count.packets, count.bytes) = (count.packets + 1, count.bytes + frame.len() as u64);
            samples.push(packet);
        }
        let mono_ns = self.ticks * TICK_NS;
        let host = HostSignals { interval_ns: TICK_NS, packets_lost: 1000, ..HostSignals::default() };
        let (refused, wanted) =
            (|rule: &&Wanted| Some(&rule.rule.matches) == self.refuses.as_ref(), self.decider.wanted().0);
        let count = |rule: &Wanted| RuleCount { id: rule.id, refused: true, ..RuleCount::default() };
        done.extend(wanted.iter().filter(refused).map(count));
        let events = self.decider.on_tick(&Tick {
            now: Now { mono_ns, unix_ms: (mono_ns / 1_000_000) as i64 + self.clock_ms },
            elapsed_ns: TICK_NS,
            counts: &counts,
            samples: &samples,
            outbound: (!self.is_daemon).then_some(&outbound),
            host: self.is_strained.then_some(&host),
            rules: &done,
        });
        self.present = self.decider.wanted().0.to_vec();
        self.present.retain(|rule| Some(&rule.rule.matches) != self.refuses.as_ref());
        self.events.extend(events.iter().cloned());
        events
    }

    pub fn incidents(&self) -> Vec<&Incident> {
        self.decider.incidents().collect()
    }

    /// The rules that drop now.
    pub fn dropping(&self) -> Vec<&Wanted> {
        self.decider.wanted().0.iter().filter(|rule| rule.rule.action != Action::Count).collect()
    }

    /// Tries the rules that drop on packets that were not there before: shares of the attack and of
    /// the background that they match.
    pub fn judged(&self, make: fn(&mut Dice, u64) -> Frames) -> (f64, f64) {
        let rules = self.dropping();
        let share = |frames: Frames| {
            let (mut hit, mut all) = (0.0, 0.0);
            for packet in frames.iter().filter(|(inbound, _)| *inbound).map(|(_, frame)| decoded(0, frame)) {
                all += 1.0;
                let drop =
                    |rule: &&&Wanted| rule.rule.action == Action::Drop && rule.rule.matches.matches(&packet.subject());
                hit += if rules.iter().any(|rule| drop(&rule)) { 1.0 } else { 0.0 };
            }
            hit / f64::max(all, 1.0)
        };
        let fresh = |make: Background, seed: u64| {
            (0..40).flat_map(|tick| make(&mut Dice(seed + tick), 900 + tick)).collect::<Frames>()
        };
        (share(fresh(make, 9000)), share(fresh(self.background, 123_456)))
    }
}

/// The attack and the background come interleaved: 0 is background.
fn mixed(background: Frames, attack: Frames) -> Vec<(usize, (bool, Vec<u8>))> {
    let (of, to) = (attack.len(), background.len().max(1));
    let mut attack = attack.into_iter().enumerate().peekable();
    let mut all = Vec::new();
    for (at, frame) in background.into_iter().enumerate() {
        all.push((0, frame));
        while let Some((_, frame)) = attack.next_if(|(number, _)| number * to <= at * of) {
            all.push((1, frame));
        }
    }
    all.extend(attack.map(|(_, frame)| (1, frame)));
    all
}

/// What the socket table would say. Players' datagrams go to one socket that talks to anybody; what
/// is forged on the tuple of a conversation finds its socket.
fn socket_of(packet: &Packet, background: bool) -> u8 {
    let is_syn = packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    let live = background || packet.src() == Some(IpAddr::V4(LIVE.0)) && packet.sport == LIVE.1;
    match (packet.is_tcp(), packet.is_udp()) {
        (true, _) if is_syn => socket::LISTENER,
        (true, _) | (_, true) if live && packet.dport != 27_016 => socket::CONNECTED,
        (_, true) if packet.dport == 27_016 => socket::UNCONNECTED,
        (true, _) | (_, true) => socket::NONE,
        _ => socket::UNKNOWN,
    }
}

/// What the kernel would do: the first rule that matches and does not only count.
fn drops(present: &[Wanted], packet: &Packet, done: &mut [RuleCount]) -> bool {
    for (rule, count) in present.iter().zip(done) {
        if !rule.rule.matches.matches(&packet.subject()) {
            continue;
        }
        count.packets += 1;
        count.bytes += u64::from(packet.wire);
        match rule.rule.action {
            Action::Count | Action::Capture | Action::Challenge => {}
            Action::Drop => {
                count.dropped += 1;
                return true;
            }
            Action::RateLimit(rate) => {
                let Rate::Pps(pps) = rate else { continue };
                let drop = count.packets > pps / 10;
                count.dropped += u64::from(drop);
                return drop;
            }
        }
    }
    false
}
