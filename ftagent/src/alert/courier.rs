//! The thread of one sink: sends what waits for it, oldest first, and tries again until it has it. A sink that
//! hangs delays only itself.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    Alert, Kind,
    log::{Delivery, How},
    post::{Inner, Shared},
    sinks::{self, Failure, Pace, Receipt, Sink, worded},
    storm,
};
use crate::{
    config::alerts::AlertSink,
    record::audit::{AuditLog, Entry, Outcome},
    sense::clock,
};

/// How long a message waits to be on disk before it is sent all the same: a disk may hang.
const DISK: Duration = Duration::from_secs(1);
/// Messages in one, at most.
const DIGEST: usize = 500;
/// A sink that is shut waits so many times longer.
const SHUT: u32 = 32;

/// What a courier is told when it begins.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub settings: AlertSink,
    pub generation: u64,
    pub storm: u32,
    pub give_up_after: Duration,
    pub retry_first: Duration,
    pub retry_longest: Duration,
}

/// What is to be done next.
enum Job {
    /// Messages, in one where they are many.
    Send(Vec<(u64, Arc<Alert>)>),
    /// A try, with its number.
    Test(u64, Arc<Alert>),
    /// Say again what goes on.
    Again(Vec<Arc<Alert>>),
    End,
}

pub(super) struct Courier {
    shared: Arc<Shared>,
    orders: Orders,
    audit: AuditLog,
    sink: Option<Box<dyn Sink>>,
    bucket: Bucket,
    /// Failures in a row.
    failures: u32,
    not_before: Option<Instant>,
    said: Instant,
}

impl Courier {
    /// Starts the thread.
    pub fn spawn(shared: Arc<Shared>, orders: Orders, audit: AuditLog) -> std::io::Result<()> {
        let name: String = format!("to-{}", orders.settings.name).chars().take(15).collect();
        let courier = Self {
            shared,
            orders,
            audit,
            sink: None,
            bucket: Bucket::default(),
            failures: 0,
            not_before: None,
            said: Instant::now(),
        };
        thread::Builder::new().name(name).spawn(move || courier.run()).map(drop)
    }

    fn run(mut self) {
        loop {
            match self.next() {
                Job::End => return,
                Job::Send(alerts) => self.send(&alerts),
                Job::Test(number, alert) => self.test(number, &alert),
                Job::Again(open) => self.again(&open),
            }
        }
    }

    fn name(&self) -> &str {
        &self.orders.settings.name
    }

    /// Waits for something to do; the seat is taken while it is done.
    fn next(&mut self) -> Job {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        loop {
            let name = self.orders.settings.name.clone();
            let stop = inner.stop;
            let Some(seat) =
                inner.seats.get_mut(&name).filter(|seat| seat.generation == self.orders.generation && !stop)
            else {
                return Job::End;
            };
            // An older courier may still be sending.
            let mut wait = Duration::from_secs(60);
            if !seat.busy {
                if let Some((number, alert)) = seat.tests.pop_front() {
                    seat.busy = true;
                    return Job::Test(number, alert);
                }
                match self.due(&mut inner) {
                    Ok(job) => {
                        if let Some(seat) = inner.seats.get_mut(&name) {
                            seat.busy = true;
                        }
                        return job;
                    }
                    Err(until) => wait = until,
                }
            }
            inner = shared.wait(inner, wait);
        }
    }

    /// Returns what is to be done, or how long there is nothing.
    fn due(&mut self, inner: &mut Inner) -> Result<Job, Duration> {
        let now = Instant::now();
        let most = Duration::from_secs(60);
        self.give_up(inner);
        if let Some(wait) = self.not_before.and_then(|at| at.checked_duration_since(now)).filter(|w| !w.is_zero()) {
            return Err(wait);
        }
        let name = &self.orders.settings.name;
        let mut waiting = inner.book.waiting(name).map(|(n, entry)| (n, &entry.alert));
        let Some((n, alert)) = waiting.next() else { return self.repeat(inner).ok_or(most.min(self.until_repeat())) };
        let entry = inner.book.waiting(name).next().map(|(_, entry)| entry);
        if let Some(entry) = entry.filter(|entry| !entry.written && inner.disk.is_none()) {
            let left = DISK.saturating_sub(entry.since.elapsed());
            if !left.is_zero() {
                return Err(left);
            }
        }
        let pace = self.pace();
        if let Some(wait) = self.bucket.wait(pace, now) {
            return Err(wait);
        }
        let all = inner.book.waiting(name).map(|(_, entry)| &entry.alert);
        if self.orders.settings.target.is_for_people() && storm::is_one(all, self.orders.storm) {
            let some = inner.book.waiting(name).take(DIGEST);
            return Ok(Job::Send(some.map(|(n, entry)| (n, Arc::clone(&entry.alert))).collect()));
        }
        Ok(Job::Send(vec![(n, Arc::clone(alert))]))
    }

    fn pace(&self) -> Pace {
        let own = self.sink.as_ref().map_or(Pace { per_minute: 60, burst: 1 }, |sink| sink.pace());
        match self.orders.settings.rate_per_minute {
            Some(per_minute) => Pace { per_minute, burst: own.burst.min(per_minute) },
            None => own,
        }
    }

