//! What is asked of the network upstream.

use super::Scrape;
use crate::decide::ladder::{Standing, View};

/// Adds the metrics to a scrape.
pub(super) fn families(scrape: &Scrape, ladder: &View) -> prometheus::Result<()> {
    let used = scrape.rate("ftagent_uplink_bits_per_second", &["uplink"])?;
    let capacity = scrape.rate("ftagent_uplink_capacity_bits_per_second", &["uplink"])?;
    if let Some(uplink) = &ladder.uplink {
        used.with_label_values(&[&uplink.name]).set(uplink.used_bps);
        if let Some(bps) = uplink.capacity_bps {
            capacity.with_label_values(&[&uplink.name]).set(bps);
        }
    }
    let steps = scrape.gauge("ftagent_ladder_steps", &["rung", "state"])?;
    let up = scrape.gauge("ftagent_ladder_plane_up", &["rung"])?;
    for rung in &ladder.rungs {
        for state in ["waiting", "asked", "present", "failed"] {
            let count = rung.steps.iter().filter(|step| state_of(&rung.state, step.standing.as_ref()) == state).count();
            steps.with_label_values(&[rung.rung.as_str(), state]).set(count as i64);
        }
        up.with_label_values(&[&rung.rung]).set(i64::from(rung.trouble.is_none()));
    }
    let totals = [
        ("ftagent_black_hole_seconds_total", ladder.black_hole_s),
        ("ftagent_ladder_escalations_total", ladder.escalations),
        ("ftagent_ladder_probes_total", ladder.probes),
        ("ftagent_ladder_failed_probes_total", ladder.failed_probes),
    ];
    for (name, total) in totals {
        scrape.counter(name, &[])?.with_label_values::<&str>(&[]).inc_by(total);
    }
    Ok(())
}

/// Returns how a step counts: what is not asked of the plane waits, or is of the past.
fn state_of(rung: &str, standing: Option<&Standing>) -> &'static str {
    match (rung, standing) {
        ("asking", _) => "waiting",
        ("asked" | "present" | "probing", None | Some(Standing::Asked)) => "asked",
        ("asked" | "present" | "probing", Some(Standing::Present)) => "present",
        ("asked" | "present" | "probing", Some(Standing::Failed(_) | Standing::Refused(_))) => "failed",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decide::ladder::{Kind, RungView, StepView, Uplink},
        serve::metrics::{Facts, METRICS, Sources, encode},
    };

    #[test]
    fn a_scrape_says_what_is_upstream() {
        let step = |standing| StepView { id: 1, what: String::new(), standing };
        let rung = |name: &str, state: &str, steps| RungView {
            rung: name.to_owned(),
            kind: Kind::Filter,
            state: state.to_owned(),
            id: Some(1),
            why: String::new(),
            since: None,
            steps,
            next_probe_s: None,
            announcements: 1,
            failed_probes: 0,
            today: 0,
            per_day: 0,
            trouble: (name == "rtbh").then(|| "away".to_owned()),
            leaving: 0,
        };
        let ladder = View {
            uplink: Some(Uplink { name: "uplink".to_owned(), used_bps: 9.5e7, capacity_bps: Some(1e8) }),
            rungs: vec![
                rung("flowspec", "present", vec![step(Some(Standing::Present)), step(None)]),
                rung("rtbh", "asking", vec![step(None)]),
                rung("cloud", "withdrawn", vec![step(Some(Standing::Present))]),
            ],
            black_hole_s: 90,
            escalations: 3,
            probes: 5,
            failed_probes: 2,
            ..View::default()
        };
        let sources = Sources::default();
        *sources.facts.lock().unwrap() = Facts { ladder, ..Facts::default() };
        let text = String::from_utf8(encode(&sources).unwrap()).unwrap();
        for line in [
            r#"ftagent_uplink_bits_per_second{uplink="uplink"} 95000000"#,
            r#"ftagent_uplink_capacity_bits_per_second{uplink="uplink"} 100000000"#,
            r#"ftagent_ladder_steps{rung="flowspec",state="present"} 1"#,
            r#"ftagent_ladder_steps{rung="flowspec",state="asked"} 1"#,
            r#"ftagent_ladder_steps{rung="rtbh",state="waiting"} 1"#,
            r#"ftagent_ladder_steps{rung="cloud",state="present"} 0"#,
            r#"ftagent_ladder_plane_up{rung="rtbh"} 0"#,
            "ftagent_black_hole_seconds_total 90",
            "ftagent_ladder_escalations_total 3",
            "ftagent_ladder_probes_total 5",
            "ftagent_ladder_failed_probes_total 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap_or((line, ""));
            assert!(METRICS.contains(&(name, help)), "{name}: {help}");
        }
    }
}
