//! The capture ring: packets as long as they are.

use aya::{
    Ebpf,
    maps::{Map, MapData, RingBuf},
};
use ftagent_common::{abi::maps, sample::SampleHeader};

use super::{
    LoadError,
    load::{map, open_map},
};
use crate::sys;

/// A packet of the capture ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// What is known of it. `stride` is 1, and `flags` say why it is here.
    pub header: SampleHeader,
    /// Its first bytes, all of it up to [`ftagent_common::sample::CAPTURE_BYTES`].
    pub bytes: Vec<u8>,
}

/// Takes packets out of the ring. There may be one of these.
pub struct CaptureRing(RingBuf<MapData>);

impl CaptureRing {
    /// Opens the ring of a loaded object.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(Map::RingBuf(open_map(ebpf, maps::CAPTURES)?)).map_err(map(maps::CAPTURES))?;
        Ok(Self(ring))
    }

    /// Takes the oldest packet out of the ring.
    pub fn take(&mut self) -> Option<Captured> {
        loop {
            let item = self.0.next()?;
            // A record that makes no sense is no reason to leave the others.
            if let Some((header, bytes)) = sys::captured(&item) {
                return Some(Captured { header, bytes: bytes.to_vec() });
            }
        }
    }
}
