//! A disk that is full, or read-only: attacks are removed all the same, the trouble is told, and what was written
//! can be read. The file systems are real ones, of the sandbox alone.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, SystemTime},
};

use ftagent::serve::protocol::Interface;
use ftagent_tests::{
    daemon::{Daemon, PATIENCE, wait_for},
    require_root,
    sandbox::{Sandbox, Veth, skip},
    traffic::{Flood, vectors},
};

use super::{
    audit::{lines, text, verify},
    capture::{A_MINUTE, complete, declared, has_wireshark, meta, opened, wireshark},
    guard::Flooding,
};

pub(super) const SECTIONS: &str = "[learning]\ntrust_after = \"2s\"\n[services]\ndetect = false\n[mitigation]\nmode = \"enforce\"\n\
                        [capture]\nmin_free = \"0 B\"\npre_roll = \"5s\"\n";
/// What nobody has business in is removed although this host knows no clean traffic.
const KNOWN: &str = "memcached_amplification";

/// A daemon that is to protect `wan0`, and the directory that its disk is mounted at.
pub(super) struct Scene<'a> {
    pub sandbox: &'a Sandbox,
    pub veth: Veth,
    pub daemon: Daemon,
    pub state: PathBuf,
}

/// Runs a test in a sandbox of its own, where Wireshark can read what is recorded.
pub(super) fn scene(test: impl FnOnce(Scene<'_>) + Send) {
    if !has_wireshark() {
        return;
    }
    Sandbox::run(|sandbox| {
        let veth = sandbox.veth("wan0", "peer0").unwrap();
        let daemon = Daemon::new(&["wan0"], SECTIONS).unwrap();
        let state = daemon.path("state");
        fs::create_dir_all(&state).unwrap();
        test(Scene { sandbox, veth, daemon, state });
    })
    .unwrap();
}

impl Scene<'_> {
    /// Mounts a disk in memory.
    pub(super) fn mount(&self, options: &str, at: &Path) {
        self.sandbox.command(&format!("mount -t tmpfs -o {options} none {}", at.display())).unwrap();
    }

    /// Mounts one again, with other options.
    pub(super) fn remount(&self, options: &str, at: &Path) {
        self.sandbox.command(&format!("mount -o remount,{options} {}", at.display())).unwrap();
    }

    /// Starts the daemon and, when it knows what is normal, a flood.
    pub(super) fn flooded(&mut self) -> Flooding {
        self.daemon.launch(self.sandbox).unwrap();
        self.daemon.wait_for_log(0, "the baseline is trusted from now on").unwrap();
        self.flood()
    }

    pub(super) fn flood(&self) -> Flooding {
        let flood = vectors::find(KNOWN).unwrap().flood(&vectors::Link::to_here(&self.veth, false));
        Flooding::begin(self.sandbox, &self.veth, Flood { pps: Some(10_000), ..flood })
    }

    /// Stops the daemon, looks whether its log is sound, and takes its disks off.
    pub(super) fn end(mut self, mounted: &[&Path]) {
        self.daemon.terminate().unwrap();
        assert_eq!(verify(&self.daemon, &[]), (true, None));
        for at in mounted {
            self.sandbox.command(&format!("umount {}", at.display())).unwrap();
        }
    }
}

/// Fills a file system to the last byte; returns the file.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("full");
    let mut file = File::options().create(true).append(true).open(&path).unwrap();
    for piece in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![7; piece]).is_ok() {}
    }
    path
}

pub(super) fn warning(daemon: &Daemon, of: &str) -> Option<String> {
    daemon.status().unwrap().warnings.into_iter().find(|warning| warning.contains(of))
}

