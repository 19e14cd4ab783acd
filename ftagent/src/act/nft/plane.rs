//! The table on a thread of its own: `nft` takes milliseconds, and a tick must not wait for another
//! process longer than that.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    intervals::Entry,
    program::{NftError, Runner},
    table::Table,
};
use crate::{
    act::enforcer::{Drift, acts_alike},
    bpf::{LoadError, rules::RulesError},
    decide::mitigate::{RuleCount, Wanted},
};

/// How long a change is waited for, so that a rule is in force before the tick is over.
const PATIENCE: Duration = Duration::from_millis(200);
/// The longest that a removal is waited for.
const LONGEST: Duration = Duration::from_secs(25);
/// How often counters are read while there are rules.
const COUNTS: Duration = Duration::from_millis(200);
/// How often what is there is compared with what is wanted.
const LOOKS: Duration = Duration::from_secs(1);

/// The plane: takes what is wanted, and says what came of it.
#[derive(Debug)]
pub struct NftPlane {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is wanted, and what came of it.
#[derive(Debug, Default)]
struct State {
    wanted: Vec<Wanted>,
    /// Counts up whenever something is wanted; `done` follows.
    asked: u64,
    done: u64,
    lists: Option<(Vec<Entry>, Vec<Entry>)>,
    counts: BTreeMap<u32, RuleCount>,
    slots: BTreeMap<u32, u8>,
    refused: Vec<(u8, String, String)>,
    drift: Drift,
    trouble: Option<String>,
    ends: Option<End>,
    /// How it ended.
    ended: Option<Result<(), String>>,
}

/// How it is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The table stays; its rules end by themselves.
    Leave,
    /// The table goes.
    Remove,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NftPlane {
    /// Starts the thread, in this thread's network namespace; `begin` is the first that it does.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn spawn(
        nft: Box<dyn Runner>,
        devices: Vec<String>,
        begin: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (its, table) = (Arc::clone(&shared), Table::new(nft, devices));
        let thread = thread::Builder::new().name("nftables".to_owned()).spawn(move || {
            begin();
            work(&its, table);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Wants these rules. Returns when they are in force, or after a moment, with what is known then.
    ///
    /// # Errors
    /// The rules that nftables cannot say, and why nothing could be changed.
    pub fn apply(&mut self, wanted: &[Wanted]) -> Result<(), Vec<RulesError>> {
        let mut state = self.shared.state();
        let alike = |a: &Wanted, b: &Wanted| a.id == b.id && acts_alike(&a.rule, &b.rule);
        let renewal = state.wanted.len() == wanted.len() && state.wanted.iter().zip(wanted).all(|(a, b)| alike(a, b));
        state.wanted = wanted.to_vec();
        state.asked += 1;
        let asked = state.asked;
        self.shared.changed.notify_all();
        if !renewal {
            let waiting = self.shared.changed.wait_timeout_while(state, PATIENCE, |state| state.done < asked);
            state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
        let refused = state.refused.iter().cloned().map(|(slot, rule, what)| RulesError::Compile { slot, rule, what });
        let trouble = state.trouble.clone().map(|what| RulesError::Load(failed(what)));
        let errors: Vec<_> = refused.chain(trouble).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Wants these lists: whom no rule drops, and who is dropped whatever the rules say.
    pub fn set_lists(&self, allow: Vec<Entry>, block: Vec<Entry>) {
        let mut state = self.shared.state();
        state.lists = Some((allow, block));
        state.asked += 1;
        self.shared.changed.notify_all();
    }

    /// Returns what each rule did since this was last asked, as of the last reading.
    ///
    /// # Errors
    /// Why nothing can be read.
    pub fn counts(&mut self) -> Result<Vec<RuleCount>, LoadError> {
        let mut state = self.shared.state();
        let counts = std::mem::take(&mut state.counts);
        match state.trouble.clone().filter(|_| counts.is_empty()) {
            Some(what) => Err(failed(what)),
            None => Ok(counts.into_values().collect()),
        }
    }

    /// Returns how wanted and present compared at the last look; the thread repairs it by itself.
    pub fn drift(&self) -> Drift {
        self.shared.state().drift.clone()
    }

    /// Returns the slot of a rule that is in force, or was until a moment ago.
    pub fn slot(&self, id: u32) -> Option<u8> {
        self.shared.state().slots.get(&id).copied()
    }

    /// Takes the table off.
    pub fn remove(mut self) {
        self.end(End::Remove);
    }

    /// Gives out a handle for those who set lists and end it, beside the one that wants rules.
    pub fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.shared))
    }

    fn end(&mut self, how: End) {
        self.shared.state().ends.get_or_insert(how);
        self.shared.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("The thread of the nftables plane had panicked.");
        }
    }
}

impl Drop for NftPlane {
    fn drop(&mut self) {
        self.end(End::Leave);
    }
}

/// Another hold on the plane.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Shared>);

impl Remote {
    /// See [`NftPlane::set_lists`].
    pub fn set_lists(&self, allow: Vec<Entry>, block: Vec<Entry>) {
        let mut state = self.0.state();
        state.lists = Some((allow, block));
        state.asked += 1;
        self.0.changed.notify_all();
    }

