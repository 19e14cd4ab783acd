//! The contract between the kernel programs and the daemon: map names, their values, and the
//! number that changes whenever either does.

use crate::{class::CLASS_SLOTS, lists::Lengths};

/// Changes whenever a pinned map's name, type or layout does. Pins live in a directory named
/// after it, so a new daemon never reuses maps of another layout.
pub const ABI_VERSION: u32 = 6;

/// How many interfaces one daemon protects at most: entries of the [`maps::COUNTERS`] map.
pub const IFACE_SLOTS: u32 = 16;
/// Entries that operators and the daemon may block at one time, per family.
pub const BLOCK_ENTRIES: u32 = 262_144;
/// Entries of the allow list, per family.
pub const ALLOW_ENTRIES: u32 = 16_384;
/// Most extension headers the parser follows in an IPv6 packet; more is malformed.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Bytes of the sample ring. A power of two and a multiple of the page size.
pub const SAMPLE_RING_BYTES: u32 = 1 << 20;
/// Bytes of the capture ring: 50 ms of a gigabit.
pub const CAPTURE_RING_BYTES: u32 = 8 << 20;

/// The names of the maps, which are also the names of their pins.
pub mod maps {
    /// `PerCpuArray<IfaceCounters>`, one entry per interface slot.
    pub const COUNTERS: &str = "counters";
    /// `Array<Control>`, one entry, mmapable.
    pub const CONTROL: &str = "control";
    /// `Array<Sampling>`, one entry.
    pub const SAMPLING: &str = "sampling";
    /// `Array<u64>`: a bit for every UDP port that is a service.
    pub const SERVICE_PORTS: &str = "service_ports";
    /// `Array<u64>`, mmapable: both halves of the IPv4 prefilter.
    pub const FILTER4: &str = "filter4";
    /// `Array<u64>`, mmapable: both halves of the IPv6 prefilter.
    pub const FILTER6: &str = "filter6";
    /// `HashMap<Key4, ListEntry>`.
    pub const BLOCK4: &str = "block4";
    /// `HashMap<Key6, ListEntry>`.
    pub const BLOCK6: &str = "block6";
    /// `ArrayOfMaps<HashMap<Key4, ListEntry>>`, one inner map per half.
    pub const FEED4: &str = "feed4";
    /// `ArrayOfMaps<HashMap<Key6, ListEntry>>`, one inner map per half.
    pub const FEED6: &str = "feed6";
    /// `HashMap<Key4, ListEntry>`.
    pub const ALLOW4: &str = "allow4";
    /// `HashMap<Key6, ListEntry>`.
    pub const ALLOW6: &str = "allow6";
    /// `Array<Table>`, mmapable: both halves of the signature rules.
    pub const RULES: &str = "rules";
    /// `Array<State>`, mmapable: expiry and rate of each rule, by slot.
    pub const RULE_STATES: &str = "rule_states";
    /// `PerCpuArray<Counters>`, one entry: what each rule did, by slot.
    pub const RULE_COUNTERS: &str = "rule_counters";
    /// `RingBuf` of [`crate::sample::SampleRecord`].
    pub const SAMPLES: &str = "samples";
    /// `RingBuf` of packets as long as they are, see [`crate::sample::CAPTURE_BYTES`].
    pub const CAPTURES: &str = "captures";
    /// `Array<Guard>`, one entry, mmapable.
    pub const GUARD: &str = "guard";
    /// `Array<u32>`, mmapable: what the guard does for each local port, see [`crate::guard::port`].
    pub const GUARD_PORTS: &str = "guard_ports";
    /// `PerCpuArray`: the guard's memory for a packet; the program's own.
    pub const GUARD_SCRATCH: &str = "guard_scratch";
    /// `HashMap<OwnAddress, u32>`: this host's own addresses.
    pub const OWN_ADDRESSES: &str = "own_addresses";
    /// `Array<Ceiling>`, mmapable: what is held against each class, see [`crate::tripwire`].
    pub const CEILINGS: &str = "ceilings";
    /// `Array<SlotInfo>`: which interface owns a slot; the daemon's own, the program ignores it.
    pub const SLOTS: &str = "slots";
    /// `Array<Clock>`, one entry, mmapable: the program's clock in replay, and what the clock
    /// program reads otherwise.
    pub const CLOCK: &str = "clock";
}

/// Bits of [`Control::flags`].
pub mod flags {
    /// Something is in `block4`.
    pub const BLOCK4: u32 = 1 << 0;
    /// Something is in `block6`.
    pub const BLOCK6: u32 = 1 << 1;
    /// Something is in the active half of `feed4`.
    pub const FEED4: u32 = 1 << 2;
    /// Something is in the active half of `feed6`.
    pub const FEED6: u32 = 1 << 3;
    /// Something is in `allow4`.
    pub const ALLOW4: u32 = 1 << 4;
    /// Something is in `allow6`.
    pub const ALLOW6: u32 = 1 << 5;
    /// An IPv6 prefix shorter than /32 is listed: the filter cannot tell.
    pub const SHORT6: u32 = 1 << 6;
    /// Which half of filters and feeds is active.
    pub const HALF: u32 = 1 << 31;
}

/// Bits of [`Control::rules`].
pub mod rules {
    /// There is a rule.
    pub const ANY: u32 = 1 << 0;
    /// Which half of the `rules` map is in force.
    pub const HALF: u32 = 1 << 1;
}

/// Bits of [`Control::ceilings`].
pub mod ceilings {
    /// Classes that nobody has business in are policed.
    pub const NO_BUSINESS: u32 = 1 << 0;
    /// Other classes are.
    pub const OTHERS: u32 = 1 << 1;
}

