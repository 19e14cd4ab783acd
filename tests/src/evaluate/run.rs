//! Runs cases side by side, one worker on each CPU.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use ftagent::replay::{Options, run_watched};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, geteuid},
};

use super::{
    compose::{Case, Folders, Kind, cases, file_name},
    generate,
    list::List,
    removal::Removal,
    score::{Outcome, broken, judge},
};
use crate::traffic::captures;

/// Where the evaluation writes what it generates: `target/evaluate` of the repository.
pub fn work_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/evaluate")
}

/// Returns what is missing to run anything, in words.
pub fn missing() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("replay runs the real datapath: it needs root");
    }
    captures().is_none().then_some("there are no captures at ../shared/captures (another place: FTAGENT_CAPTURES)")
}

/// Returns all cases of the list, with the folders that they take captures from.
///
/// # Errors
/// Where the list names what there is not.
pub fn all_cases(list: &List, dir: &Path) -> Result<Vec<Case>> {
    let captures = captures().context("there are no captures")?;
    let captures = captures.canonicalize().with_context(|| captures.display().to_string())?;
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    cases(list, &Folders { captures, generated: dir.join("captures") })
}

/// Keeps what a quick look runs: every attack and every vector once, at intensities and on
/// backgrounds in turn, a third of what is ordinary, and the short behaviours.
pub fn quick(cases: Vec<Case>) -> Vec<Case> {
    let (mut attacks, mut benign) = (Turns::default(), 0);
    let kept = |case: &Case| match &case.kind {
        Kind::Attack { attack, .. } => attacks.take(attack),
        Kind::Benign => {
            benign += 1;
            benign % 3 == 0
        }
        Kind::Behaviour(behaviour) => !case.text.contains("86420s") && behaviour.id != "V17",
    };
    let mut kept_by = kept;
    cases.into_iter().filter(|case| kept_by(case)).collect()
}

/// Takes one of the nine cases of each attack, another one each time.
#[derive(Default)]
struct Turns {
    name: String,
    number: usize,
    seen: usize,
}

impl Turns {
    fn take(&mut self, attack: &str) -> bool {
        if self.name != attack {
            attack.clone_into(&mut self.name);
            self.number += 1;
            self.seen = 0;
        }
        self.seen += 1;
        // 4 and 9 have no common factor: all nine have their turn.
        self.seen - 1 == self.number * 4 % 9
    }
}

/// Runs cases; `progress` is told of every outcome. Outcomes are in the order of the cases.
///
/// # Errors
/// Where files cannot be written. A case that cannot be run is an outcome.
pub fn run_cases(
    cases: &[Case],
    dir: &Path,
    workers: usize,
    progress: &(dyn Fn(usize, &Outcome) + Sync),
) -> Result<Vec<Outcome>> {
    spread(cases, dir, workers, &run_case, progress)
}

/// Does something with every case, side by side; see [`run_cases`].
pub(super) fn spread<T: Send>(
    cases: &[Case],
    dir: &Path,
    workers: usize,
    act: &(dyn Fn(&Case, &Path) -> T + Sync),
    progress: &(dyn Fn(usize, &T) + Sync),
) -> Result<Vec<T>> {
    let needed: BTreeSet<&str> = cases.iter().flat_map(|case| &case.needs).map(String::as_str).collect();
    generate::write_captures(&dir.join("captures"), |name| needed.contains(name))?;
    let scenarios = dir.join("scenarios");
    fs::create_dir_all(&scenarios).with_context(|| scenarios.display().to_string())?;
    let cpus = cpus()?;
    // The longest first: none is left to run alone at the end.
    let mut order: Vec<usize> = (0..cases.len()).collect();
    order.sort_by(|a, b| cases[*b].weight.total_cmp(&cases[*a].weight));
    let (queue, done) = (Mutex::new(VecDeque::from(order)), AtomicUsize::new(0));
    let work = |cpu: usize| -> Result<Vec<(usize, T)>> {
        // A replay stays on the CPU that it begins on: two must not begin on the same.
        stay_on(cpu)?;
        let mut outcomes = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(number) = next else { return Ok(outcomes) };
            let outcome = act(&cases[number], &scenarios);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, &outcome);
            outcomes.push((number, outcome));
        }
    };
    let workers: Vec<usize> = cpus.into_iter().take(workers.max(1)).collect();
    let mut outcomes = thread::scope(|scope| -> Result<Vec<(usize, T)>> {
        let threads: Vec<_> = workers.iter().map(|cpu| scope.spawn(|| work(*cpu))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??);
        }
        Ok(all)
    })?;
    outcomes.sort_by_key(|(number, _)| *number);
    ensure!(outcomes.len() == cases.len(), "{} outcomes of {} cases", outcomes.len(), cases.len());
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn run_case(case: &Case, scenarios: &Path) -> Outcome {
    let path = scenarios.join(file_name(&case.name));
    let mut removal = watch(&case.kind);
    let replayed = |removal: &mut Removal| -> Result<serde_json::Value> {
        fs::write(&path, &case.text).with_context(|| path.display().to_string())?;
        let options = Options { scenario: Some(path.clone()), ..Options::default() };
        let report = run_watched(&options, &mut |seen| removal.see(seen))?;
        Ok(serde_json::to_value(&report)?)
    };
    match replayed(&mut removal) {
        Ok(report) => judge(case, &report, &removal),
        Err(error) => broken(case, &format!("{error:#}")),
    }
}

/// Returns what watches a case: attacks, and the peers where they are compared.
fn watch(kind: &Kind) -> Removal {
    match kind {
        Kind::Attack { window_ms, .. } => Removal::new(*window_ms, true),
        Kind::Benign => Removal::new((0, 0), false),
        Kind::Behaviour(behaviour) => {
            let (from, to) = behaviour.attack_ms.unwrap_or_default();
            let ends = behaviour.removal.iter().map(|bound| bound.window_ms.1);
            Removal::new((from, ends.chain(behaviour.again_ms.map(|again| again.1)).fold(to, u64::max)), false)
        }
    }
}

fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect())
}

fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
