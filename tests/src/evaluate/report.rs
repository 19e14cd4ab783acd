//! Adds outcomes up: for a terminal, as JSON, and as `docs/EVALUATION.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    compose::{Case, Kind},
    list::List,
    mitigation::Summary,
    score::Outcome,
};
use crate::simulate::Finding;

/// Right ones of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

impl Tally {
    fn add(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// Returns the share of right ones in per cent.
    pub fn percent(self) -> f64 {
        if self.of == 0 { 0.0 } else { 100.0 * self.right as f64 / self.of as f64 }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} ({:.1} %)", self.right, self.of, self.percent())
    }
}

/// Times to detect, milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// How many were detected.
    pub detected: usize,
    /// Half of them within.
    pub median_ms: f64,
    /// 99 % of them within.
    pub p99_ms: f64,
}

impl Latency {
    /// Adds times up.
    pub fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        // The nearest rank: no time is reported that was not measured.
        let at = |share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { detected: times.len(), median_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The case.
    pub name: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
    /// Why, where that is known.
    pub reason: Option<String>,
}

/// The scoreboard.
#[derive(Clone, Debug, Serialize)]
pub struct Board {
    /// What was run: `all`, `ci`, or a pattern.
    pub subset: String,
    /// Attacks of the matrix.
    pub attacks: Tally,
    /// Those of real captures.
    pub real: Tally,
    /// Right primary vectors: other names, and times, left out of account.
    pub primary: Tally,
    /// By the expected vector.
    pub by_vector: BTreeMap<String, Tally>,
    /// By the entry of the matrix.
    pub by_attack: BTreeMap<String, Tally>,
    /// By background.
    pub by_background: BTreeMap<String, Tally>,
    /// Expected vector, then what was reported, then how often.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
    /// What was done about the attacks, and what simpler defences would have done.
    pub mitigation: Summary,
    /// By intensity.
    pub latency: BTreeMap<String, Latency>,
    /// Ordinary traffic without an incident.
    pub benign: Tally,
    /// False incidents of it.
    pub false_incidents: usize,
    /// Virtual hours of it.
    pub benign_hours: f64,
    /// Behaviours.
    pub behaviours: Tally,
    /// V1 to V22 and M1 and on, one line each.
    pub by_behaviour: Vec<(String, bool, String)>,
    /// What was simulated.
    pub simulations: Vec<Finding>,
    /// What fell short.
    pub failures: Vec<Failure>,
    /// Packets replayed, by all workers together.
    pub packets: u64,
    /// Packets a second of real time, of one worker.
    pub packets_per_second: f64,
}

impl Board {
    /// Adds up.
    pub fn new(subset: &str, list: &List, cases: &[Case], outcomes: &[Outcome], simulations: Vec<Finding>) -> Self {
        let packets = outcomes.iter().map(|outcome| outcome.packets).sum();
        let wall_ms: u64 = outcomes.iter().map(|outcome| outcome.wall_ms).sum();
        let mut board = Self {
            subset: subset.to_owned(),
            attacks: Tally::default(),
            real: Tally::default(),
            primary: Tally::default(),
            by_vector: BTreeMap::new(),
            by_attack: BTreeMap::new(),
            by_background: BTreeMap::new(),
            confusion: BTreeMap::new(),
            mitigation: Summary::default(),
            latency: BTreeMap::new(),
            benign: Tally::default(),
            false_incidents: 0,
            benign_hours: 0.0,
            behaviours: Tally::default(),
            by_behaviour: Vec::new(),
            simulations,
            failures: Vec::new(),
            packets,
            packets_per_second: packets as f64 * 1000.0 / wall_ms.max(1) as f64,
        };
        let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for (case, outcome) in cases.iter().zip(outcomes) {
            board.add(case, outcome, &mut times);
            if !outcome.right {
                let (name, problems) = (outcome.name.clone(), outcome.problems.clone());
                let reason = list.reason(&name).map(str::to_owned);
                board.failures.push(Failure { name, problems, reason });
            }
            if let Some(mitigation) = outcome.mitigation.as_ref().filter(|mitigation| !mitigation.problems.is_empty()) {
                let (name, problems) = (format!("removal/{}", outcome.name), mitigation.problems.clone());
                let reason = list.reason(&name).map(str::to_owned);
                board.failures.push(Failure { name, problems, reason });
            }
        }
        let mitigated =
            cases.iter().zip(outcomes).filter_map(|(case, outcome)| Some((case, outcome.mitigation.as_ref()?)));
        board.mitigation = Summary::new(mitigated);
        board.latency = times.into_iter().map(|(name, times)| (name, Latency::of(times))).collect();
        board.add_other_behaviours(list);
        board
    }

