//! From an incident's samples to its indicators, in bounded memory: whatever is sent, there are so many
//! values of each kind in the tables, and no more.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ftagent_common::{
    DropReason, TrafficClass,
    guard::socket,
    reason::verdict,
    sample::{SampleHeader, SampleRecord},
};

use super::{
    field::Look,
    heavy::{Distinct, Heavy, Weighed},
    ja4::{self, Hello},
    library::{Library, Scratch},
    report::{Basis, Head, Hit, IocReport, Ranked, Source, Tls, Tool, VERSION},
    sources::{Crowd, Trace, is_unusable, prefix},
};
use crate::{
    bpf::captures::Captured,
    decide::{Incident, Packet, Vector, mitigate::Wanted},
    record::tape::TickRecord,
    rule::FlowMatch,
};

/// Values that are kept of each kind (twice as many between two cleanings).
const KEPT_SOURCES: usize = 4096;
const KEPT_HEADS: usize = 512;
const KEPT_VALUES: usize = 256;
/// Values that a report names at most.
const NAMED_SOURCES: usize = 500;
const NAMED: usize = 20;
/// Bytes of a payload's head.
const HEAD: usize = 32;
/// A head that fewer samples or a smaller share have is not written down: it may be a customer's.
const HEAD_SAMPLES: u64 = 3;
const HEAD_SHARE: f64 = 0.005;
/// A source below this confidence is not named.
const LEAST_CONFIDENCE: f64 = 0.3;
/// The part of the packets that rules have to cover for theirs to stand for the attack.
const COVERED: f64 = 0.5;
/// The part of the packets that a tool's pattern has to match.
const OF_TOOL: f64 = 0.6;

/// Collects the indicators of one incident.
#[derive(Debug)]
pub struct Extraction {
    library: Arc<Library>,
    /// The classes that the incident is about; none where every packet counts.
    classes: BTreeSet<u8>,
    incident: String,
    /// Rules that are wanted now.
    rules: Vec<FlowMatch>,
    /// What decisions call the attack's.
    marked: Tables,
    /// That, and whatever is of its classes.
    wide: Tables,
    scratch: Scratch,
}

impl Extraction {
    /// Begins with no incident: every packet counts, until [`Self::begin`] says what it is about.
    pub fn new(library: Arc<Library>) -> Self {
        let patterns = library.patterns().len();
        Self {
            library,
            classes: BTreeSet::new(),
            incident: String::new(),
            rules: Vec::new(),
            marked: Tables::new(patterns),
            wide: Tables::new(patterns),
            scratch: Scratch::default(),
        }
    }

    /// Says which incident it is about: packets of its classes count from now on, and those of classes that
    /// it comes to be about later.
    pub fn begin(&mut self, incident: &Incident) {
        incident.id.clone_into(&mut self.incident);
        let names = incident.findings.iter().flat_map(|finding| &finding.evidence.classes);
        self.classes.extend(names.filter_map(|name| TrafficClass::from_name(name)).map(|class| class as u8));
    }

    /// Takes the samples of a tick.
    pub fn take(&mut self, tick: &TickRecord) {
        let own = |incident: &&Incident| incident.id == self.incident;
        if let Some(incident) = tick.incidents.iter().find(own).cloned() {
            self.begin(&incident);
        }
        if let Some(wanted) = &tick.wanted {
            self.follow(wanted);
        }
        self.take_samples(&tick.samples, tick.now.unix_ms);
    }

    /// Says which rules are wanted from now on: what they match is the attack's.
    pub fn follow(&mut self, wanted: &[Wanted]) {
        self.rules = wanted.iter().map(|wanted| wanted.rule.matches.clone()).collect();
    }

    /// Takes samples, as the kernel gave them.
    pub fn take_samples(&mut self, samples: &[SampleRecord], unix_ms: i64) {
        samples.iter().for_each(|record| self.sample(record, unix_ms));
    }

    fn sample(&mut self, record: &SampleRecord, unix_ms: i64) {
        let of_class = self.classes.is_empty() || self.classes.contains(&record.header.class);
        let was_dropped = dropped_as_attack(&record.header);
        if !of_class && !was_dropped && self.rules.is_empty() {
            return;
        }
        let packet = Packet::of_sample(record);
        let subject = packet.subject();
        let marked = was_dropped || self.rules.iter().any(|rule| rule.matches(&subject));
        // A connection of a customer in a class under attack is not the attack's.
        let of_class = of_class
            && (marked || self.classes.is_empty() || packet.socket != socket::CONNECTED || is_request(&packet));
        if !marked && !of_class {
            return;
        }
        let frame = record.data.get(..usize::from(record.header.captured)).unwrap_or(&record.data);
        let seen = Seen { weight: f64::from(record.header.stride.max(1)), unix_ms };
        self.note(&packet, frame, marked, seen);
    }

