//! Checks of one interface: what it is, whether XDP runs in its driver, and where to attach
//! instead if not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Check, DoctorInput, State, drivers, kernel, text};
use crate::{
    config::{AttachMode, Config},
    sense::host::HostRoot,
};

/// What an interface is, as far as attaching cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A card, with its driver.
    Device(String),
    /// One end of a veth pair.
    Veth,
    /// A tun or tap device.
    Tun,
    /// A bond, with its slaves.
    Bond(Vec<String>),
    /// A bridge, with its ports.
    Bridge(Vec<String>),
    /// A VLAN device, with its parent.
    Vlan(String),
    /// Another device on top of others, as macvlan.
    Upper(Vec<String>),
    /// The loopback device.
    Loopback,
    /// Not Ethernet.
    NotEthernet(String),
    /// A device without hardware whose kind sysfs does not tell, as ifb.
    Software,
}

/// An interface in sysfs.
struct Interface<'a> {
    root: &'a HostRoot,
    name: &'a str,
    dir: PathBuf,
}

impl Interface<'_> {
    fn read(&self, file: &str) -> Option<String> {
        text(&self.dir.join(file))
    }

    fn number(&self, file: &str) -> Option<u32> {
        self.read(file)?.parse().ok()
    }

    /// The name of a check of this interface.
    fn check(&self, what: &str) -> String {
        format!("{} {what}", self.name)
    }

    fn queues(&self, prefix: &str) -> usize {
        names(&self.dir.join("queues")).iter().filter(|name| name.starts_with(prefix)).count()
    }

    fn lowers(&self) -> Vec<String> {
        names(&self.dir).iter().filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)).collect()
    }

    /// The interface that this one is a part of, and whether that is a bond.
    fn master(&self) -> Option<(String, bool)> {
        let master = fs::read_link(self.dir.join("master")).ok()?;
        Some((file_name(&master)?, self.dir.join("master/bonding").is_dir()))
    }

    fn kind(&self) -> Kind {
        let words = |file: &str| self.read(file).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        if self.dir.join("bonding").is_dir() {
            return Kind::Bond(words("bonding/slaves"));
        }
        if self.dir.join("bridge").is_dir() {
            return Kind::Bridge(names(&self.dir.join("brif")));
        }
        if let Some(parent) = self.vlan_parent() {
            return Kind::Vlan(parent);
        }
        if let Ok(driver) = fs::read_link(self.dir.join("device/driver")) {
            return Kind::Device(file_name(&driver).unwrap_or_default());
        }
        match self.number("type") {
            // ARPHRD_LOOPBACK and ARPHRD_ETHER, include/uapi/linux/if_arp.h.
            Some(772) => return Kind::Loopback,
            Some(1) | None => {}
            Some(other) => return Kind::NotEthernet(other.to_string()),
        }
        if self.dir.join("tun_flags").exists() {
            return Kind::Tun;
        }
        let lowers = self.lowers();
        if !lowers.is_empty() {
            return Kind::Upper(lowers);
        }
        // A veth's link is its peer; the peer is often in another namespace.
        if self.number("iflink") != self.number("ifindex") { Kind::Veth } else { Kind::Software }
    }

    /// The parent, from `/proc/net/vlan/config` (`eth0.5 | 5 | eth0`) or from sysfs.
    fn vlan_parent(&self) -> Option<String> {
        let config = text(&self.root.proc.join("net/vlan/config")).unwrap_or_default();
        let listed = config.lines().find_map(|line| {
            let mut columns = line.split('|').map(str::trim);
            (columns.next()? == self.name).then(|| columns.nth(1).map(str::to_owned))?
        });
        let vlan = || self.read("uevent").is_some_and(|uevent| uevent.lines().any(|line| line == "DEVTYPE=vlan"));
        listed.or_else(|| if vlan() { self.lowers().into_iter().next() } else { None })
    }
}

