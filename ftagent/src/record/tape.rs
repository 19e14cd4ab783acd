//! What a tick was given and what was decided in it, on its way from the poll thread to whoever records
//! it. The poll thread never waits: what finds no room is lost, counted, and said; the first thing after a loss is the
//! whole core, with the incidents that opened or closed meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

use ftagent_common::{reason::verdict, sample::SampleRecord};
use serde::{Deserialize, Serialize};

use crate::{
    decide::{
        Counts, Decider, Event, Incident, Now, Packet,
        input::Input,
        mitigate::{RuleCount, Wanted},
    },
    sense::{signals::HostSignals, window::IfaceSnapshot},
};

/// Facts that wait to be recorded, at most: three minutes of ticks.
const WAITING: usize = 2048;

/// Images of the core on the tape, at most: each takes some 15 MB.
const IMAGES: usize = 2;

/// Something that reached the core, in order.
#[derive(Debug)]
pub enum Fact {
    /// A tick.
    Tick(Box<TickRecord>),
    /// What somebody did to the core before the next tick.
    Input(Box<Input>),
    /// The core as it is before the next tick.
    State(Arc<Image>),
}

/// The whole core at one instant.
#[derive(Clone, Debug)]
pub struct Image {
    /// The core.
    pub core: Decider,
    /// It does not follow from the facts before it: some were lost, or it was replaced as a whole.
    pub breaks: bool,
}

/// What was decided in a tick. Two cores that write the same JSON of it decided the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The events, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// The incidents that opened or closed, as they were then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incidents: Vec<Incident>,
    /// The rules that are wanted, where they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Vec<Wanted>>,
}

impl Decided {
    /// Gathers what a core has just decided; `generation` is that of the rules that were gathered last.
    pub fn of(core: &Decider, events: Vec<Event>, generation: &mut u64) -> Self {
        let about = |incident: &&Incident| {
            let is_it =
                |event: &Event| matches!(event, Event::Opened { id } | Event::Closed { id } if *id == incident.id);
            events.iter().any(is_it)
        };
        let (wanted, latest) = core.wanted();
        let changed = std::mem::replace(generation, latest) != latest;
        Self {
            incidents: core.incidents().filter(about).cloned().collect(),
            wanted: changed.then(|| wanted.to_vec()),
            events,
        }
    }

    /// Returns whether nothing was decided.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.wanted.is_none()
    }
}

/// A tick: what the core was given, and what it decided.
#[derive(Clone, Debug)]
pub struct TickRecord {
    /// Its end.
    pub now: Now,
    /// Its length, nanoseconds.
    pub elapsed_ns: u64,
    /// What was counted in it.
    pub counts: Box<Counts>,
    /// The samples taken in it, as the kernel gave them: those of several CPUs may cross in time.
    pub samples: Vec<SampleRecord>,
    /// Packets that this host sent, where they are seen (replay).
    pub outbound: Option<Vec<Packet>>,
    /// The kernel's statistics, where they were read.
    pub host: Option<HostSignals>,
    /// What the wanted rules did.
    pub rules: Vec<RuleCount>,
    /// What every interface had counted at its end.
    pub ifaces: Vec<IfaceSeen>,
    /// What was decided.
    pub events: Vec<Event>,
    /// The incidents that opened or closed, as they were then.
    pub incidents: Vec<Incident>,
    /// The rules that are wanted, where they changed.
    pub wanted: Option<Vec<Wanted>>,
    /// The rules in the kernel, where they changed.
    pub slots: Option<Vec<SlotRule>>,
}

/// What an interface had counted, since its counters were first pinned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IfaceSeen {
    /// Its slot, as samples name it.
    pub slot: u32,
    /// Its name.
    pub name: String,
    /// Packets seen, dropped ones included.
    pub seen: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Samples and captured packets that were lost because their ring was full.
    pub samples_lost: u64,
    /// Samples that the cap left out.
    pub samples_capped: u64,
}

impl From<&IfaceSnapshot> for IfaceSeen {
    fn from(iface: &IfaceSnapshot) -> Self {
        let total = &iface.total;
        Self {
            slot: iface.slot,
            name: iface.name.clone(),
            seen: total.seen(),
            dropped: total.verdicts[verdict::DROP as usize],
            samples_lost: total.samples_lost,
            samples_capped: total.samples_capped,
        }
    }
}

/// A rule in the kernel, by the slot that samples name (less one).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRule {
    /// Its slot.
    pub slot: u8,
    /// Whose it is: `operator's rule 3`, `rule 17`.
    pub owner: String,
    /// What it matches, as text.
    pub matches: String,
    /// What it does, as text.
    pub action: String,
}

/// Images of the core whose memory is used again: what a whole one costs is its fresh pages.
#[derive(Debug, Default)]
pub struct Images(Vec<Arc<Image>>);

impl Images {
    /// Takes an image of a core, in the memory of one that nobody needs any more where there is one.
    pub fn take(&mut self, core: &Decider, breaks: bool) -> Arc<Image> {
        let mut fresh = None;
        self.0.retain_mut(|known| match Arc::get_mut(known) {
            // One is used now; more than one that nobody needs is kept for nothing.
            Some(image) if fresh.is_none() => {
                image.core.clone_from(core);
                image.breaks = breaks;
                fresh = Some(Arc::clone(known));
                true
            }
            Some(_) => false,
            None => true,
        });
        fresh.unwrap_or_else(|| {
            let image = Arc::new(Image { core: core.clone(), breaks });
            self.0.push(Arc::clone(&image));
            image
        })
    }
}

