//! What the kernel's own statistics and the socket table say of this host, as plain data.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Connections to one local TCP port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortSockets {
    /// The port.
    pub port: u16,
    /// Established connections.
    pub established: u32,
    /// Handshakes that are not completed (`SYN_RECV`).
    pub half_open: u32,
    /// Established for longer than [`HostSignals::STALLED_AGE_S`] and fewer than
    /// [`HostSignals::STALLED_BYTES`] received: how slow attacks hold connections.
    pub stalled: u32,
    /// Peers (by /24 or /64) of the stalled connections.
    pub stalled_peers: u32,
    /// The window scales that this host announced on these connections: a bit for each. 0 where
    /// none was seen; connections without scaling do not count.
    pub scales: u16,
}

impl PortSockets {
    /// Notes the window scale of a connection.
    pub fn note_scale(&mut self, scale: Option<u8>) {
        self.scales |= scale.map_or(0, |scale| 1 << (scale & 15));
    }

    /// Returns the window scale that the kernel chooses for this port; `None` where it is not
    /// known or differs from connection to connection.
    pub fn scale(&self) -> Option<u8> {
        (self.scales.count_ones() == 1).then(|| self.scales.trailing_zeros() as u8)
    }
}

/// Counts of one interval, from `/proc/net/netstat`, `/proc/net/snmp`, `/proc/net/snmp6` and
/// `INET_DIAG`. Counters that the kernel lacks are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSignals {
    /// Length of the interval, nanoseconds.
    pub interval_ns: u64,
    /// Handshakes that listeners accepted (`Tcp: PassiveOpens`).
    pub passive_opens: u64,
    /// Connections that this host began (`Tcp: ActiveOpens`).
    pub active_opens: u64,
    /// Handshakes that failed (`Tcp: AttemptFails`).
    pub attempt_fails: u64,
    /// Resets that this host sent (`Tcp: OutRsts`).
    pub resets_sent: u64,
    /// SYNs dropped because an accept queue was full (`TcpExt: ListenOverflows`).
    pub listen_overflows: u64,
    /// SYN cookies sent and those that came back valid (`TcpExt: SyncookiesSent`, `SyncookiesRecv`).
    pub cookies_sent: u64,
    /// See [`Self::cookies_sent`].
    pub cookies_received: u64,
    /// SYN queue overflows (`TcpExt: TCPReqQFullDoCookies` and `TCPReqQFullDrop`).
    pub request_queue_full: u64,
    /// UDP datagrams to ports without a socket (`Udp: NoPorts` and `Udp6NoPorts`).
    pub udp_no_ports: u64,
    /// UDP datagrams that reached a socket (`Udp: InDatagrams` and `Udp6InDatagrams`).
    pub udp_delivered: u64,
    /// UDP datagrams sent (`Udp: OutDatagrams` and `Udp6OutDatagrams`).
    pub udp_sent: u64,
    /// Packets that were lost before anybody saw them: rings and backlogs were full.
    pub packets_lost: u64,
    /// Share of the time that the busiest CPU spent in soft interrupts, in thousandths.
    pub softirq_permille: u16,
    /// TCP ports with connections, busiest first; `None` where the socket table was not read in
    /// this interval.
    pub ports: Option<Vec<PortSockets>>,
    /// Peers with an accepted TCP connection that has received data, or a connected UDP socket:
    /// /24 and /64 blocks, see [`block_of`]. `None` where not read.
    pub peers: Option<Vec<u64>>,
}

impl HostSignals {
    /// Seconds after which a connection with little data is stalled.
    pub const STALLED_AGE_S: u32 = 10;
    /// Bytes below which it has received little.
    pub const STALLED_BYTES: u64 = 2048;

    /// Packets lost in a second from which on this host suffers.
    const LOSES: f64 = 50.0;
    /// Thousandths of a CPU in soft interrupts from which on it does.
    const SATURATED: u16 = 900;

    /// Returns whether this host takes more packets than it can.
    pub fn is_strained(&self) -> bool {
        let seconds = (self.interval_ns as f64 / 1e9).max(0.05);
        self.packets_lost as f64 >= Self::LOSES * seconds || self.softirq_permille >= Self::SATURATED
    }

