//! Changes the addresses of a frame, and says where its payload begins.

use std::net::IpAddr;

/// What remains of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many bytes from its beginning on: headers.
    pub kept: usize,
}

/// Hardware addresses of the one who sends, and of the one who receives.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The same where it goes to a group.
const GROUP: [u8; 6] = [3, 0, 0, 0, 0, 2];

/// An option of IP and of TCP that says nothing.
const NOTHING: u8 = 1;

/// Changes a frame in place: addresses by `change`, options and checksums to nothing. What is behind the headers
/// is for the caller to cut; headers that are not understood count as payload.
pub fn cut(frame: &mut [u8], change: &mut dyn FnMut(IpAddr) -> IpAddr) -> Cut {
    let Some((hardware, _)) = frame.split_first_chunk_mut::<12>() else { return Cut { kept: 0 } };
    let receiver = if hardware.first().is_some_and(|byte| byte & 1 == 1) { GROUP } else { RECEIVER };
    let (to, from) = hardware.split_at_mut(6);
    to.copy_from_slice(&receiver);
    from.copy_from_slice(&SENDER);
    let mut l3 = 14;
    let mut kind = pair(frame, 12);
    // As many tags as the parser follows.
    for _ in 0..2 {
        if matches!(kind, 0x8100 | 0x88a8) {
            kind = pair(frame, l3 + 2);
            l3 += 4;
        }
    }
    let end = match kind {
        0x0800 => v4(frame, l3, change),
        0x86dd => v6(frame, l3, change),
        _ => l3,
    };
    Cut { kept: end.min(frame.len()) }
}

fn byte(frame: &[u8], at: usize) -> u8 {
    frame.get(at).copied().unwrap_or(0)
}

fn pair(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([byte(frame, at), byte(frame, at + 1)])
}

/// Fills what there is of a field.
fn fill(frame: &mut [u8], from: usize, to: usize, value: u8) {
    let end = to.min(frame.len());
    if let Some(field) = frame.get_mut(from.min(end)..end) {
        field.fill(value);
    }
}

/// Changes an address; one that is not whole goes.
fn replace<const N: usize>(frame: &mut [u8], at: usize, change: &mut dyn FnMut(IpAddr) -> IpAddr)
where
    [u8; N]: Into<IpAddr>,
{
    let Some(field) = frame.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<N>()) else {
        return fill(frame, at, usize::MAX, 0);
    };
    let address: IpAddr = (*field).into();
    match change(address) {
        IpAddr::V4(v4) => field.iter_mut().zip(v4.octets()).for_each(|(to, byte)| *to = byte),
        IpAddr::V6(v6) => field.iter_mut().zip(v6.octets()).for_each(|(to, byte)| *to = byte),
    }
}

/// IPv4 (RFC 791). Returns where the headers end.
fn v4(frame: &mut [u8], l3: usize, change: &mut dyn FnMut(IpAddr) -> IpAddr) -> usize {
    replace::<4>(frame, l3 + 12, change);
    replace::<4>(frame, l3 + 16, change);
    let l4 = l3 + usize::from(byte(frame, l3) & 15).max(5) * 4;
    fill(frame, l3 + 20, l4, NOTHING);
    checksum(frame, l3, l4);
    if pair(frame, l3 + 6) & 0x1fff != 0 {
        return l4;
    }
    transport(frame, l4, byte(frame, l3 + 9))
}

