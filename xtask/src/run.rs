//! `cargo xtask run`: the agent itself, built for release, in the foreground.

use anyhow::Result;

use crate::{
    programs::{self, Passed},
    setup::Need,
};

pub(crate) fn run(passed: &Passed) -> Result<()> {
    programs::build_release(Need::Build, &["ftagent"], &["ftagent"])?;
    programs::become_root_program("ftagent", &["run"], passed)
}
