//! Properties of the parser on the host; the fixtures that say which class a packet has are in
//! `tests/`, where they go through the kernel program too.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Random bytes, often behind EtherTypes that lead somewhere.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let link = prop_oneof![
        Just(vec![]),
        Just(vec![8, 0, 0x45, 0]),
        Just(vec![8, 0]),
        Just(vec![0x86, 0xdd, 0x60, 0]),
        Just(vec![0x81, 0, 0, 1, 8, 0, 0x46, 0]),
        Just(vec![0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x86, 0xdd, 0x60, 0]),
        Just(vec![8, 6]),
    ];
    (link, vec(any::<u8>(), 0..300)).prop_map(|(link, rest)| [&[0; 12], &link[..], &rest].concat())
}

fn service(port: u16) -> bool {
    port & 1 == 0
}

/// Shows a part of a frame's bytes only, and notes the farthest byte that was asked for.
struct Watched<'a> {
    inner: SlicePacket<'a>,
    loads: core::cell::Cell<usize>,
}

impl Packet for Watched<'_> {
    fn linear(&self) -> usize {
        self.inner.linear()
    }

    fn wire(&self) -> usize {
        self.inner.wire()
    }

    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        self.loads.set(self.loads.get() + 1);
        self.inner.load(offset)
    }
}

/// An IPv6 frame with a chain of extension headers of these lengths (in units of 8 bytes, less
/// the first), then TCP.
fn chain(lengths: &[u8]) -> Vec<u8> {
    let mut frame = [&[0; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    let payload: usize = 20 + lengths.iter().map(|n| (usize::from(*n) + 1) * 8).sum::<usize>();
    frame.extend((payload as u16).to_be_bytes());
    frame.extend([if lengths.is_empty() { proto::TCP } else { proto::DESTINATION }, 64]);
    frame.extend([0x20; 32]);
    for (i, length) in lengths.iter().enumerate() {
        let next = if i + 1 == lengths.len() { proto::TCP } else { proto::DESTINATION };
        frame.extend([next, *length]);
        frame.resize(frame.len() + usize::from(*length) * 8 + 6, 0);
    }
    frame.extend([0, 80, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    frame
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_bytes_have_a_class(frame in frames(), more in 0usize..3000) {
        let wire = frame.len() + more;
        let facts = parse(&SlicePacket { bytes: &frame, wire }, service);
        prop_assert!(TrafficClass::from_index(facts.class as usize).is_some());
        prop_assert!(facts.l4 == 0 || facts.l3 < facts.l4);
        prop_assert!(usize::from(facts.l4) <= wire);
    }

    /// A whole frame counts with all of its bytes, whatever is in them.
    #[test]
    fn whole_frames_count_in_full(frame in frames()) {
        let facts = parse(&SlicePacket::whole(&frame), service);
        prop_assert_eq!(facts.wire as usize, frame.len());
    }

    /// What lies behind a frame's end changes nothing: the same bytes are the same packet.
    #[test]
    fn the_parser_has_no_memory(frame in frames()) {
        let twice = [&frame[..], &[0xff; 64]].concat();
        let alone = parse(&SlicePacket::whole(&frame), service);
        let within = parse(&SlicePacket::whole(&twice[..frame.len()]), service);
        prop_assert_eq!(alone, within);
    }

    #[test]
    fn loads_are_bounded(frame in frames()) {
        let packet = Watched { inner: SlicePacket::whole(&frame), loads: 0.into() };
        parse(&packet, service);
        // Ethernet, two tags, IP, the extension headers, transport, and four looks at a payload.
        prop_assert!(packet.loads.get() <= 3 + 1 + MAX_EXTENSION_HEADERS + 1 + 4);
    }

    #[test]
    fn walks_end_inside_their_bounds(bytes in vec(any::<u8>(), 0..4000), offset in 0u16..100, length: u16, number: u8) {
        let start = Walk { offset, bytes: length, proto: number, end: WalkEnd::Protocol };
        let walk = walk_extensions(&SlicePacket::whole(&bytes), start);
        prop_assert!(walk.offset >= offset && walk.bytes <= length);
        prop_assert_eq!(walk.offset - offset, length - walk.bytes, "every byte walked over is taken off");
        prop_assert!(usize::from(walk.offset - offset) <= MAX_EXTENSION_HEADERS * 2048);
        prop_assert_eq!(Walk::from_bits(walk.to_bits()), walk);
        prop_assert!(walk.end != WalkEnd::Protocol || !is_extension(walk.proto));
    }

    #[test]
    fn chains_of_any_lengths_are_followed(lengths in vec(any::<u8>(), 0..12)) {
        let frame = chain(&lengths);
        let facts = parse(&SlicePacket::whole(&frame), service);
        let followed = lengths.len() <= MAX_EXTENSION_HEADERS && frame.len() <= 54 + 0xffff;
        let class = if followed { TrafficClass::TcpSyn } else { TrafficClass::Malformed };
        prop_assert_eq!(facts.class, class as u32);
        prop_assert!(!followed || usize::from(facts.l4) == frame.len() - 20);
    }
}

/// What a capture cut off is unknown, not malformed, as far as the headers are there.
#[test]
fn a_snapped_frame_keeps_its_class() {
    const WIRE: usize = 9000;
    let mut frame = chain(&[0, 1]);
    frame.splice(18..20, ((WIRE - 54) as u16).to_be_bytes());
    let parse = |wire| parse(&SlicePacket { bytes: &frame, wire }, service);
    assert_eq!((parse(WIRE).class, parse(WIRE).wire), (TrafficClass::TcpSyn as u32, WIRE as u32));
    assert_eq!(parse(WIRE - 1).class, TrafficClass::Malformed as u32, "the packet ends past its frame");
}
