//! The planes beyond this host: which there are, and how what is wanted of them gets there and back.

pub(super) mod routes;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use self::routes::{Found, Routes};
use super::brain::Brain;
use crate::{
    act::{
        self,
        upstream::{Act, Driver, Listener, Plane, Witness},
    },
    config::{self, Config, Take},
    decide::ladder::{Kind, Report, Saved, Step},
    record::{
        audit::{Actor, AuditLog, Entry, OfflineLog, Outcome},
        ladder,
        routes::{Asked, OWN, save},
    },
};

/// How long an end waits for drivers that are in the middle of something.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it is waited until everything is taken back.
pub(super) const CLEARING: Duration = Duration::from_secs(10);
/// Things that are named where there may be many.
const SHOWN: usize = 8;

/// A driver, and what rungs of its plane do.
pub(super) type Opened = (Kind, Box<dyn Driver>);

/// Makes the drivers of one section of the configuration; a section that is not written makes none.
type Constructor = fn(&Config) -> Vec<Result<Opened, String>>;

/// Everything that makes drivers, one row for each section of the configuration. What each plane needs, and what it
/// cannot do, is in docs/planes.
const CONSTRUCTORS: &[Constructor] = &[bgp, scrub];

/// `[bgp]`: flow specifications and black holes.
fn bgp(config: &Config) -> Vec<Result<Opened, String>> {
    let Some(bgp) = &config.bgp else { return Vec::new() };
    let kind = |driver: &dyn Driver| if driver.plane() == "flowspec" { Kind::Filter } else { Kind::BlackHole };
    match act::bgp::open(bgp) {
        Ok(drivers) => drivers.into_iter().map(|driver| Ok((kind(driver.as_ref()), driver))).collect(),
        Err(why) => vec![Err(why)],
    }
}

/// What a provider's rung does unless the configuration says otherwise: the first of these that it takes.
const KINDS: [(Take, Kind); 4] = [
    (Take::Divert, Kind::Scrub),
    (Take::Filter, Kind::Filter),
    (Take::BlackHole, Kind::BlackHole),
    (Take::SourceBlackHole, Kind::SourceBlackHole),
];

/// `[[scrub]]`: providers.
fn scrub(config: &Config) -> Vec<Result<Opened, String>> {
    let open = |scrub: &config::Scrub| {
        let kind = KINDS.iter().find(|(take, _)| scrub.takes.contains(take)).map_or(Kind::Filter, |(_, kind)| *kind);
        act::scrub::open(scrub, &config.paths.state).map(|driver| (kind, driver))
    };
    config.scrub.iter().map(open).collect()
}

/// Makes the drivers that the configuration names. What cannot be opened is told, and left out: the rungs of other
/// planes are of use all the same. So is what drivers found that is not in order.
pub(super) fn open(config: &Config) -> (Vec<Opened>, Vec<String>) {
    gather(CONSTRUCTORS.iter().flat_map(|construct| construct(config)))
}

fn gather(opened: impl Iterator<Item = Result<Opened, String>>) -> (Vec<Opened>, Vec<String>) {
    let (mut drivers, mut told) = (Vec::<Opened>::new(), Vec::new());
    for driver in opened {
        match driver {
            Ok((_, driver)) if drivers.iter().any(|(_, known)| known.plane() == driver.plane()) => {
                told.push(format!("two planes are called `{}`: the second is not used", driver.plane()));
            }
            Ok(driver) => {
                told.extend(driver.1.found().map(str::to_owned));
                drivers.push(driver);
            }
            Err(why) => told.push(why),
        }
    }
    (drivers, told)
}

/// Returns what planes there are, by name.
pub(super) fn names(drivers: &[Opened]) -> Vec<(String, Kind)> {
    drivers.iter().map(|(kind, driver)| (driver.plane().to_owned(), *kind)).collect()
}

/// The planes, each on its thread.
#[derive(Debug, Default)]
pub(super) struct Planes {
    planes: Vec<Plane>,
    /// The generation of what was wanted last.
    generation: Option<u64>,
    /// What was asked for, until it is seen that it is gone.
    routes: Routes,
}

