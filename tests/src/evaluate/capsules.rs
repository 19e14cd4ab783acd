//! Writes cases down as capsules and replays those: the same must be decided, byte for byte.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use ftagent::replay::{Options, capsule, run};

use super::{
    compose::{Case, Kind, file_name},
    generate,
    run::spread,
};

/// What came of a capsule.
#[derive(Clone, Debug)]
pub struct Again {
    /// The case.
    pub name: String,
    /// Ticks, and what was decided in them.
    pub ticks: u64,
    /// See [`Self::ticks`].
    pub decisions: u64,
    /// Bytes of the capsule.
    pub bytes: u64,
    /// What is wrong; absent where the same was decided.
    pub wrong: Option<String>,
}

/// Writes each case down and replays it. Outcomes are in the order of the cases.
///
/// # Errors
/// Where files cannot be written.
pub fn again(
    cases: &[Case],
    dir: &Path,
    workers: usize,
    progress: &(dyn Fn(usize, &Again) + Sync),
) -> Result<Vec<Again>> {
    let one = |case: &Case, scenarios: &Path| {
        replayed(case, scenarios).unwrap_or_else(|error| Again {
            name: case.name.clone(),
            ticks: 0,
            decisions: 0,
            bytes: 0,
            wrong: Some(format!("{error:#}")),
        })
    };
    spread(cases, dir, workers, &one, progress)
}

fn replayed(case: &Case, scenarios: &Path) -> Result<Again> {
    let path = scenarios.join(file_name(&case.name));
    fs::write(&path, &case.text).with_context(|| path.display().to_string())?;
    // Capsules are as large as what they hold: each goes when it has been replayed.
    let desk = tempfile::tempdir_in(scenarios)?;
    let out = desk.path().join("case.ftcapsule");
    let report = run(&Options { scenario: Some(path), capsule: Some(out.clone()), ..Options::default() })?;
    let bytes = fs::metadata(&out)?.len();
    let again = capsule::replay(&out)?;
    let incidents = again.outcome.decisions > 0 || report.incidents.is_empty();
    ensure!(incidents, "there were incidents, and nothing was decided");
    ensure!(again.outcome.notes.iter().all(|note| note.starts_with("there is no ")), "{:?}", again.outcome.notes);
    Ok(Again {
        name: case.name.clone(),
        ticks: again.outcome.ticks,
        decisions: again.outcome.decisions,
        bytes,
        wrong: (!again.identical).then(|| again.to_text()),
    })
}

/// Returns cases of generated captures alone: each of these attacks, behind ordinary visits.
///
/// # Errors
/// Where the folder cannot be made.
pub fn generated(attacks: &[&str], dir: &Path) -> Result<Vec<Case>> {
    fs::create_dir_all(dir)?;
    let captures = dir.canonicalize()?.join("captures");
    let ordinary = [("short_visits", 250), ("wireguard_tunnel", 150), ("internet_noise", 10)];
    let case = |(number, attack): (usize, &&str)| {
        let mut text = format!("duration = \"60s\"\nseed = {}\n", 500 + number);
        let mut source = |name: &str, label: &str, from: &str, pps: u32| {
            let file = captures.join(format!("{name}.pcap"));
            let _cannot_fail = write!(
                text,
                "\n[[source]]\nname = \"{name}\"\nfile = {:?}\nlabel = \"{label}\"\npps = {pps}\nloop = true\n{from}",
                file.display().to_string()
            );
        };
        ordinary.iter().for_each(|(name, pps)| source(name, "benign", "victim = \"198.51.100.10\"\n", *pps));
        source(attack, "attack", "start = \"35s\"\nstop = \"45s\"\n", 2500);
        Case {
            name: format!("generated/{attack}"),
            kind: Kind::Benign,
            text,
            needs: ordinary.iter().map(|(name, _)| (*name).to_owned()).chain([(*attack).to_owned()]).collect(),
            weight: 1.0,
        }
    };
    let known = generate::names();
    ensure!(attacks.iter().all(|attack| known.iter().any(|name| name == attack)), "an attack that cannot be generated");
    Ok(attacks.iter().enumerate().map(case).collect())
}
