//! Which fields of a template differ from packet to packet, compiled for the kernel program.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;

use super::{
    FRAME_MAX, PATCHES, Template,
    spec::{Patch, Spec},
    template::{Frame, Kind},
};

/// What varies. The default: nothing.
#[derive(Clone, Debug, Default)]
pub struct Vary {
    /// Source addresses.
    pub src: Addresses,
    /// Destination addresses.
    pub dst: Addresses,
    /// Source ports; TCP and UDP only.
    pub sport: Values,
    /// Destination ports; TCP and UDP only.
    pub dport: Values,
    /// Random TCP sequence numbers.
    pub tcp_seq: bool,
    /// Random TCP acknowledgement numbers.
    pub tcp_ack: bool,
    /// Random identification: of IPv4, and of the fragment header of IPv6.
    pub ip_id: bool,
    /// Words of the payload.
    pub payload: Vec<Word>,
}

/// How an address varies.
#[derive(Clone, Copy, Debug, Default)]
pub enum Addresses {
    /// Not at all: the template's.
    #[default]
    Fixed,
    /// `count` addresses in turn, from `first` on. Each CPU counts for itself. The last 32 bits
    /// may not overflow.
    Cycle {
        /// The first of them.
        first: IpAddr,
        /// How many.
        count: u32,
    },
    /// At random in a prefix.
    Prefix(IpNet),
    /// At random: any IPv4 address (also those that no router forwards), or all of 2000::/3.
    Any,
    /// At random: IPv4 addresses that hosts may have, from 1.0.0.0 to 64.255.255.255 and from 129.0.0.0
    /// to 192.255.255.255, or all of 2000::/3.
    Unicast,
}

/// How a 16-bit field varies.
#[derive(Clone, Copy, Debug, Default)]
pub enum Values {
    /// Not at all: the template's.
    #[default]
    Fixed,
    /// At random between two values, both included.
    Between(u16, u16),
    /// In turn from the first to the last, both included. Each CPU counts for itself.
    Cycle(u16, u16),
    /// Any value.
    Any,
}

/// A word of the payload that varies: `base + (random & mask)`.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Offset in the payload, bytes; even.
    pub offset: usize,
    /// Bytes: 2 or 4.
    pub width: usize,
    /// Smallest value.
    pub base: u32,
    /// Bits that are drawn.
    pub mask: u32,
}

const ALL: u32 = u32::MAX;

/// Compiles a template and what varies of it.
pub(super) fn compile(template: &Template, vary: &Vary) -> Result<(Spec, Vec<u8>)> {
    let mut frame = template.layout()?;
    let mut patches = patches(&frame, vary)?;
    ensure!(patches.len() <= PATCHES, "{} words vary, {PATCHES} can", patches.len());
    for patch in &mut patches {
        let (at, width) = (patch.offset as usize, patch.width as usize);
        let word = frame.bytes.get_mut(at..at + width);
        word.with_context(|| format!("the word at {at} lies beyond the frame"))?.fill(0);
        ensure!(at.is_multiple_of(2), "the word at {at} is at an odd offset");
    }
    let (ip_sum, l4_sum) = frame.sums();
    let mut spec = Spec {
        length: u32::try_from(frame.bytes.len())?,
        patches: u32::try_from(patches.len())?,
        ip_at: if frame.v6 { 0 } else { frame.l3 as u32 + 10 },
        l4_at: frame.l4_checksum.unwrap_or(0) as u32,
        ip_sum,
        l4_sum,
        l4_zero: if frame.kind == Kind::Udp { 0xffff } else { 0 },
        _pad: 0,
        patch: [Patch::default(); PATCHES],
        frame: [0; FRAME_MAX],
    };
    for (to, from) in spec.patch.iter_mut().zip(patches) {
        *to = from;
    }
    spec.frame[..frame.bytes.len()].copy_from_slice(&frame.bytes);
    Ok((spec, frame.bytes))
}

