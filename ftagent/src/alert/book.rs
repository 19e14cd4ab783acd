//! The outbox in memory: which messages wait for whom, and what each was told.
//!
//! Every change is a [`Record`]; what is in memory is what its records say, so that a start which reads them
//! finds the same. Whoever writes them takes the lines, in order.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Alert, Kind, UPSTREAM,
    log::{Delivery, How, Record, State, line},
};
use crate::sense::clock;

/// How long an old message is tried at least, in each life of the daemon.
const GRACE: Duration = Duration::from_secs(600);
/// What is kept of what became of messages.
const HISTORY: usize = 200;
/// A clock may be set back so far without ending a silence, milliseconds.
const SLACK_MS: i64 = 60_000;
/// Topics of which the latest message is kept; there are never so many at once.
const OPEN: usize = 1024;

/// A message that waits.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The message.
    pub alert: Arc<Alert>,
    /// Those it waits for.
    pub sinks: BTreeSet<String>,
    /// Since when it is here.
    pub since: Instant,
    /// It is on disk.
    pub written: bool,
    /// How old it was when it was read from the disk.
    aged: Duration,
    bytes: usize,
}

impl Entry {
    /// Returns how long it waits, over restarts too. A clock that steps while this daemon lives changes nothing.
    pub fn age(&self) -> Duration {
        self.aged + self.since.elapsed()
    }

    /// Returns whether it is older than `most`. What was read from the disk is tried for a while whatever its
    /// age: that is a difference between two clocks, and one of them may have been wrong.
    pub fn is_too_old(&self, most: Duration) -> bool {
        self.age() > most && self.since.elapsed() > most.min(GRACE)
    }
}

/// The outbox in memory.
#[derive(Debug, Default)]
pub struct Book {
    next: u64,
    entries: BTreeMap<u64, Entry>,
    queues: BTreeMap<String, BTreeSet<u64>>,
    told: BTreeMap<String, BTreeSet<String>>,
    open: BTreeMap<String, Arc<Alert>>,
    history: VecDeque<Delivery>,
    silences: BTreeMap<String, (i64, i64)>,
    bytes: usize,
    /// Lines that are not on disk, each with the message that it brings.
    unwritten: Vec<(Option<u64>, String)>,
    counts: BTreeMap<(String, How), u64>,
}

impl Book {
    /// Makes it of what was written down.
    pub fn of(records: Vec<Record<Alert>>) -> Self {
        let mut book = Self::default();
        for record in records {
            match record {
                Record::State(state) => book.restore(state),
                Record::Put { n, alert, sinks } => book.take(n, Arc::new(alert), sinks, true),
                Record::Done { n, result } => book.strike(n, result),
                Record::Silence { sink, from_ms, until_ms } => drop(book.silences.insert(sink, (from_ms, until_ms))),
            }
        }
        book.counts.clear();
        book
    }

    fn restore(&mut self, state: State) {
        let State { next, told, open, history, silences } = state;
        (self.next, self.told, self.silences) = (next.max(self.next), told, silences);
        self.open = open.into_iter().map(|alert| (alert.topic.clone(), Arc::new(alert))).collect();
        self.history = history.into();
    }

    /// Takes a message for some sinks.
    pub fn put(&mut self, alert: Alert, sinks: Vec<String>) -> u64 {
        let n = self.next;
        self.note(Some(n), &Record::Put { n, alert: &alert, sinks: sinks.clone() });
        self.take(n, Arc::new(alert), sinks, false);
        n
    }

