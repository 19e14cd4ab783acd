//! Spells out what a finding rests on.

use ftagent_common::TrafficClass;

use super::super::{Metric, analyst::Seen, packet::tcp, table::Tally};
use super::{
    Evidence, Share,
    hitters::{self, End},
    scene::{Proposal, Scene},
    traits::head_hash,
};

/// Packets that evidence is drawn from, the newest.
const MOST: usize = 1024;
/// Values of each field that are listed.
const VALUES: usize = 5;
/// Share below which a value is not worth a line.
const LEAST: f64 = 0.02;
/// Share from which a field counts as constant.
const CONSTANT: f64 = 0.95;

/// Collects the evidence of a proposal. `classes` are the names of what was counted.
pub fn of(scene: &Scene<'_>, proposal: &Proposal<'_>, classes: Vec<&'static str>) -> Evidence {
    let packets = &proposal.packets;
    let list = packets.get(packets.len().saturating_sub(MOST)..).unwrap_or_default();
    let fields = Fields::of(scene, list);
    let (top_sources, sources) = hitters::prefixes(list, End::Source);
    let (top_destinations, destinations) = hitters::prefixes(list, End::Destination);
    let weight: f64 = list.iter().map(|seen| seen.weight).sum();
    let known: f64 = list.iter().filter(|seen| seen.mark.known).map(|seen| seen.weight).sum();
    let asked: f64 = list.iter().filter(|seen| seen.mark.asked).map(|seen| seen.weight).sum();
    // Sums of nothing are -0.
    let share = |part: f64| if weight > 0.0 { part / weight + 0.0 } else { 0.0 };
    let mut evidence = Evidence {
        samples: list.len() as u64,
        sources: sources as u64,
        destinations: destinations as u64,
        seen_before: scene.knows_sources.then(|| share(known)),
        source_entropy: fields.sources.entropy(),
        handshakes_completed: proposal.completed,
        handshakes_normal: proposal.completed.and(scene.calm.completion()),
        answered: proposal.answered.or_else(|| scene.sees_own.then(|| share(asked))),
        top_sources,
        top_destinations,
        source_ports: fields.ports(&fields.sports, list),
        destination_ports: fields.ports(&fields.dports, list),
        lengths: shares(&fields.lengths, |value| value.to_string()),
        ttls: shares(&fields.ttls, |value| value.to_string()),
        flags: fields.flags(list),
        payloads: payloads(scene, list),
        constant: fields.constant(list),
        ..Evidence::default()
    };
    rates(scene, proposal, &mut evidence);
    evidence.classes = classes.into_iter().map(str::to_owned).collect();
    evidence.line = line(proposal, &evidence);
    evidence
}

/// Fills in what was counted: sums over the classes, and the arithmetic of the one that tells most.
fn rates(scene: &Scene<'_>, proposal: &Proposal<'_>, evidence: &mut Evidence) {
    let excesses: Vec<_> = proposal.classes.iter().filter_map(|class| scene.excess_of(*class)).collect();
    evidence.packets = excesses.iter().map(|excess| excess.packets).sum();
    evidence.bytes = excesses.iter().map(|excess| excess.bytes).sum();
    evidence.pps = excesses.iter().map(|excess| excess.pps).sum();
    evidence.bps = excesses.iter().map(|excess| excess.bps).sum();
    let since = excesses.iter().map(|excess| excess.since_ns).min();
    evidence.window_ms = since.map_or(0, |since| scene.now_ns.saturating_sub(since) / 1_000_000);
    let main = excesses.iter().max_by(|a, b| a.pps.total_cmp(&b.pps));
    if let Some(main) = main {
        evidence.metric = scene.trusted.then_some(main.metric);
        evidence.baseline = if scene.trusted { main.baseline } else { 0.0 };
        evidence.spread = if scene.trusted { main.spread } else { 0.0 };
        evidence.threshold = main.threshold;
    } else {
        evidence.metric = Some(Metric::Structure);
    }
}

struct Fields {
    sources: Tally,
    sports: Tally,
    dports: Tally,
    lengths: Tally,
    ttls: Tally,
    flags: Tally,
    windows: Tally,
    heads: Tally,
}

