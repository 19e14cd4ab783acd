//! Loads the embedded object for one interface.

use std::{
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use aya::{Ebpf, EbpfLoader, include_bytes_aligned, maps::MapData, programs::Xdp};
use ftagent_common::abi::{globals, programs};
use thiserror::Error;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ftagent-datapath"));

/// Why a program could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel or the object refused.
    #[error("loading the datapath")]
    Object(#[from] aya::EbpfError),
    /// The verifier or the kernel refused a program.
    #[error("loading program `{name}`")]
    Program {
        /// The program's name in the object.
        name: &'static str,
        /// What aya says; the verifier's log is in it.
        source: Box<aya::programs::ProgramError>,
    },
    /// The object does not contain what this version needs: it was built from other sources.
    #[error("the object has no {kind} named `{name}`")]
    Missing {
        /// "program" or "map".
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map refused an operation.
    #[error("map `{name}`")]
    Map {
        /// The map's name.
        name: &'static str,
        /// What aya says.
        source: Box<aya::maps::MapError>,
    },
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What to load, and how.
#[derive(Clone, Copy, Debug)]
pub struct Loader<'a> {
    /// The interface's slot in the counters.
    pub slot: u32,
    /// Take clock and dice from the `clock` map.
    pub replay: bool,
    /// Bits of [`ftagent_common::abi::features`].
    pub features: u32,
    /// Where maps are pinned and found; `None`: they live as long as the result.
    pub pins: Option<&'a Path>,
}

impl Loader<'_> {
    /// Creates the maps (or opens the pinned ones) and verifies the datapath.
    ///
    /// # Errors
    /// See [`LoadError`]. Nothing is attached.
    pub fn load(&self) -> Result<Ebpf, LoadError> {
        let (slot, replay) = (self.slot, u32::from(self.replay));
        let mut loader = EbpfLoader::new();
        loader
            .override_global(globals::SLOT, &slot, true)
            .override_global(globals::REPLAY, &replay, true)
            .override_global(globals::FEATURES, &self.features, true);
        if let Some(pins) = self.pins {
            for name in PINNED {
                loader.map_pin_path(name, pins.join(name));
            }
        }
        let mut ebpf = loader.load(OBJECT)?;
        for name in PINNED {
            if ebpf.map(name).is_none() {
                return Err(LoadError::Missing { kind: "map", name });
            }
        }
        for name in [programs::DATAPATH, programs::CLOCK] {
            let source = |source| LoadError::Program { name, source: Box::new(source) };
            program(&mut ebpf, name)?.load().map_err(source)?;
        }
        Ok(ebpf)
    }
}

/// The maps that outlive the daemon: all of them.
pub const PINNED: [&str; 24] = {
    use ftagent_common::abi::maps::*;
    [
        COUNTERS,
        CONTROL,
        SAMPLING,
        SERVICE_PORTS,
        FILTER4,
        FILTER6,
        BLOCK4,
        BLOCK6,
        FEED4,
        FEED6,
        ALLOW4,
        ALLOW6,
        RULES,
        RULE_STATES,
        RULE_COUNTERS,
        SAMPLES,
        CAPTURES,
        GUARD,
        GUARD_PORTS,
        GUARD_SCRATCH,
        OWN_ADDRESSES,
        CEILINGS,
        SLOTS,
        CLOCK,
    ]
};

/// Returns an XDP program of the object.
///
/// # Errors
/// [`LoadError::Missing`] where there is none of that name.
pub fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    ebpf.program_mut(name)
        .and_then(|program| <&mut Xdp>::try_from(program).ok())
        .ok_or(LoadError::Missing { kind: "program", name })
}

/// Opens a map of the object a second time, independent of the object's lifetime.
///
/// # Errors
/// [`LoadError::Missing`] where there is none of that name, [`LoadError::Io`] where the
/// descriptor cannot be duplicated.
pub fn open_map(ebpf: &Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    let owned = fd(ebpf, name)?.try_clone_to_owned().map_err(io("duplicating a map's descriptor"))?;
    MapData::from_fd(owned).map_err(map(name))
}

/// Returns the descriptor of a map of the object.
///
/// # Errors
/// [`LoadError::Missing`] where there is none of that name.
pub fn fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, LoadError> {
    use aya::maps::Map;
    let missing = LoadError::Missing { kind: "map", name };
    match ebpf.map(name) {
        Some(
            Map::Array(map) | Map::PerCpuArray(map) | Map::HashMap(map) | Map::RingBuf(map) | Map::ArrayOfMaps(map),
        ) => Ok(map.fd().as_fd()),
        _ => Err(missing),
    }
}

/// Names a map in its error.
pub(crate) fn map(name: &'static str) -> impl Fn(aya::maps::MapError) -> LoadError {
    move |source| LoadError::Map { name, source: Box::new(source) }
}

/// Names what was being done in an I/O error.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LoadError {
    move |source| LoadError::Io { what: what.into(), source }
}
