//! TCP: handshakes that are not completed, and segments that belong to no connection.

use std::{collections::BTreeMap, net::IpAddr};

use ftagent_common::TrafficClass::{self, *};

use super::super::{
    Vector,
    analyst::Seen,
    flows::{State, http, note},
    packet::tcp as tcp_flags,
    table::Tally,
};
use super::{
    l7,
    scene::{Family, Opinion, Proposal, Scene, Window, family},
    traits::{Traits, hash_of, only, weight},
};

/// After so long a handshake that is not completed counts as such, nanoseconds …
const PATIENCE_NS: u64 = 100_000_000;
/// … and where the SYNs look like those of real hosts: far ones need as long …
const LONG_PATIENCE_NS: u64 = 350_000_000;
/// … unless a few strangers begin hundreds at once. It is the size of a crowd that asks for patience
/// with all of its ways here; each of these has one way, and begins more than a person ever does.
const SHORT_PATIENCE_NS: u64 = 150_000_000;
/// Connections that a source begins at once, from which on it is one of these.
const AT_ONCE: f64 = 100.0;
/// Scans run below this rate, packets a second: faster ones hurt whatever they look for.
pub const SCAN_PPS: f64 = 30_000.0;
/// After so long the flow table knows the connections there are, nanoseconds.
const WARM_NS: u64 = 10_000_000_000;
/// Samples that a rule wants to see.
const ENOUGH: usize = 20;

/// Classes that follow a completed handshake.
const FOLLOWERS: [TrafficClass; 5] = [TcpAck, TcpData, TcpFin, HttpRequest, TlsClientHello];

/// Judges what exceeds normal of TCP with the flags that stacks send.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    if !scene.excess.iter().any(|excess| family(excess.class) == Family::Tcp) {
        return;
    }
    let syn = half_open(scene, window);
    let synack = unasked(scene, window);
    let mut explained = Vec::new();
    // Where handshakes are completed but not all SYNs sampled, what follows one begins for us.
    let opens = syn.as_ref().is_some_and(|syn| syn.bad < 0.5) && !is_whole(window.of(TcpSyn));
    let strays = strays(scene, window, opens, &mut explained, out);
    if syn.as_ref().is_some_and(|syn| syn.bad >= 0.5) {
        explained.push(TcpSyn);
    }
    let connected = l7::judge(scene, window, &explained);
    let busy = connected.iter().any(|opinion| matches!(opinion, Opinion::Attack(it) if it.confidence >= 0.5));
    if let Some(synack) = synack {
        let reflected = matches!(&synack, Opinion::Attack(it) if it.confidence >= 0.5);
        out.push(synack);
        if let Some(syn) = syn {
            // Those who were made to answer also call back; forged SYNs are another matter.
            let follows = scene.above(TcpSyn) <= scene.above(TcpSynAck) && !syn.traits.looks_forged();
            if !(reflected && follows) {
                out.extend(syn.opinion(scene, window, busy));
            }
        }
    } else if let Some(syn) = syn {
        out.extend(syn.opinion(scene, window, busy));
    }
    out.extend(connected);
    out.extend(strays);
}

/// What became of SYNs.
struct HalfOpen {
    traits: Traits,
    /// Handshakes completed, of all that began.
    completed: f64,
    /// Share of the excess that is not completed.
    bad: f64,
    /// SYNs that had time to be completed.
    aged: usize,
    /// They look like those of real hosts.
    real: bool,
}

