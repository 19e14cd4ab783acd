//! Facts about the host, read from `/proc`, `/sys` and `/etc`, and the guard over operator input
//! that rests on them.
//!
//! A file that is not there counts as empty (a kernel without IPv6 has no `if_inet6`); one that
//! cannot be read is told in [`HostFacts::problems`].

pub mod diag;
mod guard;
mod proc;
pub mod stats;
pub mod strain;
#[cfg(test)]
mod tests;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::Serialize;

pub use guard::{Guard, Protected, Refusal};

/// Where facts are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoot {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/etc`
    pub etc: PathBuf,
    /// `/run`
    pub run: PathBuf,
}

impl Default for HostRoot {
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl HostRoot {
    /// Returns the root at another place, for tests.
    pub fn at(root: &Path) -> Self {
        let [proc, sys, etc, run] = ["proc", "sys", "etc", "run"].map(|name| root.join(name));
        Self { proc, sys, etc, run }
    }
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefaultRoute {
    /// Whether it is one of IPv6.
    pub ipv6: bool,
    /// The interface it leaves by.
    pub interface: String,
    /// The next hop; `None` on point-to-point links.
    pub gateway: Option<IpAddr>,
    /// Lower is preferred.
    pub metric: u32,
}

/// The port of BGP (RFC 4271).
const BGP: u16 = 179;

/// What is known about this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// What is delivered locally: addresses as /32 and /128, `local` routes as prefixes.
    pub addresses: BTreeSet<IpNet>,
    /// Default routes, IPv4 first, the preferred one first in each family.
    pub default_routes: Vec<DefaultRoute>,
    /// Name servers.
    pub resolvers: BTreeSet<IpAddr>,
    /// Ports that sshd is configured for.
    pub ssh_ports: BTreeSet<u16>,
    /// Peers of established connections to SSH ports on which something listens.
    pub operators: BTreeSet<IpAddr>,
    /// Peers of BGP sessions, and those that this host calls to have one.
    pub bgp_peers: BTreeSet<IpAddr>,
    /// Own addresses that carry sessions by which this host is managed or routed, and what they carry.
    pub carrying: BTreeMap<IpAddr, &'static str>,
    /// Ports of unconnected UDP sockets outside the ephemeral range, not bound to loopback.
    pub udp_services: BTreeSet<u16>,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

impl HostFacts {
    /// Reads everything.
    pub fn read(root: &HostRoot) -> Self {
        let mut problems = Vec::new();
        let net = root.proc.join("net");
        let mut addresses: BTreeSet<IpNet> = proc::fib_trie(lines(&net.join("fib_trie"), &mut problems)).collect();
        addresses.extend(proc::if_inet6(lines(&net.join("if_inet6"), &mut problems)));
        let mut default_routes: Vec<_> = proc::route4(lines(&net.join("route"), &mut problems)).collect();
        default_routes.sort_by_key(|route| route.metric);
        let mut routes6 = Vec::new();
        for route in proc::route6(lines(&net.join("ipv6_route"), &mut problems)) {
            match route {
                proc::Route6::Local(net) => drop(addresses.insert(net)),
                proc::Route6::Default(route) => routes6.push(route),
            }
        }
        routes6.sort_by_key(|route| route.metric);
        default_routes.append(&mut routes6);
        let mut facts = Self {
            addresses,
            default_routes,
            resolvers: resolvers(root, &mut problems),
            ssh_ports: ssh_ports(root, &mut problems),
            udp_services: udp_services(root, &mut problems),
            problems,
            ..Self::default()
        };
        facts.refresh_operators(root);
        facts
    }

    /// Reads the operators' peers again, and those of BGP: all that changes from one command to the next.
    pub fn refresh_operators(&mut self, root: &HostRoot) {
        let mut sockets = Vec::new();
        for name in ["tcp", "tcp6"] {
            let lines = lines(&root.proc.join("net").join(name), &mut self.problems);
            // A busy server has many sockets: keep those of SSH ports only.
            sockets.extend(proc::sockets(lines).filter(|socket| {
                self.ssh_ports.contains(&socket.local_port) || [socket.local_port, socket.peer_port].contains(&BGP)
            }));
        }
        let listening: BTreeSet<u16> =
            sockets.iter().filter(|socket| socket.state == proc::LISTEN).map(|socket| socket.local_port).collect();
        let operator = |socket: &proc::Socket| {
            let ssh = self.ssh_ports.contains(&socket.local_port);
            (ssh && socket.state == proc::ESTABLISHED && listening.contains(&socket.local_port)).then_some(socket.peer)
        };
        self.operators = sockets.iter().filter_map(operator).collect();
        // Whom this host calls it was told to call. Who calls here may be anybody until there is a connection.
        let has_bgp = |socket: &&proc::Socket| match socket.state {
            proc::ESTABLISHED => socket.peer_port == BGP || socket.local_port == BGP && listening.contains(&BGP),
            proc::SYN_SENT => socket.peer_port == BGP,
            _ => false,
        };
        let peers = sockets.iter().filter(has_bgp).map(|socket| socket.peer.to_canonical());
        self.bgp_peers = peers.filter(|peer| !peer.is_loopback()).collect();
        let established = sockets.iter().filter(|socket| socket.state == proc::ESTABLISHED);
        let carries = |socket: &proc::Socket| match () {
            () if self.ssh_ports.contains(&socket.local_port) && listening.contains(&socket.local_port) => {
                Some("an SSH session")
            }
            () if [socket.local_port, socket.peer_port].contains(&BGP) => Some("a BGP session"),
            () => None,
        };
        let carrying = established.filter_map(|socket| Some((socket.local.to_canonical(), carries(socket)?)));
        self.carrying = carrying.filter(|(address, _)| !address.is_loopback()).collect();
    }

    /// Returns the interfaces of the preferred default route of each family: what "auto" means.
    pub fn default_interfaces(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for ipv6 in [false, true] {
            if let Some(route) = self.default_routes.iter().find(|route| route.ipv6 == ipv6)
                && !names.contains(&route.interface.as_str())
            {
                names.push(route.interface.as_str());
            }
        }
        names
    }
}

/// Returns the lines of a file; none where it does not exist, those before an error where there
/// is one, which is then in `problems`.
fn lines<'a>(path: &Path, problems: &'a mut Vec<String>) -> impl Iterator<Item = String> + use<'a> {
    let name = path.display().to_string();
    let file = match std::fs::File::open(path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            note(problems, format!("{name}: {error}"));
            None
        }
    };
    let mut lines = file.map(|file| BufReader::new(file).lines());
    std::iter::from_fn(move || match lines.as_mut()?.next()? {
        Ok(line) => Some(line),
        Err(error) => {
            note(problems, format!("{name}: {error}"));
            lines = None;
            None
        }
    })
}

