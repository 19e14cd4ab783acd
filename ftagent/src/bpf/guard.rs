//! The TCP guard from the host's side: what it is to do, and for which addresses and ports.

use std::{collections::BTreeSet, mem::offset_of, net::IpAddr};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData},
};
use ftagent_common::{
    abi::maps,
    guard::{Guard, OWN_ADDRESSES, OwnAddress, flags, port},
    rules::State,
};

use super::load::{LoadError, fd, io, map, open_map};
use crate::sys::mmap::MappedArray;

/// Ports there are.
const PORTS: usize = 65_536;

/// The guard in the kernel. What an earlier daemon armed stays armed until it is set anew.
#[derive(Debug)]
pub struct KernelGuard {
    guard: MappedArray<Guard>,
    ports: MappedArray<[u32; 2]>,
    own: HashMap<MapData, OwnAddress, u32>,
}

impl KernelGuard {
    /// Opens the maps of a loaded object.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn open(ebpf: &Ebpf) -> Result<Self, LoadError> {
        let guard = MappedArray::new(fd(ebpf, maps::GUARD)?, 1).map_err(io("mapping `guard`"))?;
        // Values of four bytes stand eight apart in an array: each is rounded up to that.
        let ports = MappedArray::new(fd(ebpf, maps::GUARD_PORTS)?, PORTS).map_err(io("mapping `guard_ports`"))?;
        let own = HashMap::try_from(Map::HashMap(open_map(ebpf, maps::OWN_ADDRESSES)?));
        Ok(Self { guard, ports, own: own.map_err(map(maps::OWN_ADDRESSES))? })
    }

    /// Returns what it does.
    pub fn get(&self) -> Guard {
        self.guard.get(0)
    }

    /// Says what it does; the flags come last, so that what they point at is there. What was spent
    /// of the answers stays spent.
    pub fn set(&mut self, guard: Guard) {
        let answers = offset_of!(Guard, answers);
        self.guard.store(0, answers + offset_of!(State, per_jiffy), guard.answers.per_jiffy);
        self.guard.store(0, answers + offset_of!(State, burst), guard.answers.burst);
        self.guard.store(0, answers + offset_of!(State, chunk), guard.answers.chunk);
        self.guard.store(0, offset_of!(Guard, mss4), guard.mss4);
        self.guard.store(0, offset_of!(Guard, mss6), guard.mss6);
        self.guard.store(0, offset_of!(Guard, expires), guard.expires);
        self.guard.store(0, offset_of!(Guard, flags), guard.flags);
    }

    /// Says until when it is armed: a jiffy.
    pub fn renew(&mut self, expires: u64) {
        self.guard.store(0, offset_of!(Guard, expires), expires);
    }

    /// Returns the bits of a port, see [`port`].
    pub fn port(&self, number: u16) -> u32 {
        self.ports.get(usize::from(number))[0]
    }

    /// Says what is done for a port.
    pub fn arm(&mut self, number: u16, bits: u32) {
        self.ports.store(usize::from(number), 0, bits);
    }

    /// Disarms everything, at once. The oracle goes on.
    pub fn disarm(&mut self) {
        let guard = self.guard.get(0);
        self.guard.store(0, offset_of!(Guard, flags), guard.flags & !flags::ARMED);
    }

    /// Says which addresses are this host's own. What is new is added before what is gone is
    /// removed.
    ///
    /// # Errors
    /// What the map says, also where there are more than [`OWN_ADDRESSES`].
    pub fn set_own(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), LoadError> {
        let wanted: BTreeSet<(u64, u64)> = addresses.into_iter().map(key).take(OWN_ADDRESSES as usize).collect();
        let present: Vec<OwnAddress> = self.own.keys().collect::<Result<_, _>>().map_err(map(maps::OWN_ADDRESSES))?;
        for (high, low) in &wanted {
            let address = OwnAddress { high: *high, low: *low };
            self.own.insert(address, 1, 0).map_err(map(maps::OWN_ADDRESSES))?;
        }
        for address in present.iter().filter(|address| !wanted.contains(&(address.high, address.low))) {
            self.own.remove(address).map_err(map(maps::OWN_ADDRESSES))?;
        }
        Ok(())
    }
}

fn key(address: IpAddr) -> (u64, u64) {
    let mapped = match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let bits = mapped.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

/// Returns the bits of a TCP listener's port: cookies, and state. `scale`: the window scale that the
/// kernel chooses for its connections, where that is known.
pub fn listener(scale: Option<u8>) -> u32 {
    port::SYN | port::STATE | scale.map_or(0, |scale| (u32::from(scale & 15) + 1) << port::SCALE_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_key() {
        assert_eq!(key(IpAddr::from([192, 0, 2, 1])), (0, OwnAddress::v4(0xc000_0201).low));
        let six = "2001:db8::1".parse().unwrap();
        assert_eq!(key(IpAddr::V6(six)), (0x2001_0db8_0000_0000, 1));
        let mapped: std::net::Ipv6Addr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(key(IpAddr::V6(mapped)), key(IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn a_scale_of_zero_is_known() {
        assert_eq!(listener(Some(0)) >> port::SCALE_SHIFT, 1);
        assert_eq!(listener(Some(14)) >> port::SCALE_SHIFT, 15);
        assert_eq!(listener(None) >> port::SCALE_SHIFT, 0);
    }
}