fn half_open(scene: &Scene<'_>, window: &Window<'_>) -> Option<HalfOpen> {
    let excess = scene.excess_of(TcpSyn)?;
    let list = window.of(TcpSyn);
    if list.len() < ENOUGH / 2 {
        return None;
    }
    let traits = Traits::of(scene, list);
    let real = !traits.looks_forged() && stack_like(list);
    let patience = match real {
        false => PATIENCE_NS,
        true if few_begin_all(scene, window) => SHORT_PATIENCE_NS,
        true => LONG_PATIENCE_NS,
    };
    let (mut good, mut bad, mut aged) = (0.0, 0.0, 0);
    for seen in list {
        if scene.is_completed(seen) {
            good += seen.weight;
            aged += 1;
        } else if seen.packet.time_ns + patience <= scene.now_ns {
            bad += seen.weight;
            aged += 1;
        }
    }
    let whole = |class| is_whole(window.of(class));
    let by_flow = (aged >= ENOUGH && whole(TcpSyn) && whole(TcpAck) && whole(TcpData)).then(|| good / (good + bad));
    let completed = by_flow.unwrap_or_else(|| by_followers(scene, window, excess.pps));
    let normal = scene.normal(TcpSyn);
    // The evidence outlasts the excess.
    if excess.pps < normal + (0.3 * normal).max(20.0) {
        return None;
    }
    let usual = scene.calm.completion().unwrap_or(0.95).max(0.5);
    let above = (excess.pps - normal).max(1.0);
    let bad = ((excess.pps * (1.0 - completed) - normal * (1.0 - usual)) / above).clamp(0.0, 1.0);
    Some(HalfOpen { traits, completed, bad, aged, real })
}

/// Returns whether a few sources that nobody knows have begun most connections of the time that is
/// waited for the farthest, each more of them than it could use, and completed none of these.
fn few_begin_all(scene: &Scene<'_>, window: &Window<'_>) -> bool {
    const FEW: usize = 4;
    let recent = only(window.of(TcpSyn), |seen| seen.packet.time_ns + LONG_PATIENCE_NS >= scene.now_ns);
    let waiting = only(&recent, |seen| !seen.mark.known && !scene.is_completed(seen));
    let mut begun = Tally::with_capacity(waiting.len(), scene.seed);
    waiting.iter().for_each(|seen| begun.add(seen.packet.src().map_or(0, hash_of), seen.weight));
    let by_few = begun.head_share(FEW) * weight(&waiting);
    let by_each = by_few * window.step(TcpSyn) as f64 / FEW.min(begun.distinct()).max(1) as f64;
    scene.trusted && by_few >= 0.5 * weight(&recent) && by_each >= AT_ONCE
}

/// Returns whether all packets of a class are sampled.
pub fn is_whole(list: &[&Seen]) -> bool {
    weight(list) <= 1.2 * list.len() as f64
}

/// Estimates handshakes completed by what follows them: an acknowledgement at least. Only what goes
/// on from earlier packets counts.
pub fn by_followers(scene: &Scene<'_>, window: &Window<'_>, syn_pps: f64) -> f64 {
    let over = scene.now_ns.saturating_sub(window.since(TcpSyn)).max(100_000_000);
    // What follows a SYN that was not sampled does not look as if it followed anything.
    let syns = window.of(TcpSyn);
    let missed = weight(syns) / syns.len().max(1) as f64;
    let follow: f64 = FOLLOWERS
        .iter()
        .map(|class| {
            let list = window.of(*class);
            let steady = weight(&only(list, |seen| seen.mark.state == State::Steady)) / weight(list).max(1.0);
            (scene.rates.of(*class, over).0 * (steady * missed).min(1.0) - scene.normal(*class)).max(0.0)
        })
        .sum();
    (follow / (syn_pps - scene.normal(TcpSyn)).max(1.0)).min(1.0)
}

impl HalfOpen {
    /// `busy`: connections that are used for an attack explain SYNs that the host does not answer
    /// in time.
    fn opinion<'a>(self, scene: &Scene<'a>, window: &Window<'a>, busy: bool) -> Option<Opinion<'a>> {
        let list = window.of(TcpSyn).to_vec();
        let traits = &self.traits;
        let pps = scene.excess_of(TcpSyn)?.pps;
        let percent = self.completed * 100.0;
        if traits.multicast > 0.5 || self.bad < 0.5 {
            return Some(Opinion::Ordinary(format!("tcp_syn: handshakes are completed ({percent:.0} %)")));
        }
        if busy && (self.bad < 0.8 || !traits.looks_forged()) {
            return None;
        }
        let beside = pps * (1.0 - scanned(scene, &list));
        if pps < SCAN_PPS && beside < 1.3 * scene.normal(TcpSyn) + 100.0 {
            return Some(Opinion::Ordinary("tcp_syn: one source tries ports, each a few times: a scan".to_owned()));
        }
        let mut confidence = 0.6 + 0.66 * (self.bad - 0.5);
        let forged = traits.looks_forged();
        if forged {
            // A crowd has as many sources, but completes its handshakes.
            confidence = if self.completed < 0.3 { 0.94 } else { confidence + 0.06 };
        } else if self.aged < ENOUGH && self.real {
            // They look like those of real hosts, and had no time to be answered yet.
            confidence *= 0.5;
        }
        let alone = self.aged >= 200 && self.completed < 0.05 && pps >= 1000.0;
        let mut proposal = Proposal::new(scene, Vector::SynFlood, &[TcpSyn], list).sure(
            confidence,
            (forged && self.completed < 0.3) || alone,
            format!("handshakes completed {percent:.0} %"),
        );
        proposal.completed = Some(self.completed);
        proposal.pps *= self.bad;
        Some(Opinion::Attack(proposal))
    }
}