/// What the daemon tells the program; read for every packet.
///
/// `flags` holds the active half too, so that one 32-bit store flips a whole generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// See [`flags`].
    pub flags: u32,
    /// The jiffy from which the entries of all feeds no longer count.
    pub feed_expires: u64,
    /// See [`rules`]. In the cache line of `flags`: both are read for every packet.
    pub rules: u32,
    /// See [`ceilings`]. In the same cache line too.
    pub ceilings: u32,
    /// Lengths in `block4`.
    pub block4: Lengths,
    /// Lengths in `block6`.
    pub block6: Lengths,
    /// Lengths in `feed4`, by half.
    pub feed4: [Lengths; 2],
    /// Lengths in `feed6`, by half.
    pub feed6: [Lengths; 2],
    /// Lengths in `allow4`.
    pub allow4: Lengths,
    /// Lengths in `allow6`.
    pub allow6: Lengths,
}

const _: () = assert!(size_of::<Control>() == 24 + 8 * 136);

impl Control {
    /// Lists nothing.
    pub const EMPTY: Self = Self {
        abi: ABI_VERSION,
        flags: 0,
        feed_expires: 0,
        rules: 0,
        ceilings: 0,
        block4: Lengths::EMPTY,
        block6: Lengths::EMPTY,
        feed4: [Lengths::EMPTY; 2],
        feed6: [Lengths::EMPTY; 2],
        allow4: Lengths::EMPTY,
        allow6: Lengths::EMPTY,
    };
}

/// How the sampler draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sampling {
    /// Mean stride by class: one packet in this many. 0 counts as 1.
    pub stride: [u32; CLASS_SLOTS],
    /// Samples of one class in one jiffy and CPU at most.
    pub burst: u32,
    /// Reserved, 0.
    pub _pad: u32,
}

const _: () = assert!(size_of::<Sampling>() == CLASS_SLOTS * 4 + 8);

/// Which interface owns a slot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotInfo {
    /// The interface index it had last; 0: the slot is free.
    pub ifindex: u32,
    /// Its name, NUL-padded (IFNAMSIZ is 16, the terminating NUL included).
    pub name: [u8; 16],
    /// Reserved, 0.
    pub _pad: u32,
}

const _: () = assert!(size_of::<SlotInfo>() == 24);

/// A reading of the kernel's clocks, or the program's clock in replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Clock {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub now_ns: u64,
    /// `jiffies64`.
    pub jiffies: u64,
    /// Seeds the sampler's generator in replay; must not be 0 there.
    pub dice: u64,
    /// What the socket table says of the packet in replay, where there is none: one of
    /// [`socket`](crate::guard::socket), and [`Clock::ROOM`].
    pub socket: u64,
}

impl Clock {
    /// In `socket`: the listener has room for another half-open request, so its SYN needs no cookie.
    pub const ROOM: u64 = 1 << 8;
}

const _: () = assert!(size_of::<Clock>() == 32);

/// How the counters of one ABI version are laid out: the value of a map that is pinned beside
/// them and never changes itself. A counter value is a header, the classes, then the drops by
/// class and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Layout {
    /// The ABI version.
    pub abi: u32,
    /// Classes there is room for.
    pub class_slots: u32,
    /// Reasons there is room for.
    pub reason_slots: u32,
    /// Bytes before the classes.
    pub header_bytes: u32,
}

const _: () = assert!(size_of::<Layout>() == 16);

/// Names of the `.rodata` globals that the loader sets before a program is verified, so that
/// what an interface does not use is removed from it.
pub mod globals {
    /// The interface's slot.
    pub const SLOT: &str = "SLOT";
    /// 1: clock and dice come from the `clock` map.
    pub const REPLAY: &str = "REPLAY";
    /// See [`super::features`].
    pub const FEATURES: &str = "FEATURES";
}

/// Bits of the `FEATURES` global.
pub mod features {
    /// Block and allow lists.
    pub const LISTS: u32 = 1 << 0;
    /// The sampler.
    pub const SAMPLER: u32 = 1 << 1;
    /// Signature rules.
    pub const RULES: u32 = 1 << 2;
    /// The TCP guard, and what the socket table says of samples.
    pub const GUARD: u32 = 1 << 3;
    /// The tripwire: what is too much of a class wakes the daemon, or is dropped.
    pub const TRIPWIRE: u32 = 1 << 4;
    /// Everything.
    pub const ALL: u32 = LISTS | SAMPLER | RULES | GUARD | TRIPWIRE;
}

/// Names of the programs in the object.
pub mod programs {
    /// The datapath.
    pub const DATAPATH: &str = "ftagent";
    /// Writes the kernel's clocks to the `clock` map when it is test-run; never attached.
    pub const CLOCK: &str = "ftagent_clock";
}

#[cfg(feature = "user")]
mod pod {
    // The types are `repr(C)`, have no implicit padding (asserted above and beside each) and
    // are valid for every bit pattern.
    macro_rules! pod {
        ($($t:ty),*) => { $(
            #[expect(unsafe_code, reason = "Pod is how aya moves a value through a map")]
            // SAFETY: `repr(C)`, no padding, any bit pattern is a value.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(
        super::Control,
        super::Sampling,
        super::SlotInfo,
        super::Clock,
        super::Layout,
        crate::lists::Key4,
        crate::lists::Key6,
        crate::lists::ListEntry,
        crate::lists::Lengths,
        crate::rules::Table,
        crate::rules::State,
        crate::rules::Counters,
        crate::counters::IfaceCounters,
        crate::guard::Guard,
        crate::guard::OwnAddress,
        crate::tripwire::Ceiling
    );
}
