//! What makes routes real: a thread in the router that turns those it receives into rules of nft.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{CORE, flowspec, speaker};
use crate::sandbox::Sandbox;

/// Time between two looks at the routes.
const PAUSE: Duration = Duration::from_millis(50);

/// The routes changed, and with them what the router drops.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was in force.
    pub at: Instant,
    /// The rules then, as nft has them.
    pub rules: BTreeSet<String>,
}

/// A router that does what it is told. It stops when this is dropped.
#[derive(Debug)]
pub struct Enforcer {
    changes: Arc<Mutex<Vec<Change>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Enforcer {
    /// Begins to enforce in the router of a sandbox, whose BGP daemon runs.
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, routes)
    }

    /// As [`Self::start`], but with rules of nft from elsewhere: what a provider does before the uplink.
    pub fn start_with(sandbox: &Sandbox, wanted: impl Fn() -> Result<BTreeSet<String>> + Send + 'static) -> Self {
        let (changes, stop) = (Arc::<Mutex<Vec<Change>>>::default(), Arc::new(AtomicBool::new(false)));
        let (seen, halt) = (Arc::clone(&changes), Arc::clone(&stop));
        let thread = sandbox.peer_host().spawn(move || enforce(&wanted, &seen, &halt));
        Self { changes, stop, thread: Some(thread) }
    }

    /// Returns every change so far.
    pub fn changes(&self) -> Vec<Change> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what is in force now.
    ///
    /// # Panics
    /// Where it has ended, and nobody knows what the routes are; why is said when this is dropped.
    pub fn rules(&self) -> BTreeSet<String> {
        assert!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the router has ended");
        self.changes().pop().map(|change| change.rules).unwrap_or_default()
    }

    /// Ends it; returns what went wrong meanwhile.
    ///
    /// # Errors
    /// What gobgp or nft said.
    pub fn end(mut self) -> Result<Vec<Change>> {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow::anyhow!("the router's thread panicked"))???;
        }
        Ok(self.changes())
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error) | Ok(Err(error)))) => eprintln!("the router: {error:#}"),
            Some(Err(_)) => eprintln!("the router: its thread panicked"),
            Some(Ok(Ok(Ok(())))) | None => {}
        }
    }
}

fn enforce(
    source: &dyn Fn() -> Result<BTreeSet<String>>,
    changes: &Mutex<Vec<Change>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut present = BTreeSet::new();
    while !stop.load(Relaxed) {
        let wanted = source()?;
        if wanted != present {
            apply(&wanted)?;
            let change = Change { at: Instant::now(), rules: wanted.clone() };
            changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
            present = wanted;
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// What the routes ask for.
fn routes() -> Result<BTreeSet<String>> {
    let mut rules = BTreeSet::new();
    for route in speaker::table("ipv4-flowspec")? {
        rules.insert(flowspec::rule(&route).with_context(|| route.to_string())?);
    }
    rules.extend(speaker::table("ipv4")?.iter().filter_map(flowspec::black_hole));
    Ok(rules)
}

/// Replaces all rules at once.
fn apply(rules: &BTreeSet<String>) -> Result<()> {
    let lines: String = rules.iter().map(|rule| format!("    {rule}\n")).collect();
    let text = format!(
        "table netdev edge\ndelete table netdev edge\ntable netdev edge {{\n  chain in {{\n    type filter hook ingress \
         device {CORE} priority 0; policy accept;\n{lines}  }}\n}}\n"
    );
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().context("starting nft")?;
    nft.stdin.take().context("nft's input")?.write_all(text.as_bytes())?;
    let output = nft.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{text}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
