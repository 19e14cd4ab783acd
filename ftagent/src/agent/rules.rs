//! Rules: what operators ask for, and what `ftagent rules` and the metrics show.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    Agent,
    gate::Gate,
    mitigator::{Beat, Failure, Live, Mitigator, Owner},
    trap::Trap,
};
use crate::{
    act::{
        guard::GuardDriver,
        operator::{self, Added, OperatorRule},
        tripwire::TripwireDriver,
    },
    bpf::{guard::KernelGuard, rules::KernelRules, tripwire::KernelTripwire},
    config::{Config, MitigationMode},
    decide::{
        Incident,
        mitigate::{
            Mode, Phase, RuleReport, Wanted,
            collateral::Collateral,
            memory::{self, Armed},
        },
    },
    rule::{Action, Origin, check::check},
    sense::clock,
    serve::{
        control::Caller,
        metrics::Mitigation,
        protocol::{NewRule, RuleStatus},
    },
};

/// Returns how the decisions are to act.
pub(super) fn mode_of(config: &Config) -> Mode {
    match config.mitigation.mode {
        MitigationMode::Auto => Mode::Auto,
        MitigationMode::Observe => Mode::Observe,
        MitigationMode::Enforce => Mode::Enforce,
    }
}

impl Agent {
    /// Takes the kernel's rules over. Those of operators are in force when this returns.
    pub(super) fn open_rules(&mut self, inherited: Vec<Wanted>) -> Result<()> {
        let first = self.ifaces.first().context("no interface is configured")?;
        let kernel = KernelRules::open(&first.ebpf).context("opening the kernel's rules")?;
        let any = !inherited.is_empty() || !self.rules.rules().is_empty();
        if any {
            let (operators, earlier) = (self.rules.rules().len(), inherited.len());
            let until = if mode_of(&self.config) == Mode::Observe {
                "end now: this one observes"
            } else {
                "stay until they end"
            };
            info!(operators, earlier, "Rules were restored; those of an earlier life {until}.");
        }
        let guard = KernelGuard::open(&first.ebpf).context("opening the kernel's guard")?;
        let tripwire = KernelTripwire::open(&first.ebpf).context("opening the kernel's tripwire")?;
        let plane = self.open_plane(kernel)?;
        self.brain.arm(Mitigator::new(plane, Beat::from(&self.clock), inherited));
        let (settings, beat) = (self.gate_settings(), Beat::from(&self.clock));
        self.brain.set_gate(|_| Some(Gate::new(GuardDriver::new(guard), settings, beat)));
        self.brain.set_trap(|_| Some(Trap::new(TripwireDriver::new(tripwire), beat)));
        self.refresh_bounds();
        if any {
            self.push_rules();
        }
        Ok(())
    }

    /// Puts the rules of operators into force; what fails is in `status`, and tried again.
    fn push_rules(&self) {
        for Failure { rule, what } in self.brain.set_operators(self.rules.rules().to_vec()).err().unwrap_or_default() {
            warn!(?rule, %what, "A rule is not in force.");
        }
    }