    /// Returns why the table is not as it should be.
    pub fn trouble(&self) -> Option<String> {
        self.0.state().trouble.clone()
    }

    /// Has the thread take the table off and end, and waits for that.
    ///
    /// # Errors
    /// Why the table is still there.
    pub fn remove(&self) -> Result<(), String> {
        let mut state = self.0.state();
        state.ends = Some(End::Remove);
        self.0.changed.notify_all();
        let waiting = self.0.changed.wait_timeout_while(state, LONGEST, |state| state.ended.is_none());
        let state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        state.ended.clone().unwrap_or_else(|| Err("the thread of the nftables plane does not end".to_owned()))
    }
}

fn failed(what: String) -> LoadError {
    LoadError::Io { what: "the nftables plane".to_owned(), source: io::Error::other(what) }
}

/// Does what is wanted until it is told to end.
fn work(shared: &Shared, mut table: Table) {
    let (mut looked, mut counted) = (Instant::now(), Instant::now());
    let mut done = 0;
    loop {
        let state = shared.state();
        let idle = |state: &mut State| state.asked == done && state.ends.is_none();
        let waiting = shared.changed.wait_timeout_while(state, COUNTS, idle);
        let mut state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        if let Some(how) = state.ends {
            drop(state);
            let ended = finish(how, &mut table);
            shared.state().ended = Some(ended);
            shared.changed.notify_all();
            return;
        }
        let (asked, wanted, lists) = (state.asked, state.wanted.clone(), state.lists.take());
        drop(state);
        if let Some((allow, block)) = lists {
            table.set_lists(allow, block);
        }
        let mut trouble = None;
        if asked != done {
            trouble = Some(table.apply(&wanted, Instant::now()).err());
        }
        if counted.elapsed() >= COUNTS && !wanted.is_empty() {
            counted = Instant::now();
            match table.counts() {
                Ok(counts) => add(&mut shared.state().counts, counts),
                Err(error) => trouble = Some(Some(error)),
            }
        }
        let mut drift = None;
        if looked.elapsed() >= LOOKS {
            looked = Instant::now();
            match table.reconcile(&wanted, looked) {
                Ok(found) => drift = Some(found),
                Err(error) => trouble = Some(Some(error)),
            }
        }
        done = asked;
        publish(shared, &table, asked, trouble, drift);
    }
}

/// Tells what came of it; a trouble once.
fn publish(shared: &Shared, table: &Table, asked: u64, trouble: Option<Option<NftError>>, drift: Option<Drift>) {
    let mut state = shared.state();
    state.done = asked;
    if let Some(trouble) = trouble {
        let text = trouble.as_ref().map(|error| crate::chain(error));
        match (&state.trouble, &text) {
            (None, Some(error)) => warn!(%error, "The nftables table is not as it should be; it is tried again."),
            (Some(_), None) => info!("The nftables table is as it should be again."),
            _ => {}
        }
        state.trouble = text;
    }
    if let Some(drift) = drift {
        if !drift.missing.is_empty() {
            warn!(missing = ?drift.missing, "Another changed the nftables table; it was put back.");
        }
        state.drift = drift;
    }
    state.slots = table.slots();
    let slots = &state.slots;
    let refused = table.refused().iter();
    let refused = refused.map(|refused| {
        let slot = slots.get(&refused.wanted.id).copied().unwrap_or(0);
        (slot, refused.wanted.rule.matches.to_string(), refused.what.clone())
    });
    state.refused = refused.collect();
    shared.changed.notify_all();
}

fn add(sums: &mut BTreeMap<u32, RuleCount>, counts: Vec<RuleCount>) {
    for count in counts {
        let sum = sums.entry(count.id).or_insert(RuleCount { id: count.id, ..RuleCount::default() });
        sum.packets += count.packets;
        sum.bytes += count.bytes;
        sum.dropped += count.dropped;
        sum.dropped_bytes += count.dropped_bytes;
    }
}

fn finish(how: End, table: &mut Table) -> Result<(), String> {
    let removed = if how == End::Remove { table.remove() } else { Ok(()) };
    removed.map_err(|error| {
        let error = crate::chain(&error);
        warn!(error, "The nftables table could not be removed: `nft delete table netdev ftagent` does.");
        format!("the nftables table could not be removed ({error}): `nft delete table netdev ftagent` does")
    })
}
