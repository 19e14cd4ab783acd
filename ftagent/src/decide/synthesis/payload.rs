//! Bytes of payload that all packets of an attack have.

use super::Sample;
use crate::{decide::reservoir::HEAD, rule::Payload};

/// Bytes of a pattern: the kernel compares eight at a time, and there are few patterns.
const LONG: usize = 8;
/// Half a byte is constant from this share of the packets on.
const CONSTANT: f64 = 0.99;
/// Constant bits that make a pattern.
const BITS: u32 = 16;
/// Packets that are looked at.
const MOST: usize = 256;

/// Returns patterns that nearly all packets have: the one with most constant bits, and the first.
pub fn common(attack: &[&Sample]) -> Vec<Payload> {
    let heads: Vec<&[u8]> =
        attack.iter().step_by(attack.len().div_ceil(MOST).max(1)).map(|sample| sample.seen.head()).collect();
    if heads.len() < 16 {
        return Vec::new();
    }
    let (value, mask) = constants(&heads);
    let bits = |from: usize| {
        let window = mask.get(from..(from + LONG).min(HEAD)).unwrap_or_default();
        window.iter().map(|mask| mask.count_ones()).sum::<u32>()
    };
    let reach = reach(&heads);
    let last = reach.saturating_sub(LONG);
    let best = (0..=last).max_by_key(|from| (bits(*from), usize::MAX - from));
    let first = (0..=last).find(|from| bits(*from) >= BITS);
    let mut found: Vec<Payload> = Vec::new();
    for from in best.into_iter().chain(first) {
        let until = (from + LONG).min(reach);
        let pattern = pattern(from, value.get(from..until), mask.get(from..until));
        found.extend(pattern.filter(|pattern| !found.contains(pattern)));
    }
    found
}

/// Returns up to where nearly all payloads reach.
fn reach(heads: &[&[u8]]) -> usize {
    let mut lengths: Vec<usize> = heads.iter().map(|head| head.len()).collect();
    lengths.sort_unstable();
    lengths.get(lengths.len() / 100).copied().unwrap_or(0)
}

/// Returns for each place the bits that nearly all payloads have there, by halves of a byte.
fn constants(heads: &[&[u8]]) -> ([u8; HEAD], [u8; HEAD]) {
    let (mut value, mut mask) = ([0; HEAD], [0; HEAD]);
    let enough = (heads.len() as f64 * CONSTANT) as usize;
    for (at, (value, mask)) in value.iter_mut().zip(&mut mask).enumerate() {
        let mut counts = [[0usize; 16]; 2];
        for byte in heads.iter().filter_map(|head| head.get(at)) {
            for (half, shift) in counts.iter_mut().zip([4, 0]) {
                if let Some(count) = half.get_mut(usize::from(byte >> shift & 15)) {
                    *count += 1;
                }
            }
        }
        for (half, shift) in counts.iter().zip([4, 0]) {
            if let Some(found) = half.iter().position(|count| *count > 0 && *count >= enough) {
                *value |= (found as u8) << shift;
                *mask |= 15 << shift;
            }
        }
    }
    (value, mask)
}

fn pattern(from: usize, value: Option<&[u8]>, mask: Option<&[u8]>) -> Option<Payload> {
    let (value, mask) = (value?, mask?);
    let first = mask.iter().position(|mask| *mask != 0)?;
    let last = mask.iter().rposition(|mask| *mask != 0)?;
    let (value, mask) = (value.get(first..=last)?.to_vec(), mask.get(first..=last)?.to_vec());
    let bits: u32 = mask.iter().map(|mask| mask.count_ones()).sum();
    (bits >= BITS).then(|| Payload { offset: (from + first) as u16, value, mask })
}
