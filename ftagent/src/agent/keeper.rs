//! Logs and records what the core decides, on a thread of its own: a disk that stalls holds up
//! neither a tick nor a command.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    alerts::{guard_text, upstream_text},
    brain::{self, Brain, Happened, seconds},
    trail::Trail,
};
use crate::{
    alert::{News, Post},
    decide::{
        Event, Incident,
        ladder::{Saved, Turn},
        mitigate::{Mode, Wanted, memory::Remembered},
    },
    record::{audit::AuditLog, baseline, incidents::IncidentLog, ladder, probe, routes, rules},
};

/// Time between two checkpoints of the baseline, and to the next try after one that failed.
const CHECKPOINT: Duration = Duration::from_secs(60);
/// Time between two records of an incident while it is open.
const FOLLOW: Duration = Duration::from_secs(10);
/// Time between two records of the rules that no operator made, while there are any: so much earlier
/// than in the kernel they end after a crash.
const RULES: Duration = Duration::from_secs(2);
/// Time between two looks at everything that people are told of.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two looks whether anything can be written, while it cannot.
const PROBE: Duration = Duration::from_secs(5);
/// How long an end waits for the last record: a disk may hang.
const PATIENCE: Duration = Duration::from_secs(5);

/// Records; not started yet.
pub(super) struct Keeper {
    brain: Brain,
    events: Receiver<Happened>,
    state: PathBuf,
    log: IncidentLog,
    /// The file of rules is not empty.
    had_rules: bool,
    /// What the file remembers of rules that worked.
    remembered: Vec<Remembered>,
    /// What the file knows of the ladder.
    ladder: Option<Saved>,
    /// What the file knows of routes; `None` until it is written.
    routes: Option<Vec<routes::Asked>>,
    /// What those who tell people know to be upstream, and for which incident.
    upstream: Option<Beyond>,
}

/// What is done upstream, a line each, and for which incident.
type Beyond = (String, Vec<String>);

/// The thread that records.
pub(super) struct Running {
    brain: Brain,
}

/// What [`open`] finds.
pub(super) struct Opened {
    /// The core.
    pub brain: Brain,
    /// What records it.
    pub keeper: Keeper,
    /// Rules of an earlier life that have not ended.
    pub inherited: Vec<Wanted>,
    /// What the operator should know about what an earlier life left.
    pub told: Vec<String>,
}

/// Makes the core and what records it, and goes on from what an earlier life of the daemon left
/// in the state directory.
///
/// # Errors
/// Where the system has no randomness.
pub(super) fn open(state: &Path, trust_after: Duration, mode: Mode) -> io::Result<Opened> {
    let mut decider = brain::decider(trust_after.as_secs().max(1), mode)?;
    let restored = baseline::load(state, |checkpoint| decider.restore(checkpoint));
    if restored == Ok(true) {
        let learned = decider.learning();
        info!(state = %learned.state, learned_s = learned.learned_s, "What is normal here was restored.");
    }
    let (log, incidents, damage) = IncidentLog::open(state);
    decider.remember(incidents, brain::now());
    let rules::Left { rules: inherited, remembered, told: lost } = rules::load(state);
    decider.restore_remembered(remembered.clone(), brain::now());
    let (brain, events) = Brain::new(decider);
    let told = restored.err().into_iter().chain(damage).chain(lost).collect();
    let had_rules = !inherited.is_empty();
    let keeper = Keeper {
        brain: brain.clone(),
        events,
        state: state.to_owned(),
        log,
        had_rules,
        remembered,
        ladder: None,
        routes: None,
        upstream: None,
    };
    Ok(Opened { brain, keeper, inherited, told })
}

