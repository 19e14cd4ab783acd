//! Merges sources into one stream of frames in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::IpAddr,
};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{
    capture::{Capture, CapturedPacket},
    frame::Layout,
    rewrite::{FlowKey, Flows, Rewrite, Rewriter},
    scenario::SourceSpec,
    schedule::Pacer,
};

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the protected side: the program sees it.
    Inbound,
    /// From the protected side: evidence only, the program never sees it.
    Outbound,
}

/// A frame, and when it is on the wire.
#[derive(Debug)]
pub struct Event<'a> {
    /// Virtual time, nanoseconds since the start.
    pub time_ns: u64,
    /// The source, by number.
    pub source: usize,
    /// Where it goes.
    pub direction: Direction,
    /// The frame, from the Ethernet header on, without FCS.
    pub frame: &'a [u8],
}

/// A packet of a source's file that is sent.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// Its number in the capture.
    index: u32,
    /// The length of its frame.
    length: u32,
    flow: u32,
    inbound: bool,
    layout: Option<Layout>,
}

/// One source, on its way through its file.
#[derive(Debug)]
struct Source {
    capture: Capture,
    records: Vec<Record>,
    rewriter: Rewriter,
    pacer: Option<Pacer>,
    spec: SourceSpec,
    /// Time of the file's first packet, nanoseconds since 1970.
    epoch: u64,
    /// How long the file is when it repeats, nanoseconds.
    period: u64,
    pass: u64,
    cursor: usize,
    /// When the packet under the cursor is sent, nanoseconds.
    now: u64,
    /// The time drawn for the first inbound packet, which replies in front of it share.
    drawn: Option<u64>,
}

/// What [`Timeline::add`] left out or could not do, in words.
pub type Notes = Vec<String>;

/// All sources, in order of time.
#[derive(Debug, Default)]
pub struct Timeline {
    sources: Vec<Source>,
    /// Time and number of every source that has a packet left: the number breaks ties.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    scratch: Vec<u8>,
    seed: u64,
}

impl Timeline {
    /// Makes a timeline without sources.
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Adds a source.
    ///
    /// # Errors
    /// Where the capture cannot do what the source asks for, in words.
    pub fn add(&mut self, spec: SourceSpec, capture: Capture) -> Result<Notes, String> {
        let mut notes = Vec::new();
        let mut source = Source::new(spec, capture, self.seed, &mut notes)?;
        if source.begin() {
            self.due.push(Reverse((source.now, self.sources.len())));
        }
        self.sources.push(source);
        Ok(notes)
    }

    /// Returns whether any source has packets from the protected side.
    pub fn has_outbound(&self) -> bool {
        (0..self.sources.len()).any(|source| self.is_answered(source))
    }

    /// Returns whether a source, by number, has packets of the reverse direction.
    pub fn is_answered(&self, source: usize) -> bool {
        self.sources.get(source).is_some_and(|source| source.records.iter().any(|record| !record.inbound))
    }

    /// Returns the next frame, or `None` when all sources have ended.
    #[expect(clippy::should_implement_trait, reason = "the frame is lent until the next call")]
    pub fn next(&mut self) -> Option<Event<'_>> {
        let Reverse((time_ns, number)) = self.due.pop()?;
        let source = self.sources.get_mut(number)?;
        let record = source.records.get(source.cursor).copied()?;
        if source.advance() {
            self.due.push(Reverse((source.now, number)));
        }
        let packet = source.capture.packet(record.index as usize)?;
        let direction = if record.inbound { Direction::Inbound } else { Direction::Outbound };
        let frame = build(&packet, record, &mut source.rewriter, &mut self.scratch);
        Some(Event { time_ns, source: number, direction, frame })
    }
}

fn build<'a>(
    packet: &CapturedPacket<'a>,
    record: Record,
    rewriter: &mut Rewriter,
    scratch: &'a mut Vec<u8>,
) -> &'a [u8] {
    match record.layout {
        Some(layout) if !rewriter.is_idle() => {
            packet.copy_frame(record.length as usize, scratch);
            rewriter.apply(scratch, &layout, record.flow, record.inbound);
            scratch
        }
        // Every record has a frame: those without one are not in a `Capture`.
        _ => packet.frame(scratch).unwrap_or_default(),
    }
}

impl Source {
    fn new(spec: SourceSpec, capture: Capture, seed: u64, notes: &mut Notes) -> Result<Self, String> {
        note_tally(&spec, &capture, notes);
        let records = records(&spec, &capture, notes)?;
        let time = |index: usize| capture.packet(index).map_or(0, |packet| packet.time_ns);
        let last = capture.len().saturating_sub(1);
        let (epoch, length) = (time(0), time(last) - time(0));
        // One mean gap lies between the last packet and the first of the next pass.
        let period = length + length / (last as u64).max(1);
        if spec.repeats && spec.pace.is_none() && period == 0 && !records.is_empty() {
            return Err("`loop` needs `pps` here: all packets of the file have the same time".to_owned());
        }
        let rewriter = Rewriter::new(spec.rewrite, rng(seed, &spec.name, 1));
        let pacer = spec.pace.map(|pace| Pacer::new(pace, rng(seed, &spec.name, 0), spec.stop - spec.start));
        Ok(Self { capture, records, rewriter, pacer, spec, epoch, period, pass: 0, cursor: 0, now: 0, drawn: None })
    }

    /// Finds the time of the first packet; returns whether there is one.
    fn begin(&mut self) -> bool {
        self.drawn = self.pacer.as_mut().map(Pacer::next_ns);
        self.now = self.spec.start.saturating_add(self.drawn.unwrap_or(0));
        !self.records.is_empty() && self.timed()
    }

