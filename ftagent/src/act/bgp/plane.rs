//! What is wanted of a plane, made so.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Listing, Shared, Speaker, check, marker,
    route::{Kind, Nlri, Route, Seen},
};
use crate::{
    act::upstream::{Act, Driver, Witness},
    config::{Bgp, LargeCommunity},
    decide::ladder::{Report, Standing, Step, What},
};

/// Keeps the routes of a plane as they are wanted.
pub struct Announcer {
    kind: Kind,
    config: Bgp,
    marker: LargeCommunity,
    speaker: Shared,
    /// The daemon's life in which `present` were seen.
    life: Option<u64>,
    /// Steps whose routes were read back in this life.
    present: BTreeSet<u32>,
    /// Steps whose routes somebody took back.
    taken: BTreeSet<u32>,
    /// Routes of ours that are to go, when last looked.
    leaving: usize,
    /// What did not work, and when it is tried again.
    held: BTreeMap<(&'static str, Nlri), Held>,
    /// The incidents of what is announced.
    incidents: BTreeMap<Nlri, String>,
    /// Whether the daemon answered when last asked.
    answers: bool,
}

/// Something that did not work.
struct Held {
    until: Instant,
    wait: Duration,
    why: String,
}

/// How often to look while the daemon answers, and while it does not.
const LOOK: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(200)];
/// How long something that does not work is left alone at most.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// The two acts.
const ANNOUNCE: &str = "announce";
const WITHDRAW: &str = "withdraw";

/// What is to be there: the steps' own, and how they stand.
#[derive(Default)]
struct Plan {
    routes: BTreeMap<Nlri, (Route, Vec<Step>)>,
    standings: BTreeMap<u32, Standing>,
}

impl Announcer {
    /// `speaker` may be shared with the other plane.
    pub fn new(kind: Kind, config: Bgp, speaker: Shared) -> Self {
        let marker = marker(&config);
        Self {
            kind,
            config,
            marker,
            speaker,
            life: None,
            present: BTreeSet::new(),
            taken: BTreeSet::new(),
            leaving: 0,
            held: BTreeMap::new(),
            incidents: BTreeMap::new(),
            answers: true,
        }
    }

    fn list(&self) -> Result<Listing, String> {
        self.speaker.lock().unwrap_or_else(PoisonError::into_inner).list(self.kind)
    }

    /// Says which routes are to be there, and which steps have none.
    fn plan(&self, wanted: &[Step]) -> Plan {
        let mut plan = Plan::default();
        let mut steps: Vec<&Step> = wanted.iter().collect();
        // What was asked for first comes first, where not everything has room.
        steps.sort_by_key(|step| step.id);
        for step in steps {
            if self.taken.contains(&step.id) {
                plan.standings.insert(step.id, Standing::TakenBack);
                continue;
            }
            let route = match check::route(self.kind, &step.what, &self.config, self.marker) {
                Ok(route) => route,
                Err(why) => {
                    plan.standings.insert(step.id, Standing::Refused(why));
                    continue;
                }
            };
            let count = plan.routes.len();
            let standing = match plan.routes.get_mut(&route.nlri) {
                Some((other, steps)) if *other == route => {
                    steps.push(step.clone());
                    Standing::Asked
                }
                Some(_) => Standing::Failed("another step asks for something else of the same packets".to_owned()),
                None if count >= self.config.max_announcements => {
                    Standing::Failed(format!("{count} routes are announced, as many as bgp.max_announcements allows"))
                }
                None => {
                    plan.routes.insert(route.nlri.clone(), (route, vec![step.clone()]));
                    Standing::Asked
                }
            };
            plan.standings.insert(step.id, standing);
        }
        plan
    }

