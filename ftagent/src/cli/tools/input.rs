//! Where the rules come from: options, an incident of the daemon, or a file of incidents.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{super::Cli, Which};
use crate::{
    cli::client::call,
    decide::mitigate::Phase,
    rule::{self, Action, FlowMatch},
    serve::protocol::Request,
};

/// The largest file that is read.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What is needed of an incident.
#[derive(Debug, Deserialize)]
struct Incident {
    id: String,
    #[serde(default)]
    rules: Vec<Kept>,
}

/// What is needed of its rules.
#[derive(Debug, Deserialize)]
struct Kept {
    #[serde(rename = "match")]
    matches: String,
    action: String,
    state: Phase,
}

/// Returns the rules that are meant, at least one.
///
/// # Errors
/// What is no rule, and where there is none.
pub fn rules(cli: &Cli, which: &Which) -> Result<Vec<(FlowMatch, Action)>> {
    if !which.matches.is_empty() {
        return which.matches.iter().map(|text| written(text, which.action)).collect();
    }
    let incidents = match (&which.incident, &which.file) {
        (Some(id), _) => call(cli, &Request::Incidents { id: Some(id.clone()) })?,
        (None, Some(path)) => {
            serde_json::from_str(&read(path)?).with_context(|| format!("{} is no JSON", path.display()))?
        }
        (None, None) => bail!("say which rule: --match \"udp sport 123\", an incident (`last`), or --file INCIDENTS"),
    };
    of_incidents(incidents, which.ended)
}

/// Reads a match, or a rule with `then`.
fn written(text: &str, action: Option<Action>) -> Result<(FlowMatch, Action)> {
    match (text.split_whitespace().any(|word| word.eq_ignore_ascii_case("then")), action) {
        (true, None) => Ok(rule::parse(text)?),
        (true, Some(_)) => bail!("`{text}` says what to do, and so does --action: leave one of them out"),
        (false, action) => Ok((text.parse()?, action.unwrap_or(Action::Drop))),
    }
}

fn read(path: &Path) -> Result<String> {
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).with_context(|| format!("opening {}", path.display()))?),
    };
    let mut text = String::new();
    let read = source.take(MOST_BYTES + 1).read_to_string(&mut text);
    let read = read.with_context(|| format!("reading {}", path.display()))?;
    if read as u64 > MOST_BYTES {
        bail!(
            "{} is larger than {} MiB: take the incidents that are meant out of it",
            path.display(),
            MOST_BYTES >> 20
        );
    }
    Ok(text)
}

/// Takes the rules out of what the daemon answers: all incidents, an array of them, or one.
pub(super) fn of_incidents(mut value: Value, ended: bool) -> Result<Vec<(FlowMatch, Action)>> {
    let value = value.get_mut("incidents").map_or(Value::Null, Value::take).or(value);
    let incidents: Vec<Incident> = if value.is_array() {
        serde_json::from_value(value)
    } else {
        serde_json::from_value(value).map(|incident| vec![incident])
    }
    .context("these are no incidents as `ftagent incidents --json` writes them")?;
    let mut all: Vec<(FlowMatch, Action)> = Vec::new();
    let mut others = 0;
    for incident in &incidents {
        for kept in &incident.rules {
            if kept.state != Phase::Enforcing && !(ended && kept.state == Phase::Ended) {
                others += 1;
                continue;
            }
            let place = || format!("a rule of incident {}", incident.id);
            let rule = (kept.matches.parse().with_context(place)?, kept.action.parse().with_context(place)?);
            if !all.contains(&rule) {
                all.push(rule);
            }
        }
    }
    match (all.is_empty(), others) {
        (false, _) => Ok(all),
        (true, 0) => bail!("there is no rule against that: write one with --match"),
        (true, _) => bail!("none of its {others} rules is in force now: --ended takes those that were"),
    }
}

/// Takes another value where there is none.
trait Or {
    fn or(self, other: Self) -> Self;
}

impl Or for Value {
    fn or(self, other: Self) -> Self {
        if self.is_null() { other } else { self }
    }
}
