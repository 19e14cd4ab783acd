//! Daemons that tests speak with: those of this system, or those that `cargo xtask setup` unpacked.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Where `cargo xtask setup` unpacks them; the system's own come second.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers");

/// A program, and where it lies in Debian's package.
const PROGRAMS: [(&str, &str); 8] = [
    ("gobgpd", "usr/bin/gobgpd"),
    ("gobgp", "usr/bin/gobgp"),
    ("bird", "usr/sbin/bird"),
    ("birdc", "usr/sbin/birdc"),
    ("exabgp", "usr/sbin/python3-exabgp"),
    ("exabgp-cli", "usr/sbin/python3-exabgpcli"),
    ("prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
    ("amtool", "usr/bin/amtool"),
];

/// Returns a command that runs the program; `None` where this machine does not have it, and a test that needs it
/// skips itself.
pub fn program(name: &str) -> Option<Command> {
    let root = unpacked();
    let inside = PROGRAMS.iter().find(|(known, _)| *known == name).map(|(_, path)| root.join(path));
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
