//! All the unsafe of this crate: system calls that no library wraps, and memory maps.
#![expect(unsafe_code, reason = "the one place for system calls and memory maps")]

pub mod bpf;
pub mod ethtool;
pub mod fence;
pub mod mmap;

/// Keeps the calling thread on the CPU it runs on.
pub fn stay_on_this_cpu() -> std::io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is an empty set; both calls only read or write it.
    unsafe {
        let cpu = libc::sched_getcpu();
        if cpu < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu as usize, &mut set);
        if libc::sched_setaffinity(0, size_of_val(&set), &raw const set) != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Copies a sample record out of the ring buffer's bytes; `None` where the length is not that of
/// a record.
pub fn sample(bytes: &[u8]) -> Option<ftagent_common::sample::SampleRecord> {
    if bytes.len() != size_of::<ftagent_common::sample::SampleRecord>() {
        return None;
    }
    // SAFETY: the length is that of the record, every field of which is a plain integer.
    Some(unsafe { bytes.as_ptr().cast::<ftagent_common::sample::SampleRecord>().read_unaligned() })
}

/// Returns header and packet of a record of the capture ring; `None` where the lengths contradict each other.
pub fn captured(record: &[u8]) -> Option<(ftagent_common::sample::SampleHeader, &[u8])> {
    use ftagent_common::sample::SampleHeader;
    let (header, bytes) = record.split_at_checked(size_of::<SampleHeader>())?;
    // SAFETY: the length is that of the header, every field of which is a plain integer.
    let header = unsafe { header.as_ptr().cast::<SampleHeader>().read_unaligned() };
    Some((header, bytes.get(..usize::from(header.captured))?))
}

/// Returns a value of zeros that was never on the stack.
pub fn zeroed<T: aya::Pod>() -> Box<T> {
    // SAFETY: any bit pattern is a value of a `Pod`.
    unsafe { Box::<T>::new_zeroed().assume_init() }
}
