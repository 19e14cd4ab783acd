//! Waits until every program that is running has ended.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use super::bpf;

/// A map of maps that nothing reads.
///
/// Updates of map-in-map entries return when every program that was running has ended
/// (kernel/bpf/syscall.c, maybe_wait_bpf_programs).
#[derive(Debug)]
pub struct Fence {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Fence {
    /// Makes one.
    pub fn new() -> io::Result<Self> {
        let inner = bpf::create_hash::<u32, u64>(1)?;
        Ok(Self { outer: bpf::create_array_of_maps(inner.as_fd())?, inner })
    }

    /// Returns when every program that was running at the time of the call has ended: some tens of
    /// milliseconds.
    pub fn wait(&self) -> io::Result<()> {
        bpf::set_inner_map(self.outer.as_fd(), 0, self.inner.as_fd())
    }
}