    /// Takes a packet of a capture: every one counts for itself.
    pub fn packet(&mut self, packet: &Packet, frame: &[u8], unix_ms: i64) {
        self.note(packet, frame, false, Seen { weight: 1.0, unix_ms });
    }

    /// Takes a ClientHello, as long as it is, that is among the samples too.
    pub fn hello(&mut self, captured: &Captured) {
        let header = &captured.header;
        let of_class = self.classes.is_empty() || self.classes.contains(&header.class);
        let class = TrafficClass::from_index(usize::from(header.class));
        let packet = Packet::decode(header.time_ns, &captured.bytes, header.wire_bytes as usize, class, false);
        let subject = packet.subject();
        let marked = dropped_as_attack(header) || self.rules.iter().any(|rule| rule.matches(&subject));
        if !marked && !of_class {
            return;
        }
        let look = Look::of(&packet, &captured.bytes);
        self.wide.instead(look.payload);
        if marked {
            self.marked.instead(look.payload);
        }
    }

    fn note(&mut self, packet: &Packet, frame: &[u8], marked: bool, seen: Seen) {
        let look = Look::of(packet, frame);
        let hits = self.library.scan(&look, &mut self.scratch);
        self.wide.add(&look, hits, seen);
        if marked {
            self.marked.add(&look, hits, seen);
        }
    }

    fn tables(&self) -> (&Tables, Basis) {
        let covered = self.marked.packets >= COVERED * self.wide.packets && self.marked.samples > 0;
        match (covered, self.classes.is_empty()) {
            (true, _) => (&self.marked, Basis::Rules),
            (false, true) => (&self.wide, Basis::Everything),
            (false, false) => (&self.wide, Basis::Classes),
        }
    }

    /// Returns the tool that most of the attack's packets were made by.
    pub fn tool(&self) -> Option<Tool> {
        let (tables, _) = self.tables();
        let hits = tables.hits(&self.library);
        let named = hits.iter().filter(|hit| hit.kind.names_a_tool() && hit.share >= OF_TOOL && !hit.tool.is_empty());
        let best = named.max_by(|a, b| (a.share * a.confidence).total_cmp(&(b.share * b.confidence)))?;
        Some(Tool {
            name: best.tool.clone(),
            pattern: best.name.clone(),
            share: best.share,
            confidence: best.confidence * best.share.min(1.0),
        })
    }

    /// Returns how many samples were looked at.
    pub fn samples(&self) -> u64 {
        self.tables().0.samples
    }

    /// Returns the share of the attack's packets that match a pattern, by its name.
    pub fn share_of(&self, pattern: &str) -> f64 {
        let (tables, _) = self.tables();
        let number = self.library.patterns().iter().position(|known| known.name == pattern);
        let packets = number.and_then(|number| tables.hits.get(number)).map_or(0.0, |(_, packets)| *packets);
        tables.share(packets)
    }

    /// Returns how many samples matched each pattern, by what it is called in metrics.
    pub fn hits(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = (0u16..).zip(&self.wide.hits).filter(|(_, (samples, _))| *samples > 0);
        counts.map(|(number, (samples, _))| (self.library.label(number), *samples))
    }

    /// Returns the indicators so far.
    pub fn report(&self, incident: &Incident) -> IocReport {
        let (tables, basis) = self.tables();
        let crowd = tables.crowd();
        let (sources, reflectors) = tables.sources(&crowd);
        let (from_ms, to_ms) = tables.seen.unwrap_or((incident.opened.unix_ms, incident.opened.unix_ms));
        IocReport {
            version: VERSION,
            incident: incident.id.clone(),
            vector: incident.vector.as_str().to_owned(),
            vectors: incident.vectors.iter().map(|vector| vector.as_str().to_owned()).collect(),
            from_ms,
            to_ms,
            basis,
            samples: tables.samples,
            packets: tables.packets as u64,
            spoofing: crowd.spoofing(),
            distinct_sources: crowd.distinct.round() as u64,
            sources,
            reflectors,
            prefixes: tables.prefixes(&crowd),
            payloads: tables.heads(),
            patterns: tables.hits(&self.library),
            source_ports: tables.ranked(&tables.source_ports),
            destination_ports: tables.ranked(&tables.destination_ports),
            lengths: tables.ranked(&tables.lengths),
            ttls: tables.ranked(&tables.ttls),
            targets: tables.ranked(&tables.targets),
            tls: tables.tls(),
            tool: self.tool(),
        }
    }
}

