//! Signals, restarts, upgrades, interfaces that come and go, and the end.

use std::{fs, io::ErrorKind, path::PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues};
use ftagent::bpf::base;
use ftagent_common::{
    DropReason, TrafficClass,
    abi::{ABI_VERSION, Layout, SlotInfo, maps},
    lists::{Key4, ListEntry},
    reason::verdict,
};
use ftagent_tests::{
    daemon::{BPFFS, DETACHED, Daemon, PATIENCE, wait_for},
    require_root,
    sandbox::Sandbox,
};
use nix::sys::signal::Signal;

use super::{FIVE_SECONDS, drops, pins, program, send};

const SECTIONS: &str = "[services]\ndetect = false\n";

#[test]
fn sigterm_keeps_link_pins_and_totals() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.ok(&["block", "198.51.100.0/24", "--reason", "it floods"]).unwrap();
        send(sandbox, &veth, "198.51.100.7", 1000);
        let before = daemon.wait_for_interface("wan0", FIVE_SECONDS, |i| i.packets == 1000).unwrap();
        let pinned = pins();
        let attached = program("wan0").unwrap();
        daemon.terminate().unwrap();
        assert!(!daemon.path("control.sock").exists(), "the socket is tidied away");
        assert_eq!((pins(), program("wan0")), (pinned.clone(), Some(attached)));
        send(sandbox, &veth, "198.51.100.7", 500);
        daemon.launch(sandbox).unwrap();
        let after = daemon.wait_for_interface("wan0", FIVE_SECONDS, |i| i.packets == 1500).unwrap();
        assert_eq!((after.slot, after.dropped_packets), (before.slot, 1500), "the kernel went on by itself");
        assert_ne!(program("wan0"), Some(attached), "the new daemon brought its own program");
        assert_eq!(pins(), pinned);
        let rules = daemon.rules().unwrap();
        assert_eq!(rules.block.len(), 1);
        assert_eq!(rules.block[0].record.reason, "it floods", "the kernel does not know reasons; the state does");
    })
    .unwrap();
}

/// A daemon that dies between the entry and what points at it leaves an entry without effect.
#[test]
fn an_entry_that_was_left_half_made_is_in_force_after_a_start() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        daemon.kill().unwrap();
        let map = MapData::from_pin(format!("{BPFFS}/abi_{ABI_VERSION}/{}", maps::BLOCK4)).unwrap();
        let mut block: HashMap<_, Key4, ListEntry> = Map::HashMap(map).try_into().unwrap();
        let key = Key4 { network: u32::from_be_bytes([198, 51, 100, 7]), length: 32 };
        block.insert(key, ListEntry { expires: u64::MAX / 2, origin: 0, last_match: 0 }, 0).unwrap();
        daemon.launch(sandbox).unwrap();
        assert_eq!(daemon.rules().unwrap().block.len(), 1, "it is listed");
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "and it drops");
    })
    .unwrap();
}

#[test]
fn detach_removes_everything_with_and_without_a_daemon() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        sandbox.veth("wan1", "peer1").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0", "wan1"], SECTIONS).unwrap();
        for running in [true, false] {
            if !running {
                daemon.launch(sandbox).unwrap();
                daemon.terminate().unwrap();
            }
            assert!(program("wan0").is_some() && program("wan1").is_some() && !pins().is_empty());
            let said = daemon.ok(&["detach"]).unwrap();
            assert!(said.contains("Nothing is filtered any more"), "{said}");
            if running {
                assert_eq!(daemon.wait_for_end().unwrap(), DETACHED, "by this systemd knows not to start it again");
            }
            // The kernel frees a link in the background once its last user is gone.
            let gone = || (program("wan0").is_none() && program("wan1").is_none()).then_some(());
            wait_for("the programs' end", FIVE_SECONDS, gone).unwrap();
            assert_eq!(pins(), Vec::<PathBuf>::new());
            assert!(!fs::exists(BPFFS).unwrap(), "not even the folder stays");
        }
        assert_eq!(daemon.ok(&["detach"]).unwrap().trim(), "Nothing was attached.");
    })
    .unwrap();
}