    fn until_repeat(&self) -> Duration {
        let interval = self.sink.as_ref().and_then(|sink| sink.interval());
        interval.map_or(Duration::from_secs(60), |interval| interval.saturating_sub(self.said.elapsed()))
    }

    /// Returns what goes on and is to be said again now. A sink that has sent nothing yet in this life is
    /// opened for it.
    fn repeat(&self, inner: &Inner) -> Option<Job> {
        let repeats = matches!(self.orders.settings.target, crate::config::alerts::Target::Alertmanager { .. });
        if !repeats || self.sink.is_some() && !self.until_repeat().is_zero() {
            return None;
        }
        let open = inner.book.firing(self.name());
        (!open.is_empty()).then_some(Job::Again(open))
    }

    /// Takes out what was tried for too long.
    fn give_up(&self, inner: &mut Inner) {
        let name = self.orders.settings.name.clone();
        loop {
            let oldest = inner.book.waiting(&name).next();
            let too_old = |entry: &super::book::Entry| entry.is_too_old(self.orders.give_up_after);
            let Some((n, entry)) = oldest.filter(|(_, entry)| too_old(entry)) else { return };
            let alert = Arc::clone(&entry.alert);
            let why = inner.seats.get(&name).and_then(|seat| seat.trouble.clone()).unwrap_or_default();
            let why = format!(
                "it could not be delivered for {}: {why}",
                humantime::format_duration(self.orders.give_up_after)
            );
            self.finish(inner, n, &alert, How::GivenUp, &why);
        }
    }

    /// Notes what came of a message; what did not arrive is told to the log and to the audit log.
    fn finish(&self, inner: &mut Inner, n: u64, alert: &Alert, how: How, answer: &str) {
        inner.book.done(n, delivery(alert, self.name(), how, answer));
        if !how.arrived() {
            warn!(sink = %self.name(), alert = %alert.id, result = how.as_str(), why = %answer, "An alert did not arrive.");
            self.audit.after(not_arrived(alert, self.name(), how, answer));
        }
    }

    fn send(&mut self, alerts: &[(u64, Arc<Alert>)]) {
        let alert = match alerts {
            [(_, alert)] => Arc::clone(alert),
            many => {
                let many: Vec<Arc<Alert>> = many.iter().map(|(_, alert)| Arc::clone(alert)).collect();
                Arc::new(storm::digest(&many, clock::unix_ms()))
            }
        };
        let result = self.deliver(&alert);
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        match result {
            Ok(receipt) => {
                let how = if alert.kind == Kind::Digest { How::Digested } else { How::Delivered };
                for (n, alert) in alerts {
                    self.finish(&mut inner, *n, alert, how, &receipt.answer);
                }
                self.not_before = receipt.pause.map(|pause| Instant::now() + pause);
                self.well(&mut inner, receipt.answer);
            }
            Err(Failure::Never(why)) => {
                for (n, alert) in alerts {
                    self.finish(&mut inner, *n, alert, How::Refused, &why);
                }
                self.answered(&mut inner);
            }
            Err(failure) => self.ill(&mut inner, &failure),
        }
        self.release(&mut inner);
        shared.ring();
    }

    fn test(&mut self, number: u64, alert: &Arc<Alert>) {
        let result = self.deliver(alert);
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        match &result {
            Ok(receipt) => {
                self.not_before = receipt.pause.map(|pause| Instant::now() + pause);
                self.well(&mut inner, receipt.answer.clone());
            }
            Err(failure @ (Failure::Later { .. } | Failure::Shut(_))) => self.ill(&mut inner, failure),
            Err(Failure::Never(_)) => self.answered(&mut inner),
        }
        if let Some(seat) = inner.seats.get_mut(&self.orders.settings.name) {
            seat.tested = Some((number, result));
        }
        self.release(&mut inner);
        shared.ring();
    }

    fn again(&mut self, open: &[Arc<Alert>]) {
        let result = self.guarded(|sink| sink.again(open));
        self.said = Instant::now();
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        match result {
            Ok(()) => self.well(&mut inner, format!("{} said again", open.len())),
            Err(failure) => self.ill(&mut inner, &failure),
        }
        self.release(&mut inner);
        shared.ring();
    }

    fn release(&self, inner: &mut Inner) {
        if let Some(seat) = inner.seats.get_mut(&self.orders.settings.name) {
            seat.busy = false;
        }
    }

    fn opened(&mut self) -> Result<&mut Box<dyn Sink>, Failure> {
        if self.sink.is_none() {
            self.sink = Some(sinks::open(&self.orders.settings).map_err(Failure::Shut)?);
        }
        self.sink.as_mut().ok_or_else(|| Failure::later("it is not open"))
    }

    fn deliver(&mut self, alert: &Alert) -> Result<Receipt, Failure> {
        let worded = worded(&self.orders.settings, alert);
        self.guarded(|sink| sink.send(&worded))
    }

