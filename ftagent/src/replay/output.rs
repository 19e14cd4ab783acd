//! Writes frames to classic pcap files with nanosecond time stamps.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
};

use super::schedule::SECOND;

/// A capture that is being written.
#[derive(Debug)]
pub struct PcapWriter {
    out: BufWriter<File>,
}

impl PcapWriter {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut out = BufWriter::with_capacity(1 << 18, File::create(path)?);
        // Nanosecond magic, version 2.4, no zone, no accuracy, snap length, Ethernet.
        for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 1_u32] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Writes a frame; `time_ns` is its virtual time, which stands in the file as since 1970.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&mut self, time_ns: u64, frame: &[u8]) -> io::Result<()> {
        let (seconds, fraction, length) = ((time_ns / SECOND) as u32, (time_ns % SECOND) as u32, frame.len() as u32);
        for word in [seconds, fraction, length, length] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
