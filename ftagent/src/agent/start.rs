//! What a start makes sure of before it does anything.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use thiserror::Error;
use tracing::warn;

use super::iface::Iface;
use crate::{
    bpf::{self, attach::Mode, base, pins::Pins, slots},
    config::{Config, InterfaceName, Paths},
    record::is_of_disk,
    sense::host::{HostFacts, HostRoot},
};

/// The kernel would only say that something is not permitted, and after half of the work.
pub(super) fn check_privileges() -> Result<()> {
    match crate::privileges::missing() {
        Ok(missing) if missing.is_empty() => Ok(()),
        Ok(missing) => bail!(
            "this process lacks {}: run it as root, or give its service all of CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            missing.join(", ")
        ),
        Err(error) => {
            warn!(%error, "The capabilities of this process could not be read.");
            Ok(())
        }
    }
}

/// Makes sure that this is the only daemon with this state directory, and makes it where it is not there. A disk that
/// cannot be written is no reason to leave a node unprotected: the directory itself is locked, too, which needs none.
pub(super) fn lock_state(state: &Path) -> Result<Vec<Flock<File>>> {
    const WHAT: &str = "the state directory";
    match fs::create_dir_all(state) {
        Err(error) if !is_of_disk(&error) => {
            return Err(error).with_context(|| format!("creating the state directory {}", state.display()));
        }
        _ => {}
    }
    // Nobody else can have what is not there.
    let there = |found: io::Result<File>| match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        found => Some(found),
    };
    let path = state.join("lock");
    let file = match File::create(&path) {
        Err(error) if is_of_disk(&error) => there(File::open(&path)),
        // The directory could not be made.
        found => there(found),
    };
    let dir = there(File::open(state));
    file.into_iter().chain(dir).map(|file| lock(state, file, WHAT)).collect()
}

/// Keeps daemons away while one's work is undone where none runs.
///
/// # Errors
/// [`Held`] where one runs; what the file system says.
pub(crate) fn lock_out(config: &Config) -> Result<Vec<Flock<File>>> {
    let Paths { state, bpffs, .. } = &config.paths;
    // A daemon whose configuration named another state directory has the pins, and no disk is needed to know that.
    let pins = bpffs.exists().then(|| lock(bpffs, File::open(bpffs), PINS)).transpose()?;
    let mut locks = if state.exists() { lock_state(state)? } else { Vec::new() };
    locks.extend(pins);
    Ok(locks)
}

/// Another daemon has the lock.
#[derive(Debug, Error)]
#[error("another ftagent runs with {what} {}: stop it first", dir.display())]
pub(crate) struct Held {
    /// What is locked.
    what: &'static str,
    /// The directory.
    dir: PathBuf,
}

/// What is locked beside the state directory.
pub(super) const PINS: &str = "the pins in";

/// Makes sure that this is the only daemon with this directory of state or pins: two would undo
/// each other's lists, and the second would take the first one's attachments over.
pub(super) fn lock(dir: &Path, file: io::Result<File>, what: &'static str) -> Result<Flock<File>> {
    let file = file.with_context(|| format!("opening the lock of {what} {}", dir.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Held { what, dir: dir.to_owned() }.into(),
        errno => anyhow::Error::new(errno).context(format!("locking {what} {}", dir.display())),
    })
}

/// Resolves `auto` and checks that every interface exists.
pub(super) fn interface_names(config: &Config, host: &HostRoot) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for wanted in &config.interfaces.names {
        match wanted {
            InterfaceName::Named(name) => names.push(name.clone()),
            InterfaceName::Auto => {
                let facts = HostFacts::read(host);
                let found = facts.default_interfaces();
                if found.is_empty() {
                    bail!(
                        "no interface has a default route: name one in `interfaces.names` (or `ftagent run --interface NAME`)"
                    );
                }
                names.extend(found.into_iter().map(str::to_owned));
            }
        }
    }
    names.sort();
    names.dedup();
    for name in &names {
        if bpf::attach::ifindex(name).is_none() {
            bail!("there is no interface `{name}`: `ip link` lists those there are");
        }
    }
    Ok(names)
}

/// Loads one object for each interface. Slots come from a map, so the first is loaded twice
/// where its slot is not 0.
pub(super) fn load(names: &[String], mode: Mode, pins: &Pins) -> Result<Vec<Iface>> {
    let Some(first) = names.first() else { bail!("no interface is configured") };
    let probe = Iface::load(first, 0, mode, pins)?;
    base::pin_layout(pins)?;
    let slots = slots::assign(&probe.ebpf, names)?;
    let mut probe = Some(probe).filter(|_| slots.first() == Some(&0));
    let pairs = names.iter().zip(slots);
    pairs
        .map(|(name, slot)| match probe.take() {
            Some(loaded) => Ok(loaded),
            None => Ok(Iface::load(name, slot, mode, pins)?),
        })
        .collect()
}
