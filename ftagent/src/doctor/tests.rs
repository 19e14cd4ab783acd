//! Machines as sysfs and procfs show them, and what the doctor says of them.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use super::*;

/// A machine in a directory.
struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// A sound machine with kernel 6.12 and no interface.
    fn new() -> Self {
        let machine = Self { dir: tempfile::tempdir().unwrap() };
        let files = [
            ("proc/sys/kernel/osrelease", "6.12.1-amd64\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
            ("proc/sys/net/ipv4/tcp_timestamps", "1\n"),
            ("proc/sys/net/ipv4/conf/all/rp_filter", "2\n"),
            ("proc/sys/net/core/netdev_max_backlog", "1000\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
            ("proc/mounts", "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"),
            ("sys/kernel/btf/vmlinux", ""),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
        ];
        files.iter().for_each(|(path, text)| machine.file(path, text));
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn file(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn net(&self, name: &str, file: &str, text: &str) {
        self.file(&format!("sys/class/net/{name}/{file}"), text);
    }

    /// Adds an interface that is up.
    fn interface(&self, name: &str, index: u32) {
        for (file, text) in [("flags", "0x1003"), ("operstate", "up"), ("type", "1"), ("mtu", "1500")] {
            self.net(name, file, text);
        }
        self.net(name, "ifindex", &index.to_string());
        self.net(name, "iflink", &index.to_string());
        for queue in ["rx-0", "rx-1", "tx-0", "tx-1"] {
            fs::create_dir_all(self.path(&format!("sys/class/net/{name}/queues/{queue}"))).unwrap();
        }
    }

    fn card(&self, name: &str, index: u32, driver: &str) {
        self.interface(name, index);
        self.net(name, "device/vendor", "0x15b3");
        symlink(
            format!("../../../bus/pci/drivers/{driver}"),
            self.path(&format!("sys/class/net/{name}/device/driver")),
        )
        .unwrap();
    }

    /// Links `lower` below `upper`, as stacked devices are.
    fn stack(&self, upper: &str, lower: &str) {
        symlink(format!("../{lower}"), self.path(&format!("sys/class/net/{upper}/lower_{lower}"))).unwrap();
    }

    fn bond(&self, name: &str, index: u32, slaves: &[&str]) {
        self.interface(name, index);
        self.net(name, "bonding/slaves", &slaves.join(" "));
        for slave in slaves {
            symlink(format!("../{name}"), self.path(&format!("sys/class/net/{slave}/master"))).unwrap();
            self.stack(name, slave);
        }
    }

    fn run_with(&self, interfaces: &str, xdp_of: &dyn Fn(u32) -> Option<AttachedXdp>) -> Vec<Check> {
        let text = format!("[interfaces]\n{interfaces}\n[paths]\nstate = {:?}", self.dir.path());
        let config = Config::parse(&text, "test").unwrap();
        let all = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"].map(str::to_owned).into();
        let root = HostRoot::at(self.dir.path());
        run(&DoctorInput { config: Ok(&config), root: &root, capabilities: &all, xdp_of, nft: &|_| Ok(Hook::Ingress) })
    }

    fn run(&self, interface: &str) -> Vec<Check> {
        self.run_with(&format!("names = [\"{interface}\"]"), &|_| None)
    }
}

fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}: {checks:#?}"))
}

/// Asserts a state, and what a check and its remedy say.
fn expect(checks: &[Check], name: &str, state: State, parts: &[&str]) {
    let check = find(checks, name);
    assert_eq!(check.state, state, "{check:?}");
    let text = format!("{} {}", check.found, check.remedy.as_deref().unwrap_or_default());
    parts.iter().for_each(|part| assert!(text.contains(part), "{text} lacks {part}"));
    assert!(!matches!(state, State::Warn | State::Fail) || check.remedy.is_some(), "{check:?} has no remedy");
}

#[test]
fn a_sound_machine_passes() {
    let machine = Machine::new();
    machine.card("eth0", 2, "mlx5_core");
    machine.net("eth0", "mtu", "9000");
    let checks = machine.run("eth0");
    assert!(checks.iter().all(|check| matches!(check.state, State::Ok | State::Skip)), "{}", table(&checks));
    assert_eq!(exit_code(&checks), 0);
    expect(&checks, "eth0 xdp", State::Ok, &["mlx5_core", "native"]);
    let text = table(&checks);
    assert!(text.lines().any(|line| line.starts_with("ok    kernel")) && text.contains("0 failed"), "{text}");
    let json = serde_json::to_value(&checks).unwrap();
    assert_eq!(json[0]["state"], "ok");
}

#[test]
fn an_old_kernel_is_told_what_it_lacks() {
    let machine = Machine::new();
    machine.file("proc/sys/kernel/osrelease", "5.7.0-42-generic");
    machine.card("eth0", 2, "i40e");
    let checks = machine.run("eth0");
    expect(&checks, "kernel", State::Fail, &["5.7.0-42", "ring buffer", "5.18"]);
    assert!(!find(&checks, "kernel").found.contains("memory-mapped"));
}

#[test]
fn a_bond_points_to_its_slaves() {
    let machine = Machine::new();
    machine.card("eth0", 2, "i40e");
    machine.card("eth1", 3, "i40e");
    machine.bond("bond0", 4, &["eth0", "eth1"]);
    let remedy = "`interfaces.names = [\"eth0\", \"eth1\"]`";
    expect(&machine.run("bond0"), "bond0 xdp", State::Fail, &["a bond", remedy]);
    expect(&machine.run("eth0"), "eth0 master", State::Ok, &["bond0", "eth0 eth1"]);
    // A VLAN on the bond, and a bridge on the VLAN, end at the slaves too.
    machine.interface("bond0.7", 5);
    machine.file(
        "proc/net/vlan/config",
        "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\nbond0.7 | 7  | bond0\n",
    );
    expect(&machine.run("bond0.7"), "bond0.7 xdp", State::Fail, &["a VLAN device", remedy]);
    machine.interface("br0", 6);
    machine.net("br0", "bridge/stp_state", "0");
    machine.net("br0", "brif/bond0.7/state", "3");
    let checks = machine.run("br0");
    expect(&checks, "br0 xdp", State::Fail, &["a bridge", remedy]);
    assert_eq!(exit_code(&checks), 1);
    machine.bond("bond1", 7, &[]);
    expect(&machine.run("bond1"), "bond1 xdp", State::Fail, &["without slaves"]);
}

#[test]
fn a_vlan_device_points_to_its_parent() {
    let machine = Machine::new();
    machine.card("eth0", 2, "ice");
    machine.interface("uplink", 3);
    machine.net("uplink", "uevent", "DEVTYPE=vlan\nINTERFACE=uplink\nIFINDEX=3");
    machine.stack("uplink", "eth0");
    expect(&machine.run("uplink"), "uplink xdp", State::Fail, &["VLAN", "`interfaces.names = [\"eth0\"]`"]);
}

#[test]
fn drivers_and_their_limits() {
    let machine = Machine::new();
    machine.card("ens5", 2, "ena");
    for i in 2..4 {
        fs::create_dir_all(machine.path(&format!("sys/class/net/ens5/queues/rx-{i}"))).unwrap();
    }
    machine.net("ens5", "mtu", "9001");
    let checks = machine.run("ens5");
    expect(&checks, "ens5 mtu", State::Fail, &["9001", "ip link set dev ens5 mtu 3498"]);
    expect(&checks, "ens5 queues", State::Warn, &["half", "ethtool -L ens5 combined 2"]);
    machine.card("eth1", 3, "e1000e");
    expect(&machine.run("eth1"), "eth1 xdp", State::Warn, &["e1000e", "generic"]);
    machine.file("proc/sys/kernel/osrelease", "6.1.0");
    machine.card("eth2", 4, "gve");
    expect(&machine.run("eth2"), "eth2 xdp", State::Fail, &["6.4"]);
    machine.card("eth3", 5, "virtio_net");
    machine.net("eth3", "mtu", "9000");
    expect(&machine.run("eth3"), "eth3 mtu", State::Fail, &["kernel 6.3"]);
}

#[test]
fn virtio_offloads_that_the_guest_cannot_switch_off() {
    let machine = Machine::new();
    machine.card("eth0", 2, "virtio_net");
    let bits = |on: &[usize]| (0..64).map(|bit| if on.contains(&bit) { '1' } else { '0' }).collect::<String>();
    let cases: [(&[usize], State); 3] =
        [(&[0, 5, 32], State::Ok), (&[1, 2, 7, 8], State::Ok), (&[1, 7, 10], State::Fail)];
    for (on, state) in cases {
        machine.net("eth0", "device/features", &bits(on));
        expect(&machine.run("eth0"), "eth0 virtio offloads", state, &[]);
    }
    expect(&machine.run("eth0"), "eth0 virtio offloads", State::Fail, &["guest_tso4=off", "guest_ufo=off"]);
}

#[test]
fn other_kinds_of_interfaces() {
    let machine = Machine::new();
    machine.interface("veth0", 2);
    machine.net("veth0", "iflink", "9");
    expect(&machine.run("veth0"), "veth0 xdp", State::Ok, &["veth"]);
    machine.interface("lo", 1);
    machine.net("lo", "type", "772");
    expect(&machine.run("lo"), "lo xdp", State::Fail, &["loopback"]);
    machine.interface("wg0", 3);
    machine.net("wg0", "type", "65534");
    expect(&machine.run("wg0"), "wg0 xdp", State::Fail, &["not Ethernet"]);
    machine.net("veth0", "flags", "0x1002");
    expect(&machine.run("veth0"), "veth0 link", State::Warn, &["ip link set dev veth0 up"]);
    expect(&machine.run("vet0"), "vet0 link", State::Fail, &["no such interface", ": veth0, "]);
    expect(&machine.run("auto"), "interface auto", State::Fail, &["no default route"]);
    let checks = machine.run_with("names = [\"veth0\"]\nmode = \"generic\"", &|_| None);
    expect(&checks, "veth0 xdp", State::Warn, &["generic"]);
}

#[test]
fn a_foreign_program_is_told_and_our_own_is_not() {
    let machine = Machine::new();
    machine.card("eth0", 2, "ixgbe");
    let attached = |ours| {
        move |index| {
            (index == 2).then(|| AttachedXdp {
                program_id: 77,
                name: Some("xdp_root".into()),
                mode: "native".into(),
                ours,
            })
        }
    };
    let checks = machine.run_with("names = [\"eth0\"]", &attached(false));
    expect(&checks, "eth0 attached", State::Fail, &["77", "xdp_root", "ip link set dev eth0 xdp off"]);
    let checks = machine.run_with("names = [\"eth0\"]", &attached(true));
    expect(&checks, "eth0 attached", State::Ok, &["the agent's program 77"]);
}

#[test]
fn settings_and_rights_that_are_missing() {
    let machine = Machine::new();
    machine.file("proc/sys/net/ipv4/tcp_syncookies", "0\n");
    machine.file("proc/sys/net/core/bpf_jit_enable", "0\n");
    machine.file("proc/sys/kernel/unprivileged_bpf_disabled", "0\n");
    machine.file("proc/mounts", "sysfs /sys sysfs rw 0 0\n");
    machine.file("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
    machine.file("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm\n");
    fs::remove_file(machine.path("sys/kernel/btf/vmlinux")).unwrap();
    let error = Config::parse("[metrics]\nlisten = \"0.0.0.0:1\"\nfoo = 1", "/etc/ftagent/ftagent.toml").unwrap_err();
    let root = HostRoot::at(machine.dir.path());
    let some = ["CAP_SYS_ADMIN".to_owned()].into();
    let checks = run(&DoctorInput {
        config: Err(&error),
        root: &root,
        capabilities: &some,
        xdp_of: &|_| None,
        nft: &|_| Ok(Hook::Ingress),
    });
    expect(&checks, "configuration", State::Fail, &["ftagent.toml:2:", "ftagent.toml:3:"]);
    expect(&checks, "capabilities", State::Fail, &["lacks CAP_NET_ADMIN"]);
    expect(&checks, "net.ipv4.tcp_syncookies", State::Warn, &["sysctl -w net.ipv4.tcp_syncookies=1"]);
    expect(&checks, "bpf jit", State::Warn, &["net.core.bpf_jit_enable=1"]);
    expect(&checks, "kernel.unprivileged_bpf_disabled", State::Warn, &["=1"]);
    expect(&checks, "bpf file system", State::Warn, &["mount -t bpf bpf /sys/fs/bpf"]);
    expect(&checks, "clock source", State::Warn, &["echo tsc"]);
    expect(&checks, "btf", State::Warn, &["CONFIG_DEBUG_INFO_BTF"]);
    assert_eq!(exit_code(&checks), 1);
}

#[test]
fn a_state_directory_that_is_a_file() {
    let machine = Machine::new();
    machine.file("state", "");
    let config = Config::parse(&format!("[paths]\nstate = {:?}", machine.path("state/below")), "test").unwrap();
    let (root, none) = (HostRoot::at(machine.dir.path()), BTreeSet::new());
    let checks = run(&DoctorInput {
        config: Ok(&config),
        root: &root,
        capabilities: &none,
        xdp_of: &|_| None,
        nft: &|_| Ok(Hook::Ingress),
    });
    assert_eq!(find(&checks, "state directory").state, State::Fail);
}

#[test]
fn nftables_is_looked_at_where_rules_go_there() {
    let machine = Machine::new();
    let (root, all) = (HostRoot::at(machine.dir.path()), BTreeSet::new());
    let checks = |plane: &str, nft: &dyn Fn(&[String]) -> Result<Hook, NftError>| {
        let text = format!("[interfaces]\nnames = [\"eth0\"]\n[mitigation]\nplane = \"{plane}\"");
        let config = Config::parse(&text, "test").unwrap();
        run(&DoctorInput { config: Ok(&config), root: &root, capabilities: &all, xdp_of: &|_| None, nft })
    };
    let absent = |_: &[String]| Err(NftError::Missing("nft".into(), std::io::ErrorKind::NotFound.into()));
    assert!(checks("xdp", &absent).iter().all(|check| check.name != "nftables"));
    expect(&checks("nftables", &absent), "nftables", State::Fail, &["apt install nftables"]);
    let refused = |_: &[String]| Err(NftError::Refused("Operation not permitted".into()));
    expect(&checks("nftables", &refused), "nftables", State::Fail, &["not permitted", "run as root"]);
    let late = |_: &[String]| Ok(Hook::Prerouting);
    expect(&checks("nftables", &late), "nftables", State::Warn, &["CONFIG_NETFILTER_INGRESS"]);
    let asked = |interfaces: &[String]| {
        assert_eq!(interfaces, ["eth0"]);
        Ok(Hook::Ingress)
    };
    expect(&checks("nftables", &asked), "nftables", State::Ok, &["ingress hook"]);
}
