//! Reads captures: classic pcap in both byte orders and both resolutions, and pcapng.
//!
//! A capture is read whole or refused with the place at which it is broken: half a capture would
//! give a report that looks complete. What can be read but not replayed (a frame without an
//! Ethernet header's worth of bytes) is skipped and counted in [`Tally`].

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use pcap_parser::{
    PcapError,
    nom::{Err as NomErr, IResult},
    pcap::{LegacyPcapBlock, PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header},
    pcapng::{Block, InterfaceDescriptionBlock, OptionCode, parse_block_be, parse_block_le, parse_sectionheaderblock},
};
use thiserror::Error;

use crate::bpf::testrun::MIN_FRAME;

/// The longest frame that is replayed, bytes: the longest IP packet (RFC 791: 65 535 bytes) behind
/// an Ethernet header and two VLAN tags.
pub const MAX_FRAME: usize = 65_535 + ETHERNET + 2 * 4;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Records longer than this are taken for corruption: libpcap's `MAXIMUM_SNAPLEN`.
const MAX_RECORD: u32 = 262_144;

/// Interfaces that one section of a pcapng file may describe: more than any node has, and few enough that
/// a file made of nothing else takes no memory to speak of.
const MAX_INTERFACES: usize = 65_536;

/// The header put before packets that were captured without one: locally administered addresses,
/// the EtherType follows.
const SYNTHETIC_MACS: [u8; 12] = [0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1];

/// A capture that could not be read.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file could not be read.
    #[error("{}: cannot read the capture", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a capture, or broken.
    #[error("{}: {fault}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Where and what.
        fault: Fault,
    },
}

/// Where a capture is broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The packet that could not be read, counted from 1; 0: before the first packet.
    pub packet: u64,
    /// Offset of the record or block in the file, bytes.
    pub offset: usize,
    /// What is wrong, and what to do about it.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.packet {
            0 => write!(f, "at byte {}: {}", self.offset, self.what),
            packet => write!(f, "packet {packet}, at byte {}: {}", self.offset, self.what),
        }
    }
}

impl std::error::Error for Fault {}

/// What stands before the network header of a captured packet
/// (<https://www.tcpdump.org/linktypes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `LINKTYPE_ETHERNET`.
    Ethernet,
    /// `LINKTYPE_RAW` and its kin: nothing.
    Ip,
    /// `LINKTYPE_IPV4`: nothing, and it is IPv4.
    Ip4,
    /// `LINKTYPE_IPV6`: nothing, and it is IPv6.
    Ip6,
    /// `LINKTYPE_LINUX_SLL`: 16 bytes, the protocol in the last two.
    Sll,
    /// `LINKTYPE_LINUX_SLL2`: 20 bytes, the protocol in the first two.
    Sll2,
}

impl Link {
    fn from_number(number: i32) -> Option<Self> {
        Some(match number & 0xffff {
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::Ip,
            113 => Self::Sll,
            228 => Self::Ip4,
            229 => Self::Ip6,
            276 => Self::Sll2,
            _ => return None,
        })
    }

    fn or_fault(number: i32, packet: u64, offset: usize) -> Result<Self, Fault> {
        let what = || {
            format!(
                "link type {} is not supported: Ethernet (1), raw IP (12, 14, 101, 228, 229) and Linux cooked (113, 276) are",
                number & 0xffff
            )
        };
        Self::from_number(number).ok_or_else(|| Fault { packet, offset, what: what() })
    }

    /// Bytes before the network header.
    const fn header(self) -> usize {
        match self {
            Self::Ethernet | Self::Ip | Self::Ip4 | Self::Ip6 => 0,
            Self::Sll => 16,
            Self::Sll2 => 20,
        }
    }

    /// Whether an Ethernet header must be made up.
    const fn is_synthetic(self) -> bool {
        !matches!(self, Self::Ethernet)
    }

    fn ethertype(self, data: &[u8]) -> [u8; 2] {
        const IPV4: [u8; 2] = [0x08, 0x00];
        const IPV6: [u8; 2] = [0x86, 0xdd];
        let at = |i: usize| [data.get(i).copied().unwrap_or(0), data.get(i + 1).copied().unwrap_or(0)];
        match self {
            Self::Ethernet => at(12),
            Self::Ip6 => IPV6,
            Self::Ip if data.first().is_some_and(|byte| byte >> 4 == 6) => IPV6,
            Self::Ip | Self::Ip4 => IPV4,
            Self::Sll => at(14),
            Self::Sll2 => at(0),
        }
    }
}

