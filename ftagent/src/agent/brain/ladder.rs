//! The ladder: what reaches it, and what people ask of it.

use super::{Brain, Core, PUBLISH_TICKS, now};
use crate::{
    agent::planes::{Opened, Planes, routes::Routes},
    decide::{
        Event, Incident,
        input::Input,
        ladder::{
            Ladder, Move, Report, Saved, Upstream, View,
            plan::{self, Plan},
        },
    },
    record::{audit::AuditLog, routes::Asked, tape::Fact},
    sense::{meter::Observed, uplink::Capacity},
    serve::protocol::Word,
};

fn input(word: Word) -> Input {
    match word {
        Word::Approve(step) => Input::Approve { step },
        Word::Deny(step) => Input::Deny { step },
        Word::Withdraw(step) => Input::Withdraw { step },
    }
}

fn say(word: Word, ladder: &mut Ladder) -> Result<Vec<Move>, String> {
    match word {
        Word::Approve(id) => ladder.approve(id, now()),
        Word::Deny(id) => ladder.deny(id, now()),
        Word::Withdraw(id) => ladder.withdraw(id, now()),
    }
}

impl Core {
    /// Gives the core what did not come with a tick.
    pub(super) fn put(&mut self, input: Input) -> Vec<Event> {
        if let Some(tape) = &mut self.tape {
            tape.put(Fact::Input(Box::new(input.clone())));
        }
        let events = self.decider.put(input);
        self.planes.follow(self.decider.ascent());
        events
    }

    /// Tells the ladder how full the uplink is: at every tick where that matters, else once a second.
    pub(super) fn look_at_uplink(&mut self, observed: &Observed<'_>) {
        if !self.decider.ladder().is_used() {
            return;
        }
        let Some(uplink) = self.uplink.read(observed.at_ns, observed.ifaces) else { return };
        let matters = self.decider.ladder().is_awake() || self.decider.incidents().any(Incident::is_open);
        if matters || self.ticks.is_multiple_of(PUBLISH_TICKS) {
            self.put(Input::Uplink(uplink));
        }
    }
}

impl Brain {
    /// Takes the policy, and what the uplink carries.
    pub(in crate::agent) fn set_upstream(&self, upstream: Upstream, capacity: Capacity) {
        let mut core = self.core();
        core.uplink.set(capacity);
        if core.decider.ladder().upstream() != &upstream {
            core.put(Input::Upstream(Box::new(upstream)));
        }
    }

    /// Starts the planes, and goes on with what an earlier life had upstream.
    pub(in crate::agent) fn start_planes(
        &self,
        drivers: Vec<Opened>,
        routes: Routes,
        saved: Option<Saved>,
        log: &AuditLog,
    ) {
        let wanted = {
            let mut core = self.core();
            if let Some(saved) = saved {
                core.decider.restore_ladder(saved, now());
                core.tape_state(true);
            }
            core.decider.ascent().0.to_vec()
        };
        let planes = Planes::start(drivers, routes, &wanted, log, self);
        let mut core = self.core();
        core.planes = planes;
        let core = &mut *core;
        core.planes.follow(core.decider.ascent());
    }

    /// Ends the planes' threads; what is upstream stays there.
    pub(in crate::agent) fn stop_planes(&self) {
        self.take_planes().stop();
    }

    /// Hands over the planes: nothing is asked of them any more.
    pub(in crate::agent) fn take_planes(&self) -> Planes {
        std::mem::take(&mut self.core().planes)
    }

    /// Takes what a plane found. It is called on the plane's thread.
    pub(in crate::agent) fn report(&self, report: Report) {
        self.core().put(Input::Planes(vec![report]));
    }

    /// Returns how the ladder is.
    pub(in crate::agent) fn ladder(&self) -> View {
        self.published().ladder.clone()
    }

    /// Returns what routes may be announced, for a file; `None` where no route is asked for.
    pub(in crate::agent) fn routes(&self) -> Option<Vec<Asked>> {
        self.core().planes.routes()
    }

    /// Returns what of the ladder outlives a restart.
    pub(in crate::agent) fn saved_ladder(&self) -> Saved {
        self.core().decider.ladder().saved()
    }

    /// Says what would happen at so many times the present load, and what that assumes.
    pub(in crate::agent) fn plan(&self, factors: &[u32]) -> Result<(Vec<Plan>, Vec<String>), String> {
        let (upstream, present) = {
            let mut core = self.core();
            (core.decider.ladder().upstream().clone(), core.decider.plan_from()?)
        };
        // Not under the lock: it takes longer than a tick.
        Ok(plan::plans(&upstream, &present, factors))
    }

    /// Does what an operator says, or says what that would do. Returns it in words.
    pub(in crate::agent) fn say(&self, word: Word, dry_run: bool) -> Result<Vec<String>, String> {
        let mut core = self.core();
        let moves = say(word, &mut core.decider.ladder().clone())?;
        if !dry_run {
            let events: Vec<Event> = core.put(input(word));
            self.publish(&mut core, events);
        }
        Ok(moves.into_iter().map(|made| format!("{}: {}", made.rung, made.what)).collect())
    }
}