#[test]
fn a_pin_that_stays_keeps_nothing_else_in_force() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        // No file that could be removed.
        let stuck = format!("{BPFFS}/link_9999");
        fs::create_dir(&stuck).unwrap();
        let said = daemon.refused(&["detach"]).unwrap();
        assert!(said.contains("STILL THERE on this host") && said.contains(&stuck), "{said}");
        assert_eq!(daemon.wait_for_end().unwrap(), DETACHED, "it is the end all the same");
        wait_for("the program's end", FIVE_SECONDS, || program("wan0").is_none().then_some(())).unwrap();
        fs::remove_dir(stuck).unwrap();
        daemon.ok(&["detach"]).unwrap();
        assert!(!fs::exists(BPFFS).unwrap());
    })
    .unwrap();
}

#[test]
fn detach_leaves_a_daemon_that_it_cannot_reach_alone() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let (attached, pinned) = (program("wan0"), pins());
        // Its configuration was edited since.
        let config = daemon.path("ftagent.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("control.sock", "other.sock")).unwrap();
        let said = daemon.refused(&["detach"]).unwrap();
        assert!(said.contains("a daemon runs but does not answer at") && said.contains("other.sock"), "{said}");
        assert_eq!((program("wan0"), pins()), (attached, pinned));
    })
    .unwrap();
}

#[test]
fn sighup_takes_a_good_configuration_and_no_other() {
    require_root!();
    let blocking = |net: &str| format!("{SECTIONS}[lists]\nblock = [{net:?}]\n");
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], &blocking("198.51.100.0/24")).unwrap();
        for (broken, why) in [
            ("[lists]\nblock = [\"203.0.113.0/33\"]\n", "203.0.113.0/33"),
            ("[lists]\nblok = []\n", "did you mean `lists.block`?"),
            ("[lists\n", "unclosed table"),
        ] {
            let from = daemon.log().len();
            daemon.configure(broken).unwrap();
            daemon.signal(Signal::SIGHUP).unwrap();
            let said = daemon.wait_for_log(from, "The configuration was not taken; the old one stays").unwrap();
            assert!(said.contains(why), "{said}");
            assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "the old configuration is in force");
        }
        let from = daemon.log().len();
        daemon.configure(&blocking("203.0.113.0/24")).unwrap();
        daemon.signal(Signal::SIGHUP).unwrap();
        daemon.wait_for_log(from, "The configuration was read again").unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.7"));
        assert!(drops(sandbox, &veth, &daemon, "203.0.113.7"));
    })
    .unwrap();
}

