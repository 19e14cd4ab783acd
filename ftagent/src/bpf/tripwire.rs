//! The tripwire from the host's side: what is held against each class.

use std::mem::offset_of;

use aya::Ebpf;
use ftagent_common::{
    abi::{Control, maps},
    tripwire::{CEILINGS, Ceiling, Pool, SPARED_PORTS},
};

use super::load::{LoadError, fd, io};
use crate::sys::mmap::MappedArray;

/// The ceilings in the kernel. What an earlier daemon set holds until it is set anew or expires.
#[derive(Debug)]
pub struct KernelTripwire {
    ceilings: MappedArray<Ceiling>,
    control: MappedArray<Control>,
}

impl KernelTripwire {
    /// Opens the maps of a loaded object.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let ceilings = MappedArray::new(fd(ebpf, maps::CEILINGS)?, CEILINGS).map_err(io("mapping `ceilings`"))?;
        let control = MappedArray::new(fd(ebpf, maps::CONTROL)?, 1).map_err(io("mapping `control`"))?;
        Ok(Self { ceilings, control })
    }

    /// Returns what is held against a class, by its number. Panics past [`CEILINGS`].
    pub fn get(&self, class: usize) -> Ceiling {
        self.ceilings.get(class)
    }

    /// Sets what is held against a class, but what is the program's own; flags last on the way up, and
    /// first on the way down. Panics past [`CEILINGS`].
    pub fn set(&mut self, class: usize, to: &Ceiling) {
        let kept = self.ceilings.get(class).flags & to.flags;
        self.ceilings.store(class, offset_of!(Ceiling, flags), kept);
        let pools = [
            (offset_of!(Ceiling, packets), to.packets),
            (offset_of!(Ceiling, bytes), to.bytes),
            (offset_of!(Ceiling, police), to.police),
            (offset_of!(Ceiling, spared), to.spared),
        ];
        for (at, pool) in pools {
            self.ceilings.store(class, at + offset_of!(Pool, per_jiffy), pool.per_jiffy);
            self.ceilings.store(class, at + offset_of!(Pool, burst), pool.burst);
        }
        // Four ports are eight bytes, which are seen whole.
        self.ceilings.store::<[u16; SPARED_PORTS]>(class, offset_of!(Ceiling, ports), to.ports);
        self.ceilings.store(class, offset_of!(Ceiling, expires), to.expires);
        self.ceilings.store(class, offset_of!(Ceiling, flags), to.flags);
    }

    /// Lets what is held against a class hold until a jiffy. Panics past [`CEILINGS`].
    pub fn renew(&mut self, class: usize, expires: u64) {
        self.ceilings.store(class, offset_of!(Ceiling, expires), expires);
    }

    /// Says which classes are policed, see [`ftagent_common::abi::ceilings`].
    pub fn switch(&mut self, bits: u32) {
        if self.control.get(0).ceilings != bits {
            self.control.store(0, offset_of!(Control, ceilings), bits);
        }
    }
}
