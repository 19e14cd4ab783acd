//! Programs that tests speak with: those of this system, or those that `cargo xtask setup` unpacked.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::sandbox::skip;

/// Where `cargo xtask setup` unpacks them; the system's own come second.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");

/// A program that is unpacked, where it lies in Debian's package, and the package.
const PROGRAMS: [(&str, &str, &str); 8] = [
    ("gobgpd", "usr/bin/gobgpd", "gobgpd"),
    ("gobgp", "usr/bin/gobgp", "gobgpd"),
    ("bird", "usr/sbin/bird", "bird2"),
    ("birdc", "usr/sbin/birdc", "bird2"),
    ("exabgp", "usr/sbin/python3-exabgp", "python3-exabgp"),
    ("exabgp-cli", "usr/sbin/python3-exabgpcli", "python3-exabgp"),
    ("prometheus-alertmanager", "usr/bin/prometheus-alertmanager", "prometheus-alertmanager"),
    ("amtool", "usr/bin/amtool", "prometheus-alertmanager"),
];

/// Returns whether this machine has all of the programs; where one is missing, notes that `what` is skipped.
pub fn need(what: &str, programs: &[&str]) -> bool {
    let Some(missing) = programs.iter().find(|name| program(name).is_none()) else { return true };
    let unavailable = fs::read_to_string(unpacked().join("unavailable")).unwrap_or_default();
    let package = PROGRAMS.iter().find(|(known, ..)| known == missing).map(|(.., package)| *package);
    let remedy = match package {
        Some(package) if unavailable.lines().any(|name| name == package) => "this system has no package of it",
        _ => "`cargo xtask setup` installs it",
    };
    skip(what, &format!("{missing} is not there: {remedy}"));
    false
}

/// Returns a command that runs the program; `None` where this machine does not have it, and a test that needs it
/// skips itself.
pub fn program(name: &str) -> Option<Command> {
    let root = unpacked();
    let inside = PROGRAMS.iter().find(|(known, ..)| *known == name).map(|(_, path, _)| root.join(path));
    let Some(path) = inside.filter(|path| path.exists()) else { return found(name).map(Command::new) };
    let mut command = Command::new(path);
    // What is unpacked finds neither its libraries nor its modules by itself.
    let libraries = ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu"];
    let libraries: Vec<PathBuf> = libraries.map(|dir| root.join(dir)).into_iter().filter(|dir| dir.is_dir()).collect();
    if let Ok(libraries) = env::join_paths(libraries) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command.env("PYTHONPATH", root.join("usr/lib/python3/dist-packages"));
    Some(command)
}

/// Returns the directory below which packages are unpacked.
pub fn unpacked() -> &'static Path {
    Path::new(UNPACKED)
}

fn found(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}
