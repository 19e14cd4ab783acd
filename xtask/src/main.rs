//! `cargo xtask <verb>`: everything that a person or CI repeats in this repository, one file per verb.
//!
//! Depends on no other crate of the workspace and on no BPF toolchain: `setup` runs before there is one.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod command;
mod demo;
mod evaluate;
#[expect(dead_code, reason = "xtask only asks which toolchain there is")]
#[path = "../../ftagent-ebpf/host_build.rs"]
mod host_build;
mod lint;
mod programs;
mod run;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The commands of the ftagent repository", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the build and the tests need and this machine lacks
    Setup(setup::Options),
    /// Build the workspace, kernel programs included
    Build(build::Options),
    /// Build for release and run the agent (root; by default on the interface of the default route)
    Run(programs::Passed),
    /// Show the agent at work in throw-away network namespaces (root)
    Demo(programs::Passed),
    /// Run everything that CI runs: setup, tidy, lint, build, tests
    Test(test::Options),
    /// Measure the datapath against xdp-filter and nftables (root)
    Bench(programs::Passed),
    /// Run every scenario of tests/scenarios and write docs/EVALUATION.md (root)
    Evaluate(programs::Passed),
    /// Check formatting, clippy and documentation
    Lint,
    /// Check the repository's own rules
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(options) => setup::run(&options),
        Verb::Build(options) => build::run(&options),
        Verb::Run(passed) => run::run(&passed),
        Verb::Demo(passed) => demo::run(&passed),
        Verb::Test(options) => test::run(&options),
        Verb::Bench(passed) => bench::run(&passed),
        Verb::Evaluate(passed) => evaluate::run(&passed),
        Verb::Lint => lint::run(),
        Verb::Tidy => tidy::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
