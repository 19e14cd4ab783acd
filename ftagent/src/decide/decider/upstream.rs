//! What the ladder is told of a tick, and what becomes of its moves.

use super::*;
use crate::decide::{
    Counts,
    analyst::Seen,
    detect::limits,
    ladder::{Attack, Move, Report, Saved, Scene, Step, Traffic, Uplink, Upstream, View, What, plan},
    machine::note,
    mitigate::{Phase, collateral::is_of_connections},
};

/// What is known of an attack is of about this time, nanoseconds.
const LATELY_NS: f64 = 1e9;

/// The packets of a tick.
struct Samples<'a> {
    analyst: &'a Analyst,
    elapsed_ns: u64,
}

impl Traffic for Samples<'_> {
    fn arriving(&self, what: &What) -> f64 {
        let is_it = |seen: &&Seen| {
            let (src, dst) = (seen.packet.src(), seen.packet.dst());
            match what {
                What::Filter { matches, .. } => matches.matches(&seen.packet.subject()),
                What::BlackHole { victim: net } | What::Divert { prefix: net } => {
                    dst.is_some_and(|dst| net.contains(&dst))
                }
                What::SourceBlackHole { source } => src.is_some_and(|src| source.contains(&src)),
            }
        };
        let bits = self.analyst.fresh().filter(is_it).map(|seen| seen.weight * f64::from(seen.packet.wire) * 8.0);
        bits.sum::<f64>() / (self.elapsed_ns.max(1) as f64 / 1e9)
    }
}

impl Decider {
    /// Returns what is wanted of the planes upstream, and a number that changes whenever that does.
    pub fn ascent(&self) -> (&[Step], u64) {
        self.ladder.ascent()
    }

    /// Returns the ladder as people see it.
    pub fn ladder_view(&self) -> View {
        self.ladder.view()
    }

    /// Returns the ladder itself, for those who try something on a copy.
    pub fn ladder(&self) -> &Ladder {
        &self.ladder
    }

    /// Goes on with what an earlier life of the daemon had upstream, under the present policy.
    pub fn restore_ladder(&mut self, saved: Saved, now: Now) {
        self.ladder.restore(saved, self.settings.mode != Mode::Observe, now);
    }

    /// Returns the present as a plan begins with it; `None` where the uplink is not known, and why.
    ///
    /// # Errors
    /// Why nothing can be foretold.
    pub fn plan_from(&mut self) -> Result<plan::Present, String> {
        let view = self.ladder.view();
        let uplink = view.uplink.ok_or("nothing is known of the uplink yet")?;
        let capacity_bps = uplink.capacity_bps.ok_or(
            "nothing is known of the uplink's capacity: the driver does not tell its speed; write `uplink.capacity`",
        )?;
        let busiest = self.destinations.views().first().map(|view| view.address);
        let attack = self.attack(&Counts::default(), 0.0);
        Ok(plan::Present { used_bps: uplink.used_bps, capacity_bps, attack, busiest, exempt: self.exempt.clone() })
    }

    pub(in crate::decide) fn set_upstream(&mut self, upstream: Upstream) -> Vec<Event> {
        self.ladder.set(upstream);
        Vec::new()
    }

    pub(in crate::decide) fn note_uplink(&mut self, uplink: Uplink) {
        self.ladder.note_uplink(self.now.mono_ns, uplink);
    }

    pub(in crate::decide) fn note_reports(&mut self, reports: Vec<Report>) {
        self.ladder.note_reports(reports);
    }

    /// Takes an operator's word. Where there is nothing that it could be about, nothing happens.
    pub(in crate::decide) fn operate(
        &mut self,
        act: impl FnOnce(&mut Ladder, Now) -> Result<Vec<Move>, String>,
    ) -> Vec<Event> {
        let now = self.now;
        let moves = act(&mut self.ladder, now).unwrap_or_default();
        self.moved(now, moves)
    }

