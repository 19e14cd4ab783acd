//! pcapng as far as the recorder needs it: little-endian, one section header, an interface description
//! for each interface, enhanced packets and interface statistics, nanoseconds throughout
//! (draft-ietf-opsawg-pcapng, sections 3.5 and 4).

/// Block types.
pub mod kind {
    /// Section header.
    pub const SECTION: u32 = 0x0a0d_0d0a;
    /// Interface description.
    pub const INTERFACE: u32 = 1;
    /// Interface statistics.
    pub const STATISTICS: u32 = 5;
    /// Enhanced packet.
    pub const PACKET: u32 = 6;
}

/// Says in which byte order a section is.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Ethernet.
const LINKTYPE: u16 = 1;
/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;
/// `epb_verdict`: what follows is what an XDP program returned.
const EBPF_XDP: u8 = 2;
/// `epb_flags`: the packet came in.
const INBOUND: u32 = 1;
/// The length of a section that is not known, because it is still written.
const UNKNOWN: u64 = u64::MAX;
/// Bytes of a block without a body.
const EMPTY: usize = 12;
/// Bytes of a packet block's body before the packet.
const PACKET_HEAD: usize = 20;

/// A packet with what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The interface, by the order of the descriptions in the section.
    pub interface: u32,
    /// Nanoseconds since 1970, UTC.
    pub time_ns: u64,
    /// What is kept of the frame.
    pub bytes: &'a [u8],
    /// Bytes of the frame on the wire, without FCS.
    pub wire: u32,
    /// What the XDP program returned (`enum xdp_action`).
    pub action: u64,
    /// The CPU, and so the queue, that saw it.
    pub queue: u32,
    /// Packets of the interface that are not here, since the packet before; 0 is not written.
    pub lost: u64,
    /// For people.
    pub comment: &'a str,
}

/// What became of an interface's packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The interface, by the order of the descriptions in the section.
    pub interface: u32,
    /// Nanoseconds since 1970, UTC: when counting began.
    pub start_ns: u64,
    /// And when this was counted.
    pub end_ns: u64,
    /// Packets that came in.
    pub received: u64,
    /// Packets that are in the file.
    pub written: u64,
    /// Packets that passed the filter, and those that are not in the file although they did; `None` where
    /// the filter could not look at all of them.
    pub accepted: Option<u64>,
    /// For people.
    pub comment: String,
}

/// Writes a section header.
pub fn section(out: &mut Vec<u8>, program: &str, system: &str, comment: &str) {
    block(out, kind::SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        out.extend(UNKNOWN.to_le_bytes());
        option(out, 1, comment.as_bytes());
        option(out, 3, system.as_bytes());
        option(out, 4, program.as_bytes());
        option(out, 0, &[]);
    });
}

/// Writes an interface description. `snaplen`: bytes of a packet that are kept at most.
pub fn interface(out: &mut Vec<u8>, name: &str, snaplen: u32) {
    block(out, kind::INTERFACE, |out| {
        out.extend(LINKTYPE.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        out.extend(snaplen.to_le_bytes());
        option(out, 2, name.as_bytes());
        option(out, 9, &[NANOSECONDS]);
        option(out, 0, &[]);
    });
}

/// Writes a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, kind::PACKET, |out| {
        out.extend(packet.interface.to_le_bytes());
        time(out, packet.time_ns);
        out.extend(length(packet.bytes).to_le_bytes());
        out.extend(packet.wire.max(length(packet.bytes)).to_le_bytes());
        out.extend(packet.bytes);
        pad(out, packet.bytes.len());
        option(out, 1, packet.comment.as_bytes());
        option(out, 2, &INBOUND.to_le_bytes());
        if packet.lost > 0 {
            option(out, 4, &packet.lost.to_le_bytes());
        }
        option(out, 6, &packet.queue.to_le_bytes());
        let mut verdict = [EBPF_XDP; 9];
        verdict.iter_mut().skip(1).zip(packet.action.to_le_bytes()).for_each(|(to, byte)| *to = byte);
        option(out, 7, &verdict);
        option(out, 0, &[]);
    });
}

