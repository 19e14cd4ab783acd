//! The bytes of flow specifications (RFC 8955, 4; RFC 8956, 3).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{BitField, Bitmask, Component, Field, FlowSpec, Malformed, Numeric, Side};
use crate::rule::Family;

/// The last comparison of a component.
const END: u8 = 0x80;
/// Joined to the comparison before.
const AND: u8 = 0x40;
/// Lengths from here on take two bytes.
const LONG: usize = 240;

impl FlowSpec {
    /// Returns the NLRI: its length and its components.
    pub fn encode(&self) -> Vec<u8> {
        let body = self.body();
        let length = body.len();
        let mut bytes = match u8::try_from(length) {
            Ok(short) if length < LONG => vec![short],
            // At most twelve bits: `new` saw to it.
            _ => vec![0xf0 | (length >> 8) as u8, length as u8],
        };
        bytes.extend(body);
        bytes
    }

    /// Returns the components as bytes.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for component in &self.components {
            bytes.push(component.kind());
            match component {
                Component::Prefix { net: IpNet::V4(net), .. } => {
                    bytes.push(net.prefix_len());
                    bytes.extend(net.network().octets().iter().take(octets(net.prefix_len())));
                }
                Component::Prefix { net: IpNet::V6(net), offset, .. } => {
                    bytes.extend([net.prefix_len(), *offset]);
                    let pattern = net.network().to_bits().checked_shl((*offset).into()).unwrap_or(0);
                    let length = octets(net.prefix_len().saturating_sub(*offset));
                    bytes.extend(pattern.to_be_bytes().iter().take(length));
                }
                Component::Numbers(_, tests) => {
                    for (i, test) in tests.iter().enumerate() {
                        let [less, more, equal] = [(test.less, 4), (test.more, 2), (test.equal, 1)]
                            .map(|(set, bit)| if set { bit } else { 0 });
                        operator(&mut bytes, less | more | equal, test.and, i + 1 == tests.len(), test.value);
                    }
                }
                Component::Bits(_, tests) => {
                    for (i, test) in tests.iter().enumerate() {
                        let [not, all] = [(test.not, 2), (test.all, 1)].map(|(set, bit)| if set { bit } else { 0 });
                        operator(&mut bytes, not | all, test.and, i + 1 == tests.len(), test.value.into());
                    }
                }
            }
        }
        bytes
    }

    /// Reads the first NLRI of some, and returns it with the bytes behind it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(family: Family, bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut reader = Reader(bytes);
        let first = reader.byte()?;
        let length = match first {
            0xf0.. => usize::from(first & 0x0f) << 8 | usize::from(reader.byte()?),
            _ => first.into(),
        };
        let body = reader.take(length)?;
        let rest = reader.0;
        let mut body = Reader(body);
        let mut components = Vec::new();
        while !body.0.is_empty() {
            components.push(component(family, &mut body)?);
        }
        Self::new(family, components).map(|spec| (spec, rest))
    }
}

/// Bytes that so many bits take.
fn octets(bits: u8) -> usize {
    usize::from(bits).div_ceil(8)
}

