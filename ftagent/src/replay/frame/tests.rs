#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;

use super::*;

/// The Internet checksum of RFC 1071, over everything at once.
fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut total: u64 = 0;
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = total % 0x10000 + total / 0x10000;
    }
    !(total as u16)
}

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

/// Where the checksum of an upper protocol is.
fn field(protocol: u8) -> usize {
    match protocol {
        6 => 16,
        58 => 2,
        _ => 6,
    }
}

fn v4(protocol: u8, payload: &[u8], tags: &[u8], fragment: u16) -> Vec<u8> {
    let mut upper = payload.to_vec();
    let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9];
    ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    if protocol != 1 {
        let at = field(protocol);
        upper[at..at + 2].fill(0);
        let check = sum(&[&ip[12..20], &[0, protocol], &(upper.len() as u16).to_be_bytes(), &upper]);
        upper[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    let check = sum(&[&ip]);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    [&MACS, tags, &[0x08, 0x00], &ip, &upper].concat()
}

fn v6(protocol: u8, payload: &[u8], extension: &[u8]) -> Vec<u8> {
    let mut upper = payload.to_vec();
    let mut ip = vec![0x60, 0, 0, 0, 0, 0, if extension.is_empty() { protocol } else { 60 }, 64];
    ip.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    ip.extend("2001:db8:ffff::2".parse::<Ipv6Addr>().unwrap().octets());
    ip[4..6].copy_from_slice(&((payload.len() + extension.len()) as u16).to_be_bytes());
    let at = field(protocol);
    upper[at..at + 2].fill(0);
    let check = sum(&[&ip[8..40], &(upper.len() as u32).to_be_bytes(), &[0, 0, 0, protocol], &upper]);
    upper[at..at + 2].copy_from_slice(&check.to_be_bytes());
    [&MACS[..], &[0x86, 0xdd], &ip, extension, &upper].concat()
}

/// Returns whether all sums of a frame are right; `l3` is where its IP header is.
fn is_sound(frame: &[u8], l3: usize, protocol: u8, extension: usize) -> bool {
    let ip = &frame[l3..];
    if ip[0] >> 4 == 4 {
        let upper = &ip[20..];
        let pseudo = sum(&[&ip[12..20], &[0, protocol], &(upper.len() as u16).to_be_bytes(), upper]);
        sum(&[&ip[..20]]) == 0 && (protocol == 1 || pseudo == 0)
    } else {
        let upper = &ip[40 + extension..];
        sum(&[&ip[8..40], &(upper.len() as u32).to_be_bytes(), &[0, 0, 0, protocol], upper]) == 0
    }
}

proptest! {
    #[test]
    fn rewriting_keeps_checksums(
        source: [u8; 16], destination: [u8; 16], payload in proptest::collection::vec(any::<u8>(), 20..90), case in 0..9usize,
    ) {
        let (mut frame, l3, protocol, extension) = match case {
            0 => (v4(6, &payload, &[], 0), 14, 6, 0),
            1 => (v4(17, &payload, &[], 0), 14, 17, 0),
            2 => (v4(1, &payload, &[], 0), 14, 1, 0),
            3 => (v4(6, &payload, &[0x81, 0, 0, 5], 0), 18, 6, 0),
            4 => (v4(17, &payload, &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6], 0), 22, 17, 0),
            5 => (v6(6, &payload, &[]), 14, 6, 0),
            6 => (v6(17, &payload, &[]), 14, 17, 0),
            7 => (v6(58, &payload, &[]), 14, 58, 0),
            _ => (v6(6, &payload, &[6, 0, 0, 0, 0, 0, 0, 0]), 14, 6, 8),
        };
        prop_assert!(is_sound(&frame, l3, protocol, extension));
        let layout = Layout::of(&frame).unwrap();
        let (from, to): (IpAddr, IpAddr) = if layout.v6 {
            (source.into(), destination.into())
        } else {
            let short = |long: [u8; 16]| [long[0], long[1], long[2], long[3]];
            (short(source).into(), short(destination).into())
        };
        layout.set_source(&mut frame, from);
        layout.set_destination(&mut frame, to);
        prop_assert_eq!((layout.source(&frame), layout.destination(&frame)), (from, to));
        prop_assert!(is_sound(&frame, l3, protocol, extension));
    }

    #[test]
    fn any_bytes_are_survived(mut frame in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
        if frame.len() > 15 {
            frame[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0] });
            frame[14] = if v6 { 0x60 } else { 0x45 };
        }
        let length = frame.len();
        if let Some(layout) = Layout::of(&frame) {
            let _ports = layout.ports(&frame);
            let _first = layout.is_first(&frame);
            layout.set_source(&mut frame, Ipv4Addr::LOCALHOST.into());
            layout.set_destination(&mut frame, Ipv6Addr::LOCALHOST.into());
        }
        prop_assert_eq!(frame.len(), length);
    }
}

#[test]
fn a_udp_checksum_of_zero_stays_and_never_comes_about() {
    let mut none = v4(17, &[0; 20], &[], 0);
    none[14 + 20 + 6..][..2].fill(0);
    let layout = Layout::of(&none).unwrap();
    layout.set_source(&mut none, Ipv4Addr::new(9, 9, 9, 9).into());
    assert_eq!(none[14 + 20 + 6..][..2], [0, 0], "RFC 768: no checksum");

    // Some source makes the sum come out as zero; it must be sent as all ones.
    let mut seen = 0;
    for low in 0..=u16::MAX {
        let mut frame = v4(17, &[0; 20], &[], 0);
        let [c, d] = low.to_be_bytes();
        layout.set_source(&mut frame, Ipv4Addr::new(192, 0, c, d).into());
        assert_ne!(frame[14 + 20 + 6..][..2], [0, 0]);
        seen += u32::from(frame[14 + 20 + 6..][..2] == [0xff, 0xff]);
    }
    assert!(seen >= 1);
}

#[test]
fn later_fragments_have_no_ports_and_no_checksum_of_their_own() {
    let payload = [0x55; 40];
    let mut later = v4(17, &payload, &[], 0x0010);
    let layout = Layout::of(&later).unwrap();
    assert_eq!((layout.ports(&later), layout.fragment, layout.is_first(&later)), (None, Some(0x1234), false));
    let before = later[34..].to_vec();
    layout.set_source(&mut later, Ipv4Addr::new(9, 9, 9, 9).into());
    assert_eq!((&later[34..], sum(&[&later[14..34]])), (&before[..], 0));
    let first = v4(17, &payload, &[], 0x2000);
    let layout = Layout::of(&first).unwrap();
    assert_eq!((layout.ports(&first), layout.is_first(&first)), (Some((0x5555, 0x5555)), true));
}
