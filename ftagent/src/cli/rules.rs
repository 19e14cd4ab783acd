//! `ftagent rules`: what blocks, allows, limits and counts, and rules of operators.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use serde_json::Value;

use super::{
    Cli,
    client::{ask, call, ssh_client},
    text::{aligned, count, duration, harmless, percent, short, table},
};
use crate::{
    act::store::Listed,
    decide::mitigate::{
        Predicted,
        collateral::{Basis, Collateral},
    },
    rule::{self, Origin},
    serve::protocol::{NewRule, Request, RuleStatus, Rules},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Drop, limit or count what matches.
    Add(Add),
    /// Remove a rule of an operator.
    Remove {
        /// Its number, which `ftagent rules` shows.
        #[arg(value_name = "ID")]
        id: u32,
    },
    /// Take back a rule that was made against an attack, or a signature that is armed: nothing else drops what it
    /// matched while this incident lasts, and it is not remembered.
    Withdraw {
        /// Its number, which `ftagent rules` shows.
        #[arg(value_name = "ID")]
        id: u32,
    },
}

/// Arguments of `add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Dimensions: ip4, ip6, src, dst, proto, port, sport, dport, icmp-type, icmp-code, flags, len, \
                        dscp, frag, ttl, payload; tcp, udp, icmp and others by name.\n\
                        Actions: drop, rate-limit 300 pps (or kpps, kbps, Mbps, Gbps), count.\n\n\
                        Examples:\n  ftagent rules add \"udp sport 123 len 400-1500 then drop\" --for 10m\n  \
                        ftagent rules add \"tcp dport 80 flags syn/syn+ack then rate-limit 5 kpps\"\n  \
                        ftagent rules add \"udp dport 27015 payload 0:ffffffff54 then count\"")]
struct Add {
    /// What is matched, and what is done with it.
    #[arg(value_name = "MATCH then ACTION", required = true)]
    rule: Vec<String>,
    /// How long, for example 10m or 2h; default: `block.default_duration`.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    lasts: Option<Duration>,
    /// Why; shown by `ftagent rules`.
    #[arg(long, default_value = "")]
    reason: String,
    /// Do it although it matches nearly everything, or traffic that this host depends on.
    #[arg(long)]
    force: bool,
}

/// Shows, adds or removes.
///
/// # Errors
/// Where no daemon answers, what cannot be read, and what the daemon refuses.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        None => show(cli),
        Some(Command::Add(add)) => self::add(cli, add),
        Some(Command::Remove { id }) => {
            let data = call(cli, &Request::RuleRemove { id: *id })?;
            print(cli, &data, |data| format!("Rule {id} is removed: {}.", words(data)))
        }
        Some(Command::Withdraw { id }) => {
            let data = call(cli, &Request::RuleWithdraw { id: *id })?;
            let text = |data: &Value| {
                let what = words(data);
                format!(
                    "Rule {id} is withdrawn: {what}.\nNo other rule drops what it matched as long as this incident \
                     lasts. To end all rules: `mitigation.mode = \"observe\"` and SIGHUP."
                )
            };
            print(cli, &data, text)
        }
    }
}

/// Says what a rule did that is gone.
fn words(data: &Value) -> String {
    let part = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
    format!("{} then {}", part("match"), part("action"))
}

fn add(cli: &Cli, add: &Add) -> Result<ExitCode> {
    let (matches, action) = rule::parse(&add.rule.join(" "))?;
    let for_s = add.lasts.map(|lasts| lasts.as_secs().max(1));
    let (reason, force) = (add.reason.clone(), add.force);
    let new = NewRule { matches, action, for_s, reason, force, ssh_client: ssh_client() };
    let data = call(cli, &Request::RuleAdd(Box::new(new)))?;
    print(cli, &data, |data| {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| data.get(name).and_then(Value::as_u64).unwrap_or_default();
        let replaced = data.get("replaced").and_then(Value::as_bool).unwrap_or_default();
        let how = if replaced { "is renewed" } else { "is in force" };
        let (id, lasts) = (number("id"), duration(number("for_s")));
        let mut said = format!("Rule {id} {how} for {lasts}: {} then {}.", text("match"), text("action"));
        match text("warning") {
            warning if warning.is_empty() => {}
            warning => said.push_str(&format!("\nWARNING: {warning}")),
        }
        said
    })
}

