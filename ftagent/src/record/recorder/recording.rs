//! One capture while it is written: what goes into the file, what does not, and what is known of both.

mod clock;
mod whole;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ftagent_common::{
    DropReason,
    reason::verdict,
    sample::{CAPTURE_BYTES, SAMPLE_BYTES, SampleRecord},
};

use self::clock::Clock;
use super::{
    Companion,
    frame::{Frame, Names, comment},
    frames::Frames,
    lives,
    meta::{CAPTURE, ClassCounts, FORMAT, FileFacts, InterfaceCounts, Kind, Lost, Meta, Status},
    pcapng,
    quota::{Fill, Quota, place},
    ring::PreRoll,
    store::{self, Opened},
};
use crate::{
    config::Payload,
    decide::{Incident, Packet},
    record::tape::{Fact, IfaceSeen, TickRecord},
    rule::FlowMatch,
};

/// What is in a capture of samples …
const SAMPLES: &str = "These are samples, drawn by traffic class before anything was dropped: each stands for `stride` \
     packets of its class. Interface statistics declare what is not here.";
/// … and in one of whole packets.
const EVERY: &str = "This is every packet that matches, but those that a block list names; what found no room is \
     declared by the interface statistics (kernel, quota, disk).";
/// Where it begins after the incident.
const LATE: &str = "Ticks were lost on the way to the recorder, and the beginning of the incident with them.";
/// When packets were.
const TIMES: &str = "Times are CLOCK_MONOTONIC of the packet plus the offset to UTC that was read at the end of a tick, to \
     a millisecond.";

/// Classes, and one more for those that are unknown.
const PLACES: usize = ftagent_common::TrafficClass::COUNT + 1;
/// Bytes of the longest packet of the capture ring.
const LONGEST: usize = CAPTURE_BYTES[CAPTURE_BYTES.len() - 1];
/// Verdicts that have a name.
const VERDICTS: usize = 4;

/// What to capture.
pub struct Plan {
    /// The directory's name.
    pub id: String,
    /// The incident, where it is of one.
    pub incident: Option<Incident>,
    /// What packets have to match, where it is an operator's.
    pub matches: Option<FlowMatch>,
    /// Who asked for it.
    pub by: Option<String>,
    /// Bytes of the file at most.
    pub most_bytes: u64,
    /// Nanoseconds that it lasts at most, where that is known.
    pub lasts_ns: Option<u64>,
    /// What of a packet is kept.
    pub payload: Payload,
    /// Every packet that matches, as long as it is, in place of samples.
    pub full: bool,
    /// The incident's beginning was among what was lost on the way here.
    pub late: bool,
}

/// A capture that is being written.
pub struct Recording {
    /// What it is of.
    pub plan: Plan,
    /// When it ends, monotonic nanoseconds.
    pub until_ns: Option<u64>,
    /// Why it cannot be written, where it cannot.
    pub trouble: Option<String>,
    root: PathBuf,
    frames: Frames,
    made: bool,
    quota: Quota,
    ifaces: Vec<Iface>,
    names: Names,
    clock: Clock,
    companions: Vec<Box<dyn Companion>>,
    /// What those found that have finished.
    hits: Vec<(String, u64)>,
    begun: bool,
    counts: Counts,
    earlier: Option<Meta>,
    meta: Meta,
    comment: String,
    order: Vec<u32>,
}

/// What was counted so far.
#[derive(Clone, Debug)]
struct Counts {
    classes: Vec<ClassCounts>,
    verdicts: [u64; VERDICTS],
    reasons: [u64; DropReason::COUNT],
    lost: Lost,
    sampled: u64,
    written: u64,
    cut: u64,
    /// UTC, nanoseconds: from when to when packets were counted.
    start_ns: Option<u64>,
    end_ns: u64,
}

/// An interface, in the order of its description.
#[derive(Clone, Debug)]
struct Iface {
    slot: u32,
    name: String,
    last: IfaceSeen,
    received: u64,
    written: u64,
    /// Packets of this tick that are not in the file.
    absent: i64,
    /// Those of earlier ticks that no packet in the file has told of yet.
    untold: i64,
    /// It was not there before this tick: from the next on it is known what it counted.
    fresh: bool,
}

