//! What becomes of what is upstream for an attack that is over: a victim may be in a black hole for as long as
//! nobody has looked. It is told in messages of its own, to people: the alert about the attack is closed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{CHANGES, Desk, MITIGATED};
use crate::{
    alert::{
        Kind, UPSTREAM,
        message::{self, Context},
    },
    decide::Incident,
    sense::clock,
};

/// What is to be told of one incident.
#[derive(Debug)]
pub(super) struct After {
    incident: Arc<Incident>,
    what: Vec<String>,
    /// When the first of it came, or it was told last.
    since: Instant,
    /// It was told before.
    told: bool,
}

impl After {
    /// What came within a second is told together. While anything is upstream, it is told no more often than changes
    /// of an attack are; that nothing is any more is the last word, and nothing comes behind it that would say so.
    fn is_due(&self, changed: Duration, is_up: bool) -> bool {
        let gap = if self.told && is_up { changed } else { MITIGATED };
        !self.what.is_empty() && self.since.elapsed() >= gap
    }
}

impl Desk {
    /// Takes in what became of what is upstream for an incident that is over.
    pub(super) fn follow(&mut self, incident: Arc<Incident>, what: String) {
        // Whoever was told of the attack is told first that it is over.
        self.see(&incident, None);
        let fresh = || After { incident: Arc::clone(&incident), what: Vec::new(), since: Instant::now(), told: false };
        let after = self.after.entry(incident.id.clone()).or_insert_with(fresh);
        after.what.push(what);
        if after.what.len() > CHANGES {
            after.what.remove(0);
        }
    }

    /// Tells what waited long enough, and forgets what there is nothing more to be told of.
    pub(super) fn tick_after(&mut self, changed: Duration) {
        self.tell_after(|after, is_up| after.is_due(changed, is_up));
        let Self { after, beyond, .. } = self;
        after.retain(|id, after| {
            beyond.contains_key(id) || !after.what.is_empty() || after.since.elapsed() < changed.max(MITIGATED)
        });
    }

    /// Tells all that waits: the daemon ends, and nothing else has it.
    pub(in crate::alert) fn flush_after(&mut self) {
        self.tell_after(|after, _| !after.what.is_empty());
    }

    /// Tells those that fit; `fits` is told too whether anything is upstream.
    fn tell_after(&mut self, fits: impl Fn(&After, bool) -> bool) {
        let fits = |(id, after): &(&String, &After)| fits(after, self.beyond.contains_key(*id));
        let due: Vec<String> = self.after.iter().filter(fits).map(|(id, _)| id.clone()).collect();
        for id in due {
            let Some(after) = self.after.get_mut(&id) else { continue };
            (after.told, after.since) = (true, Instant::now());
            let (incident, what) = (Arc::clone(&after.incident), std::mem::take(&mut after.what));
            self.send_after(&incident, &what);
        }
    }

    fn send_after(&self, incident: &Incident, what: &[String]) {
        let beyond = self.beyond.get(&incident.id).map(Vec::as_slice).unwrap_or_default();
        let topic = format!("{}{UPSTREAM}", incident.id);
        let names: Vec<String> =
            incident.vectors.iter().chain([&incident.vector]).map(|vector| vector.as_str().to_owned()).collect();
        let mut inner = self.shared.lock();
        let link = inner.settings.link.clone();
        let context =
            Context { node: &self.node, link: &link, now_ms: clock::unix_ms(), what, beyond, ..Context::default() };
        let write = |_| message::after(&topic, incident, &context);
        self.post(&mut inner, &[Kind::Changed], incident.severity, &names, &topic, write);
        inner.book.end(&topic);
    }
}
