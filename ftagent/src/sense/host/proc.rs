//! The formats of `/proc/net` and of the few files in `/etc` that matter. A line that does not
//! have the expected form is skipped: newer kernels may add to these files.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::DefaultRoute;

/// `TCP_ESTABLISHED`, include/net/tcp_states.h. UDP sockets that are connected use it too.
pub(super) const ESTABLISHED: u8 = 1;
/// `TCP_SYN_SENT`.
pub(super) const SYN_SENT: u8 = 2;
/// `TCP_CLOSE`: unconnected UDP sockets.
pub(super) const CLOSE: u8 = 7;
/// `TCP_LISTEN`.
pub(super) const LISTEN: u8 = 10;

// Route flags, include/uapi/linux/route.h and ipv6_route.h.
const RTF_UP: u32 = 0x1;
const RTF_GATEWAY: u32 = 0x2;
const RTF_REJECT: u32 = 0x200;
const RTF_LOCAL: u32 = 0x8000_0000;

/// A line of `/proc/net/{tcp,udp}{,6}`. Mapped IPv4 addresses are returned as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) local: IpAddr,
    pub(super) local_port: u16,
    pub(super) peer: IpAddr,
    pub(super) peer_port: u16,
    pub(super) state: u8,
}

/// Reads `/proc/net/{tcp,udp}{,6}` (net/ipv4/tcp_ipv4.c, `get_tcp4_sock`).
pub(super) fn sockets(lines: impl Iterator<Item = String>) -> impl Iterator<Item = Socket> {
    lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, local_port) = endpoint(words.next()?)?;
        let (peer, peer_port) = endpoint(words.next()?)?;
        let state = u8::from_str_radix(words.next()?, 16).ok()?;
        Some(Socket { local, local_port, peer, peer_port, state })
    })
}

/// Reads `0100007F:0016`: the address as 32-bit words in the host's byte order, then the port.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(address)?)),
        32 => {
            let mut bytes = [0; 16];
            for (chunk, i) in bytes.chunks_exact_mut(4).zip((0..32).step_by(8)) {
                chunk.copy_from_slice(&word(address.get(i..i + 8)?)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((address, u16::from_str_radix(port, 16).ok()?))
}

/// Reads a 32-bit word that was printed in the host's byte order.
fn word(text: &str) -> Option<[u8; 4]> {
    Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes())
}

/// Reads what is delivered locally out of `/proc/net/fib_trie` (net/ipv4/fib_trie.c,
/// `fib_trie_seq_show`): a leaf `|-- 192.0.2.1`, below it its prefixes as `/32 host LOCAL`.
pub(super) fn fib_trie(lines: impl Iterator<Item = String>) -> impl Iterator<Item = IpNet> {
    let mut leaf = None;
    lines.filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
            return None;
        }
        let mut words = line.strip_prefix('/')?.split_ascii_whitespace();
        let length = words.next()?.parse().ok()?;
        let local = words.nth(1)? == "LOCAL";
        local.then_some(Ipv4Net::new(leaf?, length).ok()?.trunc().into())
    })
}

/// Reads the addresses out of `/proc/net/if_inet6`.
pub(super) fn if_inet6(lines: impl Iterator<Item = String>) -> impl Iterator<Item = IpNet> {
    lines.filter_map(|line| Some(IpNet::from(IpAddr::V6(hex6(line.split_ascii_whitespace().next()?)?))))
}

/// Reads 32 hexadecimal digits in network order.
fn hex6(text: &str) -> Option<Ipv6Addr> {
    (text.len() == 32).then_some(())?;
    Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?))
}

/// Reads the default routes out of `/proc/net/route` (net/ipv4/fib_trie.c, `fib_route_seq_show`).
pub(super) fn route4(lines: impl Iterator<Item = String>) -> impl Iterator<Item = DefaultRoute> {
    lines.filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().take(8).collect();
        let [interface, destination, gateway, flags, _, _, metric, mask] = words[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let default = destination == "00000000" && mask == "00000000" && flags & (RTF_UP | RTF_REJECT) == RTF_UP;
        let gateway = word(gateway).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
        default.then_some(DefaultRoute {
            ipv6: false,
            interface: interface.to_owned(),
            gateway: gateway.filter(|_| flags & RTF_GATEWAY != 0),
            metric: metric.parse().ok()?,
        })
    })
}

/// What matters of `/proc/net/ipv6_route`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route6 {
    /// A prefix that is delivered locally.
    Local(IpNet),
    /// A default route.
    Default(DefaultRoute),
}

/// Reads `/proc/net/ipv6_route` (net/ipv6/ip6_fib.c, `ipv6_route_native_seq_show`).
pub(super) fn route6(lines: impl Iterator<Item = String>) -> impl Iterator<Item = Route6> {
    lines.filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [network, length, _, _, gateway, metric, _, _, flags, interface] = words[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        if flags & (RTF_UP | RTF_REJECT) != RTF_UP {
            return None;
        }
        let length = u8::from_str_radix(length, 16).ok()?;
        if flags & RTF_LOCAL != 0 {
            return Some(Route6::Local(Ipv6Net::new(hex6(network)?, length).ok()?.trunc().into()));
        }
        let gateway = hex6(gateway).map(IpAddr::from).filter(|_| flags & RTF_GATEWAY != 0);
        let metric = u32::from_str_radix(metric, 16).ok()?;
        (length == 0)
            .then(|| Route6::Default(DefaultRoute { ipv6: true, interface: interface.to_owned(), gateway, metric }))
    })
}

/// Reads resolv.conf(5).
pub(super) fn nameservers(lines: impl Iterator<Item = String>) -> impl Iterator<Item = IpAddr> {
    lines.filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        // A link-local server carries its interface: fe80::1%eth0.
        words.next()?.split('%').next()?.parse().ok()
    })
}

/// Reads `Port` and the ports of `ListenAddress` out of sshd_config(5).
pub(super) fn sshd_ports(lines: impl Iterator<Item = String>) -> impl Iterator<Item = u16> {
    lines.filter_map(|line| {
        let mut words = line.split(|c: char| c.is_ascii_whitespace() || c == '=').filter(|word| !word.is_empty());
        let (keyword, value) = (words.next()?.to_ascii_lowercase(), words.next()?.trim_matches('"'));
        match keyword.as_str() {
            "port" => value.parse().ok(),
            // Without brackets, an address with several colons is IPv6 and has no port.
            "listenaddress" if value.contains("]:") || value.matches(':').count() == 1 => {
                value.rsplit_once(':')?.1.parse().ok()
            }
            _ => None,
        }
    })
}

/// Reads `net.ipv4.ip_local_port_range`; the kernel's default where it is not there.
pub(super) fn port_range(mut lines: impl Iterator<Item = String>) -> RangeInclusive<u16> {
    let range = lines.next().and_then(|line| {
        let mut ports = line.split_ascii_whitespace().map_while(|word| word.parse().ok());
        Some(ports.next()?..=ports.next()?)
    });
    range.unwrap_or(32_768..=60_999)
}
