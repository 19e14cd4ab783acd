//! The way back to whom a SYN came from.

use super::{AF_INET, AF_INET6, Place, TCP};

/// `struct bpf_fib_lookup` (uapi/linux/bpf.h), without the parts that are not used here.
#[repr(C)]
pub struct Route {
    family: u8,
    protocol: u8,
    _ports: [u16; 2],
    _length: u16,
    pub ifindex: u32,
    _tos: u32,
    src: [u32; 4],
    dst: [u32; 4],
    _vlan: [u16; 2],
    pub smac: [u8; 6],
    pub dmac: [u8; 6],
}

const _: () = assert!(size_of::<Route>() == 64);

impl Route {
    /// Asks for the way from the packet's destination to its source.
    #[inline(always)]
    pub fn back(&mut self, ip: &[u8; 40], place: Place, device: u32) {
        let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        (self.src, self.dst) = if place.v6 {
            ([word(24), word(28), word(32), word(36)], [word(8), word(12), word(16), word(20)])
        } else {
            ([word(16), 0, 0, 0], [word(12), 0, 0, 0])
        };
        (self.family, self.protocol) = (if place.v6 { AF_INET6 } else { AF_INET }, TCP);
        (self._ports, self._length, self._tos, self._vlan) = ([0; 2], 0, 0, [0; 2]);
        self.ifindex = device;
    }
}