    fn take(&mut self, n: u64, alert: Arc<Alert>, sinks: Vec<String>, written: bool) {
        self.next = self.next.max(n + 1);
        for sink in &sinks {
            self.queues.entry(sink.clone()).or_default().insert(n);
            let told = self.told.entry(sink.clone()).or_default();
            if alert.kind.is_end() {
                told.remove(&alert.topic)
            } else {
                told.insert(alert.topic.clone())
            };
        }
        let lasting = !alert.kind.is_end() && !matches!(alert.kind, Kind::Digest | Kind::Test);
        if lasting && (self.open.len() < OPEN || self.open.contains_key(&alert.topic)) {
            self.open.insert(alert.topic.clone(), Arc::clone(&alert));
        }
        let bytes = size(&alert);
        self.bytes += bytes;
        let sinks: BTreeSet<String> = sinks.into_iter().collect();
        let aged = if written { clock::unix_ms().saturating_sub(alert.at_ms) } else { 0 };
        let aged = Duration::from_millis(u64::try_from(aged).unwrap_or(0));
        self.entries.insert(n, Entry { alert, sinks, since: Instant::now(), written, aged, bytes });
    }

    /// Notes that a topic is over for everybody.
    pub fn end(&mut self, topic: &str) {
        self.open.remove(topic);
        for told in self.told.values_mut() {
            told.remove(topic);
        }
    }

    /// Notes what came of a message at a sink.
    pub fn done(&mut self, n: u64, result: Delivery) {
        self.note(None, &Record::<&Alert>::Done { n, result: result.clone() });
        self.strike(n, result);
    }

    fn strike(&mut self, n: u64, result: Delivery) {
        if let Some(queue) = self.queues.get_mut(&result.sink) {
            queue.remove(&n);
        }
        if let Some(entry) = self.entries.get_mut(&n) {
            entry.sinks.remove(&result.sink);
            if entry.sinks.is_empty() {
                let bytes = entry.bytes;
                let gone = self.entries.remove(&n);
                self.bytes -= bytes.min(self.bytes);
                // A topic ends with the last word on it; nothing is re-sent of it from then on.
                if let Some(gone) = gone.filter(|gone| gone.alert.kind.is_end()) {
                    self.open.remove(&gone.alert.topic);
                }
            }
        }
        *self.counts.entry((result.sink.clone(), result.how)).or_default() += 1;
        self.history.push_back(result);
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// Lets nobody be told from one instant to another, or one sink not; until 0: no more.
    pub fn silence(&mut self, sink: &str, from_ms: i64, until_ms: i64) {
        self.note(None, &Record::<&Alert>::Silence { sink: sink.to_owned(), from_ms, until_ms });
        self.silences.insert(sink.to_owned(), (from_ms, until_ms));
    }

    fn note(&mut self, n: Option<u64>, record: &Record<&Alert>) {
        // Plain data: there is nothing that could fail.
        if let Ok(line) = line(record) {
            self.unwritten.push((n, line));
        }
    }

    /// Takes the lines that are to be written, with the messages that they bring.
    pub fn unwritten(&mut self) -> Vec<(Option<u64>, String)> {
        std::mem::take(&mut self.unwritten)
    }

    /// Returns whether there are such lines.
    pub fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Notes that a message is on disk.
    pub fn mark_written(&mut self, n: u64) {
        if let Some(entry) = self.entries.get_mut(&n) {
            entry.written = true;
        }
    }

    /// Returns all of it as lines, and forgets those that wait to be written: they are in it.
    pub fn snapshot(&mut self) -> (Vec<u64>, String) {
        self.unwritten.clear();
        let state = State {
            next: self.next,
            told: self.told.clone(),
            open: self.open.values().map(|alert| Alert::clone(alert)).collect(),
            history: self.history.iter().cloned().collect(),
            silences: self.silences.clone(),
        };
        // What waits comes behind the state, which has said already who was told: an end among it takes that
        // back once more, and changes nothing.
        let puts = self.entries.iter().map(|(n, entry)| Record::Put {
            n: *n,
            alert: &*entry.alert,
            sinks: entry.sinks.iter().cloned().collect(),
        });
        let text = std::iter::once(Record::State(state)).chain(puts).filter_map(|record| line(&record).ok()).collect();
        (self.entries.keys().copied().collect(), text)
    }

    /// Returns what waits for a sink, oldest first.
    pub fn waiting(&self, sink: &str) -> impl Iterator<Item = (u64, &Entry)> {
        let queue = self.queues.get(sink).into_iter().flatten();
        queue.filter_map(|n| Some((*n, self.entries.get(n)?)))
    }

    /// Returns a message that waits for a sink.
    pub fn find(&self, sink: &str, n: u64) -> Option<Arc<Alert>> {
        let waits = self.queues.get(sink).is_some_and(|queue| queue.contains(&n));
        self.entries.get(&n).filter(|_| waits).map(|entry| Arc::clone(&entry.alert))
    }

    /// Returns how many messages wait for a sink.
    pub fn count(&self, sink: &str) -> usize {
        self.queues.get(sink).map_or(0, BTreeSet::len)
    }

    /// Returns the sinks that anything waits for.
    pub fn awaited(&self) -> Vec<String> {
        self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(sink, _)| sink.clone()).collect()
    }

