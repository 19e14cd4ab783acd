//! Pins: what outlives the daemon, and the checks before it is used again.
//!
//! ```text
//! <bpffs>/abi_<N>/<map>      the maps of ABI version N
//! <bpffs>/abi_<N>/layout     how the counters of version N are laid out
//! <bpffs>/link_<ifindex>     the attachment of an interface
//! ```
//!
//! aya reuses a pinned map without a look at it, so every pin is compared here first. A daemon of
//! another ABI version finds the older directory, leaves its counters pinned as a base to add to
//! its own, and drops the rest once its own program is attached.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{MapInfo, MapType};
use ftagent_common::{
    abi::{
        ABI_VERSION, ALLOW_ENTRIES, BLOCK_ENTRIES, CAPTURE_RING_BYTES, Clock, Control, IFACE_SLOTS, SAMPLE_RING_BYTES,
        Sampling, SlotInfo, maps,
    },
    counters::IfaceCounters,
    guard::{Guard, OWN_ADDRESSES, OwnAddress, SCRATCH_BYTES},
    lists::{FILTER4_WORDS, FILTER6_WORDS, Key4, Key6, ListEntry},
    rules,
    tripwire::{CEILINGS, Ceiling},
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use thiserror::Error;

/// Why pins could not be used.
#[derive(Debug, Error)]
pub enum PinError {
    /// A file system operation failed.
    #[error("{}: {what}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The directory is on another file system than bpffs.
    #[error(
        "{} is not on a BPF file system: mount one with `mount -t bpf bpf {}`, or set `paths.bpffs`",
        path.display(), mount.display()
    )]
    NotBpffs {
        /// The directory for pins.
        path: PathBuf,
        /// Where to mount.
        mount: PathBuf,
    },
    /// A pin holds something else than this version's map.
    #[error(
        "the pin {} is not this version's map ({differences}): run `ftagent detach` to remove all pins \
         (this stops filtering until the next start), or remove that file",
        path.display()
    )]
    Incompatible {
        /// The pin.
        path: PathBuf,
        /// Every difference.
        differences: String,
    },
}

/// What a map must look like.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Name of the map and its pin.
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
    flags: u32,
}

const MMAPABLE: u32 = 1 << 10; // BPF_F_MMAPABLE
const NO_PREALLOC: u32 = 1; // BPF_F_NO_PREALLOC

/// The maps of this version. A test compares the table with the object.
pub const EXPECTED: [Expected; 24] = {
    use MapType::{Array, ArrayOfMaps, Hash, PerCpuArray, RingBuf};
    const fn map(name: &'static str, kind: MapType, key: usize, value: usize, entries: u32, flags: u32) -> Expected {
        Expected { name, kind, key, value, entries, flags }
    }
    const fn list4(name: &'static str, entries: u32) -> Expected {
        map(name, Hash, size_of::<Key4>(), size_of::<ListEntry>(), entries, NO_PREALLOC)
    }
    const fn list6(name: &'static str, entries: u32) -> Expected {
        map(name, Hash, size_of::<Key6>(), size_of::<ListEntry>(), entries, NO_PREALLOC)
    }
    [
        map(maps::COUNTERS, PerCpuArray, 4, size_of::<IfaceCounters>(), IFACE_SLOTS, 0),
        map(maps::CONTROL, Array, 4, size_of::<Control>(), 1, MMAPABLE),
        map(maps::SAMPLING, Array, 4, size_of::<Sampling>(), 1, 0),
        map(maps::SERVICE_PORTS, Array, 4, 8, 1024, 0),
        map(maps::FILTER4, Array, 4, 8, 2 * FILTER4_WORDS, MMAPABLE),
        map(maps::FILTER6, Array, 4, 8, 2 * FILTER6_WORDS, MMAPABLE),
        list4(maps::BLOCK4, BLOCK_ENTRIES),
        list6(maps::BLOCK6, BLOCK_ENTRIES),
        map(maps::FEED4, ArrayOfMaps, 4, 4, 2, 0),
        map(maps::FEED6, ArrayOfMaps, 4, 4, 2, 0),
        list4(maps::ALLOW4, ALLOW_ENTRIES),
        list6(maps::ALLOW6, ALLOW_ENTRIES),
        map(maps::RULES, Array, 4, size_of::<rules::Table>(), 2, MMAPABLE),
        map(maps::RULE_STATES, Array, 4, size_of::<rules::State>(), rules::RULES as u32, MMAPABLE),
        map(maps::RULE_COUNTERS, PerCpuArray, 4, size_of::<rules::Counters>(), 1, 0),
        map(maps::SAMPLES, RingBuf, 0, 0, SAMPLE_RING_BYTES, 0),
        map(maps::CAPTURES, RingBuf, 0, 0, CAPTURE_RING_BYTES, 0),
        map(maps::GUARD, Array, 4, size_of::<Guard>(), 1, MMAPABLE),
        map(maps::GUARD_PORTS, Array, 4, 4, 65_536, MMAPABLE),
        map(maps::GUARD_SCRATCH, PerCpuArray, 4, SCRATCH_BYTES, 1, 0),
        map(maps::OWN_ADDRESSES, Hash, size_of::<OwnAddress>(), 4, OWN_ADDRESSES, NO_PREALLOC),
        map(maps::CEILINGS, Array, 4, size_of::<Ceiling>(), CEILINGS as u32, MMAPABLE),
        map(maps::SLOTS, Array, 4, size_of::<SlotInfo>(), IFACE_SLOTS, 0),
        map(maps::CLOCK, Array, 4, size_of::<Clock>(), 1, MMAPABLE),
    ]
};

