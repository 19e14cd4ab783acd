//! The messages of a journal.

use std::fmt;

use ftagent_common::{
    TrafficClass,
    sample::{SAMPLE_BYTES, SampleHeader, SampleRecord},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    decide::{ClassCount, Counts, Now, Packet, STATE_VERSION, input::Input, mitigate::RuleCount},
    record::tape::{Decided, IfaceSeen, SlotRule, TickRecord},
    sense::signals::HostSignals,
};

/// The format of a journal.
pub const FORMAT: &str = "ftagent.journal/1";
/// Bytes of a sample's header.
const HEADER: usize = size_of::<SampleHeader>();

/// A message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// The first one.
    Head(Head),
    /// A tick.
    Tick(Box<TickRow>),
    /// What somebody did to the core before the next tick.
    Input(Box<Input>),
    /// Facts are missing before this: the core as it was after them, as in `state.mp.zst`.
    Missed(Bytes),
    /// The last one.
    End(End),
}

/// What numbers in a journal mean.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: String,
    /// The version of the states in it.
    pub state: u32,
    /// The classes, by the numbers that samples and counts have.
    pub classes: Vec<String>,
}

impl Head {
    /// Of this version.
    pub fn present() -> Self {
        let classes = TrafficClass::ALL.into_iter().map(|class| class.as_str().to_owned()).collect();
        Self { format: FORMAT.to_owned(), state: STATE_VERSION, classes }
    }
}

/// How a journal ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    /// Why it ended before its incident did; absent where it did not.
    pub why: Option<String>,
}

/// A tick, written down.
#[derive(Debug, Serialize, Deserialize)]
pub struct TickRow {
    now: Now,
    elapsed_ns: u64,
    /// Class, packets, bytes, packets dropped; of classes that had any.
    counts: Vec<(u8, u64, u64, u64)>,
    samples: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outbound: Option<Vec<Packet>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<HostSignals>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleCount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ifaces: Vec<IfaceSeen>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slots: Option<Vec<SlotRule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decided: Option<Decided>,
}

impl TickRow {
    /// Writes a tick down.
    pub fn of(tick: &TickRecord) -> Self {
        let counts = (0u8..).zip(&tick.counts.classes).filter(|(_, count)| **count != ClassCount::default());
        let mut samples = Vec::with_capacity(tick.samples.len() * (HEADER + 64));
        tick.samples.iter().for_each(|record| pack(record, &mut samples));
        let decided =
            Decided { events: tick.events.clone(), incidents: tick.incidents.clone(), wanted: tick.wanted.clone() };
        Self {
            now: tick.now,
            elapsed_ns: tick.elapsed_ns,
            counts: counts.map(|(class, count)| (class, count.packets, count.bytes, count.dropped)).collect(),
            samples: Bytes(samples),
            outbound: tick.outbound.clone(),
            host: tick.host.clone(),
            rules: tick.rules.clone(),
            ifaces: tick.ifaces.clone(),
            slots: tick.slots.clone(),
            decided: (!decided.is_empty()).then_some(decided),
        }
    }

    /// Reads it; `classes` has what the numbers of classes mean.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn unpack(self, classes: &Classes) -> Result<TickRecord, String> {
        let mut counts = Box::<Counts>::default();
        for (class, packets, bytes, dropped) in self.counts {
            // A class that this version does not have is one that it does not look at.
            let Some(class) = classes.get(class)? else { continue };
            if let Some(count) = counts.classes.get_mut(class.index()) {
                *count = ClassCount { packets, bytes, dropped };
            }
        }
        let Decided { events, incidents, wanted } = self.decided.unwrap_or_default();
        Ok(TickRecord {
            now: self.now,
            elapsed_ns: self.elapsed_ns,
            counts,
            samples: unpack(&self.samples.0, classes)?,
            outbound: self.outbound,
            host: self.host,
            rules: self.rules,
            ifaces: self.ifaces,
            events,
            incidents,
            wanted,
            slots: self.slots,
        })
    }
}

/// What the numbers of classes in a journal mean here.
#[derive(Clone, Debug, Default)]
pub struct Classes(Vec<Option<TrafficClass>>);

impl Classes {
    /// By their names.
    pub fn of(head: &Head) -> Self {
        Self(head.classes.iter().map(|name| TrafficClass::from_name(name)).collect())
    }

    fn get(&self, number: u8) -> Result<Option<TrafficClass>, String> {
        self.0.get(usize::from(number)).copied().ok_or_else(|| format!("there is no class {number}"))
    }
}

/// A sample: its header's fields in order, little-endian, and the bytes that were captured.
fn pack(record: &SampleRecord, out: &mut Vec<u8>) {
    let header = &record.header;
    let data = record.data.get(..usize::from(header.captured)).unwrap_or(&record.data);
    out.extend(header.time_ns.to_le_bytes());
    out.extend(header.wire_bytes.to_le_bytes());
    out.extend(header.stride.to_le_bytes());
    out.extend((data.len() as u16).to_le_bytes());
    out.extend(header.slot.to_le_bytes());
    out.extend([header.class, header.verdict, header.reason, header.socket]);
    out.extend(header.rule.to_le_bytes());
    out.extend(header.cpu.to_le_bytes());
    out.extend(header.flags.to_le_bytes());
    out.extend(data);
}

fn unpack(mut bytes: &[u8], classes: &Classes) -> Result<Vec<SampleRecord>, String> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or("a sample is cut short")?;
        let [t0, t1, t2, t3, t4, t5, t6, t7, w0, w1, w2, w3, s0, s1, s2, s3, tail @ ..] = *header;
        let [c0, c1, l0, l1, class, verdict, reason, socket, r0, r1, r2, r3, p0, p1, f0, f1] = tail;
        let captured = u16::from_le_bytes([c0, c1]);
        let (captured_bytes, rest) = rest.split_at_checked(usize::from(captured)).ok_or("a sample is cut short")?;
        let mut data = [0; SAMPLE_BYTES];
        data.get_mut(..captured_bytes.len()).ok_or("a sample is too long")?.copy_from_slice(captured_bytes);
        bytes = rest;
        // A class that this version does not have is found anew by the parser.
        let class = classes.get(class)?.map_or(u8::MAX, |class| class as u8);
        let header = SampleHeader {
            time_ns: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            wire_bytes: u32::from_le_bytes([w0, w1, w2, w3]),
            stride: u32::from_le_bytes([s0, s1, s2, s3]),
            captured,
            slot: u16::from_le_bytes([l0, l1]),
            class,
            verdict,
            reason,
            socket,
            rule: u32::from_le_bytes([r0, r1, r2, r3]),
            cpu: u16::from_le_bytes([p0, p1]),
            flags: u16::from_le_bytes([f0, f1]),
        };
        records.push(SampleRecord { header, data });
    }
    Ok(records)
}

/// Bytes, as one value.
#[derive(Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}