/// Adds a problem that is not there yet: files are read again and again.
fn note(problems: &mut Vec<String>, problem: String) {
    if !problems.contains(&problem) {
        problems.push(problem);
    }
}

/// Reads resolv.conf(5). systemd-resolved puts its own stub there; the servers behind it are in
/// a file of its own.
fn resolvers(root: &HostRoot, problems: &mut Vec<String>) -> BTreeSet<IpAddr> {
    let mut found: BTreeSet<IpAddr> = proc::nameservers(lines(&root.etc.join("resolv.conf"), problems)).collect();
    if found.iter().any(IpAddr::is_loopback) {
        found.extend(proc::nameservers(lines(&root.run.join("systemd/resolve/resolv.conf"), problems)));
    }
    found
}

/// Reads the ports out of sshd_config(5) and the files it includes by default; 22 is always one.
fn ssh_ports(root: &HostRoot, problems: &mut Vec<String>) -> BTreeSet<u16> {
    let ssh = root.etc.join("ssh");
    let mut files = vec![ssh.join("sshd_config")];
    if let Ok(entries) = std::fs::read_dir(ssh.join("sshd_config.d")) {
        files.extend(
            entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("conf".as_ref())),
        );
    }
    let mut ports = BTreeSet::from([22]);
    for file in files {
        ports.extend(proc::sshd_ports(lines(&file, problems)));
    }
    ports
}

/// Returns the ports of unconnected UDP sockets outside the ephemeral range, not bound to loopback;
/// what could not be read goes to `problems`.
pub fn udp_services(root: &HostRoot, problems: &mut Vec<String>) -> BTreeSet<u16> {
    let range = root.proc.join("sys/net/ipv4/ip_local_port_range");
    let ephemeral = proc::port_range(lines(&range, problems));
    let mut ports = BTreeSet::new();
    for name in ["udp", "udp6"] {
        let service = |socket: &proc::Socket| {
            socket.state == proc::CLOSE
                && socket.peer_port == 0
                && !socket.local.is_loopback()
                && !ephemeral.contains(&socket.local_port)
        };
        let sockets = proc::sockets(lines(&root.proc.join("net").join(name), problems));
        ports.extend(sockets.filter(service).map(|socket| socket.local_port));
    }
    ports
}