impl Recording {
    /// Begins a capture with what was before it, for the file at least; whoever goes along with it begins
    /// when there is a directory, see [`Self::open`].
    ///
    /// # Errors
    /// Where there is no memory to compress in.
    pub fn new(root: &Path, plan: Plan, before: &super::ring::Before) -> io::Result<Self> {
        let quota = Quota::new(plan.most_bytes, plan.lasts_ns.map(|ns| ns as f64 / 1e9));
        let mut recording = Self {
            until_ns: None,
            trouble: None,
            root: root.to_owned(),
            frames: Frames::new(&root.join(&plan.id).join(CAPTURE))?,
            made: false,
            quota,
            ifaces: Vec::new(),
            names: before.names.clone(),
            clock: Clock(before.at.map(|(unix_ns, mono_ns)| i128::from(unix_ns) - i128::from(mono_ns))),
            companions: Vec::new(),
            hits: Vec::new(),
            begun: false,
            counts: Counts {
                classes: vec![ClassCounts::default(); PLACES],
                verdicts: [0; VERDICTS],
                reasons: [0; DropReason::COUNT],
                lost: Lost::default(),
                sampled: 0,
                written: 0,
                cut: 0,
                start_ns: before.at.map(|(unix_ns, _)| unix_ns),
                end_ns: 0,
            },
            earlier: None,
            meta: Meta::default(),
            comment: String::new(),
            order: Vec::new(),
            plan,
        };
        recording.describe();
        recording.begin_section();
        for seen in &before.ifaces {
            recording.add_interface(seen, false);
        }
        Ok(recording)
    }

    /// Fills in what does not change.
    fn describe(&mut self) {
        let Plan { id, incident, matches, by, payload, .. } = &self.plan;
        self.meta = Meta {
            format: FORMAT,
            id: id.clone(),
            kind: if incident.is_some() { Kind::Incident } else { Kind::Manual },
            vector: incident.as_ref().map(|incident| incident.vector.as_str().to_owned()),
            matches: matches.as_ref().map(ToString::to_string),
            by: by.clone(),
            begun_ms: crate::sense::clock::unix_ms(),
            payload: *payload,
            incident: incident.clone(),
            notes: self.plan.late.then(|| LATE.to_owned()).into_iter().collect(),
            ..Meta::default()
        };
    }

    /// Adds something that the operator should know.
    pub fn note(&mut self, note: String) {
        self.meta.notes.push(note);
    }

    fn begin_section(&mut self) {
        let about = match (&self.plan.incident, &self.plan.matches) {
            (Some(incident), _) => format!("incident {} ({})", self.plan.id, incident.vector.as_str()),
            (None, Some(matches)) => format!("capture {} of `{matches}`", self.plan.id),
            (None, None) => format!("capture {}", self.plan.id),
        };
        let what = if self.plan.full { EVERY } else { SAMPLES };
        let late = if self.plan.late { LATE } else { "" };
        let comment = format!("{about}. {what} {TIMES} {late}");
        let system = nix::sys::utsname::uname().map_or_else(
            |_| "Linux".to_owned(),
            |name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        );
        pcapng::section(self.frames.blocks(), concat!("ftagent ", env!("CARGO_PKG_VERSION")), &system, &comment);
    }

    fn add_interface(&mut self, seen: &IfaceSeen, fresh: bool) {
        let most = if self.plan.full { LONGEST } else { SAMPLE_BYTES };
        pcapng::interface(self.frames.blocks(), &seen.name, most as u32);
        let (slot, name) = (seen.slot, seen.name.clone());
        self.ifaces.push(Iface {
            slot,
            name,
            last: seen.clone(),
            received: 0,
            written: 0,
            absent: 0,
            untold: 0,
            fresh,
        });
    }

