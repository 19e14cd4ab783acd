//! Providers that are not ready, refuse, or cannot be read, and a disk that is full.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use super::*;
use crate::act::upstream::Act;

/// One prefix each; all change in one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Thing(String);

impl Item for Thing {
    fn key(&self) -> String {
        self.0.clone()
    }

    fn group(&self) -> String {
        "all".to_owned()
    }
}

/// What the provider is made to do, and what it was asked.
#[derive(Default)]
struct World {
    there: BTreeSet<String>,
    /// Of which it does not tell.
    unread: BTreeSet<String>,
    /// What the next changes come to; nothing: they are done.
    next: Vec<Trouble>,
    /// Keys and numbers of what was asked for, and taken back.
    asked: Vec<(String, u64)>,
    backs: Vec<(String, u64)>,
}

struct Fake(Arc<Mutex<World>>);

impl Provider for Fake {
    type Item = Thing;

    fn takes(&self, _: &What) -> Result<(), String> {
        Ok(())
    }

    fn resolve(&mut self, step: &Step) -> Result<Vec<Thing>, Trouble> {
        Ok(vec![Thing(step.what.to_string())])
    }

    fn look(&mut self, items: &[Thing]) -> Result<Vec<Seen>, Trouble> {
        let world = self.0.lock().unwrap();
        let seen = |item: &Thing| match world.there.contains(&item.0) {
            _ if world.unread.contains(&item.0) => Seen::Unread("status 400".to_owned()),
            true => Seen::Present,
            false => Seen::Absent,
        };
        Ok(items.iter().map(seen).collect())
    }

    fn change(&mut self, add: &[Order<Thing>], remove: &[Order<Thing>]) -> Result<(), Trouble> {
        let mut world = self.0.lock().unwrap();
        let told = |orders: &[Order<Thing>]| -> Vec<(String, u64)> {
            orders.iter().map(|order| (order.item.0.clone(), order.attempt)).collect()
        };
        world.asked.extend(told(add));
        world.backs.extend(told(remove));
        if !world.next.is_empty() {
            return Err(world.next.remove(0));
        }
        world.there.retain(|key| !remove.iter().any(|order| order.item.0 == *key));
        world.there.extend(add.iter().map(|order| order.item.0.clone()));
        Ok(())
    }

    fn check(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    fn reload(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// Writes nothing down where the disk is full.
#[derive(Default)]
struct Log {
    full: bool,
    acts: Mutex<Vec<String>>,
}

impl Witness for Log {
    fn before(&self, act: &Act) -> Result<(), String> {
        assert_eq!(act.verb, "filter", "only this may wait");
        if self.full {
            return Err("the disk is full".to_owned());
        }
        self.before_back(act);
        Ok(())
    }

    fn before_back(&self, act: &Act) {
        self.acts.lock().unwrap().push(format!("{} {}", act.verb, act.subject));
    }

    fn after(&self, act: &Act, result: Result<(), &str>) {
        self.acts.lock().unwrap().push(format!("{} {}: {result:?}", act.verb, act.subject));
    }
}

struct Stage {
    world: Arc<Mutex<World>>,
    engine: Engine<Fake>,
    log: Log,
    clock: Arc<AtomicU64>,
    state: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::at("")
    }

    /// With its journal there, below a directory of its own.
    fn at(place: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        // One that leads to nothing is a place where nothing can be written, until there is something.
        std::os::unix::fs::symlink(state.path().join("missing"), state.path().join("link")).unwrap();
        let (world, clock) = (Arc::new(Mutex::new(World::default())), Arc::new(AtomicU64::new(1_000_000)));
        let its = Arc::clone(&clock);
        let minute = Duration::from_secs(60);
        let pace = Pace {
            moving: minute / 6,
            steady: minute,
            idle: 60 * minute,
            activation: 10 * minute,
            removal: 10 * minute,
            drain: Duration::ZERO,
            hold: Duration::ZERO,
            gap: Duration::ZERO,
            grace: 2 * minute,
            first: minute / 30,
            longest: 5 * minute,
        };
        let now = Box::new(move || Duration::from_secs(its.load(Ordering::Relaxed)));
        let engine = Engine::open("fake", Fake(Arc::clone(&world)), &state.path().join(place), pace, now).unwrap();
        Self { world, engine, log: Log::default(), clock, state }
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Looks some seconds later.
    fn look(&mut self, after: u64, wanted: &[&str]) -> Report {
        self.clock.fetch_add(after, Ordering::Relaxed);
        let step = |(i, net): (usize, &&str)| Step {
            id: i as u32 + 1,
            plane: "fake".to_owned(),
            what: What::BlackHole { victim: net.parse().unwrap() },
            incident: "i-1".to_owned(),
            reason: "a test".to_owned(),
        };
        let steps: Vec<Step> = wanted.iter().enumerate().map(step).collect();
        self.engine.reconcile(&steps, &self.log)
    }

    fn standing(&mut self, after: u64, wanted: &[&str]) -> Standing {
        self.look(after, wanted).steps.remove(0).1
    }
}

const ONE: &str = "203.0.113.1/32";
const TWO: &str = "203.0.113.2/32";

#[test]
fn what_is_taken_back_does_not_wait_for_the_audit_log() {
    let mut stage = Stage::new();
    assert_eq!(stage.standing(0, &[ONE]), Standing::Asked);
    assert_eq!(stage.standing(10, &[ONE]), Standing::Present);
    stage.log.full = true;
    // One is to go and another to come, in one request: the first goes, the second has to be written down.
    let standing = stage.standing(10, &[TWO]);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("the disk is full")), "{standing:?}");
    assert!(stage.world().there.is_empty());
    assert_eq!(stage.world().asked.len(), 1);
    stage.log.full = false;
    stage.look(10, &[TWO]);
    assert_eq!(stage.standing(10, &[TWO]), Standing::Present);
    let acts = stage.log.acts.lock().unwrap().clone();
    assert!(acts.contains(&format!("unfilter {}: Ok(())", stage_key(ONE))), "{acts:?}");
}

#[test]
fn nothing_is_asked_before_the_journal_can_be_written_and_then_it_is() {
    let mut stage = Stage::at("link");
    let standing = stage.standing(0, &[ONE]);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("cannot be written")), "{standing:?}");
    assert!(stage.world().asked.is_empty());
    std::fs::create_dir(stage.state.path().join("missing")).unwrap();
    assert_eq!(stage.standing(400, &[ONE]), Standing::Asked);
    assert_eq!(stage.world().asked.len(), 1);
}