/// The kernel has one entry for a prefix, whoever made it.
#[test]
fn what_the_configuration_allows_no_operator_ends() {
    require_root!();
    let allowing = |nets: &[&str]| format!("{SECTIONS}[lists]\nallow = {nets:?}\n");
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0"], &allowing(&["203.0.113.0/24"])).unwrap();
        assert!(!daemon.ok(&["block", "198.51.100.0/24"]).unwrap().contains("WARNING"));
        let said = daemon.ok(&["block", "203.0.113.0/24"]).unwrap();
        assert!(said.contains("WARNING: nothing of 203.0.113.0/24 is dropped"), "{said}");
        assert!(said.contains("`lists.allow` of the configuration"), "{said}");
        for args in [&["allow", "203.0.113.0/24", "--for", "1s"][..], &["allow", "203.0.113.0/24", "--remove"]] {
            let said = daemon.refused(args).unwrap();
            assert!(said.contains("`lists.allow` of the configuration allows 203.0.113.0/24"), "{said}");
        }
        daemon.ok(&["allow", "203.0.113.7"]).unwrap();
        daemon.ok(&["allow", "203.0.113.7", "--remove"]).unwrap();
        daemon.ok(&["allow", "198.51.100.0/24", "--for", "3s"]).unwrap();
        let reload = |daemon: &Daemon, nets: &[&str]| {
            daemon.configure(&allowing(nets)).unwrap();
            let from = daemon.log().len();
            daemon.signal(Signal::SIGHUP).unwrap();
            daemon.wait_for_log(from, "The configuration was read again").unwrap();
        };
        // It takes the operator's place, and stays when that ends, over a restart too.
        reload(&daemon, &["203.0.113.0/24", "198.51.100.0/24"]);
        let swept = || daemon.rules().unwrap().allow.is_empty().then_some(());
        wait_for("the operator's entry to be swept", PATIENCE, swept).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.7") && !drops(sandbox, &veth, &daemon, "203.0.113.7"));
        daemon.terminate().unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.7"));
        // What goes from the configuration leaves the operator's, where it has not ended.
        reload(&daemon, &["203.0.113.0/24"]);
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"));
        daemon.ok(&["allow", "198.51.100.0/24"]).unwrap();
        reload(&daemon, &["203.0.113.0/24", "198.51.100.0/24"]);
        reload(&daemon, &["203.0.113.0/24"]);
        assert!(!drops(sandbox, &veth, &daemon, "198.51.100.7"), "the operator's is back");
    })
    .unwrap();
}

/// Returns how many attachments are pinned.
fn links() -> usize {
    pins().iter().filter(|pin| pin.to_string_lossy().contains("/link_")).count()
}

#[test]
fn an_interface_that_comes_back_is_protected_again() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let veth = sandbox.veth("wan1", "peer1").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0", "wan1"], SECTIONS).unwrap();
        daemon.ok(&["block", "198.51.100.0/24"]).unwrap();
        send(sandbox, &veth, "198.51.100.7", 1000);
        let before = daemon.wait_for_interface("wan1", FIVE_SECONDS, |i| i.packets == 1000).unwrap();
        sandbox.command("ip link del wan1").unwrap();
        let gone = daemon.wait_for_interface("wan1", PATIENCE, |i| i.mode.is_none()).unwrap();
        assert!(gone.state.contains("no interface of this name"), "{}", gone.state);
        assert_eq!((gone.ifindex, gone.packets), (0, 1000), "its totals stay");
        let warnings = daemon.status().unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.contains("wan1 is NOT protected")), "{warnings:?}");
        let series = "ftagent_xdp_info{interface=\"wan1\"";
        wait_for("the metric's end", FIVE_SECONDS, || (!daemon.metrics().unwrap().contains(series)).then_some(()))
            .unwrap();

        let veth = sandbox.veth("wan1", "peer1").unwrap();
        let back = daemon.wait_for_interface("wan1", PATIENCE, |i| i.state == "protected").unwrap();
        assert_eq!((back.slot, back.ifindex), (before.slot, veth.here.ifindex));
        assert_ne!(back.ifindex, before.ifindex, "this test wants another index");
        send(sandbox, &veth, "198.51.100.7", 500);
        let after = daemon.wait_for_interface("wan1", FIVE_SECONDS, |i| i.packets == 1500).unwrap();
        assert_eq!(after.dropped_packets, 1500);
        assert_eq!(links(), 2, "the pin of the old index is gone");

        // The same while no daemon looks.
        daemon.terminate().unwrap();
        sandbox.command("ip link del wan1").unwrap();
        let veth = sandbox.veth("wan1", "peer1").unwrap();
        daemon.launch(sandbox).unwrap();
        let again = daemon.interface("wan1").unwrap();
        assert_eq!((again.slot, again.ifindex), (before.slot, veth.here.ifindex));
        send(sandbox, &veth, "198.51.100.7", 10);
        daemon.wait_for_interface("wan1", FIVE_SECONDS, |i| i.dropped_packets == 1510).unwrap();
        assert_eq!(links(), 2, "the pin of the old index is gone");
    })
    .unwrap();
}

