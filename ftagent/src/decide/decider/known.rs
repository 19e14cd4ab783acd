//! What people and the next life of the daemon get to know of the decisions.

use super::*;
use crate::decide::{incident::Named, input::WatchedRule};

impl Decider {
    /// Returns how it decides.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Returns the end of the last tick.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Returns what no rule may match.
    pub fn exempt(&self) -> &Exempt {
        &self.exempt
    }

    /// Returns the rules of operators whose cost is measured.
    pub fn watched_rules(&self) -> impl Iterator<Item = WatchedRule> + '_ {
        self.watch.rules().map(|(id, matches, counts)| WatchedRule { id, matches: matches.clone(), counts })
    }

    /// Returns the incidents, oldest first; at most [`crate::decide::machine::KEPT`].
    pub fn incidents(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.machine.incidents()
    }

    /// Takes over the incidents of an earlier life. The one that was open goes on if the attack does.
    pub fn remember(&mut self, incidents: Vec<Incident>, now: Now) {
        let ids = incidents.iter().flat_map(|incident| &incident.rules).map(|rule| rule.id);
        self.keeper.count_from(ids.max().unwrap_or(0));
        self.machine.remember(incidents, now);
    }

    /// Takes in what patterns say of an incident's packets.
    pub(in crate::decide) fn name_tool(&mut self, incident: &str, named: Option<Named>) -> Vec<Event> {
        self.machine.name_tool(self.now, incident, named)
    }

    /// Returns the latest notices, oldest first.
    pub fn notices(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.notices.iter()
    }

    /// Returns how much is known.
    pub fn learning(&self) -> Learning {
        let state = match () {
            () if !self.is_trusted() => "new",
            () if !self.baselines.is_past_first_week() => "learning",
            () => "learned",
        };
        let bound = if self.baselines.is_past_first_week() {
            "a threshold grows at most ×2 in 24 hours and ×10 in 30 days, whatever the traffic"
        } else {
            "in the first week no threshold rises over 8 times the quietest hour, whatever the traffic"
        };
        Learning {
            state: state.to_owned(),
            learned_s: self.baselines.learned_s(),
            trust_after_s: self.settings.trust_after_s,
            bound: bound.to_owned(),
        }
    }

    /// Returns the busiest addresses behind this node, busiest first.
    pub fn destinations(&self) -> Vec<DestinationView> {
        self.destinations.views()
    }

    /// Returns what is known of every class and metric that was ever seen.
    pub fn baselines(&self) -> Vec<View> {
        self.baselines.views(self.is_trusted())
    }

    /// Returns what outlives a restart.
    pub fn checkpoint(&self, now: Now) -> Checkpoint {
        Checkpoint { sockets: Some(self.sentry.validation().clone()), ..self.baselines.checkpoint(now) }
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// Where it cannot be used, in words; nothing has changed then.
    pub fn restore(&mut self, mut checkpoint: Checkpoint) -> Result<(), String> {
        let sockets = checkpoint.sockets.take();
        self.baselines = Baselines::restore(checkpoint)?;
        if let Some(sockets) = sockets {
            self.sentry.restore(sockets);
        }
        Ok(())
    }

    /// Takes the operator's word that the present load is normal: baselines and ceilings begin
    /// anew from it, and an open incident closes.
    pub fn accept(&mut self, now: Now) -> Vec<Event> {
        self.baselines.accept(now, self.settings.trust_after_s);
        self.detector = Detector::default();
        self.analyst.accept();
        self.keeper.accept(now.mono_ns);
        let mut events: Vec<Event> =
            self.machine.close_open(now, "closed: the operator accepted this load as normal").into_iter().collect();
        events.push(self.notice(now, "the operator accepted the present load as normal".to_owned()));
        events
    }

    /// Takes an operator's word that a rule is not to be: one of the open incident is withdrawn with the next
    /// tick, a signature is armed no more.
    pub(in crate::decide) fn withdraw_rule(&mut self, id: u32, by: &str) {
        self.keeper.withdraw_for(id, by);
    }

    /// Forgets everything that was learned, of one class or of all.
    pub fn reset(&mut self, class: Option<TrafficClass>) {
        self.baselines.reset(class);
        self.detector = Detector::default();
    }
}
