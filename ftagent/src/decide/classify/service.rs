//! UDP towards services: queries and opening packets.

use ftagent_common::TrafficClass::{self, *};

use super::super::{Vector, analyst::Seen, table::Tally};
use super::{
    scene::{Opinion, Proposal, Scene, Window},
    tcp::SCAN_PPS,
    traits::{Traits, head_hash},
    udp,
};

/// Samples that a rule wants to see.
const ENOUGH: usize = 20;

/// Judges every service's class.
pub fn judge<'a>(scene: &Scene<'a>, window: &Window<'a>, out: &mut Vec<Opinion<'a>>) {
    for (class, vector) in [
        (UdpDnsQuery, Vector::DnsQueryFlood),
        (UdpQuicInitial, Vector::QuicFlood),
        (UdpSip, Vector::SipFlood),
        (UdpGameQuery, Vector::GameQueryFlood),
        (UdpVpn, Vector::VpnFlood),
    ] {
        if scene.excess_of(class).is_some() {
            out.extend(service(scene, window, class, vector));
        }
    }
}

fn service<'a>(scene: &Scene<'a>, window: &Window<'a>, class: TrafficClass, vector: Vector) -> Option<Opinion<'a>> {
    let fresh = udp::newcomers(scene, window, &[class]);
    let name = class.as_str();
    // Names tell only when there are some of them.
    if fresh.len() < if class == UdpDnsQuery { 50 } else { ENOUGH } {
        return None;
    }
    let traits = Traits::of(scene, &fresh);
    let (pps, lift) = (scene.above(class), scene.lift(class));
    if traits.multicast > 0.5 || traits.responses > 0.6 {
        return Some(Opinion::Ordinary(format!("{name}: to groups, or answers")));
    }
    if pps < SCAN_PPS && traits.looks_like_sweep_of_hosts() {
        return Some(Opinion::Ordinary(format!("{name}: one source tries many hosts: a scan")));
    }
    // What begins like a query may be the answer of a server that nobody listed.
    if let Some((vector, confidence, hard, why)) = udp::reflected(&traits, &fresh).filter(|_| class == UdpGameQuery) {
        return Some(Opinion::Attack(Proposal::new(scene, vector, &[class], fresh).sure(confidence, hard, why)));
    }
    let names = (class == UdpDnsQuery).then(|| Names::of(scene, &fresh));
    if let Some(names) = names.as_ref().filter(|names| names.is_torture()) {
        let why = format!("{:.0} % ask for random names under {}", names.zone_share * 100.0, names.zone);
        let confidence = if lift >= 2.0 { 0.9 } else { 0.85 };
        let hard = fresh.len() >= 200 && pps >= 1000.0;
        return Some(Opinion::Attack(
            Proposal::new(scene, Vector::DnsWaterTorture, &[class], fresh).sure(confidence, hard, why),
        ));
    }
    let (points, why) = points(scene, class, &traits, &fresh, names.as_ref());
    let confidence = match points {
        0 => return Some(Opinion::Ordinary(format!("{name}: asked and answered by many, as on a busy day"))),
        1 if lift >= 8.0 && pps >= 1000.0 => 0.6,
        1 => 0.4,
        2 => 0.8,
        _ => 0.92,
    };
    let hard = points >= 3 && fresh.len() >= 200 && (traits.looks_forged() || pps >= 2000.0);
    let asks = fresh.iter().filter(|seen| is_query(seen.packet.head())).count();
    let vector = if class == UdpDnsQuery && asks * 2 < fresh.len() { Vector::UdpFlood } else { vector };
    Some(Opinion::Attack(Proposal::new(scene, vector, &[class], fresh).sure(confidence, hard, why)))
}