#[test]
fn an_interface_that_is_taken_out_of_the_configuration_is_released() {
    require_root!();
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let veth = sandbox.veth("wan1", "peer1").unwrap();
        let mut daemon = Daemon::start(sandbox, &["wan0", "wan1"], SECTIONS).unwrap();
        send(sandbox, &veth, "192.0.2.7", 10);
        let before = daemon.wait_for_interface("wan1", FIVE_SECONDS, |i| i.packets == 10).unwrap();
        daemon.terminate().unwrap();
        daemon.protect(&["wan0"], SECTIONS).unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(program("wan0").is_some());
        wait_for("the program's end", FIVE_SECONDS, || program("wan1").is_none().then_some(())).unwrap();
        assert_eq!(links(), 1);
        assert_eq!(daemon.status().unwrap().interfaces.len(), 1);
        daemon.terminate().unwrap();
        daemon.protect(&["wan0", "wan1"], SECTIONS).unwrap();
        daemon.launch(sandbox).unwrap();
        let back = daemon.wait_for_interface("wan1", FIVE_SECONDS, |i| i.packets == 10).unwrap();
        assert_eq!((back.slot, back.state.as_str()), (before.slot, "protected"), "its counters waited for it");
    })
    .unwrap();
}

#[test]
fn a_full_disk_keeps_nobody_from_blocking() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let mut daemon = Daemon::new(&["wan0"], SECTIONS).unwrap();
        let state = daemon.path("state");
        fs::create_dir(&state).unwrap();
        // The mount is this sandbox's own, and so is the disk.
        sandbox.command(&format!("mount -t tmpfs -o size=64k tmpfs {}", state.display())).unwrap();
        daemon.launch(sandbox).unwrap();
        let filler = state.join("filler");
        assert_eq!(fs::write(&filler, vec![0; 1 << 20]).unwrap_err().kind(), ErrorKind::StorageFull);
        let unsaved = |daemon: &Daemon| daemon.status().unwrap().warnings.iter().any(|w| w.contains("not saved"));
        assert!(!unsaved(&daemon));
        daemon.ok(&["block", "198.51.100.0/24"]).unwrap();
        assert!(unsaved(&daemon) && drops(sandbox, &veth, &daemon, "198.51.100.7"));
        assert!(daemon.log().contains("The lists could not be saved"));
        daemon.terminate().unwrap();
        daemon.launch(sandbox).unwrap();
        assert!(drops(sandbox, &veth, &daemon, "198.51.100.7"), "the kernel kept it");
        fs::remove_file(filler).unwrap();
        wait_for("the lists to be saved", PATIENCE, || (!unsaved(&daemon)).then_some(())).unwrap();
        assert!(fs::read_to_string(state.join("lists.json")).unwrap().contains("198.51.100.0/24"));
        daemon.terminate().unwrap();
        sandbox.command(&format!("umount {}", state.display())).unwrap();
    })
    .unwrap();
}

#[test]
fn only_three_capabilities_are_kept_and_one_where_files_are_made_append_only() {
    require_root!();
    const KEPT: u64 = 1 << 39 | 1 << 38 | 1 << 12; // CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN
    const AUDIT: u64 = 1 << 9; // CAP_LINUX_IMMUTABLE
    Sandbox::run(|sandbox| {
        sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{}/task", daemon.pid().unwrap())).unwrap().collect();
        assert!(tasks.len() >= 3, "agent, poll loop and metrics");
        for task in tasks {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let set = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                u64::from_str_radix(line.trim(), 16).unwrap()
            };
            let kept = if status.starts_with("Name:\taudit\n") { AUDIT } else { KEPT };
            assert_eq!((set("CapEff:"), set("CapPrm:")), (kept, kept), "{status}");
            assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0), "{status}");
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        }
    })
    .unwrap();
}

/// Words of a counter value of [`OLD`].
const OLD_WORDS: usize = 10 + 3 * 4 + 3 * 2;
/// A layout with less room than today's.
const OLD: Layout = Layout { abi: 0, class_slots: 3, reason_slots: 2, header_bytes: 80 };

