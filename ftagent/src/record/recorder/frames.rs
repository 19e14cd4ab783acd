//! A file of zstd frames, each with whole pcapng blocks: whatever happens while one is written, those
//! before it are read. A disk that takes nothing loses what does not fit into memory, and no frame is
//! left half in the middle.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::libc::O_NOFOLLOW;
use sha2::{Digest as _, Sha256};
use zstd::{
    bulk::Compressor,
    stream::read::Decoder,
    zstd_safe::{CParameter, CompressionLevel},
};

/// Fast: what is compressed is mostly text that repeats.
const LEVEL: CompressionLevel = 1;
/// A frame is closed when it has so many bytes before compression.
pub const FRAME_BYTES: usize = 512 << 10;
/// Compressed bytes that wait for a disk, at most.
const WAITING: usize = 8 << 20;
/// A frame that has more bytes is none of ours.
const MOST: u64 = 64 << 20;

/// Writes frames.
pub struct Frames {
    path: PathBuf,
    file: Option<File>,
    raw: Vec<u8>,
    packets: u64,
    compressor: Compressor<'static>,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    /// Bytes of whole frames in the file.
    good: u64,
    hash: Sha256,
    /// The file may end in a part of a frame.
    torn: bool,
}

/// What a frame took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Packets in it.
    pub packets: u64,
    /// Bytes, compressed.
    pub bytes: u64,
}

