//! What reaches the decisions beside ticks, as data: whoever replays a stretch of time gives it again.

use ftagent_common::TrafficClass;
use serde::{Deserialize, Serialize};

use super::{
    Decider, Event, Now,
    incident::Named,
    ladder::{Report, Uplink, Upstream},
    mitigate::{Exempt, Mode},
};
use crate::rule::FlowMatch;

/// Something that somebody did to the core between two ticks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// An operator took the present load for normal.
    Accept(Now),
    /// What was learned was forgotten, of the class of this name or of all.
    Reset(Option<String>),
    /// What no rule may match, and whether it acts.
    Bounds {
        /// See [`Decider::set_exempt`].
        exempt: Exempt,
        /// See [`Decider::set_mode`].
        mode: Mode,
    },
    /// An operator takes back a rule of the open incident, or a signature that is armed.
    WithdrawRule {
        /// Its number.
        id: u32,
        /// Who.
        by: String,
    },
    /// The rules of operators: see [`Decider::watch`].
    Watch(Vec<WatchedRule>),
    /// The ladder's policy, and what it may be about.
    Upstream(Box<Upstream>),
    /// How full the uplink is.
    Uplink(Uplink),
    /// What planes found.
    Planes(Vec<Report>),
    /// An operator approves what the ladder asks for, or puts back what was taken back, by its number.
    Approve {
        /// The number of a rung or of one of its steps.
        step: u32,
    },
    /// An operator denies what the ladder asks for.
    Deny {
        /// See [`Self::Approve`].
        step: u32,
    },
    /// An operator takes back what is upstream, for the rest of the attack.
    Withdraw {
        /// See [`Self::Approve`]; absent: everything.
        step: Option<u32>,
    },
    /// What patterns of indicators say of the open incident's packets.
    Tool {
        /// The incident; where another is open, this comes too late.
        incident: String,
        /// What made them; absent: nothing that a pattern names does most of them any more.
        named: Option<Named>,
    },
}

/// An operator's rule whose cost is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchedRule {
    /// Its number.
    pub id: u32,
    /// What it matches.
    pub matches: FlowMatch,
    /// It only counts.
    pub counts: bool,
}

impl Decider {
    /// Takes an input, and returns what was decided because of it.
    pub fn put(&mut self, input: Input) -> Vec<Event> {
        match input {
            Input::Accept(now) => return self.accept(now),
            // A class that this version does not have has nothing to forget.
            Input::Reset(Some(name)) => {
                TrafficClass::from_name(&name).into_iter().for_each(|class| self.reset(Some(class)));
            }
            Input::Reset(None) => self.reset(None),
            Input::Bounds { exempt, mode } => {
                self.set_exempt(exempt);
                self.set_mode(mode);
            }
            Input::WithdrawRule { id, by } => self.withdraw_rule(id, &by),
            Input::Watch(rules) => {
                self.watch(rules.into_iter().map(|rule| (rule.id, rule.matches, rule.counts)));
            }
            Input::Upstream(upstream) => return self.set_upstream(*upstream),
            Input::Uplink(uplink) => self.note_uplink(uplink),
            Input::Planes(reports) => self.note_reports(reports),
            Input::Approve { step } => return self.operate(|ladder, now| ladder.approve(step, now)),
            Input::Deny { step } => return self.operate(|ladder, now| ladder.deny(step, now)),
            Input::Tool { incident, named } => return self.name_tool(&incident, named),
            Input::Withdraw { step } => return self.operate(|ladder, now| ladder.withdraw(step, now)),
        }
        Vec::new()
    }
}
