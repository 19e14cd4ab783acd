//! What is left of it all: packets, indicators, who did what, and decisions that can be made again.

use anyhow::{Context as _, Result, ensure};
use ftagent_tests::daemon::Daemon;

/// Shows the evidence of an incident that is over; returns whether it holds.
pub fn show(agent: &Daemon) -> Result<bool> {
    println!("What can be proven of it:\n");
    indented("ftagent capture list", &agent.ok(&["capture", "list"])?);
    let shown = agent.ok(&["capture", "show", "last"])?;
    indented("ftagent capture show last", &first_lines(&shown, 14));
    let named = agent.ok(&["ioc", "export", "last", "--format", "csv"])?;
    indented("ftagent ioc export last --format csv", &first_lines(&named, 8));
    let trail = agent.ok(&["audit", "show", "--limit", "8"])?;
    indented("ftagent audit show --limit 8", &trail);
    let sound = agent.ok(&["audit", "verify"])?;
    indented("ftagent audit verify", &sound);
    let capsule = agent.path("last.ftcapsule");
    let file = capsule.to_str().context("the demo's directory has an odd name")?;
    indented(
        "ftagent capture export last --capsule",
        &agent.ok(&["capture", "export", "last", "--capsule", "--out", file])?,
    );
    // Decisions that differ make it fail.
    let replayed = agent.ok(&["replay", file])?;
    indented("ftagent replay last.ftcapsule", &replayed);
    ensure!(sound.contains("is sound"), "the audit log is not sound");
    Ok(true)
}

fn indented(command: &str, text: &str) {
    println!("$ {command}");
    text.lines().for_each(|line| println!("  {line}"));
    println!();
}

fn first_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = lines.iter().take(most).map(|line| (*line).to_owned()).collect();
    if lines.len() > most {
        shown.push(format!("… and {} lines more", lines.len() - most));
    }
    shown.join("\n")
}