    pub(super) fn add_rule(&mut self, new: NewRule, caller: &Caller) -> Result<Value> {
        let NewRule { matches, action, for_s, reason, force, ssh_client } = new;
        if action == Action::Capture {
            bail!(
                "packets are recorded by `ftagent capture start --full --match '{matches}'`, not by a rule of its own"
            );
        }
        if let Err(objection) = check(&matches, action, &self.guarded(ssh_client)) {
            if !(force && objection.may_be_forced) {
                return Err(objection.into());
            }
            warn!(by = %caller.name, rule = %matches, %action, reason = %objection.reason, "A rule was forced.");
        }
        let longest = self.config.block.max_duration;
        let lasts = for_s.map_or(self.config.block.default_duration, Duration::from_secs);
        if lasts.is_zero() || lasts > longest {
            bail!("a rule lasts between 1s and {} (`block.max_duration`)", humantime::format_duration(longest));
        }
        let before: Vec<OperatorRule> = self.rules.rules().to_vec();
        let by = caller.name.clone();
        let Added { rule, replaced, warning } =
            self.rules.add(operator::Request { matches, action, lasts, reason, by })?;
        let text = rule.matches.to_string();
        let refused = self.brain.set_operators(self.rules.rules().to_vec()).err().unwrap_or_default();
        let concerned = |failure: &&Failure| failure.rule.as_ref().is_none_or(|rule| *rule == text);
        if let Some(failure) = refused.iter().find(concerned) {
            self.rules.remove(rule.id);
            before.into_iter().filter(|known| known.id == rule.id).for_each(|known| self.rules.restore(known));
            self.push_rules();
            bail!("the kernel cannot take this rule: {}", failure.what);
        }
        info!(id = rule.id, rule = %text, %action, by = %rule.by, reason = %rule.reason, seconds = lasts.as_secs(), "A rule was added.");
        Ok(json!({
            "id": rule.id, "match": text, "action": action.to_string(), "for_s": lasts.as_secs(), "replaced": replaced,
            "warning": warning,
        }))
    }