/// Makes the checks of an interface.
pub(super) fn checks(input: &DoctorInput<'_>, config: &Config, name: &str) -> Vec<Check> {
    let root = input.root;
    let interface = Interface { root, name, dir: root.sys.join("class/net").join(name) };
    if !interface.dir.exists() {
        return vec![missing(root, name)];
    }
    let kind = interface.kind();
    let mut checks = vec![link(&interface), attach(&interface, &kind, config.interfaces.mode)];
    checks.extend(part_of(&interface));
    let driver = match &kind {
        Kind::Device(driver) => Some(driver.as_str()),
        Kind::Veth => Some("veth"),
        Kind::Tun => Some("tun"),
        _ => None,
    };
    if let Some(driver) = driver {
        checks.push(mtu(&interface, driver));
        checks.push(queues(&interface, driver));
    }
    if let Kind::Device(driver) = &kind {
        checks.extend(virtio(&interface, driver));
        checks.push(offloads(&interface));
    }
    checks.push(attached(&interface, input));
    checks
}

fn missing(root: &HostRoot, name: &str) -> Check {
    let mut known = names(&root.sys.join("class/net"));
    known.sort_by(|a, b| strsim::jaro_winkler(b, name).total_cmp(&strsim::jaro_winkler(a, name)));
    Check::new(format!("{name} link"), State::Fail, "there is no such interface").mend(format!(
        "name one of these in `interfaces.names`: {}; the agent attaches when {name} appears",
        known.join(", ")
    ))
}

fn link(interface: &Interface<'_>) -> Check {
    let flags = interface.read("flags").unwrap_or_default();
    let up = u32::from_str_radix(flags.trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 != 0);
    let state = interface.read("operstate").unwrap_or_else(|| "unknown".into());
    let name = interface.check("link");
    match (up, state.as_str()) {
        (false, _) => Check::new(name, State::Warn, "down").mend(format!("ip link set dev {} up", interface.name)),
        (true, "down" | "lowerlayerdown" | "notpresent") => {
            Check::new(name, State::Warn, format!("up, but {state}: no carrier")).mend("look at the cable or the peer")
        }
        (true, state) => Check::ok(name, format!("up, {state}")),
    }
}

/// Says whether XDP attaches in the mode that is configured, and where instead if not.
fn attach(interface: &Interface<'_>, kind: &Kind, mode: AttachMode) -> Check {
    let name = interface.check("xdp");
    let generic = mode == AttachMode::Generic;
    let (found, instead) = match kind {
        Kind::Device(driver) => return native(interface, name, driver, generic),
        Kind::Veth => return native(interface, name, "veth", generic),
        Kind::Tun => return native(interface, name, "tun", generic),
        Kind::Bond(slaves) if slaves.is_empty() => {
            let remedy = format!("ip link set dev SLAVE master {}", interface.name);
            return Check::new(name, State::Fail, "a bond without slaves").mend(remedy);
        }
        Kind::Bond(slaves) => ("a bond: XDP belongs on its slaves, where frames arrive".to_owned(), slaves.clone()),
        Kind::Bridge(ports) => ("a bridge: XDP runs on its ports only".to_owned(), ports.clone()),
        Kind::Vlan(parent) => (
            format!("a VLAN device: XDP runs on its parent only, and the agent reads the tags of {parent} itself"),
            vec![parent.clone()],
        ),
        Kind::Upper(lowers) => (format!("a device on top of {}", lowers.join(", ")), lowers.clone()),
        Kind::Loopback => ("the loopback device: no attack arrives here".to_owned(), Vec::new()),
        Kind::NotEthernet(kind) => (format!("not Ethernet (type {kind}), which the agent reads"), Vec::new()),
        Kind::Software => ("a device without hardware or native XDP".to_owned(), Vec::new()),
    };
    let check = Check::new(name, State::Fail, found);
    let below = ground(interface.root, &instead);
    if below.is_empty() {
        return check.mend("name the interface that faces the network in `interfaces.names`");
    }
    let quoted: Vec<String> = below.iter().map(|name| format!("\"{name}\"")).collect();
    check.mend(format!("set `interfaces.names = [{}]`", quoted.join(", ")))
}

