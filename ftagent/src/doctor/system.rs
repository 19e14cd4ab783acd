//! Checks of the machine as a whole.

use std::path::Path;

use nix::{
    errno::Errno,
    sys::statvfs::statvfs,
    unistd::{AccessFlags, access},
};

use super::{Check, DoctorInput, State, kernel, text};
use crate::{config::Config, sense::host::HostRoot};

/// What the agent uses, and since which kernel there is such a thing.
const NEEDS: &[((u32, u32), &str)] = &[
    ((5, 5), "memory-mapped BPF arrays and the jiffies helper"),
    ((5, 6), "batch updates of maps"),
    ((5, 8), "the BPF ring buffer and CAP_BPF"),
    ((5, 9), "BPF links for XDP"),
    ((5, 18), "XDP on frames of several buffers"),
];

pub(super) fn checks(input: &DoctorInput<'_>, config: &Config) -> Vec<Check> {
    let root = input.root;
    let mut checks = vec![
        kernel_version(root),
        capabilities(input),
        jit(root),
        btf(root),
        bpffs(root, &config.paths.bpffs),
        state_dir(&config.paths.state),
        clock_source(root),
    ];
    checks.extend(SYSCTLS.iter().map(|sysctl| sysctl.check(root)));
    checks
}

fn kernel_version(root: &HostRoot) -> Check {
    let name = "kernel";
    let release = text(&root.proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let Some(version) = kernel(root) else {
        return Check::new(name, State::Skip, "the release of the kernel cannot be read");
    };
    let missing: Vec<String> = NEEDS
        .iter()
        .filter(|(since, _)| version < *since)
        .map(|((major, minor), what)| format!("{what} ({major}.{minor})"))
        .collect();
    if missing.is_empty() {
        return Check::ok(name, release);
    }
    Check::new(name, State::Fail, format!("{release} lacks {}", missing.join(", ")))
        .mend("run a kernel of 5.18 or later")
}

fn capabilities(input: &DoctorInput<'_>) -> Check {
    let has = |name: &str| input.capabilities.contains(name);
    // CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7)), not for CAP_NET_ADMIN.
    let admin = has("CAP_SYS_ADMIN");
    let missing: Vec<&str> = ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]
        .into_iter()
        .filter(|name| !(has(name) || (admin && *name != "CAP_NET_ADMIN")))
        .collect();
    if missing.is_empty() {
        return Check::ok("capabilities", "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN");
    }
    Check::new("capabilities", State::Fail, format!("lacks {}", missing.join(", "))).mend(
        "run as root (`sudo ftagent doctor`), or give the unit AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN",
    )
}

fn jit(root: &HostRoot) -> Check {
    match text(&root.proc.join("sys/net/core/bpf_jit_enable")).as_deref() {
        Some("0") => Check::new("bpf jit", State::Warn, "off: programs are interpreted, several times slower")
            .mend(set("net.core.bpf_jit_enable", "1")),
        Some(_) => Check::ok("bpf jit", "on"),
        None => Check::new("bpf jit", State::Skip, "net.core.bpf_jit_enable cannot be read"),
    }
}

fn btf(root: &HostRoot) -> Check {
    if root.sys.join("kernel/btf/vmlinux").exists() {
        return Check::ok("btf", "the kernel describes its types");
    }
    Check::new("btf", State::Warn, "/sys/kernel/btf/vmlinux is missing: maps and programs lose their type information")
        .mend("run a kernel with CONFIG_DEBUG_INFO_BTF=y, as all current distributions have")
}

fn bpffs(root: &HostRoot, wanted: &Path) -> Check {
    let name = "bpf file system";
    let Some(mounts) = text(&root.proc.join("mounts")) else {
        return Check::new(name, State::Skip, "/proc/mounts cannot be read");
    };
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        Some((words.next()?, words.next()?))
    });
    // A later mount on the same directory hides the earlier.
    let holder = mounts.filter(|(dir, _)| wanted.starts_with(dir)).max_by_key(|(dir, _)| dir.len());
    match holder {
        Some((dir, "bpf")) => Check::ok(name, format!("mounted at {dir}")),
        _ if wanted.starts_with("/sys/fs/bpf") => {
            Check::new(name, State::Warn, "not mounted at /sys/fs/bpf yet: `ftagent run` does that where it may")
                .mend("mount -t bpf bpf /sys/fs/bpf (systemd does it at boot)")
        }
        _ => {
            let mount = wanted.parent().unwrap_or(wanted).display();
            Check::new(name, State::Fail, format!("{} is not on one: nothing can be pinned", wanted.display()))
                .mend(format!("mount -t bpf bpf {mount}"))
        }
    }
}