fn print(cli: &Cli, data: &Value, text: impl Fn(&Value) -> String) -> Result<ExitCode> {
    if cli.json {
        println!("{}", serde_json::to_string(data)?);
    } else {
        println!("{}", text(data));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(cli: &Cli) -> Result<ExitCode> {
    if cli.json {
        println!("{}", serde_json::to_string(&call(cli, &Request::Rules)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rules: Rules = ask(cli, &Request::Rules)?;
    print!("{}", render(&rules.rules));
    print!("{}{}", section("blocked", &rules.block), section("allowed", &rules.allow));
    print!("{}", super::feeds::render(&rules.feeds));
    Ok(ExitCode::SUCCESS)
}

/// Lays rules out, in the order in which they are tried.
fn render(rules: &[RuleStatus]) -> String {
    if rules.is_empty() {
        return "There is no rule: no operator made one, and none against an attack is in force (`ftagent status` says whether \
                there is one).\n"
            .to_owned();
    }
    let row = |rule: &RuleStatus| {
        let (id, whose) = match &rule.origin {
            Origin::Operator(by) => (rule.id.to_string(), by.clone()),
            Origin::Incident(id) => ("-".to_owned(), id.clone()),
            Origin::Config => ("-".to_owned(), "configuration".to_owned()),
        };
        let ends = rule.ends_s.map_or("with its attack".to_owned(), |left| format!("in {}", duration(left)));
        vec![
            id,
            format!("{} then {}", rule.matches, rule.action),
            rule.state.clone(),
            ends,
            count(rule.packets),
            count(rule.dropped),
            format!("{}pps", short(rule.pps)),
            whose,
        ]
    };
    let rows: Vec<Vec<String>> = rules.iter().map(row).collect();
    let header = ["id", "rule", "state", "ends", "matched", "dropped", "now", "by"];
    let mut lines: Vec<String> = aligned(&header, &rows, &[0, 1, 2, 3, 7]).lines().map(str::to_owned).collect();
    // From below, so that the places of the rows above stay.
    for (at, rule) in rules.iter().enumerate().rev() {
        let more = notes(rule).into_iter().map(|note| format!("      {}", harmless(&note)));
        let below = (at + 2).min(lines.len());
        lines.splice(below..below, more);
    }
    format!("rules, in the order in which they are tried\n{}\n", lines.join("\n"))
}

/// What is to be said of a rule beyond its row.
fn notes(rule: &RuleStatus) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(problem) = &rule.problem {
        notes.push(format!("NOT IN FORCE: {problem}"));
    }
    if !rule.reason.is_empty() {
        notes.push(rule.reason.clone());
    }
    if let Some(predicted) = &rule.predicted {
        notes.push(format!("predicted: {}", expectation(predicted)));
    }
    if let Some(measured) = &rule.measured {
        let flows = match measured.benign_flows {
            0 => "no flow known from before".to_owned(),
            flows => format!("{} flows known from before", count(flows)),
        };
        notes.push(format!("measured: {} of the attack's packets, {flows}", percent(measured.attack_share)));
    }
    notes.extend(rule.collateral.as_ref().and_then(cost).map(|cost| format!("costs: {cost}")));
    notes
}

/// Tells what a rule costs in words; `None` where nothing is known of it.
pub fn cost(collateral: &Collateral) -> Option<String> {
    let Collateral { ratio, low, high, benign_pps, unknown_share, samples, basis } = *collateral;
    if samples == 0 {
        return None;
    }
    let by = match basis {
        Basis::Sockets => "by the socket table",
        Basis::Flows => "by what flows say, for no socket table was asked",
    };
    let unknown = match unknown_share {
        share if share > 0.0 => format!("; of {} of what it drops that cannot be told", percent(share)),
        _ => String::new(),
    };
    Some(format!(
        "{} of the benign packets of its scope ({} to {} with 95 % certainty), {}pps, {by}{unknown}",
        percent(ratio),
        percent(low),
        percent(high),
        short(benign_pps)
    ))
}

/// Tells an expectation in words.
pub fn expectation(predicted: &Predicted) -> String {
    let uncertain = match predicted.uncertain_share {
        share if share > 0.0 => format!(" and {} that nothing verifies", percent(share)),
        _ => String::new(),
    };
    format!(
        "{} of the attack's packets, {} of clean traffic{uncertain} (from {} clean flows)",
        percent(predicted.attack_share),
        percent(predicted.clean_share),
        count(predicted.clean_flows)
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mitigate::Measured;

    fn of(id: u32, text: &str, origin: Origin) -> RuleStatus {
        let (matches, action) = rule::parse(text).unwrap();
        RuleStatus {
            id,
            origin,
            matches: matches.to_string(),
            action: action.to_string(),
            state: "enforcing".to_owned(),
            packets: 12_000,
            dropped: 11_000,
            pps: 1_234.0,
            ..RuleStatus::default()
        }
    }

    #[test]
    fn rules_are_shown_with_prediction_and_effect() {
        assert!(
            render(&[]).contains("none against an attack is in force (`ftagent status` says whether there is one).\n")
        );
        let mine = of(7, "udp sport 123 len 400-1500 then rate-limit 300 pps", Origin::Operator("root(0)".to_owned()));
        let mine = RuleStatus { ends_s: Some(600), reason: "ntp\x1b[2J".to_owned(), ..mine };
        let theirs = of(1, "udp sport 11211 then drop", Origin::Incident("20260801T120000Z-1".to_owned()));
        let predicted = Predicted { attack_share: 0.98, clean_share: 0.0, uncertain_share: 0.01, clean_flows: 1500 };
        let measured = Measured { attack_share: 0.97, ..Measured::default() };
        let theirs = RuleStatus { predicted: Some(predicted), measured: Some(measured), ..theirs };
        let broken =
            RuleStatus { state: "failed".to_owned(), problem: Some("too many patterns".to_owned()), ..mine.clone() };
        let collateral = Collateral {
            ratio: 0.02,
            low: 0.01,
            high: 0.03,
            benign_pps: 120.0,
            unknown_share: 0.5,
            samples: 900,
            basis: Basis::Sockets,
        };
        let mine = RuleStatus { collateral: Some(collateral), ..mine };
        let wanted = [
            "rules, in the order in which they are tried",
            "  id  rule                                                state      ends             matched  dropped        now  by",
            "  7   udp sport 123 len 400-1500 then rate-limit 300 pps  enforcing  in 10m            12 000   11 000  1.23 kpps  root(0)",
            "      ntp.[2J",
            "      costs: 2 % of the benign packets of its scope (1 % to 3 % with 95 % certainty), 120 pps, by the \
             socket table; of 50 % of what it drops that cannot be told",
            "  -   udp sport 11211 then drop                           enforcing  with its attack   12 000   11 000  1.23 kpps  20260801T120000Z-1",
            "      predicted: 98 % of the attack's packets, 0 % of clean traffic and 1 % that nothing verifies (from 1 500 clean flows)",
            "      measured: 97 % of the attack's packets, no flow known from before",
            "  7   udp sport 123 len 400-1500 then rate-limit 300 pps  failed     in 10m            12 000   11 000  1.23 kpps  root(0)",
            "      NOT IN FORCE: too many patterns",
            "      ntp.[2J",
            "",
        ];
        assert_eq!(render(&[mine, theirs, broken]), wanted.join("\n"));
    }
}