impl Expected {
    /// Returns every difference between a map and what it must look like.
    pub fn differences(&self, info: &MapInfo) -> Vec<String> {
        let Self { name: _, kind, key, value, entries, flags } = *self;
        let mut found = Vec::new();
        match info.map_type() {
            Ok(is) if is == kind => {}
            Ok(is) => found.push(format!("type {is:?}, wanted {kind:?}")),
            Err(_) => found.push(format!("a type that is not known here, wanted {kind:?}")),
        }
        let numbers = [
            ("key size", info.key_size(), key as u32),
            ("value size", info.value_size(), value as u32),
            ("entries", info.max_entries(), entries),
            ("flags", info.map_flags(), flags),
        ];
        found.extend(
            numbers
                .iter()
                .filter(|(_, is, want)| is != want)
                .map(|(what, is, want)| format!("{what} {is}, wanted {want}")),
        );
        found
    }
}

/// The directory that holds this daemon's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Prepares the directory: mounts a BPF file system on `/sys/fs/bpf` where there is none and
    /// the directory is below it, creates the directories, and checks what is pinned there.
    ///
    /// # Errors
    /// See [`PinError`]; nothing that is pinned is touched.
    pub fn prepare(root: &Path) -> Result<Self, PinError> {
        const BPFFS: &str = "/sys/fs/bpf";
        let fail = |what: &'static str| {
            let path = root.to_owned();
            move |source: io::Error| PinError::Io { what, path, source }
        };
        if root.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
            nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>)
                .map_err(|errno| fail("mounting a BPF file system on /sys/fs/bpf")(errno.into()))?;
        }
        let pins = Self { root: root.to_owned() };
        // bpffs knows only its own files, so the nearest directory that exists tells.
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        if !is_bpffs(existing) {
            let mount = root.parent().unwrap_or(root).to_owned();
            return Err(PinError::NotBpffs { path: root.to_owned(), mount });
        }
        fs::create_dir_all(pins.maps()).map_err(fail("creating the directory for pins"))?;
        pins.check()?;
        Ok(pins)
    }

    /// Opens the directory without preparing or checking anything.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the directory of this version's maps.
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("abi_{ABI_VERSION}"))
    }

    /// Returns where the attachment of an interface is pinned.
    pub fn link(&self, ifindex: u32) -> PathBuf {
        self.root.join(format!("link_{ifindex}"))
    }

    /// Returns the pinned attachments, with the interface index in each name.
    pub fn links(&self) -> Vec<(u32, PathBuf)> {
        let ifindex = |path: &Path| path.file_name()?.to_str()?.strip_prefix("link_")?.parse().ok();
        entries(&self.root).into_iter().filter_map(|path| Some((ifindex(&path)?, path))).collect()
    }

    /// Returns the directories that other ABI versions left.
    pub fn foreign_maps(&self) -> Vec<PathBuf> {
        let own = self.maps();
        let is_maps =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"abi_"));
        entries(&self.root).into_iter().filter(|path| is_maps(path) && *path != own).collect()
    }

    /// Removes everything: programs whose last reference was a pin are detached by this. Returns
    /// the pins that were removed, and those that could not be. One that stays keeps no other.
    pub fn remove_all(&self) -> (Vec<PathBuf>, Vec<PinError>) {
        let (mut removed, mut stuck) = (Vec::new(), Vec::new());
        let mut note = |path: PathBuf, result: io::Result<()>, is_pin: bool| match result {
            Ok(()) if is_pin => removed.push(path),
            Ok(()) => {}
            Err(source) => stuck.push(PinError::Io { what: "removing a pin", path, source }),
        };
        // Links first: once they are gone nothing filters with maps that lose their pins.
        for (_, path) in self.links() {
            let result = fs::remove_file(&path);
            note(path, result, true);
        }
        for dir in self.foreign_maps().into_iter().chain([self.maps()]) {
            for path in entries(&dir) {
                let result = fs::remove_file(&path);
                note(path, result, true);
            }
            // What is still in it was named.
            if dir.exists() && entries(&dir).is_empty() {
                let result = fs::remove_dir(&dir);
                note(dir, result, false);
            }
        }
        if self.root.exists() && entries(&self.root).is_empty() {
            note(self.root.clone(), fs::remove_dir(&self.root), false);
        }
        (removed, stuck)
    }

    /// Removes every pin of a directory but the named ones.
    ///
    /// # Errors
    /// The first that could not be removed.
    pub fn keep_only(dir: &Path, names: &[&str]) -> io::Result<()> {
        let kept = |path: &Path| path.file_name().is_some_and(|file| names.iter().any(|name| file == *name));
        entries(dir).into_iter().filter(|path| !kept(path)).try_for_each(fs::remove_file)
    }

    fn check(&self) -> Result<(), PinError> {
        for expected in &EXPECTED {
            let path = self.maps().join(expected.name);
            if !path.exists() {
                continue;
            }
            let differences = match MapInfo::from_pin(&path) {
                Ok(info) => expected.differences(&info),
                Err(error) => vec![format!("it cannot be opened as a map: {error}")],
            };
            if !differences.is_empty() {
                return Err(PinError::Incompatible { path, differences: differences.join("; ") });
            }
        }
        Ok(())
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
