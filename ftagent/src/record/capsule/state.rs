//! The core written down: MessagePack with named fields, in one frame of Zstandard.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::decide::{Decider, STATE_VERSION};

/// The format of the file.
const FORMAT: &str = "ftagent.state";
/// A core takes less than this, written down: its tables are bounded.
const MOST_BYTES: u64 = 256 << 20;
/// Favours speed: it is written while an attack begins.
pub const LEVEL: i32 = 1;

/// Why nothing can go on from a state.
#[derive(Debug, Error)]
pub enum StateError {
    /// It was written by a version whose core is another.
    #[error("the state is of version {found}, and this program goes on from version {}", STATE_VERSION)]
    Version {
        /// Its version.
        found: u32,
    },
    /// It is not what it should be.
    #[error("the state cannot be read: {0}")]
    Broken(String),
}

#[derive(Serialize)]
struct Writing<'a> {
    format: &'static str,
    version: u32,
    core: &'a Decider,
}

#[derive(Deserialize)]
struct Preface {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
struct Reading {
    core: Box<Decider>,
}

/// Writes anything as MessagePack with named fields.
///
/// # Errors
/// Where a value cannot be written.
pub fn pack<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(io::Error::other)
}

/// Writes a core.
///
/// # Errors
/// What the compression says.
pub fn encode(core: &Decider) -> io::Result<Vec<u8>> {
    let raw = pack(&Writing { format: FORMAT, version: STATE_VERSION, core })?;
    let mut out = zstd::stream::Encoder::new(Vec::new(), LEVEL)?;
    out.include_checksum(true)?;
    out.set_pledged_src_size(Some(raw.len() as u64))?;
    io::copy(&mut raw.as_slice(), &mut out)?;
    out.finish()
}

/// Reads a core.
///
/// # Errors
/// See [`StateError`].
pub fn decode(input: impl Read) -> Result<Box<Decider>, StateError> {
    let broken = |error: &dyn std::fmt::Display| StateError::Broken(error.to_string());
    let mut raw = Vec::new();
    let stream = zstd::stream::Decoder::new(input).map_err(|error| broken(&error))?;
    let read = stream.take(MOST_BYTES + 1).read_to_end(&mut raw).map_err(|error| broken(&error))?;
    if read as u64 > MOST_BYTES {
        return Err(StateError::Broken(format!("it is larger than {MOST_BYTES} bytes")));
    }
    // The version first: what follows may be anything to another one.
    let Preface { format, version } = rmp_serde::from_slice(&raw).map_err(|error| broken(&error))?;
    if format != FORMAT {
        return Err(StateError::Broken(format!("it is a `{format}`")));
    }
    if version != STATE_VERSION {
        return Err(StateError::Version { found: version });
    }
    let Reading { core } = rmp_serde::from_slice(&raw).map_err(|error| broken(&error))?;
    Ok(core)
}