impl Planes {
    /// Starts them, with what is wanted now: what an earlier life asked for and is still wanted stays.
    pub(super) fn start(drivers: Vec<Opened>, routes: Routes, wanted: &[Step], log: &AuditLog, brain: &Brain) -> Self {
        let witness: Arc<dyn Witness> = Arc::new(AuditWitness(log.clone()));
        let mut planes = Vec::new();
        for (_, driver) in drivers {
            let name = driver.plane().to_owned();
            let first: Arc<[Step]> = wanted.iter().filter(|step| step.plane == name).cloned().collect();
            let tell: Listener = {
                let brain = brain.clone();
                Box::new(move |report: &Report| brain.report(report.clone()))
            };
            match Plane::spawn_wanting(driver, first, Arc::clone(&witness), tell) {
                Ok(plane) => {
                    info!(plane = %name, "A plane upstream is at hand.");
                    planes.push(plane);
                }
                Err(problem) => error!(plane = %name, %problem, "The thread of a plane could not be started."),
            }
        }
        Self { planes, generation: None, routes }
    }

    /// Tells the planes what is wanted, where that has changed; returns at once.
    pub(super) fn follow(&mut self, (steps, generation): (&[Step], u64)) {
        if self.generation.replace(generation) == Some(generation) {
            return;
        }
        self.routes.ask(steps);
        for plane in &self.planes {
            plane.want(steps.iter().filter(|step| step.plane == plane.name()).cloned().collect());
        }
        let known: BTreeSet<&str> = self.planes.iter().map(Plane::name).collect();
        for step in steps.iter().filter(|step| !known.contains(step.plane.as_str())) {
            warn!(plane = %step.plane, step = step.id, "A step is wanted of a plane that there is not.");
        }
    }

    /// Returns what routes may be announced, for a file; `None` where routes go through nobody.
    pub(super) fn routes(&mut self) -> Option<Vec<Asked>> {
        for plane in &self.planes {
            if let Some(wanted) = plane.settled() {
                self.routes.only(plane.name(), &wanted);
            }
        }
        self.routes.written()
    }

    /// Takes back whatever is upstream by our doing, and ends the threads. Calls `alive` while it waits. Returns what
    /// is still there, or may be: `known` is what was wanted before. Routes that may be there are written down in `state`.
    pub(super) fn clear(mut self, state: &Path, patience: Duration, known: &[Step], alive: &dyn Fn()) -> Vec<String> {
        let until = Instant::now() + patience;
        self.planes.iter().for_each(Plane::want_nothing);
        let mut left = Vec::new();
        for plane in std::mem::take(&mut self.planes) {
            let name = plane.name();
            let known = known.iter().chain(self.routes.steps()).filter(|step| step.plane == name);
            let known: BTreeSet<String> = known.map(|step| step.what.to_string()).collect();
            let known: Vec<String> = known.into_iter().collect();
            let report = plane.cleared(until, !known.is_empty(), alive);
            match remains(name, &known, report.as_deref()) {
                Some(told) => left.push(told),
                None => self.routes.only(name, &[]),
            }
            plane.stop(PATIENCE, alive);
        }
        if let Some(Err(error)) = self.routes.written().map(|routes| save(state, OWN, &routes)) {
            warn!(%error, "What routes may still be announced cannot be written down.");
        }
        left
    }

    /// Ends the threads; what is upstream stays there. systemd watches nobody who says that he stops.
    pub(super) fn stop(self) {
        self.planes.into_iter().for_each(|plane| plane.stop(PATIENCE, &|| {}));
    }
}

/// Says what of a plane is still there after it was told to take everything back, if anything is.
fn remains(name: &str, known: &[String], report: Option<&Report>) -> Option<String> {
    let (leaving, trouble) = report.map_or((None, None), |report| (Some(report.leaving), report.trouble.as_deref()));
    let why = trouble.map(|why| format!(" ({why})")).unwrap_or_default();
    let what = if known.is_empty() { String::new() } else { format!(": {}", shortened(known)) };
    match leaving {
        Some(0) if !report.is_some_and(|report| report.unseen) || known.is_empty() => None,
        Some(0) => Some(format!("`{name}` may have{what}{why}")),
        Some(count) => Some(format!("`{name}` has {count} still there{what}{why}")),
        None if known.is_empty() => None,
        None => Some(format!("`{name}` did not answer in time and may have{what}")),
    }
}