/// Whether the datapath dropped it because of what was decided about an attack, and not by a list.
fn dropped_as_attack(header: &SampleHeader) -> bool {
    use DropReason::*;
    u32::from(header.verdict) == verdict::DROP
        && DropReason::from_index(usize::from(header.reason))
            .is_some_and(|reason| matches!(reason, Rule | RateLimit | OutOfState | ClosedPort | QueueFull | Ceiling))
}

/// Whether it carries a request, so that a connection does not speak for it: floods of requests have one.
fn is_request(packet: &Packet) -> bool {
    packet.is_tcp() && packet.payload > 0
}

/// When a packet was seen, and how many it stands for.
#[derive(Clone, Copy, Debug)]
struct Seen {
    weight: f64,
    unix_ms: i64,
}

/// What occurred.
#[derive(Debug)]
struct Tables {
    samples: u64,
    packets: f64,
    seen: Option<(i64, i64)>,
    unusable: u64,
    connected: u64,
    reflected: u64,
    distinct: Distinct,
    sources: Heavy<IpAddr, Trace>,
    prefixes: Heavy<String, ()>,
    heads: Heavy<Vec<u8>, ()>,
    source_ports: Heavy<u16, ()>,
    destination_ports: Heavy<u16, ()>,
    lengths: Heavy<u32, ()>,
    ttls: Heavy<u8, ()>,
    targets: Heavy<IpAddr, ()>,
    fingerprints: Heavy<String, ()>,
    whole: u64,
    cut: u64,
    broken: u64,
    /// For each pattern of the library, samples and packets.
    hits: Vec<(u64, f64)>,
}

impl Tables {
    fn new(patterns: usize) -> Self {
        Self {
            samples: 0,
            packets: 0.0,
            seen: None,
            unusable: 0,
            connected: 0,
            reflected: 0,
            distinct: Distinct::default(),
            sources: Heavy::new(KEPT_SOURCES),
            prefixes: Heavy::new(KEPT_SOURCES / 4),
            heads: Heavy::new(KEPT_HEADS),
            source_ports: Heavy::new(KEPT_VALUES),
            destination_ports: Heavy::new(KEPT_VALUES),
            lengths: Heavy::new(KEPT_VALUES),
            ttls: Heavy::new(KEPT_VALUES),
            targets: Heavy::new(KEPT_VALUES),
            fingerprints: Heavy::new(KEPT_VALUES),
            whole: 0,
            cut: 0,
            broken: 0,
            hits: vec![(0, 0.0); patterns],
        }
    }

    fn add(&mut self, look: &Look<'_>, hits: &[u16], seen: Seen) {
        let (packet, weight) = (look.packet, seen.weight);
        self.samples += 1;
        self.packets += weight;
        let (first, last) = self.seen.unwrap_or((seen.unix_ms, seen.unix_ms));
        self.seen = Some((first.min(seen.unix_ms), last.max(seen.unix_ms)));
        self.lengths.add(packet.wire, weight);
        for number in hits {
            if let Some((samples, packets)) = self.hits.get_mut(usize::from(*number)) {
                *samples += 1;
                *packets += weight;
            }
        }
        if let Some((src, dst)) = packet.ends {
            self.ends(packet, src, dst, seen);
        }
        if packet.is_tcp() || packet.is_udp() {
            self.source_ports.add(packet.sport, weight);
            self.destination_ports.add(packet.dport, weight);
        }
        if !look.payload.is_empty() {
            self.heads.add(look.payload.get(..HEAD).unwrap_or(look.payload).to_vec(), weight);
        }
        if packet.is_tcp() {
            self.hello(look.payload, weight);
        }
    }

    fn ends(&mut self, packet: &Packet, src: IpAddr, dst: IpAddr, seen: Seen) {
        let connected = packet.socket == socket::CONNECTED;
        let reflector = Vector::of_reflector(packet.intent).is_some().then_some(packet.sport);
        self.unusable += u64::from(is_unusable(src));
        self.connected += u64::from(connected);
        self.reflected += u64::from(reflector.is_some());
        self.distinct.add(&src);
        self.sources.add(src, seen.weight).note(packet.ttl, seen.unix_ms, connected, reflector);
        self.prefixes.add(prefix(src), seen.weight);
        self.ttls.add(packet.ttl, seen.weight);
        self.targets.add(dst, seen.weight);
    }

