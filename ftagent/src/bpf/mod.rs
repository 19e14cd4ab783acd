//! The kernel programs from the host's side: load, attach, pin, and typed access to the maps.

pub mod attach;
pub mod base;
pub mod captures;
pub mod clock;
pub mod counters;
pub mod guard;
pub mod lists;
pub mod load;
pub mod pins;
pub mod rules;
pub mod slots;
pub mod testrun;
pub mod tripwire;

pub use load::{LoadError, Loader};

use aya::{Ebpf, maps::Array};
use ftagent_common::abi::{Sampling, maps};

/// Sets the UDP ports that count as services.
///
/// # Errors
/// What the map says.
pub fn set_service_ports(ebpf: &Ebpf, ports: &[u16]) -> Result<(), LoadError> {
    let mut words = [0u64; 1024];
    for port in ports {
        words[usize::from(port >> 6)] |= 1 << (port & 63);
    }
    let mut map: Array<_, u64> = Array::try_from(aya::maps::Map::Array(load::open_map(ebpf, maps::SERVICE_PORTS)?))
        .map_err(load::map(maps::SERVICE_PORTS))?;
    for (i, word) in words.into_iter().enumerate() {
        map.set(i as u32, word, 0).map_err(load::map(maps::SERVICE_PORTS))?;
    }
    Ok(())
}

/// Sets how the sampler draws.
///
/// # Errors
/// What the map says.
pub fn set_sampling(ebpf: &Ebpf, sampling: Sampling) -> Result<(), LoadError> {
    let mut map: Array<_, Sampling> = Array::try_from(aya::maps::Map::Array(load::open_map(ebpf, maps::SAMPLING)?))
        .map_err(load::map(maps::SAMPLING))?;
    map.set(0, sampling, 0).map_err(load::map(maps::SAMPLING))
}
