//! Connections that are held and not used: they need no rate to be suspicious.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr};

use ftagent_common::TrafficClass::{HttpRequest, TcpData};

use super::super::{
    Vector,
    analyst::Seen,
    flows::{Flow, State, http, note},
    table::Tally,
};
use super::{
    Judgement,
    scene::{Proposal, Scene},
    weigh::finding,
};

/// Connections that are held for so long without an end count, nanoseconds.
const HELD_NS: u64 = 3_000_000_000;
/// So many connections of one source that are held are no bad line.
const MANY: usize = 3;
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

/// Returns whether a connection on which something was asked is open, and was for a while.
fn is_standing(flow: &Flow, now_ns: u64) -> bool {
    let alive = now_ns.saturating_sub(flow.last_ns) < SILENT_NS && !flow.has(note::CLOSED);
    alive && now_ns.saturating_sub(flow.request_ns) >= HELD_NS
}

/// Who holds connections and does not use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose they are.
    pub source: IpAddr,
    /// The local port that they are to.
    pub port: u16,
    /// How many he holds.
    pub held: usize,
}

/// What one source does with its connections to one port.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    open: usize,
    held: usize,
    /// What looks held, and is not seen to be real.
    unproven: usize,
    /// He has begun a request and sends line after line of it, seconds apart.
    drips: bool,
}

/// Those who hold connections.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// Who holds most comes first.
    pub proven: Vec<Holder>,
    /// Sources of which nothing shows that their connections are real: forged, translated or proxied.
    pub unproven: usize,
}

/// Returns who holds connections beyond doubt, and more than he uses. One that is
/// dripped into for seconds is enough, of others it takes three: a line may be bad. Who waits for an answer
/// holds nothing, however long the server takes; who does not read does where most do not. What could be forged
/// does not count: connections that the socket table does not have if it is asked, those that this host was
/// not seen to answer otherwise.
pub fn holders(scene: &Scene<'_>, by_sockets: bool) -> Holders {
    let real = if by_sockets { note::CONNECTED } else { note::PROVEN };
    let standing = || {
        let all = scene.flows.requested().filter(|flow| is_standing(flow, scene.now_ns) && !flow.has(note::OURS));
        all.filter_map(|flow| Some((flow, flow.remote?)))
    };
    let (shut, open) =
        standing().fold((0, 0), |(shut, open), (flow, _)| (shut + usize::from(flow.has(note::SHUT)), open + 1));
    let unread = shut * 2 >= open;
    let mut found: BTreeMap<(IpAddr, u16), Use> = BTreeMap::new();
    for (flow, source) in standing() {
        let unused = !flow.has(note::ANSWERED) && (flow.late_drips > 0 || flow.has(note::UNFINISHED));
        let unused = unused || unread && flow.has(note::SHUT);
        let held = unused && flow.has(real);
        let its = found.entry((source, flow.port)).or_default();
        its.open += 1;
        its.held += usize::from(held);
        its.unproven += usize::from(unused && !held);
        its.drips |= held && flow.late_drips >= 2;
    }
    let unproven = found.values().filter(|its| its.unproven >= MANY && its.unproven * 2 > its.open).count();
    let holds = found.into_iter().filter(|(_, its)| (its.drips || its.held >= MANY) && its.held * 2 > its.open);
    let mut proven: Vec<_> = holds.map(|((source, port), its)| Holder { source, port, held: its.held }).collect();
    proven.sort_by_key(|holder| Reverse(holder.held));
    Holders { proven, unproven }
}

/// Names connections that are held and not used.
pub fn standing(scene: &Scene<'_>) -> Judgement {
    let (mut dripping, mut late, mut unfinished, mut shut, mut open) = (0u32, 0u32, 0u32, 0u32, 0u32);
    let mut ports = Tally::with_capacity(1024, scene.seed);
    for flow in scene.flows.requested().filter(|flow| is_standing(flow, scene.now_ns)) {
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
