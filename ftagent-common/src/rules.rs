//! Signature rules: what of a packet they look at, and the table they are compiled into.
//!
//! Rules are matched by bit vectors (Lakshman and Stiliadis, SIGCOMM 1998): each dimension is
//! looked up once and yields the set of rules that it satisfies; the sets are intersected, and the
//! first rule of what remains decides. Rules stand in the table in the order in which they are
//! tried: a rule's *bit* is its place in this order, its *slot* is where its state and counters
//! are, which stays the same while it lives.

/// Rules that can be in force at one time.
pub const RULES: usize = 256;
/// Words of a set of rules.
pub const WORDS: usize = RULES / 64;
/// Classes of values that a dimension of 65 536 values is divided into at most: two ends for each
/// range, and the class of packets that have no such field.
pub const VALUE_CLASSES: usize = 640;
/// Ends of address ranges in a dimension at most: two for each prefix.
pub const BOUNDS: usize = 512;
/// Payload patterns of all rules together.
pub const PATTERNS: usize = 16;
/// A pattern ends within so many bytes of payload.
pub const PATTERN_REACH: u16 = 64;

/// A set of rules, by bit.
pub type Bits = [u64; WORDS];

/// The index of a packet without the field, in dimensions of 256 values.
pub const ABSENT: usize = 256;

/// Fragment bits of RFC 8955, 4.2.2.12, as a packet has them.
pub mod fragment {
    /// Don't fragment (IPv4).
    pub const DONT: u8 = 1;
    /// A fragment other than the first.
    pub const IS: u8 = 2;
    /// The first fragment.
    pub const FIRST: u8 = 4;
    /// The last fragment.
    pub const LAST: u8 = 8;
}

/// What rules look at, addresses aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(serde::Serialize, serde::Deserialize))]
#[repr(C)]
pub struct Key {
    /// Total length of the IP packet, bytes.
    pub len: u16,
    /// Source port; valid with [`has::PORTS`].
    pub sport: u16,
    /// Destination port; valid with [`has::PORTS`].
    pub dport: u16,
    /// Offset of the payload in the frame; valid with [`has::PAYLOAD`].
    pub payload: u16,
    /// The protocol behind extension headers.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP, six bits.
    pub dscp: u8,
    /// Bits of [`fragment`].
    pub fragment: u8,
    /// TCP flags; valid with [`has::FLAGS`].
    pub flags: u8,
    /// ICMP type; valid with [`has::ICMP`].
    pub icmp_type: u8,
    /// ICMP code; valid with [`has::ICMP`].
    pub icmp_code: u8,
    /// Bits of [`has`].
    pub has: u8,
}

/// Fields that a packet has.
pub mod has {
    /// IP: without it no rule applies.
    pub const IP: u8 = 1;
    /// Ports of TCP or UDP. Fragments count as having none, the first too: the others could not
    /// be told to belong to it.
    pub const PORTS: u8 = 2;
    /// TCP flags.
    pub const FLAGS: u8 = 4;
    /// ICMP type and code.
    pub const ICMP: u8 = 8;
    /// A payload behind TCP, UDP, ICMP's eight bytes, or IP.
    pub const PAYLOAD: u8 = 16;
}

/// A payload pattern: eight bytes of which some are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pattern {
    /// The bytes, the first in the highest bits; clear where `mask` is.
    pub value: u64,
    /// Bits that are compared.
    pub mask: u64,
    /// The rules that need it. A longer pattern is several of one rule.
    pub rules: Bits,
    /// Where it begins in the payload.
    pub offset: u32,
    /// Bytes from there on that must be inside the IP packet, at least as many as `mask` looks at.
    pub bytes: u32,
}

/// Dimensions that rules ask for: bits of [`Table::uses`]. The others are not looked at.
pub mod uses {
    /// There is a rule, whatever it asks for.
    pub const ANY: u32 = 1;
    /// Source port.
    pub const SPORT: u32 = 1 << 1;
    /// Destination port.
    pub const DPORT: u32 = 1 << 2;
    /// Length.
    pub const LEN: u32 = 1 << 3;
    /// TCP flags.
    pub const FLAGS: u32 = 1 << 4;
    /// ICMP type or code.
    pub const ICMP: u32 = 1 << 5;
    /// TTL.
    pub const TTL: u32 = 1 << 6;
    /// DSCP.
    pub const DSCP: u32 = 1 << 7;
    /// Fragment bits.
    pub const FRAGMENT: u32 = 1 << 8;
}

/// A dimension of 65 536 values: a class for each value, and the rules that each class satisfies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Wide {
    /// Class by value.
    pub class: [u16; 65_536],
    /// Rules by class; class 0 is of packets that have no such field.
    pub rules: [Bits; VALUE_CLASSES],
}

/// A dimension of IPv4 addresses: intervals, found by binary search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Intervals4 {
    /// The first address of each interval but the first, in ascending order, host byte order;
    /// `u32::MAX` behind the last one, which is harmless because that address is in the last.
    pub bounds: [u32; BOUNDS],
    /// Rules by interval: one more than there are bounds.
    pub rules: [Bits; BOUNDS + 1],
}

/// A dimension of IPv6 addresses: see [`Intervals4`]. The highest bits nearly always decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Intervals6 {
    /// The highest limb of the first address of each interval but the first: see [`limbs`].
    pub tops: [u64; BOUNDS],
    /// The other limbs.
    pub rests: [[u64; 2]; BOUNDS],
    /// Rules by interval.
    pub rules: [Bits; BOUNDS + 1],
}

/// Cuts an IPv6 address into three numbers, the highest bits first, so small that a subtraction of
/// two tells by its sign which is larger. The first has all of a prefix of 63 bits.
#[inline(always)]
pub const fn limbs(high: u64, low: u64) -> [u64; 3] {
    [high >> 1, (high & 1) << 22 | low >> 42, low & 0x3ff_ffff_ffff]
}

