//! Running other programs, and the few facts about this machine that every verb asks for.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Returns the root of the repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Returns the cargo that started this program, set to work on this repository.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Returns the directory cargo builds in, whichever way it was set.
///
/// # Errors
/// Fails when cargo cannot read the workspace.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps", "--locked"]))?;
    let (_, rest) =
        metadata.split_once("\"target_directory\":\"").context("cargo metadata names no target directory")?;
    let (path, _) = rest.split_once('"').context("cargo metadata broke off")?;
    Ok(PathBuf::from(path.replace("\\\\", "\\")))
}

/// Runs a program with its output shown.
///
/// # Errors
/// Fails when it cannot be started or does not succeed; the message shows the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a program and returns what it wrote to its standard output.
///
/// # Errors
/// Fails like [`run`]; the message carries what the program wrote to its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", shown(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote something that is not UTF-8", shown(command)))
}

/// Returns where a program is, searching `PATH`, the system directories and cargo's own.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A user's PATH often lacks sbin, where the network tools are.
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = env::split_paths(&path).chain(system).chain(cargo_bin());
    dirs.map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Returns the directory where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?.join("bin"))
}

/// Returns whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Returns a command that runs `program` as root: directly, or by sudo.
///
/// # Errors
/// Fails when this is not root and there is no sudo; `purpose` completes "root is needed to ...".
pub(crate) fn as_root(program: impl AsRef<OsStr>, purpose: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let Some(sudo) = which("sudo") else {
        let program = program.as_ref().to_string_lossy();
        bail!("root is needed to {purpose}, and there is no sudo: run `{program}` as root, or this command again");
    };
    let mut command = Command::new(sudo);
    command.arg(program);
    Ok(command)
}

/// Returns the command as it would be typed.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