/// Lists some, and says how many there are.
fn shortened(items: &[String]) -> String {
    let shown = items.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if items.len() > SHOWN { format!("{shown}; and {} more", items.len() - SHOWN) } else { shown }
}

/// Says what an earlier life of the daemon left upstream that no plane of this configuration could take back.
/// `live` is what the ladder had upstream, `lost` are routes of an earlier configuration.
pub(super) fn orphans(config: &Config, live: &[Step], lost: &[Asked]) -> Vec<String> {
    let mut told = Vec::new();
    for (name, items) in act::scrub::listed(&config.paths.state) {
        if !config.scrub.iter().any(|scrub| scrub.name == name) {
            let (count, what) = (items.len(), shortened(&items));
            told.push(format!(
                "nobody looks after {count} things at the provider `{name}`, of which the configuration says nothing any \
                 more: put its [[scrub]] back, or take them back by hand and remove scrub/{name}.json from the state \
                 directory: {what}"
            ));
        }
    }
    let has = |step: &Step| match step.plane.as_str() {
        "flowspec" | "rtbh" => config.bgp.is_some() || lost.iter().any(|lost| lost.step == *step),
        name => config.scrub.iter().any(|scrub| scrub.name == name),
    };
    let mut gone: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for step in live.iter().filter(|step| !has(step)) {
        gone.entry(&step.plane).or_default().push(step.what.to_string());
    }
    for (plane, items) in gone {
        told.push(format!(
            "nobody looks after what is upstream of the plane `{plane}`, of which the configuration says nothing any more: \
             put its section back, or take it back by hand: {}",
            shortened(&items)
        ));
    }
    told.extend(routes::told(config, lost));
    told
}

/// Takes back what is upstream where no daemon runs that could. What is done is written into `log`, as done by `actor`.
/// Returns what is still there, or may be.
pub(crate) fn clear_of(config: &Config, log: Option<Arc<OfflineLog>>, actor: Actor) -> Vec<String> {
    let state = &config.paths.state;
    if !state.exists() {
        return Vec::new();
    }
    let (saved, _) = ladder::load(state);
    let live = saved.as_ref().map(Saved::live).unwrap_or_default();
    let Found { routes, lost, told: mut left } = Routes::open(config, &live);
    left.extend(orphans(config, &live, &lost));
    // Before the journals are opened: what is damaged is set aside then.
    let any = !live.is_empty() || routes.steps().next().is_some() || !act::scrub::listed(state).is_empty();
    let (drivers, told) = open(config);
    left.extend(told.into_iter().filter(|_| any));
    let witness: Arc<dyn Witness> = Arc::new(Offline { log, actor });
    let mut planes = Vec::new();
    for (_, driver) in drivers {
        match Plane::spawn(driver, Arc::clone(&witness), Box::new(|_| {})) {
            Ok(plane) => planes.push(plane),
            Err(problem) => left.push(format!("the thread of a plane could not be started: {problem}")),
        }
    }
    left.extend(Planes { planes, generation: None, routes }.clear(state, CLEARING, &live, &|| {}));
    if let Some(saved) = saved.filter(|_| left.is_empty()).map(Saved::over)
        && let Err(error) = ladder::save(state, &saved)
    {
        warn!(%error, "That nothing is upstream any more cannot be written down.");
    }
    left
}

/// Writes into the audit log where no daemon runs.
struct Offline {
    /// None: nothing is logged.
    log: Option<Arc<OfflineLog>>,
    actor: Actor,
}

impl Offline {
    fn write(&self, entry: Entry) {
        let Some(log) = &self.log else { return };
        if let Err(error) = log.add(entry.by(self.actor.clone())) {
            warn!(error = %crate::chain(&error), "The audit log cannot be written.");
        }
    }
}

impl Witness for Offline {
    fn before(&self, act: &Act) -> Result<(), String> {
        self.write(entry(act).with(Outcome::Asked));
        Ok(())
    }

    fn after(&self, act: &Act, result: Result<(), &str>) {
        self.write(done(act, result));
    }
}

