//! Changes addresses so that two which share a prefix still share one as long, and no other.
//!
//! The scheme is that of Crypto-PAn (Xu, Fan, Ammar and Moon, ICNP 2002): whether a bit is flipped depends on the
//! bits before it, by a keyed function; here that is SHA-256. Bits on the way to a prefix that means something of
//! its own are not flipped, so that what is private stays private. An address that shares some bits with such a
//! prefix therefore keeps these bits.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sha2::{Digest as _, Sha256};

/// Addresses that are remembered; more begin anew.
const REMEMBERED: usize = 1 << 20;

/// IPv4 prefixes that mean something, with their lengths: those bits stay as they are.
const V4: [(u32, u32); 10] = [
    (0x0000_0000, 32), // unspecified
    (0x0a00_0000, 8),  // private (RFC 1918)
    (0x6440_0000, 10), // shared (RFC 6598)
    (0x7f00_0000, 8),  // loopback
    (0xa9fe_0000, 16), // link-local
    (0xac10_0000, 12), // private
    (0xc0a8_0000, 16), // private
    (0xe000_0000, 4),  // multicast
    (0xf000_0000, 4),  // reserved
    (0xffff_ffff, 32), // limited broadcast
];
/// IPv6 prefixes that mean something.
const V6: [(u128, u32); 5] = [
    (0, 128),                                        // unspecified
    (1, 128),                                        // loopback
    (0xfc00_0000_0000_0000_0000_0000_0000_0000, 7),  // unique local
    (0xfe80_0000_0000_0000_0000_0000_0000_0000, 10), // link-local
    (0xff00_0000_0000_0000_0000_0000_0000_0000, 8),  // multicast
];

/// Changes addresses under one key.
#[derive(Debug)]
pub struct Scrambler {
    seed: u64,
    keyed: Sha256,
    known: HashMap<IpAddr, IpAddr>,
}

impl Scrambler {
    /// Makes one; `seed` keys the tables of cores.
    pub fn new(seed: u64, key: &[u8; 32]) -> Self {
        Self { seed, keyed: Sha256::new_with_prefix(key), known: HashMap::new() }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Changes an address.
    pub fn change(&mut self, address: IpAddr) -> IpAddr {
        if let Some(known) = self.known.get(&address) {
            return *known;
        }
        let changed = match address {
            IpAddr::V4(v4) => self.v4(v4).into(),
            // What is mapped is an IPv4 address in other clothes.
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => self.v4(v4).to_ipv6_mapped().into(),
                None => self.v6(v6).into(),
            },
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(address, changed);
        changed
    }

    fn v4(&self, address: Ipv4Addr) -> Ipv4Addr {
        if address.is_multicast() || address.is_loopback() {
            return address;
        }
        let bits = u128::from(address.to_bits()) << 96;
        let special = V4.map(|(prefix, length)| (u128::from(prefix) << 96, length));
        Ipv4Addr::from_bits((self.flip(bits, 32, &special) >> 96) as u32)
    }

    fn v6(&self, address: Ipv6Addr) -> Ipv6Addr {
        if address.is_multicast() || address.is_loopback() {
            return address;
        }
        Ipv6Addr::from_bits(self.flip(address.to_bits(), 128, &V6))
    }

    /// Flips the first `length` bits, each as the ones before it say.
    fn flip(&self, bits: u128, length: u32, special: &[(u128, u32)]) -> u128 {
        let mut flipped = bits;
        for at in 0..length {
            let before = if at == 0 { 0 } else { bits & (u128::MAX << (128 - at)) };
            let on_the_way = |(prefix, long): &(u128, u32)| *long > at && shares(*prefix, bits, at);
            if special.iter().any(on_the_way) {
                continue;
            }
            let mut hash = self.keyed.clone();
            hash.update([length as u8, at as u8]);
            hash.update(before.to_be_bytes());
            let flip = hash.finalize().first().is_some_and(|byte| byte & 1 == 1);
            flipped ^= u128::from(flip) << (127 - at);
        }
        flipped
    }
}

/// Returns whether two share their first bits.
fn shares(one: u128, other: u128, bits: u32) -> bool {
    bits == 0 || (one ^ other) >> (128 - bits) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shared(a: IpAddr, b: IpAddr) -> u32 {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => panic!("the family has changed"),
        }
    }

    fn class(address: IpAddr) -> (bool, bool, bool, bool, bool, bool) {
        let (private, local) = match address {
            IpAddr::V4(v4) => (v4.is_private(), v4.is_link_local() || v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unique_local(), v6.is_unicast_link_local()),
        };
        let canonical = address.to_canonical();
        (private, local, address.is_multicast(), address.is_loopback(), address.is_unspecified(), canonical.is_ipv4())
    }

    proptest! {
        #[test]
        fn prefixes_are_preserved_and_so_is_what_they_mean(a: u32, b: u32, near in 0u32..32, x: u128, y: u128, close in 0u32..128) {
            let mut scrambler = Scrambler::new(0, &[9; 32]);
            let pairs: [(IpAddr, IpAddr); 4] = [
                (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into()),
                (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(a ^ 1 << near).into()),
                (Ipv6Addr::from_bits(x).into(), Ipv6Addr::from_bits(y).into()),
                (Ipv6Addr::from_bits(x).into(), Ipv6Addr::from_bits(x ^ 1 << close).into()),
            ];
            for (a, b) in pairs {
                let (c, d) = (scrambler.change(a), scrambler.change(b));
                prop_assert_eq!(shared(a, b), shared(c, d), "{} {} -> {} {}", a, b, c, d);
                prop_assert_eq!((class(a), class(b)), (class(c), class(d)), "{} {} -> {} {}", a, b, c, d);
            }
        }
    }

    #[test]
    fn what_means_something_stays_what_it_is_and_nobody_stays_who_he_is() {
        let mut scrambler = Scrambler::new(0, &[7; 32]);
        for text in ["0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.251", "::", "::1", "ff02::fb"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(scrambler.change(address), address);
        }
        for text in ["10.1.2.3", "192.168.1.9", "172.20.1.1", "100.99.1.1", "fd00::1:2", "fe80::a", "::ffff:10.1.2.3"] {
            let address: IpAddr = text.parse().unwrap();
            let changed = scrambler.change(address);
            assert!(changed != address && class(changed) == class(address), "{address} {changed}");
        }
        let others = ["8.8.8.8", "151.101.1.1", "198.51.100.10", "2a00:1450::1", "2001:db8::10"];
        let mut second = Scrambler::new(0, &[8; 32]);
        for text in others {
            let address: IpAddr = text.parse().unwrap();
            assert_ne!(scrambler.change(address), address);
            assert_ne!(scrambler.change(address), second.change(address), "the key decides");
        }
    }
}