/// Writes what became of an interface's packets.
pub fn statistics(out: &mut Vec<u8>, stats: &Statistics) {
    block(out, kind::STATISTICS, |out| {
        out.extend(stats.interface.to_le_bytes());
        time(out, stats.end_ns);
        option(out, 1, stats.comment.as_bytes());
        for (code, at) in [(2, stats.start_ns), (3, stats.end_ns)] {
            let [high, low] = halves(at).map(u32::to_le_bytes);
            option(out, code, &[high, low].concat());
        }
        option(out, 4, &stats.received.to_le_bytes());
        if let Some(accepted) = stats.accepted {
            // Nothing is lost in the card: what came in was counted.
            option(out, 5, &0u64.to_le_bytes());
            option(out, 6, &accepted.to_le_bytes());
            option(out, 7, &accepted.saturating_sub(stats.written).to_le_bytes());
        }
        option(out, 8, &stats.written.to_le_bytes());
        option(out, 0, &[]);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let total = u32::try_from(out.len() - begin + 4).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(begin + 4..begin + 8) {
        place.copy_from_slice(&total);
    }
    out.extend(total);
}

/// Writes an option; what is longer than a length can say is cut.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let kept = value.len().min(usize::from(u16::MAX));
    out.extend(code.to_le_bytes());
    out.extend((kept as u16).to_le_bytes());
    out.extend(value.iter().take(kept));
    pad(out, kept);
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + length.next_multiple_of(4) - length, 0);
}

fn time(out: &mut Vec<u8>, ns: u64) {
    halves(ns).into_iter().for_each(|half| out.extend(half.to_le_bytes()));
}

fn halves(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// A block as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// See [`kind`].
    pub kind: u32,
    /// What is between the lengths.
    pub body: &'a [u8],
}

impl<'a> Block<'a> {
    /// Returns the packet's bytes, its length on the wire, and its options; `None` where it is no packet.
    pub fn packet(&self) -> Option<(&'a [u8], u32, Options<'a>)> {
        if self.kind != kind::PACKET {
            return None;
        }
        let kept = word(self.body, 12)? as usize;
        let bytes = self.body.get(PACKET_HEAD..)?.get(..kept)?;
        let rest = self.body.get(PACKET_HEAD + kept.next_multiple_of(4)..)?;
        Some((bytes, word(self.body, 16)?, Options(rest)))
    }
}

/// The options of a block, code and value.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = word(self.0, 0).filter(|head| *head != 0)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        let value = self.0.get(4..4 + length)?;
        self.0 = self.0.get(4 + length.next_multiple_of(4)..).unwrap_or_default();
        Some((code, value))
    }
}

