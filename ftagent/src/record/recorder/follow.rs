//! Captures begin and end as incidents do: ticks tell of that, and where some were lost, the core.

use std::path::Path;

use tracing::warn;

use super::{
    AFTER_NS, Recorder,
    meta::{CAPTURE, Kind, Status},
    recording::Plan,
    store::Opened,
};
use crate::{
    config::Capture,
    decide::{Decider, Event, Incident},
    record::tape::TickRecord,
};

/// What is noted of an incident that had ended by the time it was heard of.
const END_LOST: &str = "ticks were lost on the way to the recorder, and the end of the incident with them: it had closed \
     before this capture ends";

impl Recorder {
    /// Begins and ends captures as incidents open and close.
    pub(super) fn follow(&mut self, tick: &TickRecord) {
        for event in &tick.events {
            let about = |id: &str| tick.incidents.iter().find(|incident| incident.id == id).cloned();
            match event {
                Event::Opened { id } => {
                    if let Some(incident) = about(id) {
                        self.capture(incident, false);
                    }
                }
                // One of an earlier life that goes on.
                Event::Changed { id, .. } if !self.has(id) => {
                    if let Some(incident) = interrupted(&self.root, id) {
                        self.capture(incident, false);
                    }
                }
                Event::Closed { id } => {
                    for recording in self.open.iter_mut().filter(|recording| recording.plan.id == *id) {
                        recording.plan.incident = about(id).or(recording.plan.incident.take());
                        recording.until_ns = Some(tick.now.mono_ns.saturating_add(AFTER_NS));
                    }
                }
                Event::Changed { .. } | Event::Ladder { .. } | Event::Notice { .. } => {}
            }
        }
    }

    /// Facts were lost, and this is the core after them: begins what opened meanwhile, and ends what closed.
    pub(super) fn catch_up(&mut self, core: &Decider) {
        // Before the first tick nothing was lost, and nothing is known to count from: an incident of an earlier life
        // that goes on says so by itself.
        if self.now_ns == 0 {
            return;
        }
        let open: Vec<&Incident> = core.incidents().filter(|incident| incident.is_open()).collect();
        for incident in &open {
            if !self.has(&incident.id) {
                warn!(incident = %incident.id, "The recorder was too slow to see an incident begin; its capture begins late.");
                self.capture((*incident).clone(), true);
            }
        }
        let until_ns = core.now().mono_ns.max(self.now_ns).saturating_add(AFTER_NS);
        let lives = |id: &str| open.iter().any(|incident| incident.id == id);
        for recording in self.open.iter_mut().filter(|recording| recording.until_ns.is_none()) {
            if recording.plan.incident.is_some() && !lives(&recording.plan.id) {
                let last = core.incidents().find(|incident| incident.id == recording.plan.id).cloned();
                recording.plan.incident = last.or(recording.plan.incident.take());
                recording.until_ns = Some(until_ns);
                recording.note(END_LOST.to_owned());
            }
        }
    }

    /// Returns whether a capture is of this life, and not complete yet.
    pub(super) fn has(&self, id: &str) -> bool {
        let late = self.unfinished.iter().map(|(recording, _)| recording);
        self.open.iter().chain(late).any(|recording| recording.plan.id == id)
    }

    fn capture(&mut self, incident: Incident, late: bool) {
        let Capture { incident_bytes, payload, .. } = self.settings;
        let plan = Plan {
            id: incident.id.clone(),
            incident: Some(incident),
            matches: None,
            by: None,
            most_bytes: incident_bytes,
            lasts_ns: None,
            payload,
            full: false,
            late,
        };
        self.begin_recording(plan, None);
    }
}

/// Returns the incident of a capture that an earlier life of the daemon did not end, and this one has none of. It is
/// still open where the disk did not take its end at the start.
fn interrupted(root: &Path, id: &str) -> Option<Incident> {
    let opened = Opened::new(root, id).ok()?;
    opened.file(CAPTURE).ok()?;
    let meta = opened.meta().ok()?;
    (meta.kind == Kind::Incident && meta.status != Status::Closed).then_some(meta.incident)?
}