    /// Makes the directory, goes on with what an earlier life left there, and lets the others begin.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(
        &mut self,
        companions: impl FnOnce() -> Vec<Box<dyn Companion>>,
        pre_roll: &[Arc<Fact>],
    ) -> io::Result<()> {
        let dir = self.enter()?;
        self.write()?;
        self.save(Status::Open)?;
        if let (Some(incident), false) = (&self.plan.incident, self.begun) {
            if let Some(life) = lives::set_aside(&dir)? {
                self.meta.notes.push(lives::words(&dir, &self.plan.id, life));
                self.meta.files = self.earlier.as_ref().map_or_else(Vec::new, |meta| lives::renamed(&meta.files, life));
            }
            self.companions = companions();
            self.companions.iter_mut().for_each(|companion| companion.begin(&dir, incident, pre_roll));
        }
        self.begun = true;
        Ok(())
    }

    /// Makes the directory, and takes over what an earlier life knew, before anything is written over that.
    fn enter(&mut self) -> io::Result<PathBuf> {
        let dir = store::make(&self.root, &self.plan.id)?;
        if !self.made {
            self.earlier = store::earlier(&self.root, &self.plan.id)?;
            self.made = true;
        }
        Ok(dir)
    }

    /// Returns whether its directory was made, and what an earlier life left there is known.
    pub const fn was_made(&self) -> bool {
        self.made
    }

    /// Returns whether its directory was made, and everything began that goes along with it.
    pub const fn is_open(&self) -> bool {
        self.begun
    }

    /// Takes in what was before it began.
    pub fn take_pre_roll(&mut self, pre_roll: &PreRoll) {
        for fact in pre_roll.facts.iter().skip(pre_roll.earlier) {
            self.record(fact);
        }
    }

    /// Takes in what happens.
    pub fn take(&mut self, fact: &Fact) {
        self.record(fact);
        self.companions.iter_mut().for_each(|companion| companion.take(fact));
    }

    /// Takes in that facts were lost on the way here.
    pub fn lose(&mut self, samples: u64) {
        self.counts.lost.tape += samples;
    }

    fn record(&mut self, fact: &Fact) {
        let Fact::Tick(tick) = fact else { return };
        self.clock.follow(tick.now);
        self.counts.end_ns = self.clock.utc_ns(tick.now.mono_ns);
        self.counts.start_ns.get_or_insert(self.counts.end_ns);
        let received: u64 = tick.ifaces.iter().map(|seen| self.count_interface(seen)).sum();
        // Before the first of them is known, nothing is: this tick says from where on to count.
        if !self.plan.full && self.ifaces.iter().any(|iface| !iface.fresh) {
            self.packets(tick, received);
        }
        for iface in &mut self.ifaces {
            iface.fresh = false;
            iface.untold = iface.untold.saturating_add(std::mem::take(&mut iface.absent));
        }
        // These are in force from the next tick on.
        if let Some(slots) = &tick.slots {
            self.names.follow(slots);
        }
    }

    /// Returns the packets that came in since the last time.
    fn count_interface(&mut self, seen: &IfaceSeen) -> u64 {
        let Some(iface) = self.ifaces.iter_mut().find(|iface| iface.slot == seen.slot && iface.name == seen.name)
        else {
            self.add_interface(seen, true);
            return 0;
        };
        // Counters that began anew count from nothing.
        let more = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        let received = more(seen.seen, iface.last.seen);
        self.counts.lost.kernel += more(seen.samples_lost, iface.last.samples_lost);
        // Where packets come whole, it is nothing to them that samples are bounded.
        if !self.plan.full {
            self.counts.lost.kernel += more(seen.samples_capped, iface.last.samples_capped);
        }
        iface.received += received;
        iface.absent += i64::try_from(received).unwrap_or(i64::MAX);
        iface.last.clone_from(seen);
        received
    }

    fn packets(&mut self, tick: &TickRecord, received: u64) {
        // Interfaces go on from where they were; classes are those of this tick, and ticks may be missing.
        let classed = tick.counts.classes.iter().map(|seen| seen.packets).sum();
        if let Some(unknown) = self.counts.classes.last_mut() {
            unknown.seen += received.saturating_sub(classed);
        }
        for (counts, seen) in self.counts.classes.iter_mut().zip(&tick.counts.classes) {
            counts.seen += seen.packets;
            counts.dropped += seen.dropped;
        }
        let mut classes = vec![0; PLACES];
        for sample in &tick.samples {
            if let Some(count) = classes.get_mut(usize::from(sample.header.class).min(PLACES - 1)) {
                *count += 1;
            }
        }
        let before = self.bytes();
        self.quota.tick(tick.elapsed_ns as f64 / 1e9, &classes, before);
        let payload = if self.quota.fill(before) == Fill::Tight { Payload::Headers } else { self.plan.payload };
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..u32::try_from(tick.samples.len()).unwrap_or(u32::MAX));
        let at = |place: &u32| tick.samples.get(*place as usize).map_or(0, |sample| sample.header.time_ns);
        // Those of several CPUs cross in time.
        if !order.is_sorted_by_key(at) {
            order.sort_by_key(at);
        }
        for sample in order.iter().filter_map(|place| tick.samples.get(*place as usize)) {
            self.sample(sample, payload);
        }
        self.order = order;
    }

    fn sample(&mut self, sample: &SampleRecord, payload: Payload) {
        let frame = Frame::from(sample);
        let Some(number) = self.ifaces.iter().rposition(|iface| iface.slot == frame.slot && !iface.fresh) else {
            return;
        };
        self.counts.sampled += 1;
        let Some(class) = self.counts.classes.get_mut(place(frame.class)) else { return };
        class.sampled += 1;
        if self.plan.matches.as_ref().is_some_and(|matches| !matches.matches(&Packet::of_sample(sample).subject())) {
            self.counts.lost.unmatched += 1;
            return;
        }
        if !self.quota.take(frame.class) {
            class.left_out += 1;
            self.counts.lost.quota += 1;
            return;
        }
        if !self.frames.has_room() {
            class.left_out += 1;
            self.counts.lost.disk += 1;
            return;
        }
        class.written += 1;
        self.put(&frame, number, payload);
    }

    /// Writes a packet, from whichever source, to the file.
    fn put(&mut self, frame: &Frame<'_>, number: usize, payload: Payload) {
        let Some(iface) = self.ifaces.get_mut(number) else { return };
        // What an operator's filter leaves out is not lost.
        let untold = if self.plan.matches.is_some() { 0 } else { iface.tell() };
        iface.written += 1;
        iface.absent -= 1;
        comment(&mut self.comment, frame, &self.names);
        let time_ns = self.clock.utc_ns(frame.time_ns);
        let bytes = frame.kept(payload);
        self.counts.cut += u64::from(payload != self.plan.payload && bytes.len() < frame.kept(self.plan.payload).len());
        pcapng::packet(
            self.frames.blocks(),
            &pcapng::Packet {
                interface: number as u32,
                time_ns,
                bytes,
                wire: frame.wire,
                action: u64::from(frame.verdict),
                queue: frame.cpu,
                lost: untold,
                comment: &self.comment,
            },
        );
        self.frames.count_packet();
        self.counts.written += 1;
        if let Some(count) = self.counts.verdicts.get_mut(frame.verdict as usize) {
            *count += 1;
        }
        if let Some(count) = frame.reason.and_then(|reason| self.counts.reasons.get_mut(reason.index())) {
            *count += 1;
        }
        self.meta.first_ns.get_or_insert(time_ns);
        self.meta.last_ns = self.meta.last_ns.max(Some(time_ns));
        if self.frames.is_due() {
            self.seal();
            if self.trouble.is_none() && self.made {
                self.trouble = self.frames.flush().err().map(|error| self.words(&error));
            }
        }
    }

    fn seal(&mut self) {
        match self.frames.seal() {
            Ok(Some(sealed)) => self.quota.learn(sealed.packets, sealed.bytes),
            Ok(None) => {}
            Err(error) => self.trouble = Some(self.words(&error)),
        }
    }

    /// Writes what there is; the directory has to be there.
    ///
    /// # Errors
    /// What the file system says; `NotFound` where somebody removed the file or its directory.
    pub fn write(&mut self) -> io::Result<()> {
        self.seal();
        self.frames.flush()
    }

    /// Writes statistics and the description too.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn checkpoint(&mut self) -> io::Result<()> {
        self.statistics();
        self.write()?;
        self.frames.sync()?;
        self.save(Status::Open)
    }

    /// Ends it: what goes along with it ends too.
    ///
    /// # Errors
    /// As [`Self::write`]; it may be tried again.
    pub fn finish(&mut self, status: Status) -> io::Result<()> {
        let dir = self.enter()?;
        self.statistics();
        self.write()?;
        self.frames.sync()?;
        if let Some(incident) = &self.plan.incident {
            self.hits.extend(self.companions.iter().flat_map(|companion| companion.hits()));
            for mut companion in self.companions.drain(..) {
                if let Err(error) = companion.finish(incident) {
                    self.meta.notes.push(format!("not everything about it could be written: {error}"));
                }
            }
        }
        let opened = Opened::new(&self.root, &self.plan.id)?;
        self.meta.files = store::facts(&dir, &opened, &[CAPTURE], &self.meta.files);
        self.meta.ended_ms = Some(crate::sense::clock::unix_ms());
        self.save(status)
    }

    fn save(&mut self, status: Status) -> io::Result<()> {
        self.meta.status = status;
        self.meta.held = Opened::new(&self.root, &self.plan.id)?.hold().is_some();
        self.facts().save(&self.root.join(&self.plan.id))
    }

    fn statistics(&mut self) {
        let words = self.loss().words();
        let blocks = self.frames.blocks();
        for (iface, number) in self.ifaces.iter().zip(0..) {
            let sums = format!("{} packets came in, {} are here", iface.received, iface.written);
            pcapng::statistics(
                blocks,
                &pcapng::Statistics {
                    interface: number,
                    start_ns: self.counts.start_ns.unwrap_or(0),
                    end_ns: self.counts.end_ns,
                    received: iface.received,
                    written: iface.written,
                    accepted: self.plan.matches.is_none().then_some(iface.received),
                    comment: format!("{sums}; of all interfaces: {words}"),
                },
            );
        }
    }

    /// Returns why packets are not in the file.
    pub fn loss(&self) -> Lost {
        let seen: u64 = self.ifaces.iter().map(|iface| iface.received).sum();
        let Counts { lost, sampled, .. } = &self.counts;
        let known = sampled + lost.kernel + lost.tape;
        Lost { not_sampled: seen.saturating_sub(known), ..*lost }
    }

    /// Returns what is known of it now.
    pub fn facts(&self) -> Meta {
        let counts = &self.counts;
        let names = ftagent_common::TrafficClass::ALL.into_iter().map(|class| class.as_str()).chain(["unknown"]);
        let seen = |(_, counts): &(&str, ClassCounts)| counts.seen > 0 || counts.sampled > 0;
        let classes = names.zip(counts.classes.iter().copied()).filter(seen);
        let verdicts = (0..).zip(counts.verdicts).map(|(number, count)| (verdict::name(number), count));
        let reasons = DropReason::ALL.into_iter().map(|reason| reason.as_str()).zip(counts.reasons);
        let of_iface =
            |iface: &Iface| InterfaceCounts { name: iface.name.clone(), seen: iface.received, written: iface.written };
        let (bytes, sha256) = self.frames.digest();
        let capture = FileFacts { name: CAPTURE.to_owned(), bytes, sha256 };
        let mut meta = Meta {
            seen: self.ifaces.iter().map(|iface| iface.received).sum(),
            sampled: counts.sampled,
            written: counts.written,
            lost: self.loss(),
            cut: counts.cut,
            classes: classes.map(|(name, counts)| (name.to_owned(), counts)).collect(),
            verdicts: verdicts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect(),
            reasons: reasons.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect(),
            interfaces: self.ifaces.iter().map(of_iface).collect(),
            files: std::iter::once(capture).chain(self.meta.files.iter().cloned()).collect(),
            incident: self.plan.incident.clone(),
            vector: self.plan.incident.as_ref().map(|incident| incident.vector.as_str().to_owned()),
            ..self.meta.clone()
        };
        if let Some(earlier) = &self.earlier {
            meta.add(earlier);
        }
        meta
    }

    /// Returns the bytes of the file, what is not compressed yet about.
    pub fn bytes(&self) -> u64 {
        self.frames.bytes() + self.quota.estimate(self.frames.open_packets())
    }

    /// Returns the packets in the file.
    pub const fn written(&self) -> u64 {
        self.counts.written
    }

    /// Returns how many samples matched which pattern.
    pub fn hits(&self) -> Vec<(String, u64)> {
        let now = self.companions.iter().flat_map(|companion| companion.hits());
        self.hits.iter().cloned().chain(now).collect()
    }

    /// Returns when it began, milliseconds since 1970.
    pub const fn begun_ms(&self) -> i64 {
        self.meta.begun_ms
    }

    /// Says that it cannot be written, in words.
    pub fn words(&self, error: &io::Error) -> String {
        format!(
            "capture {} cannot be written ({error}): it goes on in memory, and what finds no room there is left out; \
             look at the disk of `paths.state`, it is tried again every few seconds",
            self.plan.id
        )
    }
}

impl Iface {
    /// Returns the packets that no packet in the file has told of yet.
    fn tell(&mut self) -> u64 {
        let untold = u64::try_from(self.untold).unwrap_or(0);
        self.untold -= i64::try_from(untold).unwrap_or(0);
        untold
    }
}