    /// Announces what is missing. Returns whether anything was done.
    fn announce(&mut self, plan: &mut Plan, listing: &Listing, witness: &dyn Witness) -> bool {
        let mut changed = false;
        for (nlri, (route, steps)) in &plan.routes {
            let found = listing.routes.iter().find(|seen| seen.nlri == *nlri);
            let ours = found.filter(|seen| seen.large.contains(&self.marker));
            let was_there = steps.iter().any(|step| self.present.contains(&step.id));
            let standing = match (found, ours) {
                (_, Some(seen)) if seen.is(route) => Standing::Present,
                (_, None) if was_there => {
                    self.taken.extend(steps.iter().map(|step| step.id));
                    Standing::TakenBack
                }
                (Some(_), None) => Standing::Failed(
                    "somebody else announces just this through the same daemon: it is not overwritten".to_owned(),
                ),
                (_, before) => {
                    let before = before.map_or(Value::Null, Seen::describe);
                    let Some(step) = steps.first() else { continue };
                    let act = self.act(ANNOUNCE, nlri, &step.incident, &step.reason, (before, route.describe()));
                    match self.attempt(nlri, &act, witness, |speaker| speaker.announce(route)) {
                        Ok(()) => {
                            changed = true;
                            self.incidents.insert(nlri.clone(), step.incident.clone());
                            Standing::Asked
                        }
                        Err(why) => Standing::Failed(why),
                    }
                }
            };
            for step in steps {
                plan.standings.insert(step.id, standing.clone());
            }
        }
        changed
    }

    /// Withdraws what is ours and not wanted. Returns how much was to go.
    fn withdraw(&mut self, plan: &Plan, listing: &Listing, witness: &dyn Witness) -> usize {
        let marker = self.marker;
        let ours = |seen: &&Seen| seen.large.contains(&marker) && !plan.routes.contains_key(&seen.nlri);
        let mut count = 0;
        for seen in listing.routes.iter().filter(ours) {
            count += 1;
            let incident = self.incidents.get(&seen.nlri).cloned().unwrap_or_default();
            let why = "nothing asks for it any more";
            let act = self.act(WITHDRAW, &seen.nlri, &incident, why, (seen.describe(), Value::Null));
            // Where it fails, it is still there at the next look.
            let _tried_again: Result<(), String> =
                self.attempt(&seen.nlri, &act, witness, |speaker| speaker.withdraw(seen));
        }
        count
    }

    fn act(
        &self,
        verb: &'static str,
        nlri: &Nlri,
        incident: &str,
        reason: &str,
        (before, after): (Value, Value),
    ) -> Act {
        let (plane, subject) = (self.plane().to_owned(), nlri.to_string());
        Act { verb, plane, subject, incident: incident.to_owned(), reason: reason.to_owned(), before, after }
    }

    /// Does something, unless the same failed just now. What is taken back waits for no disk.
    fn attempt(
        &mut self,
        nlri: &Nlri,
        act: &Act,
        witness: &dyn Witness,
        deed: impl FnOnce(&mut dyn Speaker) -> Result<(), String>,
    ) -> Result<(), String> {
        let key = (act.verb, nlri.clone());
        if let Some(held) = self.held.get(&key).filter(|held| Instant::now() < held.until) {
            return Err(held.why.clone());
        }
        let written = match act.verb {
            WITHDRAW => {
                witness.before_back(act);
                Ok(())
            }
            _ => witness.before(act),
        };
        let result = written.and_then(|()| {
            let result = deed(&mut *self.speaker.lock().unwrap_or_else(PoisonError::into_inner));
            witness.after(act, result.as_ref().copied().map_err(String::as_str));
            result
        });
        if let Err(why) = &result {
            self.hold(key, why.clone());
        }
        result
    }

