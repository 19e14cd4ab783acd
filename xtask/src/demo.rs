//! `cargo xtask demo`: floods and their ends, live, in network namespaces that are gone afterwards.

use anyhow::Result;

use crate::{
    programs::{self, Passed},
    setup::Need,
};

pub(crate) fn run(passed: &Passed) -> Result<()> {
    // The demo drives the agent's own program, which stands beside it.
    programs::build_release(Need::BuildAndTest, &["ftagent", "ftagent-tests"], &["ftagent", "demo"])?;
    programs::become_root_program("demo", &[], passed)
}
