//! `cargo xtask build`: the workspace for the host; the build scripts build the kernel programs.

use anyhow::Result;
use clap::Args;

use crate::{command, setup};

#[derive(Args)]
pub(crate) struct Options {
    /// Build with optimisation
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(setup::Need::Build)?;
    let mut cargo = command::cargo();
    cargo.args(["build", "--locked"]);
    if options.release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)
}