/// Waits until the trouble of captures and of the audit log is told, with its reason.
pub(super) fn told(daemon: &Daemon, reason: &str) {
    let mut host = 0;
    for of in ["capture ", "audit log"] {
        let found = || {
            // Something for the log, until what is left of its last page is used up.
            host += 1;
            daemon.ok(&["block", &format!("198.51.100.{}", host % 250), "--for", "1h"]).unwrap();
            let mut warnings = daemon.status().unwrap().warnings.into_iter();
            warnings.find(|warning| warning.contains(of) && warning.contains("cannot be written"))
        };
        let warning = wait_for(&format!("a warning of the {of}"), A_MINUTE, found).unwrap();
        assert!(warning.contains(reason), "{warning}");
    }
    let log = daemon.log();
    assert!(log.contains("The audit log cannot be written") && log.contains(reason), "{log}");
    let failures = |scrape: &str| -> Option<u64> {
        scrape.lines().find_map(|line| line.strip_prefix("ftagent_audit_write_failures_total ")?.parse().ok())
    };
    assert!(failures(&daemon.metrics().unwrap()).unwrap() > 0);
}

/// Waits until all of that is over.
pub(super) fn over(daemon: &Daemon) {
    let calm =
        || (warning(daemon, "capture ").is_none() && warning(daemon, "audit log cannot").is_none()).then_some(());
    wait_for("the end of the trouble", A_MINUTE, calm).unwrap();
}

/// The attack goes on being removed.
pub(super) fn removes(daemon: &Daemon) {
    let read = || daemon.interface("wan0").unwrap();
    let removed = |before: &Interface, after: &Interface| {
        let (seen, dropped) = (after.packets - before.packets, after.dropped_packets - before.dropped_packets);
        assert!(seen > 1000 && dropped as f64 > 0.99 * seen as f64, "{dropped} of {seen} dropped");
    };
    let before = read();
    thread::sleep(Duration::from_secs(2));
    removed(&before, &read());
}

/// Exports a capture and returns how many packets Wireshark reads; it must not complain.
pub(super) fn packets(daemon: &Daemon, id: &str) -> u64 {
    let file = daemon.path("exported.pcapng");
    daemon.ok(&["capture", "export", id, "--force", "--out", file.to_str().unwrap()]).unwrap();
    assert!(wireshark("capinfos", &["-M"], &file).contains("File timestamp precision:  nanoseconds (9)"));
    wireshark("tshark", &["-n", "-T", "fields", "-e", "frame.number", "-r"], &file).lines().count() as u64
}

/// Waits until an attack is removed and recorded; returns its incident.
fn recorded(daemon: &Daemon) -> String {
    let id = wait_for("an incident", PATIENCE, || opened(daemon)).unwrap();
    let on_disk = || meta(daemon, &id).filter(|meta| meta.written > 0 && !meta.interfaces.is_empty());
    wait_for("a description", PATIENCE, on_disk).unwrap();
    let enforced = || daemon.ok(&["incidents"]).unwrap().contains(KNOWN).then_some(());
    wait_for("the incident to be shown", PATIENCE, enforced).unwrap();
    id
}

#[test]
fn a_disk_that_fills_up_costs_neither_protection_nor_what_was_recorded() {
    require_root!();
    scene(|mut scene| {
        let state = scene.state.clone();
        scene.mount("size=16m", &state);
        let flooding = scene.flooded();
        let daemon = &scene.daemon;
        let id = recorded(daemon);
        let full = fill(&state);
        told(daemon, "No space left");
        removes(daemon);
        let there = packets(daemon, &id);
        assert!(there > 0);

        fs::remove_file(&full).unwrap();
        over(daemon);
        removes(daemon);
        flooding.end();
        let found = complete(daemon, &id);
        declared(&found);
        assert_eq!((packets(daemon, &id), found.lost.disk), (found.written, 0), "memory had room for the time between");
        assert!(found.written > there);
        let gap = lines(daemon, &["--action", "audit.gap"]).pop().unwrap();
        assert!(text(&gap, "reason").contains("No space left"), "{gap}");
        assert_eq!(gap["after"]["lost"], 0, "{gap}");
        assert_eq!(verify(daemon, &[]), (true, None));
        scene.end(&[&state]);
    });
}

