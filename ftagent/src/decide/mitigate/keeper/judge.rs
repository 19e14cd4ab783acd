//! What becomes of rules from tick to tick.

use std::collections::BTreeMap;

use super::{Keeper, Scene, acts, is_wanted, keep, show, tell};
use crate::{
    decide::{
        Event, Incident,
        mitigate::{Phase, life::Life},
    },
    rule::FlowMatch,
};

/// So long no rule is made against holders of connections after the kernel had no room for one, nanoseconds.
const REFUSED_NS: u64 = 60_000_000_000;
/// So long nothing else is looked for after the kernel did not take a rule, nanoseconds.
const AFTER_REFUSAL_NS: u64 = 1_000_000_000;

impl Keeper {
    /// Takes a rule back because an operator says so: no other drops what it matched in this incident, and it is not
    /// remembered.
    pub fn withdraw_for(&mut self, id: u32, by: &str) {
        if let Some(life) = self.lives.iter_mut().find(|life| life.id == id) {
            life.withdrawn_by = Some(by.to_owned());
        }
        self.memory.disarm(id);
    }

    /// Bars what an operator took back from this incident.
    pub(super) fn bar(&mut self, matches: FlowMatch) {
        if !self.barred.contains(&matches) {
            self.barred.push(matches);
        }
    }

    /// Moves rules on: to force, or to their end. Returns those that cost too much, too.
    pub(super) fn judge(&mut self, incident: &mut Incident, scene: &Scene<'_>) -> (Vec<Event>, Vec<Life>) {
        let (now, now_ns) = (scene.now, scene.now.mono_ns);
        let acts = acts(incident, scene);
        let live = self.live.count();
        let (mut lines, mut holders) = (Vec::new(), BTreeMap::<&str, usize>::new());
        for life in &mut self.lives {
            let idle = now_ns.saturating_sub(life.busy_ns);
            let what = if let Some(by) = &life.withdrawn_by {
                let what =
                    format!("withdrawn by {by}, and nothing else drops what it matched: {}", life.choice.matches);
                life.withdraw();
                what
            } else if life.refused {
                life.withdraw();
                "taken back: the kernel does not take it, `ftagent status` says why".to_owned()
            } else if life.costs_too_much(live) {
                life.withdraw();
                format!("withdrawn: it matches {} conversations from before the attack", life.benign.count())
            } else if idle >= life.patience_ns() {
                keep(&mut self.memory, incident, life, now);
                life.phase = Phase::Ended;
                "ended: it matches nothing any more".to_owned()
            } else if life.phase == Phase::Shadow && acts && life.measured.packets > 0 && life.since_ns < now_ns {
                life.enforce(scene.now);
                format!("enforced: {}: {}", life.choice.matches, life.reason())
            } else if life.phase == Phase::Enforcing && !acts {
                life.phase = Phase::Shadow;
                "only counts from now on".to_owned()
            } else {
                continue;
            };
            self.changed = true;
            match (life.holder, life.phase) {
                (true, Phase::Ended) => *holders.entry("ended: they match nothing any more").or_default() += 1,
                (true, Phase::Enforcing) => *holders.entry("are in force").or_default() += 1,
                (true, Phase::Shadow) => *holders.entry("only count from now on").or_default() += 1,
                (true, Phase::Withdrawn) if life.refused => {
                    *holders.entry("taken back: the kernel does not take them").or_default() += 1;
                    // Nor others of the kind, as long as there is no room.
                    self.held_ns = now_ns + REFUSED_NS;
                }
                (false, _) | (true, Phase::Withdrawn) => lines.push(format!("rule {} {what}", life.id)),
            }
        }
        lines.extend(holders.into_iter().map(|(what, rules)| format!("{rules} rules by source {what}")));
        let mut done: Vec<Life> = self.lives.extract_if(.., |life| !is_wanted(life.phase)).collect();
        done.iter().for_each(|life| show(incident, life));
        done.retain(|life| life.phase == Phase::Withdrawn);
        for life in &done {
            self.refuse(life.choice.matches.clone());
            if life.withdrawn_by.is_some() {
                self.bar(life.choice.matches.clone());
            }
            if life.refused {
                // What takes the room may go: it is still what worked.
                self.pause_ns = self.pause_ns.max(AFTER_REFUSAL_NS);
                continue;
            }
            self.memory.forget(&life.choice.matches);
            self.spare(&life.touched);
        }
        // Of what the kernel does not take there is nothing narrower, and an operator knows what he does.
        done.retain(|life| !life.refused && life.withdrawn_by.is_none());
        (tell(incident, now, lines), done)
    }
}
