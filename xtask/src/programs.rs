//! What `run`, `demo`, `bench` and `evaluate` share: build for release, then become the program, as root.

use std::{os::unix::process::CommandExt as _, path::Path};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    command,
    setup::{self, Need},
};

#[derive(Args)]
pub(crate) struct Passed {
    /// Arguments for the program itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
}

/// Builds binaries of the named packages for release.
///
/// Building happens as the user who asked; only the program itself runs as root, so that no file in the target
/// directory belongs to root afterwards.
///
/// # Errors
/// Fails when setup or the build fails.
pub(crate) fn build_release(need: Need, packages: &[&str], binaries: &[&str]) -> Result<()> {
    setup::ensure(need)?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--release", "--locked"]);
    cargo.args(packages.iter().map(|name| format!("--package={name}")));
    cargo.args(binaries.iter().map(|name| format!("--bin={name}")));
    command::run(&mut cargo)
}

/// Replaces this process by a release binary, as root.
///
/// # Errors
/// Returns only when the program could not be started.
pub(crate) fn become_root_program(binary: &str, leading: &[&str], passed: &Passed) -> Result<()> {
    let program = command::target_dir()?.join("release").join(binary);
    let mut command = command::as_root(&program, purpose(&program).as_str())?;
    command.args(leading).args(&passed.args);
    // exec returns only on failure.
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}

fn purpose(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("load kernel programs, which {name} does")
}