fn state_dir(dir: &Path) -> Check {
    let name = "state directory";
    // What does not exist yet is made by the daemon, if it may.
    let Some(there) = dir.ancestors().find(|path| path.exists()) else {
        return Check::new(name, State::Skip, format!("{} cannot be looked at", dir.display()));
    };
    match access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if !there.is_dir() => Check::new(name, State::Fail, format!("{} is not a directory", there.display()))
            .mend("name another in `paths.state`"),
        Ok(())
            if statvfs(there)
                .is_ok_and(|disk| disk.blocks_available() == 0 || disk.files() > 0 && disk.files_available() == 0) =>
        {
            Check::new(name, State::Fail, format!("{} cannot be written: its disk is full", there.display()))
                .mend("make room: until then attacks are removed, and nothing is kept")
        }
        Ok(()) if there == dir => Check::ok(name, format!("{} can be written", dir.display())),
        Ok(()) => Check::ok(name, format!("{} will be made", dir.display())),
        Err(Errno::EROFS) => {
            Check::new(name, State::Fail, format!("{} cannot be written: its disk is read-only", there.display()))
                .mend("mount it read-write: until then attacks are removed, and nothing is kept")
        }
        Err(error) => Check::new(name, State::Fail, format!("{} cannot be written: {}", there.display(), error.desc()))
            .mend(format!("install -d -m 0750 {} as root, or name another in `paths.state`", dir.display())),
    }
}

fn clock_source(root: &HostRoot) -> Check {
    let name = "clock source";
    let dir = root.sys.join("devices/system/clocksource/clocksource0");
    let Some(current) = text(&dir.join("current_clocksource")) else {
        return Check::new(name, State::Skip, "cannot be read");
    };
    // These are read by a port or memory access that takes microseconds.
    if !["hpet", "acpi_pm", "jiffies", "refined-jiffies", "xen"].contains(&current.as_str()) {
        return Check::ok(name, current);
    }
    let available = text(&dir.join("available_clocksource")).unwrap_or_default();
    let better =
        available.split_ascii_whitespace().find(|name| ["tsc", "kvm-clock", "arch_sys_counter"].contains(name));
    let check = Check::new(name, State::Warn, format!("{current}: reading the time is slow"));
    match better {
        Some(better) => {
            check.mend(format!("echo {better} > /sys/devices/system/clocksource/clocksource0/current_clocksource"))
        }
        None => check.mend("boot with tsc=reliable if the processor's time stamp counter is invariant"),
    }
}

/// A sysctl, and the value below which something is to be said.
struct Sysctl {
    name: &'static str,
    least: i64,
    /// Why a lower value is worse; empty: the value is only shown.
    why: &'static str,
    /// What the value means.
    note: &'static str,
}

const SYSCTLS: &[Sysctl] = &[
    Sysctl {
        name: "net.ipv4.tcp_syncookies",
        least: 1,
        why: "a SYN flood fills the backlog, and the agent's SYN cookies find no listener to take their answers",
        note: "",
    },
    Sysctl {
        name: "net.ipv4.tcp_timestamps",
        least: 1,
        why: "connections made by SYN cookies lose window scaling and SACK, which travel in the time stamp",
        note: "",
    },
    Sysctl {
        name: "kernel.unprivileged_bpf_disabled",
        least: 1,
        why: "every user of this machine can load BPF programs, and turn speculation flaws on the kernel",
        note: "",
    },
    Sysctl {
        name: "net.core.netdev_max_backlog",
        least: 0,
        why: "",
        note: "packets queued per CPU; native XDP drops before this queue, generic XDP after it",
    },
    Sysctl {
        name: "net.ipv4.conf.all.rp_filter",
        least: 0,
        why: "",
        note: "0 off, 1 strict, 2 loose; the agent sees packets before this check and does not rely on it",
    },
];

impl Sysctl {
    fn check(&self, root: &HostRoot) -> Check {
        let path = root.proc.join("sys").join(self.name.replace('.', "/"));
        let Some(value) = text(&path) else {
            return Check::new(self.name, State::Skip, "cannot be read");
        };
        match value.parse::<i64>() {
            Ok(number) if number < self.least => Check::new(self.name, State::Warn, format!("{value}: {}", self.why))
                .mend(set(self.name, &self.least.to_string())),
            _ if self.note.is_empty() => Check::ok(self.name, value),
            _ => Check::ok(self.name, format!("{value} ({})", self.note)),
        }
    }
}

/// Returns the commands that set a sysctl now and for good.
fn set(name: &str, value: &str) -> String {
    format!("sysctl -w {name}={value} && echo '{name} = {value}' >> /etc/sysctl.d/60-ftagent.conf")
}