#[test]
fn only_what_nobody_answered_is_repeated_under_the_same_number() {
    let lost = || Trouble::Lost("reset".to_owned(), None);
    let busy = || Trouble::Busy("it is kept".to_owned(), Duration::from_secs(10));
    let refused = || Trouble::Refused("no".to_owned());
    // What came of the first take-back, and whether the second is the same.
    for (first, same) in [(lost(), true), (busy(), false), (refused(), false)] {
        let mut stage = Stage::new();
        stage.look(0, &[ONE]);
        assert_eq!(stage.standing(10, &[ONE]), Standing::Present);
        stage.world().next = vec![first.clone()];
        stage.look(10, &[]);
        stage.look(400, &[]);
        let backs = stage.world().backs.clone();
        assert_eq!(backs.len(), 2, "{first:?}");
        assert_eq!(backs[0].1 == backs[1].1, same, "{first:?}: {backs:?}");
        assert_eq!(stage.world().there.len(), 0);
    }
    // Of what is asked for: lost, then busy, then done.
    let mut stage = Stage::new();
    stage.world().next = vec![lost(), busy()];
    for _ in 0..3 {
        stage.look(400, &[ONE]);
    }
    let asked = stage.world().asked.clone();
    assert_eq!(asked.len(), 3);
    assert!(asked[0].1 == asked[1].1 && asked[1].1 != asked[2].1, "{asked:?}");
}

#[test]
fn one_that_cannot_be_read_does_not_hold_up_the_others() {
    let mut stage = Stage::new();
    stage.look(0, &[ONE, TWO]);
    stage.look(10, &[ONE, TWO]);
    stage.world().unread.insert(stage_key(ONE));
    let report = stage.look(10, &[ONE, TWO]);
    assert!(matches!(&report.steps[0].1, Standing::Failed(why) if why.contains("400")), "{report:?}");
    assert_eq!((&report.steps[1].1, report.trouble), (&Standing::Present, None));
    // Both are taken back, and the yes to that is believed.
    stage.look(10, &[]);
    assert_eq!(stage.world().there.len(), 0);
    assert_eq!(stage.look(10, &[]).leaving, 0);
}

fn stage_key(net: &str) -> String {
    What::BlackHole { victim: net.parse().unwrap() }.to_string()
}

#[test]
fn a_provider_that_is_busy_has_its_time_before_it_failed() {
    let mut stage = Stage::new();
    stage.world().next = (0..100).map(|_| Trouble::Busy("not now".to_owned(), Duration::from_secs(20))).collect();
    for _ in 0..30 {
        assert_eq!(stage.standing(20, &[ONE]), Standing::Asked);
    }
    let standing = stage.standing(40, &[ONE]);
    assert!(matches!(&standing, Standing::Failed(why) if why.contains("not now")), "{standing:?}");
    stage.world().next.clear();
    stage.look(20, &[ONE]);
    assert_eq!(stage.standing(20, &[ONE]), Standing::Present);
}
