//! What would happen if an attack were so many times the present load: the same state machine against a network
//! that is imagined, in which planes do as they say.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    Attack, Filter, Ladder, LadderMode, Turn, Upstream,
    model::{Load, Plane, World},
};
use crate::{
    decide::{Now, mitigate::Exempt},
    rule::{Action, FlowMatch, Ranges},
};

/// How long is looked ahead, milliseconds.
const AHEAD_MS: u64 = 30 * 60_000;
/// How long the imagined attack lasts, milliseconds.
const LASTS_MS: u64 = 10 * 60_000;
/// A tick, milliseconds.
const TICK_MS: u64 = 200;
/// An operator is imagined to approve after this time, milliseconds.
const ANSWER_MS: u64 = 60_000;
/// Moves that are told of one load.
const TOLD: usize = 40;

/// The present, as a plan begins with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Present {
    /// Bits a second that arrive now.
    pub used_bps: f64,
    /// What the uplink carries.
    pub capacity_bps: f64,
    /// The open incident.
    pub attack: Option<Attack>,
    /// The busiest address, and what is exempt.
    pub busiest: Option<IpAddr>,
    /// See [`Self::busiest`].
    pub exempt: Exempt,
}

/// A move that would be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Would {
    /// Seconds after the attack begins.
    pub at_s: f64,
    /// The rung.
    pub rung: String,
    /// What kind of move.
    pub turn: Turn,
    /// What and why.
    pub what: String,
}

/// What would happen at one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How many times the present load is sent.
    pub factor: u32,
    /// Bits a second of that.
    pub sent_bps: f64,
    /// How full the uplink would be without the ladder: above 1 it overflows.
    pub utilisation: f64,
    /// Seconds in which it would be full all the same.
    pub full_s: f64,
    /// Victims' seconds in black holes.
    pub black_hole_s: f64,
    /// The moves, in order.
    pub moves: Vec<Would>,
    /// Moves that are left out.
    pub left_out: usize,
}

/// Returns what would happen at each load, and what was assumed.
pub fn plans(upstream: &Upstream, present: &Present, factors: &[u32]) -> (Vec<Plan>, Vec<String>) {
    let mut assumed = vec![
        format!(
            "the attack begins at once, lasts {} minutes, and planes do what they say in their activation time",
            LASTS_MS / 60_000
        ),
        format!("an operator approves what is asked {} s after it is asked", ANSWER_MS / 1000),
    ];
    if present.attack.as_ref().is_none_or(|attack| attack.filters.is_empty()) {
        assumed.push("a rule is found that matches all of the attack and can be said upstream".to_owned());
    }
    if upstream.policy.mode != LadderMode::On {
        assumed.push("`ladder.mode` is \"on\"".to_owned());
    }
    (factors.iter().map(|factor| plan(upstream, present, *factor)).collect(), assumed)
}

fn plan(upstream: &Upstream, present: &Present, factor: u32) -> Plan {
    let mut upstream = upstream.clone();
    upstream.policy.mode = LadderMode::On;
    let planes: BTreeMap<String, Plane> =
        upstream.policy.rungs.iter().map(|rung| (rung.plane().to_owned(), Plane::Obeys(rung.activation_ms))).collect();
    let sent = present.used_bps * f64::from(factor);
    let now_attack = present.attack.as_ref().map_or(0.0, |attack| attack.bps.min(present.used_bps));
    let clean = present.used_bps - now_attack;
    let mut world = World::new(present.capacity_bps, Load { attack_bps: 0.0, clean_bps: clean }, planes);
    world.exempt = present.exempt.clone();
    let real = present.attack.as_ref();
    world.victims =
        real.map(|attack| attack.victims.clone()).filter(|victims| !victims.is_empty()).unwrap_or_else(|| {
            let own = present.exempt.own.iter().copied();
            let mut somebody = present.busiest.into_iter().chain(own);
            let inside = |address: &IpAddr| upstream.space.iter().any(|net| net.contains(address));
            let somebody = somebody.find(inside).or_else(|| upstream.space.first().map(|net| net.addr()));
            let somebody = somebody.or(present.busiest).or_else(|| present.exempt.own.first().copied());
            somebody.into_iter().map(|victim| (victim, 1.0)).collect()
        });
    world.filters =
        real.map(|attack| attack.filters.clone()).filter(|filters| !filters.is_empty()).unwrap_or_else(|| {
            // Of a kind that is often seen: answers of time servers, longer than a client's.
            let matches = FlowMatch {
                proto: Ranges::one(17),
                sport: Ranges::one(123),
                len: Ranges::range(200, 1500),
                ..FlowMatch::default()
            };
            vec![Filter { matches, action: Action::Drop, share: 1.0, rule: 1 }]
        });
    let mut ladder = Ladder::default();
    ladder.set(upstream.clone());
    let mut result = Plan {
        factor,
        sent_bps: sent,
        utilisation: sent / present.capacity_bps.max(1.0),
        full_s: 0.0,
        black_hole_s: 0.0,
        moves: Vec::new(),
        left_out: 0,
    };
    // Two seconds of the present, then the attack.
    for _ in 0..10 {
        world.tick(&mut ladder, TICK_MS);
    }
    let begins = world.now;
    let mut asked: BTreeMap<u32, u64> = BTreeMap::new();
    for tick in 0..AHEAD_MS / TICK_MS {
        let at_ms = tick * TICK_MS;
        world.load.attack_bps = if at_ms < LASTS_MS { sent - clean } else { 0.0 };
        let mut moves = world.tick(&mut ladder, TICK_MS);
        moves.extend(answer(&mut ladder, world.now, &mut asked));
        for made in moves {
            let at_s = world.now.mono_ns.saturating_sub(begins.mono_ns) as f64 / 1e9;
            let would = Would { at_s, rung: made.rung, turn: made.turn, what: made.what };
            if result.moves.len() < TOLD { result.moves.push(would) } else { result.left_out += 1 }
        }
        if at_ms >= LASTS_MS && !ladder.is_awake() {
            break;
        }
    }
    (result.full_s, result.black_hole_s) = (world.full_ms as f64 / 1e3, world.black_ms as f64 / 1e3);
    result
}

/// Approves what was asked for long enough ago.
fn answer(ladder: &mut Ladder, now: Now, asked: &mut BTreeMap<u32, u64>) -> Vec<super::Move> {
    let waiting: Vec<u32> =
        ladder.view().rungs.iter().filter(|rung| rung.state == "asking").filter_map(|rung| rung.id).collect();
    asked.retain(|id, _| waiting.contains(id));
    let mut moves = Vec::new();
    for id in waiting {
        let since = *asked.entry(id).or_insert(now.mono_ns);
        if now.mono_ns.saturating_sub(since) >= ANSWER_MS * 1_000_000 {
            moves.extend(ladder.approve(id, now).unwrap_or_default());
        }
    }
    moves
}