impl Keeper {
    /// Starts the thread. `ladder` is what an earlier life wrote down of it.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn spawn(mut self, ladder: Option<Saved>, log: &AuditLog, post: Post) -> io::Result<Running> {
        self.ladder = ladder;
        let (brain, trail) = (self.brain.clone(), Trail::new(log.clone()));
        thread::Builder::new().name("record".into()).spawn(move || self.run(trail, &post))?;
        Ok(Running { brain })
    }

    fn run(mut self, mut trail: Trail, post: &Post) {
        let now = Instant::now();
        let (mut incidents_due, mut checkpoint_due, mut rules_due) = (now, now + CHECKPOINT, now + RULES);
        let (mut changed, mut look_due, mut probe_due) = (BTreeSet::new(), now, now);
        let [mut incidents_trouble, mut checkpoint_trouble, mut rules_trouble] = [None, None, None];
        loop {
            let wait = incidents_due
                .min(checkpoint_due)
                .min(rules_due)
                .min(look_due)
                .min(probe_due)
                .saturating_duration_since(Instant::now());
            let mut end = None;
            match self.events.recv_timeout(wait) {
                Ok(Happened::Event(event, incident)) => {
                    tell(&event, incident.as_deref());
                    trail.event(&event, incident.as_deref());
                    self.tell_upstream(post);
                    alert(post, &event, incident.as_ref());
                    // What merely changed can wait, and so can everything while the disk is in trouble.
                    if !matches!(event, Event::Changed { .. } | Event::Ladder { .. }) && incidents_trouble.is_none() {
                        incidents_due = Instant::now();
                    }
                    if matches!(event, Event::Ladder { .. }) && rules_trouble.is_none() {
                        rules_due = Instant::now();
                    }
                    changed.extend(incident.map(|incident| incident.id.clone()));
                }
                Ok(Happened::View(view)) => trail.rules(&view),
                Ok(Happened::Rules(what)) => warn!(%what, "Rules are not as they are wanted."),
                Ok(Happened::Stop(done)) => end = Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            trail.look(&self.brain);
            trail.lose(self.brain.take_untold());
            let now = Instant::now();
            if now >= look_due {
                // Whatever was not told as it happened is told now.
                self.tell_upstream(post);
                post.look(self.brain.incidents_shared(), guard_text(&self.brain));
                look_due = now + LOOK;
            }
            self.brain.set_writing(true);
            if now >= probe_due {
                let was_unwritable = self.brain.unwritable().is_some();
                let is_unwritable = self.probe();
                probe_due = now + if is_unwritable { PROBE } else { CHECKPOINT };
                if was_unwritable && !is_unwritable {
                    (incidents_due, checkpoint_due, rules_due) = (now, now, now);
                }
            }
            if end.is_some() || now >= incidents_due {
                incidents_trouble = self.write_incidents(&mut changed).err().map(|error| trouble("incidents", &error));
                incidents_due = now + if incidents_trouble.is_some() { CHECKPOINT } else { FOLLOW };
            }
            if end.is_some() || now >= checkpoint_due {
                checkpoint_trouble = self.write_checkpoint().err().map(|error| trouble("the baseline", &error));
                checkpoint_due = now + CHECKPOINT;
            }
            if end.is_some() || now >= rules_due {
                rules_trouble = self.write_rules().err().map(|error| trouble("the rules in force", &error));
                rules_due = now + if rules_trouble.is_some() { CHECKPOINT } else { RULES };
            }
            if self.brain.set_writing(false) {
                // Whether it can be written by now is found out at once.
                probe_due = Instant::now();
            }
            let troubles = [&checkpoint_trouble, &incidents_trouble, &rules_trouble];
            self.report(troubles.into_iter().flatten().next());
            if let Some(done) = end {
                // Nobody may be waiting any more.
                let _gone = done.send(());
                return;
            }
        }
    }

    /// Writes the incidents that are open or have changed.
    fn write_incidents(&mut self, changed: &mut BTreeSet<String>) -> io::Result<()> {
        let all = self.brain.incidents_shared();
        let due = |incident: &&Arc<Incident>| incident.is_open() || changed.contains(&incident.id);
        let written: Vec<Arc<Incident>> = all.iter().filter(due).map(Arc::clone).collect();
        changed.clear();
        if all.is_empty() || (written.is_empty() && !self.log.is_behind()) {
            return Ok(());
        }
        self.log.write(&written, &all)
    }

    /// Writes the rules that no operator made while there are any, and once more when there are none;
    /// and those that worked, where others do.
    fn write_rules(&mut self) -> io::Result<()> {
        let (rules, remembered) = (self.brain.own_rules(), self.brain.remembered());
        if !rules.is_empty() || self.had_rules || remembered != self.remembered {
            rules::save(&self.state, &rules, &remembered)?;
        }
        (self.had_rules, self.remembered) = (!rules.is_empty(), remembered);
        self.write_ladder()?;
        self.write_routes()
    }

    /// Writes what is upstream where something is, and once more when nothing is.
    fn write_ladder(&mut self) -> io::Result<()> {
        let saved = self.brain.saved_ladder();
        let was_up = self.ladder.as_ref().is_some_and(Saved::is_up);
        if saved.is_up() || was_up {
            ladder::save(&self.state, &saved)?;
            self.ladder = Some(saved);
        }
        Ok(())
    }

    /// Writes what routes may be announced, where that changed.
    fn write_routes(&mut self) -> io::Result<()> {
        let routes = self.brain.routes().filter(|routes| self.routes.as_ref() != Some(routes));
        if let Some(routes) = routes {
            routes::save(&self.state, routes::OWN, &routes)?;
            self.routes = Some(routes);
        }
        Ok(())
    }

    /// Says what is upstream, for messages, where that changed.
    fn tell_upstream(&mut self, post: &Post) {
        let view = self.brain.ladder();
        let lines = upstream_text(&view);
        let now = view.incident.filter(|_| !lines.is_empty()).map(|incident| (incident, lines));
        if now != self.upstream {
            self.upstream = hand_over(self.upstream.take(), now, |id, lines| post.upstream(id, lines));
        }
    }

    fn write_checkpoint(&self) -> io::Result<()> {
        self.brain.export_sound().map_or(Ok(()), |checkpoint| baseline::save(&self.state, &checkpoint))
    }

    /// Finds out whether anything can be written, and tells when that changes; returns whether nothing can.
    fn probe(&self) -> bool {
        let why = probe(&self.state).err().map(|error| {
            format!(
                "nothing can be written to {} ({error}): attacks are removed all the same, but what is learned, incidents,                  lists, rules, captures, alerts that wait and the audit log are in memory alone, and a restart loses them;                  look at the disk of `paths.state`, it is tried again every few seconds",
                self.state.display()
            )
        });
        match (&why, self.brain.unwritable()) {
            (Some(why), None) => error!("{why}"),
            (None, Some(_)) => info!("{} can be written again.", self.state.display()),
            _ => {}
        }
        let is_unwritable = why.is_some();
        self.brain.set_unwritable(why);
        is_unwritable
    }

    /// Tells the operator of trouble when it begins and when it is over.
    fn report(&self, trouble: Option<&String>) {
        match (trouble, self.brain.trouble()) {
            (Some(trouble), None) => error!("{trouble}"),
            (None, Some(_)) => info!("What was learned and found is saved again."),
            _ => {}
        }
        self.brain.set_trouble(trouble.cloned());
    }
}

