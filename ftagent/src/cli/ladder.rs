//! `ftagent ladder`: what is asked of the network upstream, what would be, and operators' words about it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::de::DeserializeOwned;

use super::{
    Cli,
    client::call,
    text::{count, duration, harmless, percent, rate, several, utc},
};
use crate::{
    decide::{
        Metric,
        ladder::{LadderMode, Standing, StepView, plan::Plan},
    },
    serve::protocol::{LadderPlan, LadderSaid, LadderStatus, Request, RungView, Word},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the uplink, each rung, what is upstream and what waits for approval.
    Status,
    /// Say what would happen at so many times the present load. Nothing is asked of anybody.
    Plan {
        /// How many times the present load.
        #[arg(long, value_name = "N", value_delimiter = ',', default_value = "2,10,100")]
        times: Vec<u32>,
    },
    /// Approve what waits for it, or put back what was taken back by hand.
    Approve {
        /// Its number, which `ftagent ladder status` shows; not needed where one thing waits.
        #[arg(value_name = "ID")]
        id: Option<u32>,
        /// Only say what it would do.
        #[arg(long)]
        dry_run: bool,
    },
    /// Deny what waits for approval, for the rest of the attack.
    Deny {
        /// Its number; not needed where one thing waits.
        #[arg(value_name = "ID")]
        id: Option<u32>,
        /// Only say what it would do.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take back what is upstream; it stays away for the rest of the attack.
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Withdraw {
        /// The number of a rung, or of one of its announcements.
        #[arg(value_name = "ID", group = "what")]
        id: Option<u32>,
        /// Everything that is upstream.
        #[arg(long, group = "what")]
        all: bool,
        /// Only say what it would do.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Shows, or says a word.
///
/// # Errors
/// Where no daemon answers, and what it refuses.
pub fn run(cli: &Cli, args: &Args) -> Result<ExitCode> {
    match &args.command {
        None | Some(Command::Status) => show::<LadderStatus>(cli, &Request::Ladder, status),
        Some(Command::Plan { times }) => show::<LadderPlan>(cli, &Request::LadderPlan { factors: times.clone() }, plan),
        Some(Command::Approve { id, dry_run }) => say(cli, Word::Approve(waiting(cli, *id)?), *dry_run),
        Some(Command::Deny { id, dry_run }) => say(cli, Word::Deny(waiting(cli, *id)?), *dry_run),
        Some(Command::Withdraw { id, all: _, dry_run }) => say(cli, Word::Withdraw(*id), *dry_run),
    }
}

fn show<T: DeserializeOwned>(cli: &Cli, request: &Request, text: impl Fn(&T) -> String) -> Result<ExitCode> {
    let data = call(cli, request)?;
    if cli.json {
        println!("{data}");
    } else {
        print!("{}", text(&serde_json::from_value(data)?));
    }
    Ok(ExitCode::SUCCESS)
}

fn say(cli: &Cli, word: Word, dry_run: bool) -> Result<ExitCode> {
    show::<LadderSaid>(cli, &Request::LadderSay { word, dry_run }, |said| {
        let would = if said.dry_run { "would be: " } else { "" };
        said.moves.iter().map(|what| format!("{would}{}\n", harmless(what))).collect()
    })
}

/// Returns the number that was given, or that of the only rung that waits.
fn waiting(cli: &Cli, id: Option<u32>) -> Result<u32> {
    if let Some(id) = id {
        return Ok(id);
    }
    let status: LadderStatus = serde_json::from_value(call(cli, &Request::Ladder)?)?;
    let waiting: Vec<&RungView> = status.rungs.iter().filter(|rung| rung.state == "asking").collect();
    match waiting.as_slice() {
        [one] => Ok(one.id.unwrap_or_default()),
        [] => bail!("nothing waits for approval: see `ftagent ladder status`"),
        _ => {
            let ids: Vec<String> =
                waiting.iter().map(|rung| format!("{} ({})", rung.id.unwrap_or_default(), rung.rung)).collect();
            bail!("more than one thing waits for approval: name one of {}", ids.join(", "))
        }
    }
}

fn status(status: &LadderStatus) -> String {
    let mut text = match (status.mode, &status.held_back) {
        (LadderMode::Off, _) => {
            "The ladder is off (`ladder.mode`): nothing is asked of the network upstream.\n".to_owned()
        }
        (_, Some(why)) => format!("The ladder is on, but {why}.\n"),
        (LadderMode::DryRun, None) => {
            "The ladder is a dry run (`ladder.mode`): it only says what it would do.\n".to_owned()
        }
        (LadderMode::On, None) => "The ladder is on.\n".to_owned(),
    };
    text.push_str(&uplink(status));
    if let Some(incident) = &status.incident {
        text.push_str(&format!("about incident {incident}\n"));
    }
    if status.rungs.is_empty() && status.mode != LadderMode::Off {
        text.push_str("It has no rung: no plane is configured (`[bgp]`, `[[scrub]]`).\n");
    }
    for (place, one) in status.rungs.iter().enumerate() {
        text.push_str(&rung(place + 1, one));
    }
    text.push_str(&format!(
        "since the daemon first started: climbed {}, probed {} ({} found the attack still there), black holes for {}\n",
        several(status.escalations, "time"),
        several(status.probes, "time"),
        count(status.failed_probes),
        duration(status.black_hole_s)
    ));
    text
}

fn uplink(status: &LadderStatus) -> String {
    let Some(uplink) = &status.uplink else { return "uplink: nothing is known of it yet\n".to_owned() };
    let used = rate(uplink.used_bps, Metric::Bps);
    let Some(capacity) = uplink.capacity_bps else {
        return format!("uplink: {used} arrive; how much it carries is not known: write `uplink.capacity`\n");
    };
    let full = percent(uplink.utilisation().unwrap_or_default());
    let when = status.full_in_s.map_or(String::new(), |seconds| match seconds {
        0 => ", full now".to_owned(),
        seconds => format!(", full in {} if it goes on like this", duration(seconds)),
    });
    format!("uplink {}: {used} of {} ({full}){when}\n", uplink.name, rate(capacity, Metric::Bps))
}

fn rung(place: usize, rung: &RungView) -> String {
    let since = rung.since.map_or(String::new(), |since| format!(" since {}", utc(since.unix_ms)));
    let id = rung.id.map_or(String::new(), |id| format!(" [{id}]"));
    let mut text = format!("{place}. {}{id}: {}{since}\n", rung.rung, rung.state);
    let mut line = |what: String| text.push_str(&format!("     {}\n", harmless(&what)));
    if !rung.why.is_empty() {
        line(rung.why.clone());
    }
    if let Some(trouble) = &rung.trouble {
        line(format!("NOT WORKING: {trouble}"));
    }
    rung.steps.iter().for_each(|one| line(step(one)));
    if rung.leaving > 0 {
        line(format!("{} still being taken back", several(rung.leaving as u64, "announcement")));
    }
    if rung.state == "asking"
        && let Some(id) = rung.id
    {
        line(format!("`ftagent ladder approve {id}`, or `ftagent ladder deny {id}`"));
    }
    if let Some(seconds) = rung.next_probe_s {
        line(match seconds {
            0 => "probed as soon as it does not seem to be needed".to_owned(),
            seconds => format!("probed in {} at the earliest", duration(seconds)),
        });
    }
    if rung.announcements > 0 {
        let again = several(rung.announcements.into(), "announcement");
        line(format!(
            "{again} in this attack, {} that found it still there",
            several(rung.failed_probes.into(), "probe")
        ));
    }
    if rung.per_day > 0 {
        line(format!("by itself {} of {} times in the last 24 hours", rung.today, rung.per_day));
    }
    text
}

fn step(step: &StepView) -> String {
    let standing = match &step.standing {
        None => "not heard of yet".to_owned(),
        Some(Standing::Asked) => "asked for".to_owned(),
        Some(Standing::Present) => "there".to_owned(),
        Some(Standing::Refused(why)) => format!("refused: {why}"),
        Some(Standing::Failed(why)) => format!("failed: {why}"),
        Some(Standing::TakenBack) => "taken back by hand".to_owned(),
    };
    format!("[{}] {}: {standing}", step.id, step.what)
}

fn plan(answer: &LadderPlan) -> String {
    let mut text = "Nothing of this is asked of anybody. It is assumed that\n".to_owned();
    answer.assumed.iter().for_each(|what| text.push_str(&format!("  - {}\n", harmless(what))));
    answer.plans.iter().for_each(|plan| text.push_str(&at_load(plan)));
    text
}

fn at_load(plan: &Plan) -> String {
    let mut text = format!(
        "\nat {}× the present load: {} ({} of the uplink)\n",
        plan.factor,
        rate(plan.sent_bps, Metric::Bps),
        share(plan.utilisation)
    );
    if plan.moves.is_empty() {
        text.push_str("  nothing would be asked for\n");
    }
    for would in &plan.moves {
        text.push_str(&format!("  {:>7.1} s  {}: {}\n", would.at_s, harmless(&would.rung), harmless(&would.what)));
    }
    if plan.left_out > 0 {
        text.push_str(&format!("  … and {}\n", several(plan.left_out as u64, "more move")));
    }
    let holes = match plan.black_hole_s as u64 {
        0 => "nobody is in a black hole".to_owned(),
        seconds => format!("victims are in black holes for {}", duration(seconds)),
    };
    text.push_str(&format!("  the uplink is full for {:.1} s, and {holes}\n", plan.full_s));
    text
}

/// Writes a share that may be above 1.
fn share(of: f64) -> String {
    format!("{:.0} %", 100.0 * of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{
        Now,
        ladder::{Kind, Turn, Uplink, plan::Would},
    };

    fn asking() -> RungView {
        RungView {
            rung: "rtbh".to_owned(),
            kind: Kind::BlackHole,
            state: "asking".to_owned(),
            id: Some(7),
            why: "the uplink is 97 % full".to_owned(),
            since: Some(Now { mono_ns: 5, unix_ms: 1_785_585_600_000 }),
            steps: vec![StepView { id: 8, what: "black hole for 192.0.2.7/32".to_owned(), standing: None }],
            next_probe_s: None,
            announcements: 0,
            failed_probes: 0,
            today: 1,
            per_day: 2,
            trouble: Some("no session is up".to_owned()),
            leaving: 2,
        }
    }

    #[test]
    fn the_ladder_reads_well() {
        let view = LadderStatus {
            mode: LadderMode::On,
            incident: Some("i-1".to_owned()),
            uplink: Some(Uplink { name: "uplink".to_owned(), used_bps: 9.7e7, capacity_bps: Some(1e8) }),
            full_in_s: Some(12),
            rungs: vec![asking()],
            black_hole_s: 90,
            escalations: 1,
            probes: 2,
            failed_probes: 1,
            ..LadderStatus::default()
        };
        let wanted = "\
The ladder is on.
uplink uplink: 97.0 Mbit/s of 100 Mbit/s (97 %), full in 12s if it goes on like this
about incident i-1
1. rtbh [7]: asking since 2026-08-01 12:00:00 UTC
     the uplink is 97 % full
     NOT WORKING: no session is up
     [8] black hole for 192.0.2.7/32: not heard of yet
     2 announcements still being taken back
     `ftagent ladder approve 7`, or `ftagent ladder deny 7`
     by itself 1 of 2 times in the last 24 hours
since the daemon first started: climbed 1 time, probed 2 times (1 found the attack still there), black holes for 1m 30s
";
        assert_eq!(status(&view), wanted);
        let off = status(&LadderStatus::default());
        assert!(off.starts_with("The ladder is off"), "{off}");
        let unknown = LadderStatus {
            mode: LadderMode::On,
            uplink: Some(Uplink { name: "uplink".to_owned(), used_bps: 9.7e7, capacity_bps: None }),
            ..LadderStatus::default()
        };
        let unknown = status(&unknown);
        assert!(unknown.contains("`uplink.capacity`") && unknown.contains("no plane is configured"), "{unknown}");
    }

    #[test]
    fn a_plan_reads_well() {
        let would = Would {
            at_s: 0.8,
            rung: "flowspec".to_owned(),
            turn: Turn::Escalated,
            what: "udp then drop: the uplink is 200 % full\x1b[2J".to_owned(),
        };
        let one = Plan {
            factor: 2,
            sent_bps: 2e8,
            utilisation: 2.0,
            full_s: 1.2,
            black_hole_s: 0.0,
            moves: vec![would],
            left_out: 3,
        };
        let text = plan(&LadderPlan { plans: vec![one], assumed: vec!["planes do what they say".to_owned()] });
        for line in [
            "  - planes do what they say",
            "at 2× the present load: 200 Mbit/s (200 % of the uplink)",
            "      0.8 s  flowspec: udp then drop: the uplink is 200 % full.[2J",
            "  … and 3 more moves",
            "  the uplink is full for 1.2 s, and nobody is in a black hole",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