/// Returns which share of the packets is a scan by the busiest source: it is told apart among
/// ordinary clients, too.
fn scanned(scene: &Scene<'_>, list: &[&Seen]) -> f64 {
    let mut sources: BTreeMap<IpAddr, f64> = BTreeMap::new();
    for seen in list {
        if let Some(source) = seen.packet.src() {
            *sources.entry(source).or_default() += seen.weight;
        }
    }
    let Some((busiest, _)) = sources.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)) else { return 0.0 };
    let own = only(list, |seen| seen.packet.src() == Some(busiest));
    let traits = Traits::of(scene, &own);
    let scan = traits.looks_swept() || traits.looks_like_sweep_of_hosts();
    if scan { weight(&own) / weight(list).max(1.0) } else { 0.0 }
}

/// Returns whether SYNs carry the options that operating systems send, and not all the same port.
fn stack_like(list: &[&Seen]) -> bool {
    weight(&only(list, |seen| seen.packet.options >= 8)) >= 0.6 * weight(list)
}

/// SYN-ACKs that nobody asked for.
fn unasked<'a>(scene: &Scene<'a>, window: &Window<'a>) -> Option<Opinion<'a>> {
    let pps = scene.excess_of(TcpSynAck)?.pps;
    let list = window.of(TcpSynAck);
    if list.len() < ENOUGH / 2 {
        return None;
    }
    let bad = only(list, |seen| {
        let goes_on = scene
            .flow(seen)
            .is_some_and(|flow| flow.has(note::OURS | note::PROVEN) || flow.halves.iter().any(|half| half.steady > 0));
        !goes_on && !seen.mark.asked && !seen.mark.response
    });
    let share = weight(&bad) / weight(list).max(1.0);
    let traits = Traits::of(scene, list);
    if share < 0.5 || covered(scene, TcpSynAck, share) < 0.5 {
        return Some(Opinion::Ordinary("tcp_synack: they answer connections of this host".to_owned()));
    }
    if traits.looks_like_echo_of_sweep() && pps < SCAN_PPS {
        return Some(Opinion::Ordinary("tcp_synack: the echo of a scan".to_owned()));
    }
    let mut proposal = Proposal::new(scene, Vector::SynAckFlood, &[TcpSynAck], bad).sure(
        0.55 + 0.4 * share,
        share >= 0.9 && list.len() >= 200 && pps >= 500.0,
        format!("{:.0} % belong to no connection of this host", share * 100.0),
    );
    proposal.answered = None;
    proposal.pps *= share;
    Some(Opinion::Attack(proposal))
}

/// Returns which part of a class's excess is covered when `share` of the class is bad.
fn covered(scene: &Scene<'_>, class: TrafficClass, share: f64) -> f64 {
    let pps = scene.excess_of(class).map_or(0.0, |excess| excess.pps);
    pps * share / scene.above(class).max(1.0)
}