    pub(super) fn remove_rule(&mut self, id: u32, caller: &Caller) -> Result<Value> {
        let Some(rule) = self.rules.remove(id) else {
            let known: Vec<String> = self.rules.rules().iter().map(|rule| rule.id.to_string()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let Some(decided) = self.decided_rule(id) else {
                bail!("there is no rule {id} of an operator (there are: {known})");
            };
            bail!(
                "rule {id} is none of an operator (there are: {known}), it was made against an attack: \
                 `ftagent rules withdraw {id}` takes it back ({})",
                decided.matches
            );
        };
        self.push_rules();
        info!(id, rule = %rule.matches, by = %caller.name, "A rule was removed.");
        Ok(json!({ "id": id, "match": rule.matches.to_string(), "action": rule.action.to_string() }))
    }

    /// Returns the rule of an open incident, or the armed signature, that has a number.
    pub(super) fn decided_rule(&self, id: u32) -> Option<RuleStatus> {
        let decided = |rule: &RuleStatus| {
            let is_made = matches!(rule.origin, Origin::Incident(_)) && rule.state != "inherited";
            is_made && rule.id == id
        };
        self.rule_list().into_iter().find(decided)
    }

    pub(super) fn withdraw_rule(&mut self, id: u32, caller: &Caller) -> Result<Value> {
        let Some(rule) = self.decided_rule(id) else {
            bail!(
                "no open incident has a rule {id}, and no signature is armed as {id}: `ftagent rules` shows them \
                 (rules of operators: `ftagent rules remove {id}`)"
            );
        };
        self.brain.withdraw_rule(id, &caller.name);
        info!(id, rule = %rule.matches, by = %caller.name, "A rule was withdrawn by an operator.");
        Ok(json!({ "id": id, "match": rule.matches, "action": rule.action }))
    }

    /// Forgets rules of operators that have ended; the kernel has ended them by itself.
    pub(super) fn end_rules(&mut self) {
        let ended = self.rules.sweep();
        if ended.is_empty() {
            return;
        }
        for rule in ended {
            info!(id = rule.id, rule = %rule.matches, "A rule has ended.");
        }
        self.push_rules();
    }

    /// Returns every rule, in the order in which they are tried; of incidents those that are open.
    pub(super) fn rule_list(&self) -> Vec<RuleStatus> {
        let (view, now_ns) = (self.brain.rules(), clock::monotonic_ns());
        let live = |owner: Owner| view.rules.iter().find(|live| live.owner == owner);
        let watched = self.brain.watched();
        let operators = self.rules.rules().iter().map(|rule| {
            let wanted = rule.wanted(now_ns);
            let status = of_operator(rule, &wanted, live(Owner::Operator(rule.id)), now_ns);
            RuleStatus { collateral: watched.get(&rule.id).copied(), ..status }
        });
        let incidents = self.brain.incidents_shared();
        let open = incidents.iter().filter(|incident| incident.is_open());
        let reported = open.flat_map(|incident| incident.rules.iter().map(move |rule| (incident, rule)));
        let current = reported.filter(|(_, rule)| matches!(rule.state, Phase::Shadow | Phase::Enforcing));
        let of_incidents = current.map(|(incident, rule)| of_incident(incident, rule, live(Owner::Decision(rule.id))));
        let armed = self.brain.armed();
        let of_armed = armed.iter().filter_map(|armed| Some(of_armed(armed, live(Owner::Decision(armed.id))?)));
        let inherited = view.rules.iter().filter(|live| live.owner == Owner::Inherited);
        operators
            .chain(of_incidents)
            .chain(of_armed)
            .chain(inherited.map(|live| of_earlier_life(live, now_ns)))
            .collect()
    }

    /// Returns what does not work about rules.
    pub(super) fn rules_trouble(&self) -> Vec<String> {
        let unsaved = self.rules.unsaved();
        let unsaved =
            unsaved.map(|why| format!("rules are in force but not saved, and a restart would lose them: {why}"));
        unsaved.into_iter().chain(self.brain.rules().trouble.clone()).collect()
    }

    /// Returns what metrics show of rules.
    pub(super) fn mitigation_metrics(&self) -> Mitigation {
        let view = self.brain.rules();
        let mut states = [("shadow", 0), ("enforcing", 0), ("armed", 0), ("failed", 0)];
        for live in &view.rules {
            let state = state_of(live);
            states.iter_mut().filter(|(name, _)| *name == state).for_each(|(_, count)| *count += 1);
        }
        Mitigation {
            plane: self.config.mitigation.plane.as_str(),
            states: states.into(),
            drift: i64::try_from(view.drift.wanted).unwrap_or(i64::MAX)
                - i64::try_from(view.drift.present).unwrap_or(i64::MAX),
            slots: view.slots.clone(),
            collateral: self.collateral_by_slot(),
            mitigate_seconds: self.brain.metrics().mitigate_seconds,
        }
    }

    /// Returns what rules cost, of those of which it is known.
    fn collateral_by_slot(&self) -> Vec<(u8, f64)> {
        let (view, watched, armed) = (self.brain.rules(), self.brain.watched(), self.brain.armed());
        let incidents = self.brain.incidents_shared();
        let of = |live: &Live| -> Option<Collateral> {
            match live.owner {
                Owner::Operator(id) => watched.get(&id).copied(),
                Owner::Decision(id) if memory::is_armed(id) => {
                    armed.iter().find(|armed| armed.id == id).map(|armed| armed.collateral)
                }
                Owner::Decision(id) => {
                    let open = incidents.iter().filter(|incident| incident.is_open());
                    let mut rules = open.flat_map(|incident| &incident.rules);
                    rules.find(|rule| rule.id == id).map(|rule| rule.measured.collateral)
                }
                Owner::Inherited | Owner::Capture(_) => None,
            }
        };
        let known = |cost: &Collateral| cost.samples > 0;
        view.rules.iter().filter_map(|live| Some((live.slot?, of(live).filter(known)?.ratio))).collect()
    }

    /// Says in words what the mode means now.
    pub(super) fn mitigation_state(&self) -> String {
        let learning = self.brain.learning();
        let view = self.brain.rules();
        let of = |state: &str| {
            let own = view.rules.iter().filter(|live| !matches!(live.owner, Owner::Operator(_)));
            own.filter(|live| state_of(live) == state).count()
        };
        let rules = match (of("enforcing"), of("shadow")) {
            (0, 0) => "no rule against one now".to_owned(),
            (enforcing, shadow) => format!("{enforcing} rules drop, {shadow} only count"),
        };
        let rules = match of("armed") {
            0 => rules,
            1 => format!("{rules}; 1 signature of an earlier attack is armed"),
            armed => format!("{rules}; {armed} signatures of earlier attacks are armed"),
        };
        let trusted = learning.state != "new";
        let left = learning.trust_after_s.saturating_sub(learning.learned_s);
        match (self.config.mitigation.mode, trusted) {
            (MitigationMode::Observe, _) => {
                "attacks are detected and named, and rules only count; lists, feeds and operators' rules drop"
                    .to_owned()
            }
            (MitigationMode::Auto, false) => format!(
                "observes until normal is known here (in {left} s); until then only what no ordinary traffic looks like \
                 is dropped; {rules}"
            ),
            (MitigationMode::Auto, true) => format!("attacks are detected and removed; {rules}"),
            (MitigationMode::Enforce, _) => format!("attacks are removed at once, whatever is known here; {rules}"),
        }
    }
}

fn state_of(live: &Live) -> &'static str {
    match (&live.failed, live.wanted.rule.action) {
        (Some(_), _) => "failed",
        (None, _) if matches!(live.owner, Owner::Decision(id) if memory::is_armed(id)) => "armed",
        (None, Action::Count) => "shadow",
        (None, _) => "enforcing",
    }
}