/// Writes into the audit log what is done upstream.
#[derive(Debug)]
struct AuditWitness(AuditLog);

impl Witness for AuditWitness {
    fn before(&self, act: &Act) -> Result<(), String> {
        self.0.before(entry(act).with(Outcome::Asked))
    }

    fn before_back(&self, act: &Act) {
        self.0.after(entry(act).with(Outcome::Asked));
    }

    fn after(&self, act: &Act, result: Result<(), &str>) {
        self.0.after(done(act, result));
    }
}

fn done(act: &Act, result: Result<(), &str>) -> Entry {
    match result {
        Ok(()) => entry(act),
        Err(why) => entry(act).because(format!("{why} (asked for: {})", act.reason)).with(Outcome::Failed),
    }
}

fn entry(act: &Act) -> Entry {
    let entry = Entry::new(&format!("{}.{}", act.plane, act.verb), act.subject.as_str())
        .because(act.reason.as_str())
        .was(act.before.clone())
        .now(act.after.clone());
    if act.incident.is_empty() { entry } else { entry.about(act.incident.as_str()) }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) mod memory {
    //! A plane in memory that is strict: it refuses what no real one could take.

    use std::sync::{Mutex, PoisonError};

    use serde_json::Value;

    use super::*;
    use crate::{
        act::upstream::refusals,
        decide::ladder::{Standing, What},
    };

    /// What is there, seen from outside.
    pub(in crate::agent) type There = Arc<Mutex<Vec<Step>>>;

    pub(in crate::agent) struct Memory {
        pub name: String,
        pub there: There,
    }

    impl Driver for Memory {
        fn plane(&self) -> &str {
            &self.name
        }

        fn takes(&self, what: &What) -> Result<(), String> {
            match what {
                What::Filter { matches, .. } if matches.dst.is_none() => Err("a filter names its destination".into()),
                What::Filter { matches, .. } if !matches.payload.is_empty() || !matches.ttl.is_any() => {
                    Err("routers see neither payload nor TTL".into())
                }
                What::BlackHole { victim } if victim.prefix_len() != victim.max_prefix_len() => {
                    Err("only hosts are black-holed".into())
                }
                _ => Ok(()),
            }
        }

        fn reconcile(&mut self, wanted: &[Step], witness: &dyn Witness) -> Report {
            let refused: Vec<(u32, String)> = refusals(self, wanted).collect();
            let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            let act = |verb, step: &Step| Act {
                verb,
                plane: self.name.clone(),
                subject: step.what.to_string(),
                incident: step.incident.clone(),
                reason: step.reason.clone(),
                before: Value::Null,
                after: Value::Null,
            };
            let gone = there.iter().filter(|step| !wanted.iter().any(|wanted| wanted.what == step.what));
            for step in gone {
                witness.before(&act("withdraw", step)).unwrap();
                witness.after(&act("withdraw", step), Ok(()));
            }
            let mut steps = Vec::new();
            let mut now = Vec::new();
            for step in wanted {
                if let Some((_, why)) = refused.iter().find(|(id, _)| *id == step.id) {
                    steps.push((step.id, Standing::Refused(why.clone())));
                    continue;
                }
                if !there.iter().any(|known| known.what == step.what) {
                    witness.before(&act("announce", step)).unwrap();
                    witness.after(&act("announce", step), Ok(()));
                }
                now.push(step.clone());
                steps.push((step.id, Standing::Present));
            }
            *there = now;
            Report { plane: self.name.clone(), steps, ..Report::default() }
        }

        fn interval(&self) -> Duration {
            Duration::from_millis(50)
        }
    }

    #[test]
    fn what_cannot_be_opened_is_told_and_names_are_taken_once() {
        let plane = |name: &str| -> Result<Opened, String> {
            Ok((Kind::Filter, Box::new(Memory { name: name.to_owned(), there: There::default() })))
        };
        let (drivers, told) =
            gather([plane("a"), Err("b cannot be reached".to_owned()), plane("a"), plane("c")].into_iter());
        assert_eq!(names(&drivers), [("a".to_owned(), Kind::Filter), ("c".to_owned(), Kind::Filter)]);
        assert_eq!(told, ["b cannot be reached", "two planes are called `a`: the second is not used"]);
    }
}
