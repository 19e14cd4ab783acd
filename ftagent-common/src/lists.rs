//! Block and allow lists: keys, entries, and the prefilter in front of them.
//!
//! An address list is one hash per family keyed by prefix *and* length, probed once for every
//! length in use. In front of it stands a prefilter without false negatives, so that a source
//! that is not listed costs one or two array reads:
//!
//! * IPv4: two bits for every /24. [`EXACT`] says that a single address inside it is listed,
//!   [`PREFIX`] that a prefix of any other length touches it. A hashed bit for every listed address
//!   then tells its neighbours from it: with a million addresses one source in sixteen shares a
//!   /24 with one of them, and a lookup among a million misses every cache. In front of both
//!   stands one bit for every /16 that a listed prefix touches: 8 KiB that stay in the first-level
//!   cache, where a source at random misses it in the 4 MiB of the /24s.
//! * IPv6: one hashed bit for the /48 around every prefix of /48 or longer, one hashed bit for
//!   the /32 around every prefix of /32 to /47, and a flag that skips the filter while a prefix
//!   shorter than /32 is listed.
//!
//! The filter is kept twice ("halves"): the daemon builds one while the kernel reads the other.

/// IPv4 prefilter bit: the /24 contains a listed address (/32).
pub const EXACT: u32 = 1;
/// IPv4 prefilter bit: a listed prefix of another length covers the /24 or lies inside it.
pub const PREFIX: u32 = 2;
/// IPv6 prefilter bit: the /48 contains an entry of /48 or longer.
pub const LONG: u32 = 1;
/// IPv6 prefilter bit: an entry of /32 to /47 may cover the address.
pub const SHORT: u32 = 2;

/// 64-bit words of one half of the IPv4 filter that hold two bits for each of 2^24 networks.
pub const FILTER4_NET_WORDS: u32 = (1 << 24) / 32;
/// Bits of the hash that selects a bit for an IPv4 address.
const FILTER4_HOST_BITS: u32 = 24;
/// 64-bit words in one half of the IPv4 filter.
pub const FILTER4_WORDS: u32 = FILTER4_WIDE_START + (1 << 16) / 64;
/// Where the bits of the /16s begin in one half of the IPv4 filter, 64-bit words.
const FILTER4_WIDE_START: u32 = FILTER4_NET_WORDS + (1 << FILTER4_HOST_BITS) / 64;
/// Bits of the hash that selects a bit for a /48.
const FILTER6_LONG_BITS: u32 = 23;
/// Bits of the hash that selects a bit for a /32.
const FILTER6_SHORT_BITS: u32 = 16;
/// 64-bit words of one half of the IPv6 filter that hold the bits of /48s.
pub const FILTER6_LONG_WORDS: u32 = (1 << FILTER6_LONG_BITS) / 64;
/// 64-bit words in one half of the IPv6 filter.
pub const FILTER6_WORDS: u32 = FILTER6_LONG_WORDS + (1 << FILTER6_SHORT_BITS) / 64;

/// An IPv4 prefix as the key of a list. Host bits must be clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key4 {
    /// The network address as a number (host byte order).
    pub network: u32,
    /// The prefix length, 0 to 32.
    pub length: u32,
}

/// An IPv6 prefix as the key of a list. Host bits must be clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key6 {
    /// The upper 64 bits of the network address as a number (host byte order).
    pub high: u64,
    /// The lower 64 bits.
    pub low: u64,
    /// The prefix length, 0 to 128.
    pub length: u32,
    /// Reserved, 0.
    pub _pad: u32,
}

/// What a list says of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListEntry {
    /// The jiffy from which the entry no longer counts; 0: it shares
    /// [`crate::abi::Control::feed_expires`].
    pub expires: u64,
    /// Which list the entry came from (an index that the daemon gives out).
    pub origin: u32,
    /// The low 32 bits of the jiffy in which it last matched; 0: never.
    pub last_match: u32,
}

const _: () = assert!(size_of::<Key4>() == 8 && size_of::<Key6>() == 24 && size_of::<ListEntry>() == 16);

/// Room for prefix lengths in [`Lengths`]: IPv6 has 129.
pub const LENGTH_SLOTS: usize = 132;

/// The prefix lengths in use in one list, in the order in which they are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Lengths {
    /// How many of `lengths` count.
    pub count: u32,
    /// The lengths.
    pub lengths: [u8; LENGTH_SLOTS],
}

const _: () = assert!(size_of::<Lengths>() == 136);

impl Lengths {
    /// No length in use.
    pub const EMPTY: Self = Self { count: 0, lengths: [0; LENGTH_SLOTS] };
}

impl Key4 {
    /// Returns the key of the prefix of `length` bits (at most 32) around `address`.
    #[inline(always)]
    pub const fn around(address: u32, length: u32) -> Self {
        Self { network: address & mask4(length), length }
    }
}

