//! Reads the per-CPU counters: one system call for everything of an interface.

use std::os::fd::BorrowedFd;

use ftagent_common::counters::IfaceCounters;

use crate::sys;

/// Reads [`IfaceCounters`] of every CPU into memory that is kept between reads.
#[derive(Debug)]
pub struct CounterReader {
    /// One value per *possible* CPU, as the kernel copies them out.
    cpus: Vec<IfaceCounters>,
}

// The kernel rounds per-CPU values up to 8 bytes; ours needs no rounding.
const _: () = assert!(size_of::<IfaceCounters>().is_multiple_of(8));

impl CounterReader {
    /// Makes a reader.
    ///
    /// # Errors
    /// Where the number of possible CPUs cannot be read.
    pub fn new() -> std::io::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Self { cpus: vec![IfaceCounters::ZERO; cpus] })
    }

    /// Reads the counters of a slot, one element per possible CPU.
    ///
    /// Values of CPUs that are counting just now are read torn: each field is a value that the
    /// field had, but not all fields are of one instant.
    ///
    /// # Errors
    /// What `BPF_MAP_LOOKUP_ELEM` says.
    pub fn read(&mut self, map: BorrowedFd<'_>, slot: u32) -> std::io::Result<&[IfaceCounters]> {
        sys::bpf::lookup_per_cpu(map, &slot, &mut self.cpus)?;
        Ok(&self.cpus)
    }

    /// Reads the counters of a slot and adds them up over the CPUs.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn total(&mut self, map: BorrowedFd<'_>, slot: u32) -> std::io::Result<IfaceCounters> {
        let mut total = IfaceCounters::ZERO;
        self.read(map, slot)?.iter().for_each(|cpu| total.add(cpu));
        Ok(total)
    }
}