/// Fills in what is measured.
fn measured(status: RuleStatus, live: Option<&Live>) -> RuleStatus {
    let Some(live) = live else { return status };
    let total = live.total;
    RuleStatus {
        packets: total.packets,
        bytes: total.bytes,
        dropped: total.dropped,
        dropped_bytes: total.dropped_bytes,
        pps: live.pps,
        problem: live.failed.clone(),
        ..status
    }
}

fn of_operator(rule: &OperatorRule, wanted: &Wanted, live: Option<&Live>, now_ns: u64) -> RuleStatus {
    let state = match (live, rule.action) {
        (Some(live), _) if live.failed.is_some() => "failed",
        (_, Action::Count | Action::Capture) => "counting",
        _ => "enforcing",
    };
    let status = RuleStatus {
        id: rule.id,
        since_unix: Some(rule.since_unix),
        ends_s: Some(rule.remaining(now_ns).as_secs()),
        ..RuleStatus::new(&wanted.rule, state)
    };
    measured(status, live)
}

fn of_incident(incident: &Incident, rule: &RuleReport, live: Option<&Live>) -> RuleStatus {
    let status = RuleStatus {
        id: rule.id,
        matches: rule.matches.clone(),
        action: rule.action.clone(),
        origin: Origin::Incident(incident.id.clone()),
        reason: rule.reason.clone(),
        state: if rule.state == Phase::Shadow { "shadow" } else { "enforcing" }.to_owned(),
        packets: rule.measured.packets,
        dropped: rule.measured.dropped,
        dropped_bytes: rule.measured.dropped_bytes,
        pps: rule.measured.pps,
        predicted: Some(rule.predicted),
        measured: Some(rule.measured),
        collateral: Some(rule.measured.collateral),
        ..RuleStatus::default()
    };
    measured(status, live)
}

fn of_armed(armed: &Armed, live: &Live) -> RuleStatus {
    let status = RuleStatus {
        id: armed.id,
        since_unix: u64::try_from(armed.since.unix_ms / 1000).ok(),
        ends_s: Some(armed.ends_s),
        vectors: armed.vectors.clone(),
        collateral: Some(armed.collateral),
        ..RuleStatus::new(&live.wanted.rule, state_of(live))
    };
    measured(status, Some(live))
}

fn of_earlier_life(live: &Live, now_ns: u64) -> RuleStatus {
    let ends_s = live.ends_ns.map(|ends_ns| ends_ns.saturating_sub(now_ns) / 1_000_000_000);
    let state = if live.failed.is_some() { "failed" } else { "inherited" };
    let status = RuleStatus { id: live.wanted.id, ends_s, ..RuleStatus::new(&live.wanted.rule, state) };
    measured(status, Some(live))
}