/// Segments out of any connection, class by class. Classes that are explained are noted. `opens`:
/// connections are opened of which the first packets are not all sampled.
fn strays<'a>(
    scene: &Scene<'a>,
    window: &Window<'a>,
    opens: bool,
    explained: &mut Vec<TrafficClass>,
    out: &mut Vec<Opinion<'a>>,
) -> Vec<Opinion<'a>> {
    let mut found = Vec::new();
    for class in [TcpAck, TcpData, HttpRequest, TlsClientHello, TcpFin, TcpRst] {
        let Some(excess) = scene.excess_of(class) else { continue };
        let list = window.of(class);
        if list.len() < 2 * ENOUGH {
            continue;
        }
        let (bad, judged) = out_of_state(scene, list, opens);
        let share = weight(&bad) / judged.max(1.0);
        if judged < 0.5 * weight(list) || share < 0.3 || covered(scene, class, share) < 0.5 {
            continue;
        }
        explained.push(class);
        let traits = Traits::of(scene, &bad);
        if traits.responses > 0.5 {
            continue;
        }
        let pieces = weight(&only(&bad, |seen| http::is_header_line(seen.packet.head()) && seen.packet.payload < 64));
        if pieces >= 0.5 * weight(&bad) {
            out.push(Opinion::Ordinary("tcp_data: pieces of requests whose beginning was not sampled".to_owned()));
            continue;
        }
        let echo = class == TcpRst && traits.looks_like_echo_of_sweep() && refuses(&bad);
        if excess.pps < SCAN_PPS && (traits.looks_swept() || echo || traits.looks_like_sweep_of_hosts()) {
            out.push(Opinion::Ordinary(format!("{}: one source tries ports: a scan or its echo", class.as_str())));
            continue;
        }
        let vector = name_of(class, &bad, &traits);
        let hard = bad.len() >= 200 && share >= 0.9 && (traits.looks_forged() || traits.flows.spread() >= 0.5);
        let mut proposal = Proposal::new(scene, vector, &[class], bad).sure(
            0.55 + 0.4 * share,
            hard,
            format!("{:.0} % belong to no connection", share * 100.0),
        );
        proposal.pps *= share;
        found.push(Opinion::Attack(proposal));
    }
    found
}

/// Returns whether resets are what a closed port answers a SYN with: they acknowledge it (RFC 9293, 3.10.7.1).
fn refuses(resets: &[&Seen]) -> bool {
    weight(&only(resets, |seen| seen.packet.flags & tcp_flags::ACK != 0)) >= 0.5 * weight(resets)
}

/// Returns the packets that go on from nothing, and how many were judged at all.
fn out_of_state<'a>(scene: &Scene<'a>, list: &[&'a Seen], opens: bool) -> (Vec<&'a Seen>, f64) {
    let warm = scene.now_ns >= WARM_NS;
    let mut judged = 0.0;
    let bad = only(list, |seen| {
        let flow = scene.flow(seen);
        let goes_on = flow.is_some_and(|flow| {
            flow.has(note::COMPLETE | note::PROVEN) || flow.halves.iter().map(|half| half.steady).max() >= Some(2)
        });
        let age = scene.now_ns.saturating_sub(seen.packet.time_ns);
        let bad = match seen.mark.state {
            State::Steady => false,
            State::Stray => true,
            _ if goes_on || seen.mark.asked => false,
            // No room was found for its flow: nothing is known of it.
            _ if seen.mark.place == u32::MAX => return false,
            // Connections that are older than this program are met in the middle.
            _ if !warm && age < 1_000_000_000 => return false,
            State::First if opens => return false,
            State::Same | State::First | State::None => true,
        };
        judged += seen.weight;
        bad
    });
    (bad, judged)
}

fn name_of(class: TrafficClass, bad: &[&Seen], traits: &Traits) -> Vector {
    match class {
        TcpFin => Vector::FinFlood,
        TcpRst => Vector::RstFlood,
        TcpAck => Vector::AckFlood,
        _ => {
            let web = weight(&only(bad, |seen| matches!(seen.packet.sport, 80 | 443 | 8080)));
            let page = weight(&only(bad, |seen| is_page(seen.packet.head()) || seen.packet.payload > 256));
            let all = weight(bad).max(1.0);
            let reflected = web >= 0.8 * all && page >= 0.5 * all && traits.many() >= 5;
            if reflected && !traits.looks_forged_ports() { Vector::TcpMiddleboxReflection } else { Vector::PshAckFlood }
        }
    }
}

/// Returns whether a payload begins as a page that a middlebox sends.
fn is_page(head: &[u8]) -> bool {
    let lower = |text: &[u8]| head.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text));
    lower(b"HTTP/1.") || lower(b"<html") || lower(b"<!doctype")
}

impl Traits {
    /// Returns whether source ports are drawn at random rather than a service's.
    fn looks_forged_ports(&self) -> bool {
        self.sports.spread() >= 0.5
    }
}