    /// Leaves something alone for a while, twice as long as the time before.
    fn hold(&mut self, key: (&'static str, Nlri), why: String) {
        let wait = self.held.get(&key).map_or(LOOK[0], |held| MOST_WAIT.min(held.wait * 2));
        self.held.insert(key, Held { until: Instant::now() + wait, wait, why });
    }

    /// Says what is there now.
    fn look(&mut self, plan: &mut Plan, listing: &Listing) {
        for (nlri, (route, steps)) in &plan.routes {
            let there = listing.routes.iter().any(|seen| seen.is(route));
            if there {
                self.held.remove(&(ANNOUNCE, nlri.clone()));
            }
            let asked = steps.iter().any(|step| plan.standings.get(&step.id) == Some(&Standing::Asked));
            let standing = if there {
                // What nobody hears has no effect yet: after a restart, sessions take longer than routes.
                listing.unheard.clone().map_or(Standing::Present, Standing::Failed)
            } else if asked {
                let why = self.speaker.lock().unwrap_or_else(PoisonError::into_inner).hidden();
                self.hold((ANNOUNCE, nlri.clone()), why.to_owned());
                Standing::Failed(why.to_owned())
            } else {
                continue;
            };
            for step in steps {
                plan.standings.insert(step.id, standing.clone());
                if there {
                    self.present.insert(step.id);
                }
            }
        }
        let known =
            |nlri: &Nlri| plan.routes.contains_key(nlri) || listing.routes.iter().any(|seen| seen.nlri == *nlri);
        self.held.retain(|(_, nlri), _| known(nlri));
        self.incidents.retain(|nlri, _| known(nlri));
    }

    fn report(&self, wanted: &[Step], standings: &BTreeMap<u32, Standing>, trouble: Option<String>) -> Report {
        let standing = |step: &Step| standings.get(&step.id).cloned().unwrap_or(Standing::Asked);
        let steps = wanted.iter().map(|step| (step.id, standing(step))).collect();
        Report { plane: self.plane().to_owned(), steps, leaving: self.leaving, trouble, unseen: false }
    }

    /// What is the case while the daemon does not answer.
    fn away(&self, mut plan: Plan, wanted: &[Step], why: String) -> Report {
        for standing in plan.standings.values_mut().filter(|standing| **standing == Standing::Asked) {
            *standing = Standing::Failed(why.clone());
        }
        Report { unseen: true, ..self.report(wanted, &plan.standings, Some(why)) }
    }
}

impl Driver for Announcer {
    fn plane(&self) -> &str {
        match self.kind {
            Kind::FlowSpec => "flowspec",
            Kind::BlackHole => "rtbh",
        }
    }

    fn takes(&self, what: &What) -> Result<(), String> {
        check::route(self.kind, what, &self.config, self.marker).map(drop)
    }

    fn reconcile(&mut self, wanted: &[Step], witness: &dyn Witness) -> Report {
        let ids: BTreeSet<u32> = wanted.iter().map(|step| step.id).collect();
        self.present.retain(|id| ids.contains(id));
        self.taken.retain(|id| ids.contains(id));
        let mut plan = self.plan(wanted);
        let listing = self.list();
        self.answers = listing.is_ok();
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(why) => return self.away(plan, wanted, why),
        };
        if self.life != Some(listing.life) {
            // Another life: what is missing was lost with the one before.
            self.present.clear();
            self.held.clear();
            self.life = Some(listing.life);
        }
        // What is not wanted goes first: it may match the same packets as what comes.
        self.leaving = self.withdraw(&plan, &listing, witness);
        if self.announce(&mut plan, &listing, witness) || self.leaving > 0 {
            listing = match self.list() {
                Ok(listing) if self.life == Some(listing.life) => listing,
                // The next look finds what the daemon's new life lacks.
                Ok(_) => {
                    let there = plan.standings.values_mut().filter(|standing| **standing == Standing::Present);
                    there.for_each(|standing| *standing = Standing::Asked);
                    return self.report(wanted, &plan.standings, None);
                }
                Err(why) => return self.away(plan, wanted, why),
            };
            let ours = |seen: &&Seen| seen.large.contains(&self.marker) && !plan.routes.contains_key(&seen.nlri);
            self.leaving = listing.routes.iter().filter(ours).count();
        }
        self.look(&mut plan, &listing);
        self.report(wanted, &plan.standings, listing.unheard)
    }

    fn interval(&self) -> Duration {
        let [here, away] = LOOK;
        if self.answers { here } else { away }
    }
}