/// Returns the blocks of a text that this module wrote, up to the first that is not whole.
pub fn blocks(mut bytes: &[u8]) -> impl Iterator<Item = Block<'_>> {
    std::iter::from_fn(move || {
        let (kind, total) = (word(bytes, 0)?, word(bytes, 4)? as usize);
        let body = bytes.get(8..total.checked_sub(4).filter(|_| total >= EMPTY)?)?;
        bytes = bytes.get(total..)?;
        Some(Block { kind, body })
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use pcap_parser::{
        Block as Parsed, OptionCode,
        pcapng::{parse_block_le, parse_sectionheaderblock},
    };
    use proptest::prelude::*;

    use super::*;

    /// The blocks as the draft lays them out, byte by byte.
    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let mut out = Vec::new();
        section(&mut out, "p", "Li", "c");
        let wanted: &[u8] = &[
            0x0a, 0x0d, 0x0d, 0x0a, 56, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255,
            255, 1, 0, 1, 0, b'c', 0, 0, 0, 3, 0, 2, 0, b'L', b'i', 0, 0, 4, 0, 1, 0, b'p', 0, 0, 0, 0, 0, 0, 0, 56, 0,
            0, 0,
        ];
        assert_eq!(out, wanted);
        out.clear();
        interface(&mut out, "eth0", 128);
        let wanted: &[u8] = &[
            1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 128, 0, 0, 0, 2, 0, 4, 0, b'e', b't', b'h', b'0', 9, 0, 1, 0, 9, 0, 0,
            0, 0, 0, 0, 0, 40, 0, 0, 0,
        ];
        assert_eq!(out, wanted);
        out.clear();
        let one = Packet {
            interface: 1,
            time_ns: 0x0102_0304_0506_0708,
            bytes: &[0xaa; 5],
            wire: 60,
            action: 1,
            queue: 3,
            lost: 7,
            comment: "x",
        };
        packet(&mut out, &one);
        let wanted: &[u8] = &[
            6, 0, 0, 0, 96, 0, 0, 0, 1, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5, 5, 0, 0, 0, 60, 0, 0, 0, 0xaa, 0xaa, 0xaa,
            0xaa, 0xaa, 0, 0, 0, 1, 0, 1, 0, b'x', 0, 0, 0, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 8, 0, 7, 0, 0, 0, 0, 0, 0, 0,
            6, 0, 4, 0, 3, 0, 0, 0, 7, 0, 9, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0,
        ];
        assert_eq!(out, wanted);
        out.clear();
        let stats =
            Statistics { interface: 1, start_ns: 1 << 32, end_ns: 2, received: 9, written: 4, ..Default::default() };
        statistics(&mut out, &Statistics { accepted: Some(9), ..stats });
        let wanted: &[u8] = &[
            5, 0, 0, 0, 116, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0,
            0, 3, 0, 8, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 6, 0, 8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0, 8, 0, 5, 0, 0, 0, 0, 0, 0, 0, 8, 0, 8, 0, 4, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 116, 0, 0, 0,
        ];
        assert_eq!(out, wanted);
    }

    proptest! {
        /// Somebody else's parser reads what is written, and so does ours.
        #[test]
        fn what_is_written_is_read(
            name in ".{0,15}", comment in ".{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..129),
            (time_ns, wire, action, queue, lost) in (any::<u64>(), 0u32..70_000, 0u64..5, any::<u32>(), 0u64..3),
        ) {
            let mut out = Vec::new();
            section(&mut out, "ftagent", "Linux", &comment);
            interface(&mut out, &name, 128);
            let one = Packet { interface: 0, time_ns, bytes: &bytes, wire, action, queue, lost, comment: &comment };
            packet(&mut out, &one);
            statistics(&mut out, &Statistics { comment: comment.clone(), ..Default::default() });
            let (rest, header) = parse_sectionheaderblock(&out).unwrap();
            prop_assert!(!header.big_endian());
            let (rest, description) = parse_block_le(rest).unwrap();
            let Parsed::InterfaceDescription(description) = description else { panic!("{description:?}") };
            prop_assert_eq!((description.snaplen, description.if_tsresol), (128, 9));
            let (rest, found) = parse_block_le(rest).unwrap();
            let Parsed::EnhancedPacket(found) = found else { panic!("{found:?}") };
            prop_assert_eq!(u64::from(found.ts_high) << 32 | u64::from(found.ts_low), time_ns);
            prop_assert_eq!(found.data.get(..found.caplen as usize), Some(&bytes[..]));
            prop_assert_eq!(found.origlen, wire.max(bytes.len() as u32));
            let verdict = found.options.iter().find(|option| option.code == OptionCode(7)).unwrap();
            prop_assert_eq!(&verdict.value[..2], &[2, action as u8]);
            let (rest, stats) = parse_block_le(rest).unwrap();
            prop_assert!(matches!(stats, Parsed::InterfaceStatistics(_)) && rest.is_empty());
            let ours: Vec<Block<'_>> = blocks(&out).collect();
            prop_assert_eq!(ours.len(), 4);
            let (kept, on_wire, mut options) = ours[2].packet().unwrap();
            prop_assert_eq!((kept, on_wire), (&bytes[..], found.origlen));
            prop_assert_eq!(options.next().map(|(code, value)| (code, value.to_vec())), Some((1, comment.into_bytes())));
        }

        /// What is no capture is read to an end.
        #[test]
        fn nonsense_ends(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(blocks(&bytes).filter_map(|block| block.packet()).flat_map(|(_, _, options)| options).count() < 200);
        }
    }
}
