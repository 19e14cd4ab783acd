//! `cargo xtask setup`: installs what is missing, and says what it found and what it did, one line each.
//!
//! Two ways to a compiler for BPF, both by package registries: Debian's rustc-web with its prebuilt `core` for BPF, or
//! rustup's nightly with rust-src. No default toolchain is changed. Running it again does nothing.

mod apt;
mod linker;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use crate::{command, host_build::Toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// Install only what building needs, not what the tests use
    #[arg(long)]
    build_only: bool,
    /// Use rustup's nightly for the kernel programs even where Debian's compiler is available
    #[arg(long)]
    rustup: bool,
}

/// How much a verb needs to be installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Build,
    BuildAndTest,
}

/// A tool of the tests: the Debian package, and what shows that it is there, a program or the path of a file.
const TEST_TOOLS: [(&str, &str); 11] = [
    ("iproute2", "ip"),
    ("ethtool", "ethtool"),
    ("nftables", "nft"),
    ("tshark", "tshark"),
    ("xdp-tools", "xdp-filter"),
    ("bpftool", "bpftool"),
    ("iputils-ping", "ping"),
    ("iptables", "iptables-restore"),
    ("openssl", "openssl"),
    ("python3", "python3"),
    ("python3-pkg-resources", "/usr/lib/python3/dist-packages/pkg_resources/__init__.py"),
];

/// Daemons that tests speak with: the Debian package, and a file that shows it is there. They are unpacked under
/// `target/peers` and not installed: an installed one would start, and listen.
const PEERS: [(&str, &str); 6] = [
    ("gobgpd", "usr/bin/gobgpd"),
    ("bird2", "usr/sbin/bird"),
    ("libssh-gcrypt-4", "usr/share/doc/libssh-gcrypt-4"),
    ("libreadline8", "usr/share/doc/libreadline8"),
    ("python3-exabgp", "usr/sbin/python3-exabgp"),
    ("prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let debian = if options.rustup { None } else { apt::Apt::find() };
    build_tools(debian.as_ref(), options.rustup)?;
    if !options.build_only {
        test_tools()?;
    }
    Ok(())
}

/// Installs what is missing for `need`, and is silent and quick when nothing is.
///
/// # Errors
/// Fails when something is missing and cannot be installed here.
pub(crate) fn ensure(need: Need) -> Result<()> {
    let build = toolchain().is_some();
    let test = need == Need::Build || missing_test_tools().is_empty();
    if build && test {
        return Ok(());
    }
    if build && !command::is_root() && command::which("sudo").is_none() {
        let missing = missing_test_tools().join(", ");
        println!("missing: {missing}; the tests that use them skip themselves and say so (root may install them)");
        return Ok(());
    }
    println!("setting this machine up first (cargo xtask setup)");
    run(&Options { build_only: need == Need::Build, rustup: false })
}

/// Returns the toolchain for the kernel programs, found the same way as the build scripts find it.
pub(crate) fn toolchain() -> Option<Toolchain> {
    Toolchain::find()
}

fn build_tools(debian: Option<&apt::Apt>, rustup_wanted: bool) -> Result<()> {
    let rustup = command::which("rustup").is_some();
    match debian.map(install_debian) {
        Some(Ok(true)) => return Ok(()),
        // Debian's own rustup package excludes its rustc-web, for example.
        Some(Err(error)) if rustup => println!("Debian's compiler: {error:#}; taking rustup's nightly instead"),
        Some(Err(error)) => return Err(error),
        Some(Ok(false)) | None => {}
    }
    if !rustup {
        let hint = if rustup_wanted { "`--rustup` needs rustup" } else { "this machine has neither Debian's" };
        bail!(
            "no way to a compiler for BPF: {hint} package libstd-rust-web-dev-bpf nor rustup; \
             install rustup (https://rustup.rs) and run `cargo xtask setup` again"
        );
    }
    linker::install_nightly()
}

/// Installs Debian's compiler and the linker built against the same LLVM. Returns false where Debian has none.
fn install_debian(apt: &apt::Apt) -> Result<bool> {
    if !apt.install_all(&["rustc-web", "libstd-rust-web-dev-bpf"])? {
        return Ok(false);
    }
    let llvm = linker::llvm_of_debian()?;
    let dev = format!("llvm-{llvm}-dev");
    let mut packages = vec![dev.as_str(), "zlib1g-dev", "libzstd-dev"];
    // The linker links against LLVM, which is C++.
    if command::which("c++").is_none() {
        packages.push("g++");
    }
    if !apt.install_all(&packages)? {
        bail!("Debian's compiler uses LLVM {llvm}, but {dev} is not available: check the APT sources");
    }
    linker::install_for(llvm)?;
    Ok(true)
}

fn test_tools() -> Result<()> {
    if let Some(apt) = apt::Apt::find() {
        apt.install_available(&TEST_TOOLS.map(|(package, _)| package))?;
        return apt.unpack_available(&PEERS, &peers_dir());
    }
    let missing = missing_test_tools();
    if missing.is_empty() {
        println!("test tools: all present");
    } else {
        println!("test tools: missing {}; install them with this system's package manager", missing.join(", "));
    }
    Ok(())
}

fn missing_test_tools() -> Vec<&'static str> {
    let apt = apt::Apt::find().is_some();
    let is_there = |sign: &str| match Path::new(sign).is_absolute() {
        // Where that is depends on the distribution.
        true => !apt || Path::new(sign).exists(),
        false => command::which(sign).is_some(),
    };
    let tools = TEST_TOOLS.iter().filter(|(_, sign)| !is_there(sign));
    let peers = if apt { apt::missing_below(&PEERS, &peers_dir()) } else { Vec::new() };
    tools.map(|(package, _)| *package).chain(peers).collect()
}

fn peers_dir() -> PathBuf {
    command::root().join("target/peers")
}