fn patches(frame: &Frame, vary: &Vary) -> Result<Vec<Patch>> {
    let mut patches = Vec::new();
    let (src_at, dst_at) = if frame.v6 { (8, 24) } else { (12, 16) };
    addresses(&mut patches, frame, frame.l3 + src_at, vary.src).context("source addresses")?;
    addresses(&mut patches, frame, frame.l3 + dst_at, vary.dst).context("destination addresses")?;
    for (name, values, at) in [("source", vary.sport, 0), ("destination", vary.dport, 2)] {
        if let Some((base, count, counted)) = values.span() {
            ensure!(matches!(frame.kind, Kind::Tcp | Kind::Udp), "{name} ports vary, but the frame has no ports");
            ensure!(count >= 1, "{name} ports: the last is smaller than the first");
            patches.push(Patch { width: 2, base, mask: ALL, modulo: count, counted, ..in_l4(frame.l4 + at) });
        }
    }
    for (name, wanted, at) in [("sequence", vary.tcp_seq, 4), ("acknowledgement", vary.tcp_ack, 8)] {
        if wanted {
            ensure!(frame.kind == Kind::Tcp, "{name} numbers vary, but the frame is not TCP");
            patches.push(Patch { width: 4, mask: ALL, ..in_l4(frame.l4 + at) });
        }
    }
    if vary.ip_id {
        if !frame.v6 {
            let offset = frame.l3 as u32 + 4;
            patches.push(Patch { offset, width: 2, mask: 0xffff, in_ip: ALL, ..Patch::default() });
        } else if frame.l4 == frame.l3 + 48 {
            patches.push(Patch { offset: frame.l3 as u32 + 44, width: 4, mask: ALL, ..Patch::default() });
        }
    }
    for word in &vary.payload {
        ensure!(matches!(word.width, 2 | 4), "a word of the payload is 2 or 4 bytes wide, not {}", word.width);
        let (width, at) = (word.width as u32, frame.payload + word.offset);
        patches.push(Patch { width, base: word.base, mask: word.mask, ..in_l4(at) });
    }
    Ok(patches)
}

fn in_l4(at: usize) -> Patch {
    Patch { offset: at as u32, in_l4: ALL, ..Patch::default() }
}

impl Values {
    /// Returns the first value, how many there are, and `Patch::counted`.
    fn span(self) -> Option<(u32, u32, u32)> {
        let count = |first: u16, last: u16| (u32::from(last) + 1).saturating_sub(first.into());
        match self {
            Self::Fixed => None,
            Self::Between(first, last) => Some((first.into(), count(first, last), 0)),
            Self::Cycle(first, last) => Some((first.into(), count(first, last), ALL)),
            Self::Any => Some((0, 0x1_0000, 0)),
        }
    }
}

fn addresses(patches: &mut Vec<Patch>, frame: &Frame, at: usize, which: Addresses) -> Result<()> {
    let width = if frame.v6 { 16 } else { 4 };
    let covered = Patch {
        width: 4,
        in_ip: if frame.v6 { 0 } else { ALL },
        in_l4: if frame.pseudo.is_some() { ALL } else { 0 },
        ..Patch::default()
    };
    let prefix = match which {
        Addresses::Fixed => return Ok(()),
        Addresses::Cycle { first, count } => {
            let bytes = words(first, frame.v6)?;
            let base = *bytes.last().context("an address has words")?;
            ensure!(count >= 1 && base.checked_add(count - 1).is_some(), "{count} from {first} on overflow 32 bits");
            // What stands before the last word is constant; it varies with a mask of 0.
            for (i, base) in bytes.iter().enumerate() {
                let offset = (at + 4 * i) as u32;
                let last = i + 1 == bytes.len();
                let (mask, modulo, counted) = if last { (ALL, count, ALL) } else { (0, 0, 0) };
                patches.push(Patch { offset, base: *base, mask, modulo, counted, ..covered });
            }
            return Ok(());
        }
        Addresses::Prefix(prefix) => prefix,
        Addresses::Unicast if !frame.v6 => {
            patches.push(Patch { offset: at as u32, base: 0x0100_0000, mask: 0xbfff_ffff, ..covered });
            return Ok(());
        }
        Addresses::Any | Addresses::Unicast if frame.v6 => "2000::/3".parse()?,
        Addresses::Any | Addresses::Unicast => "0.0.0.0/0".parse()?,
    };
    for (i, (base, host)) in
        words(prefix.network(), frame.v6)?.iter().zip(words(prefix.hostmask(), frame.v6)?).enumerate()
    {
        debug_assert!(4 * i < width);
        patches.push(Patch { offset: (at + 4 * i) as u32, base: *base, mask: host, ..covered });
    }
    Ok(())
}

/// Returns an address in 32-bit words, if it is of the frame's family.
fn words(address: IpAddr, v6: bool) -> Result<Vec<u32>> {
    match (address, v6) {
        (IpAddr::V4(address), false) => Ok(vec![address.to_bits()]),
        (IpAddr::V6(address), true) => Ok((0..4).rev().map(|i| (address.to_bits() >> (32 * i)) as u32).collect()),
        _ => bail!("{address} is not of the template's family"),
    }
}