/// A packet of a capture.
#[derive(Clone, Copy, Debug)]
pub struct CapturedPacket<'a> {
    /// Its place in the file, counted from 1.
    pub number: u64,
    /// When it was captured, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its length on the wire as the file states it, link header included, bytes.
    pub original: u32,
    /// What `data` begins with.
    pub link: Link,
    /// The bytes in the file.
    pub data: &'a [u8],
}

impl<'a> CapturedPacket<'a> {
    /// Returns the length of [`Self::frame`], bytes, or `None` where the packet cannot be replayed:
    /// it is shorter than an Ethernet header or longer than [`MAX_FRAME`].
    pub fn frame_len(&self) -> Option<usize> {
        let gone = self.link.header();
        let made_up = if self.link.is_synthetic() { ETHERNET } else { 0 };
        let captured = self.data.len().checked_sub(gone)? + made_up;
        let original = (self.original as usize).saturating_sub(gone) + made_up;
        let length = original.min(MAX_FRAME).max(captured);
        (MIN_FRAME..=MAX_FRAME).contains(&captured).then_some(length)
    }

    /// Returns whether bytes of the packet are missing from the file, so that [`Self::frame`]
    /// ends in zeros.
    pub fn is_cut(&self) -> bool {
        self.data.len() < self.original as usize
    }

    /// Returns the Ethernet frame without FCS: from the file where that has all of it, otherwise
    /// put together in `scratch`, with an Ethernet header made up and with zeros for the bytes
    /// that a snap length cut off. `None` as for [`Self::frame_len`].
    pub fn frame<'b>(&self, scratch: &'b mut Vec<u8>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        let length = self.frame_len()?;
        if !self.link.is_synthetic() && length == self.data.len() {
            return Some(self.data);
        }
        self.copy_frame(length, scratch);
        Some(scratch)
    }

    /// Puts the frame together in `out`, which is cleared first. `length` is [`Self::frame_len`].
    pub(super) fn copy_frame(&self, length: usize, out: &mut Vec<u8>) {
        out.clear();
        if self.link.is_synthetic() {
            out.extend_from_slice(&SYNTHETIC_MACS);
            out.extend_from_slice(&self.link.ethertype(self.data));
        }
        out.extend_from_slice(self.data.get(self.link.header()..).unwrap_or_default());
        out.resize(length, 0);
    }
}

/// What could not be replayed as it was, by number of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Cut by a snap length and filled up with zeros.
    pub padded: u64,
    /// Skipped: shorter than an Ethernet header.
    pub short: u64,
    /// Skipped: longer than [`MAX_FRAME`].
    pub long: u64,
    /// Stamped earlier than the packet before, and sorted.
    pub unsorted: u64,
}

/// A capture in memory.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    /// What could not be replayed as it was.
    pub tally: Tally,
}

/// Where a packet lies in the file.
#[derive(Clone, Copy, Debug)]
struct Frame {
    number: u64,
    time_ns: u64,
    at: usize,
    captured: u32,
    original: u32,
    link: Link,
}

impl Capture {
    /// Reads a capture; packets are sorted by time, those of the same time stay in order.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn load(path: &Path) -> Result<Self, CaptureError> {
        let bytes = read(path)?;
        Self::parse(bytes).map_err(|fault| CaptureError::Broken { path: path.into(), fault })
    }

    /// As [`Self::load`], from memory.
    ///
    /// # Errors
    /// Where the bytes are not a whole capture.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Fault> {
        let (mut frames, mut tally, mut latest) = (Vec::new(), Tally::default(), 0);
        scan(&bytes, |at, packet| match packet.frame_len() {
            None if packet.data.len() > MAX_FRAME => tally.long += 1,
            None => tally.short += 1,
            Some(_) => {
                tally.padded += u64::from(packet.is_cut());
                tally.unsorted += u64::from(packet.time_ns < latest);
                latest = latest.max(packet.time_ns);
                let CapturedPacket { number, time_ns, original, link, data } = *packet;
                frames.push(Frame { number, time_ns, at, captured: data.len() as u32, original, link });
            }
        })?;
        if tally.unsorted > 0 {
            frames.sort_by_key(|frame| frame.time_ns);
        }
        Ok(Self { bytes, frames, tally })
    }

    /// Returns the number of packets that can be replayed.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Returns whether no packet can be replayed.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns a packet by its place in time.
    pub fn packet(&self, index: usize) -> Option<CapturedPacket<'_>> {
        let &Frame { number, time_ns, at, captured, original, link } = self.frames.get(index)?;
        let data = self.bytes.get(at..at + captured as usize)?;
        Some(CapturedPacket { number, time_ns, original, link, data })
    }
}