/// Appends a comparison, its value in as few bytes as hold it.
fn operator(bytes: &mut Vec<u8>, bits: u8, and: bool, end: bool, value: u64) {
    let (code, width) = match value {
        0..=0xff => (0x00, 1),
        0x100..=0xffff => (0x10, 2),
        0x1_0000..=0xffff_ffff => (0x20, 4),
        _ => (0x30, 8),
    };
    bytes.push(bits | code | if and { AND } else { 0 } | if end { END } else { 0 });
    bytes.extend(value.to_be_bytes().iter().skip(8 - width));
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn component(family: Family, reader: &mut Reader<'_>) -> Result<Component, Malformed> {
    let kind = reader.byte()?;
    let field = match kind {
        1 => return prefix(family, Side::Destination, reader),
        2 => return prefix(family, Side::Source, reader),
        9 => return Ok(Component::Bits(BitField::TcpFlags, bitmasks(kind, 2, reader)?)),
        12 => return Ok(Component::Bits(BitField::Fragment, bitmasks(kind, 1, reader)?)),
        13 if family == Family::Ip4 => return Err(Malformed::Type(kind)),
        _ => Field::of_type(kind).ok_or(Malformed::Type(kind))?,
    };
    Ok(Component::Numbers(field, numbers(field, reader)?))
}

fn prefix(family: Family, side: Side, reader: &mut Reader<'_>) -> Result<Component, Malformed> {
    let wrong = |what| Malformed::Value(side as u8, what);
    let length = reader.byte()?;
    let fill = |bytes: &[u8]| {
        let mut all = [0; 16];
        all.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        u128::from_be_bytes(all)
    };
    if family == Family::Ip4 {
        if length > 32 {
            return Err(wrong("an IPv4 prefix has 32 bits at most"));
        }
        let address = (fill(reader.take(octets(length))?) >> 96) as u32;
        let net = Ipv4Net::new(Ipv4Addr::from_bits(address), length).map_err(|_| wrong("its length cannot be"))?;
        return Ok(Component::Prefix { side, net: net.trunc().into(), offset: 0 });
    }
    let offset = reader.byte()?;
    if length > 128 {
        return Err(wrong("an IPv6 prefix has 128 bits at most"));
    }
    // RFC 8956, 3.1: "if the length is 0 and the offset is 0, this component matches every address, otherwise the
    // length must be in the range offset < length < 129".
    if offset >= length && !(length == 0 && offset == 0) {
        return Err(wrong("the offset is not before the end of the prefix"));
    }
    let pattern = fill(reader.take(octets(length.saturating_sub(offset)))?);
    let address = pattern.checked_shr(offset.into()).unwrap_or(0);
    let net = Ipv6Net::new(Ipv6Addr::from_bits(address), length).map_err(|_| wrong("its length cannot be"))?;
    Ok(Component::Prefix { side, net: net.trunc().into(), offset })
}

/// Reads an operator and its value: `(operator, value, bytes of the value)`.
fn operation(reader: &mut Reader<'_>) -> Result<(u8, u64, usize), Malformed> {
    let operator = reader.byte()?;
    let width = 1usize << (operator >> 4 & 3);
    let value = reader.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
    Ok((operator, value, width))
}

fn numbers(field: Field, reader: &mut Reader<'_>) -> Result<Vec<Numeric>, Malformed> {
    let mut tests = Vec::new();
    loop {
        let (operator, value, width) = operation(reader)?;
        let value = match field {
            // RFC 8955, 4.2.2.11: one byte, of which the two highest bits are ignored.
            Field::Dscp if width != 1 => return Err(Malformed::Value(field as u8, "a value takes one byte")),
            Field::Dscp => value & 63,
            _ => value,
        };
        // In the first one, the bit is ignored.
        let and = operator & AND != 0 && !tests.is_empty();
        let [less, more, equal] = [4, 2, 1].map(|bit| operator & bit != 0);
        tests.push(Numeric { and, less, more, equal, value });
        if operator & END != 0 {
            return Ok(tests);
        }
    }
}

fn bitmasks(kind: u8, most: usize, reader: &mut Reader<'_>) -> Result<Vec<Bitmask>, Malformed> {
    let mut tests = Vec::new();
    loop {
        let (operator, value, width) = operation(reader)?;
        let value = u16::try_from(value).ok().filter(|_| width <= most);
        let value = value.ok_or(Malformed::Value(kind, "a value takes too many bytes"))?;
        let and = operator & AND != 0 && !tests.is_empty();
        tests.push(Bitmask { and, not: operator & 2 != 0, all: operator & 1 != 0, value });
        if operator & END != 0 {
            return Ok(tests);
        }
    }
}
