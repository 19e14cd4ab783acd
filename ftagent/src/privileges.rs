//! The capabilities that the daemon needs; it gives up all others once its programs are attached.

use std::collections::HashSet;

use caps::{CapSet, Capability, CapsHashSet};

/// What stays: reading and writing maps, test-running the clock program, and attaching again
/// when an interface comes back.
const KEPT: [Capability; 3] = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];

/// Returns the names of those that the calling thread lacks.
///
/// # Errors
/// What capget(2) says.
pub fn missing() -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let has = caps::read(None, CapSet::Effective)?;
    Ok(KEPT.iter().filter(|capability| !has.contains(capability)).map(ToString::to_string).collect())
}

/// Drops every other capability of the calling thread, and forbids to gain any by executing a
/// program. Threads inherit it, so it is called before they are started. Returns what was kept.
///
/// # Errors
/// What capset(2) or prctl(2) say.
pub fn drop_unneeded() -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
    let has = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = KEPT.into_iter().filter(|capability| has.contains(capability)).collect();
    let none: CapsHashSet = HashSet::new();
    caps::set(None, CapSet::Ambient, &none)?;
    caps::set(None, CapSet::Inheritable, &none)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    nix::sys::prctl::set_no_new_privs()?;
    let mut kept: Vec<String> = keep.iter().map(ToString::to_string).collect();
    kept.sort();
    Ok(kept)
}

/// Drops every capability of the calling thread but the one that the append-only flag of files needs, where
/// it has that: what writes the audit log needs nothing else.
///
/// # Errors
/// As [`drop_unneeded`].
pub fn keep_for_audit() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let has = caps::read(None, CapSet::Permitted)?;
    let needed = Capability::CAP_LINUX_IMMUTABLE;
    let keep: CapsHashSet = [needed].into_iter().filter(|capability| has.contains(capability)).collect();
    let none: CapsHashSet = HashSet::new();
    caps::set(None, CapSet::Ambient, &none)?;
    caps::set(None, CapSet::Inheritable, &none)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}