    /// Joins what was read in the interval before this one, that nobody took, to this one.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        let sums = [
            (&mut self.interval_ns, earlier.interval_ns),
            (&mut self.passive_opens, earlier.passive_opens),
            (&mut self.active_opens, earlier.active_opens),
            (&mut self.attempt_fails, earlier.attempt_fails),
            (&mut self.resets_sent, earlier.resets_sent),
            (&mut self.listen_overflows, earlier.listen_overflows),
            (&mut self.cookies_sent, earlier.cookies_sent),
            (&mut self.cookies_received, earlier.cookies_received),
            (&mut self.request_queue_full, earlier.request_queue_full),
            (&mut self.udp_no_ports, earlier.udp_no_ports),
            (&mut self.udp_delivered, earlier.udp_delivered),
            (&mut self.udp_sent, earlier.udp_sent),
            (&mut self.packets_lost, earlier.packets_lost),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.softirq_permille = self.softirq_permille.max(earlier.softirq_permille);
        self.ports = self.ports.or(earlier.ports);
        self.peers = self.peers.or(earlier.peers);
        self
    }
}

/// Returns the block that an address belongs to, as a key: the /24 of IPv4, the /64 of IPv6. The
/// top bit tells the families apart, at the price of the first bit of an IPv6 address, which no
/// global unicast address has set (RFC 4291, section 2.4).
pub fn block_of(address: IpAddr) -> u64 {
    const V6: u64 = 1 << 63;
    let of_v6 = |address: Ipv6Addr| V6 | (address.to_bits() >> 64) as u64;
    match address.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
        IpAddr::V6(address) => of_v6(address),
    }
}

/// Returns the first address of a block, by its key.
pub fn address_of(block: u64) -> IpAddr {
    const V6: u64 = 1 << 63;
    if block & V6 == 0 {
        return Ipv4Addr::from_bits((block << 8) as u32).into();
    }
    // The bit that tells the families apart is one's own in what is local (RFC 4291, RFC 4193).
    let local = Ipv6Addr::from_bits(u128::from(block) << 64);
    if local.is_unique_local() || local.is_unicast_link_local() {
        return local.into();
    }
    Ipv6Addr::from_bits(u128::from(block & !V6) << 64).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_that_of_its_first_address() {
        for (any, first) in [
            ("192.0.2.77", "192.0.2.0"),
            ("255.255.255.255", "255.255.255.0"),
            ("2001:db8:1:2::9", "2001:db8:1:2::"),
            ("2000::1", "2000::"),
            ("fd00::5:0:0:0:1", "fd00:0:0:5::"),
            ("fe80::1", "fe80::"),
        ] {
            let (any, first): (IpAddr, IpAddr) = (any.parse().unwrap(), first.parse().unwrap());
            assert_eq!((address_of(block_of(any)), block_of(first)), (first, block_of(any)), "{any}");
        }
    }

    #[test]
    fn addresses_of_one_block_have_one_key() {
        let cases = [
            ("192.0.2.1", "192.0.2.255", true),
            ("192.0.2.1", "192.0.3.1", false),
            ("192.0.2.1", "::ffff:192.0.2.9", true),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.9", true),
            ("192.0.2.1", "192.0.2.254", true),
            ("0.0.0.0", "::2", false),
        ];
        for (a, b, same) in cases {
            let [a, b] = [a, b].map(|address| block_of(address.parse().unwrap()));
            assert_eq!(a == b, same, "{a:x} {b:x}");
        }
    }

    #[test]
    fn what_nobody_took_is_not_lost() {
        let earlier = HostSignals { interval_ns: 2, udp_sent: 5, peers: Some(vec![1]), ..HostSignals::default() };
        let later = HostSignals { interval_ns: 3, udp_sent: 7, ..HostSignals::default() };
        let both = later.after(earlier);
        assert_eq!((both.interval_ns, both.udp_sent, both.peers, both.ports), (5, 12, Some(vec![1]), None));
    }
}