impl Frames {
    /// Goes on with the file of this name, or makes it; nothing is written yet.
    ///
    /// # Errors
    /// Where there is no memory to compress in.
    pub fn new(path: &Path) -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self {
            path: path.to_owned(),
            file: None,
            raw: Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 8),
            packets: 0,
            compressor,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            good: 0,
            hash: Sha256::new(),
            torn: false,
        })
    }

    /// Returns where blocks are written.
    pub fn blocks(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// Counts a packet that was written to [`Self::blocks`].
    pub fn count_packet(&mut self) {
        self.packets += 1;
    }

    /// Returns whether enough was written for a frame.
    pub fn is_due(&self) -> bool {
        self.raw.len() >= FRAME_BYTES
    }

    /// Returns the packets that no frame has yet.
    pub const fn open_packets(&self) -> u64 {
        self.packets
    }

    /// Returns the bytes of all frames, waiting ones included.
    pub fn bytes(&self) -> u64 {
        self.good + self.waiting_bytes as u64
    }

    /// Returns whether there is room for more that waits.
    pub fn has_room(&self) -> bool {
        self.waiting_bytes < WAITING
    }

    /// Returns the length and the SHA-256 of what is in the file.
    pub fn digest(&self) -> (u64, String) {
        (self.good, hex(&self.hash.clone().finalize()))
    }

    /// Makes a frame of what was written since the last one.
    ///
    /// # Errors
    /// What the compressor says; what was written is lost then.
    pub fn seal(&mut self) -> io::Result<Option<Sealed>> {
        if self.raw.is_empty() {
            return Ok(None);
        }
        let frame = self.compressor.compress(&self.raw);
        self.raw.clear();
        let packets = std::mem::take(&mut self.packets);
        let frame = frame?;
        let bytes = frame.len();
        self.waiting_bytes += bytes;
        self.waiting.push_back(frame);
        Ok(Some(Sealed { packets, bytes: bytes as u64 }))
    }

    /// Writes the frames that wait.
    ///
    /// # Errors
    /// What the file system says; `NotFound` where somebody removed the file. What was not written waits.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if file.metadata()?.nlink() == 0 {
            return Err(io::ErrorKind::NotFound.into());
        }
        if self.torn {
            file.set_len(self.good)?;
            self.torn = false;
        }
        while let Some(frame) = self.waiting.front() {
            if let Err(error) = file.write_all(frame) {
                // What is there of it is taken off, now or before the next.
                self.torn = file.set_len(self.good).is_err();
                return Err(error);
            }
            self.hash.update(frame);
            self.good += frame.len() as u64;
            self.waiting_bytes -= frame.len();
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Makes what is in the file outlive the machine.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }

    fn open(&mut self) -> io::Result<()> {
        let mut options = File::options();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
        let file = options.open(&self.path)?;
        let mut hash = Sha256::new();
        let whole = survey(io::BufReader::new(&file), |_| {})?.good;
        file.set_len(whole)?;
        let mut reader = io::BufReader::new(File::open(&self.path)?).take(whole);
        io::copy(&mut reader, &mut HashWriter(&mut hash))?;
        (self.good, self.hash, self.file) = (whole, hash, Some(file));
        Ok(())
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the SHA-256 of what a reader gives, and its length.
///
/// # Errors
/// What the reader says.
pub fn digest(mut reader: impl io::Read) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut reader, &mut HashWriter(&mut hash))?;
    Ok((bytes, hex(&hash.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file of frames is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Bytes of whole frames at its beginning.
    pub good: u64,
    /// Whole frames.
    pub frames: u64,
    /// Something follows that is no whole frame.
    pub torn: bool,
}

/// Reads a file of frames up to the last whole one, and gives the blocks of each to `take`.
///
/// # Errors
/// What the reader says.
pub fn survey(mut reader: impl BufRead, mut take: impl FnMut(&[u8])) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let mut blocks = Vec::new();
    loop {
        if reader.fill_buf()?.is_empty() {
            return Ok(survey);
        }
        let mut counted = Counted { inner: &mut reader, bytes: 0 };
        let decoder = Decoder::with_buffer(&mut counted)?.single_frame();
        blocks.clear();
        match decoder.take(MOST).read_to_end(&mut blocks) {
            Ok(_) => {
                take(&blocks);
                survey.good += counted.bytes;
                survey.frames += 1;
            }
            // A disk that cannot be read is not a frame that was cut.
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(_) => {
                survey.torn = true;
                return Ok(survey);
            }
        }
    }
}

/// Counts what is consumed.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: BufRead> io::Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.bytes += amount as u64;
        self.inner.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::record::recorder::pcapng;

    fn write(frames: &mut Frames, number: u8) {
        let one = pcapng::Packet {
            interface: 0,
            time_ns: 1,
            bytes: &[number; 60],
            wire: 60,
            action: 2,
            queue: 0,
            lost: 0,
            comment: "verdict=passed",
        };
        pcapng::packet(frames.blocks(), &one);
        frames.count_packet();
    }

    /// Three frames: a header, and two packets in each of the others.
    fn file(path: &Path) -> Frames {
        let mut frames = Frames::new(path).unwrap();
        pcapng::section(frames.blocks(), "ftagent", "Linux", "");
        pcapng::interface(frames.blocks(), "wan0", 128);
        assert_eq!(frames.seal().unwrap().map(|sealed| sealed.packets), Some(0));
        for number in 1..=4 {
            write(&mut frames, number);
            if number % 2 == 0 {
                assert_eq!(frames.seal().unwrap().map(|sealed| sealed.packets), Some(2));
            }
        }
        frames.flush().unwrap();
        frames
    }

    fn read(path: &Path) -> (Survey, Vec<u8>) {
        let mut packets = Vec::new();
        let found = survey(io::BufReader::new(File::open(path).unwrap()), |bytes| {
            let blocks: Vec<_> = pcapng::blocks(bytes).collect();
            assert_eq!(blocks.iter().map(|block| block.body.len() + 12).sum::<usize>(), bytes.len(), "whole blocks");
            packets.extend(blocks.iter().filter_map(|block| Some(*block.packet()?.0.first()?)));
        });
        (found.unwrap(), packets)
    }

    #[test]
    fn a_crash_at_any_byte_costs_the_last_frame_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capture.pcapng.zst");
        let frames = file(&path);
        assert_eq!(frames.digest(), digest(File::open(&path).unwrap()).unwrap());
        let whole = fs::read(&path).unwrap();
        let (all, packets) = read(&path);
        assert_eq!((all.frames, all.good, all.torn, packets), (3, whole.len() as u64, false, vec![1, 2, 3, 4]));
        let cut_path = dir.path().join("cut");
        for length in 0..whole.len() {
            fs::write(&cut_path, &whole[..length]).unwrap();
            let (found, packets) = read(&cut_path);
            assert_eq!(packets.len() as u64, found.frames.saturating_sub(1) * 2, "at {length}");
            assert_eq!(found.torn, found.good < length as u64, "at {length}");
            // And it goes on behind the last whole one.
            let mut again = Frames::new(&cut_path).unwrap();
            write(&mut again, 9);
            again.seal().unwrap();
            again.flush().unwrap();
            let (after, later) = read(&cut_path);
            assert_eq!((after.frames, after.torn), (found.frames + 1, false), "at {length}");
            assert_eq!(later, [packets, vec![9]].concat(), "at {length}");
            assert_eq!(again.digest(), digest(File::open(&cut_path).unwrap()).unwrap());
        }
    }

    #[test]
    fn what_was_changed_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capture.pcapng.zst");
        drop(file(&path));
        let whole = fs::read(&path).unwrap();
        let content = |bytes: &[u8]| {
            let mut blocks = Vec::new();
            survey(bytes, |frame| blocks.extend_from_slice(frame)).unwrap();
            blocks
        };
        let true_content = content(&whole);
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(true_content.starts_with(&content(&bytes)), "byte {at}");
        }
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_nothing_until_memory_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/capture.pcapng.zst");
        let mut frames = Frames::new(&path).unwrap();
        pcapng::section(frames.blocks(), "ftagent", "Linux", "");
        pcapng::interface(frames.blocks(), "wan0", 128);
        write(&mut frames, 1);
        frames.seal().unwrap();
        assert!(frames.flush().is_err() && frames.has_room());
        fs::create_dir(path.parent().unwrap()).unwrap();
        write(&mut frames, 2);
        frames.seal().unwrap();
        frames.flush().unwrap();
        assert_eq!(read(&path).1, [1, 2]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_eq!(frames.flush().unwrap_err().kind(), io::ErrorKind::NotFound, "somebody removed it");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        let mut frames = Frames::new(&link).unwrap();
        write(&mut frames, 1);
        frames.seal().unwrap();
        assert!(frames.flush().is_err(), "no link is followed");
    }
}
