#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;

use super::*;

/// Writes the integers of a file in one byte order.
#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// Nanoseconds, bytes in the file, length on the wire.
type Packet = (u64, Vec<u8>, u32);

fn pcap(order: Order, nano: bool, link: u32, packets: &[Packet]) -> Vec<u8> {
    let mut file = Vec::new();
    let magic = if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 };
    file.extend(order.u32(magic));
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    [0, 0, 65_535, link].iter().for_each(|&word| file.extend(order.u32(word)));
    for (time, data, original) in packets {
        let fraction = (time % 1_000_000_000) as u32;
        let fraction = if nano { fraction } else { fraction / 1000 };
        for word in [(time / 1_000_000_000) as u32, fraction, data.len() as u32, *original] {
            file.extend(order.u32(word));
        }
        file.extend(data);
    }
    file
}

fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let length = order.u32(padded as u32 + 12);
    let mut block = [order.u32(kind), length].concat();
    block.extend(body);
    block.resize(8 + padded, 0);
    block.extend(length);
    block
}

fn section(order: Order) -> Vec<u8> {
    let body = [&order.u32(0x1a2b_3c4d)[..], &order.u16(1), &order.u16(0), &[0xff; 8]].concat();
    block(order, 0x0a0d_0d0a, &body)
}

fn interface(order: Order, link: u16, resolution: Option<u8>, offset: Option<i64>) -> Vec<u8> {
    let mut body = [&order.u16(link)[..], &[0, 0], &order.u32(0)].concat();
    if let Some(resolution) = resolution {
        body.extend([&order.u16(9)[..], &order.u16(1), &[resolution, 0, 0, 0]].concat());
    }
    if let Some(offset) = offset {
        let value = match order {
            Order::Little => offset.to_le_bytes(),
            Order::Big => offset.to_be_bytes(),
        };
        body.extend([&order.u16(14)[..], &order.u16(8), &value].concat());
    }
    if resolution.is_some() || offset.is_some() {
        body.extend([0; 4]);
    }
    block(order, 1, &body)
}

fn enhanced(order: Order, interface: u32, ticks: u64, data: &[u8], original: u32) -> Vec<u8> {
    let words = [interface, (ticks >> 32) as u32, ticks as u32, data.len() as u32, original];
    let mut body = words.map(|word| order.u32(word)).concat();
    body.extend(data);
    block(order, 6, &body)
}

fn pcapng(order: Order, packets: &[Packet]) -> Vec<u8> {
    let mut file = [section(order), interface(order, 1, Some(9), None)].concat();
    packets.iter().for_each(|(time, data, original)| file.extend(enhanced(order, 0, *time, data, *original)));
    file
}