impl Running {
    /// Records what is left and ends the thread; gives up on a disk that hangs.
    pub(super) fn stop(self) {
        let (done, wait) = sync_channel(1);
        if !self.brain.tell(Happened::Stop(done)) || wait.recv_timeout(PATIENCE).is_err() {
            warn!("The last things learned could not be saved in time; those of a minute ago are.");
        }
    }
}

fn trouble(what: &str, error: &io::Error) -> String {
    format!(
        "{what} cannot be saved ({error}): detection goes on, a restart would lose what is new; look at the disk of \
         `paths.state`, it is tried again every minute"
    )
}

/// Hands over what is done upstream, by an incident and its lines; `tell` says whether there was room for that. Returns
/// what is known now of those who tell people: where it is not what it should be, it is tried again in a second.
fn hand_over(known: Option<Beyond>, now: Option<Beyond>, tell: impl Fn(&str, Vec<String>) -> bool) -> Option<Beyond> {
    let (same, other) = match known {
        Some(known) if now.as_ref().is_some_and(|(id, _)| *id == known.0) => (Some(known), None),
        known => (None, known),
    };
    match (other, now) {
        (Some(other), _) if !tell(&other.0, Vec::new()) => Some(other),
        (_, Some((id, lines))) if tell(&id, lines.clone()) => Some((id, lines)),
        _ => same,
    }
}

/// Hands an event over to those who tell people.
fn alert(post: &Post, event: &Event, incident: Option<&Arc<Incident>>) {
    let Some(incident) = incident else { return };
    match event {
        Event::Opened { .. } | Event::Closed { .. } => post.seen(Arc::clone(incident), None),
        Event::Changed { what, .. } => post.seen(Arc::clone(incident), Some(News::Changed(what.clone()))),
        Event::Ladder { rung, turn, what, .. } => {
            let what = format!("{rung}: {what}");
            if !incident.is_open() {
                post.after(Arc::clone(incident), what);
                return;
            }
            let news = match turn {
                Turn::Asked | Turn::Escalated | Turn::Failed => News::Escalated(what),
                Turn::Changed | Turn::Probed | Turn::CameBack | Turn::Stopped => News::Changed(what),
            };
            post.seen(Arc::clone(incident), Some(news));
        }
        Event::Notice { .. } => {}
    }
}