    fn add(&mut self, case: &Case, outcome: &Outcome, times: &mut BTreeMap<String, Vec<f64>>) {
        match &case.kind {
            Kind::Attack { attack, vector, ratio, intensity, background, real, .. } => {
                self.attacks.add(outcome.right);
                if *real {
                    self.real.add(outcome.right);
                }
                self.primary.add(outcome.got == *vector || outcome.got.starts_with(&format!("{vector} [")));
                self.by_vector.entry(vector.clone()).or_default().add(outcome.right);
                self.by_attack.entry(attack.clone()).or_default().add(outcome.right);
                self.by_background.entry(background.clone()).or_default().add(outcome.right);
                *self.confusion.entry(vector.clone()).or_default().entry(outcome.got.clone()).or_default() += 1;
                let intensity = match ratio {
                    10.0.. => "10x and more".to_owned(),
                    0.0 => "slow attacks, at their own pace".to_owned(),
                    _ => intensity.clone(),
                };
                times.entry(intensity).or_default().extend(outcome.detect_ms);
            }
            Kind::Benign => {
                self.benign.add(outcome.right);
                self.false_incidents += outcome.false_incidents;
                self.benign_hours += outcome.virtual_ms / 3_600_000.0;
            }
            Kind::Behaviour(behaviour) => {
                self.behaviours.add(outcome.right);
                let detected = outcome.detect_ms.map(|ms| format!("detected after {ms:.0} ms"));
                let fine = detected.unwrap_or_else(|| "no incident".to_owned());
                let told = if outcome.right { fine } else { outcome.problems.join("; ") };
                let name = format!("{} {}", behaviour.id, behaviour.file.as_deref().unwrap_or_default());
                self.by_behaviour.push((name, outcome.right, told));
            }
        }
    }

    /// Behaviours that are shown by the matrix, by simulation, or elsewhere.
    fn add_other_behaviours(&mut self, list: &List) {
        for behaviour in &list.behaviours {
            if !behaviour.matrix.is_empty() {
                let tallies = behaviour.matrix.iter().filter_map(|name| self.by_attack.get(name));
                let sum = tallies.fold(Tally::default(), |sum, tally| Tally {
                    right: sum.right + tally.right,
                    of: sum.of + tally.of,
                });
                if sum.of > 0 {
                    let told = format!("{sum} of the matrix: {}", behaviour.matrix.join(", "));
                    self.by_behaviour.push((behaviour.id.clone(), sum.right == sum.of, told));
                }
            }
            if let Some(elsewhere) = &behaviour.elsewhere {
                self.by_behaviour.push((behaviour.id.clone(), true, elsewhere.clone()));
            }
        }
        for finding in &self.simulations {
            self.by_behaviour.push((finding.id.clone(), finding.holds, finding.summary.clone()));
            if !finding.holds {
                let name = format!("{}/{}", finding.id, finding.name);
                let reason = list.reason(&name).map(str::to_owned);
                self.failures.push(Failure { name, problems: vec![finding.summary.clone()], reason });
            }
        }
        // V2 before V10, and M1 after both.
        let number = |id: &str| id.get(1..)?.split(' ').next()?.parse::<u32>().ok();
        self.by_behaviour.sort_by_key(|(id, ..)| (id.starts_with('M'), number(id), id.clone()));
    }

    /// Returns false incidents for each virtual hour of ordinary traffic.
    pub fn false_per_hour(&self) -> f64 {
        if self.benign_hours == 0.0 { 0.0 } else { self.false_incidents as f64 / self.benign_hours }
    }

    /// Returns it as text for a terminal.
    pub fn to_text(&self) -> String {
        let mut text = self.to_markdown();
        let _written =
            writeln!(text, "{} packets, {:.0} a second of real time and worker", self.packets, self.packets_per_second);
        text
    }

    /// Returns it as `docs/EVALUATION.md`: nothing of the machine and of the day is in it.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _written = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        self.head(out)?;
        self.latencies(out)?;
        self.mitigation.write(out)?;
        let mut table = |title: &str, first: &str, rows: &BTreeMap<String, Tally>| -> std::fmt::Result {
            if rows.is_empty() {
                return Ok(());
            }
            writeln!(out, "\n## {title}\n\n| {first} | right |\n|---|---|")?;
            rows.iter().try_for_each(|(name, tally)| writeln!(out, "| `{name}` | {tally} |"))
        };
        table("By vector", "expected", &self.by_vector)?;
        table("By attack", "attack", &self.by_attack)?;
        table("By background", "background", &self.by_background)?;
        self.confused(out)?;
        self.held(out)?;
        self.short(out)
    }