    /// An answer that makes a sink panic must not end the thread, with what waits for it.
    fn guarded<T>(&mut self, act: impl FnOnce(&mut Box<dyn Sink>) -> Result<T, Failure>) -> Result<T, Failure> {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(self.opened()?)));
        done.unwrap_or_else(|_| {
            self.sink = None;
            Err(Failure::Never("sending it failed inside ftagent: this is a bug".to_owned()))
        })
    }

    fn well(&mut self, inner: &mut Inner, answer: String) {
        self.answered(inner);
        let Some(seat) = inner.seats.get_mut(&self.orders.settings.name) else { return };
        (seat.last_ms, seat.answer) = (Some(clock::unix_ms()), answer);
    }

    /// The other side is there and takes messages, though it may not have taken this one.
    fn answered(&mut self, inner: &mut Inner) {
        self.failures = 0;
        let Some(seat) = inner.seats.get_mut(&self.orders.settings.name) else { return };
        if let Some(trouble) = seat.trouble.take() {
            info!(sink = %self.orders.settings.name, was = %trouble, "The sink answers again.");
        }
        (seat.since, seat.next_try) = (None, None);
    }

    /// Waits before the next try: twice as long each time, with jitter, and no shorter than the other side
    /// wants.
    fn ill(&mut self, inner: &mut Inner, failure: &Failure) {
        let Orders { retry_first, retry_longest, .. } = self.orders;
        let doubled = retry_first.saturating_mul(1 << self.failures.min(20)).min(retry_longest);
        let (least, wait) = match failure {
            Failure::Later { after, .. } => (after.unwrap_or_default(), doubled),
            _ => (Duration::ZERO, doubled.max(retry_first.saturating_mul(SHUT)).min(retry_longest)),
        };
        let wait = least.max(wait.mul_f64(jitter()));
        if matches!(failure, Failure::Shut(_)) {
            self.sink = None;
        }
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + wait);
        let name = self.orders.settings.name.clone();
        let waiting = inner.book.count(&name);
        let Some(seat) = inner.seats.get_mut(&name) else { return };
        seat.failures += 1;
        seat.next_try = self.not_before;
        if seat.trouble.is_none() {
            warn!(sink = %name, why = %failure.why(), waiting, "Alerts cannot be delivered; they wait, and are tried again.");
            seat.since = Some(Instant::now());
        }
        seat.trouble = Some(failure.why().to_owned());
    }
}

/// What came of a message at a sink.
pub(super) fn delivery(alert: &Alert, sink: &str, how: How, answer: &str) -> Delivery {
    let now_ms = clock::unix_ms();
    Delivery {
        id: alert.id.clone(),
        title: alert.title.clone(),
        sink: sink.to_owned(),
        how,
        at_ms: now_ms,
        waited_ms: now_ms.saturating_sub(alert.at_ms).max(0),
        answer: super::cut(answer, 300),
    }
}

/// The line of the audit log about a message that did not arrive.
pub(super) fn not_arrived(alert: &Alert, sink: &str, how: How, why: &str) -> Entry {
    let entry = Entry::new("alert.lose", sink).because(format!("{}: {why}", how.as_str()));
    entry.about(alert.topic.as_str()).now(serde_json::json!({ "alert": alert.id })).with(Outcome::Failed)
}

/// Between a half and one.
fn jitter() -> f64 {
    0.5 + f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX) / 2.0
}

/// How many messages may be sent now.
#[derive(Debug, Default)]
struct Bucket {
    filled: Option<(Instant, f64)>,
}

impl Bucket {
    /// Takes one out, or returns how long there is none.
    fn wait(&mut self, pace: Pace, now: Instant) -> Option<Duration> {
        let (burst, per_second) = (f64::from(pace.burst.max(1)), f64::from(pace.per_minute.max(1)) / 60.0);
        let level = self.filled.map_or(burst, |(at, level)| {
            (level + now.saturating_duration_since(at).as_secs_f64() * per_second).min(burst)
        });
        let taken = level >= 1.0;
        self.filled = Some((now, if taken { level - 1.0 } else { level }));
        (!taken).then(|| Duration::from_secs_f64((1.0 - level) / per_second + 0.001))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gets_what_it_bears() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let pace = Pace { per_minute: 60, burst: 3 };
        let mut sent = 0;
        for ms in (0..10_000).step_by(100) {
            sent += usize::from(bucket.wait(pace, start + Duration::from_millis(ms)).is_none());
        }
        assert_eq!(sent, 3 + 9, "three at once, then one a second");
        let wait = bucket.wait(Pace { per_minute: 6, burst: 1 }, start + Duration::from_secs(10)).unwrap_or_default();
        assert!(wait <= Duration::from_secs(11), "{wait:?}");
    }

    #[test]
    fn jitter_is_between_a_half_and_one() {
        let drawn: Vec<f64> = (0..100).map(|_| jitter()).collect();
        assert!(drawn.iter().all(|one| (0.5..=1.0).contains(one)));
        assert!(drawn.windows(2).any(|two| two[0] != two[1]));
    }
}