/// Logs an event in one line.
fn tell(event: &Event, incident: Option<&Incident>) {
    match (event, incident) {
        (Event::Opened { id }, Some(incident)) => warn!(
            incident = %id,
            vector = incident.vector.as_str(),
            severity = incident.severity.as_str(),
            confidence = incident.confidence,
            detected_after_s = seconds(incident.began, incident.opened),
            evidence = incident.findings.first().map_or("", |finding| finding.evidence.line.as_str()),
            "An attack began."
        ),
        (Event::Closed { id }, Some(incident)) => warn!(
            incident = %id,
            vector = incident.vector.as_str(),
            severity = incident.severity.as_str(),
            duration_s = incident.closed.map_or(0.0, |closed| seconds(incident.began, closed)),
            peak_pps = incident.peak_pps,
            peak_bps = incident.peak_bps,
            packets = incident.packets,
            "The attack is over."
        ),
        (Event::Opened { id }, None) => warn!(incident = %id, "An attack began."),
        (Event::Closed { id }, None) => warn!(incident = %id, "The attack is over."),
        (Event::Changed { id, what }, _) => info!(incident = %id, %what, "The attack changed."),
        (Event::Ladder { id, rung, turn, what }, _) => {
            warn!(incident = %id, %rung, turn = turn.as_str(), %what, "The ladder moved.");
        }
        (Event::Notice { what }, _) => info!(%what, "Noticed."),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_over_is_written_though_nothing_was_up_in_this_life() {
        let dir = tempfile::tempdir().unwrap();
        ladder::save(dir.path(), &Saved::in_attack()).unwrap();
        // The ladder is off now: it does not go on with it.
        let Opened { keeper, .. } = open(dir.path(), Duration::from_secs(600), Mode::Enforce).unwrap();
        let audit = AuditLog::default();
        let (post, _) = Post::start(dir.path(), &Config::default().alerts, audit.clone()).unwrap();
        let (saved, _) = ladder::load(dir.path());
        let running = keeper.spawn(saved, &audit, post.clone()).unwrap();
        running.stop();
        post.stop();
        assert_eq!(ladder::load(dir.path()), (Some(Saved::default()), None));
    }

    /// What is known, what is so, how many words find room, what is told, and what is known then.
    type Row = (Option<Beyond>, Option<Beyond>, usize, &'static [&'static str], Option<Beyond>);

    #[test]
    fn what_is_upstream_is_told_until_it_is_known() {
        let beyond = |id: &str, lines: &[&str]| Some((id.to_owned(), lines.iter().map(ToString::to_string).collect()));
        let rows: [Row; 8] = [
            (None, beyond("a", &["x"]), 1, &["a x"], beyond("a", &["x"])),
            (None, beyond("a", &["x"]), 0, &[], None),
            (beyond("a", &["x"]), beyond("a", &["x", "y"]), 1, &["a x y"], beyond("a", &["x", "y"])),
            // No room: those who tell people have the old lines still, and the end of these is news to them.
            (beyond("a", &["x"]), beyond("a", &["x", "y"]), 0, &[], beyond("a", &["x"])),
            (beyond("a", &["x"]), None, 1, &["a "], None),
            (beyond("a", &["x"]), None, 0, &[], beyond("a", &["x"])),
            (beyond("a", &["x"]), beyond("b", &["z"]), 2, &["a ", "b z"], beyond("b", &["z"])),
            (beyond("a", &["x"]), beyond("b", &["z"]), 1, &["a "], None),
        ];
        for (known, now, room, words, then) in rows {
            let (left, told) = (Cell::new(room), RefCell::new(Vec::new()));
            let tell = |id: &str, lines: Vec<String>| {
                let room = left.get() > 0;
                if room {
                    left.set(left.get() - 1);
                    told.borrow_mut().push(format!("{id} {}", lines.join(" ")));
                }
                room
            };
            let case = format!("{known:?} {now:?} {room}");
            assert_eq!(hand_over(known, now, tell), then, "{case}");
            assert_eq!(*told.borrow(), words, "{case}");
        }
    }
}
