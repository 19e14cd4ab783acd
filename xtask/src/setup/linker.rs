//! bpf-linker, built against the LLVM of the compiler whose bitcode it reads.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::command;

/// The release the kernel programs are built and tested with.
const VERSION: &str = "0.13.0";

/// Debian's compiler, as `ftagent-ebpf/host_build.rs` looks for it.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Returns the major version of LLVM in Debian's compiler.
///
/// # Errors
/// Fails when the compiler does not start or does not say.
pub(super) fn llvm_of_debian() -> Result<u32> {
    llvm_of(&mut Command::new(DEBIAN_RUSTC))
}

fn llvm_of(rustc: &mut Command) -> Result<u32> {
    let text = command::output(rustc.arg("-vV"))?;
    llvm_major(&text).with_context(|| format!("`{}` names no LLVM version", command::shown(rustc)))
}

/// Installs bpf-linker for Debian's compiler, unless the right one is there.
///
/// # Errors
/// Fails when cargo cannot build it.
pub(super) fn install_for(llvm: u32) -> Result<()> {
    if present(llvm)? {
        return Ok(());
    }
    build(llvm, Path::new(&format!("/usr/lib/llvm-{llvm}")))
}

/// Installs rustup's nightly with the sources of `core`, beside the default toolchain, and bpf-linker.
///
/// # Errors
/// Fails when rustup or cargo do.
pub(super) fn install_nightly() -> Result<()> {
    let source = "lib/rustlib/src/rust/library/Cargo.lock";
    let sysroot = command::output(nightly_rustc().args(["--print", "sysroot"]));
    if sysroot.is_ok_and(|root| Path::new(root.trim()).join(source).is_file()) {
        println!("rustup nightly with rust-src: present");
    } else {
        add_nightly()?;
    }
    let llvm = llvm_of(&mut nightly_rustc())?;
    if present(llvm)? {
        return Ok(());
    }
    let prefix = llvm_prefix(llvm).with_context(|| {
        format!(
            "bpf-linker must be built against nightly's LLVM {llvm}, which is not here: install its development files \
             (LLVM_PREFIX says where), or put a finished bpf-linker {VERSION} on PATH \
             (https://github.com/aya-rs/bpf-linker/releases)"
        )
    })?;
    build(llvm, &prefix)
}

/// Returns where an LLVM with its headers is installed: where the caller says, or in the places distributions use.
fn llvm_prefix(llvm: u32) -> Option<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Some(prefix.into());
    }
    let of_config = |name: &str| {
        let config = command::which(name)?;
        let version = command::output(Command::new(&config).arg("--version")).ok()?;
        let matches = version.split('.').next() == Some(&llvm.to_string());
        let prefix = command::output(Command::new(&config).arg("--prefix")).ok()?;
        matches.then(|| PathBuf::from(prefix.trim()))
    };
    of_config(&format!("llvm-config-{llvm}")).or_else(|| of_config("llvm-config"))
}

fn nightly_rustc() -> Command {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc"]);
    rustc
}

/// Adds nightly, and takes back that rustup makes the first toolchain it ever installs the default.
fn add_nightly() -> Result<()> {
    let default = || command::output(Command::new("rustup").arg("default")).unwrap_or_default();
    let before = default();
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    command::run(rustup.arg("--no-self-update"))
        .context("no compiler for BPF: Debian's is not available here, and rustup could not install nightly")?;
    if default() != before {
        let name = before.split_whitespace().next().unwrap_or("none");
        command::run(Command::new("rustup").args(["default", name]))?;
    }
    println!("rustup nightly with rust-src: installed (the default toolchain is unchanged)");
    Ok(())
}

fn build(llvm: u32, prefix: &Path) -> Result<()> {
    println!("bpf-linker: building {VERSION} for LLVM {llvm}, one to two minutes");
    let mut install = command::cargo();
    install.args(["install", "bpf-linker", "--version", &format!("={VERSION}"), "--locked", "--force", "--quiet"]);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]).env("LLVM_PREFIX", prefix);
    // A linker is no part of this workspace's build: keep it out of a target directory that may be cached.
    install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command::run(&mut install).context("bpf-linker could not be built")?;
    let found = command::which("bpf-linker")
        .context("bpf-linker was built, but is not in cargo's bin directory: unset CARGO_INSTALL_ROOT and try again")?;
    if !is_right(&found) {
        bail!(
            "{} stands before the bpf-linker just built: remove it, or put cargo's bin directory first",
            found.display()
        );
    }
    println!("bpf-linker: installed, {VERSION}");
    Ok(())
}

/// Returns whether the right bpf-linker is there, and says so.
fn present(llvm: u32) -> Result<bool> {
    let Some(path) = command::which("bpf-linker") else {
        return Ok(false);
    };
    if !is_right(&path) {
        println!("bpf-linker: {} is not {VERSION}, replacing it", path.display());
        return Ok(false);
    }
    let libraries = command::output(Command::new("ldd").arg(&path)).unwrap_or_default();
    if let Some(linked) = linked_llvm(&libraries)
        && linked != llvm
    {
        println!("bpf-linker: built for LLVM {linked}, but the compiler has {llvm}; replacing it");
        return Ok(false);
    }
    println!("bpf-linker: present, {VERSION}");
    Ok(true)
}

/// A linker whose LLVM was removed does not start: that is one to replace, too.
fn is_right(path: &Path) -> bool {
    let answer = command::output(Command::new(path).arg("--version")).unwrap_or_default();
    answer.trim() == format!("bpf-linker {VERSION}")
}

fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// Returns the LLVM that a program is linked with dynamically, from ldd's listing; none if it carries its own.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let (_, rest) = libraries.split_once("libLLVM")?;
    let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_names_its_llvm() {
        assert_eq!(llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_llvm_of_a_linker_is_read_from_either_library_name() {
        assert_eq!(linked_llvm("\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n"), Some(22));
        assert_eq!(linked_llvm("\tlibLLVM-14.so.1 => /lib/libLLVM-14.so.1 (0x0)\n"), Some(14));
        assert_eq!(linked_llvm("\tlibc.so.6 => /lib/libc.so.6 (0x0)\n"), None);
    }
}