    /// Returns whether a sink was told of a topic that is not over.
    pub fn was_told(&self, sink: &str, topic: &str) -> bool {
        self.told.get(sink).is_some_and(|told| told.contains(topic))
    }

    /// Returns whether anybody was.
    pub fn anybody_was_told(&self, topic: &str) -> bool {
        self.told.values().any(|told| told.contains(topic))
    }

    /// Returns the topics that are not over.
    pub fn topics(&self) -> Vec<String> {
        let told = self.told.values().flatten();
        told.chain(self.open.keys()).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Returns the latest message of a topic that is not over.
    pub fn latest(&self, topic: &str) -> Option<&Arc<Alert>> {
        self.open.get(topic)
    }

    /// Returns the latest messages of what a sink was told of and is not over, without those that wait for it.
    pub fn firing(&self, sink: &str) -> Vec<Arc<Alert>> {
        let topics = self.told.get(sink).into_iter().flatten();
        let waits: BTreeSet<&str> = self.waiting(sink).map(|(_, entry)| entry.alert.topic.as_str()).collect();
        let fits = |topic: &&String| !waits.contains(topic.as_str());
        topics.filter(fits).filter_map(|topic| self.open.get(topic).map(Arc::clone)).collect()
    }

    /// Returns until when a sink is silent, milliseconds since 1970; `None` where it is not. A clock that was set
    /// to before the beginning ends it: nobody meant to be told nothing for so long.
    pub fn silent_until(&self, sink: &str, now_ms: i64) -> Option<i64> {
        let all = self.silences.get("").into_iter().chain(self.silences.get(sink));
        all.filter(|(from, until)| (from - SLACK_MS..*until).contains(&now_ms)).map(|(_, until)| *until).max()
    }

    /// Returns what became of messages, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Delivery> {
        self.history.iter()
    }

    /// Returns how many messages were done with since the start, by sink and way.
    pub const fn counts(&self) -> &BTreeMap<(String, How), u64> {
        &self.counts
    }

    /// Returns how many messages wait, and their bytes.
    pub fn load(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Chooses what goes where there is too much: what merely changed, oldest first, else the oldest. What is left
    /// upstream of an attack that is over is told by no later message.
    pub fn surplus(&self, most: usize, most_bytes: u64) -> Option<(u64, Vec<String>)> {
        if self.entries.len() <= most && self.bytes as u64 <= most_bytes {
            return None;
        }
        let passing = |alert: &Alert| alert.kind == Kind::Changed && !alert.topic.ends_with(UPSTREAM);
        let changed = self.entries.iter().find(|(_, entry)| passing(&entry.alert));
        let (n, entry) = changed.or(self.entries.iter().next())?;
        Some((*n, entry.sinks.iter().cloned().collect()))
    }
}

/// What a message takes, about.
fn size(alert: &Alert) -> usize {
    let facts: usize = alert.facts.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fields: usize = alert.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    let lines: usize = alert.lines.iter().map(String::len).sum();
    512 + alert.title.len() + alert.id.len() + facts + fields + lines + 32 * alert.numbers.len()
}

#[cfg(test)]
#[path = "book/tests.rs"]
mod tests;