/// Calls `each` for every packet of a capture, in the order of the file.
///
/// # Errors
/// See [`CaptureError`]; `each` has then seen the packets before the broken one.
pub fn for_each_packet(path: &Path, mut each: impl FnMut(&CapturedPacket<'_>)) -> Result<(), CaptureError> {
    let bytes = read(path)?;
    scan(&bytes, |_, packet| each(packet)).map_err(|fault| CaptureError::Broken { path: path.into(), fault })
}

fn read(path: &Path) -> Result<Vec<u8>, CaptureError> {
    std::fs::read(path).map_err(|source| CaptureError::Read { path: path.into(), source })
}

/// Calls `each` with every packet and the offset of its bytes.
fn scan(bytes: &[u8], mut each: impl FnMut(usize, &CapturedPacket<'_>)) -> Result<(), Fault> {
    const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
    if bytes.starts_with(&SECTION) {
        return Sections::default().scan(bytes, &mut each);
    }
    let fault = |what: String| Fault { packet: 0, offset: 0, what };
    match parse_pcap_header(bytes) {
        Ok((rest, header)) if !header.is_modified_format() => scan_pcap(bytes, rest, &header, &mut each),
        Ok(_) => {
            Err(fault("this is Kuznetzov's variant of pcap; convert it, for example with `editcap -F pcap`".into()))
        }
        Err(NomErr::Incomplete(_)) if bytes.is_empty() => Err(fault("the file is empty".into())),
        Err(NomErr::Incomplete(_)) => {
            Err(fault(format!("the file ends after {} bytes, inside the capture's header", bytes.len())))
        }
        Err(_) => Err(fault("neither pcap nor pcapng: the first four bytes are not those of a capture".into())),
    }
}

/// What to do about a file that ends too early.
const CUT_SHORT: &str = "it was cut short; copy or capture it again, or keep its whole packets with `editcap`";

fn u32_at(bytes: &[u8], at: usize, big_endian: bool) -> Option<u32> {
    let &word = bytes.get(at..)?.first_chunk()?;
    Some(if big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
}

type ParseRecord = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, PcapError<&[u8]>>;

fn scan_pcap(
    bytes: &[u8],
    mut rest: &[u8],
    header: &PcapHeader,
    each: &mut impl FnMut(usize, &CapturedPacket<'_>),
) -> Result<(), Fault> {
    let link = Link::or_fault(header.network.0, 0, 20)?;
    let parse: ParseRecord = if header.is_bigendian() { parse_pcap_frame_be } else { parse_pcap_frame };
    let (fraction_ns, fractions) =
        if header.is_nanosecond_precision() { (1, 1_000_000_000) } else { (1000, 1_000_000) };
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let offset = bytes.len() - rest.len();
        let fault = |what| Fault { packet: number, offset, what };
        let claimed = u32_at(rest, 8, header.is_bigendian()).unwrap_or(0);
        if claimed > MAX_RECORD {
            return Err(fault(format!("a record of {claimed} bytes: the file is corrupt from here")));
        }
        let Ok((after, record)) = parse(rest) else {
            return Err(fault(format!(
                "the file ends inside this record, after {} bytes of it: {CUT_SHORT}",
                rest.len()
            )));
        };
        if record.ts_usec >= fractions {
            let what = format!("{} of {fractions} parts of a second: the file is corrupt from here", record.ts_usec);
            return Err(fault(what));
        }
        let time_ns = u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * fraction_ns;
        let packet = CapturedPacket { number, time_ns, original: record.origlen, link, data: record.data };
        each(offset + 16, &packet);
        rest = after;
    }
    Ok(())
}

/// What the sections of a pcapng file have said so far
/// (<https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/>).
#[derive(Default)]
struct Sections {
    big_endian: bool,
    interfaces: Vec<Interface>,
    packets: u64,
    /// Simple packet blocks have no time: they get that of the packet before.
    latest_ns: u64,
}

struct Interface {
    link: i32,
    snap: u32,
    /// Time units per second.
    units: u128,
    /// Seconds to add.
    offset: i64,
}

impl Interface {
    fn new(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Option<Self> {
        // The library reads `if_tsoffset` as little-endian always, and knows no powers of two.
        let option = |code| block.options.iter().find(|option| option.code == code).map(|option| option.value());
        let offset = option(OptionCode::IfTsoffset)
            .and_then(|value| value.first_chunk())
            .map_or(0, |&bytes| if big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) });
        let units = match option(OptionCode::IfTsresol).and_then(|value| value.first()).copied().unwrap_or(6) {
            resolution if resolution & 0x80 != 0 => 1u128.checked_shl(u32::from(resolution & 0x7f)),
            resolution => 10u128.checked_pow(u32::from(resolution)),
        };
        Some(Self { link: block.linktype.0, snap: block.snaplen, units: units.filter(|&units| units > 0)?, offset })
    }

    fn nanoseconds(&self, high: u32, low: u32) -> u64 {
        let ticks = (u128::from(high) << 32) | u128::from(low);
        // 2^64 ticks times 10^9 fit into 128 bits.
        let since = i128::try_from(ticks * 1_000_000_000 / self.units).unwrap_or(i128::MAX);
        let at = since.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(at.max(0)).unwrap_or(u64::MAX)
    }
}

impl Sections {
    fn scan(&mut self, bytes: &[u8], each: &mut impl FnMut(usize, &CapturedPacket<'_>)) -> Result<(), Fault> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = bytes.len() - rest.len();
            let fault = |packet, what| Fault { packet, offset, what };
            let (after, block) = self.block(rest).map_err(|_| {
                let claimed = u32_at(rest, 4, self.big_endian).map_or(usize::MAX, |length| length as usize);
                let what = if claimed > rest.len() {
                    format!("the file ends inside this block, after {} bytes of it: {CUT_SHORT}", rest.len())
                } else {
                    "this block's lengths contradict each other: the file is corrupt from here".to_owned()
                };
                fault(self.packets + 1, what)
            })?;
            self.apply(&block, bytes, offset, each).map_err(|what| fault(self.packets, what))?;
            rest = after;
        }
        Ok(())
    }

    fn block<'a>(&mut self, rest: &'a [u8]) -> IResult<&'a [u8], Block<'a>, PcapError<&'a [u8]>> {
        if let Ok((_, header)) = parse_sectionheaderblock(rest) {
            self.big_endian = header.big_endian();
        }
        if self.big_endian { parse_block_be(rest) } else { parse_block_le(rest) }
    }

    fn apply(
        &mut self,
        block: &Block<'_>,
        bytes: &[u8],
        offset: usize,
        each: &mut impl FnMut(usize, &CapturedPacket<'_>),
    ) -> Result<(), String> {
        let (interface, original, captured, data, header) = match block {
            Block::SectionHeader(_) => {
                self.interfaces.clear();
                return Ok(());
            }
            Block::InterfaceDescription(block) => {
                let interface = Interface::new(block, self.big_endian);
                if self.interfaces.len() >= MAX_INTERFACES {
                    return Err(format!(
                        "more than {MAX_INTERFACES} interfaces in one section: no node has so many, the file is corrupt \
                         or was made to exhaust whoever reads it; keep what you need of it with `editcap -r`"
                    ));
                }
                self.interfaces.push(interface.ok_or("an interface's time resolution is not one")?);
                return Ok(());
            }
            Block::EnhancedPacket(block) => (block.if_id, block.origlen, Some(block.caplen), block.data, 28),
            Block::SimplePacket(block) => (0, block.origlen, None, block.data, 12),
            Block::Unknown(block) if block.block_type == 2 => {
                return Err("a Packet Block, obsolete since 2004; convert the file with `editcap -F pcapng`".into());
            }
            _ => return Ok(()),
        };
        self.packets += 1;
        let Some(interface) = self.interfaces.get(interface as usize) else {
            return Err(format!("its interface {interface} is not described in the file: the file is corrupt"));
        };
        let link = Link::or_fault(interface.link, self.packets, offset).map_err(|fault| fault.what)?;
        let snap = if interface.snap == 0 { u32::MAX } else { interface.snap };
        let captured = captured.unwrap_or(original.min(snap)) as usize;
        let data = data.get(..captured).ok_or("its length is beyond its block: the file is corrupt from here")?;
        if let Block::EnhancedPacket(block) = block {
            self.latest_ns = interface.nanoseconds(block.ts_high, block.ts_low);
        }
        debug_assert!(bytes.get(offset + header..).is_some_and(|at| at.starts_with(data)));
        each(offset + header, &CapturedPacket { number: self.packets, time_ns: self.latest_ns, original, link, data });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