#[test]
fn a_daemon_that_dies_and_starts_while_its_disk_is_full_goes_on_with_all_of_it() {
    require_root!();
    scene(|mut scene| {
        let state = scene.state.clone();
        scene.mount("size=16m", &state);
        let flooding = scene.flooded();
        let daemon = &mut scene.daemon;
        let id = recorded(daemon);
        // The incident has to be on disk, and the rule too: that is done every two seconds.
        thread::sleep(Duration::from_millis(2500));
        let full = fill(&state);
        told(daemon, "No space left");
        daemon.kill().unwrap();
        let there = packets(daemon, &id);
        daemon.launch(scene.sandbox).unwrap();
        told(daemon, "No space left");
        removes(daemon);
        fs::remove_file(&full).unwrap();
        over(daemon);
        let recording = || daemon.ok(&["status"]).unwrap().contains("RECORDING").then_some(());
        wait_for("the capture to go on", A_MINUTE, recording).unwrap();
        flooding.end();
        let found = complete(daemon, &id);
        assert_eq!(packets(daemon, &id), found.written, "both lives' packets");
        assert!(found.written > there, "{} after {there}", found.written);
        let starts = lines(daemon, &["--action", "daemon.start"]);
        assert_eq!(starts.len(), 2);
        assert!(text(&starts[1], "reason").contains("the life before wrote no end"), "{}", starts[1]);
        scene.end(&[&state]);
    });
}

#[test]
fn a_disk_that_becomes_writable_in_an_attack_gets_what_was_kept_in_memory() {
    require_root!();
    scene(|mut scene| {
        let state = scene.state.clone();
        let disks = ["captures", "audit"].map(|name| state.join(name));
        for disk in &disks {
            fs::create_dir(disk).unwrap();
            scene.mount("size=8m,ro", disk);
        }
        let flooding = scene.flooded();
        let daemon = &scene.daemon;
        let id = wait_for("an incident", PATIENCE, || opened(daemon)).unwrap();
        told(daemon, "Read-only file system");
        removes(daemon);
        assert!(meta(daemon, &id).is_none());
        let writable = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        for disk in &disks {
            scene.remount("rw", disk);
        }
        over(daemon);
        flooding.end();
        let found = complete(daemon, &id);
        declared(&found);
        assert_eq!(packets(daemon, &id), found.written);
        assert!(u128::from(found.first_ns.unwrap()) < writable.as_nanos(), "what was before is there too: {found:#?}");
        let actions: Vec<String> = lines(daemon, &[]).iter().map(|line| text(line, "action").to_owned()).collect();
        for wanted in ["daemon.start", "incident.open", "block.add", "audit.gap"] {
            assert!(actions.iter().any(|action| action == wanted), "{wanted} is not in {actions:?}");
        }
        let [captures, audit] = &disks;
        scene.end(&[captures, audit]);
    });
}

/// An ext4 of its own on a loop device, which an error makes read-only, as most machines are set up.
struct Ext4 {
    image: PathBuf,
    at: PathBuf,
}

impl Ext4 {
    /// Makes it and mounts it; the text says why not.
    fn mount(scene: &Scene<'_>) -> Result<Self, String> {
        let Scene { sandbox, daemon, state, .. } = scene;
        let disk = Self { image: daemon.path("disk"), at: state.clone() };
        File::create(&disk.image).and_then(|file| file.set_len(32 << 20)).map_err(|error| error.to_string())?;
        let made = sandbox.command(&format!("mkfs.ext4 -q -F {}", disk.image.display()));
        made.map_err(|error| format!("{error:#}"))?;
        disk.again(sandbox)?;
        Ok(disk)
    }

    fn again(&self, sandbox: &Sandbox) -> Result<(), String> {
        let (image, at) = (self.image.display(), self.at.display());
        let mounted = sandbox.command(&format!("mount -o loop,errors=remount-ro {image} {at}"));
        mounted.map(drop).map_err(|error| format!("{error:#}"))
    }

