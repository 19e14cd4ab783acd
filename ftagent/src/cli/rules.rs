//! `ftagent rules`.

use std::process::ExitCode;

use anyhow::Result;

use super::{
    Cli,
    client::{ask, call},
    text::{duration, table},
};
use crate::{
    act::store::Listed,
    serve::protocol::{Request, Rules},
};

/// Shows them.
///
/// # Errors
/// Where no daemon answers.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    if cli.json {
        println!("{}", serde_json::to_string(&call(cli, &Request::Rules)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rules: Rules = ask(cli, &Request::Rules)?;
    print!("{}{}", section("blocked", &rules.block), section("allowed", &rules.allow));
    print!("{}", super::feeds::render(&rules.feeds));
    Ok(ExitCode::SUCCESS)
}

fn section(what: &str, listed: &[Listed]) -> String {
    if listed.is_empty() {
        return format!("Nothing is {what} by an operator.\n");
    }
    let rows: Vec<Vec<String>> = listed
        .iter()
        .map(|entry| {
            let ends = entry.remaining_s.map_or("stays".to_owned(), |left| format!("ends in {}", duration(left)));
            let matched = entry.last_match_s.map_or("never".to_owned(), |ago| format!("{} ago", duration(ago)));
            vec![entry.prefix.to_string(), ends, matched, entry.record.by.clone(), entry.record.reason.clone()]
        })
        .collect();
    format!("{what}\n{}", table(&["prefix", "how long", "last match", "by", "reason"], &rows))
}