    /// Sees to the ladder.
    pub(super) fn climb(&mut self, tick: &Tick<'_>, trusted: bool) -> Vec<Event> {
        if !self.ladder.is_used() && !self.ladder.is_awake() {
            return Vec::new();
        }
        let now = tick.now;
        let part = 1.0 - libm::exp(-(tick.elapsed_ns as f64) / LATELY_NS);
        self.take_aim(part);
        let attack = self.attack(tick.counts, part);
        let strain = tick.host.map(|host| {
            let seconds = (host.interval_ns as f64 / 1e9).max(0.05);
            (host.packets_lost as f64 / seconds, f64::from(host.softirq_permille) / 1000.0)
        });
        let Self { ladder, exempt, analyst, settings, .. } = self;
        let samples = Samples { analyst, elapsed_ns: tick.elapsed_ns };
        let moves = ladder.on_tick(&Scene {
            now,
            elapsed_ns: tick.elapsed_ns,
            attack: attack.as_ref(),
            strain,
            acts: settings.mode.acts(trusted),
            keeps: settings.mode != Mode::Observe,
            exempt,
            traffic: &samples,
        });
        self.moved(now, moves)
    }

    /// Notes what the attack's packets are aimed at: those that a rule takes, or of its classes where there is none.
    fn take_aim(&mut self, part: f64) {
        let Self { machine, keeper, analyst, ladder, .. } = self;
        let Some(current) = machine.current() else {
            if !ladder.is_awake() {
                ladder.aim.clear();
            }
            return;
        };
        let rules: Vec<&FlowMatch> = keeper.in_force().map(|life| &life.choice.matches).collect();
        let connections = current.incident.vectors.iter().any(|vector| is_of_connections(*vector));
        let is_it = |seen: &&Seen| match rules.is_empty() {
            true => current.classes.contains_key(&seen.class),
            false => rules.iter().any(|rule| rule.matches(&seen.packet.subject())),
        };
        let memory = analyst.memory();
        ladder.note_aim(analyst.fresh().filter(is_it), memory.flows, connections && !rules.is_empty(), part);
    }

    /// Returns the open incident as the ladder sees it.
    fn attack(&mut self, counts: &Counts, part: f64) -> Option<Attack> {
        let Self { machine, keeper, ladder, baselines, reservoir, .. } = self;
        let current = machine.current()?;
        let incident = &current.incident;
        let (mut seen, mut dropped) = (0.0, 0.0);
        for class in current.classes.keys() {
            let of = counts.of(*class);
            (seen, dropped) = (seen + of.packets as f64, dropped + of.dropped as f64);
        }
        let level = |class: &TrafficClass| limits(baselines, *class, Metric::Pps, true).baseline;
        let normal: f64 = current.classes.keys().map(level).sum();
        let normal = if incident.pps > 0.0 { (normal / incident.pps).clamp(0.0, 0.9) } else { 0.0 };
        let attack = seen * (1.0 - normal);
        let passed = if attack > 0.0 { (1.0 - dropped / attack).clamp(0.0, 1.0) } else { 0.0 };
        let residual = ladder.aim.passes(passed, part);
        let (filters, unsaid) = ladder.aim.filters(keeper.in_force(), reservoir);
        let (victims, prefixes) = match current.focus {
            Some(focus) => (vec![(focus, 1.0)], Vec::new()),
            None => (ladder.aim.victims(), ladder.aim.prefixes()),
        };
        Some(Attack {
            id: incident.id.clone(),
            opened_ns: incident.opened.mono_ns,
            pps: incident.pps,
            bps: incident.bps,
            residual,
            filters,
            withdrawn: incident
                .rules
                .iter()
                .filter(|rule| rule.state == Phase::Withdrawn)
                .map(|rule| rule.id)
                .collect(),
            unsaid,
            victims,
            prefixes,
            sources: ladder.aim.sources(),
        })
    }

    /// Makes events of moves, and writes them into the incident where that is open.
    fn moved(&mut self, now: Now, moves: Vec<Move>) -> Vec<Event> {
        let mut events = Vec::new();
        for Move { incident: id, rung, turn, what } in moves {
            if let Some(incident) = self.machine.find(&id).filter(|incident| incident.is_open()) {
                note(incident, now, format!("{rung}: {what}"));
            }
            events.push(Event::Ladder { id, rung, turn, what });
        }
        events
    }
}
