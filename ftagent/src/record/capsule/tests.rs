#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]
//! A host, its traffic and attacks on it, as the daemon would tape them; and what becomes of that.

mod files;
mod replays;

use std::{net::Ipv4Addr, sync::Arc};

use ftagent_common::{
    reason::verdict,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};

use super::rerun::Rerun;
use crate::{
    decide::{
        Counts, Decider, Now, Packet, Settings, Vector,
        classify::tests::shapes,
        frames::{Dice, connection, member},
        input::Input,
        mitigate::{Exempt, Mode, RuleCount},
    },
    record::tape::{Fact, IfaceSeen, Image, TickRecord},
    rule::Action,
    sense::signals::{HostSignals, PortSockets},
};

const TICK_NS: u64 = 100_000_000;

/// A host that decides about what comes.
struct World {
    rerun: Rerun,
    dice: Dice,
    ticks: u64,
    seen: u64,
    dropped: u64,
}

impl World {
    fn new() -> Self {
        let core = Decider::new(Settings { trust_after_s: 8, seed: 77, mode: Mode::Enforce });
        Self { rerun: Rerun::new(core), dice: Dice(3), ticks: 0, seen: 0, dropped: 0 }
    }

    fn core(&self) -> &Decider {
        &self.rerun.core
    }

    fn image(&self, breaks: bool) -> Fact {
        Fact::State(Arc::new(Image { core: self.core().clone(), breaks }))
    }

    fn put(&mut self, input: Input) -> Fact {
        self.rerun.core.put(input.clone());
        Fact::Input(Box::new(input))
    }

    /// Customers, and an attack where one is given.
    fn frames(&mut self, attack: Option<Vector>) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for _ in 0..4 {
            let client = member(self.dice.below(40));
            let requests = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), vec![0x17; 300]];
            let all = connection(&mut self.dice, client, 443, &requests, 900);
            frames.extend(all.into_iter().filter_map(|(inbound, frame)| inbound.then_some(frame)));
        }
        if let Some(vector) = attack {
            let (_, make) = shapes::attacks().into_iter().find(|(of, _)| *of == vector).unwrap();
            let all = make(&mut self.dice, self.ticks);
            frames.extend(all.into_iter().filter_map(|(inbound, frame)| inbound.then_some(frame)));
        }
        frames
    }

    /// Lets a tick pass as in the daemon: two CPUs, rules that do what they say.
    fn tick(&mut self, attack: Option<Vector>) -> Fact {
        let begin = self.ticks * TICK_NS;
        self.ticks += 1;
        let frames = self.frames(attack);
        let gap = TICK_NS / (frames.len() as u64 + 1);
        let (wanted, _) = self.core().wanted();
        let wanted = wanted.to_vec();
        let mut rules: Vec<RuleCount> =
            wanted.iter().map(|wanted| RuleCount { id: wanted.id, ..RuleCount::default() }).collect();
        let mut counts = Box::<Counts>::default();
        let mut cpus = [Vec::new(), Vec::new()];
        for (number, frame) in frames.iter().enumerate() {
            let time_ns = begin + gap * (number as u64 + 1);
            let packet = Packet::decode(time_ns, frame, frame.len(), None, false);
            let mut dropped = false;
            for (wanted, count) in wanted.iter().zip(&mut rules) {
                if dropped || !wanted.rule.matches.matches(&packet.subject()) {
                    continue;
                }
                (count.packets, count.bytes) = (count.packets + 1, count.bytes + frame.len() as u64);
                if wanted.rule.action != Action::Count {
                    (count.dropped, count.dropped_bytes) =
                        (count.dropped + 1, count.dropped_bytes + frame.len() as u64);
                    dropped = true;
                }
            }
            let count = &mut counts.classes[packet.class.index()];
            (count.packets, count.bytes) = (count.packets + 1, count.bytes + frame.len() as u64);
            count.dropped += u64::from(dropped);
            (self.seen, self.dropped) = (self.seen + 1, self.dropped + u64::from(dropped));
            cpus[number % 2].push(sample(&packet, frame, dropped));
        }
        let host = self.ticks.is_multiple_of(10).then(host);
        let mut tick = TickRecord {
            now: Now { mono_ns: begin + TICK_NS, unix_ms: 1_800_000_000_000 + (begin / 1_000_000) as i64 },
            elapsed_ns: TICK_NS,
            counts,
            samples: cpus.concat(),
            outbound: None,
            host,
            rules,
            ifaces: vec![IfaceSeen {
                slot: 0,
                name: "eth0".to_owned(),
                seen: self.seen,
                dropped: self.dropped,
                samples_lost: 0,
                samples_capped: 0,
            }],
            events: Vec::new(),
            incidents: Vec::new(),
            wanted: None,
            slots: None,
        };
        let decided = self.rerun.tick(&tick);
        (tick.events, tick.incidents, tick.wanted) = (decided.events, decided.incidents, decided.wanted);
        Fact::Tick(Box::new(tick))
    }

    /// Twelve quiet seconds: what is normal is known then.
    fn warmed() -> Self {
        let mut world = Self::new();
        world.put(Input::Bounds {
            exempt: Exempt { flows: Vec::new(), own: vec![crate::decide::frames::HOST.into()] },
            mode: Mode::Enforce,
        });
        (0..120).for_each(|_| drop(world.tick(None)));
        world
    }
}

fn host() -> HostSignals {
    let peers = (0..40).map(|number| crate::sense::signals::block_of(member(number).into()));
    HostSignals {
        interval_ns: 10 * TICK_NS,
        passive_opens: 40,
        ports: Some(vec![PortSockets { port: 443, established: 30, ..PortSockets::default() }]),
        peers: Some(peers.collect()),
        ..HostSignals::default()
    }
}

fn sample(packet: &Packet, frame: &[u8], dropped: bool) -> SampleRecord {
    // What is stale behind a short packet must not matter.
    let mut data = [0xee; SAMPLE_BYTES];
    let captured = frame.len().min(SAMPLE_BYTES);
    data[..captured].copy_from_slice(&frame[..captured]);
    let header = SampleHeader {
        time_ns: packet.time_ns,
        wire_bytes: frame.len() as u32,
        stride: 1,
        captured: captured as u16,
        slot: 0,
        class: packet.class as u8,
        verdict: if dropped { verdict::DROP as u8 } else { verdict::PASS as u8 },
        reason: SampleHeader::NO_REASON,
        socket: 0,
        rule: 0,
        cpu: (packet.time_ns % 2) as u16,
        flags: 0,
    };
    SampleRecord { header, data }
}

/// An address that nobody else has.
fn stranger(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x5000_0000 + number * 77)
}