/// Goes down from bonds, bridges and VLAN devices to what carries them.
fn ground(root: &HostRoot, names: &[String]) -> Vec<String> {
    let mut pending: Vec<(String, u8)> = names.iter().rev().map(|name| (name.clone(), 0)).collect();
    let mut found = Vec::new();
    while let Some((name, depth)) = pending.pop() {
        let interface = Interface { root, name: &name, dir: root.sys.join("class/net").join(&name) };
        let below = match interface.kind() {
            Kind::Bond(slaves) => slaves,
            Kind::Vlan(parent) => vec![parent],
            Kind::Bridge(ports) => ports,
            Kind::Upper(lowers) => lowers,
            _ => Vec::new(),
        };
        // The kernel stacks at most 8 devices (MAX_NEST_DEV).
        if below.is_empty() || depth > 8 {
            if !found.contains(&name) {
                found.push(name);
            }
        } else {
            pending.extend(below.into_iter().rev().map(|name| (name, depth + 1)));
        }
    }
    found
}

fn native(interface: &Interface<'_>, name: String, driver: &str, generic: bool) -> Check {
    let mode = if generic { "generic" } else { "native" };
    if generic {
        return Check::new(name, State::Warn, format!("driver {driver}, mode generic: several times slower"))
            .mend("set `interfaces.mode = \"native\"` if the driver can");
    }
    let version = kernel(interface.root);
    match drivers::find(driver) {
        Some(known) if known.since.zip(version).is_some_and(|(since, version)| version < since) => {
            let (major, minor) = known.since.unwrap_or_default();
            Check::new(name, State::Fail, format!("driver {driver} runs XDP since kernel {major}.{minor}"))
                .mend("run a later kernel, or set `interfaces.mode = \"generic\"` (several times slower)")
        }
        Some(_) => Check::ok(name, format!("driver {driver}, mode {mode}")),
        None => {
            Check::new(name, State::Warn, format!("driver {driver} is not known to run XDP natively; attaching tells"))
                .mend("if it fails, set `interfaces.mode = \"generic\"` (several times slower) or use another card")
        }
    }
}

/// Says what an interface is a part of.
fn part_of(interface: &Interface<'_>) -> Option<Check> {
    let (master, bond) = interface.master()?;
    let name = interface.check("master");
    if bond {
        let slaves = text(&interface.dir.join("master/bonding/slaves")).unwrap_or_default();
        return Some(Check::ok(
            name,
            format!("slave of bond {master}: name all of its slaves ({slaves}), each by itself"),
        ));
    }
    let found = format!("part of {master}: traffic forwarded to guests is counted and filtered too");
    Some(Check::ok(name, found))
}

fn mtu(interface: &Interface<'_>, driver: &str) -> Check {
    let name = interface.check("mtu");
    let Some(mtu) = interface.number("mtu") else { return Check::new(name, State::Skip, "cannot be read") };
    let version = kernel(interface.root);
    let Some(known) = drivers::find(driver) else {
        return Check::ok(name, format!("{mtu} (the limits of driver {driver} are not known)"));
    };
    let frags = known.frags.zip(version).is_some_and(|(since, version)| version >= since);
    if frags {
        return Check::ok(name, format!("{mtu} ({driver} takes frames of several buffers: any MTU)"));
    }
    if mtu <= drivers::PAGE_MTU {
        let limit = drivers::PAGE_MTU;
        return Check::ok(name, format!("{mtu} ({driver} takes frames of one page: up to about {limit}, some less)"));
    }
    let later = known.frags.map(|(major, minor)| format!(", or run kernel {major}.{minor}")).unwrap_or_default();
    Check::new(name, State::Fail, format!("{mtu}: {driver} takes frames of one page under XDP")).mend(format!(
        "ip link set dev {} mtu {}{later}",
        interface.name,
        drivers::PAGE_MTU
    ))
}