/// A set of rules, compiled. There are two of them in the `rules` map; one is in force, the other
/// is where the next is built. One store of [`Control::rules`](crate::abi::Control::rules) flips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Table {
    /// Bits in use. A rule has one, or two where it asks for ports of either end.
    pub bits: u32,
    /// Ends of ranges in `src4`, `dst4`, `src6` and `dst6`.
    pub bounds: [u32; 4],
    /// Reserved, 0. Sets begin at multiples of 32 bytes: none lies in two cache lines.
    pub _pad: [u32; 3],
    /// Rules that need a pattern.
    pub patterned: Bits,
    /// Rules with a prefix in `src4`, `dst4`, `src6` and `dst6`.
    pub prefixed: [Bits; 4],
    /// Patterns; the unused ones have no rules.
    pub patterns: [Pattern; PATTERNS],
    /// The slot of each rule, by bit.
    pub slots: [u8; RULES],
    /// What the rules ask for that accept a protocol of IPv4 and of IPv6: see [`uses`].
    pub uses: [[u32; 256]; 2],
    /// By protocol, for IPv4 and for IPv6.
    pub proto: [[Bits; 256]; 2],
    /// By TTL.
    pub ttl: [Bits; 256],
    /// By DSCP.
    pub dscp: [Bits; 64],
    /// By fragment bits.
    pub fragment: [Bits; 16],
    /// By TCP flags, or [`ABSENT`].
    pub flags: [Bits; 257],
    /// By ICMP type, or [`ABSENT`].
    pub icmp_type: [Bits; 257],
    /// By ICMP code, or [`ABSENT`].
    pub icmp_code: [Bits; 257],
    /// By source port.
    pub sport: Wide,
    /// By destination port.
    pub dport: Wide,
    /// By length of the IP packet.
    pub len: Wide,
    /// By IPv4 source.
    pub src4: Intervals4,
    /// By IPv4 destination.
    pub dst4: Intervals4,
    /// By IPv6 source.
    pub src6: Intervals6,
    /// By IPv6 destination.
    pub dst6: Intervals6,
}

/// What a rule does: [`State::action`].
pub mod action {
    /// Nothing: count what matches, and go on with the next rule.
    pub const COUNT: u32 = 0;
    /// Drop.
    pub const DROP: u32 = 1;
    /// Drop what exceeds a rate in packets.
    pub const LIMIT_PACKETS: u32 = 2;
    /// Drop what exceeds a rate in bytes.
    pub const LIMIT_BYTES: u32 = 3;
    /// Have the guard answer SYNs to listeners of this host with cookies; everything else passes.
    pub const CHALLENGE: u32 = 4;
    /// Give the packet to whoever records, as long as it is, and go on with the next rule.
    pub const CAPTURE: u32 = 5;
}

/// Fixed point of tokens: this many to a packet or a byte.
pub const TOKEN: u64 = 1 << 16;
/// Most tokens in a jiffy; products of this and [`State::burst`] stay far from overflowing. At 250
/// jiffies a second it is some 2 Tbit/s.
pub const MAX_PER_JIFFY: u64 = 1 << 46;
/// A debt of tokens is at most the saved-up ones shifted by this: each CPU may overdraw by a chunk.
/// What is more than that is not a debt but another rate's account.
pub const DEBT_SHIFT: u32 = 6;

/// The state of a rule, by slot. The daemon writes all of it but `spent` and `last_match`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// The jiffy from which the rule no longer counts; 0: the slot is free.
    pub expires: u64,
    /// Tokens spent since ever, shared by all CPUs: atomic additions. Compared with `per_jiffy`
    /// times the jiffy, modulo 2^64.
    pub spent: u64,
    /// Tokens that become available each jiffy.
    pub per_jiffy: u64,
    /// Tokens that may be saved up.
    pub burst: u64,
    /// Tokens that a CPU takes at a time: at most a hundredth of a second's.
    pub chunk: u64,
    /// See [`action`].
    pub action: u32,
    /// Low 32 bits of the jiffy of the last match.
    pub last_match: u32,
}

/// What a rule did on one CPU, by slot. Only `lease` ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets that matched, dropped or not.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Bytes of those.
    pub dropped_bytes: u64,
    /// Tokens this CPU has taken and not spent.
    pub lease: u64,
}

/// All counters of one CPU: one array entry, read by one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// By slot.
    pub slots: [Counter; RULES],
    /// The program's own: what the verifier is to forget is written here and read again.
    pub scratch: Scratch,
}

/// See [`Counters::scratch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Scratch {
    /// What of a packet's facts cannot be read from it again.
    pub place: u64,
    /// The rules that are left.
    pub left: Bits,
}

impl Counters {
    /// Nothing matched.
    pub const ZERO: Self = Self {
        slots: [Counter { packets: 0, bytes: 0, dropped: 0, dropped_bytes: 0, lease: 0 }; RULES],
        scratch: Scratch { place: 0, left: [0; WORDS] },
    };
}

const _: () = assert!(size_of::<Key>() == 16 && size_of::<Pattern>() == 56 && size_of::<State>() == 48);
const _: () = assert!(size_of::<Counters>() == RULES * 40 + 40 && size_of::<Table>().is_multiple_of(32));
const _: () = assert!(core::mem::offset_of!(Table, proto).is_multiple_of(32));
const _: () = assert!(core::mem::offset_of!(Table, patterned).is_multiple_of(32));
// PCPU_MIN_UNIT_SIZE, as for the counters of an interface.
const _: () = assert!(size_of::<Counters>() < 32 * 1024);