/// Pins what a daemon of version 0 would have left: two slots, of which the second is wan0's.
fn pin_older_version() {
    let dir = format!("{BPFFS}/abi_0");
    fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| format!("{dir}/{name}");
    let mut layout: Array<MapData, Layout> = Array::create(1, 0).unwrap();
    layout.set(0, OLD, 0).unwrap();
    layout.pin(path(base::LAYOUT)).unwrap();
    let mut slots: Array<MapData, SlotInfo> = Array::create(2, 0).unwrap();
    for (slot, name) in [(0, "lan0"), (1, "wan0")] {
        let mut info = SlotInfo { ifindex: 7, ..SlotInfo::default() };
        info.name[..4].copy_from_slice(name.as_bytes());
        slots.set(slot, info, 0).unwrap();
    }
    slots.pin(path(maps::SLOTS)).unwrap();
    let mut counters: PerCpuArray<MapData, [u64; OLD_WORDS]> = PerCpuArray::create(2, 0).unwrap();
    let mut value = [0; OLD_WORDS];
    value[verdict::PASS as usize] = 600;
    value[verdict::DROP as usize] = 400;
    value[10..14].copy_from_slice(&[700, 70_000, 20_000, 0]);
    value[18..22].copy_from_slice(&[300, 30_000, 20_000, 0]);
    value[22] = 200; // class 0, reason 0
    value[27] = 200; // class 2, reason 1
    let cpus = aya::util::nr_cpus().unwrap();
    counters.set(0, PerCpuValues::try_from(vec![[1; OLD_WORDS]; cpus]).unwrap(), 0).unwrap();
    let mut values = vec![[0; OLD_WORDS]; cpus];
    values[0] = value;
    counters.set(1, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
    counters.pin(path(maps::COUNTERS)).unwrap();
    Array::<MapData, u32>::create(1, 0).unwrap().pin(path(maps::BLOCK4)).unwrap();
}

#[test]
fn totals_go_on_from_counters_of_an_older_layout() {
    require_root!();
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        pin_older_version();
        let mut daemon = Daemon::start(sandbox, &["wan0"], SECTIONS).unwrap();
        let old: Vec<_> = pins().into_iter().filter(|pin| pin.starts_with(format!("{BPFFS}/abi_0"))).collect();
        let kept = ["counters", "layout", "slots"].map(|name| PathBuf::from(format!("{BPFFS}/abi_0/{name}")));
        assert_eq!(old, kept, "of the older version only what totals need stays");
        for extra in [0, 50] {
            let seen = |i: &ftagent::serve::protocol::Interface| i.packets == 1000 + extra;
            let interface = daemon.wait_for_interface("wan0", FIVE_SECONDS, seen).unwrap();
            assert_eq!((interface.dropped_packets, interface.bytes), (400, 100_000 + 52 * extra));
            for (class, packets, dropped) in [(0, 700, 200), (2, 300, 200)] {
                let name = TrafficClass::from_index(class).unwrap().as_str();
                let class = interface.classes.iter().find(|class| class.class == name).unwrap();
                assert_eq!((class.packets, class.dropped_packets, class.dropped_bytes), (packets, dropped, 20_000));
            }
            let reasons: Vec<_> = interface.reasons.iter().map(|r| (r.reason.as_str(), r.packets)).collect();
            let wanted = [0, 1].map(|reason| (DropReason::from_index(reason).unwrap().as_str(), 200));
            assert_eq!(reasons, wanted);
            if extra == 0 {
                send(sandbox, &veth, "192.0.2.7", 50);
                daemon.terminate().unwrap();
                daemon.launch(sandbox).unwrap();
            }
        }
        daemon.ok(&["detach"]).unwrap();
        assert_eq!(pins(), Vec::<PathBuf>::new());
    })
    .unwrap();
}
