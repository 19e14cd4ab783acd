//! Which interval of a dimension an address is in.
//!
//! A search with several comparisons at each level, which do not wait for each other. No branch depends on
//! the address: the sources of a flood cannot be predicted, and the verifier would follow both
//! sides of each.
#![expect(unsafe_code, reason = "keeps the compiler from making a branch of a subtraction")]

use core::arch::asm;

use ftagent_common::rules::{BOUNDS, Bits, Intervals4, Intervals6, limbs};

/// What an address is compared with.
trait Ends {
    /// Returns 1 where the end with a number is not behind the address, 0 otherwise.
    fn is_reached(&self, end: usize) -> usize;
}

struct Ends4<'a>(&'a [u32; BOUNDS], u64);
/// The highest limbs of IPv6 addresses.
struct Tops<'a>(&'a [u64; BOUNDS], u64);
struct Ends6<'a>(&'a Intervals6, [u64; 3]);

impl Ends for Ends4<'_> {
    #[inline(always)]
    fn is_reached(&self, end: usize) -> usize {
        // There always is one; neither the compiler nor the verifier minds the question.
        let Some(end) = self.0.get(end) else { return 0 };
        sign((*end as u64).wrapping_sub(self.1 + 1))
    }
}

impl Ends for Tops<'_> {
    #[inline(always)]
    fn is_reached(&self, end: usize) -> usize {
        let Some(end) = self.0.get(end) else { return 0 };
        sign(end.wrapping_sub(self.1 + 1))
    }
}

impl Ends for Ends6<'_> {
    #[inline(always)]
    fn is_reached(&self, end: usize) -> usize {
        let (Some(end_high), Some([end_middle, end_low])) = (self.0.tops.get(end), self.0.rests.get(end)) else {
            return 0;
        };
        let [high, middle, low] = self.1;
        // The borrow of a subtraction of three limbs.
        let borrow = sign_mask(low.wrapping_sub(*end_low));
        let borrow = sign_mask(middle.wrapping_sub(*end_middle).wrapping_add(borrow));
        1 - sign(high.wrapping_sub(*end_high).wrapping_add(borrow))
    }
}

/// Returns the highest bit as a number.
#[inline(always)]
fn sign(mut difference: u64) -> usize {
    // SAFETY: one instruction on a register. In Rust it would become a comparison and a branch.
    unsafe { asm!("{0} >>= 63", inout(reg) difference, options(pure, nomem, nostack)) };
    difference as usize
}

/// Returns the highest bit in all places.
#[inline(always)]
fn sign_mask(mut difference: u64) -> u64 {
    // SAFETY: as above.
    unsafe { asm!("{0} s>>= 63", inout(reg) difference, options(pure, nomem, nostack)) };
    difference
}

/// Returns how many of three ends are reached, the first at `from`, the others each `stride` on.
#[inline(always)]
fn of_three(ends: &impl Ends, from: usize, stride: usize) -> usize {
    ends.is_reached(from) + ends.is_reached(from + stride) + ends.is_reached(from + 2 * stride)
}

/// The same of seven.
#[inline(always)]
fn of_seven(ends: &impl Ends, from: usize, stride: usize) -> usize {
    of_three(ends, from, stride) + ends.is_reached(from + 3 * stride) + of_three(ends, from + 4 * stride, stride)
}

/// Returns how many ends are reached; `count` are in use.
#[inline(always)]
fn reached(ends: &impl Ends, count: u32) -> usize {
    let mut behind = 0;
    if count >= 64 {
        behind = of_seven(ends, 63, 64) * 64;
    }
    if count >= 8 {
        behind += of_seven(ends, behind + 7, 8) * 8;
    }
    behind += of_seven(ends, behind, 1);
    // The levels tell 511 ends apart; there may be one more.
    behind + ends.is_reached(behind)
}

/// Finds the rules of the interval of an address; `count` ends are in use.
#[inline(always)]
pub fn interval4(dimension: &Intervals4, count: u32, address: u64) -> Option<&Bits> {
    dimension.rules.get(reached(&Ends4(&dimension.bounds, address), count))
}

/// See [`interval4`]. A comparison of whole addresses is dear: one tells whether the highest limbs
/// alone were enough, and only in the network of an end that is not reached they are not.
#[inline(always)]
pub fn interval6(dimension: &Intervals6, count: u32, (high, low): (u64, u64)) -> Option<&Bits> {
    let limbs = limbs(high, low);
    let ends = &Ends6(dimension, limbs);
    let mut behind = reached(&Tops(&dimension.tops, limbs[0]), count);
    if behind != 0 && ends.is_reached(behind - 1) == 0 {
        behind = reached_dearly(ends, count);
    }
    dimension.rules.get(behind)
}

/// See [`reached`]: four-ary, but for the last level.
#[inline(always)]
fn reached_dearly(ends: &impl Ends, count: u32) -> usize {
    let mut behind = 0;
    if count >= 128 {
        behind = of_three(ends, 127, 128) * 128;
    }
    if count >= 32 {
        behind += of_three(ends, behind + 31, 32) * 32;
    }
    if count >= 8 {
        behind += of_three(ends, behind + 7, 8) * 8;
    }
    behind += of_seven(ends, behind, 1);
    behind + ends.is_reached(behind)
}

const _: () = assert!(BOUNDS == 512);
