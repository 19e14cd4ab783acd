//! Memory maps of mmapable BPF arrays.

use std::{io, marker::PhantomData, num::NonZeroUsize, os::fd::BorrowedFd, ptr::NonNull};

use aya::Pod;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The values of a BPF array that was created with `BPF_F_MMAPABLE`, shared with the kernel.
///
/// The kernel program reads (and may write) them at the same time: every access here is one
/// volatile load or store of a whole value, which the program may see in parts when the value
/// is larger than 8 bytes.
#[derive(Debug)]
pub struct MappedArray<T: Pod> {
    at: NonNull<T>,
    bytes: NonZeroUsize,
    len: usize,
    _values: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that any thread may access by volatile loads and stores.
unsafe impl<T: Pod + Send> Send for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps all `len` values of an array. The size of a value must be a multiple of 8: the
    /// kernel rounds it up to that.
    pub fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let Some(bytes) = NonZeroUsize::new(len * size_of::<T>()).filter(|_| size_of::<T>().is_multiple_of(8)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { mmap(None, bytes, flags, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self { at: at.cast(), bytes, len, _values: PhantomData })
    }

    fn slot(&self, index: usize) -> NonNull<T> {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: inside the mapping by the assertion.
        unsafe { self.at.add(index) }
    }

    /// Returns a value. Panics past the end.
    pub fn get(&self, index: usize) -> T {
        // SAFETY: inside the mapping; any bit pattern is a value.
        unsafe { self.slot(index).read_volatile() }
    }

    /// Stores a value. Panics past the end.
    pub fn set(&mut self, index: usize, value: T) {
        // SAFETY: inside the mapping.
        unsafe { self.slot(index).write_volatile(value) }
    }

    /// Stores one field of a value, found by `offset_of!`. A store of up to 8 aligned bytes is
    /// seen whole, and after every store made before it. Panics past the end.
    pub fn store<F: Pod>(&mut self, index: usize, offset: usize, value: F) {
        assert!(offset + size_of::<F>() <= size_of::<T>() && offset.is_multiple_of(align_of::<F>()));
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        // SAFETY: inside the value and aligned by the assertion: values lie at multiples of 8.
        unsafe { self.slot(index).cast::<u8>().add(offset).cast::<F>().write_volatile(value) }
    }
}

impl<T: Pod> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows from it any more. An error leaves it
        // mapped, which harms nobody.
        let _unmapped = unsafe { munmap(self.at.cast(), self.bytes.get()) };
    }
}
