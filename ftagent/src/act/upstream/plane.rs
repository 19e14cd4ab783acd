//! A driver and its thread.

use std::{
    fmt, io, panic,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Driver, Witness};
use crate::decide::ladder::{Report, Step, What};

/// Called with a report that is not the one before.
pub type Listener = Box<dyn Fn(&Report) + Send>;

/// How often it is looked whether something that is to go is gone.
const AGAIN: Duration = Duration::from_millis(500);

/// A driver on a thread of its own.
pub struct Plane {
    name: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: Arc<[Step]>,
    /// Goes up with every change of what is wanted.
    generation: u64,
    report: Arc<Report>,
    /// The generation that the report is about.
    done: Option<u64>,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plane {
    /// Starts the thread. It begins by looking at what is there: what nobody wants any more is taken back.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn(driver: Box<dyn Driver>, witness: Arc<dyn Witness>, tell: Listener) -> io::Result<Self> {
        Self::spawn_wanting(driver, Arc::default(), witness, tell)
    }

    /// As [`Self::spawn`], and wants something from the first look on: what an earlier life asked for stays.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn spawn_wanting(
        mut driver: Box<dyn Driver>,
        wanted: Arc<[Step]>,
        witness: Arc<dyn Witness>,
        tell: Listener,
    ) -> io::Result<Self> {
        let name = driver.plane().to_owned();
        let state = State { wanted, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let mut label = format!("up-{name}");
        // What the kernel keeps of a thread's name.
        label.truncate(15);
        let run = move || run(driver.as_mut(), witness.as_ref(), &of_thread, &tell);
        let thread = Some(thread::Builder::new().name(label).spawn(run)?);
        Ok(Self { name, shared, thread })
    }

    /// Returns its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says what is wanted from now on; returns at once.
    pub fn want(&self, wanted: Arc<[Step]>) {
        let mut state = self.shared.lock();
        if state.wanted != wanted {
            (state.wanted, state.generation) = (wanted, state.generation + 1);
            self.shared.changed.notify_all();
        }
    }

    /// Wants nothing any more, and has the driver look, whatever was wanted before; returns at once.
    pub fn want_nothing(&self) {
        let mut state = self.shared.lock();
        (state.wanted, state.generation) = (Arc::default(), state.generation + 1);
        self.shared.changed.notify_all();
    }

    /// Waits after [`Self::want_nothing`] until nothing of ours is left, for so long at most; calls `alive` all the
    /// while. That nothing can be seen is waited out where something `is_known` to be there. Returns what was found
    /// last; `None` where the driver did not come to look.
    pub fn cleared(&self, until: Instant, is_known: bool, alive: &dyn Fn()) -> Option<Arc<Report>> {
        let mut looked = None;
        loop {
            {
                let mut state = self.shared.lock();
                let done = state.done == Some(state.generation);
                if done {
                    looked = Some(Arc::clone(&state.report));
                }
                let gone = state.report.leaving == 0 && !(is_known && state.report.unseen);
                if done && gone || Instant::now() >= until {
                    return looked;
                }
                if done {
                    // A provider takes a moment: it is looked at again before its time.
                    state.generation += 1;
                    self.shared.changed.notify_all();
                }
            }
            alive();
            thread::sleep(AGAIN.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// Returns what is wanted, where the driver has looked since and found that nothing else of ours is there.
    pub fn settled(&self) -> Option<Arc<[Step]>> {
        let state = self.shared.lock();
        let nothing_else = state.report.leaving == 0 && !state.report.unseen;
        (state.done == Some(state.generation) && nothing_else).then(|| Arc::clone(&state.wanted))
    }

    /// Returns what was found last.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.shared.lock().report)
    }

    /// Ends the thread; what is announced stays. Waits for a driver that is in the middle of something for so long
    /// at most, and calls `alive` all the while.
    pub fn stop(mut self, patience: Duration, alive: &dyn Fn()) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        let until = Instant::now() + patience;
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() && Instant::now() < until {
            alive();
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn run(driver: &mut dyn Driver, witness: &dyn Witness, shared: &Shared, tell: &Listener) {
    let mut seen = None;
    loop {
        let (wanted, generation) = {
            let state = shared.lock();
            if state.stop {
                return;
            }
            (Arc::clone(&state.wanted), state.generation)
        };
        let looked = panic::catch_unwind(panic::AssertUnwindSafe(|| driver.reconcile(&wanted, witness)));
        let report = looked.unwrap_or_else(|_| Report {
            plane: driver.plane().to_owned(),
            trouble: Some("its driver ended in an error of its own (see the log); it is tried again".to_owned()),
            unseen: true,
            ..Report::default()
        });
        let report = Arc::new(report);
        {
            let mut state = shared.lock();
            (state.report, state.done) = (Arc::clone(&report), Some(generation));
        }
        if seen.as_ref() != Some(&report) {
            tell(&report);
            seen = Some(Arc::clone(&report));
        }
        let until = Instant::now() + driver.interval();
        let mut state = shared.lock();
        while !state.stop && state.generation == generation {
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            state = shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Returns why a driver cannot do what a step asks, over all steps.
pub fn refusals<'a>(driver: &'a dyn Driver, steps: &'a [Step]) -> impl Iterator<Item = (u32, String)> + 'a {
    let refusal = |what: &What| driver.takes(what).err();
    steps.iter().filter_map(move |step| Some((step.id, refusal(&step.what)?)))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::mpsc::{Receiver, SyncSender, sync_channel},
    };

    use super::*;
    use crate::{act::upstream::Act, decide::ladder::Standing};

    struct Silent;

    impl Witness for Silent {
        fn before(&self, _: &Act) -> Result<(), String> {
            Ok(())
        }

        fn after(&self, _: &Act, _: Result<(), &str>) {}
    }

    /// Has whatever it is asked to have, and falls over a step 13.
    struct Echo;

    impl Driver for Echo {
        fn plane(&self) -> &str {
            "echo"
        }

        fn takes(&self, _: &What) -> Result<(), String> {
            Ok(())
        }

        fn reconcile(&mut self, wanted: &[Step], _: &dyn Witness) -> Report {
            assert!(wanted.iter().all(|step| step.id != 13), "a driver that fails");
            let steps = wanted.iter().map(|step| (step.id, Standing::Present)).collect();
            Report { plane: "echo".into(), steps, ..Report::default() }
        }

        fn interval(&self) -> Duration {
            Duration::from_millis(5)
        }
    }

    /// Something that is still there for some looks after nobody wants it any more.
    struct Slow(usize);

    impl Driver for Slow {
        fn plane(&self) -> &str {
            "slow"
        }

        fn takes(&self, _: &What) -> Result<(), String> {
            Ok(())
        }

        fn reconcile(&mut self, wanted: &[Step], _: &dyn Witness) -> Report {
            self.0 = if wanted.is_empty() { self.0.saturating_sub(1) } else { self.0 };
            let steps = wanted.iter().map(|step| (step.id, Standing::Present)).collect();
            Report {
                plane: "slow".into(),
                steps,
                leaving: if wanted.is_empty() { self.0 } else { 0 },
                ..Report::default()
            }
        }

        fn interval(&self) -> Duration {
            Duration::from_secs(3600)
        }
    }

    #[test]
    fn what_is_left_is_waited_for_and_looked_at_before_its_time() {
        let start = |looks| {
            let wanted: Arc<[Step]> = vec![step(1)].into();
            let plane =
                Plane::spawn_wanting(Box::new(Slow(looks)), wanted, Arc::new(Silent), Box::new(|_| {})).unwrap();
            plane.want_nothing();
            plane
        };
        let gone = start(3);
        assert!(gone.settled().is_none(), "it has still to look");
        let report = gone.cleared(Instant::now() + Duration::from_secs(60), true, &|| {}).unwrap();
        assert_eq!((report.leaving, gone.settled().map(|wanted| wanted.len())), (0, Some(0)));
        gone.stop(Duration::from_secs(10), &|| {});
        let stays = start(usize::MAX);
        let report = stays.cleared(Instant::now() + Duration::from_secs(2), true, &|| {}).unwrap();
        assert!(report.leaving > 0 && stays.settled().is_none());
        stays.stop(Duration::from_secs(10), &|| {});
    }

    /// Is in the middle of something until it is let go.
    struct Hangs(SyncSender<()>, Receiver<()>);

    impl Driver for Hangs {
        fn plane(&self) -> &str {
            "hangs"
        }

        fn takes(&self, _: &What) -> Result<(), String> {
            Ok(())
        }

        fn reconcile(&mut self, _: &[Step], _: &dyn Witness) -> Report {
            self.0.send(()).unwrap();
            let _let_go = self.1.recv();
            Report::default()
        }

        fn interval(&self) -> Duration {
            Duration::from_secs(3600)
        }
    }

    #[test]
    fn whoever_waits_for_a_driver_that_hangs_says_that_he_lives() {
        let ((begins, begun), (let_go, waits)) = (sync_channel(1), sync_channel::<()>(0));
        let plane = Plane::spawn(Box::new(Hangs(begins, waits)), Arc::new(Silent), Box::new(|_| {})).unwrap();
        begun.recv_timeout(Duration::from_secs(10)).unwrap();
        let said = Cell::new(0);
        plane.stop(Duration::from_millis(200), &|| said.set(said.get() + 1));
        assert!(said.get() > 1, "{}", said.get());
        drop(let_go);
    }

    fn step(id: u32) -> Step {
        let victim = "192.0.2.1/32".parse().unwrap();
        Step { id, plane: "echo".into(), what: What::BlackHole { victim }, incident: "i".into(), reason: "r".into() }
    }

    #[test]
    fn a_change_is_carried_out_and_told_once() {
        let (told, reports) = sync_channel(64);
        let tell = Box::new(move |report: &Report| told.send(report.clone()).unwrap_or_default());
        let plane = Plane::spawn(Box::new(Echo), Arc::new(Silent), tell).unwrap();
        let next = || reports.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next().steps, []);
        plane.want(vec![step(1), step(2)].into());
        assert_eq!(next().steps, [(1, Standing::Present), (2, Standing::Present)]);
        // A driver that fails costs its own report, and nothing else.
        plane.want(vec![step(13)].into());
        assert!(next().trouble.is_some());
        plane.want(vec![step(2)].into());
        assert_eq!(next(), Report { plane: "echo".into(), steps: vec![(2, Standing::Present)], ..Report::default() });
        plane.stop(Duration::from_secs(10), &|| {});
        assert!(reports.try_recv().is_err(), "nothing was told twice");
    }
}
