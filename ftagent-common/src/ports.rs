//! What UDP ports say of a packet, as tables: a load instead of forty comparisons that a flood
//! from random ports would mispredict.

use crate::TrafficClass;

/// Ports that reflectors answer from, with the class each belongs to.
pub(crate) const REFLECTORS: [(u16, TrafficClass); 39] = {
    use TrafficClass::*;
    [
        (17, UdpSrcQotd),
        (19, UdpSrcChargen),
        (53, UdpSrcDns),
        (69, UdpSrcTftp),
        (111, UdpSrcPortmap),
        (123, UdpSrcNtp),
        (137, UdpSrcNetbios),
        (161, UdpSrcSnmp),
        (389, UdpSrcCldap),
        (427, UdpSrcSlp),
        (443, UdpSrcQuic),
        (500, UdpSrcIsakmp),
        (520, UdpSrcRip),
        (623, UdpSrcIpmi),
        (1194, UdpSrcOpenvpn),
        (1434, UdpSrcMssql),
        (1701, UdpSrcL2tp),
        (1900, UdpSrcSsdp),
        (3283, UdpSrcArd),
        (3478, UdpSrcStun),
        (3702, UdpSrcWsd),
        (4500, UdpSrcIsakmp),
        (5060, UdpSrcSip),
        (5353, UdpSrcMdns),
        (5683, UdpSrcCoap),
        (6881, UdpSrcBittorrent),
        (10001, UdpSrcUbiquiti),
        (10074, UdpSrcMitel),
        (11211, UdpSrcMemcached),
        (27015, UdpSrcSteam),
        (27960, UdpSrcQuake),
        (32410, UdpSrcPlex),
        (32411, UdpSrcPlex),
        (32412, UdpSrcPlex),
        (32413, UdpSrcPlex),
        (32414, UdpSrcPlex),
        (33848, UdpSrcJenkins),
        (37810, UdpSrcDvr),
        (47808, UdpSrcBacnet),
    ]
};

static BY_SOURCE: [Option<TrafficClass>; 65536] = {
    let mut table = [None; 65536];
    let mut i = 0;
    while i < REFLECTORS.len() {
        table[REFLECTORS[i].0 as usize] = Some(REFLECTORS[i].1);
        i += 1;
    }
    table
};

/// Returns the class that a UDP source port suggests.
#[inline(always)]
pub fn by_source(port: u16) -> Option<TrafficClass> {
    // A u16 cannot leave the table, so no bounds check is compiled.
    BY_SOURCE[port as usize]
}

/// UDP destination ports at which the first bytes of payload may open something: those that
/// `l4::opening` tells apart.
pub(crate) const OPENINGS: [u16; 7] = [53, 443, 500, 1194, 4500, 5060, 51820];

/// A bit for every port. 8 KiB each: floods to and from random ports leave them in the first-level
/// cache, which they would not do with a byte for every port.
type Ports = [u64; 1024];

static REFLECTING: Ports = {
    let mut ports = [0; 1024];
    let mut i = 0;
    while i < REFLECTORS.len() {
        ports[(REFLECTORS[i].0 >> 6) as usize] |= 1 << (REFLECTORS[i].0 & 63);
        i += 1;
    }
    ports
};

static OPENING: Ports = {
    let mut ports = [0; 1024];
    let mut i = 0;
    while i < OPENINGS.len() {
        ports[(OPENINGS[i] >> 6) as usize] |= 1 << (OPENINGS[i] & 63);
        i += 1;
    }
    ports
};

/// Returns whether neither port says anything about what a UDP packet is: the source is no
/// reflector's and nothing is opened at the destination.
#[inline(always)]
pub(crate) fn are_plain(source: u16, destination: u16) -> bool {
    let reflecting = REFLECTING[(source >> 6) as usize] >> (source & 63);
    let opening = OPENING[(destination >> 6) as usize] >> (destination & 63);
    (reflecting | opening) & 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_ports_are_those_without_a_meaning() {
        for port in 0..=u16::MAX {
            assert_eq!(are_plain(port, 40_000), by_source(port).is_none(), "from {port}");
            assert_eq!(are_plain(40_000, port), !OPENINGS.contains(&port), "to {port}");
        }
    }
}