/// Writes the checksum of an IPv4 header: that of the old addresses would tell of them.
fn checksum(frame: &mut [u8], l3: usize, l4: usize) {
    fill(frame, l3 + 10, l3 + 12, 0);
    let sum: u64 = (l3..l4).step_by(2).map(|at| u64::from(pair(frame, at))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    if let Some(field) = frame.get_mut(l3 + 10..l3 + 12) {
        field.copy_from_slice(&(!(folded as u16)).to_be_bytes());
    }
}

/// IPv6 with its extension headers (RFC 8200, section 4). Returns where the headers end.
fn v6(frame: &mut [u8], l3: usize, change: &mut dyn FnMut(IpAddr) -> IpAddr) -> usize {
    replace::<16>(frame, l3 + 8, change);
    replace::<16>(frame, l3 + 24, change);
    let (mut proto, mut at) = (byte(frame, l3 + 6), l3 + 40);
    for _ in 0..ftagent_common::abi::MAX_EXTENSION_HEADERS {
        let next = byte(frame, at);
        match proto {
            0 | 43 | 60 => {
                let end = at + (usize::from(byte(frame, at + 1)) + 1) * 8;
                // Routing headers name hops.
                fill(frame, at + 2, end, 0);
                at = end;
            }
            44 => {
                let later = pair(frame, at + 2) & 0xfff8 != 0;
                at += 8;
                if later {
                    return at;
                }
            }
            _ => break,
        }
        proto = next;
    }
    transport(frame, at, proto)
}

/// Returns where the transport header ends.
fn transport(frame: &mut [u8], l4: usize, proto: u8) -> usize {
    match proto {
        6 => {
            let end = l4 + usize::from(byte(frame, l4 + 12) >> 4).max(5) * 4;
            fill(frame, l4 + 16, l4 + 18, 0);
            fill(frame, l4 + 20, end, NOTHING);
            end
        }
        17 => {
            fill(frame, l4 + 6, l4 + 8, 0);
            l4 + 8
        }
        1 | 58 => {
            fill(frame, l4 + 2, l4 + 4, 0);
            // A redirect of IPv4 names a gateway.
            if (proto, byte(frame, l4)) == (1, 5) {
                fill(frame, l4 + 4, l4 + 8, 0);
            }
            l4 + 8
        }
        _ => l4,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::decide::{
        Packet,
        frames::{Segment, ip, ip6, tcp_between, udp_bytes},
    };

    fn other(address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ 0x0102_0304).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ 0x55 << 64).into(),
        }
    }

    #[test]
    fn headers_stay_and_payload_goes() {
        let src = Ipv4Addr::new(9, 8, 7, 6);
        let segment = Segment { ports: (4000, 80), flags: 24, seq: 7, ack: 9, payload: b"GET /secret" };
        let tunnel = ip(src, 47, b"\0\0\x08\0E\0the inner packet");
        let mut tagged = ip(src, 17, &udp_bytes((5, 53), b"secret"));
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let cases = [
            ("tcp", tcp_between(src, Ipv4Addr::new(1, 2, 3, 4), &segment), 54),
            ("udp", ip(src, 17, &udp_bytes((5, 53), b"secret")), 42),
            ("udp behind a tag", tagged, 46),
            ("udp over IPv6", ip6(77 << 100, 17, &udp_bytes((5, 53), b"secret")), 62),
            (
                "a routing header",
                ip6(77 << 100, 43, &[&[17, 2][..], &[0xaa; 22], &udp_bytes((1, 2), b"secret")].concat()),
                86,
            ),
            ("icmp", ip(src, 1, b"\x03\x01\x12\x34\0\0\0\0E the quoted packet"), 42),
            ("gre", tunnel, 34),
            ("arp", [&[0xff; 12][..], &[8, 6], &[0x77; 28]].concat(), 14),
            ("a cut address", ip(src, 17, b"")[..28].to_vec(), 28),
            ("next to nothing", vec![1; 9], 0),
        ];
        for (name, frame, kept) in cases {
            let mut changed = frame.clone();
            let cut = cut(&mut changed, &mut other);
            assert_eq!(cut.kept, kept, "{name}");
            changed.truncate(cut.kept);
            let gone = |bytes: &[u8]| !changed.windows(bytes.len()).any(|window| window == bytes);
            assert!(
                gone(b"secret") && gone(&[0xaa; 2]) && gone(&src.octets()) && gone(&[0x77; 2]),
                "{name}: {changed:?}"
            );
            let [before, after] = [(&frame, frame.len()), (&changed, frame.len())]
                .map(|(f, wire)| Packet::decode(1, f, wire, None, false));
            let seen =
                |p: &Packet| (p.proto, p.ttl, p.sport, p.dport, p.flags, p.code, p.seq, p.ack, p.window, p.payload);
            if kept > 34 || name == "gre" {
                assert_eq!(seen(&before), seen(&after), "{name}");
                assert_eq!(after.ends, before.ends.map(|(a, b)| (other(a), other(b))), "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_cut_somewhere(mut frame in prop::collection::vec(any::<u8>(), 0..160), kind in 0usize..4) {
            if let Some(field) = frame.get_mut(12..14) {
                field.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]][kind]);
            }
            let length = frame.len();
            prop_assert!(cut(&mut frame, &mut other).kept <= length);
        }
    }
}