/// Counts what speaks for a flood, and says what.
fn points(
    scene: &Scene<'_>,
    class: TrafficClass,
    traits: &Traits,
    list: &[&Seen],
    names: Option<&Names>,
) -> (u32, String) {
    let mut why = Vec::new();
    let mut points = 0;
    let mut say = |count: u32, what: String| {
        points += count;
        why.push(what);
    };
    if traits.looks_forged() {
        say(2, format!("nearly every packet from another source ({})", traits.many()));
    } else if traits.sources.head_share(4) >= 0.6 {
        say(1, format!("{:.0} % from {} sources", traits.sources.head_share(4) * 100.0, traits.many().min(4)));
    }
    // What is opened goes on: a second packet of the flow, from either side.
    let opened = list.iter().filter(|seen| {
        scene.flow(seen).is_some_and(|flow| flow.halves.iter().map(|half| half.packets).sum::<u32>() > 1)
    });
    let going_on = opened.count() as f64 / list.len().max(1) as f64;
    match class {
        UdpQuicInitial | UdpVpn | UdpSip if going_on < 0.2 && traits.samples >= 50 => {
            say(2, format!("{:.0} % go on after the first packet", going_on * 100.0));
        }
        _ => {}
    }
    let same = names.map_or_else(|| traits.heads.first_share(), |names| names.first_share);
    let again = traits.flows.spread() <= 0.2 && traits.sources.head_share(8) >= 0.5;
    if same >= 0.7 && class != UdpQuicInitial {
        say(if class == UdpGameQuery && !again { 1 } else { 2 }, format!("{:.0} % say the same", same * 100.0));
    } else if again && traits.talks < 0.5 {
        say(1, "the same few flows again and again".to_owned());
    }
    if scene.lift(class) >= 8.0 && traits.asked < 0.2 && scene.sees_own {
        say(1, "unanswered".to_owned());
    }
    (points, why.join(", "))
}

/// Names that DNS queries ask for.
struct Names {
    /// The zone under which most names are.
    zone: String,
    /// Its share.
    zone_share: f64,
    /// Different left-most labels in it, for each query.
    labels: f64,
    /// Share of the most frequent name.
    first_share: f64,
    samples: usize,
}

impl Names {
    fn of(scene: &Scene<'_>, list: &[&Seen]) -> Self {
        let tally = || Tally::with_capacity(list.len(), scene.seed);
        let (mut zones, mut names) = (tally(), tally());
        for seen in list {
            let (_, labels) = question(seen.packet.head());
            names.add(head_hash(seen.packet.head().get(12..).unwrap_or_default(), 64), seen.weight);
            zones.add(zone_hash(&labels), seen.weight);
        }
        let (zone, zone_share) = zones.first();
        let mut within = tally();
        let mut text = String::new();
        for seen in list {
            let (first, labels) = question(seen.packet.head());
            if zone_hash(&labels) == zone {
                within.add(head_hash(first, 64), 1.0);
                if text.is_empty() {
                    text = printable(&labels);
                }
            }
        }
        Self { zone: text, zone_share, labels: within.spread(), first_share: names.first_share(), samples: list.len() }
    }

    fn is_torture(&self) -> bool {
        self.samples >= 50 && self.zone_share >= 0.6 && self.labels >= 0.3 && !self.zone.is_empty()
    }
}

/// Returns whether a message may be a query (RFC 1035, 4.1.1): a standard one, with a question and no answer.
fn is_query(message: &[u8]) -> bool {
    const QR_AND_OPCODE: u8 = 0xf8;
    matches!(message, [_, _, flags, _, 0, 1..=4, 0, 0, ..] if flags & QR_AND_OPCODE == 0)
}

/// Returns the left-most label of a question, and the labels behind it (RFC 1035, 4.1.2).
fn question(message: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let mut rest = message.get(12..).unwrap_or_default();
    let mut labels = Vec::new();
    while let Some((&length, text)) = rest.split_first() {
        let length = usize::from(length);
        if length == 0 || length > 63 || labels.len() >= 12 {
            break;
        }
        // What was cut off is taken as far as it goes.
        let (label, behind) = text.split_at(length.min(text.len()));
        labels.push(label);
        rest = behind;
    }
    if labels.len() < 2 {
        return (&[], Vec::new());
    }
    let first = labels.remove(0);
    (first, labels)
}

/// Hashes the zone: the labels behind the left-most one, without case (RFC 4343).
fn zone_hash(labels: &[&[u8]]) -> u64 {
    labels.iter().fold(labels.len() as u64, |hash, label| {
        let lower: Vec<u8> = label.iter().map(u8::to_ascii_lowercase).collect();
        head_hash(&lower, 64) ^ hash.rotate_left(11)
    })
}

fn printable(labels: &[&[u8]]) -> String {
    let text = |label: &&[u8]| String::from_utf8_lossy(label).chars().filter(|c| c.is_ascii_graphic()).collect();
    labels.iter().map(text).collect::<Vec<String>>().join(".")
}
