//! The tripwire: what is held against each traffic class while nobody looks.
//!
//! For every class there is a copy of the detector's bucket, filled by samples in proportion to what
//! they stand for: the packet that fills it wakes the daemon. And there is a policer, which drops what
//! is too much of a class: at once where nobody has business in it, else only while the daemon says so.

use crate::class::CLASS_SLOTS;

/// Bits of [`Ceiling::flags`].
pub mod flags {
    /// More packets than [`super::Ceiling::packets`] wake the daemon.
    pub const WAKE_PACKETS: u32 = 1;
    /// More bytes than [`super::Ceiling::bytes`] wake the daemon.
    pub const WAKE_BYTES: u32 = 1 << 1;
    /// More packets than [`super::Ceiling::police`] are dropped.
    pub const POLICE: u32 = 1 << 2;
    /// Packets to a socket that talks to anybody are spared too, within [`super::Ceiling::spared`].
    pub const SPARE_OPEN: u32 = 1 << 3;
    /// Packets to [`super::BFD_PORTS`] are spared too, within [`super::Ceiling::spared`].
    pub const SPARE_BFD: u32 = 1 << 4;
}

/// Destination ports of BFD, by which routers see that a path is up: over one hop and its echo (RFC 5881, 4),
/// over several (RFC 5883, 5), on a member of a link aggregation (RFC 7130, 2.1), and seamless (RFC 7881, 4).
pub const BFD_PORTS: [u16; 5] = [3784, 3785, 4784, 6784, 7784];

/// Destination ports of a class that have a pool of their own.
pub const SPARED_PORTS: usize = 4;

/// Tokens, one pool for all CPUs, in units of [`TOKEN`](crate::rules::TOKEN) to a packet or byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pool {
    /// Tokens spent since ever, modulo 2^64: the program's own.
    pub spent: u64,
    /// Tokens that become available each jiffy.
    pub per_jiffy: u64,
    /// Tokens that may be saved up; 0: no packet is ever within it.
    pub burst: u64,
}

/// What is held against a class: an entry of an mmapable array, by class number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ceiling {
    /// The jiffy from which none of it counts: the daemon may have died.
    pub expires: u64,
    /// See [`flags`].
    pub flags: u32,
    /// Low 32 bits of the jiffy in which the daemon was woken last: the program's own.
    pub woken: u32,
    /// Packets that need not wake anybody.
    pub packets: Pool,
    /// Bytes that need not wake anybody.
    pub bytes: Pool,
    /// Packets that pass.
    pub police: Pool,
    /// Packets that pass beside those, of what is to be spared.
    pub spared: Pool,
    /// Destination ports that are to be spared; 0: none.
    pub ports: [u16; SPARED_PORTS],
}

const _: () = assert!(size_of::<Pool>() == 24);
const _: () = assert!(size_of::<Ceiling>() == 120);

/// Entries of the map.
pub const CEILINGS: usize = CLASS_SLOTS;
