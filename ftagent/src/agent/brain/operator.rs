//! What operators say of the decisions.

use ftagent_common::TrafficClass;

use super::{Brain, now};
use crate::decide::{Event, input::Input};

impl Brain {
    /// Takes the operator's word that the present load is normal.
    pub(in crate::agent) fn accept(&self) -> Vec<Event> {
        let mut core = self.core();
        let events = core.put(Input::Accept(now()));
        self.publish(&mut core, events.clone());
        events
    }

    /// Forgets everything that was learned, of one class or of all.
    pub(in crate::agent) fn reset(&self, class: Option<TrafficClass>) {
        let mut core = self.core();
        core.put(Input::Reset(class.map(|class| class.as_str().to_owned())));
        self.publish(&mut core, Vec::new());
    }

    /// Takes back a rule of the open incident, or a signature that is armed.
    pub(in crate::agent) fn withdraw_rule(&self, id: u32, by: &str) {
        let mut core = self.core();
        let events = core.put(Input::WithdrawRule { id, by: by.to_owned() });
        self.publish(&mut core, events);
    }
}