/// The poll thread's end.
#[derive(Debug)]
pub struct Tape {
    facts: SyncSender<Fact>,
    load: Arc<Load>,
    most_bytes: usize,
    lost: bool,
}

/// What lies on the tape.
#[derive(Debug, Default)]
pub struct Load {
    /// Bytes of samples that wait.
    bytes: AtomicUsize,
    /// Images of the core that wait.
    images: AtomicUsize,
    /// Ticks that found no room.
    pub lost_ticks: AtomicU64,
    /// Samples in those.
    pub lost_samples: AtomicU64,
}

/// The recorder's end.
#[derive(Debug)]
pub struct TapeReader {
    facts: Receiver<Fact>,
    /// What lies on it, and what was lost.
    pub load: Arc<Load>,
}

/// Makes a tape on which at most so many bytes of samples wait.
pub fn tape(most_bytes: usize) -> (Tape, TapeReader) {
    let (sender, receiver) = sync_channel(WAITING);
    let load = Arc::new(Load::default());
    let tape = Tape { facts: sender, load: Arc::clone(&load), most_bytes, lost: false };
    (tape, TapeReader { facts: receiver, load })
}

impl Tape {
    /// Puts a fact on it, or counts it as lost; never waits.
    pub fn put(&mut self, fact: Fact) {
        let bytes = fact.bytes();
        let samples = match &fact {
            Fact::Tick(tick) => tick.samples.len() as u64,
            _ => 0,
        };
        // What follows a loss is of no use to a replay until the core is known again.
        let torn = self.lost && !matches!(fact, Fact::State(_));
        if torn || self.load.bytes.load(Ordering::Relaxed).saturating_add(bytes) > self.most_bytes {
            return self.lose(samples);
        }
        let images = usize::from(matches!(fact, Fact::State(_)));
        self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.load.images.fetch_add(images, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.facts.try_send(fact) {
            self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.load.images.fetch_sub(images, Ordering::Relaxed);
            self.lose(samples);
        }
    }

    /// Returns whether something was lost since the last call: what follows then stands alone, until the
    /// whole core is put on again.
    pub fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// Returns whether an image of the core may be put on it: whoever records keeps up.
    pub fn has_room_for_image(&self) -> bool {
        let (bytes, images) = (self.load.bytes.load(Ordering::Relaxed), self.load.images.load(Ordering::Relaxed));
        bytes <= self.most_bytes / 2 && images < IMAGES
    }

    /// Has [`Self::take_lost`] say so again: the core could not be put on it.
    pub fn owe_image(&mut self) {
        self.lost = true;
    }

    fn lose(&mut self, samples: u64) {
        self.lost = true;
        self.load.lost_ticks.fetch_add(1, Ordering::Relaxed);
        self.load.lost_samples.fetch_add(samples, Ordering::Relaxed);
    }
}

impl TapeReader {
    /// Waits for the next fact; `None` where none came in time.
    ///
    /// # Errors
    /// When nobody writes any more.
    pub fn next(&self, timeout: std::time::Duration) -> Result<Option<Fact>, std::sync::mpsc::RecvError> {
        match self.facts.recv_timeout(timeout) {
            Ok(fact) => {
                self.load.bytes.fetch_sub(fact.bytes(), Ordering::Relaxed);
                self.load.images.fetch_sub(usize::from(matches!(fact, Fact::State(_))), Ordering::Relaxed);
                Ok(Some(fact))
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Ok(None),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(std::sync::mpsc::RecvError),
        }
    }
}

impl Fact {
    /// Bytes that it takes in memory, without what is small.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Tick(tick) => tick.bytes(),
            // Images are counted apart.
            Self::Input(_) | Self::State(_) => 0,
        }
    }
}

impl TickRecord {
    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        let outbound = self.outbound.as_ref().map_or(0, |packets| size_of_val(packets.as_slice()));
        size_of::<Self>() + size_of::<Counts>() + size_of_val(self.samples.as_slice()) + outbound
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_records_too_slowly_loses_facts_and_holds_up_nobody() {
        let (mut tape, reader) = tape(2 * size_of::<TickRecord>() + 3 * size_of::<Counts>());
        let tick = || {
            Fact::Tick(Box::new(TickRecord {
                now: Now::default(),
                elapsed_ns: 0,
                counts: Box::default(),
                samples: Vec::new(),
                outbound: None,
                host: None,
                rules: Vec::new(),
                ifaces: Vec::new(),
                events: Vec::new(),
                incidents: Vec::new(),
                wanted: None,
                slots: None,
            }))
        };
        for _ in 0..3 {
            tape.put(tick());
        }
        assert!(tape.take_lost() && !tape.take_lost(), "the third found no room");
        let read = || reader.next(Duration::ZERO).unwrap().is_some();
        assert_eq!([read(), read(), read()], [true, true, false]);
        tape.put(tick());
        assert!(!tape.take_lost() && read(), "there is room again");
        tape.owe_image();
        tape.put(tick());
        assert!(tape.take_lost() && !read(), "what follows a loss waits for the core");
        assert_eq!(reader.load.lost_ticks.load(Ordering::Relaxed), 2);
        drop(reader);
        tape.put(tick());
        assert!(tape.take_lost(), "nobody reads");
    }
}