    /// Has the kernel find an error in it: nothing can be written from now on, to open files either.
    fn fail(&self, sandbox: &Sandbox) -> Result<(), String> {
        let source = sandbox.command(&format!("findmnt -n -o SOURCE {}", self.at.display()));
        let source = source.map_err(|error| format!("{error:#}"))?;
        let device = source.trim().rsplit('/').next().unwrap_or_default();
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "1").map_err(|error| format!("{trigger}: {error}"))
    }

    /// Repairs it, as a start of the machine does. Nobody may use it.
    fn repair(&self, sandbox: &Sandbox) {
        sandbox.command(&format!("umount {}", self.at.display())).unwrap();
        let checked = Command::new("fsck.ext4").args(["-f", "-y"]).arg(&self.image).output().unwrap();
        // 1: there was something to correct.
        assert!(checked.status.code().is_some_and(|code| code <= 1), "{checked:?}");
        self.again(sandbox).unwrap();
    }
}

/// A file system of which every write waits, until this goes.
struct Frozen<'a>(&'a Path);

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Result<Self, String> {
        let made = Command::new("fsfreeze").arg("--freeze").arg(at).output().map_err(|error| error.to_string())?;
        if made.status.success() { Ok(Self(at)) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // Whoever waits for it would wait for ever.
        let _is_seen_by_what_follows = Command::new("fsfreeze").arg("--unfreeze").arg(self.0).status();
    }
}

#[test]
fn a_disk_that_hangs_in_an_attack_is_told_and_what_waited_is_written() {
    require_root!();
    scene(|mut scene| {
        let disk = match Ext4::mount(&scene) {
            Ok(disk) => disk,
            Err(why) => return skip("a disk that hangs", &why),
        };
        let flooding = scene.flooded();
        let daemon = &scene.daemon;
        let id = recorded(daemon);
        let frozen = match Frozen::new(&disk.at) {
            Ok(frozen) => frozen,
            Err(why) => {
                flooding.end();
                return skip("a disk that hangs", &why);
            }
        };
        wait_for("it to be told", A_MINUTE, || warning(daemon, "has not answered for")).unwrap();
        removes(daemon);
        drop(frozen);
        let is_over = || warning(daemon, "has not answered for").is_none().then_some(());
        wait_for("it to be over", A_MINUTE, is_over).unwrap();
        flooding.end();
        over(daemon);
        let found = complete(daemon, &id);
        assert_eq!(packets(daemon, &id), found.written);
        scene.end(&[&disk.at]);
    });
}

#[test]
fn a_disk_that_fails_in_an_attack_is_read_only_and_its_repair_finds_everything_sound() {
    require_root!();
    scene(|mut scene| {
        let disk = match Ext4::mount(&scene) {
            Ok(disk) => disk,
            Err(why) => return skip("a disk that fails", &why),
        };
        let flooding = scene.flooded();
        let daemon = &mut scene.daemon;
        let id = recorded(daemon);
        // A description is written, and all before it is on disk, every ten seconds.
        let described = || meta(daemon, &id).filter(|meta| meta.written > 1000);
        let described = wait_for("a description", A_MINUTE, described).unwrap();
        if let Err(why) = disk.fail(scene.sandbox) {
            flooding.end();
            return skip("a disk that fails", &why);
        }
        told(daemon, "Read-only file system");
        removes(daemon);
        assert!(packets(daemon, &id) >= described.written, "what was on disk is read");
        daemon.terminate().unwrap();
        assert!(daemon.log().contains("The end of the audit log could not be written"));
        disk.repair(scene.sandbox);
        assert_eq!(verify(daemon, &[]), (true, None), "what is there is sound");
        let there = packets(daemon, &id);
        assert!(there >= described.written, "{there} of {} at least", described.written);

        daemon.launch(scene.sandbox).unwrap();
        let recording = || daemon.ok(&["status"]).unwrap().contains("RECORDING").then_some(());
        wait_for("the capture to go on", A_MINUTE, recording).unwrap();
        removes(daemon);
        flooding.end();
        let found = complete(daemon, &id);
        assert_eq!(packets(daemon, &id), found.written, "both lives' packets");
        assert!(
            found.written > there && found.notes.iter().any(|note| note.contains("the daemon ended")),
            "{found:#?}"
        );
        let starts = lines(daemon, &["--action", "daemon.start"]);
        assert!(text(starts.last().unwrap(), "reason").contains("the life before wrote no end"), "{starts:?}");
        scene.end(&[&disk.at]);
    });
}
