//! Hierarchical heavy hitters: the most specific prefixes that hold a considerable share, without
//! what longer ones among them hold already.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::analyst::Seen;
use super::Share;

/// Share from which a prefix is reported.
const LEAST: f64 = 0.05;
/// The shortest prefixes that say something.
const SHORTEST: [u32; 2] = [8, 32];
/// Prefixes that are reported.
const MOST: usize = 8;

/// Which end of the packets is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Returns the heavy prefixes, heaviest first, and how many different addresses there are.
pub fn prefixes(list: &[&Seen], end: End) -> (Vec<Share>, usize) {
    let address = |seen: &&Seen| {
        let (src, dst) = seen.packet.ends?;
        Some((if end == End::Source { src } else { dst }, seen.weight))
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (address, weight) in list.iter().filter_map(address) {
        match address {
            IpAddr::V4(v4_address) => v4.push((u128::from(v4_address.to_bits()) << 96, weight)),
            IpAddr::V6(v6_address) => v6.push((v6_address.to_bits(), weight)),
        }
    }
    let total: f64 = v4.iter().chain(&v6).map(|(_, weight)| weight).sum();
    let mut found = Vec::new();
    let mut distinct = 0;
    for (mut of_family, is_v6) in [(v4, false), (v6, true)] {
        of_family.sort_unstable_by_key(|(address, _)| *address);
        distinct += different(&of_family);
        let mut search = Search { least: total * LEAST, is_v6, found: Vec::new() };
        search.descend(&of_family, 0);
        found.extend(search.found);
    }
    found.sort_by(|a: &(String, f64), b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    found.truncate(MOST);
    let share = |(value, weight)| Share { value, share: weight / total.max(f64::MIN_POSITIVE) };
    (found.into_iter().map(share).collect(), distinct)
}

fn different(sorted: &[(u128, f64)]) -> usize {
    let changes = sorted.windows(2).filter(|pair| matches!(pair, [a, b] if a.0 != b.0)).count();
    changes + usize::from(!sorted.is_empty())
}

struct Search {
    least: f64,
    is_v6: bool,
    found: Vec<(String, f64)>,
}

impl Search {
    /// Looks at addresses that share `bits` leading bits; returns the weight that is reported.
    fn descend(&mut self, sorted: &[(u128, f64)], bits: u32) -> f64 {
        let weight: f64 = sorted.iter().map(|(_, weight)| weight).sum();
        let (Some((first, _)), Some((last, _))) = (sorted.first(), sorted.last()) else { return 0.0 };
        if weight < self.least || self.least <= 0.0 {
            return 0.0;
        }
        // Straight to the longest prefix that all of them share.
        let common = (first ^ last).leading_zeros().min(if self.is_v6 { 128 } else { 32 }).max(bits);
        let full = if self.is_v6 { 128 } else { 32 };
        let mut reported = 0.0;
        if common < full {
            let middle = sorted.partition_point(|(address, _)| address >> (127 - common) & 1 == 0);
            let (low, high) = sorted.split_at(middle);
            reported = self.descend(low, common + 1) + self.descend(high, common + 1);
        }
        let own = weight - reported;
        let shortest = if self.is_v6 { SHORTEST[1] } else { SHORTEST[0] };
        if own < self.least || common < shortest {
            return reported;
        }
        self.found.push((name(*first, common, self.is_v6), own));
        weight
    }
}

fn name(address: u128, length: u32, is_v6: bool) -> String {
    let kept = if length == 0 { 0 } else { address & (u128::MAX << (128 - length)) };
    if is_v6 {
        format!("{}/{length}", Ipv6Addr::from_bits(kept))
    } else {
        format!("{}/{length}", Ipv4Addr::from_bits((kept >> 96) as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(addresses: &[([u8; 4], f64)]) -> Vec<(String, f64)> {
        let mut sorted: Vec<_> =
            addresses.iter().map(|(octets, weight)| (u128::from(u32::from_be_bytes(*octets)) << 96, *weight)).collect();
        sorted.sort_unstable_by_key(|(address, _)| *address);
        let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
        let mut search = Search { least: total * 0.1, is_v6: false, found: Vec::new() };
        search.descend(&sorted, 0);
        search.found
    }

    #[test]
    fn the_most_specific_prefixes_are_reported_without_what_is_inside() {
        let one = search(&[([192, 0, 2, 1], 10.0)]);
        assert_eq!(one, [("192.0.2.1/32".to_owned(), 10.0)]);
        let many: Vec<_> = (0..64).map(|i| ([192, 0, 2, i], 1.0)).collect();
        assert_eq!(
            search(&many),
            [
                ("192.0.2.0/29".to_owned(), 8.0),
                ("192.0.2.8/29".to_owned(), 8.0),
                ("192.0.2.16/29".to_owned(), 8.0),
                ("192.0.2.24/29".to_owned(), 8.0),
                ("192.0.2.32/29".to_owned(), 8.0),
                ("192.0.2.40/29".to_owned(), 8.0),
                ("192.0.2.48/29".to_owned(), 8.0),
                ("192.0.2.56/29".to_owned(), 8.0),
            ]
        );
        let mixed: Vec<_> =
            (0..100u8).map(|i| ([i.wrapping_mul(37), i, 3, 4], 1.0)).chain([([9, 9, 9, 9], 50.0)]).collect();
        let found = search(&mixed);
        assert!(found.contains(&("9.9.9.9/32".to_owned(), 50.0)), "{found:?}");
    }
}
