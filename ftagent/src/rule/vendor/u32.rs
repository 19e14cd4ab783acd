//! Tests of the `u32` match of iptables, for what it has no list or no match for.

use super::super::{Payload, Ranges, set::Number};

/// Ranges in one test at most (the kernel's XT_U32_MAXSIZE, less one).
const RANGES: usize = 10;

/// A word of a packet: where it is read, which of its bits, and how far they are shifted right.
#[derive(Clone, Copy, Debug)]
pub struct Field(pub &'static str);

/// The protocol of IPv4.
pub const PROTOCOL: Field = Field("6&0xFF");
/// DSCP of IPv4.
pub const DSCP: Field = Field("0>>18&0x3F");
/// DSCP of IPv6.
pub const DSCP_6: Field = Field("0>>22&0x3F");
/// TTL.
pub const TTL: Field = Field("8>>24");
/// Hop limit.
pub const HOPS: Field = Field("4&0xFF");
/// ICMP type of a packet that is no later fragment.
pub const ICMP_TYPE: Field = Field("4&0x1FFF=0&&0>>22&0x3C@0>>24");
/// ICMP code of such a packet.
pub const ICMP_CODE: Field = Field("4&0x1FFF=0&&0>>22&0x3C@0>>16&0xFF");

/// Writes alternatives that hold for the ranges.
pub fn of<T: Number>(field: Field, ranges: &Ranges<T>) -> Vec<String> {
    let items: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}:{last}") })
        .collect();
    items.chunks(RANGES).map(|items| test(&format!("{}={}", field.0, items.join(",")))).collect()
}

/// Writes a test.
pub fn test(what: &str) -> String {
    format!("-m u32 --u32 \"{what}\"")
}

/// Where the payload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Behind an IPv4 header and so many bytes.
    Four(u16),
    /// Behind an IPv4 header and one of TCP.
    FourTcp,
    /// Behind a plain IPv6 header with this next header, and so many bytes.
    Six(u8, u16),
    /// Behind such a header and one of TCP.
    SixTcp,
}

/// Writes one match that holds for a pattern, and whether packets whose payload ends right behind it are missed.
pub fn payload(pattern: &Payload, start: Start) -> (String, bool) {
    let (mut tests, mut missed) = (Vec::new(), false);
    // Later fragments have no payload; first ones are as any.
    let base = match start {
        Start::Four(_) | Start::FourTcp => {
            tests.push("4&0x1FFF=0".to_owned());
            if start == Start::FourTcp { "0>>22&0x3C@12>>26&0x3C@" } else { "0>>22&0x3C@" }
        }
        Start::Six(next, _) => {
            tests.push(format!("3&0xFF={next}"));
            ""
        }
        Start::SixTcp => {
            tests.push("3&0xFF=6".to_owned());
            "52>>26&0x3C@"
        }
    };
    let behind = match start {
        Start::Four(bytes) => bytes,
        Start::FourTcp => 0,
        Start::Six(_, bytes) => 40 + bytes,
        Start::SixTcp => 40,
    };
    let length = pattern.value.len();
    for at in (0..length).step_by(4) {
        let end = length.min(at + 4);
        let word = |bytes: &[u8]| {
            bytes.get(at..end).unwrap_or_default().iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte))
        };
        let (value, mask) = (word(&pattern.value), word(&pattern.mask));
        let place = behind + pattern.offset + at as u16;
        let short = 4 - (end - at) as u16;
        // Four bytes are read: of a shorter rest those before it, or where there are none, those behind.
        let (place, value, mask) = match place.checked_sub(short) {
            Some(place) => (place, value, mask),
            None => {
                missed = true;
                (place, value << (8 * short), mask << (8 * short))
            }
        };
        match mask {
            0 => tests.push(format!("{base}{place}=0:0xFFFFFFFF")),
            u32::MAX => tests.push(format!("{base}{place}={value:#010x}")),
            _ => tests.push(format!("{base}{place}&{mask:#010x}={value:#010x}")),
        }
    }
    (test(&tests.join("&&")), missed)
}
