//! Reads capture files: classic pcap (micro- and nanoseconds, either byte order) and pcapng.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader, traits::PcapReaderIterator};

use crate::sandbox::skip;

/// Longest block that is read: a jumbo frame with generous options.
const BUFFER: usize = 1 << 20;

/// Returns the folder with the real captures, or `None` where they are not at hand: what the
/// environment variable `FTAGENT_CAPTURES` names, else `../shared/captures` from the root of the
/// repository.
pub fn captures() -> Option<PathBuf> {
    let dir = std::env::var_os("FTAGENT_CAPTURES").map(PathBuf::from);
    let dir = dir.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures"));
    dir.is_dir().then_some(dir)
}

/// As [`captures`]; where they are not at hand, notes that `what` is skipped.
pub fn need_captures(what: &str) -> Option<PathBuf> {
    let found = captures();
    if found.is_none() {
        skip(what, "no captures: set FTAGENT_CAPTURES");
    }
    found
}

/// A packet of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it was captured, since the Unix epoch.
    pub at: Duration,
    /// Bytes of the frame on the wire; more than `bytes` has where the capture cut it.
    pub wire: u32,
    /// The frame from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// An Ethernet capture, read packet by packet.
pub struct Capture {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    /// Units of a second and offset in seconds, by pcapng interface.
    clocks: Vec<(u64, i64)>,
    nanoseconds: bool,
    packets: u64,
}

impl Capture {
    /// Opens a file.
    ///
    /// # Errors
    /// Where it cannot be read or is no capture.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let reader = create_reader(BUFFER, file)
            .map_err(|error| anyhow!("{}: neither pcap nor pcapng: {}", path.display(), said(&error)))?;
        Ok(Self { path: path.to_owned(), reader, clocks: Vec::new(), nanoseconds: false, packets: 0 })
    }

    /// Returns the next packet, or `None` at the end.
    ///
    /// # Errors
    /// Where the file is broken or cut short, or its packets are not Ethernet frames; the message
    /// says after how many packets.
    pub fn next_packet(&mut self) -> Result<Option<Captured>> {
        loop {
            match self.reader.next() {
                Ok((consumed, block)) => {
                    let packet = block_packet(&block, &mut self.clocks, &mut self.nanoseconds);
                    self.reader.consume(consumed);
                    if let Some(packet) = packet.with_context(|| place(&self.path, self.packets))? {
                        self.packets += 1;
                        return Ok(Some(packet));
                    }
                }
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    ensure!(
                        !self.reader.reader_exhausted(),
                        "{}: it ends in mid-block",
                        place(&self.path, self.packets)
                    );
                    let failed = self.reader.refill().err().map(|error| said(&error));
                    ensure!(failed.is_none(), "{}: {}", place(&self.path, self.packets), failed.unwrap_or_default());
                }
                Err(error) => bail!("{}: {}", place(&self.path, self.packets), said(&error)),
            }
        }
    }
}

fn place(path: &Path, packets: u64) -> String {
    format!("{}, after {packets} packets", path.display())
}

/// The library's errors borrow from its buffer and print all of it.
fn said(error: &PcapError<&[u8]>) -> &'static str {
    match error {
        PcapError::HeaderNotRecognized => "the header is not one of a capture",
        PcapError::Eof => "it is empty",
        PcapError::ReadError => "it cannot be read",
        PcapError::BufferTooSmall => "a block is longer than 1 MiB",
        PcapError::Incomplete(_) => "it is cut short",
        _ => "a block is broken",
    }
}

fn block_packet(
    block: &PcapBlockOwned<'_>,
    clocks: &mut Vec<(u64, i64)>,
    nanoseconds: &mut bool,
) -> Result<Option<Captured>> {
    let captured = |at, wire: u32, data: &[u8], length: u32| {
        // pcapng pads data to 4 bytes.
        let bytes = data.get(..length as usize).context("a packet is longer than its block")?.to_vec();
        anyhow::Ok(Some(Captured { at, wire, bytes }))
    };
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            ethernet(header.network)?;
            *nanoseconds = header.is_nanosecond_precision();
            Ok(None)
        }
        PcapBlockOwned::Legacy(packet) => {
            let unit = if *nanoseconds { 1 } else { 1000 };
            let at = Duration::from_secs(packet.ts_sec.into()) + Duration::from_nanos(u64::from(packet.ts_usec) * unit);
            captured(at, packet.origlen, packet.data, packet.caplen)
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            clocks.clear();
            Ok(None)
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
            ethernet(interface.linktype)?;
            let units = interface.ts_resolution().context("an interface's time resolution is out of range")?;
            clocks.push((units, interface.ts_offset()));
            Ok(None)
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let clock = clocks.get(packet.if_id as usize);
            let (units, offset) = clock.with_context(|| format!("interface {} is not described", packet.if_id))?;
            let ticks = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
            let ns = ticks * 1_000_000_000 / u128::from((*units).max(1));
            let ns = (ns as i128 + i128::from(*offset) * 1_000_000_000).max(0);
            captured(Duration::from_nanos(u64::try_from(ns)?), packet.origlen, packet.data, packet.caplen)
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            let length = packet.origlen.min(packet.data.len() as u32);
            captured(Duration::ZERO, packet.origlen, packet.data, length)
        }
        PcapBlockOwned::NG(_) => Ok(None),
    }
}

fn ethernet(link: Linktype) -> Result<()> {
    ensure!(link == Linktype::ETHERNET, "its link type is {}, not Ethernet (1): convert it first", link.0);
    Ok(())
}
