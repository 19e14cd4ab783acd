//! Rules as text, given to the programs they are for: each takes all of them, and those that can be asked say that
//! they understood what was meant.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "vendor/draw.rs"]
mod draw;
#[path = "vendor/firewalls.rs"]
mod firewalls;
#[path = "vendor/packets.rs"]
mod packets;
#[path = "vendor/speakers.rs"]
mod speakers;
#[path = "vendor/wider.rs"]
mod wider;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use ftagent::rule::vendor::{PLATFORMS, Platform};

fn platform(name: &str) -> &'static Platform {
    PLATFORMS.into_iter().find(|platform| platform.name == name).unwrap()
}

/// Runs a program with something on its standard input; returns whether it went well, and what it said.
fn run(command: &mut Command, input: &str) -> (bool, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}
