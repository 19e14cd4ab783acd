// Builds the kernel programs from a build script on the host. Included by path from the build
// scripts of `ftagent` and of the tests: neither can depend on a crate for the BPF target. `xtask`
// includes it too, for `Toolchain::find`: what setup installs is then what the build looks for.
//
// Two ways to a BPF toolchain, tried in this order; `cargo xtask setup` installs either:
//   1. Debian's rustc-web with libstd-rust-web-dev-bpf: a prebuilt `core` for BPF;
//   2. rustup's nightly with rust-src: `core` is built from source.
// Both need bpf-linker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// Builds the programs and copies the named ones to `OUT_DIR`.
///
/// With `FTAGENT_SKIP_EBPF=1` empty files stand in for them, for documentation and lints.
pub(crate) fn build_programs(names: &[&str]) {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("..");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    for dir in ["ftagent-ebpf", "ftagent-common"] {
        println!("cargo::rerun-if-changed={}", root.join(dir).display());
    }
    println!("cargo::rerun-if-env-changed=FTAGENT_SKIP_EBPF");
    println!("cargo::rerun-if-env-changed=PATH");
    if env::var("FTAGENT_SKIP_EBPF").is_ok_and(|v| v == "1") {
        for name in names {
            write(&out.join(name), &[]);
        }
        return;
    }
    let Some(toolchain) = Toolchain::find() else {
        refuse("No toolchain for BPF was found on this machine: run `cargo xtask setup` once, then build again.");
    };
    // OUT_DIR is <target>/<profile>/build/<package>/out; the programs get one directory of their
    // own there, which every build script shares.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let status = toolchain.cargo(&root, &target_dir, target).status();
    if !status.as_ref().is_ok_and(|s| s.success()) {
        fail(&format!("Building the kernel programs failed ({status:?}); the compiler's messages are above."));
    }
    for name in names {
        let object = target_dir.join(target).join("release").join(name);
        match fs::read(&object) {
            Ok(bytes) => write(&out.join(name), &bytes),
            Err(error) => fail(&format!("{}: {error}", object.display())),
        }
    }
}

/// A compiler for the BPF target, and the linker that goes with it.
pub(crate) enum Toolchain {
    Debian { linker: PathBuf },
    Nightly { linker: PathBuf },
}

impl Toolchain {
    /// Returns the toolchain that this machine has, or none if a part of it is missing.
    pub(crate) fn find() -> Option<Self> {
        let home = || {
            env::var_os("CARGO_HOME")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        };
        let paths = env::var_os("PATH").unwrap_or_default();
        let linker = env::split_paths(&paths)
            .chain(home().map(|h| h.join("bin")))
            .map(|dir| dir.join("bpf-linker"))
            .find(|path| path.is_file())?;
        if Path::new("/usr/bin/rustc").is_file() && Path::new("/usr/lib/rustlib/bpfel-unknown-none").is_dir() {
            return Some(Self::Debian { linker });
        }
        let sysroot = Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout).ok()?.trim());
        sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file().then_some(Self::Nightly { linker })
    }

    fn cargo(&self, root: &Path, target_dir: &Path, target: &str) -> Command {
        let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        let arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
        // v3: 32-bit ALU and jumps, kernel 5.1. BTF and line numbers are for the verifier's log.
        let mut flags = vec![arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf", "-Ctarget-cpu=v3"];
        // Headers lie at even addresses; where the JIT's machine reads unaligned words as they are
        // (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS), a field is one load. Elsewhere it is two.
        if arch.contains("\"x86_64\"") || arch.contains("\"aarch64\"") {
            flags.push("-Ctarget-feature=+allows-misaligned-mem-access");
        }
        let flags = flags.join("\x1f");
        let (mut cargo, linker) = match self {
            Self::Debian { linker } => {
                let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                // Unstable is `asm_experimental_arch` alone: aya-ebpf's, and our atomic additions'.
                cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "aya_ebpf,ftagent_datapath");
                (cargo, linker)
            }
            Self::Nightly { linker } => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo", "-Zbuild-std=core"]).env_remove("RUSTC");
                (cargo, linker)
            }
        };
        for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_MAKEFLAGS", "RUSTUP_TOOLCHAIN"] {
            if !(name == "RUSTUP_TOOLCHAIN" && matches!(self, Self::Debian { .. })) {
                cargo.env_remove(name);
            }
        }
        cargo
            .current_dir(root)
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .env(format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase()), linker)
            .args(["build", "--package=ftagent-ebpf", "--bins", "--release", "--locked"])
            .arg(format!("--target={target}"))
            .arg(format!("--target-dir={}", target_dir.display()));
        cargo
    }
}

fn write(path: &Path, bytes: &[u8]) {
    if let Err(error) = fs::write(path, bytes) {
        fail(&format!("{}: {error}", path.display()));
    }
}

/// Fails the build; cargo shows everything that was written, a compiler's messages too.
fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    exit(1)
}

/// Fails the build with one sentence. The script itself succeeds: otherwise cargo would bury the sentence under
/// everything that the script wrote.
fn refuse(sentence: &str) -> ! {
    println!("cargo::error={sentence}");
    exit(0)
}
