//! The `ftagent` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ftagent::cli::main()
}
