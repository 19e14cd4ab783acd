//! The record that the sampler writes to the ring buffer.

/// Bytes of the packet that a record carries at most: enough for two VLAN tags, an IPv6 header,
/// GRE and the inner headers of a tunnelled packet.
pub const SAMPLE_BYTES: usize = 128;

/// The header of a sample record; [`SAMPLE_BYTES`] bytes of packet follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SampleHeader {
    /// `CLOCK_MONOTONIC` nanoseconds (virtual time in replay).
    pub time_ns: u64,
    /// Bytes of the frame on the wire, without FCS.
    pub wire_bytes: u32,
    /// How many packets of the class this one stands for (the stride it was drawn with).
    pub stride: u32,
    /// Bytes of packet that are valid behind this header; the rest of the record is stale.
    pub captured: u16,
    /// The slot of the interface.
    pub slot: u16,
    /// [`crate::TrafficClass`] by number.
    pub class: u8,
    /// The verdict, see [`crate::reason::verdict`].
    pub verdict: u8,
    /// [`crate::DropReason`] by number; [`SampleHeader::NO_REASON`] where not dropped.
    pub reason: u8,
    /// What the socket table says, see [`crate::guard::socket`].
    pub socket: u8,
    /// The signature rule that decided; 0 for none.
    pub rule: u32,
    /// The CPU that saw the packet.
    pub cpu: u16,
    /// See [`flags`].
    pub flags: u16,
}

/// Bits of [`SampleHeader::flags`].
pub mod flags {
    /// This packet made too much of its class: the daemon was woken.
    pub const WOKE: u16 = 1;
    /// A rule that captures matched it. In the capture ring only.
    pub const CAPTURED: u16 = 2;
    /// It is a sampled TLS ClientHello, as long as it is. In the capture ring only.
    pub const HELLO: u16 = 4;
}

impl SampleHeader {
    /// The `reason` of a packet that was not dropped.
    pub const NO_REASON: u8 = u8::MAX;
}

/// One record in the ring buffer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct SampleRecord {
    /// What is known of the packet.
    pub header: SampleHeader,
    /// The first bytes of the packet; only `header.captured` of them are valid.
    pub data: [u8; SAMPLE_BYTES],
}

/// Room for a packet in the capture ring: the smallest that holds it; of longer ones the first bytes.
/// The verifier wants constants, and powers of two make its proofs short.
pub const CAPTURE_BYTES: [usize; 4] = [128, 512, 2048, 8192];

/// One record in the capture ring, with room for `N` bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CaptureRecord<const N: usize> {
    /// What is known of the packet.
    pub header: SampleHeader,
    /// The packet; only `header.captured` bytes of it are valid.
    pub data: [u8; N],
}

const _: () = assert!(size_of::<SampleHeader>() == 32);
const _: () = assert!(size_of::<SampleRecord>() == 160 && align_of::<SampleRecord>() == 8);