impl Key6 {
    /// Returns the key of the prefix of `length` bits (at most 128) around the address.
    #[inline(always)]
    pub const fn around(high: u64, low: u64, length: u32) -> Self {
        let (mask_high, mask_low) = mask6(length);
        Self { high: high & mask_high, low: low & mask_low, length, _pad: 0 }
    }
}

/// Returns the netmask of a prefix length; anything above 32 counts as 32.
///
/// Shifts of 64-bit numbers and no branches for the lengths in between: the verifier would
/// follow each branch of every probe.
#[inline(always)]
pub const fn mask4(length: u32) -> u32 {
    let length = if length > 32 { 32 } else { length };
    ((0xffff_ffff_0000_0000_u64 >> length) & 0xffff_ffff) as u32
}

/// Returns the netmask of a prefix length in two halves; anything above 128 counts as 128.
#[inline(always)]
pub const fn mask6(length: u32) -> (u64, u64) {
    if length <= 64 { (mask64(length), 0) } else { (u64::MAX, mask64(length - 64)) }
}

/// The upper `length` bits of 64; two shifts, because a shift by 64 is undefined.
#[inline(always)]
const fn mask64(length: u32) -> u64 {
    let length = if length > 64 { 64 } else { length };
    !((u64::MAX >> (length / 2)) >> (length - length / 2))
}

/// Returns where the bit of an IPv4 address's /16 is: the word within a half, and the shift.
#[inline(always)]
pub const fn filter4_wide(address: u32) -> (u32, u32) {
    let net16 = address >> 16;
    (FILTER4_WIDE_START + (net16 >> 6), net16 & 63)
}

/// Returns where the hashed bit of an IPv4 address is: the word within a half, and the shift.
#[inline(always)]
pub const fn filter4_host(address: u32) -> (u32, u32) {
    let bit = hash(address as u64, FILTER4_HOST_BITS);
    (FILTER4_NET_WORDS + (bit >> 6), bit & 63)
}

/// Returns where the two bits of an IPv4 address's /24 are: the word within a half, and the shift.
#[inline(always)]
pub const fn filter4(address: u32) -> (u32, u32) {
    let net24 = address >> 8;
    (net24 >> 5, (net24 & 31) * 2)
}

/// Returns where the bit of an address's /48 is: the word within a half, and the shift.
#[inline(always)]
pub const fn filter6_long(high: u64) -> (u32, u32) {
    let bit = hash(high >> 16, FILTER6_LONG_BITS);
    (bit >> 6, bit & 63)
}

/// Returns where the bit of an address's /32 is: the word within a half, and the shift.
#[inline(always)]
pub const fn filter6_short(high: u64) -> (u32, u32) {
    let bit = hash(high >> 32, FILTER6_SHORT_BITS);
    (FILTER6_LONG_WORDS + (bit >> 6), bit & 63)
}

/// Multiplicative hashing (Knuth, TAOCP 3, 6.4) to the top `bits` bits.
#[inline(always)]
const fn hash(value: u64, bits: u32) -> u32 {
    ((value ^ (value >> 24)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - bits)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn masks_at_the_edges() {
        let cases4 = [(0, 0), (1, 1 << 31), (24, 0xffff_ff00), (31, 0xffff_fffe), (32, u32::MAX), (99, u32::MAX)];
        for (length, mask) in cases4 {
            assert_eq!(mask4(length), mask, "/{length}");
        }
        for length in 0..=128 {
            let (high, low) = mask6(length);
            assert_eq!(high.count_ones() + low.count_ones(), length, "/{length}");
            assert_eq!(high.leading_ones() + if high == u64::MAX { low.leading_ones() } else { 0 }, length);
        }
    }

    proptest! {
        #[test]
        fn filter_positions_stay_inside_a_half(address: u32, high: u64) {
            prop_assert!(filter4(address).0 < FILTER4_NET_WORDS && filter4(address).1 < 64);
            prop_assert!((FILTER4_NET_WORDS..FILTER4_WIDE_START).contains(&filter4_host(address).0));
            prop_assert!((FILTER4_WIDE_START..FILTER4_WORDS).contains(&filter4_wide(address).0));
            prop_assert!(filter6_long(high).0 < FILTER6_LONG_WORDS);
            prop_assert!((FILTER6_LONG_WORDS..FILTER6_WORDS).contains(&filter6_short(high).0));
        }

        /// The filter has no false negatives: a covered address selects the bit of its prefix.
        #[test]
        fn covered_addresses_share_the_prefix_bit(high: u64, low: u64, length in 32u32..=128, noise: u128) {
            let key = Key6::around(high, low, length);
            let keep = (u128::from(mask6(length).0) << 64) | u128::from(mask6(length).1);
            let covered = ((u128::from(key.high) << 64) | u128::from(key.low)) | (noise & !keep);
            let covered_high = (covered >> 64) as u64;
            if length >= 48 {
                prop_assert_eq!(filter6_long(covered_high), filter6_long(key.high));
            } else {
                prop_assert_eq!(filter6_short(covered_high), filter6_short(key.high));
            }
        }
    }
}