fn queues(interface: &Interface<'_>, driver: &str) -> Check {
    let name = interface.check("queues");
    let (rx, tx) = (interface.queues("rx-"), interface.queues("tx-"));
    let cpus = cpus(interface.root);
    let note = drivers::find(driver).map_or("", |driver| driver.note);
    let found = format!("{rx} receive, {tx} transmit, {cpus} CPUs");
    if driver == "ena" && rx > 1 && rx >= cpus {
        return Check::new(name, State::Warn, format!("{found}: {driver} {note}")).mend(format!(
            "ethtool -L {} combined {}",
            interface.name,
            rx / 2
        ));
    }
    if rx == 1 && cpus > 1 {
        let found = format!("{found}: one CPU takes everything that arrives");
        let remedy =
            format!("ethtool -l {0} shows how many there can be, ethtool -L {0} combined N sets it", interface.name);
        return Check::new(name, State::Warn, found).mend(remedy);
    }
    Check::ok(name, if note.is_empty() { found } else { format!("{found}; {driver} {note}") })
}

/// virtio_net refuses XDP while the host merges or leaves out checksums and the guest cannot
/// switch that off (drivers/net/virtio_net.c, `virtnet_xdp_set`). Feature bits: virtio 1.2, 5.1.3.
fn virtio(interface: &Interface<'_>, driver: &str) -> Option<Check> {
    const CTRL_GUEST_OFFLOADS: usize = 2;
    const MERGING: &[(usize, &str)] = &[
        (1, "guest_csum"),
        (7, "guest_tso4"),
        (8, "guest_tso6"),
        (9, "guest_ecn"),
        (10, "guest_ufo"),
        (54, "guest_uso4"),
        (55, "guest_uso6"),
    ];
    if driver != "virtio_net" {
        return None;
    }
    let name = interface.check("virtio offloads");
    let Some(features) = interface.read("device/features") else {
        return Some(Check::new(name, State::Skip, "the device's features cannot be read"));
    };
    let has = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
    let on: Vec<&str> = MERGING.iter().filter(|(bit, _)| has(*bit)).map(|(_, name)| *name).collect();
    if on.is_empty() || has(CTRL_GUEST_OFFLOADS) {
        return Some(Check::ok(name, "none, or such as the driver switches off for XDP"));
    }
    let off: Vec<String> = on.iter().map(|name| format!("{name}=off")).collect();
    let found = format!("the host insists on {}: the driver refuses native XDP", on.join(", "));
    Some(Check::new(name, State::Fail, found).mend(format!(
        "start the guest with ctrl_guest_offloads=on or {} on its network device, or set `interfaces.mode = \"generic\"`",
        off.join(",")
    )))
}

/// sysfs does not tell these; the commands do no harm where they are off already.
fn offloads(interface: &Interface<'_>) -> Check {
    let found = "not visible here. Merged frames (LRO) cannot pass XDP, and a tag that the card strips is not seen";
    Check::new(interface.check("lro, rxvlan"), State::Skip, found)
        .mend(format!("ethtool -k {0} shows them, ethtool -K {0} lro off rxvlan off switches them off", interface.name))
}

fn attached(interface: &Interface<'_>, input: &DoctorInput<'_>) -> Check {
    let name = interface.check("attached");
    let Some(index) = interface.number("ifindex") else {
        return Check::new(name, State::Skip, "the interface's index cannot be read");
    };
    let Some(xdp) = (input.xdp_of)(index) else { return Check::ok(name, "no XDP program") };
    let (id, mode) = (xdp.program_id, &xdp.mode);
    let called = xdp.name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
    if xdp.ours {
        return Check::ok(name, format!("the agent's program {id}, mode {mode}"));
    }
    Check::new(
        name,
        State::Fail,
        format!("program {id}{called} of somebody else, mode {mode}; the agent does not replace it"),
    )
    .mend(format!(
        "`bpftool prog show id {id}` tells whose it is; `ip link set dev {} xdp off` detaches it",
        interface.name
    ))
}

/// Returns the number of CPUs that are online, as `0-3,8` tells it.
fn cpus(root: &HostRoot) -> usize {
    let online = text(&root.sys.join("devices/system/cpu/online")).unwrap_or_default();
    let span = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    online.split(',').filter_map(span).sum()
}

/// Returns the names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
