//! `cargo xtask evaluate`: every scenario, judged and added up. Needs root and the captures.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use ftagent_tests::{
    evaluate::{
        capsules::{Again, again},
        compose::{Case, Kind},
        list::List,
        report::Board,
        run::{all_cases, missing, quick, run_cases, work_dir},
        score::Outcome,
    },
    simulate::{self, Finding},
};

/// Runs the scenarios of tests/scenarios and says how many came out right.
#[derive(Parser)]
#[command(name = "evaluate", version)]
struct Args {
    /// What to run.
    #[arg(long, value_enum, default_value = "all")]
    subset: Subset,
    /// Only what has this in its name (`syn_cic2019/10x`, `cold/`, `V4`); simulations too.
    #[arg(long)]
    only: Option<String>,
    /// Only every so many-th of what is left: a sample of all kinds.
    #[arg(long, value_name = "N", default_value = "1")]
    every: NonZeroUsize,
    /// Print the scoreboard, and every outcome, as JSON.
    #[arg(long)]
    json: bool,
    /// Write the scoreboard there, too.
    #[arg(long)]
    write: Option<PathBuf>,
    /// How many scenarios run side by side, at most one on each CPU.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Leave the simulations out: they take minutes, and the month and the adversary an hour.
    #[arg(long)]
    no_simulations: bool,
    /// Show the simulations of another run, of which this is the JSON, in place of its own.
    #[arg(long, value_name = "JSON")]
    simulations_of: Vec<PathBuf>,
    /// Write every scenario down as a capsule, replay that, and say how many decide the same; nothing else.
    #[arg(long)]
    capsules: bool,
    /// Print the names and run nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Subset {
    /// Everything.
    All,
    /// Every attack once, a third of what is ordinary, the short behaviours: minutes.
    Ci,
    /// Every attack once, and what must be done about attacks: whether rules remove what they should.
    Removal,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(missing) = missing() {
        bail!("{missing}");
    }
    let list = List::load()?;
    let dir = work_dir();
    let mut cases = all_cases(&list, &dir)?;
    if args.subset != Subset::All {
        cases = quick(cases);
    }
    if args.subset == Subset::Removal {
        cases.retain(|case| match &case.kind {
            Kind::Attack { .. } => true,
            Kind::Benign => false,
            Kind::Behaviour(behaviour) => behaviour.id.starts_with('M'),
        });
    }
    let wanted = |name: &str| args.only.as_ref().is_none_or(|pattern| name.contains(pattern.as_str()));
    cases.retain(|case| wanted(&case.name));
    let cases: Vec<Case> = cases.into_iter().step_by(args.every.get()).collect();
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    if args.capsules {
        return replay_capsules(&args, &cases, &dir);
    }
    let begun = Instant::now();
    let count = cases.len();
    eprintln!("{count} scenarios");
    let progress = |done: usize, outcome: &Outcome| {
        let told = if outcome.right { "right".to_owned() } else { outcome.problems.join("; ") };
        eprintln!("[{done}/{count}] {}: {told}", outcome.name);
    };
    let (outcomes, simulations) = std::thread::scope(|scope| -> Result<_> {
        // A worker beside the others: simulations need no datapath.
        let simulations = scope.spawn(|| simulated(&args, &wanted));
        let outcomes = run_cases(&cases, &dir, args.workers, &progress)?;
        let mut simulations = simulations.join().map_err(|_| anyhow::anyhow!("a simulation panicked"))??;
        simulations.extend(simulated_before(&args.simulations_of)?);
        Ok((outcomes, simulations))
    })?;
    let subset = match (&args.only, args.subset) {
        (Some(pattern), _) => format!("*{pattern}*"),
        (None, Subset::All) => "all".to_owned(),
        (None, Subset::Ci) => "ci".to_owned(),
        (None, Subset::Removal) => "removal".to_owned(),
    };
    let board = Board::new(&subset, &list, &cases, &outcomes, simulations);
    print(&args, &board, &cases, &outcomes)?;
    eprintln!("{:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Replays every scenario from a capsule, and says how many of each kind decide the same.
fn replay_capsules(args: &Args, cases: &[Case], dir: &Path) -> Result<()> {
    let (begun, count) = (Instant::now(), cases.len());
    let progress = |done: usize, again: &Again| {
        let Again { name, ticks, decisions, bytes, wrong } = again;
        let told = wrong.as_deref().unwrap_or("identical");
        let seconds = begun.elapsed().as_secs();
        eprintln!("[{done}/{count}] {name}: {ticks} ticks, {decisions} decisions, {bytes} bytes: {told} ({seconds} s)");
    };
    let outcomes = again(cases, dir, args.workers, &progress)?;
    let sum = |of: fn(&Again) -> u64| outcomes.iter().map(of).sum::<u64>();
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (case, again) in cases.iter().zip(&outcomes) {
        let (same, all) = kinds.entry(kind_name(&case.kind)).or_default();
        (*same, *all) = (*same + usize::from(again.wrong.is_none()), *all + 1);
    }
    kinds.iter().for_each(|(kind, (same, all))| println!("{kind}: {same} of {all}"));
    let wrong: Vec<&str> =
        outcomes.iter().filter(|again| again.wrong.is_some()).map(|again| again.name.as_str()).collect();
    println!(
        "{} of {count} capsules decide the same, byte for byte: {} ticks, {} decisions, {} MB, {} s",
        count - wrong.len(),
        sum(|again| again.ticks),
        sum(|again| again.decisions),
        sum(|again| again.bytes) / 1_000_000,
        begun.elapsed().as_secs()
    );
    ensure!(count > 0, "there was nothing to replay");
    ensure!(wrong.is_empty(), "{} do not: {}", wrong.len(), wrong.join(", "));
    Ok(())
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Attack { .. } => "attacks",
        Kind::Benign => "ordinary traffic",
        Kind::Behaviour(_) => "behaviours",
    }
}

/// Returns what the simulations of other runs found.
fn simulated_before(files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut run: serde_json::Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let found: Vec<Finding> = serde_json::from_value(run["board"]["simulations"].take())
            .with_context(|| format!("{}: no run of `evaluate --json`", file.display()))?;
        findings.extend(found);
    }
    Ok(findings)
}

fn simulated(args: &Args, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Finding>> {
    // What a quick look runs takes seconds.
    let skipped =
        |name: &str| args.no_simulations || args.subset != Subset::All && matches!(name, "month" | "adversary");
    let mut findings = Vec::new();
    for (id, name, simulation) in simulate::ALL {
        if !skipped(name) && wanted(&format!("{id}/{name}")) {
            let begun = Instant::now();
            let finding = simulation().with_context(|| format!("simulating {name}"))?;
            eprintln!("{id}/{name}: {} ({:.0} s)", finding.summary, begun.elapsed().as_secs_f64());
            findings.push(finding);
        }
    }
    Ok(findings)
}

fn print(args: &Args, board: &Board, cases: &[Case], outcomes: &[Outcome]) -> Result<()> {
    if args.json {
        let expected: Vec<_> = cases.iter().map(|case| format!("{:?}", case.kind)).collect();
        let all = serde_json::json!({ "board": board, "outcomes": outcomes, "expected": expected });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print!("{}", board.to_text());
    }
    if let Some(path) = &args.write {
        fs::write(path, board.to_markdown()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