    /// Takes a whole ClientHello in place of the sample that was cut short.
    fn instead(&mut self, payload: &[u8]) {
        self.cut = self.cut.saturating_sub(1);
        self.hello(payload, 1.0);
    }

    fn hello(&mut self, payload: &[u8], weight: f64) {
        match ja4::of(payload) {
            Hello::None => {}
            Hello::Cut { .. } => self.cut += 1,
            Hello::Broken => self.broken += 1,
            Hello::Whole(found) => {
                self.whole += 1;
                self.fingerprints.add(found.ja4, weight);
            }
        }
    }

    fn share(&self, packets: f64) -> f64 {
        if self.packets > 0.0 { (packets / self.packets).min(1.0) } else { 0.0 }
    }

    fn crowd(&self) -> Crowd {
        let of_ten: f64 = self.sources.top(10).iter().map(|(_, entry)| entry.certain()).sum();
        Crowd {
            samples: self.samples,
            distinct: self.distinct.count(),
            unusable: self.unusable,
            connected: self.connected,
            reflected: self.reflected,
            of_ten: self.share(of_ten),
        }
    }

    /// The sources worth naming, and the reflectors.
    fn sources(&self, crowd: &Crowd) -> (Vec<Source>, Vec<Source>) {
        let (mut sources, mut reflectors) = (Vec::new(), Vec::new());
        for (address, entry) in self.sources.top(2 * NAMED_SOURCES) {
            let (trace, share) = (&entry.note, self.share(entry.certain()));
            let (confidence, why) = trace.confidence(entry.samples, share, crowd);
            let (first_ms, last_ms) = trace.seen.unwrap_or_default();
            let reflects = trace.is_reflector(entry.samples);
            let source = Source {
                address: *address,
                packets: entry.certain() as u64,
                share,
                confidence,
                why,
                first_ms,
                last_ms,
                port: reflects.then_some(trace.port),
            };
            let list = if reflects { &mut reflectors } else { &mut sources };
            if source.packets > 0 && confidence >= LEAST_CONFIDENCE && list.len() < NAMED_SOURCES {
                list.push(source);
            }
        }
        (sources, reflectors)
    }

    /// The networks, where sources say something.
    fn prefixes(&self, crowd: &Crowd) -> Vec<Ranked> {
        let forged = crowd.spoofing().verdict == super::report::Verdict::Forged;
        let all = self.ranked(&self.prefixes);
        all.into_iter().filter(|prefix| !forged || prefix.share >= 0.01).collect()
    }

    fn ranked<K: ToString + Clone + Ord + std::hash::Hash>(&self, heavy: &Heavy<K, ()>) -> Vec<Ranked> {
        let one = |(value, entry): (&K, &Weighed<()>)| Ranked {
            value: value.to_string(),
            packets: entry.certain() as u64,
            share: self.share(entry.certain()),
        };
        heavy.top(NAMED).into_iter().map(one).filter(|ranked| ranked.packets > 0).collect()
    }

    fn heads(&self) -> Vec<Head> {
        let all = self.heads.top(NAMED).into_iter();
        let worth = all.filter(|(_, entry)| entry.samples >= HEAD_SAMPLES && self.share(entry.certain()) >= HEAD_SHARE);
        let one = |(bytes, entry): (&Vec<u8>, &Weighed<()>)| Head {
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            text: bytes.iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '.' }).collect(),
            packets: entry.certain() as u64,
            share: self.share(entry.certain()),
        };
        worth.map(one).collect()
    }

    fn hits(&self, library: &Library) -> Vec<Hit> {
        let matched = library.patterns().iter().zip(&self.hits).filter(|(_, (samples, _))| *samples > 0);
        let one = |(pattern, (_, packets)): (&super::Pattern, &(u64, f64))| Hit {
            name: pattern.name.clone(),
            kind: pattern.kind,
            tool: pattern.tool.clone(),
            about: pattern.about.clone(),
            source: pattern.source.clone(),
            confidence: pattern.confidence,
            packets: *packets as u64,
            share: self.share(*packets),
        };
        let mut hits: Vec<Hit> = matched.map(one).collect();
        hits.sort_by(|a, b| b.packets.cmp(&a.packets).then_with(|| a.name.cmp(&b.name)));
        hits
    }

    fn tls(&self) -> Tls {
        let fingerprints = self.ranked(&self.fingerprints);
        Tls { fingerprints, whole: self.whole, cut: self.cut, broken: self.broken }
    }
}
