//! The planes beyond this host: which there are, and how what is wanted of them gets there and back.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tracing::{error, info, warn};

use super::brain::Brain;
use crate::{
    act::{
        self,
        upstream::{Act, Driver, Listener, Plane, Witness},
    },
    config::{self, Config, Take},
    decide::ladder::{Kind, Report, Step},
    record::audit::{AuditLog, Entry, Outcome},
};

/// How long an end waits for drivers that are in the middle of something.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// `[[scrub]]`: providers.
fn scrub(config: &Config) -> Vec<Result<Opened, String>> {
    let open = |scrub: &config::Scrub| {
        let kind = if scrub.takes.contains(&Take::Divert) { Kind::Scrub } else { Kind::Filter };
        act::scrub::open(scrub, &config.paths.state).map(|driver| (kind, driver))
    };
    config.scrub.iter().map(open).collect()
}

/// Makes the drivers that the configuration names. What cannot be opened is told, and left out: the rungs of other
/// planes are of use all the same.
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
            Ok(driver) => drivers.push(driver),
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
}

impl Planes {
    /// Starts them, with what is wanted now: what an earlier life asked for and is still wanted stays.
    pub(super) fn start(drivers: Vec<Opened>, wanted: &[Step], log: &AuditLog, brain: &Brain) -> Self {
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
        Self { planes, generation: None }
    }

    /// Tells the planes what is wanted, where that has changed; returns at once.
    pub(super) fn follow(&mut self, (steps, generation): (&[Step], u64)) {
        if self.generation.replace(generation) == Some(generation) {
            return;
        }
        for plane in &self.planes {
            plane.want(steps.iter().filter(|step| step.plane == plane.name()).cloned().collect());
        }
        let known: BTreeSet<&str> = self.planes.iter().map(Plane::name).collect();
        for step in steps.iter().filter(|step| !known.contains(step.plane.as_str())) {
            warn!(plane = %step.plane, step = step.id, "A step is wanted of a plane that there is not.");
        }
    }

    /// Ends the threads; what is upstream stays there.
    pub(super) fn stop(self) {
        self.planes.into_iter().for_each(|plane| plane.stop(PATIENCE));
    }
}

/// Writes into the audit log what is done upstream.
#[derive(Debug)]
struct AuditWitness(AuditLog);

impl Witness for AuditWitness {
    fn before(&self, act: &Act) -> Result<(), String> {
        self.0.before(entry(act).with(Outcome::Asked))
    }

    fn after(&self, act: &Act, result: Result<(), &str>) {
        self.0.after(match result {
            Ok(()) => entry(act),
            Err(why) => entry(act).because(format!("{why} (asked for: {})", act.reason)).with(Outcome::Failed),
        });
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
