//! `cargo xtask bench`: cost per packet and rates end to end, one table and JSON from one run.

use anyhow::Result;

use crate::{
    programs::{self, Passed},
    setup::Need,
};

pub(crate) fn run(passed: &Passed) -> Result<()> {
    programs::build_release(Need::BuildAndTest, &["ftagent", "ftagent-tests"], &["ftagent", "bench"])?;
    programs::become_root_program("bench", &[], passed)
}
