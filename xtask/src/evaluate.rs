//! `cargo xtask evaluate`: every scenario of `tests/scenarios`, judged and added up.

use std::fs::{self, OpenOptions};

use anyhow::{Context as _, Result};

use crate::{
    command,
    programs::{self, Passed},
    setup::Need,
};

/// Runs what was asked for; without arguments everything, and writes `docs/EVALUATION.md`.
pub(crate) fn run(passed: &Passed) -> Result<()> {
    programs::build_release(Need::BuildAndTest, &["ftagent-tests"], &["evaluate"])?;
    let root = command::root();
    // What root writes goes into folders, and a file, of the user who asked: `cargo clean` can
    // still remove it, and git change it.
    for folder in ["target/evaluate/captures", "target/evaluate/scenarios"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    if !passed.args.is_empty() {
        return programs::become_root_program("evaluate", &[], passed);
    }
    let page = root.join("docs/EVALUATION.md");
    OpenOptions::new().append(true).create(true).open(&page).with_context(|| page.display().to_string())?;
    let page = page.to_str().context("the path of the repository is not UTF-8")?;
    programs::become_root_program("evaluate", &["--write", page], passed)
}