    /// Goes to the next packet; returns whether there is one.
    fn advance(&mut self) -> bool {
        self.cursor += 1;
        if self.cursor == self.records.len() {
            if !self.spec.repeats {
                return false;
            }
            self.cursor = 0;
            self.pass += 1;
            self.rewriter.restart();
        }
        self.timed()
    }

    /// Sets the time of the packet under the cursor; returns whether it is still sent.
    fn timed(&mut self) -> bool {
        let record = self.records[self.cursor];
        let since = match &mut self.pacer {
            // Packets of the reverse direction go with the packet before them.
            Some(_) if !record.inbound => return self.now < self.spec.stop,
            Some(pacer) => self.drawn.take().unwrap_or_else(|| pacer.next_ns()),
            None => {
                let at = self.capture.packet(record.index as usize).map_or(0, |packet| packet.time_ns - self.epoch);
                let active = self.pass.saturating_mul(self.period).saturating_add(at);
                self.spec.pulse.map_or(active, |pulse| pulse.stretch(active))
            }
        };
        self.now = self.spec.start.saturating_add(since);
        self.now < self.spec.stop
    }
}

/// Every source draws from streams of its own, named after it: a source that is added changes
/// nothing for the others.
fn rng(seed: u64, name: &str, purpose: u64) -> ChaCha8Rng {
    // FNV-1a (Fowler, Noll, Vo).
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(hash << 1 | purpose);
    rng
}

fn note_tally(spec: &SourceSpec, capture: &Capture, notes: &mut Notes) {
    let tally = capture.tally;
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            notes.push(format!("{}: {count} {what}", spec.name));
        }
    };
    note(tally.padded, "packets were cut by a snap length and are filled up with zeros");
    note(tally.short, "packets were skipped: shorter than an Ethernet header");
    note(tally.long, "packets were skipped: longer than an IP packet can be");
    note(tally.unsorted, "packets were out of order in time and are sorted");
    if capture.is_empty() {
        notes.push(format!("{}: the capture holds no packet", spec.name));
    }
}

/// Selects the packets that are sent, and finds their addresses.
fn records(spec: &SourceSpec, capture: &Capture, notes: &mut Notes) -> Result<Vec<Record>, String> {
    let mut scratch = Vec::new();
    let mut layouts = Vec::with_capacity(capture.len());
    for index in 0..capture.len() {
        let frame = capture.packet(index).and_then(|packet| packet.frame(&mut scratch)).unwrap_or_default();
        let layout = Layout::of(frame);
        let ends = layout.map(|layout| (layout.source(frame), layout.destination(frame)));
        layouts.push((layout, ends, frame.len() as u32));
    }
    let victim = victim(spec, layouts.iter().filter_map(|(_, ends, _)| *ends), notes)?;
    let (mut records, mut flows) = (Vec::with_capacity(layouts.len()), Flows::default());
    for (index, (layout, ends, length)) in layouts.into_iter().enumerate() {
        let inbound = match (victim, ends) {
            (None, _) => true,
            (Some(victim), Some((_, destination))) if destination == victim => true,
            (Some(victim), Some((source, _))) if source == victim => false,
            _ => continue,
        };
        let frame = capture.packet(index).and_then(|packet| packet.frame(&mut scratch)).unwrap_or_default();
        let flow = layout.map_or(0, |layout| flows.number(FlowKey::new(&layout, frame, inbound)));
        records.push(Record { index: index as u32, length, flow, inbound, layout });
    }
    if records.len() < capture.len() {
        let others = capture.len() - records.len();
        notes.push(format!("{}: {others} packets were left out: neither to nor from the victim", spec.name));
    }
    Ok(records)
}

/// Returns the address whose packets are sent, or `None` for all packets.
fn victim(
    spec: &SourceSpec,
    ends: impl Iterator<Item = (IpAddr, IpAddr)>,
    notes: &mut Notes,
) -> Result<Option<IpAddr>, String> {
    let Rewrite { dst, dst6, .. } = spec.rewrite;
    if dst.is_none() && dst6.is_none() && spec.victim.is_none() {
        return Ok(None);
    }
    // Packets, and the negated place of the first one: the earlier address wins a tie.
    let mut packets: HashMap<IpAddr, (u64, Reverse<usize>)> = HashMap::new();
    for (place, (_, destination)) in ends.enumerate() {
        packets.entry(destination).or_insert((0, Reverse(place))).0 += 1;
    }
    let busiest = |wanted: &dyn Fn(&IpAddr) -> bool| {
        packets
            .iter()
            .filter(|(address, _)| wanted(address))
            .max_by_key(|(_, count)| **count)
            .map(|(&victim, _)| victim)
    };
    let rewritten = |address: &IpAddr| if address.is_ipv4() { dst.is_some() } else { dst6.is_some() };
    let victim = match spec.victim {
        Some(victim) if packets.contains_key(&victim) => victim,
        Some(victim) => return Err(format!("the capture has no packet to the victim {victim}")),
        None => match busiest(&rewritten).or_else(|| busiest(&|_| true)) {
            Some(victim) => victim,
            None => return Ok(None),
        },
    };
    if (dst.is_some() || dst6.is_some()) && !rewritten(&victim) {
        let key = if victim.is_ipv4() { "dst" } else { "dst6" };
        notes.push(format!("{}: packets keep their destination {victim}: `rewrite` has no `{key}`", spec.name));
    }
    Ok(Some(victim))
}

#[cfg(test)]
mod tests;
