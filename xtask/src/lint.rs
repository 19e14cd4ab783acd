//! `cargo xtask lint`: formatting, clippy and documentation; any warning is a failure.

use anyhow::{Context as _, Result};

use crate::{command, setup, test::HOST_CRATES};

/// Lints that do not hold for the kernel programs, each with its reason.
const KERNEL_EXCEPTIONS: [&str; 2] = [
    // aya-ebpf's attribute macros do not carry doc comments over to the functions they generate.
    "-Amissing_docs",
    // Map keys are passed by reference on purpose: aya-ebpf 0.3 takes nothing else.
    "-Aclippy::needless_borrows_for_generic_args",
];

/// Lints for the kernel programs alone: the kernel has no floating point. Indices that cannot be out of range are
/// allowed; one that can is a panic path, and the verifier refuses the program.
const KERNEL_BANS: [&str; 1] = ["-Dclippy::float_arithmetic"];

pub(crate) fn run() -> Result<()> {
    println!("formatting");
    command::run(command::cargo().args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;

    println!("clippy, host crates");
    let mut clippy = command::cargo();
    clippy.args(["clippy", "--quiet", "--locked", "--all-targets"]).args(HOST_CRATES);
    command::run(without_toolchain(&mut clippy).args(["--", "-Dwarnings"]))?;

    println!("clippy, kernel programs (as host code: clippy has no BPF target)");
    command::run(&mut kernel_clippy()?)?;

    println!("documentation");
    let mut doc = command::cargo();
    doc.args(["doc", "--quiet", "--locked", "--no-deps"]).args(HOST_CRATES).env("RUSTDOCFLAGS", "-Dwarnings");
    command::run(without_toolchain(&mut doc))
}

/// Lets a command that generates no code do without a BPF toolchain. With one, the build scripts' results are shared
/// with the build instead of being made twice.
fn without_toolchain(command: &mut std::process::Command) -> &mut std::process::Command {
    if setup::toolchain().is_none() {
        command.env("FTAGENT_SKIP_EBPF", "1");
    }
    command
}

/// Checks the kernel programs as if they were for this machine: nothing is linked, so the lack of `std` does no harm.
fn kernel_clippy() -> Result<std::process::Command> {
    let mut clippy = command::cargo();
    clippy.args(["clippy", "--quiet", "--locked", "--package=ftagent-ebpf"]);
    // Without std there is no unwinding. The profile differs from the workspace's, hence the directory of its own.
    clippy.env("CARGO_PROFILE_DEV_PANIC", "abort").arg("--target-dir").arg(command::target_dir()?.join("lint-ebpf"));
    clippy.args(["--", "-Dwarnings"]).args(KERNEL_BANS).args(KERNEL_EXCEPTIONS);
    Ok(clippy)
}