fn ethernet(length: usize) -> Vec<u8> {
    let mut frame = vec![7; length];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

fn three() -> Vec<Packet> {
    let time = 1_700_000_000_000_001_000;
    vec![(time, ethernet(60), 60), (time + 1000, ethernet(61), 61), (time + 7_000_000_000, ethernet(1514), 1514)]
}

fn frames(file: Vec<u8>) -> Vec<(u64, Vec<u8>)> {
    let capture = Capture::parse(file).unwrap();
    let mut scratch = Vec::new();
    let frame = |i| capture.packet(i).map(|packet| (packet.time_ns, packet.frame(&mut scratch).unwrap().to_vec()));
    (0..capture.len()).map_while(frame).collect()
}

#[test]
fn every_format_holds_the_same_packets() {
    let wanted: Vec<_> = three().into_iter().map(|(time, data, _)| (time, data)).collect();
    for order in [Order::Little, Order::Big] {
        assert_eq!(frames(pcap(order, false, 1, &three())), wanted);
        assert_eq!(frames(pcap(order, true, 1, &three())), wanted);
        assert_eq!(frames(pcapng(order, &three())), wanted);
    }
}

#[test]
fn pcapng_time_is_in_the_units_of_its_interface() {
    for order in [Order::Little, Order::Big] {
        // 2^-10 s, 100 s later; and the default, microseconds.
        let mut file =
            [section(order), interface(order, 1, Some(0x8a), Some(100)), interface(order, 1, None, None)].concat();
        file.extend(enhanced(order, 0, 1536, &ethernet(60), 60));
        file.extend(enhanced(order, 1, 200_000_001, &ethernet(60), 60));
        let times: Vec<u64> = frames(file).into_iter().map(|(time, _)| time).collect();
        assert_eq!(times, [101_500_000_000, 200_000_001_000]);
    }
}

#[test]
fn sections_have_their_own_byte_order_and_interfaces() {
    let file = [pcapng(Order::Little, &three()), pcapng(Order::Big, &three())].concat();
    assert_eq!(frames(file).len(), 6);
}

#[test]
fn packets_without_ethernet_get_a_header() {
    let v4 = [&[0x45][..], &[0; 39]].concat();
    let v6 = [&[0x60][..], &[0; 39]].concat();
    let sll = |packet: &[u8]| [&[0; 14][..], &[0x86, 0xdd], packet].concat();
    let sll2 = |packet: &[u8]| [&[0x86, 0xdd][..], &[0; 18], packet].concat();
    let table = [
        (101, v4.clone(), 0x0800, &v4),
        (101, v6.clone(), 0x86dd, &v6),
        (12, v4.clone(), 0x0800, &v4),
        (14, v6.clone(), 0x86dd, &v6),
        (228, v4.clone(), 0x0800, &v4),
        (229, v6.clone(), 0x86dd, &v6),
        (113, sll(&v6), 0x86dd, &v6),
        (276, sll2(&v6), 0x86dd, &v6),
    ];
    for (link, data, ethertype, packet) in table {
        let length = data.len() as u32;
        let frames = frames(pcap(Order::Little, false, link, &[(0, data, length)]));
        let frame = &frames[0].1;
        assert_eq!(frame[12..14], u16::to_be_bytes(ethertype), "link type {link}");
        assert_eq!(&frame[14..], &packet[..], "link type {link}");
    }
}

#[test]
fn what_cannot_be_replayed_as_it_is_is_counted() {
    let packets = [
        (5, ethernet(64), 1514),
        (1, ethernet(60), 60),
        (2, vec![1; 13], 13),
        (3, vec![1; MAX_FRAME + 1], MAX_FRAME as u32 + 1),
        (4, ethernet(MAX_FRAME), MAX_FRAME as u32),
    ];
    let capture = Capture::parse(pcap(Order::Little, true, 1, &packets)).unwrap();
    assert_eq!(capture.tally, Tally { padded: 1, short: 1, long: 1, unsorted: 2 });
    let mut scratch = Vec::new();
    let numbers: Vec<u64> = (0..3).map(|i| capture.packet(i).unwrap().number).collect();
    assert_eq!(numbers, [2, 5, 1]);
    let cut = capture.packet(2).unwrap().frame(&mut scratch).unwrap();
    assert_eq!((cut.len(), &cut[..64], cut[64..].iter().all(|&byte| byte == 0)), (1514, &ethernet(64)[..], true));
}

#[test]
fn broken_captures_name_the_place_and_the_fault() {
    let whole = pcap(Order::Little, false, 1, &three());
    let cut_at = |at: usize| whole[..at].to_vec();
    let mut wild = whole.clone();
    wild[24 + 16 + 60 + 8..][..4].fill(0xff);
    let mut fraction = whole.clone();
    fraction[24 + 4..][..4].fill(0xff);
    let ng = pcapng(Order::Little, &three());
    let unknown = [section(Order::Little), enhanced(Order::Little, 3, 0, &ethernet(60), 60)].concat();
    let mut contradiction = ng.clone();
    let last = contradiction.len() - 1;
    contradiction[last] ^= 1;
    let table = [
        (vec![], 0, 0, "the file is empty"),
        (cut_at(10), 0, 0, "inside the capture's header"),
        (b"not a capture at all, but text".to_vec(), 0, 0, "neither pcap nor pcapng"),
        (pcap(Order::Little, false, 105, &[]), 0, 20, "link type 105 is not supported"),
        (cut_at(24 + 16 + 60 + 16 + 20), 2, 100, "the file ends inside this record, after 36 bytes of it"),
        (cut_at(whole.len() - 1), 3, 177, "the file ends inside this record"),
        (wild, 2, 100, "a record of 4294967295 bytes"),
        (fraction, 1, 24, "4294967295 of 1000000 parts of a second"),
        (ng[..ng.len() - 1].to_vec(), 3, 0, "the file ends inside this block"),
        (contradiction, 3, 0, "this block's lengths contradict each other"),
        (unknown, 1, 28, "its interface 3 is not described"),
    ];
    for (file, packet, offset, what) in table {
        let fault = Capture::parse(file).unwrap_err();
        assert_eq!(fault.packet, packet, "{fault}");
        assert!(fault.what.contains(what), "{fault}");
        assert!(offset == 0 || fault.offset == offset, "{fault}");
    }
}

#[test]
fn interfaces_may_be_none_or_many_and_memory_stays_bounded() {
    let order = Order::Little;
    // None: a section without packets is one without packets, and a packet needs its interface.
    assert_eq!(frames(section(order)).len(), 0);
    let simple = block(order, 3, &[&order.u32(60)[..], &[0; 60]].concat());
    for packet in [enhanced(order, 0, 1, &ethernet(60), 60), simple] {
        let fault = Capture::parse([section(order), packet].concat()).unwrap_err();
        assert_eq!((fault.packet, fault.offset), (1, 28));
        assert!(fault.what.contains("its interface 0 is not described"), "{fault}");
    }
    // As many as there may be, of which the last has a packet; the next section begins with none.
    let one = interface(order, 1, Some(9), None);
    let last = enhanced(order, MAX_INTERFACES as u32 - 1, 7, &ethernet(60), 60);
    let full = [section(order), one.repeat(MAX_INTERFACES), last].concat();
    let again = [full.clone(), full.clone()].concat();
    assert_eq!(frames(again).iter().map(|(time, _)| *time).collect::<Vec<_>>(), [7, 7]);
    // A million: refused at the first that is too many, whatever comes then.
    let million = [section(order), one.repeat(1_000_000)].concat();
    let fault = Capture::parse(million).unwrap_err();
    assert_eq!((fault.packet, fault.offset), (0, 28 + MAX_INTERFACES * one.len()));
    assert!(fault.what.contains("more than 65536 interfaces in one section"), "{fault}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Capture::load(Path::new("/nonexistent/x.pcap")).unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/x.pcap: cannot read the capture");
}

#[test]
fn a_capture_cut_anywhere_is_refused_or_has_fewer_packets() {
    for file in
        [pcap(Order::Little, false, 1, &three()), pcap(Order::Big, true, 1, &three()), pcapng(Order::Big, &three())]
    {
        let mut whole = 0;
        for length in 0..file.len() {
            if let Ok(capture) = Capture::parse(file[..length].to_vec()) {
                assert!(capture.len() < 3, "{length} of {} bytes", file.len());
                whole += 1;
            }
        }
        // Only between packets is there nothing to complain about: pcapng has blocks of its own.
        assert!((3..=5).contains(&whole), "{whole}");
    }
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), magic in 0..6usize) {
        const MAGICS: [&[u8]; 6] = [
            b"", b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a\x1c\0\0\0\x4d\x3c\x2b\x1a", b"\x0a\x0d\x0d\x0a\0\0\0\x1c\x1a\x2b\x3c\x4d",
        ];
        let _either = Capture::parse([MAGICS[magic], &bytes].concat());
    }

    #[test]
    fn changed_captures_never_panic(changes in proptest::collection::vec((0..2000usize, any::<u8>()), 1..8), kind in 0..4usize) {
        let mut file = match kind {
            0 => pcap(Order::Little, false, 1, &three()),
            1 => pcap(Order::Big, true, 113, &three()),
            2 => pcapng(Order::Little, &three()),
            _ => pcapng(Order::Big, &three()),
        };
        for (at, byte) in changes {
            // Most changes hit the headers, where lengths are.
            let at = if at % 2 == 0 { at % 200 } else { at % file.len() };
            file[at] = byte;
        }
        if let Ok(capture) = Capture::parse(file) {
            let mut scratch = Vec::new();
            for packet in (0..capture.len()).filter_map(|i| capture.packet(i)) {
                prop_assert_eq!(packet.frame(&mut scratch).map(<[u8]>::len), packet.frame_len());
            }
        }
    }
}