impl Fields {
    fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let mut fields = Self {
            sources: tally(),
            sports: tally(),
            dports: tally(),
            lengths: tally(),
            ttls: tally(),
            flags: tally(),
            windows: tally(),
            heads: tally(),
        };
        for seen in list {
            let (packet, weight) = (&seen.packet, seen.weight);
            if let Some(src) = packet.src() {
                fields.sources.add(super::traits::hash_of(src), weight);
            }
            fields.sports.add(u64::from(packet.sport), weight);
            fields.dports.add(u64::from(packet.dport), weight);
            fields.lengths.add(u64::from(packet.wire), weight);
            fields.ttls.add(u64::from(packet.ttl), weight);
            fields.flags.add(u64::from(packet.flags) << 8 | u64::from(packet.code), weight);
            fields.windows.add(u64::from(packet.window), weight);
            fields.heads.add(head_hash(packet.head(), 64), weight);
        }
        fields
    }

    fn ports(&self, of: &Tally, list: &[&Seen]) -> Vec<Share> {
        let has = list.iter().any(|seen| seen.packet.is_tcp() || seen.packet.is_udp());
        if has { shares(of, |value| value.to_string()) } else { Vec::new() }
    }

    fn flags(&self, list: &[&Seen]) -> Vec<Share> {
        if !list.iter().any(|seen| seen.packet.is_tcp()) {
            return Vec::new();
        }
        shares(&self.flags, |value| flag_names((value >> 8) as u8))
    }

    fn constant(&self, list: &[&Seen]) -> Vec<String> {
        let transport = list.iter().all(|seen| seen.packet.is_tcp() || seen.packet.is_udp());
        let is_tcp = list.iter().all(|seen| seen.packet.is_tcp());
        let filled = list.iter().any(|seen| seen.packet.head_len > 0);
        let of = |name: &str, tally: &Tally, holds: bool| {
            let (value, share) = tally.first();
            (holds && share >= CONSTANT).then(|| format!("{name} {value}"))
        };
        let head = self.heads.first_share() >= CONSTANT && filled;
        [
            of("source port", &self.sports, transport),
            of("destination port", &self.dports, transport),
            of("length", &self.lengths, true),
            of("ttl", &self.ttls, true),
            of("window", &self.windows, is_tcp),
            head.then(|| "payload".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn shares(tally: &Tally, name: impl Fn(u64) -> String) -> Vec<Share> {
    let top = tally.top(VALUES).into_iter().filter(|(_, share)| *share >= LEAST);
    top.map(|(value, share)| Share { value: name(value), share }).collect()
}

fn flag_names(flags: u8) -> String {
    let names = [(tcp::FIN, 'F'), (tcp::SYN, 'S'), (tcp::RST, 'R'), (tcp::PSH, 'P'), (tcp::ACK, 'A'), (tcp::URG, 'U')];
    let text: String = names.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| name).collect();
    if text.is_empty() { "none".to_owned() } else { text }
}

/// Lists how payloads begin: their first eight bytes.
fn payloads(scene: &Scene<'_>, list: &[&Seen]) -> Vec<Share> {
    let mut tally = Tally::with_capacity(list.len(), scene.seed);
    let start = |seen: &Seen| {
        let head = seen.packet.head();
        head.iter().take(8).fold((0u64, 0u32), |(value, count), byte| (value << 8 | u64::from(*byte), count + 1))
    };
    let full: Vec<_> =
        list.iter().map(|seen| (start(seen), seen.weight)).filter(|((_, count), _)| *count == 8).collect();
    full.iter().for_each(|((value, _), weight)| tally.add(*value, *weight));
    shares(&tally, |value| format!("{value:016x}"))
}

/// Writes the line that a human can check.
fn line(proposal: &Proposal<'_>, evidence: &Evidence) -> String {
    let classes =
        if evidence.classes.is_empty() { proposal.vector.as_str().to_owned() } else { evidence.classes.join("+") };
    let mut parts = Vec::new();
    let normal = match evidence.metric {
        Some(Metric::Pps) => format!(" against a learned {}±{}", grouped(evidence.baseline), grouped(evidence.spread)),
        Some(Metric::Bps) => format!(
            " and {} bit/s against a learned {}±{}",
            grouped(evidence.bps),
            grouped(evidence.baseline),
            grouped(evidence.spread)
        ),
        Some(Metric::Structure) => String::new(),
        None => ", nothing learned yet".to_owned(),
    };
    parts.push(format!("{classes} {} pps{normal}", grouped(evidence.pps)));
    if let Some(completed) = evidence.handshakes_completed {
        let normal =
            evidence.handshakes_normal.map_or(String::new(), |normal| format!(" (normal {:.0} %)", normal * 100.0));
        parts.push(format!("handshakes completed {:.0} %{normal}", completed * 100.0));
    }
    let said = evidence.handshakes_completed.is_some() && proposal.why.starts_with("handshakes");
    if !proposal.why.is_empty() && !said {
        parts.push(proposal.why.clone());
    }
    let seen = match evidence.seen_before {
        None => "seen before: unavailable".to_owned(),
        Some(share) if share < 0.005 => "none seen before".to_owned(),
        Some(share) => format!("{:.0} % of packets from sources seen before", share * 100.0),
    };
    let sources = if evidence.sources == 1 { "source" } else { "sources" };
    parts.push(format!(
        "{} {sources} in {} samples, {seen}",
        grouped(evidence.sources as f64),
        grouped(evidence.samples as f64)
    ));
    parts.join(", ")
}

/// Writes a number with thin gaps between groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.max(0.0));
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Returns the names of the classes that a proposal explains, busiest first.
pub fn class_names(
    scene: &Scene<'_>,
    proposal: &Proposal<'_>,
    lent: &[TrafficClass],
    own: &[TrafficClass],
) -> Vec<&'static str> {
    let mut classes = proposal.classes.clone();
    classes.sort_by(|a, b| scene.above(*b).total_cmp(&scene.above(*a)));
    let mut names: Vec<_> = classes.iter().filter(|class| own.contains(class)).map(|class| class.as_str()).collect();
    if classes.iter().any(|class| lent.contains(class)) {
        names.push(TrafficClass::Malformed.as_str());
    }
    names
}
