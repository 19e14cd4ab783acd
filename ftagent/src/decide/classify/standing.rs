//! Connections that are held and not used: they need no rate to be suspicious.

use ftagent_common::TrafficClass::{HttpRequest, TcpData};

use super::super::{
    Vector,
    analyst::Seen,
    flows::{State, http, note},
    table::Tally,
};
use super::{
    Judgement,
    scene::{Proposal, Scene},
    weigh::finding,
};

/// Connections that are held for so long without an end count, nanoseconds.
const HELD_NS: u64 = 3_000_000_000;
/// A connection that was silent for longer is over, nanoseconds.
const SILENT_NS: u64 = 90_000_000_000;

/// Returns the packets that lately brought a single header line and nothing that it belongs to.
/// Where hundreds of connections do so at once, few of their other packets are sampled.
fn lone_lines<'a>(scene: &Scene<'a>) -> Vec<&'a Seen> {
    let is_lone = |seen: &&Seen| {
        let head = seen.packet.head();
        let lone = seen.mark.drip || seen.mark.state == State::First;
        lone && head.ends_with(b"\r\n") && http::is_header_line(head)
    };
    scene.ring.iter().filter(|seen| seen.class == TcpData && seen.packet.payload <= 48).filter(is_lone).collect()
}

fn flows(list: &[&Seen], seed: u64) -> usize {
    let mut tally = Tally::with_capacity(list.len(), seed);
    list.iter().for_each(|seen| tally.add(seen.mark.tag, 1.0));
    tally.distinct()
}

/// Names connections that are held and not used.
pub fn standing(scene: &Scene<'_>) -> Judgement {
    let (mut dripping, mut late, mut unfinished, mut shut, mut open) = (0u32, 0u32, 0u32, 0u32, 0u32);
    let mut ports = Tally::with_capacity(1024, scene.seed);
    for flow in scene.flows.requested() {
        let alive = scene.now_ns.saturating_sub(flow.last_ns) < SILENT_NS && !flow.has(note::CLOSED);
        if !alive || scene.now_ns.saturating_sub(flow.request_ns) < HELD_NS {
            continue;
        }
        open += 1;
        if flow.has(note::SHUT) {
            shut += 1;
            ports.add(u64::from(flow.port), 1.0);
        }
        if flow.has(note::ANSWERED) {
            continue;
        }
        dripping += u32::from(flow.drips > 0);
        late += u32::from(flow.late_drips > 0);
        unfinished += u32::from(flow.has(note::UNFINISHED));
        if flow.drips > 0 || flow.has(note::UNFINISHED) {
            ports.add(u64::from(flow.port), 1.0);
        }
    }
    let stalled = scene.host.and_then(|host| host.ports.as_ref()).map(|ports| {
        let too_many = ports.iter().filter(|port| scene.usual.is_exceeded(port));
        too_many.map(|port| (port.stalled, port.port)).max().unwrap_or_default()
    });
    let lone = lone_lines(scene);
    let lines = flows(&lone, scene.seed);
    // Of players that pause, some do not read either.
    let unread = if shut * 2 >= open { shut } else { 0 };
    let held = dripping.max(unfinished).max(unread);
    let kernel = stalled.map_or(0, |(count, _)| count);
    // Not all pieces are sampled where many come at once.
    let confidence: f64 = match (held, late, kernel) {
        (50.., ..) => 0.93,
        (25.., ..) => 0.8,
        (_, 10.., _) => 0.75,
        _ if lines >= 20 => 0.7,
        (.., 200..) => 0.75,
        (.., 100..) => 0.6,
        _ => return Judgement::default(),
    };
    lone.iter().for_each(|seen| ports.add(u64::from(seen.packet.dport), 1.0));
    let by_packets = held >= 25 || late >= 10 || lines >= 20;
    let port = if by_packets { ports.first().0 as u16 } else { stalled.map_or(0, |(_, port)| port) };
    let packets: Vec<&Seen> =
        scene.ring.iter().filter(|seen| seen.packet.dport == port && seen.packet.is_tcp()).collect();
    let mut proposal = Proposal::new(scene, Vector::SlowHttp, &[], packets).sure(
        confidence,
        true,
        format!(
            "port {port}: {} connections send a request in drips, {unfinished} requests do not end, {shut} answers are not read, too many stalled by the socket table: {}",
            (dripping as usize).max(lines),
            stalled.map_or("unavailable".to_owned(), |(count, port)| format!("{count} (normal {:.0})", scene.usual.of(port)))
        ),
    );
    proposal.classes = Vec::new();
    let mut found = finding(scene, &proposal, &[], &[]);
    found.evidence.classes = [HttpRequest, TcpData].map(|class| class.as_str().to_owned()).to_vec();
    Judgement { findings: vec![found], ordinary: Vec::new() }
}