    fn head(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# Evaluation\n")?;
        writeln!(out, "<!-- Written by `cargo xtask evaluate`; do not edit. -->\n")?;
        if self.subset == "all" {
            writeln!(out, "Every scenario of `tests/scenarios`, by `cargo xtask evaluate`.")?;
        } else {
            writeln!(out, "A part of the scenarios of `tests/scenarios`: `{}`.", self.subset)?;
        }
        writeln!(
            out,
            "An attack counts as right when an incident opens while it lasts, with its vectors and not one more; \
             an incident that opens before or long after is false. Virtual time; the samples are those of the real datapath, \
             and what the TCP guard arms is decided by what a card runs; the sockets that it asks for, and how full a listener's \
             queue of 511 is, are a model, made of what the protected side is seen to send (ftagent/src/replay/sockets.rs). \
             A SYN that is answered counts as removed unless its cookie comes back. The decisions see what the protected side \
             sends, too, where the captures have it; the daemon does not, it asks sockets alone.\n"
        )?;
        writeln!(out, "| | |\n|---|---|")?;
        writeln!(out, "| attacks of the matrix, all names and times right | {} |", self.attacks)?;
        writeln!(out, "| of these, real captures | {} |", self.real)?;
        writeln!(out, "| right primary vector | {} |", self.primary)?;
        let (removed, all) = self.mitigation.held();
        if all > 0 {
            let tally = Tally { right: removed, of: all };
            writeln!(out, "| removed as asked, with no more lost than allowed | {tally} |")?;
        }
        writeln!(out, "| ordinary traffic without an incident, and without a drop | {} |", self.benign)?;
        writeln!(
            out,
            "| false incidents | {} in {:.1} virtual hours, {:.3} an hour |",
            self.false_incidents,
            self.benign_hours,
            self.false_per_hour()
        )?;
        writeln!(out, "| behaviours (replayed) | {} |", self.behaviours)
    }

    fn latencies(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n## Time to detect\n\nFrom the first packet of the attack to the incident.\n")?;
        writeln!(out, "| intensity | detected | median | p99 |\n|---|---|---|---|")?;
        for (intensity, Latency { detected, median_ms, p99_ms }) in &self.latency {
            writeln!(out, "| {intensity} | {detected} | {median_ms:.0} ms | {p99_ms:.0} ms |")?;
        }
        Ok(())
    }

    fn confused(&self, out: &mut String) -> std::fmt::Result {
        if self.confusion.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n## Confusion\n\nWhat was reported; brackets list the names where they are not the expected.\n"
        )?;
        writeln!(out, "| expected | reported |\n|---|---|")?;
        for (expected, reported) in &self.confusion {
            let told: Vec<_> = reported.iter().map(|(got, times)| format!("{got} × {times}")).collect();
            writeln!(out, "| `{expected}` | {} |", told.join(", "))?;
        }
        Ok(())
    }

    fn held(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n## Behaviours\n\n| behaviour | holds | |\n|---|---|---|")?;
        for (name, holds, told) in &self.by_behaviour {
            writeln!(out, "| {name} | {} | {told} |", if *holds { "yes" } else { "**no**" })?;
        }
        for finding in self.simulations.iter().filter(|finding| !finding.lines.is_empty()) {
            writeln!(out, "\n### {} {}, simulated\n\n{}\n\n```text", finding.id, finding.name, finding.about)?;
            finding.lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            writeln!(out, "```")?;
        }
        Ok(())
    }

    fn short(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n## What falls short\n")?;
        if self.failures.is_empty() {
            return writeln!(out, "Nothing.");
        }
        for Failure { name, problems, reason } in &self.failures {
            let reason = reason.as_deref().unwrap_or("**unexplained**");
            writeln!(out, "- `{name}`: {}. {reason}", problems.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let latency = Latency::of((1..=100).map(f64::from).collect());
        assert_eq!((latency.detected, latency.median_ms, latency.p99_ms), (100, 50.0, 99.0));
        assert_eq!(Latency::of(vec![7.0]).p99_ms, 7.0);
        assert_eq!(Latency::of(Vec::new()).detected, 0);
    }
}
